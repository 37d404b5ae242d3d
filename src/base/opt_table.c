/* opt_table.c - looking up rows, and values from text. See opt_table.h. */
#include "base/opt_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Equal up to `_` for `-`; n is the length of the given name. */
static bool same_name(const char *given, size_t n, const char *name, size_t n_name)
{
    if (n != n_name) return false;
    for (size_t i = 0; i < n; i++)
        if ((given[i] == '_' ? '-' : given[i]) != name[i]) return false;
    return true;
}

static bool has_alias(const struct opt_row *r, const char *given, size_t n)
{
    for (const char *p = r->aliases; *p;) {
        size_t len = strcspn(p, " ");
        if (same_name(given, n, p, len)) return true;
        p += len + (p[len] == ' ');
    }
    return false;
}

const struct opt_row *opt_find(const struct opt_table *t, const char *given, size_t n)
{
    for (const struct opt_row *r = t->rows; r < t->rows + t->n_rows; r++)
        if (same_name(given, n, r->name, strlen(r->name)) || has_alias(r, given, n)) return r;
    return NULL;
}

/* Levenshtein distance, bounded words; for "did you mean". */
static int distance(const char *a, size_t n, const char *b)
{
    enum { MAX = 40 };
    int row[MAX + 1];
    size_t m = strlen(b);
    if (n > MAX || m > MAX) return MAX;
    for (size_t j = 0; j <= m; j++) row[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int above = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            if (above + 1 < best) best = above + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = above;
            row[j] = best;
        }
    }
    return row[m];
}

int opt_unknown(const struct opt_table *t, const char *given, size_t n, struct sl_error *e)
{
    const struct opt_row *best = t->rows;
    for (const struct opt_row *r = t->rows; r < t->rows + t->n_rows; r++)
        if (distance(given, n, r->name) < distance(given, n, best->name)) best = r;
    return sl_fail(e, SL_EINVAL, "unknown option --%.*s; the nearest is --%s (%s --help=all)",
                   (int)n, given, best->name, t->command);
}

/* ------------------------------------------------------------------ setting a value */

/* "32k", "128K", "4g": binary multiples, as vLLM reads lengths. */
static bool parse_int(const char *text, int64_t *out)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    int shift = 0;
    if (end == text || errno) return false;
    if (*end && !end[1]) {
        const char *units = "kKmMgG", *u = strchr(units, *end);
        if (!u) return false;
        shift = ((int)(u - units) / 2 + 1) * 10;
        end++;
    }
    return *end == '\0' && !__builtin_mul_overflow(v, 1LL << shift, (long long *)out);
}

static bool parse_bool(const char *text, bool *out)
{
    static const char *const yes[] = {"true", "1", "on", "yes"}, *const no[] = {"false", "0", "off",
                                                                                "no"};
    for (int i = 0; i < 4; i++) {
        if (strcasecmp(text, yes[i]) == 0) return *out = true, true;
        if (strcasecmp(text, no[i]) == 0) return *out = false, true;
    }
    return false;
}

static bool is_choice(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (const char *p = choices; *p;) {
        size_t len = strcspn(p, "|");
        if (len == n && memcmp(p, text, n) == 0) return true;
        p += len + (p[len] == '|');
    }
    return false;
}

static int wrong(const struct opt_row *r, const char *text, struct sl_error *e)
{
    if (r->type == T_STR)
        return sl_fail(e, SL_EINVAL, "--%s is one of %s, not \"%.60s\"", r->name, r->choices, text);
    if (r->type == T_BOOL)
        return sl_fail(e, SL_EINVAL, "--%s is true or false, not \"%.60s\"", r->name, text);
    return sl_fail(e, SL_EINVAL, "--%s is a number from %.15g to %.15g, not \"%.60s\"", r->name,
                   r->min, r->max, text);
}

int opt_set(const struct opt_table *t, void *out, const struct opt_row *r, const char *text,
            enum opt_origin from, struct sl_error *e)
{
    void *at = (char *)out + r->at;
    enum opt_origin *origin = &t->origins[r - t->rows];
    int64_t i;
    switch (r->type) {
    case T_STR:
        if (r->choices && !is_choice(r->choices, text)) return wrong(r, text, e);
        *(const char **)at = text;
        break;
    case T_INT:
        if (!parse_int(text, &i) || (double)i < r->min || (double)i > r->max)
            return wrong(r, text, e);
        *(int64_t *)at = i;
        break;
    case T_REAL: {
        char *end;
        double v = strtod(text, &end);
        if (end == text || *end || !(v >= r->min && v <= r->max)) return wrong(r, text, e);
        *(double *)at = v;
        break;
    }
    case T_BOOL:
        if (!parse_bool(text, at)) return wrong(r, text, e);
        break;
    case T_LIST:
    case T_WORDS: {
        struct opts_list *l = at;
        if (*origin != from) l->n = 0;
        if (l->n == OPTS_LIST_MAX)
            return sl_fail(e, SL_EINVAL, "--%s was given more than %d times", r->name,
                           OPTS_LIST_MAX);
        l->v[l->n++] = text;
        break;
    }
    }
    *origin = from;
    return 0;
}

int opt_set_defaults(const struct opt_table *t, void *out, struct sl_error *e)
{
    for (int i = 0; i < t->n_rows; i++) {
        t->origins[i] = FROM_DEFAULT;
        if (t->rows[i].fallback)
            TRY(opt_set(t, out, &t->rows[i], t->rows[i].fallback, FROM_DEFAULT, e));
    }
    return 0;
}

/* ------------------------------------------------------------------ flags */

struct flag {                  /* argv[0] taken apart */
    const struct opt_row *row; /* NULL: none of this name */
    const char *name, *value;  /* value NULL: none in the same argument */
    size_t n_name;
    bool is_negated;
};

static struct flag read_flag(const struct opt_table *t, const char *arg)
{
    struct flag f = {.name = arg + (arg[1] == '-' ? 2 : 1)};
    f.n_name = strcspn(f.name, "=");
    if (f.name[f.n_name] == '=') f.value = f.name + f.n_name + 1;
    f.row = opt_find(t, f.name, f.n_name);
    bool is_no = f.n_name > 3 && (strncmp(f.name, "no-", 3) == 0 || strncmp(f.name, "no_", 3) == 0);
    if (f.row || !is_no) return f;
    f.is_negated = true;
    f.row = opt_find(t, f.name + 3, f.n_name - 3);
    if (f.row && f.row->type != T_BOOL) f.row = NULL;
    return f;
}

static bool is_flag(const char *arg)
{
    return arg[0] == '-' && arg[1];
}

int opt_set_flag(const struct opt_table *t, void *out, int argc, char **argv, struct sl_error *e)
{
    struct flag f = read_flag(t, argv[0]);
    const struct opt_row *r = f.row;
    if (!r) return opt_unknown(t, f.name, f.n_name, e);
    if (r->type == T_BOOL) {
        if (f.is_negated && f.value) return sl_fail(e, SL_EINVAL, "--%s takes no value", f.name);
        const char *text = f.is_negated ? "false" : f.value ? f.value : "true";
        TRY(opt_set(t, out, r, text, FROM_FLAG, e));
        return 1;
    }
    if (!f.value && argc < 2) return sl_fail(e, SL_EINVAL, "--%s needs a value", r->name);
    TRY(opt_set(t, out, r, f.value ? f.value : argv[1], FROM_FLAG, e));
    int used = f.value ? 1 : 2;
    for (; r->type == T_WORDS && used < argc && !is_flag(argv[used]); used++)
        TRY(opt_set(t, out, r, argv[used], FROM_FLAG, e));
    return used;
}

int opt_take_flags(const struct opt_table *t, void *out, int argc, char **argv, struct sl_error *e)
{
    int left = 0;
    for (int i = 0; i < argc;) {
        if (!is_flag(argv[i]) || !read_flag(t, argv[i]).row) {
            argv[left++] = argv[i++];
            continue;
        }
        int used = opt_set_flag(t, out, argc - i, argv + i, e);
        TRY(used);
        i += used;
    }
    return left;
}

void opt_put_row(FILE *out, const struct opt_row *r)
{
    fprintf(out, "  --%-26s %s", r->name, r->help);
    if (r->choices) fprintf(out, " (%s)", r->choices);
    if (r->fallback) fprintf(out, " [%s]", r->fallback);
    fputc('\n', out);
}
