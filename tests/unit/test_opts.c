/* test_opts.c - where option values come from, and how wrong ones are answered. */
#include "base/opts.h"
#include "base/test.h"

#include <unistd.h>

static int parse(struct options *o, struct sl_error *e, int argc, const char **argv)
{
    bool help;
    return opts_parse(o, argc, (char **)(uintptr_t)argv, &help, e);
}
#define PARSE(o, e, ...)                                                                           \
    parse(o, e, (int)(sizeof(const char *[]){__VA_ARGS__} / sizeof(char *)),                       \
          (const char *[]){__VA_ARGS__})

TEST(defaults_and_flags)
{
    struct options o;
    struct sl_error e = {0};
    CHECK(PARSE(&o, &e, "m.gguf") == 0);
    CHECK(strcmp(o.model, "m.gguf") == 0 && o.port == 8000 && strcmp(o.host, "127.0.0.1") == 0);
    CHECK(o.enable_prefix_caching && o.block_size == 16);
    CHECK(PARSE(&o, &e, "--model", "x", "--max_model_len=32k", "--no-enable-prefix-caching",
                "--api-key", "a", "--api-key=b", "-c", "4096") == 0);
    CHECK(o.max_model_len == 4096 && !o.enable_prefix_caching && o.api_key.n == 2);
    CHECK(PARSE(&o, &e, "x", "--gpu-memory-utilization", "0.5", "--sse-ping-interval=1.5") == 0);
    CHECK(o.gpu_memory_utilization == 0.5 && o.sse_ping_interval == 1.5);
}

TEST(wrong_ones)
{
    struct options o;
    struct sl_error e = {0};
    CHECK(PARSE(&o, &e, "x", "--prot", "1") == SL_EINVAL && strstr(e.text, "--port"));
    CHECK(PARSE(&o, &e, "x", "--port", "70000") == SL_EINVAL && strstr(e.text, "65535"));
    CHECK(PARSE(&o, &e, "x", "--port") == SL_EINVAL && strstr(e.text, "needs a value"));
    CHECK(PARSE(&o, &e, "x", "--device", "tpu") == SL_EINVAL &&
          strstr(e.text, "auto|cpu|cuda|sim"));
    CHECK(PARSE(&o, &e, "x", "y") == SL_EINVAL);
    CHECK(PARSE(&o, &e, "x", "--no-port") == SL_EINVAL);
    CHECK(PARSE(&o, &e, "x", "--gpu-memory-utilization", "nan") == SL_EINVAL);
}

TEST(precedence)
{
    struct options o;
    struct sl_error e = {0};
    char path[] = "/tmp/sluice-opts-XXXXXX";
    const char *text = "port: 1\nblock-size: 8\nmax_num_seqs: 3\napi-key: [a, b, c]\n";
    int fd = mkstemp(path);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    setenv("SLUICE_BLOCK_SIZE", "4", 1);
    setenv("SLUICE_MAX_NUM_SEQS", "5", 1);
    CHECK(PARSE(&o, &e, "x", "--config", path, "--max-num-seqs", "7") == 0);
    CHECK(o.port == 1 && o.block_size == 4 && o.max_num_seqs == 7 && o.api_key.n == 3);
    unsetenv("SLUICE_BLOCK_SIZE");
    unsetenv("SLUICE_MAX_NUM_SEQS");
    FILE *f = fopen(path, "w");
    fprintf(f, "port: {a: 1}\n");
    fclose(f);
    CHECK(PARSE(&o, &e, "x", "--config", path) == SL_EINVAL);
    f = fopen(path, "w");
    opts_write_yaml(f);
    fclose(f);
    CHECK_MSG(PARSE(&o, &e, "x", "--config", path) == 0, "%s", e.text);
    unlink(path);
    CHECK(PARSE(&o, &e, "x", "--config", "/nonexistent") == SL_EINVAL);
}

TEST(another_table)
{
    struct {
        struct opts_list words;
        int64_t n;
        bool b;
    } v = {0};
    static const struct opt_row rows[] = {
        {"words", T_WORDS, 0, NULL, 0, 0, NULL, "g", "", "w"},
        {"count", T_INT, offsetof(__typeof__(v), n), "5", 0, 10, NULL, "g", "p", "n"},
        {"flag", T_BOOL, offsetof(__typeof__(v), b), "true", 0, 0, NULL, "g", "", "b"},
    };
    static enum opt_origin origins[3];
    const struct opt_table t = {"test", rows, 3, origins};
    struct sl_error e = {0};
    const char *argv[] = {"model", "--words", "a", "b:1",       "--port",
                          "80",    "-p",      "7", "--no-flag", "x"};
    CHECK(opt_set_defaults(&t, &v, &e) == 0 && v.n == 5 && v.b);
    int left = opt_take_flags(&t, &v, 10, (char **)(uintptr_t)argv, &e);
    CHECK(left == 4 && strcmp(argv[0], "model") == 0 && strcmp(argv[1], "--port") == 0);
    CHECK(strcmp(argv[2], "80") == 0 && strcmp(argv[3], "x") == 0);
    CHECK(v.words.n == 2 && strcmp(v.words.v[1], "b:1") == 0 && v.n == 7 && !v.b);
    const char *wrong[] = {"-p", "11"};
    CHECK(opt_take_flags(&t, &v, 2, (char **)(uintptr_t)wrong, &e) == SL_EINVAL);
    CHECK(opt_unknown(&t, "wrods", 5, &e) == SL_EINVAL && strstr(e.text, "--words") &&
          strstr(e.text, "test --help"));
}
