/* sse.c - server-sent events of both routes: one line of JSON an event, `data: [DONE]` last.
 *
 * What does not change between a choice's chunks is rendered once (prefix, suffix), so that a plain
 * token costs two copies and one escaped string.
 */
#include "api/out.h"

static bool is_chat(const struct api_response *p)
{
    return p->r->kind == API_CHAT;
}

/* An event up to and with "index":i. */
static void put_head(const struct api_response *p, int i, struct buf *out)
{
    buf_put_str(out, buf_str(&p->head));
    buf_puts(out, "{\"index\":");
    buf_put_i64(out, i);
}

/* From behind the choices to the event's end. */
static void put_tail(const struct api_response *p, struct buf *out)
{
    if (p->r->f.continuous_usage) {
        struct api_usage u = api_response_usage(p);
        buf_puts(out, ",\"usage\":");
        put_usage(&u, out);
    } else if (p->r->f.include_usage) {
        buf_puts(out, ",\"usage\":null");
    }
    buf_puts(out, "}\n\n");
}

void sse_prepare(struct api_response *p)
{
    buf_puts(&p->head, "data: ");
    put_opening(p, is_chat(p) ? "chat.completion.chunk" : "text_completion", &p->head);
    buf_puts(&p->head, "\"choices\":[");
    for (int i = 0; i < p->n; i++) {
        put_head(p, i, &p->choices[i].prefix);
        buf_puts(&p->choices[i].prefix, is_chat(p) ? ",\"delta\":{\"content\":" : ",\"text\":");
    }
    buf_puts(&p->suffix, is_chat(p) ? "}" : "");
    buf_puts(&p->suffix, ",\"logprobs\":null,\"finish_reason\":null}]");
    put_tail(p, &p->suffix);
}

void sse_start(struct api_response *p, struct buf *out)
{
    for (int i = 0; i < p->n && is_chat(p); i++) {
        put_head(p, i, out);
        buf_puts(out, ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                      "\"finish_reason\":null}]");
        if (i == 0 && p->r->f.return_token_ids) {
            buf_puts(out, ",\"prompt_token_ids\":");
            put_id_list(p->r->prompts->ids, p->r->prompts->n, out);
        }
        put_tail(p, out);
    }
    for (int i = 0; i < p->n; i++) sse_drain(p, i, out);
}

/* token_ids since the last chunk; the prompt's with a completion's first. */
static void put_new_ids(const struct api_response *p, struct response_choice *x, struct buf *out)
{
    struct choice *c = &x->c;
    if (!p->r->f.return_token_ids) return;
    if (!is_chat(p) && !x->has_prompt_ids) {
        buf_puts(out, ",\"prompt_token_ids\":");
        put_id_list(c->prompt->ids, c->prompt->n, out);
    }
    x->has_prompt_ids = true;
    buf_puts(out, ",\"token_ids\":");
    size_t n = c->out_ids.n - c->ids_sent;
    put_id_list(n ? c->out_ids.v + c->ids_sent : NULL, n, out);
    c->ids_sent = c->out_ids.n;
}

/* An event up to the end of its text, or of what it has instead of text. */
static void put_delta(struct api_response *p, int i, const struct slice *s, struct buf *out)
{
    const struct answer_event *ev = &s->ev;
    if (ev->kind == ANSWER_CONTENT) {
        buf_put_str(out, buf_str(&p->choices[i].prefix));
        json_put_str(out, s->text);
        return;
    }
    put_head(p, i, out);
    buf_puts(out, ",\"delta\":{");
    if (ev->kind == ANSWER_REASONING) {
        put_reasoning(p, ev->text, out);
        return;
    }
    buf_puts(out, "\"tool_calls\":[");
    if (ev->kind == ANSWER_CALL) {
        put_call_opening(ev->index, ev, out);
    } else {
        buf_puts(out, "{\"index\":");
        buf_put_i64(out, ev->index);
        buf_puts(out, ",\"function\":{\"arguments\":");
    }
    json_put_str(out, ev->text);
    buf_puts(out, "}}]");
}

static void put_text_chunk(struct api_response *p, int i, const struct slice *s, struct buf *out)
{
    const struct api_fields *f = &p->r->f;
    struct response_choice *x = &p->choices[i];
    bool logprobs = p->r->sampling.n_logprobs >= 0 && s->ev.kind == ANSWER_CONTENT;
    put_delta(p, i, s, out);
    if (!logprobs && !f->return_token_ids && !f->continuous_usage) {
        buf_put_str(out, buf_str(&p->suffix));
        return;
    }
    buf_puts(out, is_chat(p) ? "},\"logprobs\":" : ",\"logprobs\":");
    if (!logprobs)
        buf_puts(out, "null");
    else if (is_chat(p))
        put_chat_logprobs(p, s, out);
    else
        put_legacy_logprobs(p, s, out);
    buf_puts(out, ",\"finish_reason\":null");
    put_new_ids(p, x, out);
    buf_puts(out, "}]");
    put_tail(p, out);
}

static void put_finish_chunk(struct api_response *p, int i, struct buf *out)
{
    struct response_choice *x = &p->choices[i];
    put_head(p, i, out);
    buf_puts(out, is_chat(p) ? ",\"delta\":{}" : ",\"text\":\"\"");
    buf_puts(out, ",\"logprobs\":null");
    put_finish(&x->c, out);
    put_new_ids(p, x, out);
    buf_puts(out, "}]");
    put_tail(p, out);
}

void sse_drain(struct api_response *p, int choice, struct buf *out)
{
    struct response_choice *x = &p->choices[choice];
    struct slice s;
    if (x->is_closed || x->c.reason == SL_FINISH_ERROR) return;
    while (choice_take(&x->c, &s)) {
        if (s.ev.kind != ANSWER_CALL_END) put_text_chunk(p, choice, &s, out);
        choice_drop(&x->c, s.text.n);
    }
    if (!x->c.is_finished) return;
    put_finish_chunk(p, choice, out);
    x->is_closed = true;
}

void sse_end(struct api_response *p, struct buf *out)
{
    if (p->r->f.include_usage || has_timings(p)) {
        struct api_usage u = api_response_usage(p);
        buf_put_str(out, buf_str(&p->head));
        buf_putc(out, ']');
        if (p->r->f.include_usage) {
            buf_puts(out, ",\"usage\":");
            put_usage(&u, out);
        }
        put_timings(p, out);
        buf_puts(out, "}\n\n");
    }
    buf_puts(out, "data: [DONE]\n\n");
}

void sse_error(struct api_response *p, const struct sl_error *e, struct buf *out)
{
    (void)p;
    buf_puts(out, "data: ");
    api_error_body(e, out);
    buf_puts(out, "\n\ndata: [DONE]\n\n");
}
