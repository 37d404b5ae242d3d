/* cpu_group.c - ranks of the cpu device: threads of one process that meet at a barrier and read each
 * other's memory.
 *
 * A sum is made in the order of the ranks, each rank making its share of the elements and writing them
 * to all, so every rank has the same bits. Waiting spins for a moment, since ranks arrive together
 * where each has cores of its own, then sleeps. A rank that left for good is not noticed here: whoever
 * sees it calls group_abort.
 */
#include "backend/cpu_group.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu.h"
#include "backend/futex.h"

enum {
    SUM_ITEM = 4096, /* elements that a thread sums at once: all ranks' fit the first cache */
    SPIN = 2000,     /* pauses before a rank sleeps */
};
static const double US_PER_ELEMENT = 0.0005; /* of a sum, a rank */

struct group {
    int32_t n;
    _Alignas(64) _Atomic uint32_t n_arrived; /* of this meeting */
    _Alignas(64) _Atomic uint32_t meeting;   /* futex: the meetings that are over */
    atomic_bool is_aborted;
    /* What ranks show each other, a row a kind: written before a meeting, read after it, and not written
     * again before the next but one. */
    const void *shown[SHOWN_KINDS][GROUP_RANKS_MAX];
};

int cpu_group_open(struct group **out, int32_t n_ranks, struct sl_error *e)
{
    if (n_ranks > GROUP_RANKS_MAX)
        return sl_fail(e, SL_EUNSUPPORTED, "the cpu device runs at most %d ranks, not %d",
                       GROUP_RANKS_MAX, n_ranks);
    struct group *g = aligned_alloc(64, (sizeof *g + 63) / 64 * 64);
    if (!g) return sl_fail(e, SL_ENOMEM, "out of memory");
    *g = (struct group){.n = n_ranks};
    *out = g;
    return 0;
}

void cpu_group_close(struct group *g)
{
    free(g);
}

void cpu_group_abort(struct group *g)
{
    atomic_store(&g->is_aborted, true);
    atomic_fetch_add(&g->meeting, 1);
    futex_wake_all(&g->meeting);
}

uint64_t cpu_group_beat(const struct group *g)
{
    return atomic_load(&g->meeting);
}

/* The last to arrive ends the meeting. Acquire and release order what was written before it for those
 * who read after it. */
static int meet(struct group *g)
{
    uint32_t now = atomic_load(&g->meeting);
    if (atomic_load(&g->is_aborted)) return SL_EDEVICE;
    if (atomic_fetch_add(&g->n_arrived, 1) + 1 == (uint32_t)g->n) {
        atomic_store(&g->n_arrived, 0);
        atomic_fetch_add(&g->meeting, 1);
        futex_wake_all(&g->meeting);
    }
    for (int i = 0; i < SPIN && atomic_load(&g->meeting) == now; i++) cpu_relax();
    while (atomic_load(&g->meeting) == now) futex_wait(&g->meeting, now);
    return atomic_load(&g->is_aborted) ? SL_EDEVICE : 0;
}

static int show(struct dev *d, enum shown kind, const void *p)
{
    d->config.group->shown[kind][d->config.rank] = p;
    return meet(d->config.group);
}

/* ------------------------------------------------------------------ sums */

struct sum_job {
    struct dev *d;
    int64_t first, n; /* elements of this rank's share */
};

static void sum_item(void *arg, int item, int thread)
{
    (void)thread;
    const struct sum_job *j = arg;
    const struct group *g = j->d->config.group;
    float sum[SUM_ITEM];
    int64_t at = (int64_t)item * SUM_ITEM, n = j->n - at < SUM_ITEM ? j->n - at : SUM_ITEM;
    at += j->first;
    memcpy(sum, (const float *)g->shown[SHOWN_SUM][0] + at, (size_t)n * sizeof *sum);
    for (int32_t r = 1; r < g->n; r++)
        j->d->k->add(sum, (const float *)g->shown[SHOWN_SUM][r] + at, (int32_t)n);
    for (int32_t r = 0; r < g->n; r++)
        memcpy((float *)(uintptr_t)g->shown[SHOWN_SUM][r] + at, sum, (size_t)n * sizeof *sum);
}

int cpu_reduce(struct dev *d, const struct batch *b, const struct step *s)
{
    const struct dev_config *c = &d->config;
    int64_t total = (int64_t)b->n_tokens * s->dst.cols;
    if (d->skips_sum) {
        d->skips_sum = false;
        return 0;
    }
    TRY(show(d, SHOWN_SUM, s->dst.data));
    struct sum_job j = {.d = d, .first = total * c->rank / c->n_ranks};
    j.n = total * (c->rank + 1) / c->n_ranks - j.first;
    cpu_spread(d, sum_item, &j, (int)((j.n + SUM_ITEM - 1) / SUM_ITEM),
               (double)j.n * c->n_ranks * US_PER_ELEMENT);
    return meet(c->group);
}

/* ------------------------------------------------------------------ sampling */

/* The parts of each row that the ranks made, one after the other. */
int cpu_deal(struct dev *d, const struct batch *b, const struct step *s)
{
    const struct dev_config *c = &d->config;
    TRY(show(d, SHOWN_LOGITS, &s->src));
    int32_t first = want_first(b->n_wants, c->rank, c->n_ranks),
            end = want_first(b->n_wants, c->rank + 1, c->n_ranks);
    for (int32_t i = first; i < end; i++) {
        float *dst = (float *)s->dst.data + (int64_t)(i - first) * s->dst.cols;
        for (int32_t r = 0; r < c->n_ranks; r++) {
            const struct act *part = c->group->shown[SHOWN_LOGITS][r];
            size_t n = (size_t)part->cols;
            memcpy(dst, (const float *)part->data + (int64_t)i * part->cols, n * sizeof *dst);
            dst += n;
        }
    }
    return 0;
}

static void take_answer(struct result *to, const struct result *from, int32_t i)
{
    size_t at = (size_t)i * SL_TOP_MAX, n = (size_t)from->n_top[i];
    to->token[i] = from->token[i];
    to->logprob[i] = from->logprob[i];
    to->rank[i] = from->rank[i];
    to->n_top[i] = from->n_top[i];
    memcpy(to->top_id + at, from->top_id + at, n * sizeof *to->top_id);
    memcpy(to->top_logprob + at, from->top_logprob + at, n * sizeof *to->top_logprob);
}

int cpu_share(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)s;
    const struct dev_config *c = &d->config;
    struct result *own = &d->result[d->n_launched % RESULTS];
    TRY(show(d, SHOWN_ANSWERS, own));
    for (int32_t r = 0; r < c->n_ranks; r++) {
        const struct result *from = c->group->shown[SHOWN_ANSWERS][r];
        int32_t end = want_first(b->n_wants, r + 1, c->n_ranks);
        for (int32_t i = want_first(b->n_wants, r, c->n_ranks); i < end && r != c->rank; i++) {
            take_answer(own, from, i);
            if (b->want[i].target < 0 && own->token[i] >= 0)
                cpu_slot_push(d->slots, b->slot[b->want[i].seq], own->token[i]);
        }
    }
    return 0;
}
