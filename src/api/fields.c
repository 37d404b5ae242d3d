/* fields.c - the kinds of request fields, their type and range checks, and the error texts. */
#include "api/fields.h"

#include <math.h>
#include <stdio.h>

struct path path_of(const char *fmt, ...)
{
    struct path p;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(p.z, sizeof p.z, fmt, ap);
    va_end(ap);
    return p;
}

int field_type_error(const json_node *v, const char *param, const char *what, struct sl_error *e)
{
    const char *got = json_type_name(json_type(v));
    const char *article = got[0] == 'a' || got[0] == 'i' || got[0] == 'o' ? "an" : "a";
    if (json_type(v) == JSON_NULL) article = "";
    return sl_fail_param(e, SL_ETYPE, param,
                         "Invalid type for '%s': expected %s, but got %s%s%s instead.", param, what,
                         article, *article ? " " : "", got);
}

int field_is(const json_node *v, enum json_type type, const char *param, const char *what,
             struct sl_error *e)
{
    return json_type(v) == type ? 0 : field_type_error(v, param, what, e);
}

int field_bool(const json_node *v, const char *param, bool *out, struct sl_error *e)
{
    if (json_type(v) != JSON_TRUE && json_type(v) != JSON_FALSE)
        return field_type_error(v, param, "a boolean", e);
    *out = json_type(v) == JSON_TRUE;
    return 0;
}

int field_int(const json_node *v, const char *param, double lo, double hi, int64_t *out,
              struct sl_error *e)
{
    if (!json_is_num(v)) return field_type_error(v, param, "an integer", e);
    double x = json_num(v);
    if (floor(x) != x) return field_type_error(v, param, "an integer", e);
    if (x < lo)
        return sl_fail_param(e, SL_EBELOW_INT, param,
                             "Invalid '%s': %.0f is below the minimum value, %.0f.", param, x, lo);
    if (x > hi)
        return sl_fail_param(e, SL_EABOVE_INT, param,
                             "Invalid '%s': %.0f is above the maximum value, %.0f.", param, x, hi);
    if (json_type(v) == JSON_INT)
        *out = json_int(v);
    else if (x >= -0x1p63 && x < 0x1p63)
        *out = (int64_t)x;
    else
        return sl_fail_param(e, x < 0 ? SL_EBELOW_INT : SL_EABOVE_INT, param,
                             "Invalid '%s': the integer does not fit 64 bits.", param);
    return 0;
}

int field_num(const json_node *v, const char *param, double lo, double hi, double *out,
              struct sl_error *e)
{
    if (!json_is_num(v)) return field_type_error(v, param, "a number", e);
    double x = json_num(v);
    if (!isfinite(x)) return sl_fail_param(e, SL_EVALUE, param, "Invalid '%s': not finite.", param);
    if (x < lo)
        return sl_fail_param(e, SL_EBELOW_DEC, param,
                             "Invalid '%s': %g is below the minimum value, %g.", param, x, lo);
    if (x > hi)
        return sl_fail_param(e, SL_EABOVE_DEC, param,
                             "Invalid '%s': %g is above the maximum value, %g.", param, x, hi);
    *out = x;
    return 0;
}

int field_str(const json_node *v, const char *param, struct str *out, struct sl_error *e)
{
    TRY(field_is(v, JSON_STR, param, "a string", e));
    *out = json_str(v);
    return 0;
}

static int read_row(const json_node *v, const char *param, const struct field *row, void *out,
                    struct sl_error *e)
{
    void *to = (char *)out + row->at;
    switch (row->kind) {
    case FIELD_BOOL:
        return field_bool(v, param, to, e);
    case FIELD_INT:
        return field_int(v, param, row->lo, row->hi, to, e);
    case FIELD_NUM:
        return field_num(v, param, row->lo, row->hi, to, e);
    case FIELD_STR:
        return field_str(v, param, to, e);
    }
    return 0;
}

int fields_read(const json_node *object, const char *prefix, const struct field *rows,
                size_t n_rows, void *out, struct sl_error *e)
{
    for (size_t i = 0; i < n_rows; i++) {
        const json_node *v = json_opt(object, rows[i].name);
        if (v) TRY(read_row(v, path_of("%s%s", prefix, rows[i].name).z, &rows[i], out, e));
    }
    return 0;
}
