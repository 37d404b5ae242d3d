/* test_cpu_ops.c - the cpu device's ops against naive double references, and attention's
 * invariance.
 *
 * Attention runs a whole small world: random tokens of a few sequences go through ROPE_KV and ATTN
 * in some order of batches, over permuted pages. Whatever the batches, threads and pages, the bits
 * must be the same.
 */
#include "cpu_fixture.h"

#define EACH_ISA(isa)                                                                              \
    for (enum cpu_isa isa = 0; isa < CPU_ISA_COUNT; isa++)                                         \
        if (cpu_isa_usable(isa))

static void run(struct dev *d, enum op op, const struct batch *b, struct step s)
{
    s.op = op;
    s.fn = device_cpu.ops[op];
    if (s.fn(d, b, &s) < 0) abort();
}

static bool near(double a, double b, double relative)
{
    return fabs(a - b) <= relative * (1.0 + fabs(b));
}

static const int widths[] = {1, 15, 16, 17, 64, 131, 576};
enum { N_WIDTHS = sizeof widths / sizeof *widths, ROWS = 19 };

TEST(norm_add_glu)
{
    EACH_ISA(isa)
    {
        struct dev *d = fx_open(isa, 2);
        for (int i = 0; i < N_WIDTHS; i++) {
            int n = widths[i];
            struct layer_params lp = {.norm_eps = 1e-5f};
            struct weight w = {
                .rows = 1, .cols = n, .n_parts = 1, .part = {fx_part(d, DT_F32, 1, n, NULL)}};
            const float *wv = w.part[0].data;
            float *x = fx_floats(ROWS * n), *y = fx_floats(ROWS * n), *z = fx_floats(ROWS * n);
            float *y2 = xmalloc((size_t)(ROWS * n) * 4), *z2 = xmalloc((size_t)(ROWS * n) * 4);
            struct batch b = {.n_tokens = ROWS};
            run(d, OP_NORM, &b, (struct step){.dst = {z, n}, .src = {x, n}, .w = &w, .lp = &lp});
            for (int t = 0; t < ROWS; t++) {
                double ss = 0;
                for (int c = 0; c < n; c++) ss += (double)x[t * n + c] * (double)x[t * n + c];
                for (int c = 0; c < n; c++)
                    CHECK(near((double)z[t * n + c],
                               (double)x[t * n + c] / sqrt(ss / n + 1e-5) * (double)wv[c], 2e-6));
            }
            memcpy(y2, y, (size_t)(ROWS * n) * 4);
            run(d, OP_ADD, &b, (struct step){.dst = {y, n}, .src = {x, n}});
            for (int c = 0; c < ROWS * n; c++)
                CHECK(near((double)y[c], (double)y2[c] + (double)x[c], 1e-6));
            run(d, OP_NORM, &b, (struct step){.dst = {z, n}, .src = {y, n}, .w = &w, .lp = &lp});
            run(d, OP_ADD_NORM, &b,
                (struct step){.dst = {z2, n}, .src = {x, n}, .src2 = {y2, n}, .w = &w, .lp = &lp});
            CHECK(fx_same(y, y2, ROWS * n) && fx_same(z, z2, ROWS * n));
            free(x), free(y), free(z), free(y2), free(z2);
        }
        device_cpu.close(d);
    }
}

static double gate(double x, enum glu_kind kind)
{
    switch (kind) {
    case GLU_SILU:
        return x / (1.0 + exp(-x));
    case GLU_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(sqrt(2.0 / 3.14159265358979) * (x + 0.044715 * x * x * x)));
    case GLU_GELU_ERF:
        return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    }
    return 0;
}

TEST(glu)
{
    EACH_ISA(isa)
    {
        struct dev *d = fx_open(isa, 2);
        for (int i = 0; i < N_WIDTHS * 3; i++) {
            int n = widths[i / 3];
            struct layer_params lp = {.glu = (enum glu_kind)(i % 3)};
            float *x = fx_floats(ROWS * n * 2), *y = fx_floats(ROWS * n);
            for (int c = 0; c < ROWS * n * 2; c++) x[c] *= c % 7 == 0 ? 90.0f : 5.0f;
            struct batch b = {.n_tokens = ROWS};
            run(d, OP_GLU, &b, (struct step){.dst = {y, n}, .src = {x, 2 * n}, .lp = &lp});
            for (int t = 0; t < ROWS; t++)
                for (int c = 0; c < n; c++) {
                    double g = (double)x[t * 2 * n + c], u = (double)x[t * 2 * n + n + c];
                    CHECK_MSG(near((double)y[t * n + c], gate(g, lp.glu) * u, 2e-5),
                              "kind %d gate %g up %g: %g", (int)lp.glu, g, u, (double)y[t * n + c]);
                }
            free(x), free(y);
        }
        device_cpu.close(d);
    }
}

/* Stacked parts of several formats, by id and by the slot's last token. */
TEST(embed_and_gather)
{
    struct dev *d = fx_open(CPU_ISA_PLAIN, 2);
    int64_t cols = 256;
    uint8_t *file[3];
    enum dtype types[3] = {DT_Q4_K, DT_BF16, DT_Q8_0};
    struct weight w = {.rows = 90, .cols = cols, .n_parts = 3};
    for (int p = 0; p < 3; p++) w.part[p] = fx_part(d, types[p], 30, cols, &file[p]);
    int32_t token[] = {0, 29, -1, 30, 89, 59}, q_start[] = {0, 2, 3, 6}, slot[] = {4, 2, 7},
            prompt[] = {5, 61};
    struct sl_sampling sampling = {
        .temperature = 0, .top_p = 1, .repetition_penalty = 1, .max_tokens = 1};
    struct slot_init init = {.sampling = &sampling, .tokens = prompt, .n_prompt = 2};
    CHECK(device_cpu.assign(d, 2, &init) == 0);
    float *y = fx_floats(6 * cols), *row = fx_floats(cols), *z = fx_floats(2 * cols);
    struct want want[2] = {{.row = 2}, {.row = 5}};
    struct batch b = {.n_tokens = 6,
                      .n_seqs = 3,
                      .n_wants = 2,
                      .token = token,
                      .q_start = q_start,
                      .slot = slot,
                      .want = want};
    run(d, OP_EMBED, &b, (struct step){.dst = {y, (int32_t)cols}, .w = &w});
    for (int t = 0; t < 6; t++) {
        int id = token[t] < 0 ? 61 : token[t];
        dtype_expand(types[id / 30],
                     file[id / 30] + (size_t)(id % 30) * dtype_row_bytes(types[id / 30], cols),
                     cols, row);
        CHECK_MSG(fx_same(row, y + t * cols, cols), "token %d", id);
    }
    run(d, OP_GATHER, &b, (struct step){.dst = {z, (int32_t)cols}, .src = {y, (int32_t)cols}});
    CHECK(fx_same(z, y + 2 * cols, cols) && fx_same(z + cols, y + 5 * cols, cols));
    for (int p = 0; p < 3; p++) free(file[p]);
    free(y), free(row), free(z);
    device_cpu.close(d);
}

/* ------------------------------------------------------------------ attention */

enum { SEQS = 3, LEN_MAX = 1300 };

struct world {
    int n_heads, n_kv, dim, rotary, page_size, window, norms;
    int len[SEQS];
    float *qkv[SEQS]; /* [len, row] as the linear layer left it */
    float freq[128];
    struct weight wq, wk;
};

static int row_cols(const struct world *w)
{
    return (w->n_heads + 2 * w->n_kv) * w->dim;
}

static void shuffle(int32_t *page, int n)
{
    for (int i = 0; i < n; i++) page[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int k = fx_below(i + 1), other = page[i];
        page[i] = page[k];
        page[k] = other;
    }
}

/* Feed all sequences through a device in batches of at most max_step tokens of each; out:
 * [seq][len, heads * dim]. */
static void play(const struct world *w, struct dev *d, int max_step, float **out)
{
    int cols = row_cols(w), width = w->n_heads * w->dim, stride = LEN_MAX / w->page_size + 2;
    int n_pages = SEQS * stride + 5;
    size_t kv_bytes = (size_t)n_pages * (size_t)(w->page_size * w->n_kv * w->dim) * 2;
    struct layer_params lp = {.n_heads = w->n_heads,
                              .n_kv_heads = w->n_kv,
                              .head_dim = w->dim,
                              .rotary_dim = w->rotary,
                              .window = w->window,
                              .attn_scale = 0.3f,
                              .norm_eps = 1e-6f,
                              .rope_mscale = 1.1f,
                              .rope_freq = w->freq,
                              .k_pages = xmalloc(kv_bytes),
                              .v_pages = xmalloc(kv_bytes)};
    memset(lp.k_pages, 0xFF, kv_bytes); /* NaN: whoever reads a stranger's position shows it */
    memset(lp.v_pages, 0xFF, kv_bytes);
    int32_t *pages = xcalloc((size_t)(SEQS * stride), 4), *free_pages = xcalloc(n_pages, 4);
    shuffle(free_pages, n_pages);
    for (int i = 0; i < SEQS * stride; i++) pages[i] = free_pages[i];
    int done[SEQS] = {0};
    for (;;) {
        int32_t pos[SEQS * LEN_MAX], kv_slot[SEQS * LEN_MAX], q_start[SEQS + 1] = {0}, kv_len[SEQS];
        int32_t step_pages[SEQS * (LEN_MAX + 2)], seq[SEQS], n = 0, n_seqs = 0;
        for (int i = 0; i < SEQS; i++) {
            int left = w->len[i] - done[i], now = left < max_step ? left : 1 + fx_below(max_step);
            if (now > left) now = left;
            if (now == 0) continue;
            for (int k = 0; k < now; k++, n++) {
                pos[n] = done[i] + k;
                kv_slot[n] = pages[i * stride + pos[n] / w->page_size] * w->page_size +
                             pos[n] % w->page_size;
            }
            memcpy(step_pages + n_seqs * stride, pages + i * stride, (size_t)stride * 4);
            seq[n_seqs] = i;
            kv_len[n_seqs] = done[i] + now;
            q_start[++n_seqs] = n;
        }
        if (n == 0) break;
        float *x = xmalloc((size_t)(n * cols) * 4), *y = xmalloc((size_t)(n * width) * 4);
        for (int i = 0; i < n_seqs; i++)
            memcpy(x + q_start[i] * cols, w->qkv[seq[i]] + done[seq[i]] * cols,
                   (size_t)((q_start[i + 1] - q_start[i]) * cols) * 4);
        struct batch b = {.n_tokens = n,
                          .n_seqs = n_seqs,
                          .page_size = w->page_size,
                          .pages_stride = stride,
                          .pos = pos,
                          .kv_slot = kv_slot,
                          .q_start = q_start,
                          .kv_len = kv_len,
                          .pages = step_pages};
        d->angles_freq = NULL; /* as launch does */
        run(d, OP_ROPE_KV, &b,
            (struct step){.dst = {x, cols},
                          .w = w->norms ? &w->wq : NULL,
                          .bias = w->norms ? &w->wk : NULL,
                          .lp = &lp});
        run(d, OP_ATTN, &b, (struct step){.dst = {y, width}, .src = {x, cols}, .lp = &lp});
        for (int i = 0; i < n_seqs; i++) {
            int m = q_start[i + 1] - q_start[i];
            memcpy(out[seq[i]] + done[seq[i]] * width, y + q_start[i] * width,
                   (size_t)(m * width) * 4);
            done[seq[i]] += m;
        }
        free(x), free(y);
    }
    free(lp.k_pages), free(lp.v_pages), free(pages), free(free_pages);
}

/* Norm and rotation of one head in double. */
static void reference_head(const struct world *w, const float *x, const float *norm, int pos,
                           double *y)
{
    double ss = 0, z[HEAD_DIM_MAX];
    for (int c = 0; c < w->dim; c++) ss += (double)x[c] * (double)x[c];
    for (int c = 0; c < w->dim; c++)
        y[c] = z[c] =
            norm ? (double)x[c] / sqrt(ss / w->dim + 1e-6) * (double)norm[c] : (double)x[c];
    for (int c = 0; c < w->rotary / 2; c++) {
        double a = (double)pos * (double)w->freq[c], cosine = cos(a) * 1.1, sine = sin(a) * 1.1;
        y[c] = z[c] * cosine - z[c + w->rotary / 2] * sine;
        y[c + w->rotary / 2] = z[c + w->rotary / 2] * cosine + z[c] * sine;
    }
}

/* Every 29th query of a sequence, and the last. */
static double worst_error(const struct world *w, int s, const float *out)
{
    int cols = row_cols(w), len = w->len[s], group = w->n_heads / w->n_kv;
    double worst = 0, *k = xmalloc((size_t)(len * w->dim) * 8), *p = xmalloc((size_t)len * 8),
           q[HEAD_DIM_MAX];
    const float *nq = w->norms ? w->wq.part[0].data : NULL,
                *nk = w->norms ? w->wk.part[0].data : NULL;
    for (int h = 0; h < w->n_heads; h++) {
        int at_k = (w->n_heads + h / group) * w->dim, at_v = at_k + w->n_kv * w->dim;
        for (int i = 0; i < len; i++)
            reference_head(w, w->qkv[s] + i * cols + at_k, nk, i, k + i * w->dim);
        for (int t = 0; t < len; t = t + 29 < len || t == len - 1 ? t + 29 : len - 1) {
            int first = w->window && t >= w->window ? t - w->window + 1 : 0;
            double sum = 0;
            reference_head(w, w->qkv[s] + t * cols + h * w->dim, nq, t, q);
            for (int i = first; i <= t; i++) {
                double dot = 0;
                for (int c = 0; c < w->dim; c++) dot += q[c] * k[i * w->dim + c];
                sum += p[i] = exp(dot * 0.3);
            }
            for (int c = 0; c < w->dim; c++) {
                double want = 0;
                for (int i = first; i <= t; i++)
                    want += p[i] / sum * (double)w->qkv[s][i * cols + at_v + c];
                double off = fabs(want - (double)out[(t * w->n_heads + h) * w->dim + c]);
                if (!(off <= worst)) worst = off;
            }
        }
    }
    free(k), free(p);
    return worst;
}

static void check_world(enum cpu_isa isa, struct world w)
{
    struct dev *d[4];
    float *first[SEQS], *again[SEQS];
    for (int i = 0; i < 4; i++) d[i] = fx_open(isa, i + 1);
    w.wq = (struct weight){
        .rows = 1, .cols = w.dim, .n_parts = 1, .part = {fx_part(d[0], DT_F32, 1, w.dim, NULL)}};
    w.wk = (struct weight){
        .rows = 1, .cols = w.dim, .n_parts = 1, .part = {fx_part(d[0], DT_F32, 1, w.dim, NULL)}};
    for (int i = 0; i < 128; i++)
        w.freq[i] = powf(10000.0f, -2.0f * (float)i / (float)(w.rotary + 1));
    for (int s = 0; s < SEQS; s++) {
        size_t n = (size_t)(w.len[s] * w.n_heads * w.dim);
        w.qkv[s] = fx_floats(w.len[s] * row_cols(&w));
        first[s] = xcalloc(n, 4);
        again[s] = xcalloc(n, 4);
    }
    play(&w, d[0], LEN_MAX, first);
    for (int s = 0; s < SEQS; s++) {
        double worst = worst_error(&w, s, first[s]);
        CHECK_MSG(worst < 2e-3, "%s dim %d page %d window %d: error %g", d[0]->k->name, w.dim,
                  w.page_size, w.window, worst);
    }
    static const int steps[] = {LEN_MAX, 100, 7, 33};
    for (int round = isa == CPU_ISA_PLAIN ? 2 : 0; round < 4; round++) {
        play(&w, d[3 - round], steps[round], again);
        for (int s = 0; s < SEQS; s++)
            CHECK_MSG(fx_same(first[s], again[s], w.len[s] * w.n_heads * w.dim),
                      "%s dim %d page %d window %d: other bits in steps of %d", d[0]->k->name,
                      w.dim, w.page_size, w.window, steps[round]);
    }
    for (int s = 0; s < SEQS; s++) free(w.qkv[s]), free(first[s]), free(again[s]);
    for (int i = 0; i < 4; i++) device_cpu.close(d[i]);
}

TEST(attention)
{
    static const struct world worlds[] = {
        {.n_heads = 9, .n_kv = 3, .dim = 64, .rotary = 64, .page_size = 16, .len = {70, 1, 530}},
        {.n_heads = 4,
         .n_kv = 2,
         .dim = 32,
         .rotary = 16,
         .page_size = 32,
         .norms = 1,
         .len = {1030, 64, 5}},
        {.n_heads = 2,
         .n_kv = 2,
         .dim = 80,
         .rotary = 80,
         .page_size = 5,
         .window = 16,
         .len = {300, 17, 128}},
        {.n_heads = 20,
         .n_kv = 1,
         .dim = 24,
         .rotary = 0,
         .page_size = 1,
         .window = 70,
         .len = {200, 65, 2}},
        {.n_heads = 8,
         .n_kv = 1,
         .dim = 9,
         .rotary = 8,
         .page_size = 64,
         .window = 600,
         .len = {1290, 3, 63}},
        {.n_heads = 2,
         .n_kv = 1,
         .dim = 256,
         .rotary = 256,
         .page_size = 256,
         .norms = 1,
         .len = {90, 3, 65}},
    };
    EACH_ISA(isa)
    for (size_t i = 0; i < sizeof worlds / sizeof *worlds; i++) check_world(isa, worlds[i]);
}

/* ------------------------------------------------------------------ pool */

static void add_up(void *arg, int item, int thread)
{
    (void)thread;
    ((int *)arg)[item]++;
}

TEST(pool_runs_each_item_once)
{
    for (int threads = 1; threads <= 4; threads++) {
        struct pool *p = pool_open(threads);
        int count[97] = {0}, n_jobs = 300;
        for (int job = 0; job < n_jobs; job++) pool_run(p, add_up, count, job % 2 ? 97 : 3);
        for (int i = 0; i < 97; i++) CHECK(count[i] == (i < 3 ? n_jobs : n_jobs / 2));
        pool_close(p);
    }
}
