/* batch_input.c - lines of a JSONL file in blocks, and what is wrong with them. */
#include "server/batch_input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "server/sha256.h"

enum {
    BLOCK_BYTES = 1 << 18,
    SLICE_LINES = 1000, /* of a validation */
    SLICE_BYTES = 2 << 20,
    ERRORS_BYTES_MAX = 1 << 16,
};

/* ------------------------------------------------------------------ lines */

int line_reader_open(struct line_reader *r, const char *path, size_t line_max, struct sl_error *e)
{
    *r = (struct line_reader){.fd = open(path, O_RDONLY | O_CLOEXEC),
                              .block = buf_make(line_max + 2 * (size_t)BLOCK_BYTES),
                              .line_max = line_max};
    if (r->fd < 0) return sl_fail(e, SL_EIO, "the input file cannot be read");
    return 0;
}

void line_reader_close(struct line_reader *r)
{
    if (r->fd >= 0) close(r->fd);
    buf_free(&r->block);
    r->fd = -1;
}

static int read_block(struct line_reader *r, struct sl_error *e)
{
    buf_consume(&r->block, r->at);
    r->at = 0;
    char *to = buf_reserve(&r->block, BLOCK_BYTES);
    if (!to) return sl_fail(e, SL_ETOOLARGE, "a line is longer than %zu bytes", r->line_max);
    ssize_t n;
    do n = pread(r->fd, to, BLOCK_BYTES, (off_t)r->offset);
    while (n < 0 && errno == EINTR);
    if (n < 0) return sl_fail(e, SL_EIO, "the input file cannot be read");
    r->block.n += (size_t)n;
    r->offset += n;
    r->is_at_end = n == 0;
    return 0;
}

int line_reader_next(struct line_reader *r, struct str *line, struct sl_error *e)
{
    size_t looked = 0;
    for (;;) {
        const char *p = r->block.p + r->at;
        size_t n = r->block.n - r->at;
        const char *eol = n > looked ? memchr(p + looked, '\n', n - looked) : NULL;
        if (eol || (r->is_at_end && n)) {
            *line = (struct str){p, eol ? (size_t)(eol - p) : n};
            r->at += line->n + (eol != NULL);
            if (line->n && p[line->n - 1] == '\r') line->n--;
            r->n_lines++;
            if (line->n <= r->line_max) return 1;
            return sl_fail(e, SL_ETOOLARGE, "a line is longer than %zu bytes", r->line_max);
        }
        if (r->is_at_end) return 0;
        looked = n;
        TRY(read_block(r, e));
    }
}

/* ------------------------------------------------------------------ validation */

struct id_hash { /* 128 bits of SHA-256: equal means the same custom_id */
    uint64_t low, high;
};

struct validation {
    struct id_hash *ids; /* owned: a table with open addressing, [mask + 1]; zero: free */
    size_t mask, n_ids;
    struct buf errors;
    int n_errors;
};

struct validation *validation_new(void)
{
    struct validation *v = xcalloc(1, sizeof *v);
    v->mask = 255;
    v->ids = xcalloc(v->mask + 1, sizeof *v->ids);
    v->errors = buf_make(ERRORS_BYTES_MAX);
    return v;
}

void validation_free(struct validation *v)
{
    if (!v) return;
    buf_free(&v->errors);
    free(v->ids);
    free(v);
}

/* False when it was there already. */
static bool put_id(struct validation *v, struct id_hash h)
{
    size_t i = (size_t)h.low & v->mask;
    for (; v->ids[i].low || v->ids[i].high; i = (i + 1) & v->mask)
        if (v->ids[i].low == h.low && v->ids[i].high == h.high) return false;
    v->ids[i] = h;
    return true;
}

static bool add_id(struct validation *v, const char *custom_id)
{
    uint8_t digest[SHA256_BYTES];
    struct str text = str_of(custom_id);
    struct id_hash h;
    sha256(digest, &text, 1);
    memcpy(&h, digest, sizeof h);
    if (2 * (v->n_ids + 1) > v->mask) {
        struct validation old = *v;
        v->mask = old.mask * 2 + 1;
        v->ids = xcalloc(v->mask + 1, sizeof *v->ids);
        for (size_t i = 0; i <= old.mask; i++)
            if (old.ids[i].low || old.ids[i].high) put_id(v, old.ids[i]);
        free(old.ids);
    }
    if (!put_id(v, h)) return false;
    v->n_ids++;
    return true;
}

static void complain(struct validation *v, const char *code, const char *text, int64_t line)
{
    put_batch_error(code, text, line, &v->errors);
    v->n_errors++;
}

static void check_line(struct validation *v, struct str line, int64_t number, struct batch_facts *b)
{
    struct sl_error e = {0};
    struct batch_line l;
    const char *bad = batch_line_parse(line, b->endpoint, &l, &e);
    if (!bad && !add_id(v, l.custom_id)) {
        sl_fail(&e, SL_EVALUE, "The custom_id '%.100s' was used on an earlier line.", l.custom_id);
        bad = "duplicate_custom_id";
    }
    if (bad) complain(v, bad, e.text, number);
    if (b->n_total == 0) memcpy(b->model, l.model, sizeof b->model);
    batch_line_free(&l);
    if (++b->n_total == BATCH_LINES_MAX + 1)
        complain(v, "too_many_tasks", "A batch has at most 50000 requests.", 0);
}

/* The verdict, once no more is looked at. */
static int end(struct validation *v, struct batch_facts *b)
{
    if (b->n_total == 0 && v->n_errors == 0)
        complain(v, "empty_file", "The input file holds no requests.", 0);
    if (v->n_errors == 0) return 0;
    buf_cstr(&v->errors);
    b->errors = v->errors.p;
    v->errors = buf_make(ERRORS_BYTES_MAX);
    b->n_total = 0;
    return 0;
}

int validation_slice(struct validation *v, struct line_reader *r, struct batch_facts *b,
                     struct sl_error *e)
{
    struct str line;
    size_t n_bytes = 0;
    for (int n = 0; n < SLICE_LINES && n_bytes < SLICE_BYTES; n++) {
        int found = line_reader_next(r, &line, e);
        if (found == SL_ETOOLARGE) {
            complain(v, "invalid_json_line", e->text, r->n_lines + 1);
            return end(v, b);
        }
        if (found < 0) return found;
        if (r->offset > BATCH_FILE_BYTES_MAX)
            complain(v, "file_too_large", "The input file is larger than 200 MB.", 0);
        if (found && !batch_line_is_blank(line)) check_line(v, line, r->n_lines, b);
        bool is_enough = v->n_errors >= BATCH_ERRORS_MAX || b->n_total > BATCH_LINES_MAX ||
                         r->offset > BATCH_FILE_BYTES_MAX;
        if (!found || is_enough) return end(v, b);
        n_bytes += line.n;
    }
    return 1;
}
