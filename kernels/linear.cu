/* linear.cu - y = x . w^T + bias for few rows: the weights stream through once, at the speed of memory.
 *
 * what:     y[m][n] = sum over k of x[m][k] w[n][k], + bias[n]
 * shapes:   w [n, k] bf16 row-major, x [m, k] bf16, y [m, n] bf16 or f32
 * launch:   m <= 8: a block of 8 warps for 16 rows of w, warp s taking slice s of k.
 *           m > 8: a cluster of 8 blocks for 128 rows, block s taking slice s, 8 warps of 16 rows and up to 64 rows
 *           of x through shared memory; sums meet in distributed shared memory. More rows of x: grid.z.
 * assumes:  k a multiple of 8; rows 16-byte aligned
 * numerics: bf16 products, f32 sums by mma.m16n8k16 in ascending k (within 32 columns in one fixed permutation,
 *           which lets a lane load 16 consecutive bytes), k cut into 8 slices by its length alone, slices added in
 *           order: an element's bits do not depend on m, on its place in the batch, or on which kernel ran
 * source:   own; the cluster reduction stands where split-k kernels use a workspace
 * measured: see kernels/README.md
 */
#include <cooperative_groups.h>

#include "common.cuh"

namespace cg = cooperative_groups;

enum { WARPS = 8, STEP = 128, PIECES = STEP / 32, TILE_ROWS = 128, X_PITCH = STEP * 2 + 64, X_STAGES = 3 };

static __host__ __device__ __forceinline__ int slice_length(int64_t k)
{
    return (int)((k + LINEAR_SLICES * 64 - 1) / (LINEAR_SLICES * 64)) * 64;
}

/* A warp's 16 rows of w, 128 columns: lane (g, t) holds columns 8t..8t+7 of every 32, rows g and g + 8. */
struct wfrag {
    uint4 a[PIECES], b[PIECES];
};

static __device__ __forceinline__ void load_w(struct wfrag &f, const uint16_t *ra, const uint16_t *rb, int k, int end)
{
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
        bool is_in = k + 32 * i < end;
        f.a[i] = is_in ? load_stream(ra + k + 32 * i) : make_uint4(0, 0, 0, 0);
        f.b[i] = is_in ? load_stream(rb + k + 32 * i) : make_uint4(0, 0, 0, 0);
    }
}

static __device__ __forceinline__ void mma_piece(float c[4], const uint4 &a, const uint4 &b, const uint4 &x)
{
    mma16816(c, a.x, b.x, a.y, b.y, x.x, x.y);
    mma16816(c, a.z, b.z, a.w, b.w, x.z, x.w);
}

template <typename OUT> static __device__ __forceinline__ void store_y(OUT *y, float v);
template <> __device__ __forceinline__ void store_y(uint16_t *y, float v) { *y = f_bf16(v); }
template <> __device__ __forceinline__ void store_y(float *y, float v) { *y = v; }

template <typename OUT>
static __global__ void __launch_bounds__(WARPS * 32, 2) few_kernel(struct klinear l)
{
    __shared__ float part[WARPS][8][17];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int64_t row0 = (int64_t)blockIdx.x * 16, last = l.n - 1;
    int len = slice_length(l.k), k = warp * len, end = min((int)l.k, k + len);
    const uint16_t *ra = l.w + min(row0 + g, last) * l.k + 8 * t, *rb = l.w + min(row0 + g + 8, last) * l.k + 8 * t;
    const uint16_t *rx = l.x + (int64_t)g * l.k + 8 * t;
    int wend = end - 8 * t; /* this lane's columns start 8t later */
    struct wfrag w, next;
    uint4 x[PIECES], xnext[PIECES];
    float c[4] = {0, 0, 0, 0};
    load_w(w, ra, rb, k, wend);
    pdl_next();
    pdl_wait();
    int xend = g < l.m ? wend : 0;
#pragma unroll
    for (int i = 0; i < PIECES; i++)
        x[i] = k + 32 * i < xend ? *(const uint4 *)(rx + k + 32 * i) : make_uint4(0, 0, 0, 0);
    for (; k < end; k += STEP) {
        load_w(next, ra, rb, k + STEP, wend);
#pragma unroll
        for (int i = 0; i < PIECES; i++)
            xnext[i] = k + STEP + 32 * i < xend ? *(const uint4 *)(rx + k + STEP + 32 * i) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < PIECES; i++) mma_piece(c, w.a[i], w.b[i], x[i]);
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

template <int NT> static __device__ __forceinline__ void stage_x(char *to, const struct klinear &l, int m0, int k, int end)
{
    enum { PER_ROW = STEP / 8 };
    for (int i = threadIdx.x; i < NT * 8 * PER_ROW; i += WARPS * 32) {
        int m = i / PER_ROW, c = i % PER_ROW * 8;
        bool is_in = m0 + m < l.m && k + c < end;
        cp_async16(to + m * X_PITCH + c * 2, is_in ? l.x + (int64_t)(m0 + m) * l.k + k + c : l.x, is_in);
    }
    cp_async_commit();
}

enum { RED_PITCH = TILE_ROWS + 4 };
template <int NT> static constexpr size_t tile_smem()
{
    size_t stages = (size_t)X_STAGES * NT * 8 * X_PITCH, red = (size_t)NT * 8 * RED_PITCH * 4;
    return stages > red ? stages : red;
}

template <int NT, typename OUT>
static __global__ void __cluster_dims__(LINEAR_SLICES, 1, 1) __launch_bounds__(WARPS * 32, NT > 4 ? 1 : 2)
    tile_kernel(struct klinear l)
{
    extern __shared__ __align__(128) char smem[];
    cg::cluster_group cluster = cg::this_cluster();
    int slice = (int)cluster.block_rank(), warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int64_t tile0 = (int64_t)(blockIdx.x / LINEAR_SLICES) * TILE_ROWS, row0 = tile0 + warp * 16, last = l.n - 1;
    int m0 = blockIdx.z * NT * 8, len = slice_length(l.k), k = slice * len, end = min((int)l.k, k + len);
    const uint16_t *ra = l.w + min(row0 + g, last) * l.k + 8 * t, *rb = l.w + min(row0 + g + 8, last) * l.k + 8 * t;
    int wend = end - 8 * t;
    struct wfrag w, next;
    float c[NT][4] = {};
    load_w(w, ra, rb, k, wend);
    pdl_next();
    pdl_wait();
    for (int s = 0; s < X_STAGES - 1; s++) stage_x<NT>(smem + s * NT * 8 * X_PITCH, l, m0, k + s * STEP, end);
    for (int stage = 0; k < end; k += STEP, stage = (stage + 1) % X_STAGES) {
        load_w(next, ra, rb, k + STEP, wend);
        cp_async_wait<X_STAGES - 2>();
        __syncthreads();
        stage_x<NT>(smem + (stage + X_STAGES - 1) % X_STAGES * NT * 8 * X_PITCH, l, m0, k + (X_STAGES - 1) * STEP, end);
        const char *xs = smem + stage * NT * 8 * X_PITCH + g * X_PITCH + t * 16;
#pragma unroll
        for (int i = 0; i < PIECES; i++)
#pragma unroll
            for (int n = 0; n < NT; n++)
                mma_piece(c[n], w.a[i], w.b[i], *(const uint4 *)(xs + n * 8 * X_PITCH + i * 64));
        w = next;
    }
    cp_async_wait<0>();
    __syncthreads();
    float *red = (float *)smem;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float *at = red + (n * 8 + 2 * t) * RED_PITCH + warp * 16 + g;
        at[0] = c[n][0];
        at[RED_PITCH] = c[n][1];
        at[8] = c[n][2];
        at[RED_PITCH + 8] = c[n][3];
    }
    cluster.sync();
    for (int i = threadIdx.x; i < NT * 8 * 16; i += WARPS * 32) {
        int m = i / 16, r = slice * 16 + i % 16;
        if (m0 + m >= l.m || tile0 + r > last) continue;
        float sum = 0.0f;
#pragma unroll
        for (int s = 0; s < LINEAR_SLICES; s++) {
            float v = cluster.map_shared_rank(red, s)[m * RED_PITCH + r];
            sum = s ? sum + v : v;
        }
        if (l.bias) sum += l.bias[tile0 + r];
        store_y((OUT *)l.y + (m0 + m) * l.y_stride + tile0 + r, sum);
    }
    cluster.sync(); /* nobody leaves while its sums are read */
}

template <int NT, typename OUT> static int run_tile(cudaStream_t stream, const struct klinear *l)
{
    static int is_set;
    if (!is_set) {
        cudaError_t code = cudaFuncSetAttribute(tile_kernel<NT, OUT>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                (int)tile_smem<NT>());
        if (code != cudaSuccess) return (int)code;
        is_set = 1;
    }
    dim3 grid((unsigned)((l->n + TILE_ROWS - 1) / TILE_ROWS) * LINEAR_SLICES, 1, (unsigned)(l->m + NT * 8 - 1) / (NT * 8));
    return launch(tile_kernel<NT, OUT>, grid, WARPS * 32, tile_smem<NT>(), stream, *l);
}

template <typename OUT> static int run(cudaStream_t stream, const struct klinear *l)
{
    if (l->m <= LINEAR_FEW)
        return launch(few_kernel<OUT>, dim3((unsigned)((l->n + 15) / 16)), WARPS * 32, 0, stream, *l);
    if (l->m <= 16) return run_tile<2, OUT>(stream, l);
    if (l->m <= 32) return run_tile<4, OUT>(stream, l);
    return run_tile<8, OUT>(stream, l);
}

extern "C" int k_linear(cudaStream_t stream, const struct klinear *l)
{
    return l->is_f32 ? run<float>(stream, l) : run<uint16_t>(stream, l);
}
