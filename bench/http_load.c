/* http_load.c - load the HTTP path: keep-alive connections that repeat one request, on one thread.
 *
 *   http_load --port P [--connections 64] [--seconds 5] [--tokens 64] [--plain]
 *
 * Streams by default and counts SSE events (`data:` lines); --plain sends non-streaming completions
 * and counts answers. Prints rates and the CPU share of this generator, so that one sees which side
 * was the limit. Meant for `sluice serve --device sim`; the server's own threads are the thing
 * measured.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 8192, TAIL = 24 };

struct connection {
    int fd;
    char tail[TAIL]; /* last bytes seen: a pattern may be cut between two reads */
    int n_tail;
};

static struct connection connections[CONNECTIONS_MAX];
static char request[1024];
static size_t n_request;
static bool plain;
static unsigned long long n_events, n_answers, n_bytes, n_errors;

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static int number(int argc, char **argv, const char *flag, int fallback)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], flag) == 0) return (int)strtol(argv[i + 1], NULL, 10);
    return fallback;
}

static void send_request(struct connection *c)
{
    if (send(c->fd, request, n_request, MSG_NOSIGNAL) != (ssize_t)n_request) n_errors++;
}

static int dial(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((unsigned short)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) < 0) return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* Occurrences of a pattern that end inside text[from..n). */
static int count(const char *text, size_t n, size_t from, const char *pattern)
{
    size_t len = strlen(pattern);
    int found = 0;
    for (const char *p = text; (p = memmem(p, n - (size_t)(p - text), pattern, len)); p += len)
        found += (size_t)(p - text) + len > from;
    return found;
}

/* One read: count what arrived; at the end of an answer ask again. */
static void on_readable(struct connection *c)
{
    static char text[TAIL + 65536];
    memcpy(text, c->tail, (size_t)c->n_tail);
    ssize_t got = recv(c->fd, text + c->n_tail, 65536, 0);
    if (got <= 0) {
        n_errors++;
        close(c->fd);
        c->fd = -1;
        return;
    }
    size_t from = (size_t)c->n_tail, n = from + (size_t)got;
    n_bytes += (size_t)got;
    if (!plain) n_events += (unsigned)count(text, n, from, "data: ");
    int ended =
        plain ? count(text, n, from, "total_tokens") : count(text, n, from, "\r\n0\r\n\r\n");
    if (count(text, n, from, "{\"error\"")) n_errors++;
    c->n_tail = n < TAIL ? (int)n : TAIL;
    memcpy(c->tail, text + n - (size_t)c->n_tail, (size_t)c->n_tail);
    if (ended) {
        n_answers++;
        c->n_tail = 0;
        send_request(c);
    }
}

static int run(int n, int seconds, int port)
{
    int ep = epoll_create1(0);
    for (int i = 0; i < n; i++) {
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &connections[i]};
        connections[i].fd = dial(port);
        if (connections[i].fd < 0) return perror("connect"), EXIT_FAILURE;
        epoll_ctl(ep, EPOLL_CTL_ADD, connections[i].fd, &ev);
        send_request(&connections[i]);
    }
    double start = now(), cpu = cpu_seconds(), end = start + seconds;
    while (now() < end) {
        struct epoll_event ev[256];
        int ready = epoll_wait(ep, ev, 256, 100);
        for (int i = 0; i < ready; i++) on_readable(ev[i].data.ptr);
    }
    double took = now() - start;
    printf("%d connections, %.1f s: %.0f events/s, %.0f answers/s, %.1f MB/s, %llu errors; "
           "generator CPU %.0f %%\n",
           n, took, (double)n_events / took, (double)n_answers / took, (double)n_bytes / took / 1e6,
           n_errors, 100 * (cpu_seconds() - cpu) / took);
    return n_errors ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    int n = number(argc, argv, "--connections", 64), tokens = number(argc, argv, "--tokens", 64);
    int port = number(argc, argv, "--port", 8000);
    for (int i = 1; i < argc; i++) plain = plain || strcmp(argv[i], "--plain") == 0;
    if (n < 1 || n > CONNECTIONS_MAX) return EXIT_FAILURE;
    char body[256];
    int len = snprintf(body, sizeof body,
                       "{\"prompt\":\"hello\",\"max_tokens\":%d,\"ignore_eos\":true,\"stream\":%s}",
                       tokens, plain ? "false" : "true");
    n_request =
        (size_t)snprintf(request, sizeof request,
                         "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: "
                         "application/json\r\nContent-Length: %d\r\n\r\n%s",
                         len, body);
    return run(n, number(argc, argv, "--seconds", 5), port);
}
