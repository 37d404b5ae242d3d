/* lane.h - the background lane: batches of requests, run in the room that online ones leave.
 *
 * A line of a batch is a struct request without a connection. It takes the same way through the
 * twelve stages as any other, as background work of the engine, and answer.c hands what would have
 * been the HTTP answer back to here. All functions are the io thread's.
 */
#ifndef SERVER_LANE_H
#define SERVER_LANE_H

#include "server/db.h"
#include "server/serve.h"

struct lane;      /* opaque; NULL without --data-dir */
struct lane_line; /* opaque: a line that was read and is not answered yet */
struct route;

/* May a batch ask for this path, such as "/v1/chat/completions"? The route, or NULL. Any thread. */
const struct route *lane_route(const char *endpoint);

/* Goes on with the batches that the last process left. */
struct lane *lane_new(struct server *s);
/* Look for new batches in the store. */
void lane_kick(struct lane *l);
/* This batch was cancelled: what runs stops, what was answered stays. */
void lane_cancel(struct lane *l, const char *batch_id);
/* Start lines, let those go on that were resumed, take answers. After every event of the loop. */
void lane_drive(struct lane *l);
/* Deadlines of batches and files; once a second. */
void lane_tick(struct lane *l);
/* No line starts any more and those under way are given up; they run again after a restart. */
void lane_stop(struct lane *l);
/* After lane_stop, when no request is left: commits what was answered, then frees. NULL is fine. */
void lane_close(struct lane *l);

/* For http_request.c: a suspended line may go on at the next lane_drive. */
void lane_resumed(struct lane_line *line);

struct lane_counts { /* for /metrics */
    int n_batches, n_running;
    uint64_t n_answered, n_failed;
};
struct lane_counts lane_count(const struct lane *l);

#endif
