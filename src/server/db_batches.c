/* db_batches.c - the rows of batches, which of their lines are answered, and their growing files.
 *
 * Exactly once: an answer's bytes are written at the offset that the database knows, then the line,
 * the new offset and the counts are committed together. A crash in between leaves bytes beyond the
 * offset, which the next write covers; an answer that was not committed is computed again.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "server/db_sql.h"

#define COLUMNS                                                                                    \
    "num, id, owner, endpoint, window, input_file_id, output_file_id, error_file_id, model,"       \
    " metadata, errors, status, created_at, expires_at, in_progress_at, finalizing_at,"            \
    " completed_at, failed_at, expired_at, cancelling_at, cancelled_at, output_expiry, n_total,"   \
    " n_completed, n_failed, input_tokens, cached_tokens, output_tokens, output_bytes, "           \
    "error_bytes"

static void read_row(sqlite3_stmt *q, struct batch_facts *b)
{
    *b = (struct batch_facts){.num = sqlite3_column_int64(q, 0)};
    struct {
        char *at;
        size_t max;
    } texts[] = {{b->id, sizeof b->id},
                 {b->owner, sizeof b->owner},
                 {b->endpoint, sizeof b->endpoint},
                 {b->window, sizeof b->window},
                 {b->input_file_id, sizeof b->input_file_id},
                 {b->output_file_id, sizeof b->output_file_id},
                 {b->error_file_id, sizeof b->error_file_id},
                 {b->model, sizeof b->model}};
    int64_t *const numbers[] = {&b->created_at,    &b->expires_at,    &b->in_progress_at,
                                &b->finalizing_at, &b->completed_at,  &b->failed_at,
                                &b->expired_at,    &b->cancelling_at, &b->cancelled_at,
                                &b->output_expiry, &b->n_total,       &b->n_completed,
                                &b->n_failed,      &b->input_tokens,  &b->cached_tokens,
                                &b->output_tokens, &b->output_bytes,  &b->error_bytes};
    int column = 1;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        db_text(q, column++, texts[i].at, texts[i].max);
    b->metadata = db_text_copy(q, column++);
    b->errors = db_text_copy(q, column++);
    b->status = (enum batch_status)sqlite3_column_int(q, column++);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        *numbers[i] = sqlite3_column_int64(q, column++);
}

static int no_batch(const char *id, struct sl_error *e)
{
    return sl_fail_param(e, SL_ENOTFOUND, "id", "No batch found with id '%.60s'.", id);
}

int db_batch_add(struct db *d, struct batch_facts *b, struct sl_error *e)
{
    TRY(db_run(d, e,
               "INSERT INTO batches(id, owner, endpoint, window, input_file_id, metadata, status,"
               " created_at, expires_at, output_expiry) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
               "ssssssiiii", b->id, b->owner, b->endpoint, b->window, b->input_file_id, b->metadata,
               (int64_t)b->status, b->created_at, b->expires_at, b->output_expiry));
    b->num = sqlite3_last_insert_rowid(d->sql);
    return 0;
}

/* Into *b the row that the statement finds; SL_ENOTFOUND without a text where there is none. */
static int get_one(struct db *d, sqlite3_stmt *q, struct batch_facts *b, struct sl_error *e)
{
    int found = db_step(d, q, e);
    if (found == 0) return SL_ENOTFOUND;
    if (found < 0) return found;
    read_row(q, b);
    sqlite3_reset(q);
    return 0;
}

int db_batch_get(struct db *d, const char *owner, const char *id, struct batch_facts *b,
                 struct sl_error *e)
{
    static const char text[] = "SELECT " COLUMNS " FROM batches WHERE id = ? AND owner = ?";
    int code = get_one(d, db_bind(d, e, text, "ss", id, owner), b, e);
    return code == SL_ENOTFOUND ? no_batch(id, e) : code;
}

int db_batch_unfinished(struct db *d, int64_t after, struct batch_facts *b, struct sl_error *e)
{
    static const char text[] =
        "SELECT " COLUMNS " FROM batches WHERE num > ? AND status < ? ORDER BY num LIMIT 1";
    return get_one(d, db_bind(d, e, text, "ii", after, (int64_t)BATCH_COMPLETED), b, e);
}

int db_batch_list(struct db *d, const char *owner, const struct db_page *page, struct buf *out,
                  struct sl_error *e)
{
    static const char text[] =
        "SELECT " COLUMNS " FROM batches WHERE owner = ? AND num < ? ORDER BY num DESC LIMIT ?";
    struct batch_facts b = {.num = INT64_MAX};
    char first[WIRE_ID_MAX] = "";
    int64_t n = 0;
    int found;
    if (page->after[0]) {
        int code = db_batch_get(d, owner, page->after, &b, e);
        batch_facts_free(&b);
        if (code < 0)
            return sl_fail_param(e, SL_EVALUE, "after", "No batch found with id '%.60s'.",
                                 page->after);
    }
    buf_puts(out, "{\"object\":\"list\",\"data\":[");
    sqlite3_stmt *q = db_bind(d, e, text, "sii", owner, b.num, page->limit + 1);
    while ((found = db_step(d, q, e)) > 0 && n < page->limit) {
        if (n) buf_putc(out, ',');
        read_row(q, &b);
        if (n++ == 0) memcpy(first, b.id, sizeof first);
        put_batch_object(&b, out);
        batch_facts_free(&b);
    }
    if (q) sqlite3_reset(q);
    put_list_end(first, n ? b.id : "", found > 0, out);
    return found < 0 ? found : 0;
}

int db_batch_save(struct db *d, const struct batch_facts *b, struct sl_error *e)
{
    return db_run(
        d, e,
        "UPDATE batches SET output_file_id = ?, error_file_id = ?, model = ?, errors = ?,"
        " status = max(status, ?), in_progress_at = ?, finalizing_at = ?, completed_at = ?, "
        "failed_at = ?,"
        " expired_at = ?, cancelling_at = max(cancelling_at, ?), cancelled_at = ?, n_total = ?, "
        "n_completed = ?,"
        " n_failed = ?, input_tokens = ?, cached_tokens = ?, output_tokens = ?, output_bytes = ?,"
        " error_bytes = ? WHERE num = ?",
        "ssssiiiiiiiiiiiiiiiii", b->output_file_id, b->error_file_id, b->model, b->errors,
        (int64_t)b->status, b->in_progress_at, b->finalizing_at, b->completed_at, b->failed_at,
        b->expired_at, b->cancelling_at, b->cancelled_at, b->n_total, b->n_completed, b->n_failed,
        b->input_tokens, b->cached_tokens, b->output_tokens, b->output_bytes, b->error_bytes,
        b->num);
}

int db_line_is_done(struct db *d, int64_t batch, int64_t line, struct sl_error *e)
{
    sqlite3_stmt *q =
        db_bind(d, e, "SELECT 1 FROM answered WHERE batch = ? AND line = ?", "ii", batch, line);
    int found = db_step(d, q, e);
    if (found > 0) sqlite3_reset(q);
    return found;
}

/* ------------------------------------------------------------------ the growing files */

static const char *const suffixes[] = {".output.part", ".error.part"};

/* Writes all of text at an offset and waits until it is on the disk. */
static int append(struct db *d, const char *id, const char *suffix, int64_t at, struct str text,
                  struct sl_error *e)
{
    char path[DB_PATH_MAX];
    if (text.n == 0) return 0;
    db_file_path(d, id, suffix, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ssize_t n = 0;
    for (size_t done = 0; fd >= 0 && done < text.n && n >= 0;) {
        n = pwrite(fd, text.p + done, text.n - done, (off_t)at + (off_t)done);
        if (n < 0 && errno == EINTR) n = 0;
        done += n > 0 ? (size_t)n : 0;
    }
    bool is_bad = fd < 0 || n < 0 || fdatasync(fd) < 0;
    if (fd >= 0) close(fd);
    if (!is_bad) return 0;
    log_error("store", "cannot write %s", path);
    return sl_fail(e, SL_EIO, "the server could not write the output of a batch");
}

/* Marks the new ones and gathers their texts: output, then error. */
static int mark(struct db *d, struct batch_facts *b, const struct db_answer *answers, int n,
                struct buf text[2], struct sl_error *e)
{
    for (int i = 0; i < n; i++) {
        const struct db_answer *a = &answers[i];
        TRY(db_run(d, e, "INSERT OR IGNORE INTO answered VALUES(?, ?)", "ii", b->num, a->line));
        if (sqlite3_changes(d->sql) == 0) continue;
        buf_put_str(&text[a->is_error], a->text);
        b->n_completed += !a->is_error;
        b->n_failed += a->is_error;
        b->input_tokens += (int64_t)a->input_tokens;
        b->cached_tokens += (int64_t)a->cached_tokens;
        b->output_tokens += (int64_t)a->output_tokens;
    }
    return 0;
}

int db_batch_commit(struct db *d, struct batch_facts *b, const struct db_answer *answers, int n,
                    struct sl_error *e)
{
    struct batch_facts next = *b;
    struct buf text[2] = {buf_make(SIZE_MAX), buf_make(SIZE_MAX)};
    TRY(db_begin(d, e));
    int code = mark(d, &next, answers, n, text, e);
    if (code == 0) code = append(d, b->id, suffixes[0], b->output_bytes, buf_str(&text[0]), e);
    if (code == 0) code = append(d, b->id, suffixes[1], b->error_bytes, buf_str(&text[1]), e);
    next.output_bytes += (int64_t)text[0].n;
    next.error_bytes += (int64_t)text[1].n;
    if (code == 0) code = db_batch_save(d, &next, e);
    code = db_end(d, code, e);
    buf_free(&text[0]);
    buf_free(&text[1]);
    if (code == 0) *b = next;
    return code;
}

/* BATCH.output.part becomes the file of that id, cut to what was committed. A repeat finds it done. */
static int seal(struct db *d, const struct batch_facts *b, int which, int64_t bytes,
                struct sl_error *e)
{
    char part[DB_PATH_MAX], path[DB_PATH_MAX];
    const char *id = which ? b->error_file_id : b->output_file_id;
    if (!id[0]) return 0;
    db_file_path(d, b->id, suffixes[which], part);
    db_file_path(d, id, "", path);
    if (access(part, F_OK) < 0 && access(path, F_OK) == 0) return 0;
    if (truncate(part, bytes) == 0 && rename(part, path) == 0) return 0;
    log_error("store", "cannot rename %s", part);
    return sl_fail(e, SL_EIO, "the server could not finish the output of a batch");
}

static int add_output(struct db *d, const struct batch_facts *b, int which, int64_t now,
                      struct sl_error *e)
{
    struct file_facts f = {.bytes = which ? b->error_bytes : b->output_bytes,
                           .purpose = "batch_output",
                           .created_at = now,
                           .expires_at = b->output_expiry ? now + b->output_expiry : 0};
    memcpy(f.id, which ? b->error_file_id : b->output_file_id, sizeof f.id);
    if (!f.id[0]) return 0;
    snprintf(f.filename, sizeof f.filename, "%s_%s.jsonl", b->id, which ? "error" : "output");
    return db_file_add(d, b->owner, &f, e);
}

int db_batch_finish(struct db *d, struct batch_facts *b, enum batch_status final, int64_t now,
                    struct sl_error *e)
{
    struct batch_facts next = *b;
    next.status = final;
    *(final == BATCH_COMPLETED ? &next.completed_at
      : final == BATCH_FAILED  ? &next.failed_at
      : final == BATCH_EXPIRED ? &next.expired_at
                               : &next.cancelled_at) = now;
    TRY(seal(d, b, 0, b->output_bytes, e));
    TRY(seal(d, b, 1, b->error_bytes, e));
    TRY(db_begin(d, e));
    int code = add_output(d, &next, 0, now, e);
    if (code == 0) code = add_output(d, &next, 1, now, e);
    if (code == 0) code = db_run(d, e, "DELETE FROM answered WHERE batch = ?", "i", b->num);
    if (code == 0) code = db_batch_save(d, &next, e);
    code = db_end(d, code, e);
    if (code == 0) *b = next;
    return code;
}
