/* test_answer_parse.c - the corpus of tests/data/tools through the answer parser: what it should
 * give, and the same whatever way the text is cut. A folder is a --tool-call-parser; each TEXT.txt
 * has a TEXT.json with the expected calls, content and reasoning.
 */
#include <dirent.h>

#include "api/answer_formats.h"
#include "api/answer_parse.h"
#include "base/err.h"
#include "base/test.h"
#include "base/utf8.h"

enum { SPLITS = 1000, FILE_MAX = 1 << 16 };

static uint32_t rng = 20260;
static uint32_t pick(uint32_t n)
{
    rng = rng * 1664525u + 1013904223u;
    return (rng >> 8) % n;
}

static const struct tool_param wx[] = {{{"city", 4}, PARAM_STRING}, {{"days", 4}, PARAM_OTHER}};
static const struct tool_param file[] = {{{"text", 4}, PARAM_STRING}, {{"path", 4}, PARAM_STRING}};
static const struct tool_param typed[] = {{{"flag", 4}, PARAM_OTHER},
                                          {{"list", 4}, PARAM_OTHER},
                                          {{"maybe", 5}, PARAM_STRING | PARAM_NULL},
                                          {{"obj", 3}, PARAM_OTHER},
                                          {{"num", 3}, PARAM_OTHER}};
static const struct tool tools[] = {
    {{"wx", 2}, wx, 2}, {{"write", 5}, file, 2}, {{"typed", 5}, typed, 5}, {{"noop", 4}, NULL, 0}};
static const struct tool_set set = {.v = tools, .n = 4, .choice = TOOLS_AUTO};

static char *read_file(const char *path, size_t *n)
{
    static char text[2][FILE_MAX];
    static int turn;
    char *p = text[turn++ & 1];
    FILE *f = fopen(path, "rb");
    *n = f ? fread(p, 1, FILE_MAX, f) : 0;
    if (f) fclose(f);
    return f ? p : NULL;
}

/* ------------------------------------------------------------------ running */

struct outcome {
    struct answer_whole whole;
    bool has_calls, is_over;
    int n_bad; /* breaches of the events' own rules */
};

static void check_event(struct outcome *o, const struct answer_event *ev)
{
    bool text = ev->kind == ANSWER_CONTENT || ev->kind == ANSWER_REASONING;
    size_t n = o->whole.n_calls;
    bool is_open = n > 0 && !o->whole.calls[n - 1].is_complete;
    o->n_bad += text && ev->index != -1;
    o->n_bad += ev->kind != ANSWER_CALL && ev->kind != ANSWER_CALL_END &&
                (ev->text.n == 0 || !utf8_valid(ev->text.p, ev->text.n));
    o->n_bad += ev->kind == ANSWER_CALL && (ev->index != (int)n || !ev->id.n || !ev->name.n);
    o->n_bad += (ev->kind == ANSWER_ARGUMENTS || ev->kind == ANSWER_CALL_END) &&
                (!is_open || ev->index != (int)n - 1);
}

static void drain(struct answer *a, struct outcome *o, size_t max)
{
    struct answer_event ev;
    while (answer_take(a, max, &ev)) {
        check_event(o, &ev);
        answer_gather(&o->whole, &ev);
    }
}

/* The size of the next piece: 1: all; 2: bytes; 3: like tokens; else random. */
static size_t piece(int how, const char *p, size_t n)
{
    size_t k = 1;
    if (how == 1) return n;
    if (how == 2) return 1;
    if (how > 3) return 1 + pick(how % 7 ? (uint32_t)how % 7 * 3 : (uint32_t)n);
    if (*p == '<' || *p == '[') { /* a special token, whole */
        const char *end = memchr(p, *p == '<' ? '>' : ']', n);
        if (end && end - p < 40) return (size_t)(end - p) + 1;
    }
    while (k < n && k < 2 + pick(6) && p[k] != '<' && p[k] != '[') k++;
    return k;
}

/* Whole characters only, as the detokenizer gives them. */
static struct outcome run(const struct answer_setup *s, struct str text, int how)
{
    struct outcome o = {0};
    struct answer *a = answer_new(s);
    size_t at = 0, given = 0, max = how > 3 ? 1 + pick(9) : SIZE_MAX;
    while (at < text.n && !answer_is_over(a)) {
        size_t n = piece(how, text.p + at, text.n - at);
        at += n < text.n - at ? n : text.n - at;
        size_t whole = at - utf8_incomplete_tail(text.p, at);
        answer_push(a, (struct str){text.p + given, whole - given});
        given = whole;
        if (how < 4 || pick(2)) drain(a, &o, max);
    }
    o.is_over = answer_is_over(a);
    answer_end(a);
    drain(a, &o, max);
    o.has_calls = answer_has_calls(a);
    answer_free(a);
    return o;
}

static bool same_buf(const struct buf *a, const struct buf *b)
{
    return str_eq(buf_str(a), buf_str(b));
}

static bool same(const struct outcome *a, const struct outcome *b)
{
    const struct answer_whole *x = &a->whole, *y = &b->whole;
    bool good = same_buf(&x->content, &y->content) && same_buf(&x->reasoning, &y->reasoning) &&
                x->n_calls == y->n_calls && a->has_calls == b->has_calls && !b->n_bad;
    for (size_t i = 0; i < x->n_calls && good; i++)
        good = same_buf(&x->calls[i].id, &y->calls[i].id) &&
               same_buf(&x->calls[i].name, &y->calls[i].name) &&
               same_buf(&x->calls[i].arguments, &y->calls[i].arguments) &&
               x->calls[i].is_complete == y->calls[i].is_complete;
    return good;
}

static void show(const struct outcome *o)
{
    struct buf b = buf_make(1 << 20);
    buf_puts(&b, "  content ");
    json_put_str(&b, buf_str(&o->whole.content));
    buf_puts(&b, " reasoning ");
    json_put_str(&b, buf_str(&o->whole.reasoning));
    for (size_t i = 0; i < o->whole.n_calls; i++) {
        buf_puts(&b, "\n  call ");
        json_put_str(&b, buf_str(&o->whole.calls[i].name));
        buf_puts(&b, o->whole.calls[i].is_complete ? " complete " : " cut ");
        buf_put_str(&b, buf_str(&o->whole.calls[i].arguments));
    }
    printf("%s, %d bad events\n", buf_cstr(&b), o->n_bad);
    buf_free(&b);
}

/* ------------------------------------------------------------------ expectations */

static bool same_json(const json_node *a, const json_node *b)
{
    if (json_is_num(a) && json_is_num(b)) return json_num(a) == json_num(b);
    if (json_type(a) != json_type(b)) return false;
    if (json_type(a) == JSON_STR) return str_eq(json_str(a), json_str(b));
    const json_node *x = json_child(a), *y = json_child(b);
    for (; x && y; x = json_next(x), y = json_next(y))
        if (!same_json(x, y) || !str_eq(json_key(x), json_key(y))) return false;
    return !x && !y;
}

static bool is_text(const json_node *v, const struct buf *b)
{
    return json_type(v) == JSON_STR ? str_eq(json_str(v), buf_str(b)) : b->n == 0;
}

static bool is_call(const json_node *want, const struct answer_call *got)
{
    const json_node *args = json_get(want, "arguments"), *id = json_get(want, "id");
    bool cut = json_type(json_get(want, "complete")) == JSON_FALSE;
    struct json_doc *doc = NULL;
    bool good = is_text(json_get(want, "name"), &got->name) && got->is_complete == !cut;
    if (id) good = good && is_text(id, &got->id);
    if (cut) return good && is_text(args, &got->arguments);
    good = good &&
           json_parse(&doc, got->arguments.p, got->arguments.n, &json_limits_request, NULL) == 0;
    good = good && same_json(args, json_root(doc));
    json_free(doc);
    return good;
}

static bool is_expected(const json_node *want, const struct outcome *o)
{
    const json_node *calls = json_get(want, "calls"), *c = json_child(calls);
    bool good = is_text(json_get(want, "content"), &o->whole.content) &&
                is_text(json_get(want, "reasoning"), &o->whole.reasoning) &&
                json_len(calls) == o->whole.n_calls && !o->n_bad;
    for (size_t i = 0; i < o->whole.n_calls && good; i++, c = json_next(c))
        good = is_call(c, &o->whole.calls[i]);
    return good;
}

static struct str text_of(const json_node *v, const char *otherwise)
{
    return json_type(v) == JSON_STR ? json_str(v) : str_of(otherwise);
}

static void check_case(const char *folder, const char *name, const char *path)
{
    char twin[600];
    size_t n, n_json;
    snprintf(twin, sizeof twin, "%.*s.json", (int)strlen(path) - 4, path);
    char *text = read_file(path, &n), *json = read_file(twin, &n_json);
    struct json_doc *doc = NULL;
    CHECK_MSG(text && json && json_parse(&doc, json, n_json, &json_limits_request, NULL) == 0,
              "%s: no expectation", path);
    const json_node *want = json_root(doc);
    struct answer_setup s = {
        .calls = call_format_named(text_of(json_get(want, "parser"), folder)),
        .reasoning = reasoning_format_named(text_of(json_get(want, "think"), "")),
        .starts_in_reasoning = json_type(json_get(want, "in_reasoning")) == JSON_TRUE,
        .drop_reasoning = json_type(json_get(want, "drop_reasoning")) == JSON_TRUE,
        .tools = &set,
        .id_seed = STR("seed")};
    struct str whole = {text, n};
    struct outcome first = run(&s, whole, 1);
    CHECK_MSG(is_expected(want, &first), "%s/%s", folder, name);
    if (!is_expected(want, &first)) show(&first);
    bool good = true;
    for (int how = 2; how < SPLITS + 2 && good; how++) {
        uint32_t seed = rng;
        struct outcome o = run(&s, whole, how);
        good = same(&first, &o);
        CHECK_MSG(good, "%s/%s cut in way %d, seed %u", folder, name, how, seed);
        if (!good) show(&o);
        answer_whole_free(&o.whole);
    }
    answer_whole_free(&first.whole);
    json_free(doc);
}

TEST(corpus)
{
    struct dirent **folders, **files;
    int n_folders = scandir(TEST_DATA "/tools", &folders, NULL, alphasort), n_cases = 0;
    for (int i = 0; i < n_folders; i++) {
        char dir[300], path[600];
        snprintf(dir, sizeof dir, "%s/%s", TEST_DATA "/tools", folders[i]->d_name);
        int n = folders[i]->d_name[0] == '.' ? 0 : scandir(dir, &files, NULL, alphasort);
        for (int k = 0; k < n; k++) {
            size_t len = strlen(files[k]->d_name);
            snprintf(path, sizeof path, "%s/%s", dir, files[k]->d_name);
            if (len > 4 && strcmp(files[k]->d_name + len - 4, ".txt") == 0) {
                check_case(folders[i]->d_name, files[k]->d_name, path);
                n_cases++;
            }
            free(files[k]);
        }
        if (n > 0) free(files);
        free(folders[i]);
    }
    free(folders);
    CHECK_MSG(n_cases >= 120, "%d cases", n_cases);
}

/* ------------------------------------------------------------------ beyond the corpus */

#define CALL_A "<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 1}}\n</tool_call>"
#define CALL_B "<tool_call>\n{\"name\": \"b\", \"arguments\": {}}\n</tool_call>"

TEST(one_call_at_most)
{
    struct tool_set one = set;
    one.no_parallel = true;
    struct answer_setup s = {.calls = call_format_named(STR("hermes")), .tools = &one};
    for (int how = 1; how < 200; how++) {
        struct outcome o = run(&s, STR("Hi.\n" CALL_A "\n" CALL_B " more"), how);
        CHECK(o.whole.n_calls == 1 && o.has_calls && o.is_over && o.n_bad == 0);
        CHECK(str_is(buf_str(&o.whole.content), "Hi."));
        answer_whole_free(&o.whole);
    }
}

TEST(ids)
{
    struct answer_setup s = {.calls = call_format_named(STR("hermes")), .id_seed = STR("abc")};
    struct outcome o = run(&s, STR(CALL_A CALL_B), 1);
    CHECK(o.whole.n_calls == 2 && o.whole.calls[0].id.n == 5 + 24);
    CHECK(memcmp(o.whole.calls[0].id.p, "call_", 5) == 0);
    CHECK(!same_buf(&o.whole.calls[0].id, &o.whole.calls[1].id));
    s.id_choice = 1;
    struct outcome other = run(&s, STR(CALL_A CALL_B), 1);
    CHECK(!same_buf(&o.whole.calls[0].id, &other.whole.calls[0].id));
    answer_whole_free(&o.whole);
    answer_whole_free(&other.whole);
    s.calls = call_format_named(STR("mistral"));
    o = run(&s, STR("[TOOL_CALLS]wx[ARGS]{}"), 1);
    CHECK(o.whole.n_calls == 1 && o.whole.calls[0].id.n == 9);
    answer_whole_free(&o.whole);
}

/* Without calls nothing is held back, and nothing is left out. */
TEST(positions_of_content)
{
    static const char text[] = "<think>ab</think>\n\nOne two. " CALL_A " three";
    struct answer_setup s = {.calls = call_format_named(STR("hermes")),
                             .reasoning = reasoning_format_named(STR("qwen3"))};
    struct answer *a = answer_new(&s);
    struct answer_event ev;
    for (size_t i = 0; i < sizeof text - 1; i++) {
        answer_push(a, (struct str){text + i, 1});
        while (answer_take(a, 100, &ev))
            if (ev.kind == ANSWER_CONTENT && ev.text.n == ev.to - ev.from)
                CHECK(memcmp(text + ev.from, ev.text.p, ev.text.n) == 0);
    }
    answer_free(a);
}

/* A row that the look-up by a template's markers finds. */
TEST(formats_of_templates)
{
    static const char *const cases[][3] = {
        {"{{ '<tool_call>\\n' }}", "hermes", NULL},
        {"<tool_call> <function=x> <parameter=y> </think>", "qwen3_coder", "deepseek_r1"},
        {"<tool_call><arg_key></think>", "glm45", "deepseek_r1"},
        {"{{'<|python_tag|>'}}", "llama3_json", NULL},
        {"Environment: ipython <|eot_id|>", "llama3_json", NULL},
        {"[TOOL_CALLS] [THINK] [/THINK]", "mistral", "mistral"},
        {"<|start|>assistant<|channel|>final<|message|>", "openai", "openai_gptoss"},
        {"<\xEF\xBD\x9Ctool\xE2\x96\x81"
         "calls\xE2\x96\x81"
         "begin\xEF\xBD\x9C>```json",
         "deepseek_v3", NULL},
        {"<\xEF\xBD\x9Ctool\xE2\x96\x81"
         "calls\xE2\x96\x81"
         "begin\xEF\xBD\x9C></think>",
         "deepseek_v31", "deepseek_r1"},
        {"{{ messages }}", NULL, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct call_format *c = call_format_of(str_of(cases[i][0]));
        const struct reasoning_format *r = reasoning_format_of(str_of(cases[i][0]));
        CHECK_MSG(cases[i][1] ? c && strcmp(c->name, cases[i][1]) == 0 : !c, "%s: %s", cases[i][0],
                  c ? c->name : "none");
        CHECK_MSG(cases[i][2] ? r && strcmp(r->name, cases[i][2]) == 0 : !r, "%s: %s", cases[i][0],
                  r ? r->name : "none");
    }
    CHECK(call_format_uses(call_format_named(STR("mistral")), STR("[ARGS]")));
    CHECK(call_format_uses(call_format_named(STR("openai")), STR("<|channel|>")));
    CHECK(!call_format_uses(call_format_named(STR("hermes")), STR("<|im_end|>")));
    const struct reasoning_format *qwen = reasoning_format_named(STR("qwen3"));
    CHECK(reasoning_at_end(qwen, STR("x<|im_start|>a\n<think>\n")) == REASONING_OPEN);
    CHECK(reasoning_at_end(qwen, STR("<think>\n\n</think>\n\n")) == REASONING_CLOSED);
    CHECK(reasoning_at_end(qwen, STR("<think> is a tag")) == REASONING_NONE);
}

/* Long texts made of openers that lead nowhere cost linear time. */
TEST(hostile_texts)
{
    static const char *const parts[] = {
        "<tool_call>", "<tool_call>{\"arguments\":{\"a\":\"", " ", "[TOOL_CALLS]", "{", "<think>",
        "\n"};
    static const char *const parsers[] = {"hermes",  "qwen3_coder", "glm45",
                                          "mistral", "llama3_json", "openai"};
    for (size_t f = 0; f < sizeof parsers / sizeof *parsers; f++)
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            struct answer_setup s = {.calls = call_format_named(str_of(parsers[f])),
                                     .reasoning = reasoning_format_named(STR("qwen3"))};
            struct buf text = buf_make(1 << 22);
            while (text.n < 1 << 20) buf_puts(&text, parts[i]);
            struct outcome o = run(&s, buf_str(&text), 3);
            CHECK(o.n_bad == 0 && o.whole.n_calls == 0);
            answer_whole_free(&o.whole);
            buf_free(&text);
        }
}
