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
    ATTN_BLOCK = 128, /* positions of a softmax step */
    ATTN_CHUNK = 1024 /* positions of a split: chunks are computed apart and merge in order */
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

/* Where a step's results go: pinned host memory, written by the sampling kernel over the bus. */
struct kresult {
    int32_t *token, *rank, *n_top, *top_id;
    float *logprob, *top_logprob;
};

/* A step's batch in device memory; filled by one copy from pinned memory. */
struct kbatch {
    int32_t n_tokens, n_seqs, n_wants, page_size, pages_stride, n_items, n_tiles;
    const int32_t *token, *pos, *kv_slot, *q_start, *kv_len, *slot, *pages;
    const int32_t *seq_of; /* [n_tokens] */
    const struct want *want;
    const struct attn_item *items; /* sequences with one row */
    const struct attn_tile *tiles; /* the others */
    struct kresult result;
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
    void *y;           /* bf16, or f32 with is_f32 */
    int64_t n, k, y_stride;
    int32_t m, is_f32;
    enum glu_kind glu;
};

int k_embed(cudaStream_t stream, const struct kbatch *b, const struct kslot *slots,
            const uint16_t *w, float *x, int32_t cols, int32_t n_vocab, int32_t n_rows);
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
/* logits f32 [n_rows, n_vocab]; work: as large, for rows with masks or penalties. */
struct ksample {
    const struct kbatch *b;
    struct kslot *slots;
    const float *logits;
    float *work;
    int32_t n_vocab, max_len;
};
int k_sample(cudaStream_t stream, const struct ksample *s, int32_t n_rows);

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
