/* rig.h - one op on two devices: the same step with the same values on the cpu and on the GPU.
 *
 * Values are rounded to bf16 before either device sees them, so that what differs is the device's
 * own rounding. A rig holds one device; its buffers live until the rig is closed.
 */
#ifndef TESTS_KERNELS_RIG_H
#define TESTS_KERNELS_RIG_H

#include <cuda_runtime_api.h>
#include <math.h>

#include "backend/backend.h"
#include "base/err.h"
#include "base/test.h"

enum {
    RIG_TOKENS = 2300,
    RIG_SEQS = 80,
    RIG_LEN = 4096,
    RIG_PAGE = 16,
    RIG_VOCAB = 33001,
    RIG_PAGES = 2048,
    RIG_HIDDEN = 896 /* of pooled vectors */
};

struct rig {
    const struct device *device;
    struct dev *d;
};

static uint64_t rig_state = 1;
static inline uint32_t rig_u32(void)
{
    rig_state = rig_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rig_state >> 33);
}
static inline int32_t rig_below(int32_t n)
{
    return (int32_t)(rig_u32() % (uint32_t)n);
}
static inline float rig_float(void) /* [-1, 1), a bf16 */
{
    return bf16_to_f32(f32_to_bf16((float)rig_u32() / 1073741824.0f - 1.0f));
}
static inline float *rig_floats(int64_t n)
{
    float *p = xmalloc((size_t)(n ? n : 1) * sizeof *p);
    for (int64_t i = 0; i < n; i++) p[i] = rig_float();
    return p;
}

static inline struct rig rig_open(const struct device *device)
{
    struct rig r = {.device = device};
    struct sl_error e = {0};
    struct dev_config c = {.n_ranks = 1,
                           .n_threads = 0,
                           .max_tokens = RIG_TOKENS,
                           .max_seqs = RIG_SEQS,
                           .max_wants = RIG_TOKENS,
                           .max_model_len = RIG_LEN,
                           .n_vocab = RIG_VOCAB,
                           .page_size = RIG_PAGE,
                           .n_hidden = RIG_HIDDEN};
    if (device->open(&r.d, &c, &e) < 0) {
        printf("open %s: %s\n", device->name, e.text);
        abort();
    }
    return r;
}

static inline bool rig_is_host(const struct rig *r)
{
    return r->device->name[1] == 'p';
} /* "cpu" */

static inline void rig_put(const struct rig *r, void *to, enum dtype type, const float *values,
                           int64_t n)
{
    if (rig_is_host(r)) {
        memcpy(to, values, (size_t)n * sizeof *values);
        return;
    }
    uint16_t *half = xmalloc((size_t)n * 2 + 2);
    for (int64_t i = 0; i < n; i++) half[i] = f32_to_bf16(values[i]);
    size_t bytes = (size_t)n * (type == DT_F32 ? 4 : 2);
    ASSERT(cudaMemcpy(to, type == DT_F32 ? (const void *)values : half, bytes,
                      cudaMemcpyHostToDevice) == 0);
    ASSERT(cudaDeviceSynchronize() == 0);
    free(half);
}

static inline struct act rig_act(const struct rig *r, int64_t rows, int32_t cols, enum dtype type,
                                 const float *values)
{
    struct act a = {.cols = cols, .type = rig_is_host(r) ? DT_F32 : type};
    a.data = r->device->alloc(r->d, (size_t)(rows * cols) * 4, "a test's activations", NULL);
    ASSERT(a.data);
    if (values) {
        rig_put(r, a.data, a.type, values, rows * cols);
    } else if (!rig_is_host(r)) { /* what is not written shows as NaN */
        ASSERT(cudaMemset(a.data, 0xff, (size_t)(rows * cols) * 4) == 0 &&
               cudaDeviceSynchronize() == 0);
    }
    return a;
}

static inline float *rig_get(const struct rig *r, const struct act *a, int64_t rows)
{
    int64_t n = rows * a->cols;
    float *out = xmalloc((size_t)n * sizeof *out);
    if (rig_is_host(r)) {
        memcpy(out, a->data, (size_t)n * sizeof *out);
        return out;
    }
    uint16_t *half = xmalloc((size_t)n * 2);
    ASSERT(cudaDeviceSynchronize() == 0);
    if (a->type == DT_F32)
        ASSERT(cudaMemcpy(out, a->data, (size_t)n * 4, cudaMemcpyDeviceToHost) == 0);
    else
        ASSERT(cudaMemcpy(half, a->data, (size_t)n * 2, cudaMemcpyDeviceToHost) == 0);
    for (int64_t i = 0; i < n && a->type != DT_F32; i++) out[i] = bf16_to_f32(half[i]);
    free(half);
    return out;
}

/* A weight of bf16 (matrix) or f32 (vector: rows 1) values, in n_parts equal parts. */
static inline struct weight rig_weight(const struct rig *r, int64_t rows, int64_t cols, int n_parts,
                                       const float *values)
{
    struct weight w = {.name = "test", .rows = rows, .cols = cols, .n_parts = n_parts};
    int64_t n = rows / n_parts * cols;
    uint16_t *half = xmalloc((size_t)n * 2);
    for (int i = 0; i < n_parts; i++) {
        enum dtype type = rows == 1 ? DT_F32 : DT_BF16;
        w.part[i] = (struct weight_part){.type = type, .rows = rows / n_parts};
        size_t bytes = r->device->weight_bytes(type, rows / n_parts, cols);
        w.part[i].data = r->device->alloc(r->d, bytes, "a test's weight", NULL);
        for (int64_t k = 0; k < n; k++) half[k] = f32_to_bf16(values[i * n + k]);
        const void *src = type == DT_F32 ? (const void *)(values + i * n) : half;
        struct weight_rows piece = {&w.part[i], cols, 0, rows / n_parts, src};
        ASSERT(r->device->upload(r->d, 0, &piece) == 0);
    }
    ASSERT(!r->device->ready || r->device->ready(r->d, NULL, 0) == 0);
    free(half);
    return w;
}

/* One step of one op. */
static inline const struct result *rig_run(const struct rig *r, struct step s,
                                           const struct batch *b)
{
    const struct result *out = NULL;
    static struct step held[4096]; /* the device knows plans by their address */
    static int n;
    struct step *at = &held[n++ % 4096];
    *at = s;
    at->fn = r->device->ops[s.op];
    int code = r->device->launch(r->d, at, 1, b);
    if (code == 0 && b->n_masks) code = r->device->sample(r->d, at, 1, b);
    if (code == 0) code = r->device->collect(r->d, &out);
    CHECK_MSG(code == 0, "%s: launch gave %d", r->device->name, code);
    if (code < 0) abort();
    return out;
}

/* ||a - b|| / ||b||; infinite where anything is not finite. */
static inline double rig_error(const float *a, const float *b, int64_t n)
{
    double diff = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(a[i])) return INFINITY;
        diff += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    return norm > 0 ? sqrt(diff / norm) : sqrt(diff);
}

/* A batch of sequences with whole arrays; rows of sequence i: positions pos0[i].. */
struct rig_batch {
    struct batch b;
    int32_t token[RIG_TOKENS], pos[RIG_TOKENS], kv[RIG_TOKENS], q_start[RIG_SEQS + 1],
        kv_len[RIG_SEQS], slot[RIG_SEQS];
    int32_t pages[RIG_SEQS * (RIG_LEN / RIG_PAGE)];
    struct want want[RIG_TOKENS];
};

static inline void rig_batch_init(struct rig_batch *x)
{
    x->b = (struct batch){.page_size = RIG_PAGE,
                          .pages_stride = RIG_LEN / RIG_PAGE,
                          .token = x->token,
                          .pos = x->pos,
                          .kv_slot = x->kv,
                          .q_start = x->q_start,
                          .kv_len = x->kv_len,
                          .slot = x->slot,
                          .pages = x->pages,
                          .want = x->want};
    x->q_start[0] = 0;
}

/* pages: physical pages of the sequence. */
static inline void rig_batch_add(struct rig_batch *x, int32_t pos0, int32_t n_rows,
                                 const int32_t *pages)
{
    struct batch *b = &x->b;
    int32_t *table = x->pages + b->n_seqs * b->pages_stride;
    for (int32_t i = 0; i <= (pos0 + n_rows - 1) / RIG_PAGE; i++) table[i] = pages[i];
    for (int32_t i = 0; i < n_rows; i++) {
        x->token[b->n_tokens] = rig_below(100);
        x->pos[b->n_tokens] = pos0 + i;
        x->kv[b->n_tokens++] = table[(pos0 + i) / RIG_PAGE] * RIG_PAGE + (pos0 + i) % RIG_PAGE;
    }
    x->kv_len[b->n_seqs] = pos0 + n_rows;
    x->slot[b->n_seqs] = b->n_seqs;
    x->q_start[++b->n_seqs] = b->n_tokens;
}

#endif
