/* fake_model.h - the model layer reduced to the sim device: for tests of the engine alone. */
#ifndef TESTS_FAKE_MODEL_H
#define TESTS_FAKE_MODEL_H

#include <stdlib.h>

#include "base/err.h"
#include "model/model.h"

static int64_t fake_fault_at = -1; /* this launch fails; -1: none does */
static bool fake_fault_late;       /* it fails where its masks are there */

struct model {
    struct dev *dev;
    int32_t max_wants;
};

static inline int32_t or_default(int32_t x, int32_t otherwise)
{
    return x > 0 ? x : otherwise;
}

int model_open(struct model **out, const struct sl_options *o, struct sl_info *info,
               struct sl_error *e)
{
    struct model *m = xcalloc(1, sizeof *m);
    *info = (struct sl_info){.model_type = "sim",
                             .device = "sim",
                             .weight_types = "",
                             .n_vocab = or_default(o->n_vocab, 261),
                             .max_model_len = or_default(o->max_model_len, 4096),
                             .max_num_seqs = or_default(o->max_num_seqs, 256),
                             .max_num_batched_tokens = or_default(o->max_num_batched_tokens, 2048),
                             .block_size = or_default(o->block_size, 16),
                             .num_blocks = or_default(o->num_gpu_blocks_override, 4096)};
    m->max_wants = info->max_num_seqs;
    const struct dev_config c = {.n_ranks = 1,
                                 .max_tokens = info->max_num_batched_tokens,
                                 .max_seqs = info->max_num_seqs,
                                 .max_wants = m->max_wants,
                                 .max_model_len = info->max_model_len,
                                 .n_vocab = info->n_vocab,
                                 .page_size = info->block_size,
                                 .sim_step_us = o->sim_step_us};
    int rc = device_sim.open(&m->dev, &c, e);
    if (rc < 0) free(m);
    *out = rc < 0 ? NULL : m;
    return rc;
}

void model_close(struct model *m)
{
    device_sim.close(m->dev);
    free(m);
}

const struct device *model_device(const struct model *m)
{
    return m ? &device_sim : NULL;
}
int32_t model_max_wants(const struct model *m)
{
    return m->max_wants;
}
double model_flops(const struct model *m, uint32_t from, uint32_t to, uint32_t n_logits)
{
    (void)m;
    return (double)(to - from) + n_logits;
}

int32_t model_n_ranks(const struct model *m)
{
    return m ? 1 : 0;
}
void model_abort(struct model *m)
{
    (void)m;
}
uint64_t model_beat(const struct model *m)
{
    return m ? 0 : 1;
}

int model_assign(struct model *m, int32_t rank, int32_t slot, const struct slot_init *init)
{
    (void)rank;
    return device_sim.assign(m->dev, slot, init);
}
int model_launch(struct model *m, int32_t rank, const struct batch *b)
{
    (void)rank;
    if (fake_fault_at == (int64_t)b->step_id && !(fake_fault_late && b->n_masks)) return SL_EDEVICE;
    return device_sim.launch(m->dev, NULL, 0, b);
}
int model_sample(struct model *m, int32_t rank, const struct batch *b)
{
    (void)rank;
    if (fake_fault_at == (int64_t)b->step_id) return SL_EDEVICE;
    return device_sim.sample(m->dev, NULL, 0, b);
}
int model_collect(struct model *m, int32_t rank, const struct result **out)
{
    (void)rank;
    return device_sim.collect(m->dev, out);
}

#endif
