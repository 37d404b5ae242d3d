/* test_cpu_linear.c - every weight format: against its meaning, and the same bits however work is
 * cut.
 *
 * Reference: dtype_expand and a double dot product. Where activations are quantized to int8, the
 * tolerance is what that rounding may cost: half a step of each block's scale times the weight,
 * summed as if random.
 */
#include "cpu_fixture.h"

enum { TOKENS = 37 };

static void run(struct dev *d, struct weight *w, const struct weight *bias, const float *x,
                float *y, int n)
{
    struct step s = {.op = OP_LINEAR,
                     .fn = device_cpu.ops[OP_LINEAR],
                     .layer = -1,
                     .dst = {y, (int32_t)w->rows},
                     .src = {(void *)(uintptr_t)x, (int32_t)w->cols},
                     .w = w,
                     .bias = bias};
    struct batch b = {.n_tokens = n};
    if (s.fn(d, &b, &s) < 0) abort();
}

/* Allowed error of one output: quantized activations, then f32 sums. */
static double tolerance(const float *x, const float *w, int64_t cols, bool quantized)
{
    double var = 0, sum = 0;
    for (int64_t b = 0; b < cols; b += 32) {
        double most = 0, square = 0;
        for (int64_t i = b; i < b + 32 && i < cols; i++) {
            if (fabs((double)x[i]) > most) most = fabs((double)x[i]);
            square += (double)w[i] * (double)w[i];
            sum += fabs((double)x[i] * (double)w[i]);
        }
        var += square * most * most / (127.0 * 127.0) / 12.0;
    }
    return (quantized ? 6.0 * sqrt(var) : 0.0) + 1e-6 * sum + 1e-6;
}

static void check_values(struct dev *d, enum dtype type, int64_t rows, int64_t cols)
{
    uint8_t *file;
    struct weight w = {.name = "w", .rows = rows, .cols = cols, .n_parts = 1};
    struct weight bias = {.name = "b", .rows = rows, .cols = 1, .n_parts = 1};
    w.part[0] = fx_part(d, type, rows, cols, &file);
    bias.part[0] = fx_part(d, DT_F32, rows, 1, NULL);
    float *x = fx_floats(TOKENS * cols), *y = fx_floats(TOKENS * rows), *row = fx_floats(cols);
    const float *add = bias.part[0].data;
    run(d, &w, &bias, x, y, TOKENS);
    for (int64_t r = 0; r < rows; r++) {
        dtype_expand(type, file + (size_t)r * dtype_row_bytes(type, cols), cols, row);
        for (int64_t t = 0; t < TOKENS; t++) {
            double want = (double)add[r];
            for (int64_t c = 0; c < cols; c++) want += (double)row[c] * (double)x[t * cols + c];
            double off = fabs(want - (double)y[t * rows + r]);
            double may =
                tolerance(x + t * cols, row, cols, d->k->quantized && cpu_is_quantized(type));
            if (off <= may) continue;
            CHECK_MSG(off <= may, "%s %s %dx%d row %d token %d: %g for %g", d->k->name,
                      dtype_info[type].name, (int)rows, (int)cols, (int)r, (int)t,
                      (double)y[t * rows + r], want);
            r = rows;
            break;
        }
    }
    free(file);
    free(x);
    free(y);
    free(row);
}

static void check_isa(enum cpu_isa isa)
{
    static const int rows[] = {16, 2, 33, 100, 192};
    if (!cpu_isa_usable(isa)) return;
    struct dev *d = fx_open(isa, 2);
    for (int type = 0; type < DT_COUNT; type++) {
        int block = dtype_info[type].block;
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            for (int n = 1; n <= 3; n++)
                check_values(d, (enum dtype)type, rows[i], block == 1 ? 37 * n : block * n);
        if (block == 1) check_values(d, (enum dtype)type, 1, 65);
    }
    device_cpu.close(d);
}

TEST(values_plain)
{
    check_isa(CPU_ISA_PLAIN);
}
TEST(values_avx2)
{
    check_isa(CPU_ISA_AVX2);
}
TEST(values_avx512)
{
    check_isa(CPU_ISA_AVX512);
}

/* Batches of all sizes on 1 to 4 threads against each token alone on one thread. */
static void check_invariance(enum cpu_isa isa, enum dtype type, int64_t rows, int64_t cols)
{
    struct dev *d[4];
    struct weight w = {.name = "w", .rows = rows, .cols = cols, .n_parts = 2};
    for (int i = 0; i < 4; i++) d[i] = fx_open(isa, i + 1);
    w.part[0] = fx_part(d[0], type, rows / 3, cols, NULL);
    w.part[1] = fx_part(d[0], type, rows - rows / 3, cols, NULL);
    float *x = fx_floats(TOKENS * cols), *want = fx_floats(TOKENS * rows),
          *y = fx_floats(TOKENS * rows);
    for (int t = 0; t < TOKENS; t++) run(d[0], &w, NULL, x + t * cols, want + t * rows, 1);
    for (int round = 0; round < 12; round++) {
        memset(y, 0xFF, (size_t)(TOKENS * rows) * sizeof *y);
        for (int t = 0, n; t < TOKENS; t += n) {
            n = round < 4 ? TOKENS : 1 + fx_below(TOKENS - t);
            run(d[round % 4], &w, NULL, x + t * cols, y + t * rows, n);
        }
        CHECK_MSG(fx_same(y, want, TOKENS * rows), "%s %s %dx%d threads %d", d[0]->k->name,
                  dtype_info[type].name, (int)rows, (int)cols, round % 4 + 1);
    }
    for (int i = 0; i < 4; i++) device_cpu.close(d[i]);
    free(x);
    free(want);
    free(y);
}

TEST(same_bits_however_cut)
{
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++)
        for (int type = 0; type < DT_COUNT && cpu_isa_usable((enum cpu_isa)isa); type++)
            check_invariance((enum cpu_isa)isa, (enum dtype)type, 309,
                             dtype_info[type].block == 1 ? 131 : dtype_info[type].block * 2);
}

/* AVX2 and AVX-512 walk the same orders with the same roundings. */
TEST(same_bits_on_fast_machines)
{
    if (!cpu_isa_usable(CPU_ISA_AVX512)) return;
    struct dev *a = fx_open(CPU_ISA_AVX2, 1), *b = fx_open(CPU_ISA_AVX512, 1);
    for (int type = 0; type < DT_COUNT; type++) {
        int64_t rows = 50, cols = 512;
        struct weight w = {.name = "w", .rows = rows, .cols = cols, .n_parts = 1};
        w.part[0] = fx_part(a, (enum dtype)type, rows, cols, NULL);
        float *x = fx_floats(TOKENS * cols), *y = fx_floats(TOKENS * rows),
              *z = fx_floats(TOKENS * rows);
        run(a, &w, NULL, x, y, TOKENS);
        run(b, &w, NULL, x, z, TOKENS);
        CHECK_MSG(fx_same(y, z, TOKENS * rows), "%s", dtype_info[type].name);
        free(x);
        free(y);
        free(z);
    }
    device_cpu.close(a);
    device_cpu.close(b);
}

/* A NaN or an infinity anywhere in a row of activations must show in all of its outputs. */
TEST(broken_rows_stay_broken)
{
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++) {
        if (!cpu_isa_usable((enum cpu_isa)isa)) continue;
        struct dev *d = fx_open((enum cpu_isa)isa, 1);
        for (int type = 0; type < DT_COUNT; type++) {
            struct weight w = {.name = "w", .rows = 16, .cols = 256, .n_parts = 1};
            w.part[0] = fx_part(d, (enum dtype)type, 16, 256, NULL);
            float *x = fx_floats(512), y[32];
            x[77] = isa % 2 ? INFINITY : NAN;
            run(d, &w, NULL, x, y, 2);
            CHECK_MSG(!isfinite(y[0]) && !isfinite(y[15]) && isfinite(y[16]), "%s",
                      dtype_info[type].name);
            free(x);
        }
        device_cpu.close(d);
    }
}
