/* test_metrics.c - histograms count right, and the text is well-formed Prometheus 0.0.4. */
#include "server/metrics.h"

#include "base/test.h"

static const char *text_of(const struct metrics *m, struct buf *out)
{
    static const struct sl_stats stats = {
        .n_running = 3,
        .pages_total = 8,
        .pages_used = 2,
        .cpu = {.counts = {[1] = 4, [SL_STEP_BUCKETS - 1] = 1}, .sum_ns = 2500000000}};
    static const struct sl_info info = {.block_size = 16, .num_blocks = 8};
    struct metrics_view v = {.model_name = "a\"b\\c\nd", .stats = &stats, .info = &info};
    metrics_text(m, &v, out);
    return buf_cstr(out);
}

TEST(values)
{
    static struct metrics m;
    struct buf out = buf_make(1 << 20);
    metrics_observe(&m, HIST_TTFT, 0.001); /* on the bound: inside */
    metrics_observe(&m, HIST_TTFT, 0.0011);
    metrics_observe(&m, HIST_TTFT, 1e9);
    metrics_observe(&m, HIST_ITERATION, 100000);
    metrics_http(&m, 0, 200);
    metrics_http(&m, 0, 418); /* a status outside the list counts as 0 */
    metrics_http(&m, -1, 404);
    m.n_finished[SL_FINISH_STOP] = 7;
    const char *t = text_of(&m, &out);
#define L "engine=\"0\",model_name=\"a\\\"b\\\\c\\nd\""
    static const char *const lines[] = {
        "\nvllm:num_requests_running{" L "} 3\n",
        "\nvllm:kv_cache_usage_perc{" L "} 0.25\n",
        "\nvllm:time_to_first_token_seconds_bucket{" L ",le=\"0.001\"} 1\n",
        "\nvllm:time_to_first_token_seconds_bucket{" L ",le=\"0.005\"} 2\n",
        "\nvllm:time_to_first_token_seconds_bucket{" L ",le=\"2560\"} 2\n",
        "\nvllm:time_to_first_token_seconds_bucket{" L ",le=\"+Inf\"} 3\n",
        "\nvllm:time_to_first_token_seconds_count{" L "} 3\n",
        "\nvllm:iteration_tokens_total_bucket{" L ",le=\"16384\"} 0\n",
        "\nvllm:iteration_tokens_total_bucket{" L ",le=\"+Inf\"} 1\n",
        "\nvllm:request_success_total{" L ",finished_reason=\"stop\"} 7\n",
        "\nsluice:http_requests_total{" L ",route=\"/chat/completions\",status=\"200\"} 1\n",
        "\nsluice:http_requests_total{" L ",route=\"other\",status=\"404\"} 1\n",
        "\n# TYPE vllm:request_success_total counter\n",
        "\nsluice:engine_step_cpu_seconds_bucket{" L ",le=\"1e-06\"} 0\n",
        "\nsluice:engine_step_cpu_seconds_bucket{" L ",le=\"2e-06\"} 4\n",
        "\nsluice:engine_step_cpu_seconds_bucket{" L ",le=\"0.1\"} 4\n",
        "\nsluice:engine_step_cpu_seconds_bucket{" L ",le=\"+Inf\"} 5\n",
        "\nsluice:engine_step_cpu_seconds_sum{" L "} 2.5\n",
        "\nsluice:device_idle_seconds_count{" L "} 0\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        CHECK_MSG(strstr(t, lines[i]), "%s", lines[i]);
    buf_free(&out);
}

/* HELP and TYPE once a family, in front of its samples. */
TEST(families)
{
    static struct metrics m;
    struct buf out = buf_make(1 << 20);
    char family[128] = "";
    for (const char *p = text_of(&m, &out); *p; p = strchr(p, '\n') + 1) {
        char name[128] = "";
        if (sscanf(p, "# HELP %127s ", name) == 1) {
            snprintf(family, sizeof family, "%s", name);
        } else if (sscanf(p, "# TYPE %127s ", name) == 1) {
            CHECK(strcmp(name, family) == 0);
        } else {
            CHECK_MSG(strncmp(p, family, strlen(family)) == 0, "%s: %.60s", family, p);
        }
    }
    buf_free(&out);
}

TEST(steps)
{
    static struct metrics m;
    struct sl_stats a = {.n_steps = 2, .prompt_tokens = 60, .generation_tokens = 4};
    metrics_steps(&m, &a);
    CHECK(m.hist[HIST_ITERATION].sum == 64);
    metrics_steps(&m, &a); /* no step: nothing */
    CHECK(m.hist[HIST_ITERATION].sum == 64);
    uint64_t n = 0;
    for (int i = 0; i <= HISTOGRAM_MAX; i++) n += m.hist[HIST_ITERATION].counts[i];
    CHECK(n == 2);
}
