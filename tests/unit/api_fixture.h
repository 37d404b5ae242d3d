/* api_fixture.h - a context for tests of api/: a byte-level vocabulary (ids 0 to 255 are the bytes,
 * 256 is "ab", then four special tokens) and a chat template that writes "role:content;" and
 * "assistant:". */
#ifndef TESTS_API_FIXTURE_H
#define TESTS_API_FIXTURE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/api.h"
#include "base/utf8.h"

enum { T_AB = 256, T_BOS, T_EOS, T_END, T_TOOL, T_COUNT };

int chat_render(const struct chat_template *t, const struct chat_request *q, struct buf *out,
                struct sl_error *e)
{
    (void)t;
    for (const json_node *m = json_child(q->messages); m; m = json_next(m)) {
        const json_node *content = json_opt(m, "content");
        buf_put_str(out, json_str(json_get(m, "role")));
        buf_putc(out, ':');
        if (json_type(content) == JSON_STR && str_is(json_str(content), "RAISE"))
            return sl_fail(e, SL_EINVAL, "the template says no");
        if (json_type(content) == JSON_STR) buf_put_str(out, json_str(content));
        if (json_next(m) || !q->continue_final_message) buf_putc(out, ';');
    }
    if (q->tools) buf_puts(out, "TOOLS");
    if (q->kwargs) json_put_node(out, q->kwargs);
    if (q->add_generation_prompt) buf_puts(out, "assistant:");
    return 0;
}

/* The character that stands for a byte in byte-level vocabularies. */
static void put_byte_char(struct buf *b, int byte)
{
    int cp = byte, next = 256;
    for (int i = 0; i <= byte; i++) {
        bool same = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174;
        if (!same && i == byte) cp = next;
        next += !same;
    }
    char utf8[4];
    int n = utf8_put(utf8, (uint32_t)cp);
    buf_put(b, utf8, (size_t)n);
}

static struct tokenizer *fixture_tokenizer(void)
{
    static const char *const names[] = {"<bos>", "<eos>", "<end>", "[TOOL_CALLS]"};
    struct buf b = buf_make(1 << 20), text = buf_make(16);
    struct json_doc *doc;
    struct tokenizer *tok;
    buf_puts(&b, "{\"added_tokens\":[");
    for (int i = 0; i < 4; i++)
        buf_printf(&b, "%s{\"id\":%d,\"content\":\"%s\",\"special\":true}", i ? "," : "", T_BOS + i,
                   names[i]);
    buf_puts(&b, "],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_"
                 "regex\":true},"
                 "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"merges\":[\"a "
                 "b\"],\"vocab\":{");
    for (int i = 0; i < 256; i++) {
        text.n = 0;
        put_byte_char(&text, i);
        json_put_str(&b, buf_str(&text));
        buf_printf(&b, ":%d,", i);
    }
    buf_puts(&b, "\"ab\":256}}}");
    struct sl_error e = {0};
    if (json_parse(&doc, b.p, b.n, &json_limits_file, &e) < 0 ||
        tokenizer_from_json(&tok, json_root(doc), NULL, &e) < 0) {
        fprintf(stderr, "fixture: %s\n", e.text);
        abort();
    }
    json_free(doc);
    buf_free(&b);
    buf_free(&text);
    return tok;
}

static struct model_text fixture_text;
static struct sl_info fixture_info = {.n_vocab = T_COUNT, .max_model_len = 1000, .n_pooled = 4};
static const char *const fixture_names[] = {"m", "org/alias"};
static struct api_context fixture_context = {
    .text = &fixture_text,
    .info = &fixture_info,
    .served_names = fixture_names,
    .n_served = 2,
    .created = 7,
    .fingerprint = "fp_0123456789",
    .n_max = 16,
    .model_defaults = true,
    .has_store = true,
    .pooling = {.kind = SL_POOL_MEAN, .is_normalized = true, .has_any_dimension = true}};

static const struct api_context *fixture(void)
{
    static char any_template; /* chat_render above does not look at it */
    if (!fixture_text.tok) {
        fixture_text = (struct model_text){.tok = fixture_tokenizer(),
                                           .chat = (struct chat_template *)&any_template,
                                           .eos = {T_EOS},
                                           .n_eos = 1,
                                           .defaults = {NAN, NAN, NAN, NAN, NAN, -1, -1}};
    }
    return &fixture_context;
}

#endif
