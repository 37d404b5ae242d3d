/* jinja_tests.c - what may follow `is`. */
#include <math.h>

#include "text/jinja_impl.h"

#define TEST_FN(name)                                                                              \
    static struct jval name(struct jrender *r, struct jval v, const struct jargs *a)
/* A test of the value alone. */
#define SIMPLE(name, expr)                                                                         \
    TEST_FN(name)                                                                                  \
    {                                                                                              \
        (void)r;                                                                                   \
        (void)a;                                                                                   \
        return jv_bool(expr);                                                                      \
    }

SIMPLE(t_defined, v.kind != K_UNDEF)
SIMPLE(t_undefined, v.kind == K_UNDEF)
SIMPLE(t_none, v.kind == K_NONE)
SIMPLE(t_string, v.kind == K_STR)
SIMPLE(t_number, jv_is_num(v))
SIMPLE(t_integer, v.kind == K_INT)
SIMPLE(t_float, v.kind == K_FLOAT)
SIMPLE(t_boolean, v.kind == K_BOOL)
SIMPLE(t_true, v.kind == K_BOOL && v.i)
SIMPLE(t_false, v.kind == K_BOOL && !v.i)
SIMPLE(t_mapping, v.kind == K_DICT)
SIMPLE(t_iterable,
       jv_is_seq(v) || v.kind == K_STR || v.kind == K_DICT || v.kind == K_UNDEF || v.kind == K_LOOP)
SIMPLE(t_sequence, v.kind == K_LIST || v.kind == K_TUPLE || v.kind == K_STR || v.kind == K_DICT ||
                       v.kind == K_UNDEF || (v.kind == K_ITER && v.sub == ITER_RANGE))
SIMPLE(t_callable, v.kind == K_FUNC || (v.kind == K_LOOP && v.loop->node->flag))
SIMPLE(t_escaped, v.kind == K_STR && v.sub == STR_MARKUP)

static struct jval operand(struct jrender *r, const struct jargs *a)
{
    struct jval v = jr_arg(a, 0, "other", (struct jval){0});
    if (v.kind == K_UNSET) jr_fail(r, "the test takes an argument");
    return v;
}

TEST_FN(t_eq) { return jv_bool(jv_equal(r, v, operand(r, a))); }
TEST_FN(t_ne) { return jv_bool(!jv_equal(r, v, operand(r, a))); }
TEST_FN(t_lt) { return jv_bool(jv_compare(r, v, operand(r, a), "<") < 0); }
TEST_FN(t_le) { return jv_bool(jv_compare(r, v, operand(r, a), "<=") <= 0); }
TEST_FN(t_gt) { return jv_bool(jv_compare(r, v, operand(r, a), ">") > 0); }
TEST_FN(t_ge) { return jv_bool(jv_compare(r, v, operand(r, a), ">=") >= 0); }
TEST_FN(t_in) { return jv_bool(jv_contains(r, operand(r, a), v)); }

TEST_FN(t_sameas)
{
    struct jval o = operand(r, a);
    if (v.kind != o.kind) return jv_bool(false);
    if (v.kind == K_NONE || v.kind == K_UNDEF) return jv_bool(true);
    if (v.kind == K_STR) return jv_bool(str_eq(jv_str(v), jv_str(o)));
    if (v.kind == K_FLOAT) return jv_bool(v.f == o.f);
    return jv_bool(v.i == o.i); /* an integer, or a pointer in the same place */
}

static struct jval modulo(struct jrender *r, struct jval v, struct jval by)
{
    return jv_binary(r, OP_MOD, v, by);
}
TEST_FN(t_odd) { return (void)a, jv_bool(jv_equal(r, modulo(r, v, jv_int(2)), jv_int(1))); }
TEST_FN(t_even) { return (void)a, jv_bool(jv_equal(r, modulo(r, v, jv_int(2)), jv_int(0))); }
TEST_FN(t_divisibleby) { return jv_bool(jv_equal(r, modulo(r, v, operand(r, a)), jv_int(0))); }

static struct jval in_case(struct jrender *r, struct jval v, const char *method)
{
    struct jval s = jr_str(r, v);
    struct jargs none = {0};
    return jinja_methods(str_of(method)).str->fn(r, s, &none);
}
TEST_FN(t_lower) { return (void)a, in_case(r, v, "islower"); }
TEST_FN(t_upper) { return (void)a, in_case(r, v, "isupper"); }

TEST_FN(t_filter) { return (void)r, (void)a, jv_bool(v.kind == K_STR && jinja_filter(jv_str(v))); }
TEST_FN(t_test) { return (void)r, (void)a, jv_bool(v.kind == K_STR && jinja_test(jv_str(v))); }

static const struct jnative tests[] = {{"defined", t_defined},
                                       {"undefined", t_undefined},
                                       {"none", t_none},
                                       {"string", t_string},
                                       {"number", t_number},
                                       {"integer", t_integer},
                                       {"float", t_float},
                                       {"boolean", t_boolean},
                                       {"true", t_true},
                                       {"false", t_false},
                                       {"mapping", t_mapping},
                                       {"iterable", t_iterable},
                                       {"sequence", t_sequence},
                                       {"callable", t_callable},
                                       {"escaped", t_escaped},
                                       {"eq", t_eq},
                                       {"equalto", t_eq},
                                       {"ne", t_ne},
                                       {"lt", t_lt},
                                       {"lessthan", t_lt},
                                       {"le", t_le},
                                       {"gt", t_gt},
                                       {"greaterthan", t_gt},
                                       {"ge", t_ge},
                                       {"in", t_in},
                                       {"sameas", t_sameas},
                                       {"odd", t_odd},
                                       {"even", t_even},
                                       {"divisibleby", t_divisibleby},
                                       {"lower", t_lower},
                                       {"upper", t_upper},
                                       {"filter", t_filter},
                                       {"test", t_test},
                                       {"==", t_eq},
                                       {"!=", t_ne},
                                       {"<", t_lt},
                                       {"<=", t_le},
                                       {">", t_gt},
                                       {">=", t_ge},
                                       {NULL, NULL}};

const struct jnative *jinja_test(struct str name) { return jnative_find(tests, name); }
