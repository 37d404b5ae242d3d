/* opt_table.h - options as rows of a table, and setting them from text.
 *
 * A row says name, type, where the value lives in a struct of the caller's, default (as text),
 * range, group, aliases and help. `sluice serve` has its table in opts.c, the benchmarks theirs in
 * src/bench. Main thread, before any other starts. Texts are borrowed, never copied.
 */
#ifndef BASE_OPT_TABLE_H
#define BASE_OPT_TABLE_H

#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

enum { OPTS_LIST_MAX = 64 };

struct opts_list { /* an option that may be given several times */
    const char *v[OPTS_LIST_MAX];
    int n;
};

/* What lies at a row's offset: const char *, int64_t, double, bool, struct opts_list. T_WORDS is a
 * list whose one flag takes all arguments up to the next flag. */
enum opt_type { T_STR, T_INT, T_REAL, T_BOOL, T_LIST, T_WORDS };
enum opt_origin { FROM_DEFAULT, FROM_FILE, FROM_ENV, FROM_FLAG };

struct opt_row {
    const char *name;
    enum opt_type type;
    size_t at;
    const char *fallback; /* NULL: a string that is unset */
    double min, max;      /* numbers */
    const char *choices;  /* strings: "a|b|c", or NULL for any */
    const char *group, *aliases, *help;
};

struct opt_table {
    const char *command; /* "sluice serve", for messages */
    const struct opt_row *rows;
    int n_rows;
    enum opt_origin *origins; /* [n_rows], of each value */
};

/* The row of that name or alias (n bytes, `_` reads as `-`), or NULL. */
const struct opt_row *opt_find(const struct opt_table *t, const char *given, size_t n);
/* SL_EINVAL that names the nearest option. */
int opt_unknown(const struct opt_table *t, const char *given, size_t n, struct sl_error *e);
/* Set one value of the struct `out`. A list grows unless the origin is new to it. */
int opt_set(const struct opt_table *t, void *out, const struct opt_row *r, const char *text,
            enum opt_origin from, struct sl_error *e);
int opt_set_defaults(const struct opt_table *t, void *out, struct sl_error *e);
/* The flag argv[0] and its values. Returns how many arguments were used, or a code. */
int opt_set_flag(const struct opt_table *t, void *out, int argc, char **argv, struct sl_error *e);
/* Set every flag of argv that the table has and take it out of argv; the rest stays in order.
 * Returns how many arguments are left, or a code. */
int opt_take_flags(const struct opt_table *t, void *out, int argc, char **argv, struct sl_error *e);
/* One row as a line of help. */
void opt_put_row(FILE *out, const struct opt_row *r);

#endif
