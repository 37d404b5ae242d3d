/* sample.cu - a token from a row of logits, in the order of sl_sampling.h, without sorting the
 * vocabulary.
 *
 * what:     log probabilities of the raw row; masks, bias, penalties; temperature; min_p, top_k,
 *           top_p, typical_p; the draw. top_k, top_p, typical_p and the draw are one question: in
 *           descending order, where does the running count or mass cross a limit? Tokens fall
 *           into 1024 buckets by value; the crossing bucket is gathered and sorted where it is
 *           small, else cut again by the bits of its keys
 * shapes:   logits f32 [rows, n_vocab]; slots hold parameters and histories (kernels.h)
 * launch:   a block of 1024 threads a wanted row
 * assumes:  n_vocab <= 2^24
 * numerics: masses are 64-bit integers in units of 2^-40 of the largest weight, so that sums do
 *           not depend on the order of atomics; log-sum-exp in f64, in a fixed order. Ties fall
 *           to the lowest id
 * source:   the order is the cpu device's (cpu_pick.c); Philox: sampling_philox.h
 * measured: see kernels/README.md
 */
#include "slots.cuh"

#define PHILOX_FN static __host__ __device__ __forceinline__
#include "backend/sampling_philox.h"

enum { THREADS = 1024, WARPS = THREADS / 32, BUCKETS = 1024, SORT_MAX = 2048, DIGIT = 8 };
static_assert((int)BUCKETS == (int)THREADS, "a thread a bucket");

typedef unsigned long long u64;

struct shared {
    u64 mass[BUCKETS];
    uint32_t count[BUCKETS];
    u64 keys[SORT_MAX];
    u64 reduce[WARPS];
    double reduce_d[WARPS];
    u64 found_mass;
    uint32_t found, found_count, n_keys;
};

/* ------------------------------------------------------------------ keys and reductions */

/* Ascending keys are descending values, then ascending ids. */
static __device__ __forceinline__ u64 key_of(float value, int id)
{
    uint32_t u = __float_as_uint(value + 0.0f); /* -0 ties with 0 */
    u = u & 0x80000000u ? u : ~(u | 0x80000000u);
    return (u64)u << 32 | (uint32_t)id;
}

static __device__ __forceinline__ float value_of(u64 key)
{
    uint32_t u = ~(uint32_t)(key >> 32);
    return __uint_as_float(u & 0x80000000u ? u & 0x7fffffffu : ~u);
}

static __device__ u64 block_min(u64 v, struct shared &s)
{
    for (int i = 16; i > 0; i >>= 1) v = min(v, __shfl_xor_sync(~0u, v, i));
    if (threadIdx.x % 32 == 0) s.reduce[threadIdx.x / 32] = v;
    __syncthreads();
    v = s.reduce[threadIdx.x % 32];
    for (int i = 16; i > 0; i >>= 1) v = min(v, __shfl_xor_sync(~0u, v, i));
    __syncthreads();
    return v;
}

static __device__ u64 block_total(u64 v, struct shared &s)
{
    for (int i = 16; i > 0; i >>= 1) v += __shfl_xor_sync(~0u, v, i);
    if (threadIdx.x % 32 == 0) s.reduce[threadIdx.x / 32] = v;
    __syncthreads();
    v = s.reduce[threadIdx.x % 32];
    for (int i = 16; i > 0; i >>= 1) v += __shfl_xor_sync(~0u, v, i);
    __syncthreads();
    return v;
}

static __device__ double block_total(double v, struct shared &s)
{
    for (int i = 16; i > 0; i >>= 1) v += __shfl_xor_sync(~0u, v, i);
    if (threadIdx.x % 32 == 0) s.reduce_d[threadIdx.x / 32] = v;
    __syncthreads();
    v = s.reduce_d[threadIdx.x % 32];
    for (int i = 16; i > 0; i >>= 1) v += __shfl_xor_sync(~0u, v, i);
    __syncthreads();
    return v;
}

/* Sum over threads 0..this one. */
static __device__ u64 block_scan(u64 v, struct shared &s)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int i = 1; i < 32; i <<= 1) {
        u64 below = __shfl_up_sync(~0u, v, i);
        if (lane >= i) v += below;
    }
    if (lane == 31) s.reduce[warp] = v;
    __syncthreads();
    u64 before = 0;
    for (int i = 0; i < warp; i++) before += s.reduce[i];
    __syncthreads();
    return v + before;
}

/* ------------------------------------------------------------------ what is kept */

struct kept {
    const float *x;
    int n;
    float max, inv_t, min_weight;
    u64 bound;         /* kept: keys up to this */
    u64 typical_bound; /* and typical keys up to this; all ones: no such cut */
    float log_total, entropy;
};

static __device__ __forceinline__ float weight(const struct kept &k, float x)
{
    float y = (x - k.max) * k.inv_t;
    return y >= -87.0f ? expf(y) : 0.0f;
}
static __device__ __forceinline__ u64 mass_of(float w)
{
    return (u64)(w * 1099511627776.0f);
}
/* How far a token's surprise is from the entropy, negated: larger is more typical. */
static __device__ __forceinline__ float typical_value(const struct kept &k, float x)
{
    return -fabsf(k.log_total - (x - k.max) * k.inv_t - k.entropy);
}
/* The weight if kept, else 0. */
static __device__ __forceinline__ float kept_weight(const struct kept &k, int id, float x)
{
    float w = weight(k, x);
    if (w <= 0.0f || w < k.min_weight || key_of(x, id) > k.bound) return 0.0f;
    if (k.typical_bound != ~0ull && key_of(typical_value(k, x), id) > k.typical_bound) return 0.0f;
    return w;
}

static __device__ u64 kept_mass(const struct kept &k, struct shared &s)
{
    u64 sum = 0;
    for (int i = threadIdx.x; i < k.n; i += THREADS) sum += mass_of(kept_weight(k, i, k.x[i]));
    return block_total(sum, s);
}

/* Which tokens a histogram is over: all kept, then those of one bucket, then those whose key starts
 * with some bits. */
struct view {
    bool is_typical;
    float top, scale; /* bucket = (top - value) * scale */
    int bucket;       /* -1: not chosen yet */
    int bits;         /* of the key that are settled */
    u64 prefix;
};

static __device__ __forceinline__ int linear_bucket(const struct view &v, float value)
{
    float b = (v.top - value) * v.scale;
    return b < (float)(BUCKETS - 1) ? (int)b : BUCKETS - 1;
}

/* The token's weight and key if it is in view, else 0. */
static __device__ __forceinline__ float in_view(const struct kept &k, const struct view &v, int id,
                                                float *value, u64 *key)
{
    float x = k.x[id], w = kept_weight(k, id, x);
    if (w <= 0.0f) return 0.0f;
    *value = v.is_typical ? typical_value(k, x) : x;
    *key = key_of(*value, id);
    if (v.bucket >= 0 && linear_bucket(v, *value) != v.bucket) return 0.0f;
    if (v.bits && *key >> (64 - v.bits) != v.prefix) return 0.0f;
    return w;
}

/* Fill the histogram and find the first bucket at which mass or count reaches its limit. */
static __device__ void find_bucket(const struct kept &k, const struct view &v, u64 mass,
                                   uint32_t count, u64 mass_limit, uint32_t count_limit,
                                   struct shared &s)
{
    s.mass[threadIdx.x] = 0;
    s.count[threadIdx.x] = 0;
    if (threadIdx.x == 0) s.found = BUCKETS;
    __syncthreads();
    for (int i = threadIdx.x; i < k.n; i += THREADS) {
        float value;
        u64 key;
        float w = in_view(k, v, i, &value, &key);
        if (w <= 0.0f) continue;
        int b = v.bucket < 0 ? linear_bucket(v, value)
                             : (int)(key >> (64 - v.bits - DIGIT) & ((1 << DIGIT) - 1));
        atomicAdd(&s.mass[b], mass_of(w));
        atomicAdd(&s.count[b], 1u);
    }
    __syncthreads();
    u64 own_mass = s.mass[threadIdx.x], own_count = s.count[threadIdx.x];
    u64 end_mass = mass + block_scan(own_mass, s), end_count = count + block_scan(own_count, s);
    bool is_reached = own_count > 0 && (end_mass >= mass_limit || end_count >= count_limit);
    if (is_reached) atomicMin(&s.found, threadIdx.x);
    __syncthreads();
    if (s.found == threadIdx.x) {
        s.found_mass = end_mass - own_mass;
        s.found_count = (uint32_t)(end_count - own_count);
    }
    __syncthreads();
}

static __device__ void sort_keys(struct shared &s, int n)
{
    int size = 32;
    while (size < n) size *= 2;
    for (int i = threadIdx.x; i < size; i += THREADS)
        if (i >= n) s.keys[i] = ~0ull;
    __syncthreads();
    for (int len = 2; len <= size; len *= 2)
        for (int step = len / 2; step > 0; step /= 2) {
            for (int i = threadIdx.x; i < size / 2; i += THREADS) {
                int a = 2 * i - (i & (step - 1)), b = a + step;
                u64 x = s.keys[a], y = s.keys[b];
                if ((x > y) == ((a & len) == 0)) {
                    s.keys[a] = y;
                    s.keys[b] = x;
                }
            }
            __syncthreads();
        }
}

/* Key of the first token at which the running mass or count reaches its limit; all ones where none
 * does. */
static __device__ u64 cut(const struct kept &k, struct view v, u64 mass_limit, uint32_t count_limit,
                          struct shared &s)
{
    u64 mass = 0;
    uint32_t count = 0;
    v.bucket = -1;
    v.bits = 0;
    v.prefix = 0;
    for (;;) {
        find_bucket(k, v, mass, count, mass_limit, count_limit, s);
        if (s.found == BUCKETS) return ~0ull; /* only on the first pass: nothing is reached */
        uint32_t found = s.found, members = s.count[found];
        mass = s.found_mass;
        count = s.found_count;
        if (v.bucket < 0) {
            v.bucket = (int)found;
        } else {
            v.prefix = v.prefix << DIGIT | found;
            v.bits += DIGIT;
        }
        __syncthreads();
        if (members <= SORT_MAX || v.bits == 64) break;
    }
    if (threadIdx.x == 0) s.n_keys = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < k.n; i += THREADS) {
        float value;
        u64 key;
        if (in_view(k, v, i, &value, &key) > 0.0f) s.keys[atomicAdd(&s.n_keys, 1u)] = key;
    }
    __syncthreads();
    int n = (int)s.n_keys;
    sort_keys(s, n);
    u64 own[2];
    for (int j = 0; j < 2; j++) { /* thread i holds keys 2i and 2i + 1 */
        int at = 2 * threadIdx.x + j;
        own[j] = at < n ? mass_of(weight(k, k.x[(uint32_t)s.keys[at]])) : 0;
    }
    u64 end = mass + block_scan(own[0] + own[1], s);
    u64 ends[2] = {end - own[1], end}, best = ~0ull;
    for (int j = 1; j >= 0; j--) {
        int at = 2 * threadIdx.x + j;
        if (at < n && (ends[j] >= mass_limit || count + (uint32_t)at + 1 >= count_limit))
            best = s.keys[at];
    }
    return block_min(best, s);
}

/* ------------------------------------------------------------------ passes over a row */

struct range {
    u64 best; /* key of the argmax */
    float max, min;
    bool is_finite;
};

static __device__ struct range scan_row(const float *x, int n, struct shared &s)
{
    float most = -INFINITY, least = INFINITY;
    int at = 0;
    bool bad = false;
#pragma unroll 8
    for (int i = threadIdx.x; i < n; i += THREADS) {
        float v = x[i];
        bad |= !(fabsf(v) <= 3.402823466e38f);
        if (v > most) most = v, at = i; /* ids ascend: the first of equals stays */
        if (v > -INFINITY) least = fminf(least, v);
    }
    u64 best = most > -INFINITY ? key_of(most, at) : ~0ull, low = key_of(-least, 0);
    struct range r;
    r.best = block_min(best, s);
    r.max = r.best == ~0ull ? -INFINITY : x[(uint32_t)r.best];
    r.min = -value_of(block_min(low, s));
    if (!(r.min < r.max)) r.min = r.max;
    r.is_finite = block_total((u64)bad, s) == 0;
    return r;
}

/* The n best of the raw row into the results of row i. */
static __device__ void report_top(const float *x, int n_vocab, int n, const struct range &r,
                                  double log_sum, const struct kresult &out, int i,
                                  struct shared &s)
{
    if (n > n_vocab) n = n_vocab;
    if (n > 0) {
        struct kept all = {x,     n_vocab, r.max, 0.0f, 0.0f,
                           ~0ull, ~0ull,   0.0f,  0.0f}; /* inv_t 0: every weight is one */
        struct view v = {false, r.max, r.max > r.min ? (float)BUCKETS / (r.max - r.min) : 0.0f,
                         -1,    0,     0};
        u64 bound = cut(all, v, ~0ull, (uint32_t)n, s);
        if (threadIdx.x == 0) s.n_keys = 0;
        __syncthreads();
        for (int j = threadIdx.x; j < n_vocab; j += THREADS)
            if (key_of(x[j], j) <= bound) s.keys[atomicAdd(&s.n_keys, 1u)] = key_of(x[j], j);
        __syncthreads();
        sort_keys(s, n);
        if ((int)threadIdx.x < n) {
            int id = (int)(uint32_t)s.keys[threadIdx.x];
            out.top_id[i * SL_TOP_MAX + threadIdx.x] = id;
            out.top_logprob[i * SL_TOP_MAX + threadIdx.x] =
                (float)((double)x[id] - (double)r.max - log_sum);
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) out.n_top[i] = n > 0 ? n : 0;
}

static __device__ int rank_of(const float *x, int n, int token, struct shared &s)
{
    u64 own = key_of(x[token], token), above = 0;
    for (int i = threadIdx.x; i < n; i += THREADS) above += key_of(x[i], i) < own;
    return (int)block_total(above, s) + 1;
}

/* ------------------------------------------------------------------ masks and penalties */

static __device__ bool is_plain(const struct kslot &p, uint32_t position)
{
    return !p.has_penalty && !p.n_allowed && !p.n_bad && !p.n_bias && position >= p.min_tokens;
}

static __device__ void mask_bad_words(const struct kslot &p, float *x, int n)
{
    for (int i = threadIdx.x; i < p.n_bad; i += THREADS) {
        int at = 0;
        for (int j = 0; j < i; j++) at += p.bad_len[j];
        int len = p.bad_len[i];
        if (len == 0 || len - 1 > p.n_tokens) continue;
        const int32_t *word = p.bad + at, *tail = p.history + p.n_tokens - (len - 1);
        bool is_there = word[len - 1] >= 0 && word[len - 1] < n;
        for (int j = 0; j < len - 1 && is_there; j++) is_there = tail[j] == word[j];
        if (is_there) x[word[len - 1]] = -INFINITY;
    }
}

/* Entries of one token apply in their order: by the thread of the first of them. */
static __device__ void add_bias(const struct kslot &p, float *x, int n)
{
    for (int i = threadIdx.x; i < p.n_bias; i += THREADS) {
        int token = p.bias[i].token;
        bool is_first = token >= 0 && token < n;
        for (int j = 0; j < i && is_first; j++) is_first = p.bias[j].token != token;
        if (!is_first) continue;
        float v = x[token];
        for (int j = i; j < p.n_bias; j++)
            if (p.bias[j].token == token)
                v = p.bias[j].value <= -100.0f ? -INFINITY : v + p.bias[j].value;
        x[token] = v;
    }
}

static __device__ void penalise(const struct kslot &p, float *x, int n)
{
    for (int i = threadIdx.x; i < n; i += THREADS) {
        uint32_t count = p.count[i], n_out = count & 0x7fffffffu;
        if (!count) continue;
        float v = x[i];
        v = v > 0.0f ? v / p.repetition_penalty : v * p.repetition_penalty;
        if (n_out) v -= p.frequency_penalty * (float)n_out + p.presence_penalty;
        x[i] = v;
    }
}

/* mask: this row's own bitmap of allowed tokens (a grammar's), or NULL. */
static __device__ void adjust(const struct kslot &p, const uint32_t *mask, const float *raw,
                              float *x, int n, uint32_t position)
{
    for (int i = threadIdx.x; i < n; i += THREADS) {
        bool is_out = (p.n_allowed && !(p.allowed[i / 32] >> (i % 32) & 1)) ||
                      (mask && !(mask[i / 32] >> (i % 32) & 1));
        x[i] = is_out ? -INFINITY : raw[i];
    }
    __syncthreads();
    mask_bad_words(p, x, n);
    if (position < p.min_tokens)
        for (int i = threadIdx.x; i < p.n_stop; i += THREADS)
            if (p.stop[i] >= 0 && p.stop[i] < n) x[p.stop[i]] = -INFINITY;
    __syncthreads();
    add_bias(p, x, n);
    __syncthreads();
    if (p.has_penalty) penalise(p, x, n);
    __syncthreads();
}

/* ------------------------------------------------------------------ the choice */

static __device__ void keep_typical(struct kept &k, float share, struct shared &s)
{
    double total = (double)kept_mass(k, s) / 1099511627776.0, entropy = 0.0;
    float log_total = (float)log(total);
    u64 far = ~0ull;
    for (int i = threadIdx.x; i < k.n; i += THREADS) {
        float w = kept_weight(k, i, k.x[i]);
        if (w > 0.0f)
            entropy += (double)w / total * (double)(log_total - (k.x[i] - k.max) * k.inv_t);
    }
    k.entropy = (float)block_total(entropy, s);
    k.log_total = log_total;
    for (int i = threadIdx.x; i < k.n;
         i += THREADS) /* the farthest: the smallest key of the distance */
        if (kept_weight(k, i, k.x[i]) > 0.0f) far = min(far, key_of(-typical_value(k, k.x[i]), i));
    far = block_min(far, s);
    float width = -typical_value(k, k.x[(uint32_t)far]);
    struct view v = {true, 0.0f, width > 0.0f ? (float)BUCKETS / width : 0.0f, -1, 0, 0};
    u64 limit = (u64)((double)share * (double)kept_mass(k, s));
    k.typical_bound = cut(k, v, limit ? limit : 1, ~0u, s);
}

static __device__ int pick(const struct kslot &p, const float *x, int n, const struct range &r,
                           uint32_t position, struct shared &s)
{
    struct kept k = {x, n, r.max, 1.0f / p.temperature, p.min_p, ~0ull, ~0ull, 0.0f, 0.0f};
    float width = fminf(r.max - r.min, 87.0f * p.temperature);
    struct view v = {false, r.max, width > 0.0f ? (float)BUCKETS / width : 0.0f, -1, 0, 0};
    if (p.top_k > 0 && p.top_k < n) k.bound = cut(k, v, ~0ull, (uint32_t)p.top_k, s);
    if (p.top_p < 1.0f) {
        u64 limit = (u64)((double)p.top_p * (double)kept_mass(k, s)),
            bound = cut(k, v, limit ? limit : 1, ~0u, s);
        k.bound = min(k.bound, bound);
    }
    if (p.typical_p < 1.0f && p.typical_p > 0.0f) keep_typical(k, p.typical_p, s);
    u64 total = kept_mass(k, s), at = (u64)(philox_uniform(p.seed, position) * (double)total);
    u64 drawn = cut(k, v, at < total ? at + 1 : total, ~0u, s);
    return (int)(uint32_t)drawn;
}

static __global__ void __launch_bounds__(THREADS) sample_kernel(struct ksample a)
{
    __shared__ struct shared s;
    pdl_next();
    pdl_wait();
    int i = blockIdx.x, n = a.n_vocab;
    if (a.first + i >= a.b->n_wants) return;
    struct want w = a.b->want[a.first + i];
    struct kslot &p = a.slots[a.b->slot[w.seq]];
    const struct kresult &out = a.answers.token ? a.answers : a.b->result;
    const float *raw = a.logits + (int64_t)i * n;
    struct range r = scan_row(raw, n, s);
    int token = w.target;
    double log_sum = 0.0;
    if (threadIdx.x == 0)
        out.logprob[i] = 0.0f, out.rank[i] = 0, out.n_top[i] = 0, out.token[i] = -1;
    __syncthreads();
    if (!r.is_finite || token >= n) return;
    if (token < 0) {
        const float *x = raw;
        struct range now = r;
        const uint32_t *mask = w.mask ? a.b->masks + (int64_t)(w.mask - 1) * a.b->mask_words : NULL;
        if (mask || !is_plain(p, w.position)) {
            float *mine = a.work + (int64_t)i * n;
            adjust(p, mask, raw, mine, n, w.position);
            x = mine;
            now = scan_row(x, n, s);
        }
        if (!isfinite(now.max)) return; /* nothing is allowed, or a penalty overflowed */
        token = p.temperature < 1e-5f ? (int)(uint32_t)now.best : pick(p, x, n, now, w.position, s);
        __syncthreads();
        if (threadIdx.x == 0) slot_append(p, token, a.max_len);
    }
    if (w.n_top >= 0) {
        double sum = 0.0;
        for (int j = threadIdx.x; j < n; j += THREADS) sum += (double)expf(raw[j] - r.max);
        log_sum = log(block_total(sum, s));
        report_top(raw, n, min(w.n_top, (int)SL_TOP_MAX), r, log_sum, out, i, s);
        int rank = rank_of(raw, n, token, s);
        if (threadIdx.x == 0) {
            out.logprob[i] = (float)((double)raw[token] - (double)r.max - log_sum);
            out.rank[i] = rank;
        }
    }
    if (threadIdx.x == 0) out.token[i] = token;
}

extern "C" int k_sample(cudaStream_t stream, const struct ksample *a, int32_t n_rows)
{
    return launch(sample_kernel, dim3(n_rows), THREADS, 0, stream, *a);
}

static __global__ void __launch_bounds__(THREADS)
    slot_kernel(struct kslot *slots, int slot, int n_vocab)
{
    pdl_wait();
    struct kslot &p = slots[slot];
    if (!p.has_penalty) return;
    for (int i = threadIdx.x; i < n_vocab; i += THREADS) p.count[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < p.n_tokens; i += THREADS) {
        int id = p.history[i];
        if (id < 0 || id >= n_vocab) continue;
        if (i < p.n_prompt)
            atomicOr(&p.count[id], 0x80000000u);
        else
            atomicAdd(&p.count[id], 1u);
    }
}

extern "C" int k_slot_begin(cudaStream_t stream, struct kslot *slots, int32_t slot, int32_t n_vocab)
{
    return launch(slot_kernel, dim3(1), THREADS, 0, stream, slots, slot, n_vocab);
}
