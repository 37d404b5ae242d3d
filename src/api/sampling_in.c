/* sampling_in.c - the fields that chat and completions share, and what becomes of them in struct
 * sl_sampling.
 *
 * Source: OpenAI API reference; vLLM's extensions with vLLM's ranges. A value that would lose its
 * meaning as a float (a temperature of 1e-40) is brought to the nearest that keeps it.
 */
#include <float.h>
#include <math.h>

#include "api/api_impl.h"

/* Ranges of counts: anything above the context is clamped later, so only absurd numbers are
 * refused. */
#define COUNT_MAX 0x1p53
#define ID_MAX    2147483647.0
/* Below this a temperature turns logits into infinities; vLLM's floor. */
#define TEMPERATURE_MIN 0.01

#define AT(member) offsetof(struct api_fields, member)
static const struct field rows[] = {
    {"model", FIELD_STR, AT(model), 0, 0},
    {"stream", FIELD_BOOL, AT(stream), 0, 0},
    {"n", FIELD_INT, AT(n), 1, ID_MAX},
    {"best_of", FIELD_INT, AT(best_of), 1, ID_MAX},
    {"temperature", FIELD_NUM, AT(temperature), 0, 2},
    {"top_p", FIELD_NUM, AT(top_p), 0, 1},
    {"min_p", FIELD_NUM, AT(min_p), 0, 1},
    {"typical_p", FIELD_NUM, AT(typical_p), 0.001, 1},
    {"top_k", FIELD_INT, AT(top_k), -1, COUNT_MAX},
    {"repetition_penalty", FIELD_NUM, AT(repetition_penalty), 0.01, 100},
    {"presence_penalty", FIELD_NUM, AT(presence_penalty), -2, 2},
    {"frequency_penalty", FIELD_NUM, AT(frequency_penalty), -2, 2},
    {"seed", FIELD_INT, AT(seed), -0x1p63, 0x1p63},
    {"min_tokens", FIELD_INT, AT(min_tokens), 0, COUNT_MAX},
    {"ignore_eos", FIELD_BOOL, AT(ignore_eos), 0, 0},
    {"include_stop_str_in_output", FIELD_BOOL, AT(include_stop), 0, 0},
    {"skip_special_tokens", FIELD_BOOL, AT(skip_special), 0, 0},
    {"spaces_between_special_tokens", FIELD_BOOL, AT(spaces_between), 0, 0},
    {"add_special_tokens", FIELD_BOOL, AT(add_special), 0, 0},
    {"echo", FIELD_BOOL, AT(echo), 0, 0},
    {"prompt_logprobs", FIELD_INT, AT(prompt_logprobs), 0, SL_TOP_MAX},
    {"return_tokens_as_token_ids", FIELD_BOOL, AT(tokens_as_ids), 0, 0},
    {"return_token_ids", FIELD_BOOL, AT(return_token_ids), 0, 0},
    {"truncate_prompt_tokens", FIELD_INT, AT(truncate_prompt_tokens), -1, COUNT_MAX},
    {"priority", FIELD_INT, AT(priority), -2147483648.0, ID_MAX},
    {"ttft_ms", FIELD_INT, AT(ttft_ms), 1, COUNT_MAX},
    {"timeout_ms", FIELD_INT, AT(timeout_ms), 1, COUNT_MAX},
    {"tpot_ms", FIELD_NUM, AT(tpot_ms), 0.01, 1e9},
    {"timings", FIELD_BOOL, AT(timings), 0, 0},
    {"timings_per_token", FIELD_BOOL, AT(timings_per_token), 0, 0},
    {"cache_salt", FIELD_STR, AT(cache_salt), 0, 0},
    {"use_beam_search", FIELD_BOOL, AT(beam_search), 0, 0},
    {"max_new_tokens", FIELD_INT, AT(max_new_tokens), 1, COUNT_MAX},
    {"n_predict", FIELD_INT, AT(n_predict), -1, COUNT_MAX},
};
static const struct field chat_rows[] = {
    {"max_tokens", FIELD_INT, AT(max_tokens), 1, COUNT_MAX},
    {"max_completion_tokens", FIELD_INT, AT(max_completion_tokens), 1, COUNT_MAX},
    {"logprobs", FIELD_BOOL, AT(want_logprobs), 0, 0},
    {"top_logprobs", FIELD_INT, AT(top_logprobs), 0, SL_TOP_MAX},
    {"add_generation_prompt", FIELD_BOOL, AT(add_generation_prompt), 0, 0},
    {"continue_final_message", FIELD_BOOL, AT(continue_final), 0, 0},
    {"parallel_tool_calls", FIELD_BOOL, AT(parallel_tool_calls), 0, 0},
    {"reasoning_effort", FIELD_STR, AT(reasoning_effort), 0, 0},
    {"reasoning_format", FIELD_STR, AT(reasoning_format), 0, 0},
    {"thinking_token_budget", FIELD_INT, AT(thinking_budget), -1, COUNT_MAX},
    {"reasoning_budget", FIELD_INT, AT(thinking_budget), -1, COUNT_MAX},
    {"include_reasoning", FIELD_BOOL, AT(include_reasoning), 0, 0},
    {"verbosity", FIELD_STR, AT(verbosity), 0, 0},
};
static const struct field completion_rows[] = {
    {"max_tokens", FIELD_INT, AT(max_tokens), 0, COUNT_MAX},
    {"logprobs", FIELD_INT, AT(logprobs), 0, SL_TOP_MAX},
};
static const struct field stream_rows[] = {
    {"include_usage", FIELD_BOOL, AT(include_usage), 0, 0},
    {"continuous_usage_stats", FIELD_BOOL, AT(continuous_usage), 0, 0},
};
#undef AT
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Recognised, but not what this server does: better refused than silently without effect. */
static const char *const refused[] = {"functions",          "function_call", "audio",
                                      "web_search_options", "chat_template", "prompt_embeds",
                                      "logits_processors"};

static const struct api_fields absent = {.temperature = NAN,
                                         .top_p = NAN,
                                         .min_p = NAN,
                                         .typical_p = NAN,
                                         .repetition_penalty = NAN,
                                         .presence_penalty = 0,
                                         .frequency_penalty = 0,
                                         .top_k = API_ABSENT,
                                         .n = 1,
                                         .best_of = API_ABSENT,
                                         .max_tokens = API_ABSENT,
                                         .max_completion_tokens = API_ABSENT,
                                         .max_new_tokens = API_ABSENT,
                                         .n_predict = API_ABSENT,
                                         .min_tokens = 0,
                                         .seed = API_ABSENT,
                                         .logprobs = API_ABSENT,
                                         .top_logprobs = API_ABSENT,
                                         .prompt_logprobs = API_ABSENT,
                                         .truncate_prompt_tokens = API_ABSENT,
                                         .thinking_budget = -1,
                                         .skip_special = true,
                                         .spaces_between = true,
                                         .add_generation_prompt = true,
                                         .parallel_tool_calls = true,
                                         .include_reasoning = true};

static int read_stream_options(struct api_fields *f, const json_node *root, struct sl_error *e)
{
    const json_node *v = json_opt(root, "stream_options");
    if (!v) return 0;
    if (!f->stream)
        return sl_fail_param(
            e, SL_EVALUE, "stream_options",
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.");
    TRY(field_is(v, JSON_OBJ, "stream_options", "an object", e));
    return fields_read(v, "stream_options.", stream_rows, COUNT(stream_rows), f, e);
}

static int check_cache_salt(struct str s, struct sl_error *e)
{
    bool good = s.n >= 1 && s.n <= CACHE_SALT_BYTES_MAX;
    for (size_t i = 0; i < s.n && good; i++) {
        char c = s.p[i];
        good = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
               c == '.' || c == '_' || c == '-';
    }
    return good ? 0
                : sl_fail_param(e, SL_EVALUE, "cache_salt",
                                "Invalid 'cache_salt': 1 to %d characters of [A-Za-z0-9._-].",
                                CACHE_SALT_BYTES_MAX);
}

static int check_fields(const struct api_request *r, const json_node *root, struct sl_error *e)
{
    const struct api_fields *f = &r->f;
    int n_max = r->ctx->n_max;
    if (f->n > n_max)
        return sl_fail_param(e, SL_EABOVE_INT, "n", "Invalid 'n': at most %d choices.", n_max);
    if (f->best_of != API_ABSENT && f->best_of != f->n)
        return sl_fail_param(e, SL_EUNSUPPORTED, "best_of", "'best_of' must equal 'n'.");
    if (f->beam_search)
        return sl_fail_param(e, SL_EPARAM, "use_beam_search", "Beam search is not supported.");
    if (f->stream && f->prompt_logprobs != API_ABSENT)
        return sl_fail_param(e, SL_EVALUE, "prompt_logprobs",
                             "'prompt_logprobs' is not available when 'stream' is enabled.");
    if (f->truncate_prompt_tokens == 0)
        return sl_fail_param(e, SL_EVALUE, "truncate_prompt_tokens",
                             "Invalid 'truncate_prompt_tokens': -1 or at least 1.");
    if (json_opt(root, "cache_salt")) TRY(check_cache_salt(f->cache_salt, e));
    for (size_t i = 0; i < COUNT(refused); i++)
        if (json_opt(root, refused[i]))
            return sl_fail_param(e, SL_EPARAM, refused[i],
                                 "Unsupported parameter: '%s' is not supported.", refused[i]);
    return 0;
}

int read_fields(struct api_request *r, const json_node *root, struct sl_error *e)
{
    struct api_fields *f = &r->f;
    bool chat = r->kind == API_CHAT;
    *f = absent;
    f->add_special = !chat;
    TRY(fields_read(root, "", rows, COUNT(rows), f, e));
    TRY(chat ? fields_read(root, "", chat_rows, COUNT(chat_rows), f, e)
             : fields_read(root, "", completion_rows, COUNT(completion_rows), f, e));
    TRY(read_stream_options(f, root, e));
    TRY(check_fields(r, root, e));
    r->has_service_tier = json_opt(root, "service_tier") != NULL;
    if (f->max_completion_tokens != API_ABSENT) f->max_tokens = f->max_completion_tokens;
    if (f->max_tokens == API_ABSENT) f->max_tokens = f->max_new_tokens;
    if (f->max_tokens == API_ABSENT && f->n_predict > 0) f->max_tokens = f->n_predict;
    if (f->max_tokens != API_ABSENT && f->min_tokens > f->max_tokens)
        return sl_fail_param(e, SL_EVALUE, "min_tokens", "'min_tokens' is above 'max_tokens'.");
    return 0;
}

/* ------------------------------------------------------------------ lists */

int arena_full(struct sl_error *e)
{
    return sl_fail(e, SL_ETOOLARGE, "the request needs more memory than one request may have");
}

struct str arena_copy(struct arena *a, struct str s)
{
    return (struct str){arena_strdup(a, s), s.n};
}

int read_ids(const json_node *array, const char *param, const struct api_context *ctx,
             struct arena *arena, const int32_t **out, uint32_t *n, struct sl_error *e)
{
    TRY(field_is(array, JSON_ARR, param, "an array of integers", e));
    size_t len = json_len(array), i = 0;
    int32_t *ids = arena_array(arena, len, sizeof *ids);
    if (!ids) return arena_full(e);
    double hi = ctx->info->n_vocab - 1;
    for (const json_node *c = json_child(array); c; c = json_next(c), i++) {
        int64_t id = json_type(c) == JSON_INT ? json_int(c) : -1;
        if (id < 0 || id > (int64_t)hi)
            TRY(field_int(c, path_of("%s[%zu]", param, i).z, 0, hi, &id, e));
        ids[i] = (int32_t)id;
    }
    *out = ids;
    *n = (uint32_t)len;
    return 0;
}

static int read_stop_ids(struct api_request *r, const json_node *root, struct sl_error *e)
{
    const struct model_text *text = r->ctx->text;
    const json_node *v = json_opt(root, "stop_token_ids");
    const int32_t *given = NULL;
    uint32_t n_given = 0, n_eos = (uint32_t)text->n_eos;
    if (v) TRY(read_ids(v, "stop_token_ids", r->ctx, r->arena, &given, &n_given, e));
    if (n_given > SL_STOP_IDS_MAX - n_eos)
        return sl_fail_param(e, SL_ELONG, "stop_token_ids",
                             "Invalid 'stop_token_ids': at most %u ids.", SL_STOP_IDS_MAX - n_eos);
    int32_t *ids = arena_array(r->arena, n_eos + n_given, sizeof *ids);
    if (!ids) return arena_full(e);
    memcpy(ids, text->eos, n_eos * sizeof *ids);
    if (n_given) memcpy(ids + n_eos, given, n_given * sizeof *ids);
    r->sampling.stop_ids = ids;
    r->sampling.n_eos = n_eos;
    r->sampling.n_stop_ids = n_eos + n_given;
    return 0;
}

static int read_allowed(struct api_request *r, const json_node *root, struct sl_error *e)
{
    const json_node *v = json_opt(root, "allowed_token_ids");
    if (!v) return 0;
    struct sl_sampling *s = &r->sampling;
    TRY(read_ids(v, "allowed_token_ids", r->ctx, r->arena, &s->allowed_ids, &s->n_allowed, e));
    if (s->n_allowed == 0)
        return sl_fail_param(e, SL_EEMPTY, "allowed_token_ids",
                             "Invalid 'allowed_token_ids': empty array.");
    if (s->n_allowed > (uint32_t)r->ctx->info->n_vocab)
        return sl_fail_param(e, SL_ELONG, "allowed_token_ids",
                             "Invalid 'allowed_token_ids': more ids than the vocabulary has.");
    return 0;
}

struct string_limits {
    int max;          /* strings */
    size_t bytes_max; /* of one */
};

static int read_strings(const json_node *array, const char *param, struct string_limits lim,
                        struct arena *arena, const struct str **out, int *n, struct sl_error *e)
{
    TRY(field_is(array, JSON_ARR, param, "an array of strings", e));
    size_t len = json_len(array), i = 0;
    if (len > (size_t)lim.max)
        return sl_fail_param(e, SL_ELONG, param, "Invalid '%s': at most %d strings.", param,
                             lim.max);
    struct str *list = arena_array(arena, len, sizeof *list);
    if (!list) return arena_full(e);
    for (const json_node *c = json_child(array); c; c = json_next(c), i++) {
        struct path at = path_of("%s[%zu]", param, i);
        TRY(field_str(c, at.z, &list[i], e));
        if (list[i].n == 0 || list[i].n > lim.bytes_max)
            return sl_fail_param(e, SL_EVALUE, at.z, "Invalid '%s': 1 to %zu bytes.", at.z,
                                 lim.bytes_max);
    }
    *out = list;
    *n = (int)len;
    return 0;
}

static int read_stop(struct api_request *r, const json_node *root, struct sl_error *e)
{
    const json_node *v = json_opt(root, "stop");
    if (!v) return 0;
    struct str *one = arena_alloc(r->arena, sizeof *one);
    if (!one) return arena_full(e);
    if (json_type(v) == JSON_STR) {
        *one = json_str(v);
        if (one->n == 0 || one->n > STOP_BYTES_MAX)
            return sl_fail_param(e, SL_EVALUE, "stop", "Invalid 'stop': 1 to %d bytes.",
                                 STOP_BYTES_MAX);
        r->stops = one;
        r->n_stops = 1;
    } else if (json_type(v) == JSON_ARR) {
        TRY(read_strings(v, "stop", (struct string_limits){STOP_STRINGS_MAX, STOP_BYTES_MAX},
                         r->arena, &r->stops, &r->n_stops, e));
    } else {
        return field_type_error(v, "stop", "a string or an array of strings", e);
    }
    if (r->n_stops == 0) return 0;
    struct str *kept = arena_array(r->arena, (size_t)r->n_stops, sizeof *kept);
    if (!kept) return arena_full(e);
    for (int i = 0; i < r->n_stops; i++)
        if (!(kept[i] = arena_copy(r->arena, r->stops[i])).p) return arena_full(e);
    r->stops = kept;
    r->stop_set = stop_build(kept, r->n_stops, r->arena);
    return r->stop_set ? 0 : arena_full(e);
}

/* A decimal id without sign or leading zeros, below n_vocab; or -1. */
static int64_t id_of_key(struct str key, int32_t n_vocab)
{
    int64_t id = 0;
    if (key.n == 0 || key.n > 10 || (key.n > 1 && key.p[0] == '0')) return -1;
    for (size_t i = 0; i < key.n; i++) {
        if (key.p[i] < '0' || key.p[i] > '9') return -1;
        id = id * 10 + (key.p[i] - '0');
    }
    return id < n_vocab ? id : -1;
}

static int read_bias(struct api_request *r, const json_node *root, struct sl_error *e)
{
    const json_node *v = json_opt(root, "logit_bias");
    if (!v) return 0;
    TRY(field_is(v, JSON_OBJ, "logit_bias", "an object", e));
    size_t len = json_len(v), i = 0;
    if (len > SL_BIAS_MAX)
        return sl_fail_param(e, SL_ELONG, "logit_bias", "Invalid 'logit_bias': at most %d entries.",
                             SL_BIAS_MAX);
    struct sl_bias *bias = arena_array(r->arena, len, sizeof *bias);
    if (!bias) return arena_full(e);
    for (const json_node *c = json_child(v); c; c = json_next(c), i++) {
        struct str key = json_key(c);
        int64_t id = id_of_key(key, r->ctx->info->n_vocab);
        double value;
        if (id < 0)
            return sl_fail_param(e, SL_EVALUE, "logit_bias",
                                 "Invalid 'logit_bias': key \"%.*s\" is not a token id below %d.",
                                 (int)(key.n < 40 ? key.n : 40), key.p, r->ctx->info->n_vocab);
        TRY(field_num(c, path_of("logit_bias.%lld", (long long)id).z, -100, 100, &value, e));
        bias[i] = (struct sl_bias){(int32_t)id, (float)value};
    }
    r->sampling.bias = bias;
    r->sampling.n_bias = (uint32_t)len;
    return 0;
}

/* ------------------------------------------------------------------ the numbers */

/* What the client gave, else the model's default if it lies in the range, else `plain`. */
static float pick(double given, double model, bool use_model, double lo, double hi, double plain)
{
    if (!isnan(given)) return (float)given;
    return (float)(use_model && model >= lo && model <= hi ? model : plain);
}

static void set_numbers(struct api_request *r)
{
    const struct api_fields *f = &r->f;
    const struct generation_defaults *d = &r->ctx->text->defaults;
    bool use = r->ctx->model_defaults;
    struct sl_sampling *s = &r->sampling;
    s->temperature = pick(f->temperature, d->temperature, use, 0, 2, 1);
    if (s->temperature > 0 && s->temperature < (float)TEMPERATURE_MIN)
        s->temperature = (float)TEMPERATURE_MIN;
    s->top_p = pick(f->top_p, d->top_p, use, 0, 1, 1);
    s->min_p = pick(f->min_p, d->min_p, use, 0, 1, 0);
    s->typical_p = pick(f->typical_p, d->typical_p, use, 0.001, 1, 1);
    s->repetition_penalty = pick(f->repetition_penalty, d->repetition_penalty, use, 0.01, 100, 1);
    s->presence_penalty = (float)f->presence_penalty;
    s->frequency_penalty = (float)f->frequency_penalty;
    int64_t top_k = f->top_k != API_ABSENT ? f->top_k : use && d->top_k > 0 ? d->top_k : 0;
    s->top_k = (int32_t)(top_k < r->ctx->info->n_vocab ? top_k : 0);
    s->ignore_eos = f->ignore_eos;
}

static void set_logprobs(struct api_request *r)
{
    const struct api_fields *f = &r->f;
    struct sl_sampling *s = &r->sampling;
    bool chat = r->kind == API_CHAT;
    int64_t own = chat ? (!f->want_logprobs     ? -1
                          : f->top_logprobs > 0 ? f->top_logprobs
                                                : 0)
                       : (f->logprobs != API_ABSENT ? f->logprobs : -1);
    int64_t prompt = f->prompt_logprobs != API_ABSENT ? f->prompt_logprobs : -1;
    if (!chat && f->echo && own > prompt) prompt = own;
    s->n_logprobs = (int8_t)own;
    s->n_prompt_logprobs = (int8_t)prompt;
}

int read_sampling(struct api_request *r, const json_node *root, struct sl_error *e)
{
    set_numbers(r);
    set_logprobs(r);
    TRY(read_stop(r, root, e));
    TRY(read_stop_ids(r, root, e));
    TRY(read_allowed(r, root, e));
    TRY(read_bias(r, root, e));
    const json_node *v = json_opt(root, "bad_words");
    if (!v) return 0;
    return read_strings(v, "bad_words",
                        (struct string_limits){SL_BAD_WORDS_MAX, BAD_WORD_BYTES_MAX}, r->arena,
                        &r->bad_words, &r->n_bad_words, e);
}
