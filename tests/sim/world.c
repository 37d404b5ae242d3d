/* world.c - runs an episode: client, device and time around the core, and the invariants after each
 * step.
 *
 * What core_check can see from inside it checks; here are those that need the outside: outputs
 * against the oracle, exactly one end, ends in time, order, determinism. Numbers in brackets:
 * tests/sim/README.md.
 */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oracle.h"

enum { IDLE_STEPS_MAX = 8, DRAIN_STEPS_PER_TOKEN = 8 };

struct client {         /* one slot, as the io thread keeps it */
    struct request *rq; /* owned; NULL while free */
    uint32_t gen;
    int32_t event; /* index of its submit */
    bool is_done, is_cancelled;
    int32_t n_tokens, n_scored, n_tops_due, n_cached;
    int32_t yields_since; /* step at which it was told to yield; -1 */
    struct oracle o;
};

struct flight {
    const struct job *job;
    int32_t ready_step;
    bool can_sample; /* it has no masks, or they were handed over */
    uint64_t masks;  /* hash of them then */
};

struct world {
    const struct sim_plan *p;
    struct sim_tally *tally;
    struct sim_failure *f;
    struct core core;
    struct dev *dev;
    struct client *client; /* owned [n_reqs] */
    int32_t *free_client, n_free;
    struct sl_event *ring; /* owned [ring_max] */
    uint32_t ring_max, ring_head, ring_tail;
    struct flight flight[CORE_DEPTH_MAX];
    int32_t n_launched, n_reaped;
    int32_t *token; /* owned [max_wants]: the result as the core sees it */
    struct result result;
    struct transcripts past;
    sl_req *handle;   /* owned [n_events]: what each submit got */
    int32_t *by_step; /* owned [n_events]: event indices in order of time */
    int32_t step, next_event, stalled_until, n_idle;
    int fault; /* 0 or the code the device fails with from now on */
    bool fails_at_launch, was_failed, is_broken;
    bool is_new; /* the step launched last was launched in this turn */
    uint64_t rng;
    sl_req top; /* the first in order of the running, last step */
    int32_t n_live;
    int32_t n_held_up; /* launches in a row in which a background sequence was in the way */
};

/* Allocations while the core runs [17], and memory that is out: malloc and friends are wrapped by
 * the linker. */
static bool is_in_core, has_allocated, fails_once;
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n)
{
    has_allocated |= is_in_core;
    if (fails_once) return fails_once = false, NULL;
    return __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t size)
{
    has_allocated |= is_in_core;
    return __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t n)
{
    has_allocated |= is_in_core;
    return __real_realloc(p, n);
}

static void broken(struct world *w, const char *text, long a, long b)
{
    if (w->is_broken) return;
    w->is_broken = true;
    w->f->step = w->step;
    snprintf(w->f->text, sizeof w->f->text, "%s (%ld, %ld)", text, a, b);
}
#define MUST(w, expr, text, a, b)                                                                  \
    do {                                                                                           \
        if (!(expr)) broken(w, text, (long)(a), (long)(b));                                        \
    } while (0)

static void trace(struct world *w, uint64_t x)
{
    w->tally->trace = sim_mix(w->tally->trace, x);
}

/* ---- the environment ---- */

static uint32_t env_room(void *arg)
{
    struct world *w = arg;
    return w->ring_max - (w->ring_head - w->ring_tail);
}

static void env_emit(void *arg, const struct sl_event *ev)
{
    struct world *w = arg;
    if (env_room(w) == 0) {
        broken(w, "[17] an event without room", ev->kind, 0);
        return;
    }
    w->ring[w->ring_head++ % w->ring_max] = *ev;
    trace(w, (uint64_t)ev->kind << 32 | (uint32_t)ev->token);
}

/* Background rows only where nobody waits for a first token [19]; who waits gets what they hold
 * [20]; and alone they never run ahead while others come and go [21]. */
static void check_background(struct world *w, const struct job *j)
{
    const struct core *c = &w->core;
    const struct batch *b = &j->b;
    int32_t n_rows = 0, n_waiting = 0, n_firsts = 0, n_in_the_way = 0;
    bool has_wish = false; /* a wish for short steps ends a plan before its budgets do */
    for (int32_t i = 0; i < b->n_seqs; i++) {
        const struct seq *s = &c->seq[j->req[i]];
        if (s->rq->is_background) n_rows += b->q_start[i + 1] - b->q_start[i];
    }
    for (int32_t i = 0; i < c->cfg.n_reqs; i++) {
        const struct seq *s = &c->seq[i];
        bool is_running = s->state == SEQ_RUNNING;
        if (!is_running && s->state != SEQ_WAITING) continue;
        n_waiting += !is_running && !s->rq->is_background;
        n_firsts += is_running && !s->rq->is_background && s->n_output == 0;
        n_in_the_way += is_running && s->rq->is_background;
        has_wish |= is_running && s->rq->tpot_us > 0;
    }
    w->tally->n_background += n_rows > 0;
    w->tally->n_rides += n_rows > 0 && n_rows < b->n_tokens;
    MUST(w, n_rows == 0 || n_waiting + n_firsts == 0, "[19] background rows delay a first token",
         n_waiting, n_firsts);
    MUST(w, n_rows < b->n_tokens || w->n_launched == w->n_reaped || c->quiet_us >= 10000000,
         "[21] background work runs ahead", n_rows, 0);
    bool has_budget = b->n_tokens < c->cfg.max_tokens && b->n_wants < c->cfg.max_wants && !has_wish;
    bool is_stuck = c->n_free_slots == 0 || c->blocked_req == c->heap[0];
    bool is_held_up = n_waiting > 0 && n_in_the_way > 0 && c->n_leaving == 0 && has_budget;
    w->n_held_up = is_held_up && is_stuck ? w->n_held_up + 1 : 0;
    MUST(w, w->n_held_up < 3, "[20] background work holds what another request waits for",
         n_waiting, n_in_the_way);
}

static uint64_t hash_masks(const struct job *j)
{
    size_t n = (size_t)j->b.n_masks * (size_t)j->b.mask_words;
    uint64_t h = n;
    for (size_t i = 0; i < n; i++) h = (h ^ j->b.masks[i]) * 0x9e3779b97f4a7c15u;
    return h;
}

/* Masks come once, for the step launched last; from then on the device may read them [22]. */
static void env_sample(void *arg, const struct job *j)
{
    struct world *w = arg;
    struct flight *fl = &w->flight[(w->n_launched - 1) % CORE_DEPTH_MAX];
    bool is_right = w->n_launched > w->n_reaped && fl->job == j && !fl->can_sample;
    MUST(w, is_right, "[22] masks of a step that does not wait for them", w->n_launched, 0);
    if (!is_right) return;
    fl->can_sample = true;
    fl->masks = hash_masks(j);
    w->tally->n_late_masks += !w->is_new;
}

static int env_launch(void *arg, const struct job *j)
{
    struct world *w = arg;
    struct flight *fl = &w->flight[w->n_launched % CORE_DEPTH_MAX];
    int32_t before = w->n_launched > w->n_reaped
                         ? w->flight[(w->n_launched - 1) % CORE_DEPTH_MAX].ready_step
                         : 0;
    if (w->fault && w->fails_at_launch) return w->fault;
    MUST(w, w->n_launched - w->n_reaped < w->p->core.depth, "[7] too many steps in flight",
         w->n_launched, 0);
    MUST(w,
         w->n_launched == w->n_reaped || w->flight[(w->n_launched - 1) % CORE_DEPTH_MAX].can_sample,
         "[22] a step before the one in front of it has its masks", w->n_launched, 0);
    check_background(w, j);
    int32_t ready = w->step + sim_below(&w->rng, w->p->delay_max + 1);
    *fl = (struct flight){j, ready > before ? ready : before, j->b.n_masks == 0, 0};
    w->is_new = true;
    w->tally->n_late_results += ready > w->step;
    for (int32_t i = 0; i < j->b.n_seqs && j->n_assigns > 0; i++) { /* just admitted: a new life */
        const struct seq *s = &w->core.seq[j->req[i]];
        if (s->n_flight == 1) w->client[j->req[i]].yields_since = -1;
    }
    w->tally->n_tokens += (uint64_t)j->b.n_tokens;
    w->n_launched++;
    trace(w, (uint64_t)j->b.n_tokens << 32 | (uint32_t)j->b.n_seqs);
    return 0;
}

/* The device works when its result is asked for: whatever was freed or moved too early shows. */
static const struct result *run_job(struct world *w, const struct job *j)
{
    const struct result *r = NULL;
    for (int32_t i = 0; i < j->n_assigns; i++)
        device_sim.assign(w->dev, j->assign[i].dev_slot, &j->assign[i].init);
    device_sim.launch(w->dev, NULL, 0, &j->b);
    if (j->b.n_masks) device_sim.sample(w->dev, NULL, 0, &j->b);
    device_sim.collect(w->dev, &r);
    w->result = *r;
    w->result.token = w->token;
    w->result.device_us = (uint64_t)sim_below(&w->rng, w->p->step_us + 1) * (uint64_t)j->b.n_tokens;
    memcpy(w->token, r->token, (size_t)r->n_wants * sizeof *w->token);
    for (int32_t i = 0; i < r->n_wants; i++) {
        const struct want *want = &j->b.want[i];
        const struct client *cl = &w->client[j->req[want->seq]];
        if (want->target < 0 && (int32_t)want->position == cl->o.nan_at) w->token[i] = -1;
    }
    return &w->result;
}

static int env_poll(void *arg, const struct result **out)
{
    struct world *w = arg;
    const struct flight *fl = &w->flight[w->n_reaped % CORE_DEPTH_MAX];
    if (w->fault && !w->fails_at_launch) return w->fault;
    if (w->n_reaped == w->n_launched || fl->ready_step > w->step || !fl->can_sample) return 0;
    MUST(w, fl->job->b.n_masks == 0 || fl->masks == hash_masks(fl->job),
         "[22] masks were written after they were handed over", w->n_reaped, 0);
    is_in_core = false;
    *out = run_job(w, fl->job);
    is_in_core = true;
    w->n_reaped++;
    return 1;
}

static void command(struct world *w, const struct command *cmd)
{
    is_in_core = true;
    core_cmd(&w->core, cmd);
    is_in_core = false;
}

/* ---- the client ---- */

static void do_submit(struct world *w, int32_t event)
{
    const struct core_config *cfg = &w->p->core;
    const struct request_limits limits = {w->p->n_vocab, cfg->max_model_len, cfg->page_size,
                                          cfg->n_pages, cfg->n_pooled};
    if (w->n_free == 0) {
        w->tally->n_busy++;
        return;
    }
    int32_t slot = w->free_client[w->n_free - 1];
    struct client *cl = &w->client[slot];
    oracle_draw(&cl->o, w->p, w->p->event[event].seed, &w->past);
    int rc = request_check(&cl->o.rq, &limits, NULL);
    MUST(w, (rc == 0) == cl->o.fits, "[9] admission is wrong", rc, cl->o.fits);
    if (rc < 0 || !cl->o.fits) {
        w->tally->n_refused++;
        return;
    }
    fails_once = sim_below(&w->rng, 64) == 0; /* memory may be out: that request alone is refused */
    cl->rq = request_new(&cl->o.rq, cfg->n_pooled);
    if (!cl->rq) {
        w->tally->n_no_memory++;
        return;
    }
    w->n_free--;
    cl->gen++;
    cl->event = event;
    cl->is_done = cl->is_cancelled = false;
    cl->n_tokens = cl->n_scored = cl->n_tops_due = cl->n_cached = 0;
    cl->yields_since = -1;
    w->handle[event] = (sl_req){(uint32_t)slot, cl->gen};
    w->n_live++;
    w->tally->n_submitted++;
    command(w, &(struct command){CMD_SUBMIT, w->handle[event], cl->rq});
}

static void do_cancel(struct world *w, sl_req r)
{
    if (r.gen == 0) return;
    struct client *cl = &w->client[r.slot];
    if (cl->gen == r.gen) cl->is_cancelled = true;
    command(w, &(struct command){.kind = CMD_CANCEL, .req = r});
    const struct seq *s = &w->core.seq[r.slot];
    MUST(w, s->gen != r.gen || (s->state != SEQ_RUNNING && s->state != SEQ_WAITING),
         "[13] cancelled, but still planned", r.slot, s->state);
}

static void see_token(struct world *w, struct client *cl, const struct sl_event *ev)
{
    const struct oracle *o = &cl->o;
    int32_t pos = (int32_t)o->rq.n_prompt + cl->n_tokens - 1;
    MUST(w,
         cl->n_scored == (o->rq.sampling.n_prompt_logprobs < 0 ? 0 : (int32_t)o->rq.n_prompt - 1),
         "[12] a token before the prompt is scored", cl->n_scored, pos);
    if (cl->n_tokens >= o->n_output || ev->token != o->token[pos + 1]) {
        broken(w, "[6] a token differs from the oracle", cl->n_tokens, ev->token);
        return;
    }
    int8_t n_lp = o->rq.sampling.n_logprobs;
    float lp = n_lp < 0 ? 0 : sim_logprob(oracle_logits(o, pos), ev->token);
    MUST(w, ev->logprob == lp, "[12] a log probability differs", cl->n_tokens, ev->token);
    if (cl->n_tokens == 0) cl->n_cached = (int32_t)ev->n_cached;
    cl->n_tokens++;
    cl->n_tops_due = ev->n_top;
    MUST(w, ev->n_top == (n_lp > 0 ? (n_lp < o->n_vocab ? n_lp : o->n_vocab) : 0),
         "tops miscounted", ev->n_top, n_lp);
}

static void see_prompt(struct world *w, struct client *cl, const struct sl_event *ev)
{
    const struct oracle *o = &cl->o;
    int32_t pos = cl->n_scored++;
    if (pos + 1 >= (int32_t)o->rq.n_prompt || o->rq.sampling.n_prompt_logprobs < 0) {
        broken(w, "[12] a prompt position scored twice", pos, o->rq.n_prompt);
        return;
    }
    MUST(w,
         ev->token == o->token[pos + 1] &&
             ev->logprob == sim_logprob(oracle_logits(o, pos), ev->token),
         "[12] a prompt's log probability differs", pos, ev->token);
    cl->n_tops_due = ev->n_top;
}

static void see_done(struct world *w, struct client *cl, const struct sl_event *ev)
{
    const struct oracle *o = &cl->o;
    struct sim_tally *t = w->tally;
    bool is_whole =
        cl->n_tokens == o->n_output && ev->reason == o->reason && ev->token == o->end_token;
    cl->is_done = true;
    t->n_stopped += ev->reason == SL_FINISH_STOP;
    t->n_length += ev->reason == SL_FINISH_LENGTH;
    t->n_cancelled += ev->reason == SL_FINISH_CANCEL;
    if (ev->reason == SL_FINISH_CANCEL)
        MUST(w, cl->is_cancelled, "[13] cancelled by nobody", ev->req.slot, 0);
    else if (w->fault && ev->reason == SL_FINISH_ERROR && ev->token == w->fault)
        t->n_lost++;
    else
        MUST(w, is_whole, "[6] the end differs from the oracle", ev->reason, cl->n_tokens);
    for (int32_t k = 0; k < w->p->core.n_pooled && ev->pooled; k++)
        MUST(w, ev->pooled[k] == sim_pooled(o->pool_sum, o->n_pooled, k),
             "[6] a vector differs from the oracle", ev->req.slot, k);
    bool is_pooled = o->rq.pool && ev->reason == SL_FINISH_LENGTH;
    MUST(w, is_pooled == (ev->pooled != NULL), "[12] a vector nobody asked for, or none",
         ev->req.slot, o->rq.pool);
    t->n_pooled += is_pooled;
    t->n_errors += ev->reason == SL_FINISH_ERROR;
    MUST(w, cl->n_tokens == 0 || (int32_t)ev->n_cached == cl->n_cached, "n_cached changed",
         ev->n_cached, cl->n_cached);
    MUST(w, ev->n_cached < o->rq.n_prompt && ev->n_cached % (uint32_t)w->p->core.page_size == 0,
         "[5] nothing left to compute after a hit", ev->n_cached, o->rq.n_prompt);
}

static void see_release(struct world *w, struct client *cl, uint32_t slot)
{
    MUST(w, cl->is_done, "[13] released before its end", slot, 0);
    memset(cl->rq->tokens, 0x7f, (size_t)cl->rq->n_prompt * sizeof *cl->rq->tokens); /* poison */
    request_free(cl->rq);
    cl->rq = NULL;
    w->n_live--;
    w->free_client[w->n_free++] = (int32_t)slot;
}

static void see(struct world *w, const struct sl_event *ev)
{
    struct client *cl = &w->client[ev->req.slot];
    if (!cl->rq || cl->gen != ev->req.gen) {
        broken(w, "[13] an event of a request that is gone", ev->req.slot, ev->kind);
        return;
    }
    MUST(w, (ev->kind == SL_EV_TOP) == (cl->n_tops_due > 0), "tops out of place", ev->kind,
         cl->n_tops_due);
    MUST(w, !cl->is_done || ev->kind == EV_RELEASE, "[13] an event after the end", ev->req.slot,
         ev->kind);
    switch (ev->kind) {
    case SL_EV_PROMPT:
        see_prompt(w, cl, ev);
        break;
    case SL_EV_TOKEN:
        see_token(w, cl, ev);
        break;
    case SL_EV_TOP:
        cl->n_tops_due--;
        break;
    case SL_EV_DONE:
        see_done(w, cl, ev);
        break;
    case EV_RELEASE:
        see_release(w, cl, ev->req.slot);
        break;
    default:
        broken(w, "an event of no kind", ev->kind, 0);
    }
}

static void poll_events(struct world *w)
{
    if (w->step < w->stalled_until) return;
    uint32_t n = w->ring_head - w->ring_tail;
    if (w->p->is_hasty && n > 4) n = 4 + (uint32_t)sim_below(&w->rng, (int32_t)n - 3);
    for (; n > 0 && !w->is_broken; n--) see(w, &w->ring[w->ring_tail++ % w->ring_max]);
}

/* ---- the invariants that need the outside ---- */

/* One computed slot of each running sequence equals the oracle's [6]. */
static void check_words(struct world *w)
{
    int64_t n_words;
    const uint64_t *word = sim_words(w->dev, &n_words);
    int32_t ps = w->p->core.page_size;
    for (int32_t i = 0; i < w->core.n_running; i++) {
        const struct seq *s = &w->core.seq[w->core.running[i]];
        if (s->state != SEQ_RUNNING || s->n_computed == 0) continue;
        int32_t pos = sim_below(&w->rng, s->n_computed);
        int64_t at = (int64_t)core_table(&w->core, s)[pos / ps] * ps + pos % ps;
        MUST(w, at < n_words && word[at] == w->client[w->core.running[i]].o.h[pos],
             "[6] a page was overwritten", w->core.running[i], pos);
    }
}

/* Nobody may read a free page: overwrite one that holds nothing to reuse. */
static void poison_page(struct world *w)
{
    int64_t n_words;
    uint64_t *word = sim_words(w->dev, &n_words);
    int32_t ps = w->p->core.page_size, page = sim_below(&w->rng, w->p->core.n_pages);
    const struct kv_page *pg = &w->core.kv.page[page];
    if (pg->n_refs > 0 || pg->serial || (int64_t)(page + 1) * ps > n_words) return;
    for (int32_t i = 0; i < ps; i++) word[page * ps + i] = 0x7f7f7f7f7f7f7f7f;
}

/* The first in order is never preempted by anyone behind it [8]; a background sequence is by any
 * other request, which may still wait. */
static void check_order(struct world *w)
{
    const struct core *c = &w->core;
    const struct seq *was = &c->seq[w->top.slot];
    if (w->top.gen && was->gen == w->top.gen && was->rq && was->rq->is_background &&
        c->n_heap > c->n_background_heap) {
        w->tally->n_evicted += was->state == SEQ_WAITING;
        w->top = (sl_req){0};
    }
    const struct seq *first = NULL, *old = &c->seq[w->top.slot];
    for (int32_t i = 0; i < c->n_running && !first; i++)
        if (c->seq[c->running[i]].state == SEQ_RUNNING) first = &c->seq[c->running[i]];
    bool was_preempted = w->top.gen && old->gen == w->top.gen && old->state == SEQ_WAITING;
    MUST(w, !was_preempted || (first && seq_before(first, old)),
         "[8] the first in order was preempted", w->top.slot, 0);
    MUST(w, !first || !first->must_yield || w->top.gen == 0 || first != old,
         "[8] the first in order must yield", w->top.slot, 0);
    w->top = first && !first->must_yield ? (sl_req){(uint32_t)(first - c->seq), first->gen}
                                         : (sl_req){0};
}

/* Who must yield is gone when the steps that named it then are back [8]. */
static void check_yields(struct world *w)
{
    for (int32_t i = 0; i < w->core.n_running; i++) {
        int32_t slot = w->core.running[i];
        struct client *cl = &w->client[slot];
        if (!w->core.seq[slot].must_yield)
            cl->yields_since = -1;
        else if (cl->yields_since < 0)
            cl->yields_since = w->step;
        else
            MUST(w, w->step - cl->yields_since <= w->p->delay_max + 1,
                 "[8] told to yield, but still runs", slot, 0);
    }
}

/* A grammar's tables grow as a sequence moves through it, within its budget. */
static bool has_grammar(const struct world *w)
{
    for (int32_t i = 0; i < w->p->core.n_reqs; i++)
        if (w->client[i].rq && w->client[i].rq->grammar) return true;
    return false;
}

static void check_step(struct world *w, int n_moved)
{
    const char *bad = core_check(&w->core);
    struct sl_stats st;
    core_stats(&w->core, &st);
    if (bad) broken(w, bad, 0, 0);
    MUST(w, !w->core.failed || w->was_failed || n_moved > 0, "[14] failed, but told nobody", 0, 0);
    w->was_failed = w->core.failed != 0;
    MUST(w, !has_allocated || has_grammar(w), "[17] memory allocated in a step", 0, 0);
    w->n_idle = n_moved || !core_has_work(&w->core) || w->core.is_starved ? 0 : w->n_idle + 1;
    w->tally->n_starved += w->core.is_starved;
    MUST(w, w->n_idle <= IDLE_STEPS_MAX, "[8] work, but nothing moves", st.n_waiting, st.n_running);
    MUST(w, !w->core.failed || w->core.n_live == 0, "[14] failed, but requests are left",
         w->core.n_live, 0);
    if (w->is_broken || w->core.failed) return;
    MUST(w, w->n_launched == w->n_reaped || w->flight[w->n_reaped % CORE_DEPTH_MAX].can_sample,
         "[22] the oldest step in flight has no masks", w->n_launched, w->n_reaped);
    check_order(w);
    check_yields(w);
    check_words(w);
    poison_page(w);
}

static void check_empty(struct world *w)
{
    struct sl_stats st;
    core_stats(&w->core, &st);
    MUST(w, w->n_live == 0 && w->core.n_live == 0, "[16] requests are left after the drain",
         w->n_live, w->core.n_live);
    MUST(w, st.pages_used == 0 && st.n_running == 0, "[2] pages or slots are left", st.pages_used,
         st.n_running);
    MUST(w, core_n_flight(&w->core) == 0 || w->core.failed, "[16] steps are left in flight",
         core_n_flight(&w->core), 0);
}

/* ---- an episode ---- */

static void happen(struct world *w, int32_t event)
{
    const struct sim_event *ev = &w->p->event[event];
    if (ev->is_removed) return;
    switch (ev->kind) {
    case SIM_SUBMIT:
        do_submit(w, event);
        break;
    case SIM_CANCEL:
        do_cancel(w, w->handle[ev->target]);
        break;
    case SIM_STALL:
        w->stalled_until = w->step + ev->target;
        w->tally->n_stalls++;
        break;
    case SIM_FAULT:
        w->fault = SL_EDEVICE;
        w->fails_at_launch = ev->seed & 1;
        break;
    }
}

static void one_step(struct world *w)
{
    while (w->next_event < w->p->n_events && w->p->event[w->by_step[w->next_event]].step <= w->step)
        happen(w, w->by_step[w->next_event++]);
    has_allocated = false;
    is_in_core = true;
    w->is_new = false;
    int n_moved = core_step(&w->core);
    is_in_core = false;
    check_step(w, n_moved);
    poll_events(w);
    w->step++;
    w->tally->n_steps++;
}

static void sort_events(struct world *w)
{
    int32_t n = w->p->n_events;
    for (int32_t i = 0; i < n; i++) { /* nearly sorted: insertion */
        int32_t k = i;
        for (; k > 0 && w->p->event[w->by_step[k - 1]].step > w->p->event[i].step; k--)
            w->by_step[k] = w->by_step[k - 1];
        w->by_step[k] = i;
    }
}

static void world_open(struct world *w)
{
    const struct sim_plan *p = w->p;
    struct sl_error e;
    const struct core_env env = {w, env_room, env_launch, env_sample, env_poll, env_emit, NULL};
    const struct dev_config dc = {.n_ranks = 1,
                                  .max_tokens = p->core.max_tokens,
                                  .max_seqs = p->core.max_seqs,
                                  .max_wants = p->core.max_wants,
                                  .max_model_len = p->core.max_model_len,
                                  .n_vocab = p->n_vocab,
                                  .page_size = p->core.page_size,
                                  .n_hidden = p->core.n_pooled};
    core_open(&w->core, &p->core, &env);
    if (device_sim.open(&w->dev, &dc, &e) < 0) abort();
    w->ring_max = core_events_max(&p->core);
    w->ring = calloc(w->ring_max, sizeof *w->ring);
    w->client = calloc((size_t)p->core.n_reqs, sizeof *w->client);
    w->free_client = calloc((size_t)p->core.n_reqs, sizeof *w->free_client);
    w->token = calloc((size_t)p->core.max_wants, sizeof *w->token);
    w->handle = calloc((size_t)p->n_events + 1, sizeof *w->handle);
    w->by_step = calloc((size_t)p->n_events + 1, sizeof *w->by_step);
    while (w->n_free < p->core.n_reqs) w->free_client[w->n_free] = w->n_free, w->n_free++;
    sort_events(w);
}

static void world_close(struct world *w)
{
    struct sl_stats st;
    core_stats(&w->core, &st);
    w->tally->n_preemptions += st.n_preemptions;
    w->tally->n_hits += st.prefix_hits;
    w->tally->n_evictions += w->core.kv.last_serial - (uint64_t)st.pages_cached;
    for (int32_t i = 0; i < w->p->core.n_reqs; i++) request_free(w->client[i].rq);
    void *owned[] = {w->ring, w->client, w->free_client, w->token, w->handle, w->by_step};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    device_sim.close(w->dev);
    core_close(&w->core);
}

/* Tokens still to compute, in the worst case; the drain's limit follows from it. */
static int32_t work_left(const struct world *w)
{
    int32_t n = 0;
    for (int32_t i = 0; i < w->p->core.n_reqs; i++)
        if (w->client[i].rq) n += w->client[i].rq->n_prompt + w->client[i].rq->max_tokens;
    return n;
}

int world_run(const struct sim_plan *p, struct sim_tally *tally, struct sim_failure *f)
{
    static struct world w; /* large */
    memset(&w, 0, sizeof w);
    w.p = p;
    w.tally = tally;
    w.f = f;
    w.rng = p->seed ^ 0x5eed;
    world_open(&w);
    while (!w.is_broken && (w.step < p->n_steps || w.next_event < p->n_events)) one_step(&w);
    w.stalled_until = 0;
    int32_t limit = w.step + 200 + DRAIN_STEPS_PER_TOKEN * work_left(&w) * (1 + p->delay_max);
    while (!w.is_broken && w.step < limit && (w.n_live > 0 || core_n_flight(&w.core) > 0) &&
           !(w.core.failed && w.n_live == 0))
        one_step(&w);
    if (!w.is_broken) check_empty(&w);
    world_close(&w);
    return w.is_broken ? -1 : 0;
}
