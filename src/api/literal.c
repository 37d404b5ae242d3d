/* literal.c - the converter of literal.h: one byte at a time through a small state machine; only
 * numbers, words and escapes are held until they end.
 */
#include "api/literal.h"

#include <math.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/utf8.h"

enum place {
    AT_VALUE,  /* a value must come */
    AT_FIRST,  /* behind an opening bracket: a value, or the end */
    AT_KEY,    /* a key, or the end */
    AT_COLON,  /* behind a key */
    AT_NEXT,   /* behind a value: a comma, or the end */
    AT_STRING, /* inside a string */
    AT_QUOTE,  /* inside what may be Gemma's <|"|> */
    AT_ESCAPE, /* behind a backslash */
    AT_HEX,    /* inside \u, \x, \U */
    AT_WORD,   /* inside a number or a word */
    AT_BARE,   /* inside a key without quotes */
    AT_END,
    AT_BAD,
};

static const char gemma_quote[] = "<|\"|>";
enum { CALL = 'c' }; /* on the stack: keyword arguments, which ')' closes; else the closing byte */

void literal_begin(struct literal *l, enum literal_dialect d)
{
    *l = (struct literal){.dialect = d, .at = AT_VALUE};
}

void literal_begin_arguments(struct literal *l, enum literal_dialect d, struct buf *out)
{
    *l = (struct literal){.dialect = d, .at = AT_KEY, .depth = 1};
    l->stack[0] = d == LITERAL_PYTHON ? CALL : '}';
    buf_putc(out, '{');
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_word(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static int hex_value(char c)
{
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The innermost open container, by its closing byte; 0: none. */
static char container(const struct literal *l)
{
    return l->depth > 0 ? l->stack[l->depth - 1] : '\0';
}

static bool in_object(const struct literal *l)
{
    return container(l) == '}' || container(l) == CALL;
}

/* ------------------------------------------------------------------ strings */

static void put_char(struct buf *out, unsigned char c)
{
    static const char *const names[32] = {
        ['\b'] = "\\b", ['\f'] = "\\f", ['\n'] = "\\n", ['\r'] = "\\r", ['\t'] = "\\t"};
    if (c == '"' || c == '\\') {
        buf_putc(out, '\\');
        buf_putc(out, (char)c);
    } else if (c >= 0x20) {
        buf_putc(out, (char)c);
    } else if (names[c]) {
        buf_puts(out, names[c]);
    } else {
        buf_printf(out, "\\u%04x", c);
    }
}

void put_escaped(struct buf *out, struct str s)
{
    for (size_t i = 0; i < s.n; i++) put_char(out, (unsigned char)s.p[i]);
}

static void put_code(struct buf *out, uint32_t code)
{
    char utf8[4];
    bool is_scalar = code < 0xD800 || (code > 0xDFFF && code <= 0x10FFFF);
    if (code < 0x80) {
        put_char(out, (unsigned char)code);
    } else if (is_scalar) {
        buf_put(out, utf8, (size_t)utf8_put(utf8, code));
    } else {
        buf_puts(out, "\xEF\xBF\xBD");
    }
}

static void string_begin(struct literal *l, char quote, enum place back, struct buf *out)
{
    l->quote = quote;
    l->back = (uint8_t)back;
    l->at = AT_STRING;
    buf_putc(out, '"');
}

static void string_end(struct literal *l, struct buf *out)
{
    buf_putc(out, '"');
    l->at = l->back;
    if (l->back == AT_COLON) l->n_keys++;
}

/* Behind a backslash. JSON's own escapes stay as they are written. */
static void escape(struct literal *l, char c, struct buf *out)
{
    static const char python[] = "abfnrtv0", value[] = "\a\b\f\n\r\t\v";
    bool is_python = l->dialect == LITERAL_PYTHON;
    const char *p = is_python ? strchr(python, c) : NULL;
    l->at = AT_STRING;
    if (c == 'u' || (is_python && (c == 'x' || c == 'U'))) {
        l->n_hex = c == 'u' ? 4 : c == 'x' ? 2 : 8;
        l->code = 0;
        l->n_word = 0;
        l->word[l->n_word++] = c;
        l->at = AT_HEX;
    } else if (!is_python && c && strchr("\"\\/bfnrt", c)) {
        buf_putc(out, '\\');
        buf_putc(out, c);
    } else if (p && c) {
        put_char(out, (unsigned char)value[p - python]); /* "0": the NUL that ends value */
    } else if (is_python && c == '\n') {
        return;
    } else if (is_python && (c == '\'' || c == '"' || c == '\\')) {
        put_char(out, (unsigned char)c);
    } else {
        buf_puts(out, "\\\\"); /* it escapes nothing: a backslash */
        put_char(out, (unsigned char)c);
    }
}

/* Inside \uXXXX and kin; false: c is none of its digits and is to be read again as text. */
static bool hex(struct literal *l, char c, struct buf *out)
{
    int v = hex_value(c);
    if (v < 0) {
        buf_puts(out, "\\\\");
        buf_put(out, l->word, l->n_word);
        l->at = AT_STRING;
        return false;
    }
    l->code = l->code << 4 | (uint32_t)v;
    l->word[l->n_word++] = c;
    if (--l->n_hex > 0) return true;
    l->at = AT_STRING;
    if (l->dialect == LITERAL_PYTHON) {
        put_code(out, l->code);
    } else {
        buf_putc(out, '\\');
        buf_put(out, l->word, l->n_word);
    }
    return true;
}

/* ------------------------------------------------------------------ numbers and words */

static bool is_finite(struct str number)
{
    char z[LITERAL_WORD_MAX + 1] = {0};
    if (number.n > LITERAL_WORD_MAX) return false;
    memcpy(z, number.p, number.n);
    return isfinite(strtod(z, NULL));
}

/* A number as JSON has it, or mended: +1, .5, 5. (digits only else: no leading zeros). */
static bool put_number(struct str s, struct buf *out)
{
    size_t i = 0, digits = 0, mark = out->n;
    if (i < s.n && (s.p[i] == '-' || s.p[i] == '+')) {
        if (s.p[i] == '-') buf_putc(out, '-');
        i++;
    }
    size_t first = i;
    for (; i < s.n && is_digit(s.p[i]); i++) digits++;
    bool good = digits < 2 || s.p[first] != '0';
    buf_put(out, s.p + first, digits);
    if (digits == 0) buf_putc(out, '0');
    if (i < s.n && s.p[i] == '.') {
        size_t dot = i++;
        while (i < s.n && is_digit(s.p[i])) i++;
        buf_put(out, s.p + dot, i - dot);
        if (i - dot == 1) buf_putc(out, '0');
        digits += i - dot - 1;
    }
    if (i < s.n && (s.p[i] == 'e' || s.p[i] == 'E')) {
        size_t e = i++, from;
        if (i < s.n && (s.p[i] == '-' || s.p[i] == '+')) i++;
        from = i;
        while (i < s.n && is_digit(s.p[i])) i++;
        good = good && i > from;
        buf_put(out, s.p + e, i - e);
    }
    good = good && digits > 0 && i == s.n && is_finite(s);
    if (!good) out->n = mark;
    return good;
}

static bool put_word(const struct literal *l, struct buf *out)
{
    static const char *const words[][2] = {{"true", "true"}, {"false", "false"}, {"null", "null"},
                                           {"True", "true"}, {"False", "false"}, {"None", "null"}};
    struct str w = {l->word, l->n_word};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (!str_is(w, words[i][0])) continue;
        buf_puts(out, words[i][1]);
        return true;
    }
    return put_number(w, out);
}

/* ------------------------------------------------------------------ structure */

static bool open_container(struct literal *l, char closes, struct buf *out)
{
    if (l->depth == LITERAL_DEPTH_MAX) return false;
    l->stack[l->depth++] = closes;
    buf_putc(out, closes == '}' ? '{' : '[');
    l->at = closes == '}' ? AT_KEY : AT_FIRST;
    l->has_value = false;
    return true;
}

static void value_done(struct literal *l)
{
    l->at = l->depth ? AT_NEXT : AT_END;
}

static bool close_container(struct literal *l, char c, struct buf *out)
{
    char closes = container(l) == CALL ? ')' : container(l);
    if (!closes || c != closes) return false;
    buf_putc(out, in_object(l) ? '}' : ']');
    l->depth--;
    l->has_value = true;
    value_done(l);
    return true;
}

static void put_comma(struct literal *l, struct buf *out)
{
    if (l->has_value) buf_puts(out, ", ");
    l->has_value = true;
}

static bool begin_value(struct literal *l, char c, struct buf *out)
{
    bool is_python = l->dialect == LITERAL_PYTHON;
    if (l->depth && !in_object(l)) put_comma(l, out);
    if (c == '{') return open_container(l, '}', out);
    if (c == '[') return open_container(l, ']', out);
    if (c == '(' && is_python) return open_container(l, ')', out);
    if (c == '"' || (c == '\'' && is_python)) {
        string_begin(l, c, l->depth ? AT_NEXT : AT_END, out);
        return true;
    }
    l->n_word = 0;
    if (c == '<' && l->dialect == LITERAL_GEMMA) {
        l->back = AT_NEXT;
        l->word[l->n_word++] = c;
        l->at = AT_QUOTE;
        l->quote = 0;
        return true;
    }
    if (!is_word(c) && c != '-' && c != '+' && c != '.') return false;
    l->word[l->n_word++] = c;
    l->at = AT_WORD;
    return true;
}

static bool begin_key(struct literal *l, char c, struct buf *out)
{
    bool is_bare = l->dialect == LITERAL_GEMMA || container(l) == CALL;
    if (close_container(l, c, out)) return true;
    if (is_bare ? !is_word(c) : c != '"' && !(c == '\'' && l->dialect == LITERAL_PYTHON))
        return false;
    put_comma(l, out);
    if (!is_bare) {
        string_begin(l, c, AT_COLON, out);
        return true;
    }
    buf_putc(out, '"');
    buf_putc(out, c);
    l->at = AT_BARE;
    return true;
}

/* Inside <|"|>, opening or closing; what turns out to be none is text of the string. */
static bool gemma_mark(struct literal *l, char c, struct buf *out, bool *again)
{
    size_t whole = sizeof gemma_quote - 1;
    bool is_open = l->quote == 0;
    if (c == gemma_quote[l->n_word]) {
        l->word[l->n_word++] = c;
        if (l->n_word < whole) return true;
        l->n_word = 0;
        if (is_open)
            string_begin(l, '<', l->depth ? AT_NEXT : AT_END, out);
        else
            string_end(l, out);
        return true;
    }
    if (is_open) return false;
    put_escaped(out, (struct str){l->word, l->n_word});
    l->n_word = 0;
    l->at = AT_STRING;
    *again = true;
    return true;
}

static bool in_string(struct literal *l, char c, struct buf *out)
{
    if (c == l->quote && l->dialect == LITERAL_GEMMA && c == '<') {
        l->n_word = 0;
        l->word[l->n_word++] = c;
        l->at = AT_QUOTE;
    } else if (c == l->quote) {
        string_end(l, out);
    } else if (c == '\\' && l->quote != '<') {
        l->at = AT_ESCAPE;
    } else {
        put_char(out, (unsigned char)c);
    }
    return true;
}

static bool in_word(struct literal *l, char c, struct buf *out, bool *again)
{
    if (is_word(c) || c == '.' || c == '-' || c == '+') {
        if (l->n_word == LITERAL_WORD_MAX) return false;
        l->word[l->n_word++] = c;
        return true;
    }
    *again = true;
    if (!put_word(l, out)) return false;
    value_done(l);
    return true;
}

static bool in_bare(struct literal *l, char c, struct buf *out, bool *again)
{
    if (is_word(c)) {
        buf_putc(out, c);
        return true;
    }
    *again = true;
    buf_putc(out, '"');
    l->n_keys++;
    l->at = AT_COLON;
    return true;
}

/* One byte; false: it does not fit. *again: it ended what ran and is to be read once more. */
static bool step(struct literal *l, char c, struct buf *out, bool *again)
{
    switch ((enum place)l->at) {
    case AT_STRING:
        return in_string(l, c, out);
    case AT_ESCAPE:
        escape(l, c, out);
        return true;
    case AT_HEX:
        *again = !hex(l, c, out);
        return true;
    case AT_QUOTE:
        return gemma_mark(l, c, out, again);
    case AT_WORD:
        return in_word(l, c, out, again);
    case AT_BARE:
        return in_bare(l, c, out, again);
    case AT_FIRST:
        if (is_blank(c) || close_container(l, c, out)) return true;
        return begin_value(l, c, out);
    case AT_VALUE:
        return is_blank(c) || begin_value(l, c, out);
    case AT_KEY:
        return is_blank(c) || begin_key(l, c, out);
    case AT_COLON:
        if (is_blank(c)) return true;
        if (c != (container(l) == CALL ? '=' : ':')) return false;
        buf_puts(out, ": ");
        l->at = AT_VALUE;
        return true;
    case AT_NEXT:
        if (is_blank(c) || close_container(l, c, out)) return true;
        l->has_value = true;
        l->at = in_object(l) ? AT_KEY : AT_FIRST;
        return c == ',';
    case AT_END:
    case AT_BAD:
        break;
    }
    return false;
}

size_t literal_feed(struct literal *l, struct str s, struct buf *out, enum literal_state *state)
{
    size_t i = 0;
    while (i < s.n && l->at < AT_END) {
        bool again = false;
        bool in_word = l->at == AT_WORD || (l->at == AT_QUOTE && l->quote == 0);
        if (step(l, s.p[i], out, &again)) {
            i += !again;
            continue;
        }
        if (!in_word) l->n_word = 0;
        l->at = AT_BAD;
    }
    *state = l->at == AT_END ? LITERAL_DONE : l->at == AT_BAD ? LITERAL_BAD : LITERAL_MORE;
    return i;
}

size_t literal_held(const struct literal *l)
{
    bool is_open_quote = l->at == AT_QUOTE && l->quote == 0;
    return l->at == AT_WORD || l->at == AT_BAD || is_open_quote ? l->n_word : 0;
}

bool literal_whole(enum literal_dialect d, struct str s, struct buf *out)
{
    struct literal l;
    enum literal_state state;
    size_t mark = out->n;
    while (s.n && is_blank(s.p[0])) s.p++, s.n--;
    while (s.n && is_blank(s.p[s.n - 1])) s.n--;
    literal_begin(&l, d);
    size_t used = literal_feed(&l, s, out, &state);
    if (state == LITERAL_MORE && l.at == AT_WORD && l.depth == 0 && put_word(&l, out))
        state = LITERAL_DONE; /* a number ends where the text does */
    bool good = state == LITERAL_DONE && used == s.n;
    if (!good) out->n = mark;
    return good;
}
