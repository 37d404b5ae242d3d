/* routes.h - the HTTP surface in one table: method, path, who may call, what runs.
 *
 * Paths are matched after normalisation: `//` reads as `/`, one trailing slash and the query go,
 * and a leading /v1 is optional. HEAD is answered where GET is; OPTIONS everywhere, before this
 * table. Immutable; any thread.
 */
#ifndef SERVER_ROUTES_H
#define SERVER_ROUTES_H

#include <microhttpd.h>

#include "api/api.h"
#include "base/buf.h"
#include "base/err.h"

struct request;

enum route_guard {
    GUARD_NONE,
    GUARD_KEY,     /* needs an API key where keys are configured */
    GUARD_METRICS, /* the same, but only with --api-key-metrics */
};

struct route {
    const char *method; /* "GET", "POST" or "DELETE" */
    /* Without /v1. A star is a parameter: one segment, or at the end the rest of the path. */
    const char *path;
    enum route_guard guard;
    bool needs_model; /* 503 while the model loads and while the server drains */
    /* Reads r->body, fills r->out or r->err; touches nothing else but the immutable context. Large
     * bodies run it on a pool thread. NULL: nothing to do. */
    void (*work)(struct request *r);
    /* Afterwards, on the io thread inside the handler: answers or suspends. */
    enum MHD_Result (*finish)(struct request *r);
    enum api_kind kind; /* whose body it is, and whose format errors have; API_CHAT: OpenAI's */
};

extern const struct route routes[];
extern const int n_routes;

struct route_match {
    const struct route *route; /* NULL: no such route */
    const char *allow;         /* wrong method: the value of Allow */
    char param[512];           /* the decoded rest of the path, NUL-terminated */
};

/* 0, SL_ENOTFOUND or SL_EMETHOD (with m->allow set). url is the path as sent, still
 * percent-encoded. */
int route_find(struct route_match *m, struct str method, struct str url, struct sl_error *e);

#endif
