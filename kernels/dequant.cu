/* dequant.cu - weights as the device holds them (bf16) from what their file holds, and dummy ones.
 *
 * what:     expand: dst[i] = bf16(dtype_expand(src)[i]), each type by one function of (block, element);
 *           fill: dst[row, col] = bf16(dummy_values(row, col)).
 * shapes:   src: n / block blocks of the type, back to back as in the file; dst: n bf16.
 * launch:   one thread an element pair (blocks) or DUMMY_BLOCK elements (fill); 256 threads a block.
 * assumes:  n a multiple of the type's block; dst 16-byte aligned; src at any address.
 * numerics: f32, products rounded in dtype.c's order and never fused, then rounded to bf16: the
 *           same bits as the host's.
 * source:   layouts are GGUF v3's, as src/base/dtype.c writes them down.
 * measured: see kernels/README.md, loading: the bus is the limit.
 */
#define PHILOX_FN static __host__ __device__ __forceinline__
#include "backend/dummy.h"

#include "common.cuh"

#include <cuda_fp16.h>

enum { THREADS = 256 };

/* ------------------------------------------------------------------ one element of a block
 * b: the block's bytes; i: the element's index within. Sums and products by intrinsics, which the
 * compiler does not fuse. */

static __device__ __forceinline__ uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static __device__ __forceinline__ float half_at(const uint8_t *p)
{
    return __half2float(__ushort_as_half(u16_at(p)));
}
static __device__ __forceinline__ float scaled(float d, int q)
{
    return __fmul_rn(d, (float)q);
}
/* A nibble of blocks of 32: element i shares byte i % 16, low half first. */
static __device__ __forceinline__ int nibble(const uint8_t *q, int i)
{
    return q[i % 16] >> (i / 16 * 4) & 15;
}
static __device__ __forceinline__ int fifth(const uint8_t *high, int i)
{
    return (high[i / 8] >> (i % 8) & 1) << 4;
}

struct f32_type {
    enum { BLOCK = 1, BYTES = 4 };
    static __device__ float at(const uint8_t *b, int)
    {
        return __uint_as_float((uint32_t)u16_at(b) | (uint32_t)u16_at(b + 2) << 16);
    }
};
struct f16_type {
    enum { BLOCK = 1, BYTES = 2 };
    static __device__ float at(const uint8_t *b, int) { return half_at(b); }
};
struct q4_0_type {
    enum { BLOCK = 32, BYTES = 18 };
    static __device__ float at(const uint8_t *b, int i)
    {
        return scaled(half_at(b), nibble(b + 2, i) - 8);
    }
};
struct q4_1_type {
    enum { BLOCK = 32, BYTES = 20 };
    static __device__ float at(const uint8_t *b, int i)
    {
        return __fadd_rn(scaled(half_at(b), nibble(b + 4, i)), half_at(b + 2));
    }
};
struct q5_0_type {
    enum { BLOCK = 32, BYTES = 22 };
    static __device__ float at(const uint8_t *b, int i)
    {
        return scaled(half_at(b), (nibble(b + 6, i) | fifth(b + 2, i)) - 16);
    }
};
struct q5_1_type {
    enum { BLOCK = 32, BYTES = 24 };
    static __device__ float at(const uint8_t *b, int i)
    {
        return __fadd_rn(scaled(half_at(b), nibble(b + 8, i) | fifth(b + 4, i)), half_at(b + 2));
    }
};
struct q8_0_type {
    enum { BLOCK = 32, BYTES = 34 };
    static __device__ float at(const uint8_t *b, int i)
    {
        return scaled(half_at(b), (int8_t)b[2 + i]);
    }
};

/* Two bits of a super-block: 128 elements in 32 bytes. */
static __device__ __forceinline__ int crumb(const uint8_t *q, int i)
{
    return q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}
struct q2_k_type {
    enum { BLOCK = 256, BYTES = 84 };
    static __device__ float at(const uint8_t *b, int i)
    {
        int sc = b[i / 16];
        float x = __fmul_rn(scaled(half_at(b + 80), sc & 15), (float)crumb(b + 16, i));
        return __fsub_rn(x, scaled(half_at(b + 82), sc >> 4));
    }
};
struct q3_k_type {
    enum { BLOCK = 256, BYTES = 110 };
    static __device__ float at(const uint8_t *b, int i)
    {
        const uint8_t *packed = b + 96;
        int run = i / 16, lo = packed[run % 8] >> (run / 8 * 4) & 15,
            hi = packed[8 + run % 4] >> (run / 4 * 2) & 3, third = b[i % 32] >> (i / 32) & 1;
        float scale = scaled(half_at(b + 108), (lo | hi << 4) - 32);
        return __fmul_rn(scale, (float)(crumb(b + 32, i) - (third ? 0 : 4)));
    }
};
/* Eight six-bit (scale, min) pairs in 12 bytes, as Q4_K and Q5_K share them; then d * scale * q -
 * dmin * min. */
static __device__ __forceinline__ float scale_min(const uint8_t *b, int j, int q)
{
    const uint8_t *packed = b + 4;
    int scale = packed[j] & 63, min = packed[j + 4] & 63;
    if (j >= 4) {
        scale = (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
        min = packed[j + 4] >> 4 | packed[j] >> 6 << 4;
    }
    float s = scaled(half_at(b), scale), m = scaled(half_at(b + 2), min);
    return __fsub_rn(__fmul_rn(s, (float)q), m);
}
struct q4_k_type {
    enum { BLOCK = 256, BYTES = 144 };
    static __device__ float at(const uint8_t *b, int i)
    {
        int run = i / 32;
        return scale_min(b, run, b[16 + run / 2 * 32 + i % 32] >> (run % 2 * 4) & 15);
    }
};
struct q5_k_type {
    enum { BLOCK = 256, BYTES = 176 };
    static __device__ float at(const uint8_t *b, int i)
    {
        int run = i / 32, high = b[16 + i % 32] >> run & 1;
        return scale_min(b, run, (b[48 + run / 2 * 32 + i % 32] >> (run % 2 * 4) & 15) | high << 4);
    }
};
struct q6_k_type {
    enum { BLOCK = 256, BYTES = 210 };
    static __device__ float at(const uint8_t *b, int i)
    {
        int half = i / 128, in = i % 128;
        int lo = b[half * 64 + in % 64] >> (in / 64 * 4) & 15;
        int hi = b[128 + half * 32 + in % 32] >> (in / 32 * 2) & 3;
        float scale = scaled(half_at(b + 208), (int8_t)b[192 + i / 16]);
        return __fmul_rn(scale, (float)((lo | hi << 4) - 32));
    }
};

/* ------------------------------------------------------------------ kernels */

template <typename T>
static __global__ void __launch_bounds__(THREADS)
    expand(uint32_t *dst, const uint8_t *src, int64_t n)
{
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 2;
    if (i + 1 >= n) { /* an odd count, of a type without blocks */
        if (i < n)
            ((uint16_t *)dst)[i] = f_bf16(T::at(src + i / T::BLOCK * T::BYTES, i % T::BLOCK));
        return;
    }
    float lo = T::at(src + i / T::BLOCK * T::BYTES, (int)(i % T::BLOCK));
    float hi = T::at(src + (i + 1) / T::BLOCK * T::BYTES, (int)((i + 1) % T::BLOCK));
    dst[i / 2] = pack_bf16(lo, hi);
}

/* Rounded to the type that the file would have had, then to bf16. */
static __device__ __forceinline__ float stored_as(enum dtype t, float v)
{
    return t == DT_F16 ? __half2float(__float2half_rn(v)) : v;
}

static __global__ void __launch_bounds__(THREADS)
    fill(uint4 *dst, struct dummy d, uint32_t row0, int64_t n_blocks, uint32_t row_blocks,
         enum dtype type)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n_blocks) return;
    float v[DUMMY_BLOCK];
    dummy_values(&d, row0 + (uint32_t)(i / row_blocks), (uint32_t)(i % row_blocks), v);
    uint32_t out[DUMMY_BLOCK / 2];
    for (int j = 0; j < DUMMY_BLOCK / 2; j++)
        out[j] = pack_bf16(stored_as(type, v[2 * j]), stored_as(type, v[2 * j + 1]));
    dst[i] = make_uint4(out[0], out[1], out[2], out[3]);
}

/* ------------------------------------------------------------------ launchers */

static unsigned blocks_for(int64_t threads)
{
    return (unsigned)((threads + THREADS - 1) / THREADS);
}

template <typename T>
static int run_expand(cudaStream_t stream, uint16_t *dst, const void *src, int64_t n)
{
    expand<T>
        <<<blocks_for((n + 1) / 2), THREADS, 0, stream>>>((uint32_t *)dst, (const uint8_t *)src, n);
    return (int)cudaGetLastError();
}

int k_expand(cudaStream_t stream, enum dtype type, uint16_t *dst, const void *src, int64_t n)
{
    switch (type) {
    case DT_BF16:
        return (int)cudaErrorInvalidValue; /* a copy */
    case DT_F32:
        return run_expand<f32_type>(stream, dst, src, n);
    case DT_F16:
        return run_expand<f16_type>(stream, dst, src, n);
    case DT_Q4_0:
        return run_expand<q4_0_type>(stream, dst, src, n);
    case DT_Q4_1:
        return run_expand<q4_1_type>(stream, dst, src, n);
    case DT_Q5_0:
        return run_expand<q5_0_type>(stream, dst, src, n);
    case DT_Q5_1:
        return run_expand<q5_1_type>(stream, dst, src, n);
    case DT_Q8_0:
        return run_expand<q8_0_type>(stream, dst, src, n);
    case DT_Q2_K:
        return run_expand<q2_k_type>(stream, dst, src, n);
    case DT_Q3_K:
        return run_expand<q3_k_type>(stream, dst, src, n);
    case DT_Q4_K:
        return run_expand<q4_k_type>(stream, dst, src, n);
    case DT_Q5_K:
        return run_expand<q5_k_type>(stream, dst, src, n);
    case DT_Q6_K:
        return run_expand<q6_k_type>(stream, dst, src, n);
    case DT_COUNT:
        break;
    }
    return (int)cudaErrorInvalidValue;
}

int k_fill(cudaStream_t stream, enum dtype type, uint16_t *dst, const struct dummy *d, int64_t row0,
           int64_t n_rows, int64_t cols)
{
    int64_t blocks = n_rows * (cols / DUMMY_BLOCK);
    if (cols % DUMMY_BLOCK) return (int)cudaErrorInvalidValue;
    fill<<<blocks_for(blocks), THREADS, 0, stream>>>((uint4 *)dst, *d, (uint32_t)row0, blocks,
                                                     (uint32_t)(cols / DUMMY_BLOCK), type);
    return (int)cudaGetLastError();
}
