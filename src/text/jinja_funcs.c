/* jinja_funcs.c - the global functions, and the methods of loop and cycler. */
#include <time.h>

#include "text/jinja_impl.h"

enum { RANGE_MAX = 10000 }; /* items of one range(): more is an attempt to eat the host */

#define FUNCTION(name)                                                                             \
    static struct jval name(struct jrender *r, struct jval self, const struct jargs *a)

FUNCTION(g_range)
{
    int64_t from = 0, step = 1;
    (void)self;
    if (a->n < 1 || a->n > 3) jr_fail(r, "range expected 1 to 3 arguments, got %d", a->n);
    int64_t to = jr_arg_int(r, a, a->n > 1, "stop", 0);
    if (a->n > 1) from = jr_arg_int(r, a, 0, "start", 0);
    if (a->n > 2) step = jr_arg_int(r, a, 2, "step", 1);
    if (step == 0) jr_fail(r, "range() arg 3 must not be zero");
    struct jval l = jv_seq(r, K_ITER, ITER_RANGE, 0);
    for (int64_t i = from; step > 0 ? i < to : i > to;) {
        if (l.list->n == RANGE_MAX) jr_fail(r, "range too big, the maximum is %d", RANGE_MAX);
        jr_tick(r, 1);
        jv_append(r, l, jv_int(i));
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    return l;
}

/* dict(mapping or pairs, **more), also what namespace() starts from. */
static struct jval make_dict(struct jrender *r, const struct jargs *a)
{
    struct jval d = jv_dict(r, (size_t)a->n_kw);
    if (a->n > 1) jr_fail(r, "dict expected at most 1 argument, got %d", a->n);
    if (a->n && a->v[0].kind == K_DICT) {
        for (uint32_t i = 0; i < a->v[0].dict->n; i++)
            jv_dict_set(r, d.dict, a->v[0].dict->v[i].k, a->v[0].dict->v[i].v);
    } else if (a->n) {
        const struct jlist *l = jv_items(r, a->v[0]);
        for (uint32_t i = 0; i < l->n; i++) {
            const struct jlist *pair = jv_items(r, l->v[i]);
            if (pair->n != 2) jr_fail(r, "dictionary update sequence needs pairs");
            jv_dict_set(r, d.dict, pair->v[0], pair->v[1]);
        }
    }
    for (int i = 0; i < a->n_kw; i++) jv_dict_set(r, d.dict, jv_text(a->kw[i].name), a->kw[i].v);
    return d;
}
FUNCTION(g_dict) { return (void)self, make_dict(r, a); }
FUNCTION(g_namespace)
{
    struct jval d = make_dict(r, a);
    (void)self;
    d.kind = K_NAMESPACE;
    return d;
}

/* A joiner is a function whose own list remembers whether it was called. */
FUNCTION(joiner_call)
{
    (void)r;
    (void)a;
    return self.list->cursor++ ? self.list->v[0] : jv_text(STR(""));
}
FUNCTION(g_joiner)
{
    static const struct jnative call = {"joiner", joiner_call};
    struct jval l = jv_list(r, 1);
    (void)self;
    jv_append(r, l, jr_arg(a, 0, "sep", jv_text(STR(", "))));
    return jv_callable(r, &call, l);
}

FUNCTION(g_cycler)
{
    struct jval l = jv_seq(r, K_CYCLER, 0, (size_t)a->n);
    (void)self;
    if (!a->n) jr_fail(r, "at least one item has to be provided");
    for (int i = 0; i < a->n; i++) jv_append(r, l, a->v[i]);
    return l;
}
FUNCTION(cycler_next)
{
    (void)r;
    (void)a;
    struct jval v = self.list->v[self.list->cursor];
    self.list->cursor = (self.list->cursor + 1) % self.list->n;
    return v;
}
FUNCTION(cycler_reset)
{
    (void)r;
    (void)a;
    self.list->cursor = 0;
    return jv_none();
}

FUNCTION(loop_cycle)
{
    if (!a->n) jr_fail(r, "no items for cycling given");
    return a->v[self.loop->i % (uint32_t)a->n];
}
FUNCTION(loop_changed)
{
    struct jval now = jv_seq(r, K_TUPLE, 0, (size_t)a->n);
    for (int i = 0; i < a->n; i++) jv_append(r, now, a->v[i]);
    bool changed = self.loop->changed.kind == K_UNSET || !jv_equal(r, self.loop->changed, now);
    self.loop->changed = now;
    return jv_bool(changed);
}

FUNCTION(g_raise)
{
    struct str s = jv_str(jr_str(r, jr_arg(a, 0, "message", jv_text(STR("")))));
    (void)self;
    r->code = sl_fail(r->e, SL_EINVAL, "%.*s", (int)(s.n < 239 ? s.n : 239), s.p);
    longjmp(r->fail, 1);
}

FUNCTION(g_strftime_now)
{
    char format[128], text[512];
    struct str s = jr_arg_str(r, a, 0, "format", NULL);
    struct tm now = {.tm_mday = 1};
    (void)self;
    if (r->now) now = *r->now;
    if (s.n + 1 >= sizeof format) jr_fail(r, "strftime_now: the format is too long");
    if (s.n) memcpy(format, s.p, s.n);
    memcpy(format + s.n, "|", 2); /* so that an empty result differs from a failure */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored                                                                     \
    "-Wformat-nonliteral" /* strftime has no directive that reads memory */
    size_t n = strftime(text, sizeof text, format, &now);
#pragma GCC diagnostic pop
    if (n == 0) jr_fail(r, "strftime_now: the result is too long");
    return jr_textf(r, "%.*s", (int)n - 1, text);
}

static const struct jnative functions[] = {{"range", g_range},
                                           {"dict", g_dict},
                                           {"namespace", g_namespace},
                                           {"joiner", g_joiner},
                                           {"cycler", g_cycler},
                                           {"raise_exception", g_raise},
                                           {"strftime_now", g_strftime_now},
                                           {NULL, NULL}};
static const struct jnative cycler_methods[] = {
    {"next", cycler_next}, {"reset", cycler_reset}, {NULL, NULL}};
static const struct jnative loop_methods[] = {
    {"cycle", loop_cycle}, {"changed", loop_changed}, {NULL, NULL}};

const struct jnative *jinja_function(struct str name) { return jnative_find(functions, name); }

const struct jnative *jinja_object_method(struct jval v, struct str name)
{
    return jnative_find(v.kind == K_LOOP ? loop_methods : cycler_methods, name);
}
