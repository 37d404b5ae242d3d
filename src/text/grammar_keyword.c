/* grammar_keyword.c - what each keyword of a schema, and each other item of a list, adds to a shape.
 * References and allOf are opened on the way: what they lead to joins the list. What would need more
 * than one shape is noted as a choice.
 */
#include "text/grammar_schema.h"

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
    } names[] = {{"null", TYPE_NULL},     {"boolean", TYPE_BOOL},  {"integer", TYPE_INT},
                 {"number", TYPE_NUMBER}, {"string", TYPE_STRING}, {"array", TYPE_ARRAY},
                 {"object", TYPE_OBJECT}, {"any", TYPE_ANY}};
    for (size_t i = 0; i < sizeof names / sizeof *names && json_type(v) == JSON_STR; i++)
        if (str_is(json_str(v), names[i].name)) return names[i].types;
    schema_fail(c, SL_ESCHEMA, v,
                "type must be null, boolean, integer, number, string, array or "
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
static uint64_t count_of(struct compiler *c, const json_node *v)
{
    if (json_is_num(v) && json_num(v) >= 0 && json_num(v) < 1e15)
        return (uint64_t)json_num(v) + ((double)(uint64_t)json_num(v) < json_num(v));
    struct str k = json_key(v);
    schema_fail(c, SL_ESCHEMA, v, "%.*s must be a whole number from 0", (int)k.n, k.p);
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
    if (min && count_of(c, min) == 0 && !max) return;
    if (max)
        unsupported(c, max, "");
    else if (min && count_of(c, min) > 1)
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

/* Counts: a minimum, and the maximum at its side. */
static const struct count_row {
    enum keyword keyword;
    bool is_min;
    size_t min_at, max_at; /* in struct shape */
    uint8_t type;
} count_rows[] = {
#define ROWS(low, high, min, max, type)                                                            \
    {low, true, offsetof(struct shape, min), offsetof(struct shape, max), type},                   \
    {                                                                                              \
        high, false, offsetof(struct shape, min), offsetof(struct shape, max), type                \
    }
    ROWS(KW_MIN_LENGTH, KW_MAX_LENGTH, min_length, max_length, TYPE_STRING),
    ROWS(KW_MIN_ITEMS, KW_MAX_ITEMS, min_items, max_items, TYPE_ARRAY),
    ROWS(KW_MIN_PROPERTIES, KW_MAX_PROPERTIES, min_members, max_members, TYPE_OBJECT)
#undef ROWS
};

/* A count, or its opposite: "at least n" turns into "at most n - 1", "at most n" into "at least
 * n + 1". false: k is none. */
static bool count_keyword(struct compiler *c, struct shape *s, const json_node *v, enum keyword k,
                          bool negated)
{
    const struct count_row *row = count_rows, *end = row + sizeof count_rows / sizeof *row;
    while (row < end && row->keyword != k) row++;
    if (row == end) return false;
    uint64_t *min = (uint64_t *)(void *)((char *)s + row->min_at), n = count_of(c, v);
    uint64_t *max = (uint64_t *)(void *)((char *)s + row->max_at);
    if (negated) s->types &= row->is_min && n == 0 ? 0 : row->type;
    if (row->is_min != negated)
        at_least(min, negated ? n + 1 : n);
    else
        at_most(max, negated ? n - 1 : n);
    return true;
}

/* Keywords about one scalar value. false: k is none. */
static bool value_keyword(struct compiler *c, struct shape *s, const json_node *schema,
                          const json_node *v, enum keyword k)
{
    switch (k) {
    case KW_TYPE:
        s->types &= types_of(c, v);
        return true;
    case KW_ENUM:
    case KW_CONST:
        keep_values(c, s, v, k == KW_CONST);
        return true;
    case KW_MINIMUM:
    case KW_MAXIMUM:
    case KW_EXCLUSIVE_MINIMUM:
    case KW_EXCLUSIVE_MAXIMUM:
        one_bound(c, s, schema, v, k);
        return true;
    case KW_MULTIPLE_OF:
        add_multiple(c, s, v, false);
        return true;
    case KW_PATTERN:
        add_pattern(c, s, v, false);
        return true;
    case KW_FORMAT:
        add_format(c, s, v);
        return true;
    default:
        return count_keyword(c, s, v, k, false);
    }
}

/* The member v of a schema, which is item `index`. What is not here, array_keywords and
 * object_keywords see together, or it is no constraint. */
static void one_keyword(struct compiler *c, struct shape *s, uint32_t index, const json_node *v)
{
    const json_node *schema = s->all.v[index].s, *to;
    enum keyword k = keyword_of(json_key(v));
    if (value_keyword(c, s, schema, v, k)) return;
    switch (k) {
    case KW_UNIQUE_ITEMS:
        s->is_unique |= json_type(v) == JSON_TRUE;
        return;
    case KW_CONTAINS:
        add_contains(c, s, schema, v);
        return;
    case KW_REQUIRED:
        add_required(c, s, v);
        return;
    case KW_PROPERTY_NAMES:
        items_add(c, &s->key_schemas, item_schema(v, false));
        return;
    case KW_ALL_OF:
        list_of_schemas(c, s, v);
        return;
    case KW_ANY_OF:
        note_choice(s, index, k, DONE_ANY_OF);
        return;
    case KW_ONE_OF:
        note_choice(s, index, k, DONE_ONE_OF);
        return;
    case KW_IF:
        if (json_get(schema, "then") || json_get(schema, "else")) note_choice(s, index, k, DONE_IF);
        return;
    case KW_NOT:
        items_insert(c, &s->all, &s->insert_at, item_schema(v, true));
        return;
    case KW_DEPENDENCIES:
    case KW_DEPENDENT_REQUIRED:
    case KW_DEPENDENT_SCHEMAS:
        dependencies(c, s, index, v, k);
        return;
    case KW_REF:
        to = refs_resolve(c, schema, v);
        if (to) items_insert(c, &s->all, &s->insert_at, item_schema(to, false));
        return;
    case KW_DYNAMIC_REF:
    case KW_RECURSIVE_REF:
    case KW_UNEVALUATED_ITEMS:
    case KW_UNEVALUATED_PROPERTIES:
        unsupported(c, v, "");
        return;
    default:
        return;
    }
}

static void add_schema(struct compiler *c, struct shape *s, uint32_t index)
{
    const json_node *schema = s->all.v[index].s, *ref;
    switch (json_type(schema)) {
    case JSON_TRUE:
        return;
    case JSON_FALSE:
        s->types = 0;
        return;
    case JSON_OBJ:
        break;
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
    case KW_TYPE:
        s->types &= (uint8_t)~types_of(c, v);
        return;
    case KW_ENUM:
    case KW_CONST:
        exclude_values(c, s, v, str_is(json_key(v), "const"));
        return;
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
    default:
        ASSERT(count_keyword(c, s, v, keyword_of(json_key(v)), true));
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
        for (uint32_t i = 0; i < a.v[0].n; i++)
            items_insert(c, &s->all, &s->insert_at, a.v[0].v[i]);
    } else {
        note_choice(s, index, KW_NOT, 1);
    }
}

void keyword_item(struct compiler *c, struct shape *s, uint32_t index)
{
    struct item it = s->all.v[index];
    switch ((enum item_kind)it.kind) {
    case IT_SCHEMA:
        add_schema(c, s, index);
        return;
    case IT_NOT:
        add_not(c, s, index);
        return;
    case IT_NOT_KEY:
        add_not_key(c, s, &it);
        return;
    case IT_TYPES:
        s->types &= it.types;
        return;
    case IT_REQUIRE:
        add_name(c, &s->required, it.name);
        return;
    case IT_FORBID:
        add_name(c, &s->forbidden, it.name);
        return;
    case IT_MEMBER:
        items_add(c, &s->members, it);
        return;
    case IT_ITEMS:
        add_array_facet(c, s, (struct array_facet){NULL, it.s, it.is_negated});
        return;
    case IT_CONTAINS:
        items_add(c, &s->contains, item_schema(it.s, it.is_negated));
        return;
    case IT_EXTRA:
        if (s->extra && (s->extra != it.s || s->extra_member != it.member))
            schema_fail(c, SL_ESCHEMA, it.s, "two `not` about members of any name in one place");
        s->extra = it.s;
        s->extra_member = it.member;
        return;
    }
}
