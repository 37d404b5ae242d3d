/* bpe.h - byte-pair encoding of one pre-token, as tokenizers' BPE model does it.
 *
 * Short pieces scan for the lowest rank; long ones keep a heap, so that a piece of n characters
 * costs n log n at most. The scratch belongs to one call of tokenizer_encode; its cache remembers
 * the ids of short pieces, since text repeats its words.
 */
#ifndef TEXT_BPE_H
#define TEXT_BPE_H

#include "text/tokenizer.h"
#include "text/vocab.h"

struct bpe_symbol {
    int32_t id;
    int32_t merged;      /* id of this symbol and the next, where rank says there is a merge */
    uint32_t rank;       /* UINT32_MAX: no merge with the next; or this symbol is gone */
    uint32_t prev, next; /* UINT32_MAX: none */
};

struct bpe_cached; /* one line of the cache */

struct bpe_scratch {
    struct bpe_symbol *symbols; /* owned */
    size_t n, cap;
    uint64_t *heap; /* owned; rank << 32 | position */
    size_t n_heap, heap_cap;
    struct bpe_cached *cache; /* owned; NULL: none */
    size_t cache_mask;
    struct buf raw; /* for pieces in byte letters */
};

/* text_bytes: how much text is to come, which decides the cache's size. */
void bpe_scratch_init(struct bpe_scratch *s, size_t text_bytes);
void bpe_scratch_free(struct bpe_scratch *s);
/* Append the ids of a piece of raw text. Pieces of more than 2^31 bytes are a bug of the caller's.
 */
void bpe_encode(const struct vocab *v, struct bpe_scratch *s, struct str piece, struct ids *out);

#endif
