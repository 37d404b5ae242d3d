/* plan.c - lowering: symbolic tables to struct step[], once, at load.
 *
 * Dimensions are per rank: heads, the feed-forward width and the vocabulary are divided among ranks. A
 * REDUCE sums what each rank has made of its share: of columns of a product, of the vocabulary an
 * embedding is looked up in. Logits are DEALt, so that each rank samples some of the rows, and the
 * answers SHAREd. Fused, where the device offers it, are ADD followed by NORM of the same sum, both
 * after a REDUCE, and LINEAR followed by GLU of its result; without fusion the plan is the reference
 * for the plan with it.
 */
#include "model/plan.h"

#include <math.h>
#include <stdlib.h>

enum { NAME_MAX_BYTES = 48, SCRATCH_ALIGN = 64 };

/* Widths of slots, and which buffer each takes: QKV and GU, ATT and ACT never live together. */
static const struct {
    enum dim cols;
    int buf;
    bool is_per_want; /* a row per wanted logit row, not per token */
    enum {
        TYPE_ACT,
        TYPE_SUM,
        TYPE_F32
    } type; /* f32: logits, which sampling reads so on every device */
} slots[S_COUNT] = {
    [S_X] = {DIM_HIDDEN, 0, false, TYPE_SUM},    [S_H] = {DIM_HIDDEN, 1, false, TYPE_ACT},
    [S_QKV] = {DIM_QKV, 2, false, TYPE_ACT},     [S_GU] = {DIM_FFN2, 2, false, TYPE_ACT},
    [S_ATT] = {DIM_Q, 3, false, TYPE_ACT},       [S_ACT] = {DIM_FFN, 3, false, TYPE_ACT},
    [S_ROWS] = {DIM_HIDDEN, 4, true, TYPE_ACT},  [S_LOGITS] = {DIM_VOCAB, 5, true, TYPE_F32},
    [S_DEALT] = {DIM_LOGITS, 6, true, TYPE_F32},
};

#define OP_NAME(name, formula) #name,
static const char *const op_names[] = {OPS(OP_NAME)};
#undef OP_NAME

/* ------------------------------------------------------------------ weights and layers */

/* This rank's n of `whole`, from `first` on. */
static void set_dim(struct plan *p, enum dim d, int32_t n, int32_t first, int32_t whole)
{
    p->dims[d] = n;
    p->first[d] = first;
    p->whole[d] = whole;
}

static int set_dims(struct plan *p, struct sl_error *e)
{
    const struct model_config *c = &p->config;
    int32_t n = p->n_ranks, r = p->rank, kv = c->n_kv_heads, hd = c->head_dim;
    if (n < 1 || r < 0 || r >= n) return sl_fail(e, SL_EINVAL, "bad number of ranks: %d", n);
    if (c->n_heads % n || (kv % n && n % kv) || c->ffn % n || c->n_vocab / n < n)
        return sl_fail(
            e, SL_EUNSUPPORTED,
            "%d heads, %d key-value heads, a feed-forward width of %d and a vocabulary of "
            "%d cannot be divided by %d ranks",
            c->n_heads, kv, c->ffn, c->n_vocab, n);
    int32_t q_n = c->n_heads / n * hd, kv_n = (kv < n ? 1 : kv / n) * hd, ffn = c->ffn / n;
    int32_t words = (c->n_vocab + n - 1) / n, left = c->n_vocab - r * words;
    set_dim(p, DIM_ONE, 1, 0, 1);
    set_dim(p, DIM_VOCAB, left < words ? left : words, r * words, c->n_vocab);
    set_dim(p, DIM_LOGITS, c->n_vocab, 0, c->n_vocab);
    set_dim(p, DIM_HIDDEN, c->hidden, 0, c->hidden);
    set_dim(p, DIM_FFN, ffn, r * ffn, c->ffn);
    set_dim(p, DIM_FFN2, 2 * ffn, 2 * r * ffn, 2 * c->ffn);
    set_dim(p, DIM_Q, q_n, r * q_n, c->n_heads * hd);
    set_dim(p, DIM_KV, kv_n, r * kv / n * hd,
            kv * hd); /* fewer heads than ranks: some have the same */
    set_dim(p, DIM_QKV, q_n + 2 * kv_n, 0, (c->n_heads + 2 * kv) * hd);
    set_dim(p, DIM_HEAD, hd, 0, hd);
    return 0;
}

static char *weight_name(const struct weight_spec *spec, int32_t layer)
{
    char *name = xmalloc(NAME_MAX_BYTES);
    if (layer < 0)
        snprintf(name, NAME_MAX_BYTES, "%s", spec->name);
    else
        snprintf(name, NAME_MAX_BYTES, "layers.%d.%s", layer, spec->name);
    return name;
}

static struct plan_weight *find_weight(const struct plan *p, enum weight_id id, int32_t layer)
{
    for (int32_t i = 0; i < p->n_weights; i++)
        if (p->weights[i].spec->id == id && p->weights[i].layer == layer) return &p->weights[i];
    return NULL;
}

static void add_weight(struct plan *p, const struct weight_spec *spec, int32_t layer)
{
    struct plan_weight *w = &p->weights[p->n_weights++];
    *w = (struct plan_weight){.spec = spec, .layer = layer};
    w->weight.name = weight_name(spec, layer);
    int64_t rows = 0;
    for (int i = 0; i < WEIGHT_PARTS_MAX && spec->part[i].tensor; i++) {
        w->weight.part[i].rows = p->dims[spec->part[i].rows];
        rows += p->dims[spec->part[i].rows];
        w->weight.n_parts++;
    }
    w->weight.rows = rows;
    w->weight.cols = p->dims[spec->cols];
    w->weight.row0 = spec->part[0].rows == DIM_VOCAB ? p->first[DIM_VOCAB] : 0;
    if (spec->cols == DIM_ONE) { /* a vector: one row, one part */
        w->weight.part[0] = (struct weight_part){.type = DT_F32, .rows = 1};
        w->weight.n_parts = 1;
        w->weight.rows = 1;
        w->weight.cols = rows;
    }
    if (spec->same_as && (p->config.flags & FLAG_TIED))
        w->same = find_weight(p, spec->same_as, layer);
}

static void add_weights(struct plan *p)
{
    int32_t n_specs = 0;
    const struct weight_spec *specs = p->config.family->weights;
    while (specs[n_specs].id) n_specs++;
    /* Never grows: same and the steps point into it. */
    p->weights = xcalloc((size_t)n_specs * (size_t)p->config.n_layers, sizeof *p->weights);
    for (int32_t i = 0; i < n_specs; i++) {
        if ((specs[i].when & p->config.flags) != specs[i].when) continue;
        if (!specs[i].is_layered) add_weight(p, &specs[i], -1);
        for (int32_t l = 0; l < p->config.n_layers && specs[i].is_layered; l++)
            add_weight(p, &specs[i], l);
    }
}

static void add_layers(struct plan *p)
{
    const struct model_config *c = &p->config;
    p->layers = xcalloc((size_t)c->n_layers + 1, sizeof *p->layers);
    p->rope_freq = xcalloc((size_t)c->rope.rotary_dim / 2, sizeof *p->rope_freq);
    for (int32_t i = 0; i <= c->n_layers; i++)
        p->layers[i] =
            (struct layer_params){.n_heads = c->n_heads / p->n_ranks,
                                  .n_kv_heads = p->dims[DIM_KV] / c->head_dim,
                                  .head_dim = c->head_dim,
                                  .rotary_dim = c->rope.rotary_dim,
                                  .window = i < c->n_layers && c->is_windowed[i] ? c->window : 0,
                                  .attn_scale = (float)(1.0 / sqrt(c->head_dim)),
                                  .norm_eps = (float)c->norm_eps,
                                  .rope_mscale = 1.0f,
                                  .rope_freq = p->rope_freq,
                                  .glu = c->glu};
    plan_set_rope(p, NULL);
}

int plan_open(struct plan *p, const struct model_config *c, const struct plan_target *t,
              struct sl_error *e)
{
    *p = (struct plan){.config = *c, .device = t->device, .rank = t->rank, .n_ranks = t->n_ranks};
    TRY(set_dims(p, e));
    add_weights(p);
    add_layers(p);
    return 0;
}

void plan_close(struct plan *p)
{
    for (int32_t i = 0; i < p->n_weights; i++) {
        char *name;
        memcpy(&name, &p->weights[i].weight.name, sizeof name); /* ours, though const for readers */
        free(name);
    }
    free(p->weights);
    free(p->layers);
    free(p->rope_freq);
    free(p->steps);
    *p = (struct plan){0};
}

void plan_set_rope(struct plan *p, const float *factors)
{
    float mscale;
    rope_frequencies(&p->config.rope, factors, p->rope_freq, &mscale);
    for (int32_t i = 0; i <= p->config.n_layers; i++) p->layers[i].rope_mscale = mscale;
}

const struct weight *plan_weight(const struct plan *p, enum weight_id id, int32_t layer)
{
    const struct plan_weight *w = id ? find_weight(p, id, layer) : NULL;
    if (id && !w) w = find_weight(p, id, -1);
    if (w && w->same) w = w->same;
    return w ? &w->weight : NULL;
}

uint64_t plan_parameters(const struct plan *p)
{
    uint64_t n = 0; /* at most LAYERS_MAX weights of 2^40 of each kind: no overflow */
    for (int32_t i = 0; i < p->n_weights; i++) {
        const struct weight_spec *w = p->weights[i].spec;
        for (int k = 0; k < WEIGHT_PARTS_MAX && w->part[k].tensor && !p->weights[i].same; k++)
            n += (uint64_t)p->whole[w->part[k].rows] * (uint64_t)p->whole[w->cols];
    }
    return n;
}

/* ------------------------------------------------------------------ sizes */

size_t plan_page_bytes(const struct plan *p, int32_t page_size)
{
    size_t n, element = dtype_row_bytes(p->device->kv_type, 1);
    if (ckd_mul(&n, (size_t)page_size, (size_t)p->dims[DIM_KV])) return 0;
    if (ckd_mul(&n, n, 2 * element) || ckd_mul(&n, n, (size_t)p->config.n_layers)) return 0;
    return n;
}

static enum dtype slot_type(const struct plan *p, enum slot s)
{
    switch (slots[s].type) {
    case TYPE_ACT:
        return p->device->act_type;
    case TYPE_SUM:
        return p->device->sum_type;
    case TYPE_F32:
        return DT_F32;
    }
    return DT_F32;
}

/* Bits of the slots that the plan's ops name. */
static uint32_t slots_used(const struct plan *p)
{
    const struct family *f = p->config.family;
    uint32_t used = p->n_ranks > 1 ? 1u << S_DEALT : 0;
    const struct op_spec *const lists[] = {f->first, f->layer, f->last};
    for (int i = 0; i < 3; i++)
        for (const struct op_spec *o = lists[i]; o->op != OP_COUNT; o++)
            used |= 1u << o->dst | 1u << o->src;
    return used;
}

int plan_slot_bytes(const struct plan *p, int32_t max_tokens, int32_t max_wants,
                    size_t bytes[SLOT_BUFS], struct sl_error *e)
{
    uint32_t used = slots_used(p);
    for (int i = 0; i < SLOT_BUFS; i++) bytes[i] = 0;
    for (int s = S_NONE + 1; s < S_COUNT; s++) {
        if (!(used & 1u << s)) continue;
        size_t n, element = dtype_row_bytes(slot_type(p, (enum slot)s), 1);
        size_t rows = (size_t)(slots[s].is_per_want ? max_wants : max_tokens);
        if (s == S_DEALT) rows = (rows + (size_t)p->n_ranks - 1) / (size_t)p->n_ranks;
        if (ckd_mul(&n, rows, (size_t)p->dims[slots[s].cols]) || ckd_mul(&n, n, element) ||
            ckd_align(&n, n, SCRATCH_ALIGN))
            return sl_fail(e, SL_EUNSUPPORTED, "activations of %d tokens are too large",
                           max_tokens);
        if (n > bytes[slots[s].buf]) bytes[slots[s].buf] = n;
    }
    return 0;
}

/* ------------------------------------------------------------------ steps */

struct lowering {
    struct plan *p;
    const struct plan_target *t;
    void *const *bufs;
    int32_t cap;
    struct sl_error *e;
};

static struct act act_of(const struct lowering *w, enum slot s)
{
    if (s == S_NONE) return (struct act){0};
    return (struct act){w->bufs ? w->bufs[slots[s].buf] : NULL, w->p->dims[slots[s].cols],
                        slot_type(w->p, s)};
}

static int emit(struct lowering *w, struct step s)
{
    struct plan *p = w->p;
    s.fn = p->device->ops[s.op];
    if (!s.fn)
        return sl_fail(w->e, SL_ENOSYS, "the %s device has no op %s, which model type %s needs",
                       p->device->name, op_names[s.op], p->config.family->model_type);
    ASSERT(p->n_steps < w->cap);
    p->steps[p->n_steps++] = s;
    return 0;
}

/* A REDUCE in front of the ADD_NORM that was just made: one step, where the device does both. */
static void fuse_reduce(struct plan *p)
{
    struct step *sum = &p->steps[p->n_steps - 1], *before = sum - 1;
    if (p->n_steps < 2 || before->op != OP_REDUCE || !p->device->ops[OP_REDUCE_NORM]) return;
    *before = *sum;
    before->op = OP_REDUCE_NORM;
    before->fn = p->device->ops[OP_REDUCE_NORM];
    p->n_steps--;
}

/* The step before, if `s` continues it and the device does both at once: then one fused step takes
 * the place of both. */
static bool fuse(struct lowering *w, const struct op_spec *o, enum slot last_dst,
                 enum slot last_src, const struct step *s)
{
    static const struct {
        enum op first, second, fused;
    } pairs[] = {{OP_ADD, OP_NORM, OP_ADD_NORM}, {OP_LINEAR, OP_GLU, OP_LINEAR_GLU}};
    struct plan *p = w->p;
    struct step *before = p->n_steps ? &p->steps[p->n_steps - 1] : NULL;
    if (!w->t->fuse || !before || last_dst != o->src) return false;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        if (before->op != pairs[i].first || s->op != pairs[i].second) continue;
        if (!p->device->ops[pairs[i].fused]) return false;
        bool is_sum = s->op == OP_NORM;
        *before = (struct step){.op = pairs[i].fused,
                                .fn = p->device->ops[pairs[i].fused],
                                .layer = before->layer,
                                .dst = s->dst,
                                .src = act_of(w, last_src),
                                .src2 = s->src,
                                .w = is_sum ? s->w : before->w,
                                .bias = is_sum ? s->bias : before->bias,
                                .lp = s->lp};
        if (is_sum) fuse_reduce(p);
        return true;
    }
    return false;
}

/* What ranks must do together after a step. */
static int meet(struct lowering *w, const struct op_spec *o, const struct step *s)
{
    const struct plan *p = w->p;
    const struct plan_weight *pw = o->w ? find_weight(p, o->w, s->layer) : NULL;
    struct step next = {.layer = s->layer, .lp = s->lp};
    bool is_sum = pw && (o->op == OP_EMBED ? pw->spec->shard == SHARD_ROWS
                                           : o->op == OP_LINEAR && pw->spec->shard == SHARD_COLS);
    if (p->n_ranks == 1) return 0;
    if (is_sum) {
        next.op = OP_REDUCE;
        next.dst = s->dst;
    } else if (o->op == OP_LOGITS) {
        next.op = OP_DEAL;
        next.dst = act_of(w, S_DEALT);
        next.src = s->dst;
    } else if (o->op == OP_SAMPLE) {
        next.op = OP_SHARE;
    } else {
        return 0;
    }
    return emit(w, next);
}

static int lower_list(struct lowering *w, const struct op_spec *list, int32_t layer,
                      enum slot *last_dst, enum slot *last_src)
{
    struct plan *p = w->p;
    for (const struct op_spec *o = list; o->op != OP_COUNT; o++) {
        if (o->op == OP_POOL && !p->device->ops[OP_POOL]) continue; /* it makes no embeddings */
        bool is_dealt = o->src == S_LOGITS && p->n_ranks > 1;
        struct step s = {.op = o->op,
                         .layer = layer,
                         .dst = act_of(w, o->dst),
                         .src = act_of(w, is_dealt ? S_DEALT : o->src),
                         .w = plan_weight(p, o->w, layer),
                         .bias = plan_weight(p, o->bias, layer),
                         .lp = &p->layers[layer < 0 ? p->config.n_layers : layer]};
        const struct plan_weight *pw = o->w ? find_weight(p, o->w, layer) : NULL;
        if (o->op == OP_LINEAR && pw && pw->spec->shard == SHARD_COLS && p->rank > 0)
            s.bias = NULL; /* of a partial product: added once, by the first rank */
        if (!fuse(w, o, *last_dst, *last_src, &s)) TRY(emit(w, s));
        TRY(meet(w, o, &s));
        *last_dst = o->dst;
        *last_src = o->src;
    }
    return 0;
}

static int32_t list_len(const struct op_spec *list)
{
    int32_t n = 0;
    while (list[n].op != OP_COUNT) n++;
    return n;
}

int plan_lower(struct plan *p, const struct plan_target *t, void *const bufs[SLOT_BUFS],
               struct sl_error *e)
{
    const struct family *f = p->config.family;
    enum slot dst = S_NONE, src = S_NONE;
    struct lowering w = {.p = p, .t = t, .bufs = bufs, .e = e};
    w.cap = 2 * (list_len(f->first) + list_len(f->layer) * p->config.n_layers + list_len(f->last));
    free(p->steps);
    p->steps = xcalloc((size_t)w.cap, sizeof *p->steps);
    p->n_steps = 0;
    TRY(lower_list(&w, f->first, -1, &dst, &src));
    for (int32_t i = 0; i < p->config.n_layers; i++) TRY(lower_list(&w, f->layer, i, &dst, &src));
    return lower_list(&w, f->last, -1, &dst, &src);
}
