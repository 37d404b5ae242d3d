/* grammar_array.c - arrays: a prefix with a schema each, then the rest; counts; contains; and
 * uniqueItems where the items are a few listed values.
 */
#include <stdlib.h>

#include "text/grammar_schema.h"

enum { PREFIX_MAX = 10000, UNIQUE_MAX = 8 };

uint32_t prefix_length(const struct shape *s)
{
    size_t n = 0;
    for (uint32_t i = 0; i < s->n_arrays; i++) {
        size_t k = s->arrays[i].prefix ? json_len(s->arrays[i].prefix) : 0;
        if (k > n) n = k;
    }
    return n < PREFIX_MAX ? (uint32_t)n : PREFIX_MAX;
}

struct items element_items(struct compiler *c, const struct shape *s, uint32_t index)
{
    struct items l = {0};
    for (uint32_t i = 0; i < s->n_arrays; i++) {
        const struct array_facet *f = &s->arrays[i];
        const json_node *m = f->prefix ? json_child(f->prefix) : NULL;
        for (uint32_t k = 0; m && k < index; k++) m = json_next(m);
        if (m)
            items_add(c, &l, item_schema(m, false));
        else if (f->rest)
            items_add(c, &l, item_schema(f->rest, f->rest_negated));
    }
    return l;
}

static part_id before(struct compiler *c, re_id space, part_id value)
{
    return part_seq2(c->g, part_lex(c->g, space), value);
}

static part_id closing(struct compiler *c)
{
    return part_lex(c->g, re_cat(c->g, c->space, re_byte(c->g, ']')));
}

/* lo to hi more items of one kind, then the bracket. */
static part_id rest_of(struct compiler *c, part_id item, bool is_first, uint64_t lo, uint64_t hi)
{
    struct grammar *g = c->g;
    uint32_t most = hi >= RE_INF ? RE_INF : (uint32_t)hi,
             least = lo >= RE_INF ? RE_INF : (uint32_t)lo;
    part_id more = before(c, c->comma, item);
    if (!is_first) return part_seq2(g, part_rep(g, more, least, most), closing(c));
    part_id none = lo ? P_NEVER : part_text(g, "]"), some = P_NEVER;
    if (hi) {
        more = part_rep(g, more, least ? least - 1 : 0, most == RE_INF ? RE_INF : most - 1);
        some = part_seq3(g, before(c, c->space, item), more, closing(c));
    }
    return part_alt2(g, some, none);
}

/* Any items, of which at least one also meets what contains asks for. */
static part_id with_contains(struct compiler *c, const struct shape *s)
{
    struct grammar *g = c->g;
    struct items l = element_items(c, s, 0);
    if (s->contains.n > 1 || prefix_length(s) || s->min_items > 1 || s->max_items != UINT64_MAX ||
        s->is_unique) {
        if (!c->o->is_lenient)
            schema_fail(c, SL_ESCHEMA, s->contains.v[0].s,
                        "contains beside prefixItems, counts or another contains is not supported");
        return rest_of(c, schema_part(c, &l), true, s->min_items, s->max_items);
    }
    part_id any = schema_part(c, &l), one;
    items_add(c, &l, s->contains.v[0]);
    one = schema_part(c, &l);
    part_id more = part_rep(g, before(c, c->comma, any), 0, RE_INF);
    part_id later = part_seq3(g, more, before(c, c->comma, one), more);
    part_id first = part_seq2(g, before(c, c->space, one), more);
    part_id both = part_alt2(g, first, part_seq2(g, before(c, c->space, any), later));
    return part_seq2(g, both, closing(c));
}

/* The values that items can take, if they are a few; -1: many. */
static int listed_values(struct compiler *c, const struct shape *s, re_id *v)
{
    struct items l = element_items(c, s, 0);
    if (l.n == 0) return -1;
    struct shape *item = shape_make(c, &l);
    int n = 0;
    if (item->has_values) {
        for (uint32_t i = 0; i < item->values.n; i++) {
            if (!value_fits(c, &l, item->values.v[i])) continue;
            if (n == UNIQUE_MAX) return -1;
            v[n++] = value_literal(c, item->values.v[i]);
        }
        return n;
    }
    if (item->choice != UINT32_MAX || (item->types & ~(TYPE_NULL | TYPE_BOOL))) return -1;
    static const char *const words[] = {"null", "false", "true"};
    for (int i = 0; i < 3; i++)
        if (item->types >> i & 1) v[n++] = re_literal(c->g, str_of(words[i]));
    return n;
}

/* A part for each set of values already used. */
static part_id unique_items(struct compiler *c, const struct shape *s)
{
    struct grammar *g = c->g;
    re_id v[UNIQUE_MAX];
    int n = prefix_length(s) ? -1 : listed_values(c, s, v);
    if (n < 0) {
        if (!c->o->is_lenient)
            schema_fail(c, SL_ESCHEMA, s->all.v[0].s,
                        "uniqueItems is supported only for items from an enum of at most %d",
                        UNIQUE_MAX);
        struct items l = element_items(c, s, 0);
        return rest_of(c, schema_part(c, &l), true, s->min_items, s->max_items);
    }
    part_id by_used[1 << UNIQUE_MAX];
    for (unsigned used = 1u << n; used-- > 0;) {
        unsigned count = (unsigned)__builtin_popcount(used), k = 0;
        part_id next[UNIQUE_MAX + 1];
        if (count >= s->min_items) next[k++] = used ? closing(c) : part_text(g, "]");
        for (int i = 0; i < n && count < s->max_items; i++)
            if (!(used >> i & 1))
                next[k++] = part_seq3(g, part_lex(g, used ? c->comma : c->space), part_lex(g, v[i]),
                                      by_used[used | 1u << i]);
        by_used[used] = part_alt(g, next, k);
    }
    return by_used[0];
}

part_id array_part(struct compiler *c, const struct shape *s)
{
    struct grammar *g = c->g;
    part_id open = part_text(g, "[");
    if (s->contains.n) return part_seq2(g, open, with_contains(c, s));
    if (s->is_unique && s->max_items > 1) return part_seq2(g, open, unique_items(c, s));
    uint32_t n = prefix_length(s);
    if (n > s->max_items) n = (uint32_t)s->max_items;
    struct items l = element_items(c, s, n);
    uint64_t lo = s->min_items > n ? s->min_items - n : 0;
    uint64_t hi = s->max_items == UINT64_MAX ? RE_INF : s->max_items - n;
    part_id p = rest_of(c, hi ? schema_part(c, &l) : P_NEVER, n == 0, lo, hi);
    for (uint32_t i = n; i-- > 0 && !schema_stopped(c);) {
        l = element_items(c, s, i);
        part_id end = i < s->min_items ? P_NEVER : i ? closing(c) : part_text(g, "]");
        p = part_seq2(g, before(c, i ? c->comma : c->space, schema_part(c, &l)), p);
        p = part_alt2(g, p, end);
    }
    return part_seq2(g, open, p);
}
