/* crew.h - the workers of a model's ranks as one: told the same, done when all are.
 *
 * A rank that fails, or does not come while the others wait for it, ends the step for all: the model
 * lets the others go, and the result is a fault. Engine thread.
 */
#ifndef ENGINE_CREW_H
#define ENGINE_CREW_H

#include "engine/worker.h"

enum {
    RANK_LATE_US = 3000000, /* behind the first rank that is done with a step */
    STALL_US = 8000000,     /* of several ranks: none is done, and they do not meet */
    GIVE_UP_US = 1000000,   /* for ranks that were let go to answer */
};

struct crew {
    struct model *model;    /* borrowed */
    struct worker *workers; /* owned [n] */
    int32_t n;
    /* Of the collect that is ordered and not answered. */
    bool is_collecting;
    uint64_t answered; /* a bit a rank */
    const struct result *result;
    int code;
    uint64_t beat, since_us; /* what was seen last, and when it changed */
    bool is_aborted;
};

int crew_open(struct crew *c, struct model *m, struct bell *engine, struct sl_error *e);
/* Waits for the workers. Not after a fault: a rank may be stuck in its device. */
void crew_close(struct crew *c);
void crew_launch(struct crew *c, const struct job *j);
/* The masks of the job launched last are there. */
void crew_sample(struct crew *c, const struct job *j);
/* Order the next result, unless one is on its way. now_us: the time. */
void crew_collect(struct crew *c, uint64_t now_us);
/* 1 and *out when all ranks have answered; 0: not yet; < 0: a fault. */
int crew_poll(struct crew *c, uint64_t now_us, const struct result **out);
/* When crew_poll is to be called at the latest; 0: a bell rings in any case. */
uint64_t crew_deadline_us(const struct crew *c);

#endif
