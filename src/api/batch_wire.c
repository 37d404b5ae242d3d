/* batch_wire.c - the objects and lines of batch_wire.h, written and read. */
#include "api/batch_wire.h"

#include <stdlib.h>

#include "api/fields.h"

enum {
    METADATA_PAIRS_MAX = 16,
    METADATA_KEY_MAX = 64, /* characters; OpenAI's limits */
    METADATA_VALUE_MAX = 512,
    METADATA_BYTES_MAX = 1 << 17,
    LINE_BYTES_MAX = 1 << 28, /* as JSON again */
    WINDOW_SECONDS_MAX = 30 * 86400,
    EXPIRY_MIN = 3600, /* seconds; OpenAI's range */
    EXPIRY_MAX = 2592000,
};

/* ------------------------------------------------------------------ objects */

static void put_name(struct buf *out, const char *name)
{
    buf_puts(out, ",\"");
    buf_puts(out, name);
    buf_puts(out, "\":");
}

static void put_text(struct buf *out, const char *name, const char *text)
{
    put_name(out, name);
    if (text[0])
        json_put_str(out, str_of(text));
    else
        buf_puts(out, "null");
}

static void put_time(struct buf *out, const char *name, int64_t t)
{
    put_name(out, name);
    if (t)
        buf_put_i64(out, t);
    else
        buf_puts(out, "null");
}

static void put_json(struct buf *out, const char *name, const char *json)
{
    put_name(out, name);
    buf_puts(out, json ? json : "null");
}

bool file_purpose_ok(const char *purpose)
{
    static const char *const known[] = {"batch",  "user_data", "assistants",
                                        "vision", "fine-tune", "evals"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(purpose, known[i]) == 0) return true;
    return false;
}

void put_file_object(const struct file_facts *f, struct buf *out)
{
    buf_puts(out, "{\"id\":");
    json_put_str(out, str_of(f->id));
    buf_puts(out, ",\"object\":\"file\",\"bytes\":");
    buf_put_i64(out, f->bytes);
    buf_puts(out, ",\"created_at\":");
    buf_put_i64(out, f->created_at);
    put_time(out, "expires_at", f->expires_at);
    buf_puts(out, ",\"filename\":");
    json_put_str(out, str_of(f->filename));
    put_text(out, "purpose", f->purpose);
    buf_puts(out, ",\"status\":\"processed\",\"status_details\":null}");
}

void put_list_end(const char *first, const char *last, bool has_more, struct buf *out)
{
    buf_putc(out, ']');
    put_text(out, "first_id", first);
    put_text(out, "last_id", last);
    buf_printf(out, ",\"has_more\":%s}", has_more ? "true" : "false");
}

void put_file_deleted(const char *id, struct buf *out)
{
    buf_puts(out, "{\"id\":");
    json_put_str(out, str_of(id));
    buf_puts(out, ",\"object\":\"file\",\"deleted\":true}");
}

static const char *const status_names[] = {"validating", "in_progress", "finalizing", "cancelling",
                                           "completed",  "failed",      "expired",    "cancelled"};

static void put_counts(const struct batch_facts *b, struct buf *out)
{
    buf_printf(out, ",\"request_counts\":{\"total\":%lld,\"completed\":%lld,\"failed\":%lld}",
               (long long)b->n_total, (long long)b->n_completed, (long long)b->n_failed);
    if (b->input_tokens + b->output_tokens == 0) {
        buf_puts(out, ",\"usage\":null");
        return;
    }
    buf_printf(
        out,
        ",\"usage\":{\"input_tokens\":%lld,\"input_tokens_details\":{\"cached_tokens\":%lld},"
        "\"output_tokens\":%lld,\"output_tokens_details\":{\"reasoning_tokens\":0},"
        "\"total_tokens\":%lld}",
        (long long)b->input_tokens, (long long)b->cached_tokens, (long long)b->output_tokens,
        (long long)(b->input_tokens + b->output_tokens));
}

void put_batch_object(const struct batch_facts *b, struct buf *out)
{
    buf_puts(out, "{\"id\":");
    json_put_str(out, str_of(b->id));
    buf_puts(out, ",\"object\":\"batch\"");
    put_text(out, "endpoint", b->endpoint);
    put_text(out, "model", b->model);
    put_name(out, "errors");
    if (b->errors)
        buf_printf(out, "{\"object\":\"list\",\"data\":[%s]}", b->errors);
    else
        buf_puts(out, "null");
    put_text(out, "input_file_id", b->input_file_id);
    put_text(out, "completion_window", b->window);
    put_text(out, "status", status_names[b->status]);
    bool is_over = batch_is_over(b->status);
    put_text(out, "output_file_id", is_over ? b->output_file_id : "");
    put_text(out, "error_file_id", is_over ? b->error_file_id : "");
    put_time(out, "created_at", b->created_at);
    put_time(out, "in_progress_at", b->in_progress_at);
    put_time(out, "expires_at", b->expires_at);
    put_time(out, "finalizing_at", b->finalizing_at);
    put_time(out, "completed_at", b->completed_at);
    put_time(out, "failed_at", b->failed_at);
    put_time(out, "expired_at", b->expired_at);
    put_time(out, "cancelling_at", b->cancelling_at);
    put_time(out, "cancelled_at", b->cancelled_at);
    put_counts(b, out);
    put_json(out, "metadata", b->metadata);
    buf_putc(out, '}');
}

void batch_facts_free(struct batch_facts *b)
{
    free(b->metadata);
    free(b->errors);
    b->metadata = b->errors = NULL;
}

/* ------------------------------------------------------------------ POST /v1/batches */

/* A required string that fits; copied. */
static int read_text(const json_node *root, const char *name, char *out, size_t max,
                     struct sl_error *e)
{
    const json_node *v = json_opt(root, name);
    struct str s;
    if (!v) return sl_fail_param(e, SL_EMISSING, name, "Missing required parameter: '%s'.", name);
    TRY(field_str(v, name, &s, e));
    if (s.n == 0 || s.n >= max || memchr(s.p, '\0', s.n))
        return sl_fail_param(e, SL_EVALUE, name, "Invalid '%s'.", name);
    memcpy(out, s.p, s.n);
    out[s.n] = '\0';
    return 0;
}

/* "24h", and because a server of one's own need not wait a day to give up: 1s to 30d. */
static int read_window(const char *text, int64_t *seconds, struct sl_error *e)
{
    static const struct {
        char unit;
        int64_t seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    int64_t n = 0;
    const char *p = text;
    for (; *p >= '0' && *p <= '9' && n < WINDOW_SECONDS_MAX; p++) n = n * 10 + (*p - '0');
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (p == text || *p != units[i].unit || p[1]) continue;
        *seconds = n * units[i].seconds;
        if (*seconds >= 1 && *seconds <= WINDOW_SECONDS_MAX) return 0;
    }
    return sl_fail_param(e, SL_EVALUE, "completion_window",
                         "Invalid value: '%.20s' for 'completion_window'. Use '24h', or a number "
                         "with s, m, h or d, up to 30d.",
                         text);
}

static int read_metadata(const json_node *v, char **out, struct sl_error *e)
{
    if (!v) return 0;
    TRY(field_is(v, JSON_OBJ, "metadata", "an object", e));
    if (json_len(v) > METADATA_PAIRS_MAX)
        return sl_fail_param(e, SL_ELONG, "metadata", "Invalid 'metadata': at most %d pairs.",
                             METADATA_PAIRS_MAX);
    for (const json_node *c = json_child(v); c; c = json_next(c)) {
        TRY(field_is(c, JSON_STR, "metadata", "an object of strings", e));
        if (json_key(c).n > METADATA_KEY_MAX || json_str(c).n > METADATA_VALUE_MAX)
            return sl_fail_param(e, SL_EVALUE, "metadata",
                                 "Invalid 'metadata': keys of %d and values of %d bytes at most.",
                                 METADATA_KEY_MAX, METADATA_VALUE_MAX);
    }
    struct buf b = buf_make(METADATA_BYTES_MAX);
    json_put_node(&b, v);
    if (b.overflow) {
        buf_free(&b);
        return sl_fail_param(e, SL_EVALUE, "metadata", "Invalid 'metadata': too large.");
    }
    buf_cstr(&b);
    *out = b.p;
    return 0;
}

static int read_expiry(const json_node *v, int64_t *out, struct sl_error *e)
{
    if (!v) return 0;
    TRY(field_is(v, JSON_OBJ, "output_expires_after", "an object", e));
    const json_node *anchor = json_opt(v, "anchor"), *seconds = json_opt(v, "seconds");
    if (json_type(anchor) != JSON_STR || !str_is(json_str(anchor), "created_at"))
        return sl_fail_param(e, SL_EVALUE, "output_expires_after.anchor",
                             "'anchor' must be 'created_at'.");
    if (!seconds)
        return sl_fail_param(e, SL_EMISSING, "output_expires_after.seconds",
                             "Missing required parameter: 'output_expires_after.seconds'.");
    return field_int(seconds, "output_expires_after.seconds", EXPIRY_MIN, EXPIRY_MAX, out, e);
}

static int read_create(const json_node *root, struct batch_facts *b, struct sl_error *e)
{
    if (json_type(root) != JSON_OBJ) return sl_fail(e, SL_ETYPE, "The body must be a JSON object.");
    TRY(read_text(root, "input_file_id", b->input_file_id, sizeof b->input_file_id, e));
    TRY(read_text(root, "endpoint", b->endpoint, sizeof b->endpoint, e));
    TRY(read_text(root, "completion_window", b->window, sizeof b->window, e));
    TRY(read_window(b->window, &b->expires_at, e));
    TRY(read_expiry(json_opt(root, "output_expires_after"), &b->output_expiry, e));
    return read_metadata(json_opt(root, "metadata"), &b->metadata, e);
}

int batch_create_parse(struct str body, struct batch_facts *out, struct sl_error *e)
{
    struct json_doc *doc;
    *out = (struct batch_facts){0};
    TRY(json_parse(&doc, body.p, body.n, &json_limits_request, e));
    int code = read_create(json_root(doc), out, e);
    json_free(doc);
    if (code < 0) batch_facts_free(out);
    return code;
}

/* ------------------------------------------------------------------ lines in */

bool batch_line_is_blank(struct str line)
{
    for (size_t i = 0; i < line.n; i++)
        if (!strchr(" \t\r", line.p[i]) || line.p[i] == '\0') return false;
    return true;
}

static const char *read_line(const json_node *root, const char *endpoint, struct batch_line *out,
                             struct sl_error *e)
{
    if (json_type(root) != JSON_OBJ) {
        sl_fail(e, SL_EINVAL, "This line is not a JSON object.");
        return "invalid_json_line";
    }
    const json_node *id = json_opt(root, "custom_id"), *method = json_opt(root, "method"),
                    *url = json_opt(root, "url"), *body = json_opt(root, "body");
    const char *missing = !id       ? "custom_id"
                          : !method ? "method"
                          : !url    ? "url"
                          : !body   ? "body"
                                    : NULL;
    if (missing) {
        sl_fail(e, SL_EMISSING, "Missing required parameter: '%s'.", missing);
        return "missing_required_parameter";
    }
    if (json_type(id) != JSON_STR || json_str(id).n == 0 || json_str(id).n > CUSTOM_ID_BYTES_MAX) {
        sl_fail(e, SL_EVALUE, "'custom_id' must be a string of 1 to %d bytes.",
                CUSTOM_ID_BYTES_MAX);
        return "invalid_custom_id";
    }
    memcpy(out->custom_id, json_str(id).p, json_str(id).n);
    out->custom_id[json_str(id).n] = '\0';
    if (json_type(method) != JSON_STR || !str_is(json_str(method), "POST")) {
        sl_fail(e, SL_EVALUE, "'method' must be 'POST'.");
        return "invalid_method";
    }
    if (json_type(url) != JSON_STR || !str_is(json_str(url), endpoint)) {
        sl_fail(e, SL_EVALUE, "'url' must be the batch's endpoint, %s.", endpoint);
        return "url_mismatch";
    }
    if (json_type(body) != JSON_OBJ) {
        sl_fail(e, SL_ETYPE, "'body' must be an object.");
        return "invalid_json_line";
    }
    const json_node *model = json_opt(body, "model");
    if (json_type(model) == JSON_STR && json_str(model).n < sizeof out->model) {
        memcpy(out->model, json_str(model).p, json_str(model).n);
        out->model[json_str(model).n] = '\0';
    }
    out->is_stream = json_type(json_opt(body, "stream")) == JSON_TRUE;
    json_put_node(&out->body, body);
    return NULL;
}

const char *batch_line_parse(struct str line, const char *endpoint, struct batch_line *out,
                             struct sl_error *e)
{
    struct json_doc *doc;
    *out = (struct batch_line){.body = buf_make(LINE_BYTES_MAX)};
    struct sl_error why = {0};
    if (json_parse(&doc, line.p, line.n, &json_limits_request, &why) < 0) {
        sl_fail(e, SL_EINVAL, "This line is not parseable as valid JSON: %s", why.text);
        return "invalid_json_line";
    }
    const char *bad = read_line(json_root(doc), endpoint, out, e);
    json_free(doc);
    if (bad) batch_line_free(out);
    return bad;
}

void batch_line_free(struct batch_line *l)
{
    buf_free(&l->body);
}

/* ------------------------------------------------------------------ lines out */

void put_batch_error(const char *code, const char *message, int64_t line, struct buf *out)
{
    buf_puts(out, out->n ? ",{\"code\":" : "{\"code\":");
    json_put_str(out, str_of(code));
    put_text(out, "message", message);
    buf_puts(out, ",\"param\":null");
    put_time(out, "line", line);
    buf_putc(out, '}');
}

static void put_head(const char *id_hex, const char *custom_id, struct buf *out)
{
    buf_puts(out, "{\"id\":\"batch_req_");
    buf_puts(out, id_hex);
    buf_puts(out, "\",\"custom_id\":");
    json_put_str(out, str_of(custom_id));
}

void put_batch_answer(const char *id_hex, const char *custom_id, unsigned status,
                      const char *request_id, struct str body, struct buf *out)
{
    put_head(id_hex, custom_id, out);
    buf_printf(out, ",\"response\":{\"status_code\":%u,\"request_id\":\"%s\",\"body\":", status,
               request_id);
    size_t at = out->n;
    buf_put_str(out, body);
    for (; at < out->n; at++) /* between tokens only: inside strings JSON escapes them */
        if (out->p[at] == '\n' || out->p[at] == '\r') out->p[at] = ' ';
    buf_puts(out, "},\"error\":null}\n");
}

void put_batch_unrun(const char *id_hex, const char *custom_id, bool is_expired, struct buf *out)
{
    put_head(id_hex, custom_id, out);
    buf_puts(out, ",\"response\":null,\"error\":{\"code\":");
    buf_puts(out,
             is_expired
                 ? "\"batch_expired\",\"message\":\"This request could not be executed before the "
                   "completion window expired.\"}}\n"
                 : "\"batch_cancelled\",\"message\":\"This request was not executed because the "
                   "batch was cancelled.\"}}\n");
}
