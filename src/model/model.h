/* model.h - a model opened on a device: checkpoint, family, plan, weights and KV pages behind few
 * calls.
 *
 * model_open reads the config, picks the family by model_type, lowers its tables into steps for each
 * rank, loads the weights and allocates KV pages and scratch; everything is sized here, nothing later.
 * The engine drives it through model_assign / model_launch / model_sample / model_collect, all from
 * the rank's worker thread.
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include <stdio.h>

#include "backend/backend.h"
#include "sluice/sluice.h"

struct model; /* opaque */

/* o: as sl_open got it. The device is chosen here ("auto": cuda where usable, else cpu). The sim
 * device with no model path serves a built-in plan over o->n_vocab. Without max_model_len the
 * model's own length is lowered to what the KV cache holds. Fills *info (texts borrowed from the
 * model). */
int model_open(struct model **out, const struct sl_options *o, struct sl_info *info,
               struct sl_error *e);
void model_close(struct model *m);

const struct device *model_device(const struct model *m);
int32_t model_max_wants(const struct model *m); /* logit rows a step may ask for, >= max_num_seqs */

/* Each from its rank's worker thread. Ranks launch the same batches in the same order; every rank has
 * the whole result. */
int32_t model_n_ranks(const struct model *m);
int model_assign(struct model *m, int32_t rank, int32_t slot, const struct slot_init *init);
int model_launch(struct model *m, int32_t rank, const struct batch *b);
/* Only where the batch has masks: they are there (struct device, sample). */
int model_sample(struct model *m, int32_t rank, const struct batch *b);
int model_collect(struct model *m, int32_t rank, const struct result **out);
/* A rank has failed or does not come: the others wait for it no longer, and their calls fail. Any
 * thread. */
void model_abort(struct model *m);
/* Moves on while ranks meet; 0 where the device cannot tell. Any thread. */
uint64_t model_beat(const struct model *m);

/* See sl_flops. */
double model_flops(const struct model *m, uint32_t from, uint32_t to, uint32_t n_logits);

/* `sluice explain`: the plan of one of n_ranks with shapes, bytes, FLOPs, the ranks' meetings and
 * roofline time for `n_tokens` tokens at
 * context `ctx`; reads only the config and the tensor table. */
struct explain_args {
    const char *path;
    int32_t n_tokens, ctx, n_ranks;
};
int model_explain(const struct explain_args *a, FILE *out, struct sl_error *e);

#endif
