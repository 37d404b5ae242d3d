/* unicode.h - character classes and normal forms, over utf8proc; the only user of utf8proc.h. Pure.
 */
#ifndef TEXT_UNICODE_H
#define TEXT_UNICODE_H

#include "base/buf.h"
#include "base/err.h"

/* What the split patterns of GPT-2 and its heirs tell apart. */
enum char_class { CLASS_OTHER, CLASS_LETTER, CLASS_NUMBER, CLASS_SPACE, CLASS_NEWLINE };
enum char_class unicode_class(int32_t cp);

bool unicode_is_space(int32_t cp); /* White_Space */
bool unicode_is_mark(int32_t cp);  /* general category M */
bool unicode_is_word(int32_t cp);  /* \w: letters, marks, numbers, connectors */
int32_t unicode_lower(int32_t cp); /* simple mapping */

enum normal_form { FORM_NFC, FORM_NFD, FORM_NFKC, FORM_NFKD };
/* Append text (valid UTF-8) in the normal form. */
int unicode_normalize(struct buf *out, struct str text, enum normal_form form);

#endif
