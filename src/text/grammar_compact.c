/* grammar_compact.c - emptying a grammar's tables: only what compiling made and what live states
 * stand on is kept. Children have lower numbers than parents on every level, so marking is one pass
 * down and copying one pass up.
 */
#include <stdlib.h>

#include "text/grammar_impl.h"

/* What is copied: the old arrays and, for each number, its mark and then its new number. */
struct old {
    struct re_node *nodes; /* from frozen_nodes on */
    re_id *lists;          /* from frozen_lists on */
    struct kont *konts;
    uint32_t n_nodes, n_konts;
    re_id *node_map;
    kont_id *kont_map;
    struct thread *threads; /* of all states, one after the other */
    uint32_t *n_threads;    /* per state */
    bool *may_end;
};

static void *copy_of(const void *p, size_t n, size_t size)
{
    void *out = xmalloc(n * size + 1);
    if (n) memcpy(out, p, n * size);
    return out;
}

static const re_id *old_list(const struct grammar *g, const struct old *o, const struct re_node *n)
{
    return o->lists + (n->a - g->frozen_lists);
}

static bool is_list(const struct re_node *n)
{
    return n->op == RE_OP_OR || n->op == RE_OP_AND;
}

/* Marks (1) on all that marked ones are made of. */
static void mark(const struct grammar *g, struct old *o)
{
    for (uint32_t i = o->n_konts; i-- > 1;)
        if (o->kont_map[i]) o->kont_map[o->konts[i].next] = 1;
    for (uint32_t i = o->n_nodes; i-- > g->frozen_nodes;) {
        const struct re_node *n = &o->nodes[i - g->frozen_nodes];
        if (!o->node_map[i]) continue;
        if (is_list(n))
            for (uint32_t k = 0; k < n->b; k++) o->node_map[old_list(g, o, n)[k]] = 1;
        else if (n->op == RE_OP_CAT || n->op == RE_OP_NOT || n->op == RE_OP_REP)
            o->node_map[n->a] = 1;
        if (n->op == RE_OP_CAT) o->node_map[n->b] = 1;
    }
}

static void copy_nodes(struct grammar *g, struct old *o)
{
    for (uint32_t i = 0; i < g->frozen_nodes; i++) o->node_map[i] = i;
    for (uint32_t i = g->frozen_nodes; i < o->n_nodes; i++) {
        struct re_node n = o->nodes[i - g->frozen_nodes];
        if (!o->node_map[i]) continue;
        if (is_list(&n)) {
            re_id *list = copy_of(old_list(g, o, &n), n.b, sizeof *list);
            for (uint32_t k = 0; k < n.b; k++) list[k] = o->node_map[list[k]];
            o->node_map[i] = re_again(g, &n, list);
            free(list);
            continue;
        }
        if (n.op == RE_OP_CAT || n.op == RE_OP_NOT || n.op == RE_OP_REP) n.a = o->node_map[n.a];
        if (n.op == RE_OP_CAT) n.b = o->node_map[n.b];
        o->node_map[i] = re_again(g, &n, NULL);
    }
}

static void copy_konts(struct grammar *g, struct old *o)
{
    o->kont_map[0] = 0;
    for (uint32_t i = 1; i < o->n_konts; i++) {
        const struct kont *k = &o->konts[i];
        if (o->kont_map[i])
            o->kont_map[i] = kont_make(g, k->part, k->lo, k->hi, o->kont_map[k->next]);
    }
}

/* The arrays as they are, and what states stand on. */
static struct old save(const struct grammar *g)
{
    struct old o = {.n_nodes = g->nodes.n, .n_konts = g->konts.n};
    size_t n_states = 0, n_threads = 0, at = 0;
    o.nodes = copy_of((struct re_node *)g->nodes.p + g->frozen_nodes, o.n_nodes - g->frozen_nodes,
                      sizeof *o.nodes);
    o.lists = copy_of((re_id *)g->lists.p + g->frozen_lists, g->lists.n - g->frozen_lists,
                      sizeof *o.lists);
    o.konts = copy_of(g->konts.p, o.n_konts, sizeof *o.konts);
    o.node_map = xcalloc(o.n_nodes + 1, sizeof *o.node_map);
    o.kont_map = xcalloc(o.n_konts + 1, sizeof *o.kont_map);
    for (const struct grammar_state *s = g->states; s; s = s->next) {
        n_states++;
        n_threads += conf_at(g, s->config)->n;
    }
    o.threads = xmalloc((n_threads + 1) * sizeof *o.threads);
    o.n_threads = xmalloc((n_states + 1) * sizeof *o.n_threads);
    o.may_end = xmalloc(n_states + 1);
    n_states = 0;
    for (const struct grammar_state *s = g->states; s; s = s->next, n_states++) {
        uint32_t n = conf_at(g, s->config)->n;
        o.n_threads[n_states] = n;
        o.may_end[n_states] = conf_at(g, s->config)->may_end;
        memcpy(o.threads + at, conf_threads(g, s->config), n * sizeof *o.threads);
        for (uint32_t i = 0; i < n; i++, at++) {
            o.node_map[o.threads[at].re] = 1;
            o.kont_map[o.threads[at].k] = 1;
        }
    }
    return o;
}

static void restore_states(struct grammar *g, struct old *o)
{
    struct thread *t = o->threads;
    size_t i = 0;
    for (struct grammar_state *s = g->states; s; s = s->next, i++) {
        for (uint32_t k = 0; k < o->n_threads[i]; k++)
            t[k] = (struct thread){o->node_map[t[k].re], o->kont_map[t[k].k]};
        s->config = conf_intern(g, t, o->n_threads[i], o->may_end[i]);
        t += o->n_threads[i];
    }
}

void grammar_compact(struct grammar *g)
{
    struct old o = save(g);
    mark(g, &o);
    g->failed = FAIL_NO;
    if (g->vocab) mask_forget(g);
    confs_free(g);
    g->nodes.n = g->frozen_nodes;
    g->lists.n = g->frozen_lists;
    g->scratch.n = 0;
    re_reset(g);
    memset(g->memo, 0, MEMO_SLOTS * sizeof *g->memo);
    confs_begin(g);
    copy_nodes(g, &o);
    copy_konts(g, &o);
    const struct part *root = part_at(g, g->root);
    g->start = conf_of_kont(g, kont_make(g, g->root, root->lo, root->hi, 0));
    restore_states(g, &o);
    void *owned[] = {o.nodes,    o.lists,   o.konts,     o.node_map,
                     o.kont_map, o.threads, o.n_threads, o.may_end};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}
