/* files.c - /v1/files: bytes go from the socket to the disk and back in pieces, never through memory
 * as a whole.
 *
 * An upload is parsed as it arrives; the content gathers in a chunk, and while the store thread
 * writes one chunk the next one fills. When that is full too, the connection is suspended: so an
 * upload costs two chunks, however fast the client and however slow the disk. Only when all of it
 * is on the disk does a row appear; a crash before leaves a .part file, which the next start
 * removes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "server/handlers.h"
#include "server/http_request.h"
#include "server/multipart.h"

enum {
    CHUNK_BYTES = 1 << 18,
    FIELD_BYTES_MAX = 64,     /* of a form field that is not the file */
    FORM_BYTES_MAX = 1 << 16, /* of a form besides its file */
    FLOOR_BYTES = 65536,      /* a second, of a body whose length was not announced */
    EXPIRY_MIN = 3600,
    EXPIRY_MAX = 2592000,
    LIST_MAX = 10000,
};

enum field { FIELD_NONE, FIELD_FILE, FIELD_PURPOSE, FIELD_ANCHOR, FIELD_SECONDS };

struct file_io {
    int fd; /* -1: not open; the store thread's while a job runs */
    struct file_facts facts;
    /* upload */
    struct multipart form;
    enum field field;
    char text[FIELD_SECONDS + 1][FIELD_BYTES_MAX]; /* small fields, NUL-terminated */
    struct buf chunk, writing;
    struct sl_error err;    /* of the job that writes */
    bool has_file, is_kept; /* the row was made: the bytes stay */
    char part[DB_PATH_MAX];
    /* download */
    int64_t offset;
};

/* ------------------------------------------------------------------ upload: the form */

static int on_part(void *arg, const struct multipart_part *part, struct sl_error *e)
{
    static const char *const names[] = {[FIELD_FILE] = "file",
                                        [FIELD_PURPOSE] = "purpose",
                                        [FIELD_ANCHOR] = "expires_after[anchor]",
                                        [FIELD_SECONDS] = "expires_after[seconds]"};
    struct request *r = arg;
    struct file_io *io = r->io;
    io->field = FIELD_NONE;
    for (int i = FIELD_FILE; i <= FIELD_SECONDS; i++)
        if (strcmp(part->name, names[i]) == 0) io->field = (enum field)i;
    if (io->field != FIELD_FILE) {
        io->text[io->field][0] = '\0';
        return 0;
    }
    if (!part->is_file)
        return sl_fail_param(e, SL_ETYPE, "file", "'file' must be a file, with a filename.");
    if (io->has_file) return sl_fail_param(e, SL_EVALUE, "file", "Only one file at a time.");
    io->has_file = true;
    snprintf(io->facts.filename, sizeof io->facts.filename, "%s",
             part->filename[0] ? part->filename : "upload");
    return 0;
}

static int on_data(void *arg, const char *bytes, size_t n, struct sl_error *e)
{
    struct request *r = arg;
    struct file_io *io = r->io;
    if (io->field == FIELD_FILE) {
        io->facts.bytes += (int64_t)n;
        if (io->facts.bytes > r->s->o->max_file_bytes)
            return sl_fail_param(e, SL_ETOOLARGE, "file", "The file is larger than %lld bytes.",
                                 (long long)r->s->o->max_file_bytes);
        buf_put(&io->chunk, bytes, n);
        return 0;
    }
    size_t at = strlen(io->text[io->field]);
    if (io->field == FIELD_NONE) return 0; /* bounded by the body's limit */
    if (at + n >= FIELD_BYTES_MAX)
        return sl_fail(e, SL_EVALUE, "A form field is longer than %d bytes.", FIELD_BYTES_MAX - 1);
    memcpy(io->text[io->field] + at, bytes, n);
    io->text[io->field][at + n] = '\0';
    return 0;
}

bool upload_is_route(const struct route *route)
{
    return route->finish == finish_file_upload;
}

int upload_begin(struct request *r)
{
    struct server *s = r->s;
    const struct gate_facts *f = &r->facts;
    if (!s->store)
        return sl_fail(
            &r->err, SL_ENOSYS,
            "Files need a folder to keep them in: start the server with --data-dir DIR.");
    if (s->phase == SERVER_DRAINING || s->phase == SERVER_FAILED)
        return sl_fail(&r->err, SL_EDRAINING, "The server is shutting down.");
    if (f->content_length > s->o->max_file_bytes + FORM_BYTES_MAX)
        return sl_fail(&r->err, SL_ETOOLARGE, "The file is larger than %lld bytes.",
                       (long long)s->o->max_file_bytes);
    struct file_io *io = r->io = xcalloc(1, sizeof *io);
    io->fd = -1;
    io->chunk = buf_make(SIZE_MAX);
    io->writing = buf_make(SIZE_MAX);
    db_make_id("file-", io->facts.id);
    return multipart_open(&io->form, f->content_type, (struct multipart_sink){r, on_part, on_data},
                          &r->err);
}

/* ------------------------------------------------------------------ upload: the disk */

/* Store thread: what gathered goes to the part file. */
static int write_out(struct file_io *io, const struct db *db, struct buf *bytes, struct sl_error *e)
{
    if (io->fd < 0) {
        db_file_path(db, io->facts.id, ".part", io->part);
        io->fd = open(io->part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    }
    ssize_t n = io->fd < 0 ? -1 : 0;
    for (size_t done = 0; done < bytes->n && n >= 0;) {
        n = write(io->fd, bytes->p + done, bytes->n - done);
        if (n < 0 && errno == EINTR) n = 0;
        done += n > 0 ? (size_t)n : 0;
    }
    bytes->n = 0;
    if (n >= 0) return 0;
    log_error("store", "cannot write %s", io->part);
    return sl_fail(e, SL_EIO, "the server could not store the file");
}

static void run_write(struct store_job *j, struct db *db)
{
    struct file_io *io = request_of_job(j)->io;
    write_out(io, db, &io->writing, &io->err);
}

static void after_write(struct store_job *j)
{
    struct request *r = request_of_job(j);
    if (r->err.code == 0) r->err = r->io->err;
    request_after_job(r);
}

void upload_take(struct request *r, const char *bytes, size_t n)
{
    struct file_io *io = r->io;
    if (r->facts.content_length < 0 && r->conn->expires_ms)
        r->conn->expires_ms += n * 1000 / FLOOR_BYTES;
    if (multipart_feed(&io->form, bytes, n, &r->err) < 0 || io->chunk.n < CHUNK_BYTES) return;
    if (r->in_work) {
        bool is_full = io->chunk.n >= 2 * CHUNK_BYTES; /* MHD hands on what it has read even so */
        if (is_full && !r->is_suspended) request_suspend(r);
        return;
    }
    struct buf empty = io->writing;
    io->writing = io->chunk;
    io->chunk = empty;
    request_store_job(r, run_write, after_write);
}

static int check_form(const struct file_io *io, struct sl_error *e)
{
    const char *seconds = io->text[FIELD_SECONDS];
    TRY(multipart_end(&io->form, e));
    if (!io->has_file)
        return sl_fail_param(e, SL_EMISSING, "file", "Missing required parameter: 'file'.");
    if (!io->text[FIELD_PURPOSE][0])
        return sl_fail_param(e, SL_EMISSING, "purpose", "Missing required parameter: 'purpose'.");
    if (!file_purpose_ok(io->text[FIELD_PURPOSE]))
        return sl_fail_param(e, SL_EVALUE, "purpose", "'%s' is not a purpose.",
                             io->text[FIELD_PURPOSE]);
    if (!seconds[0] && !io->text[FIELD_ANCHOR][0]) return 0;
    if (strcmp(io->text[FIELD_ANCHOR], "created_at") != 0)
        return sl_fail_param(e, SL_EVALUE, "expires_after[anchor]",
                             "'anchor' must be 'created_at'.");
    long n = strtol(seconds, NULL, 10);
    if (strspn(seconds, "0123456789") != strlen(seconds) || n < EXPIRY_MIN || n > EXPIRY_MAX)
        return sl_fail_param(e, SL_EVALUE, "expires_after[seconds]", "'seconds' must be %d to %d.",
                             EXPIRY_MIN, EXPIRY_MAX);
    return 0;
}

/* Store thread: the last bytes, then the name, then the row. */
static void run_keep(struct request *r, struct db *db)
{
    char path[DB_PATH_MAX];
    struct file_io *io = r->io;
    struct file_facts *f = &io->facts;
    snprintf(f->purpose, sizeof f->purpose, "%.23s", io->text[FIELD_PURPOSE]);
    f->created_at = (int64_t)time(NULL);
    if (io->text[FIELD_SECONDS][0])
        f->expires_at = f->created_at + strtol(io->text[FIELD_SECONDS], NULL, 10);
    if (write_out(io, db, &io->chunk, &r->err) < 0) return;
    db_file_path(db, f->id, "", path);
    if (fsync(io->fd) < 0 || rename(io->part, path) < 0) {
        sl_fail(&r->err, SL_EIO, "the server could not store the file");
        return;
    }
    io->is_kept = db_file_add(db, auth_owner(r->s->auth, r->key), f, &r->err) == 0;
    if (!io->is_kept) unlink(path);
    put_file_object(f, &r->out);
}

enum MHD_Result upload_finish(struct request *r)
{
    if (r->in_work) { /* after_write resumes it */
        request_suspend(r);
        return MHD_YES;
    }
    if (r->err.code || check_form(r->io, &r->err) < 0) return answer_error(r);
    return request_store(r, run_keep, finish_json);
}

/* The route's finish: only its address is used, and a request that has no body to parse. */
enum MHD_Result finish_file_upload(struct request *r)
{
    sl_fail_param(&r->err, SL_EMISSING, "file", "Missing required parameter: 'file'.");
    return answer_error(r);
}

/* ------------------------------------------------------------------ what is left behind */

struct remains { /* closed and removed by the store thread, which may wait for the disk */
    struct store_job job;
    int fd;
    char part[DB_PATH_MAX]; /* "": nothing to remove */
};

static void run_remains(struct store_job *j, struct db *db)
{
    (void)db;
    struct remains *left = (struct remains *)((char *)j - offsetof(struct remains, job));
    if (left->fd >= 0) close(left->fd);
    if (left->part[0]) unlink(left->part);
}

static void after_remains(struct store_job *j)
{
    free((char *)j - offsetof(struct remains, job));
}

void file_io_release(struct request *r)
{
    struct file_io *io = r->io;
    if (!io) return;
    struct remains *left = xcalloc(1, sizeof *left);
    left->fd = io->fd;
    if (!io->is_kept) memcpy(left->part, io->part, sizeof left->part);
    left->job.run = run_remains;
    left->job.done = after_remains;
    store_submit(r->s->store, &left->job);
    multipart_free(&io->form);
    buf_free(&io->chunk);
    buf_free(&io->writing);
    free(io);
    r->io = NULL;
}

/* ------------------------------------------------------------------ download */

static void run_read(struct store_job *j, struct db *db)
{
    (void)db;
    struct request *r = request_of_job(j);
    char *to = buf_reserve(&r->out, CHUNK_BYTES);
    ssize_t n;
    do n = pread(r->io->fd, to, CHUNK_BYTES, (off_t)r->io->offset);
    while (n < 0 && errno == EINTR);
    if (n <= 0) sl_fail(&r->err, SL_EIO, "the file cannot be read");
    r->out.n = n > 0 ? (size_t)n : 0;
    r->io->offset += n > 0 ? n : 0;
}

/* MHD's content reader. */
static ssize_t take(void *cls, uint64_t pos, char *out, size_t max)
{
    struct request *r = cls;
    if (r->is_gone || r->err.code) return MHD_CONTENT_READER_END_WITH_ERROR;
    if (pos == (uint64_t)r->io->facts.bytes) return MHD_CONTENT_READER_END_OF_STREAM;
    size_t n = r->out.n - r->sent < max ? r->out.n - r->sent : max;
    if (n == 0) {
        r->out.n = r->sent = 0;
        request_suspend(r);
        request_store_job(r, run_read, after_write);
        return 0;
    }
    memcpy(out, r->out.p + r->sent, n);
    r->sent += n;
    return (ssize_t)n;
}

static void run_open(struct request *r, struct db *db)
{
    char path[DB_PATH_MAX];
    struct file_facts f = {0};
    if (db_file_get(db, auth_owner(r->s->auth, r->key), r->match.param, &f, &r->err) < 0) return;
    db_file_path(db, f.id, "", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        sl_fail(&r->err, SL_EIO, "the file cannot be read");
        return;
    }
    r->io = xcalloc(1, sizeof *r->io);
    r->io->facts = f;
    r->io->fd = fd;
}

static enum MHD_Result then_content(struct request *r)
{
    return answer_content(r, (uint64_t)r->io->facts.bytes, take);
}

enum MHD_Result finish_file_content(struct request *r)
{
    return request_store(r, run_open, then_content);
}

/* ------------------------------------------------------------------ the small ones */

static void run_get(struct request *r, struct db *db)
{
    struct file_facts f = {0};
    if (db_file_get(db, auth_owner(r->s->auth, r->key), r->match.param, &f, &r->err) == 0)
        put_file_object(&f, &r->out);
}

static void run_delete(struct request *r, struct db *db)
{
    if (db_file_delete(db, auth_owner(r->s->auth, r->key), r->match.param, &r->err) == 0)
        put_file_deleted(r->match.param, &r->out);
}

static void run_list(struct request *r, struct db *db)
{
    db_file_list(db, auth_owner(r->s->auth, r->key), &r->page, &r->out, &r->err);
}

enum MHD_Result finish_file_get(struct request *r)
{
    return request_store(r, run_get, finish_json);
}

enum MHD_Result finish_file_delete(struct request *r)
{
    return request_store(r, run_delete, finish_json);
}

static const char *query(struct request *r, const char *name)
{
    const char *v = MHD_lookup_connection_value(r->conn->mhd, MHD_GET_ARGUMENT_KIND, name);
    return v ? v : "";
}

int request_page(struct request *r, int64_t fallback, int64_t max)
{
    const char *limit = query(r, "limit"), *order = query(r, "order");
    r->page = (struct db_page){.after = query(r, "after"),
                               .purpose = query(r, "purpose"),
                               .limit = limit[0] ? strtol(limit, NULL, 10) : fallback,
                               .is_ascending = strcmp(order, "asc") == 0};
    if (strspn(limit, "0123456789") != strlen(limit) || r->page.limit < 1 || r->page.limit > max)
        return sl_fail_param(&r->err, SL_EVALUE, "limit", "'limit' must be 1 to %lld.",
                             (long long)max);
    if (order[0] && strcmp(order, "asc") != 0 && strcmp(order, "desc") != 0)
        return sl_fail_param(&r->err, SL_EVALUE, "order", "'order' must be 'asc' or 'desc'.");
    return 0;
}

enum MHD_Result finish_file_list(struct request *r)
{
    if (request_page(r, LIST_MAX, LIST_MAX) < 0) return answer_error(r);
    return request_store(r, run_list, finish_json);
}
