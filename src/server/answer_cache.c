/* answer_cache.c - a chained table over entries in order of use. The digest is the key's only form:
 * two requests with one SHA-256 are one request.
 */
#include "server/answer_cache.h"

#include <stdlib.h>
#include <sys/queue.h>

#include "base/err.h"

enum {
    BUCKETS = 4096,
    SHARE = 8, /* an entry takes at most one such part of the cache */
};

struct entry {
    TAILQ_ENTRY(entry) link; /* in order of use, the latest first */
    LIST_ENTRY(entry) chain; /* of its bucket */
    uint8_t key[SHA256_BYTES];
    struct recording rec; /* owned */
};
TAILQ_HEAD(entry_list, entry);
LIST_HEAD(bucket, entry);

struct answer_cache {
    size_t bytes_max;
    struct entry_list entries;
    struct bucket buckets[BUCKETS];
    struct answer_cache_stats stats;
};

static size_t size_of(const struct entry *x)
{
    return sizeof *x + x->rec.max * sizeof *x->rec.v;
}

struct answer_cache *answer_cache_new(size_t bytes)
{
    struct answer_cache *c = xcalloc(1, sizeof *c);
    c->bytes_max = bytes;
    TAILQ_INIT(&c->entries);
    for (int i = 0; i < BUCKETS; i++) LIST_INIT(&c->buckets[i]);
    return c;
}

static void remove_entry(struct answer_cache *c, struct entry *x)
{
    TAILQ_REMOVE(&c->entries, x, link);
    LIST_REMOVE(x, chain);
    c->stats.bytes -= size_of(x);
    c->stats.n_entries--;
    recording_drop(&x->rec);
    free(x);
}

void answer_cache_free(struct answer_cache *c)
{
    struct entry *x;
    if (!c) return;
    while ((x = TAILQ_FIRST(&c->entries))) remove_entry(c, x);
    free(c);
}

static struct bucket *bucket_of(struct answer_cache *c, const uint8_t key[SHA256_BYTES])
{
    return &c->buckets[(key[0] | key[1] << 8) % BUCKETS];
}

static struct entry *find(struct answer_cache *c, const uint8_t key[SHA256_BYTES])
{
    struct entry *x;
    LIST_FOREACH(x, bucket_of(c, key), chain)
    {
        if (memcmp(x->key, key, SHA256_BYTES) == 0) break;
    }
    return x;
}

const struct cached_event *answer_cache_get(struct answer_cache *c, const uint8_t key[SHA256_BYTES],
                                            size_t *n)
{
    struct entry *x = find(c, key);
    if (!x) {
        c->stats.n_misses++;
        return NULL;
    }
    c->stats.n_hits++;
    TAILQ_REMOVE(&c->entries, x, link);
    TAILQ_INSERT_HEAD(&c->entries, x, link);
    *n = x->rec.n;
    return x->rec.v;
}

void answer_cache_put(struct answer_cache *c, const uint8_t key[SHA256_BYTES],
                      struct recording *rec)
{
    struct entry *x = find(c, key);
    if (x) remove_entry(c, x); /* two at once asked the same */
    x = xcalloc(1, sizeof *x);
    memcpy(x->key, key, SHA256_BYTES);
    rec->v = xrealloc(rec->v, (rec->n ? rec->n : 1) * sizeof *rec->v);
    rec->max = rec->n;
    x->rec = *rec;
    *rec = (struct recording){0};
    TAILQ_INSERT_HEAD(&c->entries, x, link);
    LIST_INSERT_HEAD(bucket_of(c, key), x, chain);
    c->stats.bytes += size_of(x);
    c->stats.n_entries++;
    while (c->stats.bytes > c->bytes_max) remove_entry(c, TAILQ_LAST(&c->entries, entry_list));
}

bool recording_add(struct recording *rec, const struct answer_cache *c, int choice,
                   const struct sl_event *ev)
{
    if (rec->n == rec->max) {
        size_t max = rec->max ? rec->max * 2 : 32;
        if (max * sizeof *rec->v > c->bytes_max / SHARE) {
            recording_drop(rec);
            return false;
        }
        rec->v = xrealloc(rec->v, max * sizeof *rec->v);
        rec->max = max;
    }
    rec->v[rec->n++] = (struct cached_event){*ev, choice};
    return true;
}

void recording_drop(struct recording *rec)
{
    free(rec->v);
    *rec = (struct recording){0};
}

struct answer_cache_stats answer_cache_stats(const struct answer_cache *c)
{
    return c ? c->stats : (struct answer_cache_stats){0};
}
