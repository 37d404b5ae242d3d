/* arena.h - bump allocation with one lifetime: a request's, or a load's. One owner, no locks.
 * Everything taken from an arena is freed at once by arena_free; a maximum bounds it.
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

#include "base/buf.h"

struct arena_block;
struct arena {
    struct arena_block *head; /* owned chain, newest first */
    size_t used, max;         /* bytes handed out, and the most that may be */
};

static inline struct arena arena_make(size_t max)
{
    return (struct arena){.max = max};
}
/* Zeroed memory aligned to 16 bytes, or NULL past the maximum. */
void *arena_alloc(struct arena *a, size_t n);
/* As arena_alloc for n elements; NULL also when n * size overflows. */
void *arena_array(struct arena *a, size_t n, size_t size);
/* A NUL-terminated copy, or NULL past the maximum. */
char *arena_strdup(struct arena *a, struct str s);
void arena_free(struct arena *a);

#endif
