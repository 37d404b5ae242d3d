/* jinja_format.c - "%s" % x and "{}".format(x): the small part of Python's formatting that
 * templates use. */
#include <stdio.h>

#include "text/jinja_impl.h"

enum { WIDTH_MAX = 512 };

struct spec {
    char flags[8], fill[4], align, type; /* fill: one character of UTF-8 */
    int fill_bytes, width, precision;    /* precision -1: none */
};

static int number(const char **p, const char *end)
{
    int v = 0;
    for (; *p < end && **p >= '0' && **p <= '9'; (*p)++)
        if (v <= WIDTH_MAX) v = v * 10 + (**p - '0');
    return v > WIDTH_MAX ? WIDTH_MAX : v;
}

static void put_number(struct jrender *r, struct jval v, const struct spec *s)
{
    char text[1100], format[32];
    bool real = s->type && strchr("feEgGF%", s->type);
    if (v.kind == K_UNDEF) jr_fail_undef(r, v);
    if (!jv_is_num(v))
        jr_fail(r, "%%%c format: a real number is required, not %s", s->type, jv_type_name(v));
    int n;
    if (real) {
        snprintf(format, sizeof format, "%%%s%d.*%c", s->flags, s->width, s->type);
        if (!s->width) snprintf(format, sizeof format, "%%%s.*%c", s->flags, s->type);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* built just above, from checked parts */
        n = snprintf(text, sizeof text, format, s->precision < 0 ? 6 : s->precision, jv_num(v));
    } else {
        double f = jv_num(v);
        if (!(f > -9.2e18 && f < 9.2e18)) jr_fail(r, "number out of range");
        int64_t i = v.kind == K_FLOAT ? (int64_t)f : v.i;
        snprintf(format, sizeof format, "%%%s%dll%c", s->flags, s->width, s->type);
        if (!s->width) snprintf(format, sizeof format, "%%%sll%c", s->flags, s->type);
        n = snprintf(text, sizeof text, format, (long long)i);
#pragma GCC diagnostic pop
    }
    buf_put(r->out, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

static void put_text(struct jrender *r, struct jval v, const struct spec *s, int align)
{
    struct str t = jv_str(v),
               fill = {s->fill_bytes ? s->fill : " ", s->fill_bytes ? (size_t)s->fill_bytes : 1};
    if (s->precision >= 0) t.n = jv_offset(t, (size_t)s->precision);
    jr_put(r, jv_pad(r, t, s->width, fill, align));
}

/* One argument of a % format: the next of the tuple, or the only value. */
static struct jval next_arg(struct jrender *r, struct jval args, uint32_t *i)
{
    uint32_t n = args.kind == K_TUPLE ? args.list->n : 1;
    if (*i >= n) jr_fail(r, "not enough arguments for format string");
    return args.kind == K_TUPLE ? args.list->v[(*i)++] : ((*i)++, args);
}

/* "%(name)" : the value of that key. */
static struct jval keyed(struct jrender *r, struct jval args, const char **p, const char *end)
{
    const char *close = memchr(*p, ')', (size_t)(end - *p));
    if (!close) jr_fail(r, "incomplete format key");
    if (args.kind != K_DICT) jr_fail(r, "format requires a mapping");
    struct jval *v =
        jv_dict_find(r, args.dict, jv_text((struct str){*p + 1, (size_t)(close - *p - 1)}));
    if (!v) jr_fail(r, "missing key of a format");
    *p = close + 1;
    return *v;
}

static void percent_one(struct jrender *r, struct jval args, const char **at, const char *end,
                        uint32_t *i)
{
    const char *p = *at;
    struct spec s = {.precision = -1};
    struct jval v = {0};
    if (p < end && *p == '(') v = keyed(r, args, &p, end);
    for (size_t n = 0; p < end && *p && strchr("-+ 0#", *p); p++)
        if (n + 1 < sizeof s.flags) s.flags[n++] = *p;
    s.width = number(&p, end);
    if (p < end && *p == '.') {
        p++;
        s.precision = number(&p, end);
    }
    if (p >= end) jr_fail(r, "incomplete format");
    s.type = *p++;
    *at = p;
    if (s.type == '%') {
        buf_putc(r->out, '%');
        return;
    }
    if (v.kind == K_UNSET) v = next_arg(r, args, i);
    if (s.type == 's' || s.type == 'r') {
        size_t mark = r->out->n;
        if (s.type == 'r')
            jr_put_repr(r, v);
        else
            jr_put(r, v);
        struct jval text = jr_capture(r, mark);
        put_text(r, text, &s, strchr(s.flags, '-') ? -1 : 1);
        return;
    }
    if (!strchr("dioxXfFeEgGu", s.type)) jr_fail(r, "unsupported format character '%c'", s.type);
    if (s.type == 'u' || s.type == 'i') s.type = 'd';
    put_number(r, v, &s);
}

struct jval jv_percent(struct jrender *r, struct str format, struct jval args)
{
    const char *p = format.p, *end = format.p + format.n;
    size_t mark = r->out->n;
    uint32_t used = 0;
    while (p < end) {
        const char *at = memchr(p, '%', (size_t)(end - p));
        if (!at) at = end;
        buf_put(r->out, p, (size_t)(at - p));
        p = at;
        if (p == end) break;
        p++;
        jr_tick(r, 1);
        percent_one(r, args, &p, end, &used);
    }
    bool all = args.kind == K_DICT || (args.kind == K_TUPLE ? used == args.list->n : used == 1);
    if (!all && args.kind != K_LIST)
        jr_fail(r, "not all arguments converted during string formatting");
    return jr_capture(r, mark);
}

/* ------------------------------------------------------------------ str.format */

/* "name", "0" or "" and then .attribute or [item] steps. */
static struct jval field(struct jrender *r, struct str name, const struct jargs *a, int *next)
{
    size_t n = 0;
    while (n < name.n && name.p[n] != '.' && name.p[n] != '[') n++;
    struct str head = {name.p, n}, rest = {name.p + n, name.n - n};
    struct jval v = {0};
    if (head.n == 0 || (head.p[0] >= '0' && head.p[0] <= '9')) {
        const char *p = head.p;
        int i = head.n ? number(&p, head.p + head.n) : (*next)++;
        if (i >= a->n) jr_fail(r, "Replacement index %d out of range for positional args tuple", i);
        v = a->v[i];
    } else {
        for (int k = 0; k < a->n_kw; k++)
            if (str_eq(a->kw[k].name, head)) v = a->kw[k].v;
        if (v.kind == K_UNSET) jr_fail(r, "missing argument of a format");
    }
    while (rest.n) {
        bool item = rest.p[0] == '[';
        size_t len = 1;
        while (len < rest.n &&
               (item ? rest.p[len] != ']' : rest.p[len] != '.' && rest.p[len] != '['))
            len++;
        struct str key = {rest.p + 1, len - 1};
        const char *p = key.p;
        bool digits = key.n && key.p[0] >= '0' && key.p[0] <= '9';
        v = jv_item(r, v, digits ? jv_int(number(&p, key.p + key.n)) : jv_text(key));
        if (item && len < rest.n) len++;
        rest = (struct str){rest.p + len, rest.n - len};
    }
    return v;
}

/* [[fill]align][sign][0][width][.precision][type] */
static struct spec brace_spec(struct jrender *r, struct str text)
{
    struct spec s = {.precision = -1};
    const char *p = text.p, *end = text.p + text.n;
    size_t fill = jv_offset(text, 1);
    if (fill < text.n && strchr("<>^", p[fill])) {
        memcpy(s.fill, p, fill);
        s.fill_bytes = (int)fill;
        s.align = p[fill];
        p += fill + 1;
    } else if (p < end && *p && strchr("<>^", *p)) {
        s.align = *p++;
    }
    for (size_t n = 0; p < end && *p && strchr("+ 0", *p); p++)
        if (n + 1 < sizeof s.flags) s.flags[n++] = *p;
    s.width = number(&p, end);
    if (p < end && *p == '.') {
        p++;
        s.precision = number(&p, end);
    }
    if (p < end) s.type = *p++;
    if (p < end || (s.type && !strchr("sdfFeEgGxXo", s.type)))
        jr_fail(r, "unsupported format specifier");
    return s;
}

static void put_field(struct jrender *r, struct jval v, struct spec s, char conversion)
{
    size_t mark = r->out->n;
    bool num = jv_is_num(v) && v.kind != K_BOOL && conversion == 0;
    if (s.type == 's' && num) jr_fail(r, "unknown format code 's' for a number");
    if (num && (s.type || s.flags[0])) {
        struct spec plain = s;
        if (!s.type) plain.type = v.kind == K_FLOAT ? 'g' : 'd';
        if (s.align) plain.width = 0;
        put_number(r, v, &plain);
    } else if (conversion == 'r') {
        jr_put_repr(r, v);
    } else {
        if (s.type && s.type != 's')
            jr_fail(r, "unknown format code '%c' for %s", s.type, jv_type_name(v));
        jr_put(r, v);
    }
    struct jval text = jr_capture(r, mark);
    if (num) s.precision = -1;
    char align = s.align ? s.align : num ? '>' : '<';
    put_text(r, text, &s, align == '<' ? -1 : align == '^' ? 0 : 1);
}

struct jval jv_brace_format(struct jrender *r, struct str format, const struct jargs *a)
{
    size_t mark = r->out->n;
    int next = 0;
    for (size_t i = 0; i < format.n; i++) {
        char ch = format.p[i];
        bool twice = i + 1 < format.n && format.p[i + 1] == ch;
        if (ch != '{' && ch != '}') {
            buf_putc(r->out, ch);
            continue;
        }
        if (twice) {
            buf_putc(r->out, ch);
            i++;
            continue;
        }
        jr_tick(r, 1);
        const char *open = format.p + i + 1, *end = format.p + format.n;
        const char *close = ch == '{' ? memchr(open, '}', (size_t)(end - open)) : NULL;
        if (!close) jr_fail(r, "single '%c' encountered in a format string", ch);
        struct str body = {open, (size_t)(close - open)}, spec = {close, 0};
        const char *colon = body.n ? memchr(body.p, ':', body.n) : NULL;
        if (colon) {
            spec = (struct str){colon + 1, (size_t)(close - colon - 1)};
            body.n = (size_t)(colon - open);
        }
        char conversion = 0;
        if (body.n >= 2 && body.p[body.n - 2] == '!') {
            conversion = body.p[body.n - 1];
            body.n -= 2;
        }
        struct jval v = field(r, body, a, &next);
        put_field(r, v, brace_spec(r, spec), conversion);
        i = (size_t)(close - format.p);
    }
    return jr_capture(r, mark);
}
