/* sim_dev.h - the arithmetic of the sim device, for whoever wants to foretell what it will say.
 *
 * The KV of a position is one hash of all tokens up to it: h[i] = mix(h[i-1], token[i]), h[-1] from
 * the salt. What a row says depends on its own h and on two earlier ones, found through the block
 * table. The simulator's oracle computes the same from the tokens alone, without pages, batches or
 * slots.
 */
#ifndef BACKEND_SIM_DEV_H
#define BACKEND_SIM_DEV_H

#include "backend/backend.h"

static inline uint64_t sim_mix(uint64_t a, uint64_t b)
{
    uint64_t x = a ^ (b * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du);
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
    return x ^ (x >> 32);
}
static inline uint64_t sim_head(const uint64_t salt[2])
{
    return sim_mix(sim_mix(1, salt[0]), salt[1]);
}

/* The two positions below n that a row with hash h also reads. */
static inline int32_t sim_look(uint64_t h, int which, int32_t n)
{
    return (int32_t)((which ? h >> 32 : h & 0xffffffffu) % (uint32_t)n);
}
static inline uint64_t sim_logits(uint64_t h, uint64_t h1, uint64_t h2)
{
    return sim_mix(sim_mix(h, h1), h2);
}

/* What a token is picked from. */
struct sim_row {
    uint64_t logits;
    uint64_t output_sum; /* over the output so far, of sim_mix(0, token): the penalties' counts */
    int32_t n_vocab;
    uint32_t position;    /* output index */
    const uint32_t *mask; /* allowed tokens, or NULL */
};
/* Mostly letters and blanks, seldom the first eos; with a mask that rules something out any allowed
 * token, -1 if there is none. */
int32_t sim_pick(const struct sl_sampling *s, const struct sim_row *r);

/* A log probability, finite and <= 0, of what the row said. */
static inline float sim_logprob(uint64_t logits, int32_t token)
{
    return -0.01f - (float)(sim_mix(logits, (uint64_t)token) >> 48) / 16384.0f;
}

/* Component k of a pooled vector: `sum` over what the pooled rows say, n of them. */
static inline float sim_pooled(uint64_t sum, int32_t n, int32_t k)
{
    uint64_t x = sim_mix(sim_mix(sum, (uint64_t)n), (uint64_t)k);
    return (float)(int32_t)(x >> 32) * 0x1p-31f;
}

/* Tests look into and poison the pages: word page * page_size + offset. */
uint64_t *sim_words(struct dev *d, int64_t *n_words);

#endif
