/* model_memory.c - what a model takes of its ranks' memory: scratch, weights, then KV pages from the
 * rest of the share that --gpu-memory-utilization names.
 *
 * Ranks take the same, to a few rows of the vocabulary: sizes are the first rank's, which has the most.
 * On devices that share the machine's memory the default is modest: what the sequences can use, at most
 * KV_DEFAULT_BYTES in all.
 */
#include "model/model_impl.h"

static const uint64_t KV_DEFAULT_BYTES = (uint64_t)1 << 30;
static const double UTILIZATION_DEFAULT = 0.9;
/* What a GPU takes after KV pages are sized: staging, attention's partial answers, cuBLASLt's
 * workspace, kernels and graphs as they are first used. */
static const uint64_t LATE_BYTES = (uint64_t)512 << 20;
static const double gib = 1024.0 * 1024.0 * 1024.0;

static uint64_t pages_for(const struct sl_info *info, uint64_t tokens)
{
    return (tokens + (uint64_t)info->block_size - 1) / (uint64_t)info->block_size;
}

static bool shares_memory(const struct model *m)
{
    return m->device == &device_cpu || m->device == &device_sim;
}

/* A share of the device's memory, which must be free (so do others read this option; two servers on one
 * GPU give each its share). The rank with the least decides. */
int model_read_budget(struct model *m, const struct sl_options *o, struct sl_error *e)
{
    struct sl_info *info = &m->info;
    double share = o->gpu_memory_utilization > 0 ? o->gpu_memory_utilization : UTILIZATION_DEFAULT;
    m->free_bytes = UINT64_MAX;
    for (int32_t r = 0; r < m->n_ranks; r++) {
        uint64_t total, free_now, sharers = shares_memory(m) ? (uint64_t)m->n_ranks : 1;
        m->device->memory(r, &total, &free_now);
        total /= sharers;
        free_now /= sharers;
        if (r == 0 || total < info->memory_bytes) info->memory_bytes = total;
        if (free_now < m->free_bytes) m->free_bytes = free_now;
    }
    info->budget_bytes = (uint64_t)((double)info->memory_bytes * share);
    bool is_given = o->kv_cache_memory_bytes || o->num_gpu_blocks_override;
    if (m->free_bytes >= info->budget_bytes || is_given) return 0;
    return sl_fail(
        e, SL_ENOMEM,
        "%.2f GiB of the %s device's %.2f are free, less than its share of %.2f asks for "
        "(--gpu-memory-utilization)",
        (double)m->free_bytes / gib, m->device->name, (double)info->memory_bytes / gib, share);
}

/* Bytes that KV pages may take when no option says so. */
static uint64_t kv_budget(const struct model *m, const struct sl_options *o, uint64_t page_bytes)
{
    const struct sl_info *info = &m->info;
    uint64_t used = info->weight_bytes + info->scratch_bytes + info->state_bytes;
    uint64_t left = info->budget_bytes > used ? info->budget_bytes - used : 0;
    if (!shares_memory(m)) return left;
    uint64_t one = pages_for(info, (uint64_t)info->max_model_len) * page_bytes;
    uint64_t cap = KV_DEFAULT_BYTES / (uint64_t)m->n_ranks;
    if (o->max_model_len && one > cap)
        cap = one; /* asked for by name: hold at least one such sequence */
    return left < cap ? left : cap;
}

/* What the device has taken beside weights and scratch, and will: of the rank that took most. */
static void measure_state(struct model *m)
{
    uint64_t known = m->info.weight_bytes + m->info.scratch_bytes, most = 0;
    if (shares_memory(m)) return;
    for (int32_t r = 0; r < m->n_ranks; r++) {
        uint64_t total, free_now;
        m->device->memory(r, &total, &free_now);
        uint64_t taken = m->free_bytes > free_now ? m->free_bytes - free_now : 0;
        if (taken > known && taken - known > most) most = taken - known;
    }
    m->info.state_bytes = most + LATE_BYTES;
}

static int size_kv(struct model *m, const struct sl_options *o, struct sl_error *e)
{
    struct sl_info *info = &m->info;
    uint64_t page_bytes = plan_page_bytes(&m->ranks[0].plan, info->block_size),
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

static int alloc_kv(struct model *m, struct rank *r, struct sl_error *e)
{
    struct plan *p = &r->plan;
    size_t half = (size_t)(m->info.kv_bytes / 2 / (uint64_t)p->config.n_layers);
    for (int32_t i = 0; i < p->config.n_layers; i++) {
        p->layers[i].k_pages = m->device->alloc(r->dev, half, "KV pages", e);
        if (p->layers[i].k_pages)
            p->layers[i].v_pages = m->device->alloc(r->dev, half, "KV pages", e);
        if (!p->layers[i].v_pages) return SL_ENOMEM;
    }
    return 0;
}

static int alloc_scratch(struct model *m, struct rank *r, struct sl_error *e)
{
    for (int i = 0; i < SLOT_BUFS; i++) {
        if (!r->scratch[i]) continue;
        r->bufs[i] = m->device->alloc(r->dev, r->scratch[i], "activations", e);
        if (!r->bufs[i]) return SL_ENOMEM;
    }
    return 0;
}

int model_take_memory(struct model *m, const struct sl_options *o, struct sl_error *e)
{
    for (int32_t r = 0; r < m->n_ranks; r++) {
        TRY(alloc_scratch(m, &m->ranks[r], e));
        TRY(weights_alloc(&m->ranks[r].plan, m->ranks[r].dev, e));
    }
    measure_state(m);
    TRY(size_kv(m, o, e));
    for (int32_t r = 0; r < m->n_ranks; r++) TRY(alloc_kv(m, &m->ranks[r], e));
    return 0;
}
