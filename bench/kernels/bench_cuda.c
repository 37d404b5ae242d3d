/* bench_cuda.c - the cuda device's kernels and its decode and prefill steps, beside the ceilings of
 * the same run.
 *
 *   bench_cuda kernels               linear layers of Llama-3.1-8B at 1 to 256 rows, attention;
 *                                    GB/s and TFLOP/s
 *   bench_cuda attention             attention alone
 *   bench_cuda collectives           sums over ranks with the norm behind them, 8 KiB to 16 MiB, beside
 *                                    NCCL's; on two GPUs or more
 *   bench_cuda engine CONFIG [ctx]   steps of a model with random weights, without engine or server:
 *                                    decode at several batch sizes and context ctx (1024), prefill of
 *                                    one prompt
 *
 * Kernels are timed as graphs of repeated launches over sets of buffers larger than the L2 cache,
 * values random. The ceilings are a read of 8 GB by our own reading loop (the product kernel on one
 * row), a copy, and cuBLASLt at 8192 x 8192 x 8192. Medians.
 */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/cuda_dev.h"
#include "bench_cuda.h"
#include "model/model.h"
#include "model/plan.h"

enum { ROUNDS = 7, PAGE = 16 };

void must(int code, const char *what)
{
    if (code == 0) return;
    fprintf(stderr, "%s: code %d, %s\n", what, code, cudaGetErrorString(cudaGetLastError()));
    exit(1);
}

int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ------------------------------------------------------------------ random device memory */

static uint64_t state = 1;
static uint32_t random_u32(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

/* bf16 of about +-1, a random stretch repeated at odd offsets. */
static void *device_random(size_t bytes)
{
    enum { STRETCH = (1 << 22) + 4096 };
    static uint16_t *values;
    if (!values) {
        values = malloc(STRETCH * 2);
        for (int i = 0; i < STRETCH; i++)
            values[i] = f32_to_bf16((float)random_u32() / 1073741824.0f - 1.0f);
    }
    char *p;
    must(cudaMalloc((void **)&p, bytes), "memory");
    for (size_t at = 0; at < bytes; at += STRETCH * 2)
        must(cudaMemcpy(p + at, values, bytes - at < STRETCH * 2 ? bytes - at : STRETCH * 2,
                        cudaMemcpyHostToDevice),
             "fill");
    return p;
}

/* ------------------------------------------------------------------ timing */

typedef int (*launch_fn)(cudaStream_t stream, void *arg, int i);

/* Median microseconds of one of n launches in a graph. */
static double time_graph(cudaStream_t stream, launch_fn fn, void *arg, int n)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t a, b;
    double us[ROUNDS];
    must(fn(stream, arg, 0), "launch"); /* loads the kernel */
    must(cudaStreamSynchronize(stream), "first launch");
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < n; i++) must(fn(stream, arg, i), "launch");
    must(cudaStreamEndCapture(stream, &graph), "capture");
    must(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    must(cudaEventCreate(&a), "event");
    must(cudaEventCreate(&b), "event");
    for (int r = -1; r < ROUNDS; r++) {
        float ms;
        must(cudaEventRecord(a, stream), "event");
        must(cudaGraphLaunch(exec, stream), "graph");
        must(cudaEventRecord(b, stream), "event");
        must(cudaEventSynchronize(b), "run");
        must(cudaEventElapsedTime(&ms, a, b), "time");
        if (r >= 0) us[r] = (double)ms * 1000.0 / n;
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaEventDestroy(a);
    cudaEventDestroy(b);
    qsort(us, ROUNDS, sizeof *us, by_value);
    return us[ROUNDS / 2];
}

/* ------------------------------------------------------------------ products */

struct linear_bench {
    struct klinear l;
    struct lt *lt;
    const uint16_t *w; /* n_sets of them */
    int n_sets;
    bool is_gated; /* n is then of each of two matrices */
};

static int run_linear(cudaStream_t stream, void *arg, int i)
{
    struct linear_bench *b = arg;
    struct klinear l = b->l;
    int64_t rows = b->is_gated ? 2 * l.n : l.n;
    l.w = b->w + (int64_t)(i % b->n_sets) * rows * l.k;
    if (b->is_gated && b->lt) l.n = rows; /* without the gate */
    if (b->is_gated && !b->lt) l.w2 = l.w + l.n * l.k;
    return b->lt ? lt_linear(b->lt, stream, &l) : k_linear(stream, &l);
}

static double read_ceiling = 3100, gemm_ceiling = 700;

static void bench_linear(cudaStream_t stream, struct lt *lt, const uint16_t *w, size_t w_bytes,
                         const uint16_t *x, void *y)
{
    static const struct {
        const char *name;
        int64_t n, k; /* n: of both matrices with a gate */
        bool is_gated;
    } shapes[] = {{"qkv", 6144, 4096, false},     {"o", 4096, 4096, false},
                  {"gate_up", 28672, 4096, true}, {"down", 4096, 14336, false},
                  {"head", 128256, 4096, false},  {"qkv / 2", 3072, 4096, false},
                  {"o / 2", 4096, 2048, false},   {"gate_up / 2", 14336, 4096, true},
                  {"down / 2", 4096, 7168, false}};
    static const int32_t rows[] = {1, 8, 16, 32, 64, 128, 256};
    printf("%-11s %5s %10s %8s %8s %10s %8s\n", "linear", "rows", "own us", "GB/s", "of read",
           "lt us", "GB/s");
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            double bytes = 2.0 * (double)(shapes[s].n * shapes[s].k);
            struct linear_bench b = {.l = {.x = x,
                                           .y = y,
                                           .n = shapes[s].n / (shapes[s].is_gated ? 2 : 1),
                                           .k = shapes[s].k,
                                           .y_stride = shapes[s].n,
                                           .m = rows[r]},
                                     .w = w,
                                     .n_sets = (int)((double)w_bytes / bytes),
                                     .is_gated = shapes[s].is_gated};
            double us = time_graph(stream, run_linear, &b, 24);
            b.lt = lt;
            double lt_us = lt ? time_graph(stream, run_linear, &b, 24) : 0;
            printf("%-11s %5d %10.2f %8.0f %7.1f%% %10.2f %8.0f\n", shapes[s].name, rows[r], us,
                   bytes / us * 1e-3, bytes / us * 1e-1 / read_ceiling, lt_us,
                   lt ? bytes / lt_us * 1e-3 : 0.0);
        }
}

/* ------------------------------------------------------------------ attention */

struct attn_bench {
    struct kattn a;
    int n_tiles, n_sets;
    size_t set; /* elements of a set of pages */
    uint16_t *k, *v;
};

static int run_decode(cudaStream_t stream, void *arg, int i)
{
    struct attn_bench *b = arg;
    struct kattn a = b->a;
    a.k = b->k + (size_t)(i % b->n_sets) * b->set;
    a.v = b->v + (size_t)(i % b->n_sets) * b->set;
    return k_attn_decode(stream, &a);
}
static int run_prefill(cudaStream_t stream, void *arg, int i)
{
    (void)i;
    struct attn_bench *b = arg;
    return k_attn_prefill(stream, &b->a, b->n_tiles);
}

static const void *to_device(const void *p, size_t bytes)
{
    void *d;
    must(cudaMalloc(&d, bytes + 16), "memory");
    must(cudaMemcpy(d, p, bytes, cudaMemcpyHostToDevice), "copy");
    return d;
}

/* The arrays of one attention call, on the host. */
struct attn_layout {
    int rows, stride, total, n_items, n_slots, n_tiles, n_pages;
    int32_t *pages, *pos; /* owned */
    struct attn_item *items;
    struct attn_tile *tiles;
};

/* As cuda_batch.c does: each sequence's chunks in parts of an even share of the work. */
static void lay_out_items(struct attn_layout *l, int n, const int *ctx, int n_kv_heads, int cluster)
{
    int clusters = k_attn_clusters(cluster), total = 0;
    for (int i = 0; i < n; i++) total += (ctx[i] + ATTN_CHUNK - 1) / ATTN_CHUNK;
    int share = (total * n_kv_heads + clusters - 1) / clusters;
    for (int i = 0; i < n; i++) {
        int chunks = (ctx[i] + ATTN_CHUNK - 1) / ATTN_CHUNK, parts = (chunks + share - 1) / share;
        for (int c = 0; c < parts; c++) {
            int from = chunks * c / parts, to = chunks * (c + 1) / parts;
            l->items[l->n_items++] =
                (struct attn_item){i, i, from, to - from, chunks, parts, l->n_slots};
        }
        l->n_slots += chunks;
        l->pos[i] = ctx[i] - 1;
    }
}

/* Pages scattered over the pool; all belong to somebody. */
static void lay_out_pages(struct attn_layout *l, int n, const int *ctx, int longest)
{
    for (int i = 0; i < n; i++)
        for (int k = 0; k < (ctx[i] + PAGE - 1) / PAGE; k++)
            l->pages[i * l->stride + k] = l->n_pages++;
    if (n > 1 && ctx[0] != longest) return;
    for (int i = l->n_pages - 1; i > 0; i--) {
        uint32_t all = (uint32_t)(n * l->stride), a = random_u32() % all, b = random_u32() % all;
        int32_t t = l->pages[a];
        l->pages[a] = l->pages[b];
        l->pages[b] = t;
    }
}

static struct attn_layout lay_out(int n, const int *ctx, bool is_prefill, int per, int n_kv_heads,
                                  int cluster)
{
    struct attn_layout l = {.rows = is_prefill ? ctx[0] : n};
    int longest = 0;
    for (int i = 0; i < n; i++) {
        if (ctx[i] > longest) longest = ctx[i];
        l.total += ctx[i];
    }
    if (n < 1 || l.rows < 1) exit(EXIT_FAILURE);
    l.stride = (longest + PAGE - 1) / PAGE;
    l.pages = calloc((size_t)(n * l.stride), 4);
    l.pos = calloc((size_t)l.rows, 4);
    l.items = calloc((size_t)(l.total / ATTN_CHUNK + n), sizeof *l.items);
    l.tiles = calloc((size_t)l.rows, sizeof *l.tiles);
    lay_out_pages(&l, n, ctx, longest);
    if (!is_prefill) {
        lay_out_items(&l, n, ctx, n_kv_heads, cluster);
        return l;
    }
    l.n_slots = (ctx[0] + ATTN_CHUNK - 1) / ATTN_CHUNK;
    for (int at = (l.rows - 1) / per * per; at >= 0; at -= per) {
        int n_rows = l.rows - at < per ? l.rows - at : per;
        l.tiles[l.n_tiles++] = (struct attn_tile){0, at, n_rows, at + n_rows};
    }
    for (int i = 0; i < l.rows; i++) l.pos[i] = i;
    return l;
}

/* n sequences of ctx[i] tokens: the last token of each (decode), or all of the first (prefill). */
static void bench_attn(cudaStream_t stream, const char *name, int n, const int *ctx,
                       bool is_prefill, uint16_t *pool, size_t pool_bytes)
{
    enum { HEADS = 32, KV = 8, DIM = 128 };
    int cluster = k_attn_cluster(HEADS, KV, DIM, n);
    struct attn_layout l =
        lay_out(n, ctx, is_prefill, k_attn_tile_rows(HEADS, KV, DIM), KV, cluster);
    int rows = l.rows;
    struct kbatch k = {.n_tokens = rows,
                       .n_seqs = n,
                       .page_size = PAGE,
                       .pages_stride = l.stride,
                       .n_items = l.n_items,
                       .n_tiles = l.n_tiles};
    k.pos = to_device(l.pos, (size_t)rows * 4);
    k.kv_len = to_device(ctx, (size_t)n * 4);
    k.pages = to_device(l.pages, (size_t)(n * l.stride) * 4);
    k.items = to_device(l.items, (size_t)(l.n_items ? l.n_items : 1) * sizeof *l.items);
    k.tiles = to_device(l.tiles, (size_t)rows * sizeof *l.tiles);
    struct attn_bench b = {.n_tiles = l.n_tiles, .set = (size_t)l.n_pages * PAGE * KV * DIM};
    b.n_sets = (int)(pool_bytes / 4 / b.set);
    b.k = pool;
    b.v = pool + b.set * (size_t)b.n_sets;
    void *partial, *counters, *q = device_random((size_t)rows * 6144 * 2),
                              *out = device_random((size_t)rows * 4096 * 2);
    must(cudaMalloc(&partial, (size_t)(l.n_slots + 1) * HEADS * (DIM + 2) * 4), "memory");
    must(cudaMalloc(&counters, (size_t)(l.n_slots + 1) * HEADS * 4), "memory");
    must(cudaMemset(counters, 0, (size_t)(l.n_slots + 1) * HEADS * 4), "memory");
    b.a = (struct kattn){.b = to_device(&k, sizeof k),
                         .q = q,
                         .out = out,
                         .k = b.k,
                         .v = b.v,
                         .partial = partial,
                         .counters = counters,
                         .q_stride = 6144,
                         .out_stride = 4096,
                         .n_heads = HEADS,
                         .n_kv_heads = KV,
                         .head_dim = DIM,
                         .cluster = cluster,
                         .scale = 0.088f};
    double us = time_graph(stream, is_prefill ? run_prefill : run_decode, &b, is_prefill ? 2 : 16);
    double bytes = 4.0 * KV * DIM * l.total, flops = 2.0 * HEADS * DIM * (double)rows * rows;
    if (is_prefill)
        printf("attention %-24s %10.1f us %8.0f TFLOP/s\n", name, us, flops / us * 1e-6);
    else
        printf("attention %-24s %10.2f us %8.0f GB/s %6.1f%% of read\n", name, us,
               bytes / us * 1e-3, bytes / us * 1e-1 / read_ceiling);
    cudaFree(partial), cudaFree(counters), cudaFree(q), cudaFree(out);
    free(l.pages), free(l.pos), free(l.items), free(l.tiles);
}

static void bench_attention(cudaStream_t stream, uint16_t *pool, size_t bytes)
{
    static const int lengths[] = {1024, 4096}, prompts[] = {1024, 4096, 8192, 16384};
    int ctx[256];
    char name[64];
    for (int n = 1; n <= 256; n = n == 1 ? 8 : n == 8 ? 64 : n * 4)
        for (int k = 0; k < 2 - (n > 64); k++) {
            for (int i = 0; i < n; i++) ctx[i] = lengths[k];
            snprintf(name, sizeof name, "decode, %d x %d", n, lengths[k]);
            bench_attn(stream, name, n, ctx, false, pool, bytes);
        }
    for (int i = 0; i < 64; i++) ctx[i] = 128 + (i * 37 % 64) * 30;
    bench_attn(stream, "decode, 64 of 128..2018", 64, ctx, false, pool, bytes);
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "prefill, %d", prompts[i]);
        bench_attn(stream, name, 1, &prompts[i], true, pool, bytes);
    }
}

static int run_copy(cudaStream_t stream, void *arg, int i)
{
    (void)i;
    return (int)cudaMemcpyAsync((char *)arg + ((size_t)4 << 30), arg, (size_t)4 << 30,
                                cudaMemcpyDeviceToDevice, stream);
}

static void bench_kernels(bool has_linear)
{
    size_t bytes = (size_t)9 << 30;
    struct sl_error e = {0};
    struct dev *d;
    struct dev_config c = {.n_ranks = 1,
                           .max_tokens = 8192,
                           .max_seqs = 8,
                           .max_wants = 8,
                           .max_model_len = 1024,
                           .n_vocab = 1024,
                           .page_size = PAGE};
    must(device_cuda.open(&d, &c, &e), e.text);
    must(device_cuda.ready(d, NULL, 0), "cuBLASLt"); /* where it is there */
    uint16_t *w = device_random(bytes), *x = device_random((size_t)8192 * 14336 * 2);
    void *y = device_random((size_t)8192 * 28672 * 2);
    double us = time_graph(d->stream, run_copy, w, 2);
    printf("copy %.0f GB/s (read and write)\n", 2.0 * 4294967296.0 / us * 1e-3);
    struct linear_bench all = {
        .l = {.x = x, .y = y, .n = 1 << 20, .k = 4096, .y_stride = 1 << 20, .m = 1},
        .w = w,
        .n_sets = 1};
    us = time_graph(d->stream, run_linear, &all, 1);
    read_ceiling = 8589934592.0 / us * 1e-3;
    printf("read %.0f GB/s (one product over 8 GiB)\n", read_ceiling);
    struct linear_bench gemm = {
        .l = {.x = x, .y = y, .n = 8192, .k = 8192, .y_stride = 8192, .m = 8192},
        .w = w,
        .n_sets = 8,
        .lt = d->lt};
    if (d->lt) {
        us = time_graph(d->stream, run_linear, &gemm, 4);
        gemm_ceiling = 2.0 * 549755813888.0 / us * 1e-6;
        printf("cuBLASLt 8192^3 bf16 %.0f TFLOP/s\n", gemm_ceiling);
    }
    if (has_linear) bench_linear(d->stream, d->lt, w, bytes, x, y);
    bench_attention(d->stream, w, bytes);
    device_cuda.close(d);
}

/* ------------------------------------------------------------------ whole steps */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

struct seqs {
    int32_t *token, *pos, *kv, *q_start, *kv_len, *slot, *pages;
    struct want *want;
    struct batch b;
};

static struct seqs open_seqs(int n_tokens, int n_seqs, int stride)
{
    struct seqs s = {0};
    s.token = calloc((size_t)n_tokens, 4), s.pos = calloc((size_t)n_tokens, 4),
    s.kv = calloc((size_t)n_tokens, 4);
    s.q_start = calloc((size_t)n_seqs + 1, 4), s.kv_len = calloc((size_t)n_seqs, 4),
    s.slot = calloc((size_t)n_seqs, 4);
    s.pages = calloc((size_t)(n_seqs * stride), 4), s.want = calloc((size_t)n_seqs, sizeof *s.want);
    s.b = (struct batch){.n_tokens = n_tokens,
                         .n_seqs = n_seqs,
                         .n_wants = n_seqs,
                         .page_size = PAGE,
                         .pages_stride = stride,
                         .token = s.token,
                         .pos = s.pos,
                         .kv_slot = s.kv,
                         .q_start = s.q_start,
                         .kv_len = s.kv_len,
                         .slot = s.slot,
                         .pages = s.pages,
                         .want = s.want};
    return s;
}

/* Decode n sequences at ctx, one step ahead, ids staying on the device. */
static void bench_decode(struct model *m, int n, int ctx)
{
    enum { STEPS = 48 };
    int stride = (ctx + STEPS) / PAGE + 2;
    struct seqs s[2] = {open_seqs(n, n, stride), open_seqs(n, n, stride)};
    const struct sl_sampling greedy = {
        .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .max_tokens = 1000};
    for (int i = 0; i < n; i++) { /* rows that differ, as in service */
        int32_t first = 1000 + 37 * i;
        must(
            model_assign(m, 0, i,
                         &(struct slot_init){.sampling = &greedy, .tokens = &first, .n_prompt = 1}),
            "assign");
    }
    double start = 0, device = 0;
    const struct result *r;
    for (int k = 0; k < STEPS + 8; k++) {
        struct seqs *x = &s[k % 2];
        if (k >= 2) {
            must(model_collect(m, 0, &r), "collect");
            if (k >= 10) device += (double)r->device_us;
            if (k == 10) start = now();
        }
        for (int i = 0; i < n; i++) {
            x->token[i] = -1;
            x->pos[i] = ctx + k % 16;
            x->kv_len[i] = x->pos[i] + 1;
            x->slot[i] = i;
            x->q_start[i + 1] = i + 1;
            for (int p = 0; p < stride; p++) x->pages[i * stride + p] = p * n + i;
            x->kv[i] = x->pages[i * stride + x->pos[i] / PAGE] * PAGE + x->pos[i] % PAGE;
            x->want[i] = (struct want){
                .row = i, .seq = i, .target = -1, .n_top = -1, .position = (uint32_t)k};
        }
        must(model_launch(m, 0, &x->b), "launch");
    }
    must(model_collect(m, 0, &r), "collect");
    double took = (now() - start) / (STEPS - 2);
    must(model_collect(m, 0, &r), "collect");
    printf("decode %4d x %d: %8.3f ms a step, %8.1f tok/s (device %.3f ms)\n", n, ctx, took * 1e3,
           n / took, device / (STEPS - 2) * 1e-3);
}

static void bench_prefill(struct model *m, int n, int chunk, double params)
{
    int stride = n / PAGE + 1;
    double best = INFINITY;
    for (int round = 0; round < 4; round++) {
        double start = now();
        for (int at = 0; at < n; at += chunk) {
            int rows = n - at < chunk ? n - at : chunk;
            struct seqs s = open_seqs(rows, 1, stride);
            const struct result *r;
            for (int p = 0; p < stride; p++) s.pages[p] = (p * 7) % stride;
            for (int i = 0; i < rows; i++) {
                s.token[i] = (int32_t)(random_u32() % 100000);
                s.pos[i] = at + i;
                s.kv[i] = s.pages[(at + i) / PAGE] * PAGE + (at + i) % PAGE;
            }
            s.q_start[1] = rows, s.kv_len[0] = at + rows;
            s.want[0] = (struct want){.row = rows - 1, .target = 5, .n_top = -1};
            must(model_launch(m, 0, &s.b), "launch");
            must(model_collect(m, 0, &r), "collect");
        }
        if (now() - start < best) best = now() - start;
    }
    double flops = 2.0 * params * n + 2.0 * 32 * 4096.0 * (double)n * n;
    printf("prefill %d in steps of %d: %.1f ms, %.0f tok/s, %.0f TFLOP/s of useful work\n", n,
           chunk, best * 1e3, n / best, flops / best * 1e-12);
}

static void bench_engine(const char *path, int ctx)
{
    struct sl_options o = {.model = path,
                           .device = "cuda",
                           .load_format = "dummy",
                           .max_num_seqs = 256,
                           .max_model_len = 16384,
                           .max_num_batched_tokens = 8192};
    struct sl_info info;
    struct sl_error e = {0};
    struct model *m;
    static const int sizes[] = {1, 2, 4, 8, 16, 32, 64, 128, 256};
    double start = now();
    must(model_open(&m, &o, &info, &e), e.text);
    printf("opened in %.2f s: weights %.2f GB, KV %.2f GB, %d pages\n", now() - start,
           (double)info.weight_bytes * 1e-9, (double)info.kv_bytes * 1e-9, info.num_blocks);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if ((double)sizes[i] * (ctx + 100) / PAGE < info.num_blocks) bench_decode(m, sizes[i], ctx);
    double params = (double)info.n_parameters - 2.0 * info.n_vocab * 4096.0;
    bench_prefill(m, 1024, 8192, params);
    bench_prefill(m, 8192, 8192, params);
    bench_prefill(m, 8192, 2048, params);
    model_close(m);
}

int main(int argc, char **argv)
{
    struct sl_error e = {0};
    setvbuf(stdout, NULL, _IONBF, 0);
    if (device_cuda.probe(&e) < 0) {
        printf("%s\n", e.text);
        return 1;
    }
    if (argc >= 2 && strcmp(argv[1], "kernels") == 0)
        bench_kernels(true);
    else if (argc >= 2 && strcmp(argv[1], "attention") == 0)
        bench_kernels(false);
    else if (argc >= 2 && strcmp(argv[1], "collectives") == 0)
        return bench_collectives();
    else if (argc >= 3 && strcmp(argv[1], "engine") == 0)
        bench_engine(argv[2], argc > 3 ? (int)strtol(argv[3], NULL, 10) : 1024);
    else {
        fprintf(stderr, "usage: bench_cuda kernels | attention | collectives | "
                        "engine CONFIG-FOLDER [context]\n");
        return 2;
    }
    return 0;
}
