/* splitter.h - hand-written splitters for the patterns that most tokenizers use.
 *
 * GPT-2's pattern and its heirs of Llama 3 and Qwen 2 are recognised by their exact text. They
 * match at every position, so a text is cut into matches without gaps. Several times as fast as the
 * regex engine, which the unit test holds them against.
 */
#ifndef TEXT_SPLITTER_H
#define TEXT_SPLITTER_H

#include "base/buf.h"

enum splitter { SPLITTER_NONE, SPLITTER_GPT2, SPLITTER_LLAMA3, SPLITTER_QWEN2 };

extern const char splitter_gpt2_pattern[], splitter_llama3_pattern[], splitter_qwen2_pattern[];

enum splitter splitter_of(struct str pattern);
/* End of the match that begins at i < text.n; text is valid UTF-8. */
size_t splitter_next(enum splitter kind, struct str text, size_t i);

#endif
