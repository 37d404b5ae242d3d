/* sched.c - admission, chunked prefill mixed with decode, preemption by recompute. See sched.h. */
#include "engine/sched.h"

#include "engine/mutants.h"

/* Admission leaves pages for each running sequence to grow by so many tokens: in the simulator that
 * cuts preemptions to a third of a fixed watermark's, and those that lost all their work from 9 %
 * to 3 %. */
enum { GROWTH_TOKENS = 8 };

enum {
    QUIET_US = 10000000,   /* without a request that is not background: steps may grow longer */
    QUIET_TIMES = 8,       /* by this much */
    PREFILL_ROWS_MIN = 16, /* a step, whatever time per token the decoding ones wish for */
};
#define RIDE_TIMES  1.15 /* how much longer background rows may make the step of others */
#define ALONE_TIMES 1.25 /* a step of background rows may always be that much longer than a row's */

struct budget {
    int32_t n_tokens, n_wants;
};

static bool is_background(const struct core *c, int32_t req)
{
    return c->seq[req].rq->is_background;
}

static int32_t req_of(const struct core *c, const struct seq *s)
{
    return (int32_t)(s - c->seq);
}

/* The queue: a binary heap of request slots; heap_pos finds an entry, so a cancel costs O(log n).
 */
static void heap_put(struct core *c, int32_t pos, int32_t req)
{
    c->heap[pos] = req;
    c->seq[req].heap_pos = pos;
}

static bool heap_before(const struct core *c, int32_t a, int32_t b)
{
    if (MUT(SCHED_LAST_FIRST, false, true)) return c->seq[a].arrival < c->seq[b].arrival;
    return seq_before(&c->seq[a], &c->seq[b]);
}

static void heap_up(struct core *c, int32_t pos, int32_t req)
{
    while (pos > 0 && heap_before(c, req, c->heap[(pos - 1) / 2])) {
        heap_put(c, pos, c->heap[(pos - 1) / 2]);
        pos = (pos - 1) / 2;
    }
    heap_put(c, pos, req);
}

static void heap_down(struct core *c, int32_t pos, int32_t req)
{
    for (int32_t child = 2 * pos + 1; child < c->n_heap; child = 2 * pos + 1) {
        if (child + 1 < c->n_heap && heap_before(c, c->heap[child + 1], c->heap[child])) child++;
        if (!heap_before(c, c->heap[child], req)) break;
        heap_put(c, pos, c->heap[child]);
        pos = child;
    }
    heap_put(c, pos, req);
}

void sched_enqueue(struct core *c, struct seq *s)
{
    s->state = SEQ_WAITING;
    c->n_background_heap += s->rq->is_background;
    heap_up(c, c->n_heap++, req_of(c, s));
}

void sched_dequeue(struct core *c, struct seq *s)
{
    int32_t pos = s->heap_pos, last = c->heap[--c->n_heap];
    s->heap_pos = -1;
    c->n_background_heap -= s->rq->is_background;
    if (pos == c->n_heap) return;
    heap_down(c, pos, last);
    if (c->seq[last].heap_pos == pos) heap_up(c, pos, last);
}

void sched_preempt(struct core *c, struct seq *s)
{
    ASSERT(s->state == SEQ_RUNNING && s->n_flight == 0 && s->n_pending == 0);
    if (MUT(KV_DOUBLE_UNREF, false, true)) kv_unref(&c->kv, core_table(c, s)[0]);
    core_let_go(c, s);
    if (MUT(SCHED_KEEP_PLAN, true, false)) s->n_computed = s->n_planned = 0;
    if (MUT(SCHED_KEEP_CHAIN, true, false)) s->chain = 0;
    s->n_sealed = 0;
    s->must_yield = 0;
    c->stats.n_preemptions++;
    sched_enqueue(c, s);
}

/* Drop what ended or was preempted since the last plan; the order stays. */
static void compact_running(struct core *c)
{
    int32_t n = 0;
    for (int32_t i = 0; i < c->n_running; i++)
        if (c->seq[c->running[i]].state == SEQ_RUNNING) c->running[n++] = c->running[i];
    c->n_running = n;
}

static void insert_running(struct core *c, struct seq *s)
{
    int32_t i = c->n_running++;
    for (; i > 0 && seq_before(s, &c->seq[c->running[i - 1]]); i--)
        c->running[i] = c->running[i - 1];
    c->running[i] = req_of(c, s);
}

/* The last in order leaves: at once, which is true, or when no step in flight names it. */
static bool evict(struct core *c, struct seq *victim)
{
    if (victim->n_flight > 0) {
        victim->must_yield = 1;
        c->n_leaving++;
        c->n_yielding++;
        return false;
    }
    sched_preempt(c, victim);
    return true;
}

static int32_t last_running(struct core *c)
{
    while (c->n_running > 0 && c->seq[c->running[c->n_running - 1]].state != SEQ_RUNNING)
        c->n_running--;
    return c->n_running - 1;
}

/* No page is free for s. Wait if some are on their way; else preempt the last in order, which may
 * be s itself. True when pages were freed for s. */
static bool make_room(struct core *c, const struct seq *s)
{
    if (c->n_leaving > 0) return false;
    int32_t last = last_running(c);
    struct seq *victim = &c->seq[c->running[MUT(SCHED_VICTIM_TOP, last, 0)]];
    return evict(c, victim) && victim != s;
}

/* The queue's head s found no slot or page: the last background sequence leaves for it. True when
 * it may try again. */
static bool make_way(struct core *c, const struct seq *s)
{
    bool stays = c->n_free_slots == 0 ? MUT(BACKGROUND_STAYS, false, true)
                                      : MUT(BACKGROUND_HOARDS, false, true);
    if (s->rq->is_background || c->n_background_slots == 0 || c->n_leaving > 0 || stays)
        return false;
    int32_t last = last_running(c);
    if (last < 0 || !is_background(c, c->running[last])) return false;
    if (!evict(c, &c->seq[c->running[last]])) return false;
    c->n_running = last; /* an admission looks at how many run */
    return true;
}

/* A page for the next row of a decode. */
static bool grow(struct core *c, struct seq *s)
{
    if (s->n_planned < s->n_pages * c->cfg.page_size) return true;
    int32_t page = kv_alloc(&c->kv);
    while (page < 0) {
        if (!make_room(c, s)) return false;
        page = kv_alloc(&c->kv);
    }
    core_table(c, s)[s->n_pages++] = page;
    return true;
}

/* As many rows of s as the budgets allow. */
static void plan_rows(struct core *c, struct job *j, struct seq *s, struct budget *left)
{
    int32_t n_rows = seq_rows_left(s);
    if (n_rows > left->n_tokens && MUT(SCHED_OVER_BUDGET, true, false)) n_rows = left->n_tokens;
    if (n_rows <= 0) return;
    int32_t over = job_wants(s, n_rows) - left->n_wants;
    if (MUT(SCHED_OVER_WANTS, false, true)) over = 0;
    if (over > 0) { /* rows and wants end together, so dropping rows drops wants one by one */
        n_rows -= over;
        while (n_rows > 0 && job_wants(s, n_rows) > left->n_wants) n_rows--;
    }
    if (n_rows <= 0) return;
    left->n_wants -= job_wants(s, n_rows);
    left->n_tokens -= n_rows;
    job_add(j, s, req_of(c, s), n_rows, core_table(c, s));
}

/* Is the prompt to be scored or pooled, so that every position must be computed? */
static bool needs_all_rows(const struct seq *s)
{
    enum sl_pool pool = s->rq->pool;
    if (pool == SL_POOL_MEAN || pool == SL_POOL_CLS) return MUT(POOL_CACHED, true, false);
    return s->rq->sampling.n_prompt_logprobs >= 0 && s->n_scored < s->rq->n_prompt - 1;
}

/* Reference the pages of the longest cached prefix, at least one token short of all, into `table`.
 */
static void take_cached(struct core *c, struct seq *s, int32_t *table)
{
    int32_t ps = c->cfg.page_size, n_max = MUT(KV_HIT_ALL, seq_len(s) - 1, seq_len(s)) / ps;
    if (!c->cfg.has_prefix_cache || (needs_all_rows(s) && MUT(SCORE_CACHED, true, false))) return;
    while (s->n_pages < n_max) {
        const struct kv_key key = {s->rq->salt, s->chain, s->rq->tokens + s->n_pages * ps};
        int32_t page = kv_find(&c->kv, &key);
        if (page < 0) break;
        kv_ref(&c->kv, page);
        s->chain = c->kv.page[page].serial;
        table[s->n_pages++] = page;
    }
    s->n_sealed = s->n_pages;
}

/* Slot and pages for every known token, or nothing. */
static bool take_pages(struct core *c, struct seq *s)
{
    int32_t free_before = c->kv.n_free;
    s->dev_slot = c->free_slot[--c->n_free_slots];
    c->n_background_slots += s->rq->is_background;
    int32_t *table = core_table(c, s);
    take_cached(c, s, table);
    int32_t n_need =
        kv_pages_for(&c->kv, seq_len(s) - MUT(KV_PAGES_SHORT, 0, c->cfg.page_size - 1));
    int32_t keep = c->n_running > 0 ? 1 + c->n_running * GROWTH_TOKENS / c->cfg.page_size : 0;
    if (keep && s->rq->is_background) keep += c->cfg.n_pages / 8;
    if (n_need - s->n_pages + keep > c->kv.n_free) {
        core_let_go(c, s);
        s->chain = 0;
        s->n_sealed = 0;
        c->blocked_req = req_of(c, s);
        c->blocked_free = free_before;
        return false;
    }
    s->table = ++c->n_tables;
    int32_t n_hit = s->n_pages * c->cfg.page_size;
    while (s->n_pages < n_need) table[s->n_pages++] = kv_alloc(&c->kv);
    s->n_computed = s->n_planned =
        MUT(SCHED_KEEP_PLAN, n_hit, n_hit > s->n_planned ? n_hit : s->n_planned);
    c->stats.prefix_queries += c->cfg.has_prefix_cache ? (uint64_t)seq_len(s) : 0;
    c->stats.prefix_hits += (uint64_t)n_hit;
    return true;
}

static bool admit(struct core *c, struct job *j, struct seq *s)
{
    if (c->blocked_req == req_of(c, s) && c->kv.n_free <= c->blocked_free) return false;
    if (!take_pages(c, s)) return false;
    sched_dequeue(c, s);
    c->blocked_req = -1;
    if (!s->has_run) {
        s->n_cached = s->n_computed;
        s->queue_us = (uint32_t)(core_now_us(c) - s->submit_us);
    }
    s->has_run = 1;
    s->state = SEQ_RUNNING;
    s->n_output_at_start = s->n_output;
    insert_running(c, s);
    job_assign(j, s);
    return true;
}

/* May s be planned? Not when it must leave: then its n_flight would never reach 0. */
static bool is_plannable(const struct seq *s)
{
    return s->state == SEQ_RUNNING && MUT(SCHED_YIELD_RUNS, !s->must_yield, true);
}

/* ---- the three ways into a step; `background` picks whose turn it is ---- */

static void plan_decodes(struct core *c, struct job *j, bool background, struct budget *left)
{
    for (int32_t i = 0; i < c->n_running; i++) {
        struct seq *s = &c->seq[c->running[i]];
        if (!is_plannable(s) || s->rq->is_background != background) continue;
        if (seq_rows_left(s) == 1 && left->n_tokens > 0 && grow(c, s)) plan_rows(c, j, s, left);
    }
}

static void plan_prefills(struct core *c, struct job *j, bool background, struct budget *left)
{
    for (int32_t i = 0; i < c->n_running && left->n_tokens > 0; i++) {
        struct seq *s = &c->seq[c->running[i]];
        if (!is_plannable(s) || s->rq->is_background != background) continue;
        if (seq_rows_left(s) > 1) plan_rows(c, j, s, left);
    }
}

static void plan_queue(struct core *c, struct job *j, bool background, struct budget *left)
{
    int32_t reserve = background ? MUT(BACKGROUND_FULL, sched_reserve(c), 0) : 0;
    while (c->n_heap > 0 && left->n_tokens > 0 && left->n_wants > 0) {
        struct seq *s = &c->seq[c->heap[0]];
        if (s->rq->is_background != background) break;
        if (c->n_free_slots > reserve && admit(c, j, s))
            plan_rows(c, j, s, left);
        else if (!make_way(c, s))
            break;
    }
}

/* ---- how much of it ---- */

bool sched_is_quiet(const struct core *c)
{
    int32_t n_held = c->cfg.max_seqs - c->n_free_slots - c->n_background_slots;
    return n_held == 0 && c->n_heap == c->n_background_heap;
}

/* Does anyone wait for a first token, or to go on? */
static bool is_urgent(const struct core *c)
{
    if (c->n_heap > c->n_background_heap) return MUT(BACKGROUND_RIDES, true, false);
    for (int32_t i = 0; i < c->n_running && !is_background(c, c->running[i]); i++) {
        const struct seq *s = &c->seq[c->running[i]];
        if (s->state == SEQ_RUNNING && s->n_output == 0) return MUT(BACKGROUND_RIDES, true, false);
    }
    return false;
}

/* Rows of background work for a step that holds n_rows of others. Riding along they may make it a
 * little longer; alone they make it as long as someone who arrives during it may have to wait. */
static int32_t background_rows(const struct core *c, int32_t n_rows)
{
    bool is_quiet = c->quiet_us > QUIET_US;
    double us = RIDE_TIMES * pace_us(&c->pace, n_rows);
    if (n_rows > 0) return pace_rows(&c->pace, us) - n_rows;
    if (core_n_flight(c) > 0 && !is_quiet && MUT(BACKGROUND_AHEAD, true, false)) return 0;
    us = ALONE_TIMES * pace_us(&c->pace, 1);
    double most = (double)c->cfg.background_us * (is_quiet ? QUIET_TIMES : 1);
    int32_t n = pace_rows(&c->pace, us > most ? us : most);
    return n > 0 ? n : 1;
}

/* Decoding sequences that wish for a time per token keep prefill chunks short. */
static void keep_tpot(const struct core *c, const struct job *j, struct budget *left)
{
    uint32_t least = UINT32_MAX;
    for (int32_t i = 0; i < c->n_running; i++) {
        const struct seq *s = &c->seq[c->running[i]];
        uint32_t wish = s->state == SEQ_RUNNING && s->n_output > 0 ? s->rq->tpot_us : 0;
        if (wish && wish < least) least = wish;
    }
    if (least == UINT32_MAX) return;
    int32_t n = pace_rows(&c->pace, least) - j->b.n_tokens;
    if (n < PREFILL_ROWS_MIN) n = PREFILL_ROWS_MIN;
    if (n < left->n_tokens) left->n_tokens = n;
}

bool sched_plan(struct core *c, struct job *j)
{
    struct budget left = {c->cfg.max_tokens, c->cfg.max_wants};
    uint64_t n_preemptions = c->stats.n_preemptions;
    compact_running(c);
    plan_decodes(c, j, false, &left);
    keep_tpot(c, j, &left);
    plan_prefills(c, j, false, &left);
    bool is_calm = c->stats.n_preemptions == n_preemptions && c->n_yielding == 0;
    if (is_calm) plan_queue(c, j, false, &left);
    if (is_urgent(c) || c->n_background_heap + c->n_background_slots == 0) return j->b.n_seqs > 0;
    int32_t n_rows = background_rows(c, j->b.n_tokens);
    if (n_rows < left.n_tokens) left.n_tokens = n_rows;
    plan_decodes(c, j, true, &left);
    plan_prefills(c, j, true, &left);
    is_calm = is_calm && c->stats.n_preemptions == n_preemptions && c->n_yielding == 0;
    if (is_calm) plan_queue(c, j, true, &left);
    return j->b.n_seqs > 0;
}
