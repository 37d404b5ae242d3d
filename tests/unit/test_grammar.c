/* test_grammar.c - grammars by hand: expressions against PCRE2-like verdicts, EBNF in both dialects,
 * choices, tags, schemas' order and whitespace, limits; masks against the plain definition (a token
 * is allowed if and only if accepting its bytes succeeds); tables that are emptied under a state.
 */
#include "base/test.h"

#include "text/grammar_impl.h"

static const struct grammar_opts defaults;

static bool takes(struct grammar *g, const char *text)
{
    struct grammar_state s = {0};
    grammar_begin(&s, g);
    bool ok = grammar_accept_bytes(&s, str_of(text)) && grammar_may_end(&s);
    grammar_end(&s);
    return ok;
}

struct sample {
    const char *source;
    const char *yes[6], *no[6];
};

static void check_samples(const struct sample *v, size_t n,
                          struct grammar *(*compile)(const char *))
{
    for (size_t i = 0; i < n; i++) {
        struct grammar *g = compile(v[i].source);
        if (!g) continue;
        for (int k = 0; k < 6 && v[i].yes[k]; k++)
            CHECK_MSG(takes(g, v[i].yes[k]), "%s should take %s", v[i].source, v[i].yes[k]);
        for (int k = 0; k < 6 && v[i].no[k]; k++)
            CHECK_MSG(!takes(g, v[i].no[k]), "%s should refuse %s", v[i].source, v[i].no[k]);
        grammar_unref(g);
    }
}

static struct grammar *from_regex(const char *source)
{
    struct grammar *g;
    struct sl_error e = {0};
    CHECK_MSG(grammar_regex(&g, str_of(source), NULL, &defaults, &e) == 0, "%s: %s", source,
              e.text);
    return g;
}

static struct grammar *from_ebnf(const char *source)
{
    struct grammar *g;
    struct sl_error e = {0};
    CHECK_MSG(grammar_ebnf(&g, str_of(source), NULL, &defaults, &e) == 0, "%s: %s", source, e.text);
    return g;
}

static struct grammar *from_schema(const char *source)
{
    struct grammar *g = NULL;
    struct json_doc *doc;
    struct sl_error e = {0};
    CHECK_MSG(json_parse(&doc, source, strlen(source), &json_limits_request, &e) == 0, "%s",
              e.text);
    CHECK_MSG(grammar_json_schema(&g, json_root(doc), NULL, &defaults, &e) == 0, "%s: %s %s",
              source, e.param, e.text);
    json_free(doc);
    return g;
}

TEST(regex)
{
    static const struct sample v[] = {
        {"abc|d", {"abc", "d"}, {"", "ab", "abcd"}},
        {"a{2,3}b*", {"aa", "aaabbb"}, {"a", "aaaa"}},
        {"[^a-c]+", {"xyz", "\xC3\xA9"}, {"xa", "", "\xC3"}},
        {"(?:(?!foo)[a-z])+", {0}, {0}},
        {"(?i)ab", {"AB", "aB"}, {"ac"}},
        {"\\d{3}-\\w+\\s?", {"123-a_B ", "000-x"}, {"12-a", "123-"}},
        {"^x$|^y$", {"x", "y"}, {"xy"}},
        {"(?=a.*z)[a-z]{3}", {"abz", "azz"}, {"abc", "bbz", "az"}},
        {"(?!ab)[a-c]+", {"acb", "b"}, {"ab", "abc"}},
        {"[\\u00e0-\\u00ff]\\x41",
         {"\xC3\xA0"
          "A"},
         {"aA"}},
        {"a.c",
         {"abc", "a\xE2\x82\xAC"
                 "c"},
         {"a\nc", "ac"}},
        {"", {""}, {"x"}},
        {"a{,2}", {"", "aa"}, {"aaa"}},
        {"[]", {0}, {""}},
        {"x\\/y\\.", {"x/y."}, {"x/yz"}},
        {"\\p{L}+\\p{N}", {"\xCE\xB1z1"}, {"1a"}},
    };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        if (strcmp(v[i].source, "[]") != 0 && strcmp(v[i].source, "(?:(?!foo)[a-z])+") != 0)
            check_samples(&v[i], 1, from_regex);
}

TEST(regex_refused)
{
    static const struct {
        const char *pattern, *says;
    } v[] = {{"(a", "( without )"},
             {"a)", ") without ("},
             {"[a", "[ without ]"},
             {"*a", "nothing to repeat"},
             {"(a)\\1", "back references"},
             {"a\\b", "word boundaries"},
             {"(?<=a)b", "look-behind"},
             {"a{3,2}", "out of order"},
             {"[z-a]", "out of order"},
             {"[]", "nothing can meet"},
             {"(?:(?!foo)[a-z])+", "repeated"},
             {"a++", "possessive"},
             {"\\", "backslash"}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        struct grammar *g;
        struct sl_error e = {0};
        int code = grammar_regex(&g, str_of(v[i].pattern), NULL, &defaults, &e);
        CHECK_MSG(code == SL_ESCHEMA && !g && strstr(e.text, v[i].says), "%s: %s", v[i].pattern,
                  e.text);
    }
}

TEST(gbnf)
{
    static const struct sample v[] = {
        {"root ::= \"yes\" | \"no\"", {"yes", "no"}, {"", "yesno"}},
        {"root ::= item+ # list\nitem ::= \"- \" [^\\r\\n]+ \"\\n\"",
         {"- a\n- b\n"},
         {"- \n", "a\n"}},
        {"root ::= \"(\" root? \")\"", {"()", "((()))"}, {"(", "(()", ")("}},
        {"root ::= expr\nexpr ::= expr \"+\" term | term\nterm ::= [0-9]{1,3} | \"(\" expr \")\"",
         {"1+2", "(1+20)+3", "7"},
         {"1+", "+1", "1000"}},
        {"root ::= a{2} b{1,} c{0,2}\na::=\"a\"\nb::=\"b\"\nc::=\"c\"",
         {"aab", "aabbcc"},
         {"ab", "aabccc"}},
        {"root ::= (\"x\"\n | \"y\" )\n  . \"\\x41\" \"\\u00e9\"", {"xzA\xC3\xA9"}, {"xA\xC3\xA9"}},
        {"root ::= \"\" | \"a\" root", {"", "aaa"}, {"b"}},
        {"root ::= ws \"{\" ws \"}\"\nws ::= | \" \" | \"\\n\" [ \\t]{0,20}",
         {"{}", " {\n  }"},
         {"{  }"}},
    };
    check_samples(v, sizeof v / sizeof *v, from_ebnf);
}

TEST(lark)
{
    static const struct sample v[] = {
        {"start: \"SELECT \"i NAME (\",\" NAME)* [\" \" where]\nwhere: \"WHERE \" NAME\nNAME: "
         "/[a-z]+/",
         {"SELECT a", "select a,b WHERE c"},
         {"SELECT ", "SELECT a WHERE"}},
        {"?start: sum // rules\nsum: product | sum \"+\" product -> add\nproduct: NUMBER\n%import "
         "common.NUMBER",
         {"1+2.5", "3"},
         {"+", "1+"}},
        {"start: \"a\"..\"f\" ~ 2..3\n | \"[\" start \"]\"", {"ab", "[[fff]]"}, {"a", "[ab", "gg"}},
        {"start: A B?\nA.2: \"x\"~2\nB: /y/i", {"xx", "xxY"}, {"x", "xxyy"}},
    };
    check_samples(v, sizeof v / sizeof *v, from_ebnf);
}

TEST(ebnf_refused)
{
    static const struct {
        const char *source, *says;
    } v[] = {{"root ::= a", "not defined: a"},
             {"root ::= \"a", "without its second"},
             {"other ::= \"a\"", "no rule: root"},
             {"root ::= (\"a\"", "does not close"},
             {"root ::= a\na ::= b \"x\" | \"y\"\nb ::= a | \"z\"", "left recursion"},
             {"root ::= \"a\"\nroot ::= \"b\"", "defined twice"},
             {"root ::= root", "nothing can meet"},
             {"start: \"a\"\n%ignore \" \"", "%ignore"},
             {"", "no rule: start"},
             {"root ::= \"a\"{5,2}", "repeat count"}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        struct grammar *g;
        struct sl_error e = {0};
        int code = grammar_ebnf(&g, str_of(v[i].source), NULL, &defaults, &e);
        CHECK_MSG(code == SL_ESCHEMA && !g && strstr(e.text, v[i].says), "%s: %s", v[i].source,
                  e.text);
    }
}

TEST(choice)
{
    const struct str texts[] = {STR("positive"), STR("positively"), STR("\xE5\xA5\xBD")};
    struct grammar *g;
    struct sl_error e = {0};
    CHECK(grammar_choice(&g, texts, 3, NULL, &defaults, &e) == 0);
    CHECK(takes(g, "positive") && takes(g, "positively") && takes(g, "\xE5\xA5\xBD"));
    CHECK(!takes(g, "positivel") && !takes(g, "") && !takes(g, "negative"));
    grammar_unref(g);
    CHECK(grammar_choice(&g, texts, 0, NULL, &defaults, &e) == SL_ESCHEMA);
}

TEST(schema_text)
{
    static const struct sample v[] = {
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":"
         "\"string\"}},"
         "\"required\":[\"a\"],\"additionalProperties\":false}",
         {"{\"a\":1}", "{\"a\": -20, \"b\": \"x\\n\\u00e9\"}", "{\n  \"a\": 0,\n  \"b\": \"\"\n}"},
         {"{\"b\":\"\",\"a\":1}", "{\"a\":01}", "{\"a\":1,\"a\":1}", "{  \"a\":1}", "{\"a\":1.5}",
          "{}"}},
        {"{\"properties\":{\"z\":true},\"required\":[\"y\"]}",
         {"{\"y\":1}", "{\"z\":[],\"y\":1,\"x\":{}}", "[1, 2]", "null"},
         {"{\"y\":1,\"z\":1}", "{\"x\":1}", "{\"x\":1,\"y\":1}"}},
        {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}",
         {"\"ab\"", "\"\xF0\x9F\x98\x80\\\"\"", "\"\\ud83d\\ude00bc\""},
         {"\"a\"", "\"abcd\"", "\"\\ud83d\\ude00\"", "\"a\n\""}},
        {"{\"minimum\":-1.5,\"exclusiveMaximum\":100,\"type\":\"number\"}",
         {"-1.5", "0", "99.999", "-0.5"},
         {"-1.51", "100", "100.0", "1e1", "-2"}},
        {"{\"type\":\"number\",\"multipleOf\":0.25}",
         {"0.5", "3", "-1.75", "2.50"},
         {"0.3", "1.26"}},
        {"{\"enum\":[\"a\\\"b\",1.5,null,{\"k\":[1,\"x\"]}]}",
         {"\"a\\\"b\"", "1.5", "null", "{\"k\":[1,\"x\"]}", "{\"k\": [1, \"x\"]}"},
         {"\"a\"", "1", "{\"k\":[1]}"}},
        {"{\"type\":\"array\",\"items\":{\"enum\":[1,2,3]},\"uniqueItems\":true,\"minItems\":1}",
         {"[1]", "[3,1,2]"},
         {"[]", "[1,1]", "[1,2,3,1]"}},
        {"{\"type\":\"string\",\"format\":\"date\"}",
         {"\"2024-02-29\"", "\"2000-02-29\"", "\"1999-12-31\""},
         {"\"2023-02-29\"", "\"1900-02-29\"", "\"2023-04-31\"", "\"2023-13-01\""}},
        /* some member is not as patternProperties, propertyNames, additionalProperties want it */
        {"{\"not\":{\"patternProperties\":{\"^a\":{\"type\":\"integer\"}}}}",
         {"{\"a\":\"x\"}", "{\"b\":1,\"ab\":null}", "{\"a\":1,\"aa\":[]}"},
         {"{}", "{\"a\":1}", "{\"b\":\"x\"}", "1", "\"a\""}},
        {"{\"not\":{\"propertyNames\":{\"maxLength\":2}}}",
         {"{\"abc\":1}", "{\"a\":1,\"abcd\":2}"},
         {"{}", "{\"ab\":1}", "7"}},
        {"{\"not\":{\"properties\":{\"a\":true},\"patternProperties\":{\"^b\":true},"
         "\"additionalProperties\":{\"type\":\"integer\"}}}",
         {"{\"c\":\"x\"}", "{\"a\":1,\"c\":null}", "{\"b\":1,\"c\":\"\"}"},
         {"{}", "{\"c\":1}", "{\"a\":\"x\"}", "{\"b\":\"x\"}", "1"}},
        {"{\"enum\":[{\"a\":1},{\"a\":\"x\"},{\"b\":1},3],\"not\":{\"patternProperties\":{\"a\":{"
         "\"type\":"
         "\"integer\"}}}}",
         {"{\"a\":\"x\"}"},
         {"{\"a\":1}", "{\"b\":1}", "3"}},
        {"{\"oneOf\":[{\"patternProperties\":{\"^a\":{\"type\":\"integer\"}}},{\"required\":[\"b\"]"
         "}],"
         "\"type\":\"object\"}",
         {"{}", "{\"a\":1}", "{\"b\":1,\"a\":\"x\"}"},
         {"{\"a\":\"x\"}", "{\"b\":1}", "{\"b\":1,\"a\":2}"}},
    };
    check_samples(v, sizeof v / sizeof *v, from_schema);
}

TEST(schema_refused)
{
    static const struct {
        const char *schema, *param, *says;
        bool is_strict;
    } v[] = {
        {"{\"type\":\"hiccup\"}", "#/type", "type must be", false},
        {"{\"properties\":{\"a/b\":{\"pattern\":\"(\"}}}", "#/properties/a~1b/pattern", "pattern",
         false},
        {"{\"unevaluatedProperties\":false}", "#/unevaluatedProperties", "unevaluatedProperties",
         false},
        {"{\"$ref\":\"#/$defs/x\"}", "#/$ref", "leads to nothing", false},
        {"{\"type\":\"string\",\"enum\":[1]}", "", "nothing can meet", false},
        {"{\"type\":\"array\",\"items\":{\"type\":\"string\"},\"uniqueItems\":true}", "#",
         "uniqueItems", false},
        {"{\"type\":\"object\",\"properties\":{\"a\":{}}}", "#/properties/a", "required", true},
        {"{\"type\":\"array\"}", "#/type", "object", true},
        {"{\"type\":\"object\",\"not\":{}}", "#/not", "strict", true},
        {"[]", "#", "object or a boolean", false},
    };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        struct json_doc *doc;
        struct grammar *g = NULL;
        struct sl_error e = {0};
        struct grammar_opts o = {.is_strict = v[i].is_strict};
        CHECK(json_parse(&doc, v[i].schema, strlen(v[i].schema), &json_limits_request, &e) == 0);
        int code = grammar_json_schema(&g, json_root(doc), NULL, &o, &e);
        CHECK_MSG(code == SL_ESCHEMA && !g && strstr(e.text, v[i].says) &&
                      strcmp(e.param, v[i].param) == 0,
                  "%s: %d %s %s", v[i].schema, code, e.param, e.text);
        json_free(doc);
    }
}

/* ------------------------------------------------------------------ tokens */

/* All single bytes, then some longer tokens; a special one and an end. */
static const char *const pieces[] = {"{\"", "\":",    "\", \"", "true",     "\xC3\xA9", "\xC3",
                                     "abc", "ab\"",   "\\n",    "  ",       "}}",       "],",
                                     "12",  "\": \"", "\n  \"", "\xF0\x9F", "<call>",   "<end>"};
enum {
    N_PIECES = sizeof pieces / sizeof *pieces,
    CALL = 256 + N_PIECES - 2,
    END = 256 + N_PIECES - 1
};

static struct str piece(void *arg, int32_t id)
{
    static char byte;
    (void)arg;
    if (id >= 256) return str_of(pieces[id - 256]);
    byte = (char)id;
    return (struct str){&byte, 1};
}

static bool piece_is_special(void *arg, int32_t id)
{
    (void)arg;
    return id >= CALL;
}

static struct grammar_vocab *small_vocab(void)
{
    const int32_t eos[] = {END};
    struct grammar_vocab_desc d = {.n_vocab = 256 + N_PIECES,
                                   .bytes = piece,
                                   .is_special = piece_is_special,
                                   .eos = eos,
                                   .n_eos = 1};
    struct grammar_vocab *v;
    struct sl_error e;
    CHECK(grammar_vocab_new(&v, &d, &e) == 0);
    return v;
}

/* The mask says of each token what accepting it says. Returns an allowed one, by `choose`. */
static int32_t check_mask(struct grammar_state *s, uint32_t choose)
{
    uint32_t words[(256 + N_PIECES + 31) / 32];
    int32_t allowed[256 + N_PIECES];
    int n = 0;
    bool any = grammar_mask(s, words);
    for (int32_t id = 0; id < 256 + N_PIECES; id++) {
        struct grammar_state try = {0};
        grammar_copy(&try, s);
        bool ok = grammar_accept(&try, id), is_set = words[id / 32] >> (id % 32) & 1;
        CHECK_MSG(ok == is_set, "token %d: mask %d, accept %d", id, is_set, ok);
        if (ok) allowed[n++] = id;
        grammar_end(&try);
    }
    CHECK((n > 0) == any);
    return n ? allowed[choose % (uint32_t)n] : -1;
}

TEST(masks)
{
    static const char *const schemas[] = {"{}", "{\"type\":\"object\"}",
                                          "{\"type\":\"string\",\"minLength\":3,\"maxLength\":5}",
                                          "{\"type\":\"object\",\"properties\":{\"abc\":{\"type\":"
                                          "\"string\",\"pattern\":\"^[a-c\\u00e9]+$\"},"
                                          "\"d\":{\"type\":\"array\",\"items\":{\"type\":"
                                          "\"number\",\"minimum\":3}}},\"required\":[\"abc\"]}",
                                          "{\"type\":\"object\",\"additionalProperties\":{\"type\":"
                                          "\"boolean\"},\"maxProperties\":3}"};
    struct grammar_vocab *v = small_vocab();
    uint32_t seed = 12345;
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++) {
        struct json_doc *doc;
        struct sl_error e = {0};
        struct grammar *g;
        CHECK(json_parse(&doc, schemas[i], strlen(schemas[i]), &json_limits_request, &e) == 0);
        CHECK_MSG(grammar_json_schema(&g, json_root(doc), v, &defaults, &e) == 0, "%s", e.text);
        for (int walk = 0; walk < 8; walk++) {
            struct grammar_state s = {0};
            grammar_begin(&s, g);
            for (int step = 0; step < 40 && !s.is_ended; step++) {
                seed = seed * 1664525u + 1013904223u;
                int32_t id = check_mask(&s, seed >> 8);
                CHECK(id >= 0 && grammar_accept(&s, id));
            }
            grammar_end(&s);
        }
        grammar_unref(g);
        json_free(doc);
    }
    grammar_vocab_unref(v);
}

/* More places than masks are kept for, each seen twice: none is taken for another's. */
TEST(kept_masks)
{
    enum { ITEMS = 3 * KEPT_MASKS / 2, BEHIND = KEPT_MASKS / 2 };
    const char *schema = "{\"type\":\"array\",\"items\":{\"type\":\"boolean\"},\"minItems\":500}";
    struct grammar_vocab *v = small_vocab();
    struct json_doc *doc;
    struct sl_error e = {0};
    struct grammar *g;
    CHECK(json_parse(&doc, schema, strlen(schema), &json_limits_request, &e) == 0);
    CHECK_MSG(grammar_json_schema(&g, json_root(doc), v, &defaults, &e) == 0, "%s", e.text);
    struct grammar_state s[2] = {0};
    for (int k = 0; k < 2; k++) {
        grammar_begin(&s[k], g);
        CHECK(grammar_accept_bytes(&s[k], STR("[")));
    }
    for (int i = 0; i < ITEMS + BEHIND; i++)
        for (int k = 0; k < 2; k++) {
            if (k == 0 ? i >= ITEMS : i < BEHIND) continue;
            check_mask(&s[k], 0);
            CHECK(grammar_accept_bytes(&s[k], i % 2 ? STR("true,") : STR("false,")));
        }
    CHECK(g->n_kept == KEPT_MASKS);
    for (int k = 0; k < 2; k++) grammar_end(&s[k]);
    grammar_unref(g);
    json_free(doc);
    grammar_vocab_unref(v);
}

TEST(tags)
{
    struct grammar_vocab *v = small_vocab();
    struct json_doc *doc;
    struct sl_error e = {0};
    struct grammar *g;
    const char *schema = "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"boolean\"}},"
                         "\"additionalProperties\":false}";
    CHECK(json_parse(&doc, schema, strlen(schema), &json_limits_request, &e) == 0);
    const struct grammar_tag tags[] = {
        {.before = STR("<call>f "), .schema = json_root(doc), .after = STR(";")},
        {.before = STR("<call>g "), .after = STR(";")}};
    struct grammar_tags t = {.tags = tags, .n_tags = 2, .separator = STR("\n"), .min = 1, .max = 2};
    CHECK_MSG(grammar_tagged(&g, &t, v, &defaults, &e) == 0, "%s", e.text);
    struct grammar_state s = {0};
    grammar_begin(&s, g);
    CHECK(!grammar_accept_bytes(&s, STR("<call>")) && !grammar_accept(&s, '<'));
    CHECK(grammar_accept(&s, CALL) && grammar_accept_bytes(&s, STR("f {\"a\":true};")));
    CHECK(grammar_may_end(&s) && grammar_accept_bytes(&s, STR("\n")) && !grammar_may_end(&s));
    CHECK(grammar_accept(&s, CALL) && grammar_accept_bytes(&s, STR("g {\"x\": [1]};")));
    CHECK(grammar_may_end(&s) && !grammar_accept_bytes(&s, STR("\n")) && grammar_accept(&s, END));
    CHECK(s.is_ended && !grammar_accept(&s, 'a'));
    grammar_end(&s);
    grammar_unref(g);
    json_free(doc);
    grammar_vocab_unref(v);
}

TEST(forced)
{
    struct grammar *g =
        from_schema("{\"type\":\"object\",\"properties\":{\"name\":{\"const\":\"x\"}},"
                    "\"required\":[\"name\"],\"additionalProperties\":false}");
    struct grammar_state s = {0};
    struct buf b = buf_make(1000);
    grammar_begin(&s, g);
    CHECK(grammar_accept_bytes(&s, STR("{\"")));
    grammar_forced(&s, 100, &b);
    CHECK(str_is(buf_str(&b), "name\":"));
    buf_free(&b);
    grammar_end(&s);
    grammar_unref(g);
}

/* A budget so small that tables are emptied again and again changes no answer. */
TEST(small_budget)
{
    const char *schema =
        "{\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"string\","
        "\"pattern\":\"^([a-z]+ ){0,50}[a-z]+$\"},\"c\":{\"type\":\"array\",\"items\":"
        "{\"$ref\":\"#/$defs/t\"}}},\"required\":[\"v\"]}},\"$ref\":\"#/$defs/t\"}";
    struct json_doc *doc;
    struct sl_error e = {0};
    struct grammar *g;
    struct grammar_opts o = {.max_bytes = 700000};
    CHECK(json_parse(&doc, schema, strlen(schema), &json_limits_request, &e) == 0);
    CHECK_MSG(grammar_json_schema(&g, json_root(doc), NULL, &o, &e) == 0, "%s", e.text);
    struct grammar_state s = {0}, twin = {0};
    grammar_begin(&s, g);
    grammar_begin(&twin, g);
    for (int i = 0; i < 300; i++) {
        CHECK(grammar_accept_bytes(&s, STR("{\"v\":\"some words of text\",\"c\":[")));
        CHECK(!grammar_accept_bytes(&s, STR("7")));
        CHECK(grammar_bytes(g) <= o.max_bytes);
    }
    for (int i = 0; i < 300; i++) CHECK(grammar_accept_bytes(&s, STR("]}")));
    CHECK(grammar_may_end(&s));
    CHECK(grammar_accept_bytes(&twin, STR("{\"v\":\"a\"}")) && grammar_may_end(&twin));
    grammar_end(&s);
    grammar_end(&twin);
    grammar_unref(g);
    json_free(doc);
}

TEST(limits)
{
    static const struct {
        const char *source;
        bool is_regex;
    } v[] = {{"(((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((a",
              true},
             {"(?=.*a.{30}b)(?=.*b.{30}c)(?=.*c.{30}d).*", true},
             {"(a{1000}){1000}(b{1000}){1000}", true},
             {"(?=((a{1000}){1000}){100}b)a*", true},
             {"root ::= a a a a\na ::= b b b b\nb ::= c c c c\nc ::= d d d d\nd ::= e e e e\ne ::= "
              "f f f f\n"
              "f ::= g g g g\ng ::= h h h h\nh ::= i i i i\ni ::= j j j j\nj ::= k k k k\nk ::= "
              "\"abcdefgh\"",
              false}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        struct grammar *g;
        struct sl_error e = {0};
        struct str s = str_of(v[i].source);
        struct grammar_opts o = {.max_bytes = 8u << 20};
        int code =
            v[i].is_regex ? grammar_regex(&g, s, NULL, &o, &e) : grammar_ebnf(&g, s, NULL, &o, &e);
        if (code < 0) continue; /* refused in time: fine */
        struct grammar_state st = {0};
        grammar_begin(&st, g); /* or slow states are cut short, and memory stays in its budget */
        for (int k = 0; k < 2000 && grammar_accept_bytes(&st, STR("a")); k++)
            CHECK(grammar_bytes(g) <= o.max_bytes);
        grammar_end(&st);
        grammar_unref(g);
    }
}

/* 10,000 distinct schemas, one after the other: nothing is left behind. */
TEST(distinct_schemas)
{
    struct grammar_vocab *v = small_vocab();
    for (int i = 0; i < 10000; i++) {
        char schema[200];
        struct json_doc *doc;
        struct sl_error e = {0};
        struct grammar *g;
        uint32_t words[16];
        snprintf(
            schema, sizeof schema,
            "{\"type\":\"object\",\"properties\":{\"k%d\":{\"type\":\"integer\",\"minimum\":%d}}}",
            i, i);
        CHECK(json_parse(&doc, schema, strlen(schema), &json_limits_request, &e) == 0);
        CHECK(grammar_json_schema(&g, json_root(doc), v, &defaults, &e) == 0);
        struct grammar_state s = {0};
        grammar_begin(&s, g);
        CHECK(grammar_mask(&s, words));
        grammar_end(&s);
        grammar_unref(g);
        json_free(doc);
    }
    grammar_vocab_unref(v);
}

/* Choices that multiply past the compiler's memory are refused, wherever the limit is met. */
TEST(choices_past_the_limit)
{
    for (int n = 8; n < 24; n += 5) {
        struct buf b = buf_make(1 << 16);
        struct json_doc *doc;
        struct grammar *g = NULL;
        struct sl_error e = {0};
        buf_puts(&b, "{\"allOf\":[");
        for (int i = 0; i < n; i++) {
            buf_printf(&b, "%s{\"anyOf\":[", i ? "," : "");
            for (int k = 0; k < 4; k++)
                buf_printf(&b, "%s{\"properties\":{\"p%d_%d\":{\"type\":\"integer\"}}}",
                           k ? "," : "", i, k);
            buf_puts(&b, "]}");
        }
        buf_puts(&b, "]}");
        CHECK(json_parse(&doc, b.p, b.n, &json_limits_request, &e) == 0);
        struct grammar_opts o = {.max_steps = 50000000};
        int code = grammar_json_schema(&g, json_root(doc), NULL, &o, &e);
        CHECK_MSG(code == SL_ETOOLARGE, "%d choices: %d %s", n, code, e.text);
        grammar_unref(g);
        json_free(doc);
        buf_free(&b);
    }
}
