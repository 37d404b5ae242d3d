/* cors.h - which browser origins may read our answers.
 *
 * Without API keys: the same origin and localhost only (whatever the scheme), so that a page on the
 * web cannot read a model on its visitor's machine. With keys: `*`, the key is the guard.
 * --allowed-origins overrides both with an exact list (or `*`). Pure; any thread.
 */
#ifndef SERVER_CORS_H
#define SERVER_CORS_H

#include "base/buf.h"
#include "base/opts.h"

struct cors {
    const struct opts_list *allowed; /* borrowed from the options */
    bool has_keys;
};

/* The value of Access-Control-Allow-Origin: "*", the origin itself (add Vary: Origin), or "" for
 * none. */
struct str cors_origin(const struct cors *c, struct str origin, struct str host);

#endif
