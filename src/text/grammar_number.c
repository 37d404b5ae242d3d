/* grammar_number.c - numbers as digits: ranges, multiples, single values. Decimals are kept as their
 * digits, so that 0.1 is exactly 0.1; comparisons become expressions digit by digit, divisibility an
 * automaton over the rest (RE_OP_REM). A bound or a multiple leaves no exponent: 1e5 and 100000 are
 * the same number, and one way of writing it is enough.
 */
#include <stdlib.h>

#include "text/grammar_impl.h"

/* 100 digits on each side: still far inside a double. Longer runs are a loop of the model's. */
enum { DIGITS_MAX = 100, MULTIPLE_MAX = 1000000000 };

/* ------------------------------------------------------------------ decimals */

static bool put_digit(struct decimal *d, char c, bool is_fraction)
{
    if (d->n == sizeof d->digits) return false;
    d->digits[d->n++] = c;
    d->n_fraction += is_fraction;
    return true;
}

/* digits with the point at `point` digits from the left (may be outside); zeros fill the gap. */
static bool place_point(struct decimal *d, const char *digits, uint32_t n, int64_t point)
{
    if (point > DIGITS_MAX || point < -DIGITS_MAX) return false;
    if (point <= 0) put_digit(d, '0', false);
    for (int64_t i = point; i < 0; i++) put_digit(d, '0', true);
    bool started = false;
    for (uint32_t i = 0; i < n || i < point; i++) {
        char c = i < n ? digits[i] : '0';
        started |= c != '0' || (int64_t)i + 1 >= point;
        if (started && !put_digit(d, c, (int64_t)i >= point)) return false;
    }
    while (d->n_fraction && d->digits[d->n - 1] == '0') d->n--, d->n_fraction--;
    return true;
}

bool decimal_read(struct decimal *d, const json_node *v)
{
    struct buf text = buf_make(512);
    if (json_type(v) == JSON_INT)
        buf_put_i64(&text, json_int(v));
    else
        json_put_num(&text, json_num(v));
    char digits[400];
    uint32_t n = 0;
    int64_t point = -1, exponent = 0;
    const char *p = buf_cstr(&text);
    *d = (struct decimal){.is_negative = *p == '-'};
    for (p += *p == '-'; *p && *p != 'e' && *p != 'E'; p++) {
        if (*p == '.')
            point = n;
        else if (n < sizeof digits)
            digits[n++] = *p;
    }
    if (*p) exponent = strtol(p + 1, NULL, 10);
    buf_free(&text);
    bool ok = place_point(d, digits, n, (point < 0 ? (int64_t)n : point) + exponent);
    if (d->n == 1 && d->digits[0] == '0') d->is_negative = false;
    return ok;
}

static int compare_size(const struct decimal *a, const struct decimal *b)
{
    uint32_t na = a->n - a->n_fraction, nb = b->n - b->n_fraction;
    if (na != nb) return na < nb ? -1 : 1;
    uint32_t n = a->n < b->n ? a->n : b->n;
    int c = memcmp(a->digits, b->digits, n);
    if (c) return c < 0 ? -1 : 1;
    return a->n < b->n ? -1 : a->n > b->n;
}

int decimal_compare(const struct decimal *a, const struct decimal *b)
{
    if (a->is_negative != b->is_negative) return a->is_negative ? -1 : 1;
    return a->is_negative ? compare_size(b, a) : compare_size(a, b);
}

/* ------------------------------------------------------------------ shapes of numbers */

static re_id digits(struct grammar *g, uint32_t lo, uint32_t hi)
{
    return re_rep(g, re_range(g, '0', '9'), lo, hi);
}

/* Digits of which one is not 0. */
static re_id nonzero_digits(struct grammar *g)
{
    return re_cat3(g, digits(g, 0, RE_INF), re_range(g, '1', '9'), digits(g, 0, RE_INF));
}

static re_id point_then(struct grammar *g, re_id r)
{
    return re_cat(g, re_byte(g, '.'), r);
}

/* Without sign and exponent, as JSON writes it. */
static re_id unsigned_number(struct grammar *g, unsigned kinds)
{
    re_id whole = re_cat(g, re_range(g, '1', '9'), digits(g, 0, DIGITS_MAX - 1));
    whole = re_or2(g, whole, re_byte(g, '0'));
    if (kinds == NUMBER_INT) return whole;
    re_id fraction = digits(g, 1, DIGITS_MAX);
    if (kinds == NUMBER_FRACTION) fraction = re_and2(g, fraction, nonzero_digits(g));
    fraction = point_then(g, fraction);
    if (kinds & NUMBER_INT) fraction = re_opt(g, fraction);
    return re_cat(g, whole, fraction);
}

static re_id with_sign(struct grammar *g, re_id r)
{
    return re_cat(g, re_opt(g, re_byte(g, '-')), r);
}

re_id number_any(struct grammar *g, unsigned kinds)
{
    re_id r = unsigned_number(g, kinds);
    if (kinds == (NUMBER_INT | NUMBER_FRACTION)) {
        re_id sign = re_or2(g, re_byte(g, '-'), re_byte(g, '+'));
        re_id mark = re_or2(g, re_byte(g, 'e'), re_byte(g, 'E'));
        re_id exponent = re_cat3(g, mark, re_opt(g, sign), digits(g, 1, 2));
        r = re_cat(g, r, re_opt(g, exponent));
    }
    return with_sign(g, r);
}

/* ------------------------------------------------------------------ comparisons, without sign */

/* Digit sequences that part from d's digits [at, end) to the larger or smaller side, each followed
 * by the digits that are left up to `end` and then by `rest`. */
static re_id part_ways(struct grammar *g, const struct decimal *d, uint32_t at, uint32_t end,
                       bool larger, bool fixed, re_id rest)
{
    re_id out = RE_NONE;
    for (uint32_t i = at; i < end; i++) {
        char c = d->digits[i];
        if (c == (larger ? '9' : '0')) continue;
        re_id digit =
            larger ? re_range(g, (uint8_t)(c + 1), '9') : re_range(g, '0', (uint8_t)(c - 1));
        re_id more = fixed ? digits(g, end - i - 1, end - i - 1) : digits(g, 0, RE_INF);
        re_id same = re_literal(g, (struct str){d->digits + at, i - at});
        out = re_or2(g, out, re_cat3(g, same, digit, re_cat(g, more, rest)));
    }
    return out;
}

static struct str whole_digits(const struct decimal *d)
{
    return (struct str){d->digits, d->n - d->n_fraction};
}

static struct str fraction_digits(const struct decimal *d)
{
    return (struct str){d->digits + d->n - d->n_fraction, d->n_fraction};
}

static re_id at_least(struct grammar *g, const struct decimal *d, bool is_open)
{
    uint32_t n = d->n - d->n_fraction;
    re_id any_fraction = re_opt(g, point_then(g, digits(g, 0, RE_INF)));
    re_id longer = re_cat(g, digits(g, n + 1, RE_INF), any_fraction);
    re_id out = re_or2(g, longer, part_ways(g, d, 0, n, true, true, any_fraction));
    re_id equal;
    if (d->n_fraction == 0) {
        equal = is_open ? point_then(g, nonzero_digits(g)) : any_fraction;
    } else {
        re_id beyond = part_ways(g, d, n, d->n, true, false, RE_EMPTY);
        re_id tail = is_open ? nonzero_digits(g) : digits(g, 0, RE_INF);
        re_id same = re_cat(g, re_literal(g, fraction_digits(d)), tail);
        equal = point_then(g, re_or2(g, beyond, same));
    }
    return re_or2(g, out, re_cat(g, re_literal(g, whole_digits(d)), equal));
}

static re_id at_most(struct grammar *g, const struct decimal *d, bool is_open)
{
    uint32_t n = d->n - d->n_fraction;
    re_id any_fraction = re_opt(g, point_then(g, digits(g, 0, RE_INF)));
    re_id zeros = re_rep(g, re_byte(g, '0'), 0, RE_INF);
    re_id out = n > 1 ? re_cat(g, digits(g, 1, n - 1), any_fraction) : RE_NONE;
    out = re_or2(g, out, part_ways(g, d, 0, n, false, true, any_fraction));
    re_id equal;
    if (d->n_fraction == 0) {
        equal = is_open ? RE_NONE : re_opt(g, point_then(g, zeros));
    } else {
        re_id below = part_ways(g, d, n, d->n, false, false, RE_EMPTY);
        struct str f = fraction_digits(d);
        for (uint32_t i = 1; i < f.n; i++)
            below = re_or2(g, below, re_literal(g, (struct str){f.p, i}));
        if (!is_open) below = re_or2(g, below, re_cat(g, re_literal(g, f), zeros));
        equal = re_opt(g, point_then(g, below));
    }
    return re_or2(g, out, re_cat(g, re_literal(g, whole_digits(d)), equal));
}

static bool is_zero(const struct decimal *d)
{
    return d->n == 1 && d->digits[0] == '0';
}

re_id number_in(struct grammar *g, unsigned kinds, const struct number_range *r)
{
    re_id any = unsigned_number(g, kinds), positive = any, negative = any;
    bool max_below = r->has_max && (r->max.is_negative || is_zero(&r->max));
    if (r->has_max && r->max.is_negative)
        positive = RE_NONE;
    else if (r->has_max)
        positive = re_and2(g, positive, at_most(g, &r->max, r->is_max_open));
    if (r->has_min && !r->min.is_negative) {
        positive = re_and2(g, positive, at_least(g, &r->min, r->is_min_open));
        negative = RE_NONE;
    } else if (r->has_min) {
        negative = re_and2(g, negative, at_most(g, &r->min, r->is_min_open));
    }
    if (max_below) negative = re_and2(g, negative, at_least(g, &r->max, r->is_max_open));
    return re_or2(g, positive, re_cat(g, re_byte(g, '-'), negative));
}

re_id number_multiple(struct grammar *g, const struct decimal *d)
{
    uint64_t m = 0;
    for (uint32_t i = 0; i < d->n && m <= MULTIPLE_MAX; i++)
        m = m * 10 + (uint64_t)(d->digits[i] - '0');
    if (m == 0 || m > MULTIPLE_MAX) return RE_NONE;
    struct re_mod *mod = pool_push(g, &g->mods, 1);
    if (!mod) return RE_NONE;
    *mod = (struct re_mod){(uint32_t)m, d->n_fraction};
    /* the automaton knows digits and the point, but these byte sets make them classes */
    re_id known = re_or2(g, digits(g, 1, 1), re_byte(g, '.')), zero = re_byte(g, '0');
    for (uint8_t c = '1'; c <= '9' && known && zero; c++) re_byte(g, c);
    return with_sign(g, re_rem(g, g->mods.n - 1, 0, d->n_fraction, 0));
}

re_id number_value(struct grammar *g, const struct decimal *d, unsigned kinds)
{
    re_id zeros = re_byte(g, '0'), tail = RE_EMPTY;
    if (d->n_fraction && !(kinds & NUMBER_FRACTION)) return RE_NONE;
    if (!d->n_fraction && !(kinds & NUMBER_INT)) return RE_NONE;
    if (d->n_fraction)
        tail = re_cat3(g, re_byte(g, '.'), re_literal(g, fraction_digits(d)),
                       re_rep(g, zeros, 0, RE_INF));
    else if (kinds & NUMBER_FRACTION)
        tail = re_opt(g, point_then(g, re_rep(g, zeros, 1, RE_INF)));
    re_id r = re_cat(g, re_literal(g, whole_digits(d)), tail);
    if (d->is_negative) return re_cat(g, re_byte(g, '-'), r);
    return is_zero(d) ? with_sign(g, r) : r;
}
