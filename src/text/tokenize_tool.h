/* tokenize_tool.h - the work of `sluice tokenize MODEL --jsonl`, on streams that the caller opened.
 */
#ifndef TEXT_TOKENIZE_TOOL_H
#define TEXT_TOKENIZE_TOOL_H

#include <stdio.h>

#include "text/tokenizer.h"

/* For each line {"text", "add_special_tokens"} of `in` (add_special_tokens absent: true) writes a
 * line
 * {"ids", "decoded", "decoded_skip_special"}, or {"error"} for a line that is no such object. The
 * result is negative if writing failed, else the number of lines with an error. */
int tokenize_jsonl(const struct tokenizer *t, FILE *in, FILE *out);

#endif
