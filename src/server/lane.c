/* lane.c - each batch a small state machine around one job of the store at a time: validate, read
 * lines, commit answers, end. See lane.h.
 *
 * Lines are read a chunk ahead of what runs. Answers gather until a commit takes them all; a crash
 * loses those since the last commit, and their lines run again. Facts, reader and the answers being
 * committed belong to the store thread while the batch's job is under way, else to the io thread.
 */
#include "server/lane.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "server/batch_input.h"
#include "server/http_request.h"

enum {
    READ_LINES = 256, /* of one job, and when so few are left the next chunk is read */
    READ_BYTES = 4 << 20,
    COMMIT_LINES = 256, /* answers that are committed at once, whatever their age */
    COMMIT_MS = 100,    /* the age at which they are anyway: what a crash may cost */
    SPARE_LINES =
        8,         /* running beyond what the engine runs at once, so that its queue is not empty */
    EXPIRE_S = 60, /* between looks for expired files */
};

enum lane_step { STEP_VALIDATE, STEP_READ, STEP_COMMIT, STEP_END_LINES, STEP_FINISH };
enum lane_ending { GOES_ON, IS_CANCELLED, IS_EXPIRED };

struct lane_line {
    TAILQ_ENTRY(lane_line) link;         /* batch.ready */
    TAILQ_ENTRY(lane_line) running_link; /* batch.running */
    TAILQ_ENTRY(lane_line) resumed_link; /* lane.resumed, while is_resumed */
    struct lane_batch *batch;
    int64_t number;
    struct batch_line in; /* owned */
    struct request *req;  /* while it runs */
    bool is_resumed;
};
TAILQ_HEAD(line_list, lane_line);

struct answer_list {
    struct db_answer *v; /* owned [n]; texts owned */
    int n, max;
};

struct lane_batch {
    TAILQ_ENTRY(lane_batch) link; /* lane.batches */
    struct lane *lane;
    struct store_job job;
    bool has_job, is_over;
    enum lane_step step;
    enum lane_ending ending, job_ending; /* the latter as the job under way knows it */
    char id[WIRE_ID_MAX]; /* these two of the facts do not change: always the io thread's */
    int64_t expires_at;
    struct batch_facts facts; /* owned texts */
    const struct route *route;
    int key; /* index of its owner's API key; -1: gone, nothing of it runs */
    struct line_reader reader;
    struct validation *validation; /* owned, while it validates */
    bool is_read;                  /* to the end of the input */
    bool
        is_rewinding; /* it ends early: the input is read once more, for the lines that did not run */
    struct line_list fresh; /* the store thread's harvest */
    struct line_list ready, running;
    int n_ready;
    struct answer_list answers, committing;
    uint64_t answered_ms; /* of the oldest answer not committed */
    int code;             /* of the last job */
    struct sl_error err;
};
TAILQ_HEAD(batch_list, lane_batch);

struct lane {
    struct server *s;
    struct store *store; /* borrowed */
    struct batch_list batches;
    struct line_list resumed;
    struct lane_batch *found; /* owned: of the look for new batches */
    struct store_job look;
    bool is_looking, is_asked, is_stopping, is_full;
    int64_t last_num;
    uv_timer_t timer; /* while there are batches */
    struct lane_counts counts;
    uint64_t n_ticks;
    struct store_job expire;
    bool is_expiring;
};

static void pump(struct lane_batch *b);

/* ------------------------------------------------------------------ lines and answers */

static void line_free(struct lane_line *line)
{
    batch_line_free(&line->in);
    free(line);
}

static void drop_lines(struct line_list *list)
{
    struct lane_line *line;
    while ((line = TAILQ_FIRST(list))) {
        TAILQ_REMOVE(list, line, link);
        line_free(line);
    }
}

/* The text becomes the list's. */
static void add_answer(struct answer_list *l, struct db_answer a)
{
    if (l->n == l->max) {
        l->max = l->max ? l->max * 2 : 64;
        l->v = xrealloc(l->v, (size_t)l->max * sizeof *l->v);
    }
    l->v[l->n++] = a;
}

static void drop_answers(struct answer_list *l)
{
    for (int i = 0; i < l->n; i++) free((char *)(uintptr_t)l->v[i].text.p);
    free(l->v);
    *l = (struct answer_list){0};
}

static void make_hex(char hex[33])
{
    char id[WIRE_ID_MAX];
    db_make_id("", id);
    memcpy(hex, id, 33);
}

/* ------------------------------------------------------------------ jobs: store thread */

static void run_validate(struct lane_batch *b, struct db *db)
{
    char path[DB_PATH_MAX];
    struct batch_facts *f = &b->facts;
    if (!b->validation) {
        db_file_path(db, f->input_file_id, "", path);
        b->code =
            line_reader_open(&b->reader, path, (size_t)b->lane->s->o->max_body_bytes, &b->err);
        if (b->code < 0) return;
        b->validation = validation_new();
        f->n_total = 0;
    }
    b->code = validation_slice(b->validation, &b->reader, f, &b->err);
    if (b->code != 0) return;
    validation_free(b->validation);
    b->validation = NULL;
    line_reader_close(&b->reader);
    if (f->errors) {
        b->code = db_batch_finish(db, f, BATCH_FAILED, (int64_t)time(NULL), &b->err);
        return;
    }
    f->status = BATCH_IN_PROGRESS;
    f->in_progress_at = (int64_t)time(NULL);
    b->code = db_batch_save(db, f, &b->err);
}

/* The next line that is not answered: 1, 0 at the end, or a code. */
static int next_line(struct lane_batch *b, struct db *db, struct lane_line **out)
{
    struct str text;
    int found;
    while ((found = line_reader_next(&b->reader, &text, &b->err)) > 0) {
        if (batch_line_is_blank(text)) continue;
        int is_done = db_line_is_done(db, b->facts.num, b->reader.n_lines, &b->err);
        if (is_done < 0) return is_done;
        if (is_done) continue;
        struct lane_line *line = xcalloc(1, sizeof *line);
        line->batch = b;
        line->number = b->reader.n_lines;
        const char *bad = batch_line_parse(text, b->facts.endpoint, &line->in, &b->err);
        if (!bad) {
            *out = line;
            return 1;
        }
        line_free(line); /* it was valid before: the file was changed behind our back */
        return sl_fail(&b->err, SL_EIO, "the input file has changed");
    }
    return found;
}

static int open_reader(struct lane_batch *b, struct db *db)
{
    char path[DB_PATH_MAX];
    if (b->reader.fd >= 0) return 0;
    db_file_path(db, b->facts.input_file_id, "", path);
    return line_reader_open(&b->reader, path, (size_t)b->lane->s->o->max_body_bytes, &b->err);
}

static void run_read(struct lane_batch *b, struct db *db)
{
    size_t n_bytes = 0;
    b->code = open_reader(b, db);
    for (int n = 0; b->code >= 0 && n < READ_LINES && n_bytes < READ_BYTES; n++) {
        struct lane_line *line;
        b->code = next_line(b, db, &line);
        if (b->code <= 0) break;
        n_bytes += line->in.body.n;
        TAILQ_INSERT_TAIL(&b->fresh, line, link);
    }
    if (b->code == 0) b->is_read = true;
}

static void run_commit(struct lane_batch *b, struct db *db)
{
    b->code = db_batch_commit(db, &b->facts, b->committing.v, b->committing.n, &b->err);
}

/* Lines that will never run get their line in the error file. */
static void run_end_lines(struct lane_batch *b, struct db *db)
{
    struct answer_list list = {0};
    char hex[33];
    if (b->is_rewinding) {
        line_reader_close(&b->reader);
        b->is_rewinding = b->is_read = false;
    }
    b->code = open_reader(b, db);
    while (b->code >= 0 && list.n < READ_LINES) {
        struct lane_line *line;
        b->code = next_line(b, db, &line);
        if (b->code <= 0) break;
        struct buf text = buf_make(SIZE_MAX);
        make_hex(hex);
        put_batch_unrun(hex, line->in.custom_id, b->job_ending == IS_EXPIRED, &text);
        add_answer(&list, (struct db_answer){line->number, true, buf_str(&text), 0, 0, 0});
        line_free(line);
    }
    bool is_end = b->code == 0;
    if (b->code >= 0) b->code = db_batch_commit(db, &b->facts, list.v, list.n, &b->err);
    drop_answers(&list);
    if (b->code == 0 && is_end) b->is_read = true;
}

static void run_finish(struct lane_batch *b, struct db *db)
{
    struct batch_facts *f = &b->facts;
    int64_t now = (int64_t)time(NULL);
    enum batch_status final = b->job_ending == IS_CANCELLED ? BATCH_CANCELLED
                              : b->job_ending == IS_EXPIRED ? BATCH_EXPIRED
                                                            : BATCH_COMPLETED;
    line_reader_close(&b->reader);
    if (!f->in_progress_at) f->n_total = 0; /* ended while it was validated */
    if (f->output_bytes && !f->output_file_id[0]) db_make_id("file-", f->output_file_id);
    if (f->error_bytes && !f->error_file_id[0]) db_make_id("file-", f->error_file_id);
    if (final == BATCH_COMPLETED) {
        f->status = BATCH_FINALIZING;
        f->finalizing_at = f->finalizing_at ? f->finalizing_at : now;
    }
    b->code = db_batch_save(db, f, &b->err);
    if (b->code == 0) b->code = db_batch_finish(db, f, final, now, &b->err);
}

static void run_job(struct store_job *j, struct db *db)
{
    static void (*const runs[])(struct lane_batch *,
                                struct db *) = {[STEP_VALIDATE] = run_validate,
                                                [STEP_READ] = run_read,
                                                [STEP_COMMIT] = run_commit,
                                                [STEP_END_LINES] = run_end_lines,
                                                [STEP_FINISH] = run_finish};
    struct lane_batch *b = (struct lane_batch *)((char *)j - offsetof(struct lane_batch, job));
    runs[b->step](b, db);
}

/* ------------------------------------------------------------------ jobs: io thread */

static void batch_free(struct lane_batch *b)
{
    validation_free(b->validation);
    line_reader_close(&b->reader);
    drop_lines(&b->fresh);
    drop_lines(&b->ready);
    drop_answers(&b->answers);
    drop_answers(&b->committing);
    batch_facts_free(&b->facts);
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

/* The disk refuses: the batch rests until the next start, when it goes on. */
static void give_up(struct lane_batch *b)
{
    log_error("batch", "%s stops until the next start: %s", b->id, b->err.text);
    b->is_over = true;
}

static void after_job(struct store_job *j)
{
    struct lane_batch *b = (struct lane_batch *)((char *)j - offsetof(struct lane_batch, job));
    b->has_job = false;
    drop_answers(&b->committing);
    while (!TAILQ_EMPTY(&b->fresh)) {
        struct lane_line *line = TAILQ_FIRST(&b->fresh);
        TAILQ_REMOVE(&b->fresh, line, link);
        TAILQ_INSERT_TAIL(&b->ready, line, link);
        b->n_ready++;
    }
    if (b->ending != GOES_ON) {
        drop_lines(&b->ready);
        b->n_ready = 0;
    }
    if (b->code < 0) give_up(b);
    if (batch_is_over(b->facts.status)) {
        log_info("batch", "%s is over: %lld answered, %lld failed", b->id,
                 (long long)b->facts.n_completed, (long long)b->facts.n_failed);
        b->is_over = true;
    }
    struct lane *l = b->lane;
    pump(b);
    lane_drive(l);
}

static void submit(struct lane_batch *b, enum lane_step step)
{
    b->step = step;
    b->job_ending = b->ending;
    b->has_job = true;
    b->job.run = run_job;
    b->job.done = after_job;
    store_submit(b->lane->store, &b->job);
}

/* The batch will not go on: nothing more starts, what runs is given up. */
static void stop_lines(struct lane_batch *b)
{
    struct lane_line *line;
    drop_lines(&b->ready);
    b->n_ready = 0;
    TAILQ_FOREACH(line, &b->running, running_link)
    {
        if (!line->req->is_gone) generate_leave(line->req);
    }
}

static bool wants_commit(const struct lane_batch *b)
{
    if (b->answers.n == 0) return false;
    bool is_waiting = b->ending == GOES_ON && !b->lane->is_stopping &&
                      (!TAILQ_EMPTY(&b->running) || b->n_ready || !b->is_read);
    uint64_t age = uv_now(&b->lane->s->loop) - b->answered_ms;
    return !is_waiting || b->answers.n >= COMMIT_LINES || age >= COMMIT_MS;
}

/* What the batch needs next from the store, if anything. It may be freed here. */
static void pump(struct lane_batch *b)
{
    struct lane *l = b->lane;
    bool is_idle = TAILQ_EMPTY(&b->running) && b->n_ready == 0 && b->answers.n == 0;
    if (b->has_job) return;
    if (b->is_over) {
        stop_lines(b);
        if (TAILQ_EMPTY(&b->running)) batch_remove(b);
        return;
    }
    if (wants_commit(b)) {
        b->committing = b->answers;
        b->answers = (struct answer_list){0};
        submit(b, STEP_COMMIT);
        return;
    }
    if (l->is_stopping) return;
    if (b->ending == GOES_ON && b->facts.status == BATCH_VALIDATING)
        submit(b, STEP_VALIDATE);
    else if (b->ending == GOES_ON && !b->is_read && b->n_ready < READ_LINES)
        submit(b, STEP_READ);
    else if (is_idle && b->facts.in_progress_at && (!b->is_read || b->is_rewinding))
        submit(b, STEP_END_LINES);
    else if (is_idle)
        submit(b, STEP_FINISH);
}

/* ------------------------------------------------------------------ the life of a line */

static void start_line(struct lane_batch *b, struct lane_line *line)
{
    TAILQ_REMOVE(&b->ready, line, link);
    b->n_ready--;
    TAILQ_INSERT_TAIL(&b->running, line, running_link);
    b->lane->counts.n_running++;
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
        b->n_ready++;
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
    while (l->counts.n_running < n_max && !l->is_full && (b = next_ready(l))) {
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
    struct batch_facts facts;
    struct sl_error e;
    l->found = NULL;
    if (db_batch_unfinished(db, l->last_num, &facts, &e) < 0) return;
    l->found = xcalloc(1, sizeof *l->found);
    l->found->facts = facts;
    l->found->reader.fd = -1;
}

static void add_batch(struct lane *l, struct lane_batch *b)
{
    b->lane = l;
    memcpy(b->id, b->facts.id, sizeof b->id);
    b->expires_at = b->facts.expires_at;
    b->route = lane_route(b->facts.endpoint);
    b->key = auth_find_owner(l->s->auth, b->facts.owner);
    TAILQ_INIT(&b->fresh);
    TAILQ_INIT(&b->ready);
    TAILQ_INIT(&b->running);
    if (b->facts.status == BATCH_CANCELLING) b->ending = IS_CANCELLED;
    if (b->facts.status == BATCH_FINALIZING) b->is_read = true; /* all lines are answered */
    if (!b->route || b->key < 0)
        log_warn("batch", "%s waits: its API key or endpoint is gone", b->id);
    if (TAILQ_EMPTY(&l->batches)) uv_timer_start(&l->timer, on_timer, COMMIT_MS, COMMIT_MS);
    if (!b->route) b->key = -1;
    TAILQ_INSERT_TAIL(&l->batches, b, link);
    l->counts.n_batches++;
    pump(b);
}

static void after_look(struct store_job *j)
{
    struct lane *l = (struct lane *)((char *)j - offsetof(struct lane, look));
    struct lane_batch *b = l->found;
    l->found = NULL;
    l->is_looking = false;
    if (b) {
        l->last_num = b->facts.num;
        add_batch(l, b);
    }
    if ((b || l->is_asked) && !l->is_stopping) lane_kick(l);
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

static void end_batch(struct lane_batch *b, enum lane_ending ending)
{
    if (b->ending != GOES_ON || b->is_over) return;
    b->ending = ending;
    b->is_rewinding = true;
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
