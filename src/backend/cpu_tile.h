/* cpu_tile.h - linear layers for AVX2 and AVX-512: sixteen weight rows by a few tokens at a time.
 *
 * Included by one file per instruction set. A tile keeps one f32 vector a token, whose lanes are
 * the sixteen rows of a group, and walks the columns in order: block by block for quantized
 * formats, one by one for the others. Tiles of 8, 4, 2 and 1 tokens are the same code with another
 * constant, so a token's bits do not depend on its company. Weights are unpacked in registers once
 * a tile.
 *
 * Quantized formats, per block of 32 columns: y += d_w * d_x * (sum q_w q_x) + min_w * s_x. The sum
 * of integers is exact on every machine; offsets (q - 8, q - 32) are folded into its start from the
 * block's negated sum of q_x. Formats with a scale every 16 columns do this for halves.
 */
#ifndef BACKEND_CPU_TILE_H
#define BACKEND_CPU_TILE_H

#include "backend/cpu_kern.h"

#define TILE_INLINE static inline __attribute__((always_inline))

/* ------------------------------------------------------------------ integers: 64 bytes, 16 i32 */

#if defined __AVX512F__ && defined __AVX512VNNI__
enum { TILE_MAX = 8 }; /* tokens of the largest tile */
TILE_INLINE v16i vi_load(const void *p) { return _mm512_loadu_si512(p); }
TILE_INLINE v16i vi_set1(int32_t x) { return _mm512_set1_epi32(x); }
TILE_INLINE v16i vi_and(v16i a, v16i b) { return _mm512_and_si512(a, b); }
TILE_INLINE v16i vi_or(v16i a, v16i b) { return _mm512_or_si512(a, b); }
TILE_INLINE v16i vi_add(v16i a, v16i b) { return _mm512_add_epi32(a, b); }
TILE_INLINE v16i vi_srl(v16i a, int n) { return _mm512_srli_epi32(a, (unsigned)n); }
TILE_INLINE v16i vi_sll(v16i a, int n) { return _mm512_slli_epi32(a, (unsigned)n); }
TILE_INLINE v16 vi_to_f32(v16i a) { return _mm512_cvtepi32_ps(a); }
TILE_INLINE v16i vi_from_u8(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
TILE_INLINE v16i vi_from_i8(const uint8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
/* acc + the dot product of each lane's four unsigned bytes (below 128) with four signed ones. */
TILE_INLINE v16i vi_dot(v16i acc, v16i w, int32_t x)
{
    return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x));
}
/* As vi_dot for signed w: the instruction wants unsigned, so w comes 128 too high (vi_signed) and
 * the sum starts at -128 sum(x). */
TILE_INLINE v16i vi_signed(v16i w)
{
    return _mm512_xor_si512(w, _mm512_set1_epi32((int)0x80808080u));
}
TILE_INLINE v16i vi_signed_start(int32_t neg) { return _mm512_set1_epi32(neg * 128); }
TILE_INLINE v16i vi_signed_dot(v16i acc, v16i w, int32_t x) { return vi_dot(acc, w, x); }
#else
enum { TILE_MAX = 4 };
TILE_INLINE v16i vi_load(const void *p)
{
    const __m256i *v = p;
    return (v16i){_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
}
TILE_INLINE v16i vi_set1(int32_t x) { return (v16i){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
TILE_INLINE v16i vi_and(v16i a, v16i b)
{
    return (v16i){_mm256_and_si256(a.l, b.l), _mm256_and_si256(a.h, b.h)};
}
TILE_INLINE v16i vi_or(v16i a, v16i b)
{
    return (v16i){_mm256_or_si256(a.l, b.l), _mm256_or_si256(a.h, b.h)};
}
TILE_INLINE v16i vi_add(v16i a, v16i b)
{
    return (v16i){_mm256_add_epi32(a.l, b.l), _mm256_add_epi32(a.h, b.h)};
}
TILE_INLINE v16i vi_srl(v16i a, int n)
{
    return (v16i){_mm256_srli_epi32(a.l, n), _mm256_srli_epi32(a.h, n)};
}
TILE_INLINE v16i vi_sll(v16i a, int n)
{
    return (v16i){_mm256_slli_epi32(a.l, n), _mm256_slli_epi32(a.h, n)};
}
TILE_INLINE v16 vi_to_f32(v16i a)
{
    return (v16){_mm256_cvtepi32_ps(a.l), _mm256_cvtepi32_ps(a.h)};
}
TILE_INLINE __m128i vi_8_bytes(const uint8_t *p)
{
    return _mm_loadl_epi64((const __m128i *)(const void *)p);
}
TILE_INLINE v16i vi_from_u8(const uint8_t *p)
{
    return (v16i){_mm256_cvtepu8_epi32(vi_8_bytes(p)), _mm256_cvtepu8_epi32(vi_8_bytes(p + 8))};
}
TILE_INLINE v16i vi_from_i8(const uint8_t *p)
{
    return (v16i){_mm256_cvtepi8_epi32(vi_8_bytes(p)), _mm256_cvtepi8_epi32(vi_8_bytes(p + 8))};
}
TILE_INLINE __m256i vi_dot_half(__m256i acc, __m256i w, __m256i x)
{
    __m256i pairs = _mm256_maddubs_epi16(w, x); /* at most 2 * 128 * 127: no saturation */
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
TILE_INLINE v16i vi_dot(v16i acc, v16i w, int32_t x)
{
    __m256i v = _mm256_set1_epi32(x);
    return (v16i){vi_dot_half(acc.l, w.l, v), vi_dot_half(acc.h, w.h, v)};
}
/* Signed w: its magnitude, times x with w's sign. */
TILE_INLINE v16i vi_signed(v16i w) { return w; }
TILE_INLINE v16i vi_signed_start(int32_t neg) { return vi_set1(neg * 0); }
TILE_INLINE v16i vi_signed_dot(v16i acc, v16i w, int32_t x)
{
    __m256i v = _mm256_set1_epi32(x);
    return (v16i){vi_dot_half(acc.l, _mm256_abs_epi8(w.l), _mm256_sign_epi8(v, w.l)),
                  vi_dot_half(acc.h, _mm256_abs_epi8(w.h), _mm256_sign_epi8(v, w.h))};
}
#endif

/* ------------------------------------------------------------------ 32 columns of 16 rows */

enum { UNITS = QBLOCK / 4, UNIT_BYTES = 64 }; /* unit: 4 columns of 16 rows */

struct sub {
    v16i q[UNITS];
    v16 scale[2], min[2]; /* [1]: the second half's, where `halves` */
};

/* What each format needs; constant after inlining. */
TILE_INLINE bool has_halves(enum dtype t) { return t == DT_Q2_K || t == DT_Q3_K || t == DT_Q6_K; }
TILE_INLINE bool has_min(enum dtype t)
{
    return t == DT_Q4_1 || t == DT_Q5_1 || t == DT_Q2_K || t == DT_Q4_K || t == DT_Q5_K;
}
TILE_INLINE int offset_of(enum dtype t)
{
    return t == DT_Q4_0 ? 8 : t == DT_Q5_0 ? 16 : t == DT_Q3_K ? 4 : t == DT_Q6_K ? 32 : 0;
}
TILE_INLINE v16i bytes_of(int32_t b) { return vi_set1(b * 0x01010101); }

/* Blocks of 32 with nibbles: element i and i + 16 share byte i. fifth: one u32 a row, or NULL. */
TILE_INLINE void sub_nibbles(struct sub *s, const uint8_t *quants, const uint8_t *fifth)
{
    v16i low = bytes_of(15);
    for (int i = 0; i < UNITS / 2; i++) {
        v16i v = vi_load(quants + i * UNIT_BYTES);
        s->q[i] = vi_and(v, low);
        s->q[i + UNITS / 2] = vi_and(vi_srl(v, 4), low);
    }
    if (!fifth) return;
    v16i bits = vi_load(fifth);
    for (int i = 0; i < UNITS; i++) { /* bits 4i..4i+3 of a row to bit 4 of its four bytes */
        v16i four = vi_and(vi_srl(bits, 4 * i), vi_set1(15));
        v16i two = vi_and(vi_or(four, vi_sll(four, 14)), vi_set1(0x00030003));
        v16i one = vi_and(vi_or(two, vi_sll(two, 7)), bytes_of(1));
        s->q[i] = vi_or(s->q[i], vi_sll(one, 4));
    }
}

/* Q4_K and Q5_K: the six-bit scale and minimum of run `run`, packed as dtype.c tells. */
TILE_INLINE void sub_scale_min(struct sub *s, const uint8_t *packed, int run, v16 d, v16 dmin)
{
    v16i scale, min, low = vi_set1(15), six = vi_set1(63);
    if (run < 4) {
        scale = vi_and(vi_from_u8(packed + run * ROW_GROUP), six);
        min = vi_and(vi_from_u8(packed + (run + 4) * ROW_GROUP), six);
    } else {
        v16i both = vi_from_u8(packed + (run + 4) * ROW_GROUP);
        v16i a = vi_from_u8(packed + (run - 4) * ROW_GROUP),
             b = vi_from_u8(packed + run * ROW_GROUP);
        scale = vi_or(vi_and(both, low), vi_sll(vi_srl(a, 6), 4));
        min = vi_or(vi_srl(both, 4), vi_sll(vi_srl(b, 6), 4));
    }
    s->scale[0] = v_mul(d, vi_to_f32(scale));
    s->min[0] = v_sub(v_zero(), v_mul(dmin, vi_to_f32(min)));
}

TILE_INLINE void sub_q45_k(struct sub *s, const uint8_t *b, int run, bool fifth)
{
    const uint8_t *packed = b + 4 * ROW_GROUP, *high = b + 16 * ROW_GROUP;
    const uint8_t *quants = high + (fifth ? 32 * ROW_GROUP : 0) + run / 2 * UNITS * UNIT_BYTES;
    v16 d = v_load_f16((const uint16_t *)(const void *)b);
    v16 dmin = v_load_f16((const uint16_t *)(const void *)b + ROW_GROUP);
    sub_scale_min(s, packed, run, d, dmin);
    for (int i = 0; i < UNITS; i++) {
        s->q[i] = vi_and(vi_srl(vi_load(quants + i * UNIT_BYTES), run % 2 * 4), bytes_of(15));
        if (!fifth) continue;
        v16i bit = vi_and(vi_srl(vi_load(high + i * UNIT_BYTES), run), bytes_of(1));
        s->q[i] = vi_or(s->q[i], vi_sll(bit, 4));
    }
}

TILE_INLINE void sub_q6_k(struct sub *s, const uint8_t *b, int run)
{
    const uint8_t *low = b + (run / 4 * 2 + run % 2) * UNITS * UNIT_BYTES;
    const uint8_t *high = b + 128 * ROW_GROUP + run / 4 * UNITS * UNIT_BYTES;
    const uint8_t *scales = b + 192 * ROW_GROUP;
    v16 d = v_load_f16((const uint16_t *)(const void *)(b + 208 * ROW_GROUP));
    for (int h = 0; h < 2; h++)
        s->scale[h] = v_mul(d, vi_to_f32(vi_from_i8(scales + (run * 2 + h) * ROW_GROUP)));
    for (int i = 0; i < UNITS; i++) {
        v16i lo = vi_and(vi_srl(vi_load(low + i * UNIT_BYTES), run % 4 / 2 * 4), bytes_of(15));
        v16i hi = vi_and(vi_srl(vi_load(high + i * UNIT_BYTES), run % 4 * 2), bytes_of(3));
        s->q[i] = vi_or(lo, vi_sll(hi, 4));
    }
}

TILE_INLINE void sub_crumbs(struct sub *s, const uint8_t *quants, int run)
{
    for (int i = 0; i < UNITS; i++)
        s->q[i] = vi_and(vi_srl(vi_load(quants + (run / 4 * UNITS + i) * UNIT_BYTES), run % 4 * 2),
                         bytes_of(3));
}

TILE_INLINE void sub_q3_k(struct sub *s, const uint8_t *b, int run)
{
    const uint8_t *packed = b + 96 * ROW_GROUP;
    v16 d = v_load_f16((const uint16_t *)(const void *)(b + 108 * ROW_GROUP));
    sub_crumbs(s, b + 32 * ROW_GROUP, run);
    for (int i = 0; i < UNITS; i++) {
        v16i third = vi_and(vi_srl(vi_load(b + i * UNIT_BYTES), run), bytes_of(1));
        s->q[i] = vi_or(s->q[i], vi_sll(third, 2));
    }
    for (int h = 0; h < 2; h++) {
        int at = run * 2 + h;
        v16i lo = vi_and(vi_srl(vi_from_u8(packed + at % 8 * ROW_GROUP), at / 8 * 4), vi_set1(15));
        v16i hi =
            vi_and(vi_srl(vi_from_u8(packed + (8 + at % 4) * ROW_GROUP), at / 4 * 2), vi_set1(3));
        v16i scale = vi_add(vi_or(lo, vi_sll(hi, 4)), vi_set1(-32));
        s->scale[h] = v_mul(d, vi_to_f32(scale));
    }
}

TILE_INLINE void sub_q2_k(struct sub *s, const uint8_t *b, int run)
{
    const uint16_t *d = (const uint16_t *)(const void *)(b + 80 * ROW_GROUP);
    v16 scale = v_load_f16(d), min = v_load_f16(d + ROW_GROUP);
    sub_crumbs(s, b + 16 * ROW_GROUP, run);
    for (int h = 0; h < 2; h++) {
        v16i both = vi_from_u8(b + (run * 2 + h) * ROW_GROUP);
        s->scale[h] = v_mul(scale, vi_to_f32(vi_and(both, vi_set1(15))));
        s->min[h] = v_sub(v_zero(), v_mul(min, vi_to_f32(vi_srl(both, 4))));
    }
}

/* Run `run` of the block at b: always 0 for blocks of 32. */
TILE_INLINE void sub_load(struct sub *s, enum dtype t, const uint8_t *b, int run)
{
    const uint16_t *d = (const uint16_t *)(const void *)b;
    const uint8_t *fields = b + (t == DT_Q4_1 || t == DT_Q5_1 ? 4 : 2) * ROW_GROUP;
    switch (t) {
    case DT_Q4_0:
    case DT_Q4_1: sub_nibbles(s, fields, NULL); break;
    case DT_Q5_0:
    case DT_Q5_1: sub_nibbles(s, fields + UNIT_BYTES, fields); break;
    case DT_Q8_0:
        for (int i = 0; i < UNITS; i++) s->q[i] = vi_signed(vi_load(fields + i * UNIT_BYTES));
        break;
    case DT_Q2_K: sub_q2_k(s, b, run); return;
    case DT_Q3_K: sub_q3_k(s, b, run); return;
    case DT_Q4_K: sub_q45_k(s, b, run, false); return;
    case DT_Q5_K: sub_q45_k(s, b, run, true); return;
    case DT_Q6_K: sub_q6_k(s, b, run); return;
    case DT_F32:
    case DT_F16:
    case DT_BF16:
    case DT_COUNT: return;
    }
    s->scale[0] = v_load_f16(d);
    if (has_min(t)) s->min[0] = v_load_f16(d + ROW_GROUP);
}

/* ------------------------------------------------------------------ tiles */

TILE_INLINE int32_t four_at(const int8_t *q)
{
    int32_t x;
    memcpy(&x, q, sizeof x);
    return x;
}

/* 32 columns for n tokens. Tokens are innermost: their integer sums are independent, and a chain of
 * dependent dot products would wait out its latency. */
TILE_INLINE void sub_dot(const struct sub *s, enum dtype t, const struct qblock *x, int64_t stride,
                         int n, v16 *sum)
{
    int halves = has_halves(t) ? 2 : 1;
    for (int h = 0; h < halves; h++) {
        v16i acc[TILE_MAX];
        int32_t neg[TILE_MAX];
        for (int k = 0; k < n; k++) {
            const struct qblock *xk = x + k * stride;
            neg[k] = halves == 1 ? xk->neg : h == 0 ? xk->neg_low : xk->neg - xk->neg_low;
            acc[k] = t == DT_Q8_0 ? vi_signed_start(neg[k]) : vi_set1(neg[k] * offset_of(t));
        }
        for (int i = h * UNITS / halves; i < (h + 1) * UNITS / halves; i++) {
            for (int k = 0; k < n; k++) {
                int32_t four = four_at(x[k * stride].q + 4 * i);
                acc[k] = t == DT_Q8_0 ? vi_signed_dot(acc[k], s->q[i], four)
                                      : vi_dot(acc[k], s->q[i], four);
            }
        }
        for (int k = 0; k < n; k++) {
            const struct qblock *xk = x + k * stride;
            sum[k] = v_fma(vi_to_f32(acc[k]), v_mul(s->scale[h], v_set1(xk->d)), sum[k]);
            if (has_min(t))
                sum[k] =
                    v_fma(s->min[h], v_set1(halves == 1 ? xk->s : xk->d * (float)-neg[k]), sum[k]);
        }
    }
}

TILE_INLINE void tile_store(const struct linear_job *j, int64_t group, int64_t t, v16 sum)
{
    int64_t r = group * ROW_GROUP;
    int n = j->rows - r < LANES ? (int)(j->rows - r) : LANES;
    if (j->bias) sum = v_add(sum, v_loadn(j->bias + r, n));
    v_storen(j->y + t * j->y_stride + r, sum, n);
}

/* The formats of 256 columns hop about within a block, and the hardware does not see where to: 7
 * GB/s for Q6_K without this. Blocks of 32 gain only where eight tokens keep the core busy (a fifth
 * in decode of 8), and only in the first tile, which brings the weights in. A fetch past the end
 * does nothing. */
TILE_INLINE void fetch(const uint8_t *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
}

TILE_INLINE void tile_quant(const struct linear_job *j, enum dtype type, int64_t group, int64_t t0,
                            int n)
{
    int block = type >= DT_Q2_K ? 256 : QBLOCK, runs = block / QBLOCK;
    size_t block_bytes = (size_t)dtype_info[type].bytes * ROW_GROUP;
    int64_t stride = j->cols / QBLOCK;
    const uint8_t *w = j->w + (size_t)group * j->group_bytes;
    const struct qblock *x = j->qx + t0 * stride;
    v16 sum[TILE_MAX];
    for (int t = 0; t < n; t++) sum[t] = v_zero();
    for (int64_t b = 0; b < j->cols / block; b++, w += block_bytes) {
        if (block > QBLOCK)
            fetch(w + block_bytes, block_bytes);
        else if (n >= 8 && t0 == 0)
            fetch(w + 2048, block_bytes);
        for (int run = 0; run < runs; run++, x++) {
            struct sub s;
            sub_load(&s, type, w, run);
            sub_dot(&s, type, x, stride, n, sum);
        }
    }
    for (int t = 0; t < n; t++) tile_store(j, group, t0 + t, sum[t]);
}

TILE_INLINE v16 plain_load(enum dtype t, const uint8_t *p)
{
    if (t == DT_F16) return v_load_f16((const uint16_t *)(const void *)p);
    if (t == DT_BF16) return v_load_bf16((const uint16_t *)(const void *)p);
    return v_load((const float *)(const void *)p);
}

/* n_groups groups by n tokens: several of one or the other give enough independent sums to hide
 * latency. */
TILE_INLINE void tile_plain(const struct linear_job *j, enum dtype type, int64_t group,
                            int n_groups, int64_t t0, int n)
{
    size_t step = (type == DT_F32 ? 4 : 2) * ROW_GROUP;
    const uint8_t *w = j->w + (size_t)group * j->group_bytes;
    const float *x = j->x + t0 * j->cols;
    v16 sum[4][TILE_MAX];
    for (int g = 0; g < n_groups; g++)
        for (int t = 0; t < n; t++) sum[g][t] = v_zero();
    for (int64_t c = 0; c < j->cols; c++, w += step) {
        v16 wc[4];
        for (int g = 0; g < n_groups; g++) wc[g] = plain_load(type, w + (size_t)g * j->group_bytes);
        for (int t = 0; t < n; t++) {
            v16 xt = v_set1(x[t * j->cols + c]);
            for (int g = 0; g < n_groups; g++) sum[g][t] = v_fma(wc[g], xt, sum[g][t]);
        }
    }
    for (int g = 0; g < n_groups; g++)
        for (int t = 0; t < n; t++) tile_store(j, group + g, t0 + t, sum[g][t]);
}

/* All tokens over groups, in tiles of 8 (AVX-512), 4, 2, 1. */
TILE_INLINE void linear_quant(const struct linear_job *j, enum dtype type, int64_t group,
                              int64_t n_groups)
{
    for (int64_t g = group; g < group + n_groups; g++) {
        int64_t t = 0, n = j->n_tokens;
        if (TILE_MAX >= 8)
            for (; n - t >= 8; t += 8) tile_quant(j, type, g, t, TILE_MAX);
        for (; n - t >= 4; t += 4) tile_quant(j, type, g, t, 4);
        if (n - t >= 2) tile_quant(j, type, g, t, 2), t += 2;
        if (n - t >= 1) tile_quant(j, type, g, t, 1);
    }
}

TILE_INLINE void groups_plain(const struct linear_job *j, enum dtype type, int64_t g, int n_groups)
{
    int64_t t = 0, n = j->n_tokens;
    if (TILE_MAX >= 8)
        for (; n - t >= 8; t += 8) tile_plain(j, type, g, n_groups, t, TILE_MAX);
    for (; n - t >= 4; t += 4) tile_plain(j, type, g, n_groups, t, 4);
    if (n - t >= 2) tile_plain(j, type, g, n_groups, t, 2), t += 2;
    if (n - t >= 1) tile_plain(j, type, g, n_groups, t, 1);
}

TILE_INLINE void linear_plain(const struct linear_job *j, enum dtype type, int64_t group,
                              int64_t n_groups)
{
    enum { PAIR = TILE_MAX >= 8 ? 2 : 1 };
    int64_t g = group, end = group + n_groups;
    for (; j->n_tokens <= 2 && end - g >= 4; g += 4) {
        if (j->n_tokens == 2)
            tile_plain(j, type, g, 4, 0, 2);
        else
            tile_plain(j, type, g, 4, 0, 1);
    }
    for (; end - g >= PAIR; g += PAIR) groups_plain(j, type, g, PAIR);
    for (; g < end; g++) groups_plain(j, type, g, 1);
}

#define TILE_QUANT(name, type)                                                                     \
    static void name(const struct linear_job *j, int64_t g, int64_t n)                             \
    {                                                                                              \
        linear_quant(j, type, g, n);                                                               \
    }
#define TILE_PLAIN(name, type)                                                                     \
    static void name(const struct linear_job *j, int64_t g, int64_t n)                             \
    {                                                                                              \
        linear_plain(j, type, g, n);                                                               \
    }
TILE_PLAIN(linear_f32, DT_F32)
TILE_PLAIN(linear_f16, DT_F16)
TILE_PLAIN(linear_bf16, DT_BF16)
TILE_QUANT(linear_q4_0, DT_Q4_0)
TILE_QUANT(linear_q4_1, DT_Q4_1)
TILE_QUANT(linear_q5_0, DT_Q5_0)
TILE_QUANT(linear_q5_1, DT_Q5_1)
TILE_QUANT(linear_q8_0, DT_Q8_0)
TILE_QUANT(linear_q2_k, DT_Q2_K)
TILE_QUANT(linear_q3_k, DT_Q3_K)
TILE_QUANT(linear_q4_k, DT_Q4_K)
TILE_QUANT(linear_q5_k, DT_Q5_K)
TILE_QUANT(linear_q6_k, DT_Q6_K)
#undef TILE_QUANT
#undef TILE_PLAIN

static void tile_linear(const struct linear_job *j, int64_t group, int64_t n_groups)
{
    static void (*const fn[DT_COUNT])(const struct linear_job *, int64_t, int64_t) = {
        [DT_F32] = linear_f32,   [DT_F16] = linear_f16,   [DT_BF16] = linear_bf16,
        [DT_Q4_0] = linear_q4_0, [DT_Q4_1] = linear_q4_1, [DT_Q5_0] = linear_q5_0,
        [DT_Q5_1] = linear_q5_1, [DT_Q8_0] = linear_q8_0, [DT_Q2_K] = linear_q2_k,
        [DT_Q3_K] = linear_q3_k, [DT_Q4_K] = linear_q4_k, [DT_Q5_K] = linear_q5_k,
        [DT_Q6_K] = linear_q6_k,
    };
    fn[j->type](j, group, n_groups);
}

#endif
