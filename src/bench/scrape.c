/* scrape.c - the part of the Prometheus text format 0.0.4 that counters and histograms need. */
#include "bench/scrape.h"

#include <math.h>
#include <stdlib.h>

#include "bench/quantile.h"

enum { CALL_SECONDS = 10, VALUE_MAX = 64 };

void scrape(const struct target *t, struct buf *out)
{
    struct sl_error e;
    if (target_call(t, "/metrics", NULL, CALL_SECONDS, out, &e) != 200) out->n = 0;
}

struct sample {
    struct str labels; /* between the braces */
    double value;
};

/* The next sample of a metric from *at on; false at the end. */
static bool next_sample(struct str text, const char *name, size_t *at, struct sample *out)
{
    size_t n_name = strlen(name);
    while (*at < text.n) {
        const char *line = text.p + *at, *nl = memchr(line, '\n', text.n - *at);
        size_t n = nl ? (size_t)(nl - line) : text.n - *at;
        char value[VALUE_MAX];
        *at += n + (nl != NULL);
        if (n <= n_name || memcmp(line, name, n_name) != 0) continue;
        const char *p = line + n_name, *end = line + n, *close = NULL;
        if (*p == '{') close = memrchr(p, '}', (size_t)(end - p));
        if (*p != ' ' && !close) continue;
        out->labels = close ? (struct str){p + 1, (size_t)(close - p) - 1} : STR("");
        p = close ? close + 1 : p;
        size_t n_value = (size_t)(end - p) < VALUE_MAX - 1 ? (size_t)(end - p) : VALUE_MAX - 1;
        memcpy(value, p, n_value);
        value[n_value] = '\0';
        out->value = strtod(value, NULL);
        return true;
    }
    return false;
}

double scrape_value(struct str text, const char *name)
{
    struct sample s;
    double sum = 0;
    for (size_t at = 0; next_sample(text, name, &at, &s);) sum += s.value;
    return sum;
}

/* The bound of a bucket; NAN where the label is missing. */
static double bound_of(struct str labels)
{
    const char *le = memmem(labels.p, labels.n, "le=\"", 4);
    char text[VALUE_MAX] = "";
    if (!le) return NAN;
    for (size_t i = 0; i + 1 < VALUE_MAX && le + 4 + i < labels.p + labels.n; i++) {
        if (le[4 + i] == '"') break;
        text[i] = le[4 + i];
        text[i + 1] = '\0';
    }
    return strtod(text, NULL); /* "+Inf" too */
}

struct ladder { /* cumulative counts, by ascending bound */
    double bound[SCRAPE_BUCKETS_MAX], count[SCRAPE_BUCKETS_MAX];
    int n;
};

static void read_ladder(struct str text, const char *name, double sign, struct ladder *l)
{
    char bucket[128];
    struct sample s;
    snprintf(bucket, sizeof bucket, "%s_bucket", name);
    for (size_t at = 0; next_sample(text, bucket, &at, &s);) {
        double bound = bound_of(s.labels);
        int i = 0;
        if (isnan(bound)) continue;
        while (i < l->n && l->bound[i] < bound) i++;
        if (i == l->n || l->bound[i] > bound) { /* a new rung */
            if (l->n == SCRAPE_BUCKETS_MAX) continue;
            memmove(l->bound + i + 1, l->bound + i, (size_t)(l->n - i) * sizeof *l->bound);
            memmove(l->count + i + 1, l->count + i, (size_t)(l->n - i) * sizeof *l->count);
            l->bound[i] = bound;
            l->count[i] = 0;
            l->n++;
        }
        l->count[i] += sign * s.value;
    }
}

void scrape_between(struct str before, struct str after, const char *name, struct scrape_times *out)
{
    struct ladder l = {.n = 0};
    uint64_t counts[SCRAPE_BUCKETS_MAX];
    char sum[128];
    *out = (struct scrape_times){0};
    read_ladder(before, name, -1, &l);
    read_ladder(after, name, 1, &l);
    if (l.n < 2 || l.count[l.n - 1] <= 0) return;
    for (int i = 0; i < l.n; i++) {
        double own = l.count[i] - (i ? l.count[i - 1] : 0);
        counts[i] = own > 0 ? (uint64_t)(own + 0.5) : 0;
    }
    snprintf(sum, sizeof sum, "%s_sum", name);
    out->n = l.count[l.n - 1];
    out->mean = (scrape_value(after, sum) - scrape_value(before, sum)) / out->n;
    out->p50 = buckets_quantile(l.bound, counts, l.n, 0.5);
    out->p99 = buckets_quantile(l.bound, counts, l.n, 0.99);
}
