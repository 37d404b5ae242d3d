/* plan.h - a family's tables lowered for one config, one device and one rank: weights, slots,
 * steps.
 *
 * plan_open makes the list of weights (shapes, no data yet) and the parameters of layers; weights.c
 * finds and loads what they hold; plan_lower writes the steps over given slot memory. Running the
 * model is a loop over the steps. Inside model/ and its tests only.
 */
#ifndef MODEL_PLAN_H
#define MODEL_PLAN_H

#include <stdio.h>

#include "load/checkpoint.h"
#include "model/spec.h"
#include "sluice/sluice.h"

enum { SLOT_BUFS = 7 }; /* slots that are never alive together share a buffer */

struct plan_weight {
    const struct weight_spec *spec;
    int32_t layer;                                 /* -1: outside the layers */
    struct weight weight;                          /* name owned; part types and data: weights.c */
    const struct tensor *tensor[WEIGHT_PARTS_MAX]; /* borrowed from the checkpoint; NULL: dummy */
    const struct plan_weight *same; /* it is this other one, and holds nothing itself; or NULL */
};

struct plan {
    struct model_config config;
    const struct device *device; /* borrowed, static */
    int32_t rank, n_ranks;
    int32_t dims[DIM_COUNT]; /* of this rank: [first, first + dims) of whole */
    int32_t first[DIM_COUNT], whole[DIM_COUNT];
    struct plan_weight *weights; /* owned [n_weights] */
    int32_t n_weights;
    struct layer_params
        *layers;        /* owned [n_layers + 1]; the last is for steps outside the layers */
    float *rope_freq;   /* owned [rotary_dim / 2], filled by plan_set_rope */
    struct step *steps; /* owned [n_steps] */
    int32_t n_steps;
};

struct plan_target {
    const struct device *device;
    int32_t rank, n_ranks;
    bool fuse; /* use fused ops where the device offers them */
};

/* SL_EUNSUPPORTED when ranks do not divide the model: heads and the feed-forward width must be
 * multiples of their number, key-value heads multiples or divisors (then several ranks hold the
 * same). Free with plan_close, also after a failure. */
int plan_open(struct plan *p, const struct model_config *c, const struct plan_target *t,
              struct sl_error *e);
void plan_close(struct plan *p);

/* factors: rotary_dim / 2 divisors (ROPE_FREQ_FACTORS) or NULL. */
void plan_set_rope(struct plan *p, const float *factors);

/* Bytes of each shared buffer for so many tokens and wanted rows. SL_EUNSUPPORTED: too large. */
int plan_slot_bytes(const struct plan *p, int32_t max_tokens, int32_t max_wants,
                    size_t bytes[SLOT_BUFS], struct sl_error *e);
/* Write the steps; buffers may be NULL (explain, tests). SL_ENOSYS names an op the device lacks. */
int plan_lower(struct plan *p, const struct plan_target *t, void *const bufs[SLOT_BUFS],
               struct sl_error *e);

/* The weight of a layer (-1: outside), or NULL where this model has none. */
const struct weight *plan_weight(const struct plan *p, enum weight_id id, int32_t layer);
/* Elements of the whole model, each weight once. */
uint64_t plan_parameters(const struct plan *p);
/* Device bytes of one KV page of all layers; 0: overflow. */
size_t plan_page_bytes(const struct plan *p, int32_t page_size);

/* weights.c: find each weight's tensors and check shapes and types; without tensors (dummy) types
 * come from the config. as: convert F32, F16 and BF16 matrices to this type, -1: keep. */
int weights_find(struct plan *p, const struct checkpoint *c, bool is_dummy, int as,
                 struct sl_error *e);
/* Device bytes of all weights. */
uint64_t weights_bytes(const struct plan *p);
/* Room for them on the device. */
int weights_alloc(struct plan *p, struct dev *dev, struct sl_error *e);
bool weight_is_vector(const struct plan_weight *w);

/* weights_load.c: fill what weights_alloc made, on as many threads as the device has lanes; blocking.
 * The device's ready ends it. */
struct weights_load {
    const struct checkpoint *checkpoint; /* NULL with dummy weights */
    struct dev *dev;
    void (*progress)(void *arg, const char *what, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_arg;
    uint64_t seed; /* of dummy weights */
};
int weights_load(struct plan *p, const struct weights_load *l, struct sl_error *e);
/* A 1-D tensor of n elements as f32, in Hugging Face order. */
int weights_vector(const struct checkpoint *c, const struct tensor *t, int64_t n, float *out,
                   struct sl_error *e);

/* model.c: model_open, with fusion as asked, and its inside: for tests. */
struct model;
int model_open_as(struct model **out, const struct sl_options *o, bool fuse, struct sl_info *info,
                  struct sl_error *e);
struct plan *model_plan(struct model *m);

/* explain.c: see sl_flops. */
double plan_flops(const struct plan *p, uint32_t from, uint32_t to, uint32_t n_logits);
/* explain.c: the program as text. */
void plan_explain(const struct plan *p, int32_t n_tokens, int32_t ctx, FILE *out);

#endif
