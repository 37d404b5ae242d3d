/* weights.c - from checkpoint tensors to device memory: names, shapes, stacking, conversion,
 * upload.
 *
 * A weight's parts stay in the format of the file (or, where --dtype says so, another float
 * format). They are read row piece by row piece through a bounded staging buffer, so that loading
 * never holds more than a few MiB beyond the device's memory. Vectors are expanded to f32 and
 * stacked into one row. On the way rows that llama.cpp permuted for its RoPE are put back, and a
 * rank takes its share.
 */
#include <math.h>
#include <stdlib.h>

#include "model/plan.h"

enum {
    STAGE_BYTES = 8 << 20,
    ROWS_STEP = 64, /* device->upload wants multiples of this many rows */
    NAME_BYTES = 160,
    DUMMY_POOL = 1 << 16, /* random values that dummy rows are cut from */
};

/* ------------------------------------------------------------------ finding */

static void tensor_name(const char *pattern, int32_t layer, char out[NAME_BYTES])
{
    size_t n = strcspn(pattern, "#");
    if (pattern[n])
        snprintf(out, NAME_BYTES, "%.*s%d%s", (int)n, pattern, layer, pattern + n + 1);
    else
        snprintf(out, NAME_BYTES, "%s", pattern);
}

static bool is_vector(const struct plan_weight *w)
{
    return w->spec->cols == DIM_ONE;
}

/* Rows (or elements of a vector) of part i that this rank holds, and of the whole tensor. */
static int64_t part_rows(const struct plan *p, const struct plan_weight *w, int i)
{
    return p->dims[w->spec->part[i].rows];
}
static int64_t full_rows(const struct plan *p, const struct plan_weight *w, int i)
{
    return part_rows(p, w, i) * (w->spec->shard == SHARD_ROWS ? p->n_ranks : 1);
}
static int64_t full_cols(const struct plan *p, const struct plan_weight *w)
{
    return w->weight.cols * (w->spec->shard == SHARD_COLS ? p->n_ranks : 1);
}

static int check_shape(const struct plan *p, const struct plan_weight *w, int i,
                       const struct tensor *t, struct sl_error *e)
{
    int64_t rows = full_rows(p, w, i), cols = is_vector(w) ? 1 : full_cols(p, w);
    if (is_vector(w)) {
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

static bool is_float(enum dtype t)
{
    return dtype_info[t].block == 1;
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
    if (is_vector(w)) return 0;
    enum dtype type = is_float(t->type) && as >= 0 ? (enum dtype)as : t->type;
    w->weight.part[i].type = type;
    if (w->weight.cols % dtype_info[type].block ||
        !p->device->weight_bytes(type, part_rows(p, w, i), w->weight.cols))
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
            else if (!is_vector(w))
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

/* ------------------------------------------------------------------ staging */

struct loader {
    const struct weights_load *l;
    struct plan *p;
    struct sl_error *e;
    uint64_t done, total;
    char *file, *out; /* owned: rows as in the file, and as the device takes them */
    size_t file_cap, out_cap;
    float *row; /* owned: one row as f32 */
    size_t row_cap;
    uint64_t random;
};

static int reserve(void *buf, size_t *cap, size_t n, size_t size, struct sl_error *e)
{
    void *p;
    if (n <= *cap) return 0;
    if (ckd_mul(&size, size, n)) return sl_fail(e, SL_ENOMEM, "no memory to load weights");
    memcpy(&p, buf, sizeof p);
    void *q = realloc(p, size);
    if (!q) return sl_fail(e, SL_ENOMEM, "no memory to load weights");
    memcpy(buf, &q, sizeof q);
    *cap = n;
    return 0;
}

static void report(struct loader *w, size_t bytes)
{
    w->done += bytes;
    if (w->l->progress) w->l->progress(w->l->progress_arg, "loading weights", w->done, w->total);
}

static void store_floats(enum dtype to, const float *src, int64_t n, char *dst)
{
    ASSERT(is_float(to));
    if (to == DT_F32) memcpy(dst, src, (size_t)n * sizeof *src);
    for (int64_t i = 0; i < n && to != DT_F32; i++) {
        uint16_t h = to == DT_F16 ? f32_to_f16(src[i]) : f32_to_bf16(src[i]);
        memcpy(dst + i * 2, &h, 2);
    }
}

static void convert_row(enum dtype from, const void *src, enum dtype to, int64_t n, float *tmp,
                        char *dst)
{
    if (from == to) {
        memcpy(dst, src, dtype_row_bytes(to, n));
        return;
    }
    dtype_expand(from, src, n, tmp);
    store_floats(to, tmp, n, dst);
}

/* ------------------------------------------------------------------ matrices from a checkpoint */

/* Rows of a piece: whole steps of about STAGE_BYTES. */
static int64_t piece_rows(size_t row_bytes)
{
    int64_t n = (int64_t)(STAGE_BYTES / row_bytes) / ROWS_STEP * ROWS_STEP;
    return n < ROWS_STEP ? ROWS_STEP : n;
}

/* Rows [r0, r0 + n) of a part, in the part's type: *rows points into staging. */
static int stage_rows(struct loader *w, const struct plan_weight *pw, int i, int64_t r0, int64_t n,
                      const char **rows)
{
    const struct plan *p = w->p;
    const struct tensor *t = pw->tensor[i];
    const struct weight_part *part = &pw->weight.part[i];
    int64_t cols = pw->weight.cols,
            first = r0 + (pw->spec->shard == SHARD_ROWS ? p->rank * part->rows : 0);
    int64_t unit =
        t->rope_heads > 0 ? t->dims[0] / t->rope_heads : 1; /* rows move within a head only */
    int64_t lo = first / unit * unit, hi = (first + n + unit - 1) / unit * unit;
    size_t file_row = dtype_row_bytes(t->type, t->dims[1]),
           out_row = dtype_row_bytes(part->type, cols), bytes;
    size_t skip = pw->spec->shard == SHARD_COLS ? dtype_row_bytes(t->type, p->rank * cols) : 0;
    if (ckd_mul(&bytes, (size_t)(hi - lo), file_row))
        return sl_fail(w->e, SL_EFORMAT, "a tensor is too large");
    TRY(reserve(&w->file, &w->file_cap, bytes, 1, w->e));
    TRY(checkpoint_read(w->l->checkpoint, t, (size_t)lo * file_row, bytes, w->file, w->e));
    *rows = w->file;
    if (unit == 1 && file_row == out_row && t->type == part->type) return 0;
    TRY(reserve(&w->out, &w->out_cap, (size_t)n * out_row, 1, w->e));
    TRY(reserve(&w->row, &w->row_cap, (size_t)cols, sizeof *w->row, w->e));
    for (int64_t r = 0; r < n; r++) {
        const char *src = w->file + (size_t)(checkpoint_row(t, first + r) - lo) * file_row + skip;
        convert_row(t->type, src, part->type, cols, w->row, w->out + (size_t)r * out_row);
    }
    *rows = w->out;
    return 0;
}

/* ------------------------------------------------------------------ dummy weights */

static uint64_t next_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* A pool of uniform values of variance 1 / cols, so that activations keep their scale through a
 * product; every row is a stretch of it from a random place. */
static int dummy_pool(struct loader *w, enum dtype type, int64_t cols)
{
    size_t n = DUMMY_POOL + (size_t)cols;
    float scale = sqrtf(3.0f / (float)cols) / 2147483648.0f;
    TRY(reserve(&w->file, &w->file_cap, n * sizeof(float), 1, w->e));
    TRY(reserve(&w->row, &w->row_cap, n, sizeof *w->row, w->e));
    for (size_t i = 0; i < n; i++)
        w->row[i] = (float)(int32_t)(next_random(&w->random) >> 32) * scale;
    store_floats(type, w->row, (int64_t)n, w->file);
    return 0;
}

static int dummy_rows(struct loader *w, const struct weight_part *part, int64_t cols, int64_t n,
                      const char **rows)
{
    size_t row = dtype_row_bytes(part->type, cols), element = dtype_row_bytes(part->type, 1);
    TRY(reserve(&w->out, &w->out_cap, (size_t)n * row, 1, w->e));
    for (int64_t r = 0; r < n; r++) {
        size_t at = next_random(&w->random) % DUMMY_POOL;
        memcpy(w->out + (size_t)r * row, w->file + at * element, row);
    }
    *rows = w->out;
    return 0;
}

/* ------------------------------------------------------------------ loading */

static int load_part(struct loader *w, struct plan_weight *pw, int i)
{
    struct weight_part *part = &pw->weight.part[i];
    int64_t cols = pw->weight.cols, step = piece_rows(dtype_row_bytes(part->type, cols));
    if (!pw->tensor[i]) TRY(dummy_pool(w, part->type, cols));
    for (int64_t r = 0; r < part->rows; r += step) {
        int64_t n = part->rows - r < step ? part->rows - r : step;
        const char *rows = NULL;
        if (pw->tensor[i])
            TRY(stage_rows(w, pw, i, r, n, &rows));
        else
            TRY(dummy_rows(w, part, cols, n, &rows));
        if (w->p->device->upload(w->l->dev, part, cols, r, n, rows) < 0)
            return sl_fail(w->e, SL_EDEVICE, "the %s device did not take %s", w->p->device->name,
                           pw->weight.name);
        report(w, (size_t)n * dtype_row_bytes(part->type, cols));
    }
    return 0;
}

int weights_vector(const struct checkpoint *c, const struct tensor *t, int64_t n, float *out,
                   struct sl_error *e)
{
    if (t->n_dims != 1 || t->dims[0] != n)
        return sl_fail(e, SL_EFORMAT, "tensor %.*s is not a vector of %lld", (int)t->name.n,
                       t->name.p, (long long)n);
    char *file = xmalloc(t->bytes);
    float *values = xcalloc((size_t)n, sizeof *values);
    int code = checkpoint_read(c, t, 0, t->bytes, file, e);
    if (code == 0) {
        dtype_expand(t->type, file, n, values);
        for (int64_t i = 0; i < n; i++) out[i] = values[checkpoint_row(t, i)];
    }
    free(values);
    free(file);
    return code;
}

/* Norms are one and biases zero in a dummy model. */
static int load_vector(struct loader *w, struct plan_weight *pw)
{
    struct plan *p = w->p;
    int64_t at = 0;
    int code = 0;
    float *values = xcalloc((size_t)pw->weight.cols, sizeof *values);
    for (int i = 0; i < WEIGHT_PARTS_MAX && pw->spec->part[i].tensor && code == 0; i++) {
        int64_t n = part_rows(p, pw, i), full = full_rows(p, pw, i);
        float *part = xcalloc((size_t)full, sizeof *part);
        bool is_bias = strstr(pw->spec->name, "bias") != NULL;
        if (pw->tensor[i])
            code = weights_vector(w->l->checkpoint, pw->tensor[i], full, part, w->e);
        else
            for (int64_t k = 0; k < full; k++) part[k] = is_bias ? 0.0f : 1.0f;
        memcpy(values + at, part + (full > n ? p->rank * n : 0), (size_t)n * sizeof *values);
        at += n;
        free(part);
    }
    if (code == 0 &&
        p->device->upload(w->l->dev, &pw->weight.part[0], pw->weight.cols, 0, 1, values) < 0)
        code = sl_fail(w->e, SL_EDEVICE, "the %s device did not take %s", p->device->name,
                       pw->weight.name);
    free(values);
    report(w, (size_t)pw->weight.cols * sizeof *values);
    return code;
}

static int load_weight(struct loader *w, struct plan_weight *pw)
{
    for (int i = 0; i < pw->weight.n_parts; i++) {
        struct weight_part *part = &pw->weight.part[i];
        size_t bytes = part_bytes(w->p, &pw->weight, i);
        part->data = w->p->device->alloc(w->l->dev, bytes, pw->weight.name, w->e);
        if (!part->data) return SL_ENOMEM;
        if (!is_vector(pw)) TRY(load_part(w, pw, i));
    }
    return is_vector(pw) ? load_vector(w, pw) : 0;
}

int weights_load(struct plan *p, const struct weights_load *l, struct sl_error *e)
{
    struct loader w = {.l = l, .p = p, .e = e, .random = l->seed};
    int code = 0;
    for (int32_t k = 0; k < p->n_weights; k++) {
        const struct weight *x = &p->weights[k].weight;
        for (int i = 0; i < x->n_parts && !p->weights[k].same; i++)
            w.total += (uint64_t)x->part[i].rows * dtype_row_bytes(x->part[i].type, x->cols);
    }
    for (int32_t k = 0; k < p->n_weights && code == 0; k++)
        if (!p->weights[k].same) code = load_weight(&w, &p->weights[k]);
    free(w.file);
    free(w.out);
    free(w.row);
    return code;
}
