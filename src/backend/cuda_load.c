/* cuda_load.c - weights into device memory, in lanes.
 *
 * Matrices are held as bf16 row-major, whatever their file holds: bf16 is copied to its place, all
 * else is copied as it is and expanded there by a kernel. Vectors are f32. A lane has a stream and
 * two pinned buffers of its own: while one is on its way the loading thread reads the next piece
 * into the other, and one lane's copy runs beside another's kernel. What a lane needs it allocates
 * when it is first used, so that the threads share that time; `ready` frees it.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda_dev.h"
#include "backend/dummy.h"

size_t cuda_weight_bytes(enum dtype type, int64_t rows, int64_t cols)
{
    if (rows <= 0 || cols <= 0 || cols % dtype_info[type].block) return 0;
    if (rows == 1 || cols == 1) return (size_t)(rows * cols) * sizeof(float);
    if (cols % 8) return 0; /* rows must start at a multiple of 16 bytes */
    if (dtype_row_bytes(type, cols) > PIECE_BYTES) return 0;
    return (size_t)(rows * cols) * sizeof(uint16_t);
}

/* ------------------------------------------------------------------ lanes */

static int open_lane(struct dev *d, struct cuda_lane *l)
{
    TRY(cuda_enter(d)); /* this thread may not have been here yet, or have been with another rank */
    if (l->stream) return 0;
    return cuda_check(cudaStreamCreateWithFlags(&l->stream, cudaStreamNonBlocking), "stream");
}

static int open_pinned(struct cuda_lane *l)
{
    if (l->pinned[0]) return 0;
    size_t bytes = (size_t)CUDA_STAGES * PIECE_BYTES;
    TRY(cuda_check(cudaHostAlloc((void **)&l->pinned[0], bytes, cudaHostAllocDefault), "staging"));
    for (int i = 0; i < CUDA_STAGES; i++) {
        l->pinned[i] = l->pinned[0] + (size_t)i * PIECE_BYTES;
        TRY(cuda_check(cudaEventCreateWithFlags(&l->sent[i], cudaEventDisableTiming), "event"));
    }
    return 0;
}

/* The buffer that comes next, empty; NULL: an error. */
static char *next_stage(struct dev *d, struct cuda_lane *l)
{
    int i = (int)(l->n_sent % CUDA_STAGES);
    if (open_lane(d, l) < 0 || open_pinned(l) < 0) return NULL;
    if (l->n_sent >= CUDA_STAGES && cuda_check(cudaEventSynchronize(l->sent[i]), "upload") < 0)
        return NULL;
    return l->pinned[i];
}

void *cuda_stage(struct dev *d, int32_t lane)
{
    return next_stage(d, &d->lane[lane]);
}

static void close_lane(struct cuda_lane *l)
{
    if (l->stream) cudaStreamDestroy(l->stream);
    for (int i = 0; i < CUDA_STAGES; i++)
        if (l->sent[i]) cudaEventDestroy(l->sent[i]);
    cudaFreeHost(l->pinned[0]);
    cudaFree(l->raw_d);
    *l = (struct cuda_lane){0};
}

int cuda_load_end(struct dev *d)
{
    int code = cuda_enter(d);
    for (int i = 0; i < LANES_MAX; i++) {
        struct cuda_lane *l = &d->lane[i];
        if (l->stream && code == 0) code = cuda_check(cudaStreamSynchronize(l->stream), "upload");
        close_lane(l);
    }
    return code;
}

/* ------------------------------------------------------------------ pieces */

/* The memory at p is cleared before the lane writes to it. */
static int wait_cleared(struct dev *d, const struct cuda_lane *l, const void *p)
{
    const struct cuda_chunk *c = cuda_chunk_of(d, p);
    if (!c) return SL_EINTERNAL;
    return cuda_check(cudaStreamWaitEvent(l->stream, c->cleared, 0), "upload");
}

/* `bytes` of the lane's current buffer to dst, and the buffer is on its way. */
static int send(struct cuda_lane *l, void *dst, size_t bytes)
{
    int i = (int)(l->n_sent++ % CUDA_STAGES);
    TRY(cuda_check(cudaMemcpyAsync(dst, l->pinned[i], bytes, cudaMemcpyHostToDevice, l->stream),
                   "upload"));
    return cuda_check(cudaEventRecord(l->sent[i], l->stream), "upload");
}

static int send_vector(struct dev *d, struct cuda_lane *l, const struct weight_rows *p)
{
    int64_t total = p->n * p->cols, step = PIECE_BYTES / (int64_t)sizeof(float);
    float *to = (float *)p->part->data + p->row0 * p->cols;
    for (int64_t at = 0; at < total; at += step) {
        int64_t n = total - at < step ? total - at : step;
        char *stage = next_stage(d, l);
        if (!stage) return SL_EDEVICE;
        dtype_expand(p->part->type, (const char *)p->src + dtype_row_bytes(p->part->type, at), n,
                     (float *)(void *)stage);
        TRY(wait_cleared(d, l, p->part->data));
        TRY(send(l, to + at, (size_t)n * sizeof *to));
    }
    return 0;
}

/* What the lane's current buffer holds: n rows of a matrix. */
static int send_rows(struct dev *d, struct cuda_lane *l, const struct weight_rows *p, int64_t row0,
                     int64_t n)
{
    enum dtype type = p->part->type;
    uint16_t *to = (uint16_t *)p->part->data + row0 * p->cols;
    size_t bytes = (size_t)n * dtype_row_bytes(type, p->cols);
    TRY(wait_cleared(d, l, p->part->data));
    if (type == DT_BF16) return send(l, to, bytes);
    if (!l->raw_d) TRY(cuda_check(cudaMalloc((void **)&l->raw_d, PIECE_BYTES), "staging"));
    TRY(send(l, l->raw_d, bytes));
    return cuda_check(k_expand(l->stream, type, to, l->raw_d, n * p->cols), "expand");
}

int cuda_upload(struct dev *d, int32_t lane, const struct weight_rows *p)
{
    struct cuda_lane *l = &d->lane[lane];
    const struct weight_part *part = p->part;
    TRY(cuda_enter(d));
    if (p->row0 < 0 || p->n < 0 || p->row0 + p->n > part->rows) return SL_EINTERNAL;
    if (part->rows == 1 || p->cols == 1) return send_vector(d, l, p);
    size_t row = dtype_row_bytes(part->type, p->cols);
    if (l->pinned[0] && p->src == l->pinned[l->n_sent % CUDA_STAGES])
        return send_rows(d, l, p, p->row0, p->n);
    int64_t step = (int64_t)(PIECE_BYTES / row);
    for (int64_t at = 0; at < p->n; at += step) {
        int64_t n = p->n - at < step ? p->n - at : step;
        char *stage = next_stage(d, l);
        if (!stage) return SL_EDEVICE;
        memcpy(stage, (const char *)p->src + (size_t)at * row, (size_t)n * row);
        TRY(send_rows(d, l, p, p->row0 + at, n));
    }
    return 0;
}

int cuda_fill(struct dev *d, int32_t lane, const struct weight_rows *p, const struct dummy *x)
{
    struct cuda_lane *l = &d->lane[lane];
    TRY(open_lane(d, l));
    TRY(wait_cleared(d, l, p->part->data));
    return cuda_check(k_fill(l->stream, p->part->type,
                             (uint16_t *)p->part->data + p->row0 * p->cols, x, p->row0, p->n,
                             p->cols),
                      "fill");
}
