/* test_workload.c - lengths, prompts and traces: what is asked is what the flags say. */
#include "bench/workload.h"

#include <unistd.h>

#include "base/json.h"
#include "base/test.h"

static const char path[] = "/tmp/sluice_test_workload";

static void put_file(const char *text)
{
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0);
    if (f) fclose(f);
}

static struct target nowhere; /* no call reaches it: port 0 */

static struct workload_plan plan_of(struct serve_args *a, int argc, const char **argv)
{
    struct sl_error e = {0};
    bool help;
    CHECK_MSG(serve_args_read(a, argc, (char **)(uintptr_t)argv, &help, &e) == 0, "%s", e.text);
    nowhere.addr.ss_family = AF_INET;
    nowhere.addr_len = sizeof(struct sockaddr_in);
    return (struct workload_plan){.args = a,
                                  .target = &nowhere,
                                  .model = "m",
                                  .n = (size_t)a->num_prompts,
                                  .seed = (uint64_t)a->seed,
                                  .n_vocab = 1000};
}
#define PLAN(a, ...)                                                                               \
    plan_of(a, (int)(sizeof(const char *[]){__VA_ARGS__} / sizeof(char *)),                        \
            (const char *[]){__VA_ARGS__})

/* The parsed body of a request; its HTTP head is checked. */
static struct json_doc *body_of(const struct workload_plan *p, const struct request_spec *s)
{
    struct buf out;
    struct sl_error e = {0};
    struct json_doc *doc = NULL;
    CHECK(workload_put_request(p, s, &out, &e) == 0);
    const char *text = buf_cstr(&out), *body = strstr(text, "\r\n\r\n"),
               *length = strstr(text, "Content-Length: ");
    CHECK(strncmp(text, "POST /v1/", 9) == 0 && body && length);
    if (body && length) {
        CHECK(strlen(body + 4) == strtoul(length + 16, NULL, 10));
        CHECK_MSG(json_parse(&doc, body + 4, strlen(body + 4), &json_limits_request, &e) == 0, "%s",
                  e.text);
    }
    buf_free(&out);
    return doc;
}

static void ids_of(const struct workload_plan *p, const struct request_spec *s, int64_t *out,
                   size_t max)
{
    struct json_doc *doc = body_of(p, s);
    size_t n = 0;
    for (const json_node *c = json_child(json_get(json_root(doc), "prompt")); c && n < max;
         c = json_next(c)) {
        out[n++] = json_int(c);
        CHECK(out[n - 1] >= 0 && out[n - 1] < p->n_vocab);
    }
    CHECK(n == (size_t)s->n_prompt || n == max);
    json_free(doc);
}

TEST(random_lengths)
{
    static const struct {
        const char *ratio, *meaning;
        int low, high; /* of lengths around 1000 */
    } rows[] = {{"0", "vllm", 1000, 1000},
                {"0.2", "vllm", 800, 1200},
                {"0.8", "inferencemax", 800, 1000},
                {"-1", "inferencemax", 1000, 1000}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct serve_args a;
        struct workload w;
        struct workload_plan p =
            PLAN(&a, "--input-len", "1000", "--output-len", "1000", "--num-prompts", "4000",
                 "--random-range-ratio", rows[i].ratio, "--random-range-meaning", rows[i].meaning);
        int low = 1 << 20, high = 0;
        double sum = 0;
        CHECK(workload_open(&w, &p, NULL) == 0 && w.n == 4000);
        for (size_t k = 0; k < w.n; k++) {
            int n = w.specs[k].n_prompt;
            if (n < low) low = n;
            if (n > high) high = n;
            sum += w.specs[k].n_output;
            CHECK(w.specs[k].n_output >= rows[i].low && w.specs[k].n_output <= rows[i].high);
        }
        int slack = (rows[i].high - rows[i].low) / 50;
        CHECK_MSG(low >= rows[i].low && low <= rows[i].low + slack, "%d", low);
        CHECK_MSG(high <= rows[i].high && high >= rows[i].high - slack, "%d", high);
        CHECK(abs((int)(sum / 4000) - (rows[i].low + rows[i].high) / 2) <= slack);
        workload_close(&w);
    }
}

TEST(prompts)
{
    struct serve_args a;
    struct workload w;
    int64_t x[64], y[64], z[64];
    struct workload_plan p =
        PLAN(&a, "--input-len", "50", "--random-prefix-len", "14", "--num-prompts", "2",
             "--ignore-eos", "--extra-body", "{\"top_p\":0.5,\"x\":[1]}");
    CHECK(workload_open(&w, &p, NULL) == 0 && w.specs[0].n_prompt == 64);
    ids_of(&p, &w.specs[0], x, 64);
    ids_of(&p, &w.specs[1], y, 64);
    CHECK(memcmp(x, y, 14 * sizeof *x) == 0 && memcmp(x + 14, y + 14, 50 * sizeof *x) != 0);
    p.seed = 77; /* another run: the shared prefix stays, the rest does not */
    ids_of(&p, &w.specs[0], z, 64);
    CHECK(memcmp(x, z, 14 * sizeof *x) == 0 && memcmp(x + 14, z + 14, 50 * sizeof *x) != 0);
    struct json_doc *doc = body_of(&p, &w.specs[0]);
    const json_node *root = json_root(doc);
    CHECK(json_type(json_get(root, "ignore_eos")) == JSON_TRUE &&
          json_int(json_get(root, "max_tokens")) == 128);
    CHECK(json_type(json_get(json_get(root, "stream_options"), "include_usage")) == JSON_TRUE);
    CHECK(json_num(json_get(root, "top_p")) == 0.5 && json_len(json_get(root, "x")) == 1);
    json_free(doc);
    workload_close(&w);
    p = PLAN(&a, "--backend", "openai-chat", "--input-len", "50", "--num-prompts", "1",
             "--no-stream");
    CHECK(workload_open(&w, &p, NULL) == 0);
    doc = body_of(&p, &w.specs[0]);
    const json_node *message = json_child(json_get(json_root(doc), "messages"));
    struct str text = json_str(json_get(message, "content"));
    int n_words = 1;
    for (size_t i = 0; i < text.n; i++) n_words += text.p[i] == ' ';
    CHECK(n_words == 50 && !json_get(json_root(doc), "stream"));
    json_free(doc);
    workload_close(&w);
}

TEST(azure)
{
    struct serve_args a;
    struct workload w;
    struct sl_error e;
    struct workload_plan p = PLAN(&a, "--dataset-name", "azure", "--dataset-path", path,
                                  "--slowdown-factor", "2", "--max-total-len", "500");
    put_file("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 "
             "23:59:59.5000000,374,44\n2023-11-17 00:00:01.0000000,400,109\n"
             "2023-11-17 00:00:02.2500000,10,7\n");
    p.max_total_len = a.max_total_len;
    CHECK(workload_open(&w, &p, &e) == 0 && w.n == 2 && w.n_left_out == 1);
    CHECK(w.specs[0].n_prompt == 374 && w.specs[0].n_output == 44 && w.specs[0].at == 0);
    CHECK(w.specs[1].n_prompt == 10 && w.specs[1].at > 5.4999 && w.specs[1].at < 5.5001);
    workload_close(&w);
    put_file("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16,1,2\n");
    CHECK(workload_open(&w, &p, &e) == SL_EFORMAT && strstr(e.text, "line 2"));
    workload_close(&w);
    unlink(path);
    CHECK(workload_open(&w, &p, &e) == SL_EIO);
    workload_close(&w);
}

TEST(mooncake)
{
    struct serve_args a;
    struct workload w;
    struct sl_error e;
    static int64_t x[1100], y[1100];
    struct workload_plan p = PLAN(&a, "--dataset-name", "mooncake", "--dataset-path", path);
    put_file(
        "{\"timestamp\":1000,\"input_length\":1100,\"output_length\":5,\"hash_ids\":[0,7,8]}\n\n"
        "{\"timestamp\":2500,\"input_length\":1030,\"output_length\":9,\"hash_ids\":[0,7,9]}\n");
    CHECK(workload_open(&w, &p, &e) == 0 && w.n == 2 && w.specs[1].at == 1.5);
    ids_of(&p, &w.specs[0], x, 1100);
    ids_of(&p, &w.specs[1], y, 1100);
    CHECK(memcmp(x, y, 1024 * sizeof *x) == 0 && memcmp(x + 1024, y + 1024, 6 * sizeof *x) != 0);
    CHECK(memcmp(x, x + 512, 512 * sizeof *x) != 0);
    workload_close(&w);
    static const char *const bad[] = {
        "{\"timestamp\":1,\"input_length\":1100,\"output_length\":5,\"hash_ids\":[0]}\n",
        "{\"input_length\":-3}\n", "nonsense\n",
        "{\"timestamp\":1,\"input_length\":1e99,\"output_length\":5,\"hash_ids\":[]}\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_file(bad[i]);
        CHECK_MSG(workload_open(&w, &p, &e) == SL_EFORMAT, "%s", bad[i]);
        workload_close(&w);
    }
    unlink(path);
}

/* Without a server that counts tokens, four bytes are one. */
TEST(sharegpt)
{
    struct serve_args a;
    struct workload w;
    struct sl_error e;
    struct workload_plan p =
        PLAN(&a, "--dataset-name", "sharegpt", "--dataset-path", path, "--num-prompts", "10");
    put_file("[{\"conversations\":[{\"value\":\"a question of forty bytes, or "
             "thereabout\"},{\"value\":\"twenty bytes or some\"}]},"
             "{\"conversations\":[{\"value\":\"only one turn, and so of no use\"}]},"
             "{\"conversations\":[{\"value\":\"short\"},{\"value\":\"twenty bytes or some\"}]},"
             "{\"conversations\":[{\"value\":\"a question of forty bytes, or "
             "thereabout\"},{\"value\":7}]},{}]");
    CHECK(workload_open(&w, &p, &e) == 0 && w.n == 1 && w.n_left_out == 4 && w.is_estimated);
    CHECK(w.specs[0].n_prompt == 10 && w.specs[0].n_output == 5 &&
          strncmp(w.specs[0].text, "a question", 10) == 0);
    struct json_doc *doc = body_of(&p, &w.specs[0]);
    CHECK(json_str(json_get(json_root(doc), "prompt")).n == strlen(w.specs[0].text));
    json_free(doc);
    workload_close(&w);
    put_file("[");
    CHECK(workload_open(&w, &p, &e) < 0);
    workload_close(&w);
    unlink(path);
}

TEST(flags)
{
    static const struct {
        const char *argv[3], *says;
    } rows[] = {
        {{"--request-rate", "0"}, "positive"},
        {{"--request-rate", "1,x"}, "positive"},
        {{"--goodput", "ttft:x"}, "ttft:MS"},
        {{"--goodput", "speed:1"}, "ttft:MS"},
        {{"--burstines", "1"}, "--burstiness"},
        {{"--dataset-name", "azure"}, "--dataset-path"},
        {{"--endpoint", "x"}, "slash"},
        {{"model"}, "--model"},
        {{"--random-range-ratio", "-0.5"}, "0 to 1"},
        {{"--use-trace-timestamps"}, "a trace"},
        {{"--save-detailed"}, "--json"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct serve_args a;
        struct sl_error e = {0};
        bool help;
        int argc = rows[i].argv[1] ? 2 : 1;
        CHECK(serve_args_read(&a, argc, (char **)(uintptr_t)rows[i].argv, &help, &e) == SL_EINVAL);
        CHECK_MSG(strstr(e.text, rows[i].says), "%s", e.text);
    }
    struct serve_args a;
    PLAN(&a, "--goodput", "ttft:500", "tpot:30.5", "--request-rate", "1,2.5,inf",
         "--max_concurrency=4");
    CHECK(a.slo_ttft_ms == 500 && a.slo_tpot_ms == 30.5 && a.has_slo && a.n_rates == 3 &&
          a.rates[1] == 2.5 && a.max_concurrency == 4);
}
