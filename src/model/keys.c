/* keys.c - config.json to struct model_config, by tables. The file is untrusted: every number is
 * checked for type and range here, so that products of them stay in bounds everywhere else.
 */
#include <math.h>
#include <stdio.h>

#include "model/spec.h"

#define FIELD(field) .offset = offsetof(struct model_config, field)

/* What every decoder has. Absent num_key_value_heads and head_dim are derived below. */
static const struct key common[] = {
    {.name = "hidden_size",
     .kind = KEY_INT,
     .is_required = true,
     FIELD(hidden),
     .min = 1,
     .max = WIDTH_MAX},
    {.name = "intermediate_size",
     .kind = KEY_INT,
     .is_required = true,
     FIELD(ffn),
     .min = 1,
     .max = WIDTH_MAX},
    {.name = "num_hidden_layers",
     .kind = KEY_INT,
     .is_required = true,
     FIELD(n_layers),
     .min = 1,
     .max = LAYERS_MAX},
    {.name = "num_attention_heads",
     .kind = KEY_INT,
     .is_required = true,
     FIELD(n_heads),
     .min = 1,
     .max = 4096},
    {.name = "num_key_value_heads", .kind = KEY_INT, FIELD(n_kv_heads), .min = 1, .max = 4096},
    {.name = "head_dim", .kind = KEY_INT, FIELD(head_dim), .min = 2, .max = HEAD_DIM_MAX},
    {.name = "vocab_size",
     .kind = KEY_INT,
     .is_required = true,
     FIELD(n_vocab),
     .min = 1,
     .max = VOCAB_MAX},
    {.name = "max_position_embeddings",
     .kind = KEY_INT,
     .is_required = true,
     FIELD(max_positions),
     .min = 1,
     .max = POSITIONS_MAX},
    {.name = "rms_norm_eps", .kind = KEY_REAL, FIELD(norm_eps), .min = 0.0, .max = 1.0},
    {.name = "tie_word_embeddings", .kind = KEY_FLAG, .flags = FLAG_TIED},
    {.name = "hidden_act", .kind = KEY_GLU},
    {0},
};

static const struct {
    const char *name;
    enum glu_kind kind;
} glu_names[] = {{"silu", GLU_SILU},
                 {"swish", GLU_SILU},
                 {"gelu", GLU_GELU_ERF},
                 {"gelu_new", GLU_GELU_TANH},
                 {"gelu_pytorch_tanh", GLU_GELU_TANH}};

static int bad_type(const struct key *k, const json_node *v, const char *want, struct sl_error *e)
{
    return sl_fail(e, SL_EFORMAT, "config.json: %s is of type %s, not %s", k->name,
                   json_type_name(json_type(v)), want);
}

static int read_number(struct model_config *c, const struct key *k, const json_node *v,
                       struct sl_error *e)
{
    char *at = (char *)c + k->offset;
    if (k->kind == KEY_INT && json_type(v) != JSON_INT) return bad_type(k, v, "integer", e);
    if (!json_is_num(v)) return bad_type(k, v, "number", e);
    double x = json_num(v);
    if (!(x >= k->min && x <= k->max))
        return sl_fail(e, SL_EFORMAT, "config.json: %s is %g, not within %g to %g", k->name, x,
                       k->min, k->max);
    if (k->kind == KEY_INT)
        *(int32_t *)(void *)at = (int32_t)x;
    else
        *(double *)(void *)at = x;
    return 0;
}

static int read_glu(struct model_config *c, const struct key *k, const json_node *v,
                    struct sl_error *e)
{
    if (json_type(v) != JSON_STR) return bad_type(k, v, "string", e);
    struct str name = json_str(v);
    for (size_t i = 0; i < sizeof glu_names / sizeof *glu_names; i++) {
        if (!str_is(name, glu_names[i].name)) continue;
        c->glu = glu_names[i].kind;
        return 0;
    }
    return sl_fail(e, SL_EUNSUPPORTED, "config.json: %s \"%.*s\" is not supported", k->name,
                   (int)(name.n < 40 ? name.n : 40), name.p);
}

static int read_layers(struct model_config *c, const struct key *k, const json_node *v,
                       struct sl_error *e)
{
    int32_t i = 0;
    if (json_type(v) != JSON_ARR) return bad_type(k, v, "array", e);
    for (const json_node *t = json_child(v); t && i < LAYERS_MAX; t = json_next(t), i++) {
        struct str name = json_type(t) == JSON_STR ? json_str(t) : STR("");
        c->is_windowed[i] = str_is(name, "sliding_attention");
        if (!c->is_windowed[i] && !str_is(name, "full_attention"))
            return sl_fail(e, SL_EUNSUPPORTED,
                           "config.json: layer_types[%d] \"%.*s\" is not supported", i,
                           (int)(name.n < 40 ? name.n : 40), name.p);
    }
    if (json_len(v) != (size_t)c->n_layers)
        return sl_fail(e, SL_EFORMAT, "config.json: %s has %zu entries for %d layers", k->name,
                       json_len(v), c->n_layers);
    c->window_from = -1; /* the list decides */
    return 0;
}

static int read_key(struct model_config *c, const struct key *k, const json_node *root,
                    struct sl_error *e)
{
    const json_node *v = json_opt(root, k->name);
    if (!v)
        return k->is_required ? sl_fail(e, SL_EFORMAT, "config.json: %s is missing", k->name) : 0;
    switch (k->kind) {
    case KEY_INT:
    case KEY_REAL:
        return read_number(c, k, v, e);
    case KEY_GLU:
        return read_glu(c, k, v, e);
    case KEY_LAYERS:
        return read_layers(c, k, v, e);
    case KEY_FLAG:
        if (json_type(v) != JSON_TRUE && json_type(v) != JSON_FALSE)
            return bad_type(k, v, "boolean", e);
        c->flags &= ~k->flags;
        if (json_type(v) == JSON_TRUE) c->flags |= k->flags;
        return 0;
    }
    return 0;
}

static int read_dtype(struct model_config *c, const json_node *root, struct sl_error *e)
{
    const json_node *v = json_opt(root, "dtype");
    if (!v) v = json_opt(root, "torch_dtype");
    c->dtype = DT_BF16;
    if (!v) return 0;
    struct str name = json_type(v) == JSON_STR ? json_str(v) : STR("");
    if (str_is(name, "float16"))
        c->dtype = DT_F16;
    else if (str_is(name, "float32"))
        c->dtype = DT_F32;
    else if (!str_is(name, "bfloat16"))
        return sl_fail(e, SL_EUNSUPPORTED, "config.json: dtype \"%.*s\" is not supported",
                       (int)(name.n < 40 ? name.n : 40), name.p);
    return 0;
}

/* What single ranges cannot say. */
static int check_shapes(struct model_config *c, struct sl_error *e)
{
    if (c->n_kv_heads == 0) c->n_kv_heads = c->n_heads;
    if (c->n_heads % c->n_kv_heads)
        return sl_fail(e, SL_EFORMAT,
                       "config.json: %d attention heads are no multiple of %d key-value heads",
                       c->n_heads, c->n_kv_heads);
    if (c->head_dim == 0 && c->hidden % c->n_heads)
        return sl_fail(e, SL_EFORMAT,
                       "config.json: hidden_size %d is no multiple of %d heads, and no head_dim",
                       c->hidden, c->n_heads);
    if (c->head_dim == 0) c->head_dim = c->hidden / c->n_heads;
    if (c->head_dim < 2 || c->head_dim > HEAD_DIM_MAX || c->head_dim % 2)
        return sl_fail(e, SL_EUNSUPPORTED,
                       "config.json: head_dim %d is not even and within 2 to %d", c->head_dim,
                       HEAD_DIM_MAX);
    if (c->n_heads * c->head_dim > WIDTH_MAX)
        return sl_fail(e, SL_EFORMAT, "config.json: %d heads of %d are too wide", c->n_heads,
                       c->head_dim);
    if (!(c->flags & FLAG_WINDOW)) c->window = 0;
    for (int32_t i = 0; i < c->n_layers && c->window_from >= 0; i++)
        c->is_windowed[i] = i >= c->window_from;
    return 0;
}

int config_read(struct model_config *c, const json_node *root, struct sl_error *e)
{
    *c = (struct model_config){.norm_eps = 1e-6};
    const json_node *type = json_opt(root, "model_type");
    if (json_type(type) != JSON_STR)
        return sl_fail(e, SL_EFORMAT, "config.json: model_type is missing");
    c->family = family_find(json_str(type));
    if (!c->family) {
        char names[120];
        family_names(names, sizeof names);
        return sl_fail(e, SL_EUNSUPPORTED, "model_type \"%.*s\" is not supported (%s are)",
                       (int)(json_str(type).n < 40 ? json_str(type).n : 40), json_str(type).p,
                       names);
    }
    if (json_opt(root, "quantization_config"))
        return sl_fail(e, SL_EUNSUPPORTED,
                       "config.json: checkpoints with a quantization_config are not supported");
    c->flags = c->family->flags;
    for (const struct key *k = common; k->name; k++) TRY(read_key(c, k, root, e));
    for (const struct key *k = c->family->keys; k->name; k++) TRY(read_key(c, k, root, e));
    TRY(read_dtype(c, root, e));
    TRY(check_shapes(c, e));
    return rope_read(c, root, e);
}

void config_sim(struct model_config *c, int32_t n_vocab, int32_t max_positions)
{
    *c = (struct model_config){.family = &family_sim,
                               .n_layers = 1,
                               .hidden = 4,
                               .ffn = 4,
                               .n_heads = 1,
                               .n_kv_heads = 1,
                               .head_dim = 2,
                               .n_vocab = n_vocab,
                               .max_positions = max_positions,
                               .norm_eps = 1e-6,
                               .rope = {.type = ROPE_DEFAULT, .rotary_dim = 2, .theta = 1e4}};
}
