/* choice.c - the text machine of one choice. The plain path (no stop strings, no log probabilities)
 * is detok_push and a comparison of positions; everything else hangs off branches that are rarely
 * taken.
 */
#include "api/choice.h"

#include <stdlib.h>

#include "base/utf8.h"

/* SLICE_*: keep one SSE line below 64 KiB, which some clients cannot read past. CONTEXT: prompt ids
 * that decide how the first generated token is spelled. TEXT_MAX: far above what max_tokens can
 * produce. */
enum { SLICE_BYTES = 8192, SLICE_ENTRIES = 16, CONTEXT = 16, TEXT_MAX = 256 << 20 };

static bool wants_prompt_entries(const struct choice *c)
{
    return c->r->kind == API_COMPLETION && c->r->f.echo && c->r->sampling.n_logprobs >= 0;
}

static uint32_t count_chars(const char *p, size_t n)
{
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)p[i] & 0xC0) != 0x80;
    return count;
}

void choice_init(struct choice *c, const struct api_request *r, const struct api_prompt *prompt)
{
    *c = (struct choice){
        .r = r,
        .prompt = prompt,
        .text = buf_make(TEXT_MAX),
        .stop_string = -1,
        .stop_id = -1,
    };
    detok_init(&c->detok, r->ctx->text->tok, r->f.skip_special);
    size_t n = prompt->n < CONTEXT ? prompt->n : CONTEXT;
    detok_prime(&c->detok, prompt->ids + prompt->n - n, n);
    if (r->f.echo) {
        buf_put_str(&c->text, prompt->text);
        c->limit = c->text.n;
        c->chars = count_chars(prompt->text.p, prompt->text.n);
    }
    c->is_waiting = wants_prompt_entries(c);
}

void choice_parse(struct choice *c, struct str id, int index)
{
    const struct api_request *r = c->r;
    const struct api_formats *f = &r->ctx->formats;
    const struct call_format *calls = r->call_format;
    bool thinks = f->reasoning && !r->keeps_thinking;
    if (!calls && !thinks) return;
    c->answer = answer_new(
        &(struct answer_setup){.calls = calls,
                               .reasoning = thinks ? f->reasoning : NULL,
                               .starts_in_reasoning = thinks && r->prompt_thinks == REASONING_OPEN,
                               .drop_reasoning = !r->f.include_reasoning,
                               .tools = &r->tool_set,
                               .id_seed = id,
                               .id_choice = index});
    c->detok.shown = calls ? f->call_ids : f->reasoning_ids;
    c->detok.n_shown = calls ? f->n_call_ids : f->n_reasoning_ids;
}

void choice_free(struct choice *c)
{
    answer_free(c->answer);
    detok_free(&c->detok);
    buf_free(&c->text);
    free(c->lp.v);
    free(c->lp.top);
    free(c->prompt_lp.v);
    free(c->prompt_lp.top);
    ids_free(&c->out_ids);
}

/* ------------------------------------------------------------------ entries */

static struct lp_entry *add_entry(struct lp_list *l, const struct sl_event *ev)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 16;
        l->v = xrealloc(l->v, l->cap * sizeof *l->v);
    }
    l->v[l->n] = (struct lp_entry){
        .token = ev->token, .logprob = ev->logprob, .rank = ev->rank, .top = l->n_top};
    return &l->v[l->n++];
}

static void add_top(struct lp_list *l, int32_t token, float logprob)
{
    if (l->n_top == l->cap_top) {
        l->cap_top = l->cap_top ? l->cap_top * 2 : 64;
        l->top = xrealloc(l->top, l->cap_top * sizeof *l->top);
    }
    l->top[l->n_top++] = (struct lp_top){token, logprob};
    l->v[l->n - 1].n_top++;
}

/* A token that ends an invalid sequence comes with its U+FFFD in front: its own text begins behind
 * that. `delta` is the text that the token x brought. */
static void place_entry(const struct choice *c, struct lp_entry *x, struct str delta)
{
    if (delta.n < 2) return;
    struct buf own = buf_make(TEXT_MAX);
    tokenizer_token_bytes(c->r->ctx->text->tok, x->token, &own);
    if (own.n > 0 && own.n < delta.n && ((unsigned char)own.p[0] & 0xC0) != 0x80 &&
        memcmp(delta.p + delta.n - own.n, own.p, own.n) == 0) {
        x->start += delta.n - own.n;
        x->chars += count_chars(delta.p, delta.n - own.n);
    }
    buf_free(&own);
}

/* Echo with log probabilities: the prompt's tokens become entries, placed in the echoed text by
 * decoding them one by one. */
static void add_prompt_entry(struct choice *c, uint32_t i)
{
    const struct lp_list *from = &c->prompt_lp;
    const struct lp_entry *known = i > 0 && i <= from->n ? &from->v[i - 1] : NULL;
    struct sl_event ev = {.token = c->prompt->ids[i]};
    if (known) ev.logprob = known->logprob, ev.rank = known->rank;
    add_entry(&c->lp, &ev)->is_first = !known;
    for (uint32_t k = 0; known && k < known->n_top; k++) {
        struct lp_top t = from->top[known->top + k];
        add_top(&c->lp, t.token, t.logprob);
    }
}

static void add_prompt_entries(struct choice *c)
{
    const struct api_prompt *p = c->prompt;
    struct detok d;
    struct buf text = buf_make(TEXT_MAX);
    uint32_t chars = 0;
    uint64_t at = 0;
    detok_init(&d, c->r->ctx->text->tok, p->is_text ? false : c->r->f.skip_special);
    for (uint32_t i = 0; i < p->n; i++) {
        add_prompt_entry(c, i);
        struct lp_entry *x = &c->lp.v[c->lp.n - 1];
        x->start = at;
        x->chars = chars;
        text.n = 0;
        if (i > 0 || !p->has_bos) detok_push(&d, p->ids[i], &text);
        place_entry(c, x, buf_str(&text));
        at += text.n;
        chars += count_chars(text.p, text.n);
        if (x->start > c->limit) x->start = c->limit; /* the text as given may be shorter */
        if (x->chars > c->chars) x->chars = c->chars;
    }
    detok_free(&d);
    buf_free(&text);
}

static void end_waiting(struct choice *c)
{
    if (!c->is_waiting) return;
    c->is_waiting = false;
    add_prompt_entries(c);
}

/* ------------------------------------------------------------------ text */

static uint64_t text_end(const struct choice *c)
{
    return c->base + c->text.n;
}

/* U+0000 becomes U+FFFD: databases behind clients refuse it. */
static void replace_nul(struct buf *text, size_t from)
{
    while (from < text->n) {
        char *p = memchr(text->p + from, 0, text->n - from);
        if (!p) return;
        from = (size_t)(p - text->p);
        if (!buf_reserve(text, 2)) return;
        memmove(text->p + from + 3, text->p + from + 1, text->n - from - 1);
        memcpy(text->p + from, "\xEF\xBF\xBD", 3);
        text->n += 2;
        from += 3;
    }
}

/* Released text goes to the answer's parser, which keeps what it needs of it. */
static void feed_answer(struct choice *c)
{
    size_t n = (size_t)(c->limit - c->base);
    answer_push(c->answer, (struct str){c->text.p, n});
    buf_consume(&c->text, n);
    c->base = c->limit;
}

static void finish(struct choice *c, enum sl_finish reason)
{
    c->is_finished = true;
    c->reason = reason;
    c->limit = text_end(c);
    if (!c->answer) return;
    feed_answer(c);
    answer_end(c->answer);
}

/* The text ends at `cut`; entries whose text begins there or later go with it. */
static void cut_text(struct choice *c, uint64_t cut)
{
    c->text.n = (size_t)(cut - c->base);
    while (c->lp.n > c->lp.head && c->lp.v[c->lp.n - 1].start >= cut) c->lp.n--;
}

/* New text stands at text.p[from..]: look for stop strings, move the limit. */
static void scan_text(struct choice *c, size_t from)
{
    const struct api_request *r = c->r;
    bool may_stop = (int64_t)c->n_tokens >= r->f.min_tokens;
    while (from < c->text.n) {
        size_t used;
        struct str rest = {c->text.p + from, c->text.n - from};
        int which = stop_feed(r->stop_set, &c->scan, rest, &used);
        from += used;
        if (which < 0 || !may_stop) continue;
        c->stop_string = which;
        cut_text(c, c->base + from - (r->f.include_stop ? 0 : r->stops[which].n));
        finish(c, SL_FINISH_STOP);
        return;
    }
    c->limit = text_end(c) - stop_held(r->stop_set, &c->scan);
}

static void text_added(struct choice *c, size_t from)
{
    if (c->text.n == from) return;
    if (memchr(c->text.p + from, 0, c->text.n - from)) replace_nul(&c->text, from);
    if (c->r->sampling.n_logprobs >= 0) c->chars += count_chars(c->text.p + from, c->text.n - from);
    if (c->r->stop_set)
        scan_text(c, from);
    else
        c->limit = text_end(c);
    if (!c->answer || c->is_finished) return;
    feed_answer(c);
    if (answer_is_over(c->answer)) finish(c, SL_FINISH_STOP);
}

/* ------------------------------------------------------------------ events */

/* Does this id end the sequence, as the engine sees it? Such a token has no visible text. */
static bool is_end(const struct choice *c, int32_t id)
{
    const struct sl_sampling *s = &c->r->sampling;
    if ((int64_t)c->n_tokens <= c->r->f.min_tokens) return false;
    for (uint32_t i = s->ignore_eos ? s->n_eos : 0; i < s->n_stop_ids; i++)
        if (s->stop_ids[i] == id) return true;
    return false;
}

/* A chat lists visible tokens only; a completion lists every one, as evaluation harnesses count
 * them. */
static bool is_listed(const struct choice *c, int32_t id, bool ends)
{
    if (c->r->kind == API_COMPLETION) return true;
    bool is_shown = !c->r->f.skip_special;
    for (size_t i = 0; i < c->detok.n_shown; i++) is_shown |= c->detok.shown[i] == id;
    return !ends && (is_shown || !tokenizer_is_special(c->r->ctx->text->tok, id));
}

static void add_token_text(struct choice *c)
{
    int32_t id = c->pending.token;
    bool ends = is_end(c, id);
    bool is_kept = c->pending_list && is_listed(c, id, ends);
    if (c->pending_list && !is_kept) {
        c->lp.n--;
        c->lp.n_top = c->lp.v[c->lp.n].top;
    }
    if (ends && !c->r->f.include_stop) return;
    size_t from = c->text.n;
    detok_push(&c->detok, id, &c->text);
    if (is_kept && c->text.n > from)
        place_entry(c, &c->lp.v[c->lp.n - 1], (struct str){c->text.p + from, c->text.n - from});
    text_added(c, from);
}

/* The pending TOKEN event and its alternatives are complete. Thinking counts up to and with the
 * token that closes it. */
static void token_complete(struct choice *c)
{
    bool thinks = c->answer && answer_in_reasoning(c->answer);
    add_token_text(c);
    bool now = c->answer && answer_in_reasoning(c->answer);
    if (now && c->n_reasoning == 0)
        c->n_reasoning = c->n_tokens; /* the opener's tokens too */
    else
        c->n_reasoning += thinks || now;
}

static void token_begin(struct choice *c, const struct sl_event *ev)
{
    if (c->n_tokens++ == 0) c->n_cached = ev->n_cached;
    c->pending = *ev;
    c->tops_left = ev->n_top;
    c->pending_list = NULL;
    if (c->r->f.return_token_ids) ids_push(&c->out_ids, ev->token);
    if (c->r->sampling.n_logprobs < 0) return;
    c->pending_list = &c->lp;
    struct lp_entry *x = add_entry(&c->lp, ev);
    x->start = text_end(c);
    x->chars = c->chars;
}

static void done(struct choice *c, const struct sl_event *ev)
{
    enum sl_finish reason = (enum sl_finish)ev->reason;
    if (c->n_tokens == 0) c->n_cached = ev->n_cached;
    if (reason == SL_FINISH_ERROR) {
        c->error = ev->token < 0 ? ev->token : SL_EINTERNAL;
        finish(c, reason);
        return;
    }
    if (reason == SL_FINISH_STOP && ev->token >= 0) {
        const struct sl_sampling *s = &c->r->sampling;
        bool by_eos = false;
        for (uint32_t i = 0; i < s->n_eos && !s->ignore_eos; i++)
            by_eos |= s->stop_ids[i] == ev->token;
        if (!by_eos) c->stop_id = ev->token;
    }
    size_t from = c->text.n;
    if (c->n_tokens > 0) detok_finish(&c->detok, &c->text); /* not the tail of a prompt */
    text_added(c, from);
    if (!c->is_finished) finish(c, reason);
}

bool choice_event(struct choice *c, const struct sl_event *ev)
{
    if (c->is_finished) return false;
    switch ((enum sl_event_kind)ev->kind) {
    case SL_EV_PROMPT:
        add_entry(&c->prompt_lp, ev);
        c->pending = *ev;
        c->pending_list = &c->prompt_lp;
        c->tops_left = ev->n_top;
        return false;
    case SL_EV_TOKEN:
        end_waiting(c);
        token_begin(c, ev);
        break;
    case SL_EV_TOP:
        if (c->tops_left == 0) return false;
        c->tops_left--;
        if (c->pending_list) add_top(c->pending_list, ev->token, ev->logprob);
        if (c->pending.kind != SL_EV_TOKEN) return false;
        break;
    case SL_EV_DONE:
        end_waiting(c);
        done(c, ev);
        return true;
    }
    if (c->tops_left > 0) return false;
    token_complete(c);
    return true;
}

/* ------------------------------------------------------------------ slices */

/* Where a slice of text from position `at` may end: not past `to`, not inside a character. */
static uint64_t slice_end(const struct choice *c, uint64_t at, uint64_t to)
{
    if (to - at <= SLICE_BYTES) return to;
    uint64_t end = at + SLICE_BYTES;
    while (end > at && ((unsigned char)c->text.p[end - c->base] & 0xC0) == 0x80) end--;
    return end;
}

/* The entries of the content [from, to) of the text; those in front of it were no content's. */
static void take_entries(struct choice *c, const struct answer_event *ev, struct slice *out)
{
    struct lp_list *l = &c->lp;
    while (l->head < l->n && l->v[l->head].start < ev->from) l->head++;
    size_t k = l->head;
    while (k < l->n && l->v[k].start < ev->to) k++;
    if (k == l->head) return;
    out->lp = l->v + l->head;
    out->n_lp = k - l->head;
    out->top = l->top;
    l->head = k;
}

/* How much of the next event's text may go out at once: no more than SLICE_ENTRIES entries. */
static size_t slice_max(const struct choice *c, const struct answer_event *next)
{
    const struct lp_list *l = &c->lp;
    size_t k = 0;
    for (size_t i = l->head; i < l->n && l->v[i].start < next->to; i++)
        if (l->v[i].start > next->from && ++k == SLICE_ENTRIES)
            return (size_t)(l->v[i].start - next->from);
    return SLICE_BYTES;
}

static bool take_event(struct choice *c, struct slice *out)
{
    struct lp_list *l = &c->lp;
    if (l->head == l->n && l->head > 0) l->head = l->n = l->n_top = 0;
    struct answer_event next;
    if (!answer_peek(c->answer, &next)) return false;
    answer_take(c->answer, slice_max(c, &next), &next);
    *out = (struct slice){.text = next.text, .ev = next};
    if (next.kind == ANSWER_CONTENT) take_entries(c, &next, out);
    return true;
}

bool choice_take(struct choice *c, struct slice *out)
{
    struct lp_list *l = &c->lp;
    if (c->is_waiting) return false;
    if (c->answer) return take_event(c, out);
    if (l->head == l->n && l->head > 0) l->head = l->n = l->n_top = 0;
    uint64_t end = slice_end(c, c->base, c->limit);
    size_t k = 0, left = l->n - l->head;
    const struct lp_entry *v = left ? l->v + l->head : NULL;
    while (k < left && k < SLICE_ENTRIES && v[k].start < end) k++;
    if (k < left && v[k].start < end) end = v[k].start;
    if (c->is_finished && end == c->limit)
        while (k < left && k < SLICE_ENTRIES) k++;
    if (end == c->base && k == 0) return false;
    struct str text = {c->text.p, (size_t)(end - c->base)};
    *out = (struct slice){.text = text, .lp = v, .n_lp = k, .top = l->top};
    out->ev = (struct answer_event){.kind = ANSWER_CONTENT, .index = -1, .text = text};
    l->head += k;
    return true;
}

void choice_drop(struct choice *c, size_t n)
{
    if (c->answer) return; /* its texts are the parser's */
    buf_consume(&c->text, n);
    c->base += n;
}

/* All of the answer's events; of the entries the content's are kept, moved down. */
static void gather_answer(struct choice *c, struct answer_whole *w)
{
    struct lp_list *l = &c->lp;
    struct slice s;
    size_t n = 0;
    while (take_event(c, &s)) {
        answer_gather(w, &s.ev);
        if (s.n_lp) memmove(l->v + n, s.lp, s.n_lp * sizeof *l->v);
        n += s.n_lp;
    }
    l->n = n;
    l->head = 0;
}

struct slice choice_all(struct choice *c, struct answer_whole *w)
{
    if (c->answer) gather_answer(c, w);
    struct str text = c->answer ? buf_str(&w->content) : buf_str(&c->text);
    return (struct slice){.text = text, .lp = c->lp.v, .n_lp = c->lp.n, .top = c->lp.top};
}

const char *choice_finish_reason(const struct choice *c)
{
    bool has_calls = c->answer && answer_has_calls(c->answer);
    if (c->reason == SL_FINISH_STOP && has_calls) return "tool_calls";
    return c->reason == SL_FINISH_LENGTH ? "length" : "stop";
}
