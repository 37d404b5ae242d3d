/* responses_in.c - a Responses body: its own fields checked here, then the chat body it amounts to.
 *
 * Items become messages, flat tools and text.format take the chat's form, and the chat's reader
 * does the rest; what it refuses is renamed to the field the client wrote. The members of the
 * answer that repeat the request are written at once, as the tree does not last.
 * Source: OpenAI API reference, section 5 of the wire specification (tests/e2e/test_responses.py).
 */
#include "api/chat_build.h"
#include "api/kin.h"

enum { METADATA_MAX = 16 };

struct response_fields {
    struct str instructions, previous_id, truncation, user, safety_id, cache_key;
    int64_t max_output_tokens, top_logprobs;
    bool store, parallel, background;
    /* in the tree; NULL: not given */
    const json_node *input, *tools, *choice, *text, *reasoning, *include, *metadata;
    bool wants_logprobs;
};

#define AT(member) offsetof(struct response_fields, member)
static const struct field rows[] = {
    {"instructions", FIELD_STR, AT(instructions), 0, 0},
    {"previous_response_id", FIELD_STR, AT(previous_id), 0, 0},
    {"truncation", FIELD_STR, AT(truncation), 0, 0},
    {"user", FIELD_STR, AT(user), 0, 0},
    {"safety_identifier", FIELD_STR, AT(safety_id), 0, 0},
    {"prompt_cache_key", FIELD_STR, AT(cache_key), 0, 0},
    {"max_output_tokens", FIELD_INT, AT(max_output_tokens), 1, 0x1p53},
    {"top_logprobs", FIELD_INT, AT(top_logprobs), 0, SL_TOP_MAX},
    {"store", FIELD_BOOL, AT(store), 0, 0},
    {"parallel_tool_calls", FIELD_BOOL, AT(parallel), 0, 0},
    {"background", FIELD_BOOL, AT(background), 0, 0},
};
#undef AT
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ------------------------------------------------------------------ items */

static const char *const text_parts[] = {"input_text", "text", "output_text", NULL};
static const char *const refusal_parts[] = {"input_text", "text", "output_text", "refusal", NULL};
static const char *const reasoning_parts[] = {"reasoning_text", "summary_text", "text", NULL};

static int put_message(struct chat_build *b, const json_node *item, const char *at,
                       struct sl_error *e)
{
    static const char *const roles[] = {"user", "assistant", "system", "developer", NULL};
    struct str role;
    struct path p_content = path_of("%s.content", at);
    TRY(kin_string(item, at, "role", &role, e));
    bool is_assistant = str_is(role, "assistant");
    const json_node *content = json_opt(item, "content");
    TRY(kin_text(content, p_content.z, is_assistant ? refusal_parts : text_parts, e));
    for (int i = 0; roles[i]; i++) {
        if (!str_is(role, roles[i])) continue;
        if (!is_assistant || !build_is_thinking(b)) build_turn(b, roles[i]);
        build_text(b, content);
        return 0;
    }
    return sl_fail_param(e, SL_EVALUE, path_of("%s.role", at).z,
                         "Invalid value: '%.40s'. Supported values are: 'assistant', 'system', "
                         "'developer', and 'user'.",
                         role.p);
}

static int put_call(struct chat_build *b, const json_node *item, const char *at, struct sl_error *e)
{
    struct str id, name, arguments;
    TRY(kin_string(item, at, "call_id", &id, e));
    TRY(kin_string(item, at, "name", &name, e));
    TRY(kin_string(item, at, "arguments", &arguments, e));
    if (!b->role || strcmp(b->role, "assistant") != 0) build_turn(b, "assistant");
    build_call(b, id, name, arguments);
    return 0;
}

static int put_call_output(struct chat_build *b, const json_node *item, const char *at,
                           struct sl_error *e)
{
    struct str id;
    TRY(kin_string(item, at, "call_id", &id, e));
    const json_node *output = json_opt(item, "output");
    TRY(kin_text(output, path_of("%s.output", at).z, text_parts, e));
    build_tool_result(b, id, output);
    return 0;
}

/* The text itself where it is there, else its summary; what is encrypted cannot be read. */
static int put_reasoning(struct chat_build *b, const json_node *item, const char *at,
                         struct sl_error *e)
{
    static const char *const lists[] = {"content", "summary"};
    for (size_t i = 0; i < COUNT(lists); i++) {
        const json_node *list = json_opt(item, lists[i]);
        if (!list) continue;
        TRY(kin_text(list, path_of("%s.%s", at, lists[i]).z, reasoning_parts, e));
        if (json_type(list) != JSON_ARR || !json_child(list)) continue;
        if (!build_is_thinking(b)) build_turn(b, "assistant");
        for (const json_node *c = json_child(list); c; c = json_next(c))
            build_reasoning(b, json_str(json_opt(c, "text")));
        return 0;
    }
    return 0;
}

static const struct item_kind {
    const char *type;
    int (*put)(struct chat_build *b, const json_node *item, const char *at, struct sl_error *e);
} item_kinds[] = {
    {"message", put_message},
    {"function_call", put_call},
    {"function_call_output", put_call_output},
    {"reasoning", put_reasoning},
};

static int put_item(struct chat_build *b, const json_node *item, const char *at, struct sl_error *e)
{
    struct str type = STR("message");
    struct path p = path_of("%s.type", at);
    TRY(field_is(item, JSON_OBJ, at, "an object", e));
    if (json_opt(item, "type")) TRY(field_str(json_opt(item, "type"), p.z, &type, e));
    for (size_t i = 0; i < COUNT(item_kinds); i++)
        if (str_is(type, item_kinds[i].type)) return item_kinds[i].put(b, item, at, e);
    return sl_fail_param(e, SL_EUNSUPPORTED, p.z,
                         "Input items of type '%.40s' are not supported. Supported are 'message', "
                         "'function_call', 'function_call_output', and 'reasoning'.",
                         type.p);
}

static int put_items(struct chat_build *b, const json_node *list, const char *name,
                     struct sl_error *e)
{
    size_t i = 0;
    for (const json_node *c = json_child(list); c; c = json_next(c), i++)
        TRY(put_item(b, c, path_of("%s[%zu]", name, i).z, e));
    return 0;
}

/* Without input of its own a request goes on from the one before: the history takes the place of
 * the empty message that stands here until then. */
static int put_input(struct chat_build *b, const struct response_fields *f, struct sl_error *e)
{
    const json_node *input = f->input;
    if (!input && f->previous_id.p) {
        build_turn(b, "user");
        b->has_content = true;
        return 0;
    }
    if (!input)
        return sl_fail_param(e, SL_EMISSING, "input", "Missing required parameter: 'input'.");
    if (json_type(input) == JSON_STR) {
        build_turn(b, "user");
        build_text(b, input);
        return 0;
    }
    if (json_type(input) != JSON_ARR)
        return field_type_error(input, "input", "a string or an array of items", e);
    if (!json_child(input))
        return sl_fail_param(e, SL_EEMPTY, "input",
                             "Invalid 'input': empty array. Expected at least one item.");
    return put_items(b, input, "input", e);
}

/* ------------------------------------------------------------------ tools, format, reasoning */

/* Tools that OpenAI runs itself, or in a form of its own. Agents list them beside their functions
 * whatever the server is; so they are left out, and refused only where a call is forced. */
static bool is_hosted_tool(struct str type)
{
    static const char *const prefixes[] = {
        "web_search",       "file_search",      "computer",    "mcp",
        "code_interpreter", "image_generation", "local_shell", "shell",
        "apply_patch",      "custom",           "namespace",   "tool_search"};
    for (size_t i = 0; i < COUNT(prefixes); i++) {
        size_t n = strlen(prefixes[i]);
        if (type.n >= n && memcmp(type.p, prefixes[i], n) == 0) return true;
    }
    return false;
}

static int put_tool(struct buf *out, const json_node *tool, const char *at, struct sl_error *e)
{
    struct str type, name;
    TRY(field_is(tool, JSON_OBJ, at, "an object", e));
    TRY(kin_string(tool, at, "type", &type, e));
    if (is_hosted_tool(type)) return 0;
    if (!str_is(type, "function"))
        return sl_fail_param(e, SL_EUNSUPPORTED, path_of("%s.type", at).z,
                             "Tools of type '%.40s' are not supported, only 'function'.", type.p);
    TRY(kin_tool_name(tool, at, &name, e));
    const json_node *schema = json_opt(tool, "parameters");
    if (schema) TRY(field_is(schema, JSON_OBJ, path_of("%s.parameters", at).z, "an object", e));
    if (out->n) buf_putc(out, ',');
    build_tool(out, &(struct build_tool){json_opt(tool, "name"), json_opt(tool, "description"),
                                         schema, json_opt(tool, "strict")});
    return 0;
}

static int put_tools(struct chat_build *b, const struct response_fields *f, struct sl_error *e)
{
    struct buf list = buf_make(b->out.max);
    size_t i = 0;
    int code = 0;
    if (!f->tools) return 0;
    TRY(field_is(f->tools, JSON_ARR, "tools", "an array", e));
    for (const json_node *t = json_child(f->tools); t && code == 0; t = json_next(t), i++)
        code = put_tool(&list, t, path_of("tools[%zu]", i).z, e);
    if (code == 0 && list.n) {
        build_key(b, "tools");
        buf_putc(&b->out, '[');
        buf_put_str(&b->out, buf_str(&list));
        buf_putc(&b->out, ']');
    }
    b->out.overflow |= list.overflow;
    buf_free(&list);
    return code;
}

static int put_named_tool(struct buf *out, const json_node *v, const char *at, struct sl_error *e)
{
    struct str type, name;
    TRY(field_is(v, JSON_OBJ, at, "an object", e));
    TRY(kin_string(v, at, "type", &type, e));
    if (!str_is(type, "function"))
        return sl_fail_param(e, SL_EUNSUPPORTED, path_of("%s.type", at).z,
                             "Tools of type '%.40s' are not supported, only 'function'.", type.p);
    TRY(kin_tool_name(v, at, &name, e));
    buf_puts(out, "{\"type\":\"function\",\"function\":{\"name\":");
    json_put_str(out, name);
    buf_puts(out, "}}");
    return 0;
}

/* {"type":"allowed_tools","mode":...,"tools":[...]}: the chat has one more object around it. */
static int put_allowed_tools(struct buf *out, const json_node *v, struct sl_error *e)
{
    const json_node *list = json_opt(v, "tools");
    struct str mode;
    size_t i = 0;
    TRY(kin_string(v, "tool_choice", "mode", &mode, e));
    if (!list)
        return sl_fail_param(e, SL_EMISSING, "tool_choice.tools",
                             "Missing required parameter: 'tool_choice.tools'.");
    TRY(field_is(list, JSON_ARR, "tool_choice.tools", "an array", e));
    buf_puts(out, "{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":");
    json_put_str(out, mode);
    buf_puts(out, ",\"tools\":[");
    for (const json_node *t = json_child(list); t; t = json_next(t), i++) {
        if (i) buf_putc(out, ',');
        TRY(put_named_tool(out, t, path_of("tool_choice.tools[%zu]", i).z, e));
    }
    buf_puts(out, "]}}");
    return 0;
}

static int put_tool_choice(struct chat_build *b, const struct response_fields *f,
                           struct sl_error *e)
{
    if (!f->choice) return 0;
    build_key(b, "tool_choice");
    if (json_type(f->choice) != JSON_OBJ) { /* a string; else the chat's reader refuses it */
        json_put_node(&b->out, f->choice);
        return 0;
    }
    if (json_type(json_opt(f->choice, "type")) == JSON_STR &&
        str_is(json_str(json_opt(f->choice, "type")), "allowed_tools"))
        return put_allowed_tools(&b->out, f->choice, e);
    return put_named_tool(&b->out, f->choice, "tool_choice", e);
}

/* text.format and text.verbosity. */
static int put_text_options(struct chat_build *b, const struct response_fields *f,
                            struct sl_error *e)
{
    static const char *const copied[] = {"verbosity", NULL};
    static const char *const schema_members[] = {"name", "description", "schema", "strict"};
    if (!f->text) return 0;
    TRY(field_is(f->text, JSON_OBJ, "text", "an object", e));
    build_copy(b, f->text, copied);
    const json_node *format = json_opt(f->text, "format");
    struct str type;
    if (!format) return 0;
    TRY(field_is(format, JSON_OBJ, "text.format", "an object", e));
    TRY(kin_string(format, "text.format", "type", &type, e));
    build_key(b, "response_format");
    if (!str_is(type, "json_schema")) {
        json_put_node(&b->out, format);
        return 0;
    }
    if (!json_opt(format, "schema"))
        return sl_fail_param(e, SL_EMISSING, "text.format.schema",
                             "Missing required parameter: 'text.format.schema'.");
    buf_puts(&b->out, "{\"type\":\"json_schema\",\"json_schema\":{");
    bool is_first = true;
    for (size_t i = 0; i < COUNT(schema_members); i++) {
        const json_node *v = json_opt(format, schema_members[i]);
        if (!v) continue;
        buf_printf(&b->out, "%s\"%s\":", is_first ? "" : ",", schema_members[i]);
        json_put_node(&b->out, v);
        is_first = false;
    }
    buf_puts(&b->out, "}}");
    return 0;
}

static int put_reasoning_options(struct chat_build *b, const struct response_fields *f,
                                 struct sl_error *e)
{
    struct str effort;
    if (!f->reasoning) return 0;
    TRY(field_is(f->reasoning, JSON_OBJ, "reasoning", "an object", e));
    const json_node *v = json_opt(f->reasoning, "effort");
    if (!v) return 0;
    TRY(field_str(v, "reasoning.effort", &effort, e));
    build_key(b, "reasoning_effort");
    json_put_str(&b->out, effort);
    return 0;
}

/* ------------------------------------------------------------------ fields */

static int check_fields(struct response_fields *f, const json_node *root,
                        const struct api_context *ctx, struct sl_error *e)
{
    static const char *const refused[] = {"conversation", "prompt", "max_tool_calls",
                                          "context_management"};
    for (size_t i = 0; i < COUNT(refused); i++)
        if (json_opt(root, refused[i]))
            return sl_fail_param(e, SL_EPARAM, refused[i],
                                 "Unsupported parameter: '%s' is not supported.", refused[i]);
    if (f->background)
        return sl_fail_param(e, SL_EPARAM, "background",
                             "Unsupported parameter: 'background' is not supported.");
    if (f->truncation.p && !str_is(f->truncation, "auto") && !str_is(f->truncation, "disabled"))
        return sl_fail_param(e, SL_EVALUE, "truncation",
                             "Invalid value: '%.40s'. Supported values are: 'auto' and 'disabled'.",
                             f->truncation.p);
    if (f->previous_id.p && !ctx->has_store)
        return sl_fail_param(e, SL_EPARAM, "previous_response_id",
                             "Unsupported parameter: 'previous_response_id': this server keeps no "
                             "responses (--max-stored-responses 0).");
    if (f->metadata) TRY(field_is(f->metadata, JSON_OBJ, "metadata", "an object", e));
    if (f->metadata && json_len(f->metadata) > METADATA_MAX)
        return sl_fail_param(e, SL_ELONG, "metadata", "Invalid 'metadata': at most %d members.",
                             METADATA_MAX);
    return 0;
}

static int read_include(struct response_fields *f, struct sl_error *e)
{
    struct str name;
    size_t i = 0;
    if (!f->include) return 0;
    TRY(field_is(f->include, JSON_ARR, "include", "an array of strings", e));
    for (const json_node *c = json_child(f->include); c; c = json_next(c), i++) {
        TRY(field_str(c, path_of("include[%zu]", i).z, &name, e));
        f->wants_logprobs |= str_is(name, "message.output_text.logprobs");
    }
    return 0;
}

static int read_own_fields(struct response_fields *f, const json_node *root,
                           const struct api_context *ctx, struct sl_error *e)
{
    *f = (struct response_fields){.store = true,
                                  .parallel = true,
                                  .max_output_tokens = API_ABSENT,
                                  .input = json_opt(root, "input"),
                                  .tools = json_opt(root, "tools"),
                                  .choice = json_opt(root, "tool_choice"),
                                  .text = json_opt(root, "text"),
                                  .reasoning = json_opt(root, "reasoning"),
                                  .include = json_opt(root, "include"),
                                  .metadata = json_opt(root, "metadata")};
    TRY(fields_read(root, "", rows, COUNT(rows), f, e));
    TRY(check_fields(f, root, ctx, e));
    f->store &= ctx->has_store;
    return read_include(f, e);
}

/* The chat body. */
static int put_body(struct chat_build *b, const struct response_fields *f, const json_node *root,
                    struct sl_error *e)
{
    static const char *const copied[] = {"parallel_tool_calls", "stop", NULL};
    if (f->instructions.p) {
        build_turn(b, "system");
        build_text(b, json_opt(root, "instructions"));
    }
    TRY(put_input(b, f, e));
    build_end_messages(b);
    build_copy(b, root, build_shared_fields);
    build_copy(b, root, copied);
    if (f->max_output_tokens != API_ABSENT) {
        build_key(b, "max_completion_tokens");
        buf_put_i64(&b->out, f->max_output_tokens);
    }
    if (f->wants_logprobs) {
        build_key(b, "logprobs");
        buf_puts(&b->out, "true");
        build_key(b, "top_logprobs");
        buf_put_i64(&b->out, f->top_logprobs);
    }
    TRY(put_tools(b, f, e));
    TRY(put_tool_choice(b, f, e));
    TRY(put_text_options(b, f, e));
    TRY(put_reasoning_options(b, f, e));
    build_end(b);
    return 0;
}

/* ------------------------------------------------------------------ what the answer repeats */

static void put_str_member(struct buf *out, const char *name, struct str value)
{
    buf_printf(out, ",\"%s\":", name);
    if (value.p)
        json_put_str(out, value);
    else
        buf_puts(out, "null");
}

/* A member as the client gave it, else `plain`. */
static void put_node_member(struct buf *out, const char *name, const json_node *v,
                            const char *plain)
{
    buf_printf(out, ",\"%s\":", name);
    if (v)
        json_put_node(out, v);
    else
        buf_puts(out, plain);
}

static void put_echo_tools(struct buf *out, const json_node *tools)
{
    bool is_first = true;
    buf_puts(out, ",\"tools\":[");
    for (const json_node *t = json_child(tools); t; t = json_next(t)) {
        if (is_hosted_tool(json_str(json_get(t, "type")))) continue;
        if (!is_first) buf_putc(out, ',');
        json_put_node(out, t);
        is_first = false;
    }
    buf_putc(out, ']');
}

static void put_echo_text(struct buf *out, const json_node *text)
{
    const json_node *format = json_opt(text, "format"), *verbosity = json_opt(text, "verbosity");
    buf_puts(out, ",\"text\":{\"format\":");
    if (format)
        json_put_node(out, format);
    else
        buf_puts(out, "{\"type\":\"text\"}");
    if (verbosity) put_node_member(out, "verbosity", verbosity, "");
    buf_putc(out, '}');
}

static void put_echo_reasoning(struct buf *out, const json_node *reasoning)
{
    const json_node *effort = json_opt(reasoning, "effort");
    buf_puts(out, ",\"reasoning\":{\"effort\":");
    if (effort)
        json_put_node(out, effort);
    else
        buf_puts(out, "null");
    put_node_member(out, "summary", json_opt(reasoning, "summary"), "null");
    buf_putc(out, '}');
}

/* Numbers are those that apply, defaults of the model included. */
static void put_echo(struct buf *out, const struct api_request *r, const struct response_fields *f)
{
    put_str_member(out, "instructions", f->instructions);
    buf_puts(out, ",\"max_output_tokens\":");
    if (f->max_output_tokens != API_ABSENT)
        buf_put_i64(out, f->max_output_tokens);
    else
        buf_puts(out, "null");
    buf_puts(out, ",\"max_tool_calls\":null,\"background\":false,\"parallel_tool_calls\":");
    buf_puts(out, f->parallel ? "true" : "false");
    put_str_member(out, "previous_response_id", f->previous_id);
    put_str_member(out, "prompt_cache_key", f->cache_key);
    put_echo_reasoning(out, f->reasoning);
    put_str_member(out, "safety_identifier", f->safety_id);
    buf_puts(out, ",\"service_tier\":\"default\",\"store\":");
    buf_puts(out, f->store ? "true" : "false");
    buf_puts(out, ",\"temperature\":");
    json_put_float(out, r->sampling.temperature);
    put_echo_text(out, f->text);
    put_node_member(out, "tool_choice", f->choice, "\"auto\"");
    put_echo_tools(out, f->tools);
    buf_puts(out, ",\"top_logprobs\":");
    buf_put_i64(out, f->top_logprobs);
    buf_puts(out, ",\"top_p\":");
    json_put_float(out, r->sampling.top_p);
    put_str_member(out, "truncation", f->truncation.p ? f->truncation : STR("disabled"));
    put_str_member(out, "user", f->user);
    put_node_member(out, "metadata", f->metadata, "{}");
}

/* ------------------------------------------------------------------ the way in */

/* The items as they are kept for GET .../input_items and for the turns that follow. */
static void put_kept_items(struct buf *out, const json_node *input)
{
    if (json_type(input) == JSON_STR) {
        buf_puts(out, "{\"type\":\"message\",\"role\":\"user\",\"content\":[{\"type\":"
                      "\"input_text\",\"text\":");
        json_put_node(out, input);
        buf_puts(out, "}]}");
        return;
    }
    for (const json_node *c = json_child(input); c; c = json_next(c)) {
        json_put_node(out, c);
        if (json_next(c)) buf_putc(out, ',');
    }
}

/* What was written into b goes into the arena. */
static int keep(struct api_request *r, struct buf *b, struct str *out, struct sl_error *e)
{
    *out = b->overflow ? (struct str){0} : arena_copy(r->arena, buf_str(b));
    buf_free(b);
    return out->p ? 0 : arena_full(e);
}

int responses_write(struct api_request *r, const json_node *root, struct chat_build *b,
                    struct sl_error *e)
{
    struct response_fields f;
    struct response_form *form = arena_alloc(r->arena, sizeof *form);
    if (!form) return arena_full(e);
    TRY(read_own_fields(&f, root, r->ctx, e));
    form->has_instructions = f.instructions.p != NULL;
    form->has_input = f.input != NULL;
    form->is_stored = f.store;
    form->drops_oldest = f.truncation.p && str_is(f.truncation, "auto");
    const json_node *summary = json_opt(f.reasoning, "summary");
    form->wants_summary =
        summary && !(json_type(summary) == JSON_STR && str_is(json_str(summary), "none"));
    if (f.previous_id.p) {
        form->previous_id = arena_copy(r->arena, f.previous_id);
        if (!form->previous_id.p) return arena_full(e);
    }
    r->response = form;
    TRY(put_body(b, &f, root, e));
    if (!f.store) return 0;
    struct buf items = buf_make(r->arena->max);
    put_kept_items(&items, f.input);
    return keep(r, &items, &form->input, e);
}

int responses_put_history(struct chat_build *b, const json_node *items, struct sl_error *e)
{
    return put_items(b, items, "previous_response_id", e);
}

int responses_echo(struct api_request *r, const json_node *root, struct sl_error *e)
{
    struct response_fields f;
    struct buf b = buf_make(r->arena->max);
    TRY(read_own_fields(&f, root, r->ctx, e));
    put_echo(&b, r, &f);
    return keep(r, &b, &r->response->echo, e);
}
