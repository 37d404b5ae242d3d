/* answer_tags.c - arguments as tags, a key and a value each: `<parameter=city>Oslo</parameter>` and
 * kin. Which values are text the tool's schema says.
 */
#include "api/answer_impl.h"

enum go run_tag(struct answer *a)
{
    size_t n;
    enum fit fit = match(a, a->row->key_open, a->at, &n);
    if (fit == FIT) {
        commit(a, a->at + n);
        return next_phase(a, P_KEY);
    }
    enum fit end = match(a, a->row->after, a->at, &n);
    if ((fit == UNSURE || end == UNSURE) && end != FIT && !a->is_ended) return MORE;
    if (a->is_ended && end == UNSURE) n = a->in.n - a->at; /* the start of it is left out */
    bool is_end = end == FIT || (a->is_ended && end == UNSURE);
    if (!a->has_keys && end != FIT) return refuse(a);
    if (a->is_ended && fit == UNSURE && end == MISFIT) return starve(a);
    call_begin(a);
    emit_arguments(a, a->has_keys ? STR("}") : STR("{}"));
    call_end(a);
    commit(a, is_end ? a->at + n : a->at);
    return next_phase(a, P_NEXT);
}

enum go run_key(struct answer *a)
{
    enum fit fit = read_short(a, a->row->key_end, 0, &a->key);
    if (fit == UNSURE) return starve(a);
    return fit == MISFIT || a->key.n == 0 ? misfit(a) : next_phase(a, P_OPEN);
}

static unsigned types_of(const struct answer *a)
{
    struct str name = buf_str(&a->name), key = strip(buf_str(&a->key));
    for (size_t i = 0; a->s.tools && i < a->s.tools->n; i++) {
        const struct tool *t = &a->s.tools->v[i];
        for (size_t k = 0; str_eq(t->name, name) && k < t->n_params; k++)
            if (str_eq(t->params[k].name, key)) return t->params[k].types;
    }
    return 0;
}

/* Behind a key: what the value is, and the JSON in front of it. */
enum go run_open(struct answer *a)
{
    const struct call_format *f = a->row;
    size_t n = 0;
    a->types = types_of(a);
    if (f->type_end) {
        enum fit fit = read_short(a, f->type_end, 0, &a->word);
        if (fit == UNSURE) return starve(a);
        if (fit == MISFIT) return misfit(a);
        a->types = str_is(buf_str(&a->word), "true") ? PARAM_STRING : PARAM_OTHER;
    }
    enum fit fit = f->value_open ? match(a, f->value_open, a->at, &n) : FIT;
    if (fit == UNSURE) return starve(a);
    if (fit == MISFIT) return misfit(a);
    call_begin(a);
    struct str key = strip(buf_str(&a->key));
    a->args.n = 0;
    buf_puts(&a->args, a->has_keys ? ", " : "{");
    json_put_str(&a->args, key);
    buf_puts(&a->args, ": ");
    a->is_text = a->types == PARAM_STRING;
    if (a->is_text) buf_putc(&a->args, '"');
    emit_arguments(a, buf_str(&a->args));
    a->args.n = a->value.n = 0;
    a->has_keys = true;
    a->has_text_begun = false;
    commit(a, a->at + n);
    return next_phase(a, P_VALUE);
}

static void say_text(struct answer *a, struct str s)
{
    a->args.n = 0;
    put_escaped(&a->args, s);
    emit_arguments(a, buf_str(&a->args));
    a->args.n = 0;
}

/* A value whose schema does not make it text: JSON or a Python literal if it is one. */
static void say_value(struct answer *a)
{
    struct str s = buf_str(&a->value), core = strip(s);
    bool is_null = str_is(core, "null") || str_is(core, "None");
    a->args.n = 0;
    if ((a->types & PARAM_STRING && !(is_null && a->types & PARAM_NULL)) ||
        !literal_whole(LITERAL_PYTHON, core, &a->args)) {
        a->args.n = 0;
        buf_putc(&a->args, '"');
        put_escaped(&a->args, s);
        buf_putc(&a->args, '"');
    }
    emit_arguments(a, buf_str(&a->args));
    a->args.n = 0;
}

/* A piece of the value; the newline that ends it may be the tag's, so it waits. */
static void add_value(struct answer *a, size_t end)
{
    struct str s = {a->in.p + a->at, end - a->at};
    if (a->is_text)
        say_text(a, s);
    else
        buf_put_str(&a->value, s);
    commit(a, end);
}

enum go run_value(struct answer *a)
{
    const char *close = a->row->value_end;
    if (!a->has_text_begun) {
        if (a->at == a->in.n) return starve(a);
        a->has_text_begun = true;
        if (a->in.p[a->at] == '\n') commit(a, a->at + 1);
        a->scan = a->at;
    }
    const char *p = a->in.p + a->scan;
    const char *hit = a->in.n > a->scan ? memmem(p, a->in.n - a->scan, close, strlen(close)) : NULL;
    size_t end = hit ? (size_t)(hit - a->in.p) : a->in.n - held_for(a, a->scan, close);
    size_t solid = end > a->at && a->in.p[end - 1] == '\n' ? end - 1 : end;
    add_value(a, solid);
    a->scan = end;
    if (!hit) {
        if (!a->is_ended) return MORE;
        add_value(a, a->in.n);
        return starve(a);
    }
    if (a->is_text)
        emit_arguments(a, STR("\""));
    else
        say_value(a);
    commit(a, end + strlen(close));
    return next_phase(a, P_TAG);
}
