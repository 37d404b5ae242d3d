/* gguf.c - reading a GGUF head from a file that may be hostile.
 *
 * The head's length is not written anywhere: it is read in growing pieces as the walk asks for
 * more, and never more than the file has. Keys and names are kept as offsets until the buffer
 * rests. Limits are below; every size that comes from the file goes through ckd_*.
 */
#include "load/gguf.h"

#include <stdio.h>
#include <stdlib.h>

#include "load/tensors.h"

enum {
    HEAD_BYTES_MAX = 512 << 20, /* vocabularies of 1 M tokens with merges stay below 64 MiB */
    HEAD_PIECE = 1 << 20,
    KV_MAX = 65536,
    GGUF_TENSORS_MAX = 65536,
    DIMS_MAX = 4,
    STR_BYTES_MAX = 16 << 20,
    KEY_BYTES_MAX = 65535, /* the specification's */
    ALIGN_MIN = 8,
    ALIGN_MAX = 4096,
    ALIGN_DEFAULT = 32,
};

static const uint8_t type_bytes[GGUF_TYPES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

struct walk {
    struct gguf *g;
    const struct source *s;
    size_t at; /* next byte of the head */
    struct sl_error *e;
};

/* ------------------------------------------------------------------ bytes of the head */

static int bad(const struct walk *w, const char *what)
{
    return sl_fail(w->e, SL_EFORMAT, "%.120s: byte %zu: %s", w->s->name, w->at, what);
}

/* Make the next n bytes available. */
static int want(struct walk *w, size_t n)
{
    struct buf *b = &w->g->head;
    size_t end;
    if (ckd_add(&end, w->at, n) || end > w->s->size) return bad(w, "the file ends here");
    if (end > HEAD_BYTES_MAX) return bad(w, "too much metadata");
    if (end <= b->n) return 0;
    size_t piece = end - b->n < HEAD_PIECE ? HEAD_PIECE : end - b->n;
    size_t left = w->s->size < HEAD_BYTES_MAX ? (size_t)w->s->size : HEAD_BYTES_MAX;
    if (piece > left - b->n) piece = left - b->n;
    char *p = buf_reserve(b, piece);
    ASSERT(p);
    TRY(source_read(w->s, b->n, piece, p, w->e));
    b->n += piece;
    return 0;
}

static uint64_t load_uint(const struct gguf *g, size_t at, size_t bytes)
{
    uint64_t v = 0;
    for (size_t i = bytes; i-- > 0;) v = v << 8 | (uint8_t)g->head.p[at + i];
    return v;
}

static int take_uint(struct walk *w, size_t bytes, uint64_t *out)
{
    TRY(want(w, bytes));
    *out = load_uint(w->g, w->at, bytes);
    w->at += bytes;
    return 0;
}

/* A string's place: its bytes start at *at. */
static int take_str(struct walk *w, size_t max, size_t *at, size_t *n)
{
    uint64_t len;
    TRY(take_uint(w, 8, &len));
    if (len > max) return bad(w, "a string is too long");
    TRY(want(w, (size_t)len));
    *at = w->at;
    *n = (size_t)len;
    w->at += (size_t)len;
    return 0;
}

/* ------------------------------------------------------------------ the walk */

static int take_kv(struct walk *w, struct gguf_kv *kv)
{
    uint64_t type;
    TRY(take_str(w, KEY_BYTES_MAX, &kv->key_at, &kv->key.n));
    TRY(take_uint(w, 4, &type));
    kv->n = 1;
    if (type == GGUF_ARR) {
        kv->is_array = true;
        TRY(take_uint(w, 4, &type));
        TRY(take_uint(w, 8, &kv->n));
        if (type == GGUF_ARR) return bad(w, "an array of arrays is not supported");
    }
    if (type >= GGUF_TYPES) return bad(w, "unknown value type");
    kv->type = (enum gguf_type)type;
    kv->at = w->at;
    if (kv->type != GGUF_STR) {
        size_t bytes;
        if (ckd_mul(&bytes, kv->n, type_bytes[type])) return bad(w, "an array is too long");
        TRY(want(w, bytes));
        w->at += bytes;
        return 0;
    }
    for (uint64_t i = 0; i < kv->n;
         i++) { /* each takes 8 bytes or more: the file bounds the loop */
        size_t at, n;
        TRY(take_str(w, STR_BYTES_MAX, &at, &n));
    }
    return 0;
}

static int take_type(struct walk *w, struct gguf_tensor *t)
{
    uint64_t ggml;
    TRY(take_uint(w, 4, &ggml));
    for (int i = 0; i < DT_COUNT; i++)
        if ((uint64_t)dtype_info[i].ggml == ggml) {
            t->type = (enum dtype)i;
            return 0;
        }
    return sl_fail(w->e, SL_EFORMAT,
                   "%.80s: tensor \"%.*s\" has ggml type %llu, which is not supported", w->s->name,
                   (int)(t->name.n < 80 ? t->name.n : 80), w->g->head.p + t->name_at,
                   (unsigned long long)ggml);
}

static int take_tensor(struct walk *w, struct gguf_tensor *t)
{
    uint64_t n_dims;
    TRY(take_str(w, TENSOR_NAME_MAX, &t->name_at, &t->name.n));
    TRY(take_uint(w, 4, &n_dims));
    if (n_dims < 1 || n_dims > DIMS_MAX) return bad(w, "a tensor without 1 to 4 dimensions");
    t->n_dims = (int)n_dims;
    for (int i = t->n_dims - 1; i >= 0; i--) {
        uint64_t dim;
        TRY(take_uint(w, 8, &dim));
        if (dim < 1 || dim > INT64_MAX) return bad(w, "a tensor's dimension out of range");
        t->dims[i] = (int64_t)dim;
    }
    TRY(take_type(w, t));
    if (tensors_bytes(t->type, t->n_dims, t->dims, &t->bytes))
        return bad(w, "a tensor's size overflows, or its rows are no whole blocks");
    return take_uint(w, 8, &t->offset);
}

static int walk_head(struct walk *w)
{
    struct gguf *g = w->g;
    uint64_t version, n_tensors, n_kv;
    if (w->s->size < 24) return bad(w, "too short for GGUF");
    TRY(want(w, 24));
    if (memcmp(g->head.p, "GGUF", 4) != 0) return bad(w, "not a GGUF file");
    w->at = 4;
    TRY(take_uint(w, 4, &version));
    if (version != 2 && version != 3)
        return bad(w, "only little-endian GGUF version 2 and 3 are supported");
    TRY(take_uint(w, 8, &n_tensors));
    TRY(take_uint(w, 8, &n_kv));
    if (n_kv > KV_MAX || n_tensors > GGUF_TENSORS_MAX) return bad(w, "too many keys or tensors");
    /* The least entry is 13 bytes (a key) or 33 (a tensor): counts that cannot fit allocate
     * nothing. */
    if (n_kv * 13 + n_tensors * 33 > w->s->size)
        return bad(w, "more keys and tensors than the file has room for");
    g->n_kv = (size_t)n_kv;
    g->n_tensors = (size_t)n_tensors;
    g->kv = xcalloc(g->n_kv, sizeof *g->kv);
    g->tensors = xcalloc(g->n_tensors, sizeof *g->tensors);
    for (size_t i = 0; i < g->n_kv; i++) TRY(take_kv(w, &g->kv[i]));
    for (size_t i = 0; i < g->n_tensors; i++) TRY(take_tensor(w, &g->tensors[i]));
    return 0;
}

/* ------------------------------------------------------------------ checks on the whole */

static int compare(struct str a, struct str b)
{
    int order = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

static int by_key(const void *a, const void *b)
{
    return compare(((const struct gguf_kv *)a)->key, ((const struct gguf_kv *)b)->key);
}

/* The head rests: offsets become pointers, keys are sorted and must be unique. */
static int settle_keys(struct walk *w)
{
    struct gguf *g = w->g;
    for (size_t i = 0; i < g->n_kv; i++) g->kv[i].key.p = g->head.p + g->kv[i].key_at;
    for (size_t i = 0; i < g->n_tensors; i++)
        g->tensors[i].name.p = g->head.p + g->tensors[i].name_at;
    if (g->n_kv) qsort(g->kv, g->n_kv, sizeof *g->kv, by_key);
    for (size_t i = 1; i < g->n_kv; i++)
        if (str_eq(g->kv[i].key, g->kv[i - 1].key)) return bad(w, "a key occurs twice");
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct gguf_tensor *x = *(const struct gguf_tensor *const *)a;
    const struct gguf_tensor *y = *(const struct gguf_tensor *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static int check_overlap(struct walk *w)
{
    struct gguf *g = w->g;
    const struct gguf_tensor **order = xmalloc(g->n_tensors * sizeof *order);
    int code = 0;
    for (size_t i = 0; i < g->n_tensors; i++) order[i] = &g->tensors[i];
    if (g->n_tensors) qsort(order, g->n_tensors, sizeof *order, by_offset);
    for (size_t i = 1; i < g->n_tensors && code == 0; i++)
        if (order[i]->offset - order[i - 1]->offset < order[i - 1]->bytes)
            code = bad(w, "two tensors overlap");
    free(order);
    return code;
}

/* Offsets become absolute; each tensor lies inside the file. */
static int place_tensors(struct walk *w)
{
    struct gguf *g = w->g;
    const struct gguf_kv *kv = gguf_find(g, "general.alignment");
    int64_t align = kv ? gguf_int(g, "general.alignment") : ALIGN_DEFAULT;
    size_t start;
    if (align < ALIGN_MIN || align > ALIGN_MAX || (align & (align - 1)))
        return bad(w, "general.alignment is no power of two from 8 to 4096");
    if (ckd_align(&start, w->at, (size_t)align)) return bad(w, "the data's start overflows");
    for (size_t i = 0; i < g->n_tensors; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        size_t end;
        if (t->offset % (uint64_t)align) return bad(w, "a tensor's offset is not aligned");
        if (ckd_add(&t->offset, t->offset, start) || ckd_add(&end, t->offset, t->bytes) ||
            end > w->s->size)
            return sl_fail(w->e, SL_EFORMAT, "%.80s: tensor \"%.*s\" ends after the file",
                           w->s->name, (int)(t->name.n < 100 ? t->name.n : 100), t->name.p);
    }
    return check_overlap(w);
}

int gguf_open(struct gguf **out, const struct source *s, struct sl_error *e)
{
    struct gguf *g = xcalloc(1, sizeof *g);
    struct walk w = {.g = g, .s = s, .e = e};
    g->head = buf_make(HEAD_BYTES_MAX);
    int code = walk_head(&w);
    if (code == 0) code = settle_keys(&w);
    if (code == 0) code = place_tensors(&w);
    if (code == 0 && gguf_int(g, "split.count") > 1)
        code = sl_fail(e, SL_EFORMAT, "%.120s is one part of a split GGUF; merge the parts first",
                       s->name);
    if (code < 0) {
        gguf_close(g);
        return code;
    }
    *out = g;
    return 0;
}

void gguf_close(struct gguf *g)
{
    if (!g) return;
    buf_free(&g->head);
    free(g->kv);
    free(g->tensors);
    free(g);
}

/* ------------------------------------------------------------------ getters */

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key)
{
    struct gguf_kv want_key = {.key = str_of(key)};
    return g->n_kv ? bsearch(&want_key, g->kv, g->n_kv, sizeof *g->kv, by_key) : NULL;
}

static const struct gguf_kv *find_scalar(const struct gguf *g, const char *key)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    return kv && !kv->is_array ? kv : NULL;
}

int64_t gguf_int(const struct gguf *g, const char *key)
{
    const struct gguf_kv *kv = find_scalar(g, key);
    bool is_signed = kv && (kv->type == GGUF_I8 || kv->type == GGUF_I16 || kv->type == GGUF_I32 ||
                            kv->type == GGUF_I64);
    bool is_unsigned = kv && (kv->type == GGUF_U8 || kv->type == GGUF_U16 || kv->type == GGUF_U32 ||
                              kv->type == GGUF_U64);
    if (!is_signed && !is_unsigned) return -1;
    int bits = type_bytes[kv->type] * 8;
    uint64_t v = load_uint(g, kv->at, type_bytes[kv->type]);
    if (is_signed && v >> (bits - 1)) return -1;
    return v <= INT64_MAX ? (int64_t)v : -1;
}

double gguf_real(const struct gguf *g, const char *key, double other)
{
    const struct gguf_kv *kv = find_scalar(g, key);
    if (kv && kv->type == GGUF_F32) {
        float f;
        memcpy(&f, g->head.p + kv->at, sizeof f);
        return (double)f;
    }
    if (kv && kv->type == GGUF_F64) memcpy(&other, g->head.p + kv->at, sizeof other);
    return other;
}

int gguf_bool(const struct gguf *g, const char *key)
{
    const struct gguf_kv *kv = find_scalar(g, key);
    return kv && kv->type == GGUF_BOOL ? g->head.p[kv->at] != 0 : -1;
}

/* The string at an offset of the head; *at moves behind it. Checked by the walk. */
static struct str str_at(const struct gguf *g, size_t *at)
{
    size_t n = (size_t)load_uint(g, *at, 8);
    struct str s = {g->head.p + *at + 8, n};
    *at += 8 + n;
    return s;
}

struct str gguf_str(const struct gguf *g, const char *key)
{
    const struct gguf_kv *kv = find_scalar(g, key);
    size_t at = kv ? kv->at : 0;
    return kv && kv->type == GGUF_STR ? str_at(g, &at) : (struct str){NULL, 0};
}

static const struct gguf_kv *find_array(const struct gguf *g, const char *key, enum gguf_type type,
                                        size_t max)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    return kv && kv->is_array && kv->type == type && kv->n <= max ? kv : NULL;
}

bool gguf_strings(const struct gguf *g, const char *key, size_t max, struct str **out, size_t *n)
{
    const struct gguf_kv *kv = find_array(g, key, GGUF_STR, max);
    if (!kv) return false;
    *n = (size_t)kv->n;
    *out = xmalloc(*n * sizeof **out);
    size_t at = kv->at;
    for (size_t i = 0; i < *n; i++) (*out)[i] = str_at(g, &at);
    return true;
}

bool gguf_floats(const struct gguf *g, const char *key, size_t max, float **out, size_t *n)
{
    const struct gguf_kv *kv = find_array(g, key, GGUF_F32, max);
    if (!kv) return false;
    *n = (size_t)kv->n;
    *out = xmalloc(*n * sizeof **out);
    if (*n) memcpy(*out, g->head.p + kv->at, *n * sizeof **out);
    return true;
}

bool gguf_ints(const struct gguf *g, const char *key, size_t max, int32_t **out, size_t *n)
{
    const struct gguf_kv *kv = find_array(g, key, GGUF_I32, max);
    if (!kv) kv = find_array(g, key, GGUF_U32, max);
    if (!kv) return false;
    *n = (size_t)kv->n;
    *out = xmalloc(*n * sizeof **out);
    if (*n) memcpy(*out, g->head.p + kv->at, *n * sizeof **out);
    return true;
}
