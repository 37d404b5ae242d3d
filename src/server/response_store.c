/* response_store.c - a hash table of entries that are also in two lists: by use, and by age. */
#include "server/response_store.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/queue.h>

enum { N_BUCKETS = 4096 };

struct entry {
    LIST_ENTRY(entry) bucket_link;
    TAILQ_ENTRY(entry) use_link, age_link;
    int key;
    int64_t expires_s, bytes;
    struct str id, part[STORED_PARTS]; /* behind this struct, in its block */
};
LIST_HEAD(bucket, entry);
TAILQ_HEAD(entry_list, entry);

struct response_store {
    pthread_mutex_t lock;
    struct response_limits limits;
    int64_t n, bytes;
    struct entry_list by_use, by_age; /* oldest first */
    struct bucket buckets[N_BUCKETS];
};

struct response_store *response_store_new(const struct response_limits *l)
{
    struct response_store *s = xcalloc(1, sizeof *s);
    s->limits = *l;
    pthread_mutex_init(&s->lock, NULL);
    TAILQ_INIT(&s->by_use);
    TAILQ_INIT(&s->by_age);
    return s;
}

static void drop(struct response_store *s, struct entry *x)
{
    LIST_REMOVE(x, bucket_link);
    TAILQ_REMOVE(&s->by_use, x, use_link);
    TAILQ_REMOVE(&s->by_age, x, age_link);
    s->n--;
    s->bytes -= x->bytes;
    free(x);
}

void response_store_free(struct response_store *s)
{
    struct entry *x;
    if (!s) return;
    while ((x = TAILQ_FIRST(&s->by_age))) drop(s, x);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* FNV-1a: ids are random already, and made by the server. */
static struct bucket *bucket_of(struct response_store *s, struct str id)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < id.n; i++) h = (h ^ (unsigned char)id.p[i]) * 16777619u;
    return &s->buckets[h % N_BUCKETS];
}

static struct entry *find(struct response_store *s, int key, struct str id)
{
    struct entry *x;
    LIST_FOREACH(x, bucket_of(s, id), bucket_link)
    {
        if (x->key == key && str_eq(x->id, id)) return x;
    }
    return NULL;
}

static struct str place(char **at, struct str text)
{
    struct str copy = {*at, text.n};
    if (text.n) memcpy(*at, text.p, text.n);
    *at += text.n;
    return copy;
}

void response_store_put(struct response_store *s, int key, struct str id,
                        const struct str part[STORED_PARTS], int64_t now_s)
{
    size_t n = id.n;
    for (int i = 0; i < STORED_PARTS; i++) n += part[i].n;
    int64_t bytes = (int64_t)(sizeof(struct entry) + n);
    if (bytes > s->limits.bytes_max || s->limits.n_max < 1) return;
    struct entry *x = xmalloc((size_t)bytes);
    char *at = (char *)(x + 1);
    *x = (struct entry){.key = key, .expires_s = now_s + s->limits.ttl_s, .bytes = bytes};
    x->id = place(&at, id);
    for (int i = 0; i < STORED_PARTS; i++) x->part[i] = place(&at, part[i]);
    pthread_mutex_lock(&s->lock);
    while (s->n >= s->limits.n_max || s->bytes + bytes > s->limits.bytes_max)
        drop(s, TAILQ_FIRST(&s->by_use));
    LIST_INSERT_HEAD(bucket_of(s, id), x, bucket_link);
    TAILQ_INSERT_TAIL(&s->by_use, x, use_link);
    TAILQ_INSERT_TAIL(&s->by_age, x, age_link);
    s->n++;
    s->bytes += bytes;
    pthread_mutex_unlock(&s->lock);
}

/* The entry, now the most recently used; the lock is held. */
static struct entry *use(struct response_store *s, int key, struct str id)
{
    struct entry *x = find(s, key, id);
    if (!x) return NULL;
    TAILQ_REMOVE(&s->by_use, x, use_link);
    TAILQ_INSERT_TAIL(&s->by_use, x, use_link);
    return x;
}

bool response_store_read(struct response_store *s, int key, struct str id, enum stored_part part,
                         struct buf *out)
{
    pthread_mutex_lock(&s->lock);
    const struct entry *x = use(s, key, id);
    if (x) buf_put_str(out, x->part[part]);
    pthread_mutex_unlock(&s->lock);
    return x != NULL;
}

bool response_store_history(struct response_store *s, int key, struct str id, struct buf *out)
{
    pthread_mutex_lock(&s->lock);
    const struct entry *x = use(s, key, id);
    if (x) {
        const struct str *in = &x->part[STORED_INPUT], *said = &x->part[STORED_OUTPUT];
        buf_put_str(out, *in);
        if (in->n && said->n) buf_putc(out, ',');
        buf_put_str(out, *said);
    }
    pthread_mutex_unlock(&s->lock);
    return x != NULL;
}

bool response_store_delete(struct response_store *s, int key, struct str id)
{
    pthread_mutex_lock(&s->lock);
    struct entry *x = find(s, key, id);
    if (x) drop(s, x);
    pthread_mutex_unlock(&s->lock);
    return x != NULL;
}

void response_store_expire(struct response_store *s, int64_t now_s)
{
    struct entry *x;
    pthread_mutex_lock(&s->lock);
    while ((x = TAILQ_FIRST(&s->by_age)) && x->expires_s <= now_s) drop(s, x);
    pthread_mutex_unlock(&s->lock);
}

void response_store_size(struct response_store *s, int64_t *n, int64_t *bytes)
{
    pthread_mutex_lock(&s->lock);
    *n = s->n;
    *bytes = s->bytes;
    pthread_mutex_unlock(&s->lock);
}
