/* pretok.c - cutting normalized text into the pieces that the model encodes one by one.
 *
 * Each step reads the list of pieces the step before left and writes the next; the last step of a
 * splitting kind hands its pieces straight on, so the usual pattern runs without any list.
 */
#include <stdlib.h>

#include "base/utf8.h"
#include "text/splitter.h"
#include "text/tokenizer_impl.h"

void pretok_scratch_free(struct pretok_scratch *s)
{
    for (int i = 0; i < 2; i++) {
        free(s->list[i]);
        buf_free(&s->text[i]);
    }
    *s = (struct pretok_scratch){0};
}

/* Where a step's pieces go: to the list `to`, or out of the pipeline. */
struct sink {
    const struct pretok *p;
    struct str text; /* that the pieces lie in */
    int to;          /* -1: emit */
    size_t origin;   /* a piece that begins here ... */
    bool first;      /* ... is the text's first, if this is set */
};

static void put_piece(const struct sink *k, size_t at, size_t end)
{
    if (at == end) return;
    if (k->to < 0) {
        k->p->emit(k->p->ctx, (struct str){k->text.p + at, end - at});
        return;
    }
    struct pretok_scratch *s = k->p->scratch;
    int to = k->to;
    if (s->n[to] == s->cap[to]) {
        s->cap[to] = s->cap[to] ? s->cap[to] * 2 : 64;
        s->list[to] = xrealloc(s->list[to], s->cap[to] * sizeof *s->list[to]);
    }
    s->list[to][s->n[to]++] = (struct piece){at, end - at, k->first && at == k->origin};
}

/* ------------------------------------------------------------------ splitting */

/* Applies a behavior to the alternation of matches and gaps, holding back one segment. */
struct joiner {
    const struct sink *sink;
    enum split_behavior behavior;
    bool any, match;   /* is a segment held, and is it a match? */
    size_t start, end; /* the held segment */
};

static void join_flush(struct joiner *j)
{
    if (j->any) put_piece(j->sink, j->start, j->end);
    j->any = false;
}

static void join_put(struct joiner *j, size_t start, size_t end, bool match)
{
    bool merge = false;
    switch (j->behavior) {
    case SPLIT_REMOVED:
        if (!match) put_piece(j->sink, start, end);
        return;
    case SPLIT_ISOLATED:
        put_piece(j->sink, start, end);
        return;
    case SPLIT_MERGED_WITH_PREVIOUS:
        merge = j->any && match && !j->match;
        break;
    case SPLIT_MERGED_WITH_NEXT:
        merge = j->any && !match && j->match;
        break;
    case SPLIT_CONTIGUOUS:
        merge = j->any && match == j->match;
        break;
    }
    if (!merge) {
        join_flush(j);
        j->start = start;
    }
    j->any = true;
    j->end = end;
    j->match = match;
}

static int split_piece(const struct pre_step *step, const struct sink *k, struct piece piece)
{
    struct joiner j = {.sink = k, .behavior = step->behavior};
    struct str text = {k->text.p + piece.at, piece.n};
    size_t done = 0, from = 0, start, end, base = piece.at;
    int found = 0;
    bool any = false;
    while (from <= text.n &&
           (found = pattern_find(&step->pattern, k->p->regex, text, from, &start, &end)) > 0) {
        if (end == start && any && start == done) { /* empty, right behind the match before */
            if (end >= text.n) break;
            int len;
            utf8_next(text.p + end, text.n - end, &len);
            from = end + (size_t)len;
            continue;
        }
        if (start > done) join_put(&j, base + done, base + start, step->invert);
        join_put(&j, base + start, base + end, !step->invert);
        done = from = end;
        any = true;
    }
    TRY(found);
    if (done < text.n) join_put(&j, base + done, base + text.n, step->invert);
    join_flush(&j);
    return 0;
}

static void split_known(const struct pre_step *step, const struct sink *k, struct piece piece)
{
    struct str text = {k->text.p + piece.at, piece.n};
    for (size_t i = 0, end; i < text.n; i = end) {
        end = splitter_next((enum splitter)step->known, text, i);
        put_piece(k, piece.at + i, piece.at + end);
    }
}

/* ------------------------------------------------------------------ steps that change the text */

static bool begins_with(struct str s, struct str with)
{
    return s.n >= with.n && memcmp(s.p, with.p, with.n) == 0;
}

static int rewrite_piece(const struct pre_step *step, struct str s, bool first, struct buf *out,
                         struct regex_scratch *regex)
{
    static const struct pattern space = {.literal = {" ", 1}};
    if (step->kind == PRE_BYTE_CHARS) {
        put_byte_chars(out, s);
        return 0;
    }
    if (step->kind == PRE_PREFIX_SPACE) {
        if (s.p[0] != ' ') buf_putc(out, ' ');
        buf_put_str(out, s);
        return 0;
    }
    bool prepend = step->scheme == PREPEND_ALWAYS || (step->scheme == PREPEND_FIRST && first);
    if (prepend && s.p[0] != ' ' && !begins_with(s, step->content)) buf_put_str(out, step->content);
    return pattern_replace(&space, regex, s, step->content, out);
}

/* ------------------------------------------------------------------ the pipeline */

static int run_step(const struct pretok *p, const struct pre_step *step, struct sink *k, int from,
                    struct str *text)
{
    struct pretok_scratch *s = p->scratch;
    bool rewrites = step->kind != PRE_SPLIT && step->kind != PRE_SPLIT_KNOWN;
    struct buf *out = &s->text[text->p == s->text[0].p]; /* not the one that is read */
    if (rewrites) out->n = 0;
    for (size_t i = 0; i < s->n[from]; i++) {
        struct piece piece = s->list[from][i];
        k->origin = piece.at;
        k->first = piece.first;
        if (step->kind == PRE_SPLIT) {
            TRY(split_piece(step, k, piece));
        } else if (step->kind == PRE_SPLIT_KNOWN) {
            split_known(step, k, piece);
        } else {
            k->origin = out->n;
            struct str in = {text->p + piece.at, piece.n};
            TRY(rewrite_piece(step, in, piece.first, out, p->regex));
            put_piece(k, k->origin, out->n);
        }
    }
    if (rewrites) *text = (struct str){out->p ? out->p : "", out->n};
    return rewrites && out->overflow ? SL_ETOOLARGE : 0;
}

int pretok_run(const struct pretok *p, struct str text, bool first)
{
    struct pretok_scratch *s = p->scratch;
    int from = 0;
    if (text.n == 0) return 0;
    s->n[0] = 0;
    s->text[0].max = s->text[1].max = (size_t)ENCODE_TEXT_MAX * 4;
    put_piece(&(struct sink){.p = p, .text = text, .first = first}, 0, text.n);
    for (int i = 0; i < p->n_steps; i++) {
        const struct pre_step *step = &p->steps[i];
        bool splits = step->kind == PRE_SPLIT || step->kind == PRE_SPLIT_KNOWN;
        struct sink k = {.p = p, .text = text, .to = !from};
        if (splits && i == p->n_steps - 1) k.to = -1;
        s->n[!from] = 0;
        TRY(run_step(p, step, &k, from, &text));
        if (k.to < 0) return 0;
        from = !from;
    }
    for (size_t i = 0; i < s->n[from]; i++)
        p->emit(p->ctx, (struct str){text.p + s->list[from][i].at, s->list[from][i].n});
    return 0;
}
