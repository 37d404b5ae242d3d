/* opts.c - the one table of options, and the four places their values come from.
 *
 * A row says name, type, where the value lives, default (as text), range, group, aliases and help;
 * flags, environment, YAML keys, --help and configs/default.yaml all follow from it. The only file
 * that calls getenv. Runs in main before any thread.
 */
#include "base/opts.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/arena.h"

#define AT(field) offsetof(struct options, field)
#define GB(x)     ((x)*1073741824.0)

// clang-format off
static const struct opt_row rows[] = {
    {"model", T_STR, AT(model), NULL, 0, 0, NULL, "model", "m model-path model-id", "model folder (safetensors) or .gguf file; also the first argument"},
    {"served-model-name", T_LIST, AT(served_model_name), NULL, 0, 0, NULL, "model", "a alias", "name in the API; may be given several times, the first is canonical"},
    {"chat-template", T_STR, AT(chat_template), NULL, 0, 0, NULL, "model", "chat-template-file", "Jinja file or text instead of the model's own template"},
    {"tool-call-parser", T_STR, AT(tool_call_parser), "auto", 0, 0, NULL, "model", "", "how the model writes tool calls, under vLLM's names (hermes, mistral, llama3_json, ...); auto: as its chat template does; none"},
    {"reasoning-parser", T_STR, AT(reasoning_parser), "auto", 0, 0, NULL, "model", "", "how the model marks its thinking (deepseek_r1, qwen3, mistral, ...); auto: as its chat template does; none"},
    {"enable-auto-tool-choice", T_BOOL, AT(enable_auto_tool_choice), "true", 0, 0, NULL, "model", "", "read tool calls out of answers when tool_choice is auto; off: they stay text"},
    {"reasoning-field", T_STR, AT(reasoning_field), "reasoning_content", 0, 0, "reasoning_content|reasoning|both", "model", "", "name of the field that carries thinking in chat answers"},
    {"generation-defaults", T_BOOL, AT(generation_defaults), "true", 0, 0, NULL, "model", "", "take sampling defaults from the model's generation_config.json"},
    {"max-model-len", T_INT, AT(max_model_len), "0", 0, 1 << 24, NULL, "model", "context-length c ctx-size max-seq-len max-total-tokens", "tokens of one sequence, prompt and answer; 0: the model's"},
    {"dtype", T_STR, AT(dtype), "auto", 0, 0, "auto|bfloat16|float16|float32", "model", "", "element type of unquantized weights on the device"},
    {"rope-freq-dtype", T_STR, AT(rope_freq_dtype), "float32", 0, 0, "float32|bfloat16", "model", "", "bfloat16: round the rotary frequencies, to compare with a reference that was cast whole"},
    {"load-format", T_STR, AT(load_format), "auto", 0, 0, "auto|dummy", "model", "", "dummy: random weights from config.json alone"},
    {"pooling", T_STR, AT(pooling), "auto", 0, 0, "auto|none|last|mean|cls", "model", "pooling-type pooler-config.pooling-type", "rows that make an embedding; auto: as the model's files say, none where they say nothing"},
    {"seed", T_INT, AT(seed), "0", 0, 9007199254740992.0, NULL, "model", "", "seed of dummy weights"},

    {"device", T_STR, AT(device), "auto", 0, 0, "auto|cpu|cuda|sim", "device", "", "where the model runs; auto: cuda where there is a GPU, else cpu"},
    {"threads", T_INT, AT(threads), "0", 0, 1024, NULL, "device", "t n-threads", "threads of the cpu device; 0: all cores"},
    {"tensor-parallel-size", T_INT, AT(tensor_parallel_size), "1", 1, 64, NULL, "device", "tp tp-size num-shard", "ranks that share one model: GPUs, or on the cpu device groups of threads"},
    {"gpu-memory-utilization", T_REAL, AT(gpu_memory_utilization), "0.9", 0.01, 1, NULL, "device", "mem-fraction-static cuda-memory-fraction", "share of all of the device's memory that this server takes, KV pages filling it; it must be free at start"},
    {"kv-cache-memory-bytes", T_INT, AT(kv_cache_memory_bytes), "0", 0, GB(65536), NULL, "device", "", "bytes for KV pages; 0: from what memory is left"},
    {"num-gpu-blocks-override", T_INT, AT(num_gpu_blocks_override), "0", 0, 1 << 30, NULL, "device", "num-blocks", "number of KV pages; 0: from memory"},
    {"block-size", T_INT, AT(block_size), "16", 1, 256, NULL, "device", "page-size", "tokens of a KV page"},
    {"sim-step-us", T_INT, AT(sim_step_us), "0", 0, 10000000, NULL, "device", "", "sim device: microseconds a step takes"},
    {"sim-row-us", T_INT, AT(sim_row_us), "0", 0, 1000000, NULL, "device", "", "sim device: microseconds that each token adds to its step"},
    {"fail-step", T_INT, AT(fail_step), "0", 0, 1 << 30, NULL, "device", "sim-fail-step", "for tests: the step that fails, counted from 1, as when a GPU is lost; 0: none"},
    {"fail-rank", T_INT, AT(fail_rank), "0", 0, 63, NULL, "device", "", "for tests: the rank it fails on"},
    {"fail-skips", T_BOOL, AT(fail_skips), "false", 0, 0, NULL, "device", "", "for tests: that rank leaves out a sum over ranks instead, so that the others wait for it"},
    {"sim-replay", T_BOOL, AT(sim_replay), "false", 0, 0, NULL, "device", "", "sim device: answer with what the prompt holds between its last U+0002 and U+0003, for tests"},
    {"enforce-eager", T_BOOL, AT(enforce_eager), "false", 0, 0, NULL, "device", "", "cuda: launch kernel by kernel, without graphs"},
    {"disable-custom-all-reduce", T_BOOL, AT(disable_custom_all_reduce), "false", 0, 0, NULL, "device", "", "cuda: NCCL makes every sum over ranks, not our own kernels"},

    {"max-num-seqs", T_INT, AT(max_num_seqs), "0", 0, 65536, NULL, "schedule", "max-running-requests max-batch-size np parallel", "sequences in one step; 0: the device's default"},
    {"max-num-batched-tokens", T_INT, AT(max_num_batched_tokens), "0", 0, 1 << 20, NULL, "schedule", "chunked-prefill-size max-num-tokens b batch-size max-batch-prefill-tokens", "tokens in one step: the prefill chunk; 0: the device's default"},
    {"max-queue-size", T_INT, AT(max_queue_size), "1024", 1, 1 << 20, NULL, "schedule", "max-queued-requests", "requests that may wait; beyond that 429"},
    {"background-step-ms", T_INT, AT(background_step_ms), "10", 1, 10000, NULL, "schedule", "", "milliseconds a step with batch work should take at most while other requests come and go"},
    {"response-cache-bytes", T_INT, AT(response_cache_bytes), "0", 0, GB(1024), NULL, "schedule", "", "memory for answers to exact repeats of requests with temperature 0 or a seed; 0: off"},
    {"enable-prefix-caching", T_BOOL, AT(enable_prefix_caching), "true", 0, 0, NULL, "schedule", "cache-prompt", "reuse KV pages of equal prefixes, within one API key"},
    {"async-scheduling", T_STR, AT(async_scheduling), "auto", 0, 0, "auto|on|off", "schedule", "", "let one step run ahead"},

    {"host", T_STR, AT(host), "127.0.0.1", 0, 0, NULL, "http", "hostname", "address to listen on"},
    {"port", T_INT, AT(port), "8000", 0, 65535, NULL, "http", "p", "port to listen on; 0: any free one"},
    {"uds", T_STR, AT(uds), NULL, 0, 0, NULL, "http", "", "listen on this unix socket instead"},
    {"api-key", T_LIST, AT(api_key), NULL, 0, 0, NULL, "http", "", "key that clients must send; may be given several times"},
    {"api-key-file", T_STR, AT(api_key_file), NULL, 0, 0, NULL, "http", "", "file with one key a line, or YAML with names, scopes and limits"},
    {"api-key-metrics", T_BOOL, AT(api_key_metrics), "false", 0, 0, NULL, "http", "", "ask for a key on /metrics too"},
    {"allowed-origins", T_LIST, AT(allowed_origins), NULL, 0, 0, NULL, "http", "", "CORS origins; default: localhost without keys, * with keys"},
    {"ui", T_BOOL, AT(ui), "true", 0, 0, NULL, "http", "webui", "serve the chat page at /"},
    {"max-choices", T_INT, AT(max_choices), "16", 1, 64, NULL, "http", "", "largest n of a request"},
    {"strict-length", T_BOOL, AT(strict_length), "false", 0, 0, NULL, "http", "", "refuse prompt + max_tokens beyond the context instead of clamping max_tokens"},
    {"max-body-bytes", T_INT, AT(max_body_bytes), "67108864", 1024, GB(4), NULL, "http", "", "largest request body; beyond that 413"},
    {"max-file-bytes", T_INT, AT(max_file_bytes), "536870912", 1024, GB(64), NULL, "http", "", "largest file of /v1/files; beyond that 413"},
    {"data-dir", T_STR, AT(data_dir), NULL, 0, 0, NULL, "http", "", "folder for files, batches and usage; without it those endpoints answer 501"},
    {"max-connections", T_INT, AT(max_connections), "12000", 1, 1000000, NULL, "http", "", "open connections; beyond that 503"},
    {"header-timeout", T_INT, AT(header_timeout), "10", 1, 3600, NULL, "http", "", "seconds until the headers must be complete"},
    {"body-timeout", T_INT, AT(body_timeout), "30", 1, 3600, NULL, "http", "", "seconds until the body must be complete, plus one per 64 KiB"},
    {"idle-timeout", T_INT, AT(idle_timeout), "75", 1, 86400, NULL, "http", "", "seconds a kept-alive connection may be idle"},
    {"queue-timeout", T_INT, AT(queue_timeout), "60", 1, 86400, NULL, "http", "", "seconds a request may wait for its first token; beyond that 503"},
    {"request-timeout", T_INT, AT(request_timeout), "3600", 1, 604800, NULL, "http", "max-request-seconds", "seconds a request may take in all; beyond that 504"},
    {"write-timeout", T_INT, AT(write_timeout), "30", 1, 3600, NULL, "http", "", "seconds a client may leave its full stream buffer unread"},
    {"stream-buffer-bytes", T_INT, AT(stream_buffer_bytes), "262144", 16384, GB(1), NULL, "http", "", "unread bytes kept for one streaming client"},
    {"sse-ping-interval", T_REAL, AT(sse_ping_interval), "15", 0, 3600, NULL, "http", "", "seconds of silence until a keep-alive comment; 0: none"},
    {"max-stored-responses", T_INT, AT(max_stored_responses), "10000", 0, 10000000, NULL, "http", "", "Responses kept for GET and previous_response_id, in memory; 0: none"},
    {"stored-responses-bytes", T_INT, AT(stored_responses_bytes), "134217728", 65536, GB(1024), NULL, "http", "", "bytes of kept Responses together; the least recently used go first"},
    {"stored-responses-ttl", T_INT, AT(stored_responses_ttl), "2592000", 1, 315360000, NULL, "http", "", "seconds a Response is kept"},
    {"shutdown-timeout", T_INT, AT(shutdown_timeout), "30", 0, 86400, NULL, "http", "", "seconds that running requests get after SIGTERM"},

    {"log-level", T_STR, AT(log_level), "info", 0, 0, "error|warn|info|debug", "log", "", "least severe lines to write"},
    {"log-format", T_STR, AT(log_format), "text", 0, 0, "text|json", "log", "", "form of a log line"},
    {"config", T_STR, AT(config), NULL, 0, 0, NULL, "log", "", "YAML file with any of these options"},
};
// clang-format on
enum { N_ROWS = sizeof rows / sizeof *rows };

enum { FILE_TEXTS_MAX = 1 << 20 };
static struct arena file_texts = {.max = FILE_TEXTS_MAX}; /* values of --config; process lifetime */
static enum opt_origin origins[N_ROWS]; /* filled by opts_parse, read by opts_print; main thread */
static const struct opt_table table = {"sluice serve", rows, N_ROWS, origins};

/* ------------------------------------------------------------------ the four places */

static int set_from_env(struct options *o, struct sl_error *e)
{
    for (const struct opt_row *r = rows; r < rows + N_ROWS; r++) {
        char name[64] = "SLUICE_";
        size_t n = strlen(name);
        for (const char *p = r->name; *p && n + 1 < sizeof name; p++, n++)
            name[n] = *p == '-' ? '_' : (char)(*p - 'a' + 'A');
        const char *text = getenv(name);
        if (text) TRY(opt_set(&table, o, r, text, FROM_ENV, e));
    }
    return 0;
}

/* A flat mapping of scalars, or of lists of scalars. */
static int set_from_events(struct options *o, yaml_parser_t *parser, const char *path,
                           struct sl_error *e)
{
    const struct opt_row *r = NULL;
    int depth = 0, in_list = 0, code = 0;
    for (bool more = true; more && code == 0;) {
        yaml_event_t ev;
        if (!yaml_parser_parse(parser, &ev))
            return sl_fail(e, SL_EINVAL, "%s, line %zu: not valid YAML", path,
                           parser->problem_mark.line + 1);
        const char *text = ev.type == YAML_SCALAR_EVENT ? (const char *)ev.data.scalar.value : NULL;
        if (text && depth == 1 && !r) {
            r = opt_find(&table, text, strlen(text));
            if (!r) code = opt_unknown(&table, text, strlen(text), e);
        } else if (text && depth == 1) {
            char *kept = arena_strdup(&file_texts, str_of(text));
            code = kept ? opt_set(&table, o, r, kept, FROM_FILE, e)
                        : sl_fail(e, SL_EINVAL, "%s: more than %d bytes of values", path,
                                  FILE_TEXTS_MAX);
            if (!in_list) r = NULL;
        } else if (ev.type == YAML_MAPPING_START_EVENT) {
            if (++depth > 1) code = sl_fail(e, SL_EINVAL, "%s: options are not nested", path);
        } else if (ev.type == YAML_SEQUENCE_START_EVENT && r && r->type == T_LIST && !in_list) {
            in_list = 1;
        } else if (ev.type == YAML_SEQUENCE_END_EVENT) {
            in_list = 0;
            r = NULL;
        } else if (ev.type == YAML_SEQUENCE_START_EVENT || text || ev.type == YAML_ALIAS_EVENT) {
            code = sl_fail(e, SL_EINVAL, "%s: expected a mapping of option names to values", path);
        }
        more = ev.type != YAML_STREAM_END_EVENT;
        yaml_event_delete(&ev);
    }
    return code;
}

static int set_from_file(struct options *o, const char *path, struct sl_error *e)
{
    yaml_parser_t parser;
    FILE *f = fopen(path, "rb");
    if (!f) return sl_fail(e, SL_EINVAL, "cannot read the config file %s", path);
    int code = SL_ENOMEM;
    if (yaml_parser_initialize(&parser)) {
        yaml_parser_set_input_file(&parser, f);
        code = set_from_events(o, &parser, path, e);
        yaml_parser_delete(&parser);
    }
    fclose(f);
    return code;
}

static const char *find_config(int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "--config=", 9) == 0) return argv[i] + 9;
        if (strcmp(argv[i], "--config") == 0 && i + 1 < argc) return argv[i + 1];
    }
    return getenv("SLUICE_CONFIG");
}

int opts_parse(struct options *o, int argc, char **argv, bool *help, struct sl_error *e)
{
    *help = false;
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "-h") == 0 || strncmp(argv[i], "--help", 6) == 0) {
            const char *group = strchr(argv[i], '=');
            opts_help(stdout, group ? group + 1 : NULL);
            *help = true;
            return 0;
        }
    memset(o, 0, sizeof *o);
    TRY(opt_set_defaults(&table, o, e));
    const char *file = find_config(argc, argv);
    if (file) TRY(set_from_file(o, file, e));
    TRY(set_from_env(o, e));
    for (int i = 0; i < argc;) {
        if (argv[i][0] == '-' && argv[i][1]) {
            int used = opt_set_flag(&table, o, argc - i, argv + i, e);
            TRY(used);
            i += used;
        } else if (origins[0] == FROM_FLAG) { /* row 0 is the model */
            return sl_fail(e, SL_EINVAL, "one model only: \"%.60s\" is a second argument", argv[i]);
        } else {
            TRY(opt_set(&table, o, &rows[0], argv[i++], FROM_FLAG, e));
        }
    }
    return 0;
}

/* ------------------------------------------------------------------ printing */

static const char *const short_page[] = {"model",
                                         "served-model-name",
                                         "chat-template",
                                         "max-model-len",
                                         "device",
                                         "threads",
                                         "gpu-memory-utilization",
                                         "kv-cache-memory-bytes",
                                         "max-num-seqs",
                                         "max-num-batched-tokens",
                                         "max-queue-size",
                                         "enable-prefix-caching",
                                         "host",
                                         "port",
                                         "api-key",
                                         "shutdown-timeout",
                                         "config"};

static bool on_page(const struct opt_row *r, const char *page)
{
    if (page)
        return strcmp(page, "all") == 0 || strcmp(page, r->group) == 0 ||
               strcmp(page, r->name) == 0;
    for (size_t i = 0; i < sizeof short_page / sizeof *short_page; i++)
        if (strcmp(r->name, short_page[i]) == 0) return true;
    return false;
}

void opts_help(FILE *out, const char *page)
{
    const char *group = "";
    fprintf(out, "usage: sluice serve MODEL [flags]\n");
    for (const struct opt_row *r = rows; r < rows + N_ROWS; r++) {
        if (!on_page(r, page)) continue;
        if (strcmp(group, r->group) != 0) fprintf(out, "\n%s\n", group = r->group);
        opt_put_row(out, r);
    }
    fprintf(out, "\nAlso as SLUICE_<NAME> in the environment and as keys of --config FILE.yaml.\n"
                 "More: --help=all, --help=GROUP, --help=FLAG\n");
}

void opts_write_yaml(FILE *out)
{
    const char *group = "";
    fprintf(out,
            "# Every option of `sluice serve` with its default, written by `sluice options`.\n");
    for (const struct opt_row *r = rows; r < rows + N_ROWS; r++) {
        if (strcmp(r->name, "config") == 0) continue;
        if (strcmp(group, r->group) != 0) fprintf(out, "\n# --- %s\n", group = r->group);
        fprintf(out, "# %s%s%s\n", r->help, r->choices ? ": " : "", r->choices ? r->choices : "");
        if (r->fallback)
            fprintf(out, "%s: %s\n", r->name, r->fallback);
        else
            fprintf(out, "#%s:\n", r->name);
    }
}

void opts_print(const struct options *o, FILE *out)
{
    static const char *const from[] = {"default", "file", "environment", "flag"};
    for (const struct opt_row *r = rows; r < rows + N_ROWS; r++) {
        const void *at = (const char *)o + r->at;
        fprintf(out, "%-26s ", r->name);
        switch (r->type) {
        case T_STR:
            fprintf(out, "%s", *(const char *const *)at ? *(const char *const *)at : "-");
            break;
        case T_INT:
            fprintf(out, "%lld", (long long)*(const int64_t *)at);
            break;
        case T_REAL:
            fprintf(out, "%g", *(const double *)at);
            break;
        case T_BOOL:
            fprintf(out, "%s", *(const bool *)at ? "true" : "false");
            break;
        case T_LIST:
        case T_WORDS:
            fprintf(out, "%d given", ((const struct opts_list *)at)->n);
            break;
        }
        fprintf(out, "  (%s)\n", from[origins[r - rows]]);
    }
}

/* ------------------------------------------------------------------ for the engine */

static int8_t tristate(const char *text)
{
    return strcmp(text, "on") == 0 ? 1 : strcmp(text, "off") == 0 ? 0 : -1;
}

struct sl_options opts_engine(const struct options *o)
{
    return (struct sl_options){
        .model = o->model,
        .device = o->device,
        .dtype = o->dtype,
        .load_format = o->load_format,
        .rope_freq_dtype = o->rope_freq_dtype,
        .max_model_len = (int32_t)o->max_model_len,
        .max_num_seqs = (int32_t)o->max_num_seqs,
        .max_num_batched_tokens = (int32_t)o->max_num_batched_tokens,
        .block_size = (int32_t)o->block_size,
        .num_gpu_blocks_override = (int32_t)o->num_gpu_blocks_override,
        .kv_cache_memory_bytes = (uint64_t)o->kv_cache_memory_bytes,
        .gpu_memory_utilization = o->gpu_memory_utilization,
        .max_queue_size = (int32_t)o->max_queue_size,
        .background_step_ms = (int32_t)o->background_step_ms,
        .tensor_parallel_size = (int32_t)o->tensor_parallel_size,
        .n_threads = (int32_t)o->threads,
        .enable_prefix_caching = o->enable_prefix_caching,
        .async_scheduling = tristate(o->async_scheduling),
        .seed = (uint64_t)o->seed,
        .sim_step_us = (uint32_t)o->sim_step_us,
        .sim_row_us = (uint32_t)o->sim_row_us,
        .fail_step = (uint32_t)o->fail_step,
        .fail_rank = (int32_t)o->fail_rank,
        .fail_skips = o->fail_skips,
        .sim_replay = o->sim_replay,
        .enforce_eager = o->enforce_eager,
        .disable_custom_all_reduce = o->disable_custom_all_reduce,
    };
}
