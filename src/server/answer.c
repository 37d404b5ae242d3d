/* answer.c - from a request's state to a queued MHD response: status, headers, body. io thread.
 *
 * Every answer carries x-request-id and the CORS headers, errors included; every error has the JSON
 * body of the API. A whole answer's bytes are handed to MHD, which frees them.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "server/http_request.h"

static void add(struct MHD_Response *m, const char *name, const char *value)
{
    MHD_add_response_header(m, name, value);
}

static void add_limit(void *m, const char *name, const char *value)
{
    add(m, name, value);
}

static void add_common(struct request *r, struct MHD_Response *m)
{
    add(m, "x-request-id", r->id);
    if (r->client_id[0]) add(m, "x-client-request-id", r->client_id);
    if (r->allow_origin.n) {
        add(m, "Access-Control-Allow-Origin", r->origin);
        add(m, "Access-Control-Expose-Headers",
            "x-request-id, x-client-request-id, retry-after, openai-processing-ms, "
            "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
            "x-ratelimit-reset-requests, x-ratelimit-limit-tokens, "
            "x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens");
    }
    if (r->route && r->route->guard == GUARD_KEY && r->key >= 0)
        limits_headers(r->s->limits, r->key, m, add_limit);
    if (r->is_replayed) add(m, "x-cache", "hit");
    if (!str_is(r->allow_origin, "*")) add(m, "Vary", "Origin");
    bool is_ending = r->s->phase == SERVER_DRAINING || r->s->phase == SERVER_FAILED;
    if (r->must_close || is_ending) add(m, "Connection", "close");
}

static enum MHD_Result queue(struct request *r, unsigned status, struct MHD_Response *m,
                             uint64_t bytes)
{
    int route = r->route ? (int)(r->route - routes) : -1;
    if (!m) return MHD_NO;
    add_common(r, m);
    r->status = status;
    if (r->stage != STAGE_STREAM) {
        r->stage = STAGE_ANSWER;
        conn_set_phase(r->s, r->conn, CONN_WRITE, bytes);
    }
    metrics_http(&r->s->metrics, route, status);
    enum MHD_Result done = MHD_queue_response(r->conn->mhd, status, m);
    MHD_destroy_response(m);
    return done;
}

/* r->out becomes the body. */
static struct MHD_Response *response_of(struct request *r, const char *type)
{
    size_t n = r->out.n;
    struct MHD_Response *m =
        n ? MHD_create_response_from_buffer(n, r->out.p, MHD_RESPMEM_MUST_FREE)
          : MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
    if (m && n) r->out = buf_make(r->out.max); /* MHD frees the bytes now */
    if (m && type) add(m, "Content-Type", type);
    return m;
}

/* A batch's line: what would be sent stays in r->out, for the lane to take. */
static enum MHD_Result answer_line(struct request *r, unsigned status)
{
    r->status = status;
    r->stage = STAGE_ANSWER;
    return MHD_YES;
}

enum MHD_Result answer_body(struct request *r, unsigned status, const char *type)
{
    char text[24];
    if (r->out.overflow) {
        sl_fail(&r->err, SL_EINTERNAL, "the answer is too large");
        return answer_error(r);
    }
    if (r->line) return answer_line(r, status);
    size_t n = r->out.n;
    struct MHD_Response *m = response_of(r, type);
    if (m && r->route && r->route->method[0] == 'P') {
        snprintf(text, sizeof text, "%llu",
                 (unsigned long long)(server_now_us() - r->start_us) / 1000);
        add(m, "openai-processing-ms", text);
    }
    return queue(r, status, m, n);
}

enum MHD_Result answer_constant(struct request *r, const void *bytes, size_t n,
                                const struct answer_header *headers, int n_headers)
{
    struct MHD_Response *m =
        MHD_create_response_from_buffer(n, (void *)(uintptr_t)bytes, MHD_RESPMEM_PERSISTENT);
    for (int i = 0; m && i < n_headers; i++) add(m, headers[i].name, headers[i].value);
    return queue(r, 200, m, n);
}

/* Seconds until another try makes sense; NULL: a retry cannot help. */
static const char *retry_after(int code)
{
    switch (code) {
    case SL_EBUSY:
    case SL_ERATE:
    case SL_EOVERLOAD:
        return "1";
    case SL_ELOADING:
        return "5";
    case SL_EDRAINING:
        return "10";
    case SL_EQUOTA: /* not within an answer's patience */
        return NULL;
    default:
        return sl_err_status(code) == 503 || sl_err_status(code) == 429 ? "5" : NULL;
    }
}

enum MHD_Result answer_error(struct request *r)
{
    int code = r->err.code;
    enum api_kind kind = r->route ? r->route->kind : API_CHAT;
    unsigned status = (unsigned)api_error_status_as(kind, &r->err);
    buf_free(&r->out);
    r->out = buf_make((size_t)1 << 20);
    api_error_body_as(kind, &r->err, &r->out);
    if (r->line) return answer_line(r, status);
    size_t n = r->out.n;
    struct MHD_Response *m = response_of(r, "application/json");
    char seconds[16];
    const char *retry = retry_after(code);
    snprintf(seconds, sizeof seconds, "%d", r->retry_s);
    if (m && retry) add(m, "Retry-After", r->retry_s ? seconds : retry);
    if (m && (code == SL_EQUOTA || r->no_retry)) add(m, "x-should-retry", "false");
    if (m && status == 401) add(m, "WWW-Authenticate", "Bearer");
    if (m && r->allow) add(m, "Allow", r->allow);
    if (status >= 500 && status != 503)
        log_warn("http", "%s %s: %u %s", r->id, r->route ? r->route->path : "-", status,
                 r->err.text);
    return queue(r, status, m, n);
}

/* A header value from a client, cut to what is printable and short. */
static void copy_value(char *out, size_t max, struct str v)
{
    size_t n = v.n < max - 1 ? v.n : max - 1;
    for (size_t i = 0; i < n; i++) out[i] = v.p[i] >= ' ' && v.p[i] <= '~' ? v.p[i] : ' ';
    out[n] = '\0';
}

enum MHD_Result answer_preflight(struct request *r)
{
    const struct gate_facts *f = &r->facts;
    char wanted[2048];
    struct MHD_Response *m =
        MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
    if (!m) return MHD_NO;
    add(m, "Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS");
    copy_value(wanted, sizeof wanted, f->ask_headers);
    add(m, "Access-Control-Allow-Headers", wanted[0] ? wanted : "Authorization, Content-Type");
    add(m, "Access-Control-Max-Age", "86400");
    if (gate_same(f->ask_private, "true")) add(m, "Access-Control-Allow-Private-Network", "true");
    return queue(r, MHD_HTTP_NO_CONTENT, m, 0);
}

enum MHD_Result answer_content(struct request *r, uint64_t bytes, MHD_ContentReaderCallback reader)
{
    enum { BLOCK = 65536 };
    struct MHD_Response *m = MHD_create_response_from_callback(bytes, BLOCK, reader, r, NULL);
    if (m) add(m, "Content-Type", "application/octet-stream");
    return queue(r, 200, m, bytes);
}

enum MHD_Result answer_stream(struct request *r, MHD_ContentReaderCallback reader)
{
    enum { BLOCK = 4096 }; /* used by HTTP/1.0 clients only; chunks are written in place */
    struct MHD_Response *m =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, reader, r, NULL);
    if (m) {
        add(m, "Content-Type", "text/event-stream; charset=utf-8");
        add(m, "Cache-Control", "no-cache");
        add(m, "X-Accel-Buffering", "no");
    }
    return queue(r, 200, m, 0);
}
