/* test_yaml_json.c - YAML to JSON text, case by case. */
#include "base/yaml_json.h"

#include "base/test.h"

static const struct {
    const char *yaml, *json; /* NULL: refused */
} cases[] = {
    {"a: 1\nb: [x, 2.5, true, ~, null]\n", "{\"a\":1,\"b\":[\"x\",2.5,true,null,null]}"},
    {"- {k: v}\n- - deep\n", "[{\"k\":\"v\"},[\"deep\"]]"},
    {"a: \"1\"\nb: 'true'\nc:\n", "{\"a\":\"1\",\"b\":\"true\",\"c\":null}"},
    {"1: 2\ntrue: no\n", "{\"1\":2,\"true\":\"no\"}"},
    {"k: 1_000\nv: 1.2.3\nd: -x\nw: 1e3\nz: -7\n",
     "{\"k\":\"1_000\",\"v\":\"1.2.3\",\"d\":\"-x\",\"w\":1000,\"z\":-7}"},
    {"t: |\n  two\n  lines\n", "{\"t\":\"two\\nlines\\n\"}"},
    {"", "null"},
    {"# only a comment\n", "null"},
    {"just text", "\"just text\""},
    {"{}", "{}"},
    {"[]", "[]"},
    {"a: &x 1\nb: *x\n", NULL},
    {"a: !!int 1\n", NULL},
    {"? [a]\n: b\n", NULL},
    {"a: 1\n---\nb: 2\n", NULL},
    {"a: [1\n", NULL},
    {"\tx: 1\n", NULL},
    {"[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]", NULL},
};

TEST(table)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf out = buf_make(4096);
        struct sl_error e = {0};
        int code = yaml_to_json(str_of(cases[i].yaml), &out, &e);
        CHECK_MSG((code == 0) == (cases[i].json != NULL), "case %zu: %d %s", i, code, e.text);
        if (cases[i].json)
            CHECK_MSG(str_is(buf_str(&out), cases[i].json), "case %zu: %s", i, buf_cstr(&out));
        buf_free(&out);
    }
}

TEST(bounded)
{
    struct buf out = buf_make(8);
    CHECK(yaml_to_json(STR("a: 0123456789abcdef"), &out, NULL) == SL_EINVAL);
    buf_free(&out);
}
