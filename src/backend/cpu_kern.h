/* cpu_kern.h - the cpu device's f32 kernels, written once over cpu_vec.h: row operations and
 * attention.
 *
 * Included by one file per instruction set, each of which puts them in its struct cpu_kernels. All
 * are pure functions of their arguments; tails use the same lanes as full vectors.
 */
#ifndef BACKEND_CPU_KERN_H
#define BACKEND_CPU_KERN_H

#include "backend/cpu.h"
#include "backend/cpu_vec.h"

static inline int kern_min(int a, int b) { return a < b ? a : b; }
static inline int kern_max(int a, int b) { return a > b ? a : b; }

/* ------------------------------------------------------------------ rows */

static void kern_norm(float *dst, const float *src, const float *w, int32_t n, float eps)
{
    v16 sum = v_zero();
    for (int i = 0; i < n; i += LANES) {
        v16 x = v_loadn(src + i, kern_min(n - i, LANES));
        sum = v_fma(x, x, sum);
    }
    v16 scale = v_set1(1.0f / sqrtf(v_sum(sum) / (float)n + eps));
    for (int i = 0; i < n; i += LANES) {
        int k = kern_min(n - i, LANES);
        v_storen(dst + i, v_mul(v_mul(v_loadn(src + i, k), scale), v_loadn(w + i, k)), k);
    }
}

static void kern_add(float *dst, const float *src, int32_t n)
{
    for (int i = 0; i < n; i += LANES) {
        int k = kern_min(n - i, LANES);
        v_storen(dst + i, v_add(v_loadn(dst + i, k), v_loadn(src + i, k)), k);
    }
}

/* x / (1 + e^-z): silu with z = x; gelu's tanh form with z = 2 sqrt(2/pi) (x + 0.044715 x^3). */
static inline v16 kern_gate(v16 x, enum glu_kind kind)
{
    v16 z = x;
    if (kind == GLU_GELU_TANH) {
        v16 cube = v_mul(v_mul(x, x), x);
        z = v_mul(v_fma(cube, v_set1(0.044715f), x), v_set1(1.5957691216f));
    }
    return v_div(x, v_add(v_set1(1.0f), v_exp(v_sub(v_zero(), z))));
}

static void kern_glu(float *dst, const float *gate, const float *up, int32_t n, enum glu_kind kind)
{
    if (kind == GLU_GELU_ERF) {
        for (int i = 0; i < n; i++)
            dst[i] = 0.5f * gate[i] * (1.0f + erff(gate[i] * 0.70710678f)) * up[i];
        return;
    }
    for (int i = 0; i < n; i += LANES) {
        int k = kern_min(n - i, LANES);
        v_storen(dst + i, v_mul(kern_gate(v_loadn(gate + i, k), kind), v_loadn(up + i, k)), k);
    }
}

static void kern_rope(float *head, const float *cos_sin, int32_t half)
{
    for (int i = 0; i < half; i += LANES) {
        int k = kern_min(half - i, LANES);
        v16 a = v_loadn(head + i, k), b = v_loadn(head + half + i, k);
        v16 c = v_loadn(cos_sin + i, k), s = v_loadn(cos_sin + half + i, k);
        v_storen(head + i, v_sub(v_mul(a, c), v_mul(b, s)), k);
        v_storen(head + half + i, v_add(v_mul(b, c), v_mul(a, s)), k);
    }
}

static void kern_to_f16(uint16_t *dst, const float *src, int32_t n)
{
    uint16_t tail[LANES];
    int i = 0;
    for (; i + LANES <= n; i += LANES) v_store_f16(dst + i, v_load(src + i));
    if (i == n) return;
    v_store_f16(tail, v_loadn(src + i, n - i));
    memcpy(dst + i, tail, (size_t)(n - i) * sizeof *dst);
}

/* Scale to [-127, 127] and round to nearest even. A block with an infinity or a NaN gets the scale
 * NaN, so that a broken row stays visibly broken. */
static void kern_quantize(struct qblock *dst, const float *src, int32_t n_blocks)
{
    for (int b = 0; b < n_blocks; b++, dst++, src += QBLOCK) {
        v16 x0 = v_load(src), x1 = v_load(src + LANES);
        float most = v_hmax(v_max(v_abs(x0), v_abs(x1)));
        float bad = v_sum(v_mul(v_add(x0, x1), v_zero())); /* 0, or NaN */
        v16 up = v_set1(most > 1e-30f && bad == 0.0f ? 127.0f / most : 0.0f);
        if (bad != 0.0f) x0 = x1 = v_zero();
        v16 r0 = v_round(v_mul(x0, up)), r1 = v_round(v_mul(x1, up));
        v_store_i8(dst->q, r0);
        v_store_i8(dst->q + LANES, r1);
        float low = v_sum(r0), all = low + v_sum(r1); /* integers below 2^13: exact */
        dst->d = most / 127.0f + bad;
        dst->s = dst->d * all;
        dst->neg = -(int32_t)all;
        dst->neg_low = -(int32_t)low;
    }
}

/* ------------------------------------------------------------------ attention
 * Blocks of 64 positions at absolute multiples of 64. Positions that a row does not see take weight
 * zero; blocks without any are the identity on that row. So rows walk together with no effect on
 * each other. */

enum { POS_VECTORS = ATTN_BLOCK / LANES, ROW_TILE = VEC_MANY ? 8 : 4, ACC_MAX = VEC_MANY ? 16 : 4 };

/* Where position `pos` lies: the K column or the V row of the job's head. */
static inline const uint16_t *attn_k_at(const struct attn_job *j, int pos)
{
    int64_t head = (int64_t)j->pages[pos / j->page_size] * j->n_kv_heads + j->kv_head;
    return j->k + head * j->head_dim * j->page_size + pos % j->page_size;
}
static inline const uint16_t *attn_v_at(const struct attn_job *j, int pos)
{
    int64_t head = (int64_t)j->pages[pos / j->page_size] * j->n_kv_heads + j->kv_head;
    return j->v + (head * j->page_size + pos % j->page_size) * j->head_dim;
}

/* out[r][i] = start + sum over steps of a[r][step] * vector i of that step, in order of steps; n
 * rows by m vectors. Scores: a is q, a step is a dim, vectors are positions. Values: a is p, a step
 * is a position, vectors are dims. fade: NULL starts at zero, else at out * fade[r]. */
struct attn_mac {
    const float *a;
    int a_stride, out_stride, n_steps;
    const uint16_t *const *step; /* [n_steps] first vector of each step */
    const ptrdiff_t *offset;     /* [m] where vector i lies from there */
    const float *fade;
    float *out;
};

static inline __attribute__((always_inline)) void attn_mac(const struct attn_mac *c, int n, int m)
{
    v16 sum[ROW_TILE][4];
    for (int r = 0; r < n; r++)
        for (int i = 0; i < m; i++)
            sum[r][i] =
                c->fade ? v_mul(v_load(c->out + r * c->out_stride + i * LANES), v_set1(c->fade[r]))
                        : v_zero();
    for (int k = 0; k < c->n_steps; k++) {
        v16 x[4];
        for (int i = 0; i < m; i++) x[i] = v_load_f16(c->step[k] + c->offset[i]);
        for (int r = 0; r < n; r++) {
            v16 a = v_set1(c->a[r * c->a_stride + k]);
            for (int i = 0; i < m; i++) sum[r][i] = v_fma(a, x[i], sum[r][i]);
        }
    }
    for (int r = 0; r < n; r++)
        for (int i = 0; i < m; i++) v_store(c->out + r * c->out_stride + i * LANES, sum[r][i]);
}

/* A few rows by m vectors: enough independent sums to hide latency, few enough for the registers.
 */
static void attn_mac_rows(const struct attn_mac *c, int n, int m)
{
    switch (n * 4 + (m == 4 ? 2 : m - 1)) { /* n in 1..ROW_TILE; m in 1, 2, 4 */
    case 4: attn_mac(c, 1, 1); break;
    case 5: attn_mac(c, 1, 2); break;
    case 6: attn_mac(c, 1, 4); break;
    case 8: attn_mac(c, 2, 1); break;
    case 9: attn_mac(c, 2, 2); break;
    case 10: attn_mac(c, 2, 4); break;
    case 12: attn_mac(c, 3, 1); break;
    case 13: attn_mac(c, 3, 2); break;
    case 14: attn_mac(c, 3, 4); break;
    case 16: attn_mac(c, 4, 1); break;
    case 17: attn_mac(c, 4, 2); break;
    case 18: attn_mac(c, 4, 4); break;
#if VEC_MANY
    case 20: attn_mac(c, 5, 1); break;
    case 21: attn_mac(c, 5, 2); break;
    case 24: attn_mac(c, 6, 1); break;
    case 25: attn_mac(c, 6, 2); break;
    case 28: attn_mac(c, 7, 1); break;
    case 29: attn_mac(c, 7, 2); break;
    case 32: attn_mac(c, 8, 1); break;
    case 33: attn_mac(c, 8, 2); break;
#endif
    default: ASSERT(!"a tile of this size");
    }
}

/* n_rows rows by n_vectors vectors. */
static void attn_mac_all(struct attn_mac c, int n_rows, int n_vectors)
{
    const struct attn_mac all = c;
    for (int r = 0, n; r < n_rows; r += n) {
        n = kern_min(n_rows - r, ROW_TILE);
        for (int i = 0, m; i < n_vectors; i += m) {
            int left = n_vectors - i;
            m = left >= 4 && n * 4 <= ACC_MAX ? 4 : left >= 2 && n * 2 <= ACC_MAX ? 2 : 1;
            c.a = all.a + r * all.a_stride;
            c.fade = all.fade ? all.fade + r : NULL;
            c.out = all.out + r * all.out_stride + i * LANES;
            c.offset = all.offset + i;
            attn_mac_rows(&c, n, m);
        }
    }
}

/* K of 16 positions as [dim][16]: in place where a page holds them side by side, else gathered. */
static inline const uint16_t *attn_k16(const struct attn_job *j, int pos, int hi, uint16_t *buffer)
{
    if (j->page_size % LANES == 0) return attn_k_at(j, pos);
    memset(buffer, 0, (size_t)j->head_dim * LANES * sizeof *buffer);
    for (int i = kern_max(pos, j->lo); i < kern_min(pos + LANES, hi); i++) {
        const uint16_t *k = attn_k_at(j, i);
        for (int d = 0; d < j->head_dim; d++) buffer[d * LANES + i - pos] = k[d * j->page_size];
    }
    return buffer;
}

/* Only vectors that hold a position in [lo, hi) are read: the pages of others may not exist. */
static void attn_block_scores(const struct attn_job *j, int base, int hi, float *s)
{
    uint16_t buffer[POS_VECTORS][HEAD_DIM_MAX * LANES];
    const uint16_t *step[HEAD_DIM_MAX];
    ptrdiff_t offset[POS_VECTORS];
    int from = (kern_max(j->lo, base) - base) / LANES, to = (hi - base + LANES - 1) / LANES;
    int stride = j->page_size % LANES == 0 ? j->page_size : LANES;
    const uint16_t *first = attn_k16(j, base + from * LANES, hi, buffer[from]);
    for (int i = from; i < to; i++)
        offset[i - from] = attn_k16(j, base + i * LANES, hi, buffer[i]) - first;
    for (int d = 0; d < j->head_dim; d++) step[d] = first + (ptrdiff_t)d * stride;
    struct attn_mac c = {.a = j->q,
                         .a_stride = j->head_dim,
                         .out_stride = ATTN_BLOCK,
                         .n_steps = j->head_dim,
                         .step = step,
                         .offset = offset,
                         .out = s + from * LANES};
    attn_mac_all(c, j->n_rows, to - from);
}

/* Scores to weights in place; returns how much the row's past fades. */
static float attn_softmax(float *s, int base, int first, int last, float *m, float *l)
{
    v16 none = v_set1(-INFINITY), x[POS_VECTORS], most = none, sum[POS_VECTORS];
    for (int i = 0; i < POS_VECTORS; i++) {
        int at = base + i * LANES;
        x[i] = v_pick(v_load(s + i * LANES), none, kern_min(kern_max(first - at, 0), LANES),
                      kern_min(kern_max(last + 1 - at, 0), LANES));
        most = v_max(x[i], most);
    }
    float top = v_hmax(most), now = top > *m ? top : *m;
    for (int i = 0; i < POS_VECTORS; i++) {
        int at = base + i * LANES;
        v16 p = v_exp(v_sub(x[i], v_set1(now)));
        sum[i] = v_pick(p, v_zero(), kern_min(kern_max(first - at, 0), LANES),
                        kern_min(kern_max(last + 1 - at, 0), LANES));
        v_store(s + i * LANES, sum[i]);
    }
    float fade = *m == now         ? 1.0f
                 : *m == -INFINITY ? 0.0f
                                   : v_sum(v_pick(v_exp(v_set1(*m - now)), v_zero(), 0, 1));
    *l = *l * fade + v_sum(v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3])));
    *m = now;
    return fade;
}

/* The last few dims of an odd head: copied out, since a load would run past the page. */
static void attn_tail(const uint16_t **v, int n_pos, int n_dims, uint16_t (*buffer)[LANES])
{
    for (int i = 0; i < n_pos; i++) {
        memset(buffer[i], 0, sizeof buffer[i]);
        memcpy(buffer[i], v[i], (size_t)n_dims * sizeof **v);
        v[i] = buffer[i];
    }
}

static void attn_block_values(const struct attn_job *j, int base, int hi, const float *s,
                              const float *fade)
{
    const uint16_t *v[ATTN_BLOCK];
    uint16_t buffer[ATTN_BLOCK][LANES];
    ptrdiff_t offset[HEAD_DIM_MAX / LANES];
    int whole = j->head_dim / LANES, from = kern_max(base, j->lo), n_pos = hi - from;
    for (int i = 0; i < n_pos; i++) v[i] = attn_v_at(j, from + i);
    for (int i = 0; i < HEAD_DIM_MAX / LANES; i++) offset[i] = i * LANES;
    struct attn_mac c = {.a = s + from - base,
                         .a_stride = ATTN_BLOCK,
                         .out_stride = attn_stride(j->head_dim),
                         .n_steps = n_pos,
                         .step = v,
                         .offset = offset,
                         .fade = fade,
                         .out = j->acc};
    attn_mac_all(c, j->n_rows, whole);
    if (whole * LANES == j->head_dim) return;
    for (int i = 0; i < n_pos; i++) v[i] += whole * LANES;
    attn_tail(v, n_pos, j->head_dim - whole * LANES, buffer);
    c.out += whole * LANES;
    attn_mac_all(c, j->n_rows, 1);
}

static void kern_attn(const struct attn_job *j)
{
    float s[ATTN_ROWS * ATTN_BLOCK] = {0}, fade[ATTN_ROWS];
    for (int r = 0; r < j->n_rows; r++) {
        j->m[r] = -INFINITY;
        j->l[r] = 0.0f;
    }
    memset(j->acc, 0, (size_t)(j->n_rows * attn_stride(j->head_dim)) * sizeof *j->acc);
    for (int base = j->lo / ATTN_BLOCK * ATTN_BLOCK; base < j->hi; base += ATTN_BLOCK) {
        int hi = kern_min(base + ATTN_BLOCK, j->hi);
        attn_block_scores(j, base, hi, s);
        for (int r = 0; r < j->n_rows; r++)
            fade[r] =
                attn_softmax(s + r * ATTN_BLOCK, base, j->first[r], j->last[r], &j->m[r], &j->l[r]);
        attn_block_values(j, base, hi, s, fade);
    }
}

static void kern_attn_merge(float *m, float *l, float *acc, float m2, float l2, const float *acc2,
                            int32_t stride)
{
    float now = m2 > *m ? m2 : *m;
    if (m2 == -INFINITY) return; /* the row sees nothing of the chunk */
    float a = *m == -INFINITY ? 0.0f : expf(*m - now), b = expf(m2 - now);
    *l = *l * a + l2 * b;
    *m = now;
    for (int i = 0; i < stride; i += LANES) {
        v16 sum = v_mul(v_load(acc + i), v_set1(a));
        v_store(acc + i, v_fma(v_load(acc2 + i), v_set1(b), sum));
    }
}

#define KERN_TABLE(isa, is_quantized, linear_fn)                                                   \
    {                                                                                              \
        .name = isa, .quantized = is_quantized, .norm = kern_norm, .add = kern_add,                \
        .glu = kern_glu, .rope = kern_rope, .to_f16 = kern_to_f16, .quantize = kern_quantize,      \
        .linear = linear_fn, .attn = kern_attn, .attn_merge = kern_attn_merge                      \
    }

#endif
