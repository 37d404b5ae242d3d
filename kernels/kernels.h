/* kernels.h - the CUDA kernels behind one C header: a launcher an op, called by
 * src/backend/cuda_*.c.
 *
 * All pointers are device memory unless said otherwise, all launches go to `stream` with
 * programmatic dependent launch: a kernel may start while the one before it drains, and waits
 * (griddepcontrol.wait) before it touches anything that an earlier kernel wrote. A launcher returns
 * a cudaError_t as int, 0 if the launch was accepted. Types: activations bf16 (`bf16` below is
 * uint16_t storage), the residual stream and logits f32, weights bf16 row-major [rows, cols],
 * vectors (norms, biases) f32. C17 and C++17.
 */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    ATTN_BLOCK = 128,  /* positions of a softmax step */
    ATTN_CHUNK = 1024, /* positions of a split: chunks are computed apart and merge in order */
    RANKS_MAX = 8,     /* GPUs that share a model */
    ANSWER_WORDS = 4 + 2 * SL_TOP_MAX /* of a wanted row's results */
};

/* A sequence's piece of decode attention: chunks [chunk, chunk + n) of its n_chunks. */
struct attn_item {
    int32_t seq, row; /* of the batch */
    int32_t chunk, n, n_chunks;
    int32_t n_parts; /* items of this sequence; 1: writes the output itself */
    int32_t first;   /* partial slot of its chunk 0 */
};

/* A tile of prefill attention. */
struct attn_tile {
    int32_t seq, row, n_rows; /* token rows */
    int32_t end;              /* positions that its last row sees */
};

/* Where a step's results go: pinned host memory, written by the sampling kernel over the bus; of
 * several ranks, first device memory. One piece of 32-bit words, from token on, for so many `rows`:
 * token, rank, n_top, logprob [rows], top_id, top_logprob [rows, SL_TOP_MAX]. */
struct kresult {
    int32_t *token, *rank, *n_top, *top_id;
    float *logprob, *top_logprob;
    int32_t rows;
};

/* A step's batch in device memory; filled by one copy from pinned memory. */
struct kbatch {
    int32_t n_tokens, n_seqs, n_wants, page_size, pages_stride, n_items, n_tiles;
    const int32_t *token, *pos, *kv_slot, *q_start, *kv_len, *slot, *pages;
    const int32_t *seq_of; /* [n_tokens] */
    const struct want *want;
    const uint32_t *masks; /* [n_masks, mask_words] */
    int32_t mask_words;
    const struct attn_item *items; /* sequences with one row */
    const struct attn_tile *tiles; /* the others */
    struct kresult result;
    uint32_t met; /* meetings of the ranks before this launch */
    const struct pooling *pooling;
    const int32_t *pooled_rows; /* [n_poolings] of the sequence so far, this step's included */
    float *pooled;              /* pinned host memory */
};

/* What a slot holds on the device. Arrays lie in the slot's own region. */
struct kslot {
    float temperature, top_p, min_p, typical_p;
    float repetition_penalty, presence_penalty, frequency_penalty;
    int32_t top_k;
    uint64_t seed;
    uint32_t min_tokens;
    int32_t n_stop, n_bias, n_bad, n_allowed; /* stop: ids masked before min_tokens */
    int32_t has_penalty, has_history;
    int32_t n_prompt, n_tokens, last;
    const int32_t *stop;
    const struct sl_bias *bias;
    const int32_t *bad; /* words concatenated */
    const int32_t *bad_len;
    const uint32_t *allowed; /* bitmap of the vocabulary */
    int32_t *history;        /* [max_model_len] */
    uint32_t *count;         /* [n_vocab] output occurrences; top bit: seen at all */
};

struct kattn {
    const struct kbatch *b;
    const uint16_t *q; /* rows of [q heads | k heads | v heads] */
    uint16_t *out;
    const uint16_t *k, *v; /* pages, as attn.cuh has them */
    float *partial;        /* [slots, n_heads, head_dim + 2]: a chunk's answers */
    int32_t *counters;     /* [slots * n_heads], zero between launches */
    int32_t q_stride, out_stride, n_heads, n_kv_heads, head_dim, window;
    int32_t cluster; /* of decode: k_attn_cluster */
    float scale;
};

struct krope {
    const struct kbatch *b;
    uint16_t *qkv;
    const float *q_norm, *k_norm; /* [head_dim] or NULL */
    const float *freq;            /* [rotary_dim / 2] or NULL */
    uint16_t *k, *v;
    int32_t stride, n_heads, n_kv_heads, head_dim, rotary_dim;
    float eps, mscale;
};

struct klinear {
    const uint16_t *w, *x;
    const uint16_t *w2; /* NULL, or y = act(x . w^T) * (x . w2^T) with `glu` as act, y in bf16 */
    const float *bias;  /* [n] or NULL, not with is_f32; of w2 behind that of w */
    void *y;            /* bf16, or f32 with is_f32 */
    int64_t n, k, y_stride;
    int32_t m, is_f32;
    enum glu_kind glu;
};

/* The rows of w are ids [row0, row0 + n_ids) of the vocabulary; with is_share other ids give zeros,
 * which another rank's row is added to. */
struct kembed {
    const struct kbatch *b;
    const struct kslot *slots;
    const uint16_t *w;
    float *x;
    int64_t row0, n_ids;
    int32_t cols, is_share;
};
int k_embed(cudaStream_t stream, const struct kembed *e, int32_t n_rows);
/* src: f32 or bf16. */
int k_norm(cudaStream_t stream, uint16_t *dst, const void *src, int src_is_f32, const float *w,
           int32_t cols, float eps, int32_t n_rows);
/* sum += add, then dst = norm(sum); w NULL: only the sum. */
int k_add_norm(cudaStream_t stream, uint16_t *dst, float *sum, const uint16_t *add, const float *w,
               int32_t cols, float eps, int32_t n_rows);
int k_glu(cudaStream_t stream, uint16_t *dst, const uint16_t *src, int32_t cols, enum glu_kind kind,
          int32_t n_rows);
int k_gather(cudaStream_t stream, const struct kbatch *b, uint16_t *dst, const uint16_t *src,
             int32_t cols, int32_t n_rows);
int k_bias(cudaStream_t stream, uint16_t *y, const float *bias, int32_t cols, int64_t stride,
           int32_t n_rows);
int k_rope_kv(cudaStream_t stream, const struct krope *r, int32_t n_rows);
/* Any m; the same bits for a row whatever m is. */
int k_linear(cudaStream_t stream, const struct klinear *l);
int k_attn_decode(cudaStream_t stream, const struct kattn *a);
int k_attn_prefill(cudaStream_t stream, const struct kattn *a, int32_t n_tiles);
/* Blocks of threads that share a context of decode, for so many sequences; it does not show in the
 * bits. k_attn_clusters: how many of such clusters run at once. */
int k_attn_cluster(int32_t n_heads, int32_t n_kv_heads, int32_t head_dim, int32_t n_seqs);
int k_attn_clusters(int32_t cluster);
/* Is there attention for this head size? */
int k_attn_has(int32_t head_dim);
/* Token rows of a prefill tile. */
int k_attn_tile_rows(int32_t n_heads, int32_t n_kv_heads, int32_t head_dim);

/* The slot's counts and last token from its history. */
int k_slot_begin(cudaStream_t stream, struct kslot *slots, int32_t slot, int32_t n_vocab);
/* logits f32 [n_rows, n_vocab], of wants from `first` on; work: as large, for rows with masks or
 * penalties. answers.token NULL: row i's results go to the batch's, row first + i; else to row i of
 * these. */
struct ksample {
    const struct kbatch *b;
    struct kslot *slots;
    const float *logits;
    float *work;
    int32_t n_vocab, max_len, first;
    struct kresult answers;
};
int k_sample(cudaStream_t stream, const struct ksample *s, int32_t n_rows);

/* Adds up a sequence's rows, f64 [slots, cols]. Where they were its last, their mean goes to the batch's
 * pooled, row i for pooling i. */
int k_pool(cudaStream_t stream, const struct kbatch *b, const uint16_t *src, double *sums,
           int32_t cols, int32_t n_poolings);

/* ------------------------------------------------------------------ several ranks: peers.cuh says how */

struct kpeers {
    const struct kbatch *b;
    int32_t rank, n;
    int32_t index;          /* of this meeting in its launch, from 1 */
    int32_t max_blocks;     /* of a kernel that waits for others: all must fit on the GPU at once */
    char *inbox[RANKS_MAX]; /* every rank's, two halves each, zeroed before the first meeting */
    int64_t half_bytes;
    const uint32_t *abort; /* pinned host memory: not 0: wait no more */
};

/* The sum over ranks of x, in their order, in f32, rounded once to x's type. Without w it replaces x on
 * every rank. With w (x in bf16): sum += that sum, dst = norm(sum) * w, and x holds nothing of use; dst may
 * be x. One-shot: every rank adds all rows. Two-shot: row t is added by rank (row0 + t) % n, which sends
 * the outcome to the others; of `sum` only its owner's rows go on. The same bits. */
struct kreduce {
    struct kpeers peers;
    void *x;
    int32_t x_is_f32, is_two_shot;
    uint16_t *dst;
    float *sum;
    const float *w; /* NULL: no norm */
    float eps;
    int32_t rows, cols; /* cols a multiple of 8 */
    int32_t row0;
};
/* Bytes of an inbox's half that it takes. */
int64_t k_reduce_bytes(int64_t rows, int64_t cols, int x_is_f32, int is_two_shot, int n_ranks);
int k_reduce(cudaStream_t stream, const struct kreduce *r);

/* dst [n_rows, n_vocab] = rows [first, first + n_rows) of all ranks' logits, of which each has its share
 * of the columns, (n_vocab + n - 1) / n, the last one the rest. logits: this rank's, read by the others until
 * the next meeting. parts: NULL, or all shares are here already, [first..][columns of that rank], one
 * after the other from `parts` on, each of all_rows rows, and nobody is met. */
struct kdeal {
    struct kpeers peers;
    const float *logits, *parts;
    float *dst;
    int32_t n_vocab, first, n_rows, all_rows;
};
int k_deal(cudaStream_t stream, const struct kdeal *d);

/* The answers that each rank has for its rows of all_rows wants (want_first), to the batch's results and
 * to the slots. answers: as rows as the largest share. gathered: NULL, or all ranks' answers, one after the
 * other, and nobody is met. */
struct kshare {
    struct kpeers peers;
    struct kslot *slots;
    struct kresult answers;
    const int32_t *gathered;
    int32_t all_rows, max_len;
};
int64_t k_share_bytes(int64_t all_rows, int n_ranks);
int k_share(cudaStream_t stream, const struct kshare *s);

/* A kernel that faults, for tests: what follows on the device fails, as after any fault. */
int k_trap(cudaStream_t stream);

/* Loading. n elements of `type` (any but BF16) as their file holds them to bf16, with the bits of
 * dtype_expand and f32_to_bf16 (NaN: some NaN). n: at most 2^39. */
int k_expand(cudaStream_t stream, enum dtype type, uint16_t *dst, const void *src, int64_t n);
/* Rows [row0, row0 + n_rows) of a dummy weight to dst, rounded to `type` (a float type) first; cols
 * a multiple of 8. */
struct dummy;
int k_fill(cudaStream_t stream, enum dtype type, uint16_t *dst, const struct dummy *d, int64_t row0,
           int64_t n_rows, int64_t cols);

#ifdef __cplusplus
}
#endif
#endif
