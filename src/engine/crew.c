/* crew.c - one order to all ranks, one answer from all. See crew.h. */
#include "engine/crew.h"

#include <stdlib.h>

#include "base/err.h"
#include "base/log.h"

int crew_open(struct crew *c, struct model *m, struct bell *engine, struct sl_error *e)
{
    int32_t n = model_n_ranks(m);
    size_t size = sizeof *c->workers;
    *c = (struct crew){.model = m};
    ASSERT(n >= 1 && n <= 64); /* a bit each; their rings are line-aligned */
    c->workers = aligned_alloc(64, (size_t)n * size);
    if (!c->workers) return sl_fail(e, SL_ENOMEM, "out of memory");
    for (; c->n < n; c->n++) {
        int code = worker_open(&c->workers[c->n], m, c->n, engine, e);
        if (code == 0) continue;
        crew_close(c);
        return code;
    }
    return 0;
}

void crew_close(struct crew *c)
{
    for (int32_t i = 0; i < c->n; i++) worker_close(&c->workers[i]);
    free(c->workers);
    *c = (struct crew){0};
}

void crew_launch(struct crew *c, const struct job *j)
{
    for (int32_t i = 0; i < c->n; i++) worker_launch(&c->workers[i], j);
}

void crew_sample(struct crew *c, const struct job *j)
{
    for (int32_t i = 0; i < c->n; i++) worker_sample(&c->workers[i], j);
}

void crew_collect(struct crew *c, uint64_t now_us)
{
    if (c->is_collecting) return;
    c->is_collecting = true;
    c->answered = 0;
    c->code = 0;
    c->beat = model_beat(c->model);
    c->since_us = now_us;
    for (int32_t i = 0; i < c->n; i++) worker_collect(&c->workers[i]);
}

/* The ranks that wait for one of them are let go, and answer. */
static void let_go(struct crew *c, const char *why, int32_t rank, uint64_t now_us)
{
    if (c->is_aborted) return;
    log_error("engine", "rank %d %s: the others are let go", rank, why);
    c->is_aborted = true;
    c->since_us = now_us;
    model_abort(c->model);
}

static void take_answer(struct crew *c, int32_t rank, const struct worker_result *r,
                        uint64_t now_us)
{
    if (c->answered == 0) c->since_us = now_us;
    c->answered |= (uint64_t)1 << rank;
    if (rank == 0) c->result = r->result;
    if (c->code == 0) c->code = r->code; /* the first fault is the cause */
    if (r->code < 0 && c->n > 1) let_go(c, "has failed", rank, now_us);
}

/* How long the ranks that are missing may still take. */
static uint64_t patience_us(const struct crew *c)
{
    return c->is_aborted ? GIVE_UP_US : c->answered ? RANK_LATE_US : STALL_US;
}

static void look_for_stall(struct crew *c, uint64_t now_us)
{
    uint64_t beat = model_beat(c->model);
    int32_t missing = 0;
    if (beat != c->beat) c->since_us = now_us;
    c->beat = beat;
    if (now_us - c->since_us < patience_us(c)) return;
    while (c->answered >> missing & 1) missing++;
    if (c->is_aborted) c->answered = UINT64_MAX; /* stuck for good: the process is about to end */
    if (c->code == 0) c->code = SL_EDEVICE;
    let_go(c, "does not come", missing, now_us);
}

int crew_poll(struct crew *c, uint64_t now_us, const struct result **out)
{
    struct worker_result r;
    uint64_t all = c->n == 64 ? UINT64_MAX : ((uint64_t)1 << c->n) - 1;
    if (!c->is_collecting) return 0;
    for (int32_t i = 0; i < c->n; i++)
        if (!(c->answered >> i & 1) && ring_pop(&c->workers[i].results, &r))
            take_answer(c, i, &r, now_us);
    if ((c->answered & all) != all && c->n > 1) look_for_stall(c, now_us);
    if ((c->answered & all) != all) return 0;
    c->is_collecting = false;
    *out = c->result;
    return c->code < 0 ? c->code : 1;
}

uint64_t crew_deadline_us(const struct crew *c)
{
    return c->n > 1 && c->is_collecting ? c->since_us + patience_us(c) : 0;
}
