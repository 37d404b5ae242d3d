/* answer_parse.h - what a chat answer's text means: reasoning, content, tool calls.
 *
 * Text goes in piece by piece, events come out; how the text is cut into pieces never changes the
 * concatenation of what comes out. Streams and whole answers both read the events, so they cannot
 * differ. The formats are data (answer_formats.h); this is the one parser for all of them. What
 * looks like a call and is none comes out as content; nothing is lost, nothing is invented. The
 * work is linear in the text. One owner (the io thread).
 */
#ifndef API_ANSWER_PARSE_H
#define API_ANSWER_PARSE_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/json.h"

struct call_format; /* a row of answer_formats.h */
struct reasoning_format;

/* ------------------------------------------------------------------ what comes out */

enum answer_kind {
    ANSWER_CONTENT,   /* text that the client sees */
    ANSWER_REASONING, /* text of the model's thinking */
    ANSWER_CALL,      /* call `index` begins: id and name, both complete */
    ANSWER_ARGUMENTS, /* the next piece of its arguments, which concatenate to one JSON object */
    ANSWER_CALL_END,  /* it is complete. Calls never interleave; a call that the end of the text
                         cut off, or that broke, has no CALL_END */
};

struct answer_event {
    enum answer_kind kind;
    int index;           /* of the call, from 0 up; -1 for text */
    struct str text;     /* CONTENT, REASONING, ARGUMENTS: whole characters, never empty */
    struct str id, name; /* CALL: the id is "call_" and 24 letters or digits, 9 for Mistral's
                            templates, or what the model wrote where its template wants that back */
    uint64_t from, to;   /* CONTENT: the bytes of the answer's own text that it covers */
};

/* ------------------------------------------------------------------ the tools of a request */

enum tool_choice { TOOLS_NONE, TOOLS_AUTO, TOOLS_REQUIRED, TOOLS_NAMED };

enum { /* what a parameter's schema allows, as bits; no bit: the schema does not say */
       PARAM_STRING = 1,
       PARAM_NULL = 2,
       PARAM_OTHER = 4 /* number, integer, boolean, object, array */
};

struct tool_param {
    struct str name;
    unsigned types;
};

struct tool {
    struct str name;
    const struct tool_param *params; /* [n_params]: the properties of its schema */
    size_t n_params;
};

struct tool_set {
    const struct tool *v; /* [n], all in the request's arena */
    size_t n;
    enum tool_choice choice;
    struct str named; /* NAMED: the one to be called */
    bool no_parallel; /* at most one call an answer */
};

/* ------------------------------------------------------------------ the parser */

struct answer_setup {
    const struct call_format *calls;          /* NULL: no calls are looked for */
    const struct reasoning_format *reasoning; /* NULL: none is looked for */
    bool starts_in_reasoning;                 /* the prompt ends inside an open thinking block */
    bool drop_reasoning;                      /* include_reasoning false: no REASONING events */
    const struct tool_set *tools;             /* borrowed; NULL: none */
    struct str id_seed;                       /* makes call ids unique: the response's id */
    int id_choice;
};

struct answer; /* opaque; owns its state */

struct answer *answer_new(const struct answer_setup *setup);
void answer_free(struct answer *a); /* NULL is fine */
/* The next piece of the answer's text: valid UTF-8, cut between characters. */
void answer_push(struct answer *a, struct str text);
/* The text is over: what was held back comes out. */
void answer_end(struct answer *a);
/* The next event, oldest first; false when there is none. `max` cuts a piece of text. The event's
 * texts are valid until the next call on a. */
bool answer_take(struct answer *a, size_t max, struct answer_event *out);

/* The same event, without taking it. */
bool answer_peek(const struct answer *a, struct answer_event *out);

bool answer_in_reasoning(const struct answer *a); /* pushed text ends inside thinking */
/* no_parallel and a call is complete: nothing that follows counts, the generation may be ended. */
bool answer_is_over(const struct answer *a);
/* Calls that are complete, and not one that is broken: finish_reason is "tool_calls". */
bool answer_has_calls(const struct answer *a);

/* ------------------------------------------------------------------ a whole answer */

struct answer_call {
    struct buf id, name, arguments;
    bool is_complete;
};

/* The events of a finished answer, gathered. */
struct answer_whole {
    struct buf content, reasoning;
    struct answer_call *calls; /* owned [n_calls] */
    size_t n_calls;
};
void answer_gather(struct answer_whole *w, const struct answer_event *ev);
void answer_whole_free(struct answer_whole *w);

#endif
