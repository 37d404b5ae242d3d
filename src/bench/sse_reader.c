/* sse_reader.c - lines, events, and the few things a load generator looks for in an event.
 *
 * A token chunk is recognised by looking for its keys: parsing each of 15,000 events a second as
 * JSON would be most of this program's work. Inside a JSON string every quote is escaped, so a key
 * with its quotes cannot be part of generated text. All other events are parsed.
 */
#include "bench/sse_reader.h"

#include <stdio.h>

#include "base/json.h"

void sse_reader_init(struct sse_reader *r)
{
    *r = (struct sse_reader){.line = buf_make(SSE_EVENT_MAX), .data = buf_make(SSE_EVENT_MAX)};
}

void sse_reader_reset(struct sse_reader *r)
{
    r->line.n = r->data.n = 0;
    r->line.overflow = r->data.overflow = r->has_data = r->is_bad = false;
}

void sse_reader_free(struct sse_reader *r)
{
    buf_free(&r->line);
    buf_free(&r->data);
}

static void on_line(struct sse_reader *r, struct str s, sse_event_fn fn, void *arg)
{
    if (s.n && s.p[s.n - 1] == '\r') s.n--;
    if (s.n == 0) {
        if (r->has_data && !r->data.overflow) fn(arg, buf_str(&r->data));
        r->is_bad |= r->data.overflow;
        r->data.n = 0;
        r->data.overflow = r->has_data = false;
        return;
    }
    if (s.n < 5 || memcmp(s.p, "data:", 5) != 0) return; /* a comment, or another field */
    size_t skip = s.n > 5 && s.p[5] == ' ' ? 6 : 5;
    if (r->has_data) buf_putc(&r->data, '\n');
    buf_put(&r->data, s.p + skip, s.n - skip);
    r->has_data = true;
}

void sse_reader_feed(struct sse_reader *r, const char *p, size_t n, sse_event_fn fn, void *arg)
{
    for (size_t i = 0; i < n;) {
        const char *nl = memchr(p + i, '\n', n - i);
        size_t take = nl ? (size_t)(nl - p) - i : n - i;
        struct str piece = {p + i, take};
        if (!nl || r->line.n) {
            buf_put_str(&r->line, piece);
            piece = buf_str(&r->line);
        }
        i += take + (nl != NULL);
        if (!nl) break;
        if (r->line.overflow)
            r->is_bad = true;
        else
            on_line(r, piece, fn, arg);
        r->line.n = 0;
        r->line.overflow = false;
    }
    r->is_bad |= r->line.overflow;
}

/* ------------------------------------------------------------------ what an event says */

void reply_init(struct reply *a)
{
    *a = (struct reply){.prompt_tokens = -1, .completion_tokens = -1, .cached_tokens = -1};
}

/* What stands after `"key"`, a colon and spaces: up to two bytes. False when the key is not there;
 * *from moves behind it. */
static bool value_after(struct str s, const char *quoted, size_t *from, char out[2])
{
    size_t n = strlen(quoted);
    const char *at = memmem(s.p + *from, s.n - *from, quoted, n), *end = s.p + s.n;
    if (!at) return false;
    const char *p = at + n;
    *from = (size_t)(p - s.p);
    while (p < end && (*p == ' ' || *p == ':')) p++;
    out[0] = p < end ? p[0] : '\0';
    out[1] = p + 1 < end ? p[1] : '\0';
    return true;
}

static bool has_text(struct str s)
{
    static const char *const keys[] = {"\"text\"", "\"content\"", "\"reasoning_content\"",
                                       "\"reasoning\"", "\"arguments\""};
    char v[2];
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
        for (size_t from = 0; value_after(s, keys[k], &from, v);)
            if (v[0] == '"' && v[1] != '"') return true;
    return false;
}

static bool has_usage(struct str s)
{
    char v[2];
    size_t from = 0;
    return value_after(s, "\"usage\"", &from, v) && v[0] == '{';
}

static int64_t count_of(const json_node *usage, const char *key)
{
    const json_node *v = json_opt(usage, key);
    return json_type(v) == JSON_INT ? json_int(v) : -1;
}

/* {"error":{"message":...}}, {"error":"..."}, {"message":...,"code":...} (older vLLM). */
static void note_error(struct reply *a, const json_node *root)
{
    const json_node *error = json_opt(root, "error"), *message = json_opt(error, "message");
    if (!error && json_type(json_opt(root, "object")) == JSON_STR &&
        str_is(json_str(json_opt(root, "object")), "error"))
        error = root;
    if (!error || a->error[0]) return;
    if (!message) message = json_type(error) == JSON_STR ? error : json_opt(root, "message");
    struct str text = json_type(message) == JSON_STR ? json_str(message) : STR("an error");
    snprintf(a->error, sizeof a->error, "%.*s", text.n < 150 ? (int)text.n : 150, text.p);
}

static void note_json(struct reply *a, struct str text)
{
    struct json_doc *doc;
    struct sl_error e;
    if (json_parse(&doc, text.p, text.n, &json_limits_file, &e) < 0) {
        a->is_bad = true;
        return;
    }
    const json_node *root = json_root(doc), *usage = json_opt(root, "usage");
    a->is_bad |= json_type(root) != JSON_OBJ;
    note_error(a, root);
    if (json_type(usage) == JSON_OBJ) {
        a->prompt_tokens = count_of(usage, "prompt_tokens");
        a->completion_tokens = count_of(usage, "completion_tokens");
        a->cached_tokens = count_of(json_opt(usage, "prompt_tokens_details"), "cached_tokens");
    }
    json_free(doc);
}

bool reply_event(struct reply *a, struct str data)
{
    if (data.n == 0) {
        a->is_bad = true;
        return false;
    }
    if (str_is(data, "[DONE]")) {
        a->is_done = true;
        return false;
    }
    bool is_chunk = has_text(data);
    a->n_chunks += is_chunk;
    if (!is_chunk || has_usage(data)) note_json(a, data);
    return is_chunk;
}

void reply_body(struct reply *a, struct str body)
{
    if (body.n == 0) body = STR(" ");
    note_json(a, body);
    a->is_done = true;
}
