/* bench_serve.c - `sluice bench serve`: ask the server, warm up, run each rate, judge, report.
 *
 * Protocols: performance figures of serving benchmarks compare only when arrivals, lengths and
 * warm-ups are the same, so all of them follow vLLM's benchmark (serve_args.c names the flags). A
 * run that this client limited is refused rather than reported.
 */
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "base/json.h"
#include "bench/bench.h"
#include "bench/serve_report.h"
#include "bench/workload.h"

enum {
    ASK_SECONDS = 10,
    PROBE_TOKENS = 8, /* of the one request that shows whether this can work at all */
    JSON_MAX = 1 << 30,
    VOCAB_DEFAULT = 10000, /* below nearly every model's */
};
static const uint64_t WARM_UP_SEED = UINT64_C(0x5743524d), PROBE_SEED = UINT64_C(0x50524f42);
static const double BYTES_MAX = 8e9; /* of all requests, made before the first is sent */

struct bench {
    struct serve_args a;
    struct target target;
    struct target_facts facts;
    const char *model;
    struct sl_error e;
    FILE *text;
    struct buf json;
};

/* ------------------------------------------------------------------ one load */

struct material { /* what a load is made of */
    struct workload work;
    struct job *jobs; /* owned [work.n] */
    struct outcome *outcomes;
};

static void material_free(struct material *m)
{
    for (size_t i = 0; m->jobs && i < m->work.n; i++) buf_free(&m->jobs[i].bytes);
    free(m->jobs);
    free(m->outcomes);
    workload_close(&m->work);
}

/* max_output: tokens to generate at most. */
static int material_make(struct material *m, struct bench *b, uint64_t seed, size_t n,
                         int32_t max_output)
{
    const struct serve_args *a = &b->a;
    struct workload_plan p = {.args = a,
                              .target = &b->target,
                              .model = b->model,
                              .n = n,
                              .seed = seed,
                              .max_total_len =
                                  a->max_total_len ? a->max_total_len : b->facts.max_model_len,
                              .n_vocab = a->vocab_size ? a->vocab_size : b->facts.n_vocab};
    double bytes = 0;
    if (!p.n_vocab) p.n_vocab = VOCAB_DEFAULT;
    *m = (struct material){0};
    TRY(workload_open(&m->work, &p, &b->e));
    m->jobs = xcalloc(m->work.n, sizeof *m->jobs);
    m->outcomes = xcalloc(m->work.n, sizeof *m->outcomes);
    for (size_t i = 0; i < m->work.n; i++) {
        struct request_spec *s = &m->work.specs[i];
        if (s->n_output > max_output) s->n_output = max_output;
        m->jobs[i] = (struct job){.at = s->at, .n_prompt = s->n_prompt, .n_output = s->n_output};
        TRY(workload_put_request(&p, s, &m->jobs[i].bytes, &b->e));
        bytes += (double)m->jobs[i].bytes.n;
        if (bytes > BYTES_MAX)
            return sl_fail(&b->e, SL_ETOOLARGE,
                           "the requests take more than 8 GB: fewer "
                           "--num-prompts");
    }
    return 0;
}

static struct load load_of(const struct bench *b, const struct material *m)
{
    return (struct load){.target = &b->target,
                         .jobs = m->jobs,
                         .outcomes = m->outcomes,
                         .n = m->work.n,
                         .n_threads = (int)b->a.num_threads,
                         .max_concurrency = (int)b->a.max_concurrency,
                         .is_stream = b->a.stream,
                         .timeout = b->a.timeout};
}

/* Requests whose times do not count. All must succeed: what fails here would fail there. */
static int run_uncounted(struct bench *b, uint64_t seed, size_t n, int32_t max_output,
                         const char *what)
{
    struct material m;
    struct load_result r = {0};
    int code = material_make(&m, b, seed, n, max_output);
    if (code == 0) {
        struct load l = load_of(b, &m);
        code = load_run(&l, &r, &b->e);
    }
    for (size_t i = 0; code == 0 && i < m.work.n; i++) {
        int error = m.outcomes[i].error;
        if (error)
            code = sl_fail(&b->e, SL_EIO, "%s failed (%s): %s", what, load_error_names[error],
                           r.example[error]);
    }
    samples_free(&r.gaps);
    material_free(&m);
    return code;
}

/* ------------------------------------------------------------------ a rate */

static void set_arrivals(const struct bench *b, struct run *r, struct material *m, struct load *l)
{
    struct rng rng = {mix64(r->seed + 7)};
    double *at;
    l->is_paced = b->a.use_trace_timestamps || isfinite(r->rate);
    if (b->a.use_trace_timestamps) return;
    at = xcalloc(m->work.n, sizeof *at);
    arrivals_open_loop(&rng, r->rate, b->a.burstiness, at, m->work.n);
    for (size_t i = 0; i < m->work.n; i++) m->jobs[i].at = at[i];
    free(at);
}

struct verdict {
    bool is_refused, has_failures, is_diverging;
    double p99_ttft;
};

/* The queue grows without end: it no longer keeps up, and the first tokens come ever later. */
static bool diverges(const struct run *r, const struct summary *s, double p99_before)
{
    double p99 = samples_quantile(&s->ttft, 0.99);
    bool is_behind = isfinite(r->rate) && (double)s->n_ok / r->result.seconds < 0.9 * r->rate;
    return is_behind && p99_before > 0 && p99 > 2 * p99_before;
}

static void report(struct bench *b, struct run *r, struct buf *table, struct verdict *v)
{
    struct summary s;
    char *text = NULL;
    size_t n = 0;
    summary_make(&s, r);
    report_text(b->text, r, &s);
    if (b->json.p[b->json.n - 1] != '[') buf_putc(&b->json, ',');
    report_json(&b->json, r, &s);
    FILE *f = open_memstream(&text, &n);
    if (f) {
        report_line(f, r, &s);
        fclose(f);
        buf_put(table, text, n);
        free(text);
    }
    v->is_refused |= s.refused[0] != '\0';
    v->has_failures |= s.n_failed > 0;
    v->is_diverging = diverges(r, &s, v->p99_ttft);
    v->p99_ttft = samples_quantile(&s.ttft, 0.99);
    summary_free(&s);
}

static int run_rate(struct bench *b, int index, struct buf *table, struct verdict *v)
{
    struct run r = {.args = &b->a,
                    .rate = b->a.rates[index],
                    .seed = (uint64_t)b->a.seed + (uint64_t)index * 1000003u};
    struct material m;
    size_t n = (size_t)b->a.num_prompts;
    bool is_sweep = b->a.n_rates > 1;
    if (is_sweep && isfinite(r.rate)) n = (size_t)ceil(r.rate * b->a.sweep_seconds);
    int code = material_make(&m, b, r.seed, n ? n : 1, INT32_MAX);
    if (code == 0) {
        struct load l = load_of(b, &m);
        r.load = &l;
        r.n_left_out = m.work.n_left_out;
        r.is_estimated = m.work.is_estimated;
        set_arrivals(b, &r, &m, &l);
        if (b->a.server_metrics) scrape(&b->target, &r.before);
        code = load_run(&l, &r.result, &b->e);
        if (b->a.server_metrics) scrape(&b->target, &r.after);
        if (code == 0) report(b, &r, table, v);
    }
    samples_free(&r.result.gaps);
    buf_free(&r.before);
    buf_free(&r.after);
    material_free(&m);
    return code;
}

/* ------------------------------------------------------------------ the whole */

static int wait_ready(struct bench *b)
{
    double end = bench_now() + (double)b->a.ready_timeout;
    for (;;) {
        int code = target_ask(&b->target, ASK_SECONDS, &b->facts, &b->e);
        if (code == 0 || bench_now() >= end) return code;
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
}

static void put_json_head(struct bench *b, const char *command)
{
    const struct serve_args *a = &b->a;
    struct buf *out = &b->json;
    buf_putc(out, '{');
    bench_put_origin(out, command);
    buf_printf(out, ",\"backend\":\"%s\",\"endpoint\":", a->backend);
    json_put_str(out, str_of(a->path));
    buf_puts(out, ",\"model_id\":");
    json_put_str(out, str_of(b->model));
    buf_printf(out,
               ",\"dataset\":\"%s\",\"input_len\":%lld,\"output_len\":%lld,\"prefix_len\":%lld,"
               "\"range_ratio\":%g,\"range_meaning\":\"%s\",\"burstiness\":%g,"
               "\"max_concurrency\":%lld,\"num_warmups\":%lld,\"seed\":%lld,\"ignore_eos\":%s,"
               "\"temperature\":%g,\"stream\":%s,\"num_threads\":%lld,\"runs\":[",
               a->dataset_name, (long long)a->input_len, (long long)a->output_len,
               (long long)a->prefix_len, a->range_ratio, a->range_meaning, a->burstiness,
               (long long)a->max_concurrency, (long long)a->num_warmups, (long long)a->seed,
               a->ignore_eos ? "true" : "false", a->temperature, a->stream ? "true" : "false",
               (long long)a->num_threads);
}

static int run_all(struct bench *b, const char *command, struct verdict *v)
{
    struct buf table = buf_make(1 << 20);
    int code = 0, n = 0;
    TRY(wait_ready(b));
    b->model = b->a.model ? b->a.model : b->facts.model;
    if (!b->model[0]) return sl_fail(&b->e, SL_EINVAL, "/v1/models names no model: give --model");
    put_json_head(b, command);
    TRY(run_uncounted(b, (uint64_t)b->a.seed ^ PROBE_SEED, 1, PROBE_TOKENS, "a first request"));
    if (b->a.num_warmups)
        TRY(run_uncounted(b, (uint64_t)b->a.seed ^ WARM_UP_SEED, (size_t)b->a.num_warmups,
                          INT32_MAX, "a warm-up"));
    for (; n < b->a.n_rates && code == 0 && !v->is_diverging; n++) code = run_rate(b, n, &table, v);
    buf_puts(&b->json, "]}");
    if (n > 1) {
        report_line(b->text, NULL, NULL);
        fputs(buf_cstr(&table), b->text);
        if (v->is_diverging)
            fprintf(b->text, "the TTFT diverges at a rate of %g: the sweep ends here\n",
                    b->a.rates[n - 1]);
    }
    buf_free(&table);
    if (code == 0 && b->a.json) code = bench_write_json(&b->json, b->a.json, &b->e);
    return code;
}

int bench_serve(int argc, char **argv, const char *command)
{
    struct bench b = {.json = buf_make(JSON_MAX)};
    struct verdict v = {0};
    bool help;
    if (serve_args_read(&b.a, argc, argv, &help, &b.e) < 0) {
        fprintf(stderr, "sluice: error: %s\n", b.e.text);
        return BENCH_USAGE;
    }
    if (help) return EXIT_SUCCESS;
    setvbuf(stdout, NULL, _IOLBF, 0);
    b.text = b.a.json && strcmp(b.a.json, "-") == 0 ? stderr : stdout;
    int code = target_open(&b.target, &b.a, &b.e);
    if (code == 0) code = run_all(&b, command, &v);
    if (code < 0) fprintf(stderr, "sluice: error: %s\n", b.e.text);
    target_close(&b.target);
    buf_free(&b.json);
    if (v.is_refused) return BENCH_REFUSED;
    return code < 0 || v.has_failures ? BENCH_FAILED : EXIT_SUCCESS;
}
