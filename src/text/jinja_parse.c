/* jinja_parse.c - statements, scopes, and jinja_compile.
 *
 * Names are resolved here, once. A scope (loop body, macro, with, block set, ...) lists the names
 * written in it, each with a slot in the frame of its function. A use of a name gets every
 * enclosing scope that writes it, innermost first; at run time the first slot that is set wins, and
 * the request's globals come last. That is jinja2's rule: a `set` in a loop does not leak, and a
 * read before it sees the outer value.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/utf8.h"
#include "text/jinja_impl.h"

enum {
    SOURCE_MAX = 1 << 20,
    NESTING_MAX = 100,
    TREE_BYTES_MAX = 64 << 20,
    NAMES_MAX = 1024, /* different variables of one template */
};

static struct jblock block(struct jcompile *c, const char *const *ends);

/* ------------------------------------------------------------------ helpers of both parsers */

_Noreturn void jc_fail(struct jcompile *c, int line, const char *fmt, ...)
{
    char text[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    c->code = sl_fail(c->e, SL_EFORMAT, "chat template, line %d: %s", line, text);
    longjmp(c->fail, 1);
}

void *jc_alloc(struct jcompile *c, size_t n, size_t size)
{
    void *p = arena_array(&c->t->mem, n, size);
    if (!p) jc_fail(c, c->n_toks ? jc_tok(c)->line : 1, "the template is too large");
    return p;
}

bool jc_is_name(const struct jcompile *c, const char *word)
{
    return jc_is(c, T_NAME) && str_is(jc_tok(c)->s, word);
}

bool jc_skip(struct jcompile *c, int type)
{
    if (!jc_is(c, type)) return false;
    c->at++;
    return true;
}

bool jc_skip_name(struct jcompile *c, const char *word)
{
    if (!jc_is_name(c, word)) return false;
    c->at++;
    return true;
}

const struct jtok *jc_expect(struct jcompile *c, int type)
{
    const struct jtok *t = jc_tok(c);
    if (t->type != type) {
        int n = (int)(t->s.n < 20 ? t->s.n : 20);
        if (type < 256) jc_fail(c, t->line, "expected '%c' before '%.*s'", type, n, t->s.p);
        jc_fail(c, t->line, "unexpected '%.*s'", n, t->s.p);
    }
    c->at++;
    return t;
}

void jc_enter(struct jcompile *c)
{
    /* An expression passes jc_expression, unary and primary on each level of its own nesting. */
    if (++c->depth > 3 * NESTING_MAX) jc_fail(c, jc_tok(c)->line, "nested too deep");
}

struct jnode *jc_node(struct jcompile *c, enum jnode_kind kind)
{
    struct jnode *n = jc_alloc(c, 1, sizeof *n);
    n->kind = (uint8_t)kind;
    n->line = jc_tok(c)->line;
    return n;
}

/* ------------------------------------------------------------------ names and scopes */

static int name_id(struct jcompile *c, struct str name)
{
    struct jinja *t = c->t;
    for (int i = 0; i < t->n_names; i++)
        if (str_eq(t->names[i], name)) return i;
    if (t->n_names == NAMES_MAX) jc_fail(c, jc_tok(c)->line, "too many variables");
    if (t->n_names == t->cap_names) {
        t->cap_names = t->cap_names ? t->cap_names * 2 : 32;
        t->names = xrealloc(t->names, (size_t)t->cap_names * sizeof *t->names);
    }
    t->names[t->n_names] = name;
    return t->n_names++;
}

struct jnode *jc_name_node(struct jcompile *c, struct str name)
{
    struct jnode *n = jc_node(c, E_NAME);
    n->name = name;
    n->var.id = name_id(c, name);
    if (c->n_uses == c->cap_uses) {
        c->cap_uses = c->cap_uses ? c->cap_uses * 2 : 128;
        c->uses = xrealloc(c->uses, c->cap_uses * sizeof *c->uses);
    }
    c->uses[c->n_uses++] = (struct name_use){n, c->scope};
    return n;
}

static const struct jvar *scope_find(const struct jscope *s, int id)
{
    for (int i = 0; i < s->n; i++)
        if (s->vars[i].id == id) return &s->vars[i];
    return NULL;
}

void jc_store(struct jcompile *c, struct str name)
{
    struct jscope *s = c->scope;
    int id = name_id(c, name);
    if (scope_find(s, id)) return;
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 4;
        struct jvar *grown = jc_alloc(c, (size_t)s->cap, sizeof *grown);
        if (s->n) memcpy(grown, s->vars, (size_t)s->n * sizeof *grown);
        s->vars = grown;
    }
    s->vars[s->n++] = (struct jvar){id, s->fn->n_slots++};
}

static struct jscope *scope_push(struct jcompile *c, bool function)
{
    struct jscope *s = jc_alloc(c, 1, sizeof *s);
    s->parent = c->scope;
    s->fn = c->scope->fn;
    if (function) {
        s->fn = jc_alloc(c, 1, sizeof *s->fn);
        s->fn->parent = c->scope->fn;
    }
    c->scope = s;
    return s;
}

static void scope_pop(struct jcompile *c) { c->scope = c->scope->parent; }

static void resolve(struct jcompile *c, const struct name_use *use)
{
    struct jref found[NESTING_MAX];
    int n = 0, hops = 0;
    for (const struct jscope *s = use->scope; s; s = s->parent) {
        const struct jvar *v = scope_find(s, use->node->var.id);
        if (v && n < NESTING_MAX) found[n++] = (struct jref){hops, v->slot};
        hops += s->parent && s->parent->fn != s->fn;
    }
    use->node->var.n_refs = n;
    use->node->var.refs = jc_alloc(c, (size_t)n + 1, sizeof *found);
    memcpy(use->node->var.refs, found, (size_t)n * sizeof *found);
}

/* ------------------------------------------------------------------ statements */

static void end_tag(struct jcompile *c) { jc_expect(c, T_BLOCK_END); }

/* The body up to one of `ends`, which stays the current token. */
static struct jblock scoped_block(struct jcompile *c, struct jscope **scope,
                                  const char *const *ends)
{
    *scope = scope_push(c, false);
    struct jblock b = block(c, ends);
    scope_pop(c);
    return b;
}

static struct jnode *target_name(struct jcompile *c)
{
    struct str name = jc_expect(c, T_NAME)->s;
    jc_store(c, name);
    return jc_name_node(c, name);
}

/* a, or a, b, (c, d), or ns.a: where a value goes. */
static struct jnode *target(struct jcompile *c, bool attributes)
{
    struct jnode *list = NULL, *one;
    jc_enter(c);
    for (;;) {
        if (jc_skip(c, '(')) {
            one = target(c, false);
            jc_expect(c, ')');
        } else if (attributes && c->toks[c->at].type == T_NAME && c->toks[c->at + 1].type == '.') {
            one = jc_node(c, E_ATTR);
            one->a = jc_name_node(c, jc_expect(c, T_NAME)->s);
            c->at++;
            one->name = jc_expect(c, T_NAME)->s;
        } else {
            one = target_name(c);
        }
        if (list || jc_is(c, ',')) {
            if (!list) list = jc_node(c, E_TUPLE);
            jc_push(c, &list->list, &list->n, one);
        }
        if (!jc_skip(c, ',') || jc_is_name(c, "in") || jc_is(c, '=') || jc_is(c, ')')) break;
    }
    c->depth--;
    return list ? list : one;
}

static struct jnode *for_statement(struct jcompile *c)
{
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    struct jnode *n = jc_node(c, S_FOR);
    struct jscope *outer = c->scope, *unused;
    n->s.scope = scope_push(c, false);
    n->a = target(c, false);
    jc_store(c, STR("loop"));
    n->n = scope_find(c->scope, name_id(c, STR("loop")))->slot;
    if (!jc_skip_name(c, "in")) jc_fail(c, jc_tok(c)->line, "expected 'in'");
    c->scope = outer;
    n->b = jc_tuple(c, TUPLE_NO_COND);
    c->scope = n->s.scope;
    if (jc_skip_name(c, "if")) n->c = jc_expression(c);
    n->flag = jc_skip_name(c, "recursive");
    end_tag(c);
    c->loops++;
    n->s.body = block(c, ends);
    c->loops--;
    scope_pop(c);
    if (jc_skip_name(c, "else")) {
        end_tag(c);
        n->s.other = scoped_block(c, &unused, last);
    }
    c->at++;
    return n;
}

static struct jnode *if_statement(struct jcompile *c)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif",
                                                                                        NULL};
    struct jnode *n = jc_node(c, S_IF);
    int cap = 0;
    do {
        jc_push(c, &n->list, &n->n, jc_tuple(c, TUPLE_NO_COND));
        end_tag(c);
        if (n->n > cap) {
            cap = cap ? cap * 2 : 2;
            struct jblock *grown = jc_alloc(c, (size_t)cap, sizeof *grown);
            if (n->n > 1) memcpy(grown, n->s.bodies, (size_t)(n->n - 1) * sizeof *grown);
            n->s.bodies = grown;
        }
        n->s.bodies[n->n - 1] = block(c, ends);
    } while (jc_skip_name(c, "elif"));
    if (jc_skip_name(c, "else")) {
        end_tag(c);
        n->s.other = block(c, last);
    }
    c->at++;
    return n;
}

static struct jnode *set_statement(struct jcompile *c)
{
    static const char *const ends[] = {"endset", NULL};
    struct jnode *n = jc_node(c, S_SET);
    n->a = target(c, true);
    if (jc_skip(c, '=')) {
        n->b = jc_tuple(c, TUPLE_PLAIN);
        return n;
    }
    n->kind = S_CAPTURE;
    n->b = jc_filters(c, NULL, false);
    end_tag(c);
    n->s.body = scoped_block(c, &n->s.scope, ends);
    c->at++;
    return n;
}

/* "(a, b=1)" of a macro or a call block, in the scope of its body. */
static void parameters(struct jcompile *c, struct jnode *n)
{
    int n_defaults = 0;
    jc_expect(c, '(');
    while (!jc_is(c, ')')) {
        jc_push(c, &n->list, &n->n, target_name(c));
        struct jnode *otherwise = jc_skip(c, '=') ? jc_expression(c) : NULL;
        if (!otherwise && n_defaults && n->s.defaults[n_defaults - 1])
            jc_fail(c, jc_tok(c)->line, "parameter without a default after one with");
        jc_push(c, &n->s.defaults, &n_defaults, otherwise);
        if (n->n > 64) jc_fail(c, jc_tok(c)->line, "too many parameters");
        if (!jc_skip(c, ',')) break;
    }
    jc_expect(c, ')');
}

/* The head of a macro: opens its scope with parameters and implicit names. */
static struct jnode *macro_head(struct jcompile *c, struct str name)
{
    struct jnode *n = jc_node(c, S_MACRO);
    n->name = name;
    n->n_kw = (int)c->n_uses; /* until macro_body has looked at the names used from here on */
    n->s.scope = scope_push(c, true);
    if (jc_is(c, '(')) parameters(c, n);
    jc_store(c, STR("caller"));
    jc_store(c, STR("varargs"));
    jc_store(c, STR("kwargs"));
    return n;
}

static void macro_body(struct jcompile *c, struct jnode *n, const char *const *ends)
{
    int loops = c->loops;
    c->loops = 0;
    end_tag(c);
    n->s.body = block(c, ends);
    scope_pop(c);
    c->loops = loops;
    c->at++;
    for (size_t i = (size_t)n->n_kw; i < c->n_uses; i++)
        n->flag = n->flag || str_is(c->uses[i].node->name, "varargs");
    n->n_kw = 0;
}

static struct jnode *macro_statement(struct jcompile *c)
{
    static const char *const ends[] = {"endmacro", NULL};
    struct str name = jc_expect(c, T_NAME)->s;
    jc_store(c, name);
    struct jnode *self = jc_name_node(c, name);
    struct jnode *n = macro_head(c, name);
    n->a = self;
    macro_body(c, n, ends);
    return n;
}

static struct jnode *call_statement(struct jcompile *c)
{
    static const char *const ends[] = {"endcall", NULL};
    struct jnode *n = jc_node(c, S_CALL);
    n->b = macro_head(c, STR("caller"));
    c->scope = n->b->s.scope->parent; /* the call itself stands outside of its block */
    n->a = jc_expression(c);
    if (n->a->kind != E_CALL) jc_fail(c, n->line, "expected a call");
    c->scope = n->b->s.scope;
    macro_body(c, n->b, ends);
    return n;
}

static struct jnode *with_statement(struct jcompile *c)
{
    static const char *const ends[] = {"endwith", NULL};
    struct jnode *n = jc_node(c, S_WITH);
    struct jscope *outer = c->scope;
    int n_values = 0;
    n->s.scope = scope_push(c, false);
    while (!jc_is(c, T_BLOCK_END)) {
        jc_push(c, &n->list, &n->n, target(c, false));
        jc_expect(c, '=');
        c->scope = outer;
        jc_push(c, &n->s.defaults, &n_values, jc_expression(c));
        c->scope = n->s.scope;
        if (!jc_skip(c, ',')) break;
    }
    end_tag(c);
    n->s.body = block(c, ends);
    scope_pop(c);
    c->at++;
    return n;
}

static struct jnode *filter_statement(struct jcompile *c)
{
    static const char *const ends[] = {"endfilter", NULL};
    struct jnode *n = jc_node(c, S_FILTER);
    n->b = jc_filters(c, NULL, true);
    end_tag(c);
    n->s.body = scoped_block(c, &n->s.scope, ends);
    c->at++;
    return n;
}

static struct jnode *scope_statement(struct jcompile *c, const char *end)
{
    const char *const ends[] = {end, NULL};
    struct jnode *n = jc_node(c, S_SCOPE);
    if (!jc_is(c, T_BLOCK_END)) jc_expression(c); /* autoescape's switch: output is never escaped */
    end_tag(c);
    n->s.body = scoped_block(c, &n->s.scope, ends);
    c->at++;
    return n;
}

static struct jnode *jump_statement(struct jcompile *c, enum jnode_kind kind)
{
    struct jnode *n = jc_node(c, kind);
    if (!c->loops) jc_fail(c, n->line, "break or continue outside of a loop");
    return n;
}

static struct jnode *statement(struct jcompile *c)
{
    const struct jtok *t = jc_expect(c, T_NAME);
    if (str_is(t->s, "if")) return if_statement(c);
    if (str_is(t->s, "for")) return for_statement(c);
    if (str_is(t->s, "set")) return set_statement(c);
    if (str_is(t->s, "macro")) return macro_statement(c);
    if (str_is(t->s, "call")) return call_statement(c);
    if (str_is(t->s, "with")) return with_statement(c);
    if (str_is(t->s, "filter")) return filter_statement(c);
    if (str_is(t->s, "generation")) return scope_statement(c, "endgeneration");
    if (str_is(t->s, "autoescape")) return scope_statement(c, "endautoescape");
    if (str_is(t->s, "break")) return jump_statement(c, S_BREAK);
    if (str_is(t->s, "continue")) return jump_statement(c, S_CONTINUE);
    int n = (int)(t->s.n < 40 ? t->s.n : 40);
    jc_fail(c, t->line, "unknown or misplaced tag '%.*s'", n, t->s.p);
}

static bool at_end(const struct jcompile *c, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (jc_is_name(c, *ends)) return true;
    return false;
}

static struct jnode *text_node(struct jcompile *c, struct str s)
{
    struct jnode *n = jc_node(c, S_TEXT);
    n->val = jv_text(s);
    return n;
}

/* Statements up to an end tag (read up to its name) or, with ends NULL, the end of the source. */
static struct jblock block(struct jcompile *c, const char *const *ends)
{
    struct jblock b = {0};
    c->depth += 2; /* a block weighs as much as a bracket: see jc_enter */
    jc_enter(c);
    for (;;) {
        const struct jtok *t = jc_tok(c);
        struct jnode *n;
        c->at++;
        if (t->type == T_DATA) {
            n = text_node(c, t->s);
        } else if (t->type == T_VAR_BEGIN) {
            n = jc_node(c, S_OUTPUT);
            n->a = jc_tuple(c, TUPLE_PLAIN);
            jc_expect(c, T_VAR_END);
        } else if (t->type == T_BLOCK_BEGIN) {
            if (at_end(c, ends)) break;
            n = statement(c);
            end_tag(c);
        } else {
            if (ends) jc_fail(c, t->line, "unexpected end of the template, missing '%s'", *ends);
            c->at--;
            break;
        }
        jc_push(c, &b.v, &b.n, n);
    }
    c->depth -= 3;
    return b;
}

/* ------------------------------------------------------------------ the template */

static void keep_words(struct jcompile *c)
{
    struct jinja *t = c->t;
    for (size_t i = 0; i < c->n_toks; i++) {
        if (c->toks[i].type != T_NAME && c->toks[i].type != T_STRING) continue;
        if (t->n_words == t->cap_words) {
            t->cap_words = t->cap_words ? t->cap_words * 2 : 64;
            t->words = xrealloc(t->words, t->cap_words * sizeof *t->words);
        }
        t->words[t->n_words++] = c->toks[i].s;
    }
}

static int compile(struct jcompile *c)
{
    if (setjmp(c->fail)) return c->code;
    struct str s = c->t->source;
    if (s.n > SOURCE_MAX) jc_fail(c, 1, "more than %d bytes", SOURCE_MAX);
    if (!utf8_valid(s.p, s.n)) jc_fail(c, 1, "invalid UTF-8");
    jc_lex(c);
    keep_words(c);
    c->scope = jc_alloc(c, 1, sizeof *c->scope);
    c->scope->fn = &c->t->root;
    c->t->body = block(c, NULL);
    for (size_t i = 0; i < c->n_uses; i++) resolve(c, &c->uses[i]);
    return 0;
}

int jinja_compile(struct jinja **out, struct str source, struct sl_error *e)
{
    struct jinja *t = xcalloc(1, sizeof *t);
    t->mem = arena_make(TREE_BYTES_MAX);
    t->source = source;
    struct jcompile c = {.t = t, .e = e};
    int code = compile(&c);
    free(c.toks);
    free(c.uses);
    if (code < 0) {
        jinja_free(t);
        t = NULL;
    }
    *out = t;
    return code;
}

void jinja_free(struct jinja *t)
{
    if (!t) return;
    arena_free(&t->mem);
    free(t->names);
    free(t->words);
    free(t);
}

bool jinja_mentions(const struct jinja *t, const char *word)
{
    for (size_t i = 0; i < t->n_words; i++)
        if (str_is(t->words[i], word)) return true;
    return false;
}
