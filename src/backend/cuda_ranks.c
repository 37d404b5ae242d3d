/* cuda_ranks.c - the ops of several ranks: sums, dealing rows of logits, sharing answers.
 *
 * Sums are made by our own kernels over peer memory (kernels/reduce.cu) or by NCCL; which one, and in one
 * shot or two, follows from the bytes by a table, and so from what all ranks know alike. The number of
 * meetings in a launch must be the same on all ranks: each counts what it launches, one it was told to
 * leave out included.
 */
#include <string.h>

#include "backend/cuda_dev.h"
#include "backend/cuda_group.h"

enum way { ONE_SHOT, TWO_SHOT, NCCL };

/* Up to `one_shot` bytes every rank adds everything itself; from `nccl` bytes on, if not 0, NCCL is
 * the faster where it is there. Of two ranks as measured on two H100, of more estimated: one-shot
 * brings n - 1 times the rows to each GPU, two-shot twice (n - 1) / n. `build/bench_cuda
 * collectives` prints what belongs here. Of more than two ranks NCCL adds in an order that depends on
 * where in the message a row lies; so that a request's bits do not depend on its company, it does
 * not come in by itself there. */
static const struct {
    int32_t n_ranks; /* up to */
    int64_t one_shot, nccl;
} switches[] = {{2, 1 << 20, 32 << 20}, {4, 256 << 10, 0}, {RANKS_MAX, 128 << 10, 0}};

static const int64_t two_shot_bytes = 4 << 20; /* of a launch; longer sums take several */

static int switch_of(const struct dev *d)
{
    int i = 0;
    while (d->config.n_ranks > switches[i].n_ranks) i++;
    return i;
}

static enum way way_of(const struct dev *d, int64_t bytes)
{
    const struct group *g = d->config.group;
    int64_t nccl = switches[switch_of(d)].nccl;
    if (d->config.disable_custom_all_reduce || !g->has_peers) return NCCL;
    if (bytes <= switches[switch_of(d)].one_shot) return ONE_SHOT;
    return g->nccl && nccl && bytes >= nccl ? NCCL : TWO_SHOT;
}

int cuda_ranks_way_of(const struct dev *d, int64_t bytes)
{
    return (int)way_of(d, bytes);
}

/* ------------------------------------------------------------------ open */

static int64_t max_of(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* The largest meeting's words: sums are cut to two_shot_bytes, and take at most four times their bytes. */
static int64_t half_bytes_of(const struct dev *d)
{
    int64_t n = d->config.n_ranks, one_shot = 2 * n * switches[switch_of(d)].one_shot;
    int64_t bytes = max_of(one_shot, 4 * two_shot_bytes);
    return max_of(bytes, k_share_bytes(d->config.max_wants, (int)n));
}

static struct kresult answers_at(int32_t *p, size_t rows)
{
    struct kresult a = {.token = p, .rows = (int32_t)rows};
    a.rank = p + rows;
    a.n_top = p + 2 * rows;
    a.logprob = (float *)(void *)(p + 3 * rows);
    a.top_id = p + 4 * rows;
    a.top_logprob = (float *)(void *)(p + (4 + SL_TOP_MAX) * rows);
    return a;
}

static int open_memory(struct dev *d, struct sl_error *e)
{
    const struct dev_config *c = &d->config;
    size_t n = (size_t)c->n_ranks, rows = ((size_t)c->max_wants + n - 1) / n;
    int32_t *answers = cuda_alloc(d, rows * ANSWER_WORDS * 4, "answers", e);
    if (!answers) return SL_ENOMEM;
    d->answers = answers_at(answers, rows);
    if (c->group->has_peers) {
        d->half_bytes = half_bytes_of(d);
        d->inbox_d = cuda_alloc(d, 2 * (size_t)d->half_bytes, "inbox", e);
        return d->inbox_d ? 0 : SL_ENOMEM;
    }
    d->gathered_d = cuda_alloc(d, n * rows * ANSWER_WORDS * 4, "answers", e);
    d->parts_d = cuda_alloc(d, (size_t)c->max_wants * (size_t)c->n_vocab * 4, "logits", e);
    return d->gathered_d && d->parts_d ? 0 : SL_ENOMEM;
}

int cuda_ranks_open(struct dev *d, struct sl_error *e)
{
    struct group *g = d->config.group;
    int n_sms = 0;
    if (d->config.n_ranks == 1) return 0;
    if (d->config.disable_custom_all_reduce)
        TRY(cuda_group_use_nccl(g, "--disable-custom-all-reduce is given", e));
    if (switches[switch_of(d)].nccl) TRY(cuda_group_use_nccl(g, NULL, e));
    TRY(open_memory(d, e));
    TRY(cuda_check(
        cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, g->device[d->config.rank]),
        "SMs"));
    /* A block an SM. Ranks on one GPU leave half of it to kernels that others wait for. */
    d->max_blocks = g->shared_by > 1 ? n_sms / (2 * g->shared_by) : n_sms;
    g->inbox[d->config.rank] = d->inbox_d;
    return cuda_check(cudaStreamSynchronize(d->stream), "inbox"); /* it is zeroed */
}

void cuda_ranks_prepare(struct dev *d, const struct step *steps, int32_t n_steps)
{
    const void *sum = NULL;
    d->is_sum_whole = false;
    for (int32_t i = 0; i < n_steps; i++) {
        const struct step *s = &steps[i];
        if (s->op == OP_REDUCE_NORM)
            sum = s->src2.data;
        else if (sum && (s->dst.data == sum || s->src.data == sum || s->src2.data == sum))
            d->is_sum_whole = true;
    }
}

/* ------------------------------------------------------------------ sums */

/* For a kernel that meets nobody. */
static struct kpeers nobody(const struct dev *d)
{
    return (struct kpeers){.b = d->batch_d,
                           .rank = d->config.rank,
                           .n = d->config.n_ranks,
                           .max_blocks = d->max_blocks};
}

struct kpeers cuda_meeting(struct dev *d)
{
    const struct group *g = d->config.group;
    struct kpeers p = nobody(d);
    p.index = (int32_t)++d->n_met;
    p.half_bytes = d->half_bytes;
    p.abort = (const uint32_t *)(uintptr_t)g->aborted;
    memcpy(p.inbox, g->inbox, sizeof p.inbox);
    return p;
}

/* Rows that one launch takes: in two shots a multiple of the ranks, so that owners stay the same. */
static int32_t rows_at_once(const struct dev *d, const struct kreduce *k, int64_t row_bytes)
{
    int64_t n = d->config.n_ranks, rows = two_shot_bytes / row_bytes / n * n;
    if (!k->is_two_shot || rows > k->rows) return k->rows;
    return (int32_t)max_of(rows, n);
}

static int own_sum(struct dev *d, struct kreduce k, bool is_left_out)
{
    int64_t element = k.x_is_f32 ? (int64_t)sizeof(float) : (int64_t)sizeof(uint16_t);
    int32_t rows = k.rows, step = rows_at_once(d, &k, k.cols * element);
    for (int32_t at = 0; at < rows; at += step) {
        struct kreduce part = k;
        int64_t first = (int64_t)at * k.cols;
        part.x = (char *)k.x + first * element;
        part.rows = rows - at < step ? rows - at : step;
        part.row0 = at;
        if (k.w) part.dst = k.dst + first, part.sum = k.sum + first;
        part.peers = cuda_meeting(d);
        if (!is_left_out) TRY(cuda_check(k_reduce(d->stream, &part), "sum over ranks"));
    }
    return 0;
}

/* x becomes the sum, or with w what k_reduce makes of it. */
static int sum_ranks(struct dev *d, struct kreduce k, enum way way)
{
    bool is_left_out = d->skips_sum;
    d->skips_sum = false;
    if (way == NCCL)
        return is_left_out
                   ? 0
                   : nccl_sum(d->config.group->nccl, d->config.rank, k.x, (int64_t)k.rows * k.cols,
                              k.x_is_f32 ? DT_F32 : DT_BF16, d->stream);
    k.is_two_shot = way == TWO_SHOT;
    return own_sum(d, k, is_left_out);
}

int cuda_op_reduce(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)b;
    struct kreduce k = {
        .x = s->dst.data, .x_is_f32 = s->dst.type == DT_F32, .rows = d->rows, .cols = s->dst.cols};
    return sum_ranks(d, k, way_of(d, (int64_t)k.rows * k.cols * (k.x_is_f32 ? 4 : 2)));
}

/* All REDUCE_NORMs of a step have rows of one width and so take one way. In two shots the residual stream
 * goes on only with its rows' owners: where the plan reads it elsewhere too, the sum comes first and
 * every rank adds it to all rows. */
int cuda_op_reduce_norm(struct dev *d, const struct batch *b, const struct step *s)
{
    if (s->src2.type != DT_F32 || s->src.type != DT_BF16) return SL_ENOSYS;
    enum way way = way_of(d, (int64_t)d->rows * s->src.cols * 2);
    struct kreduce k = {.x = s->src.data, .rows = d->rows, .cols = s->src.cols};
    if (way == NCCL || (way == TWO_SHOT && d->is_sum_whole)) {
        TRY(sum_ranks(d, k, way));
        return cuda_op_add_norm(d, b, s);
    }
    k.dst = s->dst.data;
    k.sum = s->src2.data;
    k.w = s->w->part[0].data;
    k.eps = s->lp->norm_eps;
    return sum_ranks(d, k, way);
}

/* ------------------------------------------------------------------ sampling */

/* The padded number of wants is dealt, which all ranks and a graph's every run have alike. */
int cuda_op_deal(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)b;
    const struct dev_config *c = &d->config;
    int64_t words = (c->n_vocab + c->n_ranks - 1) / c->n_ranks, count[RANKS_MAX];
    if (!d->want_rows) return 0;
    if (s->dst.cols != c->n_vocab) return SL_EINTERNAL;
    struct kdeal k = {.logits = s->src.data,
                      .dst = s->dst.data,
                      .n_vocab = c->n_vocab,
                      .first = want_first(d->want_rows, c->rank, c->n_ranks),
                      .all_rows = d->want_rows};
    k.n_rows = want_first(d->want_rows, c->rank + 1, c->n_ranks) - k.first;
    if (c->group->has_peers) {
        k.peers = cuda_meeting(d);
    } else {
        k.peers = nobody(d);
        k.parts = d->parts_d;
        for (int32_t r = 0; r < c->n_ranks; r++) {
            int64_t left = c->n_vocab - r * words;
            count[r] = d->want_rows * (left < words ? left : words);
        }
        TRY(nccl_gather_uneven(c->group->nccl, c->rank, s->src.data, d->parts_d, count, d->stream));
    }
    return cuda_check(k_deal(d->stream, &k), "deal");
}

int cuda_op_share(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)b;
    (void)s;
    const struct dev_config *c = &d->config;
    if (!d->want_rows) return 0;
    struct kshare k = {.slots = d->slots_d,
                       .answers = d->answers,
                       .all_rows = d->want_rows,
                       .max_len = c->max_model_len};
    if (c->group->has_peers) {
        k.peers = cuda_meeting(d);
    } else {
        k.peers = nobody(d);
        k.gathered = d->gathered_d;
        TRY(nccl_gather(c->group->nccl, c->rank, d->answers.token, d->gathered_d,
                        (int64_t)d->answers.rows * ANSWER_WORDS, d->stream));
    }
    return cuda_check(k_share(d->stream, &k), "share");
}
