/* test_db.c - the store's state: files and pages of lists, batches that are committed once whatever
 * happens in between, expiry, usage, schema. No thread: the functions are called directly. */
#include "server/db.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/test.h"

static char dir[64];

static struct db *open_db(bool is_new)
{
    struct db *d = NULL;
    struct sl_error e = {0};
    if (is_new) {
        char files[96];
        snprintf(dir, sizeof dir, "/tmp/sluice-db-XXXXXX");
        CHECK(mkdtemp(dir) != NULL);
        snprintf(files, sizeof files, "%s/files", dir);
        CHECK(mkdir(files, 0700) == 0);
    }
    CHECK_MSG(db_open(&d, dir, &e) == 0, "%s", e.text);
    return d;
}

static void remove_dir(void)
{
    char command[128]; /* fixed text and a name of ours */
    snprintf(command, sizeof command, "%s/files", dir);
    const char *const names[] = {"sluice.db", "sluice.db-wal", "sluice.db-shm"};
    for (int i = 0; i < 3; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(command);
    rmdir(dir);
}

static void touch(const struct db *d, const char *id, const char *suffix, const char *text)
{
    char path[DB_PATH_MAX];
    db_file_path(d, id, suffix, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

/* The file's text, "" when it is not there; static. */
static const char *text_of(const struct db *d, const char *id, const char *suffix)
{
    static char text[4096];
    char path[DB_PATH_MAX];
    db_file_path(d, id, suffix, path);
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    text[n] = '\0';
    return text;
}

static void add_file(struct db *d, const char *owner, const char *id, int64_t expires_at)
{
    struct file_facts f = {.purpose = "batch", .filename = "a", .bytes = 1, .created_at = 5};
    snprintf(f.id, sizeof f.id, "%s", id);
    f.expires_at = expires_at;
    CHECK(db_file_add(d, owner, &f, NULL) == 0);
    touch(d, id, "", "x");
}

static void add_batch(struct db *d, struct batch_facts *b, const char *id)
{
    *b = (struct batch_facts){.status = BATCH_IN_PROGRESS, .n_total = 3, .created_at = 1};
    snprintf(b->id, sizeof b->id, "%s", id);
    snprintf(b->owner, sizeof b->owner, "me");
    snprintf(b->input_file_id, sizeof b->input_file_id, "file-in");
    CHECK(db_batch_add(d, b, NULL) == 0 && b->num > 0);
}

TEST(files_by_owner)
{
    struct db *d = open_db(true);
    struct file_facts f;
    struct sl_error e;
    add_file(d, "me", "file-1", 0);
    CHECK(db_file_get(d, "me", "file-1", &f, &e) == 0 && f.created_at == 5 && f.bytes == 1);
    CHECK(db_file_get(d, "you", "file-1", &f, &e) == SL_ENOTFOUND);
    CHECK(db_file_get(d, "", "file-1", &f, &e) == SL_ENOTFOUND);
    CHECK(db_file_delete(d, "you", "file-1", &e) == SL_ENOTFOUND);
    CHECK(db_file_delete(d, "me", "file-1", &e) == 0 && text_of(d, "file-1", "")[0] == '\0');
    CHECK(db_file_get(d, "me", "file-1", &f, &e) == SL_ENOTFOUND);
    db_close(d);
    remove_dir();
}

TEST(files_expire_unless_read)
{
    struct db *d = open_db(true);
    struct file_facts f;
    struct batch_facts b;
    add_file(d, "me", "file-1", 100);
    add_file(d, "me", "file-in", 100);
    add_batch(d, &b, "batch_1");
    CHECK(db_file_expire(d, 99, NULL) == 0 && db_file_get(d, "me", "file-1", &f, NULL) == 0);
    CHECK(db_file_expire(d, 100, NULL) == 0);
    CHECK(db_file_get(d, "me", "file-1", &f, NULL) == SL_ENOTFOUND);
    CHECK(db_file_get(d, "me", "file-in", &f, NULL) == 0);
    CHECK(db_file_delete(d, "me", "file-in", NULL) == SL_EINVAL);
    CHECK(db_batch_finish(d, &b, BATCH_COMPLETED, 7, NULL) == 0);
    CHECK(db_file_expire(d, 100, NULL) == 0);
    CHECK(db_file_get(d, "me", "file-in", &f, NULL) == SL_ENOTFOUND);
    batch_facts_free(&b);
    db_close(d);
    remove_dir();
}

TEST(a_line_is_committed_once)
{
    struct db *d = open_db(true);
    struct batch_facts b, again = {0};
    struct sl_error e;
    add_file(d, "me", "file-in", 0);
    add_batch(d, &b, "batch_1");
    const struct db_answer first[] = {{1, false, STR("one\n"), 10, 2, 3},
                                      {2, true, STR("bad\n"), 0, 0, 0}};
    const struct db_answer second[] = {{1, false, STR("ONE\n"), 10, 2, 3},
                                       {3, false, STR("three\n"), 1, 0, 1}};
    CHECK(db_batch_commit(d, &b, first, 2, &e) == 0);
    CHECK(b.n_completed == 1 && b.n_failed == 1 && b.output_bytes == 4 && b.error_bytes == 4);
    CHECK(db_line_is_done(d, b.num, 1, &e) == 1 && db_line_is_done(d, b.num, 3, &e) == 0);
    touch(d, "batch_1", ".output.part", "one\ntorn wri"); /* a crash left more than was committed */
    db_close(d);
    batch_facts_free(&b);
    d = open_db(false);
    CHECK(db_batch_unfinished(d, 0, &b, &e) == 0 && strcmp(b.id, "batch_1") == 0);
    CHECK(db_batch_commit(d, &b, second, 2, &e) == 0);
    CHECK(b.n_completed == 2 && b.input_tokens == 11 && b.output_tokens == 4 &&
          b.cached_tokens == 2);
    snprintf(b.output_file_id, sizeof b.output_file_id, "file-out");
    snprintf(b.error_file_id, sizeof b.error_file_id, "file-err");
    CHECK(db_batch_finish(d, &b, BATCH_COMPLETED, 9, &e) == 0 && b.completed_at == 9);
    CHECK(strcmp(text_of(d, "file-out", ""), "one\nthree\n") == 0);
    CHECK(strcmp(text_of(d, "file-err", ""), "bad\n") == 0);
    CHECK(db_batch_unfinished(d, 0, &again, &e) == SL_ENOTFOUND);
    CHECK(db_batch_get(d, "me", "batch_1", &again, &e) == 0 && again.status == BATCH_COMPLETED);
    batch_facts_free(&again);
    batch_facts_free(&b);
    for (int i = 0; i < 2; i++)
        CHECK(db_file_delete(d, "me", i ? "file-out" : "file-err", &e) == 0);
    CHECK(db_file_delete(d, "me", "file-in", &e) == 0);
    db_close(d);
    remove_dir();
}

/* The crash between renaming the output and committing the end. */
TEST(finish_can_be_repeated)
{
    struct db *d = open_db(true);
    struct batch_facts b;
    struct sl_error e;
    char part[DB_PATH_MAX], path[DB_PATH_MAX];
    add_batch(d, &b, "batch_1");
    const struct db_answer a = {1, false, STR("one\n"), 0, 0, 0};
    CHECK(db_batch_commit(d, &b, &a, 1, &e) == 0);
    snprintf(b.output_file_id, sizeof b.output_file_id, "file-out");
    b.status = BATCH_FINALIZING;
    CHECK(db_batch_save(d, &b, &e) == 0);
    db_file_path(d, "batch_1", ".output.part", part);
    db_file_path(d, "file-out", "", path);
    CHECK(rename(part, path) == 0);
    db_close(d);
    d = open_db(false); /* whose sweep keeps the file */
    CHECK(db_batch_finish(d, &b, BATCH_COMPLETED, 9, &e) == 0);
    CHECK(strcmp(text_of(d, "file-out", ""), "one\n") == 0);
    CHECK(db_file_delete(d, "me", "file-out", &e) == 0);
    batch_facts_free(&b);
    db_close(d);
    remove_dir();
}

TEST(a_cancel_is_not_undone)
{
    struct db *d = open_db(true);
    struct batch_facts b, seen;
    struct sl_error e;
    add_batch(d, &b, "batch_1");
    CHECK(db_batch_get(d, "me", "batch_1", &seen, &e) == 0);
    seen.status = BATCH_CANCELLING;
    seen.cancelling_at = 4;
    CHECK(db_batch_save(d, &seen, &e) == 0);
    CHECK(db_batch_commit(d, &b, NULL, 0, &e) == 0); /* which knows nothing of it */
    batch_facts_free(&seen);
    CHECK(db_batch_get(d, "me", "batch_1", &seen, &e) == 0);
    CHECK(seen.status == BATCH_CANCELLING && seen.cancelling_at == 4);
    batch_facts_free(&seen);
    batch_facts_free(&b);
    db_close(d);
    remove_dir();
}

TEST(start_sweeps_what_a_crash_left)
{
    struct db *d = open_db(true);
    struct batch_facts b;
    add_file(d, "me", "file-1", 0);
    add_batch(d, &b, "batch_1");
    touch(d, "file-1", ".part", "x");
    touch(d, "file-2", "", "x");
    touch(d, "batch_1", ".output.part", "x");
    touch(d, "batch_2", ".output.part", "x");
    db_close(d);
    d = open_db(false);
    CHECK(text_of(d, "file-1", "")[0] == 'x' && text_of(d, "file-1", ".part")[0] == '\0');
    CHECK(text_of(d, "file-2", "")[0] == '\0');
    CHECK(text_of(d, "batch_1", ".output.part")[0] == 'x');
    CHECK(text_of(d, "batch_2", ".output.part")[0] == '\0');
    CHECK(db_batch_finish(d, &b, BATCH_FAILED, 1, NULL) == 0);
    batch_facts_free(&b);
    db_close(d);
    d = open_db(false);
    CHECK(text_of(d, "batch_1", ".output.part")[0] == '\0');
    CHECK(db_file_delete(d, "me", "file-1", NULL) == 0);
    db_close(d);
    remove_dir();
}

TEST(usage_adds_up_by_day)
{
    struct db *d = open_db(true);
    struct db_usage u = {0};
    struct buf days = buf_make(4096);
    const struct db_usage_row rows[] = {{"a", {1, 10, 5, 3}, {0}}, {"b", {1, 1, 1, 1}, {0}}};
    for (int day = 20000; day < 20003; day++) CHECK(db_usage_add(d, day, rows, 2, NULL) == 0);
    CHECK(db_usage_add(d, 20002, rows, 1, NULL) == 0);
    CHECK(db_usage_total(d, "a", 0, &u, NULL) == 0);
    CHECK(u.n_requests == 4 && u.prompt_tokens == 40 && u.cached_tokens == 20 &&
          u.completion_tokens == 12);
    CHECK(db_usage_total(d, "a", 20002, &u, NULL) == 0 && u.n_requests == 2);
    CHECK(db_usage_total(d, "nobody", 0, &u, NULL) == 0 && u.n_requests == 0);
    CHECK(db_usage_days(d, "a", 2, &days, NULL) == 0);
    CHECK_MSG(
        str_is(buf_str(&days),
               "{\"date\":\"2024-10-06\",\"requests\":2,\"prompt_tokens\":20,\"cached_tokens\":10,"
               "\"completion_tokens\":6},{\"date\":\"2024-10-05\",\"requests\":1,"
               "\"prompt_tokens\":10,\"cached_tokens\":5,\"completion_tokens\":3}"),
        "%s", buf_cstr(&days));
    buf_free(&days);
    db_close(d);
    remove_dir();
}

TEST(a_newer_schema_is_refused)
{
    struct db *d = open_db(true);
    db_close(d);
    char path[128];
    sqlite3 *sql;
    struct sl_error e;
    snprintf(path, sizeof path, "%s/sluice.db", dir);
    CHECK(sqlite3_open(path, &sql) == SQLITE_OK);
    CHECK(sqlite3_exec(sql, "PRAGMA user_version = 99", NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(sql);
    CHECK(db_open(&d, dir, &e) == SL_EIO && strstr(e.text, "newer"));
    remove_dir();
}
