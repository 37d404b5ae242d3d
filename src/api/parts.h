/* parts.h - an answer as a row of parts (reasoning, text, calls), as the Responses and the Messages
 * format list them: which part is open, and what it holds so far.
 *
 * Fed with the events of the answer parser; tells a format's writer when a part begins, grows and
 * ends. Streams and whole answers are made by the same calls: a whole answer is the finished parts.
 * Belongs to its api_response; io thread.
 */
#ifndef API_PARTS_H
#define API_PARTS_H

#include "api/answer_parse.h"
#include "api/out.h"

enum part_kind { PART_NONE, PART_REASONING, PART_TEXT, PART_CALL };

struct parts {
    enum part_kind open;
    int n_parts;              /* begun so far; the open one is the last */
    struct buf text;          /* of the open part: its text, or a call's arguments */
    struct buf logprobs;      /* of the open part: entries, comma-separated */
    struct buf call_id, name; /* of the open call */
    struct buf done;          /* the finished ones as JSON, comma-separated */
    uint64_t n_events;        /* Responses: the next sequence_number */
    bool is_whole_call;       /* the open call has all its arguments */
};

/* What a format writes at each of these; `out` takes the stream's events and is not looked at
 * otherwise. */
struct part_writer {
    void (*begin)(struct api_response *p, struct buf *out);
    void (*grow)(struct api_response *p, struct str text, const struct slice *lp, struct buf *out);
    void (*end)(struct api_response *p, bool is_cut, struct buf *out);
};

struct parts *parts_new(void);
void parts_free(struct parts *y); /* NULL is fine */

/* Takes what choice 0 has ready; after its end nothing more comes. */
void parts_drain(struct api_response *p, const struct part_writer *w, struct buf *out);

#endif
