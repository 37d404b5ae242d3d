/* http_reader.h - an HTTP/1.1 response taken apart as its bytes arrive.
 *
 * For a client that sends one request at a time on a connection: status, the headers that decide
 * where the body ends, and the body's bytes with chunking undone. Nothing is assumed of the server:
 * any bytes, cut anywhere, end in DONE or BAD. Bounded memory; one owner.
 */
#ifndef BENCH_HTTP_READER_H
#define BENCH_HTTP_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HTTP_LINE_MAX = 8192, HTTP_HEADERS_MAX = 200 };

enum http_outcome { HTTP_MORE, HTTP_DONE, HTTP_BAD };

struct http_reader {
    int state;        /* enum in http_reader.c; 0: before the status line */
    int status;       /* 200; 0 until known */
    int64_t length;   /* Content-Length, -1: none */
    bool is_chunked;  /* Transfer-Encoding */
    bool is_closing;  /* the connection ends with this response */
    bool is_events;   /* Content-Type: text/event-stream */
    uint64_t left;    /* bytes of the body, or of the chunk, to come */
    uint32_t n_lines; /* header lines so far */
    uint32_t n_line;  /* bytes of the unfinished line */
    const char *why;  /* BAD: what was wrong; static text */
    char line[HTTP_LINE_MAX];
};

/* Bytes of the body, valid during the call. */
typedef void (*http_body_fn)(void *arg, const char *p, size_t n);

void http_reader_init(struct http_reader *r); /* for the next response */
/* Take up to n bytes; *used says how many belong to this response (fewer only with DONE). */
enum http_outcome http_reader_feed(struct http_reader *r, const char *p, size_t n,
                                   http_body_fn body, void *arg, size_t *used);
/* The server closed: DONE where only that ends the body, else BAD. */
enum http_outcome http_reader_end(struct http_reader *r);

#endif
