/* tokenize_tool.c - see tokenize_tool.h. */
#include "text/tokenize_tool.h"

#include <stdlib.h>

#include "base/utf8.h"

enum { ANSWER_MAX = 1 << 30 };

static const struct json_limits line_limits = {
    .max_depth = 8, .max_nodes = 1024, .max_keys = 64, .allow_nul = true};

/* As ASCII, so that no reader takes U+0085 or U+2028 in a text for the end of a line. */
static void put_ascii(struct buf *out, struct str s)
{
    struct buf json = buf_make(ANSWER_MAX);
    json_put_str(&json, s);
    for (size_t i = 0; i < json.n;) {
        int len;
        int32_t cp = utf8_next(json.p + i, json.n - i, &len);
        if (cp < 0x80)
            buf_putc(out, (char)cp);
        else if (cp < 0x10000)
            buf_printf(out, "\\u%04x", (unsigned)cp);
        else
            buf_printf(out, "\\u%04x\\u%04x", 0xD7C0 + ((unsigned)cp >> 10),
                       0xDC00 + ((unsigned)cp & 0x3FF));
        i += (size_t)len;
    }
    out->overflow = out->overflow || json.overflow;
    buf_free(&json);
}

static int decoded(const struct tokenizer *t, const struct ids *ids, bool skip, struct buf *answer)
{
    struct buf text = buf_make(ANSWER_MAX);
    int code = tokenizer_decode(t, ids->v, ids->n, skip, &text);
    put_ascii(answer, buf_str(&text));
    buf_free(&text);
    return code;
}

static int answer_line(const struct tokenizer *t, const json_node *line, struct buf *answer,
                       struct sl_error *e)
{
    const json_node *text = json_get(line, "text"), *special = json_opt(line, "add_special_tokens");
    if (json_type(text) != JSON_STR) return sl_fail(e, SL_ETYPE, "\"text\" must be a string");
    struct ids ids = {0};
    unsigned flags = TOK_PARSE_SPECIAL;
    if (json_type(special) != JSON_FALSE) flags |= TOK_ADD_SPECIAL;
    int code = tokenizer_encode(t, json_str(text), flags, &ids, e);
    buf_puts(answer, "{\"ids\":[");
    for (size_t i = 0; i < ids.n; i++) {
        if (i) buf_putc(answer, ',');
        buf_put_i64(answer, ids.v[i]);
    }
    buf_puts(answer, "],\"decoded\":");
    if (code == 0) code = decoded(t, &ids, false, answer);
    buf_puts(answer, ",\"decoded_skip_special\":");
    if (code == 0) code = decoded(t, &ids, true, answer);
    buf_puts(answer, "}\n");
    ids_free(&ids);
    return code;
}

int tokenize_jsonl(const struct tokenizer *t, FILE *in, FILE *out)
{
    char *line = NULL;
    size_t cap = 0;
    int n_bad = 0;
    struct buf answer = buf_make(ANSWER_MAX);
    for (ssize_t n; (n = getline(&line, &cap, in)) >= 0;) {
        struct sl_error e = {0};
        struct json_doc *doc;
        answer.n = 0;
        int code = json_parse(&doc, line, (size_t)n, &line_limits, &e);
        if (code == 0) code = answer_line(t, json_root(doc), &answer, &e);
        json_free(doc);
        if (code < 0) {
            n_bad++;
            answer.n = 0;
            buf_puts(&answer, "{\"error\":");
            json_put_str(&answer, str_of(e.text));
            buf_puts(&answer, "}\n");
        }
        if (fwrite(answer.p, 1, answer.n, out) != answer.n) {
            n_bad = SL_EIO;
            break;
        }
    }
    if (fflush(out) != 0 || ferror(in)) n_bad = SL_EIO;
    free(line);
    buf_free(&answer);
    return n_bad;
}
