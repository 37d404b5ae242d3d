/* model_text.c - collects what the io side needs of a model: tokenizer, chat template, stop ids,
 * defaults.
 *
 * Files of a folder are opened by source_open's rule, so that a downloaded folder cannot name files
 * outside itself. A chat template that the operator names must compile; the model's own may be
 * broken without taking completions away: then one line is logged and the model counts as having
 * none.
 */
#include "load/model_text.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/log.h"
#include "load/gguf.h"

enum {
    TOKENIZER_BYTES_MAX = 256 << 20, /* gemma3's tokenizer.json has 33 MB */
    SMALL_BYTES_MAX = 16 << 20,      /* the other JSON files */
    TEMPLATE_BYTES_MAX = 1 << 20,    /* jinja_compile's own limit */
    VOCAB_MAX = 1 << 20,
    MERGES_MAX = 2 << 20,
    TOKEN_BYTES_MAX = 4096,
    TEXT_BYTES_MAX = 8 << 20, /* the strings kept below */
};

struct text_impl {
    struct model_text pub; /* first: the public pointer is the whole */
    struct arena arena;    /* owns chat_source and the specials' texts */
    struct chat_specials specials;
    bool is_dummy;    /* a folder needs no tokenizer */
    bool is_stand_in; /* and has none */
};

/* For the stand-in: roles as the byte tokenizer's special tokens. */
static const char sim_template[] = "{% for m in messages %}"
                                   "{{ '<|' + (m.role if m.role in ['system', 'assistant'] else "
                                   "'user') + '|>' + (m.content or '') }}"
                                   "{% endfor %}"
                                   "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/* Names of tokens that end a turn (or the text). They count only if the vocabulary marks them
 * special, so that plain text cannot be one. <|end|> is left out where the vocabulary has
 * <|return|>: harmony models end a channel's message with it and go on. */
static const char *const end_names[] = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>",
                                        "<|end|>",    "<|return|>", "<|call|>",   "<|endoftext|>"};

/* Numbers of generation_config.json and the range in which they mean something; others are ignored.
 */
static const struct default_key {
    const char *name;
    double least, most;
    size_t at;
} real_keys[] =
    {
        {"temperature", 0.0, 100.0, offsetof(struct generation_defaults, temperature)},
        {"top_p", 1e-6, 1.0, offsetof(struct generation_defaults, top_p)},
        {"min_p", 0.0, 1.0, offsetof(struct generation_defaults, min_p)},
        {"typical_p", 1e-6, 1.0, offsetof(struct generation_defaults, typical_p)},
        {"repetition_penalty", 1e-3, 100.0,
         offsetof(struct generation_defaults, repetition_penalty)},
},
  int_keys[] = {
      {"top_k", 0.0, 1e9, offsetof(struct generation_defaults, top_k)},
      {"max_new_tokens", 1.0, 1e9, offsetof(struct generation_defaults, max_new_tokens)},
};

/* ------------------------------------------------------------------ small parts */

static void add_eos(struct model_text *t, int64_t id)
{
    if (id < 0 || id > INT32_MAX || t->n_eos == MODEL_EOS_MAX) return;
    for (int i = 0; i < t->n_eos; i++)
        if (t->eos[i] == id) return;
    t->eos[t->n_eos++] = (int32_t)id;
}

/* eos_token_id: an integer or a list of them. */
static void add_eos_json(struct model_text *t, const json_node *v)
{
    if (json_type(v) == JSON_INT) add_eos(t, json_int(v));
    if (json_type(v) != JSON_ARR) return;
    for (const json_node *c = json_child(v); c; c = json_next(c))
        if (json_type(c) == JSON_INT) add_eos(t, json_int(c));
}

static int32_t find_special(const struct tokenizer *tok, const char *name)
{
    int32_t id = tokenizer_find(tok, str_of(name));
    return id >= 0 && tokenizer_is_special(tok, id) ? id : -1;
}

static void add_eos_names(struct model_text *t)
{
    bool harmony = find_special(t->tok, "<|return|>") >= 0;
    add_eos(t, tokenizer_eos(t->tok));
    for (size_t i = 0; i < sizeof end_names / sizeof *end_names; i++)
        if (!harmony || strcmp(end_names[i], "<|end|>") != 0)
            add_eos(t, find_special(t->tok, end_names[i]));
}

static void read_defaults(struct generation_defaults *d, const json_node *root)
{
    for (size_t i = 0; i < sizeof real_keys / sizeof *real_keys; i++) {
        const json_node *v = json_get(root, real_keys[i].name);
        double x = json_is_num(v) ? json_num(v) : NAN;
        if (x >= real_keys[i].least && x <= real_keys[i].most)
            memcpy((char *)d + real_keys[i].at, &x, sizeof x);
    }
    for (size_t i = 0; i < sizeof int_keys / sizeof *int_keys; i++) {
        const json_node *v = json_get(root, int_keys[i].name);
        int64_t x = json_type(v) == JSON_INT ? json_int(v) : -1;
        if ((double)x >= int_keys[i].least && (double)x <= int_keys[i].most)
            memcpy((char *)d + int_keys[i].at, &x, sizeof x);
    }
}

/* A kept copy, or NULL for no text (or one past the arena's bound). */
static const char *keep(struct text_impl *m, struct str s)
{
    return s.p ? arena_strdup(&m->arena, s) : NULL;
}

/* bos_token and its kin: a string, or an object with `content`. */
static const char *keep_token(struct text_impl *m, const json_node *cfg, const char *key)
{
    const json_node *v = json_get(cfg, key);
    if (json_type(v) == JSON_OBJ) v = json_get(v, "content");
    return json_type(v) == JSON_STR ? keep(m, json_str(v)) : NULL;
}

static int flag_of(const json_node *cfg, const char *key)
{
    enum json_type t = json_type(json_get(cfg, key));
    return t == JSON_TRUE ? 1 : t == JSON_FALSE ? 0 : -1;
}

/* ------------------------------------------------------------------ chat template */

/* chat_template in JSON: a string, or a list of {name, template} whose "default" counts. */
static const char *keep_json_template(struct text_impl *m, const json_node *cfg)
{
    const json_node *v = json_get(cfg, "chat_template");
    for (const json_node *c = json_type(v) == JSON_ARR ? json_child(v) : NULL; c;
         c = json_next(c)) {
        const json_node *name = json_get(c, "name");
        if (json_type(name) == JSON_STR && str_is(json_str(name), "default"))
            v = json_get(c, "template");
    }
    return json_type(v) == JSON_STR ? keep(m, json_str(v)) : NULL;
}

static int keep_file(struct text_impl *m, int dir, const char *name, struct sl_error *e)
{
    struct buf text;
    int code = source_slurp_at(dir, name, TEMPLATE_BYTES_MAX, &text, e);
    if (code == 0) m->pub.chat_source = keep(m, (struct str){text.n ? text.p : "", text.n});
    buf_free(&text);
    return code;
}

/* chat_template.jinja, then tokenizer_config.json's key, then chat_template.json's. */
static int find_folder_template(struct text_impl *m, int dir, const json_node *cfg,
                                struct sl_error *e)
{
    int code = keep_file(m, dir, "chat_template.jinja", e);
    if (code != SL_ENOTFOUND) return code;
    m->pub.chat_source = keep_json_template(m, cfg);
    if (m->pub.chat_source) return 0;
    struct json_doc *doc;
    code = source_json(&doc, dir, "chat_template.json", SMALL_BYTES_MAX, &json_limits_file, e);
    if (code < 0) return code == SL_ENOTFOUND ? 0 : code;
    m->pub.chat_source = keep_json_template(m, json_root(doc));
    json_free(doc);
    return 0;
}

/* The operator's word: Jinja text if it looks like it, else a file's name. */
static int override_template(struct text_impl *m, const char *given, struct sl_error *e)
{
    bool is_text = strstr(given, "{{") || strstr(given, "{%") || strchr(given, '\n');
    if (!is_text) return keep_file(m, AT_FDCWD, given, e);
    m->pub.chat_source = keep(m, str_of(given));
    return 0;
}

static int open_template(struct text_impl *m, const char *given, struct sl_error *e)
{
    struct sl_error why = {0};
    if (given) TRY(override_template(m, given, e));
    if (!m->pub.chat_source) return 0;
    int code = chat_template_open(&m->pub.chat, str_of(m->pub.chat_source), &m->specials, &why);
    if (code == 0) return 0;
    m->pub.chat = NULL;
    if (given) return sl_fail(e, code, "chat template: %.200s", why.text);
    log_warn("load", "the model's chat template is not usable: %s", why.text);
    m->pub.chat_source = NULL;
    return 0;
}

/* ------------------------------------------------------------------ Hugging Face folder */

/* A file that may be absent: then *out is NULL. */
static int optional_json(struct json_doc **out, int dir, const char *name, struct sl_error *e)
{
    int code = source_json(out, dir, name, SMALL_BYTES_MAX, &json_limits_file, e);
    return code == SL_ENOTFOUND ? 0 : code;
}

static const json_node *root_of(const struct json_doc *d)
{
    return d ? json_root(d) : NULL;
}

static int open_stand_in(struct text_impl *m, int dir, struct sl_error *e)
{
    struct json_doc *doc;
    TRY(optional_json(&doc, dir, "config.json", e));
    const json_node *v = json_get(root_of(doc), "vocab_size");
    int64_t n = json_type(v) == JSON_INT ? json_int(v) : 0;
    m->pub.tok = tokenizer_bytes(n > 0 ? (size_t)n : 0);
    m->is_stand_in = true;
    json_free(doc);
    return 0;
}

static int open_tokenizer(struct text_impl *m, int dir, const json_node *cfg, struct sl_error *e)
{
    struct json_doc *doc;
    int code = source_json(&doc, dir, "tokenizer.json", TOKENIZER_BYTES_MAX, &json_limits_file, e);
    if (code == SL_ENOTFOUND && m->is_dummy) return open_stand_in(m, dir, e);
    if (code == SL_ENOTFOUND)
        return sl_fail(e, code,
                       "the model has no tokenizer.json (other tokenizer files are not read)");
    TRY(code);
    struct tokenizer_config tc = {.add_bos = flag_of(cfg, "add_bos_token"),
                                  .add_eos = flag_of(cfg, "add_eos_token"),
                                  .bos = m->specials.bos,
                                  .eos = m->specials.eos,
                                  .pad = m->specials.pad,
                                  .unk = m->specials.unk};
    code = tokenizer_from_json(&m->pub.tok, json_root(doc), &tc, e);
    json_free(doc);
    return code;
}

static int read_stops(struct text_impl *m, int dir, struct sl_error *e)
{
    struct json_doc *gen = NULL, *config = NULL;
    int code = optional_json(&gen, dir, "generation_config.json", e);
    if (code == 0) code = optional_json(&config, dir, "config.json", e);
    if (code == 0) {
        add_eos_json(&m->pub, json_get(root_of(gen), "eos_token_id"));
        add_eos_json(&m->pub, json_get(root_of(config), "eos_token_id"));
        read_defaults(&m->pub.defaults, root_of(gen));
    }
    json_free(gen);
    json_free(config);
    return code;
}

static int open_folder(struct text_impl *m, int dir, struct sl_error *e)
{
    struct json_doc *doc = NULL;
    TRY(optional_json(&doc, dir, "tokenizer_config.json", e));
    const json_node *cfg = root_of(doc);
    m->specials = (struct chat_specials){.bos = keep_token(m, cfg, "bos_token"),
                                         .eos = keep_token(m, cfg, "eos_token"),
                                         .pad = keep_token(m, cfg, "pad_token"),
                                         .unk = keep_token(m, cfg, "unk_token")};
    int code = open_tokenizer(m, dir, cfg, e);
    if (code == 0) code = find_folder_template(m, dir, cfg, e);
    if (code == 0 && m->is_stand_in && !m->pub.chat_source)
        m->pub.chat_source = keep(m, str_of(sim_template));
    json_free(doc);
    return code < 0 ? code : read_stops(m, dir, e);
}

/* ------------------------------------------------------------------ GGUF */

struct vocab_arrays { /* owned; what a vocab_desc borrows */
    struct str *tokens, *merges;
    float *scores;
    int32_t *types;
};

static int read_vocab(const struct gguf *g, struct vocab_desc *d, struct vocab_arrays *a,
                      struct sl_error *e)
{
    size_t n = 0;
    if (!gguf_strings(g, "tokenizer.ggml.tokens", VOCAB_MAX, &a->tokens, &d->n_tokens) ||
        !d->n_tokens)
        return sl_fail(e, SL_EFORMAT,
                       "GGUF metadata: tokenizer.ggml.tokens is missing or too long");
    for (size_t i = 0; i < d->n_tokens; i++)
        if (a->tokens[i].n > TOKEN_BYTES_MAX)
            return sl_fail(e, SL_EFORMAT, "GGUF metadata: token %zu has %zu bytes", i,
                           a->tokens[i].n);
    if (gguf_find(g, "tokenizer.ggml.scores") &&
        (!gguf_floats(g, "tokenizer.ggml.scores", VOCAB_MAX, &a->scores, &n) || n != d->n_tokens))
        return sl_fail(e, SL_EFORMAT,
                       "GGUF metadata: tokenizer.ggml.scores is not one float a token");
    if (gguf_find(g, "tokenizer.ggml.token_type") &&
        (!gguf_ints(g, "tokenizer.ggml.token_type", VOCAB_MAX, &a->types, &n) || n != d->n_tokens))
        return sl_fail(e, SL_EFORMAT,
                       "GGUF metadata: tokenizer.ggml.token_type is not one int a token");
    if (gguf_find(g, "tokenizer.ggml.merges") &&
        !gguf_strings(g, "tokenizer.ggml.merges", MERGES_MAX, &a->merges, &d->n_merges))
        return sl_fail(e, SL_EFORMAT, "GGUF metadata: tokenizer.ggml.merges is no list of strings");
    d->tokens = a->tokens;
    d->scores = a->scores;
    d->types = a->types;
    d->merges = a->merges;
    return 0;
}

/* A token's id, or -1 when the file names none or one outside the vocabulary. */
static int32_t token_id(const struct gguf *g, const char *key, size_t n_tokens)
{
    int64_t id = gguf_int(g, key);
    return id >= 0 && (uint64_t)id < n_tokens ? (int32_t)id : -1;
}

static const char *token_text(struct text_impl *m, const struct vocab_desc *d, int32_t id)
{
    return id >= 0 ? keep(m, d->tokens[id]) : NULL;
}

static int open_gguf_vocab(struct text_impl *m, const struct gguf *g, struct vocab_arrays *a,
                           struct sl_error *e)
{
    struct vocab_desc d = {.add_bos = gguf_bool(g, "tokenizer.ggml.add_bos_token"),
                           .add_eos = gguf_bool(g, "tokenizer.ggml.add_eos_token"),
                           .add_space_prefix = gguf_bool(g, "tokenizer.ggml.add_space_prefix")};
    d.model = keep(m, gguf_str(g, "tokenizer.ggml.model"));
    d.pre = keep(m, gguf_str(g, "tokenizer.ggml.pre"));
    if (!d.model) return sl_fail(e, SL_EFORMAT, "GGUF metadata: no tokenizer.ggml.model");
    TRY(read_vocab(g, &d, a, e));
    d.bos = token_id(g, "tokenizer.ggml.bos_token_id", d.n_tokens);
    d.eos = token_id(g, "tokenizer.ggml.eos_token_id", d.n_tokens);
    d.unk = token_id(g, "tokenizer.ggml.unknown_token_id", d.n_tokens);
    d.pad = token_id(g, "tokenizer.ggml.padding_token_id", d.n_tokens);
    m->specials = (struct chat_specials){.bos = token_text(m, &d, d.bos),
                                         .eos = token_text(m, &d, d.eos),
                                         .pad = token_text(m, &d, d.pad),
                                         .unk = token_text(m, &d, d.unk)};
    add_eos(&m->pub, d.eos);
    add_eos(&m->pub, token_id(g, "tokenizer.ggml.eot_token_id", d.n_tokens));
    add_eos(&m->pub, token_id(g, "tokenizer.ggml.eom_token_id", d.n_tokens));
    return tokenizer_from_gguf(&m->pub.tok, &d, e);
}

static int open_gguf(struct text_impl *m, const char *path, struct sl_error *e)
{
    struct source s;
    struct gguf *g = NULL;
    struct vocab_arrays a = {0};
    TRY(source_open(&s, AT_FDCWD, path, e));
    int code = gguf_open(&g, &s, e);
    if (code == 0) code = open_gguf_vocab(m, g, &a, e);
    if (code == 0) m->pub.chat_source = keep(m, gguf_str(g, "tokenizer.chat_template"));
    free(a.tokens);
    free(a.merges);
    free(a.scores);
    free(a.types);
    gguf_close(g);
    source_close(&s);
    return code;
}

/* ------------------------------------------------------------------ the whole */

static int open_path(struct text_impl *m, const char *path, struct sl_error *e)
{
    if (!path) {
        m->pub.tok = tokenizer_bytes(TOKENIZER_BYTES_VOCAB);
        m->pub.chat_source = keep(m, str_of(sim_template));
        return 0;
    }
    int dir = open(path, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (dir < 0 && errno == ENOTDIR) return open_gguf(m, path, e);
    if (dir < 0)
        return sl_fail(e, errno == ENOENT ? SL_ENOTFOUND : SL_EIO, "cannot open model %.160s: %s",
                       path, errno == ENOENT ? "no such file or folder" : "not readable");
    int code = open_folder(m, dir, e);
    close(dir);
    return code;
}

static int open_text(struct model_text **out, const char *path, const char *chat_template,
                     bool is_dummy, struct sl_error *e)
{
    struct text_impl *m = xcalloc(1, sizeof *m);
    m->is_dummy = is_dummy;
    m->arena = arena_make(TEXT_BYTES_MAX);
    m->pub.defaults = (struct generation_defaults){NAN, NAN, NAN, NAN, NAN, -1, -1};
    *out = NULL;
    int code = open_path(m, path, e);
    if (code == 0) {
        add_eos_names(&m->pub);
        code = open_template(m, chat_template, e);
    }
    if (code < 0) {
        model_text_close(&m->pub);
        return code;
    }
    *out = &m->pub;
    return 0;
}

int model_text_open(struct model_text **out, const char *path, const char *chat_template,
                    struct sl_error *e)
{
    return open_text(out, path, chat_template, false, e);
}

int model_text_open_dummy(struct model_text **out, const char *path, const char *chat_template,
                          struct sl_error *e)
{
    return open_text(out, path, chat_template, true, e);
}

void model_text_close(struct model_text *t)
{
    if (!t) return;
    struct text_impl *m = (struct text_impl *)t;
    chat_template_free(t->chat);
    tokenizer_free(t->tok);
    arena_free(&m->arena);
    free(m);
}
