/* parts.c - see parts.h. */
#include "api/parts.h"

#include <stdlib.h>

/* Bounds what one answer may gather; far above what max_tokens can produce. */
enum { TEXT_MAX = 256 << 20, NAME_MAX_BYTES = 1 << 16 };

struct parts *parts_new(void)
{
    struct parts *y = xcalloc(1, sizeof *y);
    y->text = y->logprobs = y->done = buf_make(TEXT_MAX);
    y->call_id = y->name = buf_make(NAME_MAX_BYTES);
    return y;
}

void parts_free(struct parts *y)
{
    if (!y) return;
    buf_free(&y->text);
    buf_free(&y->logprobs);
    buf_free(&y->done);
    buf_free(&y->call_id);
    buf_free(&y->name);
    free(y);
}

static void end_part(struct api_response *p, const struct part_writer *w, bool is_cut,
                     struct buf *out)
{
    struct parts *y = p->parts;
    if (y->open == PART_NONE) return;
    if (y->done.n) buf_putc(&y->done, ',');
    w->end(p, is_cut || (y->open == PART_CALL && !y->is_whole_call), out);
    y->open = PART_NONE;
    y->text.n = y->logprobs.n = y->call_id.n = y->name.n = 0;
}

static void begin_part(struct api_response *p, const struct part_writer *w, enum part_kind kind,
                       struct buf *out)
{
    end_part(p, w, false, out);
    p->parts->open = kind;
    p->parts->n_parts++;
    p->parts->is_whole_call = false;
    w->begin(p, out);
}

static void grow(struct api_response *p, const struct part_writer *w, enum part_kind kind,
                 const struct answer_event *ev, const struct slice *lp, struct buf *out)
{
    if (p->parts->open != kind) begin_part(p, w, kind, out);
    buf_put_str(&p->parts->text, ev->text);
    w->grow(p, ev->text, lp, out);
}

/* One event of the answer; lp: the entries that go with a content's text. */
static void take_event(struct api_response *p, const struct part_writer *w,
                       const struct answer_event *ev, const struct slice *lp, struct buf *out)
{
    switch (ev->kind) {
    case ANSWER_CONTENT:
        grow(p, w, PART_TEXT, ev, lp, out);
        break;
    case ANSWER_REASONING:
        grow(p, w, PART_REASONING, ev, NULL, out);
        break;
    case ANSWER_CALL:
        end_part(p, w, false, out);
        buf_put_str(&p->parts->call_id, ev->id);
        buf_put_str(&p->parts->name, ev->name);
        begin_part(p, w, PART_CALL, out);
        break;
    case ANSWER_ARGUMENTS:
        grow(p, w, PART_CALL, ev, NULL, out);
        break;
    case ANSWER_CALL_END:
        p->parts->is_whole_call = true;
        end_part(p, w, false, out);
        break;
    }
}

/* is_cut: the answer ended by its length. Without any part it gets an empty text. */
static void end_answer(struct api_response *p, const struct part_writer *w, bool is_cut,
                       struct buf *out)
{
    if (p->parts->n_parts == 0) begin_part(p, w, PART_TEXT, out);
    end_part(p, w, is_cut, out);
}

void parts_drain(struct api_response *p, const struct part_writer *w, struct buf *out)
{
    struct response_choice *x = &p->choices[0];
    struct slice s;
    if (x->is_closed || x->c.reason == SL_FINISH_ERROR) return;
    while (choice_take(&x->c, &s)) {
        take_event(p, w, &s.ev, &s, out);
        choice_drop(&x->c, s.text.n);
    }
    if (!x->c.is_finished) return;
    end_answer(p, w, x->c.reason == SL_FINISH_LENGTH, out);
    x->is_closed = true;
}
