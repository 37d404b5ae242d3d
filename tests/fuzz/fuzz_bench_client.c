/* fuzz_bench_client.c - what any server may send to the load generator: HTTP, events, JSON.
 *
 * The first byte says in pieces of how many bytes the rest arrives. However it is cut, status, body
 * and what the events say are the same as in one piece.
 */
#include "base/err.h"
#include "bench/http_reader.h"
#include "bench/sse_reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct reading {
    struct http_reader http;
    struct sse_reader sse;
    struct reply reply;
    struct buf body;
    enum http_outcome out;
};

static void on_event(void *arg, struct str data)
{
    struct reading *r = arg;
    reply_event(&r->reply, data);
}

static void on_body(void *arg, const char *p, size_t n)
{
    struct reading *r = arg;
    buf_put(&r->body, p, n);
    sse_reader_feed(&r->sse, p, n, on_event, r);
}

static void read_all(struct reading *r, const char *p, size_t n, size_t step)
{
    http_reader_init(&r->http);
    sse_reader_init(&r->sse);
    reply_init(&r->reply);
    r->body = buf_make(1 << 20);
    r->out = HTTP_MORE;
    for (size_t at = 0; at < n && r->out == HTTP_MORE;) {
        size_t take = n - at < step ? n - at : step, used;
        r->out = http_reader_feed(&r->http, p + at, take, on_body, r, &used);
        ASSERT(used <= take && (used == take || r->out != HTTP_MORE));
        at += used;
    }
    if (r->out == HTTP_MORE) r->out = http_reader_end(&r->http);
    ASSERT((r->out == HTTP_BAD) == (r->http.why != NULL));
}

static void drop(struct reading *r)
{
    sse_reader_free(&r->sse);
    buf_free(&r->body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct reading whole, cut;
    if (size < 2 || size > 65536) return 0;
    const char *p = (const char *)data + 1;
    read_all(&whole, p, size - 1, size);
    read_all(&cut, p, size - 1, (size_t)data[0] % 32 + 1);
    ASSERT(whole.out == cut.out && whole.http.status == cut.http.status);
    ASSERT(str_eq(buf_str(&whole.body), buf_str(&cut.body)));
    ASSERT(whole.reply.n_chunks == cut.reply.n_chunks && whole.reply.is_done == cut.reply.is_done);
    ASSERT(whole.reply.completion_tokens == cut.reply.completion_tokens);
    if (whole.out == HTTP_DONE) reply_body(&whole.reply, buf_str(&whole.body));
    drop(&whole);
    drop(&cut);
    return 0;
}
