/* slots.cuh - what becomes of a slot when its sequence has a new token. */
#ifndef KERNELS_SLOTS_CUH
#define KERNELS_SLOTS_CUH

#include "common.cuh"

/* One thread a slot. max_len: of a history. */
static __device__ __forceinline__ void slot_append(struct kslot &p, int token, int max_len)
{
    p.last = token;
    if (p.n_tokens >= max_len) return;
    if (p.has_history) p.history[p.n_tokens] = token;
    if (p.has_penalty) p.count[token]++;
    p.n_tokens++;
}

#endif
