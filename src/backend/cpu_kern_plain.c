/* cpu_kern_plain.c - kernels in plain C, for machines without AVX2, and the reference for the fast
 * ones.
 *
 * Linear layers here widen the weights to f32 and do not quantize activations: slow, simple, exact
 * to f32 rounding.
 */
#include "backend/cpu_kern.h"

enum { PLAIN_COLS = 256 }; /* columns widened at once: a multiple of every block */

static void plain_linear(const struct linear_job *j, int64_t group, int64_t n_groups)
{
    float w[PLAIN_COLS];
    int64_t end = (group + n_groups) * ROW_GROUP;
    for (int64_t r = group * ROW_GROUP; r < (end < j->rows ? end : j->rows); r++) {
        for (int t = 0; t < j->n_tokens; t++)
            j->y[t * j->y_stride + r] = j->bias ? j->bias[r] : 0.0f;
        for (int64_t c = 0; c < j->cols; c += PLAIN_COLS) {
            int n = (int)(j->cols - c < PLAIN_COLS ? j->cols - c : PLAIN_COLS);
            cpu_unpack(j->type, j->w, j->cols, r, c, n, w);
            for (int t = 0; t < j->n_tokens; t++) {
                const float *x = j->x + t * j->cols + c;
                float sum = 0.0f;
                for (int i = 0; i < n; i++) sum += w[i] * x[i];
                j->y[t * j->y_stride + r] += sum;
            }
        }
    }
}

const struct cpu_kernels cpu_kernels_plain = KERN_TABLE("plain", false, plain_linear);
