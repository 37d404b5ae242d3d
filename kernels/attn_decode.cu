/* attn_decode.cu - attention of sequences with one new token: contexts split over blocks of
 * threads.
 *
 * what:     out = softmax(q . K^T * scale) . V over positions lo..pos of the sequence's pages,
 *           per head
 * shapes:   q rows bf16 (rotated), pages as attn.cuh has them; the query heads of one kv head are
 *           the rows of a tile (16; larger groups take several tiles), so K and V are read once a
 *           group
 * launch:   clusters of 1, 2 or 4 blocks, as many as fit, persistent: units (item, kv head,
 *           head tile), an item being a run of chunks. A pass of a cluster of n is n blocks of 128
 *           positions: each block of threads computes the scores of one and sends them to all, then
 *           each has all weights and computes the values of its n-th of the dims. So few sequences
 *           use many SMs, and nothing is left to merge. Warp 4 brings K and V by bulk copies
 *           through a ring of slots, far ahead; warps 0 to 3 compute
 * assumes:  page_size a multiple of 16, head_dim 64, 80, 96, 128 or 256, kv_len = pos + 1, scale > 0
 * numerics: attn.cuh's law. The last block to finish a sequence's tile merges its parts, in order:
 *           who it is does not show, and neither does the size of clusters
 * source:   Dao 2022-23 (FlashAttention, Flash-Decoding); the division of work in a cluster: own
 * measured: see kernels/README.md
 */
#include "attn.cuh"

enum {
    WARPS = 4,
    SLOTS_MAX = 8,
    CLUSTER_MAX = 4,
    SCORE_PITCH = ATTN_BLOCK + WARPS, /* floats: a row's scores, then each warp's maximum */
    BLOCKS = ATTN_CHUNK / ATTN_BLOCK,
    SMEM_MAX = 227 * 1024
};

/* What is before the scores, the weights and the slots, whose sizes depend on the launch. */
struct __align__(16) decode_smem
{
    uint64_t full[SLOTS_MAX], free[SLOTS_MAX], scores_full, scores_free; /* the last two: n > 1 */
    float factor[CLUSTER_MAX][16]; /* of the sums before a block */
    float max[CLUSTER_MAX][16];    /* with it */
    float inverse[16];             /* of the sum of weights */
    int is_last;
};

struct layout {                     /* of shared memory, and of the cluster */
    int n, rank;                    /* blocks of the cluster, and which this is */
    int n_slots, tiles, first_tile; /* tiles of 8 dims of this block's values */
    float *scores;                  /* [n (+ 1)][rows][SCORE_PITCH], raw, then weights */
    uint16_t *weights;              /* [rows][weight_pitch] */
    int rows, weight_pitch;
    char *slots;
};

struct unit {
    const struct attn_item *item;
    const int32_t *pages;
    int row, kv_head, head0, n_rows; /* row of the batch; heads head0.. of the unit */
    int lo, hi;                      /* positions seen */
    int first, last;                 /* blocks of this item that are seen */
};

/* In a cluster, one more for what is being sent. */
static __host__ __device__ __forceinline__ size_t scores_bytes(int n, int rows)
{
    return (size_t)(n > 1 ? n + 1 : 1) * rows * SCORE_PITCH * 4;
}
static __host__ __device__ __forceinline__ size_t weights_bytes(int n, int rows)
{
    return (size_t)rows * (n * ATTN_BLOCK + 32) * 2;
}
static __host__ __device__ __forceinline__ size_t slots_at(int n, int rows)
{
    return (sizeof(struct decode_smem) + scores_bytes(n, rows) + weights_bytes(n, rows) + 127) /
           128 * 128;
}

static __device__ __forceinline__ bool find_unit(const struct kattn &a, int i, struct unit &u)
{
    int group = a.n_heads / a.n_kv_heads, tiles = (group + 15) / 16;
    if (i >= a.b->n_items * a.n_kv_heads * tiles) return false;
    u.item = &a.b->items[i / (a.n_kv_heads * tiles)];
    u.pages = a.b->pages + (int64_t)u.item->seq * a.b->pages_stride;
    u.row = u.item->row;
    u.kv_head = i / tiles % a.n_kv_heads;
    u.head0 = u.kv_head * group + i % tiles * 16;
    u.n_rows = min(16, group - i % tiles * 16);
    u.hi = a.b->pos[u.row];
    u.lo = first_seen(u.hi, a.window);
    u.first = max(u.lo / ATTN_BLOCK, u.item->chunk * BLOCKS);
    u.last = min(u.hi / ATTN_BLOCK, (u.item->chunk + u.item->n) * BLOCKS - 1);
    return true;
}

struct place {
    int slot;
    uint32_t phase;
};
static __device__ __forceinline__ void next_place(struct place &p, int n_slots)
{
    if (++p.slot == n_slots) p.slot = 0, p.phase ^= 1;
}

/* ------------------------------------------------------------------ clusters */

static __device__ __forceinline__ int cluster_rank()
{
    int rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
static __device__ __forceinline__ int cluster_size()
{
    int n;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(n));
    return n;
}
static __device__ __forceinline__ void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
/* The same place in the shared memory of block `rank` of the cluster. */
static __device__ __forceinline__ uint32_t place_in(const void *p, int rank)
{
    uint32_t at;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(smem_at(p)), "r"(rank));
    return at;
}
/* Copy to where `to` is in the shared memory of block `rank`; counts as bytes at its barrier. */
static __device__ __forceinline__ void copy_to(int rank, const void *to, const void *from,
                                               uint32_t bytes, const uint64_t *bar)
{
    asm volatile(
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], "
        "%2, [%3];" ::"r"(place_in(to, rank)),
        "r"(smem_at(from)), "r"(bytes), "r"(place_in(bar, rank))
        : "memory");
}
/* A warp's arrival at a barrier of every block of the cluster. */
static __device__ __forceinline__ void arrive_all(uint64_t *bar, int n)
{
    int lane = threadIdx.x % 32;
    __syncwarp();
    if (lane < n)
        asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(place_in(bar, lane))
                     : "memory");
}

/* ------------------------------------------------------------------ bringing */

/* Groups of 16 positions, a run of bytes each: a lane has groups lane, lane + 32, .. below n. With
 * `late` only the newest, without it all others; -1: there is no newest. */
template <int HD>
static __device__ __forceinline__ void
fetch_runs(const struct kattn &a, const struct unit &u, const uint16_t *from, char *to, int bytes,
           int base, int n, int newest, bool late, uint64_t *bar)
{
    for (int i = threadIdx.x % 32; i < n; i += 32)
        if ((base / ATTN_GROUP + i == newest) == late)
            bulk_copy(to + i * bytes,
                      from + page_at(a, u.pages, u.kv_head, base + i * ATTN_GROUP, HD), bytes, bar);
}

/* k of the rank's own block, then v of the whole pass, this block's dims. One warp. With `waits`, all
 * but the newest position's group goes out before the kernel before this one has ended. */
template <int HD>
static __device__ __forceinline__ void fetch_pass(const struct kattn &a, const struct unit &u,
                                                  const struct layout &lay, struct decode_smem &sm,
                                                  struct place &at, int block, bool waits)
{
    enum { SLOT = ATTN_BLOCK * HD * 2 };
    int base = block * ATTN_BLOCK, own = base + lay.rank * ATTN_BLOCK;
    int end = min(u.hi + 1, (u.last + 1) * ATTN_BLOCK), newest = waits ? u.hi / ATTN_GROUP : -1;
    int n_k = max(0, (min(own + ATTN_BLOCK, end) - own + ATTN_GROUP - 1) / ATTN_GROUP),
        n_v = (min(base + lay.n * ATTN_BLOCK, end) - base + ATTN_GROUP - 1) / ATTN_GROUP;
    int k_run = ATTN_GROUP * HD * 2, v_run = k_run / lay.n;
    const uint16_t *v_from = a.v + lay.first_tile * 8 * ATTN_GROUP;
    struct place vat = at;
    next_place(vat, lay.n_slots);
    char *k = lay.slots + (size_t)at.slot * SLOT, *v = lay.slots + (size_t)vat.slot * SLOT;
    uint64_t *k_full = &sm.full[at.slot], *v_full = &sm.full[vat.slot];
    bar_wait(&sm.free[at.slot], at.phase);
    if (threadIdx.x % 32 == 0) bar_expect(k_full, n_k * k_run);
    __syncwarp();
    fetch_runs<HD>(a, u, a.k, k, k_run, own, n_k, newest, false, k_full);
    bar_wait(&sm.free[vat.slot], vat.phase);
    if (threadIdx.x % 32 == 0) bar_expect(v_full, n_v * v_run);
    __syncwarp();
    fetch_runs<HD>(a, u, v_from, v, v_run, base, n_v, newest, false, v_full);
    if (waits) {
        pdl_wait();
        fetch_runs<HD>(a, u, a.k, k, k_run, own, n_k, newest, true, k_full);
        fetch_runs<HD>(a, u, v_from, v, v_run, base, n_v, newest, true, v_full);
    }
    next_place(vat, lay.n_slots);
    at = vat;
}

template <int HD>
static __device__ __forceinline__ void bring(const struct kattn &a, const struct layout &lay,
                                             struct decode_smem &sm)
{
    struct place at = {0, 1}; /* all are free */
    bool has_waited = false;
    struct unit u;
    for (int round = 0; find_unit(a, unit_of(round, blockIdx.x / lay.n, gridDim.x / lay.n), u);
         round++)
        for (int b = u.first; b <= u.last; b += lay.n) {
            bool waits = !has_waited && (b + lay.n) * ATTN_BLOCK > u.hi;
            fetch_pass<HD>(a, u, lay, sm, at, b, waits);
            has_waited |= waits;
        }
}

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
    const uint16_t *row = a.q + (int64_t)u.row * a.q_stride + (u.head0 + g) * HD + 2 * t;
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

/* Raw scores of what is seen of a block, and the warp's maximum, as the pass's i-th. Of each 32
 * positions, 8 n + 2 t + e lies at 8 t + 2 n + e: a lane's are one run of bytes, here and as weights
 * in the next product. */
static __device__ __forceinline__ void put_scores(float s[4][4], const struct unit &u,
                                                  const struct layout &lay, int i, int block)
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
        float *row = scores_of(lay, i, g + 8 * r);
        float4 *at = (float4 *)(row + warp * 32 + 8 * t);
        at[0] = make_float4(s[0][2 * r], s[0][2 * r + 1], s[1][2 * r], s[1][2 * r + 1]);
        at[1] = make_float4(s[2][2 * r], s[2][2 * r + 1], s[3][2 * r], s[3][2 * r + 1]);
        if (t == 0) row[ATTN_BLOCK + warp] = m;
    }
}

/* Until the scores of a pass of n blocks from `block` are here; `s`: this block's own. They are sent
 * from a place of their own, since weights soon take that of scores. */
static __device__ __forceinline__ void exchange(float s[4][4], const struct unit &u,
                                                const struct layout &lay, struct decode_smem &sm,
                                                int block, int n, uint32_t phase)
{
    if (lay.n == 1) {
        put_scores(s, u, lay, 0, block);
        named_sync(1, WARPS * 32);
        return;
    }
    uint32_t bytes = u.n_rows * SCORE_PITCH * 4;
    bar_wait(&sm.scores_free, phase ^ 1);
    if (threadIdx.x == 0) bar_expect(&sm.scores_full, n * bytes);
    if (lay.rank < n) {
        put_scores(s, u, lay, lay.n, block + lay.rank);
        fence_async();
        named_sync(1, WARPS * 32);
        if (threadIdx.x < lay.n)
            copy_to(threadIdx.x, scores_of(lay, lay.rank, 0), scores_of(lay, lay.n, 0), bytes,
                    &sm.scores_full);
    }
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
           ((int64_t)(u.item->first + chunk) * a.n_heads + u.head0 + row) * (a.head_dim + 2);
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
    if (u.item->n_parts > 1) {
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

/* ------------------------------------------------------------------ values */

/* A warp's values: tiles warp, warp + 4, .. of the block's; rows g and g + 8. */
template <int HD> struct values {
    enum { N = (HD / 8 + WARPS - 1) / WARPS };
    float sum[N][4], total[N][4], tm[2];
};

template <int HD, int N>
static __device__ __forceinline__ void
end_chunk_values(const struct kattn &a, const struct unit &u, const struct layout &lay,
                 struct values<HD> &v, const float m[2], int chunk)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float f[2], f2[2];
#pragma unroll
    for (int r = 0; r < 2; r++) merge_factors(v.tm[r], m[r], f[r], f2[r]);
#pragma unroll
    for (int n = 0; n < N; n++) {
        int tile = warp + n * WARPS;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float *x = &v.sum[n][2 * r], *total = &v.total[n][2 * r];
            if (u.item->n_parts > 1) {
                float *part = part_of(a, u, chunk, g + 8 * r) + (lay.first_tile + tile) * 8 + 2 * t;
                if (g + 8 * r < u.n_rows) __stcg((float2 *)part, make_float2(x[0], x[1]));
            } else {
                total[0] = merge_value(total[0], f[r], x[0], f2[r]);
                total[1] = merge_value(total[1], f[r], x[1], f2[r]);
            }
            x[0] = x[1] = 0.0f;
        }
    }
}

/* Tokens of the warp's tiles past the n valid ones of a block become zero. */
static __device__ __forceinline__ void clear_tail(const struct layout &lay, char *slot, int n)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int i = n / 8 + lane / 8; i < ATTN_BLOCK / 8; i += 4) /* eights of tokens */
        for (int tile = warp; tile < lay.tiles; tile += WARPS) {
            uint4 *at = (uint4 *)(slot + (i / 2 * lay.tiles + tile) * 256 + i % 2 * 128) + lane % 8;
            *at = i == n / 8 ? clear_tokens(*at, n % 8) : make_uint4(0, 0, 0, 0);
        }
    fence_async();
    __syncwarp();
}

/* 128 positions onto the warp's N tiles; `at`: the lane's place in the block's first matrices. */
template <int N>
static __device__ __forceinline__ void value_tiles(const struct layout &lay, float (*sum)[4],
                                                   const uint16_t *weights, uint32_t at, int n_rows)
{
    enum { PAIRS = ATTN_BLOCK / 32 };
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint16_t *w = weights + min(g, n_rows - 1) * lay.weight_pitch + 8 * t;
    const uint16_t *w8 = weights + min(g + 8, n_rows - 1) * lay.weight_pitch + 8 * t;
#pragma unroll
    for (int c = 0; c < PAIRS; c++) {
        uint4 p = *(const uint4 *)(w + c * 32), p8 = *(const uint4 *)(w8 + c * 32);
        uint32_t x[N][4];
#pragma unroll
        for (int n = 0; n < N; n++) load_matrices(x[n], at + (c * 2 * lay.tiles + n * WARPS) * 256);
#pragma unroll
        for (int n = 0; n < N; n++) mma16816(sum[n], p.x, p8.x, p.y, p8.y, x[n][0], x[n][1]);
#pragma unroll
        for (int n = 0; n < N; n++) mma16816(sum[n], p.z, p8.z, p.w, p8.w, x[n][2], x[n][3]);
    }
}

/* A pass of n blocks from `block`, of which the warp has N tiles. */
template <int HD, int N>
static __device__ __forceinline__ void
add_tiles(const struct kattn &a, const struct unit &u, const struct layout &lay,
          const struct decode_smem &sm, struct values<HD> &v, char *slot, int block, int n)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
    int n_valid = u.hi + 1 - (block + n - 1) * ATTN_BLOCK; /* of the pass's last block */
    if (n_valid < ATTN_BLOCK)
        clear_tail(lay, slot + (n - 1) * (ATTN_BLOCK / 8) * lay.tiles * 128, n_valid);
    uint32_t at = after_wait(slot + (lane / 16 * lay.tiles + warp) * 256 + lane % 16 * 16);
    for (int i = 0; i < n; i++, at += ATTN_BLOCK / 8 * lay.tiles * 128) {
        float f[2] = {sm.factor[i][g], sm.factor[i][g + 8]},
              m[2] = {sm.max[i][g], sm.max[i][g + 8]};
#pragma unroll
        for (int k = 0; k < N; k++)
#pragma unroll
            for (int e = 0; e < 4; e++) v.sum[k][e] *= f[e / 2];
        value_tiles<N>(lay, v.sum, lay.weights + i * ATTN_BLOCK, at, u.n_rows);
        if ((block + i + 1) % BLOCKS == 0 || block + i == u.last)
            end_chunk_values<HD, N>(a, u, lay, v, m, (block + i) / BLOCKS);
    }
#pragma unroll
    for (int k = 0; k < N; k++) pin(v.sum[k]);
}

/* As many tiles as the warp has, of at most N. */
template <int HD, int N>
static __device__ __forceinline__ void
add_values(const struct kattn &a, const struct unit &u, const struct layout &lay,
           const struct decode_smem &sm, struct values<HD> &v, char *slot, int block, int n)
{
    int n_tiles = (lay.tiles - (int)threadIdx.x / 32 + WARPS - 1) / WARPS;
    if (n_tiles == N)
        add_tiles<HD, N>(a, u, lay, sm, v, slot, block, n);
    else if constexpr (N > 1)
        add_values<HD, N == 3 ? 2 : N / 2>(a, u, lay, sm, v, slot, block, n);
}

/* ------------------------------------------------------------------ the end of a unit */

/* The chunks of a sequence's tile, in order, to the output. */
template <int HD> static __device__ void merge_parts(const struct kattn &a, const struct unit &u)
{
    enum { AHEAD = 8 };
    int64_t chunk_stride = (int64_t)a.n_heads * (HD + 2);
    int first = u.lo / ATTN_CHUNK,
        n = u.item->n_chunks - first; /* what lies below the window was not written */
    for (int i = threadIdx.x; i < u.n_rows * HD; i += WARPS * 32) {
        int r = i / HD, d = i % HD;
        const float *part = part_of(a, u, first, r);
        float m = -INFINITY, l = 0.0f, x = 0.0f, f, f2;
        for (int k = 0; k < n; k += AHEAD) { /* loads first: each is a trip to L2 */
            float m2[AHEAD], l2[AHEAD], x2[AHEAD];
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
                const float *from = part + min(k + j, n - 1) * chunk_stride;
                m2[j] = __ldcg(from + HD), l2[j] = __ldcg(from + HD + 1), x2[j] = __ldcg(from + d);
            }
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
                if (k + j >= n) break;
                merge_factors(m, m2[j], f, f2);
                l = merge_value(l, f, l2[j], f2);
                x = merge_value(x, f, x2[j], f2);
            }
        }
        a.out[(int64_t)u.row * a.out_stride + (u.head0 + r) * HD + d] = f_bf16(x * (1.0f / l));
    }
}

/* One of several items: the last block of threads to come here merges. */
template <int HD>
static __device__ __forceinline__ void finish_part(const struct kattn &a, const struct unit &u,
                                                   const struct layout &lay, struct decode_smem &sm)
{
    __threadfence();
    named_sync(1, WARPS * 32);
    if (threadIdx.x == 0) {
        int32_t *counter = a.counters + (int64_t)u.item->first * a.n_heads + u.head0;
        sm.is_last = atomicAdd(counter, 1) == u.item->n_parts * lay.n - 1;
        if (sm.is_last) *counter = 0;
    }
    named_sync(1, WARPS * 32);
    if (!sm.is_last) return;
    __threadfence();
    merge_parts<HD>(a, u);
}

template <int HD>
static __device__ __forceinline__ void finish(const struct kattn &a, const struct unit &u,
                                              const struct layout &lay, struct decode_smem &sm,
                                              const struct values<HD> &v, float tl)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    if (lane % 8 == 0) sm.inverse[sums_row()] = 1.0f / tl;
    named_sync(1, WARPS * 32);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float scale = sm.inverse[g + 8 * r];
        uint16_t *out = a.out + (int64_t)u.row * a.out_stride + (u.head0 + g + 8 * r) * HD +
                        lay.first_tile * 8 + 2 * t;
#pragma unroll
        for (int n = 0; n < values<HD>::N; n++) {
            int tile = warp + n * WARPS;
            if (tile < lay.tiles && g + 8 * r < u.n_rows)
                *(uint32_t *)(out + tile * 8) =
                    pack_bf16(v.total[n][2 * r] * scale, v.total[n][2 * r + 1] * scale);
        }
    }
}

/* ------------------------------------------------------------------ the kernel */

struct progress { /* of the ring, and of the exchange of scores */
    struct place at;
    uint32_t phase;
};

static __device__ __forceinline__ void release(uint64_t *bar)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0) bar_arrive(bar);
}

template <int HD>
static __device__ __forceinline__ void compute_unit(const struct kattn &a, const struct unit &u,
                                                    const struct layout &lay,
                                                    struct decode_smem &sm, struct progress &p)
{
    enum { SLOT = ATTN_BLOCK * HD * 2 };
    uint32_t q[HD / 16][4];
    float m[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}; /* of rows warp, warp + 4, .. */
    struct sums s = {0.0f, -INFINITY, 0.0f};
    struct values<HD> v = {
    };
    v.tm[0] = v.tm[1] = -INFINITY;
    load_q<HD>(a, u, q);
    for (int b = u.first; b <= u.last; b += lay.n) {
        int n = min(lay.n, u.last + 1 - b);
        float scores[4][4];
        bar_wait(&sm.full[p.at.slot], p.at.phase);
        score_tiles<HD>(scores, q, lay.slots + (size_t)p.at.slot * SLOT);
        release(&sm.free[p.at.slot]);
        next_place(p.at, lay.n_slots);
        exchange(scores, u, lay, sm, b, n, p.phase);
        p.phase ^= 1;
        weigh_rows(u, lay, sm, a.scale, b, n, m);
        named_sync(1, WARPS * 32);
        bar_wait(&sm.full[p.at.slot], p.at.phase);
        add_values<HD, values<HD>::N>(a, u, lay, sm, v, lay.slots + (size_t)p.at.slot * SLOT, b, n);
        release(&sm.free[p.at.slot]);
        next_place(p.at, lay.n_slots);
        sum_weights(a, u, lay, sm, s, b, n);
        if (lay.n == 1) /* all have read the scores */
            named_sync(1, WARPS * 32);
        else
            arrive_all(&sm.scores_free, lay.n);
    }
    if (u.item->n_parts > 1)
        finish_part<HD>(a, u, lay, sm);
    else
        finish<HD>(a, u, lay, sm, v, s.tl);
}

template <int HD>
static __global__ void __launch_bounds__((WARPS + 1) * 32, 1)
    decode_kernel(struct kattn a, int rows, int n_slots)
{
    extern __shared__ __align__(128) char raw[];
    struct decode_smem &sm = *(struct decode_smem *)raw;
    struct layout lay;
    lay.n = cluster_size();
    lay.rank = cluster_rank();
    lay.n_slots = n_slots;
    lay.tiles = HD / 8 / lay.n;
    lay.first_tile = lay.rank * lay.tiles;
    lay.rows = rows;
    lay.weight_pitch = lay.n * ATTN_BLOCK + 32;
    lay.scores = (float *)(raw + sizeof sm);
    lay.weights = (uint16_t *)(raw + sizeof sm + scores_bytes(lay.n, rows));
    lay.slots = raw + slots_at(lay.n, rows);
    if (threadIdx.x == 0) {
        for (int i = 0; i < n_slots; i++) bar_init(&sm.full[i], 1), bar_init(&sm.free[i], WARPS);
        bar_init(&sm.scores_full, 1), bar_init(&sm.scores_free, WARPS * lay.n);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    if (lay.n > 1)
        cluster_sync();
    else
        __syncthreads();
    pdl_next();
    if (threadIdx.x / 32 == WARPS) {
        bring<HD>(a, lay, sm);
    } else {
        struct progress p = {{0, 0}, 0};
        struct unit u;
        pdl_wait();
        for (int round = 0; find_unit(a, unit_of(round, blockIdx.x / lay.n, gridDim.x / lay.n), u);
             round++)
            compute_unit<HD>(a, u, lay, sm, p);
    }
    if (lay.n > 1) { /* the others may still send here */
        __syncwarp();
        cluster_sync();
    }
}

static cudaLaunchAttribute cluster_attribute(int n)
{
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeClusterDimension;
    attr.val.clusterDim.x = (unsigned)n;
    attr.val.clusterDim.y = attr.val.clusterDim.z = 1;
    return attr;
}

template <int HD> static cudaError_t allow_smem()
{
    static bool is_set;
    if (is_set) return cudaSuccess;
    cudaError_t code = cudaFuncSetAttribute(decode_kernel<HD>,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM_MAX);
    is_set = code == cudaSuccess;
    return code;
}

template <int HD> static int run(cudaStream_t stream, const struct kattn *a)
{
    int group = a->n_heads / a->n_kv_heads, rows = group < 16 ? group : 16, n = a->cluster;
    size_t at = slots_at(n, rows), slot = ATTN_BLOCK * HD * 2;
    int n_slots = (int)((SMEM_MAX - at) / slot);
    if (n_slots > SLOTS_MAX) n_slots = SLOTS_MAX;
    cudaError_t code = allow_smem<HD>();
    if (code != cudaSuccess) return (int)code;
    struct kattn scaled = *a;
    scaled.scale *= 1.4426950408889634f; /* exp2 takes the place of exp */
    cudaLaunchAttribute attr[2] = {cluster_attribute(n)};
    attr[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(k_attn_clusters(n) * n));
    config.blockDim = dim3((WARPS + 1) * 32);
    config.dynamicSmemBytes = at + slot * n_slots;
    config.stream = stream;
    config.attrs = attr;
    config.numAttrs = 2;
    return (int)cudaLaunchKernelEx(&config, decode_kernel<HD>, scaled, rows, n_slots);
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

/* Asked of the device once: SMs come in groups of unequal size, so it is not all of them over n. */
extern "C" int k_attn_clusters(int32_t n)
{
    static int known[CLUSTER_MAX + 1];
    if (known[n]) return known[n];
    cudaLaunchAttribute attr = cluster_attribute(n);
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)n);
    config.blockDim = dim3((WARPS + 1) * 32);
    config.dynamicSmemBytes = SMEM_MAX;
    config.attrs = &attr;
    config.numAttrs = 1;
    int count = 0;
    if (allow_smem<128>() != 0 ||
        cudaOccupancyMaxActiveClusters(&count, decode_kernel<128>, &config) != cudaSuccess)
        count = 0;
    return known[n] = count > 0 ? count : 1;
}

/* The smallest cluster that is within a tenth of the best. A pass of n blocks takes about 20 + 9 n,
 * as measured; clusters go round as often as the fullest has units. */
extern "C" int k_attn_cluster(int32_t n_heads, int32_t n_kv_heads, int32_t head_dim, int32_t n_seqs)
{
    int group = n_heads / n_kv_heads, best = 1;
    int64_t units = (int64_t)n_seqs * n_kv_heads * ((group + 15) / 16);
    double least = 0;
    for (int n = 1; n <= CLUSTER_MAX && head_dim / 8 % n == 0; n *= 2) {
        size_t free = SMEM_MAX - slots_at(n, group < 16 ? group : 16);
        if (free < (size_t)3 * ATTN_BLOCK * head_dim * 2) break;
        int clusters = k_attn_clusters(n);
        double took = (double)((units + clusters - 1) / clusters) * (20 + 9 * n) / n;
        if (n == 1 || took < 0.9 * least) least = took, best = n;
    }
    return best;
}
