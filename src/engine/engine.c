/* engine.c - the sl_* calls, the two rings and the engine thread around core.c.
 *
 * Io thread: the slot table, checking and copying of requests, freeing them. Engine thread: the
 * core. Between them two rings of values: commands down, events up. The command ring holds all that
 * the slot table can produce and the event ring all that a launched step can emit, so neither ever
 * overflows: the core looks at the room before it launches, and a client that does not poll stops
 * the steps, not memory. Atomics: failed, stats, heartbeat and live count are values for others to
 * look at (relaxed); is_quitting and wants_room are ordered by the bell.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/log.h"
#include "engine/core.h"
#include "engine/crew.h"

enum {
    QUEUE_DEFAULT = 1024,
    QUEUE_MAX = 1 << 16,
    BACKGROUND_STEP_MS = 10,
    BACKGROUND_SPARE =
        64, /* background requests beyond max_num_seqs: one may have that many choices */
    CHECK_PERIOD_US = 60000000, /* of core_check when idle: it takes ms at 30,000 pages */
};

enum { SLOT_NONE = -1 };
struct client_slot {
    struct request *rq; /* owned; NULL while free */
    uint32_t gen;
    bool is_live; /* no DONE polled yet */
    bool is_cancelled;
    int32_t next_free;
};

struct sl_engine {
    struct sl_info info;
    struct model *model; /* owned */
    struct request_limits limits;
    /* io thread */
    struct client_slot *slot; /* owned [n_slots] */
    int32_t n_slots, free_slot;
    struct request *spent; /* owned: their vectors are lent out until the next sl_poll */
    int32_t n_used[2],
        n_used_max[2]; /* slots taken, by is_background: neither kind crowds out the other */
    /* crossing */
    struct ring commands, events;
    struct bell bell; /* rung for the engine thread */
    atomic_bool is_quitting, wants_room;
    atomic_int failed;
    _Atomic int32_t n_live;
    _Atomic uint64_t heartbeat_us;
    _Atomic uint64_t stats[sizeof(struct sl_stats) / sizeof(uint64_t)]; /* its words */
    void (*wake)(void *arg);
    void *wake_arg;
    /* engine thread */
    struct core core;
    struct crew crew;
    bool has_emitted; /* in this turn */
    struct sl_step_times cpu;
    uint64_t cpu_ns, n_timed; /* the thread's CPU time, and the steps, that `cpu` has counted */
    uint64_t checked_us;
    pthread_t thread;
};

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static uint64_t thread_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* The core's environment: the rings and the workers. */
static uint32_t env_room(void *arg)
{
    struct sl_engine *g = arg;
    return ring_room(&g->events);
}

static int env_launch(void *arg, const struct job *j)
{
    struct sl_engine *g = arg;
    crew_launch(&g->crew, j);
    return 0;
}

static void env_sample(void *arg, const struct job *j)
{
    struct sl_engine *g = arg;
    crew_sample(&g->crew, j);
}

static int env_poll(void *arg, const struct result **out)
{
    struct sl_engine *g = arg;
    uint64_t us = now_us();
    int rc = crew_poll(&g->crew, us, out);
    if (rc != 0) atomic_store_explicit(&g->heartbeat_us, us, memory_order_relaxed);
    return rc;
}

static void env_emit(void *arg, const struct sl_event *ev)
{
    struct sl_engine *g = arg;
    ASSERT(ring_push(&g->events, ev));
    if (ev->kind == EV_RELEASE) atomic_fetch_sub_explicit(&g->n_live, 1, memory_order_relaxed);
    g->has_emitted = true;
}

static uint64_t env_now_us(void *arg)
{
    (void)arg;
    return now_us();
}

static void publish(struct sl_engine *g)
{
    struct sl_stats s;
    uint64_t words[sizeof s / sizeof(uint64_t)];
    core_stats(&g->core, &s);
    s.cpu = g->cpu;
    memcpy(words, &s, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        atomic_store_explicit(&g->stats[i], words[i], memory_order_relaxed);
    if (g->core.failed && !atomic_load(&g->failed)) {
        log_error("engine", "the device failed for good: %s", sl_err_name(g->core.failed));
        atomic_store(&g->failed, g->core.failed);
    }
    if (g->has_emitted && g->wake) g->wake(g->wake_arg);
    g->has_emitted = false;
}

/* What the thread has used since the last step was reaped belongs to the steps reaped now. */
static void count_cpu(struct sl_engine *g)
{
    uint64_t n = g->core.stats.n_steps - g->n_timed, ns;
    if (n == 0) return;
    ns = thread_cpu_ns();
    for (uint64_t i = 0; i < n; i++) step_times_add(&g->cpu, (ns - g->cpu_ns) / n);
    g->cpu_ns = ns;
    g->n_timed += n;
}

/* Commands, one step of the core, orders for the workers. True when anything moved. */
static bool turn(struct sl_engine *g)
{
    struct command cmd;
    bool has_moved = false;
    while (ring_pop(&g->commands, &cmd)) {
        core_cmd(&g->core, &cmd);
        has_moved = true;
    }
    has_moved |= core_step(&g->core) > 0;
    if (!has_moved) return false;
    /* One collect at a time, behind the launches: a worker must not sit in the newest step's
     * collect while the next launch waits behind it. */
    if (core_n_flight(&g->core) > 0) crew_collect(&g->crew, now_us());
    count_cpu(g);
    publish(g);
    return true;
}

/* With nothing to do there is time to look whether everything adds up. Better to stop than to go on
 * wrong. */
static void check_idle(struct sl_engine *g)
{
    uint64_t us = now_us();
    if (core_has_work(&g->core) || us - g->checked_us < CHECK_PERIOD_US) return;
    g->checked_us = us;
    const char *bad = core_check(&g->core);
    if (bad) log_error("engine", "invariant broken: %s", bad);
    ASSERT(!bad);
    g->cpu_ns = thread_cpu_ns(); /* no step's work */
}

static void *engine_main(void *arg)
{
    struct sl_engine *g = arg;
    while (!atomic_load(&g->is_quitting)) {
        if (turn(g)) continue;
        if (g->core.is_starved && !atomic_exchange(&g->wants_room, true))
            continue; /* look once more */
        check_idle(g);
        uint64_t deadline = crew_deadline_us(&g->crew);
        if (deadline)
            bell_wait_until(&g->bell, deadline);
        else
            bell_wait(&g->bell);
    }
    return NULL;
}

static int core_config_of(struct core_config *cfg, const struct sl_options *o,
                          const struct sl_engine *g, struct sl_error *e)
{
    const struct sl_info *info = &g->info;
    bool is_async =
        o->async_scheduling < 0 ? model_device(g->model)->default_async : o->async_scheduling;
    *cfg = (struct core_config){
        .max_seqs = info->max_num_seqs,
        .max_tokens = info->max_num_batched_tokens,
        .max_wants = model_max_wants(g->model),
        .n_pooled = info->n_pooled,
        .max_model_len = info->max_model_len,
        .page_size = info->block_size,
        .n_vocab = info->n_vocab,
        .n_pages = info->num_blocks,
        .n_reqs = g->n_slots,
        .depth = is_async ? 2 : 1,
        .background_us =
            1000 * (o->background_step_ms > 0 ? o->background_step_ms : BACKGROUND_STEP_MS),
        .has_prefix_cache = o->enable_prefix_caching};
    if (getrandom(&cfg->seed, sizeof cfg->seed, 0) != sizeof cfg->seed) cfg->seed = now_us();
    cfg->seed ^= o->seed;
    if (cfg->max_seqs < 1 || cfg->max_tokens < cfg->max_seqs || cfg->max_wants < cfg->max_seqs)
        return sl_fail(e, SL_EINVAL,
                       "max_num_batched_tokens (%d) must be at least max_num_seqs (%d)",
                       cfg->max_tokens, cfg->max_seqs);
    if (cfg->page_size < 1 || cfg->page_size > KV_PAGE_SIZE_MAX || cfg->n_pages < 1 ||
        cfg->n_pages > INT32_MAX / cfg->page_size) /* a KV slot is an int32 */
        return sl_fail(e, SL_EINVAL,
                       "a KV cache of %d pages of %d tokens cannot work (block_size is 1 to %d)",
                       cfg->n_pages, cfg->page_size, KV_PAGE_SIZE_MAX);
    return 0;
}

static void open_slots(struct sl_engine *g)
{
    g->slot = xcalloc((size_t)g->n_slots, sizeof *g->slot);
    for (int32_t i = 0; i < g->n_slots; i++)
        g->slot[i] =
            (struct client_slot){.gen = 1, .next_free = i + 1 < g->n_slots ? i + 1 : SLOT_NONE};
}

static int start(struct sl_engine *g, const struct sl_options *o, struct sl_error *e)
{
    struct core_config cfg;
    if (o->max_queue_size < 0 || o->max_queue_size > QUEUE_MAX)
        return sl_fail(e, SL_EINVAL, "max_queue_size must be 0 to %d", QUEUE_MAX);
    g->n_used_max[0] =
        (o->max_queue_size ? o->max_queue_size : QUEUE_DEFAULT) + g->info.max_num_seqs;
    g->n_used_max[1] = g->info.max_num_seqs + BACKGROUND_SPARE;
    g->n_slots = g->n_used_max[0] + g->n_used_max[1];
    TRY(core_config_of(&cfg, o, g, e));
    TRY(crew_open(&g->crew, g->model, &g->bell, e));
    open_slots(g);
    g->limits = (struct request_limits){g->info.n_vocab, cfg.max_model_len, cfg.page_size,
                                        cfg.n_pages, cfg.n_pooled};
    const struct core_env env = {g,        env_room, env_launch, env_sample,
                                 env_poll, env_emit, env_now_us};
    core_open(&g->core, &cfg, &env);
    /* A slot's commands at most: a stale cancel, a submit, a cancel. */
    ring_init(&g->commands, sizeof(struct command), 4 * (uint32_t)g->n_slots);
    ring_init(&g->events, sizeof(struct sl_event), core_events_max(&cfg));
    int rc = pthread_create(&g->thread, NULL, engine_main, g);
    if (rc == 0) return 0;
    crew_close(&g->crew);
    core_close(&g->core);
    ring_free(&g->commands);
    ring_free(&g->events);
    free(g->slot);
    return sl_fail(e, SL_EINTERNAL, "cannot start the engine thread (error %d)", rc);
}

int sl_open(sl_engine **out, const struct sl_options *o, struct sl_error *e)
{
    struct sl_engine *g =
        aligned_alloc(64, (sizeof *g + 63) & ~(size_t)63); /* rings are line-aligned */
    *out = NULL;
    if (!g) return sl_fail(e, SL_ENOMEM, "out of memory");
    memset(g, 0, sizeof *g);
    g->wake = o->wake;
    g->wake_arg = o->wake_arg;
    atomic_store(&g->heartbeat_us, now_us());
    bell_open(&g->bell);
    int rc = model_open(&g->model, o, &g->info, e);
    if (rc == 0) {
        rc = start(g, o, e);
        if (rc < 0) model_close(g->model);
    }
    if (rc < 0) {
        bell_close(&g->bell);
        free(g);
        return rc;
    }
    *out = g;
    return 0;
}

static void free_spent(struct sl_engine *g)
{
    while (g->spent) {
        struct request *next = g->spent->next;
        request_free(g->spent);
        g->spent = next;
    }
}

void sl_close(sl_engine *g)
{
    if (!g) return;
    atomic_store(&g->is_quitting, true);
    bell_ring(&g->bell);
    pthread_join(g->thread, NULL);
    crew_close(&g->crew);
    core_close(&g->core);
    model_close(g->model);
    free_spent(g);
    for (int32_t i = 0; i < g->n_slots; i++) request_free(g->slot[i].rq);
    free(g->slot);
    ring_free(&g->commands);
    ring_free(&g->events);
    bell_close(&g->bell);
    free(g);
}

const struct sl_info *sl_get_info(const sl_engine *g)
{
    return &g->info;
}

static void send(struct sl_engine *g, const struct command *cmd)
{
    ASSERT(ring_push(&g->commands, cmd));
    bell_ring(&g->bell);
}

int sl_submit(sl_engine *g, const struct sl_request *r, sl_req *out, struct sl_error *e)
{
    *out = (sl_req){0};
    if (sl_failed(g))
        return sl_fail(e, SL_EDEVICE, "The device has failed; the server is about to restart.");
    TRY(request_check(r, &g->limits, e));
    bool is_background = r->is_background;
    if (g->n_used[is_background] == g->n_used_max[is_background])
        return sl_fail(e, SL_EBUSY, "Too many requests are waiting; try again.");
    struct client_slot *s = &g->slot[g->free_slot];
    s->rq = request_new(r, g->info.n_pooled);
    if (!s->rq) return sl_fail(e, SL_ENOMEM, "out of memory");
    *out = (sl_req){(uint32_t)g->free_slot, s->gen};
    g->free_slot = s->next_free;
    g->n_used[is_background]++;
    s->is_live = true;
    s->is_cancelled = false;
    if (atomic_fetch_add_explicit(&g->n_live, 1, memory_order_relaxed) == 0)
        atomic_store_explicit(&g->heartbeat_us, now_us(),
                              memory_order_relaxed); /* idle time is no hang */
    send(g, &(struct command){CMD_SUBMIT, *out, s->rq});
    return 0;
}

void sl_cancel(sl_engine *g, sl_req r)
{
    if (r.slot >= (uint32_t)g->n_slots) return;
    struct client_slot *s = &g->slot[r.slot];
    if (s->gen != r.gen || !s->is_live || s->is_cancelled) return;
    s->is_cancelled = true;
    send(g, &(struct command){.kind = CMD_CANCEL, .req = r});
}

static void free_slot(struct sl_engine *g, int32_t i)
{
    struct client_slot *s = &g->slot[i];
    g->n_used[s->rq->is_background]--;
    if (s->rq->pooled) {
        s->rq->next = g->spent;
        g->spent = s->rq;
    } else {
        request_free(s->rq);
    }
    s->rq = NULL;
    if (++s->gen == 0) s->gen = 1;
    s->next_free = g->free_slot;
    g->free_slot = i;
}

int sl_poll(sl_engine *g, struct sl_event *ev, int max)
{
    int n = 0;
    free_spent(g);
    while (n < max && ring_pop(&g->events, &ev[n])) {
        if (ev[n].kind == EV_RELEASE) {
            free_slot(g, (int32_t)ev[n].req.slot);
            continue;
        }
        if (ev[n].kind == SL_EV_DONE) g->slot[ev[n].req.slot].is_live = false;
        n++;
    }
    if (atomic_load(&g->wants_room) && atomic_exchange(&g->wants_room, false)) bell_ring(&g->bell);
    return n;
}

void sl_get_stats(const sl_engine *g, struct sl_stats *out)
{
    uint64_t words[sizeof *out / sizeof(uint64_t)];
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        words[i] = atomic_load_explicit(&g->stats[i], memory_order_relaxed);
    memcpy(out, words, sizeof *out);
}

int sl_failed(const sl_engine *g)
{
    return atomic_load(&g->failed) != 0;
}

double sl_flops(const sl_engine *g, uint32_t from, uint32_t to, uint32_t n_logits)
{
    return model_flops(g->model, from, to, n_logits);
}

uint64_t sl_heartbeat_us(const sl_engine *g, int *has_work)
{
    *has_work =
        atomic_load_explicit(&g->n_live, memory_order_relaxed) > 0 && !atomic_load(&g->wants_room);
    return atomic_load_explicit(&g->heartbeat_us, memory_order_relaxed);
}
