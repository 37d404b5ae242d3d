/* test_plan.c - config.json to plan: what is read, refused, counted and lowered; options; dummy
 * weights. */
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/dummy.h"
#include "base/json.h"
#include "base/test.h"
#include "model/model.h"
#include "model/plan.h"

/* ------------------------------------------------------------------ a device that has everything
 */

static int no_op(struct dev *d, const struct batch *b, const struct step *s)
{
    (void)d, (void)b, (void)s;
    return 0;
}
static size_t row_bytes(enum dtype type, int64_t rows, int64_t cols)
{
    return (size_t)rows * dtype_row_bytes(type, cols);
}
static struct device device_of(uint32_t without)
{
    struct device d = {.name = "test",
                       .act_type = DT_BF16,
                       .sum_type = DT_F32,
                       .kv_type = DT_BF16,
                       .weight_bytes = row_bytes};
    for (int i = 0; i < OP_COUNT; i++) d.ops[i] = without & 1u << i ? NULL : no_op;
    return d;
}

static int read_text(struct model_config *c, const char *text, struct sl_error *e)
{
    struct json_doc *doc;
    int code = json_parse(&doc, text, strlen(text), &json_limits_file, e);
    if (code < 0) return code;
    code = config_read(c, json_root(doc), e);
    json_free(doc);
    return code;
}

/* ------------------------------------------------------------------ config */

#define SHAPE(hidden, ffn, layers, heads, kv, vocab, more)                                         \
    "\"hidden_size\":" #hidden ",\"intermediate_size\":" #ffn ",\"num_hidden_layers\":" #layers    \
    ",\"num_attention_heads\":" #heads ",\"num_key_value_heads\":" #kv ",\"vocab_size\":" #vocab   \
    ",\"max_position_embeddings\":4096,\"rms_norm_eps\":1e-5" more "}"

static const char *const llama31_8b =
    "{\"model_type\":\"llama\",\"hidden_act\":\"silu\",\"torch_dtype\":\"bfloat16\",\"rope_theta\":"
    "500000.0,"
    "\"rope_scaling\":{\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
    "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"}," SHAPE(
        4096, 14336, 32, 32, 8, 128256, ",\"tie_word_embeddings\":false");

/* clang-format off */
TEST(parameter_counts)
{
    const struct device d = device_of(0);
    static const struct {
        const char *config;
        double billions;
    } rows[] = {
        {"{\"model_type\":\"llama\"," SHAPE(4096, 14336, 32, 32, 8, 128256, ""), 8.030},
        {"{\"model_type\":\"llama\"," SHAPE(2048, 8192, 16, 32, 8, 128256, ",\"tie_word_embeddings\":true"), 1.236},
        {"{\"model_type\":\"mistral\"," SHAPE(4096, 14336, 32, 32, 8, 32000, ",\"sliding_window\":4096"), 7.242},
        {"{\"model_type\":\"qwen2\"," SHAPE(3584, 18944, 28, 28, 4, 152064, ""), 7.616},
        {"{\"model_type\":\"qwen3\"," SHAPE(4096, 12288, 36, 32, 8, 151936, ",\"head_dim\":128"), 8.191},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct model_config c;
        struct plan p;
        struct sl_error e = {0};
        struct plan_target t = {.device = &d, .n_ranks = 1, .fuse = true};
        CHECK_MSG(read_text(&c, rows[i].config, &e) == 0, "%s", e.text);
        CHECK(plan_open(&p, &c, &t, &e) == 0);
        double n = (double)plan_parameters(&p) / 1e9;
        CHECK_MSG(fabs(n - rows[i].billions) < 0.0006, "%s: %.4f", c.family->model_type, n);
        CHECK(weights_find(&p, NULL, true, -1, &e) == 0);
        CHECK(fabs((double)weights_bytes(&p) / 2e9 - n) < 0.001);
        plan_close(&p);
    }
}

TEST(config_is_checked)
{
    static const struct {
        const char *text, *says;
        int code;
    } rows[] = {
        {"{}", "model_type is missing", SL_EFORMAT},
        {"{\"model_type\":\"gpt2\"}", "\"gpt2\" is not supported (llama, mistral, qwen2, qwen3 are)", SL_EUNSUPPORTED},
        {"{\"model_type\":\"llama\"}", "hidden_size is missing", SL_EFORMAT},
        {"{\"model_type\":\"llama\",\"hidden_size\":\"64\"}", "hidden_size is of type string, not integer", SL_EFORMAT},
        {"{\"model_type\":\"llama\",\"hidden_size\":64.0}", "hidden_size is of type number", SL_EFORMAT},
        {"{\"model_type\":\"llama\",\"hidden_size\":-1}", "hidden_size is -1, not within 1", SL_EFORMAT},
        {"{\"model_type\":\"llama\",\"hidden_size\":9223372036854775807}", "hidden_size is 9.2", SL_EFORMAT},
        {"{\"model_type\":\"llama\"," SHAPE(64, 64, 1000000, 4, 4, 64, ""), "num_hidden_layers is 1e+06", SL_EFORMAT},
        {"{\"model_type\":\"llama\"," SHAPE(64, 64, 1, 4, 3, 64, ""), "4 attention heads are no multiple of 3", SL_EFORMAT},
        {"{\"model_type\":\"llama\"," SHAPE(65, 64, 1, 4, 4, 64, ""), "hidden_size 65 is no multiple", SL_EFORMAT},
        {"{\"model_type\":\"llama\"," SHAPE(12, 64, 1, 4, 4, 64, ""), "head_dim 3 is not even", SL_EUNSUPPORTED},
        {"{\"model_type\":\"llama\"," SHAPE(4096, 64, 1, 4, 4, 64, ""), "head_dim 1024", SL_EUNSUPPORTED},
        {"{\"model_type\":\"llama\"," SHAPE(64, 64, 1, 4, 4, 64, ",\"hidden_act\":\"relu\""), "hidden_act \"relu\"", SL_EUNSUPPORTED},
        {"{\"model_type\":\"llama\"," SHAPE(64, 64, 1, 4, 4, 64, ",\"torch_dtype\":\"int8\""), "dtype \"int8\"", SL_EUNSUPPORTED},
        {"{\"model_type\":\"llama\"," SHAPE(64, 64, 1, 4, 4, 64, ",\"quantization_config\":{}"), "quantization_config", SL_EUNSUPPORTED},
        {"{\"model_type\":\"llama\"," SHAPE(64, 64, 1, 4, 4, 64, ",\"attention_bias\":1"), "attention_bias is of type integer", SL_EFORMAT},
        {"{\"model_type\":\"llama\"," SHAPE(64, 64, 1, 4, 4, 64, ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2.0}"), "rope type \"dynamic\"", SL_EUNSUPPORTED},
        {"{\"model_type\":\"llama\"," SHAPE(64, 64, 1, 4, 4, 64, ",\"rope_scaling\":{\"type\":\"linear\"}"), "factor is missing", SL_EFORMAT},
        {"{\"model_type\":\"llama\"," SHAPE(64, 64, 1, 4, 4, 64, ",\"rope_scaling\":[]"), "no object", SL_EFORMAT},
        {"{\"model_type\":\"llama\"," SHAPE(64, 64, 1, 4, 4, 64, ",\"rope_theta\":1e300"), "rope_theta is 1e+300", SL_EFORMAT},
        {"{\"model_type\":\"llama\"," SHAPE(64, 64, 1, 4, 4, 64, ",\"partial_rotary_factor\":0.01"), "rope turns 0 of 16", SL_EFORMAT},
        {"{\"model_type\":\"qwen2\"," SHAPE(64, 64, 2, 4, 4, 64, ",\"layer_types\":[\"full_attention\"]"), "layer_types has 1 entries for 2", SL_EFORMAT},
        {"{\"model_type\":\"qwen2\"," SHAPE(64, 64, 1, 4, 4, 64, ",\"layer_types\":[\"linear_attention\"]"), "layer_types[0] \"linear_attention\"", SL_EUNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct model_config c;
        struct sl_error e = {0};
        int code = read_text(&c, rows[i].text, &e);
        CHECK_MSG(code == rows[i].code && strstr(e.text, rows[i].says), "%s gave %d \"%s\"", rows[i].text, code, e.text);
    }
}

TEST(windows)
{
    static const struct {
        const char *text;
        int32_t window[3];
    } rows[] = {
        {"{\"model_type\":\"mistral\"," SHAPE(64, 64, 3, 4, 4, 64, ",\"sliding_window\":16"), {16, 16, 16}},
        {"{\"model_type\":\"mistral\"," SHAPE(64, 64, 3, 4, 4, 64, ",\"sliding_window\":null"), {0, 0, 0}},
        {"{\"model_type\":\"llama\"," SHAPE(64, 64, 3, 4, 4, 64, ",\"sliding_window\":16"), {0, 0, 0}},
        {"{\"model_type\":\"qwen2\"," SHAPE(64, 64, 3, 4, 4, 64, ",\"sliding_window\":16"), {0, 0, 0}},
        {"{\"model_type\":\"qwen2\"," SHAPE(64, 64, 3, 4, 4, 64, ",\"sliding_window\":16,\"use_sliding_window\":true,"
         "\"max_window_layers\":2"), {0, 0, 16}},
        {"{\"model_type\":\"qwen3\"," SHAPE(64, 64, 3, 4, 4, 64, ",\"sliding_window\":16,\"use_sliding_window\":true,"
         "\"max_window_layers\":2,\"layer_types\":[\"sliding_attention\",\"full_attention\",\"full_attention\"]"), {16, 0, 0}},
    };
    const struct device d = device_of(0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct model_config c;
        struct plan p;
        struct sl_error e = {0};
        CHECK_MSG(read_text(&c, rows[i].text, &e) == 0, "%s", e.text);
        CHECK(plan_open(&p, &c, &(struct plan_target){.device = &d, .n_ranks = 1}, &e) == 0);
        for (int k = 0; k < 3; k++) CHECK_MSG(p.layers[k].window == rows[i].window[k], "row %zu, layer %d", i, k);
        plan_close(&p);
    }
}

/* clang-format on */
/* Expected values: transformers' formulas by hand. */
TEST(rope)
{
    float f[64], m;
    struct rope_config r = {.type = ROPE_DEFAULT,
                            .rotary_dim = 128,
                            .theta = 1e4,
                            .factor = 4.0,
                            .original_max = 8192,
                            .low_freq_factor = 1,
                            .high_freq_factor = 4,
                            .beta_fast = 32,
                            .beta_slow = 1,
                            .truncate = true};
    rope_frequencies(&r, NULL, f, &m);
    CHECK(f[0] == 1.0f && fabs((double)f[32] - 0.01) < 1e-9 && m == 1.0f);
    r.type = ROPE_LINEAR;
    rope_frequencies(&r, NULL, f, &m);
    CHECK(f[0] == 0.25f && m == 1.0f);
    r.type = ROPE_LLAMA3;
    r.theta = 5e5;
    r.factor = 8.0;
    rope_frequencies(&r, NULL, f, &m);
    CHECK(f[0] == 1.0f && fabs((double)f[63] * 8.0 / pow(5e5, -126.0 / 128) - 1.0) < 1e-6);
    double wave = 6.283185307179586 * pow(5e5, 64.0 / 128),
           keep = (8192 / wave - 1) / 3; /* pair 32 is between */
    double base = 1.0 / pow(5e5, 64.0 / 128);
    CHECK(fabs((double)f[32] - ((1 - keep) * base / 8 + keep * base)) < 1e-9);
    r.type = ROPE_YARN;
    r.theta = 1e6;
    r.factor = 4.0;
    r.original_max = 32768;
    rope_frequencies(&r, NULL, f, &m);
    CHECK(f[0] == 1.0f && fabs((double)m - (0.1 * log(4.0) + 1.0)) < 1e-6);
    CHECK(fabs((double)f[63] * 4.0 / pow(1e6, -126.0 / 128) - 1.0) < 1e-6);
    r.mscale = 0.707;
    r.mscale_all_dim = 0.707;
    rope_frequencies(&r, NULL, f, &m);
    CHECK(m == 1.0f);
    r.attn_factor = 1.5;
    rope_frequencies(&r, NULL, f, &m);
    CHECK(m == 1.5f);
    float factors[64];
    for (int i = 0; i < 64; i++) factors[i] = (float)(i + 1);
    r.type = ROPE_FREQ_FACTORS;
    rope_frequencies(&r, factors, f, &m);
    CHECK(f[0] == 1.0f && fabs((double)f[1] * 2.0 - pow(1e6, -2.0 / 128)) < 1e-6 && m == 1.0f);

    struct model_config c;
    struct sl_error e = {0};
    CHECK(read_text(&c, llama31_8b, &e) == 0 && c.rope.type == ROPE_LLAMA3 &&
          c.rope.theta == 500000.0 && c.max_positions == 4096);
    CHECK(read_text(&c,
                    "{\"model_type\":\"qwen2\"," SHAPE(
                        64, 64, 1, 4, 4, 64,
                        ",\"rope_scaling\":{\"type\":\"yarn\","
                        "\"factor\":4.0,\"original_max_position_embeddings\":4096}"),
                    &e) == 0 &&
          c.max_positions == 16384);
    CHECK(read_text(
              &c,
              "{\"model_type\":\"llama\"," SHAPE(64, 64, 1, 4, 4, 64,
                                                 ",\"rope_parameters\":{\"rope_type\":"
                                                 "\"linear\",\"factor\":2.0,\"rope_theta\":5000}"),
              &e) == 0 &&
          c.max_positions == 8192 && c.rope.theta == 5000.0);
}

/* ------------------------------------------------------------------ lowering */

#define OP_NAME(name, formula) #name,
static const char *const names[] = {OPS(OP_NAME)};
#undef OP_NAME

enum { STEPS_TEXT = 1024 };

static void steps_text(const struct plan *p, char *out)
{
    int n = 0;
    for (int32_t i = 0; i < p->n_steps; i++)
        n += snprintf(out + n, STEPS_TEXT - (size_t)n, "%s ", names[p->steps[i].op]);
}

/* clang-format off */
TEST(lowering)
{
    static const struct {
        uint32_t without;
        int32_t n_ranks;
        bool fuse;
        const char *steps, *says;
    } rows[] = {
        {0, 1, true, "EMBED NORM LINEAR ROPE_KV ATTN LINEAR ADD_NORM LINEAR_GLU LINEAR ADD_NORM POOL GATHER LOGITS SAMPLE ", NULL},
        {1u << OP_LINEAR_GLU, 1, true, "EMBED NORM LINEAR ROPE_KV ATTN LINEAR ADD_NORM LINEAR GLU LINEAR ADD_NORM POOL GATHER LOGITS SAMPLE ", NULL},
        {0, 1, false, "EMBED NORM LINEAR ROPE_KV ATTN LINEAR ADD NORM LINEAR GLU LINEAR ADD NORM POOL GATHER LOGITS SAMPLE ", NULL},
        {1u << OP_ADD_NORM, 1, true, "EMBED NORM LINEAR ROPE_KV ATTN LINEAR ADD NORM LINEAR_GLU LINEAR ADD NORM POOL GATHER LOGITS SAMPLE ", NULL},
        {0, 2, true, "EMBED REDUCE NORM LINEAR ROPE_KV ATTN LINEAR REDUCE_NORM LINEAR_GLU LINEAR REDUCE_NORM POOL GATHER LOGITS DEAL SAMPLE SHARE ", NULL},
        {1u << OP_REDUCE_NORM, 4, true, "EMBED REDUCE NORM LINEAR ROPE_KV ATTN LINEAR REDUCE ADD_NORM LINEAR_GLU LINEAR REDUCE ADD_NORM POOL GATHER LOGITS DEAL SAMPLE SHARE ", NULL},
        {0, 2, false, "EMBED REDUCE NORM LINEAR ROPE_KV ATTN LINEAR REDUCE ADD NORM LINEAR GLU LINEAR REDUCE ADD NORM POOL GATHER LOGITS DEAL SAMPLE SHARE ", NULL},
        {1u << OP_POOL, 1, true, "EMBED NORM LINEAR ROPE_KV ATTN LINEAR ADD_NORM LINEAR_GLU LINEAR ADD_NORM GATHER LOGITS SAMPLE ", NULL},
        {1u << OP_ATTN, 1, true, NULL, "the test device has no op ATTN, which model type llama needs"},
        {1u << OP_REDUCE, 2, true, NULL, "has no op REDUCE"},
        {1u << OP_DEAL, 2, true, NULL, "has no op DEAL"},
        {0, 3, true, NULL, "cannot be divided by 3 ranks"},
        {0, 8, true, NULL, "cannot be divided by 8 ranks"},
    };
    struct model_config c;
    struct sl_error e = {0};
    CHECK(read_text(&c, "{\"model_type\":\"llama\"," SHAPE(64, 96, 1, 4, 2, 320, ",\"attention_bias\":true"), &e) == 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct device d = device_of(rows[i].without);
        struct plan p;
        char text[STEPS_TEXT];
        struct plan_target t = {.device = &d, .n_ranks = rows[i].n_ranks, .fuse = rows[i].fuse};
        int code = plan_open(&p, &c, &t, &e);
        if (code == 0) code = plan_lower(&p, &t, NULL, &e);
        CHECK_MSG(rows[i].steps ? code == 0 : code < 0 && strstr(e.text, rows[i].says), "row %zu: %s", i, e.text);
        if (code == 0) {
            steps_text(&p, text);
            CHECK_MSG(strcmp(text, rows[i].steps) == 0, "row %zu: %s", i, text);
            int32_t n = rows[i].n_ranks;
            const struct weight *qkv = plan_weight(&p, W_QKV, 0), *o = plan_weight(&p, W_O, 0);
            int32_t kv = 2 / n > 0 ? 2 / n : 1, width = (4 / n + 2 * kv) * 16; /* heads of 16 */
            CHECK(qkv->rows == width && qkv->cols == 64 && qkv->n_parts == 3 && qkv->part[1].rows == kv * 16);
            CHECK(o->rows == 64 && o->cols == 64 / n && strcmp(o->name, "layers.0.o") == 0);
            const struct step *s = &p.steps[n > 1 ? 3 : 2];
            CHECK(s->w == qkv && s->bias && s->bias->cols == width && s->dst.cols == width);
            CHECK(plan_parameters(&p) == 64 * 320 * 2 + 64 * 128 + 128 + 64 * 64 + 64 + 3 * 64 * 96 + 3 * 64);
        }
        plan_close(&p);
    }
}

/* clang-format on */
TEST(slot_sizes)
{
    const struct device d = device_of(0);
    struct model_config c;
    struct plan p;
    struct sl_error e = {0};
    size_t bytes[SLOT_BUFS];
    CHECK(read_text(&c, "{\"model_type\":\"llama\"," SHAPE(64, 96, 1, 4, 2, 320, ""), &e) == 0);
    CHECK(plan_open(&p, &c, &(struct plan_target){.device = &d, .n_ranks = 1}, &e) == 0);
    CHECK(plan_slot_bytes(&p, 10, 3, bytes, &e) == 0);
    CHECK(bytes[0] == 2560 && bytes[1] == 1280 && bytes[2] == 192 * 2 * 10 &&
          bytes[3] == 96 * 2 * 10);
    CHECK(bytes[4] == 384 && bytes[5] == 320 * 4 * 3);
    CHECK(plan_page_bytes(&p, 16) == 16 * 32 * 2 * 2);
    plan_close(&p);
}

/* ------------------------------------------------------------------ opening */

struct folder {
    char path[64];
};

static void write_file(const struct folder *f, const char *name, const void *data, size_t n)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    FILE *out = fopen(path, "wb");
    CHECK(out && fwrite(data, 1, n, out) == n);
    if (out) fclose(out);
}

static struct folder make_folder(const char *config)
{
    struct folder f = {"/tmp/sluice-test-XXXXXX"};
    CHECK(mkdtemp(f.path) != NULL);
    write_file(&f, "config.json", config, strlen(config));
    return f;
}

static void drop_folder(const struct folder *f)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    char path[128];
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", f->path, files[i]);
        unlink(path);
    }
    rmdir(f->path);
}

static int try_open(const struct sl_options *o, struct sl_info *info, struct sl_error *e)
{
    struct model *m = NULL;
    int code = model_open(&m, o, info, e);
    model_close(m);
    return code;
}

#define TINY TEST_DATA "/models/llama"

TEST(options)
{
    static const struct {
        struct sl_options o;
        const char *says;
    } rows[] = {
        {{.model = TINY, .device = "abacus"}, "no device \"abacus\""},
        {{.device = "cpu"}, "no model given"},
        {{.model = TINY "/nowhere", .device = "cpu"}, ""},
        {{.model = TINY, .device = "cpu", .dtype = "int3"}, "unknown dtype"},
        {{.model = TINY, .device = "cpu", .load_format = "magic"}, "unknown load format"},
        {{.model = TINY, .device = "cpu", .max_model_len = 4096},
         "max_model_len 4096 is more than the model's 2048"},
        {{.model = TINY, .device = "cpu", .max_model_len = -1}, "max_model_len is -1"},
        {{.model = TINY, .device = "cpu", .block_size = 257}, "block_size is 257"},
        {{.model = TINY, .device = "cpu", .max_num_seqs = 9, .max_num_batched_tokens = 8},
         "less than max_num_seqs"},
        {{.model = TINY, .device = "sim", .tensor_parallel_size = 2}, "one rank, not 2"},
        {{.model = TINY, .device = "cpu", .tensor_parallel_size = 3},
         "3 ranks; --tensor-parallel-size 2 or 4 would do"},
        {{.model = TINY, .device = "cpu", .max_model_len = 2048, .num_gpu_blocks_override = 4},
         "holds 64 tokens"},
        {{.model = TINY, .device = "cpu", .kv_cache_memory_bytes = 10}, "no memory for a KV page"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sl_error e = {0};
        struct sl_info info;
        CHECK_MSG(try_open(&rows[i].o, &info, &e) < 0 && strstr(e.text, rows[i].says),
                  "row %zu: %s", i, e.text);
    }
}

TEST(sizes)
{
    struct sl_info info = {0};
    struct sl_error e = {0};
    struct sl_options o = {.model = TINY, .device = "auto", .max_num_seqs = 4};
    CHECK_MSG(try_open(&o, &info, &e) == 0, "%s", e.text);
    CHECK(info.max_model_len == 2048 && info.max_num_seqs == 4 && info.block_size == 16);
    CHECK(info.num_blocks == 4 * 128 && info.kv_bytes == 4u * 2048 * 1536);
    CHECK(info.n_parameters == 262592 && info.n_vocab == 320);
    o.num_gpu_blocks_override = 5;
    CHECK(try_open(&o, &info, &e) == 0 && info.num_blocks == 5 && info.max_model_len == 80);
    o.num_gpu_blocks_override = 0;
    o.kv_cache_memory_bytes = 1 << 20;
    CHECK(try_open(&o, &info, &e) == 0 && info.num_blocks == (1 << 20) / (16 * 1536));
    o = (struct sl_options){.device = "sim", .n_vocab = 99};
    CHECK(try_open(&o, &info, &e) == 0 && info.n_vocab == 99 && info.max_model_len == 8192);
    o = (struct sl_options){.device = "sim", .model = TINY};
    CHECK(try_open(&o, &info, &e) == 0 && info.n_vocab == 320 && info.max_model_len == 2048 &&
          strcmp(info.model_type, "llama") == 0);
}

static uint64_t progress_done, progress_total;
static void on_progress(void *arg, const char *what, uint64_t done, uint64_t total)
{
    (void)arg, (void)what;
    CHECK(done > progress_done && done <= total);
    progress_done = done;
    progress_total = total;
}

/* Random weights from config.json alone: the model runs, is finite, and is the same for the same
 * seed. */
TEST(dummy_weights)
{
    struct folder f = make_folder(
        "{\"model_type\":\"qwen2\"," SHAPE(64, 160, 2, 4, 2, 500, ",\"tie_word_embeddings\":true"));
    struct sl_error e = {0};
    struct sl_info info;
    struct sl_options o = {
        .model = f.path, .device = "cpu", .n_threads = 1, .max_num_seqs = 1, .seed = 7};
    CHECK(try_open(&o, &info, &e) == SL_EFORMAT && strstr(e.text, "has no weights"));
    float top[3] = {0};
    for (int i = 0; i < 3; i++) {
        struct model *m = NULL;
        const struct result *r;
        const struct sl_sampling s = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1};
        const struct want w = {.row = 2, .target = -1, .n_top = 1};
        o.load_format = "dummy";
        o.dtype = i == 2 ? "float32" : "auto";
        o.progress = on_progress;
        progress_done = 0;
        CHECK_MSG(model_open(&m, &o, &info, &e) == 0, "%s", e.text);
        if (!m) break;
        CHECK(progress_done == progress_total && progress_total > 0);
        CHECK(strcmp(info.weight_types, i == 2 ? "F32" : "BF16") == 0);
        CHECK(model_assign(m, 0, 0, &(struct slot_init){.sampling = &s}) == 0);
        struct batch b = {.n_tokens = 3,
                          .n_seqs = 1,
                          .n_wants = 1,
                          .page_size = 16,
                          .pages_stride = 1,
                          .token = (int32_t[]){1, 2, 499},
                          .pos = (int32_t[]){0, 1, 2},
                          .kv_slot = (int32_t[]){0, 1, 2},
                          .q_start = (int32_t[]){0, 3},
                          .kv_len = (int32_t[]){3},
                          .slot = (int32_t[]){0},
                          .pages = (int32_t[]){0},
                          .want = &w};
        CHECK(model_launch(m, 0, &b) == 0 && model_collect(m, 0, &r) == 0 && r->token[0] >= 0);
        top[i] = r->logprob[0];
        CHECK(top[i] < 0.0f && top[i] > -6.3f); /* neither one-hot nor flat */
        model_close(m);
    }
    CHECK(top[0] == top[1] && fabsf(top[0] - top[2]) < 0.5f);
    drop_folder(&f);
}

/* A device that keeps rows as they come. */
static void *plain_alloc(struct dev *d, size_t bytes, const char *what, struct sl_error *e)
{
    (void)d, (void)what, (void)e;
    return calloc(1, bytes);
}
static int plain_upload(struct dev *d, int32_t lane, const struct weight_rows *p)
{
    (void)d, (void)lane;
    size_t row = dtype_row_bytes(p->part->type, p->cols);
    memcpy((char *)p->part->data + (size_t)p->row0 * row, p->src, (size_t)p->n * row);
    return 0;
}

/* A device with staging is loaded by several threads, each with a buffer of its own. */
static void *plain_stage(struct dev *d, int32_t lane)
{
    static char stage[LANES_MAX][PIECE_BYTES];
    (void)d;
    return stage[lane];
}

static void free_weights(struct plan *p)
{
    for (int32_t i = 0; i < p->n_weights; i++)
        if (!p->weights[i].same) free(p->weights[i].weight.part[0].data); /* and the others' */
    plan_close(p);
}

/* Loads into a device of its own; free with free_weights. */
static void load_plain(struct plan *p, struct device *d, const struct model_config *config,
                       struct checkpoint *c, int32_t rank)
{
    struct plan_target t = {.device = d, .rank = rank, .n_ranks = 2};
    struct weights_load l = {.checkpoint = c, .seed = 5};
    struct sl_error e = {0};
    CHECK(plan_open(p, config, &t, &e) == 0);
    int code = weights_find(p, c, !c, -1, &e);
    if (code == 0) code = weights_alloc(p, NULL, &e);
    if (code == 0) code = weights_load(p, &l, &e);
    CHECK_MSG(code == 0, "%s", e.text);
}

static void check_shares(struct device *d, const struct model_config *config, struct checkpoint *c)
{
    uint16_t *k = xmalloc(128 * 64 * 2), *down = xmalloc(64 * 128 * 2);
    const struct tensor *tk = checkpoint_find(c, "model.layers.1.self_attn.k_proj.weight");
    const struct tensor *td = checkpoint_find(c, "model.layers.1.mlp.down_proj.weight");
    CHECK(checkpoint_read(c, tk, 0, tk->bytes, k, NULL) == 0 &&
          checkpoint_read(c, td, 0, td->bytes, down, NULL) == 0);
    for (int32_t rank = 0; rank < 2; rank++) {
        struct plan p;
        load_plain(&p, d, config, c, rank);
        const struct weight *qkv = plan_weight(&p, W_QKV, 1), *w = plan_weight(&p, W_DOWN, 1);
        CHECK(qkv->part[1].rows == 64 &&
              memcmp(qkv->part[1].data, k + rank * 64 * 64, 64 * 64 * 2) == 0);
        CHECK(qkv->n_parts == 3); /* in one piece, so that a device may take them as one matrix */
        for (int i = 1; i < 3; i++)
            CHECK((char *)qkv->part[i].data ==
                  (char *)qkv->part[i - 1].data + qkv->part[i - 1].rows * qkv->cols * 2);
        CHECK(w->rows == 64 && w->cols == 64);
        for (int r = 0; r < 64; r++)
            CHECK(memcmp((uint16_t *)w->part[0].data + r * 64, down + r * 128 + rank * 64, 128) ==
                  0);
        free_weights(&p);
    }
    free(k);
    free(down);
}

/* Each rank holds its share: rows of q, k, v, gate and up, columns of o and down, all of the rest.
 */
TEST(shares_of_ranks)
{
    struct device d = device_of(0);
    struct checkpoint *c = NULL;
    struct model_config config;
    struct sl_error e = {0};
    d.alloc = plain_alloc;
    d.upload = plain_upload;
    CHECK(checkpoint_open(&c, TINY, &e) == 0 &&
          config_read(&config, checkpoint_config(c), &e) == 0);
    check_shares(&d, &config, c);
    d.stage = plain_stage;
    check_shares(&d, &config, c);
    checkpoint_close(c);
}

/* Dummy weights are the values of dummy.h, whoever makes them, in whatever order. */
TEST(dummy_values_by_place)
{
    struct device d = device_of(0);
    struct checkpoint *c = NULL;
    struct model_config config;
    struct sl_error e = {0};
    CHECK(checkpoint_open(&c, TINY, &e) == 0 &&
          config_read(&config, checkpoint_config(c), &e) == 0);
    d.alloc = plain_alloc;
    d.upload = plain_upload;
    for (int k = 0; k < 2; k++) {
        struct plan p;
        d.stage = k ? plain_stage : NULL;
        load_plain(&p, &d, &config, NULL, 0);
        int32_t index = 0;
        while (p.weights[index].spec->id != W_QKV || p.weights[index].layer != 1) index++;
        const struct weight *w = &p.weights[index].weight;
        const struct dummy x = {.seed = 5,
                                .weight = (uint32_t)(index * WEIGHT_PARTS_MAX + 2),
                                .scale = sqrtf(3.0f / (float)w->cols) / 32768.0f};
        float v[DUMMY_BLOCK];
        dummy_values(&x, 11, 3, v);
        const uint16_t *row = (const uint16_t *)w->part[2].data + 11 * w->cols + 3 * DUMMY_BLOCK;
        for (int i = 0; i < DUMMY_BLOCK; i++) CHECK(row[i] == f32_to_bf16(v[i]));
        double sum = 0, square = 0;
        for (int64_t i = 0; i < w->part[2].rows * w->cols; i++) {
            double f = (double)bf16_to_f32(((const uint16_t *)w->part[2].data)[i]);
            sum += f, square += f * f * (double)w->cols;
        }
        double n = (double)(w->part[2].rows * w->cols);
        CHECK_MSG(fabs(square / n - 1) < 0.05 && fabs(sum / n) < 0.005, "variance %g, mean %g",
                  square / n, sum / n);
        free_weights(&p);
    }
    checkpoint_close(c);
}

TEST(bad_checkpoints)
{
    static const struct {
        const char *config, *says;
    } rows[] = {
        {"{\"model_type\":\"llama\",\"head_dim\":64," SHAPE(64, 128, 3, 4, 2, 321, ""),
         "tensor model.embed_tokens.weight is [320, 64]; the config wants [321, 64]"},
        {"{\"model_type\":\"llama\",\"head_dim\":64," SHAPE(64, 128, 4, 4, 2, 320, ""),
         "tensor model.layers.3.input_layernorm.weight is missing"},
        {"{\"model_type\":\"qwen3\",\"head_dim\":64," SHAPE(64, 128, 3, 4, 2, 320, ""),
         "self_attn.q_norm.weight is missing"},
        {"{\"model_type\":\"llama\",\"head_dim\":32," SHAPE(64, 128, 3, 4, 2, 320, ""),
         "q_proj.weight is [256, 64]"},
    };
    char *data = xmalloc(1 << 20);
    FILE *in = fopen(TINY "/model.safetensors", "rb");
    size_t n = in ? fread(data, 1, 1 << 20, in) : 0;
    if (in) fclose(in);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct folder f = make_folder(rows[i].config);
        struct sl_error e = {0};
        struct sl_info info;
        struct sl_options o = {.model = f.path, .device = "cpu", .n_threads = 1};
        write_file(&f, "model.safetensors", data, n);
        CHECK_MSG(try_open(&o, &info, &e) == SL_EFORMAT && strstr(e.text, rows[i].says),
                  "row %zu: %s", i, e.text);
        drop_folder(&f);
    }
    free(data);
}

/* The text of `sluice explain`, held against files. */
/* Products of the layers and the head, and each query over what it sees: with a window of 16, at
 * most 16 positions. */
TEST(flops)
{
    static const struct {
        const char *text;
        uint32_t from, to;
        double seen; /* positions, summed over the tokens */
    } rows[] = {
        {"{\"model_type\":\"llama\"," SHAPE(64, 128, 3, 4, 2, 100, ""), 0, 10, 55},
        {"{\"model_type\":\"llama\"," SHAPE(64, 128, 3, 4, 2, 100, ""), 9, 10, 10},
        {"{\"model_type\":\"mistral\"," SHAPE(64, 128, 3, 4, 2, 100, ",\"sliding_window\":16"), 0,
         10, 55},
        {"{\"model_type\":\"mistral\"," SHAPE(64, 128, 3, 4, 2, 100, ",\"sliding_window\":16"), 0,
         20, 136 + 64},
        {"{\"model_type\":\"mistral\"," SHAPE(64, 128, 3, 4, 2, 100, ",\"sliding_window\":16"), 30,
         33, 48},
    };
    const struct device d = device_of(0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct model_config c;
        struct plan p;
        struct sl_error e = {0};
        struct plan_target t = {.device = &d, .n_ranks = 1, .fuse = true};
        CHECK(read_text(&c, rows[i].text, &e) == 0 && plan_open(&p, &c, &t, &e) == 0);
        CHECK(weights_find(&p, NULL, true, -1, &e) == 0);
        CHECK(plan_lower(&p, &t, (void *[SLOT_BUFS]){0}, &e) == 0);
        double n = rows[i].to - rows[i].from, layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128;
        double want = 3 * (2 * n * layer + 4 * rows[i].seen * 64) + 2 * 2 * 64 * 100;
        double got = plan_flops(&p, rows[i].from, rows[i].to, 2);
        CHECK_MSG(fabs(got - want) < 1e-6 * want, "row %zu: %g, not %g", i, got, want);
        plan_close(&p);
    }
}

static void check_explained(int32_t n_ranks, const char *path)
{
    char *text = NULL, want[16384];
    size_t n = 0;
    struct sl_error e = {0};
    FILE *out = open_memstream(&text, &n), *in = fopen(path, "rb");
    CHECK(model_explain(&(struct explain_args){TINY, 4, 1000, n_ranks}, out, &e) == 0);
    fclose(out);
    size_t n_want = in ? fread(want, 1, sizeof want, in) : 0;
    if (in) fclose(in);
    CHECK_MSG(n == n_want && memcmp(text, want, n) == 0, "explain prints:\n%s", text);
    free(text);
}

TEST(explain)
{
    check_explained(1, TEST_DATA "/explain_llama.txt");
    check_explained(2, TEST_DATA "/explain_llama_ranks.txt");
}
