/* sim.c - the simulator's command line.
 *
 *   sim --steps N --seed S              episodes until N steps are done; 0 when nothing broke
 *   sim --seed S --episode E            that episode alone
 *   ... --keep 3,17,40                  with these events only (what the shrinker prints)
 *   sim_mutants [--steps N] [--seed S]  each seeded bug of engine/mutants.h must be found within N
 * steps sim_mutants --mutant NAME ...       as sim, with that bug
 *
 * Runs happen in a child process, so that a failed assertion or a crash is a finding like any
 * other; the parent prints how to repeat it and shrinks the list of events.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/mutants.h"
#include "world.h"

#ifdef ENGINE_MUTANTS
int engine_mutant;
enum { HAS_MUTANTS = 1 };
#define TEXT_ROW(name, text) [MUT_##name] = {#name, text},
static const char *const mutant_rows[MUT_COUNT][2] = {MUTANTS(TEXT_ROW)};
#else
static int engine_mutant; /* stays MUT_NONE */
enum { HAS_MUTANTS = 0 };
static const char *const mutant_rows[MUT_COUNT][2] = {{0}};
#endif

enum { CHILD_SECONDS_MAX = 900, SHRINK_SECONDS_MAX = 60, ATTEMPT_SECONDS_MAX = 10 };

struct shared { /* what the child leaves for its parent */
    uint64_t episode;
    struct sim_tally tally;
    struct sim_failure failure;
};
static struct shared *shared;
static struct sim_plan plan;

static uint64_t episode_seed(uint64_t seed, uint64_t episode)
{
    return sim_mix(seed, episode);
}

/* Run f in a child that may crash; true when it ended well. */
static bool in_child(int (*f)(uint64_t seed, uint64_t arg), uint64_t seed, uint64_t arg,
                     unsigned seconds)
{
    int status = 0;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(seconds);
        if (!freopen("/dev/null", "w", stderr)) _exit(2);
        _exit(f(seed, arg));
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) return false;
    if (WIFSIGNALED(status))
        snprintf(shared->failure.text, TEXT_BYTES, "the process died: %s",
                 strsignal(WTERMSIG(status)));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int run_plan(uint64_t seed, uint64_t arg)
{
    (void)seed, (void)arg;
    return world_run(&plan, &shared->tally, &shared->failure) < 0;
}

static int run_many(uint64_t seed, uint64_t n_steps)
{
    while (shared->tally.n_steps < n_steps) {
        plan_draw(&plan, episode_seed(seed, shared->episode));
        if (world_run(&plan, &shared->tally, &shared->failure) < 0) return 1;
        shared->episode++;
    }
    return 0;
}

/* The same plan twice leaves the same trace [18]. */
static int run_twice(uint64_t seed, uint64_t n_steps)
{
    for (uint64_t episode = 0; episode < n_steps; episode++) {
        uint64_t trace[2];
        for (int i = 0; i < 2; i++) {
            shared->tally.trace = 0;
            plan_draw(&plan, episode_seed(seed, episode));
            if (world_run(&plan, &shared->tally, &shared->failure) < 0) return 1;
            trace[i] = shared->tally.trace;
        }
        if (trace[0] == trace[1]) continue;
        snprintf(shared->failure.text, TEXT_BYTES, "[18] the same seed gave two traces");
        return 1;
    }
    return 0;
}

static void print_plan(void)
{
    static const char *const kinds[] = {"submit", "cancel", "stall", "fault"};
    const struct core_config *c = &plan.core;
    printf("  pages %d x %d, seqs %d, tokens %d, wants %d, depth %d, cache %d, delay %d, "
           "vocabulary %d\n",
           c->n_pages, c->page_size, c->max_seqs, c->max_tokens, c->max_wants, c->depth,
           c->has_prefix_cache, plan.delay_max, plan.n_vocab);
    for (int32_t i = 0; i < plan.n_events; i++)
        if (!plan.event[i].is_removed)
            printf("  event %d: step %d %s %d\n", i, plan.event[i].step, kinds[plan.event[i].kind],
                   plan.event[i].target);
}

static bool still_fails(void)
{
    memset(shared, 0, sizeof *shared);
    return !in_child(run_plan, 0, 0, ATTEMPT_SECONDS_MAX);
}

/* Take out events in halves, quarters, ... single ones, as long as the failure remains. */
static void shrink(void)
{
    time_t end = time(NULL) + SHRINK_SECONDS_MAX;
    for (int32_t size = (plan.n_events + 1) / 2; size >= 1 && time(NULL) < end; size /= 2) {
        for (int32_t at = 0; at < plan.n_events && time(NULL) < end; at += size) {
            bool before[PLAN_EVENTS_MAX];
            int32_t n_changed = 0;
            for (int32_t i = at; i < at + size && i < plan.n_events; i++) {
                before[i] = plan.event[i].is_removed;
                n_changed += !before[i];
                plan.event[i].is_removed = true;
            }
            if (n_changed == 0 || still_fails()) continue;
            for (int32_t i = at; i < at + size && i < plan.n_events; i++)
                plan.event[i].is_removed = before[i];
        }
    }
}

static void print_keep(void)
{
    const char *comma = "";
    for (int32_t i = 0; i < plan.n_events; i++) {
        if (plan.event[i].is_removed) continue;
        printf("%s%d", comma, i);
        comma = ",";
    }
}

static void report_failure(const char *argv0, uint64_t seed)
{
    uint64_t episode = shared->episode;
    char mutant[64] = "";
    if (engine_mutant)
        snprintf(mutant, sizeof mutant, " --mutant %s", mutant_rows[engine_mutant][0]);
    printf("FAILED seed %llu episode %llu step %d: %s\n", (unsigned long long)seed,
           (unsigned long long)episode, shared->failure.step, shared->failure.text);
    printf("repeat: %s%s --seed %llu --episode %llu\nshrinking ...\n", argv0, mutant,
           (unsigned long long)seed, (unsigned long long)episode);
    fflush(stdout);
    plan_draw(&plan, episode_seed(seed, episode));
    shrink();
    still_fails();
    printf("shrunk: step %d: %s\n", shared->failure.step, shared->failure.text);
    print_plan();
    printf("repeat: %s%s --seed %llu --episode %llu --keep ", argv0, mutant,
           (unsigned long long)seed, (unsigned long long)episode);
    print_keep();
    printf("\n");
}

static int run_episode(uint64_t seed, uint64_t episode, char *keep)
{
    plan_draw(&plan, episode_seed(seed, episode));
    if (keep) {
        for (int32_t i = 0; i < plan.n_events; i++) plan.event[i].is_removed = true;
        for (char *at = keep; *at; at += *at == ',') {
            char *end;
            long i = strtol(at, &end, 10);
            if (end == at) break;
            if (i >= 0 && i < plan.n_events) plan.event[i].is_removed = false;
            at = end;
        }
    }
    print_plan();
    int rc = world_run(&plan, &shared->tally, &shared->failure);
    if (rc < 0) printf("FAILED step %d: %s\n", shared->failure.step, shared->failure.text);
    return rc < 0;
}

/* Did everything that can happen happen? A simulation without preemptions proves nothing about
 * them. */
static int check_coverage(const struct sim_tally *t)
{
    const struct {
        const char *what;
        uint64_t n;
    } rows[] = {{"submitted", t->n_submitted},
                {"refused", t->n_refused},
                {"queue full", t->n_busy},
                {"out of memory", t->n_no_memory},
                {"stopped", t->n_stopped},
                {"length", t->n_length},
                {"cancelled", t->n_cancelled},
                {"errors", t->n_errors},
                {"lost by a fault", t->n_lost},
                {"pooled", t->n_pooled},
                {"preemptions", t->n_preemptions},
                {"cached tokens", t->n_hits},
                {"evictions", t->n_evictions},
                {"stalls", t->n_stalls},
                {"starved steps", t->n_starved},
                {"late results", t->n_late_results},
                {"background steps", t->n_background},
                {"background rides", t->n_rides},
                {"made way", t->n_evicted},
                {"late masks", t->n_late_masks},
                {"tokens", t->n_tokens}};
    int n_missing = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        printf("  %-16s %llu\n", rows[i].what, (unsigned long long)rows[i].n);
        n_missing += rows[i].n == 0;
    }
    return n_missing;
}

static int run_main(const char *argv0, uint64_t seed, uint64_t n_steps)
{
    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    bool is_well = in_child(run_twice, seed, 10, CHILD_SECONDS_MAX);
    memset(shared, 0, is_well ? sizeof *shared : 0);
    is_well = is_well && in_child(run_many, seed, n_steps, CHILD_SECONDS_MAX);
    if (!is_well) {
        report_failure(argv0, seed);
        return 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &t1);
    double s = (double)(t1.tv_sec - t0.tv_sec) + 1e-9 * (double)(t1.tv_nsec - t0.tv_nsec);
    printf(
        "seed %llu: %llu steps, %llu episodes, no violation; %.1f s, %.2f million steps a minute\n",
        (unsigned long long)seed, (unsigned long long)shared->tally.n_steps,
        (unsigned long long)shared->episode, s, (double)shared->tally.n_steps / s * 60e-6);
    return check_coverage(&shared->tally) > 0 && n_steps >= 200000;
}

/* Each bug in turn; every one must be found, and without a bug nothing may be. */
static int run_mutants(uint64_t seed, uint64_t n_steps)
{
    int n_missed = 0;
    for (engine_mutant = MUT_NONE; engine_mutant < MUT_COUNT; engine_mutant++) {
        memset(shared, 0, sizeof *shared);
        bool is_found = !in_child(run_many, seed, n_steps, CHILD_SECONDS_MAX);
        bool is_right = is_found == (engine_mutant != MUT_NONE);
        n_missed += !is_right;
        printf("%s %-18s %8llu steps  %s\n", is_right ? "ok  " : "FAIL",
               engine_mutant ? mutant_rows[engine_mutant][0] : "(none)",
               (unsigned long long)shared->tally.n_steps,
               is_found ? shared->failure.text : "nothing found");
    }
    printf("%d of %d seeded bugs found\n", MUT_COUNT - 1 - n_missed, MUT_COUNT - 1);
    return n_missed > 0;
}

static int find_mutant(const char *name)
{
    for (int i = 1; i < MUT_COUNT && HAS_MUTANTS; i++)
        if (strcmp(mutant_rows[i][0], name) == 0) return i;
    fprintf(stderr, "no such mutant: %s\n", name);
    exit(2);
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, n_steps = 0, episode = 0;
    bool is_single = false;
    char *keep = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--steps") == 0)
            n_steps = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--episode") == 0)
            episode = strtoull(argv[i + 1], NULL, 0), is_single = true;
        else if (strcmp(argv[i], "--keep") == 0)
            keep = argv[i + 1];
        else if (strcmp(argv[i], "--mutant") == 0)
            engine_mutant = find_mutant(argv[i + 1]);
        else
            return fprintf(stderr, "unknown option %s\n", argv[i]), 2;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return 2;
    if (is_single) return run_episode(seed, episode, keep);
    if (HAS_MUTANTS && engine_mutant == MUT_NONE)
        return run_mutants(seed, n_steps ? n_steps : 4000000);
    return run_main(argv[0], seed, n_steps ? n_steps : 40000000);
}
