/* test_sample.c - each sampling parameter against a plain reference, the drawn distribution, and
 * reports.
 *
 * The reference below sorts the whole vocabulary and follows sl_sampling.h line by line in double.
 */
#include <math.h>

#include "backend/cpu_sample.h"
#include "backend/sampling_philox.h"
#include "base/err.h"
#include "base/test.h"

enum { V = 997, LEN = 64 };

static const struct sl_sampling plain = {.temperature = 1.0f,
                                         .top_p = 1.0f,
                                         .typical_p = 1.0f,
                                         .repetition_penalty = 1.0f,
                                         .seed = 1,
                                         .max_tokens = 16,
                                         .n_logprobs = -1,
                                         .n_prompt_logprobs = -1};

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static void random_row(float *x, int n, uint64_t seed, float spread)
{
    for (int i = 0; i < n; i++) {
        float sum = 0.0f;
        for (int k = 0; k < 6; k++) sum += (float)(next_random(&seed) & 0xFFFF) / 65536.0f;
        x[i] = (sum - 3.0f) * spread;
    }
}

/* One answer, on the stack. */
struct answer {
    int32_t token, rank, n_top, top_id[SL_TOP_MAX];
    float logprob, top_logprob[SL_TOP_MAX];
};

static struct answer ask(struct cpu_slots *s, struct sample_scratch *t, const float *x, int n,
                         struct want w)
{
    struct answer a = {0};
    struct result r = {.token = &a.token,
                       .logprob = &a.logprob,
                       .rank = &a.rank,
                       .n_top = &a.n_top,
                       .top_id = a.top_id,
                       .top_logprob = a.top_logprob};
    float *row = xmalloc((size_t)n * sizeof *row);
    memcpy(row, x, (size_t)n * sizeof *row);
    cpu_sample_row(s, 0, t, row, &w, &r, 0);
    free(row);
    return a;
}

/* ------------------------------------------------------------------ the reference */

struct entry {
    int32_t id;
    double x, p, score;
};

static int by_x(const void *a, const void *b)
{
    const struct entry *p = a, *q = b;
    if (p->x != q->x) return p->x < q->x ? 1 : -1;
    return p->id < q->id ? -1 : 1;
}
static int by_score(const void *a, const void *b)
{
    const struct entry *p = a, *q = b;
    if (p->score != q->score) return p->score < q->score ? -1 : 1;
    return p->id < q->id ? -1 : 1;
}

static void renormalise(struct entry *v, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += v[i].p;
    for (int i = 0; i < n; i++) v[i].p /= sum;
}

/* How many of v, in its order, reach the share. */
static int prefix(const struct entry *v, int n, double share)
{
    double sum = 0.0;
    int k = 0;
    while (k < n && (k == 0 || sum < share)) sum += v[k++].p;
    return k;
}

static void reference_adjust(double *x, const struct sl_sampling *s, const int32_t *hist,
                             int n_prompt, int n_hist, uint32_t position)
{
    for (int i = 0; i < V && s->n_allowed; i++) {
        int ok = 0;
        for (uint32_t k = 0; k < s->n_allowed; k++) ok |= s->allowed_ids[k] == i;
        if (!ok) x[i] = -INFINITY;
    }
    const int32_t *word = s->bad_words;
    for (uint32_t k = 0; k < s->n_bad_words; word += s->bad_word_len[k++]) {
        int len = (int)s->bad_word_len[k], same = len - 1 <= n_hist;
        for (int j = 0; j < len - 1 && same; j++) same = hist[n_hist - (len - 1) + j] == word[j];
        if (same) x[word[len - 1]] = -INFINITY;
    }
    if (position < s->min_tokens)
        for (uint32_t k = s->ignore_eos ? s->n_eos : 0; k < s->n_stop_ids; k++)
            x[s->stop_ids[k]] = -INFINITY;
    for (uint32_t k = 0; k < s->n_bias; k++)
        x[s->bias[k].token] += s->bias[k].value <= -100 ? -INFINITY : (double)s->bias[k].value;
    for (int i = 0; i < V; i++) {
        int in_any = 0, in_output = 0;
        for (int j = 0; j < n_hist; j++) {
            in_any |= hist[j] == i;
            in_output += j >= n_prompt && hist[j] == i;
        }
        if (in_any)
            x[i] = x[i] > 0 ? x[i] / (double)s->repetition_penalty
                            : x[i] * (double)s->repetition_penalty;
        x[i] -= (double)s->frequency_penalty * in_output +
                (in_output ? (double)s->presence_penalty : 0.0);
    }
}

/* The kept tokens in v[0..return), descending, normalised. */
static int reference_keep(const double *x, const struct sl_sampling *s, struct entry *v)
{
    int n = V;
    for (int i = 0; i < V; i++) v[i] = (struct entry){.id = i, .x = x[i]};
    qsort(v, V, sizeof *v, by_x);
    if (s->temperature == 0.0f) return 1;
    for (int i = 0; i < V; i++) v[i].p = exp((v[i].x - v[0].x) / (double)s->temperature);
    while (n > 1 && v[n - 1].p < (double)s->min_p) n--;
    if (s->top_k > 0 && s->top_k < n) n = s->top_k;
    renormalise(v, n);
    n = prefix(v, n, (double)s->top_p);
    renormalise(v, n);
    if (s->typical_p < 1.0f) {
        double entropy = 0.0;
        for (int i = 0; i < n; i++) entropy -= v[i].p > 0 ? v[i].p * log(v[i].p) : 0.0;
        for (int i = 0; i < n; i++) v[i].score = fabs(-log(v[i].p) - entropy);
        qsort(v, (size_t)n, sizeof *v, by_score);
        n = prefix(v, n, (double)s->typical_p);
        qsort(v, (size_t)n, sizeof *v, by_x);
        renormalise(v, n);
    }
    return n;
}

/* ------------------------------------------------------------------ tests */

static const int32_t hist[] = {5, 9, 9, 11, 700, 3, 9, 44, 44, 3, 12, 13};
enum { N_HIST = 12, N_PROMPT = 4 };
static const struct sl_bias biases[] = {{1, 4.0f}, {2, -100.0f}, {9, -1.5f}, {996, 7.5f}};
static const int32_t stops[] = {7, 8, 996}, some[] = {3, 9, 12, 44, 700, 995, 996};
static const int32_t words[] = {13, 12, 13, 44, 12, 12, 9};
static const uint32_t word_len[] = {1, 3, 3};

/* clang-format off */
static const struct { const char *name; struct sl_sampling s; float spread; } cases[] = {
    {"plain",       {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1}, 4},
    {"flat",        {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1}, 0},
    {"hot",         {.temperature = 50, .top_p = 1, .typical_p = 1, .repetition_penalty = 1}, 4},
    {"cold",        {.temperature = 0.05f, .top_p = 1, .typical_p = 1, .repetition_penalty = 1}, 4},
    {"greedy",      {.temperature = 0, .top_p = 1, .typical_p = 1, .repetition_penalty = 1}, 4},
    {"top_k",       {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .top_k = 17}, 1},
    {"top_k 1",     {.temperature = 9, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .top_k = 1}, 1},
    {"top_k flat",  {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .top_k = 200}, 0},
    {"top_k large", {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .top_k = 5000}, 1},
    {"top_p",       {.temperature = 1, .top_p = 0.8f, .typical_p = 1, .repetition_penalty = 1}, 4},
    {"top_p 0",     {.temperature = 1, .top_p = 0, .typical_p = 1, .repetition_penalty = 1}, 4},
    {"top_p hot",   {.temperature = 8, .top_p = 0.97f, .typical_p = 1, .repetition_penalty = 1}, 4},
    {"min_p",       {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .min_p = 0.05f}, 4},
    {"min_p 1",     {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .min_p = 1}, 4},
    {"typical",     {.temperature = 1, .top_p = 1, .typical_p = 0.6f, .repetition_penalty = 1}, 4},
    {"all cuts",    {.temperature = 1.5f, .top_p = 0.9f, .typical_p = 0.9f, .repetition_penalty = 1, .top_k = 60,
                     .min_p = 0.01f}, 3},
    {"repetition",  {.temperature = 1, .top_p = 0.9f, .typical_p = 1, .repetition_penalty = 1.7f}, 3},
    {"frequency",   {.temperature = 1, .top_p = 0.9f, .typical_p = 1, .repetition_penalty = 1,
                     .frequency_penalty = -1.9f}, 1},
    {"presence",    {.temperature = 1, .top_p = 0.9f, .typical_p = 1, .repetition_penalty = 1,
                     .presence_penalty = -2}, 1},
    {"bias",        {.temperature = 1, .top_p = 0.9f, .typical_p = 1, .repetition_penalty = 1, .bias = biases,
                     .n_bias = 4}, 2},
    {"allowed",     {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .allowed_ids = some,
                     .n_allowed = 7}, 2},
    {"bad words",   {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .allowed_ids = some,
                     .n_allowed = 7, .bad_words = words, .bad_word_len = word_len, .n_bad_words = 3}, 2},
    {"min_tokens",  {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .allowed_ids = some,
                     .n_allowed = 7, .stop_ids = stops, .n_stop_ids = 3, .n_eos = 1, .min_tokens = 9}, 2},
    {"ignore_eos",  {.temperature = 0, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .bias = biases,
                     .n_bias = 4, .stop_ids = stops + 2, .n_stop_ids = 1, .n_eos = 1, .ignore_eos = 1,
                     .min_tokens = 9}, 0.5f},
    {"everything",  {.temperature = 1.3f, .top_p = 0.95f, .typical_p = 0.95f, .repetition_penalty = 1.2f,
                     .frequency_penalty = 0.5f, .presence_penalty = 0.7f, .top_k = 100, .min_p = 0.001f,
                     .bias = biases, .n_bias = 4, .bad_words = words, .bad_word_len = word_len,
                     .n_bad_words = 3, .stop_ids = stops, .n_stop_ids = 3, .min_tokens = 9}, 3},
};
/* clang-format on */

static struct cpu_slots *slots_of(const struct sl_sampling *s)
{
    struct cpu_slots *slots = NULL;
    struct slot_init init = {
        .sampling = s, .tokens = hist, .n_prompt = N_PROMPT, .n_output = N_HIST - N_PROMPT};
    CHECK(cpu_slots_open(&slots, 1, LEN, V, NULL) == 0);
    CHECK(cpu_slot_assign(slots, 0, &init) == 0);
    return slots;
}

/* Each case draws many tokens; each must be the one that the reference's inverse transform gives,
 * or a neighbour where the uniform number falls within rounding of the boundary. */
TEST(agrees_with_reference)
{
    struct sample_scratch *t = sample_scratch_open(V);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int n_bad = 0;
        for (uint32_t k = 0; k < 60; k++) {
            struct sl_sampling s = cases[c].s;
            float x[V];
            double y[V];
            struct entry v[V];
            random_row(x, V, k, cases[c].spread);
            for (int i = 0; i < V; i++) y[i] = (double)x[i];
            s.seed = 77 + k;
            struct cpu_slots *slots = slots_of(&s);
            int32_t got =
                ask(slots, t, x, V, (struct want){.target = -1, .n_top = -1, .position = 8}).token;
            CHECK(got == cpu_slot_last(slots, 0));
            cpu_slots_close(slots);
            reference_adjust(y, &s, hist, N_PROMPT, N_HIST, 8);
            int n = reference_keep(y, &s, v), ok = 0;
            double u = philox_uniform(s.seed, 8), sum = 0.0;
            if (n == 1) v[0].p = 1.0;
            for (int i = 0; i < n; i++) {
                double before = sum;
                sum += v[i].p;
                if (v[i].id == got) ok = u > before - 1e-4 && u < sum + 1e-4;
            }
            n_bad += !ok;
        }
        CHECK_MSG(n_bad == 0, "case \"%s\": %d of 60 draws differ", cases[c].name, n_bad);
    }
    sample_scratch_close(t);
}

/* 20,000 draws over a head of 12 tokens and a tail; chi-square with 12 degrees of freedom
 * exceeds 32.9 once in a thousand; the seed is fixed, so that this never flickers. */
TEST(distribution)
{
    struct sample_scratch *t = sample_scratch_open(V);
    struct cpu_slots *slots = slots_of(&plain);
    float x[V];
    double p[13] = {0}, sum = 0.0, chi = 0.0;
    int seen[13] = {0}, n = 20000;
    random_row(x, V, 3, 1.0f);
    for (int i = 0; i < 12; i++) x[i] = 5.0f - 0.3f * (float)i;
    for (int i = 0; i < V; i++) {
        p[i < 12 ? i : 12] += exp((double)x[i]);
        sum += exp((double)x[i]);
    }
    for (int k = 0; k < n; k++) {
        struct sl_sampling s = plain;
        s.seed = 12345u + (uint64_t)(k / 100);
        struct slot_init init = {.sampling = &s};
        CHECK(cpu_slot_assign(slots, 0, &init) == 0);
        struct want w = {.target = -1, .n_top = -1, .position = (uint32_t)k % 100};
        int32_t token = ask(slots, t, x, V, w).token;
        CHECK(token >= 0 && token < V);
        seen[token < 12 ? token : 12]++;
    }
    for (int i = 0; i < 13; i++) {
        double expected = p[i] / sum * n;
        chi += (seen[i] - expected) * (seen[i] - expected) / expected;
    }
    CHECK_MSG(chi < 32.9, "chi-square %.1f", chi);
    cpu_slots_close(slots);
    sample_scratch_close(t);
}

TEST(reports)
{
    struct sample_scratch *t = sample_scratch_open(V);
    struct cpu_slots *slots = slots_of(&plain);
    float x[V];
    struct entry v[V];
    double sum = 0.0;
    random_row(x, V, 9, 2.0f);
    x[40] = x[30] = x[20] = 3.0f; /* ties */
    for (int i = 0; i < V; i++) {
        v[i] = (struct entry){.id = i, .x = (double)x[i]};
        sum += exp((double)x[i]);
    }
    qsort(v, V, sizeof *v, by_x);
    for (int n_top = 0; n_top <= SL_TOP_MAX; n_top++) {
        int at = n_top * 7;
        struct answer a = ask(slots, t, x, V, (struct want){.target = v[at].id, .n_top = n_top});
        CHECK(a.token == v[at].id && a.rank == at + 1 && a.n_top == n_top);
        CHECK_MSG(fabs((double)a.logprob - (v[at].x - log(sum))) < 1e-5, "%g", (double)a.logprob);
        for (int k = 0; k < n_top; k++) {
            CHECK(a.top_id[k] == v[k].id);
            CHECK(fabs((double)a.top_logprob[k] - (v[k].x - log(sum))) < 1e-5);
        }
    }
    CHECK(cpu_slot_last(slots, 0) == hist[N_HIST - 1]); /* targets are not pushed */
    struct answer a = ask(slots, t, x, V, (struct want){.target = -1, .n_top = -1});
    CHECK(a.token >= 0 && a.logprob == 0.0f && a.rank == 0 && a.n_top == 0);
    cpu_slots_close(slots);

    /* Log probabilities are of the raw row, whatever masks do to the choice. */
    struct sl_sampling s = plain;
    s.allowed_ids = some;
    s.n_allowed = 1;
    slots = slots_of(&s);
    a = ask(slots, t, x, V, (struct want){.target = -1, .n_top = 2});
    CHECK(a.token == 3 && fabs((double)a.logprob - ((double)x[3] - log(sum))) < 1e-5);
    CHECK(a.top_id[0] == v[0].id);
    cpu_slots_close(slots);
    sample_scratch_close(t);
}

TEST(bad_rows_and_limits)
{
    struct sample_scratch *t = sample_scratch_open(V);
    float x[V];
    const float poison[] = {NAN, INFINITY, -INFINITY};
    struct cpu_slots *slots = slots_of(&plain);
    for (int k = 0; k < 9; k++) {
        random_row(x, V, 1, 1.0f);
        x[k < 3 ? 0 : k < 6 ? V - 1 : V / 2] = poison[k % 3];
        CHECK(ask(slots, t, x, V, (struct want){.target = -1, .n_top = 3}).token == -1);
        CHECK(ask(slots, t, x, V, (struct want){.target = 5, .n_top = 3}).token == -1);
    }
    random_row(x, V, 1, 1.0f);
    CHECK(cpu_slot_last(slots, 0) == hist[N_HIST - 1]);
    struct sl_sampling s = plain;
    s.allowed_ids = some + 6;
    s.n_allowed = 1;
    s.bias = &(struct sl_bias){996, -100.0f};
    s.n_bias = 1;
    struct slot_init init = {.sampling = &s};
    CHECK(cpu_slot_assign(slots, 0, &init) == 0);
    CHECK(ask(slots, t, x, V, (struct want){.target = -1, .n_top = -1}).token == -1);
    for (int i = 0; i < 3 * LEN; i++) { /* past the end of the history */
        init.sampling = &plain;
        if (i == 0) CHECK(cpu_slot_assign(slots, 0, &init) == 0);
        CHECK(ask(slots, t, x, V, (struct want){.target = -1, .n_top = -1}).token >= 0);
    }
    s.n_bias = SL_BIAS_MAX + 1;
    init.sampling = &s;
    CHECK(cpu_slot_assign(slots, 0, &init) == SL_EVALUE);
    init = (struct slot_init){.sampling = &plain, .n_prompt = LEN, .n_output = 1};
    CHECK(cpu_slot_assign(slots, 0, &init) == SL_EVALUE);
    cpu_slots_close(slots);
    sample_scratch_close(t);
}

/* The vectors published with Random123 (kat_vectors, philox4x32 10). */
TEST(philox_known_answers)
{
    uint32_t zero[4] = {0}, ones[4] = {~0u, ~0u, ~0u, ~0u};
    uint32_t pi[4] = {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344};
    philox4x32_10(zero, 0, 0);
    CHECK(zero[0] == 0x6627e8d5 && zero[1] == 0xe169c58d && zero[2] == 0xbc57ac4c &&
          zero[3] == 0x9b00dbd8);
    philox4x32_10(ones, ~0u, ~0u);
    CHECK(ones[0] == 0x408f276d && ones[1] == 0x41c83b0e && ones[2] == 0xa20bc7c6 &&
          ones[3] == 0x6d5451fd);
    philox4x32_10(pi, 0xa4093822, 0x299f31d0);
    CHECK(pi[0] == 0xd16cfe09 && pi[1] == 0x94fdcceb && pi[2] == 0x5001e420 && pi[3] == 0x24126ea1);
}

/* A vocabulary of real size, sparse and flat: order and speed hold there too (rows a second are
 * printed). */
TEST(large_vocabulary)
{
    enum { N = 151936 };
    float *x = xmalloc(N * sizeof *x);
    struct sample_scratch *t = sample_scratch_open(N);
    struct cpu_slots *slots = NULL;
    struct sl_sampling s = plain;
    CHECK(cpu_slots_open(&slots, 1, LEN, N, NULL) == 0);
    for (int spread = 0; spread < 2; spread++) {
        random_row(x, N, 4, (float)spread);
        s.top_k = spread ? 50 : 0;
        s.top_p = 0.9f;
        struct slot_init init = {.sampling = &s};
        CHECK(cpu_slot_assign(slots, 0, &init) == 0);
        for (int k = 0; k < 5; k++) {
            struct answer a = ask(slots, t, x, N,
                                  (struct want){.target = -1, .n_top = 5, .position = (uint32_t)k});
            CHECK(a.token >= 0 && a.rank >= 1 && (spread ? a.rank <= 50 : a.rank <= 136743));
        }
    }
    cpu_slots_close(slots);
    sample_scratch_close(t);
    free(x);
}
