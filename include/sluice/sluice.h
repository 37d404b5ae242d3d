/* sluice.h - the engine: token ids in, token ids out.
 *
 * This is the whole seam between serving (HTTP, JSON, text) and inference (scheduler, KV cache,
 * devices). The engine never sees text. One engine serves one model on one device (or on N ranks of
 * it).
 *
 *   sl_open     loads the model, prints nothing, allocates all it will ever need
 *   sl_submit   copies a prompt and its sampling, returns a handle; or refuses with a code
 *   sl_poll     takes events: tokens, log probabilities, the end
 *   sl_cancel   asks for an early end; the end still arrives as an event
 *   sl_close    stops the threads, frees everything
 *
 * Threads: sl_submit, sl_cancel, sl_poll, sl_stats and sl_close belong to one thread, the caller's
 * io thread; none of them blocks. The engine runs on threads of its own and tells of new events by
 * the wake callback, from the engine thread, at most once a step (uv_async_send fits). Handles are
 * values (slot, generation); a stale handle is ignored, never followed.
 */
#ifndef SLUICE_SLUICE_H
#define SLUICE_SLUICE_H

#include <stddef.h>
#include <stdint.h>

#include "sluice/sl_err.h"
#include "sluice/sl_sampling.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sl_engine sl_engine;

typedef struct {
    uint32_t slot, gen; /* gen 0 is never valid */
} sl_req;

struct sl_options {
    const char *model;       /* folder or .gguf; NULL only with the sim device */
    const char *device;      /* "auto", "cpu", "cuda", "sim" */
    const char *dtype;       /* "auto", "bfloat16", "float16", "float32" */
    const char *load_format; /* "auto", "dummy" */
    const char
        *rope_freq_dtype;  /* "float32" (or NULL), "bfloat16": rotary frequencies rounded, as by a
                              reference whose whole module was cast; wrong at long positions */
    int32_t max_model_len; /* tokens of one sequence; 0: the model's */
    int32_t max_num_seqs;  /* sequences in one step; 0: the device's default */
    int32_t max_num_batched_tokens;  /* tokens in one step; 0: the device's default */
    int32_t block_size;              /* tokens of a KV page: 1..256; 0: 16 */
    int32_t num_gpu_blocks_override; /* KV pages; 0: from memory */
    uint64_t kv_cache_memory_bytes;  /* 0: from memory */
    double gpu_memory_utilization;   /* share of device memory to use */
    int32_t max_queue_size;          /* requests waiting to run; 0: 1024 */
    int32_t background_step_ms;      /* how long a step with background work may take; 0: 10 */
    int32_t tensor_parallel_size;    /* ranks that share the model; 0: 1 */
    int32_t n_threads;               /* cpu device; 0: the cores */
    int32_t n_vocab;                 /* sim device only */
    uint8_t enable_prefix_caching;
    int8_t async_scheduling; /* 1, 0, -1: the device's default; one step runs ahead */
    uint64_t seed; /* of what is random in the engine itself (hash key of the prefix index) */
    uint32_t sim_step_us;  /* sim device: how long a step takes */
    uint32_t sim_row_us;   /* sim device: and for each token in it */
    uint32_t fail_step;    /* this step fails, counted from 1, for tests; 0: none */
    int32_t fail_rank;     /* on this rank */
    uint8_t fail_skips;    /* it leaves out a sum over ranks instead, and goes on */
    uint8_t enforce_eager; /* cuda: no graphs */
    /* cuda: NCCL makes every sum over ranks. */
    uint8_t disable_custom_all_reduce;
    uint8_t sim_replay; /* sim device: a prompt with token 2 in it is answered with the tokens
                              behind the last one, up to a token 3 */
    /* Called while loading, from sl_open's thread; may be NULL. */
    void (*progress)(void *arg, const char *what, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_arg;
    /* Called from the engine thread when events wait; may be NULL. */
    void (*wake)(void *arg);
    void *wake_arg;
};

/* What was opened; constant afterwards. Text borrowed from the engine. */
struct sl_info {
    const char *model_type, *device, *weight_types;
    int32_t n_vocab; /* width of the logits: every token id is below it */
    int32_t max_model_len;
    int32_t max_num_seqs, max_num_batched_tokens, block_size, num_blocks;
    int32_t n_pooled; /* width of a pooled vector; 0: this device does not pool */
    int32_t n_ranks;
    uint64_t n_parameters;                          /* of the whole model */
    uint64_t weight_bytes, kv_bytes, scratch_bytes; /* these and the next three: of one rank */
    uint64_t memory_bytes, budget_bytes; /* of the device in all, and of it for this model */
    uint64_t state_bytes; /* the device's own: libraries, sampling state, staging; 0: not known */
};

/* A request for a vector instead of tokens: which rows of the last hidden state (normed, before the
 * head) make it. It generates nothing (max_tokens 0). */
enum sl_pool {
    SL_POOL_NONE,
    SL_POOL_LAST, /* the last token's */
    SL_POOL_MEAN, /* the mean over all tokens; takes no prefix-cache hit */
    SL_POOL_CLS,  /* the first token's; takes no prefix-cache hit */
};

struct grammar; /* text/grammar.h */

enum { SL_THINK_CLOSE_MAX = 32 };

/* Thinking that the output may begin with. It ends with the ids `close`; until then the grammar does
 * not apply, and with a grammar no eos comes. Once it has `budget` tokens the ids of close are
 * forced, whatever the model would say. */
struct sl_thinking {
    const int32_t *close; /* [n_close], copied; n_close 0: no thinking is known */
    uint32_t n_close;     /* at most SL_THINK_CLOSE_MAX */
    int32_t open;         /* the id that opens it if it is the first of the output; -1: none */
    uint8_t is_open;      /* the prompt ends inside it */
    uint32_t budget;      /* UINT32_MAX: any number of tokens */
};

struct sl_request {
    const int32_t *prompt; /* [n_prompt], copied; each in [0, n_vocab) */
    uint32_t n_prompt;     /* 1 .. max_model_len (prompt + max_tokens <= max_model_len) */
    struct sl_sampling sampling;
    uint64_t salt[2]; /* prefix-cache tenant: pages are shared only between equal salts */
    int32_t priority; /* lower runs first; ties by due_us, then by arrival */
    uint64_t due_us;  /* by the caller's clock, when its first token should be there; 0: at once */
    uint32_t tpot_us; /* while it decodes, steps should take no longer than this; 0: no wish */
    uint8_t is_background; /* runs in the room that the others leave, and gives way to them */
    enum sl_pool pool;
    /* What the output must look like, or NULL. Referenced; compiled for a vocabulary of at most
     * n_vocab. The engine moves through it with the tokens that are committed, on its own thread;
     * the sequence ends with SL_FINISH_STOP when nothing may follow. A mask is laid over step 2 of
     * the sampling order; ignore_eos takes the eos ids out of it. Masks are made while the device
     * works on the step they are for. */
    struct grammar *grammar;
    struct sl_thinking thinking;
};

enum sl_event_kind {
    SL_EV_PROMPT, /* log probability of one prompt token (position counts up from 1), before any
                     token */
    SL_EV_TOKEN,  /* one generated token */
    SL_EV_TOP,  /* one alternative, belonging to the PROMPT or TOKEN event before it, best first */
    SL_EV_DONE, /* the end: exactly one a request, nothing follows; the handle is stale from here on
                 */
};

enum sl_finish {
    SL_FINISH_NONE,
    SL_FINISH_STOP,
    SL_FINISH_LENGTH,
    SL_FINISH_CANCEL,
    SL_FINISH_ERROR
};

struct sl_event {
    sl_req req;
    uint8_t kind;   /* enum sl_event_kind */
    uint8_t reason; /* DONE: enum sl_finish */
    uint16_t n_top; /* PROMPT, TOKEN: how many TOP events follow at once */
    int32_t token;  /* TOKEN, PROMPT, TOP: its id; DONE with STOP: the stop id that ended it, else
                       -1;  DONE with ERROR: a code of sl_err.h */
    union {
        struct {
            float logprob; /* PROMPT, TOKEN, TOP: natural log, of the raw distribution; 0 when not
                              asked for */
            int32_t rank;  /* PROMPT, TOKEN: 1 = most likely; 0 when not asked for */
        };
        const float *pooled; /* DONE of a pooled request that ended well: [n_pooled], borrowed until
                                the next sl_poll; else NULL */
    };
    uint32_t n_cached; /* first TOKEN and DONE: prompt tokens taken from the prefix cache */
    uint32_t queue_us; /* first TOKEN: how long it waited to run */
};

/* Times that belong to one step each, counted by bucket: counts[i] are those of at most
 * sl_step_bounds_us[i] and more than the bound before; the last bucket has no bound. */
enum { SL_STEP_BUCKETS = 24 };
extern const uint32_t sl_step_bounds_us[SL_STEP_BUCKETS - 1]; /* ascending */
struct sl_step_times {
    uint64_t counts[SL_STEP_BUCKETS];
    uint64_t sum_ns;
};

/* A snapshot for /metrics and tests. Counters only grow. */
struct sl_stats {
    uint32_t n_waiting, n_running; /* without background requests */
    uint32_t n_background_waiting, n_background_running;
    uint32_t pages_total,
        pages_used;        /* used: referenced by a live sequence (cached free pages are not) */
    uint32_t pages_cached; /* unreferenced, but holding a reusable prefix */
    uint64_t n_submitted;  /* requests that the engine thread has taken up */
    uint64_t n_steps, n_preemptions;
    uint64_t prompt_tokens, generation_tokens; /* computed and sampled */
    uint64_t prefix_queries, prefix_hits;      /* in tokens */
    /* What a step costs, by a line through the recent ones: a fixed part and one for each row. */
    uint32_t step_fixed_us, step_row_ns;
    uint64_t step_us_total;    /* device time */
    struct sl_step_times cpu;  /* CPU time of the engine thread, for every step */
    struct sl_step_times idle; /* of the device, from one decode step to the next and for masks,
                                  while at least one sequence went on; nothing where the device
                                  cannot tell */
};

/* Loads, plans, allocates; blocking. 0 or a code with its reason in e. */
int sl_open(sl_engine **out, const struct sl_options *o, struct sl_error *e);
/* Stops at the next step; live requests end without events. NULL is fine. */
void sl_close(sl_engine *g);
const struct sl_info *sl_get_info(const sl_engine *g);

/* Check and enqueue. 0 and *out, or: SL_EBUSY (queue full), SL_ECONTEXT, SL_EVALUE/SL_EINVAL (an id
 * or a number out of range; it can never fit), SL_EDEVICE (the engine has failed). */
int sl_submit(sl_engine *g, const struct sl_request *r, sl_req *out, struct sl_error *e);
/* Idempotent. Pages are free within one step; SL_EV_DONE with SL_FINISH_CANCEL (or the end that
 * came first) still follows. */
void sl_cancel(sl_engine *g, sl_req r);
/* Up to max events in order; returns how many. A PROMPT or TOKEN event and its TOPs may be split
 * over calls. */
int sl_poll(sl_engine *g, struct sl_event *ev, int max);
void sl_get_stats(const sl_engine *g, struct sl_stats *out);
/* Has the device failed for good? Then every live request got SL_EV_DONE/ERROR; the process should
 * end. */
int sl_failed(const sl_engine *g);
/* Floating-point operations of the plan's matrix products and attention for tokens [from, to) of
 * one sequence and n_logits rows of logits: what a benchmark may call useful work. */
double sl_flops(const sl_engine *g, uint32_t from, uint32_t to, uint32_t n_logits);
/* Microseconds of the monotonic clock when the last step ended, and whether work exists: for
 * watchdogs. */
uint64_t sl_heartbeat_us(const sl_engine *g, int *has_work);

#ifdef __cplusplus
}
#endif
#endif
