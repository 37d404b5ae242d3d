/* slo.h - what clients wish of time (ttft_ms, tpot_ms, timeout_ms), and whether they got it; io
 * thread.
 *
 * A wish orders the queue (the first token's due time) and keeps prefill chunks short (tpot). A
 * first token or an end that is late ends the request with 504: nobody waits for it any more. One
 * that cannot come in time, by the work that waits before it, is refused at once with 503.
 */
#ifndef SERVER_SLO_H
#define SERVER_SLO_H

#include "server/serve.h"

struct request;

/* Reads r's wishes and starts their clocks; 0, or SL_EOVERLOAD when the first cannot be met. */
int slo_admit(struct request *r);
/* For the engine: when r's first token is due. Without a wish, after a default that grows with the
 * time of arrival, so that wishes of others delay it only for so long. */
uint64_t slo_due_us(const struct request *r);
/* r has ended well: which wishes were met? */
void slo_done(struct request *r);
/* Ends what is late, and sets the timer for the next. */
void slo_check(struct server *s);
/* After admission: the timer may have to come earlier. */
void slo_arm(struct request *r);

#endif
