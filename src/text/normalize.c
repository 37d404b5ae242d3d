/* normalize.c - the normalizer steps of a tokenizer, each from one buffer to the next. */
#include "base/utf8.h"
#include "text/tokenizer_impl.h"

int pattern_find(const struct pattern *p, struct regex_scratch *s, struct str text, size_t from,
                 size_t *start, size_t *end)
{
    if (p->re) return regex_find(p->re, s, text, from, start, end);
    if (p->literal.n == 0 || from >= text.n) return 0;
    const char *at = memmem(text.p + from, text.n - from, p->literal.p, p->literal.n);
    if (!at) return 0;
    *start = (size_t)(at - text.p);
    *end = *start + p->literal.n;
    return 1;
}

int pattern_replace(const struct pattern *p, struct regex_scratch *s, struct str text,
                    struct str content, struct buf *out)
{
    size_t done = 0, from = 0, start, end;
    int found;
    while ((found = pattern_find(p, s, text, from, &start, &end)) > 0) {
        buf_put(out, text.p + done, start - done);
        buf_put_str(out, content);
        done = from = end;
        if (end > start) continue;
        if (end >= text.n) break;
        int len; /* an empty match: go on behind the next character */
        utf8_next(text.p + end, text.n - end, &len);
        from = end + (size_t)len;
    }
    TRY(found);
    buf_put(out, text.p + done, text.n - done);
    return 0;
}

/* Length of the white space at the left end. */
static size_t space_left(struct str s)
{
    size_t i = 0;
    for (int len; i < s.n && unicode_is_space(utf8_next(s.p + i, s.n - i, &len));) i += (size_t)len;
    return i;
}

static size_t space_right(struct str s)
{
    size_t end = s.n;
    while (end > 0) {
        size_t i = end - 1;
        int len;
        while (i > 0 && ((unsigned char)s.p[i] & 0xC0) == 0x80) i--;
        if (!unicode_is_space(utf8_next(s.p + i, end - i, &len))) break;
        end = i;
    }
    return s.n - end;
}

/* Rust's char::to_lowercase, one character at a time: no context, and one character that becomes
 * two. */
static void put_lower(struct buf *out, struct str s)
{
    for (size_t i = 0; i < s.n;) {
        int len;
        char text[4];
        int32_t cp = utf8_next(s.p + i, s.n - i, &len);
        if (cp == 0x130)
            buf_puts(out, "i\xCC\x87");
        else
            buf_put(out, text, (size_t)utf8_put(text, (uint32_t)unicode_lower(cp)));
        i += (size_t)len;
    }
}

static void put_without_marks(struct buf *out, struct str s)
{
    for (size_t i = 0; i < s.n;) {
        int len;
        if (!unicode_is_mark(utf8_next(s.p + i, s.n - i, &len))) buf_put(out, s.p + i, (size_t)len);
        i += (size_t)len;
    }
}

static int run_step(const struct norm_step *step, struct regex_scratch *s, struct str text,
                    struct buf *out)
{
    switch (step->kind) {
    case NORM_FORM:
        return unicode_normalize(out, text, step->form);
    case NORM_LOWER:
        put_lower(out, text);
        return 0;
    case NORM_PREPEND:
        if (text.n) buf_put_str(out, step->content);
        buf_put_str(out, text);
        return 0;
    case NORM_REPLACE:
        return pattern_replace(&step->pattern, s, text, step->content, out);
    case NORM_STRIP: {
        size_t left = step->left ? space_left(text) : 0;
        struct str rest = {text.p + left, text.n - left};
        buf_put(out, rest.p, rest.n - (step->right ? space_right(rest) : 0));
        return 0;
    }
    case NORM_STRIP_ACCENTS:
        put_without_marks(out, text);
        return 0;
    case NORM_BYTE_CHARS:
        put_byte_chars(out, text);
        return 0;
    }
    return SL_EINTERNAL;
}

int normalize_run(const struct norm_step *steps, int n, struct regex_scratch *s, struct str text,
                  struct buf *out)
{
    struct buf held = buf_make(out->max); /* what the step before made */
    int code = 0;
    for (int i = 0; i < n && code == 0; i++) {
        struct buf next = buf_make(out->max);
        code = run_step(&steps[i], s, text, &next);
        if (code == 0 && next.overflow) code = SL_ETOOLARGE;
        buf_free(&held);
        held = next;
        text = (struct str){held.p ? held.p : "", held.n};
    }
    if (code == 0) buf_put_str(out, text);
    buf_free(&held);
    return code == 0 && out->overflow ? SL_ETOOLARGE : code;
}
