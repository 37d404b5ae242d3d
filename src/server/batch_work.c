/* batch_work.c - the steps of a batch, each a function of struct batch_work. See batch_work.h. */
#include "server/batch_work.h"

#include <stdlib.h>
#include <time.h>

enum { READ_BYTES = 4 << 20 }; /* of bodies by one step */

/* ------------------------------------------------------------------ lines and answers */

void line_free(struct lane_line *line)
{
    batch_line_free(&line->in);
    free(line);
}

void drop_lines(struct line_list *list)
{
    struct lane_line *line;
    while ((line = TAILQ_FIRST(list))) {
        TAILQ_REMOVE(list, line, link);
        line_free(line);
    }
}

void add_answer(struct answer_list *l, struct db_answer a)
{
    if (l->n == l->max) {
        l->max = l->max ? l->max * 2 : 64;
        l->v = xrealloc(l->v, (size_t)l->max * sizeof *l->v);
    }
    l->v[l->n++] = a;
}

void drop_answers(struct answer_list *l)
{
    for (int i = 0; i < l->n; i++) free((char *)(uintptr_t)l->v[i].text.p);
    free(l->v);
    *l = (struct answer_list){0};
}

void make_hex(char hex[33])
{
    char id[WIRE_ID_MAX];
    db_make_id("", id);
    memcpy(hex, id, 33);
}

/* ------------------------------------------------------------------ the steps */

static int open_reader(struct batch_work *w, struct db *db)
{
    char path[DB_PATH_MAX];
    if (w->reader.fd >= 0) return 0;
    db_file_path(db, w->facts.input_file_id, "", path);
    return line_reader_open(&w->reader, path, w->line_max, &w->err);
}

/* 1: there is more. */
static int validate(struct batch_work *w, struct db *db)
{
    struct batch_facts *f = &w->facts;
    int64_t now = (int64_t)time(NULL);
    if (!w->validation) {
        w->validation = validation_new();
        f->n_total = 0;
    }
    TRY(open_reader(w, db));
    int has_more = validation_slice(w->validation, &w->reader, f, &w->err);
    if (has_more != 0) return has_more;
    batch_work_rewind(w);
    if (f->errors) return db_batch_finish(db, f, BATCH_FAILED, now, &w->err);
    f->status = BATCH_IN_PROGRESS;
    f->in_progress_at = now;
    return db_batch_save(db, f, &w->err);
}

/* The next line that is not answered: 1, 0 at the end, or a code. */
static int next_line(struct batch_work *w, struct db *db, struct lane_line **out)
{
    struct str text;
    int found;
    while ((found = line_reader_next(&w->reader, &text, &w->err)) > 0) {
        if (batch_line_is_blank(text)) continue;
        int is_done = db_line_is_done(db, w->facts.num, w->reader.n_lines, &w->err);
        if (is_done < 0) return is_done;
        if (is_done) continue;
        struct lane_line *line = xcalloc(1, sizeof *line);
        line->number = w->reader.n_lines;
        if (!batch_line_parse(text, w->facts.endpoint, &line->in, &w->err)) {
            *out = line;
            return 1;
        }
        line_free(line); /* it was valid before: the file was changed behind our back */
        return sl_fail(&w->err, SL_EIO, "the input file has changed");
    }
    w->is_read = w->is_read || found == 0;
    return found;
}

static int read_lines(struct batch_work *w, struct db *db)
{
    struct lane_line *line;
    size_t n_bytes = 0;
    int found = 1;
    TRY(open_reader(w, db));
    for (int n = 0; n < WORK_LINES && n_bytes < READ_BYTES; n++) {
        found = next_line(w, db, &line);
        if (found <= 0) break;
        n_bytes += line->in.body.n;
        TAILQ_INSERT_TAIL(&w->fresh, line, link);
    }
    return found;
}

static int end_lines(struct batch_work *w, struct db *db)
{
    struct answer_list list = {0};
    struct lane_line *line;
    char hex[33];
    int found = open_reader(w, db);
    while (found >= 0 && list.n < WORK_LINES && (found = next_line(w, db, &line)) > 0) {
        struct buf text = buf_make(SIZE_MAX);
        make_hex(hex);
        put_batch_unrun(hex, line->in.custom_id, w->ending == IS_EXPIRED, &text);
        add_answer(&list, (struct db_answer){line->number, true, buf_str(&text), 0, 0, 0});
        line_free(line);
    }
    if (found >= 0) found = db_batch_commit(db, &w->facts, list.v, list.n, &w->err);
    drop_answers(&list);
    return found;
}

static int finish(struct batch_work *w, struct db *db)
{
    struct batch_facts *f = &w->facts;
    int64_t now = (int64_t)time(NULL);
    enum batch_status final = w->ending == IS_CANCELLED ? BATCH_CANCELLED
                              : w->ending == IS_EXPIRED ? BATCH_EXPIRED
                                                        : BATCH_COMPLETED;
    batch_work_rewind(w);
    if (!f->in_progress_at) f->n_total = 0; /* ended while it was validated */
    if (f->output_bytes && !f->output_file_id[0]) db_make_id("file-", f->output_file_id);
    if (f->error_bytes && !f->error_file_id[0]) db_make_id("file-", f->error_file_id);
    if (final == BATCH_COMPLETED) {
        f->status = BATCH_FINALIZING;
        f->finalizing_at = f->finalizing_at ? f->finalizing_at : now;
    }
    TRY(db_batch_save(db, f, &w->err));
    return db_batch_finish(db, f, final, now, &w->err);
}

void batch_work_run(struct batch_work *w, struct db *db)
{
    switch (w->step) {
    case WORK_VALIDATE:
        w->code = validate(w, db);
        break;
    case WORK_READ:
        w->code = read_lines(w, db);
        break;
    case WORK_COMMIT:
        w->code = db_batch_commit(db, &w->facts, w->answers.v, w->answers.n, &w->err);
        break;
    case WORK_END_LINES:
        w->code = end_lines(w, db);
        break;
    case WORK_FINISH:
        w->code = finish(w, db);
        break;
    }
}

/* ------------------------------------------------------------------ life */

void batch_work_open(struct batch_work *w, const struct batch_facts *facts, size_t line_max)
{
    *w = (struct batch_work){.facts = *facts, .line_max = line_max, .reader = {.fd = -1}};
    TAILQ_INIT(&w->fresh);
    w->is_read = facts->status == BATCH_FINALIZING; /* then all lines are answered */
}

void batch_work_rewind(struct batch_work *w)
{
    validation_free(w->validation);
    w->validation = NULL;
    line_reader_close(&w->reader);
    w->is_read = false;
}

void batch_work_close(struct batch_work *w)
{
    batch_work_rewind(w);
    drop_lines(&w->fresh);
    drop_answers(&w->answers);
    batch_facts_free(&w->facts);
}
