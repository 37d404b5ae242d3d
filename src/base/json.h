/* json.h - strict JSON in, fast JSON out.
 *
 * In: a gate scans the bytes first (RFC 8259 grammar, valid UTF-8, no duplicate keys, limits on
 * depth and nodes, no \u0000 unless allowed), then cJSON builds the tree. The gate also reads the
 * numbers: an integer literal keeps its exact int64 and is told apart from 2.0. Nothing outside
 * json.c sees cJSON. A document is immutable after parsing and may be read by any thread.
 * Out: append-only writers into a struct buf; no tree.
 */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include "base/buf.h"
#include "base/err.h"

struct json_doc;                    /* owns the tree */
typedef struct json_node json_node; /* borrowed from its document; opaque */

struct json_limits {
    int max_depth;         /* nesting of arrays and objects; at most 512 */
    size_t max_nodes;      /* values and keys */
    size_t max_keys;       /* members of one object */
    bool allow_nul;        /* false: refuse the escape \u0000; true: a struct str may hold NUL */
    bool allow_duplicates; /* model files only: the first of equal keys wins */
};
extern const struct json_limits json_limits_request; /* depth 64, 1,048,576 nodes, 4,096 keys */
extern const struct json_limits
    json_limits_file; /* depth 128, 64 M nodes, 8 M keys, lax on duplicates */

/* Gate, then tree. The document copies what it needs; text may go. Frees with json_free. */
int json_parse(struct json_doc **out, const char *text, size_t n, const struct json_limits *lim,
               struct sl_error *e);
void json_free(struct json_doc *d); /* NULL is fine */
const json_node *json_root(const struct json_doc *d);

enum json_type {
    JSON_NULL,
    JSON_FALSE,
    JSON_TRUE,
    JSON_INT,
    JSON_REAL,
    JSON_STR,
    JSON_ARR,
    JSON_OBJ
};
/* JSON_INT: an integer literal that fits int64. JSON_REAL: any other number. NULL node: JSON_NULL.
 */
enum json_type json_type(const json_node *v);
const char *json_type_name(enum json_type t); /* "integer", "string", ... for messages */

/* Walk an array or object in document order: for (c = json_child(v); c; c = json_next(c)). */
const json_node *json_child(const json_node *v);
const json_node *json_next(const json_node *v);
struct str json_key(const json_node *v); /* its name, for a member of an object */
size_t json_len(const json_node *v);     /* children; O(n) */

/* Member by exact name, or NULL (also when v is NULL or no object). O(members). */
const json_node *json_get(const json_node *v, const char *key);
/* As json_get, but an explicit null reads as absent: how request fields are looked up. */
const json_node *json_opt(const json_node *v, const char *key);

/* Typed reads; the type must have been checked (asserted). */
struct str json_str(const json_node *v);
int64_t json_int(const json_node *v); /* JSON_INT */
double json_num(const json_node *v);  /* JSON_INT or JSON_REAL */
static inline bool json_is_num(const json_node *v)
{
    return json_type(v) == JSON_INT || json_type(v) == JSON_REAL;
}

/* Writers. json_put_str writes the quotes and escapes; invalid UTF-8 becomes U+FFFD; non-ASCII is
 * kept as is. json_put_num writes the shortest form that reads back equal ("0.1", "1e-07"), and
 * -9999.0 for a value that is not finite. */
void json_put_str(struct buf *b, struct str s);
void json_put_num(struct buf *b, double v);
/* A float with at most 9 significant digits that reads back equal as float. */
void json_put_float(struct buf *b, float v);
/* The node again as compact JSON ("," and ":"). */
void json_put_node(struct buf *b, const json_node *v);

#endif
