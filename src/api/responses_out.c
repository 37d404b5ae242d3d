/* responses_out.c - answers in the Responses format: the response object, and the events of its
 * stream, each numbered.
 *
 * Source: OpenAI API reference; section 5.4 of the wire specification has the order of events.
 */
#include <stdio.h>
#include <time.h>

#include "api/kin.h"
#include "api/parts.h"

/* ------------------------------------------------------------------ pieces */

/* An event up to its members; each begins with a comma. */
static void event_begin(struct api_response *p, const char *type, struct buf *out)
{
    buf_printf(out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%llu", type, type,
               (unsigned long long)p->parts->n_events++);
}

static void event_end(struct buf *out)
{
    buf_puts(out, "}\n\n");
}

static const char *item_prefix(enum part_kind kind)
{
    switch (kind) {
    case PART_REASONING:
        return "rs";
    case PART_CALL:
        return "fc";
    case PART_TEXT:
    case PART_NONE:
        break;
    }
    return "msg";
}

static void put_item_id(const struct api_response *p, struct buf *out)
{
    const char *hex = p->id + sizeof "resp_" - 1;
    buf_printf(out, "\"%s_%.*s%04x\"", item_prefix(p->parts->open), 28, hex, p->parts->n_parts - 1);
}

/* ,"item_id":...,"output_index":... of the open part */
static void put_place(const struct api_response *p, struct buf *out)
{
    buf_puts(out, ",\"item_id\":");
    put_item_id(p, out);
    buf_printf(out, ",\"output_index\":%d", p->parts->n_parts - 1);
}

static bool is_summary(const struct api_response *p)
{
    return p->parts->open == PART_REASONING && p->r->response->wants_summary;
}

/* The content part of the open item. */
static void put_content_part(const struct api_response *p, struct str text, struct str logprobs,
                             struct buf *out)
{
    bool is_text = p->parts->open == PART_TEXT;
    buf_puts(out, is_text         ? "{\"type\":\"output_text\",\"text\":"
                  : is_summary(p) ? "{\"type\":\"summary_text\",\"text\":"
                                  : "{\"type\":\"reasoning_text\",\"text\":");
    json_put_str(out, text);
    if (is_text) {
        buf_puts(out, ",\"annotations\":[],\"logprobs\":[");
        buf_put_str(out, logprobs);
        buf_putc(out, ']');
    }
    buf_putc(out, '}');
}

/* The open item; `status` "in_progress": as it begins, empty. */
static void put_item(const struct api_response *p, const char *status, struct buf *out)
{
    const struct parts *y = p->parts;
    bool is_empty = strcmp(status, "in_progress") == 0;
    struct str text = is_empty ? STR("") : buf_str(&y->text);
    buf_puts(out, "{\"id\":");
    put_item_id(p, out);
    buf_printf(out, ",\"status\":\"%s\",\"type\":", status);
    if (y->open == PART_CALL) {
        buf_puts(out, "\"function_call\",\"call_id\":");
        json_put_str(out, buf_str(&y->call_id));
        buf_puts(out, ",\"name\":");
        json_put_str(out, buf_str(&y->name));
        buf_puts(out, ",\"arguments\":");
        json_put_str(out, text);
        buf_putc(out, '}');
        return;
    }
    buf_puts(out, y->open == PART_TEXT ? "\"message\",\"role\":\"assistant\",\"content\":["
                  : is_summary(p)      ? "\"reasoning\",\"summary\":["
                                       : "\"reasoning\",\"summary\":[],\"content\":[");
    if (!is_empty) put_content_part(p, text, buf_str(&y->logprobs), out);
    buf_puts(out, "]}");
}

/* ------------------------------------------------------------------ parts */

static const char *const part_added[] = {"response.content_part.added",
                                         "response.reasoning_summary_part.added"};
static const char *const part_done[] = {"response.content_part.done",
                                        "response.reasoning_summary_part.done"};

static const char *delta_event(const struct api_response *p)
{
    switch (p->parts->open) {
    case PART_REASONING:
        return is_summary(p) ? "response.reasoning_summary_text.delta"
                             : "response.reasoning_text.delta";
    case PART_CALL:
        return "response.function_call_arguments.delta";
    case PART_TEXT:
    case PART_NONE:
        break;
    }
    return "response.output_text.delta";
}

static const char *done_event(const struct api_response *p)
{
    switch (p->parts->open) {
    case PART_REASONING:
        return is_summary(p) ? "response.reasoning_summary_text.done"
                             : "response.reasoning_text.done";
    case PART_CALL:
        return "response.function_call_arguments.done";
    case PART_TEXT:
    case PART_NONE:
        break;
    }
    return "response.output_text.done";
}

/* ,"content_index":0 of what has contents */
static void put_content_index(const struct api_response *p, struct buf *out)
{
    if (p->parts->open == PART_CALL) return;
    buf_puts(out, is_summary(p) ? ",\"summary_index\":0" : ",\"content_index\":0");
}

static void put_part_event(struct api_response *p, const char *type, struct str text,
                           struct str logprobs, struct buf *out)
{
    event_begin(p, type, out);
    put_place(p, out);
    put_content_index(p, out);
    buf_puts(out, ",\"part\":");
    put_content_part(p, text, logprobs, out);
    event_end(out);
}

static void put_item_event(struct api_response *p, const char *type, const char *status,
                           struct buf *out)
{
    event_begin(p, type, out);
    buf_printf(out, ",\"output_index\":%d,\"item\":", p->parts->n_parts - 1);
    put_item(p, status, out);
    event_end(out);
}

static void begin(struct api_response *p, struct buf *out)
{
    if (!p->r->f.stream) return;
    put_item_event(p, "response.output_item.added", "in_progress", out);
    if (p->parts->open == PART_CALL) return;
    put_part_event(p, part_added[is_summary(p)], STR(""), STR(""), out);
}

static void grow(struct api_response *p, struct str text, const struct slice *lp, struct buf *out)
{
    struct buf *all = &p->parts->logprobs;
    size_t from = all->n;
    bool has_logprobs = lp && lp->n_lp && p->r->sampling.n_logprobs >= 0;
    if (has_logprobs) {
        if (all->n) buf_putc(all, ',');
        from = all->n;
        put_logprob_list(p, lp, all);
    }
    if (!p->r->f.stream) return;
    event_begin(p, delta_event(p), out);
    put_place(p, out);
    put_content_index(p, out);
    buf_puts(out, ",\"delta\":");
    json_put_str(out, text);
    if (p->parts->open == PART_TEXT) {
        buf_puts(out, ",\"logprobs\":[");
        buf_put(out, all->p ? all->p + from : NULL, all->n - from);
        buf_putc(out, ']');
    }
    event_end(out);
}

static void put_done_events(struct api_response *p, struct buf *out)
{
    const struct parts *y = p->parts;
    bool is_call = y->open == PART_CALL;
    event_begin(p, done_event(p), out);
    put_place(p, out);
    put_content_index(p, out);
    if (is_call) {
        buf_puts(out, ",\"name\":");
        json_put_str(out, buf_str(&y->name));
    }
    buf_puts(out, is_call ? ",\"arguments\":" : ",\"text\":");
    json_put_str(out, buf_str(&y->text));
    if (y->open == PART_TEXT) {
        buf_puts(out, ",\"logprobs\":[");
        buf_put_str(out, buf_str(&y->logprobs));
        buf_putc(out, ']');
    }
    event_end(out);
    if (!is_call)
        put_part_event(p, part_done[is_summary(p)], buf_str(&y->text), buf_str(&y->logprobs), out);
}

static void end(struct api_response *p, bool is_cut, struct buf *out)
{
    const char *status = is_cut ? "incomplete" : "completed";
    put_item(p, status, &p->parts->done);
    if (!p->r->f.stream) return;
    put_done_events(p, out);
    put_item_event(p, "response.output_item.done", status, out);
}

static const struct part_writer writer = {begin, grow, end};

/* ------------------------------------------------------------------ the response object */

static void put_response_usage(const struct api_response *p, struct buf *out)
{
    struct api_usage u = api_response_usage(p);
    buf_printf(out,
               "{\"input_tokens\":%llu,\"input_tokens_details\":{\"cached_tokens\":%llu,"
               "\"cache_write_tokens\":0},\"output_tokens\":%llu,\"output_tokens_details\":{"
               "\"reasoning_tokens\":%llu},\"total_tokens\":%llu}",
               (unsigned long long)u.prompt_tokens, (unsigned long long)u.cached_tokens,
               (unsigned long long)u.completion_tokens, (unsigned long long)u.reasoning_tokens,
               (unsigned long long)(u.prompt_tokens + u.completion_tokens));
}

/* error: NULL, or why it failed. */
static void put_response(const struct api_response *p, const char *status,
                         const struct sl_error *error, struct buf *out)
{
    bool is_running = strcmp(status, "in_progress") == 0;
    bool is_whole = strcmp(status, "completed") == 0;
    buf_printf(out, "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"completed_at\":",
               p->id, (long long)p->created);
    if (is_whole)
        buf_put_i64(out, (int64_t)time(NULL));
    else
        buf_puts(out, "null");
    buf_printf(out, ",\"status\":\"%s\",\"error\":", status);
    if (error) {
        buf_puts(out, "{\"code\":\"server_error\",\"message\":");
        json_put_str(out, str_of(error->text));
        buf_putc(out, '}');
    } else {
        buf_puts(out, "null");
    }
    buf_puts(out, ",\"incomplete_details\":");
    buf_puts(out,
             strcmp(status, "incomplete") == 0 ? "{\"reason\":\"max_output_tokens\"}" : "null");
    buf_puts(out, ",\"model\":");
    json_put_str(out, str_of(p->r->ctx->served_names[0]));
    buf_puts(out, ",\"output\":[");
    buf_put_str(out, buf_str(&p->parts->done));
    buf_putc(out, ']');
    buf_put_str(out, p->r->response->echo);
    buf_puts(out, ",\"usage\":");
    if (is_running)
        buf_puts(out, "null");
    else
        put_response_usage(p, out);
    buf_putc(out, '}');
}

static const char *final_status(const struct api_response *p)
{
    return p->choices[0].c.reason == SL_FINISH_LENGTH ? "incomplete" : "completed";
}

static void put_response_event(struct api_response *p, const char *type, const char *status,
                               const struct sl_error *error, struct buf *out)
{
    event_begin(p, type, out);
    buf_puts(out, ",\"response\":");
    put_response(p, status, error, out);
    event_end(out);
}

void responses_start(struct api_response *p, struct buf *out)
{
    put_response_event(p, "response.created", "in_progress", NULL, out);
    put_response_event(p, "response.in_progress", "in_progress", NULL, out);
}

void responses_drain(struct api_response *p, int choice, struct buf *out)
{
    (void)choice; /* there is one */
    parts_drain(p, &writer, out);
}

void responses_end(struct api_response *p, struct buf *out)
{
    bool is_cut = p->choices[0].c.reason == SL_FINISH_LENGTH;
    put_response_event(p, is_cut ? "response.incomplete" : "response.completed", final_status(p),
                       NULL, out);
}

void responses_body(struct api_response *p, struct buf *out)
{
    put_response(p, final_status(p), NULL, out);
}

void responses_error(struct api_response *p, const struct sl_error *e, struct buf *out)
{
    put_response_event(p, "response.failed", "failed", e, out);
}

bool api_response_kept(const struct api_response *p, struct api_kept *out, struct buf *object)
{
    const struct response_form *f = p->r->response;
    if (!f || !f->is_stored) return false;
    put_response(p, final_status(p), NULL, object);
    *out = (struct api_kept){str_of(p->id), f->input, buf_str(&p->parts->done)};
    return true;
}
