/* workload.h - what will be asked: lengths, prompts and times, from a seed or a file; then bytes.
 *
 * All is made before the first request is sent. Main thread; constant afterwards.
 */
#ifndef BENCH_WORKLOAD_H
#define BENCH_WORKLOAD_H

#include "bench/arrivals.h"
#include "bench/serve_args.h"
#include "bench/target.h"

enum { TRACE_BLOCK = 512 }; /* tokens of a block of the Mooncake traces */

struct request_spec {
    int32_t n_prompt, n_output; /* tokens; n_prompt is 0 where only the server can tell */
    double at;                  /* seconds from the start, of a trace */
    uint64_t stream;            /* which random content */
    const int32_t *blocks;      /* Mooncake: ids of prompt blocks; equal ids are equal text */
    const char *text;           /* ShareGPT: the prompt itself, NUL-terminated */
};

struct workload {
    struct request_spec *specs; /* owned [n] */
    size_t n, cap;
    size_t n_left_out; /* of a file: too long or too short */
    void **owned;      /* texts and blocks */
    size_t n_owned;
    bool is_estimated; /* ShareGPT: lengths by bytes, the server has no /tokenize */
};

/* What the datasets need to know. */
struct workload_plan {
    const struct serve_args *args;
    const struct target *target;
    const char *model;
    size_t n;      /* requests wanted; fewer when the file has fewer */
    uint64_t seed; /* of this run: differs between the rates of a sweep and for warm-ups */
    int64_t max_total_len, n_vocab;
};

/* Free with workload_close, also after a failure. */
int workload_open(struct workload *w, const struct workload_plan *p, struct sl_error *e);
void workload_close(struct workload *w);
struct request_spec *workload_add(struct workload *w, const struct request_spec *s);
void *workload_keep(struct workload *w, void *p); /* p is freed with the workload */

/* datasets of files */
int sharegpt_read(struct workload *w, const struct workload_plan *p, struct sl_error *e);
int azure_read(struct workload *w, const struct workload_plan *p, struct sl_error *e);
int mooncake_read(struct workload *w, const struct workload_plan *p, struct sl_error *e);

/* The whole HTTP request, head and body. */
int workload_put_request(const struct workload_plan *p, const struct request_spec *s,
                         struct buf *out, struct sl_error *e);

#endif
