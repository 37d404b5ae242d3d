/* attn_decode.cu - attention of sequences with one new token: contexts split over blocks of threads.
 *
 * what:     out = softmax(q . K^T * scale) . V over positions lo..pos of the sequence's pages, per head
 * shapes:   q rows bf16 (rotated), pages as in rope_kv.cu; the query heads of one kv head are the rows of a tile
 *           (16; larger groups take several tiles), so K and V are read once a group
 * launch:   128 threads, 2 blocks an SM, persistent: units (item, kv head, head tile) round robin, an item being one
 *           chunk of 256 positions (several where partial memory is short); each warp 64 positions
 * assumes:  page_size a multiple of 16, head_dim 64, 80, 96, 128 or 256, kv_len = pos + 1
 * numerics: scores and sums f32, weights rounded to bf16; the order of merging is attn.cuh's law. The last block to
 *           finish a sequence's tile merges its parts, in order: who it is does not show
 * source:   Dao 2022-23 (FlashAttention, Flash-Decoding); fragments from global memory: own
 * measured: see kernels/README.md
 */
#include "attn.cuh"

enum { WARPS = ATTN_CHUNK / ATTN_BLOCK };

struct unit {
    const struct attn_item *item;
    int index, kv_head, head0, n_rows; /* heads head0.. of the unit */
    int lo, hi;                        /* positions seen */
};

/* 64 positions from base: m, l and values of the tile's rows into shared memory. */
template <int HD>
static __device__ __forceinline__ void decode_block(const struct kattn &a, const struct unit &u, const struct qfrag<HD> &q,
                                                    int base, int lane, float *ml, float *acc_out)
{
    int g = lane / 4, t = lane % 4, size = a.b->page_size;
    const int32_t *pages = a.b->pages + (int64_t)u.item->seq * a.b->pages_stride;
    float s[8][4], m[2], l[2];
    uint32_t p[2][2][4];
    const uint16_t *vbase[2];
    int n_valid[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint4 k[4][(HD + 31) / 32];
        int group = min(base + 32 * h + 8 * (g / 2), u.hi / 8 * 8); /* past the end: any page will do */
        const uint16_t *row = a.k + (((int64_t)pages[group / size] * a.n_kv_heads + u.kv_head) * size + group % size) * HD;
#pragma unroll
        for (int j = 0; j < 4; j++) load_lane<HD>(k[j], row + (2 * j + (g & 1)) * HD, t, true);
#pragma unroll
        for (int j = 0; j < 4; j++) score_tile<HD>(s[4 * h + j], q, k[j]);
        group = base + 32 * h + 8 * t;
        n_valid[h] = u.hi + 1 - group;
        group = min(group, u.hi / 8 * 8);
        vbase[h] = a.v + ((int64_t)pages[group / size] * a.n_kv_heads + u.kv_head) * size * HD + group % size;
    }
    const int lo[2] = {u.lo, u.lo}, hi[2] = {u.hi, u.hi};
    softmax_block(s, base, t, lo, hi, a.scale, m, l, p);
    if (t == 0) {
        ml[2 * g] = m[0], ml[2 * g + 1] = l[0];
        ml[2 * (g + 8)] = m[1], ml[2 * (g + 8) + 1] = l[1];
    }
#pragma unroll
    for (int d = 0; d < HD / 8; d++) {
        float acc[4] = {0, 0, 0, 0};
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint4 v = *(const uint4 *)(vbase[h] + (d * 8 + g) * size);
            if (n_valid[h] < 8) v = clear_tokens(v, n_valid[h]);
            value_tile(acc, p[h], v);
        }
        if (g < u.n_rows) *(float2 *)(acc_out + g * HD + d * 8 + 2 * t) = make_float2(acc[0], acc[1]);
        if (g + 8 < u.n_rows) *(float2 *)(acc_out + (g + 8) * HD + d * 8 + 2 * t) = make_float2(acc[2], acc[3]);
    }
}

template <int HD> struct decode_smem {
    float acc[WARPS][16][HD];
    float total[16][HD];
    float ml[WARPS][16][2]; /* maximum, sum */
    float total_ml[2][16][2]; /* read one, write the other */
    int is_last;
};

/* The four blocks of a chunk, in order, then onto the total. */
template <int HD> static __device__ __forceinline__ void merge_chunk(struct decode_smem<HD> &sm, int n_rows, int turn)
{
    for (int i = threadIdx.x; i < n_rows * HD; i += WARPS * 32) {
        int r = i / HD, d = i % HD;
        float m = -INFINITY, l = 0.0f, x = 0.0f, f, f2;
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            merge_factors(m, sm.ml[w][r][0], f, f2);
            l = merge_value(l, f, sm.ml[w][r][1], f2);
            x = merge_value(x, f, sm.acc[w][r][d], f2);
        }
        float tm = sm.total_ml[turn][r][0], tl = sm.total_ml[turn][r][1];
        merge_factors(tm, m, f, f2);
        sm.total[r][d] = merge_value(sm.total[r][d], f, x, f2);
        if (d == 0) {
            sm.total_ml[turn ^ 1][r][0] = tm;
            sm.total_ml[turn ^ 1][r][1] = merge_value(tl, f, l, f2);
        }
    }
}

/* The parts of a sequence's tile, in order, to the output. */
template <int HD> static __device__ void merge_parts(const struct kattn &a, const struct unit &u)
{
    const struct attn_item *it = u.item;
    int64_t item_stride = (int64_t)a.n_heads * (HD + 2);
    for (int i = threadIdx.x; i < u.n_rows * HD; i += WARPS * 32) {
        int r = i / HD, d = i % HD;
        const float *part = a.partial + it->first * item_stride + (int64_t)(u.head0 + r) * (HD + 2);
        float m = -INFINITY, l = 0.0f, x = 0.0f, f, f2;
        for (int k = 0; k < it->n_parts; k++, part += item_stride) {
            merge_factors(m, __ldcg(part + HD), f, f2);
            l = merge_value(l, f, __ldcg(part + HD + 1), f2);
            x = merge_value(x, f, __ldcg(part + d), f2);
        }
        a.out[(int64_t)it->row * a.out_stride + (u.head0 + r) * HD + d] = f_bf16(x * (1.0f / l));
    }
}

template <int HD>
static __device__ __forceinline__ void finish(const struct kattn &a, const struct unit &u, struct decode_smem<HD> &sm, int turn)
{
    const struct attn_item *it = u.item;
    if (it->n_parts == 1) {
        for (int i = threadIdx.x; i < u.n_rows * HD; i += WARPS * 32) {
            int r = i / HD, d = i % HD;
            a.out[(int64_t)it->row * a.out_stride + (u.head0 + r) * HD + d] =
                f_bf16(sm.total[r][d] * (1.0f / sm.total_ml[turn][r][1]));
        }
        return;
    }
    float *part = a.partial + ((int64_t)u.index * a.n_heads + u.head0) * (HD + 2);
    for (int i = threadIdx.x; i < u.n_rows * (HD + 2); i += WARPS * 32) {
        int r = i / (HD + 2), d = i % (HD + 2);
        __stcg(part + r * (HD + 2) + d, d < HD ? sm.total[r][d] : sm.total_ml[turn][r][d - HD]);
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        int32_t *counter = a.counters + (int64_t)it->first * a.n_heads + u.head0;
        sm.is_last = atomicAdd(counter, 1) == it->n_parts - 1;
        if (sm.is_last) *counter = 0;
    }
    __syncthreads();
    if (!sm.is_last) return;
    __threadfence();
    merge_parts<HD>(a, u);
}

template <int HD> static __global__ void __launch_bounds__(WARPS * 32, 2) decode_kernel(struct kattn a)
{
    extern __shared__ __align__(16) char raw[];
    struct decode_smem<HD> &sm = *(struct decode_smem<HD> *)raw;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int group = a.n_heads / a.n_kv_heads, tiles = (group + 15) / 16;
    pdl_next();
    pdl_wait();
    int n_units = a.b->n_items * a.n_kv_heads * tiles;
    for (int i = blockIdx.x; i < n_units; i += gridDim.x) {
        struct unit u;
        u.index = i / (a.n_kv_heads * tiles);
        u.item = &a.b->items[u.index];
        u.kv_head = i / tiles % a.n_kv_heads;
        u.head0 = u.kv_head * group + i % tiles * 16;
        u.n_rows = min(16, group - i % tiles * 16);
        u.hi = a.b->pos[u.item->row];
        u.lo = first_seen(u.hi, a.window);
        struct qfrag<HD> q;
        const uint16_t *row = a.q + (int64_t)u.item->row * a.q_stride + u.head0 * HD;
        load_lane<HD>(q.a, row + g * HD, t, g < u.n_rows);
        load_lane<HD>(q.b, row + (g + 8) * HD, t, g + 8 < u.n_rows);
        for (int k = threadIdx.x; k < 16 * HD; k += WARPS * 32) sm.total[k / HD][k % HD] = 0.0f;
        if (threadIdx.x < 16) sm.total_ml[0][threadIdx.x][0] = -INFINITY, sm.total_ml[0][threadIdx.x][1] = 0.0f;
        int turn = 0;
        for (int c = u.item->chunk; c < u.item->chunk + u.item->n; c++) {
            int base = c * ATTN_CHUNK + warp * ATTN_BLOCK;
            if ((c + 1) * ATTN_CHUNK <= u.lo) continue;
            if (base <= u.hi && base + ATTN_BLOCK > u.lo) {
                decode_block<HD>(a, u, q, base, lane, &sm.ml[warp][0][0], &sm.acc[warp][0][0]);
            } else if (lane < 16) {
                sm.ml[warp][lane][0] = -INFINITY, sm.ml[warp][lane][1] = 0.0f;
                for (int d = 0; d < HD; d++) sm.acc[warp][lane][d] = 0.0f;
            }
            __syncthreads();
            merge_chunk<HD>(sm, u.n_rows, turn);
            turn ^= 1;
            __syncthreads();
        }
        __syncthreads();
        finish<HD>(a, u, sm, turn);
        __syncthreads();
    }
}

template <int HD> static int run(cudaStream_t stream, const struct kattn *a)
{
    static int n_blocks;
    size_t smem = sizeof(struct decode_smem<HD>);
    if (!n_blocks) {
        int device, n_sms, per_sm;
        cudaError_t code = cudaFuncSetAttribute(decode_kernel<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
        if (code == cudaSuccess) code = cudaGetDevice(&device);
        if (code == cudaSuccess) code = cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, device);
        if (code == cudaSuccess)
            code = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, decode_kernel<HD>, WARPS * 32, smem);
        if (code != cudaSuccess) return (int)code;
        n_blocks = n_sms * (per_sm > 0 ? per_sm : 1);
    }
    struct kattn scaled = *a;
    scaled.scale *= 1.4426950408889634f; /* exp2 takes the place of exp */
    return launch(decode_kernel<HD>, dim3(n_blocks), WARPS * 32, smem, stream, scaled);
}

extern "C" int k_attn_decode(cudaStream_t stream, const struct kattn *a)
{
    switch (a->head_dim) {
    case 64: return run<64>(stream, a);
    case 80: return run<80>(stream, a);
    case 96: return run<96>(stream, a);
    case 128: return run<128>(stream, a);
    case 256: return run<256>(stream, a);
    default: return (int)cudaErrorInvalidValue;
    }
}

extern "C" int k_attn_has(int32_t head_dim)
{
    return head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128 || head_dim == 256;
}
