/* grammar_char.c - sets of characters as expressions over bytes: UTF-8, or the ways in which JSON
 * strings write a character. One way of writing is chosen for each character wherever possible, so
 * that "not this key" and "a key that matches" can be decided on bytes: what needs no escape has
 * none, quote, backslash and control characters have the shortest one, characters past ASCII may
 * stand raw or as \uXXXX (a surrogate pair past the BMP).
 */
#include <stdlib.h>

#include "base/utf8.h"
#include "text/grammar_impl.h"
#include "text/unicode.h"

void charset_add(struct char_set *s, uint32_t lo, uint32_t hi)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 8;
        s->v = xrealloc(s->v, s->cap * sizeof *s->v);
    }
    s->v[s->n++] = (struct char_range){lo, hi};
}

static int by_lo(const void *x, const void *y)
{
    const struct char_range *a = x, *b = y;
    return a->lo < b->lo ? -1 : a->lo > b->lo;
}

void charset_normal(struct char_set *s)
{
    if (s->n < 2) return;
    qsort(s->v, s->n, sizeof *s->v, by_lo);
    uint32_t kept = 0;
    for (uint32_t i = 1; i < s->n; i++) {
        if (s->v[i].lo <= s->v[kept].hi + 1) {
            if (s->v[i].hi > s->v[kept].hi) s->v[kept].hi = s->v[i].hi;
        } else {
            s->v[++kept] = s->v[i];
        }
    }
    s->n = kept + 1;
}

void charset_invert(struct char_set *s)
{
    charset_normal(s);
    struct char_set out = {0};
    uint32_t next = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        if (s->v[i].lo > next) charset_add(&out, next, s->v[i].lo - 1);
        next = s->v[i].hi + 1;
    }
    if (next <= CHAR_MAX_CP) charset_add(&out, next, CHAR_MAX_CP);
    free(s->v);
    *s = out;
}

void charset_fold(struct char_set *s)
{
    uint32_t n = s->n;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t c = 'A'; c <= 'z'; c++) {
            bool is_letter = c <= 'Z' || c >= 'a';
            if (is_letter && c >= s->v[i].lo && c <= s->v[i].hi) charset_add(s, c ^ 32, c ^ 32);
        }
}

bool charset_class(struct char_set *s, char name)
{
    static const struct {
        char name;
        struct char_range v[10];
    } classes[] = {
        {'d', {{'0', '9'}}},
        {'w', {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}},
        {'s',
         {{9, 13},
          {' ', ' '},
          {0xA0, 0xA0},
          {0x1680, 0x1680},
          {0x2000, 0x200A},
          {0x2028, 0x2029},
          {0x202F, 0x202F},
          {0x205F, 0x205F},
          {0x3000, 0x3000},
          {0xFEFF, 0xFEFF}}},
    };
    char lower = (char)(name | 32);
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        if (classes[i].name != lower) continue;
        struct char_set c = {0};
        for (int k = 0; k < 10 && classes[i].v[k].hi; k++)
            charset_add(&c, classes[i].v[k].lo, classes[i].v[k].hi);
        if (name != lower) charset_invert(&c);
        for (uint32_t k = 0; k < c.n; k++) charset_add(s, c.v[k].lo, c.v[k].hi);
        free(c.v);
        return true;
    }
    return false;
}

static bool has_property(struct str name, int32_t cp)
{
    enum char_class c = unicode_class(cp);
    switch (name.p[0]) {
    case 'L':
        return c == CLASS_LETTER;
    case 'N':
        return c == CLASS_NUMBER;
    case 'M':
        return unicode_is_mark(cp);
    default:
        return unicode_is_space(cp);
    }
}

bool charset_property(struct char_set *s, struct str name)
{
    static const char *const names[] = {"L", "Letter", "N", "Number", "M", "Mark", "White_Space"};
    bool known = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) known |= str_is(name, names[i]);
    if (!known) return false;
    for (uint32_t cp = 0, from = UINT32_MAX; cp <= CHAR_MAX_CP + 1; cp++) {
        bool has = cp <= CHAR_MAX_CP && has_property(name, (int32_t)cp);
        if (has && from == UINT32_MAX) from = cp;
        if (!has && from != UINT32_MAX) {
            charset_add(s, from, cp - 1);
            from = UINT32_MAX;
        }
    }
    return true;
}

/* ------------------------------------------------------------------ ranges to digits */

/* How the digits of a range are written: UTF-8's 6-bit groups, or hexadecimal. */
struct digits {
    int n, bits;
    re_id (*digit)(struct grammar *g, int n, int index, uint32_t lo, uint32_t hi);
};

static re_id utf8_digit(struct grammar *g, int n, int index, uint32_t lo, uint32_t hi)
{
    static const uint8_t lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    uint8_t mark = index ? 0x80 : lead[n];
    return re_range(g, (uint8_t)(mark | lo), (uint8_t)(mark | hi));
}

static re_id hex_digit(struct grammar *g, int n, int index, uint32_t lo, uint32_t hi)
{
    (void)n, (void)index;
    struct byte_set s = {0};
    for (uint32_t d = lo; d <= hi; d++) {
        s.w["0123456789abcdef"[d] / 64] |= 1ull << ("0123456789abcdef"[d] % 64);
        s.w["0123456789ABCDEF"[d] / 64] |= 1ull << ("0123456789ABCDEF"[d] % 64);
    }
    return re_bytes(g, &s);
}

/* lo..hi as a union of products of digit ranges: a range whose low digits are not all covered is
 * split at the next multiple, until each piece is a product. Pieces go to the scratch pool. */
static void split_range(struct grammar *g, const struct digits *d, uint32_t lo, uint32_t hi)
{
    struct char_range stack[64];
    int n_stack = 0;
    stack[n_stack++] = (struct char_range){lo, hi};
    while (n_stack && !g->failed) {
        struct char_range r = stack[--n_stack];
        for (int i = 1; i < d->n; i++) {
            uint32_t m = (1u << (i * d->bits)) - 1;
            if ((r.lo & ~m) == (r.hi & ~m)) continue;
            if (r.lo & m) {
                stack[n_stack++] = (struct char_range){(r.lo | m) + 1, r.hi};
                r.hi = r.lo | m;
            } else if ((r.hi & m) != m) {
                stack[n_stack++] = (struct char_range){r.hi & ~m, r.hi};
                r.hi = (r.hi & ~m) - 1;
            }
        }
        re_id piece = RE_EMPTY;
        uint32_t mask = (1u << d->bits) - 1;
        for (int i = d->n - 1; i >= 0; i--) {
            int shift = (d->n - 1 - i) * d->bits;
            uint32_t a = r.lo >> shift, b = r.hi >> shift;
            if (i) a &= mask, b &= mask;
            piece = re_cat(g, d->digit(g, d->n, i, a, b), piece);
        }
        uint32_t *to = pool_push(g, &g->scratch, 1);
        if (to) *to = piece;
    }
}

/* The union of the pieces on the scratch pool from `first`. */
static re_id take_union(struct grammar *g, uint32_t first)
{
    uint32_t n = g->scratch.n - first;
    re_id few[64], *v = n <= 64 ? few : xmalloc(n * sizeof *v);
    if (n) memcpy(v, (re_id *)g->scratch.p + first, n * sizeof *v);
    g->scratch.n = first;
    re_id out = n ? re_or(g, v, n) : RE_NONE;
    if (v != few) free(v);
    return out;
}

/* Calls split_range for the part of lo..hi inside each row's bounds. */
static void utf8_pieces(struct grammar *g, uint32_t lo, uint32_t hi)
{
    static const struct {
        uint32_t lo, hi;
        int n;
    } rows[] = {{0, 0x7F, 1},
                {0x80, 0x7FF, 2},
                {0x800, 0xD7FF, 3},
                {0xE000, 0xFFFF, 3},
                {0x10000, CHAR_MAX_CP, 4}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t a = lo > rows[i].lo ? lo : rows[i].lo, b = hi < rows[i].hi ? hi : rows[i].hi;
        struct digits d = {rows[i].n, 6, utf8_digit};
        if (a <= b && rows[i].n == 1) {
            uint32_t *to = pool_push(g, &g->scratch, 1);
            re_id r = re_range(g, (uint8_t)a, (uint8_t)b);
            if (to) ((uint32_t *)g->scratch.p)[g->scratch.n - 1] = r;
        } else if (a <= b) {
            split_range(g, &d, a, b);
        }
    }
}

/* Four hexadecimal digits; the pieces' union. */
static re_id hex_range(struct grammar *g, uint32_t lo, uint32_t hi)
{
    uint32_t first = g->scratch.n;
    struct digits d = {4, 4, hex_digit};
    split_range(g, &d, lo, hi);
    return take_union(g, first);
}

static re_id surrogates(struct grammar *g, uint32_t lo, uint32_t hi)
{
    re_id out = RE_NONE;
    lo -= 0x10000, hi -= 0x10000;
    while (lo <= hi) { /* rows of equal high surrogate, whole rows together */
        uint32_t end = lo | 0x3FF;
        if ((lo & 0x3FF) == 0 && hi - lo >= 0x3FF) end = ((hi + 1) & ~0x3FFu) - 1;
        if (end > hi) end = hi;
        re_id high = hex_range(g, 0xD800 + (lo >> 10), 0xD800 + (end >> 10));
        re_id low = hex_range(g, 0xDC00 + (lo & 0x3FF), 0xDC00 + (end & 0x3FF));
        out = re_or2(g, out, re_cat3(g, high, re_literal(g, STR("\\u")), low));
        lo = end + 1;
    }
    return out;
}

/* Escapes of lo..hi: short ones, then \uXXXX. */
static re_id json_escapes(struct grammar *g, uint32_t lo, uint32_t hi)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    struct byte_set brief = {0};
    for (int i = 0; i < 7; i++)
        if ((uint32_t)from[i] >= lo && (uint32_t)from[i] <= hi)
            brief.w[to[i] / 64] |= 1ull << (to[i] % 64);
    re_id u = RE_NONE, out = re_bytes(g, &brief);
    for (uint32_t c = lo; c < 0x20 && c <= hi; c++)
        if (c == 0 || !strchr(from, (int)c)) u = re_or2(g, u, hex_range(g, c, c));
    static const struct char_range bmp[] = {{0x80, 0xD7FF}, {0xE000, 0xFFFF}};
    for (int i = 0; i < 2; i++) {
        uint32_t a = lo > bmp[i].lo ? lo : bmp[i].lo, b = hi < bmp[i].hi ? hi : bmp[i].hi;
        if (a <= b) u = re_or2(g, u, hex_range(g, a, b));
    }
    if (hi >= 0x10000) u = re_or2(g, u, surrogates(g, lo > 0x10000 ? lo : 0x10000, hi));
    out = re_or2(g, out, re_cat(g, re_byte(g, 'u'), u));
    return re_cat(g, re_byte(g, '\\'), out);
}

re_id charset_re(struct grammar *g, const struct char_set *s, bool in_json)
{
    uint32_t first = g->scratch.n;
    for (uint32_t i = 0; i < s->n && !g->failed; i++) {
        uint32_t lo = s->v[i].lo, hi = s->v[i].hi;
        if (!in_json) {
            utf8_pieces(g, lo, hi);
            continue;
        }
        static const struct char_range raw[] = {{0x20, 0x21}, {0x23, 0x5B}, {0x5D, CHAR_MAX_CP}};
        for (int k = 0; k < 3; k++) {
            uint32_t a = lo > raw[k].lo ? lo : raw[k].lo, b = hi < raw[k].hi ? hi : raw[k].hi;
            if (a <= b) utf8_pieces(g, a, b);
        }
        re_id escapes = json_escapes(g, lo, hi);
        uint32_t *to = pool_push(g, &g->scratch, 1);
        if (to) *to = escapes;
    }
    return take_union(g, first);
}

re_id json_char(struct grammar *g)
{
    struct char_set all = {0};
    if (g->json_char) return g->json_char;
    charset_add(&all, 0, CHAR_MAX_CP);
    g->json_char = charset_re(g, &all, true);
    g->json_quote = re_byte(g, '"');
    free(all.v);
    return g->json_char;
}

re_id json_string(struct grammar *g, uint32_t lo, uint32_t hi)
{
    re_id c = json_char(g);
    return re_cat3(g, g->json_quote, re_rep(g, c, lo, hi), g->json_quote);
}

re_id json_literal(struct grammar *g, struct str text)
{
    json_char(g);
    re_id *v = xmalloc((text.n + 1) * sizeof *v), out = g->json_quote;
    size_t n = 0;
    for (size_t i = 0; i < text.n && !g->failed;) {
        uint32_t cp = (uint8_t)text.p[i];
        int step = 1;
        if (cp >= 0x20 && cp < 0x80 && cp != '"' && cp != '\\') {
            v[n++] = re_byte(g, (uint8_t)cp);
        } else {
            if (cp >= 0x80) cp = (uint32_t)utf8_next(text.p + i, text.n - i, &step);
            struct char_set one = {.v = &(struct char_range){cp, cp}, .n = 1};
            v[n++] = charset_re(g, &one, true);
        }
        i += (size_t)step;
    }
    while (n > 0) out = re_cat(g, v[--n], out);
    free(v);
    return re_cat(g, g->json_quote, out);
}

re_id json_literals(struct grammar *g, const struct str *texts, uint32_t n)
{
    re_id *v = xmalloc((n + 1) * sizeof *v);
    for (uint32_t i = 0; i < n; i++) v[i] = json_literal(g, texts[i]);
    re_id out = n ? re_or(g, v, n) : RE_NONE;
    free(v);
    return out;
}
