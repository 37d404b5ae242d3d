/* metrics.c - one table of histograms, plain counters, and the text.
 *
 * Source of names and buckets: vLLM V1 metrics (vllm/v1/metrics/loggers.py); the format: Prometheus
 * text exposition 0.0.4. Inter-token buckets below 10 ms are added: this server is often there.
 */
#include "server/metrics.h"

#include <assert.h>
#include <stdio.h>

#include "base/json.h"
#include "server/limits.h"
#include "server/routes.h"

struct histogram_desc {
    const char *name, *help;
    double bounds[HISTOGRAM_MAX]; /* ascending, zero-terminated when shorter */
};

// clang-format off
#define LATENCIES                                                                                  \
    {0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680}
#define LENGTHS                                                                                    \
    {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000}
// clang-format on

static const struct histogram_desc descs[HIST_COUNT] = {
    [HIST_TTFT] = {"time_to_first_token_seconds",
                   "Time to first token.",
                   {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                    1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560}},
    [HIST_ITL] = {"inter_token_latency_seconds",
                  "Time between two tokens of a choice.",
                  {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
                   0.4,   0.5,    0.75,  1,    2.5,   5,    7.5,   10,  20,   40,  80}},
    [HIST_E2E] = {"e2e_request_latency_seconds", "Time from admission to the last token.",
                  LATENCIES},
    [HIST_QUEUE] = {"request_queue_time_seconds", "Time a request waited to run.", LATENCIES},
    [HIST_PREFILL] = {"request_prefill_time_seconds", "Time from running to the first token.",
                      LATENCIES},
    [HIST_DECODE] = {"request_decode_time_seconds", "Time from the first to the last token.",
                     LATENCIES},
    [HIST_PROMPT] = {"request_prompt_tokens", "Prompt tokens of a request.", LENGTHS},
    [HIST_GENERATION] = {"request_generation_tokens", "Generated tokens of a request.", LENGTHS},
    [HIST_ITERATION] = {"iteration_tokens_total",
                        "Tokens computed in one engine step.",
                        {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}},
};

static const unsigned short statuses[HTTP_STATUSES] = {
    200, 204, 400, 401, 403, 404, 405, 408, 413, 415, 429, 431, 499, 500, 501, 503, 504, 529, 0};

void metrics_observe(struct metrics *m, enum metric_histogram h, double value)
{
    const double *bounds = descs[h].bounds;
    int i = 0;
    while (i < HISTOGRAM_MAX && bounds[i] > 0 && value > bounds[i]) i++;
    if (i < HISTOGRAM_MAX && bounds[i] == 0) i = HISTOGRAM_MAX;
    m->hist[h].counts[i]++;
    m->hist[h].sum += value;
}

void metrics_http(struct metrics *m, int route, unsigned status)
{
    int i = 0;
    while (statuses[i] && statuses[i] != status) i++;
    for (int k = 0; k < route; k++) /* one label a path, however many methods it has */
        if (strcmp(routes[k].path, routes[route].path) == 0) route = k;
    m->n_http[route >= 0 && route < HTTP_ROUTES_MAX - 1 ? route : HTTP_ROUTES_MAX - 1][i]++;
}

void metrics_steps(struct metrics *m, const struct sl_stats *now)
{
    uint64_t n_steps = now->n_steps - m->seen.n_steps;
    uint64_t n_tokens = now->prompt_tokens + now->generation_tokens - m->seen.prompt_tokens -
                        m->seen.generation_tokens;
    m->seen = *now;
    enum { STEPS_MAX = 64 }; /* more steps than that between two looks count as that many */
    uint64_t n = n_steps < STEPS_MAX ? n_steps : STEPS_MAX;
    for (uint64_t i = 0; i < n && n_tokens; i++)
        metrics_observe(m, HIST_ITERATION, (double)n_tokens / (double)n_steps);
}

/* ------------------------------------------------------------------ text */

struct writer {
    struct buf *out;
    struct buf labels; /* engine="0",model_name="..." */
};

/* A label value: backslash, quote and newline are escaped. */
static void put_label_value(struct buf *b, const char *text)
{
    for (const char *p = text; *p; p++) {
        if (*p == '\n') {
            buf_puts(b, "\\n");
            continue;
        }
        if (*p == '"' || *p == '\\') buf_putc(b, '\\');
        buf_putc(b, *p);
    }
}

static void head(struct writer *w, const char *name, const char *type, const char *help)
{
    buf_printf(w->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* One sample; `more` is further labels with a leading comma, or "". */
static void sample(struct writer *w, const char *name, const char *suffix, const char *more,
                   double value)
{
    buf_puts(w->out, name);
    buf_puts(w->out, suffix);
    buf_putc(w->out, '{');
    buf_put_str(w->out, buf_str(&w->labels));
    buf_puts(w->out, more);
    buf_puts(w->out, "} ");
    json_put_num(w->out, value);
    buf_putc(w->out, '\n');
}

static void simple(struct writer *w, const char *name, const char *type, const char *help,
                   double value)
{
    head(w, name, type, help);
    sample(w, name, "", "", value);
}

static void put_histogram(struct writer *w, const struct histogram_desc *d,
                          const struct histogram *h)
{
    char name[96], more[64];
    uint64_t n = 0;
    snprintf(name, sizeof name, "%s%s", strchr(d->name, ':') ? "" : "vllm:", d->name);
    head(w, name, "histogram", d->help);
    for (int i = 0; i < HISTOGRAM_MAX && d->bounds[i] > 0; i++) {
        n += h->counts[i];
        snprintf(more, sizeof more, ",le=\"%g\"", d->bounds[i]);
        sample(w, name, "_bucket", more, (double)n);
    }
    n += h->counts[HISTOGRAM_MAX];
    sample(w, name, "_bucket", ",le=\"+Inf\"", (double)n);
    sample(w, name, "_sum", "", h->sum);
    sample(w, name, "_count", "", (double)n);
}

static void put_step_times(struct writer *w, const char *name, const char *help,
                           const struct sl_step_times *t)
{
    struct histogram_desc d = {name, help, {0}};
    struct histogram h = {.sum = (double)t->sum_ns * 1e-9};
    static_assert((int)SL_STEP_BUCKETS <= (int)HISTOGRAM_MAX, "one more is above every bound");
    for (int i = 0; i < SL_STEP_BUCKETS - 1; i++) {
        d.bounds[i] = sl_step_bounds_us[i] * 1e-6;
        h.counts[i] = t->counts[i];
    }
    h.counts[HISTOGRAM_MAX] = t->counts[SL_STEP_BUCKETS - 1];
    put_histogram(w, &d, &h);
}

static void put_engine(struct writer *w, const struct metrics *m, const struct metrics_view *v)
{
    const struct sl_stats *s = v->stats;
    double used = s->pages_total ? (double)s->pages_used / s->pages_total : 0;
    simple(w, "vllm:num_requests_running", "gauge", "Sequences in the batch.", s->n_running);
    simple(w, "vllm:num_requests_waiting", "gauge", "Sequences waiting to run.", s->n_waiting);
    simple(w, "sluice:background_requests_running", "gauge",
           "Background sequences (batch lines) in the batch.", s->n_background_running);
    simple(w, "sluice:background_requests_waiting", "gauge",
           "Background sequences waiting for room.", s->n_background_waiting);
    simple(w, "sluice:background_tokens_total", "counter", "Tokens generated for batch lines.",
           (double)m->n_background_tokens);
    simple(w, "sluice:batches_in_progress", "gauge", "Batches that are not over.", v->n_batches);
    simple(w, "sluice:batch_lines_answered_total", "counter", "Lines of batches answered with 2xx.",
           (double)v->n_batch_ok);
    simple(w, "sluice:batch_lines_failed_total", "counter", "Lines of batches answered otherwise.",
           (double)v->n_batch_failed);
    simple(w, "vllm:kv_cache_usage_perc", "gauge", "Share of KV pages in use, 0 to 1.", used);
    simple(w, "vllm:num_preemptions_total", "counter", "Sequences preempted.",
           (double)s->n_preemptions);
    simple(w, "vllm:prefix_cache_queries_total", "counter",
           "Prompt tokens looked up in the prefix cache.", (double)s->prefix_queries);
    simple(w, "vllm:prefix_cache_hits_total", "counter",
           "Prompt tokens taken from the prefix cache.", (double)s->prefix_hits);
    simple(w, "vllm:prompt_tokens_total", "counter", "Prompt tokens of admitted requests.",
           (double)m->n_prompt_tokens);
    simple(w, "vllm:generation_tokens_total", "counter", "Tokens generated.",
           (double)m->n_generation_tokens);
    if (v->info) {
        char more[192];
        snprintf(more, sizeof more,
                 ",block_size=\"%d\",num_gpu_blocks=\"%d\",enable_prefix_caching=\"%s\"",
                 v->info->block_size, v->info->num_blocks, v->has_prefix_cache ? "True" : "False");
        head(w, "vllm:cache_config_info", "gauge", "The KV cache's layout.");
        sample(w, "vllm:cache_config_info", "", more, 1);
    }
    simple(w, "sluice:engine_steps_total", "counter", "Engine steps.", (double)s->n_steps);
    simple(w, "sluice:kv_pages", "gauge", "KV pages there are.", s->pages_total);
    simple(w, "sluice:kv_pages_used", "gauge", "KV pages that live sequences hold.", s->pages_used);
    simple(w, "sluice:kv_pages_cached", "gauge", "Free KV pages that hold a reusable prefix.",
           s->pages_cached);
    simple(w, "sluice:engine_step_seconds_total", "counter", "Time in device steps.",
           (double)s->step_us_total * 1e-6);
    put_step_times(w, "sluice:engine_step_cpu_seconds", "CPU time of the engine thread for a step.",
                   &s->cpu);
    put_step_times(w, "sluice:device_idle_seconds",
                   "Time the device waited between two decode steps, or for masks, while there was "
                   "work.",
                   &s->idle);
}

static void put_requests(struct writer *w, const struct metrics *m, const struct metrics_view *v)
{
    static const struct {
        enum sl_finish reason;
        const char *name;
    } reasons[] = {{SL_FINISH_STOP, "stop"},
                   {SL_FINISH_LENGTH, "length"},
                   {SL_FINISH_CANCEL, "abort"},
                   {SL_FINISH_ERROR, "error"}};
    static const char *const phases[PHASE_COUNT] = {"queue", "prefill", "decode"};
    char more[160];
    head(w, "vllm:request_success_total", "counter", "Finished requests.");
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        snprintf(more, sizeof more, ",finished_reason=\"%s\"", reasons[i].name);
        sample(w, "vllm:request_success_total", "", more, (double)m->n_finished[reasons[i].reason]);
    }
    head(w, "sluice:requests_aborted_total", "counter",
         "Requests whose client left or did not read.");
    for (int i = 0; i < PHASE_COUNT; i++) {
        snprintf(more, sizeof more, ",phase=\"%s\"", phases[i]);
        sample(w, "sluice:requests_aborted_total", "", more, (double)m->n_aborted[i]);
    }
    head(w, "sluice:http_requests_total", "counter", "Answers by route and status.");
    for (int i = 0; i < HTTP_ROUTES_MAX; i++)
        for (int j = 0; j < HTTP_STATUSES; j++) {
            if (m->n_http[i][j] == 0) continue;
            snprintf(more, sizeof more, ",route=\"%s\",status=\"%u\"",
                     i < n_routes ? routes[i].path : "other", (unsigned)statuses[j]);
            sample(w, "sluice:http_requests_total", "", more, (double)m->n_http[i][j]);
        }
    simple(w, "sluice:sse_events_total", "counter", "Token events handled.",
           (double)m->n_sse_events);
    simple(w, "sluice:http_connections", "gauge", "Open connections.", v->n_connections);
    simple(w, "sluice:http_requests_in_progress", "gauge", "Requests being handled.",
           v->n_requests);
    simple(w, "sluice:stored_responses", "gauge", "Responses kept.", (double)v->n_stored);
    simple(w, "sluice:stored_responses_bytes", "gauge", "Bytes of kept Responses.",
           (double)v->stored_bytes);
}

static void put_wishes(struct writer *w, const struct metrics *m)
{
    static const char *const slos[SLO_COUNT] = {"ttft", "tpot", "timeout"};
    static const char *const causes[LATE_COUNT] = {"refused", "ttft", "timeout"};
    char more[64];
    head(w, "sluice:slo_wishes_total", "counter", "Wishes of time by what became of them.");
    for (int i = 0; i < 2 * SLO_COUNT; i++) {
        snprintf(more, sizeof more, ",slo=\"%s\",outcome=\"%s\"", slos[i / 2],
                 i % 2 ? "met" : "missed");
        sample(w, "sluice:slo_wishes_total", "", more, (double)m->n_slo[i / 2][i % 2]);
    }
    head(w, "sluice:slo_late_total", "counter", "Requests that were late, by what ended them.");
    for (int i = 0; i < LATE_COUNT; i++) {
        snprintf(more, sizeof more, ",cause=\"%s\"", causes[i]);
        sample(w, "sluice:slo_late_total", "", more, (double)m->n_late[i]);
    }
    simple(w, "sluice:slo_requests_total", "counter", "Requests with a wish that have ended.",
           (double)m->n_wished);
    simple(w, "sluice:slo_good_requests_total", "counter",
           "Requests that got all they wished: goodput.", (double)m->n_good);
}

/* By name of key, never by key. */
static void put_keys(struct writer *w, const struct metrics_view *v)
{
    static const struct {
        const char *name, *help;
    } rows[] = {{"sluice:key_requests_total", "Requests of an API key."},
                {"sluice:key_prompt_tokens_total", "Prompt tokens of an API key."},
                {"sluice:key_completion_tokens_total", "Generated tokens of an API key."},
                {"sluice:key_rejected_total", "Requests of an API key refused by its limits."}};
    if (!v->limits || !auth_has_keys(v->auth)) return;
    for (int i = 0; i < 4; i++) {
        head(w, rows[i].name, "counter", rows[i].help);
        for (int key = 0; key < auth_n_keys(v->auth); key++) {
            struct key_counts c = limits_counts(v->limits, key);
            int64_t values[] = {c.used.n_requests, c.used.prompt_tokens, c.used.completion_tokens,
                                (int64_t)c.n_rejected};
            struct buf more = buf_make(4096);
            buf_puts(&more, ",key=\"");
            put_label_value(&more, auth_name(v->auth, key));
            buf_putc(&more, '"');
            sample(w, rows[i].name, "", buf_cstr(&more), (double)values[i]);
            buf_free(&more);
        }
    }
}

static void put_cache(struct writer *w, const struct answer_cache_stats *c)
{
    simple(w, "sluice:response_cache_hits_total", "counter", "Answers given from the cache.",
           (double)c->n_hits);
    simple(w, "sluice:response_cache_misses_total", "counter",
           "Repeatable requests that were not in the cache.", (double)c->n_misses);
    simple(w, "sluice:response_cache_bytes", "gauge", "Memory that cached answers hold.",
           (double)c->bytes);
    simple(w, "sluice:response_cache_entries", "gauge", "Cached answers.", (double)c->n_entries);
}

void metrics_text(const struct metrics *m, const struct metrics_view *v, struct buf *out)
{
    struct writer w = {.out = out, .labels = buf_make(4096)};
    buf_puts(&w.labels, "engine=\"0\",model_name=\"");
    put_label_value(&w.labels, v->model_name);
    buf_putc(&w.labels, '"');
    put_engine(&w, m, v);
    put_requests(&w, m, v);
    put_wishes(&w, m);
    put_keys(&w, v);
    put_cache(&w, &v->cache);
    for (int i = 0; i < HIST_COUNT; i++) put_histogram(&w, &descs[i], &m->hist[i]);
    buf_free(&w.labels);
}
