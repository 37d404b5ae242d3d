/* cors.c - the decision, nothing else; answer.c writes the headers. */
#include "server/cors.h"

#include "server/gate.h"

struct str cors_origin(const struct cors *c, struct str origin, struct str host)
{
    static const struct str any = {"*", 1}, none = {"", 0};
    for (int i = 0; i < c->allowed->n; i++) {
        if (strcmp(c->allowed->v[i], "*") == 0) return any;
        if (origin.n && gate_same(origin, c->allowed->v[i])) return origin;
    }
    if (c->allowed->n) return none;
    if (c->has_keys) return any;
    const char *at = origin.n ? memmem(origin.p, origin.n, "://", 3) : NULL;
    if (!at) return none;
    struct str authority = {at + 3, origin.n - (size_t)(at + 3 - origin.p)};
    if (authority.n == 0) return none;
    bool is_same = host.n && str_eq(authority, host);
    return is_same || gate_host_is_local(authority, NULL) ? origin : none;
}
