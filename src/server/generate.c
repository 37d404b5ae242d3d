/* generate.c - a generation from admission to its end: stages 4 and 10 to 12; io thread.
 *
 * All choices of a request that generates are submitted or none; inputs to embed go in through a
 * window. Engine events come in one batch a wake; each finds its request by engine slot, is
 * formatted, and at the end of the batch every touched connection is resumed once and MHD driven
 * once. A request that ends early (client gone, deadline, error) gives up its slots at once: events
 * that still come for them find no owner.
 */
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

#include "base/log.h"
#include "server/handlers.h"
#include "server/http_request.h"
#include "server/slo.h"

enum {
    POLL_BATCH = 256,         /* events a sl_poll */
    POLL_TURNS = 64,          /* batches until the sockets get their turn */
    WINDOW = API_CHOICES_MAX, /* choices of one request in the engine at once */
};

/* ------------------------------------------------------------------ owners of engine slots */

static void owner_set(struct server *s, sl_req h, struct request *r, int choice)
{
    if (h.slot >= s->n_owners) {
        uint32_t n = s->n_owners ? s->n_owners : 256;
        while (n <= h.slot) n *= 2;
        s->owners = xrealloc(s->owners, n * sizeof *s->owners);
        memset(s->owners + s->n_owners, 0, (n - s->n_owners) * sizeof *s->owners);
        s->n_owners = n;
    }
    s->owners[h.slot] = (struct owner){h.gen, choice, r};
}

static void owner_clear(struct server *s, sl_req h)
{
    if (h.slot < s->n_owners && s->owners[h.slot].gen == h.gen)
        s->owners[h.slot] = (struct owner){0};
}

static void cancel_choice(struct request *r, struct choice *c)
{
    if (c->is_cancelled || c->is_done) return;
    c->is_cancelled = true;
    sl_cancel(r->s->engine, c->handle);
}

/* No event of it is wanted any more. */
static void abandon(struct request *r)
{
    for (int i = 0; i < r->n_choices; i++) {
        cancel_choice(r, &r->choices[i]);
        owner_clear(r->s, r->choices[i].handle);
    }
}

/* ------------------------------------------------------------------ the part of a request that
 * waits to run */

static void waiting_remove(struct request *r)
{
    if (!r->is_waiting) return;
    r->is_waiting = false;
    r->run_us = server_now_us();
    r->s->n_waiting_choices -= r->n_waiting;
    TAILQ_REMOVE(&r->s->waiting, r, waiting_link);
}

/* The engine says how many sequences wait; they are the youngest of ours, and so are those that it
 * had not seen when it said so. */
static void waiting_update(struct server *s, const struct sl_stats *stats)
{
    struct request *r;
    int n_unseen = (int)(s->n_submitted - stats->n_submitted);
    while (s->n_waiting_choices > (int)stats->n_waiting + n_unseen &&
           (r = TAILQ_FIRST(&s->waiting)))
        waiting_remove(r);
}

static enum request_phase phase_of(const struct request *r)
{
    return r->first_us ? PHASE_DECODE : r->is_waiting ? PHASE_QUEUE : PHASE_PREFILL;
}

/* ------------------------------------------------------------------ stages 2 and 3, maybe on a
 * pool thread */

void work_generate(struct request *r)
{
    int code =
        api_parse(&r->api, r->route->kind, &r->s->ctx, buf_str(&r->body), &r->arena, &r->err);
    if (code == 0) code = responses_join(r, &r->err);
    if (code == 0) code = api_prepare(r->api, &r->err);
    if (code < 0 && r->err.code == 0) sl_fail(&r->err, code, "the request failed");
}

/* ------------------------------------------------------------------ stage 4: admission */

/* The next choice into the engine. */
static int submit_next(struct request *r, struct sl_error *e)
{
    struct sl_request q;
    int i = r->n_choices;
    api_engine_request(r->api, i, r->entropy, &q);
    q.salt[0] ^= r->tenant[0];
    q.salt[1] ^= r->tenant[1];
    q.is_background = r->line != NULL;
    q.due_us = slo_due_us(r);
    q.tpot_us = (uint32_t)(r->wishes.tpot_ms < 1e6 ? r->wishes.tpot_ms * 1e3 : 0);
    r->n_prompt_tokens += q.n_prompt;
    int code = sl_submit(r->s->engine, &q, &r->choices[i].handle, e);
    if (code < 0) return e->code ? code : sl_fail(e, code, "the engine refused the request");
    owner_set(r->s, r->choices[i].handle, r, i);
    r->s->n_submitted++;
    r->n_choices++;
    return 0;
}

/* What generates is submitted whole or not at all; of many inputs to embed, as many as fit now. */
static int submit_first(struct request *r)
{
    struct server *s = r->s;
    server_random(s, &r->entropy, sizeof r->entropy);
    auth_salt(s->auth, r->key, api_cache_salt(r->api), r->tenant);
    r->n_wanted = api_n_choices(r->api);
    r->choices = arena_array(&r->arena, (size_t)r->n_wanted, sizeof *r->choices);
    if (!r->choices) return sl_fail(&r->err, SL_ENOMEM, "no room for %d choices", r->n_wanted);
    while (r->n_choices < r->n_wanted && r->n_choices < WINDOW) {
        int code = submit_next(r, &r->err);
        if (code == 0) continue;
        if (code == SL_EBUSY && r->n_choices > 0 && api_is_pooled(r->api)) break;
        abandon(r);
        return code;
    }
    r->err = (struct sl_error){0};
    return 0;
}

/* Places became free: the inputs that still wait outside. Never amid a batch of events: the engine
 * has taken back the slots of some that are still to be dispatched. */
static void submit_more(struct request *r)
{
    struct sl_error e = {0};
    while (r->n_choices < r->n_wanted && r->n_choices - r->n_done < WINDOW && !r->is_ended) {
        int code = submit_next(r, &e);
        if (code == SL_EBUSY) return; /* tried again when one of ours ends, or at the next tick */
        if (code < 0) generate_fail(r, &e);
    }
}

static void join_lists(struct request *r)
{
    struct server *s = r->s;
    r->is_live = true;
    TAILQ_INSERT_TAIL(&s->live, r, link);
    if (r->line) return; /* the engine counts background work apart, and so do the histograms */
    r->is_waiting = true;
    TAILQ_INSERT_TAIL(&s->waiting, r, waiting_link);
    r->n_waiting = r->n_choices;
    s->n_waiting_choices += r->n_waiting;
}

static int charge(struct request *r)
{
    return limits_tokens(r->s->limits, r->key, api_cost_tokens(r->api), r->line != NULL,
                         &r->charged, &r->retry_s, &r->err);
}

/* What it used, once; a request that had no token yet used none, and a line that will run again
 * counts then. */
static void account(struct request *r)
{
    struct db_usage used = {.n_requests = 1};
    if (r->is_accounted || !r->resp) return;
    r->is_accounted = true;
    if (r->first_us || r->is_replayed) r->used = api_response_usage(r->resp);
    used.prompt_tokens = (int64_t)r->used.prompt_tokens;
    used.cached_tokens = (int64_t)r->used.cached_tokens;
    used.completion_tokens = (int64_t)r->used.completion_tokens;
    if (r->line && r->is_gone) used = (struct db_usage){0};
    limits_settle(r->s->limits, r->key, r->charged, &used);
}

enum MHD_Result finish_generate(struct request *r)
{
    struct server *s = r->s;
    if (s->phase != SERVER_READY) sl_fail(&r->err, SL_EDRAINING, "The server is shutting down.");
    if (r->conn && r->conn->has_left) { /* it went while the body was parsed */
        r->is_gone = true;
        return MHD_NO;
    }
    r->admit_us = server_now_us();
    if (r->err.code || charge(r) < 0) return answer_error(r);
    r->is_stream = api_is_stream(r->api);
    if (replay_try(r))
        return r->is_stream ? stream_begin(r) : answer_body(r, 200, "application/json");
    if (slo_admit(r) < 0 || submit_first(r) < 0) {
        limits_settle(s->limits, r->key, r->charged, &(struct db_usage){0});
        return answer_error(r);
    }
    r->resp = api_response_new(r->api, r->id + 4, (int64_t)time(NULL));
    r->stage = STAGE_ENGINE;
    join_lists(r);
    slo_arm(r);
    if (!r->is_stream) {
        request_suspend(r);
        return MHD_YES;
    }
    api_response_start(r->resp, &r->out);
    return stream_begin(r);
}

/* ------------------------------------------------------------------ stages 10 and 11: events */

void generate_apply(struct request *r, int choice, const struct sl_event *ev)
{
    if (api_response_event(r->resp, choice, ev, &r->out)) cancel_choice(r, &r->choices[choice]);
}

/* Latencies are taken when the event arrives, not when a slow client makes room for it. */
static void measure(struct request *r, struct choice *c, const struct sl_event *ev, uint64_t now)
{
    struct metrics *m = &r->s->metrics;
    if (!r->first_us) {
        waiting_remove(r);
        r->first_us = now;
        r->run_us = r->admit_us + ev->queue_us;
        if (!r->line) metrics_observe(m, HIST_TTFT, (double)(now - r->start_us) * 1e-6);
    }
    if (c->last_us && !r->line) metrics_observe(m, HIST_ITL, (double)(now - c->last_us) * 1e-6);
    c->last_us = r->last_us = now;
    m->n_generation_tokens++;
    m->n_background_tokens += r->line != NULL;
}

static void give_up(struct request *r, const char *why)
{
    if (!r->line)
        log_info("http", "%s %s after %.1f s", r->id, why,
                 (double)(server_now_us() - r->start_us) * 1e-6);
    r->s->metrics.n_aborted[phase_of(r)]++;
    r->s->metrics.n_finished[SL_FINISH_CANCEL]++;
    r->is_gone = true;
    account(r);
    abandon(r);
}

/* Returns the request that the event touched, or NULL. */
static struct request *dispatch(struct server *s, const struct sl_event *ev, uint64_t now)
{
    if (ev->req.slot >= s->n_owners) return NULL;
    struct owner o = s->owners[ev->req.slot];
    if (!o.req || o.gen != ev->req.gen) return NULL;
    struct request *r = o.req;
    struct choice *c = &r->choices[o.choice];
    if (ev->kind == SL_EV_TOKEN) measure(r, c, ev, now);
    if (ev->kind == SL_EV_DONE) {
        c->is_done = true;
        r->n_done++;
        waiting_remove(r); /* a vector has no token that would say so */
        owner_clear(s, c->handle);
    }
    if (r->is_recording) r->is_recording = recording_add(&r->rec, s->cache, o.choice, ev);
    s->metrics.n_sse_events += r->is_stream && ev->kind == SL_EV_TOKEN;
    if (!r->is_stream || !stream_is_full(r)) {
        generate_apply(r, o.choice, ev);
    } else if (!stream_hold(r, o.choice, ev)) {
        give_up(r, "cancelled: the client reads too slowly");
        shutdown(r->conn->fd, SHUT_RDWR); /* MHD sees the error, and completes the request */
        return NULL;
    }
    return r;
}

static void count_finished(struct request *r)
{
    struct metrics *m = &r->s->metrics;
    struct api_usage u = api_response_usage(r->resp);
    uint64_t now = server_now_us(), run = r->run_us ? r->run_us : r->admit_us;
    uint64_t first = r->first_us ? r->first_us : now;
    m->n_finished[api_response_reason(r->resp, 0)]++;
    m->n_prompt_tokens += u.prompt_tokens;
    if (r->line) return;
    slo_done(r);
    metrics_observe(m, HIST_E2E, (double)(now - r->start_us) * 1e-6);
    metrics_observe(m, HIST_QUEUE, (double)(run - r->admit_us) * 1e-6);
    metrics_observe(m, HIST_PREFILL, (double)(first > run ? first - run : 0) * 1e-6);
    metrics_observe(m, HIST_DECODE, (double)(r->last_us > first ? r->last_us - first : 0) * 1e-6);
    metrics_observe(m, HIST_PROMPT, (double)u.prompt_tokens);
    metrics_observe(m, HIST_GENERATION, (double)u.completion_tokens);
}

static void give_timings(struct request *r)
{
    uint64_t now = server_now_us(), run = r->run_us ? r->run_us : r->admit_us;
    uint64_t first = r->first_us ? r->first_us : now;
    struct api_timings t = {
        .queue_ms = (double)(run - r->admit_us) * 1e-3,
        .prompt_ms = (double)(first > run ? first - run : 0) * 1e-3,
        .predicted_ms = (double)(r->last_us > first ? r->last_us - first : 0) * 1e-3,
    };
    if (r->is_replayed) t = (struct api_timings){0};
    api_response_timings(r->resp, &t);
}

void generate_settle(struct request *r)
{
    struct sl_error e;
    if (r->is_ended || r->is_gone) return;
    int failed = api_response_failed(r->resp);
    if (failed) {
        sl_fail(&e, failed, "internal error during generation");
        generate_fail(r, &e);
    } else if (api_response_complete(r->resp)) {
        responses_keep(r);
        give_timings(r);
        api_response_finish(r->resp, &r->out);
        count_finished(r);
        account(r);
        if (r->is_recording) answer_cache_put(r->s->cache, r->cache_key, &r->rec);
        r->is_recording = false;
        r->is_ended = true;
        abandon(r); /* a stop string may have ended it before the engine did */
    }
}

/* The batch is in: finish, and let MHD write. */
static void flush(struct request *r)
{
    r->is_dirty = false;
    if (r->is_gone || (!r->conn && !r->line)) return;
    submit_more(r);
    if (r->n_held == 0) generate_settle(r);
    if (r->is_stream)
        stream_wake(r);
    else if (r->is_ended)
        request_resume(r);
}

void generate_on_wake(struct server *s)
{
    struct sl_event events[POLL_BATCH];
    struct request *dirty[POLL_BATCH];
    struct sl_stats stats;
    uv_update_time(&s->loop);
    uint64_t now = server_now_us();
    int n = POLL_BATCH;
    for (int turn = 0; turn < POLL_TURNS && n == POLL_BATCH; turn++) {
        int n_dirty = 0;
        n = sl_poll(s->engine, events, POLL_BATCH);
        for (int i = 0; i < n; i++) {
            struct request *r = dispatch(s, &events[i], now);
            if (!r || r->is_dirty) continue;
            r->is_dirty = true;
            dirty[n_dirty++] = r;
        }
        for (int i = 0; i < n_dirty; i++) flush(dirty[i]);
    }
    if (n == POLL_BATCH) uv_async_send(&s->wake); /* more wait: come back after the sockets */
    sl_get_stats(s->engine, &stats);
    metrics_steps(&s->metrics, &stats);
    waiting_update(s, &stats);
}

/* ------------------------------------------------------------------ early ends */

void generate_leave(struct request *r)
{
    if (r->is_live && !r->is_ended && !r->is_gone) give_up(r, "cancelled: the client left");
    r->is_gone = true;
    if (r->is_suspended && !r->in_work) request_resume(r);
}

void generate_fail(struct request *r, const struct sl_error *e)
{
    if (r->is_ended || r->is_gone) return;
    r->is_ended = true;
    r->n_held = 0;
    r->s->metrics.n_finished[SL_FINISH_ERROR]++;
    account(r);
    abandon(r);
    if (r->is_stream) {
        api_response_error(r->resp, e, &r->out);
        stream_wake(r);
    } else {
        r->err = *e;
        request_resume(r);
    }
}

void generate_fail_all(struct server *s, const struct sl_error *e)
{
    struct request *r;
    TAILQ_FOREACH(r, &s->live, link) generate_fail(r, e);
}

void generate_release(struct request *r)
{
    if (!r->is_live) return;
    r->is_live = false;
    account(r);
    if (!r->is_ended) abandon(r);
    waiting_remove(r);
    TAILQ_REMOVE(&r->s->live, r, link);
}

static void tick_one(struct request *r, uint64_t now_ms, uint64_t now_us)
{
    const struct options *o = r->s->o;
    struct sl_error e;
    bool is_writing = r->is_stream && !r->is_suspended;
    if (is_writing && now_ms - r->read_ms > (uint64_t)o->write_timeout * 1000) {
        if (!r->is_ended) give_up(r, "cancelled: the client reads nothing");
        shutdown(r->conn->fd, SHUT_RDWR);
        return;
    }
    if (r->is_ended) return;
    submit_more(r);
    if (now_us - r->start_us > (uint64_t)o->request_timeout * 1000000) {
        sl_fail(&e, SL_EDEADLINE, "the request took longer than %lld seconds",
                (long long)o->request_timeout);
        generate_fail(r, &e);
    } else if (r->is_waiting && now_us - r->admit_us > (uint64_t)o->queue_timeout * 1000000) {
        sl_fail(&e, SL_EOVERLOAD, "no room to run within %lld seconds",
                (long long)o->queue_timeout);
        generate_fail(r, &e);
    } else if (r->is_suspended && r->is_stream && o->sse_ping_interval > 0 &&
               (double)(now_ms - r->said_ms) >= (o->sse_ping_interval - 0.5) * 1e3) {
        buf_puts(&r->out, ": keep-alive\n"); /* one LF: a blank line after it breaks some clients */
        stream_wake(r);
    }
}

void generate_tick(struct server *s)
{
    struct request *r;
    uint64_t now_ms = uv_now(&s->loop), now_us = server_now_us();
    TAILQ_FOREACH(r, &s->live, link)
    {
        if (!r->is_gone && r->conn) tick_one(r, now_ms, now_us);
    }
}
