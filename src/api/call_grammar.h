/* call_grammar.h - the grammar of an answer that must be calls (tool_choice `required` or a name), or
 * that may hold calls of strict tools (`auto`): then text is free until a call opens.
 *
 * Made from a row of answer_formats.h, so that what the model must write is what the parser reads.
 * Formats whose arguments are no JSON (tags, Python, Gemma's) are written as a plain JSON list
 * instead where calls are asked for, and read by its row; where calls only may come they are not held.
 * Pure; any thread.
 */
#ifndef API_CALL_GRAMMAR_H
#define API_CALL_GRAMMAR_H

#include "api/answer_formats.h"
#include "api/answer_parse.h"
#include "text/grammar.h"

enum { CALL_TRIGGERS = 3, CALL_MIDDLES = 10 };
struct call_grammar {
    const struct call_format *format; /* the row that reads what is written */
    struct grammar_tags tags;
    struct grammar_free free; /* of choice `auto` */
    struct str triggers[CALL_TRIGGERS], middles[CALL_MIDDLES];
};

/* Can calls of this format be held to schemas among free text? f may be NULL: false. */
bool call_grammar_may_be_free(const struct call_format *f);

/* tools: the request's array, of which `set` tells what may be called; format may be NULL, unless the
 * choice is `auto`. `ahead`: text in front of everything, such as the end of a thinking block that
 * the prompt opened. What *out points to lies in the arena, in the tree or in *out itself.
 * SL_ETOOLARGE: the arena is full. */
int call_grammar_make(struct call_grammar *out, const struct call_format *format,
                      const json_node *tools, const struct tool_set *set, struct str ahead,
                      struct arena *arena);

#endif
