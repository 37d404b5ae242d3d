/* decode_scores.cuh - decode attention, second of three: scores of a pass, sent to the cluster, and the
 * weights and their sums that all make of them. */
#ifndef KERNELS_DECODE_SCORES_CUH
#define KERNELS_DECODE_SCORES_CUH

#include "decode_unit.cuh"

/* ------------------------------------------------------------------ scores */

/* Four 8 x 8 matrices. The compiler may move it: the address comes from after_wait, and the results
 * are pinned before the slot is released. */
static __device__ __forceinline__ void load_matrices(uint32_t r[4], uint32_t at)
{
    asm("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(at));
}
static __device__ __forceinline__ uint32_t after_wait(const void *p)
{
    uint32_t at = smem_at(p);
    asm volatile("" : "+r"(at)::"memory");
    return at;
}

/* q of 16 rows as the products take it. */
template <int HD>
static __device__ __forceinline__ void load_q(const struct kattn &a, const struct unit &u,
                                              uint32_t q[HD / 16][4])
{
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint16_t *row = a.q + (int64_t)u.item.row * a.q_stride + (u.head0 + g) * HD + 2 * t;
#pragma unroll
    for (int c = 0; c < HD / 16; c++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            q[c][e] = g + e % 2 * 8 < u.n_rows
                          ? *(const uint32_t *)(row + e % 2 * 8 * HD + c * 16 + e / 2 * 8)
                          : 0;
}

/* The warp's 32 positions of the block's scores. */
template <int HD>
static __device__ __forceinline__ void score_tiles(float s[4][4], const uint32_t q[HD / 16][4],
                                                   const char *k)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t at =
        after_wait(k + (warp * 4 + lane / 16) * HD * 16 + lane / 8 % 2 * 128 + lane % 8 * 16);
#pragma unroll
    for (int n = 0; n < 4; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
#pragma unroll
    for (int c = 0; c < HD / 16; c++)
#pragma unroll
        for (int n = 0; n < 4; n += 2) {
            uint32_t b[4];
            load_matrices(b, at + n * HD * 16 + c * 256);
            mma16816(s[n], q[c][0], q[c][1], q[c][2], q[c][3], b[0], b[1]);
            mma16816(s[n + 1], q[c][0], q[c][1], q[c][2], q[c][3], b[2], b[3]);
        }
#pragma unroll
    for (int n = 0; n < 4; n++) pin(*(float(*)[4])s[n]);
}

static __device__ __forceinline__ float *scores_of(const struct layout &lay, int i, int row)
{
    return lay.scores + (i * lay.rows + row) * SCORE_PITCH;
}

/* Here, or in every block of the cluster. */
template <typename V>
static __device__ __forceinline__ void put(const struct layout &lay, const struct decode_smem &sm,
                                           float *at, V v)
{
    if (lay.n == 1)
        *(V *)at = v;
    else
        send_all(at, v, &sm.scores_full, lay.n);
}

/* Raw scores of what is seen of a block, and the warp's maximum, as the pass's rank-th. Of each 32
 * positions, 8 n + 2 t + e lies at 8 t + 2 n + e: a lane's are one run of bytes, here and as weights
 * in the next product. */
static __device__ __forceinline__ void put_scores(float s[4][4], const struct unit &u,
                                                  const struct layout &lay,
                                                  const struct decode_smem &sm, int block)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int first = block * ATTN_BLOCK + warp * 32;
    bool all_seen = first >= u.lo && first + 31 <= u.hi;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (8 * r >= u.n_rows) break;
        float m = -INFINITY;
#pragma unroll
        for (int k = 0; k < 8; k++) {
            int pos = first + k / 2 * 8 + 2 * t + k % 2;
            float &x = s[k / 2][2 * r + k % 2];
            if (!all_seen && (pos < u.lo || pos > u.hi)) x = -INFINITY;
            m = fmaxf(m, x);
        }
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
        if (g + 8 * r >= u.n_rows) continue;
        float *row = scores_of(lay, lay.rank, g + 8 * r), *at = row + warp * 32 + 8 * t;
        put(lay, sm, at, make_float4(s[0][2 * r], s[0][2 * r + 1], s[1][2 * r], s[1][2 * r + 1]));
        put(lay, sm, at + 4,
            make_float4(s[2][2 * r], s[2][2 * r + 1], s[3][2 * r], s[3][2 * r + 1]));
        if (t == 0) put(lay, sm, row + ATTN_BLOCK + warp, m);
    }
}

/* Until the scores of a pass of n blocks from `block` are here; `s`: this block's own. */
static __device__ __forceinline__ void exchange(float s[4][4], const struct unit &u,
                                                const struct layout &lay, struct decode_smem &sm,
                                                int block, int n, uint32_t phase)
{
    if (lay.n == 1) {
        put_scores(s, u, lay, sm, block);
        named_sync(1, WARPS * 32);
        return;
    }
    bar_wait(&sm.scores_free, phase ^ 1);
    if (threadIdx.x == 0) bar_expect(&sm.scores_full, n * u.n_rows * SCORE_PITCH * 4);
    if (lay.rank < n) put_scores(s, u, lay, sm, block + lay.rank);
    bar_wait(&sm.scores_full, phase);
}

/* ------------------------------------------------------------------ weights */

/* Weights of a row's n <= N blocks from `block`; m: the row's maximum so far. One warp. */
template <int N>
static __device__ __forceinline__ void weigh_row(const struct layout &lay, struct decode_smem &sm,
                                                 float scale, int row, int block, int n, float &m)
{
    int lane = threadIdx.x % 32;
    float4 x[N];
    float off[N], before = 0.0f, now = 0.0f; /* lane i: of block i */
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (N > 1 && i >= n) break;
        const float4 *at = (const float4 *)scores_of(lay, i, row);
        float4 w = at[ATTN_BLOCK / 4];
        x[i] = at[lane];
        if ((block + i) % BLOCKS == 0) m = -INFINITY;
        if (lane == i) before = m;
        m = fmaxf(m, __fmul_rn(fmaxf(fmaxf(w.x, w.y), fmaxf(w.z, w.w)), scale));
        if (lane == i) now = m;
        off[i] = -finite_max(m);
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (N > 1 && i >= n) break;
        x[i].x = fast_exp2(__fmaf_rn(x[i].x, scale, off[i]));
        x[i].y = fast_exp2(__fmaf_rn(x[i].y, scale, off[i]));
        x[i].z = fast_exp2(__fmaf_rn(x[i].z, scale, off[i]));
        x[i].w = fast_exp2(__fmaf_rn(x[i].w, scale, off[i]));
        ((float4 *)scores_of(lay, i, row))[lane] = x[i];
        *(uint2 *)(lay.weights + row * lay.weight_pitch + i * ATTN_BLOCK + lane * 4) =
            make_uint2(pack_bf16(x[i].x, x[i].y), pack_bf16(x[i].z, x[i].w));
    }
    if (lane < n) {
        sm.factor[lane][row] = fast_exp2(before - finite_max(now));
        sm.max[lane][row] = now;
    }
}

static __device__ __forceinline__ void weigh_rows(const struct unit &u, const struct layout &lay,
                                                  struct decode_smem &sm, float scale, int block,
                                                  int n, float m[4])
{
    int warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int row = warp + 4 * i;
        if (row >= u.n_rows) break;
        if (lay.n == 1)
            weigh_row<1>(lay, sm, scale, row, block, n, m[i]);
        else
            weigh_row<CLUSTER_MAX>(lay, sm, scale, row, block, n, m[i]);
    }
}

/* A chunk's answers, of one item among several of the sequence, for a later merge. */
static __device__ __forceinline__ float *part_of(const struct kattn &a, const struct unit &u,
                                                 int chunk, int row)
{
    return a.partial +
           ((int64_t)(u.item.first + chunk) * a.n_heads + u.head0 + row) * (a.head_dim + 2);
}

/* Sums of weights: lane 8 i + c has row sums_row() and positions c modulo 8. The last warps take the
 * first rows: where a cluster leaves few values to a block, those warps have none. */
struct sums {
    float l, tm, tl; /* of the chunk; of the chunks before */
};

static __device__ __forceinline__ int sums_row()
{
    return (WARPS - 1 - threadIdx.x / 32) * 4 + threadIdx.x % 32 / 8;
}

static __device__ __forceinline__ void end_chunk_sums(const struct kattn &a, const struct unit &u,
                                                      struct sums &s, float m, int chunk)
{
    int lane = threadIdx.x % 32, row = sums_row();
    float l = s.l, f, f2;
    l += __shfl_xor_sync(~0u, l, 1);
    l += __shfl_xor_sync(~0u, l, 2);
    l += __shfl_xor_sync(~0u, l, 4);
    s.l = 0.0f;
    if (u.item.n_parts > 1) {
        float *part = part_of(a, u, chunk, row) + a.head_dim;
        if (row < u.n_rows && lane % 8 == 0) __stcg(part, m), __stcg(part + 1, l);
        return;
    }
    merge_factors(s.tm, m, f, f2);
    s.tl = merge_value(s.tl, f, l, f2);
}

static __device__ __forceinline__ void sum_weights(const struct kattn &a, const struct unit &u,
                                                   const struct layout &lay,
                                                   const struct decode_smem &sm, struct sums &s,
                                                   int block, int n)
{
    int lane = threadIdx.x % 32, row = min(sums_row(), lay.rows - 1);
    if ((WARPS - 1 - threadIdx.x / 32) * 4 >= u.n_rows) return;
    for (int i = 0; i < n; i++) {
        const float *at = scores_of(lay, i, row) + lane % 8 / 2 * 8 + lane % 2;
        s.l = __fmul_rn(s.l, sm.factor[i][row]);
        float x[ATTN_BLOCK / 8];
#pragma unroll
        for (int j = 0; j < ATTN_BLOCK / 8; j++) x[j] = at[j / 4 * 32 + j % 4 * 2];
#pragma unroll
        for (int j = 0; j < ATTN_BLOCK / 8; j++) s.l = __fadd_rn(s.l, x[j]);
        if ((block + i + 1) % BLOCKS == 0 || block + i == u.last)
            end_chunk_sums(a, u, s, sm.max[i][row], (block + i) / BLOCKS);
    }
}

#endif
