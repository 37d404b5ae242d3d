/* test_kernels.c - every op of the cuda device against the cpu device; where there is no GPU, it
 * says so and passes.
 *
 * Shapes are odd on purpose: one row, tails of tiles, columns that no tile divides. Besides
 * closeness it holds the device to its law: a row's bits depend on neither its batch nor how its
 * context was cut.
 */
#include "rig.h"

static const double TOLERANCE = 6e-3; /* of bf16 results: two roundings of 2^-9 */
static struct rig cpu, gpu;
static bool has_gpu;

static void open_rigs(void)
{
    struct sl_error e = {0};
    static bool is_open;
    if (is_open) return;
    is_open = true;
    setvbuf(stdout, NULL, _IONBF, 0); /* a fault may end the process */
    int code = device_cuda.probe(&e);
    if (code < 0) {
        printf("skipped: %s\n", e.text);
        return;
    }
    has_gpu = true;
    cpu = rig_open(&device_cpu);
    gpu = rig_open(&device_cuda);
}
#define NEEDS_GPU()                                                                                \
    open_rigs();                                                                                   \
    if (!has_gpu) return

static struct rig_batch plain(int32_t n)
{
    static struct rig_batch x;
    memset(&x, 0, sizeof x);
    rig_batch_init(&x);
    int32_t pages[RIG_LEN / RIG_PAGE] = {0};
    for (int i = 0; i < RIG_LEN / RIG_PAGE; i++) pages[i] = i;
    rig_batch_add(&x, 0, n, pages);
    return x;
}
#define RELOCATE(x)                                                                                \
    (x).b.token = (x).token, (x).b.pos = (x).pos, (x).b.kv_slot = (x).kv,                          \
    (x).b.q_start = (x).q_start, (x).b.kv_len = (x).kv_len, (x).b.slot = (x).slot,                 \
    (x).b.pages = (x).pages, (x).b.want = (x).want

static void compare(const char *what, const struct act *a, const struct act *b, int64_t rows,
                    double tolerance)
{
    float *ref = rig_get(&cpu, a, rows), *got = rig_get(&gpu, b, rows);
    double error = rig_error(got, ref, rows * a->cols);
    CHECK_MSG(error <= tolerance, "%s: relative error %.2e", what, error);
    free(ref);
    free(got);
}

/* ------------------------------------------------------------------ rows */

static void check_rows(int32_t n, int32_t cols)
{
    static struct rig_batch x;
    char what[64];
    x = plain(n);
    RELOCATE(x);
    int64_t total = (int64_t)n * cols;
    float *v = rig_floats(2 * total), *w = rig_floats(cols),
          *table = rig_floats(100 * (int64_t)cols);
    struct weight wc = rig_weight(&cpu, 1, cols, 1, w), wg = rig_weight(&gpu, 1, cols, 1, w);
    struct weight tc = rig_weight(&cpu, 100, cols, 1, table),
                  tg = rig_weight(&gpu, 100, cols, 1, table);
    struct layer_params lp = {.norm_eps = 1e-5f};
    snprintf(what, sizeof what, "%d rows of %d", n, cols);

    struct act c = rig_act(&cpu, n, cols, DT_F32, NULL), g = rig_act(&gpu, n, cols, DT_F32, NULL);
    rig_run(&cpu, (struct step){.op = OP_EMBED, .dst = c, .w = &tc}, &x.b);
    rig_run(&gpu, (struct step){.op = OP_EMBED, .dst = g, .w = &tg}, &x.b);
    compare(what, &c, &g, n, 0);
    struct act hc = rig_act(&cpu, n, cols, DT_BF16, NULL),
               hg = rig_act(&gpu, n, cols, DT_BF16, NULL);
    rig_run(&cpu, (struct step){.op = OP_NORM, .dst = hc, .src = c, .w = &wc, .lp = &lp}, &x.b);
    rig_run(&gpu, (struct step){.op = OP_NORM, .dst = hg, .src = g, .w = &wg, .lp = &lp}, &x.b);
    compare(what, &hc, &hg, n, TOLERANCE);
    struct act ac = rig_act(&cpu, n, cols, DT_BF16, v), ag = rig_act(&gpu, n, cols, DT_BF16, v);
    rig_run(&cpu,
            (struct step){.op = OP_ADD_NORM, .dst = hc, .src = ac, .src2 = c, .w = &wc, .lp = &lp},
            &x.b);
    rig_run(&gpu,
            (struct step){.op = OP_ADD_NORM, .dst = hg, .src = ag, .src2 = g, .w = &wg, .lp = &lp},
            &x.b);
    compare(what, &hc, &hg, n, TOLERANCE);
    compare(what, &c, &g, n, 1e-6);
    rig_run(&cpu, (struct step){.op = OP_ADD, .dst = c, .src = ac}, &x.b);
    rig_run(&gpu, (struct step){.op = OP_ADD, .dst = g, .src = ag}, &x.b);
    compare(what, &c, &g, n, 1e-6);
    struct act uc = rig_act(&cpu, n, 2 * cols, DT_BF16, v),
               ug = rig_act(&gpu, n, 2 * cols, DT_BF16, v);
    for (int kind = 0; kind < 3; kind++) {
        lp.glu = (enum glu_kind)kind;
        rig_run(&cpu, (struct step){.op = OP_GLU, .dst = hc, .src = uc, .lp = &lp}, &x.b);
        rig_run(&gpu, (struct step){.op = OP_GLU, .dst = hg, .src = ug, .lp = &lp}, &x.b);
        compare(what, &hc, &hg, n, TOLERANCE);
    }
    x.b.n_wants = (n + 1) / 2;
    for (int i = 0; i < x.b.n_wants; i++)
        x.want[i] = (struct want){.row = 2 * i, .target = -1, .n_top = -1};
    rig_run(&cpu, (struct step){.op = OP_GATHER, .dst = uc, .src = uc}, &x.b);
    free(v), free(w), free(table);
}

TEST(rows)
{
    NEEDS_GPU();
    static const int32_t n[] = {1, 3, 130}, cols[] = {64, 896, 4096, 8968};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 4; k++) check_rows(n[i], cols[k]);
}

TEST(gather)
{
    NEEDS_GPU();
    static struct rig_batch x;
    x = plain(100);
    RELOCATE(x);
    float *v = rig_floats(100 * 72);
    struct act sc = rig_act(&cpu, 100, 72, DT_BF16, v), sg = rig_act(&gpu, 100, 72, DT_BF16, v);
    struct act dc = rig_act(&cpu, 34, 72, DT_BF16, NULL), dg = rig_act(&gpu, 34, 72, DT_BF16, NULL);
    x.b.n_wants = 34;
    for (int i = 0; i < 34; i++) x.want[i] = (struct want){.row = 3 * i, .target = -1, .n_top = -1};
    rig_run(&cpu, (struct step){.op = OP_GATHER, .dst = dc, .src = sc}, &x.b);
    rig_run(&gpu, (struct step){.op = OP_GATHER, .dst = dg, .src = sg}, &x.b);
    compare("gather", &dc, &dg, 34, 0);
    free(v);
}

/* Three sequences' rows, whole or over three steps: the cpu's bits either way. */
static void pool(const struct rig *r, bool is_cut, const float *v, float *out)
{
    static const int32_t lengths[] = {1, 40, 77}, ends[] = {1, 20, 77};
    static struct rig_batch x;
    struct pooling p[3];
    int32_t pages[RIG_LEN / RIG_PAGE] = {0}, from[3] = {0};
    const struct sl_sampling none = {0};
    const struct slot_init init = {.sampling = &none};
    for (int i = 0; i < 3; i++) CHECK(r->device->assign(r->d, i, &init) == 0);
    for (int step = 0; step < (is_cut ? 3 : 1); step++) {
        memset(&x, 0, sizeof x);
        rig_batch_init(&x);
        struct act a = rig_act(r, 118, RIG_HIDDEN, DT_BF16, NULL);
        int32_t n = 0, at = 0;
        for (int32_t i = 0; i < 3; i++) {
            int32_t to = is_cut && step < 2 ? ends[i] * (step + 1) / 2 : lengths[i],
                    rows = to - from[i];
            if (rows > 0) {
                rig_batch_add(&x, from[i], rows, pages);
                x.slot[n] = i;
                p[n] = (struct pooling){n, at, rows, to == lengths[i]};
                size_t size = a.type == DT_F32 ? 4 : 2;
                rig_put(r, (char *)a.data + (size_t)at * RIG_HIDDEN * size, a.type,
                        v + (i * 77 + from[i]) * RIG_HIDDEN, (int64_t)rows * RIG_HIDDEN);
                n++;
            }
            at += rows;
            from[i] = to;
        }
        if (!n) continue;
        x.b.n_poolings = n;
        x.b.pooling = p;
        const struct result *got = rig_run(r, (struct step){.op = OP_POOL, .src = a}, &x.b);
        for (int32_t k = 0; k < n; k++)
            if (p[k].is_last)
                memcpy(out + x.slot[k] * RIG_HIDDEN, got->pooled + k * RIG_HIDDEN,
                       RIG_HIDDEN * sizeof *out);
    }
}

TEST(pooling)
{
    NEEDS_GPU();
    float *v = rig_floats(3 * 77 * RIG_HIDDEN), *out[4];
    for (int i = 0; i < 4; i++) {
        out[i] = xcalloc(3 * RIG_HIDDEN, sizeof(float));
        pool(i < 2 ? &cpu : &gpu, i % 2, v, out[i]);
        CHECK_MSG(memcmp(out[i], out[0], 3 * RIG_HIDDEN * sizeof(float)) == 0, "way %d: other bits",
                  i);
    }
    for (int i = 0; i < 4; i++) free(out[i]);
    free(v);
}

/* ------------------------------------------------------------------ products */

static void check_linear(int64_t n, int64_t k, int n_parts, bool has_bias)
{
    static const int32_t rows[] = {300, 129, 65, 64, 40, 33, 17, 16, 9, 8, 7, 2, 1};
    static struct rig_batch x;
    float *w = rig_floats(n * k), *v = rig_floats(300 * k), *b = rig_floats(n), *widest = NULL;
    struct weight wc = rig_weight(&cpu, n, k, n_parts, w), wg = rig_weight(&gpu, n, k, n_parts, w);
    struct weight bc = rig_weight(&cpu, 1, n, 1, b), bg = rig_weight(&gpu, 1, n, 1, b);
    struct act sc = rig_act(&cpu, 300, (int32_t)k, DT_BF16, v),
               sg = rig_act(&gpu, 300, (int32_t)k, DT_BF16, v);
    struct act dc = rig_act(&cpu, 300, (int32_t)n, DT_BF16, NULL),
               lc = rig_act(&cpu, 300, (int32_t)n, DT_F32, NULL);
    struct step step = {
        .op = OP_LINEAR, .dst = dc, .src = sc, .w = &wc, .bias = has_bias ? &bc : NULL};
    x = plain(300);
    RELOCATE(x);
    rig_run(&cpu, step, &x.b);
    float *ref = rig_get(&cpu, &dc, 300);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int32_t m = rows[i];
        x = plain(m);
        RELOCATE(x);
        struct act dg = rig_act(&gpu, m, (int32_t)n, DT_BF16, NULL),
                   lg = rig_act(&gpu, m, (int32_t)n, DT_F32, NULL);
        step = (struct step){
            .op = OP_LINEAR, .dst = dg, .src = sg, .w = &wg, .bias = has_bias ? &bg : NULL};
        rig_run(&gpu, step, &x.b);
        float *got = rig_get(&gpu, &dg, m);
        double error = rig_error(got, ref, m * n);
        CHECK_MSG(error <= TOLERANCE, "%lld x %lld, %d rows: relative error %.2e", (long long)n,
                  (long long)k, m, error);
        if (!widest)
            widest = got;
        else
            CHECK_MSG(memcmp(got, widest, (size_t)(m * n) * sizeof *got) == 0,
                      "%lld x %lld: %d rows, other bits than 300", (long long)n, (long long)k, m);
        x.b.n_wants = m;
        rig_run(&gpu, (struct step){.op = OP_LOGITS, .dst = lg, .src = sg, .w = &wg}, &x.b);
        if (!has_bias) {
            float *logits = rig_get(&gpu, &lg, m);
            error = rig_error(logits, ref, m * n);
            CHECK_MSG(error <= 1e-5, "%lld x %lld, %d rows of logits: relative error %.2e",
                      (long long)n, (long long)k, m, error);
            free(logits);
        }
        if (got != widest) free(got);
    }
    (void)lc;
    free(w), free(v), free(b), free(widest), free(ref);
}

TEST(linear)
{
    NEEDS_GPU();
    check_linear(16, 64, 1, false);
    check_linear(48, 896, 3, true);
    check_linear(1000, 296, 1, false);
    check_linear(200, 4872, 1, true);
    check_linear(768, 2048, 3, false);
}

/* Fused or not, few rows or many: the same bits. */
static void check_linear_glu(int32_t ffn, int32_t k, int n_parts, bool has_bias)
{
    enum { ROWS = 130 };
    static struct rig_batch x;
    float *w = rig_floats(2 * (int64_t)ffn * k), *v = rig_floats(ROWS * (int64_t)k),
          *b = rig_floats(2 * (int64_t)ffn);
    struct weight wg = rig_weight(&gpu, 2 * ffn, k, n_parts, w),
                  bg = rig_weight(&gpu, 1, 2 * ffn, 1, b);
    struct act in = rig_act(&gpu, ROWS, k, DT_BF16, v),
               wide = rig_act(&gpu, ROWS, 2 * ffn, DT_BF16, NULL),
               apart = rig_act(&gpu, ROWS, ffn, DT_BF16, NULL),
               fused = rig_act(&gpu, ROWS, ffn, DT_BF16, NULL);
    struct layer_params lp = {0};
    const struct weight *bias = has_bias ? &bg : NULL;
    for (int kind = 0; kind < 3; kind++) {
        static const int32_t rows[] = {1, 5, 16, 17, 64, ROWS};
        lp.glu = (enum glu_kind)kind;
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            x = plain(rows[i]);
            RELOCATE(x);
            rig_run(&gpu,
                    (struct step){.op = OP_LINEAR, .dst = wide, .src = in, .w = &wg, .bias = bias},
                    &x.b);
            rig_run(&gpu, (struct step){.op = OP_GLU, .dst = apart, .src = wide, .lp = &lp}, &x.b);
            rig_run(&gpu,
                    (struct step){.op = OP_LINEAR_GLU,
                                  .dst = fused,
                                  .src = in,
                                  .src2 = wide,
                                  .w = &wg,
                                  .bias = bias,
                                  .lp = &lp},
                    &x.b);
            float *one = rig_get(&gpu, &apart, rows[i]), *two = rig_get(&gpu, &fused, rows[i]);
            CHECK_MSG(memcmp(one, two, (size_t)rows[i] * (size_t)ffn * sizeof *one) == 0,
                      "%d x %d, kind %d, %d rows: fused has other bits", ffn, k, kind, rows[i]);
            free(one), free(two);
        }
    }
    free(w), free(v), free(b);
}

TEST(linear_glu)
{
    NEEDS_GPU();
    check_linear_glu(64, 64, 1, false);
    check_linear_glu(200, 296, 2, true);
    check_linear_glu(1000, 896, 1, true);
    check_linear_glu(14336, 512, 2, false);
}

/* ------------------------------------------------------------------ attention */

struct heads {
    int32_t n, n_kv, dim, rotary;
    bool has_norm;
};

struct attn_rig {
    struct layer_params lp[2]; /* cpu, gpu */
    struct weight qn[2], kn[2];
    float freq[128];
};

static void open_attn(struct attn_rig *a, const struct heads *h, int32_t window)
{
    const struct rig *rigs[2] = {&cpu, &gpu};
    float *qn = rig_floats(h->dim), *kn = rig_floats(h->dim);
    for (int i = 0; i < h->rotary / 2; i++)
        a->freq[i] = powf(10000.0f, -2.0f * (float)i / (float)h->rotary);
    for (int i = 0; i < 2; i++) {
        size_t bytes = (size_t)RIG_PAGES * RIG_PAGE * (size_t)(h->n_kv * h->dim) * 2;
        a->lp[i] = (struct layer_params){.n_heads = h->n,
                                         .n_kv_heads = h->n_kv,
                                         .head_dim = h->dim,
                                         .rotary_dim = h->rotary,
                                         .window = window,
                                         .attn_scale = 1.0f / sqrtf((float)h->dim),
                                         .norm_eps = 1e-5f,
                                         .rope_mscale = 1.0f,
                                         .rope_freq = a->freq};
        a->lp[i].k_pages = rigs[i]->device->alloc(rigs[i]->d, bytes, "pages", NULL);
        a->lp[i].v_pages = rigs[i]->device->alloc(rigs[i]->d, bytes, "pages", NULL);
        if (i == 1) { /* what no token wrote must not count, whatever it is */
            ASSERT(cudaMemset(a->lp[i].k_pages, 0xff, bytes) == 0 &&
                   cudaMemset(a->lp[i].v_pages, 0xff, bytes) == 0);
            ASSERT(cudaDeviceSynchronize() == 0);
        }
        a->qn[i] = rig_weight(rigs[i], 1, h->dim, 1, qn);
        a->kn[i] = rig_weight(rigs[i], 1, h->dim, 1, kn);
    }
    free(qn), free(kn);
}

/* Rotate, write and attend on one rig; returns the attention's rows. */
static float *attend(int which, struct attn_rig *a, const struct heads *h, const struct batch *b,
                     const float *qkv)
{
    const struct rig *r = which ? &gpu : &cpu;
    int32_t cols = (h->n + 2 * h->n_kv) * h->dim;
    struct act q = rig_act(r, b->n_tokens, cols, DT_BF16, qkv),
               out = rig_act(r, b->n_tokens, h->n * h->dim, DT_BF16, NULL);
    struct step rope = {.op = OP_ROPE_KV, .dst = q, .lp = &a->lp[which]};
    if (h->has_norm) rope.w = &a->qn[which], rope.bias = &a->kn[which];
    rig_run(r, rope, b);
    rig_run(r, (struct step){.op = OP_ATTN, .dst = out, .src = q, .lp = &a->lp[which]}, b);
    return rig_get(r, &out, b->n_tokens);
}

/* A sequence's qkv rows are a function of its number and position, so that steps can repeat them.
 */
static float *qkv_of(const struct batch *b, int32_t cols, const int32_t *ids)
{
    float *v = xmalloc((size_t)(b->n_tokens * cols) * sizeof *v);
    for (int32_t s = 0; s < b->n_seqs; s++)
        for (int32_t t = b->q_start[s]; t < b->q_start[s + 1]; t++) {
            rig_state = (uint64_t)ids[s] * 1000003u + (uint64_t)b->pos[t] * 7919u + 17u;
            for (int i = 0; i < 4; i++) rig_u32();
            for (int32_t c = 0; c < cols; c++) v[(int64_t)t * cols + c] = 2.0f * rig_float();
        }
    return v;
}

static void pages_of(int32_t id, int32_t *pages) /* scattered; up to 32 sequences */
{
    for (int32_t i = 0; i < RIG_LEN / RIG_PAGE; i++)
        pages[i] = ((i * 8 + id % 8) * 5 + 3) % RIG_PAGES;
}

/* Sequences of mixed lengths grow by chunks, then decode; all against the cpu, then one alone
 * against the batch. */
static void check_attn(const struct heads *h, int32_t window)
{
    static struct rig_batch x;
    static const int32_t lengths[] = {1, 37, 64, 127, 128, 700, 1025, 1300}, chunk = 325;
    enum { N = sizeof lengths / sizeof *lengths };
    struct attn_rig *a = xcalloc(1, sizeof *a); /* the device knows frequencies by their address */
    int32_t ids[N], pages[RIG_LEN / RIG_PAGE], cols = (h->n + 2 * h->n_kv) * h->dim,
                                               out_cols = h->n * h->dim;
    float *last = NULL;
    char what[96];
    snprintf(what, sizeof what, "%d heads on %d of %d, window %d", h->n, h->n_kv, h->dim, window);
    open_attn(a, h, window);
    for (int round = 0; round < 5; round++) { /* rounds 0..3 prefill, 4 decodes all */
        memset(&x, 0, sizeof x);
        rig_batch_init(&x);
        int n = 0;
        for (int32_t i = 0; i < N; i++) {
            int32_t from = round < 4 ? round * chunk : lengths[i],
                    to = round < 4 ? from + chunk : from + 1;
            if (round < 4 && to > lengths[i]) to = lengths[i];
            if (from >= to) continue;
            pages_of(i, pages);
            rig_batch_add(&x, from, to - from, pages);
            ids[n++] = i;
        }
        if (!n) continue;
        float *qkv = qkv_of(&x.b, cols, ids);
        float *ref = attend(0, a, h, &x.b, qkv), *got = attend(1, a, h, &x.b, qkv);
        double error = rig_error(got, ref, (int64_t)x.b.n_tokens * out_cols);
        CHECK_MSG(error <= 2 * TOLERANCE, "%s, round %d: relative error %.2e", what, round, error);
        free(qkv), free(ref);
        if (round == 4)
            last = got;
        else
            free(got);
    }
    /* The decoded row again: alone, and as the last row of a chunk. */
    for (int32_t i = 0; i < N; i++) {
        for (int way = 0; way < 2; way++) {
            int32_t n_rows = way && lengths[i] >= 40 ? 41 : 1;
            memset(&x, 0, sizeof x);
            rig_batch_init(&x);
            pages_of(i, pages);
            rig_batch_add(&x, lengths[i] + 1 - n_rows, n_rows, pages);
            float *qkv = qkv_of(&x.b, cols, &i), *got = attend(1, a, h, &x.b, qkv);
            CHECK_MSG(memcmp(got + (int64_t)(n_rows - 1) * out_cols, last + (int64_t)i * out_cols,
                             (size_t)out_cols * sizeof *got) == 0,
                      "%s, context %d: other bits %s", what, lengths[i] + 1,
                      way ? "in a chunk" : "alone");
            free(qkv), free(got);
        }
    }
    free(last);
}

TEST(attention)
{
    NEEDS_GPU();
    static const struct heads heads[] = {{4, 2, 64, 64, true},    {9, 3, 64, 64, false},
                                         {6, 6, 80, 32, false},   {14, 2, 96, 96, false},
                                         {8, 2, 128, 128, false}, {20, 1, 128, 64, false},
                                         {4, 1, 256, 256, true}};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        check_attn(&heads[i], 0);
        check_attn(&heads[i], 100);
    }
}

/* ------------------------------------------------------------------ sampling */

static float *logits_of(int32_t n, int kind)
{
    float *x = xmalloc((size_t)n * sizeof *x);
    for (int32_t i = 0; i < n; i++) {
        float sum = 0;
        for (int k = 0; k < 4; k++) sum += (float)rig_u32() / 1073741824.0f - 1.0f;
        x[i] = kind == 0   ? sum * 3.0f
               : kind == 1 ? 0.25f
                           : (float)(int)(sum * 2.0f); /* bell, flat, many ties */
    }
    return x;
}

static void sample_both(const struct sl_sampling *s, int kind, int32_t n_top, const int32_t *tokens,
                        int32_t n_prompt, int32_t n_output, const char *what)
{
    enum { STEPS = 6, MASK_WORDS = (RIG_VOCAB + 31) / 32 };
    static struct rig_batch x;
    static uint32_t masks[2 * MASK_WORDS]; /* the second is used: a third of the tokens */
    for (int i = 0; i < RIG_VOCAB; i++)
        if (i % 3 == 1) masks[MASK_WORDS + i / 32] |= 1u << (i % 32);
    struct slot_init init = {
        .sampling = s, .tokens = tokens, .n_prompt = n_prompt, .n_output = n_output};
    CHECK(cpu.device->assign(cpu.d, 0, &init) == 0 && gpu.device->assign(gpu.d, 0, &init) == 0);
    for (uint32_t k = 0; k < STEPS; k++) {
        float *x0 = logits_of(RIG_VOCAB, kind);
        x = plain(1);
        RELOCATE(x);
        x.b.n_wants = 1;
        x.b.n_masks = 2;
        x.b.mask_words = MASK_WORDS;
        x.b.masks = masks;
        x.want[0] = (struct want){.target = k == STEPS - 1 ? 77 : -1,
                                  .n_top = n_top,
                                  .position = (uint32_t)n_output + k,
                                  .mask = k % 2 ? 2 : 0};
        struct act c = rig_act(&cpu, 1, RIG_VOCAB, DT_F32, x0),
                   g = rig_act(&gpu, 1, RIG_VOCAB, DT_F32, x0);
        const struct result *a = rig_run(&cpu, (struct step){.op = OP_SAMPLE, .src = c}, &x.b);
        const struct result *b = rig_run(&gpu, (struct step){.op = OP_SAMPLE, .src = g}, &x.b);
        CHECK_MSG(a->token[0] == b->token[0], "%s, step %u: token %d, not %d", what, k, b->token[0],
                  a->token[0]);
        CHECK_MSG(a->n_top[0] == b->n_top[0], "%s: %d alternatives, not %d", what, b->n_top[0],
                  a->n_top[0]);
        if (n_top >= 0 && a->token[0] == b->token[0]) {
            CHECK_MSG(fabsf(a->logprob[0] - b->logprob[0]) < 1e-4f, "%s: %g, not %g", what,
                      (double)b->logprob[0], (double)a->logprob[0]);
            CHECK_MSG(a->rank[0] == b->rank[0], "%s: rank %d, not %d", what, b->rank[0],
                      a->rank[0]);
        }
        for (int i = 0; i < a->n_top[0] && a->n_top[0] == b->n_top[0]; i++)
            CHECK_MSG(a->top_id[i] == b->top_id[i] &&
                          fabsf(a->top_logprob[i] - b->top_logprob[i]) < 1e-4f,
                      "%s: alternative %d is %d, not %d", what, i, b->top_id[i], a->top_id[i]);
        free(x0);
    }
}

TEST(sampling)
{
    NEEDS_GPU();
    static const int32_t tokens[] = {5, 9, 5, 100, 33000, 12, 5, 40, 41, 42};
    static const int32_t stop[] = {3, 4}, allowed[] = {7, 900, 32000, 11, 50},
                         bad[] = {41, 42, 600, 50};
    static const uint32_t bad_len[] = {3, 1};
    static const struct sl_bias bias[] = {{900, 8.0f}, {12, -100.0f}, {900, -2.0f}, {20000, 9.5f}};
    const struct sl_sampling off = {.temperature = 1.0f,
                                    .top_p = 1.0f,
                                    .typical_p = 1.0f,
                                    .repetition_penalty = 1.0f,
                                    .seed = 42,
                                    .max_tokens = 64};
    struct sl_sampling s[16];
    for (int i = 0; i < 16; i++) s[i] = off;
    s[0].temperature = 0.0f;
    s[2].top_k = 40;
    s[3].top_p = 0.8f;
    s[4].min_p = 0.05f;
    s[5].typical_p = 0.5f;
    s[6].top_k = 100, s[6].top_p = 0.5f, s[6].min_p = 0.01f, s[6].temperature = 0.7f;
    s[7].repetition_penalty = 1.7f, s[7].frequency_penalty = 0.6f, s[7].presence_penalty = -0.4f,
    s[7].temperature = 0.0f;
    s[8].allowed_ids = allowed, s[8].n_allowed = 5;
    s[9].bad_words = bad, s[9].bad_word_len = bad_len, s[9].n_bad_words = 2;
    s[10].bias = bias, s[10].n_bias = 4, s[10].temperature = 0.0f;
    s[11].stop_ids = stop, s[11].n_eos = 1, s[11].n_stop_ids = 2, s[11].min_tokens = 5;
    s[12].top_p = 0.0f;
    s[13].top_k = 5000, s[13].typical_p = 0.9f, s[13].top_p = 0.97f;
    s[14].temperature = 3.0f, s[14].seed = 7;
    s[15].repetition_penalty = 0.5f, s[15].top_k = 3;
    for (int i = 0; i < 16; i++)
        for (int kind = 0; kind < 3; kind++) {
            char what[64];
            rig_state = (uint64_t)(i * 3 + kind + 1);
            snprintf(what, sizeof what, "sampling %d, logits %d", i, kind);
            sample_both(&s[i], kind, i % 4 == 3 ? -1 : i % 2 ? 20 : 0, tokens, 6, 4, what);
        }
}

TEST(sampling_nan)
{
    NEEDS_GPU();
    static struct rig_batch x;
    float *v = logits_of(2 * RIG_VOCAB, 0);
    v[77] = NAN;
    x = plain(2);
    RELOCATE(x);
    x.b.n_wants = 2;
    for (int i = 0; i < 2; i++) x.want[i] = (struct want){.row = i, .target = 5, .n_top = 2};
    struct act g = rig_act(&gpu, 2, RIG_VOCAB, DT_F32, v);
    const struct result *r = rig_run(&gpu, (struct step){.op = OP_SAMPLE, .src = g}, &x.b);
    CHECK(r->token[0] == -1 && r->n_top[0] == 0 && r->token[1] == 5 && r->n_top[1] == 2);
    free(v);
}
