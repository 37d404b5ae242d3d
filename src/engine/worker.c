/* worker.c - orders in, results out. See worker.h. */
#include "engine/worker.h"

#include <errno.h>
#include <time.h>

#include "base/err.h"
#include "engine/core.h"

enum order_kind { ORDER_LAUNCH, ORDER_SAMPLE, ORDER_COLLECT, ORDER_QUIT };
struct worker_order {
    enum order_kind kind;
    const struct job *job; /* LAUNCH, SAMPLE: borrowed until its result was polled */
};

void bell_open(struct bell *b)
{
    ASSERT(sem_init(&b->sem, 0, 0) == 0);
    atomic_init(&b->is_rung, false);
}

void bell_close(struct bell *b)
{
    sem_destroy(&b->sem);
}

/* Release: what was written before the ring is seen by who waits (the exchange and the semaphore
 * order it). */
void bell_ring(struct bell *b)
{
    if (!atomic_exchange(&b->is_rung, true)) sem_post(&b->sem);
}

void bell_wait(struct bell *b)
{
    while (sem_wait(&b->sem) != 0) ASSERT(errno == EINTR);
    atomic_exchange(&b->is_rung,
                    false); /* acquires from rings that found it set; look around after */
}

void bell_wait_until(struct bell *b, uint64_t us)
{
    struct timespec t = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
    while (sem_clockwait(&b->sem, CLOCK_MONOTONIC, &t) != 0) {
        if (errno == ETIMEDOUT) return; /* a ring may come now: it stays for the next wait */
        ASSERT(errno == EINTR);
    }
    atomic_exchange(&b->is_rung, false);
}

static int run_job(struct worker *w, const struct job *j)
{
    for (int32_t i = 0; i < j->n_assigns; i++)
        TRY(model_assign(w->model, w->rank, j->assign[i].dev_slot, &j->assign[i].init));
    return model_launch(w->model, w->rank, &j->b);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct worker_order o;
    int fault = 0;
    for (;;) {
        if (!ring_pop(&w->orders, &o)) {
            bell_wait(&w->bell);
            continue;
        }
        switch (o.kind) {
        case ORDER_QUIT:
            return NULL;
        case ORDER_LAUNCH:
            if (!fault) fault = run_job(w, o.job);
            break;
        case ORDER_SAMPLE:
            if (!fault) fault = model_sample(w->model, w->rank, &o.job->b);
            break;
        case ORDER_COLLECT: {
            struct worker_result r = {0};
            if (!fault) fault = model_collect(w->model, w->rank, &r.result);
            r.code = fault;
            ASSERT(ring_push(&w->results, &r));
            bell_ring(w->engine);
            break;
        }
        }
    }
}

static void order(struct worker *w, struct worker_order o)
{
    ASSERT(ring_push(&w->orders, &o));
    bell_ring(&w->bell);
}

void worker_launch(struct worker *w, const struct job *j)
{
    order(w, (struct worker_order){ORDER_LAUNCH, j});
}

void worker_sample(struct worker *w, const struct job *j)
{
    order(w, (struct worker_order){ORDER_SAMPLE, j});
}

void worker_collect(struct worker *w)
{
    order(w, (struct worker_order){.kind = ORDER_COLLECT});
}

int worker_open(struct worker *w, struct model *m, int32_t rank, struct bell *engine,
                struct sl_error *e)
{
    *w = (struct worker){.model = m, .rank = rank, .engine = engine};
    ring_init(&w->orders, sizeof(struct worker_order), 4 * CORE_DEPTH_MAX);
    ring_init(&w->results, sizeof(struct worker_result), 2 * CORE_DEPTH_MAX);
    bell_open(&w->bell);
    int rc = pthread_create(&w->thread, NULL, worker_main, w);
    if (rc == 0) return 0;
    bell_close(&w->bell);
    ring_free(&w->orders);
    ring_free(&w->results);
    return sl_fail(e, SL_EINTERNAL, "cannot start the worker thread (error %d)", rc);
}

void worker_close(struct worker *w)
{
    order(w, (struct worker_order){.kind = ORDER_QUIT});
    pthread_join(w->thread, NULL);
    bell_close(&w->bell);
    ring_free(&w->orders);
    ring_free(&w->results);
}
