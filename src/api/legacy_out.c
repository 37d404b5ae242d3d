/* legacy_out.c - whole text_completion bodies. */
#include "api/out.h"

static void put_choice(struct api_response *p, int i, struct buf *out)
{
    const struct api_fields *f = &p->r->f;
    struct choice *c = &p->choices[i].c;
    struct slice all = choice_all(c, NULL);
    buf_puts(out, i ? ",{\"index\":" : "{\"index\":");
    buf_put_i64(out, i);
    buf_puts(out, ",\"text\":");
    json_put_str(out, all.text);
    buf_puts(out, ",\"logprobs\":");
    if (p->r->sampling.n_logprobs >= 0)
        put_legacy_logprobs(p, &all, out);
    else
        buf_puts(out, "null");
    put_finish(c, out);
    if (f->prompt_logprobs != API_ABSENT) {
        buf_puts(out, ",\"prompt_logprobs\":");
        put_prompt_logprobs(p, c, out);
    }
    if (f->return_token_ids) {
        buf_puts(out, ",\"prompt_token_ids\":");
        put_id_list(c->prompt->ids, c->prompt->n, out);
        buf_puts(out, ",\"token_ids\":");
        put_id_list(c->out_ids.v, c->out_ids.n, out);
    }
    buf_putc(out, '}');
}

void completion_body(struct api_response *p, struct buf *out)
{
    struct api_usage u = api_response_usage(p);
    put_opening(p, "text_completion", out);
    buf_puts(out, "\"choices\":[");
    for (int i = 0; i < p->n; i++) put_choice(p, i, out);
    buf_puts(out, "],\"usage\":");
    put_usage(&u, out);
    put_timings(p, out);
    buf_putc(out, '}');
}
