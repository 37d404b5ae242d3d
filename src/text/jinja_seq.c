/* jinja_seq.c - filters on sequences: map, select, sort, join and their kin. */
#include "text/jinja_impl.h"

#define FILTER(name)                                                                               \
    static struct jval name(struct jrender *r, struct jval v, const struct jargs *a)

/* environment.getitem along "a.b.0"; an integer is one step. Where a step finds nothing,
 * `otherwise` (unless K_UNSET) takes its place. */
static struct jval dig_or(struct jrender *r, struct jval v, struct jval path, struct jval otherwise)
{
    if (path.kind != K_STR) {
        v = jv_item(r, v, path);
        return v.kind == K_UNDEF && otherwise.kind != K_UNSET ? otherwise : v;
    }
    struct str rest = jv_str(path);
    for (;;) {
        const char *dot = rest.n ? memchr(rest.p, '.', rest.n) : NULL;
        struct str part = {rest.p, dot ? (size_t)(dot - rest.p) : rest.n};
        struct jval key = jv_text(part);
        int64_t i = 0;
        bool digits = part.n > 0 && part.n < 10;
        for (size_t k = 0; k < part.n && digits; k++) {
            digits = part.p[k] >= '0' && part.p[k] <= '9';
            i = i * 10 + (part.p[k] - '0');
        }
        v = jv_item(r, v, digits ? jv_int(i) : key);
        if (v.kind == K_UNDEF && otherwise.kind != K_UNSET) v = otherwise;
        if (!dot) return v;
        rest = (struct str){dot + 1, rest.n - part.n - 1};
    }
}
static struct jval dig(struct jrender *r, struct jval v, struct jval path)
{
    return dig_or(r, v, path, (struct jval){0});
}

static struct jval fold(struct jrender *r, struct jval v, bool case_sensitive)
{
    return v.kind == K_STR && !case_sensitive ? jv_case(r, jv_str(v), CASE_LOWER) : v;
}

/* The key an item is sorted or compared by. */
static struct jval key_of(struct jrender *r, struct jval v, struct jval attribute,
                          bool case_sensitive)
{
    if (attribute.kind != K_NONE) v = dig(r, v, attribute);
    return fold(r, v, case_sensitive);
}

FILTER(f_length) { return (void)a, jv_int(jv_length(r, v)); }

FILTER(f_first)
{
    const struct jlist *l = jv_items(r, v);
    (void)a;
    return l->n ? l->v[0] : jv_undef(STR(""), UNDEF_INDEX);
}
FILTER(f_last)
{
    const struct jlist *l = jv_items(r, v);
    (void)a;
    return l->n ? l->v[l->n - 1] : jv_undef(STR(""), UNDEF_INDEX);
}

static struct jval copy_of(struct jrender *r, const struct jlist *l, enum jkind kind)
{
    struct jval c = jv_seq(r, kind, ITER_GENERATOR, l->n);
    jr_tick(r, l->n);
    if (l->n) memcpy(c.list->v, l->v, l->n * sizeof *l->v);
    c.list->n = l->n;
    return c;
}
FILTER(f_list) { return (void)a, copy_of(r, jv_items(r, v), K_LIST); }

FILTER(f_reverse)
{
    (void)a;
    if (v.kind == K_STR) {
        struct jval step[3] = {jv_none(), jv_none(), jv_int(-1)};
        return jv_slice(r, v, step);
    }
    const struct jlist *l = jv_items(r, v);
    struct jval c = copy_of(r, l, K_ITER);
    for (uint32_t i = 0; i < l->n; i++) c.list->v[i] = l->v[l->n - 1 - i];
    return c;
}

FILTER(f_items)
{
    (void)a;
    if (v.kind == K_UNDEF) return jv_seq(r, K_ITER, ITER_GENERATOR, 0);
    if (v.kind != K_DICT) jr_fail(r, "Can only get item pairs from a mapping.");
    struct jval l = jv_dict_list(r, v.dict, ITER_ITEMS);
    l.sub = ITER_GENERATOR;
    return l;
}

FILTER(f_join)
{
    struct jval by = jr_str(r, jr_arg(a, 0, "d", jv_text(STR(""))));
    struct jval attribute = jr_arg(a, 1, "attribute", jv_none());
    const struct jlist *l = jv_items(r, v);
    size_t mark = r->out->n;
    for (uint32_t i = 0; i < l->n; i++) {
        jr_tick(r, 1);
        if (i) jr_put(r, by);
        jr_put(r, attribute.kind == K_NONE ? l->v[i] : dig(r, l->v[i], attribute));
    }
    return jr_capture(r, mark);
}

/* ------------------------------------------------------------------ map and select */

static const struct jnative *named(struct jrender *r, const struct jargs *a, int i, bool test)
{
    struct str name = jr_arg_str(r, a, i, "name", NULL);
    const struct jnative *f = test ? jinja_test(name) : jinja_filter(name);
    int n = (int)(name.n < 60 ? name.n : 60);
    if (!f) jr_fail(r, "no %s named '%.*s'", test ? "test" : "filter", n, name.p);
    return f;
}

FILTER(f_map)
{
    static const struct jlist none;
    const struct jlist *l = jv_truth(v) ? jv_items(r, v) : &none; /* none maps to nothing */
    struct jval out = jv_seq(r, K_ITER, ITER_GENERATOR, l->n);
    struct jval attribute = a->n ? jv_none() : jr_arg(a, -1, "attribute", jv_none());
    struct jval otherwise = jr_arg(a, -1, "default", (struct jval){0});
    if (attribute.kind != K_NONE) {
        for (uint32_t i = 0; i < l->n; i++)
            jv_append(r, out, dig_or(r, l->v[i], attribute, otherwise));
        return out;
    }
    const struct jnative *f = named(r, a, 0, false);
    struct jargs rest = {a->v + 1, a->n - 1, a->kw, a->n_kw};
    for (uint32_t i = 0; i < l->n; i++) {
        jr_tick(r, 1);
        jv_append(r, out, f->fn(r, l->v[i], &rest));
    }
    return out;
}

/* select, reject (skip 0) and selectattr, rejectattr (skip 1: the first argument is the attribute).
 */
static struct jval select(struct jrender *r, struct jval v, const struct jargs *a, int skip,
                          bool want)
{
    static const struct jlist none;
    const struct jlist *l = jv_truth(v) ? jv_items(r, v) : &none;
    struct jval out = jv_seq(r, K_ITER, ITER_GENERATOR, 0);
    if (a->n < skip) jr_fail(r, "missing attribute name");
    const struct jnative *f = a->n > skip ? named(r, a, skip, true) : NULL;
    struct jargs rest = {a->v + skip + 1, a->n - skip - 1, a->kw, a->n_kw};
    for (uint32_t i = 0; i < l->n; i++) {
        jr_tick(r, 1);
        struct jval x = skip ? dig(r, l->v[i], a->v[0]) : l->v[i];
        if (jv_truth(f ? f->fn(r, x, &rest) : x) == want) jv_append(r, out, l->v[i]);
    }
    return out;
}
FILTER(f_select) { return select(r, v, a, 0, true); }
FILTER(f_reject) { return select(r, v, a, 0, false); }
FILTER(f_selectattr) { return select(r, v, a, 1, true); }
FILTER(f_rejectattr) { return select(r, v, a, 1, false); }

/* ------------------------------------------------------------------ order */

struct sorting {
    struct jval *keys;      /* n_keys for each item */
    uint32_t *order, *temp; /* positions */
    uint32_t n, n_keys;
    bool reverse;
};

static int order_of(struct jrender *r, const struct sorting *s, uint32_t x, uint32_t y)
{
    for (uint32_t k = 0; k < s->n_keys; k++) {
        struct jval a = s->keys[(size_t)x * s->n_keys + k], b = s->keys[(size_t)y * s->n_keys + k];
        if (jv_equal(r, a, b)) continue;
        int c = jv_compare(r, a, b, "<");
        return s->reverse ? -c : c;
    }
    return 0;
}

/* A stable merge sort of positions, bottom up. */
static void merge_sort(struct jrender *r, struct sorting *s)
{
    for (uint32_t i = 0; i < s->n; i++) s->order[i] = i;
    for (size_t width = 1; width < s->n; width *= 2) {
        for (size_t from = 0; from < s->n; from += 2 * width) {
            size_t mid = from + width < s->n ? from + width : s->n;
            size_t end = from + 2 * width < s->n ? from + 2 * width : s->n;
            for (size_t i = from, j = mid, k = from; k < end; k++) {
                bool left = j >= end || (i < mid && order_of(r, s, s->order[i], s->order[j]) <= 0);
                s->temp[k] = left ? s->order[i++] : s->order[j++];
            }
        }
        uint32_t *t = s->order;
        s->order = s->temp;
        s->temp = t;
    }
}

static struct jval sort_by(struct jrender *r, const struct jlist *l, struct jval *keys,
                           uint32_t n_keys, bool reverse)
{
    struct sorting s = {.keys = keys, .n = l->n, .n_keys = n_keys, .reverse = reverse};
    s.order = jr_alloc(r, l->n, sizeof *s.order);
    s.temp = jr_alloc(r, l->n, sizeof *s.temp);
    merge_sort(r, &s);
    struct jval out = jv_list(r, l->n);
    for (uint32_t i = 0; i < l->n; i++) out.list->v[i] = l->v[s.order[i]];
    out.list->n = l->n;
    return out;
}

FILTER(f_sort)
{
    const struct jlist *l = jv_items(r, v);
    struct jval attribute = jr_arg(a, 2, "attribute", jv_none());
    bool exact = jr_arg_bool(a, 1, "case_sensitive", false);
    struct jval parts[8] = {attribute};
    uint32_t n = 1;
    if (attribute.kind == K_STR) { /* "age,name" sorts by several */
        struct str s = jv_str(attribute);
        for (const char *comma; n < 8 && s.n && (comma = memchr(s.p, ',', s.n)); n++) {
            parts[n - 1] = jv_text((struct str){s.p, (size_t)(comma - s.p)});
            s = (struct str){comma + 1, s.n - (size_t)(comma - s.p) - 1};
            parts[n] = jv_text(s);
        }
    }
    struct jval *keys = jr_alloc(r, (size_t)l->n * n, sizeof *keys);
    for (uint32_t i = 0; i < l->n; i++)
        for (uint32_t k = 0; k < n; k++)
            keys[(size_t)i * n + k] = key_of(r, l->v[i], parts[k], exact);
    return sort_by(r, l, keys, n, jr_arg_bool(a, 0, "reverse", false));
}

FILTER(f_dictsort)
{
    if (v.kind != K_DICT) jr_fail(r, "dictsort expects a mapping, not %s", jv_type_name(v));
    struct str by = jr_arg_str(r, a, 1, "by", "key");
    if (!str_is(by, "key") && !str_is(by, "value"))
        jr_fail(r, "You can only sort by either \"key\" or \"value\"");
    const struct jlist *l = jv_dict_list(r, v.dict, ITER_ITEMS).list;
    struct jval *keys = jr_alloc(r, l->n, sizeof *keys);
    for (uint32_t i = 0; i < l->n; i++)
        keys[i] = fold(r, l->v[i].list->v[str_is(by, "value")],
                       jr_arg_bool(a, 0, "case_sensitive", false));
    return sort_by(r, l, keys, 1, jr_arg_bool(a, 2, "reverse", false));
}

FILTER(f_unique)
{
    const struct jlist *l = jv_items(r, v);
    bool exact = jr_arg_bool(a, 0, "case_sensitive", false);
    struct jval attribute = jr_arg(a, 1, "attribute", jv_none());
    struct jval out = jv_seq(r, K_ITER, ITER_GENERATOR, 0), seen = jv_dict(r, 0);
    for (uint32_t i = 0; i < l->n; i++) {
        struct jval k = key_of(r, l->v[i], attribute, exact);
        if (jv_dict_find(r, seen.dict, k)) continue;
        jv_dict_set(r, seen.dict, k, jv_none());
        jv_append(r, out, l->v[i]);
    }
    return out;
}

static struct jval extreme(struct jrender *r, struct jval v, const struct jargs *a, int sign)
{
    const struct jlist *l = jv_items(r, v);
    bool exact = jr_arg_bool(a, 0, "case_sensitive", false);
    struct jval attribute = jr_arg(a, 1, "attribute", jv_none());
    if (l->n == 0) return jv_undef(STR(""), UNDEF_INDEX);
    struct jval best = l->v[0], best_key = key_of(r, best, attribute, exact);
    for (uint32_t i = 1; i < l->n; i++) {
        struct jval k = key_of(r, l->v[i], attribute, exact);
        if (jv_compare(r, k, best_key, sign < 0 ? "<" : ">") * sign <= 0) continue;
        best = l->v[i];
        best_key = k;
    }
    return best;
}
FILTER(f_min) { return extreme(r, v, a, -1); }
FILTER(f_max) { return extreme(r, v, a, 1); }

FILTER(f_sum)
{
    const struct jlist *l = jv_items(r, v);
    struct jval attribute = jr_arg(a, 0, "attribute", jv_none()),
                total = jr_arg(a, 1, "start", jv_int(0));
    for (uint32_t i = 0; i < l->n; i++)
        total = jv_binary(r, OP_ADD, total,
                          attribute.kind == K_NONE ? l->v[i] : dig(r, l->v[i], attribute));
    return total;
}

FILTER(f_groupby)
{
    const struct jlist *l = jv_items(r, v);
    struct jval attribute = jr_arg(a, 0, "attribute", jv_none()),
                otherwise = jr_arg(a, 1, "default", jv_none());
    bool exact = jr_arg_bool(a, 2, "case_sensitive", false);
    struct jval *keys = jr_alloc(r, l->n, sizeof *keys), pairs = jv_list(r, l->n);
    for (uint32_t i = 0; i < l->n; i++) {
        struct jval k = dig(r, l->v[i], attribute);
        if (k.kind == K_UNDEF && otherwise.kind != K_NONE) k = otherwise;
        keys[i] = fold(r, k, exact);
        jv_append(r, pairs, jv_pair(r, k, l->v[i]));
    }
    const struct jlist *sorted = sort_by(r, pairs.list, keys, 1, false).list;
    struct jval out = jv_list(r, 0), group = {0};
    for (uint32_t i = 0; i < sorted->n; i++) {
        const struct jval *pair = sorted->v[i].list->v;
        bool same = group.kind == K_TUPLE &&
                    jv_equal(r, fold(r, group.list->v[0], exact), fold(r, pair[0], exact));
        if (!same) {
            group = jv_pair(r, pair[0], jv_list(r, 0));
            group.sub = TUPLE_GROUP;
            jv_append(r, out, group);
        }
        jv_append(r, group.list->v[1], pair[1]);
    }
    return out;
}

/* ------------------------------------------------------------------ pieces */

FILTER(f_batch)
{
    const struct jlist *l = jv_items(r, v);
    int64_t n = jr_arg_int(r, a, 0, "linecount", 0);
    struct jval fill = jr_arg(a, 1, "fill_with", jv_none());
    struct jval out = jv_seq(r, K_ITER, ITER_GENERATOR, 0), row = {0};
    if (n < 1) n = 1;
    for (uint32_t i = 0; i < l->n; i++) {
        if (i % n == 0) jv_append(r, out, row = jv_list(r, 0));
        jv_append(r, row, l->v[i]);
    }
    if (fill.kind != K_NONE && row.kind == K_LIST)
        while (row.list->n < n) {
            jr_tick(r, 1);
            jv_append(r, row, fill);
        }
    return out;
}

FILTER(f_slice)
{
    const struct jlist *l = jv_items(r, v);
    int64_t n = jr_arg_int(r, a, 0, "slices", 0);
    struct jval fill = jr_arg(a, 1, "fill_with", jv_none()),
                out = jv_seq(r, K_ITER, ITER_GENERATOR, 0);
    if (n < 1) jr_fail(r, "slice: the number of slices must be positive");
    int64_t each = l->n / n, longer = l->n % n;
    uint32_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        struct jval row = jv_list(r, 0);
        int64_t count = each + (i < longer);
        jr_tick(r, 1);
        for (int64_t k = 0; k < count; k++) jv_append(r, row, l->v[at++]);
        if (fill.kind != K_NONE && i >= longer && longer) jv_append(r, row, fill);
        jv_append(r, out, row);
    }
    return out;
}

FILTER(f_attr)
{
    struct str name = jr_arg_str(r, a, 0, "name", NULL);
    struct jmethods m = jinja_methods(name);
    if (v.kind == K_DICT && !m.dict)
        return jv_undef(name, v.kind); /* attributes only, never items */
    return jv_attr(r, v, name, &m);
}

static const struct jnative filters[] = {{"length", f_length},
                                         {"count", f_length},
                                         {"join", f_join},
                                         {"list", f_list},
                                         {"first", f_first},
                                         {"last", f_last},
                                         {"items", f_items},
                                         {"map", f_map},
                                         {"select", f_select},
                                         {"reject", f_reject},
                                         {"selectattr", f_selectattr},
                                         {"rejectattr", f_rejectattr},
                                         {"sort", f_sort},
                                         {"reverse", f_reverse},
                                         {"unique", f_unique},
                                         {"dictsort", f_dictsort},
                                         {"min", f_min},
                                         {"max", f_max},
                                         {"sum", f_sum},
                                         {"groupby", f_groupby},
                                         {"batch", f_batch},
                                         {"slice", f_slice},
                                         {"attr", f_attr},
                                         {NULL, NULL}};

const struct jnative *jinja_filter_seq(struct str name) { return jnative_find(filters, name); }
