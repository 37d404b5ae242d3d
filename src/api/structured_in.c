/* structured_in.c - which form the output must have: response_format of the OpenAI API, vLLM's
 * structured_outputs and its older guided_*, llama.cpp's grammar and json_schema, SGLang's ebnf and
 * regex. At most one may be given. Reading finds the source; compiling (form_compile) happens in
 * api_prepare, on a work-pool thread, or is spared by the cache.
 */
#include "api/api_impl.h"
#include "api/call_grammar.h"
#include "api/grammar_cache.h"

enum { SCHEMA_NAME_MAX = 64, CHOICES_MAX = 1024, KEY_MAX = 8 << 20 };
/* One grammar with its tables; what a request may cost in all is bounded by the cache's budget and
 * by how many requests run. */
enum { GRAMMAR_BYTES = 32 << 20, GRAMMAR_SOURCE = 256 << 10 };

static const struct {
    const char *name; /* a root field, or one of structured_outputs */
    enum form_kind kind;
} root_forms[] =
    {{"guided_json", FORM_SCHEMA},  {"guided_regex", FORM_REGEX}, {"guided_choice", FORM_CHOICE},
     {"guided_grammar", FORM_EBNF}, {"grammar", FORM_EBNF},       {"json_schema", FORM_SCHEMA},
     {"ebnf", FORM_EBNF},           {"regex", FORM_REGEX}},
  inner_forms[] = {{"json", FORM_SCHEMA},        {"regex", FORM_REGEX},
                   {"choice", FORM_CHOICE},      {"grammar", FORM_EBNF},
                   {"json_object", FORM_OBJECT}, {"structural_tag", FORM_TAGS}};
#define COUNT(array) (sizeof(array) / sizeof *(array))

static int set_form(struct form *f, enum form_kind kind, const char *param, const json_node *v,
                    struct sl_error *e)
{
    if (f->kind != FORM_NONE)
        return sl_fail_param(e, SL_EVALUE, param,
                             "Only one of 'response_format', 'structured_outputs' and the older "
                             "names may ask for a form ('%s' and '%s' do).",
                             f->param, param);
    f->kind = kind;
    f->param = param;
    f->source = v;
    return 0;
}

static int check_type(enum form_kind kind, const char *param, const json_node *v,
                      struct sl_error *e)
{
    struct str unused;
    switch (kind) {
    case FORM_TAGS: /* an object, or one as text */
        if (json_type(v) == JSON_OBJ || json_type(v) == JSON_STR) return 0;
        return field_type_error(v, param, "an object", e);
    case FORM_SCHEMA: /* an object, true, false, or any of these as text */
        if (json_type(v) == JSON_OBJ || json_type(v) == JSON_TRUE || json_type(v) == JSON_FALSE)
            return 0;
        if (json_type(v) == JSON_STR) return 0;
        return field_type_error(v, param, "an object", e);
    case FORM_CHOICE:
        TRY(field_is(v, JSON_ARR, param, "an array of strings", e));
        if (json_len(v) > CHOICES_MAX)
            return sl_fail_param(e, SL_ELONG, param, "Invalid '%s': at most %d texts.", param,
                                 CHOICES_MAX);
        for (const json_node *m = json_child(v); m; m = json_next(m))
            TRY(field_is(m, JSON_STR, param, "an array of strings", e));
        return 0;
    case FORM_REGEX:
    case FORM_EBNF:
        return field_str(v, param, &unused, e);
    case FORM_OBJECT:
        if (json_type(v) == JSON_TRUE) return 0;
        return sl_fail_param(e, SL_EVALUE, param, "Invalid '%s': only true is meant by it.", param);
    case FORM_ANY_JSON:
    case FORM_CALLS:
    case FORM_NONE:
        break;
    }
    return 0;
}

static int check_name(const json_node *v, struct sl_error *e)
{
    static const char *const param = "response_format.json_schema.name";
    struct str s;
    if (!v) return 0; /* OpenAI asks for it; vLLM and clients of others leave it out */
    TRY(field_str(v, param, &s, e));
    bool good = s.n >= 1 && s.n <= SCHEMA_NAME_MAX;
    for (size_t i = 0; i < s.n && good; i++) {
        char c = s.p[i];
        good = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
               c == '_' || c == '-';
    }
    return good ? 0
                : sl_fail_param(e, SL_EVALUE, param,
                                "Invalid '%s': 1 to %d characters of [A-Za-z0-9_-].", param,
                                SCHEMA_NAME_MAX);
}

static int read_json_schema(struct form *f, const json_node *format, struct sl_error *e)
{
    const json_node *wrap = json_opt(format, "json_schema"), *strict;
    const json_node *schema = json_opt(wrap ? wrap : format, "schema");
    if (!wrap && !schema)
        return sl_fail_param(e, SL_EMISSING, "response_format.json_schema",
                             "Missing required parameter: 'response_format.json_schema'.");
    if (wrap) TRY(field_is(wrap, JSON_OBJ, "response_format.json_schema", "an object", e));
    TRY(check_name(json_opt(wrap, "name"), e));
    strict = json_opt(wrap ? wrap : format, "strict");
    if (strict) TRY(field_bool(strict, "response_format.json_schema.strict", &f->is_strict, e));
    if (schema) TRY(check_type(FORM_SCHEMA, "response_format.json_schema.schema", schema, e));
    return set_form(f, schema ? FORM_SCHEMA : FORM_ANY_JSON, "response_format", schema, e);
}

static int read_response_format(struct form *f, const json_node *format, struct sl_error *e)
{
    struct str type;
    if (!format) return 0;
    TRY(field_is(format, JSON_OBJ, "response_format", "an object", e));
    if (!json_opt(format, "type"))
        return sl_fail_param(e, SL_EMISSING, "response_format.type",
                             "Missing required parameter: 'response_format.type'.");
    TRY(field_str(json_opt(format, "type"), "response_format.type", &type, e));
    if (str_is(type, "text")) return 0;
    if (str_is(type, "json_schema")) return read_json_schema(f, format, e);
    if (str_is(type, "structural_tag")) return set_form(f, FORM_TAGS, "response_format", format, e);
    if (!str_is(type, "json_object"))
        return sl_fail_param(e, SL_EVALUE, "response_format.type",
                             "Invalid value: '%.40s'. Supported values are: 'text', 'json_object', "
                             "'json_schema', and 'structural_tag'.",
                             type.p);
    const json_node *schema = json_opt(format, "schema"); /* llama.cpp */
    if (schema) TRY(check_type(FORM_SCHEMA, "response_format.schema", schema, e));
    return set_form(f, schema ? FORM_SCHEMA : FORM_OBJECT, "response_format", schema, e);
}

static int read_structured_outputs(struct form *f, const json_node *v, struct sl_error *e)
{
    if (!v) return 0;
    TRY(field_is(v, JSON_OBJ, "structured_outputs", "an object", e));
    if (json_opt(v, "disable_any_whitespace"))
        TRY(field_bool(json_opt(v, "disable_any_whitespace"),
                       "structured_outputs.disable_any_whitespace", &f->is_compact, e));
    for (size_t i = 0; i < COUNT(inner_forms); i++) {
        const json_node *m = json_opt(v, inner_forms[i].name);
        if (!m || (inner_forms[i].kind == FORM_OBJECT && json_type(m) == JSON_FALSE)) continue;
        TRY(check_type(inner_forms[i].kind, "structured_outputs", m, e));
        TRY(set_form(f, inner_forms[i].kind, "structured_outputs", m, e));
    }
    if (f->kind == FORM_NONE)
        return sl_fail_param(e, SL_EVALUE, "structured_outputs",
                             "'structured_outputs' needs one of json, regex, choice, grammar, "
                             "json_object and structural_tag.");
    return 0;
}

int read_form(struct api_request *r, const json_node *root, struct sl_error *e)
{
    struct form *f = &r->form;
    TRY(read_response_format(f, json_opt(root, "response_format"), e));
    TRY(read_structured_outputs(f, json_opt(root, "structured_outputs"), e));
    for (size_t i = 0; i < COUNT(root_forms); i++) {
        const json_node *v = json_opt(root, root_forms[i].name);
        if (!v) continue;
        TRY(check_type(root_forms[i].kind, root_forms[i].name, v, e));
        TRY(set_form(f, root_forms[i].kind, root_forms[i].name, v, e));
    }
    return 0;
}

/* ------------------------------------------------------------------ compiling */

/* A schema, or structural tags. */
static int compile_json(const struct form *f, struct grammar_vocab *v, const struct grammar_opts *o,
                        struct grammar **out, struct sl_error *e)
{
    struct json_doc *doc = NULL;
    const json_node *source = f->source;
    if (source && json_type(source) == JSON_STR) {
        struct str text = json_str(source);
        TRY(json_parse(&doc, text.p, text.n, &json_limits_request, e));
        source = json_root(doc);
    }
    if (f->kind == FORM_ANY_JSON) TRY(json_parse(&doc, "true", 4, &json_limits_request, e));
    if (doc) source = json_root(doc);
    int code = f->kind == FORM_TAGS ? grammar_structural(out, source, v, o, e)
                                    : grammar_json_schema(out, source, v, o, e);
    json_free(doc);
    return code;
}

static int compile_choice(const struct form *f, struct grammar_vocab *v,
                          const struct grammar_opts *o, struct grammar **out, struct sl_error *e)
{
    struct str texts[CHOICES_MAX];
    size_t n = 0;
    for (const json_node *m = json_child(f->source); m; m = json_next(m)) texts[n++] = json_str(m);
    return grammar_choice(out, texts, n, v, o, e);
}

static int compile(const struct form *f, struct grammar_vocab *v, struct grammar **out,
                   struct sl_error *e)
{
    const struct grammar_opts o = {.max_source = GRAMMAR_SOURCE,
                                   .max_bytes = GRAMMAR_BYTES,
                                   .is_strict = f->is_strict,
                                   .is_compact = f->is_compact,
                                   .is_lenient = f->kind == FORM_CALLS};
    *out = NULL;
    switch (f->kind) {
    case FORM_NONE:
        return 0;
    case FORM_OBJECT:
        return grammar_json_object(out, v, &o, e);
    case FORM_ANY_JSON:
    case FORM_SCHEMA:
    case FORM_TAGS:
        return compile_json(f, v, &o, out, e);
    case FORM_CHOICE:
        return compile_choice(f, v, &o, out, e);
    case FORM_REGEX:
        return grammar_regex(out, json_str(f->source), v, &o, e);
    case FORM_EBNF:
        return grammar_ebnf(out, json_str(f->source), v, &o, e);
    case FORM_CALLS:
        return grammar_tagged(out, f->tags, v, &o, e);
    }
    return 0;
}

/* Calls that the answer must be, as the model writes them. Where it writes them otherwise than a
 * grammar can say, the answer's parser reads another row. */
static int plan_calls(struct api_request *r, struct sl_error *e)
{
    struct call_grammar *c = arena_alloc(r->arena, sizeof *c);
    bool is_stuck = r->prompt_thinks == REASONING_OPEN && r->ctx->formats.thinking.n_close == 0;
    struct str ahead = is_stuck ? str_of(r->ctx->formats.reasoning->close) : STR("");
    if (!c || call_grammar_make(c, r->call_format, r->tools, &r->tool_set, ahead, r->arena) < 0)
        return arena_full(e);
    r->call_format = c->format;
    r->form.tags = &c->tags;
    return 0;
}

static void put_key(const struct form *f, struct buf *key)
{
    buf_printf(key, "%d%d%d", (int)f->kind, f->is_strict, f->is_compact);
    if (f->source) json_put_node(key, f->source);
    const struct grammar_tags *t = f->tags;
    if (!t) return;
    buf_printf(key, "%u,%u", t->min, t->max);
    const struct grammar_free *around = t->free; /* the middles follow from the triggers */
    for (size_t i = 0; around && i < around->n_triggers; i++)
        json_put_str(key, around->triggers[i]);
    if (around) {
        buf_printf(key, "free%d", around->is_once);
        json_put_str(key, around->start);
        json_put_str(key, around->anchor);
        json_put_str(key, around->ahead);
    }
    for (size_t i = 0; i < t->n_tags; i++) {
        buf_putc(key, t->tags[i].is_exact ? '!' : '.');
        json_put_str(key, t->tags[i].before);
        json_put_str(key, t->tags[i].after);
        if (t->tags[i].schema) json_put_node(key, t->tags[i].schema);
    }
    json_put_str(key, t->prefix);
    json_put_str(key, t->separator);
    json_put_str(key, t->suffix);
}

/* The request's field is at fault, whatever could not be compiled; a schema's own pointer goes into
 * the text. */
static int explain(const struct form *f, const struct sl_error *why, struct sl_error *e)
{
    int code = why->code == SL_ETOOLARGE || why->code == SL_EINVAL ? SL_ESCHEMA : why->code;
    bool is_calls = f->kind == FORM_CALLS, is_json = f->kind == FORM_SCHEMA || is_calls;
    return sl_fail_param(e, code, is_calls ? "tools" : f->param, "Invalid %s: %s%s%s",
                         is_json                ? "schema"
                         : f->kind == FORM_TAGS ? "format"
                                                : "grammar or pattern",
                         why->param, why->param[0] ? ": " : "", why->text);
}

/* Strict tools that may be called: text is free, calls are held to their schemas. */
static bool has_free_calls(const struct api_request *r)
{
    return r->form.kind == FORM_NONE && r->tool_set.choice == TOOLS_AUTO && r->has_strict_tools &&
           r->ctx->vocab && call_grammar_may_be_free(r->call_format);
}

int form_compile(struct api_request *r, struct sl_error *e)
{
    struct form *f = &r->form;
    struct grammar_cache *cache = r->ctx->grammars;
    struct sl_error why = {0};
    if (has_free_calls(r)) *f = (struct form){.kind = FORM_CALLS, .param = "tools"};
    if (f->kind == FORM_NONE) return 0;
    if (f->kind == FORM_CALLS) TRY(plan_calls(r, e));
    struct buf key = buf_make(KEY_MAX);
    put_key(f, &key);
    int code = 0;
    if (cache && !key.overflow) r->grammar = grammar_cache_get(cache, buf_str(&key));
    if (!r->grammar) code = compile(f, r->ctx->vocab, &r->grammar, &why);
    if (code < 0)
        code = explain(f, &why, e);
    else if (!r->ctx->vocab)
        code = sl_fail_param(e, SL_EUNSUPPORTED, f->param, "This model cannot be held to a form.");
    else if (cache && !key.overflow)
        grammar_cache_put(cache, buf_str(&key), r->grammar);
    buf_free(&key);
    return code;
}

bool api_wants_form(struct str body)
{
    static const char *const fields[] = {"\"response_format\"",
                                         "\"structured_outputs\"",
                                         "\"tool_choice\"",
                                         "\"guided_",
                                         "\"strict\"",
                                         "\"grammar\"",
                                         "\"json_schema\"",
                                         "\"ebnf\"",
                                         "\"regex\""};
    for (size_t i = 0; i < COUNT(fields); i++)
        if (body.n && memmem(body.p, body.n, fields[i], strlen(fields[i]))) return true;
    return false;
}
