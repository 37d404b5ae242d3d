/* load.c - the client's loop. See load.h.
 *
 * A request ends once, in finish(), with an outcome; whatever a server does, the loop goes on. A
 * kept-alive connection that the server closed before a byte of the answer came is no error of the
 * request's: it is sent once more on a fresh one.
 */
#include "bench/load.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/http_reader.h"
#include "bench/sse_reader.h"

enum {
    READ_BYTES = 1 << 17,
    READS_A_TURN = 4, /* of one connection before the others get theirs */
    EVENTS_A_TURN = 256,
    SCAN_MS = 100,       /* how often deadlines are looked at */
    BODY_MAX = 16 << 20, /* of an answer that is not streamed */
};
static const double START_DELAY = 0.02; /* for all threads to be there */

const char *const load_error_names[LOAD_ERRORS] = {
    "ok",       "connect",   "closed",    "timeout",    "http_status",
    "bad_http", "bad_event", "in_stream", "unfinished", "empty"};

struct stream {               /* a connection and the request on it */
    TAILQ_ENTRY(stream) link; /* in the list of idle or of active ones */
    int fd;
    bool is_active;
    bool is_reused, is_retry;  /* the connection served before; the request was sent before */
    bool has_bytes, has_chunk; /* of the answer */
    bool wants_out;            /* EPOLLOUT is on */
    size_t job, n_sent;
    double deadline;
    struct outcome *o;
    struct http_reader http;
    struct sse_reader sse;
    struct reply reply;
    struct buf body; /* owned: of an answer that is no stream */
};
TAILQ_HEAD(stream_list, stream);

struct client { /* one a thread */
    const struct load *l;
    struct load_result r; /* of this thread */
    pthread_t thread;
    int index;
    int share; /* requests in flight at most */
    int epoll, timer;
    struct stream_list idle, active;
    int n_active, n_decoding;
    size_t next;       /* the next job to send */
    double start;      /* of the clock */
    double free_since; /* when the first slot came free since all were taken; 0: none did */
    double now;        /* of the last recv, or of this turn */
    double full_since; /* since when all decode */
    double full_gaps, n_full_gaps; /* between two chunks of a stream while all decoded */
    char *bytes;                   /* owned [READ_BYTES] */
};

/* ------------------------------------------------------------------ connections */

static void watch(const struct client *c, struct stream *s, int op, bool wants_out)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | (wants_out ? EPOLLOUT : 0u),
                             .data.ptr = s};
    ASSERT(epoll_ctl(c->epoll, op, s->fd, &ev) == 0);
    s->wants_out = wants_out;
}

static bool open_connection(struct client *c, struct stream *s)
{
    s->fd = target_connect(c->l->target);
    if (s->fd < 0) return false;
    s->is_reused = false;
    watch(c, s, EPOLL_CTL_ADD, true);
    return true;
}

static void close_connection(struct stream *s)
{
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
}

static void stream_free(struct stream *s)
{
    close_connection(s);
    sse_reader_free(&s->sse);
    buf_free(&s->body);
    free(s);
}

/* A stream for a request: one that is kept alive, else a new one, not connected yet. */
static struct stream *stream_take(struct client *c)
{
    struct stream *s = TAILQ_FIRST(&c->idle);
    if (s) {
        TAILQ_REMOVE(&c->idle, s, link);
        s->is_reused = true;
    } else {
        s = xcalloc(1, sizeof *s);
        s->fd = -1;
        s->body = buf_make(BODY_MAX);
        sse_reader_init(&s->sse);
    }
    s->is_active = true;
    TAILQ_INSERT_TAIL(&c->active, s, link);
    if (++c->n_active > c->r.peak) c->r.peak = c->n_active;
    return s;
}

/* ------------------------------------------------------------------ the end of a request */

static void count_decoding(struct client *c, int change)
{
    bool was_full = c->n_decoding == c->share;
    c->n_decoding += change;
    if (was_full) c->r.full_seconds += c->now - c->full_since;
    c->full_since = c->now;
}

/* The connection stays for the next request if `keep`; else s is freed. */
static void finish(struct client *c, struct stream *s, enum load_error error, const char *what,
                   bool keep)
{
    char *example = c->r.example[error];
    s->o->error = (uint8_t)error;
    s->o->status = (uint16_t)s->http.status;
    s->o->prompt_tokens = s->reply.prompt_tokens;
    s->o->completion_tokens = s->reply.completion_tokens;
    s->o->cached_tokens = s->reply.cached_tokens;
    s->o->n_chunks = s->reply.n_chunks;
    if (error != LOAD_OK && !example[0]) snprintf(example, LOAD_TEXT_MAX, "%s", what);
    if (s->has_chunk) count_decoding(c, -1);
    TAILQ_REMOVE(&c->active, s, link);
    c->n_active--;
    if (c->free_since <= 0) c->free_since = c->now;
    s->is_active = false;
    if (keep)
        TAILQ_INSERT_HEAD(&c->idle, s, link);
    else
        stream_free(s);
}

static enum load_error verdict(const struct client *c, const struct stream *s, const char **what)
{
    bool is_kind = s->http.is_events == c->l->is_stream;
    *what = s->reply.error;
    if (s->http.status != 200) return LOAD_STATUS;
    if (s->reply.error[0]) return LOAD_IN_STREAM;
    *what = is_kind ? "not a JSON object, or too long" : "not the kind of answer asked for";
    if (s->reply.is_bad || s->sse.is_bad || !is_kind) return LOAD_BAD_EVENT;
    *what = "";
    if (!s->reply.is_done) return LOAD_UNFINISHED;
    return s->reply.n_chunks || s->reply.completion_tokens > 0 ? LOAD_OK : LOAD_EMPTY;
}

static bool is_event_body(const struct stream *s)
{
    return s->http.is_events && s->http.status == 200;
}

/* The HTTP answer is whole; bytes beyond it make the connection useless. */
static void complete(struct client *c, struct stream *s, bool has_more)
{
    char text[LOAD_TEXT_MAX];
    const char *what;
    if (!is_event_body(s)) {
        reply_body(&s->reply, buf_str(&s->body));
        s->reply.is_bad |= s->body.overflow;
    }
    if (!s->has_chunk) s->o->first = s->o->last = c->now - c->start; /* no text before the end */
    enum load_error error = verdict(c, s, &what);
    if (error == LOAD_STATUS)
        snprintf(text, sizeof text, "%d: %.150s", s->http.status, what);
    else
        snprintf(text, sizeof text, "%.150s", what);
    bool is_sent = s->n_sent == c->l->jobs[s->job].bytes.n;
    finish(c, s, error, text, is_sent && !s->http.is_closing && !has_more);
}

/* ------------------------------------------------------------------ sending */

static void send_some(struct client *c, struct stream *s)
{
    const struct buf *b = &c->l->jobs[s->job].bytes;
    while (s->n_sent < b->n) {
        ssize_t n = send(s->fd, b->p + s->n_sent, b->n - s->n_sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) break; /* no room yet; or broken, which reading will tell */
        s->n_sent += (size_t)n;
    }
    bool is_short = s->n_sent < b->n;
    if (is_short != s->wants_out) watch(c, s, EPOLL_CTL_MOD, is_short);
}

static void begin(struct stream *s)
{
    s->n_sent = 0;
    s->has_bytes = s->has_chunk = false;
    s->body.n = 0;
    s->body.overflow = false;
    http_reader_init(&s->http);
    sse_reader_reset(&s->sse);
    reply_init(&s->reply);
}

/* Send again on a fresh connection, once, where an idle one turned out to be closed. */
static bool retry(struct client *c, struct stream *s)
{
    if (!s->is_reused || s->has_bytes || s->is_retry) return false;
    close_connection(s);
    begin(s);
    s->is_retry = true;
    return open_connection(c, s);
}

static void fail(struct client *c, struct stream *s, enum load_error error, const char *what)
{
    if (error != LOAD_TIMEOUT && retry(c, s)) return;
    finish(c, s, error, what, false);
}

static void start_job(struct client *c, size_t job)
{
    const struct load *l = c->l;
    struct stream *s = stream_take(c);
    double due = l->is_paced ? c->start + l->jobs[job].at : 0;
    if (c->free_since > due) due = c->free_since; /* it had to wait for a slot */
    c->now = bench_now();
    s->job = job;
    s->o = &l->outcomes[job];
    *s->o = (struct outcome){.sent = c->now - c->start, .late = due > 0 ? c->now - due : -1};
    s->deadline = c->now + l->timeout;
    s->is_retry = false;
    begin(s);
    if (s->fd < 0 && !open_connection(c, s)) {
        finish(c, s, LOAD_CONNECT, strerror(errno), false);
        return;
    }
    if (s->is_reused) send_some(c, s);
}

/* ------------------------------------------------------------------ receiving */

struct receiver {
    struct client *c;
    struct stream *s;
};

static void on_event(void *arg, struct str data)
{
    struct receiver *r = arg;
    struct client *c = r->c;
    struct stream *s = r->s;
    if (!reply_event(&s->reply, data)) return;
    double at = c->now - c->start;
    if (s->has_chunk) {
        bool is_full = c->n_decoding == c->share && s->o->last >= c->full_since - c->start;
        samples_add(&c->r.gaps, at - s->o->last);
        c->n_full_gaps += is_full;
        c->full_gaps += is_full ? at - s->o->last : 0;
    } else {
        s->has_chunk = true;
        s->o->first = at;
        count_decoding(c, 1);
    }
    s->o->last = at;
}

static void on_body(void *arg, const char *p, size_t n)
{
    struct receiver *r = arg;
    if (is_event_body(r->s))
        sse_reader_feed(&r->s->sse, p, n, on_event, r);
    else
        buf_put(&r->s->body, p, n);
}

static const char *why_closed(const struct stream *s)
{
    return errno ? strerror(errno) : s->has_bytes ? s->http.why : "before the answer";
}

/* One recv. False when there is nothing more to read now, or the request has ended. */
static bool receive(struct client *c, struct stream *s)
{
    struct receiver r = {c, s};
    size_t used = 0;
    enum http_outcome out;
    ssize_t n = recv(s->fd, c->bytes, READ_BYTES, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    c->now = bench_now();
    if (n > 0) {
        s->has_bytes = true;
        out = http_reader_feed(&s->http, c->bytes, (size_t)n, on_body, &r, &used);
    } else {
        if (n == 0) errno = 0;
        out = n == 0 ? http_reader_end(&s->http) : HTTP_BAD;
    }
    switch (out) {
    case HTTP_MORE:
        return n == READ_BYTES;
    case HTTP_DONE:
        complete(c, s, used < (size_t)(n > 0 ? n : 0));
        return false;
    case HTTP_BAD:
        break;
    }
    if (n > 0)
        fail(c, s, LOAD_BAD_HTTP, s->http.why);
    else
        fail(c, s, LOAD_CLOSED, why_closed(s));
    return false;
}

static void on_ready(struct client *c, struct stream *s, uint32_t events)
{
    if (!s->is_active) { /* the server closes an idle connection, or talks out of turn */
        TAILQ_REMOVE(&c->idle, s, link);
        stream_free(s);
        return;
    }
    int error = 0;
    socklen_t n = sizeof error;
    if (events & EPOLLERR && s->n_sent == 0 && !s->is_reused) { /* the connection was refused */
        getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &n);
        fail(c, s, LOAD_CONNECT, strerror(error));
        return;
    }
    if (events & EPOLLOUT) send_some(c, s);
    if (events & ~(uint32_t)EPOLLOUT)
        for (int i = 0; i < READS_A_TURN && receive(c, s); i++) continue;
}

static void check_deadlines(struct client *c)
{
    struct stream *next;
    c->now = bench_now();
    for (struct stream *s = TAILQ_FIRST(&c->active); s; s = next) {
        next = TAILQ_NEXT(s, link);
        if (c->now > s->deadline) fail(c, s, LOAD_TIMEOUT, "no end within --timeout");
    }
}

/* ------------------------------------------------------------------ the loop */

/* Send all that is due. Sets the timer for what is not. */
static void start_due(struct client *c)
{
    const struct load *l = c->l;
    while (c->next < l->n && c->n_active < c->share) {
        double due = c->start + (l->is_paced ? l->jobs[c->next].at : 0);
        if (due > bench_now()) {
            struct itimerspec t = {.it_value = {(time_t)due, (long)((due - floor(due)) * 1e9)}};
            timerfd_settime(c->timer, TFD_TIMER_ABSTIME, &t, NULL);
            return;
        }
        start_job(c, c->next);
        c->next += (size_t)l->n_threads;
    }
    if (c->n_active == c->share) c->free_since = 0;
}

static void *client_main(void *arg)
{
    struct client *c = arg;
    struct epoll_event ev[EVENTS_A_TURN];
    double cpu = bench_thread_cpu(), scanned = c->start;
    uint64_t ticks;
    while (c->next < c->l->n || c->n_active > 0) {
        start_due(c);
        int n = epoll_wait(c->epoll, ev, EVENTS_A_TURN, SCAN_MS);
        for (int i = 0; i < n; i++) {
            if (ev[i].data.ptr)
                on_ready(c, ev[i].data.ptr, ev[i].events);
            else if (read(c->timer, &ticks, sizeof ticks) < 0)
                continue; /* it was set anew */
        }
        if (c->now - scanned > SCAN_MS * 1e-3 || n == 0) {
            check_deadlines(c);
            scanned = c->now;
        }
    }
    c->r.seconds = c->now - c->start;
    c->r.cpu = (bench_thread_cpu() - cpu) / c->r.seconds;
    return NULL;
}

static int client_open(struct client *c, const struct load *l, int index, double start)
{
    size_t n_threads = (size_t)l->n_threads,
           own = (l->n - (size_t)index + n_threads - 1) / n_threads;
    int share = (int)own;
    if (l->max_concurrency)
        share = l->max_concurrency / l->n_threads + (index < l->max_concurrency % l->n_threads);
    *c = (struct client){.l = l, .index = index, .start = start, .next = (size_t)index};
    c->share = share < (int)own ? share : (int)own;
    c->now = start;
    c->bytes = xmalloc(READ_BYTES);
    TAILQ_INIT(&c->idle);
    TAILQ_INIT(&c->active);
    c->epoll = epoll_create1(EPOLL_CLOEXEC);
    c->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN};
    if (c->epoll < 0 || c->timer < 0) return SL_EINTERNAL;
    return epoll_ctl(c->epoll, EPOLL_CTL_ADD, c->timer, &ev) == 0 ? 0 : SL_EINTERNAL;
}

static void client_close(struct client *c)
{
    struct stream *s;
    while ((s = TAILQ_FIRST(&c->idle))) {
        TAILQ_REMOVE(&c->idle, s, link);
        stream_free(s);
    }
    if (c->epoll >= 0) close(c->epoll);
    if (c->timer >= 0) close(c->timer);
    samples_free(&c->r.gaps);
    free(c->bytes);
}

/* What one thread saw joins the whole. */
static void join_result(struct load_result *r, const struct client *c)
{
    if (c->r.seconds > r->seconds) r->seconds = c->r.seconds;
    if (c->r.cpu > r->cpu) r->cpu = c->r.cpu;
    r->peak += c->r.peak;
    samples_join(&r->gaps, &c->r.gaps);
    if (c->full_gaps > 0) r->full_rate += c->share * c->n_full_gaps / c->full_gaps;
    if (c->index == 0 || c->r.full_seconds < r->full_seconds) r->full_seconds = c->r.full_seconds;
    for (int i = 0; i < LOAD_ERRORS; i++)
        if (!r->example[i][0]) memcpy(r->example[i], c->r.example[i], LOAD_TEXT_MAX);
}

static void allow_files(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

int load_run(const struct load *load, struct load_result *r, struct sl_error *e)
{
    struct load l = *load;
    int most = l.max_concurrency && (size_t)l.max_concurrency < l.n ? l.max_concurrency : (int)l.n;
    if (l.n_threads > most) l.n_threads = most;
    struct client *clients = xcalloc((size_t)l.n_threads, sizeof *clients);
    double start = bench_now() + START_DELAY;
    int code = 0, n_open = 0, n_running = 0;
    *r = (struct load_result){0};
    allow_files();
    for (; n_open < l.n_threads && code == 0; n_open++)
        code = client_open(&clients[n_open], &l, n_open, start);
    for (; n_running < l.n_threads && code == 0; n_running += code == 0)
        if (pthread_create(&clients[n_running].thread, NULL, client_main, &clients[n_running]) != 0)
            code = SL_EINTERNAL;
    for (int i = 0; i < n_running; i++) {
        pthread_join(clients[i].thread, NULL);
        join_result(r, &clients[i]);
    }
    for (int i = 0; i < n_open; i++) client_close(&clients[i]);
    free(clients);
    return code < 0 ? sl_fail(e, code, "no more threads or files: %s", strerror(errno)) : 0;
}
