/* main.c - the command line: one table of subcommands, each a few lines over a library call. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/log.h"
#include "bench/bench.h"
#include "load/model_text.h"
#include "model/model.h"
#include "server/server.h"
#include "text/render_tool.h"
#include "text/tokenize_tool.h"

enum { EXIT_USAGE = 2, TEMPLATE_MAX = 1 << 20 };
static const double gib = 1073741824.0;

static int complain(const struct sl_error *e, int status)
{
    fprintf(stderr, "sluice: error: %s\n", e->text);
    return status;
}

/* The value after a flag, or NULL. */
static const char *flag_value(int argc, char **argv, const char *flag)
{
    for (int i = 0; i + 1 < argc; i++)
        if (strcmp(argv[i], flag) == 0) return argv[i + 1];
    return NULL;
}

static int index_of(const char *name, const char *const *names, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(name, names[i]) == 0) return i;
    return 0;
}

static int cmd_serve(int argc, char **argv)
{
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    struct options o;
    struct sl_error e = {0};
    bool help;
    if (opts_parse(&o, argc, argv, &help, &e) < 0) return complain(&e, EXIT_USAGE);
    if (help) return EXIT_SUCCESS;
    if (!o.model && strcmp(o.device, "sim") != 0) {
        sl_fail(&e, SL_EINVAL, "which model? sluice serve FOLDER-OR-FILE.gguf (or --device sim)");
        return complain(&e, EXIT_USAGE);
    }
    log_setup((enum log_level)index_of(o.log_level, levels, 4),
              strcmp(o.log_format, "json") == 0 ? LOG_JSON : LOG_TEXT);
    return server_run(&o);
}

static int cmd_explain(int argc, char **argv)
{
    struct sl_error e = {0};
    const struct {
        const char *flag;
        long otherwise, max;
    } flags[] = {
        {"--tokens", 1, 1 << 20}, {"--ctx", 1024, 1 << 24}, {"--tensor-parallel-size", 1, 64}};
    long value[3];
    if (argc < 1) {
        sl_fail(&e, SL_EINVAL,
                "sluice explain MODEL [--tokens N] [--ctx N] [--tensor-parallel-size N]");
        return complain(&e, EXIT_USAGE);
    }
    for (int i = 0; i < 3; i++) {
        const char *text = flag_value(argc, argv, flags[i].flag);
        value[i] = text ? strtol(text, NULL, 10) : flags[i].otherwise;
        if (value[i] >= 1 && value[i] <= flags[i].max) continue;
        sl_fail(&e, SL_EINVAL, "%s is a number from 1 to %ld", flags[i].flag, flags[i].max);
        return complain(&e, EXIT_USAGE);
    }
    const struct explain_args a = {argv[0], (int32_t)value[0], (int32_t)value[1],
                                   (int32_t)value[2]};
    return model_explain(&a, stdout, &e) < 0 ? complain(&e, EXIT_FAILURE) : EXIT_SUCCESS;
}

static int cmd_tokenize(int argc, char **argv)
{
    struct sl_error e = {0};
    struct model_text *text;
    if (argc < 1) {
        sl_fail(&e, SL_EINVAL, "sluice tokenize MODEL --jsonl < lines");
        return complain(&e, EXIT_USAGE);
    }
    if (model_text_open(&text, argv[0], NULL, &e) < 0) return complain(&e, EXIT_FAILURE);
    int code = tokenize_jsonl(text->tok, stdin, stdout);
    model_text_close(text);
    return code < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int cmd_render(int argc, char **argv)
{
    struct sl_error e = {0};
    const char *path = flag_value(argc, argv, "--chat-template");
    FILE *f = path ? fopen(path, "rb") : NULL;
    if (!f) {
        sl_fail(&e, SL_EINVAL,
                "sluice render --chat-template FILE --jsonl < lines: cannot read %.100s",
                path ? path : "(no file given)");
        return complain(&e, EXIT_USAGE);
    }
    char *source = malloc(TEMPLATE_MAX);
    size_t n = source ? fread(source, 1, TEMPLATE_MAX, f) : 0;
    fclose(f);
    int code = render_jsonl((struct str){source, n}, stdin, stdout);
    free(source);
    return code < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static void print_gpu(void)
{
#ifdef SLUICE_HAS_CUDA
    struct sl_error e = {0};
    uint64_t total, free_now;
    if (device_cuda.probe(&e) == 0) {
        device_cuda.memory(0, &total, &free_now);
        printf("gpu      %.1f GiB, %.1f free\n", (double)total / gib, (double)free_now / gib);
    } else {
        printf("gpu      none: %s\n", e.text);
    }
#else
    printf("gpu      none: built without CUDA\n");
#endif
}

static int cmd_doctor(int argc, char **argv)
{
    (void)argc, (void)argv;
    struct rlimit files = {0};
    uint64_t total, free_now;
    device_cpu.memory(0, &total, &free_now);
    getrlimit(RLIMIT_NOFILE, &files);
    printf("sluice %s\n", SLUICE_VERSION);
    printf("cores    %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    printf("memory   %.1f GiB usable\n", (double)free_now / gib);
    print_gpu();
    printf("avx2     %s\n", __builtin_cpu_supports("avx2") ? "yes" : "no");
    printf("avx512   %s\n", __builtin_cpu_supports("avx512vnni") ? "yes, with VNNI" : "no");
    printf("files    %llu open at most\n", (unsigned long long)files.rlim_max);
    return EXIT_SUCCESS;
}

static int cmd_options(int argc, char **argv)
{
    (void)argc, (void)argv;
    opts_write_yaml(stdout);
    return EXIT_SUCCESS;
}

static int cmd_version(int argc, char **argv)
{
    (void)argc, (void)argv;
    printf("sluice %s\n", SLUICE_VERSION);
    return EXIT_SUCCESS;
}

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv); /* arguments after the name; returns the exit status */
    const char *help;
} commands[] = {
    {"serve", cmd_serve, "serve MODEL over HTTP (sluice serve --help)"},
    {"explain", cmd_explain, "print MODEL's plan with shapes, bytes, FLOPs and roofline time"},
    {"bench", bench_main, "serve: load a running server; engine MODEL: without HTTP"},
    {"tokenize", cmd_tokenize, "MODEL --jsonl: {\"text\"} lines to {\"ids\",\"decoded\"} lines"},
    {"render", cmd_render,
     "--chat-template FILE --jsonl: {\"messages\"} lines to {\"output\"} lines"},
    {"options", cmd_options, "every option with its default, as YAML (configs/default.yaml)"},
    {"doctor", cmd_doctor, "what this machine offers"},
    {"version", cmd_version, "print the version"},
};

int main(int argc, char **argv)
{
    size_t n = sizeof commands / sizeof *commands;
    for (size_t i = 0; argc > 1 && i < n; i++)
        if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 2, argv + 2);
    bool help = argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    FILE *out = help ? stdout : stderr;
    fprintf(out, "usage: sluice COMMAND ...\n");
    for (size_t i = 0; i < n; i++) fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].help);
    return help ? EXIT_SUCCESS : EXIT_USAGE;
}
