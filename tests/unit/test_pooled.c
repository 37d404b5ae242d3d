/* test_pooled.c - vectors instead of tokens, on the cpu device: against a numpy reference
 * (tests/tools/make_pooled_golden.py), and the same bits alone, in batches with generation beside
 * them, in chunks, with tiny page pools that force preemption, with a warm prefix cache.
 */
#include <math.h>
#include <unistd.h>

#include "base/json.h"
#include "base/test.h"
#include "sluice/sluice.h"

enum { WIDTH = 64, N_REQUESTS = 90, PROMPT_MAX = 90, GOLDEN_MAX = 64 };

/* Of a component; KV pages hold float16. */
static const double TOLERANCE = 0.004;

static sl_engine *open_engine(const char *model, struct sl_options o)
{
    static char path[512];
    sl_engine *g = NULL;
    struct sl_error e = {0};
    snprintf(path, sizeof path, "%s/models/%s", TEST_DATA, model);
    o.model = path;
    o.device = "cpu";
    o.gpu_memory_utilization = 0.5;
    o.tensor_parallel_size = 1;
    o.max_model_len = 160;
    int code = sl_open(&g, &o, &e);
    CHECK_MSG(code == 0, "%s", e.text);
    return g;
}

static struct sl_sampling plain(uint32_t max_tokens)
{
    return (struct sl_sampling){.top_p = 1,
                                .typical_p = 1,
                                .repetition_penalty = 1,
                                .n_logprobs = -1,
                                .n_prompt_logprobs = -1,
                                .ignore_eos = 1,
                                .max_tokens = max_tokens};
}

/* ------------------------------------------------------------------ the reference */

static void pool_one(sl_engine *g, const struct sl_request *r, float out[WIDTH])
{
    sl_req id;
    struct sl_error e = {0};
    struct sl_event ev = {0};
    int code = sl_submit(g, r, &id, &e);
    CHECK_MSG(code == 0, "%s", e.text);
    while (code == 0 && ev.kind != SL_EV_DONE)
        if (sl_poll(g, &ev, 1) == 0) usleep(50);
    CHECK(ev.reason == SL_FINISH_LENGTH && ev.pooled != NULL);
    if (ev.pooled) memcpy(out, ev.pooled, WIDTH * sizeof *out);
}

static int read_ids(const json_node *list, int32_t *ids)
{
    int n = 0;
    for (const json_node *v = json_child(list); v && n < GOLDEN_MAX; v = json_next(v))
        ids[n++] = (int32_t)json_int(v);
    return n;
}

static void check_model(const char *name, const json_node *golden)
{
    static const struct {
        const char *key;
        enum sl_pool pool;
    } kinds[] = {{"last", SL_POOL_LAST}, {"mean", SL_POOL_MEAN}, {"cls", SL_POOL_CLS}};
    int32_t ids[GOLDEN_MAX];
    int n = read_ids(json_get(golden, "ids"), ids);
    sl_engine *g =
        open_engine(name, (struct sl_options){.max_num_seqs = 2, .max_num_batched_tokens = 16});
    if (!g) return;
    CHECK(sl_get_info(g)->n_pooled == WIDTH);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        float got[WIDTH] = {0};
        double worst = 0;
        int i = 0;
        pool_one(g,
                 &(struct sl_request){.prompt = ids,
                                      .n_prompt = (uint32_t)n,
                                      .sampling = plain(0),
                                      .pool = kinds[k].pool},
                 got);
        for (const json_node *v = json_child(json_get(golden, kinds[k].key)); v; v = json_next(v))
            worst = fmax(worst, fabs((double)got[i++] - json_num(v)));
        CHECK_MSG(i == WIDTH && worst < TOLERANCE, "%s %s: %d values, off by %g", name,
                  kinds[k].key, i, worst);
        printf("  %-12s %-5s off by %.5f at most\n", name, kinds[k].key, worst);
    }
    sl_close(g);
}

TEST(against_numpy)
{
    static char text[1 << 16];
    struct json_doc *doc;
    struct sl_error e = {0};
    FILE *f = fopen(TEST_DATA "/pooled.json", "rb");
    size_t n = f ? fread(text, 1, sizeof text, f) : 0;
    if (f) fclose(f);
    int code = json_parse(&doc, text, n, &json_limits_file, &e);
    CHECK_MSG(code == 0, "%s", e.text);
    if (code < 0) return;
    for (const json_node *m = json_child(json_root(doc)); m; m = json_next(m))
        check_model(json_key(m).p, m);
    json_free(doc);
}

/* ------------------------------------------------------------------ in any company */

/* Request i is a pure function of i; every fourth generates, and prefixes are shared. */
static struct sl_request make_request(int i, int32_t *prompt)
{
    uint32_t n = 1 + (uint32_t)(i * 37 % PROMPT_MAX);
    for (uint32_t t = 0; t < n; t++)
        prompt[t] = (int32_t)((t < 40 ? t * 31 + 17 : t * 13 + (uint32_t)i * 7) % 320);
    return (struct sl_request){.prompt = prompt,
                               .n_prompt = n,
                               .sampling = plain(i % 4 == 0 ? 60 : 0),
                               .pool = (enum sl_pool)(i % 4)};
}

static uint64_t run(float out[N_REQUESTS][WIDTH], int at_once, struct sl_options o)
{
    static int owner[65536];
    struct sl_error e = {0};
    struct sl_stats stats = {0};
    int n_submitted = 0, n_ended = 0;
    sl_engine *g = open_engine("llama", o);
    memset(out, 0, N_REQUESTS * sizeof *out);
    while (g && n_ended < N_REQUESTS) {
        for (; n_submitted < N_REQUESTS && n_submitted - n_ended < at_once; n_submitted++) {
            int32_t prompt[PROMPT_MAX];
            struct sl_request r = make_request(n_submitted, prompt);
            sl_req id;
            int code = sl_submit(g, &r, &id, &e);
            CHECK_MSG(code == 0, "%s", e.text);
            owner[id.slot % 65536] = n_submitted;
        }
        struct sl_event ev[64];
        int n = sl_poll(g, ev, 64);
        for (int i = 0; i < n; i++) {
            int k = owner[ev[i].req.slot % 65536];
            if (ev[i].kind != SL_EV_DONE) continue;
            CHECK(ev[i].reason == SL_FINISH_LENGTH && (ev[i].pooled != NULL) == (k % 4 != 0));
            if (ev[i].pooled) memcpy(out[k], ev[i].pooled, sizeof out[k]);
            n_ended++;
        }
        if (n == 0) usleep(50);
    }
    if (g) sl_get_stats(g, &stats);
    sl_close(g);
    return stats.n_preemptions;
}

static const struct {
    const char *how;
    struct sl_options o;
} ways[] = {
    {"batches, prefix cache",
     {.max_num_seqs = 32, .max_num_batched_tokens = 512, .enable_prefix_caching = 1}},
    {"chunks of 16",
     {.max_num_seqs = 16, .max_num_batched_tokens = 16, .enable_prefix_caching = 1}},
    {"pages of 1 token, few of them",
     {.max_num_seqs = 32,
      .max_num_batched_tokens = 64,
      .num_gpu_blocks_override = 170,
      .block_size = 1,
      .enable_prefix_caching = 1}},
    {"no prefix cache, one step ahead",
     {.max_num_seqs = 8, .max_num_batched_tokens = 100, .async_scheduling = 1}},
};

static float alone[N_REQUESTS][WIDTH], other[N_REQUESTS][WIDTH];

TEST(same_bits_in_any_company)
{
    uint64_t n_preemptions = 0;
    run(alone, 1, (struct sl_options){.max_num_seqs = 1, .max_num_batched_tokens = 512});
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        int n_different = 0;
        n_preemptions += run(other, 32, ways[w].o);
        for (int i = 0; i < N_REQUESTS; i++)
            n_different += memcmp(alone[i], other[i], sizeof alone[i]) != 0;
        CHECK_MSG(n_different == 0, "%s: %d vectors differ", ways[w].how, n_different);
    }
    CHECK(n_preemptions > 0); /* or the pool was not tiny enough */
}

TEST(what_is_refused)
{
    int32_t prompt[4] = {1, 2, 3, 4};
    sl_req id;
    struct sl_error e;
    sl_engine *g = open_engine("llama", (struct sl_options){.max_num_seqs = 2});
    struct sl_request r = {
        .prompt = prompt, .n_prompt = 4, .sampling = plain(1), .pool = SL_POOL_MEAN};
    CHECK(sl_submit(g, &r, &id, &e) == SL_EINVAL);
    r.sampling = plain(0);
    r.sampling.n_prompt_logprobs = 0;
    CHECK(sl_submit(g, &r, &id, &e) == SL_EINVAL);
    r.sampling = plain(0);
    r.pool = (enum sl_pool)7;
    CHECK(sl_submit(g, &r, &id, &e) == SL_EINVAL);
    sl_close(g);
}
