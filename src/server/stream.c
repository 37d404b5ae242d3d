/* stream.c - the bounded buffer between a generation and the socket of a streaming client.
 *
 * Bytes wait in r->out up to stream_buffer_bytes. While it is full, engine events wait unformatted
 * (32 bytes a token instead of some 250), up to HELD_TIMES the buffer's size; a client that is
 * still behind then, or reads nothing for write_timeout, is cancelled. So a client costs bounded
 * memory however slow it is, and one that is merely slower than the engine loses nothing. MHD asks
 * for bytes when the socket takes them; with none to give the connection is suspended, since a
 * reader that returns 0 without that makes MHD spin.
 */
#include <stdlib.h>

#include "server/http_request.h"

enum { HELD_TIMES = 4, COMPACT_BYTES = 65536 };

static size_t unread(const struct request *r)
{
    return r->out.n - r->sent;
}

bool stream_is_full(const struct request *r)
{
    return r->n_held || unread(r) >= (size_t)r->s->o->stream_buffer_bytes;
}

bool stream_hold(struct request *r, int choice, const struct sl_event *ev)
{
    size_t max = (size_t)r->s->o->stream_buffer_bytes * HELD_TIMES / sizeof *r->held;
    if (r->n_held == max) return false;
    size_t end = r->held_at + r->n_held;
    if (end == r->held_max) {
        if (r->held_at > r->held_max / 2) { /* half of it is taken already: move down */
            memmove(r->held, r->held + r->held_at, r->n_held * sizeof *r->held);
            r->held_at = 0;
        } else {
            r->held_max = r->held_max ? r->held_max * 2 : 64;
            r->held = xrealloc(r->held, r->held_max * sizeof *r->held);
        }
        end = r->held_at + r->n_held;
    }
    r->held[end] = (struct held_event){*ev, choice};
    r->n_held++;
    return true;
}

/* Format what was held while the buffer was full, as far as it fits now. */
static void feed(struct request *r)
{
    while (r->n_held && unread(r) < (size_t)r->s->o->stream_buffer_bytes) {
        struct held_event h = r->held[r->held_at++];
        r->n_held--;
        generate_apply(r, h.choice, &h.event);
    }
    if (r->n_held == 0) {
        r->held_at = 0;
        generate_settle(r);
    }
}

/* MHD's content reader. */
static ssize_t take(void *cls, uint64_t pos, char *out, size_t max)
{
    (void)pos;
    struct request *r = cls;
    if (r->is_gone) return MHD_CONTENT_READER_END_WITH_ERROR;
    r->read_ms = uv_now(&r->s->loop);
    if (r->n_held) feed(r);
    size_t n = unread(r) < max ? unread(r) : max;
    if (n == 0) {
        if (r->is_ended) return MHD_CONTENT_READER_END_OF_STREAM;
        request_suspend(r);
        return 0;
    }
    memcpy(out, r->out.p + r->sent, n);
    r->sent += n;
    if (r->sent == r->out.n) {
        r->sent = r->out.n = 0;
        if (r->out.cap > COMPACT_BYTES) buf_free(&r->out);
    } else if (r->sent > COMPACT_BYTES && r->sent > r->out.n / 2) {
        buf_consume(&r->out, r->sent);
        r->sent = 0;
    }
    return (ssize_t)n;
}

enum MHD_Result stream_begin(struct request *r)
{
    r->stage = STAGE_STREAM;
    r->read_ms = r->said_ms = uv_now(&r->s->loop);
    return answer_stream(r, take);
}

void stream_wake(struct request *r)
{
    if (unread(r) == 0 && !r->is_ended) return; /* text may be held back for a stop string */
    r->said_ms = uv_now(&r->s->loop);
    if (r->is_suspended) r->read_ms = r->said_ms;
    request_resume(r);
}
