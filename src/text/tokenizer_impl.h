/* tokenizer_impl.h - the inside of a tokenizer, shared by the files that build and run it.
 *
 * A tokenizer is data: a vocabulary, added tokens, and three short lists of steps (normalize,
 * split, decode), which tokenizer_json.c and tokenizer_gguf.c fill. Encoding goes text -> added
 * tokens cut out -> normalized -> added tokens that match normalized text cut out
 *        -> pre-tokens -> ids,
 * decoding runs the list of decode steps over the tokens one by one (decode.c).
 */
#ifndef TEXT_TOKENIZER_IMPL_H
#define TEXT_TOKENIZER_IMPL_H

#include "base/arena.h"
#include "text/bpe.h"
#include "text/regex.h"
#include "text/unicode.h"

enum {
    STEPS_MAX = 24,             /* of each list; real files have at most 8 */
    AFFIX_MAX = 16,             /* ids that the post-processor puts before or after the text */
    ENCODE_TEXT_MAX = 1 << 28,  /* bytes of one text, and of its normalized form */
    CONFIG_BYTES_MAX = 1 << 24, /* strings of the steps */
};

/* What a step looks for: a regex, or else a literal. */
struct pattern {
    struct regex *re; /* owned, or NULL */
    struct str literal;
};
/* As regex_find. An empty literal is never found. */
int pattern_find(const struct pattern *p, struct regex_scratch *s, struct str text, size_t from,
                 size_t *start, size_t *end);

/* ------------------------------------------------------------------ normalize.c */

enum norm_kind {
    NORM_FORM, /* a Unicode normal form */
    NORM_LOWER,
    NORM_PREPEND,       /* content before a text that is not empty */
    NORM_REPLACE,       /* pattern by content */
    NORM_STRIP,         /* white space at the left, the right or both ends */
    NORM_STRIP_ACCENTS, /* marks go */
    NORM_BYTE_CHARS,    /* bytes to GPT-2's letters */
};
struct norm_step {
    enum norm_kind kind;
    enum normal_form form;
    struct pattern pattern;
    struct str content;
    bool left, right;
};
/* Append text, normalized, to out. */
int normalize_run(const struct norm_step *steps, int n, struct regex_scratch *s, struct str text,
                  struct buf *out);
/* Append text with each match of p replaced by content. */
int pattern_replace(const struct pattern *p, struct regex_scratch *s, struct str text,
                    struct str content, struct buf *out);

/* ------------------------------------------------------------------ pretok.c */

enum split_behavior {
    SPLIT_REMOVED,
    SPLIT_ISOLATED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS,
};
enum pre_kind {
    PRE_SPLIT,        /* by pattern */
    PRE_SPLIT_KNOWN,  /* by one of splitter.h's patterns, isolated */
    PRE_PREFIX_SPACE, /* a space before a piece that does not begin with one */
    PRE_METASPACE,    /* ' ' to content, and content before the piece as scheme says */
    PRE_BYTE_CHARS,   /* bytes to GPT-2's letters */
};
enum prepend_scheme { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS };
struct pre_step {
    enum pre_kind kind;
    struct pattern pattern;
    enum split_behavior behavior;
    bool invert;
    int known;
    enum prepend_scheme scheme;
    struct str content;
};

struct piece {
    size_t at, n;
    bool first; /* begins where the whole text begins */
};
/* Working memory of one call. */
struct pretok_scratch {
    struct piece *list[2]; /* owned */
    size_t n[2], cap[2];
    struct buf text[2];
};
void pretok_scratch_free(struct pretok_scratch *s);

typedef void (*piece_fn)(void *ctx, struct str piece);
struct pretok {
    const struct pre_step *steps;
    int n_steps;
    struct regex_scratch *regex;
    struct pretok_scratch *scratch;
    piece_fn emit;
    void *ctx;
};
/* Emit the pre-tokens of text in order; none is empty. first: text is the input's beginning. */
int pretok_run(const struct pretok *p, struct str text, bool first);

/* ------------------------------------------------------------------ added.c */

struct added_token {
    struct str content; /* what to look for; in tokenizer.arena */
    int32_t id;
    uint32_t order; /* among equals the first wins */
    bool lstrip, rstrip, single_word, special;
};
/* Finds the leftmost-longest of a set of strings. */
struct added_set {
    struct added_token *tokens; /* owned [n]; sorted once sealed */
    size_t n, cap;
    size_t first[257]; /* tokens[first[b]..first[b+1]) begin with byte b */
    int only;          /* the one byte that all begin with, or -1 */
};
struct added_match {
    int32_t id;
    size_t start, end; /* with the white space that lstrip and rstrip take */
};
void added_push(struct added_set *s, struct added_token t);
void added_seal(struct added_set *s);
void added_free(struct added_set *s);
/* The next match at or after *from that counts; *from moves behind it. floor: end of the match
 * before, which lstrip must not cross. false: none. */
bool added_find(const struct added_set *s, struct str text, size_t *from, size_t floor,
                bool parse_special, struct added_match *m);

/* ------------------------------------------------------------------ decode.c */

enum dec_kind {
    DEC_REPLACE,       /* pattern by content, within each token */
    DEC_METASPACE,     /* content to ' '; in the first token to nothing, if scheme is not "never" */
    DEC_STRIP,         /* up to start, stop characters `content` at the ends of each token */
    DEC_BYTE_FALLBACK, /* runs of <0xHH> */
    DEC_FUSE,          /* from here on all tokens are one text */
    DEC_BYTE_LEVEL,    /* GPT-2's letters to bytes, and all tokens to one text */
    DEC_SPACES,        /* no decoder: tokens joined by ' ' */
};
struct dec_step {
    enum dec_kind kind;
    struct pattern pattern;
    struct str content;
    enum prepend_scheme scheme;
    int start, stop;
    bool fused; /* stands after DEC_FUSE or DEC_BYTE_LEVEL */
};

/* ------------------------------------------------------------------ the whole */

/* An added token that matches normalized text decodes to its own normalized content, and then
 * counts as special no more: so tokenizers 0.23 has it. Its TOKEN_RENAMED flag is set. */
struct renamed_token {
    int32_t id;
    struct str content; /* in tokenizer.arena */
};

struct tokenizer {
    struct vocab vocab;
    struct added_set added;            /* matched on the text as given */
    struct added_set added_normalized; /* matched on normalized text */
    struct renamed_token *renamed;     /* owned [n_renamed], few */
    size_t n_renamed;
    struct norm_step norm[STEPS_MAX];
    struct pre_step pre[STEPS_MAX];
    struct dec_step dec[STEPS_MAX];
    int n_norm, n_pre, n_dec;
    bool byte_chars; /* pieces reach the model in GPT-2's letters, not as bytes */
    int32_t prefix[AFFIX_MAX], suffix[AFFIX_MAX];
    int n_prefix, n_suffix;
    int32_t bos, eos;
    struct arena arena; /* strings of the steps and added tokens */
};

/* Empty; tokenizer_free also frees a half-built one. */
struct tokenizer *tokenizer_new(void);
/* After the last token and step: from here on immutable. */
void tokenizer_seal(struct tokenizer *t);

/* Register a token of the vocabulary as added: cut out of the text before anything else. */
struct added_desc {
    struct str content;
    int32_t id;
    bool lstrip, rstrip, single_word, normalized, special;
};
int tokenizer_add_token(struct tokenizer *t, const struct added_desc *d, struct sl_error *e);
/* Make the prefix begin with bos, the suffix end with eos, or not: 1, 0; -1 leaves them. */
void tokenizer_set_affixes(struct tokenizer *t, int add_bos, int add_eos);

#endif
