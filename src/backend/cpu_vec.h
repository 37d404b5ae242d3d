/* cpu_vec.h - sixteen lanes on every machine: the few vector operations that the cpu kernels are
 * written in.
 *
 * Included by one file per instruction set, which the compiler flags of that file select: AVX-512
 * (one register), AVX2 with FMA and F16C (two), or plain C (an array). All have sixteen lanes and
 * the same order of reductions, so AVX2 and AVX-512 give equal bits; plain C rounds twice where
 * those fuse. v_loadn and v_storen take the first n lanes (1..16): tails run through the same code
 * as full vectors, hence an element's bits do not depend on whether it lies in a tail.
 */
#ifndef BACKEND_CPU_VEC_H
#define BACKEND_CPU_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/dtype.h"

enum { LANES = 16 };

#if defined __AVX512F__ && defined __AVX512VNNI__
#include <immintrin.h>

#define VEC_MANY 1 /* 32 registers of 16 lanes: else 16 of 8 */
typedef __m512 v16;
typedef __m512i v16i; /* 16 x i32, or 64 bytes */

static inline __mmask16 v_mask(int n) { return (__mmask16)((1u << n) - 1); }
static inline v16 v_set1(float x) { return _mm512_set1_ps(x); }
static inline v16 v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline v16 v_loadn(const float *p, int n) { return _mm512_maskz_loadu_ps(v_mask(n), p); }
static inline void v_store(float *p, v16 a) { _mm512_storeu_ps(p, a); }
static inline void v_storen(float *p, v16 a, int n) { _mm512_mask_storeu_ps(p, v_mask(n), a); }
static inline v16 v_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
static inline v16 v_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
static inline v16 v_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
static inline v16 v_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
static inline v16 v_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
static inline v16 v_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }
static inline v16 v_abs(v16 a) { return _mm512_abs_ps(a); }
static inline v16 v_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
static inline v16 v_round(v16 a) { return _mm512_roundscale_ps(a, 8); }
/* Lanes lo..hi-1 of a, the rest of b; 0 <= lo, hi <= 16. */
static inline v16 v_pick(v16 a, v16 b, int lo, int hi)
{
    uint32_t m = hi > lo ? ((1u << hi) - 1) & ~((1u << lo) - 1) : 0;
    return _mm512_mask_mov_ps(b, (__mmask16)m, a);
}
/* 2^n for integral n in [-126, 127]. */
static inline v16 v_pow2(v16 n)
{
    __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23));
}
static inline v16 v_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline v16 v_load_bf16(const uint16_t *p)
{
    __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}
static inline void v_store_f16(uint16_t *p, v16 a)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(a, 0));
}
/* Round to the nearest integers, which must fit int8. */
static inline void v_store_i8(int8_t *p, v16 a)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}
static inline __m256 v_low(v16 a) { return _mm512_castps512_ps256(a); }
static inline __m256 v_high(v16 a) { return _mm512_extractf32x8_ps(a, 1); }

#elif defined __AVX2__ && defined __FMA__ && defined __F16C__
#include <immintrin.h>

#define VEC_MANY 0
typedef struct {
    __m256 l, h;
} v16;
typedef struct {
    __m256i l, h;
} v16i;

static inline __m256i v_mask8(int n) /* the first n of 8 lanes; n may lie outside 0..8 */
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline v16 v_set1(float x) { return (v16){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline v16 v_load(const float *p)
{
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
static inline v16 v_loadn(const float *p, int n)
{
    return (v16){_mm256_maskload_ps(p, v_mask8(n)), _mm256_maskload_ps(p + 8, v_mask8(n - 8))};
}
static inline void v_store(float *p, v16 a)
{
    _mm256_storeu_ps(p, a.l);
    _mm256_storeu_ps(p + 8, a.h);
}
static inline void v_storen(float *p, v16 a, int n)
{
    _mm256_maskstore_ps(p, v_mask8(n), a.l);
    _mm256_maskstore_ps(p + 8, v_mask8(n - 8), a.h);
}
static inline v16 v_add(v16 a, v16 b)
{
    return (v16){_mm256_add_ps(a.l, b.l), _mm256_add_ps(a.h, b.h)};
}
static inline v16 v_sub(v16 a, v16 b)
{
    return (v16){_mm256_sub_ps(a.l, b.l), _mm256_sub_ps(a.h, b.h)};
}
static inline v16 v_mul(v16 a, v16 b)
{
    return (v16){_mm256_mul_ps(a.l, b.l), _mm256_mul_ps(a.h, b.h)};
}
static inline v16 v_div(v16 a, v16 b)
{
    return (v16){_mm256_div_ps(a.l, b.l), _mm256_div_ps(a.h, b.h)};
}
static inline v16 v_max(v16 a, v16 b)
{
    return (v16){_mm256_max_ps(a.l, b.l), _mm256_max_ps(a.h, b.h)};
}
static inline v16 v_min(v16 a, v16 b)
{
    return (v16){_mm256_min_ps(a.l, b.l), _mm256_min_ps(a.h, b.h)};
}
static inline v16 v_abs(v16 a)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (v16){_mm256_andnot_ps(sign, a.l), _mm256_andnot_ps(sign, a.h)};
}
static inline v16 v_fma(v16 a, v16 b, v16 c)
{
    return (v16){_mm256_fmadd_ps(a.l, b.l, c.l), _mm256_fmadd_ps(a.h, b.h, c.h)};
}
static inline v16 v_round(v16 a) { return (v16){_mm256_round_ps(a.l, 8), _mm256_round_ps(a.h, 8)}; }
static inline v16 v_pick(v16 a, v16 b, int lo, int hi)
{
    __m256 l = _mm256_castsi256_ps(_mm256_andnot_si256(v_mask8(lo), v_mask8(hi)));
    __m256 h = _mm256_castsi256_ps(_mm256_andnot_si256(v_mask8(lo - 8), v_mask8(hi - 8)));
    return (v16){_mm256_blendv_ps(b.l, a.l, l), _mm256_blendv_ps(b.h, a.h, h)};
}
static inline __m256 v_pow2_half(__m256 n)
{
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}
static inline v16 v_pow2(v16 n) { return (v16){v_pow2_half(n.l), v_pow2_half(n.h)}; }
static inline __m128i v_half_load(const uint16_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}
static inline v16 v_load_f16(const uint16_t *p)
{
    return (v16){_mm256_cvtph_ps(v_half_load(p)), _mm256_cvtph_ps(v_half_load(p + 8))};
}
static inline __m256 v_bf16_half(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v_half_load(p)), 16));
}
static inline v16 v_load_bf16(const uint16_t *p)
{
    return (v16){v_bf16_half(p), v_bf16_half(p + 8)};
}
static inline void v_store_f16(uint16_t *p, v16 a)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(a.l, 0));
    _mm_storeu_si128((__m128i *)(void *)(p + 8), _mm256_cvtps_ph(a.h, 0));
}
static inline void v_store_i8(int8_t *p, v16 a)
{
    __m256i w = _mm256_packs_epi32(_mm256_cvtps_epi32(a.l), _mm256_cvtps_epi32(a.h));
    w = _mm256_permute4x64_epi64(w, 0xD8);
    __m128i b = _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    _mm_storeu_si128((__m128i *)(void *)p, b);
}
static inline __m256 v_low(v16 a) { return a.l; }
static inline __m256 v_high(v16 a) { return a.h; }

#else
#define CPU_VEC_PLAIN 1

#define VEC_MANY 0
typedef struct {
    float f[LANES];
} v16;
typedef struct {
    int32_t i[LANES];
} v16i;

/* One row an operation: `expr` in terms of lane i of the arguments. */
#define V_LANES(r, expr)                                                                           \
    v16 r;                                                                                         \
    for (int i = 0; i < LANES; i++) r.f[i] = (expr);                                               \
    return r

static inline v16 v_set1(float x) { V_LANES(r, x); }
static inline v16 v_load(const float *p) { V_LANES(r, p[i]); }
static inline v16 v_loadn(const float *p, int n) { V_LANES(r, i < n ? p[i] : 0.0f); }
static inline void v_storen(float *p, v16 a, int n) { memcpy(p, a.f, (size_t)n * sizeof *p); }
static inline void v_store(float *p, v16 a) { memcpy(p, a.f, sizeof a.f); }
static inline v16 v_add(v16 a, v16 b) { V_LANES(r, a.f[i] + b.f[i]); }
static inline v16 v_sub(v16 a, v16 b) { V_LANES(r, a.f[i] - b.f[i]); }
static inline v16 v_mul(v16 a, v16 b) { V_LANES(r, a.f[i] * b.f[i]); }
static inline v16 v_div(v16 a, v16 b) { V_LANES(r, a.f[i] / b.f[i]); }
static inline v16 v_max(v16 a, v16 b) { V_LANES(r, a.f[i] > b.f[i] ? a.f[i] : b.f[i]); }
static inline v16 v_min(v16 a, v16 b) { V_LANES(r, a.f[i] < b.f[i] ? a.f[i] : b.f[i]); }
static inline v16 v_abs(v16 a) { V_LANES(r, fabsf(a.f[i])); }
static inline v16 v_fma(v16 a, v16 b, v16 c) { V_LANES(r, a.f[i] * b.f[i] + c.f[i]); }
static inline v16 v_round(v16 a) { V_LANES(r, rintf(a.f[i])); }
static inline v16 v_pick(v16 a, v16 b, int lo, int hi)
{
    V_LANES(r, i >= lo && i < hi ? a.f[i] : b.f[i]);
}
static inline float v_pow2_lane(float n)
{
    uint32_t u = (uint32_t)((int32_t)n + 127) << 23;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static inline v16 v_pow2(v16 n) { V_LANES(r, v_pow2_lane(n.f[i])); }
static inline v16 v_load_f16(const uint16_t *p) { V_LANES(r, f16_to_f32(p[i])); }
static inline v16 v_load_bf16(const uint16_t *p) { V_LANES(r, bf16_to_f32(p[i])); }
static inline void v_store_f16(uint16_t *p, v16 a)
{
    for (int i = 0; i < LANES; i++) p[i] = f32_to_f16(a.f[i]);
}
static inline void v_store_i8(int8_t *p, v16 a)
{
    for (int i = 0; i < LANES; i++) p[i] = (int8_t)rintf(a.f[i]);
}
#undef V_LANES
#endif

/* Reductions pair lane i with i + 8, then i + 4, i + 2, i + 1, on every machine. */
#ifdef CPU_VEC_PLAIN
static inline float v_sum(v16 a)
{
    for (int n = LANES / 2; n; n /= 2)
        for (int i = 0; i < n; i++) a.f[i] += a.f[i + n];
    return a.f[0];
}
static inline float v_hmax(v16 a)
{
    for (int i = 1; i < LANES; i++) a.f[0] = a.f[i] > a.f[0] ? a.f[i] : a.f[0];
    return a.f[0];
}
#else
static inline float v_sum(v16 a)
{
    __m256 b = _mm256_add_ps(v_low(a), v_high(a));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
static inline float v_hmax(v16 a)
{
    __m256 b = _mm256_max_ps(v_low(a), v_high(a));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
#endif

static inline v16 v_zero(void) { return v_set1(0.0f); }

/* e^x within 2 ulp for x in [-87, 88]; below that it is e^-87, above e^88: finite, and the softmax
 * treats -inf apart. Cephes' reduction x = n ln2 + r with a polynomial of degree 5 in r. */
static inline v16 v_exp(v16 x)
{
    x = v_min(v_max(x, v_set1(-87.0f)), v_set1(88.0f));
    v16 n = v_round(v_mul(x, v_set1(1.44269504f)));
    v16 r = v_fma(n, v_set1(-0.693359375f), x);
    r = v_fma(n, v_set1(2.12194440e-4f), r);
    v16 p = v_set1(1.9875691500e-4f);
    p = v_fma(p, r, v_set1(1.3981999507e-3f));
    p = v_fma(p, r, v_set1(8.3334519073e-3f));
    p = v_fma(p, r, v_set1(4.1665795894e-2f));
    p = v_fma(p, r, v_set1(1.6666665459e-1f));
    p = v_fma(p, r, v_set1(5.0000001201e-1f));
    p = v_fma(p, v_mul(r, r), v_add(r, v_set1(1.0f)));
    return v_mul(p, v_pow2(n));
}

#endif
