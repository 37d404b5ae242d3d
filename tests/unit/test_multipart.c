/* test_multipart.c - forms in one piece and in every split, boundaries, limits. */
#include "server/multipart.h"

#include "base/test.h"

struct seen { /* what came out: |name/filename|content */
    struct buf text;
    int fail_at; /* on_data fails on the n-th call; 0: never */
    int n_data;
};

static int on_part(void *arg, const struct multipart_part *p, struct sl_error *e)
{
    (void)e;
    struct seen *s = arg;
    buf_printf(&s->text, "|%s%s%s|", p->name, p->is_file ? "/" : "", p->filename);
    return 0;
}

static int on_data(void *arg, const char *bytes, size_t n, struct sl_error *e)
{
    struct seen *s = arg;
    if (++s->n_data == s->fail_at) return sl_fail(e, SL_EIO, "no");
    buf_put(&s->text, bytes, n);
    return 0;
}

/* Feeds in pieces of `step` bytes; the code of the whole. */
static int parse(const char *type, struct str body, size_t step, struct seen *seen)
{
    struct multipart m;
    struct sl_error e;
    int code =
        multipart_open(&m, str_of(type), (struct multipart_sink){seen, on_part, on_data}, &e);
    for (size_t i = 0; code == 0 && i < body.n; i += step)
        code = multipart_feed(&m, body.p + i, body.n - i < step ? body.n - i : step, &e);
    if (code == 0) code = multipart_end(&m, &e);
    multipart_free(&m);
    return code;
}

#define PLAIN "multipart/form-data; boundary=B"
#define FIELD "Content-Disposition: form-data; name=\"a\"\r\n\r\n"
#define FILE_A                                                                                     \
    "Content-Disposition: form-data; name=\"f\"; filename=\"x.jsonl\"\r\nContent-Type: "           \
    "x/y\r\n\r\n"

static const struct {
    const char *type, *body;
    int code;
    const char *text; /* where the code is 0 */
} cases[] = {
    {PLAIN, "--B\r\n" FIELD "one\r\n--B\r\n" FILE_A "two\r\n\r\n--B--\r\n", 0,
     "|a|one|f/x.jsonl|two\r\n"},
    {PLAIN, "--B\r\n" FIELD "\r\n--B--", 0, "|a|"},
    {PLAIN, "preamble\r\n--B \t\r\n" FIELD "x\r\n--B--epilogue --B\r\n", 0, "|a|x"},
    {PLAIN, "--B\r\n" FIELD "\r\n-\r\n--A\r\r\n--b--\r\r\n--B--", 0,
     "|a|\r\n-\r\n--A\r\r\n--b--\r"},
    {"Multipart/Form-Data ; charset=x; BOUNDARY=\"B c\"", "--B c\r\n" FIELD "x\r\n--B c--", 0,
     "|a|x"},
    {PLAIN, "--B\r\ncontent-disposition:form-data;filename=\"a\\\"b;c\" ; name=n\r\n\r\nx\r\n--B--",
     0, "|n/a\"b;c|x"},
    {PLAIN, "--B\r\nX: 1\r\n\r\nx\r\n--B--", SL_EINVAL, NULL},
    {PLAIN, "--B\r\n\r\nx\r\n--B--", SL_EINVAL, NULL},
    {PLAIN, "--B--", 0, ""},
    {PLAIN, "--B\r\n" FIELD "x\r\n--B", SL_EINVAL, NULL},
    {PLAIN, "--B\r\n" FIELD "x\r\n--B-\r\n", SL_EINVAL, NULL},
    {PLAIN, "--B\r\n" FIELD "x\r\n--Bx", SL_EINVAL, NULL},
    {PLAIN, "x--B\r\n" FIELD "x\r\n--B--", 0, ""}, /* the first is no delimiter */
    {PLAIN, "", SL_EINVAL, NULL},
    {PLAIN, "--B\r\nContent-Disposition: form-data; name=\"a\x01\"\r\n\r\nx\r\n--B--", SL_EINVAL,
     NULL},
    {"multipart/form-data", "", SL_EINVAL, NULL},
    {"multipart/form-data; boundary=", "", SL_EINVAL, NULL},
    {"multipart/form-data; boundary=\"a b \"", "", SL_EINVAL, NULL},
    {"multipart/form-data; boundary=a<b", "", SL_EINVAL, NULL},
    {"multipart/mixed; boundary=B", "", SL_EMEDIA, NULL},
    {"application/json", "", SL_EMEDIA, NULL},
    {"", "", SL_EMEDIA, NULL},
};

TEST(whole_and_in_pieces)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t step = 1; step < 100; step = step < 12 ? step + 1 : step * 3) {
            struct seen s = {.text = buf_make(4096)};
            int code = parse(cases[i].type, str_of(cases[i].body), step, &s);
            CHECK_MSG(code == cases[i].code, "case %zu step %zu: %d", i, step, code);
            if (code == 0)
                CHECK_MSG(str_is(buf_str(&s.text), cases[i].text), "case %zu step %zu: %s", i, step,
                          buf_cstr(&s.text));
            buf_free(&s.text);
        }
}

TEST(limits)
{
    struct buf b = buf_make(1 << 20);
    struct seen s = {.text = buf_make(1 << 20)};
    for (int i = 0; i <= MULTIPART_PARTS_MAX; i++) buf_puts(&b, "--B\r\n" FIELD "x\r\n");
    buf_puts(&b, "--B--");
    CHECK(parse(PLAIN, buf_str(&b), 7, &s) == SL_EINVAL);
    b.n = 0;
    buf_puts(&b, "--B\r\nX: ");
    for (int i = 0; i < MULTIPART_HEAD_BYTES_MAX; i++) buf_putc(&b, 'x');
    CHECK(parse(PLAIN, buf_str(&b), 1000, &s) == SL_EINVAL);
    char type[128];
    snprintf(type, sizeof type, "multipart/form-data; boundary=%072d", 0);
    CHECK(parse(type, STR(""), 1, &s) == SL_EINVAL);
    buf_free(&b);
    buf_free(&s.text);
}

TEST(the_receiver_may_stop)
{
    struct seen s = {.text = buf_make(4096), .fail_at = 2};
    CHECK(parse(PLAIN, STR("--B\r\n" FIELD "abc\r\n--B--"), 1, &s) == SL_EIO);
    buf_free(&s.text);
}
