/* grammar_part.c - the pushdown level: sequences and alternatives of lexemes, with rules for what
 * contains itself. Hash-consed like the level below, so that equal subschemas are one part.
 */
#include <stdlib.h>

#include "text/grammar_impl.h"

static uint32_t part_hash(const struct grammar *g, uint32_t id)
{
    return part_at(g, id)->hash;
}

static part_id intern(struct grammar *g, struct part p, const part_id *list)
{
    uint32_t h = hash_mix(hash_mix(p.op, list ? 0 : p.a), p.b);
    h = hash_mix(hash_mix(h, p.lo), p.hi);
    for (uint32_t i = 0; list && i < p.b; i++) h = hash_mix(h, list[i]);
    p.hash = h;
    if (g->failed || !table_reserve(g, &g->part_table, part_hash)) return P_NEVER;
    struct table *t = &g->part_table;
    uint32_t at = h & (t->cap - 1);
    for (; t->slots[at]; at = (at + 1) & (t->cap - 1)) {
        const struct part *have = part_at(g, t->slots[at]);
        if (have->hash != h || have->op != p.op || have->b != p.b) continue;
        if (list ? memcmp((part_id *)g->part_lists.p + have->a, list, p.b * sizeof *list) == 0
                 : have->a == p.a && have->lo == p.lo && have->hi == p.hi)
            return t->slots[at];
    }
    if (list) {
        part_id *copy = pool_push(g, &g->part_lists, p.b);
        if (!copy) return P_NEVER;
        memcpy(copy, list, p.b * sizeof *list);
        p.a = g->part_lists.n - p.b;
    }
    struct part *made = pool_push(g, &g->parts, 1);
    if (!made || !grammar_steps(g, 1)) return P_NEVER;
    *made = p;
    t->slots[at] = g->parts.n - 1;
    t->n++;
    return g->parts.n - 1;
}

void parts_begin(struct grammar *g)
{
    g->parts.size = sizeof(struct part);
    g->part_lists.size = sizeof(part_id);
    g->rules.size = sizeof(part_id);
    pool_push(g, &g->parts, 1);      /* NEVER */
    pool_push(g, &g->part_lists, 1); /* so that there is an array to point into */
    intern(g, (struct part){.op = PART_EMPTY}, NULL);
}

part_id part_lex(struct grammar *g, re_id r)
{
    if (r == RE_NONE) return P_NEVER;
    if (r == RE_EMPTY) return P_EMPTY;
    return intern(g, (struct part){.op = PART_LEX, .a = r}, NULL);
}

part_id part_text(struct grammar *g, const char *z)
{
    return part_lex(g, re_literal(g, str_of(z)));
}

/* Append p to the scratch pool, opened where it is a list of kind op. */
static bool push_open(struct grammar *g, enum part_op op, part_id p)
{
    const struct part *n = part_at(g, p);
    uint32_t count = n->op == op ? n->b : 1, from = n->a;
    bool is_list = n->op == op;
    part_id *to = pool_push(g, &g->scratch, count);
    if (!to) return false;
    if (is_list)
        memcpy(to, (part_id *)g->part_lists.p + from, count * sizeof *to);
    else
        *to = p;
    return true;
}

part_id part_seq(struct grammar *g, const part_id *v, uint32_t n)
{
    uint32_t first = g->scratch.n;
    for (uint32_t i = 0; i < n; i++) {
        if (v[i] == P_NEVER) {
            g->scratch.n = first;
            return P_NEVER;
        }
        if (v[i] != P_EMPTY && !push_open(g, PART_SEQ, v[i])) return P_NEVER;
    }
    uint32_t count = g->scratch.n - first;
    g->scratch.n = first;
    const part_id *list = (part_id *)g->scratch.p + first;
    if (count == 0) return P_EMPTY;
    if (count == 1) return *list;
    return intern(g, (struct part){.op = PART_SEQ, .b = count}, list);
}

part_id part_seq2(struct grammar *g, part_id a, part_id b)
{
    return part_seq(g, (part_id[]){a, b}, 2);
}

part_id part_seq3(struct grammar *g, part_id a, part_id b, part_id c)
{
    return part_seq(g, (part_id[]){a, b, c}, 3);
}

static int by_id(const void *x, const void *y)
{
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return a < b ? -1 : a > b;
}

/* Lexemes among the alternatives become one lexeme: one state to follow instead of many. */
static uint32_t join_lexemes(struct grammar *g, part_id *v, uint32_t n)
{
    uint32_t kept = 0, n_lex = 0;
    re_id *lex = xmalloc((n ? n : 1) * sizeof *lex);
    for (uint32_t i = 0; i < n; i++) {
        if (part_at(g, v[i])->op == PART_LEX)
            lex[n_lex++] = part_at(g, v[i])->a;
        else if (v[i] != P_NEVER && (kept == 0 || v[kept - 1] != v[i]))
            v[kept++] = v[i];
    }
    if (n_lex) v[kept++] = part_lex(g, n_lex == 1 ? lex[0] : re_or(g, lex, n_lex));
    free(lex);
    return kept;
}

part_id part_alt(struct grammar *g, const part_id *v, uint32_t n)
{
    uint32_t first = g->scratch.n;
    for (uint32_t i = 0; i < n; i++)
        if (!push_open(g, PART_ALT, v[i])) return P_NEVER;
    uint32_t count = g->scratch.n - first;
    part_id *list = xmalloc((count ? count : 1) * sizeof *list);
    if (count) memcpy(list, (part_id *)g->scratch.p + first, count * sizeof *list);
    g->scratch.n = first;
    qsort(list, count, sizeof *list, by_id);
    count = join_lexemes(g, list, count);
    qsort(list, count, sizeof *list, by_id);
    part_id out = P_NEVER;
    if (count == 1)
        out = list[0];
    else if (count > 1)
        out = intern(g, (struct part){.op = PART_ALT, .b = count}, list);
    free(list);
    return out;
}

part_id part_alt2(struct grammar *g, part_id a, part_id b)
{
    return a == b ? a : part_alt(g, (part_id[]){a, b}, 2);
}

part_id part_rep(struct grammar *g, part_id a, uint32_t lo, uint32_t hi)
{
    if (a == P_NEVER) return lo == 0 ? P_EMPTY : P_NEVER;
    if (a == P_EMPTY || hi == 0) return P_EMPTY;
    if (lo == 1 && hi == 1) return a;
    return intern(g, (struct part){.op = PART_REP, .a = a, .lo = lo, .hi = hi}, NULL);
}

uint32_t rule_new(struct grammar *g)
{
    return pool_push(g, &g->rules, 1) ? g->rules.n - 1 : 0;
}

void rule_set(struct grammar *g, uint32_t rule, part_id body)
{
    if (rule < g->rules.n) ((part_id *)g->rules.p)[rule] = body;
}

part_id part_rule(struct grammar *g, uint32_t rule)
{
    return intern(g, (struct part){.op = PART_RULE, .a = rule}, NULL);
}

static bool is_productive(struct grammar *g, const struct part *p)
{
    const part_id *list = (const part_id *)g->part_lists.p + p->a;
    switch ((enum part_op)p->op) {
    case PART_NEVER:
        return false;
    case PART_EMPTY:
        return true;
    case PART_LEX:
        return re_is_live(g, p->a);
    case PART_SEQ:
        for (uint32_t i = 0; i < p->b; i++)
            if (!part_at(g, list[i])->is_productive) return false;
        return true;
    case PART_ALT:
        for (uint32_t i = 0; i < p->b; i++)
            if (part_at(g, list[i])->is_productive) return true;
        return false;
    case PART_REP:
        return p->lo == 0 || part_at(g, p->a)->is_productive;
    case PART_RULE:
        return part_at(g, ((part_id *)g->rules.p)[p->a])->is_productive;
    }
    return false;
}

void parts_finish(struct grammar *g)
{
    for (bool changed = true; changed && !g->failed;) {
        changed = false;
        for (uint32_t i = 0; i < g->parts.n; i++) {
            struct part *p = part_at(g, i);
            if (p->is_productive || !is_productive(g, p)) continue;
            p->is_productive = changed = true;
        }
        grammar_steps(g, g->parts.n);
    }
}
