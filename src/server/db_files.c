/* db_files.c - the rows of files, and their bytes when a row goes. */
#include <stdio.h>
#include <unistd.h>

#include "server/db_sql.h"

#define COLUMNS "id, filename, purpose, bytes, created_at, expires_at, num"

static void read_row(sqlite3_stmt *q, struct file_facts *f)
{
    db_text(q, 0, f->id, sizeof f->id);
    db_text(q, 1, f->filename, sizeof f->filename);
    db_text(q, 2, f->purpose, sizeof f->purpose);
    f->bytes = sqlite3_column_int64(q, 3);
    f->created_at = sqlite3_column_int64(q, 4);
    f->expires_at = sqlite3_column_int64(q, 5);
}

static int no_file(const char *id, struct sl_error *e)
{
    return sl_fail_param(e, SL_ENOTFOUND, "id", "No such File object: %.60s", id);
}

int db_file_add(struct db *d, const char *owner, const struct file_facts *f, struct sl_error *e)
{
    return db_run(d, e,
                  "INSERT INTO files(id, owner, purpose, filename, bytes, created_at, expires_at)"
                  " VALUES(?, ?, ?, ?, ?, ?, ?)",
                  "ssssiii", f->id, owner, f->purpose, f->filename, f->bytes, f->created_at,
                  f->expires_at);
}

int db_file_get(struct db *d, const char *owner, const char *id, struct file_facts *f,
                struct sl_error *e)
{
    sqlite3_stmt *q =
        db_bind(d, e, "SELECT " COLUMNS " FROM files WHERE id = ? AND owner = ?", "ss", id, owner);
    int found = db_step(d, q, e);
    if (found == 0) return no_file(id, e);
    if (found < 0) return found;
    read_row(q, f);
    sqlite3_reset(q);
    return 0;
}

static int delete_file(struct db *d, const char *id, struct sl_error *e)
{
    char path[DB_PATH_MAX];
    TRY(db_run(d, e, "DELETE FROM files WHERE id = ?", "s", id));
    db_file_path(d, id, "", path);
    unlink(path);
    return 0;
}

int db_file_delete(struct db *d, const char *owner, const char *id, struct sl_error *e)
{
    struct file_facts f;
    TRY(db_file_get(d, owner, id, &f, e));
    sqlite3_stmt *q = db_bind(d, e, "SELECT id FROM batches WHERE input_file_id = ? AND status < ?",
                              "si", id, (int64_t)BATCH_COMPLETED);
    int found = db_step(d, q, e);
    if (found > 0) {
        char batch[WIRE_ID_MAX];
        db_text(q, 0, batch, sizeof batch);
        sqlite3_reset(q);
        return sl_fail_param(e, SL_EINVAL, "id",
                             "The file is the input of %s, which is not over: cancel it first.",
                             batch);
    }
    return found < 0 ? found : delete_file(d, id, e);
}

/* The row number of the item that a page goes on after; 0: from the start. */
static int find_after(struct db *d, const char *owner, const struct db_page *page, int64_t *num,
                      struct sl_error *e)
{
    *num = page->is_ascending ? 0 : INT64_MAX;
    if (!page->after[0]) return 0;
    sqlite3_stmt *q =
        db_bind(d, e, "SELECT num FROM files WHERE id = ? AND owner = ?", "ss", page->after, owner);
    int found = db_step(d, q, e);
    if (found == 0)
        return sl_fail_param(e, SL_EVALUE, "after", "No such File object: %.60s", page->after);
    if (found < 0) return found;
    *num = sqlite3_column_int64(q, 0);
    sqlite3_reset(q);
    return 0;
}

int db_file_list(struct db *d, const char *owner, const struct db_page *page, struct buf *out,
                 struct sl_error *e)
{
#define WHERE                                                                                      \
    "SELECT " COLUMNS " FROM files WHERE owner = ?1 AND (?2 = '' OR purpose = ?2) AND num "
    static const char up[] = WHERE "> ?3 ORDER BY num LIMIT ?4";
    static const char down[] = WHERE "< ?3 ORDER BY num DESC LIMIT ?4";
#undef WHERE
    struct file_facts f = {0};
    char first[WIRE_ID_MAX] = "";
    int64_t num, n = 0;
    int found;
    TRY(find_after(d, owner, page, &num, e));
    buf_puts(out, "{\"object\":\"list\",\"data\":[");
    sqlite3_stmt *q = db_bind(d, e, page->is_ascending ? up : down, "ssii", owner, page->purpose,
                              num, page->limit + 1);
    while ((found = db_step(d, q, e)) > 0 && n < page->limit) {
        if (n) buf_putc(out, ',');
        read_row(q, &f);
        if (n++ == 0) memcpy(first, f.id, sizeof first);
        put_file_object(&f, out);
    }
    if (q) sqlite3_reset(q);
    put_list_end(first, n ? f.id : "", found > 0, out);
    return found < 0 ? found : 0;
}

int db_file_expire(struct db *d, int64_t now, struct sl_error *e)
{
    for (;;) {
        char id[WIRE_ID_MAX];
        sqlite3_stmt *q =
            db_bind(d, e,
                    "SELECT id FROM files WHERE expires_at > 0 AND expires_at <= ? AND id NOT IN"
                    " (SELECT input_file_id FROM batches WHERE status < ?) LIMIT 1",
                    "ii", now, (int64_t)BATCH_COMPLETED);
        int found = db_step(d, q, e);
        if (found <= 0) return found;
        db_text(q, 0, id, sizeof id);
        sqlite3_reset(q);
        TRY(delete_file(d, id, e));
    }
}
