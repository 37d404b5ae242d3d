/* cpu_pool.c - fork and join over a single 64-bit word that holds job number, item count and next
 * item.
 *
 * All three travel in one word, so taking an item is one compare-and-swap that fails whenever the
 * job has changed: a helper that was put aside between reading and taking can never touch a later
 * job, and the caller waits for items, never for threads. The job's fn and arg may only change once
 * every item is done, hence they are stable for whoever holds an item.
 */
#include "backend/cpu_pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "backend/futex.h"
#include "base/err.h"

enum {
    ITEM_BITS = 20, /* next item and item count; the rest of the word is the job number */
    SPIN_HELPER =
        20000, /* pauses before a helper sleeps: 0.3 to 1 ms, longer than sampling between steps */
    SPIN_CALLER = 2000, /* pauses before the caller gives way while the last items run elsewhere */
};
static const uint64_t ITEM_MASK = ((uint64_t)1 << ITEM_BITS) - 1;

struct pool {
    _Alignas(64) _Atomic uint64_t word;     /* job | n_items | next; written by all */
    _Alignas(64) _Atomic uint32_t n_undone; /* items of the job still to finish */
    _Alignas(64) _Atomic uint32_t wake;     /* futex: bumped to wake sleepers */
    _Atomic uint32_t n_asleep;
    _Atomic int stop;
    pool_fn fn; /* of the current job; published by the store to word */
    void *arg;
    uint64_t job; /* caller's own count */
    int n_threads, n_started;
    pthread_t thread[POOL_THREADS_MAX];
};

struct start {
    struct pool *p;
    int index;
};

/* Take items until none is left. Acquire on success: fn, arg and the job's inputs are visible.
 * Release on n_undone: the item's outputs are visible to the caller, who acquires it. */
static void work(struct pool *p, int thread)
{
    uint64_t w = atomic_load_explicit(&p->word, memory_order_acquire);
    while ((w & ITEM_MASK) < (w >> ITEM_BITS & ITEM_MASK)) {
        if (!atomic_compare_exchange_weak_explicit(&p->word, &w, w + 1, memory_order_acquire,
                                                   memory_order_acquire))
            continue;
        p->fn(p->arg, (int)(w & ITEM_MASK), thread);
        atomic_fetch_sub_explicit(&p->n_undone, 1, memory_order_release);
        w = atomic_load_explicit(&p->word, memory_order_acquire);
    }
}

/* Sleep unless a job came since `seen`. Sequential consistency pairs n_asleep here with word in
 * pool_run: either the caller sees the sleeper and wakes it, or the sleeper sees the job. */
static void doze(struct pool *p, uint64_t seen)
{
    uint32_t ticket = atomic_load(&p->wake);
    atomic_fetch_add(&p->n_asleep, 1);
    if (atomic_load(&p->word) >> 2 * ITEM_BITS == seen && !atomic_load(&p->stop))
        futex_wait(&p->wake, ticket);
    atomic_fetch_sub(&p->n_asleep, 1);
}

static void *helper(void *arg)
{
    struct start s = *(struct start *)arg;
    free(arg);
    uint64_t seen = 0;
    int idle = 0;
    while (!atomic_load_explicit(&s.p->stop, memory_order_relaxed)) {
        uint64_t job = atomic_load_explicit(&s.p->word, memory_order_relaxed) >> 2 * ITEM_BITS;
        if (job != seen) {
            seen = job;
            idle = 0;
            work(s.p, s.index);
        } else if (++idle < SPIN_HELPER) {
            cpu_relax();
        } else {
            doze(s.p, seen);
            idle = 0;
        }
    }
    return NULL;
}

struct pool *pool_open(int n_threads)
{
    ASSERT(n_threads >= 1 && n_threads <= POOL_THREADS_MAX);
    struct pool *p = aligned_alloc(64, (sizeof *p + 63) / 64 * 64);
    if (!p) return NULL;
    *p = (struct pool){.n_threads = n_threads};
    for (; p->n_started < n_threads - 1; p->n_started++) {
        struct start *s = xmalloc(sizeof *s);
        *s = (struct start){p, p->n_started + 1};
        if (pthread_create(&p->thread[p->n_started], NULL, helper, s) != 0) {
            free(s);
            pool_close(p);
            return NULL;
        }
    }
    return p;
}

void pool_close(struct pool *p)
{
    if (!p) return;
    atomic_store(&p->stop, 1);
    atomic_fetch_add(&p->wake, 1);
    futex_wake_all(&p->wake);
    for (int i = 0; i < p->n_started; i++) pthread_join(p->thread[i], NULL);
    free(p);
}

int pool_threads(const struct pool *p)
{
    return p->n_threads;
}

void pool_run(struct pool *p, pool_fn fn, void *arg, int n_items)
{
    ASSERT(n_items >= 0 && n_items <= POOL_ITEMS_MAX);
    if (n_items <= 1 || p->n_threads == 1) {
        for (int i = 0; i < n_items; i++) fn(arg, i, 0);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    atomic_store_explicit(&p->n_undone, (uint32_t)n_items, memory_order_relaxed);
    uint64_t job = ++p->job << 2 * ITEM_BITS;
    atomic_store(&p->word, job | (uint64_t)n_items << ITEM_BITS);
    if (atomic_load(&p->n_asleep)) {
        atomic_fetch_add(&p->wake, 1);
        futex_wake_all(&p->wake);
    }
    work(p, 0);
    for (int spins = 0; atomic_load_explicit(&p->n_undone, memory_order_acquire); spins++) {
        if (spins < SPIN_CALLER)
            cpu_relax();
        else
            sched_yield();
    }
}
