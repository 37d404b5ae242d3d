/* cpu_pick.h - passes over a row of logits: argmax, exponentials, and the choice of one token.
 * Inner header of cpu_sample.c. All orders of summation are fixed by index, never by thread or
 * batch.
 */
#ifndef BACKEND_CPU_PICK_H
#define BACKEND_CPU_PICK_H

#include <stdbool.h>

#include "backend/backend.h"

enum { PICK_BUCKETS = 1024 };

/* One thread's workspace; arrays are [n], the vocabulary. */
struct sample_scratch {
    int32_t n;
    float *raw;      /* the row before masks, where log probabilities are asked for */
    float *w;        /* exp((x - max) / T) of kept tokens, 0 of all others */
    uint64_t *keys;  /* of sorted candidates: descending logit, then ascending id */
    uint64_t *spare; /* the sort's second half */
    uint8_t *seen;   /* all zero between rows */
    int32_t *count;  /* all zero between rows */
    const uint32_t *mask; /* allowed tokens of the row at hand, or NULL: all */
    double mass[PICK_BUCKETS];
    int32_t members[PICK_BUCKETS];
};

/* What a row is like, from one pass. */
struct row_range {
    int32_t argmax; /* lowest id of the highest logit */
    float max, min; /* min over what is above -inf */
    bool is_finite; /* no NaN and no inf of either sign */
};
struct row_range row_scan(const float *x, int32_t n);

/* w[i] = exp((x[i] - max) * inv_t), 0 where that is below about 1e-38; returns their sum. */
double row_exp(const float *x, int32_t n, float max, float inv_t, float *w);

/* Steps 4 to 6 for a temperature above 0: x holds masked and penalised logits, max above -inf. */
int32_t pick_token(struct sample_scratch *t, const float *x, const struct row_range *range,
                   const struct sl_sampling *s, uint32_t position);

#endif
