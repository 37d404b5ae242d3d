/* watch.c - notices a client that goes away, at any stage, within a millisecond.
 *
 * MHD looks at no suspended connection, so a client that leaves while its request waits in the
 * queue or for tokens would hold KV pages to the end. An epoll set of our own holds every socket
 * from accept to close, edge-triggered for EPOLLRDHUP: one system call a connection, none a
 * request. Half-close counts as leaving (as in nginx). Not one uv_poll a socket: libuv 1.44 stops
 * such a watcher with UV_EBADF on a reset.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "server/http_request.h"

enum { EVENTS = 64 };

/* MHD has taken what there was to read. A request that is still not whole never will be, but after
 * a short read MHD's edge-triggered set may wait for an edge that was already there: make a new
 * one. */
static void close_leaving(struct server *s)
{
    struct conn *c;
    bool any = false;
    TAILQ_FOREACH(c, &s->leaving, leaving_link)
    {
        if (c->phase == CONN_BUSY || c->phase == CONN_WRITE) continue;
        shutdown(c->fd, SHUT_RDWR);
        any = true;
    }
    if (any) loop_drive(s);
}

static void on_watch(uv_poll_t *h, int status, int events)
{
    (void)status, (void)events;
    struct server *s = h->data;
    struct epoll_event ev[EVENTS];
    int n;
    do {
        n = epoll_wait(s->watch_fd, ev, EVENTS, 0);
        for (int i = 0; i < n;
             i++) { /* nothing here frees a connection: MHD runs only after the loop */
            struct conn *c = ev[i].data.ptr;
            if (!c->has_left) TAILQ_INSERT_TAIL(&s->leaving, c, leaving_link);
            c->has_left = true;
            if (c->req) generate_leave(c->req);
        }
    } while (n == EVENTS);
    loop_drive(s);
    close_leaving(s);
}

int watch_open(struct server *s, struct sl_error *e)
{
    s->watch_fd = epoll_create1(EPOLL_CLOEXEC);
    if (s->watch_fd < 0) return sl_fail(e, SL_EIO, "epoll: %s", strerror(errno));
    uv_poll_init(&s->loop, &s->watch_poll, s->watch_fd);
    s->watch_poll.data = s;
    uv_poll_start(&s->watch_poll, UV_READABLE, on_watch);
    return 0;
}

void watch_add(struct server *s, struct conn *c)
{
    struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(s->watch_fd, EPOLL_CTL_ADD, c->fd, &ev) < 0)
        log_warn("http", "cannot watch a connection: %s", strerror(errno));
}

void watch_remove(struct server *s, struct conn *c)
{
    epoll_ctl(s->watch_fd, EPOLL_CTL_DEL, c->fd, NULL); /* fails only when it was never added */
}

void watch_close(struct server *s)
{
    if (s->watch_fd >= 0) close(s->watch_fd);
    s->watch_fd = -1;
}
