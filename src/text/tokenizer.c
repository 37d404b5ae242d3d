/* tokenizer.c - encoding from end to end, and the small questions about a tokenizer. */
#include "text/tokenizer.h"

#include <limits.h>
#include <stdlib.h>

#include "base/utf8.h"
#include "text/tokenizer_impl.h"

void ids_push(struct ids *l, int32_t id)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 64;
        l->v = xrealloc(l->v, l->cap * sizeof *l->v);
    }
    l->v[l->n++] = id;
}

void ids_free(struct ids *l)
{
    free(l->v);
    *l = (struct ids){0};
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t) return;
    for (int i = 0; i < t->n_norm; i++) regex_free(t->norm[i].pattern.re);
    for (int i = 0; i < t->n_pre; i++) regex_free(t->pre[i].pattern.re);
    for (int i = 0; i < t->n_dec; i++) regex_free(t->dec[i].pattern.re);
    added_free(&t->added);
    added_free(&t->added_normalized);
    free(t->renamed);
    vocab_free(&t->vocab);
    arena_free(&t->arena);
    free(t);
}

/* ------------------------------------------------------------------ building */

struct tokenizer *tokenizer_new(void)
{
    struct tokenizer *t = xcalloc(1, sizeof *t);
    t->arena = arena_make(CONFIG_BYTES_MAX);
    t->bos = t->eos = -1;
    return t;
}

void tokenizer_seal(struct tokenizer *t)
{
    vocab_seal(&t->vocab);
    added_seal(&t->added);
    added_seal(&t->added_normalized);
}

int tokenizer_add_token(struct tokenizer *t, const struct added_desc *d, struct sl_error *e)
{
    if (d->content.n == 0) return 0;
    unsigned flags = TOKEN_ADDED | (d->special ? TOKEN_SPECIAL : 0u);
    TRY(vocab_add(&t->vocab, d->id, d->content, flags, e));
    struct buf norm = buf_make(ENCODE_TEXT_MAX);
    struct regex_scratch regex = {0};
    int code = d->normalized ? normalize_run(t->norm, t->n_norm, &regex, d->content, &norm) : 0;
    regex_scratch_free(&regex);
    struct str look = d->normalized ? (struct str){buf_cstr(&norm), norm.n} : d->content;
    char *copy = code == 0 ? arena_strdup(&t->arena, look) : NULL;
    buf_free(&norm);
    if (!copy) return sl_fail(e, SL_EFORMAT, "tokenizer: added token %d cannot be kept", d->id);
    look.p = copy;
    if (!str_eq(look, d->content)) {
        t->renamed = xrealloc(t->renamed, (t->n_renamed + 1) * sizeof *t->renamed);
        t->renamed[t->n_renamed++] = (struct renamed_token){d->id, look};
        t->vocab.tokens[d->id].flags |= TOKEN_RENAMED;
    }
    if (look.n == 0) return 0;
    added_push(d->normalized ? &t->added_normalized : &t->added,
               (struct added_token){.content = look,
                                    .id = d->id,
                                    .lstrip = d->lstrip,
                                    .rstrip = d->rstrip,
                                    .single_word = d->single_word,
                                    .special = d->special});
    return 0;
}

static void set_affix(int32_t *list, int *n, int32_t id, int want, bool front)
{
    if (want < 0 || id < 0) return;
    int kept = 0;
    bool has = false;
    for (int i = 0; i < *n; i++) {
        has = has || list[i] == id;
        if (want || list[i] != id) list[kept++] = list[i];
    }
    *n = kept;
    if (!want || has || kept == AFFIX_MAX) return;
    if (front) memmove(list + 1, list, (size_t)kept * sizeof *list);
    list[front ? 0 : kept] = id;
    *n = kept + 1;
}

void tokenizer_set_affixes(struct tokenizer *t, int add_bos, int add_eos)
{
    set_affix(t->prefix, &t->n_prefix, t->bos, add_bos, true);
    set_affix(t->suffix, &t->n_suffix, t->eos, add_eos, false);
}

/* ------------------------------------------------------------------ encoding */

struct encoder {
    const struct tokenizer *t;
    unsigned flags;
    struct ids *out;
    struct regex_scratch regex;
    struct bpe_scratch bpe;
    struct pretok_scratch pretok;
    struct buf norm;
};

static void encode_piece(void *ctx, struct str piece)
{
    struct encoder *enc = ctx;
    if (enc->t->byte_chars) {
        enc->bpe.raw.n = 0;
        if (!put_char_bytes(&enc->bpe.raw, piece))
            return; /* only a pattern's letters could do that */
        piece = (struct str){buf_cstr(&enc->bpe.raw), enc->bpe.raw.n};
    }
    bpe_encode(&enc->t->vocab, &enc->bpe, piece, enc->out);
}

typedef int (*gap_fn)(struct encoder *enc, struct str text, bool first);

/* Put the ids of added tokens, and hand the text between them to `gap`. */
static int around_added(struct encoder *enc, const struct added_set *set, struct str text,
                        bool first, gap_fn gap)
{
    size_t from = 0, done = 0;
    struct added_match m;
    while (added_find(set, text, &from, done, enc->flags & TOK_PARSE_SPECIAL, &m)) {
        if (m.start > done)
            TRY(gap(enc, (struct str){text.p + done, m.start - done}, first && done == 0));
        ids_push(enc->out, m.id);
        done = m.end;
    }
    if (done == text.n) return 0;
    return gap(enc, (struct str){text.p + done, text.n - done}, first && done == 0);
}

static int encode_normalized(struct encoder *enc, struct str text, bool first)
{
    struct pretok p = {.steps = enc->t->pre,
                       .n_steps = enc->t->n_pre,
                       .regex = &enc->regex,
                       .scratch = &enc->pretok,
                       .emit = encode_piece,
                       .ctx = enc};
    return pretok_run(&p, text, first);
}

static int encode_given(struct encoder *enc, struct str text, bool first)
{
    const struct tokenizer *t = enc->t;
    if (t->n_norm) {
        enc->norm.n = 0;
        TRY(normalize_run(t->norm, t->n_norm, &enc->regex, text, &enc->norm));
        text = (struct str){buf_cstr(&enc->norm), enc->norm.n};
    }
    return around_added(enc, &t->added_normalized, text, first, encode_normalized);
}

/* Invalid bytes as U+FFFD. */
static void put_valid(struct buf *out, struct str s)
{
    for (size_t i = 0; i < s.n;) {
        int len;
        if (utf8_next(s.p + i, s.n - i, &len) < 0)
            buf_puts(out, "\xEF\xBF\xBD");
        else
            buf_put(out, s.p + i, (size_t)len);
        i += (size_t)len;
    }
}

int tokenizer_encode(const struct tokenizer *t, struct str text, unsigned flags, struct ids *out,
                     struct sl_error *e)
{
    if (text.n > ENCODE_TEXT_MAX)
        return sl_fail(e, SL_ETOOLARGE, "text of %zu bytes; at most %d", text.n, ENCODE_TEXT_MAX);
    struct buf valid = buf_make((size_t)ENCODE_TEXT_MAX * 3);
    if (!utf8_valid(text.p, text.n)) {
        put_valid(&valid, text);
        text = buf_str(&valid);
    }
    struct encoder enc = {.t = t, .flags = flags, .out = out, .norm = buf_make(ENCODE_TEXT_MAX)};
    bpe_scratch_init(&enc.bpe, text.n);
    bool special = flags & TOK_ADD_SPECIAL;
    for (int i = 0; special && i < t->n_prefix; i++) ids_push(out, t->prefix[i]);
    int code = around_added(&enc, &t->added, text, true, encode_given);
    for (int i = 0; special && i < t->n_suffix; i++) ids_push(out, t->suffix[i]);
    bpe_scratch_free(&enc.bpe);
    pretok_scratch_free(&enc.pretok);
    regex_scratch_free(&enc.regex);
    buf_free(&enc.norm);
    buf_free(&valid);
    if (code == SL_ETOOLARGE) return sl_fail(e, code, "text is too long once normalized");
    if (code == SL_EINVAL)
        return sl_fail(e, code, "text needs too many steps to be split into tokens");
    return code < 0 ? sl_fail(e, code, "text cannot be encoded") : 0;
}

/* ------------------------------------------------------------------ questions */

size_t tokenizer_n_vocab(const struct tokenizer *t)
{
    return t->vocab.n;
}
int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}
int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

struct str tokenizer_special_text(const struct tokenizer *t, int32_t id)
{
    return tokenizer_is_special(t, id) ? token_content(&t->vocab, &t->vocab.tokens[id]) : STR("");
}

int32_t tokenizer_find(const struct tokenizer *t, struct str content)
{
    return vocab_find(&t->vocab, content);
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    const struct token *tok = vocab_token(&t->vocab, id);
    return tok && tok->flags & TOKEN_SPECIAL;
}
