/* sl_sampling.h - how one sequence's tokens are chosen. Plain data, the same for every device.
 *
 * Sampling is a pure function of (logits, this struct, seed, position, the sequence's own tokens).
 * The order, fixed for every device:
 *   1. log probabilities that are reported: log-softmax of the raw logits in f32 (before everything
 * below)
 *   2. masks: allowed_ids, bad_words, min_tokens (eos and stop ids), then logit_bias is added
 *   3. penalties: repetition (prompt and output), then frequency and presence (output only)
 *   4. temperature; 0 means argmax here (ties: lowest id) and ends
 *   5. min_p, top_k, top_p, typical_p, each on the distribution left by the one before
 *   6. one uniform number from Philox4x32-10(key = seed, counter = output position) picks by
 * inverse transform over the kept tokens in descending probability (ties: lowest id first) Source:
 * vLLM V1 sampler order; Holtzman 2020 (top-p), Meister 2022 (typical), Salmon 2011 (Philox).
 */
#ifndef SLUICE_SL_SAMPLING_H
#define SLUICE_SL_SAMPLING_H

#include <stdint.h>

enum {
    SL_TOP_MAX = 20,       /* alternatives reported a token */
    SL_BIAS_MAX = 1024,    /* logit_bias entries */
    SL_STOP_IDS_MAX = 64,  /* eos ids and stop_token_ids together */
    SL_BAD_WORDS_MAX = 128 /* sequences */
};

struct sl_bias {
    int32_t token;
    float value; /* added to the logit; -100 and below bans the token */
};

struct sl_sampling {
    float temperature;        /* >= 0; 0: greedy */
    float top_p;              /* (0, 1]; 1: off. 0 keeps one token */
    float min_p;              /* [0, 1]; 0: off */
    float typical_p;          /* (0, 1]; 1: off */
    int32_t top_k;            /* 0 or -1: off */
    float repetition_penalty; /* > 0; 1: off */
    float presence_penalty;   /* [-2, 2] */
    float frequency_penalty;  /* [-2, 2] */
    uint64_t seed;            /* always set: the caller draws one where the client gave none */
    uint32_t max_tokens;      /* >= 1 generated; or 0 for scoring the prompt only */
    uint32_t min_tokens;      /* eos and stop ids are masked before that many */
    int8_t n_logprobs;        /* -1: none; 0: the sampled token's; k: and the k best */
    int8_t n_prompt_logprobs; /* the same for each prompt token but the first */
    uint8_t ignore_eos;       /* the eos ids do not stop (they are not masked either) */
    /* Borrowed during sl_submit, which copies them. */
    const int32_t
        *stop_ids; /* end the sequence; the token is reported with reason SL_FINISH_STOP */
    uint32_t n_eos, n_stop_ids; /* the first n_eos of them are the model's own eos ids */
    const struct sl_bias *bias;
    uint32_t n_bias;
    const int32_t *allowed_ids; /* n_allowed > 0: only these may be sampled */
    uint32_t n_allowed;
    const int32_t *bad_words;     /* token sequences, concatenated */
    const uint32_t *bad_word_len; /* [n_bad_words] */
    uint32_t n_bad_words;
};

#endif
