/* world.h - one simulated episode: a seeded world around the engine's core. No threads, no clock.
 *
 * A plan (parameters and a list of events) is drawn from one 64-bit seed; running it is
 * deterministic. Removing events from a plan leaves a valid plan: that is what the shrinker does.
 */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include "backend/sim_dev.h"
#include "engine/core.h"

enum { PLAN_EVENTS_MAX = 2048, TEXT_BYTES = 240 };

enum sim_event_kind {
    SIM_SUBMIT, /* a request drawn from the event's seed */
    SIM_CANCEL, /* of the request that an earlier event submitted, whatever became of it */
    SIM_STALL,  /* the client does not poll for a while */
    SIM_FAULT,  /* the device fails for good: at launch or at completion */
};

struct sim_event {
    int32_t step;
    enum sim_event_kind kind;
    int32_t target; /* CANCEL: index of the submit; STALL: steps */
    uint64_t seed;
    bool is_removed;
};

struct sim_plan {
    uint64_t seed;
    struct core_config core;
    int32_t n_vocab, n_steps; /* after n_steps nothing arrives, and the world must fall empty */
    int32_t max_prompt, max_output;
    int32_t delay_max; /* steps until a result is there, 0 .. delay_max */
    int32_t n_tenants, n_families;
    int32_t background_percent; /* of the requests; none when negative */
    int32_t step_us;            /* what a row takes at most, as the device reports */
    bool is_long;               /* outputs go to their full length: pages run out */
    bool has_grammars;          /* in half of the requests */
    bool is_hasty;              /* the client polls a few events at a time */
    int32_t n_events;
    struct sim_event event[PLAN_EVENTS_MAX];
};

/* What happened, to see that the simulation is not vacuous. Sums over episodes. */
struct sim_tally {
    uint64_t n_steps, n_tokens;
    uint64_t n_submitted, n_refused, n_no_memory, n_busy, n_stopped, n_length, n_cancelled,
        n_errors, n_lost, n_pooled;
    uint64_t n_preemptions, n_hits, n_evictions, n_stalls, n_starved, n_late_results;
    uint64_t n_background, n_rides, n_evicted;
    uint64_t n_late_masks; /* handed over in a later turn than their launch */
    uint64_t trace;        /* hash of everything emitted and launched */
};

struct sim_failure {
    int32_t step;
    char text[TEXT_BYTES];
};

void plan_draw(struct sim_plan *p, uint64_t seed);
/* Run it; 0, or -1 and what went wrong. Adds to the tally as it goes. */
int world_run(const struct sim_plan *p, struct sim_tally *tally, struct sim_failure *f);

/* A small generator; every choice of the world has one seeded for it. */
static inline uint64_t sim_rand(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
/* In [0, n). */
static inline int32_t sim_below(uint64_t *state, int32_t n)
{
    return (int32_t)((sim_rand(state) >> 32) * (uint64_t)(uint32_t)n >> 32);
}

#endif
