/* fuzz_tokenizer_json.c - any bytes as tokenizer.json: refused, or a tokenizer that encodes and
 * decodes. */
#include "base/utf8.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        "the <s> a\xE2\x96\x81 1234's\n\n  \xE4\xBD\xA0\xF0\x9F\x98\x80 <mask>  B.\t";
    struct json_doc *d;
    struct tokenizer *t;
    struct sl_error e = {0};
    if (json_parse(&d, (const char *)data, size, &json_limits_file, &e) < 0) return 0;
    int code = tokenizer_from_json(&t, json_root(d), NULL, &e);
    json_free(d);
    if (code < 0) return 0;
    struct ids ids = {0};
    struct buf out = buf_make(1 << 20);
    unsigned flags = TOK_PARSE_SPECIAL | TOK_ADD_SPECIAL;
    if (tokenizer_encode(t, (struct str){text, sizeof text - 1}, flags, &ids, &e) == 0)
        tokenizer_decode(t, ids.v, ids.n, size & 1, &out);
    for (int32_t id = -1; id < 20; id++) tokenizer_token_bytes(t, id, &out);
    buf_free(&out);
    ids_free(&ids);
    tokenizer_free(t);
    return 0;
}
