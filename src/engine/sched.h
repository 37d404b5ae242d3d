/* sched.h - what runs in the next step: the one policy. Engine thread only.
 *
 * Order everywhere is seq_before: background last, then priority, due time, arrival.
 *   1. running sequences with one row left (decodes), each one row
 *   2. running sequences with more (prefills), in chunks of what the budgets leave
 *   3. the queue's head, while slots, pages and budgets last; never past a head that does not fit
 *   4. background sequences in the same three ways, but only while nobody else waits for a first
 *      token, and only as many rows as keep the step short
 * Admission takes pages for every known token, so only a decode can run out of them: then the last
 * in order is preempted and later recomputed. The first in order is never preempted by another, so
 * it ends, and so does everyone in turn.
 */
#ifndef ENGINE_SCHED_H
#define ENGINE_SCHED_H

#include "engine/core.h"

/* Fill the job with the next step; false when there is nothing to launch. */
bool sched_plan(struct core *c, struct job *j);
/* Is everything alive background work? */
bool sched_is_quiet(const struct core *c);
/* Device slots that background work leaves free for others. */
static inline int32_t sched_reserve(const struct core *c)
{
    return c->cfg.max_seqs / 8 + (c->cfg.max_seqs > 1 && c->cfg.max_seqs < 8);
}
/* RUNNING and named by no step in flight: give everything back and wait again. */
void sched_preempt(struct core *c, struct seq *s);
void sched_enqueue(struct core *c, struct seq *s);
/* A WAITING sequence leaves the queue. */
void sched_dequeue(struct core *c, struct seq *s);

#endif
