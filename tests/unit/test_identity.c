/* test_identity.c - the same request gives the same bits, whatever runs beside it.
 *
 * 200 mixed requests (greedy and seeded, filters, penalties, biases, log probabilities) are
 * answered alone, then in batches of up to 64, with tiny page pools that force preemption, with
 * prefill chunks of 16 and 512, with the prefix cache on and off; token ids and the bits of the log
 * probabilities must be equal. Model: tests/data/models/llama on the cpu device, or the folder or
 * file that SLUICE_TEST_MODEL names.
 *
 * Ranks keep the law, and their answers are those of one rank up to the order of sums.
 *
 * tests/kernels builds this file once more for the GPU. There the law holds for steps of at most
 * OWN_ROWS rows (kernels/README.md, "Bits"); wider steps are held to closeness and counted.
 */
#include <math.h>

#include "base/test.h"
#include "sluice/sluice.h"
#include "text/grammar.h"

#include <unistd.h>

enum { N_REQUESTS = 200, OUT_MAX = 48, PROMPT_MAX = 96 };
#ifdef IDENTITY_CUDA
#include "backend/cuda_dev.h"
#define DEVICE "cuda"
enum { OWN_ROWS = LINEAR_OWN_ROWS };
#else
#define DEVICE "cpu"
#endif

struct answer {
    int n, n_tops, reason, done;
    int32_t token[OUT_MAX];
    float logprob[OUT_MAX];
    int32_t top[OUT_MAX * 3];
    float top_lp[OUT_MAX * 3];
};

static uint64_t next_random(uint64_t *state)
{
    *state += 0x9E3779B97F4A7C15u; /* splitmix64 */
    uint64_t z = *state;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Tokens as letters, three a token, so that any vocabulary has a grammar. */
static struct str token_letters(void *arg, int32_t id)
{
    static char text[4];
    (void)arg;
    for (int i = 0; i < 4; i++, id /= 26) text[i] = (char)('a' + id % 26);
    return (struct str){text, 4};
}

static struct grammar *letters_grammar(int32_t n_vocab)
{
    static struct grammar *g;
    struct grammar_vocab *v;
    struct sl_error e;
    const struct grammar_opts o = {0};
    struct grammar_vocab_desc d = {.n_vocab = (size_t)n_vocab, .bytes = token_letters};
    if (g || grammar_vocab_new(&v, &d, &e) < 0) return g;
    CHECK(grammar_regex(&g, STR("([a-m]{2}[a-z]{6}|[g-z][a-z]{3})*"), v, &o, &e) == 0);
    grammar_vocab_unref(v);
    return g;
}

/* Request i is a pure function of i; a third of the prompts share a prefix. */
static void make_request(int i, int32_t n_vocab, int32_t *prompt, struct sl_bias *bias,
                         struct sl_request *r)
{
    uint64_t rng = (uint64_t)i * 7919 + 1;
    *r = (struct sl_request){.prompt = prompt,
                             .n_prompt = 1 + (uint32_t)(next_random(&rng) % PROMPT_MAX)};
    for (uint32_t t = 0; t < r->n_prompt; t++) {
        uint64_t shared = t * 31 + 17, own = next_random(&rng);
        prompt[t] = (int32_t)((i % 3 == 0 && t < 64 ? shared : own) % (uint64_t)n_vocab);
    }
    struct sl_sampling *s = &r->sampling;
    *s = (struct sl_sampling){.top_p = 1,
                              .typical_p = 1,
                              .repetition_penalty = 1,
                              .n_logprobs = 2,
                              .n_prompt_logprobs = -1,
                              .max_tokens = 4 + (uint32_t)(i % (OUT_MAX - 4)),
                              .ignore_eos = 1,
                              .seed = (uint64_t)i};
    if (i % 2) s->temperature = 0.7f + 0.1f * (float)(i % 7);
    if (i % 5 == 1) s->top_p = 0.9f;
    if (i % 5 == 2) s->top_k = 20;
    if (i % 5 == 3) s->min_p = 0.05f;
    if (i % 7 == 1) s->typical_p = 0.95f;
    if (i % 4 == 1) s->repetition_penalty = 1.3f;
    if (i % 4 == 2) s->presence_penalty = 0.5f, s->frequency_penalty = 0.25f;
    if (i % 6 == 2) r->grammar = letters_grammar(n_vocab);
    if (i % 11 == 0) {
        bias[0] = (struct sl_bias){(int32_t)(next_random(&rng) % (uint64_t)n_vocab), 5};
        s->bias = bias;
        s->n_bias = 1;
    }
}

static void take(struct answer *a, const struct sl_event *ev)
{
    if (ev->kind == SL_EV_TOKEN && a->n < OUT_MAX) {
        a->token[a->n] = ev->token;
        a->logprob[a->n++] = ev->logprob;
    } else if (ev->kind == SL_EV_TOP && a->n_tops < OUT_MAX * 3) {
        a->top[a->n_tops] = ev->token;
        a->top_lp[a->n_tops++] = ev->logprob;
    } else if (ev->kind == SL_EV_DONE) {
        a->reason = ev->reason;
        a->done = 1;
    }
}

static const char *model_path(void)
{
    const char *own = getenv("SLUICE_TEST_MODEL");
    return own ? own : TEST_DATA "/models/llama";
}

/* Answer all requests with at most `at_once` submitted at a time. Returns the number of
 * preemptions. */
static uint64_t run(struct answer *answers, int at_once, struct sl_options o)
{
    sl_engine *g;
    struct sl_error e = {0};
    struct sl_stats stats = {0};
    static int owner[65536];
    memset(answers, 0, N_REQUESTS * sizeof *answers);
    o.model = model_path();
    o.device = DEVICE;
    o.dtype = o.load_format = "auto";
    o.gpu_memory_utilization = 0.5;
    o.max_model_len = 160;
    int code = sl_open(&g, &o, &e);
    CHECK_MSG(code == 0, "%s", e.text);
    if (code < 0) return 0;
    int submitted = 0, finished = 0;
    while (finished < N_REQUESTS) {
        while (submitted < N_REQUESTS && submitted - finished < at_once) {
            int32_t prompt[PROMPT_MAX];
            struct sl_bias bias[1];
            struct sl_request r;
            sl_req id;
            make_request(submitted, sl_get_info(g)->n_vocab, prompt, bias, &r);
            code = sl_submit(g, &r, &id, &e);
            CHECK_MSG(code == 0, "%s", e.text);
            if (code < 0) goto out;
            owner[id.slot % 65536] = submitted++;
        }
        struct sl_event ev[256];
        int n = sl_poll(g, ev, 256);
        for (int i = 0; i < n; i++) {
            take(&answers[owner[ev[i].req.slot % 65536]], &ev[i]);
            finished += ev[i].kind == SL_EV_DONE;
        }
        if (n == 0) usleep(50);
    }
    sl_get_stats(g, &stats);
    printf("  at once %d: %llu steps, %llu preemptions, %llu cached tokens\n", at_once,
           (unsigned long long)stats.n_steps, (unsigned long long)stats.n_preemptions,
           (unsigned long long)stats.prefix_hits);
out:
    sl_close(g);
    return stats.n_preemptions;
}

static void compare(const struct answer *want, const struct answer *got, const char *how)
{
    int different = 0, first = -1;
    for (int i = 0; i < N_REQUESTS; i++) {
        if (memcmp(&want[i], &got[i], sizeof *want) == 0) continue;
        if (first < 0) first = i;
        different++;
    }
    CHECK_MSG(different == 0, "%s: %d of %d answers differ, the first is %d", how, different,
              N_REQUESTS, first);
}

static struct answer alone[N_REQUESTS], other[N_REQUESTS];

struct way {
    const char *how;
    int at_once;
    struct sl_options o;
};

static uint64_t hold(const struct way *ways, size_t n)
{
    uint64_t n_preemptions = 0;
    for (size_t w = 0; w < n; w++) {
        printf("%s\n", ways[w].how);
        n_preemptions += run(other, ways[w].at_once, ways[w].o);
        compare(alone, other, ways[w].how);
    }
    return n_preemptions;
}

static void run_alone(struct sl_options o)
{
    o.max_num_seqs = 1;
    run(alone, 1, o);
    for (int i = 0; i < N_REQUESTS; i++)
        CHECK(alone[i].done && alone[i].reason == SL_FINISH_LENGTH);
}

/* How far log probabilities lie apart, as long as the tokens are the same. */
static double distance(const struct answer *a, const struct answer *b, bool *is_same)
{
    double worst = 0.0;
    *is_same = memcmp(a, b, sizeof *a) == 0;
    for (int i = 0; i < a->n && a->token[i] == b->token[i]; i++)
        worst = fmax(worst, fabs((double)a->logprob[i] - (double)b->logprob[i]));
    return worst;
}

#ifndef IDENTITY_CUDA

static const struct way ways[] = {
    {"batches of 64, prefix cache",
     64,
     {.max_num_seqs = 64, .max_num_batched_tokens = 512, .enable_prefix_caching = 1}},
    {"batches of 7, no prefix cache", 7, {.max_num_seqs = 7, .max_num_batched_tokens = 512}},
    {"chunks of 16",
     64,
     {.max_num_seqs = 16, .max_num_batched_tokens = 16, .enable_prefix_caching = 1}},
    {"200 pages of 1 token: preemption",
     64,
     {.max_num_seqs = 64,
      .max_num_batched_tokens = 512,
      .num_gpu_blocks_override = 200,
      .block_size = 1,
      .enable_prefix_caching = 1}},
    {"90 pages of 2, chunks of 64, no prefix cache",
     64,
     {.max_num_seqs = 64,
      .max_num_batched_tokens = 64,
      .num_gpu_blocks_override = 90,
      .block_size = 2}},
    {"12 pages of 16",
     64,
     {.max_num_seqs = 64,
      .max_num_batched_tokens = 512,
      .num_gpu_blocks_override = 12,
      .enable_prefix_caching = 1}},
    {"pages of 4 tokens",
     64,
     {.max_num_seqs = 64,
      .max_num_batched_tokens = 512,
      .block_size = 4,
      .enable_prefix_caching = 1}},
    {"one thread", 64, {.max_num_seqs = 64, .max_num_batched_tokens = 512, .n_threads = 1}},
    {"one step ahead",
     64,
     {.max_num_seqs = 64,
      .max_num_batched_tokens = 512,
      .async_scheduling = 1,
      .enable_prefix_caching = 1}},
};

TEST(same_bits_in_any_company)
{
    run_alone((struct sl_options){.max_num_batched_tokens = 512});
    uint64_t n_preemptions = hold(ways, sizeof ways / sizeof *ways);
    CHECK(n_preemptions >= 50); /* or the pools were not tiny enough to show anything */
}

/* In `alone` are here answers in batches of 7. Sums over ranks round otherwise than one sum: a greedy
 * choice between two that are that close may fall the other way, after which the texts part. */
static void compare_one_rank(const struct answer *one, int32_t n_ranks)
{
    double worst = 0.0;
    int n_same = 0;
    for (int i = 0; i < N_REQUESTS; i++) {
        bool is_same;
        worst = fmax(worst, distance(&one[i], &alone[i], &is_same));
        n_same += memcmp(one[i].token, alone[i].token, sizeof one[i].token) == 0;
    }
    printf("  %d ranks: %d of %d texts are those of one, log probabilities within %.6f\n", n_ranks,
           n_same, N_REQUESTS, worst);
    CHECK(worst < 0.02 && n_same > N_REQUESTS * 9 / 10);
}

TEST(same_bits_on_ranks)
{
    static const int32_t sizes[] = {2, 4};
    static struct answer one[N_REQUESTS];
    if (getenv("SLUICE_TEST_MODEL")) return; /* any number of heads */
    struct sl_options few = {.max_num_seqs = 7, .max_num_batched_tokens = 512};
    run(one, 7, few);
    for (int k = 0; k < 2; k++) {
        few.tensor_parallel_size = sizes[k];
        run(alone, 7, few);
        compare_one_rank(one, sizes[k]);
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w += sizes[k] == 2 ? 3 : 8) {
            struct way on_ranks = ways[w];
            on_ranks.o.tensor_parallel_size = sizes[k];
            hold(&on_ranks, 1);
        }
    }
}

#else

/* Steps of at most OWN_ROWS rows: the bits of a request depend on nothing. */
#define NARROW .max_num_seqs = 64, .max_num_batched_tokens = OWN_ROWS
static const struct way ways[] = {
    {"batches of 64, prefix cache", 64, {NARROW, .enable_prefix_caching = 1}},
    {"batches of 7, no prefix cache", 7, {.max_num_seqs = 7, .max_num_batched_tokens = OWN_ROWS}},
    {"chunks of 16", 64, {.max_num_seqs = 16, .max_num_batched_tokens = 16}},
    {"12 pages of 16: preemption",
     64,
     {NARROW, .num_gpu_blocks_override = 12, .enable_prefix_caching = 1}},
    {"14 pages of 16, chunks of 24",
     64,
     {.max_num_seqs = 24, .max_num_batched_tokens = 24, .num_gpu_blocks_override = 14}},
    {"pages of 32", 64, {NARROW, .block_size = 32, .enable_prefix_caching = 1}},
    {"7 pages of 32: preemption", 64, {NARROW, .block_size = 32, .num_gpu_blocks_override = 7}},
    {"no graphs", 64, {NARROW, .enforce_eager = 1, .enable_prefix_caching = 1}},
    {"one step ahead", 64, {NARROW, .async_scheduling = 1, .enable_prefix_caching = 1}},
    {"one step ahead, 12 pages, no graphs",
     64,
     {NARROW, .async_scheduling = 1, .enforce_eager = 1, .num_gpu_blocks_override = 12}},
};

/* Wider steps go through other products, whose sums differ in the last bits of a bf16. What is held
 * to: log probabilities agree, up to the first token that such a difference decides otherwise. The
 * tiny model measured 0.012; SmolLM2, 30 layers on prompts without sense, 0.17. */
static const double CLOSE_TINY = 0.03, CLOSE_REAL = 0.3;

/* short_is_exact: requests whose prompt fits OWN_ROWS had no wide step. */
static void compare_wide(const char *how, bool short_is_exact)
{
    double worst = 0.0, close = getenv("SLUICE_TEST_MODEL") ? CLOSE_REAL : CLOSE_TINY;
    int n_same = 0, n_short_differ = 0, n_far = 0;
    for (int i = 0; i < N_REQUESTS; i++) {
        int32_t prompt[PROMPT_MAX];
        struct sl_bias bias[1];
        struct sl_request r;
        bool is_same;
        make_request(i, 320, prompt, bias, &r);
        double d = distance(&alone[i], &other[i], &is_same);
        worst = fmax(worst, d);
        n_far += !(d <= close);
        n_same += is_same;
        n_short_differ += !is_same && r.n_prompt <= OWN_ROWS;
    }
    printf("  %s: %d of %d answers have the same bits; log probabilities differ by at most %.4f\n",
           how, n_same, N_REQUESTS, worst);
    CHECK_MSG(n_far == 0, "%s: %d answers are further off than %g", how, n_far, close);
    CHECK_MSG(!short_is_exact || n_short_differ == 0,
              "%s: %d requests that had no wide step have other bits", how, n_short_differ);
}

static bool is_absent(void)
{
    struct sl_error e = {0};
    if (device_cuda.probe(&e) == 0) return false;
    printf("skipped: %s\n", e.text);
    return true;
}

TEST(same_bits_in_any_company)
{
    if (is_absent()) return;
    run_alone((struct sl_options){.max_num_batched_tokens = OWN_ROWS});
    uint64_t n_preemptions = hold(ways, sizeof ways / sizeof *ways);
    CHECK(n_preemptions >= 50);
}

TEST(wide_steps_are_close)
{
    if (is_absent()) return;
    const struct sl_options wide = {.max_num_seqs = 64, .max_num_batched_tokens = 512};
    run_alone((struct sl_options){.max_num_batched_tokens = OWN_ROWS});
    run(other, 1, (struct sl_options){.max_num_seqs = 1, .max_num_batched_tokens = 512});
    compare_wide("alone, prompts in one step", true);
    run(other, 64, wide);
    compare_wide("batches of 64, prompts in one step", false);
}
#endif
