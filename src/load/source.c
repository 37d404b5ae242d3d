/* source.c - opening model files by a safe rule, and reading them by range with pread. */
#include "load/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* NONBLOCK: a FIFO in place of a file must not hang the start; it has no effect on regular files.
 */
enum { OPEN_FLAGS = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK };

/* From this size on a read is one of a row of them (weights): the kernel is told to fetch as much
 * again meanwhile, so the disk works while the caller packs. */
enum { AHEAD_MIN_BYTES = 512 << 10 };

static bool is_basename(const char *name)
{
    return name[0] && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Where the Hugging Face cache has its files, from a model's folder and from a folder in it. */
static const char blobs_of_folder[] = "../../blobs/", blobs_of_subfolder[] = "../../../blobs/";

/* Follow one link of the two allowed forms; a descriptor, or -1 with errno. */
static int open_link(int dir, const char *name, const char *blobs)
{
    char target[512];
    ssize_t n = readlinkat(dir, name, target, sizeof target);
    if (n < 0) return -1;
    errno = ELOOP;
    if ((size_t)n >= sizeof target) return -1;
    target[n] = '\0';
    size_t n_blobs = strlen(blobs);
    const char *base = strncmp(target, blobs, n_blobs) == 0 ? target + n_blobs : target;
    return is_basename(base) ? openat(dir, target, OPEN_FLAGS | O_NOFOLLOW) : -1;
}

int source_open_fd(struct source *s, int fd, const char *name, struct sl_error *e)
{
    struct stat st;
    *s = (struct source){.fd = -1};
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return sl_fail(e, SL_EIO, "%.160s is not a regular file", name);
    }
    *s = (struct source){.fd = fd, .size = (uint64_t)st.st_size, .name = strdup(name)};
    ASSERT(s->name);
    return 0;
}

static int open_source(struct source *s, int dir, const char *name, const char *blobs,
                       struct sl_error *e)
{
    *s = (struct source){.fd = -1};
    if (dir != AT_FDCWD && !is_basename(name))
        return sl_fail(e, SL_EFORMAT, "\"%.120s\" is not a plain file name", name);
    int fd = openat(dir, name, dir == AT_FDCWD ? OPEN_FLAGS : OPEN_FLAGS | O_NOFOLLOW);
    if (fd < 0 && errno == ELOOP && dir != AT_FDCWD) fd = open_link(dir, name, blobs);
    if (fd >= 0) return source_open_fd(s, fd, name, e);
    if (errno == ENOENT) return sl_fail(e, SL_ENOTFOUND, "no such file: %.160s", name);
    if (errno == ELOOP)
        return sl_fail(e, SL_EIO, "%.120s is a symbolic link that leads out of its folder", name);
    return sl_fail(e, SL_EIO, "cannot open %.160s (errno %d)", name, errno);
}

int source_open(struct source *s, int dir, const char *name, struct sl_error *e)
{
    return open_source(s, dir, name, blobs_of_folder, e);
}

void source_close(struct source *s)
{
    if (s->fd >= 0) close(s->fd);
    free(s->name);
    *s = (struct source){.fd = -1};
}

int source_read(const struct source *s, uint64_t offset, size_t n, void *dst, struct sl_error *e)
{
    if (offset > s->size || n > s->size - offset)
        return sl_fail(e, SL_EFORMAT, "%.120s ends at byte %llu; a read wants %zu bytes at %llu",
                       s->name, (unsigned long long)s->size, n, (unsigned long long)offset);
    if (n >= AHEAD_MIN_BYTES) /* a hint: failure is harmless */
        posix_fadvise(s->fd, (off_t)(offset + n), (off_t)n, POSIX_FADV_WILLNEED);
    for (char *p = dst; n > 0;) {
        ssize_t got = pread(s->fd, p, n, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return sl_fail(e, SL_EIO, "cannot read %.160s (errno %d)", s->name, errno);
        if (got == 0) return sl_fail(e, SL_EIO, "%.160s was cut while it was read", s->name);
        p += got;
        offset += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

int source_slurp(const struct source *s, size_t max, struct buf *out, struct sl_error *e)
{
    *out = buf_make(max);
    if (s->size > max)
        return sl_fail(e, SL_EFORMAT, "%.120s has %llu bytes, more than the %zu allowed", s->name,
                       (unsigned long long)s->size, max);
    char *p = buf_reserve(out, (size_t)s->size);
    ASSERT(p || s->size == 0);
    if (s->size == 0) return 0;
    TRY(source_read(s, 0, (size_t)s->size, p, e));
    out->n = (size_t)s->size;
    return 0;
}

int source_slurp_at(int dir, const char *name, size_t max, struct buf *out, struct sl_error *e)
{
    struct source s;
    *out = buf_make(max);
    TRY(source_open(&s, dir, name, e));
    int code = source_slurp(&s, max, out, e);
    source_close(&s);
    return code;
}

/* Takes the text: a JSON object, or none. */
static int parse_object(struct json_doc **out, struct buf *text, const char *name,
                        const struct json_limits *limits, struct sl_error *e)
{
    struct sl_error why = {0};
    int code = 0;
    if (json_parse(out, text->p, text->n, limits, &why) < 0)
        code = sl_fail(e, SL_EFORMAT, "%s: %.200s", name, why.text);
    buf_free(text);
    if (code == 0 && json_type(json_root(*out)) != JSON_OBJ) {
        json_free(*out);
        *out = NULL;
        code = sl_fail(e, SL_EFORMAT, "%s is no JSON object", name);
    }
    return code;
}

int source_json(struct json_doc **out, int dir, const char *name, size_t max,
                const struct json_limits *limits, struct sl_error *e)
{
    struct buf text;
    *out = NULL;
    int code = source_slurp_at(dir, name, max, &text, e);
    if (code == 0) return parse_object(out, &text, name, limits, e);
    buf_free(&text);
    return code;
}

int source_json_in(struct json_doc **out, int dir, const char *folder, const char *name, size_t max,
                   struct sl_error *e)
{
    struct source s;
    struct buf text = buf_make(max);
    *out = NULL;
    if (!is_basename(folder))
        return sl_fail(e, SL_EFORMAT, "\"%.120s\" is not a plain folder name", folder);
    int below = openat(dir, folder, OPEN_FLAGS | O_NOFOLLOW | O_DIRECTORY);
    if (below < 0)
        return sl_fail(e, errno == ENOENT ? SL_ENOTFOUND : SL_EIO, "cannot open folder %.160s",
                       folder);
    int code = open_source(&s, below, name, blobs_of_subfolder, e);
    close(below);
    if (code == 0) code = source_slurp(&s, max, &text, e);
    source_close(&s);
    if (code == 0) return parse_object(out, &text, name, &json_limits_file, e);
    buf_free(&text);
    return code;
}
