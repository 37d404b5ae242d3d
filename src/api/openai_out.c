/* openai_out.c - whole chat.completion bodies, and the pieces that every answer shares. */
#include "api/out.h"

void put_opening(const struct api_response *p, const char *object, struct buf *out)
{
    const struct api_context *ctx = p->r->ctx;
    buf_puts(out, "{\"id\":\"");
    buf_puts(out, p->id);
    buf_puts(out, "\",\"object\":\"");
    buf_puts(out, object);
    buf_puts(out, "\",\"created\":");
    buf_put_i64(out, p->created);
    buf_puts(out, ",\"model\":");
    json_put_str(out, str_of(ctx->served_names[0]));
    buf_puts(out, ",\"system_fingerprint\":");
    json_put_str(out, str_of(ctx->fingerprint));
    if (p->r->has_service_tier) buf_puts(out, ",\"service_tier\":\"default\"");
    buf_putc(out, ',');
}

void put_usage(const struct api_usage *u, struct buf *out)
{
    buf_puts(out, "{\"prompt_tokens\":");
    buf_put_i64(out, (int64_t)u->prompt_tokens);
    buf_puts(out, ",\"completion_tokens\":");
    buf_put_i64(out, (int64_t)u->completion_tokens);
    buf_puts(out, ",\"total_tokens\":");
    buf_put_i64(out, (int64_t)(u->prompt_tokens + u->completion_tokens));
    buf_puts(out, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    buf_put_i64(out, (int64_t)u->cached_tokens);
    buf_puts(out, ",\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":");
    buf_put_i64(out, (int64_t)u->reasoning_tokens);
    buf_puts(out, ",\"audio_tokens\":0,\"accepted_prediction_tokens\":0,"
                  "\"rejected_prediction_tokens\":0}}");
}

void put_id_list(const int32_t *ids, size_t n, struct buf *out)
{
    buf_putc(out, '[');
    for (size_t i = 0; i < n; i++) {
        if (i) buf_putc(out, ',');
        buf_put_i64(out, ids[i]);
    }
    buf_putc(out, ']');
}

void put_finish(const struct choice *c, struct buf *out)
{
    buf_puts(out, ",\"finish_reason\":\"");
    buf_puts(out, choice_finish_reason(c));
    buf_puts(out, "\",\"stop_reason\":");
    if (c->stop_string >= 0)
        json_put_str(out, c->r->stops[c->stop_string]);
    else if (c->stop_id >= 0)
        buf_put_i64(out, c->stop_id);
    else
        buf_puts(out, "null");
}

void put_reasoning(const struct api_response *p, struct str text, struct buf *out)
{
    const char *field = p->r->ctx->reasoning_field;
    bool both = field && strcmp(field, "both") == 0;
    if (!field || both || strcmp(field, "reasoning_content") == 0) {
        buf_puts(out, "\"reasoning_content\":");
        json_put_str(out, text);
    }
    if (both) buf_putc(out, ',');
    if (both || (field && strcmp(field, "reasoning") == 0)) {
        buf_puts(out, "\"reasoning\":");
        json_put_str(out, text);
    }
}

void put_call_opening(int index, const struct answer_event *call, struct buf *out)
{
    buf_putc(out, '{');
    if (index >= 0) {
        buf_puts(out, "\"index\":");
        buf_put_i64(out, index);
        buf_putc(out, ',');
    }
    buf_puts(out, "\"id\":");
    json_put_str(out, call->id);
    buf_puts(out, ",\"type\":\"function\",\"function\":{\"name\":");
    json_put_str(out, call->name);
    buf_puts(out, ",\"arguments\":");
}

static void put_message(const struct api_response *p, struct str content,
                        const struct answer_whole *w, struct buf *out)
{
    bool has_calls = w->n_calls > 0;
    buf_puts(out, "{\"role\":\"assistant\",\"content\":");
    if (content.n == 0 && (has_calls || w->reasoning.n))
        buf_puts(out, "null");
    else
        json_put_str(out, content);
    buf_puts(out, ",\"refusal\":null,\"annotations\":[]");
    if (w->reasoning.n) {
        buf_putc(out, ',');
        put_reasoning(p, buf_str(&w->reasoning), out);
    }
    for (size_t k = 0; k < w->n_calls; k++) {
        const struct answer_call *c = &w->calls[k];
        buf_puts(out, k ? "," : ",\"tool_calls\":[");
        put_call_opening(
            -1, &(struct answer_event){.id = buf_str(&c->id), .name = buf_str(&c->name)}, out);
        json_put_str(out, buf_str(&c->arguments));
        buf_puts(out, "}}");
    }
    buf_puts(out, has_calls ? "]}" : "}");
}

static void put_chat_choice(struct api_response *p, int i, struct buf *out)
{
    struct choice *c = &p->choices[i].c;
    struct answer_whole w = {0};
    struct slice all = choice_all(c, &w);
    buf_puts(out, i ? ",{\"index\":" : "{\"index\":");
    buf_put_i64(out, i);
    buf_puts(out, ",\"message\":");
    put_message(p, all.text, &w, out);
    answer_whole_free(&w);
    buf_puts(out, ",\"logprobs\":");
    if (p->r->sampling.n_logprobs >= 0)
        put_chat_logprobs(p, &all, out);
    else
        buf_puts(out, "null");
    put_finish(c, out);
    if (p->r->f.return_token_ids) {
        buf_puts(out, ",\"token_ids\":");
        put_id_list(c->out_ids.v, c->out_ids.n, out);
    }
    buf_putc(out, '}');
}

void chat_body(struct api_response *p, struct buf *out)
{
    const struct api_request *r = p->r;
    struct api_usage u = api_response_usage(p);
    put_opening(p, "chat.completion", out);
    buf_puts(out, "\"choices\":[");
    for (int i = 0; i < p->n; i++) put_chat_choice(p, i, out);
    buf_puts(out, "],\"usage\":");
    put_usage(&u, out);
    if (r->f.prompt_logprobs != API_ABSENT) {
        buf_puts(out, ",\"prompt_logprobs\":");
        put_prompt_logprobs(p, &p->choices[0].c, out);
    }
    if (r->f.return_token_ids) {
        buf_puts(out, ",\"prompt_token_ids\":");
        put_id_list(r->prompts->ids, r->prompts->n, out);
    }
    put_timings(p, out);
    buf_putc(out, '}');
}
