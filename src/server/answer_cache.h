/* answer_cache.h - answers to exact repeats of deterministic requests; io thread.
 *
 * What is kept is not the answer's bytes but the engine's events, so one entry serves a streamed and
 * a whole answer, each with its own id and time. The key is a digest of the tenant's salt and of the
 * request with everything in it that may change the tokens. Bounded by bytes; the longest unused
 * goes first.
 */
#ifndef SERVER_ANSWER_CACHE_H
#define SERVER_ANSWER_CACHE_H

#include "server/sha256.h"
#include "sluice/sluice.h"

struct answer_cache; /* opaque */

struct cached_event {
    struct sl_event event; /* whose handle means nothing any more */
    int choice;
};
struct recording {          /* an answer on its way; {0} is empty */
    struct cached_event *v; /* owned [n] */
    size_t n, max;
};

/* bytes: of all entries together. */
struct answer_cache *answer_cache_new(size_t bytes);
void answer_cache_free(struct answer_cache *c); /* NULL is fine */

/* The events of that key, *n of them, or NULL; borrowed until the next put. */
const struct cached_event *answer_cache_get(struct answer_cache *c, const uint8_t key[SHA256_BYTES],
                                            size_t *n);
/* Takes the recording over, or drops it where it is too large. */
void answer_cache_put(struct answer_cache *c, const uint8_t key[SHA256_BYTES],
                      struct recording *rec);

/* False, and the recording dropped, when it grows beyond what the cache would keep. */
bool recording_add(struct recording *rec, const struct answer_cache *c, int choice,
                   const struct sl_event *ev);
void recording_drop(struct recording *rec);

struct answer_cache_stats {
    uint64_t n_hits, n_misses;
    size_t bytes, n_entries;
};
struct answer_cache_stats answer_cache_stats(const struct answer_cache *c);

#endif
