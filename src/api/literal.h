/* literal.h - values as models write them, turned into JSON while they arrive.
 *
 * JSON, Python literals and keyword arguments, and Gemma's form go in, piece by piece; JSON in the
 * form of Python's json.dumps comes out (", " and ": ", non-ASCII kept), as chat templates print it
 * again. Slips that have one meaning are mended: raw control characters in strings, backslashes
 * that escape nothing, a comma too many. Work and memory are linear in the input. No threads.
 */
#ifndef API_LITERAL_H
#define API_LITERAL_H

#include "base/buf.h"

enum { LITERAL_DEPTH_MAX = 64, LITERAL_WORD_MAX = 63 /* what readers of JSON take */ };

enum literal_dialect {
    LITERAL_JSON,
    LITERAL_PYTHON, /* also 'text', True, None, tuples; and JSON's words */
    LITERAL_GEMMA,  /* bare keys, strings between <|"|> */
};

enum literal_state { LITERAL_MORE, LITERAL_DONE, LITERAL_BAD };

struct literal {
    enum literal_dialect dialect;
    uint8_t at;     /* enum place of literal.c */
    uint8_t back;   /* the place after a string: a key or a value */
    char quote;     /* of the running string */
    bool has_value; /* the open container has an element: the next one needs a comma */
    int depth;
    char stack[LITERAL_DEPTH_MAX]; /* what closes each open container */
    size_t n_keys;                 /* keys seen, of all objects */
    int n_hex;                     /* hex digits the running escape still wants */
    uint32_t code;
    size_t n_word;
    char word[LITERAL_WORD_MAX]; /* a running number, word or escape */
};

/* A value. */
void literal_begin(struct literal *l, enum literal_dialect d);
/* Inside an object already: `key=value, ...` up to ')' (PYTHON) or `key:value, ...` up to '}'
 * (GEMMA). */
void literal_begin_arguments(struct literal *l, enum literal_dialect d, struct buf *out);
/* Read s on; JSON is appended to out. Returns how many bytes were read: all of them while MORE; up
 * to the value's end when DONE; up to what does not fit when BAD. */
size_t literal_feed(struct literal *l, struct str s, struct buf *out, enum literal_state *state);
/* How many of the bytes read so far make up a number or word that is not complete, or that made it
 * BAD: nothing of them is in the output. */
size_t literal_held(const struct literal *l);
/* A whole text as one value, blanks around it allowed; false (and out as before) if it is none. */
bool literal_whole(enum literal_dialect d, struct str s, struct buf *out);

/* The inside of a JSON string, appended: what is between the quotes, without them. */
void put_escaped(struct buf *out, struct str s);

#endif
