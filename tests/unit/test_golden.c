/* test_golden.c - tiny checkpoints on the cpu device against logits that transformers computed in
 * float32.
 *
 * Each prompt runs whole, in chunks and token by token, through scattered pages; then 24 tokens are
 * decoded greedily, the device feeding its own samples back. All ways must give the same bits.
 * Fusion off is the reference for fusion on.
 *
 * The reference rounded its rotary frequencies to bfloat16, as a model converted to bfloat16 and
 * back does; models are trained with float32 ones, which we keep. The difference grows with
 * position. So the answers are held to LOOSE as they are, and to TIGHT with our frequencies rounded
 * likewise.
 */
#include <math.h>
#include <unistd.h>

#include "base/json.h"
#include "base/test.h"
#include "model/model.h"
#include "model/plan.h"

enum { TOKENS = 160, PAGE = 16, N_PAGES = 40, N_TOP = SL_TOP_MAX };
#ifndef GOLDEN_DEVICE /* tests/kernels builds this file once more, for the GPU */
#define GOLDEN_DEVICE "cpu"
static const double LOOSE = 0.03, TIGHT = 0.003; /* of a log probability */
#else
static const double LOOSE = 0.05, TIGHT = 0.03; /* activations and pages are bf16 there */
#endif
static const bool is_gpu = sizeof GOLDEN_DEVICE == sizeof "cuda";

static bool is_absent(void)
{
#ifdef SLUICE_HAS_CUDA
    struct sl_error e = {0};
    if (!is_gpu || device_cuda.probe(&e) == 0) return false;
    printf("skipped: %s\n", e.text);
    return true;
#else
    return is_gpu;
#endif
}

/* ------------------------------------------------------------------ reference data */

static char *slurp(const char *dir, const char *name, size_t *n)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    char *p = xmalloc(4 << 20);
    *n = fread(p, 1, 4 << 20, f);
    fclose(f);
    return p;
}

/* Rows of float32 from a .npy file; NULL when there is none. */
static float *read_npy(const char *dir, const char *name, int n_vocab, int *n_rows)
{
    size_t n, head;
    char *p = slurp(dir, name, &n);
    if (!p) return NULL;
    head = 10 + (unsigned char)p[8] + 256u * (unsigned char)p[9];
    float *rows = xmalloc(n);
    memcpy(rows, p + head, n - head);
    *n_rows = (int)((n - head) / sizeof *rows) / n_vocab;
    free(p);
    return rows;
}

static double log_sum(const float *row, int n)
{
    double max = (double)row[0], sum = 0.0;
    for (int i = 1; i < n; i++) max = fmax(max, (double)row[i]);
    for (int i = 0; i < n; i++) sum += exp((double)row[i] - max);
    return log(sum) + max;
}

static int read_ids(const json_node *list, int32_t *out, int max)
{
    int n = 0;
    for (const json_node *v = json_child(list); v && n < max; v = json_next(v))
        out[n++] = (int32_t)json_int(v);
    return n;
}

/* ------------------------------------------------------------------ running */

/* What each position said: the best alternatives and the token taken. */
struct said {
    int32_t token, top_id[N_TOP];
    float logprob, top[N_TOP];
};

static struct model *open_model(const char *dir, bool fuse, struct sl_info *info)
{
    struct sl_options o = {.model = dir,
                           .device = GOLDEN_DEVICE,
                           .n_threads = 1,
                           .max_num_seqs = 2,
                           .max_num_batched_tokens = 128,
                           .max_model_len = 256,
                           .num_gpu_blocks_override = N_PAGES};
    struct sl_error e = {0};
    struct model *m = NULL;
    int code = model_open_as(&m, &o, fuse, info, &e);
    CHECK_MSG(code == 0, "%s: %s", dir, e.text);
    return code == 0 ? m : NULL;
}

static void assign(struct model *m, int32_t slot, const int32_t *tokens, int32_t n)
{
    const struct sl_sampling s = {.temperature = 0.0f,
                                  .top_p = 1.0f,
                                  .typical_p = 1.0f,
                                  .repetition_penalty = 1.0f,
                                  .max_tokens = 64};
    CHECK(model_assign(m, 0, slot,
                       &(struct slot_init){.sampling = &s, .tokens = tokens, .n_prompt = n}) == 0);
}

/* Run tokens [from, to) of one sequence in one step; each row reports what follows: the prompt's
 * next token where it is known (position + 1 < n), else a sample. */
static void step(struct model *m, const int32_t *tokens, int32_t n, int32_t from, int32_t to,
                 struct said *said)
{
    int32_t pos[TOKENS], kv[TOKENS], pages[N_PAGES];
    struct want want[TOKENS];
    for (int i = 0; i < N_PAGES; i++) pages[i] = (i * 7 + 3) % N_PAGES; /* scattered */
    for (int32_t p = from; p < to; p++) {
        pos[p - from] = p;
        kv[p - from] = pages[p / PAGE] * PAGE + p % PAGE;
        want[p - from] = (struct want){
            .row = p - from, .target = p + 1 < n ? tokens[p + 1] : -1, .n_top = N_TOP};
    }
    struct batch b = {.n_tokens = to - from,
                      .n_seqs = 1,
                      .n_wants = to - from,
                      .page_size = PAGE,
                      .pages_stride = N_PAGES,
                      .token = tokens + from,
                      .pos = pos,
                      .kv_slot = kv,
                      .q_start = (int32_t[]){0, to - from},
                      .kv_len = &to,
                      .slot = (int32_t[]){1},
                      .pages = pages,
                      .want = want};
    const struct result *r;
    CHECK(model_launch(m, 0, &b) == 0 && model_collect(m, 0, &r) == 0);
    for (int32_t i = 0; i < to - from; i++) {
        struct said *s = &said[from + i];
        s->token = r->token[i];
        s->logprob = r->logprob[i];
        CHECK(r->n_top[i] == N_TOP);
        memcpy(s->top_id, r->top_id + i * SL_TOP_MAX, sizeof s->top_id);
        memcpy(s->top, r->top_logprob + i * SL_TOP_MAX, sizeof s->top);
    }
}

/* The prompt in chunks, then greedy decoding with ids that never leave the device. */
static void run(struct model *m, const int32_t *prompt, int32_t n, int32_t chunk, int32_t n_decode,
                struct said *said)
{
    int32_t tokens[TOKENS];
    memcpy(tokens, prompt, (size_t)n * sizeof *tokens);
    assign(m, 1, prompt, n);
    for (int32_t at = 0; at < n; at += chunk)
        step(m, tokens, n, at, at + chunk < n ? at + chunk : n, said);
    for (int32_t k = 1; k < n_decode; k++) {
        tokens[n + k - 1] = -1;
        step(m, tokens, n, n + k - 1, n + k, said);
    }
}

/* ------------------------------------------------------------------ comparing */

struct reference {
    int32_t prompt[TOKENS], greedy[TOKENS];
    double margin[TOKENS];
    int n, n_greedy, first_row, n_rows;
    float *rows;
};

static void read_case(struct reference *r, const char *dir, const json_node *c, int n_vocab)
{
    char name[64];
    *r = (struct reference){0};
    r->n = read_ids(json_get(c, "prompt_token_ids"), r->prompt, TOKENS);
    r->n_greedy = read_ids(json_get(c, "greedy_token_ids"), r->greedy, TOKENS);
    int k = 0;
    for (const json_node *v = json_child(json_get(c, "greedy_margin")); v; v = json_next(v))
        r->margin[k++] = json_num(v);
    struct str file = json_str(json_get(c, "logits_file"));
    snprintf(name, sizeof name, "%.*s", (int)file.n, file.p);
    r->rows = read_npy(dir, name, n_vocab, &r->n_rows);
    r->first_row = r->n - r->n_rows;
}

static double worst_error(const struct reference *r, const struct said *said, int n_vocab)
{
    double worst = 0.0;
    for (int i = 0; i < r->n_rows; i++) {
        const float *row = r->rows + (size_t)i * (size_t)n_vocab;
        const struct said *s = &said[r->first_row + i];
        double sum = log_sum(row, n_vocab);
        for (int k = 0; k < N_TOP; k++)
            worst = fmax(worst, fabs((double)s->top[k] - ((double)row[s->top_id[k]] - sum)));
        worst = fmax(worst, fabs((double)s->logprob - ((double)row[s->token] - sum)));
        if (isnan(s->top[0])) worst = INFINITY;
    }
    return worst;
}

static void check_greedy(const char *dir, const struct reference *r, const struct said *said)
{
    for (int k = 0; k < r->n_greedy; k++) {
        int32_t got = said[r->n - 1 + k].token;
        if (got == r->greedy[k]) continue;
        CHECK_MSG(r->margin[k] <= LOOSE, "%s, prompt of %d: token %d is %d, not %d (margin %g)",
                  dir, r->n, k, got, r->greedy[k], r->margin[k]);
        return;
    }
}

static void check_case(struct model *m, struct model *unfused, const char *dir,
                       const struct reference *r, int n_vocab)
{
    static struct said whole[TOKENS], other[TOKENS];
    const int32_t chunks[] = {7, 1};
    memset(whole, 0, sizeof whole);
    /* On the GPU bits depend on whether a step has more rows than 64 (cuda_dev.h): the longest
     * prompt goes in two. */
    int32_t most = is_gpu && r->n > 64 ? 60 : r->n;
    run(m, r->prompt, r->n, most, r->n_greedy, whole);
    double worst = worst_error(r, whole, n_vocab);
    CHECK_MSG(worst <= LOOSE, "%s, prompt of %d: log probability off by %g", dir, r->n, worst);
    check_greedy(dir, r, whole);
    for (int c = 0; c < 2; c++) {
        memset(other, 0, sizeof other);
        run(m, r->prompt, r->n, chunks[c], r->n_greedy, other);
        CHECK_MSG(memcmp(whole, other, sizeof whole) == 0, "%s, prompt of %d: chunks of %d differ",
                  dir, r->n, chunks[c]);
    }
    memset(other, 0, sizeof other);
    run(unfused, r->prompt, r->n, most, r->n_greedy, other);
    CHECK_MSG(memcmp(whole, other, sizeof whole) == 0,
              "%s, prompt of %d: fusion changes the answer", dir, r->n);

    if (is_gpu) return; /* its frequencies are on the device already */
    struct plan *p = model_plan(m);
    float exact[128];
    int32_t half = p->config.rope.rotary_dim / 2;
    memcpy(exact, p->rope_freq, (size_t)half * sizeof *exact);
    for (int32_t i = 0; i < half; i++) p->rope_freq[i] = bf16_to_f32(f32_to_bf16(exact[i]));
    run(m, r->prompt, r->n, r->n, r->n_greedy, other);
    worst = worst_error(r, other, n_vocab);
    CHECK_MSG(worst <= TIGHT, "%s, prompt of %d: log probability off by %g", dir, r->n, worst);
    check_greedy(dir, r, other);
    memcpy(p->rope_freq, exact, (size_t)half * sizeof *exact);
}

static void check_model(const char *root, const char *name)
{
    char dir[400];
    struct sl_info info;
    struct json_doc *doc;
    size_t n;
    snprintf(dir, sizeof dir, "%s/models/%s", root, name);
    char *text = slurp(dir, "golden.json", &n);
    if (!text) return; /* not in this clone */
    struct model *m = open_model(dir, true, &info), *unfused = open_model(dir, false, &info);
    CHECK(json_parse(&doc, text, n, &json_limits_file, NULL) == 0);
    if (m && unfused) {
        CHECK(info.num_blocks == N_PAGES && info.n_vocab == 320 &&
              strcmp(info.weight_types, "BF16") == 0);
        for (const json_node *c = json_child(json_get(json_root(doc), "cases")); c;
             c = json_next(c)) {
            struct reference r;
            read_case(&r, dir, c, info.n_vocab);
            check_case(m, unfused, dir, &r, info.n_vocab);
            free(r.rows);
        }
    }
    json_free(doc);
    free(text);
    model_close(m);
    model_close(unfused);
}

TEST(own_models)
{
    if (is_absent()) return;
    static const char *const names[] = {"llama", "mistral_swa", "qwen3"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) check_model(TEST_DATA, names[i]);
}

TEST(all_variants)
{
    if (is_absent()) return;
    static const char *const names[] = {"llama",           "llama3_rope",       "llama_tied_mha",
                                        "llama_attn_bias", "llama_linear_rope", "mistral_swa",
                                        "qwen2",           "qwen2_yarn",        "qwen3"};
    if (access(SHARED_DATA, R_OK) != 0) return;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) check_model(SHARED_DATA, names[i]);
}

/* Two sequences share a batch: each must say what it says alone. */
TEST(batch_of_two)
{
    if (is_absent()) return;
    struct sl_info info;
    struct model *m = open_model(TEST_DATA "/models/llama", true, &info);
    if (!m) return;
    static struct said alone[TOKENS];
    int32_t tokens[24], pos[24], kv[24], pages[2 * N_PAGES], q_start[] = {0, 10, 24},
                                                             len[] = {10, 14};
    for (int i = 0; i < 24; i++) tokens[i] = (i * 37 + 5) % 320;
    for (int i = 0; i < 2 * N_PAGES; i++) pages[i] = i < N_PAGES ? N_PAGES - 1 - i : i - N_PAGES;
    for (int i = 0; i < 24; i++) {
        int s = i >= 10;
        pos[i] = i - q_start[s];
        kv[i] = pages[s * N_PAGES + pos[i] / PAGE] * PAGE + pos[i] % PAGE;
    }
    struct want want[] = {{.row = 9, .seq = 0, .target = -1, .n_top = N_TOP},
                          {.row = 23, .seq = 1, .target = -1, .n_top = N_TOP}};
    struct batch b = {.n_tokens = 24,
                      .n_seqs = 2,
                      .n_wants = 2,
                      .page_size = PAGE,
                      .pages_stride = N_PAGES,
                      .token = tokens,
                      .pos = pos,
                      .kv_slot = kv,
                      .q_start = q_start,
                      .kv_len = len,
                      .slot = (int32_t[]){0, 1},
                      .pages = pages,
                      .want = want};
    const struct result *r;
    struct said both[2];
    assign(m, 0, tokens, 10);
    assign(m, 1, tokens + 10, 14);
    CHECK(model_launch(m, 0, &b) == 0 && model_collect(m, 0, &r) == 0);
    for (int i = 0; i < 2; i++) {
        both[i].token = r->token[i];
        memcpy(both[i].top, r->top_logprob + i * SL_TOP_MAX, sizeof both[i].top);
    }
    for (int s = 0; s < 2; s++) {
        run(m, tokens + q_start[s], len[s], len[s], 4, alone); /* and decode, for sanitizers */
        CHECK(alone[len[s] - 1].token == both[s].token);
        CHECK(memcmp(alone[len[s] - 1].top, both[s].top, sizeof both[s].top) == 0);
    }
    model_close(m);
}
