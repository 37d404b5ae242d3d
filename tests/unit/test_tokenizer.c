/* test_tokenizer.c - tokenizers against golden data, the hand-written splitters against the regex
 * engine, streaming against whole decoding, and hostile texts. */
#include "text/tokenizer.h"

#include <time.h>

#include "base/test.h"
#include "base/utf8.h"
#include "text/regex.h"
#include "text/splitter.h"
#include "text/tokenize_tool.h"

static const struct json_limits golden_limits = {
    .max_depth = 32, .max_nodes = 4000000, .max_keys = 100, .allow_nul = true};

static struct json_doc *read_json(const char *dir, const char *name, const struct json_limits *lim)
{
    char path[1000];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    struct buf b = buf_make((size_t)1 << 30);
    for (size_t n = 1; n;) {
        char *at = buf_reserve(&b, 1 << 20);
        n = fread(at, 1, 1 << 20, f);
        b.n += n;
    }
    fclose(f);
    struct json_doc *d = NULL;
    struct sl_error e = {0};
    CHECK_MSG(json_parse(&d, b.p, b.n, lim, &e) == 0, "%s: %s", path, e.text);
    buf_free(&b);
    return d;
}

static struct tokenizer *read_tokenizer(const char *dir)
{
    struct json_doc *d = read_json(dir, "tokenizer.json", &json_limits_file);
    struct tokenizer *t = NULL;
    struct sl_error e = {0};
    if (d) CHECK_MSG(tokenizer_from_json(&t, json_root(d), NULL, &e) == 0, "%s: %s", dir, e.text);
    json_free(d);
    return t;
}

static bool ids_are(const struct ids *ids, const json_node *want)
{
    size_t i = 0;
    for (const json_node *c = json_child(want); c; c = json_next(c), i++)
        if (i >= ids->n || ids->v[i] != json_int(c)) return false;
    return i == ids->n;
}

static bool encodes(const struct tokenizer *t, struct str text, unsigned flags,
                    const json_node *want)
{
    struct ids ids = {0};
    int code = tokenizer_encode(t, text, flags | TOK_PARSE_SPECIAL, &ids, NULL);
    bool same = code == 0 && ids_are(&ids, want);
    ids_free(&ids);
    return same;
}

static bool decodes(const struct tokenizer *t, const json_node *list, bool skip, struct str want)
{
    struct ids ids = {0};
    struct buf out = buf_make(1 << 24);
    for (const json_node *c = json_child(list); c; c = json_next(c))
        ids_push(&ids, (int32_t)json_int(c));
    bool same = tokenizer_decode(t, ids.v, ids.n, skip, &out) == 0 && str_eq(buf_str(&out), want);
    buf_free(&out);
    ids_free(&ids);
    return same;
}

/* All cases of DIR/golden.json. The number that fails. */
static int run_golden(const struct tokenizer *t, const char *dir, bool with_special)
{
    struct json_doc *d = read_json(dir, "golden.json", &golden_limits);
    int bad = 0;
    for (const json_node *c = json_child(json_get(json_root(d), "cases")); c; c = json_next(c)) {
        struct str text = json_str(json_get(c, "text"));
        const json_node *ids = json_get(c, "ids"), *special = json_get(c, "ids_with_special");
        bool ok = encodes(t, text, 0, ids) &&
                  decodes(t, ids, false, json_str(json_get(c, "decoded"))) &&
                  decodes(t, ids, true, json_str(json_get(c, "decoded_skip_special")));
        if (with_special) ok = ok && encodes(t, text, TOK_ADD_SPECIAL, special ? special : ids);
        if (!ok && bad++ < 5) printf("%s: \"%.60s\"\n", dir, text.p);
    }
    json_free(d);
    return bad;
}

static const char *const dirs[] = {
    TEST_DATA "/tokenizer_tiny",        TEST_DATA "/tokenizer_sp",
    SHARED_DATA "/tokenizers/llama2",   SHARED_DATA "/tokenizers/gemma3",
    SHARED_DATA "/tokenizers/llama3_1", SHARED_DATA "/tokenizers/qwen3"};
enum { N_DIRS = sizeof dirs / sizeof *dirs, N_OWN = 2 };

/* ------------------------------------------------------------------ streaming */

static uint64_t rng = 88172645463325252u;
static uint32_t next_random(uint32_t n)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)(rng >> 32) % n;
}

/* Deltas of random ids are valid UTF-8, each, and make up the whole decode. */
static void stream_random(const struct tokenizer *t, const char *name, int rounds)
{
    for (int r = 0; r < rounds; r++) {
        int32_t ids[24];
        size_t n = 1 + next_random(24);
        uint32_t range = (uint32_t)tokenizer_n_vocab(t) + 2;
        for (size_t i = 0; i < n; i++)
            ids[i] = (int32_t)next_random(next_random(2) && range > 260 ? 260 : range);
        bool skip = r & 1;
        struct detok d;
        struct buf whole = buf_make(1 << 20), all = buf_make(1 << 20), delta = buf_make(1 << 20);
        CHECK(tokenizer_decode(t, ids, n, skip, &whole) == 0);
        detok_init(&d, t, skip);
        for (size_t i = 0; i <= n; i++) {
            delta.n = 0;
            if (i < n)
                detok_push(&d, ids[i], &delta);
            else
                detok_finish(&d, &delta);
            CHECK_MSG(utf8_valid(delta.p, delta.n), "%s round %d", name, r);
            buf_put_str(&all, buf_str(&delta));
        }
        CHECK_MSG(str_eq(buf_str(&whole), buf_str(&all)), "%s round %d", name, r);
        buf_free(&whole);
        buf_free(&all);
        buf_free(&delta);
    }
}

TEST(golden_and_streaming)
{
    for (int i = 0; i < N_DIRS; i++) {
        struct tokenizer *t = read_tokenizer(dirs[i]);
        if (!t) {
            CHECK_MSG(i >= N_OWN, "%s is missing", dirs[i]);
            continue;
        }
        CHECK(run_golden(t, dirs[i], true) == 0);
        stream_random(t, dirs[i], 300);
        tokenizer_free(t);
    }
}

TEST(prime_keeps_the_space)
{
    struct tokenizer *t = read_tokenizer(TEST_DATA "/tokenizer_sp");
    struct buf out = buf_make(1000);
    struct ids ids = {0};
    struct detok d;
    CHECK(tokenizer_encode(t, STR("the and"), 0, &ids, NULL) == 0 && ids.n == 2);
    detok_init(&d, t, true);
    detok_prime(&d, ids.v, 1);
    detok_push(&d, ids.v[1], &out);
    detok_finish(&d, &out);
    CHECK_MSG(str_is(buf_str(&out), " and"), "%s", buf_cstr(&out));
    out.n = 0;
    detok_init(&d, t, true);
    detok_push(&d, ids.v[1], &out);
    detok_finish(&d, &out);
    CHECK(str_is(buf_str(&out), "and"));
    out.n = 0;
    tokenizer_token_bytes(t, ids.v[1], &out);
    tokenizer_token_bytes(t, tokenizer_find(t, STR("<0xE4>")), &out);
    CHECK(str_is(buf_str(&out), " and\xE4"));
    buf_free(&out);
    ids_free(&ids);
    tokenizer_free(t);
}

/* ------------------------------------------------------------------ splitters */

static size_t random_text(char *out, size_t max)
{
    static const char *const parts[] = {"a",
                                        "Z",
                                        "the",
                                        " ",
                                        "  ",
                                        "\n",
                                        "\r\n",
                                        "\t",
                                        "1",
                                        "23",
                                        "'",
                                        "'s",
                                        "'LL",
                                        "'\xC5\xBF",
                                        "\xC3\xA9",
                                        "e\xCC\x81",
                                        "!",
                                        "--",
                                        ".",
                                        "\xE4\xBD\xA0",
                                        "\xF0\x9F\x98\x80",
                                        "\xC2\xA0",
                                        "\xE3\x80\x80",
                                        "\xC2\xB2",
                                        "\xD9\xA3",
                                        "\xE2\x80\xA8",
                                        "\xC2\x85",
                                        "\xE0\xA4\xBE"};
    size_t n = 0;
    for (uint32_t k = next_random(20); k-- > 0;) {
        const char *p = parts[next_random(sizeof parts / sizeof *parts)];
        if (n + strlen(p) >= max) break;
        memcpy(out + n, p, strlen(p));
        n += strlen(p);
    }
    return n;
}

TEST(splitters_equal_their_patterns)
{
    const char *const patterns[] = {splitter_gpt2_pattern, splitter_llama3_pattern,
                                    splitter_qwen2_pattern};
    for (int k = 0; k < 3; k++) {
        struct regex *re;
        struct regex_scratch scratch = {0};
        CHECK(regex_compile(&re, str_of(patterns[k]), NULL) == 0);
        enum splitter kind = splitter_of(str_of(patterns[k]));
        for (int r = 0; r < 20000; r++) {
            char text[256];
            struct str s = {text, random_text(text, sizeof text)};
            for (size_t i = 0, start, end; i < s.n; i = end) {
                CHECK(regex_find(re, &scratch, s, i, &start, &end) == 1 && start == i);
                size_t mine = splitter_next(kind, s, i);
                CHECK_MSG(mine == end, "pattern %d at %zu of \"%.*s\": %zu, %zu", k, i, (int)s.n,
                          s.p, mine, end);
                if (mine != end) return;
            }
        }
        regex_scratch_free(&scratch);
        regex_free(re);
    }
}

/* ------------------------------------------------------------------ GGUF */

/* A GGUF description from a tokenizer.json: what a converter would write. */
struct gguf {
    struct vocab_desc d;
    struct str *tokens, *merges;
    float *scores;
    int32_t *types;
};

static void gguf_from_json(struct gguf *g, const json_node *root, bool scores)
{
    const json_node *model = json_get(root, "model"), *vocab = json_get(model, "vocab");
    const json_node *merges = json_get(model, "merges"), *added = json_get(root, "added_tokens");
    size_t n = json_len(vocab) + json_len(added) + 1, top = 0;
    g->tokens = xcalloc(n, sizeof *g->tokens);
    g->scores = xcalloc(n, sizeof *g->scores);
    g->types = xcalloc(n, sizeof *g->types);
    for (const json_node *c = json_child(vocab); c; c = json_next(c)) {
        size_t id = (size_t)json_int(c);
        g->tokens[id] = json_key(c);
        g->types[id] = scores && id >= 3 && id < 259 ? 6 : 1;
        g->scores[id] = -1e9f;
        if (id >= top) top = id + 1;
    }
    for (const json_node *c = json_child(added); c; c = json_next(c)) {
        size_t id = (size_t)json_int(json_get(c, "id"));
        g->tokens[id] = json_str(json_get(c, "content"));
        g->types[id] = json_type(json_get(c, "special")) == JSON_TRUE ? 3 : 4;
        if (id >= top) top = id + 1;
    }
    g->merges = xcalloc(json_len(merges) + 1, sizeof *g->merges);
    for (const json_node *c = json_child(merges); c; c = json_next(c))
        g->merges[g->d.n_merges++] = json_type(c) == JSON_STR ? json_str(c) : STR("a b");
    g->d.tokens = g->tokens;
    g->d.types = g->types;
    g->d.merges = g->merges;
    g->d.n_tokens = top;
    if (scores) g->d.scores = g->scores;
    g->d.bos = g->d.eos = g->d.pad = g->d.unk = -1;
    g->d.add_bos = g->d.add_eos = g->d.add_space_prefix = -1;
}

/* Scores that order the tokens as the merges that make them. */
static void score_by_merges(struct gguf *g, const char *dir)
{
    struct tokenizer *t = read_tokenizer(dir);
    for (size_t i = g->d.n_merges; t && i-- > 0;) {
        struct buf whole = buf_make(1000);
        struct str s = g->merges[i];
        size_t cut = (size_t)((const char *)memchr(s.p, ' ', s.n) - s.p);
        buf_put(&whole, s.p, cut);
        buf_put(&whole, s.p + cut + 1, s.n - cut - 1);
        g->scores[tokenizer_find(t, buf_str(&whole))] = -(float)i;
        buf_free(&whole);
    }
    tokenizer_free(t);
}

static void check_gguf(const char *dir, const char *model, const char *pre, int32_t bos)
{
    struct json_doc *doc = read_json(dir, "tokenizer.json", &json_limits_file);
    if (!doc) return;
    struct gguf g = {.d.n_merges = 0};
    bool llama = strcmp(model, "llama") == 0;
    gguf_from_json(&g, json_root(doc), llama);
    if (llama) score_by_merges(&g, dir);
    g.d.model = model;
    g.d.pre = pre;
    g.d.bos = bos;
    g.d.unk = llama ? 0 : -1;
    struct tokenizer *t = NULL;
    struct sl_error e = {0};
    CHECK_MSG(tokenizer_from_gguf(&t, &g.d, &e) == 0, "%s", e.text);
    if (t) CHECK_MSG(run_golden(t, dir, bos >= 0) == 0, "%s as GGUF", dir);
    tokenizer_free(t);
    free(g.tokens);
    free(g.merges);
    free(g.scores);
    free(g.types);
    json_free(doc);
}

TEST(gguf_kinds)
{
    check_gguf(TEST_DATA "/tokenizer_tiny", "gpt2", "gpt-2", -1);
    check_gguf(SHARED_DATA "/tokenizers/llama3_1", "gpt2", "llama-bpe", 128000);
    check_gguf(SHARED_DATA "/tokenizers/llama2", "llama", NULL, 1);
    struct str token = STR("a");
    struct tokenizer *t;
    struct sl_error e;
    struct vocab_desc d = {.model = "gpt2",
                           .pre = "nonesuch",
                           .n_tokens = 1,
                           .tokens = &token,
                           .bos = -1,
                           .eos = -1,
                           .unk = -1,
                           .pad = -1};
    CHECK(tokenizer_from_gguf(&t, &d, &e) == SL_EFORMAT && strstr(e.text, "nonesuch"));
    d.model = "bert";
    CHECK(tokenizer_from_gguf(&t, &d, &e) == SL_EFORMAT && strstr(e.text, "bert"));
    d = (struct vocab_desc){.model = "llama", .n_tokens = 1, .tokens = &token, .bos = 7};
    CHECK(tokenizer_from_gguf(&t, &d, &e) == SL_EFORMAT);
}

/* Every pattern of the GGUF table compiles. */
TEST(gguf_pre_tokenizers)
{
    static const char *const names[] = {
        "",       "default", "gpt-2",       "llama-bpe",      "qwen2",  "smollm",
        "tekken", "gpt-4o",  "deepseek-v3", "deepseek-coder", "falcon", "chatglm-bpe"};
    struct str token = STR("a");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct vocab_desc d = {.model = "gpt2",
                               .pre = names[i],
                               .n_tokens = 1,
                               .tokens = &token,
                               .bos = -1,
                               .eos = -1,
                               .unk = -1,
                               .pad = -1};
        struct tokenizer *t;
        struct sl_error e = {0};
        struct ids ids = {0};
        CHECK_MSG(tokenizer_from_gguf(&t, &d, &e) == 0, "%s: %s", names[i], e.text);
        CHECK(tokenizer_encode(t, STR("a \xE4\xBD\xA0 a1234 b's\n"), 0, &ids, &e) == 0 &&
              ids.n == 2);
        ids_free(&ids);
        tokenizer_free(t);
    }
}

/* ------------------------------------------------------------------ the rest */

TEST(bytes_stand_in)
{
    struct tokenizer *t = tokenizer_bytes(0);
    struct ids ids = {0};
    struct buf out = buf_make(100);
    CHECK(tokenizer_n_vocab(t) == 261 && tokenizer_bos(t) == 256 && tokenizer_eos(t) == 257);
    CHECK(tokenizer_encode(t, STR("<|user|>h\xC3\xA9\n"), TOK_PARSE_SPECIAL, &ids, NULL) == 0);
    CHECK(ids.n == 5 && ids.v[0] == 258 && ids.v[1] == 'h' && ids.v[2] == 0xC3 && ids.v[4] == '\n');
    CHECK(tokenizer_decode(t, ids.v, ids.n, true, &out) == 0 &&
          str_is(buf_str(&out), "h\xC3\xA9\n"));
    ids.n = 0;
    CHECK(tokenizer_encode(t, STR("<|user|>"), 0, &ids, NULL) == 0 && ids.n == 8);
    CHECK(str_is(tokenizer_special_text(t, 260), "<|system|>") &&
          tokenizer_special_text(t, 65).n == 0);
    CHECK(tokenizer_find(t, STR("<|eos|>")) == 257 && tokenizer_find(t, STR("nope")) == -1);
    struct tokenizer *dummy = tokenizer_bytes(300);
    static const int32_t made[] = {'a', 261, 299};
    out.n = 0;
    CHECK(tokenizer_n_vocab(dummy) == 300 && tokenizer_decode(dummy, made, 3, true, &out) == 0);
    CHECK(str_is(buf_str(&out), "a t261 t299"));
    tokenizer_free(dummy);
    CHECK(tokenizer_is_special(t, 256) && !tokenizer_is_special(t, 255) &&
          !tokenizer_is_special(t, -1));
    ids.n = 0;
    CHECK(tokenizer_encode(t, STR("a\xFF"), 0, &ids, NULL) == 0 && ids.n == 4 && ids.v[1] == 0xEF);
    ids_free(&ids);
    buf_free(&out);
    tokenizer_free(t);
}

TEST(long_pieces_are_fast)
{
    static const char *const units[] = {"a", "\n", " ", "the", "!?", "\xE4\xBD\xA0", "ab'", "<s"};
    for (int i = 0; i < N_OWN; i++) {
        struct tokenizer *t = read_tokenizer(dirs[i]);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            struct buf text = buf_make(1 << 20);
            struct ids ids = {0};
            while (text.n + strlen(units[u]) <= (1 << 18)) buf_puts(&text, units[u]);
            clock_t start = clock();
            CHECK(tokenizer_encode(t, buf_str(&text), TOK_PARSE_SPECIAL, &ids, NULL) == 0);
            double s = (double)(clock() - start) / CLOCKS_PER_SEC;
            CHECK_MSG(s < 3, "%s: 256 KiB of \"%s\" took %.1f s", dirs[i], units[u], s);
            buf_free(&text);
            ids_free(&ids);
        }
        tokenizer_free(t);
    }
}

TEST(refuses_what_it_cannot_do)
{
#define BPE "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]}"
    static const char *const bad[] = {
        "{}",
        "[]",
        "{\"model\":7}",
        "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"ab\"]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999999},\"merges\":[]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}",
        "{" BPE ",\"normalizer\":{\"type\":\"Precompiled\"}}",
        "{" BPE ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"}}}",
        "{" BPE ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"}}}",
        "{" BPE ",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}}",
        "{" BPE ",\"decoder\":{\"type\":\"CTC\"}}",
        "{" BPE ",\"post_processor\":{\"type\":\"Strange\"}}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct json_doc *d;
        struct tokenizer *t;
        struct sl_error e = {0};
        CHECK(json_parse(&d, bad[i], strlen(bad[i]), &json_limits_file, &e) == 0);
        CHECK_MSG(tokenizer_from_json(&t, json_root(d), NULL, &e) == SL_EFORMAT && !t, "%s",
                  bad[i]);
        CHECK_MSG(e.text[0] != '\0', "%s", bad[i]);
        json_free(d);
    }
}

TEST(config_sets_affixes)
{
    struct json_doc *d = read_json(TEST_DATA "/tokenizer_sp", "tokenizer.json", &json_limits_file);
    static const struct {
        int bos, eos;
        size_t n;
    } rows[] = {{-1, -1, 2}, {0, -1, 1}, {1, -1, 2}, {1, 1, 3}, {0, 1, 2}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer_config cfg = {
            .add_bos = rows[i].bos, .add_eos = rows[i].eos, .bos = "<s>", .eos = "</s>"};
        struct tokenizer *t;
        struct ids ids = {0};
        CHECK(tokenizer_from_json(&t, json_root(d), &cfg, NULL) == 0);
        CHECK(tokenizer_bos(t) == 1 && tokenizer_eos(t) == 2);
        CHECK(tokenizer_encode(t, STR("the"), TOK_ADD_SPECIAL, &ids, NULL) == 0);
        CHECK_MSG(ids.n == rows[i].n, "row %zu: %zu ids", i, ids.n);
        ids_free(&ids);
        tokenizer_free(t);
    }
    json_free(d);
}

TEST(jsonl_tool)
{
    static const char input[] =
        "{\"text\":\"<s>a\xE2\x80\xA8\",\"add_special_tokens\":false}\n{\"text\":1}\n";
    struct tokenizer *t = tokenizer_bytes(0);
    char answer[1000] = "";
    FILE *in = fmemopen((void *)(uintptr_t)input, sizeof input - 1, "r"),
         *out = fmemopen(answer, sizeof answer, "w");
    CHECK(tokenize_jsonl(t, in, out) == 1);
    fclose(in);
    fclose(out);
    CHECK_MSG(strcmp(answer, "{\"ids\":[60,115,62,97,226,128,168],\"decoded\":\"<s>a\\u2028\","
                             "\"decoded_skip_special\":\"<s>a\\u2028\"}\n"
                             "{\"error\":\"\\\"text\\\" must be a string\"}\n") == 0,
              "%s", answer);
    tokenizer_free(t);
}
