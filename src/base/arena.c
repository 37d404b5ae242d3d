/* arena.c - blocks of 16 KiB and up, chained; a large request gets a block of its own. */
#include "base/arena.h"

#include <stdlib.h>

#include "base/err.h"

enum { BLOCK_BYTES = 16384, ALIGN = 16 };

struct arena_block {
    struct arena_block *next;
    size_t used, size;
    _Alignas(ALIGN) char data[];
};

void *arena_alloc(struct arena *a, size_t n)
{
    size_t need;
    if (ckd_align(&need, n ? n : 1, ALIGN) || need > a->max - a->used) return NULL;
    struct arena_block *b = a->head;
    if (!b || b->size - b->used < need) {
        size_t size = need > BLOCK_BYTES ? need : BLOCK_BYTES;
        b = xcalloc(1, sizeof *b + size);
        b->size = size;
        b->next = a->head;
        a->head = b;
    }
    void *p = b->data + b->used;
    b->used += need;
    a->used += need;
    return p;
}

void *arena_array(struct arena *a, size_t n, size_t size)
{
    size_t bytes;
    return ckd_mul(&bytes, n, size) ? NULL : arena_alloc(a, bytes);
}

char *arena_strdup(struct arena *a, struct str s)
{
    char *p = s.n < SIZE_MAX ? arena_alloc(a, s.n + 1) : NULL;
    if (p && s.n) memcpy(p, s.p, s.n);
    return p;
}

void arena_free(struct arena *a)
{
    for (struct arena_block *b = a->head, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *a = (struct arena){.max = a->max};
}
