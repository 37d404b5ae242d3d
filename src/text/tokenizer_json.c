/* tokenizer_json.c - building a tokenizer from Hugging Face's tokenizer.json. */
#include "text/tokenizer_json.h"

#include <stdlib.h>

/* ------------------------------------------------------------------ vocabulary and merges */

static bool has_step(const struct step_list *l, const char *type)
{
    for (int i = 0; i < l->n; i++)
        if (str_is(step_type(l->v[i]), type)) return true;
    return false;
}

static int read_vocab(struct vocab *v, const json_node *model, struct sl_error *e)
{
    const json_node *list = json_get(model, "vocab");
    if (json_type(list) != JSON_OBJ)
        return sl_fail(e, SL_EFORMAT, "tokenizer.json: model.vocab is not an object");
    for (const json_node *c = json_child(list); c; c = json_next(c)) {
        if (json_type(c) != JSON_INT)
            return sl_fail(e, SL_EFORMAT, "tokenizer.json: a token id is not an integer");
        TRY(vocab_add(v, json_int(c), json_key(c), 0, e));
    }
    return 0;
}

/* A merge is "left right" or ["left", "right"]. */
static bool merge_halves(const json_node *m, struct str half[2])
{
    if (json_type(m) == JSON_STR) {
        struct str s = json_str(m);
        const char *space = memchr(s.p, ' ', s.n);
        if (!space) return false;
        half[0] = (struct str){s.p, (size_t)(space - s.p)};
        half[1] = (struct str){space + 1, s.n - half[0].n - 1};
        return memchr(half[1].p, ' ', half[1].n) == NULL;
    }
    const json_node *a = json_child(m), *b = a ? json_next(a) : NULL;
    if (json_type(a) != JSON_STR || json_type(b) != JSON_STR || json_next(b)) return false;
    half[0] = json_str(a);
    half[1] = json_str(b);
    return true;
}

/* Id of a merge's result: mostly the same as the merge's before, or the next one, which saves a
 * search. */
static int32_t find_near(const struct vocab *v, int32_t last, struct str raw)
{
    for (int32_t id = last; id <= last + 1; id++) {
        const struct token *t = vocab_token(v, id);
        if (t && t->flags & TOKEN_RAW && str_eq(token_raw(v, t), raw)) return id;
    }
    return vocab_find_raw(v, raw.p, raw.n);
}

/* *last: what the merge before made. */
static int read_merge(struct vocab *v, const json_node *m, uint32_t rank, struct buf *raw,
                      int32_t *last, struct sl_error *e)
{
    struct str half[2];
    if (!merge_halves(m, half))
        return sl_fail(e, SL_EFORMAT, "tokenizer.json: merge %u is not a pair", rank);
    raw->n = 0;
    size_t cut = 0;
    for (int i = 0; i < 2; i++) {
        cut = i ? raw->n : 0;
        if (!v->byte_level)
            buf_put_str(raw, half[i]);
        else if (!put_char_bytes(raw, half[i]))
            return 0; /* not byte letters: no text can ever need it */
    }
    const char *p = buf_cstr(raw);
    int32_t left = vocab_find_raw(v, p, cut), right = vocab_find_raw(v, p + cut, raw->n - cut);
    int32_t whole = find_near(v, *last, buf_str(raw));
    *last = whole;
    if (left < 0 || right < 0 || whole < 0 || raw->overflow)
        return sl_fail(e, SL_EFORMAT,
                       "tokenizer.json: merge %u names a token outside the vocabulary", rank);
    vocab_add_pair(v, left, right, rank, whole);
    return 0;
}

static int read_model(struct tokenizer *t, const json_node *model, bool byte_level,
                      struct sl_error *e)
{
    struct str type = member_str(model, "type", "BPE");
    const json_node *merges = json_get(model, "merges");
    if (!str_is(type, "BPE") || json_type(merges) != JSON_ARR)
        return sl_fail(e, SL_EFORMAT, "tokenizer.json: model \"%.*s\" is not supported, only BPE",
                       (int)(type.n < 40 ? type.n : 40), type.p);
    if (member_str(model, "continuing_subword_prefix", "").n ||
        member_str(model, "end_of_word_suffix", "").n)
        return sl_fail(e, SL_EFORMAT, "tokenizer.json: BPE with prefix or suffix is not supported");
    struct vocab *v = &t->vocab;
    vocab_init(v, byte_level, json_len(json_get(model, "vocab")), json_len(merges));
    v->byte_fallback = member_bool(model, "byte_fallback", false);
    v->fuse_unk = member_bool(model, "fuse_unk", false);
    v->ignore_merges = member_bool(model, "ignore_merges", false);
    TRY(read_vocab(v, model, e));
    const json_node *unk = json_get(model, "unk_token");
    if (json_type(unk) == JSON_STR) v->unk = vocab_find(v, json_str(unk));
    struct buf raw = buf_make(VOCAB_TEXT_MAX);
    uint32_t rank = 0;
    int32_t last = -1;
    int code = 0;
    for (const json_node *m = json_child(merges); m && code == 0; m = json_next(m))
        code = read_merge(v, m, rank++, &raw, &last, e);
    buf_free(&raw);
    return code;
}

/* ------------------------------------------------------------------ added tokens */

/* tokenizers numbers them itself, whatever the file says: the vocabulary's id if the content is in
 * it, else the next free id. The file's id serves where that one is taken. */
static int read_added(struct tokenizer *t, const json_node *list, size_t n_model,
                      struct sl_error *e)
{
    size_t next = n_model;
    for (const json_node *c = json_child(list); c; c = json_next(c)) {
        struct added_desc d = {.content = member_str(c, "content", ""),
                               .lstrip = member_bool(c, "lstrip", false),
                               .rstrip = member_bool(c, "rstrip", false),
                               .single_word = member_bool(c, "single_word", false),
                               .normalized = member_bool(c, "normalized", false),
                               .special = member_bool(c, "special", false)};
        const json_node *id = json_get(c, "id");
        if (d.content.n == 0) continue;
        d.id = vocab_find(&t->vocab, d.content);
        if (d.id < 0) {
            bool taken = vocab_token(&t->vocab, (int32_t)next) != NULL;
            int64_t given = json_type(id) == JSON_INT ? json_int(id) : -1;
            int64_t want = taken ? given : (int64_t)next;
            if (want < 0 || want >= VOCAB_MAX)
                return sl_fail(e, SL_EFORMAT, "tokenizer.json: an added token has no id");
            d.id = (int32_t)want;
        }
        if ((size_t)d.id >= next) next = (size_t)d.id + 1;
        TRY(tokenizer_add_token(t, &d, e));
    }
    return 0;
}

/* ------------------------------------------------------------------ post-processor */

static int put_affix(int32_t *list, int *n, const json_node *id, struct sl_error *e)
{
    if (json_type(id) != JSON_INT || json_int(id) < 0 || json_int(id) >= VOCAB_MAX ||
        *n == AFFIX_MAX)
        return sl_fail(e, SL_EFORMAT, "tokenizer.json: bad post_processor");
    list[(*n)++] = (int32_t)json_int(id);
    return 0;
}

/* Ids around the text. */
struct affixes {
    int32_t before[AFFIX_MAX], after[AFFIX_MAX];
    int n_before, n_after;
};

static int read_template(const json_node *v, struct affixes *a, struct sl_error *e)
{
    bool seen = false;
    for (const json_node *c = json_child(json_get(v, "single")); c; c = json_next(c)) {
        const json_node *special = json_get(c, "SpecialToken");
        if (!special) {
            if (seen || !json_get(c, "Sequence"))
                return sl_fail(e, SL_EFORMAT, "tokenizer.json: bad template in post_processor");
            seen = true;
            continue;
        }
        struct str name = member_str(special, "id", "");
        const json_node *token = json_child(json_get(v, "special_tokens"));
        while (token && !str_eq(json_key(token), name)) token = json_next(token);
        for (const json_node *i = json_child(json_get(token, "ids")); i; i = json_next(i))
            TRY(seen ? put_affix(a->after, &a->n_after, i, e)
                     : put_affix(a->before, &a->n_before, i, e));
    }
    return seen ? 0 : sl_fail(e, SL_EFORMAT, "tokenizer.json: a post_processor drops the text");
}

/* "cls": ["<s>", 0] */
static const json_node *second(const json_node *v)
{
    const json_node *c = json_child(v);
    return c ? json_next(c) : NULL;
}

static int read_post(struct tokenizer *t, const json_node *root, struct sl_error *e)
{
    struct step_list list;
    bool seen = false;
    TRY(steps_flatten(root, "processors", &list, e));
    for (int i = 0; i < list.n; i++) {
        struct str type = step_type(list.v[i]);
        struct affixes a = {0};
        if (str_is(type, "TemplateProcessing")) {
            TRY(read_template(list.v[i], &a, e));
        } else if (str_is(type, "BertProcessing") || str_is(type, "RobertaProcessing")) {
            TRY(put_affix(a.before, &a.n_before, second(json_get(list.v[i], "cls")), e));
            TRY(put_affix(a.after, &a.n_after, second(json_get(list.v[i], "sep")), e));
        } else if (!str_is(type, "ByteLevel")) {
            return sl_fail(e, SL_EFORMAT,
                           "tokenizer.json: post_processor \"%.*s\" is not supported",
                           (int)(type.n < 60 ? type.n : 60), type.p);
        }
        if (str_is(type, "ByteLevel")) continue;
        if (seen) return sl_fail(e, SL_EFORMAT, "tokenizer.json: two post_processors add tokens");
        seen = true;
        memcpy(t->prefix, a.before, sizeof a.before);
        memcpy(t->suffix, a.after, sizeof a.after);
        t->n_prefix = a.n_before;
        t->n_suffix = a.n_after;
    }
    return 0;
}

/* ------------------------------------------------------------------ the whole */

static int32_t find_named(const struct tokenizer *t, const char *text)
{
    return text && *text ? tokenizer_find(t, str_of(text)) : -1;
}

static int build(struct tokenizer *t, const json_node *root, const struct tokenizer_config *cfg,
                 struct sl_error *e)
{
    const json_node *norm = json_get(root, "normalizer"), *pre = json_get(root, "pre_tokenizer");
    struct step_list norms, pres;
    if (json_type(json_get(root, "model")) != JSON_OBJ)
        return sl_fail(e, SL_EFORMAT, "tokenizer.json: no model");
    TRY(steps_flatten(norm, "normalizers", &norms, e));
    TRY(steps_flatten(pre, "pretokenizers", &pres, e));
    bool byte_level = has_step(&norms, "ByteLevel") || has_step(&pres, "ByteLevel");
    TRY(read_model(t, json_get(root, "model"), byte_level, e));
    TRY(steps_normalizer(t, norm, e));
    TRY(steps_pre_tokenizer(t, pre, e));
    TRY(steps_decoder(t, json_get(root, "decoder"), e));
    TRY(read_post(t, json_get(root, "post_processor"), e));
    TRY(read_added(t, json_get(root, "added_tokens"),
                   json_len(json_get(json_get(root, "model"), "vocab")), e));
    tokenizer_seal(t);
    t->bos = cfg ? find_named(t, cfg->bos) : -1;
    t->eos = cfg ? find_named(t, cfg->eos) : -1;
    if (t->bos < 0 && t->n_prefix) t->bos = t->prefix[0];
    if (cfg) tokenizer_set_affixes(t, cfg->add_bos, cfg->add_eos);
    return 0;
}

int tokenizer_from_json(struct tokenizer **out, const json_node *root,
                        const struct tokenizer_config *cfg, struct sl_error *e)
{
    struct tokenizer *t = tokenizer_new();
    *out = NULL;
    int code = build(t, root, cfg, e);
    if (code < 0)
        tokenizer_free(t);
    else
        *out = t;
    return code;
}
