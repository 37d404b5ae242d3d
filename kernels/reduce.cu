/* reduce.cu - sums over ranks, alone or with the residual sum and the norm that follow.
 *
 * what:     s[t] = sum over ranks of x[t]; x[t] = s[t], or sum[t] += s[t], dst[t] = norm(sum[t]) * w
 * shapes:   x [rows, cols], bf16 or f32; sum f32, dst bf16, w f32 [cols]
 * launch:   a block of 512 threads for rows b, b + blocks, ...; a thread has 8 columns in 4096
 * assumes:  cols a multiple of 8; all ranks launch the same with the same rows; peers.cuh
 * numerics: f32 sums in the order of ranks, rounded once to x's type, so that with the norm or without,
 *           one-shot or two-shot the bits are the same; the norm is that of rows.cu, bit for bit
 * source:   one-shot and two-shot: vLLM's and TensorRT-LLM's custom all-reduce; words with tags: NCCL's LL
 * measured: two H100, 2026-11-27: 8 KiB 3.4 us, 64 KiB 3.7, 1 MiB 9.6 in one shot; see kernels/README.md
 *
 * A full meeting: one-shot, every rank gets its rows from every other. Two-shot, the owner of a row gets it
 * from every other, and every other gets from the owner what it made of them.
 */
#include "peers.cuh"

#include "rows.cuh"

enum { STRETCH = NORM_THREADS * 8 * HELD };

/* 8 columns of a row as words: 4 of bf16, 8 of f32. */
template <typename T> struct eight {
    enum { PAIRS = sizeof(T), WORDS = 2 * PAIRS };
    uint32_t v[WORDS];
};

static __device__ __forceinline__ void load_group(const uint16_t *p, eight<uint16_t> &g)
{
    uint4 a = *(const uint4 *)p;
    g.v[0] = a.x, g.v[1] = a.y, g.v[2] = a.z, g.v[3] = a.w;
}
static __device__ __forceinline__ void load_group(const float *p, eight<float> &g)
{
    uint4 a = ((const uint4 *)p)[0], b = ((const uint4 *)p)[1];
    g.v[0] = a.x, g.v[1] = a.y, g.v[2] = a.z, g.v[3] = a.w;
    g.v[4] = b.x, g.v[5] = b.y, g.v[6] = b.z, g.v[7] = b.w;
}
static __device__ __forceinline__ void store_group(uint16_t *p, const eight<uint16_t> &g)
{
    *(uint4 *)p = make_uint4(g.v[0], g.v[1], g.v[2], g.v[3]);
}
static __device__ __forceinline__ void store_group(float *p, const eight<float> &g)
{
    ((uint4 *)p)[0] = make_uint4(g.v[0], g.v[1], g.v[2], g.v[3]);
    ((uint4 *)p)[1] = make_uint4(g.v[4], g.v[5], g.v[6], g.v[7]);
}
static __device__ __forceinline__ void to_floats(const eight<uint16_t> &g, float x[8])
{
    unpack8(make_uint4(g.v[0], g.v[1], g.v[2], g.v[3]), x);
}
static __device__ __forceinline__ void to_floats(const eight<float> &g, float x[8])
{
    for (int k = 0; k < 8; k++) x[k] = __uint_as_float(g.v[k]);
}
static __device__ __forceinline__ void from_floats(const float x[8], eight<uint16_t> &g)
{
    for (int k = 0; k < 4; k++) g.v[k] = pack_bf16(x[2 * k], x[2 * k + 1]);
}
static __device__ __forceinline__ void from_floats(const float x[8], eight<float> &g)
{
    for (int k = 0; k < 8; k++) g.v[k] = __float_as_uint(x[k]);
}

/* In an inbox a row is its groups' first pairs, then their second, and so on: neighbours write and read
 * side by side. */
template <typename T> static __host__ __device__ __forceinline__ int64_t inbox_row(int64_t cols)
{
    return cols / 8 * eight<T>::PAIRS * PAIR;
}
template <typename T>
static __device__ __forceinline__ void send_group(char *row, int cols, int i, const eight<T> &g,
                                                  uint32_t tag)
{
#pragma unroll
    for (int k = 0; k < eight<T>::PAIRS; k++)
        send_pair(row + ((int64_t)k * (cols / 8) + i / 8) * PAIR, g.v[2 * k], g.v[2 * k + 1], tag);
}
template <typename T>
static __device__ __forceinline__ void receive_group(const struct kpeers &p, const char *row,
                                                     int cols, int i, eight<T> &g, uint32_t tag)
{
    receive_pairs<eight<T>::PAIRS>(p, row + i / 8 * PAIR, (int64_t)(cols / 8) * PAIR, tag, g.v);
}

/* ------------------------------------------------------------------ where rows lie in a half */

static __device__ __forceinline__ int owner_of(const struct kreduce &a, int t)
{
    return (a.row0 + t) % a.peers.n;
}
/* Row t as `sender` gives it to who adds it up. Of rows t that share an owner, t / n are all different. */
template <typename T>
static __device__ __forceinline__ int64_t part_at(const struct kreduce &a, int sender, int t)
{
    int n = a.peers.n, each = a.is_two_shot ? (a.rows + n - 1) / n : a.rows;
    return ((int64_t)sender * each + (a.is_two_shot ? t / n : t)) * inbox_row<T>(a.cols);
}
/* Row t as its owner gives it back, behind all parts. O: its type. */
template <typename T, typename O>
static __device__ __forceinline__ int64_t outcome_at(const struct kreduce &a, int t)
{
    int n = a.peers.n;
    return (int64_t)n * ((a.rows + n - 1) / n) * inbox_row<T>(a.cols) + t * inbox_row<O>(a.cols);
}

/* ------------------------------------------------------------------ the three parts of a meeting */

/* 8 columns of row t to who adds them up. */
template <typename T>
static __device__ __forceinline__ void send_part(const struct kreduce &a, int t, int i,
                                                 const eight<T> &g, uint32_t tag)
{
    const struct kpeers &p = a.peers;
    int64_t at = part_at<T>(a, p.rank, t);
    for (int r = 0; r < p.n; r++)
        if (r != p.rank && (!a.is_two_shot || r == owner_of(a, t)))
            send_group(inbox_of(p, r, tag) + at, a.cols, i, g, tag);
}

template <typename T>
static __device__ __forceinline__ void send_row(const struct kreduce &a, int t, uint32_t tag)
{
    const T *x = (const T *)a.x + (int64_t)t * a.cols;
    for (int i = threadIdx.x * 8; i < a.cols; i += NORM_THREADS * 8) {
        eight<T> g;
        load_group(x + i, g);
        send_part(a, t, i, g, tag);
    }
}

/* s = the sum over ranks of 8 columns, rounded; own: this rank's. */
template <typename T>
static __device__ __forceinline__ void add_ranks(const struct kreduce &a, int t, int i,
                                                 uint32_t tag, const eight<T> &own, float s[8])
{
    const struct kpeers &p = a.peers;
    const char *inbox = inbox_of(p, p.rank, tag);
    eight<T> g;
    for (int r = 0; r < p.n; r++) {
        float more[8];
        if (r == p.rank)
            g = own;
        else
            receive_group(p, inbox + part_at<T>(a, r, t), a.cols, i, g, tag);
        to_floats(g, more);
        for (int k = 0; k < 8; k++) s[k] = r == 0 ? more[k] : s[k] + more[k];
    }
    from_floats(s, g);
    to_floats(g, s);
}

/* Two-shot: 8 columns of what became of row t to the other ranks. */
template <typename T, typename O>
static __device__ __forceinline__ void send_outcome(const struct kreduce &a, int t, int i,
                                                    const float x[8], uint32_t tag)
{
    const struct kpeers &p = a.peers;
    eight<O> g;
    from_floats(x, g);
    for (int r = 0; r < p.n && a.is_two_shot; r++)
        if (r != p.rank)
            send_group(inbox_of(p, r, tag) + outcome_at<T, O>(a, t), a.cols, i, g, tag);
}

template <typename T>
static __device__ __forceinline__ void add_row(const struct kreduce &a, int t, uint32_t tag)
{
    T *x = (T *)a.x + (int64_t)t * a.cols;
    for (int i = threadIdx.x * 8; i < a.cols; i += NORM_THREADS * 8) {
        float s[8];
        eight<T> own;
        load_group(x + i, own);
        add_ranks(a, t, i, tag, own, s);
        store8(x + i, s);
        send_outcome<T, T>(a, t, i, s, tag);
    }
}

/* norm_kernel<float, true> of rows.cu, with what is added coming from all ranks. w: the weights of the
 * first stretch. sends: the row has not been sent yet; it goes out while the residual stream comes
 * in. */
static __device__ __forceinline__ void norm_row(const struct kreduce &a, int t, uint32_t tag,
                                                bool sends, float w[HELD][8], float *at)
{
    const uint16_t *from = (const uint16_t *)a.x + (int64_t)t * a.cols;
    eight<uint16_t> own[HELD];
    float *x = a.sum + (int64_t)t * a.cols, held[HELD][8], squares = 0.0f;
    uint16_t *y = a.dst + (int64_t)t * a.cols;
    bool is_held = a.cols <= STRETCH;
    for (int base = 0; base < a.cols; base += STRETCH) {
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            int i = base + (j * NORM_THREADS + threadIdx.x) * 8;
            if (i >= a.cols) continue;
            load_group(from + i, own[j]);
            load8(x + i, held[j]);
        }
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            int i = base + (j * NORM_THREADS + threadIdx.x) * 8;
            if (sends && i < a.cols) send_part(a, t, i, own[j], tag);
        }
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            int i = base + (j * NORM_THREADS + threadIdx.x) * 8;
            if (i >= a.cols) continue;
            float more[8];
            add_ranks(a, t, i, tag, own[j], more);
            for (int k = 0; k < 8; k++) held[j][k] += more[k];
            store8(x + i, held[j]);
            for (int k = 0; k < 8; k++) squares = fmaf(held[j][k], held[j][k], squares);
        }
    }
    float scale = rsqrtf(block_sum(squares, at) / (float)a.cols + a.eps);
    for (int base = 0; base < a.cols; base += STRETCH) {
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            int i = base + (j * NORM_THREADS + threadIdx.x) * 8;
            if (i >= a.cols) break;
            if (!is_held) {
                load8(x + i, held[j]);
                load8(a.w + i, w[j]);
            }
            for (int k = 0; k < 8; k++) held[j][k] = held[j][k] * scale * w[j][k];
            store8(y + i, held[j]);
            send_outcome<uint16_t, uint16_t>(a, t, i, held[j], tag);
        }
    }
}

template <typename T>
static __device__ __forceinline__ void receive_row(const struct kreduce &a, T *to, int t,
                                                   uint32_t tag)
{
    const char *row = inbox_of(a.peers, a.peers.rank, tag) + outcome_at<T, T>(a, t);
    for (int i = threadIdx.x * 8; i < a.cols; i += NORM_THREADS * 8) {
        eight<T> g;
        receive_group(a.peers, row, a.cols, i, g, tag);
        store_group(to + (int64_t)t * a.cols + i, g);
    }
}

/* First all is sent that others wait for, then comes what waits for others. A block with one row to
 * add sends it as it begins. */
template <typename T, bool NORM>
static __global__ void __launch_bounds__(NORM_THREADS) reduce_kernel(const struct kreduce a)
{
    __shared__ float at[32];
    float w[HELD][8];
    int step = gridDim.x;
    pdl_next();
    uint32_t tag = meeting_tag(a.peers);
#pragma unroll
    for (int j = 0; j < HELD; j++) { /* nobody writes these */
        int i = (j * NORM_THREADS + threadIdx.x) * 8;
        if (NORM && a.cols <= STRETCH && i < a.cols) load8(a.w + i, w[j]);
    }
    pdl_wait();
    bool sends_late = NORM && !a.is_two_shot && a.rows <= step;
    for (int t = blockIdx.x; t < a.rows && !sends_late; t += step)
        if (!a.is_two_shot || owner_of(a, t) != a.peers.rank) send_row<T>(a, t, tag);
    for (int t = blockIdx.x; t < a.rows; t += step) {
        if (a.is_two_shot && owner_of(a, t) != a.peers.rank) continue;
        if (NORM)
            norm_row(a, t, tag, sends_late, w, at);
        else
            add_row<T>(a, t, tag);
    }
    for (int t = blockIdx.x; t < a.rows && a.is_two_shot; t += step)
        if (owner_of(a, t) != a.peers.rank) receive_row<T>(a, NORM ? (T *)a.dst : (T *)a.x, t, tag);
}

extern "C" int64_t k_reduce_bytes(int64_t rows, int64_t cols, int x_is_f32, int is_two_shot,
                                  int n_ranks)
{
    int64_t row = x_is_f32 ? inbox_row<float>(cols) : inbox_row<uint16_t>(cols);
    if (!is_two_shot) return n_ranks * rows * row;
    return n_ranks * ((rows + n_ranks - 1) / n_ranks) * row + rows * row;
}

extern "C" int k_reduce(cudaStream_t stream, const struct kreduce *a)
{
    int n = a->rows < a->peers.max_blocks ? a->rows : a->peers.max_blocks;
    if (a->is_two_shot && n < a->rows && n > 1 && n % a->peers.n == 0)
        n--; /* or a block would have rows of one owner only, and half of them little to do */
    if (a->cols % 8 || (a->w && a->x_is_f32) ||
        k_reduce_bytes(a->rows, a->cols, a->x_is_f32, a->is_two_shot, a->peers.n) >
            a->peers.half_bytes)
        return (int)cudaErrorInvalidValue;
    dim3 grid((unsigned)n);
    if (a->w) return launch(reduce_kernel<uint16_t, true>, grid, NORM_THREADS, 0, stream, *a);
    if (a->x_is_f32) return launch(reduce_kernel<float, false>, grid, NORM_THREADS, 0, stream, *a);
    return launch(reduce_kernel<uint16_t, false>, grid, NORM_THREADS, 0, stream, *a);
}
