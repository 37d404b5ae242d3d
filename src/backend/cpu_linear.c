/* cpu_linear.c - linear layers: quantize the activations once, then share row groups of all parts
 * out.
 *
 * Each part of a weight keeps its own format and kernel. An item is a run of row groups of one part
 * over all tokens, so its weights come from memory once and stay in cache while the tokens pass.
 */
#include <string.h>

#include "backend/cpu.h"

enum {
    QUANT_ROWS = 4,        /* token rows of an item of quantizing */
    ITEM_BYTES = 64 << 10, /* weights of an item: fits the L2 beside the activations */
    ITEMS_PER_THREAD = 4,  /* at least, where the matrix is large enough: for balance */
};
static const double QUANT_US_PER_BLOCK = 0.01;
static const double LINEAR_US_PER_BYTE = 5e-5; /* 20 GB/s: a lower bound of a job's time */

struct quant_job {
    struct dev *d;
    const float *x;
    struct qblock *q;
    int32_t n_rows;
    int64_t cols;
};

static void quant_item(void *arg, int item, int thread)
{
    (void)thread;
    const struct quant_job *j = arg;
    int64_t from = (int64_t)item * QUANT_ROWS,
            n = j->n_rows - from < QUANT_ROWS ? j->n_rows - from : QUANT_ROWS;
    j->d->k->quantize(j->q + from * (j->cols / QBLOCK), j->x + from * j->cols,
                      (int32_t)(n * (j->cols / QBLOCK)));
}

static struct qblock *quantize(struct dev *d, const float *x, int32_t n_rows, int64_t cols)
{
    int64_t n = n_rows * (cols / QBLOCK);
    struct quant_job j = {.d = d, .x = x, .n_rows = n_rows, .cols = cols};
    j.q = scratch_get(d, &d->quant, (size_t)n * sizeof *j.q);
    if (j.q)
        cpu_spread(d, quant_item, &j, (n_rows + QUANT_ROWS - 1) / QUANT_ROWS,
                   (double)n * QUANT_US_PER_BLOCK);
    return j.q;
}

struct linear_run {
    struct dev *d;
    int n_parts;
    struct linear_job job[WEIGHT_PARTS_MAX];
    int64_t groups[WEIGHT_PARTS_MAX], step[WEIGHT_PARTS_MAX]; /* step: groups of an item */
    int items[WEIGHT_PARTS_MAX];
};

static void linear_item(void *arg, int item, int thread)
{
    (void)thread;
    const struct linear_run *r = arg;
    int p = 0;
    for (; item >= r->items[p]; p++) item -= r->items[p];
    int64_t from = item * r->step[p], left = r->groups[p] - from;
    r->d->k->linear(&r->job[p], from, left < r->step[p] ? left : r->step[p]);
}

/* A part of a single row is a vector in memory; one plain sum a token. */
static void linear_vector(const struct linear_job *j)
{
    const float *w = (const float *)(const void *)j->w;
    for (int32_t t = 0; t < j->n_tokens; t++) {
        for (int64_t r = 0; r < j->rows; r++) {
            float sum = 0.0f;
            for (int64_t c = 0; c < j->cols; c++) sum += j->x[t * j->cols + c] * w[r * j->cols + c];
            j->y[t * j->y_stride + r] = sum + (j->bias ? j->bias[r] : 0.0f);
        }
    }
}

static void plan_items(struct linear_run *r, int p)
{
    int64_t n = (r->job[p].rows + ROW_GROUP - 1) / ROW_GROUP;
    int64_t step = ITEM_BYTES / (int64_t)r->job[p].group_bytes;
    int64_t fair = n / (pool_threads(r->d->pool) * ITEMS_PER_THREAD);
    if (fair < step) step = fair;
    if (n / POOL_ITEMS_MAX * WEIGHT_PARTS_MAX >= step)
        step = n / POOL_ITEMS_MAX * WEIGHT_PARTS_MAX + 1;
    r->groups[p] = n;
    r->step[p] = step < 1 ? 1 : step;
    r->items[p] = (int)((n + r->step[p] - 1) / r->step[p]);
}

/* The bias of all parts, side by side. */
static const float *whole_bias(struct dev *d, const struct weight *bias)
{
    if (!bias || bias->n_parts == 1) return cpu_vector(bias);
    float *all = scratch_get(d, &d->bias, (size_t)(bias->rows * bias->cols) * sizeof *all);
    int64_t at = 0;
    for (int p = 0; all && p < bias->n_parts; p++) {
        int64_t n = bias->part[p].rows * bias->cols;
        memcpy(all + at, bias->part[p].data, (size_t)n * sizeof *all);
        at += n;
    }
    return all;
}

static int run_linear(struct dev *d, const struct step *s, int32_t n_rows)
{
    const struct weight *w = s->w;
    struct linear_run r = {.d = d};
    const struct qblock *qx = NULL;
    const float *bias = whole_bias(d, s->bias);
    int64_t row = 0;
    int n_items = 0;
    double bytes = 0;
    if (n_rows == 0) return 0;
    if (s->bias && !bias) return SL_ENOMEM;
    for (int p = 0; p < w->n_parts; row += w->part[p].rows, p++) {
        const struct weight_part *part = &w->part[p];
        struct linear_job j = {
            .type = part->type,
            .w = part->data,
            .group_bytes = ROW_GROUP * dtype_row_bytes(part->type, w->cols),
            .rows = part->rows,
            .cols = w->cols,
            .x = s->src.data,
            .bias = bias ? bias + row : NULL,
            .y = (float *)s->dst.data + row,
            .y_stride = s->dst.cols,
            .n_tokens = n_rows,
        };
        if (cpu_is_vector(j.rows, j.cols)) {
            linear_vector(&j);
            continue;
        }
        if (d->k->quantized && cpu_is_quantized(part->type) && !qx &&
            !(qx = quantize(d, s->src.data, n_rows, w->cols)))
            return SL_ENOMEM;
        j.qx = qx;
        r.job[r.n_parts] = j;
        plan_items(&r, r.n_parts);
        bytes += (double)j.group_bytes * (double)r.groups[r.n_parts];
        n_items += r.items[r.n_parts++];
    }
    cpu_spread(d, linear_item, &r, n_items, bytes * LINEAR_US_PER_BYTE * n_rows);
    return 0;
}

int cpu_linear(struct dev *d, const struct batch *b, const struct step *s)
{
    return run_linear(d, s, b->n_tokens);
}

int cpu_logits(struct dev *d, const struct batch *b, const struct step *s)
{
    return run_linear(d, s, b->n_wants);
}
