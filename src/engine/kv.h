/* kv.h - KV pages: who holds them, which are free, and which prefix they contain.
 *
 * A page holds page_size tokens of one sequence's keys and values; this file knows only its number.
 * A page is free when nobody references it. A page that is full and computed can be sealed: from
 * then on it is never written again and the prefix index finds it by (salt, parent, tokens). A
 * sealed page with no reference is free and cached at once: a hit revives it, an allocation may
 * take it, longest unused first. Each sealed page gets a serial number that is never used again; a
 * parent is named by its serial, so a serial stands for one exact prefix of one tenant, and a hit
 * is compared exactly: no hash is trusted. One owner (the engine thread); all memory is taken by
 * kv_open.
 */
#ifndef ENGINE_KV_H
#define ENGINE_KV_H

#include <stdbool.h>
#include <stdint.h>

enum { KV_PAGE_SIZE_MAX = 256 };

struct kv_page {
    int32_t n_refs;
    int32_t prev, next; /* free list, where n_refs == 0 */
    int32_t chain;      /* next page in the same bucket of the index, or -1 */
    uint64_t serial;    /* 0: not sealed */
    uint64_t parent;    /* serial of the page before; 0: this is the first */
    uint64_t salt[2];
    uint64_t hash_low, hash_high;
};

struct kv {
    int32_t n_pages, page_size;
    int32_t n_free, n_cached; /* free pages; those of them that are sealed */
    struct kv_page *page;     /* owned [n_pages + 1]; the last heads the free list */
    int32_t *tokens;          /* owned [n_pages, page_size]; of sealed pages */
    int32_t *bucket;          /* owned [bucket_mask + 1]; page or -1 */
    uint32_t bucket_mask;
    uint64_t seed; /* key of the hash: clients cannot aim at buckets */
    uint64_t last_serial;
};

/* A prefix to find or to seal: the page after `parent` holding `tokens` [page_size]. */
struct kv_key {
    const uint64_t *salt; /* [2] */
    uint64_t parent;
    const int32_t *tokens;
};

void kv_open(struct kv *kv, int32_t n_pages, int32_t page_size, uint64_t seed);
void kv_close(struct kv *kv);

/* A free page with one reference, no longer in the index; -1 when none is left. */
int32_t kv_alloc(struct kv *kv);
void kv_ref(struct kv *kv, int32_t page);
void kv_unref(struct kv *kv, int32_t page);

/* The sealed page of exactly this prefix, or -1. Takes no reference. */
int32_t kv_find(const struct kv *kv, const struct kv_key *key);
/* The page is full of key->tokens and computed: make it findable, unless an equal page already is.
 * Returns the serial that stands for this prefix, the parent of what follows. */
uint64_t kv_seal(struct kv *kv, int32_t page, const struct kv_key *key);

static inline int32_t kv_pages_for(const struct kv *kv, int64_t n_tokens)
{
    return (int32_t)((n_tokens + kv->page_size - 1) / kv->page_size);
}

#endif
