/* arrivals.c - see arrivals.h. Source of the process: vLLM's serving benchmark (get_request). */
#include "bench/arrivals.h"

#include <math.h>

uint64_t mix64(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

uint64_t rng_u64(struct rng *r)
{
    r->state += UINT64_C(0x9E3779B97F4A7C15);
    return mix64(r->state);
}

double rng_unit(struct rng *r)
{
    return (double)(rng_u64(r) >> 11) * 0x1p-53;
}

int64_t rng_between(struct rng *r, int64_t low, int64_t high)
{
    uint64_t span = (uint64_t)(high - low) + 1;
    return low + (int64_t)(rng_u64(r) % span); /* spans are lengths: the bias is below 2^-40 */
}

static double normal(struct rng *r)
{
    double u = 1 - rng_unit(r), v = rng_unit(r); /* u > 0 */
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

/* Marsaglia and Tsang 2000; below shape 1 by gamma(shape + 1) * u^(1/shape). */
double rng_gamma(struct rng *r, double shape)
{
    if (shape < 1) return rng_gamma(r, shape + 1) * pow(1 - rng_unit(r), 1 / shape);
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = normal(r), v = 1 + c * x;
        if (v <= 0) continue;
        v = v * v * v;
        if (log(1 - rng_unit(r)) < x * x / 2 + d - d * v + d * log(v)) return d * v;
    }
}

void arrivals_open_loop(struct rng *r, double rate, double burstiness, double *at, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isinf(rate)) sum += rng_gamma(r, burstiness) / (rate * burstiness);
        at[i] = sum;
    }
    if (sum <= 0) return;
    for (size_t i = 0; i < n; i++) at[i] *= (double)n / rate / sum;
}
