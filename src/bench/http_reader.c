/* http_reader.c - status line, headers, body by length, chunks or close. RFC 9112 sections 4 to 7. */
#include "bench/http_reader.h"

#include <string.h>
#include <strings.h>

enum state {
    STATUS,
    HEADER,
    BODY_LENGTH,
    BODY_CLOSE,
    CHUNK_SIZE,
    CHUNK_DATA,
    CHUNK_END,
    TRAILER,
    ENDED
};

void http_reader_init(struct http_reader *r)
{
    r->state = STATUS;
    r->status = 0;
    r->length = -1;
    r->is_chunked = r->is_closing = r->is_events = false;
    r->left = 0;
    r->n_lines = r->n_line = 0;
    r->why = NULL;
}

static enum http_outcome bad(struct http_reader *r, const char *why)
{
    r->why = why;
    r->state = ENDED;
    return HTTP_BAD;
}

/* ------------------------------------------------------------------ lines */

static enum http_outcome on_status(struct http_reader *r)
{
    const char *p = r->line;
    bool is_http = r->n_line >= 12 && memcmp(p, "HTTP/1.", 7) == 0 && (p[7] == '0' || p[7] == '1');
    if (!is_http || p[8] != ' ') return bad(r, "no HTTP/1.x status line");
    r->status = 0;
    for (int i = 9; i < 12; i++) {
        if (p[i] < '0' || p[i] > '9') return bad(r, "no HTTP/1.x status line");
        r->status = r->status * 10 + p[i] - '0';
    }
    if (r->status < 100) return bad(r, "no HTTP/1.x status line");
    r->is_closing = p[7] == '0';
    r->state = HEADER;
    return HTTP_MORE;
}

/* Does the comma-separated value hold this word? */
static bool has_word(const char *value, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = value; *p;) {
        p += strspn(p, " \t,");
        size_t len = strcspn(p, " \t,;");
        if (len == n && strncasecmp(p, word, n) == 0) return true;
        p += strcspn(p, ",");
    }
    return false;
}

static bool read_length(const char *value, int64_t *out)
{
    int64_t n = 0;
    if (!*value) return false;
    for (const char *p = value; *p; p++) {
        if (*p < '0' || *p > '9' || n > INT64_MAX / 10 - 1) return false;
        n = n * 10 + *p - '0';
    }
    *out = n;
    return true;
}

static enum http_outcome on_header(struct http_reader *r)
{
    char *colon = memchr(r->line, ':', r->n_line);
    if (!colon) return bad(r, "a header without a colon");
    *colon = '\0';
    char *value = colon + 1 + strspn(colon + 1, " \t"), *end = r->line + r->n_line;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t')) *--end = '\0';
    if (strcasecmp(r->line, "content-length") == 0) {
        if (!read_length(value, &r->length)) return bad(r, "a Content-Length that is no number");
    } else if (strcasecmp(r->line, "transfer-encoding") == 0) {
        if (!has_word(value, "chunked")) return bad(r, "an unknown Transfer-Encoding");
        r->is_chunked = true;
    } else if (strcasecmp(r->line, "connection") == 0) {
        if (has_word(value, "close")) r->is_closing = true;
        if (has_word(value, "keep-alive")) r->is_closing = false;
    } else if (strcasecmp(r->line, "content-type") == 0) {
        r->is_events = strncasecmp(value, "text/event-stream", 17) == 0;
    }
    return HTTP_MORE;
}

static enum http_outcome on_headers_end(struct http_reader *r)
{
    if (r->status < 200) { /* 100 Continue and the like: the answer is still to come */
        uint32_t n = r->n_lines;
        http_reader_init(r);
        r->n_lines = n;
        return HTTP_MORE;
    }
    if (r->status == 204 || r->status == 304) {
        r->state = ENDED;
    } else if (r->is_chunked) {
        r->state = CHUNK_SIZE;
    } else if (r->length >= 0) {
        r->left = (uint64_t)r->length;
        r->state = r->left ? BODY_LENGTH : ENDED;
    } else {
        r->is_closing = true;
        r->state = BODY_CLOSE;
    }
    return r->state == ENDED ? HTTP_DONE : HTTP_MORE;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                : -1;
}

static enum http_outcome on_chunk_size(struct http_reader *r)
{
    uint32_t i = 0;
    r->left = 0;
    for (; i < r->n_line && hex_digit(r->line[i]) >= 0; i++) {
        if (r->left >> 40) return bad(r, "a chunk larger than can be");
        r->left = r->left * 16 + (uint64_t)hex_digit(r->line[i]);
    }
    char after = i < r->n_line ? r->line[i] : '\0';
    if (i == 0 || (after && after != ';' && after != ' ' && after != '\t'))
        return bad(r, "a chunk without a size");
    r->state = r->left ? CHUNK_DATA : TRAILER;
    return HTTP_MORE;
}

/* A whole line, without its end, NUL-terminated. */
static enum http_outcome on_line(struct http_reader *r)
{
    if (++r->n_lines > HTTP_HEADERS_MAX && r->state != CHUNK_SIZE && r->state != CHUNK_END)
        return bad(r, "too many header lines");
    switch ((enum state)r->state) {
    case STATUS:
        return on_status(r);
    case HEADER:
        return r->n_line ? on_header(r) : on_headers_end(r);
    case CHUNK_SIZE:
        return on_chunk_size(r);
    case CHUNK_END:
        if (r->n_line) return bad(r, "bytes between chunks");
        r->n_lines = 0;
        r->state = CHUNK_SIZE;
        return HTTP_MORE;
    case TRAILER:
        if (r->n_line) return HTTP_MORE;
        r->state = ENDED;
        return HTTP_DONE;
    case BODY_LENGTH:
    case BODY_CLOSE:
    case CHUNK_DATA:
    case ENDED:
        break;
    }
    return bad(r, "bytes after the end");
}

/* ------------------------------------------------------------------ bytes */

/* Bytes up to a line's end. Returns how many were taken. */
static size_t take_line(struct http_reader *r, const char *p, size_t n, enum http_outcome *out)
{
    const char *nl = memchr(p, '\n', n);
    size_t take = nl ? (size_t)(nl - p) : n;
    *out = HTTP_MORE;
    if (take >= HTTP_LINE_MAX - r->n_line) {
        *out = bad(r, "a line that is too long");
        return n;
    }
    memcpy(r->line + r->n_line, p, take);
    r->n_line += (uint32_t)take;
    if (!nl) return take;
    if (r->n_line && r->line[r->n_line - 1] == '\r') r->n_line--;
    r->line[r->n_line] = '\0';
    *out = on_line(r);
    r->n_line = 0;
    return take + 1;
}

static bool is_in_body(const struct http_reader *r)
{
    return r->state == BODY_LENGTH || r->state == BODY_CLOSE || r->state == CHUNK_DATA;
}

enum http_outcome http_reader_feed(struct http_reader *r, const char *p, size_t n,
                                   http_body_fn body, void *arg, size_t *used)
{
    size_t i = 0;
    enum http_outcome out = HTTP_MORE;
    while (i < n && out == HTTP_MORE) {
        if (!is_in_body(r)) {
            i += take_line(r, p + i, n - i, &out);
            continue;
        }
        size_t take = n - i;
        if (r->state != BODY_CLOSE && take > r->left) take = (size_t)r->left;
        body(arg, p + i, take);
        i += take;
        if (r->state == BODY_CLOSE) continue;
        r->left -= take;
        if (r->left) continue;
        if (r->state == BODY_LENGTH) out = HTTP_DONE;
        r->state = r->state == BODY_LENGTH ? ENDED : CHUNK_END;
    }
    *used = i;
    return out;
}

enum http_outcome http_reader_end(struct http_reader *r)
{
    if (r->state == BODY_CLOSE) return HTTP_DONE;
    return bad(r, "the connection closed before the end");
}
