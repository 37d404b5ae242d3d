/* gguf.h - a GGUF file's metadata and tensor table, as the file has them. Inside load/ only.
 *
 * Format: "GGUF", version 2 or 3, counts, key-value pairs, tensor descriptions, padding, data; all
 * little-endian. The head is read into memory and walked once; every value is checked there, so
 * that the getters only look up. A getter fails (returns its default, or false) unless the value
 * has exactly the type asked for: the file says the types, and a wrong one must not be read as
 * another.
 */
#ifndef LOAD_GGUF_H
#define LOAD_GGUF_H

#include "base/dtype.h"
#include "load/source.h"

// clang-format off
enum gguf_type {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL,
    GGUF_STR, GGUF_ARR, GGUF_U64, GGUF_I64, GGUF_F64, GGUF_TYPES,
};
// clang-format on

struct gguf_kv {
    struct str key;
    size_t key_at;       /* offset of the key in the head */
    enum gguf_type type; /* of the value, or of an array's elements */
    bool is_array;
    uint64_t n; /* elements; 1 for a scalar */
    size_t at;  /* offset of the first element in the head */
};

struct gguf_tensor {
    struct str name;
    size_t name_at; /* offset of the name in the head */
    enum dtype type;
    int n_dims;
    int64_t dims[4]; /* reversed to PyTorch's order: outermost first */
    size_t bytes;
    uint64_t offset; /* absolute, in the file */
};

struct gguf {
    struct buf head;    /* owned; the bytes that keys, names and values point into */
    struct gguf_kv *kv; /* owned, sorted by key */
    size_t n_kv;
    struct gguf_tensor *tensors; /* owned, in the file's order */
    size_t n_tensors;
};

/* Read and check the whole head. */
int gguf_open(struct gguf **out, const struct source *s, struct sl_error *e);
void gguf_close(struct gguf *g); /* NULL is fine */

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key); /* or NULL */
/* Any integer type, where the value fits int64 and is not negative; else -1. */
int64_t gguf_int(const struct gguf *g, const char *key);
/* F32 or F64; else `other`. */
double gguf_real(const struct gguf *g, const char *key, double other);
/* 1, 0, or -1 when absent or of another type. */
int gguf_bool(const struct gguf *g, const char *key);
/* A string's bytes; {NULL, 0} when absent or of another type. */
struct str gguf_str(const struct gguf *g, const char *key);
/* Arrays, copied into *out (owned by the caller). False when absent, of another type, or longer
 * than max. */
bool gguf_strings(const struct gguf *g, const char *key, size_t max, struct str **out, size_t *n);
bool gguf_floats(const struct gguf *g, const char *key, size_t max, float **out, size_t *n);
/* I32 or U32 elements. */
bool gguf_ints(const struct gguf *g, const char *key, size_t max, int32_t **out, size_t *n);

#endif
