/* test_grammar_free.c - free text with triggers: structural tags by hand, what the masks say against
 * the plain definition, random walks in which every trigger must be followed by what belongs to it.
 */
#include "base/test.h"

#include "text/grammar_impl.h"

static struct grammar *compile(const char *source, struct grammar_vocab *v, struct sl_error *e)
{
    struct grammar *g = NULL;
    struct json_doc *doc = NULL;
    int code = json_parse(&doc, source, strlen(source), &json_limits_request, e);
    if (code == 0) code = grammar_structural(&g, json_root(doc), v, &(struct grammar_opts){0}, e);
    json_free(doc);
    return g;
}

static bool takes(struct grammar *g, const char *text)
{
    struct grammar_state s = {0};
    grammar_begin(&s, g);
    bool ok = grammar_accept_bytes(&s, str_of(text)) && grammar_may_end(&s);
    grammar_end(&s);
    return ok;
}

#define NUMBER "{\"type\":\"regex\",\"pattern\":\"[0-9]+\"}"
#define BOOL   "{\"type\":\"json_schema\",\"json_schema\":{\"type\":\"boolean\"}}"
#define TAG(begin, content, end)                                                                   \
    "{\"type\":\"tag\",\"begin\":\"" begin "\",\"content\":" content ",\"end\":\"" end "\"}"
#define TRIGGERED(more)                                                                            \
    "{\"type\":\"triggered_tags\",\"triggers\":[\"<f=\"],\"tags\":[" TAG(                          \
        "<f=a>", NUMBER, "</f>") "," TAG("<f=b>", BOOL, "</f>") "]" more "}"

static const struct {
    const char *source, *yes[8], *no[8];
} samples[] = {
    {"{\"type\":\"const_string\",\"value\":\"ab\"}", {"ab"}, {"", "a", "abc"}},
    {"{\"format\":" NUMBER "}", {"0", "17"}, {"", "x"}},
    {"{\"type\":\"structural_tag\",\"format\":" BOOL "}", {"true"}, {"1"}},
    {"{\"type\":\"grammar\",\"grammar\":\"root ::= \\\"x\\\" root?\"}", {"x", "xx"}, {"", "y"}},
    {"{\"type\":\"any_text\"}", {"", "any \xC3\xBC < text"}, {0}},
    {"{\"type\":\"sequence\",\"elements\":[" NUMBER ",{\"type\":\"const_string\",\"value\":\";\"}"
     "," BOOL "]}",
     {"1;true"},
     {"1", ";true", "1;"}},
    {"{\"type\":\"or\",\"elements\":[" NUMBER "," BOOL "]}", {"1", "true"}, {"1true", ""}},
    {"{\"type\":\"optional\",\"content\":" BOOL "}", {"", "true"}, {"truetrue"}},
    {"{\"type\":\"plus\",\"content\":" BOOL "}", {"true", "truefalse"}, {"", "tru"}},
    {"{\"type\":\"star\",\"content\":" BOOL "}", {"", "truefalse"}, {"1"}},
    {TAG("[", NUMBER, "]"), {"[1]"}, {"1", "[1", "[]"}},
    {TAG("<t>", "{\"type\":\"any_text\"}", "</t>"),
     {"<t></t>", "<t>a < b </ t></t>", "<t></</t>"},
     {"<t>", "<t>a</t>b", "<t></t></t>"}},
    {"{\"type\":\"tag\",\"begin\":\"<t>\",\"content\":{\"type\":\"any_text\"},\"end\":[\"!\",\"?\"]"
     "}",
     {"<t>a!", "<t>a?"},
     {"<t>a", "<t>a!?"}},
    {TRIGGERED(""),
     {"", "free <f text", "<f=a>1</f>", "x<f=b>true</f>y<f=a>22</f>z", "<<f=a>1</f><"},
     {"<f=", "<f=c>", "<f=a>x</f>", "x<f=a>1</f", "<f=b>1</f>", "<f=a>1</f> <f="}},
    {TRIGGERED(",\"at_least_one\":true"), {"x<f=a>1</f>y", "<f=a>1</f>"}, {"", "x"}},
    {TRIGGERED(",\"stop_after_first\":true"),
     {"", "x", "x<f=a>1</f>"},
     {"<f=a>1</f> ", "<f=a>1</f><f=a>1</f>"}},
    {TRIGGERED(",\"stop_after_first\":true,\"at_least_one\":true"), {"x<f=a>1</f>"}, {"", "x"}},
    /* the end of a tag around it ends free text too */
    {TAG("(", TRIGGERED(""), ")"),
     {"()", "(x<f=a>1</f>y)", "(a(b)"},
     {"(", "(x))", "(<f=a>1)", "(x)y"}},
    {TAG("(", TRIGGERED(",\"stop_after_first\":true"), ")"),
     {"()", "(x<f=a>1</f>)"},
     {"(<f=a>1</f>x)"}},
    {"{\"type\":\"tags_with_separator\",\"separator\":\",\",\"tags\":[" TAG("[", NUMBER, "]") "]}",
     {"", "[1]", "[1],[2]"},
     {"[1][2]", ",", "[1],"}},
    {"{\"type\":\"tags_with_separator\",\"separator\":\",\",\"at_least_one\":true,"
     "\"stop_after_first\":true,\"tags\":[" TAG("[", NUMBER, "]") "]}",
     {"[1]"},
     {"", "[1],[2]"}},
    /* triggers inside each other: the one that is complete first counts */
    {"{\"type\":\"triggered_tags\",\"triggers\":[\"ab\",\"abc\",\"bcd\"],\"tags\":[" TAG(
         "abc", NUMBER, ";") "," TAG("abx", BOOL, ";") "," TAG("bcd", NUMBER, ";") "]}",
     {"a", "abc1;", "abxtrue;", "bcd1;bc", "aabc1;b"},
     {"ab", "abcd", "abcd1;", "bcd"}},
    {"{\"structures\":[{\"begin\":\"<f=a>\",\"schema\":{\"type\":\"integer\"},\"end\":\"</f>\"}],"
     "\"triggers\":[\"<f=\"]}",
     {"", "x", "x<f=a>1</f>y"},
     {"<f=a>true</f>", "<f=b>"}},
};

TEST(structural_tags_by_hand)
{
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        struct sl_error e = {0};
        struct grammar *g = compile(samples[i].source, NULL, &e);
        CHECK_MSG(g, "%s: %s", samples[i].source, e.text);
        for (int k = 0; g && k < 8 && samples[i].yes[k]; k++)
            CHECK_MSG(takes(g, samples[i].yes[k]), "%s should take %s", samples[i].source,
                      samples[i].yes[k]);
        for (int k = 0; g && k < 8 && samples[i].no[k]; k++)
            CHECK_MSG(!takes(g, samples[i].no[k]), "%s should refuse %s", samples[i].source,
                      samples[i].no[k]);
        grammar_unref(g);
    }
}

static const char *const refused[][2] = {
    {"{}", "'type'"},
    {"[]", "'type'"},
    {"{\"type\":\"poem\"}", "poem"},
    {"{\"type\":\"const_string\"}", "'value'"},
    {"{\"type\":\"sequence\",\"elements\":[]}", "'elements'"},
    {"{\"type\":\"sequence\",\"elements\":[7]}", "'type'"},
    {"{\"type\":\"json_schema\"}", "missing"},
    {"{\"type\":\"json_schema\",\"json_schema\":{\"type\":\"hiccup\"}}", "type"},
    {"{\"type\":\"json_schema\",\"style\":\"qwen_xml\",\"json_schema\":{}}", "style"},
    {"{\"type\":\"regex\",\"pattern\":\"(\"}", ""},
    {"{\"type\":\"grammar\",\"grammar\":\"x\"}", ""},
    {"{\"type\":\"tag\",\"begin\":\"a\",\"content\":{\"type\":\"any_text\"}}", "'end'"},
    {"{\"type\":\"optional\"}", "'type'"},
    {"{\"type\":\"triggered_tags\",\"triggers\":[\"x\"],\"tags\":[" TAG("y", NUMBER, "") "]}",
     "none of the triggers"},
    {"{\"type\":\"triggered_tags\",\"triggers\":[\"\"],\"tags\":[" TAG("y", NUMBER, "") "]}",
     "not empty"},
    {"{\"type\":\"triggered_tags\",\"triggers\":[],\"tags\":[" TAG("y", NUMBER, "") "]}",
     "'triggers'"},
    {"{\"type\":\"triggered_tags\",\"triggers\":[\"y\"],\"at_least_one\":1,\"tags\":[" TAG(
         "y", NUMBER, "") "]}",
     "at_least_one"},
    {"{\"structures\":7}", "'structures'"},
};

TEST(structural_tags_refused)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct sl_error e = {0};
        struct grammar *g = compile(refused[i][0], NULL, &e);
        CHECK_MSG(!g && e.text[0] && strstr(e.text, refused[i][1]), "%s: %s", refused[i][0],
                  g ? "taken" : e.text);
        grammar_unref(g);
    }
}

/* ------------------------------------------------------------------ with a vocabulary */

static const char *const pieces[] = {
    "<call>", "<other>", "<end>", "<ca",      "ll>", " <",    "<call",    ">1", "</",       "call>",
    "12",     "\xC3",    "x<c",   "; <call>", "<f=", "<f=a>", "=a>7</f>", "b>", "\xC3\xBC<"};
enum {
    N_PIECES = sizeof pieces / sizeof *pieces,
    CALL = 256,
    OTHER,
    END,
    N_TOKENS = 256 + N_PIECES
};

static struct str bytes_of(void *arg, int32_t id)
{
    static char byte;
    (void)arg;
    if (id >= 256) return str_of(pieces[id - 256]);
    byte = (char)id;
    return (struct str){&byte, 1};
}

static bool is_special(void *arg, int32_t id)
{
    (void)arg;
    return id >= CALL && id <= END;
}

static struct grammar_vocab *vocab(void)
{
    static const int32_t eos[] = {END};
    struct grammar_vocab *v = NULL;
    struct sl_error e;
    CHECK(grammar_vocab_new(&v,
                            &(struct grammar_vocab_desc){.n_vocab = N_TOKENS,
                                                         .bytes = bytes_of,
                                                         .is_special = is_special,
                                                         .eos = eos,
                                                         .n_eos = 1},
                            &e) == 0);
    return v;
}

#define CALLS                                                                                      \
    "{\"type\":\"triggered_tags\",\"triggers\":[\"<call\",\"<f=\"],\"tags\":[" TAG(                \
        "<call>", NUMBER, "<end>") "," TAG("<f=a>", NUMBER, "</f>") "]"

TEST(special_tokens)
{
    struct grammar_vocab *v = vocab();
    struct sl_error e = {0};
    struct grammar *g = compile(CALLS ",\"at_least_one\":true}", v, &e);
    struct grammar_state s = {0};
    uint32_t words[(N_TOKENS + 31) / 32];
    CHECK_MSG(g, "%s", e.text);
    grammar_begin(&s, g);
    CHECK(!grammar_accept(&s, END) && grammar_accept(&s, OTHER) &&
          grammar_accept(&s, 0xFF) == false);
    CHECK(grammar_mask(&s, words) && !(words[END / 32] >> END % 32 & 1));
    CHECK(grammar_accept(&s, CALL) && !grammar_accept(&s, OTHER) && !grammar_accept(&s, 'x'));
    CHECK(grammar_accept(&s, '7') && grammar_accept(&s, END) &&
          !s.is_ended); /* its name is the tag's end */
    CHECK(grammar_may_end(&s) && grammar_accept(&s, 'x') && grammar_accept(&s, OTHER));
    /* by ordinary tokens too */
    CHECK(grammar_accept_bytes(&s, STR("<call>")) && !grammar_accept(&s, 'x'));
    CHECK(grammar_accept_bytes(&s, STR("8<end>")) && grammar_accept(&s, END) && s.is_ended);
    grammar_end(&s);
    grammar_unref(g);
    grammar_vocab_unref(v);
}

static uint32_t rng = 11;
static uint32_t pick(uint32_t n)
{
    rng = rng * 1664525u + 1013904223u;
    return (rng >> 8) % n;
}

/* Every token is in the mask if and only if it is accepted. */
static void check_mask(struct grammar_state *s, const uint32_t *words)
{
    for (int32_t id = 0; id < N_TOKENS; id++) {
        struct grammar_state t = {0};
        grammar_copy(&t, s);
        bool may = words[id / 32] >> (id % 32) & 1, does = grammar_accept(&t, id);
        CHECK_MSG(may == does, "token %d: %d in the mask, accepted %d", id, may, does);
        grammar_end(&t);
    }
}

/* Behind every trigger: digits and the end that belongs to it. "\1" stands for the token <call>,
 * "\2" for <end>. */
static void check_text(const char *p)
{
    const char *all = p;
    while (*p) {
        const char *call = strncmp(p, "<call>", 6) == 0 ? p + 6 : *p == 1 ? p + 1 : NULL;
        const char *f = strncmp(p, "<f=a>", 5) == 0 ? p + 5 : NULL;
        bool half = strncmp(p, "<call", 5) == 0 || strncmp(p, "<f=", 3) == 0;
        if (!call && !f) {
            CHECK_MSG(!half, "a trigger without its tag: %s", all);
            p++;
            continue;
        }
        p = call ? call : f;
        size_t n = strspn(p, "0123456789");
        p += n;
        size_t len = call ? *p == 2 ? 1 : 5 : 4;
        bool ends = call ? *p == 2 || strncmp(p, "<end>", 5) == 0 : strncmp(p, "</f>", 4) == 0;
        CHECK_MSG(n && ends, "a tag without its content or end: %s", all);
        if (!n || !ends) return;
        p += len;
    }
}

TEST(random_walks)
{
    struct grammar_vocab *v = vocab();
    struct sl_error e = {0};
    struct grammar *g = compile(CALLS "}", v, &e);
    int n_tags = 0;
    CHECK_MSG(g, "%s", e.text);
    for (int walk = 0; walk < 300; walk++) {
        struct grammar_state s = {0};
        struct buf text = buf_make(1 << 16);
        uint32_t words[(N_TOKENS + 31) / 32];
        grammar_begin(&s, g);
        for (int i = 0; i < 400 && !s.is_ended; i++) {
            CHECK(grammar_mask(&s, words));
            if (walk < 3) check_mask(&s, words);
            int32_t id;
            do { /* mostly what has to do with triggers */
                id = (int32_t)(pick(4) ? 256 + pick(N_PIECES) : pick(256));
                if (id == END && i < 40 && pick(8)) id = '1';
            } while (!(words[id / 32] >> (id % 32) & 1));
            CHECK(grammar_accept(&s, id));
            n_tags += id == CALL;
            if (s.is_ended || id == 0) continue;
            if (is_special(NULL, id))
                buf_putc(&text, id == CALL ? 1 : id == END ? 2 : 3);
            else if (id > 3)
                buf_put_str(&text, bytes_of(NULL, id));
        }
        if (s.is_ended) check_text(buf_cstr(&text));
        buf_free(&text);
        grammar_end(&s);
    }
    CHECK(n_tags > 100);
    grammar_unref(g);
    grammar_vocab_unref(v);
}

/* Tables that are emptied under a state change no answer. */
TEST(small_budget)
{
    struct grammar_vocab *v = vocab();
    struct json_doc *doc;
    struct sl_error e = {0};
    struct grammar *g;
    CHECK(json_parse(&doc, CALLS "}", strlen(CALLS "}"), &json_limits_request, &e) == 0);
    struct grammar_opts o = {.max_bytes = 250000};
    CHECK_MSG(grammar_structural(&g, json_root(doc), v, &o, &e) == 0, "%s", e.text);
    struct grammar_state s = {0};
    grammar_begin(&s, g);
    for (int i = 0; i < 3000; i++) {
        if (i % 500 == 0) grammar_compact(g);
        CHECK(grammar_accept_bytes(&s, i % 7 ? STR("text <cal < \xC3\xBC") : STR("<f=a>123</f>")));
        CHECK(!grammar_accept_bytes(&s, STR("<call>x")) && grammar_may_end(&s));
    }
    grammar_end(&s);
    grammar_unref(g);
    json_free(doc);
    grammar_vocab_unref(v);
}
