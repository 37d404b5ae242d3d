/* cpu_pick.c - truncation and choice without sorting the vocabulary.
 *
 * top_k, top_p and the draw itself ask the same question: in descending order, where does the
 * running count or mass cross a limit? Tokens are binned by logit into buckets, highest first, with
 * the count and mass of each; the crossing bucket is found from those, and only its tokens are
 * gathered and sorted. Earlier buckets stay unsorted for good. Ties fall by id, since gathering
 * runs in id order and the sort is stable.
 */
#include "backend/cpu_pick.h"

#include <math.h>
#include <string.h>

#include "backend/sampling_philox.h"
#include "base/err.h"

enum { LANES = 4, SORT_SMALL = 48 };

typedef float v4f __attribute__((vector_size(16)));
typedef int32_t v4i __attribute__((vector_size(16)));

/* exp underflows f32 below -87.3; weights under that cannot be drawn with 32 random bits anyway. */
static const float exp_floor = -87.0f;

static inline v4f load4(const float *x, int32_t n_left, float fill)
{
    float edge[LANES];
    if (__builtin_expect(n_left < LANES, 0)) {
        for (int k = 0; k < LANES; k++) edge[k] = k < n_left ? x[k] : fill;
        x = edge;
    }
    v4f v;
    memcpy(&v, x, sizeof v);
    return v;
}

static v4f select4(v4i mask, v4f yes, v4f no)
{
    return (v4f)((mask & (v4i)yes) | (~mask & (v4i)no));
}

struct row_range row_scan(const float *x, int32_t n)
{
    struct row_range r = {0};
    v4f hi = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}, lo = -hi, bad = {0};
    for (int32_t i = 0; i < n; i += LANES) {
        v4f v = load4(x + i, n - i, x[0]);
        bad += v - v; /* NaN once a value is NaN or inf */
        hi = select4(v > hi, v, hi);
        lo = select4((v > -INFINITY) & (v < lo), v, lo);
    }
    r.max = -INFINITY;
    r.min = INFINITY;
    r.is_finite = true;
    for (int k = 0; k < LANES; k++) {
        if (hi[k] > r.max) r.max = hi[k];
        if (lo[k] < r.min) r.min = lo[k];
        if (bad[k] != 0.0f) r.is_finite = false; /* NaN differs from all */
    }
    while (r.argmax < n - 1 && x[r.argmax] != r.max) r.argmax++;
    return r;
}

/* exp for -87 <= x <= 0 within 2 ulp; coefficients: Cephes expf (Moshier). Our own, so that results
 * do not vary with the C library. */
static v4f exp4(v4f x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    v4f shifted = x * 1.44269504088896341f + magic;
    v4f k = shifted - magic;
    v4f r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
    v4f p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    v4i exponent = (__builtin_convertvector(k, v4i) + 127) << 23;
    return p * (v4f)exponent;
}

double row_exp(const float *x, int32_t n, float max, float inv_t, float *w)
{
    double sum[LANES] = {0};
    for (int32_t i = 0; i < n; i += LANES) {
        v4f y = (load4(x + i, n - i, -INFINITY) - max) * inv_t;
        v4i is_live = y >= exp_floor;
        v4f v = select4(is_live, exp4(select4(is_live, y, (v4f){0})), (v4f){0});
        if (__builtin_expect(n - i < LANES, 0))
            memcpy(w + i, &v, (size_t)(n - i) * sizeof *w);
        else
            memcpy(w + i, &v, sizeof v);
        for (int k = 0; k < LANES; k++) sum[k] += (double)v[k];
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* ------------------------------------------------------------------ sorting */

/* Ascending keys are descending values, then ascending ids. */
static uint64_t key_of(float value, int32_t id)
{
    uint32_t u;
    value += 0.0f; /* -0 becomes +0: they tie */
    memcpy(&u, &value, sizeof u);
    u = u & 0x80000000u ? u : ~(u | 0x80000000u);
    return (uint64_t)u << 32 | (uint32_t)id;
}

static int32_t key_id(uint64_t key)
{
    return (int32_t)(uint32_t)key;
}

/* Keys arrive with ascending ids, so that a stable sort by the upper half is a full sort. */
static void sort_keys(uint64_t *keys, uint64_t *spare, int32_t n)
{
    if (n <= SORT_SMALL) {
        for (int32_t i = 1; i < n; i++) {
            uint64_t key = keys[i];
            int32_t j = i;
            for (; j > 0 && keys[j - 1] > key; j--) keys[j] = keys[j - 1];
            keys[j] = key;
        }
        return;
    }
    for (int shift = 32; shift < 64; shift += 8) { /* an even number of passes ends in keys */
        int32_t start[257] = {0};
        for (int32_t i = 0; i < n; i++) start[((keys[i] >> shift) & 255) + 1]++;
        for (int d = 0; d < 256; d++) start[d + 1] += start[d];
        for (int32_t i = 0; i < n; i++) spare[start[(keys[i] >> shift) & 255]++] = keys[i];
        uint64_t *swap = keys;
        keys = spare;
        spare = swap;
    }
}

/* ------------------------------------------------------------------ buckets and cuts */

/* The kept tokens: all of buckets [0, n_full), then the first n_part of t->keys (from bucket
 * n_full). */
struct kept {
    struct sample_scratch *t;
    const float *x;
    float max, scale; /* bucket = (max - x) * scale */
    int32_t n_full, n_part;
    double total; /* mass */
};

static int32_t bucket_of(const struct kept *k, float x)
{
    float b = (k->max - x) * k->scale;
    return b < (float)(PICK_BUCKETS - 1) ? (int32_t)b : PICK_BUCKETS - 1;
}

static void fill_buckets(struct kept *k)
{
    struct sample_scratch *t = k->t;
    memset(t->mass, 0, sizeof t->mass);
    memset(t->members, 0, sizeof t->members);
    for (int32_t i = 0; i < t->n; i++) {
        if (t->w[i] <= 0.0f) continue;
        int32_t b = bucket_of(k, k->x[i]);
        t->mass[b] += (double)t->w[i];
        t->members[b]++;
    }
    k->n_full = PICK_BUCKETS;
    k->n_part = 0;
    k->total = 0.0;
    for (int32_t b = 0; b < PICK_BUCKETS; b++) k->total += t->mass[b];
}

static void gather_bucket(struct kept *k, int32_t bucket)
{
    struct sample_scratch *t = k->t;
    int32_t n = 0;
    for (int32_t i = 0; i < t->n; i++)
        if (t->w[i] > 0.0f && bucket_of(k, k->x[i]) == bucket) t->keys[n++] = key_of(k->x[i], i);
    sort_keys(t->keys, t->spare, n);
    k->n_full = bucket;
    k->n_part = n;
}

/* Keep the shortest prefix, at least one token, whose mass or count reaches its limit; all, if none
 * does. Returns the last token kept. */
static int32_t cut(struct kept *k, double mass_limit, int32_t count_limit)
{
    struct sample_scratch *t = k->t;
    double mass = 0.0;
    int32_t count = 0, end = k->n_full, b = 0;
    if (!k->n_part) /* every token lies in a full bucket: the last such bucket is gathered at the
                       latest */
        while (end > 0 && !t->members[--end]) continue;
    for (; b < end; b++) {
        if (mass + t->mass[b] >= mass_limit || count + t->members[b] >= count_limit) break;
        mass += t->mass[b];
        count += t->members[b];
    }
    if (b < k->n_full) gather_bucket(k, b);
    for (int32_t i = 0; i < k->n_part; i++) {
        mass += (double)t->w[key_id(t->keys[i])];
        if (mass >= mass_limit || ++count >= count_limit) k->n_part = i + 1; /* ends the loop */
    }
    k->total = mass;
    return key_id(t->keys[k->n_part - 1]);
}

/* ------------------------------------------------------------------ the steps */

/* Zero the weights of what earlier cuts dropped, so that t->w alone says what is kept. */
static void drop_uncut(struct kept *k)
{
    struct sample_scratch *t = k->t;
    for (int32_t i = 0; i < k->n_part; i++) t->seen[key_id(t->keys[i])] = 1;
    for (int32_t i = 0; i < t->n; i++)
        if (t->w[i] > 0.0f && !t->seen[i] && bucket_of(k, k->x[i]) >= k->n_full) t->w[i] = 0.0f;
    for (int32_t i = 0; i < k->n_part; i++) t->seen[key_id(t->keys[i])] = 0;
}

/* Keep the tokens whose surprise is closest to the entropy, up to a share of the mass. */
static void keep_typical(struct kept *k, float inv_t, double share)
{
    struct sample_scratch *t = k->t;
    double entropy = 0.0, log_total = log(k->total), mass = 0.0;
    int32_t n = 0, i = 0;
    drop_uncut(k);
    for (int32_t id = 0; id < t->n; id++)
        if (t->w[id] > 0.0f)
            entropy +=
                (double)t->w[id] / k->total * (log_total - (double)((k->x[id] - k->max) * inv_t));
    for (int32_t id = 0; id < t->n; id++) {
        if (t->w[id] <= 0.0f) continue;
        double surprise = log_total - (double)((k->x[id] - k->max) * inv_t);
        t->keys[n++] = key_of(-(float)fabs(surprise - entropy), id);
    }
    sort_keys(t->keys, t->spare, n);
    while (i < n && mass < share * k->total) mass += (double)t->w[key_id(t->keys[i++])];
    for (i = i > 0 ? i : 1; i < n; i++) t->w[key_id(t->keys[i])] = 0.0f;
    fill_buckets(k);
}

int32_t pick_token(struct sample_scratch *t, const float *x, const struct row_range *range,
                   const struct sl_sampling *s, uint32_t position)
{
    float inv_t = 1.0f / s->temperature;
    float width = fminf(range->max - range->min, -exp_floor * s->temperature);
    struct kept k = {.t = t, .x = x, .max = range->max};
    k.scale = width > 0.0f ? (float)PICK_BUCKETS / width : 0.0f;
    row_exp(x, t->n, range->max, inv_t, t->w);
    if (s->min_p > 0.0f)
        for (int32_t i = 0; i < t->n; i++) t->w[i] = t->w[i] >= s->min_p ? t->w[i] : 0.0f;
    fill_buckets(&k);
    if (s->top_k > 0) cut(&k, INFINITY, s->top_k);
    if (s->top_p < 1.0f) cut(&k, (double)s->top_p * k.total, INT32_MAX);
    if (s->typical_p < 1.0f && s->typical_p > 0.0f) keep_typical(&k, inv_t, (double)s->typical_p);
    return cut(&k, philox_uniform(s->seed, position) * k.total, INT32_MAX);
}
