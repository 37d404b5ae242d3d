/* cuda_dev.h - inside the cuda device: its state and what its files share.
 *
 * One stream carries all work of a rank: copies of batches, kernels, in the order of calls. Device
 * memory comes from chunks that live until close. A decode step's launches are captured into a
 * graph, one a bucket of rows; where the batch has masks, those in front of sampling into another.
 */
#ifndef BACKEND_CUDA_DEV_H
#define BACKEND_CUDA_DEV_H

#include <cuda_runtime_api.h>
#include <stdbool.h>

#include "backend/backend.h"
#include "base/err.h"
#include "kernels.h"

enum {
    CUDA_RESULTS = 4,     /* two outstanding launches, and answers that outlive the next one */
    CUDA_STAGES = 2,      /* pinned buffers of a lane */
    CUDA_BATCHES = 2,     /* pinned copies of batches: as many as may be outstanding */
    ASSIGN_BUFFERS = 4,   /* pinned copies of slots on their way */
    GRAPH_ROWS_MAX = 256, /* decode steps of more rows are launched kernel by kernel */
    GRAPH_BUCKETS = 4 + GRAPH_ROWS_MAX / 8,
    ATTN_ITEMS_MAX = 4096, /* pieces of contexts in a step; beyond, whole contexts are one piece */
    ROPE_TABLES = 32,      /* of frequencies, by address: one a plan, or one a kind of layer */
    LINEAR_OWN_ROWS =
        64, /* up to so many rows our own kernel runs, and bits do not depend on the batch */
    BAD_TOKENS_MAX = 4096, /* all bad words of a request together */
    CUDA_MAJOR = 9,        /* the compute capability that the kernels are built for */
    SHAPE_CLASSES = 24,    /* of a number of rows, as far as they choose other kernels */
};

struct cuda_chunk {
    struct cuda_chunk *next;
    char *p; /* owned device memory */
    size_t bytes, used;
    cudaEvent_t cleared; /* after it all is zero */
};

struct cuda_lane { /* of loading; one thread at a time */
    cudaStream_t stream;
    char *pinned[CUDA_STAGES]; /* owned, as one, by the first */
    cudaEvent_t sent[CUDA_STAGES];
    char *raw_d; /* owned: a piece as its file holds it */
    uint64_t n_sent;
};

struct cuda_launch {      /* one of CUDA_RESULTS */
    struct result result; /* arrays: pinned, owned */
    struct kresult view;  /* the same memory */
    cudaEvent_t start, end;
    cudaEvent_t paused, resumed; /* with masks: where it waits for them */
    bool has_masks;
};

struct cuda_graph {
    const struct step *steps;
    int32_t n_steps, n_seen;
    uint32_t n_met;       /* meetings of the ranks in it */
    cudaGraphExec_t exec; /* owned; NULL: not captured yet */
};

struct cuda_assign {
    char *pinned; /* owned: struct kslot, arrays, history */
    cudaEvent_t done;
};

struct lt; /* cuda_lt.c */

struct dev {
    struct dev_config config;
    cudaStream_t stream;
    struct cuda_chunk *chunks; /* owned */
    struct lt *lt;             /* owned; NULL: no cuBLASLt here */

    char *batch_pinned[CUDA_BATCHES]; /* owned */
    struct kbatch *batch_d;           /* header, then arrays: offsets change with every batch */
    size_t batch_max;
    struct cuda_launch launch[CUDA_RESULTS];
    uint64_t n_launched, n_collected;
    struct cuda_graph graph[2][GRAPH_BUCKETS]; /* of whole steps; of those that wait for masks */

    /* Of the launch at hand. */
    int32_t rows, want_rows; /* rows to compute: tokens and wants, padded to the bucket in graphs */
    int32_t n_items, n_tiles;
    int32_t n_left;      /* steps that wait for masks */
    size_t masks_at;     /* where in the batch's memory they go */
    int32_t decode_seqs; /* sequences with one row, padded as rows are */

    /* Of the plan at hand: cuda_prepare. */
    const struct step *prepared;
    int32_t tile_rows; /* token rows of a prefill tile, the fewest of a layer */
    const struct layer_params *attn_widest; /* of the layer with the most kv heads */
    size_t partial_floats, counters;
    float *partial_d; /* [ATTN_ITEMS_MAX, partial_floats] */
    int32_t *counters_d;
    struct {
        const float *host;
        float *freq_d;
    } rope[ROPE_TABLES];

    struct kslot *slots_d;
    char *regions_d; /* [max_seqs] of region_bytes: a slot's arrays */
    size_t region_bytes;
    int32_t *histories_d;
    uint32_t *counts_d;
    float *work_d; /* sampling: rows with masks or penalties */
    struct cuda_assign assign[ASSIGN_BUFFERS];
    uint64_t n_assigned;
    double *pool_sums_d; /* [max_seqs, n_hidden]: what each slot has pooled */
    int32_t *pool_rows;  /* owned [max_seqs]: of how many rows */
    struct cuda_lane lane[LANES_MAX];

    /* Of several ranks: cuda_ranks.c. */
    char *inbox_d; /* two halves */
    int64_t half_bytes;
    int32_t max_blocks;     /* of a kernel that waits for other ranks */
    struct kresult answers; /* device memory: of the rows that this rank samples */
    int32_t *gathered_d;    /* all ranks' answers, */
    float *parts_d;         /* and logits; where NCCL brings them */
    uint32_t met, n_met;    /* meetings before the launch at hand, and in it so far */
    bool skips_sum;         /* a test: the next sum over ranks is left out */
    bool is_sum_whole;      /* the residual stream is read elsewhere than where ranks add to it */
    bool has_seen[SHAPE_CLASSES][SHAPE_CLASSES][12]; /* kinds of batch whose kernels are loaded */
};

/* The GPU of a rank becomes the calling thread's. */
int cuda_enter(const struct dev *d);
/* A CUDA error as one log line and SL_EDEVICE; 0 for success. */
int cuda_check(int code, const char *what);
void *cuda_alloc(struct dev *d, size_t bytes, const char *what, struct sl_error *e);
const struct cuda_chunk *cuda_chunk_of(const struct dev *d, const void *p); /* NULL: not ours */

/* cuda_load.c */
size_t cuda_weight_bytes(enum dtype type, int64_t rows, int64_t cols);
void *cuda_stage(struct dev *d, int32_t lane);
int cuda_upload(struct dev *d, int32_t lane, const struct weight_rows *p);
int cuda_fill(struct dev *d, int32_t lane, const struct weight_rows *p, const struct dummy *x);
int cuda_load_end(struct dev *d); /* waits for all lanes and gives back what they held */

/* cuda_slots.c */
int cuda_slots_open(struct dev *d, struct sl_error *e);
void cuda_slots_close(struct dev *d);
int cuda_assign(struct dev *d, int32_t slot, const struct slot_init *init);

/* cuda_batch.c: fill pinned memory from b and queue its copy; sets the launch's counts. */
int cuda_batch_open(struct dev *d, struct sl_error *e);
int cuda_batch_send(struct dev *d, const struct batch *b, const struct kresult *result);
/* The batch's masks, to the place that cuda_batch_send left for them. */
int cuda_masks_send(struct dev *d, const struct batch *b);

/* cuda_ops.c */
int cuda_prepare(struct dev *d, const struct step *steps, int32_t n_steps);
int cuda_op_embed(struct dev *d, const struct batch *b, const struct step *s);
int cuda_op_norm(struct dev *d, const struct batch *b, const struct step *s);
int cuda_op_linear(struct dev *d, const struct batch *b, const struct step *s);
int cuda_op_linear_glu(struct dev *d, const struct batch *b, const struct step *s);
int cuda_op_rope_kv(struct dev *d, const struct batch *b, const struct step *s);
int cuda_op_attn(struct dev *d, const struct batch *b, const struct step *s);
int cuda_op_glu(struct dev *d, const struct batch *b, const struct step *s);
int cuda_op_add(struct dev *d, const struct batch *b, const struct step *s);
int cuda_op_add_norm(struct dev *d, const struct batch *b, const struct step *s);
int cuda_op_gather(struct dev *d, const struct batch *b, const struct step *s);
int cuda_op_logits(struct dev *d, const struct batch *b, const struct step *s);
int cuda_op_sample(struct dev *d, const struct batch *b, const struct step *s);
int cuda_op_pool(struct dev *d, const struct batch *b, const struct step *s);

/* cuda_ranks.c: what several ranks do together. open: nothing with one rank. */
int cuda_ranks_open(struct dev *d, struct sl_error *e);
/* Looks at a plan: may rows of the residual stream stay with the rank that adds to them? */
void cuda_ranks_prepare(struct dev *d, const struct step *steps, int32_t n_steps);
/* For a kernel of the launch at hand that meets the other ranks: the next meeting. */
struct kpeers cuda_meeting(struct dev *d);
/* How so many bytes are summed: 0 in one shot, 1 in two, 2 by NCCL. */
int cuda_ranks_way_of(const struct dev *d, int64_t bytes);
int cuda_op_reduce(struct dev *d, const struct batch *b, const struct step *s);
int cuda_op_reduce_norm(struct dev *d, const struct batch *b, const struct step *s);
int cuda_op_deal(struct dev *d, const struct batch *b, const struct step *s);
int cuda_op_share(struct dev *d, const struct batch *b, const struct step *s);

/* cuda_lt.c: y = x . w^T for many rows. NULL where the library is not there. */
struct lt *lt_open(struct dev *d);
void lt_preload(
    void); /* starts to map the library, on a thread of its own; lt_open finds it there */
void lt_close(struct lt *lt);
int lt_linear(struct lt *lt, cudaStream_t stream, const struct klinear *l);

#endif
