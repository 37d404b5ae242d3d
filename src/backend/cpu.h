/* cpu.h - inside the cpu device: its state, its kernel table, and what its files share.
 *
 * The law of this device: an element's bits depend on its own inputs alone. Each output element is
 * one accumulator (or a fixed tree of them) walked in a fixed order; tiles over tokens and rows,
 * threads and chunks only decide when and where that happens, never how. tests/unit/test_cpu_*.c
 * hold it to that.
 *
 * Layouts. Activations: f32. KV pages: f16, K as [page][kv head][dim][token], so that sixteen
 * positions load as one vector and scores need no horizontal sums; V as [page][kv
 * head][token][dim]. Weights: rows in groups of 16, and within a group column block by column block
 * with the sixteen rows interleaved (cpu_pack.c); the bytes of the file, in another order, padded
 * to whole groups. Vectors (one row or one column: norms, biases) are widened to f32.
 */
#ifndef BACKEND_CPU_H
#define BACKEND_CPU_H

#include "backend/backend.h"
#include "backend/cpu_pool.h"
#include "backend/cpu_sample.h"
#include "base/err.h"

enum {
    ROW_GROUP = 16,       /* rows interleaved in a packed weight: lanes of the widest vector */
    QBLOCK = 32,          /* activations are quantized by blocks of this many columns */
    ATTN_BLOCK = 64,      /* positions a softmax step takes at once */
    ATTN_CHUNK = 512,     /* positions between merges; a multiple of ATTN_BLOCK */
    ATTN_ROWS = 64,       /* most (token, head) pairs that walk the same K and V together */
    ATTN_SPLIT_ITEMS = 4, /* tiles a thread: with fewer, chunks are shared out too */
};

/* ------------------------------------------------------------------ what kernels take */

/* 32 activations as int8 with their scale: x = d * q. The negated sums fold a weight's offset in.
 */
struct qblock {
    int8_t q[QBLOCK];
    float d;
    float s;         /* d * sum of q: multiplies a weight block's minimum */
    int32_t neg;     /* -(sum of q) */
    int32_t neg_low; /* -(sum of q[0..15]): for formats with a scale every 16 columns */
};

/* One part of a linear layer over all tokens: y[t][r] = x[t] . w[r] + bias[r]. */
struct linear_job {
    enum dtype type;
    const uint8_t *w;   /* packed */
    size_t group_bytes; /* of 16 rows */
    int64_t rows, cols;
    const float *x;          /* [n_tokens, cols] */
    const struct qblock *qx; /* [n_tokens, cols / 32]; quantized types only */
    const float *bias;       /* [rows] or NULL */
    float *y;                /* first column of this part; row stride y_stride */
    int64_t y_stride;
    int32_t n_tokens;
};

/* Queries that share one kv head and one sequence, over positions [lo, hi) of one chunk. */
struct attn_job {
    int32_t n_rows;              /* 1..ATTN_ROWS */
    const float *q;              /* [n_rows, head_dim], scaled */
    const int32_t *first, *last; /* [n_rows] positions row r sees: first..last, inclusive */
    const int32_t *pages;        /* the sequence's block table */
    const uint16_t *k, *v;       /* this layer's pages */
    int32_t page_size, head_dim, n_kv_heads, kv_head;
    int32_t lo, hi;
    float *m, *l, *acc; /* out: [n_rows] maximum, [n_rows] sum, [n_rows, attn_stride] */
};
/* Row stride of acc: whole vectors. */
static inline int32_t attn_stride(int32_t head_dim)
{
    return (head_dim + 15) / 16 * 16;
}

/* One instruction set's kernels. */
struct cpu_kernels {
    const char *name;
    bool quantized; /* does linear take quantized activations? */
    void (*norm)(float *dst, const float *src, const float *w, int32_t n, float eps);
    void (*add)(float *dst, const float *src, int32_t n);
    void (*glu)(float *dst, const float *gate, const float *up, int32_t n, enum glu_kind kind);
    void (*rope)(float *head, const float *cos_sin, int32_t half); /* cos[half], then sin[half] */
    void (*to_f16)(uint16_t *dst, const float *src, int32_t n);
    void (*quantize)(struct qblock *dst, const float *src, int32_t n_blocks);
    void (*linear)(const struct linear_job *j, int64_t group, int64_t n_groups);
    void (*attn)(const struct attn_job *j);
    /* Merge a chunk's (m, l, acc) of one row into the running one. */
    void (*attn_merge)(float *m, float *l, float *acc, float m2, float l2, const float *acc2,
                       int32_t stride);
};

extern const struct cpu_kernels cpu_kernels_plain, cpu_kernels_avx2, cpu_kernels_avx512;

enum cpu_isa { CPU_ISA_PLAIN, CPU_ISA_AVX2, CPU_ISA_AVX512, CPU_ISA_COUNT };
/* Can this machine run it? */
bool cpu_isa_usable(enum cpu_isa isa);
/* The kernels that the next open will use: the best usable, or what a test forced (a usable one; -1
 * takes the force away). */
const struct cpu_kernels *cpu_isa_kernels(void);
void cpu_isa_force(int isa);

/* ------------------------------------------------------------------ the device */

enum { RESULTS = 4 }; /* two outstanding launches, and answers that outlive the next one */

/* Memory that grows to what the largest step needed so far. */
struct scratch {
    void *p; /* owned by the device's regions */
    size_t bytes;
};

struct dev {
    struct dev_config config;
    const struct cpu_kernels *k;
    struct pool *pool;      /* owned */
    struct region *regions; /* owned: all memory of alloc and scratch */
    uint8_t *slab;          /* the region that small allocations are cut from */
    size_t slab_left;
    struct cpu_slots *slots;        /* owned */
    double *pool_sum;               /* owned [max_seqs, n_hidden]: what each slot has pooled */
    int32_t *pool_rows;             /* owned [max_seqs]: of how many rows */
    struct sample_scratch **sample; /* owned: one a thread */
    struct result result[RESULTS];  /* owned arrays */
    uint64_t n_launched, n_collected;
    int32_t n_left;  /* steps of the launch at hand that wait for masks */
    uint64_t end_us; /* of the last step; 0: none yet */
    struct scratch quant, angles, attn, bias;
    const float *angles_freq; /* whose angles `angles` holds, in this launch; NULL: nobody's */
    float angles_mscale;
    int32_t angles_dim;
    bool skips_sum; /* a test: the next REDUCE is left out */
};

/* At least `bytes`, 64-byte aligned, contents undefined; NULL: out of memory. */
void *scratch_get(struct dev *d, struct scratch *s, size_t bytes);

/* Run fn over items, on the caller alone where the whole job is below what waking others costs. */
void cpu_spread(struct dev *d, pool_fn fn, void *arg, int n_items, double work_us);

/* cpu_pack.c */
bool cpu_is_vector(int64_t rows, int64_t cols);
bool cpu_is_quantized(enum dtype t);
size_t cpu_weight_bytes(enum dtype type, int64_t rows, int64_t cols);
int cpu_upload(struct dev *d, int32_t lane, const struct weight_rows *p);
/* Columns [col0, col0 + n) of row r of a packed matrix as f32; whole blocks. */
void cpu_unpack(enum dtype type, const uint8_t *w, int64_t cols, int64_t r, int64_t col0, int64_t n,
                float *dst);
/* The f32 values of a vector weight of one part; NULL weight: NULL. */
const float *cpu_vector(const struct weight *w);

/* The ops; cpu_ops.c, cpu_attn.c, cpu_linear.c. */
int cpu_embed(struct dev *d, const struct batch *b, const struct step *s);
int cpu_norm(struct dev *d, const struct batch *b, const struct step *s);
int cpu_add(struct dev *d, const struct batch *b, const struct step *s);
int cpu_add_norm(struct dev *d, const struct batch *b, const struct step *s);
int cpu_glu(struct dev *d, const struct batch *b, const struct step *s);
int cpu_rope_kv(struct dev *d, const struct batch *b, const struct step *s);
int cpu_gather(struct dev *d, const struct batch *b, const struct step *s);
int cpu_attn(struct dev *d, const struct batch *b, const struct step *s);
int cpu_linear(struct dev *d, const struct batch *b, const struct step *s);
int cpu_logits(struct dev *d, const struct batch *b, const struct step *s);
int cpu_pool_op(struct dev *d, const struct batch *b, const struct step *s);
int cpu_sample(struct dev *d, const struct batch *b, const struct step *s);

#endif
