/* chat_build.c - see chat_build.h. Writes JSON text only; the chat's own reader has the last word. */
#include "api/chat_build.h"

const char *const build_shared_fields[] = {"model",
                                           "stream",
                                           "temperature",
                                           "top_p",
                                           "top_k",
                                           "min_p",
                                           "typical_p",
                                           "repetition_penalty",
                                           "presence_penalty",
                                           "frequency_penalty",
                                           "seed",
                                           "min_tokens",
                                           "ignore_eos",
                                           "stop_token_ids",
                                           "logit_bias",
                                           "allowed_token_ids",
                                           "bad_words",
                                           "skip_special_tokens",
                                           "include_stop_str_in_output",
                                           "truncate_prompt_tokens",
                                           "priority",
                                           "cache_salt",
                                           "chat_template_kwargs",
                                           "documents",
                                           "include_reasoning",
                                           "reasoning_format",
                                           "thinking_token_budget",
                                           "service_tier",
                                           NULL};

void build_begin(struct chat_build *b, size_t max)
{
    *b = (struct chat_build){.out = buf_make(max),
                             .reasoning = buf_make(max),
                             .content = buf_make(max),
                             .calls = buf_make(max)};
    buf_puts(&b->out, "{\"messages\":[");
    b->start = b->out.n;
}

void build_free(struct chat_build *b)
{
    buf_free(&b->out);
    buf_free(&b->reasoning);
    buf_free(&b->content);
    buf_free(&b->calls);
}

/* ------------------------------------------------------------------ messages */

static struct str text_of(const json_node *part)
{
    const json_node *text = json_opt(part, "text");
    return json_str(text ? text : json_get(part, "refusal"));
}

/* A member of the message that is being written. */
static void put_member(struct chat_build *b, const char *name, struct str value)
{
    build_key(b, name);
    json_put_str(&b->out, value);
}

static void close_turn(struct chat_build *b)
{
    if (b->role && (b->has_content || b->calls.n)) {
        buf_puts(&b->out, b->out.n > b->start ? ",{\"role\":\"" : "{\"role\":\"");
        buf_puts(&b->out, b->role);
        buf_putc(&b->out, '"');
        if (b->has_content)
            put_member(b, "content", buf_str(&b->content));
        else
            buf_puts(&b->out, ",\"content\":null");
        if (b->reasoning.n) put_member(b, "reasoning_content", buf_str(&b->reasoning));
        if (b->calls.n) {
            build_key(b, "tool_calls");
            buf_putc(&b->out, '[');
            buf_put_str(&b->out, buf_str(&b->calls));
            buf_putc(&b->out, ']');
        }
        buf_putc(&b->out, '}');
    }
    b->out.overflow |= b->reasoning.overflow || b->content.overflow || b->calls.overflow;
    b->reasoning.n = b->content.n = b->calls.n = 0;
    b->has_content = false;
    b->role = NULL;
}

void build_turn(struct chat_build *b, const char *role)
{
    close_turn(b);
    b->role = role;
}

void build_text(struct chat_build *b, const json_node *parts)
{
    b->has_content = true;
    if (json_type(parts) == JSON_STR) {
        buf_put_str(&b->content, json_str(parts));
        return;
    }
    for (const json_node *c = json_child(parts); c; c = json_next(c))
        buf_put_str(&b->content, text_of(c));
}

void build_reasoning(struct chat_build *b, struct str text)
{
    buf_put_str(&b->reasoning, text);
}

void build_call(struct chat_build *b, struct str id, struct str name, struct str arguments)
{
    struct buf *c = &b->calls;
    buf_puts(c, c->n ? ",{\"id\":" : "{\"id\":");
    json_put_str(c, id);
    buf_puts(c, ",\"type\":\"function\",\"function\":{\"name\":");
    json_put_str(c, name);
    buf_puts(c, ",\"arguments\":");
    json_put_str(c, arguments);
    buf_puts(c, "}}");
}

bool build_is_thinking(const struct chat_build *b)
{
    return b->role && strcmp(b->role, "assistant") == 0 && !b->has_content && !b->calls.n;
}

void build_tool_result(struct chat_build *b, struct str call_id, const json_node *parts)
{
    close_turn(b);
    if (parts) build_text(b, parts);
    buf_puts(&b->out, b->out.n > b->start ? ",{\"role\":\"tool\"" : "{\"role\":\"tool\"");
    put_member(b, "tool_call_id", call_id);
    put_member(b, "content", buf_str(&b->content));
    buf_putc(&b->out, '}');
    close_turn(b);
}

/* ------------------------------------------------------------------ members */

void build_end_messages(struct chat_build *b)
{
    close_turn(b);
    buf_putc(&b->out, ']');
}

void build_key(struct chat_build *b, const char *name)
{
    buf_putc(&b->out, ',');
    json_put_str(&b->out, str_of(name));
    buf_putc(&b->out, ':');
}

void build_copy(struct chat_build *b, const json_node *from, const char *const *names)
{
    for (; *names; names++) {
        const json_node *v = json_opt(from, *names);
        if (!v) continue;
        build_key(b, *names);
        json_put_node(&b->out, v);
    }
}

void build_end(struct chat_build *b)
{
    buf_putc(&b->out, '}');
}

void build_tool(struct buf *out, const struct build_tool *t)
{
    const struct {
        const char *key;
        const json_node *value;
    } members[] = {{"name", t->name},
                   {"description", t->description},
                   {"parameters", t->schema},
                   {"strict", t->strict}};
    bool first = true;
    buf_puts(out, "{\"type\":\"function\",\"function\":{");
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        if (!members[i].value) continue;
        buf_puts(out, first ? "\"" : ",\"");
        buf_puts(out, members[i].key);
        buf_puts(out, "\":");
        json_put_node(out, members[i].value);
        first = false;
    }
    buf_puts(out, "}}");
}
