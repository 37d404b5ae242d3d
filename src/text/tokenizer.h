/* tokenizer.h - text to token ids and back, for tokenizer.json and GGUF vocabularies.
 *
 * A tokenizer is built once and immutable: any thread may encode or decode with it at the same
 * time. Kinds: byte-level BPE (GPT-2, Llama 3, Qwen) and sentencepiece-like BPE with byte fallback
 * (Llama 2, Gemma), with the normalizers, pre-tokenizers, decoders and post-processors of real
 * models. Source of the format: Hugging Face tokenizers 0.23 tokenizer.json; GGUF v3
 * tokenizer.ggml.* keys.
 */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"

struct tokenizer; /* opaque, immutable */

/* A growable list of ids. */
struct ids {
    int32_t *v; /* owned */
    size_t n, cap;
};
void ids_push(struct ids *l, int32_t id);
void ids_free(struct ids *l);

/* What tokenizer_config.json adds; all borrowed, any may be NULL / -1. */
struct tokenizer_config {
    int add_bos, add_eos;              /* 1, 0, or -1: as tokenizer.json's post-processor says */
    const char *bos, *eos, *pad, *unk; /* token texts */
};

/* A GGUF vocabulary as plain arrays, borrowed for the call. */
struct vocab_desc {
    const char *model; /* "gpt2" or "llama" (tokenizer.ggml.model) */
    const char *pre;   /* tokenizer.ggml.pre, e.g. "smollm", "llama-bpe", "qwen2"; may be NULL */
    size_t n_tokens;
    const struct str *tokens;
    const float *scores; /* [n_tokens] or NULL */
    const int32_t
        *types; /* [n_tokens] or NULL: 1 normal 2 unknown 3 control 4 user 5 unused 6 byte */
    size_t n_merges;
    const struct str *merges;   /* "a b" */
    int32_t bos, eos, unk, pad; /* -1: none */
    int add_bos, add_eos;       /* 1, 0, -1: the kind's default */
    int add_space_prefix;       /* 1, 0, -1: the kind's default */
};

/* Build from a parsed tokenizer.json; cfg may be NULL. SL_EFORMAT with one clear line when broken
 * or of a kind not supported. */
int tokenizer_from_json(struct tokenizer **out, const json_node *root,
                        const struct tokenizer_config *cfg, struct sl_error *e);
int tokenizer_from_gguf(struct tokenizer **out, const struct vocab_desc *v, struct sl_error *e);
/* 256 byte tokens, then <|bos|> 256, <|eos|> 257, <|user|> 258, <|assistant|> 259, <|system|> 260:
 * what the sim device serves when no model is given. With more ids (a dummy model's), id 261 reads
 * " t261" and so on, so that every token of an answer shows; text is never encoded to them. */
enum { TOKENIZER_BYTES_VOCAB = 261 };
struct tokenizer *tokenizer_bytes(size_t n_vocab);
void tokenizer_free(struct tokenizer *t);

enum {
    TOK_ADD_SPECIAL = 1,   /* BOS/EOS as the post-processor says */
    TOK_PARSE_SPECIAL = 2, /* special-token text in the input becomes the token */
};

/* Append the ids of text (valid UTF-8; invalid bytes read as U+FFFD). Thread-safe. Time is linear
 * but for the logarithm of one pre-token's length, whatever the input. */
int tokenizer_encode(const struct tokenizer *t, struct str text, unsigned flags, struct ids *out,
                     struct sl_error *e);
/* Whole decode, exactly as tokenizers' decode(ids, skip_special_tokens). Always valid UTF-8. */
int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                     struct buf *out);

size_t tokenizer_n_vocab(const struct tokenizer *t); /* highest id + 1 */
int32_t tokenizer_bos(const struct tokenizer *t);    /* -1: none */
int32_t tokenizer_eos(const struct tokenizer *t);
struct str tokenizer_special_text(const struct tokenizer *t, int32_t id); /* content, "" if none */
int32_t tokenizer_find(const struct tokenizer *t,
                       struct str content); /* id of exact vocabulary entry or -1 */
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);
/* The raw bytes the token stands for inside running text (may be a part of a character); for a
 * special token its text. Appends to out. An id outside the vocabulary appends nothing. */
void tokenizer_token_bytes(const struct tokenizer *t, int32_t id, struct buf *out);

/* Incremental decoding: push ids one by one, get text deltas that are always whole characters and
 * whose concatenation equals tokenizer_decode of all ids (skip_special as given at init). A run of
 * byte-fallback tokens comes out when it ends, since one bad byte turns all of it into U+FFFD. */
struct detok {
    const struct tokenizer *t; /* borrowed */
    bool skip_special;
    bool is_begun;   /* a token was decoded: what applies to the first one alone no longer does */
    bool is_bad_run; /* the running byte-fallback run is not UTF-8 */
    int n_stripped;  /* characters taken from the start so far; INT_MAX: no more will be */
    int n_tail;      /* characters held back that a strip at the end may still take */
    struct buf held; /* owned; bytes of an unfinished character or of a byte-fallback run */
    size_t n_whole;  /* held bytes known to be whole characters */
};
void detok_init(struct detok *d, const struct tokenizer *t, bool skip_special);
/* Start in the middle: context are the prompt's last ids, whose text is not emitted but decides
 * e.g. whether the first piece keeps its leading space. */
void detok_prime(struct detok *d, const int32_t *context, size_t n);
void detok_push(struct detok *d, int32_t id, struct buf *out);
/* The end: an unfinished tail becomes U+FFFD. Frees what d owns. */
void detok_finish(struct detok *d, struct buf *out);
void detok_free(struct detok *d); /* instead of detok_finish, when the rest does not matter */

#endif
