/* oracle.c - draws requests and foretells their output from their tokens alone. */
#include "oracle.h"

#include <stdio.h>
#include <string.h>

#include "text/grammar.h"

static int32_t shorter(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* ------------------------------------------------------------------ grammars */

enum { GRAMMAR_VOCAB_MAX = 261 }; /* tokens past it are in no grammar */

static int32_t grammar_vocab_of(int32_t n_vocab)
{
    return n_vocab < GRAMMAR_VOCAB_MAX ? n_vocab : GRAMMAR_VOCAB_MAX;
}

/* One letter, then two; the last id ends a text. */
static struct str token_text(void *arg, int32_t id)
{
    static char text[2];
    const int32_t *n = arg;
    if (id == *n - 1) return (struct str){0};
    text[0] = (char)('a' + id % 26);
    text[1] = (char)('a' + id / 26 - 1);
    return (struct str){text, id < 26 ? 1 : 2};
}

struct grammar *sim_grammar(int32_t n_vocab, int which)
{
    static const char *const patterns[SIM_GRAMMARS] = {"(ab?|[c-g]{1,3}h)*", "[a-f]{0,9}",
                                                       "(a|b(c|d)*)+p?", "abc(d|ef){3}"};
    static struct grammar *made[2][SIM_GRAMMARS];
    int32_t n = grammar_vocab_of(n_vocab), eos = n - 1;
    struct grammar **g = &made[n == GRAMMAR_VOCAB_MAX][which];
    struct grammar_vocab_desc d = {
        .n_vocab = (size_t)n, .bytes = token_text, .arg = &n, .eos = &eos, .n_eos = 1};
    struct grammar_vocab *v;
    const struct grammar_opts o = {.max_bytes =
                                       which == 2 ? 200000 : 0}; /* its tables are emptied */
    struct sl_error e = {0};
    if (*g) return *g;
    if (grammar_vocab_new(&v, &d, &e) < 0 ||
        grammar_regex(g, str_of(patterns[which]), v, &o, &e) < 0)
        printf("grammar %d: %s\n", which, e.text);
    grammar_vocab_unref(v);
    return *g;
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

/* Some want a vector: they generate nothing, and score nothing. */
static void draw_pool(struct oracle *o, uint64_t *r)
{
    o->rq.pool = sim_below(r, 6) ? SL_POOL_NONE : (enum sl_pool)(1 + sim_below(r, 3));
    if (!o->rq.pool) return;
    o->rq.sampling.max_tokens = 0;
    o->rq.sampling.n_prompt_logprobs = -1;
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
    if (o->rq.pool) o->rq.sampling.max_tokens = 0;
    o->rq.prompt = o->token;
    o->rq.n_prompt = (uint32_t)n;
    o->rq.priority = sim_below(r, 3) ? 0 : sim_below(r, 4) - 2;
    o->rq.is_background = sim_below(r, 100) < p->background_percent;
    o->rq.due_us = sim_below(r, 2) ? 0 : (uint64_t)sim_below(r, 1000);
    o->rq.tpot_us = sim_below(r, 4) ? 0 : 1 + (uint32_t)sim_below(r, 40000);
    if (sim_below(r, 30) && !o->rq.pool) /* else it may be refused */
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

static void foretell_pool(struct oracle *o)
{
    int32_t n = (int32_t)o->rq.n_prompt;
    int32_t first = o->rq.pool == SL_POOL_LAST ? n - 1 : 0, end = o->rq.pool == SL_POOL_CLS ? 1 : n;
    o->pool_sum = 0;
    for (int32_t i = first; i < end; i++) o->pool_sum += oracle_logits(o, i);
    o->n_pooled = end - first;
}

/* The mask as the engine makes it: over the whole vocabulary, without eos ids that do not end. */
static const uint32_t *allowed_next(const struct oracle *o, struct grammar_state *place,
                                    uint32_t *mask)
{
    const struct sl_sampling *s = &o->rq.sampling;
    memset(mask, 0, ((size_t)o->n_vocab + 31) / 32 * sizeof *mask);
    grammar_mask(place, mask);
    for (uint32_t i = 0; s->ignore_eos && i < s->n_eos; i++)
        mask[o->stop_ids[i] / 32] &= ~(1u << (o->stop_ids[i] % 32));
    return mask;
}

/* ------------------------------------------------------------------ thinking */

/* Where thinking is after the first n tokens of the output, written down from the rules alone. */
struct thought {
    bool is_on;
    int32_t n; /* its tokens so far */
};

static struct thought thought_after(const struct oracle *o, int32_t n_output)
{
    const struct sl_thinking *t = &o->rq.thinking;
    const int32_t *out = o->token + o->rq.n_prompt;
    struct thought th = {t->n_close > 0 && t->is_open, 0};
    for (int32_t i = 0; i < n_output; i++) {
        if (i == 0 && t->n_close > 0 && !t->is_open && out[0] == t->open) {
            th.is_on = true;
            continue;
        }
        if (!th.is_on) continue;
        th.n++;
        int32_t n = (int32_t)t->n_close, same = 0;
        while (th.n >= n && same < n && out[i - n + 1 + same] == t->close[same]) same++;
        if (same == n) return (struct thought){false, th.n};
    }
    return th;
}

static const uint32_t *only(const struct oracle *o, int32_t token, uint32_t *mask)
{
    memset(mask, 0, ((size_t)o->n_vocab + 31) / 32 * sizeof *mask);
    mask[token / 32] = 1u << (token % 32);
    return mask;
}

/* Which tokens may be the k-th of the output; NULL: any. */
static const uint32_t *mask_at(const struct oracle *o, struct grammar_state *place, int32_t k,
                               uint32_t *mask)
{
    const struct sl_thinking *t = &o->rq.thinking;
    struct thought th = thought_after(o, k);
    if (th.is_on && t->budget != UINT32_MAX && th.n >= (int32_t)t->budget)
        return only(o, t->close[th.n - (int32_t)t->budget], mask);
    if (!place->g) return NULL;
    if (!th.is_on) {
        allowed_next(o, place, mask);
        if (k == 0 && t->n_close > 0 && t->open >= 0) mask[t->open / 32] |= 1u << (t->open % 32);
    } else {
        memset(mask, 0xFF, ((size_t)o->n_vocab + 31) / 32 * sizeof *mask);
    }
    for (uint32_t i = 0;
         (th.is_on || (k == 0 && o->rq.sampling.ignore_eos)) && i < o->rq.sampling.n_eos; i++)
        mask[o->stop_ids[i] / 32] &= ~(1u << (o->stop_ids[i] % 32));
    return mask;
}

static void draw_thinking(struct oracle *o, uint64_t *r)
{
    static const char letters[] = "the quick brown fox";
    struct sl_thinking *t = &o->rq.thinking;
    *t = (struct sl_thinking){.close = o->close, .open = -1, .budget = UINT32_MAX};
    if (sim_below(r, 3)) return;
    t->n_close = (uint32_t)(1 + sim_below(r, 3));
    for (int i = 0; i < 3; i++) o->close[i] = letters[sim_below(r, 19)] % o->n_vocab;
    t->is_open = (uint8_t)sim_below(r, 2);
    if (sim_below(r, 2)) t->open = letters[sim_below(r, 19)] % o->n_vocab;
    if (sim_below(r, 3)) t->budget = (uint32_t)sim_below(r, 12);
}

static void foretell_from(struct oracle *o, struct grammar_state *place)
{
    static uint32_t mask[70000 / 32 + 1];
    const struct sl_sampling *s = &o->rq.sampling;
    uint64_t h = sim_head(o->rq.salt), output_sum = 0;
    int32_t n_prompt = (int32_t)o->rq.n_prompt;
    o->reason = SL_FINISH_LENGTH;
    o->end_token = -1;
    o->n_output = 0;
    for (int32_t i = 0; i < n_prompt; i++) o->h[i] = h = sim_mix(h, (uint64_t)o->token[i]);
    foretell_pool(o);
    for (int32_t k = 0; k < (int32_t)s->max_tokens; k++) {
        int32_t pos = n_prompt + k - 1;
        if (k == o->nan_at) {
            o->reason = SL_FINISH_ERROR;
            o->end_token = SL_ENUMERIC;
            return;
        }
        const struct sim_row row = {.n_vocab = o->n_vocab,
                                    .logits = oracle_logits(o, pos),
                                    .position = (uint32_t)k,
                                    .output_sum = output_sum,
                                    .mask = mask_at(o, place, k, mask)};
        int32_t token = sim_pick(s, &row);
        if (token < 0) {
            o->reason = SL_FINISH_ERROR;
            o->end_token = SL_ENUMERIC;
            return;
        }
        o->token[pos + 1] = token;
        bool was_on = thought_after(o, k).is_on, is_on = thought_after(o, k + 1).is_on;
        bool is_over =
            place->g && !was_on && !is_on &&
            (!grammar_accept(place, token) || place->is_ended || grammar_must_end(place));
        if (place->g && was_on && !is_on) is_over = place->is_ended || grammar_must_end(place);
        output_sum += sim_mix(0, (uint64_t)token);
        o->h[pos + 1] = h = sim_mix(h, (uint64_t)token);
        o->n_output++;
        if (stops(o, token, k)) {
            o->reason = SL_FINISH_STOP;
            o->end_token = token;
            return;
        }
        if (is_over) {
            o->reason = SL_FINISH_STOP;
            return;
        }
    }
}

static void foretell(struct oracle *o)
{
    struct grammar_state place = {0};
    if (o->grammar >= 0) grammar_begin(&place, sim_grammar(o->n_vocab, o->grammar));
    foretell_from(o, &place);
    grammar_end(&place);
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
    draw_pool(o, &r);
    draw_prompt(o, p, &r, past);
    o->grammar = p->has_grammars && sim_below(&r, 2) ? sim_below(&r, SIM_GRAMMARS) : -1;
    if (o->rq.pool) o->grammar = -1;
    o->rq.grammar = o->grammar < 0 ? NULL : sim_grammar(o->n_vocab, o->grammar);
    draw_thinking(o, &r);
    int32_t n = (int32_t)(o->rq.n_prompt + o->rq.sampling.max_tokens);
    int32_t n_computed = n - (o->rq.sampling.max_tokens > 0);
    o->nan_at = sim_below(&r, 40) ? -1 : sim_below(&r, 8);
    o->fits = n <= p->core.max_model_len && n_computed <= p->core.n_pages * p->core.page_size;
    if (!o->fits) return;
    foretell(o);
    remember(o, past, sim_below(&r, 8));
}
