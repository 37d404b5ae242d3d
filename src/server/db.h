/* db.h - the state behind /v1/files, /v1/batches and usage: SQL in one place. Store thread only.
 *
 * Functions return 0 or a negative code with a text; a row that is not there is SL_ENOTFOUND. Every
 * row has an owner, the name of the API key that made it; none is seen by another owner.
 */
#ifndef SERVER_DB_H
#define SERVER_DB_H

#include "api/batch_wire.h"
#include "base/buf.h"
#include "base/err.h"
#include "server/auth.h"

enum { DB_PATH_MAX = 1024 };

struct db; /* opaque */

int db_open(struct db **out, const char *dir, struct sl_error *e);
void db_close(struct db *d); /* NULL is fine */

/* prefix and 32 random hex digits. */
void db_make_id(const char *prefix, char out[WIRE_ID_MAX]);
/* DIR/files/ID, or with a suffix such as ".part". */
void db_file_path(const struct db *d, const char *id, const char *suffix, char out[DB_PATH_MAX]);

struct db_page {         /* of a list */
    const char *after;   /* id of the last item seen, or "" */
    const char *purpose; /* files: only these, or "" */
    int64_t limit;
    bool is_ascending;
};

/* db_files.c */
int db_file_add(struct db *d, const char *owner, const struct file_facts *f, struct sl_error *e);
int db_file_get(struct db *d, const char *owner, const char *id, struct file_facts *f,
                struct sl_error *e);
/* SL_EINVAL while a batch that is not over reads it. */
int db_file_delete(struct db *d, const char *owner, const char *id, struct sl_error *e);
/* Appends the whole list object. */
int db_file_list(struct db *d, const char *owner, const struct db_page *page, struct buf *out,
                 struct sl_error *e);
/* Deletes what has expired by `now` and no batch reads. */
int db_file_expire(struct db *d, int64_t now, struct sl_error *e);

/* db_batches.c */
int db_batch_add(struct db *d, struct batch_facts *b, struct sl_error *e); /* sets b->num */
int db_batch_get(struct db *d, const char *owner, const char *id, struct batch_facts *b,
                 struct sl_error *e);
int db_batch_list(struct db *d, const char *owner, const struct db_page *page, struct buf *out,
                  struct sl_error *e);
/* Writes all of b's fields that change in a life, but never turns the status back: a cancel that
 * came in between stays. */
int db_batch_save(struct db *d, const struct batch_facts *b, struct sl_error *e);
/* The next batch after number `after` that is not over, or SL_ENOTFOUND. */
int db_batch_unfinished(struct db *d, int64_t after, struct batch_facts *b, struct sl_error *e);
/* Is the line answered? 1 or 0, or a code. */
int db_line_is_done(struct db *d, int64_t batch, int64_t line, struct sl_error *e);

struct db_answer { /* one line's */
    int64_t line;
    bool is_error;   /* goes to the error file */
    struct str text; /* with its line end */
    uint64_t input_tokens, cached_tokens, output_tokens;
};
/* Each answer is counted, and its text appended to the batch's files, unless its line already has
 * one; all of them or, after a crash, none. Updates b's counts. */
int db_batch_commit(struct db *d, struct batch_facts *b, const struct db_answer *answers, int n,
                    struct sl_error *e);
/* Makes files of what was appended and sets the final status; safe to repeat after a crash. The
 * ids of the files must be set in b where there are bytes. */
int db_batch_finish(struct db *d, struct batch_facts *b, enum batch_status final, int64_t now,
                    struct sl_error *e);

/* db_usage.c */
struct db_usage {
    int64_t n_requests, prompt_tokens, cached_tokens, completion_tokens;
};
struct db_usage_row {
    char owner[OWNER_MAX];
    struct db_usage today, total;
};
/* Adds each row's `today` to that day, all or none. */
int db_usage_add(struct db *d, int64_t day, const struct db_usage_row *rows, int n,
                 struct sl_error *e);
/* The sum over the days from first_day on. */
int db_usage_total(struct db *d, const char *owner, int64_t first_day, struct db_usage *u,
                   struct sl_error *e);
/* The latest days first: appends objects, separated by commas. */
int db_usage_days(struct db *d, const char *owner, int n_days, struct buf *out, struct sl_error *e);

#endif
