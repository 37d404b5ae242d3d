/* grammar_shape.c - a list of items becomes one shape: the keywords of all its schemas, taken
 * together (grammar_keyword.c); and what a shape's strings and numbers are as expressions.
 */
#include "text/grammar_schema.h"

static const char *const keyword_names[] = {"",
                                            "additionalItems",
                                            "additionalProperties",
                                            "allOf",
                                            "anyOf",
                                            "const",
                                            "contains",
                                            "dependencies",
                                            "dependentRequired",
                                            "dependentSchemas",
                                            "$dynamicRef",
                                            "else",
                                            "enum",
                                            "exclusiveMaximum",
                                            "exclusiveMinimum",
                                            "format",
                                            "if",
                                            "items",
                                            "maxContains",
                                            "maxItems",
                                            "maxLength",
                                            "maxProperties",
                                            "maximum",
                                            "minContains",
                                            "minItems",
                                            "minLength",
                                            "minProperties",
                                            "minimum",
                                            "multipleOf",
                                            "not",
                                            "oneOf",
                                            "pattern",
                                            "patternProperties",
                                            "prefixItems",
                                            "properties",
                                            "propertyNames",
                                            "$recursiveRef",
                                            "$ref",
                                            "required",
                                            "then",
                                            "type",
                                            "unevaluatedItems",
                                            "unevaluatedProperties",
                                            "uniqueItems"};

enum keyword keyword_of(struct str name)
{
    for (int k = 1; k <= KW_UNIQUE_ITEMS; k++)
        if (name.n && keyword_names[k][0] == name.p[0] && str_is(name, keyword_names[k]))
            return (enum keyword)k;
    return KW_OTHER;
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
        keyword_item(c, s, i);
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
    unsigned kinds =
        (s->types & TYPE_INT ? NUMBER_INT : 0u) | (s->types & TYPE_FRACTION ? NUMBER_FRACTION : 0u);
    if (!kinds) return RE_NONE;
    bool is_plain = !s->range.has_min && !s->range.has_max && !s->n_multiple &&
                    !s->n_not_multiple && !has_excluded(s, JSON_INT) && !has_excluded(s, JSON_REAL);
    if (is_plain) return number_any(g, kinds);
    re_id r = number_in(g, kinds, &s->range);
    for (uint32_t i = 0; i < s->n_multiple + s->n_not_multiple; i++) {
        bool is_not = i >= s->n_multiple;
        re_id m =
            number_multiple(g, is_not ? &s->not_multiple[i - s->n_multiple] : &s->multiple[i]);
        if (m == RE_NONE)
            schema_fail(c, SL_ESCHEMA, s->all.v[0].s, "multipleOf is too fine or too large");
        r = re_and2(g, r, is_not ? re_not(g, m) : m);
    }
    for (uint32_t i = 0; i < s->excluded.n; i++) {
        struct decimal d;
        if (json_is_num(s->excluded.v[i]) && decimal_read(&d, s->excluded.v[i]))
            r = re_and2(g, r,
                        re_not(g, number_value(g, &d, d.n_fraction ? NUMBER_FRACTION : kinds)));
    }
    return r;
}
