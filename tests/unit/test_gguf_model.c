/* test_gguf_model.c - the same model as a GGUF file: rows permuted for neighbour-paired RoPE, other
 * names.
 *
 * The file is written here from tests/data/models/llama. In BF16 it must say bit for bit what the
 * folder says; with Q8_0 weights, the embedding included, nearly that; rope_freqs divides the
 * frequencies.
 */
#include <math.h>
#include <pthread.h>
#include <unistd.h>

#include "backend/cpu.h"
#include "base/test.h"
#include "model/model.h"
#include "model/plan.h"

#define FOLDER TEST_DATA "/models/llama"

enum { META_U32 = 4, META_F32 = 6, META_STR = 8, ALIGN = 32, LAYERS = 3, HEADS = 4, KV_HEADS = 2 };

static void put(struct buf *b, const void *p, size_t n)
{
    buf_put(b, p, n);
}
static void put_u32(struct buf *b, uint32_t x)
{
    put(b, &x, 4);
}
static void put_u64(struct buf *b, uint64_t x)
{
    put(b, &x, 8);
}
static void put_text(struct buf *b, const char *s)
{
    put_u64(b, strlen(s));
    buf_puts(b, s);
}
static void meta_u32(struct buf *b, const char *key, uint32_t x)
{
    put_text(b, key);
    put_u32(b, META_U32);
    put_u32(b, x);
}
static void meta_f32(struct buf *b, const char *key, float x)
{
    put_text(b, key);
    put_u32(b, META_F32);
    put(b, &x, 4);
}

static const struct {
    const char *gguf, *hf;
    int heads;
} stems[] = {{"attn_norm", "input_layernorm", 0},      {"attn_q", "self_attn.q_proj", HEADS},
             {"attn_k", "self_attn.k_proj", KV_HEADS}, {"attn_v", "self_attn.v_proj", 0},
             {"attn_output", "self_attn.o_proj", 0},   {"ffn_norm", "post_attention_layernorm", 0},
             {"ffn_gate", "mlp.gate_proj", 0},         {"ffn_up", "mlp.up_proj", 0},
             {"ffn_down", "mlp.down_proj", 0}};

struct writer {
    const struct checkpoint *from;
    struct buf infos, data;
    uint64_t n;
    bool is_q8;
};

static void quantize_row(const float *x, int64_t n, struct buf *out)
{
    for (int64_t i = 0; i < n; i += 32) {
        float max = 0.0f;
        for (int k = 0; k < 32; k++) max = fmaxf(max, fabsf(x[i + k]));
        uint16_t d = f32_to_f16(max / 127.0f);
        put(out, &d, 2);
        for (int k = 0; k < 32; k++) {
            int8_t q = (int8_t)(max > 0.0f ? lrintf(x[i + k] / f16_to_f32(d)) : 0);
            put(out, &q, 1);
        }
    }
}

static void add_info(struct writer *w, const char *name, int n_dims, const int64_t *dims, int ggml)
{
    while (w->data.n % ALIGN) buf_putc(&w->data, 0);
    put_text(&w->infos, name);
    put_u32(&w->infos, (uint32_t)n_dims);
    for (int i = n_dims - 1; i >= 0; i--) put_u64(&w->infos, (uint64_t)dims[i]);
    put_u32(&w->infos, (uint32_t)ggml);
    put_u64(&w->infos, w->data.n);
    w->n++;
}

/* Hugging Face's row a * D/2 + b of a head lies at 2 b + a. */
static int64_t source_row(int64_t r, int64_t rows, int heads)
{
    if (!heads) return r;
    int64_t d = rows / heads, in = r % d;
    return r - in + in % 2 * (d / 2) + in / 2;
}

static void add_tensor(struct writer *w, const char *gguf, const char *hf, int heads)
{
    struct sl_error e = {0};
    const struct tensor *t = checkpoint_find(w->from, hf);
    CHECK_MSG(t != NULL, "%s", hf);
    if (!t) return;
    int64_t rows = t->n_dims == 2 ? t->dims[0] : 1, cols = t->dims[t->n_dims - 1];
    bool is_matrix = t->n_dims == 2;
    uint16_t *raw = xmalloc(t->bytes);
    float *x = xmalloc((size_t)cols * sizeof *x);
    CHECK(checkpoint_read(w->from, t, 0, t->bytes, raw, &e) == 0);
    add_info(w, gguf, t->n_dims, t->dims,
             dtype_info[!is_matrix ? DT_F32
                        : w->is_q8 ? DT_Q8_0
                                   : DT_BF16]
                 .ggml);
    for (int64_t r = 0; r < rows; r++) {
        const uint16_t *row = raw + source_row(r, rows, heads) * cols;
        dtype_expand(DT_BF16, row, cols, x);
        if (!is_matrix)
            put(&w->data, x, (size_t)cols * 4);
        else if (w->is_q8)
            quantize_row(x, cols, &w->data);
        else
            put(&w->data, row, (size_t)cols * 2);
    }
    free(raw);
    free(x);
}

static void write_gguf(const char *path, bool is_q8, bool has_freqs)
{
    struct sl_error e = {0};
    struct checkpoint *from = NULL;
    CHECK_MSG(checkpoint_open(&from, FOLDER, &e) == 0, "%s", e.text);
    struct writer w = {
        .from = from, .infos = buf_make(1 << 20), .data = buf_make(4 << 20), .is_q8 = is_q8};
    struct buf head = buf_make(1 << 20);
    add_tensor(&w, "token_embd.weight", "model.embed_tokens.weight", 0);
    add_tensor(&w, "output_norm.weight", "model.norm.weight", 0);
    add_tensor(&w, "output.weight", "lm_head.weight", 0);
    for (int l = 0; l < LAYERS; l++) {
        for (size_t i = 0; i < sizeof stems / sizeof *stems; i++) {
            char gguf[64], hf[96];
            snprintf(gguf, sizeof gguf, "blk.%d.%s.weight", l, stems[i].gguf);
            snprintf(hf, sizeof hf, "model.layers.%d.%s.weight", l, stems[i].hf);
            add_tensor(&w, gguf, hf, stems[i].heads);
        }
    }
    if (has_freqs) {
        const float four = 4.0f;
        add_info(&w, "rope_freqs.weight", 1, (int64_t[]){32}, dtype_info[DT_F32].ggml);
        for (int i = 0; i < 32; i++) put(&w.data, &four, 4);
    }
    buf_puts(&head, "GGUF");
    put_u32(&head, 3);
    put_u64(&head, w.n);
    put_u64(&head, 10);
    put_text(&head, "general.architecture");
    put_u32(&head, META_STR);
    put_text(&head, "llama");
    meta_u32(&head, "llama.embedding_length", 64);
    meta_u32(&head, "llama.feed_forward_length", 128);
    meta_u32(&head, "llama.block_count", LAYERS);
    meta_u32(&head, "llama.attention.head_count", HEADS);
    meta_u32(&head, "llama.attention.head_count_kv", KV_HEADS);
    meta_u32(&head, "llama.attention.key_length", 64);
    meta_u32(&head, "llama.context_length", 2048);
    meta_f32(&head, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    meta_f32(&head, "llama.rope.freq_base", 10000.0f);
    put(&head, w.infos.p, w.infos.n);
    while (head.n % ALIGN) buf_putc(&head, 0);
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(head.p, 1, head.n, f) == head.n &&
          fwrite(w.data.p, 1, w.data.n, f) == w.data.n);
    if (f) fclose(f);
    buf_free(&head);
    buf_free(&w.infos);
    buf_free(&w.data);
    checkpoint_close(from);
}

static char types[64]; /* of the model asked last */

enum { RANKS_MAX = 4 };
struct asked { /* one rank */
    struct model *m;
    int32_t rank;
    const struct batch *b;
    float top[SL_TOP_MAX];
    pthread_t thread;
};

static void *ask_rank(void *arg)
{
    struct asked *a = arg;
    const struct sl_sampling s = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1};
    const struct result *r = NULL;
    CHECK(model_assign(a->m, a->rank, 0, &(struct slot_init){.sampling = &s}) == 0);
    CHECK(model_launch(a->m, a->rank, a->b) == 0 && model_collect(a->m, a->rank, &r) == 0);
    if (r) memcpy(a->top, r->top_logprob, sizeof a->top);
    return NULL;
}

/* Top log probabilities at the last of 20 tokens, the same on every rank. */
static void ask(const char *path, int32_t n_ranks, float top[SL_TOP_MAX], struct sl_info *info,
                float *freq1)
{
    struct sl_error e = {0};
    struct model *m = NULL;
    struct sl_options o = {.model = path,
                           .device = "cpu",
                           .n_threads = 1,
                           .tensor_parallel_size = n_ranks,
                           .max_num_seqs = 1,
                           .num_gpu_blocks_override = 2};
    const struct want want = {.row = 19, .target = -1, .n_top = SL_TOP_MAX};
    int32_t tokens[20], pos[20];
    for (int i = 0; i < 20; i++) {
        tokens[i] = i * 31 % 320;
        pos[i] = i;
    }
    CHECK_MSG(model_open(&m, &o, info, &e) == 0, "%s: %s", path, e.text);
    if (!m) return;
    struct batch b = {.n_tokens = 20,
                      .n_seqs = 1,
                      .n_wants = 1,
                      .page_size = 16,
                      .pages_stride = 2,
                      .token = tokens,
                      .pos = pos,
                      .kv_slot = pos,
                      .q_start = (int32_t[]){0, 20},
                      .kv_len = (int32_t[]){20},
                      .slot = (int32_t[]){0},
                      .pages = (int32_t[]){0, 1},
                      .want = &want};
    struct asked asked[RANKS_MAX] = {0};
    for (int32_t r = 0; r < n_ranks; r++) {
        asked[r] = (struct asked){.m = m, .rank = r, .b = &b};
        CHECK(pthread_create(&asked[r].thread, NULL, ask_rank, &asked[r]) == 0);
    }
    for (int32_t r = 0; r < n_ranks; r++) pthread_join(asked[r].thread, NULL);
    for (int32_t r = 1; r < n_ranks; r++)
        CHECK(memcmp(asked[0].top, asked[r].top, sizeof asked[0].top) == 0);
    memcpy(top, asked[0].top, sizeof asked[0].top);
    *freq1 = model_plan(m)->rope_freq[1];
    snprintf(types, sizeof types, "%s", info->weight_types); /* info borrows it from the model */
    model_close(m);
}

TEST(gguf_equals_folder)
{
    float folder[SL_TOP_MAX], file[SL_TOP_MAX], freq, freq_file;
    struct sl_info info;
    char path[64];
    snprintf(path, sizeof path, "/tmp/sluice-test-%d.gguf", (int)getpid());
    ask(FOLDER, 1, folder, &info, &freq);
    write_gguf(path, false, false);
    ask(path, 1, file, &info, &freq_file);
    CHECK(memcmp(folder, file, sizeof folder) == 0 && freq == freq_file);
    CHECK(strcmp(types, "BF16") == 0 && info.n_parameters == 262592);
    write_gguf(path, true, true);
    ask(path, 1, file, &info, &freq_file);
    CHECK(strcmp(types, "Q8_0") == 0 && freq == 4.0f * freq_file);
    write_gguf(path, true, false);
    ask(path, 1, file, &info, &freq_file);
    for (int i = 0; i < SL_TOP_MAX; i++)
        CHECK_MSG(fabsf(folder[i] - file[i]) < 0.1f, "%d: %g %g", i, (double)folder[i],
                  (double)file[i]);
    unlink(path);
}

/* Ranks hold heads whose rows are permuted in the file, and columns of quantized rows. On kernels that
 * take activations as they are, the answer is that of one rank up to the order of sums. */
TEST(ranks_share_a_file)
{
    float one[SL_TOP_MAX], some[SL_TOP_MAX], freq;
    struct sl_info info;
    char path[64];
    snprintf(path, sizeof path, "/tmp/sluice-test-%d.gguf", (int)getpid());
    cpu_isa_force(CPU_ISA_PLAIN);
    for (int quantized = 0; quantized < 2; quantized++) {
        write_gguf(path, quantized, false);
        ask(path, 1, one, &info, &freq);
        for (int32_t n = 2; n <= RANKS_MAX; n += 2) {
            ask(path, n, some, &info, &freq);
            CHECK(info.n_parameters == 262592 && info.n_ranks == n);
            for (int i = 0; i < SL_TOP_MAX; i++)
                CHECK_MSG(fabsf(one[i] - some[i]) < 1e-4f, "%d ranks, %d: %g %g", n, i,
                          (double)one[i], (double)some[i]);
        }
    }
    cpu_isa_force(-1);
    unlink(path);
}
