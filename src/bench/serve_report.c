/* serve_report.c - see serve_report.h. */
#include "bench/serve_report.h"

#include <math.h>

#include "base/json.h"

/* ------------------------------------------------------------------ adding up */

static void add_ok(struct summary *s, const struct run *r, const struct outcome *o,
                   const struct job *j)
{
    const struct serve_args *a = r->args;
    double n_out = o->completion_tokens >= 0 ? (double)o->completion_tokens : (double)o->n_chunks;
    double ttft = o->first - o->sent, e2el = o->last - o->sent;
    double tpot = n_out > 1 ? (o->last - o->first) / (n_out - 1) : 0;
    s->n_ok++;
    s->n_without_usage += o->completion_tokens < 0;
    s->input_tokens += o->prompt_tokens >= 0 ? (double)o->prompt_tokens : j->n_prompt;
    s->output_tokens += n_out;
    s->n_chunks += (double)o->n_chunks;
    s->cached_tokens += o->cached_tokens > 0 ? (double)o->cached_tokens : 0;
    samples_add(&s->e2el, e2el);
    if (a->stream) samples_add(&s->ttft, ttft);
    if (a->stream && n_out > 1) samples_add(&s->tpot, tpot);
    s->n_good += ttft * 1e3 <= a->slo_ttft_ms && tpot * 1e3 <= a->slo_tpot_ms &&
                 e2el * 1e3 <= a->slo_e2el_ms;
}

/* These figures say something of the client, not of the server. */
static void judge(struct summary *s, const struct run *r)
{
    const struct serve_args *a = r->args;
    double late_ms = samples_quantile(&s->late, 0.99) * 1e3;
    if (r->result.cpu * 100 > a->max_client_cpu)
        snprintf(s->refused, sizeof s->refused,
                 "a thread of this client was %.0f %% busy (limit %g): try --num-threads",
                 r->result.cpu * 100, a->max_client_cpu);
    else if (late_ms > a->max_send_lateness_ms)
        snprintf(s->refused, sizeof s->refused,
                 "1 %% of the requests left %.2f ms late or more (limit %g): this machine was too "
                 "busy",
                 late_ms, a->max_send_lateness_ms);
}

void summary_make(struct summary *s, const struct run *r)
{
    struct str before = buf_str(&r->before), after = buf_str(&r->after);
    *s = (struct summary){0};
    for (size_t i = 0; i < r->load->n; i++) {
        const struct outcome *o = &r->load->outcomes[i];
        s->errors[o->error]++;
        if (o->late >= 0) samples_add(&s->late, o->late);
        if (o->error == LOAD_OK)
            add_ok(s, r, o, &r->load->jobs[i]);
        else
            s->n_failed++;
    }
    samples_join(&s->itl, &r->result.gaps);
    struct samples *all[] = {&s->ttft, &s->tpot, &s->itl, &s->e2el, &s->late};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) samples_sort(all[i]);
    if (s->n_chunks > 0) s->full_rate = r->result.full_rate * s->output_tokens / s->n_chunks;
    scrape_between(before, after, "sluice:engine_step_cpu_seconds", &s->cpu);
    scrape_between(before, after, "sluice:device_idle_seconds", &s->idle);
    double queries = scrape_value(after, "vllm:prefix_cache_queries_total") -
                     scrape_value(before, "vllm:prefix_cache_queries_total");
    double hits = scrape_value(after, "vllm:prefix_cache_hits_total") -
                  scrape_value(before, "vllm:prefix_cache_hits_total");
    s->cache_hits = queries > 0 ? hits / queries : -1;
    judge(s, r);
}

void summary_free(struct summary *s)
{
    struct samples *all[] = {&s->ttft, &s->tpot, &s->itl, &s->e2el, &s->late};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) samples_free(all[i]);
}

/* ------------------------------------------------------------------ as text */

static void put_latency(FILE *out, const char *name, const struct samples *s)
{
    if (s->n == 0) return;
    fprintf(out, "%-6s %10.2f %10.2f %10.2f %10.2f %10.2f\n", name, samples_mean(s) * 1e3,
            samples_deviation(s) * 1e3, samples_quantile(s, 0.5) * 1e3,
            samples_quantile(s, 0.9) * 1e3, samples_quantile(s, 0.99) * 1e3);
}

static void put_errors(FILE *out, const struct run *r, const struct summary *s)
{
    for (int i = 1; i < LOAD_ERRORS; i++)
        if (s->errors[i])
            fprintf(out, "failed   %zu x %s: %s\n", s->errors[i], load_error_names[i],
                    r->result.example[i]);
    if (r->n_left_out) fprintf(out, "data     %zu requests of the file left out\n", r->n_left_out);
    if (r->is_estimated)
        fprintf(out,
                "data     the server has no /tokenize: lengths are estimated, 4 bytes a token\n");
    if (s->n_without_usage)
        fprintf(out, "data     %zu answers without usage: their tokens are counted by chunks\n",
                s->n_without_usage);
}

static void put_server(FILE *out, const struct summary *s)
{
    if (s->cpu.n > 0)
        fprintf(out, "server   engine thread %.1f us of CPU a step (p50 %.1f, p99 %.1f)",
                s->cpu.mean * 1e6, s->cpu.p50 * 1e6, s->cpu.p99 * 1e6);
    if (s->idle.n > 0)
        fprintf(out, "; device idle %.1f us between decode steps (p50 %.1f, p99 %.1f)",
                s->idle.mean * 1e6, s->idle.p50 * 1e6, s->idle.p99 * 1e6);
    if (s->cpu.n > 0) fputc('\n', out);
    if (s->cache_hits >= 0)
        fprintf(out, "server   %.1f %% of prompt tokens from the prefix cache\n",
                s->cache_hits * 100);
}

void report_text(FILE *out, const struct run *r, const struct summary *s)
{
    double seconds = r->result.seconds;
    if (s->refused[0]) {
        fprintf(out, "REFUSED at rate %g: %s\n", r->rate, s->refused);
        return;
    }
    fprintf(out, "rate %g, %d in flight at most: %zu of %zu requests ok in %.2f s\n", r->rate,
            r->result.peak, s->n_ok, r->load->n, seconds);
    put_errors(out, r, s);
    fprintf(out, "requests %.2f a second", (double)s->n_ok / seconds);
    if (r->args->has_slo)
        fprintf(out, ", %.2f good ones (%.1f %%)", (double)s->n_good / seconds,
                r->load->n ? 100.0 * (double)s->n_good / (double)r->load->n : 0);
    fprintf(out, "\ntokens   %.0f in, %.0f out: %.1f out a second, %.1f in all\n", s->input_tokens,
            s->output_tokens, s->output_tokens / seconds,
            (s->input_tokens + s->output_tokens) / seconds);
    if (s->full_rate > 0)
        fprintf(out, "         %.1f out a second while all streams decoded (%.2f s)\n",
                s->full_rate, r->result.full_seconds);
    fprintf(out, "%-6s %10s %10s %10s %10s %10s\n", "ms", "mean", "deviation", "p50", "p90", "p99");
    put_latency(out, "TTFT", &s->ttft);
    put_latency(out, "TPOT", &s->tpot);
    put_latency(out, "ITL", &s->itl);
    put_latency(out, "E2EL", &s->e2el);
    put_server(out, s);
    fprintf(out, "client   %.1f %% of a core a thread, sent %.3f ms late (p99)\n",
            r->result.cpu * 100, samples_quantile(&s->late, 0.99) * 1e3);
}

void report_line(FILE *out, const struct run *r, const struct summary *s)
{
    if (!r) {
        fprintf(out, "%8s %8s %8s %10s %9s %9s %9s %9s\n", "rate", "req/s", "good/s", "out tok/s",
                "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99");
        return;
    }
    fprintf(out, "%8g %8.2f ", r->rate, (double)s->n_ok / r->result.seconds);
    if (r->args->has_slo)
        fprintf(out, "%8.2f ", (double)s->n_good / r->result.seconds);
    else
        fprintf(out, "%8s ", "-");
    fprintf(out, "%10.1f %9.2f %9.2f %9.2f %9.2f%s\n", s->output_tokens / r->result.seconds,
            samples_quantile(&s->ttft, 0.5) * 1e3, samples_quantile(&s->ttft, 0.99) * 1e3,
            samples_quantile(&s->tpot, 0.5) * 1e3, samples_quantile(&s->tpot, 0.99) * 1e3,
            s->refused[0] ? "  refused" : "");
}

/* ------------------------------------------------------------------ as JSON */

static void member(struct buf *out, const char *name, double v)
{
    buf_printf(out, ",\"%s\":", name);
    if (isfinite(v))
        json_put_num(out, v);
    else
        buf_puts(out, "null");
}

static void text_member(struct buf *out, const char *name, const char *text)
{
    buf_printf(out, ",\"%s\":", name);
    if (text)
        json_put_str(out, str_of(text));
    else
        buf_puts(out, "null");
}

static void latency_members(struct buf *out, const char *name, const struct samples *s)
{
    static const struct {
        const char *name;
        double q;
    } quantiles[] = {{"median", 0.5}, {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}};
    if (s->n == 0) return;
    buf_printf(out, ",\"mean_%s_ms\":", name);
    json_put_num(out, samples_mean(s) * 1e3);
    buf_printf(out, ",\"std_%s_ms\":", name);
    json_put_num(out, samples_deviation(s) * 1e3);
    for (size_t i = 0; i < sizeof quantiles / sizeof *quantiles; i++) {
        buf_printf(out, ",\"%s_%s_ms\":", quantiles[i].name, name);
        json_put_num(out, samples_quantile(s, quantiles[i].q) * 1e3);
    }
}

static void times_member(struct buf *out, const char *name, const struct scrape_times *t)
{
    if (t->n <= 0) return;
    buf_printf(out, ",\"%s\":{\"n\":%.0f,\"mean\":%.3f,\"p50\":%.3f,\"p99\":%.3f}", name, t->n,
               t->mean * 1e6, t->p50 * 1e6, t->p99 * 1e6);
}

static void put_requests(struct buf *out, const struct run *r)
{
    buf_puts(out, ",\"requests\":[");
    for (size_t i = 0; i < r->load->n; i++) {
        const struct outcome *o = &r->load->outcomes[i];
        buf_printf(out,
                   "%s{\"sent\":%.6f,\"first\":%.6f,\"last\":%.6f,\"input\":%lld,\"output\":%lld,"
                   "\"cached\":%lld,\"chunks\":%lld,\"status\":%d,\"error\":\"%s\"}",
                   i ? "," : "", o->sent, o->first, o->last, (long long)o->prompt_tokens,
                   (long long)o->completion_tokens, (long long)o->cached_tokens,
                   (long long)o->n_chunks, o->status, load_error_names[o->error]);
    }
    buf_putc(out, ']');
}

static void put_run_errors(struct buf *out, const struct run *r, const struct summary *s)
{
    const char *comma = "";
    buf_puts(out, ",\"errors\":{");
    for (int i = 1; i < LOAD_ERRORS; i++) {
        if (!s->errors[i]) continue;
        buf_printf(out, "%s\"%s\":{\"n\":%zu,\"first\":", comma, load_error_names[i], s->errors[i]);
        json_put_str(out, str_of(r->result.example[i]));
        buf_putc(out, '}');
        comma = ",";
    }
    buf_putc(out, '}');
}

void report_json(struct buf *out, const struct run *r, const struct summary *s)
{
    double seconds = r->result.seconds;
    buf_puts(out, "{\"request_rate\":");
    if (isfinite(r->rate))
        json_put_num(out, r->rate);
    else
        buf_puts(out, "\"inf\"");
    text_member(out, "refused", s->refused[0] ? s->refused : NULL);
    member(out, "seed", (double)r->seed);
    member(out, "num_prompts", (double)r->load->n);
    member(out, "left_out", (double)r->n_left_out);
    member(out, "completed", (double)s->n_ok);
    member(out, "failed", (double)s->n_failed);
    put_run_errors(out, r, s);
    member(out, "duration", seconds);
    member(out, "peak_concurrency", r->result.peak);
    member(out, "total_input_tokens", s->input_tokens);
    member(out, "total_output_tokens", s->output_tokens);
    member(out, "cached_input_tokens", s->cached_tokens);
    member(out, "answers_without_usage", (double)s->n_without_usage);
    member(out, "request_throughput", (double)s->n_ok / seconds);
    if (r->args->has_slo) member(out, "request_goodput", (double)s->n_good / seconds);
    member(out, "output_throughput", s->output_tokens / seconds);
    member(out, "total_token_throughput", (s->input_tokens + s->output_tokens) / seconds);
    member(out, "full_load_output_throughput", s->full_rate);
    member(out, "full_load_seconds", r->result.full_seconds);
    member(out, "chunks", s->n_chunks);
    latency_members(out, "ttft", &s->ttft);
    latency_members(out, "tpot", &s->tpot);
    latency_members(out, "itl", &s->itl);
    latency_members(out, "e2el", &s->e2el);
    buf_printf(out, ",\"client\":{\"cpu\":%.4f,\"p99_send_lateness_ms\":%.4f}", r->result.cpu,
               samples_quantile(&s->late, 0.99) * 1e3);
    times_member(out, "engine_step_cpu_us", &s->cpu);
    times_member(out, "device_idle_us", &s->idle);
    if (s->cache_hits >= 0) member(out, "prefix_cache_hit_rate", s->cache_hits);
    if (r->args->save_detailed) put_requests(out, r);
    buf_putc(out, '}');
}
