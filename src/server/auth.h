/* auth.h - API keys: who may call what, how much, and which prefix-cache tenant the caller is.
 *
 * Keys are kept as SHA-256 digests only. Filled once at start, read-only afterwards; any thread.
 */
#ifndef SERVER_AUTH_H
#define SERVER_AUTH_H

#include "base/err.h"
#include "base/opts.h"
#include "server/gate.h"

enum { KEY_NAME_MAX = 64, KEY_SCOPES_MAX = 32, OWNER_MAX = 80 };

struct key_limits { /* 0: none */
    int64_t requests_per_minute, tokens_per_minute;
    int64_t tokens_per_day, tokens_total; /* quotas: they need --data-dir to outlive the process */
};

struct auth; /* opaque */

/* Reads --api-key and --api-key-file. The file has one key a line (`#` starts a comment line), or is
 * YAML:
 *
 *   keys:
 *     - name: alice
 *       key: sk-...            # or sha256: its digest in hex
 *       scopes: [chat, models] # first parts of paths below /v1; default: all
 *       limits: {requests_per_minute: 60, tokens_per_minute: 40000, tokens_per_day: 1000000}
 */
int auth_open(struct auth **out, const struct options *o, struct sl_error *e);
void auth_close(struct auth *a);
bool auth_has_keys(const struct auth *a);
int auth_n_keys(const struct auth *a);

/* Check the credentials of a request: Authorization: Bearer, x-api-key or api-key. Returns the
 * key's index, 0 when no keys are configured, or SL_ENOKEY / SL_EBADKEY. */
int auth_check(const struct auth *a, const struct gate_facts *f, struct sl_error *e);

/* May this key use a path such as "/chat/completions"? 0 or SL_EPERM. */
int auth_scope(const struct auth *a, int key, const char *path, struct sl_error *e);

/* Its limits; all zero without keys. */
const struct key_limits *auth_limits(const struct auth *a, int key);
/* Its name, for metrics: "key-N" where it has none. */
const char *auth_name(const struct auth *a, int key);
/* Who a key stands for, as stored with what it makes: its name, else a digest of it; "" without
 * keys. */
const char *auth_owner(const struct auth *a, int key);
/* The key of that owner, or -1. */
int auth_find_owner(const struct auth *a, const char *owner);

/* The prefix-cache salt of (key, cache_salt): zero without both, else a keyed hash that no client
 * can predict, so that pages are shared only within one key and one cache_salt. */
void auth_salt(const struct auth *a, int key, struct str cache_salt, uint64_t out[2]);

#endif
