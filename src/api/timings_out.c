/* timings_out.c - where a request's time went, under the names of llama.cpp's server, and the time
 * in the queue, which that does not have.
 */
#include <stdio.h>

#include "api/out.h"

void api_response_timings(struct api_response *p, const struct api_timings *t)
{
    p->timings = *t;
}

bool has_timings(const struct api_response *p)
{
    return p->r->f.timings || p->r->f.timings_per_token;
}

static void put(struct buf *out, const char *name, double v)
{
    buf_printf(out, ",\"%s\":", name);
    json_put_num(out, v);
}

/* n things in so many milliseconds: per thing, and per second. */
static void put_rate(struct buf *out, const char *what, double n, double ms)
{
    char name[40];
    snprintf(name, sizeof name, "%s_n", what);
    put(out, name, n);
    snprintf(name, sizeof name, "%s_ms", what);
    put(out, name, ms);
    snprintf(name, sizeof name, "%s_per_token_ms", what);
    put(out, name, n > 0 ? ms / n : 0);
    snprintf(name, sizeof name, "%s_per_second", what);
    put(out, name, ms > 0 ? n * 1e3 / ms : 0);
}

void put_timings(const struct api_response *p, struct buf *out)
{
    const struct api_timings *t = &p->timings;
    struct api_usage u = api_response_usage(p);
    if (!has_timings(p)) return;
    buf_printf(out, ",\"timings\":{\"cache_n\":%llu", (unsigned long long)u.cached_tokens);
    put(out, "queue_ms", t->queue_ms);
    put_rate(out, "prompt", (double)(u.prompt_tokens - u.cached_tokens), t->prompt_ms);
    put_rate(out, "predicted", (double)u.completion_tokens, t->predicted_ms);
    buf_putc(out, '}');
}
