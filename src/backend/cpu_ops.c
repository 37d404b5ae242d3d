/* cpu_ops.c - the ops that go row by row: embed, norm, add, glu, rope and the writing of K and V,
 * gather.
 *
 * A job is a range of rows cut into items of a few; every row is computed alone, so the cut is
 * free.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu.h"

enum { ROWS_PER_ITEM = 8 };
static const double US_PER_VALUE =
    0.0002; /* of a row op in cache; only decides whether to wake helpers */

struct row_job {
    struct dev *d;
    const struct batch *b;
    const struct step *s;
    void (*row)(const struct row_job *j, int32_t t);
    int32_t n_rows;
    float *angles; /* rope: cos and sin of each token */
};

static float *row_of(const struct act *a, int32_t t)
{
    return (float *)a->data + (int64_t)t * a->cols;
}

static void rows_item(void *arg, int item, int thread)
{
    (void)thread;
    const struct row_job *j = arg;
    int32_t end = (item + 1) * ROWS_PER_ITEM;
    for (int32_t t = item * ROWS_PER_ITEM; t < (end < j->n_rows ? end : j->n_rows); t++)
        j->row(j, t);
}

/* values: about how many are touched a row, for the decision to share. */
static int run_rows(struct row_job *j, int32_t n_rows, int64_t values)
{
    j->n_rows = n_rows;
    cpu_spread(j->d, rows_item, j, (n_rows + ROWS_PER_ITEM - 1) / ROWS_PER_ITEM,
               (double)n_rows * (double)values * US_PER_VALUE);
    return 0;
}

/* ------------------------------------------------------------------ embed, gather */

static int32_t seq_of(const struct batch *b, int32_t t)
{
    int32_t lo = 0, hi = b->n_seqs - 1; /* the last sequence that starts at or before t */
    while (lo < hi) {
        int32_t mid = (lo + hi + 1) / 2;
        if (b->q_start[mid] <= t)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

/* Words of another rank's share are zeros here; a REDUCE follows. */
static void embed_row(const struct row_job *j, int32_t t)
{
    const struct weight *w = j->s->w;
    int64_t r = j->b->token[t];
    if (r < 0) r = cpu_slot_last(j->d->slots, j->b->slot[seq_of(j->b, t)]);
    ASSERT(r < j->d->config.n_vocab);
    r -= w->row0;
    if (r < 0 || r >= w->rows) {
        memset(row_of(&j->s->dst, t), 0, (size_t)j->s->dst.cols * sizeof(float));
        return;
    }
    int p = 0;
    for (; r >= w->part[p].rows; p++) r -= w->part[p].rows;
    cpu_unpack(w->part[p].type, w->part[p].data, w->cols, r, 0, w->cols, row_of(&j->s->dst, t));
}

int cpu_embed(struct dev *d, const struct batch *b, const struct step *s)
{
    struct row_job j = {.d = d, .b = b, .s = s, .row = embed_row};
    return run_rows(&j, b->n_tokens, s->dst.cols * 4);
}

static void gather_row(const struct row_job *j, int32_t i)
{
    memcpy(row_of(&j->s->dst, i), row_of(&j->s->src, j->b->want[i].row),
           (size_t)j->s->dst.cols * sizeof(float));
}

int cpu_gather(struct dev *d, const struct batch *b, const struct step *s)
{
    struct row_job j = {.d = d, .b = b, .s = s, .row = gather_row};
    return run_rows(&j, b->n_wants, s->dst.cols);
}

/* ------------------------------------------------------------------ norm, add, glu */

static void norm_row(const struct row_job *j, int32_t t)
{
    j->d->k->norm(row_of(&j->s->dst, t), row_of(&j->s->src, t), cpu_vector(j->s->w), j->s->src.cols,
                  j->s->lp->norm_eps);
}

int cpu_norm(struct dev *d, const struct batch *b, const struct step *s)
{
    struct row_job j = {.d = d, .b = b, .s = s, .row = norm_row};
    return run_rows(&j, b->n_tokens, s->src.cols);
}

static void add_row(const struct row_job *j, int32_t t)
{
    j->d->k->add(row_of(&j->s->dst, t), row_of(&j->s->src, t), j->s->dst.cols);
}

int cpu_add(struct dev *d, const struct batch *b, const struct step *s)
{
    struct row_job j = {.d = d, .b = b, .s = s, .row = add_row};
    return run_rows(&j, b->n_tokens, s->dst.cols);
}

static void add_norm_row(const struct row_job *j, int32_t t)
{
    float *sum = row_of(&j->s->src2, t);
    j->d->k->add(sum, row_of(&j->s->src, t), j->s->src2.cols);
    j->d->k->norm(row_of(&j->s->dst, t), sum, cpu_vector(j->s->w), j->s->src2.cols,
                  j->s->lp->norm_eps);
}

int cpu_add_norm(struct dev *d, const struct batch *b, const struct step *s)
{
    struct row_job j = {.d = d, .b = b, .s = s, .row = add_norm_row};
    return run_rows(&j, b->n_tokens, s->dst.cols * 2);
}

static void glu_row(const struct row_job *j, int32_t t)
{
    const float *gate = row_of(&j->s->src, t);
    int32_t n = j->s->dst.cols;
    j->d->k->glu(row_of(&j->s->dst, t), gate, gate + n, n, j->s->lp->glu);
}

int cpu_glu(struct dev *d, const struct batch *b, const struct step *s)
{
    struct row_job j = {.d = d, .b = b, .s = s, .row = glu_row};
    return run_rows(&j, b->n_tokens, s->dst.cols * 6);
}

/* ------------------------------------------------------------------ rope and kv */

/* As the reference does: the angle is rounded to f32, its cosine and sine are not. */
static void angles_row(const struct row_job *j, int32_t t)
{
    const struct layer_params *lp = j->s->lp;
    int32_t half = lp->rotary_dim / 2;
    float *out = j->angles + (int64_t)t * lp->rotary_dim;
    for (int32_t i = 0; i < half; i++) {
        float angle = (float)j->b->pos[t] * lp->rope_freq[i];
        out[i] = (float)cos((double)angle) * lp->rope_mscale;
        out[half + i] = (float)sin((double)angle) * lp->rope_mscale;
    }
}

/* K goes dim by dim into its token's column, V as a row. */
static void write_kv(const struct row_job *j, int32_t t, const float *k, const float *v)
{
    const struct layer_params *lp = j->s->lp;
    uint16_t half[HEAD_DIM_MAX];
    int64_t size = j->b->page_size, dim = lp->head_dim;
    int64_t page = j->b->kv_slot[t] / size, at = j->b->kv_slot[t] % size;
    for (int32_t h = 0; h < lp->n_kv_heads; h++) {
        int64_t head = (page * lp->n_kv_heads + h) * dim * size;
        uint16_t *column = (uint16_t *)lp->k_pages + head + at;
        j->d->k->to_f16(half, k + h * dim, lp->head_dim);
        for (int64_t i = 0; i < dim; i++) column[i * size] = half[i];
        j->d->k->to_f16((uint16_t *)lp->v_pages + head + at * dim, v + h * dim, lp->head_dim);
    }
}

static void rope_kv_row(const struct row_job *j, int32_t t)
{
    const struct layer_params *lp = j->s->lp;
    const float *norms[2] = {cpu_vector(j->s->w), cpu_vector(j->s->bias)};
    float *q = row_of(&j->s->dst, t), *k = q + (int64_t)lp->n_heads * lp->head_dim;
    for (int32_t h = 0; h < lp->n_heads + lp->n_kv_heads; h++) {
        float *head = q + (int64_t)h * lp->head_dim;
        const float *w = norms[h >= lp->n_heads];
        if (w) j->d->k->norm(head, head, w, lp->head_dim, lp->norm_eps);
        if (j->angles)
            j->d->k->rope(head, j->angles + (int64_t)t * lp->rotary_dim, lp->rotary_dim / 2);
    }
    write_kv(j, t, k, k + (int64_t)lp->n_kv_heads * lp->head_dim);
}

/* Layers share their angles: they are made once a launch, or once a change of table. */
static int make_angles(struct row_job *j)
{
    struct dev *d = j->d;
    const struct layer_params *lp = j->s->lp;
    size_t bytes = (size_t)j->b->n_tokens * (size_t)lp->rotary_dim * sizeof(float);
    if (lp->rotary_dim == 0 || !lp->rope_freq) return 0;
    if (!(j->angles = scratch_get(d, &d->angles, bytes))) return SL_ENOMEM;
    if (d->angles_freq == lp->rope_freq && d->angles_mscale == lp->rope_mscale &&
        d->angles_dim == lp->rotary_dim)
        return 0;
    d->angles_freq = lp->rope_freq;
    d->angles_mscale = lp->rope_mscale;
    d->angles_dim = lp->rotary_dim;
    j->row = angles_row;
    return run_rows(j, j->b->n_tokens, lp->rotary_dim * 100);
}

int cpu_rope_kv(struct dev *d, const struct batch *b, const struct step *s)
{
    struct row_job j = {.d = d, .b = b, .s = s};
    if (s->lp->head_dim > HEAD_DIM_MAX) return SL_ENOSYS;
    TRY(make_angles(&j));
    j.row = rope_kv_row;
    return run_rows(&j, b->n_tokens, s->dst.cols * 3);
}
