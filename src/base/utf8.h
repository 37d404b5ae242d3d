/* utf8.h - decoding, encoding and validating UTF-8 (RFC 3629: no surrogates, no overlong forms). */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The code point at p (n >= 1 bytes left) and its length in *len. A malformed or cut sequence gives
 * -1 with *len = the number of bytes to skip (>= 1, the maximal ill-formed prefix, as Unicode's
 * "substitution of maximal subparts" and Rust's from_utf8_lossy do). */
static inline int32_t utf8_next(const char *s, size_t n, int *len)
{
    const unsigned char *p = (const unsigned char *)s;
    unsigned c = p[0];
    *len = 1;
    if (c < 0x80) return (int32_t)c;
    if (c < 0xC2 || c > 0xF4) return -1;
    int need = c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3;
    int32_t cp = (int32_t)(c & (0x3Fu >> need));
    unsigned lo = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    unsigned hi = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    for (int i = 1; i <= need; i++, lo = 0x80, hi = 0xBF) {
        if ((size_t)i >= n || p[i] < lo || p[i] > hi) return -1;
        cp = (cp << 6) | (p[i] & 0x3F);
        *len = i + 1;
    }
    return cp;
}

/* Writes 1 to 4 bytes; returns how many. cp must be a scalar value. */
static inline int utf8_put(char out[4], uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | ((cp >> 6) & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | ((cp >> 12) & 0x3F));
    out[2] = (char)(0x80 | ((cp >> 6) & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

/* Whole-string check. */
static inline bool utf8_valid(const char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        if ((unsigned char)p[i] < 0x80) {
            i++;
            continue;
        }
        int len;
        if (utf8_next(p + i, n - i, &len) < 0) return false;
        i += (size_t)len;
    }
    return true;
}

/* How many bytes at the end of p are the start of a sequence that could still become valid (0..3):
 * what a streaming decoder must hold back. */
static inline size_t utf8_incomplete_tail(const char *p, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)p[n - back];
        if (c < 0x80) return 0;
        if (c >= 0xC2 && c <= 0xF4) {
            size_t need = c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
            if (need <= back) return 0;
            unsigned char d = back > 1 ? (unsigned char)p[n - back + 1] : 0x9F;
            bool bad = back > 1 && ((c == 0xE0 && d < 0xA0) || (c == 0xED && d > 0x9F) ||
                                    (c == 0xF0 && d < 0x90) || (c == 0xF4 && d > 0x8F));
            return bad ? 0 : back;
        }
        if (c >= 0xC0) return 0;
    }
    return 0;
}

#endif
