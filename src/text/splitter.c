/* splitter.c - see splitter.h. One function for each alternative of the patterns, tried in their
 * order. */
#include "text/splitter.h"

#include "base/utf8.h"
#include "text/unicode.h"

const char splitter_gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char splitter_llama3_pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char splitter_qwen2_pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

enum splitter splitter_of(struct str pattern)
{
    if (str_is(pattern, splitter_gpt2_pattern)) return SPLITTER_GPT2;
    if (str_is(pattern, splitter_llama3_pattern)) return SPLITTER_LLAMA3;
    if (str_is(pattern, splitter_qwen2_pattern)) return SPLITTER_QWEN2;
    return SPLITTER_NONE;
}

#define O CLASS_OTHER
#define L CLASS_LETTER
#define N CLASS_NUMBER
#define S CLASS_SPACE
#define R CLASS_NEWLINE
static const uint8_t ascii_class[128] = {O, O, O, O, O, O, O, O, O, S, R, S, S, R, O, O,
                                         O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, /**/
                                         S, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O,
                                         N, N, N, N, N, N, N, N, N, N, O, O, O, O, O, O, /**/
                                         O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L,
                                         L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O, /**/
                                         O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L,
                                         L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O};
#undef O
#undef L
#undef N
#undef S
#undef R

/* Class of the character at i < s.n and its length. */
static inline enum char_class class_at(struct str s, size_t i, int *len)
{
    unsigned char c = (unsigned char)s.p[i];
    *len = 1;
    return c < 0x80 ? (enum char_class)ascii_class[c]
                    : unicode_class(utf8_next(s.p + i, s.n - i, len));
}

static inline size_t run_of(struct str s, size_t i, enum char_class class)
{
    for (int len; i < s.n && class_at(s, i, &len) == class;) i += (size_t)len;
    return i;
}

/* End of "'s", "'ll" and so on at the apostrophe i, or i. */
static size_t contraction(struct str s, size_t i, bool any_case)
{
    if (i + 1 >= s.n) return i;
    unsigned char a = (unsigned char)s.p[i + 1], b = i + 2 < s.n ? (unsigned char)s.p[i + 2] : 0;
    if (any_case && a == 0xC5 && b == 0xBF) return i + 3; /* U+017F is an s */
    if (any_case && a >= 'A' && a <= 'Z') a |= 32;
    if (any_case && b >= 'A' && b <= 'Z') b |= 32;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
    if ((b == 'e' && (a == 'r' || a == 'v')) || (a == 'l' && b == 'l')) return i + 3;
    return i;
}

/* The three alternatives for white space, of which i is one. */
static size_t spaces(struct str s, size_t i, bool newlines)
{
    size_t j = i, last = i, after_newline = 0;
    for (int len; j < s.n; j += (size_t)len) {
        enum char_class class = class_at(s, j, &len);
        if (class != CLASS_SPACE && class != CLASS_NEWLINE) break;
        last = j;
        if (class == CLASS_NEWLINE) after_newline = j + 1;
    }
    if (newlines && after_newline) return after_newline;
    return j == s.n || last == i ? j : last; /* before a word its space stays with it */
}

static size_t next_gpt2(struct str s, size_t i)
{
    int len;
    if (s.p[i] == '\'') {
        size_t end = contraction(s, i, false);
        if (end > i) return end;
    }
    size_t from = s.p[i] == ' ' && i + 1 < s.n ? i + 1 : i;
    enum char_class class = class_at(s, from, &len);
    if (class == CLASS_SPACE || class == CLASS_NEWLINE) return spaces(s, i, false);
    return run_of(s, from + (size_t)len, class);
}

static size_t next_llama3(struct str s, size_t i, int digits_max)
{
    int len, next_len;
    enum char_class class = class_at(s, i, &len);
    size_t next = i + (size_t)len;
    if (class == CLASS_LETTER) return run_of(s, next, CLASS_LETTER);
    if (class == CLASS_NUMBER) {
        for (int n = 1; n < digits_max && next < s.n; n++) {
            if (class_at(s, next, &len) != CLASS_NUMBER) break;
            next += (size_t)len;
        }
        return next;
    }
    if (class == CLASS_NEWLINE) return spaces(s, i, true);
    if (s.p[i] == '\'') {
        size_t end = contraction(s, i, true);
        if (end > i) return end;
    }
    enum char_class following = next < s.n ? class_at(s, next, &next_len) : CLASS_NEWLINE;
    if (following == CLASS_LETTER) return run_of(s, next, CLASS_LETTER);
    if (class == CLASS_SPACE && !(s.p[i] == ' ' && following == CLASS_OTHER))
        return spaces(s, i, true);
    return run_of(s, run_of(s, next, CLASS_OTHER), CLASS_NEWLINE);
}

size_t splitter_next(enum splitter kind, struct str text, size_t i)
{
    if (kind == SPLITTER_GPT2) return next_gpt2(text, i);
    return next_llama3(text, i, kind == SPLITTER_LLAMA3 ? 3 : 1);
}
