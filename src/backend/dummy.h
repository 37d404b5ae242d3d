/* dummy.h - the values of dummy weights: uniform, by Philox, from (seed, weight, row, column).
 *
 * A pure function, so that every device has the same weights, made in any order by any number of
 * threads. Eight columns take one draw: sixteen bits each, more than bf16 can show. C17 and C++17.
 */
#ifndef BACKEND_DUMMY_H
#define BACKEND_DUMMY_H

#include "backend/sampling_philox.h"

enum { DUMMY_BLOCK = 8 };

struct dummy {
    uint64_t seed;
    uint32_t weight; /* which of the model's: its own stream */
    uint32_t row0,
        block0;  /* where this rank's share of it begins; exact where that is a whole block */
    float scale; /* values lie within 32768 of these, symmetric */
};

/* Columns [8 block, 8 block + 8) of a row of the share. */
PHILOX_FN void dummy_values(const struct dummy *d, uint32_t row, uint32_t block,
                            float out[DUMMY_BLOCK])
{
    uint32_t ctr[4] = {d->block0 + block, d->row0 + row, d->weight, 0};
    philox4x32_10(ctr, (uint32_t)d->seed, (uint32_t)(d->seed >> 32));
    for (int i = 0; i < DUMMY_BLOCK; i++) {
        int32_t v = (int16_t)(ctr[i / 2] >> (i % 2 * 16));
        out[i] = ((float)v + 0.5f) * d->scale; /* one rounding: v + 0.5 is exact */
    }
}

#endif
