/* sse_reader.h - server-sent events from the bytes of a body, and what an event of an OpenAI stream
 * says. Bounded memory; one owner; any bytes, cut anywhere.
 */
#ifndef BENCH_SSE_READER_H
#define BENCH_SSE_READER_H

#include "base/buf.h"

enum { SSE_EVENT_MAX = 4 << 20 };

struct sse_reader {
    struct buf line; /* owned: an unfinished line */
    struct buf data; /* owned: the event's data so far */
    bool has_data;
    bool is_bad; /* a line or an event was longer than SSE_EVENT_MAX */
};
typedef void (*sse_event_fn)(void *arg, struct str data);

void sse_reader_init(struct sse_reader *r);
void sse_reader_reset(struct sse_reader *r); /* for the next stream; keeps memory */
void sse_reader_free(struct sse_reader *r);
/* Calls fn for each event whose blank line is in; data is valid during the call. */
void sse_reader_feed(struct sse_reader *r, const char *p, size_t n, sse_event_fn fn, void *arg);

/* What the answer to one request has said so far. */
struct reply {
    int64_t prompt_tokens, completion_tokens, cached_tokens; /* usage; -1: not told */
    int64_t n_chunks;                                        /* events with text */
    bool is_done;                                            /* [DONE], or a whole body */
    bool is_bad;                                             /* an event that is no JSON object */
    char error[160];                                         /* an error's message, or "" */
};
void reply_init(struct reply *a);
/* One event of a stream. Returns true when it carries text: a token chunk. */
bool reply_event(struct reply *a, struct str data);
/* The body of an answer that is not streamed, or of an error. */
void reply_body(struct reply *a, struct str body);

#endif
