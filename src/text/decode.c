/* decode.c - ids to text, one token at a time.
 *
 * There is one decoder: tokenizer_decode pushes its ids through the same machine that streams, so
 * the two cannot differ. A token's text walks through the list of decode steps; a step may hold it
 * back (an unfinished character, a run of byte tokens, spaces that a strip at the end may take).
 */
#include <limits.h>

#include "base/utf8.h"
#include "text/tokenizer_impl.h"

#define REPLACEMENT "\xEF\xBF\xBD"

/* "<0xHH>" -> its byte, or -1. */
static int byte_token(struct str s)
{
    int v = 0;
    if (s.n != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>') return -1;
    for (int i = 3; i < 5; i++) {
        char c = s.p[i];
        bool is_digit = c >= '0' && c <= '9', is_letter = (c | 32) >= 'a' && (c | 32) <= 'f';
        if (!is_digit && !is_letter) return -1;
        v = v * 16 + (is_digit ? c - '0' : (c | 32) - 'a' + 10);
    }
    return v;
}

static bool begins(struct str s, struct str with)
{
    return s.n >= with.n && str_eq((struct str){s.p, with.n}, with);
}
static bool ends(struct str s, struct str with)
{
    return s.n >= with.n && str_eq((struct str){s.p + (s.n - with.n), with.n}, with);
}

/* ------------------------------------------------------------------ steps that hold back */

/* Move the valid characters of held to `to`; a broken one as U+FFFD; an unfinished one stays. */
static void flush_chars(struct detok *d, struct buf *to, bool end)
{
    const char *p = d->held.p;
    size_t n = d->held.n, i = 0;
    while (i < n) {
        int len;
        bool valid = utf8_next(p + i, n - i, &len) >= 0;
        if (!valid && !end && utf8_incomplete_tail(p + i, n - i) == n - i) break;
        if (valid)
            buf_put(to, p + i, (size_t)len);
        else
            buf_puts(to, REPLACEMENT);
        i += (size_t)len;
    }
    buf_consume(&d->held, i);
}

/* One more byte of a byte-fallback run. From the first byte on that cannot be UTF-8 all of the run
 * is U+FFFD, one a byte. */
static void run_byte(struct detok *d, int byte, struct buf *to)
{
    if (d->is_bad_run) {
        buf_puts(to, REPLACEMENT);
        return;
    }
    buf_putc(&d->held, (char)byte);
    const char *p = d->held.p + d->n_whole;
    size_t n = d->held.n - d->n_whole;
    int len;
    if (utf8_next(p, n, &len) >= 0) {
        d->n_whole = d->held.n;
    } else if (utf8_incomplete_tail(p, n) != n) {
        for (size_t i = 0; i < d->held.n; i++) buf_puts(to, REPLACEMENT);
        d->held.n = d->n_whole = 0;
        d->is_bad_run = true;
    }
}

static void run_end(struct detok *d, struct buf *to)
{
    if (d->n_whole == d->held.n) buf_put(to, d->held.p, d->held.n);
    for (size_t i = 0; d->n_whole < d->held.n && i < d->held.n; i++) buf_puts(to, REPLACEMENT);
    d->held.n = d->n_whole = 0;
    d->is_bad_run = false;
}

/* Strip on the whole text: cut the start now, hold what the end may lose. */
static void strip_fused(struct detok *d, const struct dec_step *step, struct str s, struct buf *to)
{
    struct str c = step->content;
    for (; d->n_stripped < step->start && begins(s, c); d->n_stripped++) {
        s.p += c.n;
        s.n -= c.n;
    }
    if (s.n == 0) return;
    d->n_stripped = INT_MAX;
    int tail = 0;
    while (tail < step->stop && ends(s, c)) {
        s.n -= c.n;
        tail++;
    }
    if (s.n == 0 && tail < step->stop) { /* nothing but such characters: they join the held ones */
        tail += d->n_tail;
        d->n_tail = tail < step->stop ? tail : step->stop;
        tail -= d->n_tail;
        for (; tail > 0; tail--) buf_put_str(to, c);
        return;
    }
    for (; d->n_tail > 0; d->n_tail--) buf_put_str(to, c);
    buf_put_str(to, s);
    d->n_tail = tail;
}

/* ------------------------------------------------------------------ steps on one token */

static void strip_token(const struct dec_step *step, struct str *s)
{
    struct str c = step->content;
    for (int i = 0; i < step->start && begins(*s, c); i++) {
        s->p += c.n;
        s->n -= c.n;
    }
    for (int i = 0; i < step->stop && ends(*s, c); i++) s->n -= c.n;
}

static void replace(const struct dec_step *step, struct str s, struct str by, struct buf *to)
{
    struct regex_scratch regex = {0};
    if (pattern_replace(&step->pattern, &regex, s, by, to) <
        0) { /* past a limit: the token as it is */
        to->n = 0;
        buf_put_str(to, s);
    }
    regex_scratch_free(&regex);
}

static void letters_to_bytes(struct buf *to, struct str s)
{
    size_t before = to->n;
    if (put_char_bytes(to, s)) return;
    to->n = before;
    buf_put_str(to, s);
}

/* One step from s to `to`. end: s is what the last flush left, and the step lets go of what it
 * holds. */
static void run_step(struct detok *d, const struct dec_step *step, struct str s, bool end,
                     struct buf *to)
{
    int byte = -1;
    switch (step->kind) {
    case DEC_REPLACE:
        replace(step, s, step->content, to);
        return;
    case DEC_METASPACE:
        replace(step, s, d->is_begun || step->scheme == PREPEND_NEVER ? STR(" ") : STR(""), to);
        return;
    case DEC_STRIP:
        if (step->fused) {
            strip_fused(d, step, s, to);
            return;
        }
        strip_token(step, &s);
        break;
    case DEC_BYTE_FALLBACK:
        byte = end ? -1 : byte_token(s);
        if (byte >= 0) {
            run_byte(d, byte, to);
            return;
        }
        run_end(d, to);
        break;
    case DEC_BYTE_LEVEL:
        letters_to_bytes(&d->held, s);
        flush_chars(d, to, end);
        return;
    case DEC_SPACES:
        if (d->is_begun && !end) buf_putc(to, ' ');
        break;
    case DEC_FUSE:
        break;
    }
    buf_put_str(to, s);
}

/* Run all steps over s and append what comes out. The text lies in two buffers by turns. */
static void run_steps(struct detok *d, struct str s, bool end, struct buf *out)
{
    const struct tokenizer *t = d->t;
    struct buf hold[2] = {buf_make(SIZE_MAX / 4), buf_make(SIZE_MAX / 4)};
    for (int i = 0; i < t->n_dec; i++) {
        struct buf *to = &hold[i % 2];
        to->n = 0;
        run_step(d, &t->dec[i], s, end, to);
        s = to->n ? buf_str(to) : STR("");
    }
    buf_put_str(out, s);
    buf_free(&hold[0]);
    buf_free(&hold[1]);
}

/* ------------------------------------------------------------------ the interface */

void detok_init(struct detok *d, const struct tokenizer *t, bool skip_special)
{
    *d = (struct detok){.t = t, .skip_special = skip_special, .held = buf_make(SIZE_MAX / 4)};
}

void detok_free(struct detok *d)
{
    buf_free(&d->held);
}

static bool is_skipped(const struct detok *d, int32_t id)
{
    for (size_t i = 0; i < d->n_shown; i++)
        if (d->shown[i] == id) return false;
    return d->skip_special;
}

/* The token's text before any decode step; false: there is none to decode. */
static bool text_of(const struct detok *d, int32_t id, struct str *out)
{
    const struct tokenizer *t = d->t;
    const struct token *tok = vocab_token(&t->vocab, id);
    if (!tok) return false;
    *out = token_content(&t->vocab, tok);
    if (tok->flags & TOKEN_RENAMED)
        for (size_t i = 0; i < t->n_renamed; i++)
            if (t->renamed[i].id == id) *out = t->renamed[i].content;
    bool is_special = (tok->flags & (TOKEN_SPECIAL | TOKEN_RENAMED)) == TOKEN_SPECIAL;
    return !(is_special && is_skipped(d, id));
}

void detok_push(struct detok *d, int32_t id, struct buf *out)
{
    struct str s;
    if (!text_of(d, id, &s)) return;
    run_steps(d, s, false, out);
    d->is_begun = true;
}

void detok_finish(struct detok *d, struct buf *out)
{
    run_steps(d, STR(""), true, out);
    detok_free(d);
}

void detok_prime(struct detok *d, const int32_t *context, size_t n)
{
    struct buf unseen = buf_make(SIZE_MAX / 4);
    for (size_t i = 0; i < n; i++) {
        detok_push(d, context[i], &unseen);
        unseen.n = 0;
    }
    buf_free(&unseen);
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                     struct buf *out)
{
    struct detok d;
    detok_init(&d, t, skip_special);
    for (size_t i = 0; i < n; i++) detok_push(&d, ids[i], out);
    detok_finish(&d, out);
    return out->overflow ? SL_ETOOLARGE : 0;
}

void tokenizer_token_bytes(const struct tokenizer *t, int32_t id, struct buf *out)
{
    const struct token *tok = vocab_token(&t->vocab, id);
    if (!tok) return;
    struct str s = token_content(&t->vocab, tok);
    struct buf hold[2] = {buf_make(SIZE_MAX / 4), buf_make(SIZE_MAX / 4)};
    bool special = tok->flags & TOKEN_SPECIAL;
    for (int i = 0; i < t->n_dec && !special; i++) {
        const struct dec_step *step = &t->dec[i];
        struct buf *to = &hold[i % 2];
        to->n = 0;
        int byte = step->kind == DEC_BYTE_FALLBACK ? byte_token(s) : -1;
        if (byte >= 0)
            buf_putc(to, (char)byte);
        else if (step->kind == DEC_REPLACE)
            replace(step, s, step->content, to);
        else if (step->kind == DEC_METASPACE)
            replace(step, s, STR(" "), to);
        else if (step->kind == DEC_BYTE_LEVEL)
            letters_to_bytes(to, s);
        else
            buf_put_str(to, s);
        s = to->n ? buf_str(to) : STR("");
    }
    buf_put_str(out, s);
    buf_free(&hold[0]);
    buf_free(&hold[1]);
}
