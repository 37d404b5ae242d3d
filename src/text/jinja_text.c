/* jinja_text.c - values as text: Python's str() and repr(), json.dumps, and Unicode helpers.
 *
 * All writers append to r->out; a filter that needs the text takes it back with jr_capture.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "text/jinja_impl.h"

enum { TEXT_DEPTH_MAX = 100 };

/* ------------------------------------------------------------------ Unicode */

bool jv_is_space(int32_t cp)
{
    if (cp <= ' ') return cp == ' ' || (cp >= 9 && cp <= 13) || (cp >= 28 && cp <= 31);
    if (cp < 0x80) return false;
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

size_t jv_codepoints(struct str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) n += ((unsigned char)s.p[i] & 0xC0) != 0x80;
    return n;
}

size_t jv_offset(struct str s, size_t index)
{
    size_t i = 0;
    for (; i < s.n; i++)
        if (((unsigned char)s.p[i] & 0xC0) != 0x80 && index-- == 0) break;
    return i;
}

/* Is the code point of len bytes at p to be stripped? */
static bool strippable(const char *p, size_t len, int32_t cp, const struct str *set)
{
    return set ? set->n && memmem(set->p, set->n, p, len) : jv_is_space(cp);
}

struct str jv_strip(struct str s, const struct str *set, bool left, bool right)
{
    int len;
    while (left && s.n) {
        int32_t cp = utf8_next(s.p, s.n, &len);
        if (!strippable(s.p, (size_t)len, cp, set)) break;
        s.p += len;
        s.n -= (size_t)len;
    }
    while (right && s.n) {
        size_t back = 1;
        while (back < s.n && back < 4 && ((unsigned char)s.p[s.n - back] & 0xC0) == 0x80) back++;
        int32_t cp = utf8_next(s.p + s.n - back, back, &len);
        if (!strippable(s.p + s.n - back, back, cp, set)) break;
        s.n -= back;
    }
    return s;
}

/* ------------------------------------------------------------------ numbers */

/* repr(float): the shortest digits that read back equal; fixed from 1e-4 up to 1e16. */
static void put_float(struct jrender *r, double f, bool json)
{
    char digits[40], text[64];
    if (isnan(f) || isinf(f)) {
        const char *name = isnan(f) ? (json ? "NaN" : "nan") : json ? "Infinity" : "inf";
        if (f < 0) buf_putc(r->out, '-');
        buf_puts(r->out, name);
        return;
    }
    for (int p = 0; p <= 16; p++) {
        snprintf(digits, sizeof digits, "%.*e", p, f);
        if (strtod(digits, NULL) == f) break;
    }
    char *e = strchr(digits, 'e');
    int exponent = (int)strtol(e + 1, NULL, 10), n_digits = (int)(e - digits) - (digits[0] == '-');
    if (n_digits > 1) n_digits--; /* the point */
    if (exponent < -4 || exponent >= 16) {
        buf_put(r->out, digits, (size_t)(e - digits));
        buf_printf(r->out, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    int decimals = n_digits - 1 - exponent;
    snprintf(text, sizeof text, "%.*f", decimals > 1 ? decimals : 1, f);
    buf_puts(r->out, text);
}

/* ------------------------------------------------------------------ str and repr */

static bool printable(int32_t cp)
{
    if (cp < 0x7F) return cp >= ' ';
    switch (utf8proc_category(cp)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
    }
}

static void put_repr_str(struct jrender *r, struct str s)
{
    bool single = s.n && memchr(s.p, '\'', s.n), twice = s.n && memchr(s.p, '"', s.n);
    char quote = single && !twice ? '"' : '\'';
    jr_tick(r, s.n / 16);
    buf_putc(r->out, quote);
    for (size_t i = 0; i < s.n;) {
        int len;
        int32_t cp = utf8_next(s.p + i, s.n - i, &len);
        if (cp == quote || cp == '\\')
            buf_printf(r->out, "\\%c", (char)cp);
        else if (cp == '\n' || cp == '\r' || cp == '\t')
            buf_puts(r->out, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t");
        else if (printable(cp))
            buf_put(r->out, s.p + i, (size_t)len);
        else
            buf_printf(r->out,
                       cp < 0x100     ? "\\x%02x"
                       : cp < 0x10000 ? "\\u%04x"
                                      : "\\U%08x",
                       (unsigned)cp);
        i += (size_t)len;
    }
    buf_putc(r->out, quote);
}

static void put_repr(struct jrender *r, struct jval v, int depth);

static void put_items(struct jrender *r, const struct jlist *l, const char *brackets, int depth)
{
    buf_putc(r->out, brackets[0]);
    for (uint32_t i = 0; i < l->n; i++) {
        if (i) buf_puts(r->out, ", ");
        put_repr(r, l->v[i], depth);
    }
    if (brackets[0] == '(' && l->n == 1) buf_putc(r->out, ',');
    buf_putc(r->out, brackets[1]);
}

static void put_dict(struct jrender *r, const struct jdict *d, int depth)
{
    buf_putc(r->out, '{');
    for (uint32_t i = 0; i < d->n; i++) {
        if (i) buf_puts(r->out, ", ");
        put_repr(r, d->v[i].k, depth);
        buf_puts(r->out, ": ");
        put_repr(r, d->v[i].v, depth);
    }
    buf_putc(r->out, '}');
}

static void put_iter(struct jrender *r, struct jval v, int depth)
{
    const struct jlist *l = v.list;
    switch ((enum jiter)v.sub) {
    case ITER_GENERATOR: buf_puts(r->out, "<generator object>"); return;
    case ITER_RANGE: {
        int64_t from = l->n ? l->v[0].i : 0, step = l->n > 1 ? l->v[1].i - from : 1;
        buf_printf(r->out, "range(%lld, %lld", (long long)from, (long long)(from + step * l->n));
        if (step != 1) buf_printf(r->out, ", %lld", (long long)step);
        buf_putc(r->out, ')');
        return;
    }
    case ITER_ITEMS:
    case ITER_KEYS:
    case ITER_VALUES:
        buf_puts(r->out, jv_type_name(v));
        buf_putc(r->out, '(');
        put_items(r, l, "[]", depth);
        buf_putc(r->out, ')');
    }
}

static void put_object(struct jrender *r, struct jval v, int depth)
{
    if (v.kind == K_NAMESPACE) {
        buf_puts(r->out, "<Namespace ");
        put_dict(r, v.dict, depth);
        buf_putc(r->out, '>');
    } else if (v.kind == K_FUNC && !v.fn->native) {
        buf_puts(r->out, "<Macro ");
        put_repr_str(r, v.fn->macro->name);
        buf_putc(r->out, '>');
    } else if (v.kind == K_LOOP) {
        buf_printf(r->out, "<LoopContext %u/%u>", v.loop->i + 1, v.loop->n);
    } else {
        buf_printf(r->out, "<%s object>", jv_type_name(v));
    }
}

static void put_repr(struct jrender *r, struct jval v, int depth)
{
    jr_tick(r, 1);
    if (depth > TEXT_DEPTH_MAX) jr_fail(r, "a value is nested too deep to be printed");
    switch ((enum jkind)v.kind) {
    case K_UNSET: return;
    case K_UNDEF: buf_puts(r->out, "Undefined"); return;
    case K_NONE: buf_puts(r->out, "None"); return;
    case K_BOOL: buf_puts(r->out, v.i ? "True" : "False"); return;
    case K_INT: buf_put_i64(r->out, v.i); return;
    case K_FLOAT: put_float(r, v.f, false); return;
    case K_STR:
        if (v.sub == STR_MARKUP) buf_puts(r->out, "Markup(");
        put_repr_str(r, jv_str(v));
        if (v.sub == STR_MARKUP) buf_putc(r->out, ')');
        return;
    case K_LIST: put_items(r, v.list, "[]", depth + 1); return;
    case K_TUPLE: put_items(r, v.list, "()", depth + 1); return;
    case K_ITER: put_iter(r, v, depth + 1); return;
    case K_DICT: put_dict(r, v.dict, depth + 1); return;
    case K_NAMESPACE:
    case K_FUNC:
    case K_LOOP:
    case K_CYCLER: put_object(r, v, depth + 1); return;
    }
}

void jr_put_repr(struct jrender *r, struct jval v) { put_repr(r, v, 0); }

void jr_put(struct jrender *r, struct jval v)
{
    if (v.kind == K_STR) {
        jr_tick(r, v.n / 64);
        buf_put(r->out, v.s, v.n);
    } else if (v.kind != K_UNDEF) {
        put_repr(r, v, 0);
    }
}

struct jval jr_str(struct jrender *r, struct jval v)
{
    if (v.kind == K_STR) return v;
    size_t mark = r->out->n;
    jr_put(r, v);
    return jr_capture(r, mark);
}

/* ------------------------------------------------------------------ JSON */

static void put_json_escape(struct buf *b, int32_t cp)
{
    static const char short_form[] = "btn-fr"; /* 8, 9, 10, -, 12, 13 */
    if (cp == '"' || cp == '\\')
        buf_printf(b, "\\%c", (char)cp);
    else if (cp >= 8 && cp <= 13 && cp != 11)
        buf_printf(b, "\\%c", short_form[cp - 8]);
    else if (cp < 0x10000)
        buf_printf(b, "\\u%04x", (unsigned)cp);
    else
        buf_printf(b, "\\u%04x\\u%04x", 0xD800u + ((unsigned)(cp - 0x10000) >> 10),
                   0xDC00u + ((unsigned)cp & 0x3FF));
}

static void put_json_str(struct jrender *r, struct str s, bool ascii)
{
    struct buf *b = r->out;
    size_t clean = 0, i = 0;
    jr_tick(r, s.n / 32);
    buf_putc(b, '"');
    while (i < s.n) {
        unsigned char ch = (unsigned char)s.p[i];
        if (ch >= 0x20 && ch != '"' && ch != '\\' && (!ascii || ch < 0x7F)) {
            i++;
            continue;
        }
        int len;
        int32_t cp = utf8_next(s.p + i, s.n - i, &len);
        buf_put(b, s.p + clean, i - clean);
        put_json_escape(b, cp < 0 ? 0xFFFD : cp);
        i += (size_t)len;
        clean = i;
    }
    buf_put(b, s.p + clean, s.n - clean);
    buf_putc(b, '"');
}

static void put_line(struct jrender *r, const struct jjson *how, int level)
{
    if (!how->lines) return;
    buf_putc(r->out, '\n');
    for (int i = 0; i < level; i++) buf_put_str(r->out, how->indent);
}

static void put_json_key(struct jrender *r, struct jval k, bool ascii)
{
    struct jval name = k;
    if (k.kind == K_BOOL)
        name = jv_text(k.i ? STR("true") : STR("false"));
    else if (k.kind == K_NONE)
        name = jv_text(STR("null"));
    else if (k.kind == K_INT || k.kind == K_FLOAT)
        name = jr_str(r, k);
    else if (k.kind != K_STR)
        jr_fail(r, "keys must be str, int, float, bool or None, not %s", jv_type_name(k));
    put_json_str(r, jv_str(name), ascii);
}

/* Key order: an insertion sort of positions; objects with sort_keys are small and steps are
 * charged. */
static const struct jpair *sorted(struct jrender *r, const struct jdict *d)
{
    struct jpair *p = jr_alloc(r, d->n, sizeof *p);
    for (uint32_t i = 0; i < d->n; i++) {
        uint32_t j = i;
        for (; j > 0 && jv_compare(r, d->v[i].k, p[j - 1].k, "<") < 0; j--) p[j] = p[j - 1];
        p[j] = d->v[i];
    }
    return p;
}

static void put_json_dict(struct jrender *r, const struct jdict *d, const struct jjson *how,
                          int level)
{
    const struct jpair *p = how->sort_keys ? sorted(r, d) : d->v;
    buf_putc(r->out, '{');
    for (uint32_t i = 0; i < d->n; i++) {
        if (i) buf_put_str(r->out, how->comma);
        put_line(r, how, level + 1);
        put_json_key(r, p[i].k, how->ascii);
        buf_put_str(r->out, how->colon);
        jr_put_json(r, p[i].v, how, level + 1);
    }
    if (d->n) put_line(r, how, level);
    buf_putc(r->out, '}');
}

static void put_json_list(struct jrender *r, const struct jlist *l, const struct jjson *how,
                          int level)
{
    buf_putc(r->out, '[');
    for (uint32_t i = 0; i < l->n; i++) {
        if (i) buf_put_str(r->out, how->comma);
        put_line(r, how, level + 1);
        jr_put_json(r, l->v[i], how, level + 1);
    }
    if (l->n) put_line(r, how, level);
    buf_putc(r->out, ']');
}

void jr_put_json(struct jrender *r, struct jval v, const struct jjson *how, int level)
{
    jr_tick(r, 1);
    if (level > TEXT_DEPTH_MAX) jr_fail(r, "a value is nested too deep for JSON");
    switch (v.kind) {
    case K_NONE: buf_puts(r->out, "null"); return;
    case K_BOOL: buf_puts(r->out, v.i ? "true" : "false"); return;
    case K_INT: buf_put_i64(r->out, v.i); return;
    case K_FLOAT: put_float(r, v.f, true); return;
    case K_STR: put_json_str(r, jv_str(v), how->ascii); return;
    case K_LIST:
    case K_TUPLE: put_json_list(r, v.list, how, level); return;
    case K_DICT: put_json_dict(r, v.dict, how, level); return;
    default: jr_fail(r, "Object of type %s is not JSON serializable", jv_type_name(v));
    }
}
