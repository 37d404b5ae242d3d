/* batches.c - /v1/batches: each call is a job of the store; what runs them is lane.c. */
#include <stdio.h>
#include <time.h>

#include "server/handlers.h"
#include "server/http_request.h"

enum { LIST_DEFAULT = 20, LIST_MAX = 100 };

/* What the body asks for exists and may be used. */
static int check(struct request *r, struct db *db, const struct batch_facts *b)
{
    struct sl_error *e = &r->err;
    struct file_facts f = {0};
    const struct route *route = lane_route(b->endpoint);
    if (!route)
        return sl_fail_param(e, SL_EVALUE, "endpoint", "Invalid value: '%.39s' for 'endpoint'.",
                             b->endpoint);
    TRY(auth_scope(r->s->auth, r->key, route->path, e));
    int code = db_file_get(db, b->owner, b->input_file_id, &f, e);
    if (code < 0) {
        if (code == SL_ENOTFOUND) snprintf(e->param, sizeof e->param, "input_file_id");
        return code;
    }
    if (strcmp(f.purpose, "batch") != 0)
        return sl_fail_param(e, SL_EVALUE, "input_file_id",
                             "The file's purpose is '%s', not 'batch'.", f.purpose);
    return 0;
}

static void run_create(struct request *r, struct db *db)
{
    struct batch_facts b;
    if (batch_create_parse(buf_str(&r->body), &b, &r->err) < 0) return;
    db_make_id("batch_", b.id);
    snprintf(b.owner, sizeof b.owner, "%s", auth_owner(r->s->auth, r->key));
    b.created_at = (int64_t)time(NULL);
    b.expires_at += b.created_at;
    if (check(r, db, &b) == 0 && db_batch_add(db, &b, &r->err) == 0) put_batch_object(&b, &r->out);
    batch_facts_free(&b);
}

static enum MHD_Result then_created(struct request *r)
{
    lane_kick(r->s->lane);
    return finish_json(r);
}

enum MHD_Result finish_batch_create(struct request *r)
{
    return request_store(r, run_create, then_created);
}

static void run_get(struct request *r, struct db *db)
{
    struct batch_facts b;
    if (db_batch_get(db, auth_owner(r->s->auth, r->key), r->match.param, &b, &r->err) < 0) return;
    put_batch_object(&b, &r->out);
    batch_facts_free(&b);
}

enum MHD_Result finish_batch_get(struct request *r)
{
    return request_store(r, run_get, finish_json);
}

/* The status goes to `cancelling`; the lane does the rest. Once more is fine. */
static int cancel(struct request *r, struct db *db, struct batch_facts *b)
{
    if (batch_is_over(b->status) || b->status == BATCH_FINALIZING)
        return sl_fail(&r->err, SL_EINVAL, "The batch is over: it cannot be cancelled any more.");
    if (b->status == BATCH_CANCELLING) return 0;
    b->status = BATCH_CANCELLING;
    b->cancelling_at = (int64_t)time(NULL);
    return db_batch_save(db, b, &r->err);
}

static void run_cancel(struct request *r, struct db *db)
{
    struct batch_facts b;
    if (db_batch_get(db, auth_owner(r->s->auth, r->key), r->match.param, &b, &r->err) < 0) return;
    if (cancel(r, db, &b) == 0) put_batch_object(&b, &r->out);
    batch_facts_free(&b);
}

static enum MHD_Result then_cancelled(struct request *r)
{
    lane_cancel(r->s->lane, r->match.param);
    return finish_json(r);
}

enum MHD_Result finish_batch_cancel(struct request *r)
{
    return request_store(r, run_cancel, then_cancelled);
}

static void run_list(struct request *r, struct db *db)
{
    db_batch_list(db, auth_owner(r->s->auth, r->key), &r->page, &r->out, &r->err);
}

enum MHD_Result finish_batch_list(struct request *r)
{
    if (request_page(r, LIST_DEFAULT, LIST_MAX) < 0) return answer_error(r);
    return request_store(r, run_list, finish_json);
}
