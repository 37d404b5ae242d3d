/* embed_in.c - bodies of /v1/embeddings, /rerank and /score. The fields of generation do not count
 * here; each input is a prompt of its own that the engine turns into a vector.
 * Source: OpenAI API reference (embeddings); vLLM's and Jina's rerank and score.
 */
#include "api/embed.h"

static int check_model_pools(const struct api_context *ctx, struct sl_error *e)
{
    if (ctx->pooling.kind == SL_POOL_NONE)
        return sl_fail_param(e, SL_EUNSUPPORTED, "model",
                             "The model `%s` makes no embeddings: its files do not say that it is "
                             "an embedding model. With --pooling last, mean or cls it is used as "
                             "one.",
                             ctx->served_names[0]);
    if (ctx->pooling.refused[0])
        return sl_fail_param(e, SL_EUNSUPPORTED, "model",
                             "The model's embeddings need %s, which this server does not support.",
                             ctx->pooling.refused);
    if (ctx->info->n_pooled == 0)
        return sl_fail_param(e, SL_EUNSUPPORTED, "model",
                             "The %s device makes no embeddings; the cpu device does.",
                             ctx->info->device);
    return 0;
}

static int check_dimensions(const struct api_context *ctx, int64_t n, struct sl_error *e)
{
    const struct pooling_config *p = &ctx->pooling;
    bool good = n == ctx->info->n_pooled || p->has_any_dimension;
    for (int i = 0; i < p->n_dimensions; i++) good |= p->dimensions[i] == n;
    if (n > ctx->info->n_pooled)
        return sl_fail_param(e, SL_EABOVE_INT, "dimensions",
                             "Invalid 'dimensions': this model's vectors have %d.",
                             ctx->info->n_pooled);
    return good ? 0
                : sl_fail_param(e, SL_EUNSUPPORTED, "dimensions",
                                "This model was not trained for vectors of %lld dimensions "
                                "(Matryoshka); it makes %d.",
                                (long long)n, ctx->info->n_pooled);
}

/* ------------------------------------------------------------------ prompts */

static int add_text(struct api_request *r, struct str text, const char *at, struct sl_error *e)
{
    if (text.n == 0) return sl_fail_param(e, SL_EVALUE, at, "Invalid '%s': an empty string.", at);
    r->prompts[r->n_prompts++] = (struct api_prompt){.text = text, .is_text = true};
    return 0;
}

static int no_room(const char *param, struct sl_error *e)
{
    return sl_fail_param(e, SL_ELONG, param, "Invalid '%s': at most %d inputs.", param,
                         EMBED_INPUTS_MAX);
}

static int room_for(struct api_request *r, size_t n, const char *param, struct sl_error *e)
{
    if (n > EMBED_INPUTS_MAX) return no_room(param, e);
    r->prompts = arena_array(r->arena, n ? n : 1, sizeof *r->prompts);
    return r->prompts ? 0 : arena_full(e);
}

/* Clients that count tokens with another vocabulary send ids of that one. */
static int add_ids(struct api_request *r, const json_node *list, const char *at, struct sl_error *e)
{
    struct api_prompt *p = &r->prompts[r->n_prompts++];
    *p = (struct api_prompt){0};
    if (!json_child(list)) return sl_fail_param(e, SL_EEMPTY, at, "Invalid '%s': empty array.", at);
    int code = read_ids(list, at, r->ctx, r->arena, &p->ids, &p->n, e);
    if (code == SL_EABOVE_INT)
        return sl_fail_param(e, code, at,
                             "Invalid '%s': a token id is not in this model's vocabulary of %d. "
                             "Send text (LangChain: check_embedding_ctx_length=False).",
                             at, r->ctx->info->n_vocab);
    return code;
}

static int read_input(struct api_request *r, const json_node *v, struct sl_error *e)
{
    if (!v) return sl_fail_param(e, SL_EMISSING, "input", "Missing required parameter: 'input'.");
    enum json_type first = json_type(json_child(v));
    bool is_list = json_type(v) == JSON_ARR;
    bool is_ids = is_list && json_child(v) && first != JSON_STR && first != JSON_ARR;
    size_t i = 0, n = is_list && !is_ids ? json_len(v) : 1;
    if (is_list && n == 0)
        return sl_fail_param(e, SL_EEMPTY, "input", "Invalid 'input': empty array.");
    TRY(room_for(r, n, "input", e));
    if (is_ids) return add_ids(r, v, "input", e);
    if (json_type(v) == JSON_STR) return add_text(r, json_str(v), "input", e);
    if (!is_list)
        return field_type_error(v, "input", "a string, an array of strings, or token ids", e);
    for (const json_node *c = json_child(v); c; c = json_next(c), i++) {
        struct path at = path_of("input[%zu]", i);
        TRY(field_is(c, first, at.z, first == JSON_STR ? "a string" : "an array of token ids", e));
        TRY(first == JSON_STR ? add_text(r, json_str(c), at.z, e) : add_ids(r, c, at.z, e));
    }
    return 0;
}

/* A text, or an object with one: {"text": ...}. */
static int read_text(const json_node *v, const char *at, struct str *out, struct sl_error *e)
{
    const json_node *text = json_type(v) == JSON_OBJ ? json_opt(v, "text") : v;
    if (json_type(text) != JSON_STR) return field_type_error(v, at, "a text", e);
    *out = json_str(text);
    return 0;
}

static size_t count_texts(const json_node *v)
{
    return json_type(v) == JSON_ARR ? json_len(v) : 1;
}

/* One text or an array of them, appended to the prompts. */
static int add_texts(struct api_request *r, const json_node *v, const char *param,
                     struct sl_error *e)
{
    struct str text;
    size_t i = 0;
    if (json_type(v) != JSON_ARR) {
        TRY(read_text(v, param, &text, e));
        return add_text(r, text, param, e);
    }
    if (!json_child(v))
        return sl_fail_param(e, SL_EEMPTY, param, "Invalid '%s': empty array.", param);
    for (const json_node *c = json_child(v); c; c = json_next(c), i++) {
        struct path at = path_of("%s[%zu]", param, i);
        TRY(read_text(c, at.z, &text, e));
        TRY(add_text(r, text, at.z, e));
    }
    return 0;
}

static int read_pair(struct api_request *r, const json_node *root, const char *const names[2],
                     struct sl_error *e)
{
    const json_node *v[2];
    for (int i = 0; i < 2; i++) {
        v[i] = json_opt(root, names[i]);
        if (!v[i])
            return sl_fail_param(e, SL_EMISSING, names[i], "Missing required parameter: '%s'.",
                                 names[i]);
    }
    TRY(room_for(r, count_texts(v[0]) + count_texts(v[1]), names[1], e));
    TRY(add_texts(r, v[0], names[0], e));
    r->embed->n_first = r->n_prompts;
    return add_texts(r, v[1], names[1], e);
}

/* ------------------------------------------------------------------ the three forms */

static int read_embedding(struct api_request *r, const json_node *root, struct sl_error *e)
{
    struct embed_form *f = r->embed;
    const json_node *format = json_opt(root, "encoding_format");
    const json_node *dimensions = json_opt(root, "dimensions");
    struct str name;
    if (format) {
        TRY(field_str(format, "encoding_format", &name, e));
        f->is_base64 = str_is(name, "base64");
        if (!f->is_base64 && !str_is(name, "float"))
            return sl_fail_param(e, SL_EVALUE, "encoding_format",
                                 "Invalid value: '%.40s'. Supported values are: 'float' and "
                                 "'base64'.",
                                 name.p);
    }
    if (dimensions) {
        int64_t n;
        TRY(field_int(dimensions, "dimensions", 1, 0x1p53, &n, e));
        TRY(check_dimensions(r->ctx, n, e));
        f->dimensions = (int32_t)n;
    }
    return read_input(r, json_opt(root, "input"), e);
}

static int keep_documents(struct api_request *r, struct sl_error *e)
{
    struct embed_form *f = r->embed;
    int n = r->n_prompts - f->n_first;
    struct str *copies = arena_array(r->arena, (size_t)n, sizeof *copies);
    if (!copies) return arena_full(e);
    for (int i = 0; i < n; i++)
        if (!(copies[i] = arena_copy(r->arena, r->prompts[f->n_first + i].text)).p)
            return arena_full(e);
    f->documents = copies;
    return 0;
}

static int read_rerank(struct api_request *r, const json_node *root, struct sl_error *e)
{
    static const char *const names[2] = {"query", "documents"};
    struct embed_form *f = r->embed;
    const json_node *top = json_opt(root, "top_n"), *with = json_opt(root, "return_documents");
    int64_t n_top = 0;
    TRY(read_pair(r, root, names, e));
    if (f->n_first != 1)
        return sl_fail_param(e, SL_ELONG, "query", "Invalid 'query': one text is expected.");
    f->with_documents = true;
    if (with) TRY(field_bool(with, "return_documents", &f->with_documents, e));
    if (top) TRY(field_int(top, "top_n", 0, 0x1p53, &n_top, e));
    int n = r->n_prompts - 1;
    f->n_top = n_top > 0 && n_top < n ? (int)n_top : n;
    return f->with_documents ? keep_documents(r, e) : 0;
}

/* One first text against each second, or pair by pair. */
static int read_score(struct api_request *r, const json_node *root, struct sl_error *e)
{
    static const char *const names[][2] = {
        {"text_1", "text_2"}, {"queries", "documents"}, {"data_1", "data_2"}};
    int i = 0;
    while (i < 2 && !json_opt(root, names[i][0])) i++;
    if (!json_opt(root, names[i][0])) i = 0;
    TRY(read_pair(r, root, names[i], e));
    int n_first = r->embed->n_first, n_second = r->n_prompts - n_first;
    if (n_first == 1 || n_first == n_second) return 0;
    return sl_fail_param(e, SL_EVALUE, names[i][1],
                         "'%s' has %d texts and '%s' %d: one against each, or as many.",
                         names[i][0], n_first, names[i][1], n_second);
}

int read_embed(struct api_request *r, const json_node *root, struct sl_error *e)
{
    r->f.n = 1;
    r->f.stream = r->f.echo = r->f.return_token_ids = false;
    r->f.max_tokens = 0;
    r->f.min_tokens = 0;
    r->sampling = (struct sl_sampling){.top_p = 1,
                                       .typical_p = 1,
                                       .repetition_penalty = 1,
                                       .n_logprobs = -1,
                                       .n_prompt_logprobs = -1};
    r->embed = arena_alloc(r->arena, sizeof *r->embed);
    if (!r->embed) return arena_full(e);
    r->embed->dimensions = r->ctx->info->n_pooled;
    TRY(check_model_pools(r->ctx, e));
    if (r->surface == API_EMBEDDING) return read_embedding(r, root, e);
    return r->surface == API_RERANK ? read_rerank(r, root, e) : read_score(r, root, e);
}
