/* fuzz_multipart.c - a form in one piece and the same in pieces: the same parts, the same content, the
 * same verdict. The first byte sizes the pieces.
 */
#include "server/multipart.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    uint64_t hash, n_parts;
};

static void mix(struct seen *s, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) s->hash = (s->hash ^ (uint8_t)bytes[i]) * 0x100000001b3u;
}

static int on_part(void *arg, const struct multipart_part *p, struct sl_error *e)
{
    (void)e;
    struct seen *s = arg;
    ASSERT(p->name[0] && strlen(p->name) < sizeof p->name &&
           strlen(p->filename) < sizeof p->filename);
    s->n_parts++;
    mix(s, p->name, strlen(p->name) + 1);
    mix(s, p->filename, strlen(p->filename) + 1);
    return 0;
}

static int on_data(void *arg, const char *bytes, size_t n, struct sl_error *e)
{
    (void)e;
    ASSERT(n > 0);
    mix(arg, bytes, n);
    return 0;
}

static int parse(const char *p, size_t n, size_t step, struct seen *s)
{
    struct multipart m;
    struct sl_error e;
    *s = (struct seen){.hash = 0xcbf29ce484222325u};
    int code = multipart_open(&m, STR("multipart/form-data; boundary=B"),
                              (struct multipart_sink){s, on_part, on_data}, &e);
    ASSERT(code == 0);
    for (size_t i = 0; code == 0 && i < n; i += step)
        code = multipart_feed(&m, p + i, n - i < step ? n - i : step, &e);
    if (code == 0) code = multipart_end(&m, &e);
    ASSERT(s->n_parts <= MULTIPART_PARTS_MAX);
    multipart_free(&m);
    return code;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct seen whole, pieces;
    struct multipart m;
    struct sl_error e;
    if (size == 0) return 0;
    const char *p = (const char *)data + 1;
    size_t step = 1 + data[0] % 32;
    int a = parse(p, size - 1, size, &whole), b = parse(p, size - 1, step, &pieces);
    ASSERT(a == b && whole.hash == pieces.hash && whole.n_parts == pieces.n_parts);
    multipart_open(&m, (struct str){p, size - 1}, (struct multipart_sink){&whole, on_part, on_data},
                   &e);
    multipart_free(&m);
    return 0;
}
