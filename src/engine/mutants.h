/* mutants.h - seeded bugs: what the simulator must catch, or it proves nothing.
 *
 * MUT(NAME, good, bad) stands for `good`; that is all a production build sees. The test binary
 * sim_mutants compiles the same sources with ENGINE_MUTANTS and picks one bug at run time; ctest
 * requires that the simulator finds each (tests/sim). A new rule in kv, sched, batch or core brings
 * its row here.
 */
#ifndef ENGINE_MUTANTS_H
#define ENGINE_MUTANTS_H

/*    name               the bug                                                                 */
// clang-format off
#define MUTANTS(X)                                                                                \
    X(KV_LEAK,           "a cancelled sequence keeps its last page")                              \
    X(KV_DOUBLE_UNREF,   "preemption gives the first page back twice")                            \
    X(KV_STALE_INDEX,    "a page is handed out while the index still names it")                   \
    X(KV_NO_SALT,        "the prefix key leaves the tenant's salt out")                           \
    X(KV_NO_PARENT,      "the prefix key leaves the parent out")                                  \
    X(KV_HALF_TOKENS,    "the prefix key covers the first half of a page")                        \
    X(KV_HIT_NO_REF,     "a hit on a page in use takes no reference")                             \
    X(KV_HIT_STAYS_FREE, "a hit leaves the page in the free list")                                \
    X(KV_REF_WRAPS,      "the reference count has two bits")                                      \
    X(KV_SEAL_EARLY,     "a page is sealed one token before it is full")                          \
    X(KV_SEAL_PLANNED,   "a page is sealed when planned, not when computed")                      \
    X(KV_HIT_ALL,        "a hit may cover the whole prompt, leaving nothing to compute")          \
    X(KV_PAGES_SHORT,    "pages needed are rounded down")                                         \
    X(KV_FREE_IN_FLIGHT, "pages of an ended sequence are free while a step writes them")          \
    X(SCHED_KEEP_PLAN,   "preemption forgets to reset the planned count")                         \
    X(SCHED_KEEP_CHAIN,  "preemption forgets to reset the sealed chain")                          \
    X(SCHED_VICTIM_TOP,  "the oldest is preempted instead of the youngest")                       \
    X(SCHED_LAST_FIRST,  "waiting requests run in order of arrival only")                         \
    X(SCHED_OVER_BUDGET, "a prefill chunk ignores the token budget")                              \
    X(SCHED_OVER_WANTS,  "a prompt to score ignores the wants budget")                            \
    X(SCHED_YIELD_RUNS,  "a sequence that must yield is planned again")                           \
    X(SCHED_YIELD_ENDS,  "a sequence that ends while it must yield is waited for for ever")       \
    X(SCHED_SLOT_LOST,   "a cancelled sequence keeps its device slot")                            \
    X(SCHED_NO_FIT,      "a request that can never fit is admitted")                              \
    X(SLOT_NOT_ASSIGNED, "a resumed sequence finds its slot as another left it")                  \
    X(SLOT_NO_HISTORY,   "a resumed sequence loses its output history")                           \
    X(SLOT_HISTORY_TWICE,"a resumed sequence counts its last output twice")                       \
    X(SLOT_EARLY_REUSE,  "a request's slot is given back while a step names it")                  \
    X(BATCH_COUNTER,     "the random counter starts anew after preemption")                       \
    X(BATCH_OLD_TOKEN,   "a run-ahead row feeds the last known token")                            \
    X(BATCH_KV_LEN,      "the readable length misses this step's tokens")                         \
    X(BATCH_KV_SLOT,     "a row past the first page boundary of its chunk lands in the old page") \
    X(BATCH_OLD_PAGES,   "a row of block tables keeps pages of the sequence before")              \
    X(COMMIT_AFTER_END,  "a run-ahead token after the end is reported")                           \
    X(BATCH_NO_MASK,     "a grammar's mask is forgotten after some tokens")                       \
    X(GRAMMAR_LEAK,      "a request keeps its place in a grammar")                                \
    X(GRAMMAR_TWICE,     "the grammar moves on twice by one token")                               \
    X(GRAMMAR_AHEAD,     "a mask is made before the token in front of it is known")               \
    X(MASK_LOST,         "masks are not handed over while a sequence leaves")                     \
    X(MASK_OTHER_JOB,    "the masks of another job are written")                                  \
    X(MASK_OVERTAKEN,    "a step is launched before the one in front of it has its masks")        \
    X(THINK_NO_CLOSE,    "thinking goes on past its budget")                                      \
    X(THINK_AHEAD,       "the budget is looked at before the token that may close thinking is known") \
    X(COMMIT_MAX_TOKENS, "one token more than max_tokens is allowed")                             \
    X(COMMIT_EOS,        "ignore_eos is not honoured")                                            \
    X(COMMIT_NAN,        "a row that is not finite yields token 0")                               \
    X(COMMIT_DONE_TWICE, "cancelling an ended request ends it again")                             \
    X(COMMIT_STALE_GEN,  "a cancel reaches whoever has the slot now")                             \
    X(COMMIT_NO_ROOM,    "a step is launched without room for its events")                        \
    X(COMMIT_FAULT,      "a device fault forgets the waiting requests")                           \
    X(COMMIT_FAULT_MUTE, "a turn that met a fault says that nothing happened")                    \
    X(SCORE_TWICE,       "a preempted prompt is scored again from its start")                     \
    X(SCORE_CACHED,      "a prompt to score skips what the cache holds")                          \
    X(POOL_EARLY,        "each chunk's last row counts as the prompt's last")                     \
    X(POOL_CACHED,       "a mean leaves out what the cache holds")                                \
    X(POOL_LOST,         "a vector is not taken over before its end is told")\
    X(BACKGROUND_EQUAL,  "background requests queue like any other")                              \
    X(BACKGROUND_STAYS,  "a background sequence keeps its slot while another request waits")      \
    X(BACKGROUND_HOARDS, "a background sequence keeps its pages while another request waits")     \
    X(BACKGROUND_RIDES,  "background rows delay a first token that is due")                       \
    X(BACKGROUND_AHEAD,  "background work runs ahead, so that an arrival waits for two steps")    \
    X(BACKGROUND_FULL,   "background work takes the last free slot")
// clang-format on

#define MUTANTS_ENUM(name, text) MUT_##name,
enum mutant { MUT_NONE, MUTANTS(MUTANTS_ENUM) MUT_COUNT };
#undef MUTANTS_ENUM

#ifdef ENGINE_MUTANTS
extern int engine_mutant; /* enum mutant; set before the run */
#define MUT(name, good, bad) (engine_mutant == MUT_##name ? (bad) : (good))
#else
#define MUT(name, good, bad) (0 ? (bad) : (good)) /* both sides compile; one is left */
#endif

#endif
