/* cuda_load.c - weights into device memory.
 *
 * Matrices are held as bf16 row-major, whatever their file holds: F32 and F16 are rounded,
 * quantized types expanded by the host on the way (their own kernels are still to come). Vectors
 * are f32. Rows go through two pinned buffers, so that a copy runs while the host converts the next
 * piece.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda_dev.h"

static const size_t piece_bytes = (size_t)8 << 20;

size_t cuda_weight_bytes(enum dtype type, int64_t rows, int64_t cols)
{
    if (rows <= 0 || cols <= 0 || cols % dtype_info[type].block) return 0;
    if (rows == 1 || cols == 1) return (size_t)(rows * cols) * sizeof(float);
    if (cols % 8) return 0; /* rows must start at a multiple of 16 bytes */
    return (size_t)(rows * cols) * sizeof(uint16_t);
}

int cuda_upload_open(struct dev *d)
{
    for (int i = 0; i < 2; i++) {
        TRY(cuda_check(
            cudaHostAlloc((void **)&d->upload_pinned[i], piece_bytes, cudaHostAllocDefault),
            "pinned memory"));
        TRY(cuda_check(cudaEventCreateWithFlags(&d->upload_done[i], cudaEventDisableTiming),
                       "event"));
    }
    return 0;
}

/* n elements (whole blocks) as bf16, or as f32. */
static void convert(enum dtype type, const void *src, int64_t n, void *dst, bool is_f32)
{
    enum { STRETCH = 1024 };
    float values[STRETCH];
    if (type == DT_BF16 && !is_f32) {
        memcpy(dst, src, (size_t)n * sizeof(uint16_t));
        return;
    }
    for (int64_t at = 0; at < n; at += STRETCH) {
        int64_t now = n - at < STRETCH ? n - at : STRETCH;
        dtype_expand(type, (const char *)src + dtype_row_bytes(type, at), now, values);
        if (is_f32) memcpy((float *)dst + at, values, (size_t)now * sizeof *values);
        for (int64_t i = 0; i < now && !is_f32; i++)
            ((uint16_t *)dst)[at + i] = f32_to_bf16(values[i]);
    }
}

int cuda_upload(struct dev *d, const struct weight_part *part, int64_t cols, int64_t row0,
                int64_t n, const void *src)
{
    if (row0 < 0 || n < 0 || row0 + n > part->rows) return SL_EINTERNAL;
    bool is_vector = part->rows == 1 || cols == 1;
    size_t element = is_vector ? sizeof(float) : sizeof(uint16_t);
    int64_t total = n * cols,
            step = (int64_t)(piece_bytes / element); /* a multiple of every block */
    for (int64_t at = 0; at < total; at += step) {
        int64_t now = total - at < step ? total - at : step;
        int i = (int)(d->n_uploads % 2);
        if (d->n_uploads++ >= 2) TRY(cuda_check(cudaEventSynchronize(d->upload_done[i]), "upload"));
        convert(part->type, (const char *)src + dtype_row_bytes(part->type, at), now,
                d->upload_pinned[i], is_vector);
        TRY(cuda_check(cudaMemcpyAsync((char *)part->data + (size_t)(row0 * cols + at) * element,
                                       d->upload_pinned[i], (size_t)now * element,
                                       cudaMemcpyHostToDevice, d->stream),
                       "upload"));
        TRY(cuda_check(cudaEventRecord(d->upload_done[i], d->stream), "upload"));
    }
    return 0;
}
