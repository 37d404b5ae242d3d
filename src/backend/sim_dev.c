/* sim_dev.c - a device that does no maths: it hashes, and so notices every misplaced page.
 *
 * It ignores the steps of the plan and does everything in launch, or what needs masks in sample: each
 * row reads its predecessor's hash through the block table and writes its own; wanted rows turn the
 * hash into a token. Any stale, aliased, missing or misplaced page changes the output. A step's length
 * is emulated by sim_step_us and sim_row_us, from launch on, or until its masks come if that is later; a
 * lost GPU by a failing collect of step fail_step. Honoured of sampling: temperature
 * (with seed and position), penalties (that output counts matter, not how), bias of
 * +-100, allowed_ids, bad words of one token, min_tokens, ignore_eos, log probabilities.
 */
#include "backend/sim_dev.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"

enum {
    N_RESULTS = 3,   /* two outstanding and the one being read */
    EOS_ONE_IN = 64, /* how seldom a text ends by itself */
    WORDS_MIN = 4096,
    REPLAY_FROM = 2, /* tokens around what sim_replay answers: STX and ETX of a byte vocabulary */
    REPLAY_TO = 3,
};

struct sim_slot {
    struct sl_sampling s;
    int32_t *ids; /* owned; what s's arrays point to */
    size_t ids_max;
    uint64_t head, output_sum, pool_sum;
    int32_t last_token, n_pooled;
    int32_t *replay; /* owned [n_replay]: sim_replay's answer; -1: the prompt has none */
    int32_t n_replay;
};

struct dev {
    struct dev_config cfg;
    struct sim_slot *slot; /* owned [max_seqs] */
    uint64_t *word;        /* owned [n_words]: the pages; grows to the highest page seen */
    int64_t n_words;
    struct result result[N_RESULTS]; /* arrays owned */
    uint64_t end_us[N_RESULTS];
    uint64_t n_launched, n_collected;
    void **block; /* owned: what alloc gave out */
    size_t n_blocks;
};

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static int sim_probe(struct sl_error *e)
{
    (void)e;
    return 0;
}

static void sim_memory(int32_t rank, uint64_t *total, uint64_t *free_now)
{
    (void)rank;
    *total = *free_now = (uint64_t)1 << 30;
}

static void sim_close(struct dev *d)
{
    if (!d) return;
    for (int32_t i = 0; i < d->cfg.max_seqs; i++) {
        free(d->slot[i].ids);
        free(d->slot[i].replay);
    }
    for (int i = 0; i < N_RESULTS; i++) {
        struct result *r = &d->result[i];
        void *owned[] = {r->token,  r->logprob,     r->rank,  r->n_top,
                         r->top_id, r->top_logprob, r->pooled};
        for (size_t k = 0; k < sizeof owned / sizeof *owned; k++) free(owned[k]);
    }
    for (size_t i = 0; i < d->n_blocks; i++) free(d->block[i]);
    free(d->block);
    free(d->slot);
    free(d->word);
    free(d);
}

static int sim_open(struct dev **out, const struct dev_config *c, struct sl_error *e)
{
    if (c->n_vocab < 1 || c->max_seqs < 1 || c->max_wants < 1 || c->page_size < 1)
        return sl_fail(e, SL_EINVAL, "the sim device needs a vocabulary, sequences and pages");
    struct dev *d = xcalloc(1, sizeof *d);
    size_t n = (size_t)c->max_wants;
    d->cfg = *c;
    d->slot = xcalloc((size_t)c->max_seqs, sizeof *d->slot);
    for (int i = 0; i < N_RESULTS; i++) {
        d->result[i] = (struct result){
            .token = xcalloc(n, sizeof(int32_t)),
            .logprob = xcalloc(n, sizeof(float)),
            .rank = xcalloc(n, sizeof(int32_t)),
            .n_top = xcalloc(n, sizeof(int32_t)),
            .top_id = xcalloc(n * SL_TOP_MAX, sizeof(int32_t)),
            .top_logprob = xcalloc(n * SL_TOP_MAX, sizeof(float)),
            .pooled = xcalloc((size_t)c->max_seqs * (size_t)c->n_hidden, sizeof(float))};
    }
    *out = d;
    return 0;
}

static void *sim_alloc(struct dev *d, size_t bytes, const char *what, struct sl_error *e)
{
    size_t rounded;
    void *p = ckd_align(&rounded, bytes ? bytes : 1, 64) ? NULL : aligned_alloc(64, rounded);
    if (!p) {
        sl_fail(e, SL_ENOMEM, "no room for %zu bytes of %s", bytes, what);
        return NULL;
    }
    memset(p, 0, rounded);
    d->block = xrealloc(d->block, (d->n_blocks + 1) * sizeof *d->block);
    return d->block[d->n_blocks++] = p;
}

/* Weights are not kept: one line stands for any number of rows. */
static size_t sim_weight_bytes(enum dtype type, int64_t rows, int64_t cols)
{
    (void)type, (void)rows, (void)cols;
    return 64;
}

static int sim_upload(struct dev *d, int32_t lane, const struct weight_rows *p)
{
    (void)d, (void)lane, (void)p;
    return 0;
}

static int sim_fill(struct dev *d, int32_t lane, const struct weight_rows *p, const struct dummy *x)
{
    (void)d, (void)lane, (void)p, (void)x;
    return 0;
}

static const int32_t *copy_ids(int32_t **at, const void *from, size_t n)
{
    int32_t *to = *at;
    if (n) memcpy(to, from, n * sizeof *to);
    *at += n;
    return to;
}

/* The prompt's last text between REPLAY_FROM and REPLAY_TO, or its end. */
static void find_replay(struct sim_slot *t, const struct slot_init *init)
{
    int32_t at = init->n_prompt, n = 0;
    while (at > 0 && init->tokens[at - 1] != REPLAY_FROM) at--;
    t->n_replay = -1;
    if (at == 0) return;
    while (at + n < init->n_prompt && init->tokens[at + n] != REPLAY_TO) n++;
    t->replay = xrealloc(t->replay, ((size_t)n + 1) * sizeof *t->replay);
    memcpy(t->replay, init->tokens + at, (size_t)n * sizeof *t->replay);
    t->n_replay = n;
}

static int sim_assign(struct dev *d, int32_t slot, const struct slot_init *init)
{
    struct sim_slot *t = &d->slot[slot];
    const struct sl_sampling *s = init->sampling;
    size_t n_bad = 0;
    for (uint32_t i = 0; i < s->n_bad_words; i++) n_bad += s->bad_word_len[i];
    size_t n_ids = s->n_stop_ids + 2 * (size_t)s->n_bias + s->n_allowed + n_bad + s->n_bad_words;
    if (n_ids > t->ids_max) t->ids = xrealloc(t->ids, (t->ids_max = n_ids) * sizeof *t->ids);
    int32_t *at = t->ids;
    t->s = *s;
    t->s.stop_ids = copy_ids(&at, s->stop_ids, s->n_stop_ids);
    t->s.bias = (const struct sl_bias *)copy_ids(&at, s->bias, 2 * (size_t)s->n_bias);
    t->s.allowed_ids = copy_ids(&at, s->allowed_ids, s->n_allowed);
    t->s.bad_words = copy_ids(&at, s->bad_words, n_bad);
    t->s.bad_word_len = (const uint32_t *)copy_ids(&at, s->bad_word_len, s->n_bad_words);
    t->head = sim_head(init->salt);
    t->last_token = -1;
    t->n_replay = -1;
    if (d->cfg.sim_replay) find_replay(t, init);
    t->output_sum = t->pool_sum = 0;
    t->n_pooled = 0;
    for (int32_t i = 0; i < init->n_output; i++)
        t->output_sum += sim_mix(0, (uint64_t)init->tokens[init->n_prompt + i]);
    return 0;
}

static bool is_banned(const struct sl_sampling *s, int32_t token, uint32_t position)
{
    for (uint32_t i = 0; i < s->n_bias; i++)
        if (s->bias[i].token == token && s->bias[i].value <= -100) return true;
    for (uint32_t i = 0; position < s->min_tokens && i < s->n_stop_ids; i++)
        if (s->stop_ids[i] == token) return true;
    const int32_t *word = s->bad_words;
    for (uint32_t i = 0; i < s->n_bad_words; word += s->bad_word_len[i++])
        if (s->bad_word_len[i] == 1 && *word == token) return true;
    return false;
}

static bool is_allowed(const struct sl_sampling *s, const struct sim_row *r, int32_t token)
{
    return r->mask[token / 32] >> (token % 32) & 1 && !is_banned(s, token, r->position);
}

static bool allows_all(const struct sim_row *r)
{
    int32_t i = 0, n = r->n_vocab;
    while (i + 32 <= n && r->mask[i / 32] == UINT32_MAX) i += 32;
    while (i < n && r->mask[i / 32] >> (i % 32) & 1) i++;
    return i >= n;
}

/* Some tokens that the hash picks, then the first allowed one from there on; -1: there is none. */
static int32_t pick_masked(const struct sl_sampling *s, const struct sim_row *r, uint64_t x)
{
    int32_t token = 0, n = r->n_vocab;
    for (uint64_t k = 0; k < 64; k++) {
        token = (int32_t)(sim_mix(x, k) % (uint64_t)n);
        if (is_allowed(s, r, token)) return token;
    }
    for (int32_t i = 0; i < n; i++, token = (token + 1) % n) {
        if (is_allowed(s, r, token)) return token;
        if (token % 32 == 0 && token + 32 <= n && !r->mask[token / 32]) i += 31, token += 31;
    }
    return -1;
}

int32_t sim_pick(const struct sl_sampling *s, const struct sim_row *r)
{
    uint64_t logits = r->logits, output_sum = r->output_sum;
    int32_t n_vocab = r->n_vocab;
    uint32_t position = r->position;
    static const char text[] = "the quick brown fox jumps over a lazy dog and then sleeps a lot ";
    uint64_t x = logits;
    if (s->temperature > 0) x = sim_mix(x, s->seed + position);
    if (s->repetition_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0)
        x = sim_mix(x, output_sum);
    if (r->mask && !allows_all(r)) return pick_masked(s, r, x);
    for (uint32_t i = 0; i < s->n_bias; i++)
        if (s->bias[i].value >= 100) return s->bias[i].token;
    if (s->n_eos > 0 && !s->ignore_eos && s->n_allowed == 0 && (x >> 40) % EOS_ONE_IN == 0 &&
        !is_banned(s, s->stop_ids[0], position))
        return s->stop_ids[0];
    for (uint64_t k = 0; k < 64; k++) {
        uint64_t y = x + k * 0x9e3779b9u;
        int32_t token = s->n_allowed    ? s->allowed_ids[y % s->n_allowed]
                        : n_vocab < 128 ? (int32_t)(y % (uint64_t)n_vocab)
                                        : text[y % (sizeof text - 1)];
        if (!is_banned(s, token, position)) return token;
    }
    for (int32_t token = 0; token < n_vocab; token++)
        if (!is_banned(s, token, position)) return token;
    return 0;
}

uint64_t *sim_words(struct dev *d, int64_t *n_words)
{
    *n_words = d->n_words;
    return d->word;
}

static void hold(struct dev *d, int64_t n)
{
    if (n <= d->n_words) return;
    int64_t held = d->n_words ? d->n_words : WORDS_MIN;
    while (held < n) held *= 2;
    d->word = xrealloc(d->word, (size_t)held * sizeof *d->word);
    memset(d->word + d->n_words, 0, (size_t)(held - d->n_words) * sizeof *d->word);
    d->n_words = held;
}

/* Hash at a position of the batch's sequence i, through its block table. */
static uint64_t word_at(const struct dev *d, const struct batch *b, int32_t i, int32_t pos)
{
    const int32_t *pages = b->pages + (size_t)i * (size_t)b->pages_stride;
    return d->word[(int64_t)pages[pos / b->page_size] * b->page_size + pos % b->page_size];
}

/* What a row of sequence seq says. */
static uint64_t logits_of(const struct dev *d, const struct batch *b, int32_t seq, int32_t row)
{
    int32_t pos = b->pos[row], n = pos + 1 < b->kv_len[seq] ? pos + 1 : b->kv_len[seq];
    uint64_t h = word_at(d, b, seq, pos);
    return sim_logits(h, word_at(d, b, seq, sim_look(h, 0, n)),
                      word_at(d, b, seq, sim_look(h, 1, n)));
}

static void pool_rows(struct dev *d, const struct batch *b, int32_t i, struct result *r)
{
    const struct pooling *p = &b->pooling[i];
    struct sim_slot *t = &d->slot[b->slot[p->seq]];
    for (int32_t row = p->row; row < p->row + p->n_rows; row++)
        t->pool_sum += logits_of(d, b, p->seq, row);
    t->n_pooled += p->n_rows;
    for (int32_t k = 0; p->is_last && k < d->cfg.n_hidden; k++)
        r->pooled[i * d->cfg.n_hidden + k] = sim_pooled(t->pool_sum, t->n_pooled, k);
}

/* What sim_replay says at an output index; -1: nothing. */
static int32_t replay_token(const struct sim_slot *t, uint32_t position)
{
    if ((int64_t)position < t->n_replay) return t->replay[position];
    return t->n_replay >= 0 && t->s.n_eos > 0 ? t->s.stop_ids[0] : -1;
}

static void answer(struct dev *d, const struct batch *b, int32_t i, struct result *r)
{
    const struct want *w = &b->want[i];
    struct sim_slot *t = &d->slot[b->slot[w->seq]];
    uint64_t logits = logits_of(d, b, w->seq, w->row);
    int32_t token = w->target, n_vocab = d->cfg.n_vocab;
    if (token < 0) {
        const struct sim_row row = {
            .n_vocab = n_vocab,
            .logits = logits,
            .position = w->position,
            .output_sum = t->output_sum,
            .mask = w->mask ? b->masks + (size_t)(w->mask - 1) * (size_t)b->mask_words : NULL};
        token = sim_pick(&t->s, &row);
        int32_t said = replay_token(t, w->position);
        if (said >= 0 && (!row.mask || row.mask[said / 32] >> (said % 32) & 1)) token = said;
        t->output_sum += sim_mix(0, (uint64_t)token);
        t->last_token = token;
    }
    r->token[i] = token;
    r->logprob[i] = sim_logprob(logits, token);
    r->rank[i] = 1;
    r->n_top[i] = w->n_top < n_vocab ? w->n_top : n_vocab;
    for (int32_t k = 0; k < r->n_top[i]; k++) {
        r->top_id[i * SL_TOP_MAX + k] = (token + k) % n_vocab;
        r->top_logprob[i * SL_TOP_MAX + k] = r->logprob[i] - 0.25f * (float)k;
    }
}

/* What needs no masks: each row writes its hash, pooled rows add up. */
static void forward(struct dev *d, const struct batch *b, struct result *r)
{
    for (int32_t i = 0; i < b->n_seqs; i++) {
        struct sim_slot *t = &d->slot[b->slot[i]];
        for (int32_t row = b->q_start[i]; row < b->q_start[i + 1]; row++) {
            int32_t token = b->token[row] >= 0 ? b->token[row] : t->last_token;
            uint64_t before = b->pos[row] > 0 ? word_at(d, b, i, b->pos[row] - 1) : t->head;
            hold(d, (int64_t)b->kv_slot[row] + 1);
            d->word[b->kv_slot[row]] = sim_mix(before, (uint64_t)token);
        }
    }
    for (int32_t i = 0; i < b->n_poolings; i++) pool_rows(d, b, i, r);
}

static void answer_all(struct dev *d, const struct batch *b, struct result *r)
{
    for (int32_t i = 0; i < b->n_wants; i++) answer(d, b, i, r);
}

static int sim_launch(struct dev *d, const struct step *steps, int32_t n_steps,
                      const struct batch *b)
{
    (void)steps, (void)n_steps; /* no maths */
    uint64_t at = d->n_launched % N_RESULTS, start = now_us();
    struct result *r = &d->result[at];
    forward(d, b, r);
    if (b->n_masks == 0) answer_all(d, b, r);
    r->step_id = b->step_id;
    r->n_wants = b->n_wants;
    r->device_us = d->cfg.sim_step_us + (uint64_t)b->n_tokens * d->cfg.sim_row_us;
    r->idle_us = -1;
    if (r->device_us) { /* steps run one after the other */
        uint64_t before = d->end_us[(at + N_RESULTS - 1) % N_RESULTS];
        d->end_us[at] = (start > before ? start : before) + r->device_us;
        if (before) r->idle_us = start > before ? (float)(start - before) : 0;
    }
    d->n_launched++;
    return 0;
}

/* The emulated step lasts until here if its masks come after its end. */
static int sim_sample(struct dev *d, const struct step *steps, int32_t n_steps,
                      const struct batch *b)
{
    (void)steps, (void)n_steps;
    uint64_t at = (d->n_launched + N_RESULTS - 1) % N_RESULTS, now = now_us();
    struct result *r = &d->result[at];
    if (r->step_id != b->step_id) return SL_EINTERNAL;
    answer_all(d, b, r);
    if (r->device_us && now > d->end_us[at]) {
        if (r->idle_us >= 0) r->idle_us += (float)(now - d->end_us[at]);
        d->end_us[at] = now;
    }
    return 0;
}

static int sim_collect(struct dev *d, const struct result **out)
{
    uint64_t at = d->n_collected++ % N_RESULTS, end_us = d->end_us[at];
    if (d->result[at].device_us) {
        struct timespec t = {(time_t)(end_us / 1000000), (long)(end_us % 1000000) * 1000};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0) {
        }
    }
    if (d->cfg.fail_step && d->n_collected == d->cfg.fail_step) return SL_EDEVICE;
    *out = &d->result[at];
    return 0;
}

static int sim_op(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)d, (void)b, (void)s;
    return 0;
}

const struct device device_sim = {
    .name = "sim",
    .act_type = DT_F32,
    .sum_type = DT_F32,
    .kv_type = DT_F32,
    .default_max_seqs = 256,
    .default_max_tokens = 2048,
    .default_async = 1,
    .probe = sim_probe,
    .memory = sim_memory,
    .open = sim_open,
    .close = sim_close,
    .alloc = sim_alloc,
    .weight_bytes = sim_weight_bytes,
    .upload = sim_upload,
    .fill = sim_fill,
    .assign = sim_assign,
    .launch = sim_launch,
    .sample = sim_sample,
    .collect = sim_collect,
    .ops = {[OP_EMBED] = sim_op,
            [OP_NORM] = sim_op,
            [OP_LINEAR] = sim_op,
            [OP_ROPE_KV] = sim_op,
            [OP_ATTN] = sim_op,
            [OP_GLU] = sim_op,
            [OP_ADD] = sim_op,
            [OP_ADD_NORM] = sim_op,
            [OP_REDUCE] = sim_op,
            [OP_POOL] = sim_op,
            [OP_GATHER] = sim_op,
            [OP_LOGITS] = sim_op,
            [OP_SAMPLE] = sim_op},
};
