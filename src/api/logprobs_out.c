/* logprobs_out.c - log probabilities in their three shapes: chat, legacy completions, vLLM's
 * prompt_logprobs.
 *
 * A token's text is its own bytes read as UTF-8, lossy where it is a part of a character; `bytes`
 * are exact.
 */
#include "api/out.h"

#include "base/utf8.h"

/* The token's raw bytes; valid until the next call. */
static struct str token_bytes(struct api_response *p, int32_t id)
{
    p->scratch.n = 0;
    tokenizer_token_bytes(p->r->ctx->text->tok, id, &p->scratch);
    return buf_str(&p->scratch);
}

/* As a JSON string; U+0000 reads as U+FFFD like in the text itself. */
static void put_text(struct str s, struct buf *out)
{
    if (!s.n || !memchr(s.p, 0, s.n)) {
        json_put_str(out, s);
        return;
    }
    struct buf clean = buf_make(3 * s.n);
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i])
            buf_putc(&clean, s.p[i]);
        else
            buf_puts(&clean, "\xEF\xBF\xBD");
    json_put_str(out, buf_str(&clean));
    buf_free(&clean);
}

static void put_token(struct api_response *p, int32_t id, struct buf *out)
{
    if (p->r->f.tokens_as_ids) {
        buf_puts(out, "\"token_id:");
        buf_put_i64(out, id);
        buf_putc(out, '"');
    } else {
        put_text(token_bytes(p, id), out);
    }
}

/* "token":...,"logprob":...,"bytes":[...] */
static void put_members(struct api_response *p, int32_t id, float logprob, struct buf *out)
{
    buf_puts(out, "\"token\":");
    put_token(p, id, out);
    buf_puts(out, ",\"logprob\":");
    json_put_float(out, logprob);
    buf_puts(out, ",\"bytes\":[");
    struct str s = token_bytes(p, id);
    for (size_t i = 0; i < s.n; i++) {
        if (i) buf_putc(out, ',');
        buf_put_i64(out, (unsigned char)s.p[i]);
    }
    buf_putc(out, ']');
}

static uint32_t n_tops(const struct api_response *p, const struct lp_entry *x)
{
    uint32_t asked = (uint32_t)p->r->sampling.n_logprobs;
    return x->n_top < asked ? x->n_top : asked;
}

static const struct lp_top *tops_of(const struct slice *s, const struct lp_entry *x)
{
    return x->n_top ? s->top + x->top : NULL;
}

void put_logprob_list(struct api_response *p, const struct slice *s, struct buf *out)
{
    for (size_t i = 0; i < s->n_lp; i++) {
        const struct lp_entry *x = &s->lp[i];
        const struct lp_top *top = tops_of(s, x);
        buf_puts(out, i ? ",{" : "{");
        put_members(p, x->token, x->logprob, out);
        buf_puts(out, ",\"top_logprobs\":[");
        for (uint32_t k = 0; k < n_tops(p, x); k++) {
            buf_puts(out, k ? ",{" : "{");
            put_members(p, top[k].token, top[k].logprob, out);
            buf_putc(out, '}');
        }
        buf_puts(out, "]}");
    }
}

void put_chat_logprobs(struct api_response *p, const struct slice *s, struct buf *out)
{
    buf_puts(out, "{\"content\":[");
    put_logprob_list(p, s, out);
    buf_puts(out, "],\"refusal\":null}");
}

/* ------------------------------------------------------------------ completions */

/* One object token -> log probability: the alternatives, then the token itself where it is not
 * among them. Equal texts collapse into the likeliest. */
static void put_top_object(struct api_response *p, const struct lp_entry *x,
                           const struct lp_top *top, struct buf *out)
{
    struct buf keys = buf_make(1 << 20);
    size_t at[SL_TOP_MAX + 2] = {0};
    int n = 0;
    buf_putc(out, '{');
    for (uint32_t k = 0; k <= n_tops(p, x); k++) {
        bool own = k == n_tops(p, x);
        put_token(p, own ? x->token : top[k].token, &keys);
        struct str key = {keys.p + at[n], keys.n - at[n]};
        bool known = false;
        for (int i = 0; i < n && !known; i++) {
            known = str_eq((struct str){keys.p + at[i], at[i + 1] - at[i]}, key);
        }
        if (known) {
            keys.n = at[n];
            continue;
        }
        if (n) buf_putc(out, ',');
        buf_put_str(out, key);
        buf_putc(out, ':');
        json_put_float(out, own ? x->logprob : top[k].logprob);
        at[++n] = keys.n;
    }
    buf_putc(out, '}');
    buf_free(&keys);
}

void put_legacy_logprobs(struct api_response *p, const struct slice *s, struct buf *out)
{
    buf_puts(out, "{\"tokens\":[");
    for (size_t i = 0; i < s->n_lp; i++) {
        if (i) buf_putc(out, ',');
        put_token(p, s->lp[i].token, out);
    }
    buf_puts(out, "],\"token_logprobs\":[");
    for (size_t i = 0; i < s->n_lp; i++) {
        if (i) buf_putc(out, ',');
        if (s->lp[i].is_first)
            buf_puts(out, "null");
        else
            json_put_float(out, s->lp[i].logprob);
    }
    buf_puts(out, "],\"top_logprobs\":[");
    for (size_t i = 0; i < s->n_lp; i++) {
        if (i) buf_putc(out, ',');
        if (s->lp[i].is_first)
            buf_puts(out, "null");
        else
            put_top_object(p, &s->lp[i], tops_of(s, &s->lp[i]), out);
    }
    buf_puts(out, "],\"text_offset\":[");
    for (size_t i = 0; i < s->n_lp; i++) {
        if (i) buf_putc(out, ',');
        buf_put_i64(out, s->lp[i].chars);
    }
    buf_puts(out, "]}");
}

/* ------------------------------------------------------------------ prompt_logprobs */

static void put_ranked(struct api_response *p, int32_t id, float logprob, int64_t rank,
                       struct buf *out)
{
    buf_putc(out, '"');
    buf_put_i64(out, id);
    buf_puts(out, "\":{\"logprob\":");
    json_put_float(out, logprob);
    buf_puts(out, ",\"rank\":");
    buf_put_i64(out, rank);
    buf_puts(out, ",\"decoded_token\":");
    put_text(token_bytes(p, id), out);
    buf_putc(out, '}');
}

void put_prompt_logprobs(struct api_response *p, const struct choice *c, struct buf *out)
{
    const struct lp_list *l = &c->prompt_lp;
    uint32_t asked = (uint32_t)p->r->f.prompt_logprobs;
    buf_puts(out, "[null");
    for (size_t i = 0; i < l->n; i++) {
        const struct lp_entry *x = &l->v[i];
        buf_puts(out, ",{");
        put_ranked(p, x->token, x->logprob, x->rank, out);
        for (uint32_t k = 0; k < x->n_top && k < asked; k++) {
            const struct lp_top *t = &l->top[x->top + k];
            if (t->token == x->token) continue;
            buf_putc(out, ',');
            put_ranked(p, t->token, t->logprob, k + 1, out);
        }
        buf_putc(out, '}');
    }
    buf_putc(out, ']');
}
