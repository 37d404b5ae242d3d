/* test_stop.c - the stop automaton against a plain search, at every way to cut the text. */
#include "api/stop.h"
#include "base/err.h"
#include "base/test.h"

static uint32_t rng = 12345;
static uint32_t pick(uint32_t n)
{
    rng = rng * 1664525u + 1013904223u;
    return (rng >> 8) % n;
}

/* The first end of any stop string in text, and the longest string that ends there; -1: none. */
static int plain(struct str text, const struct str *stops, int n, size_t *end)
{
    for (size_t e = 1; e <= text.n; e++) {
        int best = -1;
        for (int i = 0; i < n; i++)
            if (stops[i].n <= e && memcmp(text.p + e - stops[i].n, stops[i].p, stops[i].n) == 0 &&
                (best < 0 || stops[i].n > stops[best].n))
                best = i;
        *end = e;
        if (best >= 0) return best;
    }
    return -1;
}

/* The longest suffix of text that begins a stop string. */
static size_t plain_held(struct str text, const struct str *stops, int n)
{
    for (size_t k = text.n; k > 0; k--)
        for (int i = 0; i < n; i++)
            if (stops[i].n >= k && memcmp(text.p + text.n - k, stops[i].p, k) == 0) return k;
    return 0;
}

TEST(random_texts)
{
    for (int round = 0; round < 3000; round++) {
        char text[40], words[4][6];
        struct str stops[4], all = {text, 1 + pick(40)};
        int n = 1 + (int)pick(4);
        struct arena arena = arena_make(1 << 20);
        for (size_t i = 0; i < all.n; i++) text[i] = (char)('a' + pick(3));
        for (int i = 0; i < n; i++) {
            stops[i] = (struct str){words[i], 1 + pick(6)};
            for (size_t k = 0; k < stops[i].n; k++) words[i][k] = (char)('a' + pick(3));
        }
        struct stop_set *set = stop_build(stops, n, &arena);
        struct stop_scan scan = {0};
        size_t want_end, at = 0;
        int want = plain(all, stops, n, &want_end), got = -1;
        while (at < all.n && got < 0) {
            size_t used, piece = 1 + pick(5);
            if (piece > all.n - at) piece = all.n - at;
            got = stop_feed(set, &scan, (struct str){text + at, piece}, &used);
            at += used;
            struct str seen = {text, at};
            if (got < 0)
                CHECK_MSG(stop_held(set, &scan) == plain_held(seen, stops, n), "round %d", round);
        }
        bool same = got == want || (got >= 0 && want >= 0 && str_eq(stops[got], stops[want]));
        CHECK_MSG(same && (got < 0 || at == want_end), "round %d: %d at %zu, not %d at %zu", round,
                  got, at, want, want_end);
        arena_free(&arena);
    }
}

/* 32 strings of 1 KiB that differ in the last byte, and a text that nearly matches all the time. */
TEST(long_strings_stay_linear)
{
    enum { N = 32, LEN = 1024, TEXT = 1 << 20 };
    static char words[N][LEN], text[TEXT];
    struct str stops[N];
    struct arena arena = arena_make(16 << 20);
    for (int i = 0; i < N; i++) {
        memset(words[i], 'a', LEN);
        words[i][LEN - 1] = (char)('b' + i);
        stops[i] = (struct str){words[i], LEN};
    }
    memset(text, 'a', TEXT);
    text[TEXT - 1] = 'z';
    struct stop_set *set = stop_build(stops, N, &arena);
    struct stop_scan scan = {0};
    size_t used;
    CHECK(stop_feed(set, &scan, (struct str){text, TEXT - 1}, &used) == -1 && used == TEXT - 1);
    CHECK(stop_held(set, &scan) == LEN - 1);
    CHECK(stop_feed(set, &scan, (struct str){text + TEXT - 1, 1}, &used) == 'z' - 'b');
    arena_free(&arena);
}
