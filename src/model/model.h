/* model.h - a model opened on a device: checkpoint, family, plan, weights and KV pages behind few
 * calls.
 *
 * model_open reads the config, picks the family by model_type, lowers its tables into steps, loads
 * the weights and allocates KV pages and scratch; everything is sized here, nothing later. The
 * engine drives it through model_assign / model_launch / model_collect, all from the rank's worker
 * thread.
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

int model_assign(struct model *m, int32_t slot, const struct slot_init *init);
int model_launch(struct model *m, const struct batch *b);
int model_collect(struct model *m, const struct result **out);

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
