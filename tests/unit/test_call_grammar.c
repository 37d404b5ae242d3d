/* test_call_grammar.c - what a forced call's grammar lets through is what the parser reads: for every
 * format a walk of random bytes under the grammar ends in calls of the right tools. So does free text
 * in which strict tools may be called, once a call is begun.
 */
#include "api/call_grammar.h"
#include "base/err.h"
#include "base/test.h"

enum { TEXT_MAX = 4000 };

static const char *const formats[] = {
    "hermes",         "mistral",     "mistral_v11", "deepseek_v3", "deepseek_v31",
    "kimi_k2",        "llama3_json", "command_r",   "granite",     "jamba",
    "phi4_mini_json", "internlm",    "longcat",     "functionary", "openai",
    "qwen3_coder",    "glm45",       "pythonic",    "xlam",        "none"};

static const char tools_json[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"wx\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{"
    "\"city\":{\"enum\":[\"Oslo\",\"Rome\"]},\"days\":{\"type\":\"integer\",\"minimum\":1,"
    "\"maximum\":9}},"
    "\"required\":[\"city\",\"days\"],\"additionalProperties\":false}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"no-op\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{},\"additionalProperties\":false}}}]";

static uint32_t rng = 7;
static uint32_t pick(uint32_t n)
{
    rng = rng * 1664525u + 1013904223u;
    return (rng >> 8) % n;
}

/* A byte that the grammar allows here, taken; 0: none was found. */
static char random_byte(struct grammar_state *s)
{
    for (int i = 0; i < 3000; i++) {
        char c = (char)(32 + pick(95));
        if (grammar_accept_bytes(s, (struct str){&c, 1})) return c;
    }
    return 0;
}

/* A text that the grammar accepts whole: lead, then random bytes that it allows; false: it got stuck or grew
 * too long. */
static bool walk(struct grammar *g, struct str lead, struct buf *out)
{
    struct grammar_state s = {0};
    struct buf forced = buf_make(512);
    bool may_end = false;
    grammar_begin(&s, g);
    CHECK_MSG(grammar_accept_bytes(&s, lead), "cannot begin with %.*s", (int)lead.n, lead.p);
    buf_put_str(out, lead);
    while (out->n < TEXT_MAX && !(may_end && pick(3))) {
        forced.n = 0;
        grammar_forced(&s, 512, &forced);
        if (forced.n && !grammar_accept_bytes(&s, buf_str(&forced))) break;
        buf_put_str(out, buf_str(&forced));
        char c = forced.n ? 0 : random_byte(&s);
        if (c) buf_putc(out, c);
        may_end = grammar_may_end(&s);
        if (!c && !forced.n) break;
    }
    buf_free(&forced);
    grammar_end(&s);
    return may_end;
}

static void check_calls(const struct call_grammar *c, const struct tool_set *set, struct str text)
{
    struct answer_setup setup = {.calls = c->format, .tools = set};
    struct answer *a = answer_new(&setup);
    struct answer_event ev;
    struct answer_whole w = {0};
    answer_push(a, text);
    answer_end(a);
    while (answer_take(a, SIZE_MAX, &ev)) answer_gather(&w, &ev);
    bool good = w.n_calls >= 1 && (w.content.n == 0 || set->choice == TOOLS_AUTO);
    for (size_t i = 0; i < w.n_calls; i++) {
        bool wx = str_is(buf_str(&w.calls[i].name), "wx");
        good = good && w.calls[i].is_complete && (wx || str_is(buf_str(&w.calls[i].name), "no-op"));
        if (set->choice == TOOLS_NAMED) good = good && wx && w.n_calls == 1;
        good =
            good && (wx ? memmem(w.calls[i].arguments.p, w.calls[i].arguments.n, "days", 4) != NULL
                        : str_is(buf_str(&w.calls[i].arguments), "{}"));
    }
    CHECK_MSG(good, "%s: %.*s", c->format->name, (int)text.n, text.p);
    answer_whole_free(&w);
    answer_free(a);
}

static void check_format(const char *name, const json_node *tools, const struct tool_set *set)
{
    struct arena arena = arena_make(1 << 20);
    struct call_grammar c;
    struct grammar *g = NULL;
    struct sl_error e = {0};
    CHECK(call_grammar_make(&c, call_format_named(str_of(name)), tools, set, STR(""), &arena) == 0);
    int code = grammar_tagged(&g, &c.tags, NULL, &(struct grammar_opts){.is_compact = true}, &e);
    CHECK_MSG(code == 0, "%s: %s", name, e.text);
    for (int i = 0; i < 40 && code == 0; i++) {
        struct buf text = buf_make(1 << 16);
        if (walk(g, STR(""), &text))
            check_calls(&c, set, buf_str(&text));
        else
            CHECK_MSG(text.n >= TEXT_MAX, "%s is stuck: %.*s", name, (int)text.n, text.p);
        buf_free(&text);
    }
    grammar_unref(g);
    arena_free(&arena);
}

TEST(forced_calls_are_read)
{
    struct json_doc *doc;
    struct tool tools[] = {{{"wx", 2}, NULL, 0}, {{"no-op", 5}, NULL, 0}};
    CHECK(json_parse(&doc, tools_json, sizeof tools_json - 1, &json_limits_request, NULL) == 0);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        for (int named = 0; named < 2; named++) {
            struct tool_set set = {.v = tools, .n = 2, .choice = TOOLS_REQUIRED};
            if (named) set.choice = TOOLS_NAMED, set.named = STR("wx");
            check_format(formats[i], json_root(doc), &set);
        }
    json_free(doc);
}

/* ------------------------------------------------------------------ strict tools that may be called */

static const char strict_json[] = "[{\"type\":\"function\",\"function\":{\"name\":\"wx\","
                                  "\"strict\":true,\"parameters\":{\"type\":"
                                  "\"object\",\"properties\":{\"city\":{\"enum\":[\"Oslo\","
                                  "\"Rome\"]},\"days\":{\"type\":\"integer\","
                                  "\"minimum\":1,\"maximum\":9}},\"required\":[\"city\",\"days\"],"
                                  "\"additionalProperties\":false}}},"
                                  "{\"type\":\"function\",\"function\":{\"name\":\"no-op\","
                                  "\"strict\":true,\"parameters\":{\"type\":"
                                  "\"object\",\"properties\":{},\"additionalProperties\":false}}}]";

static void check_free(const struct call_format *f, const json_node *tools,
                       const struct tool_set *set)
{
    static const char *const leads[] = {"", "Let me see. ", "a < b, {x} [1] \"name\": \xC3\xBC\n"};
    struct arena arena = arena_make(1 << 20);
    struct call_grammar c;
    struct grammar *g = NULL;
    struct sl_error e = {0};
    CHECK(call_grammar_make(&c, f, tools, set, STR(""), &arena) == 0);
    int code = grammar_tagged(&g, &c.tags, NULL, &(struct grammar_opts){.is_compact = true}, &e);
    CHECK_MSG(code == 0, "%s: %s", f->name, e.text);
    for (int i = 0; i < 60 && code == 0; i++) {
        struct buf lead = buf_make(1000), text = buf_make(1 << 16);
        size_t n = c.free.n_triggers, k = pick((uint32_t)n + (f->is_bare || f->is_harmony));
        if (k < n) buf_puts(&lead, leads[pick(3)]);
        buf_put_str(&lead, k < n ? c.free.triggers[k] : c.free.start);
        if (k == n) buf_put_str(&lead, c.free.anchor);
        if (walk(g, buf_str(&lead), &text))
            check_calls(&c, set, buf_str(&text));
        else
            CHECK_MSG(text.n >= TEXT_MAX, "%s is stuck: %.*s", f->name, (int)text.n, text.p);
        buf_free(&lead);
        buf_free(&text);
    }
    struct buf plain = buf_make(1 << 16);
    CHECK(walk(g, STR("Nothing to call."), &plain));
    buf_free(&plain);
    grammar_unref(g);
    arena_free(&arena);
}

TEST(free_text_with_calls_of_strict_tools)
{
    struct json_doc *doc;
    struct tool tools[] = {{{"wx", 2}, NULL, 0}, {{"no-op", 5}, NULL, 0}};
    int n_formats = 0;
    CHECK(json_parse(&doc, strict_json, sizeof strict_json - 1, &json_limits_request, NULL) == 0);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        const struct call_format *f = call_format_named(str_of(formats[i]));
        if (!call_grammar_may_be_free(f)) continue;
        n_formats++;
        for (int parallel = 0; parallel < 2; parallel++)
            check_free(f, json_root(doc),
                       &(struct tool_set){
                           .v = tools, .n = 2, .choice = TOOLS_AUTO, .no_parallel = !parallel});
    }
    CHECK(n_formats == 16 && !call_grammar_may_be_free(call_format_named(STR("pythonic"))));
    json_free(doc);
}
