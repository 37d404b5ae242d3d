/* backend.h - the device seam: a device is a handful of functions and a table of ops.
 *
 * The model layer lowers a family into struct step[] whose functions come from the device's table;
 * the engine fills a struct batch a step; the device runs the steps over it. Devices: cpu (the
 * reference and the quick start), sim (no maths: pages hold hash chains), cuda (its place is
 * src/backend/cuda_*.c and kernels/). All calls on one `struct dev` come from one thread, the
 * rank's worker, except open and those that load. C17 and C++17, so that kernels' host code may
 * include it.
 */
#ifndef BACKEND_BACKEND_H
#define BACKEND_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/ops.h"
#include "base/dtype.h"
#include "sluice/sl_err.h"
#include "sluice/sl_sampling.h"

struct dev;   /* a device's own state, of one rank */
struct group; /* what the ranks of one model share */
struct dummy;

/* A weight on the device: rows stacked from one or more checkpoint tensors, each kept in the format
 * it was stored in (a GGUF may hold q and k as Q4_K and v as Q6_K). A vector (a norm, a bias) is
 * one part of type F32 with one row. */
struct weight_part {
    enum dtype type;
    int64_t rows;
    void *data; /* device memory; layout is the device's own (upload packs) */
};
enum { WEIGHT_PARTS_MAX = 4 };
struct weight {
    const char *name; /* for explain and errors, e.g. "layers.3.qkv" */
    int64_t rows, cols;
    int64_t row0; /* the first of its rows in the whole, where ranks share the vocabulary */
    int n_parts;
    struct weight_part part[WEIGHT_PARTS_MAX];
};

/* An activation slot: [max tokens, cols], row stride = cols, in the device's activation type; the residual
 * stream in its sum type, logits in f32. */
struct act {
    void *data;
    int32_t cols;
    enum dtype type;
};

enum { HEAD_DIM_MAX = 256 };
enum glu_kind { GLU_SILU, GLU_GELU_TANH, GLU_GELU_ERF };

/* What the ops of one layer need beyond pointers; shared by the steps of the layer. */
struct layer_params {
    int32_t n_heads, n_kv_heads, head_dim, rotary_dim;
    int32_t
        window; /* sliding window in tokens (a query sees itself and window - 1 before); 0: all */
    float attn_scale, norm_eps;
    float rope_mscale; /* yarn's attention factor: multiplies cos and sin */
    const float
        *rope_freq; /* [rotary_dim / 2] radians a position, host memory, scaling already applied */
    enum glu_kind glu;
    void *k_pages,
        *v_pages; /* device memory of this layer: [n_pages, page_size, n_kv_heads, head_dim] in
                     the device's kv type (a device may order the inner dims as it likes) */
};

struct batch;
struct step;
typedef int (*op_fn)(struct dev *d, const struct batch *b, const struct step *s);

struct step {
    enum op op;
    op_fn fn;
    int32_t layer; /* -1: outside the layers */
    struct act dst, src, src2;
    const struct weight *w, *bias; /* may be NULL */
    const struct layer_params *lp;
};

/* What the device must make of one wanted row of logits. */
struct want {
    int32_t row;    /* token row of the batch whose output is wanted */
    int32_t seq;    /* index into the batch's sequences */
    int32_t target; /* -1: sample; else report the log probability of this (prompt) token */
    int32_t n_top;  /* alternatives to report, 0..SL_TOP_MAX; -1: not even the token's own log
                       probability */
    uint32_t
        position; /* sampling: index of this output token in its sequence, the Philox counter */
    int32_t mask; /* sampling: only tokens of masks[mask - 1]; 0: all */
};

/* Rows of the last hidden state that go into a sequence's vector. What a slot has pooled so far is
 * its own, and nothing after an assign; sums run over positions in order, so chunks do not show. */
struct pooling {
    int32_t seq;         /* index into the batch's sequences; at most one entry a sequence */
    int32_t row, n_rows; /* token rows of the batch */
    bool is_last;        /* the mean over all rows so far goes out */
};

/* One step's work. The engine writes, workers read; arrays stay untouched until the step is
 * collected, but for the masks: those are written after the launch, before `sample`. */
struct batch {
    uint64_t step_id;
    int32_t n_tokens, n_seqs, n_wants, n_poolings, n_masks;
    int32_t page_size, pages_stride;
    const int32_t *token;    /* [n_tokens] id, or -1: the id last sampled in that sequence's slot */
    const int32_t *pos;      /* [n_tokens] */
    const int32_t *kv_slot;  /* [n_tokens] page * page_size + offset for this token's k and v */
    const int32_t *q_start;  /* [n_seqs + 1] token rows of each sequence */
    const int32_t *kv_len;   /* [n_seqs] positions 0..kv_len-1 are readable, this step's included */
    const int32_t *slot;     /* [n_seqs] device slot: sampling state lives there */
    const int32_t *pages;    /* [n_seqs, pages_stride] block tables */
    const struct want *want; /* [n_wants]; rows ascending */
    const struct pooling *pooling; /* [n_poolings]; rows ascending */
    int32_t mask_words;            /* (n_vocab + 31) / 32 */
    const uint32_t *masks;         /* [n_masks, mask_words] allowed tokens, least bit first */
};

/* How many steps can start without the batch's masks; all where it has none. */
static inline int32_t steps_to_sample(const struct step *steps, int32_t n_steps,
                                      const struct batch *b)
{
    int32_t n = 0;
    while (n < n_steps && (b->n_masks == 0 || steps[n].op != OP_SAMPLE)) n++;
    return n;
}

/* Ranks deal the wants among themselves: rank r samples wants [want_first(n, r, n_ranks),
 * want_first(n, r + 1, n_ranks)) of n. */
static inline int32_t want_first(int32_t n, int32_t rank, int32_t n_ranks)
{
    return (int32_t)((int64_t)n * rank / n_ranks);
}

/* What came of it, row i answering want[i]. Every rank has all of it. */
struct result {
    uint64_t step_id;
    int32_t n_wants;
    int32_t *token;  /* [n_wants] sampled id, or the target; -1: the logits were not finite (fail
                        that request) */
    float *logprob;  /* [n_wants] */
    int32_t *rank;   /* [n_wants] 1 = most likely */
    int32_t *n_top;  /* [n_wants] */
    int32_t *top_id; /* [n_wants, SL_TOP_MAX] descending */
    float *top_logprob;
    float *pooled;      /* [max_seqs, n_hidden]: row i answers pooling[i] where that is the last */
    uint64_t device_us; /* time the device worked on it */
    float idle_us; /* from the end of the step before to the start of this one, and what it waited
                      for masks; < 0: not known */
};

/* A sequence takes a device slot: everything there is rewritten. Borrowed for the call. */
struct slot_init {
    const struct sl_sampling *sampling; /* arrays included: the device copies what it needs */
    const int32_t *tokens;              /* prompt, then output so far */
    int32_t n_prompt, n_output;
    uint64_t salt[2]; /* sim only: the head of the hash chain */
};

/* Rows [row0, row0 + n) of a part, on their way to the device. src: in file layout, rows contiguous.
 */
struct weight_rows {
    const struct weight_part *part;
    int64_t cols, row0, n;
    const void *src;
};
enum {
    PIECE_BYTES = 4 << 20, /* what a lane's staging holds */
    LANES_MAX = 16,        /* threads that load weights at once */
};

struct dev_config {
    int32_t rank, n_ranks;
    struct group *group;          /* borrowed; NULL: one rank */
    int32_t n_threads;            /* cpu; 0: all cores */
    int32_t max_tokens, max_seqs; /* of one step; slots are 0..max_seqs-1 */
    int32_t max_wants, max_model_len, n_vocab, page_size;
    int32_t n_hidden;                 /* width of a pooled vector */
    uint32_t sim_step_us, sim_row_us; /* sim: length of a step, and what each row adds */
    uint32_t fail_step;    /* of this rank: the step that fails, from 1; 0: none. For tests */
    uint8_t fail_skips;    /* it leaves out its first REDUCE instead, and goes on */
    uint8_t enforce_eager; /* cuda: no graphs */
    /* cuda: NCCL makes every sum over ranks. */
    uint8_t disable_custom_all_reduce;
    uint8_t sim_replay; /* sim: see sluice.h */
};

struct device {
    const char *name;
    enum dtype act_type, kv_type;
    enum dtype sum_type; /* of the residual stream */
    int32_t default_max_seqs, default_max_tokens;
    uint8_t default_async;
    /* Is it usable here? 0, or a code with the reason ("no CUDA driver"). */
    int (*probe)(struct sl_error *e);
    /* Bytes of a rank's memory in all, and of it free now. Any time after probe. */
    void (*memory)(int32_t rank, uint64_t *total, uint64_t *free);
    /* How ranks meet: made before they are opened, closed after them. open says why so many cannot
     * run here. NULL: the device runs one rank. */
    int (*group_open)(struct group **out, int32_t n_ranks, struct sl_error *e);
    void (*group_close)(struct group *g);
    /* Every wait for another rank ends, now and from now on, and the launch or collect it belongs to
     * fails. Any thread. */
    void (*group_abort)(struct group *g);
    /* A count that moves on whenever ranks have met. Any thread. NULL: it cannot be told. */
    uint64_t (*group_beat)(const struct group *g);
    int (*open)(struct dev **out, const struct dev_config *c, struct sl_error *e);
    void (*close)(struct dev *d);
    /* Device memory that lives until close; zeroed; 64-byte aligned. NULL: SL_ENOMEM in e. */
    void *(*alloc)(struct dev *d, size_t bytes, const char *what, struct sl_error *e);
    /* Bytes that `rows` x `cols` of `type` take once packed; 0: no kernel for this type. */
    size_t (*weight_bytes)(enum dtype type, int64_t rows, int64_t cols);
    /* Loading, in lanes: one thread a lane at a time, each with other rows, calls stage, upload and
     * fill. A device with no stage has one lane, lane 0, and wants a part's rows in order, n a
     * multiple of 64 but for the last.
     * stage: PIECE_BYTES of host memory to read a lane's next rows into, from where their upload
     * needs no copy on the host; NULL: none to be had. Valid until that upload. */
    void *(*stage)(struct dev *d, int32_t lane);
    /* Pack and store. When it returns, src may be overwritten, unless it is staging. */
    int (*upload)(struct dev *d, int32_t lane, const struct weight_rows *p);
    /* Rows (src unused) of a dummy weight, made where the weights are. NULL: the caller makes the
     * values and uploads them. */
    int (*fill)(struct dev *d, int32_t lane, const struct weight_rows *p, const struct dummy *x);
    /* All lanes are done: wait for what is under way, give staging back, and get ready for these
     * steps, so that nothing is allocated later. NULL: nothing to do. */
    int (*ready)(struct dev *d, const struct step *steps, int32_t n_steps);
    int (*assign)(struct dev *d, int32_t slot, const struct slot_init *init);
    /* Start the steps over the batch; the results come with the matching collect, in order. The cpu
     * device computes here. At most two launches may be outstanding. Where the batch has masks, only
     * the steps in front of the first SAMPLE (steps_to_sample) start, and the others with `sample`. */
    int (*launch)(struct dev *d, const struct step *steps, int32_t n_steps, const struct batch *b);
    /* The masks of the last launch are there: start what it left, with the same arguments. Exactly
     * once for a batch with masks, before the next launch and its own collect. */
    int (*sample)(struct dev *d, const struct step *steps, int32_t n_steps, const struct batch *b);
    /* Wait for the oldest launch. *out is the device's memory, valid until the launch after the
     * next one. */
    int (*collect)(struct dev *d, const struct result **out);
    op_fn ops
        [OP_COUNT]; /* NULL: not offered. ADD_NORM, REDUCE_NORM and LINEAR_GLU are fusions, used where
                          they are offered; without POOL there are no embeddings */
};

extern const struct device device_cpu, device_sim;
#ifdef SLUICE_HAS_CUDA
extern const struct device device_cuda; /* usable where probe says so */
#endif

#endif
