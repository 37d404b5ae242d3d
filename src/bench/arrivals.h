/* arrivals.h - random numbers from a seed, and when requests are sent. */
#ifndef BENCH_ARRIVALS_H
#define BENCH_ARRIVALS_H

#include <stddef.h>
#include <stdint.h>

/* splitmix64: a counter and a mixer; the same seed gives the same numbers everywhere. */
struct rng {
    uint64_t state;
};
uint64_t mix64(uint64_t x);
uint64_t rng_u64(struct rng *r);
double rng_unit(struct rng *r);                                /* [0, 1) */
int64_t rng_between(struct rng *r, int64_t low, int64_t high); /* both included */
double rng_gamma(struct rng *r, double shape);                 /* scale 1; shape > 0 */

/* The open loop of `vllm bench serve`: gaps ~ Gamma(shape burstiness, mean 1 / rate), summed, then
 * scaled so that the last of n comes at n / rate. Burstiness 1 is a Poisson process, less is
 * burstier. An infinite rate: all at 0. at: [n] seconds, ascending. */
void arrivals_open_loop(struct rng *r, double rate, double burstiness, double *at, size_t n);

#endif
