/* cuda_slots.c - sampling state of sequences on the device.
 *
 * A slot is a struct kslot, a region for the request's arrays, and where penalties or bad words
 * need them the sequence's tokens and their counts. assign fills a pinned copy and queues it; the
 * kernel that samples keeps slots up to date from then on.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda_dev.h"

struct region { /* offsets within a slot's region */
    size_t bias, stop, bad_len, bad, allowed, bytes;
};

static struct region region_of(int32_t n_vocab)
{
    struct region r = {0};
    r.stop = r.bias + SL_BIAS_MAX * sizeof(struct sl_bias);
    r.bad_len = r.stop + SL_STOP_IDS_MAX * 4;
    r.bad = r.bad_len + SL_BAD_WORDS_MAX * 4;
    r.allowed = r.bad + BAD_TOKENS_MAX * 4;
    r.bytes = r.allowed + ((size_t)n_vocab / 32 + 1) * 4;
    return r;
}

static size_t history_at(const struct dev *d)
{
    return (sizeof(struct kslot) + d->region_bytes + 63) / 64 * 64;
}

int cuda_slots_open(struct dev *d, struct sl_error *e)
{
    const struct dev_config *c = &d->config;
    size_t seqs = (size_t)c->max_seqs, vocab = (size_t)c->n_vocab, len = (size_t)c->max_model_len;
    d->region_bytes = (region_of(c->n_vocab).bytes + 63) / 64 * 64;
    d->slots_d = cuda_alloc(d, seqs * sizeof *d->slots_d, "slots", e);
    d->regions_d = cuda_alloc(d, seqs * d->region_bytes, "sampling parameters", e);
    d->histories_d = cuda_alloc(d, seqs * len * 4, "histories", e);
    d->counts_d = cuda_alloc(d, seqs * vocab * 4, "token counts", e);
    d->work_d = cuda_alloc(d, (size_t)c->max_wants * vocab * 4, "sampling rows", e);
    d->pool_sums_d =
        cuda_alloc(d, seqs * (size_t)c->n_hidden * sizeof *d->pool_sums_d, "pooling", e);
    d->pool_rows = xcalloc(seqs, sizeof *d->pool_rows);
    if (!d->slots_d || !d->regions_d || !d->histories_d || !d->counts_d || !d->work_d ||
        !d->pool_sums_d)
        return SL_ENOMEM;
    for (int i = 0; i < ASSIGN_BUFFERS; i++) {
        TRY(cuda_check(cudaHostAlloc((void **)&d->assign[i].pinned, history_at(d) + len * 4,
                                     cudaHostAllocDefault),
                       "pinned memory"));
        TRY(cuda_check(cudaEventCreateWithFlags(&d->assign[i].done, cudaEventDisableTiming),
                       "event"));
    }
    return 0;
}

void cuda_slots_close(struct dev *d)
{
    free(d->pool_rows);
    for (int i = 0; i < ASSIGN_BUFFERS; i++) {
        cudaFreeHost(d->assign[i].pinned);
        if (d->assign[i].done) cudaEventDestroy(d->assign[i].done);
    }
}

/* The request's arrays into the host's copy of the region. *bad_bytes: of all bad words. */
static int fill_region(char *to, const struct region *r, const struct sl_sampling *s,
                       int32_t n_vocab)
{
    size_t n_bad = 0;
    if (s->n_bias > SL_BIAS_MAX || s->n_stop_ids > SL_STOP_IDS_MAX || s->n_eos > s->n_stop_ids ||
        s->n_bad_words > SL_BAD_WORDS_MAX || s->n_allowed > (uint32_t)n_vocab)
        return SL_EVALUE;
    for (uint32_t i = 0; i < s->n_bad_words; i++) n_bad += s->bad_word_len[i];
    if (n_bad > BAD_TOKENS_MAX) return SL_EVALUE;
    if (s->n_bias) memcpy(to + r->bias, s->bias, s->n_bias * sizeof *s->bias);
    uint32_t skip = s->ignore_eos ? s->n_eos : 0;
    if (s->n_stop_ids > skip) memcpy(to + r->stop, s->stop_ids + skip, (s->n_stop_ids - skip) * 4);
    if (s->n_bad_words) memcpy(to + r->bad_len, s->bad_word_len, s->n_bad_words * 4);
    if (n_bad) memcpy(to + r->bad, s->bad_words, n_bad * 4);
    if (!s->n_allowed) return 0;
    uint32_t *bits = (uint32_t *)(void *)(to + r->allowed);
    memset(bits, 0, r->bytes - r->allowed);
    for (uint32_t i = 0; i < s->n_allowed; i++)
        if (s->allowed_ids[i] >= 0 && s->allowed_ids[i] < n_vocab)
            bits[s->allowed_ids[i] / 32] |= 1u << (s->allowed_ids[i] % 32);
    return 0;
}

static void fill_slot(struct dev *d, struct kslot *k, int32_t slot, const struct slot_init *init)
{
    const struct sl_sampling *s = init->sampling;
    struct region r = region_of(d->config.n_vocab);
    char *base = d->regions_d + (size_t)slot * d->region_bytes;
    int32_t n = init->n_prompt + init->n_output;
    *k = (struct kslot){.temperature = s->temperature,
                        .top_p = s->top_p,
                        .min_p = s->min_p,
                        .typical_p = s->typical_p,
                        .repetition_penalty = s->repetition_penalty,
                        .presence_penalty = s->presence_penalty,
                        .frequency_penalty = s->frequency_penalty,
                        .top_k = s->top_k,
                        .seed = s->seed,
                        .min_tokens = s->min_tokens,
                        .n_stop = (int32_t)(s->n_stop_ids - (s->ignore_eos ? s->n_eos : 0)),
                        .n_bias = (int32_t)s->n_bias,
                        .n_bad = (int32_t)s->n_bad_words,
                        .n_allowed = (int32_t)s->n_allowed,
                        .n_prompt = init->n_prompt,
                        .n_tokens = n,
                        .last = n ? init->tokens[n - 1] : 0,
                        .stop = (const int32_t *)(void *)(base + r.stop),
                        .bias = (const struct sl_bias *)(void *)(base + r.bias),
                        .bad = (const int32_t *)(void *)(base + r.bad),
                        .bad_len = (const int32_t *)(void *)(base + r.bad_len),
                        .allowed = (const uint32_t *)(void *)(base + r.allowed),
                        .history = d->histories_d + (size_t)slot * (size_t)d->config.max_model_len,
                        .count = d->counts_d + (size_t)slot * (size_t)d->config.n_vocab};
    k->has_penalty = s->repetition_penalty != 1.0f || s->frequency_penalty != 0.0f ||
                     s->presence_penalty != 0.0f;
    k->has_history = k->has_penalty || s->n_bad_words;
}

/* Nothing is pooled yet. Only after something was: most sequences pool nothing. */
static int clear_pool(struct dev *d, int32_t slot)
{
    size_t n = (size_t)d->config.n_hidden;
    if (!d->pool_rows[slot]) return 0;
    d->pool_rows[slot] = 0;
    return cuda_check(cudaMemsetAsync(d->pool_sums_d + (size_t)slot * n, 0,
                                      n * sizeof *d->pool_sums_d, d->stream),
                      "assign");
}

int cuda_assign(struct dev *d, int32_t slot, const struct slot_init *init)
{
    const struct sl_sampling *s = init->sampling;
    struct region r = region_of(d->config.n_vocab);
    if (slot < 0 || slot >= d->config.max_seqs) return SL_EINTERNAL;
    if (init->n_prompt < 0 || init->n_output < 0 ||
        init->n_prompt > d->config.max_model_len - init->n_output)
        return SL_EVALUE;
    TRY(cuda_enter(d));
    TRY(clear_pool(d, slot));
    struct cuda_assign *a = &d->assign[d->n_assigned % ASSIGN_BUFFERS];
    if (d->n_assigned >= ASSIGN_BUFFERS) TRY(cuda_check(cudaEventSynchronize(a->done), "assign"));
    struct kslot *k = (struct kslot *)(void *)a->pinned;
    char *region = a->pinned + sizeof *k, *history = a->pinned + history_at(d);
    TRY(fill_region(region, &r, s, d->config.n_vocab));
    fill_slot(d, k, slot, init);
    TRY(cuda_check(
        cudaMemcpyAsync(d->slots_d + slot, k, sizeof *k, cudaMemcpyHostToDevice, d->stream),
        "assign"));
    if (s->n_bias || s->n_stop_ids || s->n_bad_words || s->n_allowed) {
        size_t n = s->n_allowed ? r.bytes : r.allowed;
        TRY(cuda_check(cudaMemcpyAsync(d->regions_d + (size_t)slot * d->region_bytes, region, n,
                                       cudaMemcpyHostToDevice, d->stream),
                       "assign"));
    }
    if (k->has_history && k->n_tokens) {
        memcpy(history, init->tokens, (size_t)k->n_tokens * 4);
        TRY(cuda_check(cudaMemcpyAsync(k->history, history, (size_t)k->n_tokens * 4,
                                       cudaMemcpyHostToDevice, d->stream),
                       "assign"));
    }
    if (k->has_penalty)
        TRY(cuda_check(k_slot_begin(d->stream, d->slots_d, slot, d->config.n_vocab), "assign"));
    TRY(cuda_check(cudaEventRecord(a->done, d->stream), "assign"));
    d->n_assigned++;
    return 0;
}
