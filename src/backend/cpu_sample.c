/* cpu_sample.c - slots, masks, penalties and log probabilities of the cpu device's sampling.
 *
 * The order of steps is sl_sampling.h's. A greedy row that asks for nothing else costs one pass
 * over the logits. Slots belong to the device; a row only touches its own slot and the scratch it
 * was given.
 */
#include "backend/cpu_sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu_pick.h"
#include "base/err.h"

enum { BAD_WORD_TOKENS_MAX = 65536 }; /* all bad words of a request together */

/* Below this a temperature is greedy: 1 / T would overflow, and no second token has any weight. */
static const float temperature_min = 1e-5f;
static const float bias_ban = -100.0f; /* this logit_bias and below bans the token */

struct slot {
    struct sl_sampling sampling; /* its arrays point into mem */
    void *mem;                   /* owned */
    size_t mem_bytes;
    int32_t *history; /* [max_len], borrowed from cpu_slots */
    int32_t n_prompt, n_tokens, last;
};

struct cpu_slots {
    int32_t n_slots, max_len, n_vocab;
    int32_t *histories; /* owned: [n_slots, max_len] */
    struct slot slot[];
};

int cpu_slots_open(struct cpu_slots **out, int32_t n_slots, int32_t max_len, int32_t n_vocab,
                   struct sl_error *e)
{
    size_t n;
    ASSERT(n_slots > 0 && max_len > 0 && n_vocab > 0);
    struct cpu_slots *s = xcalloc(1, sizeof *s + (size_t)n_slots * sizeof s->slot[0]);
    s->n_slots = n_slots;
    s->max_len = max_len;
    s->n_vocab = n_vocab;
    if (!ckd_mul(&n, (size_t)n_slots, (size_t)max_len)) s->histories = calloc(n, sizeof(int32_t));
    if (!s->histories) {
        cpu_slots_close(s);
        return sl_fail(e, SL_ENOMEM, "no memory for the tokens of %d sequences of %d", n_slots,
                       max_len);
    }
    for (int32_t i = 0; i < n_slots; i++)
        s->slot[i].history = s->histories + (size_t)i * (size_t)max_len;
    *out = s;
    return 0;
}

void cpu_slots_close(struct cpu_slots *s)
{
    if (!s) return;
    for (int32_t i = 0; i < s->n_slots; i++) free(s->slot[i].mem);
    free(s->histories);
    free(s);
}

struct sample_scratch *sample_scratch_open(int32_t n_vocab)
{
    struct sample_scratch *t = calloc(1, sizeof *t);
    size_t n = (size_t)n_vocab;
    if (!t) return NULL;
    t->n = n_vocab;
    t->raw = calloc(n, sizeof *t->raw);
    t->w = calloc(n, sizeof *t->w);
    t->keys = calloc(n, sizeof *t->keys);
    t->spare = calloc(n, sizeof *t->spare);
    t->seen = calloc(n, sizeof *t->seen);
    t->count = calloc(n, sizeof *t->count);
    if (t->raw && t->w && t->keys && t->spare && t->seen && t->count) return t;
    sample_scratch_close(t);
    return NULL;
}

void sample_scratch_close(struct sample_scratch *t)
{
    if (!t) return;
    free(t->raw);
    free(t->w);
    free(t->keys);
    free(t->spare);
    free(t->seen);
    free(t->count);
    free(t);
}

void sample_mask(struct sample_scratch *t, const uint32_t *mask)
{
    t->mask = mask;
}

/* ------------------------------------------------------------------ slots */

/* Copy n bytes to *at within the slot's memory and step on; arrays are of 4-byte units. */
static const void *keep(char **at, const void *src, size_t n)
{
    const void *kept = *at;
    if (n) memcpy(*at, src, n);
    *at += n;
    return kept;
}

static int copy_sampling(struct slot *slot, const struct sl_sampling *from, int32_t n_vocab)
{
    size_t n_bad = 0;
    if (from->n_bias > SL_BIAS_MAX || from->n_stop_ids > SL_STOP_IDS_MAX ||
        from->n_eos > from->n_stop_ids || from->n_bad_words > SL_BAD_WORDS_MAX ||
        from->n_allowed > (uint32_t)n_vocab)
        return SL_EVALUE;
    for (uint32_t i = 0; i < from->n_bad_words; i++) n_bad += from->bad_word_len[i];
    if (n_bad > BAD_WORD_TOKENS_MAX) return SL_EVALUE;

    size_t bias = from->n_bias * sizeof *from->bias, stop = from->n_stop_ids * sizeof(int32_t),
           allowed = from->n_allowed * sizeof(int32_t), bad = n_bad * sizeof(int32_t),
           bad_len = from->n_bad_words * sizeof(uint32_t),
           need = bias + stop + allowed + bad + bad_len;
    if (need > slot->mem_bytes) {
        void *mem = realloc(slot->mem, need);
        if (!mem) return SL_ENOMEM;
        slot->mem = mem;
        slot->mem_bytes = need;
    }
    char *at = slot->mem;
    struct sl_sampling *to = &slot->sampling;
    *to = *from;
    if (need == 0) return 0;
    to->bias = keep(&at, from->bias, bias);
    to->stop_ids = keep(&at, from->stop_ids, stop);
    to->allowed_ids = keep(&at, from->allowed_ids, allowed);
    to->bad_words = keep(&at, from->bad_words, bad);
    to->bad_word_len = keep(&at, from->bad_word_len, bad_len);
    return 0;
}

int cpu_slot_assign(struct cpu_slots *s, int32_t slot, const struct slot_init *init)
{
    ASSERT(slot >= 0 && slot < s->n_slots);
    struct slot *p = &s->slot[slot];
    if (init->n_prompt < 0 || init->n_output < 0 || init->n_prompt > s->max_len - init->n_output)
        return SL_EVALUE;
    TRY(copy_sampling(p, init->sampling, s->n_vocab));
    p->n_prompt = init->n_prompt;
    p->n_tokens = init->n_prompt + init->n_output;
    if (p->n_tokens) memcpy(p->history, init->tokens, (size_t)p->n_tokens * sizeof *p->history);
    p->last = p->n_tokens ? p->history[p->n_tokens - 1] : 0;
    return 0;
}

int32_t cpu_slot_last(const struct cpu_slots *s, int32_t slot)
{
    ASSERT(slot >= 0 && slot < s->n_slots);
    return s->slot[slot].last;
}

/* A step that runs ahead may sample one token past the end of a sequence: it is not kept. */
void cpu_slot_push(struct cpu_slots *s, int32_t slot, int32_t token)
{
    struct slot *p = &s->slot[slot];
    p->last = token;
    if (p->n_tokens < s->max_len) p->history[p->n_tokens++] = token;
}

/* ------------------------------------------------------------------ masks and penalties */

static bool is_id(int32_t id, int32_t n)
{
    return id >= 0 && id < n;
}

static void mask_bad_words(const struct slot *p, float *x, int32_t n)
{
    const int32_t *word = p->sampling.bad_words;
    for (uint32_t i = 0; i < p->sampling.n_bad_words; word += p->sampling.bad_word_len[i++]) {
        uint32_t len = p->sampling.bad_word_len[i];
        if (len == 0 || len - 1 > (uint32_t)p->n_tokens || !is_id(word[len - 1], n)) continue;
        const int32_t *tail = p->history + p->n_tokens - (len - 1);
        if (memcmp(tail, word, (len - 1) * sizeof *word) == 0) x[word[len - 1]] = -INFINITY;
    }
}

static void mask_allowed(struct sample_scratch *t, const struct sl_sampling *s, float *x)
{
    for (uint32_t i = 0; i < s->n_allowed; i++)
        if (is_id(s->allowed_ids[i], t->n)) t->seen[s->allowed_ids[i]] = 1;
    for (int32_t i = 0; i < t->n; i++)
        if (!t->seen[i]) x[i] = -INFINITY;
    for (uint32_t i = 0; i < s->n_allowed; i++)
        if (is_id(s->allowed_ids[i], t->n)) t->seen[s->allowed_ids[i]] = 0;
}

static void mask_row(const uint32_t *mask, float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        if (!(mask[i / 32] >> (i % 32) & 1)) x[i] = -INFINITY;
}

static void penalise(struct sample_scratch *t, const struct slot *p, float *x)
{
    const struct sl_sampling *s = &p->sampling;
    for (int32_t i = p->n_prompt; i < p->n_tokens; i++)
        if (is_id(p->history[i], t->n)) t->count[p->history[i]]++;
    for (int32_t i = 0; i < p->n_tokens; i++) {
        int32_t id = p->history[i];
        if (!is_id(id, t->n) || t->seen[id]) continue;
        t->seen[id] = 1;
        x[id] = x[id] > 0.0f ? x[id] / s->repetition_penalty : x[id] * s->repetition_penalty;
        if (t->count[id]) x[id] -= s->frequency_penalty * (float)t->count[id] + s->presence_penalty;
    }
    for (int32_t i = 0; i < p->n_tokens; i++) {
        if (!is_id(p->history[i], t->n)) continue;
        t->seen[p->history[i]] = 0;
        t->count[p->history[i]] = 0;
    }
}

static bool has_penalty(const struct sl_sampling *s)
{
    return s->repetition_penalty != 1.0f || s->frequency_penalty != 0.0f ||
           s->presence_penalty != 0.0f;
}

static bool is_plain(const struct sl_sampling *s, uint32_t position)
{
    return !has_penalty(s) && !s->n_allowed && !s->n_bad_words && !s->n_bias &&
           position >= s->min_tokens;
}

/* Steps 2 and 3. */
static void adjust_row(struct sample_scratch *t, const struct slot *p, float *x, uint32_t position)
{
    const struct sl_sampling *s = &p->sampling;
    if (t->mask) mask_row(t->mask, x, t->n);
    if (s->n_allowed) mask_allowed(t, s, x);
    mask_bad_words(p, x, t->n);
    if (position < s->min_tokens)
        for (uint32_t i = s->ignore_eos ? s->n_eos : 0; i < s->n_stop_ids; i++)
            if (is_id(s->stop_ids[i], t->n)) x[s->stop_ids[i]] = -INFINITY;
    for (uint32_t i = 0; i < s->n_bias; i++) {
        if (!is_id(s->bias[i].token, t->n)) continue;
        float *at = &x[s->bias[i].token];
        *at = s->bias[i].value <= bias_ban ? -INFINITY : *at + s->bias[i].value;
    }
    if (has_penalty(s)) penalise(t, p, x);
}

/* ------------------------------------------------------------------ log probabilities */

/* The n best of the raw row into row i of r, best first. */
static void report_top(const float *x, int32_t n_vocab, int32_t n, double log_sum, float max,
                       struct result *r, int32_t i)
{
    int32_t *id = r->top_id + (size_t)i * SL_TOP_MAX;
    float *lp = r->top_logprob + (size_t)i * SL_TOP_MAX, worst = -INFINITY;
    int32_t held = 0;
    for (int32_t v = 0; v < n_vocab && n > 0; v++) {
        if (held == n && x[v] <= worst) continue;
        int32_t at = held < n ? held++ : n - 1;
        for (; at > 0 && x[id[at - 1]] < x[v]; at--) id[at] = id[at - 1];
        id[at] = v;
        worst = x[id[held - 1]];
    }
    for (int32_t k = 0; k < held; k++) lp[k] = (float)((double)x[id[k]] - (double)max - log_sum);
    r->n_top[i] = held;
}

static int32_t rank_of(const float *x, int32_t n, int32_t token)
{
    int32_t above = 0;
    for (int32_t i = 0; i < n; i++) above += x[i] > x[token];
    for (int32_t i = 0; i < token; i++) above += x[i] == x[token];
    return above + 1;
}

/* ------------------------------------------------------------------ the row */

static int32_t choose(struct sample_scratch *t, const struct slot *p, float *x,
                      const struct row_range *raw, uint32_t position)
{
    struct row_range range = *raw;
    if (t->mask || !is_plain(&p->sampling, position)) {
        adjust_row(t, p, x, position);
        range = row_scan(x, t->n);
    }
    if (!isfinite(range.max)) return -1;
    if (p->sampling.temperature < temperature_min) return range.argmax;
    return pick_token(t, x, &range, &p->sampling, position);
}

void cpu_sample_row(struct cpu_slots *s, int32_t slot, struct sample_scratch *t, float *logits,
                    const struct want *w, struct result *r, int32_t i)
{
    ASSERT(slot >= 0 && slot < s->n_slots && t->n == s->n_vocab);
    struct slot *p = &s->slot[slot];
    const float *raw = logits;
    double log_sum = 0.0;
    int32_t token = w->target;
    r->logprob[i] = 0.0f;
    r->rank[i] = 0;
    r->n_top[i] = 0;
    r->token[i] = -1;
    struct row_range range = row_scan(logits, t->n);
    if (!range.is_finite || token >= t->n) return;
    if (w->n_top >= 0) {
        log_sum = log(row_exp(logits, t->n, range.max, 1.0f, t->w));
        report_top(logits, t->n, w->n_top < SL_TOP_MAX ? w->n_top : SL_TOP_MAX, log_sum, range.max,
                   r, i);
        if (token < 0) { /* the choice below rewrites the row */
            memcpy(t->raw, logits, (size_t)t->n * sizeof *t->raw);
            raw = t->raw;
        }
    }
    if (token < 0) {
        token = choose(t, p, logits, &range, w->position);
        if (token < 0) {
            r->n_top[i] = 0;
            return;
        }
        cpu_slot_push(s, slot, token);
    }
    r->token[i] = token;
    if (w->n_top < 0) return;
    r->logprob[i] = (float)((double)raw[token] - (double)range.max - log_sum);
    r->rank[i] = rank_of(raw, t->n, token);
}
