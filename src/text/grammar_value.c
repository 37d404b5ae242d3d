/* grammar_value.c - values that a schema names (enum, const): equality, whether all else that must
 * hold allows them, and how they are written. Also a quick look whether anything fits a list at all,
 * which tells the branches of a oneOf apart.
 */
#include "text/grammar_schema.h"

enum { NEVER_DEPTH = 4 };

static bool object_equal(const json_node *a, const json_node *b)
{
    if (json_len(a) != json_len(b)) return false;
    for (const json_node *m = json_child(a); m; m = json_next(m)) {
        const json_node *k = json_child(b);
        while (k && !str_eq(json_key(k), json_key(m))) k = json_next(k);
        if (!k || !value_equal(m, k)) return false;
    }
    return true;
}

bool value_equal(const json_node *a, const json_node *b)
{
    if (json_is_num(a) && json_is_num(b)) {
        if (json_type(a) == JSON_INT && json_type(b) == JSON_INT) return json_int(a) == json_int(b);
        return json_num(a) == json_num(b);
    }
    if (json_type(a) != json_type(b)) return false;
    if (json_type(a) == JSON_STR) return str_eq(json_str(a), json_str(b));
    if (json_type(a) == JSON_OBJ) return object_equal(a, b);
    if (json_type(a) != JSON_ARR) return true;
    const json_node *x = json_child(a), *y = json_child(b);
    for (; x && y; x = json_next(x), y = json_next(y))
        if (!value_equal(x, y)) return false;
    return !x && !y;
}

static uint8_t type_of(const json_node *v)
{
    struct decimal d;
    switch (json_type(v)) {
    case JSON_NULL:
        return TYPE_NULL;
    case JSON_FALSE:
        return TYPE_FALSE;
    case JSON_TRUE:
        return TYPE_TRUE;
    case JSON_INT:
        return TYPE_INT;
    case JSON_REAL:
        return decimal_read(&d, v) && d.n_fraction ? TYPE_FRACTION : TYPE_INT;
    case JSON_STR:
        return TYPE_STRING;
    case JSON_ARR:
        return TYPE_ARRAY;
    case JSON_OBJ:
        return TYPE_OBJECT;
    }
    return 0;
}

/* The text in its JSON form, against an expression for JSON strings. */
static bool text_fits(struct compiler *c, re_id r, struct str text)
{
    struct buf b = buf_make(1u << 20);
    json_put_str(&b, text);
    bool ok = !b.overflow && re_matches(c->g, r, buf_str(&b));
    buf_free(&b);
    return ok;
}

static bool number_fits(struct compiler *c, const struct shape *s, const json_node *v)
{
    struct decimal d;
    if (!decimal_read(&d, v)) return true;
    char text[sizeof d.digits + 3];
    size_t n = 0;
    if (d.is_negative) text[n++] = '-';
    memcpy(text + n, d.digits, d.n - d.n_fraction);
    n += d.n - d.n_fraction;
    if (d.n_fraction) text[n++] = '.';
    memcpy(text + n, d.digits + d.n - d.n_fraction, d.n_fraction);
    return re_matches(c->g, shape_number(c, s), (struct str){text, n + d.n_fraction});
}

static bool array_fits(struct compiler *c, const struct shape *s, const json_node *v)
{
    size_t n = json_len(v);
    uint32_t i = 0;
    if (n < s->min_items || n > s->max_items) return false;
    for (const json_node *m = json_child(v); m; m = json_next(m), i++) {
        struct items l = element_items(c, s, i);
        if (!value_fits(c, &l, m)) return false;
        for (const json_node *k = s->is_unique ? json_next(m) : NULL; k; k = json_next(k))
            if (value_equal(m, k)) return false;
    }
    for (uint32_t k = 0; k < s->contains.n; k++) {
        struct items l = {.v = &s->contains.v[k], .n = 1, .cap = 1};
        bool found = false;
        for (const json_node *m = json_child(v); m && !found; m = json_next(m))
            found = value_fits(c, &l, m);
        if (!found) return false;
    }
    return true;
}

static bool has_member(const json_node *v, struct str name)
{
    for (const json_node *m = json_child(v); m; m = json_next(m))
        if (str_eq(json_key(m), name)) return true;
    return false;
}

static bool object_fits(struct compiler *c, const struct shape *s, const json_node *v)
{
    size_t n = json_len(v);
    if (n < s->min_members || n > s->max_members) return false;
    for (uint32_t i = 0; i < s->required.n; i++)
        if (!has_member(v, s->required.v[i])) return false;
    for (uint32_t i = 0; i < s->forbidden.n; i++)
        if (has_member(v, s->forbidden.v[i])) return false;
    bool has_extra = !s->extra;
    for (const json_node *m = json_child(v); m; m = json_next(m)) {
        struct items l = member_items(c, s, json_key(m));
        if (!value_fits(c, &l, m) || !key_fits(c, &s->key_schemas, json_key(m))) return false;
        has_extra = has_extra || is_extra(c, s, m);
    }
    return has_extra;
}

static bool is_excluded(const struct shape *s, const json_node *v)
{
    for (uint32_t i = 0; i < s->excluded.n; i++)
        if (value_equal(s->excluded.v[i], v)) return true;
    return false;
}

static bool shape_fits(struct compiler *c, const struct shape *s, const json_node *v)
{
    if (!(type_of(v) & s->types) || is_excluded(s, v)) return false;
    bool is_listed = !s->has_values;
    for (uint32_t i = 0; i < s->values.n && !is_listed; i++)
        is_listed = value_equal(s->values.v[i], v);
    if (!is_listed) return false;
    switch (json_type(v)) {
    case JSON_INT:
    case JSON_REAL:
        return number_fits(c, s, v);
    case JSON_STR:
        return text_fits(c, shape_string(c, s), json_str(v));
    case JSON_ARR:
        return array_fits(c, s, v);
    case JSON_OBJ:
        return object_fits(c, s, v);
    case JSON_NULL:
    case JSON_FALSE:
    case JSON_TRUE:
        break;
    }
    return true;
}

bool value_fits(struct compiler *c, const struct items *l, const json_node *v)
{
    if (schema_stopped(c)) return false;
    if (c->depth > 100)
        return schema_fail(c, SL_ETOOLARGE, v, "the schema nests too deeply"), false;
    struct shape *s = shape_make(c, l);
    if (s->choice == UINT32_MAX || !(type_of(v) & s->types)) return shape_fits(c, s, v);
    struct alternatives a;
    bool fits = false;
    c->depth++;
    choice_alternatives(c, s, &a);
    for (uint32_t i = 0; i < a.n && !fits; i++) fits = value_fits(c, &a.v[i], v);
    c->depth--;
    return fits;
}

/* A member's name against propertyNames; there is no node for it, so only strings' keywords and
 * choices between them are looked at. */
bool key_fits(struct compiler *c, const struct items *l, struct str key)
{
    if (l->n == 0) return true;
    if (schema_stopped(c) || c->depth > 100) return false;
    struct shape *s = shape_make(c, l);
    if (!(s->types & TYPE_STRING)) return false;
    if (s->choice == UINT32_MAX) {
        bool is_listed = !s->has_values;
        for (uint32_t i = 0; i < s->values.n && !is_listed; i++)
            is_listed =
                json_type(s->values.v[i]) == JSON_STR && str_eq(json_str(s->values.v[i]), key);
        return is_listed && text_fits(c, shape_string(c, s), key);
    }
    struct alternatives a;
    bool fits = false;
    c->depth++;
    choice_alternatives(c, s, &a);
    for (uint32_t i = 0; i < a.n && !fits; i++) fits = key_fits(c, &a.v[i], key);
    c->depth--;
    return fits;
}

/* ------------------------------------------------------------------ writing */

static re_id list_literal(struct compiler *c, const json_node *v)
{
    struct grammar *g = c->g;
    bool is_object = json_type(v) == JSON_OBJ;
    re_id r = RE_EMPTY, open = re_byte(g, is_object ? '{' : '[');
    if (!json_child(v)) return re_cat(g, open, re_byte(g, is_object ? '}' : ']'));
    for (const json_node *m = json_child(v); m && !schema_stopped(c); m = json_next(m)) {
        re_id one = value_literal(c, m);
        if (is_object) one = re_cat3(g, json_literal(g, json_key(m)), c->colon, one);
        r = m == json_child(v) ? one : re_cat3(g, r, c->comma, one);
    }
    r = re_cat3(g, c->space, r, c->space);
    return re_cat3(g, open, r, re_byte(g, is_object ? '}' : ']'));
}

re_id value_literal(struct compiler *c, const json_node *v)
{
    struct decimal d;
    switch (json_type(v)) {
    case JSON_NULL:
        return re_literal(c->g, STR("null"));
    case JSON_FALSE:
        return re_literal(c->g, STR("false"));
    case JSON_TRUE:
        return re_literal(c->g, STR("true"));
    case JSON_INT:
    case JSON_REAL:
        if (!decimal_read(&d, v)) {
            schema_fail(c, SL_ESCHEMA, v, "this number is too large");
            return RE_NONE;
        }
        return number_value(c->g, &d, d.n_fraction ? NUMBER_FRACTION : NUMBER_INT);
    case JSON_STR:
        return json_literal(c->g, json_str(v));
    case JSON_ARR:
    case JSON_OBJ:
        break;
    }
    return list_literal(c, v);
}

/* ------------------------------------------------------------------ emptiness */

static bool object_never(struct compiler *c, const struct shape *s, int depth)
{
    for (uint32_t i = 0; i < s->required.n; i++) {
        struct items l = member_items(c, s, s->required.v[i]);
        if (l.n && values_never(c, &l, depth + 1)) return true;
    }
    return false;
}

static bool array_never(struct compiler *c, const struct shape *s, int depth)
{
    for (uint32_t i = 0; i < s->min_items && i <= prefix_length(s); i++) {
        struct items l = element_items(c, s, i);
        if (l.n && values_never(c, &l, depth + 1)) return true;
    }
    return false;
}

static bool shape_never(struct compiler *c, const struct shape *s, int depth)
{
    if (s->has_values) {
        for (uint32_t i = 0; i < s->values.n; i++)
            if (value_fits(c, &s->all, s->values.v[i])) return false;
        return true;
    }
    if (s->types & (TYPE_NULL | TYPE_BOOL)) return false;
    if ((s->types & TYPE_NUMBER) && re_is_live(c->g, shape_number(c, s))) return false;
    if ((s->types & TYPE_STRING) && re_is_live(c->g, shape_string(c, s))) return false;
    if ((s->types & TYPE_ARRAY) && !array_never(c, s, depth)) return false;
    return !(s->types & TYPE_OBJECT) || object_never(c, s, depth);
}

bool values_never(struct compiler *c, const struct items *l, int depth)
{
    if (depth > NEVER_DEPTH || schema_stopped(c)) return false;
    struct shape *s = shape_make(c, l);
    if (s->types == 0) return true;
    if (s->choice == UINT32_MAX) return shape_never(c, s, depth);
    if (s->choice_keyword == KW_ONE_OF) { /* without making them disjoint: that would ask back */
        struct items rest = items_copy(c, &s->all);
        rest.v[s->choice].done |= DONE_ONE_OF;
        return values_never(c, &rest, depth + 1);
    }
    struct alternatives a;
    choice_alternatives(c, s, &a);
    for (uint32_t i = 0; i < a.n; i++)
        if (!values_never(c, &a.v[i], depth + 1)) return false;
    return true;
}
