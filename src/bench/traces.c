/* traces.c - datasets of files: Azure's CSV, Mooncake's JSON lines, ShareGPT's JSON.
 *
 * Formats: Azure LLM inference trace 2023 (TIMESTAMP,ContextTokens,GeneratedTokens); Mooncake
 * (timestamp in ms, input_length, output_length, hash_ids of 512-token blocks); ShareGPT
 * ([{"conversations":[{"from","value"},...]}]), filtered as in vLLM's benchmark: two turns at
 * least, prompt and answer of 4 tokens or more, prompt up to 1024, both up to 2048.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "bench/workload.h"

enum {
    LINE_MAX_BYTES = 1 << 20,
    FILE_MAX_BYTES = 1 << 30,
    SHAREGPT_MIN = 4,
    SHAREGPT_PROMPT_MAX = 1024,
    SHAREGPT_TOTAL_MAX = 2048,
    TOKENIZE_SECONDS = 30,
};

static int wrong_line(const struct workload_plan *p, size_t line, struct sl_error *e)
{
    return sl_fail(e, SL_EFORMAT, "%.200s, line %zu: not of a %s trace", p->args->dataset_path,
                   line, p->args->dataset_name);
}

/* One request of a trace, unless it is too long. */
static void add_traced(struct workload *w, const struct workload_plan *p,
                       const struct request_spec *s)
{
    int64_t total = (int64_t)s->n_prompt + s->n_output;
    if (s->n_prompt < 1 || s->n_output < 1 || (p->max_total_len && total > p->max_total_len)) {
        w->n_left_out++;
        return;
    }
    workload_add(w, s);
}

/* Time counts from the first request kept. */
static void from_zero(struct workload *w, double slowdown)
{
    double first = w->n ? w->specs[0].at : 0;
    for (size_t i = 0; i < w->n; i++) w->specs[i].at = (w->specs[i].at - first) * slowdown;
}

typedef int (*line_fn)(struct workload *w, const struct workload_plan *p, char *line, size_t number,
                       struct sl_error *e);

static int read_lines(struct workload *w, const struct workload_plan *p, line_fn fn,
                      struct sl_error *e)
{
    const char *path = p->args->dataset_path;
    FILE *f = fopen(path, "r");
    if (!f) return sl_fail(e, SL_EIO, "cannot read %.200s: %s", path, strerror(errno));
    char *line = xmalloc(LINE_MAX_BYTES);
    int code = 0;
    for (size_t n = 1; code == 0 && w->n < p->n && fgets(line, LINE_MAX_BYTES, f); n++)
        code = fn(w, p, line, n, e);
    free(line);
    fclose(f);
    from_zero(w, p->args->slowdown_factor);
    return code;
}

/* ------------------------------------------------------------------ Azure */

static int azure_line(struct workload *w, const struct workload_plan *p, char *line, size_t number,
                      struct sl_error *e)
{
    struct tm tm = {0};
    struct request_spec s = {.stream = number};
    double seconds;
    if (number == 1 && strncmp(line, "TIMESTAMP", 9) == 0) return 0;
    int n = sscanf(line, "%d-%d-%d %d:%d:%lf,%d,%d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday,
                   &tm.tm_hour, &tm.tm_min, &seconds, &s.n_prompt, &s.n_output);
    if (n != 8) return wrong_line(p, number, e);
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    s.at = (double)timegm(&tm) + seconds;
    add_traced(w, p, &s);
    return 0;
}

int azure_read(struct workload *w, const struct workload_plan *p, struct sl_error *e)
{
    return read_lines(w, p, azure_line, e);
}

/* ------------------------------------------------------------------ Mooncake */

static int64_t int_of(const json_node *root, const char *key)
{
    const json_node *v = json_opt(root, key);
    return json_type(v) == JSON_INT ? json_int(v) : -1;
}

static int mooncake_spec(struct workload *w, const json_node *root, struct request_spec *s)
{
    const json_node *ids = json_opt(root, "hash_ids");
    int64_t n_prompt = int_of(root, "input_length"), n_output = int_of(root, "output_length");
    size_t n = json_type(ids) == JSON_ARR ? json_len(ids) : 0, i = 0;
    if (n_prompt < 0 || n_prompt > 1 << 24 || n_output < 0 || n_output > 1 << 24 ||
        n < ((size_t)n_prompt + TRACE_BLOCK - 1) / TRACE_BLOCK)
        return SL_EFORMAT;
    int32_t *blocks = workload_keep(w, xmalloc((n + 1) * sizeof *blocks));
    for (const json_node *c = json_child(ids); c; c = json_next(c))
        blocks[i++] = json_type(c) == JSON_INT ? (int32_t)json_int(c) : 0;
    *s = (struct request_spec){.n_prompt = (int32_t)n_prompt,
                               .n_output = (int32_t)n_output,
                               .at = (double)int_of(root, "timestamp") * 1e-3,
                               .blocks = blocks};
    return 0;
}

static int mooncake_line(struct workload *w, const struct workload_plan *p, char *line,
                         size_t number, struct sl_error *e)
{
    struct json_doc *doc;
    struct request_spec s;
    if (line[strspn(line, " \t\r\n")] == '\0') return 0;
    if (json_parse(&doc, line, strlen(line), &json_limits_file, NULL) < 0)
        return wrong_line(p, number, e);
    int code = mooncake_spec(w, json_root(doc), &s);
    json_free(doc);
    if (code < 0) return wrong_line(p, number, e);
    add_traced(w, p, &s);
    return 0;
}

int mooncake_read(struct workload *w, const struct workload_plan *p, struct sl_error *e)
{
    return read_lines(w, p, mooncake_line, e);
}

/* ------------------------------------------------------------------ ShareGPT */

/* Tokens of a text as the server counts them (POST /tokenize, vLLM's form); -1: it does not. */
static int64_t count_tokens(const struct workload_plan *p, struct str text)
{
    struct buf body = buf_make(FILE_MAX_BYTES), out;
    struct json_doc *doc;
    struct sl_error e;
    int64_t n = -1;
    buf_puts(&body, "{\"model\":");
    json_put_str(&body, str_of(p->model));
    buf_puts(&body, ",\"add_special_tokens\":false,\"prompt\":");
    json_put_str(&body, text);
    buf_putc(&body, '}');
    int status = target_call(p->target, "/tokenize", &body, TOKENIZE_SECONDS, &out, &e);
    if (status == 200 && json_parse(&doc, out.p, out.n, &json_limits_file, &e) == 0) {
        n = int_of(json_root(doc), "count");
        json_free(doc);
    }
    buf_free(&out);
    buf_free(&body);
    return n;
}

static int64_t length_of(struct workload *w, const struct workload_plan *p, struct str text)
{
    int64_t n = w->is_estimated ? -1 : count_tokens(p, text);
    if (n >= 0) return n;
    w->is_estimated = true; /* English has about four bytes a token */
    return (int64_t)(text.n / 4);
}

static bool turn_text(const json_node *turn, struct str *out)
{
    const json_node *v = json_opt(turn, "value");
    if (json_type(v) != JSON_STR) return false;
    *out = json_str(v);
    return true;
}

static void add_conversation(struct workload *w, const struct workload_plan *p,
                             const json_node *item)
{
    const json_node *turn = json_child(json_opt(item, "conversations"));
    struct str prompt, reply;
    if (!turn || !json_next(turn) || !turn_text(turn, &prompt) ||
        !turn_text(json_next(turn), &reply)) {
        w->n_left_out++;
        return;
    }
    int64_t fixed = p->args->sharegpt_output_len, n_prompt = 0, n_output = 0;
    bool fits = prompt.n <= SHAREGPT_PROMPT_MAX * 64; /* no use in asking the server */
    if (fits) {
        n_prompt = length_of(w, p, prompt);
        n_output = fixed ? fixed : length_of(w, p, reply);
        fits = n_prompt >= SHAREGPT_MIN && (fixed || n_output >= SHAREGPT_MIN) &&
               n_prompt <= SHAREGPT_PROMPT_MAX && n_prompt + n_output <= SHAREGPT_TOTAL_MAX;
    }
    if (!fits) {
        w->n_left_out++;
        return;
    }
    char *text = workload_keep(w, xmalloc(prompt.n + 1));
    memcpy(text, prompt.p, prompt.n);
    text[prompt.n] = '\0';
    workload_add(w, &(struct request_spec){.n_prompt = (int32_t)n_prompt,
                                           .n_output = (int32_t)n_output,
                                           .text = text});
}

static int read_file(const char *path, struct buf *out, struct sl_error *e)
{
    FILE *f = fopen(path, "rb");
    *out = buf_make(FILE_MAX_BYTES);
    if (!f) return sl_fail(e, SL_EIO, "cannot read %.200s: %s", path, strerror(errno));
    for (size_t n = 1; n > 0 && !out->overflow;) {
        char *at = buf_reserve(out, 1 << 16);
        n = at ? fread(at, 1, 1 << 16, f) : 0;
        out->n += n;
    }
    fclose(f);
    return out->overflow ? sl_fail(e, SL_ETOOLARGE, "%.200s has more than 1 GiB", path) : 0;
}

/* In a random order, until there are enough. */
static void pick(struct workload *w, const struct workload_plan *p, const json_node *root)
{
    struct rng r = {mix64(p->seed + 4)};
    size_t n = json_len(root), i = 0;
    const json_node **items = xcalloc(n + 1, sizeof(*items));
    for (const json_node *c = json_child(root); c; c = json_next(c)) items[i++] = c;
    for (size_t k = 0; k < n && w->n < p->n; k++) {
        size_t at = (size_t)rng_between(&r, (int64_t)k, (int64_t)n - 1);
        const json_node *item = items[at];
        items[at] = items[k];
        add_conversation(w, p, item);
    }
    free(items);
}

int sharegpt_read(struct workload *w, const struct workload_plan *p, struct sl_error *e)
{
    struct buf text;
    struct json_doc *doc = NULL;
    int code = read_file(p->args->dataset_path, &text, e);
    if (code == 0) code = json_parse(&doc, text.p, text.n, &json_limits_file, e);
    buf_free(&text);
    if (code < 0) return code;
    pick(w, p, json_root(doc));
    json_free(doc);
    return 0;
}
