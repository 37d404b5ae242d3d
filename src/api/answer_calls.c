/* answer_calls.c - sections of calls: patterns, names, arguments in their four forms. A row of
 * answer_formats.c says what stands where; each phase below reads one of its fields.
 */
#include "api/answer_impl.h"

#include "base/err.h"

/* HELD: text of a call whose name is not known yet. */
enum { NAME_BYTES_MAX = 256, HELD_BYTES_MAX = 1 << 20 };

/* ------------------------------------------------------------------ patterns */

enum fit match_text(const struct answer *a, size_t i, const char *z)
{
    size_t n = strlen(z), left = a->in.n - i, m = n < left ? n : left;
    if (m && memcmp(a->in.p + i, z, m) != 0) return MISFIT;
    return m == n ? FIT : UNSURE;
}

enum fit match(const struct answer *a, const char *pattern, size_t at, size_t *len)
{
    size_t i = at, sure = SIZE_MAX;
    if (!pattern) return MISFIT;
    for (const char *p = pattern; *p; p++) {
        if (*p == '?') {
            sure = i - at;
            continue;
        }
        if (*p == '~') {
            size_t from = i;
            while (i < a->in.n && is_blank(a->in.p[i]) && i - from < FORMAT_BLANKS_MAX) i++;
            if (i == a->in.n) return *len = sure, UNSURE;
            continue;
        }
        if (i == a->in.n) return *len = sure, UNSURE;
        if (a->in.p[i] == *p) {
            i++;
            continue;
        }
        *len = sure;
        return sure == SIZE_MAX ? MISFIT : FIT;
    }
    *len = i - at;
    return FIT;
}

size_t held_for(const struct answer *a, size_t from, const char *z)
{
    size_t n = strlen(z) - 1, left = a->in.n - from;
    for (size_t k = n < left ? n : left; k > 0; k--)
        if (memcmp(a->in.p + a->in.n - k, z, k) == 0) return k;
    return 0;
}

/* ------------------------------------------------------------------ a call begins and ends */

void call_reset(struct answer *a)
{
    struct buf *const all[] = {&a->name, &a->id, &a->args, &a->word, &a->key, &a->value};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) all[i]->n = 0;
    a->has_name = a->is_begun = a->is_closed = a->has_args = a->is_args_done = false;
    a->has_keys = a->has_text_begun = false;
    a->object = O_OPEN;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

/* An id that no other call has: a hash of the response's id, which is unique, the choice and the
 * call. */
static void make_id(struct answer *a)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    uint64_t h = 0;
    for (size_t i = 0; i < a->s.id_seed.n; i++)
        h = mix(h + (unsigned char)a->s.id_seed.p[i] + UINT64_C(0x9E3779B97F4A7C15));
    h = mix(h ^ (uint64_t)a->s.id_choice << 32 ^ (uint64_t)a->n_calls);
    int n = a->row->has_short_ids ? 9 : 24;
    if (!a->row->has_short_ids) buf_puts(&a->id, "call_");
    for (int i = 0; i < n; i++) {
        h = mix(h + UINT64_C(0x9E3779B97F4A7C15));
        buf_putc(&a->id, letters[h % (sizeof letters - 1)]);
    }
}

void call_begin(struct answer *a)
{
    if (a->is_begun) return;
    if (!a->row->has_own_ids) {
        a->id.n = 0;
        make_id(a);
    }
    a->is_begun = a->is_section_begun = true;
    a->n_calls++;
    say_call(a);
    emit_arguments(a, buf_str(&a->args));
    a->args.n = 0;
}

void call_end(struct answer *a)
{
    a->is_closed = true;
    a->n_complete++;
    say_call_end(a);
    if (a->s.tools && a->s.tools->no_parallel) a->phase = P_OVER;
}

/* It does not fit: an unbegun call is content; of one that has begun the rest is. */
static enum go misfit(struct answer *a)
{
    if (!a->is_begun) return refuse(a);
    a->is_broken |= !a->is_closed;
    a->lo = a->at;
    return refuse(a);
}

/* Read up to here; what was read of a call that has begun is done with. */
static void commit(struct answer *a, size_t at)
{
    a->at = at;
    if (a->is_begun) a->lo = at;
}

static enum go next_phase(struct answer *a, enum phase p)
{
    if (a->phase != P_OVER) a->phase = p;
    return GO;
}

/* ------------------------------------------------------------------ names and short texts */

/* Up to the literal `end` (left out) into *out; `cut`, if not 0, also ends it and stays. UNSURE: more
 * is needed. MISFIT: not within the limit, or a byte that no name has. */
static enum fit read_short(struct answer *a, const char *end, char cut, struct buf *out)
{
    for (size_t i = a->at; i < a->in.n; i++) {
        char c = a->in.p[i];
        enum fit fit = match_text(a, i, end);
        bool is_cut = c == cut && cut && fit == MISFIT;
        if (fit == UNSURE) return UNSURE;
        if (fit == FIT || is_cut) {
            out->n = 0;
            buf_put(out, a->in.p + a->at, i - a->at);
            commit(a, is_cut ? i : i + strlen(end));
            return FIT;
        }
        if (i - a->at >= NAME_BYTES_MAX || (unsigned char)c < 0x20 || (c && strchr("{}<>\"", c)))
            return MISFIT;
    }
    return UNSURE;
}

static struct str strip(struct str s)
{
    while (s.n && is_blank(s.p[0])) s.p++, s.n--;
    while (s.n && is_blank(s.p[s.n - 1])) s.n--;
    return s;
}

static bool is_known(const struct answer *a, struct str name)
{
    for (size_t i = 0; a->s.tools && i < a->s.tools->n; i++)
        if (str_eq(a->s.tools->v[i].name, name)) return true;
    return false;
}

/* The name as it was read becomes the call's; false: it is none. */
static bool take_name(struct answer *a)
{
    const struct call_format *f = a->row;
    struct str s = strip(buf_str(&a->word)), cut = str_of(f->name_cut);
    if (f->has_own_ids) {
        a->id.n = 0;
        buf_put_str(&a->id, s);
        size_t n = s.n;
        while (n > 0 && s.p[n - 1] >= '0' && s.p[n - 1] <= '9') n--;
        if (n > 0 && n < s.n && s.p[n - 1] == ':') s.n = n - 1;
        if (s.n > 10 && memcmp(s.p, "functions.", 10) == 0) s.p += 10, s.n -= 10;
    }
    const char *at = cut.n && s.n ? memmem(s.p, s.n, cut.p, cut.n) : NULL;
    if (at) s = strip((struct str){s.p, (size_t)(at - s.p)});
    for (size_t i = 0; i < s.n; i++)
        if (is_blank(s.p[i]) || strchr("()[]", s.p[i])) return false;
    if (s.n == 0 || (a->is_bare && f->has_known_names && !is_known(a, s))) return false;
    a->name.n = 0;
    buf_put_str(&a->name, s);
    a->has_name = true;
    return true;
}

static enum go run_name(struct answer *a)
{
    static const char cuts[] = {
        [ARGS_JSON] = '{', [ARGS_TAGS] = '<', [ARGS_PYTHON] = 0, [ARGS_GEMMA] = 0};
    enum call_args args = a->row->args;
    enum fit fit = read_short(a, a->row->name_end, cuts[args], &a->word);
    if (fit == UNSURE) return starve(a);
    if (fit == MISFIT || !take_name(a)) return refuse(a);
    a->args.n = 0;
    if (args == ARGS_TAGS) return next_phase(a, P_TAG);
    if (args == ARGS_JSON)
        literal_begin(&a->lit, LITERAL_JSON);
    else
        literal_begin_arguments(&a->lit, args == ARGS_PYTHON ? LITERAL_PYTHON : LITERAL_GEMMA,
                                &a->args);
    return next_phase(a, P_ARGS);
}

/* ------------------------------------------------------------------ arguments as one value */

/* The running literal read that many bytes on. A word that fits nowhere is not lost. */
static enum go was_fed(struct answer *a, size_t used, enum literal_state *state)
{
    size_t held = literal_held(&a->lit);
    a->at += used;
    if (a->is_begun) a->lo = a->at - held;
    if (*state == LITERAL_BAD) a->at -= held;
    if (!a->is_begun && a->at - a->lo > HELD_BYTES_MAX) *state = LITERAL_BAD;
    return *state == LITERAL_MORE ? MORE : GO;
}

/* Feed the running literal; it is an object, and nothing else. GO: *state tells of its end. */
static enum go feed_object(struct answer *a, enum literal_state *state)
{
    struct str rest = {a->in.p + a->at, a->in.n - a->at};
    *state = LITERAL_MORE;
    if (!a->has_args && a->args.n == 0) {
        while (rest.n && is_blank(rest.p[0])) rest.p++, rest.n--, a->at++;
        if (rest.n == 0) return MORE;
        if (rest.p[0] != '{') return *state = LITERAL_BAD, GO;
    }
    a->has_args = true;
    size_t used = literal_feed(&a->lit, rest, &a->args, state);
    if (a->has_name && a->lit.n_keys > 0) call_begin(a);
    if (a->is_begun) {
        emit_arguments(a, buf_str(&a->args));
        a->args.n = 0;
    }
    return was_fed(a, used, state);
}

enum go read_arguments(struct answer *a, enum phase then)
{
    enum literal_state state;
    if (feed_object(a, &state) == MORE) return starve(a);
    if (state == LITERAL_BAD) return misfit(a);
    call_begin(a);
    call_end(a);
    commit(a, a->at);
    return next_phase(a, then);
}

/* ------------------------------------------------------------------ arguments as tags */

static enum go run_tag(struct answer *a)
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

static enum go run_key(struct answer *a)
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
static enum go run_open(struct answer *a)
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

static enum go run_value(struct answer *a)
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

/* ------------------------------------------------------------------ an object with its name in it */

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

static enum go run_object(struct answer *a)
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

/* ------------------------------------------------------------------ around a call */

static enum go run_section(struct answer *a)
{
    size_t n = 0;
    enum fit fit = match(a, a->row->first ? a->row->first : "", a->at, &n);
    if (fit == UNSURE) return starve(a);
    if (fit == MISFIT) return refuse(a);
    a->at += n;
    return next_phase(a, P_BEFORE);
}

static enum go run_before(struct answer *a)
{
    size_t n = 0;
    enum fit fit = match(a, a->row->before ? a->row->before : "", a->at, &n);
    if (fit == UNSURE) return starve(a);
    if (fit == MISFIT) return refuse(a);
    a->at += n;
    return next_phase(a, a->row->body == CALL_OBJECT ? P_OBJECT : P_NAME);
}

/* What ends a call or a section may be missing; a part of it at the end of the text is left out. */
static enum go run_after(struct answer *a)
{
    size_t n = 0;
    enum fit fit = match(a, a->row->after ? a->row->after : "", a->at, &n);
    if (fit == UNSURE && !a->is_ended) return MORE;
    a->at = a->lo = fit == UNSURE ? a->in.n : fit == FIT ? a->at + n : a->at;
    return next_phase(a, P_NEXT);
}

static enum go run_next(struct answer *a)
{
    size_t n = 0, n_next = 0;
    enum fit close = match(a, a->row->close, a->at, &n);
    enum fit next = match(a, a->row->next, a->at, &n_next);
    if (close == UNSURE && !a->is_ended) return MORE;
    if (close == UNSURE) n = n == SIZE_MAX ? a->in.n - a->at : n, close = FIT;
    if (close != FIT && next == UNSURE && !a->is_ended) return MORE;
    a->lo = a->at;
    if (close != FIT && next == FIT && a->at < a->in.n) {
        call_reset(a);
        a->at += n_next;
        return next_phase(a, P_BEFORE);
    }
    if (close == FIT) a->lo = a->at = a->at + n;
    a->scan = a->solid = a->lo;
    a->phase = P_CONTENT;
    return GO;
}

enum go run_call_phase(struct answer *a)
{
    switch (a->phase) {
    case P_SECTION:
        return run_section(a);
    case P_BEFORE:
        return run_before(a);
    case P_NAME:
        return run_name(a);
    case P_ARGS:
        return read_arguments(a, P_AFTER);
    case P_TAG:
        return run_tag(a);
    case P_KEY:
        return run_key(a);
    case P_OPEN:
        return run_open(a);
    case P_VALUE:
        return run_value(a);
    case P_OBJECT:
        return run_object(a);
    case P_AFTER:
        return run_after(a);
    case P_NEXT:
        return run_next(a);
    case P_START:
    case P_REASONING:
    case P_LEAD:
    case P_CONTENT:
    case P_HEADER:
    case P_BODY:
    case P_OVER:
        break;
    }
    return MORE;
}
