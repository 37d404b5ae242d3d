/* fuzz_json.c - bytes -> json_parse with the limits of requests -> json_put_node -> parsed again:
 * the same text. */
#include <stdlib.h>

#include "base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json_doc *doc, *again;
    struct sl_error e = {0};
    int code = json_parse(&doc, (const char *)data, size, &json_limits_request, &e);
    if (code < 0) {
        ASSERT(code == SL_EINVAL && e.text[0]);
        return 0;
    }
    struct buf one = buf_make(64 << 20), two = buf_make(64 << 20);
    json_put_node(&one, json_root(doc));
    ASSERT(!one.overflow);
    ASSERT(json_parse(&again, one.p, one.n, &json_limits_request, &e) == 0);
    json_put_node(&two, json_root(again));
    ASSERT(str_eq(buf_str(&one), buf_str(&two)));
    buf_free(&one);
    buf_free(&two);
    json_free(doc);
    json_free(again);
    return 0;
}
