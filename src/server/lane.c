/* lane.c - each batch a small state machine around one job of the store at a time (batch_work.h).
 * See lane.h.
 *
 * Lines are read a chunk ahead of what runs. Answers gather until a commit takes them all; a crash
 * loses those since the last commit, and their lines run again.
 */
#include "server/lane.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "server/batch_work.h"
#include "server/http_request.h"

enum {
    COMMIT_LINES = 256, /* answers that are committed at once, whatever their age */
    COMMIT_MS = 100,    /* the age at which they are anyway: what a crash may cost */
    SPARE_LINES = 8,    /* running beyond what the engine runs at once: its queue is never empty */
    PREPARE_LINES = 3,  /* on the work pool, which has four threads and others to serve */
    EXPIRE_S = 60,      /* between looks for expired files */
    READY_BYTES = 16 << 20, /* of lines read ahead: with more, no further chunk is read */
};

struct lane_batch {
    TAILQ_ENTRY(lane_batch) link; /* lane.batches */
    struct lane *lane;
    struct store_job job;
    struct batch_work work; /* the store thread's while has_job */
    bool has_job, is_over, has_rewound;
    enum batch_ending ending;
    char id[WIRE_ID_MAX];
    int64_t expires_at;
    const struct route *route;
    int key; /* index of its owner's API key; -1: gone, nothing of it runs */
    struct line_list ready, running;
    int n_ready;
    size_t ready_bytes;
    struct answer_list answers;
    uint64_t answered_ms; /* of the oldest answer not committed */
};
TAILQ_HEAD(batch_list, lane_batch);

struct lane {
    struct server *s;
    struct store *store; /* borrowed */
    struct batch_list batches;
    struct line_list resumed;
    struct batch_facts found; /* owned texts: of the look for new batches */
    bool has_found;
    struct store_job look, expire;
    bool is_looking, is_asked, is_expiring, is_stopping;
    bool is_full; /* the engine had no room */
    int n_preparing;
    int64_t last_num;
    uv_timer_t timer; /* while there are batches */
    struct lane_counts counts;
    uint64_t n_ticks;
};

static void pump(struct lane_batch *b);

/* ------------------------------------------------------------------ jobs */

static struct lane_batch *batch_of(struct store_job *j)
{
    return (struct lane_batch *)((char *)j - offsetof(struct lane_batch, job));
}

static void batch_free(struct lane_batch *b)
{
    batch_work_close(&b->work);
    drop_lines(&b->ready);
    drop_answers(&b->answers);
    free(b);
}

static void batch_remove(struct lane_batch *b)
{
    struct lane *l = b->lane;
    TAILQ_REMOVE(&l->batches, b, link);
    l->counts.n_batches--;
    if (TAILQ_EMPTY(&l->batches)) uv_timer_stop(&l->timer);
    batch_free(b);
}

static void add_ready(struct lane_batch *b, struct lane_line *line)
{
    b->n_ready++;
    b->ready_bytes += line->in.body.n;
}

static void drop_ready(struct lane_batch *b)
{
    drop_lines(&b->ready);
    b->n_ready = 0;
    b->ready_bytes = 0;
}

/* What a job brought: lines, unless the batch has ended meanwhile. */
static void take_fresh(struct lane_batch *b)
{
    struct lane_line *line;
    if (b->ending != GOES_ON) drop_lines(&b->work.fresh);
    while ((line = TAILQ_FIRST(&b->work.fresh))) {
        TAILQ_REMOVE(&b->work.fresh, line, link);
        TAILQ_INSERT_TAIL(&b->ready, line, link);
        line->batch = b;
        add_ready(b, line);
    }
}

static void after_job(struct store_job *j)
{
    struct lane_batch *b = batch_of(j);
    struct lane *l = b->lane;
    const struct batch_facts *f = &b->work.facts;
    b->has_job = false;
    drop_answers(&b->work.answers);
    take_fresh(b);
    if (b->work.code < 0) { /* the disk refuses: it goes on at the next start */
        log_error("batch", "%s stops until the next start: %s", b->id, b->work.err.text);
        b->is_over = true;
    } else if (batch_is_over(f->status)) {
        log_info("batch", "%s is over: %lld answered, %lld failed", b->id,
                 (long long)f->n_completed, (long long)f->n_failed);
        b->is_over = true;
    }
    pump(b);
    lane_drive(l);
}

static void run_job(struct store_job *j, struct db *db)
{
    batch_work_run(&batch_of(j)->work, db);
}

static void submit(struct lane_batch *b, enum work_step step)
{
    b->work.step = step;
    b->work.ending = b->ending;
    b->has_job = true;
    b->job.run = run_job;
    b->job.done = after_job;
    store_submit(b->lane->store, &b->job);
}

/* The batch will not go on: nothing more starts, what runs is given up. */
static void stop_lines(struct lane_batch *b)
{
    struct lane_line *line;
    drop_ready(b);
    TAILQ_FOREACH(line, &b->running, running_link)
    {
        if (!line->req->is_gone) generate_leave(line->req);
    }
}

static bool wants_commit(const struct lane_batch *b)
{
    if (b->answers.n == 0) return false;
    bool is_waiting = b->ending == GOES_ON && !b->lane->is_stopping &&
                      (!TAILQ_EMPTY(&b->running) || b->n_ready || !b->work.is_read);
    uint64_t age = uv_now(&b->lane->s->loop) - b->answered_ms;
    return !is_waiting || b->answers.n >= COMMIT_LINES || age >= COMMIT_MS;
}

/* What the batch needs next from the store, if anything. It may be freed here. */
static void pump(struct lane_batch *b)
{
    struct batch_work *w = &b->work;
    bool is_idle = TAILQ_EMPTY(&b->running) && b->n_ready == 0 && b->answers.n == 0;
    if (b->has_job) return;
    if (b->is_over) {
        stop_lines(b);
        if (TAILQ_EMPTY(&b->running)) batch_remove(b);
    } else if (wants_commit(b)) {
        w->answers = b->answers;
        b->answers = (struct answer_list){0};
        submit(b, WORK_COMMIT);
    } else if (b->lane->is_stopping) {
        return;
    } else if (b->ending == GOES_ON && w->facts.status == BATCH_VALIDATING) {
        submit(b, WORK_VALIDATE);
    } else if (b->ending == GOES_ON && !w->is_read && b->n_ready < WORK_LINES &&
               b->ready_bytes < READY_BYTES) {
        submit(b, WORK_READ);
    } else if (is_idle && b->ending != GOES_ON && w->facts.in_progress_at &&
               !(b->has_rewound && w->is_read)) {
        if (!b->has_rewound) batch_work_rewind(w); /* once more, for the lines that did not run */
        b->has_rewound = true;
        submit(b, WORK_END_LINES);
    } else if (is_idle) {
        submit(b, WORK_FINISH);
    }
}

/* ------------------------------------------------------------------ the life of a line */

static void start_line(struct lane_batch *b, struct lane_line *line)
{
    TAILQ_REMOVE(&b->ready, line, link);
    b->n_ready--;
    b->ready_bytes -= line->in.body.n;
    TAILQ_INSERT_TAIL(&b->running, line, running_link);
    b->lane->counts.n_running++;
    b->lane->n_preparing++;
    line->is_prepared = false;
    line->req = request_new_line(b->lane->s, b->route, b->key, line, buf_str(&line->in.body));
    if (line->in.is_stream)
        sl_fail_param(&line->req->err, SL_EUNSUPPORTED, "stream",
                      "A batch's requests cannot stream.");
    request_start_line(line->req);
}

void lane_resumed(struct lane_line *line)
{
    if (line->is_resumed) return;
    line->is_resumed = true;
    TAILQ_INSERT_TAIL(&line->batch->lane->resumed, line, resumed_link);
}

/* Not an answer, but a reason to try again: the server's state, not the request's. */
static bool is_passing(const struct request *r)
{
    switch (r->err.code) {
    case SL_EBUSY:
    case SL_EOVERLOAD:
    case SL_ELOADING:
    case SL_EDRAINING:
    case SL_EDEVICE:
    case SL_ECANCELED:
        return true;
    default:
        return r->is_gone;
    }
}

static void take_answer(struct lane_batch *b, const struct lane_line *line)
{
    struct request *r = line->req;
    struct buf text = buf_make(SIZE_MAX);
    char hex[33];
    make_hex(hex);
    put_batch_answer(hex, line->in.custom_id, r->status, r->id, buf_str(&r->out), &text);
    if (b->answers.n == 0) b->answered_ms = uv_now(&b->lane->s->loop);
    bool is_error = r->status < 200 || r->status > 299;
    add_answer(&b->answers,
               (struct db_answer){line->number, is_error, buf_str(&text), r->used.prompt_tokens,
                                  r->used.cached_tokens, r->used.completion_tokens});
    b->lane->counts.n_answered += !is_error;
    b->lane->counts.n_failed += is_error;
}

/* The request has its answer, or will have none. */
static void end_line(struct lane *l, struct lane_line *line)
{
    struct lane_batch *b = line->batch;
    bool is_again = is_passing(line->req);
    TAILQ_REMOVE(&b->running, line, running_link);
    l->counts.n_running--;
    l->is_full = is_again && !line->req->is_gone;
    if (!is_again) take_answer(b, line);
    request_end_line(line->req);
    line->req = NULL;
    if (is_again && b->ending == GOES_ON && !b->is_over && !l->is_stopping) {
        TAILQ_INSERT_HEAD(&b->ready, line, link);
        add_ready(b, line);
    } else {
        line_free(line);
    }
    pump(b);
}

static void go_on(struct lane *l)
{
    struct lane_line *line;
    while ((line = TAILQ_FIRST(&l->resumed))) {
        TAILQ_REMOVE(&l->resumed, line, resumed_link);
        line->is_resumed = false;
        l->n_preparing -= !line->is_prepared;
        line->is_prepared = true;
        if (request_advance_line(line->req)) end_line(l, line);
    }
}

/* Batches take turns: one whose line starts goes to the end. */
static struct lane_batch *next_ready(struct lane *l)
{
    struct lane_batch *b;
    TAILQ_FOREACH(b, &l->batches, link)
    {
        if (b->n_ready == 0 || b->key < 0 || b->is_over || b->ending != GOES_ON) continue;
        TAILQ_REMOVE(&l->batches, b, link);
        TAILQ_INSERT_TAIL(&l->batches, b, link);
        return b;
    }
    return NULL;
}

void lane_drive(struct lane *l)
{
    struct lane_batch *b;
    if (!l) return;
    go_on(l);
    if (l->s->phase != SERVER_READY || l->is_stopping) return;
    int n_max = l->s->ctx.info->max_num_seqs + SPARE_LINES;
    while (l->counts.n_running < n_max && l->n_preparing < PREPARE_LINES && !l->is_full &&
           (b = next_ready(l))) {
        start_line(b, TAILQ_FIRST(&b->ready));
        pump(b);
    }
}

/* ------------------------------------------------------------------ batches come and go */

static void on_timer(uv_timer_t *t)
{
    struct lane *l = t->data;
    struct lane_batch *b, *next;
    l->is_full = false;
    for (b = TAILQ_FIRST(&l->batches); b; b = next) {
        next = TAILQ_NEXT(b, link);
        pump(b);
    }
    lane_drive(l);
}

static void run_look(struct store_job *j, struct db *db)
{
    struct lane *l = (struct lane *)((char *)j - offsetof(struct lane, look));
    struct sl_error e;
    l->has_found = db_batch_unfinished(db, l->last_num, &l->found, &e) == 0;
}

static void add_batch(struct lane *l, const struct batch_facts *f)
{
    struct lane_batch *b = xcalloc(1, sizeof *b);
    b->lane = l;
    batch_work_open(&b->work, f, (size_t)l->s->o->max_body_bytes);
    memcpy(b->id, f->id, sizeof b->id);
    b->expires_at = f->expires_at;
    b->route = lane_route(f->endpoint);
    b->key = b->route ? auth_find_owner(l->s->auth, f->owner) : -1;
    if (b->key < 0) log_warn("batch", "%s waits: its API key or endpoint is gone", b->id);
    if (f->status == BATCH_CANCELLING) b->ending = IS_CANCELLED;
    TAILQ_INIT(&b->ready);
    TAILQ_INIT(&b->running);
    if (TAILQ_EMPTY(&l->batches)) uv_timer_start(&l->timer, on_timer, COMMIT_MS, COMMIT_MS);
    TAILQ_INSERT_TAIL(&l->batches, b, link);
    l->counts.n_batches++;
    pump(b);
}

static void after_look(struct store_job *j)
{
    struct lane *l = (struct lane *)((char *)j - offsetof(struct lane, look));
    bool has_found = l->has_found;
    l->is_looking = l->has_found = false;
    if (has_found) {
        l->last_num = l->found.num;
        add_batch(l, &l->found);
    }
    if ((has_found || l->is_asked) && !l->is_stopping) lane_kick(l);
}

void lane_kick(struct lane *l)
{
    l->is_asked = l->is_looking;
    if (l->is_looking) return;
    l->is_looking = true;
    l->look.run = run_look;
    l->look.done = after_look;
    store_submit(l->store, &l->look);
}

static void end_batch(struct lane_batch *b, enum batch_ending ending)
{
    if (b->ending != GOES_ON || b->is_over) return;
    b->ending = ending;
    stop_lines(b);
    pump(b);
}

void lane_cancel(struct lane *l, const char *batch_id)
{
    struct lane_batch *b;
    TAILQ_FOREACH(b, &l->batches, link)
    {
        if (strcmp(b->id, batch_id) == 0) break;
    }
    if (b) end_batch(b, IS_CANCELLED);
}

static void run_expire(struct store_job *j, struct db *db)
{
    (void)j;
    struct sl_error e;
    if (db_file_expire(db, (int64_t)time(NULL), &e) < 0)
        log_warn("store", "expired files stay: %s", e.text);
}

static void after_expire(struct store_job *j)
{
    struct lane *l = (struct lane *)((char *)j - offsetof(struct lane, expire));
    l->is_expiring = false;
}

void lane_tick(struct lane *l)
{
    struct lane_batch *b, *next;
    int64_t now = (int64_t)time(NULL);
    if (!l || l->is_stopping) return;
    for (b = TAILQ_FIRST(&l->batches); b; b = next) {
        next = TAILQ_NEXT(b, link);
        if (now >= b->expires_at) end_batch(b, IS_EXPIRED);
    }
    if (l->n_ticks++ % EXPIRE_S || l->is_expiring) return;
    l->is_expiring = true;
    l->expire.run = run_expire;
    l->expire.done = after_expire;
    store_submit(l->store, &l->expire);
}

const struct route *lane_route(const char *endpoint)
{
    static const char *const allowed[] = {"/v1/chat/completions", "/v1/completions",
                                          "/v1/embeddings", "/v1/responses"};
    struct route_match m;
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++)
        if (strcmp(endpoint, allowed[i]) == 0 &&
            route_find(&m, STR("POST"), str_of(endpoint), NULL) == 0)
            return m.route;
    return NULL;
}

struct lane *lane_new(struct server *s)
{
    struct lane *l = xcalloc(1, sizeof *l);
    l->s = s;
    l->store = s->store;
    TAILQ_INIT(&l->batches);
    TAILQ_INIT(&l->resumed);
    uv_timer_init(&s->loop, &l->timer);
    l->timer.data = l;
    lane_kick(l);
    return l;
}

void lane_stop(struct lane *l)
{
    struct lane_batch *b, *next;
    if (!l || l->is_stopping) return;
    l->is_stopping = true;
    for (b = TAILQ_FIRST(&l->batches); b; b = next) {
        next = TAILQ_NEXT(b, link);
        stop_lines(b);
        pump(b);
    }
    lane_drive(l);
}

static bool is_busy(const struct lane *l)
{
    const struct lane_batch *b;
    TAILQ_FOREACH(b, &l->batches, link)
    {
        if (b->has_job || b->answers.n || !TAILQ_EMPTY(&b->running)) return true;
    }
    return l->is_looking || l->is_expiring;
}

static void on_closed(uv_handle_t *h)
{
    free(h->data);
}

void lane_close(struct lane *l)
{
    struct lane_batch *b;
    if (!l) return;
    while (is_busy(l)) uv_run(&l->s->loop, UV_RUN_ONCE);
    while ((b = TAILQ_FIRST(&l->batches))) batch_remove(b);
    uv_timer_stop(&l->timer);
    uv_close((uv_handle_t *)&l->timer, on_closed);
}

struct lane_counts lane_count(const struct lane *l)
{
    return l ? l->counts : (struct lane_counts){0};
}
