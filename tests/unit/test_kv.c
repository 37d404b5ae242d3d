/* test_kv.c - pages, references, the order of eviction and the exactness of the prefix index. */
#include "base/test.h"
#include "engine/kv.h"

enum { PAGE = 4 };

static const uint64_t salt_a[2] = {1, 2}, salt_b[2] = {1, 3};
static const int32_t abcd[PAGE] = {1, 2, 3, 4}, abce[PAGE] = {1, 2, 3, 5};

static struct kv open_kv(int32_t n_pages)
{
    struct kv kv;
    kv_open(&kv, n_pages, PAGE, 42);
    return kv;
}

static int32_t sealed_page(struct kv *kv, const uint64_t *salt, uint64_t parent,
                           const int32_t *tokens)
{
    int32_t page = kv_alloc(kv);
    kv_seal(kv, page, &(struct kv_key){salt, parent, tokens});
    return page;
}

TEST(pages_run_out_and_come_back)
{
    struct kv kv = open_kv(3);
    int32_t p[3];
    for (int i = 0; i < 3; i++) p[i] = kv_alloc(&kv);
    CHECK(p[0] != p[1] && p[1] != p[2] && p[0] != p[2]);
    CHECK(kv_alloc(&kv) == -1 && kv.n_free == 0);
    kv_ref(&kv, p[1]);
    kv_unref(&kv, p[1]);
    CHECK(kv.n_free == 0);
    kv_unref(&kv, p[1]);
    CHECK(kv.n_free == 1 && kv_alloc(&kv) == p[1]);
    kv_close(&kv);
}

TEST(a_hit_is_exact)
{
    struct kv kv = open_kv(8);
    int32_t root = sealed_page(&kv, salt_a, 0, abcd);
    uint64_t serial = kv.page[root].serial;
    int32_t child = sealed_page(&kv, salt_a, serial, abcd);
    const struct {
        const uint64_t *salt;
        uint64_t parent;
        const int32_t *tokens;
        int32_t page;
    } rows[] = {
        {salt_a, 0, abcd, root},
        {salt_a, serial, abcd, child},
        {salt_b, 0, abcd, -1},
        {salt_a, 0, abce, -1},
        {salt_b, serial, abcd, -1},
        {salt_a, serial, abce, -1},
        {salt_a, serial + 999, abcd, -1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        CHECK_MSG(kv_find(&kv, &(struct kv_key){rows[i].salt, rows[i].parent, rows[i].tokens}) ==
                      rows[i].page,
                  "row %zu", i);
    kv_close(&kv);
}

TEST(an_equal_page_is_not_sealed_twice)
{
    struct kv kv = open_kv(4);
    const struct kv_key key = {salt_a, 0, abcd};
    int32_t first = kv_alloc(&kv), twin = kv_alloc(&kv);
    uint64_t serial = kv_seal(&kv, first, &key);
    CHECK(kv_seal(&kv, twin, &key) == serial && kv.page[twin].serial == 0);
    CHECK(kv_find(&kv, &key) == first);
    kv_unref(&kv, twin);
    CHECK(kv.n_free == 3 && kv.n_cached == 0);
    kv_close(&kv);
}

TEST(plain_pages_go_first_then_the_longest_unused)
{
    struct kv kv = open_kv(3);
    int32_t old = sealed_page(&kv, salt_a, 0, abcd), young = sealed_page(&kv, salt_a, 0, abce);
    int32_t plain = kv_alloc(&kv);
    kv_unref(&kv, old);
    kv_unref(&kv, young);
    kv_unref(&kv, plain);
    CHECK(kv.n_cached == 2);
    kv_ref(&kv, old); /* used again: now it is the youngest */
    kv_unref(&kv, old);
    CHECK(kv_alloc(&kv) == plain && kv_alloc(&kv) == young && kv_alloc(&kv) == old);
    CHECK(kv.n_cached == 0 && kv_find(&kv, &(struct kv_key){salt_a, 0, abcd}) == -1);
    kv_close(&kv);
}

TEST(a_child_of_an_evicted_parent_is_not_found)
{
    struct kv kv = open_kv(2);
    int32_t root = sealed_page(&kv, salt_a, 0, abcd);
    uint64_t serial = kv.page[root].serial;
    int32_t child = sealed_page(&kv, salt_a, serial, abce);
    kv_unref(&kv, root);
    CHECK(kv_alloc(&kv) == root); /* evicted and used for something else */
    uint64_t again = kv_seal(&kv, root, &(struct kv_key){salt_a, 0, abcd});
    CHECK(again != serial);
    CHECK(kv_find(&kv, &(struct kv_key){salt_a, again, abce}) == -1);
    CHECK(kv_find(&kv, &(struct kv_key){salt_a, serial, abce}) == child);
    kv_close(&kv);
}
