/* grammar_cache.c - a list in order of use. A few hundred grammars at most fit the budget, so it is
 * searched from its head; hashes are compared before keys.
 */
#include "api/grammar_cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/queue.h>

struct entry {
    TAILQ_ENTRY(entry) link;
    struct grammar *g; /* referenced */
    uint64_t hash;
    size_t n;
    char key[];
};
TAILQ_HEAD(entry_list, entry);

struct grammar_cache {
    pthread_mutex_t lock;
    struct entry_list entries; /* most recently used first */
    size_t bytes_max;
};

struct grammar_cache *grammar_cache_new(size_t bytes_max)
{
    struct grammar_cache *c = xcalloc(1, sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    TAILQ_INIT(&c->entries);
    c->bytes_max = bytes_max;
    return c;
}

static void drop(struct grammar_cache *c, struct entry *e)
{
    TAILQ_REMOVE(&c->entries, e, link);
    grammar_unref(e->g);
    free(e);
}

void grammar_cache_free(struct grammar_cache *c)
{
    if (!c) return;
    while (!TAILQ_EMPTY(&c->entries)) drop(c, TAILQ_FIRST(&c->entries));
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static uint64_t hash_of(struct str key)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a: equality is always checked */
    for (size_t i = 0; i < key.n; i++) h = (h ^ (uint8_t)key.p[i]) * 1099511628211u;
    return h;
}

/* Under the lock. */
static struct entry *find(struct grammar_cache *c, struct str key)
{
    uint64_t h = hash_of(key);
    struct entry *e;
    TAILQ_FOREACH(e, &c->entries, link)
    {
        if (e->hash == h && e->n == key.n && memcmp(e->key, key.p, key.n) == 0) return e;
    }
    return NULL;
}

struct grammar *grammar_cache_get(struct grammar_cache *c, struct str key)
{
    struct grammar *g = NULL;
    pthread_mutex_lock(&c->lock);
    struct entry *e = find(c, key);
    if (e) {
        g = e->g;
        grammar_ref(g);
        TAILQ_REMOVE(&c->entries, e, link);
        TAILQ_INSERT_HEAD(&c->entries, e, link);
    }
    pthread_mutex_unlock(&c->lock);
    return g;
}

/* Under the lock. Grammars grow while they are used, so all are asked each time. */
static size_t bytes_held(const struct grammar_cache *c)
{
    size_t n = 0;
    const struct entry *e;
    TAILQ_FOREACH(e, &c->entries, link)
    {
        n += sizeof *e + e->n + grammar_bytes(e->g);
    }
    return n;
}

void grammar_cache_put(struct grammar_cache *c, struct str key, struct grammar *g)
{
    if (key.n + grammar_bytes(g) > c->bytes_max / 2) return;
    pthread_mutex_lock(&c->lock);
    if (!find(c, key)) {
        struct entry *e = xmalloc(sizeof *e + key.n);
        *e = (struct entry){.g = g, .hash = hash_of(key), .n = key.n};
        memcpy(e->key, key.p, key.n);
        grammar_ref(g);
        TAILQ_INSERT_HEAD(&c->entries, e, link);
        while (bytes_held(c) > c->bytes_max) drop(c, TAILQ_LAST(&c->entries, entry_list));
    }
    pthread_mutex_unlock(&c->lock);
}

size_t grammar_cache_bytes(struct grammar_cache *c)
{
    pthread_mutex_lock(&c->lock);
    size_t n = bytes_held(c);
    pthread_mutex_unlock(&c->lock);
    return n;
}
