/* test_sse_reader.c - events cut anywhere, and what an event of a stream says. */
#include "bench/sse_reader.h"

#include "base/test.h"

static uint32_t rng_state = 1;
static uint32_t rnd(uint32_t n)
{
    rng_state = rng_state * 1664525u + 1013904223u;
    return (rng_state >> 8) % n;
}

static void on_event(void *arg, struct str data)
{
    buf_putc(arg, '[');
    buf_put_str(arg, data);
    buf_putc(arg, ']');
}

TEST(events)
{
    static const struct {
        const char *text, *events;
    } rows[] = {
        {"data: a\n\ndata:b\n\n", "[a][b]"},
        {"data: a\r\n\r\n: keep-alive\n\ndata: b\r\n\r\n", "[a][b]"},
        {"event: x\nid: 7\ndata: a\ndata: b\n\n", "[a\nb]"},
        {"\n\n\ndata:  two\n\n", "[ two]"},
        {"data:\n\n", "[]"},
        {"data: unfinished", ""},
        {"data: no blank line\n", ""},
        {"datum: x\n\ndata\n\n", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int round = 0; round < 50; round++) {
            struct sse_reader r;
            struct buf got = buf_make(1000);
            sse_reader_init(&r);
            for (size_t at = 0, n = strlen(rows[i].text); at < n;) {
                size_t take = round == 0 ? n : round == 1 ? 1 : 1 + rnd(7);
                if (take > n - at) take = n - at;
                sse_reader_feed(&r, rows[i].text + at, take, on_event, &got);
                at += take;
            }
            CHECK_MSG(strcmp(buf_cstr(&got), rows[i].events) == 0 && !r.is_bad, "row %zu: %s", i,
                      buf_cstr(&got));
            sse_reader_free(&r);
            buf_free(&got);
        }
}

TEST(an_event_without_end)
{
    struct sse_reader r;
    struct buf got = buf_make(1000);
    static char much[1 << 16];
    memset(much, 'x', sizeof much);
    sse_reader_init(&r);
    sse_reader_feed(&r, "data: ", 6, on_event, &got);
    for (int i = 0; i < 2 * SSE_EVENT_MAX / (int)sizeof much; i++)
        sse_reader_feed(&r, much, sizeof much, on_event, &got);
    CHECK(r.is_bad && r.line.cap <= SSE_EVENT_MAX && got.n == 0);
    sse_reader_reset(&r);
    sse_reader_feed(&r, "data: a\n\n", 9, on_event, &got);
    CHECK(!r.is_bad && strcmp(buf_cstr(&got), "[a]") == 0);
    sse_reader_free(&r);
    buf_free(&got);
}

#define CHAT(delta)                                                                                \
    "{\"choices\":[{\"index\":0,\"delta\":" delta ",\"finish_reason\":null}],\"usage\":null}"

TEST(token_chunks)
{
    static const struct {
        const char *data;
        bool is_chunk, is_bad;
    } rows[] = {
        {"{\"choices\":[{\"text\":\" a\"}]}", true, false},
        {"{\"choices\": [{\"text\": \" a\"}]}", true, false},
        {"{\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}]}", false, false},
        {CHAT("{\"role\":\"assistant\",\"content\":\"\"}"), false, false},
        {CHAT("{\"content\":\"x\"}"), true, false},
        {CHAT("{\"content\":null,\"reasoning_content\":\"hm\"}"), true, false},
        {CHAT("{\"tool_calls\":[{\"function\":{\"arguments\":\"{\"}}]}"), true, false},
        {CHAT("{}"), false, false},
        {"{\"choices\":[{\"text\":\"\\\"text\\\":\\\"\"}]}", true, false},
        {"{\"choices\":[{\"text\":\"\",\"note\":\"\\\"content\\\":\\\"x\"}]}", false, false},
        {"[DONE]", false, false},
        {"not JSON", false, true},
        {"[1]", false, true},
        {"", false, true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct reply a;
        reply_init(&a);
        bool is_chunk = reply_event(&a, str_of(rows[i].data));
        CHECK_MSG(is_chunk == rows[i].is_chunk && a.is_bad == rows[i].is_bad, "%s", rows[i].data);
        CHECK(a.n_chunks == is_chunk && a.is_done == (strcmp(rows[i].data, "[DONE]") == 0));
    }
}

TEST(usage_and_errors)
{
    struct reply a;
    reply_init(&a);
    reply_event(&a, STR("{\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7,"
                        "\"prompt_tokens_details\":{\"cached_tokens\":4}}}"));
    CHECK(a.prompt_tokens == 5 && a.completion_tokens == 7 && a.cached_tokens == 4);
    reply_init(&a); /* usage beside text, as with continuous usage */
    CHECK(reply_event(&a, STR("{\"choices\":[{\"text\":\"x\"}],\"usage\":{\"prompt_tokens\":1,"
                              "\"completion_tokens\":2}}")));
    CHECK(a.completion_tokens == 2 && a.cached_tokens == -1 && a.n_chunks == 1);
    static const char *const errors[] = {"{\"error\":{\"message\":\"no room\"}}",
                                         "{\"error\":\"no room\"}",
                                         "{\"object\":\"error\",\"message\":\"no room\"}"};
    for (size_t i = 0; i < 3; i++) {
        reply_init(&a);
        reply_body(&a, str_of(errors[i]));
        CHECK_MSG(strcmp(a.error, "no room") == 0, "%s", a.error);
    }
    reply_init(&a);
    reply_body(&a, STR(""));
    CHECK(a.is_bad && a.completion_tokens == -1);
}
