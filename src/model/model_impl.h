/* model_impl.h - inside model.c and model_memory.c: what a model consists of. */
#ifndef MODEL_MODEL_IMPL_H
#define MODEL_MODEL_IMPL_H

#include "model/model.h"
#include "model/plan.h"

enum { WEIGHT_TYPES_TEXT = 96 };

/* One rank's part of the model on its device. */
struct rank {
    struct dev *dev; /* owned */
    struct plan plan;
    size_t scratch[SLOT_BUFS]; /* bytes */
    void *bufs[SLOT_BUFS];     /* device memory */
};

struct model {
    struct checkpoint *checkpoint; /* owned; NULL: the built-in plan */
    const struct device *device;
    struct group *group; /* owned; NULL: one rank */
    struct rank *ranks;  /* owned [n_ranks] */
    int32_t n_ranks, max_wants;
    uint64_t free_bytes; /* of a rank's memory, before anything was taken */
    struct sl_info info;
    char weight_types[WEIGHT_TYPES_TEXT];
};

/* model_memory.c: what the model may take on a rank, and that so much is free. */
int model_read_budget(struct model *m, const struct sl_options *o, struct sl_error *e);
/* All memory that the model will ever have: scratch, weights, KV pages from the rest. Sets the sizes in
 * m->info. */
int model_take_memory(struct model *m, const struct sl_options *o, struct sl_error *e);

#endif
