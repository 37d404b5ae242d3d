/* bench_cpu.c - how fast the cpu device's linear layers and attention are, beside what this machine
 * can read.
 *
 *   bench_cpu [--threads N] [--isa plain|avx2|avx512] [--type Q4_1] [--cols C --rows R] [--seconds
 * S]
 *
 * The ceiling is measured first, in the same run: all threads summing a large buffer. Decode rows
 * (1 to 8 tokens) go through copies of a matrix that together exceed any cache, as the layers of a
 * model do, and are judged by GB/s; prefill rows by GFLOP/s. Each figure is the best single call,
 * since other work on the machine can only slow one down.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/cpu.h"

enum { SWEEP_BYTES = 192 << 20, ROUNDS_MAX = 100000, TOKENS_MAX = 512 };

static struct {
    int threads, isa, type;
    long rows, cols;
    double seconds;
} opt = {.isa = -1, .type = -1, .seconds = 0.15};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Best seconds of fn(arg). */
static double best(void (*fn)(void *), void *arg)
{
    double least = INFINITY, end = now() + opt.seconds;
    fn(arg);
    for (int i = 0; i < ROUNDS_MAX && (i < 3 || now() < end); i++) {
        double start = now();
        fn(arg);
        double took = now() - start;
        if (took < least) least = took;
    }
    return least;
}

/* ------------------------------------------------------------------ the ceiling */

enum { READ_ITEM = 256 << 10, READ_PIECE = 4 << 20, READ_STREAMS = 4 };

struct read_run {
    struct dev *d;
    const uint8_t *p;
    size_t at;
    uint64_t sum[POOL_THREADS_MAX];
};

/* One word of each 64-byte line, in a few streams: more than a core can ask memory for. */
static void read_item(void *arg, int item, int thread)
{
    struct read_run *r = arg;
    const uint8_t *p = r->p + r->at + (size_t)item * READ_ITEM;
    uint64_t sum = 0, word;
    for (size_t i = 0; i < READ_ITEM / READ_STREAMS; i += 64) {
        for (int k = 0; k < READ_STREAMS; k++) {
            memcpy(&word, p + i + (size_t)k * (READ_ITEM / READ_STREAMS), sizeof word);
            sum += word;
        }
    }
    r->sum[thread] += sum;
}

static void read_piece(void *arg)
{
    struct read_run *r = arg;
    pool_run(r->d->pool, read_item, r, READ_PIECE / READ_ITEM);
    r->at = (r->at + READ_PIECE) % SWEEP_BYTES;
}

static double read_ceiling(struct dev *d)
{
    struct read_run *r = xcalloc(1, sizeof *r);
    uint8_t *p = device_cpu.alloc(d, SWEEP_BYTES, "ceiling", NULL);
    memset(p, 1, SWEEP_BYTES);
    r->d = d;
    r->p = p;
    double gbs = READ_PIECE / best(read_piece, r) * 1e-9;
    free(r);
    return gbs;
}

/* ------------------------------------------------------------------ linear */

struct linear_bench {
    struct dev *d;
    struct weight *w; /* [n] copies */
    int n, at, n_tokens;
    float *x, *y;
};

/* One copy a call, in turn: by the time that one comes round again it has left the caches. */
static void linear_next(void *arg)
{
    struct linear_bench *l = arg;
    struct batch b = {.n_tokens = l->n_tokens};
    struct weight *w = &l->w[l->at];
    struct step s = {
        .op = OP_LINEAR, .dst = {l->y, (int32_t)w->rows}, .src = {l->x, (int32_t)w->cols}, .w = w};
    if (device_cpu.ops[OP_LINEAR](l->d, &b, &s) < 0) abort();
    l->at = (l->at + 1) % l->n;
}

static void bench_linear(struct dev *d, enum dtype type, int64_t rows, int64_t cols, double ceiling)
{
    static const int tokens[] = {1, 2, 4, 8, TOKENS_MAX};
    size_t bytes = device_cpu.weight_bytes(type, rows, cols);
    int copies = (int)(SWEEP_BYTES / bytes) + 1;
    struct linear_bench l = {.d = d, .w = xcalloc((size_t)copies, sizeof *l.w), .n = copies};
    uint8_t *all = device_cpu.alloc(d, bytes * (size_t)copies, "weights", NULL);
    memset(all, 0x11,
           bytes * (size_t)copies); /* values do not matter to speed, and 0x1111 is a small f16 */
    for (int i = 0; i < copies; i++)
        l.w[i] = (struct weight){
            .rows = rows,
            .cols = cols,
            .n_parts = 1,
            .part = {{.type = type, .rows = rows, .data = all + bytes * (size_t)i}}};
    l.x = xmalloc((size_t)(TOKENS_MAX * cols) * sizeof *l.x);
    l.y = xmalloc((size_t)(TOKENS_MAX * rows) * sizeof *l.y);
    for (int64_t i = 0; i < TOKENS_MAX * cols; i++) l.x[i] = (float)(i % 17) * 0.1f - 0.8f;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        l.n_tokens = tokens[i];
        double each = best(linear_next, &l);
        printf("%-5s %6ld x %-5ld %4d tokens %9.1f us %7.1f GB/s %4.0f%% %8.1f GFLOP/s\n",
               dtype_info[type].name, (long)rows, (long)cols, tokens[i], each * 1e6,
               (double)bytes / each * 1e-9, (double)bytes / each * 1e-7 / ceiling,
               2e-9 * (double)(rows * cols) * tokens[i] / each);
        fflush(stdout);
    }
    free(l.w);
    free(l.x);
    free(l.y);
}

/* ------------------------------------------------------------------ attention */

struct attn_bench {
    struct dev *d;
    struct batch b;
    struct step s;
};

static void attn_once(void *arg)
{
    struct attn_bench *a = arg;
    if (device_cpu.ops[OP_ATTN](a->d, &a->b, &a->s) < 0) abort();
}

/* One sequence of n tokens that end at context ctx; SmolLM2's heads. */
static void bench_attn(struct dev *d, int n, int ctx)
{
    enum { HEADS = 9, KV = 3, DIM = 64, PAGE = 16, COLS = (HEADS + 2 * KV) * DIM };
    int n_pages = (ctx + PAGE - 1) / PAGE;
    size_t kv = (size_t)n_pages * PAGE * KV * DIM * 2;
    struct layer_params lp = {
        .n_heads = HEADS, .n_kv_heads = KV, .head_dim = DIM, .attn_scale = 0.125f};
    int32_t *pages = xcalloc((size_t)n_pages, 4), *pos = xcalloc((size_t)n, 4), q_start[2] = {0, n};
    float *x = xcalloc((size_t)(n * COLS), 4), *y = xcalloc((size_t)(n * HEADS * DIM), 4);
    lp.k_pages = device_cpu.alloc(d, kv, "k", NULL);
    lp.v_pages = device_cpu.alloc(d, kv, "v", NULL);
    memset(lp.k_pages, 0x11, kv);
    memset(lp.v_pages, 0x11, kv);
    for (int i = 0; i < n_pages; i++) pages[i] = n_pages - 1 - i;
    for (int i = 0; i < n; i++) pos[i] = ctx - n + i;
    struct attn_bench a = {.d = d,
                           .b = {.n_tokens = n,
                                 .n_seqs = 1,
                                 .page_size = PAGE,
                                 .pages_stride = n_pages,
                                 .pos = pos,
                                 .q_start = q_start,
                                 .kv_len = &ctx,
                                 .pages = pages},
                           .s = {.dst = {y, HEADS * DIM}, .src = {x, COLS}, .lp = &lp}};
    double each = best(attn_once, &a), pairs = 0;
    for (int i = 0; i < n; i++) pairs += pos[i] + 1;
    printf("attn  %4d tokens at %5d %17.1f us %7.1f GB/s       %8.1f GFLOP/s\n", n, ctx, each * 1e6,
           2 * (double)kv / each * 1e-9, 4e-9 * pairs * HEADS * DIM / each);
    free(pages), free(pos), free(x), free(y);
}

/* ------------------------------------------------------------------ */

static int by_name(const char *name)
{
    for (int t = 0; t < DT_COUNT; t++)
        if (strcmp(dtype_info[t].name, name) == 0) return t;
    fprintf(stderr, "bench_cpu: no type %s\n", name);
    exit(2);
}

static void options(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *key = argv[i], *value = argv[i + 1];
        if (!strcmp(key, "--threads"))
            opt.threads = atoi(value);
        else if (!strcmp(key, "--isa"))
            opt.isa = !strcmp(value, "plain")  ? CPU_ISA_PLAIN
                      : !strcmp(value, "avx2") ? CPU_ISA_AVX2
                                               : CPU_ISA_AVX512;
        else if (!strcmp(key, "--type"))
            opt.type = by_name(value);
        else if (!strcmp(key, "--rows"))
            opt.rows = atol(value);
        else if (!strcmp(key, "--cols"))
            opt.cols = atol(value);
        else if (!strcmp(key, "--seconds"))
            opt.seconds = atof(value);
        else {
            fprintf(stderr, "bench_cpu: unknown option %s\n", key);
            exit(2);
        }
    }
}

int main(int argc, char **argv)
{
    static const enum dtype usual[] = {DT_Q4_1, DT_Q8_0, DT_Q4_0, DT_BF16, DT_Q4_K, DT_Q6_K};
    static const int shapes[][2] = {{3072, 576}, {576, 1536}, {49152, 576}};
    struct dev *d;
    struct sl_error e = {0};
    options(argc, argv);
    struct dev_config c = {.n_ranks = 1,
                           .n_threads = opt.threads,
                           .max_tokens = TOKENS_MAX,
                           .max_seqs = 8,
                           .max_wants = 8,
                           .max_model_len = 8192,
                           .n_vocab = 1024,
                           .page_size = 16};
    cpu_isa_force(opt.isa);
    if (device_cpu.open(&d, &c, &e) < 0) {
        fprintf(stderr, "bench_cpu: %s\n", e.text);
        return 1;
    }
    double ceiling = read_ceiling(d);
    printf("%s, %d threads; read ceiling %.1f GB/s\n", d->k->name, pool_threads(d->pool), ceiling);
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) {
        enum dtype type = opt.type >= 0 ? (enum dtype)opt.type : usual[i];
        int big = dtype_info[type].block == 256; /* whole blocks: columns nearest to the shape's */
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes && !opt.rows; k++)
            bench_linear(d, type, shapes[k][0],
                         big ? (shapes[k][1] + 255) / 256 * 256 : shapes[k][1], ceiling);
        if (opt.rows && opt.cols) bench_linear(d, type, opt.rows, opt.cols, ceiling);
        if (opt.type >= 0) break;
    }
    static const int contexts[][2] = {{1, 128}, {1, 1024}, {1, 8192}, {512, 512}, {512, 4096}};
    for (size_t i = 0; i < sizeof contexts / sizeof *contexts; i++)
        bench_attn(d, contexts[i][0], contexts[i][1]);
    device_cpu.close(d);
    return 0;
}
