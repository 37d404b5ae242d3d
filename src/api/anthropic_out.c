/* anthropic_out.c - answers in the Messages format: the message, the events of its stream, and the
 * format's own errors.
 *
 * Source: Anthropic API reference; section 7.5 of the wire specification.
 */
#include <stdio.h>

#include "api/kin.h"
#include "api/parts.h"
#include "base/utf8.h"

static void event(const char *type, struct buf *out)
{
    buf_printf(out, "event: %s\ndata: {\"type\":\"%s\"", type, type);
}

static void event_end(struct buf *out)
{
    buf_puts(out, "}\n\n");
}

/* ------------------------------------------------------------------ blocks */

/* ,"index":i of the open block */
static void put_index(const struct api_response *p, struct buf *out)
{
    buf_printf(out, ",\"index\":%d", p->parts->n_parts - 1);
}

/* The open block with this text; a call's input is an object. */
static void put_block(const struct api_response *p, struct str text, struct buf *out)
{
    const struct parts *y = p->parts;
    switch (y->open) {
    case PART_CALL:
        buf_puts(out, "{\"type\":\"tool_use\",\"id\":");
        json_put_str(out, buf_str(&y->call_id));
        buf_puts(out, ",\"name\":");
        json_put_str(out, buf_str(&y->name));
        buf_puts(out, ",\"input\":");
        buf_put_str(out, text);
        buf_putc(out, '}');
        return;
    case PART_REASONING:
        buf_puts(out, "{\"type\":\"thinking\",\"thinking\":");
        json_put_str(out, text);
        buf_puts(out, ",\"signature\":\"\"}");
        return;
    case PART_TEXT:
    case PART_NONE:
        break;
    }
    buf_puts(out, "{\"type\":\"text\",\"text\":");
    json_put_str(out, text);
    buf_putc(out, '}');
}

static void begin(struct api_response *p, struct buf *out)
{
    if (!p->r->f.stream) return;
    event("content_block_start", out);
    put_index(p, out);
    buf_puts(out, ",\"content_block\":");
    put_block(p, p->parts->open == PART_CALL ? STR("{}") : STR(""), out);
    event_end(out);
}

static void grow(struct api_response *p, struct str text, const struct slice *lp, struct buf *out)
{
    (void)lp;
    if (!p->r->f.stream || text.n == 0) return;
    event("content_block_delta", out);
    put_index(p, out);
    buf_puts(out, p->parts->open == PART_CALL
                      ? ",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":"
                  : p->parts->open == PART_REASONING
                      ? ",\"delta\":{\"type\":\"thinking_delta\",\"thinking\":"
                      : ",\"delta\":{\"type\":\"text_delta\",\"text\":");
    json_put_str(out, text);
    buf_putc(out, '}');
    event_end(out);
}

/* Arguments that the end of the answer cut off are no object: the block keeps none of them. */
static struct str whole_text(const struct parts *y)
{
    struct json_doc *doc;
    struct str text = buf_str(&y->text);
    if (y->open != PART_CALL) return text;
    bool is_object = text.n && json_parse(&doc, text.p, text.n, &json_limits_request, NULL) == 0;
    if (is_object) {
        is_object = json_type(json_root(doc)) == JSON_OBJ;
        json_free(doc);
    }
    return is_object ? text : STR("{}");
}

static void end(struct api_response *p, bool is_cut, struct buf *out)
{
    (void)is_cut;
    put_block(p, whole_text(p->parts), &p->parts->done);
    if (!p->r->f.stream) return;
    event("content_block_stop", out);
    put_index(p, out);
    event_end(out);
}

static const struct part_writer writer = {begin, grow, end};

/* ------------------------------------------------------------------ the message */

static const char *stop_reason(const struct choice *c)
{
    if (c->reason == SL_FINISH_LENGTH) return "max_tokens";
    if (strcmp(choice_finish_reason(c), "tool_calls") == 0) return "tool_use";
    return c->stop_string >= 0 ? "stop_sequence" : "end_turn";
}

/* "stop_reason":...,"stop_sequence":... of an answer that has ended */
static void put_stop(const struct choice *c, struct buf *out)
{
    buf_printf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", stop_reason(c));
    if (c->stop_string >= 0)
        json_put_str(out, c->r->stops[c->stop_string]);
    else
        buf_puts(out, "null");
}

static void put_message_usage(const struct api_response *p, struct buf *out)
{
    struct api_usage u = api_response_usage(p);
    uint64_t fresh = u.prompt_tokens > u.cached_tokens ? u.prompt_tokens - u.cached_tokens : 0;
    buf_printf(out,
               "{\"input_tokens\":%llu,\"cache_creation_input_tokens\":0,"
               "\"cache_read_input_tokens\":%llu,\"output_tokens\":%llu}",
               (unsigned long long)fresh, (unsigned long long)u.cached_tokens,
               (unsigned long long)u.completion_tokens);
}

static void put_message(const struct api_response *p, bool is_over, struct buf *out)
{
    buf_printf(out, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", p->id);
    json_put_str(out, str_of(p->r->ctx->served_names[0]));
    buf_puts(out, ",\"content\":[");
    buf_put_str(out, buf_str(&p->parts->done));
    buf_puts(out, "],");
    if (is_over)
        put_stop(&p->choices[0].c, out);
    else
        buf_puts(out, "\"stop_reason\":null,\"stop_sequence\":null");
    buf_puts(out, ",\"usage\":");
    put_message_usage(p, out);
    buf_putc(out, '}');
}

void anthropic_start(struct api_response *p, struct buf *out)
{
    event("message_start", out);
    buf_puts(out, ",\"message\":");
    put_message(p, false, out);
    event_end(out);
}

void anthropic_drain(struct api_response *p, int choice, struct buf *out)
{
    (void)choice; /* there is one */
    parts_drain(p, &writer, out);
}

void anthropic_end(struct api_response *p, struct buf *out)
{
    event("message_delta", out);
    buf_puts(out, ",\"delta\":{");
    put_stop(&p->choices[0].c, out);
    buf_puts(out, "},\"usage\":");
    put_message_usage(p, out);
    event_end(out);
    event("message_stop", out);
    event_end(out);
}

void anthropic_body(struct api_response *p, struct buf *out)
{
    put_message(p, true, out);
}

void anthropic_error(struct api_response *p, const struct sl_error *e, struct buf *out)
{
    (void)p;
    buf_puts(out, "event: error\ndata: ");
    anthropic_error_body(e, out);
    buf_puts(out, "\n\n");
}

/* ------------------------------------------------------------------ errors */

int anthropic_error_status(const struct sl_error *e)
{
    return e->code == SL_EOVERLOAD ? 529 : sl_err_status(e->code);
}

void anthropic_error_body(const struct sl_error *e, struct buf *out)
{
    static const struct {
        int status;
        const char *type;
    } types[] = {
        {400, "invalid_request_error"}, {401, "authentication_error"}, {403, "permission_error"},
        {404, "not_found_error"},       {413, "request_too_large"},    {429, "rate_limit_error"},
        {503, "overloaded_error"},      {504, "timeout_error"},        {529, "overloaded_error"},
    };
    int status = anthropic_error_status(e);
    const char *type = status < 500 ? "invalid_request_error" : "api_error";
    struct str text = str_of(e->text);
    text.n -= utf8_incomplete_tail(text.p, text.n); /* cut by the size of the field */
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].status == status) type = types[i].type;
    buf_puts(out, "{\"type\":\"error\",\"error\":{\"type\":");
    json_put_str(out, str_of(type));
    buf_puts(out, ",\"message\":");
    json_put_str(out, text.n ? text : str_of(type));
    buf_puts(out, "}}");
}
