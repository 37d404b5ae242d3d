/* plan.c - draws an episode: parameters at the edges of what the engine accepts, and a list of
 * events. */
#include "world.h"

static int32_t between(uint64_t *r, int32_t low, int32_t high)
{
    return low + sim_below(r, high - low + 1);
}

static void draw_core(struct sim_plan *p, uint64_t *r)
{
    static const int32_t page_sizes[] = {1, 4, 4, 16};
    struct core_config *c = &p->core;
    c->page_size = page_sizes[sim_below(r, 4)];
    c->n_pages = sim_below(r, 3) ? between(r, 2, 24) : between(r, 2, 100);
    c->max_seqs = between(r, 1, 10);
    c->max_tokens = c->max_seqs + (sim_below(r, 3) ? sim_below(r, 24) : 0);
    c->max_wants = c->max_seqs + (sim_below(r, 2) ? sim_below(r, 6) : 0);
    c->n_reqs = c->max_seqs + between(r, 1, 12);
    c->depth = between(r, 1, CORE_DEPTH_MAX);
    c->has_prefix_cache = sim_below(r, 5) > 0;
    c->seed = sim_rand(r);
    c->n_pooled = 3;
    int32_t room = c->page_size * c->n_pages;
    c->max_model_len = room < 160 ? room + sim_below(r, 8) : 160;
}

static void add(struct sim_plan *p, struct sim_event ev, uint64_t *r)
{
    if (p->n_events == PLAN_EVENTS_MAX) return;
    ev.seed = sim_rand(r);
    p->event[p->n_events++] = ev;
}

/* Arrivals in bursts; some are cancelled, now and then twice, at any phase or long after their end.
 */
static void draw_events(struct sim_plan *p, uint64_t *r)
{
    int32_t gap = between(r, 2, 12), cancel_one_in = between(r, 2, 12),
            stall_one_in = between(r, 20, 400);
    for (int32_t step = 0; step < p->n_steps; step += sim_below(r, 2 * gap)) {
        int32_t target = p->n_events;
        add(p, (struct sim_event){.step = step, .kind = SIM_SUBMIT}, r);
        for (int n = 2; n > 0 && sim_below(r, cancel_one_in) == 0; n--)
            add(p,
                (struct sim_event){
                    .step = step + sim_below(r, 40), .kind = SIM_CANCEL, .target = target},
                r);
        if (sim_below(r, stall_one_in) == 0)
            add(p, (struct sim_event){.step = step, .kind = SIM_STALL, .target = between(r, 1, 60)},
                r);
    }
    if (sim_below(r, 8) == 0)
        add(p, (struct sim_event){.step = sim_below(r, p->n_steps), .kind = SIM_FAULT}, r);
}

void plan_draw(struct sim_plan *p, uint64_t seed)
{
    uint64_t r = seed;
    static const int32_t vocabs[] = {17, 261, 261, 70000};
    p->seed = seed;
    p->n_events = 0;
    draw_core(p, &r);
    p->n_vocab = vocabs[sim_below(&r, 4)];
    p->core.n_vocab = p->n_vocab;
    p->n_steps = between(&r, 50, 1200);
    int32_t room =
        p->core.page_size * p->core.n_pages; /* short prompts with long outputs run out of pages */
    p->max_prompt = between(&r, 1, sim_below(&r, 3) ? 1 + room / 4 : room);
    p->max_output = between(&r, 1, sim_below(&r, 3) ? 12 + room / 2 : 12);
    if (p->max_prompt > p->core.max_model_len) p->max_prompt = p->core.max_model_len;
    if (p->max_output > 100) p->max_output = 100;
    p->delay_max = sim_below(&r, 3);
    p->n_tenants = between(&r, 1, 3);
    p->n_families = between(&r, 1, 3);
    p->background_percent = between(&r, -80, 80);
    p->step_us = sim_below(&r, 3) ? between(&r, 0, 20000) : 1000000;
    p->core.background_us = between(&r, 0, 20000);
    p->is_long = sim_below(&r, 2) == 0;
    p->is_hasty = sim_below(&r, 3) == 0;
    p->has_grammars = sim_below(&r, 3) == 0;
    draw_events(p, &r);
}
