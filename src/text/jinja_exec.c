/* jinja_exec.c - statements, macros, loops, and jinja_render. */
#include "text/jinja_impl.h"

const struct jinja_budget jinja_budget_default = {.steps = 2000000,
                                                  .output_bytes = 16u << 20,
                                                  .memory_bytes = 64u << 20,
                                                  .depth = 64,
                                                  .time_ms = 1000};

enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };

static enum flow run_block(struct jrender *r, const struct jblock *b);

static void scope_reset(struct jrender *r, const struct jscope *s)
{
    for (int i = 0; i < s->n; i++) r->frame->slots[s->vars[i].slot] = (struct jval){0};
}

/* ------------------------------------------------------------------ assignment */

static void unpack(struct jrender *r, const struct jnode *target, struct jval v)
{
    const struct jlist *l = jv_items(r, v);
    if ((int64_t)l->n > target->n) jr_fail(r, "too many values to unpack (expected %d)", target->n);
    if ((int64_t)l->n < target->n)
        jr_fail(r, "not enough values to unpack (expected %d, got %u)", target->n, l->n);
    for (int i = 0; i < target->n; i++) jr_assign(r, target->list[i], l->v[i]);
}

void jr_assign(struct jrender *r, const struct jnode *target, struct jval v)
{
    if (target->kind == E_NAME) {
        r->frame->slots[target->var.refs[0].slot] = v; /* its own scope comes first */
    } else if (target->kind == E_TUPLE) {
        unpack(r, target, v); /* nesting bounded by the parser */
    } else {
        struct jval ns = jr_eval(r, target->a);
        if (ns.kind != K_NAMESPACE) jr_fail(r, "cannot assign attribute on non-namespace object");
        jv_dict_set(r, ns.dict, jv_text(target->name), v);
    }
}

/* ------------------------------------------------------------------ loops */

/* The items for which the loop's own condition holds. */
static struct jlist *keep(struct jrender *r, const struct jnode *n, const struct jlist *all)
{
    struct jval kept = jv_list(r, all->n);
    for (uint32_t i = 0; i < all->n; i++) {
        scope_reset(r, n->s.scope);
        jr_assign(r, n->a, all->v[i]);
        if (jv_truth(jr_eval(r, n->c))) jv_append(r, kept, all->v[i]);
    }
    return kept.list;
}

static enum flow run_loop(struct jrender *r, const struct jnode *n, struct jval iterable,
                          uint32_t level)
{
    const struct jlist *l = jv_items(r, iterable);
    if (n->c) l = keep(r, n, l);
    if (l->n == 0) return run_block(r, &n->s.other);
    struct jloop *loop = jr_alloc(r, 1, sizeof *loop);
    *loop = (struct jloop){.items = l->v, .n = l->n, .level = level, .node = n, .frame = r->frame};
    for (; loop->i < loop->n; loop->i++) {
        jr_tick(r, 1);
        scope_reset(r, n->s.scope);
        r->frame->slots[n->n] = (struct jval){.kind = K_LOOP, .loop = loop};
        jr_assign(r, n->a, loop->items[loop->i]);
        if (run_block(r, &n->s.body) == FLOW_BREAK) break;
    }
    return FLOW_NEXT;
}

struct jval jr_call_loop(struct jrender *r, struct jloop *outer, struct jval items)
{
    const struct jnode *n = outer->node;
    if (!n->flag) jr_fail(r, "the loop must have the 'recursive' marker to be called");
    if (++r->depth > r->depth_max) jr_spent(r, SL_EINVAL, "call depth");
    struct jframe *caller = r->frame;
    size_t n_slots = (size_t)n->s.scope->fn->n_slots, mark = r->out->n;
    r->frame = outer->frame;
    struct jval *saved = jr_alloc(r, n_slots, sizeof *saved);
    memcpy(saved, r->frame->slots, n_slots * sizeof *saved);
    run_loop(r, n, items, outer->level + 1);
    memcpy(r->frame->slots, saved, n_slots * sizeof *saved);
    r->frame = caller;
    r->depth--;
    return jr_capture(r, mark);
}

/* ------------------------------------------------------------------ macros */

static struct jval make_macro(struct jrender *r, const struct jnode *n)
{
    struct jfunc *f = jr_alloc(r, 1, sizeof *f);
    f->macro = n;
    f->closure = r->frame;
    return (struct jval){.kind = K_FUNC, .fn = f};
}

static int parameter_index(const struct jnode *n, struct str name)
{
    for (int i = 0; i < n->n; i++)
        if (str_eq(n->list[i]->name, name)) return i;
    return -1;
}

/* The slots of caller, varargs and kwargs follow those of the parameters unless one has that name.
 */
static struct jval *implicit(struct jrender *r, const struct jnode *n, const char *name)
{
    const struct jscope *s = n->s.scope;
    for (int i = 0; i < s->n; i++)
        if (str_is(r->t->names[s->vars[i].id], name)) return &r->frame->slots[s->vars[i].slot];
    ASSERT(!"a macro has its implicit names");
    return NULL;
}

/* Arguments into the new frame: positional, keyword, then defaults, which see the parameters
 * before. */
static void bind(struct jrender *r, const struct jnode *n, const struct jargs *a)
{
    struct jval *slots = r->frame->slots;
    struct jval rest = jv_seq(r, K_TUPLE, 0, 0), named = jv_dict(r, 0);
    for (int i = 0; i < a->n; i++)
        if (i < n->n)
            jr_assign(r, n->list[i], a->v[i]);
        else
            jv_append(r, rest, a->v[i]);
    for (int k = 0; k < a->n_kw; k++) {
        int i = parameter_index(n, a->kw[k].name);
        int len = (int)(a->kw[k].name.n < 60 ? a->kw[k].name.n : 60);
        if (i >= 0 && i < a->n)
            jr_fail(r, "macro got multiple values for argument '%.*s'", len, a->kw[k].name.p);
        if (i >= 0)
            jr_assign(r, n->list[i], a->kw[k].v);
        else if (str_is(a->kw[k].name, "caller"))
            *implicit(r, n, "caller") = a->kw[k].v;
        else
            jv_dict_set(r, named.dict, jv_text(a->kw[k].name), a->kw[k].v);
    }
    for (int i = 0; i < n->n; i++) {
        if (slots[n->list[i]->var.refs[0].slot].kind != K_UNSET) continue;
        struct jval v = n->s.defaults[i] ? jr_eval(r, n->s.defaults[i])
                                         : jv_undef(n->list[i]->name, UNDEF_PARAM);
        jr_assign(r, n->list[i], v);
    }
    if (parameter_index(n, STR("varargs")) < 0) *implicit(r, n, "varargs") = rest;
    if (parameter_index(n, STR("kwargs")) < 0) *implicit(r, n, "kwargs") = named;
    if (implicit(r, n, "caller")->kind == K_UNSET)
        *implicit(r, n, "caller") = jv_undef(STR("caller"), UNDEF_NAME);
}

struct jval jr_call_macro(struct jrender *r, const struct jfunc *f, const struct jargs *a)
{
    const struct jnode *n = f->macro;
    if (++r->depth > r->depth_max) jr_spent(r, SL_EINVAL, "call depth");
    struct jframe *caller = r->frame, *frame = jr_alloc(r, 1, sizeof *frame);
    int line = r->line;
    frame->closure = f->closure;
    frame->slots = jr_alloc(r, (size_t)n->s.scope->fn->n_slots, sizeof *frame->slots);
    r->frame = frame;
    if (!n->flag && a->n > n->n)
        jr_fail(r, "macro '%.*s' takes not more than %d argument(s)",
                (int)(n->name.n < 60 ? n->name.n : 60), n->name.p, n->n);
    bind(r, n, a);
    size_t mark = r->out->n;
    run_block(r, &n->s.body);
    r->frame = caller;
    r->line = line;
    r->depth--;
    return jr_capture(r, mark);
}

/* ------------------------------------------------------------------ statements */

static struct jval run_captured(struct jrender *r, const struct jnode *n, enum flow *flow)
{
    size_t mark = r->out->n;
    scope_reset(r, n->s.scope);
    *flow = run_block(r, &n->s.body);
    struct jval text = jr_capture(r, mark);
    if (!n->b) return text;
    r->piped = text;
    return jr_eval(r, n->b);
}

static enum flow run_if(struct jrender *r, const struct jnode *n)
{
    for (int i = 0; i < n->n; i++)
        if (jv_truth(jr_eval(r, n->list[i]))) return run_block(r, &n->s.bodies[i]);
    return run_block(r, &n->s.other);
}

static enum flow run_with(struct jrender *r, const struct jnode *n)
{
    struct jval v = jv_list(r, (size_t)n->n);
    for (int i = 0; i < n->n; i++) jv_append(r, v, jr_eval(r, n->s.defaults[i]));
    scope_reset(r, n->s.scope);
    for (int i = 0; i < n->n; i++) jr_assign(r, n->list[i], v.list->v[i]);
    return run_block(r, &n->s.body);
}

static enum flow run(struct jrender *r, const struct jnode *n)
{
    enum flow flow = FLOW_NEXT;
    struct jval v;
    switch (n->kind) {
    case S_TEXT: jr_put(r, n->val); break;
    case S_OUTPUT: jr_put(r, jr_eval(r, n->a)); break;
    case S_FOR: return run_loop(r, n, jr_eval(r, n->b), 0);
    case S_IF: return run_if(r, n);
    case S_SET: jr_assign(r, n->a, jr_eval(r, n->b)); break;
    case S_CAPTURE:
        v = run_captured(r, n, &flow);
        jr_assign(r, n->a, v);
        break;
    case S_FILTER: jr_put(r, run_captured(r, n, &flow)); break;
    case S_MACRO: jr_assign(r, n->a, make_macro(r, n)); break;
    case S_CALL: {
        struct jkw caller = {STR("caller"), make_macro(r, n->b)};
        jr_put(r, jr_call_node(r, n->a, &caller));
        break;
    }
    case S_WITH: return run_with(r, n);
    case S_SCOPE: scope_reset(r, n->s.scope); return run_block(r, &n->s.body);
    case S_BREAK: return FLOW_BREAK;
    case S_CONTINUE: return FLOW_CONTINUE;
    default: ASSERT(!"an expression is no statement");
    }
    return flow;
}

static enum flow run_block(struct jrender *r, const struct jblock *b)
{
    enum flow flow = FLOW_NEXT;
    if (++r->nest > JINJA_NEST_MAX) jr_spent(r, SL_EINVAL, "nesting");
    for (int i = 0; i < b->n && flow == FLOW_NEXT; i++) {
        r->line = b->v[i]->line;
        jr_tick(r, 1);
        flow = run(r, b->v[i]);
    }
    r->nest--;
    return flow;
}

/* ------------------------------------------------------------------ a render */

bool jr_wants(const struct jrender *r, struct str name)
{
    for (int i = 0; i < r->t->n_names; i++)
        if (str_eq(r->t->names[i], name)) return true;
    return false;
}

void jr_define(struct jrender *r, struct str name, struct jval v)
{
    for (int i = 0; i < r->t->n_names; i++)
        if (str_eq(r->t->names[i], name)) r->globals[i] = v;
}

static int render(struct jrender *r, void (*build)(struct jrender *, void *), void *arg)
{
    if (setjmp(r->fail)) return r->code;
    r->globals = jr_alloc(r, (size_t)r->t->n_names, sizeof *r->globals);
    for (int i = 0; i < r->t->n_names; i++) {
        const struct jnative *native = jinja_function(r->t->names[i]);
        if (native) r->globals[i] = jv_callable(r, native, jv_none());
    }
    build(r, arg);
    r->frame = jr_alloc(r, 1, sizeof *r->frame);
    r->frame->slots = jr_alloc(r, (size_t)r->t->root.n_slots, sizeof *r->frame->slots);
    run_block(r, &r->t->body);
    if (r->out->overflow) jr_spent(r, SL_EINVAL, "output");
    return 0;
}

int jinja_render_with(const struct jinja *t, void (*build)(struct jrender *r, void *arg), void *arg,
                      const struct tm *now, const struct jinja_budget *budget, struct buf *out,
                      struct sl_error *e)
{
    const struct jinja_budget *b = budget ? budget : &jinja_budget_default;
    size_t start = out->n, max = out->max;
    if (b->output_bytes < max - start) out->max = start + b->output_bytes;
    struct jrender r = {.t = t,
                        .out = out,
                        .memory_max = b->memory_bytes,
                        .steps_max = b->steps,
                        .time_ms = b->time_ms,
                        .depth_max = b->depth,
                        .now = now,
                        .e = e};
    int code = render(&r, build, arg);
    jr_pool_free(&r);
    out->max = max;
    if (code < 0) {
        out->n = start;
        out->overflow = false;
    }
    return code;
}

struct globals {
    const struct jinja_global *v;
    size_t n;
};

static void build_globals(struct jrender *r, void *arg)
{
    const struct globals *g = arg;
    for (size_t i = 0; i < g->n; i++) {
        struct str name = str_of(g->v[i].name);
        if (jr_wants(r, name)) jr_define(r, name, jv_from_json(r, g->v[i].value));
    }
}

int jinja_render(const struct jinja *t, const struct jinja_global *globals, size_t n_globals,
                 const struct tm *now, const struct jinja_budget *budget, struct buf *out,
                 struct sl_error *e)
{
    struct globals g = {globals, n_globals};
    return jinja_render_with(t, build_globals, &g, now, budget, out, e);
}
