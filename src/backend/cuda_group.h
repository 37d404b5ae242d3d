/* cuda_group.h - what the ranks of one model share on the cuda device: which GPU is whose, each other's
 * inboxes, the word that ends all waits, NCCL where it is there.
 *
 * Made and closed by one thread, before the first rank and after the last; group_abort comes from any
 * thread, all else from the ranks' own.
 */
#ifndef BACKEND_CUDA_GROUP_H
#define BACKEND_CUDA_GROUP_H

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "backend/backend.h"
#include "kernels.h"

struct nccl; /* cuda_nccl.c */

struct group {
    int32_t n;
    int device[RANKS_MAX];     /* of each rank */
    int32_t shared_by;         /* ranks on one GPU: 1, but for tests */
    bool has_peers;            /* each GPU reads and writes every other's memory */
    _Atomic uint32_t *aborted; /* owned, pinned: kernels look at it */
    char *inbox[RANKS_MAX];    /* each rank's, set as it opens */
    struct nccl *nccl;         /* owned; NULL: not needed or not there */
    pthread_mutex_t lock;      /* of what follows: a barrier of the ranks' threads */
    pthread_cond_t changed;
    int32_t n_arrived;
    uint32_t n_meetings;
};

/* As struct device has them. */
int cuda_group_open(struct group **out, int32_t n_ranks, struct sl_error *e);
void cuda_group_close(struct group *g);
void cuda_group_abort(struct group *g);
/* Ranks on these GPUs; the same GPU for all is for tests: kernels of ranks must then fit beside each
 * other. */
int cuda_group_open_on(struct group **out, int32_t n_ranks, const int *devices, struct sl_error *e);

static inline bool cuda_group_is_aborted(const struct group *g)
{
    return atomic_load_explicit(g->aborted, memory_order_acquire) != 0;
}

/* The ranks' threads wait for each other. While kernels are loaded and graphs made, no kernel may wait for
 * one that is not launched yet: the driver takes locks and waits for the device as it sees fit (XLA found
 * deadlocks there). So ranks meet before and after. SL_EDEVICE: aborted. */
int cuda_group_meet(struct group *g);

/* NCCL from now on, unless it is open. needed: why, for the error; NULL: without it will do too. From the
 * thread that opens the ranks. */
int cuda_group_use_nccl(struct group *g, const char *needed, struct sl_error *e);

/* cuda_nccl.c: one communicator a rank. A call fails once nccl_abort was called or a communicator has
 * reported an error. type: DT_F32 or DT_BF16. */
int nccl_open(struct nccl **out, int32_t n_ranks, const int *devices, struct sl_error *e);
void nccl_close(struct nccl *n);
/* Ends what is under way, at once or a little later. Any thread; returns at once. */
void nccl_abort(struct nccl *n);
/* Has this rank's communicator an error of its own? Logs it. */
int nccl_check(struct nccl *n, int32_t rank);
/* x += all other ranks' x. */
int nccl_sum(struct nccl *n, int32_t rank, void *x, int64_t count, enum dtype type,
             cudaStream_t stream);
/* to [n_ranks, count] of 32-bit words. */
int nccl_gather(struct nccl *n, int32_t rank, const void *from, void *to, int64_t count,
                cudaStream_t stream);
/* Every rank's f32s, count[r] of rank r, one after the other to `to`. */
int nccl_gather_uneven(struct nccl *n, int32_t rank, const float *from, float *to,
                       const int64_t *count, cudaStream_t stream);

#endif
