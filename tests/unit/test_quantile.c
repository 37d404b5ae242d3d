/* test_quantile.c - against values that numpy.percentile (linear) and Prometheus give. */
#include "bench/quantile.h"

#include <math.h>
#include <stdbool.h>

#include "base/test.h"

static bool near(double a, double b)
{
    return fabs(a - b) < 1e-9 * (1 + fabs(b));
}

TEST(samples)
{
    static const double values[] = {15, 20, 35, 40, 50};
    struct samples s = {0}, t = {0};
    CHECK(samples_quantile(&s, 0.5) == 0 && samples_mean(&s) == 0 && samples_deviation(&s) == 0);
    for (int i = 4; i >= 0; i--) samples_add(&s, values[i]);
    samples_sort(&s);
    CHECK(near(samples_quantile(&s, 0), 15) && near(samples_quantile(&s, 1), 50));
    CHECK(near(samples_quantile(&s, 0.5), 35) && near(samples_quantile(&s, 0.4), 29));
    CHECK(near(samples_quantile(&s, 0.9), 46) && near(samples_quantile(&s, 0.99), 49.6));
    CHECK(near(samples_mean(&s), 32) && near(samples_deviation(&s), sqrt(166)));
    samples_join(&t, &s);
    samples_join(&t, &s);
    CHECK(t.n == 10 && near(samples_mean(&t), 32));
    samples_free(&s);
    for (int i = 0; i < 1000; i++) samples_add(&s, i);
    samples_sort(&s);
    CHECK(s.n == 1000 && near(samples_quantile(&s, 0.99), 989.01));
    samples_free(&s);
    samples_free(&t);
}

TEST(buckets)
{
    static const double bounds[] = {1, 2, 4};
    static const uint64_t counts[] = {10, 10, 20, 0}, high[] = {0, 0, 1, 9}, none[4] = {0};
    CHECK(near(buckets_quantile(bounds, counts, 4, 0.25), 1));
    CHECK(near(buckets_quantile(bounds, counts, 4, 0.5), 2));
    CHECK(near(buckets_quantile(bounds, counts, 4, 0.75), 3));
    CHECK(near(buckets_quantile(bounds, counts, 4, 0.125), 0.5));
    CHECK(near(buckets_quantile(bounds, high, 4, 0.99), 4));
    CHECK(near(buckets_quantile(bounds, high, 4, 0.05), 3));
    CHECK(buckets_quantile(bounds, none, 4, 0.5) == 0);
}
