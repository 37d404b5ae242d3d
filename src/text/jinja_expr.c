/* jinja_expr.c - the expression parser: precedence climbs as in jinja2's own grammar.
 *
 *   cond > or > and > not > compare > + - > ~ > * / // % > ** > unary > primary, postfix, filters,
 * tests Every way to nest passes jc_enter, so the C stack is bounded by the limit on source
 * nesting.
 */
#include "text/jinja_impl.h"

static struct jnode *or_expr(struct jcompile *c);
static struct jnode *unary(struct jcompile *c, bool with_filters);

struct jnode **jc_push(struct jcompile *c, struct jnode ***list, int *n, struct jnode *node)
{
    bool full = *n == 0 || (*n >= 4 && (*n & (*n - 1)) == 0);
    if (full) {
        struct jnode **grown = jc_alloc(c, *n ? (size_t)*n * 2 : 4, sizeof *grown);
        if (*n) memcpy(grown, *list, (size_t)*n * sizeof *grown);
        *list = grown;
    }
    (*list)[*n] = node;
    return &(*list)[(*n)++];
}

static struct jnode *constant(struct jcompile *c, struct jval v)
{
    struct jnode *n = jc_node(c, E_CONST);
    n->val = v;
    return n;
}

static struct jnode *binary(struct jcompile *c, enum jnode_kind kind, int op, struct jnode *a,
                            struct jnode *b)
{
    struct jnode *n = jc_node(c, kind);
    n->op = (uint8_t)op;
    n->a = a;
    n->b = b;
    return n;
}

/* ------------------------------------------------------------------ calls, subscripts, filters */

static void push_kw(struct jcompile *c, struct jnode *call, struct str name, struct jnode *v)
{
    struct str *grown = jc_alloc(c, (size_t)call->n_kw + 1, sizeof *grown);
    if (call->n_kw) memcpy(grown, call->kw, (size_t)call->n_kw * sizeof *grown);
    grown[call->n_kw++] = name;
    call->kw = grown;
    jc_push(c, &call->list, &call->n, v);
}

/* "(" positional, name=value, *list, **dict ")" into a call, filter or test. */
static void arguments(struct jcompile *c, struct jnode *call)
{
    jc_expect(c, '(');
    while (!jc_is(c, ')')) {
        if (jc_skip(c, T_POW)) {
            call->c = jc_expression(c);
        } else if (jc_skip(c, '*')) {
            call->b = jc_expression(c);
        } else if (jc_is(c, T_NAME) && c->toks[c->at + 1].type == '=') {
            struct str name = jc_tok(c)->s;
            if (call->n_kw == 64) jc_fail(c, jc_tok(c)->line, "too many keyword arguments");
            c->at += 2;
            push_kw(c, call, name, jc_expression(c));
        } else {
            if (call->n_kw) jc_fail(c, jc_tok(c)->line, "positional argument after a keyword one");
            jc_push(c, &call->list, &call->n, jc_expression(c));
        }
        if (!jc_skip(c, ',')) break;
    }
    jc_expect(c, ')');
}

static struct jnode *subscript(struct jcompile *c, struct jnode *a)
{
    struct jnode *part[3] = {0};
    bool slice = false;
    for (int i = 0; i < 3; i++) {
        if (!jc_is(c, ':') && !jc_is(c, ']') && !jc_is(c, ',')) part[i] = jc_expression(c);
        if (i == 2 || !jc_skip(c, ':')) break;
        slice = true;
    }
    struct jnode *n = jc_node(c, slice ? E_SLICE : E_ITEM);
    n->a = a;
    if (slice) {
        for (int i = 0; i < 3; i++) jc_push(c, &n->list, &n->n, part[i]);
    } else {
        if (!part[0]) jc_fail(c, jc_tok(c)->line, "expected a subscript");
        n->b = part[0];
        if (jc_is(c, ',')) {
            n->b = jc_node(c, E_TUPLE);
            jc_push(c, &n->b->list, &n->b->n, part[0]);
            while (jc_skip(c, ',') && !jc_is(c, ']'))
                jc_push(c, &n->b->list, &n->b->n, jc_expression(c));
        }
    }
    jc_expect(c, ']');
    return n;
}

static struct jnode *attribute(struct jcompile *c, struct jnode *a)
{
    const struct jtok *t = jc_tok(c);
    struct jnode *n;
    if (t->type == T_INT) {
        n = binary(c, E_ITEM, 0, a, constant(c, jv_int(t->i)));
    } else {
        if (t->type != T_NAME) jc_fail(c, t->line, "expected a name or number after '.'");
        n = jc_node(c, E_ATTR);
        n->a = a;
        n->name = t->s;
        n->m = jinja_methods(t->s);
    }
    c->at++;
    return n;
}

static struct jnode *call(struct jcompile *c, struct jnode *callee)
{
    struct jnode *n = jc_node(c, E_CALL);
    n->a = callee;
    arguments(c, n);
    return n;
}

struct jnode *jc_postfix(struct jcompile *c, struct jnode *n)
{
    for (;;) {
        if (jc_skip(c, '.'))
            n = attribute(c, n);
        else if (jc_skip(c, '['))
            n = subscript(c, n);
        else if (jc_is(c, '('))
            n = call(c, n);
        else
            return n;
    }
}

static struct str dotted_name(struct jcompile *c)
{
    struct str s = jc_expect(c, T_NAME)->s;
    while (jc_skip(c, '.')) {
        struct str more = jc_expect(c, T_NAME)->s;
        s.n = (size_t)(more.p + more.n - s.p);
    }
    return s;
}

/* "|name(args)|name2...". at_name: the first '|' has been read, as in {% filter name %}. */
struct jnode *jc_filters(struct jcompile *c, struct jnode *input, bool at_name)
{
    while (at_name || jc_skip(c, '|')) {
        struct jnode *n = jc_node(c, E_FILTER);
        at_name = false;
        n->a = input;
        n->name = dotted_name(c);
        n->native = jinja_filter(n->name);
        if (jc_is(c, '(')) arguments(c, n);
        input = n;
    }
    return input;
}

/* After "is": [not] name [argument]. */
static struct jnode *test(struct jcompile *c, struct jnode *input)
{
    bool negate = jc_skip_name(c, "not");
    struct jnode *n = jc_node(c, E_TEST);
    n->a = input;
    n->name = dotted_name(c);
    n->native = jinja_test(n->name);
    int t = jc_tok(c)->type;
    bool word = t == T_NAME && !jc_is_name(c, "else") && !jc_is_name(c, "or") &&
                !jc_is_name(c, "and") && !jc_is_name(c, "if") && !jc_is_name(c, "is") &&
                !jc_is_name(c, "in") && !jc_is_name(c, "not");
    if (t == '(')
        arguments(c, n);
    else if (word || t == T_STRING || t == T_INT || t == T_FLOAT || t == '[' || t == '{')
        jc_push(c, &n->list, &n->n, jc_postfix(c, jc_primary(c)));
    return negate ? binary(c, E_NOT, 0, n, NULL) : n;
}

static struct jnode *filters_and_tests(struct jcompile *c, struct jnode *n)
{
    for (;;) {
        if (jc_is(c, '|'))
            n = jc_filters(c, n, false);
        else if (jc_skip_name(c, "is"))
            n = test(c, n);
        else if (jc_is(c, '('))
            n = call(c, n);
        else
            return n;
    }
}

/* ------------------------------------------------------------------ primaries */

static struct jnode *strings(struct jcompile *c)
{
    struct str s = jc_tok(c)->s;
    c->at++;
    size_t n = s.n, from = c->at;
    for (; jc_is(c, T_STRING); c->at++) n += jc_tok(c)->s.n;
    if (c->at != from) {
        char *joined = jc_alloc(c, n + 1, 1), *o = joined;
        for (size_t i = from - 1; i < c->at; i++) {
            memcpy(o, c->toks[i].s.p, c->toks[i].s.n);
            o += c->toks[i].s.n;
        }
        s = (struct str){joined, n};
    }
    return constant(c, jv_text(s));
}

static struct jnode *word(struct jcompile *c)
{
    struct str s = jc_tok(c)->s;
    c->at++;
    if (str_is(s, "true") || str_is(s, "True")) return constant(c, jv_bool(true));
    if (str_is(s, "false") || str_is(s, "False")) return constant(c, jv_bool(false));
    if (str_is(s, "none") || str_is(s, "None")) return constant(c, jv_none());
    return jc_name_node(c, s);
}

static struct jnode *bracketed(struct jcompile *c, enum jnode_kind kind, int close)
{
    struct jnode *n = jc_node(c, kind);
    c->at++;
    while (!jc_is(c, close)) {
        jc_push(c, &n->list, &n->n, jc_expression(c));
        if (kind == E_DICT) {
            jc_expect(c, ':');
            jc_push(c, &n->list, &n->n, jc_expression(c));
        }
        if (!jc_skip(c, ',')) break;
    }
    jc_expect(c, close);
    return n;
}

struct jnode *jc_primary(struct jcompile *c)
{
    const struct jtok *t = jc_tok(c);
    struct jnode *n;
    jc_enter(c);
    switch (t->type) {
    case T_NAME: n = word(c); break;
    case T_STRING: n = strings(c); break;
    case T_INT:
        n = constant(c, jv_int(t->i));
        c->at++;
        break;
    case T_FLOAT:
        n = constant(c, jv_float(t->f));
        c->at++;
        break;
    case '(':
        c->at++;
        n = jc_tuple(c, TUPLE_PARENTHESES);
        jc_expect(c, ')');
        break;
    case '[': n = bracketed(c, E_LIST, ']'); break;
    case '{': n = bracketed(c, E_DICT, '}'); break;
    default: jc_fail(c, t->line, "unexpected '%.*s'", (int)(t->s.n < 20 ? t->s.n : 20), t->s.p);
    }
    c->depth--;
    return n;
}

/* One expression, or several with commas as a tuple. */
struct jnode *jc_tuple(struct jcompile *c, enum jtuple how)
{
    struct jnode *list = NULL, *first = NULL;
    for (;;) {
        if (jc_is(c, T_VAR_END) || jc_is(c, T_BLOCK_END) || jc_is(c, ')')) break;
        if (how == TUPLE_NO_COND && jc_is_name(c, "recursive")) break;
        struct jnode *v = how == TUPLE_NO_COND ? or_expr(c) : jc_expression(c);
        if (!first) first = v;
        if (list || jc_is(c, ',')) {
            if (!list) list = jc_node(c, E_TUPLE);
            jc_push(c, &list->list, &list->n, v);
        }
        if (!jc_skip(c, ',')) break;
    }
    if (!first && how == TUPLE_PARENTHESES) return jc_node(c, E_TUPLE);
    if (!first) jc_fail(c, jc_tok(c)->line, "expected an expression");
    return list ? list : first;
}

/* ------------------------------------------------------------------ operators */

static struct jnode *unary(struct jcompile *c, bool with_filters)
{
    struct jnode *n;
    jc_enter(c);
    if (jc_skip(c, '-'))
        n = binary(c, E_NEG, 0, unary(c, false), NULL);
    else if (jc_skip(c, '+'))
        n = binary(c, E_POS, 0, unary(c, false), NULL);
    else
        n = jc_primary(c);
    c->depth--;
    n = jc_postfix(c, n);
    return with_filters ? filters_and_tests(c, n) : n;
}

static struct jnode *power(struct jcompile *c)
{
    struct jnode *n = unary(c, true);
    while (jc_skip(c, T_POW)) n = binary(c, E_BINARY, OP_POW, n, unary(c, true));
    return n;
}

static struct jnode *product(struct jcompile *c)
{
    struct jnode *n = power(c);
    for (;;) {
        int t = jc_tok(c)->type;
        if (t != '*' && t != '/' && t != T_FLOORDIV && t != '%') return n;
        c->at++;
        int op = t == '*' ? OP_MUL : t == '/' ? OP_DIV : t == '%' ? OP_MOD : OP_FLOORDIV;
        n = binary(c, E_BINARY, op, n, power(c));
    }
}

static struct jnode *concat(struct jcompile *c)
{
    struct jnode *n = product(c);
    if (!jc_is(c, '~')) return n;
    struct jnode *all = jc_node(c, E_CONCAT);
    jc_push(c, &all->list, &all->n, n);
    while (jc_skip(c, '~')) jc_push(c, &all->list, &all->n, product(c));
    return all;
}

static struct jnode *sum(struct jcompile *c)
{
    struct jnode *n = concat(c);
    for (;;) {
        int t = jc_tok(c)->type;
        if (t != '+' && t != '-') return n;
        c->at++;
        n = binary(c, E_BINARY, t == '+' ? OP_ADD : OP_SUB, n, concat(c));
    }
}

/* The comparison operator here, consumed, or -1. */
static int compare_op(struct jcompile *c)
{
    static const struct {
        int type, op;
    } map[] = {{T_EQ, OP_EQ}, {T_NE, OP_NE}, {'<', OP_LT},
               {T_LE, OP_LE}, {'>', OP_GT},  {T_GE, OP_GE}};
    for (size_t i = 0; i < sizeof map / sizeof *map; i++)
        if (jc_skip(c, map[i].type)) return map[i].op;
    if (jc_skip_name(c, "in")) return OP_IN;
    const struct jtok *next = &c->toks[c->at + 1];
    if (jc_is_name(c, "not") && next->type == T_NAME && str_is(next->s, "in")) {
        c->at += 2;
        return OP_NOT_IN;
    }
    return -1;
}

static struct jnode *compare(struct jcompile *c)
{
    struct jnode *n = sum(c), *all = NULL;
    for (int op; (op = compare_op(c)) >= 0;) {
        if (!all) {
            all = jc_node(c, E_COMPARE);
            all->a = n;
        }
        uint8_t *grown = jc_alloc(c, (size_t)all->n + 1, 1);
        if (all->n) memcpy(grown, all->ops, (size_t)all->n);
        grown[all->n] = (uint8_t)op;
        all->ops = grown;
        if (all->n == 64) jc_fail(c, jc_tok(c)->line, "comparison chain too long");
        jc_push(c, &all->list, &all->n, sum(c));
    }
    return all ? all : n;
}

static struct jnode *not_expr(struct jcompile *c)
{
    if (!jc_skip_name(c, "not")) return compare(c);
    jc_enter(c);
    struct jnode *n = binary(c, E_NOT, 0, not_expr(c), NULL);
    c->depth--;
    return n;
}

static struct jnode *and_expr(struct jcompile *c)
{
    struct jnode *n = not_expr(c);
    while (jc_skip_name(c, "and")) n = binary(c, E_AND, 0, n, not_expr(c));
    return n;
}

static struct jnode *or_expr(struct jcompile *c)
{
    struct jnode *n = and_expr(c);
    while (jc_skip_name(c, "or")) n = binary(c, E_OR, 0, n, and_expr(c));
    return n;
}

struct jnode *jc_expression(struct jcompile *c)
{
    jc_enter(c);
    struct jnode *n = or_expr(c);
    while (jc_skip_name(c, "if")) {
        struct jnode *cond = jc_node(c, E_COND);
        cond->a = n;
        cond->b = or_expr(c);
        if (jc_skip_name(c, "else")) cond->c = jc_expression(c);
        n = cond;
    }
    c->depth--;
    return n;
}
