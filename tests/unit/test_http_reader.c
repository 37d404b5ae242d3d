/* test_http_reader.c - responses whole, byte by byte and cut anywhere give the same; broken ones
 * are refused. */
#include "bench/http_reader.h"

#include "base/buf.h"
#include "base/test.h"

static uint32_t rng_state = 1;
static uint32_t rnd(uint32_t n)
{
    rng_state = rng_state * 1664525u + 1013904223u;
    return (rng_state >> 8) % n;
}

static void take(void *arg, const char *p, size_t n)
{
    buf_put(arg, p, n);
}

struct got {
    enum http_outcome out;
    int status;
    bool is_closing, is_events;
    size_t used;
    char body[256], why[64];
};

/* step 0: at random places; 1: byte by byte; n: n bytes at a time. ends: the server closes. */
static struct got feed(const char *text, size_t step, bool ends)
{
    static struct http_reader r;
    struct got g = {.out = HTTP_MORE};
    struct buf body = buf_make(1 << 20);
    size_t n = strlen(text);
    http_reader_init(&r);
    while (g.used < n && g.out == HTTP_MORE) {
        size_t take_n = step ? step : 1 + rnd(9), used = 0;
        if (take_n > n - g.used) take_n = n - g.used;
        char *piece = malloc(take_n); /* for the sanitizer: not a byte beyond */
        memcpy(piece, text + g.used, take_n);
        g.out = http_reader_feed(&r, piece, take_n, take, &body, &used);
        free(piece);
        g.used += used;
        CHECK(used == take_n || g.out != HTTP_MORE);
    }
    if (ends && g.out == HTTP_MORE) g.out = http_reader_end(&r);
    g.status = r.status;
    g.is_closing = r.is_closing;
    g.is_events = r.is_events;
    snprintf(g.body, sizeof g.body, "%s", buf_cstr(&body));
    if (r.why) snprintf(g.why, sizeof g.why, "%s", r.why);
    buf_free(&body);
    return g;
}

#define OK "HTTP/1.1 200 OK\r\n"

TEST(good)
{
    static const struct {
        const char *text, *body;
        int status;
        size_t left; /* bytes after the response */
        bool ends, is_closing, is_events;
    } rows[] = {
        {OK "Content-Length: 5\r\n\r\nhello", "hello", 200, 0, false, false, false},
        {OK "content-length:  5  \r\nX: y\r\n\r\nhelloHTTP", "hello", 200, 4, false, false, false},
        {OK "Content-Length: 0\r\n\r\n", "", 200, 0, false, false, false},
        {"HTTP/1.1 204 No Content\r\n\r\n", "", 204, 0, false, false, false},
        {"HTTP/1.1 503 \r\nContent-Length: 2\r\nConnection: close\r\n\r\nno", "no", 503, 0, false,
         true, false},
        {"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", "x", 200, 0, false, true, false},
        {"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\nx", "x", 200, 0,
         false, false, false},
        {OK "\r\nuntil the end", "until the end", 200, 0, true, true, false},
        {OK "Transfer-Encoding: chunked\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"
            "5\r\nhello\r\n1;x=y\r\n \r\n00A\r\n0123456789\r\n0\r\n\r\n",
         "hello 0123456789", 200, 0, false, false, true},
        {OK "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nTrailer: x\r\n\r\nmore", "a", 200, 4,
         false, false, false},
        {OK "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "", 200, 0, false, false, false},
        {"HTTP/1.1 100 Continue\r\n\r\n" OK "Content-Length: 1\r\n\r\nx", "x", 200, 0, false, false,
         false},
        {"HTTP/1.1 200 OK\nContent-Length: 1\n\nx", "x", 200, 0, false, false, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t step = 0; step < 60; step++) {
            struct got g = feed(rows[i].text, step < 40 ? 0 : step - 39, rows[i].ends);
            CHECK_MSG(g.out == HTTP_DONE, "row %zu: %s", i, g.why);
            CHECK_MSG(g.status == rows[i].status && strcmp(g.body, rows[i].body) == 0,
                      "row %zu: %s", i, g.body);
            CHECK(g.is_closing == rows[i].is_closing && g.is_events == rows[i].is_events);
            CHECK(strlen(rows[i].text) - g.used == rows[i].left);
        }
}

TEST(the_rest_is_not_taken)
{
    struct got g = feed(OK "Content-Length: 2\r\n\r\nokHTTP/1.1", 1000, false);
    CHECK(g.out == HTTP_DONE && g.used == strlen(OK "Content-Length: 2\r\n\r\nok"));
    g = feed(OK "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nx", 1000, false);
    CHECK(g.out == HTTP_DONE && g.used == strlen(OK "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"));
}

TEST(broken)
{
    static const struct {
        const char *text, *why;
    } rows[] = {
        {"", "closed"},
        {"nonsense\r\n", "status line"},
        {"HTTP/1.1 abc\r\n", "status line"},
        {"HTTP/1.1 099 x\r\n", "status line"},
        {"HTTP/2.0 200 OK\r\n", "status line"},
        {"ICY 200 OK\r\n\r\n", "status line"},
        {OK "no colon here\r\n", "colon"},
        {OK "Content-Length: 5x\r\n", "Content-Length"},
        {OK "Content-Length: \r\n", "Content-Length"},
        {OK "Content-Length: -1\r\n", "Content-Length"},
        {OK "Content-Length: 99999999999999999999\r\n", "Content-Length"},
        {OK "Transfer-Encoding: gzip\r\n", "Transfer-Encoding"},
        {OK "Content-Length: 5\r\n\r\nhell", "closed"},
        {OK "Transfer-Encoding: chunked\r\n\r\n5\r\nhel", "closed"},
        {OK "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "closed"},
        {OK "Transfer-Encoding: chunked\r\n\r\n0\r\n", "closed"},
        {OK "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", "size"},
        {OK "Transfer-Encoding: chunked\r\n\r\n\r\n", "size"},
        {OK "Transfer-Encoding: chunked\r\n\r\n5q\r\n", "size"},
        {OK "Transfer-Encoding: chunked\r\n\r\nfffffffffffff\r\n", "larger"},
        {OK "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", "between"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t step = 0; step < 30; step++) {
            struct got g = feed(rows[i].text, step < 20 ? 0 : step - 19, true);
            CHECK_MSG(g.out == HTTP_BAD && strstr(g.why, rows[i].why), "row %zu: %s", i, g.why);
        }
}

TEST(limits)
{
    struct buf long_line = buf_make(1 << 20), many = buf_make(1 << 20),
               hundreds = buf_make(1 << 20);
    buf_puts(&long_line, OK "X: ");
    for (int i = 0; i < HTTP_LINE_MAX; i++) buf_putc(&long_line, 'x');
    buf_puts(&many, OK);
    for (int i = 0; i < HTTP_HEADERS_MAX + 1; i++) buf_puts(&many, "A: b\r\n");
    for (int i = 0; i < HTTP_HEADERS_MAX + 1; i++)
        buf_puts(&hundreds, "HTTP/1.1 100 Continue\r\n\r\n");
    CHECK(strstr(feed(buf_cstr(&long_line), 0, true).why, "too long"));
    CHECK(strstr(feed(buf_cstr(&many), 0, true).why, "too many"));
    CHECK(strstr(feed(buf_cstr(&hundreds), 7, true).why, "too many"));
    buf_free(&long_line);
    buf_free(&many);
    buf_free(&hundreds);
}
