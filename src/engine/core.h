/* core.h - the engine without threads, clock or device: a function of commands and completions.
 *
 * core_cmd takes a command, core_step does one turn: reap what the device finished (commit tokens,
 * emit events), write the masks that now can be, then plan and launch while fewer than `depth` steps
 * are in flight. All that lies
 * outside comes through struct core_env: production supplies rings and a worker thread (engine.c),
 * the simulator a seeded world (tests/sim). One owner; nothing is allocated after core_open.
 */
#ifndef ENGINE_CORE_H
#define ENGINE_CORE_H

#include "engine/batch.h"
#include "engine/kv.h"
#include "engine/pace.h"

enum { CORE_DEPTH_MAX = 3 };

/* An event of its own: the engine has let go of the request's memory and slot. Never seen by
 * sl_poll's caller. It may come together with SL_EV_DONE or some steps later. */
enum { EV_RELEASE = SL_EV_DONE + 1 };

struct core_config {
    int32_t max_seqs, max_tokens, max_wants; /* of one step; max_tokens, max_wants >= max_seqs */
    int32_t max_model_len, page_size, n_pages;
    int32_t n_pooled;      /* width of a pooled vector; 0: the device does not pool */
    int32_t n_reqs;        /* requests alive at once: the client's slots are 0 .. n_reqs - 1 */
    int32_t n_vocab;       /* of masks; 0: no request has a grammar */
    int32_t depth;         /* steps in flight: 1 is synchronous, 2 runs one ahead */
    int32_t background_us; /* a step with background rows should not take longer */
    bool has_prefix_cache;
    uint64_t seed;
};

struct core_env {
    void *arg;
    /* Events that can be emitted right now. */
    uint32_t (*room)(void *arg);
    /* Start a step; the job stays untouched, but for its masks, until its result was polled. 0 or a
     * code: a fatal fault. */
    int (*launch)(void *arg, const struct job *j);
    /* The masks of the step launched last are written, and its tokens can be sampled. Called once
     * for each launch of a job with masks, before the next launch. */
    void (*sample)(void *arg, const struct job *j);
    /* Result of the oldest step in flight: 1 and *out (valid until the next launch), 0 not yet, < 0
     * fault. */
    int (*poll)(void *arg, const struct result **out);
    /* Never fails: core checks the room first. */
    void (*emit)(void *arg, const struct sl_event *ev);
    /* The time, which decides nothing: it is only told to clients. NULL: always 0. */
    uint64_t (*now_us)(void *arg);
};

enum command_kind { CMD_SUBMIT, CMD_CANCEL };
struct command {
    enum command_kind kind;
    sl_req req;
    struct request *rq; /* SUBMIT: borrowed until EV_RELEASE */
};

struct core {
    struct core_config cfg;
    struct core_env env;
    struct kv kv;
    struct seq *seq;       /* owned [n_reqs], by request slot */
    int32_t *heap, n_heap; /* owned [n_reqs]: WAITING, by seq_before */
    /* owned [max_seqs]: in order of seq_before; what is no longer RUNNING goes at the next plan */
    int32_t *running, n_running;
    int32_t *free_slot, n_free_slots; /* owned [max_seqs]: device slots */
    int32_t *table, stride;           /* owned [max_seqs, stride]: block tables, by device slot */
    uint64_t n_tables;                /* filled so far */
    struct job job[CORE_DEPTH_MAX + 1];
    uint64_t n_launched, n_reaped; /* step n uses job[n % (depth + 1)] */
    struct job *unmasked;      /* of the step launched last, until its masks are written; or NULL */
    int32_t n_background_heap; /* of the heap; the others wait before them */
    int32_t n_background_slots; /* device slots that background sequences hold */
    struct pace pace;           /* what a step costs */
    uint64_t quiet_us;          /* device time since a request that is not background was there */
    int32_t n_leaving;  /* sequences that give pages back once no step in flight names them */
    int32_t n_yielding; /* those of them that are to be preempted */
    /* This head of the queue did not fit when so many pages were free; -1: none. */
    int32_t blocked_req, blocked_free;
    uint64_t n_arrivals;
    int32_t n_live; /* requests between SUBMIT and EV_RELEASE */
    uint32_t events_step_max;
    bool is_starved;       /* the last turn wanted to launch but the client's ring had no room */
    bool is_decoding;      /* the step reaped last was all decode, and sequences go on */
    int failed;            /* 0, or the code that ended it for good */
    struct sl_stats stats; /* counters only; core_stats adds the gauges */
    int32_t *check_counts; /* owned [max(n_pages, n_reqs)]: scratch of core_check */
};

/* Events the client's ring must hold: two for each request, a full step for each in flight, and
 * some lag. */
uint32_t core_events_max(const struct core_config *cfg);
void core_open(struct core *c, const struct core_config *cfg, const struct core_env *env);
void core_close(struct core *c);
void core_cmd(struct core *c, const struct command *cmd);
/* How many steps were reaped and launched: 0 when there is nothing to do until a command, a result
 * or room comes. A fault ends every request and sets c->failed. */
int core_step(struct core *c);
/* Work that a step could still bring forward. */
static inline bool core_has_work(const struct core *c)
{
    return c->n_live > 0;
}
static inline int32_t core_n_flight(const struct core *c)
{
    return (int32_t)(c->n_launched - c->n_reaped);
}
void core_stats(const struct core *c, struct sl_stats *out);
void step_times_add(struct sl_step_times *t, uint64_t ns);

/* Does everything add up? NULL, or what is wrong. O(requests + pages). */
const char *core_check(struct core *c);

/* Shared by sched.c and core.c. */
static inline uint64_t core_now_us(const struct core *c)
{
    return c->env.now_us ? c->env.now_us(c->env.arg) : 0;
}
static inline int32_t *core_table(const struct core *c, const struct seq *s)
{
    return c->table + (size_t)s->dev_slot * (size_t)c->stride;
}
/* Give back pages and device slot; no step in flight names it. */
void core_let_go(struct core *c, struct seq *s);

#endif
