/* grammar_schema.c - from a JSON Schema to parts: the compiler's own state, the memo of lists already
 * seen (which is what closes recursion), and the queue of rules whose bodies wait. Nothing here
 * recurses over the schema but through choices, which are counted.
 */
#include <stdio.h>
#include <stdlib.h>

#include "text/grammar_schema.h"

enum { CHOICE_DEPTH = 40, ARENA_BYTES = 64 << 20 };

/* ------------------------------------------------------------------ errors and memory */

/* The JSON pointer of `at`, found by walking from `from`. */
static bool find_pointer(const json_node *from, const json_node *at, struct buf *out, int depth)
{
    size_t mark = out->n, index = 0;
    if (from == at) return true;
    if (depth > 512) return false;
    for (const json_node *m = json_child(from); m; m = json_next(m), index++) {
        buf_putc(out, '/');
        if (json_type(from) == JSON_ARR) {
            buf_put_i64(out, (int64_t)index);
        } else {
            struct str key = json_key(m);
            for (size_t i = 0; i < key.n; i++) {
                if (key.p[i] == '~' || key.p[i] == '/')
                    buf_puts(out, key.p[i] == '~' ? "~0" : "~1");
                else
                    buf_putc(out, key.p[i]);
            }
        }
        if (find_pointer(m, at, out, depth + 1)) return true;
        out->n = mark;
    }
    return false;
}

int schema_fail(struct compiler *c, int code, const json_node *at, const char *fmt, ...)
{
    if (c->code) return c->code;
    char text[200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    struct buf pointer = buf_make(4096);
    buf_putc(&pointer, '#');
    if (at && !find_pointer(c->root, at, &pointer, 0)) pointer.n = 1;
    c->code = sl_fail_param(c->e, code, buf_cstr(&pointer), "%s", text);
    buf_free(&pointer);
    return c->code;
}

void *schema_alloc(struct compiler *c, size_t n)
{
    void *p = arena_alloc(&c->arena, n);
    if (p) return p;
    c->g->failed = FAIL_BYTES; /* what is under way goes on until it sees that */
    return arena_alloc(&c->spare, n);
}

bool schema_stopped(struct compiler *c)
{
    return c->code || !grammar_steps(c->g, 1);
}

/* ------------------------------------------------------------------ lists of items */

struct item item_schema(const json_node *s, bool is_negated)
{
    return (struct item){.kind = is_negated ? IT_NOT : IT_SCHEMA, .s = s};
}

static bool item_equal(const struct item *a, const struct item *b)
{
    return a->kind == b->kind && a->s == b->s && a->member == b->member && a->types == b->types &&
           a->is_negated == b->is_negated && str_eq(a->name, b->name);
}

void items_add(struct compiler *c, struct items *l, struct item it)
{
    uint32_t at = l->n;
    items_insert(c, l, &at, it);
}

void items_insert(struct compiler *c, struct items *l, uint32_t *at, struct item it)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (item_equal(&l->v[i], &it)) return; /* also where its choices were made */
    if (l->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 4;
        struct item *v = schema_alloc(c, l->cap * sizeof *v);
        if (l->n) memcpy(v, l->v, l->n * sizeof *v);
        l->v = v;
    }
    memmove(l->v + *at + 1, l->v + *at, (l->n - *at) * sizeof it);
    l->v[(*at)++] = it;
    l->n++;
}

struct items items_copy(struct compiler *c, const struct items *l)
{
    struct items copy = {.n = l->n, .cap = l->n + 4};
    copy.v = schema_alloc(c, copy.cap * sizeof *copy.v);
    if (l->n) memcpy(copy.v, l->v, l->n * sizeof *copy.v);
    return copy;
}

bool items_equal(const struct items *a, const struct items *b)
{
    if (a->n != b->n) return false;
    for (uint32_t i = 0; i < a->n; i++)
        if (!item_equal(&a->v[i], &b->v[i]) || a->v[i].done != b->v[i].done) return false;
    return true;
}

static uint32_t items_hash(const struct items *l)
{
    uint32_t h = l->n;
    for (uint32_t i = 0; i < l->n; i++) {
        const struct item *it = &l->v[i];
        h = hash_mix(hash_mix(h, it->kind), it->done);
        h = hash_mix(hash_mix(h, (uint32_t)(uintptr_t)it->s), (uint32_t)(uintptr_t)it->member);
        for (size_t k = 0; k < it->name.n; k++) h = hash_mix(h, (uint8_t)it->name.p[k]);
    }
    return h;
}

/* ------------------------------------------------------------------ memo and queue */

static struct memo_entry *memo_find(struct compiler *c, const struct items *l)
{
    if ((c->n_memo + 1) * 2 > c->memo_cap) {
        struct memo_entry *old = c->memo;
        uint32_t old_cap = c->memo_cap;
        c->memo_cap = old_cap ? old_cap * 2 : 64;
        c->memo = xcalloc(c->memo_cap, sizeof *c->memo);
        for (uint32_t i = 0; i < old_cap; i++) {
            uint32_t at = old[i].hash & (c->memo_cap - 1);
            if (!old[i].items.v) continue;
            while (c->memo[at].items.v) at = (at + 1) & (c->memo_cap - 1);
            c->memo[at] = old[i];
        }
        free(old);
    }
    uint32_t h = items_hash(l), at = h & (c->memo_cap - 1);
    for (; c->memo[at].items.v; at = (at + 1) & (c->memo_cap - 1))
        if (c->memo[at].hash == h && items_equal(&c->memo[at].items, l)) return &c->memo[at];
    c->memo[at].hash = h;
    return &c->memo[at];
}

/* A rule whose body is the array and object forms of a shape. */
static part_id queue_rule(struct compiler *c, struct shape *s)
{
    if (c->n_jobs == c->jobs_cap) {
        c->jobs_cap = c->jobs_cap ? c->jobs_cap * 2 : 64;
        c->jobs = xrealloc(c->jobs, c->jobs_cap * sizeof *c->jobs);
    }
    struct job j = {rule_new(c->g), s};
    c->jobs[c->n_jobs++] = j;
    return part_rule(c->g, j.rule);
}

static void run_jobs(struct compiler *c)
{
    for (uint32_t i = 0; i < c->n_jobs && !schema_stopped(c); i++) {
        struct job j = c->jobs[i];
        part_id v[2] = {P_NEVER, P_NEVER};
        if (j.shape->types & TYPE_ARRAY) v[0] = array_part(c, j.shape);
        if (j.shape->types & TYPE_OBJECT) v[1] = object_part(c, j.shape);
        rule_set(c->g, j.rule, part_alt(c->g, v, 2));
    }
}

/* ------------------------------------------------------------------ one list to a part */

static re_id shape_scalars(struct compiler *c, const struct shape *s)
{
    static const char *const words[] = {"null", "false", "true"};
    re_id r = RE_NONE;
    for (int i = 0; i < 3; i++) {
        bool is_out = false;
        for (uint32_t k = 0; k < s->excluded.n; k++)
            is_out |= json_type(s->excluded.v[k]) ==
                      (enum json_type[]){JSON_NULL, JSON_FALSE, JSON_TRUE}[i];
        if ((s->types >> i & 1) && !is_out) r = re_or2(c->g, r, re_literal(c->g, str_of(words[i])));
    }
    r = re_or2(c->g, r, shape_number(c, s));
    return s->types & TYPE_STRING ? re_or2(c->g, r, shape_string(c, s)) : r;
}

static bool excludes_lists(const struct shape *s)
{
    for (uint32_t i = 0; i < s->excluded.n; i++) {
        enum json_type t = json_type(s->excluded.v[i]);
        if ((t == JSON_ARR && (s->types & TYPE_ARRAY)) ||
            (t == JSON_OBJ && (s->types & TYPE_OBJECT)))
            return true;
    }
    return false;
}

static part_id listed_part(struct compiler *c, const struct shape *s)
{
    re_id r = RE_NONE;
    re_id *v = xmalloc((s->values.n + 1) * sizeof *v);
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->values.n && !schema_stopped(c); i++)
        if (value_fits(c, &s->all, s->values.v[i])) v[n++] = value_literal(c, s->values.v[i]);
    if (n) r = re_or(c->g, v, n);
    free(v);
    return part_lex(c->g, r);
}

static part_id shape_part(struct compiler *c, struct shape *s)
{
    if (s->types == 0) return P_NEVER;
    if (s->has_values) return listed_part(c, s);
    if (s->choice != UINT32_MAX) {
        if (c->depth > CHOICE_DEPTH) {
            schema_fail(c, SL_ETOOLARGE, s->all.v[s->choice].s,
                        "anyOf, oneOf, if and not nest too deeply");
            return P_NEVER;
        }
        struct alternatives a;
        choice_alternatives(c, s, &a);
        part_id *v = xmalloc((a.n + 1) * sizeof *v), out;
        c->depth++;
        for (uint32_t i = 0; i < a.n; i++) v[i] = schema_part(c, &a.v[i]);
        c->depth--;
        out = part_alt(c->g, v, schema_stopped(c) ? 0 : a.n);
        free(v);
        return out;
    }
    if (excludes_lists(s))
        schema_fail(c, SL_ESCHEMA, s->excluded.v[0],
                    "not with an array or object in enum is not supported");
    part_id scalars = part_lex(c->g, shape_scalars(c, s));
    if (!(s->types & (TYPE_ARRAY | TYPE_OBJECT))) return scalars;
    return part_alt2(c->g, scalars, queue_rule(c, s));
}

/* Schemas that say nothing: true and {}. */
static bool says_nothing(const struct items *l)
{
    for (uint32_t i = 0; i < l->n; i++) {
        enum json_type t = json_type(l->v[i].s);
        bool is_open = t == JSON_TRUE || (t == JSON_OBJ && !json_child(l->v[i].s));
        if (l->v[i].kind != IT_SCHEMA || !is_open) return false;
    }
    return true;
}

part_id schema_part(struct compiler *c, const struct items *l)
{
    if (schema_stopped(c)) return P_NEVER;
    if (says_nothing(l)) return c->any_value;
    struct memo_entry *m = memo_find(c, l);
    if (m->items.v) return m->part;
    part_id p = shape_part(c, shape_make(c, l));
    m = memo_find(c, l); /* shape_part may have made entries */
    if (!m->items.v) c->n_memo++;
    m->items = items_copy(c, l);
    m->part = p;
    return p;
}

/* ------------------------------------------------------------------ whole schemas */

static re_id any_scalar(struct grammar *g)
{
    re_id words = re_or(g,
                        (re_id[]){re_literal(g, STR("null")), re_literal(g, STR("true")),
                                  re_literal(g, STR("false"))},
                        3);
    re_id number = number_any(g, NUMBER_INT | NUMBER_FRACTION);
    return re_or(g, (re_id[]){words, number, json_string(g, 0, RE_INF)}, 3);
}

/* Rules for any array and any object around any value; returns the object. */
static part_id any_rules(struct compiler *c)
{
    struct grammar *g = c->g;
    uint32_t array = rule_new(g), object = rule_new(g);
    part_id lists = part_alt2(g, part_rule(g, array), part_rule(g, object));
    c->any_value = part_alt2(g, part_lex(g, any_scalar(g)), lists);
    part_id space = part_lex(g, c->space), comma = part_lex(g, c->comma);
    part_id member =
        part_seq3(g, part_lex(g, json_string(g, 0, RE_INF)), part_lex(g, c->colon), c->any_value);
    const part_id one[] = {c->any_value, member};
    for (int i = 0; i < 2; i++) {
        part_id more = part_rep(g, part_seq2(g, comma, one[i]), 0, RE_INF);
        part_id some = part_seq3(g, space, one[i], more);
        part_id close = part_text(g, i ? "}" : "]");
        some = part_seq3(g, some, space, close);
        rule_set(g, i ? object : array,
                 part_seq2(g, part_text(g, i ? "{" : "["), part_alt2(g, some, close)));
    }
    return part_rule(g, object);
}

static void compiler_begin(struct compiler *c)
{
    struct grammar *g = c->g;
    if (c->o->is_compact) {
        c->space = c->colon = c->comma = RE_EMPTY;
    } else {
        re_id blank = re_or2(g, re_byte(g, ' '), re_byte(g, '\t'));
        re_id line = re_cat(g, re_byte(g, '\n'), re_rep(g, blank, 0, 64));
        c->space = re_opt(g, re_or2(g, re_byte(g, ' '), line));
        c->colon = re_opt(g, re_byte(g, ' '));
    }
    c->comma = re_cat(g, re_byte(g, ','), c->space);
    c->colon = re_cat(g, re_byte(g, ':'), c->colon);
}

/* Drafts up to 7 are told by $schema. */
static bool is_old_draft(const json_node *root, const struct grammar_opts *o)
{
    const json_node *v = json_get(root, "$schema");
    if (!v || json_type(v) != JSON_STR) return o->draft > 0 && o->draft <= 7;
    struct str s = json_str(v);
    return s.n && (memmem(s.p, s.n, "draft-0", 7) != NULL);
}

/* OpenAI's strict subset: closed objects, all members required, no keywords that need a look at the
 * whole value. */
static void check_strict(struct compiler *c, const json_node *s, bool is_names, int depth)
{
    if (depth > 512 || c->code) return;
    if (json_type(s) == JSON_OBJ && !is_names) {
        const json_node *properties = json_get(s, "properties"),
                        *additional = json_get(s, "additionalProperties");
        if (additional && json_type(additional) != JSON_FALSE)
            schema_fail(c, SL_ESCHEMA, additional,
                        "additionalProperties must be false in strict mode");
        const json_node *required = json_get(s, "required");
        for (const json_node *p = properties ? json_child(properties) : NULL; p; p = json_next(p)) {
            const json_node *r = required ? json_child(required) : NULL;
            while (r && !(json_type(r) == JSON_STR && str_eq(json_str(r), json_key(p))))
                r = json_next(r);
            if (!r) schema_fail(c, SL_ESCHEMA, p, "all properties must be required in strict mode");
        }
    }
    for (const json_node *m = json_child(s); m; m = json_next(m)) {
        enum keyword k = is_names || json_type(s) != JSON_OBJ ? KW_OTHER : keyword_of(json_key(m));
        if (k == KW_ALL_OF || k == KW_NOT || k == KW_IF || k == KW_DEPENDENT_REQUIRED ||
            k == KW_DEPENDENT_SCHEMAS || k == KW_PATTERN_PROPERTIES)
            schema_fail(c, SL_ESCHEMA, m, "this keyword is not permitted in strict mode");
        if (k == KW_ENUM || k == KW_CONST) continue;
        bool names = k == KW_PROPERTIES ||
                     (!is_names && json_type(s) == JSON_OBJ &&
                      (str_is(json_key(m), "$defs") || str_is(json_key(m), "definitions")));
        if (json_child(m)) check_strict(c, m, names, depth + 1);
    }
}

static void check_strict_root(struct compiler *c)
{
    const json_node *type = json_get(c->root, "type"), *any = json_get(c->root, "anyOf");
    if (any) schema_fail(c, SL_ESCHEMA, any, "anyOf at the root is not permitted in strict mode");
    if (!json_get(c->root, "$ref") &&
        (!type || json_type(type) != JSON_STR || !str_is(json_str(type), "object")))
        schema_fail(c, SL_ESCHEMA, type ? type : c->root,
                    "the root must be of type object in strict mode");
    check_strict(c, c->root, false, 0);
}

static int compiler_end(struct compiler *c)
{
    arena_free(&c->arena);
    arena_free(&c->spare);
    free(c->resources);
    free(c->anchors);
    free(c->refs);
    free(c->memo);
    free(c->jobs);
    free(c->patterns);
    if (c->code) return c->code;
    return c->g->failed ? grammar_failure(c->g, c->e) : 0;
}

int schema_compile(struct grammar *g, const json_node *schema, const struct grammar_opts *o,
                   part_id *out, struct sl_error *e)
{
    struct compiler c = {.g = g,
                         .o = o,
                         .e = e,
                         .root = schema,
                         .arena = arena_make(ARENA_BYTES),
                         .spare = arena_make(SIZE_MAX / 2)};
    struct items root = {0};
    c.old_ref = is_old_draft(schema, o);
    compiler_begin(&c);
    any_rules(&c);
    refs_collect(&c);
    if (o->is_strict) check_strict_root(&c);
    items_add(&c, &root, item_schema(schema, false));
    *out = schema_part(&c, &root);
    run_jobs(&c);
    return compiler_end(&c);
}

int any_object_compile(struct grammar *g, const struct grammar_opts *o, part_id *out,
                       struct sl_error *e)
{
    struct compiler c = {.g = g,
                         .o = o,
                         .e = e,
                         .arena = arena_make(ARENA_BYTES),
                         .spare = arena_make(SIZE_MAX / 2)};
    compiler_begin(&c);
    *out = any_rules(&c);
    return compiler_end(&c);
}
