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

/* One row's blocks, in file order, to its lane of a group, and back. */
static void pack_row(enum dtype type, int64_t cols, uint8_t *group, int lane, const uint8_t *row)
{
    const struct layout *l = &layouts[type];
    for (int64_t b = 0; b < cols / dtype_info[type].block; b++) {
        for (const struct field *f = l->field; f < l->field + FIELDS_MAX && f->n; f++) {
            size_t unit = f->unit;
            for (int i = 0; i < f->n; i++, row += unit, group += ROW_GROUP * unit)
                memcpy(group + (size_t)lane * unit, row, unit);
        }
    }
}

static void unpack_row(enum dtype type, int64_t cols, const uint8_t *group, int lane, uint8_t *row)
{
    const struct layout *l = &layouts[type];
    for (int64_t b = 0; b < cols / dtype_info[type].block; b++) {
        for (const struct field *f = l->field; f < l->field + FIELDS_MAX && f->n; f++) {
            size_t unit = f->unit;
            for (int i = 0; i < f->n; i++, row += unit, group += ROW_GROUP * unit)
                memcpy(row, group + (size_t)lane * unit, unit);
        }
    }
}

/* ------------------------------------------------------------------ whole groups
 * Loading is bound by this: sixteen rows go together, four bytes of each at a time, transposed four
 * by four in registers. Units smaller than four bytes are split out of the transposed words. */

typedef uint32_t word4 __attribute__((vector_size(16)));

/* Four words of sixteen rows to four times sixteen words. */
static inline void transpose(uint32_t out[4][ROW_GROUP], const uint8_t *row, size_t row_bytes)
{
    for (int lane = 0; lane < ROW_GROUP; lane += 4, row += 4 * row_bytes) {
        word4 a, b, c, d;
        memcpy(&a, row, sizeof a);
        memcpy(&b, row + row_bytes, sizeof b);
        memcpy(&c, row + 2 * row_bytes, sizeof c);
        memcpy(&d, row + 3 * row_bytes, sizeof d);
        word4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
        word4 cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
        word4 ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
        word4 cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
        a = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
        b = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
        c = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
        d = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
        memcpy(out[0] + lane, &a, sizeof a);
        memcpy(out[1] + lane, &b, sizeof b);
        memcpy(out[2] + lane, &c, sizeof c);
        memcpy(out[3] + lane, &d, sizeof d);
    }
}

/* One word of sixteen rows, as units. */
static inline void store_word(uint8_t *dst, const uint32_t w[ROW_GROUP], int unit)
{
    uint16_t half[2][ROW_GROUP];
    uint8_t byte[4][ROW_GROUP];
    if (unit == 4) {
        memcpy(dst, w, ROW_GROUP * 4);
    } else if (unit == 2) {
        for (int i = 0; i < ROW_GROUP; i++) half[0][i] = (uint16_t)w[i];
        for (int i = 0; i < ROW_GROUP; i++) half[1][i] = (uint16_t)(w[i] >> 16);
        memcpy(dst, half, sizeof half);
    } else {
        for (int k = 0; k < 4; k++)
            for (int i = 0; i < ROW_GROUP; i++) byte[k][i] = (uint8_t)(w[i] >> 8 * k);
        memcpy(dst, byte, sizeof byte);
    }
}

/* `bytes` of each of sixteen rows, cut into units. */
static inline void pack_field(uint8_t *dst, const uint8_t *row, size_t row_bytes, size_t bytes,
                              int unit)
{
    uint32_t w[4][ROW_GROUP];
    size_t at = 0;
    for (; bytes - at >= sizeof(word4); at += sizeof(word4)) {
        transpose(w, row + at, row_bytes);
        for (int i = 0; i < 4; i++) store_word(dst + (at + (size_t)i * 4) * ROW_GROUP, w[i], unit);
    }
    for (; bytes - at >= 4; at += 4) {
        for (size_t i = 0; i < ROW_GROUP; i++) memcpy(w[0] + i, row + i * row_bytes + at, 4);
        store_word(dst + at * ROW_GROUP, w[0], unit);
    }
    for (; at < bytes; at += (size_t)unit)
        for (size_t i = 0; i < ROW_GROUP; i++)
            memcpy(dst + at * ROW_GROUP + i * (size_t)unit, row + i * row_bytes + at, (size_t)unit);
}

static void pack_group(enum dtype type, int64_t cols, uint8_t *dst, const uint8_t *rows)
{
    size_t row_bytes = dtype_row_bytes(type, cols), at = 0;
    switch (layouts[type].field[0].unit * (dtype_info[type].block == 1)) {
    case 4:
        pack_field(dst, rows, row_bytes, row_bytes, 4);
        return;
    case 2:
        pack_field(dst, rows, row_bytes, row_bytes, 2);
        return;
    }
    while (at < row_bytes) {
        for (const struct field *f = layouts[type].field;
             f < layouts[type].field + FIELDS_MAX && f->n; f++) {
            size_t bytes = (size_t)f->unit * f->n;
            uint8_t *to = dst + at * ROW_GROUP;
            if (f->unit == 4)
                pack_field(to, rows + at, row_bytes, bytes, 4);
            else
                pack_field(to, rows + at, row_bytes, bytes, f->unit);
            at += bytes;
        }
    }
}

struct pack_job {
    enum dtype type;
    int64_t cols, n_rows; /* n_rows: of src; the last group may lack some */
    uint8_t *dst;         /* of the first row's group */
    const uint8_t *src;
};

static void pack_item(void *arg, int item, int thread)
{
    (void)thread;
    const struct pack_job *j = arg;
    size_t row_bytes = dtype_row_bytes(j->type, j->cols);
    int64_t first = (int64_t)item * ROW_GROUP, left = j->n_rows - first;
    const uint8_t *rows = j->src + (size_t)first * row_bytes;
    uint8_t *group = j->dst + (size_t)first * row_bytes;
    if (left >= ROW_GROUP) {
        pack_group(j->type, j->cols, group, rows);
        return;
    }
    for (int r = 0; r < left; r++)
        pack_row(j->type, j->cols, group, r, rows + (size_t)r * row_bytes);
}

int cpu_upload(struct dev *d, int32_t lane, const struct weight_rows *p)
{
    const struct weight_part *part = p->part;
    int64_t cols = p->cols, row0 = p->row0, n = p->n;
    (void)lane;
    size_t row_bytes = dtype_row_bytes(part->type, cols);
    if (row0 < 0 || n < 0 || row0 + n > part->rows) return SL_EINTERNAL;
    if (cpu_is_vector(part->rows, cols)) {
        for (int64_t r = 0; r < n; r++)
            dtype_expand(part->type, (const uint8_t *)p->src + (size_t)r * row_bytes, cols,
                         (float *)part->data + (row0 + r) * cols);
        return 0;
    }
    int64_t items = (n + ROW_GROUP - 1) / ROW_GROUP;
    if (row0 % ROW_GROUP || items > POOL_ITEMS_MAX) return SL_EINTERNAL;
    struct pack_job j = {.type = part->type,
                         .cols = cols,
                         .n_rows = n,
                         .dst = (uint8_t *)part->data + (size_t)row0 * row_bytes,
                         .src = p->src};
    /* Now, not in the first large step: room for the activations that this weight will meet. */
    int64_t most =
        d->config.max_tokens > d->config.max_wants ? d->config.max_tokens : d->config.max_wants;
    if (cpu_is_quantized(part->type))
        scratch_get(d, &d->quant, (size_t)(most * (cols / QBLOCK)) * sizeof(struct qblock));
    pool_run(d->pool, pack_item, &j, (int)items);
    return 0;
}

void cpu_unpack(enum dtype type, const uint8_t *w, int64_t cols, int64_t r, int64_t col0, int64_t n,
                float *dst)
{
    const struct dtype_info *info = &dtype_info[type];
    uint8_t buffer[256]; /* a block of the largest format, or 64 plain columns */
    int64_t step = info->block > 1 ? info->block : 64;
    const uint8_t *group = w + (size_t)(r / ROW_GROUP * ROW_GROUP) * dtype_row_bytes(type, cols);
    for (int64_t c = col0; c < col0 + n; c += step) {
        int64_t now = col0 + n - c < step ? col0 + n - c : step;
        unpack_row(type, now, group + ROW_GROUP * dtype_row_bytes(type, c), (int)(r % ROW_GROUP),
                   buffer);
        dtype_expand(type, buffer, now, dst + c - col0);
    }
}

const float *cpu_vector(const struct weight *w)
{
    if (!w) return NULL;
    ASSERT(w->n_parts == 1 && cpu_is_vector(w->part[0].rows, w->cols));
    return w->part[0].data;
}
