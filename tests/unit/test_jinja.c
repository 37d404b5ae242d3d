/* test_jinja.c - the interpreter against jinja2's own answers (tests/data/jinja_cases.json, made by
 * tests/tools/make_jinja_cases.py), real templates where present, and its limits. */
#include "base/test.h"

#include <glob.h>
#include <time.h>

#include "text/jinja.h"
#include "text/render_tool.h"

static char *read_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    struct buf b = buf_make(64 << 20);
    for (char *at; (at = buf_reserve(&b, 65536));) {
        size_t got = fread(at, 1, 65536, f);
        if (!got) break;
        b.n += got;
    }
    fclose(f);
    *n = b.n;
    buf_cstr(&b);
    return b.p;
}

static const struct tm now = {.tm_year = 125,
                              .tm_mon = 6,
                              .tm_mday = 26,
                              .tm_hour = 13,
                              .tm_min = 5,
                              .tm_sec = 9,
                              .tm_wday = 6,
                              .tm_yday = 206};

static size_t add_globals(struct jinja_global *g, size_t n, const json_node *object)
{
    for (const json_node *v = json_child(object); v && n < 64; v = json_next(v))
        g[n++] = (struct jinja_global){json_key(v).p, v};
    return n;
}

static int render_text(struct str source, const struct jinja_global *g, size_t n,
                       const struct jinja_budget *budget, struct buf *out, struct sl_error *e)
{
    struct jinja *t;
    TRY(jinja_compile(&t, source, e));
    int code = jinja_render(t, g, n, &now, budget, out, e);
    jinja_free(t);
    return code;
}

/* A case has "template" (or takes the given one) and "output" or "error". */
static bool run_case(const json_node *c, struct str source, const struct jinja_global *g, size_t n)
{
    struct buf out = buf_make(16 << 20);
    struct sl_error e = {0};
    int code = render_text(source, g, n, &jinja_budget_default, &out, &e);
    const json_node *want = json_get(c, "output");
    bool good = want ? code == 0 && str_eq(json_str(want), buf_str(&out)) : code < 0;
    CHECK_MSG(good, "%.200s\n  got %.400s %s", source.p, buf_cstr(&out), e.text);
    buf_free(&out);
    return good;
}

TEST(jinja2_table)
{
    size_t n, n_cases = 0;
    char *text = read_file(TEST_DATA "/jinja_cases.json", &n);
    struct json_doc *doc = NULL;
    struct jinja_global g[64];
    CHECK(text && json_parse(&doc, text, n, &json_limits_file, NULL) == 0);
    if (!doc) return;
    size_t n_globals = add_globals(g, 0, json_get(json_root(doc), "context"));
    for (const json_node *c = json_child(json_get(json_root(doc), "cases")); c;
         c = json_next(c), n_cases++)
        run_case(c, json_str(json_get(c, "template")), g, n_globals);
    CHECK(n_cases >= 150);
    json_free(doc);
    free(text);
}

static void run_golden(const char *path)
{
    char template_path[4096];
    size_t n, n_source;
    struct json_doc *doc = NULL, *nulls = NULL;
    char *text = read_file(path, &n);
    CHECK(json_parse(&doc, text, n, &json_limits_file, NULL) == 0);
    const char none[] = "{\"tools\": null, \"documents\": null}";
    CHECK(json_parse(&nulls, none, sizeof none - 1, &json_limits_file, NULL) == 0);
    snprintf(template_path, sizeof template_path, "%.*s.jinja", (int)(strlen(path) - 12), path);
    char *source = read_file(template_path, &n_source);
    CHECK(source != NULL);
    const json_node *root = json_root(doc);
    for (const json_node *c = json_child(json_get(root, "cases")); c; c = json_next(c)) {
        static const char *const tokens[] = {"bos_token", "eos_token", "pad_token", "unk_token"};
        struct jinja_global g[64];
        size_t n_globals = add_globals(g, 0, json_root(nulls));
        for (size_t i = 0; i < 4; i++)
            g[n_globals++] = (struct jinja_global){tokens[i], json_get(root, tokens[i])};
        n_globals = add_globals(g, n_globals, json_get(c, "input"));
        bool good = run_case(c, (struct str){source, n_source}, g, n_globals);
        CHECK_MSG(good, "%s", path);
    }
    free(source);
    free(text);
    json_free(doc);
    json_free(nulls);
}

TEST(real_templates)
{
    glob_t found;
    if (glob(SHARED_DATA "/chat_templates/*.golden.json", 0, NULL, &found) != 0) return;
    for (size_t i = 0; i < found.gl_pathc; i++) run_golden(found.gl_pathv[i]);
    globfree(&found);
}

/* Whatever is nested, repeated or grown without end is stopped, with a reason that names the
 * budget. */
TEST(budgets)
{
    static const struct {
        const char *source, *reason;
    } cases[] = {
        {"{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "steps"},
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "call depth"},
        {"{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", "call depth"},
        {"{% for a in range(9000) %}{{ 'x' * 9000 }}{% endfor %}", "output"},
        {"{{ 'x' * 999999999 }}", "memory"},
        {"{% set ns = namespace(s='abc') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% "
         "endfor %}",
         "memory"},
        {"{{ [0] * 99999999 }}", "memory"},
        {"{{ range(99999) }}", "range too big"},
        {"{{ 9223372036854775807 + 1 }}", "overflow"},
        {"{% set l = [] %}{% set _ = l.append(l) %}{{ l }}", "too deep"},
        {"{% set l = [] %}{% set _ = l.append(l) %}{{ l | tojson }}", "too deep"},
        {"{{ 'x' | center(99999999999) }}", "memory"},
        {"{{ raise_exception('as the template says') }}", "as the template says"},
        {"{{ no.x }}", "'no' is undefined"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf out = buf_make(64 << 20);
        struct sl_error e = {0};
        struct jinja_budget budget = jinja_budget_default;
        budget.time_ms = 60000; /* sanitizers are slow; the clock has its own test */
        int code = render_text(str_of(cases[i].source), NULL, 0, &budget, &out, &e);
        CHECK_MSG(code < 0 && strstr(e.text, cases[i].reason), "%s: %s", cases[i].source, e.text);
        CHECK(out.n == 0);
        buf_free(&out);
    }
}

TEST(time_budget)
{
    struct jinja_budget budget = jinja_budget_default;
    struct buf out = buf_make(1 << 20);
    struct sl_error e = {0};
    budget.steps = UINT64_MAX / 2;
    budget.time_ms = 20;
    const char *source =
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    CHECK(render_text(str_of(source), NULL, 0, &budget, &out, &e) == SL_EDEADLINE);
    buf_free(&out);
}

TEST(source_limits)
{
    static const char *const pieces[] = {"(",  "[",  "{% if 1 %}", "not ", "-", "1 if 2 else ",
                                         "f(", "a[", "{1:"};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        struct buf b = buf_make(4 << 20);
        struct sl_error e = {0};
        struct jinja *t;
        if (pieces[i][1] != '%') buf_puts(&b, "{{ ");
        for (int k = 0; k < 5500; k++) buf_puts(&b, pieces[i]);
        CHECK_MSG(jinja_compile(&t, buf_str(&b), &e) == SL_EFORMAT, "%s", pieces[i]);
        buf_free(&b);
    }
    struct buf b = buf_make(4 << 20);
    struct sl_error e = {0};
    struct jinja *t;
    for (int k = 0; k < (1 << 20) / 8 + 1; k++) buf_puts(&b, "aaaaaaaa");
    CHECK(jinja_compile(&t, buf_str(&b), &e) == SL_EFORMAT);
    b.n = 0;
    buf_puts(&b, "{{ 1"); /* a long chain compiles; its walk is stopped */
    for (int k = 0; k < 20000; k++) buf_puts(&b, "+1");
    buf_puts(&b, " }}");
    struct buf out = buf_make(1 << 20);
    CHECK(render_text(buf_str(&b), NULL, 0, &jinja_budget_default, &out, &e) == SL_EINVAL);
    CHECK(jinja_compile(&t, STR("\xFF"), &e) == SL_EFORMAT);
    buf_free(&out);
    buf_free(&b);
}

TEST(mentions)
{
    struct jinja *t;
    struct sl_error e;
    CHECK(jinja_compile(&t, STR("developer {% if m.role == 'tool' %}{{ tools }}{% endif %}"), &e) ==
          0);
    CHECK(jinja_mentions(t, "tool") && jinja_mentions(t, "tools"));
    CHECK(!jinja_mentions(t, "developer") && !jinja_mentions(t, "documents"));
    jinja_free(t);
}

TEST(jsonl)
{
    char in[] = "{\"a\": \"x\", \"now\": \"2025-07-26T13:05:09\"}\n{\"b\": 1}\nnot json\n",
         out[512] = {0};
    FILE *from = fmemopen(in, sizeof in - 1, "r"), *to = fmemopen(out, sizeof out, "w");
    CHECK(render_jsonl(STR("{{ a.upper() }}{{ strftime_now(' %d %b') }}"), from, to) == 0);
    fclose(from);
    fclose(to);
    CHECK_MSG(strncmp(out, "{\"output\": \"X 26 Jul\"}\n{\"error\": \"'a' is undefined", 49) == 0,
              "%s", out);
}
