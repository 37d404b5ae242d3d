/* answer_formats.h - how model families write calls and thinking, as data.
 *
 * A row says which literal texts surround a section of calls, a call, its name and its arguments;
 * answer_parse.c reads any of them. Which row a model needs shows in its chat template, which
 * prints past calls with the same markers. Immutable; any thread.
 * Source: the models' chat templates; vLLM's parser names where there are any.
 */
#ifndef API_ANSWER_FORMATS_H
#define API_ANSWER_FORMATS_H

#include "api/literal.h"

/* Patterns below are literal texts in which `~` stands for blanks (at most BLANKS_MAX of them, or
 * none), and what follows a `?` may be absent. */
enum { FORMAT_BLANKS_MAX = 256, FORMAT_OPENS = 2 };

enum call_body {
    CALL_OBJECT, /* {"name": ..., "arguments": {...}}, members in any order */
    CALL_NAMED,  /* a name, name_end, then the arguments */
};

enum call_args {
    ARGS_JSON,   /* an object; `{` also ends the name */
    ARGS_PYTHON, /* key=value, ... up to `)` */
    ARGS_GEMMA,  /* key:value, ... up to `}` */
    ARGS_TAGS,   /* key_open KEY key_end VALUE value_end, repeated; `<` also ends the name */
};

struct call_format {
    const char *name, *aliases;      /* of --tool-call-parser; aliases apart by blanks */
    const char *marks;               /* a model has this format if its template holds all of these,
                                        apart by blanks (or all of those behind a line's end); NULL:
                                        chosen only by name, or as another row's `other` */
    const char *opens[FORMAT_OPENS]; /* texts that begin a section. At the second one nothing is
                                        skipped: the pattern `before` reads it again */
    bool is_harmony;      /* gpt-oss: channels, read by answer_harmony.c; no more fields */
    bool is_bare;         /* the answer itself may be a section, without an opener */
    bool has_known_names; /* ... then only names of given tools make a call */
    bool has_own_ids;     /* the name is an id, functions.NAME:N, to be kept */
    bool has_short_ids;   /* the template wants ids of 9 letters or digits */
    enum call_body body;
    enum call_args args;
    const char *first, *next, *close; /* patterns: before the first call, between two, at the end */
    const char *before, *after;       /* patterns: around each call */
    const char *name_end;             /* literal */
    const char *name_cut;             /* literal in the name, behind which is no name any more */
    const char *key_open, *key_end;   /* ARGS_TAGS: pattern; literal */
    const char *value_open;           /* ARGS_TAGS: pattern between key_end and the value */
    const char *type_end;             /* ARGS_TAGS: literal behind "true" or "false" after key_end:
                                         is the value a string? */
    const char *value_end;            /* ARGS_TAGS: literal */
    const char *name_key, *args_key;  /* CALL_OBJECT, written: NULL: "name" and "arguments" */
    const char *blank;                /* what `~` is when a call is written; NULL: nothing */
    bool is_call_a_section;           /* ... and each call has a section of its own */
    const char *other;                /* the row to try where this one does not fit */
};

struct reasoning_format {
    const char *name, *aliases; /* of --reasoning-parser */
    const char *marks;          /* as above */
    const char *open, *close;   /* literals around the thinking */
    bool is_harmony;            /* gpt-oss: channels */
};

/* By a name or alias; NULL: there is none. */
const struct call_format *call_format_named(struct str name);
const struct reasoning_format *reasoning_format_named(struct str name);
/* By a chat template's source; NULL: it shows none. */
const struct call_format *call_format_of(struct str template_source);
const struct reasoning_format *reasoning_format_of(struct str template_source);
/* All names, for an error's text: "hermes, llama3_json, ...". */
void call_format_names(struct buf *out);
void reasoning_format_names(struct buf *out);

/* With what does a text (a prompt) end, but for blanks: with the opening of thinking, or its close? */
enum reasoning_state { REASONING_NONE, REASONING_OPEN, REASONING_CLOSED };
enum reasoning_state reasoning_at_end(const struct reasoning_format *f, struct str text);

/* Does one of the row's markers (or of the rows it leads to) contain this text? Such a special token
 * must be shown to the parser although special tokens are not shown. f may be NULL: false. */
bool call_format_uses(const struct call_format *f, struct str special);
bool reasoning_format_uses(const struct reasoning_format *f, struct str special);

#endif
