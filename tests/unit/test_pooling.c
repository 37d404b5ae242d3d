/* test_pooling.c - what model files say of embeddings: sentence-transformers' modules, and GGUF. */
#include "base/test.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "load/gguf.h"
#include "load/pooling.h"

static void write_file(int dir, const char *name, const void *bytes, size_t n)
{
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, bytes, n) == (ssize_t)n);
    close(fd);
}

#define MODULE(path, type)                                                                         \
    "{\"idx\":0,\"path\":\"" path "\",\"type\":\"sentence_transformers.models." type "\"}"
#define MEAN "{\"pooling_mode_mean_tokens\":true,\"pooling_mode_cls_token\":false}"

static const struct {
    const char *modules, *pooling, *config; /* NULL: no such file */
    int code;
    enum sl_pool kind;
    bool is_normalized, has_any_dimension;
    int n_dimensions;
    const char *refused;
} rows[] = {
    {NULL, NULL, NULL, 0, SL_POOL_NONE, true, false, 0, ""},
    {NULL, MEAN, "{}", 0, SL_POOL_MEAN, true, false, 0, ""},
    {NULL, "{\"pooling_mode_lasttoken\":true}", "{\"is_matryoshka\":true}", 0, SL_POOL_LAST, true,
     true, 0, ""},
    {"[" MODULE("", "Transformer") "," MODULE("1_Pooling", "Pooling") "]", MEAN,
     "{\"matryoshka_dimensions\":[8,16]}", 0, SL_POOL_MEAN, false, false, 2, ""},
    {"[" MODULE("1_Pooling", "Pooling") "," MODULE("2_Normalize", "Normalize") "]",
     "{\"pooling_mode_cls_token\":true}", NULL, 0, SL_POOL_CLS, true, false, 0, ""},
    {"[" MODULE("1_Pooling", "Pooling") "," MODULE("2_Dense", "Dense") "]", MEAN, NULL, 0,
     SL_POOL_MEAN, false, false, 0, "module Dense"},
    {NULL, "{\"pooling_mode_max_tokens\":true}", NULL, 0, SL_POOL_NONE, true, false, 0,
     "pooling_mode_max_tokens"},
    {"[" MODULE("../1_Pooling", "Pooling") "]", MEAN, NULL, SL_EFORMAT, SL_POOL_NONE, false, false,
     0, ""},
    {"[", NULL, NULL, SL_EFORMAT, SL_POOL_NONE, false, false, 0, ""},
    {NULL, "[]", NULL, SL_EFORMAT, SL_POOL_NONE, false, false, 0, ""},
    {"7", NULL, NULL, 0, SL_POOL_NONE, false, false, 0, ""},
};

TEST(folders)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char path[] = "/tmp/test_pooling_XXXXXX";
        CHECK(mkdtemp(path) != NULL);
        int dir = open(path, O_RDONLY | O_DIRECTORY);
        if (rows[i].modules)
            write_file(dir, "modules.json", rows[i].modules, strlen(rows[i].modules));
        if (rows[i].config) write_file(dir, "config.json", rows[i].config, strlen(rows[i].config));
        if (rows[i].pooling) {
            CHECK(mkdirat(dir, "1_Pooling", 0700) == 0);
            write_file(dir, "1_Pooling/config.json", rows[i].pooling, strlen(rows[i].pooling));
        }
        struct pooling_config p;
        struct sl_error e = {0};
        int code = pooling_read_folder(&p, dir, &e);
        CHECK_MSG(code == rows[i].code, "row %zu: %s", i, e.text);
        if (code == 0) {
            CHECK_MSG(p.kind == rows[i].kind && p.is_normalized == rows[i].is_normalized, "row %zu",
                      i);
            CHECK(p.has_any_dimension == rows[i].has_any_dimension &&
                  p.n_dimensions == rows[i].n_dimensions);
            CHECK_MSG(strcmp(p.refused, rows[i].refused) == 0, "row %zu: %s", i, p.refused);
        }
        unlinkat(dir, "1_Pooling/config.json", 0);
        unlinkat(dir, "1_Pooling", AT_REMOVEDIR);
        unlinkat(dir, "modules.json", 0);
        unlinkat(dir, "config.json", 0);
        close(dir);
        rmdir(path);
    }
}

/* The Hugging Face cache: the file is a link into its blobs, one folder further up. */
TEST(linked_files)
{
    char path[] = "/tmp/test_pooling_XXXXXX";
    CHECK(mkdtemp(path) != NULL);
    int root = open(path, O_RDONLY | O_DIRECTORY);
    CHECK(mkdirat(root, "blobs", 0700) == 0 && mkdirat(root, "snapshots", 0700) == 0);
    CHECK(mkdirat(root, "snapshots/1", 0700) == 0);
    CHECK(mkdirat(root, "snapshots/1/1_Pooling", 0700) == 0);
    write_file(root, "blobs/x", MEAN, strlen(MEAN));
    CHECK(symlinkat("../../../blobs/x", root, "snapshots/1/1_Pooling/config.json") == 0);
    int dir = openat(root, "snapshots/1", O_RDONLY | O_DIRECTORY);
    struct pooling_config p;
    struct sl_error e = {0};
    CHECK_MSG(pooling_read_folder(&p, dir, &e) == 0 && p.kind == SL_POOL_MEAN, "%s", e.text);
    CHECK(unlinkat(root, "snapshots/1/1_Pooling/config.json", 0) == 0);
    CHECK(symlinkat("../../../elsewhere/x", root, "snapshots/1/1_Pooling/config.json") == 0);
    CHECK(pooling_read_folder(&p, dir, &e) < 0);
    close(dir);
    close(root);
    static const char *const files[] = {"snapshots/1/1_Pooling/config.json", "blobs/x"};
    static const char *const folders[] = {"snapshots/1/1_Pooling", "snapshots/1", "snapshots",
                                          "blobs"};
    root = open(path, O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < 2; i++) unlinkat(root, files[i], 0);
    for (int i = 0; i < 4; i++) unlinkat(root, folders[i], AT_REMOVEDIR);
    close(root);
    rmdir(path);
}

static void put_key(struct buf *b, const char *key, uint32_t type)
{
    uint64_t n = strlen(key);
    buf_put(b, &n, sizeof n);
    buf_puts(b, key);
    buf_put(b, &type, sizeof type);
}

TEST(gguf_files)
{
    static const enum sl_pool want[] = {SL_POOL_NONE, SL_POOL_MEAN, SL_POOL_CLS, SL_POOL_LAST,
                                        SL_POOL_NONE};
    for (uint32_t type = 0; type < sizeof want / sizeof *want; type++) {
        char path[] = "/tmp/test_pooling_XXXXXX";
        struct buf b = buf_make(4096);
        struct source s;
        struct gguf *g = NULL;
        struct sl_error e = {0};
        struct pooling_config p;
        uint32_t version = 3;
        uint64_t counts[2] = {0, 2}, n = 5;
        buf_puts(&b, "GGUF");
        buf_put(&b, &version, sizeof version);
        buf_put(&b, counts, sizeof counts);
        put_key(&b, "general.architecture", 8);
        buf_put(&b, &n, sizeof n);
        buf_puts(&b, "llama");
        put_key(&b, "llama.pooling_type", 4);
        buf_put(&b, &type, sizeof type);
        int fd = mkstemp(path);
        CHECK(fd >= 0 && write(fd, b.p, b.n) == (ssize_t)b.n);
        int code = source_open_fd(&s, fd, path, &e);
        if (code == 0) code = gguf_open(&g, &s, &e);
        CHECK_MSG(code == 0, "%s", e.text);
        if (code == 0) {
            pooling_read_gguf(&p, g);
            CHECK(p.kind == want[type] && p.is_normalized);
        }
        gguf_close(g);
        source_close(&s);
        buf_free(&b);
        unlink(path);
    }
}
