/* fields.h - reading request fields by a table: name, kind, range, where the value goes.
 *
 * An explicit null reads as absent and leaves the target untouched, so the caller fills in the
 * defaults first. Errors carry the field's path as `param` and the codes of section 2 of the wire
 * specification. No state.
 */
#ifndef API_FIELDS_H
#define API_FIELDS_H

#include "base/err.h"
#include "base/json.h"

enum field_kind {
    FIELD_BOOL, /* bool */
    FIELD_INT,  /* int64_t; an integral real such as 16.0 is accepted */
    FIELD_NUM,  /* double */
    FIELD_STR,  /* struct str, borrowed from the tree */
};

struct field {
    const char *name;
    enum field_kind kind;
    size_t at;     /* offset of the target */
    double lo, hi; /* closed range of INT and NUM */
};

/* Read every row's field of `object` into the struct at `out`. `prefix` starts the param ("" or
 * "stream_options."). */
int fields_read(const json_node *object, const char *prefix, const struct field *rows,
                size_t n_rows, void *out, struct sl_error *e);

/* One value of a kind; `param` names it in errors. */
int field_bool(const json_node *v, const char *param, bool *out, struct sl_error *e);
int field_int(const json_node *v, const char *param, double lo, double hi, int64_t *out,
              struct sl_error *e);
int field_num(const json_node *v, const char *param, double lo, double hi, double *out,
              struct sl_error *e);
int field_str(const json_node *v, const char *param, struct str *out, struct sl_error *e);
/* SL_ETYPE unless v has the type; `what` reads "an array". */
int field_is(const json_node *v, enum json_type type, const char *param, const char *what,
             struct sl_error *e);
/* SL_ETYPE: "Invalid type for 'param': expected WHAT, but got ... instead." */
int field_type_error(const json_node *v, const char *param, const char *what, struct sl_error *e);

/* "messages[2].content": a param built in place; cut where it does not fit. */
struct path {
    char z[96];
};
struct path path_of(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
