/* request.c - the one gate into the engine: every number and id a client sends is checked here,
 * whatever the layers above have checked. What passes can be computed to its end by an otherwise
 * empty engine. Io thread only.
 */
#include "engine/request.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/mutants.h"
#include "text/grammar.h"

enum { BAD_WORD_MAX = 1024 }; /* tokens */

static int check_ids(const int32_t *ids, size_t n, int32_t n_vocab, const char *what,
                     struct sl_error *e)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= n_vocab)
            return sl_fail_param(e, SL_EVALUE, what,
                                 "Token id %d is not in the model's vocabulary (0 to %d).", ids[i],
                                 n_vocab - 1);
    return 0;
}

/* In [low, high]; NaN is not. */
static int check_range(double x, double low, double high, const char *what, struct sl_error *e)
{
    if (x >= low && x <= high) return 0;
    return sl_fail_param(e, SL_EVALUE, what, "'%s' must be between %g and %g.", what, low, high);
}

static int check_numbers(const struct sl_sampling *s, struct sl_error *e)
{
    TRY(check_range(s->temperature, 0, 1e6, "temperature", e));
    TRY(check_range(s->top_p, 0, 1, "top_p", e));
    TRY(check_range(s->min_p, 0, 1, "min_p", e));
    TRY(check_range(s->typical_p, 0, 1, "typical_p", e));
    TRY(check_range(s->top_k, -1, INT32_MAX, "top_k", e));
    TRY(check_range(s->repetition_penalty, 1e-6, 1e6, "repetition_penalty", e));
    TRY(check_range(s->presence_penalty, -2, 2, "presence_penalty", e));
    TRY(check_range(s->frequency_penalty, -2, 2, "frequency_penalty", e));
    TRY(check_range(s->n_logprobs, -1, SL_TOP_MAX, "logprobs", e));
    TRY(check_range(s->n_prompt_logprobs, -1, SL_TOP_MAX, "prompt_logprobs", e));
    return 0;
}

static int check_lists(const struct sl_sampling *s, int32_t n_vocab, struct sl_error *e)
{
    if (s->n_stop_ids > SL_STOP_IDS_MAX || s->n_eos > s->n_stop_ids)
        return sl_fail_param(e, SL_ELONG, "stop_token_ids", "At most %d stop token ids.",
                             SL_STOP_IDS_MAX);
    TRY(check_ids(s->stop_ids, s->n_stop_ids, n_vocab, "stop_token_ids", e));
    if (s->n_bias > SL_BIAS_MAX)
        return sl_fail_param(e, SL_ELONG, "logit_bias", "At most %d biased tokens.", SL_BIAS_MAX);
    for (uint32_t i = 0; i < s->n_bias; i++) {
        TRY(check_ids(&s->bias[i].token, 1, n_vocab, "logit_bias", e));
        if (!isfinite(s->bias[i].value))
            return sl_fail_param(e, SL_EVALUE, "logit_bias", "A bias must be a finite number.");
    }
    if (s->n_allowed > (uint32_t)n_vocab)
        return sl_fail_param(e, SL_ELONG, "allowed_token_ids",
                             "More allowed ids than the vocabulary has.");
    TRY(check_ids(s->allowed_ids, s->n_allowed, n_vocab, "allowed_token_ids", e));
    if (s->n_bad_words > SL_BAD_WORDS_MAX)
        return sl_fail_param(e, SL_ELONG, "bad_words", "At most %d bad words.", SL_BAD_WORDS_MAX);
    size_t n_bad = 0;
    for (uint32_t i = 0; i < s->n_bad_words; i++) {
        if (s->bad_word_len[i] == 0 || s->bad_word_len[i] > BAD_WORD_MAX)
            return sl_fail_param(e, SL_ELONG, "bad_words", "A bad word has 1 to %d tokens.",
                                 BAD_WORD_MAX);
        n_bad += s->bad_word_len[i];
    }
    return check_ids(s->bad_words, n_bad, n_vocab, "bad_words", e);
}

static int check_pool(const struct sl_request *r, int32_t n_pooled, struct sl_error *e)
{
    if (r->pool == SL_POOL_NONE) return 0;
    if (r->pool > SL_POOL_CLS) return sl_fail(e, SL_EINVAL, "no such way of pooling");
    if (n_pooled == 0)
        return sl_fail(e, SL_EUNSUPPORTED,
                       "This server's device makes no embeddings; use --device cpu.");
    if (r->sampling.max_tokens > 0 || r->sampling.n_prompt_logprobs >= 0 || r->grammar)
        return sl_fail(e, SL_EINVAL, "A pooled request generates and scores nothing.");
    return 0;
}

int request_check(const struct sl_request *r, const struct request_limits *l, struct sl_error *e)
{
    const struct sl_sampling *s = &r->sampling;
    if (r->n_prompt == 0) return sl_fail_param(e, SL_EINVAL, "prompt", "The prompt is empty.");
    uint64_t n = (uint64_t)r->n_prompt + s->max_tokens;
    if (n > (uint64_t)l->max_model_len)
        return sl_fail_param(
            e, SL_ECONTEXT, "prompt",
            "This model's maximum context length is %d tokens, but %u tokens in the prompt and "
            "%u to generate were requested.",
            l->max_model_len, r->n_prompt, s->max_tokens);
    uint64_t n_computed = n - (s->max_tokens > 0); /* the last token is never fed back */
    uint64_t n_pages = (n_computed + (uint64_t)l->page_size - 1) / (uint64_t)l->page_size;
    if (n_pages > (uint64_t)l->n_pages && MUT(SCHED_NO_FIT, true, false))
        return sl_fail_param(e, SL_ECONTEXT, "prompt",
                             "The request needs %llu KV-cache pages, but the server has %d in all.",
                             (unsigned long long)n_pages, l->n_pages);
    TRY(check_ids(r->prompt, r->n_prompt, l->n_vocab, "prompt", e));
    TRY(check_numbers(s, e));
    TRY(check_pool(r, l->n_pooled, e));
    if (r->grammar && grammar_words(r->grammar) > ((size_t)l->n_vocab + 31) / 32)
        return sl_fail(e, SL_EINVAL, "The grammar's vocabulary is wider than the model's.");
    const struct sl_thinking *t = &r->thinking;
    if (t->n_close > SL_THINK_CLOSE_MAX || (t->n_close && t->open >= l->n_vocab))
        return sl_fail(e, SL_EINVAL, "The ids around thinking do not fit.");
    TRY(check_ids(t->close, t->n_close, l->n_vocab, "thinking", e));
    return check_lists(s, l->n_vocab, e);
}

/* Moves a copy of an array into the block at *at; all arrays hold 4-byte elements. */
static void *place(char **at, const void *from, size_t bytes)
{
    void *to = *at;
    if (bytes) memcpy(to, from, bytes);
    *at += bytes;
    return to;
}

struct request *request_new(const struct sl_request *r, int32_t n_pooled)
{
    const struct sl_sampling *s = &r->sampling;
    size_t n_bad = 0;
    for (uint32_t i = 0; i < s->n_bad_words; i++) n_bad += s->bad_word_len[i];
    size_t prompt_bytes = r->n_prompt * sizeof(int32_t),
           output_bytes = s->max_tokens * sizeof(int32_t);
    size_t stop_bytes = s->n_stop_ids * sizeof(int32_t),
           bias_bytes = s->n_bias * sizeof(struct sl_bias);
    size_t allowed_bytes = s->n_allowed * sizeof(int32_t), bad_bytes = n_bad * sizeof(int32_t);
    size_t len_bytes = s->n_bad_words * sizeof(uint32_t),
           close_bytes = r->thinking.n_close * sizeof(int32_t);
    size_t pooled_bytes = r->pool ? (size_t)n_pooled * sizeof(float) : 0;
    struct request *q = malloc(sizeof *q + prompt_bytes + output_bytes + stop_bytes + bias_bytes +
                               allowed_bytes + bad_bytes + len_bytes + close_bytes + pooled_bytes);
    if (!q) return NULL;
    *q = (struct request){.sampling = *s,
                          .salt = {r->salt[0], r->salt[1]},
                          .priority = r->priority,
                          .grammar = r->grammar,
                          .thinking = r->thinking,
                          .due_us = r->due_us,
                          .tpot_us = r->tpot_us,
                          .is_background = r->is_background,
                          .n_prompt = (int32_t)r->n_prompt,
                          .max_tokens = (int32_t)s->max_tokens,
                          .pool = r->pool};
    char *at = (char *)(q + 1);
    q->sampling.stop_ids = place(&at, s->stop_ids, stop_bytes);
    q->sampling.bias = place(&at, s->bias, bias_bytes);
    q->sampling.allowed_ids = place(&at, s->allowed_ids, allowed_bytes);
    q->sampling.bad_words = place(&at, s->bad_words, bad_bytes);
    q->sampling.bad_word_len = place(&at, s->bad_word_len, len_bytes);
    q->thinking.close = place(&at, r->thinking.close, close_bytes);
    if (r->pool) q->pooled = (float *)(void *)at;
    at += pooled_bytes;
    q->tokens = place(&at, r->prompt, prompt_bytes);
    if (q->grammar) grammar_ref(q->grammar);
    return q;
}

void request_free(struct request *q)
{
    if (q) grammar_unref(q->grammar);
    free(q);
}
