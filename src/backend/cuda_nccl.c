/* cuda_nccl.c - NCCL, found at run time: the reference for our own sums, and what carries them where GPUs
 * do not reach each other's memory.
 *
 * Its few functions are declared here, for its header is no part of CUDA; they have been the same since
 * 2.7. A call on a communicator and the abort of it never overlap: each has a lock, and the abort, which may
 * wait for the device, runs on a thread of its own. All connections are made as communicators are
 * (NCCL_RUNTIME_CONNECT=0), so that later calls only put work on a stream. NVLink multicast stays off.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

#include "backend/cuda_dev.h"
#include "backend/cuda_group.h"
#include "base/log.h"

typedef struct ncclComm *ncclComm_t;
enum { NCCL_SUCCESS = 0, NCCL_IN_PROGRESS = 7 };
enum { NCCL_INT32 = 2, NCCL_FLOAT32 = 7, NCCL_BFLOAT16 = 9 };
enum { NCCL_SUM = 0 };

struct nccl_functions {
    int (*ncclCommInitAll)(ncclComm_t *comm, int n, const int *devices);
    int (*ncclCommDestroy)(ncclComm_t comm);
    int (*ncclCommAbort)(ncclComm_t comm);
    int (*ncclCommGetAsyncError)(ncclComm_t comm, int *error);
    int (*ncclAllReduce)(const void *from, void *to, size_t count, int type, int op,
                         ncclComm_t comm, cudaStream_t stream);
    int (*ncclAllGather)(const void *from, void *to, size_t count, int type, ncclComm_t comm,
                         cudaStream_t stream);
    int (*ncclBroadcast)(const void *from, void *to, size_t count, int type, int root,
                         ncclComm_t comm, cudaStream_t stream);
    int (*ncclGroupStart)(void);
    int (*ncclGroupEnd)(void);
    const char *(*ncclGetErrorString)(int code);
};

struct nccl_rank {
    ncclComm_t comm; /* owned; NULL: aborted */
    pthread_mutex_t lock;
    pthread_t aborter;
    bool is_aborting;
    struct nccl *of;
};

struct nccl {
    void *library; /* stays for the life of the process: its threads may outlive us */
    struct nccl_functions f;
    int32_t n;
    struct nccl_rank rank[RANKS_MAX];
};

static bool find_functions(struct nccl *n)
{
#define FIND(name)                                                                                 \
    {                                                                                              \
        void *p = dlsym(n->library, #name);                                                        \
        if (!p) return false;                                                                      \
        *(void **)(void *)&n->f.name = p;                                                          \
    }
    FIND(ncclCommInitAll)
    FIND(ncclCommDestroy)
    FIND(ncclCommAbort)
    FIND(ncclCommGetAsyncError)
    FIND(ncclAllReduce)
    FIND(ncclAllGather)
    FIND(ncclBroadcast)
    FIND(ncclGroupStart)
    FIND(ncclGroupEnd)
    FIND(ncclGetErrorString)
#undef FIND
    return true;
}

static int open_all(struct nccl *n, const int *devices, struct sl_error *e)
{
    ncclComm_t comm[RANKS_MAX];
    setenv("NCCL_RUNTIME_CONNECT", "0", 0); /* what the user has set stays */
    setenv("NCCL_NVLS_ENABLE", "0", 0);
    n->library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!n->library) return sl_fail(e, SL_EUNSUPPORTED, "libnccl.so.2 is not found");
    if (!find_functions(n)) return sl_fail(e, SL_EUNSUPPORTED, "libnccl.so.2 is too old");
    int code = n->f.ncclCommInitAll(comm, n->n, devices);
    if (code != NCCL_SUCCESS)
        return sl_fail(e, SL_EDEVICE, "it does not start: %s", n->f.ncclGetErrorString(code));
    for (int32_t r = 0; r < n->n; r++) n->rank[r].comm = comm[r];
    return 0;
}

int nccl_open(struct nccl **out, int32_t n_ranks, const int *devices, struct sl_error *e)
{
    struct nccl *n = xcalloc(1, sizeof *n);
    n->n = n_ranks;
    for (int32_t r = 0; r < n_ranks; r++) {
        pthread_mutex_init(&n->rank[r].lock, NULL);
        n->rank[r].of = n;
    }
    int code = open_all(n, devices, e);
    if (code < 0) {
        nccl_close(n);
        return code;
    }
    *out = n;
    return 0;
}

void nccl_close(struct nccl *n)
{
    if (!n) return;
    for (int32_t r = 0; r < n->n; r++) {
        if (n->rank[r].is_aborting) pthread_join(n->rank[r].aborter, NULL);
        if (n->rank[r].comm) n->f.ncclCommDestroy(n->rank[r].comm);
        pthread_mutex_destroy(&n->rank[r].lock);
    }
    free(n);
}

static void *abort_rank(void *arg)
{
    struct nccl_rank *r = arg;
    pthread_mutex_lock(&r->lock);
    ncclComm_t comm = r->comm;
    r->comm = NULL;
    pthread_mutex_unlock(&r->lock);
    if (comm) r->of->f.ncclCommAbort(comm);
    return NULL;
}

void nccl_abort(struct nccl *n)
{
    for (int32_t r = 0; r < n->n; r++) {
        if (n->rank[r].is_aborting) continue;
        n->rank[r].is_aborting =
            pthread_create(&n->rank[r].aborter, NULL, abort_rank, &n->rank[r]) == 0;
    }
}

/* ------------------------------------------------------------------ calls */

static int failed(const struct nccl *n, int code, const char *what)
{
    if (code == NCCL_SUCCESS) return 0;
    log_write(LOG_ERROR, "cuda", "NCCL, %s: %s", what, n->f.ncclGetErrorString(code));
    return SL_EDEVICE;
}

int nccl_check(struct nccl *n, int32_t rank)
{
    int code = NCCL_SUCCESS, error = NCCL_SUCCESS;
    struct nccl_rank *r = &n->rank[rank];
    pthread_mutex_lock(&r->lock);
    if (r->comm) code = n->f.ncclCommGetAsyncError(r->comm, &error);
    pthread_mutex_unlock(&r->lock);
    if (code == NCCL_SUCCESS && error != NCCL_IN_PROGRESS) code = error;
    return failed(n, code, "asynchronous error");
}

int nccl_sum(struct nccl *n, int32_t rank, void *x, int64_t count, enum dtype type,
             cudaStream_t stream)
{
    struct nccl_rank *r = &n->rank[rank];
    int to = type == DT_F32 ? NCCL_FLOAT32 : NCCL_BFLOAT16, code = SL_EDEVICE;
    pthread_mutex_lock(&r->lock);
    if (r->comm)
        code = failed(n, n->f.ncclAllReduce(x, x, (size_t)count, to, NCCL_SUM, r->comm, stream),
                      "sum");
    pthread_mutex_unlock(&r->lock);
    return code;
}

int nccl_gather(struct nccl *n, int32_t rank, const void *from, void *to, int64_t count,
                cudaStream_t stream)
{
    struct nccl_rank *r = &n->rank[rank];
    int code = SL_EDEVICE;
    pthread_mutex_lock(&r->lock);
    if (r->comm)
        code = failed(n, n->f.ncclAllGather(from, to, (size_t)count, NCCL_INT32, r->comm, stream),
                      "gather");
    pthread_mutex_unlock(&r->lock);
    return code;
}

static int broadcasts(struct nccl *n, int32_t rank, const float *from, float *to,
                      const int64_t *count, cudaStream_t stream)
{
    int code = n->f.ncclGroupStart();
    for (int32_t r = 0; r < n->n && code == NCCL_SUCCESS; to += count[r++])
        code = n->f.ncclBroadcast(r == rank ? from : to, to, (size_t)count[r], NCCL_FLOAT32, r,
                                  n->rank[rank].comm, stream);
    int end = n->f.ncclGroupEnd();
    return code != NCCL_SUCCESS ? code : end;
}

int nccl_gather_uneven(struct nccl *n, int32_t rank, const float *from, float *to,
                       const int64_t *count, cudaStream_t stream)
{
    struct nccl_rank *r = &n->rank[rank];
    int code = SL_EDEVICE;
    pthread_mutex_lock(&r->lock);
    if (r->comm) code = failed(n, broadcasts(n, rank, from, to, count, stream), "gather");
    pthread_mutex_unlock(&r->lock);
    return code;
}
