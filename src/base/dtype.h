/* dtype.h - element types of tensors, as stored in files and as used by devices: one table.
 *
 * A quantized type packs `block` consecutive elements of a row into `bytes` bytes. Block layouts
 * are GGUF v3's (ggml type ids in the table). Row lengths are multiples of the block. C17 and
 * C++17: nvcc includes it.
 */
#ifndef BASE_DTYPE_H
#define BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>

/*    name    block bytes ggml id */
#define DTYPES(X)                                                                                  \
    X(F32, 1, 4, 0)                                                                                \
    X(F16, 1, 2, 1)                                                                                \
    X(BF16, 1, 2, 30)                                                                              \
    X(Q4_0, 32, 18, 2)                                                                             \
    X(Q4_1, 32, 20, 3)                                                                             \
    X(Q5_0, 32, 22, 6)                                                                             \
    X(Q5_1, 32, 24, 7)                                                                             \
    X(Q8_0, 32, 34, 8)                                                                             \
    X(Q2_K, 256, 84, 10)                                                                           \
    X(Q3_K, 256, 110, 11)                                                                          \
    X(Q4_K, 256, 144, 12)                                                                          \
    X(Q5_K, 256, 176, 13)                                                                          \
    X(Q6_K, 256, 210, 14)

#define DTYPE_ENUM(name, block, bytes, ggml) DT_##name,
enum dtype { DTYPES(DTYPE_ENUM) DT_COUNT };
#undef DTYPE_ENUM

struct dtype_info {
    const char *name;
    int block, bytes, ggml;
};
extern const struct dtype_info dtype_info[DT_COUNT];

/* Bytes of a row of `cols` elements; cols must be a multiple of the block. */
static inline size_t dtype_row_bytes(enum dtype t, int64_t cols)
{
    return (size_t)(cols / dtype_info[t].block) * (size_t)dtype_info[t].bytes;
}

/* Expand n elements (a multiple of the block) of a row to f32: the meaning of the format. Scalar
 * and plain; tests and slow paths use it. */
void dtype_expand(enum dtype t, const void *src, int64_t n, float *dst);

static inline float bf16_to_f32(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } v;
    v.u = (uint32_t)h << 16;
    return v.f;
}
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);  /* round to nearest even */
uint16_t f32_to_bf16(float f); /* round to nearest even; NaN stays NaN */

#endif
