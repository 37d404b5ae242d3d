/* test_json.c - the strict gate, exact integers, and the writers. */
#include <math.h>

#include "base/json.h"
#include "base/test.h"

static int parse_code(const char *text)
{
    struct json_doc *d;
    struct sl_error e = {0};
    int code = json_parse(&d, text, strlen(text), &json_limits_request, &e);
    json_free(d);
    return code;
}

TEST(accepts)
{
    static const char *const good[] = {"{}", "[]", " [1, 2.5, -3e2, \"x\"] ", "null", "\"\\ud83d\\ude00\"",
                                       "{\"a\":{\"b\":[true,false,null]}}", "-0", "0.5", "1E+2"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        CHECK_MSG(parse_code(good[i]) == 0, "%s", good[i]);
}

TEST(refuses)
{
    static const char *const bad[] = {
        "", " ", "{", "[1,]", "{\"a\":1,}", "{\"a\":1,\"a\":2}", "{\"a\":1,\"\\u0061\":2}", "01", "1.", "1e",
        "1e999", "+1", ".5", "nul", "\"\\u0000\"", "\"a\nb\"", "\"\\ud83d\"", "\"\\x\"", "[1] 2", "'a'",
        "\"\xff\"", "{\"a\" 1}", "{a:1}", "[1 2]", "NaN", "\"abc", "]", "{\"a\":}", "-"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_MSG(parse_code(bad[i]) == SL_EINVAL, "%s", bad[i]);
}

TEST(depth_limit)
{
    char text[200];
    memset(text, '[', 65);
    memset(text + 65, ']', 65);
    text[130] = 0;
    CHECK(parse_code(text) == SL_EINVAL);
    text[129] = 0;
    CHECK(parse_code(text + 1) == 0);
}

TEST(numbers_are_exact)
{
    struct json_doc *d;
    const char *text = "[9007199254740993, 2.0, -9223372036854775808, 9223372036854775808, 7]";
    CHECK(json_parse(&d, text, strlen(text), &json_limits_request, NULL) == 0);
    const json_node *v = json_child(json_root(d));
    CHECK(json_type(v) == JSON_INT && json_int(v) == 9007199254740993);
    v = json_next(v);
    CHECK(json_type(v) == JSON_REAL && json_num(v) == 2.0);
    v = json_next(v);
    CHECK(json_type(v) == JSON_INT && json_int(v) == INT64_MIN);
    v = json_next(v);
    CHECK(json_type(v) == JSON_REAL && json_num(v) == 9223372036854775808.0);
    v = json_next(v);
    CHECK(json_num(v) == 7.0 && !json_next(v));
    json_free(d);
}

TEST(writes_back)
{
    const char *text = "{\"a\":[1,2.5,\"x\\\"\\n\\u001fé\",{}],\"b\":{\"c\":[],\"d\":null},\"e\":true}";
    struct json_doc *d;
    struct buf b = buf_make(1000);
    CHECK(json_parse(&d, text, strlen(text), &json_limits_request, NULL) == 0);
    json_put_node(&b, json_root(d));
    CHECK_MSG(strcmp(buf_cstr(&b), text) == 0, "%s", buf_cstr(&b));
    buf_free(&b);
    json_put_str(&b, STR("a\xff\xe2\x82z"));
    CHECK(strcmp(buf_cstr(&b), "\"a\xEF\xBF\xBD\xEF\xBF\xBDz\"") == 0);
    buf_free(&b);
    json_put_num(&b, 0.1);
    buf_putc(&b, ' ');
    json_put_float(&b, -0.1f);
    CHECK(strcmp(buf_cstr(&b), "0.1 -0.1") == 0);
    buf_free(&b);
    json_free(d);
}

TEST(nul_keeps_its_length)
{
    static const struct json_limits lax = {.max_depth = 8, .max_nodes = 99, .max_keys = 9, .allow_nul = true};
    const char *text = "{\"a\":\"x\",\"k\\u0000\\u00e9\":\"\\u0000\\ud83d\\ude00\\n\",\"\\u0000\":7,\"z\":\"\"}";
    struct json_doc *d;
    struct buf b = buf_make(1000);
    CHECK(json_parse(&d, text, strlen(text), &lax, NULL) == 0);
    const json_node *v = json_next(json_child(json_root(d)));
    CHECK(str_eq(json_key(v), STR("k\0\xC3\xA9")));
    CHECK(str_eq(json_str(v), STR("\0\xF0\x9F\x98\x80\n")));
    v = json_next(v);
    CHECK(str_eq(json_key(v), STR("\0")) && json_int(v) == 7);
    CHECK(str_eq(json_key(json_next(v)), STR("z")) && json_str(json_next(v)).n == 0);
    json_put_node(&b, json_root(d));
    CHECK_MSG(strstr(buf_cstr(&b), "\"k\\u0000\xC3\xA9\":\"\\u0000"), "%s", buf_cstr(&b));
    buf_free(&b);
    json_free(d);
}

/* Floats read back equal, whichever way they were written, and no longer than needed. */
TEST(floats_read_back)
{
    struct buf b = buf_make(100);
    uint32_t bits = 1;
    for (int i = 0; i < 300000; i++) {
        bits = bits * 1664525u + 1013904223u;
        uint32_t near_one = 0x38000000u + (bits >> 8) % 0x10000000u;
        if (i % 5 == 0) near_one &= 0xFF800000u; /* powers of two */
        float v;
        char want[40];
        memcpy(&v, i % 4 ? &near_one : &bits, sizeof v);
        if (!(v - v == 0)) continue;
        b.n = 0;
        json_put_float(&b, v);
        CHECK_MSG(strtof(buf_cstr(&b), NULL) == v, "%a as %s", (double)v, buf_cstr(&b));
        snprintf(want, sizeof want, "%.9g", (double)v);
        CHECK_MSG(fabsf(v) >= 1e5f || fabsf(v) < 1e-4f || b.n <= strlen(want), "%s longer than %s", buf_cstr(&b), want);
    }
    static const struct {
        float v;
        const char *text;
    } rows[] = {
        {0, "0"},     {-0.5f, "-0.5"},  {0.1f, "0.1"},       {1e-4f, "0.0001"}, {99999.0f, "99999"},
        {-10, "-10"}, {1e5f, "100000"}, {-12.25f, "-12.25"}, {0.007f, "0.007"}, {3.0f, "3"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        b.n = 0;
        json_put_float(&b, rows[i].v);
        CHECK_MSG(strcmp(buf_cstr(&b), rows[i].text) == 0, "%s, not %s", buf_cstr(&b),
                  rows[i].text);
    }
    buf_free(&b);
}
