/* grammar_mask.c - which tokens may come next: one walk over the vocabulary's trie.
 *
 * A walk steps the configuration along each edge and skips the subtree where nothing is left. Where
 * most of the trie would be walked with the configuration inside a JSON string, it starts from the
 * vocabulary's answer for that (string_words) instead, skips the subtrees for which that is right,
 * and corrects the rest; only the places where the string ends inside a token still need a walk,
 * with what comes after the string.
 */
#include <stdlib.h>

#include "text/grammar_impl.h"

/* Masks of longer walks are kept for the next time at the same configuration: many sequences stay in
 * one string, each in its own, token after token. Which goes is found in rounds; who was used since the
 * last stays, and a long walk's for more of them, so that short ones do not drive out the dear. */
enum { KEEP_NODES = 200, KEEP_LONG_NODES = 3000, ROUNDS = 1, LONG_ROUNDS = 3 };

/* Subtrees of fewer nodes are walked without asking whether all of it leads back to one place. */
enum { LOOP_NODES = 32 };

struct walk {
    struct grammar *g;
    const struct grammar_vocab *v;
    uint32_t *words;
    uint32_t n_steps;
};

static void set_bits(const struct walk *w, int32_t id)
{
    for (; id >= 0; id = w->v->same[id]) w->words[id / 32] |= 1u << (id % 32);
}

static void clear_bits(const struct walk *w, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end; i++)
        for (int32_t id = w->v->token[i]; id >= 0; id = w->v->same[id])
            w->words[id / 32] &= ~(1u << (id % 32));
}

/* Is string_words right for the whole subtree at `node`, when c is where its path leads? */
static bool is_string(const struct walk *w, conf_id c, uint32_t node)
{
    const struct conf *f = conf_at(w->g, c);
    return f->in_string >= 0 && f->in_string == w->v->string_state[node] &&
           f->room >= w->v->height[node];
}

/* Does all below `node` lead from c back to c? A look at one byte spares most places the rest. */
static bool is_loop(const struct walk *w, conf_id c, uint32_t node)
{
    uint8_t byte = w->v->byte[node + 1];
    if (!conf_at(w->g, c)->has_loops && (byte >= 0x80 || conf_step(w->g, c, byte) != c))
        return false;
    return !(w->v->below[node] & ~conf_loops(w->g, c));
}

/* Set the bits of nodes first..end, children (and below) of a node at depth - 1 reached with c. */
static void walk_set(struct walk *w, uint32_t first, uint32_t end, conf_id c)
{
    const struct grammar_vocab *v = w->v;
    if (first >= end) return;
    conf_id stack[TRIE_DEPTH + 1];
    stack[v->depth[first] - 1] = c;
    for (uint32_t i = first; i < end; w->n_steps++) {
        conf_id next = conf_step(w->g, stack[v->depth[i] - 1], v->byte[i]);
        if (next == CONF_DEAD) {
            i = v->after[i];
            continue;
        }
        if (v->after[i] - i > LOOP_NODES && is_loop(w, next, i)) {
            for (uint32_t k = v->ordinal[i]; k < v->ordinal[v->after[i]]; k++)
                w->words[v->in_order[k] / 32] |= 1u << (v->in_order[k] % 32);
            i = v->after[i];
            continue;
        }
        stack[v->depth[i]] = next;
        if (v->token[i] >= 0) set_bits(w, v->token[i]);
        i++;
    }
}

/* In a subtree (a range of nodes) where the string goes on: what comes where it ends. */
static void walk_exits(struct walk *w, uint32_t first, uint32_t end, conf_id c)
{
    const struct grammar_vocab *v = w->v;
    uint32_t lo = 0, hi = v->n_exits;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (v->exits[mid] < first)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == v->n_exits || v->exits[lo] >= end) return;
    conf_id after = conf_of_kont(w->g, conf_threads(w->g, c)->k);
    for (; lo < v->n_exits && v->exits[lo] < end; lo++)
        walk_set(w, v->exits[lo] + 1, v->after[v->exits[lo]], after);
}

/* The whole trie, correcting string_words. */
static void walk_string(struct walk *w, conf_id c)
{
    const struct grammar_vocab *v = w->v;
    conf_id stack[TRIE_DEPTH + 1];
    stack[0] = c;
    for (uint32_t i = 1; i < v->n_nodes; w->n_steps++) {
        conf_id next = conf_step(w->g, stack[v->depth[i] - 1], v->byte[i]);
        if (next == CONF_DEAD) {
            clear_bits(w, i, v->after[i]);
            w->n_steps += v->after[i] - i;
            i = v->after[i];
        } else if (is_string(w, next, i)) {
            walk_exits(w, i, v->after[i], next);
            i = v->after[i];
        } else {
            stack[v->depth[i]] = next;
            if (v->token[i] >= 0) set_bits(w, v->token[i]);
            i++;
        }
    }
}

/* Would most of the trie be in a string? Looks at the first bytes alone. */
static bool is_mostly_string(struct walk *w, conf_id c)
{
    const struct grammar_vocab *v = w->v;
    uint32_t n = 0;
    for (uint32_t i = 1; i < v->n_nodes; i = v->after[i]) {
        conf_id next = conf_step(w->g, c, v->byte[i]);
        if (next != CONF_DEAD && is_string(w, next, i)) n += v->after[i] - i;
    }
    return n > v->n_nodes / 2;
}

static bool is_any_set(const uint32_t *words, size_t n)
{
    size_t i = 0;
    while (i < n && !words[i]) i++;
    return i < n;
}

/* Room for one more, or the place of one that goes. NULL: there is no room for any. */
static struct kept_mask *place_to_keep(struct grammar *g, size_t bytes)
{
    bool has_room = (g->n_kept + 1) * bytes <= g->max_bytes / 8 &&
                    g->bytes + bytes <= g->max_bytes / 2 && g->n_kept < KEPT_MASKS;
    if (has_room) {
        g->kept[g->n_kept].words = xmalloc(bytes);
        g->bytes += bytes;
        return &g->kept[g->n_kept++];
    }
    while (g->n_kept > 0) {
        struct kept_mask *k = &g->kept[g->next_kept++ % g->n_kept];
        if (k->n_rounds == 0) return k;
        k->n_rounds--;
    }
    return NULL;
}

static void keep(struct grammar *g, conf_id c, const uint32_t *words, uint8_t n_rounds)
{
    size_t bytes = g->vocab->n_words * sizeof *words;
    struct kept_mask *k = place_to_keep(g, bytes);
    if (!k) return;
    memcpy(k->words, words, bytes);
    *k = (struct kept_mask){c, n_rounds, n_rounds, k->words};
    conf_at(g, c)->kept = (uint16_t)(k - g->kept);
}

/* The mask kept for c, or NULL. */
static const uint32_t *find_kept(struct grammar *g, conf_id c)
{
    struct kept_mask *k = &g->kept[conf_at(g, c)->kept];
    if (k->conf != c || !k->words) return NULL;
    k->n_rounds = k->n_rounds_max;
    return k->words;
}

void mask_forget(struct grammar *g)
{
    for (uint32_t i = 0; i < g->n_kept; i++) {
        g->bytes -= g->vocab->n_words * sizeof(uint32_t);
        free(g->kept[i].words);
        g->kept[i] = (struct kept_mask){0};
    }
    g->n_kept = 0;
}

bool mask_write(struct grammar *g, conf_id c, uint32_t *words)
{
    const struct grammar_vocab *v = g->vocab;
    size_t bytes = v->n_words * sizeof *words;
    const uint32_t *kept = find_kept(g, c);
    if (kept) {
        memcpy(words, kept, bytes);
        return true;
    }
    struct walk w = {.g = g, .v = v, .words = words};
    if (is_string(&w, c, 0) || is_mostly_string(&w, c)) {
        memcpy(words, v->string_words, bytes);
        if (is_string(&w, c, 0))
            walk_exits(&w, 1, v->n_nodes, c);
        else
            walk_string(&w, c);
    } else {
        memset(words, 0, bytes);
        walk_set(&w, 1, v->n_nodes, c);
    }
    for (size_t i = 0; conf_at(g, c)->may_end && i < v->n_eos; i++)
        words[v->eos[i] / 32] |= 1u << (v->eos[i] % 32);
    bool any = is_any_set(words, v->n_words);
    if (any && w.n_steps > KEEP_NODES && !g->failed)
        keep(g, c, words, w.n_steps > KEEP_LONG_NODES ? LONG_ROUNDS : ROUNDS);
    return any;
}
