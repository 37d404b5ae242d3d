/* oracle.c - draws requests and foretells their output from their tokens alone. */
#include "oracle.h"

#include <string.h>

static int32_t shorter(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static void draw_sampling(struct oracle *o, const struct sim_plan *p, uint64_t *r)
{
    struct sl_sampling *s = &o->rq.sampling;
    *s = (struct sl_sampling){.temperature = (float)sim_below(r, 2),
                              .top_p = 1,
                              .typical_p = 1,
                              .repetition_penalty = 1,
                              .frequency_penalty = sim_below(r, 4) ? 0 : 0.5f,
                              .seed = sim_rand(r),
                              .min_tokens = sim_below(r, 4) ? 0 : (uint32_t)sim_below(r, 20),
                              .n_logprobs =
                                  (int8_t)(sim_below(r, 3) ? -1 : sim_below(r, SL_TOP_MAX + 1)),
                              .n_prompt_logprobs = (int8_t)(sim_below(r, 6) ? -1 : sim_below(r, 4)),
                              .ignore_eos = (uint8_t)(sim_below(r, 3) == 0),
                              .stop_ids = o->stop_ids,
                              .bias = o->bias,
                              .allowed_ids = o->allowed};
    s->max_tokens = sim_below(r, 12) ? (uint32_t)(1 + sim_below(r, p->max_output)) : 0;
    s->n_eos = (uint32_t)sim_below(r, 2);
    s->n_stop_ids = s->n_eos + (uint32_t)sim_below(r, 3);
    if (p->is_long) {
        s->max_tokens = (uint32_t)p->max_output;
        s->n_eos = s->n_stop_ids = 0;
    }
    for (int i = 0; i < 3; i++) o->stop_ids[i] = sim_below(r, p->n_vocab < 261 ? p->n_vocab : 128);
    s->n_bias = sim_below(r, 8) ? 0 : 2;
    for (int i = 0; i < 2; i++)
        o->bias[i] = (struct sl_bias){sim_below(r, p->n_vocab), sim_below(r, 8) ? -100 : 100};
    s->n_allowed = sim_below(r, 8) ? 0 : 4;
    for (int i = 0; i < 4; i++) o->allowed[i] = sim_below(r, p->n_vocab);
}

/* A family's common beginning, or an earlier conversation and a bit more. */
static void draw_prompt(struct oracle *o, const struct sim_plan *p, uint64_t *r,
                        const struct transcripts *past)
{
    int32_t n = 1 + sim_below(r, p->max_prompt), n_same = sim_below(r, n + 1),
            turn = sim_below(r, 8);
    uint64_t family = p->seed + (uint64_t)sim_below(r, p->n_families);
    uint64_t tenant = (uint64_t)sim_below(r, p->n_tenants);
    o->rq.salt[0] = tenant;
    o->rq.salt[1] = tenant ? p->seed : 0;
    if (sim_below(r, 3) == 0 && past->n[turn] > 0) {
        n = past->n[turn] + sim_below(r, 8);
        n_same = past->n[turn];
        memcpy(o->token, past->token[turn], (size_t)n_same * sizeof *o->token);
        memcpy(o->rq.salt, past->salt[turn], sizeof o->rq.salt);
    } else {
        for (int32_t i = 0; i < n_same; i++) o->token[i] = sim_below(&family, p->n_vocab);
    }
    n = shorter(n, p->core.max_model_len);
    for (int32_t i = n_same; i < n; i++) o->token[i] = sim_below(r, p->n_vocab);
    o->rq.prompt = o->token;
    o->rq.n_prompt = (uint32_t)n;
    o->rq.priority = sim_below(r, 3) ? 0 : sim_below(r, 4) - 2;
    o->rq.is_background = sim_below(r, 100) < p->background_percent;
    o->rq.due_us = sim_below(r, 2) ? 0 : (uint64_t)sim_below(r, 1000);
    o->rq.tpot_us = sim_below(r, 4) ? 0 : 1 + (uint32_t)sim_below(r, 40000);
    if (sim_below(r, 30)) /* else it may be refused */
        o->rq.sampling.max_tokens =
            (uint32_t)shorter((int32_t)o->rq.sampling.max_tokens, p->core.max_model_len - n);
}

static bool stops(const struct oracle *o, int32_t token, int32_t index)
{
    const struct sl_sampling *s = &o->rq.sampling;
    for (uint32_t i = 0; i < s->n_stop_ids; i++)
        if (o->stop_ids[i] == token && index >= (int32_t)s->min_tokens &&
            !(i < s->n_eos && s->ignore_eos))
            return true;
    return false;
}

uint64_t oracle_logits(const struct oracle *o, int32_t pos)
{
    uint64_t h = o->h[pos];
    return sim_logits(h, o->h[sim_look(h, 0, pos + 1)], o->h[sim_look(h, 1, pos + 1)]);
}

static void foretell(struct oracle *o)
{
    const struct sl_sampling *s = &o->rq.sampling;
    uint64_t h = sim_head(o->rq.salt), output_sum = 0;
    int32_t n_prompt = (int32_t)o->rq.n_prompt;
    o->reason = SL_FINISH_LENGTH;
    o->end_token = -1;
    o->n_output = 0;
    for (int32_t i = 0; i < n_prompt; i++) o->h[i] = h = sim_mix(h, (uint64_t)o->token[i]);
    for (int32_t k = 0; k < (int32_t)s->max_tokens; k++) {
        int32_t pos = n_prompt + k - 1;
        if (k == o->nan_at) {
            o->reason = SL_FINISH_ERROR;
            o->end_token = SL_ENUMERIC;
            return;
        }
        int32_t token = sim_pick(s, o->n_vocab, oracle_logits(o, pos), (uint32_t)k, output_sum);
        output_sum += sim_mix(0, (uint64_t)token);
        o->token[pos + 1] = token;
        o->h[pos + 1] = h = sim_mix(h, (uint64_t)token);
        o->n_output++;
        if (stops(o, token, k)) {
            o->reason = SL_FINISH_STOP;
            o->end_token = token;
            return;
        }
    }
}

static void remember(const struct oracle *o, struct transcripts *past, int32_t at)
{
    int32_t n = (int32_t)o->rq.n_prompt + o->n_output;
    past->n[at] = n;
    memcpy(past->token[at], o->token, (size_t)n * sizeof *o->token);
    memcpy(past->salt[at], o->rq.salt, sizeof past->salt[at]);
}

void oracle_draw(struct oracle *o, const struct sim_plan *p, uint64_t seed,
                 struct transcripts *past)
{
    uint64_t r = seed;
    o->n_vocab = p->n_vocab;
    draw_sampling(o, p, &r);
    draw_prompt(o, p, &r, past);
    int32_t n = (int32_t)(o->rq.n_prompt + o->rq.sampling.max_tokens);
    int32_t n_computed = n - (o->rq.sampling.max_tokens > 0);
    o->nan_at = sim_below(&r, 40) ? -1 : sim_below(&r, 8);
    o->fits = n <= p->core.max_model_len && n_computed <= p->core.n_pages * p->core.page_size;
    if (!o->fits) return;
    foretell(o);
    remember(o, past, sim_below(&r, 8));
}
