/* gate.c - header names, values, lengths and codings, checked in one pass over the list.
 *
 * Source of the rules: RFC 9110 section 5 (fields), RFC 9112 sections 3.2 (Host) and 6 (message
 * length).
 */
#include "server/gate.h"

#include <ctype.h>
#include <stddef.h>
#include <strings.h>

#define AT(field) offsetof(struct gate_facts, field)
static const struct {
    const char *name;
    size_t at;
    bool is_single; /* a second one is refused */
} known[] = {
    {"Host", AT(host), true},
    {"Origin", AT(origin), true},
    {"Content-Type", AT(content_type), true},
    {"Content-Encoding", AT(content_encoding), false},
    {"Accept-Encoding", AT(accept_encoding), false},
    {"Expect", AT(expect), false},
    {"X-Request-Id", AT(request_id), false},
    {"Authorization", AT(authorization), true},
    {"X-Api-Key", AT(x_api_key), true},
    {"Api-Key", AT(api_key), true},
    {"Access-Control-Request-Headers", AT(ask_headers), false},
    {"Access-Control-Request-Private-Network", AT(ask_private), false},
};
enum { N_KNOWN = sizeof known / sizeof *known };

bool gate_same(struct str a, const char *b)
{
    size_t n = strlen(b);
    return a.n == n && strncasecmp(a.p, b, n) == 0;
}

static struct str trim(struct str s)
{
    while (s.n && (s.p[0] == ' ' || s.p[0] == '\t')) s.p++, s.n--;
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t')) s.n--;
    return s;
}

static bool is_token(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c >= 0x80 || (!isalnum(c) && (c == 0 || !strchr("!#$%&'*+-.^_`|~", c)))) return false;
    }
    return s.n > 0;
}

static bool is_value(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if ((c < 0x20 && c != '\t') || c == 0x7F) return false;
    }
    return true;
}

static bool is_host(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c >= 0x80 || (!isalnum(c) && (c == 0 || !strchr(".-_:[]%", c)))) return false;
    }
    return true;
}

/* 1*DIGIT that fits; anything else is -1. */
static int64_t length_of(struct str s)
{
    int64_t v = 0;
    if (s.n == 0 || s.n > 18) return -1;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9') return -1;
        v = v * 10 + (s.p[i] - '0');
    }
    return v;
}

static int check_length(struct gate_facts *f, struct str value, struct sl_error *e)
{
    if (f->content_length >= 0) return sl_fail(e, SL_EINVAL, "more than one Content-Length");
    f->content_length = length_of(trim(value));
    return f->content_length < 0 ? sl_fail(e, SL_EINVAL, "Content-Length is not a number") : 0;
}

static int check_coding(struct gate_facts *f, struct str value, struct sl_error *e)
{
    if (f->is_chunked) return sl_fail(e, SL_EINVAL, "more than one Transfer-Encoding");
    f->is_chunked = gate_same(trim(value), "chunked");
    return f->is_chunked ? 0 : sl_fail(e, SL_EINVAL, "the only Transfer-Encoding is chunked");
}

static int check_known(struct gate_facts *f, const struct gate_header *h, struct sl_error *e)
{
    for (int i = 0; i < N_KNOWN; i++) {
        if (!gate_same(h->name, known[i].name)) continue;
        struct str *slot = (struct str *)(void *)((char *)f + known[i].at);
        if (slot->p && known[i].is_single)
            return sl_fail(e, SL_EINVAL, "more than one %s header", known[i].name);
        if (!slot->p) *slot = trim(h->value);
        return 0;
    }
    return 0;
}

int gate_check(struct gate_facts *out, struct str version, const struct gate_header *headers, int n,
               struct sl_error *e)
{
    size_t bytes = 0;
    *out = (struct gate_facts){.content_length = -1};
    out->is_http10 = str_is(version, "HTTP/1.0");
    if (!out->is_http10 && !str_is(version, "HTTP/1.1"))
        return sl_fail(e, SL_EINVAL, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    if (n > GATE_HEADERS_MAX)
        return sl_fail(e, SL_EHEADERS, "more than %d request headers", GATE_HEADERS_MAX);
    for (int i = 0; i < n; i++) {
        const struct gate_header *h = &headers[i];
        bytes += h->name.n + h->value.n + GATE_HEADER_BYTES;
        if (bytes > GATE_BYTES_MAX)
            return sl_fail(e, SL_EHEADERS, "more than %d bytes of request headers", GATE_BYTES_MAX);
        if (!is_token(h->name)) return sl_fail(e, SL_EINVAL, "malformed header name");
        if (!is_value(h->value)) return sl_fail(e, SL_EINVAL, "malformed header value");
        if (gate_same(h->name, "Content-Length"))
            TRY(check_length(out, h->value, e));
        else if (gate_same(h->name, "Transfer-Encoding"))
            TRY(check_coding(out, h->value, e));
        else
            TRY(check_known(out, h, e));
    }
    if (out->is_chunked && out->content_length >= 0)
        return sl_fail(e, SL_EINVAL, "both Content-Length and Transfer-Encoding");
    if (out->is_chunked && out->is_http10)
        return sl_fail(e, SL_EINVAL, "Transfer-Encoding needs HTTP/1.1");
    if (!out->host.p && !out->is_http10) return sl_fail(e, SL_EINVAL, "no Host header");
    if (!is_host(out->host)) return sl_fail(e, SL_EINVAL, "malformed Host header");
    return 0;
}

/* The name without its port: "[::1]:80" -> "::1", "a:80" -> "a". */
static struct str host_name(struct str h)
{
    if (h.n && h.p[0] == '[') {
        const char *end = memchr(h.p, ']', h.n);
        return end ? (struct str){h.p + 1, (size_t)(end - h.p - 1)} : h;
    }
    const char *colon = h.n ? memchr(h.p, ':', h.n) : NULL;
    return colon ? (struct str){h.p, (size_t)(colon - h.p)} : h;
}

bool gate_host_is_local(struct str host, const char *own)
{
    static const struct str suffix = {".localhost", 10};
    struct str name = host_name(host);
    if (name.n == 0) return true; /* HTTP/1.0 without Host: no browser sends that */
    if (gate_same(name, "localhost") || str_is(name, "::1") || (own && gate_same(name, own)))
        return true;
    if (name.n > suffix.n && strncasecmp(name.p + name.n - suffix.n, suffix.p, suffix.n) == 0)
        return true;
    if (name.n < 5 || memcmp(name.p, "127.", 4) != 0) return false;
    for (size_t i = 0; i < name.n; i++) /* digits and dots only: 127.0.0.1.example.org is a name */
        if (name.p[i] != '.' && (name.p[i] < '0' || name.p[i] > '9')) return false;
    return true;
}
