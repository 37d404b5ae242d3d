/* routes.c - the table, and how a path finds its row. */
#include "server/routes.h"

#include <stdio.h>

#include "server/handlers.h"

// clang-format off
const struct route routes[] = {
    {"POST",   "/chat/completions",       GUARD_KEY,     true,  work_generate,       finish_generate,        API_CHAT},
    {"POST",   "/completions",            GUARD_KEY,     true,  work_generate,       finish_generate,        API_COMPLETION},
    {"POST",   "/responses",              GUARD_KEY,     true,  work_generate,       finish_generate,        API_RESPONSE},
    {"POST",   "/responses/input_tokens", GUARD_KEY,     true,  work_count,          finish_json,            API_RESPONSE},
    {"GET",    "/responses/*",            GUARD_KEY,     true,  NULL,                finish_response_get,    API_CHAT},
    {"POST",   "/responses/*",            GUARD_KEY,     true,  NULL,                finish_response_post,   API_CHAT},
    {"DELETE", "/responses/*",            GUARD_KEY,     true,  NULL,                finish_response_delete, API_CHAT},
    {"POST",   "/messages",               GUARD_KEY,     true,  work_generate,       finish_generate,        API_MESSAGE},
    {"POST",   "/messages/count_tokens",  GUARD_KEY,     true,  work_count,          finish_json,            API_MESSAGE},
    {"POST",   "/embeddings",             GUARD_KEY,     true,  work_generate,       finish_generate,        API_EMBEDDING},
    {"POST",   "/rerank",                 GUARD_KEY,     true,  work_generate,       finish_generate,        API_RERANK},
    {"POST",   "/score",                  GUARD_KEY,     true,  work_generate,       finish_generate,        API_SCORE},
    {"GET",    "/models",                 GUARD_KEY,     true,  work_models,         finish_json,            API_CHAT},
    {"GET",    "/models/*",               GUARD_KEY,     true,  work_model,          finish_json,            API_CHAT},
    {"POST",   "/tokenize",               GUARD_KEY,     true,  work_tokenize,       finish_json,            API_CHAT},
    {"POST",   "/detokenize",             GUARD_KEY,     true,  work_detokenize,     finish_json,            API_CHAT},
    {"POST",   "/apply-template",         GUARD_KEY,     true,  work_apply_template, finish_json,            API_CHAT},
    {"POST",   "/files",                  GUARD_KEY,     false, NULL,                finish_file_upload,     API_CHAT},
    {"GET",    "/files",                  GUARD_KEY,     false, NULL,                finish_file_list,       API_CHAT},
    {"GET",    "/files/*/content",        GUARD_KEY,     false, NULL,                finish_file_content,    API_CHAT},
    {"GET",    "/files/*",                GUARD_KEY,     false, NULL,                finish_file_get,        API_CHAT},
    {"DELETE", "/files/*",                GUARD_KEY,     false, NULL,                finish_file_delete,     API_CHAT},
    {"POST",   "/batches",                GUARD_KEY,     false, NULL,                finish_batch_create,    API_CHAT},
    {"GET",    "/batches",                GUARD_KEY,     false, NULL,                finish_batch_list,      API_CHAT},
    {"POST",   "/batches/*/cancel",       GUARD_KEY,     false, NULL,                finish_batch_cancel,    API_CHAT},
    {"GET",    "/batches/*",              GUARD_KEY,     false, NULL,                finish_batch_get,       API_CHAT},
    {"GET",    "/usage",                  GUARD_KEY,     false, NULL,                finish_usage,           API_CHAT},
    {"GET",    "/health",                 GUARD_NONE,    false, NULL,                finish_ready,           API_CHAT},
    {"GET",    "/readyz",                 GUARD_NONE,    false, NULL,                finish_ready,           API_CHAT},
    {"GET",    "/livez",                  GUARD_NONE,    false, NULL,                finish_live,            API_CHAT},
    {"GET",    "/ping",                   GUARD_NONE,    false, NULL,                finish_ready,           API_CHAT},
    {"GET",    "/version",                GUARD_NONE,    false, NULL,                finish_version,         API_CHAT},
    {"GET",    "/",                       GUARD_NONE,    false, NULL,                finish_page,            API_CHAT},
    {"GET",    "/metrics",                GUARD_METRICS, false, NULL,                finish_metrics,         API_CHAT},
};
// clang-format on
const int n_routes = sizeof routes / sizeof *routes;

enum { PATH_MAX_BYTES = 1024 };

/* `//` to `/`, the query and a trailing slash dropped, /v1 dropped. Returns the length, or 0 when
 * it does not fit or is no path. */
static size_t normalise(struct str url, char out[PATH_MAX_BYTES])
{
    size_t n = 0;
    if (url.n == 0 || url.p[0] != '/') return 0;
    for (size_t i = 0; i < url.n && url.p[i] != '?'; i++) {
        if (url.p[i] == '/' && n && out[n - 1] == '/') continue;
        if (n == PATH_MAX_BYTES - 1) return 0;
        out[n++] = url.p[i];
    }
    if (n > 1 && out[n - 1] == '/') n--;
    if (n > 4 && memcmp(out, "/v1/", 4) == 0) {
        n -= 3;
        memmove(out, out + 3, n);
    }
    out[n] = '\0';
    return n;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decode; false when malformed, too long, or with a NUL in it. */
static bool decode(struct str s, char *out, size_t max)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) {
        int c = (unsigned char)s.p[i];
        if (c == '%') {
            bool whole = s.n - i > 2;
            int high = whole ? hex_digit(s.p[i + 1]) : -1;
            int low = whole ? hex_digit(s.p[i + 2]) : -1;
            if (high < 0 || low < 0) return false;
            c = high * 16 + low;
            i += 2;
        }
        if (c == 0 || n + 1 >= max) return false;
        out[n++] = (char)c;
    }
    out[n] = '\0';
    return n > 0;
}

/* Does the path match this row? A parameter is decoded into m. */
static bool matches(const struct route *r, struct str path, struct route_match *m)
{
    const char *star = strchr(r->path, '*');
    if (!star) return str_is(path, r->path);
    size_t head = (size_t)(star - r->path), tail = strlen(star + 1);
    if (path.n <= head + tail || memcmp(path.p, r->path, head) != 0) return false;
    struct str param = {path.p + head, path.n - head - tail};
    if (tail && memcmp(param.p + param.n, star + 1, tail) != 0) return false;
    if (tail && memchr(param.p, '/', param.n)) return false;
    return decode(param, m->param, sizeof m->param);
}

/* The methods of a path, for the Allow header. */
static const char *allowed(unsigned seen)
{
    static const char *const texts[] = {NULL,
                                        "GET, HEAD, OPTIONS",
                                        "POST, OPTIONS",
                                        "GET, HEAD, POST, OPTIONS",
                                        "DELETE, OPTIONS",
                                        "GET, HEAD, DELETE, OPTIONS",
                                        "POST, DELETE, OPTIONS",
                                        "GET, HEAD, POST, DELETE, OPTIONS"};
    return texts[seen];
}

int route_find(struct route_match *m, struct str method, struct str url, struct sl_error *e)
{
    char path[PATH_MAX_BYTES];
    struct str normal = {path, normalise(url, path)};
    struct str wanted = str_is(method, "HEAD") ? STR("GET") : method;
    unsigned seen = 0;
    m->route = NULL;
    m->allow = NULL;
    m->param[0] = '\0';
    for (const struct route *r = routes; r < routes + n_routes; r++) {
        if (normal.n == 0 || !matches(r, normal, m)) continue;
        if (str_is(wanted, r->method)) {
            m->route = r;
            return 0;
        }
        seen |= r->method[0] == 'G' ? 1 : r->method[0] == 'P' ? 2 : 4;
    }
    m->allow = allowed(seen);
    int n_method = method.n < 16 ? (int)method.n : 16, n_url = url.n < 120 ? (int)url.n : 120;
    if (m->allow)
        return sl_fail(e, SL_EMETHOD, "Not allowed to %.*s on %.*s", n_method, method.p, n_url,
                       url.p);
    return sl_fail(e, SL_ENOTFOUND, "Invalid URL (%.*s %.*s)", n_method, method.p, n_url, url.p);
}
