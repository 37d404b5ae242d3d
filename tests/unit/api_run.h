/* api_run.h - a request from body to answer, for test_api_in.c, test_api_out.c and test_kin.c. */
#ifndef TESTS_API_RUN_H
#define TESTS_API_RUN_H

#include "api_fixture.h"

struct run {
    struct arena arena;
    struct api_request *r;
    struct api_response *p; /* NULL until the test makes it */
    struct buf out;
    struct sl_error e;
    int code; /* of parsing and preparing */
};

/* history: the items of the response before this one, or NULL. */
static struct run run_body(enum api_kind kind, const char *body, const char *history)
{
    struct run x = {.arena = arena_make(64 << 20), .out = buf_make(64 << 20)};
    x.code = api_parse(&x.r, kind, fixture(), str_of(body), &x.arena, &x.e);
    if (x.code == 0 && history) x.code = api_join_history(x.r, str_of(history), &x.e);
    if (x.code == 0) x.code = api_prepare(x.r, &x.e);
    return x;
}

static void run_done(struct run *x)
{
    api_response_free(x->p);
    api_request_free(x->r);
    arena_free(&x->arena);
    buf_free(&x->out);
}

#endif
