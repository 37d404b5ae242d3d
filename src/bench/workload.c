/* workload.c - random lengths, prompts from random streams, and requests as bytes.
 *
 * A random prompt's ids are drawn one by one after the shared prefix. vLLM's random dataset takes
 * consecutive ids from a random offset; then prompts of equal offset are equal, and a prefix cache
 * finds them: one in twenty of 1,000 prompts over 10,000 ids. Token ids are sent as they are where
 * the endpoint takes them: the server then computes exactly so many. Text is made of words that
 * nearly every vocabulary has as one token.
 */
#include "bench/workload.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

enum { REQUEST_MAX = 256 << 20, BODY_ROOM = 1 << 16 };

static const char *const words[] = {
    "the",   "of",    "and", "to",   "in",   "is",    "that", "for",  "it",    "as",    "was",
    "with",  "be",    "by",  "on",   "not",  "he",    "this", "are",  "or",    "his",   "from",
    "at",    "which", "but", "have", "an",   "had",   "they", "you",  "were",  "their", "one",
    "all",   "we",    "can", "her",  "has",  "there", "been", "if",   "more",  "when",  "will",
    "would", "who",   "so",  "no",   "she",  "other", "its",  "may",  "these", "what",  "them",
    "than",  "some",  "him", "time", "into", "only",  "do",   "such", "about"};
enum { N_WORDS = sizeof words / sizeof *words };

/* ------------------------------------------------------------------ the list */

struct request_spec *workload_add(struct workload *w, const struct request_spec *s)
{
    if (w->n == w->cap) {
        w->cap = w->cap ? w->cap * 2 : 256;
        w->specs = xrealloc(w->specs, w->cap * sizeof *w->specs);
    }
    w->specs[w->n] = *s;
    return &w->specs[w->n++];
}

void *workload_keep(struct workload *w, void *p)
{
    w->owned = xrealloc(w->owned, (w->n_owned + 1) * sizeof *w->owned);
    return w->owned[w->n_owned++] = p;
}

void workload_close(struct workload *w)
{
    for (size_t i = 0; i < w->n_owned; i++) free(w->owned[i]);
    free(w->owned);
    free(w->specs);
    *w = (struct workload){0};
}

static int32_t vary(struct rng *r, const struct serve_args *a, int64_t length)
{
    double ratio = a->range_ratio;
    if (ratio < 0) return (int32_t)length;
    bool is_max = strcmp(a->range_meaning, "inferencemax") == 0;
    int64_t low = (int64_t)((double)length * (is_max ? ratio : 1 - ratio));
    int64_t high = is_max ? length : (int64_t)ceil((double)length * (1 + ratio));
    if (low < 1) low = 1;
    return (int32_t)rng_between(r, low, high < low ? low : high);
}

static int random_make(struct workload *w, const struct workload_plan *p, struct sl_error *e)
{
    (void)e;
    struct rng r = {mix64(p->seed)};
    for (size_t i = 0; i < p->n; i++) {
        struct request_spec s = {.stream = i};
        s.n_prompt = vary(&r, p->args, p->args->input_len) + (int32_t)p->args->prefix_len;
        s.n_output = vary(&r, p->args, p->args->output_len);
        workload_add(w, &s);
    }
    return 0;
}

int workload_open(struct workload *w, const struct workload_plan *p, struct sl_error *e)
{
    static const struct {
        const char *name;
        int (*read)(struct workload *w, const struct workload_plan *p, struct sl_error *e);
    } datasets[] = {{"random", random_make},
                    {"sharegpt", sharegpt_read},
                    {"azure", azure_read},
                    {"mooncake", mooncake_read}};
    *w = (struct workload){0};
    for (size_t i = 0; i < sizeof datasets / sizeof *datasets; i++)
        if (strcmp(p->args->dataset_name, datasets[i].name) == 0) TRY(datasets[i].read(w, p, e));
    if (w->n == 0)
        return sl_fail(e, SL_EVALUE, "the dataset has no request that fits (%zu left out)",
                       w->n_left_out);
    return 0;
}

/* ------------------------------------------------------------------ prompts */

/* The token at a position of a prompt. */
static uint64_t token_at(const struct workload_plan *p, const struct request_spec *s, int32_t pos)
{
    if (s->blocks) {
        uint64_t block = (uint64_t)s->blocks[pos / TRACE_BLOCK];
        return mix64(mix64(p->seed + 1) ^ block << 20 ^ (uint64_t)(pos % TRACE_BLOCK));
    }
    if (pos < p->args->prefix_len) return mix64(mix64((uint64_t)p->args->seed + 2) ^ (uint64_t)pos);
    return mix64(mix64(mix64(p->seed + 3) ^ s->stream) + (uint64_t)pos);
}

static void put_ids(const struct workload_plan *p, const struct request_spec *s, struct buf *out)
{
    buf_putc(out, '[');
    for (int32_t i = 0; i < s->n_prompt; i++) {
        if (i) buf_putc(out, ',');
        buf_put_i64(out, (int64_t)(token_at(p, s, i) % (uint64_t)p->n_vocab));
    }
    buf_putc(out, ']');
}

static void put_text(const struct workload_plan *p, const struct request_spec *s, struct buf *out)
{
    if (s->text) {
        json_put_str(out, str_of(s->text));
        return;
    }
    buf_putc(out, '"');
    for (int32_t i = 0; i < s->n_prompt; i++) {
        if (i) buf_putc(out, ' ');
        buf_puts(out, words[token_at(p, s, i) % N_WORDS]);
    }
    buf_putc(out, '"');
}

/* ------------------------------------------------------------------ the request */

/* The members of --extra-body. */
static int put_extra(const char *text, struct buf *out, struct sl_error *e)
{
    struct json_doc *doc;
    if (!text) return 0;
    TRY(json_parse(&doc, text, strlen(text), &json_limits_request, e));
    int code = json_type(json_root(doc)) == JSON_OBJ
                   ? 0
                   : sl_fail(e, SL_EINVAL, "--extra-body is a JSON object");
    for (const json_node *c = json_child(json_root(doc)); c && code == 0; c = json_next(c)) {
        buf_putc(out, ',');
        json_put_str(out, json_key(c));
        buf_putc(out, ':');
        json_put_node(out, c);
    }
    json_free(doc);
    return code;
}

static int put_body(const struct workload_plan *p, const struct request_spec *s, struct buf *out,
                    struct sl_error *e)
{
    const struct serve_args *a = p->args;
    bool is_text = a->is_chat || s->text || strcmp(a->prompt_format, "text") == 0;
    buf_puts(out, "{\"model\":");
    json_put_str(out, str_of(p->model));
    if (a->is_chat)
        buf_puts(out, ",\"messages\":[{\"role\":\"user\",\"content\":");
    else
        buf_puts(out, ",\"prompt\":");
    if (is_text)
        put_text(p, s, out);
    else
        put_ids(p, s, out);
    if (a->is_chat) buf_puts(out, "}]");
    buf_printf(out, ",\"max_tokens\":%d,\"temperature\":%g", s->n_output, a->temperature);
    if (a->ignore_eos) buf_puts(out, ",\"ignore_eos\":true");
    if (a->stream) buf_puts(out, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    TRY(put_extra(a->extra_body, out, e));
    buf_putc(out, '}');
    return out->overflow ? sl_fail(e, SL_ETOOLARGE, "a request of more than 256 MiB") : 0;
}

int workload_put_request(const struct workload_plan *p, const struct request_spec *s,
                         struct buf *out, struct sl_error *e)
{
    struct buf body = buf_make(REQUEST_MAX);
    int code = put_body(p, s, &body, e);
    *out = buf_make(REQUEST_MAX + BODY_ROOM);
    if (code == 0) {
        target_put_head(p->target, out, "POST", p->args->path, body.n);
        buf_put_str(out, buf_str(&body));
    }
    buf_free(&body);
    return code;
}
