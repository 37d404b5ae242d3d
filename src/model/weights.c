/* weights.c - which checkpoint tensors a plan's weights are made of: names, shapes, types, bytes, and
 * their place in device memory. What goes there: weights_load.c.
 *
 * A weight's parts stay in the format of the file, or, where --dtype says so, in another float
 * format.
 */
#include <stdlib.h>

#include "model/plan.h"

enum { NAME_BYTES = 160 };

/* ------------------------------------------------------------------ finding */

static void tensor_name(const char *pattern, int32_t layer, char out[NAME_BYTES])
{
    size_t n = strcspn(pattern, "#");
    if (pattern[n])
        snprintf(out, NAME_BYTES, "%.*s%d%s", (int)n, pattern, layer, pattern + n + 1);
    else
        snprintf(out, NAME_BYTES, "%s", pattern);
}

bool weight_is_vector(const struct plan_weight *w)
{
    return w->spec->cols == DIM_ONE;
}

static int check_shape(const struct plan *p, const struct plan_weight *w, int i,
                       const struct tensor *t, struct sl_error *e)
{
    int64_t rows = p->whole[w->spec->part[i].rows], cols = p->whole[w->spec->cols];
    if (weight_is_vector(w)) {
        if (t->n_dims == 1 && t->dims[0] == rows) return 0;
        return sl_fail(
            e, SL_EFORMAT, "tensor %.*s has %d dimensions, the first %lld; the config wants [%lld]",
            (int)t->name.n, t->name.p, t->n_dims, (long long)t->dims[0], (long long)rows);
    }
    if (t->n_dims == 2 && t->dims[0] == rows && t->dims[1] == cols) return 0;
    return sl_fail(e, SL_EFORMAT, "tensor %.*s is [%lld, %lld]; the config wants [%lld, %lld]",
                   (int)t->name.n, t->name.p, (long long)t->dims[0],
                   (long long)(t->n_dims > 1 ? t->dims[1] : 1), (long long)rows, (long long)cols);
}

static int find_part(const struct plan *p, struct plan_weight *w, int i, const struct checkpoint *c,
                     int as, struct sl_error *e)
{
    char name[NAME_BYTES];
    tensor_name(w->spec->part[i].tensor, w->layer, name);
    const struct tensor *t = checkpoint_find(c, name);
    if (!t) {
        const char *why = checkpoint_foreign(c, name);
        if (why) return sl_fail(e, SL_EUNSUPPORTED, "tensor %s cannot be loaded: %s", name, why);
        return sl_fail(e, SL_EFORMAT, "tensor %s is missing", name);
    }
    TRY(check_shape(p, w, i, t, e));
    w->tensor[i] = t;
    if (weight_is_vector(w)) return 0;
    enum dtype type = dtype_info[t->type].block == 1 && as >= 0 ? (enum dtype)as : t->type;
    w->weight.part[i].type = type;
    if (w->weight.cols % dtype_info[type].block ||
        p->first[w->spec->cols] % dtype_info[type].block ||
        !p->device->weight_bytes(type, w->weight.part[i].rows, w->weight.cols))
        return sl_fail(e, SL_EUNSUPPORTED,
                       "the %s device has no kernel for tensor %s of type %s with %lld columns",
                       p->device->name, name, dtype_info[type].name, (long long)w->weight.cols);
    return 0;
}

int weights_find(struct plan *p, const struct checkpoint *c, bool is_dummy, int as,
                 struct sl_error *e)
{
    if (!is_dummy && checkpoint_n_tensors(c) == 0)
        return sl_fail(e, SL_EFORMAT,
                       "%.120s has no weights (--load-format dummy makes random ones)",
                       checkpoint_path(c));
    for (int32_t k = 0; k < p->n_weights; k++) {
        struct plan_weight *w = &p->weights[k];
        if (w->same) continue;
        for (int i = 0; i < WEIGHT_PARTS_MAX && w->spec->part[i].tensor; i++) {
            if (!is_dummy)
                TRY(find_part(p, w, i, c, as, e));
            else if (!weight_is_vector(w))
                w->weight.part[i].type = as >= 0 ? (enum dtype)as : p->config.dtype;
        }
    }
    return 0;
}

static size_t part_bytes(const struct plan *p, const struct weight *w, int i)
{
    return p->device->weight_bytes(w->part[i].type, w->part[i].rows, w->cols);
}

uint64_t weights_bytes(const struct plan *p)
{
    uint64_t sum = 0;
    for (int32_t k = 0; k < p->n_weights; k++)
        for (int i = 0; i < p->weights[k].weight.n_parts && !p->weights[k].same; i++)
            sum += part_bytes(p, &p->weights[k].weight, i);
    return sum;
}

/* A weight's parts lie side by side, so that a device may take them as one matrix. */
static int alloc_parts(struct plan *p, struct weight *w, struct dev *dev, struct sl_error *e)
{
    enum { ALIGNMENT = 64 }; /* alloc's */
    size_t at[WEIGHT_PARTS_MAX], bytes = 0;
    for (int i = 0; i < w->n_parts; i++)
        if (ckd_align(&at[i], bytes, ALIGNMENT) || ckd_add(&bytes, at[i], part_bytes(p, w, i)))
            return sl_fail(e, SL_ENOMEM, "%s is too large", w->name);
    char *all = p->device->alloc(dev, bytes, w->name, e);
    for (int i = 0; i < w->n_parts && all; i++) w->part[i].data = all + at[i];
    return all ? 0 : SL_ENOMEM;
}

int weights_alloc(struct plan *p, struct dev *dev, struct sl_error *e)
{
    for (int32_t k = 0; k < p->n_weights; k++)
        if (!p->weights[k].same) TRY(alloc_parts(p, &p->weights[k].weight, dev, e));
    return 0;
}
