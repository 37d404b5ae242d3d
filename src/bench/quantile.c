/* quantile.c - see quantile.h. */
#include "bench/quantile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

void samples_add(struct samples *s, double v)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 256;
        s->v = xrealloc(s->v, s->cap * sizeof *s->v);
    }
    s->v[s->n++] = v;
}

void samples_join(struct samples *to, const struct samples *from)
{
    for (size_t i = 0; i < from->n; i++) samples_add(to, from->v[i]);
}

void samples_free(struct samples *s)
{
    free(s->v);
    *s = (struct samples){0};
}

double samples_mean(const struct samples *s)
{
    double sum = 0;
    for (size_t i = 0; i < s->n; i++) sum += s->v[i];
    return s->n ? sum / (double)s->n : 0;
}

double samples_deviation(const struct samples *s)
{
    double mean = samples_mean(s), sum = 0;
    for (size_t i = 0; i < s->n; i++) sum += (s->v[i] - mean) * (s->v[i] - mean);
    return s->n ? sqrt(sum / (double)s->n) : 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void samples_sort(struct samples *s)
{
    if (s->n) qsort(s->v, s->n, sizeof *s->v, by_value);
}

double samples_quantile(const struct samples *s, double q)
{
    if (s->n == 0) return 0;
    double rank = q * (double)(s->n - 1);
    size_t low = (size_t)rank;
    if (low + 1 >= s->n) return s->v[s->n - 1];
    return s->v[low] + (s->v[low + 1] - s->v[low]) * (rank - (double)low);
}

double buckets_quantile(const double *bounds, const uint64_t *counts, int n, double q)
{
    uint64_t total = 0, below = 0;
    for (int i = 0; i < n; i++) total += counts[i];
    double rank = q * (double)total;
    for (int i = 0; i < n - 1 && total; i++) {
        double low = i ? bounds[i - 1] : 0;
        if ((double)(below + counts[i]) >= rank && counts[i])
            return low + (bounds[i] - low) * (rank - (double)below) / (double)counts[i];
        below += counts[i];
    }
    return total ? bounds[n - 2] : 0;
}
