/* bench_grammar.c - structured output over real schemas: bench_grammar TOKENIZER JSONL [OUT].
 *
 * TOKENIZER is a folder with tokenizer.json; JSONL has {"name", "schema", "tests": [{"valid",
 * "data"}]} a line (MaskBench). Compiles every schema; valid instances must be accepted, invalid
 * ones refused, byte by byte; then the valid ones are walked token by token with a mask before each.
 * Prints CPU time per compile and per mask. With OUT, also walks 20 random outputs a schema and
 * writes them as {"name", "schema", "output"} lines for tests/tools/check_outputs.py.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../tests/unit/grammar_fixture.h"
#include "text/tokenizer.h"

enum { LINE_MAX_BYTES = 4 << 20, RANDOM_WALKS = 20, RANDOM_TOKENS = 400 };

struct times {
    double *v;
    size_t n, cap;
};

struct bench {
    struct tokenizer *tok;
    struct grammar_vocab *v;
    uint32_t *words;
    struct times compile, mask;
    int schemas, compiled, wrong, instances, no_token, bad_walks, ended;
    struct buf token;
    FILE *out;
    uint64_t seed;
    bool verbose;
};

static double now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec * 1e6 + 1e-3 * (double)ts.tv_nsec;
}

static void add_time(struct times *t, double us)
{
    if (t->n == t->cap) t->v = xrealloc(t->v, (t->cap = t->cap ? t->cap * 2 : 1024) * sizeof *t->v);
    t->v[t->n++] = us;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *what, struct times *t)
{
    double sum = 0;
    if (!t->n) return;
    qsort(t->v, t->n, sizeof *t->v, by_value);
    for (size_t i = 0; i < t->n; i++) sum += t->v[i];
    printf("%s: n %zu, us: average %.1f, p50 %.1f, p75 %.1f, p95 %.1f, p99 %.1f, p99.9 %.1f, max "
           "%.0f\n",
           what, t->n, sum / (double)t->n, t->v[t->n / 2], t->v[t->n * 3 / 4],
           t->v[t->n * 95 / 100], t->v[t->n * 99 / 100], t->v[t->n * 999 / 1000], t->v[t->n - 1]);
}

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static struct str token_bytes(void *arg, int32_t id)
{
    struct bench *b = arg;
    b->token.n = 0;
    tokenizer_token_bytes(b->tok, id, &b->token);
    return buf_str(&b->token);
}

static bool is_special(void *arg, int32_t id)
{
    return tokenizer_is_special(((struct bench *)arg)->tok, id);
}

static bool is_set(const uint32_t *words, int32_t id)
{
    return words[id / 32] >> (id % 32) & 1;
}

/* Walk a text by its own tokens; every one must be in its mask, and the end at the end. */
static void walk_text(struct bench *b, struct grammar *g, struct str text, const char *name)
{
    struct ids ids = {0};
    struct sl_error e;
    struct grammar_state s = {0};
    if (tokenizer_encode(b->tok, text, 0, &ids, &e) < 0) return;
    grammar_begin(&s, g);
    for (size_t i = 0; i <= ids.n; i++) {
        double start = now_us();
        grammar_mask(&s, b->words);
        double spent = now_us() - start;
        add_time(&b->mask, spent);
        if (b->verbose && spent > 500)
            printf("slow %.0f %s at token %zu: %.*s\n", spent, name, i,
                   (int)(text.n < 60 ? text.n : 60), text.p);
        if (i == ids.n) {
            b->no_token += !grammar_may_end(&s);
        } else if (!is_set(b->words, ids.v[i]) || !grammar_accept(&s, ids.v[i])) {
            printf("%s: token %zu of a valid text is not allowed\n", name, i);
            b->no_token++;
            break;
        }
    }
    grammar_end(&s);
    ids_free(&ids);
}

/* A set bit, by a random start and direction; closing quotes and brackets are favoured. */
static int32_t pick(struct bench *b, int n_set)
{
    static const char *const closers[] = {"\"", "}", "]", "\",", "}]", "\"}"};
    size_t n = grammar_vocab_words(b->v) * 32;
    if (next_random(&b->seed) % 3 == 0)
        for (int i = 0; i < 6; i++) {
            int32_t id = tokenizer_find(b->tok, str_of(closers[i]));
            if (id >= 0 && is_set(b->words, id)) return id;
        }
    size_t skip = next_random(&b->seed) % (size_t)n_set;
    for (size_t id = 0; id < n; id++)
        if (is_set(b->words, (int32_t)id) && skip-- == 0) return (int32_t)id;
    return -1;
}

static void random_walk(struct bench *b, struct grammar *g, const json_node *line)
{
    struct grammar_state s = {0};
    struct buf text = buf_make(1u << 20), record = buf_make(8u << 20);
    grammar_begin(&s, g);
    for (int i = 0; i < RANDOM_TOKENS && !s.is_ended; i++) {
        int n = 0;
        grammar_mask(&s, b->words);
        for (size_t k = 0; k < grammar_vocab_words(b->v); k++) n += __builtin_popcount(b->words[k]);
        int32_t id = n ? pick(b, n) : -1;
        if (id < 0 || !grammar_accept(&s, id)) {
            printf("%s: dead end (%d allowed) after %.*s\n", json_str(json_get(line, "name")).p, n,
                   (int)text.n, text.p);
            b->bad_walks++;
            break;
        }
        if (!s.is_ended) buf_put_str(&text, token_bytes(b, id));
    }
    if (s.is_ended) {
        b->ended++;
        buf_puts(&record, "{\"name\":");
        json_put_node(&record, json_get(line, "name"));
        buf_puts(&record, ",\"schema\":");
        json_put_node(&record, json_get(line, "schema"));
        buf_puts(&record, ",\"output\":");
        json_put_str(&record, buf_str(&text));
        buf_puts(&record, "}\n");
        fwrite(record.p, 1, record.n, b->out);
    }
    grammar_end(&s);
    buf_free(&text);
    buf_free(&record);
}

static void one_instance(struct bench *b, struct grammar *g, const json_node *line,
                         const json_node *test)
{
    const char *name = json_str(json_get(line, "name")).p;
    const json_node *schema = json_get(line, "schema");
    bool valid = json_type(json_get(test, "valid")) == JSON_TRUE;
    const json_node *data = json_get(test, "data");
    struct buf compact = buf_make(1u << 20), spaced = buf_make(1u << 20);
    bool takes = takes_value(g, schema, data, true, &compact);
    bool takes_spaced = takes_value(g, schema, data, false, &spaced);
    b->instances++;
    if (takes != valid || takes_spaced != valid) {
        struct buf text = buf_make(1u << 20);
        json_put_node(&text, data);
        b->wrong++;
        printf("wrong: %s: valid %d, takes %d %d: %.*s\n", name, valid, takes, takes_spaced,
               (int)(text.n < 1500 ? text.n : 1500), text.p);
        buf_free(&text);
    } else if (valid) {
        walk_text(b, g, buf_str(&compact), name);
        walk_text(b, g, buf_str(&spaced), name);
    }
    buf_free(&compact);
    buf_free(&spaced);
}

static void one_schema(struct bench *b, const json_node *line)
{
    const char *name = json_str(json_get(line, "name")).p;
    struct grammar *g;
    struct sl_error e = {0};
    struct grammar_opts o = {0};
    double start = now_us();
    int code = grammar_json_schema(&g, json_get(line, "schema"), b->v, &o, &e);
    b->schemas++;
    if (code < 0) {
        printf("refused: %s: %s: %s\n", name, e.param, e.text);
        return;
    }
    add_time(&b->compile, now_us() - start);
    b->compiled++;
    const json_node *tests = json_get(line, "tests");
    for (const json_node *t = json_child(tests); t; t = json_next(t)) one_instance(b, g, line, t);
    for (int i = 0; b->out && i < RANDOM_WALKS; i++) random_walk(b, g, line);
    grammar_unref(g);
}

static void begin_vocab(struct bench *b, const char *folder)
{
    char path[4096];
    struct sl_error e = {0};
    struct json_doc *doc;
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    FILE *f = fopen(path, "rb");
    if (!f) exit(EXIT_FAILURE);
    char *p = xmalloc(64 << 20);
    size_t n = fread(p, 1, 64 << 20, f);
    fclose(f);
    if (json_parse(&doc, p, n, &json_limits_file, &e) < 0 ||
        tokenizer_from_json(&b->tok, json_root(doc), NULL, &e) < 0) {
        fprintf(stderr, "%s: %s\n", path, e.text);
        exit(EXIT_FAILURE);
    }
    free(p);
    json_free(doc);
    const int32_t eos[] = {tokenizer_find(b->tok, STR("<|eot_id|>")), tokenizer_eos(b->tok)};
    struct grammar_vocab_desc d = {.n_vocab = tokenizer_n_vocab(b->tok),
                                   .bytes = token_bytes,
                                   .is_special = is_special,
                                   .arg = b,
                                   .eos = eos,
                                   .n_eos = 2};
    b->token = buf_make(1u << 20);
    double start = now_us();
    if (grammar_vocab_new(&b->v, &d, &e) < 0) exit(EXIT_FAILURE);
    printf("vocabulary: %zu tokens, %.0f ms, %.1f MB\n", d.n_vocab, (now_us() - start) / 1e3,
           (double)grammar_vocab_bytes(b->v) / 1e6);
    b->words = xcalloc(grammar_vocab_words(b->v), sizeof *b->words);
}

int main(int argc, char **argv)
{
    struct bench b = {.seed = 88172645463325252ull, .verbose = argc > 4};
    if (argc < 3) {
        fprintf(stderr, "bench_grammar TOKENIZER JSONL [OUT]\n");
        return EXIT_FAILURE;
    }
    begin_vocab(&b, argv[1]);
    FILE *f = fopen(argv[2], "rb");
    if (argc > 3) b.out = fopen(argv[3], "wb");
    char *line = xmalloc(LINE_MAX_BYTES);
    while (f && fgets(line, LINE_MAX_BYTES, f)) {
        struct json_doc *doc;
        struct sl_error e = {0};
        if (json_parse(&doc, line, strlen(line), &json_limits_file, &e) < 0) {
            printf("not JSON: %s\n", e.text);
            continue;
        }
        one_schema(&b, json_root(doc));
        json_free(doc);
    }
    printf("schemas %d, compiled %d (%.1f %%), instances %d, wrong %d, tokens missing %d\n",
           b.schemas, b.compiled, 100.0 * b.compiled / b.schemas, b.instances, b.wrong, b.no_token);
    if (b.out) printf("random outputs: %d ended, %d dead ends\n", b.ended, b.bad_walks);
    if (b.out) fclose(b.out);
    print_times("compile", &b.compile);
    print_times("mask", &b.mask);
    return b.wrong || b.no_token || b.bad_walks ? EXIT_FAILURE : EXIT_SUCCESS;
}
