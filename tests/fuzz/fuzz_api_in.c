/* fuzz_api_in.c - bytes as a chat and as a completion body, through api_prepare and an answer. */
#include "api_body.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str body = {(const char *)data, size};
    body_run(API_CHAT, body, STR(""));
    body_run(API_COMPLETION, body, STR(""));
    return 0;
}
