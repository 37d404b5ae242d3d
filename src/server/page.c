/* page.c - GET /: the chat page, from memory. io thread.
 *
 * The page is the same for everybody, holds no secret and needs no key: what it asks the API for is
 * checked there. Its headers let it run its own scripts and nothing else, speak to this server only,
 * and be framed by nobody.
 */
#include "server/page.h"

#include <ctype.h>
#include <strings.h>

#include "server/handlers.h"
#include "server/http_request.h"

/* Does Accept-Encoding name gzip, and not with a weight of 0? (RFC 9110, section 12.5.3) */
static bool accepts_gzip(struct str v)
{
    static const struct str name = {"gzip", 4};
    while (v.n) {
        const char *comma = memchr(v.p, ',', v.n);
        struct str item = {v.p, comma ? (size_t)(comma - v.p) : v.n};
        v = comma ? (struct str){comma + 1, v.n - item.n - 1} : (struct str){0};
        while (item.n && isspace((unsigned char)item.p[0])) item.p++, item.n--;
        if (item.n < name.n || strncasecmp(item.p, name.p, name.n) != 0) continue;
        item = (struct str){item.p + name.n, item.n - name.n};
        if (item.n == 0) return true;
        const char *weight = memmem(item.p, item.n, "q=", 2);
        bool is_gzip = item.p[0] == ';' || isspace((unsigned char)item.p[0]);
        if (is_gzip)
            return !weight || strspn(weight, "q=0. \t") < item.n - (size_t)(weight - item.p);
    }
    return false;
}

enum MHD_Result finish_page(struct request *r)
{
    static const struct answer_header headers[] = {
        {"Content-Type", "text/html; charset=utf-8"},
        {"Content-Security-Policy", page_policy},
        {"X-Content-Type-Options", "nosniff"},
        {"Referrer-Policy", "no-referrer"},
        {"Cross-Origin-Opener-Policy", "same-origin"},
        {"Cross-Origin-Resource-Policy", "same-origin"},
        {"Cache-Control", "no-cache"},
        {"Vary", "Accept-Encoding"},
        {"Content-Encoding", "gzip"}, /* the last, left out for those who cannot read it */
    };
    const int n = sizeof headers / sizeof *headers;
    if (!r->s->o->ui) {
        sl_fail(&r->err, SL_ENOTFOUND, "Invalid URL (GET /): the chat page is off (--no-ui)");
        return answer_error(r);
    }
    if (accepts_gzip(r->facts.accept_encoding))
        return answer_constant(r, page_gzip, page_gzip_bytes, headers, n);
    return answer_constant(r, page_html, page_html_bytes, headers, n - 1);
}
