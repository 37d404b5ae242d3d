/* batch_wire.h - files and batches on the wire: their objects, the body that makes a batch, and the
 * lines of a batch's files. Bytes only; no disk, no clock. Any thread.
 *
 * Source: OpenAI API reference, files and batches; the codes of a failed validation beyond
 * OpenAI's are ours.
 */
#ifndef API_BATCH_WIRE_H
#define API_BATCH_WIRE_H

#include "base/buf.h"
#include "base/err.h"

enum {
    WIRE_ID_MAX = 48,         /* of a file or batch, NUL included */
    FILENAME_MAX_BYTES = 512, /* NUL included */
    CUSTOM_ID_BYTES_MAX = 512,
    BATCH_LINES_MAX = 50000,
    BATCH_ERRORS_MAX = 20, /* reported of one validation */
    BATCH_FILE_BYTES_MAX = 200 * 1000 * 1000,
};

/* ------------------------------------------------------------------ files */

struct file_facts {
    char id[WIRE_ID_MAX];
    char filename[FILENAME_MAX_BYTES];
    char purpose[24];
    int64_t bytes, created_at, expires_at; /* expires_at 0: never */
};
/* A purpose that an upload may have. */
bool file_purpose_ok(const char *purpose);
void put_file_object(const struct file_facts *f, struct buf *out);
/* The end of a list whose opening and items are written: first_id, last_id, has_more. */
void put_list_end(const char *first, const char *last, bool has_more, struct buf *out);
/* {"id":...,"object":"file","deleted":true} */
void put_file_deleted(const char *id, struct buf *out);

/* ------------------------------------------------------------------ batches */

enum batch_status {
    BATCH_VALIDATING,
    BATCH_IN_PROGRESS,
    BATCH_FINALIZING,
    BATCH_CANCELLING,
    BATCH_COMPLETED, /* from here on: over */
    BATCH_FAILED,
    BATCH_EXPIRED,
    BATCH_CANCELLED,
};

struct batch_facts {
    int64_t num; /* of its row; not on the wire */
    char id[WIRE_ID_MAX], owner[80];
    char endpoint[40], window[16], input_file_id[WIRE_ID_MAX];
    char output_file_id[WIRE_ID_MAX], error_file_id[WIRE_ID_MAX]; /* "": none */
    char model[256];                                              /* of its first line, or "" */
    char *metadata, *errors;                                      /* owned JSON; NULL: null */
    enum batch_status status;
    int64_t created_at, expires_at;
    int64_t in_progress_at, finalizing_at, completed_at, failed_at, expired_at, cancelling_at,
        cancelled_at;      /* 0: not yet */
    int64_t output_expiry; /* seconds that the output files live; 0: for ever */
    int64_t n_total, n_completed, n_failed;
    int64_t input_tokens, cached_tokens, output_tokens;
    int64_t output_bytes, error_bytes; /* appended so far; not on the wire */
};
void batch_facts_free(struct batch_facts *b); /* what it owns */
static inline bool batch_is_over(enum batch_status s)
{
    return s >= BATCH_COMPLETED;
}
void put_batch_object(const struct batch_facts *b, struct buf *out);

/* The body of POST /v1/batches: fills endpoint, window, input_file_id, metadata, output_expiry, and
 * expires_at as seconds from now on. The endpoint is only checked for its form. */
int batch_create_parse(struct str body, struct batch_facts *out, struct sl_error *e);

/* ------------------------------------------------------------------ lines */

struct batch_line { /* owned; freed with batch_line_free */
    char custom_id[CUSTOM_ID_BYTES_MAX + 1];
    char model[256];
    bool is_stream; /* asked for, which no line may */
    struct buf body;
};
void batch_line_free(struct batch_line *l);

/* One line of an input file; `endpoint` is the batch's. NULL, or the code of what is wrong with
 * *text saying it (static or in `e`). */
const char *batch_line_parse(struct str line, const char *endpoint, struct batch_line *out,
                             struct sl_error *e);
bool batch_line_is_blank(struct str line);

/* {"code":...,"message":...,"param":null,"line":N} of a failed validation; line 0: null. */
void put_batch_error(const char *code, const char *message, int64_t line, struct buf *out);

/* A line of the output or error file, line end included. `body` is a whole JSON answer. */
void put_batch_answer(const char *id_hex, const char *custom_id, unsigned status,
                      const char *request_id, struct str body, struct buf *out);
/* The same for a line that was never run: "batch_expired" or "batch_cancelled". */
void put_batch_unrun(const char *id_hex, const char *custom_id, bool is_expired, struct buf *out);

#endif
