/* quantile.h - means and quantiles of samples, and of histograms. */
#ifndef BENCH_QUANTILE_H
#define BENCH_QUANTILE_H

#include <stddef.h>
#include <stdint.h>

struct samples { /* growable, one owner */
    double *v;   /* owned */
    size_t n, cap;
};
void samples_add(struct samples *s, double v);
void samples_join(struct samples *to, const struct samples *from);
void samples_free(struct samples *s);

double samples_mean(const struct samples *s); /* 0 when empty */
/* Population deviation, as numpy's std. */
double samples_deviation(const struct samples *s);
void samples_sort(struct samples *s);
/* Of sorted samples, q in [0, 1]: linear between the two nearest ranks, as numpy's percentile; 0
 * when empty. */
double samples_quantile(const struct samples *s, double q);

/* Of n buckets: counts[i] values lie in (bounds[i - 1], bounds[i]], the last above bounds[n - 2].
 * Linear within the bucket, as Prometheus' histogram_quantile; from the last bucket its lower
 * bound; 0 when empty. */
double buckets_quantile(const double *bounds, const uint64_t *counts, int n, double q);

#endif
