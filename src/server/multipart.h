/* multipart.h - multipart/form-data as it arrives, in pieces of any size (RFC 7578, RFC 2046 5.1).
 *
 * Nothing of a part's content is kept: it goes to on_data piece by piece. Part headers, names and
 * the number of parts have limits. A field-less preamble and an epilogue are skipped. Pure; one
 * thread at a time.
 */
#ifndef SERVER_MULTIPART_H
#define SERVER_MULTIPART_H

#include "base/buf.h"
#include "base/err.h"

enum {
    MULTIPART_BOUNDARY_MAX = 70,     /* characters, as RFC 2046 has it */
    MULTIPART_HEAD_BYTES_MAX = 8192, /* of one part's headers */
    MULTIPART_PARTS_MAX = 32,
    MULTIPART_NAME_MAX = 64,
    MULTIPART_FILENAME_MAX = 512,
};

struct multipart_part {
    char name[MULTIPART_NAME_MAX];
    char filename[MULTIPART_FILENAME_MAX]; /* "" also when there is none */
    bool is_file;                          /* a filename was given */
};

/* The receiver. Each returns 0 or a negative code, which ends the parse. */
struct multipart_sink {
    void *arg;
    int (*on_part)(void *arg, const struct multipart_part *part, struct sl_error *e);
    int (*on_data)(void *arg, const char *bytes, size_t n, struct sl_error *e);
};

enum multipart_state {
    MULTIPART_SKIP,
    MULTIPART_AFTER,
    MULTIPART_HEAD,
    MULTIPART_DATA,
    MULTIPART_END
};

struct multipart {
    struct multipart_sink sink;
    char delimiter[MULTIPART_BOUNDARY_MAX + 5]; /* CR LF - - boundary */
    size_t n_delimiter, n_matched;              /* of the delimiter, at the end of what was fed */
    enum multipart_state state;
    char tail[2]; /* AFTER: what follows the delimiter */
    int n_tail, n_parts;
    struct buf head; /* owned: the headers of the part that begins */
};

/* Takes the boundary out of a Content-Type; SL_EMEDIA unless it is multipart/form-data, SL_EINVAL
 * for a missing or malformed boundary. Freed with multipart_free in any case. */
int multipart_open(struct multipart *m, struct str content_type, struct multipart_sink sink,
                   struct sl_error *e);
int multipart_feed(struct multipart *m, const char *bytes, size_t n, struct sl_error *e);
/* The body is over: SL_EINVAL unless the closing delimiter was seen. */
int multipart_end(const struct multipart *m, struct sl_error *e);
void multipart_free(struct multipart *m);

#endif
