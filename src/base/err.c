/* err.c - the error map's columns, and filling a struct sl_error. Any thread; no state. */
#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>

struct err_row {
    const char *name;
    int status;
    const char *type, *code;
};

#define ROW(name, status, type, code) [name##_N] = {#name, status, type, code},
static const struct err_row rows[SL_ERR_COUNT] = {[0] = {"SL_OK", 200, "", NULL}, SL_ERR_MAP(ROW)};
#undef ROW

static const struct err_row *row_of(int code)
{
    int i = -code;
    return i >= 0 && i < SL_ERR_COUNT ? &rows[i] : &rows[SL_EINTERNAL_N];
}

const char *sl_err_name(int code)
{
    return row_of(code)->name;
}
int sl_err_status(int code)
{
    return row_of(code)->status;
}
const char *sl_err_type(int code)
{
    return row_of(code)->type;
}
const char *sl_err_openai_code(int code)
{
    return row_of(code)->code;
}

__attribute__((format(printf, 4, 0))) static void
fill(struct sl_error *e, int code, const char *param, const char *fmt, va_list ap)
{
    if (!e) return;
    e->code = code;
    snprintf(e->param, sizeof e->param, "%s", param);
    vsnprintf(e->text, sizeof e->text, fmt, ap);
}

int sl_fail(struct sl_error *e, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(e, code, "", fmt, ap);
    va_end(ap);
    return code;
}

int sl_fail_param(struct sl_error *e, int code, const char *param, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(e, code, param, fmt, ap);
    va_end(ap);
    return code;
}

void assert_failed(const char *expr, const char *file, int line)
{
    fprintf(stderr, "sluice: assertion failed: %s at %s:%d\n", expr, file, line);
    abort();
}

void *xmalloc(size_t n)
{
    void *p = malloc(n ? n : 1);
    if (!p) assert_failed("out of memory", "xmalloc", (int)(n >> 20));
    return p;
}

void *xcalloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size ? size : 1);
    if (!p) assert_failed("out of memory", "xcalloc", (int)n);
    return p;
}

void *xrealloc(void *p, size_t n)
{
    void *q = realloc(p, n ? n : 1);
    if (!q) assert_failed("out of memory", "xrealloc", (int)(n >> 20));
    return q;
}
