/* answer_object.c - a call as an object with its name in it: `{"name": ..., "arguments": {...}}`, the
 * members in any order. Until name and arguments are both known the call has not begun.
 */
#include "api/answer_impl.h"

#include "base/err.h"

static bool is_one_of(const struct buf *key, const char *const *names)
{
    for (; *names; names++)
        if (str_is(buf_str(key), *names)) return true;
    return false;
}

/* Feed a literal that is no object of arguments into *to. */
static enum go feed_other(struct answer *a, struct buf *to, enum literal_state *state)
{
    struct str rest = {a->in.p + a->at, a->in.n - a->at};
    size_t used = literal_feed(&a->lit, rest, to, state);
    if (to->overflow) *state = LITERAL_BAD;
    return was_fed(a, used, state);
}

/* The JSON string `json` decoded into *out; false if it is something else. */
static bool decode(const struct buf *json, struct buf *out)
{
    struct json_doc *doc;
    if (json_parse(&doc, json->p, json->n, &json_limits_request, NULL) < 0) return false;
    bool is_text = json_type(json_root(doc)) == JSON_STR;
    out->n = 0;
    if (is_text) buf_put_str(out, json_str(json_root(doc)));
    json_free(doc);
    return is_text;
}

/* Arguments that were written as a string of JSON. */
static bool decode_arguments(struct answer *a)
{
    struct buf text = buf_make(HELD_BYTES_MAX);
    bool good = decode(&a->value, &text);
    struct str s = strip(buf_str(&text));
    if (good && s.n == 0) s = STR("{}");
    good = good && s.p[0] == '{' && literal_whole(LITERAL_JSON, s, &a->args);
    buf_free(&text);
    return good;
}

/* Name and arguments may come in either order; when both are there the call is complete. */
static void object_part_done(struct answer *a)
{
    if (a->has_name && a->is_args_done && !a->is_closed) {
        call_begin(a);
        call_end(a);
        commit(a, a->at);
    }
}

static enum go object_value(struct answer *a, char c)
{
    static const char *const names[] = {"name", "tool_name", "function", NULL};
    static const char *const args[] = {"arguments", "parameters", NULL};
    static const char *const extra[] = {"id", "type", "tool_call_id", NULL};
    literal_begin(&a->lit, LITERAL_JSON);
    a->word.n = a->value.n = 0;
    bool is_args = is_one_of(&a->key, args) && !a->has_args;
    if (is_one_of(&a->key, names) && !a->has_name && c == '"')
        a->object = O_NAME;
    else if (is_args && (c == '{' || c == '"'))
        a->object = c == '{' ? O_ARGS : O_TEXT_ARGS;
    else if (is_args && c != 'n')
        return misfit(a);
    else if (a->row->is_bare && !a->is_begun && !is_one_of(&a->key, extra))
        return misfit(a); /* JSON, but no call */
    else
        a->object = O_SKIP;
    return GO;
}

/* Between the members. */
static enum go object_mark(struct answer *a)
{
    while (a->at < a->in.n && is_blank(a->in.p[a->at])) commit(a, a->at + 1);
    if (!a->is_begun && a->at - a->lo > HELD_BYTES_MAX) return refuse(a);
    if (a->at == a->in.n) return starve(a);
    char c = a->in.p[a->at];
    if (a->object == O_VALUE) return object_value(a, c);
    if (a->object == O_KEY && c == '"') {
        literal_begin(&a->lit, LITERAL_JSON);
        a->word.n = 0;
        a->object = O_KEY_TEXT;
        return GO;
    }
    if (a->object == O_KEY && c == '}') {
        if (!a->is_closed && (!a->has_name || a->row->is_bare)) return misfit(a);
        if (!a->is_closed) { /* no arguments: an empty object */
            buf_puts(&a->args, "{}");
            a->is_args_done = true;
            object_part_done(a);
        }
        commit(a, a->at + 1);
        return next_phase(a, P_AFTER);
    }
    bool fits = (a->object == O_OPEN && c == '{') || (a->object == O_COLON && c == ':') ||
                (a->object == O_KEY && c == ',');
    if (!fits) return misfit(a);
    commit(a, a->at + 1);
    a->object = a->object == O_COLON ? O_VALUE : O_KEY;
    return GO;
}

enum go run_object(struct answer *a)
{
    enum literal_state state;
    enum object_at what = a->object;
    if (what == O_OPEN || what == O_KEY || what == O_COLON || what == O_VALUE)
        return object_mark(a);
    bool is_long = what == O_SKIP || what == O_TEXT_ARGS;
    enum go go = what == O_ARGS ? feed_object(a, &state)
                                : feed_other(a, is_long ? &a->value : &a->word, &state);
    if (what == O_SKIP) a->value.n = 0;
    if (go == MORE) return starve(a);
    bool good = state == LITERAL_DONE;
    if (what == O_KEY_TEXT) good = good && decode(&a->word, &a->key);
    if (what == O_NAME) good = good && decode(&a->word, &a->name) && a->name.n > 0;
    if (what == O_TEXT_ARGS) good = good && decode_arguments(a);
    if (!good) return misfit(a);
    a->object = what == O_KEY_TEXT ? O_COLON : O_KEY;
    a->has_name |= what == O_NAME;
    a->is_args_done |= what == O_ARGS || what == O_TEXT_ARGS;
    if (what != O_KEY_TEXT) object_part_done(a);
    return GO;
}
