/* serve_args.c - see serve_args.h. */
#include "bench/serve_args.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(struct serve_args, field)
// clang-format off
static const struct opt_row rows[] = {
    {"backend", T_STR, AT(backend), "openai", 0, 0, "openai|openai-chat|vllm", "server", "", "openai: completions, prompts as token ids; openai-chat: chat, as text"},
    {"base-url", T_STR, AT(base_url), NULL, 0, 0, NULL, "server", "", "http://HOST:PORT[/PREFIX] instead of --host and --port"},
    {"host", T_STR, AT(host), "127.0.0.1", 0, 0, NULL, "server", "", "address of the server"},
    {"port", T_INT, AT(port), "8000", 1, 65535, NULL, "server", "", "port of the server"},
    {"endpoint", T_STR, AT(endpoint), NULL, 0, 0, NULL, "server", "", "path; default: the backend's, /v1/completions or /v1/chat/completions"},
    {"model", T_STR, AT(model), NULL, 0, 0, NULL, "server", "", "name in requests; default: the first of /v1/models"},
    {"api-key", T_STR, AT(api_key), NULL, 0, 0, NULL, "server", "", "sent as a bearer token"},
    {"header", T_LIST, AT(header), NULL, 0, 0, NULL, "server", "", "\"Name: value\", sent with every request; may be given several times"},
    {"ready-check-timeout-sec", T_INT, AT(ready_timeout), "0", 0, 86400, NULL, "server", "", "seconds to wait for the server to answer"},
    {"server-metrics", T_BOOL, AT(server_metrics), "true", 0, 0, NULL, "server", "", "read the server's /metrics before and after"},

    {"dataset-name", T_STR, AT(dataset_name), "random", 0, 0, "random|sharegpt|azure|mooncake", "requests", "", "where lengths and prompts come from"},
    {"dataset-path", T_STR, AT(dataset_path), NULL, 0, 0, NULL, "requests", "", "file: ShareGPT JSON, Azure CSV or Mooncake JSON lines"},
    {"num-prompts", T_INT, AT(num_prompts), "1000", 1, 10000000, NULL, "requests", "", "requests to send"},
    {"seed", T_INT, AT(seed), "0", 0, 9007199254740992.0, NULL, "requests", "", "of lengths, prompts and arrivals; another seed shares no prefix with this one"},
    {"random-input-len", T_INT, AT(input_len), "1024", 1, 1 << 24, NULL, "requests", "input-len", "prompt tokens, without the shared prefix"},
    {"random-output-len", T_INT, AT(output_len), "128", 1, 1 << 24, NULL, "requests", "output-len", "tokens to generate"},
    {"random-range-ratio", T_REAL, AT(range_ratio), "-1", -1, 1, NULL, "requests", "", "r: how lengths vary; -1: not at all"},
    {"random-range-meaning", T_STR, AT(range_meaning), "vllm", 0, 0, "vllm|inferencemax", "requests", "", "vllm: lengths in [L(1-r), L(1+r)]; inferencemax: in [L r, L]"},
    {"random-prefix-len", T_INT, AT(prefix_len), "0", 0, 1 << 24, NULL, "requests", "", "tokens that all prompts begin with"},
    {"vocab-size", T_INT, AT(vocab_size), "0", 0, 1 << 24, NULL, "requests", "", "token ids are below this; 0: as /v1/models says, else 10000"},
    {"prompt-format", T_STR, AT(prompt_format), "auto", 0, 0, "auto|ids|text", "requests", "", "token ids or common words (one token each in most vocabularies); auto: ids but for chat"},
    {"max-total-len", T_INT, AT(max_total_len), "0", 0, 1 << 24, NULL, "requests", "", "leave out longer requests of a trace; 0: the server's max_model_len"},
    {"sharegpt-output-len", T_INT, AT(sharegpt_output_len), "0", 0, 1 << 24, NULL, "requests", "", "tokens to generate instead of the answer's length"},
    {"ignore-eos", T_BOOL, AT(ignore_eos), "false", 0, 0, NULL, "requests", "", "ask for exactly the output length"},
    {"temperature", T_REAL, AT(temperature), "0", 0, 100, NULL, "requests", "", "of sampling"},
    {"extra-body", T_STR, AT(extra_body), NULL, 0, 0, NULL, "requests", "", "JSON object whose members join every request"},
    {"stream", T_BOOL, AT(stream), "true", 0, 0, NULL, "requests", "", "stream the answers; --no-stream: whole ones, without TTFT and TPOT"},

    {"request-rate", T_STR, AT(request_rate), "inf", 0, 0, NULL, "arrivals", "", "requests a second, or inf; a list 1,2,4,inf is a sweep that ends when the TTFT diverges"},
    {"burstiness", T_REAL, AT(burstiness), "1", 0.001, 1000, NULL, "arrivals", "", "shape of the gamma-distributed gaps; 1: Poisson, less: burstier"},
    {"max-concurrency", T_INT, AT(max_concurrency), "0", 0, 100000, NULL, "arrivals", "", "requests in flight; 0: no limit"},
    {"sweep-seconds", T_REAL, AT(sweep_seconds), "60", 0, 86400, NULL, "arrivals", "", "sweep: at least so long at each finite rate, whatever --num-prompts"},
    {"use-trace-timestamps", T_BOOL, AT(use_trace_timestamps), "false", 0, 0, NULL, "arrivals", "", "send when the trace says, instead of --request-rate"},
    {"slowdown-factor", T_REAL, AT(slowdown_factor), "1", 0.0001, 10000, NULL, "arrivals", "mooncake-slowdown-factor", "stretch the trace's time"},
    {"num-warmups", T_INT, AT(num_warmups), "0", 0, 100000, NULL, "arrivals", "", "requests before the measurement, of prompts of their own"},
    {"num-threads", T_INT, AT(num_threads), "1", 1, 64, NULL, "arrivals", "", "threads of this client"},
    {"timeout", T_REAL, AT(timeout), "21600", 0.1, 604800, NULL, "arrivals", "", "seconds a request may take"},

    {"goodput", T_WORDS, AT(goodput), NULL, 0, 0, NULL, "result", "", "ttft:MS tpot:MS e2el:MS; a request is good when it holds all that are given"},
    {"json", T_STR, AT(json), NULL, 0, 0, NULL, "result", "result-filename", "write the result to this file, - for standard output"},
    {"save-detailed", T_BOOL, AT(save_detailed), "false", 0, 0, NULL, "result", "", "every request in the JSON too"},
    {"max-client-cpu", T_REAL, AT(max_client_cpu), "70", 0, 100, NULL, "result", "", "refuse the result when a thread of this client was busier, in percent"},
    {"max-send-lateness-ms", T_REAL, AT(max_send_lateness_ms), "1", 0, 1e9, NULL, "result", "", "refuse the result when 1 % of requests left later than this"},
};
// clang-format on
enum { N_ROWS = sizeof rows / sizeof *rows };
static enum opt_origin origins[N_ROWS];
static const struct opt_table table = {"sluice bench serve", rows, N_ROWS, origins};

static void print_help(void)
{
    const char *group = "";
    printf("usage: sluice bench serve [flags]\n");
    for (int i = 0; i < N_ROWS; i++) {
        if (strcmp(group, rows[i].group) != 0) printf("\n%s\n", group = rows[i].group);
        opt_put_row(stdout, &rows[i]);
    }
    printf(
        "\nExit status: 0; 1 when requests failed; 2 for wrong flags; 3 when the result is refused "
        "because this\nclient was the limit.\n");
}

/* "1,2.5,inf" */
static int read_rates(struct serve_args *a, struct sl_error *e)
{
    for (const char *p = a->request_rate; *p || a->n_rates == 0;) {
        char *end;
        double v = strtod(p, &end);
        if (end == p || !(v > 0) || (*end && *end != ','))
            return sl_fail(e, SL_EINVAL,
                           "--request-rate is a positive number, inf or a list, not "
                           "\"%.60s\"",
                           a->request_rate);
        if (a->n_rates == RATES_MAX)
            return sl_fail(e, SL_EINVAL, "--request-rate: at most %d rates", RATES_MAX);
        a->rates[a->n_rates++] = v;
        p = end + (*end == ',');
    }
    return 0;
}

static int read_goodput(struct serve_args *a, struct sl_error *e)
{
    struct {
        const char *name;
        double *ms;
    } slos[] = {{"ttft:", &a->slo_ttft_ms}, {"tpot:", &a->slo_tpot_ms}, {"e2el:", &a->slo_e2el_ms}};
    a->slo_ttft_ms = a->slo_tpot_ms = a->slo_e2el_ms = INFINITY;
    a->has_slo = a->goodput.n > 0;
    for (int i = 0; i < a->goodput.n; i++) {
        char *end = NULL;
        for (size_t k = 0; k < sizeof slos / sizeof *slos && !end; k++) {
            if (strncmp(a->goodput.v[i], slos[k].name, 5) != 0) continue;
            *slos[k].ms = strtod(a->goodput.v[i] + 5, &end);
            if (end == a->goodput.v[i] + 5 || *end || !(*slos[k].ms >= 0)) end = NULL;
            break;
        }
        if (!end)
            return sl_fail(e, SL_EINVAL, "--goodput is ttft:MS, tpot:MS or e2el:MS, not \"%.60s\"",
                           a->goodput.v[i]);
    }
    return 0;
}

static int check(struct serve_args *a, struct sl_error *e)
{
    bool is_trace =
        strcmp(a->dataset_name, "azure") == 0 || strcmp(a->dataset_name, "mooncake") == 0;
    a->is_chat = strcmp(a->backend, "openai-chat") == 0;
    a->path = a->endpoint ? a->endpoint : a->is_chat ? "/v1/chat/completions" : "/v1/completions";
    if (a->path[0] != '/') return sl_fail(e, SL_EINVAL, "--endpoint begins with a slash");
    if (a->is_chat && strcmp(a->prompt_format, "ids") == 0)
        return sl_fail(e, SL_EINVAL, "a chat's messages are text: no --prompt-format ids");
    if (strcmp(a->dataset_name, "random") != 0 && !a->dataset_path)
        return sl_fail(e, SL_EINVAL, "--dataset-name %s needs --dataset-path", a->dataset_name);
    if (a->use_trace_timestamps && (!is_trace || a->n_rates > 1))
        return sl_fail(e, SL_EINVAL, "--use-trace-timestamps is for one run of a trace");
    if (a->range_ratio < 0 && a->range_ratio > -1)
        return sl_fail(e, SL_EINVAL, "--random-range-ratio is 0 to 1");
    if (a->save_detailed && !a->json)
        return sl_fail(e, SL_EINVAL, "--save-detailed needs --json FILE");
    return 0;
}

int serve_args_read(struct serve_args *a, int argc, char **argv, bool *help, struct sl_error *e)
{
    *help = false;
    for (int i = 0; i < argc && !*help; i++)
        *help = strcmp(argv[i], "-h") == 0 || strncmp(argv[i], "--help", 6) == 0;
    if (*help) {
        print_help();
        return 0;
    }
    *a = (struct serve_args){0};
    TRY(opt_set_defaults(&table, a, e));
    for (int i = 0; i < argc;) {
        if (argv[i][0] != '-')
            return sl_fail(e, SL_EINVAL, "\"%.60s\" is no flag; the model's name goes with --model",
                           argv[i]);
        int used = opt_set_flag(&table, a, argc - i, argv + i, e);
        TRY(used);
        i += used;
    }
    TRY(read_rates(a, e));
    TRY(read_goodput(a, e));
    return check(a, e);
}
