/* http_request.c - from the first handler call to the completion callback: stages 1 and 2, body,
 * pool.
 *
 * MHD calls request_handler once with the headers, then with pieces of the body, then once more
 * without; it calls again after each resume. An answer queued on the first call closes the
 * connection afterwards, so only what must not be read any further is answered there (the gate,
 * Expect with an error, hopeless sizes); every other refusal reads the body to its end first and
 * keeps the connection.
 */
#include "server/http_request.h"

#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/log.h"

enum {
    POOL_BYTES = 4096,        /* a larger body is parsed and tokenized on the work pool */
    SWALLOW_EXTRA = 16 << 20, /* bytes beyond the body limit that are read before a 413 */
    ARENA_BASE = 64 << 20,    /* and ARENA_TIMES the body, for token ids and messages */
    ARENA_TIMES = 16,
    BODIES_TIMES = 16, /* all bodies together: that many times the largest single one */
};

void request_suspend(struct request *r)
{
    ASSERT(!r->is_suspended && (r->conn || r->line));
    r->is_suspended = true;
    if (r->conn) MHD_suspend_connection(r->conn->mhd);
}

void request_resume(struct request *r)
{
    if (!r->is_suspended) return;
    r->is_suspended = false;
    if (r->line)
        lane_resumed(r->line);
    else
        MHD_resume_connection(r->conn->mhd);
}

static struct request *request_new(struct server *s, struct conn *c)
{
    struct request *r = xcalloc(1, sizeof *r);
    r->s = s;
    r->conn = c;
    if (c) c->req = r;
    r->start_us = server_now_us();
    r->body = buf_make((size_t)s->o->max_body_bytes);
    r->out =
        buf_make((size_t)1 << 30); /* bounds what a whole answer may be; streams have their own */
    server_make_id(s, r->id);
    s->n_requests++;
    return r;
}

static void drop_body(struct request *r)
{
    r->s->body_bytes -= r->body.n;
    buf_free(&r->body);
}

static void request_free(struct request *r)
{
    struct server *s = r->s;
    generate_release(r);
    file_io_release(r);
    recording_drop(&r->rec);
    drop_body(r);
    api_response_free(r->resp);
    api_request_free(r->api);
    arena_free(&r->arena);
    buf_free(&r->out);
    free(r->held);
    free(r);
    s->n_requests--;
    server_check_idle(s);
}

/* ------------------------------------------------------------------ stage 1: headers */

struct header_list {
    struct gate_header v[GATE_HEADERS_MAX];
    int n;         /* may be one more than fits */
    uintptr_t at;  /* where the next name begins if the line before it ended in CR LF */
    bool is_whole; /* so far every name did */
};

static enum MHD_Result take_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                   size_t n_name, const char *value, size_t n_value)
{
    (void)kind;
    struct header_list *l = cls;
    if ((uintptr_t)name != l->at) l->is_whole = false;
    l->at = (uintptr_t)value + n_value + 2;
    if (l->n < GATE_HEADERS_MAX)
        l->v[l->n] =
            (struct gate_header){{name, n_name}, {value ? value : "", value ? n_value : 0}};
    return l->n++ < GATE_HEADERS_MAX ? MHD_YES : MHD_NO;
}

/* MHD 0.9.75 ends a line at a bare LF, cuts it at a NUL and joins folded ones, and says nothing.
 * But it parses in place: names and values are the request's own bytes, so each name must begin two
 * bytes after the value before it, and the last value end four bytes before the end. Anything else
 * is one of the three. Other versions of MHD may copy, and are not asked. */
static int check_lines(struct MHD_Connection *mhd, const char *method, const struct header_list *l,
                       struct sl_error *e)
{
    static int in_place = -1; /* io thread; decided once */
    if (in_place < 0) in_place = strcmp(MHD_get_version(), "0.9.75") == 0;
    if (!in_place || l->n > GATE_HEADERS_MAX) return 0;
    size_t n = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE)->header_size;
    if (l->is_whole && l->at + 2 == (uintptr_t)method + n) return 0;
    return sl_fail(e, SL_EINVAL,
                   "malformed header line: every line ends in CR LF, without NUL or folding");
}

/* Copies what outlives the headers: origin and the client's own id. */
static void remember(struct request *r)
{
    const struct gate_facts *f = &r->facts;
    struct str allowed = cors_origin(&r->s->cors, f->origin, f->host);
    if (allowed.n && allowed.n < sizeof r->origin) {
        memcpy(r->origin, allowed.p, allowed.n);
        r->allow_origin = (struct str){r->origin, allowed.n};
    }
    if (f->request_id.n == 0 || f->request_id.n > 128) return;
    for (size_t i = 0; i < f->request_id.n; i++)
        if (f->request_id.p[i] <= ' ' || f->request_id.p[i] > '~') return;
    memcpy(r->client_id, f->request_id.p, f->request_id.n);
}

static int check_media(const struct gate_facts *f, struct sl_error *e)
{
    static const char *const forms[] = {"multipart/form-data", "application/x-www-form-urlencoded"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        size_t n = strlen(forms[i]);
        if (f->content_type.n >= n && strncasecmp(f->content_type.p, forms[i], n) == 0)
            return sl_fail(e, SL_EMEDIA,
                           "Content-Type %s is not supported here: send application/json",
                           forms[i]);
    }
    if (f->content_encoding.n && !gate_same(f->content_encoding, "identity"))
        return sl_fail(e, SL_EMEDIA, "Content-Encoding is not supported: send the body as it is");
    return 0;
}

static int check_phase(const struct server *s, struct sl_error *e)
{
    switch (s->phase) {
    case SERVER_LOADING:
        return sl_fail(e, SL_ELOADING, "The model is still loading.");
    case SERVER_DRAINING:
        return sl_fail(e, SL_EDRAINING, "The server is shutting down.");
    case SERVER_FAILED:
        return sl_fail(e, SL_EDEVICE, "The engine has failed; the server restarts.");
    case SERVER_READY:
        break;
    }
    return 0;
}

/* Everything that headers alone decide, in order; 0 or a code with r->err set. */
static int check_headers(struct request *r, struct str method, struct str url,
                         const struct gate_facts *f)
{
    struct server *s = r->s;
    struct sl_error *e = &r->err;
    bool no_keys = !auth_has_keys(s->auth);
    if (s->n_conns > s->o->max_connections) {
        r->must_close = true;
        return sl_fail(e, SL_EOVERLOAD, "too many open connections");
    }
    if (s->is_local && no_keys && !s->o->uds && !s->o->allowed_origins.n &&
        !gate_host_is_local(f->host, s->o->host))
        return sl_fail(e, SL_EINVAL, "this Host is not served here (see --allowed-origins)");
    int found = route_find(&r->match, method, url, e);
    r->route = r->match.route;
    r->allow = r->match.allow;
    TRY(found);
    if (r->route->guard == GUARD_KEY ||
        (r->route->guard == GUARD_METRICS && s->o->api_key_metrics)) {
        r->key = auth_check(s->auth, f, e);
        TRY(r->key);
        TRY(auth_scope(s->auth, r->key, r->route->path, e));
        bool is_metered = r->route->needs_model && r->route->method[0] == 'P';
        if (is_metered) TRY(limits_request(s->limits, r->key, &r->retry_s, e));
    }
    if (r->route->needs_model) TRY(check_phase(s, e));
    if (upload_is_route(r->route)) return upload_begin(r);
    if (r->route->method[0] == 'P') TRY(check_media(f, e));
    if (f->content_length > s->o->max_body_bytes)
        return sl_fail(e, SL_ETOOLARGE, "the request body is larger than %lld bytes",
                       (long long)s->o->max_body_bytes);
    return 0;
}

static enum MHD_Result begin(struct request *r, const char *url, const char *method,
                             const char *version)
{
    struct server *s = r->s;
    struct header_list headers;
    struct gate_facts *f = &r->facts;
    headers.n = 0; /* the array itself stays as it is: 3 KiB */
    headers.is_whole = true;
    headers.at = (uintptr_t)version + strlen(version) + 2;
    MHD_get_connection_values_n(r->conn->mhd, MHD_HEADER_KIND, take_header, &headers);
    int code = gate_check(f, str_of(version), headers.v, headers.n, &r->err);
    if (code == 0) code = check_lines(r->conn->mhd, method, &headers, &r->err);
    if (code == SL_EHEADERS) { /* MHD may have no memory left to answer with */
        conn_reject(s, r->conn, &r->err);
        return MHD_NO;
    }
    if (code < 0) { /* what follows the headers cannot be trusted: nothing more is read */
        r->must_close = true;
        conn_set_phase(s, r->conn, CONN_WRITE, 0);
        return answer_error(r);
    }
    remember(r);
    conn_set_phase(s, r->conn, CONN_BODY, f->content_length > 0 ? (uint64_t)f->content_length : 0);
    r->stage = STAGE_BODY;
    r->is_preflight = strcmp(method, "OPTIONS") == 0;
    code = r->is_preflight ? 0 : check_headers(r, str_of(method), str_of(url), f);
    if (code == 0) return MHD_YES;
    bool has_body = f->is_chunked || f->content_length > 0;
    bool is_hopeless = f->content_length > s->o->max_body_bytes + SWALLOW_EXTRA;
    if (code == SL_ETOOLARGE) r->must_close = true;
    if (has_body && (f->expect.n || is_hopeless)) {
        r->must_close = true;
        return answer_error(r);
    }
    return MHD_YES;
}

/* ------------------------------------------------------------------ body and work */

static enum MHD_Result take_body(struct request *r, const char *bytes, size_t n)
{
    struct server *s = r->s;
    if (r->err.code == 0 && r->io) {
        upload_take(r, bytes, n);
        return MHD_YES;
    }
    if (r->err.code == 0) {
        if (n > (size_t)s->o->max_body_bytes - r->body.n) {
            sl_fail(&r->err, SL_ETOOLARGE, "the request body is larger than %lld bytes",
                    (long long)s->o->max_body_bytes);
            r->must_close = true;
        } else if (s->body_bytes + n > (size_t)s->o->max_body_bytes * BODIES_TIMES) {
            sl_fail(&r->err, SL_EOVERLOAD, "too many request bodies at once");
        } else {
            buf_put(&r->body, bytes, n);
            s->body_bytes += n;
            return MHD_YES;
        }
        r->swallowed = r->body.n;
        drop_body(r);
    }
    r->swallowed += n;
    if (r->swallowed <= (size_t)s->o->max_body_bytes + SWALLOW_EXTRA) return MHD_YES;
    conn_reject(s, r->conn, &r->err);
    return MHD_NO;
}

static void run_work(uv_work_t *w)
{
    struct request *r = w->data;
    r->route->work(r);
}

static void after_work(uv_work_t *w, int status)
{
    (void)status;
    request_after_job(w->data);
}

void request_after_job(struct request *r)
{
    struct server *s = r->s;
    r->in_work = false;
    if (!r->conn && !r->line) {
        request_free(r);
        return;
    }
    request_resume(r);
    loop_drive(s);
}

/* ------------------------------------------------------------------ jobs of the store */

void request_store_job(struct request *r, void (*run)(struct store_job *j, struct db *db),
                       void (*done)(struct store_job *j))
{
    ASSERT(!r->in_work);
    r->in_work = true;
    r->job.run = run;
    r->job.done = done;
    store_submit(r->s->store, &r->job);
}

static void run_store(struct store_job *j, struct db *db)
{
    struct request *r = request_of_job(j);
    r->store_run(r, db);
}

static void after_store(struct store_job *j)
{
    request_after_job(request_of_job(j));
}

enum MHD_Result request_store(struct request *r, void (*run)(struct request *r, struct db *db),
                              enum MHD_Result (*then)(struct request *r))
{
    if (!r->s->store) {
        sl_fail(&r->err, SL_ENOSYS,
                "Files and batches need a folder to keep them in: start the server with "
                "--data-dir DIR.");
        return answer_error(r);
    }
    r->stage = STAGE_STORE;
    r->store_run = run;
    r->then = then;
    request_suspend(r);
    request_store_job(r, run_store, after_store);
    return MHD_YES;
}

static enum MHD_Result start_work(struct request *r)
{
    r->stage = STAGE_WORK;
    r->arena = arena_make(ARENA_BASE + ARENA_TIMES * r->body.n);
    if (!r->route->work) return r->route->finish(r);
    if (r->body.n <= POOL_BYTES && !r->line && !api_wants_form(buf_str(&r->body))) {
        r->route->work(r);
        return r->err.code ? answer_error(r) : r->route->finish(r);
    }
    r->in_work = true;
    r->work.data = r;
    request_suspend(r);
    uv_queue_work(&r->s->loop, &r->work, run_work, after_work);
    return MHD_YES;
}

/* The whole request is here, or a suspended one was resumed. */
static enum MHD_Result advance(struct request *r)
{
    if (r->is_gone) return MHD_NO;
    switch (r->stage) {
    case STAGE_BODY:
        conn_set_phase(r->s, r->conn, CONN_BUSY, 0);
        if (r->io) return upload_finish(r);
        if (r->err.code) return answer_error(r);
        return r->is_preflight ? answer_preflight(r) : start_work(r);
    case STAGE_WORK: /* back from the pool */
        drop_body(r);
        return r->err.code ? answer_error(r) : r->route->finish(r);
    case STAGE_ENGINE: /* complete, or failed */
        return r->err.code ? answer_error(r) : answer_body(r, 200, "application/json");
    case STAGE_STORE:
        return r->err.code ? answer_error(r) : r->then(r);
    case STAGE_HEADERS:
    case STAGE_ANSWER:
    case STAGE_STREAM:
        break;
    }
    return MHD_YES;
}

/* ------------------------------------------------------------------ a batch's line */

struct request *request_new_line(struct server *s, const struct route *route, int key,
                                 struct lane_line *line, struct str body)
{
    struct request *r = request_new(s, NULL);
    r->line = line;
    r->route = route;
    r->key = key;
    buf_put_str(&r->body, body);
    s->body_bytes += r->body.n;
    if (r->body.overflow)
        sl_fail(&r->err, SL_ETOOLARGE, "the request body is larger than %lld bytes",
                (long long)s->o->max_body_bytes);
    return r;
}

void request_start_line(struct request *r)
{
    if (r->err.code == 0) {
        start_work(r);
        return;
    }
    answer_error(r);
    lane_resumed(r->line);
}

bool request_advance_line(struct request *r)
{
    if (r->stage != STAGE_ANSWER && !r->is_gone) advance(r);
    return r->stage == STAGE_ANSWER || r->is_gone;
}

void request_end_line(struct request *r)
{
    ASSERT(!r->in_work);
    request_free(r);
}

enum MHD_Result request_handler(void *cls, struct MHD_Connection *mhd, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_size, void **con_cls)
{
    struct request *r = *con_cls;
    if (!r) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        *con_cls = r = request_new(cls, info->socket_context);
        return begin(r, url, method, version);
    }
    if (*upload_size) {
        size_t n = *upload_size;
        *upload_size = 0;
        return take_body(r, upload, n);
    }
    return advance(r);
}

void request_completed(void *cls, struct MHD_Connection *mhd, void **con_cls,
                       enum MHD_RequestTerminationCode code)
{
    (void)mhd;
    struct server *s = cls;
    struct request *r = *con_cls;
    *con_cls = NULL;
    if (!r) return;
    if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK) generate_leave(r);
    log_debug("http", "%s %s %s status %u in %.1f ms%s%s", r->id, r->route ? r->route->method : "-",
              r->route ? r->route->path : "-", r->status ? r->status : 499,
              (double)(server_now_us() - r->start_us) * 1e-3, r->client_id[0] ? " client id " : "",
              r->client_id);
    if (r->is_gone && !r->status)
        metrics_http(&s->metrics, r->route ? (int)(r->route - routes) : -1, 499);
    r->conn->req = NULL;
    conn_set_phase(s, r->conn, CONN_IDLE, 0);
    if (r->conn->has_left) shutdown(r->conn->fd, SHUT_RDWR); /* nobody is there to ask again */
    r->conn = NULL;
    r->is_suspended = false;
    r->is_gone = true;
    if (!r->in_work) request_free(r);
}
