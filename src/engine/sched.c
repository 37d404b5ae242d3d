/* sched.c - admission, chunked prefill mixed with decode, preemption by recompute. See sched.h. */
#include "engine/sched.h"

#include "engine/mutants.h"

/* Admission leaves pages for each running sequence to grow by so many tokens: in the simulator that
 * cuts preemptions to a third of a fixed watermark's, and those that lost all their work from 9 %
 * to 3 %. */
enum { GROWTH_TOKENS = 8 };

struct budget {
    int32_t n_tokens, n_wants;
};

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
    heap_up(c, c->n_heap++, req_of(c, s));
}

void sched_dequeue(struct core *c, struct seq *s)
{
    int32_t pos = s->heap_pos, last = c->heap[--c->n_heap];
    s->heap_pos = -1;
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

/* No page is free for s. Wait if some are on their way; else preempt the last in order, which may
 * be s itself. True when pages were freed for s. */
static bool make_room(struct core *c, const struct seq *s)
{
    if (c->n_leaving > 0) return false;
    while (c->seq[c->running[c->n_running - 1]].state != SEQ_RUNNING) c->n_running--;
    struct seq *victim = &c->seq[c->running[MUT(SCHED_VICTIM_TOP, c->n_running - 1, 0)]];
    if (victim->n_flight > 0) {
        victim->must_yield = 1;
        c->n_leaving++;
        c->n_yielding++;
        return false;
    }
    sched_preempt(c, victim);
    return victim != s;
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
    int32_t *table = core_table(c, s);
    take_cached(c, s, table);
    int32_t n_need =
        kv_pages_for(&c->kv, seq_len(s) - MUT(KV_PAGES_SHORT, 0, c->cfg.page_size - 1));
    int32_t keep = c->n_running > 0 ? 1 + c->n_running * GROWTH_TOKENS / c->cfg.page_size : 0;
    if (n_need - s->n_pages + keep > c->kv.n_free) {
        core_let_go(c, s);
        s->chain = 0;
        s->n_sealed = 0;
        c->blocked_req = req_of(c, s);
        c->blocked_free = free_before;
        return false;
    }
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
    if (!s->has_run) s->n_cached = s->n_computed;
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

bool sched_plan(struct core *c, struct job *j)
{
    struct budget left = {c->cfg.max_tokens, c->cfg.max_wants};
    uint64_t n_preemptions = c->stats.n_preemptions;
    compact_running(c);
    bool has_prefill = false;
    for (int32_t i = 0; i < c->n_running; i++) {
        struct seq *s = &c->seq[c->running[i]];
        int32_t n_rows = is_plannable(s) ? seq_rows_left(s) : 0;
        has_prefill |= n_rows > 1;
        if (n_rows == 1 && grow(c, s)) plan_rows(c, j, s, &left);
    }
    for (int32_t i = 0; has_prefill && i < c->n_running; i++) {
        struct seq *s = &c->seq[c->running[i]];
        if (is_plannable(s) && seq_rows_left(s) > 1) plan_rows(c, j, s, &left);
    }
    bool is_calm = c->stats.n_preemptions == n_preemptions && c->n_yielding == 0;
    while (is_calm && c->n_heap > 0 && c->n_free_slots > 0 && left.n_tokens > 0 &&
           left.n_wants > 0) {
        struct seq *s = &c->seq[c->heap[0]];
        if (!admit(c, j, s)) break;
        plan_rows(c, j, s, &left);
    }
    return j->b.n_seqs > 0;
}

bool sched_waits(const struct core *c)
{
    for (int32_t i = 0; i < c->n_running; i++) {
        const struct seq *s = &c->seq[c->running[i]];
        if (s->state == SEQ_RUNNING && seq_waits_for_token(s)) return true;
    }
    return false;
}
