/* grammar_object.c - objects: named members in order, each once, then others by their patterns.
 *
 * The members form a chain of parts, made from the end: what may follow when member i is at hand,
 * before or after the first one written, with how many were written (where a count matters), and
 * whether the one member that IT_EXTRA asks for has come.
 */
#include <stdlib.h>

#include "text/grammar_schema.h"

enum { PATTERNS_MAX = 6, CHAIN_MAX = 200000 };

/* Named members, and regions of all other names: those that match the same patterns. */
struct named {
    struct str name;
    bool is_required;
    part_id value, extra_value; /* extra_value: where it is what IT_EXTRA asks for, or NEVER */
};
struct region {
    re_id key, extra_key;
    part_id value, extra_value;
};
struct members {
    struct named *v;
    uint32_t n;
    struct region regions[1 << PATTERNS_MAX];
    uint32_t n_regions;
    bool is_never;
};

static re_id pattern_of(struct compiler *c, const json_node *key)
{
    for (uint32_t i = 0; i < c->n_patterns; i++)
        if (c->patterns[i].key == key) return c->patterns[i].re;
    struct sl_error e;
    re_id r = RE_NONE;
    if (pattern_compile(c->g, json_key(key), PATTERN_JSON_SEARCH, &r, &e) < 0)
        schema_fail(c, e.code, key, "patternProperties: %s", e.text);
    if ((c->n_patterns & (c->n_patterns - 1)) == 0)
        c->patterns =
            xrealloc(c->patterns, (c->n_patterns ? c->n_patterns * 2 : 1) * sizeof *c->patterns);
    c->patterns[c->n_patterns++] = (struct pattern_memo){key, r};
    return r;
}

static bool name_matches(struct compiler *c, const json_node *pattern, struct str name)
{
    struct buf b = buf_make(1u << 20);
    json_put_str(&b, name);
    bool ok = re_matches(c->g, pattern_of(c, pattern), buf_str(&b));
    buf_free(&b);
    return ok;
}

static const json_node *property(const json_node *properties, struct str name)
{
    for (const json_node *m = json_child(properties); m; m = json_next(m))
        if (str_eq(json_key(m), name)) return m;
    return NULL;
}

static const json_node *first_of(const json_node *map)
{
    return map ? json_child(map) : NULL;
}

/* What falls to additionalProperties. */
static void add_additional(struct compiler *c, struct items *l, const struct object_facet *f)
{
    if (f->additional) items_add(c, l, item_schema(f->additional, false));
    if (f->is_closed) items_add(c, l, (struct item){.kind = IT_TYPES});
}

struct items member_items(struct compiler *c, const struct shape *s, struct str name)
{
    struct items l = {0};
    for (uint32_t i = 0; i < s->n_objects; i++) {
        const struct object_facet *f = &s->objects[i];
        const json_node *own = f->properties ? property(f->properties, name) : NULL;
        bool found = own;
        if (own) items_add(c, &l, item_schema(own, false));
        for (const json_node *p = first_of(f->patterns); p; p = json_next(p)) {
            if (!name_matches(c, p, name)) continue;
            items_add(c, &l, item_schema(p, false));
            found = true;
        }
        if (!found) add_additional(c, &l, f);
    }
    for (uint32_t i = 0; i < s->members.n; i++)
        if (str_eq(s->members.v[i].name, name))
            items_add(c, &l, item_schema(s->members.v[i].s, s->members.v[i].is_negated));
    return l;
}

static bool is_in(const struct name_list *l, struct str name)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (str_eq(l->v[i], name)) return true;
    return false;
}

/* ------------------------------------------------------------------ names */

static void add_named(struct members *m, struct str name)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (str_eq(m->v[i].name, name)) return;
    if ((m->n & (m->n - 1)) == 0) m->v = xrealloc(m->v, (m->n ? m->n * 2 : 1) * sizeof *m->v);
    m->v[m->n++] = (struct named){.name = name};
}

/* ------------------------------------------------------------------ the extra member */

static bool is_about_names(const struct shape *s)
{
    return s->extra_member && s->extra_member == json_get(s->extra, "propertyNames");
}

/* Can IT_EXTRA mean a member of this name? */
static bool is_extra_name(struct compiler *c, const struct shape *s, struct str name)
{
    const json_node *spared = json_get(s->extra, "properties");
    if (is_about_names(s)) {
        struct items l = {0};
        items_add(c, &l, item_schema(s->extra_member, true));
        return key_fits(c, &l, name);
    }
    if (s->extra_member) return name_matches(c, s->extra_member, name);
    const json_node *p = first_of(json_get(s->extra, "patternProperties"));
    while (p && !name_matches(c, p, name)) p = json_next(p);
    return !p && !(spared && property(spared, name));
}

/* What IT_EXTRA asks of the value, added to the list. */
static void extra_items(struct compiler *c, const struct shape *s, struct items *l)
{
    const json_node *v = s->extra_member;
    if (is_about_names(s)) return;
    items_add(c, l, item_schema(v ? v : json_get(s->extra, "additionalProperties"), true));
}

bool is_extra(struct compiler *c, const struct shape *s, const json_node *member)
{
    struct items l = {0};
    extra_items(c, s, &l);
    return is_extra_name(c, s, json_key(member)) && value_fits(c, &l, member);
}

static part_id extra_value(struct compiler *c, const struct shape *s, const struct items *l)
{
    struct items more = items_copy(c, l);
    extra_items(c, s, &more);
    return schema_part(c, &more);
}

static void fill_named(struct compiler *c, const struct shape *s, struct named *n)
{
    struct items l = member_items(c, s, n->name);
    n->is_required = is_in(&s->required, n->name);
    n->value = n->extra_value = P_NEVER;
    if (is_in(&s->forbidden, n->name) || !key_fits(c, &s->key_schemas, n->name)) return;
    n->value = schema_part(c, &l);
    if (s->extra && is_extra_name(c, s, n->name)) n->extra_value = extra_value(c, s, &l);
}

static void collect_names(struct compiler *c, const struct shape *s, struct members *m)
{
    for (uint32_t i = 0; i < s->n_objects; i++)
        for (const json_node *p = first_of(s->objects[i].properties); p; p = json_next(p))
            add_named(m, json_key(p));
    for (uint32_t i = 0; i < s->required.n; i++) add_named(m, s->required.v[i]);
    for (uint32_t i = 0; i < s->members.n; i++) add_named(m, s->members.v[i].name);
    for (uint32_t i = 0; i < s->forbidden.n; i++) add_named(m, s->forbidden.v[i]);
    for (uint32_t i = 0; i < m->n && !schema_stopped(c); i++) {
        fill_named(c, s, &m->v[i]);
        m->is_never |= m->v[i].is_required && m->v[i].value == P_NEVER;
    }
}

/* ------------------------------------------------------------------ other names */

/* Names that propertyNames allows. */
static re_id key_expression(struct compiler *c, const struct items *l)
{
    if (l->n == 0) return json_string(c->g, 0, RE_INF);
    if (schema_stopped(c) || c->depth > 100) return RE_NONE;
    struct shape *s = shape_make(c, l);
    re_id r = RE_NONE;
    if (!(s->types & TYPE_STRING)) return RE_NONE;
    if (s->choice != UINT32_MAX) {
        struct alternatives a;
        c->depth++;
        choice_alternatives(c, s, &a);
        for (uint32_t i = 0; i < a.n; i++) r = re_or2(c->g, r, key_expression(c, &a.v[i]));
        c->depth--;
    } else if (s->has_values) {
        for (uint32_t i = 0; i < s->values.n; i++)
            if (json_type(s->values.v[i]) == JSON_STR && value_fits(c, l, s->values.v[i]))
                r = re_or2(c->g, r, json_literal(c->g, json_str(s->values.v[i])));
    } else {
        r = shape_string(c, s);
    }
    return r;
}

/* The names that IT_EXTRA can mean. */
static re_id extra_names(struct compiler *c, const struct shape *s)
{
    struct grammar *g = c->g;
    if (is_about_names(s)) {
        struct items l = {0};
        items_add(c, &l, item_schema(s->extra_member, true));
        return key_expression(c, &l);
    }
    if (s->extra_member) return pattern_of(c, s->extra_member);
    re_id r = json_string(g, 0, RE_INF);
    for (const json_node *p = first_of(json_get(s->extra, "properties")); p; p = json_next(p))
        r = re_and2(g, r, re_not(g, json_literal(g, json_key(p))));
    for (const json_node *p = first_of(json_get(s->extra, "patternProperties")); p;
         p = json_next(p))
        r = re_and2(g, r, re_not(g, pattern_of(c, p)));
    return r;
}

static uint32_t collect_patterns(struct compiler *c, const struct shape *s, const json_node **v)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_objects; i++)
        for (const json_node *p = first_of(s->objects[i].patterns); p; p = json_next(p)) {
            if (n == PATTERNS_MAX) {
                schema_fail(c, SL_ESCHEMA, p,
                            "patternProperties: more than %d patterns speak of "
                            "one object",
                            PATTERNS_MAX);
                return n;
            }
            v[n++] = p;
        }
    return n;
}

/* What facets say of a name that matches exactly the patterns in `set`. */
static struct items region_items(struct compiler *c, const struct shape *s,
                                 const json_node **patterns, uint32_t set)
{
    struct items l = {0};
    uint32_t at = 0;
    (void)patterns;
    for (uint32_t i = 0; i < s->n_objects; i++) {
        bool found = false;
        for (const json_node *p = first_of(s->objects[i].patterns); p; p = json_next(p), at++) {
            if (!(set >> at & 1)) continue;
            items_add(c, &l, item_schema(p, false));
            found = true;
        }
        if (!found) add_additional(c, &l, &s->objects[i]);
    }
    return l;
}

static void add_region(struct compiler *c, const struct shape *s, struct members *m, re_id key,
                       const struct items *l)
{
    part_id value = schema_part(c, l);
    if (value == P_NEVER || !re_is_live(c->g, key)) return;
    struct region r = {.key = key, .value = value};
    if (s->extra) {
        r.extra_key = re_and2(c->g, key, extra_names(c, s));
        r.extra_value = extra_value(c, s, l);
    }
    for (uint32_t i = 0; i < m->n_regions; i++) { /* same value: one region */
        struct region *have = &m->regions[i];
        if (have->value != value || have->extra_value != r.extra_value) continue;
        have->key = re_or2(c->g, have->key, key);
        have->extra_key = re_or2(c->g, have->extra_key, r.extra_key);
        return;
    }
    m->regions[m->n_regions++] = r;
}

static void collect_regions(struct compiler *c, const struct shape *s, struct members *m)
{
    struct grammar *g = c->g;
    const json_node *patterns[PATTERNS_MAX];
    uint32_t n = collect_patterns(c, s, patterns);
    re_id base = key_expression(c, &s->key_schemas);
    if (m->n) {
        struct str *names = xmalloc(m->n * sizeof *names);
        for (uint32_t i = 0; i < m->n; i++) names[i] = m->v[i].name;
        base = re_and2(g, base, re_not(g, json_literals(g, names, m->n)));
        free(names);
    }
    for (uint32_t set = 0; set < 1u << n && !schema_stopped(c); set++) {
        re_id key = base;
        struct items l = region_items(c, s, patterns, set);
        for (uint32_t i = 0; i < n; i++) {
            re_id p = pattern_of(c, patterns[i]);
            key = re_and2(g, key, set >> i & 1 ? p : re_not(g, p));
        }
        add_region(c, s, m, key, &l);
    }
}

/* ------------------------------------------------------------------ the chain */

struct chain {
    struct compiler *c;
    const struct shape *s;
    const struct members *m;
    bool counts;
    uint32_t n_counts; /* counts 0 .. n_counts - 1; the last also means more, without a maximum */
};

static part_id region_members(const struct chain *h, re_id before, bool is_extra)
{
    struct grammar *g = h->c->g;
    part_id v[1 << PATTERNS_MAX];
    for (uint32_t i = 0; i < h->m->n_regions; i++) {
        const struct region *r = &h->m->regions[i];
        part_id key = part_lex(g, is_extra ? r->extra_key : r->key);
        part_id value =
            part_seq2(g, part_lex(g, h->c->colon), is_extra ? r->extra_value : r->value);
        v[i] = part_seq3(g, part_lex(g, before), key, value);
    }
    return part_alt(g, v, h->m->n_regions);
}

/* Other members, then the brace. */
static part_id tail(const struct chain *h, bool is_first, uint32_t count, bool has_extra)
{
    struct compiler *c = h->c;
    struct grammar *g = c->g;
    const struct shape *s = h->s;
    part_id close = part_lex(g, re_cat(g, c->space, re_byte(g, '}')));
    part_id one = region_members(h, c->comma, false);
    uint64_t lo = count < s->min_members ? s->min_members - count : 0;
    uint64_t hi = s->max_members == UINT64_MAX ? RE_INF : s->max_members - count;
    uint32_t more = hi == RE_INF ? RE_INF : (uint32_t)(hi ? hi - 1 : 0);
    if (s->extra && !has_extra) {
        part_id any = part_rep(g, one, 0, RE_INF);
        part_id extra = region_members(h, c->comma, true), at_first = P_NEVER;
        part_id later = part_seq2(g, part_seq3(g, any, extra, any), close);
        if (!is_first) return later;
        at_first = part_seq3(g, region_members(h, c->space, true), any, close);
        return part_alt2(g, at_first, part_seq2(g, region_members(h, c->space, false), later));
    }
    if (!is_first) return part_seq2(g, part_rep(g, one, (uint32_t)lo, (uint32_t)hi), close);
    part_id some = P_NEVER, none = lo ? P_NEVER : part_text(g, "}");
    if (hi)
        some = part_seq3(g, region_members(h, c->space, false),
                         part_rep(g, one, (uint32_t)(lo ? lo - 1 : 0), more), close);
    return part_alt2(g, some, none);
}

/* What follows when member i is at hand, from what follows after it (`next`, by count, by whether
 * the first member is still to come, by whether the extra one has come). */
static part_id link(const struct chain *h, uint32_t i, uint32_t at, const part_id *next)
{
    struct grammar *g = h->c->g;
    const struct named *n = &h->m->v[i];
    bool is_first = at & 1, has_extra = at & 2;
    uint32_t count = at / 4, counted = count;
    bool is_full = h->counts && count >= h->s->max_members;
    if (h->counts && count + 1 < h->n_counts) counted++;
    part_id skip = n->is_required ? P_NEVER : next[at];
    if (n->value == P_NEVER || is_full) return skip;
    re_id key = re_cat(g, json_literal(g, n->name), h->c->colon);
    key = re_cat(g, is_first ? h->c->space : h->c->comma, key);
    uint32_t to = counted * 4 + (has_extra ? 2 : 0);
    part_id member = part_seq3(g, part_lex(g, key), n->value, next[to]);
    if (h->s->extra && !has_extra) {
        part_id extra = part_seq3(g, part_lex(g, key), n->extra_value, next[to | 2]);
        member = part_alt2(g, member, extra);
    }
    return part_alt2(g, member, skip);
}

static part_id make_chain(struct chain *h)
{
    uint32_t n = h->n_counts * 4;
    part_id *now = xmalloc(n * sizeof *now), *next = xmalloc(n * sizeof *next);
    for (uint32_t at = 0; at < n; at++) next[at] = tail(h, at & 1, at / 4, at & 2);
    for (uint32_t i = h->m->n; i-- > 0 && !schema_stopped(h->c);) {
        for (uint32_t at = 0; at < n; at++) now[at] = link(h, i, at, next);
        part_id *t = now;
        now = next;
        next = t;
    }
    part_id out = next[1];
    free(now);
    free(next);
    return out;
}

part_id object_part(struct compiler *c, const struct shape *s)
{
    struct members m = {0};
    collect_names(c, s, &m);
    collect_regions(c, s, &m);
    struct chain h = {.c = c, .s = s, .m = &m, .n_counts = 1};
    h.counts = s->min_members > 0 || s->max_members != UINT64_MAX;
    uint64_t bound = s->max_members == UINT64_MAX ? s->min_members : s->max_members;
    if (h.counts && !m.n_regions && bound > m.n) bound = m.n + 1; /* more there cannot be */
    if (h.counts) h.n_counts = bound < CHAIN_MAX ? (uint32_t)bound + 1 : CHAIN_MAX;
    part_id body = P_NEVER;
    if ((uint64_t)h.n_counts * (m.n + 1) > CHAIN_MAX)
        schema_fail(c, SL_ETOOLARGE, s->all.v[0].s, "minProperties or maxProperties is too large");
    else if (h.counts && s->extra)
        schema_fail(c, SL_ESCHEMA, s->extra, "not about members of any name beside a count");
    else if (!m.is_never && !schema_stopped(c))
        body = make_chain(&h);
    free(m.v);
    return part_seq2(c->g, part_text(c->g, "{"), body);
}
