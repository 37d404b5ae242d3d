/* test_answer_cache.c - what is kept, what goes first, and that it stays within its bytes. */
#include "server/answer_cache.h"

#include "base/test.h"

static void make_key(uint8_t key[SHA256_BYTES], int i)
{
    struct str text = {(const char *)&i, sizeof i};
    sha256(key, &text, 1);
}

static void put(struct answer_cache *c, int i, int n)
{
    uint8_t key[SHA256_BYTES];
    struct recording rec = {0};
    make_key(key, i);
    for (int k = 0; k < n; k++) {
        struct sl_event ev = {.kind = SL_EV_TOKEN, .token = 1000 * i + k};
        if (!recording_add(&rec, c, k % 2, &ev)) return;
    }
    answer_cache_put(c, key, &rec);
    CHECK(rec.v == NULL && rec.n == 0);
}

/* How many events are kept of it; -1: none. */
static int get(struct answer_cache *c, int i)
{
    uint8_t key[SHA256_BYTES];
    size_t n = 0;
    make_key(key, i);
    const struct cached_event *v = answer_cache_get(c, key, &n);
    for (size_t k = 0; v && k < n; k++)
        CHECK(v[k].event.token == 1000 * i + (int)k && v[k].choice == (int)k % 2);
    return v ? (int)n : -1;
}

TEST(kept_and_replaced)
{
    struct answer_cache *c = answer_cache_new(1 << 20);
    put(c, 1, 5);
    put(c, 2, 0);
    CHECK(get(c, 1) == 5 && get(c, 2) == 0 && get(c, 3) == -1);
    put(c, 1, 7);
    CHECK(get(c, 1) == 7);
    struct answer_cache_stats s = answer_cache_stats(c);
    CHECK(s.n_entries == 2 && s.n_hits == 3 && s.n_misses == 1);
    answer_cache_free(c);
}

TEST(the_longest_unused_goes_first)
{
    struct answer_cache *c = answer_cache_new(1 << 16);
    for (int i = 0; i < 200; i++) {
        put(c, i, 40);
        CHECK(get(c, 0) == 40); /* used all the time */
        CHECK(answer_cache_stats(c).bytes <= 1 << 16);
    }
    CHECK(get(c, 199) == 40 && get(c, 1) == -1 && answer_cache_stats(c).n_entries > 10);
    answer_cache_free(c);
}

TEST(too_large_is_dropped)
{
    struct answer_cache *c = answer_cache_new(1 << 14);
    put(c, 1, 10000);
    CHECK(get(c, 1) == -1 && answer_cache_stats(c).bytes == 0);
    answer_cache_free(c);
}
