/* messages.c - is `messages` what section 3.2 of the wire specification allows? Order is not
 * checked here: clients trim their history, and the template has the last word. The tree itself
 * goes to the template unchanged.
 */
#include "api/api_impl.h"

enum part_set { PARTS_TEXT, PARTS_USER, PARTS_ASSISTANT };

static const struct role {
    const char *name;
    enum part_set parts;
    bool may_lack_content;
} roles[] = {
    {"system", PARTS_TEXT, false}, {"developer", PARTS_TEXT, false},
    {"user", PARTS_USER, false},   {"assistant", PARTS_ASSISTANT, true},
    {"tool", PARTS_TEXT, false},   {"function", PARTS_TEXT, true},
};

static const struct role *role_of(struct str name)
{
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (str_is(name, roles[i].name)) return &roles[i];
    return NULL;
}

static int check_part(const json_node *part, const struct role *role, const char *at,
                      struct sl_error *e)
{
    static const char *const media[] = {"image_url", "input_audio", "file",  "video_url",
                                        "audio_url", "image",       "audio", "video"};
    struct str type;
    struct path p = path_of("%s.type", at);
    TRY(field_is(part, JSON_OBJ, at, "an object", e));
    if (!json_opt(part, "type"))
        return sl_fail_param(e, SL_EMISSING, p.z, "Missing required parameter: '%s'.", p.z);
    TRY(field_str(json_opt(part, "type"), p.z, &type, e));
    bool refusal = str_is(type, "refusal") && role->parts == PARTS_ASSISTANT;
    if (str_is(type, "text") || refusal) {
        const char *key = refusal ? "refusal" : "text";
        struct path text = path_of("%s.%s", at, key);
        if (!json_opt(part, key))
            return sl_fail_param(e, SL_EMISSING, text.z, "Missing required parameter: '%s'.",
                                 text.z);
        return field_is(json_opt(part, key), JSON_STR, text.z, "a string", e);
    }
    for (size_t i = 0; i < sizeof media / sizeof *media; i++)
        if (str_is(type, media[i]))
            return sl_fail_param(
                e, SL_EUNSUPPORTED, p.z,
                "This model takes text only; content parts of type '%s' are not supported.",
                media[i]);
    return sl_fail_param(e, SL_EVALUE, p.z,
                         "Invalid value: '%.40s'. Supported content parts are: 'text'%s.", type.p,
                         role->parts == PARTS_ASSISTANT ? " and 'refusal'" : "");
}

static int check_content(const json_node *content, const struct role *role, const char *at,
                         struct sl_error *e)
{
    struct path p = path_of("%s.content", at);
    if (!content)
        return role->may_lack_content
                   ? 0
                   : sl_fail_param(e, SL_EMISSING, p.z, "Missing required parameter: '%s'.", p.z);
    if (json_type(content) == JSON_STR) return 0;
    if (json_type(content) != JSON_ARR)
        return field_type_error(content, p.z, "a string or an array of content parts", e);
    size_t i = 0;
    for (const json_node *c = json_child(content); c; c = json_next(c), i++)
        TRY(check_part(c, role, path_of("%s[%zu]", p.z, i).z, e));
    return 0;
}

static int check_call(const json_node *call, const char *at, struct sl_error *e)
{
    struct path fn = path_of("%s.function", at), name = path_of("%s.name", fn.z);
    struct path args = path_of("%s.arguments", fn.z);
    TRY(field_is(call, JSON_OBJ, at, "an object", e));
    const json_node *f = json_opt(call, "function");
    if (!f) return sl_fail_param(e, SL_EMISSING, fn.z, "Missing required parameter: '%s'.", fn.z);
    TRY(field_is(f, JSON_OBJ, fn.z, "an object", e));
    if (!json_opt(f, "name"))
        return sl_fail_param(e, SL_EMISSING, name.z, "Missing required parameter: '%s'.", name.z);
    TRY(field_is(json_opt(f, "name"), JSON_STR, name.z, "a string", e));
    const json_node *a = json_opt(f, "arguments");
    if (a && json_type(a) != JSON_STR && json_type(a) != JSON_OBJ)
        return field_type_error(a, args.z, "a string", e);
    return 0;
}

static int check_calls(const json_node *calls, const char *at, struct sl_error *e)
{
    struct path p = path_of("%s.tool_calls", at);
    size_t i = 0;
    TRY(field_is(calls, JSON_ARR, p.z, "an array", e));
    for (const json_node *c = json_child(calls); c; c = json_next(c), i++)
        TRY(check_call(c, path_of("%s[%zu]", p.z, i).z, e));
    return 0;
}

static int check_message(const json_node *m, const char *at, struct sl_error *e)
{
    static const char *const strings[] = {"name", "tool_call_id", "reasoning_content", "reasoning"};
    struct str name;
    struct path p = path_of("%s.role", at);
    TRY(field_is(m, JSON_OBJ, at, "an object", e));
    if (!json_opt(m, "role"))
        return sl_fail_param(e, SL_EMISSING, p.z, "Missing required parameter: '%s'.", p.z);
    TRY(field_str(json_opt(m, "role"), p.z, &name, e));
    const struct role *role = role_of(name);
    if (!role)
        return sl_fail_param(
            e, SL_EVALUE, p.z,
            "Invalid value: '%.40s'. Supported values are: 'system', 'developer', 'user', "
            "'assistant', 'tool', and 'function'.",
            name.p);
    TRY(check_content(json_opt(m, "content"), role, at, e));
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        const json_node *v = json_opt(m, strings[i]);
        if (v) TRY(field_is(v, JSON_STR, path_of("%s.%s", at, strings[i]).z, "a string", e));
    }
    const json_node *calls = json_opt(m, "tool_calls");
    return calls ? check_calls(calls, at, e) : 0;
}

int check_messages(const json_node *messages, struct sl_error *e)
{
    if (!messages)
        return sl_fail_param(e, SL_EMISSING, "messages", "Missing required parameter: 'messages'.");
    TRY(field_is(messages, JSON_ARR, "messages", "an array of messages", e));
    if (!json_child(messages))
        return sl_fail_param(e, SL_EEMPTY, "messages",
                             "Invalid 'messages': empty array. Expected at least one message.");
    size_t i = 0;
    for (const json_node *m = json_child(messages); m; m = json_next(m), i++)
        TRY(check_message(m, path_of("messages[%zu]", i).z, e));
    return 0;
}
