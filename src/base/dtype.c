/* dtype.c - the table of element types, half-precision conversions, and what each block means.
 *
 * One scalar expander per type, written from the layout so that a reader can check it; kernels have
 * their own fast forms and are tested against these. Products are rounded in the order of the
 * reference dequantizer (scale first, then the value), so results are equal bit for bit.
 */
#include "base/dtype.h"

#include <string.h>

#include "base/err.h"

#define ROW(name, block, bytes, ggml) {#name, block, bytes, ggml},
const struct dtype_info dtype_info[DT_COUNT] = {DTYPES(ROW)};
#undef ROW

enum { K_BLOCK = 256 };

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, mant = h & 0x3FFu;
    int exp = h >> 10 & 0x1F;
    if (exp == 31) return float_of(sign | 0x7F800000u | mant << 13);
    if (exp != 0) return float_of(sign | (uint32_t)(exp + 112) << 23 | mant << 13);
    return float_of(sign | bits_of((float)mant * 0x1p-24f)); /* subnormal or zero: exact */
}

/* Shift right, rounding to nearest even. */
static uint32_t shift_rne(uint32_t v, int shift)
{
    uint32_t half = 1u << (shift - 1), rest = v & ((1u << shift) - 1), q = v >> shift;
    return q + (rest > half || (rest == half && (q & 1)));
}

uint16_t f32_to_f16(float f)
{
    uint32_t u = bits_of(f), abs = u & 0x7FFFFFFFu;
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    if (abs > 0x7F800000u) /* NaN: keep the top of the payload, quiet */
        return (uint16_t)(sign | 0x7E00 | (abs >> 13 & 0x3FF));
    if (abs >= 0x477FF000u) return (uint16_t)(sign | 0x7C00); /* rounds past 65504 */
    if (abs >= 0x38800000u) /* normal: rebias; a carry out of the mantissa steps the exponent */
        return (uint16_t)(sign | shift_rne(abs - 0x38000000u, 13));
    int shift = 126 - (int)(abs >> 23); /* of the 24-bit mantissa to units of 2^-24 */
    if (shift > 24) return sign;        /* below half of the least subnormal */
    return (uint16_t)(sign | shift_rne((abs & 0x7FFFFFu) | 0x800000u, shift));
}

uint16_t f32_to_bf16(float f)
{
    uint32_t u = bits_of(f);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1)) >> 16);
}

/* Files are little-endian and so is every machine that we run on; blocks are not aligned. */
static uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static uint32_t u32_at(const uint8_t *p)
{
    return (uint32_t)u16_at(p) | (uint32_t)u16_at(p + 2) << 16;
}
static float half_at(const uint8_t *p)
{
    return f16_to_f32(u16_at(p));
}

/* ------------------------------------------------------------------ blocks of 32
 * Nibbles: element i and element i + 16 share byte i, low half first. */

/* f16 d; nibbles: d * (q - 8) */
static void expand_q4_0(const uint8_t *b, float *y)
{
    float d = half_at(b);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((b[2 + i] & 15) - 8);
        y[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

/* f16 d, m; nibbles: d * q + m */
static void expand_q4_1(const uint8_t *b, float *y)
{
    float d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)(b[4 + i] & 15) + m;
        y[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

/* f16 d; u32 of fifth bits; nibbles: d * (q - 16) */
static void expand_q5_0(const uint8_t *b, float *y)
{
    float d = half_at(b);
    uint32_t high = u32_at(b + 2);
    for (int i = 0; i < 16; i++) {
        int lo = (b[6 + i] & 15) | (int)(high >> i & 1) << 4;
        int hi = b[6 + i] >> 4 | (int)(high >> (i + 16) & 1) << 4;
        y[i] = d * (float)(lo - 16);
        y[i + 16] = d * (float)(hi - 16);
    }
}

/* f16 d, m; u32 of fifth bits; nibbles: d * q + m */
static void expand_q5_1(const uint8_t *b, float *y)
{
    float d = half_at(b), m = half_at(b + 2);
    uint32_t high = u32_at(b + 4);
    for (int i = 0; i < 16; i++) {
        int lo = (b[8 + i] & 15) | (int)(high >> i & 1) << 4;
        int hi = b[8 + i] >> 4 | (int)(high >> (i + 16) & 1) << 4;
        y[i] = d * (float)lo + m;
        y[i + 16] = d * (float)hi + m;
    }
}

/* f16 d; 32 int8: d * q */
static void expand_q8_0(const uint8_t *b, float *y)
{
    float d = half_at(b);
    for (int i = 0; i < 32; i++) y[i] = d * (float)(int8_t)b[2 + i];
}

/* ------------------------------------------------------------------ super-blocks of 256 */

/* 16 bytes of (4-bit scale, 4-bit min) for 16 runs of 16; 64 bytes of 2-bit values; f16 d, dmin.
 * The values of 128 elements lie in 32 bytes: run pair j uses bits 2j, 2j+1 of each byte. */
static void expand_q2_k(const uint8_t *b, float *y)
{
    const uint8_t *scales = b, *q = b + 16;
    float d = half_at(b + 80), dmin = half_at(b + 82);
    for (int i = 0; i < K_BLOCK; i++) {
        int run = i / 16, sc = scales[run];
        int v = q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        y[i] = d * (float)(sc & 15) * (float)v - dmin * (float)(sc >> 4);
    }
}

/* 32 bytes of third bits, 64 bytes of 2-bit values, 12 bytes of 16 six-bit scales (offset 32),
 * f16 d. A third bit that is clear takes 4 off. */
static void expand_q3_k(const uint8_t *b, float *y)
{
    const uint8_t *high = b, *q = b + 32, *packed = b + 96;
    float d = half_at(b + 108);
    for (int i = 0; i < K_BLOCK; i++) {
        int run = i / 16;
        int lo = packed[run % 8] >> (run / 8 * 4) & 15;
        int hi = packed[8 + run % 4] >> (run / 4 * 2) & 3;
        int scale = (lo | hi << 4) - 32;
        int v = q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        int third = high[i % 32] >> (i / 32) & 1;
        y[i] = d * (float)scale * (float)(v - (third ? 0 : 4));
    }
}

/* The 12 bytes of eight six-bit (scale, min) pairs that Q4_K and Q5_K share: the first four plain
 * in bytes 0..3 and 4..7, the low halves of the last four in 8..11, their top bits above the plain
 * ones. */
static void scale_min_k(const uint8_t *packed, int j, int *scale, int *min)
{
    if (j < 4) {
        *scale = packed[j] & 63;
        *min = packed[j + 4] & 63;
        return;
    }
    *scale = (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
    *min = packed[j + 4] >> 4 | packed[j] >> 6 << 4;
}

/* f16 d, dmin; 12 bytes of scales; 128 bytes of nibbles, 64 elements in 32 bytes, low halves
 * first: d * scale * q - dmin * min. */
static void expand_q4_k(const uint8_t *b, float *y)
{
    const uint8_t *q = b + 16;
    float d = half_at(b), dmin = half_at(b + 2);
    for (int run = 0; run < 8; run++) {
        int scale, min;
        scale_min_k(b + 4, run, &scale, &min);
        float s = d * (float)scale, m = dmin * (float)min;
        for (int i = 0; i < 32; i++)
            y[run * 32 + i] = s * (float)(q[run / 2 * 32 + i] >> (run % 2 * 4) & 15) - m;
    }
}

/* As Q4_K, with 32 bytes of fifth bits before the nibbles: bit `run` of byte i. */
static void expand_q5_k(const uint8_t *b, float *y)
{
    const uint8_t *high = b + 16, *q = b + 48;
    float d = half_at(b), dmin = half_at(b + 2);
    for (int run = 0; run < 8; run++) {
        int scale, min;
        scale_min_k(b + 4, run, &scale, &min);
        float s = d * (float)scale, m = dmin * (float)min;
        for (int i = 0; i < 32; i++) {
            int v = (q[run / 2 * 32 + i] >> (run % 2 * 4) & 15) | (high[i] >> run & 1) << 4;
            y[run * 32 + i] = s * (float)v - m;
        }
    }
}

/* 128 bytes of low nibbles, 64 bytes of top bit pairs, 16 int8 scales, f16 d:
 * d * scale * (q - 32). */
static void expand_q6_k(const uint8_t *b, float *y)
{
    const int8_t *scales = (const int8_t *)b + 192;
    float d = half_at(b + 208);
    for (int i = 0; i < K_BLOCK; i++) {
        int half = i / 128, in = i % 128;
        int lo = b[half * 64 + in % 64] >> (in / 64 * 4) & 15;
        int hi = b[128 + half * 32 + in % 32] >> (in / 32 * 2) & 3;
        y[i] = d * (float)scales[i / 16] * (float)((lo | hi << 4) - 32);
    }
}

/* ------------------------------------------------------------------ dispatch */

static void expand_plain(enum dtype t, const uint8_t *src, int64_t n, float *dst)
{
    if (t == DT_F32) memcpy(dst, src, (size_t)n * sizeof *dst);
    if (t == DT_F16)
        for (int64_t i = 0; i < n; i++) dst[i] = half_at(src + 2 * i);
    if (t == DT_BF16)
        for (int64_t i = 0; i < n; i++) dst[i] = bf16_to_f32(u16_at(src + 2 * i));
}

void dtype_expand(enum dtype t, const void *src, int64_t n, float *dst)
{
    static void (*const expand[DT_COUNT])(const uint8_t *, float *) = {
        [DT_Q4_0] = expand_q4_0, [DT_Q4_1] = expand_q4_1, [DT_Q5_0] = expand_q5_0,
        [DT_Q5_1] = expand_q5_1, [DT_Q8_0] = expand_q8_0, [DT_Q2_K] = expand_q2_k,
        [DT_Q3_K] = expand_q3_k, [DT_Q4_K] = expand_q4_k, [DT_Q5_K] = expand_q5_k,
        [DT_Q6_K] = expand_q6_k,
    };
    ASSERT((unsigned)t < DT_COUNT && n >= 0 && n % dtype_info[t].block == 0);
    const uint8_t *p = src;
    if (!expand[t]) {
        expand_plain(t, p, n, dst);
        return;
    }
    for (int64_t i = 0; i < n; i += dtype_info[t].block, p += dtype_info[t].bytes)
        expand[t](p, dst + i);
}
