/* grammar_shape.c - a list of items becomes one shape: the keywords of all its schemas, taken
 * together. References and allOf are opened on the way; what would need more than one shape is left
 * as a choice.
 */
#include <stdlib.h>

#include "text/grammar_schema.h"

static const char *const keyword_names[] = {
    "", "additionalItems", "additionalProperties", "allOf", "anyOf", "const", "contains",
    "dependencies", "dependentRequired", "dependentSchemas", "$dynamicRef", "else", "enum",
    "exclusiveMaximum", "exclusiveMinimum", "format", "if", "items", "maxContains", "maxItems",
    "maxLength", "maxProperties", "maximum", "minContains", "minItems", "minLength",
    "minProperties", "minimum", "multipleOf", "not", "oneOf", "pattern", "patternProperties",
    "prefixItems", "properties", "propertyNames", "$recursiveRef", "$ref", "required", "then",
    "type", "unevaluatedItems", "unevaluatedProperties", "uniqueItems"};

enum keyword keyword_of(struct str name)
{
    for (int k = 1; k <= KW_UNIQUE_ITEMS; k++)
        if (name.n && keyword_names[k][0] == name.p[0] && str_is(name, keyword_names[k]))
            return (enum keyword)k;
    return KW_OTHER;
}

/* ------------------------------------------------------------------ parts of a shape */

static void *list_room(struct compiler *c, void *v, uint32_t n, uint32_t *cap, size_t size)
{
    if (n < *cap) return v;
    uint32_t more = *cap ? *cap * 2 : 8;
    void *p = schema_alloc(c, more * size);
    if (n) memcpy(p, v, n * size);
    *cap = more;
    return p;
}

static void add_value(struct compiler *c, struct value_list *l, const json_node *v)
{
    l->v = list_room(c, l->v, l->n, &l->cap, sizeof *l->v);
    l->v[l->n++] = v;
}

static void add_name(struct compiler *c, struct name_list *l, struct str name)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (str_eq(l->v[i], name)) return;
    l->v = list_room(c, l->v, l->n, &l->cap, sizeof *l->v);
    l->v[l->n++] = name;
}

static uint8_t type_named(struct compiler *c, const json_node *v)
{
    static const struct {
        const char *name;
        uint8_t types;
    } names[] = {{"null", TYPE_NULL},     {"boolean", TYPE_BOOL}, {"integer", TYPE_INT},
                 {"number", TYPE_NUMBER}, {"string", TYPE_STRING}, {"array", TYPE_ARRAY},
                 {"object", TYPE_OBJECT}, {"any", TYPE_ANY}};
    for (size_t i = 0; i < sizeof names / sizeof *names && json_type(v) == JSON_STR; i++)
        if (str_is(json_str(v), names[i].name)) return names[i].types;
    schema_fail(c, SL_ESCHEMA, v, "type must be null, boolean, integer, number, string, array or "
                                  "object, or a list of these");
    return TYPE_ANY;
}

static uint8_t types_of(struct compiler *c, const json_node *v)
{
    if (json_type(v) != JSON_ARR) return type_named(c, v);
    uint8_t types = 0;
    for (const json_node *t = json_child(v); t; t = json_next(t)) types |= type_named(c, t);
    return types;
}

/* A count: a whole number from 0, however it is written. */
static uint64_t count_of(struct compiler *c, const json_node *v, const char *keyword)
{
    if (json_is_num(v) && json_num(v) >= 0 && json_num(v) < 1e15)
        return (uint64_t)json_num(v) + ((double)(uint64_t)json_num(v) < json_num(v));
    schema_fail(c, SL_ESCHEMA, v, "%s must be a whole number from 0", keyword);
    return 0;
}

static bool read_number(struct compiler *c, const json_node *v, const char *keyword,
                        struct decimal *d)
{
    if (!json_is_num(v)) {
        schema_fail(c, SL_ESCHEMA, v, "%s must be a number", keyword);
        return false;
    }
    if (decimal_read(d, v)) return true;
    if (json_num(v) > -1 && json_num(v) < 1) /* too near 0 to matter */
        return *d = (struct decimal){.n = 1, .digits = "0"}, true;
    return false; /* past all numbers that are written: no bound */
}

static void bound_below(struct shape *s, const struct decimal *d, bool is_open)
{
    struct number_range *r = &s->range;
    int c = r->has_min ? decimal_compare(d, &r->min) : 1;
    if (c < 0 || (c == 0 && !is_open)) return;
    r->has_min = true;
    r->min = *d;
    r->is_min_open = is_open;
}

static void bound_above(struct shape *s, const struct decimal *d, bool is_open)
{
    struct number_range *r = &s->range;
    int c = r->has_max ? decimal_compare(d, &r->max) : -1;
    if (c > 0 || (c == 0 && !is_open)) return;
    r->has_max = true;
    r->max = *d;
    r->is_max_open = is_open;
}

static void at_most(uint64_t *have, uint64_t n)
{
    if (n < *have) *have = n;
}

static void at_least(uint64_t *have, uint64_t n)
{
    if (n > *have) *have = n;
}

static void add_multiple(struct compiler *c, struct shape *s, const json_node *v, bool negated)
{
    uint32_t *n = negated ? &s->n_not_multiple : &s->n_multiple;
    struct decimal *d = negated ? s->not_multiple : s->multiple;
    if (!json_is_num(v) || json_num(v) <= 0)
        schema_fail(c, SL_ESCHEMA, v, "multipleOf must be a number above 0");
    else if (*n == MULTIPLES || !read_number(c, v, "multipleOf", &d[*n]))
        schema_fail(c, SL_ESCHEMA, v, "multipleOf is too large or used too often");
    else
        ++*n;
}

static void add_pattern(struct compiler *c, struct shape *s, const json_node *v, bool negated)
{
    struct sl_error e;
    re_id r;
    if (json_type(v) != JSON_STR) {
        schema_fail(c, SL_ESCHEMA, v, "pattern must be a string");
    } else if (pattern_compile(c->g, json_str(v), PATTERN_JSON_SEARCH, &r, &e) < 0) {
        schema_fail(c, e.code, v, "pattern: %s", e.text);
    } else {
        if (negated) r = re_and2(c->g, json_string(c->g, 0, RE_INF), re_not(c->g, r));
        s->text = re_and2(c->g, s->text, r);
    }
}

static void add_format(struct compiler *c, struct shape *s, const json_node *v)
{
    const char *pattern;
    struct sl_error e;
    re_id r;
    if (json_type(v) != JSON_STR) {
        schema_fail(c, SL_ESCHEMA, v, "format must be a string");
    } else if (format_pattern(json_str(v), &pattern)) {
        if (pattern_compile(c->g, str_of(pattern), PATTERN_JSON_SEARCH, &r, &e) < 0)
            schema_fail(c, e.code, v, "format: %s", e.text);
        else
            s->text = re_and2(c->g, s->text, r);
    }
}

/* enum and const: what is left of the values so far. */
static void keep_values(struct compiler *c, struct shape *s, const json_node *v, bool is_const)
{
    struct value_list found = {0};
    if (!is_const && json_type(v) != JSON_ARR) {
        schema_fail(c, SL_ESCHEMA, v, "enum must be an array");
        return;
    }
    for (const json_node *m = is_const ? v : json_child(v); m; m = is_const ? NULL : json_next(m)) {
        bool is_in = !s->has_values;
        for (uint32_t i = 0; i < s->values.n && !is_in; i++) is_in = value_equal(s->values.v[i], m);
        if (is_in) add_value(c, &found, m);
    }
    s->has_values = true;
    s->values = found;
}

static void exclude_values(struct compiler *c, struct shape *s, const json_node *v, bool is_const)
{
    if (is_const) {
        add_value(c, &s->excluded, v);
        return;
    }
    for (const json_node *m = json_child(v); m; m = json_next(m)) add_value(c, &s->excluded, m);
}

static void add_array_facet(struct compiler *c, struct shape *s, struct array_facet f)
{
    s->arrays = list_room(c, s->arrays, s->n_arrays, &s->cap_arrays, sizeof f);
    s->arrays[s->n_arrays++] = f;
}

static void add_object_facet(struct compiler *c, struct shape *s, struct object_facet f)
{
    s->objects = list_room(c, s->objects, s->n_objects, &s->cap_objects, sizeof f);
    s->objects[s->n_objects++] = f;
}

static void add_required(struct compiler *c, struct shape *s, const json_node *v)
{
    if (json_type(v) == JSON_FALSE || json_type(v) == JSON_TRUE) return; /* draft 3 */
    if (json_type(v) != JSON_ARR) {
        schema_fail(c, SL_ESCHEMA, v, "required must be an array of names");
        return;
    }
    for (const json_node *m = json_child(v); m; m = json_next(m)) {
        if (json_type(m) == JSON_STR)
            add_name(c, &s->required, json_str(m));
        else
            schema_fail(c, SL_ESCHEMA, m, "required must be an array of names");
    }
}

static void unsupported(struct compiler *c, const json_node *v, const char *why)
{
    struct str k = json_key(v);
    if (!c->o->is_lenient)
        schema_fail(c, SL_ESCHEMA, v, "%.*s is not supported%s", (int)k.n, k.p, why);
}

/* ------------------------------------------------------------------ one schema */

/* Keywords that make a choice, unless it was made. */
static void note_choice(struct shape *s, uint32_t index, enum keyword k, unsigned done)
{
    if (s->choice != UINT32_MAX || (s->all.v[index].done & done)) return;
    s->choice = index;
    s->choice_keyword = k;
}

static void add_contains(struct compiler *c, struct shape *s, const json_node *schema,
                         const json_node *v)
{
    const json_node *min = json_get(schema, "minContains"), *max = json_get(schema, "maxContains");
    if (min && count_of(c, min, "minContains") == 0 && !max) return;
    if (max)
        unsupported(c, max, "");
    else if (min && count_of(c, min, "minContains") > 1)
        unsupported(c, min, " above 1");
    items_add(c, &s->contains, item_schema(v, false));
}

static void dependencies(struct compiler *c, struct shape *s, uint32_t index, const json_node *v,
                         enum keyword k)
{
    if (json_type(v) != JSON_OBJ) {
        schema_fail(c, SL_ESCHEMA, v, "dependencies must be an object");
        return;
    }
    if (s->choice != UINT32_MAX) return;
    /* Those of the three keywords that were handled are counted together, in document order. */
    uint32_t before = 0;
    for (const json_node *m = json_child(s->all.v[index].s); m && m != v; m = json_next(m)) {
        enum keyword other = keyword_of(json_key(m));
        if (other == KW_DEPENDENCIES || other == KW_DEPENDENT_REQUIRED ||
            other == KW_DEPENDENT_SCHEMAS)
            before += (uint32_t)json_len(m);
    }
    if (s->all.v[index].done / DONE_DEPENDENCY >= before + json_len(v)) return;
    s->choice = index;
    s->choice_keyword = k;
}

static void one_bound(struct compiler *c, struct shape *s, const json_node *schema,
                      const json_node *v, enum keyword k)
{
    struct decimal d;
    const json_node *open;
    switch (k) {
    case KW_MINIMUM:
        open = json_get(schema, "exclusiveMinimum");
        if (read_number(c, v, "minimum", &d))
            bound_below(s, &d, open && json_type(open) == JSON_TRUE);
        break;
    case KW_MAXIMUM:
        open = json_get(schema, "exclusiveMaximum");
        if (read_number(c, v, "maximum", &d))
            bound_above(s, &d, open && json_type(open) == JSON_TRUE);
        break;
    case KW_EXCLUSIVE_MINIMUM:
        if (json_type(v) == JSON_TRUE || json_type(v) == JSON_FALSE) break; /* draft 4 */
        if (read_number(c, v, "exclusiveMinimum", &d)) bound_below(s, &d, true);
        break;
    default:
        if (json_type(v) == JSON_TRUE || json_type(v) == JSON_FALSE) break;
        if (read_number(c, v, "exclusiveMaximum", &d)) bound_above(s, &d, true);
        break;
    }
}

static void array_keywords(struct compiler *c, struct shape *s, const json_node *schema)
{
    const json_node *prefix = json_get(schema, "prefixItems"), *items = json_get(schema, "items");
    const json_node *rest = items;
    if (items && json_type(items) == JSON_ARR) { /* drafts to 2019-09 */
        prefix = items;
        rest = json_get(schema, "additionalItems");
    }
    if (prefix && json_type(prefix) != JSON_ARR)
        schema_fail(c, SL_ESCHEMA, prefix, "prefixItems must be an array");
    else if (prefix || rest)
        add_array_facet(c, s, (struct array_facet){prefix, rest, false});
}

static void object_keywords(struct compiler *c, struct shape *s, const json_node *schema)
{
    struct object_facet f = {.properties = json_get(schema, "properties"),
                             .patterns = json_get(schema, "patternProperties"),
                             .additional = json_get(schema, "additionalProperties")};
    f.is_closed = c->o->is_strict && f.properties && !f.additional;
    const json_node *maps[] = {f.properties, f.patterns};
    for (int i = 0; i < 2; i++)
        if (maps[i] && json_type(maps[i]) != JSON_OBJ)
            schema_fail(c, SL_ESCHEMA, maps[i], "%s must be an object",
                        i ? "patternProperties" : "properties");
    if (!c->code && (f.properties || f.patterns || f.additional)) add_object_facet(c, s, f);
}

static void list_of_schemas(struct compiler *c, struct shape *s, const json_node *v)
{
    if (json_type(v) != JSON_ARR)
        schema_fail(c, SL_ESCHEMA, v, "allOf must be an array of schemas");
    else
        for (const json_node *m = json_child(v); m; m = json_next(m))
            items_insert(c, &s->all, &s->insert_at, item_schema(m, false));
}

/* The member v of a schema, which is item `index`. */
static void one_keyword(struct compiler *c, struct shape *s, uint32_t index, const json_node *v)
{
    const json_node *schema = s->all.v[index].s;
    enum keyword k = keyword_of(json_key(v));
    switch (k) {
    case KW_TYPE: s->types &= types_of(c, v); break;
    case KW_ENUM:
    case KW_CONST: keep_values(c, s, v, k == KW_CONST); break;
    case KW_MINIMUM:
    case KW_MAXIMUM:
    case KW_EXCLUSIVE_MINIMUM:
    case KW_EXCLUSIVE_MAXIMUM: one_bound(c, s, schema, v, k); break;
    case KW_MULTIPLE_OF: add_multiple(c, s, v, false); break;
    case KW_MIN_LENGTH: at_least(&s->min_length, count_of(c, v, "minLength")); break;
    case KW_MAX_LENGTH: at_most(&s->max_length, count_of(c, v, "maxLength")); break;
    case KW_PATTERN: add_pattern(c, s, v, false); break;
    case KW_FORMAT: add_format(c, s, v); break;
    case KW_MIN_ITEMS: at_least(&s->min_items, count_of(c, v, "minItems")); break;
    case KW_MAX_ITEMS: at_most(&s->max_items, count_of(c, v, "maxItems")); break;
    case KW_UNIQUE_ITEMS: s->is_unique |= json_type(v) == JSON_TRUE; break;
    case KW_CONTAINS: add_contains(c, s, schema, v); break;
    case KW_MIN_PROPERTIES: at_least(&s->min_members, count_of(c, v, "minProperties")); break;
    case KW_MAX_PROPERTIES: at_most(&s->max_members, count_of(c, v, "maxProperties")); break;
    case KW_REQUIRED: add_required(c, s, v); break;
    case KW_PROPERTY_NAMES: items_add(c, &s->key_schemas, item_schema(v, false)); break;
    case KW_ALL_OF: list_of_schemas(c, s, v); break;
    case KW_ANY_OF: note_choice(s, index, k, DONE_ANY_OF); break;
    case KW_ONE_OF: note_choice(s, index, k, DONE_ONE_OF); break;
    case KW_IF:
        if (json_get(schema, "then") || json_get(schema, "else")) note_choice(s, index, k, DONE_IF);
        break;
    case KW_NOT: items_insert(c, &s->all, &s->insert_at, item_schema(v, true)); break;
    case KW_DEPENDENCIES:
    case KW_DEPENDENT_REQUIRED:
    case KW_DEPENDENT_SCHEMAS: dependencies(c, s, index, v, k); break;
    case KW_REF: {
        const json_node *to = refs_resolve(c, schema, v);
        if (to) items_insert(c, &s->all, &s->insert_at, item_schema(to, false));
        break;
    }
    case KW_DYNAMIC_REF:
    case KW_RECURSIVE_REF:
    case KW_UNEVALUATED_ITEMS:
    case KW_UNEVALUATED_PROPERTIES: unsupported(c, v, ""); break;
    case KW_ITEMS: /* array_keywords and object_keywords see these together */
    case KW_PREFIX_ITEMS:
    case KW_ADDITIONAL_ITEMS:
    case KW_PROPERTIES:
    case KW_PATTERN_PROPERTIES:
    case KW_ADDITIONAL_PROPERTIES:
    case KW_MIN_CONTAINS:
    case KW_MAX_CONTAINS:
    case KW_THEN:
    case KW_ELSE:
    case KW_OTHER: break;
    }
}

static void add_schema(struct compiler *c, struct shape *s, uint32_t index)
{
    const json_node *schema = s->all.v[index].s, *ref;
    switch (json_type(schema)) {
    case JSON_TRUE: return;
    case JSON_FALSE: s->types = 0; return;
    case JSON_OBJ: break;
    case JSON_NULL:
    case JSON_INT:
    case JSON_REAL:
    case JSON_STR:
    case JSON_ARR:
        schema_fail(c, SL_ESCHEMA, schema, "a schema must be an object or a boolean");
        return;
    }
    if (c->old_ref && (ref = json_get(schema, "$ref")) && json_type(ref) == JSON_STR) {
        one_keyword(c, s, index, ref);
        return;
    }
    for (const json_node *m = json_child(schema); m && !c->code; m = json_next(m))
        one_keyword(c, s, index, m);
    array_keywords(c, s, schema);
    object_keywords(c, s, schema);
}

/* The opposite of one keyword, for those that are the opposite of a bound. */
static void add_not_key(struct compiler *c, struct shape *s, const struct item *it)
{
    const json_node *v = it->member;
    struct decimal d;
    switch (keyword_of(json_key(v))) {
    case KW_TYPE: {
        s->types &= (uint8_t)~types_of(c, v);
        return;
    }
    case KW_ENUM:
    case KW_CONST: exclude_values(c, s, v, str_is(json_key(v), "const")); return;
    case KW_MINIMUM:
        s->types &= TYPE_NUMBER;
        if (read_number(c, v, "minimum", &d)) bound_above(s, &d, true);
        return;
    case KW_MAXIMUM:
        s->types &= TYPE_NUMBER;
        if (read_number(c, v, "maximum", &d)) bound_below(s, &d, true);
        return;
    case KW_EXCLUSIVE_MINIMUM:
        s->types &= TYPE_NUMBER;
        if (read_number(c, v, "exclusiveMinimum", &d)) bound_above(s, &d, false);
        return;
    case KW_EXCLUSIVE_MAXIMUM:
        s->types &= TYPE_NUMBER;
        if (read_number(c, v, "exclusiveMaximum", &d)) bound_below(s, &d, false);
        return;
    case KW_MULTIPLE_OF:
        s->types &= TYPE_NUMBER;
        add_multiple(c, s, v, true);
        return;
    case KW_PATTERN:
        s->types &= TYPE_STRING;
        add_pattern(c, s, v, true);
        return;
    default: break;
    }
    /* Counts: at least n turns into at most n - 1, at most n into at least n + 1. */
    uint64_t n = count_of(c, v, "a bound");
    bool none = n == 0;
    switch (keyword_of(json_key(v))) {
    case KW_MIN_LENGTH:
        s->types &= none ? 0 : TYPE_STRING;
        at_most(&s->max_length, n - 1);
        return;
    case KW_MAX_LENGTH:
        s->types &= TYPE_STRING;
        at_least(&s->min_length, n + 1);
        return;
    case KW_MIN_ITEMS:
        s->types &= none ? 0 : TYPE_ARRAY;
        at_most(&s->max_items, n - 1);
        return;
    case KW_MAX_ITEMS:
        s->types &= TYPE_ARRAY;
        at_least(&s->min_items, n + 1);
        return;
    case KW_MIN_PROPERTIES:
        s->types &= none ? 0 : TYPE_OBJECT;
        at_most(&s->max_members, n - 1);
        return;
    case KW_MAX_PROPERTIES:
        s->types &= TYPE_OBJECT;
        at_least(&s->min_members, n + 1);
        return;
    default: ASSERT(!"a keyword without an opposite");
    }
}

/* The opposite of a schema: at once where it can only mean one thing, else a choice. */
static void add_not(struct compiler *c, struct shape *s, uint32_t index)
{
    const json_node *schema = s->all.v[index].s;
    if (s->all.v[index].done) return;
    struct alternatives a = {0};
    not_alternatives(c, schema, &a);
    if (a.n == 0) {
        s->types = 0;
    } else if (a.n == 1) {
        for (uint32_t i = 0; i < a.v[0].n; i++) items_insert(c, &s->all, &s->insert_at, a.v[0].v[i]);
    } else {
        note_choice(s, index, KW_NOT, 1);
    }
}

static void add_item(struct compiler *c, struct shape *s, uint32_t index)
{
    struct item it = s->all.v[index];
    switch ((enum item_kind)it.kind) {
    case IT_SCHEMA: add_schema(c, s, index); return;
    case IT_NOT: add_not(c, s, index); return;
    case IT_NOT_KEY: add_not_key(c, s, &it); return;
    case IT_TYPES: s->types &= it.types; return;
    case IT_REQUIRE: add_name(c, &s->required, it.name); return;
    case IT_FORBID: add_name(c, &s->forbidden, it.name); return;
    case IT_MEMBER: items_add(c, &s->members, it); return;
    case IT_ITEMS: add_array_facet(c, s, (struct array_facet){NULL, it.s, it.is_negated}); return;
    case IT_CONTAINS: items_add(c, &s->contains, item_schema(it.s, it.is_negated)); return;
    case IT_EXTRA:
        if (s->extra && s->extra != it.s)
            schema_fail(c, SL_ESCHEMA, it.s, "two `not` with additionalProperties in one place");
        s->extra = it.s;
        return;
    }
}

struct shape *shape_make(struct compiler *c, const struct items *l)
{
    struct shape *s = schema_alloc(c, sizeof *s);
    *s = (struct shape){.types = TYPE_ANY,
                        .max_length = UINT64_MAX,
                        .max_items = UINT64_MAX,
                        .max_members = UINT64_MAX,
                        .text = RE_ALL,
                        .choice = UINT32_MAX};
    s->all = items_copy(c, l);
    for (uint32_t i = 0; i < s->all.n && !schema_stopped(c); i++) {
        s->insert_at = i + 1; /* what an item opens comes right after it: the document's order */
        add_item(c, s, i);
    }
    for (uint32_t i = 0; i < s->required.n; i++) /* required and forbidden: no object */
        for (uint32_t k = 0; k < s->forbidden.n; k++)
            if (str_eq(s->required.v[i], s->forbidden.v[k])) s->types &= (uint8_t)~TYPE_OBJECT;
    if (s->min_items > s->max_items) s->types &= (uint8_t)~TYPE_ARRAY;
    if (s->min_members > s->max_members) s->types &= (uint8_t)~TYPE_OBJECT;
    if (s->min_length > s->max_length) s->types &= (uint8_t)~TYPE_STRING;
    grammar_steps(c->g, 1 + s->all.n);
    return s;
}

/* ------------------------------------------------------------------ strings and numbers */

static bool has_excluded(const struct shape *s, enum json_type t)
{
    for (uint32_t i = 0; i < s->excluded.n; i++)
        if (json_type(s->excluded.v[i]) == t) return true;
    return false;
}

re_id shape_string(struct compiler *c, const struct shape *s)
{
    struct grammar *g = c->g;
    if (s->max_length != UINT64_MAX && s->max_length >= RE_INF) return RE_NONE;
    uint32_t hi = s->max_length == UINT64_MAX ? RE_INF : (uint32_t)s->max_length;
    re_id r = s->text;
    if (s->min_length >= RE_INF) return RE_NONE;
    if (r == RE_ALL || s->min_length > 0 || hi != RE_INF)
        r = re_and2(g, r, json_string(g, (uint32_t)s->min_length, hi));
    for (uint32_t i = 0; i < s->excluded.n && has_excluded(s, JSON_STR); i++)
        if (json_type(s->excluded.v[i]) == JSON_STR)
            r = re_and2(g, r, re_not(g, json_literal(g, json_str(s->excluded.v[i]))));
    return r;
}

re_id shape_number(struct compiler *c, const struct shape *s)
{
    struct grammar *g = c->g;
    unsigned kinds = (s->types & TYPE_INT ? NUMBER_INT : 0u) |
                     (s->types & TYPE_FRACTION ? NUMBER_FRACTION : 0u);
    if (!kinds) return RE_NONE;
    bool is_plain = !s->range.has_min && !s->range.has_max && !s->n_multiple &&
                    !s->n_not_multiple && !has_excluded(s, JSON_INT) && !has_excluded(s, JSON_REAL);
    if (is_plain) return number_any(g, kinds);
    re_id r = number_in(g, kinds, &s->range);
    for (uint32_t i = 0; i < s->n_multiple + s->n_not_multiple; i++) {
        bool is_not = i >= s->n_multiple;
        re_id m = number_multiple(g, is_not ? &s->not_multiple[i - s->n_multiple] : &s->multiple[i]);
        if (m == RE_NONE) schema_fail(c, SL_ESCHEMA, s->all.v[0].s, "multipleOf is too fine or too large");
        r = re_and2(g, r, is_not ? re_not(g, m) : m);
    }
    for (uint32_t i = 0; i < s->excluded.n; i++) {
        struct decimal d;
        if (json_is_num(s->excluded.v[i]) && decimal_read(&d, s->excluded.v[i]))
            r = re_and2(g, r, re_not(g, number_value(g, &d, d.n_fraction ? NUMBER_FRACTION : kinds)));
    }
    return r;
}
