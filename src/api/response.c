/* response.c - the life of an answer: engine events of its choices in, bytes out, usage at the end;
 * and error bodies.
 *
 * Owns one struct choice for each engine request. Belongs to the io thread.
 */
#include <stdio.h>
#include <stdlib.h>

#include "api/parts.h"
#include "base/utf8.h"

/* How a form of request is answered. */
struct surface_writer {
    const char *id_prefix;
    bool has_parts; /* drain is called for whole answers too, and gathers them */
    void (*start)(struct api_response *p, struct buf *out);
    void (*drain)(struct api_response *p, int choice, struct buf *out);
    void (*end)(struct api_response *p, struct buf *out);
    void (*body)(struct api_response *p, struct buf *out);
    void (*error)(struct api_response *p, const struct sl_error *e, struct buf *out);
};

static const struct surface_writer writers[] = {
    [API_CHAT] = {"chatcmpl-", false, sse_start, sse_drain, sse_end, chat_body, sse_error},
    [API_COMPLETION] = {"cmpl-", false, sse_start, sse_drain, sse_end, completion_body, sse_error},
    [API_RESPONSE] = {"resp_", true, responses_start, responses_drain, responses_end,
                      responses_body, responses_error},
    [API_MESSAGE] = {"msg_", true, anthropic_start, anthropic_drain, anthropic_end, anthropic_body,
                     anthropic_error},
    [API_EMBEDDING] = {.id_prefix = "embd-", .body = embedding_body},
    [API_RERANK] = {.id_prefix = "rerank-", .body = rerank_body},
    [API_SCORE] = {.id_prefix = "score-", .body = score_body},
};

static const struct surface_writer *writer_of(const struct api_response *p)
{
    return &writers[p->r->surface];
}

/* One event's fixed parts are small, even with a long model name; one token's bytes too. */
enum { PART_BYTES_MAX = 1 << 20 };

struct api_response *api_response_new(const struct api_request *r, const char *id_hex,
                                      int64_t created)
{
    struct api_response *p = xcalloc(1, sizeof *p);
    *p = (struct api_response){.r = r,
                               .created = created,
                               .n = api_n_choices(r),
                               .head = buf_make(PART_BYTES_MAX),
                               .suffix = buf_make(PART_BYTES_MAX),
                               .scratch = buf_make(PART_BYTES_MAX)};
    snprintf(p->id, sizeof p->id, "%s%s", writer_of(p)->id_prefix, id_hex);
    p->choices = xcalloc((size_t)p->n, sizeof *p->choices);
    for (int i = 0; i < p->n; i++) {
        choice_init(&p->choices[i].c, r, &r->prompts[i / (int)r->f.n]);
        if (r->kind == API_CHAT) choice_parse(&p->choices[i].c, str_of(p->id), i);
        p->choices[i].prefix = buf_make(PART_BYTES_MAX);
    }
    if (writer_of(p)->has_parts)
        p->parts = parts_new();
    else if (r->f.stream)
        sse_prepare(p);
    return p;
}

void api_response_free(struct api_response *p)
{
    if (!p) return;
    for (int i = 0; i < p->n; i++) {
        choice_free(&p->choices[i].c);
        buf_free(&p->choices[i].prefix);
        free(p->choices[i].vector);
    }
    buf_free(&p->head);
    buf_free(&p->suffix);
    buf_free(&p->scratch);
    parts_free(p->parts);
    free(p->choices);
    free(p);
}

void api_response_start(struct api_response *p, struct buf *out)
{
    if (p->r->f.stream) writer_of(p)->start(p, out);
}

bool api_response_event(struct api_response *p, int choice, const struct sl_event *ev,
                        struct buf *out)
{
    ASSERT(choice >= 0 && choice < p->n);
    struct choice *c = &p->choices[choice].c;
    if (p->r->embed && ev->kind == SL_EV_DONE && ev->pooled) embed_take(p, choice, ev->pooled);
    if (!choice_event(c, ev)) return false;
    if (p->r->f.stream || p->parts) writer_of(p)->drain(p, choice, out);
    return c->is_finished && ev->kind != SL_EV_DONE;
}

bool api_response_complete(const struct api_response *p)
{
    for (int i = 0; i < p->n; i++)
        if (!p->choices[i].c.is_finished) return false;
    return true;
}

int api_response_failed(const struct api_response *p)
{
    for (int i = 0; i < p->n; i++)
        if (p->choices[i].c.reason == SL_FINISH_ERROR) return p->choices[i].c.error;
    return 0;
}

void api_response_finish(struct api_response *p, struct buf *out)
{
    if (p->r->f.stream)
        writer_of(p)->end(p, out);
    else
        writer_of(p)->body(p, out);
}

struct api_usage api_response_usage(const struct api_response *p)
{
    struct api_usage u = {0};
    for (int i = 0; i < p->n; i++) {
        const struct choice *c = &p->choices[i].c;
        u.completion_tokens += c->n_tokens;
        u.reasoning_tokens += c->n_reasoning;
        if (i % (int)p->r->f.n) continue; /* the prompt counts once, however many choices it has */
        u.prompt_tokens += c->prompt->n;
        u.cached_tokens += c->n_cached;
    }
    return u;
}

enum sl_finish api_response_reason(const struct api_response *p, int choice)
{
    return p->choices[choice].c.reason;
}

/* ------------------------------------------------------------------ errors */

void api_error_body(const struct sl_error *e, struct buf *out)
{
    struct str text = str_of(e->text), param = str_of(e->param);
    text.n -= utf8_incomplete_tail(text.p, text.n); /* cut by the size of the field */
    if (text.n == 0) text = str_of(sl_err_type(e->code));
    buf_puts(out, "{\"error\":{\"message\":");
    json_put_str(out, text);
    buf_puts(out, ",\"type\":");
    json_put_str(out, str_of(sl_err_type(e->code)));
    buf_puts(out, ",\"param\":");
    if (param.n)
        json_put_str(out, param);
    else
        buf_puts(out, "null");
    buf_puts(out, ",\"code\":");
    if (sl_err_openai_code(e->code))
        json_put_str(out, str_of(sl_err_openai_code(e->code)));
    else
        buf_puts(out, "null");
    buf_puts(out, "}}");
}

void api_error_body_as(enum api_kind kind, const struct sl_error *e, struct buf *out)
{
    if (kind == API_MESSAGE)
        anthropic_error_body(e, out);
    else
        api_error_body(e, out);
}

int api_error_status_as(enum api_kind kind, const struct sl_error *e)
{
    return kind == API_MESSAGE ? anthropic_error_status(e) : sl_err_status(e->code);
}

void api_response_error(struct api_response *p, const struct sl_error *e, struct buf *out)
{
    writer_of(p)->error(p, e, out);
}
