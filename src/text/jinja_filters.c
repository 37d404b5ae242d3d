/* jinja_filters.c - filters on one value: text, numbers, JSON. Those on sequences are in
 * jinja_seq.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/utf8.h"
#include "text/jinja_impl.h"

#define FILTER(name)                                                                               \
    static struct jval name(struct jrender *r, struct jval v, const struct jargs *a)

static struct str text_of(struct jrender *r, struct jval v) { return jv_str(jr_str(r, v)); }

/* Filters that jinja2 writes with the value's own methods keep markup; the others make plain text.
 */
static bool is_markup(struct jval v) { return v.kind == K_STR && v.sub == STR_MARKUP; }
FILTER(f_lower)
{
    (void)a;
    return jv_markup(jv_case(r, text_of(r, v), CASE_LOWER), is_markup(v));
}
FILTER(f_upper)
{
    (void)a;
    return jv_markup(jv_case(r, text_of(r, v), CASE_UPPER), is_markup(v));
}
FILTER(f_title) { return (void)a, jv_case(r, text_of(r, v), CASE_TITLE_FILTER); }
FILTER(f_capitalize)
{
    (void)a;
    return jv_markup(jv_case(r, text_of(r, v), CASE_CAPITALIZE), is_markup(v));
}
FILTER(f_string) { return (void)a, jr_str(r, v); }
FILTER(f_center) { return jv_pad(r, text_of(r, v), jr_arg_int(r, a, 0, "width", 80), STR(" "), 0); }

FILTER(f_trim)
{
    struct jval set = jr_arg(a, 0, "chars", jv_none());
    struct str s = text_of(r, v), chars = {0};
    jr_tick(r, s.n / 16);
    if (set.kind == K_NONE) return jv_markup(jv_text(jv_strip(s, NULL, true, true)), is_markup(v));
    chars = jr_arg_str(r, a, 0, "chars", NULL);
    return jv_markup(jv_text(jv_strip(s, &chars, true, true)), is_markup(v));
}

FILTER(f_replace)
{
    struct str from = text_of(r, jr_arg(a, 0, "old", jv_none()));
    struct str to = text_of(r, jr_arg(a, 1, "new", jv_none()));
    return jv_replace(r, text_of(r, v), from, to, jr_arg_int(r, a, 2, "count", -1));
}

FILTER(f_indent)
{
    struct jval width = jr_arg(a, 0, "width", jv_int(4));
    bool first = jr_arg_bool(a, 1, "first", false), blank = jr_arg_bool(a, 2, "blank", false);
    struct str s = text_of(r, v);
    struct jval by = width.kind == K_STR
                         ? width
                         : jv_pad(r, STR(""), jr_arg_int(r, a, 0, "width", 4), STR(" "), -1);
    const struct jlist *l = jv_lines(r, jv_str(jr_concat(r, s, STR("\n"))), false);
    size_t mark = r->out->n;
    for (uint32_t i = 0; i < l->n; i++) {
        jr_tick(r, 1 + by.n / 64);
        if (i) buf_putc(r->out, '\n');
        if (i ? l->v[i].n || blank : first) jr_put(r, by);
        jr_put(r, l->v[i]);
    }
    return jv_markup(jr_capture(r, mark), is_markup(v));
}

static struct jval escape(struct jrender *r, struct str s)
{
    size_t mark = r->out->n;
    jr_tick(r, s.n / 8);
    for (size_t i = 0; i < s.n; i++) {
        switch (s.p[i]) {
        case '&': buf_puts(r->out, "&amp;"); break;
        case '<': buf_puts(r->out, "&lt;"); break;
        case '>': buf_puts(r->out, "&gt;"); break;
        case '\'': buf_puts(r->out, "&#39;"); break;
        case '"': buf_puts(r->out, "&#34;"); break;
        default: buf_putc(r->out, s.p[i]);
        }
    }
    return jv_markup(jr_capture(r, mark), true);
}
struct jval jv_escape(struct jrender *r, struct jval v)
{
    return v.kind == K_STR && v.sub == STR_MARKUP ? v : escape(r, text_of(r, v));
}
FILTER(f_escape) { return (void)a, jv_escape(r, v); }
FILTER(f_forceescape) { return (void)a, escape(r, text_of(r, v)); }
FILTER(f_safe) { return (void)a, jv_markup(jr_str(r, v), true); }

static void put_url(struct jrender *r, struct str s, bool query)
{
    jr_tick(r, s.n / 8);
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        bool plain = jv_is_ascii_alnum(s.p[i]) || (c && strchr("_.-~", c)) || (c == '/' && !query);
        if (plain)
            buf_putc(r->out, (char)c);
        else if (c == ' ' && query)
            buf_putc(r->out, '+');
        else
            buf_printf(r->out, "%%%02X", c);
    }
}

FILTER(f_urlencode)
{
    size_t mark = r->out->n;
    (void)a;
    if (v.kind != K_DICT && !jv_is_seq(v)) {
        struct str s = text_of(r, v);
        put_url(r, s, false);
        return jr_capture(r, mark);
    }
    const struct jlist *l =
        v.kind == K_DICT ? jv_dict_list(r, v.dict, ITER_ITEMS).list : jv_items(r, v);
    for (uint32_t i = 0; i < l->n; i++) {
        const struct jlist *pair = jv_items(r, l->v[i]);
        if (pair->n != 2) jr_fail(r, "urlencode expects pairs");
        struct str key = text_of(r, pair->v[0]), value = text_of(r, pair->v[1]);
        if (i) buf_putc(r->out, '&');
        put_url(r, key, true);
        buf_putc(r->out, '=');
        put_url(r, value, true);
    }
    return jr_capture(r, mark);
}

FILTER(f_truncate)
{
    struct str s = text_of(r, v), end = jr_arg_str(r, a, 2, "end", "...");
    int64_t length = jr_arg_int(r, a, 0, "length", 255), leeway = jr_arg_int(r, a, 3, "leeway", 5);
    bool kill = jr_arg_bool(a, 1, "killwords", false);
    int64_t keep = length - (int64_t)jv_codepoints(end);
    jr_tick(r, s.n / 16);
    if (keep < 0 || leeway < 0) jr_fail(r, "truncate: length or leeway is too small");
    if ((int64_t)jv_codepoints(s) - leeway <= length) return jv_text(s);
    s.n = jv_offset(s, (size_t)keep);
    const char *space = kill || !s.n ? NULL : memrchr(s.p, ' ', s.n);
    if (space) s.n = (size_t)(space - s.p);
    return jr_concat(r, s, end);
}

FILTER(f_wordcount)
{
    struct str s = text_of(r, v);
    int64_t words = 0;
    bool in = false;
    (void)a;
    jr_tick(r, s.n / 8);
    for (size_t i = 0; i < s.n;) {
        int len;
        int32_t cp = utf8_next(s.p + i, s.n - i, &len);
        bool word = cp >= 0x80 ? !jv_is_space(cp) : jv_is_ascii_alnum((char)cp) || cp == '_';
        words += word && !in;
        in = word;
        i += (size_t)len;
    }
    return jv_int(words);
}

FILTER(f_format)
{
    struct jval args = jv_dict(r, 0);
    if (a->n_kw && a->n) jr_fail(r, "format takes positional or keyword arguments, not both");
    for (int i = 0; i < a->n_kw; i++) jv_dict_set(r, args.dict, jv_text(a->kw[i].name), a->kw[i].v);
    if (!a->n_kw) {
        args = jv_seq(r, K_TUPLE, 0, (size_t)a->n);
        for (int i = 0; i < a->n; i++) jv_append(r, args, a->v[i]);
    }
    return jv_percent(r, text_of(r, v), args);
}

/* ------------------------------------------------------------------ numbers */

static bool parse_int(struct str s, int64_t base, int64_t *out)
{
    char text[72];
    size_t n = 0;
    s = jv_strip(s, NULL, true, true);
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '_' && i && i + 1 < s.n) continue;
        if (n + 1 >= sizeof text || s.p[i] <= ' ') return false;
        text[n++] = s.p[i];
    }
    text[n] = '\0';
    char *end;
    long long v = strtoll(text, &end, base >= 2 && base <= 36 ? (int)base : 10);
    if (n == 0 || *end || v == INT64_MAX || v == INT64_MIN) return false;
    *out = v;
    return true;
}

static bool parse_float(struct str s, double *out)
{
    char text[72], *end;
    s = jv_strip(s, NULL, true, true);
    if (s.n == 0 || s.n >= sizeof text) return false;
    memcpy(text, s.p, s.n);
    text[s.n] = '\0';
    if (strpbrk(text, "xXpP(")) return false;
    *out = strtod(text, &end);
    return *end == '\0';
}

static bool to_int(double f, int64_t *out)
{
    if (!(f > -9.2e18 && f < 9.2e18)) return false;
    *out = (int64_t)f;
    return true;
}

FILTER(f_int)
{
    struct jval otherwise = jr_arg(a, 0, "default", jv_int(0));
    int64_t i;
    double f;
    if (v.kind == K_UNDEF) jr_fail_undef(r, v);
    if (jv_is_int(v)) return jv_int(v.i);
    if (v.kind == K_FLOAT) return to_int(v.f, &i) ? jv_int(i) : otherwise;
    if (v.kind != K_STR) return otherwise;
    if (parse_int(jv_str(v), jr_arg_int(r, a, 1, "base", 10), &i)) return jv_int(i);
    return parse_float(jv_str(v), &f) && to_int(f, &i) ? jv_int(i) : otherwise;
}

FILTER(f_float)
{
    double f;
    if (v.kind == K_UNDEF) jr_fail_undef(r, v);
    if (jv_is_num(v)) return jv_float(jv_num(v));
    if (v.kind == K_STR && parse_float(jv_str(v), &f)) return jv_float(f);
    return jr_arg(a, 0, "default", jv_float(0));
}

FILTER(f_abs)
{
    (void)a;
    if (v.kind == K_UNDEF) jr_fail_undef(r, v);
    if (v.kind == K_FLOAT) return jv_float(fabs(v.f));
    if (!jv_is_int(v)) jr_fail(r, "bad operand type for abs(): '%s'", jv_type_name(v));
    if (v.i == INT64_MIN) jr_fail(r, "integer overflow");
    return jv_int(v.i < 0 ? -v.i : v.i);
}

FILTER(f_round)
{
    int64_t precision = jr_arg_int(r, a, 0, "precision", 0);
    struct str method = jr_arg_str(r, a, 1, "method", "common");
    if (v.kind == K_UNDEF) jr_fail_undef(r, v);
    if (!jv_is_num(v)) jr_fail(r, "type %s doesn't define __round__ method", jv_type_name(v));
    if (precision < -300 || precision > 300) jr_fail(r, "round: precision out of range");
    double scale = pow(10, (double)precision), f = jv_num(v);
    if (str_is(method, "ceil")) return jv_float(ceil(f * scale) / scale);
    if (str_is(method, "floor")) return jv_float(floor(f * scale) / scale);
    if (!str_is(method, "common")) jr_fail(r, "method must be common, ceil or floor");
    if (jv_is_int(v) && precision >= 0) return jv_int(v.i);
    if (precision < 0) {
        double rounded = nearbyint(f * scale) / scale;
        int64_t i;
        return jv_is_int(v) && to_int(rounded, &i) ? jv_int(i) : jv_float(rounded);
    }
    char text[720];
    snprintf(text, sizeof text, "%.*f", (int)precision, f); /* exact decimals, ties to even */
    return jv_float(strtod(text, NULL));
}

/* ------------------------------------------------------------------ the rest */

FILTER(f_default)
{
    bool use = v.kind == K_UNDEF || (jr_arg_bool(a, 1, "boolean", false) && !jv_truth(v));
    (void)r;
    return use ? jr_arg(a, 0, "default_value", jv_text(STR(""))) : v;
}

/* transformers' tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False) */
FILTER(f_tojson)
{
    struct jval indent = jr_arg(a, 1, "indent", jv_none()),
                sep = jr_arg(a, 2, "separators", jv_none());
    struct jjson how = {.ascii = jr_arg_bool(a, 0, "ensure_ascii", false),
                        .sort_keys = jr_arg_bool(a, 3, "sort_keys", false),
                        .lines = indent.kind != K_NONE,
                        .comma = indent.kind == K_NONE ? STR(", ") : STR(","),
                        .colon = STR(": ")};
    if (indent.kind == K_STR)
        how.indent = jv_str(indent);
    else if (jv_is_int(indent))
        how.indent = jv_str(jv_pad(r, STR(""), indent.i, STR(" "), -1));
    if (sep.kind != K_NONE) {
        const struct jlist *l = jv_items(r, sep);
        if (l->n != 2 || l->v[0].kind != K_STR || l->v[1].kind != K_STR)
            jr_fail(r, "tojson: separators must be two strings");
        how.comma = jv_str(l->v[0]);
        how.colon = jv_str(l->v[1]);
    }
    size_t mark = r->out->n;
    jr_put_json(r, v, &how, 0);
    return jr_capture(r, mark);
}

static const struct jnative filters[] = {{"tojson", f_tojson},
                                         {"trim", f_trim},
                                         {"string", f_string},
                                         {"default", f_default},
                                         {"d", f_default},
                                         {"safe", f_safe},
                                         {"lower", f_lower},
                                         {"upper", f_upper},
                                         {"title", f_title},
                                         {"capitalize", f_capitalize},
                                         {"replace", f_replace},
                                         {"indent", f_indent},
                                         {"int", f_int},
                                         {"float", f_float},
                                         {"abs", f_abs},
                                         {"round", f_round},
                                         {"escape", f_escape},
                                         {"e", f_escape},
                                         {"forceescape", f_forceescape},
                                         {"urlencode", f_urlencode},
                                         {"center", f_center},
                                         {"truncate", f_truncate},
                                         {"wordcount", f_wordcount},
                                         {"format", f_format},
                                         {NULL, NULL}};

const struct jnative *jinja_filter(struct str name)
{
    const struct jnative *f = jnative_find(filters, name);
    return f ? f : jinja_filter_seq(name);
}
