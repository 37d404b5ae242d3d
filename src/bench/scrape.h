/* scrape.h - a server's /metrics (Prometheus text), read before and after a run. */
#ifndef BENCH_SCRAPE_H
#define BENCH_SCRAPE_H

#include "bench/target.h"

enum { SCRAPE_BUCKETS_MAX = 64 };

/* What a run added to a histogram; quantiles in the histogram's unit. */
struct scrape_times {
    double n, mean, p50, p99; /* n 0: the server has no such metric, or nothing happened */
};

/* The text, or an empty buffer where the server has none. Owned by the caller. */
void scrape(const struct target *t, struct buf *out);
/* The sum of a metric over its labels; 0 where it is not there. name: whole, with its suffix. */
double scrape_value(struct str text, const char *name);
void scrape_between(struct str before, struct str after, const char *name,
                    struct scrape_times *out);

#endif
