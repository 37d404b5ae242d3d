/* attn_decode.cu - attention of sequences with one new token: contexts split over blocks of
 * threads.
 *
 * what:     out = softmax(q . K^T * scale) . V over positions lo..pos of the sequence's pages,
 *           per head
 * shapes:   q rows bf16 (rotated), pages as in rope_kv.cu; the query heads of one kv head are the
 *           rows of a tile (16; larger groups take several tiles), so K and V are read once a
 *           group
 * launch:   128 threads, as many blocks as fit, persistent: units (item, kv head, head tile)
 *           round robin, an item being a run of chunks of 256 positions; each warp 64 of them.
 *           Head sizes up to 128: a warp's K and V arrive in shared memory by bulk copies of 16
 *           positions, the next block's copies being issued as soon as a buffer has been read;
 *           256: straight from global memory
 * assumes:  page_size a multiple of 16, head_dim 64, 80, 96, 128 or 256, kv_len = pos + 1
 * numerics: scores and sums f32, weights rounded to bf16; the order of merging is attn.cuh's law.
 *           The last block to finish a sequence's tile merges its parts, in order: who it is does
 *           not show
 * source:   Dao 2022-23 (FlashAttention, Flash-Decoding); the fragments' order: own
 * measured: see kernels/README.md
 */
#include "attn.cuh"

enum { WARPS = ATTN_CHUNK / ATTN_BLOCK, GROUP = 16, GROUPS = ATTN_BLOCK / GROUP };

struct unit {
    const struct attn_item *item;
    int index, seq, row, kv_head, head0, n_rows; /* heads head0.. of the unit */
    int lo, hi;                                  /* positions seen */
    int chunk, end;                              /* at hand, and where the unit's chunks end */
};

template <int HD> static constexpr bool is_staged = HD <= 128;

template <int HD> struct decode_smem {
    uint16_t k[is_staged<HD> ? WARPS : 0][ATTN_BLOCK * HD],
        v[is_staged<HD> ? WARPS : 0][ATTN_BLOCK * HD];
    float acc[WARPS][16][HD];
    float total[16][HD];
    float ml[WARPS][16][2];   /* maximum, sum */
    float total_ml[2][16][2]; /* read one, write the other */
    uint64_t bar[WARPS][2];   /* of k and v */
    int is_last;
};

/* ------------------------------------------------------------------ units and their blocks */

static __device__ __forceinline__ bool find_unit(const struct kattn &a, int i, int n_units,
                                                 int tiles, struct unit &u)
{
    if (i >= n_units) return false;
    int group = a.n_heads / a.n_kv_heads;
    u.index = i / (a.n_kv_heads * tiles);
    u.item = &a.b->items[u.index];
    u.seq = u.item->seq;
    u.row = u.item->row;
    u.chunk = u.item->chunk;
    u.end = u.chunk + u.item->n;
    u.kv_head = i / tiles % a.n_kv_heads;
    u.head0 = u.kv_head * group + i % tiles * 16;
    u.n_rows = min(16, group - i % tiles * 16);
    u.hi = a.b->pos[u.row];
    u.lo = first_seen(u.hi, a.window);
    return true;
}

/* Does this warp have anything to do in the unit's chunk? */
static __device__ __forceinline__ bool is_active(const struct unit &u, int warp)
{
    int base = u.chunk * ATTN_CHUNK + warp * ATTN_BLOCK;
    return base <= u.hi && base + ATTN_BLOCK > u.lo;
}

/* Element offset of 16 positions from `pos` in k and v alike. */
static __device__ __forceinline__ int64_t group_at(const struct kattn &a, const struct unit &u,
                                                   int pos, int head_dim)
{
    int size = a.b->page_size;
    int64_t page = a.b->pages[(int64_t)u.seq * a.b->pages_stride + pos / size];
    return ((page * a.n_kv_heads + u.kv_head) * size + pos % size) * head_dim;
}

/* ------------------------------------------------------------------ bulk copies */

static __device__ __forceinline__ uint32_t smem_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void bar_wait(uint64_t *bar, uint32_t phase)
{
    asm volatile("{\n.reg .pred done;\nagain:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n}" ::"r"(smem_at(bar)),
                 "r"(phase)
                 : "memory");
}

/* The warp's block of the unit's chunk, k or v, to shared memory: what is not beyond the last
 * position. */
template <int HD>
static __device__ __forceinline__ void fetch(const struct kattn &a, const struct unit &u,
                                             const uint16_t *pages, uint16_t *to, uint64_t *bar,
                                             int warp, int lane)
{
    int base = u.chunk * ATTN_CHUNK + warp * ATTN_BLOCK,
        n = min((int)GROUPS, (u.hi - base) / GROUP + 1);
    if (lane == 0)
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_at(bar)),
                     "r"(n * GROUP * HD * 2)
                     : "memory");
    __syncwarp();
    if (lane < n)
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
                     "[%1], %2, [%3];" ::"r"(smem_at(to + lane * GROUP * HD)),
                     "l"(pages + group_at(a, u, base + lane * GROUP, HD)), "r"(GROUP * HD * 2),
                     "r"(smem_at(bar))
                     : "memory");
}

/* ------------------------------------------------------------------ a block */

/* Where the block's groups of 16 positions lie: in shared memory, or each on its page. */
template <int HD>
static __device__ __forceinline__ const uint16_t *
group_of(const struct kattn &a, const struct unit &u, const uint16_t *staged, const uint16_t *pages,
         int base, int group)
{
    if (is_staged<HD>) return staged + group * GROUP * HD;
    return pages + group_at(a, u, min(base + group * GROUP, u.hi / GROUP * GROUP), HD);
}

template <int HD>
static __device__ __forceinline__ void
block_scores(const struct kattn &a, const struct unit &u, const struct qfrag<HD> &q,
             const uint16_t *staged, int base, int lane, float s[8][4])
{
    int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint16_t *row =
            group_of<HD>(a, u, staged, a.k, base, 2 * h + g / 4) + (g / 2 % 2 * 8 + (g & 1)) * HD;
        score_tiles<HD>(s + 4 * h, q, row, HD, t);
    }
}

template <int HD>
static __device__ __forceinline__ void block_values(const struct kattn &a, const struct unit &u,
                                                    const uint16_t *staged, int base, int lane,
                                                    const uint32_t p[2][2][4], float *acc_out)
{
    int g = lane / 4, t = lane % 4;
    const uint16_t *v[2];
    int n_valid[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        v[h] = group_of<HD>(a, u, staged, a.v, base, 2 * h + t / 2) + t % 2 * 8 + g * GROUP;
        n_valid[h] = u.hi + 1 - (base + 32 * h + 8 * t);
    }
    enum { N = value_group<HD> };
#pragma unroll
    for (int d = 0; d < HD / 8; d += N) {
        float acc[N][4];
        uint4 x[N][2];
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                x[n][h] = *(const uint4 *)(v[h] + (d + n) * 8 * GROUP);
                if (n_valid[h] < 8) x[n][h] = clear_tokens(x[n][h], n_valid[h]);
            }
        value_tiles<N>(acc, p, x);
#pragma unroll
        for (int n = 0; n < N; n++) {
            float *to = acc_out + (d + n) * 8 + 2 * t;
            if (g < u.n_rows) *(float2 *)(to + g * HD) = make_float2(acc[n][0], acc[n][1]);
            if (g + 8 < u.n_rows)
                *(float2 *)(to + (g + 8) * HD) = make_float2(acc[n][2], acc[n][3]);
        }
    }
}

/* ------------------------------------------------------------------ merging */

/* The four blocks of a chunk, in order; then to `part`, or onto the total. */
template <int HD>
static __device__ __forceinline__ void merge_chunk(struct decode_smem<HD> &sm, int n_rows, int turn,
                                                   float *part)
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
        if (part) { /* chunks of other items join these: each is kept apart */
            float *at = part + r * (HD + 2);
            __stcg(at + d, x);
            if (d == 0) __stcg(at + HD, m), __stcg(at + HD + 1, l);
            continue;
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
    int first = u.lo / ATTN_CHUNK,
        n = it->n_chunks - first; /* what lies below the window was not written */
    for (int i = threadIdx.x; i < u.n_rows * HD; i += WARPS * 32) {
        int r = i / HD, d = i % HD;
        const float *part =
            a.partial + (it->first + first) * item_stride + (int64_t)(u.head0 + r) * (HD + 2);
        float m = -INFINITY, l = 0.0f, x = 0.0f, f, f2;
        for (int k = 0; k < n; k += 8) { /* loads first: each is a trip to L2 */
            float m2[8], l2[8], x2[8];
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const float *from = part + min(k + j, n - 1) * item_stride;
                m2[j] = __ldcg(from + HD), l2[j] = __ldcg(from + HD + 1), x2[j] = __ldcg(from + d);
            }
#pragma unroll
            for (int j = 0; j < 8; j++) {
                if (k + j >= n) break;
                merge_factors(m, m2[j], f, f2);
                l = merge_value(l, f, l2[j], f2);
                x = merge_value(x, f, x2[j], f2);
            }
        }
        a.out[(int64_t)u.row * a.out_stride + (u.head0 + r) * HD + d] = f_bf16(x * (1.0f / l));
    }
}

template <int HD>
static __device__ __forceinline__ void finish(const struct kattn &a, const struct unit &u,
                                              struct decode_smem<HD> &sm, int turn)
{
    const struct attn_item *it = u.item;
    if (it->n_parts == 1) {
        for (int i = threadIdx.x; i < u.n_rows * HD; i += WARPS * 32) {
            int r = i / HD, d = i % HD;
            a.out[(int64_t)u.row * a.out_stride + (u.head0 + r) * HD + d] =
                f_bf16(sm.total[r][d] * (1.0f / sm.total_ml[turn][r][1]));
        }
        return;
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

/* tidy: long function: one kernel; its stages share registers and barriers */
template <int HD>
static __global__ void __launch_bounds__(WARPS * 32, 1) decode_kernel(struct kattn a)
{
    extern __shared__ __align__(128) char raw[];
    struct decode_smem<HD> &sm = *(struct decode_smem<HD> *)raw;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int tiles = (a.n_heads / a.n_kv_heads + 15) / 16, i = blockIdx.x;
    uint16_t *ks = sm.k[is_staged<HD> ? warp : 0], *vs = sm.v[is_staged<HD> ? warp : 0];
    uint32_t phase = 0;
    struct unit u, next;
    if (lane < 2)
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(smem_at(&sm.bar[warp][lane]))
                     : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    __syncwarp();
    pdl_next();
    /* The batch was there before the step began, and all positions but the newest before it too. */
    int n_units = a.b->n_items * a.n_kv_heads * tiles, turn = 0;
    if (!find_unit(a, i, n_units, tiles, u)) return;
    bool is_old = u.chunk * ATTN_CHUNK + (warp + 1) * ATTN_BLOCK <= u.hi;
    if (!is_old) pdl_wait();
    if (is_staged<HD> && is_active(u, warp)) {
        fetch<HD>(a, u, a.k, ks, &sm.bar[warp][0], warp, lane);
        fetch<HD>(a, u, a.v, vs, &sm.bar[warp][1], warp, lane);
    }
    if (is_old) pdl_wait();
    struct qfrag<HD> q;
    bool is_first = true;
    for (;;) {
        if (is_first) {
            const uint16_t *row = a.q + (int64_t)u.row * a.q_stride + u.head0 * HD;
            load_lane<HD>(q.a, row + g * HD, t, g < u.n_rows);
            load_lane<HD>(q.b, row + (g + 8) * HD, t, g + 8 < u.n_rows);
            for (int k = threadIdx.x; k < u.n_rows * HD; k += WARPS * 32)
                sm.total[k / HD][k % HD] = 0.0f;
            if (threadIdx.x < 16)
                sm.total_ml[turn][threadIdx.x][0] = -INFINITY,
                sm.total_ml[turn][threadIdx.x][1] = 0.0f;
        }
        bool is_done = u.chunk + 1 == u.end, has_next = true;
        next = u;
        if (!is_done)
            next.chunk++;
        else
            has_next = find_unit(a, i + gridDim.x, n_units, tiles, next);
        bool fetches = is_staged<HD> && has_next && is_active(next, warp);
        if (is_active(u, warp)) {
            int base = u.chunk * ATTN_CHUNK + warp * ATTN_BLOCK;
            const int lo[2] = {u.lo, u.lo}, hi[2] = {u.hi, u.hi};
            float s[8][4], m[2], l[2];
            uint32_t p[2][2][4];
            if (is_staged<HD>) bar_wait(&sm.bar[warp][0], phase);
            block_scores<HD>(a, u, q, ks, base, lane, s);
            __syncwarp(); /* all have read k */
            if (fetches) fetch<HD>(a, next, a.k, ks, &sm.bar[warp][0], warp, lane);
            softmax_block(s, base, t, lo, hi, a.scale, m, l, p);
            if (t == 0) {
                sm.ml[warp][g][0] = m[0], sm.ml[warp][g][1] = l[0];
                sm.ml[warp][g + 8][0] = m[1], sm.ml[warp][g + 8][1] = l[1];
            }
            if (is_staged<HD>) bar_wait(&sm.bar[warp][1], phase);
            block_values<HD>(a, u, vs, base, lane, p, &sm.acc[warp][0][0]);
            __syncwarp();
            if (fetches) fetch<HD>(a, next, a.v, vs, &sm.bar[warp][1], warp, lane);
            phase ^= 1;
        } else {
            if (fetches) {
                fetch<HD>(a, next, a.k, ks, &sm.bar[warp][0], warp, lane);
                fetch<HD>(a, next, a.v, vs, &sm.bar[warp][1], warp, lane);
            }
            if (lane < 16) sm.ml[warp][lane][0] = -INFINITY, sm.ml[warp][lane][1] = 0.0f;
            for (int k = lane; k < u.n_rows * HD; k += 32) sm.acc[warp][k / HD][k % HD] = 0.0f;
        }
        __syncthreads();
        if ((u.chunk + 1) * ATTN_CHUNK > u.lo) {
            float *part =
                a.partial + ((int64_t)(u.item->first + u.chunk) * a.n_heads + u.head0) * (HD + 2);
            merge_chunk<HD>(sm, u.n_rows, turn, u.item->n_parts > 1 ? part : nullptr);
            turn ^= 1;
            __syncthreads();
        }
        if (is_done) {
            finish<HD>(a, u, sm, turn);
            __syncthreads();
            if (!has_next) return;
            i += gridDim.x;
        }
        is_first = is_done;
        u = next;
    }
}

template <int HD> static int run(cudaStream_t stream, const struct kattn *a)
{
    static int n_blocks;
    size_t smem = sizeof(struct decode_smem<HD>);
    if (!n_blocks) {
        int device, n_sms, per_sm;
        cudaError_t code = cudaFuncSetAttribute(
            decode_kernel<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
        if (code == cudaSuccess) code = cudaGetDevice(&device);
        if (code == cudaSuccess)
            code = cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, device);
        if (code == cudaSuccess)
            code = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, decode_kernel<HD>,
                                                                 WARPS * 32, smem);
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
    case 64:
        return run<64>(stream, a);
    case 80:
        return run<80>(stream, a);
    case 96:
        return run<96>(stream, a);
    case 128:
        return run<128>(stream, a);
    case 256:
        return run<256>(stream, a);
    default:
        return (int)cudaErrorInvalidValue;
    }
}

extern "C" int k_attn_has(int32_t head_dim)
{
    return head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128 || head_dim == 256;
}
