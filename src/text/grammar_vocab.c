/* grammar_vocab.c - the vocabulary as a trie in depth-first order, and what inside a JSON string is
 * always the same: which tokens stay in it, and where in the trie it ends.
 */
#include <stdlib.h>

#include "text/grammar_impl.h"

enum { TOKENS_MAX = 1 << 24, TOKEN_BYTES_MAX = 1 << 28 };

/* One token's bytes while the trie is built. */
struct entry {
    const uint8_t *p;
    uint32_t n;
    int32_t id;
};

static int by_bytes(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;
    int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    if (c) return c;
    if (a->n != b->n) return a->n < b->n ? -1 : 1;
    return a->id < b->id ? -1 : 1;
}

static int by_name(const void *x, const void *y)
{
    const struct str *a = x, *b = y;
    int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    if (c) return c;
    return a->n < b->n ? -1 : a->n > b->n;
}

/* All tokens' bytes in one buffer, special ones between their marks. The entries point into it. */
static int collect(const struct grammar_vocab_desc *d, struct buf *bytes, struct entry *entries,
                   size_t *n_entries, struct sl_error *e)
{
    size_t *at = xmalloc((d->n_vocab + 1) * sizeof *at), n = 0;
    for (size_t i = 0; i < d->n_vocab; i++) {
        struct str s = d->bytes(d->arg, (int32_t)i);
        bool is_special = d->is_special && d->is_special(d->arg, (int32_t)i);
        if (s.n == 0 || s.n + 2 > TRIE_DEPTH) continue;
        if (memchr(s.p, SPECIAL_BEGIN, s.n) || memchr(s.p, SPECIAL_END, s.n))
            continue; /* no UTF-8 */
        at[n] = bytes->n;
        if (is_special) buf_putc(bytes, (char)SPECIAL_BEGIN);
        buf_put_str(bytes, s);
        if (is_special) buf_putc(bytes, (char)SPECIAL_END);
        entries[n] = (struct entry){.n = (uint32_t)(bytes->n - at[n]), .id = (int32_t)i};
        n++;
    }
    for (size_t i = 0; i < n; i++) entries[i].p = (const uint8_t *)bytes->p + at[i];
    free(at);
    *n_entries = n;
    if (bytes->overflow) return sl_fail(e, SL_EINVAL, "the vocabulary's texts are too large");
    return 0;
}

static bool is_name(const struct entry *e)
{
    return e->p[0] == SPECIAL_BEGIN;
}

static void names_collect(struct grammar_vocab *v, const struct entry *entries, size_t n)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        if (is_name(&entries[i])) v->n_names++, total += entries[i].n - 2;
    v->names = xcalloc(v->n_names ? v->n_names : 1, sizeof *v->names);
    v->name_bytes = xmalloc(total ? total : 1);
    size_t k = 0, at = 0;
    for (size_t i = 0; i < n; i++) {
        if (!is_name(&entries[i])) continue;
        memcpy(v->name_bytes + at, entries[i].p + 1, entries[i].n - 2);
        v->names[k++] = (struct str){v->name_bytes + at, entries[i].n - 2};
        at += entries[i].n - 2;
    }
    v->n_names = k;
    qsort(v->names, k, sizeof *v->names, by_name);
}

/* Nodes of the sorted entries: each adds those past what it shares with the one before. */
static void trie_fill(struct grammar_vocab *v, const struct entry *entries, size_t n)
{
    uint32_t path[TRIE_DEPTH + 1] = {0}, n_nodes = 1, depth = 0;
    v->token[0] = -1;
    for (size_t i = 0; i < n; i++) {
        const struct entry *e = &entries[i];
        uint32_t shared = 0;
        if (i)
            while (shared < e->n && shared < e[-1].n && e->p[shared] == e[-1].p[shared]) shared++;
        for (; depth > shared; depth--) v->after[path[depth]] = n_nodes;
        for (; depth < e->n; n_nodes++) {
            v->byte[n_nodes] = e->p[depth];
            v->parent[n_nodes] = path[depth];
            path[++depth] = n_nodes;
            v->depth[n_nodes] = (uint8_t)depth;
            v->token[n_nodes] = -1;
        }
        uint32_t at = path[depth];
        v->node_of[e->id] = at;
        v->same[e->id] = v->token[at];
        v->token[at] = e->id;
    }
    for (; depth > 0; depth--) v->after[path[depth]] = n_nodes;
    v->after[0] = v->n_nodes = n_nodes;
    for (uint32_t i = n_nodes; --i > 0;) {
        uint8_t *height = &v->height[v->parent[i]];
        if (v->height[i] >= *height) *height = (uint8_t)(v->height[i] + 1);
    }
}

unsigned byte_group(uint8_t b)
{
    if (b >= 0x80)
        return b < 0xC2 || b > 0xF4 ? GROUP_BAD : b < 0xE0 ? GROUP_2 : b < 0xF0 ? GROUP_3 : GROUP_4;
    if (b < 0x20) return 0;
    if (b >= '0' && b <= '9') return 1 + (b == '0');
    if ((b | 32) >= 'a' && (b | 32) <= 'z') return 3 + 2 * (b < 'a') + ((b | 32) > 'f');
    unsigned punctuation = 7; /* the others one each: 34 groups */
    for (uint8_t c = 0x20; c < b; c++)
        punctuation += !(c >= '0' && c <= '9') && !((c | 32) >= 'a' && (c | 32) <= 'z');
    return punctuation;
}

/* One byte further in UTF-8: how many bytes must still come, the first of them with limits. */
enum { AT_START = 0, NEED_1, NEED_2, NEED_3, AFTER_E0, AFTER_ED, AFTER_F0, AFTER_F4, NOT_UTF8 };
static uint8_t utf8_after(uint8_t state, uint8_t b)
{
    static const struct {
        uint8_t lo, hi, next;
    } rows[] = {[NEED_1] = {0x80, 0xBF, AT_START}, [NEED_2] = {0x80, 0xBF, NEED_1},
                [NEED_3] = {0x80, 0xBF, NEED_2},   [AFTER_E0] = {0xA0, 0xBF, NEED_1},
                [AFTER_ED] = {0x80, 0x9F, NEED_1}, [AFTER_F0] = {0x90, 0xBF, NEED_2},
                [AFTER_F4] = {0x80, 0x8F, NEED_2}, [NOT_UTF8] = {1, 0, NOT_UTF8}};
    if (state != AT_START)
        return b >= rows[state].lo && b <= rows[state].hi ? rows[state].next : NOT_UTF8;
    if (b < 0x80) return AT_START;
    if (b < 0xC2 || b > 0xF4) return NOT_UTF8;
    if (b < 0xE0) return NEED_1;
    if (b < 0xF0) return b == 0xE0 ? AFTER_E0 : b == 0xED ? AFTER_ED : NEED_2;
    return b == 0xF0 ? AFTER_F0 : b == 0xF4 ? AFTER_F4 : NEED_3;
}

/* For each node the groups of bytes below it, and whether what is below is UTF-8 when read from
 * there: state[d][s] is where the bytes from depth s to d have led. */
static void groups_fill(struct grammar_vocab *v)
{
    uint8_t(*state)[TRIE_DEPTH + 1] = xcalloc(TRIE_DEPTH + 1, sizeof *state);
    uint32_t path[TRIE_DEPTH + 1] = {0};
    for (uint32_t i = 1; i < v->n_nodes; i++) {
        uint32_t d = v->depth[i];
        unsigned group = byte_group(v->byte[i]);
        path[d] = i;
        state[d][d] = AT_START;
        for (uint32_t s = 0; s < d; s++) {
            state[d][s] = utf8_after(state[d - 1][s], v->byte[i]);
            if (group != GROUP_BAD) v->below[path[s]] |= 1ull << group;
            if (state[d][s] == NOT_UTF8) v->below[path[s]] |= 1ull << GROUP_BAD;
        }
    }
    free(state);
}

static void order_fill(struct grammar_vocab *v)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < v->n_nodes; i++) {
        v->ordinal[i] = n;
        for (int32_t id = v->token[i]; id >= 0; id = v->same[id]) v->in_order[n++] = id;
    }
    v->ordinal[v->n_nodes] = n;
}

static void set_token(const struct grammar_vocab *v, uint32_t *words, int32_t id)
{
    for (; id >= 0; id = v->same[id]) words[id / 32] |= 1u << (id % 32);
}

/* The number of a state inside the string; a new one is remembered by the bytes that led to it from
 * between characters. Those that take too many bytes are left out. */
static int8_t string_state(struct grammar_vocab *v, re_id *states, re_id r, const uint8_t *path,
                           uint32_t n_path)
{
    for (int i = 0; i <= v->n_tails; i++)
        if (states[i] == r) return (int8_t)i;
    if (v->n_tails + 1 == STRING_STATES || n_path > sizeof v->tail_path[0]) return -1;
    int i = ++v->n_tails;
    states[i] = r;
    memcpy(v->tail_path[i], path, n_path);
    v->tail_length[i] = (uint8_t)n_path;
    return (int8_t)i;
}

/* Walk the trie as the rest of a JSON string. */
static int string_walk(struct grammar_vocab *v, struct grammar *g)
{
    re_id inside = re_cat(g, re_rep(g, json_char(g), 0, RE_INF), re_byte(g, '"'));
    re_id states[STRING_STATES] = {inside}, stack[TRIE_DEPTH + 1] = {inside};
    uint32_t since[TRIE_DEPTH + 1] = {0}; /* depth where the character at hand began */
    uint8_t path[TRIE_DEPTH + 1];
    uint32_t cap = 0;
    v->string_state[0] = 0;
    for (uint32_t i = 1; i < v->n_nodes;) {
        uint32_t d = v->depth[i];
        path[d] = v->byte[i];
        re_id r = stack[d] = re_step(g, stack[d - 1], v->byte[i]);
        v->string_state[i] = -1;
        if (r == RE_NONE) {
            memset(v->string_state + i, -1, v->after[i] - i);
            i = v->after[i];
            continue;
        }
        set_token(v, v->string_words, v->token[i]);
        if (r == RE_EMPTY) {
            if (v->n_exits == cap)
                v->exits = xrealloc(v->exits, (cap = cap ? cap * 2 : 256) * sizeof *v->exits);
            if (v->after[i] > i + 1) v->exits[v->n_exits++] = i;
            memset(v->string_state + i, -1, v->after[i] - i);
            i = v->after[i];
            continue;
        }
        since[d] = r == inside ? d : since[d - 1];
        v->string_state[i] = string_state(v, states, r, path + since[d] + 1, d - since[d]);
        i++;
    }
    return g->failed ? SL_ENOMEM : 0;
}

static int string_facts(struct grammar_vocab *v)
{
    struct grammar *g = xcalloc(1, sizeof *g);
    g->max_bytes = 64u << 20;
    g->max_steps = UINT64_MAX;
    g->memo = xcalloc(MEMO_SLOTS, sizeof *g->memo);
    re_begin(g);
    int code = string_walk(v, g);
    struct pool *pools[] = {&g->nodes, &g->lists, &g->sets, &g->mods, &g->scratch};
    for (size_t i = 0; i < sizeof pools / sizeof *pools; i++) pool_free(g, pools[i]);
    table_free(g, &g->node_table);
    table_free(g, &g->set_table);
    free(g->memo);
    free(g);
    return code;
}

int grammar_vocab_new(struct grammar_vocab **out, const struct grammar_vocab_desc *d,
                      struct sl_error *e)
{
    *out = NULL;
    if (d->n_vocab > TOKENS_MAX) return sl_fail(e, SL_EINVAL, "a vocabulary of over 2^24 tokens");
    struct buf bytes = buf_make(TOKEN_BYTES_MAX);
    struct entry *entries = xmalloc((d->n_vocab + 1) * sizeof *entries);
    size_t n = 0;
    int code = collect(d, &bytes, entries, &n, e);
    if (code < 0) goto out;
    if (n) qsort(entries, n, sizeof *entries, by_bytes);
    struct grammar_vocab *v = xcalloc(1, sizeof *v);
    size_t room = bytes.n + 1; /* at most so many nodes */
    atomic_init(&v->refs, 1);
    v->n_vocab = d->n_vocab;
    v->n_words = (d->n_vocab + 31) / 32;
    v->byte = xcalloc(room, 1);
    v->depth = xcalloc(room, 1);
    v->height = xcalloc(room, 1);
    v->after = xcalloc(room, sizeof *v->after);
    v->parent = xcalloc(room, sizeof *v->parent);
    v->token = xcalloc(room, sizeof *v->token);
    v->string_state = xcalloc(room, 1);
    v->below = xcalloc(room, sizeof *v->below);
    v->ordinal = xcalloc(room + 1, sizeof *v->ordinal);
    v->in_order = xcalloc(d->n_vocab + 1, sizeof *v->in_order);
    v->same = xcalloc(d->n_vocab + 1, sizeof *v->same);
    v->node_of = xcalloc(d->n_vocab + 1, sizeof *v->node_of);
    v->string_words = xcalloc(v->n_words + 1, sizeof *v->string_words);
    v->eos = xmalloc((d->n_eos + 1) * sizeof *v->eos);
    for (size_t i = 0; i < d->n_eos; i++)
        if (d->eos[i] >= 0 && (size_t)d->eos[i] < d->n_vocab) v->eos[v->n_eos++] = d->eos[i];
    names_collect(v, entries, n);
    trie_fill(v, entries, n);
    groups_fill(v);
    order_fill(v);
    v->bytes = sizeof *v + room * 28 + d->n_vocab * 12 + v->n_words * 4 + bytes.n;
    code = string_facts(v);
    if (code < 0) {
        sl_fail(e, code, "no room for the vocabulary's tables");
        grammar_vocab_unref(v);
    } else {
        *out = v;
    }
out:
    free(entries);
    buf_free(&bytes);
    return code;
}

size_t vocab_path(const struct grammar_vocab *v, int32_t token, uint8_t path[TRIE_DEPTH])
{
    uint32_t node = v->node_of[token];
    size_t depth = node ? v->depth[node] : 0;
    for (size_t d = depth; d > 0; node = v->parent[node]) path[--d] = v->byte[node];
    return depth;
}

const struct str *vocab_name_at(const struct grammar_vocab *v, struct str s, size_t at)
{
    const struct str *best = NULL;
    size_t lo = 0, hi = v->n_names;
    while (lo < hi) { /* the first name that begins with this byte, or a larger one */
        size_t mid = (lo + hi) / 2;
        if ((uint8_t)v->names[mid].p[0] < (uint8_t)s.p[at])
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < v->n_names && v->names[lo].p[0] == s.p[at]; lo++) {
        const struct str *name = &v->names[lo];
        if (name->n <= s.n - at && memcmp(name->p, s.p + at, name->n) == 0 &&
            (!best || name->n > best->n))
            best = name;
    }
    return best;
}

void grammar_vocab_unref(struct grammar_vocab *v)
{
    if (!v || atomic_fetch_sub_explicit(&v->refs, 1, memory_order_acq_rel) > 1) return;
    void *owned[] = {v->byte,       v->depth,        v->height, v->after,        v->parent,
                     v->token,      v->same,         v->eos,    v->node_of,      v->names,
                     v->name_bytes, v->string_words, v->exits,  v->string_state, v->below,
                     v->ordinal,    v->in_order};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    free(v);
}

size_t grammar_vocab_words(const struct grammar_vocab *v)
{
    return v->n_words;
}

size_t grammar_vocab_bytes(const struct grammar_vocab *v)
{
    return v->bytes;
}
