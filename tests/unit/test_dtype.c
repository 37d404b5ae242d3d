/* test_dtype.c - half-precision conversions over all values, and block expansion against golden
 * vectors (tests/tools/make_dtype_golden.py: the dequantizer of the package `gguf`), bit for bit.
 */
#include <math.h>
#include <stdbool.h>

#include "base/dtype.h"
#include "base/test.h"

TEST(table)
{
    CHECK(dtype_row_bytes(DT_BF16, 64) == 128);
    CHECK(dtype_row_bytes(DT_Q4_K, 512) == 288);
    CHECK(dtype_info[DT_Q6_K].ggml == 14 && strcmp(dtype_info[DT_Q6_K].name, "Q6_K") == 0);
}

TEST(every_half_comes_back)
{
    int bad = 0;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = f16_to_f32((uint16_t)h), b = bf16_to_f32((uint16_t)h);
        bool nan16 = (h & 0x7FFF) > 0x7C00, nan_bf = (h & 0x7FFF) > 0x7F80;
        bad += nan16 ? !isnan(f) || !isnan(f16_to_f32(f32_to_f16(f))) : f32_to_f16(f) != h;
        bad += nan_bf ? !isnan(b) || !isnan(bf16_to_f32(f32_to_bf16(b))) : f32_to_bf16(b) != h;
    }
    CHECK(bad == 0);
}

TEST(half_values)
{
    static const struct {
        uint16_t h;
        float f;
    } rows[] = {{0x0001, 0x1p-24f}, {0x03FF, 0x1.ff8p-15f}, {0x0400, 0x1p-14f}, {0x3C00, 1.0f},
                {0x7BFF, 65504.0f}, {0xC000, -2.0f},        {0x8000, -0.0f}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        CHECK_MSG(f16_to_f32(rows[i].h) == rows[i].f, "%04x", rows[i].h);
    CHECK(isinf(f16_to_f32(0x7C00)) && f16_to_f32(0xFC00) < 0);
    CHECK(f32_to_f16(65519.99f) == 0x7BFF && f32_to_f16(65520.0f) == 0x7C00);
    CHECK(f32_to_f16(INFINITY) == 0x7C00 && f32_to_f16(-3e38f) == 0xFC00 &&
          f32_to_f16(1e-30f) == 0);
    CHECK(f32_to_bf16(INFINITY) == 0x7F80 && f32_to_bf16(0x1.fffffep127f) == 0x7F80);
}

/* Between neighbours the nearer one wins, and at the middle the even one. */
TEST(rounds_to_nearest_even)
{
    int bad = 0;
    for (uint32_t h = 0; h < 0x7BFF; h++) {
        float lo = f16_to_f32((uint16_t)h), hi = f16_to_f32((uint16_t)(h + 1)), mid = (lo + hi) / 2;
        bad += f32_to_f16(mid) != (h & 1 ? h + 1 : h);
        bad += f32_to_f16(nextafterf(mid, 0)) != h || f32_to_f16(nextafterf(mid, 1e9f)) != h + 1;
        bad += f32_to_f16(-mid) != ((h & 1 ? h + 1 : h) | 0x8000);
    }
    for (uint32_t h = 0x80; h < 0x7F00; h++) { /* normal bfloat16 values whose sum stays finite */
        float lo = bf16_to_f32((uint16_t)h), hi = bf16_to_f32((uint16_t)(h + 1)),
              mid = lo / 2 + hi / 2;
        bad += f32_to_bf16(mid) != (h & 1 ? h + 1 : h);
        bad +=
            f32_to_bf16(nextafterf(mid, 0)) != h || f32_to_bf16(nextafterf(mid, INFINITY)) != h + 1;
    }
    CHECK_MSG(bad == 0, "%d", bad);
}

static size_t read_file(const char *name, const char *ext, void *out, size_t max)
{
    char path[512];
    snprintf(path, sizeof path, "%s/dtype/%s.%s", TEST_DATA, name, ext);
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(out, 1, max, f) : 0;
    if (f) fclose(f);
    return n;
}

TEST(blocks_expand_to_golden)
{
    static uint8_t blocks[8192];
    static float want[4096], got[4096];
    for (int t = DT_Q4_0; t < DT_COUNT; t++) {
        const struct dtype_info *d = &dtype_info[t];
        size_t n_bytes = read_file(d->name, "blocks", blocks, sizeof blocks);
        size_t n = read_file(d->name, "f32", want, sizeof want) / sizeof *want;
        CHECK_MSG(n > 0 && n_bytes == dtype_row_bytes((enum dtype)t, (int64_t)n), "%s", d->name);
        dtype_expand((enum dtype)t, blocks, (int64_t)n, got);
        CHECK_MSG(memcmp(got, want, n * sizeof *want) == 0, "%s", d->name);
    }
}

TEST(plain_types)
{
    static const float f[] = {1.5f, -2.0f, 0.0f};
    static const uint16_t h[] = {0x3E00, 0xC000, 0x0000}, b[] = {0x3FC0, 0xC000, 0x0000};
    float out[3];
    dtype_expand(DT_F32, f, 3, out);
    CHECK(memcmp(out, f, sizeof f) == 0);
    dtype_expand(DT_F16, h, 3, out);
    CHECK(memcmp(out, f, sizeof f) == 0);
    dtype_expand(DT_BF16, b, 3, out);
    CHECK(memcmp(out, f, sizeof f) == 0);
}
