/* cpu_sample.h - sampling on the cpu device: one row of f32 logits to one token, in the order of
 * sl_sampling.h.
 *
 * Slots hold what a sequence brings along between steps: its parameters and its own tokens. A row's
 * answer depends on nothing but the row, the slot and the want, so rows of one step may run on any
 * threads at once, each with a scratch of its own; two rows that sample for the same slot in one
 * step are a caller's error.
 */
#ifndef BACKEND_CPU_SAMPLE_H
#define BACKEND_CPU_SAMPLE_H

#include "backend/backend.h"

struct cpu_slots;      /* opaque; slots 0..n_slots-1 */
struct sample_scratch; /* opaque; one a thread */

/* max_len: tokens of one sequence. Memory is reserved here; pages are touched as histories grow. */
int cpu_slots_open(struct cpu_slots **out, int32_t n_slots, int32_t max_len, int32_t n_vocab,
                   struct sl_error *e);
void cpu_slots_close(struct cpu_slots *s); /* NULL is fine */

/* A sequence takes the slot; everything is copied. SL_EVALUE when an array exceeds its limit,
 * SL_ENOMEM. */
int cpu_slot_assign(struct cpu_slots *s, int32_t slot, const struct slot_init *init);
/* The newest token of the sequence: what token -1 of a batch stands for; 0 in an empty slot. */
int32_t cpu_slot_last(const struct cpu_slots *s, int32_t slot);
/* A token that was sampled elsewhere goes to the sequence's history. */
void cpu_slot_push(struct cpu_slots *s, int32_t slot, int32_t token);

/* Scratch for rows of n_vocab logits; NULL: out of memory. */
struct sample_scratch *sample_scratch_open(int32_t n_vocab);
void sample_scratch_close(struct sample_scratch *t); /* NULL is fine */

/* Only these tokens (a bitmap, least bit first; borrowed) in the rows that follow; NULL: all. */
void sample_mask(struct sample_scratch *t, const uint32_t *mask);

/* Answer want w from its row of n_vocab logits (overwritten), writing row i of r. A sampled token
 * is appended to the slot's history; a want with a target leaves the slot alone. Logits that are
 * not all finite, or masks that leave nothing, give token -1 and append nothing. */
void cpu_sample_row(struct cpu_slots *s, int32_t slot, struct sample_scratch *t, float *logits,
                    const struct want *w, struct result *r, int32_t i);

#endif
