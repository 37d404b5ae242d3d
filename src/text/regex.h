/* regex.h - the regular expressions of tokenizer files, over PCRE2; the only user of pcre2.h.
 *
 * Patterns are written for Oniguruma (Ruby syntax). The few spots where PCRE2 reads them otherwise
 * are rewritten at compile time: \s and \S to \p{White_Space} (PCRE2's \s takes U+180E too), \w and
 * \d to Unicode's classes, ^ and $ per line; nested classes and && are refused. A compiled pattern
 * is immutable; the scratch belongs to one call.
 */
#ifndef TEXT_REGEX_H
#define TEXT_REGEX_H

#include "base/buf.h"
#include "base/err.h"

struct regex; /* opaque, immutable */

struct regex_scratch {
    void *match, *context, *stack; /* owned; PCRE2's, made at first use */
};

int regex_compile(struct regex **out, struct str pattern, struct sl_error *e);
void regex_free(struct regex *r); /* NULL is fine */
/* The first match in text (valid UTF-8) at or after byte `from`: 1 with [*start, *end), or 0.
 * Passing a match limit is SL_EINVAL, never "no match". */
int regex_find(const struct regex *r, struct regex_scratch *s, struct str text, size_t from,
               size_t *start, size_t *end);
void regex_scratch_free(struct regex_scratch *s);

#endif
