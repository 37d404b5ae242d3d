/* peers.cuh - how kernels of several ranks meet: words of data that carry their own tag, written into
 * each other's memory.
 *
 * Each rank has an inbox of two halves. A meeting has a number, the same on all ranks, that goes up by
 * one with each: its lower 32 bits are the tag, its last bit says which half is used. What a rank sends
 * goes, word by word, into the receiver's half: 32 bits of data and the tag in one 64-bit store. The
 * receiver reads a word until it has the tag. So there is no flag, no fence and no barrier: a word that
 * has the tag is the word that was sent (8-byte accesses are single-copy atomic: PTX ISA, memory
 * consistency model, vectors being several such accesses; NCCL's LL protocol rests on the same).
 *
 * Why nothing is overwritten before it was read. Rank A writes for meeting m + 2 into the half of B that
 * m used. A's kernel of m + 1 is over by then (griddepcontrol.wait). It got words of m + 1 which B sent, or
 * which were made from such words; B sends in the kernel of m + 1, after its kernel of m was over, so after
 * all that m brought it had been read. It holds where every meeting is a full one: no rank leaves before
 * something of each other rank's has reached it. Each kernel here is (its file says how), and every rank
 * takes part in every meeting in the same order.
 *
 * Why a stale word has another tag: it was written 2, 4, 6... meetings ago; a tag comes again after 2^32
 * meetings, days of decoding, and then only what was not written once in between could be taken for new.
 * Tag 0, which words have that nobody wrote, is not used.
 *
 * Why it ends: blocks of one kernel are never more than fit on the GPU at once, kernels before this one
 * in its stream do not wait for it, and later ones start no block before all of this one have started.
 * So all blocks of all ranks run, and each sends before it waits, rows in the same order everywhere. A rank
 * that does not come is waited for until the host writes the abort word; then every wait ends, with rubbish.
 *
 * source: PTX ISA 9.0, sections 8 and 9.7.9.8; NVIDIA/nccl, src/device/prims_ll.h
 */
#ifndef KERNELS_PEERS_CUH
#define KERNELS_PEERS_CUH

#include "system.cuh"

enum {
    LOOKS =
        1024, /* at the word, about 0.7 ms, between two at the abort word, which lies in host memory */
    PAIR = 16 /* bytes of two words, the size of an access */
};

/* The meeting's tag. The header of the batch is there before the launch's first kernel starts, and stays:
 * this needs no wait, but must not find an older launch's in L1. */
static __device__ __forceinline__ uint32_t meeting_tag(const struct kpeers &p)
{
    return system_load(&p.b->met) + (uint32_t)p.index;
}

/* Where the meeting's words for rank r lie. */
static __device__ __forceinline__ char *inbox_of(const struct kpeers &p, int r, uint32_t tag)
{
    return p.inbox[r] + (tag & 1 ? p.half_bytes : 0);
}

static __device__ __forceinline__ void send_pair(char *to, uint32_t x, uint32_t y, uint32_t tag)
{
    system_store_pair((word *)to, (word)tag << 32 | x, (word)tag << 32 | y);
}

static __device__ __forceinline__ void send_word(char *to, uint32_t x, uint32_t tag)
{
    system_store((word *)to, (word)tag << 32 | x);
}

/* False: aborted. */
static __device__ __forceinline__ bool receive_word(const struct kpeers &p, const char *at,
                                                    uint32_t tag, uint32_t *v)
{
    for (uint32_t n = 1;; n++) {
        word x = system_load((const word *)at);
        *v = (uint32_t)x;
        if ((uint32_t)(x >> 32) == tag) return true;
        if (n % LOOKS == 0 && system_load(p.abort)) return false;
    }
}

/* N pairs, `stride` bytes apart: all are asked for before any is looked at. Aborted: whatever is there. */
template <int N>
static __device__ __forceinline__ void receive_pairs(const struct kpeers &p, const char *at,
                                                     int64_t stride, uint32_t tag,
                                                     uint32_t v[2 * N])
{
    for (uint32_t n = 1;; n++) {
        word x[2 * N];
        bool is_there = true;
#pragma unroll
        for (int i = 0; i < N; i++)
            system_load_pair((const word *)(at + i * stride), &x[2 * i], &x[2 * i + 1]);
#pragma unroll
        for (int i = 0; i < 2 * N; i++) {
            is_there &= (uint32_t)(x[i] >> 32) == tag;
            v[i] = (uint32_t)x[i];
        }
        if (is_there || (n % LOOKS == 0 && system_load(p.abort))) return;
    }
}

#endif
