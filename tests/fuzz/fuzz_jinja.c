/* fuzz_jinja.c - template bytes against a fixed conversation, under small budgets: never a crash,
 * never long. */
#include <stdint.h>

#include "text/jinja.h"

static const char context[] = "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":"
                              "\"user\",\"content\":\"caf\\u00e9 x\"},"
                              "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{"
                              "\"function\":{\"name\":\"f\",\"arguments\":"
                              "{\"a\":[1,2.5,true,null]}}}]}],\"tools\":null,\"add_generation_"
                              "prompt\":true,\"bos_token\":\"<s>\"}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct jinja_budget budget = {.steps = 20000,
                                        .output_bytes = 64 << 10,
                                        .memory_bytes = 1 << 20,
                                        .depth = 16,
                                        .time_ms = 500};
    struct jinja *t;
    struct json_doc *doc;
    struct sl_error e;
    if (size > 1 << 14 || jinja_compile(&t, (struct str){(const char *)data, size}, &e) < 0)
        return 0;
    struct jinja_global globals[8];
    size_t n = 0;
    struct buf out = buf_make(1 << 20);
    struct tm now = {.tm_year = 125, .tm_mday = 1};
    if (json_parse(&doc, context, sizeof context - 1, &json_limits_request, &e) == 0) {
        for (const json_node *v = json_child(json_root(doc)); v; v = json_next(v))
            globals[n++] = (struct jinja_global){json_key(v).p, v};
        jinja_render(t, globals, n, &now, &budget, &out, &e);
        json_free(doc);
    }
    buf_free(&out);
    jinja_free(t);
    return 0;
}
