/* vocab.h - the tokens of a model and its merges, laid out for encoding.
 *
 * Each token keeps its content (as the file spells it) and its raw text: for a byte-level
 * vocabulary the bytes its GPT-2 letters stand for, else the content itself. Encoding works on raw
 * text only. Two flat hash tables: raw text -> id, and (left id, right id) -> (rank, merged id).
 * Immutable once sealed.
 */
#ifndef TEXT_VOCAB_H
#define TEXT_VOCAB_H

#include "base/buf.h"
#include "base/err.h"

enum {
    VOCAB_MAX = 1 << 22,      /* highest id + 1; the largest known vocabularies have about 2^18 */
    VOCAB_TEXT_MAX = 1 << 29, /* bytes of all token texts */
    BYTE_CHAR_MAX = 0x144,    /* GPT-2's byte letters are U+0021..U+0143 */
};

enum { TOKEN_PRESENT = 1, TOKEN_RAW = 2, TOKEN_ADDED = 4, TOKEN_SPECIAL = 8, TOKEN_RENAMED = 16 };

struct token {
    uint32_t at, n; /* content, in vocab.text */
    uint32_t raw_at,
        raw_n; /* raw text; TOKEN_RAW unset: the content has none in a byte-level vocabulary */
    unsigned flags;
};

struct pair {
    uint64_t key; /* left << 32 | right; all ones: free slot */
    uint32_t rank;
    int32_t id;
};

/* A slot tells by itself whether a look at the text is worth it: one cache miss less. */
struct vocab_slot {
    uint32_t tag; /* upper half of the hash */
    uint32_t id1; /* id + 1; 0: free; SLOT_ADDED: the model does not know the token */
    uint32_t at;
    uint32_t key; /* length; SLOT_LITERAL: the text is a content that has no raw text */
};
#define SLOT_ADDED   0x80000000u
#define SLOT_LITERAL 0x80000000u

struct vocab {
    bool byte_level;
    struct token *tokens; /* owned [n] */
    size_t n, cap;
    struct buf text;          /* owned */
    struct vocab_slot *slots; /* owned */
    size_t slot_mask, n_slots_used;
    struct pair *pairs; /* owned */
    size_t pair_mask, n_pairs;

    /* set by vocab_seal */
    int32_t char_id[256];     /* byte-level: of each byte; else of each ASCII character; -1: none */
    int32_t fallback_id[256]; /* of <0x00>..<0xFF>, -1: none */
    size_t raw_max;           /* longest raw text of the model */

    /* what the model says of unknown characters */
    bool byte_fallback, fuse_unk, ignore_merges;
    int32_t unk; /* -1: dropped */

    /* Symbols that may meet in a merge, by class of the left one's last and the right one's first
     * character (junction_class); between two others the text can be cut. Unused if byte_level. */
    bool can_cut;
    uint8_t junction[130][130];
};

void vocab_init(struct vocab *v, bool byte_level, size_t n_tokens, size_t n_merges);
void vocab_free(struct vocab *v);
/* A second text for an id, or an id past VOCAB_MAX, is SL_EFORMAT. */
int vocab_add(struct vocab *v, int64_t id, struct str content, unsigned flags, struct sl_error *e);
/* Ids of the pair's halves; a pair named twice takes the later rank. */
void vocab_add_pair(struct vocab *v, int32_t left, int32_t right, uint32_t rank, int32_t id);
/* After the last token and pair: the tables by character. */
void vocab_seal(struct vocab *v);

/* Id of a raw text in the model, or -1. Tokens that are only added are not found. */
int32_t vocab_find_raw(const struct vocab *v, const char *p, size_t n);
/* Id of a content, of the model or added, or -1. */
int32_t vocab_find(const struct vocab *v, struct str content);

static inline struct str token_content(const struct vocab *v, const struct token *t)
{
    return (struct str){v->text.p + t->at, t->n};
}
static inline struct str token_raw(const struct vocab *v, const struct token *t)
{
    return (struct str){v->text.p + t->raw_at, t->raw_n};
}
static inline const struct token *vocab_token(const struct vocab *v, int32_t id)
{
    return id >= 0 && (size_t)id < v->n && v->tokens[id].flags ? &v->tokens[id] : NULL;
}

static inline uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}
static inline size_t pair_slot(uint64_t key)
{
    key *= UINT64_C(0x9E3779B97F4A7C15);
    return (size_t)(key ^ key >> 29) * UINT64_C(0xBF58476D1CE4E5B9) >> 24;
}
/* The merge of two ids, or NULL. */
static inline const struct pair *vocab_pair(const struct vocab *v, int32_t left, int32_t right)
{
    uint64_t key = pair_key(left, right);
    for (size_t i = pair_slot(key) & v->pair_mask;; i = (i + 1) & v->pair_mask) {
        if (v->pairs[i].key == key) return &v->pairs[i];
        if (v->pairs[i].key == UINT64_MAX) return NULL;
    }
}

/* Hash of a short text; not keyed: only model files fill the tables. */
uint64_t text_hash(const char *p, size_t n);

/* GPT-2's byte letters: printable Latin-1 stands for itself, the rest for U+0100 and up. */
int byte_to_char(unsigned char byte); /* its letter */
int char_to_byte(int32_t cp);         /* or -1 */
void put_byte_chars(struct buf *out, struct str bytes);
/* false when a character is no byte letter; out then holds a part. */
bool put_char_bytes(struct buf *out, struct str chars);

/* ASCII character: itself; U+2581: 128; any other: 129. *len: bytes of the character. */
static inline int junction_class(const char *p, size_t n, int *len)
{
    unsigned char c = (unsigned char)p[0];
    *len = c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    if (c < 0x80) return c;
    return n >= 3 && memcmp(p, "\xE2\x96\x81", 3) == 0 ? 128 : 129;
}

#endif
