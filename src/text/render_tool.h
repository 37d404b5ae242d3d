/* render_tool.h - `sluice render --chat-template F --jsonl`: a template on lines of globals. */
#ifndef TEXT_RENDER_TOOL_H
#define TEXT_RENDER_TOOL_H

#include <stdio.h>

#include "base/buf.h"

/* For each line of `in`, an object whose members are the template's variables exactly as given
 * ("messages", "tools", ...), one line of `out`: {"output": text} or {"error": text}. The member
 * "now"
 * ("2025-07-26T13:05:09") is the clock of strftime_now. 0, or 1 when the template does not compile
 * (the reason goes to stderr). */
int render_jsonl(struct str template_source, FILE *in, FILE *out);

#endif
