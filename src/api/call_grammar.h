/* call_grammar.h - the grammar of an answer that must be calls: tool_choice `required` or a name.
 *
 * Made from a row of answer_formats.h, so that what the model must write is what the parser reads.
 * Formats whose arguments are no JSON (tags, Python, Gemma's) are written as a plain JSON list
 * instead, and read by its row. Pure; any thread.
 */
#ifndef API_CALL_GRAMMAR_H
#define API_CALL_GRAMMAR_H

#include "api/answer_formats.h"
#include "api/answer_parse.h"
#include "text/grammar.h"

struct call_grammar {
    const struct call_format *format; /* the row that reads what is written */
    struct grammar_tags tags;
};

/* tools: the request's array, of which `set` tells what may be called; format may be NULL. `ahead`:
 * text in front of everything, such as the end of a thinking block that the prompt opened. What *out
 * points to lies in the arena or in the tree. SL_ETOOLARGE: the arena is full. */
int call_grammar_make(struct call_grammar *out, const struct call_format *format,
                      const json_node *tools, const struct tool_set *set, struct str ahead,
                      struct arena *arena);

#endif
