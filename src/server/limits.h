/* limits.h - what each API key may still use, and what it has used; io thread.
 *
 * Rates are token buckets that hold a minute's worth. A request's tokens are charged at admission as
 * if it ran to its limit, and what it did not use is given back at its end; a request that alone
 * asks for more than a minute's worth is charged that, so it waits for a full bucket instead of for
 * ever. Quotas count what was really used, of the day (UTC) and in all; with --data-dir usage
 * outlives the process (written once a second, so a crash forgets the last one).
 */
#ifndef SERVER_LIMITS_H
#define SERVER_LIMITS_H

#include "server/auth.h"
#include "server/db.h"
#include "server/store.h"

struct limits; /* opaque */

/* The store may be NULL; with it, past usage is read in the background. */
struct limits *limits_new(const struct auth *auth, struct store *store);
/* After limits_flush and store_close. NULL is fine. */
void limits_close(struct limits *l);
/* Once a second: usage to the store, the day's change. */
void limits_tick(struct limits *l);

/* One more request of this key: 0, or SL_ERATE with *retry_s set (1 to 60). */
int limits_request(struct limits *l, int key, int *retry_s, struct sl_error *e);
/* It wants so many tokens: 0 with *charged set, SL_ETOKENS with *retry_s set, or SL_EQUOTA. A
 * background request meets quotas only. */
int limits_tokens(struct limits *l, int key, uint64_t cost, bool is_background, uint64_t *charged,
                  int *retry_s, struct sl_error *e);
/* The request is over: what it used counts, the rest of the charge comes back. */
void limits_settle(struct limits *l, int key, uint64_t charged, const struct db_usage *used);

/* x-ratelimit-*: calls add for each header; nothing for a key without rates. */
void limits_headers(const struct limits *l, int key, void *arg,
                    void (*add)(void *arg, const char *name, const char *value));

/* GET /v1/usage: the object up to its days, which the store appends; see finish_usage. */
void limits_put_usage(const struct limits *l, int key, struct buf *out);
/* What is not in the store yet goes there, before any job submitted later. */
void limits_flush(struct limits *l);

struct key_counts { /* since the start of the process */
    struct db_usage used;
    uint64_t n_rejected;
};
struct key_counts limits_counts(const struct limits *l, int key);

#endif
