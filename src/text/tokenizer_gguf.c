/* tokenizer_gguf.c - building a tokenizer from a GGUF file's vocabulary.
 *
 * Kind "gpt2" is byte-level BPE with merges; which patterns split the text is known only by the
 * name in tokenizer.ggml.pre, so they are a table here, as in llama.cpp (which keeps it in code).
 * Kind "llama" is sentencepiece BPE: it has no merges but scores, and merges whatever pair forms a
 * token, the highest score first. That is the same as BPE with every split of every token as a
 * merge, ranked by score.
 */
#include <stdio.h>
#include <stdlib.h>

#include "text/splitter.h"
#include "text/tokenizer_json.h"

enum {
    SPLIT_TEXT_MAX = 512
}; /* longer tokens are not split into merges: n texts of up to n bytes */

enum gguf_type { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };

/* ------------------------------------------------------------------ pre-tokenizers by name */

#define UPPER   "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER   "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define NO_WORD "[^\\r\\n\\p{L}\\p{N}]?"
#define SUFFIX  "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
#define SPACES  "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const char tekken_pattern[] = NO_WORD UPPER "*" LOWER "+|" NO_WORD UPPER "+" LOWER "*|"
                                                   "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES;
static const char gpt4o_pattern[] =
    NO_WORD UPPER "*" LOWER "+" SUFFIX "|" NO_WORD UPPER "+" LOWER "*" SUFFIX "|"
                  "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES;
static const char deepseek3_pattern[] =
    "[!\"#$%&'()*+,\\-./"
    ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES;

/* Each pattern splits what the one before it left. */
struct pre_row {
    const char *names; /* separated by spaces */
    const char *patterns[4];
    bool ignore_merges, add_bos;
};
static const struct pre_row pre_rows[] = {
    {"gpt-2 phi-2 mpt olmo jais trillion granite-docling gigachat roberta-bpe jina-v1-en "
     "jina-v2-es "
     "jina-v2-de jina-v2-code a.x-4.0 mellum modern-bert exaone4",
     {splitter_gpt2_pattern},
     false,
     false},
    {"llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2",
     {splitter_llama3_pattern},
     true,
     true},
    {"dbrx smaug-bpe chatglm-bpe glm4", {splitter_llama3_pattern}, false, false},
    {"qwen2 stablelm2 deepseek-r1-qwen hunyuan megrez kormo",
     {splitter_qwen2_pattern},
     false,
     false},
    {"smollm starcoder refact command-r codeshell exaone minerva-7b",
     {"\\p{N}", splitter_gpt2_pattern},
     false,
     false},
    {"tekken", {tekken_pattern}, true, true},
    {"gpt-4o llama4", {gpt4o_pattern}, false, false},
    {"deepseek-v3 hunyuan-dense joyai-llm",
     {"\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+",
      deepseek3_pattern},
     false,
     false},
    {"deepseek-coder",
     {"[\\r\\n]", "\\s?\\p{L}+|\\s?\\p{P}+",
      "[\\x{4E00}-\\x{9FA5}\\x{0800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+", "\\p{N}"},
     false,
     false},
    {"falcon",
     {"[\\p{P}\\$\\+<=>\\^~\\|`]+", splitter_gpt2_pattern, "[0-9][0-9][0-9]"},
     false,
     false},
    {"default",
     {"[\\p{P}\\$\\+<=>\\^~\\|]+", splitter_gpt2_pattern, "\\p{N}+", "[0-9][0-9][0-9]"},
     false,
     false},
};

static bool has_word(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = list; n && (p = strstr(p, word)); p++)
        if ((p == list || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\0')) return true;
    return false;
}

static const struct pre_row *find_pre(const char *name)
{
    if (!name || !*name) name = "default";
    for (size_t i = 0; i < sizeof pre_rows / sizeof *pre_rows; i++)
        if (has_word(pre_rows[i].names, name)) return &pre_rows[i];
    return NULL;
}

/* ------------------------------------------------------------------ tokens */

static int type_of(const struct vocab_desc *d, size_t i)
{
    return d->types ? d->types[i] : TYPE_NORMAL;
}

static int read_tokens(struct tokenizer *t, const struct vocab_desc *d, struct sl_error *e)
{
    for (size_t i = 0; i < d->n_tokens; i++)
        TRY(vocab_add(&t->vocab, (int64_t)i, d->tokens[i], 0, e));
    for (size_t i = 0; i < d->n_tokens; i++) {
        int type = type_of(d, i);
        bool special = type == TYPE_CONTROL || type == TYPE_UNKNOWN;
        if (!special && type != TYPE_USER) continue;
        struct added_desc a = {.content = d->tokens[i], .id = (int32_t)i, .special = special};
        TRY(tokenizer_add_token(t, &a, e));
    }
    return 0;
}

static int read_merges(struct vocab *v, const struct vocab_desc *d, struct sl_error *e)
{
    struct buf raw = buf_make(VOCAB_TEXT_MAX);
    int code = 0;
    for (size_t i = 0; i < d->n_merges && code == 0; i++) {
        struct str s = d->merges[i];
        const char *space = s.n > 1 ? memchr(s.p + 1, ' ', s.n - 1) : NULL;
        size_t n = space ? (size_t)(space - s.p) : 0;
        raw.n = 0;
        if (!space) {
            code = sl_fail(e, SL_EFORMAT, "GGUF: merge %zu is not a pair", i);
            break;
        }
        if (!put_char_bytes(&raw, (struct str){s.p, n})) continue;
        size_t cut = raw.n;
        if (!put_char_bytes(&raw, (struct str){space + 1, s.n - n - 1})) continue;
        const char *p = buf_cstr(&raw);
        int32_t left = vocab_find_raw(v, p, cut), right = vocab_find_raw(v, p + cut, raw.n - cut);
        int32_t whole = vocab_find_raw(v, p, raw.n);
        if (left >= 0 && right >= 0 && whole >= 0)
            vocab_add_pair(v, left, right, (uint32_t)i, whole);
    }
    buf_free(&raw);
    return code;
}

/* ------------------------------------------------------------------ merges from scores */

struct scored {
    float score;
    int32_t id;
};

static int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static void split_token(struct vocab *v, int32_t id, uint32_t rank)
{
    struct str s = token_raw(v, &v->tokens[id]);
    if (s.n > SPLIT_TEXT_MAX || vocab_find_raw(v, s.p, s.n) != id) return;
    for (size_t cut = 1; cut < s.n; cut++) {
        if (((unsigned char)s.p[cut] & 0xC0) == 0x80) continue;
        int32_t left = vocab_find_raw(v, s.p, cut);
        int32_t right = left < 0 ? -1 : vocab_find_raw(v, s.p + cut, s.n - cut);
        if (right >= 0) vocab_add_pair(v, left, right, rank, id);
    }
}

static int merges_from_scores(struct vocab *v, const struct vocab_desc *d, struct sl_error *e)
{
    if (!d->scores)
        return sl_fail(e, SL_EFORMAT, "GGUF: a vocabulary of kind llama without scores");
    struct scored *list = xmalloc(d->n_tokens * sizeof *list);
    size_t n = 0;
    for (size_t i = 0; i < d->n_tokens; i++) {
        int type = type_of(d, i);
        bool is_nan = d->scores[i] != d->scores[i];
        if ((type == TYPE_NORMAL || type == TYPE_USER) && !is_nan)
            list[n++] = (struct scored){d->scores[i], (int32_t)i};
    }
    qsort(list, n, sizeof *list, by_score);
    uint32_t rank = 0; /* equal scores share a rank: then the leftmost pair merges first */
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && list[i].score != list[i - 1].score) rank++;
        split_token(v, list[i].id, rank);
    }
    free(list);
    return 0;
}

/* ------------------------------------------------------------------ the two kinds */

static int build_gpt2(struct tokenizer *t, const struct vocab_desc *d, struct sl_error *e)
{
    const struct pre_row *pre = find_pre(d->pre);
    if (!pre) return sl_fail(e, SL_EFORMAT, "GGUF: pre-tokenizer \"%.60s\" is not known", d->pre);
    vocab_init(&t->vocab, true, d->n_tokens, d->n_merges);
    t->vocab.ignore_merges = pre->ignore_merges;
    for (int i = 0; i < 4 && pre->patterns[i]; i++)
        TRY(steps_add_split(t, str_of(pre->patterns[i]), e));
    t->dec[t->n_dec++] = (struct dec_step){.kind = DEC_BYTE_LEVEL};
    TRY(read_tokens(t, d, e));
    TRY(read_merges(&t->vocab, d, e));
    tokenizer_set_affixes(t, d->add_bos < 0 ? pre->add_bos : d->add_bos, d->add_eos == 1);
    return 0;
}

static int build_llama(struct tokenizer *t, const struct vocab_desc *d, struct sl_error *e)
{
    static const struct str meta = {"\xE2\x96\x81", 3}, space = {" ", 1};
    bool prefix = d->add_space_prefix != 0;
    vocab_init(&t->vocab, false, d->n_tokens, d->n_tokens * 4);
    t->vocab.byte_fallback = t->vocab.fuse_unk = true;
    t->vocab.unk = d->unk;
    if (prefix) t->norm[t->n_norm++] = (struct norm_step){.kind = NORM_PREPEND, .content = meta};
    t->norm[t->n_norm++] =
        (struct norm_step){.kind = NORM_REPLACE, .pattern.literal = space, .content = meta};
    t->dec[t->n_dec++] =
        (struct dec_step){.kind = DEC_REPLACE, .pattern.literal = meta, .content = space};
    t->dec[t->n_dec++] = (struct dec_step){.kind = DEC_BYTE_FALLBACK};
    t->dec[t->n_dec++] = (struct dec_step){.kind = DEC_FUSE};
    if (prefix)
        t->dec[t->n_dec++] =
            (struct dec_step){.kind = DEC_STRIP, .content = space, .start = 1, .fused = true};
    TRY(read_tokens(t, d, e));
    TRY(merges_from_scores(&t->vocab, d, e));
    tokenizer_set_affixes(t, d->add_bos != 0, d->add_eos == 1);
    return 0;
}

static int check_desc(const struct vocab_desc *d, struct sl_error *e)
{
    const int32_t ids[] = {d->bos, d->eos, d->unk, d->pad};
    if (d->n_tokens == 0 || d->n_tokens > VOCAB_MAX)
        return sl_fail(e, SL_EFORMAT, "GGUF: a vocabulary of %zu tokens", d->n_tokens);
    for (int i = 0; i < 4; i++)
        if (ids[i] < -1 || (ids[i] >= 0 && (size_t)ids[i] >= d->n_tokens))
            return sl_fail(e, SL_EFORMAT, "GGUF: special token id %d is outside the vocabulary",
                           ids[i]);
    return 0;
}

int tokenizer_from_gguf(struct tokenizer **out, const struct vocab_desc *d, struct sl_error *e)
{
    *out = NULL;
    TRY(check_desc(d, e));
    bool gpt2 = d->model && strcmp(d->model, "gpt2") == 0;
    if (!gpt2 && (!d->model || strcmp(d->model, "llama") != 0))
        return sl_fail(e, SL_EFORMAT, "GGUF: vocabulary kind \"%.40s\" is not supported",
                       d->model ? d->model : "");
    struct tokenizer *t = tokenizer_new();
    t->bos = d->bos;
    t->eos = d->eos;
    int code = gpt2 ? build_gpt2(t, d, e) : build_llama(t, d, e);
    if (code < 0) {
        tokenizer_free(t);
        return code;
    }
    tokenizer_seal(t);
    *out = t;
    return 0;
}

/* ------------------------------------------------------------------ the stand-in */

struct tokenizer *tokenizer_bytes(size_t n_vocab)
{
    static const char *const special[] = {"<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>",
                                          "<|system|>"};
    struct tokenizer *t = tokenizer_new();
    if (n_vocab < TOKENIZER_BYTES_VOCAB) n_vocab = TOKENIZER_BYTES_VOCAB;
    if (n_vocab > VOCAB_MAX) n_vocab = VOCAB_MAX;
    vocab_init(&t->vocab, true, n_vocab, 0);
    t->dec[t->n_dec++] = (struct dec_step){.kind = DEC_BYTE_LEVEL};
    for (int b = 0; b < 256; b++) {
        struct buf letter = buf_make(4);
        char byte = (char)b;
        put_byte_chars(&letter, (struct str){&byte, 1});
        ASSERT(vocab_add(&t->vocab, b, buf_str(&letter), 0, NULL) == 0);
        buf_free(&letter);
    }
    for (int i = 0; i < 5; i++) {
        struct added_desc a = {.content = str_of(special[i]), .id = 256 + i, .special = true};
        ASSERT(tokenizer_add_token(t, &a, NULL) == 0);
    }
    for (size_t id = TOKENIZER_BYTES_VOCAB; id < n_vocab; id++) {
        char name[32]; /* U+0120 is the letter of the space */
        int n = snprintf(name, sizeof name, "\xC4\xA0t%zu", id);
        ASSERT(vocab_add(&t->vocab, (int64_t)id, (struct str){name, (size_t)n}, 0, NULL) == 0);
    }
    t->bos = 256;
    t->eos = 257;
    tokenizer_seal(t);
    return t;
}
