/* regex.c - PCRE2 behind regex.h: translation from Oniguruma's syntax, JIT, limits.
 *
 * JIT code runs on 32 KiB of the machine stack; a match that needs more is run again on a stack of
 * its own. Where JIT memory is refused (W^X), PCRE2's interpreter serves, slower. Limits make a
 * pattern with exponential backtracking end in an error.
 */
#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

enum {
    PATTERN_MAX = 16384,     /* bytes; the longest known pattern has about 1,100 */
    MATCH_LIMIT = 10000000,  /* backtracking steps of one match: some 50 ms */
    HEAP_LIMIT_KIB = 262144, /* interpreter's frames */
    JIT_STACK_MIN = 65536,
    JIT_STACK_MAX = 64 << 20,
};

struct regex {
    pcre2_code *code; /* owned */
};

/* ------------------------------------------------------------------ translation */

/* Oniguruma's \w: besides the categories the numbers of Latin-1 and the circled letters. */
#define WORD                                                                                       \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}\\x{24B6}-\\x{24E9}"

/* What an escape of Oniguruma becomes; NULL: copied as it is. */
static const char *escape_for(char c, bool in_class)
{
    switch (c) {
    case 's':
        return "\\p{White_Space}";
    case 'S':
        return "\\P{White_Space}";
    case 'h':
        return in_class ? "0-9A-Fa-f" : "[0-9A-Fa-f]";
    case 'w':
        return in_class ? WORD : "[" WORD "]";
    case 'W':
        return in_class ? NULL : "[^" WORD "]";
    default:
        return NULL;
    }
}

static int translate(struct str in, struct buf *out, struct sl_error *e)
{
    bool in_class = false;
    size_t class_at = 0; /* where the class's first member stands: a ']' there is literal */
    for (size_t i = 0; i < in.n; i++) {
        char c = in.p[i];
        if (c == '\\' && i + 1 < in.n) {
            const char *to = escape_for(in.p[++i], in_class);
            if (to)
                buf_puts(out, to);
            else
                buf_put(out, in.p + i - 1, 2);
            continue;
        }
        if (!in_class && c == '[') {
            in_class = true;
            class_at = i + 1 < in.n && in.p[i + 1] == '^' ? i + 2 : i + 1;
        } else if (in_class && c == ']' && i != class_at) {
            in_class = false;
        } else if (in_class && c == '[') {
            if (i + 1 >= in.n || in.p[i + 1] != ':')
                return sl_fail(e, SL_EFORMAT, "regex: a class within a class is not supported");
            size_t close = i + 2;
            while (close + 1 < in.n && (in.p[close] != ':' || in.p[close + 1] != ']')) close++;
            if (close + 1 >= in.n) return sl_fail(e, SL_EFORMAT, "regex: unterminated [: :]");
            buf_put(out, in.p + i, close + 2 - i);
            i = close + 1;
            continue;
        } else if (in_class && c == '&' && i + 1 < in.n && in.p[i + 1] == '&') {
            return sl_fail(e, SL_EFORMAT, "regex: && in a class is not supported");
        }
        buf_putc(out, c);
    }
    return 0;
}

int regex_compile(struct regex **out, struct str pattern, struct sl_error *e)
{
    *out = NULL;
    if (pattern.n > PATTERN_MAX)
        return sl_fail(e, SL_EFORMAT, "regex of %zu bytes; at most %d", pattern.n, PATTERN_MAX);
    struct buf b = buf_make((size_t)PATTERN_MAX * 64);
    int code = translate(pattern, &b, e), error = 0;
    size_t at = 0;
    pcre2_code *re = NULL;
    if (code == 0)
        re = pcre2_compile((PCRE2_SPTR)buf_cstr(&b), b.n,
                           PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                           &error, &at, NULL);
    buf_free(&b);
    if (code < 0) return code;
    if (!re)
        return sl_fail(e, SL_EFORMAT, "regex does not compile (error %d at byte %zu)", error, at);
    pcre2_jit_compile(re, PCRE2_JIT_COMPLETE); /* refused: the interpreter serves */
    struct regex *r = xcalloc(1, sizeof *r);
    r->code = re;
    *out = r;
    return 0;
}

void regex_free(struct regex *r)
{
    if (!r) return;
    pcre2_code_free(r->code);
    free(r);
}

/* ------------------------------------------------------------------ matching */

static int scratch_make(struct regex_scratch *s)
{
    s->match = pcre2_match_data_create(1, NULL);
    s->context = pcre2_match_context_create(NULL);
    if (!s->match || !s->context) return SL_ENOMEM;
    pcre2_set_match_limit(s->context, MATCH_LIMIT);
    pcre2_set_heap_limit(s->context, HEAP_LIMIT_KIB);
    return 0;
}

void regex_scratch_free(struct regex_scratch *s)
{
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    *s = (struct regex_scratch){0};
}

int regex_find(const struct regex *r, struct regex_scratch *s, struct str text, size_t from,
               size_t *start, size_t *end)
{
    if (!s->context) TRY(scratch_make(s));
    PCRE2_SPTR p = (PCRE2_SPTR)(text.n ? text.p : "");
    int rc = pcre2_match(r->code, p, text.n, from, PCRE2_NO_UTF_CHECK, s->match, s->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !s->stack) {
        s->stack = pcre2_jit_stack_create(JIT_STACK_MIN, JIT_STACK_MAX, NULL);
        if (!s->stack) return SL_ENOMEM;
        pcre2_jit_stack_assign(s->context, NULL, s->stack);
        rc = pcre2_match(r->code, p, text.n, from, PCRE2_NO_UTF_CHECK, s->match, s->context);
    }
    if (rc == PCRE2_ERROR_NOMATCH) return 0;
    if (rc < 0) return SL_EINVAL;
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(s->match);
    *start = at[0];
    *end = at[1] < at[0] ? at[0] : at[1]; /* \K can put the start behind the end */
    return 1;
}
