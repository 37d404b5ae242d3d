/* fuzz_grammar.c - the first byte picks the kind (schema, expression, EBNF, choice, structural
 * tags), the next four a seed, the rest is the source. What compiles is walked by random tokens out
 * of its masks: never a crash, never a dead end, every token of a mask is accepted, and what a
 * schema's walk ends with is JSON.
 */
#include <stdlib.h>

#include "text/grammar_impl.h"

static const char *const pieces[] = {"{\"",  "\":", "\", \"", "true",   "\xC3\xA9",
                                     "\xC3", "abc", "a\"",    "\\n",    "  ",
                                     "}}",   "],",  "12",     "\": \"", "<end>"};
enum { N_PIECES = sizeof pieces / sizeof *pieces, N_TOKENS = 256 + N_PIECES, END = N_TOKENS - 1 };

static struct str piece(void *arg, int32_t id)
{
    static char byte;
    (void)arg;
    if (id >= 256) return str_of(pieces[id - 256]);
    byte = (char)id;
    return (struct str){&byte, 1};
}

static bool is_end(void *arg, int32_t id)
{
    (void)arg;
    return id == END;
}

static struct grammar_vocab *vocab(void)
{
    static struct grammar_vocab *v;
    static const int32_t eos[] = {END};
    struct grammar_vocab_desc d = {
        .n_vocab = N_TOKENS, .bytes = piece, .is_special = is_end, .eos = eos, .n_eos = 1};
    struct sl_error e;
    if (!v && grammar_vocab_new(&v, &d, &e) < 0) abort();
    return v;
}

enum { TAGS = 16 };

static int compile(struct grammar **g, int kind, struct str source, struct sl_error *e)
{
    const struct grammar_opts o = {
        .max_bytes = 4 << 20, .max_steps = 200000, .is_lenient = kind & 4, .is_compact = kind & 8};
    struct json_doc *doc;
    *g = NULL;
    switch (kind & 3) {
    case 0:
        if (json_parse(&doc, source.p, source.n, &json_limits_request, e) < 0) return SL_EINVAL;
        int code = kind & TAGS ? grammar_structural(g, json_root(doc), vocab(), &o, e)
                               : grammar_json_schema(g, json_root(doc), vocab(), &o, e);
        json_free(doc);
        return code;
    case 1:
        return grammar_regex(g, source, vocab(), &o, e);
    case 2:
        return grammar_ebnf(g, source, vocab(), &o, e);
    default:
        return grammar_choice(g, &source, 1, vocab(), &o, e);
    }
}

/* One allowed token after the other, up to 256. */
static void walk(struct grammar *g, uint32_t seed, struct buf *text)
{
    uint32_t words[(N_TOKENS + 31) / 32];
    struct grammar_state s = {0};
    grammar_begin(&s, g);
    for (int i = 0; i < 256 && !s.is_ended; i++) {
        int n = 0;
        bool any = grammar_mask(&s, words);
        for (int k = 0; k < N_TOKENS; k++) n += words[k / 32] >> (k % 32) & 1;
        if (any != (n > 0)) abort();
        if (n == 0 && g->failed) break; /* its budget is spent */
        if (n == 0) abort();            /* a dead end */
        seed = seed * 1664525u + 1013904223u;
        uint32_t skip = (seed >> 8) % (uint32_t)n;
        int32_t id = 0;
        while (!(words[id / 32] >> (id % 32) & 1) || skip--) id++;
        if (!grammar_accept(&s, id)) {
            if (g->failed) break;
            abort();
        }
        if (id != END) buf_put_str(text, piece(NULL, id));
    }
    if (!s.is_ended) text->n = 0;
    grammar_end(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct grammar *g;
    struct sl_error e;
    if (size < 5 || size > 1 << 13) return 0;
    uint32_t seed;
    memcpy(&seed, data + 1, sizeof seed);
    struct str source = {(const char *)data + 5, size - 5};
    if (compile(&g, data[0], source, &e) < 0) return 0;
    struct buf text = buf_make(1 << 16);
    for (int i = 0; i < 3; i++) {
        text.n = 0;
        walk(g, seed + (uint32_t)i, &text);
        struct json_limits limits = json_limits_file; /* names may repeat, \u0000 may come */
        limits.max_depth = 512;
        struct json_doc *doc;
        if (!text.n || (data[0] & 3) != 0 || data[0] & TAGS) continue;
        if (json_parse(&doc, text.p, text.n, &limits, &e) < 0) abort();
        json_free(doc);
    }
    buf_free(&text);
    grammar_unref(g);
    return 0;
}
