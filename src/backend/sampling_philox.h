/* sampling_philox.h - the one random number of a sampled token: Philox4x32-10, a counter-based
 * generator.
 *
 * A pure function of (seed, position): no state, so that a token's choice depends on neither batch,
 * device, thread nor preemption. Every device includes this file. C17 and C++17; CUDA defines
 * PHILOX_FN as `static __host__ __device__ __forceinline__` before including it. Source: Salmon,
 * Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11; its known-answer vectors
 * are in tests/unit/test_sample.c.
 */
#ifndef BACKEND_SAMPLING_PHILOX_H
#define BACKEND_SAMPLING_PHILOX_H

#include <stdint.h>

#ifndef PHILOX_FN
#define PHILOX_FN static inline
#endif

/* ctr is replaced by four random words. */
PHILOX_FN void philox4x32_10(uint32_t ctr[4], uint32_t key0, uint32_t key1)
{
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * ctr[0], b = (uint64_t)0xCD9E8D57u * ctr[2];
        uint32_t c1 = ctr[1], c3 = ctr[3];
        ctr[0] = (uint32_t)(b >> 32) ^ c1 ^ key0;
        ctr[1] = (uint32_t)b;
        ctr[2] = (uint32_t)(a >> 32) ^ c3 ^ key1;
        ctr[3] = (uint32_t)a;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

/* Uniform in the open interval (0, 1): the 2^32 midpoints (k + 0.5) / 2^32, exact in a double. */
PHILOX_FN double philox_uniform(uint64_t seed, uint32_t position)
{
    uint32_t ctr[4] = {position, 0, 0, 0};
    philox4x32_10(ctr, (uint32_t)seed, (uint32_t)(seed >> 32));
    return ((double)ctr[0] + 0.5) * (1.0 / 4294967296.0);
}

#endif
