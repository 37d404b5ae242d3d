/* test_crew.c - the workers of several ranks as one: a rank that fails, that does not come, that is
 * stuck for good. Scripted ranks in place of a model; the crew's clock is the test's. */
#include <time.h>

#include "base/test.h"
#include "engine/crew.h"

enum { RANKS = 3, TRIES = 100000 };

/* What a rank does when it is asked for its result. */
enum deed {
    ANSWERS,
    FAILS,
    WAITS /* until the ranks are let go */,
    HANGS /* until the test says so */
};
struct model {
    enum deed deed[RANKS];
    struct result result[RANKS];
    atomic_bool is_aborted, is_over;
    atomic_int n_launched, n_sampled;
    _Atomic uint64_t beat;
};

static void nap(void)
{
    nanosleep(&(struct timespec){0, 10000}, NULL);
}

int32_t model_n_ranks(const struct model *m)
{
    return m ? RANKS : 0;
}
void model_abort(struct model *m)
{
    atomic_store(&m->is_aborted, true);
}
uint64_t model_beat(const struct model *m)
{
    return atomic_load(&m->beat);
}
int model_assign(struct model *m, int32_t rank, int32_t slot, const struct slot_init *init)
{
    (void)m, (void)rank, (void)slot, (void)init;
    return 0;
}
int model_launch(struct model *m, int32_t rank, const struct batch *b)
{
    (void)rank, (void)b;
    atomic_fetch_add(&m->n_launched, 1);
    return 0;
}
int model_sample(struct model *m, int32_t rank, const struct batch *b)
{
    (void)rank, (void)b;
    atomic_fetch_add(&m->n_sampled, 1);
    return 0;
}
int model_collect(struct model *m, int32_t rank, const struct result **out)
{
    while (m->deed[rank] == WAITS && !atomic_load(&m->is_aborted)) nap();
    while (m->deed[rank] == HANGS && !atomic_load(&m->is_over)) nap();
    *out = &m->result[rank];
    return m->deed[rank] == ANSWERS ? 0 : m->deed[rank] == FAILS ? SL_ENUMERIC : SL_EDEVICE;
}

struct fixture {
    struct model m;
    struct bell bell;
    struct crew c;
    struct job job;
};

static void start(struct fixture *f, enum deed a, enum deed b, enum deed c)
{
    struct sl_error e;
    memset(f, 0, sizeof *f);
    f->m.deed[0] = a;
    f->m.deed[1] = b;
    f->m.deed[2] = c;
    bell_open(&f->bell);
    CHECK(crew_open(&f->c, &f->m, &f->bell, &e) == 0);
    crew_launch(&f->c, &f->job);
    crew_sample(&f->c, &f->job);
    crew_collect(&f->c, 1000);
}

static void end(struct fixture *f)
{
    atomic_store(&f->m.is_over, true);
    crew_close(&f->c);
    CHECK(atomic_load(&f->m.n_launched) == RANKS && atomic_load(&f->m.n_sampled) == RANKS);
    bell_close(&f->bell);
}

/* Poll at this time until n ranks have answered. */
static int poll_for(struct fixture *f, int n, uint64_t us, const struct result **r)
{
    int rc = 0;
    for (int i = 0; i < TRIES && rc == 0; i++, nap()) {
        rc = crew_poll(&f->c, us, r);
        if (__builtin_popcountll(f->c.answered) >= n) break;
    }
    return rc;
}

TEST(all_answer)
{
    struct fixture f;
    const struct result *r = NULL;
    start(&f, ANSWERS, ANSWERS, ANSWERS);
    CHECK(crew_deadline_us(&f.c) == 1000 + STALL_US);
    CHECK(poll_for(&f, RANKS, 2000, &r) == 1 && r == &f.m.result[0]);
    CHECK(crew_poll(&f.c, 3000, &r) == 0 && crew_deadline_us(&f.c) == 0);
    CHECK(!atomic_load(&f.m.is_aborted));
    end(&f);
}

TEST(one_fails)
{
    struct fixture f;
    const struct result *r;
    start(&f, WAITS, FAILS, WAITS);
    CHECK(poll_for(&f, RANKS, 2000, &r) == SL_ENUMERIC && atomic_load(&f.m.is_aborted));
    end(&f);
}

TEST(one_does_not_come)
{
    struct fixture f;
    const struct result *r;
    start(&f, ANSWERS, WAITS, ANSWERS);
    CHECK(poll_for(&f, RANKS - 1, 2000, &r) == 0);
    CHECK(crew_deadline_us(&f.c) == 2000 + RANK_LATE_US);
    CHECK(crew_poll(&f.c, 1999 + RANK_LATE_US, &r) == 0 && !atomic_load(&f.m.is_aborted));
    CHECK(crew_poll(&f.c, 2000 + RANK_LATE_US, &r) <= 0 && atomic_load(&f.m.is_aborted));
    CHECK(poll_for(&f, RANKS, 2001 + RANK_LATE_US, &r) == SL_EDEVICE);
    end(&f);
}

TEST(nobody_comes_but_they_meet)
{
    struct fixture f;
    const struct result *r;
    start(&f, WAITS, WAITS, WAITS);
    atomic_store(&f.m.beat, 7);
    CHECK(crew_poll(&f.c, 900 + STALL_US, &r) == 0);
    CHECK(crew_poll(&f.c, 2000 + STALL_US, &r) == 0 && !atomic_load(&f.m.is_aborted));
    CHECK(crew_deadline_us(&f.c) == 900 + 2 * (uint64_t)STALL_US);
    CHECK(crew_poll(&f.c, 900 + 2 * (uint64_t)STALL_US, &r) <= 0 && atomic_load(&f.m.is_aborted));
    CHECK(poll_for(&f, RANKS, 1000 + 2 * (uint64_t)STALL_US, &r) == SL_EDEVICE);
    end(&f);
}

TEST(one_is_stuck_for_good)
{
    struct fixture f;
    const struct result *r;
    uint64_t us = 2000 + RANK_LATE_US;
    start(&f, ANSWERS, ANSWERS, HANGS);
    CHECK(poll_for(&f, RANKS - 1, 2000, &r) == 0);
    CHECK(crew_poll(&f.c, us, &r) == 0 && atomic_load(&f.m.is_aborted));
    CHECK(crew_poll(&f.c, us + GIVE_UP_US - 1, &r) == 0);
    CHECK(crew_poll(&f.c, us + GIVE_UP_US, &r) == SL_EDEVICE);
    end(&f);
}
