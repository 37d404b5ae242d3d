/* bench.c - the two benchmarks' entry, lists, clocks and where a result comes from. */
#include "bench/bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"

enum { COMMAND_MAX = 1 << 16 };

double bench_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double bench_thread_cpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int bench_read_list(const char *text, int64_t max, int64_t *out, int n_max, struct sl_error *e)
{
    int n = 0;
    for (const char *p = text; *p;) {
        char *end;
        errno = 0;
        long long v = strtoll(p, &end, 10);
        if (end == p || errno || v < 1 || v > max || (*end && *end != ','))
            return sl_fail(e, SL_EINVAL, "\"%.60s\" is not a list of numbers from 1 to %lld", text,
                           (long long)max);
        if (n == n_max)
            return sl_fail(e, SL_EINVAL, "more than %d numbers in \"%.60s\"", n_max, text);
        out[n++] = v;
        p = end + (*end == ',');
    }
    return n;
}

/* The value of a line "key : value" of a /proc file, or "". */
static void proc_value(const char *path, const char *key, char *out, size_t max)
{
    char line[256];
    FILE *f = fopen(path, "r");
    out[0] = '\0';
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (!colon || strncmp(line, key, strlen(key)) != 0) continue;
        const char *value = colon + 1 + strspn(colon + 1, " ");
        snprintf(out, max, "%.*s", (int)strcspn(value, "\n"), value);
        break;
    }
    if (f) fclose(f);
}

void bench_put_origin(struct buf *out, const char *command)
{
    char date[32], cpu[128];
    struct utsname u = {0};
    double load[1] = {-1};
    time_t now = time(NULL);
    struct tm tm;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    uname(&u);
    if (getloadavg(load, 1) != 1) load[0] = -1;
    proc_value("/proc/cpuinfo", "model name", cpu, sizeof cpu);
    buf_printf(out, "\"date\":\"%s\",\"sluice\":\"%s\",\"command\":", date, SLUICE_VERSION);
    json_put_str(out, str_of(command));
    buf_puts(out, ",\"machine\":{\"kernel\":");
    json_put_str(out, str_of(u.release));
    buf_puts(out, ",\"cpu\":");
    json_put_str(out, str_of(cpu));
    buf_printf(out, ",\"cores\":%ld,\"load_average\":%.2f}", sysconf(_SC_NPROCESSORS_ONLN),
               load[0]);
}

int bench_write_json(const struct buf *json, const char *path, struct sl_error *e)
{
    bool is_stdout = strcmp(path, "-") == 0;
    FILE *f = is_stdout ? stdout : fopen(path, "w");
    if (json->overflow) return sl_fail(e, SL_ETOOLARGE, "the result is too large to be written");
    if (!f) return sl_fail(e, SL_EIO, "cannot write %.200s: %s", path, strerror(errno));
    bool ok = fwrite(json->p, 1, json->n, f) == json->n && fputc('\n', f) != EOF;
    ok = (is_stdout ? fflush(f) : fclose(f)) == 0 && ok;
    return ok ? 0 : sl_fail(e, SL_EIO, "cannot write all of %.200s", path);
}

/* As a shell reads it; keys do not go into results. */
static void put_argument(struct buf *out, const char *arg, const char *before)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "_./:,=@%+-";
    bool is_secret = strcmp(before, "--api-key") == 0 || strcmp(before, "--header") == 0;
    if (is_secret || strncmp(arg, "--api-key=", 10) == 0 || strncmp(arg, "--header=", 9) == 0) {
        buf_puts(out, is_secret ? " ..." : " --...");
        return;
    }
    buf_putc(out, ' ');
    if (*arg && arg[strspn(arg, plain)] == '\0') {
        buf_puts(out, arg);
        return;
    }
    buf_putc(out, '\'');
    for (const char *p = arg; *p; p++) buf_puts(out, *p == '\'' ? "'\\''" : (char[]){*p, 0});
    buf_putc(out, '\'');
}

int bench_main(int argc, char **argv)
{
    static const char usage[] = "usage: sluice bench serve [flags]         load a running server\n"
                                "       sluice bench engine MODEL [flags]  the engine, no HTTP\n"
                                "Each has --help.\n";
    struct buf command = buf_make(COMMAND_MAX); /* for the result: how to repeat it */
    int status = BENCH_USAGE;
    buf_puts(&command, "sluice bench");
    for (int i = 0; i < argc; i++) put_argument(&command, argv[i], i ? argv[i - 1] : "");
    if (argc > 0 && strcmp(argv[0], "serve") == 0)
        status = bench_serve(argc - 1, argv + 1, buf_cstr(&command));
    else if (argc > 0 && strcmp(argv[0], "engine") == 0)
        status = bench_engine(argc - 1, argv + 1, buf_cstr(&command));
    else
        fputs(usage, stderr);
    buf_free(&command);
    return status;
}
