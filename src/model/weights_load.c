/* weights_load.c - weights into device memory: pieces of rows, read and uploaded by several threads.
 *
 * A piece is read straight into the device's staging where it can stay as it is, else through a
 * buffer of the lane's, so that loading never holds more than a few MiB a lane beyond the device's
 * memory. Vectors are expanded to f32 and stacked into one row. On the way rows that llama.cpp
 * permuted for its RoPE are put back, and a rank takes its share. The caller's thread is lane 0; the
 * others live for the call.
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/dummy.h"
#include "model/plan.h"

enum {
    CACHED_BYTES = 2 << 20, /* a piece without staging: stays in cache between read and upload */
    ROWS_STEP = 64,         /* then upload wants multiples of this many rows */
};

struct job { /* a piece of a weight's part, or a whole vector */
    struct plan_weight *w;
    int32_t index, part; /* of the weight among all */
    int64_t row0, n;
    uint64_t bytes; /* for the progress */
};

struct loader {
    const struct weights_load *l;
    struct plan *p;
    struct job *jobs; /* owned [n_jobs] */
    size_t n_jobs, cap_jobs;
    uint64_t total;
    _Atomic size_t next; /* relaxed: jobs do not depend on each other */
    _Atomic uint64_t done;
    atomic_bool has_failed;
};

struct lane { /* of one thread */
    struct loader *w;
    int32_t index;
    char *file, *out; /* owned: rows as in the file, and as the device takes them */
    size_t file_cap, out_cap;
    float *row; /* owned: one row as f32 */
    size_t row_cap;
    uint64_t reported;
    int code;
    struct sl_error error;
    pthread_t thread;
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

/* Where a piece's rows go: the device's staging, or the lane's own buffer. NULL: none. */
static char *piece_buffer(struct lane *lane, char **own, size_t *cap, size_t bytes)
{
    const struct device *d = lane->w->p->device;
    if (!d->stage) return reserve(own, cap, bytes, 1, &lane->error) < 0 ? NULL : *own;
    ASSERT(bytes <= PIECE_BYTES);
    char *p = d->stage(lane->w->l->dev, lane->index);
    if (!p) sl_fail(&lane->error, SL_EDEVICE, "the %s device has no room for weights", d->name);
    return p;
}

static void store_floats(enum dtype to, const float *src, int64_t n, char *dst)
{
    ASSERT(dtype_info[to].block == 1);
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

/* ------------------------------------------------------------------ matrices */

/* Rows [lo, hi) of a matrix in its file, of each only this rank's columns, to dst. */
static int read_file(struct lane *lane, const struct job *j, int64_t lo, int64_t hi, char *dst)
{
    const struct plan *p = lane->w->p;
    const struct tensor *t = j->w->tensor[j->part];
    size_t file_row = dtype_row_bytes(t->type, t->dims[1]),
           row = dtype_row_bytes(t->type, j->w->weight.cols),
           skip = dtype_row_bytes(t->type, p->first[j->w->spec->cols]);
    const struct checkpoint *c = lane->w->l->checkpoint;
    if (row == file_row)
        return checkpoint_read(c, t, (size_t)lo * row, (size_t)(hi - lo) * row, dst, &lane->error);
    for (int64_t r = lo; r < hi; r++, dst += row)
        TRY(checkpoint_read(c, t, (size_t)r * file_row + skip, row, dst, &lane->error));
    return 0;
}

/* Rows of a matrix from its file, in the part's type: *rows is where they lie. */
static int read_rows(struct lane *lane, const struct job *j, const char **rows)
{
    const struct plan *p = lane->w->p;
    const struct plan_weight *pw = j->w;
    const struct tensor *t = pw->tensor[j->part];
    enum dtype type = pw->weight.part[j->part].type;
    struct sl_error *e = &lane->error;
    int64_t cols = pw->weight.cols, n = j->n,
            first = j->row0 + p->first[pw->spec->part[j->part].rows];
    int64_t unit =
        t->rope_heads > 0 ? t->dims[0] / t->rope_heads : 1; /* rows move within a head only */
    int64_t lo = first / unit * unit, hi = (first + n + unit - 1) / unit * unit;
    size_t row = dtype_row_bytes(t->type, cols), out_row = dtype_row_bytes(type, cols), bytes;
    bool is_plain = unit == 1 && t->type == type;
    if (ckd_mul(&bytes, (size_t)(hi - lo), row))
        return sl_fail(e, SL_EFORMAT, "a tensor is too large");
    char *out = piece_buffer(lane, &lane->out, &lane->out_cap, (size_t)n * out_row), *file = out;
    if (!out) return SL_ENOMEM;
    if (!is_plain) {
        TRY(reserve(&lane->file, &lane->file_cap, bytes, 1, e));
        TRY(reserve(&lane->row, &lane->row_cap, (size_t)cols, sizeof *lane->row, e));
        file = lane->file;
    }
    TRY(read_file(lane, j, lo, hi, file));
    for (int64_t r = 0; r < n && !is_plain; r++) {
        const char *src = file + (size_t)(checkpoint_row(t, first + r) - lo) * row;
        convert_row(t->type, src, type, cols, lane->row, out + (size_t)r * out_row);
    }
    *rows = out;
    return 0;
}

/* Rows of a dummy matrix, where the device does not make its own. */
static int make_rows(struct lane *lane, const struct job *j, const struct dummy *x,
                     const char **rows)
{
    const struct weight *w = &j->w->weight;
    enum dtype type = w->part[j->part].type;
    size_t row = dtype_row_bytes(type, w->cols);
    char *out = piece_buffer(lane, &lane->out, &lane->out_cap, (size_t)j->n * row);
    if (!out) return SL_ENOMEM;
    for (int64_t r = 0; r < j->n; r++) {
        for (int64_t c = 0; c < w->cols; c += DUMMY_BLOCK) {
            float values[DUMMY_BLOCK];
            int64_t n = w->cols - c < DUMMY_BLOCK ? w->cols - c : DUMMY_BLOCK;
            dummy_values(x, (uint32_t)(j->row0 + r), (uint32_t)(c / DUMMY_BLOCK), values);
            store_floats(type, values, n, out + (size_t)r * row + dtype_row_bytes(type, c));
        }
    }
    *rows = out;
    return 0;
}

static int load_rows(struct lane *lane, const struct job *j)
{
    struct loader *w = lane->w;
    const struct device *d = w->p->device;
    const char *rows = NULL;
    struct weight_rows piece = {
        .part = &j->w->weight.part[j->part], .cols = j->w->weight.cols, .row0 = j->row0, .n = j->n};
    /* Variance 1 / cols, so that activations keep their scale through a product. */
    const struct weight_spec *spec = j->w->spec;
    const struct dummy x = {.seed = w->l->seed,
                            .weight = (uint32_t)(j->index * WEIGHT_PARTS_MAX + j->part),
                            .row0 = (uint32_t)w->p->first[spec->part[j->part].rows],
                            .block0 = (uint32_t)w->p->first[spec->cols] / DUMMY_BLOCK,
                            .scale = sqrtf(3.0f / (float)w->p->whole[spec->cols]) / 32768.0f};
    if (!j->w->tensor[j->part] && d->fill) return d->fill(w->l->dev, lane->index, &piece, &x);
    TRY(j->w->tensor[j->part] ? read_rows(lane, j, &rows) : make_rows(lane, j, &x, &rows));
    piece.src = rows;
    return d->upload(w->l->dev, lane->index, &piece);
}

/* ------------------------------------------------------------------ vectors */

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
static int load_vector(struct lane *lane, const struct job *j)
{
    struct plan *p = lane->w->p;
    struct plan_weight *pw = j->w;
    int64_t at = 0;
    int code = 0;
    float *values = xcalloc((size_t)pw->weight.cols, sizeof *values);
    for (int i = 0; i < WEIGHT_PARTS_MAX && pw->spec->part[i].tensor && code == 0; i++) {
        enum dim rows = pw->spec->part[i].rows;
        int64_t n = p->dims[rows], full = p->whole[rows];
        float *part = xcalloc((size_t)full, sizeof *part);
        bool is_bias = strstr(pw->spec->name, "bias") != NULL;
        if (pw->tensor[i])
            code = weights_vector(lane->w->l->checkpoint, pw->tensor[i], full, part, &lane->error);
        else
            for (int64_t k = 0; k < full; k++) part[k] = is_bias ? 0.0f : 1.0f;
        memcpy(values + at, part + p->first[rows], (size_t)n * sizeof *values);
        at += n;
        free(part);
    }
    const struct weight_rows piece = {
        .part = &pw->weight.part[0], .cols = pw->weight.cols, .n = 1, .src = values};
    if (code == 0) code = p->device->upload(lane->w->l->dev, lane->index, &piece);
    free(values);
    return code;
}

/* ------------------------------------------------------------------ lanes */

static int run_job(struct lane *lane, const struct job *j)
{
    int code = weight_is_vector(j->w) ? load_vector(lane, j) : load_rows(lane, j);
    if (code < 0 && !lane->error.code)
        sl_fail(&lane->error, code, "the %s device did not take %s", lane->w->p->device->name,
                j->w->weight.name);
    return code;
}

static void report(struct lane *lane, uint64_t done)
{
    const struct weights_load *l = lane->w->l;
    if (lane->index || !l->progress || done <= lane->reported) return;
    l->progress(l->progress_arg, "loading weights", done, lane->w->total);
    lane->reported = done;
}

static void *run_lane(void *arg)
{
    struct lane *lane = arg;
    struct loader *w = lane->w;
    while (!atomic_load(&w->has_failed)) {
        size_t i = atomic_fetch_add(&w->next, 1);
        if (i >= w->n_jobs) break;
        lane->code = run_job(lane, &w->jobs[i]);
        if (lane->code < 0) atomic_store(&w->has_failed, true);
        report(lane, atomic_fetch_add(&w->done, w->jobs[i].bytes) + w->jobs[i].bytes);
    }
    free(lane->file);
    free(lane->out);
    free(lane->row);
    return NULL;
}

static void add_job(struct loader *w, struct job j)
{
    if (w->n_jobs == w->cap_jobs) {
        w->cap_jobs = w->cap_jobs ? w->cap_jobs * 2 : 256;
        w->jobs = xrealloc(w->jobs, w->cap_jobs * sizeof *w->jobs);
    }
    w->jobs[w->n_jobs++] = j;
    w->total += j.bytes;
}

/* Rows of a piece: as many as staging holds, or whole steps of what fits the cache. */
static int64_t piece_rows(const struct device *d, size_t row_bytes)
{
    if (d->stage) return (int64_t)(PIECE_BYTES / row_bytes);
    int64_t n = (int64_t)(CACHED_BYTES / row_bytes) / ROWS_STEP * ROWS_STEP;
    return n < ROWS_STEP ? ROWS_STEP : n;
}

static void add_part(struct loader *w, int32_t index, int32_t i)
{
    struct plan_weight *pw = &w->p->weights[index];
    const struct weight_part *part = &pw->weight.part[i];
    size_t row = dtype_row_bytes(part->type, pw->weight.cols);
    bool is_filled = !pw->tensor[i] && w->p->device->fill;
    int64_t step = is_filled ? part->rows : piece_rows(w->p->device, row);
    for (int64_t r = 0; r < part->rows; r += step) {
        int64_t n = part->rows - r < step ? part->rows - r : step;
        add_job(w, (struct job){pw, index, i, r, n, (uint64_t)n * row});
    }
}

static void plan_jobs(struct loader *w)
{
    for (int32_t k = 0; k < w->p->n_weights; k++) {
        struct plan_weight *pw = &w->p->weights[k];
        if (pw->same) continue;
        if (weight_is_vector(pw))
            add_job(w, (struct job){pw, k, 0, 0, 1, (uint64_t)pw->weight.cols * sizeof(float)});
        for (int i = 0; i < pw->weight.n_parts && !weight_is_vector(pw); i++) add_part(w, k, i);
    }
}

/* Threads to load with: few where there is little to do; ranks load at the same time. */
static int32_t count_lanes(const struct loader *w)
{
    enum { JOBS_A_LANE = 8 };
    if (!w->p->device->stage) return 1;
    int64_t n = sysconf(_SC_NPROCESSORS_ONLN) / w->p->n_ranks, useful = (int64_t)w->n_jobs / JOBS_A_LANE;
    if (n > useful) n = useful;
    return n > LANES_MAX ? LANES_MAX : n < 1 ? 1 : (int32_t)n;
}

int weights_load(struct plan *p, const struct weights_load *l, struct sl_error *e)
{
    struct loader w = {.l = l, .p = p};
    struct lane lanes[LANES_MAX] = {0};
    int code = 0, n_threads = 0;
    plan_jobs(&w);
    int32_t n_lanes = count_lanes(&w);
    for (int32_t i = 0; i < n_lanes; i++) lanes[i] = (struct lane){.w = &w, .index = i};
    for (int32_t i = 1; i < n_lanes; i++, n_threads++)
        if (pthread_create(&lanes[i].thread, NULL, run_lane, &lanes[i]) != 0) break;
    run_lane(&lanes[0]);
    for (int32_t i = 1; i <= n_threads; i++) pthread_join(lanes[i].thread, NULL);
    for (int32_t i = 0; i <= n_threads && code == 0; i++) {
        code = lanes[i].code;
        if (code < 0 && e) *e = lanes[i].error;
    }
    if (code == 0) report(&lanes[0], w.total);
    free(w.jobs);
    return code;
}
