/* bpe.c - byte-pair encoding; see bpe.h. The order of merges is tokenizers': lowest rank first,
 * among equals the leftmost. */
#include "text/bpe.h"

#include <stdlib.h>

#include "base/utf8.h"

enum {
    SCAN_MAX = 40,         /* symbols up to which a scan beats the heap */
    CACHE_TEXT_MIN = 1024, /* shorter texts repeat too little */
    CACHE_LINES_MAX = 4096,
    CACHED_BYTES = 30,
    CACHED_IDS = 8,
};

#define NONE UINT32_MAX

struct bpe_cached {
    uint8_t n_bytes, n_ids; /* n_bytes 0: empty */
    char bytes[CACHED_BYTES];
    int32_t ids[CACHED_IDS];
};
_Static_assert(sizeof(struct bpe_cached) == 64, "one cache line of the processor");

void bpe_scratch_init(struct bpe_scratch *s, size_t text_bytes)
{
    *s = (struct bpe_scratch){.raw = buf_make(SIZE_MAX / 2)};
    if (text_bytes < CACHE_TEXT_MIN) return;
    size_t lines = 64;
    while (lines < CACHE_LINES_MAX && lines * 16 < text_bytes) lines *= 2;
    s->cache = xcalloc(lines, sizeof *s->cache);
    s->cache_mask = lines - 1;
}

void bpe_scratch_free(struct bpe_scratch *s)
{
    free(s->symbols);
    free(s->heap);
    free(s->cache);
    buf_free(&s->raw);
}

/* ------------------------------------------------------------------ text to symbols */

static void push_symbol(struct bpe_scratch *s, int32_t id)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 256;
        s->symbols = xrealloc(s->symbols, s->cap * sizeof *s->symbols);
    }
    s->symbols[s->n++].id = id;
}

/* A character without a token: bytes, the unknown token, or nothing. A run of unknown tokens stays
 * pending until a known character comes, as in tokenizers; a byte fallback does not end it. */
static void push_unknown(const struct vocab *v, struct bpe_scratch *s, const char *p, int n,
                         bool *pending)
{
    bool bytes = v->byte_fallback;
    for (int i = 0; i < n; i++) bytes = bytes && v->fallback_id[(unsigned char)p[i]] >= 0;
    for (int i = 0; bytes && i < n; i++) push_symbol(s, v->fallback_id[(unsigned char)p[i]]);
    if (bytes || v->unk < 0) return;
    if (*pending && !v->fuse_unk) push_symbol(s, v->unk);
    *pending = true;
}

static void make_symbols(const struct vocab *v, struct bpe_scratch *s, struct str piece)
{
    bool pending = false;
    s->n = 0;
    for (size_t i = 0; i < piece.n;) {
        unsigned char c = (unsigned char)piece.p[i];
        int len = 1;
        int32_t id = v->char_id[c];
        if (!v->byte_level && c >= 0x80) {
            utf8_next(piece.p + i, piece.n - i, &len);
            id = vocab_find_raw(v, piece.p + i, (size_t)len);
        }
        if (id < 0) {
            push_unknown(v, s, piece.p + i, len, &pending);
        } else {
            if (pending) push_symbol(s, v->unk);
            pending = false;
            push_symbol(s, id);
        }
        i += (size_t)len;
    }
    if (pending) push_symbol(s, v->unk);
}

/* ------------------------------------------------------------------ merging */

static void set_pair(const struct vocab *v, struct bpe_symbol *a, const struct bpe_symbol *b)
{
    const struct pair *p = vocab_pair(v, a->id, b->id);
    a->rank = p ? p->rank : NONE;
    a->merged = p ? p->id : -1;
}

static void merge_scanning(const struct vocab *v, struct bpe_scratch *s)
{
    struct bpe_symbol *sym = s->symbols;
    size_t n = s->n;
    for (size_t i = 0; i + 1 < n; i++) set_pair(v, &sym[i], &sym[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (sym[i].rank < sym[best].rank) best = i;
        if (sym[best].rank == NONE) break;
        sym[best].id = sym[best].merged;
        n--;
        for (size_t i = best + 1; i < n; i++) sym[i] = sym[i + 1];
        if (best + 1 < n) set_pair(v, &sym[best], &sym[best + 1]);
        if (best > 0) set_pair(v, &sym[best - 1], &sym[best]);
    }
    s->n = n;
}

/* A heap of four children a node: half the depth, and one cache line a level. */
static void sift_down(uint64_t *heap, size_t n, size_t i)
{
    uint64_t v = heap[i];
    for (size_t child; (child = i * 4 + 1) < n; i = child) {
        size_t end = child + 4 < n ? child + 4 : n;
        for (size_t c = child + 1; c < end; c++)
            if (heap[c] < heap[child]) child = c;
        if (heap[child] >= v) break;
        heap[i] = heap[child];
    }
    heap[i] = v;
}

static void heap_push(struct bpe_scratch *s, uint64_t v)
{
    if (s->n_heap == s->heap_cap) {
        s->heap_cap = s->heap_cap ? s->heap_cap * 2 : 256;
        s->heap = xrealloc(s->heap, s->heap_cap * sizeof *s->heap);
    }
    size_t i = s->n_heap++;
    for (; i > 0 && s->heap[(i - 1) / 4] > v; i = (i - 1) / 4) s->heap[i] = s->heap[(i - 1) / 4];
    s->heap[i] = v;
}

static void heap_pop(struct bpe_scratch *s)
{
    s->heap[0] = s->heap[--s->n_heap];
    if (s->n_heap > 1) sift_down(s->heap, s->n_heap, 0);
}

static void fill_heap(const struct vocab *v, struct bpe_scratch *s)
{
    s->n_heap = 0;
    if (s->heap_cap < s->n) {
        s->heap_cap = s->n;
        s->heap = xrealloc(s->heap, s->heap_cap * sizeof *s->heap);
    }
    for (uint32_t i = 0; i < s->n; i++) {
        struct bpe_symbol *a = &s->symbols[i];
        a->prev = i > 0 ? i - 1 : NONE;
        a->next = i + 1 < s->n ? i + 1 : NONE;
        a->rank = NONE;
        if (a->next != NONE) set_pair(v, a, a + 1);
        if (a->rank != NONE) s->heap[s->n_heap++] = (uint64_t)a->rank << 32 | i;
    }
    for (size_t i = s->n_heap / 4 + 1; i-- > 0;)
        if (i < s->n_heap) sift_down(s->heap, s->n_heap, i);
}

/* The pair that begins at symbol i has changed. */
static void renew_pair(const struct vocab *v, struct bpe_scratch *s, uint32_t i)
{
    struct bpe_symbol *a = &s->symbols[i];
    a->rank = NONE;
    if (a->next != NONE) set_pair(v, a, &s->symbols[a->next]);
    if (a->rank != NONE) heap_push(s, (uint64_t)a->rank << 32 | i);
}

static void merge_heap(const struct vocab *v, struct bpe_scratch *s)
{
    struct bpe_symbol *sym = s->symbols;
    fill_heap(v, s);
    while (s->n_heap) {
        uint32_t rank = (uint32_t)(s->heap[0] >> 32), i = (uint32_t)s->heap[0];
        heap_pop(s);
        if (sym[i].rank != rank) continue; /* changed or gone since it was pushed */
        uint32_t gone = sym[i].next;
        sym[i].id = sym[i].merged;
        sym[i].next = sym[gone].next;
        sym[gone].rank = NONE;
        if (sym[i].next != NONE) sym[sym[i].next].prev = i;
        renew_pair(v, s, i);
        if (sym[i].prev != NONE) renew_pair(v, s, sym[i].prev);
    }
    size_t n = 0;
    for (uint32_t i = 0; i != NONE;) {
        uint32_t next = sym[i].next;
        sym[n++].id = sym[i].id; /* n <= i: a survivor's slot is never behind the write */
        i = next;
    }
    s->n = n;
}

static void encode_plain(const struct vocab *v, struct bpe_scratch *s, struct str piece,
                         struct ids *out)
{
    int32_t whole = v->ignore_merges ? vocab_find_raw(v, piece.p, piece.n) : -1;
    if (whole >= 0) {
        ids_push(out, whole);
        return;
    }
    make_symbols(v, s, piece);
    if (s->n > SCAN_MAX)
        merge_heap(v, s);
    else
        merge_scanning(v, s);
    for (size_t i = 0; i < s->n; i++) ids_push(out, s->symbols[i].id);
}

static void encode_cached(const struct vocab *v, struct bpe_scratch *s, struct str piece,
                          struct ids *out)
{
    if (!s->cache || piece.n > CACHED_BYTES) {
        encode_plain(v, s, piece, out);
        return;
    }
    struct bpe_cached *line = &s->cache[text_hash(piece.p, piece.n) & s->cache_mask];
    if (line->n_bytes == piece.n && memcmp(line->bytes, piece.p, piece.n) == 0) {
        for (int i = 0; i < line->n_ids; i++) ids_push(out, line->ids[i]);
        return;
    }
    size_t before = out->n;
    encode_plain(v, s, piece, out);
    size_t n_ids = out->n - before;
    if (n_ids > CACHED_IDS) return;
    line->n_bytes = (uint8_t)piece.n;
    line->n_ids = (uint8_t)n_ids;
    memcpy(line->bytes, piece.p, piece.n);
    if (n_ids) memcpy(line->ids, out->v + before, n_ids * sizeof *out->v);
}

void bpe_encode(const struct vocab *v, struct bpe_scratch *s, struct str piece, struct ids *out)
{
    ASSERT(piece.n < UINT32_MAX / 2);
    if (piece.n == 0) return;
    if (!v->can_cut || v->ignore_merges) {
        encode_cached(v, s, piece, out);
        return;
    }
    /* No merge crosses a junction that is not set, so each side can be encoded alone. */
    size_t begin = 0;
    int len, last = junction_class(piece.p, piece.n, &len);
    for (size_t i = (size_t)len; i < piece.n; i += (size_t)len) {
        int class = junction_class(piece.p + i, piece.n - i, &len);
        if (!v->junction[last][class]) {
            encode_cached(v, s, (struct str){piece.p + begin, i - begin}, out);
            begin = i;
        }
        last = class;
    }
    encode_cached(v, s, (struct str){piece.p + begin, piece.n - begin}, out);
}
