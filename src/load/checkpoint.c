/* checkpoint.c - opening a model of either format, its tensor table, and reads by checked range. */
#include "load/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "load/tensors.h"

/* Names of a million tensors of 128 bytes; a bound for hostile files, far above real models. */
enum { NAMES_BYTES_MAX = 256 << 20 };

/* ------------------------------------------------------------------ the table */

static void *grow(void *p, size_t n, size_t *cap, size_t size)
{
    if (n < *cap) return p;
    *cap = *cap ? *cap * 2 : 64;
    return xrealloc(p, *cap * size);
}

static int copy_name(struct checkpoint *c, struct str *name, struct sl_error *e)
{
    if (name->n == 0 || name->n > TENSOR_NAME_MAX)
        return sl_fail(e, SL_EFORMAT, "a tensor's name has %zu bytes, not 1 to %d", name->n,
                       TENSOR_NAME_MAX);
    if (memchr(name->p, '\0', name->n))
        return sl_fail(e, SL_EFORMAT, "a tensor's name holds a NUL");
    if (c->n_tensors + c->n_foreign >= TENSORS_MAX)
        return sl_fail(e, SL_EFORMAT, "more than %d tensors", TENSORS_MAX);
    name->p = arena_strdup(&c->names, *name);
    return name->p ? 0 : sl_fail(e, SL_EFORMAT, "the names of tensors take too much room");
}

int tensors_add(struct checkpoint *c, const struct tensor *t, struct sl_error *e)
{
    struct str name = t->name;
    TRY(copy_name(c, &name, e));
    c->tensors = grow(c->tensors, c->n_tensors, &c->cap_tensors, sizeof *c->tensors);
    c->tensors[c->n_tensors] = *t;
    c->tensors[c->n_tensors++].name = name;
    return 0;
}

int tensors_add_foreign(struct checkpoint *c, struct str name, const char *why, struct sl_error *e)
{
    TRY(copy_name(c, &name, e));
    const char *copy = arena_strdup(&c->names, str_of(why));
    if (!copy) return sl_fail(e, SL_EFORMAT, "the names of tensors take too much room");
    c->foreign = grow(c->foreign, c->n_foreign, &c->cap_foreign, sizeof *c->foreign);
    c->foreign[c->n_foreign++] = (struct foreign){name, copy};
    return 0;
}

int tensors_add_file(struct checkpoint *c, struct source s)
{
    c->files = xrealloc(c->files, ((size_t)c->n_files + 1) * sizeof *c->files);
    c->files[c->n_files] = s;
    return c->n_files++;
}

bool tensors_bytes(enum dtype type, int n_dims, const int64_t *dims, size_t *bytes)
{
    const struct dtype_info *d = &dtype_info[type];
    size_t n = 1;
    for (int i = 0; i < n_dims; i++)
        if (dims[i] < 1 || ckd_mul(&n, n, (size_t)dims[i])) return true;
    if (n > INT64_MAX || dims[n_dims - 1] % d->block != 0) return true;
    return ckd_mul(bytes, n / (size_t)d->block, (size_t)d->bytes);
}

static int compare(struct str a, struct str b)
{
    int order = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

static int by_name(const void *a, const void *b, void *tensors)
{
    const struct tensor *t = tensors;
    return compare(t[*(const uint32_t *)a].name, t[*(const uint32_t *)b].name);
}

static int foreign_by_name(const void *a, const void *b)
{
    return compare(((const struct foreign *)a)->name, ((const struct foreign *)b)->name);
}

static int twice(struct str name, struct sl_error *e)
{
    return sl_fail(e, SL_EFORMAT, "tensor \"%.*s\" occurs twice",
                   (int)(name.n < 120 ? name.n : 120), name.p);
}

int tensors_index(struct checkpoint *c, struct sl_error *e)
{
    c->by_name = xmalloc(c->n_tensors * sizeof *c->by_name);
    for (size_t i = 0; i < c->n_tensors; i++) c->by_name[i] = (uint32_t)i;
    if (c->n_tensors) qsort_r(c->by_name, c->n_tensors, sizeof *c->by_name, by_name, c->tensors);
    if (c->n_foreign) qsort(c->foreign, c->n_foreign, sizeof *c->foreign, foreign_by_name);
    for (size_t i = 1; i < c->n_tensors; i++) {
        struct str name = c->tensors[c->by_name[i]].name;
        if (str_eq(name, c->tensors[c->by_name[i - 1]].name)) return twice(name, e);
    }
    for (size_t i = 0; i < c->n_foreign; i++) {
        struct str name = c->foreign[i].name;
        bool again = i && str_eq(name, c->foreign[i - 1].name);
        if (again || checkpoint_find(c, name.p)) return twice(name, e);
    }
    return 0;
}

const struct tensor *checkpoint_find(const struct checkpoint *c, const char *name)
{
    struct str want = str_of(name);
    for (size_t lo = 0, hi = c->n_tensors; lo < hi;) {
        size_t mid = lo + (hi - lo) / 2;
        const struct tensor *t = &c->tensors[c->by_name[mid]];
        int order = compare(want, t->name);
        if (order == 0) return t;
        if (order < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

const char *checkpoint_foreign(const struct checkpoint *c, const char *name)
{
    struct foreign key = {.name = str_of(name)};
    if (c->n_foreign == 0) return NULL;
    const struct foreign *f =
        bsearch(&key, c->foreign, c->n_foreign, sizeof *c->foreign, foreign_by_name);
    return f ? f->why : NULL;
}

/* ------------------------------------------------------------------ open and close */

static struct checkpoint *make(const char *path)
{
    struct checkpoint *c = xcalloc(1, sizeof *c);
    c->path = strdup(path);
    ASSERT(c->path);
    c->names = arena_make(NAMES_BYTES_MAX);
    return c;
}

static int finish(struct checkpoint **out, struct checkpoint *c, int code, struct sl_error *e)
{
    if (code == 0 && !c->by_name) code = tensors_index(c, e);
    if (code < 0) {
        checkpoint_close(c);
        return code;
    }
    *out = c;
    return 0;
}

static int read_file(struct checkpoint *c, struct source s, bool is_gguf, struct sl_error *e)
{
    int file = tensors_add_file(c, s);
    c->is_gguf = is_gguf;
    return is_gguf ? gguf_read(c, file, e) : safetensors_read(c, file, e);
}

int checkpoint_open_fd(struct checkpoint **out, int fd, bool is_gguf, struct sl_error *e)
{
    struct source s;
    *out = NULL;
    TRY(source_open_fd(&s, fd, "file", e));
    struct checkpoint *c = make("file");
    return finish(out, c, read_file(c, s, is_gguf, e), e);
}

int checkpoint_open(struct checkpoint **out, const char *path, struct sl_error *e)
{
    *out = NULL;
    int dir = open(path, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (dir < 0 && errno != ENOTDIR)
        return sl_fail(e, errno == ENOENT ? SL_ENOTFOUND : SL_EIO, "cannot open model %.160s: %s",
                       path, errno == ENOENT ? "no such file or folder" : "not readable");
    struct checkpoint *c = make(path);
    if (dir >= 0) {
        int code = hf_folder_read(c, dir, e);
        close(dir);
        return finish(out, c, code, e);
    }
    struct source s;
    int code = source_open(&s, AT_FDCWD, path, e);
    if (code == 0) code = read_file(c, s, true, e);
    return finish(out, c, code, e);
}

void checkpoint_close(struct checkpoint *c)
{
    if (!c) return;
    for (int i = 0; i < c->n_files; i++) source_close(&c->files[i]);
    free(c->files);
    free(c->tensors);
    free(c->by_name);
    free(c->foreign);
    arena_free(&c->names);
    json_free(c->config);
    json_free(c->generation);
    free(c->path);
    free(c);
}

/* ------------------------------------------------------------------ access */

const json_node *checkpoint_config(const struct checkpoint *c)
{
    return c->config ? json_root(c->config) : NULL;
}

const json_node *checkpoint_generation(const struct checkpoint *c)
{
    return c->generation ? json_root(c->generation) : NULL;
}

bool checkpoint_is_gguf(const struct checkpoint *c)
{
    return c->is_gguf;
}
const char *checkpoint_path(const struct checkpoint *c)
{
    return c->path;
}
size_t checkpoint_n_tensors(const struct checkpoint *c)
{
    return c->n_tensors;
}

const struct tensor *checkpoint_tensor(const struct checkpoint *c, size_t i)
{
    ASSERT(i < c->n_tensors);
    return &c->tensors[i];
}

uint64_t checkpoint_bytes(const struct checkpoint *c)
{
    uint64_t sum = 0; /* tensors do not overlap, so this is at most the size of the files */
    for (size_t i = 0; i < c->n_tensors; i++) sum += c->tensors[i].bytes;
    return sum;
}

/* llama.cpp pairs neighbouring rows for its RoPE: of a head's D rows, Hugging Face's row a * D/2 +
 * b (a: half, b: frequency) is stored as row 2 b + a. */
int64_t checkpoint_row(const struct tensor *t, int64_t r)
{
    ASSERT(r >= 0 && r < t->dims[0]);
    if (t->rope_heads == 0) return r;
    int64_t head_rows = t->dims[0] / t->rope_heads, in = r % head_rows, half = head_rows / 2;
    return r - in + in % half * 2 + in / half;
}

int checkpoint_read(const struct checkpoint *c, const struct tensor *t, size_t offset, size_t n,
                    void *dst, struct sl_error *e)
{
    ASSERT(offset <= t->bytes && n <= t->bytes - offset);
    return source_read(&c->files[t->file], t->offset + offset, n, dst, e);
}
