/* batch.h - one step's work as plain arrays: sequences in, struct batch out.
 *
 * A job is filled by the engine thread, read by the workers, and filled again only when its step
 * has been collected; there is one more job than steps in flight. All arrays are allocated once.
 * The masks are filled last, after the launch, and read only when the workers are told so.
 */
#ifndef ENGINE_BATCH_H
#define ENGINE_BATCH_H

#include "backend/backend.h"
#include "engine/seq.h"

struct job_assign {
    int32_t dev_slot;
    struct slot_init init; /* borrowed from the request; it outlives the step */
};

struct job_held {   /* what a row has from the last time */
    uint64_t table; /* whose pages: seq.table */
    int32_t n;      /* how many of them */
};

struct job {
    struct batch b; /* its pointers lead to the arrays below */
    int32_t n_assigns;
    struct job_assign *assign; /* owned [max_seqs]; to do before the launch */
    int32_t *req;              /* owned [max_seqs]; which request each sequence of the batch is */
    int32_t *token, *pos, *kv_slot;           /* owned [max_tokens] */
    int32_t *q_start, *kv_len, *slot, *pages; /* owned */
    struct job_held *held;                    /* owned [max_seqs]; of each row of pages */
    struct want *want;                        /* owned [max_wants] */
    struct pooling *pooling;                  /* owned [max_seqs] */
    uint32_t *masks;                          /* owned [max_seqs, mask_words] */
};

struct job_limits {
    int32_t max_tokens, max_seqs, max_wants, page_size, pages_stride, mask_words;
};

void job_open(struct job *j, const struct job_limits *l);
void job_close(struct job *j);
void job_clear(struct job *j, uint64_t step_id);
/* The slot takes this sequence before the step runs. */
void job_assign(struct job *j, const struct seq *s);
/* Append n_rows rows of s, from s->n_planned on, with what they want; updates s's planned counts.
 * `pages` is its block table. The caller has checked every budget (job_wants tells the wants). */
void job_add(struct job *j, struct seq *s, int32_t req, int32_t n_rows, const int32_t *pages);
/* How many wants the next n_rows rows of s take. */
int32_t job_wants(const struct seq *s, int32_t n_rows);
/* Of the step launched last: are the tokens known that stand in front of what its masks are for?
 * seqs: by request slot. */
bool job_masks_due(const struct job *j, const struct seq *seqs);
/* Write the masks that job_add numbered, when they are due. A sequence that has ended meanwhile may
 * go on with any token. */
void job_write_masks(struct job *j, struct seq *seqs);

#endif
