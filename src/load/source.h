/* source.h - a model file opened for checked reads by range. Inside load/ only.
 *
 * Never mapped: another user who truncates a mapped file kills the process with SIGBUS. The size is
 * taken once at open; every offset is checked against it, and a file that shrank ends in SL_EIO.
 */
#ifndef LOAD_SOURCE_H
#define LOAD_SOURCE_H

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"

struct source {
    int fd;        /* owned */
    uint64_t size; /* bytes, at open */
    char *name;    /* owned; for messages */
};

/* Open `name` below the open folder `dir`, or by path where dir is AT_FDCWD: the operator's own
 * words, in which any symbolic link is followed. Below a folder, `name` comes from a file and is
 * held to a rule: a basename (no slash, not "." or ".."), and a regular file. One symbolic link is
 * followed, if its text is a basename of the same folder or "../../blobs/BASENAME" (the layout of
 * the Hugging Face cache); what it points to must not be a link itself. So a downloaded folder
 * cannot make us read a file outside its repository. SL_ENOTFOUND when there is no such file. */
int source_open(struct source *s, int dir, const char *name, struct sl_error *e);
/* Take over an open descriptor (also when it fails). */
int source_open_fd(struct source *s, int fd, const char *name, struct sl_error *e);
void source_close(struct source *s);

/* Read exactly n bytes at offset. Any thread. */
int source_read(const struct source *s, uint64_t offset, size_t n, void *dst, struct sl_error *e);
/* The whole file, at most max bytes, into out (empty before; freed by the caller in any case). */
int source_slurp(const struct source *s, size_t max, struct buf *out, struct sl_error *e);
/* source_open, source_slurp, source_close. */
int source_slurp_at(int dir, const char *name, size_t max, struct buf *out, struct sl_error *e);
/* A JSON object from a file of at most max bytes; *out is NULL on failure. SL_ENOTFOUND: no file.
 */
int source_json(struct json_doc **out, int dir, const char *name, size_t max,
                const struct json_limits *limits, struct sl_error *e);
/* As source_json for a small file in the folder `folder`, a basename, below dir; the cache's blobs
 * are one folder further up from there. */
int source_json_in(struct json_doc **out, int dir, const char *folder, const char *name, size_t max,
                   struct sl_error *e);

#endif
