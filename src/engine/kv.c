/* kv.c - pages, reference counts, the free list and the prefix index. Engine thread only.
 *
 * The free list is one ring through the pages: plain pages enter at the head, sealed ones at the
 * tail, and an allocation takes the head. So what holds no prefix goes first, then the prefix
 * unused for longest. The index is chained through the pages themselves: nothing is ever allocated
 * or rebuilt. Eviction takes the entry out before the page is handed out (peers served stale pages
 * by doing it in the other order).
 */
#define XXH_INLINE_ALL
#include "engine/kv.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/err.h"
#include "engine/mutants.h"

void kv_open(struct kv *kv, int32_t n_pages, int32_t page_size, uint64_t seed)
{
    ASSERT(n_pages > 0 && page_size > 0 && page_size <= KV_PAGE_SIZE_MAX);
    uint32_t n_buckets = 16;
    while (n_buckets < 2 * (uint32_t)n_pages) n_buckets *= 2;
    *kv = (struct kv){.n_pages = n_pages, .page_size = page_size, .seed = seed};
    kv->page = xcalloc((size_t)n_pages + 1, sizeof *kv->page);
    kv->tokens = xcalloc((size_t)n_pages * (size_t)page_size, sizeof *kv->tokens);
    kv->bucket = xcalloc(n_buckets, sizeof *kv->bucket);
    kv->bucket_mask = n_buckets - 1;
    memset(kv->bucket, 0xff, n_buckets * sizeof *kv->bucket);
    for (int32_t i = 0; i <= n_pages; i++) {
        kv->page[i].next = i == n_pages ? 0 : i + 1;
        kv->page[i].prev = i == 0 ? n_pages : i - 1;
        kv->page[i].chain = -1;
    }
    kv->n_free = n_pages;
}

void kv_close(struct kv *kv)
{
    free(kv->page);
    free(kv->tokens);
    free(kv->bucket);
    *kv = (struct kv){0};
}

static void unlink_free(struct kv *kv, int32_t page)
{
    struct kv_page *p = &kv->page[page];
    kv->page[p->prev].next = p->next;
    kv->page[p->next].prev = p->prev;
    kv->n_free--;
    kv->n_cached -= p->serial != 0;
}

/* Behind `after` in the ring; the ring's head is page n_pages. */
static void link_free(struct kv *kv, int32_t page, int32_t after)
{
    struct kv_page *p = &kv->page[page];
    p->prev = after;
    p->next = kv->page[after].next;
    kv->page[p->next].prev = page;
    kv->page[after].next = page;
    kv->n_free++;
    kv->n_cached += p->serial != 0;
}

static XXH128_hash_t hash_of(const struct kv *kv, const struct kv_key *key)
{
    char bytes[3 * sizeof(uint64_t) + KV_PAGE_SIZE_MAX * sizeof(int32_t)];
    size_t n_tokens = MUT(KV_HALF_TOKENS, (size_t)kv->page_size, (size_t)kv->page_size / 2);
    uint64_t head[3] = {key->salt[0], key->salt[1],
                        MUT(KV_NO_PARENT, key->parent, key->parent != 0)};
    if (MUT(KV_NO_SALT, false, true)) head[0] = head[1] = 0;
    memcpy(bytes, head, sizeof head);
    memcpy(bytes + sizeof head, key->tokens, n_tokens * sizeof(int32_t));
    return XXH3_128bits_withSeed(bytes, sizeof head + n_tokens * sizeof(int32_t), kv->seed);
}

static bool is_same(const struct kv *kv, int32_t page, const struct kv_key *key)
{
    const struct kv_page *p = &kv->page[page];
    size_t n_tokens = MUT(KV_HALF_TOKENS, (size_t)kv->page_size, (size_t)kv->page_size / 2);
    return (p->parent == key->parent || MUT(KV_NO_PARENT, false, true)) &&
           (MUT(KV_NO_SALT, false, true) ||
            (p->salt[0] == key->salt[0] && p->salt[1] == key->salt[1])) &&
           memcmp(kv->tokens + (size_t)page * (size_t)kv->page_size, key->tokens,
                  n_tokens * sizeof(int32_t)) == 0;
}

static int32_t find_hashed(const struct kv *kv, const struct kv_key *key, XXH128_hash_t h)
{
    int32_t page = kv->bucket[h.low64 & kv->bucket_mask];
    for (; page >= 0; page = kv->page[page].chain) {
        const struct kv_page *p = &kv->page[page];
        if (p->hash_low == h.low64 && p->hash_high == h.high64 && is_same(kv, page, key))
            return page;
    }
    return -1;
}

int32_t kv_find(const struct kv *kv, const struct kv_key *key)
{
    return find_hashed(kv, key, hash_of(kv, key));
}

static void unseal(struct kv *kv, int32_t page)
{
    struct kv_page *p = &kv->page[page];
    int32_t *link = &kv->bucket[p->hash_low & kv->bucket_mask];
    while (*link != page) link = &kv->page[*link].chain;
    *link = p->chain;
    p->chain = -1;
    p->serial = 0;
}

uint64_t kv_seal(struct kv *kv, int32_t page, const struct kv_key *key)
{
    struct kv_page *p = &kv->page[page];
    ASSERT(p->n_refs > 0 && p->serial == 0);
    XXH128_hash_t h = hash_of(kv, key);
    int32_t twin = find_hashed(kv, key, h);
    if (twin >= 0) return kv->page[twin].serial;
    p->serial = ++kv->last_serial;
    p->parent = key->parent;
    memcpy(p->salt, key->salt, sizeof p->salt);
    p->hash_low = h.low64;
    p->hash_high = h.high64;
    memcpy(kv->tokens + (size_t)page * (size_t)kv->page_size, key->tokens,
           (size_t)kv->page_size * sizeof(int32_t));
    p->chain = kv->bucket[h.low64 & kv->bucket_mask];
    kv->bucket[h.low64 & kv->bucket_mask] = page;
    return p->serial;
}

int32_t kv_alloc(struct kv *kv)
{
    int32_t page = kv->page[kv->n_pages].next;
    if (page == kv->n_pages) return -1;
    unlink_free(kv, page);
    if (kv->page[page].serial && MUT(KV_STALE_INDEX, true, false)) unseal(kv, page);
    kv->page[page].n_refs = 1;
    return page;
}

void kv_ref(struct kv *kv, int32_t page)
{
    struct kv_page *p = &kv->page[page];
    if (p->n_refs == 0 && MUT(KV_HIT_STAYS_FREE, true, false)) unlink_free(kv, page);
    if (p->n_refs == 0 || MUT(KV_HIT_NO_REF, true, false)) p->n_refs++;
    if (MUT(KV_REF_WRAPS, false, true)) p->n_refs = (p->n_refs - 1) % 3 + 1;
}

void kv_unref(struct kv *kv, int32_t page)
{
    struct kv_page *p = &kv->page[page];
    ASSERT(p->n_refs > 0);
    if (--p->n_refs > 0) return;
    link_free(kv, page, p->serial ? kv->page[kv->n_pages].prev : kv->n_pages);
}
