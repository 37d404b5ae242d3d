/* server.c - start, the events of the loop, drain, exit.
 *
 * Order of a life: socket, loop, model on its thread, ready, SIGTERM, drain, stop. The exit status
 * says how it ended: 0 after a drain, 1 when it could not start, 70 after an engine failure, 71 by
 * the watchdog; a supervisor restarts it on the last two.
 */
#include "server/server.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "api/grammar_cache.h"
#include "base/log.h"
#include "server/http_request.h"

enum {
    EXIT_ENGINE = 70,
    TICK_MS = 1000,
    TELL_MS = 1500,    /* for error events to leave before the process does */
    NOW_MS = 200,      /* the same after a second signal */
    SPARE_FILES = 128, /* descriptors that are no client connections */
};

void server_random(struct server *s, void *out, size_t n)
{
    ASSERT(n <= sizeof s->random);
    if (s->random_at + n > sizeof s->random) {
        for (size_t got = 0; got < sizeof s->random;) {
            ssize_t more = getrandom(s->random + got, sizeof s->random - got, 0);
            ASSERT(more > 0 || errno == EINTR);
            if (more > 0) got += (size_t)more;
        }
        s->random_at = 0;
    }
    memcpy(out, s->random + s->random_at, n);
    explicit_bzero(s->random + s->random_at, n);
    s->random_at += n;
}

void server_make_id(struct server *s, char out[REQUEST_ID_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    uint8_t random[16];
    server_random(s, random, sizeof random);
    memcpy(out, "req_", 4);
    for (int i = 0; i < 32; i++) out[4 + i] = digits[random[i / 2] >> (i % 2 ? 0 : 4) & 15];
    out[REQUEST_ID_BYTES - 1] = '\0';
}

/* ------------------------------------------------------------------ ends */

void server_check_idle(struct server *s)
{
    bool is_ending = s->phase == SERVER_DRAINING || s->phase == SERVER_FAILED;
    if (is_ending && s->n_requests == 0) uv_stop(&s->loop);
}

static void on_last_grace(uv_timer_t *t)
{
    uv_stop(t->loop);
}

static void end_requests(struct server *s, int code, const char *text, uint64_t grace_ms)
{
    struct sl_error e;
    sl_fail(&e, code, "%s", text);
    generate_fail_all(s, &e);
    uv_timer_start(&s->grace, on_last_grace, grace_ms, 0);
    loop_drive(s);
    server_check_idle(s);
}

static void on_grace(uv_timer_t *t)
{
    struct server *s = t->data;
    log_warn("server", "%d requests still run after --shutdown-timeout: ending them",
             s->n_requests);
    end_requests(s, SL_EDRAINING, "the server is shutting down", TELL_MS);
}

void server_drain(struct server *s, bool now)
{
    if (s->phase == SERVER_LOADING) { /* the loading thread cannot be stopped half-way */
        listen_close(s);
        _exit(EXIT_SUCCESS);
    }
    if (s->phase == SERVER_READY) {
        s->phase = SERVER_DRAINING;
        lane_stop(s->lane);
        log_info("server", "draining: %d requests in progress", s->n_requests);
        MHD_quiesce_daemon(s->mhd);
        loop_drive(s); /* takes the socket out of MHD's epoll set before it is closed */
        listen_close(s);
        uv_timer_start(&s->grace, on_grace, (uint64_t)s->o->shutdown_timeout * 1000, 0);
    }
    if (now && s->phase == SERVER_DRAINING)
        end_requests(s, SL_EDRAINING, "the server is shutting down", NOW_MS);
    server_check_idle(s);
}

static void on_signal(uv_signal_t *h, int number)
{
    struct server *s = h->data;
    (void)number;
    server_drain(s, s->phase == SERVER_DRAINING);
}

static void check_engine(struct server *s)
{
    if (!s->engine || s->phase == SERVER_FAILED) return;
    bool stuck = watchdog_has_fired(s);
    if (!stuck && !sl_failed(s->engine)) return;
    if (!stuck) log_error("engine", "the device has failed: ending with status %d", EXIT_ENGINE);
    s->phase = SERVER_FAILED;
    s->exit_status = stuck ? EXIT_ENGINE + 1 : EXIT_ENGINE;
    end_requests(s, SL_EDEVICE, "the engine has failed", TELL_MS);
}

/* ------------------------------------------------------------------ events of the loop */

static void on_wake(uv_async_t *h)
{
    struct server *s = h->data;
    if (loader_finish(s)) {
        if (s->load.code < 0) {
            log_error("load", "%s", s->load.err.text);
            s->exit_status = EXIT_FAILURE;
            s->phase = SERVER_FAILED;
            uv_stop(&s->loop);
            return;
        }
        s->phase = SERVER_READY;
        watchdog_start(s);
    }
    if (s->engine) {
        generate_on_wake(s);
        check_engine(s);
    }
    loop_drive(s);
}

static void on_tick(uv_timer_t *t)
{
    struct server *s = t->data;
    deadlines_tick(s);
    lane_tick(s->lane);
    limits_tick(s->limits);
    generate_tick(s);
    if (s->responses) response_store_expire(s->responses, (int64_t)time(NULL));
    check_engine(s);
    loop_drive(s);
}

/* ------------------------------------------------------------------ start and stop */

static void harden(const struct server *s)
{
    struct rlimit files, none = {0, 0};
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_DUMPABLE, 0); /* no core dump and no ptrace: memory holds prompts and keys */
    setrlimit(RLIMIT_CORE, &none);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
        if (files.rlim_cur < (rlim_t)s->o->max_connections + SPARE_FILES)
            log_warn("server", "only %llu open files are allowed: fewer connections than %lld",
                     (unsigned long long)files.rlim_cur, (long long)s->o->max_connections);
    }
}

static void open_handles(struct server *s)
{
    uv_loop_init(&s->loop);
    uv_async_init(&s->loop, &s->wake, on_wake);
    uv_timer_init(&s->loop, &s->tick);
    uv_timer_init(&s->loop, &s->grace);
    uv_timer_init(&s->loop, &s->due_timer);
    s->due_timer.data = s;
    s->due_us = UINT64_MAX;
    uv_signal_init(&s->loop, &s->on_term);
    uv_signal_init(&s->loop, &s->on_int);
    s->wake.data = s->tick.data = s->grace.data = s->on_term.data = s->on_int.data = s;
    uv_timer_start(&s->tick, on_tick, TICK_MS, TICK_MS);
    uv_signal_start(&s->on_term, on_signal, SIGTERM);
    uv_signal_start(&s->on_int, on_signal, SIGINT);
}

static int start(struct server *s, struct sl_error *e)
{
    TRY(auth_open(&s->auth, s->o, e));
    if (s->o->max_stored_responses > 0)
        s->responses = response_store_new(&(struct response_limits){
            s->o->max_stored_responses, s->o->stored_responses_bytes, s->o->stored_responses_ttl});
    s->cors = (struct cors){&s->o->allowed_origins, auth_has_keys(s->auth)};
    if (s->o->data_dir) TRY(store_open(&s->store, s->o->data_dir, &s->loop, e));
    s->limits = limits_new(s->auth, s->store);
    if (s->o->response_cache_bytes) s->cache = answer_cache_new((size_t)s->o->response_cache_bytes);
    TRY(listen_open(s, e));
    if (!s->is_local && !auth_has_keys(s->auth))
        log_warn("server",
                 "listening on %s without an API key: anyone who reaches this port may use it",
                 s->o->host);
    TRY(watch_open(s, e));
    TRY(loop_open(s, e));
    if (s->store) s->lane = lane_new(s);
    return loader_start(s, e);
}

static void close_handle(uv_handle_t *h, void *arg)
{
    (void)arg;
    if (!uv_is_closing(h)) uv_close(h, NULL);
}

static void stop(struct server *s)
{
    watchdog_stop(s);
    loop_close(s);
    lane_close(s->lane);
    s->lane = NULL;
    if (s->limits) limits_flush(s->limits);
    store_close(s->store);
    limits_close(s->limits);
    answer_cache_free(s->cache);
    listen_close(s);
    sl_close(s->engine);
    grammar_cache_free(s->ctx.grammars);
    grammar_vocab_unref(s->load.vocab);
    uv_walk(&s->loop, close_handle, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    uv_loop_close(&s->loop);
    watch_close(s);
    model_text_close(s->text);
    auth_close(s->auth);
    response_store_free(s->responses);
    free(s->owners);
}

struct server *server_new(const struct options *o)
{
    struct server *s = xcalloc(1, sizeof *s);
    s->o = o;
    s->listen_fd = s->watch_fd = -1;
    s->random_at = sizeof s->random;
    s->start_us = server_now_us();
    TAILQ_INIT(&s->conns);
    TAILQ_INIT(&s->leaving);
    TAILQ_INIT(&s->live);
    TAILQ_INIT(&s->waiting);
    open_handles(s);
    return s;
}

int server_run(const struct options *o)
{
    struct sl_error e;
    struct server *s = server_new(o);
    harden(s);
    if (start(s, &e) < 0) {
        log_error("server", "%s", e.text);
        s->exit_status = EXIT_FAILURE;
    } else {
        uv_run(&s->loop, UV_RUN_DEFAULT);
    }
    int status = s->exit_status;
    if (status >= EXIT_ENGINE) _exit(status); /* closing a broken device may never return */
    if (status == 0) log_info("server", "stopped");
    stop(s);
    free(s);
    return status;
}
