/* target.c - address, request heads, and blocking calls with a deadline. */
#include "bench/target.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/json.h"
#include "bench/bench.h"
#include "bench/http_reader.h"

enum { HEADERS_MAX = 1 << 16, BODY_MAX = 64 << 20 };

/* ------------------------------------------------------------------ address */

/* http://HOST[:PORT][/PREFIX], HOST perhaps [v6] */
static int read_url(struct target *t, const char *url, struct sl_error *e)
{
    if (strncmp(url, "http://", 7) != 0)
        return sl_fail(e, SL_EINVAL, "--base-url begins with http:// (there is no TLS here)");
    const char *p = url + 7, *path = strchr(p, '/'), *end = path ? path : p + strlen(p);
    const char *close = *p == '[' ? memchr(p, ']', (size_t)(end - p)) : NULL;
    const char *colon = memchr(close ? close : p, ':', (size_t)(end - (close ? close : p)));
    const char *host = close ? p + 1 : p, *host_end = close ? close : colon ? colon : end;
    snprintf(t->host, sizeof t->host, "%.*s", (int)(host_end - host), host);
    t->port = colon ? (int)strtol(colon + 1, NULL, 10) : 80;
    if (path) snprintf(t->prefix, sizeof t->prefix, "%s", path);
    size_t n = strlen(t->prefix);
    while (n && t->prefix[n - 1] == '/') t->prefix[--n] = '\0';
    if (n >= 3 && strcmp(t->prefix + n - 3, "/v1") == 0) t->prefix[n - 3] = '\0';
    if (!t->host[0] || t->port < 1 || t->port > 65535)
        return sl_fail(e, SL_EINVAL, "\"%.100s\" is no address", url);
    return 0;
}

/* IPv4 where the name has it: "localhost" is both, and servers listen on 127.0.0.1. */
static int resolve(struct target *t, struct sl_error *e)
{
    struct addrinfo v4 = {.ai_socktype = SOCK_STREAM, .ai_family = AF_INET},
                    any = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    char port[16];
    snprintf(port, sizeof port, "%d", t->port);
    int code = getaddrinfo(t->host, port, &v4, &found);
    if (code != 0) code = getaddrinfo(t->host, port, &any, &found);
    if (code != 0 || !found)
        return sl_fail(e, SL_EIO, "cannot resolve %s: %s", t->host, gai_strerror(code));
    memcpy(&t->addr, found->ai_addr, found->ai_addrlen);
    t->addr_len = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

int target_open(struct target *t, const struct serve_args *a, struct sl_error *e)
{
    *t = (struct target){.headers = buf_make(HEADERS_MAX), .port = (int)a->port};
    snprintf(t->host, sizeof t->host, "%s", a->host);
    if (a->base_url) TRY(read_url(t, a->base_url, e));
    TRY(resolve(t, e));
    bool is_v6 = strchr(t->host, ':') != NULL;
    buf_printf(&t->headers, "Host: %s%s%s:%d\r\n", is_v6 ? "[" : "", t->host, is_v6 ? "]" : "",
               t->port);
    if (a->api_key) buf_printf(&t->headers, "Authorization: Bearer %s\r\n", a->api_key);
    for (int i = 0; i < a->header.n; i++) {
        if (!strchr(a->header.v[i], ':') || strpbrk(a->header.v[i], "\r\n"))
            return sl_fail(e, SL_EINVAL, "--header is \"Name: value\"");
        buf_printf(&t->headers, "%s\r\n", a->header.v[i]);
    }
    return 0;
}

void target_close(struct target *t)
{
    buf_free(&t->headers);
}

int target_connect(const struct target *t)
{
    int fd = socket(t->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0) return SL_EIO;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (const struct sockaddr *)&t->addr, t->addr_len) == 0 || errno == EINPROGRESS)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return SL_EIO;
}

void target_put_head(const struct target *t, struct buf *out, const char *method, const char *path,
                     size_t n)
{
    buf_printf(out, "%s %s%s HTTP/1.1\r\n", method, t->prefix, path);
    buf_put_str(out, buf_str(&t->headers));
    if (n) buf_printf(out, "Content-Type: application/json\r\nContent-Length: %zu\r\n", n);
    buf_puts(out, "\r\n");
}

/* ------------------------------------------------------------------ one call */

static void take_body(void *arg, const char *p, size_t n)
{
    buf_put(arg, p, n);
}

/* Wait for the events until the deadline. */
static int wait_for(int fd, short events, double deadline, struct sl_error *e)
{
    struct pollfd p = {.fd = fd, .events = events};
    double left = deadline - bench_now();
    int code = left > 0 ? poll(&p, 1, (int)(left * 1e3) + 1) : 0;
    if (code > 0 || (code < 0 && errno == EINTR)) return 0;
    return sl_fail(e, SL_EDEADLINE, "the server does not answer in time");
}

static int send_all(int fd, const struct buf *b, double deadline, struct sl_error *e)
{
    for (size_t at = 0; at < b->n;) {
        TRY(wait_for(fd, POLLOUT, deadline, e));
        ssize_t n = send(fd, b->p + at, b->n - at, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return sl_fail(e, SL_EIO, "cannot reach the server: %s", strerror(errno));
        if (n > 0) at += (size_t)n;
    }
    return 0;
}

static int receive(int fd, struct buf *out, double deadline, struct sl_error *e)
{
    char piece[16384];
    struct http_reader *r = xmalloc(sizeof *r);
    enum http_outcome done = HTTP_MORE;
    int code = 0;
    http_reader_init(r);
    while (done == HTTP_MORE && (code = wait_for(fd, POLLIN, deadline, e)) == 0) {
        size_t used;
        ssize_t n = recv(fd, piece, sizeof piece, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n < 0) {
            code = sl_fail(e, SL_EIO, "cannot reach the server: %s", strerror(errno));
            break;
        }
        done =
            n ? http_reader_feed(r, piece, (size_t)n, take_body, out, &used) : http_reader_end(r);
    }
    if (done == HTTP_BAD) code = sl_fail(e, SL_EFORMAT, "not an HTTP answer: %s", r->why);
    if (code == 0) code = r->status;
    free(r);
    return code;
}

int target_call(const struct target *t, const char *path, const struct buf *body, double seconds,
                struct buf *out, struct sl_error *e)
{
    struct buf q = buf_make(BODY_MAX);
    double deadline = bench_now() + seconds;
    *out = buf_make(BODY_MAX);
    int fd = target_connect(t);
    if (fd < 0) return sl_fail(e, SL_EIO, "cannot reach the server: %s", strerror(errno));
    target_put_head(t, &q, body ? "POST" : "GET", path, body ? body->n : 0);
    if (body) buf_put_str(&q, buf_str(body));
    int code = send_all(fd, &q, deadline, e);
    if (code == 0) code = receive(fd, out, deadline, e);
    close(fd);
    buf_free(&q);
    return code;
}

/* ------------------------------------------------------------------ /v1/models */

static int64_t int_of(const json_node *v)
{
    return json_type(v) == JSON_INT ? json_int(v) : 0;
}

int target_ask(const struct target *t, double seconds, struct target_facts *f, struct sl_error *e)
{
    struct buf out;
    struct json_doc *doc;
    *f = (struct target_facts){0};
    int status = target_call(t, "/v1/models", NULL, seconds, &out, e);
    if (status == 200 && json_parse(&doc, out.p, out.n, &json_limits_file, e) == 0) {
        const json_node *first = json_child(json_opt(json_root(doc), "data"));
        const json_node *id = json_opt(first, "id");
        if (json_type(id) == JSON_STR)
            snprintf(f->model, sizeof f->model, "%.*s", (int)json_str(id).n, json_str(id).p);
        f->max_model_len = int_of(json_opt(first, "max_model_len"));
        f->n_vocab = int_of(json_opt(json_opt(first, "meta"), "n_vocab"));
        json_free(doc);
    }
    buf_free(&out);
    if (status < 0) return status;
    return status == 200 ? 0 : sl_fail(e, SL_EIO, "/v1/models answers with status %d", status);
}
