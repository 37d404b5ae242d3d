/* test_auth.c - SHA-256 vectors, credentials, tenant salts, CORS decisions. */
#include "server/auth.h"

#include <unistd.h>

#include "base/test.h"
#include "server/cors.h"
#include "server/sha256.h"

static void check_digest(struct str a, struct str b, const char *hex)
{
    uint8_t digest[SHA256_BYTES];
    char text[2 * SHA256_BYTES + 1];
    const struct str parts[] = {a, b};
    sha256(digest, parts, 2);
    for (int i = 0; i < SHA256_BYTES; i++) snprintf(text + 2 * i, 3, "%02x", digest[i]);
    CHECK_MSG(strcmp(text, hex) == 0, "%s", text);
}

TEST(sha256_vectors) /* FIPS 180-4 examples */
{
    static char million[1000000];
    struct str none = {"", 0};
    memset(million, 'a', sizeof million);
    check_digest(none, none, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    check_digest(STR("ab"), STR("c"),
                 "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    check_digest(STR("abcdbcdecdefdefgefghfghighijhijkijkljklm"), STR("klmnlmnomnopnopq"),
                 "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    check_digest((struct str){million, 7}, (struct str){million, sizeof million - 7},
                 "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(credentials)
{
    char path[] = "/tmp/sluice-keys-XXXXXX";
    int fd = mkstemp(path);
    CHECK(write(fd, "# comment\n\nfile-key\r\n", 21) == 21);
    close(fd);
    struct options o = {.api_key = {.v = {"one", "two"}, .n = 2}, .api_key_file = path};
    struct auth *a = NULL;
    struct sl_error e;
    CHECK(auth_open(&a, &o, &e) == 0 && auth_has_keys(a));
    unlink(path);
    struct {
        struct gate_facts f;
        int want;
    } cases[] = {
        {{.authorization = STR("Bearer one")}, 0},
        {{.authorization = STR("bEARER   two ")}, 1},
        {{.authorization = STR("Bearer file-key")}, 2},
        {{.x_api_key = STR("two")}, 1},
        {{.api_key = STR("one")}, 0},
        {{.authorization = STR("Bearer bad"), .x_api_key = STR("two")}, 1},
        {{.authorization = STR("Bearer on")}, SL_EBADKEY},
        {{.authorization = STR("Bearer onee")}, SL_EBADKEY},
        {{.authorization = STR("Basic one")}, SL_EBADKEY},
        {{.authorization = STR("Bearer ")}, SL_EBADKEY},
        {{.x_api_key = STR("# comment")}, SL_EBADKEY},
        {{.authorization = {0}}, SL_ENOKEY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int code = auth_check(a, &cases[i].f, &e);
        CHECK_MSG(code == cases[i].want, "case %zu: %d", i, code);
    }
    auth_close(a);
}

TEST(key_file_in_yaml)
{
    static const char text[] =
        "# ours\n\nkeys:\n  - {name: a, key: one, scopes: [chat, models],\n"
        "     limits: {requests_per_minute: 5, tokens_total: 7}}\n"
        "  - sha256: 4FC4CCFE745870E2C0D99F71F30FF0656C8DEDD41CC1D7D3D376B0DBE685E2F3\n";
    char path[] = "/tmp/sluice-keys-XXXXXX";
    int fd = mkstemp(path);
    CHECK(write(fd, text, sizeof text - 1) == (ssize_t)sizeof text - 1);
    close(fd);
    struct options o = {.api_key = {.v = {"two"}, .n = 1}, .api_key_file = path};
    struct auth *a = NULL;
    struct sl_error e = {0};
    CHECK_MSG(auth_open(&a, &o, &e) == 0, "%s", e.text);
    unlink(path);
    struct gate_facts one = {.x_api_key = STR("one")}, two = {.x_api_key = STR("two")};
    CHECK(auth_n_keys(a) == 3 && auth_check(a, &one, &e) == 1 && auth_check(a, &two, &e) == 0);
    CHECK(auth_scope(a, 1, "/chat/completions", &e) == 0 && auth_scope(a, 1, "/models/*", &e) == 0);
    CHECK(auth_scope(a, 1, "/completions", &e) == SL_EPERM &&
          auth_scope(a, 0, "/completions", &e) == 0);
    CHECK(auth_limits(a, 1)->requests_per_minute == 5 && auth_limits(a, 1)->tokens_total == 7);
    CHECK(auth_limits(a, 0)->tokens_total == 0 && strcmp(auth_name(a, 1), "a") == 0);
    CHECK(strcmp(auth_owner(a, 1), "name:a") == 0 && strncmp(auth_owner(a, 0), "key:", 4) == 0);
    for (int i = 0; i < 3; i++) CHECK(auth_find_owner(a, auth_owner(a, i)) == i);
    CHECK(auth_find_owner(a, "name:b") == -1 && auth_find_owner(a, "") == -1);
    auth_close(a);
}

TEST(bad_keys)
{
    struct auth *a = NULL;
    struct sl_error e;
    struct options empty = {.api_key = {.v = {""}, .n = 1}},
                   missing = {.api_key_file = "/nonexistent/keys"};
    CHECK(auth_open(&a, &empty, &e) == SL_EINVAL);
    CHECK(auth_open(&a, &missing, &e) == SL_EIO);
}

TEST(salts)
{
    struct options keys = {.api_key = {.v = {"one", "two"}, .n = 2}}, no_keys = {0};
    struct auth *a, *b;
    uint64_t s[6][2];
    CHECK(auth_open(&a, &keys, NULL) == 0 && auth_open(&b, &no_keys, NULL) == 0);
    auth_salt(a, 0, STR(""), s[0]);
    auth_salt(a, 1, STR(""), s[1]);
    auth_salt(a, 0, STR("x"), s[2]);
    auth_salt(a, 1, STR("x"), s[3]);
    auth_salt(b, 0, STR("x"), s[4]);
    auth_salt(b, 0, STR(""), s[5]);
    CHECK(s[5][0] == 0 && s[5][1] == 0);
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < i; j++) CHECK(memcmp(s[i], s[j], sizeof s[i]) != 0);
    auth_salt(a, 0, STR("x"), s[1]);
    CHECK(memcmp(s[1], s[2], sizeof s[1]) == 0);
    auth_close(a);
    auth_close(b);
}

TEST(cors)
{
    static const struct opts_list none = {.n = 0}, list = {.v = {"https://a.example"}, .n = 1},
                                  all = {.v = {"*"}, .n = 1};
    const struct {
        const struct opts_list *allowed;
        bool has_keys;
        const char *origin, *host, *want;
    } cases[] = {
        {&none, false, "", "localhost:8000", ""},
        {&none, false, "http://localhost:3000", "x", "http://localhost:3000"},
        {&none, false, "tauri://localhost", "x", "tauri://localhost"},
        {&none, false, "http://10.0.0.5:8000", "10.0.0.5:8000", "http://10.0.0.5:8000"},
        {&none, false, "http://10.0.0.5:8001", "10.0.0.5:8000", ""},
        {&none, false, "https://evil.example", "localhost", ""},
        {&none, false, "https://localhost.evil", "localhost", ""},
        {&none, false, "null", "localhost", ""},
        {&none, false, "http://", "localhost", ""},
        {&none, true, "https://evil.example", "localhost", "*"},
        {&none, true, "", "localhost", "*"},
        {&list, true, "https://a.example", "x", "https://a.example"},
        {&list, true, "https://b.example", "x", ""},
        {&list, false, "http://localhost", "x", ""},
        {&all, false, "https://b.example", "x", "*"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cors c = {cases[i].allowed, cases[i].has_keys};
        struct str got = cors_origin(&c, str_of(cases[i].origin), str_of(cases[i].host));
        CHECK_MSG(str_is(got, cases[i].want), "case %zu: %.*s", i, (int)got.n, got.p);
    }
}
