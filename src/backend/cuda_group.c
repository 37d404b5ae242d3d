/* cuda_group.c - a group of GPUs: are there so many, of the right kind, do they reach each other?
 *
 * Rank r runs on GPU r. Peer access is enabled between all of them before any memory is allocated, so that
 * what is allocated later is mapped at once. NVLink multicast is not used.
 */
#include "backend/cuda_group.h"

#include <stdlib.h>

#include "backend/cuda_dev.h"
#include "base/log.h"

/* ------------------------------------------------------------------ pairs */

/* What is said of a pair; equal pairs are counted in one line. */
struct link {
    bool is_peer;
    int rank, has_atomics; /* as the driver reports; atomics are native over NVLink only */
};

static struct link link_of(int a, int b)
{
    struct link l = {0};
    int can = 0;
    if (cudaDeviceCanAccessPeer(&can, a, b) == cudaSuccess) l.is_peer = can;
    if (cudaDeviceGetP2PAttribute(&l.rank, cudaDevP2PAttrPerformanceRank, a, b) != cudaSuccess)
        l.rank = -1;
    if (cudaDeviceGetP2PAttribute(&l.has_atomics, cudaDevP2PAttrNativeAtomicSupported, a, b) !=
        cudaSuccess)
        l.has_atomics = 0;
    cudaGetLastError(); /* "not known" is no error of ours */
    return l;
}

static bool is_same(const struct link *a, const struct link *b)
{
    return a->is_peer == b->is_peer && a->rank == b->rank && a->has_atomics == b->has_atomics;
}

static void report(const struct group *g)
{
    struct link seen[RANKS_MAX * RANKS_MAX];
    int count[RANKS_MAX * RANKS_MAX], n = 0;
    for (int a = 0; a < g->n; a++)
        for (int b = 0; b < g->n; b++) {
            if (g->device[a] == g->device[b]) continue;
            struct link l = link_of(g->device[a], g->device[b]);
            int k = 0;
            while (k < n && !is_same(&seen[k], &l)) k++;
            if (k == n) seen[n] = l, count[n++] = 0;
            count[k]++;
        }
    for (int k = 0; k < n; k++)
        log_write(LOG_INFO, "cuda", "%d GPUs, %d of %d directed pairs: %s, %s, performance rank %d",
                  g->n, count[k], g->n * (g->n - 1), seen[k].has_atomics ? "NVLink" : "PCIe",
                  seen[k].is_peer ? "peer access" : "no peer access", seen[k].rank);
}

static int enable_pair(int a, int b, struct sl_error *e)
{
    cudaError_t code = cudaSetDevice(a);
    if (code == cudaSuccess) code = cudaDeviceEnablePeerAccess(b, 0);
    if (code == cudaErrorPeerAccessAlreadyEnabled) {
        cudaGetLastError();
        return 0;
    }
    if (code == cudaSuccess) return 0;
    return sl_fail(e, SL_EDEVICE, "GPU %d cannot open the memory of GPU %d: %s", a, b,
                   cudaGetErrorString(code));
}

static int enable_peers(struct group *g, struct sl_error *e)
{
    g->has_peers = true;
    for (int a = 0; a < g->n; a++)
        for (int b = 0; b < g->n; b++)
            if (g->device[a] != g->device[b] && !link_of(g->device[a], g->device[b]).is_peer)
                g->has_peers = false;
    for (int a = 0; a < g->n && g->has_peers; a++)
        for (int b = 0; b < g->n; b++)
            if (g->device[a] != g->device[b]) TRY(enable_pair(g->device[a], g->device[b], e));
    return 0;
}

/* ------------------------------------------------------------------ open, close */

static int check_gpus(int32_t n, const int *devices, struct sl_error *e)
{
    int count = 0, major = 0;
    if (n > RANKS_MAX)
        return sl_fail(e, SL_EUNSUPPORTED, "the cuda device runs at most %d ranks, not %d",
                       (int)RANKS_MAX, n);
    if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
    for (int32_t r = 0; r < n; r++) {
        if (devices[r] >= count)
            return sl_fail(e, SL_EUNSUPPORTED,
                           "this machine has %d GPU%s, --tensor-parallel-size asks for %d", count,
                           count == 1 ? "" : "s", n);
        if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, devices[r]) !=
            cudaSuccess)
            return sl_fail(e, SL_EDEVICE, "GPU %d does not answer", devices[r]);
        if (major != CUDA_MAJOR)
            return sl_fail(e, SL_EUNSUPPORTED,
                           "GPU %d has compute capability %d.x, not 9.0 (H100, H200): "
                           "--tensor-parallel-size %d cannot use it",
                           devices[r], major, n);
    }
    return 0;
}

static int open_abort_word(struct group *g, struct sl_error *e)
{
    void *p = NULL;
    unsigned flags = cudaHostAllocPortable | cudaHostAllocMapped;
    if (cudaSetDevice(g->device[0]) != cudaSuccess ||
        cudaHostAlloc(&p, sizeof *g->aborted, flags) != cudaSuccess)
        return sl_fail(e, SL_EDEVICE, "no pinned memory");
    g->aborted = p;
    atomic_init(g->aborted, 0);
    return 0;
}

int cuda_group_use_nccl(struct group *g, const char *needed, struct sl_error *e)
{
    struct sl_error why = {0};
    if (g->nccl) return 0;
    if (g->shared_by > 1)
        return needed ? sl_fail(e, SL_EUNSUPPORTED, "NCCL does not run two ranks on one GPU") : 0;
    int code = nccl_open(&g->nccl, g->n, g->device, &why);
    if (code == 0) return 0;
    if (needed) return sl_fail(e, code, "%s, and there is no NCCL: %s", needed, why.text);
    log_write(LOG_INFO, "cuda", "without NCCL: %s", why.text);
    return 0;
}

static int open_parts(struct group *g, struct sl_error *e)
{
    TRY(open_abort_word(g, e));
    TRY(enable_peers(g, e));
    report(g);
    if (!g->has_peers) return cuda_group_use_nccl(g, "the GPUs cannot read each other's memory", e);
    return 0;
}

int cuda_group_open_on(struct group **out, int32_t n_ranks, const int *devices, struct sl_error *e)
{
    TRY(check_gpus(n_ranks, devices, e));
    struct group *g = xcalloc(1, sizeof *g);
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->changed, NULL);
    g->n = n_ranks;
    for (int32_t a = 0; a < n_ranks; a++) {
        int32_t same = 0;
        g->device[a] = devices[a];
        for (int32_t b = 0; b < n_ranks; b++) same += devices[a] == devices[b];
        if (same > g->shared_by) g->shared_by = same;
    }
    int code = open_parts(g, e);
    if (code < 0) {
        cuda_group_close(g);
        return code;
    }
    *out = g;
    return 0;
}

int cuda_group_open(struct group **out, int32_t n_ranks, struct sl_error *e)
{
    int devices[RANKS_MAX];
    for (int r = 0; r < RANKS_MAX; r++) devices[r] = r;
    return cuda_group_open_on(out, n_ranks, devices, e);
}

void cuda_group_close(struct group *g)
{
    if (!g) return;
    nccl_close(g->nccl);
    cudaFreeHost((void *)(uintptr_t)g->aborted);
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

int cuda_group_meet(struct group *g)
{
    pthread_mutex_lock(&g->lock);
    uint32_t now = g->n_meetings;
    if (++g->n_arrived == g->n) {
        g->n_arrived = 0;
        g->n_meetings++;
        pthread_cond_broadcast(&g->changed);
    }
    while (g->n_meetings == now && !cuda_group_is_aborted(g))
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
    return cuda_group_is_aborted(g) ? SL_EDEVICE : 0;
}

/* Release: whoever sees it sees what led to it. Kernels poll the word over the bus. */
void cuda_group_abort(struct group *g)
{
    pthread_mutex_lock(&g->lock); /* nobody is between looking at the word and going to sleep */
    atomic_store_explicit(g->aborted, 1, memory_order_release);
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
    if (g->nccl) nccl_abort(g->nccl);
}
