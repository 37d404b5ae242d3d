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
#include "decode_values.cuh"

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
    if (u.item.n_parts > 1)
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
        int round = 0, i = blockIdx.x / lay.n, n = gridDim.x / lay.n;
        bool has_unit = find_unit(a, i, u); /* the batch was there before the step began */
        pdl_wait();
        for (; has_unit; has_unit = find_unit(a, unit_of(++round, i, n), u))
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
    static uint64_t done;
    if (is_done_here(&done)) return cudaSuccess;
    cudaError_t code = cudaFuncSetAttribute(decode_kernel<HD>,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM_MAX);
    if (code == cudaSuccess) set_done_here(&done);
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

/* Asked of a device once, of one of several alike: SMs come in groups of unequal size, so it is not all of
 * them over n. */
extern "C" int k_attn_clusters(int32_t n)
{
    static int known[CLUSTER_MAX + 1];
    int count = __atomic_load_n(&known[n], __ATOMIC_RELAXED);
    if (count) return count;
    cudaLaunchAttribute attr = cluster_attribute(n);
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)n);
    config.blockDim = dim3((WARPS + 1) * 32);
    config.dynamicSmemBytes = SMEM_MAX;
    config.attrs = &attr;
    config.numAttrs = 1;
    if (allow_smem<128>() != 0 ||
        cudaOccupancyMaxActiveClusters(&count, decode_kernel<128>, &config) != cudaSuccess)
        count = 0;
    if (count < 1) count = 1;
    __atomic_store_n(&known[n], count, __ATOMIC_RELAXED);
    return count;
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
