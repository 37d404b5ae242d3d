/* bench_engine.c - decode and prefill through include/sluice/sluice.h, without HTTP or text.
 *
 * Decode: B sequences of random prompts; the clock runs from the step that gives the last of them
 * its first token, for output-len further steps, so that every step timed holds B sequences and
 * nothing else. Prompts stay the same from one measurement to the next and come from the prefix
 * cache after the first. Prefill: one fresh prompt, from submission to its first token. One thread
 * here, plus the engine's.
 */
#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/opts.h"
#include "bench/arrivals.h"
#include "bench/bench.h"
#include "bench/quantile.h"
#include "sluice/sluice.h"

enum {
    LIST_MAX = 32,
    POLL_BATCH = 256,
    WARM_UP_STEPS = 8,  /* loads kernels and captures the batch's graph */
    SPARE_STEPS = 512,  /* that this thread may be late by, on a device of microsecond steps */
    PROMPT_ID_MIN = 16, /* below lie special tokens, as a rule */
    JSON_MAX = 4 << 20,
};

struct engine_args {
    const char *batch_size, *n_prompt, *json;
    int64_t input_len, output_len, repetitions;
};

#define AT(field) offsetof(struct engine_args, field)
// clang-format off
static const struct opt_row rows[] = {
    {"batch-size", T_STR, AT(batch_size), "1,8,64", 0, 0, NULL, "engine", "", "sequences that decode together, as a list; none: \"\""},
    {"input-len", T_INT, AT(input_len), "1024", 1, 1 << 24, NULL, "engine", "", "prompt tokens of each sequence"},
    {"output-len", T_INT, AT(output_len), "128", 1, 1 << 20, NULL, "engine", "", "decode steps timed in a repetition"},
    {"n-prompt", T_STR, AT(n_prompt), "512", 0, 0, NULL, "engine", "p", "tokens of prompts whose prefill is timed, as a list; none: \"\""},
    {"repetitions", T_INT, AT(repetitions), "3", 1, 1000, NULL, "engine", "r", "measurements of each"},
    {"json", T_STR, AT(json), NULL, 0, 0, NULL, "engine", "", "write the result to this file, - for standard output"},
};
// clang-format on
enum { N_ROWS = sizeof rows / sizeof *rows };
static enum opt_origin origins[N_ROWS];
static const struct opt_table table = {"sluice bench engine", rows, N_ROWS, origins};

struct tracked { /* one sequence of the measurement at hand */
    sl_req req;
    int64_t n_tokens; /* generated so far */
    int64_t at_start; /* when the clock started */
    bool is_done;
};

struct rig {
    struct engine_args a;
    sl_engine *engine;
    const struct sl_info *info;
    sem_t wake;
    double ready_s;
    uint64_t seed, n_prompts; /* prompts made so far: each gets a stream of its own */
    struct tracked *seq;      /* owned [seq_max] */
    int seq_max;
    int *seq_of; /* owned [n_slots]: engine slot -> index into seq, -1: none */
    uint32_t n_slots;
    struct sl_error e;
    FILE *text;
    struct buf json;
};

/* What one measurement gave. */
struct window {
    double seconds, flops;
    int64_t n_tokens;
    struct sl_stats from, to;
};

static void on_wake(void *arg)
{
    sem_post(arg);
}

/* ------------------------------------------------------------------ sequences */

/* Start seq[i] anew with a prompt of n tokens. */
static int submit(struct rig *r, int i, uint64_t stream, int64_t n, int64_t max_tokens)
{
    int32_t *prompt = xmalloc((size_t)n * sizeof *prompt);
    int32_t least = r->info->n_vocab > 4 * PROMPT_ID_MIN ? PROMPT_ID_MIN : 0;
    for (int64_t k = 0; k < n; k++)
        prompt[k] = least + (int32_t)(mix64(r->seed ^ stream << 32 ^ (uint64_t)k) %
                                      (uint64_t)(r->info->n_vocab - least));
    struct sl_request q = {.prompt = prompt,
                           .n_prompt = (uint32_t)n,
                           .sampling = {.top_p = 1,
                                        .typical_p = 1,
                                        .repetition_penalty = 1,
                                        .max_tokens = (uint32_t)max_tokens,
                                        .n_logprobs = -1,
                                        .n_prompt_logprobs = -1,
                                        .ignore_eos = 1}};
    r->seq[i] = (struct tracked){0};
    int code = sl_submit(r->engine, &q, &r->seq[i].req, &r->e);
    free(prompt);
    uint32_t slot = r->seq[i].req.slot;
    if (code == 0 && slot >= r->n_slots) {
        r->seq_of = xrealloc(r->seq_of, (slot + 1) * sizeof *r->seq_of);
        for (; r->n_slots <= slot; r->n_slots++) r->seq_of[r->n_slots] = -1;
    }
    if (code == 0) r->seq_of[slot] = i;
    return code;
}

static struct tracked *find(struct rig *r, int n, sl_req req)
{
    int i = req.slot < r->n_slots ? r->seq_of[req.slot] : -1;
    return i >= 0 && i < n && r->seq[i].req.gen == req.gen ? &r->seq[i] : NULL;
}

/* Wait for events and count them. SL_EDEVICE when a sequence ended in an error. */
static int take_events(struct rig *r, int n)
{
    struct sl_event ev[POLL_BATCH];
    while (sem_wait(&r->wake) != 0) ASSERT(errno == EINTR);
    for (int got = POLL_BATCH; got == POLL_BATCH;) {
        got = sl_poll(r->engine, ev, POLL_BATCH);
        for (int i = 0; i < got; i++) {
            struct tracked *t = find(r, n, ev[i].req);
            if (!t) continue;
            t->n_tokens += ev[i].kind == SL_EV_TOKEN;
            if (ev[i].kind != SL_EV_DONE) continue;
            t->is_done = true;
            if (ev[i].reason == SL_FINISH_ERROR)
                return sl_fail(&r->e, ev[i].token, "a sequence ended in an error (%s)",
                               sl_err_name(ev[i].token));
        }
    }
    return sl_failed(r->engine) ? sl_fail(&r->e, SL_EDEVICE, "the device has failed") : 0;
}

static int64_t least_tokens(const struct rig *r, int n)
{
    int64_t least = INT64_MAX;
    for (int i = 0; i < n; i++)
        if (r->seq[i].n_tokens < least) least = r->seq[i].n_tokens;
    return least;
}

static bool any_is_done(const struct rig *r, int n)
{
    for (int i = 0; i < n; i++)
        if (r->seq[i].is_done) return true;
    return false;
}

static bool all_are_done(const struct rig *r, int n)
{
    for (int i = 0; i < n; i++)
        if (!r->seq[i].is_done) return false;
    return true;
}

/* ------------------------------------------------------------------ decode */

/* Tokens that the first sequence may get while the last one's prompt is computed. */
static int64_t lead(const struct rig *r, int n)
{
    int64_t room = r->info->max_num_batched_tokens - n;
    int64_t need = (int64_t)n * r->a.input_len;
    return need / (room > 1 ? room : 1) + 4;
}

static int run_window(struct rig *r, int n, int64_t n_steps, struct window *w)
{
    while (least_tokens(r, n) < 1) TRY(take_events(r, n));
    double start = bench_now();
    int64_t goal = least_tokens(r, n) + n_steps;
    sl_get_stats(r->engine, &w->from);
    for (int i = 0; i < n; i++) r->seq[i].at_start = r->seq[i].n_tokens;
    while (least_tokens(r, n) < goal && !any_is_done(r, n)) TRY(take_events(r, n));
    w->seconds = bench_now() - start;
    sl_get_stats(r->engine, &w->to);
    if (least_tokens(r, n) < goal)
        return sl_fail(&r->e, SL_EINTERNAL, "a sequence ended before all were measured");
    w->n_tokens = 0;
    w->flops = 0;
    for (int i = 0; i < n; i++) {
        int64_t first = r->a.input_len + r->seq[i].at_start - 1;
        int64_t made = r->seq[i].n_tokens - r->seq[i].at_start;
        w->n_tokens += made;
        w->flops += sl_flops(r->engine, (uint32_t)first, (uint32_t)(first + made), (uint32_t)made);
    }
    return 0;
}

static int measure_decode(struct rig *r, int n, int64_t n_steps, struct window *w)
{
    for (int i = 0; i < n; i++)
        TRY(submit(r, i, (uint64_t)i, r->a.input_len, n_steps + lead(r, n) + SPARE_STEPS));
    TRY(run_window(r, n, n_steps, w));
    for (int i = 0; i < n; i++) sl_cancel(r->engine, r->seq[i].req);
    while (!all_are_done(r, n)) TRY(take_events(r, n));
    return 0;
}

/* ------------------------------------------------------------------ what is printed */

struct step_times { /* microseconds a step, between two snapshots */
    uint64_t n;
    double mean, p50, p99;
};

static struct step_times times_between(const struct sl_step_times *from,
                                       const struct sl_step_times *to)
{
    uint64_t counts[SL_STEP_BUCKETS];
    double bounds[SL_STEP_BUCKETS - 1];
    struct step_times t = {0};
    for (int i = 0; i < SL_STEP_BUCKETS; i++) {
        counts[i] = to->counts[i] - from->counts[i];
        t.n += counts[i];
        if (i < SL_STEP_BUCKETS - 1) bounds[i] = sl_step_bounds_us[i];
    }
    if (t.n == 0) return t;
    t.mean = (double)(to->sum_ns - from->sum_ns) * 1e-3 / (double)t.n;
    t.p50 = buckets_quantile(bounds, counts, SL_STEP_BUCKETS, 0.5);
    t.p99 = buckets_quantile(bounds, counts, SL_STEP_BUCKETS, 0.99);
    return t;
}

static void put_times(struct buf *out, const char *name, const struct step_times *t)
{
    buf_printf(out, ",\"%s\":", name);
    if (t->n)
        buf_printf(out, "{\"mean\":%.3f,\"p50\":%.3f,\"p99\":%.3f}", t->mean, t->p50, t->p99);
    else
        buf_puts(out, "null");
}

static const char *times_text(const struct step_times *t, char out[48])
{
    if (t->n)
        snprintf(out, 48, "%.1f / %.0f", t->mean, t->p99);
    else
        snprintf(out, 48, "-");
    return out;
}

/* The sum over all repetitions: w[0].from to w[n - 1].to would count what lies between them. */
static void add_stats(struct sl_step_times *from, struct sl_step_times *to,
                      const struct sl_step_times *more_from, const struct sl_step_times *more_to)
{
    for (int i = 0; i < SL_STEP_BUCKETS; i++) {
        from->counts[i] += more_from->counts[i];
        to->counts[i] += more_to->counts[i];
    }
    from->sum_ns += more_from->sum_ns;
    to->sum_ns += more_to->sum_ns;
}

static void report_decode(struct rig *r, int batch, const struct window *w)
{
    struct samples rate = {0};
    struct sl_stats from = {0}, to = {0};
    double seconds = 0, flops = 0, device_us = 0, n_steps = 0, n_tokens = 0;
    char idle_text[48], cpu_text[48];
    for (int64_t i = 0; i < r->a.repetitions; i++) {
        samples_add(&rate, (double)w[i].n_tokens / w[i].seconds);
        seconds += w[i].seconds;
        flops += w[i].flops;
        n_tokens += (double)w[i].n_tokens;
        n_steps += (double)(w[i].to.n_steps - w[i].from.n_steps);
        device_us += (double)(w[i].to.step_us_total - w[i].from.step_us_total);
        add_stats(&from.cpu, &to.cpu, &w[i].from.cpu, &w[i].to.cpu);
        add_stats(&from.idle, &to.idle, &w[i].from.idle, &w[i].to.idle);
    }
    struct step_times cpu = times_between(&from.cpu, &to.cpu),
                      idle = times_between(&from.idle, &to.idle);
    double step_ms = seconds * 1e3 * batch / n_tokens;
    fprintf(r->text, "%-8s %6d %7lld %10.1f %7.1f %10.3f %10.3f %9.2f %16s %16s\n", "decode", batch,
            (long long)r->a.input_len, samples_mean(&rate), samples_deviation(&rate), step_ms,
            device_us * 1e-3 / n_steps, flops / seconds * 1e-12, times_text(&idle, idle_text),
            times_text(&cpu, cpu_text));
    buf_printf(&r->json,
               "%s{\"batch_size\":%d,\"input_len\":%lld,\"output_len\":%lld,"
               "\"tokens_per_second\":%.3f,\"deviation\":%.3f,\"step_ms\":%.4f,"
               "\"device_step_ms\":%.4f,\"tflops\":%.6g",
               r->json.p[r->json.n - 1] == '[' ? "" : ",", batch, (long long)r->a.input_len,
               (long long)r->a.output_len, samples_mean(&rate), samples_deviation(&rate), step_ms,
               device_us * 1e-3 / n_steps, flops / seconds * 1e-12);
    put_times(&r->json, "device_idle_us", &idle);
    put_times(&r->json, "engine_cpu_us", &cpu);
    buf_putc(&r->json, '}');
    samples_free(&rate);
}

static int bench_decode(struct rig *r, int batch)
{
    int64_t longest = r->a.input_len + r->a.output_len + lead(r, batch);
    int64_t pages = (longest + r->info->block_size - 1) / r->info->block_size * batch;
    if (longest + SPARE_STEPS > r->info->max_model_len || pages > r->info->num_blocks) {
        fprintf(r->text,
                "%-8s %6d %7lld  skipped: needs %lld KV pages of %d, and %lld of %d "
                "positions\n",
                "decode", batch, (long long)r->a.input_len, (long long)pages, r->info->num_blocks,
                (long long)longest, r->info->max_model_len);
        return 0;
    }
    struct window *w = xcalloc((size_t)r->a.repetitions, sizeof *w);
    int code = measure_decode(r, batch, WARM_UP_STEPS, &w[0]);
    for (int64_t i = 0; i < r->a.repetitions && code == 0; i++)
        code = measure_decode(r, batch, r->a.output_len, &w[i]);
    if (code == 0) report_decode(r, batch, w);
    free(w);
    return code;
}

/* ------------------------------------------------------------------ prefill */

static int measure_prefill(struct rig *r, int64_t n, struct window *w)
{
    double start = bench_now();
    sl_get_stats(r->engine, &w->from);
    TRY(submit(r, 0, (UINT64_C(1) << 20) + r->n_prompts++, n, 1));
    while (!r->seq[0].is_done) TRY(take_events(r, 1));
    w->seconds = bench_now() - start;
    sl_get_stats(r->engine, &w->to);
    return 0;
}

static int bench_prefill(struct rig *r, int64_t n)
{
    struct samples rate = {0};
    struct window w = {0};
    double seconds = 0, device_us = 0, n_steps = 0, n_times = (double)r->a.repetitions;
    double flops = sl_flops(r->engine, 0, (uint32_t)n, 1);
    int code = 0;
    if (n >= r->info->max_model_len) {
        fprintf(r->text, "%-8s %6d %7lld  skipped: %d positions\n", "prefill", 1, (long long)n,
                r->info->max_model_len);
        return 0;
    }
    for (int64_t i = -1; i < r->a.repetitions && code == 0; i++) { /* the first warms up */
        code = measure_prefill(r, n, &w);
        if (i < 0) continue;
        samples_add(&rate, (double)n / w.seconds);
        seconds += w.seconds / n_times;
        device_us += (double)(w.to.step_us_total - w.from.step_us_total) / n_times;
        n_steps += (double)(w.to.n_steps - w.from.n_steps) / n_times;
    }
    if (code == 0) {
        fprintf(r->text, "%-8s %6d %7lld %10.1f %7.1f %10.3f %10.3f %9.2f\n", "prefill", 1,
                (long long)n, samples_mean(&rate), samples_deviation(&rate), seconds * 1e3,
                device_us * 1e-3, flops / seconds * 1e-12);
        buf_printf(&r->json,
                   "%s{\"n_prompt\":%lld,\"tokens_per_second\":%.3f,\"deviation\":%.3f,"
                   "\"ms\":%.4f,\"device_ms\":%.4f,\"steps\":%g,\"tflops\":%.6g}",
                   r->json.p[r->json.n - 1] == '[' ? "" : ",", (long long)n, samples_mean(&rate),
                   samples_deviation(&rate), seconds * 1e3, device_us * 1e-3, n_steps,
                   flops / seconds * 1e-12);
    }
    samples_free(&rate);
    return code;
}

/* ------------------------------------------------------------------ the whole */

static void print_head(struct rig *r, const char *command)
{
    const struct sl_info *i = r->info;
    fprintf(r->text,
            "%s %.2fB %s on %s, ready in %.2f s; KV %d pages of %d tokens, %d tokens a step\n",
            i->model_type, (double)i->n_parameters * 1e-9, i->weight_types, i->device, r->ready_s,
            i->num_blocks, i->block_size, i->max_num_batched_tokens);
    fprintf(r->text, "%-8s %6s %7s %10s %7s %10s %10s %9s %16s %16s\n", "", "batch", "tokens",
            "tok/s", "+-", "ms", "device ms", "TFLOP/s", "idle us /p99", "engine us /p99");
    buf_putc(&r->json, '{');
    bench_put_origin(&r->json, command);
    buf_puts(&r->json, ",\"model\":");
    json_put_str(&r->json, str_of(i->model_type));
    buf_printf(&r->json,
               ",\"device\":\"%s\",\"weight_types\":\"%s\",\"parameters\":%llu,\"weight_bytes\":"
               "%llu,\"kv_pages\":%d,\"block_size\":%d,\"max_num_batched_tokens\":%d,"
               "\"repetitions\":%lld,\"ready_seconds\":%.3f,\"decode\":[",
               i->device, i->weight_types, (unsigned long long)i->n_parameters,
               (unsigned long long)i->weight_bytes, i->num_blocks, i->block_size,
               i->max_num_batched_tokens, (long long)r->a.repetitions, r->ready_s);
}

struct plan_lists {
    int64_t batch[LIST_MAX], prompt[LIST_MAX];
    int n_batch, n_prompt;
};

static int run(struct rig *r, const struct plan_lists *l, const char *command)
{
    int code = 0;
    print_head(r, command);
    for (int i = 0; i < l->n_batch && code == 0; i++) code = bench_decode(r, (int)l->batch[i]);
    buf_puts(&r->json, "],\"prefill\":[");
    for (int i = 0; i < l->n_prompt && code == 0; i++) code = bench_prefill(r, l->prompt[i]);
    buf_puts(&r->json, "]}");
    if (code == 0 && r->a.json) code = bench_write_json(&r->json, r->a.json, &r->e);
    return code;
}

static int open_rig(struct rig *r, const struct options *o, const struct plan_lists *l)
{
    struct sl_options q = opts_engine(o);
    double start = bench_now();
    int64_t largest = 1;
    for (int i = 0; i < l->n_batch; i++)
        if (l->batch[i] > largest) largest = l->batch[i];
    r->seq_max = (int)largest;
    r->seed = mix64((uint64_t)o->seed + 1);
    if (!q.max_num_seqs) q.max_num_seqs = (int32_t)largest;
    q.enable_prefix_caching = 1;
    q.wake = on_wake;
    q.wake_arg = &r->wake;
    TRY(sl_open(&r->engine, &q, &r->e));
    r->ready_s = bench_now() - start;
    r->info = sl_get_info(r->engine);
    if (r->info->max_num_seqs < largest)
        return sl_fail(&r->e, SL_EINVAL, "--max-num-seqs %d is less than a batch of %lld",
                       r->info->max_num_seqs, (long long)largest);
    r->seq = xcalloc((size_t)r->seq_max, sizeof *r->seq);
    return 0;
}

static int read_args(struct rig *r, struct options *o, struct plan_lists *l, int argc, char **argv)
{
    bool help;
    TRY(opt_set_defaults(&table, &r->a, &r->e));
    argc = opt_take_flags(&table, &r->a, argc, argv, &r->e);
    TRY(argc);
    TRY(opts_parse(o, argc, argv, &help, &r->e));
    if (!o->model && strcmp(o->device, "sim") != 0)
        return sl_fail(&r->e, SL_EINVAL, "which model? sluice bench engine FOLDER-OR-FILE.gguf");
    l->n_batch = bench_read_list(r->a.batch_size, 65536, l->batch, LIST_MAX, &r->e);
    TRY(l->n_batch);
    l->n_prompt = bench_read_list(r->a.n_prompt, 1 << 24, l->prompt, LIST_MAX, &r->e);
    return l->n_prompt;
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "-h") == 0 || strncmp(argv[i], "--help", 6) == 0) return true;
    return false;
}

int bench_engine(int argc, char **argv, const char *command)
{
    struct rig r = {.json = buf_make(JSON_MAX)};
    struct options o;
    struct plan_lists lists;
    if (wants_help(argc, argv)) {
        printf("usage: sluice bench engine MODEL [flags]\n\n");
        for (int i = 0; i < N_ROWS; i++) opt_put_row(stdout, &rows[i]);
        printf("\nAnd every option of the engine: sluice serve --help=model, =device, =schedule\n");
        return EXIT_SUCCESS;
    }
    if (read_args(&r, &o, &lists, argc, argv) < 0) {
        fprintf(stderr, "sluice: error: %s\n", r.e.text);
        return BENCH_USAGE;
    }
    log_setup(LOG_WARN, LOG_TEXT);
    setvbuf(stdout, NULL, _IOLBF, 0);
    r.text = r.a.json && strcmp(r.a.json, "-") == 0 ? stderr : stdout;
    ASSERT(sem_init(&r.wake, 0, 0) == 0);
    int code = open_rig(&r, &o, &lists);
    if (code == 0) code = run(&r, &lists, command);
    if (code < 0) fprintf(stderr, "sluice: error: %s\n", r.e.text);
    sl_close(r.engine);
    sem_destroy(&r.wake);
    buf_free(&r.json);
    free(r.seq);
    free(r.seq_of);
    return code < 0 ? BENCH_FAILED : EXIT_SUCCESS;
}
