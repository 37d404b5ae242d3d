/* batch.c - sequences to arrays. Linear in rows and pages; allocates nothing after job_open. */
#include "engine/batch.h"

#include <stdlib.h>
#include <string.h>

#include "engine/mutants.h"

void job_open(struct job *j, const struct job_limits *l)
{
    size_t n_tokens = (size_t)l->max_tokens, n_seqs = (size_t)l->max_seqs;
    *j = (struct job){0};
    j->assign = xcalloc(n_seqs, sizeof *j->assign);
    j->req = xcalloc(n_seqs, sizeof *j->req);
    j->token = xcalloc(n_tokens, sizeof *j->token);
    j->pos = xcalloc(n_tokens, sizeof *j->pos);
    j->kv_slot = xcalloc(n_tokens, sizeof *j->kv_slot);
    j->q_start = xcalloc(n_seqs + 1, sizeof *j->q_start);
    j->kv_len = xcalloc(n_seqs, sizeof *j->kv_len);
    j->slot = xcalloc(n_seqs, sizeof *j->slot);
    j->pages = xcalloc(n_seqs * (size_t)l->pages_stride, sizeof *j->pages);
    j->held = xcalloc(n_seqs, sizeof *j->held);
    j->want = xcalloc((size_t)l->max_wants, sizeof *j->want);
    j->pooling = xcalloc(n_seqs, sizeof *j->pooling);
    j->masks = xcalloc(n_seqs * (size_t)l->mask_words + 1, sizeof *j->masks);
    j->b = (struct batch){.page_size = l->page_size,
                          .pages_stride = l->pages_stride,
                          .token = j->token,
                          .pos = j->pos,
                          .kv_slot = j->kv_slot,
                          .q_start = j->q_start,
                          .kv_len = j->kv_len,
                          .slot = j->slot,
                          .pages = j->pages,
                          .want = j->want,
                          .pooling = j->pooling,
                          .mask_words = l->mask_words,
                          .masks = j->masks};
}

void job_close(struct job *j)
{
    void *owned[] = {j->assign, j->req,   j->token, j->pos,  j->kv_slot, j->q_start, j->kv_len,
                     j->slot,   j->pages, j->held,  j->want, j->pooling, j->masks};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    *j = (struct job){0};
}

void job_clear(struct job *j, uint64_t step_id)
{
    j->b.step_id = step_id;
    j->b.n_tokens = j->b.n_seqs = j->b.n_wants = j->b.n_poolings = j->b.n_masks = 0;
    j->n_assigns = 0;
}

void job_assign(struct job *j, const struct seq *s)
{
    const struct request *rq = s->rq;
    j->assign[j->n_assigns++] =
        (struct job_assign){.dev_slot = s->dev_slot,
                            .init = {.sampling = &rq->sampling,
                                     .tokens = rq->tokens,
                                     .n_prompt = rq->n_prompt,
                                     .n_output = MUT(SLOT_NO_HISTORY, s->n_output, 0),
                                     .salt = {rq->salt[0], rq->salt[1]}}};
    if (MUT(SLOT_HISTORY_TWICE, false, s->n_output > 1))
        j->assign[j->n_assigns - 1].init.n_output--;
    if (MUT(SLOT_NOT_ASSIGNED, false, s->n_output > 0)) j->n_assigns--;
}

/* Is the log probability of the prompt token after position pos still to be reported? */
static bool is_scored_row(const struct seq *s, int32_t pos)
{
    return s->rq->sampling.n_prompt_logprobs >= 0 && pos + 1 < s->rq->n_prompt &&
           pos + 1 > MUT(SCORE_TWICE, s->n_scored, 0);
}

/* Does the row at pos sample? The last known (or pending) one does, while there is something to
 * generate. */
static bool is_sampling_row(const struct seq *s, int32_t pos)
{
    return pos + 1 == seq_len(s) + s->n_pending && s->n_output + s->n_pending < s->rq->max_tokens;
}

int32_t job_wants(const struct seq *s, int32_t n_rows)
{
    int32_t end = s->n_planned + n_rows, n = is_sampling_row(s, end - 1);
    if (s->rq->sampling.n_prompt_logprobs < 0) return n;
    int32_t first = s->n_planned > s->n_scored ? s->n_planned : s->n_scored;
    int32_t last = end < s->rq->n_prompt ? end : s->rq->n_prompt - 1;
    return n + (last > first ? last - first : 0);
}

/* The id that closes thinking next, since its budget is spent; -1: nothing is forced. */
static int32_t forced_close(const struct seq *s)
{
    const struct sl_thinking *t = &s->rq->thinking;
    int64_t k = (int64_t)s->n_output - s->think_from - (int64_t)t->budget;
    bool is_spent = s->think_from >= 0 && t->budget != UINT32_MAX && k >= 0;
    return is_spent ? t->close[k < t->n_close ? k : t->n_close - 1] : -1;
}

/* May the output's next token only be of some? That is planned before the token in front of it is
 * known; its mask is written when it is. */
static bool needs_mask(const struct seq *s)
{
    return s->rq->grammar || MUT(THINK_AHEAD, think_may_be_spent(s), forced_close(s) >= 0);
}

static void add_want(struct job *j, const struct seq *s, int32_t pos, int32_t row)
{
    struct want w = {.row = row, .seq = j->b.n_seqs};
    if (is_scored_row(s, pos)) {
        w.target = s->rq->tokens[pos + 1];
        w.n_top = s->rq->sampling.n_prompt_logprobs;
    } else if (is_sampling_row(s, pos)) {
        int32_t index = s->n_output + s->n_pending;
        w.target = -1;
        w.n_top = s->rq->sampling.n_logprobs;
        w.position = (uint32_t)MUT(BATCH_COUNTER, index, index - s->n_output_at_start);
        if (needs_mask(s) && MUT(BATCH_NO_MASK, true, index > 4)) w.mask = ++j->b.n_masks;
    } else {
        return;
    }
    j->want[j->b.n_wants++] = w;
}

/* What of the rows from position first up to end goes into the sequence's vector. */
static void add_pool(struct job *j, const struct seq *s, int32_t first, int32_t end)
{
    bool ends = end == s->rq->n_prompt;
    struct pooling p = {
        .seq = j->b.n_seqs, .row = j->b.n_tokens, .n_rows = end - first, .is_last = ends};
    switch (s->rq->pool) {
    case SL_POOL_NONE:
        return;
    case SL_POOL_LAST:
        if (!MUT(POOL_EARLY, ends, true)) return;
        p = (struct pooling){p.seq, p.row + p.n_rows - 1, 1, true};
        break;
    case SL_POOL_CLS:
        if (first > 0) return;
        p.n_rows = p.is_last = 1;
        break;
    case SL_POOL_MEAN:
        break;
    }
    j->pooling[j->b.n_poolings++] = p;
}

/* A table only grows: what the row had of it already need not be touched again. */
static void set_pages(struct job *j, const struct seq *s, const int32_t *pages)
{
    struct job_held *h = &j->held[j->b.n_seqs];
    bool is_same = MUT(BATCH_OLD_PAGES, h->table == s->table, h->n <= s->n_pages);
    int32_t from = is_same ? h->n : 0;
    int32_t *row = j->pages + (size_t)j->b.n_seqs * (size_t)j->b.pages_stride;
    memcpy(row + from, pages + from, (size_t)(s->n_pages - from) * sizeof *pages);
    *h = (struct job_held){s->table, s->n_pages};
}

void job_add(struct job *j, struct seq *s, int32_t req, int32_t n_rows, const int32_t *pages)
{
    struct batch *b = &j->b;
    int32_t ps = b->page_size, first = s->n_planned, end = first + n_rows, len = seq_len(s);
    int32_t row = b->n_tokens;
    j->q_start[b->n_seqs] = row;
    add_pool(j, s, first, end);
    for (int32_t pos = first; pos < end; pos++, row++) {
        int32_t last_known = MUT(BATCH_OLD_TOKEN, -1, s->rq->tokens[len - 1]);
        int32_t page = pages[MUT(BATCH_KV_SLOT, pos, pos > first + 1 ? pos - 1 : pos) / ps];
        j->token[row] = pos < len ? s->rq->tokens[pos] : last_known;
        j->pos[row] = pos;
        j->kv_slot[row] = page * ps + pos % ps;
        add_want(j, s, pos, row);
    }
    j->req[b->n_seqs] = req;
    j->slot[b->n_seqs] = s->dev_slot;
    j->kv_len[b->n_seqs] = MUT(BATCH_KV_LEN, end, first > 0 ? first : end);
    set_pages(j, s, pages);
    b->n_tokens = row;
    j->q_start[++b->n_seqs] = row;
    if (is_sampling_row(s, end - 1)) s->n_pending++;
    s->n_planned = end;
    s->n_flight++;
}

bool job_masks_due(const struct job *j, const struct seq *seqs)
{
    for (int32_t i = 0; i < j->b.n_wants; i++) {
        const struct seq *s = &seqs[j->req[j->want[i].seq]];
        bool is_known = s->state != SEQ_RUNNING || s->n_pending == 1; /* the step's own */
        if (j->want[i].mask && !is_known && MUT(GRAMMAR_AHEAD, true, false)) return false;
    }
    return true;
}

/* The tokens that may come next: what closes thinking; while it runs all but an end; else what the
 * grammar allows, or what opens thinking. None where the grammar's budget is spent: the device then
 * has no token to give, and the request ends with an error. All where nothing is asked for. */
static void write_mask(struct seq *s, uint32_t *words, size_t n_words)
{
    const struct sl_sampling *p = &s->rq->sampling;
    const struct sl_thinking *t = &s->rq->thinking;
    int32_t forced = MUT(THINK_NO_CLOSE, forced_close(s), -1);
    bool thinks = s->think_from >= 0,
         is_open_to_thinking = t->n_close && s->n_output == 0 && !thinks;
    if (forced >= 0) {
        memset(words, 0, n_words * sizeof *words);
        words[forced / 32] = 1u << (forced % 32);
        return;
    }
    if (thinks || !s->rq->grammar) {
        memset(words, 0xFF, n_words * sizeof *words);
    } else {
        size_t n = grammar_words(s->rq->grammar); /* of a vocabulary that may be smaller */
        grammar_mask(&s->place, words);
        memset(words + n, 0, (n_words - n) * sizeof *words);
        if (is_open_to_thinking && t->open >= 0) words[t->open / 32] |= 1u << (t->open % 32);
    }
    for (uint32_t i = 0; s->rq->grammar && (p->ignore_eos || thinks) && i < p->n_eos; i++)
        words[p->stop_ids[i] / 32] &= ~(1u << (p->stop_ids[i] % 32));
}

void job_write_masks(struct job *j, struct seq *seqs)
{
    size_t n_words = (size_t)j->b.mask_words;
    for (int32_t i = 0; i < j->b.n_wants; i++) {
        struct seq *s = &seqs[j->req[j->want[i].seq]];
        if (!j->want[i].mask) continue;
        uint32_t *words = j->masks + (size_t)(j->want[i].mask - 1) * n_words;
        if (s->state == SEQ_RUNNING)
            write_mask(s, words, n_words);
        else
            memset(words, 0xFF, n_words * sizeof *words);
    }
}
