/* kin.h - the request formats that are kin to the chat (Responses, Messages): what they share on the
 * way in. Not for other layers.
 */
#ifndef API_KIN_H
#define API_KIN_H

#include "api/api_impl.h"
#include "api/chat_build.h"

/* What a Responses request means for its answer; in the request's arena. */
struct response_form {
    struct str echo;        /* members of the answer that repeat the request, each with its comma */
    struct str input;       /* the input's items, comma-separated; kept requests only */
    struct str previous_id; /* p NULL: none */
    bool has_instructions;  /* the first message is theirs: no part of the history */
    bool has_input;         /* else the last message stands for none */
    bool is_stored, wants_summary;
    bool drops_oldest; /* truncation auto */
    bool is_joined;    /* the messages have their history in front */
};

/* The body through its translation and the chat's reader; sets r->doc. */
int kin_read(struct api_request *r, struct str body, struct sl_error *e);

/* In an error's param: the field that the client wrote, for the one the chat's path names. */
void kin_rename_param(enum api_kind surface, struct sl_error *e);

/* responses_in.c, anthropic_in.c: check the body at root and write the chat body it amounts to. */
int responses_write(struct api_request *r, const json_node *root, struct chat_build *b,
                    struct sl_error *e);
int anthropic_write(struct api_request *r, const json_node *root, struct chat_build *b,
                    struct sl_error *e);
/* After the chat's reader: the answer's members that repeat the request. */
int responses_echo(struct api_request *r, const json_node *root, struct sl_error *e);
/* Kept items as messages. */
int responses_put_history(struct chat_build *b, const json_node *items, struct sl_error *e);

/* prepare.c: the messages through the template and the tokenizer, into the prompt. */
int prepare_messages(struct api_request *r, struct sl_error *e);
/* history.c: drop the oldest turns until the prompt, as prepared, leaves room for the answer; where
 * even the newest alone is too long it stays so. */
int history_fit(struct api_request *r, struct sl_error *e);

/* A required string member `name` of the object at the path `at` ("" for the body). */
int kin_string(const json_node *object, const char *at, const char *name, struct str *out,
               struct sl_error *e);
/* As kin_string for the member `name` that names a tool: 1 to 64 of [A-Za-z0-9_-]. */
int kin_tool_name(const json_node *object, const char *at, struct str *out, struct sl_error *e);
/* A part whose type is one of `types` (NULL-terminated), with a string `text` (`refusal` in a part of
 * that type); and a string, or an array of such parts. */
int kin_part(const json_node *part, const char *at, const char *const *types, struct sl_error *e);
int kin_text(const json_node *v, const char *at, const char *const *types, struct sl_error *e);

#endif
