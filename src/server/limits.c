/* limits.c - buckets and counters by key. See limits.h. */
#include "server/limits.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "server/serve.h"

enum { DAY_SECONDS = 86400, RETRY_MAX = 60 };

struct bucket {
    double level; /* what may be taken now; below 0 after a settle that found more used */
    uint64_t at_us;
};

struct meter { /* of one key */
    struct bucket requests, tokens;
    struct db_usage pending, since_start; /* not in the store yet; of this process */
    struct db_usage today, total;         /* with the past, where the store has it */
    uint64_t n_rejected;
};

struct limits {
    const struct auth *auth; /* borrowed */
    struct store *store;     /* borrowed, or NULL */
    int n;
    struct meter *meter; /* owned [n] */
    int64_t day;
};

static int64_t today(void)
{
    return (int64_t)time(NULL) / DAY_SECONDS;
}

static int64_t tokens_of(const struct db_usage *u)
{
    return u->prompt_tokens + u->completion_tokens;
}

static void add_usage(struct db_usage *sum, const struct db_usage *u)
{
    sum->n_requests += u->n_requests;
    sum->prompt_tokens += u->prompt_tokens;
    sum->cached_tokens += u->cached_tokens;
    sum->completion_tokens += u->completion_tokens;
}

/* ------------------------------------------------------------------ buckets */

static double level(const struct bucket *b, int64_t per_minute, uint64_t now_us)
{
    double more = (double)(now_us - b->at_us) * 1e-6 * (double)per_minute / 60;
    return fmin(b->level + more, (double)per_minute);
}

/* Takes n, or says in how many seconds there will be so much. */
static bool take(struct bucket *b, int64_t per_minute, double n, int *retry_s)
{
    uint64_t now = server_now_us();
    b->level = level(b, per_minute, now);
    b->at_us = now;
    if (b->level >= n) {
        b->level -= n;
        return true;
    }
    double s = ceil((n - b->level) * 60 / (double)per_minute);
    *retry_s = s < 1 ? 1 : s > RETRY_MAX ? RETRY_MAX : (int)s;
    return false;
}

int limits_request(struct limits *l, int key, int *retry_s, struct sl_error *e)
{
    int64_t rate = auth_limits(l->auth, key)->requests_per_minute;
    if (!rate || take(&l->meter[key].requests, rate, 1, retry_s)) return 0;
    l->meter[key].n_rejected++;
    return sl_fail(e, SL_ERATE,
                   "Rate limit reached for requests: %lld per minute. Try again in %d s.",
                   (long long)rate, *retry_s);
}

static int check_quota(const struct meter *m, const struct key_limits *k, struct sl_error *e)
{
    bool day = k->tokens_per_day && tokens_of(&m->today) >= k->tokens_per_day;
    bool all = k->tokens_total && tokens_of(&m->total) >= k->tokens_total;
    if (!day && !all) return 0;
    return sl_fail(e, SL_EQUOTA, "This API key has used its %s of %lld tokens.",
                   all ? "quota" : "daily quota",
                   (long long)(all ? k->tokens_total : k->tokens_per_day));
}

int limits_tokens(struct limits *l, int key, uint64_t cost, bool is_background, uint64_t *charged,
                  int *retry_s, struct sl_error *e)
{
    const struct key_limits *k = auth_limits(l->auth, key);
    struct meter *m = &l->meter[key];
    *charged = 0;
    int code = check_quota(m, k, e);
    if (code == 0 && k->tokens_per_minute && !is_background) {
        uint64_t most = (uint64_t)k->tokens_per_minute;
        uint64_t n = cost < most ? cost : most;
        if (take(&m->tokens, k->tokens_per_minute, (double)n, retry_s))
            *charged = n;
        else
            code = sl_fail(e, SL_ETOKENS,
                           "Rate limit reached for tokens: %lld per minute, %llu requested. Try "
                           "again in %d s.",
                           (long long)k->tokens_per_minute, (unsigned long long)cost, *retry_s);
    }
    m->n_rejected += code < 0;
    return code;
}

void limits_settle(struct limits *l, int key, uint64_t charged, const struct db_usage *used)
{
    struct meter *m = &l->meter[key];
    if (charged) m->tokens.level += (double)charged - (double)tokens_of(used);
    add_usage(&m->pending, used);
    add_usage(&m->since_start, used);
    add_usage(&m->today, used);
    add_usage(&m->total, used);
}

/* ------------------------------------------------------------------ headers */

/* Until the bucket is full again, as OpenAI writes durations: 12ms, 1.5s, 6m0s. */
static void put_duration(char *out, size_t max, double s)
{
    if (s < 1)
        snprintf(out, max, "%.0fms", ceil(s * 1e3));
    else if (s < 60)
        snprintf(out, max, "%gs", ceil(s * 1e3) / 1e3);
    else
        snprintf(out, max, "%.0fm%.0fs", floor(s / 60), fmod(floor(s), 60));
}

struct adder {
    void *arg;
    void (*add)(void *arg, const char *name, const char *value);
};

static void put_bucket(const struct bucket *b, int64_t rate, const char *what, struct adder to)
{
    static const char *const kinds[] = {"limit", "remaining", "reset"};
    double have = level(b, rate, server_now_us());
    for (int i = 0; i < 3; i++) {
        char name[48], value[32];
        snprintf(name, sizeof name, "x-ratelimit-%s-%s", kinds[i], what);
        if (i == 0)
            snprintf(value, sizeof value, "%lld", (long long)rate);
        else if (i == 1)
            snprintf(value, sizeof value, "%.0f", floor(fmax(have, 0)));
        else
            put_duration(value, sizeof value, ((double)rate - have) * 60 / (double)rate);
        to.add(to.arg, name, value);
    }
}

void limits_headers(const struct limits *l, int key, void *arg,
                    void (*add)(void *arg, const char *name, const char *value))
{
    const struct key_limits *k = auth_limits(l->auth, key);
    const struct meter *m = &l->meter[key];
    struct adder to = {arg, add};
    if (k->requests_per_minute) put_bucket(&m->requests, k->requests_per_minute, "requests", to);
    if (k->tokens_per_minute) put_bucket(&m->tokens, k->tokens_per_minute, "tokens", to);
}

/* ------------------------------------------------------------------ the store */

struct transfer { /* a job: usage to the store, or from it */
    struct store_job job;
    struct limits *limits; /* read: whose past it is */
    int64_t day;
    int n;
    struct db_usage_row row[]; /* [n] */
};

static struct transfer *transfer_of(struct store_job *j)
{
    return (struct transfer *)((char *)j - offsetof(struct transfer, job));
}

static void run_write(struct store_job *j, struct db *db)
{
    struct transfer *t = transfer_of(j);
    struct sl_error e = {0};
    if (db_usage_add(db, t->day, t->row, t->n, &e) < 0)
        log_error("store", "usage of %d keys is lost: %s", t->n, e.text);
}

static void after_write(struct store_job *j)
{
    free(transfer_of(j));
}

static struct transfer *transfer_new(struct limits *l, int n)
{
    struct transfer *t = xcalloc(1, sizeof *t + (size_t)n * sizeof *t->row);
    t->limits = l;
    t->day = l->day;
    return t;
}

void limits_flush(struct limits *l)
{
    int n = 0;
    for (int i = 0; i < l->n; i++) n += l->meter[i].pending.n_requests > 0;
    if (!l->store || n == 0) return;
    struct transfer *t = transfer_new(l, n);
    for (int i = 0; i < l->n; i++) {
        struct meter *m = &l->meter[i];
        if (m->pending.n_requests == 0) continue;
        struct db_usage_row *x = &t->row[t->n++];
        snprintf(x->owner, sizeof x->owner, "%s", auth_owner(l->auth, i));
        x->today = m->pending;
        m->pending = (struct db_usage){0};
    }
    t->job.run = run_write;
    t->job.done = after_write;
    store_submit(l->store, &t->job);
}

static void run_read(struct store_job *j, struct db *db)
{
    struct transfer *t = transfer_of(j);
    struct sl_error e;
    for (int i = 0; i < t->n; i++) {
        db_usage_total(db, t->row[i].owner, 0, &t->row[i].total, &e);
        db_usage_total(db, t->row[i].owner, t->day, &t->row[i].today, &e);
    }
}

static void after_read(struct store_job *j)
{
    struct transfer *t = transfer_of(j);
    for (int i = 0; i < t->n; i++) {
        struct meter *m = &t->limits->meter[i];
        add_usage(&m->total, &t->row[i].total);
        if (t->day == t->limits->day) add_usage(&m->today, &t->row[i].today);
    }
    free(t);
}

static void read_past(struct limits *l)
{
    struct transfer *t = transfer_new(l, l->n);
    for (; t->n < l->n; t->n++)
        snprintf(t->row[t->n].owner, OWNER_MAX, "%s", auth_owner(l->auth, t->n));
    t->job.run = run_read;
    t->job.done = after_read;
    store_submit(l->store, &t->job);
}

/* ------------------------------------------------------------------ life */

struct limits *limits_new(const struct auth *auth, struct store *store)
{
    struct limits *l = xcalloc(1, sizeof *l);
    l->auth = auth;
    l->store = store;
    l->day = today();
    l->n = auth_n_keys(auth) ? auth_n_keys(auth) : 1;
    l->meter = xcalloc((size_t)l->n, sizeof *l->meter);
    uint64_t now = server_now_us();
    for (int i = 0; i < l->n; i++) {
        const struct key_limits *k = auth_limits(auth, i);
        l->meter[i].requests = (struct bucket){(double)k->requests_per_minute, now};
        l->meter[i].tokens = (struct bucket){(double)k->tokens_per_minute, now};
    }
    if (store) read_past(l);
    return l;
}

void limits_tick(struct limits *l)
{
    int64_t day = today();
    limits_flush(l);
    if (day == l->day) return;
    l->day = day;
    for (int i = 0; i < l->n; i++) l->meter[i].today = (struct db_usage){0};
}

void limits_close(struct limits *l)
{
    if (!l) return;
    free(l->meter);
    free(l);
}

/* ------------------------------------------------------------------ what is told */

static void put_counts(struct buf *out, const char *name, const struct db_usage *u)
{
    buf_printf(out,
               ",\"%s\":{\"requests\":%lld,\"prompt_tokens\":%lld,\"cached_tokens\":%lld,"
               "\"completion_tokens\":%lld}",
               name, (long long)u->n_requests, (long long)u->prompt_tokens,
               (long long)u->cached_tokens, (long long)u->completion_tokens);
}

static void put_limit(struct buf *out, const char *name, int64_t limit)
{
    buf_printf(out, "%s\"%s\":", out->p[out->n - 1] == '{' ? "" : ",", name);
    if (limit)
        buf_put_i64(out, limit);
    else
        buf_puts(out, "null");
}

void limits_put_usage(const struct limits *l, int key, struct buf *out)
{
    const struct key_limits *k = auth_limits(l->auth, key);
    buf_printf(out, "{\"object\":\"usage\",\"key\":\"%s\"", auth_name(l->auth, key));
    put_counts(out, "total", &l->meter[key].total);
    put_counts(out, "today", &l->meter[key].today);
    buf_puts(out, ",\"limits\":{");
    put_limit(out, "requests_per_minute", k->requests_per_minute);
    put_limit(out, "tokens_per_minute", k->tokens_per_minute);
    put_limit(out, "tokens_per_day", k->tokens_per_day);
    put_limit(out, "tokens_total", k->tokens_total);
    buf_puts(out, "},\"days\":[");
}

struct key_counts limits_counts(const struct limits *l, int key)
{
    return (struct key_counts){l->meter[key].since_start, l->meter[key].n_rejected};
}
