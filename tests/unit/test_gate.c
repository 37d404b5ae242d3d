/* test_gate.c - header sets and their verdicts. */
#include "server/gate.h"

#include "base/test.h"

struct gate_case {
    const char *version;
    const char *pairs[9]; /* name, value, ..., NULL */
    int code;
};

static const struct gate_case cases[] = {
    {"HTTP/1.1", {"Host", "a", NULL}, 0},
    {"HTTP/1.1", {"hOsT", "a:80", "Content-Length", "5", NULL}, 0},
    {"HTTP/1.1", {"Host", "[::1]:80", "Transfer-Encoding", " Chunked ", NULL}, 0},
    {"HTTP/1.0", {NULL}, 0},
    {"HTTP/1.1", {NULL}, SL_EINVAL}, /* no Host */
    {"HTTP/2.0", {"Host", "a", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a", "Host", "a", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a b", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a/b", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a@b", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a", "Content-Length", "5", "Content-Length", "5", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a", "Content-Length", "5, 5", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a", "Content-Length", "-1", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a", "Content-Length", "", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a", "Content-Length", "0x10", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a", "Content-Length", "9999999999999999999", NULL}, SL_EINVAL},
    {"HTTP/1.1",
     {"Host", "a", "Content-Length", "5", "Transfer-Encoding", "chunked", NULL},
     SL_EINVAL},
    {"HTTP/1.1",
     {"Host", "a", "Transfer-Encoding", "chunked", "Content-Length", "5", NULL},
     SL_EINVAL},
    {"HTTP/1.1", {"Host", "a", "Transfer-Encoding", "xchunked", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a", "Transfer-Encoding", "gzip, chunked", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a", "Transfer-Encoding", "identity", NULL}, SL_EINVAL},
    {"HTTP/1.0", {"Transfer-Encoding", "chunked", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a", "", "b", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a", "a b", "c", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a", "a\xe9", "c", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a", "a", "b\x01", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a", "a", "b\rc", NULL}, SL_EINVAL},
    {"HTTP/1.1", {"Host", "a", "a", "b\xe9\tc", NULL}, 0},
    {"HTTP/1.1", {"Host", "a", "Authorization", "x", "Authorization", "y", NULL}, SL_EINVAL},
};

TEST(verdicts)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gate_header h[8];
        struct gate_facts f;
        struct sl_error e = {0};
        int n = 0;
        for (const char *const *p = cases[i].pairs; *p; p += 2)
            h[n++] = (struct gate_header){str_of(p[0]), str_of(p[1])};
        int code = gate_check(&f, str_of(cases[i].version), h, n, &e);
        CHECK_MSG(code == cases[i].code, "case %zu: %d %s", i, code, e.text);
    }
}

TEST(nul_bytes)
{
    struct gate_facts f;
    struct gate_header value[] = {{STR("Host"), STR("a")}, {STR("X"), {"a\0b", 3}}};
    struct gate_header name[] = {{STR("Host"), STR("a")}, {{"X\0Y", 3}, STR("a")}};
    CHECK(gate_check(&f, STR("HTTP/1.1"), value, 2, NULL) == SL_EINVAL);
    CHECK(gate_check(&f, STR("HTTP/1.1"), name, 2, NULL) == SL_EINVAL);
}

TEST(limits)
{
    static char big[GATE_BYTES_MAX];
    static struct gate_header h[GATE_HEADERS_MAX + 1];
    struct gate_facts f;
    h[0] = (struct gate_header){STR("Host"), STR("a")};
    for (int i = 1; i <= GATE_HEADERS_MAX; i++) h[i] = (struct gate_header){STR("X"), STR("y")};
    CHECK(gate_check(&f, STR("HTTP/1.1"), h, GATE_HEADERS_MAX, NULL) == 0);
    CHECK(gate_check(&f, STR("HTTP/1.1"), h, GATE_HEADERS_MAX + 1, NULL) == SL_EHEADERS);
    memset(big, 'a', sizeof big);
    h[1].value =
        (struct str){big, sizeof big - 9 - 5}; /* "Host: a" and "X: " with their line ends */
    CHECK(gate_check(&f, STR("HTTP/1.1"), h, 2, NULL) == 0);
    h[1].value.n++;
    CHECK(gate_check(&f, STR("HTTP/1.1"), h, 2, NULL) == SL_EHEADERS);
}

TEST(facts)
{
    struct gate_facts f;
    struct gate_header h[] = {{STR("host"), STR("a")},
                              {STR("X-API-KEY"), STR(" k ")},
                              {STR("content-length"), STR("007")},
                              {STR("origin"), STR("http://o")}};
    CHECK(gate_check(&f, STR("HTTP/1.1"), h, 4, NULL) == 0);
    CHECK(str_is(f.x_api_key, "k") && f.content_length == 7 && str_is(f.origin, "http://o"));
    CHECK(f.api_key.n == 0 && !f.is_chunked && !f.is_http10);
}

TEST(local_hosts)
{
    static const char *const yes[] = {"",          "localhost",     "LOCALHOST:80", "a.localhost:1",
                                      "127.0.0.1", "127.255.0.1:9", "[::1]",        "[::1]:8000",
                                      "own",       "own:1"};
    static const char *const no[] = {"evil",      "127.0.0.1.evil", "127.evil", "localhost.evil",
                                     "128.0.0.1", "xlocalhost",     "[::2]",    "own.evil"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        CHECK_MSG(gate_host_is_local(str_of(yes[i]), "own"), "%s", yes[i]);
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        CHECK_MSG(!gate_host_is_local(str_of(no[i]), "own"), "%s", no[i]);
}
