/* worker.h - a rank's thread: the only one that talks to the device after loading.
 *
 * The engine thread tells it, in order, what to do: launch a job, sample it once its masks are there,
 * collect the oldest. It never decides and never waits but for that ring and the device. After a fault
 * it touches no job any more and answers every collect with the code, so the engine may give memory
 * back at once.
 */
#ifndef ENGINE_WORKER_H
#define ENGINE_WORKER_H

#include <pthread.h>
#include <semaphore.h>

#include "base/ring.h"
#include "engine/batch.h"
#include "model/model.h"

/* A door bell between two threads: any number of rings before the answer count as one. */
struct bell {
    sem_t sem;
    atomic_bool
        is_rung; /* exchange: the first ring posts; cleared before the answer looks around */
};
void bell_open(struct bell *b);
void bell_close(struct bell *b);
void bell_ring(struct bell *b);
void bell_wait(struct bell *b);
/* No longer than until that time (CLOCK_MONOTONIC). */
void bell_wait_until(struct bell *b, uint64_t us);

struct worker_result {
    int code;                    /* 0 or a fault */
    const struct result *result; /* the device's memory */
};

struct worker {
    struct model *model; /* borrowed */
    int32_t rank;
    struct ring orders;  /* engine -> worker: struct worker_order */
    struct ring results; /* worker -> engine: struct worker_result */
    struct bell bell;
    struct bell *engine; /* borrowed: rung when a result is there */
    pthread_t thread;
};

int worker_open(struct worker *w, struct model *m, int32_t rank, struct bell *engine,
                struct sl_error *e);
void worker_close(struct worker *w);
/* Engine thread. */
void worker_launch(struct worker *w, const struct job *j);
/* The masks of the job launched last are there. */
void worker_sample(struct worker *w, const struct job *j);
void worker_collect(struct worker *w);

#endif
