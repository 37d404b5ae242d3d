/* cuda_ops.c - the cuda device's ops: from a step to a launch.
 *
 * Row counts come from the device (d->rows, d->want_rows), which pads them in graphs: rows past the
 * batch compute on what lies there and nobody reads them; kernels that write elsewhere stop at the
 * batch's own count.
 */
#include "backend/cuda_dev.h"

/* ------------------------------------------------------------------ before the first launch of a
 * plan */

/* Partial answers of split contexts, for the widest attention of the plan. */
static int prepare_attn(struct dev *d, const struct step *steps, int32_t n_steps)
{
    size_t floats = 0, heads = 0;
    d->tile_rows = INT32_MAX;
    d->attn_widest = NULL;
    for (int32_t i = 0; i < n_steps; i++) {
        const struct layer_params *lp = steps[i].lp;
        if (steps[i].op != OP_ATTN) continue;
        if (!k_attn_has(lp->head_dim) || lp->n_heads / lp->n_kv_heads > 64) return SL_ENOSYS;
        int32_t rows = k_attn_tile_rows(lp->n_heads, lp->n_kv_heads, lp->head_dim);
        if (rows < d->tile_rows) d->tile_rows = rows;
        if (!d->attn_widest || lp->n_kv_heads > d->attn_widest->n_kv_heads) d->attn_widest = lp;
        size_t n = (size_t)lp->n_heads * ((size_t)lp->head_dim + 2);
        if (n > floats) floats = n;
        if ((size_t)lp->n_heads > heads) heads = (size_t)lp->n_heads;
    }
    if (floats <= d->partial_floats && heads <= d->counters) return 0;
    d->partial_d =
        cuda_alloc(d, ATTN_ITEMS_MAX * floats * sizeof(float), "partial attention", NULL);
    d->counters_d =
        cuda_alloc(d, ATTN_ITEMS_MAX * heads * sizeof(int32_t), "partial attention", NULL);
    d->partial_floats = floats;
    d->counters = heads;
    return d->partial_d && d->counters_d ? 0 : SL_ENOMEM;
}

static int find_rope(struct dev *d, const struct layer_params *lp)
{
    for (int i = 0; i < ROPE_TABLES; i++)
        if (!d->rope[i].host || d->rope[i].host == lp->rope_freq) return i;
    return -1;
}

static int prepare_rope(struct dev *d, const struct layer_params *lp)
{
    if (!lp->rotary_dim || !lp->rope_freq) return 0;
    int i = find_rope(d, lp);
    if (i < 0) return SL_ENOSYS;
    if (d->rope[i].host) return 0;
    size_t bytes = (size_t)(lp->rotary_dim / 2) * sizeof(float);
    d->rope[i].freq_d = cuda_alloc(d, bytes, "rotation frequencies", NULL);
    if (!d->rope[i].freq_d) return SL_ENOMEM;
    d->rope[i].host = lp->rope_freq;
    TRY(cuda_check(
        cudaMemcpyAsync(d->rope[i].freq_d, lp->rope_freq, bytes, cudaMemcpyHostToDevice, d->stream),
        "rope"));
    return cuda_check(cudaStreamSynchronize(d->stream), "rope");
}

int cuda_prepare(struct dev *d, const struct step *steps, int32_t n_steps)
{
    if (d->prepared == steps) return 0;
    TRY(prepare_attn(d, steps, n_steps));
    for (int32_t i = 0; i < n_steps; i++)
        if (steps[i].op == OP_ROPE_KV) TRY(prepare_rope(d, steps[i].lp));
    cuda_ranks_prepare(d, steps, n_steps);
    d->prepared = steps;
    return 0;
}

/* ------------------------------------------------------------------ rows */

static const float *vector(const struct weight *w)
{
    return w ? w->part[0].data : NULL;
}

int cuda_op_embed(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)b;
    if (s->w->n_parts != 1 || s->dst.type != DT_F32) return SL_ENOSYS;
    struct kembed e = {.b = d->batch_d,
                       .slots = d->slots_d,
                       .w = s->w->part[0].data,
                       .x = s->dst.data,
                       .row0 = s->w->row0,
                       .n_ids = s->w->rows,
                       .cols = s->dst.cols,
                       .is_share = d->config.n_ranks > 1};
    return cuda_check(k_embed(d->stream, &e, d->rows), "embed");
}

int cuda_op_norm(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)b;
    return cuda_check(k_norm(d->stream, s->dst.data, s->src.data, s->src.type == DT_F32,
                             vector(s->w), s->src.cols, s->lp->norm_eps, d->rows),
                      "norm");
}

int cuda_op_add(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)b;
    if (s->dst.type != DT_F32 || s->src.type != DT_BF16) return SL_ENOSYS;
    return cuda_check(
        k_add_norm(d->stream, NULL, s->dst.data, s->src.data, NULL, s->dst.cols, 0.0f, d->rows),
        "add");
}

int cuda_op_add_norm(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)b;
    if (s->src2.type != DT_F32 || s->src.type != DT_BF16) return SL_ENOSYS;
    return cuda_check(k_add_norm(d->stream, s->dst.data, s->src2.data, s->src.data, vector(s->w),
                                 s->src2.cols, s->lp->norm_eps, d->rows),
                      "add_norm");
}

int cuda_op_glu(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)b;
    return cuda_check(k_glu(d->stream, s->dst.data, s->src.data, s->dst.cols, s->lp->glu, d->rows),
                      "glu");
}

int cuda_op_gather(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)b;
    if (!d->want_rows) return 0;
    return cuda_check(
        k_gather(d->stream, d->batch_d, s->dst.data, s->src.data, s->dst.cols, d->want_rows),
        "gather");
}

/* ------------------------------------------------------------------ products */

static int linear_one(struct dev *d, const struct klinear *l)
{
    if (l->m <= LINEAR_OWN_ROWS || !d->lt) return cuda_check(k_linear(d->stream, l), "linear");
    TRY(lt_linear(d->lt, d->stream, l));
    if (!l->bias) return 0;
    if (l->is_f32) return SL_ENOSYS;
    return cuda_check(k_bias(d->stream, l->y, l->bias, (int32_t)l->n, l->y_stride, l->m), "bias");
}

/* Parts that lie side by side in memory are one matrix. */
static int linear(struct dev *d, const struct step *s, int32_t m)
{
    const struct weight *w = s->w;
    const float *bias = vector(s->bias);
    int64_t at = 0;
    size_t element = s->dst.type == DT_F32 ? sizeof(float) : sizeof(uint16_t);
    for (int i = 0; i < w->n_parts;) {
        int64_t rows = w->part[i].rows;
        const uint16_t *data = w->part[i].data;
        for (i++; i < w->n_parts && (const uint16_t *)w->part[i].data == data + rows * w->cols; i++)
            rows += w->part[i].rows;
        struct klinear l = {.w = data,
                            .x = s->src.data,
                            .bias = bias ? bias + at : NULL,
                            .y = (char *)s->dst.data + (size_t)at * element,
                            .n = rows,
                            .k = w->cols,
                            .y_stride = s->dst.cols,
                            .m = m,
                            .is_f32 = s->dst.type == DT_F32};
        TRY(linear_one(d, &l));
        at += rows;
    }
    return 0;
}

int cuda_op_linear(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)b;
    return linear(d, s, d->rows);
}

/* Few rows: one kernel. Many: the product to src2, then the gate. The same bits. */
int cuda_op_linear_glu(struct dev *d, const struct batch *b, const struct step *s)
{
    const struct weight *w = s->w;
    int64_t half = w->rows / 2;
    if (d->rows > LINEAR_OWN_ROWS) {
        struct step product = *s, gate = *s;
        product.dst = gate.src = s->src2;
        TRY(cuda_op_linear(d, b, &product));
        return cuda_op_glu(d, b, &gate);
    }
    if (w->n_parts > 2 || w->part[0].rows != (w->n_parts == 2 ? half : w->rows)) return SL_ENOSYS;
    const uint16_t *up =
        w->n_parts == 2 ? w->part[1].data : (const uint16_t *)w->part[0].data + half * w->cols;
    struct klinear l = {.w = w->part[0].data,
                        .w2 = up,
                        .x = s->src.data,
                        .bias = vector(s->bias),
                        .y = s->dst.data,
                        .n = half,
                        .k = w->cols,
                        .y_stride = s->dst.cols,
                        .m = d->rows,
                        .glu = s->lp->glu};
    return cuda_check(k_linear(d->stream, &l), "linear_glu");
}

int cuda_op_logits(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)b;
    return d->want_rows ? linear(d, s, d->want_rows) : 0;
}

/* ------------------------------------------------------------------ attention */

int cuda_op_rope_kv(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)b;
    const struct layer_params *lp = s->lp;
    int i = lp->rotary_dim && lp->rope_freq ? find_rope(d, lp) : -1;
    struct krope r = {.b = d->batch_d,
                      .qkv = s->dst.data,
                      .q_norm = vector(s->w),
                      .k_norm = vector(s->bias),
                      .freq = i >= 0 ? d->rope[i].freq_d : NULL,
                      .k = lp->k_pages,
                      .v = lp->v_pages,
                      .stride = s->dst.cols,
                      .n_heads = lp->n_heads,
                      .n_kv_heads = lp->n_kv_heads,
                      .head_dim = lp->head_dim,
                      .rotary_dim = lp->rotary_dim,
                      .eps = lp->norm_eps,
                      .mscale = lp->rope_mscale};
    return cuda_check(k_rope_kv(d->stream, &r, d->rows), "rope_kv");
}

int cuda_op_attn(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)b;
    const struct layer_params *lp = s->lp;
    struct kattn a = {.b = d->batch_d,
                      .q = s->src.data,
                      .out = s->dst.data,
                      .k = lp->k_pages,
                      .v = lp->v_pages,
                      .partial = d->partial_d,
                      .counters = d->counters_d,
                      .q_stride = s->src.cols,
                      .out_stride = s->dst.cols,
                      .n_heads = lp->n_heads,
                      .n_kv_heads = lp->n_kv_heads,
                      .head_dim = lp->head_dim,
                      .window = lp->window,
                      .cluster =
                          k_attn_cluster(lp->n_heads, lp->n_kv_heads, lp->head_dim, d->decode_seqs),
                      .scale = lp->attn_scale};
    if (d->n_items) TRY(cuda_check(k_attn_decode(d->stream, &a), "decode attention"));
    if (d->n_tiles) TRY(cuda_check(k_attn_prefill(d->stream, &a, d->n_tiles), "prefill attention"));
    return 0;
}

/* Of several ranks each samples its share of the rows, and keeps the answers for the SHARE. */
int cuda_op_sample(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)b;
    int32_t n = d->config.n_ranks, first = want_first(d->want_rows, d->config.rank, n),
            end = want_first(d->want_rows, d->config.rank + 1, n);
    struct ksample k = {.b = d->batch_d,
                        .slots = d->slots_d,
                        .logits = s->src.data,
                        .work = d->work_d,
                        .n_vocab = s->src.cols,
                        .max_len = d->config.max_model_len,
                        .first = first,
                        .answers = d->answers};
    return end > first ? cuda_check(k_sample(d->stream, &k, end - first), "sample") : 0;
}

/* Steps with poolings run without a graph. */
int cuda_op_pool(struct dev *d, const struct batch *b, const struct step *s)
{
    if (!b->n_poolings) return 0;
    if (s->src.cols != d->config.n_hidden) return SL_EINTERNAL;
    return cuda_check(
        k_pool(d->stream, d->batch_d, s->src.data, d->pool_sums_d, s->src.cols, b->n_poolings),
        "pool");
}
