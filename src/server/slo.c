/* slo.c - deadlines of requests on one timer, and goodput counters. */
#include "server/slo.h"

#include "server/http_request.h"

enum {
    DUE_DEFAULT_US = 10000000, /* without a wish */
    LEAST_MS = 2,              /* between two looks, however many deadlines there are */
};
/* The part of an estimated wait that must be beyond the wish: some of the work may be done already,
 * or be found in the prefix cache. */
#define SURE 0.5

uint64_t slo_due_us(const struct request *r)
{
    if (r->line) return 0;
    return r->ttft_due_us ? r->ttft_due_us : r->admit_us + DUE_DEFAULT_US;
}

static bool has_wish(const struct request *r)
{
    return r->wishes.ttft_ms || r->wishes.timeout_ms || r->wishes.tpot_ms > 0;
}

/* Prompt tokens that will be computed before r's, counting whole those of which a part may be. */
static uint64_t tokens_before(const struct request *r)
{
    const struct request *q;
    uint64_t n = 0;
    TAILQ_FOREACH(q, &r->s->live, link)
    {
        bool is_before = !q->first_us && !q->is_ended && !q->line;
        if (is_before && slo_due_us(q) <= r->ttft_due_us) n += q->n_prompt_tokens;
    }
    return n;
}

/* How long the engine needs for so many prompt tokens, in steps as full as may be. */
static double work_us(const struct server *s, uint64_t n)
{
    const struct sl_stats *stats = &s->metrics.seen;
    uint64_t per_step = (uint64_t)s->ctx.info->max_num_batched_tokens;
    return (double)((n + per_step - 1) / per_step) * stats->step_fixed_us +
           (double)n * 1e-3 * stats->step_row_ns;
}

int slo_admit(struct request *r)
{
    struct metrics *m = &r->s->metrics;
    if (r->line) return 0;
    r->wishes = api_wishes(r->api);
    if (r->wishes.ttft_ms) r->ttft_due_us = r->start_us + (uint64_t)r->wishes.ttft_ms * 1000;
    if (r->wishes.timeout_ms) r->end_due_us = r->start_us + (uint64_t)r->wishes.timeout_ms * 1000;
    if (!r->ttft_due_us) return 0;
    uint64_t n = tokens_before(r);
    double ready_us = (double)r->admit_us + SURE * work_us(r->s, n);
    if (ready_us < (double)r->ttft_due_us) return 0;
    m->n_wished++;
    m->n_late[LATE_REFUSED]++;
    m->n_slo[SLO_TTFT][0]++;
    return sl_fail_param(&r->err, SL_EOVERLOAD, "ttft_ms",
                         "No first token is possible within %lld ms: %llu prompt tokens wait "
                         "before this request.",
                         (long long)r->wishes.ttft_ms, (unsigned long long)n);
}

void slo_done(struct request *r)
{
    struct metrics *m = &r->s->metrics;
    struct api_usage u = api_response_usage(r->resp);
    if (!has_wish(r)) return;
    double n = r->n_choices ? (double)u.completion_tokens / r->n_choices - 1 : 0;
    double tpot_us = n > 0 ? (double)(r->last_us - r->first_us) / n : 0;
    bool met[SLO_COUNT] = {
        [SLO_TTFT] = r->first_us <= r->ttft_due_us,
        [SLO_TPOT] = tpot_us <= r->wishes.tpot_ms * 1e3,
        [SLO_TIMEOUT] = true,
    };
    bool wished[SLO_COUNT] = {r->ttft_due_us > 0, r->wishes.tpot_ms > 0, r->end_due_us > 0};
    bool is_good = true;
    for (int i = 0; i < SLO_COUNT; i++) {
        if (!wished[i]) continue;
        m->n_slo[i][met[i]]++;
        is_good = is_good && met[i];
    }
    m->n_wished++;
    m->n_good += is_good;
}

/* Ends r if it is late; returns its next deadline, UINT64_MAX without one. */
static uint64_t check_one(struct request *r, uint64_t now)
{
    struct metrics *m = &r->s->metrics;
    struct sl_error e;
    uint64_t next = UINT64_MAX;
    if (r->is_ended || r->is_gone) return next;
    bool waits = r->ttft_due_us && !r->first_us;
    if (waits && now >= r->ttft_due_us) {
        sl_fail_param(&e, SL_EDEADLINE, "ttft_ms", "No first token within %lld ms.",
                      (long long)r->wishes.ttft_ms);
        m->n_slo[SLO_TTFT][0]++;
        m->n_late[LATE_TTFT]++;
    } else if (r->end_due_us && now >= r->end_due_us) {
        sl_fail_param(&e, SL_EDEADLINE, "timeout_ms", "Not complete within %lld ms.",
                      (long long)r->wishes.timeout_ms);
        m->n_slo[SLO_TIMEOUT][0]++;
        m->n_late[LATE_TIMEOUT]++;
    } else {
        if (waits) next = r->ttft_due_us;
        return r->end_due_us && r->end_due_us < next ? r->end_due_us : next;
    }
    m->n_wished++;
    r->no_retry = true; /* its time is over */
    generate_fail(r, &e);
    return next;
}

static void on_timer(uv_timer_t *t)
{
    struct server *s = t->data;
    slo_check(s);
    loop_drive(s);
}

static void arm(struct server *s, uint64_t at_us, uint64_t now)
{
    uint64_t ms = at_us > now ? (at_us - now + 999) / 1000 : 0;
    s->due_us = at_us;
    uv_timer_start(&s->due_timer, on_timer, ms < LEAST_MS ? LEAST_MS : ms, 0);
}

void slo_check(struct server *s)
{
    struct request *r;
    uint64_t now = server_now_us(), next = UINT64_MAX;
    TAILQ_FOREACH(r, &s->live, link)
    {
        uint64_t at = check_one(r, now);
        if (at < next) next = at;
    }
    s->due_us = UINT64_MAX;
    if (next != UINT64_MAX) arm(s, next, now);
}

void slo_arm(struct request *r)
{
    uint64_t at = UINT64_MAX;
    if (r->ttft_due_us) at = r->ttft_due_us;
    if (r->end_due_us && r->end_due_us < at) at = r->end_due_us;
    if (at < r->s->due_us) arm(r->s, at, server_now_us());
}
