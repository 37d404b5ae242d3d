/* gguf_config.c - GGUF's vocabulary to Hugging Face's: metadata to a config.json document, tensor
 * names by table, so that a family table knows one set of names whatever the file.
 *
 * What GGUF does not say is derived as its writers derive it: head_dim from the widths, tied
 * embeddings from a missing output.weight, biases from the presence of bias tensors, the
 * vocabulary's size from the rows of the embedding. Llama 3's RoPE scaling comes as the tensor
 * rope_freqs.weight, divisors of the frequencies one by one; the config then says rope_type
 * "freq_factors" and the tensor is "model.rope_freqs".
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "load/gguf.h"
#include "load/tensors.h"

enum { CONFIG_TEXT_MAX = 1 << 20, COUNT_MAX = 1 << 28, KEY_MAX = 128 };

/* ------------------------------------------------------------------ data */

static const struct arch {
    const char *gguf, *model_type, *class_name;
    const char *windowed_type, *windowed_class; /* instead, with a sliding window; NULL: the same */
    bool permuted; /* rows of q and k are reordered for neighbour-paired RoPE */
} archs[] = {
    {"llama", "llama", "LlamaForCausalLM", "mistral", "MistralForCausalLM", true},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", NULL, NULL, false},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", NULL, NULL, false},
};

enum rope_rows { ROWS_PLAIN, ROWS_Q, ROWS_K };

/* Stems of tensor names; ".weight" or ".bias" follows in both vocabularies. */
struct stem {
    const char *gguf, *hf;
    enum rope_rows rows;
};

static const struct stem globals[] = {
    {"token_embd", "model.embed_tokens", ROWS_PLAIN},
    {"output_norm", "model.norm", ROWS_PLAIN},
    {"output", "lm_head", ROWS_PLAIN},
};

/* After "blk.%d." and "model.layers.%d.". */
static const struct stem blocks[] = {
    {"attn_norm", "input_layernorm", ROWS_PLAIN},
    {"attn_q", "self_attn.q_proj", ROWS_Q},
    {"attn_k", "self_attn.k_proj", ROWS_K},
    {"attn_v", "self_attn.v_proj", ROWS_PLAIN},
    {"attn_output", "self_attn.o_proj", ROWS_PLAIN},
    {"attn_q_norm", "self_attn.q_norm", ROWS_PLAIN},
    {"attn_k_norm", "self_attn.k_norm", ROWS_PLAIN},
    {"ffn_norm", "post_attention_layernorm", ROWS_PLAIN},
    {"ffn_gate", "mlp.gate_proj", ROWS_PLAIN},
    {"ffn_up", "mlp.up_proj", ROWS_PLAIN},
    {"ffn_down", "mlp.down_proj", ROWS_PLAIN},
};

/* Integers of the config that must be present. */
static const struct count_key {
    const char *gguf, *hf;
} counts[] = {
    {"embedding_length", "hidden_size"},           {"feed_forward_length", "intermediate_size"},
    {"block_count", "num_hidden_layers"},          {"attention.head_count", "num_attention_heads"},
    {"context_length", "max_position_embeddings"},
};

/* ------------------------------------------------------------------ metadata */

struct convert {
    struct checkpoint *c;
    const struct gguf *g;
    const struct arch *arch;
    int file;
    int64_t heads, kv_heads, head_dim;
    struct sl_error *e;
};

static const char *arch_key(const struct convert *v, const char *key, char out[KEY_MAX])
{
    snprintf(out, KEY_MAX, "%s.%s", v->arch->gguf, key);
    return out;
}

static int64_t meta_int(const struct convert *v, const char *key)
{
    char full[KEY_MAX];
    return gguf_int(v->g, arch_key(v, key, full));
}

static double meta_real(const struct convert *v, const char *key, double other)
{
    char full[KEY_MAX];
    return gguf_real(v->g, arch_key(v, key, full), other);
}

static int need_count(const struct convert *v, const char *key, int64_t *out)
{
    *out = meta_int(v, key);
    if (*out < 1 || *out > COUNT_MAX)
        return sl_fail(v->e, SL_EFORMAT, "GGUF metadata: %s.%s is missing or out of range",
                       v->arch->gguf, key);
    return 0;
}

static const struct gguf_tensor *find_tensor(const struct gguf *g, const char *name)
{
    for (size_t i = 0; i < g->n_tensors; i++)
        if (str_is(g->tensors[i].name, name)) return &g->tensors[i];
    return NULL;
}

static void put_key(struct buf *b, const char *key)
{
    if (b->n && b->p[b->n - 1] != '{') buf_putc(b, ',');
    json_put_str(b, str_of(key));
    buf_putc(b, ':');
}

static void put_int(struct buf *b, const char *key, int64_t value)
{
    put_key(b, key);
    buf_put_i64(b, value);
}

static void put_real(struct buf *b, const char *key, double value)
{
    put_key(b, key);
    json_put_float(b, (float)value);
}

static void put_text(struct buf *b, const char *key, const char *value)
{
    put_key(b, key);
    json_put_str(b, str_of(value));
}

static void put_flag(struct buf *b, const char *key, bool value)
{
    put_key(b, key);
    buf_puts(b, value ? "true" : "false");
}

/* Heads and their width, which the tensor map needs too. */
static int read_heads(struct convert *v)
{
    int64_t hidden;
    TRY(need_count(v, "attention.head_count", &v->heads));
    TRY(need_count(v, "embedding_length", &hidden));
    char key[KEY_MAX];
    if (gguf_find(v->g, arch_key(v, "attention.head_count_kv", key)))
        TRY(need_count(v, "attention.head_count_kv", &v->kv_heads));
    else
        v->kv_heads = v->heads;
    v->head_dim = meta_int(v, "attention.key_length");
    int64_t value_dim = meta_int(v, "attention.value_length");
    if (v->head_dim < 0) v->head_dim = hidden / v->heads;
    if (v->head_dim < 1 || v->head_dim > COUNT_MAX || (value_dim >= 0 && value_dim != v->head_dim))
        return sl_fail(v->e, SL_EFORMAT, "GGUF metadata: %s: bad key or value length",
                       v->arch->gguf);
    if (meta_int(v, "expert_count") > 0)
        return sl_fail(v->e, SL_EFORMAT, "GGUF: %s with experts is not supported", v->arch->gguf);
    return 0;
}

/* YaRN's own parameters. llama.cpp multiplies cosine and sine by attn_factor times YaRN's usual
 * magnitude; Hugging Face's attention_factor is the whole product. */
static void put_yarn(const struct convert *v, struct buf *b, double factor)
{
    int64_t original = meta_int(v, "rope.scaling.original_context_length");
    double attn = meta_real(v, "rope.scaling.attn_factor", 1.0);
    double fast = meta_real(v, "rope.scaling.yarn_beta_fast", -1.0);
    double slow = meta_real(v, "rope.scaling.yarn_beta_slow", -1.0);
    if (original > 0) put_int(b, "original_max_position_embeddings", original);
    if (attn != 1.0) put_real(b, "attention_factor", attn * (0.1 * log(factor) + 1.0));
    if (fast > 0.0) put_real(b, "beta_fast", fast);
    if (slow > 0.0) put_real(b, "beta_slow", slow);
}

/* rope_parameters, in the form of transformers 5. */
static int put_rope(const struct convert *v, struct buf *b)
{
    char key[KEY_MAX];
    struct str type = gguf_str(v->g, arch_key(v, "rope.scaling.type", key));
    double theta = meta_real(v, "rope.freq_base", 10000.0);
    double factor = meta_real(v, "rope.scaling.factor", meta_real(v, "rope.scale_linear", 1.0));
    int64_t rotary = meta_int(v, "rope.dimension_count");
    bool yarn = str_is(type, "yarn"), factors = find_tensor(v->g, "rope_freqs.weight") != NULL;
    bool linear = str_is(type, "linear") || (!type.n && factor != 1.0);
    if ((!yarn && !linear && type.n && !str_is(type, "none")) || (factors && (yarn || linear)))
        return sl_fail(v->e, SL_EUNSUPPORTED, "GGUF: rope scaling \"%.*s\"%s is not supported",
                       (int)(type.n < 40 ? type.n : 40), type.n ? type.p : "",
                       factors ? " with rope_freqs.weight" : "");
    if (!(factor >= 1e-6 && factor < 1e6) || !(theta > 0.0 && theta < 1e15))
        return sl_fail(v->e, SL_EFORMAT, "GGUF metadata: rope values out of range");
    put_real(b, "rope_theta", theta);
    put_key(b, "rope_parameters");
    buf_putc(b, '{');
    const char *scaling = linear ? "linear" : "default";
    put_text(b, "rope_type", yarn ? "yarn" : factors ? "freq_factors" : scaling);
    put_real(b, "rope_theta", theta);
    if (yarn || linear) put_real(b, "factor", factor);
    if (yarn) put_yarn(v, b, factor);
    if (rotary > 0 && rotary < v->head_dim)
        put_real(b, "partial_rotary_factor", (double)rotary / (double)v->head_dim);
    buf_putc(b, '}');
    return 0;
}

static int put_vocab(const struct convert *v, struct buf *b)
{
    const struct gguf_tensor *embed = find_tensor(v->g, "token_embd.weight");
    if (!embed || embed->n_dims != 2)
        return sl_fail(v->e, SL_EFORMAT, "GGUF: no matrix token_embd.weight");
    put_int(b, "vocab_size", embed->dims[0]);
    put_flag(b, "tie_word_embeddings", !find_tensor(v->g, "output.weight"));
    put_flag(b, "attention_bias", find_tensor(v->g, "blk.0.attn_q.bias") != NULL);
    put_flag(b, "mlp_bias", find_tensor(v->g, "blk.0.ffn_gate.bias") != NULL);
    return 0;
}

static int put_config(const struct convert *v, struct buf *b)
{
    int64_t window = meta_int(v, "attention.sliding_window");
    double eps = meta_real(v, "attention.layer_norm_rms_epsilon", -1.0);
    if (!(eps >= 0.0 && eps < 1.0))
        return sl_fail(v->e, SL_EFORMAT, "GGUF metadata: no attention.layer_norm_rms_epsilon");
    bool windowed = window > 0 && v->arch->windowed_type;
    buf_putc(b, '{');
    put_text(b, "model_type", windowed ? v->arch->windowed_type : v->arch->model_type);
    put_key(b, "architectures");
    buf_printf(b, "[\"%s\"]", windowed ? v->arch->windowed_class : v->arch->class_name);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        int64_t n;
        TRY(need_count(v, counts[i].gguf, &n));
        put_int(b, counts[i].hf, n);
    }
    put_int(b, "num_key_value_heads", v->kv_heads);
    put_int(b, "head_dim", v->head_dim);
    put_text(b, "hidden_act", "silu");
    put_real(b, "rms_norm_eps", eps);
    if (window > 0) put_int(b, "sliding_window", window);
    TRY(put_rope(v, b));
    TRY(put_vocab(v, b));
    int64_t bos = gguf_int(v->g, "tokenizer.ggml.bos_token_id");
    int64_t eos = gguf_int(v->g, "tokenizer.ggml.eos_token_id");
    if (bos >= 0) put_int(b, "bos_token_id", bos);
    if (eos >= 0) put_int(b, "eos_token_id", eos);
    buf_putc(b, '}');
    return 0;
}

/* {"eos_token_id":[...]}: end of text, of turn, of message, as far as the file names them. */
static void put_generation(const struct gguf *g, struct buf *b)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    buf_puts(b, "{\"eos_token_id\":[");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int64_t id = gguf_int(g, keys[i]);
        if (id < 0 || id > INT32_MAX) continue;
        if (b->p[b->n - 1] != '[') buf_putc(b, ',');
        buf_put_i64(b, id);
    }
    buf_puts(b, "]}");
}

/* ------------------------------------------------------------------ tensors */

/* "blk.12.attn_q.weight" -> layer 12 (-1: global), stem "attn_q", suffix ".weight". */
static bool split_name(struct str name, int *layer, struct str *stem, struct str *suffix)
{
    const char *p = name.p, *end = name.p + name.n;
    *layer = -1;
    if (name.n > 4 && memcmp(p, "blk.", 4) == 0) {
        for (p += 4, *layer = 0; p < end && *p >= '0' && *p <= '9' && *layer < 100000; p++)
            *layer = *layer * 10 + (*p - '0');
        if (p == name.p + 4 || p >= end || *p != '.') return false;
        p++;
    }
    const char *dot = p < end ? memrchr(p, '.', (size_t)(end - p)) : NULL;
    if (!dot) return false;
    *stem = (struct str){p, (size_t)(dot - p)};
    *suffix = (struct str){dot, (size_t)(end - dot)};
    return str_is(*suffix, ".weight") || str_is(*suffix, ".bias");
}

static const struct stem *find_stem(int layer, struct str name)
{
    const struct stem *table = layer < 0 ? globals : blocks;
    size_t n = layer < 0 ? sizeof globals / sizeof *globals : sizeof blocks / sizeof *blocks;
    for (size_t i = 0; i < n; i++)
        if (str_is(name, table[i].gguf)) return &table[i];
    return NULL;
}

static int add_tensor(const struct convert *v, const struct gguf_tensor *src)
{
    struct tensor t = {.name = src->name,
                       .type = src->type,
                       .n_dims = src->n_dims,
                       .bytes = src->bytes,
                       .file = v->file,
                       .offset = src->offset};
    memcpy(t.dims, src->dims, sizeof t.dims);
    struct str stem_name, suffix;
    int layer;
    char name[256];
    const struct stem *stem = NULL;
    if (split_name(src->name, &layer, &stem_name, &suffix)) stem = find_stem(layer, stem_name);
    if (str_is(src->name, "rope_freqs.weight")) t.name = STR("model.rope_freqs");
    if (!stem)
        return tensors_add(v->c, &t, v->e); /* under its own name: no family will ask for it */
    if (layer < 0)
        snprintf(name, sizeof name, "%s%.*s", stem->hf, (int)suffix.n, suffix.p);
    else
        snprintf(name, sizeof name, "model.layers.%d.%s%.*s", layer, stem->hf, (int)suffix.n,
                 suffix.p);
    t.name = str_of(name);
    if (v->arch->permuted && stem->rows != ROWS_PLAIN) {
        int64_t heads = stem->rows == ROWS_Q ? v->heads : v->kv_heads;
        if (t.dims[0] % heads || t.dims[0] / heads % 2)
            return sl_fail(v->e, SL_EFORMAT, "%s: %lld rows are not %lld heads of even width", name,
                           (long long)t.dims[0], (long long)heads);
        t.rope_heads = (int)heads;
    }
    return tensors_add(v->c, &t, v->e);
}

/* ------------------------------------------------------------------ the whole */

static int convert(struct convert *v, struct buf *text)
{
    struct str name = gguf_str(v->g, "general.architecture");
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (str_is(name, archs[i].gguf)) v->arch = &archs[i];
    if (!v->arch)
        return sl_fail(v->e, SL_EUNSUPPORTED,
                       "GGUF architecture \"%.*s\" is not supported (llama, qwen2, qwen3 are)",
                       (int)(name.n < 40 ? name.n : 40), name.n ? name.p : "");
    TRY(read_heads(v));
    TRY(put_config(v, text));
    TRY(json_parse(&v->c->config, text->p, text->n, &json_limits_file, v->e));
    text->n = 0;
    put_generation(v->g, text);
    TRY(json_parse(&v->c->generation, text->p, text->n, &json_limits_file, v->e));
    for (size_t i = 0; i < v->g->n_tensors; i++) TRY(add_tensor(v, &v->g->tensors[i]));
    return 0;
}

int gguf_read(struct checkpoint *c, int file, struct sl_error *e)
{
    struct gguf *g;
    TRY(gguf_open(&g, &c->files[file], e));
    struct convert v = {.c = c, .g = g, .file = file, .e = e};
    struct buf text = buf_make(CONFIG_TEXT_MAX);
    int code = convert(&v, &text);
    buf_free(&text);
    gguf_close(g);
    return code;
}
