/* cuda_dev.c - the cuda device: memory, launches, graphs, results.
 *
 * All calls come from one thread, the rank's worker. launch queues a copy of the batch and the
 * kernels of all steps and returns; collect waits for the oldest launch's event. A decode batch of
 * a size seen before runs as a graph: captured the second time its bucket comes up (the first run
 * loads the kernels), replayed from then on. Where the batch has masks, launch and graph end in front
 * of sampling, which is queued behind the masks' copy, kernel by kernel.
 */
#include "backend/cuda_dev.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda_group.h"
#include "base/log.h"

static const size_t chunk_bytes = (size_t)32 << 20;
enum { ALIGNMENT = 256, DEFAULT_SEQS = 256, DEFAULT_TOKENS = 8192, CHECK_EVERY = 64 };
enum { MEETINGS_MAX = 1 << 20 }; /* of one launch; far fewer */

int cuda_check(int code, const char *what)
{
    if (code == cudaSuccess) return 0;
    log_write(LOG_ERROR, "cuda", "%s: %s", what, cudaGetErrorString((cudaError_t)code));
    return SL_EDEVICE;
}

int cuda_enter(const struct dev *d)
{
    const struct group *g = d->config.group;
    return cuda_check(cudaSetDevice(g ? g->device[d->config.rank] : d->config.rank), "set device");
}

/* ------------------------------------------------------------------ before open */

static int dev_probe(struct sl_error *e)
{
    int n = 0, major = 0;
    cudaError_t code = cudaGetDeviceCount(&n);
    if (code == cudaErrorInsufficientDriver)
        return sl_fail(e, SL_EUNSUPPORTED, "no CUDA driver, or one older than CUDA 13");
    if (code != cudaSuccess || n == 0) return sl_fail(e, SL_EUNSUPPORTED, "no CUDA GPU");
    code = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    if (code != cudaSuccess) return sl_fail(e, SL_EDEVICE, "the CUDA GPU does not answer");
    if (major != CUDA_MAJOR)
        return sl_fail(e, SL_EUNSUPPORTED,
                       "the kernels are built for compute capability 9.0 (H100, H200), not %d.x",
                       major);
    lt_preload(); /* 100 ms, or 250 from disk: beside the context, which takes as long */
    return 0;
}

static void dev_memory(int32_t rank, uint64_t *total, uint64_t *free_now)
{
    size_t f = 0, t = 0;
    bool is_known = cudaSetDevice(rank) == cudaSuccess && cudaMemGetInfo(&f, &t) == cudaSuccess;
    *total = is_known ? t : 0;
    *free_now = is_known ? f : 0;
}

/* ------------------------------------------------------------------ memory */

static void free_chunk(struct cuda_chunk *c)
{
    if (c->cleared) cudaEventDestroy(c->cleared);
    cudaFree(c->p);
    free(c);
}

static struct cuda_chunk *add_chunk(struct dev *d, size_t bytes)
{
    struct cuda_chunk *c = xcalloc(1, sizeof *c);
    c->bytes = bytes;
    if (cudaMalloc((void **)&c->p, bytes) != cudaSuccess ||
        cudaEventCreateWithFlags(&c->cleared, cudaEventDisableTiming) != cudaSuccess ||
        cudaMemsetAsync(c->p, 0, bytes, d->stream) != cudaSuccess ||
        cudaEventRecord(c->cleared, d->stream) != cudaSuccess) {
        free_chunk(c);
        return NULL;
    }
    c->next = d->chunks;
    d->chunks = c;
    return c;
}

const struct cuda_chunk *cuda_chunk_of(const struct dev *d, const void *p)
{
    const struct cuda_chunk *c = d->chunks;
    while (c && ((const char *)p < c->p || (const char *)p >= c->p + c->bytes)) c = c->next;
    return c;
}

/* Large pieces have a chunk to themselves and leave nothing unused (chunks of 256 MiB for all cost an
 * 8B model 2.4 GB); small ones share, first fit. */
void *cuda_alloc(struct dev *d, size_t bytes, const char *what, struct sl_error *e)
{
    size_t need;
    if (!ckd_align(&need, bytes ? bytes : 1, ALIGNMENT) && cuda_enter(d) == 0) {
        struct cuda_chunk *c = d->chunks;
        while (c && c->bytes - c->used < need) c = c->next;
        if (!c) c = add_chunk(d, need > chunk_bytes / 4 ? need : chunk_bytes);
        if (c) {
            void *p = c->p + c->used;
            c->used += need;
            return p;
        }
    }
    sl_fail(e, SL_ENOMEM, "cuda: no memory for %s (%zu bytes)", what, bytes);
    return NULL;
}

/* ------------------------------------------------------------------ open, close */

static int open_launch(struct cuda_launch *l, size_t n, size_t pooled)
{
    char *p;
    size_t bytes = n * ANSWER_WORDS * 4;
    TRY(cuda_check(cudaHostAlloc((void **)&p, bytes + pooled * 4, cudaHostAllocDefault),
                   "pinned memory"));
    memset(p, 0, bytes);
    l->view.token = (int32_t *)(void *)p;
    l->view.rank = l->view.token + n;
    l->view.n_top = l->view.rank + n;
    l->view.logprob = (float *)(void *)(l->view.n_top + n);
    l->view.top_id = (int32_t *)(void *)(l->view.logprob + n);
    l->view.top_logprob = (float *)(void *)(l->view.top_id + n * SL_TOP_MAX);
    l->view.rows = (int32_t)n;
    l->result = (struct result){.token = l->view.token,
                                .logprob = l->view.logprob,
                                .rank = l->view.rank,
                                .n_top = l->view.n_top,
                                .top_id = l->view.top_id,
                                .top_logprob = l->view.top_logprob,
                                .pooled = (float *)(void *)(p + bytes)};
    TRY(cuda_check(cudaEventCreate(&l->start), "event"));
    TRY(cuda_check(cudaEventCreate(&l->paused), "event"));
    TRY(cuda_check(cudaEventCreate(&l->resumed), "event"));
    return cuda_check(cudaEventCreate(&l->end), "event");
}

static int open_parts(struct dev *d, struct sl_error *e)
{
    const struct dev_config *c = &d->config;
    TRY(cuda_enter(d));
    TRY(cuda_check(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking), "stream"));
    TRY(cuda_batch_open(d, e));
    TRY(cuda_slots_open(d, e));
    for (int i = 0; i < CUDA_RESULTS; i++)
        TRY(open_launch(&d->launch[i], (size_t)c->max_wants,
                        (size_t)c->max_seqs * (size_t)c->n_hidden));
    return cuda_ranks_open(d, e);
}

static void dev_close(struct dev *d)
{
    if (!d) return;
    cuda_enter(d);
    if (d->stream) cudaStreamSynchronize(d->stream);
    for (int i = 0; i < 2 * GRAPH_BUCKETS; i++) {
        struct cuda_graph *g = &d->graph[i % 2][i / 2];
        if (g->exec) cudaGraphExecDestroy(g->exec);
    }
    for (int i = 0; i < CUDA_RESULTS; i++) {
        struct cuda_launch *l = &d->launch[i];
        cudaEvent_t events[] = {l->start, l->end, l->paused, l->resumed};
        cudaFreeHost(l->view.token);
        for (int k = 0; k < 4; k++)
            if (events[k]) cudaEventDestroy(events[k]);
    }
    for (int i = 0; i < CUDA_BATCHES; i++) cudaFreeHost(d->batch_pinned[i]);
    cuda_load_end(d);
    cuda_slots_close(d);
    lt_close(d->lt);
    while (d->chunks) {
        struct cuda_chunk *c = d->chunks;
        d->chunks = c->next;
        free_chunk(c);
    }
    if (d->stream) cudaStreamDestroy(d->stream);
    free(d);
}

static int dev_open(struct dev **out, const struct dev_config *c, struct sl_error *e)
{
    *out = NULL;
    if ((c->n_ranks > 1) != (c->group != NULL)) return SL_EINTERNAL;
    if (c->page_size % 16)
        return sl_fail(e, SL_EUNSUPPORTED,
                       "the cuda device needs a block size that is a multiple of 16, not %d",
                       c->page_size);
    TRY(dev_probe(e));
    struct dev *d = xcalloc(1, sizeof *d);
    d->config = *c;
    if (e) e->code = 0;
    int code = open_parts(d, e);
    if (code < 0) {
        dev_close(d);
        return e && e->code ? code : sl_fail(e, code, "the GPU cannot be set up");
    }
    *out = d;
    return 0;
}

static int dev_ready(struct dev *d, const struct step *steps, int32_t n_steps)
{
    TRY(cuda_load_end(d)); /* enters */
    if (!d->lt) d->lt = lt_open(d);
    return cuda_prepare(d, steps, n_steps);
}

/* ------------------------------------------------------------------ steps */

/* Rows of a decode batch are rounded up to one of these: 1, 2, 4, then multiples of 8. */
static int32_t bucket_rows(int32_t n, int *index)
{
    for (int i = 0; i < 3; i++) {
        *index = i;
        if (n <= 1 << i) return 1 << i;
    }
    *index = 2 + (n + 7) / 8;
    return (n + 7) / 8 * 8;
}

/* The bucket's graph, where this batch may run as one. Sets the rows to compute. */
static struct cuda_graph *choose_graph(struct dev *d, const struct step *steps, int32_t n_steps,
                                       const struct batch *b)
{
    int index;
    d->rows = b->n_tokens;
    d->want_rows = b->n_wants;
    if (d->config.enforce_eager || b->n_tokens != b->n_seqs || b->n_tokens > GRAPH_ROWS_MAX ||
        b->n_wants > b->n_tokens || b->n_poolings)
        return NULL;
    int32_t rows = bucket_rows(b->n_tokens, &index);
    if (rows > d->config.max_tokens || rows > d->config.max_wants) return NULL;
    struct cuda_graph *g = &d->graph[b->n_masks > 0][index];
    if (g->steps != steps || g->n_steps != n_steps) {
        if (g->exec) cudaGraphExecDestroy(g->exec);
        *g = (struct cuda_graph){.steps = steps, .n_steps = n_steps};
    }
    d->rows = d->want_rows = rows;
    return g;
}

static int run_steps(struct dev *d, const struct step *steps, int32_t n_steps,
                     const struct batch *b)
{
    for (int32_t i = 0; i < n_steps; i++) TRY(steps[i].fn(d, b, &steps[i]));
    return 0;
}

/* The steps as a graph, which is not run. */
static int record(struct dev *d, const struct step *steps, int32_t n_steps, const struct batch *b,
                  enum cudaStreamCaptureMode mode, cudaGraph_t *graph)
{
    TRY(cuda_check(cudaStreamBeginCapture(d->stream, mode), "begin capture"));
    int code = run_steps(d, steps, n_steps, b);
    int end = cuda_check(cudaStreamEndCapture(d->stream, graph), "end capture");
    return code < 0 ? code : end;
}

/* Ranks do this at the same time, and nothing else meanwhile: cuda_group_meet says why. */
static int capture(struct dev *d, struct cuda_graph *g, const struct batch *b)
{
    cudaGraph_t graph = NULL;
    struct group *group = d->config.group;
    if (group) TRY(cuda_group_meet(group));
    int code = record(d, g->steps, g->n_steps, b, cudaStreamCaptureModeThreadLocal, &graph);
    if (code == 0) code = cuda_check(cudaGraphInstantiate(&g->exec, graph, 0), "instantiate graph");
    g->n_met = d->n_met;
    if (graph) cudaGraphDestroy(graph);
    return code == 0 && group ? cuda_group_meet(group) : code;
}

/* A number of rows as far as it chooses other kernels: 0, up to 8, 16, 32, 64 (our own products), 128... */
static int class_of(int32_t n)
{
    int i = n > 0;
    for (int32_t most = 8; most < n && i < SHAPE_CLASSES - 1; most *= 2) i++;
    return i;
}

/* Kernels are loaded when they are first launched. Of several ranks that must not happen while one waits
 * for another on its GPU: so before a batch of a new kind runs, its launches are recorded, and thrown
 * away. */
static int load_kernels(struct dev *d, const struct step *steps, int32_t n_steps,
                        const struct batch *b)
{
    cudaGraph_t graph = NULL;
    if (!d->config.group) return 0;
    int way = cuda_ranks_way_of(d, (int64_t)d->rows * d->config.n_hidden * 2);
    bool *seen = &d->has_seen[class_of(d->rows)][class_of(d->want_rows)]
                             [way * 4 + (d->n_items > 0) * 2 + (d->n_tiles > 0)];
    if (*seen) return 0;
    *seen = true;
    TRY(cuda_group_meet(d->config.group));
    int code = record(d, steps, n_steps, b, cudaStreamCaptureModeRelaxed, &graph);
    if (graph) cudaGraphDestroy(graph);
    if (code < 0) return code;
    d->n_met = 0;
    return cuda_group_meet(d->config.group);
}

/* The launch's last step is queued. */
static int end_launch(struct dev *d)
{
    TRY(cuda_check(cudaEventRecord(d->launch[d->n_launched % CUDA_RESULTS].end, d->stream),
                   "event"));
    d->met += d->n_met;
    /* Tag 0 is that of words nobody wrote: go round it, and keep to odd and even. */
    if (d->met > UINT32_MAX - MEETINGS_MAX) d->met &= 1;
    d->n_launched++;
    return 0;
}

static int dev_launch(struct dev *d, const struct step *steps, int32_t n_steps,
                      const struct batch *b)
{
    const struct dev_config *c = &d->config;
    if (d->n_left || d->n_launched - d->n_collected >= 2 || b->n_wants > c->max_wants ||
        b->n_tokens > c->max_tokens || b->n_seqs > c->max_seqs || b->n_tokens < 1)
        return SL_EINTERNAL;
    if (c->group && cuda_group_is_aborted(c->group)) return SL_EDEVICE;
    struct cuda_launch *l = &d->launch[d->n_launched % CUDA_RESULTS];
    bool fails = c->fail_step == d->n_launched + 1;
    l->result.step_id = b->step_id;
    l->result.n_wants = b->n_wants;
    d->n_met = 0;
    TRY(cuda_enter(d));
    TRY(cuda_prepare(d, steps, n_steps));
    int32_t n = steps_to_sample(steps, n_steps, b);
    l->has_masks = n < n_steps;
    struct cuda_graph *g = choose_graph(d, steps, n, b);
    TRY(cuda_batch_send(d, b, &l->view));
    TRY(load_kernels(d, steps, n_steps, b));
    TRY(cuda_check(cudaEventRecord(l->start, d->stream), "event"));
    if (fails && !c->fail_skips) TRY(cuda_check(k_trap(d->stream), "trap"));
    if (g && !g->exec && g->n_seen++ > 0) TRY(capture(d, g, b));
    d->skips_sum = fails && c->fail_skips;
    if (g && g->exec && !d->skips_sum) {
        TRY(cuda_check(cudaGraphLaunch(g->exec, d->stream), "graph"));
        d->n_met = g->n_met;
    } else {
        d->n_met = 0;
        TRY(run_steps(d, steps, n, b));
    }
    d->n_left = n_steps - n;
    if (!d->n_left) return end_launch(d);
    return cuda_check(cudaEventRecord(l->paused, d->stream), "event");
}

/* The event before the copy passes as soon as it is queued, if the steps in front have ended: what
 * lies between the two events is the wait for the masks. */
static int dev_sample(struct dev *d, const struct step *steps, int32_t n_steps,
                      const struct batch *b)
{
    struct cuda_launch *l = &d->launch[d->n_launched % CUDA_RESULTS];
    int32_t n = d->n_left;
    if (n == 0) return SL_EINTERNAL;
    TRY(cuda_enter(d));
    TRY(cuda_check(cudaEventRecord(l->resumed, d->stream), "event"));
    TRY(cuda_masks_send(d, b));
    TRY(run_steps(d, steps + n_steps - n, n, b));
    d->n_left = 0;
    return end_launch(d);
}

/* Of several ranks one may wait for another that does not come: an abort ends that, and NCCL may have an
 * error of its own. */
static int wait_end(struct dev *d, cudaEvent_t end)
{
    struct group *g = d->config.group;
    if (!g) return cuda_check(cudaEventSynchronize(end), "a step");
    for (uint32_t n = 1;; n++) {
        cudaError_t code = cudaEventQuery(end);
        if (cuda_group_is_aborted(g))
            return SL_EDEVICE; /* after the query: the step may be rubbish */
        if (code != cudaErrorNotReady) return cuda_check(code, "a step");
        if (g->nccl && n % CHECK_EVERY == 0) TRY(nccl_check(g->nccl, d->config.rank));
        sched_yield();
    }
}

static int dev_collect(struct dev *d, const struct result **out)
{
    if (d->n_collected == d->n_launched) return SL_EINTERNAL;
    struct cuda_launch *l = &d->launch[d->n_collected % CUDA_RESULTS];
    struct cuda_launch *before = &d->launch[(d->n_collected + CUDA_RESULTS - 1) % CUDA_RESULTS];
    float ms = 0.0f, gap_ms = -1.0f, wait_ms = 0.0f;
    TRY(cuda_enter(d));
    TRY(wait_end(d, l->end));
    TRY(cuda_check(cudaEventElapsedTime(&ms, l->start, l->end), "event"));
    if (d->n_collected > 0) /* the copy of the batch lies in the gap */
        TRY(cuda_check(cudaEventElapsedTime(&gap_ms, before->end, l->start), "event"));
    if (l->has_masks)
        TRY(cuda_check(cudaEventElapsedTime(&wait_ms, l->paused, l->resumed), "event"));
    l->result.device_us = (uint64_t)((ms - wait_ms) * 1000.0f);
    l->result.idle_us = gap_ms < 0.0f ? -1.0f : (gap_ms + wait_ms) * 1000.0f;
    d->n_collected++;
    *out = &l->result;
    return 0;
}

const struct device device_cuda = {
    .name = "cuda",
    .act_type = DT_BF16,
    .sum_type = DT_F32,
    .kv_type = DT_BF16,
    .default_max_seqs = DEFAULT_SEQS,
    .default_max_tokens = DEFAULT_TOKENS,
    .default_async = 1,
    .probe = dev_probe,
    .memory = dev_memory,
    .group_open = cuda_group_open,
    .group_close = cuda_group_close,
    .group_abort = cuda_group_abort,
    .open = dev_open,
    .close = dev_close,
    .alloc = cuda_alloc,
    .weight_bytes = cuda_weight_bytes,
    .stage = cuda_stage,
    .upload = cuda_upload,
    .fill = cuda_fill,
    .ready = dev_ready,
    .assign = cuda_assign,
    .launch = dev_launch,
    .sample = dev_sample,
    .collect = dev_collect,
    .ops =
        {
            [OP_EMBED] = cuda_op_embed,
            [OP_NORM] = cuda_op_norm,
            [OP_LINEAR] = cuda_op_linear,
            [OP_LINEAR_GLU] = cuda_op_linear_glu,
            [OP_ROPE_KV] = cuda_op_rope_kv,
            [OP_ATTN] = cuda_op_attn,
            [OP_GLU] = cuda_op_glu,
            [OP_ADD] = cuda_op_add,
            [OP_ADD_NORM] = cuda_op_add_norm,
            [OP_REDUCE] = cuda_op_reduce,
            [OP_REDUCE_NORM] = cuda_op_reduce_norm,
            [OP_POOL] = cuda_op_pool,
            [OP_GATHER] = cuda_op_gather,
            [OP_LOGITS] = cuda_op_logits,
            [OP_DEAL] = cuda_op_deal,
            [OP_SAMPLE] = cuda_op_sample,
            [OP_SHARE] = cuda_op_share,
        },
};
