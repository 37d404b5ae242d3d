/* added.c - finding added tokens in text: leftmost, then longest, as tokenizers does.
 *
 * The contents lie sorted, so the ones that begin as the text does form a range, which narrows with
 * each byte. A position costs at most the length of the longest content.
 */
#include <stdlib.h>

#include "base/utf8.h"
#include "text/tokenizer_impl.h"

void added_push(struct added_set *s, struct added_token t)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 64;
        s->tokens = xrealloc(s->tokens, s->cap * sizeof *s->tokens);
    }
    t.order = (uint32_t)s->n;
    s->tokens[s->n++] = t;
}

void added_free(struct added_set *s)
{
    free(s->tokens);
}

static int by_content(const void *a, const void *b)
{
    const struct added_token *x = a, *y = b;
    size_t n = x->content.n < y->content.n ? x->content.n : y->content.n;
    int c = memcmp(x->content.p, y->content.p, n);
    if (c == 0) c = (x->content.n > y->content.n) - (x->content.n < y->content.n);
    if (c == 0) c = y->special - x->special; /* tokenizers lists the special ones first */
    return c ? c : (x->order > y->order) - (x->order < y->order);
}

void added_seal(struct added_set *s)
{
    if (s->n) qsort(s->tokens, s->n, sizeof *s->tokens, by_content);
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++)
        if (n == 0 || !str_eq(s->tokens[n - 1].content, s->tokens[i].content))
            s->tokens[n++] = s->tokens[i];
    s->n = n;
    s->only = n ? (unsigned char)s->tokens[0].content.p[0] : -1;
    size_t i = 0;
    for (int b = 0; b < 256; b++) {
        s->first[b] = i;
        while (i < n && (unsigned char)s->tokens[i].content.p[0] == b) i++;
    }
    s->first[256] = i;
    if (n && (unsigned char)s->tokens[n - 1].content.p[0] != s->only) s->only = -1;
}

/* First token of [lo, hi) whose byte at `depth` is at least c; all are longer than depth. */
static size_t lower_bound(const struct added_set *s, size_t lo, size_t hi, size_t depth, int c)
{
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if ((unsigned char)s->tokens[mid].content.p[depth] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static const struct added_token *longest_at(const struct added_set *s, struct str text, size_t i)
{
    unsigned char b = (unsigned char)text.p[i];
    size_t lo = s->first[b], hi = s->first[b + 1];
    const struct added_token *best = NULL;
    for (size_t depth = 1; lo < hi; depth++) {
        if (s->tokens[lo].content.n == depth) best = &s->tokens[lo++];
        if (lo >= hi || i + depth >= text.n) break;
        int c = (unsigned char)text.p[i + depth];
        lo = lower_bound(s, lo, hi, depth, c);
        hi = lower_bound(s, lo, hi, depth, c + 1);
    }
    return best;
}

static const struct added_token *next_match(const struct added_set *s, struct str text, size_t *at)
{
    for (size_t i = *at; i < text.n; i++) {
        if (s->only >= 0) {
            const char *p = memchr(text.p + i, s->only, text.n - i);
            if (!p) return NULL;
            i = (size_t)(p - text.p);
        }
        const struct added_token *t = longest_at(s, text, i);
        *at = i;
        if (t) return t;
    }
    return NULL;
}

/* The character that ends at `end`, and where it begins. */
static int32_t char_before(struct str text, size_t end, size_t *start)
{
    int len;
    size_t i = end - 1;
    while (i > 0 && ((unsigned char)text.p[i] & 0xC0) == 0x80) i--;
    *start = i;
    return utf8_next(text.p + i, end - i, &len);
}

static bool is_word_alone(struct str text, size_t start, size_t end)
{
    size_t at;
    int len;
    if (start > 0 && unicode_is_word(char_before(text, start, &at))) return false;
    return end >= text.n || !unicode_is_word(utf8_next(text.p + end, text.n - end, &len));
}

bool added_find(const struct added_set *s, struct str text, size_t *from, size_t floor,
                bool parse_special, struct added_match *m)
{
    if (s->n == 0) return false;
    size_t start = *from, at;
    for (const struct added_token *t; (t = next_match(s, text, &start)); start = *from) {
        size_t end = start + t->content.n;
        *from = end;
        if (t->special && !parse_special) continue;
        if (t->single_word && !is_word_alone(text, start, end)) continue;
        while (t->lstrip && start > floor && unicode_is_space(char_before(text, start, &at)))
            start = at;
        int len;
        while (t->rstrip && end < text.n &&
               unicode_is_space(utf8_next(text.p + end, text.n - end, &len)))
            end += (size_t)len;
        *m = (struct added_match){t->id, start, end};
        return true;
    }
    return false;
}
