/* db_sql.h - SQLite in a few words, for the files of db.h. Store thread only. */
#ifndef SERVER_DB_SQL_H
#define SERVER_DB_SQL_H

#include <sqlite3.h>

#include "server/db.h"

enum { DB_STATEMENTS_MAX = 64 };

struct db {
    sqlite3 *sql; /* owned */
    char dir[DB_PATH_MAX - 128];
    struct {
        const char *text; /* a string constant: compared by address */
        sqlite3_stmt *stmt;
    } cache[DB_STATEMENTS_MAX];
    int n_cached;
};

/* A statement ready to step, its parameters bound in order by `types`: i int64_t, s const char *
 * (NULL: NULL). `text` is a string constant; the statement stays prepared. NULL on an error, with
 * e filled. */
sqlite3_stmt *db_bind(struct db *d, struct sl_error *e, const char *text, const char *types, ...);
/* db_bind and one step that gives no row. */
int db_run(struct db *d, struct sl_error *e, const char *text, const char *types, ...);
/* 1: a row, 0: none, or a code. On 0 and codes the statement is reset. */
int db_step(struct db *d, sqlite3_stmt *q, struct sl_error *e);
/* A text column into a fixed array, cut; NULL reads as "". */
void db_text(sqlite3_stmt *q, int column, char *out, size_t max);
/* A text column as an owned copy, NULL for NULL. */
char *db_text_copy(sqlite3_stmt *q, int column);
/* BEGIN IMMEDIATE; COMMIT when code is 0, else ROLLBACK. db_end returns code, or the commit's. */
int db_begin(struct db *d, struct sl_error *e);
int db_end(struct db *d, int code, struct sl_error *e);

#endif
