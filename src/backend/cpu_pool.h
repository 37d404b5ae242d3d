/* cpu_pool.h - fork and join for the cpu device: n - 1 helper threads and the caller share out
 * items.
 *
 * Items are taken one by one from a counter, so a helper that the kernel has put aside delays
 * nobody by more than the item it holds. Which thread computes an item must never show in its
 * result. Helpers spin for a short while after a job, then sleep: an idle server uses no CPU.
 */
#ifndef BACKEND_CPU_POOL_H
#define BACKEND_CPU_POOL_H

struct pool; /* opaque */

enum { POOL_THREADS_MAX = 256, POOL_ITEMS_MAX = 1 << 19 };

/* One item of a job; thread in [0, n_threads) is fixed during the call: scratch may be indexed by
 * it. */
typedef void (*pool_fn)(void *arg, int item, int thread);

/* n_threads in [1, POOL_THREADS_MAX], the caller included. NULL: a thread could not be started. */
struct pool *pool_open(int n_threads);
void pool_close(struct pool *p); /* NULL is fine */
int pool_threads(const struct pool *p);
/* Run fn for items 0..n_items-1 (at most POOL_ITEMS_MAX); returns when all are done and visible to
 * the caller. From one thread only; not from inside an item. */
void pool_run(struct pool *p, pool_fn fn, void *arg, int n_items);

#endif
