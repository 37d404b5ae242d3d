/* buf.c - the growable buffer. */
#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"

void buf_free(struct buf *b)
{
    free(b->p);
    *b = (struct buf){.max = b->max};
}

char *buf_reserve(struct buf *b, size_t n)
{
    size_t need;
    if (ckd_add(&need, b->n, n) || need > b->max) {
        b->overflow = true;
        return NULL;
    }
    if (need > b->cap) {
        size_t cap = b->cap ? b->cap * 2 : 256;
        if (cap < need) cap = need;
        if (cap > b->max) cap = b->max;
        b->p = xrealloc(b->p, cap + 1); /* one spare byte for buf_cstr */
        b->cap = cap;
    }
    return b->p + b->n;
}

void buf_put(struct buf *b, const void *bytes, size_t n)
{
    if (n == 0) return;
    char *at = buf_reserve(b, n);
    if (!at) return;
    memcpy(at, bytes, n);
    b->n += n;
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n <= 0 || !buf_reserve(b, (size_t)n)) return;
    va_start(ap, fmt);
    vsnprintf(b->p + b->n, (size_t)n + 1, fmt, ap); /* the spare byte takes the NUL */
    va_end(ap);
    b->n += (size_t)n;
}

void buf_consume(struct buf *b, size_t n)
{
    ASSERT(n <= b->n);
    if (n == 0) return;
    memmove(b->p, b->p + n, b->n - n);
    b->n -= n;
}

const char *buf_cstr(struct buf *b)
{
    if (!b->p) return "";
    b->p[b->n] = '\0';
    return b->p;
}

void buf_put_i64(struct buf *b, int64_t v)
{
    char digits[24];
    int i = (int)sizeof digits;
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    do digits[--i] = (char)('0' + u % 10);
    while (u /= 10);
    if (v < 0) digits[--i] = '-';
    buf_put(b, digits + i, sizeof digits - (size_t)i);
}
