/* kin.c - a Responses or Messages body on its way into the chat's reader, and the checks both
 * formats share.
 */
#include "api/kin.h"

#include <stdio.h>

/* The chat body repeats each text once, escaped anew, with a few more names around it. */
enum { GROWTH = 6, SPARE_BYTES = 1 << 16 };

int kin_string(const json_node *object, const char *at, const char *name, struct str *out,
               struct sl_error *e)
{
    struct path p = path_of("%s%s%s", at, *at ? "." : "", name);
    const json_node *v = json_opt(object, name);
    if (!v) return sl_fail_param(e, SL_EMISSING, p.z, "Missing required parameter: '%s'.", p.z);
    return field_str(v, p.z, out, e);
}

int kin_tool_name(const json_node *object, const char *at, struct str *out, struct sl_error *e)
{
    struct path p = path_of("%s.name", at);
    TRY(kin_string(object, at, "name", out, e));
    if (is_tool_name(*out)) return 0;
    return sl_fail_param(e, SL_EVALUE, p.z, "Invalid '%s': 1 to 64 characters of [A-Za-z0-9_-].",
                         p.z);
}

int kin_part(const json_node *part, const char *at, const char *const *types, struct sl_error *e)
{
    static const char *const media[] = {"image",      "input_image", "document",
                                        "input_file", "input_audio", "search_result"};
    struct str type, text;
    struct path p = path_of("%s.type", at);
    TRY(field_is(part, JSON_OBJ, at, "an object", e));
    TRY(kin_string(part, at, "type", &type, e));
    for (int i = 0; types[i]; i++)
        if (str_is(type, types[i]))
            return kin_string(part, at, str_is(type, "refusal") ? "refusal" : "text", &text, e);
    for (size_t i = 0; i < sizeof media / sizeof *media; i++)
        if (str_is(type, media[i]))
            return sl_fail_param(
                e, SL_EUNSUPPORTED, p.z,
                "This model takes text only; content of type '%s' is not supported.", media[i]);
    return sl_fail_param(e, SL_EVALUE, p.z, "Invalid value: '%.40s' for '%s'.", type.p, p.z);
}

int kin_text(const json_node *v, const char *at, const char *const *types, struct sl_error *e)
{
    size_t i = 0;
    if (!v) return sl_fail_param(e, SL_EMISSING, at, "Missing required parameter: '%s'.", at);
    if (json_type(v) == JSON_STR) return 0;
    if (json_type(v) != JSON_ARR)
        return field_type_error(v, at, "a string or an array of content parts", e);
    for (const json_node *c = json_child(v); c; c = json_next(c), i++)
        TRY(kin_part(c, path_of("%s[%zu]", at, i).z, types, e));
    return 0;
}

void kin_rename_param(enum api_kind surface, struct sl_error *e)
{
    static const struct {
        enum api_kind surface;
        const char *chat, *own;
    } names[] = {
        {API_RESPONSE, "messages", "input"},
        {API_RESPONSE, "response_format", "text.format"},
        {API_RESPONSE, "reasoning_effort", "reasoning.effort"},
        {API_RESPONSE, "verbosity", "text.verbosity"},
        {API_RESPONSE, "max_completion_tokens", "max_output_tokens"},
        {API_MESSAGE, "stop", "stop_sequences"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n = strlen(names[i].chat);
        if (names[i].surface != surface || strncmp(e->param, names[i].chat, n) != 0) continue;
        if (e->param[n] != '\0' && e->param[n] != '.' && e->param[n] != '[') continue;
        snprintf(e->param, sizeof e->param, "%s", names[i].own);
        return;
    }
}

static int read_translated(struct api_request *r, const json_node *root, size_t n_body,
                           struct sl_error *e)
{
    struct chat_build b;
    build_begin(&b, GROWTH * n_body + SPARE_BYTES);
    int code = r->surface == API_RESPONSE ? responses_write(r, root, &b, e)
                                          : anthropic_write(r, root, &b, e);
    if (code == 0 && b.out.overflow) code = arena_full(e);
    if (code == 0) code = json_parse(&r->doc, b.out.p, b.out.n, &json_limits_request, e);
    build_free(&b);
    TRY(code);
    code = read_body(r, json_root(r->doc), e);
    if (code < 0) kin_rename_param(r->surface, e);
    return code;
}

int kin_read(struct api_request *r, struct str body, struct sl_error *e)
{
    struct json_doc *doc;
    TRY(json_parse(&doc, body.p, body.n, &json_limits_request, e));
    const json_node *root = json_root(doc);
    int code = json_type(root) == JSON_OBJ
                   ? read_translated(r, root, body.n, e)
                   : sl_fail(e, SL_ETYPE, "The body must be a JSON object.");
    if (code == 0 && r->surface == API_RESPONSE) code = responses_echo(r, root, e);
    json_free(doc);
    return code;
}
