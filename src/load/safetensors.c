/* safetensors.c - the header of a safetensors file: 8 bytes of length, a JSON object, then the
 * data.
 *
 * Layout rules, all of them checked before a byte of data is trusted: the header has at most 64 MiB
 * and fits the file; each tensor's byte range is exactly as long as its shape and type say; sorted
 * by offset, the ranges cover the data without overlap and without gap, to the last byte of the
 * file.
 */
#include <stdio.h>
#include <stdlib.h>

#include "load/tensors.h"

enum { HEADER_BYTES_MAX = 64 << 20, LENGTH_BYTES = 8, RANK_MAX = 32 };

/* About 12 values a tensor: room for 300 thousand tensors in one shard. */
static const struct json_limits header_limits = {
    .max_depth = 8, .max_nodes = 4u << 20, .max_keys = 1u << 20, .allow_nul = false};

/* Every type of the format with its size in bits; `type` where we load it. */
static const struct st_dtype {
    const char *name;
    int bits;
    bool loads;
    enum dtype type;
} dtypes[] = {
    {"F32", 32, true, DT_F32}, {"F16", 16, true, DT_F16}, {"BF16", 16, true, DT_BF16},
    {"F64", 64, false, 0},     {"I64", 64, false, 0},     {"U64", 64, false, 0},
    {"C64", 64, false, 0},     {"I32", 32, false, 0},     {"U32", 32, false, 0},
    {"I16", 16, false, 0},     {"U16", 16, false, 0},     {"I8", 8, false, 0},
    {"U8", 8, false, 0},       {"BOOL", 8, false, 0},     {"F8_E4M3", 8, false, 0},
    {"F8_E5M2", 8, false, 0},  {"F8_E8M0", 8, false, 0},  {"F6_E2M3", 6, false, 0},
    {"F6_E3M2", 6, false, 0},  {"F4", 4, false, 0},
};

struct range {
    size_t begin, end;
    struct str name;
};

struct reader {
    struct checkpoint *c;
    int file;
    uint64_t data_start;
    size_t data_bytes;
    struct range *ranges; /* owned */
    size_t n_ranges;
    struct sl_error *e;
};

static int bad(const struct reader *r, struct str name, const char *what)
{
    return sl_fail(r->e, SL_EFORMAT, "%.80s: tensor \"%.*s\": %s", r->c->files[r->file].name,
                   (int)(name.n < 100 ? name.n : 100), name.p, what);
}

static const struct st_dtype *find_dtype(struct str name)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (str_is(name, dtypes[i].name)) return &dtypes[i];
    return NULL;
}

/* A non-negative integer that fits size_t. */
static bool take_size(const json_node *v, size_t *out)
{
    if (json_type(v) != JSON_INT || json_int(v) < 0) return false;
    *out = (size_t)json_int(v);
    return true;
}

static int read_shape(struct reader *r, const json_node *shape, struct tensor *t, size_t *elements)
{
    *elements = 1;
    if (json_type(shape) != JSON_ARR) return bad(r, t->name, "no shape");
    for (const json_node *v = json_child(shape); v; v = json_next(v)) {
        size_t dim;
        if (!take_size(v, &dim)) return bad(r, t->name, "bad dimension");
        if (t->n_dims == RANK_MAX) return bad(r, t->name, "too many dimensions");
        if (t->n_dims < 4) t->dims[t->n_dims] = (int64_t)dim;
        t->n_dims++;
        if (ckd_mul(elements, *elements, dim))
            return bad(r, t->name, "the shape's product overflows");
    }
    if (t->n_dims == 0) t->dims[t->n_dims++] = 1; /* a scalar reads as [1] */
    return 0;
}

static int read_range(struct reader *r, const json_node *offsets, struct tensor *t)
{
    const json_node *b = json_type(offsets) == JSON_ARR ? json_child(offsets) : NULL;
    struct range range = {.name = t->name};
    if (!b || json_len(offsets) != 2 || !take_size(b, &range.begin) ||
        !take_size(json_next(b), &range.end))
        return bad(r, t->name, "bad data_offsets");
    if (range.begin > range.end || range.end > r->data_bytes)
        return bad(r, t->name, "data_offsets outside the file");
    t->offset = r->data_start + range.begin;
    t->bytes = range.end - range.begin;
    r->ranges[r->n_ranges++] = range;
    return 0;
}

static int read_tensor(struct reader *r, const json_node *v)
{
    struct tensor t = {.name = json_key(v), .file = r->file};
    const json_node *dtype = json_get(v, "dtype");
    size_t elements, bits;
    if (json_type(v) != JSON_OBJ || json_type(dtype) != JSON_STR) return bad(r, t.name, "no dtype");
    const struct st_dtype *d = find_dtype(json_str(dtype));
    if (!d) return bad(r, t.name, "unknown dtype");
    TRY(read_shape(r, json_get(v, "shape"), &t, &elements));
    TRY(read_range(r, json_get(v, "data_offsets"), &t));
    if (ckd_mul(&bits, elements, (size_t)d->bits) || bits % 8 || bits / 8 != t.bytes)
        return bad(r, t.name, "data_offsets do not fit shape and dtype");
    char why[32] = "no elements";
    if (t.n_dims > 4) snprintf(why, sizeof why, "rank %d", t.n_dims);
    if (!d->loads) snprintf(why, sizeof why, "dtype %s", d->name);
    if (!d->loads || t.n_dims > 4 || elements == 0)
        return tensors_add_foreign(r->c, t.name, why, r->e);
    t.type = d->type;
    return tensors_add(r->c, &t, r->e);
}

static int by_begin(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static int check_ranges(struct reader *r)
{
    size_t at = 0;
    if (r->n_ranges) qsort(r->ranges, r->n_ranges, sizeof *r->ranges, by_begin);
    for (size_t i = 0; i < r->n_ranges; i++) {
        if (r->ranges[i].begin != at)
            return bad(r, r->ranges[i].name,
                       r->ranges[i].begin < at ? "overlaps another" : "a gap before it");
        at = r->ranges[i].end;
    }
    if (at != r->data_bytes)
        return sl_fail(r->e, SL_EFORMAT, "%.120s: %zu bytes after the last tensor",
                       r->c->files[r->file].name, r->data_bytes - at);
    return 0;
}

static int read_header(struct reader *r, const json_node *root)
{
    if (json_type(root) != JSON_OBJ)
        return sl_fail(r->e, SL_EFORMAT, "%.120s: the header is no object",
                       r->c->files[r->file].name);
    r->ranges = xmalloc(json_len(root) * sizeof *r->ranges);
    for (const json_node *v = json_child(root); v; v = json_next(v))
        if (!str_is(json_key(v), "__metadata__")) TRY(read_tensor(r, v));
    return check_ranges(r);
}

int safetensors_read(struct checkpoint *c, int file, struct sl_error *e)
{
    const struct source *s = &c->files[file];
    uint8_t raw[LENGTH_BYTES];
    uint64_t n = 0;
    if (s->size < LENGTH_BYTES)
        return sl_fail(e, SL_EFORMAT, "%.120s is too short for safetensors", s->name);
    TRY(source_read(s, 0, sizeof raw, raw, e));
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) n = n << 8 | raw[i];
    if (n > HEADER_BYTES_MAX || n > s->size - LENGTH_BYTES)
        return sl_fail(e, SL_EFORMAT, "%.120s: a header of %llu bytes is too long", s->name,
                       (unsigned long long)n);
    char *text = xmalloc((size_t)n);
    struct json_doc *doc = NULL;
    struct reader r = {.c = c,
                       .file = file,
                       .e = e,
                       .data_start = LENGTH_BYTES + n,
                       .data_bytes = (size_t)(s->size - LENGTH_BYTES - n)};
    int code = source_read(s, LENGTH_BYTES, (size_t)n, text, e);
    struct sl_error why = {0};
    if (code == 0 && json_parse(&doc, text, (size_t)n, &header_limits, &why) < 0)
        code = sl_fail(e, SL_EFORMAT, "%.80s: header: %.120s", s->name, why.text);
    if (code == 0) code = read_header(&r, json_root(doc));
    free(r.ranges);
    json_free(doc);
    free(text);
    return code;
}
