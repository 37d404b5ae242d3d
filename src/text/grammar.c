/* grammar.c - grammars and states: what the other grammar_*.c files make, put behind grammar.h. */
#include "text/grammar.h"

#include <stdlib.h>

#include "base/utf8.h"
#include "text/grammar_impl.h"

enum { SOURCE_MAX = 256 << 10, BYTES_MAX = 32 << 20 };
/* While compiling; and for one operation on a state, some 50 ms at the worst. */
enum { COMPILE_STEPS = 4000000, STATE_STEPS = 1000000 };

/* ------------------------------------------------------------------ life of a grammar */

int grammar_failure(const struct grammar *g, struct sl_error *e)
{
    switch ((enum grammar_fail)g->failed) {
    case FAIL_BYTES:
        return sl_fail(e, SL_ETOOLARGE, "the grammar needs more than %zu bytes", g->max_bytes);
    case FAIL_STEPS:
        return sl_fail(e, SL_ETOOLARGE, "the grammar takes too long to compile");
    case FAIL_DEPTH:
        return sl_fail(e, SL_ETOOLARGE, "the grammar nests too deeply");
    case FAIL_NO:
        break;
    }
    return sl_fail(e, SL_EINTERNAL, "the grammar failed for no reason");
}

static struct grammar *grammar_new(struct grammar_vocab *v, const struct grammar_opts *o)
{
    struct grammar *g = xcalloc(1, sizeof *g);
    atomic_init(&g->refs, 1);
    g->max_bytes = o->max_bytes ? o->max_bytes : BYTES_MAX;
    g->max_steps = o->max_steps ? o->max_steps : COMPILE_STEPS;
    g->memo = xcalloc(MEMO_SLOTS, sizeof *g->memo);
    g->bytes = sizeof *g + MEMO_SLOTS * sizeof *g->memo;
    g->vocab = v;
    if (v) atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
    re_begin(g);
    parts_begin(g);
    return g;
}

static void grammar_free(struct grammar *g)
{
    struct pool *pools[] = {&g->nodes, &g->lists, &g->sets,    &g->mods,
                            &g->parts, &g->rules, &g->scratch, &g->part_lists};
    if (g->vocab) mask_forget(g);
    for (size_t i = 0; i < sizeof pools / sizeof *pools; i++) pool_free(g, pools[i]);
    confs_free(g);
    table_free(g, &g->node_table);
    table_free(g, &g->set_table);
    table_free(g, &g->part_table);
    grammar_vocab_unref(g->vocab);
    free(g->memo);
    free(g);
}

void grammar_ref(struct grammar *g)
{
    atomic_fetch_add_explicit(&g->refs, 1, memory_order_relaxed);
}

void grammar_unref(struct grammar *g)
{
    if (!g || atomic_fetch_sub_explicit(&g->refs, 1, memory_order_acq_rel) > 1) return;
    grammar_free(g);
}

size_t grammar_bytes(const struct grammar *g)
{
    return g->bytes;
}

size_t grammar_bytes_max(const struct grammar *g)
{
    return g->max_bytes;
}

size_t grammar_words(const struct grammar *g)
{
    return g->vocab ? g->vocab->n_words : 0;
}

/* The states inside a JSON string, in the numbering of the vocabulary. */
static void find_string_tails(struct grammar *g)
{
    const struct grammar_vocab *v = g->vocab;
    if (!v || !g->json_char) return;
    g->json_string = json_string(g, 0, RE_INF);
    for (int i = 1; i <= v->n_tails; i++) {
        re_id r = g->json_char;
        for (int k = 0; k < v->tail_length[i]; k++) r = re_step(g, r, v->tail_path[i][k]);
        g->string_tail[i] = r;
    }
}

/* All sets are known: places can be made. */
static int grammar_ready(struct grammar *g, part_id root, struct sl_error *e)
{
    g->root = root;
    find_string_tails(g);
    parts_finish(g);
    if (!g->failed && !part_at(g, root)->is_productive)
        return sl_fail(e, SL_ESCHEMA, "nothing can meet this grammar");
    re_classes(g);
    g->frozen_nodes = g->nodes.n;
    g->frozen_lists = g->lists.n;
    confs_begin(g);
    g->start = conf_of_kont(g, kont_make(g, root, part_at(g, root)->lo, part_at(g, root)->hi, 0));
    return g->failed ? grammar_failure(g, e) : 0;
}

/* The end of each compile function: g is handed out, or freed. */
static int finish(struct grammar **out, struct grammar *g, int code, part_id root,
                  struct sl_error *e)
{
    if (code == 0) code = g->failed ? grammar_failure(g, e) : grammar_ready(g, root, e);
    if (code < 0) {
        grammar_unref(g);
        g = NULL;
    }
    *out = g;
    return code;
}

static int check_source(struct str s, const struct grammar_opts *o, struct sl_error *e)
{
    size_t max = o->max_source ? o->max_source : SOURCE_MAX;
    if (s.n > max)
        return sl_fail(e, SL_ETOOLARGE, "the grammar's source is longer than %zu bytes", max);
    return utf8_valid(s.p, s.n) ? 0 : sl_fail(e, SL_ESCHEMA, "the grammar's source is not UTF-8");
}

/* ------------------------------------------------------------------ kinds */

int grammar_json_schema(struct grammar **out, const json_node *schema, struct grammar_vocab *v,
                        const struct grammar_opts *o, struct sl_error *e)
{
    part_id root = P_NEVER;
    *out = NULL;
    struct grammar *g = grammar_new(v, o);
    int code = schema_compile(g, schema, o, &root, e);
    return finish(out, g, code, root, e);
}

int grammar_json_object(struct grammar **out, struct grammar_vocab *v, const struct grammar_opts *o,
                        struct sl_error *e)
{
    part_id root = P_NEVER;
    struct grammar *g = grammar_new(v, o);
    int code = any_object_compile(g, o, &root, e);
    return finish(out, g, code, root, e);
}

int grammar_regex(struct grammar **out, struct str pattern, struct grammar_vocab *v,
                  const struct grammar_opts *o, struct sl_error *e)
{
    re_id r = RE_NONE;
    *out = NULL;
    TRY(check_source(pattern, o, e));
    struct grammar *g = grammar_new(v, o);
    int code = pattern_compile(g, pattern, PATTERN_WHOLE, &r, e);
    return finish(out, g, code, part_lex(g, r), e);
}

int grammar_choice(struct grammar **out, const struct str *texts, size_t n, struct grammar_vocab *v,
                   const struct grammar_opts *o, struct sl_error *e)
{
    *out = NULL;
    if (n == 0) return sl_fail(e, SL_ESCHEMA, "a choice needs at least one text");
    for (size_t i = 0; i < n; i++) TRY(check_source(texts[i], o, e));
    struct grammar *g = grammar_new(v, o);
    re_id *r = xmalloc(n * sizeof *r);
    for (size_t i = 0; i < n; i++) r[i] = re_literal(g, texts[i]);
    part_id root = part_lex(g, re_or(g, r, (uint32_t)n));
    free(r);
    return finish(out, g, 0, root, e);
}

int grammar_ebnf(struct grammar **out, struct str source, struct grammar_vocab *v,
                 const struct grammar_opts *o, struct sl_error *e)
{
    part_id root = P_NEVER;
    *out = NULL;
    TRY(check_source(source, o, e));
    struct grammar *g = grammar_new(v, o);
    int code = ebnf_compile(g, source, &root, e);
    return finish(out, g, code, root, e);
}

int grammar_tagged(struct grammar **out, const struct grammar_tags *t, struct grammar_vocab *v,
                   const struct grammar_opts *o, struct sl_error *e)
{
    part_id root = P_NEVER;
    struct grammar *g = grammar_new(v, o);
    int code = tagged_compile(g, t, o, &root, e);
    return finish(out, g, code, root, e);
}

int grammar_structural(struct grammar **out, const json_node *source, struct grammar_vocab *v,
                       const struct grammar_opts *o, struct sl_error *e)
{
    part_id root = P_NEVER;
    struct grammar *g = grammar_new(v, o);
    int code = structural_compile(g, source, o, &root, e);
    return finish(out, g, code, root, e);
}

/* ------------------------------------------------------------------ states */

void grammar_begin(struct grammar_state *s, struct grammar *g)
{
    grammar_ref(g);
    *s = (struct grammar_state){.g = g, .next = g->states, .config = g->start};
    if (g->states) g->states->prev = s;
    g->states = s;
}

void grammar_copy(struct grammar_state *s, const struct grammar_state *from)
{
    grammar_begin(s, from->g);
    s->config = from->config;
    s->is_ended = from->is_ended;
}

void grammar_end(struct grammar_state *s)
{
    struct grammar *g = s->g;
    if (!g) return;
    if (s->prev)
        s->prev->next = s->next;
    else
        g->states = s->next;
    if (s->next) s->next->prev = s->prev;
    *s = (struct grammar_state){0};
    grammar_unref(g);
}

/* An operation begins: its steps are counted, and tables that have grown are emptied first. */
static void operation(struct grammar *g)
{
    g->max_steps = g->steps + STATE_STEPS;
    if (g->bytes > g->max_bytes / 4 * 3 || g->failed) grammar_compact(g);
}

bool grammar_mask(struct grammar_state *s, uint32_t *words)
{
    struct grammar *g = s->g;
    for (int attempt = 0; attempt < 2 && !s->is_ended; attempt++) { /* again with empty tables */
        operation(g);
        bool any = mask_write(g, s->config, words);
        if (!g->failed) return any;
    }
    memset(words, 0, g->vocab->n_words * sizeof *words);
    return false;
}

static bool step_bytes(struct grammar_state *s, const uint8_t *p, size_t n)
{
    struct grammar *g = s->g;
    for (int attempt = 0; attempt < 2; attempt++) {
        operation(g);
        conf_id c = s->config;
        for (size_t i = 0; i < n && c != CONF_DEAD; i++) c = conf_step(g, c, p[i]);
        if (g->failed) continue;
        if (c != CONF_DEAD) s->config = c;
        return c != CONF_DEAD;
    }
    return false;
}

bool grammar_accept(struct grammar_state *s, int32_t token)
{
    const struct grammar_vocab *v = s->g->vocab;
    if (s->is_ended || token < 0 || (size_t)token >= v->n_vocab) return false;
    for (size_t i = 0; i < v->n_eos; i++) {
        if (v->eos[i] != token || !grammar_may_end(s)) continue;
        s->is_ended = true;
        return true;
    }
    uint8_t path[TRIE_DEPTH];
    size_t n = vocab_path(v, token, path);
    return n && step_bytes(s, path, n);
}

bool grammar_accept_bytes(struct grammar_state *s, struct str bytes)
{
    return !s->is_ended && step_bytes(s, (const uint8_t *)bytes.p, bytes.n);
}

bool grammar_may_end(struct grammar_state *s)
{
    return !s->is_ended && conf_at(s->g, s->config)->may_end;
}

bool grammar_must_end(struct grammar_state *s)
{
    return grammar_may_end(s) && conf_at(s->g, s->config)->n == 0;
}

void grammar_forced(struct grammar_state *s, size_t max, struct buf *out)
{
    struct grammar *g = s->g;
    operation(g);
    conf_id c = s->config;
    while (!s->is_ended && max-- > 0 && !g->failed && !conf_at(g, c)->may_end) {
        int only = -1;
        conf_id next = CONF_DEAD;
        for (int b = 0; b < 256; b++) {
            conf_id to = conf_step(g, c, (uint8_t)b);
            if (to == CONF_DEAD) continue;
            if (only >= 0) return;
            only = b;
            next = to;
        }
        if (only < 0 || only >= SPECIAL_END || g->failed) return;
        buf_putc(out, (char)only);
        c = next;
    }
}
