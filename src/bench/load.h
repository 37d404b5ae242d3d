/* load.h - sending requests when they are due, and timing what comes back.
 *
 * Threads share nothing but the jobs, which they only read, and their own slots of outcomes: thread
 * t of T takes jobs t, t + T, ... and its share of the concurrency. Each has an epoll set, a timer
 * and kept-alive connections. One clock reading a recv: all events in it carry that time.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include "bench/quantile.h"
#include "bench/target.h"

struct job {
    double at;                  /* seconds from the start */
    struct buf bytes;           /* the HTTP request */
    int32_t n_prompt, n_output; /* as planned */
};

enum load_error {
    LOAD_OK,
    LOAD_CONNECT, /* no connection */
    LOAD_CLOSED,  /* closed before the end of the answer */
    LOAD_TIMEOUT,
    LOAD_STATUS,     /* an HTTP status other than 200 */
    LOAD_BAD_HTTP,   /* bytes that are no HTTP */
    LOAD_BAD_EVENT,  /* an event that is no JSON, or too long, or no event stream at all */
    LOAD_IN_STREAM,  /* an error event */
    LOAD_UNFINISHED, /* the stream ended without [DONE] */
    LOAD_EMPTY,      /* a whole answer without a token */
    LOAD_ERRORS
};
extern const char *const load_error_names[LOAD_ERRORS];

struct outcome {              /* of a job; times in seconds from the start */
    double sent, first, last; /* first and last: token chunks; a whole answer has them equal */
    double late;              /* behind the time when it could have been sent; -1: not scheduled */
    int64_t prompt_tokens, completion_tokens, cached_tokens; /* usage; -1: not told */
    int64_t n_chunks;
    uint16_t status;
    uint8_t error; /* enum load_error */
};

struct load {
    const struct target *target;
    const struct job *jobs;
    struct outcome *outcomes; /* [n], written by the threads */
    size_t n;
    int n_threads, max_concurrency; /* 0: no limit */
    bool is_stream, is_paced;       /* paced: `at` is a schedule; else all are due at once */
    double timeout;                 /* seconds of one request */
};

enum { LOAD_TEXT_MAX = 160 };
struct load_result {
    double seconds;      /* from the start to the last end */
    double cpu;          /* share of a core of the busiest thread, 0 to 1 */
    int peak;            /* requests in flight at once, at most */
    struct samples gaps; /* owned: seconds between two chunks of a request */
    double full_seconds; /* time in which all streams that may run were decoding at once */
    double full_rate;    /* token chunks a second then: streams over the mean gap in one */
    char example[LOAD_ERRORS][LOAD_TEXT_MAX]; /* what the first error of each kind said */
};

/* Blocking. SL_EINTERNAL when threads or descriptors are not to be had; failed requests are
 * outcomes. Free r->gaps. */
int load_run(const struct load *l, struct load_result *r, struct sl_error *e);

#endif
