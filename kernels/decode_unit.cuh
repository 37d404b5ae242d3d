/* decode_unit.cuh - decode attention, first of three: what a cluster works on, its shared memory, how its
 * blocks reach each other, and warp 4, which brings K and V. attn_decode.cu says what it is all for. */
#ifndef KERNELS_DECODE_UNIT_CUH
#define KERNELS_DECODE_UNIT_CUH

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
    float *scores;                  /* [n][rows][SCORE_PITCH], raw, then weights */
    uint16_t *weights;              /* [rows][weight_pitch] */
    int rows, weight_pitch;
    char *slots;
};

struct unit {
    struct attn_item item;
    const int32_t *pages;
    int kv_head, head0, n_rows; /* heads head0.. of the unit */
    int lo, hi;                 /* positions seen */
    int first, last;            /* blocks of this item that are seen */
};

static __host__ __device__ __forceinline__ size_t scores_bytes(int n, int rows)
{
    return (size_t)n * rows * SCORE_PITCH * 4;
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
    u.item = a.b->items[i / (a.n_kv_heads * tiles)];
    u.pages = a.b->pages + (int64_t)u.item.seq * a.b->pages_stride;
    u.kv_head = i / tiles % a.n_kv_heads;
    u.head0 = u.kv_head * group + i % tiles * 16;
    u.n_rows = min(16, group - i % tiles * 16);
    u.hi = a.b->pos[u.item.row];
    u.lo = first_seen(u.hi, a.window);
    u.first = max(u.lo / ATTN_BLOCK, u.item.chunk * BLOCKS);
    u.last = min(u.hi / ATTN_BLOCK, (u.item.chunk + u.item.n) * BLOCKS - 1);
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
/* To where `to` is in the shared memory of every block of the cluster; counts as bytes at its barrier. */
static __device__ __forceinline__ void send_all(const float *to, float4 v, const uint64_t *bar,
                                                int n)
{
    for (int r = 0; r < n; r++)
        asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, "
                     "%3, %4}, [%5];" ::"r"(place_in(to, r)),
                     "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(place_in(bar, r))
                     : "memory");
}
static __device__ __forceinline__ void send_all(const float *to, float v, const uint64_t *bar,
                                                int n)
{
    for (int r = 0; r < n; r++)
        asm volatile(
            "st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(
                place_in(to, r)),
            "f"(v), "r"(place_in(bar, r))
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

#endif
