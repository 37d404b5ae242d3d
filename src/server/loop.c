/* loop.c - libmicrohttpd in external epoll mode on the uv loop.
 *
 * MHD's epoll set is edge-triggered inside: what one MHD_run leaves undone raises no new event. So
 * after every run its timeout is asked; 0 means run again (a few times, then let the loop turn),
 * more arms one timer. MHD's own time limits are off: deadlines.c has absolute ones.
 */
#include <stdarg.h>
#include <stdio.h>

#include "base/log.h"
#include "server/http_request.h"

enum {
    RUNS = 8, /* of MHD before the loop turns */
    /* Of one connection: headers, and the pieces of bodies and streams. MHD clears all of it after
     * each request and keeps it: 64 KiB take 3.7 of the io thread's 28 us, and that much memory; it
     * is what 60 KiB of headers need. */
    POOL_BYTES = 65536,
    SPARE_CONNS = 256, /* accepted beyond max_connections to be told 503 */
};

static void on_timer(uv_timer_t *t)
{
    loop_drive(t->data);
}

static void drive_mhd(struct server *s)
{
    MHD_UNSIGNED_LONG_LONG ms = 0;
    for (int i = 0; i < RUNS; i++) {
        MHD_run(s->mhd);
        if (MHD_get_timeout(s->mhd, &ms) != MHD_YES) {
            uv_timer_stop(&s->mhd_timer);
            return;
        }
        if (ms) break;
    }
    uv_timer_start(&s->mhd_timer, on_timer, ms, 0);
}

void loop_drive(struct server *s)
{
    if (s->mhd) drive_mhd(s);
    lane_drive(s->lane);
}

static void on_readable(uv_poll_t *h, int status, int events)
{
    (void)status, (void)events;
    loop_drive(h->data);
}

__attribute__((format(printf, 2, 0))) static void log_mhd(void *cls, const char *fmt, va_list ap)
{
    (void)cls;
    if (!log_on(LOG_DEBUG)) return;
    char text[512];
    vsnprintf(text, sizeof text, fmt, ap);
    text[strcspn(text, "\n")] = '\0';
    log_debug("mhd", "%s", text);
}

/* Percent signs stay: routes.c decodes what it takes, so that %00 and %2F mean nothing to MHD. */
static size_t keep_escapes(void *cls, struct MHD_Connection *c, char *text)
{
    (void)cls, (void)c;
    return strlen(text);
}

int loop_open(struct server *s, struct sl_error *e)
{
    unsigned limit = (unsigned)s->o->max_connections + SPARE_CONNS;
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    struct MHD_OptionItem listen[] = {{MHD_OPTION_LISTEN_SOCKET, s->listen_fd, NULL},
                                      {MHD_OPTION_END, 0, NULL}};
    if (s->listen_fd < 0) { /* the fuzzer adds its connections itself */
        flags |= MHD_USE_NO_LISTEN_SOCKET;
        listen[0] = listen[1];
    }
    s->mhd = MHD_start_daemon(
        flags, 0, NULL, NULL, request_handler, s, MHD_OPTION_EXTERNAL_LOGGER, log_mhd, NULL,
        MHD_OPTION_ARRAY, listen, MHD_OPTION_CONNECTION_LIMIT, limit,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL_BYTES, MHD_OPTION_CONNECTION_TIMEOUT, 0u,
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_NOTIFY_COMPLETED, request_completed, s,
        MHD_OPTION_NOTIFY_CONNECTION, conn_notify, s, MHD_OPTION_URI_LOG_CALLBACK,
        conn_request_line, s, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL, MHD_OPTION_END);
    if (!s->mhd) return sl_fail(e, SL_EIO, "libmicrohttpd did not start");
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    uv_timer_init(&s->loop, &s->mhd_timer);
    uv_poll_init(&s->loop, &s->mhd_poll, info->epoll_fd);
    s->mhd_timer.data = s->mhd_poll.data = s;
    uv_poll_start(&s->mhd_poll, UV_READABLE, on_readable);
    loop_drive(s);
    return 0;
}

void loop_close(struct server *s)
{
    if (!s->mhd) return;
    struct conn *c;
    TAILQ_FOREACH(c, &s->conns, link) /* stopping with a suspended connection is not allowed */
    {
        if (!c->req) continue;
        generate_leave(c->req);
        request_resume(c->req);
    }
    loop_drive(s);
    lane_stop(s->lane);
    struct MHD_Daemon *d = s->mhd;
    uv_poll_stop(&s->mhd_poll);
    uv_timer_stop(&s->mhd_timer);
    s->mhd = NULL;
    MHD_stop_daemon(d);
    while (s->n_requests) uv_run(&s->loop, UV_RUN_ONCE); /* pool threads end the last ones */
}
