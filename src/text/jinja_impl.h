/* jinja_impl.h - what the files of the Jinja interpreter share: values, syntax tree, the run of a
 * render.
 *
 * Life of a template: jinja_lex.c cuts the source into tokens, jinja_expr.c and jinja_parse.c build
 * a tree in an arena (immutable from then on), jinja_exec.c walks it. Values live in the pool of
 * one render and are freed together. A failure anywhere leaves by longjmp to the one setjmp of the
 * compile or the render: nothing on the way owns memory, so there is nothing to unwind.
 */
#ifndef TEXT_JINJA_IMPL_H
#define TEXT_JINJA_IMPL_H

#include <setjmp.h>

#include "base/arena.h"
#include "text/jinja.h"

/* ------------------------------------------------------------------ values */

enum jkind {
    K_UNSET, /* a variable slot nobody has written; never seen by an expression */
    K_UNDEF, /* s, n: the missing name; sub: enum jundef or the kind of the object without it */
    K_NONE,
    K_BOOL,
    K_INT,
    K_FLOAT,
    K_STR, /* s, n: UTF-8, borrowed from template, request or pool; immutable; sub: STR_MARKUP */
    K_LIST,
    K_TUPLE,
    K_ITER, /* list, sub: enum jiter; what Python makes a generator, a view or a range */
    K_DICT,
    K_NAMESPACE, /* dict */
    K_FUNC,
    K_LOOP,
    K_CYCLER, /* list; its n-th is current: list->cursor */
};
enum jundef { UNDEF_NAME = 0, UNDEF_PARAM = 100, UNDEF_INDEX = 101 };
enum jiter { ITER_GENERATOR, ITER_ITEMS, ITER_KEYS, ITER_VALUES, ITER_RANGE };
enum { STR_MARKUP = 1 };  /* text that |safe or |escape made: `+` escapes what is added to it */
enum { TUPLE_GROUP = 1 }; /* sub of a K_TUPLE made by groupby: has .grouper and .list */

struct jval {
    uint8_t kind, sub;
    uint32_t n; /* bytes of a string */
    union {
        int64_t i; /* K_INT, K_BOOL */
        double f;
        const char *s;
        struct jlist *list;
        struct jdict *dict;
        const struct jfunc *fn;
        struct jloop *loop;
    };
};

struct jlist {
    struct jval *v;
    uint32_t n, cap;
    uint32_t cursor; /* of a cycler or joiner */
    bool consumed;   /* a generator gives its items once */
};
struct jpair {
    struct jval k, v;
};
struct jdict {
    struct jpair *v; /* in insertion order */
    uint32_t n, cap;
};

struct jkw {
    struct str name;
    struct jval v;
};
struct jargs {
    const struct jval *v;
    int n;
    const struct jkw *kw;
    int n_kw;
};
struct jrender;
typedef struct jval (*jnative_fn)(struct jrender *r, struct jval self, const struct jargs *a);
struct jnative { /* a filter, a test, a method or a global function */
    const char *name;
    jnative_fn fn;
};
struct jfunc {
    const struct jnative *native; /* NULL: a macro */
    struct jval self;             /* of a bound method */
    const struct jnode *macro;
    struct jframe *closure;
};

struct jloop {
    const struct jval *items;
    uint32_t n, i, level; /* level: nesting of a recursive loop, from 0 */
    struct jval changed;  /* last argument list of loop.changed(), K_UNSET before */
    const struct jnode *node;
    struct jframe *frame;
};

static inline struct jval jv_none(void) { return (struct jval){.kind = K_NONE}; }
static inline struct jval jv_bool(bool b) { return (struct jval){.kind = K_BOOL, .i = b}; }
static inline struct jval jv_int(int64_t i) { return (struct jval){.kind = K_INT, .i = i}; }
static inline struct jval jv_float(double f) { return (struct jval){.kind = K_FLOAT, .f = f}; }
static inline struct jval jv_text(struct str s)
{
    return (struct jval){.kind = K_STR, .n = (uint32_t)s.n, .s = s.p};
}
static inline struct jval jv_markup(struct jval v, bool markup)
{
    if (v.kind == K_STR) v.sub = markup ? STR_MARKUP : 0;
    return v;
}
static inline struct jval jv_undef(struct str name, uint8_t sub)
{
    return (struct jval){.kind = K_UNDEF, .sub = sub, .n = (uint32_t)name.n, .s = name.p};
}
static inline struct str jv_str(struct jval v) { return (struct str){v.s, v.n}; }
static inline bool jv_is_int(struct jval v) { return v.kind == K_INT || v.kind == K_BOOL; }
static inline bool jv_is_num(struct jval v) { return jv_is_int(v) || v.kind == K_FLOAT; }
static inline double jv_num(struct jval v) { return v.kind == K_FLOAT ? v.f : (double)v.i; }
static inline bool jv_is_digit(char c) { return c >= '0' && c <= '9'; }
static inline bool jv_is_ascii_alnum(char c)
{
    return jv_is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
static inline bool jv_is_seq(struct jval v)
{
    return v.kind == K_LIST || v.kind == K_TUPLE || v.kind == K_ITER;
}

/* ------------------------------------------------------------------ the tree */

enum jnode_kind {
    /* expressions */
    E_CONST,  /* val */
    E_NAME,   /* name, id, refs */
    E_LIST,   /* list */
    E_TUPLE,  /* list */
    E_DICT,   /* list: key, value, key, value */
    E_ATTR,   /* a.name; methods found at compile time in m */
    E_ITEM,   /* a[b] */
    E_SLICE,  /* a[list[0]:list[1]:list[2]], NULL where omitted */
    E_CALL,   /* a(list...); the last n_kw of list are named kw; b: *args, c: **kwargs */
    E_FILTER, /* a|name(list...) native; a NULL: the text of a block, r->piped */
    E_TEST,   /* a is name(list...) */
    E_NEG,
    E_POS,
    E_NOT,
    E_AND,
    E_OR,
    E_BINARY,  /* a op b */
    E_COMPARE, /* a, then list[i] under ops[i] */
    E_CONCAT,  /* list */
    E_COND,    /* a if b else c (c may be NULL) */
    /* statements */
    S_TEXT,   /* val */
    S_OUTPUT, /* a */
    S_FOR, /* target a, iterable b, filter c, body, other = else; flag: recursive; n: loop's slot */
    S_IF,  /* list: tests; bodies; other = else */
    S_SET, /* target a = b */
    S_CAPTURE, /* {% set a %} body {% endset %}, filter chain b over it */
    S_FILTER,  /* filter chain b over body */
    S_MACRO,   /* name, target a, parameters list (E_NAME), defaults, body; flag: takes varargs */
    S_CALL,    /* call a (E_CALL) with macro b as caller */
    S_WITH,    /* targets list, values defaults; body */
    S_SCOPE,   /* body in a scope of its own: generation, autoescape */
    S_BREAK,
    S_CONTINUE,
};

/* of E_BINARY and E_COMPARE */
enum jop {
    OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD, OP_POW, /* arithmetic */
    OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_IN, OP_NOT_IN   /* comparison */
};

struct jblock {
    struct jnode **v;
    int n;
};
/* Where a name may lie: walk `hops` closures up, then that slot. The innermost that is set wins. */
struct jref {
    int hops, slot;
};
struct jmethods {
    const struct jnative *str, *list, *dict;
};
struct jnode {
    uint8_t kind, op;
    bool flag;
    int line;
    int n, n_kw;
    struct jnode *a, *b, *c;
    struct jnode **list;
    struct str *kw; /* n_kw names, of the last arguments in list */
    struct str name;
    union {
        struct jval val;
        struct {
            int id, n_refs;
            struct jref *refs;
        } var;
        struct jmethods m;
        const struct jnative *native; /* NULL: unknown, an error when it runs */
        uint8_t *ops;
        struct {
            struct jblock body, other, *bodies; /* bodies: one for each test of an S_IF */
            struct jnode **defaults;            /* NULL where a parameter has none */
            struct jscope *scope;
        } s;
    };
};

/* A function is the template itself, a macro or a call block: it has the frame its scopes' slots
 * lie in. */
struct jfunction {
    struct jfunction *parent;
    int n_slots;
};
struct jscope {
    struct jscope *parent;
    struct jfunction *fn;
    struct jvar {
        int id, slot;
    } * vars;
    int n, cap;
};

struct jinja {
    struct arena mem; /* owns all below */
    struct str source;
    struct jblock body;
    struct jfunction root;
    struct str *names; /* variables by id */
    int n_names, cap_names;
    struct str *words; /* every name and string literal, for jinja_mentions */
    size_t n_words, cap_words;
};

/* ------------------------------------------------------------------ compiling */

enum jtoken {
    T_EOF = 256,
    T_DATA,
    T_VAR_BEGIN,
    T_VAR_END,
    T_BLOCK_BEGIN,
    T_BLOCK_END,
    T_NAME,
    T_STRING,
    T_INT,
    T_FLOAT,
    T_FLOORDIV,
    T_POW,
    T_EQ,
    T_NE,
    T_LE,
    T_GE /* other operators: their character */
};
struct jtok {
    int type, line;
    struct str s;
    union {
        int64_t i;
        double f;
    };
};

struct jcompile {
    struct jinja *t;
    struct jtok *toks; /* owned (malloc), freed by jinja_compile */
    size_t n_toks, cap_toks, at;
    int depth, loops; /* nesting of the source; loops around this place in this function */
    struct jscope *scope;
    struct name_use { /* E_NAME nodes with the scope they stand in, resolved at the end */
        struct jnode *node;
        struct jscope *scope;
    } * uses; /* owned (malloc) */
    size_t n_uses, cap_uses;
    struct sl_error *e;
    int code;
    jmp_buf fail;
};

_Noreturn void jc_fail(struct jcompile *c, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void *jc_alloc(struct jcompile *c, size_t n, size_t size);
void jc_lex(struct jcompile *c);

static inline const struct jtok *jc_tok(const struct jcompile *c) { return &c->toks[c->at]; }
static inline bool jc_is(const struct jcompile *c, int type) { return jc_tok(c)->type == type; }
bool jc_is_name(const struct jcompile *c, const char *word);
bool jc_skip(struct jcompile *c, int type);
bool jc_skip_name(struct jcompile *c, const char *word);
const struct jtok *jc_expect(struct jcompile *c, int type);
void jc_enter(struct jcompile *c); /* one level of source nesting; fails past the limit */
struct jnode *jc_node(struct jcompile *c, enum jnode_kind kind);
struct jnode *jc_name_node(struct jcompile *c, struct str name);
void jc_store(struct jcompile *c, struct str name); /* this scope writes the name */
struct jnode **jc_push(struct jcompile *c, struct jnode ***list, int *n, struct jnode *node);

enum jtuple { TUPLE_PLAIN, TUPLE_NO_COND, TUPLE_PARENTHESES };
struct jnode *jc_expression(struct jcompile *c);
struct jnode *jc_tuple(struct jcompile *c, enum jtuple how);
struct jnode *jc_primary(struct jcompile *c);
struct jnode *jc_postfix(struct jcompile *c, struct jnode *node);
struct jnode *jc_filters(struct jcompile *c, struct jnode *input, bool at_name);

/* ------------------------------------------------------------------ rendering */

struct jframe {
    struct jframe *closure;
    struct jval *slots;
};

struct jchunk;
enum { JINJA_NEST_MAX = 1000 }; /* levels of the tree walk on the C stack, about 0.5 KiB each */
struct jrender {
    const struct jinja *t;
    struct buf *out;       /* also the scratch of every text being built: see jr_capture */
    struct jchunk *chunks; /* owned */
    char *at, *end;        /* free part of the newest chunk */
    size_t memory, memory_max;
    uint64_t steps, steps_max, clock_at;
    int64_t deadline_us;
    int time_ms;
    int depth, depth_max; /* calls of macros and recursive loops */
    int nest;             /* C recursion of the tree walk */
    struct jframe *frame;
    struct jval *globals; /* by name id; K_UNSET: none */
    const struct tm *now;
    struct jval piped; /* the text a block filter starts from */
    int line;
    struct sl_error *e;
    int code;
    jmp_buf fail;
};

void jr_pool_free(struct jrender *r);

/* As jinja_render, with globals made by `build` (which may use every function below). */
int jinja_render_with(const struct jinja *t, void (*build)(struct jrender *r, void *arg), void *arg,
                      const struct tm *now, const struct jinja_budget *budget, struct buf *out,
                      struct sl_error *e);
/* Does the template read this variable? Defining others is allowed and does nothing. */
bool jr_wants(const struct jrender *r, struct str name);
void jr_define(struct jrender *r, struct str name, struct jval v);

/* jinja_value.c: failure, budget, memory, containers */
_Noreturn void jr_fail(struct jrender *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
_Noreturn void jr_fail_undef(struct jrender *r, struct jval undef);
_Noreturn void jr_spent(struct jrender *r, int code, const char *what);
void jr_check(struct jrender *r); /* the slow part of jr_tick */
static inline void jr_tick(struct jrender *r, size_t work)
{
    r->steps += work;
    if (r->steps >= r->clock_at) jr_check(r);
}
void *jr_alloc(struct jrender *r, size_t n, size_t size); /* zeroed, aligned to 8 */
char *jr_bytes(struct jrender *r, size_t n);              /* neither */
struct jval jr_concat(struct jrender *r, struct str a, struct str b);
/* What was put to r->out since mark, taken out of it again, as a string of the pool. */
struct jval jr_capture(struct jrender *r, size_t mark);
struct jval jr_textf(struct jrender *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

struct jval jv_list(struct jrender *r, size_t cap); /* K_LIST, empty, room for cap */
struct jval jv_seq(struct jrender *r, enum jkind kind, uint8_t sub, size_t cap);
void jv_append(struct jrender *r, struct jval list, struct jval v);
struct jval jv_pair(struct jrender *r, struct jval a, struct jval b); /* tuple of two */
struct jval jv_dict(struct jrender *r, size_t cap);
struct jval *jv_dict_find(struct jrender *r, const struct jdict *d, struct jval key); /* or NULL */
void jv_dict_set(struct jrender *r, struct jdict *d, struct jval key, struct jval v);
bool jv_dict_remove(struct jrender *r, struct jdict *d, struct jval key);
struct jval jv_from_json(struct jrender *r, const json_node *v);
struct jval jv_dict_list(struct jrender *r, const struct jdict *d, enum jiter what);

bool jv_truth(struct jval v);
bool jv_equal(struct jrender *r, struct jval a, struct jval b);
int jv_compare(struct jrender *r, struct jval a, struct jval b,
               const char *op); /* fails if unordered */
bool jv_contains(struct jrender *r, struct jval container, struct jval item);
/* The items, as a loop sees them: list, keys, code points. Consumes a generator. */
struct jlist *jv_items(struct jrender *r, struct jval v);
int64_t jv_length(struct jrender *r, struct jval v);
const char *jv_type_name(struct jval v); /* Python's: str, NoneType, dict */
struct jval jv_callable(struct jrender *r, const struct jnative *native, struct jval self);

/* jinja_text.c: Unicode text, str(), repr(), JSON */
bool jv_is_space(int32_t cp);
size_t jv_codepoints(struct str s);
size_t jv_offset(struct str s, size_t index); /* byte offset of a code point; s.n past the end */
struct str jv_strip(struct str s, const struct str *set, bool left,
                    bool right);                    /* set NULL: space */
void jr_put(struct jrender *r, struct jval v);      /* as str() */
void jr_put_repr(struct jrender *r, struct jval v); /* as repr() */
struct jval jr_str(struct jrender *r, struct jval v);
struct jjson {
    bool ascii, sort_keys, lines; /* lines: break and indent */
    struct str indent, comma, colon;
};
void jr_put_json(struct jrender *r, struct jval v, const struct jjson *how, int level);

/* jinja_eval.c, jinja_exec.c */
struct jval jr_eval(struct jrender *r, const struct jnode *n);
struct jval jr_call(struct jrender *r, struct jval fn, const struct jargs *a);
struct jval jr_call_macro(struct jrender *r, const struct jfunc *f, const struct jargs *a);
struct jval jr_call_loop(struct jrender *r, struct jloop *outer, struct jval items);
void jr_assign(struct jrender *r, const struct jnode *target, struct jval v);
struct jval jr_call_node(struct jrender *r, const struct jnode *n, const struct jkw *caller);
struct jval jv_attr(struct jrender *r, struct jval v, struct str name, const struct jmethods *m);
struct jval jv_item(struct jrender *r, struct jval v, struct jval key);
struct jval jv_slice(struct jrender *r, struct jval v, const struct jval bounds[3]);
/* Python's printf formatting; args: a tuple's items, or one value. */
struct jval jv_percent(struct jrender *r, struct str format, struct jval args);
struct jval jv_binary(struct jrender *r, enum jop op, struct jval a, struct jval b);

/* The i-th positional argument, or the one of that name, or the default. */
struct jval jr_arg(const struct jargs *a, int i, const char *name, struct jval otherwise);
struct str jr_arg_str(struct jrender *r, const struct jargs *a, int i, const char *name,
                      const char *otherwise);
int64_t jr_arg_int(struct jrender *r, const struct jargs *a, int i, const char *name,
                   int64_t otherwise);
bool jr_arg_bool(const struct jargs *a, int i, const char *name, bool otherwise);

/* jinja_methods.c, jinja_format.c: what filters and methods share */
enum jcase { CASE_LOWER, CASE_UPPER, CASE_CAPITALIZE, CASE_TITLE, CASE_TITLE_FILTER, CASE_SWAP };
struct jval jv_case(struct jrender *r, struct str s, enum jcase how);
struct jval jv_escape(struct jrender *r, struct jval v); /* HTML; markup already stays as it is */
struct jval jv_replace(struct jrender *r, struct str s, struct str from, struct str to,
                       int64_t max);
struct jval jv_pad(struct jrender *r, struct str s, int64_t width, struct str fill, int align);
struct jlist *jv_lines(struct jrender *r, struct str s, bool keep_ends);
struct jval jv_brace_format(struct jrender *r, struct str format, const struct jargs *a);

/* Tables; NULL when there is no such name. */
const struct jnative *jinja_filter(struct str name);
const struct jnative *jinja_filter_text(struct str name);
const struct jnative *jinja_filter_seq(struct str name);
const struct jnative *jinja_test(struct str name);
const struct jnative *jinja_function(struct str name);
const struct jnative *jinja_str_method(struct str name);
struct jmethods jinja_methods(struct str name);
const struct jnative *jinja_object_method(struct jval v, struct str name); /* loop, cycler */
const struct jnative *jnative_find(const struct jnative *table, struct str name);

#endif
