/* grammar_re.c - regular expressions over bytes, hash-consed. Makers bring expressions into one
 * normal form (concatenation to the right, unions and intersections flat, sorted, without
 * duplicates): the derivatives of an expression are then finitely many, and the same rest of a text
 * has the same number wherever it comes from.
 */
#include <stdlib.h>

#include "text/grammar_impl.h"

static uint32_t node_hash(const struct grammar *g, uint32_t id)
{
    return re_at(g, id)->hash;
}

static const re_id *list_at(const struct grammar *g, uint32_t at)
{
    return (const re_id *)g->lists.p + at;
}

static bool node_equal(const struct grammar *g, const struct re_node *have,
                       const struct re_node *want, const re_id *list)
{
    if (have->hash != want->hash || have->op != want->op || have->b != want->b) return false;
    if (list) return memcmp(list_at(g, have->a), list, want->b * sizeof *list) == 0;
    return have->a == want->a && have->lo == want->lo && have->hi == want->hi;
}

/* What a node says about itself follows from its children. */
static void node_facts(const struct grammar *g, struct re_node *n, const re_id *list)
{
    switch ((enum re_op)n->op) {
    case RE_OP_NONE:
    case RE_OP_BYTES:
        break;
    case RE_OP_EMPTY:
        n->is_nullable = true;
        break;
    case RE_OP_CAT:
        n->is_nullable = re_at(g, n->a)->is_nullable && re_at(g, n->b)->is_nullable;
        n->has_logic = re_at(g, n->a)->has_logic || re_at(g, n->b)->has_logic;
        break;
    case RE_OP_OR:
    case RE_OP_AND:
        n->is_nullable = n->op == RE_OP_AND;
        n->has_logic = n->op == RE_OP_AND;
        for (uint32_t i = 0; i < n->b; i++) {
            const struct re_node *c = re_at(g, list[i]);
            if (n->op == RE_OP_AND)
                n->is_nullable = n->is_nullable && c->is_nullable;
            else
                n->is_nullable = n->is_nullable || c->is_nullable;
            n->has_logic = n->has_logic || c->has_logic;
        }
        break;
    case RE_OP_NOT:
        n->is_nullable = !re_at(g, n->a)->is_nullable;
        n->has_logic = true;
        break;
    case RE_OP_REP:
        n->is_nullable = n->lo == 0;
        n->has_logic = re_at(g, n->a)->has_logic;
        break;
    case RE_OP_REM: {
        const struct re_mod *m = (const struct re_mod *)g->mods.p + n->a;
        uint64_t rest = n->b;
        for (uint32_t i = 0; i < n->lo; i++) rest = rest * 10 % m->m;
        n->is_nullable = rest == 0 && n->hi != 2; /* 2: just after the point, a digit must come */
        n->has_logic = true;
        break;
    }
    }
}

static re_id intern(struct grammar *g, struct re_node n, const re_id *list)
{
    uint32_t h = hash_mix(hash_mix(n.op, list ? 0 : n.a), n.b);
    h = hash_mix(hash_mix(h, n.lo), n.hi);
    for (uint32_t i = 0; list && i < n.b; i++) h = hash_mix(h, list[i]);
    n.hash = h;
    if (g->failed || !table_reserve(g, &g->node_table, node_hash)) return RE_NONE;
    struct table *t = &g->node_table;
    uint32_t at = h & (t->cap - 1);
    for (; t->slots[at]; at = (at + 1) & (t->cap - 1))
        if (node_equal(g, re_at(g, t->slots[at]), &n, list)) return t->slots[at];
    node_facts(g, &n, list);
    if (list) {
        re_id *copy = pool_push(g, &g->lists, n.b);
        if (!copy) return RE_NONE;
        memcpy(copy, list, n.b * sizeof *list);
        n.a = g->lists.n - n.b;
    }
    struct re_node *made = pool_push(g, &g->nodes, 1);
    if (!made || !grammar_steps(g, 1)) return RE_NONE;
    *made = n;
    t->slots[at] = g->nodes.n - 1;
    t->n++;
    return g->nodes.n - 1;
}

void re_begin(struct grammar *g)
{
    g->nodes.size = sizeof(struct re_node);
    g->lists.size = sizeof(re_id);
    g->sets.size = sizeof(struct byte_set);
    g->mods.size = sizeof(struct re_mod);
    g->scratch.size = sizeof(uint32_t);
    pool_push(g, &g->lists, 1); /* so that there is an array to point into */
    pool_push(g, &g->nodes, 1); /* NONE; never in the table, whose 0 means free */
    intern(g, (struct re_node){.op = RE_OP_EMPTY}, NULL);
    intern(g, (struct re_node){.op = RE_OP_NOT, .a = RE_NONE}, NULL);
    pool_push(g, &g->sets, 1); /* set 0: never used, so that 0 is free in its table too */
}

static uint32_t set_hash(const struct grammar *g, uint32_t id)
{
    const struct byte_set *s = (const struct byte_set *)g->sets.p + id;
    uint32_t h = 0;
    for (int i = 0; i < 4; i++)
        h = hash_mix(hash_mix(h, (uint32_t)s->w[i]), (uint32_t)(s->w[i] >> 32));
    return h;
}

re_id re_bytes(struct grammar *g, const struct byte_set *s)
{
    if (!(s->w[0] | s->w[1] | s->w[2] | s->w[3])) return RE_NONE;
    if (g->failed || !table_reserve(g, &g->set_table, set_hash)) return RE_NONE;
    struct byte_set *made = pool_push(g, &g->sets, 1);
    if (!made) return RE_NONE;
    *made = *s;
    uint32_t id = g->sets.n - 1;
    struct table *t = &g->set_table;
    uint32_t at = set_hash(g, id) & (t->cap - 1);
    for (; t->slots[at]; at = (at + 1) & (t->cap - 1)) {
        if (memcmp((struct byte_set *)g->sets.p + t->slots[at], s, sizeof *s) != 0) continue;
        g->sets.n--;
        return intern(g, (struct re_node){.op = RE_OP_BYTES, .a = t->slots[at]}, NULL);
    }
    t->slots[at] = id;
    t->n++;
    return intern(g, (struct re_node){.op = RE_OP_BYTES, .a = id}, NULL);
}

re_id re_range(struct grammar *g, uint8_t lo, uint8_t hi)
{
    struct byte_set s = {0};
    for (unsigned i = lo; i <= hi; i++) s.w[i / 64] |= 1ull << (i % 64);
    return re_bytes(g, &s);
}

re_id re_byte(struct grammar *g, uint8_t byte)
{
    return re_range(g, byte, byte);
}

re_id re_literal(struct grammar *g, struct str text)
{
    re_id r = RE_EMPTY;
    for (size_t i = text.n; i-- > 0;) r = re_cat(g, re_byte(g, (uint8_t)text.p[i]), r);
    return r;
}

re_id re_cat(struct grammar *g, re_id a, re_id b)
{
    if (a == RE_NONE || b == RE_NONE) return RE_NONE;
    if (a == RE_EMPTY) return b;
    if (b == RE_EMPTY) return a;
    uint32_t first = g->scratch.n;
    while (re_at(g, a)->op == RE_OP_CAT) { /* a chain: put its links on the scratch pool */
        uint32_t *link = pool_push(g, &g->scratch, 1);
        if (!link) return RE_NONE;
        *link = re_at(g, a)->a;
        a = re_at(g, a)->b;
    }
    b = intern(g, (struct re_node){.op = RE_OP_CAT, .a = a, .b = b}, NULL);
    while (g->scratch.n > first) {
        re_id link = ((uint32_t *)g->scratch.p)[--g->scratch.n];
        b = intern(g, (struct re_node){.op = RE_OP_CAT, .a = link, .b = b}, NULL);
    }
    return g->failed ? RE_NONE : b;
}

re_id re_cat3(struct grammar *g, re_id a, re_id b, re_id c)
{
    return re_cat(g, a, re_cat(g, b, c));
}

static int by_id(const void *x, const void *y)
{
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return a < b ? -1 : a > b;
}

static void sort_ids(uint32_t *v, uint32_t n)
{
    if (n > 16) {
        qsort(v, n, sizeof *v, by_id);
        return;
    }
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t j = i; j > 0 && v[j - 1] > v[j]; j--) {
            uint32_t t = v[j];
            v[j] = v[j - 1];
            v[j - 1] = t;
        }
}

/* Append v to the scratch pool with nested lists of the same kind opened, byte sets joined. */
static bool flatten(struct grammar *g, enum re_op op, const re_id *v, uint32_t n)
{
    struct byte_set joined = {0};
    bool has_set = false;
    for (uint32_t i = 0; i < n; i++) {
        const struct re_node *c = re_at(g, v[i]);
        if (c->op == RE_OP_BYTES) {
            const struct byte_set *s = (const struct byte_set *)g->sets.p + c->a;
            for (int w = 0; w < 4; w++)
                joined.w[w] = !has_set         ? s->w[w]
                              : op == RE_OP_OR ? joined.w[w] | s->w[w]
                                               : joined.w[w] & s->w[w];
            has_set = true;
            continue;
        }
        uint32_t count = c->op == op ? c->b : 1;
        re_id *to = pool_push(g, &g->scratch, count);
        if (!to) return false;
        if (c->op == op)
            memcpy(to, list_at(g, c->a), count * sizeof *to);
        else
            *to = v[i];
    }
    if (!has_set) return true;
    re_id set = re_bytes(g, &joined), *to = pool_push(g, &g->scratch, 1);
    if (!to) return false;
    *to = set;
    return true;
}

/* Sorted, without duplicates; returns how many are left of n. */
static uint32_t unique(uint32_t *v, uint32_t n)
{
    sort_ids(v, n);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (i == 0 || v[i] != v[i - 1]) v[kept++] = v[i];
    return kept;
}

/* The list on the scratch pool from `first` becomes a node. `zero` swallows all others, `one`
 * changes nothing. */
static re_id list_node(struct grammar *g, enum re_op op, uint32_t first, re_id zero, re_id one)
{
    re_id *v = (re_id *)g->scratch.p + first;
    uint32_t n = unique(v, g->scratch.n - first), kept = 0;
    g->scratch.n = first;
    bool has_empty = false, all_nullable = true, any_nullable = false;
    for (uint32_t i = 0; i < n; i++) {
        if (v[i] == zero) return zero;
        if (v[i] == one) continue;
        if (v[i] == RE_EMPTY) {
            has_empty = true;
            continue;
        }
        all_nullable = all_nullable && re_at(g, v[i])->is_nullable;
        any_nullable = any_nullable || re_at(g, v[i])->is_nullable;
        v[kept++] = v[i];
    }
    if (has_empty && op == RE_OP_AND) return all_nullable ? RE_EMPTY : RE_NONE;
    if (has_empty && !any_nullable) { /* EMPTY has the lowest number of all that can be here */
        memmove(v + 1, v, kept * sizeof *v);
        v[0] = RE_EMPTY;
        kept++;
    }
    if (kept == 0) return one;
    if (kept == 1) return v[0];
    return intern(g, (struct re_node){.op = (uint8_t)op, .b = kept}, v);
}

static re_id make_list(struct grammar *g, enum re_op op, const re_id *v, uint32_t n)
{
    uint32_t first = g->scratch.n, second;
    if (!flatten(g, op, v, n)) return RE_NONE;
    second = g->scratch.n; /* a union inside may have brought another byte set: once more */
    int n_sets = 0;
    for (uint32_t i = first; i < second; i++)
        n_sets += re_at(g, ((re_id *)g->scratch.p)[i])->op == RE_OP_BYTES;
    if (n_sets > 1) {
        uint32_t count = second - first;
        re_id *copy = xmalloc(count * sizeof *copy);
        memcpy(copy, (re_id *)g->scratch.p + first, count * sizeof *copy);
        g->scratch.n = first;
        bool ok = flatten(g, op, copy, count);
        free(copy);
        if (!ok) return RE_NONE;
    }
    return op == RE_OP_OR ? list_node(g, op, first, RE_ALL, RE_NONE)
                          : list_node(g, op, first, RE_NONE, RE_ALL);
}

re_id re_or(struct grammar *g, const re_id *v, uint32_t n)
{
    return make_list(g, RE_OP_OR, v, n);
}

re_id re_or2(struct grammar *g, re_id a, re_id b)
{
    if (a == b || b == RE_NONE) return a;
    if (a == RE_NONE) return b;
    return make_list(g, RE_OP_OR, (re_id[]){a, b}, 2);
}

re_id re_and2(struct grammar *g, re_id a, re_id b)
{
    if (a == b || b == RE_ALL) return a;
    if (a == RE_ALL) return b;
    if (a == RE_NONE || b == RE_NONE) return RE_NONE;
    return make_list(g, RE_OP_AND, (re_id[]){a, b}, 2);
}

re_id re_not(struct grammar *g, re_id a)
{
    if (re_at(g, a)->op == RE_OP_NOT) return re_at(g, a)->a;
    return intern(g, (struct re_node){.op = RE_OP_NOT, .a = a}, NULL);
}

re_id re_rep(struct grammar *g, re_id a, uint32_t lo, uint32_t hi)
{
    if (a == RE_NONE) return lo == 0 ? RE_EMPTY : RE_NONE;
    if (a == RE_EMPTY || hi == 0) return RE_EMPTY;
    if (re_at(g, a)->is_nullable) lo = 0;
    if (lo == 1 && hi == 1) return a;
    if (lo == 0 && hi == 1 && re_at(g, a)->is_nullable) return a;
    if (re_at(g, a)->op == RE_OP_REP && re_at(g, a)->lo == 0 && re_at(g, a)->hi == RE_INF) return a;
    return intern(g, (struct re_node){.op = RE_OP_REP, .a = a, .lo = lo, .hi = hi}, NULL);
}

re_id re_opt(struct grammar *g, re_id a)
{
    return re_or2(g, a, RE_EMPTY);
}

re_id re_rem(struct grammar *g, uint32_t mod, uint32_t rest, uint32_t left, uint32_t phase)
{
    return intern(
        g, (struct re_node){.op = RE_OP_REM, .a = mod, .b = rest, .lo = left, .hi = phase}, NULL);
}

re_id re_again(struct grammar *g, const struct re_node *n, const re_id *list)
{
    struct re_node copy = {.op = n->op, .a = n->a, .b = n->b, .lo = n->lo, .hi = n->hi};
    if (!list) return intern(g, copy, NULL);
    copy.a = 0;
    re_id *sorted = xmalloc(n->b * sizeof *sorted);
    memcpy(sorted, list, n->b * sizeof *sorted);
    sort_ids(sorted, n->b);
    re_id made = intern(g, copy, sorted);
    free(sorted);
    return made;
}

void re_reset(struct grammar *g)
{
    table_free(g, &g->node_table);
    for (uint32_t i = 1; i < g->nodes.n && table_reserve(g, &g->node_table, node_hash); i++) {
        struct table *t = &g->node_table;
        uint32_t at = re_at(g, i)->hash & (t->cap - 1);
        while (t->slots[at]) at = (at + 1) & (t->cap - 1);
        t->slots[at] = i;
        t->n++;
    }
}
