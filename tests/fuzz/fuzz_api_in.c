/* fuzz_api_in.c - bytes as a chat and as a completion body, through api_prepare; what is accepted
 * must be within the engine's limits, and answers to its tokens must be writable. */
#include "../unit/api_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void answer(const struct api_request *r, const struct sl_request *q)
{
    struct buf out = buf_make(64 << 20);
    struct api_response *p = api_response_new(r, "0123456789abcdef01234567", 1);
    api_response_start(p, &out);
    for (int i = 0; i < api_n_choices(r); i++) {
        for (uint32_t k = 0; k < q->n_prompt && k < 50; k++)
            api_response_event(p, i, &(struct sl_event){.kind = SL_EV_TOKEN, .token = q->prompt[k]},
                               &out);
        api_response_event(p, i, &(struct sl_event){.kind = SL_EV_DONE, .reason = SL_FINISH_LENGTH},
                           &out);
    }
    ASSERT(api_response_complete(p));
    api_response_finish(p, &out);
    ASSERT(utf8_valid(out.p, out.n));
    api_response_free(p);
    buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (int kind = API_CHAT; kind <= API_COMPLETION; kind++) {
        struct arena arena = arena_make(16 << 20);
        struct api_request *r;
        struct sl_error e = {0};
        struct str body = {(const char *)data, size};
        int code = api_parse(&r, (enum api_kind)kind, fixture(), body, &arena, &e);
        if (code == 0) code = api_prepare(r, &e);
        ASSERT(code == 0 || (code < 0 && e.text[0]));
        struct sl_request q;
        for (int i = 0; code == 0 && i < api_n_choices(r); i++) {
            api_engine_request(r, i, 5, &q);
            ASSERT(q.n_prompt > 0 && q.n_prompt + q.sampling.max_tokens <= 1000);
            ASSERT(q.sampling.n_stop_ids <= SL_STOP_IDS_MAX && q.sampling.n_bias <= SL_BIAS_MAX);
            for (uint32_t k = 0; k < q.n_prompt; k++)
                ASSERT(q.prompt[k] >= 0 && q.prompt[k] < T_COUNT);
        }
        if (code == 0) answer(r, &q);
        api_request_free(r);
        arena_free(&arena);
    }
    return 0;
}
