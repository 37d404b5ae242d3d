/* model.c - opening a model on a device: limits, plan, weights, scratch, KV pages; then launch and
 * collect.
 *
 * All memory is sized and taken here, in this order: the device's own state, scratch, weights, then
 * KV pages from the rest of the share that --gpu-memory-utilization names; weights are read last. On
 * devices that share the machine's memory the default is modest: what the sequences can use, at
 * most KV_DEFAULT_BYTES.
 */
#include "model/model.h"

#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "model/plan.h"

enum {
    BLOCK_SIZE_DEFAULT = 16,
    BLOCK_SIZE_MAX = 256,
    SEQS_MAX = 65536,
    TOKENS_MAX = 1 << 20,
    SIM_VOCAB_DEFAULT = 512,
    SIM_POSITIONS = 8192,
    TYPES_TEXT = 96,
};
static const uint64_t KV_DEFAULT_BYTES = (uint64_t)1 << 30;
static const uint64_t LOGITS_BYTES =
    (uint64_t)64 << 20; /* of rows beyond one a sequence: prompt log probabilities */
static const double UTILIZATION_DEFAULT = 0.9;
/* What a GPU takes after KV pages are sized: staging, attention's partial answers, cuBLASLt's
 * workspace, kernels and graphs as they are first used. */
static const uint64_t LATE_BYTES = (uint64_t)512 << 20;
static const double gib = 1024.0 * 1024.0 * 1024.0;

struct model {
    struct checkpoint *checkpoint; /* owned; NULL: the built-in plan */
    const struct device *device;
    struct dev *dev; /* owned */
    struct plan plan;
    void *bufs[SLOT_BUFS]; /* device memory */
    int32_t max_wants;
    uint64_t free_bytes; /* of the device's memory, before anything was taken */
    struct sl_info info;
    char weight_types[TYPES_TEXT];
};

const struct device *model_device(const struct model *m)
{
    return m->device;
}
int32_t model_max_wants(const struct model *m)
{
    return m->max_wants;
}
struct plan *model_plan(struct model *m)
{
    return &m->plan;
}
int model_assign(struct model *m, int32_t slot, const struct slot_init *init)
{
    return m->device->assign(m->dev, slot, init);
}
int model_launch(struct model *m, const struct batch *b)
{
    return m->device->launch(m->dev, m->plan.steps, m->plan.n_steps, b);
}
int model_collect(struct model *m, const struct result **out)
{
    return m->device->collect(m->dev, out);
}

double model_flops(const struct model *m, uint32_t from, uint32_t to, uint32_t n_logits)
{
    return plan_flops(&m->plan, from, to, n_logits);
}

void model_close(struct model *m)
{
    if (!m) return;
    if (m->dev) m->device->close(m->dev);
    plan_close(&m->plan);
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

/* ------------------------------------------------------------------ KV pages */

static uint64_t pages_for(const struct sl_info *info, uint64_t tokens)
{
    return (tokens + (uint64_t)info->block_size - 1) / (uint64_t)info->block_size;
}

static bool shares_memory(const struct model *m)
{
    return m->device == &device_cpu || m->device == &device_sim;
}

/* What the model may take in all: a share of the device's memory, which must be free (so do others
 * read this option; two servers on one GPU give each its share). */
static int read_budget(struct model *m, const struct sl_options *o, struct sl_error *e)
{
    uint64_t total, free_now;
    double share = o->gpu_memory_utilization > 0 ? o->gpu_memory_utilization : UTILIZATION_DEFAULT;
    m->device->memory(0, &total, &free_now);
    m->info.memory_bytes = total;
    m->info.budget_bytes = (uint64_t)((double)total * share);
    m->free_bytes = free_now;
    bool is_given = o->kv_cache_memory_bytes || o->num_gpu_blocks_override;
    if (free_now >= m->info.budget_bytes || is_given) return 0;
    return sl_fail(
        e, SL_ENOMEM,
        "%.2f GiB of the %s device's %.2f are free, less than its share of %.2f asks for "
        "(--gpu-memory-utilization)",
        (double)free_now / gib, m->device->name, (double)total / gib, share);
}

/* Bytes that KV pages may take when no option says so. */
static uint64_t kv_budget(const struct model *m, const struct sl_options *o, uint64_t page_bytes)
{
    const struct sl_info *info = &m->info;
    uint64_t used = info->weight_bytes + info->scratch_bytes + info->state_bytes;
    uint64_t left = info->budget_bytes > used ? info->budget_bytes - used : 0;
    if (!shares_memory(m)) return left;
    uint64_t one = pages_for(info, (uint64_t)info->max_model_len) * page_bytes;
    uint64_t cap = KV_DEFAULT_BYTES;
    if (o->max_model_len && one > cap)
        cap = one; /* asked for by name: hold at least one such sequence */
    return left < cap ? left : cap;
}

/* What the device has taken beside weights and scratch, and will. */
static void measure_state(struct model *m)
{
    uint64_t total, free_now, known = m->info.weight_bytes + m->info.scratch_bytes;
    if (shares_memory(m)) return;
    m->device->memory(0, &total, &free_now);
    uint64_t taken = m->free_bytes > free_now ? m->free_bytes - free_now : 0;
    m->info.state_bytes = (taken > known ? taken - known : 0) + LATE_BYTES;
}

static int size_kv(struct model *m, const struct sl_options *o, struct sl_error *e)
{
    struct sl_info *info = &m->info;
    uint64_t page_bytes = plan_page_bytes(&m->plan, info->block_size),
             bytes = o->kv_cache_memory_bytes, n;
    if (!page_bytes) return sl_fail(e, SL_EUNSUPPORTED, "a KV page is too large");
    if (o->num_gpu_blocks_override) {
        n = (uint64_t)o->num_gpu_blocks_override;
    } else {
        uint64_t need =
            pages_for(info, (uint64_t)info->max_model_len) * (uint64_t)info->max_num_seqs;
        n = (bytes ? bytes : kv_budget(m, o, page_bytes)) / page_bytes;
        if (!bytes && n > need) n = need; /* more than all sequences can use */
    }
    if (n > (uint64_t)(INT32_MAX / info->block_size)) n = (uint64_t)(INT32_MAX / info->block_size);
    if (n == 0)
        return sl_fail(e, SL_ENOMEM,
                       "no memory for a KV page of %llu bytes: weights take %.2f GiB of %.2f",
                       (unsigned long long)page_bytes, (double)info->weight_bytes / gib,
                       (double)info->budget_bytes / gib);
    info->num_blocks = (int32_t)n;
    int32_t fits = (int32_t)n * info->block_size; /* below 2^31 by the cap above */
    if (info->max_model_len > fits) {
        if (o->max_model_len)
            return sl_fail(e, SL_ENOMEM,
                           "max_model_len %d does not fit: the KV cache holds %d tokens",
                           o->max_model_len, fits);
        info->max_model_len = fits;
    }
    if (__builtin_mul_overflow(n, page_bytes, &info->kv_bytes) || info->kv_bytes > SIZE_MAX)
        return sl_fail(e, SL_ENOMEM, "the KV cache is too large");
    return 0;
}

static int alloc_kv(struct model *m, struct sl_error *e)
{
    struct plan *p = &m->plan;
    size_t half = (size_t)(m->info.kv_bytes / 2 / (uint64_t)p->config.n_layers);
    for (int32_t i = 0; i < p->config.n_layers; i++) {
        p->layers[i].k_pages = m->device->alloc(m->dev, half, "KV pages", e);
        if (p->layers[i].k_pages)
            p->layers[i].v_pages = m->device->alloc(m->dev, half, "KV pages", e);
        if (!p->layers[i].v_pages) return SL_ENOMEM;
    }
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
    for (int32_t k = 0; k < m->plan.n_weights; k++) {
        const struct plan_weight *w = &m->plan.weights[k];
        for (int i = 0; i < w->weight.n_parts && w->weight.rows > 1 && !w->same; i++)
            seen[w->weight.part[i].type] = true;
    }
    for (int t = 0; t < DT_COUNT && n < sizeof m->weight_types; t++)
        if (seen[t])
            n += (size_t)snprintf(m->weight_types + n, sizeof m->weight_types - n, "%s%s",
                                  n ? ", " : "", dtype_info[t].name);
}

/* Frequencies that a GGUF file divides one by one. */
static int read_rope_factors(struct model *m, bool is_dummy, struct sl_error *e)
{
    struct plan *p = &m->plan;
    float factors[HEAD_DIM_MAX / 2];
    if (p->config.rope.type != ROPE_FREQ_FACTORS || is_dummy) return 0;
    const struct tensor *t = checkpoint_find(m->checkpoint, "model.rope_freqs");
    if (!t) return sl_fail(e, SL_EFORMAT, "tensor model.rope_freqs is missing");
    TRY(weights_vector(m->checkpoint, t, p->config.rope.rotary_dim / 2, factors, e));
    for (int32_t i = 0; i < p->config.rope.rotary_dim / 2; i++)
        if (!(factors[i] >= 1e-6f && factors[i] <= 1e6f))
            return sl_fail(e, SL_EFORMAT, "tensor model.rope_freqs holds %g", (double)factors[i]);
    plan_set_rope(p, factors);
    return 0;
}

static int set_rope(struct model *m, const struct sl_options *o, bool is_dummy, struct sl_error *e)
{
    TRY(read_rope_factors(m, is_dummy, e));
    if (!is_text(o->rope_freq_dtype, "bfloat16")) return 0;
    for (int32_t i = 0; i < m->plan.config.rope.rotary_dim / 2; i++)
        m->plan.rope_freq[i] = bf16_to_f32(f32_to_bf16(m->plan.rope_freq[i]));
    return 0;
}

static int open_device(struct model *m, const struct sl_options *o, struct sl_error *e)
{
    const struct sl_info *info = &m->info;
    struct dev_config c = {.rank = 0,
                           .n_ranks = 1,
                           .n_threads = o->n_threads,
                           .max_tokens = info->max_num_batched_tokens,
                           .max_seqs = info->max_num_seqs,
                           .max_wants = m->max_wants,
                           .max_model_len = info->max_model_len,
                           .n_vocab = info->n_vocab,
                           .page_size = info->block_size,
                           .n_hidden = m->plan.config.hidden,
                           .sim_step_us = o->sim_step_us,
                           .sim_row_us = o->sim_row_us,
                           .fail_step = o->fail_step,
                           .enforce_eager = o->enforce_eager,
                           .sim_replay = o->sim_replay};
    return m->device->open(&m->dev, &c, e);
}

/* All of the device's memory that the model will ever have. */
static int take_memory(struct model *m, const struct sl_options *o, const size_t scratch[SLOT_BUFS],
                       struct sl_error *e)
{
    for (int i = 0; i < SLOT_BUFS; i++) {
        if (!scratch[i]) continue;
        m->bufs[i] = m->device->alloc(m->dev, scratch[i], "activations", e);
        if (!m->bufs[i]) return SL_ENOMEM;
    }
    TRY(weights_alloc(&m->plan, m->dev, e));
    measure_state(m);
    TRY(size_kv(m, o, e));
    return alloc_kv(m, e);
}

static int load(struct model *m, const struct sl_options *o, struct sl_error *e)
{
    const struct weights_load l = {.checkpoint = m->checkpoint,
                                   .dev = m->dev,
                                   .progress = o->progress,
                                   .progress_arg = o->progress_arg,
                                   .seed = o->seed};
    TRY(weights_load(&m->plan, &l, e));
    if (!m->device->ready || m->device->ready(m->dev, m->plan.steps, m->plan.n_steps) == 0)
        return 0;
    return sl_fail(e, SL_EDEVICE, "the %s device did not get ready", m->device->name);
}

static int make_plan(struct model *m, const struct sl_options *o, const struct plan_target *t,
                     size_t scratch[SLOT_BUFS], struct sl_error *e)
{
    struct model_config c;
    int as;
    bool is_dummy = is_text(o->load_format, "dummy");
    TRY(read_dtype(o->dtype, &as, e));
    TRY(read_config(m, &c, o, e));
    TRY(set_limits(m, &c, o, e));
    TRY(plan_open(&m->plan, &c, t, e));
    TRY(weights_find(&m->plan, m->checkpoint, is_dummy || c.family == &family_sim, as, e));
    TRY(set_rope(m, o, is_dummy, e));
    TRY(plan_slot_bytes(&m->plan, m->info.max_num_batched_tokens, m->max_wants, scratch, e));
    for (int i = 0; i < SLOT_BUFS; i++) m->info.scratch_bytes += scratch[i];
    m->info.weight_bytes = weights_bytes(&m->plan);
    m->info.n_parameters = plan_parameters(&m->plan);
    m->info.device = m->device->name;
    if (!m->info.model_type) m->info.model_type = c.family->model_type;
    m->info.n_pooled = m->device->ops[OP_POOL] ? c.hidden : 0;
    name_types(m);
    m->info.weight_types = m->weight_types;
    return 0;
}

static int open_all(struct model *m, const struct sl_options *o, bool fuse, struct sl_error *e)
{
    size_t scratch[SLOT_BUFS];
    struct laps laps = laps_start();
    if (o->load_format && !is_text(o->load_format, "dummy") && !is_text(o->load_format, "auto"))
        return sl_fail(e, SL_EVALUE, "unknown load format \"%.20s\"", o->load_format);
    TRY(choose_device(m, o->device, e));
    laps_add(&laps, "driver");
    if (o->tensor_parallel_size > 1)
        return sl_fail(e, SL_EUNSUPPORTED, "the %s device runs on one rank, not %d",
                       m->device->name, o->tensor_parallel_size);
    struct plan_target t = {.device = m->device, .n_ranks = 1, .fuse = fuse};
    TRY(make_plan(m, o, &t, scratch, e));
    laps_add(&laps, "plan");
    TRY(read_budget(m, o, e));
    laps_add(&laps, "context");
    TRY(open_device(m, o, e));
    laps_add(&laps, "device");
    TRY(take_memory(m, o, scratch, e));
    TRY(plan_lower(&m->plan, &t, m->bufs, e));
    laps_add(&laps, "memory");
    TRY(load(m, o, e));
    laps_add(&laps, "weights");
    log_debug("model", "opened in ms: %s", laps.text);
    return 0;
}

int model_open_as(struct model **out, const struct sl_options *o, bool fuse, struct sl_info *info,
                  struct sl_error *e)
{
    struct model *m = xcalloc(1, sizeof *m);
    int code = open_all(m, o, fuse, e);
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
