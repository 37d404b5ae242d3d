/* rope.c - rotary position embedding: the frequencies and the scalings that extend a model's
 * context.
 *
 * Sources: Su 2021 (RoPE); linear: Chen 2023; llama3: Meta's Llama 3.1 release; yarn: Peng 2023,
 * with the correction range and attention factor as transformers computes them
 * (modeling_rope_utils).
 */
#include <math.h>

#include "model/spec.h"

static const double two_pi = 6.283185307179586476925;

static const struct {
    const char *name;
    enum rope_type type;
} type_names[] = {{"default", ROPE_DEFAULT},
                  {"linear", ROPE_LINEAR},
                  {"llama3", ROPE_LLAMA3},
                  {"yarn", ROPE_YARN},
                  {"freq_factors", ROPE_FREQ_FACTORS}};

/* A number of the object, or the field as it is. */
static int read_num(const json_node *o, const char *name, double min, double max, double *x,
                    struct sl_error *e)
{
    const json_node *v = json_opt(o, name);
    if (!v) return 0;
    if (!json_is_num(v)) return sl_fail(e, SL_EFORMAT, "config.json: rope's %s is no number", name);
    if (!(json_num(v) >= min && json_num(v) <= max))
        return sl_fail(e, SL_EFORMAT, "config.json: rope's %s is %g, not within %g to %g", name,
                       json_num(v), min, max);
    *x = json_num(v);
    return 0;
}

static int read_type(struct rope_config *r, const json_node *o, struct sl_error *e)
{
    const json_node *v = json_opt(o, "rope_type");
    if (!v) v = json_opt(o, "type");
    if (!v) return 0;
    struct str name = json_type(v) == JSON_STR ? json_str(v) : STR("");
    for (size_t i = 0; i < sizeof type_names / sizeof *type_names; i++) {
        if (!str_is(name, type_names[i].name)) continue;
        r->type = type_names[i].type;
        return 0;
    }
    return sl_fail(
        e, SL_EUNSUPPORTED,
        "config.json: rope type \"%.*s\" is not supported (default, linear, llama3, yarn are)",
        (int)(name.n < 40 ? name.n : 40), name.p);
}

static int check_type(const struct rope_config *r, struct sl_error *e)
{
    bool is_scaled = r->type == ROPE_LINEAR || r->type == ROPE_LLAMA3 || r->type == ROPE_YARN;
    if (is_scaled && r->factor < 1.0)
        return sl_fail(e, SL_EFORMAT, "config.json: rope's factor is missing or below 1");
    if (r->type == ROPE_LLAMA3 &&
        !(r->high_freq_factor > r->low_freq_factor && r->low_freq_factor > 0.0))
        return sl_fail(e, SL_EFORMAT,
                       "config.json: rope's high_freq_factor must exceed low_freq_factor");
    return 0;
}

/* As vLLM derives it: linear and yarn stretch the context, llama3's is already in the config. */
static void extend_positions(struct model_config *c)
{
    const struct rope_config *r = &c->rope;
    double n = c->max_positions;
    if (r->type == ROPE_LINEAR) n *= r->factor;
    if (r->type == ROPE_YARN) n = fmax(n, r->original_max * r->factor);
    c->max_positions = n < POSITIONS_MAX ? (int32_t)n : POSITIONS_MAX;
}

int rope_read(struct model_config *c, const json_node *root, struct sl_error *e)
{
    struct rope_config *r = &c->rope;
    const json_node *o = json_opt(root, "rope_parameters");
    if (!o) o = json_opt(root, "rope_scaling");
    if (o && json_type(o) != JSON_OBJ)
        return sl_fail(e, SL_EFORMAT, "config.json: rope parameters are no object");
    *r = (struct rope_config){.theta = 1e4,
                              .original_max = c->max_positions,
                              .low_freq_factor = 1.0,
                              .high_freq_factor = 4.0,
                              .beta_fast = 32.0,
                              .beta_slow = 1.0,
                              .truncate = true};
    double share = 1.0;
    TRY(read_type(r, o, e));
    TRY(read_num(root, "rope_theta", 2.0, 1e15, &r->theta, e));
    TRY(read_num(o, "rope_theta", 2.0, 1e15, &r->theta, e));
    TRY(read_num(root, "partial_rotary_factor", 0.0, 1.0, &share, e));
    TRY(read_num(o, "partial_rotary_factor", 0.0, 1.0, &share, e));
    TRY(read_num(o, "factor", 0.0, 1e6, &r->factor, e));
    TRY(read_num(o, "original_max_position_embeddings", 1.0, POSITIONS_MAX, &r->original_max, e));
    TRY(read_num(o, "low_freq_factor", 1e-3, 1e6, &r->low_freq_factor, e));
    TRY(read_num(o, "high_freq_factor", 1e-3, 1e6, &r->high_freq_factor, e));
    TRY(read_num(o, "beta_fast", 1e-3, 1e6, &r->beta_fast, e));
    TRY(read_num(o, "beta_slow", 1e-3, 1e6, &r->beta_slow, e));
    TRY(read_num(o, "attention_factor", 1e-3, 1e3, &r->attn_factor, e));
    TRY(read_num(o, "mscale", 0.0, 1e3, &r->mscale, e));
    TRY(read_num(o, "mscale_all_dim", 0.0, 1e3, &r->mscale_all_dim, e));
    r->truncate = json_type(json_opt(o, "truncate")) != JSON_FALSE;
    TRY(check_type(r, e));
    r->rotary_dim = (int32_t)((double)c->head_dim * share);
    if (r->rotary_dim < 2 || r->rotary_dim % 2)
        return sl_fail(e, SL_EFORMAT, "config.json: rope turns %d of %d dimensions", r->rotary_dim,
                       c->head_dim);
    extend_positions(c);
    return 0;
}

/* Long waves are stretched by the factor, short ones kept, those between blended. */
static double llama3_frequency(const struct rope_config *r, double f)
{
    double wave = two_pi / f;
    if (wave > r->original_max / r->low_freq_factor) return f / r->factor;
    if (wave < r->original_max / r->high_freq_factor) return f;
    double keep =
        (r->original_max / wave - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
    return (1.0 - keep) * f / r->factor + keep * f;
}

/* The pair (as a real number) that turns n times over the original context. */
static double yarn_pair(const struct rope_config *r, double n)
{
    return r->rotary_dim * log(r->original_max / (n * two_pi)) / (2.0 * log(r->theta));
}

static double yarn_frequency(const struct rope_config *r, double f, int32_t pair)
{
    double low = yarn_pair(r, r->beta_fast), high = yarn_pair(r, r->beta_slow);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0.0);
    high = fmin(high, r->rotary_dim - 1);
    if (low == high) high += 0.001;
    double stretched = fmin(fmax((pair - low) / (high - low), 0.0), 1.0);
    return f / r->factor * stretched + f * (1.0 - stretched);
}

static double yarn_mscale(double factor, double mscale)
{
    return factor <= 1.0 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

void rope_frequencies(const struct rope_config *r, const float *factors, float *freq, float *mscale)
{
    double m = 1.0;
    for (int32_t i = 0; i < r->rotary_dim / 2; i++) {
        double f = pow(r->theta, -2.0 * i / r->rotary_dim);
        switch (r->type) {
        case ROPE_DEFAULT:
            break;
        case ROPE_LINEAR:
            f /= r->factor;
            break;
        case ROPE_LLAMA3:
            f = llama3_frequency(r, f);
            break;
        case ROPE_YARN:
            f = yarn_frequency(r, f, i);
            break;
        case ROPE_FREQ_FACTORS:
            f /= factors ? (double)factors[i] : 1.0;
            break;
        }
        freq[i] = (float)f;
    }
    if (r->type == ROPE_YARN) {
        bool has_both = r->mscale > 0.0 && r->mscale_all_dim > 0.0;
        m = has_both ? yarn_mscale(r->factor, r->mscale) / yarn_mscale(r->factor, r->mscale_all_dim)
                     : yarn_mscale(r->factor, 1.0);
        if (r->attn_factor > 0.0) m = r->attn_factor;
    }
    *mscale = (float)m;
}
