/* jinja_value.c - the memory of a render, its budget, and what Python's containers and operators
 * do.
 *
 * The pool is a chain of growing chunks, freed together. The newest string can grow in place, so
 * that a template that builds a text by `s = s + x` costs its length, not its square.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/utf8.h"
#include "text/jinja_impl.h"

enum {
    CHUNK_FIRST = 16 << 10,
    CHUNK_MAX = 4 << 20,
    CLOCK_EVERY = 4096, /* steps between looks at the clock */
    COMPARE_DEPTH_MAX = 100,
};

struct jchunk {
    struct jchunk *next;
    _Alignas(16) char data[];
};

/* ------------------------------------------------------------------ failure and budget */

_Noreturn void jr_fail(struct jrender *r, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    r->code = sl_fail(r->e, SL_EINVAL, "%s (chat template, line %d)", text, r->line);
    longjmp(r->fail, 1);
}

_Noreturn void jr_spent(struct jrender *r, int code, const char *what)
{
    r->code =
        sl_fail(r->e, code, "the chat template exceeds its budget of %s (line %d)", what, r->line);
    longjmp(r->fail, 1);
}

_Noreturn void jr_fail_undef(struct jrender *r, struct jval u)
{
    int n = (int)(u.n < 60 ? u.n : 60);
    if (u.sub == UNDEF_NAME) jr_fail(r, "'%.*s' is undefined", n, u.s);
    if (u.sub == UNDEF_PARAM) jr_fail(r, "parameter '%.*s' was not provided", n, u.s);
    if (u.sub == UNDEF_INDEX) jr_fail(r, "the object has no such element");
    const char *type = jv_type_name((struct jval){.kind = u.sub});
    jr_fail(r, "'%s object' has no attribute '%.*s'", type, n, u.s);
}

static int64_t clock_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

void jr_check(struct jrender *r)
{
    if (r->steps > r->steps_max) jr_spent(r, SL_EINVAL, "steps");
    if (r->out->overflow) jr_spent(r, SL_EINVAL, "output");
    int64_t now = clock_us();
    if (!r->deadline_us) r->deadline_us = now + (int64_t)r->time_ms * 1000;
    if (now > r->deadline_us) jr_spent(r, SL_EDEADLINE, "time");
    r->clock_at = r->steps + CLOCK_EVERY;
    if (r->clock_at > r->steps_max) r->clock_at = r->steps_max + 1;
}

/* ------------------------------------------------------------------ memory */

static char *chunk(struct jrender *r, size_t need)
{
    size_t size = r->chunks ? (size_t)(r->end - r->chunks->data) * 2 : CHUNK_FIRST, total;
    if (size > CHUNK_MAX) size = CHUNK_MAX;
    if (size < need) size = need;
    if (ckd_add(&total, r->memory, size) || total > r->memory_max) {
        size = need; /* near the limit: exactly what is asked for */
        if (ckd_add(&total, r->memory, size) || total > r->memory_max)
            jr_spent(r, SL_EINVAL, "memory");
    }
    struct jchunk *c = xmalloc(sizeof *c + size);
    c->next = r->chunks;
    r->chunks = c;
    r->memory = total;
    r->end = c->data + size;
    r->at = c->data + need;
    return c->data;
}

void jr_pool_free(struct jrender *r)
{
    for (struct jchunk *c = r->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
}

char *jr_bytes(struct jrender *r, size_t n)
{
    if (!r->at || n > (size_t)(r->end - r->at)) return chunk(r, n);
    char *p = r->at;
    r->at += n;
    return p;
}

void *jr_alloc(struct jrender *r, size_t n, size_t size)
{
    size_t bytes;
    if (ckd_mul(&bytes, n, size) || ckd_align(&bytes, bytes, 8)) jr_spent(r, SL_EINVAL, "memory");
    size_t pad = (size_t)(-(uintptr_t)r->at & 7);
    if (r->at && (size_t)(r->end - r->at) >= pad) r->at += pad;
    char *p = jr_bytes(r, bytes);
    memset(p, 0, bytes);
    return p;
}

struct jval jr_concat(struct jrender *r, struct str a, struct str b)
{
    size_t n;
    if (ckd_add(&n, a.n, b.n) || n > UINT32_MAX) jr_spent(r, SL_EINVAL, "memory");
    if (b.n == 0) return jv_text(a);
    if (a.n == 0) return jv_text(b);
    jr_tick(r, b.n / 64);
    if (a.p + a.n == r->at && (size_t)(r->end - r->at) >= b.n) {
        memcpy(r->at, b.p, b.n); /* a is the newest string: grow it where it is */
        r->at += b.n;
        return jv_text((struct str){a.p, n});
    }
    jr_tick(r, a.n / 64);
    char *p = jr_bytes(r, n);
    memcpy(p, a.p, a.n);
    memcpy(p + a.n, b.p, b.n);
    return jv_text((struct str){p, n});
}

struct jval jr_capture(struct jrender *r, size_t mark)
{
    size_t n = r->out->n - mark;
    if (r->out->overflow) jr_spent(r, SL_EINVAL, "output");
    jr_tick(r, n / 64);
    if (n > UINT32_MAX) jr_spent(r, SL_EINVAL, "memory");
    char *p = jr_bytes(r, n);
    if (n) memcpy(p, r->out->p + mark, n);
    r->out->n = mark;
    return jv_text((struct str){p, n});
}

struct jval jr_textf(struct jrender *r, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0 || n >= (int)sizeof text) n = (int)strlen(text);
    char *p = jr_bytes(r, (size_t)n);
    if (n) memcpy(p, text, (size_t)n);
    return jv_text((struct str){p, (size_t)n});
}

/* ------------------------------------------------------------------ containers */

struct jval jv_seq(struct jrender *r, enum jkind kind, uint8_t sub, size_t cap)
{
    struct jlist *l = jr_alloc(r, 1, sizeof *l);
    if (cap > UINT32_MAX) jr_spent(r, SL_EINVAL, "memory");
    l->v = cap ? jr_alloc(r, cap, sizeof *l->v) : NULL;
    l->cap = (uint32_t)cap;
    return (struct jval){.kind = (uint8_t)kind, .sub = sub, .list = l};
}

struct jval jv_list(struct jrender *r, size_t cap) { return jv_seq(r, K_LIST, 0, cap); }

void jv_append(struct jrender *r, struct jval list, struct jval v)
{
    struct jlist *l = list.list;
    if (l->n == l->cap) {
        size_t cap = l->cap ? (size_t)l->cap * 2 : 4;
        if (cap > UINT32_MAX) jr_spent(r, SL_EINVAL, "memory");
        struct jval *grown = jr_alloc(r, cap, sizeof *grown);
        if (l->n) memcpy(grown, l->v, l->n * sizeof *grown);
        l->v = grown;
        l->cap = (uint32_t)cap;
    }
    l->v[l->n++] = v;
}

struct jval jv_pair(struct jrender *r, struct jval a, struct jval b)
{
    struct jval t = jv_seq(r, K_TUPLE, 0, 2);
    t.list->v[0] = a;
    t.list->v[1] = b;
    t.list->n = 2;
    return t;
}

struct jval jv_dict(struct jrender *r, size_t cap)
{
    struct jdict *d = jr_alloc(r, 1, sizeof *d);
    if (cap > UINT32_MAX) jr_spent(r, SL_EINVAL, "memory");
    d->v = cap ? jr_alloc(r, cap, sizeof *d->v) : NULL;
    d->cap = (uint32_t)cap;
    return (struct jval){.kind = K_DICT, .dict = d};
}

struct jval *jv_dict_find(struct jrender *r, const struct jdict *d, struct jval key)
{
    if (key.kind == K_LIST || key.kind == K_DICT)
        jr_fail(r, "unhashable type: '%s'", jv_type_name(key));
    jr_tick(r, d->n / 16);
    for (uint32_t i = 0; i < d->n; i++) {
        struct jval k = d->v[i].k;
        if (k.kind == K_STR && key.kind == K_STR) {
            if (str_eq(jv_str(k), jv_str(key))) return &d->v[i].v;
        } else if (jv_equal(r, k, key)) {
            return &d->v[i].v;
        }
    }
    return NULL;
}

void jv_dict_set(struct jrender *r, struct jdict *d, struct jval key, struct jval v)
{
    struct jval *there = jv_dict_find(r, d, key);
    if (there) {
        *there = v;
        return;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap ? (size_t)d->cap * 2 : 4;
        if (cap > UINT32_MAX) jr_spent(r, SL_EINVAL, "memory");
        struct jpair *grown = jr_alloc(r, cap, sizeof *grown);
        if (d->n) memcpy(grown, d->v, d->n * sizeof *grown);
        d->v = grown;
        d->cap = (uint32_t)cap;
    }
    d->v[d->n++] = (struct jpair){key, v};
}

bool jv_dict_remove(struct jrender *r, struct jdict *d, struct jval key)
{
    struct jval *v = jv_dict_find(r, d, key);
    if (!v) return false;
    uint32_t i = (uint32_t)((struct jpair *)(void *)((char *)v - offsetof(struct jpair, v)) - d->v);
    struct jpair *rest = jr_alloc(r, d->cap, sizeof *rest); /* loops may still read the old array */
    memcpy(rest, d->v, i * sizeof *rest);
    memcpy(rest + i, d->v + i + 1, (d->n - i - 1) * sizeof *rest);
    d->v = rest;
    d->n--;
    return true;
}

struct jval jv_dict_list(struct jrender *r, const struct jdict *d, enum jiter what)
{
    struct jval l = jv_seq(r, K_ITER, (uint8_t)what, d->n);
    jr_tick(r, d->n);
    for (uint32_t i = 0; i < d->n; i++) {
        struct jval k = d->v[i].k, v = d->v[i].v;
        l.list->v[i] = what == ITER_KEYS ? k : what == ITER_VALUES ? v : jv_pair(r, k, v);
    }
    l.list->n = d->n;
    return l;
}

/* The depth of JSON is bounded by its parser, so is this recursion. */
struct jval jv_from_json(struct jrender *r, const json_node *v)
{
    jr_tick(r, 1);
    switch (json_type(v)) {
    case JSON_NULL: return jv_none();
    case JSON_FALSE: return jv_bool(false);
    case JSON_TRUE: return jv_bool(true);
    case JSON_INT: return jv_int(json_int(v));
    case JSON_REAL: return jv_float(json_num(v));
    case JSON_STR: return jv_text(json_str(v));
    case JSON_ARR: {
        struct jval l = jv_list(r, json_len(v));
        for (const json_node *c = json_child(v); c; c = json_next(c))
            l.list->v[l.list->n++] = jv_from_json(r, c);
        return l;
    }
    case JSON_OBJ: break;
    }
    struct jval d = jv_dict(r, json_len(v));
    for (const json_node *c = json_child(v); c; c = json_next(c))
        d.dict->v[d.dict->n++] = (struct jpair){jv_text(json_key(c)), jv_from_json(r, c)};
    return d;
}

struct jval jv_callable(struct jrender *r, const struct jnative *native, struct jval self)
{
    struct jfunc *f = jr_alloc(r, 1, sizeof *f);
    f->native = native;
    f->self = self;
    return (struct jval){.kind = K_FUNC, .fn = f};
}

/* ------------------------------------------------------------------ Python's rules */

const char *jv_type_name(struct jval v)
{
    static const char *const iters[] = {"generator", "dict_items", "dict_keys", "dict_values",
                                        "range"};
    static const char *const names[] = {[K_UNSET] = "Undefined",
                                        [K_UNDEF] = "Undefined",
                                        [K_NONE] = "NoneType",
                                        [K_BOOL] = "bool",
                                        [K_INT] = "int",
                                        [K_FLOAT] = "float",
                                        [K_STR] = "str",
                                        [K_LIST] = "list",
                                        [K_TUPLE] = "tuple",
                                        [K_ITER] = "iterator",
                                        [K_DICT] = "dict",
                                        [K_FUNC] = "function",
                                        [K_NAMESPACE] = "Namespace",
                                        [K_LOOP] = "LoopContext",
                                        [K_CYCLER] = "Cycler"};
    if (v.kind == K_ITER && v.list) return iters[v.sub];
    return names[v.kind];
}

bool jv_truth(struct jval v)
{
    switch (v.kind) {
    case K_UNSET:
    case K_UNDEF:
    case K_NONE: return false;
    case K_BOOL:
    case K_INT: return v.i != 0;
    case K_FLOAT: return v.f != 0;
    case K_STR: return v.n != 0;
    case K_LIST:
    case K_TUPLE: return v.list->n != 0;
    case K_ITER: return v.sub == ITER_GENERATOR || v.list->n != 0;
    case K_DICT: return v.dict->n != 0;
    default: return true;
    }
}

static bool equal(struct jrender *r, struct jval a, struct jval b, int depth);

static bool equal_lists(struct jrender *r, const struct jlist *a, const struct jlist *b, int depth)
{
    if (a == b) return true;
    if (a->n != b->n) return false;
    for (uint32_t i = 0; i < a->n; i++)
        if (!equal(r, a->v[i], b->v[i], depth)) return false;
    return true;
}

static bool equal_dicts(struct jrender *r, const struct jdict *a, const struct jdict *b, int depth)
{
    if (a == b) return true;
    if (a->n != b->n) return false;
    for (uint32_t i = 0; i < a->n; i++) {
        const struct jval *v = jv_dict_find(r, b, a->v[i].k);
        if (!v || !equal(r, a->v[i].v, *v, depth)) return false;
    }
    return true;
}

static bool equal(struct jrender *r, struct jval a, struct jval b, int depth)
{
    jr_tick(r, 1);
    if (depth > COMPARE_DEPTH_MAX) jr_fail(r, "maximum recursion depth exceeded in comparison");
    if (jv_is_int(a) && jv_is_int(b)) return a.i == b.i;
    if (jv_is_num(a) && jv_is_num(b)) return jv_num(a) == jv_num(b);
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case K_UNDEF:
    case K_NONE: return true;
    case K_STR: return str_eq(jv_str(a), jv_str(b));
    case K_LIST:
    case K_TUPLE: return equal_lists(r, a.list, b.list, depth + 1);
    case K_ITER:
        if (a.sub != b.sub || a.sub == ITER_GENERATOR || a.sub == ITER_VALUES)
            return a.list == b.list;
        return equal_lists(r, a.list, b.list, depth + 1);
    case K_DICT: return equal_dicts(r, a.dict, b.dict, depth + 1);
    default: return a.dict == b.dict; /* identity; every pointer lies at one place of the union */
    }
}

bool jv_equal(struct jrender *r, struct jval a, struct jval b) { return equal(r, a, b, 0); }

static int compare(struct jrender *r, struct jval a, struct jval b, const char *op, int depth)
{
    jr_tick(r, 1);
    if (depth > COMPARE_DEPTH_MAX) jr_fail(r, "maximum recursion depth exceeded in comparison");
    if (jv_is_int(a) && jv_is_int(b)) return (a.i > b.i) - (a.i < b.i);
    if (jv_is_num(a) && jv_is_num(b)) return (jv_num(a) > jv_num(b)) - (jv_num(a) < jv_num(b));
    if (a.kind == K_STR && b.kind == K_STR) {
        size_t n = a.n < b.n ? a.n : b.n;
        int c = n ? memcmp(a.s, b.s, n) : 0; /* the order of UTF-8 is that of code points */
        return c ? c : (a.n > b.n) - (a.n < b.n);
    }
    if (a.kind == b.kind && (a.kind == K_LIST || a.kind == K_TUPLE)) {
        uint32_t n = a.list->n < b.list->n ? a.list->n : b.list->n;
        for (uint32_t i = 0; i < n; i++)
            if (!equal(r, a.list->v[i], b.list->v[i], depth))
                return compare(r, a.list->v[i], b.list->v[i], op, depth + 1);
        return (a.list->n > b.list->n) - (a.list->n < b.list->n);
    }
    if (a.kind == K_UNDEF) jr_fail_undef(r, a);
    if (b.kind == K_UNDEF) jr_fail_undef(r, b);
    jr_fail(r, "'%s' not supported between instances of '%s' and '%s'", op, jv_type_name(a),
            jv_type_name(b));
}

int jv_compare(struct jrender *r, struct jval a, struct jval b, const char *op)
{
    return compare(r, a, b, op, 0);
}

bool jv_contains(struct jrender *r, struct jval c, struct jval item)
{
    if (c.kind == K_STR) {
        if (item.kind == K_UNDEF) jr_fail_undef(r, item);
        if (item.kind != K_STR)
            jr_fail(r, "'in <string>' requires string as left operand, not %s", jv_type_name(item));
        jr_tick(r, c.n / 64);
        return item.n == 0 || (c.n && memmem(c.s, c.n, item.s, item.n));
    }
    if (c.kind == K_DICT) return jv_dict_find(r, c.dict, item) != NULL;
    if (c.kind == K_UNDEF) return false;
    if (!jv_is_seq(c)) jr_fail(r, "argument of type '%s' is not iterable", jv_type_name(c));
    const struct jlist *l = jv_items(r, c);
    for (uint32_t i = 0; i < l->n; i++)
        if (jv_equal(r, l->v[i], item)) return true;
    return false;
}

static struct jlist *characters(struct jrender *r, struct str s)
{
    struct jlist *l = jv_list(r, jv_codepoints(s)).list;
    jr_tick(r, s.n / 4);
    for (size_t i = 0; i < s.n && l->n < l->cap;) {
        int len;
        utf8_next(s.p + i, s.n - i, &len);
        l->v[l->n++] = jv_text((struct str){s.p + i, (size_t)len});
        i += (size_t)len;
    }
    return l;
}

struct jlist *jv_items(struct jrender *r, struct jval v)
{
    static struct jlist empty;
    switch (v.kind) {
    case K_LIST:
    case K_TUPLE: return v.list;
    case K_ITER: {
        bool spent = v.list->consumed;
        if (v.sub == ITER_GENERATOR) v.list->consumed = true;
        return spent ? &empty : v.list;
    }
    case K_STR: return characters(r, jv_str(v));
    case K_DICT: return jv_dict_list(r, v.dict, ITER_KEYS).list;
    case K_UNDEF: return &empty;
    default: jr_fail(r, "'%s' object is not iterable", jv_type_name(v));
    }
}

int64_t jv_length(struct jrender *r, struct jval v)
{
    switch (v.kind) {
    case K_LIST:
    case K_TUPLE: return v.list->n;
    case K_ITER:
        if (v.sub != ITER_GENERATOR) return v.list->n;
        break;
    case K_STR: jr_tick(r, v.n / 64); return (int64_t)jv_codepoints(jv_str(v));
    case K_DICT: return v.dict->n;
    case K_UNDEF: return 0;
    case K_LOOP: return v.loop->n;
    default: break;
    }
    jr_fail(r, "object of type '%s' has no len()", jv_type_name(v));
}
