/* attn_decode.cu - attention of sequences with one new token: contexts split over blocks of
 * threads.
 *
 * what:     out = softmax(q . K^T * scale) . V over positions lo..pos of the sequence's pages,
 *           per head
 * shapes:   q rows bf16 (rotated), pages as attn.cuh has them; the query heads of one kv head are
 *           the rows of a tile (16; larger groups take several tiles), so K and V are read once a
 *           group
 * launch:   clusters of 1, 2, 4 or 8 blocks, as many as fit, persistent: units (item, kv head,
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
    CLUSTER_MAX = 8,
    SCORE_PITCH = ATTN_BLOCK + 8, /* floats: no bank conflicts */
    BLOCKS = ATTN_CHUNK / ATTN_BLOCK,
    SMEM_MAX = 227 * 1024
};

/* What is before the scores, the weights and the slots, whose sizes depend on the launch. */
struct __align__(16) decode_smem {
    uint64_t full[SLOTS_MAX], free[SLOTS_MAX], scores_full, scores_free;
    float warp_max[CLUSTER_MAX][16][WARPS]; /* of a block's scores */
    float factor[CLUSTER_MAX][16];          /* of the sums before a block */
    float max[CLUSTER_MAX][16];             /* with it */
    float inverse[16];                      /* of the sum of weights */
    int is_last;
};

struct layout { /* of shared memory, and of the cluster */
    int n, rank;  /* blocks of the cluster, and which this is */
    int n_slots, tiles, first_tile; /* tiles of 8 dims of this block's values */
    float *scores;                  /* [n][rows][SCORE_PITCH], raw, then weights */
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

static __host__ __device__ __forceinline__ size_t scores_bytes(int n, int rows)
{
    return (size_t)n * rows * SCORE_PITCH * 4;
}
static __host__ __device__ __forceinline__ size_t weights_bytes(int n, int rows)
{
    return (size_t)rows * (n * ATTN_BLOCK + 8) * 2;
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
static __device__ __forceinline__ void send(uint32_t at, float x)
{
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(at), "f"(x) : "memory");
}
static __device__ __forceinline__ void send2(uint32_t at, float x, float y)
{
    asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(x), "f"(y) : "memory");
}
/* A warp's arrival at a barrier of every block of the cluster, after what its lanes sent or read. */
static __device__ __forceinline__ void arrive_all(uint64_t *bar, int n)
{
    int lane = threadIdx.x % 32;
    __syncwarp();
    if (lane < n)
        asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(
                         place_in(bar, lane))
                     : "memory");
}
static __device__ __forceinline__ void cluster_wait(uint64_t *bar, uint32_t phase)
{
    asm volatile("{\n.reg .pred done;\nagain:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n}" ::"r"(smem_at(bar)),
                 "r"(phase)
                 : "memory");
}

/* ------------------------------------------------------------------ bringing */

/* k of the rank's own block, then v of the whole pass, this block's dims. One warp. */
template <int HD>
static __device__ __forceinline__ void fetch_pass(const struct kattn &a, const struct unit &u,
                                                  const struct layout &lay,
                                                  struct decode_smem &sm, struct place &at,
                                                  int block)
{
    int lane = threadIdx.x % 32, own = (block + lay.rank) * ATTN_BLOCK, base = block * ATTN_BLOCK;
    int end = min(u.hi + 1, (u.last + 1) * ATTN_BLOCK);
    int n = max(0, (min(own + ATTN_BLOCK, end) - own + 15) / 16);
    char *to = lay.slots + (size_t)at.slot * (ATTN_BLOCK * HD * 2);
    bar_wait(&sm.free[at.slot], at.phase);
    if (lane == 0) bar_expect(&sm.full[at.slot], n * ATTN_GROUP * HD * 2);
    __syncwarp();
    if (lane < n)
        bulk_copy(to + lane * ATTN_GROUP * HD * 2,
                  a.k + page_at(a, u.pages, u.kv_head, own + lane * ATTN_GROUP, HD),
                  ATTN_GROUP * HD * 2, &sm.full[at.slot]);
    next_place(at, lay.n_slots);
    /* A run of bytes is 16 tokens of all dims, or 8 of some. */
    int step = lay.n == 1 ? 16 : 8, bytes = step * lay.tiles * 16;
    n = (min(base + lay.n * ATTN_BLOCK, end) - base + step - 1) / step;
    to = lay.slots + (size_t)at.slot * (ATTN_BLOCK * HD * 2);
    bar_wait(&sm.free[at.slot], at.phase);
    if (lane == 0) bar_expect(&sm.full[at.slot], n * bytes);
    __syncwarp();
    for (int i = lane; i < n; i += 32)
        bulk_copy(to + i * bytes,
                  a.v + page_at(a, u.pages, u.kv_head, base + i * step, HD) + lay.first_tile * 64,
                  bytes, &sm.full[at.slot]);
    next_place(at, lay.n_slots);
}

template <int HD>
static __device__ __forceinline__ void bring(const struct kattn &a, const struct layout &lay,
                                             struct decode_smem &sm)
{
    struct place at = {0, 1}; /* all are free */
    bool has_waited = false;
    struct unit u;
    for (int round = 0;
         find_unit(a, unit_of(round, blockIdx.x / lay.n, gridDim.x / lay.n), u); round++)
        for (int b = u.first; b <= u.last; b += lay.n) {
            /* All positions but the newest were there before the step began. */
            if (!has_waited && (b + lay.n) * ATTN_BLOCK > u.hi) pdl_wait(), has_waited = true;
            fetch_pass<HD>(a, u, lay, sm, at, b);
        }
}

/* ------------------------------------------------------------------ scores */

static __device__ __forceinline__ void load_matrices(uint32_t r[4], const void *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_at(p))
                 : "memory");
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
    const char *at = k + (warp * 4 + lane / 16) * HD * 16 + lane / 8 % 2 * 128 + lane % 8 * 16;
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
}

/* Raw scores of what is seen, and their maximum, to every block of the cluster. */
static __device__ __forceinline__ void send_scores(float s[4][4], const struct unit &u,
                                                   const struct layout &lay,
                                                   struct decode_smem &sm, int block)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float m[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int pos = block * ATTN_BLOCK + warp * 32 + n * 8 + 2 * t + e % 2;
            if (pos < u.lo || pos > u.hi) s[n][e] = -INFINITY;
            m[e / 2] = fmaxf(m[e / 2], s[n][e]);
        }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        m[r] = fmaxf(m[r], __shfl_xor_sync(~0u, m[r], 1));
        m[r] = fmaxf(m[r], __shfl_xor_sync(~0u, m[r], 2));
    }
    for (int to = 0; to < lay.n; to++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int row = g + 8 * r;
            if (row >= u.n_rows) continue;
            uint32_t at = place_in(
                lay.scores + (lay.rank * lay.rows + row) * SCORE_PITCH + warp * 32 + 2 * t, to);
#pragma unroll
            for (int n = 0; n < 4; n++) send2(at + n * 32, s[n][2 * r], s[n][2 * r + 1]);
            if (t == 0) send(place_in(&sm.warp_max[lay.rank][row][warp], to), m[r]);
        }
}

/* ------------------------------------------------------------------ weights */

/* Weights of a row's n blocks from `block`; m: the row's maximum so far. One warp. */
static __device__ __forceinline__ void weigh_row(const struct layout &lay, struct decode_smem &sm,
                                                 float scale, int row, int block, int n, float &m)
{
    int lane = threadIdx.x % 32;
    for (int i = 0; i < n; i++) {
        if ((block + i) % BLOCKS == 0) m = -INFINITY;
        float4 w = *(const float4 *)sm.warp_max[i][row];
        float now = fmaxf(m, __fmul_rn(fmaxf(fmaxf(w.x, w.y), fmaxf(w.z, w.w)), scale)),
              base = finite_max(now);
        if (lane == 0) {
            sm.factor[i][row] = fast_exp2(m - base);
            sm.max[i][row] = now;
        }
        m = now;
        float4 *at = (float4 *)(lay.scores + (i * lay.rows + row) * SCORE_PITCH) + lane, x = *at;
        x.x = fast_exp2(__fmaf_rn(x.x, scale, -base));
        x.y = fast_exp2(__fmaf_rn(x.y, scale, -base));
        x.z = fast_exp2(__fmaf_rn(x.z, scale, -base));
        x.w = fast_exp2(__fmaf_rn(x.w, scale, -base));
        *at = x;
        *(uint2 *)(lay.weights + row * lay.weight_pitch + i * ATTN_BLOCK + lane * 4) =
            make_uint2(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w));
    }
}

/* A chunk's answers, of one item among several of the sequence, for a later merge. */
static __device__ __forceinline__ float *part_of(const struct kattn &a, const struct unit &u,
                                                 int chunk, int row)
{
    return a.partial + ((int64_t)(u.item->first + chunk) * a.n_heads + u.head0 + row) *
                           (a.head_dim + 2);
}

/* Sums of weights: lane 8 i + c has row warp + 4 i, positions c modulo 8. */
struct sums {
    float l, tm, tl; /* of the chunk; of the chunks before */
};

static __device__ __forceinline__ void end_chunk_sums(const struct kattn &a, const struct unit &u,
                                                      struct sums &s, float m, int chunk)
{
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 + lane / 8 * 4;
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
    int lane = threadIdx.x % 32, row = min((int)threadIdx.x / 32 + lane / 8 * 4, lay.rows - 1);
    for (int i = 0; i < n; i++) {
        const float *at = lay.scores + (i * lay.rows + row) * SCORE_PITCH + lane % 8;
        s.l = __fmul_rn(s.l, sm.factor[i][row]);
#pragma unroll
        for (int j = 0; j < ATTN_BLOCK / 8; j++) s.l = __fadd_rn(s.l, at[8 * j]);
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

template <int HD>
static __device__ __forceinline__ void end_chunk_values(const struct kattn &a,
                                                        const struct unit &u,
                                                        const struct layout &lay,
                                                        struct values<HD> &v, const float m[2],
                                                        int chunk)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float f[2], f2[2];
#pragma unroll
    for (int r = 0; r < 2; r++) merge_factors(v.tm[r], m[r], f[r], f2[r]);
#pragma unroll
    for (int n = 0; n < values<HD>::N; n++) {
        int tile = warp + n * WARPS;
        if (tile >= lay.tiles) break;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float *x = &v.sum[n][2 * r], *total = &v.total[n][2 * r];
            if (u.item->n_parts > 1) {
                float *part =
                    part_of(a, u, chunk, g + 8 * r) + (lay.first_tile + tile) * 8 + 2 * t;
                if (g + 8 * r < u.n_rows) __stcg((float2 *)part, make_float2(x[0], x[1]));
            } else {
                total[0] = merge_value(total[0], f[r], x[0], f2[r]);
                total[1] = merge_value(total[1], f[r], x[1], f2[r]);
            }
            x[0] = x[1] = 0.0f;
        }
    }
}

/* Two bf16 of tokens `token` and the next, of which n are valid. */
static __device__ __forceinline__ uint32_t clear_pair(uint32_t x, int token, int n)
{
    return token >= n ? 0 : token + 1 >= n ? x & 0xffffu : x;
}

/* 128 positions onto the sums; n_valid of them have a v. */
template <int HD>
static __device__ __forceinline__ void value_tiles(const struct layout &lay, struct values<HD> &v,
                                                   const uint16_t *weights, const char *slot,
                                                   int n_rows, int n_valid)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const char *at = slot + (lane / 8 * lay.tiles + warp) * 128 + lane % 8 * 16;
    const uint16_t *w = weights + g * lay.weight_pitch + 2 * t;
#pragma unroll 2
    for (int c = 0; c < ATTN_BLOCK / 16; c += 2) {
        uint32_t p[2][4];
#pragma unroll
        for (int k = 0; k < 2; k++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                p[k][e] = g + e % 2 * 8 < n_rows ? *(const uint32_t *)(w + e % 2 * 8 * lay.weight_pitch +
                                                                     (c + k) * 16 + e / 2 * 8)
                                               : 0;
        uint32_t x[values<HD>::N][4];
#pragma unroll
        for (int n = 0; n < values<HD>::N; n++) {
            if (warp + n * WARPS >= lay.tiles) break;
            load_matrices(x[n], at + (c * 2 * lay.tiles + n * WARPS) * 128);
            if (n_valid < ATTN_BLOCK)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    x[n][e] = clear_pair(x[n][e], c * 16 + e * 8 + 2 * t, n_valid);
        }
#pragma unroll
        for (int k = 0; k < 2; k++)
#pragma unroll
            for (int n = 0; n < values<HD>::N; n++) {
                if (warp + n * WARPS >= lay.tiles) break;
                mma16816(v.sum[n], p[k][0], p[k][1], p[k][2], p[k][3], x[n][2 * k], x[n][2 * k + 1]);
            }
    }
}

/* A pass of n blocks from `block`. */
template <int HD>
static __device__ __forceinline__ void add_values(const struct kattn &a, const struct unit &u,
                                                  const struct layout &lay,
                                                  const struct decode_smem &sm,
                                                  struct values<HD> &v, const char *slot, int block,
                                                  int n)
{
    int g = threadIdx.x % 32 / 4;
    for (int i = 0; i < n; i++) {
        float f[2] = {sm.factor[i][g], sm.factor[i][g + 8]};
#pragma unroll
        for (int k = 0; k < values<HD>::N; k++)
#pragma unroll
            for (int e = 0; e < 4; e++) v.sum[k][e] *= f[e / 2];
        value_tiles<HD>(lay, v, lay.weights + i * ATTN_BLOCK,
                        slot + (size_t)i * ATTN_BLOCK * lay.tiles * 16, u.n_rows,
                        u.hi + 1 - (block + i) * ATTN_BLOCK);
        float m[2] = {sm.max[i][g], sm.max[i][g + 8]};
        if ((block + i + 1) % BLOCKS == 0 || block + i == u.last)
            end_chunk_values<HD>(a, u, lay, v, m, (block + i) / BLOCKS);
    }
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
    if (lane % 8 == 0) sm.inverse[warp + lane / 8 * 4] = 1.0f / tl;
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
    int warp = threadIdx.x / 32;
    uint32_t q[HD / 16][4];
    float m[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}; /* of rows warp, warp + 4, .. */
    struct sums s = {0.0f, -INFINITY, 0.0f};
    struct values<HD> v = {};
    v.tm[0] = v.tm[1] = -INFINITY;
    load_q<HD>(a, u, q);
    for (int b = u.first; b <= u.last; b += lay.n) {
        int n = min(lay.n, u.last + 1 - b);
        float scores[4][4];
        bar_wait(&sm.full[p.at.slot], p.at.phase);
        score_tiles<HD>(scores, q, lay.slots + (size_t)p.at.slot * SLOT);
        release(&sm.free[p.at.slot]);
        next_place(p.at, lay.n_slots);
        cluster_wait(&sm.scores_free, p.phase ^ 1);
        if (lay.rank < n) send_scores(scores, u, lay, sm, b + lay.rank);
        arrive_all(&sm.scores_full, lay.n);
        cluster_wait(&sm.scores_full, p.phase);
        p.phase ^= 1;
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (warp + 4 * i < u.n_rows) weigh_row(lay, sm, a.scale, warp + 4 * i, b, n, m[i]);
        named_sync(1, WARPS * 32);
        bar_wait(&sm.full[p.at.slot], p.at.phase);
        add_values<HD>(a, u, lay, sm, v, lay.slots + (size_t)p.at.slot * SLOT, b, n);
        release(&sm.free[p.at.slot]);
        next_place(p.at, lay.n_slots);
        sum_weights(a, u, lay, sm, s, b, n);
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
    lay.weight_pitch = lay.n * ATTN_BLOCK + 8;
    lay.scores = (float *)(raw + sizeof sm);
    lay.weights = (uint16_t *)(raw + sizeof sm + scores_bytes(lay.n, rows));
    lay.slots = raw + slots_at(lay.n, rows);
    if (threadIdx.x == 0) {
        for (int i = 0; i < n_slots; i++) bar_init(&sm.full[i], 1), bar_init(&sm.free[i], WARPS);
        bar_init(&sm.scores_full, WARPS * lay.n), bar_init(&sm.scores_free, WARPS * lay.n);
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
        for (int round = 0;
             find_unit(a, unit_of(round, blockIdx.x / lay.n, gridDim.x / lay.n), u); round++)
            compute_unit<HD>(a, u, lay, sm, p);
    }
    if (lay.n > 1) { /* the others may still send here */
        __syncwarp();
        cluster_sync();
    }
}

/* Clusters that run at the same time on an H100 or H200: the SMs come in groups of 16 and 18. */
extern "C" int k_attn_clusters(int32_t n)
{
    return (n < 4 ? 132 : 128) / n;
}

template <typename... P, typename... A>
static int launch_clusters(void (*kernel)(P...), int grid, int cluster, size_t smem,
                           cudaStream_t stream, A... args)
{
    cudaLaunchAttribute attr[2] = {};
    attr[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr[0].val.programmaticStreamSerializationAllowed = 1;
    attr[1].id = cudaLaunchAttributeClusterDimension;
    attr[1].val.clusterDim.x = (unsigned)cluster;
    attr[1].val.clusterDim.y = attr[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)grid);
    config.blockDim = dim3((WARPS + 1) * 32);
    config.dynamicSmemBytes = smem;
    config.stream = stream;
    config.attrs = attr;
    config.numAttrs = 2;
    return (int)cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
}

template <int HD> static int run(cudaStream_t stream, const struct kattn *a)
{
    static int is_set;
    if (!is_set) {
        cudaError_t code = cudaFuncSetAttribute(
            decode_kernel<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM_MAX);
        if (code != cudaSuccess) return (int)code;
        is_set = 1;
    }
    int group = a->n_heads / a->n_kv_heads, rows = group < 16 ? group : 16, n = a->cluster;
    size_t at = slots_at(n, rows), slot = ATTN_BLOCK * HD * 2;
    int n_slots = (int)((SMEM_MAX - at) / slot);
    if (n_slots > SLOTS_MAX) n_slots = SLOTS_MAX;
    struct kattn scaled = *a;
    scaled.scale *= 1.4426950408889634f; /* exp2 takes the place of exp */
    return launch_clusters(decode_kernel<HD>, k_attn_clusters(n) * n, n, at + slot * n_slots, stream,
                           scaled, rows, n_slots);
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

/* The smallest cluster that is within a tenth of the best: units go round as often as the fullest
 * cluster has them, and n blocks do one n times as fast. */
extern "C" int k_attn_cluster(int32_t n_heads, int32_t n_kv_heads, int32_t head_dim, int32_t n_seqs)
{
    int group = n_heads / n_kv_heads, best = 1;
    int64_t units = (int64_t)n_seqs * n_kv_heads * ((group + 15) / 16);
    double least = 0;
    for (int n = 1; n <= CLUSTER_MAX && head_dim / 8 % n == 0; n *= 2) {
        size_t free = SMEM_MAX - slots_at(n, group < 16 ? group : 16);
        if (free < (size_t)3 * ATTN_BLOCK * head_dim * 2) break;
        int64_t clusters = k_attn_clusters(n);
        double took = (double)((units + clusters - 1) / clusters) / n;
        if (n == 1 || took < 0.9 * least) least = took, best = n;
    }
    return best;
}
