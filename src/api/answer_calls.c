/* answer_calls.c - sections of calls: patterns, names, arguments as one value. A row of
 * answer_formats.c says what stands where; each phase below reads one of its fields.
 */
#include "api/answer_impl.h"

#include "base/err.h"

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
enum go misfit(struct answer *a)
{
    if (!a->is_begun) return refuse(a);
    a->is_broken |= !a->is_closed;
    a->lo = a->at;
    return refuse(a);
}

/* Read up to here; what was read of a call that has begun is done with. */
void commit(struct answer *a, size_t at)
{
    a->at = at;
    if (a->is_begun) a->lo = at;
}

enum go next_phase(struct answer *a, enum phase p)
{
    if (a->phase != P_OVER) a->phase = p;
    return GO;
}

/* ------------------------------------------------------------------ names and short texts */

/* Up to the literal `end` (left out) into *out; `cut`, if not 0, also ends it and stays. UNSURE: more
 * is needed. MISFIT: not within the limit, or a byte that no name has. */
enum fit read_short(struct answer *a, const char *end, char cut, struct buf *out)
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

struct str strip(struct str s)
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
enum go was_fed(struct answer *a, size_t used, enum literal_state *state)
{
    size_t held = literal_held(&a->lit);
    a->at += used;
    if (a->is_begun) a->lo = a->at - held;
    if (*state == LITERAL_BAD) a->at -= held;
    if (!a->is_begun && a->at - a->lo > HELD_BYTES_MAX) *state = LITERAL_BAD;
    return *state == LITERAL_MORE ? MORE : GO;
}

/* Feed the running literal; it is an object, and nothing else. GO: *state tells of its end. */
enum go feed_object(struct answer *a, enum literal_state *state)
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
