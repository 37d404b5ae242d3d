/* jinja_lex.c - from template source to tokens, with jinja2's whitespace rules.
 *
 * Settings are fixed: trim_blocks (one newline after a block or comment tag goes), lstrip_blocks
 * (blanks before such a tag go where it starts its line), no line statements. Text tokens are
 * slices of the source.
 */
#include <stdlib.h>

#include "base/utf8.h"
#include "text/jinja_impl.h"

enum { BRACKETS_MAX = 256 };

struct lexer {
    struct jcompile *c;
    const char *begin, *p, *end;
    int line;
};

static bool at(const struct lexer *x, const char *word)
{
    size_t n = strlen(word);
    return (size_t)(x->end - x->p) >= n && memcmp(x->p, word, n) == 0;
}

static void advance(struct lexer *x, const char *to)
{
    for (; x->p < to; x->p++) x->line += *x->p == '\n';
}

static struct jtok *push(struct lexer *x, int type, struct str s)
{
    struct jcompile *c = x->c;
    if (c->n_toks == c->cap_toks) {
        c->cap_toks = c->cap_toks ? c->cap_toks * 2 : 256;
        c->toks = xrealloc(c->toks, c->cap_toks * sizeof *c->toks);
    }
    struct jtok *t = &c->toks[c->n_toks++];
    *t = (struct jtok){.type = type, .line = x->line, .s = s};
    return t;
}

static void skip_space(struct lexer *x)
{
    struct str rest = {x->p, (size_t)(x->end - x->p)};
    advance(x, jv_strip(rest, NULL, true, false).p);
}

/* The end of a tag: -%} eats the space after it, %} one newline (where `trim`), +%} nothing.
 * False when the place is no such end. */
static bool tag_end(struct lexer *x, const char *mark, bool trim)
{
    const char *p = x->p;
    bool minus = p < x->end && *p == '-', plus = p < x->end && *p == '+' && trim;
    if (minus || plus) p++;
    if (x->end - p < 2 || p[0] != mark[0] || p[1] != mark[1]) return false;
    advance(x, p + 2);
    if (minus)
        skip_space(x);
    else if (!plus && trim && x->p < x->end && *x->p == '\n')
        advance(x, x->p + 1);
    return true;
}

/* ------------------------------------------------------------------ inside a tag */

static bool is_word(char ch)
{
    return jv_is_ascii_alnum(ch) || ch == '_' || (unsigned char)ch >= 0x80;
}
static bool is_digit(const struct lexer *x, const char *p) { return p < x->end && jv_is_digit(*p); }

static int hex_value(char ch)
{
    if (ch >= '0' && ch <= '9') return ch - '0';
    int low = ch | 32;
    return low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

/* n hexadecimal digits at p, or -1. */
static int64_t hex_run(const char *p, const char *end, int n)
{
    int64_t v = 0;
    if (end - p < n) return -1;
    for (int i = 0; i < n; i++) {
        int d = hex_value(p[i]);
        if (d < 0) return -1;
        v = v << 4 | d;
    }
    return v;
}

/* \xHH, \uHHHH, \UHHHHHHHH at *p (after the backslash): writes UTF-8. A surrogate pair joins. */
static int escape_hex(struct lexer *x, const char **p, const char *end, char *o)
{
    int digits = **p == 'x' ? 2 : **p == 'u' ? 4 : 8;
    int64_t cp = hex_run(*p + 1, end, digits);
    if (cp < 0 || cp > 0x10FFFF) jc_fail(x->c, x->line, "bad \\%c escape in a string", **p);
    *p += 1 + digits;
    if (cp >= 0xD800 && cp < 0xE000) {
        int64_t low =
            end - *p >= 6 && (*p)[0] == '\\' && (*p)[1] == 'u' ? hex_run(*p + 2, end, 4) : -1;
        if (cp >= 0xDC00 || low < 0xDC00 || low > 0xDFFF)
            jc_fail(x->c, x->line, "lone surrogate in a string");
        cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
        *p += 6;
    }
    return utf8_put(o, (uint32_t)cp);
}

/* Python's escapes; an unknown one keeps its backslash. */
static struct str unescape(struct lexer *x, struct str s)
{
    static const char from[] = "ntr\\'\"abfv", to[] = "\n\t\r\\'\"\a\b\f\v";
    if (!memchr(s.p, '\\', s.n)) return s;
    char *out = jc_alloc(x->c, s.n + 1, 1), *o = out;
    const char *p = s.p, *end = s.p + s.n;
    while (p < end) {
        if (*p != '\\') {
            *o++ = *p++;
            continue;
        }
        p++; /* a backslash is never last: the scan for the closing quote skips pairs */
        const char *known = strchr(from, *p);
        if (known && *p) {
            *o++ = to[known - from];
            p++;
        } else if (*p == 'x' || *p == 'u' || *p == 'U') {
            o += escape_hex(x, &p, end, o);
        } else if (*p >= '0' && *p <= '7') {
            uint32_t v = 0;
            for (int i = 0; i < 3 && p < end && *p >= '0' && *p <= '7'; i++)
                v = v * 8 + (uint32_t)(*p++ - '0');
            o += utf8_put(o, v);
        } else if (*p == '\n') {
            p++;
        } else {
            *o++ = '\\';
            *o++ = *p++;
        }
    }
    return (struct str){out, (size_t)(o - out)};
}

static void lex_string(struct lexer *x)
{
    char quote = *x->p;
    const char *p = x->p + 1;
    while (p < x->end && *p != quote) p += *p == '\\' && x->end - p > 1 ? 2 : 1;
    if (p >= x->end) jc_fail(x->c, x->line, "unterminated string");
    struct str raw = {x->p + 1, (size_t)(p - x->p - 1)};
    push(x, T_STRING, unescape(x, raw));
    advance(x, p + 1);
}

static const char *digits_end(const struct lexer *x, const char *p)
{
    while (is_digit(x, p) || (p < x->end && *p == '_' && is_digit(x, p + 1))) p++;
    return p;
}

static void lex_int(struct lexer *x)
{
    const char *p = x->p;
    int base = 10;
    if (x->end - p > 2 && *p == '0') {
        int mark = p[1] | 32;
        base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
        if (base != 10) p += 2;
    }
    int64_t v = 0;
    for (; p < x->end && (hex_value(*p) >= 0 || *p == '_'); p++) {
        if (*p == '_') continue;
        int d = hex_value(*p);
        if (d >= base) break;
        if (__builtin_mul_overflow(v, (int64_t)base, &v) ||
            __builtin_add_overflow(v, (int64_t)d, &v))
            jc_fail(x->c, x->line, "integer out of range");
    }
    push(x, T_INT, (struct str){x->p, (size_t)(p - x->p)})->i = v;
    x->p = p;
}

static void lex_number(struct lexer *x)
{
    const char *p = digits_end(x, x->p);
    bool real = false, after_dot = x->p > x->begin && x->p[-1] == '.';
    if (p < x->end && *p == '.' && is_digit(x, p + 1) && !after_dot) {
        real = true;
        p = digits_end(x, p + 1);
    }
    if (p < x->end && (*p | 32) == 'e' && !after_dot) {
        const char *q = p + 1;
        if (q < x->end && (*q == '+' || *q == '-')) q++;
        if (is_digit(x, q)) {
            real = true;
            p = digits_end(x, q);
        }
    }
    if (!real) {
        lex_int(x);
        return;
    }
    char text[64];
    size_t n = 0;
    for (const char *q = x->p; q < p; q++) {
        if (n + 1 >= sizeof text) jc_fail(x->c, x->line, "number too long");
        if (*q != '_') text[n++] = *q;
    }
    text[n] = '\0';
    push(x, T_FLOAT, (struct str){x->p, (size_t)(p - x->p)})->f = strtod(text, NULL);
    x->p = p;
}

static void lex_operator(struct lexer *x)
{
    static const struct {
        const char text[3];
        int type;
    } two[] = {{"//", T_FLOORDIV}, {"**", T_POW}, {"==", T_EQ},
               {"!=", T_NE},       {"<=", T_LE},  {">=", T_GE}};
    for (size_t i = 0; i < sizeof two / sizeof *two; i++)
        if (at(x, two[i].text)) {
            push(x, two[i].type, (struct str){x->p, 2});
            x->p += 2;
            return;
        }
    if (!*x->p || !strchr("+-/*%~[](){}><=.:|,;", *x->p))
        jc_fail(x->c, x->line, "unexpected character '%.1s'",
                (unsigned char)*x->p < 0x80 ? x->p : "?");
    push(x, (unsigned char)*x->p, (struct str){x->p, 1});
    x->p++;
}

/* Tokens up to and with the tag's end. Inside brackets an end mark is no end: {{ {'a': {}} }}. */
static void lex_tag(struct lexer *x, const char *mark, int end_type)
{
    char open[BRACKETS_MAX];
    int n_open = 0;
    for (;;) {
        skip_space(x);
        if (x->p >= x->end) jc_fail(x->c, x->line, "unexpected end of the template in a tag");
        if (n_open == 0 && tag_end(x, mark, mark[0] == '%')) {
            push(x, end_type, (struct str){mark, 2});
            return;
        }
        char ch = *x->p;
        if (ch == '"' || ch == '\'') {
            lex_string(x);
        } else if (is_digit(x, x->p)) {
            lex_number(x);
        } else if (is_word(ch)) {
            const char *p = x->p;
            while (p < x->end && is_word(*p)) p++;
            push(x, T_NAME, (struct str){x->p, (size_t)(p - x->p)});
            x->p = p;
        } else {
            if (ch == '(' || ch == '[' || ch == '{') {
                if (n_open == BRACKETS_MAX) jc_fail(x->c, x->line, "brackets nested too deep");
                open[n_open++] = ch;
            } else if (ch == ')' || ch == ']' || ch == '}') {
                char want = ch == ')' ? '(' : ch == ']' ? '[' : '{';
                if (n_open == 0 || open[n_open - 1] != want)
                    jc_fail(x->c, x->line, "unexpected '%c'", ch);
                n_open--;
            }
            lex_operator(x);
        }
    }
}

/* ------------------------------------------------------------------ outside tags */

/* The text before a tag, cut as its sign and lstrip_blocks say. */
static void push_text(struct lexer *x, const char *to, char sign, bool is_block)
{
    struct str s = {x->p, (size_t)(to - x->p)};
    if (sign == '-') {
        s = jv_strip(s, NULL, false, true);
    } else if (sign != '+' && is_block && s.n) {
        const char *line = memrchr(s.p, '\n', s.n);
        bool starts_line = x->p == x->begin || x->p[-1] == '\n';
        size_t from = line ? (size_t)(line - s.p) + 1 : 0;
        struct str tail = {s.p + from, s.n - from};
        if ((line || starts_line) && jv_strip(tail, NULL, true, false).n == 0) s.n = from;
    }
    if (s.n) push(x, T_DATA, s);
    advance(x, to);
}

static char sign_at(const struct lexer *x, const char *p)
{
    return p < x->end && (*p == '-' || *p == '+') ? *p : 0;
}

static void lex_comment(struct lexer *x)
{
    const char *from = x->p, *p = memmem(x->p, (size_t)(x->end - x->p), "#}", 2);
    if (!p) jc_fail(x->c, x->line, "unterminated comment");
    advance(x, p > from && (p[-1] == '-' || p[-1] == '+') ? p - 1 : p);
    tag_end(x, "#}", true);
}

/* At {% with sign and blanks skipped in `x`: is it `word` and the tag's end? Moves x past it then.
 */
static bool word_tag(struct lexer *x, const char *word, bool trim)
{
    struct lexer try = *x;
    try.p += 2;
    if (sign_at(&try, try.p)) try.p++;
    skip_space(&try);
    if (!at(&try, word)) return false;
    try.p += strlen(word);
    skip_space(&try);
    if (try.p < try.end && *try.p == '+' && !trim) return false;
    if (!trim && at(&try, "%}"))
        try.p += 2;
    else if (!tag_end(&try, "%}", true))
        return false;
    *x = try;
    return true;
}

static void lex_raw(struct lexer *x)
{
    for (const char *p = x->p;; p += 2) {
        p = memmem(p, (size_t)(x->end - p), "{%", 2);
        if (!p) jc_fail(x->c, x->line, "missing endraw");
        struct lexer try = *x;
        advance(&try, p);
        if (!word_tag(&try, "endraw", true)) continue;
        push_text(x, p, sign_at(x, p + 2), true);
        *x = try;
        return;
    }
}

/* newline_sequence is \n, and one newline at the end of the source is dropped. */
static struct str normalise(struct jcompile *c, struct str s)
{
    char *out = jc_alloc(c, s.n + 1, 1);
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) {
        bool cr = s.p[i] == '\r';
        out[n++] = cr ? '\n' : s.p[i];
        if (cr && i + 1 < s.n && s.p[i + 1] == '\n') i++;
    }
    if (n && out[n - 1] == '\n') n--;
    return (struct str){out, n};
}

void jc_lex(struct jcompile *c)
{
    struct str s = c->t->source = normalise(c, c->t->source);
    struct lexer x = {.c = c, .begin = s.p, .p = s.p, .end = s.p + s.n, .line = 1};
    while (x.p < x.end) {
        const char *p = x.p;
        while (p && (p = memchr(p, '{', (size_t)(x.end - p))))
            if (x.end - p > 1 && strchr("{%#", p[1]) && p[1])
                break;
            else
                p++;
        if (!p) p = x.end;
        bool last = p == x.end;
        char kind = last ? 0 : p[1], sign = last ? '+' : sign_at(&x, p + 2);
        push_text(&x, p, sign, kind != '{');
        if (last) break;
        if (kind == '%' && word_tag(&x, "raw", false)) {
            lex_raw(&x);
            continue;
        }
        x.p += sign ? 3 : 2;
        if (kind == '#') {
            lex_comment(&x);
            continue;
        }
        push(&x, kind == '{' ? T_VAR_BEGIN : T_BLOCK_BEGIN, (struct str){p, 2});
        lex_tag(&x, kind == '{' ? "}}" : "%}", kind == '{' ? T_VAR_END : T_BLOCK_END);
    }
    push(&x, T_EOF, (struct str){x.end, 0});
}
