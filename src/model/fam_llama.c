/* fam_llama.c - Llama and its closest kin: one set of tables, told apart by flags.
 *
 * Pre-norm decoder: RMS norm, grouped-query attention with rotation, gated feed-forward. Mistral
 * adds a sliding window, Qwen2 biases on q, k and v, Qwen3 a norm of each q and k head.
 */
#include "model/spec.h"

#define INT(field) offsetof(struct model_config, field)

/* clang-format off */
static const struct key llama_keys[] = {
    {.name = "attention_bias", .kind = KEY_FLAG, .flags = FLAG_QKV_BIAS | FLAG_O_BIAS},
    {.name = "mlp_bias", .kind = KEY_FLAG, .flags = FLAG_MLP_BIAS},
    {0},
};
static const struct key mistral_keys[] = {
    {.name = "sliding_window", .kind = KEY_INT, .offset = INT(window), .max = POSITIONS_MAX},
    {.name = "layer_types", .kind = KEY_LAYERS},
    {0},
};
static const struct key qwen2_keys[] = {
    {.name = "sliding_window", .kind = KEY_INT, .offset = INT(window), .max = POSITIONS_MAX},
    {.name = "use_sliding_window", .kind = KEY_FLAG, .flags = FLAG_WINDOW},
    {.name = "max_window_layers", .kind = KEY_INT, .offset = INT(window_from), .max = LAYERS_MAX},
    {.name = "layer_types", .kind = KEY_LAYERS},
    {0},
};
static const struct key qwen3_keys[] = {
    {.name = "attention_bias", .kind = KEY_FLAG, .flags = FLAG_QKV_BIAS | FLAG_O_BIAS},
    {.name = "sliding_window", .kind = KEY_INT, .offset = INT(window), .max = POSITIONS_MAX},
    {.name = "use_sliding_window", .kind = KEY_FLAG, .flags = FLAG_WINDOW},
    {.name = "max_window_layers", .kind = KEY_INT, .offset = INT(window_from), .max = LAYERS_MAX},
    {.name = "layer_types", .kind = KEY_LAYERS},
    {0},
};

#define L "model.layers.#."
static const struct weight_spec weights[] = {
    {W_EMBED, "embed", false, DIM_HIDDEN, SHARD_ROWS, 0, 0, {{DIM_VOCAB, "model.embed_tokens.weight"}}},
    {W_ATTN_NORM, "attn_norm", true, DIM_ONE, SHARD_NONE, 0, 0, {{DIM_HIDDEN, L "input_layernorm.weight"}}},
    {W_QKV, "qkv", true, DIM_HIDDEN, SHARD_ROWS, 0, 0, {{DIM_Q, L "self_attn.q_proj.weight"},
        {DIM_KV, L "self_attn.k_proj.weight"}, {DIM_KV, L "self_attn.v_proj.weight"}}},
    {W_QKV_BIAS, "qkv_bias", true, DIM_ONE, SHARD_ROWS, FLAG_QKV_BIAS, 0, {{DIM_Q, L "self_attn.q_proj.bias"},
        {DIM_KV, L "self_attn.k_proj.bias"}, {DIM_KV, L "self_attn.v_proj.bias"}}},
    {W_Q_NORM, "q_norm", true, DIM_ONE, SHARD_NONE, FLAG_QK_NORM, 0, {{DIM_HEAD, L "self_attn.q_norm.weight"}}},
    {W_K_NORM, "k_norm", true, DIM_ONE, SHARD_NONE, FLAG_QK_NORM, 0, {{DIM_HEAD, L "self_attn.k_norm.weight"}}},
    {W_O, "o", true, DIM_Q, SHARD_COLS, 0, 0, {{DIM_HIDDEN, L "self_attn.o_proj.weight"}}},
    {W_O_BIAS, "o_bias", true, DIM_ONE, SHARD_NONE, FLAG_O_BIAS, 0, {{DIM_HIDDEN, L "self_attn.o_proj.bias"}}},
    {W_FFN_NORM, "ffn_norm", true, DIM_ONE, SHARD_NONE, 0, 0, {{DIM_HIDDEN, L "post_attention_layernorm.weight"}}},
    {W_GATE_UP, "gate_up", true, DIM_HIDDEN, SHARD_ROWS, 0, 0, {{DIM_FFN, L "mlp.gate_proj.weight"},
        {DIM_FFN, L "mlp.up_proj.weight"}}},
    {W_GATE_UP_BIAS, "gate_up_bias", true, DIM_ONE, SHARD_ROWS, FLAG_MLP_BIAS, 0, {{DIM_FFN, L "mlp.gate_proj.bias"},
        {DIM_FFN, L "mlp.up_proj.bias"}}},
    {W_DOWN, "down", true, DIM_FFN, SHARD_COLS, 0, 0, {{DIM_HIDDEN, L "mlp.down_proj.weight"}}},
    {W_DOWN_BIAS, "down_bias", true, DIM_ONE, SHARD_NONE, FLAG_MLP_BIAS, 0, {{DIM_HIDDEN, L "mlp.down_proj.bias"}}},
    {W_FINAL_NORM, "final_norm", false, DIM_ONE, SHARD_NONE, 0, 0, {{DIM_HIDDEN, "model.norm.weight"}}},
    {W_HEAD, "head", false, DIM_HIDDEN, SHARD_ROWS, 0, W_EMBED, {{DIM_VOCAB, "lm_head.weight"}}},
    {0},
};

static const struct op_spec first[] = {{OP_EMBED, S_X, 0, W_EMBED, 0}, {.op = OP_COUNT}};
static const struct op_spec layer[] = {
    {OP_NORM,    S_H,   S_X,   W_ATTN_NORM, 0},
    {OP_LINEAR,  S_QKV, S_H,   W_QKV,       W_QKV_BIAS},
    {OP_ROPE_KV, S_QKV, 0,     W_Q_NORM,    W_K_NORM},
    {OP_ATTN,    S_ATT, S_QKV, 0,           0},
    {OP_LINEAR,  S_H,   S_ATT, W_O,         W_O_BIAS},
    {OP_ADD,     S_X,   S_H,   0,           0},
    {OP_NORM,    S_H,   S_X,   W_FFN_NORM,  0},
    {OP_LINEAR,  S_GU,  S_H,   W_GATE_UP,   W_GATE_UP_BIAS},
    {OP_GLU,     S_ACT, S_GU,  0,           0},
    {OP_LINEAR,  S_H,   S_ACT, W_DOWN,      W_DOWN_BIAS},
    {OP_ADD,     S_X,   S_H,   0,           0},
    {.op = OP_COUNT},
};
static const struct op_spec last[] = {
    {OP_NORM,   S_H,      S_X,      W_FINAL_NORM, 0},
    {OP_POOL,   0,        S_H,      0,            0},
    {OP_GATHER, S_ROWS,   S_H,      0,            0},
    {OP_LOGITS, S_LOGITS, S_ROWS,   W_HEAD,       0},
    {OP_SAMPLE, 0,        S_LOGITS, 0,            0},
    {.op = OP_COUNT},
};

const struct family family_llama = {"llama", 0, llama_keys, weights, first, layer, last};
const struct family family_mistral = {"mistral", FLAG_WINDOW, mistral_keys, weights, first, layer, last};
const struct family family_qwen2 = {"qwen2", FLAG_QKV_BIAS, qwen2_keys, weights, first, layer, last};
const struct family family_qwen3 = {"qwen3", FLAG_QK_NORM, qwen3_keys, weights, first, layer, last};
