/* vocab.c - building and searching the vocabulary's two hash tables. */
#include "text/vocab.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/utf8.h"

/* ------------------------------------------------------------------ GPT-2's byte letters */

static bool is_own_letter(int b)
{
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
}

/* The bytes without a letter of their own, in order: 0..0x20, 0x7F..0xA0, 0xAD. */
int byte_to_char(unsigned char b)
{
    if (is_own_letter(b)) return b;
    if (b <= 0x20) return 0x100 + b;
    return b == 0xAD ? 0x143 : 0x100 + 33 + (b - 0x7F);
}

int char_to_byte(int32_t cp)
{
    if (cp < 0 || cp >= BYTE_CHAR_MAX) return -1;
    if (cp < 0x100) return is_own_letter(cp) ? cp : -1;
    if (cp == 0x143) return 0xAD;
    return cp - 0x100 <= 0x20 ? cp - 0x100 : cp - 0x100 - 33 + 0x7F;
}

void put_byte_chars(struct buf *out, struct str bytes)
{
    for (size_t i = 0; i < bytes.n; i++) {
        char text[4];
        buf_put(out, text,
                (size_t)utf8_put(text, (uint32_t)byte_to_char((unsigned char)bytes.p[i])));
    }
}

bool put_char_bytes(struct buf *out, struct str s)
{
    for (size_t i = 0; i < s.n;) {
        int len, b = char_to_byte(utf8_next(s.p + i, s.n - i, &len));
        if (b < 0) return false;
        buf_putc(out, (char)b);
        i += (size_t)len;
    }
    return true;
}

/* ------------------------------------------------------------------ tables */

uint64_t text_hash(const char *p, size_t n)
{
    const uint64_t k = UINT64_C(0x9FB21C651E98DF25);
    uint64_t h = n * k, w;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&w, p, 8);
        h = (h ^ w) * k;
        h ^= h >> 35;
    }
    w = 0;
    for (size_t i = 0; i < n; i++) w = w << 8 | (unsigned char)p[i];
    h = (h ^ w) * k;
    h ^= h >> 32;
    h *= k;
    return h ^ h >> 29;
}

static size_t table_size(size_t n)
{
    size_t size = 64;
    while (size < n + n / 2) size *= 2;
    return size;
}

void vocab_init(struct vocab *v, bool byte_level, size_t n_tokens, size_t n_merges)
{
    *v = (struct vocab){.byte_level = byte_level, .unk = -1, .text = buf_make(VOCAB_TEXT_MAX)};
    size_t n_slots = table_size(n_tokens + 16), n_pairs = table_size(n_merges + 16);
    v->slots = xcalloc(n_slots, sizeof *v->slots);
    v->slot_mask = n_slots - 1;
    v->pairs = xmalloc(n_pairs * sizeof *v->pairs);
    memset(v->pairs, 0xFF, n_pairs * sizeof *v->pairs);
    v->pair_mask = n_pairs - 1;
}

void vocab_free(struct vocab *v)
{
    free(v->tokens);
    free(v->slots);
    free(v->pairs);
    buf_free(&v->text);
}

/* The slot that holds the text, or the free one where it belongs. space: 0 or SLOT_LITERAL. */
static struct vocab_slot *find_slot(const struct vocab *v, struct str s, uint32_t space,
                                    uint64_t hash)
{
    uint32_t key = (uint32_t)s.n | space;
    for (size_t i = hash & v->slot_mask;; i = (i + 1) & v->slot_mask) {
        struct vocab_slot *slot = &v->slots[i];
        if (!slot->id1) return slot;
        if (slot->tag == hash >> 32 && slot->key == key &&
            memcmp(v->text.p + slot->at, s.p, s.n) == 0)
            return slot;
    }
}

static void grow_slots(struct vocab *v)
{
    size_t n = v->slot_mask + 1;
    struct vocab_slot *old = v->slots;
    v->slots = xcalloc(n * 2, sizeof *v->slots);
    v->slot_mask = n * 2 - 1;
    for (size_t i = 0; i < n; i++) {
        struct str s = {v->text.p + old[i].at, old[i].key & ~SLOT_LITERAL};
        uint32_t space = old[i].key & SLOT_LITERAL;
        if (old[i].id1) *find_slot(v, s, space, text_hash(s.p, s.n)) = old[i];
    }
    free(old);
}

static void put_slot(struct vocab *v, uint32_t id, const struct token *t)
{
    if ((v->n_slots_used + 1) * 4 > (v->slot_mask + 1) * 3) grow_slots(v);
    bool literal = !(t->flags & TOKEN_RAW), added = t->flags & TOKEN_ADDED;
    struct str s = literal ? token_content(v, t) : token_raw(v, t);
    uint32_t space = literal ? SLOT_LITERAL : 0;
    uint64_t hash = text_hash(s.p, s.n);
    struct vocab_slot *slot = find_slot(v, s, space, hash);
    if (!slot->id1) v->n_slots_used++;
    *slot = (struct vocab_slot){.tag = (uint32_t)(hash >> 32),
                                .id1 = (id + 1) | (added ? SLOT_ADDED : 0),
                                .at = literal ? t->at : t->raw_at,
                                .key = (uint32_t)s.n | space};
    if (!literal && !added && s.n > v->raw_max) v->raw_max = s.n;
}

static void grow_tokens(struct vocab *v, size_t n)
{
    if (n > v->cap) {
        size_t cap = v->cap ? v->cap * 2 : 1024;
        if (cap < n) cap = n;
        v->tokens = xrealloc(v->tokens, cap * sizeof *v->tokens);
        memset(v->tokens + v->cap, 0, (cap - v->cap) * sizeof *v->tokens);
        v->cap = cap;
    }
    if (n > v->n) v->n = n;
}

int vocab_add(struct vocab *v, int64_t id, struct str content, unsigned flags, struct sl_error *e)
{
    if (id < 0 || id >= VOCAB_MAX)
        return sl_fail(e, SL_EFORMAT, "tokenizer: token id %lld is out of range", (long long)id);
    grow_tokens(v, (size_t)id + 1);
    struct token *t = &v->tokens[id];
    if (t->flags) {
        if (!str_eq(token_content(v, t), content))
            return sl_fail(e, SL_EFORMAT, "tokenizer: id %lld has two tokens", (long long)id);
        t->flags |= flags;
        return 0;
    }
    t->at = t->raw_at = (uint32_t)v->text.n;
    t->n = t->raw_n = (uint32_t)content.n;
    t->flags = flags | TOKEN_PRESENT | TOKEN_RAW;
    buf_put_str(&v->text, content);
    if (v->byte_level) {
        size_t at = v->text.n;
        bool mapped = put_char_bytes(&v->text, content);
        size_t n = v->text.n - at;
        bool same = mapped && n == content.n && memcmp(v->text.p + at, content.p, n) == 0;
        if (!mapped || same) v->text.n = at;
        if (!same) t->raw_at = (uint32_t)at;
        t->raw_n = mapped ? (uint32_t)n : 0;
        if (!mapped) t->flags &= ~(unsigned)TOKEN_RAW;
    }
    if (v->text.overflow) return sl_fail(e, SL_EFORMAT, "tokenizer: token texts are too long");
    put_slot(v, (uint32_t)id, t);
    return 0;
}

int32_t vocab_find_raw(const struct vocab *v, const char *p, size_t n)
{
    if (n > v->raw_max) return -1;
    uint32_t id1 = find_slot(v, (struct str){p, n}, 0, text_hash(p, n))->id1;
    return id1 & SLOT_ADDED ? -1 : (int32_t)id1 - 1;
}

int32_t vocab_find(const struct vocab *v, struct str content)
{
    struct buf raw = buf_make(VOCAB_TEXT_MAX);
    struct str s = content;
    uint32_t space = 0;
    if (content.n > VOCAB_TEXT_MAX) return -1;
    if (v->byte_level) {
        if (put_char_bytes(&raw, content))
            s = (struct str){buf_cstr(&raw), raw.n};
        else
            space = SLOT_LITERAL;
    }
    uint32_t id1 = find_slot(v, s, space, text_hash(s.p, s.n))->id1;
    buf_free(&raw);
    return (int32_t)(id1 & ~SLOT_ADDED) - 1;
}

static struct pair *free_pair(struct vocab *v, uint64_t key)
{
    size_t i = pair_slot(key) & v->pair_mask;
    while (v->pairs[i].key != UINT64_MAX && v->pairs[i].key != key) i = (i + 1) & v->pair_mask;
    return &v->pairs[i];
}

static void grow_pairs(struct vocab *v)
{
    size_t n = v->pair_mask + 1;
    struct pair *old = v->pairs;
    v->pairs = xmalloc(n * 2 * sizeof *v->pairs);
    memset(v->pairs, 0xFF, n * 2 * sizeof *v->pairs);
    v->pair_mask = n * 2 - 1;
    for (size_t i = 0; i < n; i++)
        if (old[i].key != UINT64_MAX) *free_pair(v, old[i].key) = old[i];
    free(old);
}

void vocab_add_pair(struct vocab *v, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    if ((v->n_pairs + 1) * 4 > (v->pair_mask + 1) * 3) grow_pairs(v);
    struct pair *p = free_pair(v, pair_key(left, right));
    if (p->key == UINT64_MAX) v->n_pairs++;
    *p = (struct pair){pair_key(left, right), rank, id};
}

/* ------------------------------------------------------------------ sealing */

/* Class of the last character. */
static int last_class(struct str s)
{
    size_t i = s.n - 1;
    while (i > 0 && ((unsigned char)s.p[i] & 0xC0) == 0x80) i--;
    int len;
    return junction_class(s.p + i, s.n - i, &len);
}

static void seal_junctions(struct vocab *v)
{
    int len;
    for (size_t i = 0; i <= v->pair_mask; i++) {
        if (v->pairs[i].key == UINT64_MAX) continue;
        struct str a = token_raw(v, &v->tokens[v->pairs[i].key >> 32]);
        struct str b = token_raw(v, &v->tokens[v->pairs[i].key & UINT32_MAX]);
        if (a.n && b.n) v->junction[last_class(a)][junction_class(b.p, b.n, &len)] = 1;
    }
    /* A character without a token becomes other symbols, whose merges the text does not show. */
    for (int c = 0; c < 130; c++) {
        bool known =
            c < 128 ? v->char_id[c] >= 0 : c == 128 && vocab_find_raw(v, "\xE2\x96\x81", 3) >= 0;
        for (int d = 0; !known && d < 130; d++) v->junction[c][d] = v->junction[d][c] = 1;
    }
    for (int c = 0; c < 128; c++) v->can_cut = v->can_cut || !v->junction[c][128];
}

void vocab_seal(struct vocab *v)
{
    for (int b = 0; b < 256; b++) {
        char text[8] = {(char)b};
        v->char_id[b] = v->byte_level || b < 128 ? vocab_find_raw(v, text, 1) : -1;
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)b);
        v->fallback_id[b] = v->byte_fallback ? vocab_find_raw(v, text, strlen(text)) : -1;
    }
    if (!v->byte_level) seal_junctions(v);
}
