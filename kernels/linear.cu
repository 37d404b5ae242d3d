/* linear.cu - y = x . w^T + bias for up to 64 rows: the weights stream through once, at the speed
 * of memory.
 *
 * what:     y[m][n] = sum over k of x[m][k] w[n][k], + bias[n]; with a gate, y = act(y of w) * (y
 *           of w2), where both are rounded as if they had been stored
 * shapes:   w and w2 [n, k] bf16 row-major, x [m, k] bf16, y [m, n] bf16 or f32
 * launch:   at most a block an SM, each taking tiles of N rows of w in turn: one warp copies stages
 *           of w and x into a ring in shared memory, four multiply (wgmma, x as the 64 rows of A).
 *           The ring is filled with w before the kernel waits for the one before it: what lies
 *           between two products hides behind the weights of the second
 * assumes:  k a multiple of 8; w and x 16-byte aligned
 * numerics: bf16 products, f32 sums in ascending k, 16 columns an instruction, never split: an
 *           element's bits depend on its row of w and of x alone, and are those of cuBLASLt
 *           without a split of k
 * source:   own; the ring as in CUTLASS's warp-specialised kernels; sharing x in clusters lost
 * measured: see kernels/README.md
 */
#include "hopper.cuh"

#include "tensor_map.h"

enum {
    COLS = 64, /* of a tile: 128 bytes */
    ROWS =
        64, /* of A: rows of x past the staged ones multiply what lies there, and are not stored */
    WARPS = 4,
    RING_BYTES = 200 << 10,
    X_BYTES = ROWS * 128 /* what A's 64 rows may read past the last stage */
};

/* How a shape is cut. */
struct cut {
    int n;      /* rows of weights in a tile; with a gate, half of w and half of w2 */
    int blocks; /* of 64 columns in a stage */
    int x_rows; /* of x staged: 8, 16, 32 or 64 */
    int stages; /* of the ring */
};

struct work {
    struct klinear l;
    struct cut cut;
    int steps;        /* stages a tile takes */
    int rounds;       /* tiles a block of threads takes */
    int width;        /* columns of y in a tile */
    bool is_whole;    /* k is a multiple of 64 */
    bool is_w2_first; /* in memory, and so in a tile */
};

struct maps {
    CUtensorMap w, x; /* w: with a gate, of both matrices */
};

/* A place in the ring; `phase` is the parity of its turns. */
struct place {
    int stage;
    uint32_t phase;
};
static __device__ __forceinline__ void advance(struct place &p, int stages)
{
    if (++p.stage < stages) return;
    p.stage = 0;
    p.phase ^= 1;
}

struct ring {
    char *stage;
    uint64_t *full, *empty;
    int bytes, x_at; /* of a stage */
};

/* Of y's columns. */
static __device__ __forceinline__ int first_column(const struct work &w, int round)
{
    return (round * (int)gridDim.x + (int)blockIdx.x) * w.width;
}

/* The ring's copies: which stage of which tile comes next. */
struct reader {
    int step, turn;
    struct place at;
};

static __device__ __forceinline__ void forward(struct reader &i, const struct work &w)
{
    advance(i.at, w.cut.stages);
    if (++i.step < w.steps) return;
    i.step = 0;
    i.turn++;
}

/* A stage's blocks of `rows` rows of a matrix: at once, or one after the other where the last is not
 * whole. */
static __device__ __forceinline__ void load_blocks(const struct work &w, const struct reader &i,
                                                   char *to, int rows, const CUtensorMap *map,
                                                   int row, uint64_t policy, uint64_t *bar)
{
    int first = i.step * w.cut.blocks;
    if (w.is_whole) {
        tma_load(to, map, bar, 0, row, first, policy);
        return;
    }
    for (int b = 0; b < w.cut.blocks; b++)
        tma_load(to + b * rows * 128, map, bar, (first + b) * COLS, row, 0, policy);
}

static __device__ __forceinline__ void load_w(const struct work &w, const struct ring &r,
                                              const struct maps &maps, const struct reader &i)
{
    uint64_t *full = &r.full[i.at.stage];
    bar_expect(full, r.bytes);
    load_blocks(w, i, r.stage + i.at.stage * r.bytes, w.cut.n, &maps.w, first_column(w, i.turn),
                KEEP_NOT, full);
}

static __device__ __forceinline__ void load_x(const struct work &w, const struct ring &r,
                                              const struct maps &maps, const struct reader &i)
{
    load_blocks(w, i, r.stage + i.at.stage * r.bytes + r.x_at, w.cut.x_rows, &maps.x, 0, KEEP,
                &r.full[i.at.stage]);
}

static __device__ __forceinline__ void produce(const struct work &w, const struct ring &r,
                                               const struct maps &maps)
{
    struct reader of_w = {}, of_x = {};
    for (int k = 0; k < w.cut.stages && of_w.turn < w.rounds; k++, forward(of_w, w))
        load_w(w, r, maps, of_w);
    pdl_wait();
    for (int k = 0; k < w.cut.stages && of_x.turn < w.rounds; k++, forward(of_x, w))
        load_x(w, r, maps, of_x);
    for (; of_w.turn < w.rounds; forward(of_w, w)) {
        bar_wait(&r.empty[of_w.at.stage], of_w.at.phase ^ 1);
        load_w(w, r, maps, of_w);
        load_x(w, r, maps, of_w);
    }
}

/* A product is stored, then biased, as it is where another library does the product. */
static __device__ __forceinline__ float rounded(float v, const float *bias, int64_t n)
{
    v = bf16_f(f_bf16(v));
    return bias ? bf16_f(f_bf16(v + bias[n])) : v;
}

static __device__ __forceinline__ void store_one(const struct klinear &l, int m, int n, float v)
{
    if (m >= l.m || n >= l.n) return;
    int64_t at = m * l.y_stride + n;
    if (l.is_f32)
        ((float *)l.y)[at] = v;
    else
        ((uint16_t *)l.y)[at] = f_bf16(rounded(v, l.bias, n));
}

static __device__ __forceinline__ void store_gated(const struct klinear &l, int m, int n, float v,
                                                   float v2)
{
    if (m >= l.m || n >= l.n) return;
    v = glu_gate(rounded(v, l.bias, n), l.glu);
    ((uint16_t *)l.y)[m * l.y_stride + n] = f_bf16(v * rounded(v2, l.bias, l.n + n));
}

/* A warp's 16 rows of x, of which a lane has two. With a gate, half of a tile's columns are of the other
 * matrix. */
template <int PER, int SETS, bool GATED>
static __device__ __forceinline__ void store(const struct work &w, const float (&c)[SETS][PER],
                                             int row, int col)
{
    enum { N = GATED ? PER / 2 : PER };
#pragma unroll
    for (int j = 0; j < SETS; j++)
#pragma unroll
        for (int e = 0; e < N; e++) {
            int m = row + e / 2 % 2 * 8, n = col + j * PER * 2 + e / 4 * 8 + e % 2;
            if (GATED)
                store_gated(w.l, m, n, w.is_w2_first ? c[j][e + N] : c[j][e],
                            w.is_w2_first ? c[j][e] : c[j][e + N]);
            else
                store_one(w.l, m, n, c[j][e]);
        }
}

/* A stage's products: SETS sets of 2 PER rows of w. */
template <int PER, int SETS, int BLOCKS>
static __device__ __forceinline__ void multiply(float (&c)[SETS][PER], uint32_t w_at, uint32_t x_at,
                                                uint32_t x_block, int adds)
{
    enum { SET = PER * 2 * 128 >> 4, BLOCK = SET * SETS }; /* in units of a descriptor */
    uint32_t a = wgmma_operand(x_at), b = wgmma_operand(w_at);
#pragma unroll
    for (int i = 0; i < BLOCKS; i++)
#pragma unroll
        for (int k = 0; k < COLS / 16; k++)
#pragma unroll
            for (int j = 0; j < SETS; j++)
                wgmma(c[j], a + i * x_block + 2 * k, b + i * BLOCK + j * SET + 2 * k,
                      i || k ? 1 : adds);
}

template <int PER, int SETS, int BLOCKS, bool GATED>
static __device__ __forceinline__ void consume(const struct work &w, const struct ring &r, int warp)
{
    int lane = threadIdx.x % 32;
    struct place p = {};
    uint32_t base = smem_at(r.stage);
    for (int round = 0; round < w.rounds; round++) {
        float c[SETS][PER];
        for (int step = 0; step < w.steps; step++, advance(p, w.cut.stages)) {
            uint32_t at = base + p.stage * r.bytes;
            bar_wait(&r.full[p.stage], p.phase);
            wgmma_fence();
            multiply<PER, SETS, BLOCKS>(c, at, at + r.x_at, w.cut.x_rows * 128 >> 4, step);
            wgmma_commit();
            wgmma_wait<0>(); /* the products wait for memory, not memory for them */
            if (lane == 0) bar_arrive(&r.empty[p.stage]);
        }
        if (warp * 16 < w.l.m)
            store<PER, SETS, GATED>(w, c, warp * 16 + lane / 4,
                                    first_column(w, round) + lane % 4 * 2);
    }
}

template <int PER, int SETS, int BLOCKS, bool GATED = false>
static __global__ void __launch_bounds__(WARPS * 32 + 32, 1)
    linear_kernel(const __grid_constant__ struct maps maps, const struct work w)
{
    extern __shared__ __align__(1024) char smem[];
    __shared__ uint64_t full[32], empty[32];
    int warp = __shfl_sync(~0u, threadIdx.x / 32, 0); /* the same in a register for all */
    struct ring r = {smem, full, empty, (w.cut.n + w.cut.x_rows) * 128 * w.cut.blocks,
                     w.cut.n * 128 * w.cut.blocks};
    if (threadIdx.x == WARPS * 32) {
        tma_prefetch_map(&maps.w);
        tma_prefetch_map(&maps.x);
        for (int i = 0; i < w.cut.stages; i++) {
            bar_init(&full[i], 1);
            bar_init(&empty[i], WARPS);
        }
        bar_init_done();
    }
    pdl_next();
    __syncthreads();
    if (warp < WARPS)
        consume<PER, SETS, BLOCKS, GATED>(w, r, warp);
    else if (threadIdx.x == WARPS * 32)
        produce(w, r, maps);
}

/* ------------------------------------------------------------------ launch */

static const struct {
    int n, blocks;
    bool is_gated;
    void (*fn)(const struct maps, const struct work);
} kernels[] = {
    {16, 4, false, linear_kernel<8, 1, 4>},      {32, 4, false, linear_kernel<16, 1, 4>},
    {48, 4, false, linear_kernel<24, 1, 4>},     {64, 4, false, linear_kernel<16, 2, 4>},
    {128, 2, false, linear_kernel<16, 4, 2>},    {224, 1, false, linear_kernel<16, 7, 1>},
    {32, 4, true, linear_kernel<16, 1, 4, true>}};
enum { N_KERNELS = sizeof kernels / sizeof *kernels };

/* The kernel and cut that cost least, in times of reading the weights: for blocks that are idle in
 * the last round, for reading x again with each tile, and for instructions too small to keep up.
 * The factors are measured. */
static int choose(const struct klinear *l, struct cut *cut)
{
    int best = -1;
    double least = 0;
    for (int i = 0; i < N_KERNELS; i++) {
        struct cut c = {kernels[i].n, kernels[i].blocks};
        c.x_rows = l->m <= 8 ? 8 : l->m <= 16 ? 16 : l->m <= 32 ? 32 : 64;
        c.stages = RING_BYTES / ((c.n + c.x_rows) * 128 * c.blocks);
        double tiles = (double)((l->n * (l->w2 ? 2 : 1) + c.n - 1) / c.n),
               rounds = (double)(((int)tiles + SMS - 1) / SMS), idle = 1 - tiles / (rounds * SMS),
               cost = 1 + 0.15 * idle + 0.02 * l->m / c.n + (c.n < 32 ? 0.3 : 0);
        if (kernels[i].is_gated != (l->w2 != NULL) || (best >= 0 && cost >= least)) continue;
        least = cost;
        best = i;
        *cut = c;
    }
    return best;
}

static int make_maps(struct maps *maps, struct work *w)
{
    const struct klinear *l = &w->l;
    w->is_whole = l->k % COLS == 0;
    w->is_w2_first = l->w2 && l->w2 < l->w;
    int64_t apart = l->w2 ? (w->is_w2_first ? l->w - l->w2 : l->w2 - l->w) : 0;
    struct tensor_rows of_w = {w->is_w2_first ? l->w2 : l->w, l->n, l->k, apart},
                       of_x = {l->x, l->m, l->k, 0};
    int blocks = w->is_whole ? w->cut.blocks : 1;
    return tensor_map_blocks(&maps->w, &of_w, w->width, blocks) ||
           tensor_map_blocks(&maps->x, &of_x, w->cut.x_rows, blocks);
}

static int set_smem()
{
    static uint64_t done;
    if (is_done_here(&done)) return 0;
    for (int i = 0; i < N_KERNELS; i++) {
        cudaError_t code = cudaFuncSetAttribute(
            kernels[i].fn, cudaFuncAttributeMaxDynamicSharedMemorySize, RING_BYTES + X_BYTES);
        if (code != cudaSuccess) return (int)code;
    }
    set_done_here(&done);
    return 0;
}

static int run(cudaStream_t stream, const struct klinear *l)
{
    struct maps maps = {};
    struct work w = {*l};
    int i = choose(l, &w.cut), code = set_smem();
    if (code) return code;
    w.width = w.cut.n / (l->w2 ? 2 : 1);
    if (make_maps(&maps, &w)) return (int)cudaErrorInvalidValue;
    int tiles = (int)((l->n + w.width - 1) / w.width), columns = w.cut.blocks * COLS,
        grid = tiles < SMS ? tiles : SMS;
    w.steps = (int)((l->k + columns - 1) / columns);
    w.rounds = (tiles + grid - 1) / grid;
    size_t smem = (size_t)w.cut.stages * (w.cut.n + w.cut.x_rows) * 128 * w.cut.blocks + X_BYTES;
    return launch(kernels[i].fn, dim3((unsigned)grid), WARPS * 32 + 32, smem, stream, maps, w);
}

extern "C" int k_linear(cudaStream_t stream, const struct klinear *l)
{
    struct klinear part = *l;
    size_t element = l->is_f32 ? sizeof(float) : sizeof(uint16_t);
    for (int32_t at = 0; at < l->m; at += ROWS) {
        part.x = l->x + (int64_t)at * l->k;
        part.y = (char *)l->y + (size_t)(at * l->y_stride) * element;
        part.m = l->m - at < ROWS ? l->m - at : ROWS;
        int code = run(stream, &part);
        if (code) return code;
    }
    return 0;
}
