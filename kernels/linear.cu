/* linear.cu - y = x . w^T + bias for few rows: the weights stream through once, at the speed of
 * memory.
 *
 * what:     y[m][n] = sum over k of x[m][k] w[n][k], + bias[n]
 * shapes:   w [n, k] bf16 row-major, x [m, k] bf16, y [m, n] bf16 or f32
 * launch:   m <= 8: a block of 8 warps for 16 rows of w, warp s taking slice s of k. m > 8: a
 *           cluster of 8 blocks for 128 rows, block s taking slice s, 4 warps of 32 rows and up
 *           to 64 rows of x through shared memory; sums meet in distributed shared memory. More
 *           rows of x: grid.z.
 * assumes:  k a multiple of 8; rows 16-byte aligned
 * numerics: bf16 products, f32 sums by mma.m16n8k16 in ascending k (within 32 columns in one
 *           fixed permutation, which lets a lane load 16 consecutive bytes), k cut into 8 slices
 *           by its length alone, slices added in order: an element's bits do not depend on m, on
 *           its place in the batch, or on which kernel ran
 * source:   own; the cluster reduction stands where split-k kernels use a workspace
 * measured: see kernels/README.md
 */
#include <cooperative_groups.h>

#include "common.cuh"

namespace cg = cooperative_groups;

enum { W = LINEAR_SLICES, ONE_WAVE = 2 * 132 /* blocks of 8 warps on an H100 or H200 */ };
/* Of the tiled kernel: rows of x lie 64 bytes modulo 128 apart, which spreads a lane quarter over
 * all banks. */
enum {
    TILE_WARPS = 4,
    TILE_STEP = 64,
    TILE_PIECES = 2,
    TILE_ROWS = 128,
    X_PITCH = TILE_STEP * 2 + 64,
    X_STAGES = 4
};

static __host__ __device__ __forceinline__ int slice_length(int64_t k)
{
    return (int)((k + LINEAR_SLICES * 64 - 1) / (LINEAR_SLICES * 64)) * 64;
}

/* 16 rows of w, N times 32 columns: lane (g, t) holds columns 8t..8t+7 of every 32, rows g and g
 * + 8. */
template <int N> struct wfrag {
    uint4 a[N], b[N];
};

template <int N>
static __device__ __forceinline__ void load_w(struct wfrag<N> &f, const uint16_t *ra,
                                              const uint16_t *rb, int k, int end)
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        bool is_in = k + 32 * i < end;
        f.a[i] = is_in ? load_stream(ra + k + 32 * i) : make_uint4(0, 0, 0, 0);
        f.b[i] = is_in ? load_stream(rb + k + 32 * i) : make_uint4(0, 0, 0, 0);
    }
}

/* The two products of 32 columns; the low one comes first. */
template <int N>
static __device__ __forceinline__ void mma_low(float c[4], const struct wfrag<N> &w, int i,
                                               const uint4 &x)
{
    mma16816(c, w.a[i].x, w.b[i].x, w.a[i].y, w.b[i].y, x.x, x.y);
}
template <int N>
static __device__ __forceinline__ void mma_high(float c[4], const struct wfrag<N> &w, int i,
                                                const uint4 &x)
{
    mma16816(c, w.a[i].z, w.b[i].z, w.a[i].w, w.b[i].w, x.z, x.w);
}

template <typename OUT> static __device__ __forceinline__ void store_y(OUT *y, float v);
template <> __device__ __forceinline__ void store_y(uint16_t *y, float v)
{
    *y = f_bf16(v);
}
template <> __device__ __forceinline__ void store_y(float *y, float v)
{
    *y = v;
}

template <int N>
static __device__ __forceinline__ void load_x(uint4 (&x)[N], const uint16_t *row, int k, int end)
{
#pragma unroll
    for (int i = 0; i < N; i++)
        x[i] = k + 32 * i < end ? *(const uint4 *)(row + k + 32 * i) : make_uint4(0, 0, 0, 0);
}

/* A warp a slice. Steps of 128 columns hide latency best; of 64, where a third block an SM saves a
 * second, short wave. */
template <int PIECES, typename OUT>
static __global__ void __launch_bounds__(W * 32, PIECES > 2 ? 2 : 3) few_kernel(struct klinear l)
{
    __shared__ float part[W][8][17];
    enum { STEP = PIECES * 32 };
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int64_t row0 = (int64_t)blockIdx.x * 16, last = l.n - 1;
    int len = slice_length(l.k), k = warp * len, end = min((int)l.k, k + len), wend = end - 8 * t,
        xend = g < l.m ? wend : 0;
    const uint16_t *ra = l.w + min(row0 + g, last) * l.k + 8 * t,
                   *rb = l.w + min(row0 + g + 8, last) * l.k + 8 * t;
    const uint16_t *rx =
        l.x + (int64_t)g * l.k + 8 * t; /* a lane's columns start 8t later, hence wend */
    struct wfrag<PIECES> w, next;
    uint4 x[PIECES], xnext[PIECES];
    float c[4] = {0, 0, 0, 0};
    load_w(w, ra, rb, k, wend);
    pdl_next();
    pdl_wait();
    load_x(x, rx, k, xend);
    for (; k < end; k += STEP) {
        load_w(next, ra, rb, k + STEP, wend);
        load_x(xnext, rx, k + STEP, xend);
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            mma_low(c, w, i, x[i]);
            mma_high(c, w, i, x[i]);
        }
        w = next;
#pragma unroll
        for (int i = 0; i < PIECES; i++) x[i] = xnext[i];
    }
    part[warp][2 * t][g] = c[0];
    part[warp][2 * t + 1][g] = c[1];
    part[warp][2 * t][g + 8] = c[2];
    part[warp][2 * t + 1][g + 8] = c[3];
    __syncthreads();
    int r = threadIdx.x % 16, m = threadIdx.x / 16;
    if (m >= l.m || row0 + r > last) return;
    float sum = part[0][m][r];
    for (int s = 1; s < LINEAR_SLICES; s++) sum += part[s][m][r];
    if (l.bias) sum += l.bias[row0 + r];
    store_y((OUT *)l.y + m * l.y_stride + row0 + r, sum);
}

template <int NT>
static __device__ __forceinline__ void stage_x(char *to, const struct klinear &l, int m0, int k,
                                               int end)
{
    enum { PER_ROW = TILE_STEP / 8 };
#pragma unroll
    for (int j = 0; j < NT * 8 * PER_ROW / (TILE_WARPS * 32); j++) {
        int i = threadIdx.x + j * TILE_WARPS * 32, m = i / PER_ROW, c = i % PER_ROW * 8;
        bool is_in = m0 + m < l.m && k + c < end;
        cp_async16(to + m * X_PITCH + c * 2, is_in ? l.x + (int64_t)(m0 + m) * l.k + k + c : l.x,
                   is_in);
    }
    cp_async_commit();
}

enum { RED_PITCH = TILE_ROWS + 4 };
template <int NT> static constexpr size_t tile_smem()
{
    size_t stages = (size_t)X_STAGES * NT * 8 * X_PITCH, red = (size_t)NT * 8 * RED_PITCH * 4;
    return stages > red ? stages : red;
}

/* The eight blocks' sums of this block's 16 rows, in order. */
template <int NT, typename OUT>
static __device__ __forceinline__ void reduce_tile(const struct klinear &l, float *red, int slice,
                                                   int64_t tile0, int m0)
{
    cg::cluster_group cluster = cg::this_cluster();
#pragma unroll
    for (int j = 0; j < NT * 8 * 4 / (TILE_WARPS * 32) + (NT < 4); j++) {
        int i = threadIdx.x + j * TILE_WARPS * 32, m = i / 4, r = slice * 16 + i % 4 * 4;
        if (m >= NT * 8 || m0 + m >= l.m) continue;
        float4 v[LINEAR_SLICES];
#pragma unroll
        for (int s = 0; s < LINEAR_SLICES; s++)
            v[s] = *(const float4 *)(cluster.map_shared_rank(red, s) + m * RED_PITCH + r);
        float sum[4] = {v[0].x, v[0].y, v[0].z, v[0].w};
#pragma unroll
        for (int s = 1; s < LINEAR_SLICES; s++)
            sum[0] += v[s].x, sum[1] += v[s].y, sum[2] += v[s].z, sum[3] += v[s].w;
#pragma unroll
        for (int e = 0; e < 4; e++) {
            if (tile0 + r + e >= l.n) break;
            if (l.bias) sum[e] += l.bias[tile0 + r + e];
            store_y((OUT *)l.y + (m0 + m) * l.y_stride + tile0 + r + e, sum[e]);
        }
    }
}

template <int NT, typename OUT>
static __global__ void __cluster_dims__(LINEAR_SLICES, 1, 1)
    __launch_bounds__(TILE_WARPS * 32, NT > 4 ? 3 : 4) tile_kernel(struct klinear l)
{
    extern __shared__ __align__(128) char smem[];
    cg::cluster_group cluster = cg::this_cluster();
    int slice = (int)cluster.block_rank(), warp = threadIdx.x / 32, lane = threadIdx.x % 32,
        g = lane / 4, t = lane % 4;
    int64_t tile0 = (int64_t)(blockIdx.x / LINEAR_SLICES) * TILE_ROWS, row0 = tile0 + warp * 32 + g,
            last = l.n - 1;
    int m0 = blockIdx.z * NT * 8, len = slice_length(l.k), k = slice * len,
        end = min((int)l.k, k + len), wend = end - 8 * t;
    const uint16_t *row[4];
#pragma unroll
    for (int i = 0; i < 4; i++) row[i] = l.w + min(row0 + 8 * i, last) * l.k + 8 * t;
    struct wfrag<TILE_PIECES> w[2], next[2];
    float c[2][NT][4] = {};
    load_w(w[0], row[0], row[1], k, wend);
    load_w(w[1], row[2], row[3], k, wend);
    pdl_next();
    pdl_wait();
#pragma unroll
    for (int s = 0; s < X_STAGES - 1; s++)
        stage_x<NT>(smem + s * NT * 8 * X_PITCH, l, m0, k + s * TILE_STEP, end);
#pragma unroll 2
    for (int stage = 0; k < end; k += TILE_STEP, stage = (stage + 1) % X_STAGES) {
        load_w(next[0], row[0], row[1], k + TILE_STEP, wend);
        load_w(next[1], row[2], row[3], k + TILE_STEP, wend);
        cp_async_wait<X_STAGES - 2>();
        __syncthreads();
        stage_x<NT>(smem + (stage + X_STAGES - 1) % X_STAGES * NT * 8 * X_PITCH, l, m0,
                    k + (X_STAGES - 1) * TILE_STEP, end);
        const char *xs = smem + stage * NT * 8 * X_PITCH + g * X_PITCH + t * 16;
#pragma unroll
        for (int i = 0; i < TILE_PIECES; i++)
#pragma unroll
            for (int n = 0; n < NT;
                 n += 2) { /* products on the same sums are kept apart: each waits for the last */
                uint4 x = *(const uint4 *)(xs + n * 8 * X_PITCH + i * 64);
                uint4 y = *(const uint4 *)(xs + (n + 1) * 8 * X_PITCH + i * 64);
                mma_low(c[0][n], w[0], i, x);
                mma_low(c[1][n], w[1], i, x);
                mma_low(c[0][n + 1], w[0], i, y);
                mma_low(c[1][n + 1], w[1], i, y);
                mma_high(c[0][n], w[0], i, x);
                mma_high(c[1][n], w[1], i, x);
                mma_high(c[0][n + 1], w[0], i, y);
                mma_high(c[1][n + 1], w[1], i, y);
            }
        w[0] = next[0];
        w[1] = next[1];
    }
    cp_async_wait<0>();
    __syncthreads();
    float *red = (float *)smem;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float *at = red + (n * 8 + 2 * t) * RED_PITCH + warp * 32 + h * 16 + g;
            at[0] = c[h][n][0];
            at[RED_PITCH] = c[h][n][1];
            at[8] = c[h][n][2];
            at[RED_PITCH + 8] = c[h][n][3];
        }
    cluster.sync();
    reduce_tile<NT, OUT>(l, red, slice, tile0, m0);
    cluster.sync(); /* nobody leaves while its sums are read */
}

template <int NT, typename OUT> static int run_tile(cudaStream_t stream, const struct klinear *l)
{
    static int is_set;
    if (!is_set) {
        cudaError_t code =
            cudaFuncSetAttribute(tile_kernel<NT, OUT>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)tile_smem<NT>());
        if (code != cudaSuccess) return (int)code;
        is_set = 1;
    }
    dim3 grid((unsigned)((l->n + TILE_ROWS - 1) / TILE_ROWS) * LINEAR_SLICES, 1,
              (unsigned)(l->m + NT * 8 - 1) / (NT * 8));
    return launch(tile_kernel<NT, OUT>, grid, TILE_WARPS * 32, tile_smem<NT>(), stream, *l);
}

template <typename OUT> static int run_few(cudaStream_t stream, const struct klinear *l)
{
    unsigned blocks = (unsigned)((l->n + 15) / 16);
    if (blocks > ONE_WAVE && blocks < 3 * ONE_WAVE)
        return launch(few_kernel<2, OUT>, dim3(blocks), W * 32, 0, stream, *l);
    return launch(few_kernel<4, OUT>, dim3(blocks), W * 32, 0, stream, *l);
}

template <typename OUT> static int run(cudaStream_t stream, const struct klinear *l)
{
    if (l->m <= LINEAR_FEW) return run_few<OUT>(stream, l);
    if (l->m <= 16) return run_tile<2, OUT>(stream, l);
    if (l->m <= 32) return run_tile<4, OUT>(stream, l);
    return run_tile<8, OUT>(stream, l);
}

extern "C" int k_linear(cudaStream_t stream, const struct klinear *l)
{
    return l->is_f32 ? run<float>(stream, l) : run<uint16_t>(stream, l);
}
