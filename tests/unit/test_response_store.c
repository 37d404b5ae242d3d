/* test_response_store.c - what is kept, for whom, how much and how long. */
#include "base/test.h"

#include "server/response_store.h"

static struct response_store *store_of(int64_t n_max, int64_t bytes_max, int64_t ttl_s)
{
    return response_store_new(&(struct response_limits){n_max, bytes_max, ttl_s});
}

static void put(struct response_store *s, int key, const char *id, const char *object,
                int64_t now_s)
{
    const struct str part[STORED_PARTS] = {str_of(object), STR("1"), STR("2,3")};
    response_store_put(s, key, str_of(id), part, now_s);
}

static bool has(struct response_store *s, int key, const char *id)
{
    struct buf out = buf_make(1 << 20);
    bool is_there = response_store_read(s, key, str_of(id), STORED_OBJECT, &out);
    CHECK(is_there == (out.n > 0));
    buf_free(&out);
    return is_there;
}

TEST(parts_and_keys)
{
    struct response_store *s = store_of(10, 1 << 20, 100);
    struct buf out = buf_make(1 << 20);
    put(s, 1, "a", "object", 0);
    CHECK(response_store_read(s, 1, STR("a"), STORED_OBJECT, &out));
    CHECK(strcmp(buf_cstr(&out), "object") == 0);
    out.n = 0;
    CHECK(response_store_history(s, 1, STR("a"), &out) && strcmp(buf_cstr(&out), "1,2,3") == 0);
    CHECK(!has(s, 2, "a") && !has(s, 1, "b") && !response_store_delete(s, 2, STR("a")));
    CHECK(!response_store_history(s, 2, STR("a"), &out));
    CHECK(response_store_delete(s, 1, STR("a")) && !has(s, 1, "a"));
    CHECK(!response_store_delete(s, 1, STR("a")));
    buf_free(&out);
    response_store_free(s);
}

TEST(the_least_used_go_first)
{
    struct response_store *s = store_of(3, 1 << 20, 100);
    put(s, 1, "a", "x", 0);
    put(s, 1, "b", "x", 0);
    put(s, 1, "c", "x", 0);
    CHECK(has(s, 1, "a"));
    put(s, 1, "d", "x", 0);
    CHECK(has(s, 1, "a") && !has(s, 1, "b") && has(s, 1, "c") && has(s, 1, "d"));
    response_store_free(s);
}

TEST(bytes_and_age)
{
    static char large[5000];
    int64_t n, bytes;
    struct response_store *s = store_of(1000, 8192, 100);
    memset(large, 'x', sizeof large - 1);
    put(s, 1, "a", large, 0);
    put(s, 1, "b", large, 50);
    CHECK(!has(s, 1, "a") && has(s, 1, "b"));
    response_store_size(s, &n, &bytes);
    CHECK(n == 1 && bytes > 5000 && bytes <= 8192);
    put(s, 1, "c", "small", 60);
    response_store_expire(s, 149);
    CHECK(has(s, 1, "b") && has(s, 1, "c"));
    response_store_expire(s, 150);
    CHECK(!has(s, 1, "b") && has(s, 1, "c"));
    response_store_free(s);
    s = store_of(1000, 1024, 100);
    put(s, 1, "a", large, 0); /* alone too large: not kept, and nothing else is lost for it */
    response_store_size(s, &n, &bytes);
    CHECK(n == 0 && bytes == 0);
    response_store_free(s);
}
