/* bench_collectives.c - sum over ranks, residual sum and norm of rows of 4096 (8 KiB in bf16), 1 to 4096 of
 * them: in one shot, in two, and NCCL's sum with and without the ADD_NORM behind it. See bench_cuda.c.
 *
 * Each rank is a thread that replays a graph of 24 launches; the ranks start each replay together. Given is
 * the slowest rank's median of a launch. Two shots in several launches where the device cuts them so.
 */
#include "bench_cuda.h"

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "backend/cuda_dev.h"
#include "backend/cuda_group.h"

enum { COLS = 4096, ROWS_MAX = 4096, LAUNCHES = 24, ROUNDS = 41, WAYS = 4 };

static const char *const way_names[WAYS] = {"one-shot", "two-shot", "NCCL + norm", "NCCL sum"};

static struct bench {
    int32_t n;
    struct group *group;
    struct dev *dev[RANKS_MAX];
    struct kreduce call[RANKS_MAX]; /* of ROWS_MAX rows */
    pthread_barrier_t barrier;
    int32_t rows, way;
    double us[RANKS_MAX];
} bench;

static void *random_memory(struct dev *d, size_t bytes, bool is_f32)
{
    char *host = malloc(bytes), *p = device_cuda.alloc(d, bytes, "bench", NULL);
    must(!host || !p, "memory");
    for (size_t i = 0; i < bytes / (is_f32 ? 4 : 2); i++) {
        float v = (float)(rand() % 2001 - 1000) * 1e-3f;
        if (is_f32)
            ((float *)(void *)host)[i] = v;
        else
            ((uint16_t *)(void *)host)[i] = f32_to_bf16(v);
    }
    must(cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice), "fill");
    free(host);
    return p;
}

static void open_rank(int32_t r)
{
    struct sl_error e = {0};
    struct dev_config c = {.rank = r,
                           .n_ranks = bench.n,
                           .group = bench.group,
                           .max_tokens = ROWS_MAX,
                           .max_seqs = 8,
                           .max_wants = 8,
                           .max_model_len = 1024,
                           .n_vocab = 1024,
                           .page_size = 16,
                           .n_hidden = COLS};
    must(device_cuda.open(&bench.dev[r], &c, &e), e.text);
    struct dev *d = bench.dev[r];
    must(cuda_enter(d), "GPU");
    bench.call[r] = (struct kreduce){.cols = COLS, .eps = 1e-5f};
    bench.call[r].x = random_memory(d, (size_t)ROWS_MAX * COLS * 2, false);
    bench.call[r].dst = random_memory(d, (size_t)ROWS_MAX * COLS * 2, false);
    bench.call[r].sum = random_memory(d, (size_t)ROWS_MAX * COLS * 4, true);
    bench.call[r].w = random_memory(d, COLS * 4, true);
}

/* One sum of the kind that is measured. */
static int launch(struct dev *d, int32_t r)
{
    struct kreduce k = bench.call[r];
    int32_t step = bench.rows;
    if (bench.way >= 2) {
        int64_t n = (int64_t)bench.rows * COLS;
        int code = nccl_sum(bench.group->nccl, r, k.x, n, DT_BF16, d->stream);
        if (code < 0 || bench.way == 3) return code;
        return k_add_norm(d->stream, k.dst, k.sum, k.x, k.w, COLS, k.eps, bench.rows);
    }
    k.is_two_shot = bench.way == 1;
    while (k_reduce_bytes(step, COLS, 0, k.is_two_shot, bench.n) > d->half_bytes) step /= 2;
    for (int32_t at = 0; at < bench.rows; at += step) {
        struct kreduce part = k;
        part.x = (uint16_t *)k.x + (int64_t)at * COLS;
        part.dst = k.dst + (int64_t)at * COLS;
        part.sum = k.sum + (int64_t)at * COLS;
        part.rows = step;
        part.row0 = at;
        part.peers = cuda_meeting(d);
        int code = k_reduce(d->stream, &part);
        if (code) return code;
    }
    return 0;
}

static void *run_rank(void *arg)
{
    int32_t r = (int32_t)(intptr_t)arg;
    struct dev *d = bench.dev[r];
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t a, b;
    double us[ROUNDS];
    must(cuda_enter(d), "GPU");
    d->n_met = 0;
    must(cudaEventCreate(&a), "event");
    must(cudaEventCreate(&b), "event");
    must(cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeRelaxed), "capture");
    for (int i = 0; i < LAUNCHES; i++) must(launch(d, r), "launch");
    must(cudaStreamEndCapture(d->stream, &graph), "capture");
    must(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    for (int k = -3; k < ROUNDS; k++) {
        float ms;
        must(cudaMemcpyAsync((char *)d->batch_d + offsetof(struct kbatch, met), &d->met,
                             sizeof d->met, cudaMemcpyHostToDevice, d->stream),
             "meeting");
        pthread_barrier_wait(&bench.barrier);
        must(cudaEventRecord(a, d->stream), "event");
        must(cudaGraphLaunch(exec, d->stream), "graph");
        must(cudaEventRecord(b, d->stream), "event");
        must(cudaEventSynchronize(b), "run");
        must(cudaEventElapsedTime(&ms, a, b), "time");
        pthread_barrier_wait(&bench.barrier);
        if (k >= 0) us[k] = (double)ms * 1e3 / LAUNCHES;
        d->met += d->n_met;
    }
    qsort(us, ROUNDS, sizeof *us, by_value);
    bench.us[r] = us[ROUNDS / 2];
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaEventDestroy(a);
    cudaEventDestroy(b);
    return NULL;
}

/* Microseconds of a launch on the slowest rank. */
static double measure(int32_t rows, int32_t way)
{
    pthread_t threads[RANKS_MAX];
    double most = 0;
    bench.rows = rows;
    bench.way = way;
    for (int32_t r = 0; r < bench.n; r++)
        must(pthread_create(&threads[r], NULL, run_rank, (void *)(intptr_t)r), "thread");
    for (int32_t r = 0; r < bench.n; r++) {
        pthread_join(threads[r], NULL);
        if (bench.us[r] > most) most = bench.us[r];
    }
    return most;
}

static void print_table(void)
{
    int64_t one_shot = 0, nccl = 0;
    bool has_nccl = bench.group->nccl != NULL;
    printf("%d ranks, us a launch in a graph\n%9s", bench.n, "KiB");
    for (int w = 0; w < WAYS; w++) printf(" %12s", way_names[w]);
    for (int32_t rows = 1; rows <= ROWS_MAX; rows *= 2) {
        double us[WAYS] = {0};
        int64_t bytes = (int64_t)rows * COLS * 2;
        printf("\n%9lld", (long long)(bytes / 1024));
        for (int w = 0; w < WAYS; w++) {
            bool is_possible = w >= 2 ? has_nccl
                                      : w == 1 || k_reduce_bytes(rows, COLS, 0, 0, bench.n) <=
                                                      bench.dev[0]->half_bytes;
            if (is_possible) us[w] = measure(rows, w);
            if (is_possible)
                printf(" %12.1f", us[w]);
            else
                printf(" %12s", "-");
        }
        if (us[0] > 0 && us[0] <= us[1]) one_shot = bytes;
        if (has_nccl && !nccl && us[2] < us[1] && us[2] < (us[0] > 0 ? us[0] : us[1])) nccl = bytes;
    }
    printf("\nfor cuda_ranks.c: {%d, %lld, %lld}\n", bench.n, (long long)one_shot, (long long)nccl);
}

int bench_collectives(void)
{
    struct sl_error e = {0};
    int count = 0;
    must(cudaGetDeviceCount(&count), "GPUs");
    if (count < 2) {
        printf("one GPU: nothing to sum over\n");
        return 1;
    }
    for (bench.n = 2; bench.n <= count && bench.n <= RANKS_MAX; bench.n *= 2) {
        must(cuda_group_open(&bench.group, bench.n, &e), e.text);
        must(cuda_group_use_nccl(bench.group, NULL, &e), e.text);
        must(pthread_barrier_init(&bench.barrier, NULL, (unsigned)bench.n), "barrier");
        for (int32_t r = 0; r < bench.n; r++) open_rank(r);
        print_table();
        for (int32_t r = 0; r < bench.n; r++) device_cuda.close(bench.dev[r]);
        cuda_group_close(bench.group);
        pthread_barrier_destroy(&bench.barrier);
    }
    return 0;
}
