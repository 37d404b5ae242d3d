/* cpu_pack.c - how a weight lies in the cpu device's memory, and back.
 *
 * A group is 16 rows; its blocks follow each other along the columns. Within a block each field of
 * the format stands row by row: the fields of 1 and 2 bytes as sixteen of them, the quants cut into
 * units of 4 bytes, sixteen at a time. So one 64-byte load holds four columns (or eight nibbles) of
 * sixteen rows: what a dot-product instruction takes, with one row a lane and no sum across lanes.
 * F32, F16 and BF16 have blocks of one column. Rows past the end are zero and are never stored
 * from.
 */
#include <string.h>

#include "backend/cpu.h"

enum { FIELDS_MAX = 4 };

/* A field: `unit` bytes, n times a block; order as in the file. */
struct field {
    uint8_t unit, n;
};
struct layout {
    struct field field[FIELDS_MAX];
};

static const struct layout layouts[DT_COUNT] = {
    [DT_F32] = {{{4, 1}}},
    [DT_F16] = {{{2, 1}}},
    [DT_BF16] = {{{2, 1}}},
    [DT_Q4_0] = {{{2, 1}, {4, 4}}},                    /* d; nibbles */
    [DT_Q4_1] = {{{2, 2}, {4, 4}}},                    /* d, m; nibbles */
    [DT_Q5_0] = {{{2, 1}, {4, 1}, {4, 4}}},            /* d; fifth bits; nibbles */
    [DT_Q5_1] = {{{2, 2}, {4, 1}, {4, 4}}},            /* d, m; fifth bits; nibbles */
    [DT_Q8_0] = {{{2, 1}, {4, 8}}},                    /* d; int8 */
    [DT_Q2_K] = {{{1, 16}, {4, 16}, {2, 2}}},          /* scales; crumbs; d, dmin */
    [DT_Q3_K] = {{{4, 8}, {4, 16}, {1, 12}, {2, 1}}},  /* third bits; crumbs; scales; d */
    [DT_Q4_K] = {{{2, 2}, {1, 12}, {4, 32}}},          /* d, dmin; scales; nibbles */
    [DT_Q5_K] = {{{2, 2}, {1, 12}, {4, 8}, {4, 32}}},  /* d, dmin; scales; fifth bits; nibbles */
    [DT_Q6_K] = {{{4, 32}, {4, 16}, {1, 16}, {2, 1}}}, /* nibbles; crumbs; scales; d */
};

bool cpu_is_vector(int64_t rows, int64_t cols)
{
    return rows == 1 || cols == 1;
}
bool cpu_is_quantized(enum dtype t)
{
    return dtype_info[t].block > 1;
}

size_t cpu_weight_bytes(enum dtype type, int64_t rows, int64_t cols)
{
    const struct dtype_info *info = &dtype_info[type];
    if (rows <= 0 || cols <= 0 || cols % info->block) return 0;
    if (cpu_is_vector(rows, cols)) return (size_t)(rows * cols) * sizeof(float);
    return (size_t)((rows + ROW_GROUP - 1) / ROW_GROUP * ROW_GROUP) * dtype_row_bytes(type, cols);
}

/* Copy one row's blocks between file order (`row`) and its lane of a group. */
static void copy_row(enum dtype type, int64_t cols, uint8_t *group, int lane, uint8_t *row,
                     bool pack)
{
    const struct layout *l = &layouts[type];
    for (int64_t b = 0; b < cols / dtype_info[type].block; b++) {
        for (const struct field *f = l->field; f < l->field + FIELDS_MAX && f->n; f++) {
            size_t unit = f->unit;
            for (int i = 0; i < f->n; i++, row += unit, group += ROW_GROUP * unit) {
                uint8_t *cell = group + (size_t)lane * unit;
                memcpy(pack ? cell : row, pack ? row : cell, unit);
            }
        }
    }
}

int cpu_upload(struct dev *d, const struct weight_part *part, int64_t cols, int64_t row0, int64_t n,
               const void *src)
{
    (void)d;
    size_t row_bytes = dtype_row_bytes(part->type, cols);
    if (row0 < 0 || n < 0 || row0 + n > part->rows) return SL_EINTERNAL;
    if (cpu_is_vector(part->rows, cols)) {
        for (int64_t r = 0; r < n; r++)
            dtype_expand(part->type, (const uint8_t *)src + (size_t)r * row_bytes, cols,
                         (float *)part->data + (row0 + r) * cols);
        return 0;
    }
    for (int64_t r = 0; r < n; r++) {
        uint8_t *group =
            (uint8_t *)part->data + (size_t)((row0 + r) / ROW_GROUP * ROW_GROUP) * row_bytes;
        const uint8_t *row = (const uint8_t *)src + (size_t)r * row_bytes;
        copy_row(part->type, cols, group, (int)((row0 + r) % ROW_GROUP), (uint8_t *)(uintptr_t)row,
                 true);
    }
    return 0;
}

void cpu_unpack(enum dtype type, const uint8_t *w, int64_t cols, int64_t r, int64_t col0, int64_t n,
                float *dst)
{
    const struct dtype_info *info = &dtype_info[type];
    uint8_t buffer[256]; /* a block of the largest format, or 64 plain columns */
    int64_t step = info->block > 1 ? info->block : 64;
    /* The group is only read: copy_row writes to one of its two sides. */
    uint8_t *group =
        (uint8_t *)(uintptr_t)w + (size_t)(r / ROW_GROUP * ROW_GROUP) * dtype_row_bytes(type, cols);
    for (int64_t c = col0; c < col0 + n; c += step) {
        int64_t now = col0 + n - c < step ? col0 + n - c : step;
        copy_row(type, now, group + ROW_GROUP * dtype_row_bytes(type, c), (int)(r % ROW_GROUP),
                 buffer, false);
        dtype_expand(type, buffer, now, dst + c - col0);
    }
}

const float *cpu_vector(const struct weight *w)
{
    if (!w) return NULL;
    ASSERT(w->n_parts == 1 && cpu_is_vector(w->part[0].rows, w->cols));
    return w->part[0].data;
}
