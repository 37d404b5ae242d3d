/* test_target.c - addresses as they are given, and what every request carries. */
#include "bench/target.h"

#include <arpa/inet.h>

#include "base/test.h"

TEST(addresses)
{
    static const struct {
        const char *url, *host, *prefix;
        int port, family; /* family 0: refused */
    } rows[] = {
        {"http://127.0.0.1:8001", "127.0.0.1", "", 8001, AF_INET},
        {"http://localhost", "localhost", "", 80, AF_INET},
        {"http://127.0.0.1:81/", "127.0.0.1", "", 81, AF_INET},
        {"http://127.0.0.1:81/v1/", "127.0.0.1", "", 81, AF_INET},
        {"http://127.0.0.1:81/a/b/", "127.0.0.1", "/a/b", 81, AF_INET},
        {"http://127.0.0.1:81/proxy/v1", "127.0.0.1", "/proxy", 81, AF_INET},
        {"http://[::1]:90/x", "::1", "/x", 90, AF_INET6},
        {"https://127.0.0.1", "", "", 0, 0},
        {"127.0.0.1:80", "", "", 0, 0},
        {"http://:80", "", "", 0, 0},
        {"http://127.0.0.1:99999", "", "", 0, 0},
        {"http://127.0.0.1:x", "", "", 0, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct serve_args a = {.base_url = rows[i].url, .host = "", .port = 1};
        struct target t;
        struct sl_error e = {0};
        int code = target_open(&t, &a, &e);
        CHECK_MSG((code == 0) == (rows[i].family != 0), "%s: %s", rows[i].url, e.text);
        if (code == 0)
            CHECK_MSG(strcmp(t.host, rows[i].host) == 0 && strcmp(t.prefix, rows[i].prefix) == 0 &&
                          t.port == rows[i].port && t.addr.ss_family == rows[i].family,
                      "%s: %s %d %s", rows[i].url, t.host, t.port, t.prefix);
        target_close(&t);
    }
}

TEST(heads)
{
    struct serve_args a = {.host = "127.0.0.1", .port = 8123, .api_key = "key"};
    struct target t;
    struct buf out = buf_make(1000);
    struct sl_error e;
    a.header.v[a.header.n++] = "X-A: b";
    CHECK(target_open(&t, &a, &e) == 0);
    target_put_head(&t, &out, "POST", "/v1/x", 7);
    CHECK_MSG(strcmp(buf_cstr(&out),
                     "POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:8123\r\nAuthorization: "
                     "Bearer key\r\nX-A: b\r\nContent-Type: application/json\r\n"
                     "Content-Length: 7\r\n\r\n") == 0,
              "%s", buf_cstr(&out));
    target_close(&t);
    static const char *const wrong[] = {"no colon", "a: b\r\nc: d"};
    for (int i = 0; i < 2; i++) {
        a.header.v[0] = wrong[i];
        CHECK(target_open(&t, &a, &e) == SL_EINVAL);
        target_close(&t);
    }
    buf_free(&out);
}
