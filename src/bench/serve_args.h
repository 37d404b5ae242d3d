/* serve_args.h - the flags of `sluice bench serve`; names are those of `vllm bench serve` where it
 * has the flag. Read once on the main thread, constant afterwards.
 */
#ifndef BENCH_SERVE_ARGS_H
#define BENCH_SERVE_ARGS_H

#include "base/opt_table.h"

enum { RATES_MAX = 32 };

struct serve_args {
    /* the server */
    const char *backend, *base_url, *host, *endpoint, *model, *api_key;
    int64_t port, ready_timeout;
    struct opts_list header;
    bool server_metrics;
    /* what is asked */
    const char *dataset_name, *dataset_path, *range_meaning, *prompt_format, *extra_body;
    int64_t num_prompts, seed, input_len, output_len, prefix_len, vocab_size, max_total_len;
    int64_t sharegpt_output_len;
    double range_ratio, temperature;
    bool ignore_eos, stream;
    /* when */
    const char *request_rate;
    double burstiness, slowdown_factor, sweep_seconds, timeout;
    int64_t max_concurrency, num_warmups, num_threads;
    bool use_trace_timestamps;
    /* the result */
    struct opts_list goodput;
    const char *json;
    bool save_detailed;
    double max_client_cpu, max_send_lateness_ms;

    /* derived */
    bool is_chat;
    const char *path;
    double rates[RATES_MAX]; /* of request_rate; INFINITY: inf */
    int n_rates;
    double slo_ttft_ms, slo_tpot_ms, slo_e2el_ms; /* INFINITY: not asked */
    bool has_slo;
};

/* *help is set when --help was asked and printed. SL_EINVAL with one clear line. */
int serve_args_read(struct serve_args *a, int argc, char **argv, bool *help, struct sl_error *e);

#endif
