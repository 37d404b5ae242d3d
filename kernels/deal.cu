/* deal.cu - sampling on several ranks: rows of logits are dealt out, the answers shared.
 *
 * what:     deal: dst[i] = row first + i of all ranks' logits, side by side. share: every rank's answers to
 *           the batch's results and to the slots, as if this rank had sampled all rows itself
 * shapes:   logits f32 [all_rows, this rank's share of n_vocab]; dst f32 [n_rows, n_vocab]; answers: words
 *           of struct kresult
 * launch:   deal: blocks of 512 threads over pieces of 4096 columns; share: blocks of 64 threads, a word of
 *           an answer each, for the k-th row of every share
 * assumes:  peers.cuh; after a deal comes a share, before any rank writes its logits again
 * numerics: copies
 * source:   -
 * measured: both and sampling take 75 us of a step of 64 rows on two H100
 *
 * A full meeting: deal, every rank tells every other where its logits lie, and waits for all of them. Share,
 * each block sends to every rank and waits for every rank, rows beyond a share being sent as they are.
 */
#include "peers.cuh"
#include "slots.cuh"

enum { THREADS = 512, PIECE = 4096, SHARE_THREADS = 64 };
static_assert((int)ANSWER_WORDS <= (int)SHARE_THREADS, "a thread a word");

/* ------------------------------------------------------------------ deal */

/* Every rank's logits. A rank's own are written, and its earlier kernels' writes visible to others, before
 * it tells (release); what a thread of this block reads of them it reads after they were told (acquire, and
 * the barrier). Block 0 tells; the blocks of a grid all fit, so it runs. */
static __device__ void meet_logits(const struct kdeal &a, uint32_t tag,
                                   const float *parts[RANKS_MAX])
{
    const struct kpeers &p = a.peers;
    int r = threadIdx.x;
    uint64_t own = (uint64_t)a.logits;
    if (blockIdx.x == 0 && r < p.n && r != p.rank) {
        char *to = inbox_of(p, r, tag) + p.rank * PAIR;
        __threadfence_system();
        send_word(to, (uint32_t)own, tag);
        send_word(to + sizeof(word), (uint32_t)(own >> 32), tag);
    }
    if (r < p.n) {
        const char *at = inbox_of(p, p.rank, tag) + r * PAIR;
        uint32_t low = (uint32_t)own, high = (uint32_t)(own >> 32);
        bool is_told = r == p.rank || (receive_word(p, at, tag, &low) &&
                                       receive_word(p, at + sizeof(word), tag, &high));
        __threadfence_system();
        parts[r] = is_told ? (const float *)((uint64_t)high << 32 | low) : nullptr;
    }
    __syncthreads();
}

/* Pieces of 4096 columns, past L1: a thread copies 8, all asked for before one is stored. */
static __device__ void copy_piece(float *to, const float *from, int n)
{
    enum { EACH = PIECE / THREADS };
    float v[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        int c = k * THREADS + threadIdx.x;
        if (c < n) v[k] = system_load(from + c);
    }
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        int c = k * THREADS + threadIdx.x;
        if (c < n) to[c] = v[k];
    }
}

static __global__ void __launch_bounds__(THREADS) deal_kernel(const struct kdeal a)
{
    __shared__ const float *parts[RANKS_MAX];
    int n = a.peers.n, words = (a.n_vocab + n - 1) / n, pieces = (words + PIECE - 1) / PIECE;
    pdl_next();
    pdl_wait();
    if (!a.parts) meet_logits(a, meeting_tag(a.peers), parts);
    for (int64_t at = blockIdx.x; at < (int64_t)a.n_rows * n * pieces; at += gridDim.x) {
        int i = (int)(at / (n * pieces)), r = (int)(at / pieces % n),
            c = (int)(at % pieces) * PIECE;
        int cols = min(words, a.n_vocab - r * words);
        const float *part = a.parts ? a.parts + (int64_t)a.all_rows * words * r : parts[r];
        if (!part) return; /* aborted */
        if (c < cols)
            copy_piece(a.dst + (int64_t)i * a.n_vocab + r * words + c,
                       part + (int64_t)(a.first + i) * cols + c, min(PIECE, cols - c));
    }
}

extern "C" int k_deal(cudaStream_t stream, const struct kdeal *d)
{
    int n = d->peers.n, words = (d->n_vocab + n - 1) / n;
    int64_t pieces = (int64_t)d->n_rows * n * ((words + PIECE - 1) / PIECE);
    int blocks = pieces < d->peers.max_blocks ? (int)pieces : d->peers.max_blocks;
    if (d->parts && !pieces) return 0;
    return launch(deal_kernel, dim3(blocks > 0 ? (unsigned)blocks : 1u), THREADS, 0, stream, *d);
}

/* ------------------------------------------------------------------ share */

/* Word j of row k of answers for `rows` rows. */
static __device__ __forceinline__ int64_t answer_at(int rows, int k, int j)
{
    if (j < 4) return (int64_t)j * rows + k;
    int64_t top = (int64_t)(j < 4 + SL_TOP_MAX ? 4 : 4 + SL_TOP_MAX) * rows;
    return top + (int64_t)k * SL_TOP_MAX + (j - 4) % SL_TOP_MAX;
}

static __device__ __forceinline__ int first_of(const struct kshare &a, int rank)
{
    return (int)((int64_t)a.all_rows * rank / a.peers.n); /* want_first */
}

/* Its place in an inbox: that in a table [n, rows, words]. */
static __device__ __forceinline__ int64_t word_at(const struct kshare &a, int r, int k, int j)
{
    return (((int64_t)r * a.answers.rows + k) * ANSWER_WORDS + j) * (int64_t)sizeof(word);
}

/* Word j of row k of rank r; false: aborted. */
static __device__ __forceinline__ bool answer_of(const struct kshare &a, int r, int k, int j,
                                                 uint32_t tag, uint32_t *v)
{
    const struct kpeers &p = a.peers;
    int rows = a.answers.rows;
    if (!a.gathered && r != p.rank)
        return receive_word(p, inbox_of(p, p.rank, tag) + word_at(a, r, k, j), tag, v);
    const int32_t *from =
        a.gathered ? a.gathered + (int64_t)r * rows * ANSWER_WORDS : a.answers.token;
    *v = (uint32_t)from[answer_at(rows, k, j)];
    return true;
}

static __device__ void take_answer(const struct kshare &a, int r, int k, int j, uint32_t v)
{
    const struct kbatch *b = a.peers.b;
    int i = first_of(a, r) + k;
    if (i >= first_of(a, r + 1) || i >= b->n_wants) return;
    b->result.token[answer_at(b->result.rows, i, j)] = (int32_t)v;
    struct want w = b->want[i];
    if (j == 0 && r != a.peers.rank && w.target < 0 && (int32_t)v >= 0)
        slot_append(a.slots[b->slot[w.seq]], (int32_t)v, a.max_len);
}

static __global__ void __launch_bounds__(SHARE_THREADS) share_kernel(const struct kshare a)
{
    const struct kpeers &p = a.peers;
    int j = threadIdx.x, rows = a.answers.rows, used = (a.all_rows + p.n - 1) / p.n;
    pdl_next();
    uint32_t tag = meeting_tag(p);
    pdl_wait();
    if (j >= ANSWER_WORDS) return;
    for (int k = blockIdx.x; k < used && !a.gathered; k += gridDim.x) {
        uint32_t v = (uint32_t)a.answers.token[answer_at(rows, k, j)];
        for (int r = 0; r < p.n; r++)
            if (r != p.rank) send_word(inbox_of(p, r, tag) + word_at(a, p.rank, k, j), v, tag);
    }
    for (int k = blockIdx.x; k < used; k += gridDim.x)
        for (int r = 0; r < p.n; r++) {
            uint32_t v;
            if (answer_of(a, r, k, j, tag, &v)) take_answer(a, r, k, j, v);
        }
}

extern "C" int64_t k_share_bytes(int64_t all_rows, int n_ranks)
{
    return (all_rows + n_ranks - 1) / n_ranks * n_ranks * ANSWER_WORDS * (int64_t)sizeof(word);
}

extern "C" int k_share(cudaStream_t stream, const struct kshare *s)
{
    int n = (s->all_rows + s->peers.n - 1) / s->peers.n;
    if (n < 1 || n > s->answers.rows ||
        (!s->gathered &&
         k_share_bytes((int64_t)s->answers.rows * s->peers.n, s->peers.n) > s->peers.half_bytes))
        return (int)cudaErrorInvalidValue;
    return launch(share_kernel, dim3((unsigned)(n < s->peers.max_blocks ? n : s->peers.max_blocks)),
                  SHARE_THREADS, 0, stream, *s);
}
