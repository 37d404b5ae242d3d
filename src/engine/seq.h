/* seq.h - one request inside the engine: how far it is, and what it holds. Engine thread only.
 *
 * Positions count from 0 over prompt and output. A row is one position in one step: it writes the
 * KV of that position, and the last row may sample the token at the next.
 *
 *   WAITING  in the queue; holds nothing; may have output already (it was preempted)
 *   RUNNING  holds a device slot and pages for every known token
 *   ENDED    its DONE is out; still holds slot and pages, because a step in flight names it
 */
#ifndef ENGINE_SEQ_H
#define ENGINE_SEQ_H

#include "engine/mutants.h"
#include "engine/request.h"
#include "text/grammar.h"

enum seq_state { SEQ_FREE, SEQ_WAITING, SEQ_RUNNING, SEQ_ENDED };

struct seq {
    struct request *rq; /* borrowed until EV_RELEASE */
    uint32_t gen;
    enum seq_state state;
    uint8_t must_yield; /* chosen for preemption; leaves when no step in flight names it */
    uint8_t has_run;    /* was admitted before: n_cached is settled */
    uint64_t arrival;   /* counts submits: the last tie-break, and unique */
    int32_t heap_pos;   /* WAITING: its place in the queue */
    int32_t dev_slot;   /* -1 unless it holds one */
    int32_t n_pages;    /* pages held; they are listed in the slot's block table */
    uint64_t table;     /* that table's number: one an admission, never 0 */
    int32_t n_sealed;   /* leading pages whose prefix has a serial */
    uint64_t chain;     /* that serial; 0 while n_sealed is 0 */
    int32_t n_output;   /* tokens committed; the known tokens are prompt and these */
    int32_t n_computed; /* leading positions whose KV is committed */
    int32_t n_planned;  /* leading positions whose KV is committed or in flight */
    int32_t n_pending;  /* tokens being sampled in flight */
    int32_t n_flight;   /* steps in flight that name it */
    int32_t n_scored;   /* prompt positions whose log probability is reported (n_prompt_logprobs) */
    int32_t n_cached;   /* prompt tokens found in the cache at first admission */
    struct grammar_state place; /* in rq's grammar, after the committed output */
    int32_t think_from; /* output index of the first token of thinking that runs; -1: none does */
    uint64_t submit_us; /* of the environment's clock */
    uint32_t queue_us;  /* from then to the first admission */
    int32_t n_output_at_start; /* output when the slot was assigned */
};

static inline int32_t seq_len(const struct seq *s)
{
    return s->rq->n_prompt + s->n_output;
}

/* May the next token to be sampled be one of those that close thinking for its budget's sake? */
static inline bool think_may_be_spent(const struct seq *s)
{
    const struct sl_thinking *t = &s->rq->thinking;
    bool may_open = s->n_output == 0 && t->open >= 0;
    int64_t from = s->think_from >= 0 ? s->think_from : 1;
    return t->n_close > 0 && t->budget != UINT32_MAX && (s->think_from >= 0 || may_open) &&
           s->n_output + s->n_pending - from >= (int64_t)t->budget;
}

/* Rows to compute before it has no more to do: known tokens, and those being sampled, minus what is
 * planned. Nothing once every token it may generate is known or being sampled. */
static inline int32_t seq_rows_left(const struct seq *s)
{
    if (s->n_planned >= seq_len(s) && s->n_output + s->n_pending >= s->rq->max_tokens) return 0;
    return seq_len(s) + s->n_pending - s->n_planned;
}

/* Does a run before b? The one order of the scheduler, fixed for life: background last, then by
 * priority, then by the time its first token is due, then by arrival. */
static inline bool seq_before(const struct seq *a, const struct seq *b)
{
    bool by_class = MUT(BACKGROUND_EQUAL, true, false);
    if (a->rq->is_background != b->rq->is_background && by_class) return b->rq->is_background;
    if (a->rq->priority != b->rq->priority) return a->rq->priority < b->rq->priority;
    if (a->rq->due_us != b->rq->due_us) return a->rq->due_us < b->rq->due_us;
    return a->arrival < b->arrival;
}

#endif
