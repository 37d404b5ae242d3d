/* buf.h - a growable byte buffer that knows its maximum, and borrowed text (pointer and length).
 *
 * A buffer is created with the most it may ever hold; appending past it sets `overflow` and drops
 * the bytes, so that a caller checks once at the end. One owner, no locks.
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Borrowed bytes; not NUL-terminated. */
struct str {
    const char *p;
    size_t n;
};

#define STR(literal) ((struct str){(literal), sizeof(literal) - 1})
static inline struct str str_of(const char *z)
{
    return (struct str){z, z ? strlen(z) : 0};
}
static inline bool str_eq(struct str a, struct str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
static inline bool str_is(struct str a, const char *z)
{
    return str_eq(a, str_of(z));
}

struct buf {
    char *p;       /* owned; NULL while empty */
    size_t n, cap; /* bytes used, bytes held */
    size_t max;    /* never grows past this many bytes */
    bool overflow; /* an append was dropped */
};

static inline struct buf buf_make(size_t max)
{
    return (struct buf){.max = max};
}
void buf_free(struct buf *b);

/* Make room for n more bytes; the place to write them, or NULL (and overflow) past the maximum.
 * The caller adds what it wrote to b->n. */
char *buf_reserve(struct buf *b, size_t n);
void buf_put(struct buf *b, const void *bytes, size_t n);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Drop the first n bytes, moving the rest down. */
void buf_consume(struct buf *b, size_t n);
/* NUL-terminate (not counted in n) and return the text; "" when empty. */
const char *buf_cstr(struct buf *b);

static inline void buf_puts(struct buf *b, const char *z)
{
    buf_put(b, z, strlen(z));
}
static inline void buf_put_str(struct buf *b, struct str s)
{
    buf_put(b, s.p, s.n);
}
static inline void buf_putc(struct buf *b, char c)
{
    if (b->n < b->cap)
        b->p[b->n++] = c;
    else
        buf_put(b, &c, 1);
}
void buf_put_i64(struct buf *b, int64_t v); /* decimal */
static inline struct str buf_str(const struct buf *b)
{
    return (struct str){b->p, b->n};
}

#endif
