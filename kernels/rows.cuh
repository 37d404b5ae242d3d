/* rows.cuh - rows of 8 columns at a time, and what kernels that norm a row share: so do their bits. */
#ifndef KERNELS_ROWS_CUH
#define KERNELS_ROWS_CUH

#include "common.cuh"

enum { NORM_THREADS = 512, HELD = 2 }; /* groups of 8 a thread keeps: rows up to 8192 */

static __device__ __forceinline__ void load8(const float *p, float v[8])
{
    float4 a = ((const float4 *)p)[0], b = ((const float4 *)p)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
static __device__ __forceinline__ void unpack8(uint4 a, float v[8])
{
    v[0] = bf16_lo(a.x), v[1] = bf16_hi(a.x), v[2] = bf16_lo(a.y), v[3] = bf16_hi(a.y);
    v[4] = bf16_lo(a.z), v[5] = bf16_hi(a.z), v[6] = bf16_lo(a.w), v[7] = bf16_hi(a.w);
}
static __device__ __forceinline__ void load8(const uint16_t *p, float v[8])
{
    unpack8(*(const uint4 *)p, v);
}
static __device__ __forceinline__ void store8(float *p, const float v[8])
{
    ((float4 *)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4 *)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
static __device__ __forceinline__ void store8(uint16_t *p, const float v[8])
{
    *(uint4 *)p = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                             pack_bf16(v[6], v[7]));
}

#endif
