/* metrics.h - counters and histograms of the io thread, and their Prometheus text (format 0.0.4).
 *
 * Names, types and buckets are vLLM's where vLLM has the metric, so that its dashboards,
 * autoscalers and gateways work unchanged; what only sluice has is named sluice:. No label carries
 * anything of a user. Everything here belongs to the io thread.
 */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include "base/buf.h"
#include "server/answer_cache.h"
#include "sluice/sluice.h"

enum { HISTOGRAM_MAX = 28, HTTP_ROUTES_MAX = 64, HTTP_STATUSES = 20 };

struct auth;
struct limits;

struct histogram {
    uint64_t counts[HISTOGRAM_MAX + 1]; /* the last: above every bound */
    double sum;
};

enum metric_histogram {
    HIST_TTFT,
    HIST_ITL,
    HIST_E2E,
    HIST_QUEUE,
    HIST_PREFILL,
    HIST_DECODE,
    HIST_PROMPT,
    HIST_GENERATION,
    HIST_ITERATION,
    HIST_COUNT
};

enum request_phase { PHASE_QUEUE, PHASE_PREFILL, PHASE_DECODE, PHASE_COUNT };

/* What clients wish of time (slo.h), and why a request was not let go on. */
enum metric_slo { SLO_TTFT, SLO_TPOT, SLO_TIMEOUT, SLO_COUNT };
enum metric_late { LATE_REFUSED, LATE_TTFT, LATE_TIMEOUT, LATE_COUNT };

struct metrics {
    struct histogram hist[HIST_COUNT];
    uint64_t n_finished[SL_FINISH_ERROR + 1]; /* by enum sl_finish */
    uint64_t n_aborted[PHASE_COUNT];          /* the client left, or was too slow */
    uint64_t n_prompt_tokens, n_generation_tokens;
    uint64_t n_background_tokens; /* those generated for batch lines */
    uint64_t n_http[HTTP_ROUTES_MAX][HTTP_STATUSES];
    uint64_t n_sse_events;
    uint64_t n_slo[SLO_COUNT][2]; /* wishes missed, met */
    uint64_t n_wished, n_good;    /* requests with a wish; those that got all of it */
    uint64_t n_late[LATE_COUNT];
    struct sl_stats seen; /* of the last engine wake, for tokens an iteration */
};

void metrics_observe(struct metrics *m, enum metric_histogram h, double value);
/* An answer on routes[route]; route -1: no row matched. */
void metrics_http(struct metrics *m, int route, unsigned status);
/* After an engine wake: the steps since the last call, as tokens an iteration. */
void metrics_steps(struct metrics *m, const struct sl_stats *now);

struct metrics_view { /* what is read at the moment of the scrape */
    const char *model_name;
    const struct sl_stats *stats; /* zeros while loading */
    const struct sl_info *info;   /* NULL while loading */
    bool has_prefix_cache;
    const struct auth *auth;     /* for the names of keys */
    const struct limits *limits; /* NULL: none */
    struct answer_cache_stats cache;
    int n_connections, n_requests;
    int64_t n_stored, stored_bytes; /* Responses kept for later turns */
    int n_batches;                       /* not over */
    uint64_t n_batch_ok, n_batch_failed; /* lines answered by this process */
};
void metrics_text(const struct metrics *m, const struct metrics_view *v, struct buf *out);

#endif
