/* test_arrivals.c - the arrival process has the moments that its name promises. */
#include "bench/arrivals.h"

#include <math.h>

#include "base/test.h"

enum { N = 50000 };
static double at[N];

/* The gaps' mean is 1 / rate by construction; their squared variation is 1 / burstiness. */
TEST(gaps)
{
    static const struct {
        double rate, burstiness;
    } rows[] = {{10, 1}, {0.5, 1}, {100, 0.25}, {100, 0.05}, {7, 4}, {7, 100}};
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++)
        for (uint64_t seed = 1; seed <= 3; seed++) {
            struct rng r = {seed};
            double sum = 0, squares = 0, before = 0;
            arrivals_open_loop(&r, rows[k].rate, rows[k].burstiness, at, N);
            CHECK_MSG(fabs(at[N - 1] * rows[k].rate / N - 1) < 1e-9, "the last at %g", at[N - 1]);
            for (int i = 0; i < N; i++) {
                double gap = at[i] - before;
                CHECK(gap >= 0);
                sum += gap;
                squares += gap * gap;
                before = at[i];
            }
            double mean = sum / N, variation = (squares / N - mean * mean) / (mean * mean);
            double tolerance =
                0.05 + 0.1 * (rows[k].burstiness < 0.2); /* 4 sigma of the estimate */
            CHECK_MSG(fabs(variation * rows[k].burstiness - 1) < tolerance,
                      "burstiness %g, seed %d: variation %g", rows[k].burstiness, (int)seed,
                      variation);
        }
}

/* Poisson: counts in windows of a second have a variance equal to their mean. */
TEST(poisson_counts)
{
    enum { RATE = 25, SECONDS = N / RATE };
    static int counts[SECONDS + 1];
    struct rng r = {5};
    double squares = 0;
    arrivals_open_loop(&r, RATE, 1, at, N);
    for (int i = 0; i < N; i++) counts[(int)at[i]]++;
    for (int i = 0; i < SECONDS; i++) squares += (counts[i] - RATE) * (double)(counts[i] - RATE);
    CHECK_MSG(fabs(squares / SECONDS / RATE - 1) < 0.15, "%g", squares / SECONDS / RATE);
}

TEST(all_at_once)
{
    struct rng r = {1};
    arrivals_open_loop(&r, INFINITY, 1, at, 100);
    for (int i = 0; i < 100; i++) CHECK(at[i] == 0);
}

TEST(same_seed_same_times)
{
    static double again[1000], other[1000];
    struct rng a = {9}, b = {9}, c = {10};
    arrivals_open_loop(&a, 3, 0.5, at, 1000);
    arrivals_open_loop(&b, 3, 0.5, again, 1000);
    arrivals_open_loop(&c, 3, 0.5, other, 1000);
    CHECK(memcmp(at, again, sizeof again) == 0 && memcmp(at, other, sizeof other) != 0);
}

TEST(uniform)
{
    struct rng r = {3};
    int counts[5] = {0};
    for (int i = 0; i < 10000; i++) {
        int64_t v = rng_between(&r, -2, 2);
        CHECK(v >= -2 && v <= 2);
        counts[v + 2]++;
    }
    for (int i = 0; i < 5; i++) CHECK_MSG(abs(counts[i] - 2000) < 160, "%d", counts[i]);
    CHECK(rng_between(&r, 7, 7) == 7);
}
