/* core.c - commands in, one turn at a time, events out. See core.h for the contract.
 *
 * The end of a request has two parts. Its DONE goes out at once (commit, cancel or fault); its
 * pages, slot and memory are given back when no step in flight names it any more, and EV_RELEASE
 * says so. Results that still arrive for it in between are dropped: that is the run-ahead token
 * after an end.
 */
#include "engine/core.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/mutants.h"
#include "engine/sched.h"

enum {
    SPARE_STEPS = 2
}; /* full steps of events a client may lag behind before the engine waits for it */

static uint32_t step_events(const struct core_config *cfg)
{
    return (uint32_t)cfg->max_wants * (1 + SL_TOP_MAX);
}

uint32_t core_events_max(const struct core_config *cfg)
{
    return 2 * (uint32_t)cfg->n_reqs + ((uint32_t)cfg->depth + SPARE_STEPS) * step_events(cfg);
}

const uint32_t sl_step_bounds_us[SL_STEP_BUCKETS - 1] = {
    1,   2,   3,   5,   7,   10,  15,   20,   30,   40,    50,    70,
    100, 150, 200, 300, 500, 700, 1000, 2000, 5000, 10000, 100000};

void core_open(struct core *c, const struct core_config *cfg, const struct core_env *env)
{
    ASSERT(cfg->max_seqs > 0 && cfg->max_tokens >= cfg->max_seqs &&
           cfg->max_wants >= cfg->max_seqs);
    ASSERT(cfg->depth >= 1 && cfg->depth <= CORE_DEPTH_MAX && cfg->n_reqs > 0);
    *c = (struct core){
        .cfg = *cfg, .env = *env, .blocked_req = -1, .events_step_max = step_events(cfg)};
    kv_open(&c->kv, cfg->n_pages, cfg->page_size, cfg->seed);
    c->stride = kv_pages_for(&c->kv, cfg->max_model_len);
    if (c->stride > cfg->n_pages) c->stride = cfg->n_pages;
    c->seq = xcalloc((size_t)cfg->n_reqs, sizeof *c->seq);
    c->heap = xcalloc((size_t)cfg->n_reqs, sizeof *c->heap);
    c->running = xcalloc((size_t)cfg->max_seqs, sizeof *c->running);
    c->free_slot = xcalloc((size_t)cfg->max_seqs, sizeof *c->free_slot);
    c->table = xcalloc((size_t)cfg->max_seqs * (size_t)c->stride, sizeof *c->table);
    c->check_counts = xcalloc((size_t)(cfg->n_pages > cfg->n_reqs ? cfg->n_pages : cfg->n_reqs),
                              sizeof *c->check_counts);
    struct job_limits limits = {cfg->max_tokens, cfg->max_seqs, cfg->max_wants,
                                cfg->page_size,  c->stride,     (cfg->n_vocab + 31) / 32};
    for (int32_t i = 0; i <= cfg->depth; i++) job_open(&c->job[i], &limits);
    while (c->n_free_slots < cfg->max_seqs) {
        c->free_slot[c->n_free_slots] = cfg->max_seqs - 1 - c->n_free_slots;
        c->n_free_slots++;
    }
}

void core_close(struct core *c)
{
    for (int32_t i = 0; i < c->cfg.n_reqs; i++) grammar_end(&c->seq[i].place);
    for (int32_t i = 0; i <= c->cfg.depth; i++) job_close(&c->job[i]);
    void *owned[] = {c->seq, c->heap, c->running, c->free_slot, c->table, c->check_counts};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    kv_close(&c->kv);
    *c = (struct core){0};
}

static sl_req handle_of(const struct core *c, const struct seq *s)
{
    return (sl_req){(uint32_t)(s - c->seq), s->gen};
}

static void emit(struct core *c, const struct sl_event *ev)
{
    c->env.emit(c->env.arg, ev);
}

void core_let_go(struct core *c, struct seq *s)
{
    int32_t *table = core_table(c, s);
    bool is_cancelled = s->state == SEQ_ENDED && s->n_output < s->rq->max_tokens;
    if (MUT(KV_LEAK, false, is_cancelled && s->n_pages > 0)) s->n_pages--;
    for (int32_t i = s->n_pages - 1; i >= 0; i--)
        kv_unref(&c->kv, table[i]); /* the tail is evicted first */
    if (MUT(SCHED_SLOT_LOST, true, !is_cancelled)) c->free_slot[c->n_free_slots++] = s->dev_slot;
    c->n_background_slots -= s->rq->is_background;
    s->n_pages = 0;
    s->dev_slot = -1;
}

/* The engine forgets the request; its memory and its slot are the client's again. */
static void release(struct core *c, struct seq *s)
{
    struct sl_event ev = {.req = handle_of(c, s), .kind = EV_RELEASE};
    if (s->dev_slot >= 0) core_let_go(c, s);
    if (MUT(GRAMMAR_LEAK, true, s->n_output != 3)) grammar_end(&s->place);
    s->state = SEQ_FREE;
    s->rq = NULL;
    c->n_live--;
    emit(c, &ev);
}

/* The one end of a request: exactly one DONE; what it holds goes now, or when its last step is
 * reaped. */
static void finish(struct core *c, struct seq *s, enum sl_finish reason, int32_t token)
{
    struct sl_event ev = {.req = handle_of(c, s),
                          .kind = SL_EV_DONE,
                          .reason = (uint8_t)reason,
                          .token = token,
                          .n_cached = (uint32_t)s->n_cached};
    ev.pooled = reason == SL_FINISH_LENGTH ? s->rq->pooled : NULL;
    if (s->state == SEQ_WAITING) sched_dequeue(c, s);
    if (s->must_yield && MUT(SCHED_YIELD_ENDS, true, false)) { /* it leaves for good instead */
        c->n_yielding--;
        c->n_leaving--;
        s->must_yield = 0;
    }
    s->state = SEQ_ENDED;
    emit(c, &ev);
    if (s->n_flight == 0 || MUT(SLOT_EARLY_REUSE, false, true)) {
        release(c, s);
        return;
    }
    if (MUT(KV_FREE_IN_FLIGHT, false, true)) {
        for (; s->n_pages > 0; s->n_pages--) kv_unref(&c->kv, core_table(c, s)[s->n_pages - 1]);
    }
    c->n_leaving++;
}

static void submit(struct core *c, const struct command *cmd)
{
    struct seq *s = &c->seq[cmd->req.slot];
    ASSERT(cmd->req.slot < (uint32_t)c->cfg.n_reqs && s->state == SEQ_FREE);
    *s = (struct seq){.rq = cmd->rq,
                      .gen = cmd->req.gen,
                      .arrival = c->n_arrivals++,
                      .submit_us = core_now_us(c),
                      .dev_slot = -1};
    if (cmd->rq->grammar) grammar_begin(&s->place, cmd->rq->grammar);
    s->think_from = cmd->rq->thinking.n_close && cmd->rq->thinking.is_open ? 0 : -1;
    c->n_live++;
    c->stats.n_submitted++;
    if (c->blocked_req == (int32_t)cmd->req.slot) c->blocked_req = -1;
    sched_enqueue(c, s);
    if (c->failed) finish(c, s, SL_FINISH_ERROR, c->failed);
}

void core_cmd(struct core *c, const struct command *cmd)
{
    if (cmd->kind == CMD_SUBMIT) {
        submit(c, cmd);
        return;
    }
    struct seq *s = &c->seq[cmd->req.slot];
    bool is_current = s->gen == cmd->req.gen || MUT(COMMIT_STALE_GEN, false, true);
    bool is_alive = s->state == SEQ_WAITING || s->state == SEQ_RUNNING ||
                    MUT(COMMIT_DONE_TWICE, false, s->state == SEQ_ENDED);
    if (is_current && is_alive) finish(c, s, SL_FINISH_CANCEL, -1);
}

/* Pages that the computed tokens fill become findable. */
static void seal(struct core *c, struct seq *s)
{
    int32_t ps = c->cfg.page_size, *table = core_table(c, s);
    int32_t n_full = MUT(KV_SEAL_PLANNED, s->n_computed, s->n_planned) + MUT(KV_SEAL_EARLY, 0, 1);
    if (!c->cfg.has_prefix_cache) return;
    for (n_full /= ps; s->n_sealed < n_full && s->n_sealed < s->n_pages; s->n_sealed++) {
        const struct kv_key key = {s->rq->salt, s->chain, s->rq->tokens + s->n_sealed * ps};
        s->chain = kv_seal(&c->kv, table[s->n_sealed], &key);
    }
}

static void emit_choice(struct core *c, const struct seq *s, const struct want *w,
                        const struct result *r, int32_t i)
{
    bool is_asked = w->n_top >= 0;
    int32_t n_top = w->n_top > 0 ? r->n_top[i] : 0;
    struct sl_event ev = {.req = handle_of(c, s),
                          .kind = w->target < 0 ? SL_EV_TOKEN : SL_EV_PROMPT,
                          .n_top = (uint16_t)n_top,
                          .token = w->target < 0 ? r->token[i] : w->target,
                          .logprob = is_asked ? r->logprob[i] : 0,
                          .rank = is_asked ? r->rank[i] : 0,
                          .n_cached = s->n_output == 1 ? (uint32_t)s->n_cached : 0,
                          .queue_us = s->n_output == 1 ? s->queue_us : 0};
    emit(c, &ev);
    for (int32_t k = 0; k < n_top; k++) {
        struct sl_event top = {.req = ev.req,
                               .kind = SL_EV_TOP,
                               .token = r->top_id[i * SL_TOP_MAX + k],
                               .logprob = r->top_logprob[i * SL_TOP_MAX + k]};
        emit(c, &top);
    }
}

/* Does this token, the last of the output, end the sequence by itself? */
static bool is_stop(const struct seq *s, int32_t token)
{
    const struct sl_sampling *p = &s->rq->sampling;
    if (s->n_output <= (int32_t)p->min_tokens) return false; /* masked there: nothing may end it */
    for (uint32_t i = p->ignore_eos && MUT(COMMIT_EOS, true, false) ? p->n_eos : 0;
         i < p->n_stop_ids; i++)
        if (p->stop_ids[i] == token) return true;
    return false;
}

/* Does this token, the next of the output, open thinking? */
static bool opens_thinking(const struct seq *s, int32_t token)
{
    const struct sl_thinking *t = &s->rq->thinking;
    return t->n_close > 0 && s->n_output == 0 && s->think_from < 0 && token == t->open;
}

/* Does thinking end with the last token of the output? */
static bool closes_thinking(const struct seq *s)
{
    const struct sl_thinking *t = &s->rq->thinking;
    int32_t n = (int32_t)t->n_close;
    return s->n_output - s->think_from >= n &&
           memcmp(s->rq->tokens + seq_len(s) - n, t->close, (size_t)n * sizeof *t->close) == 0;
}

/* The grammar moves on with the token. false: it refuses it, which a mask rules out unless the
 * grammar's budget is spent. */
static bool follow_grammar(struct seq *s, int32_t token)
{
    if (!s->rq->grammar || s->think_from >= 0 || opens_thinking(s, token)) return true;
    if (MUT(GRAMMAR_TWICE, false, s->n_output == 2)) grammar_accept(&s->place, token);
    return grammar_accept(&s->place, token);
}

/* Nothing may follow: the end comes without a token that says so. */
static bool is_grammar_over(struct seq *s)
{
    return s->rq->grammar && s->think_from < 0 &&
           (s->place.is_ended || grammar_must_end(&s->place));
}

/* One wanted row of a running sequence came back. */
static void commit_want(struct core *c, struct seq *s, const struct want *w, const struct result *r,
                        int32_t i)
{
    if (w->target < 0) s->n_pending--;
    int32_t token = r->token[i];
    if (token < 0 && MUT(COMMIT_NAN, true, false)) {
        finish(c, s, SL_FINISH_ERROR, SL_ENUMERIC);
        return;
    }
    if (w->target >= 0) {
        s->n_scored++;
        emit_choice(c, s, w, r, i);
        return;
    }
    if (!follow_grammar(s, token)) {
        finish(c, s, SL_FINISH_ERROR, SL_EINTERNAL);
        return;
    }
    bool opens = opens_thinking(s, token);
    s->rq->tokens[seq_len(s)] = token;
    s->n_output++;
    if (opens)
        s->think_from = 1;
    else if (s->think_from >= 0 && closes_thinking(s))
        s->think_from = -1;
    c->stats.generation_tokens++;
    emit_choice(c, s, w, r, i);
    if (is_stop(s, token))
        finish(c, s, SL_FINISH_STOP, token);
    else if (is_grammar_over(s))
        finish(c, s, SL_FINISH_STOP, -1);
    else if (s->n_output == s->rq->max_tokens + MUT(COMMIT_MAX_TOKENS, 0, 1))
        finish(c, s, SL_FINISH_LENGTH, -1);
}

/* A vector came back, for a running sequence. */
static void commit_pool(struct core *c, struct seq *s, const float *pooled)
{
    for (int32_t k = 0; k < c->cfg.n_pooled; k++) {
        if (isfinite(pooled[k])) continue;
        finish(c, s, SL_FINISH_ERROR, SL_ENUMERIC);
        return;
    }
    if (MUT(POOL_LOST, true, false))
        memcpy(s->rq->pooled, pooled, (size_t)c->cfg.n_pooled * sizeof *pooled);
}

/* A prompt without anything to generate ends with its last row. */
static bool is_scoring_over(const struct seq *s)
{
    return s->rq->max_tokens == 0 && s->n_computed == s->rq->n_prompt;
}

static bool takes_results(const struct seq *s)
{
    return s->state == SEQ_RUNNING || MUT(COMMIT_AFTER_END, false, s->state == SEQ_ENDED);
}

void step_times_add(struct sl_step_times *t, uint64_t ns)
{
    int i = 0;
    while (i < SL_STEP_BUCKETS - 1 && ns > (uint64_t)sl_step_bounds_us[i] * 1000) i++;
    t->counts[i]++;
    t->sum_ns += ns;
}

/* How long the device waited between two decode steps, or for masks, although there was work all the
 * time. */
static void count_idle(struct core *c, const struct batch *b, const struct result *r)
{
    bool is_decode = b->n_tokens == b->n_seqs, goes_on = false;
    if (c->is_decoding && is_decode && r->idle_us >= 0)
        step_times_add(&c->stats.idle, (uint64_t)(r->idle_us * 1000.0f));
    for (int32_t i = 0; i < c->n_running && !goes_on; i++)
        goes_on = c->seq[c->running[i]].state == SEQ_RUNNING;
    c->is_decoding = is_decode && goes_on;
}

static void commit(struct core *c, const struct job *j, const struct result *r)
{
    const struct batch *b = &j->b;
    ASSERT(r->step_id == b->step_id && r->n_wants == b->n_wants);
    for (int32_t i = 0; i < b->n_seqs; i++) {
        struct seq *s = &c->seq[j->req[i]];
        int32_t n_rows = b->q_start[i + 1] - b->q_start[i];
        s->n_flight--;
        if (s->state != SEQ_RUNNING) continue;
        int32_t n_prompt_left = s->rq->n_prompt - s->n_computed;
        if (n_prompt_left > 0)
            c->stats.prompt_tokens += (uint64_t)(n_rows < n_prompt_left ? n_rows : n_prompt_left);
        s->n_computed += n_rows;
        seal(c, s);
    }
    for (int32_t i = 0; i < b->n_wants; i++) {
        struct seq *s = &c->seq[j->req[b->want[i].seq]];
        if (takes_results(s)) commit_want(c, s, &b->want[i], r, i);
    }
    for (int32_t i = 0; i < b->n_poolings; i++) {
        struct seq *s = &c->seq[j->req[b->pooling[i].seq]];
        if (b->pooling[i].is_last && s->state == SEQ_RUNNING)
            commit_pool(c, s, r->pooled + (size_t)i * (size_t)c->cfg.n_pooled);
    }
    for (int32_t i = 0; i < b->n_seqs; i++) {
        struct seq *s = &c->seq[j->req[i]];
        if (s->state == SEQ_RUNNING && is_scoring_over(s)) finish(c, s, SL_FINISH_LENGTH, -1);
        if (s->n_flight > 0) continue;
        if (s->state == SEQ_ENDED) {
            c->n_leaving--;
            release(c, s);
        } else if (s->state == SEQ_RUNNING && s->must_yield) {
            c->n_leaving--;
            c->n_yielding--;
            sched_preempt(c, s);
        }
    }
    c->stats.n_steps++;
    c->stats.step_us_total += r->device_us;
    pace_note(&c->pace, b->n_tokens, r->device_us);
    c->quiet_us = sched_is_quiet(c) ? c->quiet_us + r->device_us : 0;
    count_idle(c, b, r);
}

/* The device is lost: everyone hears of it, and nothing is ever launched again. */
static void fail(struct core *c, int code)
{
    c->failed = code;
    c->n_reaped = c->n_launched;
    c->unmasked = NULL;
    for (int32_t i = 0; i < c->cfg.n_reqs; i++) {
        struct seq *s = &c->seq[i];
        s->n_flight = 0;
        if (s->state == SEQ_ENDED) release(c, s);
        if (s->state == SEQ_RUNNING || (s->state == SEQ_WAITING && MUT(COMMIT_FAULT, true, false)))
            finish(c, s, SL_FINISH_ERROR, code);
    }
    c->n_leaving = c->n_yielding = 0;
    c->n_running = 0;
}

static bool has_room(const struct core *c)
{
    uint32_t n_flight = (uint32_t)core_n_flight(c);
    uint32_t need = 2 * (uint32_t)c->cfg.n_reqs + (n_flight + 1) * c->events_step_max;
    return MUT(COMMIT_NO_ROOM, c->env.room(c->env.arg) >= need, true);
}

/* The masks of the step launched last, once the tokens in front of them are known. */
static void send_masks(struct core *c)
{
    struct job *j = c->unmasked, *next = &c->job[c->n_launched % ((uint64_t)c->cfg.depth + 1)];
    if (!j || !job_masks_due(j, c->seq)) return;
    job_write_masks(MUT(MASK_OTHER_JOB, j, next), c->seq);
    c->unmasked = NULL;
    if (MUT(MASK_LOST, true, c->n_leaving == 0)) c->env.sample(c->env.arg, j);
}

/* May another step be launched? Not before the last one has its masks: the device samples in order. */
static bool may_launch(const struct core *c)
{
    return !c->failed && core_n_flight(c) < c->cfg.depth && c->n_live > 0 &&
           (!c->unmasked || MUT(MASK_OVERTAKEN, false, true));
}

int core_step(struct core *c)
{
    int n_done = 0;
    uint64_t n_jobs = (uint64_t)c->cfg.depth + 1;
    if (c->failed) return 0;
    while (core_n_flight(c) > 0) {
        const struct result *r = NULL;
        int rc = c->env.poll(c->env.arg, &r);
        if (rc == 0) break;
        n_done += MUT(COMMIT_FAULT_MUTE, 1, rc > 0);
        if (rc > 0)
            commit(c, &c->job[c->n_reaped++ % n_jobs], r);
        else
            fail(c, rc);
    }
    send_masks(c);
    c->is_starved = false;
    while (may_launch(c)) {
        c->is_starved = !has_room(c);
        if (c->is_starved) break;
        struct job *j = &c->job[c->n_launched % n_jobs];
        job_clear(j, c->n_launched);
        if (!sched_plan(c, j)) break;
        int rc = c->env.launch(c->env.arg, j);
        c->n_launched++;
        n_done++;
        c->unmasked = j->b.n_masks ? j : NULL;
        if (rc < 0)
            fail(c, rc);
        else
            send_masks(c);
    }
    return n_done;
}

void core_stats(const struct core *c, struct sl_stats *out)
{
    struct pace_line line = pace_fit(&c->pace);
    *out = c->stats;
    out->step_fixed_us = (uint32_t)line.fixed_us;
    out->step_row_ns = (uint32_t)(line.row_us * 1e3);
    out->n_background_waiting = (uint32_t)c->n_background_heap;
    out->n_background_running = (uint32_t)c->n_background_slots;
    out->n_waiting = (uint32_t)(c->n_heap - c->n_background_heap);
    out->n_running = (uint32_t)(c->cfg.max_seqs - c->n_free_slots - c->n_background_slots);
    out->pages_total = (uint32_t)c->kv.n_pages;
    out->pages_used = (uint32_t)(c->kv.n_pages - c->kv.n_free);
    out->pages_cached = (uint32_t)c->kv.n_cached;
}
