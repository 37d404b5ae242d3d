/* attn_prefill.cu - attention of sequences with several new tokens: FlashAttention-3 class, paged,
 * causal.
 *
 * what:     out = softmax(q . K^T * scale) . V over positions lo..pos of the sequence's pages,
 *           per row
 * shapes:   q rows bf16 (rotated), pages as attn.cuh has them; a tile is 128 (token, head) pairs
 *           of one sequence and kv head (64 for head size 256), row r being token r / group and
 *           head r % group: each K and V byte that reaches shared memory serves the whole group
 * launch:   a block an SM, persistent: units (tile, kv head), longest first. Warp 0 brings K and V,
 *           128 positions at once, by bulk copies; warps 1 to 3 bring q; then a warpgroup for each
 *           64 rows: scores and values by wgmma, the next block's scores and this block's values
 *           running while the softmax is computed, and the warpgroups taking turns
 * assumes:  page_size a multiple of 16, query heads a kv head <= 64, scale > 0
 * numerics: attn.cuh's law: bit for bit what attn_decode.cu makes of the same row
 * source:   Shah 2024 (FlashAttention-3), Dao 2023
 * measured: see kernels/README.md
 */
#include "attn.cuh"

/* Head size 256: one warpgroup and single buffers, so that all fits. */
template <int HD> struct shape {
    static constexpr int groups = HD > 128 ? 1 : 2, rows = groups * 64, stages = HD > 128 ? 1 : 2;
    static constexpr int threads = (groups + 1) * 128;
    static constexpr bool overlaps = HD <= 128;
};

template <int HD> struct prefill_smem {
    uint16_t q[shape<HD>::rows * HD];
    uint16_t k[shape<HD>::stages][ATTN_BLOCK * HD], v[shape<HD>::stages][ATTN_BLOCK * HD];
    float4 total[shape<HD>::groups][4][HD / 8 * 32]; /* a warp's own */
    uint64_t q_full, q_free, v_tail;
    uint64_t k_full[shape<HD>::stages], k_free[shape<HD>::stages];
    uint64_t v_full[shape<HD>::stages], v_free[shape<HD>::stages];
};

struct unit {
    const struct attn_tile *tile;
    const int32_t *pages;
    int kv_head, group, pos0; /* first row's position */
    int n_rows;               /* of tokens */
    int first, last;          /* blocks */
    int lo;                   /* first position that every row sees, if it reaches so far */
    int end;                  /* positions that the sequence has */
};

static __device__ __forceinline__ bool find_unit(const struct kattn &a, int round, struct unit &u)
{
    int i = unit_of(round, blockIdx.x, gridDim.x);
    if (i >= a.b->n_tiles * a.n_kv_heads) return false;
    u.tile = &a.b->tiles[i / a.n_kv_heads];
    u.pages = a.b->pages + (int64_t)u.tile->seq * a.b->pages_stride;
    u.kv_head = i % a.n_kv_heads;
    u.group = a.n_heads / a.n_kv_heads;
    u.n_rows = u.tile->n_rows;
    u.pos0 = u.tile->end - u.n_rows;
    u.first = first_seen(u.pos0, a.window) / ATTN_BLOCK;
    u.last = (u.tile->end - 1) / ATTN_BLOCK;
    u.lo = first_seen(u.pos0 + u.n_rows - 1, a.window);
    u.end = a.b->kv_len[u.tile->seq];
    return true;
}

/* A ring's place: stage and phase. */
template <int N> struct place {
    int stage;
    uint32_t phase;
    __device__ __forceinline__ void next()
    {
        if (++stage == N) stage = 0, phase ^= 1;
    }
};

/* ------------------------------------------------------------------ bringing */

/* A block of k or v, as far as the sequence goes. One warp. */
template <int HD>
static __device__ __forceinline__ void fetch(const struct kattn &a, const struct unit &u,
                                             const uint16_t *from, uint16_t *to, uint64_t *bar,
                                             int base)
{
    int lane = threadIdx.x % 32, n = min(ATTN_BLOCK, u.end - base), pieces = (n + 15) / 16;
    if (lane == 0) bar_expect(bar, pieces * ATTN_GROUP * HD * 2);
    __syncwarp();
    if (lane < pieces)
        bulk_copy(to + lane * ATTN_GROUP * HD,
                  from + page_at(a, u.pages, u.kv_head, base + lane * ATTN_GROUP, HD),
                  ATTN_GROUP * HD * 2, bar);
}

/* The sequence's last block of v: zeros where no token is. */
template <int HD>
static __device__ void fetch_tail(const struct kattn &a, const struct unit &u, uint16_t *to,
                                  uint64_t *tail, uint32_t phase, int base)
{
    int lane = threadIdx.x % 32, n = u.end - base;
    fetch<HD>(a, u, a.v, to, tail, base);
    bar_wait(tail, phase);
    for (int i = n / 16 * 2 * HD + lane; i < ATTN_BLOCK / 8 * HD; i += 32) {
        int valid = n - (i / (2 * HD) * 16 + i / 8 % 2 * 8); /* of these 8 tokens of a dim */
        uint4 *at = (uint4 *)to + i;
        if (valid < 8) *at = clear_tokens(*at, valid);
    }
    fence_async();
    __syncwarp();
}

template <int HD>
static __device__ __forceinline__ void bring_kv(const struct kattn &a, struct prefill_smem<HD> &sm)
{
    struct place<shape<HD>::stages> at = {
        0, 1
    }; /* all are free */
    uint32_t tail_phase = 0;
    struct unit u;
    for (int round = 0; find_unit(a, round, u); round++)
        for (int b = u.first; b <= u.last; b++, at.next()) {
            int base = b * ATTN_BLOCK;
            bar_wait(&sm.k_free[at.stage], at.phase);
            fetch<HD>(a, u, a.k, sm.k[at.stage], &sm.k_full[at.stage], base);
            bar_wait(&sm.v_free[at.stage], at.phase);
            if (base + ATTN_BLOCK <= u.end) {
                fetch<HD>(a, u, a.v, sm.v[at.stage], &sm.v_full[at.stage], base);
                continue;
            }
            fetch_tail<HD>(a, u, sm.v[at.stage], &sm.v_tail, tail_phase, base);
            tail_phase ^= 1;
            if (threadIdx.x == 0) bar_arrive(&sm.v_full[at.stage]);
        }
}

/* Rows of q as core matrices; rows that are none become zero. Warps 1 to 3. */
template <int HD>
static __device__ __forceinline__ void bring_q(const struct kattn &a, struct prefill_smem<HD> &sm)
{
    struct unit u;
    for (int round = 0; find_unit(a, round, u); round++) {
        bar_wait(&sm.q_free, (round & 1) ^ 1);
        const uint16_t *q = a.q + (int64_t)u.tile->row * a.q_stride + u.kv_head * u.group * HD;
        for (int i = threadIdx.x - 32; i < shape<HD>::rows * HD / 8; i += 96) {
            int row = i / HD * 8 + i % 8, c = i % HD / 8, token = row / u.group;
            bool is_row = token < u.n_rows;
            const uint16_t *from = q + (int64_t)token * a.q_stride + row % u.group * HD + c * 8;
            cp_async16(sm.q + i * 8, is_row ? from : q, is_row);
        }
        cp_async_commit();
        cp_async_wait<0>();
        fence_async();
        bar_arrive(&sm.q_full);
    }
}

/* ------------------------------------------------------------------ a warpgroup's rows */

/* A thread's two rows, g and g + 8 of its warp's 16. */
template <int HD> struct rows {
    int lo[2], hi[2];
    float m[2], l[2][2]; /* of the chunk at hand; l by column's parity */
    float tm[2], tl[2];  /* of the chunks before */
    float o[HD / 2];     /* the chunk's values */
    float s[64];         /* scores, then weights */
    uint32_t p[32];      /* weights, as products take them */
};

template <int HD>
static __device__ __forceinline__ void issue_scores(struct prefill_smem<HD> &sm, struct rows<HD> &r,
                                                    int stage, int wg)
{
#pragma unroll
    for (int c = 0; c < HD / 16; c++)
        product(r.s, matrix_at(sm.q + wg * 64 * HD + c * 128, 128, HD * 16),
                matrix_at(sm.k[stage] + c * 128, 128, HD * 16), c > 0);
    wgmma_commit();
}

template <int HD>
static __device__ __forceinline__ void issue_values(struct prefill_smem<HD> &sm, struct rows<HD> &r,
                                                    int stage, bool adds)
{
#pragma unroll
    for (int c = 0; c < ATTN_BLOCK / 16; c++)
        product(r.o, r.p + 4 * c, matrix_at(sm.v[stage] + c * HD * 16, 128, 256), c > 0 || adds);
    wgmma_commit();
}

/* What a row does not see of the block from `base`. */
template <int HD> static __device__ __forceinline__ void mask(struct rows<HD> &r, int base)
{
    int first = base + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < 64; i++) {
        int pos = first + i / 4 * 8 + i % 2, e = i / 2 % 2;
        if (pos < r.lo[e] || pos > r.hi[e]) r.s[i] = -INFINITY;
    }
}

/* Scores to weights; f: what the sums so far are to be multiplied with. */
template <int HD>
static __device__ __forceinline__ void softmax(struct rows<HD> &r, float scale, float f[2])
{
#pragma unroll
    for (int e = 0; e < 2; e++) {
        float m = fmaxf(r.s[2 * e], r.s[2 * e + 1]);
#pragma unroll
        for (int j = 1; j < 16; j++)
            m = fmaxf(m, fmaxf(r.s[4 * j + 2 * e], r.s[4 * j + 2 * e + 1]));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
        float now = fmaxf(r.m[e], __fmul_rn(m, scale)), base = finite_max(now);
        f[e] = fast_exp2(r.m[e] - base);
        r.m[e] = now;
        r.l[e][0] *= f[e];
        r.l[e][1] *= f[e];
#pragma unroll
        for (int j = 0; j < 16; j++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                float &x = r.s[4 * j + 2 * e + k];
                x = fast_exp2(__fmaf_rn(x, scale, -base));
                r.l[e][k] = __fadd_rn(r.l[e][k], x);
            }
    }
}

template <int HD> static __device__ __forceinline__ void pack_weights(struct rows<HD> &r)
{
#pragma unroll
    for (int i = 0; i < 32; i++) r.p[i] = pack_bf16(r.s[2 * i], r.s[2 * i + 1]);
}

template <int HD>
static __device__ __forceinline__ void scale_values(struct rows<HD> &r, const float f[2])
{
#pragma unroll
    for (int i = 0; i < HD / 2; i++) r.o[i] *= f[i / 2 % 2];
}

/* The chunk's values, with maxima m and sums l, join the total; they stay in r.o if `is_last`. */
template <int HD>
static __device__ __forceinline__ void merge_chunk(struct rows<HD> &r, float4 *total,
                                                   const float m[2], const float l[2][2],
                                                   bool is_first, bool is_last)
{
    float f[2], f2[2];
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int e = 0; e < 2; e++) {
        float sum = l[e][0] + l[e][1];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        merge_factors(r.tm[e], m[e], f[e], f2[e]);
        r.tl[e] = merge_value(r.tl[e], f[e], sum, f2[e]);
    }
#pragma unroll
    for (int i = 0; i < HD / 8; i++) {
        float4 x = is_first ? make_float4(0, 0, 0, 0) : total[i * 32 + lane];
        x.x = merge_value(x.x, f[0], r.o[4 * i], f2[0]);
        x.y = merge_value(x.y, f[0], r.o[4 * i + 1], f2[0]);
        x.z = merge_value(x.z, f[1], r.o[4 * i + 2], f2[1]);
        x.w = merge_value(x.w, f[1], r.o[4 * i + 3], f2[1]);
        if (is_last)
            r.o[4 * i] = x.x, r.o[4 * i + 1] = x.y, r.o[4 * i + 2] = x.z, r.o[4 * i + 3] = x.w;
        else
            total[i * 32 + lane] = x;
    }
}

/* Turns of the warpgroups: one issues its products while the other computes weights. */
template <int HD> static __device__ __forceinline__ void turn_wait(int wg)
{
    if (shape<HD>::groups > 1) named_sync(1 + wg, 256);
}
template <int HD> static __device__ __forceinline__ void turn_pass(int wg)
{
    if (shape<HD>::groups > 1) named_arrive(1 + (wg ^ 1), 256);
}

/* Scores of the block from `base` to weights. */
template <int HD>
static __device__ __forceinline__ void weigh_block(struct rows<HD> &r, const struct unit &u,
                                                   const struct kattn &a, int base, float f[2])
{
    if (base < u.lo || base + ATTN_BLOCK - 1 > u.pos0) mask(r, base);
    softmax(r, a.scale, f);
}

template <int HD> static __device__ __forceinline__ void begin_chunk(struct rows<HD> &r)
{
#pragma unroll
    for (int e = 0; e < 2; e++) {
        r.m[e] = -INFINITY;
        r.l[e][0] = r.l[e][1] = 0.0f;
    }
}

template <int HD>
static __device__ __forceinline__ void begin_rows(struct rows<HD> &r, const struct unit &u,
                                                  const struct kattn &a, int row0)
{
#pragma unroll
    for (int e = 0; e < 2; e++) {
        int token = (row0 + 8 * e) / u.group;
        bool is_row = token < u.n_rows;
        r.hi[e] = is_row ? u.pos0 + token : -1;
        r.lo[e] = first_seen(u.pos0 + token, a.window);
        r.tm[e] = -INFINITY;
        r.tl[e] = 0.0f;
    }
    begin_chunk(r);
}

/* A warp's 16 rows to the output, through shared memory of its own. */
template <int HD>
static __device__ __forceinline__ void write_rows(const struct rows<HD> &r, const struct unit &u,
                                                  const struct kattn &a, void *stage, int row0)
{
    enum { PITCH = HD * 2 + 16 }; /* no bank conflicts */
    char *at = (char *)stage;
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    __syncwarp();
#pragma unroll
    for (int e = 0; e < 2; e++) {
        float scale = 1.0f / r.tl[e];
#pragma unroll
        for (int j = 0; j < HD / 8; j++)
            *(uint32_t *)(at + (g + 8 * e) * PITCH + j * 16 + t * 4) =
                pack_bf16(r.o[4 * j + 2 * e] * scale, r.o[4 * j + 2 * e + 1] * scale);
    }
    __syncwarp();
    uint16_t *out = a.out + (int64_t)u.tile->row * a.out_stride + u.kv_head * u.group * HD;
#pragma unroll
    for (int i = lane; i < 16 * HD / 8; i += 32) {
        int row = row0 + i / (HD / 8), token = row / u.group;
        if (token < u.n_rows)
            *(uint4 *)(out + (int64_t)token * a.out_stride + row % u.group * HD +
                       i % (HD / 8) * 8) =
                *(uint4 *)(at + i / (HD / 8) * PITCH + i % (HD / 8) * 16);
    }
    __syncwarp();
}

/* ------------------------------------------------------------------ the walk over the blocks */

template <int HD> struct walk {
    struct place<shape<HD>::stages> k, v;
    bool adds, has_total; /* values onto the chunk's sum; is there a chunk before? */
};

/* One arrival a warp. */
static __device__ __forceinline__ void release(uint64_t *bar)
{
    if (threadIdx.x % 32 == 0) bar_arrive(bar);
}

/* Scores of block b beside the values of the block before; then b's weights. */
template <int HD>
static __device__ __forceinline__ void step(const struct kattn &a, const struct unit &u,
                                            struct prefill_smem<HD> &sm, struct rows<HD> &r,
                                            struct walk<HD> &w, int b, int wg, float4 *total)
{
    bool starts_chunk = b % (ATTN_CHUNK / ATTN_BLOCK) == 0;
    float f[2], m[2] = {r.m[0], r.m[1]}, l[2][2] = {{r.l[0][0], r.l[0][1]}, {r.l[1][0], r.l[1][1]}};
    bar_wait(&sm.k_full[w.k.stage], w.k.phase);
    turn_wait<HD>(wg);
    wgmma_fence();
    issue_scores(sm, r, w.k.stage, wg);
    bar_wait(&sm.v_full[w.v.stage], w.v.phase);
    issue_values(sm, r, w.v.stage, w.adds);
    wgmma_wait<0>();
    pin(r.s);
    turn_pass<HD>(wg);
    release(&sm.k_free[w.k.stage]);
    w.k.next();
    if (starts_chunk) begin_chunk(r);
    weigh_block(r, u, a, b * ATTN_BLOCK, f);
    pin(r.o);
    release(&sm.v_free[w.v.stage]);
    w.v.next();
    pack_weights(r);
    if (starts_chunk)
        merge_chunk(r, total, m, l, !w.has_total, false);
    else
        scale_values(r, f);
    w.has_total |= starts_chunk;
    w.adds = !starts_chunk;
}

/* Values of the last block; then all that remains is the last chunk to merge. */
template <int HD>
static __device__ __forceinline__ void lone_values(struct prefill_smem<HD> &sm, struct rows<HD> &r,
                                                   struct walk<HD> &w)
{
    bar_wait(&sm.v_full[w.v.stage], w.v.phase);
    wgmma_fence();
    issue_values(sm, r, w.v.stage, w.adds);
    wgmma_wait<0>();
    pin(r.o);
    release(&sm.v_free[w.v.stage]);
    w.v.next();
}

template <int HD>
static __device__ __forceinline__ void lone_scores(struct prefill_smem<HD> &sm, struct rows<HD> &r,
                                                   struct walk<HD> &w, int wg)
{
    bar_wait(&sm.k_full[w.k.stage], w.k.phase);
    wgmma_fence();
    issue_scores(sm, r, w.k.stage, wg);
    wgmma_wait<0>();
    pin(r.s);
    release(&sm.k_free[w.k.stage]);
    w.k.next();
}

/* Everything of a unit. */
template <int HD>
static __device__ __forceinline__ void walk_blocks(const struct kattn &a, const struct unit &u,
                                                   struct prefill_smem<HD> &sm, struct rows<HD> &r,
                                                   struct walk<HD> &w, int wg, float4 *total)
{
    float f[2];
    w.adds = w.has_total = false;
    lone_scores(sm, r, w, wg);
    weigh_block(r, u, a, u.first * ATTN_BLOCK, f);
    pack_weights(r);
    for (int b = u.first + 1; b <= u.last; b++)
        if (shape<HD>::overlaps) {
            step(a, u, sm, r, w, b, wg, total);
        } else {
            lone_values(sm, r, w);
            w.adds = b % (ATTN_CHUNK / ATTN_BLOCK) != 0;
            if (!w.adds) {
                merge_chunk(r, total, r.m, r.l, !w.has_total, false);
                w.has_total = true;
                begin_chunk(r);
            }
            lone_scores(sm, r, w, wg);
            weigh_block(r, u, a, b * ATTN_BLOCK, f);
            pack_weights(r);
            if (w.adds) scale_values(r, f);
        }
    release(&sm.q_free);
    lone_values(sm, r, w);
    merge_chunk(r, total, r.m, r.l, !w.has_total, true);
}

template <int HD>
static __device__ __forceinline__ void consume(const struct kattn &a, struct prefill_smem<HD> &sm)
{
    int wg = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, row0 = wg * 64 + warp * 16;
    float4 *total = sm.total[wg][warp];
    struct unit u;
    struct walk<HD> w = {
    };
    struct rows<HD> r;
    if (wg == 1) turn_pass<HD>(wg);
    for (int round = 0; find_unit(a, round, u); round++) {
        begin_rows(r, u, a, row0 + threadIdx.x % 32 / 4);
        bar_wait(&sm.q_full, round & 1);
        walk_blocks(a, u, sm, r, w, wg, total);
        write_rows(r, u, a, total, row0);
    }
}

template <int HD>
static __global__ void __launch_bounds__(shape<HD>::threads, 1) prefill_kernel(struct kattn a)
{
    extern __shared__ __align__(128) char raw[];
    struct prefill_smem<HD> &sm = *(struct prefill_smem<HD> *)raw;
    if (threadIdx.x == 0) {
        bar_init(&sm.q_full, 96);
        bar_init(&sm.q_free, shape<HD>::groups * 4);
        bar_init(&sm.v_tail, 1);
        for (int i = 0; i < shape<HD>::stages; i++) {
            bar_init(&sm.k_full[i], 1), bar_init(&sm.v_full[i], 1);
            bar_init(&sm.k_free[i], shape<HD>::groups * 4);
            bar_init(&sm.v_free[i], shape<HD>::groups * 4);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    pdl_next();
    pdl_wait();
    if (threadIdx.x < 128) {
        if (shape<HD>::groups > 1) registers_shrink<40>();
        if (threadIdx.x < 32)
            bring_kv(a, sm);
        else
            bring_q(a, sm);
    } else {
        if (shape<HD>::groups > 1) registers_grow<232>();
        consume(a, sm);
    }
}

template <int HD> static int run(cudaStream_t stream, const struct kattn *a, int n_tiles)
{
    static uint64_t done;
    size_t smem = sizeof(struct prefill_smem<HD>);
    int n_sms = 0, device;
    cudaError_t code = cudaGetDevice(&device);
    if (code == cudaSuccess)
        code = cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, device);
    if (code == cudaSuccess && !is_done_here(&done)) {
        code = cudaFuncSetAttribute(prefill_kernel<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    (int)smem);
        if (code == cudaSuccess) set_done_here(&done);
    }
    if (code != cudaSuccess) return (int)code;
    struct kattn scaled = *a;
    scaled.scale *= 1.4426950408889634f; /* exp2 takes the place of exp */
    int n = n_tiles * a->n_kv_heads;
    return launch(prefill_kernel<HD>, dim3(n < n_sms ? n : n_sms), shape<HD>::threads, smem, stream,
                  scaled);
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
    int rows = head_dim > 128 ? shape<256>::rows : shape<128>::rows;
    return rows / (n_heads / n_kv_heads);
}
