/* db.c - opening, the schema and its versions, and the small words of db_sql.h. */
#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/log.h"
#include "server/db_sql.h"

/* Version n + 1 is reached by running row n. Rows are never edited, only added. */
static const char *const migrations[] = {
    "CREATE TABLE files("
    " num INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,"
    " purpose TEXT NOT NULL, filename TEXT NOT NULL, bytes INTEGER NOT NULL,"
    " created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL);"
    "CREATE INDEX files_owner ON files(owner, num);"
    "CREATE TABLE batches("
    " num INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,"
    " endpoint TEXT NOT NULL, window TEXT NOT NULL, input_file_id TEXT NOT NULL,"
    " output_file_id TEXT NOT NULL DEFAULT '', error_file_id TEXT NOT NULL DEFAULT '',"
    " model TEXT NOT NULL DEFAULT '', metadata TEXT, errors TEXT, status INTEGER NOT NULL,"
    " created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,"
    " in_progress_at INTEGER NOT NULL DEFAULT 0, finalizing_at INTEGER NOT NULL DEFAULT 0,"
    " completed_at INTEGER NOT NULL DEFAULT 0, failed_at INTEGER NOT NULL DEFAULT 0,"
    " expired_at INTEGER NOT NULL DEFAULT 0, cancelling_at INTEGER NOT NULL DEFAULT 0,"
    " cancelled_at INTEGER NOT NULL DEFAULT 0, output_expiry INTEGER NOT NULL DEFAULT 0,"
    " n_total INTEGER NOT NULL DEFAULT 0, n_completed INTEGER NOT NULL DEFAULT 0,"
    " n_failed INTEGER NOT NULL DEFAULT 0, input_tokens INTEGER NOT NULL DEFAULT 0,"
    " cached_tokens INTEGER NOT NULL DEFAULT 0, output_tokens INTEGER NOT NULL DEFAULT 0,"
    " output_bytes INTEGER NOT NULL DEFAULT 0, error_bytes INTEGER NOT NULL DEFAULT 0);"
    "CREATE INDEX batches_owner ON batches(owner, num);"
    "CREATE INDEX batches_status ON batches(status, num);"
    "CREATE TABLE answered(batch INTEGER NOT NULL, line INTEGER NOT NULL,"
    " PRIMARY KEY(batch, line)) WITHOUT ROWID;"
    "CREATE TABLE usage(owner TEXT NOT NULL, day INTEGER NOT NULL, requests INTEGER NOT NULL,"
    " prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,"
    " completion_tokens INTEGER NOT NULL, PRIMARY KEY(owner, day)) WITHOUT ROWID;",
};
enum { SCHEMA_VERSION = sizeof migrations / sizeof *migrations };

static int failed(struct db *d, struct sl_error *e)
{
    log_error("store", "sqlite: %s", sqlite3_errmsg(d->sql));
    return sl_fail(e, SL_EIO, "the server could not access its stored state");
}

/* ------------------------------------------------------------------ statements */

static sqlite3_stmt *find(struct db *d, const char *text)
{
    for (int i = 0; i < d->n_cached; i++)
        if (d->cache[i].text == text) return d->cache[i].stmt;
    ASSERT(d->n_cached < DB_STATEMENTS_MAX);
    sqlite3_stmt *q = NULL;
    if (sqlite3_prepare_v3(d->sql, text, -1, SQLITE_PREPARE_PERSISTENT, &q, NULL) != SQLITE_OK)
        return NULL;
    d->cache[d->n_cached].text = text;
    d->cache[d->n_cached++].stmt = q;
    return q;
}

static sqlite3_stmt *bind(struct db *d, struct sl_error *e, const char *text, const char *types,
                          va_list ap)
{
    sqlite3_stmt *q = find(d, text);
    if (!q) {
        failed(d, e);
        return NULL;
    }
    sqlite3_reset(q);
    for (int i = 0; types[i]; i++) {
        if (types[i] == 'i')
            sqlite3_bind_int64(q, i + 1, va_arg(ap, int64_t));
        else /* the caller's text lives until the statement is reset */
            sqlite3_bind_text(q, i + 1, va_arg(ap, const char *), -1, SQLITE_STATIC);
    }
    return q;
}

sqlite3_stmt *db_bind(struct db *d, struct sl_error *e, const char *text, const char *types, ...)
{
    va_list ap;
    va_start(ap, types);
    sqlite3_stmt *q = bind(d, e, text, types, ap);
    va_end(ap);
    return q;
}

int db_step(struct db *d, sqlite3_stmt *q, struct sl_error *e)
{
    if (!q) return SL_EIO;
    int rc = sqlite3_step(q);
    if (rc == SQLITE_ROW) return 1;
    int code = rc == SQLITE_DONE ? 0 : failed(d, e);
    sqlite3_reset(q);
    return code;
}

int db_run(struct db *d, struct sl_error *e, const char *text, const char *types, ...)
{
    va_list ap;
    va_start(ap, types);
    sqlite3_stmt *q = bind(d, e, text, types, ap);
    va_end(ap);
    return db_step(d, q, e);
}

void db_text(sqlite3_stmt *q, int column, char *out, size_t max)
{
    const char *text = (const char *)sqlite3_column_text(q, column);
    snprintf(out, max, "%s", text ? text : "");
}

char *db_text_copy(sqlite3_stmt *q, int column)
{
    const char *text = (const char *)sqlite3_column_text(q, column);
    if (!text) return NULL;
    size_t n = strlen(text) + 1;
    return memcpy(xmalloc(n), text, n);
}

int db_begin(struct db *d, struct sl_error *e)
{
    return db_run(d, e, "BEGIN IMMEDIATE", "");
}

int db_end(struct db *d, int code, struct sl_error *e)
{
    if (code == 0) code = db_run(d, e, "COMMIT", "");
    if (code < 0 && !sqlite3_get_autocommit(d->sql)) db_run(d, NULL, "ROLLBACK", "");
    return code;
}

/* ------------------------------------------------------------------ open */

static int migrate(struct db *d, struct sl_error *e)
{
    char pragma[48];
    sqlite3_stmt *q = db_bind(d, e, "PRAGMA user_version", "");
    int code = db_step(d, q, e);
    if (code < 0) return code;
    int version = sqlite3_column_int(q, 0);
    sqlite3_reset(q);
    if (version > SCHEMA_VERSION)
        return sl_fail(e, SL_EIO, "--data-dir %.120s was written by a newer version of sluice",
                       d->dir);
    for (; version < SCHEMA_VERSION; version++) {
        TRY(db_begin(d, e));
        bool is_done = sqlite3_exec(d->sql, migrations[version], NULL, NULL, NULL) == SQLITE_OK;
        snprintf(pragma, sizeof pragma, "PRAGMA user_version = %d", version + 1);
        is_done = is_done && sqlite3_exec(d->sql, pragma, NULL, NULL, NULL) == SQLITE_OK;
        TRY(db_end(d, is_done ? 0 : failed(d, e), e));
    }
    return 0;
}

/* Does a row still want the file of this name? */
static bool is_wanted(struct db *d, const char *name)
{
    char id[WIRE_ID_MAX + 16];
    snprintf(id, sizeof id, "%.*s", (int)sizeof id - 1, name);
    char *dot = strchr(id, '.');
    if (dot) *dot = '\0'; /* ID.part, or BATCH.output.part: kept while the batch lives */
    const char *text = dot ? "SELECT 1 FROM batches WHERE id = ? AND status < ?"
                           : "SELECT 1 FROM files WHERE id = ?1 UNION SELECT 1 FROM batches"
                             " WHERE (output_file_id = ?1 OR error_file_id = ?1) AND status < ?2";
    sqlite3_stmt *q = db_bind(d, NULL, text, "si", id, (int64_t)BATCH_COMPLETED);
    int code = db_step(d, q, NULL);
    if (q) sqlite3_reset(q);
    return code != 0; /* an error is no reason to delete */
}

/* A crash may leave bytes without a row, never a row without bytes. */
static void sweep(struct db *d)
{
    char path[DB_PATH_MAX];
    db_file_path(d, "", "", path);
    DIR *dir = opendir(path);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        bool is_ours =
            strncmp(entry->d_name, "file-", 5) == 0 || strncmp(entry->d_name, "batch_", 6) == 0;
        if (!is_ours || strlen(entry->d_name) > WIRE_ID_MAX + 12 || is_wanted(d, entry->d_name))
            continue;
        db_file_path(d, entry->d_name, "", path);
        unlink(path);
    }
    if (dir) closedir(dir);
}

int db_open(struct db **out, const char *dir, struct sl_error *e)
{
    char path[DB_PATH_MAX];
    struct db *d = xcalloc(1, sizeof *d);
    int code = 0;
    if (strlen(dir) >= sizeof d->dir)
        code = sl_fail(e, SL_EINVAL, "--data-dir is longer than %zu bytes", sizeof d->dir - 1);
    snprintf(d->dir, sizeof d->dir, "%s", dir);
    snprintf(path, sizeof path, "%s/sluice.db", d->dir);
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    if (code == 0 && sqlite3_open_v2(path, &d->sql, flags, NULL) != SQLITE_OK)
        code = sl_fail(e, SL_EIO, "cannot open %.160s: %s", path, sqlite3_errmsg(d->sql));
    /* FULL: what was committed survives a power cut; commits are grouped, so this costs little. */
    static const char setup[] = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                                "PRAGMA trusted_schema = OFF; PRAGMA busy_timeout = 2000;";
    if (code == 0 && sqlite3_exec(d->sql, setup, NULL, NULL, NULL) != SQLITE_OK)
        code = failed(d, e);
    if (code == 0) code = migrate(d, e);
    if (code < 0) {
        db_close(d);
        return code;
    }
    sweep(d);
    *out = d;
    return 0;
}

void db_close(struct db *d)
{
    if (!d) return;
    for (int i = 0; i < d->n_cached; i++) sqlite3_finalize(d->cache[i].stmt);
    sqlite3_close(d->sql);
    free(d);
}

void db_make_id(const char *prefix, char out[WIRE_ID_MAX])
{
    uint8_t random[16];
    int n = snprintf(out, WIRE_ID_MAX, "%.14s", prefix);
    while (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) continue;
    for (size_t i = 0; i < sizeof random; i++, n += 2)
        snprintf(out + n, (size_t)(WIRE_ID_MAX - n), "%02x", random[i]);
}

void db_file_path(const struct db *d, const char *id, const char *suffix, char out[DB_PATH_MAX])
{
    snprintf(out, DB_PATH_MAX, "%s/files/%.64s%.16s", d->dir, id, suffix);
}
