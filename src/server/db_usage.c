/* db_usage.c - what each key has used, a row a day (days since 1970, UTC). */
#include "server/db_sql.h"

static int add_row(struct db *d, const char *owner, int64_t day, const struct db_usage *u,
                   struct sl_error *e)
{
    return db_run(d, e,
                  "INSERT INTO usage VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                  " requests = requests + excluded.requests,"
                  " prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
                  " cached_tokens = cached_tokens + excluded.cached_tokens,"
                  " completion_tokens = completion_tokens + excluded.completion_tokens",
                  "siiiii", owner, day, u->n_requests, u->prompt_tokens, u->cached_tokens,
                  u->completion_tokens);
}

int db_usage_add(struct db *d, int64_t day, const struct db_usage_row *rows, int n,
                 struct sl_error *e)
{
    TRY(db_begin(d, e));
    int code = 0;
    for (int i = 0; i < n && code == 0; i++)
        code = add_row(d, rows[i].owner, day, &rows[i].today, e);
    return db_end(d, code, e);
}

int db_usage_total(struct db *d, const char *owner, int64_t first_day, struct db_usage *u,
                   struct sl_error *e)
{
    sqlite3_stmt *q = db_bind(d, e,
                              "SELECT sum(requests), sum(prompt_tokens), sum(cached_tokens),"
                              " sum(completion_tokens) FROM usage WHERE owner = ? AND day >= ?",
                              "si", owner, first_day);
    int found = db_step(d, q, e);
    if (found <= 0) return found;
    *u = (struct db_usage){sqlite3_column_int64(q, 0), sqlite3_column_int64(q, 1),
                           sqlite3_column_int64(q, 2), sqlite3_column_int64(q, 3)};
    sqlite3_reset(q);
    return 0;
}

int db_usage_days(struct db *d, const char *owner, int n_days, struct buf *out, struct sl_error *e)
{
    int found;
    const char *comma = "";
    sqlite3_stmt *q = db_bind(d, e,
                              "SELECT date(day * 86400, 'unixepoch'), requests, prompt_tokens,"
                              " cached_tokens, completion_tokens FROM usage WHERE owner = ?"
                              " ORDER BY day DESC LIMIT ?",
                              "si", owner, (int64_t)n_days);
    while ((found = db_step(d, q, e)) > 0) {
        buf_printf(out,
                   "%s{\"date\":\"%s\",\"requests\":%lld,\"prompt_tokens\":%lld,"
                   "\"cached_tokens\":%lld,\"completion_tokens\":%lld}",
                   comma, (const char *)sqlite3_column_text(q, 0),
                   (long long)sqlite3_column_int64(q, 1), (long long)sqlite3_column_int64(q, 2),
                   (long long)sqlite3_column_int64(q, 3), (long long)sqlite3_column_int64(q, 4));
        comma = ",";
    }
    return found;
}
