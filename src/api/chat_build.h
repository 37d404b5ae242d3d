/* chat_build.h - writing a chat body: how requests of the kin formats (Responses, Messages) become
 * one, so that everything after that is the chat's own path.
 *
 * Messages come first, in order: build_begin, turns and tool results, build_end_messages, then
 * members, build_end. A message is gathered in one open turn until the next one begins: what an
 * assistant said may come in several items (reasoning, text, calls). One owner, no locks.
 */
#ifndef API_CHAT_BUILD_H
#define API_CHAT_BUILD_H

#include "api/fields.h"

struct chat_build {
    struct buf out;                       /* owned */
    const char *role;                     /* of the open turn; NULL: none is open */
    struct buf reasoning, content, calls; /* owned: of the open turn */
    bool has_content;
    size_t start; /* of the list of messages */
};

void build_begin(struct chat_build *b, size_t max);
void build_free(struct chat_build *b);

/* A new message; role is a literal. One without text and calls is left out. */
void build_turn(struct chat_build *b, const char *role);
/* More of the open turn; parts: a string, or an array of parts with a text each (checked). */
void build_text(struct chat_build *b, const json_node *parts);
void build_reasoning(struct chat_build *b, struct str text);
void build_call(struct chat_build *b, struct str id, struct str name, struct str arguments);
/* Is the open turn the assistant's, and so far without text and calls? */
bool build_is_thinking(const struct chat_build *b);
/* A message of its own; parts may be NULL. Nothing is open afterwards. */
void build_tool_result(struct chat_build *b, struct str call_id, const json_node *parts);

void build_end_messages(struct chat_build *b);
/* The key of the next member, up to its value. */
void build_key(struct chat_build *b, const char *name);
/* The members of `from` that `names` (NULL-terminated) lists and that are there, unchanged. */
void build_copy(struct chat_build *b, const json_node *from, const char *const *names);
void build_end(struct chat_build *b);

/* A tool in the chat's form; schema may be NULL. */
struct build_tool {
    const json_node *name, *description, *schema, *strict; /* each NULL: not given */
};
void build_tool(struct buf *out, const struct build_tool *t);

/* What sampling and templates read besides the fields that each format names itself: the same names
 * in all of them. NULL-terminated. */
extern const char *const build_shared_fields[];

#endif
