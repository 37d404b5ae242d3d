/* openai_in.c - api_parse: a chat or completion body into struct api_request; and what is asked of
 * it later.
 *
 * The tree stays until api_prepare, which needs the messages for the template; all else is copied
 * out of it.
 */
#include "api/embed.h"
#include "api/kin.h"
#include "text/grammar.h"

enum { COUNT_ARENA_MAX = 1 << 30 }; /* of a request that is only counted */

static int check_enum(struct str given, const char *param, const char *const *allowed,
                      struct sl_error *e)
{
    if (!given.p) return 0;
    for (; *allowed; allowed++)
        if (str_is(given, *allowed)) return 0;
    return sl_fail_param(e, SL_EVALUE, param, "Invalid value: '%.40s' for '%s'.", given.p, param);
}

static int check_modalities(const json_node *v, struct sl_error *e)
{
    if (!v) return 0;
    TRY(field_is(v, JSON_ARR, "modalities", "an array", e));
    for (const json_node *c = json_child(v); c; c = json_next(c)) {
        TRY(field_is(c, JSON_STR, "modalities", "an array of strings", e));
        if (!str_is(json_str(c), "text"))
            return sl_fail_param(e, SL_EUNSUPPORTED, "modalities",
                                 "This model answers in text only.");
    }
    return 0;
}

int read_chat(struct api_request *r, const json_node *root, struct sl_error *e)
{
    static const char *const efforts[] = {"none", "minimal", "low", "medium",
                                          "high", "xhigh",   "max", NULL};
    static const char *const formats[] = {"none", "auto", "deepseek", NULL};
    static const char *const verbosities[] = {"low", "medium", "high", NULL};
    struct api_fields *f = &r->f;
    TRY(check_messages(json_opt(root, "messages"), e));
    if (f->top_logprobs > 0 && !f->want_logprobs)
        return sl_fail_param(e, SL_EVALUE, "top_logprobs",
                             "'top_logprobs' requires 'logprobs' to be true.");
    TRY(check_enum(f->reasoning_effort, "reasoning_effort", efforts, e));
    TRY(check_enum(f->reasoning_format, "reasoning_format", formats, e));
    r->keeps_thinking = f->reasoning_format.p && str_is(f->reasoning_format, "none");
    TRY(check_enum(f->verbosity, "verbosity", verbosities, e));
    TRY(check_modalities(json_opt(root, "modalities"), e));
    TRY(read_tools(r, root, e));
    if (f->continue_final && json_opt(root, "add_generation_prompt") && f->add_generation_prompt)
        return sl_fail_param(
            e, SL_EVALUE, "continue_final_message",
            "'continue_final_message' and 'add_generation_prompt' cannot both be true.");
    if (f->continue_final) f->add_generation_prompt = false;
    r->messages = json_opt(root, "messages");
    r->documents = json_opt(root, "documents");
    r->kwargs = json_opt(root, "chat_template_kwargs");
    if (r->documents) TRY(field_is(r->documents, JSON_ARR, "documents", "an array", e));
    if (r->kwargs) TRY(field_is(r->kwargs, JSON_OBJ, "chat_template_kwargs", "an object", e));
    r->n_prompts = 1;
    r->prompts = arena_alloc(r->arena, sizeof *r->prompts);
    return r->prompts ? 0 : arena_full(e);
}

int check_model(const struct api_context *ctx, struct str model, struct sl_error *e)
{
    if (!model.p) return 0;
    for (int i = 0; i < ctx->n_served; i++)
        if (str_is(model, ctx->served_names[i])) return 0;
    return sl_fail_param(e, SL_ENOMODEL, "model",
                         "The model `%.*s` does not exist or you do not have access to it.",
                         (int)(model.n < 120 ? model.n : 120), model.p);
}

int read_body(struct api_request *r, const json_node *root, struct sl_error *e)
{
    if (json_type(root) != JSON_OBJ) return sl_fail(e, SL_ETYPE, "The body must be a JSON object.");
    const json_node *model = json_opt(root, "model");
    if (model) {
        TRY(field_is(model, JSON_STR, "model", "a string", e));
        TRY(check_model(r->ctx, json_str(model), e));
    }
    TRY(read_fields(r, root, e));
    if (is_pooled(r->surface)) return read_embed(r, root, e);
    TRY(r->kind == API_CHAT ? read_chat(r, root, e) : read_completion(r, root, e));
    TRY(read_form(r, root, e));
    TRY(read_sampling(r, root, e));
    return keep_canonical(r, root, e);
}

static int read_plain(struct api_request *r, struct str body, struct sl_error *e)
{
    TRY(json_parse(&r->doc, body.p, body.n, &json_limits_request, e));
    return read_body(r, json_root(r->doc), e);
}

struct parse_source {
    enum api_kind kind;
    struct str body;
    bool is_counted;
};

static int parse(struct api_request **out, const struct parse_source *from,
                 const struct api_context *ctx, struct arena *arena, struct sl_error *e)
{
    struct api_request *r = arena_alloc(arena, sizeof *r);
    bool is_kin = from->kind == API_RESPONSE || from->kind == API_MESSAGE;
    *out = NULL;
    if (!r) return arena_full(e);
    *r = (struct api_request){.kind = is_kin                  ? API_CHAT
                                      : is_pooled(from->kind) ? API_COMPLETION
                                                              : from->kind,
                              .surface = from->kind,
                              .ctx = ctx,
                              .arena = arena,
                              .is_counted = from->is_counted};
    int code = is_kin ? kin_read(r, from->body, e) : read_plain(r, from->body, e);
    if (code == 0 && r->f.cache_salt.p) {
        r->f.cache_salt = arena_copy(arena, r->f.cache_salt);
        if (!r->f.cache_salt.p) code = arena_full(e);
    }
    if (code < 0)
        api_request_free(r);
    else
        *out = r;
    return code;
}

int api_parse(struct api_request **out, enum api_kind kind, const struct api_context *ctx,
              struct str body, struct arena *arena, struct sl_error *e)
{
    return parse(out, &(struct parse_source){kind, body, false}, ctx, arena, e);
}

int api_count(enum api_kind kind, const struct api_context *ctx, struct str body, struct buf *out,
              struct sl_error *e)
{
    struct arena arena = arena_make(COUNT_ARENA_MAX);
    struct api_request *r;
    int code = parse(&r, &(struct parse_source){kind, body, true}, ctx, &arena, e);
    if (code == 0) code = api_prepare(r, e);
    if (code == 0) {
        buf_puts(out, kind == API_RESPONSE
                          ? "{\"object\":\"response.input_tokens\",\"input_tokens\":"
                          : "{\"input_tokens\":");
        buf_put_i64(out, r->prompts->n);
        buf_putc(out, '}');
    }
    api_request_free(r);
    arena_free(&arena);
    return code;
}

void api_request_free(struct api_request *r)
{
    if (!r) return;
    json_free(r->doc);
    json_free(r->more);
    json_free(r->some_tools);
    r->doc = r->more = r->some_tools = NULL;
    grammar_unref(r->grammar);
    r->grammar = NULL;
}

bool api_is_stream(const struct api_request *r)
{
    return r->f.stream;
}
bool api_is_pooled(const struct api_request *r)
{
    return r->embed != NULL;
}
int api_n_choices(const struct api_request *r)
{
    return r->n_prompts * (int)r->f.n;
}

uint64_t api_cost_tokens(const struct api_request *r)
{
    uint64_t sum = 0;
    for (int i = 0; i < r->n_prompts; i++)
        sum += (uint64_t)r->prompts[i].n + r->prompts[i].max_tokens;
    return sum * (uint64_t)r->f.n;
}

struct api_wishes api_wishes(const struct api_request *r)
{
    return (struct api_wishes){r->f.ttft_ms, r->f.timeout_ms, r->f.tpot_ms};
}

struct str api_canonical(const struct api_request *r)
{
    return r->canonical;
}

struct str api_cache_salt(const struct api_request *r)
{
    return r->f.cache_salt.p ? r->f.cache_salt : STR("");
}

/* The engine looks after thinking only where that matters: a budget, or a grammar behind it. */
static void set_thinking(const struct api_request *r, struct sl_thinking *t)
{
    const struct api_formats *f = &r->ctx->formats;
    if (r->kind != API_CHAT || (r->f.thinking_budget < 0 && !r->grammar)) return;
    *t = f->thinking;
    t->close = f->close_ids;
    t->is_open = r->prompt_thinks == REASONING_OPEN;
    if (r->prompt_thinks != REASONING_NONE) t->open = -1; /* it runs, or was ruled out */
    bool is_limited = r->f.thinking_budget >= 0 && r->f.thinking_budget < UINT32_MAX;
    t->budget = is_limited ? (uint32_t)r->f.thinking_budget : UINT32_MAX;
}

void api_engine_request(const struct api_request *r, int choice, uint64_t entropy,
                        struct sl_request *out)
{
    const struct api_prompt *p = &r->prompts[choice / (int)r->f.n];
    int n = (int)r->f.n;
    bool has_seed = r->f.seed != API_ABSENT; /* else equal prompts must not get equal answers */
    *out = (struct sl_request){.prompt = p->ids,
                               .n_prompt = p->n,
                               .sampling = r->sampling,
                               .grammar = r->grammar,
                               .priority = (int32_t)r->f.priority};
    set_thinking(r, &out->thinking);
    out->sampling.seed =
        has_seed ? (uint64_t)r->f.seed + (uint64_t)(choice % n) : entropy + (uint64_t)choice;
    out->pool = r->embed ? r->ctx->pooling.kind : SL_POOL_NONE;
    out->sampling.max_tokens = p->max_tokens;
    out->sampling.min_tokens =
        r->f.min_tokens < p->max_tokens ? (uint32_t)r->f.min_tokens : p->max_tokens;
}
