/* spec.h - what a model family is made of: the types of its tables.
 *
 * A family lists the config.json keys it reads beyond the common ones, its weights (symbolic
 * shapes, shard axis, the checkpoint tensors to stack) and its ops: before the layers, of a layer,
 * after them. keys.c turns config.json into struct model_config by those tables, plan.c lowers the
 * ops into steps. A row with `when` bits exists only in models whose config has all of them.
 */
#ifndef MODEL_SPEC_H
#define MODEL_SPEC_H

#include <stddef.h>

#include "backend/backend.h"
#include "base/err.h"
#include "base/json.h"

enum {
    LAYERS_MAX = 512,
    WIDTH_MAX = 1 << 20, /* of hidden and feed-forward layers */
    VOCAB_MAX = 1 << 24,
    POSITIONS_MAX = 1 << 26,
};

/* ------------------------------------------------------------------ config */

enum config_flag {
    FLAG_TIED = 1, /* the head is the embedding */
    FLAG_QKV_BIAS = 2,
    FLAG_O_BIAS = 4,
    FLAG_MLP_BIAS = 8,
    FLAG_QK_NORM = 16, /* RMS norm of each head of q and k before rotation */
    FLAG_WINDOW = 32,  /* sliding_window counts */
};

enum rope_type { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN, ROPE_FREQ_FACTORS };
struct rope_config {
    enum rope_type type;
    int32_t rotary_dim;
    double theta, factor;
    double original_max;                                              /* positions of pretraining */
    double low_freq_factor, high_freq_factor;                         /* llama3 */
    double beta_fast, beta_slow, attn_factor, mscale, mscale_all_dim; /* yarn; 0: not given */
    bool truncate; /* yarn: whole correction bounds */
};

struct family;
struct model_config {
    const struct family *family;
    uint32_t flags; /* enum config_flag */
    int32_t n_layers, hidden, ffn, n_heads, n_kv_heads, head_dim, n_vocab;
    int32_t max_positions;       /* that the model may be used with; rope scaling included */
    int32_t window, window_from; /* sliding window, 0: none; first layer that has it */
    double norm_eps;
    enum glu_kind glu;
    enum dtype dtype; /* of the checkpoint, as config.json says: for dummy weights and explain */
    struct rope_config rope;
    bool is_windowed[LAYERS_MAX];
};

enum key_kind {
    KEY_INT,    /* int32_t at `offset`, within [min, max] */
    KEY_REAL,   /* double at `offset` */
    KEY_FLAG,   /* a boolean that sets or clears `flags` */
    KEY_GLU,    /* the activation's name */
    KEY_LAYERS, /* an array of "full_attention" and "sliding_attention" */
};
struct key {
    const char *name; /* NULL ends a table */
    enum key_kind kind;
    bool is_required; /* else an absent or null key leaves the field as it is */
    size_t offset;
    double min, max;
    uint32_t flags;
};

/* ------------------------------------------------------------------ weights */

/* Symbolic sizes: what a rank has of them, and of how many in all. */
enum dim {
    DIM_ONE,
    DIM_VOCAB,
    DIM_LOGITS, /* the whole vocabulary, on every rank */
    DIM_HIDDEN,
    DIM_FFN,
    DIM_FFN2, /* gate and up */
    DIM_Q,    /* heads * head_dim */
    DIM_KV,
    DIM_QKV,  /* q, k and v */
    DIM_HEAD, /* head_dim */
    DIM_COUNT
};

enum weight_id {
    W_NONE,
    W_EMBED,
    W_HEAD,
    W_FINAL_NORM,
    W_ATTN_NORM,
    W_QKV,
    W_QKV_BIAS,
    W_Q_NORM,
    W_K_NORM,
    W_O,
    W_O_BIAS,
    W_FFN_NORM,
    W_GATE_UP,
    W_GATE_UP_BIAS,
    W_DOWN,
    W_DOWN_BIAS,
    W_COUNT
};

/* How ranks share a weight: each holds all of it, a share of each part's rows, or a share of the
 * columns. A product over a share of the columns is partial, as are rows looked up in a share of the
 * vocabulary: a REDUCE follows. */
enum shard { SHARD_NONE, SHARD_ROWS, SHARD_COLS };

struct weight_spec {
    enum weight_id id; /* W_NONE ends a table */
    const char *name;  /* "qkv"; in a layer the weight is called "layers.3.qkv" */
    bool is_layered;
    enum dim cols; /* DIM_ONE: a vector, of which `rows` elements are stacked; held as f32 */
    enum shard shard;
    uint32_t when;
    enum weight_id same_as; /* in models with FLAG_TIED, this other weight */
    struct {
        enum dim rows;
        const char *tensor; /* checkpoint name; '#' stands for the layer */
    } part[WEIGHT_PARTS_MAX];
};

/* ------------------------------------------------------------------ ops */

/* Activation slots; plan.c has their widths. S_DEALT is of plans for several ranks: no family names it. */
enum slot { S_NONE, S_X, S_H, S_QKV, S_ATT, S_GU, S_ACT, S_ROWS, S_LOGITS, S_DEALT, S_COUNT };

struct op_spec {
    enum op op; /* OP_COUNT ends a table */
    enum slot dst, src;
    enum weight_id w, bias;
};

struct family {
    const char *model_type; /* of config.json */
    uint32_t flags;         /* that every model of the family has */
    const struct key *keys; /* beyond the common ones */
    const struct weight_spec *weights;
    const struct op_spec *first, *layer, *last;
};

/* families.c: by model_type, or NULL. Names of all, comma-separated, into text. */
const struct family *family_find(struct str model_type);
void family_names(char *text, size_t n);
/* The sim device's stand-in: one layer, no weights. */
extern const struct family family_sim;
extern const struct family family_llama, family_mistral, family_qwen2,
    family_qwen3; /* fam_llama.c */

/* keys.c: check and read config.json; every message names the key. */
int config_read(struct model_config *c, const json_node *root, struct sl_error *e);
/* A plain model for the sim device. */
void config_sim(struct model_config *c, int32_t n_vocab, int32_t max_positions);

/* rope.c: from the config's rope_parameters, or rope_scaling and rope_theta; c->head_dim and
 * c->max_positions are set. Raises max_positions where the scaling extends it. */
int rope_read(struct model_config *c, const json_node *root, struct sl_error *e);
/* Radians a position for rotary_dim / 2 pairs; factors: divisors for ROPE_FREQ_FACTORS, else NULL.
 * *mscale: what cos and sin are multiplied by. */
void rope_frequencies(const struct rope_config *r, const float *factors, float *freq,
                      float *mscale);

#endif
