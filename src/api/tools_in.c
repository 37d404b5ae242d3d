/* tools_in.c - `tools` and `tool_choice`: their validation. Tools reach the template, and what the
 * answer's parser needs of them is kept.
 */
#include "api/api_impl.h"

bool is_tool_name(struct str s)
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

/* ------------------------------------------------------------------ what the parser needs of them */

/* What a parameter's schema allows; 0: it does not say, or not in one place. */
static unsigned types_of(const json_node *schema)
{
    const json_node *type = json_opt(schema, "type"), *list = json_opt(schema, "enum");
    unsigned types = 0;
    const json_node *first = json_type(type) == JSON_ARR ? json_child(type) : type;
    for (const json_node *t = first; t; t = t == type ? NULL : json_next(t)) {
        struct str name = json_type(t) == JSON_STR ? json_str(t) : STR("");
        types |= str_is(name, "string") ? PARAM_STRING
                 : str_is(name, "null") ? PARAM_NULL
                                        : PARAM_OTHER;
    }
    for (const json_node *v = type ? NULL : json_child(list); v; v = json_next(v))
        types |= json_type(v) == JSON_STR    ? PARAM_STRING
                 : json_type(v) == JSON_NULL ? PARAM_NULL
                                             : PARAM_OTHER;
    return types;
}

/* The types of a schema's alternatives together; one that does not say makes it 0. */
static unsigned param_types(const json_node *schema)
{
    const json_node *some = json_opt(schema, "anyOf");
    if (!some) some = json_opt(schema, "oneOf");
    unsigned types = types_of(schema);
    for (const json_node *s = json_child(some); s; s = json_next(s)) {
        if (types_of(s) == 0) return 0;
        types |= types_of(s);
    }
    return types;
}

static int keep_tool(struct api_request *r, const json_node *f, struct tool *out,
                     struct sl_error *e)
{
    const json_node *props = json_opt(json_opt(f, "parameters"), "properties");
    size_t n = json_type(props) == JSON_OBJ ? json_len(props) : 0, i = 0;
    struct tool_param *params = arena_array(r->arena, n, sizeof *params);
    *out = (struct tool){arena_copy(r->arena, json_str(json_opt(f, "name"))), params, n};
    if (!params || !out->name.p) return arena_full(e);
    for (const json_node *p = n ? json_child(props) : NULL; p; p = json_next(p), i++) {
        params[i] = (struct tool_param){arena_copy(r->arena, json_key(p)), param_types(p)};
        if (!params[i].name.p) return arena_full(e);
    }
    return 0;
}

static int keep_tools(struct api_request *r, struct sl_error *e)
{
    struct tool_set *set = &r->tool_set;
    size_t n = json_len(r->tools), i = 0;
    struct tool *v = arena_array(r->arena, n, sizeof *v);
    if (!v) return arena_full(e);
    for (const json_node *t = json_child(r->tools); t; t = json_next(t), i++) {
        const json_node *f = json_opt(t, "function");
        if (json_type(json_opt(f, "strict")) == JSON_TRUE) r->has_strict_tools = true;
        TRY(keep_tool(r, f, &v[i], e));
    }
    set->v = v;
    set->n = n;
    return 0;
}

/* ------------------------------------------------------------------ tool_choice */

static bool is_named(const json_node *tool, struct str name)
{
    return str_eq(json_str(json_opt(json_opt(tool, "function"), "name")), name);
}

static bool has_tool(const json_node *tools, struct str name)
{
    for (const json_node *t = json_child(tools); t; t = json_next(t))
        if (is_named(t, name)) return true;
    return false;
}

/* {"type":"function","function":{"name":...}} or the short {"name":...}: a tool that is given. */
static int read_tool_ref(const struct api_request *r, const json_node *v, const char *at,
                         struct str *name, struct sl_error *e)
{
    struct path p = path_of("%s.type", at), fn = path_of("%s.function", at);
    struct str type = STR("function");
    TRY(field_is(v, JSON_OBJ, at, "an object", e));
    if (json_opt(v, "type")) TRY(field_str(json_opt(v, "type"), p.z, &type, e));
    if (!str_is(type, "function"))
        return sl_fail_param(e, SL_EVALUE, p.z, "Invalid value: '%.40s'.", type.p);
    const json_node *f = json_opt(v, "function");
    TRY(f ? read_name(f, fn.z, name, e) : read_name(v, at, name, e));
    return has_tool(r->tools, *name)
               ? 0
               : sl_fail_param(e, SL_EVALUE, at, "'%s' names '%.64s', which is not in 'tools'.", at,
                               name->p);
}

static int read_mode(struct api_request *r, struct str mode, const char *param, struct sl_error *e)
{
    static const char *const modes[] = {"none", "auto", "required"};
    for (int i = 0; i < 3; i++)
        if (str_is(mode, modes[i])) return r->tool_set.choice = (enum tool_choice)i, 0;
    return sl_fail_param(
        e, SL_EVALUE, param,
        "Invalid value: '%.40s'. Supported values are: 'none', 'auto', and 'required'.", mode.p);
}

/* Only some of the tools may be called: only they are shown to the model. */
static int read_allowed_tools(struct api_request *r, const json_node *v, struct sl_error *e)
{
    static const char at[] = "tool_choice.allowed_tools";
    const json_node *list = json_opt(v, "tools"), *mode = json_opt(v, "mode");
    struct str text = STR("auto"), name;
    struct buf b = buf_make(SIZE_MAX / 4);
    TRY(field_is(v, JSON_OBJ, at, "an object", e));
    if (mode) TRY(field_str(mode, "tool_choice.allowed_tools.mode", &text, e));
    TRY(read_mode(r, text, "tool_choice.allowed_tools.mode", e));
    TRY(field_is(list, JSON_ARR, "tool_choice.allowed_tools.tools", "an array", e));
    size_t i = 0;
    for (const json_node *t = json_child(list); t; t = json_next(t), i++)
        TRY(read_tool_ref(r, t, path_of("%s.tools[%zu]", at, i).z, &name, e));
    buf_putc(&b, '[');
    for (const json_node *t = json_child(r->tools); t; t = json_next(t)) {
        bool is_in = false;
        for (const json_node *a = json_child(list); a && !is_in; a = json_next(a)) {
            const json_node *f = json_opt(a, "function");
            is_in = is_named(t, json_str(json_opt(f ? f : a, "name")));
        }
        if (is_in && b.n > 1) buf_putc(&b, ',');
        if (is_in) json_put_node(&b, t);
    }
    buf_putc(&b, ']');
    int code = json_parse(&r->some_tools, b.p, b.n, &json_limits_request, e);
    buf_free(&b);
    if (code == 0) r->tools = json_len(json_root(r->some_tools)) ? json_root(r->some_tools) : NULL;
    return code;
}

static int read_choice(struct api_request *r, const json_node *v, struct sl_error *e)
{
    struct tool_set *set = &r->tool_set;
    bool text = json_type(v) == JSON_STR;
    if (!text && json_type(v) != JSON_OBJ)
        return field_type_error(v, "tool_choice", "a string or an object", e);
    if (text) TRY(read_mode(r, json_str(v), "tool_choice", e));
    if (!r->tools && !(text && set->choice <= TOOLS_AUTO))
        return sl_fail_param(e, SL_EVALUE, "tool_choice",
                             "'tool_choice' is only allowed when 'tools' are given.");
    if (text) return 0;
    const json_node *type = json_opt(v, "type");
    if (json_type(type) == JSON_STR && str_is(json_str(type), "allowed_tools"))
        return read_allowed_tools(r, json_opt(v, "allowed_tools"), e);
    TRY(read_tool_ref(r, v, "tool_choice", &set->named, e));
    set->choice = TOOLS_NAMED;
    set->named = arena_copy(r->arena, set->named);
    return set->named.p ? 0 : arena_full(e);
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
    r->tool_set.choice = TOOLS_AUTO;
    if (choice) TRY(read_choice(r, choice, e));
    if (!r->tools) r->tool_set.choice = TOOLS_NONE;
    r->tool_set.no_parallel = !r->f.parallel_tool_calls;
    if (r->tool_set.choice >= TOOLS_REQUIRED)
        r->form = (struct form){.kind = FORM_CALLS, .param = "tool_choice"};
    r->call_format = r->tool_set.choice == TOOLS_NONE ? NULL : r->ctx->formats.calls;
    return keep_tools(r, e);
}
