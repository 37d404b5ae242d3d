/* grammar_pool.c - memory of one grammar: pools and tables, all counted against its budget. */
#include <stdlib.h>

#include "text/grammar_impl.h"

static bool grow(struct grammar *g, void **p, size_t old_bytes, size_t new_bytes)
{
    if (g->bytes - old_bytes + new_bytes > g->max_bytes) {
        g->failed = FAIL_BYTES;
        return false;
    }
    *p = xrealloc(*p, new_bytes);
    memset((char *)*p + old_bytes, 0, new_bytes - old_bytes);
    g->bytes += new_bytes - old_bytes;
    return true;
}

void *pool_push(struct grammar *g, struct pool *p, uint32_t n)
{
    if (n > p->cap - p->n) {
        uint32_t cap = p->cap ? p->cap : 64;
        while (cap - p->n < n && cap < 1u << 30) cap *= 2;
        if (cap - p->n < n || !grow(g, &p->p, (size_t)p->cap * p->size, (size_t)cap * p->size))
            return g->failed = FAIL_BYTES, NULL;
        p->cap = cap;
    }
    void *at = (char *)p->p + (size_t)p->n * p->size;
    memset(at, 0, (size_t)n * p->size);
    p->n += n;
    return at;
}

void pool_free(struct grammar *g, struct pool *p)
{
    g->bytes -= (size_t)p->cap * p->size;
    free(p->p);
    *p = (struct pool){.size = p->size};
}

bool table_reserve(struct grammar *g, struct table *t,
                   uint32_t (*hash_of)(const struct grammar *g, uint32_t id))
{
    if ((t->n + 1) * 2 <= t->cap) return true;
    uint32_t cap = t->cap ? t->cap * 2 : 128;
    uint32_t *slots = NULL;
    if (!grow(g, (void **)&slots, 0, cap * sizeof *slots)) return false;
    for (uint32_t i = 0; i < t->cap; i++) {
        if (!t->slots[i]) continue;
        uint32_t at = hash_of(g, t->slots[i]) & (cap - 1);
        while (slots[at]) at = (at + 1) & (cap - 1);
        slots[at] = t->slots[i];
    }
    g->bytes -= t->cap * sizeof *slots;
    free(t->slots);
    t->slots = slots;
    t->cap = cap;
    return true;
}

void table_free(struct grammar *g, struct table *t)
{
    g->bytes -= t->cap * sizeof *t->slots;
    free(t->slots);
    *t = (struct table){0};
}

bool grammar_steps(struct grammar *g, uint32_t n)
{
    g->steps += n;
    if (g->steps <= g->max_steps) return !g->failed;
    if (!g->failed) g->failed = FAIL_STEPS;
    return false;
}
