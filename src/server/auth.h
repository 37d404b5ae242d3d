/* auth.h - API keys: who may call, and which prefix-cache tenant the caller is.
 *
 * Keys are kept as SHA-256 digests only. Filled once at start, read-only afterwards; any thread.
 */
#ifndef SERVER_AUTH_H
#define SERVER_AUTH_H

#include "base/err.h"
#include "base/opts.h"
#include "server/gate.h"

struct auth; /* opaque */

/* Reads --api-key and --api-key-file (one key a line, `#` starts a comment line). */
int auth_open(struct auth **out, const struct options *o, struct sl_error *e);
void auth_close(struct auth *a);
bool auth_has_keys(const struct auth *a);

/* Check the credentials of a request: Authorization: Bearer, x-api-key or api-key. Returns the
 * key's index, 0 when no keys are configured, or SL_ENOKEY / SL_EBADKEY. */
int auth_check(const struct auth *a, const struct gate_facts *f, struct sl_error *e);

/* The prefix-cache salt of (key, cache_salt): zero without both, else a keyed hash that no client
 * can predict, so that pages are shared only within one key and one cache_salt. */
void auth_salt(const struct auth *a, int key, struct str cache_salt, uint64_t out[2]);

#endif
