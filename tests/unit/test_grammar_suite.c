/* test_grammar_suite.c - the JSON-Schema-Test-Suite without a model: of every schema that compiles,
 * each valid instance is accepted and each invalid one refused, byte by byte, compactly and with
 * whitespace. Reads the suite beside the checkout where it is present.
 */
#include "base/test.h"

#include <glob.h>
#include <unistd.h>

#include "grammar_fixture.h"

#define SUITE SHARED_DATA "/json_schema/suite/tests"

struct counts {
    int schemas, refused, tests;
};

static struct json_doc *read_doc(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct json_doc *doc = NULL;
    struct sl_error e;
    if (!f) return NULL;
    char *p = xmalloc(16 << 20);
    size_t n = fread(p, 1, 16 << 20, f);
    fclose(f);
    if (json_parse(&doc, p, n, &json_limits_file, &e) < 0) printf("%s: %s\n", path, e.text);
    free(p);
    return doc;
}

static void check_group(const json_node *group, const char *file, uint8_t draft, struct counts *n)
{
    struct grammar *g;
    struct sl_error e = {0};
    struct grammar_opts o = {.draft = draft};
    struct str title = json_str(json_get(group, "description"));
    const json_node *schema = json_get(group, "schema");
    n->schemas++;
    int code = grammar_json_schema(&g, schema, NULL, &o, &e);
    bool none = code < 0 && strstr(e.text, "nothing can meet");
    if (code < 0 && !none) {
        n->refused++;
        if (getenv("SUITE_VERBOSE"))
            printf("refused %s: %.*s: %s %s\n", file, (int)title.n, title.p, e.param, e.text);
        return;
    }
    const json_node *tests = json_get(group, "tests");
    for (const json_node *t = json_child(tests); t; t = json_next(t)) {
        bool valid = json_type(json_get(t, "valid")) == JSON_TRUE;
        struct str what = json_str(json_get(t, "description"));
        const json_node *data = json_get(t, "data");
        bool compact = !none && takes_value(g, schema, data, true, NULL);
        bool spaced = !none && takes_value(g, schema, data, false, NULL);
        CHECK_MSG(compact == valid && spaced == valid, "%s: %.*s: %.*s (valid %d, takes %d %d)",
                  file, (int)title.n, title.p, (int)what.n, what.p, valid, compact, spaced);
        n->tests++;
    }
    if (!none) grammar_unref(g);
}

/* format.json has it that formats are not asserted; here they are (format-assertion.json). */
static bool is_left_out(const char *file)
{
    static const char *const out[] = {"/format.json", "/vocabulary.json", "/float-overflow.json",
                                      "/bignum.json"};
    for (size_t i = 0; i < sizeof out / sizeof *out; i++)
        if (strstr(file, out[i])) return true;
    return false;
}

static void check_draft(const char *pattern, uint8_t draft)
{
    glob_t found;
    struct counts n = {0};
    if (glob(pattern, 0, NULL, &found) != 0) return;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        const char *path = found.gl_pathv[i];
        struct json_doc *doc = is_left_out(path) ? NULL : read_doc(path);
        if (!doc) continue;
        for (const json_node *g = json_child(json_root(doc)); g; g = json_next(g))
            check_group(g, strrchr(path, '/') + 1, draft, &n);
        json_free(doc);
    }
    globfree(&found);
    printf("%s: %d schemas, %d of them refused by keyword, %d instances\n", pattern, n.schemas,
           n.refused, n.tests);
}

TEST(draft_2020_12)
{
    check_draft(SUITE "/draft2020-12/*.json", 0);
}
TEST(draft_7)
{
    check_draft(SUITE "/draft7/*.json", 7);
}
TEST(optional)
{
    check_draft(SUITE "/draft2020-12/optional/*.json", 0);
}
