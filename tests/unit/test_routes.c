/* test_routes.c - paths and methods to rows of the route table. */
#include "server/routes.h"

#include "base/test.h"

static const struct {
    const char *method, *url, *path; /* path of the row, NULL: none */
    const char *param;
    int code;
} cases[] = {
    {"GET", "/v1/models", "/models", "", 0},
    {"GET", "/models", "/models", "", 0},
    {"HEAD", "/models", "/models", "", 0},
    {"GET", "//v1///models//", "/models", "", 0},
    {"GET", "/v1/models?a=/b", "/models", "", 0},
    {"GET", "/v1/models/a", "/models/*", "a", 0},
    {"GET", "/v1/models/a/b/c/", "/models/*", "a/b/c", 0},
    {"GET", "/v1/models/a%2Fb%2fc", "/models/*", "a/b/c", 0},
    {"GET", "/v1/models/%41%20%c3%a9", "/models/*", "A \xc3\xa9", 0},
    {"GET", "/v1/models/a%00b", NULL, "", SL_ENOTFOUND},
    {"GET", "/v1/models/a%", NULL, "", SL_ENOTFOUND},
    {"GET", "/v1/models/a%2", NULL, "", SL_ENOTFOUND},
    {"GET", "/v1/models/a%zz", NULL, "", SL_ENOTFOUND},
    {"POST", "/v1/chat/completions?api-version=1", "/chat/completions", "", 0},
    {"POST", "/chat/completions/", "/chat/completions", "", 0},
    {"GET", "/v1/chat/completions", NULL, "", SL_EMETHOD},
    {"DELETE", "/v1/models/a", NULL, "", SL_EMETHOD},
    {"HEAD", "/v1/completions", NULL, "", SL_EMETHOD},
    {"GET", "/v1/files", "/files", "", 0},
    {"POST", "/v1/files", "/files", "", 0},
    {"DELETE", "/v1/files/file-1", "/files/*", "file-1", 0},
    {"GET", "/v1/files/file-1/content", "/files/*/content", "file-1", 0},
    {"GET", "/v1/files/file-1/content/", "/files/*/content", "file-1", 0},
    {"GET", "/v1/files/a%2Fb/content", "/files/*/content", "a/b", 0},
    {"GET", "/v1/files/a/b/content", "/files/*", "a/b/content", 0},
    {"GET", "/v1/files/content", "/files/*", "content", 0},
    {"POST", "/v1/batches/batch_1/cancel", "/batches/*/cancel", "batch_1", 0},
    {"GET", "/v1/batches/batch_1/cancel", "/batches/*", "batch_1/cancel", 0},
    {"PUT", "/v1/files", NULL, "", SL_EMETHOD},
    {"GET", "/", "/", "", 0},
    {"GET", "", NULL, "", SL_ENOTFOUND},
    {"GET", "*", NULL, "", SL_ENOTFOUND},
    {"GET", "http://a/v1/models", NULL, "", SL_ENOTFOUND},
    {"GET", "/v1", NULL, "", SL_ENOTFOUND},
    {"GET", "/v1/", NULL, "", SL_ENOTFOUND},
    {"GET", "/v1/v1/models", NULL, "", SL_ENOTFOUND},
    {"GET", "/V1/models", NULL, "", SL_ENOTFOUND},
    {"GET", "/health", "/health", "", 0},
    {"GET", "/v1/health", "/health", "", 0},
};

TEST(table)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct route_match m;
        struct sl_error e = {0};
        int code = route_find(&m, str_of(cases[i].method), str_of(cases[i].url), &e);
        CHECK_MSG(code == cases[i].code, "%s %s: %d", cases[i].method, cases[i].url, code);
        const char *path = m.route ? m.route->path : NULL;
        CHECK_MSG(path == cases[i].path ||
                      (path && cases[i].path && strcmp(path, cases[i].path) == 0),
                  "%s", cases[i].url);
        if (code == 0)
            CHECK_MSG(strcmp(m.param, cases[i].param) == 0, "%s: %s", cases[i].url, m.param);
        CHECK((code == SL_EMETHOD) == (m.allow != NULL));
    }
}

TEST(long_paths)
{
    static char url[8192];
    struct route_match m;
    for (size_t n = 0; n < sizeof url - 1; n += 61) {
        memset(url, 'a', n);
        memcpy(url, "/v1/models/", 11);
        url[n < 12 ? 12 : n] = '\0';
        int code = route_find(&m, STR("GET"), str_of(url), NULL);
        CHECK((code == 0) == (strlen(url) - 11 < sizeof m.param));
    }
}

/* The surface without authentication is this list and nothing else. */
TEST(open_routes)
{
    static const char *const open[] = {"/health",  "/readyz",  "/livez", "/ping",
                                       "/version", "/metrics", "/"};
    int n_open = 0;
    for (int i = 0; i < n_routes; i++) {
        if (routes[i].guard == GUARD_KEY) continue;
        bool known = false;
        for (size_t j = 0; j < sizeof open / sizeof *open; j++)
            known |= strcmp(open[j], routes[i].path) == 0;
        CHECK_MSG(known, "%s", routes[i].path);
        n_open++;
    }
    CHECK(n_open == (int)(sizeof open / sizeof *open));
}
