/* handlers.c - the small endpoints: models, tokenizer and template tools, health, version, metrics.
 */
#include "server/handlers.h"

#include <stdio.h>

#include "server/http_request.h"

/* The first call to touch r->err decides; an overflowing answer is an error too. */
static void note(struct request *r, int code)
{
    if (code < 0 && r->err.code == 0) sl_fail(&r->err, code, "the request failed");
}

void work_models(struct request *r)
{
    api_models(&r->s->ctx, &r->out);
}

void work_model(struct request *r)
{
    note(r, api_model(&r->s->ctx, str_of(r->match.param), &r->out, &r->err));
}

void work_tokenize(struct request *r)
{
    note(r, api_tokenize(&r->s->ctx, buf_str(&r->body), &r->out, &r->err));
}

void work_detokenize(struct request *r)
{
    note(r, api_detokenize(&r->s->ctx, buf_str(&r->body), &r->out, &r->err));
}

void work_count(struct request *r)
{
    note(r, api_count(r->route->kind, &r->s->ctx, buf_str(&r->body), &r->out, &r->err));
}

void work_apply_template(struct request *r)
{
    note(r, api_apply_template(&r->s->ctx, buf_str(&r->body), &r->out, &r->err));
}

enum MHD_Result finish_json(struct request *r)
{
    return answer_body(r, 200, "application/json");
}

/* Ready: the model is loaded, the engine lives, no drain. A full queue stays ready. */
enum MHD_Result finish_ready(struct request *r)
{
    switch (r->s->phase) {
    case SERVER_LOADING:
        sl_fail(&r->err, SL_ELOADING, "Loading model");
        break;
    case SERVER_DRAINING:
        sl_fail(&r->err, SL_EDRAINING, "The server is shutting down.");
        break;
    case SERVER_FAILED:
        sl_fail(&r->err, SL_EDEVICE, "The engine has failed.");
        break;
    case SERVER_READY:
        buf_puts(&r->out, "{\"status\":\"ok\"}");
        return answer_body(r, 200, "application/json");
    }
    r->err.code = r->s->phase == SERVER_FAILED ? SL_EOVERLOAD : r->err.code; /* 503, not 500 */
    return answer_error(r);
}

enum MHD_Result finish_live(struct request *r)
{
    buf_puts(&r->out, "{\"status\":\"ok\"}");
    return answer_body(r, 200, "application/json");
}

enum MHD_Result finish_version(struct request *r)
{
    buf_puts(&r->out, "{\"version\":\"" SLUICE_VERSION "\"}");
    return answer_body(r, 200, "application/json");
}

static void run_usage(struct request *r, struct db *db)
{
    enum { DAYS = 31 };
    db_usage_days(db, auth_owner(r->s->auth, r->key), DAYS, &r->out, &r->err);
    buf_puts(&r->out, "]}");
}

/* Without a store there are no days, and the totals are those since the start. */
enum MHD_Result finish_usage(struct request *r)
{
    limits_put_usage(r->s->limits, r->key, &r->out);
    if (r->s->store) {
        limits_flush(r->s->limits);
        return request_store(r, run_usage, finish_json);
    }
    buf_puts(&r->out, "]}");
    return finish_json(r);
}

enum MHD_Result finish_metrics(struct request *r)
{
    struct server *s = r->s;
    struct sl_stats stats = {0};
    struct lane_counts lane = lane_count(s->lane);
    if (s->engine) sl_get_stats(s->engine, &stats);
    struct metrics_view view = {
        .model_name = s->ctx.n_served ? s->ctx.served_names[0] : "",
        .stats = &stats,
        .info = s->ctx.info,
        .has_prefix_cache = s->o->enable_prefix_caching,
        .n_connections = s->n_conns,
        .n_requests = s->n_requests,
        .auth = s->auth,
        .limits = s->limits,
        .cache = answer_cache_stats(s->cache),
        .n_batches = lane.n_batches,
        .n_batch_ok = lane.n_answered,
        .n_batch_failed = lane.n_failed,
    };
    if (s->responses) response_store_size(s->responses, &view.n_stored, &view.stored_bytes);
    metrics_text(&s->metrics, &view, &r->out);
    return answer_body(r, 200, "text/plain; version=0.0.4; charset=utf-8");
}
