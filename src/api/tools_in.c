/* tools_in.c - `tools` and `tool_choice`: their validation. Tools reach the template; an answer that
 * must be a call is refused by name.
 */
#include "api/api_impl.h"

static bool is_tool_name(struct str s)
{
    bool good = s.n >= 1 && s.n <= 64;
    for (size_t i = 0; i < s.n && good; i++) {
        char c = s.p[i];
        good = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
               c == '_' || c == '-';
    }
    return good;
}

/* {"function":{"name":...}} or {"name":...}: the name, checked for presence and form. */
static int read_name(const json_node *f, const char *at, struct str *name, struct sl_error *e)
{
    struct path p = path_of("%s.name", at);
    const json_node *v = json_opt(f, "name");
    if (!v) return sl_fail_param(e, SL_EMISSING, p.z, "Missing required parameter: '%s'.", p.z);
    TRY(field_str(v, p.z, name, e));
    return is_tool_name(*name)
               ? 0
               : sl_fail_param(e, SL_EVALUE, p.z,
                               "Invalid '%s': 1 to 64 characters of [A-Za-z0-9_-].", p.z);
}

static int check_tool(const json_node *tool, const char *at, struct sl_error *e)
{
    struct str type, name;
    struct path p_type = path_of("%s.type", at), p_fn = path_of("%s.function", at);
    TRY(field_is(tool, JSON_OBJ, at, "an object", e));
    if (!json_opt(tool, "type"))
        return sl_fail_param(e, SL_EMISSING, p_type.z, "Missing required parameter: '%s'.",
                             p_type.z);
    TRY(field_str(json_opt(tool, "type"), p_type.z, &type, e));
    if (!str_is(type, "function"))
        return sl_fail_param(e, SL_EUNSUPPORTED, p_type.z,
                             "Tools of type '%.40s' are not supported, only 'function'.", type.p);
    const json_node *f = json_opt(tool, "function");
    if (!f)
        return sl_fail_param(e, SL_EMISSING, p_fn.z, "Missing required parameter: '%s'.", p_fn.z);
    TRY(field_is(f, JSON_OBJ, p_fn.z, "an object", e));
    TRY(read_name(f, p_fn.z, &name, e));
    const json_node *d = json_opt(f, "description"), *params = json_opt(f, "parameters");
    if (d) TRY(field_is(d, JSON_STR, path_of("%s.description", p_fn.z).z, "a string", e));
    if (params) TRY(field_is(params, JSON_OBJ, path_of("%s.parameters", p_fn.z).z, "an object", e));
    bool strict;
    const json_node *s = json_opt(f, "strict");
    return s ? field_bool(s, path_of("%s.strict", p_fn.z).z, &strict, e) : 0;
}

static bool has_tool(const json_node *tools, struct str name)
{
    for (const json_node *t = json_child(tools); t; t = json_next(t))
        if (str_eq(json_str(json_opt(json_opt(t, "function"), "name")), name)) return true;
    return false;
}

static int unsupported_choice(struct sl_error *e)
{
    return sl_fail_param(
        e, SL_EUNSUPPORTED, "tool_choice",
        "Forcing a tool call is not supported; 'tool_choice' may be 'auto' or 'none'.");
}

static int check_named_choice(const json_node *v, const json_node *tools, struct sl_error *e)
{
    struct str type = STR("function"), name;
    if (json_opt(v, "type")) TRY(field_str(json_opt(v, "type"), "tool_choice.type", &type, e));
    if (str_is(type, "allowed_tools")) return unsupported_choice(e);
    if (!str_is(type, "function"))
        return sl_fail_param(e, SL_EVALUE, "tool_choice.type", "Invalid value: '%.40s'.", type.p);
    const json_node *f = json_opt(v, "function");
    TRY(f ? read_name(f, "tool_choice.function", &name, e) : read_name(v, "tool_choice", &name, e));
    if (!has_tool(tools, name))
        return sl_fail_param(e, SL_EVALUE, "tool_choice",
                             "'tool_choice' names '%.64s', which is not in 'tools'.", name.p);
    return unsupported_choice(e);
}

static int check_tool_choice(const json_node *v, const json_node *tools, struct sl_error *e)
{
    bool text = json_type(v) == JSON_STR;
    if (!text && json_type(v) != JSON_OBJ)
        return field_type_error(v, "tool_choice", "a string or an object", e);
    if (text && (str_is(json_str(v), "none") || str_is(json_str(v), "auto"))) return 0;
    if (text && !str_is(json_str(v), "required"))
        return sl_fail_param(
            e, SL_EVALUE, "tool_choice",
            "Invalid value: '%.40s'. Supported values are: 'none', 'auto', and 'required'.",
            json_str(v).p);
    if (!tools)
        return sl_fail_param(e, SL_EVALUE, "tool_choice",
                             "'tool_choice' is only allowed when 'tools' are given.");
    return text ? unsupported_choice(e) : check_named_choice(v, tools, e);
}

int read_tools(struct api_request *r, const json_node *root, struct sl_error *e)
{
    const json_node *tools = json_opt(root, "tools"), *choice = json_opt(root, "tool_choice");
    if (tools) {
        size_t i = 0;
        TRY(field_is(tools, JSON_ARR, "tools", "an array", e));
        if (json_len(tools) > TOOLS_MAX)
            return sl_fail_param(e, SL_ELONG, "tools", "Invalid 'tools': at most %d tools.",
                                 TOOLS_MAX);
        for (const json_node *t = json_child(tools); t; t = json_next(t), i++)
            TRY(check_tool(t, path_of("tools[%zu]", i).z, e));
        r->tools = json_child(tools) ? tools : NULL;
    }
    return choice ? check_tool_choice(choice, r->tools, e) : 0;
}
