/* opts.h - every option of sluice, in one table (opts.c): name, type, default, range, group, help.
 *
 * From the table come flags (vLLM's names; `_` reads as `-`; other servers' names as aliases),
 * environment (SLUICE_NAME), the YAML file of --config, --help and configs/default.yaml.
 * Precedence: command line, then environment, then file, then default. Filled once in main before
 * threads start; read-only afterwards.
 */
#ifndef BASE_OPTS_H
#define BASE_OPTS_H

#include "base/opt_table.h"
#include "sluice/sluice.h"

struct options {
    const char *model;
    /* engine */
    const char *device, *dtype, *load_format, *rope_freq_dtype;
    int64_t max_model_len, max_num_seqs, max_num_batched_tokens, block_size;
    int64_t num_gpu_blocks_override, kv_cache_memory_bytes, tensor_parallel_size, threads, seed;
    double gpu_memory_utilization;
    bool enable_prefix_caching;
    const char *async_scheduling; /* auto, on, off */
    const char *pooling;          /* auto, none, last, mean, cls */
    int64_t max_queue_size;
    /* http */
    const char *host, *uds;
    int64_t port;
    struct opts_list served_model_name, api_key, allowed_origins;
    const char *api_key_file, *chat_template, *data_dir;
    const char *tool_call_parser, *reasoning_parser, *reasoning_field; /* names, or auto, none */
    bool enable_auto_tool_choice;
    int64_t max_file_bytes, background_step_ms, response_cache_bytes;
    int64_t max_body_bytes, max_connections, max_choices;
    int64_t header_timeout, body_timeout, idle_timeout, request_timeout,
        queue_timeout; /* seconds */
    int64_t write_timeout, shutdown_timeout;
    double sse_ping_interval; /* seconds; 0: off */
    int64_t stream_buffer_bytes;
    int64_t max_stored_responses, stored_responses_bytes, stored_responses_ttl;
    bool strict_length, generation_defaults, api_key_metrics, ui;
    /* log */
    const char *log_level, *log_format;
    /* devices */
    int64_t sim_step_us, sim_row_us, fail_step, fail_rank;
    bool sim_replay, enforce_eager, fail_skips, disable_custom_all_reduce;
    const char *config;
};

/* Parse `sluice serve` arguments (argv after the subcommand) over environment over file over
 * defaults. Texts are borrowed from argv, environ or the file's copy, which lives on. SL_EINVAL
 * with one clear line (and the nearest known flag for an unknown one). *help is set when --help was
 * asked and printed. */
int opts_parse(struct options *o, int argc, char **argv, bool *help, struct sl_error *e);
/* What of it concerns the engine, for sl_open; callbacks and n_vocab are the caller's. */
struct sl_options opts_engine(const struct options *o);
void opts_help(FILE *out, const char *group); /* NULL: the short page */
void opts_write_yaml(FILE *out);              /* configs/default.yaml */
/* Value and origin of each option, a line each. */
void opts_print(const struct options *o, FILE *out);

#endif
