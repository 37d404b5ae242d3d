/* grammar_choice.c - the alternatives of what needs more than one shape, and what the opposite of a
 * schema means. Alternatives of oneOf are made disjoint: each holds, and every other that could hold
 * at the same time does not.
 */
#include "text/grammar_schema.h"

static struct items *add_alternative(struct compiler *c, struct alternatives *a)
{
    if (a->n == a->cap) {
        uint32_t cap = a->cap ? a->cap * 2 : 8;
        struct items *v = schema_alloc(c, cap * sizeof *v);
        if (a->n) memcpy(v, a->v, a->n * sizeof *v);
        a->v = v;
        a->cap = cap;
    }
    a->v[a->n] = (struct items){0};
    return &a->v[a->n++];
}

static void alternative1(struct compiler *c, struct alternatives *a, struct item x)
{
    items_add(c, add_alternative(c, a), x);
}

static void alternative2(struct compiler *c, struct alternatives *a, struct item x, struct item y)
{
    struct items *l = add_alternative(c, a);
    items_add(c, l, x);
    items_add(c, l, y);
}

static void alternative3(struct compiler *c, struct alternatives *a, struct item x, struct item y,
                         struct item z)
{
    struct items *l = add_alternative(c, a);
    items_add(c, l, x);
    items_add(c, l, y);
    items_add(c, l, z);
}

static struct item item_types(unsigned types)
{
    return (struct item){.kind = IT_TYPES, .types = (uint8_t)types};
}

static struct item item_name(enum item_kind kind, struct str name)
{
    return (struct item){.kind = (uint8_t)kind, .name = name};
}

/* ------------------------------------------------------------------ not */

static void not_one_of(struct compiler *c, const json_node *v, struct alternatives *a)
{
    struct items *none = add_alternative(c, a);
    for (const json_node *m = json_child(v); m; m = json_next(m))
        items_add(c, none, item_schema(m, true));
    for (const json_node *m = json_child(v); m; m = json_next(m))
        for (const json_node *k = json_next(m); k && !schema_stopped(c); k = json_next(k)) {
            struct items *both = add_alternative(c, a);
            items_add(c, both, item_schema(m, false));
            items_add(c, both, item_schema(k, false));
        }
}

static void not_if(struct compiler *c, const json_node *s, const json_node *v,
                   struct alternatives *a)
{
    const json_node *sides[] = {json_get(s, "then"), json_get(s, "else")};
    for (int i = 0; i < 2; i++) {
        if (!sides[i]) continue;
        struct items *l = add_alternative(c, a);
        items_add(c, l, item_schema(v, i == 1));
        items_add(c, l, item_schema(sides[i], true));
    }
}

static void not_properties(struct compiler *c, const json_node *v, struct alternatives *a)
{
    for (const json_node *m = json_child(v); m; m = json_next(m)) {
        struct item member = item_name(IT_MEMBER, json_key(m));
        member.s = m;
        member.is_negated = true;
        alternative3(c, a, item_types(TYPE_OBJECT), item_name(IT_REQUIRE, json_key(m)), member);
    }
}

static void not_dependencies(struct compiler *c, const json_node *v, struct alternatives *a)
{
    for (const json_node *m = json_child(v); m; m = json_next(m)) {
        struct item has = item_name(IT_REQUIRE, json_key(m)), object = item_types(TYPE_OBJECT);
        if (json_type(m) != JSON_ARR) {
            alternative3(c, a, object, has, item_schema(m, true));
            continue;
        }
        for (const json_node *n = json_child(m); n; n = json_next(n))
            if (json_type(n) == JSON_STR)
                alternative3(c, a, object, has, item_name(IT_FORBID, json_str(n)));
    }
}

static void unsupported_not(struct compiler *c, const json_node *v)
{
    struct str k = json_key(v);
    schema_fail(c, SL_ESCHEMA, v, "%.*s inside not (or an overlapping oneOf) is not supported",
                (int)k.n, k.p);
}

static void not_items(struct compiler *c, const json_node *s, const json_node *v,
                      struct alternatives *a)
{
    if (json_type(v) == JSON_ARR || json_get(s, "prefixItems")) {
        unsupported_not(c, v);
        return;
    }
    struct item some = {.kind = IT_CONTAINS, .s = v, .is_negated = true};
    alternative2(c, a, item_types(TYPE_ARRAY), some);
}

static void not_ref(struct compiler *c, const json_node *s, const json_node *v,
                    struct alternatives *a)
{
    const json_node *to = refs_resolve(c, s, v);
    if (to) alternative1(c, a, item_schema(to, true));
}

/* Each of the schemas in v fails: any one of them (allOf), or all (anyOf). */
static void not_each(struct compiler *c, const json_node *v, bool together, struct alternatives *a)
{
    struct items *l = together ? add_alternative(c, a) : NULL;
    for (const json_node *m = json_child(v); m; m = json_next(m)) {
        if (l)
            items_add(c, l, item_schema(m, true));
        else
            alternative1(c, a, item_schema(m, true));
    }
}

static void not_required(struct compiler *c, const json_node *v, struct alternatives *a)
{
    for (const json_node *m = json_child(v); m; m = json_next(m)) {
        if (json_type(m) != JSON_STR) continue;
        alternative2(c, a, item_types(TYPE_OBJECT), item_name(IT_FORBID, json_str(m)));
    }
}

static void not_contains(struct compiler *c, const json_node *s, const json_node *v,
                         struct alternatives *a)
{
    struct item none = {.kind = IT_ITEMS, .s = v, .is_negated = true};
    if (json_get(s, "minContains") || json_get(s, "maxContains")) unsupported_not(c, v);
    alternative2(c, a, item_types(TYPE_ARRAY), none);
}

static void not_additional(struct compiler *c, const json_node *s, const json_node *v,
                           struct alternatives *a)
{
    struct item extra = {.kind = IT_EXTRA, .s = s};
    if (json_type(v) == JSON_TRUE || (json_type(v) == JSON_OBJ && !json_child(v))) return;
    alternative2(c, a, item_types(TYPE_OBJECT), extra);
}

/* One of the members whose names match is not as it should be. */
static void not_patterns(struct compiler *c, const json_node *s, const json_node *v,
                         struct alternatives *a)
{
    for (const json_node *p = json_child(v); p; p = json_next(p))
        alternative2(c, a, item_types(TYPE_OBJECT),
                     (struct item){.kind = IT_EXTRA, .s = s, .member = p});
}

/* Does the keyword say something that has no opposite here? */
static bool is_beyond_not(const json_node *v, enum keyword k)
{
    const char *unused;
    switch (k) {
    case KW_EXCLUSIVE_MINIMUM:
    case KW_EXCLUSIVE_MAXIMUM:
    case KW_UNIQUE_ITEMS:
        return json_type(v) == JSON_TRUE;
    case KW_FORMAT:
        return json_type(v) == JSON_STR && format_pattern(json_str(v), &unused);
    case KW_PREFIX_ITEMS:
    case KW_ADDITIONAL_ITEMS:
    case KW_DYNAMIC_REF:
    case KW_RECURSIVE_REF:
    case KW_UNEVALUATED_ITEMS:
    case KW_UNEVALUATED_PROPERTIES:
        return true;
    default:
        return false;
    }
}

/* Keywords whose opposite is a bound too (keyword_item knows it). */
static bool has_opposite(const json_node *v, enum keyword k)
{
    static const enum keyword bounds[] = {
        KW_TYPE,        KW_ENUM,           KW_CONST,         KW_MINIMUM,    KW_MAXIMUM,
        KW_MULTIPLE_OF, KW_PATTERN,        KW_MIN_LENGTH,    KW_MAX_LENGTH, KW_MIN_ITEMS,
        KW_MAX_ITEMS,   KW_MIN_PROPERTIES, KW_MAX_PROPERTIES};
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        if (bounds[i] == k) return true;
    return (k == KW_EXCLUSIVE_MINIMUM || k == KW_EXCLUSIVE_MAXIMUM) && json_is_num(v);
}

static void not_keyword(struct compiler *c, const json_node *s, const json_node *v,
                        struct alternatives *a)
{
    enum keyword k = keyword_of(json_key(v));
    if (has_opposite(v, k)) {
        alternative1(c, a, (struct item){.kind = IT_NOT_KEY, .s = s, .member = v});
        return;
    }
    if (is_beyond_not(v, k)) {
        unsupported_not(c, v);
        return;
    }
    switch (k) {
    case KW_REF:
        not_ref(c, s, v, a);
        return;
    case KW_ALL_OF:
        not_each(c, v, false, a);
        return;
    case KW_ANY_OF:
        not_each(c, v, true, a);
        return;
    case KW_ONE_OF:
        not_one_of(c, v, a);
        return;
    case KW_NOT:
        alternative1(c, a, item_schema(v, false));
        return;
    case KW_IF:
        not_if(c, s, v, a);
        return;
    case KW_REQUIRED:
        not_required(c, v, a);
        return;
    case KW_PROPERTIES:
        not_properties(c, v, a);
        return;
    case KW_DEPENDENCIES:
    case KW_DEPENDENT_REQUIRED:
    case KW_DEPENDENT_SCHEMAS:
        not_dependencies(c, v, a);
        return;
    case KW_ITEMS:
        not_items(c, s, v, a);
        return;
    case KW_CONTAINS:
        not_contains(c, s, v, a);
        return;
    case KW_ADDITIONAL_PROPERTIES:
        not_additional(c, s, v, a);
        return;
    case KW_PATTERN_PROPERTIES:
        not_patterns(c, s, v, a);
        return;
    case KW_PROPERTY_NAMES:
        alternative2(c, a, item_types(TYPE_OBJECT),
                     (struct item){.kind = IT_EXTRA, .s = s, .member = v});
        return;
    default:
        return;
    }
}

void not_alternatives(struct compiler *c, const json_node *s, struct alternatives *out)
{
    if (json_type(s) == JSON_TRUE) return;
    if (json_type(s) == JSON_FALSE) {
        add_alternative(c, out);
        return;
    }
    if (json_type(s) != JSON_OBJ) {
        schema_fail(c, SL_ESCHEMA, s, "a schema must be an object or a boolean");
        return;
    }
    const json_node *ref = c->old_ref ? json_get(s, "$ref") : NULL;
    if (ref && json_type(ref) == JSON_STR) {
        not_keyword(c, s, ref, out);
        return;
    }
    for (const json_node *m = json_child(s); m && !schema_stopped(c); m = json_next(m))
        not_keyword(c, s, m, out);
}

/* ------------------------------------------------------------------ choices */

/* A copy of the shape's items in which the one with the choice has `done` added. */
static struct items base_of(struct compiler *c, const struct shape *s, uint16_t done)
{
    struct items l = items_copy(c, &s->all);
    l.v[s->choice].done = (uint16_t)(l.v[s->choice].done + done);
    return l;
}

static struct items *from_base(struct compiler *c, const struct items *base, struct alternatives *a)
{
    struct items *l = add_alternative(c, a);
    *l = items_copy(c, base);
    return l;
}

static bool is_list(struct compiler *c, const json_node *v, const char *keyword)
{
    if (json_type(v) == JSON_ARR && json_child(v)) return true;
    schema_fail(c, SL_ESCHEMA, v, "%s must be an array of schemas", keyword);
    return false;
}

static void any_of(struct compiler *c, const struct shape *s, struct alternatives *out)
{
    struct items base = base_of(c, s, DONE_ANY_OF);
    const json_node *v = json_get(s->all.v[s->choice].s, "anyOf");
    if (!is_list(c, v, "anyOf")) return;
    for (const json_node *m = json_child(v); m; m = json_next(m))
        items_add(c, from_base(c, &base, out), item_schema(m, false));
}

/* Can m and k hold at the same time, with all else that must hold? */
static bool overlaps(struct compiler *c, const struct items *base, const json_node *m,
                     const json_node *k)
{
    struct items both = items_copy(c, base);
    items_add(c, &both, item_schema(m, false));
    items_add(c, &both, item_schema(k, false));
    return !values_never(c, &both, 0);
}

static void one_of(struct compiler *c, const struct shape *s, struct alternatives *out)
{
    struct items base = base_of(c, s, DONE_ONE_OF);
    const json_node *v = json_get(s->all.v[s->choice].s, "oneOf");
    if (!is_list(c, v, "oneOf")) return;
    for (const json_node *m = json_child(v); m; m = json_next(m)) {
        struct items *l = from_base(c, &base, out);
        items_add(c, l, item_schema(m, false));
        for (const json_node *k = json_child(v); k && !schema_stopped(c); k = json_next(k))
            if (k != m && overlaps(c, &base, m, k)) items_add(c, l, item_schema(k, true));
    }
}

static void if_then(struct compiler *c, const struct shape *s, struct alternatives *out)
{
    struct items base = base_of(c, s, DONE_IF);
    const json_node *schema = s->all.v[s->choice].s, *test = json_get(schema, "if");
    const json_node *sides[] = {json_get(schema, "then"), json_get(schema, "else")};
    for (int i = 0; i < 2; i++) {
        struct items *l = from_base(c, &base, out);
        items_add(c, l, item_schema(test, i == 1));
        if (sides[i]) items_add(c, l, item_schema(sides[i], false));
    }
}

/* The next dependency: either the name is missing, or it is there with what it asks for. */
static void dependency(struct compiler *c, const struct shape *s, struct alternatives *out)
{
    const struct item *it = &s->all.v[s->choice];
    uint32_t skip = it->done / DONE_DEPENDENCY;
    const json_node *found = NULL;
    for (const json_node *m = json_child(it->s); m && !found; m = json_next(m)) {
        enum keyword k = keyword_of(json_key(m));
        if (k != KW_DEPENDENCIES && k != KW_DEPENDENT_REQUIRED && k != KW_DEPENDENT_SCHEMAS)
            continue;
        for (found = json_child(m); found && skip; found = json_next(found)) skip--;
    }
    if (!found || it->done > UINT16_MAX - DONE_DEPENDENCY) {
        schema_fail(c, SL_ESCHEMA, it->s, "too many dependencies");
        return;
    }
    struct items base = base_of(c, s, DONE_DEPENDENCY);
    items_add(c, from_base(c, &base, out), item_name(IT_FORBID, json_key(found)));
    struct items *l = from_base(c, &base, out);
    items_add(c, l, item_types(TYPE_OBJECT));
    items_add(c, l, item_name(IT_REQUIRE, json_key(found)));
    if (json_type(found) != JSON_ARR) {
        items_add(c, l, item_schema(found, false));
        return;
    }
    for (const json_node *m = json_child(found); m; m = json_next(m))
        if (json_type(m) == JSON_STR) items_add(c, l, item_name(IT_REQUIRE, json_str(m)));
}

void choice_alternatives(struct compiler *c, const struct shape *s, struct alternatives *out)
{
    *out = (struct alternatives){0};
    switch (s->choice_keyword) {
    case KW_ANY_OF:
        any_of(c, s, out);
        return;
    case KW_ONE_OF:
        one_of(c, s, out);
        return;
    case KW_IF:
        if_then(c, s, out);
        return;
    case KW_NOT: {
        struct alternatives a = {0};
        struct items base = base_of(c, s, 1);
        not_alternatives(c, s->all.v[s->choice].s, &a);
        for (uint32_t i = 0; i < a.n; i++) {
            struct items *l = from_base(c, &base, out);
            for (uint32_t k = 0; k < a.v[i].n; k++) items_add(c, l, a.v[i].v[k]);
        }
        return;
    }
    default:
        dependency(c, s, out);
        return;
    }
}
