/* serve_report.h - what a run of `sluice bench serve` came to, as a table and as JSON. Names and
 * definitions of the figures are those of vLLM's serving benchmark.
 */
#ifndef BENCH_SERVE_REPORT_H
#define BENCH_SERVE_REPORT_H

#include "bench/load.h"
#include "bench/scrape.h"

struct run { /* one rate */
    const struct serve_args *args;
    double rate;
    uint64_t seed;
    const struct load *load;
    struct load_result result;
    size_t n_left_out;
    bool is_estimated;
    struct buf before, after; /* owned: the server's metrics */
};

struct summary {
    size_t n_ok, n_failed, n_good, n_without_usage;
    size_t errors[LOAD_ERRORS];
    double input_tokens, output_tokens, cached_tokens, n_chunks;
    struct samples ttft, tpot, itl, e2el, late; /* owned; seconds, sorted */
    double full_rate; /* tokens a second while all streams decoded; 0: they never did */
    struct scrape_times cpu, idle; /* the server's, seconds a step */
    double cache_hits;             /* share of prompt tokens; -1: not told */
    char refused[200];             /* why these figures are none, or "" */
};

void summary_make(struct summary *s, const struct run *r);
void summary_free(struct summary *s);

void report_text(FILE *out, const struct run *r, const struct summary *s);
void report_json(struct buf *out, const struct run *r, const struct summary *s);
/* A line of the table that ends a sweep; its head for r NULL. */
void report_line(FILE *out, const struct run *r, const struct summary *s);

#endif
