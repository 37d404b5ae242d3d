/* test_model_text.c - what is collected from which file: tokenizer settings, template, stop ids,
 * defaults.
 *
 * The tokenizer and the template engine have tests of their own. Here they are stand-ins that
 * record what they were given; a vocabulary is a list of names, in which "<...>" is special.
 */
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/test.h"
#include "load/model_text.h"

/* ------------------------------------------------------------------ stand-ins */

struct tokenizer {
    char names[64][64];
    int n, eos;
};
struct chat_template {
    int unused;
};

static struct {
    struct tokenizer_config cfg;
    struct vocab_desc vocab;
    char model[32], pre[32], bos[32], eos[32], source[512], chat_bos[32];
    size_t n_vocab;
} seen;

static void note(char out[32], const char *text)
{
    snprintf(out, 32, "%s", text ? text : "(none)");
}

/* A root {"names": [...], "eos": n} stands for a tokenizer.json. */
int tokenizer_from_json(struct tokenizer **out, const json_node *root,
                        const struct tokenizer_config *cfg, struct sl_error *e)
{
    const json_node *names = json_get(root, "names");
    if (!names) return sl_fail(e, SL_EFORMAT, "no names");
    *out = xcalloc(1, sizeof **out);
    for (const json_node *v = json_child(names); v; v = json_next(v))
        snprintf((*out)->names[(*out)->n++], 64, "%s", json_str(v).p);
    const json_node *eos = json_get(root, "eos");
    (*out)->eos = eos ? (int)json_int(eos) : -1;
    seen.cfg = *cfg;
    note(seen.bos, cfg->bos);
    note(seen.eos, cfg->eos);
    return 0;
}

int tokenizer_from_gguf(struct tokenizer **out, const struct vocab_desc *v, struct sl_error *e)
{
    (void)e;
    *out = xcalloc(1, sizeof **out);
    for (size_t i = 0; i < v->n_tokens && i < 64; i++)
        snprintf((*out)->names[(*out)->n++], 64, "%.*s", (int)v->tokens[i].n, v->tokens[i].p);
    (*out)->eos = v->eos;
    seen.vocab = *v;
    note(seen.model, v->model);
    note(seen.pre, v->pre);
    return 0;
}

struct tokenizer *tokenizer_bytes(size_t n_vocab)
{
    struct tokenizer *t = xcalloc(1, sizeof *t);
    t->eos = 257;
    seen.n_vocab = n_vocab;
    return t;
}

void tokenizer_free(struct tokenizer *t)
{
    free(t);
}
int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

int32_t tokenizer_find(const struct tokenizer *t, struct str content)
{
    for (int i = 0; i < t->n; i++)
        if (str_is(content, t->names[i])) return i;
    return -1;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return t->names[id][0] == '<' && t->names[id][1] != '~';
}

int chat_template_open(struct chat_template **out, struct str source,
                       const struct chat_specials *sp, struct sl_error *e)
{
    if (source.n >= 3 && memcmp(source.p, "BAD", 3) == 0)
        return sl_fail(e, SL_EFORMAT, "bad template");
    snprintf(seen.source, sizeof seen.source, "%.*s", (int)source.n, source.p);
    note(seen.chat_bos, sp->bos);
    *out = xcalloc(1, sizeof **out);
    return 0;
}

void chat_template_free(struct chat_template *t)
{
    free(t);
}

/* ------------------------------------------------------------------ folders made for a test */

static char scratch[64];

static const char *in_scratch(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", scratch, name);
    return path;
}

static void put(const char *name, const char *text)
{
    FILE *f = fopen(in_scratch(name), "wb");
    CHECK(f && fwrite(text, 1, strlen(text), f) == strlen(text));
    if (f) fclose(f);
}

static void make_scratch(void)
{
    snprintf(scratch, sizeof scratch, "%s", "/tmp/sluice_test_XXXXXX");
    CHECK(mkdtemp(scratch) != NULL);
    put("config.json", "{\"eos_token_id\":[2,9]}");
    put("tokenizer.json",
        "{\"names\":[\"a\",\"<s>\",\"</s>\",\"<|im_end|>\",\"<~>\",\"<|end|>\"],\"eos\":2}");
}

static void remove_scratch(void)
{
    DIR *d = opendir(scratch);
    for (struct dirent *ent; d && (ent = readdir(d));) unlink(in_scratch(ent->d_name));
    if (d) closedir(d);
    rmdir(scratch);
}

static bool has_eos(const struct model_text *t, int32_t id)
{
    for (int i = 0; i < t->n_eos; i++)
        if (t->eos[i] == id) return true;
    return false;
}

/* ------------------------------------------------------------------ tests */

TEST(folder_without_extras)
{
    struct model_text *t;
    struct sl_error e = {0};
    make_scratch();
    CHECK(model_text_open(&t, scratch, NULL, &e) == 0);
    CHECK(!t->chat && !t->chat_source && isnan(t->defaults.temperature) && t->defaults.top_k == -1);
    CHECK(t->n_eos == 4 && t->eos[0] == 2 && t->eos[1] == 9 && has_eos(t, 3) && has_eos(t, 5));
    CHECK(seen.cfg.add_bos == -1 && seen.cfg.add_eos == -1 && strcmp(seen.bos, "(none)") == 0);
    model_text_close(t);
    unlink(in_scratch("tokenizer.json"));
    CHECK(model_text_open(&t, scratch, NULL, &e) == SL_ENOTFOUND &&
          strstr(e.text, "tokenizer.json"));
    CHECK(model_text_open_dummy(&t, scratch, NULL, &e) == 0 && seen.n_vocab == 0 && t->chat);
    model_text_close(t);
    put("config.json", "{\"vocab_size\":1000}");
    CHECK(model_text_open_dummy(&t, scratch, NULL, &e) == 0 && seen.n_vocab == 1000);
    model_text_close(t);
    put("tokenizer.json", "{");
    CHECK(model_text_open(&t, scratch, NULL, &e) == SL_EFORMAT && !t);
    remove_scratch();
    CHECK(model_text_open(&t, scratch, NULL, &e) == SL_ENOTFOUND);
}

TEST(tokenizer_config)
{
    struct model_text *t;
    make_scratch();
    put("tokenizer_config.json",
        "{\"add_bos_token\":true,\"add_eos_token\":false,\"pad_token\":null,"
        "\"bos_token\":{\"content\":\"<s>\",\"lstrip\":false},\"eos_token\":\"</s>\"}");
    CHECK(model_text_open(&t, scratch, NULL, NULL) == 0);
    CHECK(seen.cfg.add_bos == 1 && seen.cfg.add_eos == 0 && !seen.cfg.pad);
    CHECK(strcmp(seen.bos, "<s>") == 0 && strcmp(seen.eos, "</s>") == 0);
    model_text_close(t);
    remove_scratch();
}

TEST(generation_defaults)
{
    struct model_text *t;
    make_scratch();
    put("generation_config.json",
        "{\"eos_token_id\":7,\"temperature\":0.6,\"top_p\":0.95,\"top_k\":20,\"min_p\":0,"
        "\"typical_p\":2.0,\"repetition_penalty\":\"x\",\"max_new_tokens\":512}");
    CHECK(model_text_open(&t, scratch, NULL, NULL) == 0);
    CHECK(t->defaults.temperature == 0.6 && t->defaults.top_p == 0.95 && t->defaults.min_p == 0.0);
    CHECK(t->defaults.top_k == 20 && t->defaults.max_new_tokens == 512);
    CHECK(isnan(t->defaults.typical_p) &&
          isnan(t->defaults.repetition_penalty)); /* out of range, wrong type */
    CHECK(t->eos[0] == 7 && t->eos[1] == 2 && has_eos(t, 9));
    model_text_close(t);
    put("generation_config.json", "[]");
    CHECK(model_text_open(&t, scratch, NULL, NULL) == SL_EFORMAT);
    remove_scratch();
}

TEST(end_names)
{
    struct model_text *t;
    make_scratch();
    put("tokenizer.json",
        "{\"names\":[\"<|start|>\",\"<|end|>\",\"<|return|>\",\"<|call|>\",\"|im_end|\"]}");
    CHECK(model_text_open(&t, scratch, NULL, NULL) == 0);
    CHECK(t->n_eos == 3 && has_eos(t, 2) && has_eos(t, 3) && has_eos(t, 9) && !has_eos(t, 1));
    model_text_close(t);
    remove_scratch();
}

TEST(template_sources)
{
    static const struct {
        const char *jinja, *config, *json, *given; /* files' texts or NULL; the option */
        const char *want;                          /* source, or NULL: none */
        int code;
    } rows[] = {
        {NULL, NULL, NULL, NULL, NULL, 0},
        {NULL, "{\"chat_template\":\"from config\"}", NULL, NULL, "from config", 0},
        {NULL,
         "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"x\"},"
         "{\"name\":\"default\",\"template\":\"listed\"}]}",
         NULL, NULL, "listed", 0},
        {NULL, "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"x\"}]}", NULL, NULL, NULL,
         0},
        {NULL, "{\"chat_template\":7}", "{\"chat_template\":\"from json\"}", NULL, "from json", 0},
        {"from file", "{\"chat_template\":\"from config\"}", NULL, NULL, "from file", 0},
        {"from file", NULL, NULL, "{{ given }}", "{{ given }}", 0},
        {"from file", NULL, NULL, "/nonexistent/file", NULL, SL_ENOTFOUND},
        {"from file", NULL, NULL, "BAD {{ x }}", NULL, SL_EFORMAT},
        {"BAD", NULL, NULL, NULL, NULL, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct model_text *t;
        make_scratch();
        if (rows[i].jinja) put("chat_template.jinja", rows[i].jinja);
        if (rows[i].config) put("tokenizer_config.json", rows[i].config);
        if (rows[i].json) put("chat_template.json", rows[i].json);
        int code = model_text_open(&t, scratch, rows[i].given, NULL);
        CHECK_MSG(code == rows[i].code, "row %zu: %d", i, code);
        if (code == 0)
            CHECK_MSG(!!t->chat == !!rows[i].want &&
                          (!t->chat || strcmp(seen.source, rows[i].want) == 0),
                      "row %zu: %s", i, seen.source);
        model_text_close(t);
        remove_scratch();
    }
}

TEST(template_from_named_file)
{
    struct model_text *t;
    make_scratch();
    put("mine.txt", "named");
    char path[600];
    snprintf(path, sizeof path, "%s", in_scratch("mine.txt"));
    CHECK(model_text_open(&t, scratch, path, NULL) == 0 && strcmp(seen.source, "named") == 0);
    model_text_close(t);
    remove_scratch();
}

TEST(gguf)
{
    struct model_text *t;
    struct sl_error e = {0};
    CHECK_MSG(model_text_open(&t, TEST_DATA "/gguf/llama_a.gguf", NULL, &e) == 0, "%s", e.text);
    CHECK(strcmp(seen.model, "gpt2") == 0 && strcmp(seen.pre, "gpt-2") == 0);
    CHECK(seen.vocab.n_tokens == 320 && seen.vocab.n_merges == 61 && seen.vocab.types &&
          !seen.vocab.scores);
    CHECK(seen.vocab.bos == 1 && seen.vocab.eos == 2 && seen.vocab.pad == 0 &&
          seen.vocab.unk == -1);
    CHECK(seen.vocab.add_bos == 0 && seen.vocab.add_eos == -1 && seen.vocab.add_space_prefix == -1);
    CHECK(t->n_eos == 1 && t->eos[0] == 2 && t->chat && strncmp(seen.source, "{%- for m", 9) == 0);
    CHECK(strcmp(seen.chat_bos, "<s>") == 0);
    model_text_close(t);
    CHECK(model_text_open(&t, TEST_DATA "/models/llama/config.json", NULL, &e) == SL_EFORMAT);
}

TEST(no_model)
{
    struct model_text *t;
    CHECK(model_text_open(&t, NULL, NULL, NULL) == 0);
    CHECK(t->n_eos == 1 && t->eos[0] == 257 && t->chat && strstr(t->chat_source, "<|assistant|>"));
    model_text_close(t);
    model_text_close(NULL);
}
