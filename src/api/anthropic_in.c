/* anthropic_in.c - a Messages body (Anthropic's format): checked, then the chat body it amounts to.
 *
 * Blocks become messages: text and thinking and tool_use of the assistant are one turn, each
 * tool_result is a message of its own before the text that follows it. Members that say how
 * Anthropic's service caches or bills are ignored.
 * Source: Anthropic API reference (messages, count_tokens), section 7.5 of the wire specification.
 */
#include "api/kin.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const char *const text_only[] = {"text", NULL};

/* ------------------------------------------------------------------ messages */

static int put_tool_use(struct chat_build *b, const json_node *block, const char *at,
                        struct sl_error *e)
{
    struct str id, name;
    struct path p_input = path_of("%s.input", at);
    const json_node *input = json_opt(block, "input");
    TRY(kin_string(block, at, "id", &id, e));
    TRY(kin_string(block, at, "name", &name, e));
    if (input) TRY(field_is(input, JSON_OBJ, p_input.z, "an object", e));
    struct buf text = buf_make(b->out.max);
    if (input)
        json_put_node(&text, input);
    else
        buf_puts(&text, "{}");
    build_call(b, id, name, buf_str(&text));
    buf_free(&text);
    return 0;
}

static int put_tool_result(struct chat_build *b, const json_node *block, const char *at,
                           struct sl_error *e)
{
    struct str id;
    TRY(kin_string(block, at, "tool_use_id", &id, e));
    const json_node *content = json_opt(block, "content");
    if (content) TRY(kin_text(content, path_of("%s.content", at).z, text_only, e));
    build_tool_result(b, id, content);
    return 0;
}

static int put_thinking(struct chat_build *b, const json_node *block, const char *at,
                        struct sl_error *e)
{
    struct str text;
    TRY(kin_string(block, at, "thinking", &text, e));
    build_reasoning(b, text);
    return 0;
}

/* What is encrypted for another service's eyes cannot be read here. */
static int skip_block(struct chat_build *b, const json_node *block, const char *at,
                      struct sl_error *e)
{
    (void)b, (void)block, (void)at, (void)e;
    return 0;
}

enum { BY_USER = 1, BY_ASSISTANT = 2 };
static const struct block_kind {
    const char *type;
    int who;
    int (*put)(struct chat_build *b, const json_node *block, const char *at, struct sl_error *e);
} block_kinds[] = {
    {"tool_use", BY_ASSISTANT, put_tool_use},
    {"thinking", BY_ASSISTANT, put_thinking},
    {"redacted_thinking", BY_ASSISTANT, skip_block},
    {"tool_result", BY_USER, put_tool_result},
};

static const struct block_kind *kind_of(const json_node *block, int who)
{
    const json_node *type = json_opt(block, "type");
    for (size_t i = 0; i < COUNT(block_kinds) && json_type(type) == JSON_STR; i++)
        if (str_is(json_str(type), block_kinds[i].type) && (block_kinds[i].who & who))
            return &block_kinds[i];
    return NULL;
}

static int put_blocks(struct chat_build *b, const json_node *list, const char *at, int who,
                      struct sl_error *e)
{
    size_t i = 0;
    if (!json_child(list)) return sl_fail_param(e, SL_EEMPTY, at, "Invalid '%s': empty array.", at);
    for (const json_node *c = json_child(list); c; c = json_next(c), i++) {
        struct path p = path_of("%s[%zu]", at, i);
        const struct block_kind *kind = kind_of(c, who);
        if (kind) {
            TRY(kind->put(b, c, p.z, e));
            continue;
        }
        TRY(kin_part(c, p.z, text_only, e));
        if (!b->role) build_turn(b, "user"); /* after a tool result */
        build_text(b, json_opt(c, "text"));
    }
    return 0;
}

static int put_message(struct chat_build *b, const json_node *m, const char *at, struct sl_error *e)
{
    struct str role;
    struct path p = path_of("%s.content", at);
    TRY(field_is(m, JSON_OBJ, at, "an object", e));
    TRY(kin_string(m, at, "role", &role, e));
    bool is_user = str_is(role, "user");
    if (!is_user && !str_is(role, "assistant"))
        return sl_fail_param(e, SL_EVALUE, path_of("%s.role", at).z,
                             "Invalid value: '%.40s'. Supported roles are 'user' and 'assistant'.",
                             role.p);
    const json_node *content = json_opt(m, "content");
    if (!content)
        return sl_fail_param(e, SL_EMISSING, p.z, "Missing required parameter: '%s'.", p.z);
    build_turn(b, is_user ? "user" : "assistant");
    if (json_type(content) == JSON_ARR)
        return put_blocks(b, content, p.z, is_user ? BY_USER : BY_ASSISTANT, e);
    TRY(field_is(content, JSON_STR, p.z, "a string or an array of content blocks", e));
    build_text(b, content);
    return 0;
}

static int put_messages(struct chat_build *b, const json_node *root, struct sl_error *e)
{
    const json_node *list = json_opt(root, "messages"), *system = json_opt(root, "system");
    size_t i = 0;
    if (system) {
        TRY(kin_text(system, "system", text_only, e));
        build_turn(b, "system");
        build_text(b, system);
    }
    if (!list)
        return sl_fail_param(e, SL_EMISSING, "messages", "Missing required parameter: 'messages'.");
    TRY(field_is(list, JSON_ARR, "messages", "an array of messages", e));
    if (!json_child(list))
        return sl_fail_param(e, SL_EEMPTY, "messages",
                             "Invalid 'messages': empty array. Expected at least one message.");
    for (const json_node *m = json_child(list); m; m = json_next(m), i++)
        TRY(put_message(b, m, path_of("messages[%zu]", i).z, e));
    return 0;
}

/* An answer that the client has begun is continued, as Anthropic does. */
static void put_prefill(struct chat_build *b, const json_node *root)
{
    const json_node *last = NULL;
    for (const json_node *m = json_child(json_opt(root, "messages")); m; m = json_next(m)) last = m;
    if (!str_is(json_str(json_opt(last, "role")), "assistant")) return;
    const json_node *content = json_opt(last, "content");
    for (const json_node *c = json_child(content); c; c = json_next(c))
        if (!str_is(json_str(json_opt(c, "type")), "text"))
            return; /* a call waits for its result */
    build_key(b, "continue_final_message");
    buf_puts(&b->out, "true");
}

/* ------------------------------------------------------------------ members */

static int put_tools(struct chat_build *b, const json_node *tools, struct sl_error *e)
{
    size_t i = 0, n = 0;
    if (!tools) return 0;
    TRY(field_is(tools, JSON_ARR, "tools", "an array", e));
    if (!json_child(tools)) return 0;
    build_key(b, "tools");
    buf_putc(&b->out, '[');
    for (const json_node *t = json_child(tools); t; t = json_next(t), i++) {
        struct path at = path_of("tools[%zu]", i), p = path_of("%s.input_schema", at.z);
        struct str name, type = STR("custom");
        TRY(field_is(t, JSON_OBJ, at.z, "an object", e));
        if (json_opt(t, "type")) TRY(kin_string(t, at.z, "type", &type, e));
        if (!str_is(type, "custom"))
            return sl_fail_param(e, SL_EUNSUPPORTED, path_of("%s.type", at.z).z,
                                 "Tools of type '%.40s' are not supported, only 'custom'.", type.p);
        TRY(kin_tool_name(t, at.z, &name, e));
        const json_node *schema = json_opt(t, "input_schema");
        if (!schema)
            return sl_fail_param(e, SL_EMISSING, p.z, "Missing required parameter: '%s'.", p.z);
        TRY(field_is(schema, JSON_OBJ, p.z, "an object", e));
        if (n++) buf_putc(&b->out, ',');
        build_tool(&b->out, &(struct build_tool){json_opt(t, "name"), json_opt(t, "description"),
                                                 schema, json_opt(t, "strict")});
    }
    buf_putc(&b->out, ']');
    return 0;
}

static int put_tool_choice(struct chat_build *b, const json_node *v, struct sl_error *e)
{
    static const char *const names[][2] = {
        {"auto", "\"auto\""}, {"any", "\"required\""}, {"none", "\"none\""}};
    struct str type, name;
    bool is_single = false;
    const json_node *single = json_opt(v, "disable_parallel_tool_use");
    if (!v) return 0;
    TRY(field_is(v, JSON_OBJ, "tool_choice", "an object", e));
    TRY(kin_string(v, "tool_choice", "type", &type, e));
    if (single) TRY(field_bool(single, "tool_choice.disable_parallel_tool_use", &is_single, e));
    if (is_single) {
        build_key(b, "parallel_tool_calls");
        buf_puts(&b->out, "false");
    }
    for (size_t i = 0; i < COUNT(names); i++) {
        if (!str_is(type, names[i][0])) continue;
        build_key(b, "tool_choice");
        buf_puts(&b->out, names[i][1]);
        return 0;
    }
    if (!str_is(type, "tool"))
        return sl_fail_param(e, SL_EVALUE, "tool_choice.type",
                             "Invalid value: '%.40s'. Supported values are: 'auto', 'any', 'tool', "
                             "and 'none'.",
                             type.p);
    TRY(kin_tool_name(v, "tool_choice", &name, e));
    build_key(b, "tool_choice");
    buf_puts(&b->out, "{\"type\":\"function\",\"function\":{\"name\":");
    json_put_str(&b->out, name);
    buf_puts(&b->out, "}}");
    return 0;
}

/* The budget is the chat's thinking_token_budget. As at Anthropic it must leave room for an answer
 * (be below max_tokens); less than the 1,024 asked for there is fine, since small models of one's own
 * think in less, and so is none, which sets no limit. */
static int put_budget(struct chat_build *b, const json_node *root, const json_node *thinking,
                      struct sl_error *e)
{
    static const char at[] = "thinking.budget_tokens";
    const json_node *v = json_opt(thinking, "budget_tokens"), *max = json_opt(root, "max_tokens");
    int64_t budget, max_tokens = INT64_MAX;
    if (!v) return 0;
    TRY(field_int(v, at, 1, 0x1p53, &budget, e));
    if (max) TRY(field_int(max, "max_tokens", 1, 0x1p53, &max_tokens, e));
    if (budget >= max_tokens)
        return sl_fail_param(e, SL_EVALUE, at,
                             "'max_tokens' must be greater than 'thinking.budget_tokens'.");
    if (json_opt(root, "thinking_token_budget")) return 0; /* says it itself */
    build_key(b, "thinking_token_budget");
    buf_put_i64(&b->out, budget);
    return 0;
}

/* Whether to think is the template's business, under the name that most templates use. */
static int put_thinking_options(struct chat_build *b, const json_node *root, struct sl_error *e)
{
    const json_node *v = json_opt(root, "thinking");
    struct str type;
    if (!v) return 0;
    TRY(field_is(v, JSON_OBJ, "thinking", "an object", e));
    TRY(kin_string(v, "thinking", "type", &type, e));
    bool is_off = str_is(type, "disabled");
    if (!is_off && !str_is(type, "enabled") && !str_is(type, "adaptive"))
        return sl_fail_param(e, SL_EVALUE, "thinking.type",
                             "Invalid value: '%.40s'. Supported values are: 'enabled', 'adaptive', "
                             "and 'disabled'.",
                             type.p);
    if (str_is(type, "enabled")) TRY(put_budget(b, root, v, e));
    if (is_off && !json_opt(root, "include_reasoning")) {
        build_key(b, "include_reasoning");
        buf_puts(&b->out, "false");
    }
    if (json_opt(root, "chat_template_kwargs")) return 0; /* says it itself */
    build_key(b, "chat_template_kwargs");
    buf_printf(&b->out, "{\"enable_thinking\":%s}", is_off ? "false" : "true");
    return 0;
}

static int put_stops(struct chat_build *b, const json_node *v, struct sl_error *e)
{
    if (!v) return 0;
    TRY(field_is(v, JSON_ARR, "stop_sequences", "an array of strings", e));
    build_key(b, "stop");
    json_put_node(&b->out, v);
    return 0;
}

int anthropic_write(struct api_request *r, const json_node *root, struct chat_build *b,
                    struct sl_error *e)
{
    int64_t max_tokens;
    const json_node *v = json_opt(root, "max_tokens");
    TRY(put_messages(b, root, e));
    build_end_messages(b);
    build_copy(b, root, build_shared_fields);
    put_prefill(b, root);
    if (v) {
        TRY(field_int(v, "max_tokens", 1, 0x1p53, &max_tokens, e));
        build_key(b, "max_tokens");
        buf_put_i64(&b->out, max_tokens);
    } else if (!r->is_counted) {
        return sl_fail_param(e, SL_EMISSING, "max_tokens",
                             "Missing required parameter: 'max_tokens'.");
    }
    TRY(put_stops(b, json_opt(root, "stop_sequences"), e));
    TRY(put_tools(b, json_opt(root, "tools"), e));
    TRY(put_tool_choice(b, json_opt(root, "tool_choice"), e));
    TRY(put_thinking_options(b, root, e));
    build_end(b);
    return 0;
}
