/* jinja_math.c - the binary operators with Python's rules; integers are int64, overflow is an
 * error. */
#include <math.h>

#include "text/jinja_impl.h"

static const char *const op_text[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

_Noreturn static void mismatch(struct jrender *r, enum jop op, struct jval a, struct jval b)
{
    if (a.kind == K_UNDEF) jr_fail_undef(r, a);
    if (b.kind == K_UNDEF) jr_fail_undef(r, b);
    if (op == OP_ADD && (a.kind == K_STR || a.kind == K_LIST || a.kind == K_TUPLE))
        jr_fail(r, "can only concatenate %s (not \"%s\") to %s", jv_type_name(a), jv_type_name(b),
                jv_type_name(a));
    jr_fail(r, "unsupported operand type(s) for %s: '%s' and '%s'", op_text[op], jv_type_name(a),
            jv_type_name(b));
}

static struct jval int_power(struct jrender *r, int64_t base, int64_t exponent)
{
    int64_t v = 1;
    if (exponent < 0) {
        if (base == 0) jr_fail(r, "0.0 cannot be raised to a negative power");
        return jv_float(pow((double)base, (double)exponent));
    }
    for (bool over = false;;) {
        if (exponent & 1) over = __builtin_mul_overflow(v, base, &v);
        exponent >>= 1;
        if (over) jr_fail(r, "integer overflow");
        if (!exponent) return jv_int(v);
        if (__builtin_mul_overflow(base, base, &base)) jr_fail(r, "integer overflow");
    }
}

static struct jval int_op(struct jrender *r, enum jop op, int64_t a, int64_t b)
{
    int64_t v = 0;
    bool over = false;
    if ((op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD) && b == 0)
        jr_fail(r, "division by zero");
    switch (op) {
    case OP_ADD: over = __builtin_add_overflow(a, b, &v); break;
    case OP_SUB: over = __builtin_sub_overflow(a, b, &v); break;
    case OP_MUL: over = __builtin_mul_overflow(a, b, &v); break;
    case OP_DIV: return jv_float((double)a / (double)b);
    case OP_FLOORDIV:
        over = a == INT64_MIN && b == -1;
        if (!over) v = a / b - (a % b != 0 && (a < 0) != (b < 0));
        break;
    case OP_MOD:
        if (b != -1) v = a % b;
        if (v != 0 && (v < 0) != (b < 0)) v += b;
        break;
    default: return int_power(r, a, b);
    }
    if (over) jr_fail(r, "integer overflow");
    return jv_int(v);
}

static struct jval float_op(struct jrender *r, enum jop op, double a, double b)
{
    if ((op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD) && b == 0)
        jr_fail(r, "division by zero");
    switch (op) {
    case OP_ADD: return jv_float(a + b);
    case OP_SUB: return jv_float(a - b);
    case OP_MUL: return jv_float(a * b);
    case OP_DIV: return jv_float(a / b);
    case OP_FLOORDIV: return jv_float(floor(a / b));
    case OP_MOD: {
        double m = fmod(a, b);
        if (m != 0 && (m < 0) != (b < 0)) m += b;
        return jv_float(m);
    }
    default:
        if (a < 0 && b != floor(b)) jr_fail(r, "complex numbers are not supported");
        if (a == 0 && b < 0) jr_fail(r, "0.0 cannot be raised to a negative power");
        return jv_float(pow(a, b));
    }
}

static struct jval join_lists(struct jrender *r, struct jval a, struct jval b)
{
    struct jval l = jv_seq(r, (enum jkind)a.kind, 0, (size_t)a.list->n + b.list->n);
    jr_tick(r, (size_t)a.list->n + b.list->n);
    for (uint32_t i = 0; i < a.list->n; i++) jv_append(r, l, a.list->v[i]);
    for (uint32_t i = 0; i < b.list->n; i++) jv_append(r, l, b.list->v[i]);
    return l;
}

static struct jval repeat(struct jrender *r, struct jval v, int64_t times)
{
    size_t n, count = times > 0 ? (size_t)times : 0;
    size_t one = v.kind == K_STR ? v.n : v.list->n;
    if (ckd_mul(&n, one, count) || n > r->memory_max || n > UINT32_MAX)
        jr_spent(r, SL_EINVAL, "memory");
    if (one == 0) count = 0;
    jr_tick(r, v.kind == K_STR ? count / 16 + n / 64 : n);
    if (v.kind == K_STR) {
        char *p = jr_bytes(r, n);
        for (size_t i = 0; i < count; i++) memcpy(p + i * one, v.s, one);
        return jv_markup(jv_text((struct str){p, n}), v.sub == STR_MARKUP);
    }
    struct jval l = jv_seq(r, (enum jkind)v.kind, 0, n);
    for (size_t i = 0; i < count; i++)
        memcpy(l.list->v + i * one, v.list->v, one * sizeof *l.list->v);
    l.list->n = (uint32_t)n;
    return l;
}

struct jval jv_binary(struct jrender *r, enum jop op, struct jval a, struct jval b)
{
    if (jv_is_int(a) && jv_is_int(b)) return int_op(r, op, a.i, b.i);
    if (jv_is_num(a) && jv_is_num(b)) return float_op(r, op, jv_num(a), jv_num(b));
    if (op == OP_ADD && a.kind == K_STR && b.kind == K_STR) {
        bool markup = a.sub == STR_MARKUP || b.sub == STR_MARKUP;
        if (markup && a.sub != STR_MARKUP) a = jv_escape(r, a);
        if (markup && b.sub != STR_MARKUP) b = jv_escape(r, b);
        return jv_markup(jr_concat(r, jv_str(a), jv_str(b)), markup);
    }
    bool a_seq = a.kind == K_STR || a.kind == K_LIST || a.kind == K_TUPLE;
    bool b_seq = b.kind == K_STR || b.kind == K_LIST || b.kind == K_TUPLE;
    if (op == OP_ADD && a_seq && a.kind == b.kind) return join_lists(r, a, b);
    if (op == OP_MUL && a_seq && jv_is_int(b)) return repeat(r, a, b.i);
    if (op == OP_MUL && b_seq && jv_is_int(a)) return repeat(r, b, a.i);
    if (op == OP_MOD && a.kind == K_STR) return jv_percent(r, jv_str(a), b);
    mismatch(r, op, a, b);
}
