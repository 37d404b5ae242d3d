/* model.c - opening a model on the ranks of a device: limits, plans, memory (model_memory.c), weights;
 * then launch and collect.
 *
 * All memory is sized and taken before weights are read. Ranks are opened one after the other and load
 * at the same time.
 */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "model/model_impl.h"

enum {
    BLOCK_SIZE_DEFAULT = 16,
    BLOCK_SIZE_MAX = 256,
    SEQS_MAX = 65536,
    TOKENS_MAX = 1 << 20,
    SIM_VOCAB_DEFAULT = 512,
    SIM_POSITIONS = 8192,
};
static const uint64_t LOGITS_BYTES =
    (uint64_t)64 << 20; /* of rows beyond one a sequence: prompt log probabilities */

const struct device *model_device(const struct model *m)
{
    return m->device;
}
int32_t model_max_wants(const struct model *m)
{
    return m->max_wants;
}
int32_t model_n_ranks(const struct model *m)
{
    return m->n_ranks;
}
struct plan *model_plan(struct model *m)
{
    return &m->ranks[0].plan;
}
int model_assign(struct model *m, int32_t rank, int32_t slot, const struct slot_init *init)
{
    return m->device->assign(m->ranks[rank].dev, slot, init);
}
int model_launch(struct model *m, int32_t rank, const struct batch *b)
{
    struct rank *r = &m->ranks[rank];
    return m->device->launch(r->dev, r->plan.steps, r->plan.n_steps, b);
}
int model_sample(struct model *m, int32_t rank, const struct batch *b)
{
    struct rank *r = &m->ranks[rank];
    return m->device->sample(r->dev, r->plan.steps, r->plan.n_steps, b);
}
int model_collect(struct model *m, int32_t rank, const struct result **out)
{
    return m->device->collect(m->ranks[rank].dev, out);
}

void model_abort(struct model *m)
{
    if (m->group) m->device->group_abort(m->group);
}

uint64_t model_beat(const struct model *m)
{
    return m->group && m->device->group_beat ? m->device->group_beat(m->group) : 0;
}

double model_flops(const struct model *m, uint32_t from, uint32_t to, uint32_t n_logits)
{
    return plan_flops(&m->ranks[0].plan, from, to, n_logits) * m->n_ranks;
}

void model_close(struct model *m)
{
    if (!m) return;
    for (int32_t r = 0; m->ranks && r < m->n_ranks; r++) {
        if (m->ranks[r].dev) m->device->close(m->ranks[r].dev);
        plan_close(&m->ranks[r].plan);
    }
    if (m->group) m->device->group_close(m->group);
    free(m->ranks);
    checkpoint_close(m->checkpoint);
    free(m);
}

/* ------------------------------------------------------------------ what to open */

static bool is_text(const char *a, const char *b)
{
    return a && strcmp(a, b) == 0;
}

/* The GPU where there is one. */
static const char *auto_device(void)
{
#ifdef SLUICE_HAS_CUDA
    struct sl_error why;
    if (device_cuda.probe(&why) == 0) return "cuda";
#endif
    return "cpu";
}

static int choose_device(struct model *m, const char *name, struct sl_error *e)
{
    static const struct device *const devices[] = {&device_cpu, &device_sim,
#ifdef SLUICE_HAS_CUDA
                                                   &device_cuda
#endif
    };
    if (!name || is_text(name, "auto")) name = auto_device();
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        if (is_text(name, devices[i]->name)) m->device = devices[i];
    if (!m->device)
        return sl_fail(e, SL_EUNSUPPORTED, "there is no device \"%.20s\" in this build", name);
    return m->device->probe(e);
}

/* The type that --dtype asks for, or -1: as stored. */
static int read_dtype(const char *name, int *as, struct sl_error *e)
{
    static const struct {
        const char *name;
        int type;
    } names[] = {{"auto", -1},     {"bfloat16", DT_BF16}, {"float16", DT_F16},
                 {"half", DT_F16}, {"float32", DT_F32},   {"float", DT_F32}};
    *as = -1;
    if (!name) return 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!is_text(name, names[i].name)) continue;
        *as = names[i].type;
        return 0;
    }
    return sl_fail(e, SL_EVALUE, "unknown dtype \"%.20s\"", name);
}

static int read_config(struct model *m, struct model_config *c, const struct sl_options *o,
                       struct sl_error *e)
{
    bool is_sim = m->device == &device_sim;
    if (!o->model && !is_sim) return sl_fail(e, SL_EMISSING, "no model given");
    if (!o->model) {
        config_sim(c, o->n_vocab > 0 ? o->n_vocab : SIM_VOCAB_DEFAULT, SIM_POSITIONS);
        return 0;
    }
    TRY(checkpoint_open(&m->checkpoint, o->model, e));
    TRY(config_read(c, checkpoint_config(m->checkpoint), e));
    m->info.model_type = c->family->model_type;
    if (is_sim) config_sim(c, c->n_vocab, c->max_positions);
    return 0;
}

/* ------------------------------------------------------------------ limits */

static int check_range(const char *what, int64_t value, int64_t max, struct sl_error *e)
{
    if (value >= 0 && value <= max) return 0;
    return sl_fail(e, SL_EVALUE, "%s is %lld, not within 0 to %lld", what, (long long)value,
                   (long long)max);
}

static int set_limits(struct model *m, const struct model_config *c, const struct sl_options *o,
                      struct sl_error *e)
{
    struct sl_info *info = &m->info;
    TRY(check_range("max_model_len", o->max_model_len, POSITIONS_MAX, e));
    TRY(check_range("max_num_seqs", o->max_num_seqs, SEQS_MAX, e));
    TRY(check_range("max_num_batched_tokens", o->max_num_batched_tokens, TOKENS_MAX, e));
    TRY(check_range("block_size", o->block_size, BLOCK_SIZE_MAX, e));
    TRY(check_range("num_gpu_blocks_override", o->num_gpu_blocks_override, INT32_MAX, e));
    bool is_builtin = !m->checkpoint; /* it has no real context length */
    if (o->max_model_len > c->max_positions && !is_builtin)
        return sl_fail(e, SL_EVALUE, "max_model_len %d is more than the model's %d positions",
                       o->max_model_len, c->max_positions);
    info->max_model_len = o->max_model_len ? o->max_model_len : c->max_positions;
    info->block_size = o->block_size ? o->block_size : BLOCK_SIZE_DEFAULT;
    info->max_num_batched_tokens =
        o->max_num_batched_tokens ? o->max_num_batched_tokens : m->device->default_max_tokens;
    info->max_num_seqs = o->max_num_seqs ? o->max_num_seqs : m->device->default_max_seqs;
    if (info->max_num_batched_tokens < info->max_num_seqs) {
        if (o->max_num_seqs && o->max_num_batched_tokens)
            return sl_fail(e, SL_EVALUE, "max_num_batched_tokens %d is less than max_num_seqs %d",
                           o->max_num_batched_tokens, o->max_num_seqs);
        if (o->max_num_seqs)
            info->max_num_batched_tokens = o->max_num_seqs;
        else
            info->max_num_seqs = info->max_num_batched_tokens;
    }
    info->n_vocab = c->n_vocab;
    int64_t extra = (int64_t)(LOGITS_BYTES / sizeof(float)) / c->n_vocab;
    if (extra > info->max_num_batched_tokens) extra = info->max_num_batched_tokens;
    m->max_wants = extra > info->max_num_seqs ? (int32_t)extra : info->max_num_seqs;
    return 0;
}

/* ------------------------------------------------------------------ open */

/* Where the time of a start goes, for the log. */
struct laps {
    struct timespec last;
    char text[160];
    size_t n;
};

static struct laps laps_start(void)
{
    struct laps l = {0};
    clock_gettime(CLOCK_MONOTONIC, &l.last);
    return l;
}

static void laps_add(struct laps *l, const char *what)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double ms = (double)(now.tv_sec - l->last.tv_sec) * 1e3 +
                (double)(now.tv_nsec - l->last.tv_nsec) * 1e-6;
    if (l->n < sizeof l->text)
        l->n += (size_t)snprintf(l->text + l->n, sizeof l->text - l->n, "%s%s %.1f",
                                 l->n ? ", " : "", what, ms);
    l->last = now;
}

/* "BF16" or "Q4_K, Q6_K": the types of matrices, in the order of the table of types. */
static void name_types(struct model *m)
{
    bool seen[DT_COUNT] = {0};
    size_t n = 0;
    const struct plan *p = &m->ranks[0].plan;
    for (int32_t k = 0; k < p->n_weights; k++) {
        const struct plan_weight *w = &p->weights[k];
        for (int i = 0; i < w->weight.n_parts && w->weight.rows > 1 && !w->same; i++)
            seen[w->weight.part[i].type] = true;
    }
    for (int t = 0; t < DT_COUNT && n < sizeof m->weight_types; t++)
        if (seen[t])
            n += (size_t)snprintf(m->weight_types + n, sizeof m->weight_types - n, "%s%s",
                                  n ? ", " : "", dtype_info[t].name);
}

/* Frequencies that a GGUF file divides one by one. */
static int read_rope_factors(const struct model *m, struct plan *p, struct sl_error *e)
{
    float factors[HEAD_DIM_MAX / 2];
    const struct tensor *t = checkpoint_find(m->checkpoint, "model.rope_freqs");
    if (!t) return sl_fail(e, SL_EFORMAT, "tensor model.rope_freqs is missing");
    TRY(weights_vector(m->checkpoint, t, p->config.rope.rotary_dim / 2, factors, e));
    for (int32_t i = 0; i < p->config.rope.rotary_dim / 2; i++)
        if (!(factors[i] >= 1e-6f && factors[i] <= 1e6f))
            return sl_fail(e, SL_EFORMAT, "tensor model.rope_freqs holds %g", (double)factors[i]);
    plan_set_rope(p, factors);
    return 0;
}

static int set_rope(const struct model *m, struct plan *p, const struct sl_options *o,
                    struct sl_error *e)
{
    bool is_dummy = is_text(o->load_format, "dummy");
    if (p->config.rope.type == ROPE_FREQ_FACTORS && !is_dummy) TRY(read_rope_factors(m, p, e));
    if (!is_text(o->rope_freq_dtype, "bfloat16")) return 0;
    for (int32_t i = 0; i < p->config.rope.rotary_dim / 2; i++)
        p->rope_freq[i] = bf16_to_f32(f32_to_bf16(p->rope_freq[i]));
    return 0;
}

/* How a model is opened: what stays the same for its ranks. */
struct opening {
    struct model *m;
    const struct sl_options *o;
    struct model_config config;
    int as; /* a dtype, or -1: as stored */
    bool fuse;
};

static struct plan_target target_of(const struct opening *w, int32_t rank, int32_t n_ranks)
{
    return (struct plan_target){
        .device = w->m->device, .rank = rank, .n_ranks = n_ranks, .fuse = w->fuse};
}

/* The weights of one of n_ranks, with shapes and types. */
static int plan_rank(const struct opening *w, struct plan *p, int32_t rank, int32_t n_ranks,
                     struct sl_error *e)
{
    bool is_dummy = is_text(w->o->load_format, "dummy") || w->config.family == &family_sim;
    struct plan_target t = target_of(w, rank, n_ranks);
    TRY(plan_open(p, &w->config, &t, e));
    return weights_find(p, w->m->checkpoint, is_dummy, w->as, e);
}

static bool would_do(const struct opening *w, int32_t n_ranks)
{
    struct plan p;
    struct sl_error why;
    int code = plan_rank(w, &p, 0, n_ranks, &why);
    plan_close(&p);
    return code == 0;
}

/* So many ranks cannot share this model: say how many can, the next fewer and the next more. */
static void name_others(const struct opening *w, struct sl_error *e)
{
    enum { TRIED_MAX = 16 };
    int32_t fewer = w->m->n_ranks - 1, more = w->m->n_ranks + 1;
    size_t at = strlen(e->text);
    while (fewer > 0 && !would_do(w, fewer)) fewer--;
    while (more <= TRIED_MAX && !would_do(w, more)) more++;
    if (fewer == 0) return;
    if (more <= TRIED_MAX)
        snprintf(e->text + at, sizeof e->text - at, "; --tensor-parallel-size %d or %d would do",
                 fewer, more);
    else
        snprintf(e->text + at, sizeof e->text - at, "; --tensor-parallel-size %d would do", fewer);
}

static int make_plans(struct opening *w, struct sl_error *e)
{
    struct model *m = w->m;
    struct sl_info *info = &m->info;
    for (int32_t r = 0; r < m->n_ranks; r++) {
        struct rank *rank = &m->ranks[r];
        int code = plan_rank(w, &rank->plan, r, m->n_ranks, e);
        if (code == SL_EUNSUPPORTED && m->n_ranks > 1) name_others(w, e);
        if (code < 0) return code;
        TRY(set_rope(m, &rank->plan, w->o, e));
        TRY(plan_slot_bytes(&rank->plan, info->max_num_batched_tokens, m->max_wants, rank->scratch,
                            e));
    }
    const struct rank *first = &m->ranks[0];
    for (int i = 0; i < SLOT_BUFS; i++) info->scratch_bytes += first->scratch[i];
    info->weight_bytes = weights_bytes(&first->plan);
    info->n_parameters = plan_parameters(&first->plan);
    info->device = m->device->name;
    info->n_ranks = m->n_ranks;
    if (!info->model_type) info->model_type = w->config.family->model_type;
    info->n_pooled = m->device->ops[OP_POOL] ? w->config.hidden : 0;
    name_types(m);
    info->weight_types = m->weight_types;
    return 0;
}

static int open_device(struct model *m, int32_t rank, const struct sl_options *o,
                       struct sl_error *e)
{
    const struct sl_info *info = &m->info;
    struct dev_config c = {.rank = rank,
                           .n_ranks = m->n_ranks,
                           .group = m->group,
                           .n_threads = o->n_threads,
                           .max_tokens = info->max_num_batched_tokens,
                           .max_seqs = info->max_num_seqs,
                           .max_wants = m->max_wants,
                           .max_model_len = info->max_model_len,
                           .n_vocab = info->n_vocab,
                           .page_size = info->block_size,
                           .n_hidden = m->ranks[rank].plan.config.hidden,
                           .sim_step_us = o->sim_step_us,
                           .sim_row_us = o->sim_row_us,
                           .fail_step = rank == o->fail_rank ? o->fail_step : 0,
                           .fail_skips = o->fail_skips,
                           .enforce_eager = o->enforce_eager,
                           .disable_custom_all_reduce = o->disable_custom_all_reduce,
                           .sim_replay = o->sim_replay};
    return m->device->open(&m->ranks[rank].dev, &c, e);
}

static int open_ranks(const struct opening *w, struct sl_error *e)
{
    struct model *m = w->m;
    if (m->n_ranks > 1) TRY(m->device->group_open(&m->group, m->n_ranks, e));
    for (int32_t r = 0; r < m->n_ranks; r++) TRY(open_device(m, r, w->o, e));
    return 0;
}

static int lower_ranks(const struct opening *w, struct sl_error *e)
{
    for (int32_t r = 0; r < w->m->n_ranks; r++) {
        struct plan_target t = target_of(w, r, w->m->n_ranks);
        TRY(plan_lower(&w->m->ranks[r].plan, &t, w->m->ranks[r].bufs, e));
    }
    return 0;
}

/* One rank's weights, on a thread of its own but for the first. */
struct rank_load {
    const struct opening *w;
    int32_t rank;
    int code;
    struct sl_error error;
    pthread_t thread;
};

static void *load_rank(void *arg)
{
    struct rank_load *k = arg;
    const struct sl_options *o = k->w->o;
    const struct device *device = k->w->m->device;
    struct rank *r = &k->w->m->ranks[k->rank];
    const struct weights_load l = {.checkpoint = k->w->m->checkpoint,
                                   .dev = r->dev,
                                   .progress = k->rank ? NULL : o->progress,
                                   .progress_arg = o->progress_arg,
                                   .seed = o->seed};
    k->code = weights_load(&r->plan, &l, &k->error);
    if (k->code == 0 && device->ready && device->ready(r->dev, r->plan.steps, r->plan.n_steps) < 0)
        k->code = sl_fail(&k->error, SL_EDEVICE, "the %s device did not get ready", device->name);
    return NULL;
}

static int load_ranks(const struct opening *w, struct sl_error *e)
{
    int32_t n = w->m->n_ranks, n_threads = 0;
    int code = 0;
    struct rank_load *loads = xcalloc((size_t)n, sizeof *loads);
    for (int32_t r = 0; r < n; r++) loads[r] = (struct rank_load){.w = w, .rank = r};
    while (n_threads + 1 < n && pthread_create(&loads[n_threads + 1].thread, NULL, load_rank,
                                               &loads[n_threads + 1]) == 0)
        n_threads++;
    load_rank(&loads[0]);
    for (int32_t r = n_threads + 1; r < n; r++) load_rank(&loads[r]);
    for (int32_t r = 0; r < n; r++) {
        if (r >= 1 && r <= n_threads) pthread_join(loads[r].thread, NULL);
        if (code < 0 || loads[r].code == 0) continue;
        code = loads[r].code;
        if (e) *e = loads[r].error;
    }
    free(loads);
    return code;
}

static int open_all(struct opening *w, struct sl_error *e)
{
    struct laps laps = laps_start();
    struct model *m = w->m;
    const struct sl_options *o = w->o;
    if (o->load_format && !is_text(o->load_format, "dummy") && !is_text(o->load_format, "auto"))
        return sl_fail(e, SL_EVALUE, "unknown load format \"%.20s\"", o->load_format);
    TRY(choose_device(m, o->device, e));
    laps_add(&laps, "driver");
    m->n_ranks = o->tensor_parallel_size > 1 ? o->tensor_parallel_size : 1;
    if (m->n_ranks > 1 && !m->device->group_open)
        return sl_fail(e, SL_EUNSUPPORTED, "the %s device runs one rank, not %d", m->device->name,
                       m->n_ranks);
    m->ranks = xcalloc((size_t)m->n_ranks, sizeof *m->ranks);
    TRY(read_dtype(o->dtype, &w->as, e));
    TRY(read_config(m, &w->config, o, e));
    TRY(set_limits(m, &w->config, o, e));
    TRY(make_plans(w, e));
    laps_add(&laps, "plan");
    TRY(model_read_budget(m, o, e));
    laps_add(&laps, "context");
    TRY(open_ranks(w, e));
    laps_add(&laps, "device");
    TRY(model_take_memory(m, o, e));
    TRY(lower_ranks(w, e));
    laps_add(&laps, "memory");
    TRY(load_ranks(w, e));
    laps_add(&laps, "weights");
    log_debug("model", "opened in ms: %s", laps.text);
    return 0;
}

int model_open_as(struct model **out, const struct sl_options *o, bool fuse, struct sl_info *info,
                  struct sl_error *e)
{
    struct model *m = xcalloc(1, sizeof *m);
    struct opening w = {.m = m, .o = o, .fuse = fuse};
    int code = open_all(&w, e);
    if (code < 0) {
        model_close(m);
        return code;
    }
    *info = m->info;
    *out = m;
    return 0;
}

int model_open(struct model **out, const struct sl_options *o, struct sl_info *info,
               struct sl_error *e)
{
    return model_open_as(out, o, true, info, e);
}

int model_explain(const struct explain_args *a, FILE *out, struct sl_error *e)
{
    struct checkpoint *ckpt;
    struct model_config c;
    struct plan p = {0};
    struct plan_target t = {.device = &device_cpu, .n_ranks = a->n_ranks, .fuse = true};
    if (a->n_tokens < 1 || a->ctx < 1)
        return sl_fail(e, SL_EVALUE, "tokens and context must be at least 1");
    TRY(checkpoint_open(&ckpt, a->path, e));
    int code = config_read(&c, checkpoint_config(ckpt), e);
    if (code == 0) code = plan_open(&p, &c, &t, e);
    if (code == 0) code = weights_find(&p, ckpt, checkpoint_n_tensors(ckpt) == 0, -1, e);
    if (code == 0) code = plan_lower(&p, &t, NULL, e);
    if (code == 0) plan_explain(&p, a->n_tokens, a->ctx, out);
    plan_close(&p);
    checkpoint_close(ckpt);
    return code;
}
