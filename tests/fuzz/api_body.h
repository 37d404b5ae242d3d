/* api_body.h - a body through parse, prepare and a whole answer: what the fuzz targets of api/ share. */
#ifndef TESTS_FUZZ_API_BODY_H
#define TESTS_FUZZ_API_BODY_H

#include "../unit/api_fixture.h"

/* Answers to the request's own tokens must be writable. */
static void body_answer(const struct api_request *r, const struct sl_request *q)
{
    static const float pooled[4] = {0.5f, -1, 0, 3};
    struct buf out = buf_make(64 << 20), object = buf_make(64 << 20);
    struct api_kept kept;
    struct api_response *p = api_response_new(r, "0123456789abcdef0123456789abcdef", 1);
    struct sl_event end = {.kind = SL_EV_DONE, .reason = SL_FINISH_LENGTH};
    if (q->pool) end.pooled = pooled;
    api_response_start(p, &out);
    for (int i = 0; i < api_n_choices(r); i++) {
        for (uint32_t k = 0; k < q->n_prompt && k < 50 && !q->pool; k++)
            api_response_event(p, i, &(struct sl_event){.kind = SL_EV_TOKEN, .token = q->prompt[k]},
                               &out);
        api_response_event(p, i, &end, &out);
    }
    ASSERT(api_response_complete(p));
    if (api_response_kept(p, &kept, &object)) ASSERT(utf8_valid(object.p, object.n));
    api_response_finish(p, &out);
    ASSERT(utf8_valid(out.p, out.n));
    api_response_free(p);
    buf_free(&object);
    buf_free(&out);
}

/* What is accepted must be within the engine's limits. */
static void body_run(enum api_kind kind, struct str body, struct str history)
{
    struct arena arena = arena_make(16 << 20);
    struct api_request *r;
    struct sl_error e = {0};
    struct sl_request q = {0};
    int code = api_parse(&r, kind, fixture(), body, &arena, &e);
    if (code == 0 && api_previous_response(r).p) code = api_join_history(r, history, &e);
    if (code == 0) code = api_prepare(r, &e);
    ASSERT(code == 0 || (code < 0 && e.text[0]));
    for (int i = 0; code == 0 && i < api_n_choices(r); i++) {
        api_engine_request(r, i, 5, &q);
        ASSERT(q.n_prompt > 0 && q.n_prompt + q.sampling.max_tokens <= 1000);
        ASSERT(q.sampling.n_stop_ids <= SL_STOP_IDS_MAX && q.sampling.n_bias <= SL_BIAS_MAX);
        for (uint32_t k = 0; k < q.n_prompt; k++) ASSERT(q.prompt[k] >= 0 && q.prompt[k] < T_COUNT);
    }
    if (code == 0) body_answer(r, &q);
    api_request_free(r);
    arena_free(&arena);
}

#endif
