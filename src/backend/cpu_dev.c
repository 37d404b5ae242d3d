/* cpu_dev.c - the cpu device: memory, threads, and a loop over steps.
 *
 * All calls come from one thread; pool_run lends work to the helpers and takes it back before an op
 * ends. launch computes at once and collect hands out what it made. Memory is mapped, zero, and
 * costs no RSS before it is touched.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "backend/cpu.h"
#include "backend/cpu_group.h"

enum {
    ALIGNMENT = 64,
    HUGE_PAGE = 2 << 20,
    SLAB =
        32
        << 20, /* smaller allocations share one: weights on 4 KiB pages stream at half the speed */
    DEFAULT_SEQS = 16,
    DEFAULT_TOKENS = 512,
};
/* Below this a job runs on the caller: handing it over and back costs 0.5 to 1 us. */
static const double SPREAD_MIN_US = 3.0;
/* The share of the machine's memory that a model may take; the rest is the system's and ours. */
static const double MEMORY_SHARE = 0.75;

struct region {
    struct region *next;
    void *p;    /* aligned, within */
    void *base; /* the mapping */
    size_t bytes;
};

/* Large regions are aligned for huge pages, which the kernel gives where it has them. */
static void *map_region(struct dev *d, size_t bytes)
{
    size_t need, all, align = bytes >= HUGE_PAGE ? HUGE_PAGE : 4096;
    if (bytes == 0 || ckd_align(&need, bytes, align) || ckd_add(&all, need, align)) return NULL;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    uint8_t *p = mmap(NULL, all, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == MAP_FAILED) return NULL;
    struct region *r = xmalloc(sizeof *r);
    *r = (struct region){d->regions, p + (-(uintptr_t)p & (align - 1)), p, all};
    d->regions = r;
    if (align == HUGE_PAGE) madvise(r->p, need, MADV_HUGEPAGE); /* failure is harmless */
    return r->p;
}

static void unmap_region(struct dev *d, void *p)
{
    for (struct region **at = &d->regions; *at; at = &(*at)->next) {
        if ((*at)->p != p) continue;
        struct region *r = *at;
        *at = r->next;
        munmap(r->base, r->bytes);
        free(r);
        return;
    }
}

void *scratch_get(struct dev *d, struct scratch *s, size_t bytes)
{
    if (bytes <= s->bytes) return s->p;
    unmap_region(d, s->p);
    *s = (struct scratch){map_region(d, bytes), bytes};
    if (!s->p) s->bytes = 0;
    return s->p;
}

/* What steps will need, mapped now; pages come when a step touches them. Where the system refuses
 * so much at once, scratch_get maps what a step asks for. */
static void scratch_reserve(struct dev *d)
{
    const struct dev_config *c = &d->config;
    size_t chunks = (size_t)c->max_model_len / ATTN_CHUNK + 1;
    size_t tiles = (size_t)ATTN_SPLIT_ITEMS * (size_t)pool_threads(d->pool);
    size_t answer = (size_t)ATTN_ROWS * (2 + HEAD_DIM_MAX) * sizeof(float), bytes;
    if (!ckd_mul(&bytes, tiles * chunks, answer)) scratch_get(d, &d->attn, bytes);
    scratch_get(d, &d->angles, (size_t)c->max_tokens * HEAD_DIM_MAX * sizeof(float));
}

void cpu_spread(struct dev *d, pool_fn fn, void *arg, int n_items, double work_us)
{
    if (work_us >= SPREAD_MIN_US) {
        pool_run(d->pool, fn, arg, n_items);
        return;
    }
    for (int i = 0; i < n_items; i++) fn(arg, i, 0);
}

/* ------------------------------------------------------------------ before open */

static int cpu_probe(struct sl_error *e)
{
    (void)e;
    return 0;
}

/* A control group's limit in bytes, or UINT64_MAX ("max", or no such file). */
static uint64_t cgroup_limit(const char *path)
{
    char text[32] = {0};
    FILE *f = fopen(path, "r");
    if (!f) return UINT64_MAX;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    if (n == 0 || text[0] < '0' || text[0] > '9') return UINT64_MAX;
    return strtoull(text, NULL, 10);
}

/* What a model may take of it: the machine's memory is shared with others. */
static void cpu_memory(int32_t rank, uint64_t *total, uint64_t *free_now)
{
    (void)rank;
    uint64_t bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t v2 = cgroup_limit("/sys/fs/cgroup/memory.max");
    uint64_t v1 = cgroup_limit("/sys/fs/cgroup/memory/memory.limit_in_bytes");
    if (v2 < bytes) bytes = v2;
    if (v1 < bytes) bytes = v1;
    *total = *free_now = (uint64_t)((double)bytes * MEMORY_SHARE);
}

/* ------------------------------------------------------------------ open, close */

static void cpu_close(struct dev *d)
{
    if (!d) return;
    if (d->sample && d->pool)
        for (int i = 0; i < pool_threads(d->pool); i++) sample_scratch_close(d->sample[i]);
    free(d->sample);
    pool_close(d->pool);
    cpu_slots_close(d->slots);
    free(d->pool_sum);
    free(d->pool_rows);
    for (int i = 0; i < RESULTS; i++) {
        free(d->result[i].token);
        free(d->result[i].logprob);
        free(d->result[i].rank);
        free(d->result[i].n_top);
        free(d->result[i].top_id);
        free(d->result[i].top_logprob);
        free(d->result[i].pooled);
    }
    while (d->regions) unmap_region(d, d->regions->p);
    free(d);
}

static void open_result(struct result *r, const struct dev_config *c)
{
    size_t n = (size_t)c->max_wants;
    r->token = xcalloc(n, sizeof *r->token);
    r->logprob = xcalloc(n, sizeof *r->logprob);
    r->rank = xcalloc(n, sizeof *r->rank);
    r->n_top = xcalloc(n, sizeof *r->n_top);
    r->top_id = xcalloc(n * SL_TOP_MAX, sizeof *r->top_id);
    r->top_logprob = xcalloc(n * SL_TOP_MAX, sizeof *r->top_logprob);
    r->pooled = xcalloc((size_t)c->max_seqs * (size_t)c->n_hidden, sizeof *r->pooled);
}

static int open_parts(struct dev *d, int n_threads, struct sl_error *e)
{
    const struct dev_config *c = &d->config;
    d->pool = pool_open(n_threads);
    if (!d->pool) return sl_fail(e, SL_ENOMEM, "cpu: cannot start %d threads", n_threads);
    TRY(cpu_slots_open(&d->slots, c->max_seqs, c->max_model_len, c->n_vocab, e));
    d->sample = xcalloc((size_t)n_threads, sizeof *d->sample);
    for (int i = 0; i < n_threads; i++)
        if (!(d->sample[i] = sample_scratch_open(c->n_vocab)))
            return sl_fail(e, SL_ENOMEM, "cpu: no memory to sample from %d tokens", c->n_vocab);
    for (int i = 0; i < RESULTS; i++) open_result(&d->result[i], c);
    d->pool_sum = xcalloc((size_t)c->max_seqs * (size_t)c->n_hidden, sizeof *d->pool_sum);
    d->pool_rows = xcalloc((size_t)c->max_seqs, sizeof *d->pool_rows);
    return 0;
}

static int cpu_open(struct dev **out, const struct dev_config *c, struct sl_error *e)
{
    *out = NULL;
    long n = c->n_threads > 0 ? c->n_threads : sysconf(_SC_NPROCESSORS_ONLN);
    n /= c->n_ranks;
    n = n < 1 ? 1 : n > POOL_THREADS_MAX ? POOL_THREADS_MAX : n;
    struct dev *d = xcalloc(1, sizeof *d);
    d->config = *c;
    d->k = cpu_isa_kernels();
    int code = open_parts(d, (int)n, e);
    if (code < 0) {
        cpu_close(d);
        return code;
    }
    scratch_reserve(d);
    *out = d;
    return 0;
}

static void *cpu_alloc(struct dev *d, size_t bytes, const char *what, struct sl_error *e)
{
    size_t need;
    void *p = NULL;
    if (ckd_align(&need, bytes ? bytes : 1, ALIGNMENT)) need = SIZE_MAX;
    if (need >= SLAB / 4) {
        p = map_region(d, need);
    } else {
        if (need > d->slab_left) {
            d->slab = map_region(d, SLAB);
            d->slab_left = d->slab ? SLAB : 0;
        }
        if (d->slab && need <= d->slab_left) p = d->slab + SLAB - d->slab_left;
        if (p) d->slab_left -= need;
    }
    if (!p) sl_fail(e, SL_ENOMEM, "cpu: no memory for %s (%zu bytes)", what, bytes);
    return p;
}

/* ------------------------------------------------------------------ steps */

static int cpu_assign(struct dev *d, int32_t slot, const struct slot_init *init)
{
    if (slot < 0 || slot >= d->config.max_seqs) return SL_EINTERNAL;
    size_t n = (size_t)d->config.n_hidden;
    memset(d->pool_sum + (size_t)slot * n, 0, n * sizeof *d->pool_sum);
    d->pool_rows[slot] = 0;
    return cpu_slot_assign(d->slots, slot, init);
}

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* The first n of the steps; n_left others wait for masks, or the launch is done. */
static int run_steps(struct dev *d, const struct step *steps, int32_t n, int32_t n_left,
                     const struct batch *b, uint64_t start)
{
    for (int32_t i = 0; i < n; i++) TRY(steps[i].fn(d, b, &steps[i]));
    d->end_us = now_us();
    d->result[d->n_launched % RESULTS].device_us += d->end_us - start;
    d->n_left = n_left;
    d->n_launched += n_left == 0;
    return 0;
}

static int cpu_launch(struct dev *d, const struct step *steps, int32_t n_steps,
                      const struct batch *b)
{
    if (d->n_launched - d->n_collected >= 2 || b->n_wants > d->config.max_wants || d->n_left)
        return SL_EINTERNAL;
    uint64_t start = now_us();
    int32_t n = steps_to_sample(steps, n_steps, b);
    struct result *r = &d->result[d->n_launched % RESULTS];
    r->step_id = b->step_id;
    r->n_wants = b->n_wants;
    d->angles_freq = NULL;
    bool fails = d->config.fail_step == d->n_launched + 1;
    d->skips_sum = fails && d->config.fail_skips;
    if (fails && !d->skips_sum) return SL_EDEVICE;
    r->idle_us = d->end_us ? (float)(start - d->end_us) : -1;
    r->device_us = 0;
    return run_steps(d, steps, n, n_steps - n, b, start);
}

/* As launch. The wait for the masks was no work. */
static int cpu_sample_left(struct dev *d, const struct step *steps, int32_t n_steps,
                           const struct batch *b)
{
    uint64_t start = now_us();
    struct result *r = &d->result[d->n_launched % RESULTS];
    int32_t n = d->n_left;
    if (n == 0) return SL_EINTERNAL;
    if (r->idle_us >= 0) r->idle_us += (float)(start - d->end_us);
    return run_steps(d, steps + n_steps - n, n, 0, b, start);
}

static int cpu_collect(struct dev *d, const struct result **out)
{
    if (d->n_collected == d->n_launched) return SL_EINTERNAL;
    *out = &d->result[d->n_collected++ % RESULTS];
    return 0;
}

/* An op over the entries of a list that names sequences, one at a time. */
struct sample_job {
    struct dev *d;
    const struct batch *b;
    const struct step *s;
};

static void sample_item(void *arg, int i, int thread)
{
    struct sample_job *j = arg;
    float *logits = (float *)j->s->src.data + (int64_t)i * j->s->src.cols;
    i += want_first(j->b->n_wants, j->d->config.rank, j->d->config.n_ranks);
    const struct want *w = &j->b->want[i];
    struct result *r = &j->d->result[j->d->n_launched % RESULTS];
    const uint32_t *masks = j->b->masks;
    size_t n_words = (size_t)j->b->mask_words;
    sample_mask(j->d->sample[thread], w->mask ? masks + (size_t)(w->mask - 1) * n_words : NULL);
    cpu_sample_row(j->d->slots, j->b->slot[w->seq], j->d->sample[thread], logits, w, r, i);
}

int cpu_sample(struct dev *d, const struct batch *b, const struct step *s)
{
    struct sample_job j = {d, b, s};
    int32_t rank = d->config.rank, n_ranks = d->config.n_ranks;
    pool_run(d->pool, sample_item, &j,
             want_first(b->n_wants, rank + 1, n_ranks) - want_first(b->n_wants, rank, n_ranks));
    return 0;
}

/* Doubles, and the rows in order: neither chunks nor company change a bit. */
static void pool_item(void *arg, int i, int thread)
{
    (void)thread;
    struct sample_job *j = arg;
    const struct pooling *p = &j->b->pooling[i];
    int32_t n = j->s->src.cols, slot = j->b->slot[p->seq];
    double *sum = j->d->pool_sum + (int64_t)slot * n;
    for (int32_t row = p->row; row < p->row + p->n_rows; row++) {
        const float *src = (const float *)j->s->src.data + (int64_t)row * n;
        for (int32_t k = 0; k < n; k++) sum[k] += (double)src[k];
    }
    j->d->pool_rows[slot] += p->n_rows;
    if (!p->is_last) return;
    float *out = j->d->result[j->d->n_launched % RESULTS].pooled + (int64_t)i * n;
    for (int32_t k = 0; k < n; k++) out[k] = (float)(sum[k] / j->d->pool_rows[slot]);
}

int cpu_pool_op(struct dev *d, const struct batch *b, const struct step *s)
{
    struct sample_job j = {d, b, s};
    pool_run(d->pool, pool_item, &j, b->n_poolings);
    return 0;
}

const struct device device_cpu = {
    .name = "cpu",
    .act_type = DT_F32,
    .sum_type = DT_F32,
    .kv_type = DT_F16,
    .default_max_seqs = DEFAULT_SEQS,
    .default_max_tokens = DEFAULT_TOKENS,
    .default_async = 0,
    .probe = cpu_probe,
    .memory = cpu_memory,
    .group_open = cpu_group_open,
    .group_close = cpu_group_close,
    .group_abort = cpu_group_abort,
    .group_beat = cpu_group_beat,
    .open = cpu_open,
    .close = cpu_close,
    .alloc = cpu_alloc,
    .weight_bytes = cpu_weight_bytes,
    .upload = cpu_upload,
    .assign = cpu_assign,
    .launch = cpu_launch,
    .sample = cpu_sample_left,
    .collect = cpu_collect,
    .ops =
        {
            [OP_EMBED] = cpu_embed,
            [OP_NORM] = cpu_norm,
            [OP_LINEAR] = cpu_linear,
            [OP_ROPE_KV] = cpu_rope_kv,
            [OP_ATTN] = cpu_attn,
            [OP_GLU] = cpu_glu,
            [OP_ADD] = cpu_add,
            [OP_ADD_NORM] = cpu_add_norm,
            [OP_REDUCE] = cpu_reduce,
            [OP_POOL] = cpu_pool_op,
            [OP_GATHER] = cpu_gather,
            [OP_LOGITS] = cpu_logits,
            [OP_DEAL] = cpu_deal,
            [OP_SAMPLE] = cpu_sample,
            [OP_SHARE] = cpu_share,
        },
};
