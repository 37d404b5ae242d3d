/* attn_prefill.cu - attention of sequences with several new tokens: FlashAttention-2 class,
 * paged, causal.
 *
 * what:     out = softmax(q . K^T * scale) . V over positions lo..pos of the sequence's pages,
 *           per row
 * shapes:   as attn_decode.cu; a tile is 128 (token, head) pairs of one sequence and kv head, row
 *           r being token r / group and head r % group: each K and V byte that reaches shared
 *           memory serves the whole group
 * launch:   8 warps of 16 rows; grid (tiles, kv heads), longest contexts first; K and V of 64
 *           positions double-buffered by cp.async; running totals of chunks in shared memory, a
 *           thread's own elements
 * assumes:  page_size a multiple of 16, query heads a kv head <= 128; head_dim 256 takes half the
 *           rows a warp slot offers in registers, so there both sums live in shared memory and V
 *           is not double-buffered
 * numerics: attn.cuh's law: bit for bit what attn_decode.cu makes of the same row
 * source:   Dao 2023 (FlashAttention-2)
 * measured: see kernels/README.md
 */
#include "attn.cuh"

/* Head size 256: half the warps and single buffers, so that all fits in shared memory. */
template <int HD> struct shape {
    static constexpr int warps = HD > 128 ? 4 : 8, stages = HD > 128 ? 1 : 2;
    static constexpr int k_pitch =
        HD * 2 % 128 == 64 ? HD * 2 : HD * 2 + (192 - HD * 2 % 128) % 128;
    static constexpr int v_pitch =
        ATTN_BLOCK * 2 + 64;             /* pitches are 64 modulo 128: no bank conflicts */
    static constexpr int tiles = HD / 8; /* accumulator tiles of 8 dims */
    static constexpr bool sum_in_smem = HD > 128;
    static constexpr size_t k_bytes = (size_t)ATTN_BLOCK * k_pitch, v_bytes = (size_t)HD * v_pitch;
    static constexpr size_t sum_bytes = (size_t)warps * 32 * tiles * 4 * 4;
    static constexpr size_t smem = stages * (k_bytes + v_bytes) + (sum_in_smem ? 2 : 1) * sum_bytes;
};

struct tile_state {
    const struct attn_tile *tile;
    const int32_t *pages;
    int kv_head, group, pos0, end; /* first row's position; positions readable */
};

template <int HD>
static __device__ __forceinline__ void stage_kv(const struct kattn &a, const struct tile_state &s,
                                                char *k, char *v, int base)
{
    enum { K_UNITS = HD / 8, V_UNITS = ATTN_BLOCK / 8 };
    int size = a.b->page_size, n = shape<HD>::warps * 32;
    for (int i = threadIdx.x; i < ATTN_BLOCK * K_UNITS; i += n) {
        int pos = base + i / K_UNITS, c = i % K_UNITS;
        bool is_in = pos < s.end;
        int64_t page = is_in ? s.pages[pos / size] : 0;
        cp_async16(k + i / K_UNITS * shape<HD>::k_pitch + c * 16,
                   a.k + ((page * a.n_kv_heads + s.kv_head) * size + pos % size) * HD + c * 8,
                   is_in);
    }
    for (int i = threadIdx.x; i < HD * V_UNITS; i += n) {
        int d = i % HD, pos = base + i / HD * 8;
        bool is_in = pos < s.end;
        int64_t page = is_in ? s.pages[pos / size] : 0;
        cp_async16(v + d * shape<HD>::v_pitch + i / HD * 16,
                   a.v + ((page * a.n_kv_heads + s.kv_head) * size + pos % size / 16 * 16) * HD +
                       d * 16 + pos % 16,
                   is_in);
    }
    cp_async_commit();
}

/* What lies past the last position in its group of 8 tokens becomes zero. */
template <int HD> static __device__ void clear_tail(char *v, int n_valid)
{
    int group = n_valid / 8;
    for (int d = threadIdx.x; d < HD; d += shape<HD>::warps * 32) {
        uint4 *at = (uint4 *)(v + d * shape<HD>::v_pitch + group * 16);
        *at = clear_tokens(*at, n_valid % 8);
    }
}

template <int HD>
static __device__ __forceinline__ void
prefill_block(const struct qfrag<HD> &q, const char *k, const char *v, int base, const int lo[2],
              const int hi[2], float scale, float m[2], float l[2], uint32_t p[2][2][4])
{
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float s[8][4];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const char *row = k + (32 * h + 8 * (g / 2) + (g & 1)) * shape<HD>::k_pitch;
        score_tiles<HD>(s + 4 * h, q, (const uint16_t *)row, shape<HD>::k_pitch / 2, t);
    }
    softmax_block(s, base, t, lo, hi, scale, m, l, p);
}

/* N tiles of 8 dims of a block's values. */
template <int HD, int N>
static __device__ __forceinline__ void block_values(float acc[N][4], const char *v, int d,
                                                    const uint32_t p[2][2][4])
{
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint4 x[N][2];
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            x[n][h] =
                *(const uint4 *)(v + ((d + n) * 8 + g) * shape<HD>::v_pitch + h * 64 + t * 16);
    value_tiles<N>(acc, p, x);
}

/* tidy: long function: one kernel; its stages share registers and barriers */
template <int HD>
static __global__ void __launch_bounds__(shape<HD>::warps * 32, 1) prefill_kernel(struct kattn a)
{
    using S = shape<HD>;
    extern __shared__ __align__(128) char smem[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float *total =
        (float *)(smem + S::stages * (S::k_bytes + S::v_bytes)) + warp * 32 * S::tiles * 4 + lane;
    float *chunk_smem = total + S::sum_bytes / 4;
    pdl_next();
    pdl_wait();
    if ((int)blockIdx.x >= a.b->n_tiles) return;
    struct tile_state st;
    st.tile = &a.b->tiles[blockIdx.x];
    st.pages = a.b->pages + (int64_t)st.tile->seq * a.b->pages_stride;
    st.kv_head = blockIdx.y;
    st.group = a.n_heads / a.n_kv_heads;
    st.pos0 = a.b->pos[st.tile->row];
    st.end = st.pos0 + st.tile->n_rows;
    /* The lane's rows g and g + 8 of the warp's 16. */
    struct qfrag<HD> q;
    int lo[2], hi[2], out_at[2], warp_hi = -1, warp_lo = st.end;
    bool is_row[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = warp * 16 + g + 8 * r, token = row / st.group,
            head = st.kv_head * st.group + row % st.group;
        is_row[r] = token < st.tile->n_rows;
        hi[r] = is_row[r] ? st.pos0 + token : -1;
        lo[r] = is_row[r] ? first_seen(hi[r], a.window) : st.end;
        int64_t at = (int64_t)(st.tile->row + token) * a.q_stride + head * HD;
        load_lane<HD>(r ? q.b : q.a, a.q + (is_row[r] ? at : 0), t, is_row[r]);
        out_at[r] = (st.tile->row + token) * a.out_stride + head * HD;
        warp_hi = max(warp_hi, __reduce_max_sync(~0u, hi[r]));
        warp_lo = min(warp_lo, __reduce_min_sync(~0u, lo[r]));
    }
    float chunk[S::sum_in_smem ? 1 : S::tiles][4], cm[2] = {-INFINITY, -INFINITY}, cl[2] = {0, 0};
    float tm[2] = {-INFINITY, -INFINITY}, tl[2] = {0, 0};
#pragma unroll
    for (int d = 0; d < S::tiles; d++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            total[(d * 4 + e) * 32] = 0.0f;
            if (S::sum_in_smem)
                chunk_smem[(d * 4 + e) * 32] = 0.0f;
            else
                chunk[S::sum_in_smem ? 0 : d][e] = 0.0f;
        }
    int first = first_seen(st.pos0, a.window) / ATTN_BLOCK, last = (st.end - 1) / ATTN_BLOCK;
    stage_kv<HD>(a, st, smem, smem + S::stages * S::k_bytes, first * ATTN_BLOCK);
    for (int b = first; b <= last; b++) {
        int stage = S::stages > 1 ? (b - first) & 1 : 0, base = b * ATTN_BLOCK;
        char *k = smem + stage * S::k_bytes,
             *v = smem + S::stages * S::k_bytes + stage * S::v_bytes;
        cp_async_wait<0>();
        __syncthreads();
        if (S::stages > 1 && b < last)
            stage_kv<HD>(a, st, smem + (stage ^ 1) * S::k_bytes,
                         smem + S::stages * S::k_bytes + (stage ^ 1) * S::v_bytes,
                         base + ATTN_BLOCK);
        if (b == last && st.end % 8) {
            clear_tail<HD>(v, st.end - base);
            __syncthreads();
        }
        if (base <= warp_hi && base + ATTN_BLOCK > warp_lo) {
            float m[2], l[2], f[2], f2[2];
            uint32_t p[2][2][4];
            prefill_block<HD>(q, k, v, base, lo, hi, a.scale, m, l, p);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                merge_factors(cm[r], m[r], f[r], f2[r]);
                cl[r] = merge_value(cl[r], f[r], l[r], f2[r]);
            }
            enum { N = value_group<HD> };
#pragma unroll
            for (int d = 0; d < S::tiles; d += N) {
                float acc[N][4];
                block_values<HD, N>(acc, v, d, p);
#pragma unroll
                for (int i = 0; i < N * 4; i++) {
                    int n = i / 4, e = i % 4;
                    float *at = S::sum_in_smem ? &chunk_smem[((d + n) * 4 + e) * 32]
                                               : &chunk[S::sum_in_smem ? 0 : d + n][e];
                    *at = merge_value(*at, f[e / 2], acc[n][e], f2[e / 2]);
                }
            }
        }
        if (b == last || (b + 1) % (ATTN_CHUNK / ATTN_BLOCK) == 0) { /* the chunk joins the total */
            float f[2], f2[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                merge_factors(tm[r], cm[r], f[r], f2[r]);
                tl[r] = merge_value(tl[r], f[r], cl[r], f2[r]);
                cm[r] = -INFINITY;
                cl[r] = 0.0f;
            }
#pragma unroll
            for (int d = 0; d < S::tiles; d++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    float *at = S::sum_in_smem ? &chunk_smem[(d * 4 + e) * 32]
                                               : &chunk[S::sum_in_smem ? 0 : d][e];
                    float &sum = total[(d * 4 + e) * 32];
                    sum = merge_value(sum, f[e / 2], *at, f2[e / 2]);
                    *at = 0.0f;
                }
        }
        if (S::stages == 1 && b < last) {
            __syncthreads();
            stage_kv<HD>(a, st, smem, smem + S::k_bytes, base + ATTN_BLOCK);
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (!is_row[r]) continue;
        float scale = 1.0f / tl[r];
#pragma unroll
        for (int d = 0; d < S::tiles; d++) {
            float x = total[(d * 4 + 2 * r) * 32] * scale,
                  y = total[(d * 4 + 2 * r + 1) * 32] * scale;
            *(uint32_t *)(a.out + out_at[r] + d * 8 + 2 * t) = pack_bf16(x, y);
        }
    }
}

template <int HD> static int run(cudaStream_t stream, const struct kattn *a, int n_tiles)
{
    static int is_set;
    if (!is_set) {
        cudaError_t code = cudaFuncSetAttribute(
            prefill_kernel<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shape<HD>::smem);
        if (code != cudaSuccess) return (int)code;
        is_set = 1;
    }
    struct kattn scaled = *a;
    scaled.scale *= 1.4426950408889634f;
    return launch(prefill_kernel<HD>, dim3(n_tiles, a->n_kv_heads), shape<HD>::warps * 32,
                  shape<HD>::smem, stream, scaled);
}

extern "C" int k_attn_prefill(cudaStream_t stream, const struct kattn *a, int32_t n_tiles)
{
    switch (a->head_dim) {
    case 64:
        return run<64>(stream, a, n_tiles);
    case 80:
        return run<80>(stream, a, n_tiles);
    case 96:
        return run<96>(stream, a, n_tiles);
    case 128:
        return run<128>(stream, a, n_tiles);
    case 256:
        return run<256>(stream, a, n_tiles);
    default:
        return (int)cudaErrorInvalidValue;
    }
}

extern "C" int k_attn_tile_rows(int32_t n_heads, int32_t n_kv_heads, int32_t head_dim)
{
    int rows = head_dim > 128 ? shape<256>::warps * 16 : PREFILL_ROWS;
    return rows / (n_heads / n_kv_heads);
}
