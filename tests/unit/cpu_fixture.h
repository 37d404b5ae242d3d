/* cpu_fixture.h - what the tests of the cpu device share: random data, devices by instruction set,
 * weights. */
#ifndef TESTS_CPU_FIXTURE_H
#define TESTS_CPU_FIXTURE_H

#include <math.h>

#include "backend/cpu.h"
#include "base/test.h"

static uint64_t fx_state = 1;

static inline uint32_t fx_u32(void)
{
    fx_state = fx_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(fx_state >> 33);
}
static inline int32_t fx_below(int32_t n)
{
    return (int32_t)(fx_u32() % (uint32_t)n);
}
static inline float fx_float(void)
{
    return (float)fx_u32() / 1073741824.0f - 1.0f;
} /* [-1, 1) */
static inline float *fx_floats(int64_t n)
{
    float *p = xmalloc((size_t)n * sizeof *p);
    for (int64_t i = 0; i < n; i++) p[i] = fx_float();
    return p;
}

static inline struct dev *fx_open(enum cpu_isa isa, int n_threads)
{
    struct dev *d = NULL;
    struct sl_error e = {0};
    struct dev_config c = {.n_ranks = 1,
                           .n_threads = n_threads,
                           .max_tokens = 512,
                           .max_seqs = 8,
                           .max_wants = 16,
                           .max_model_len = 4096,
                           .n_vocab = 512,
                           .page_size = 16};
    cpu_isa_force((int)isa);
    int code = device_cpu.open(&d, &c, &e);
    cpu_isa_force(-1);
    if (code < 0) {
        printf("open: %s\n", e.text);
        abort();
    }
    return d;
}

/* A part of random bytes with scales that keep its values near 1; the file's bytes go to *file
 * (caller frees). */
static inline struct weight_part fx_part(struct dev *d, enum dtype type, int64_t rows, int64_t cols,
                                         uint8_t **file)
{
    size_t row_bytes = dtype_row_bytes(type, cols), n = row_bytes * (size_t)rows;
    uint8_t *src = xmalloc(n);
    for (size_t i = 0; i < n; i++) src[i] = (uint8_t)(fx_u32() >> 3);
    for (int64_t b = 0; b < rows * (cols / dtype_info[type].block); b++) {
        uint8_t *p = src + (size_t)b * (size_t)dtype_info[type].bytes;
        float f = fx_float();
        uint16_t half[2] = {f32_to_f16(0.01f * f), f32_to_f16(0.01f * fx_float())};
        uint16_t bf16 = f32_to_bf16(f), f16 = f32_to_f16(f);
        switch (type) {
        case DT_F32:
            memcpy(p, &f, 4);
            break;
        case DT_F16:
            memcpy(p, &f16, 2);
            break;
        case DT_BF16:
            memcpy(p, &bf16, 2);
            break;
        case DT_Q4_0:
        case DT_Q5_0:
        case DT_Q8_0:
            memcpy(p, half, 2);
            break;
        case DT_Q4_1:
        case DT_Q5_1:
        case DT_Q4_K:
        case DT_Q5_K:
            memcpy(p, half, 4);
            break;
        case DT_Q2_K:
            memcpy(p + 80, half, 4);
            break;
        case DT_Q3_K:
            memcpy(p + 108, half, 2);
            break;
        case DT_Q6_K:
            memcpy(p + 208, half, 2);
            break;
        case DT_COUNT:
            break;
        }
    }
    struct weight_part part = {.type = type, .rows = rows};
    part.data =
        device_cpu.alloc(d, device_cpu.weight_bytes(type, rows, cols), "a test's weight", NULL);
    for (int64_t r = 0; r < rows; r += 64) /* as a loader brings them */
        if (device_cpu.upload(d, 0,
                              &(struct weight_rows){&part, cols, r, rows - r < 64 ? rows - r : 64,
                                                    src + (size_t)r * row_bytes}) < 0)
            abort();
    if (file)
        *file = src;
    else
        free(src);
    return part;
}

static inline bool fx_same(const float *a, const float *b, int64_t n)
{
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

#endif
