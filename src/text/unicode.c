/* unicode.c - utf8proc behind unicode.h. */
#include "text/unicode.h"

#include <stdlib.h>
#include <utf8proc.h>

bool unicode_is_space(int32_t cp)
{
    if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13);
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

enum char_class unicode_class(int32_t cp)
{
    if (cp == '\n' || cp == '\r') return CLASS_NEWLINE;
    if (unicode_is_space(cp)) return CLASS_SPACE;
    utf8proc_category_t cat = utf8proc_category(cp);
    if (cat >= UTF8PROC_CATEGORY_LU && cat <= UTF8PROC_CATEGORY_LO) return CLASS_LETTER;
    if (cat >= UTF8PROC_CATEGORY_ND && cat <= UTF8PROC_CATEGORY_NO) return CLASS_NUMBER;
    return CLASS_OTHER;
}

bool unicode_is_mark(int32_t cp)
{
    utf8proc_category_t cat = utf8proc_category(cp);
    return cat >= UTF8PROC_CATEGORY_MN && cat <= UTF8PROC_CATEGORY_ME;
}

bool unicode_is_word(int32_t cp)
{
    utf8proc_category_t cat = utf8proc_category(cp);
    return (cat >= UTF8PROC_CATEGORY_LU && cat <= UTF8PROC_CATEGORY_NL) ||
           cat == UTF8PROC_CATEGORY_PC || cp == 0x200C || cp == 0x200D ||
           (cp >= 0x24B6 && cp <= 0x24E9) || /* circled and squared letters are Alphabetic */
           (cp >= 0x1F130 && cp <= 0x1F149) || (cp >= 0x1F150 && cp <= 0x1F169) ||
           (cp >= 0x1F170 && cp <= 0x1F189);
}

int32_t unicode_lower(int32_t cp)
{
    return utf8proc_tolower(cp);
}

/* Every character below U+0300 is its own NFC, and every one below U+00A0 its own form of any kind.
 */
static bool is_normal(struct str s, enum normal_form form)
{
    unsigned char first = form == FORM_NFC ? 0xCC : 0x80;
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] >= first) return false;
    return true;
}

int unicode_normalize(struct buf *out, struct str text, enum normal_form form)
{
    if (is_normal(text, form)) {
        buf_put_str(out, text);
        return 0;
    }
    int options = UTF8PROC_STABLE;
    options |= form == FORM_NFC || form == FORM_NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    if (form == FORM_NFKC || form == FORM_NFKD) options |= UTF8PROC_COMPAT;
    utf8proc_uint8_t *to = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text.p, (utf8proc_ssize_t)text.n,
                                      &to, (utf8proc_option_t)options);
    if (n >= 0) buf_put(out, to, (size_t)n);
    free(to);
    return n >= 0 ? 0 : n == UTF8PROC_ERROR_NOMEM ? SL_ENOMEM : SL_EINVAL;
}
