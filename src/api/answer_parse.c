/* answer_parse.c - the queue of events, thinking, and content with its search for openers; the
 * calls themselves are read in answer_calls.c.
 */
#include "api/answer_impl.h"

#include <stdlib.h>

#include "base/err.h"

/* IN: text that waits, at most the whole answer's. */
enum { IN_MAX = 512 << 20, SHORT_MAX = 4096, COMPACT = 4096 };

struct answer *answer_new(const struct answer_setup *setup)
{
    struct answer *a = xcalloc(1, sizeof *a);
    a->s = *setup;
    struct buf *const big[] = {&a->in, &a->texts, &a->gap, &a->args, &a->value};
    struct buf *const small[] = {&a->name, &a->id, &a->word, &a->key};
    for (size_t i = 0; i < sizeof big / sizeof *big; i++) *big[i] = buf_make(IN_MAX);
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) *small[i] = buf_make(SHORT_MAX);
    buf_reserve(&a->in, 64); /* never a null pointer */
    bool harmony = (setup->calls && setup->calls->is_harmony) ||
                   (setup->reasoning && setup->reasoning->is_harmony);
    a->phase = harmony                                          ? P_HEADER
               : setup->starts_in_reasoning || setup->reasoning ? P_START
                                                                : P_CONTENT;
    return a;
}

void answer_free(struct answer *a)
{
    if (!a) return;
    struct buf *const all[] = {&a->in,   &a->texts, &a->gap,  &a->args, &a->value,
                               &a->name, &a->id,    &a->word, &a->key};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) buf_free(all[i]);
    free(a->ev);
    free(a);
}

/* ------------------------------------------------------------------ events */

uint64_t pos_of(const struct answer *a, size_t i)
{
    return a->base + i;
}

static struct queued *queue(struct answer *a, enum answer_kind kind, struct str text)
{
    if (a->n_ev == a->cap_ev) {
        a->cap_ev = a->cap_ev ? a->cap_ev * 2 : 16;
        a->ev = xrealloc(a->ev, a->cap_ev * sizeof *a->ev);
    }
    bool is_text = kind == ANSWER_CONTENT || kind == ANSWER_REASONING;
    a->ev[a->n_ev] = (struct queued){
        .kind = kind, .index = is_text ? -1 : a->n_calls - 1, .off = a->texts.n, .n = text.n};
    buf_put_str(&a->texts, text);
    return &a->ev[a->n_ev++];
}

static void say_content(struct answer *a, struct str text, uint64_t from, uint64_t to)
{
    struct queued *last = a->n_ev > a->head ? &a->ev[a->n_ev - 1] : NULL;
    if (last && last->kind == ANSWER_CONTENT && last->to == from && to > from &&
        last->to > last->from) {
        buf_put_str(&a->texts, text);
        last->n += text.n;
        last->to = to;
        return;
    }
    struct queued *q = queue(a, ANSWER_CONTENT, text);
    q->from = from;
    q->to = to;
}

void emit_content(struct answer *a, size_t from, size_t to)
{
    bool is_first = a->n_calls > 0 && !a->has_content; /* behind calls: without leading blanks */
    while (is_first && from < to && is_blank(a->in.p[from])) from++;
    if (from == to) return;
    if (a->gap.n && (a->has_content || a->n_calls == 0))
        say_content(a, buf_str(&a->gap), pos_of(a, from), pos_of(a, from));
    a->gap.n = 0;
    a->has_content = true;
    say_content(a, (struct str){a->in.p + from, to - from}, pos_of(a, from), pos_of(a, to));
}

void emit_reasoning(struct answer *a, struct str text)
{
    if (text.n == 0) return;
    a->has_reasoning = true;
    if (!a->s.drop_reasoning) queue(a, ANSWER_REASONING, text);
}

void emit_arguments(struct answer *a, struct str text)
{
    if (text.n) queue(a, ANSWER_ARGUMENTS, text);
}

void say_call(struct answer *a)
{
    struct queued *q = queue(a, ANSWER_CALL, buf_str(&a->id));
    buf_put_str(&a->texts, buf_str(&a->name));
    q->n_id = a->id.n;
    q->n += a->name.n;
}

void say_call_end(struct answer *a)
{
    queue(a, ANSWER_CALL_END, STR(""));
}

static size_t cut_before(struct str s, size_t max)
{
    if (s.n <= max) return s.n;
    size_t n = max;
    while (n > 0 && ((unsigned char)s.p[n] & 0xC0) == 0x80) n--;
    return n ? n : s.n;
}

bool answer_peek(const struct answer *a, struct answer_event *out)
{
    if (a->head == a->n_ev) return false;
    const struct queued *q = &a->ev[a->head];
    struct str text = {a->texts.p + q->off, q->n};
    *out = (struct answer_event){
        .kind = q->kind, .index = q->index, .text = text, .from = q->from, .to = q->to};
    if (q->kind != ANSWER_CALL) return true;
    out->id = (struct str){text.p, q->n_id};
    out->name = (struct str){text.p + q->n_id, text.n - q->n_id};
    out->text = STR("");
    return true;
}

bool answer_take(struct answer *a, size_t max, struct answer_event *out)
{
    if (!answer_peek(a, out)) {
        a->head = a->n_ev = a->texts.n = 0;
        return false;
    }
    struct queued *q = &a->ev[a->head];
    if (out->text.n > max) {
        out->text.n = cut_before(out->text, max);
        if (out->to - out->from > out->text.n) out->to = out->from + out->text.n;
        q->from = out->to;
        q->off += out->text.n;
        q->n -= out->text.n;
        if (q->n) return true;
    }
    a->head++;
    return true;
}

/* ------------------------------------------------------------------ thinking */

/* At the answer's start: thinking opens here, or (a template's generation prompt opened it) runs
 * already; then an opener is a repetition. */
static enum go run_start(struct answer *a)
{
    size_t i = a->at;
    while (i < a->in.n && is_blank(a->in.p[i]) && i - a->at < FORMAT_BLANKS_MAX) i++;
    enum fit fit = i < a->in.n ? match_text(a, i, a->s.reasoning->open) : UNSURE;
    if (fit == UNSURE && !a->is_ended) return MORE;
    bool is_open = a->s.starts_in_reasoning || fit == FIT;
    if (fit == FIT) a->at = i + strlen(a->s.reasoning->open);
    a->phase = is_open ? P_REASONING : P_CONTENT;
    if (is_open) {
        a->lo = a->scan = a->solid = a->at;
        a->has_text_begun = false; /* one newline is to be left out */
    }
    return GO;
}

static void move_solid(struct answer *a, size_t from, size_t to)
{
    for (size_t i = to; i > from; i--) {
        if (is_blank(a->in.p[i - 1])) continue;
        a->solid = i;
        return;
    }
}

static const char *find(const char *p, size_t n, const char *z)
{
    return n ? memmem(p, n, z, strlen(z)) : NULL;
}

static enum go run_reasoning(struct answer *a)
{
    const char *close = a->s.reasoning->close;
    if (!a->has_text_begun && a->lo < a->in.n) {
        a->has_text_begun = true;
        if (a->in.p[a->lo] == '\n') a->lo++;
        a->scan = a->solid = a->lo;
    }
    const char *hit = find(a->in.p + a->scan, a->in.n - a->scan, close);
    size_t held = hit || a->is_ended ? 0 : held_for(a, a->scan, close);
    size_t end = hit ? (size_t)(hit - a->in.p) : a->in.n - held;
    move_solid(a, a->scan, end);
    if (a->solid > a->lo) {
        emit_reasoning(a, (struct str){a->in.p + a->lo, a->solid - a->lo});
        a->lo = a->solid; /* trailing blanks wait: they are left out at the end */
    }
    a->scan = end;
    if (!hit) return MORE;
    a->lo = a->at = a->scan = a->solid = end + strlen(close);
    a->phase = P_LEAD;
    return GO;
}

static enum go run_lead(struct answer *a)
{
    while (a->lo < a->in.n && (a->in.p[a->lo] == '\n' || a->in.p[a->lo] == '\r')) a->lo++;
    a->at = a->scan = a->solid = a->lo;
    if (a->lo == a->in.n) return MORE;
    a->phase = P_CONTENT;
    return GO;
}

/* ------------------------------------------------------------------ content */

struct opener {
    size_t at, n; /* where it stands, and how much of it is to be skipped */
    const struct call_format *row;
};

static const struct call_format *other_row(const struct call_format *row)
{
    return row->other ? call_format_named(str_of(row->other)) : NULL;
}

/* The first opener from `scan` on. UNSURE: one may begin at o->at; MISFIT: none, o->at is the end. */
static enum fit find_opener(const struct answer *a, struct opener *o)
{
    if (!a->s.calls) return o->at = a->in.n, MISFIT;
    const struct call_format *rows[2] = {a->s.calls, other_row(a->s.calls)};
    for (size_t i = a->scan; i < a->in.n; i++) {
        bool unsure = false;
        for (int k = 0; k < 2 * FORMAT_OPENS; k++) {
            const struct call_format *row = rows[k / FORMAT_OPENS];
            const char *open = row ? row->opens[k % FORMAT_OPENS] : NULL;
            if (!open || open[0] != a->in.p[i]) continue;
            enum fit fit = match_text(a, i, open);
            if (fit == FIT) {
                *o = (struct opener){i, k % FORMAT_OPENS ? 0 : strlen(open), row};
                return FIT;
            }
            unsure |= fit == UNSURE;
        }
        if (unsure && !a->is_ended) return o->at = i, UNSURE;
    }
    return o->at = a->in.n, MISFIT;
}

static void begin_section(struct answer *a, const struct call_format *row, size_t at, bool is_bare)
{
    a->row = row;
    a->is_bare = is_bare;
    a->at = a->section_at = at;
    a->is_section_begun = a->is_other = false;
    a->phase = P_SECTION;
    call_reset(a);
}

/* The answer may be calls without an opener: then they begin with its first letter. */
static enum go try_bare(struct answer *a)
{
    size_t i = a->lo;
    while (i < a->in.n && is_blank(a->in.p[i]) && i - a->lo < FORMAT_BLANKS_MAX) i++;
    if (i == a->in.n) return MORE;
    a->is_bare_tried = true;
    if (a->in.p[i] == '{' || a->in.p[i] == '[') {
        buf_put(&a->gap, a->in.p + a->lo, i - a->lo);
        a->lo = a->scan = a->solid = i;
        begin_section(a, a->s.calls, i, true);
    }
    return GO;
}

static enum go run_content(struct answer *a)
{
    struct opener o = {0};
    bool may_be_bare = a->s.calls && a->s.calls->is_bare;
    if (may_be_bare && !a->is_bare_tried && !a->has_content && a->n_calls == 0)
        if (try_bare(a) == GO && a->phase != P_CONTENT) return GO;
    enum fit fit = find_opener(a, &o);
    move_solid(a, a->scan, o.at);
    a->scan = o.at;
    size_t end = a->s.calls ? a->solid : o.at; /* blanks in front of a call are not shown */
    bool is_last = a->is_ended && fit != FIT;
    if (is_last && a->n_calls == 0) end = a->in.n;
    if (end > a->lo) {
        emit_content(a, a->lo, end);
        a->lo = end;
    }
    if (fit != FIT) return MORE;
    buf_put(&a->gap, a->in.p + a->lo, o.at - a->lo);
    a->lo = o.at;
    begin_section(a, o.row, o.at + o.n, false);
    return GO;
}

enum go refuse(struct answer *a)
{
    const struct call_format *other = other_row(a->row);
    bool same = other && (a->is_bare ? other->is_bare
                                     : str_eq(str_of(other->opens[0]), str_of(a->row->opens[0])));
    if (same && !a->is_section_begun && !a->is_other) {
        a->row = other;
        a->is_other = true;
        a->at = a->section_at;
        a->phase = P_SECTION;
        call_reset(a);
        return GO;
    }
    /* Of a refused opener nothing is read again; behind a call the search begins where it ended. */
    a->scan = a->solid = a->lo;
    if (!a->is_section_begun) {
        a->scan = a->at > a->lo ? a->at : a->lo < a->in.n ? a->lo + 1 : a->lo;
        move_solid(a, a->lo, a->scan);
    }
    a->phase = P_CONTENT;
    call_reset(a);
    return GO;
}

enum go starve(struct answer *a)
{
    if (!a->is_ended) return MORE;
    if (!a->is_begun) return refuse(a);
    a->phase = P_OVER; /* cut off inside a call */
    return MORE;
}

/* ------------------------------------------------------------------ in */

static enum go run(struct answer *a)
{
    switch (a->phase) {
    case P_START:
        return run_start(a);
    case P_REASONING:
        return run_reasoning(a);
    case P_LEAD:
        return run_lead(a);
    case P_CONTENT:
        return run_content(a);
    case P_HEADER:
        return run_header(a);
    case P_BODY:
        return run_body(a);
    case P_OVER:
        a->lo = a->in.n;
        return MORE;
    case P_SECTION:
    case P_BEFORE:
    case P_NAME:
    case P_ARGS:
    case P_TAG:
    case P_KEY:
    case P_OPEN:
    case P_VALUE:
    case P_OBJECT:
    case P_AFTER:
    case P_NEXT:
        break;
    }
    return run_call_phase(a);
}

/* What was read goes, but not at every piece: moving the rest down costs. */
static void compact(struct answer *a)
{
    size_t n = a->lo;
    if (n < COMPACT && n < a->in.n) return;
    buf_consume(&a->in, n);
    a->base += n;
    size_t *const marks[] = {&a->lo, &a->at, &a->scan, &a->solid, &a->section_at};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        *marks[i] = *marks[i] > n ? *marks[i] - n : 0;
}

void answer_push(struct answer *a, struct str text)
{
    if (text.n == 0) return;
    buf_put_str(&a->in, text);
    while (run(a) == GO) continue;
    compact(a);
}

void answer_end(struct answer *a)
{
    a->is_ended = true;
    while (run(a) == GO) continue;
}

bool answer_in_reasoning(const struct answer *a)
{
    if (a->phase == P_START) return a->s.starts_in_reasoning;
    return a->phase == P_REASONING || (a->phase == P_BODY && a->body == BODY_REASONING);
}

bool answer_is_over(const struct answer *a)
{
    return a->phase == P_OVER && !a->is_ended;
}

bool answer_has_calls(const struct answer *a)
{
    return a->n_complete > 0 && a->n_complete == a->n_calls && !a->is_broken;
}

/* ------------------------------------------------------------------ a whole answer */

void answer_gather(struct answer_whole *w, const struct answer_event *ev)
{
    struct answer_call *call = w->n_calls ? &w->calls[w->n_calls - 1] : NULL;
    switch (ev->kind) {
    case ANSWER_CONTENT:
        if (!w->content.max) w->content = buf_make(IN_MAX);
        buf_put_str(&w->content, ev->text);
        break;
    case ANSWER_REASONING:
        if (!w->reasoning.max) w->reasoning = buf_make(IN_MAX);
        buf_put_str(&w->reasoning, ev->text);
        break;
    case ANSWER_CALL:
        w->calls = xrealloc(w->calls, (w->n_calls + 1) * sizeof *w->calls);
        call = &w->calls[w->n_calls++];
        *call =
            (struct answer_call){buf_make(SHORT_MAX), buf_make(SHORT_MAX), buf_make(IN_MAX), false};
        buf_put_str(&call->id, ev->id);
        buf_put_str(&call->name, ev->name);
        break;
    case ANSWER_ARGUMENTS:
        if (call) buf_put_str(&call->arguments, ev->text);
        break;
    case ANSWER_CALL_END:
        if (call) call->is_complete = true;
        break;
    }
}

void answer_whole_free(struct answer_whole *w)
{
    for (size_t i = 0; i < w->n_calls; i++) {
        buf_free(&w->calls[i].id);
        buf_free(&w->calls[i].name);
        buf_free(&w->calls[i].arguments);
    }
    free(w->calls);
    buf_free(&w->content);
    buf_free(&w->reasoning);
}
