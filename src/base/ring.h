/* ring.h - a single-producer single-consumer ring of values: the only way between two threads.
 *
 * Exactly one thread pushes and one pops. Values are copied in and out. Ordering: the producer's
 * release store of `head` publishes the slots before it; the consumer's release store of `tail`
 * gives slots back. Each side caches the other's index, so a steady flow costs no shared read.
 */
#ifndef BASE_RING_H
#define BASE_RING_H

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

struct ring {
    char *slots;                        /* owned: capacity * size bytes */
    size_t size;                        /* bytes of one value */
    uint32_t mask;                      /* capacity - 1, capacity a power of two */
    _Alignas(64) _Atomic uint32_t head; /* written by the producer */
    uint32_t tail_seen;                 /* producer's copy of tail */
    _Alignas(64) _Atomic uint32_t tail; /* written by the consumer */
    uint32_t head_seen;                 /* consumer's copy of head */
};

/* Capacity is rounded up to a power of two. */
static inline void ring_init(struct ring *r, size_t size, uint32_t capacity)
{
    uint32_t cap = 1;
    while (cap < capacity) cap *= 2;
    memset(r, 0, sizeof *r);
    r->slots = xcalloc(cap, size);
    r->size = size;
    r->mask = cap - 1;
}
static inline void ring_free(struct ring *r)
{
    free(r->slots);
    r->slots = NULL;
}

/* Producer: how many values can be pushed right now. */
static inline uint32_t ring_room(struct ring *r)
{
    uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    r->tail_seen = atomic_load_explicit(&r->tail, memory_order_acquire);
    return r->mask + 1 - (head - r->tail_seen);
}

/* Producer: false when full. */
static inline bool ring_push(struct ring *r, const void *value)
{
    uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    if (head - r->tail_seen > r->mask && ring_room(r) == 0) return false;
    memcpy(r->slots + (size_t)(head & r->mask) * r->size, value, r->size);
    atomic_store_explicit(&r->head, head + 1, memory_order_release);
    return true;
}

/* Consumer: false when empty. */
static inline bool ring_pop(struct ring *r, void *value)
{
    uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    if (tail == r->head_seen) {
        r->head_seen = atomic_load_explicit(&r->head, memory_order_acquire);
        if (tail == r->head_seen) return false;
    }
    memcpy(value, r->slots + (size_t)(tail & r->mask) * r->size, r->size);
    atomic_store_explicit(&r->tail, tail + 1, memory_order_release);
    return true;
}

#endif
