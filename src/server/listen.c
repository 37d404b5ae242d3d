/* listen.c - the listening socket: TCP on IPv4 or IPv6, or a unix socket that only its owner may
 * use.
 *
 * Options set here are inherited by accepted sockets: no Nagle, keep-alive probes, and 30 s until
 * unacknowledged data counts as a dead peer (clients behind a NAT that forgot them send nothing at
 * all).
 */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/serve.h"

enum { BACKLOG = 4096, PROBE_IDLE_S = 60, PROBE_EVERY_S = 10, PROBES = 3, UNACKED_MS = 30000 };

static void set(int fd, int level, int name, int value)
{
    setsockopt(fd, level, name, &value,
               sizeof value); /* a refused tuning option is no reason to stop */
}

static bool is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, a, sizeof v4);
        return ntohl(v4.sin_addr.s_addr) >> 24 == 127;
    }
    struct sockaddr_in6 v6;
    memcpy(&v6, a, sizeof v6);
    return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
}

static int bind_failed(const struct server *s, int error, struct sl_error *e)
{
    if (error == EADDRINUSE)
        return sl_fail(
            e, SL_EIO,
            "port %d of %.80s is in use: another server runs there; stop it or choose --port",
            s->port, s->o->host);
    if (error == EACCES)
        return sl_fail(e, SL_EIO, "no permission for port %d: choose --port 1024 or above",
                       s->port);
    return sl_fail(e, SL_EIO, "cannot listen on %.80s port %d: %s", s->o->host, s->port,
                   strerror(error));
}

static int open_tcp(struct server *s, struct sl_error *e)
{
    char port[16];
    struct addrinfo *list,
        hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    snprintf(port, sizeof port, "%d", s->port);
    const char *host = s->o->host[0] ? s->o->host : NULL;
    int error = getaddrinfo(host, port, &hints, &list);
    if (error) return sl_fail(e, SL_EINVAL, "--host %.100s: %s", s->o->host, gai_strerror(error));
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        error = errno;
        freeaddrinfo(list);
        return bind_failed(s, error, e);
    }
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, PROBE_IDLE_S);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, PROBE_EVERY_S);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, PROBES);
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKED_MS);
    if (list->ai_family == AF_INET6) set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    s->is_local = is_loopback(list->ai_addr);
    error = bind(fd, list->ai_addr, list->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0 ? errno : 0;
    freeaddrinfo(list);
    if (error) {
        close(fd);
        return bind_failed(s, error, e);
    }
    struct sockaddr_in6 bound = {0};
    socklen_t n = sizeof bound;
    if (getsockname(fd, (struct sockaddr *)(void *)&bound, &n) == 0)
        s->port = ntohs(bound.sin6_port);
    s->listen_fd = fd;
    return 0;
}

/* A socket file that nobody answers on is left over from a crash and goes. */
static bool is_stale(const struct sockaddr_un *a)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool refused = fd >= 0 &&
                   connect(fd, (const struct sockaddr *)(const void *)a, sizeof *a) < 0 &&
                   errno == ECONNREFUSED;
    if (fd >= 0) close(fd);
    return refused;
}

static int open_unix(struct server *s, struct sl_error *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(s->o->uds) >= sizeof a.sun_path)
        return sl_fail(e, SL_EINVAL, "--uds: the path is longer than %zu bytes",
                       sizeof a.sun_path - 1);
    memcpy(a.sun_path, s->o->uds, strlen(s->o->uds) + 1);
    if (is_stale(&a)) unlink(a.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    mode_t before = umask(0177); /* mode 0600 from the first moment */
    int error =
        fd < 0 || bind(fd, (struct sockaddr *)(void *)&a, sizeof a) < 0 || listen(fd, BACKLOG) < 0
            ? errno
            : 0;
    umask(before);
    if (error) {
        if (fd >= 0) close(fd);
        return sl_fail(e, SL_EIO, "cannot listen on %.120s: %s", s->o->uds,
                       error == EADDRINUSE ? "another server uses it" : strerror(error));
    }
    s->is_local = true;
    s->listen_fd = fd;
    return 0;
}

int listen_open(struct server *s, struct sl_error *e)
{
    s->port = (int)s->o->port;
    return s->o->uds ? open_unix(s, e) : open_tcp(s, e);
}

void listen_close(struct server *s)
{
    if (s->listen_fd < 0) return;
    close(s->listen_fd);
    s->listen_fd = -1;
    if (s->o->uds) unlink(s->o->uds);
}

void listen_url(const struct server *s, char *out, size_t max)
{
    const char *host = s->o->host;
    if (s->o->uds)
        snprintf(out, max, "http://localhost");
    else if (!host[0] || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0)
        snprintf(out, max, "http://localhost:%d", s->port);
    else
        snprintf(out, max, strchr(host, ':') ? "http://[%s]:%d" : "http://%s:%d", host, s->port);
}
