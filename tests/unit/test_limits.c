/* test_limits.c - rates, charges and refunds, quotas, headers; without a store. */
#include "server/limits.h"

#include <unistd.h>

#include "base/test.h"

struct setup {
    struct auth *auth;
    struct limits *limits;
};

static struct setup open_setup(const char *limits)
{
    struct setup s = {0};
    struct sl_error e = {0};
    char path[] = "/tmp/sluice-keys-XXXXXX";
    int fd = mkstemp(path);
    dprintf(fd, "keys:\n  - {name: a, key: k, limits: {%s}}\n  - {name: b, key: l}\n", limits);
    close(fd);
    struct options o = {.api_key_file = path};
    CHECK_MSG(auth_open(&s.auth, &o, &e) == 0, "%s", e.text);
    unlink(path);
    s.limits = limits_new(s.auth, NULL);
    return s;
}

static void close_setup(struct setup *s)
{
    limits_close(s->limits);
    auth_close(s->auth);
}

TEST(requests)
{
    struct setup s = open_setup("requests_per_minute: 4");
    struct sl_error e;
    int retry = 0;
    for (int i = 0; i < 4; i++) CHECK(limits_request(s.limits, 0, &retry, &e) == 0);
    CHECK(limits_request(s.limits, 0, &retry, &e) == SL_ERATE && retry == 15);
    for (int i = 0; i < 100; i++) CHECK(limits_request(s.limits, 1, &retry, &e) == 0);
    CHECK(limits_counts(s.limits, 0).n_rejected == 1);
    close_setup(&s);
}

TEST(tokens_are_charged_and_given_back)
{
    struct setup s = open_setup("tokens_per_minute: 600");
    struct sl_error e;
    uint64_t charged;
    int retry = 0;
    CHECK(limits_tokens(s.limits, 0, 500, false, &charged, &retry, &e) == 0 && charged == 500);
    CHECK(limits_tokens(s.limits, 0, 200, false, &charged, &retry, &e) == SL_ETOKENS);
    CHECK(retry == 10 && charged == 0);
    CHECK(limits_tokens(s.limits, 0, 200, true, &charged, &retry, &e) == 0 && charged == 0);
    limits_settle(s.limits, 0, 500, &(struct db_usage){1, 30, 0, 20});
    CHECK(limits_tokens(s.limits, 0, 550, false, &charged, &retry, &e) == 0 && charged == 550);
    limits_settle(s.limits, 0, 550, &(struct db_usage){1, 0, 0, 700}); /* more than was thought */
    CHECK(limits_tokens(s.limits, 0, 1, false, &charged, &retry, &e) == SL_ETOKENS && retry >= 15);
    CHECK(limits_tokens(s.limits, 0, UINT64_MAX, false, &charged, &retry, &e) == SL_ETOKENS);
    close_setup(&s);
}

TEST(more_than_a_minute_holds)
{
    struct setup s = open_setup("tokens_per_minute: 100");
    struct sl_error e;
    uint64_t charged;
    int retry;
    CHECK(limits_tokens(s.limits, 0, 100000, false, &charged, &retry, &e) == 0 && charged == 100);
    close_setup(&s);
}

TEST(quotas)
{
    struct setup s = open_setup("tokens_total: 100, tokens_per_day: 50");
    struct sl_error e;
    uint64_t charged;
    int retry;
    for (int i = 0; i < 5; i++) {
        CHECK(limits_tokens(s.limits, 0, 1000, true, &charged, &retry, &e) == 0);
        limits_settle(s.limits, 0, charged, &(struct db_usage){1, 8, 8, 2});
    }
    CHECK(limits_tokens(s.limits, 0, 1, true, &charged, &retry, &e) == SL_EQUOTA);
    CHECK(strstr(e.text, "daily") != NULL);
    CHECK(limits_tokens(s.limits, 1, 1, false, &charged, &retry, &e) == 0);
    close_setup(&s);
}

static void add(void *arg, const char *name, const char *value)
{
    buf_printf(arg, "%s=%s;", name + strlen("x-ratelimit-"), value);
}

TEST(headers)
{
    struct setup s = open_setup("tokens_per_minute: 6000, requests_per_minute: 60");
    struct buf out = buf_make(4096);
    uint64_t charged;
    int retry;
    CHECK(limits_tokens(s.limits, 0, 6000, false, &charged, &retry, NULL) == 0);
    limits_headers(s.limits, 0, &out, add);
    CHECK_MSG(strstr(buf_cstr(&out), "limit-requests=60;remaining-requests=60;reset-requests=0ms;"),
              "%s", buf_cstr(&out));
    CHECK_MSG(strstr(buf_cstr(&out), "limit-tokens=6000;remaining-tokens=0;reset-tokens=") ||
                  strstr(buf_cstr(&out), "remaining-tokens=1;"),
              "%s", buf_cstr(&out));
    out.n = 0;
    limits_headers(s.limits, 1, &out, add);
    CHECK(out.n == 0);
    limits_put_usage(s.limits, 0, &out);
    CHECK(strstr(buf_cstr(&out), "\"key\":\"a\"") &&
          strstr(buf_cstr(&out), "\"tokens_total\":null"));
    buf_free(&out);
    close_setup(&s);
}
