/* log.c - formats a line on the stack and writes it to stderr in one system call. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"

enum { LINE_BYTES = 2048 };

static enum log_level level_max = LOG_INFO; /* set before threads start */
static enum log_format line_format = LOG_TEXT;
static const char *const level_names[] = {"error", "warn", "info", "debug"};

void log_setup(enum log_level level, enum log_format format)
{
    level_max = level;
    line_format = format;
}

int log_on(enum log_level level)
{
    return level <= level_max;
}

static void put_time(struct buf *b)
{
    struct timespec ts;
    struct tm tm;
    char text[32];
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    buf_printf(b, "%s.%03ldZ", text, ts.tv_nsec / 1000000);
}

void log_write(enum log_level level, const char *subsys, const char *fmt, ...)
{
    if (!log_on(level)) return;
    char text[LINE_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    struct buf line = buf_make(2 * LINE_BYTES);
    if (line_format == LOG_JSON) {
        buf_puts(&line, "{\"time\":\"");
        put_time(&line);
        buf_printf(&line, "\",\"level\":\"%s\",\"subsys\":\"%s\",\"text\":", level_names[level],
                   subsys);
        json_put_str(&line, str_of(text));
        buf_puts(&line, "}\n");
    } else {
        put_time(&line);
        buf_printf(&line, " %-5s %-7s %s\n", level_names[level], subsys, text);
    }
    ssize_t written = write(STDERR_FILENO, line.p, line.n);
    (void)written; /* nowhere to report a log that cannot be written */
    buf_free(&line);
}
