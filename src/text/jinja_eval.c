/* jinja_eval.c - expressions: names, attributes, calls, operators. */
#include "text/jinja_impl.h"

enum { ARGS_ON_STACK = 4 };

/* ------------------------------------------------------------------ arguments */

struct jval jr_arg(const struct jargs *a, int i, const char *name, struct jval otherwise)
{
    if (i >= 0 && i < a->n) return a->v[i];
    for (int k = 0; name && k < a->n_kw; k++)
        if (str_is(a->kw[k].name, name)) return a->kw[k].v;
    return otherwise;
}

struct str jr_arg_str(struct jrender *r, const struct jargs *a, int i, const char *name,
                      const char *otherwise)
{
    struct jval v = jr_arg(a, i, name, (struct jval){0});
    if (v.kind == K_UNSET) {
        if (!otherwise) jr_fail(r, "missing argument '%s'", name);
        return str_of(otherwise);
    }
    if (v.kind == K_UNDEF) jr_fail_undef(r, v);
    if (v.kind != K_STR) jr_fail(r, "argument '%s' must be str, not %s", name, jv_type_name(v));
    return jv_str(v);
}

int64_t jr_arg_int(struct jrender *r, const struct jargs *a, int i, const char *name,
                   int64_t otherwise)
{
    struct jval v = jr_arg(a, i, name, jv_none());
    if (v.kind == K_NONE) return otherwise;
    if (v.kind == K_UNDEF) jr_fail_undef(r, v);
    if (!jv_is_int(v)) jr_fail(r, "argument '%s' must be int, not %s", name, jv_type_name(v));
    return v.i;
}

bool jr_arg_bool(const struct jargs *a, int i, const char *name, bool otherwise)
{
    return jv_truth(jr_arg(a, i, name, jv_bool(otherwise)));
}

/* ------------------------------------------------------------------ attributes and items */

static struct jval loop_attr(struct jrender *r, struct jval v, struct str name)
{
    const struct jloop *l = v.loop;
    if (str_is(name, "index0")) return jv_int(l->i);
    if (str_is(name, "index")) return jv_int((int64_t)l->i + 1);
    if (str_is(name, "first")) return jv_bool(l->i == 0);
    if (str_is(name, "last")) return jv_bool(l->i + 1 == l->n);
    if (str_is(name, "length")) return jv_int(l->n);
    if (str_is(name, "revindex")) return jv_int((int64_t)l->n - l->i);
    if (str_is(name, "revindex0")) return jv_int((int64_t)l->n - l->i - 1);
    if (str_is(name, "depth")) return jv_int((int64_t)l->level + 1);
    if (str_is(name, "depth0")) return jv_int(l->level);
    if (str_is(name, "previtem") && l->i > 0) return l->items[l->i - 1];
    if (str_is(name, "nextitem") && l->i + 1 < l->n) return l->items[l->i + 1];
    const struct jnative *native = jinja_object_method(v, name);
    return native ? jv_callable(r, native, v) : jv_undef(name, K_LOOP);
}

static struct jval dict_attr(struct jrender *r, struct jval v, struct str name,
                             const struct jnative *method)
{
    if (method) return jv_callable(r, method, v);
    const struct jval *there = jv_dict_find(r, v.dict, jv_text(name));
    return there ? *there : jv_undef(name, v.kind);
}

struct jval jv_attr(struct jrender *r, struct jval v, struct str name, const struct jmethods *m)
{
    switch (v.kind) {
    case K_UNDEF: jr_fail_undef(r, v);
    case K_DICT: return dict_attr(r, v, name, m->dict);
    case K_NAMESPACE: return dict_attr(r, v, name, NULL);
    case K_STR:
        if (m->str) return jv_callable(r, m->str, v);
        break;
    case K_LIST:
        if (m->list) return jv_callable(r, m->list, v);
        break;
    case K_TUPLE:
        if (v.sub == TUPLE_GROUP && str_is(name, "grouper")) return v.list->v[0];
        if (v.sub == TUPLE_GROUP && str_is(name, "list")) return v.list->v[1];
        break;
    case K_LOOP: return loop_attr(r, v, name);
    case K_CYCLER: {
        if (str_is(name, "current")) return v.list->v[v.list->cursor];
        const struct jnative *native = jinja_object_method(v, name);
        if (native) return jv_callable(r, native, v);
        break;
    }
    case K_FUNC:
        if (!v.fn->native && str_is(name, "name")) return jv_text(v.fn->macro->name);
        break;
    default: break;
    }
    return jv_undef(name, v.kind);
}

static struct jval item_at(struct jval v, int64_t i)
{
    int64_t n;
    if (v.kind == K_STR) {
        n = (int64_t)jv_codepoints(jv_str(v));
        if (i < 0) i += n;
        if (i < 0 || i >= n) return jv_undef(STR(""), UNDEF_INDEX);
        size_t from = jv_offset(jv_str(v), (size_t)i);
        struct str rest = {v.s + from, v.n - from};
        return jv_markup(jv_text((struct str){rest.p, jv_offset(rest, 1)}), v.sub == STR_MARKUP);
    }
    n = v.list->n;
    if (i < 0) i += n;
    return i < 0 || i >= n ? jv_undef(STR(""), UNDEF_INDEX) : v.list->v[i];
}

struct jval jv_item(struct jrender *r, struct jval v, struct jval key)
{
    bool indexable = v.kind == K_STR || v.kind == K_LIST || v.kind == K_TUPLE ||
                     (v.kind == K_ITER && v.sub == ITER_RANGE);
    if (v.kind == K_UNDEF) jr_fail_undef(r, v);
    if (v.kind == K_DICT && key.kind != K_LIST && key.kind != K_DICT) {
        const struct jval *there = jv_dict_find(r, v.dict, key);
        if (there) return *there;
    }
    if (indexable && jv_is_int(key)) {
        if (v.kind == K_STR) jr_tick(r, v.n / 64);
        return item_at(v, key.i);
    }
    if (key.kind == K_STR) {
        struct jmethods m = jinja_methods(jv_str(key));
        return jv_attr(r, v, jv_str(key), &m);
    }
    return jv_undef(STR(""), UNDEF_INDEX);
}

/* Python's slice.indices: bounds clipped to [0, n]; for a negative step to [-1, n-1]. */
static int64_t clip(struct jrender *r, struct jval bound, int64_t n, bool back, int64_t otherwise)
{
    if (bound.kind == K_NONE) return otherwise;
    if (!jv_is_int(bound)) jr_fail(r, "slice indices must be integers or None");
    int64_t i = bound.i < 0 ? bound.i + n : bound.i;
    int64_t low = back ? -1 : 0, high = back ? n - 1 : n;
    return i < low ? low : i > high ? high : i;
}

static struct jval slice_str(struct jrender *r, struct jval v, int64_t from, int64_t step,
                             int64_t count)
{
    struct str s = jv_str(v);
    jr_tick(r, s.n / 16);
    if (step == 1 || count == 0) {
        size_t a = jv_offset(s, (size_t)from);
        struct str rest = {s.p + a, s.n - a};
        return jv_text((struct str){rest.p, count ? jv_offset(rest, (size_t)count) : 0});
    }
    const struct jlist *chars = jv_items(r, v);
    size_t mark = r->out->n;
    for (int64_t i = 0; i < count; i++) jr_put(r, chars->v[from + i * step]);
    return jr_capture(r, mark);
}

struct jval jv_slice(struct jrender *r, struct jval v, const struct jval bounds[3])
{
    if (v.kind == K_UNDEF) jr_fail_undef(r, v);
    if (v.kind != K_STR && v.kind != K_LIST && v.kind != K_TUPLE &&
        !(v.kind == K_ITER && v.sub == ITER_RANGE))
        return jv_undef(STR(""), UNDEF_INDEX);
    int64_t n = jv_length(r, v), step = 1;
    if (bounds[2].kind != K_NONE) {
        if (!jv_is_int(bounds[2])) jr_fail(r, "slice indices must be integers or None");
        step = bounds[2].i;
        if (step == 0) jr_fail(r, "slice step cannot be zero");
        if (step > n) step = n + 1; /* one item at most: keeps the products below in range */
        if (step < -n) step = -n - 1;
    }
    bool back = step < 0;
    int64_t from = clip(r, bounds[0], n, back, back ? n - 1 : 0);
    int64_t to = clip(r, bounds[1], n, back, back ? -1 : n);
    int64_t span = back ? from - to : to - from, width = back ? -step : step;
    int64_t count = span > 0 ? (span + width - 1) / width : 0;
    if (v.kind == K_STR) return jv_markup(slice_str(r, v, from, step, count), v.sub == STR_MARKUP);
    struct jval l = jv_seq(r, (enum jkind)v.kind, v.kind == K_ITER ? v.sub : 0, (size_t)count);
    jr_tick(r, (size_t)count);
    for (int64_t i = 0; i < count; i++) l.list->v[i] = v.list->v[from + i * step];
    l.list->n = (uint32_t)count;
    return l;
}

/* ------------------------------------------------------------------ calls */

/* A native function; the methods of markup give markup. */
static struct jval call_native(struct jrender *r, const struct jnative *f, struct jval self,
                               const struct jargs *a)
{
    struct jval v = f->fn(r, self, a);
    if (self.kind != K_STR || self.sub != STR_MARKUP) return v;
    if (v.kind == K_LIST || v.kind == K_TUPLE)
        for (uint32_t i = 0; i < v.list->n; i++) v.list->v[i] = jv_markup(v.list->v[i], true);
    return jv_markup(v, true);
}

struct jval jr_call(struct jrender *r, struct jval fn, const struct jargs *a)
{
    jr_tick(r, 1);
    if (fn.kind == K_FUNC && fn.fn->native) return call_native(r, fn.fn->native, fn.fn->self, a);
    if (fn.kind == K_FUNC) return jr_call_macro(r, fn.fn, a);
    if (fn.kind == K_LOOP) {
        if (a->n != 1) jr_fail(r, "loop() takes one argument");
        return jr_call_loop(r, fn.loop, a->v[0]);
    }
    if (fn.kind == K_UNDEF) jr_fail_undef(r, fn);
    jr_fail(r, "'%s' object is not callable", jv_type_name(fn));
}

static const struct jnative *method_of(struct jval v, const struct jmethods *m)
{
    return v.kind == K_STR    ? m->str
           : v.kind == K_DICT ? m->dict
           : v.kind == K_LIST ? m->list
                              : NULL;
}

/* *list and **dict of a call: the argument arrays are made anew in the pool. */
static void spread(struct jrender *r, const struct jnode *n, struct jargs *a)
{
    if (n->b) {
        struct jval more = jr_eval(r, n->b), all = jv_list(r, (size_t)a->n);
        for (int i = 0; i < a->n; i++) jv_append(r, all, a->v[i]);
        const struct jlist *l = jv_items(r, more);
        for (uint32_t i = 0; i < l->n; i++) jv_append(r, all, l->v[i]);
        if (all.list->n > 1000) jr_fail(r, "too many arguments");
        a->v = all.list->v;
        a->n = (int)all.list->n;
    }
    if (n->c) {
        struct jval more = jr_eval(r, n->c);
        if (more.kind != K_DICT || more.dict->n > 1000)
            jr_fail(r, "argument after ** must be a mapping");
        struct jkw *kw = jr_alloc(r, (size_t)a->n_kw + more.dict->n, sizeof *kw);
        if (a->n_kw) memcpy(kw, a->kw, (size_t)a->n_kw * sizeof *kw);
        for (uint32_t i = 0; i < more.dict->n; i++) {
            if (more.dict->v[i].k.kind != K_STR) jr_fail(r, "keywords must be strings");
            kw[a->n_kw++] = (struct jkw){jv_str(more.dict->v[i].k), more.dict->v[i].v};
        }
        a->kw = kw;
    }
}

/* Evaluate arguments into the given arrays, or the pool when there are more. */
static struct jargs arguments(struct jrender *r, const struct jnode *n, struct jval *v,
                              struct jkw *kw, const struct jkw *caller)
{
    int n_kw = n->n_kw + (caller != NULL), n_pos = n->n - n->n_kw;
    if (n_pos > ARGS_ON_STACK) v = jr_alloc(r, (size_t)n_pos, sizeof *v);
    if (n_kw > ARGS_ON_STACK) kw = jr_alloc(r, (size_t)n_kw, sizeof *kw);
    for (int i = 0; i < n_pos; i++) v[i] = jr_eval(r, n->list[i]);
    for (int i = 0; i < n->n_kw; i++)
        kw[i] = (struct jkw){n->kw[i], jr_eval(r, n->list[n_pos + i])};
    if (caller) kw[n_kw - 1] = *caller;
    struct jargs a = {v, n_pos, kw, n_kw};
    if (n->b || n->c) spread(r, n, &a);
    return a;
}

struct jval jr_call_node(struct jrender *r, const struct jnode *n, const struct jkw *caller)
{
    struct jval v[ARGS_ON_STACK], self, fn = {0};
    struct jkw kw[ARGS_ON_STACK];
    const struct jnative *method = NULL;
    if (n->a->kind == E_ATTR) {
        self = jr_eval(r, n->a->a);
        method = method_of(self, &n->a->m);
        if (!method) fn = jv_attr(r, self, n->a->name, &n->a->m);
    } else {
        fn = jr_eval(r, n->a);
    }
    struct jargs a = arguments(r, n, v, kw, caller);
    return method ? call_native(r, method, self, &a) : jr_call(r, fn, &a);
}

static struct jval apply(struct jrender *r, const struct jnode *n)
{
    struct jval v[ARGS_ON_STACK], self = n->a ? jr_eval(r, n->a) : r->piped;
    struct jkw kw[ARGS_ON_STACK];
    if (!n->native) {
        int len = (int)(n->name.n < 60 ? n->name.n : 60);
        jr_fail(r, "no %s named '%.*s'", n->kind == E_TEST ? "test" : "filter", len, n->name.p);
    }
    struct jargs a = arguments(r, n, v, kw, NULL);
    return n->native->fn(r, self, &a);
}

/* ------------------------------------------------------------------ names and operators */

static struct jval lookup(const struct jrender *r, const struct jnode *n)
{
    const struct jframe *f = r->frame;
    for (int i = 0, hops = 0; i < n->var.n_refs; i++) {
        const struct jref *ref = &n->var.refs[i];
        for (; hops < ref->hops; hops++) f = f->closure;
        if (f->slots[ref->slot].kind != K_UNSET) return f->slots[ref->slot];
    }
    struct jval v = r->globals[n->var.id];
    return v.kind == K_UNSET ? jv_undef(n->name, UNDEF_NAME) : v;
}

static struct jval eval_list(struct jrender *r, const struct jnode *n, enum jkind kind)
{
    struct jval l = jv_seq(r, kind, 0, (size_t)n->n);
    for (int i = 0; i < n->n; i++) l.list->v[i] = jr_eval(r, n->list[i]);
    l.list->n = (uint32_t)n->n;
    return l;
}

static struct jval eval_dict(struct jrender *r, const struct jnode *n)
{
    struct jval d = jv_dict(r, (size_t)n->n / 2);
    for (int i = 0; i + 1 < n->n; i += 2) {
        struct jval k = jr_eval(r, n->list[i]);
        jv_dict_set(r, d.dict, k, jr_eval(r, n->list[i + 1]));
    }
    return d;
}

static struct jval eval_slice(struct jrender *r, const struct jnode *n)
{
    struct jval v = jr_eval(r, n->a), bounds[3];
    for (int i = 0; i < 3; i++) {
        bool given = i < n->n && n->list[i];
        bounds[i] = given ? jr_eval(r, n->list[i]) : jv_none();
    }
    return jv_slice(r, v, bounds);
}

static bool holds(struct jrender *r, enum jop op, struct jval a, struct jval b)
{
    switch (op) {
    case OP_EQ: return jv_equal(r, a, b);
    case OP_NE: return !jv_equal(r, a, b);
    case OP_LT: return jv_compare(r, a, b, "<") < 0;
    case OP_LE: return jv_compare(r, a, b, "<=") <= 0;
    case OP_GT: return jv_compare(r, a, b, ">") > 0;
    case OP_GE: return jv_compare(r, a, b, ">=") >= 0;
    case OP_IN: return jv_contains(r, b, a);
    default: return !jv_contains(r, b, a);
    }
}

static struct jval eval_compare(struct jrender *r, const struct jnode *n)
{
    struct jval left = jr_eval(r, n->a);
    for (int i = 0; i < n->n; i++) {
        struct jval right = jr_eval(r, n->list[i]);
        if (!holds(r, (enum jop)n->ops[i], left, right)) return jv_bool(false);
        left = right;
    }
    return jv_bool(true);
}

static struct jval eval_concat(struct jrender *r, const struct jnode *n)
{
    struct jval s = jv_text(STR(""));
    for (int i = 0; i < n->n; i++) {
        struct jval part = jr_str(r, jr_eval(r, n->list[i]));
        s = jr_concat(r, jv_str(s), jv_str(part));
    }
    return s;
}

static struct jval eval_sign(struct jrender *r, const struct jnode *n)
{
    struct jval v = jr_eval(r, n->a);
    bool neg = n->kind == E_NEG;
    if (v.kind == K_UNDEF) jr_fail_undef(r, v);
    if (v.kind == K_FLOAT) return jv_float(neg ? -v.f : v.f);
    if (!jv_is_int(v))
        jr_fail(r, "bad operand type for unary %c: '%s'", neg ? '-' : '+', jv_type_name(v));
    if (neg && v.i == INT64_MIN) jr_fail(r, "integer overflow");
    return jv_int(neg ? -v.i : v.i);
}

static struct jval eval(struct jrender *r, const struct jnode *n)
{
    struct jval a;
    switch (n->kind) {
    case E_CONST: return n->val;
    case E_NAME: return lookup(r, n);
    case E_LIST: return eval_list(r, n, K_LIST);
    case E_TUPLE: return eval_list(r, n, K_TUPLE);
    case E_DICT: return eval_dict(r, n);
    case E_ATTR: return jv_attr(r, jr_eval(r, n->a), n->name, &n->m);
    case E_ITEM: a = jr_eval(r, n->a); return jv_item(r, a, jr_eval(r, n->b));
    case E_SLICE: return eval_slice(r, n);
    case E_CALL: return jr_call_node(r, n, NULL);
    case E_FILTER:
    case E_TEST: return apply(r, n);
    case E_NEG:
    case E_POS: return eval_sign(r, n);
    case E_NOT: return jv_bool(!jv_truth(jr_eval(r, n->a)));
    case E_AND: a = jr_eval(r, n->a); return jv_truth(a) ? jr_eval(r, n->b) : a;
    case E_OR: a = jr_eval(r, n->a); return jv_truth(a) ? a : jr_eval(r, n->b);
    case E_BINARY: a = jr_eval(r, n->a); return jv_binary(r, (enum jop)n->op, a, jr_eval(r, n->b));
    case E_COMPARE: return eval_compare(r, n);
    case E_CONCAT: return eval_concat(r, n);
    case E_COND:
        if (jv_truth(jr_eval(r, n->b))) return jr_eval(r, n->a);
        return n->c ? jr_eval(r, n->c) : jv_undef(STR("the inline if"), UNDEF_NAME);
    default: ASSERT(!"a statement is no expression");
    }
    return jv_none();
}

struct jval jr_eval(struct jrender *r, const struct jnode *n)
{
    if (++r->nest > JINJA_NEST_MAX) jr_spent(r, SL_EINVAL, "nesting");
    jr_tick(r, 1);
    struct jval v = eval(r, n);
    r->nest--;
    return v;
}
