/* deadlines.c - every connection, and an absolute deadline for each phase of it.
 *
 * MHD's own timeout restarts at every byte, so a client that sends one byte a second holds a
 * connection for ever. Ours do not restart: headers, body and idling each have their time, counted
 * from their beginning; a queued answer has write_timeout and a second for each 64 KiB. One walk
 * over the list a second is enough: 12,000 connections cost it some 50 us.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "server/http_request.h"

enum { FLOOR_BYTES = 65536 }; /* a second: the slowest peer that is waited for */

void conn_set_phase(struct server *s, struct conn *c, enum conn_phase phase, uint64_t bytes)
{
    const struct options *o = s->o;
    uint64_t now = uv_now(&s->loop), extra = bytes / FLOOR_BYTES;
    uint64_t seconds = 0;
    switch (phase) {
    case CONN_NEW:
    case CONN_HEAD:
        seconds = (uint64_t)o->header_timeout;
        break;
    case CONN_BODY:
        seconds = (uint64_t)o->body_timeout + extra;
        break;
    case CONN_BUSY:
        break;
    case CONN_WRITE:
        seconds = (uint64_t)o->write_timeout + extra;
        break;
    case CONN_IDLE:
        seconds = (uint64_t)o->idle_timeout;
        break;
    }
    c->phase = phase;
    c->expires_ms = seconds ? now + seconds * 1000 : 0;
}

void conn_notify(void *cls, struct MHD_Connection *mhd, void **context,
                 enum MHD_ConnectionNotificationCode code)
{
    struct server *s = cls;
    struct conn *c = *context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        c = xcalloc(1, sizeof *c);
        c->mhd = mhd;
        c->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        *context = c;
        conn_set_phase(s, c, CONN_NEW, 0);
        TAILQ_INSERT_TAIL(&s->conns, c, link);
        s->n_conns++;
        watch_add(s, c);
        return;
    }
    if (!c) return;
    watch_remove(s, c);
    if (c->has_left) TAILQ_REMOVE(&s->leaving, c, leaving_link);
    TAILQ_REMOVE(&s->conns, c, link);
    s->n_conns--;
    free(c);
    *context = NULL;
}

/* MHD's hook on a complete request line: the header deadline starts. Returns the handler's first
 * context. */
void *conn_request_line(void *cls, const char *uri, struct MHD_Connection *mhd)
{
    (void)uri;
    struct conn *c =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    if (c->phase == CONN_NEW) /* its header deadline runs since accept */
        c->phase = CONN_HEAD;
    else
        conn_set_phase(cls, c, CONN_HEAD, 0);
    return NULL;
}

void conn_reject(struct server *s, struct conn *c, const struct sl_error *err)
{
    struct buf body = buf_make(4096), all = buf_make(8192);
    char id[REQUEST_ID_BYTES];
    server_make_id(s, id);
    api_error_body(err, &body);
    buf_printf(&all,
               "HTTP/1.1 %d Error\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
               "x-request-id: %s\r\nConnection: close\r\n\r\n",
               sl_err_status(err->code), body.n, c->req ? c->req->id : id);
    buf_put_str(&all, buf_str(&body));
    ssize_t sent = send(c->fd, all.p, all.n, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)sent; /* a courtesy: the connection ends either way */
    shutdown(c->fd, SHUT_RDWR);
    if (c->req) c->req->status = (unsigned)sl_err_status(err->code);
    int route = c->req && c->req->route ? (int)(c->req->route - routes) : -1;
    metrics_http(&s->metrics, route, (unsigned)sl_err_status(err->code));
    buf_free(&body);
    buf_free(&all);
}

static void expire(struct server *s, struct conn *c)
{
    struct sl_error e;
    c->expires_ms = 0;
    switch (c->phase) {
    case CONN_HEAD:
        sl_fail(&e, SL_ETIMEDOUT_RX, "the request headers took longer than %lld seconds",
                (long long)s->o->header_timeout);
        conn_reject(s, c, &e);
        break;
    case CONN_BODY:
        sl_fail(&e, SL_ETIMEDOUT_RX, "the request body did not arrive in time");
        conn_reject(s, c, &e);
        break;
    case CONN_NEW:
    case CONN_IDLE:
    case CONN_WRITE:
        shutdown(c->fd, SHUT_RDWR);
        break;
    case CONN_BUSY:
        break;
    }
}

void deadlines_tick(struct server *s)
{
    struct conn *c;
    uint64_t now = uv_now(&s->loop);
    TAILQ_FOREACH(c, &s->conns, link)
    {
        if (c->expires_ms && now >= c->expires_ms) expire(s, c);
    }
}
