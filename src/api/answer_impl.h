/* answer_impl.h - the state of the answer parser, shared by its files. Not for others.
 *
 * Text waits in `in` from `lo` on; `at` is how far the construct that is being read has come. Until
 * a call has begun its text is kept, so that it can come out as content if it proves to be none.
 * Each phase is a function that reads on from `at`; it says whether to go on or that more text is
 * needed. What was refused is never read again, which keeps the work linear.
 */
#ifndef API_ANSWER_IMPL_H
#define API_ANSWER_IMPL_H

#include "api/answer_formats.h"
#include "api/answer_parse.h"

/* HELD: text of a call whose name is not known yet. */
enum { NAME_BYTES_MAX = 256, HELD_BYTES_MAX = 1 << 20 };

enum go { GO, MORE };

enum phase {
    P_START,     /* does thinking open? */
    P_REASONING, /* until its close */
    P_LEAD,      /* newlines between thinking and content */
    P_CONTENT,   /* until the opener of a section */
    P_SECTION,   /* behind the opener: the pattern `first` */
    P_BEFORE,    /* the pattern `before` */
    P_NAME,
    P_ARGS,   /* arguments of a named call as one value */
    P_TAG,    /* ARGS_TAGS: the next key, or the end */
    P_KEY,    /* ... its name */
    P_OPEN,   /* ... what stands between it and its value */
    P_VALUE,  /* ... its value */
    P_OBJECT, /* CALL_OBJECT */
    P_AFTER,  /* the pattern `after` */
    P_NEXT,   /* `close`, or `next` and another call */
    P_HEADER, /* harmony: up to <|message|> */
    P_BODY,   /* harmony: up to the message's end */
    P_OVER,   /* what follows does not count */
};

enum object_at { O_OPEN, O_KEY, O_KEY_TEXT, O_COLON, O_VALUE, O_NAME, O_ARGS, O_TEXT_ARGS, O_SKIP };
enum body_kind { BODY_CONTENT, BODY_REASONING, BODY_CALL };

struct queued {
    enum answer_kind kind;
    int index;
    size_t off, n, n_id; /* in `texts`; CALL: the id, then the name */
    uint64_t from, to;
};

struct answer {
    struct answer_setup s;
    enum phase phase;
    bool is_ended;

    struct buf in;
    size_t lo, at, scan, solid; /* scan: searched so far; solid: behind the last non-blank */
    uint64_t base;              /* position of in.p[0] in the answer's text */

    struct queued *ev; /* owned; [head, n_ev) are to be taken */
    size_t n_ev, cap_ev, head;
    struct buf texts;

    bool has_content, has_reasoning, is_bare_tried;
    bool has_text_begun;   /* the newline behind an opener was looked for */
    bool is_bare;          /* the running section has no opener */
    bool is_section_begun; /* a call of the running section has come */
    size_t section_at;     /* where `first` is read: for the other row */
    bool is_other;         /* the other row is being tried */
    struct buf gap;        /* blanks between content and a call: shown if content follows */

    const struct call_format *row;
    int n_calls, n_complete;
    bool is_broken;
    bool has_name, is_begun, is_closed; /* of the running call: CALL and CALL_END were said */
    struct buf name, id, args;          /* args: what was read before the call has begun */
    struct literal lit;
    struct buf word; /* a short text: key, name, type */
    enum object_at object;
    bool has_args, is_args_done;

    struct buf key, value; /* of ARGS_TAGS */
    unsigned types;
    bool is_text, has_keys;

    enum body_kind body;
};

/* ---- answer_parse.c: events and content ---- */
uint64_t pos_of(const struct answer *a, size_t i);
void emit_content(struct answer *a, size_t from, size_t to); /* bytes of `in` */
void emit_reasoning(struct answer *a, struct str text);
void emit_arguments(struct answer *a, struct str text);
void say_call(struct answer *a); /* CALL with a->id and a->name */
void say_call_end(struct answer *a);
/* The text from lo on is content after all: back to searching. A section's first refusal tries the
 * other row. */
enum go refuse(struct answer *a);
/* More text is needed; at the end of it, there is no more: an unbegun call is content. */
enum go starve(struct answer *a);

/* ---- answer_calls.c ---- */
enum fit { FIT, MISFIT, UNSURE };
/* Does `in` from `at` on fit the pattern? *len: how many bytes. NULL fits nothing. */
enum fit match(const struct answer *a, const char *pattern, size_t at, size_t *len);
/* The literal z at position i of `in`, a part of it at the end being UNSURE. */
enum fit match_text(const struct answer *a, size_t i, const char *z);
/* How many bytes at the end of `in`, from position `from` on, may be the start of z. */
size_t held_for(const struct answer *a, size_t from, const char *z);
void call_reset(struct answer *a);
/* Say CALL and the arguments read so far. */
void call_begin(struct answer *a);
void call_end(struct answer *a);
enum go run_call_phase(struct answer *a);
/* Arguments as one value from `at` on: GO when DONE or refused (phase changed), else MORE. */
enum go read_arguments(struct answer *a, enum phase then);

/* It does not fit: an unbegun call is content; of one that has begun the rest is. */
enum go misfit(struct answer *a);
/* Read up to `at`; what was read of a call that has begun is done with. */
void commit(struct answer *a, size_t at);
enum go next_phase(struct answer *a, enum phase p); /* unless the answer is over */
/* Up to the literal `end` (left out) into *out; `cut`, if not 0, also ends it and stays. UNSURE: more
 * is needed. MISFIT: not within the limit, or a byte that no name has. */
enum fit read_short(struct answer *a, const char *end, char cut, struct buf *out);
struct str strip(struct str s); /* without blanks around it */
/* Feed the running literal, an object of arguments. GO: *state tells of its end. */
enum go feed_object(struct answer *a, enum literal_state *state);
/* The running literal read that many bytes on. */
enum go was_fed(struct answer *a, size_t used, enum literal_state *state);

/* ---- answer_tags.c, answer_object.c ---- */
enum go run_tag(struct answer *a);
enum go run_key(struct answer *a);
enum go run_open(struct answer *a);
enum go run_value(struct answer *a);
enum go run_object(struct answer *a);

/* ---- answer_harmony.c ---- */
enum go run_header(struct answer *a);
enum go run_body(struct answer *a);

static inline bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

#endif
