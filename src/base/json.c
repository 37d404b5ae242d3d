/* json.c - the strict gate in front of cJSON, typed access to its tree, and the writers.
 *
 * Why a gate: cJSON 1.7.15 accepts duplicate keys, 1e999, \u0000 (cutting the string), raw control
 * characters, invalid UTF-8, 01 and trailing garbage, and keeps every number as a double. The gate
 * is one pass without recursion; it also lists the numbers, and the strings with a NUL, in document
 * order, so that the walk over cJSON's tree can attach exact values and lengths.
 */
#include "base/json.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/utf8.h"

/* Our marks in cJSON's `type`, above its flags. The valuedouble of a node marked IS_INT holds the bits of
 * the exact int64 instead of a double; nothing of cJSON reads it again. cJSON decodes \u0000 into a NUL
 * and keeps what follows, but no length: that of a value with a NUL lies in valuedouble too, that of
 * such a key in valueint. */
enum { DEPTH_MAX = 512, IS_INT = 1 << 16, HAS_NUL = 1 << 17, KEY_HAS_NUL = 1 << 18 };

struct number {
    int64_t value;
    bool is_int;
};

/* A string, by its place among all keys and values, that holds a NUL. */
struct nul_string {
    size_t ordinal, length;
};

struct json_doc {
    cJSON *root; /* owned */
};

const struct json_limits json_limits_request = {
    .max_depth = 64, .max_nodes = 1048576, .max_keys = 4096};
const struct json_limits json_limits_file = {.max_depth = 128,
                                             .max_nodes = 64u << 20,
                                             .max_keys = 8u << 20,
                                             .allow_nul = true,
                                             .allow_duplicates = true};

/* ------------------------------------------------------------------ the gate */

struct gate {
    const char *p, *end, *begin;
    const struct json_limits *lim;
    struct sl_error *e;
    size_t nodes;
    int depth;
    bool in_object[DEPTH_MAX];
    struct number *numbers; /* owned, grows */
    size_t n_numbers, cap_numbers;
    size_t n_strings;
    bool nul_seen;          /* in the string at hand */
    struct nul_string *nul; /* owned, grows */
    size_t n_nul, cap_nul;
};

static int bad(const struct gate *g, const char *what)
{
    return sl_fail(g->e, SL_EINVAL, "invalid JSON at byte %zu: %s", (size_t)(g->p - g->begin), what);
}

static void skip_space(struct gate *g)
{
    while (g->p < g->end && (*g->p == ' ' || *g->p == '\n' || *g->p == '\r' || *g->p == '\t')) g->p++;
}

static bool is_digit(const struct gate *g) { return g->p < g->end && *g->p >= '0' && *g->p <= '9'; }

static int hex4(struct gate *g, unsigned *out)
{
    unsigned v = 0;
    if (g->end - g->p < 4) return bad(g, "cut \\u escape");
    for (int i = 0; i < 4; i++, g->p++) {
        unsigned char c = (unsigned char)*g->p;
        unsigned digit = c - (unsigned)'0', letter = (c | 32u) - (unsigned)'a';
        if (digit > 9 && letter > 5) return bad(g, "bad \\u escape");
        unsigned d = digit <= 9 ? digit : letter + 10;
        v = v << 4 | d;
    }
    *out = v;
    return 0;
}

static int gate_escape(struct gate *g)
{
    if (g->p >= g->end) return bad(g, "cut string");
    char c = *g->p++;
    if (c != 'u') return c && strchr("\"\\/bfnrt", c) ? 0 : bad(g, "bad escape");
    unsigned hi = 0, lo = 0;
    TRY(hex4(g, &hi));
    if (hi == 0 && !g->lim->allow_nul) return bad(g, "\\u0000 is not allowed");
    g->nul_seen = g->nul_seen || hi == 0;
    if (hi >= 0xDC00 && hi < 0xE000) return bad(g, "lone surrogate");
    if (hi < 0xD800 || hi >= 0xE000) return 0;
    if (g->end - g->p < 6 || g->p[0] != '\\' || g->p[1] != 'u') return bad(g, "lone surrogate");
    g->p += 2;
    TRY(hex4(g, &lo));
    return lo >= 0xDC00 && lo < 0xE000 ? 0 : bad(g, "lone surrogate");
}

/* Bytes that a checked string's literal decodes to. */
static size_t decoded_length(const char *p, const char *end)
{
    size_t n = 0;
    while (p < end) {
        int bytes = 1, step = *p != '\\' ? 1 : 2;
        if (step == 2 && p[1] == 'u') {
            unsigned cp = (unsigned)strtoul((char[5]){p[2], p[3], p[4], p[5]}, NULL, 16);
            bool pair = cp >= 0xD800 && cp < 0xE000;
            bytes = pair ? 4 : cp < 0x80 ? 1 : cp < 0x800 ? 2 : 3;
            step = pair ? 12 : 6;
        }
        p += step;
        n += (size_t)bytes;
    }
    return n;
}

static void keep_nul_string(struct gate *g, const char *start)
{
    if (g->n_nul == g->cap_nul) {
        g->cap_nul = g->cap_nul ? g->cap_nul * 2 : 8;
        g->nul = xrealloc(g->nul, g->cap_nul * sizeof *g->nul);
    }
    g->nul[g->n_nul++] = (struct nul_string){g->n_strings, decoded_length(start, g->p)};
}

static int gate_string(struct gate *g)
{
    const char *start = ++g->p;
    g->nul_seen = false;
    for (;;) {
        if (g->p >= g->end) return bad(g, "unterminated string");
        unsigned char c = (unsigned char)*g->p;
        if (c == '"') {
            if (g->nul_seen) keep_nul_string(g, start);
            g->n_strings++;
            g->p++;
            return 0;
        }
        if (c < 0x20) return bad(g, "control character in string");
        if (c == '\\') {
            g->p++;
            TRY(gate_escape(g));
        } else if (c < 0x80) {
            g->p++;
        } else {
            int len;
            if (utf8_next(g->p, (size_t)(g->end - g->p), &len) < 0) return bad(g, "invalid UTF-8");
            g->p += len;
        }
    }
}

static void keep_number(struct gate *g, struct number v)
{
    if (g->n_numbers == g->cap_numbers) {
        g->cap_numbers = g->cap_numbers ? g->cap_numbers * 2 : 64;
        g->numbers = xrealloc(g->numbers, g->cap_numbers * sizeof *g->numbers);
    }
    g->numbers[g->n_numbers++] = v;
}

static int gate_number(struct gate *g)
{
    const char *start = g->p;
    bool neg = *g->p == '-', fits = true, real = false;
    uint64_t u = 0;
    if (neg) g->p++;
    if (!is_digit(g)) return bad(g, "bad number");
    if (*g->p == '0' && g->end - g->p > 1 && g->p[1] >= '0' && g->p[1] <= '9')
        return bad(g, "number with a leading zero");
    for (; is_digit(g); g->p++)
        fits = fits && !__builtin_mul_overflow(u, 10u, &u) &&
               !__builtin_add_overflow(u, (uint64_t)(*g->p - '0'), &u);
    if (g->p < g->end && *g->p == '.') {
        real = true;
        g->p++;
        if (!is_digit(g)) return bad(g, "bad fraction");
        while (is_digit(g)) g->p++;
    }
    if (g->p < g->end && (*g->p | 32) == 'e') {
        real = true;
        g->p++;
        if (g->p < g->end && (*g->p == '+' || *g->p == '-')) g->p++;
        if (!is_digit(g)) return bad(g, "bad exponent");
        while (is_digit(g)) g->p++;
    }
    size_t n = (size_t)(g->p - start);
    char text[64];
    if (n >= sizeof text) return bad(g, "number of more than 63 characters");
    memcpy(text, start, n);
    text[n] = '\0';
    if (!isfinite(strtod(text, NULL))) return bad(g, "number out of range");
    uint64_t limit = neg ? (uint64_t)INT64_MAX + 1 : (uint64_t)INT64_MAX;
    bool is_int = !real && fits && u <= limit;
    keep_number(g, (struct number){is_int ? (int64_t)(neg ? 0 - u : u) : 0, is_int});
    return 0;
}

static int gate_word(struct gate *g, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(g->end - g->p) < n || memcmp(g->p, word, n) != 0) return bad(g, "unexpected token");
    g->p += n;
    return 0;
}

/* After '{' or ',': a key and its colon. */
static int gate_key(struct gate *g)
{
    skip_space(g);
    if (g->p >= g->end || *g->p != '"') return bad(g, "expected a key");
    TRY(gate_string(g));
    skip_space(g);
    if (g->p >= g->end || *g->p != ':') return bad(g, "expected ':'");
    g->p++;
    g->nodes++;
    return 0;
}

/* One value's start: a scalar whole, or an opening bracket. *opened tells which. */
static int gate_value(struct gate *g, bool *opened)
{
    *opened = false;
    skip_space(g);
    if (g->p >= g->end) return bad(g, "unexpected end");
    if (++g->nodes > g->lim->max_nodes) return bad(g, "too many values");
    switch (*g->p) {
    case '"': return gate_string(g);
    case 't': return gate_word(g, "true");
    case 'f': return gate_word(g, "false");
    case 'n': return gate_word(g, "null");
    case '{':
    case '[':
        if (g->depth >= g->lim->max_depth || g->depth >= DEPTH_MAX) return bad(g, "nested too deep");
        g->in_object[g->depth++] = *g->p++ == '{';
        *opened = true;
        return 0;
    default: return gate_number(g);
    }
}

/* Close brackets and step over a comma after a complete value. *more: another value follows. */
static int gate_after_value(struct gate *g, bool *more)
{
    while (g->depth > 0) {
        skip_space(g);
        if (g->p >= g->end) return bad(g, "unexpected end");
        bool object = g->in_object[g->depth - 1];
        char c = *g->p;
        if (c == ',') {
            g->p++;
            if (object) TRY(gate_key(g));
            *more = true;
            return 0;
        }
        if (c != (object ? '}' : ']')) return bad(g, "expected ',' or a closing bracket");
        g->p++;
        g->depth--;
    }
    *more = false;
    return 0;
}

static int gate_run(struct gate *g)
{
    bool more = true;
    while (more) {
        bool opened;
        TRY(gate_value(g, &opened));
        if (opened) {
            bool object = g->in_object[g->depth - 1];
            skip_space(g);
            bool empty = g->p < g->end && *g->p == (object ? '}' : ']');
            if (!empty && object) TRY(gate_key(g));
            if (!empty) continue;
        }
        TRY(gate_after_value(g, &more));
    }
    skip_space(g);
    return g->p == g->end ? 0 : bad(g, "trailing characters");
}

/* ------------------------------------------------------------------ the tree */

static int by_name(const void *a, const void *b)
{
    return strcmp((*(cJSON *const *)a)->string, (*(cJSON *const *)b)->string);
}

/* Refuse equal keys and too many of them; sorts pointers, so a large object costs n log n. */
static int check_keys(const cJSON *object, const struct json_limits *lim, struct sl_error *e)
{
    size_t n = 0;
    for (const cJSON *c = object->child; c; c = c->next) n++;
    if (n > lim->max_keys) return sl_fail(e, SL_EINVAL, "invalid JSON: object with %zu keys", n);
    if (n < 2 || lim->allow_duplicates) return 0;
    const cJSON **keys = xmalloc(n * sizeof *keys);
    size_t i = 0;
    int code = 0;
    for (const cJSON *c = object->child; c; c = c->next) keys[i++] = c;
    qsort(keys, n, sizeof *keys, by_name);
    for (i = 1; i < n && code == 0; i++)
        if (strcmp(keys[i - 1]->string, keys[i]->string) == 0)
            code = sl_fail(e, SL_EINVAL, "invalid JSON: duplicate key \"%.64s\"", keys[i]->string);
    free(keys);
    return code;
}

/* Attach the lengths of a node's key and value where they hold a NUL. *i_string counts all strings. */
static void annotate_strings(cJSON *v, const struct gate *g, size_t *i_string, size_t *i_nul)
{
    if (v->string) {
        if (*i_nul < g->n_nul && g->nul[*i_nul].ordinal == *i_string) {
            v->type |= KEY_HAS_NUL;
            v->valueint = (int)g->nul[(*i_nul)++].length;
        }
        ++*i_string;
    }
    if (cJSON_IsString(v)) {
        if (*i_nul < g->n_nul && g->nul[*i_nul].ordinal == *i_string) {
            int64_t length = (int64_t)g->nul[(*i_nul)++].length;
            v->type |= HAS_NUL;
            memcpy(&v->valuedouble, &length, sizeof length);
        }
        ++*i_string;
    }
}

/* Walk in document order with a stack of our own: mark integers and strings with a NUL, check the keys
 * of objects. */
static int annotate(struct json_doc *d, const struct gate *g)
{
    cJSON *stack[DEPTH_MAX + 1];
    int depth = 0;
    size_t i_number = 0, i_string = 0, i_nul = 0;
    for (cJSON *v = d->root; v;) {
        if (g->n_nul) annotate_strings(v, g, &i_string, &i_nul);
        if (cJSON_IsNumber(v)) {
            ASSERT(i_number < g->n_numbers);
            struct number num = g->numbers[i_number++];
            if (num.is_int) {
                v->type |= IS_INT;
                memcpy(&v->valuedouble, &num.value, sizeof num.value);
            }
        }
        if (cJSON_IsObject(v)) TRY(check_keys(v, g->lim, g->e));
        if (v->child) {
            ASSERT(depth < DEPTH_MAX);
            stack[depth++] = v;
            v = v->child;
            continue;
        }
        while (v && !v->next) v = depth > 0 ? stack[--depth] : NULL;
        if (v) v = v->next;
    }
    return 0;
}

static int build(struct json_doc **out, struct gate *g)
{
    TRY(gate_run(g));
    struct json_doc *d = xcalloc(1, sizeof *d);
    d->root = cJSON_ParseWithLength(g->begin, (size_t)(g->end - g->begin));
    int code = d->root ? annotate(d, g) : sl_fail(g->e, SL_EINVAL, "invalid JSON");
    if (code < 0)
        json_free(d);
    else
        *out = d;
    return code;
}

int json_parse(struct json_doc **out, const char *text, size_t n, const struct json_limits *lim,
               struct sl_error *e)
{
    struct gate g = {.p = text, .begin = text, .end = text + n, .lim = lim, .e = e};
    *out = NULL;
    int code = n ? build(out, &g) : sl_fail(e, SL_EINVAL, "invalid JSON: the text is empty");
    free(g.numbers);
    free(g.nul);
    return code;
}

void json_free(struct json_doc *d)
{
    if (!d) return;
    cJSON_Delete(d->root);
    free(d);
}

/* ------------------------------------------------------------------ access */

/* A json_node is a cJSON item. */
static const cJSON *item(const json_node *v) { return (const cJSON *)v; }
static const json_node *node(const cJSON *v) { return (const json_node *)v; }

const json_node *json_root(const struct json_doc *d) { return node(d->root); }

enum json_type json_type(const json_node *v)
{
    if (!v) return JSON_NULL;
    int t = item(v)->type;
    switch (t & 0xFF) {
    case cJSON_False: return JSON_FALSE;
    case cJSON_True: return JSON_TRUE;
    case cJSON_Number: return t & IS_INT ? JSON_INT : JSON_REAL;
    case cJSON_String: return JSON_STR;
    case cJSON_Array: return JSON_ARR;
    case cJSON_Object: return JSON_OBJ;
    default: return JSON_NULL;
    }
}

const char *json_type_name(enum json_type t)
{
    static const char *const names[] = {"null",   "boolean", "boolean", "integer",
                                        "number", "string",  "array",   "object"};
    return names[t];
}

const json_node *json_child(const json_node *v)
{
    enum json_type t = json_type(v);
    return t == JSON_ARR || t == JSON_OBJ ? node(item(v)->child) : NULL;
}

const json_node *json_next(const json_node *v) { return node(item(v)->next); }
struct str json_key(const json_node *v)
{
    if (item(v)->type & KEY_HAS_NUL) return (struct str){item(v)->string, (size_t)item(v)->valueint};
    return str_of(item(v)->string);
}

size_t json_len(const json_node *v)
{
    size_t n = 0;
    for (const json_node *c = json_child(v); c; c = json_next(c)) n++;
    return n;
}

const json_node *json_get(const json_node *v, const char *key)
{
    if (json_type(v) != JSON_OBJ) return NULL;
    for (const cJSON *c = item(v)->child; c; c = c->next)
        if (strcmp(c->string, key) == 0) return node(c);
    return NULL;
}

const json_node *json_opt(const json_node *v, const char *key)
{
    const json_node *c = json_get(v, key);
    return json_type(c) == JSON_NULL ? NULL : c;
}

struct str json_str(const json_node *v)
{
    int64_t length;
    ASSERT(json_type(v) == JSON_STR);
    if (!(item(v)->type & HAS_NUL)) return str_of(item(v)->valuestring);
    memcpy(&length, &item(v)->valuedouble, sizeof length);
    return (struct str){item(v)->valuestring, (size_t)length};
}

int64_t json_int(const json_node *v)
{
    int64_t i;
    ASSERT(json_type(v) == JSON_INT);
    memcpy(&i, &item(v)->valuedouble, sizeof i);
    return i;
}

double json_num(const json_node *v)
{
    if (json_type(v) == JSON_INT) return (double)json_int(v);
    ASSERT(json_type(v) == JSON_REAL);
    return item(v)->valuedouble;
}

/* ------------------------------------------------------------------ the writers */

static void put_escaped(struct buf *b, unsigned char c)
{
    static const char short_form[] = "btn-fr"; /* 8, 9, 10, -, 12, 13 */
    if (c == '"' || c == '\\') {
        buf_putc(b, '\\');
        buf_putc(b, (char)c);
    } else if (c >= 8 && c <= 13 && c != 11) {
        buf_putc(b, '\\');
        buf_putc(b, short_form[c - 8]);
    } else {
        static const char hex[] = "0123456789abcdef";
        buf_puts(b, "\\u00");
        buf_putc(b, hex[c >> 4]);
        buf_putc(b, hex[c & 15]);
    }
}

void json_put_str(struct buf *b, struct str s)
{
    buf_putc(b, '"');
    size_t done = 0, i = 0; /* [done, i) is clean and not yet copied */
    while (i < s.n) {
        unsigned char c = (unsigned char)s.p[i];
        int len = 1;
        bool plain = c >= 0x20 && c != '"' && c != '\\' && c != 0x7F;
        if (c >= 0x80) plain = utf8_next(s.p + i, s.n - i, &len) >= 0;
        if (!plain) {
            buf_put(b, s.p + done, i - done);
            if (c >= 0x80)
                buf_puts(b, "\xEF\xBF\xBD");
            else
                put_escaped(b, c);
            done = i + (size_t)len;
        }
        i += (size_t)len;
    }
    if (done < s.n) buf_put(b, s.p + done, s.n - done); /* an empty text may be NULL */
    buf_putc(b, '"');
}

void json_put_num(struct buf *b, double v)
{
    char text[40];
    if (!isfinite(v)) v = -9999.0;
    if (v == 0 && signbit(v)) {
        buf_puts(b, "-0.0"); /* "-0" would read back as an integer */
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    buf_puts(b, text);
}

/* v in [1e-4, 1e5) with 6 to 9 significant digits by integer arithmetic, in a fraction of
 * snprintf's time: log probabilities are written by the thousand. False: outside the range, or too
 * near the middle of two floats to be sure. */
static bool put_float_fast(struct buf *b, float v)
{
    static const double ten[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12};
    double a = fabs((double)v), least = 1e-4;
    int exponent;
    if (!(a >= 1e-4 && a < 1e5)) return false;
    bool power_of_two = frexp(a, &exponent) == 0.5; /* the float below is only half as far */
    double near = ldexp(power_of_two ? 0.25 : 0.499999, exponent - 24);
    int decimals = 9;
    for (; least * 10 <= a; least *= 10) decimals--;
    for (int end = decimals + 4; decimals < end && decimals <= 12; decimals++) {
        uint64_t scale = (uint64_t)ten[decimals], m = (uint64_t)(a * ten[decimals] + 0.5);
        if (fabs((double)m / ten[decimals] - a) >= near) continue;
        if (v < 0) buf_putc(b, '-');
        buf_put_i64(b, (int64_t)(m / scale));
        uint64_t rest = m % scale;
        if (rest) buf_putc(b, '.');
        for (; rest; rest %= scale) {
            scale /= 10;
            buf_putc(b, (char)('0' + rest / scale));
        }
        return true;
    }
    return false;
}

void json_put_float(struct buf *b, float v)
{
    char text[40];
    if (!isfinite(v)) v = -9999.0f;
    if (put_float_fast(b, v)) return;
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v) break;
    }
    buf_puts(b, text);
}

static void put_scalar(struct buf *b, const json_node *v)
{
    switch (json_type(v)) {
    case JSON_NULL: buf_puts(b, "null"); break;
    case JSON_FALSE: buf_puts(b, "false"); break;
    case JSON_TRUE: buf_puts(b, "true"); break;
    case JSON_INT: buf_put_i64(b, json_int(v)); break;
    case JSON_REAL: json_put_num(b, json_num(v)); break;
    case JSON_STR: json_put_str(b, json_str(v)); break;
    case JSON_ARR: buf_puts(b, "[]"); break;
    case JSON_OBJ: buf_puts(b, "{}"); break;
    }
}

static void put_key(struct buf *b, const cJSON *v, bool in_object)
{
    if (!in_object) return;
    json_put_str(b, json_key(node(v)));
    buf_putc(b, ':');
}

void json_put_node(struct buf *b, const json_node *root)
{
    const cJSON *stack[DEPTH_MAX + 1], *v = item(root);
    int depth = 0;
    for (;;) {
        if (v && v->child) {
            buf_putc(b, cJSON_IsObject(v) ? '{' : '[');
            stack[depth++] = v;
            v = v->child;
            put_key(b, v, cJSON_IsObject(stack[depth - 1]));
            continue;
        }
        put_scalar(b, node(v));
        while (depth > 0 && !v->next) {
            v = stack[--depth];
            buf_putc(b, cJSON_IsObject(v) ? '}' : ']');
        }
        if (depth == 0) return;
        v = v->next;
        buf_putc(b, ',');
        put_key(b, v, cJSON_IsObject(stack[depth - 1]));
    }
}
