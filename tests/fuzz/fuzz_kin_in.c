/* fuzz_kin_in.c - bytes as bodies of Responses, Messages, embeddings, rerank and score, through
 * api_prepare and an answer; and as the kept history of a Responses body.
 */
#include "api_body.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void count(enum api_kind kind, struct str body)
{
    struct buf out = buf_make(1 << 20);
    struct sl_error e = {0};
    int code = api_count(kind, fixture(), body, &out, &e);
    ASSERT(code == 0 ? out.n > 0 : e.text[0] != '\0');
    buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char follow_up[] =
        "{\"input\":\"on\",\"previous_response_id\":\"resp_1\",\"truncation\":\"auto\"}";
    struct str body = {(const char *)data, size};
    for (int kind = API_RESPONSE; kind <= API_SCORE; kind++)
        body_run((enum api_kind)kind, body, STR("{\"role\":\"user\",\"content\":\"before\"}"));
    body_run(API_RESPONSE, STR(follow_up), body);
    count(API_RESPONSE, body);
    count(API_MESSAGE, body);
    return 0;
}
