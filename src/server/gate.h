/* gate.h - the strict check of a request's headers, before anything acts on them.
 *
 * libmicrohttpd 0.9.75 accepts header sets that two servers in a row read differently (two
 * Content-Lengths, Content-Length with Transfer-Encoding, an unknown coding): request smuggling.
 * The gate refuses them on the first handler call; the answer carries Connection: close, so nothing
 * after the headers is ever run. One pass also picks out the headers that the server reads. Pure;
 * any thread.
 */
#ifndef SERVER_GATE_H
#define SERVER_GATE_H

#include "base/buf.h"
#include "base/err.h"

enum {
    GATE_HEADERS_MAX = 100,
    /* Names and values together, with what a header costs besides: 2 KiB less than the memory that
     * MHD has for the whole request (POOL_BYTES in loop.c), which the answer's head needs. */
    GATE_BYTES_MAX = 63488,
    GATE_HEADER_BYTES = 80,
};

struct gate_header { /* borrowed for the call */
    struct str name, value;
};

/* What the server reads of a request's headers; "" when absent. Borrowed from the headers. */
struct gate_facts {
    struct str host, origin, content_type, content_encoding, accept_encoding, expect, request_id;
    struct str authorization, x_api_key, api_key;
    struct str ask_headers, ask_private; /* Access-Control-Request-Headers, -Private-Network */
    int64_t content_length;              /* -1: none given */
    bool is_chunked, is_http10;
};

/* 0, or SL_EINVAL / SL_EHEADERS with one clear line: answer it and close the connection. */
int gate_check(struct gate_facts *out, struct str version, const struct gate_header *headers, int n,
               struct sl_error *e);

/* May this Host reach a server that listens on loopback without keys? True for localhost,
 * *.localhost, loopback addresses and `own` (the name in --host): what else resolves here may be
 * DNS rebinding. */
bool gate_host_is_local(struct str host, const char *own);

/* ASCII case-insensitive equality. */
bool gate_same(struct str a, const char *b);

#endif
