/* grammar_fixture.h - feeding JSON values to a grammar byte by byte, for test_grammar*.c and
 * bench_grammar.c. Members of objects are tried in all orders that the grammar takes (it wants the
 * schema's), within a budget; numbers are written without exponent, whole ones without fraction.
 */
#ifndef TESTS_GRAMMAR_FIXTURE_H
#define TESTS_GRAMMAR_FIXTURE_H

#include <math.h>

#include "text/grammar_impl.h"

struct feed {
    struct grammar_state at;
    const char *gap, *colon; /* after , [ { and before ] }; after : */
    long tries;              /* left */
    struct buf *text;        /* what was accepted, or NULL */
    const json_node *schema; /* where orders of members are looked up, or NULL */
};

/* How many of v's members the map has. */
static size_t count_known(const json_node *v, const json_node *map)
{
    size_t n = 0;
    for (const json_node *m = json_child(map); m; m = json_next(m)) {
        const json_node *k = json_child(v);
        while (k && !str_eq(json_key(k), json_key(m))) k = json_next(k);
        n += k != NULL;
    }
    return n;
}

/* The "properties" under s that knows most of v's members. */
static void find_map(const json_node *s, const json_node *v, const json_node **best, size_t *known)
{
    for (const json_node *m = json_child(s); m; m = json_next(m)) {
        if (json_type(s) == JSON_OBJ && str_is(json_key(m), "properties")) {
            size_t n = count_known(v, m);
            if (n > *known) *known = n, *best = m;
        }
        if (json_child(m)) find_map(m, v, best, known);
    }
}

/* v's members, those that the schema names first and in its order. */
static const json_node **in_order(const json_node *schema, const json_node *v, size_t n)
{
    const json_node **out = xcalloc(n + 1, sizeof *out), *map = NULL;
    size_t known = 0, k = 0;
    if (schema) find_map(schema, v, &map, &known);
    for (const json_node *m = map ? json_child(map) : NULL; m; m = json_next(m))
        for (const json_node *x = json_child(v); x; x = json_next(x))
            if (str_eq(json_key(x), json_key(m))) out[k++] = x;
    for (const json_node *x = json_child(v); x; x = json_next(x)) {
        size_t i = 0;
        while (i < k && out[i] != x) i++;
        if (i == k) out[k++] = x;
    }
    return out;
}

static bool feed_bytes(struct feed *f, struct str s)
{
    if (!grammar_accept_bytes(&f->at, s)) return false;
    if (f->text) buf_put_str(f->text, s);
    return true;
}

/* A value as text that needs no choice of order. */
static void put_plain(struct buf *b, const json_node *v)
{
    struct decimal d;
    if (!json_is_num(v) || !decimal_read(&d, v)) {
        if (json_type(v) == JSON_REAL && fabs(json_num(v)) >= 1e100)
            buf_printf(b, "%.0f", json_num(v));
        else
            json_put_node(b, v);
        return;
    }
    if (d.is_negative) buf_putc(b, '-');
    buf_put(b, d.digits, d.n - d.n_fraction);
    if (d.n_fraction) buf_putc(b, '.');
    buf_put(b, d.digits + d.n - d.n_fraction, d.n_fraction);
}

static bool feed_plain(struct feed *f, const json_node *v)
{
    struct buf b = buf_make(16u << 20);
    put_plain(&b, v);
    bool ok = feed_bytes(f, buf_str(&b));
    buf_free(&b);
    return ok;
}

static bool feed_key(struct feed *f, struct str key)
{
    struct buf b = buf_make(1u << 20);
    json_put_str(&b, key);
    buf_putc(&b, ':');
    buf_puts(&b, f->colon);
    bool ok = feed_bytes(f, buf_str(&b));
    buf_free(&b);
    return ok;
}

static bool feed_value(struct feed *f, const json_node *v);

/* The members m not in `used`, in any order, then the brace. */
static bool feed_members(struct feed *f, const json_node **m, bool *used, size_t n_used, size_t n)
{
    if (n_used == n) {
        if (n && !feed_bytes(f, str_of(f->gap))) return false;
        return feed_bytes(f, STR("}"));
    }
    struct grammar_state back = {0};
    size_t mark = f->text ? f->text->n : 0;
    grammar_copy(&back, &f->at);
    bool ok = false;
    for (size_t i = 0; i < n && f->tries > 0; i++) {
        if (used[i]) continue;
        f->tries--;
        used[i] = true;
        ok = (n_used == 0 || feed_bytes(f, STR(","))) && feed_bytes(f, str_of(f->gap)) &&
             feed_key(f, json_key(m[i])) && feed_value(f, m[i]) &&
             feed_members(f, m, used, n_used + 1, n);
        used[i] = false;
        if (ok) break;
        f->at.config = back.config; /* back holds the reference that keeps it in the tables */
        if (f->text) f->text->n = mark;
    }
    grammar_end(&back);
    return ok;
}

static bool feed_value(struct feed *f, const json_node *v)
{
    if (json_type(v) == JSON_OBJ) {
        size_t n = json_len(v);
        bool *used = xcalloc(n + 1, sizeof *used);
        const json_node **members = in_order(f->schema, v, n);
        bool ok = feed_bytes(f, STR("{")) && feed_members(f, members, used, 0, n);
        free(members);
        free(used);
        return ok;
    }
    if (json_type(v) != JSON_ARR) return feed_plain(f, v);
    if (!feed_bytes(f, STR("["))) return false;
    for (const json_node *m = json_child(v); m; m = json_next(m)) {
        if (m != json_child(v) && !feed_bytes(f, STR(","))) return false;
        if (!feed_bytes(f, str_of(f->gap)) || !feed_value(f, m)) return false;
    }
    if (json_child(v) && !feed_bytes(f, str_of(f->gap))) return false;
    return feed_bytes(f, STR("]"));
}

/* Does the grammar take the value as a whole? Tried in the value's own order, then (schema may be
 * NULL) in the schema's. text (may be NULL) gets it as it was written. */
static bool takes_value(struct grammar *g, const json_node *schema, const json_node *v,
                        bool is_compact, struct buf *text)
{
    bool ok = false;
    for (int attempt = 0; attempt < (schema ? 2 : 1) && !ok; attempt++) {
        struct feed f = {.gap = is_compact ? "" : "\n  ",
                         .colon = is_compact ? "" : " ",
                         .tries = 3000,
                         .text = text,
                         .schema = attempt ? schema : NULL};
        if (text) text->n = 0;
        grammar_begin(&f.at, g);
        ok = feed_value(&f, v) && grammar_may_end(&f.at);
        grammar_end(&f.at);
    }
    return ok;
}

#endif
