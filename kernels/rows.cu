/* rows.cu - operations on rows: embedding, RMS norm with the residual sum, gated activation,
 * gather, bias, pooling.
 *
 * what:     embed x[t] = w[token[t]]; norm y = x / sqrt(mean(x^2) + eps) * w; add_norm sum += a,
 *           y = norm(sum); glu y = act(x[:n]) * x[n:]; gather y[i] = x[want[i].row]; bias y += b;
 *           pool sum[slot] += x[t], in the end y = sum / rows
 * shapes:   rows of `cols` elements, dense; the residual stream f32, all else bf16
 * launch:   a block of 512 threads a row (embed, gather: 256; glu, bias: 256 over 8 elements each)
 * assumes:  cols a multiple of 8, 16-byte aligned rows
 * numerics: f32; sums in a fixed order over threads, independent of the number of rows
 * source:   Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019
 * measured: see kernels/README.md
 */
#include "rows.cuh"

enum { THREADS = 256 };

static __global__ void __launch_bounds__(THREADS) embed_kernel(const struct kembed a)
{
    pdl_next();
    pdl_wait();
    int t = blockIdx.x;
    if (t >= a.b->n_tokens) return;
    int64_t id = a.b->token[t];
    if (id < 0) id = a.slots[a.b->slot[a.b->seq_of[t]]].last;
    id -= a.row0;
    bool is_here = id >= 0 && id < a.n_ids;
    if (!is_here && !a.is_share)
        id = 0, is_here = true; /* the sequence has failed already: its ids
                                                             are not read */
    const uint16_t *from = a.w + id * a.cols;
    float *to = a.x + (int64_t)t * a.cols;
    for (int i = threadIdx.x * 8; i < a.cols; i += THREADS * 8) {
        uint4 v = is_here ? *(const uint4 *)(from + i) : make_uint4(0, 0, 0, 0);
        float x[8];
        unpack8(v, x);
        store8(to + i, x);
    }
}

/* What a thread needs of a row, all asked for before any of it is used: behind a product that
 * streams, each round trip to L2 takes more than a microsecond. */
template <typename S, bool ADD> struct piece {
    float x[HELD][8], w[HELD][8];
    uint4 add[HELD];
};

template <typename S, bool ADD>
static __device__ __forceinline__ float square_sum(struct piece<S, ADD> &p, S *x, int base,
                                                   int cols, const uint16_t *add)
{
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < HELD; j++) {
        int i = base + (j * NORM_THREADS + threadIdx.x) * 8;
        if (i < cols) load8(x + i, p.x[j]);
        if (ADD && i < cols) p.add[j] = *(const uint4 *)(add + i);
    }
#pragma unroll
    for (int j = 0; j < HELD; j++) {
        int i = base + (j * NORM_THREADS + threadIdx.x) * 8;
        if (i >= cols) continue;
        if (ADD) {
            float more[8];
            unpack8(p.add[j], more);
            for (int k = 0; k < 8; k++) p.x[j][k] += more[k];
            store8(x + i, p.x[j]);
        }
        for (int k = 0; k < 8; k++) sum = fmaf(p.x[j][k], p.x[j][k], sum);
    }
    return sum;
}

template <typename S, bool ADD>
static __global__ void __launch_bounds__(NORM_THREADS)
    norm_kernel(uint16_t *dst, S *src, const uint16_t *add, const float *w, int cols, float eps)
{
    enum { STRETCH = NORM_THREADS * 8 * HELD };
    __shared__ float at[32];
    struct piece<S, ADD> p;
    bool is_held = cols <= STRETCH;
    pdl_next();
#pragma unroll
    for (int j = 0; j < HELD;
         j++) { /* nobody writes these: they come while the kernel before drains */
        int i = (j * NORM_THREADS + threadIdx.x) * 8;
        if (w && is_held && i < cols) load8(w + i, p.w[j]);
    }
    pdl_wait();
    S *x = src + (int64_t)blockIdx.x * cols;
    const uint16_t *a = ADD ? add + (int64_t)blockIdx.x * cols : nullptr;
    float sum = 0.0f;
    for (int base = 0; base < cols; base += STRETCH) sum += square_sum(p, x, base, cols, a);
    if (ADD && !w) return;
    float scale = rsqrtf(block_sum(sum, at) / (float)cols + eps);
    uint16_t *y = dst + (int64_t)blockIdx.x * cols;
    for (int base = 0; base < cols; base += STRETCH) {
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            int i = base + (j * NORM_THREADS + threadIdx.x) * 8;
            if (i >= cols) break;
            if (!is_held) {
                load8(x + i, p.x[j]);
                load8(w + i, p.w[j]);
            }
            for (int k = 0; k < 8; k++) p.x[j][k] = p.x[j][k] * scale * p.w[j][k];
            store8(y + i, p.x[j]);
        }
    }
}

static __global__ void __launch_bounds__(THREADS)
    glu_kernel(uint16_t *dst, const uint16_t *src, int cols, int kind)
{
    pdl_next();
    pdl_wait();
    int i = (blockIdx.x * THREADS + threadIdx.x) * 8;
    if (i >= cols) return;
    const uint16_t *x = src + (int64_t)blockIdx.y * 2 * cols + i;
    float a[8], b[8];
    load8(x, a);
    load8(x + cols, b);
    for (int k = 0; k < 8; k++) a[k] = glu_gate(a[k], kind) * b[k];
    store8(dst + (int64_t)blockIdx.y * cols + i, a);
}

static __global__ void __launch_bounds__(THREADS)
    gather_kernel(const struct kbatch *b, uint16_t *dst, const uint16_t *src, int cols)
{
    pdl_next();
    pdl_wait();
    int i = blockIdx.x;
    if (i >= b->n_wants) return;
    const uint16_t *from = src + (int64_t)b->want[i].row * cols;
    for (int c = threadIdx.x * 8; c < cols; c += THREADS * 8)
        *(uint4 *)(dst + (int64_t)i * cols + c) = *(const uint4 *)(from + c);
}

/* A column's sum goes over the rows in order, in f64, as the cpu device's: neither chunks nor company
 * change a bit. (f32 with a correction would need two columns of state, and sums of bf16 are exact in f64
 * but for magnitudes 2^44 apart.) */
static __global__ void __launch_bounds__(THREADS)
    pool_kernel(const struct kbatch *b, const uint16_t *src, double *sums, int cols)
{
    pdl_next();
    pdl_wait();
    int c = blockIdx.x * THREADS + threadIdx.x, i = blockIdx.y;
    if (c >= cols) return;
    struct pooling p = b->pooling[i];
    double *sum = sums + (int64_t)b->slot[p.seq] * cols + c, s = *sum;
    for (int t = p.row; t < p.row + p.n_rows; t++) s += (double)bf16_f(src[(int64_t)t * cols + c]);
    *sum = s;
    if (p.is_last) b->pooled[(int64_t)i * cols + c] = (float)(s / b->pooled_rows[i]);
}

static __global__ void __launch_bounds__(THREADS)
    bias_kernel(uint16_t *y, const float *bias, int cols, int64_t stride)
{
    pdl_next();
    pdl_wait();
    int i = (blockIdx.x * THREADS + threadIdx.x) * 8;
    if (i >= cols) return;
    float a[8], b[8];
    load8(y + blockIdx.y * stride + i, a);
    load8(bias + i, b);
    for (int k = 0; k < 8; k++) a[k] += b[k];
    store8(y + blockIdx.y * stride + i, a);
}

extern "C" int k_embed(cudaStream_t stream, const struct kembed *e, int32_t n_rows)
{
    return launch(embed_kernel, dim3(n_rows), THREADS, 0, stream, *e);
}

extern "C" int k_norm(cudaStream_t stream, uint16_t *dst, const void *src, int src_is_f32,
                      const float *w, int32_t cols, float eps, int32_t n_rows)
{
    const uint16_t *none = nullptr;
    if (src_is_f32)
        return launch(norm_kernel<float, false>, dim3(n_rows), NORM_THREADS, 0, stream, dst,
                      (float *)src, none, w, cols, eps);
    return launch(norm_kernel<uint16_t, false>, dim3(n_rows), NORM_THREADS, 0, stream, dst,
                  (uint16_t *)src, none, w, cols, eps);
}

extern "C" int k_add_norm(cudaStream_t stream, uint16_t *dst, float *sum, const uint16_t *add,
                          const float *w, int32_t cols, float eps, int32_t n_rows)
{
    return launch(norm_kernel<float, true>, dim3(n_rows), NORM_THREADS, 0, stream, dst, sum, add, w,
                  cols, eps);
}

extern "C" int k_glu(cudaStream_t stream, uint16_t *dst, const uint16_t *src, int32_t cols,
                     enum glu_kind kind, int32_t n_rows)
{
    return launch(glu_kernel, dim3((cols + THREADS * 8 - 1) / (THREADS * 8), n_rows), THREADS, 0,
                  stream, dst, src, cols, (int)kind);
}

extern "C" int k_gather(cudaStream_t stream, const struct kbatch *b, uint16_t *dst,
                        const uint16_t *src, int32_t cols, int32_t n_rows)
{
    return launch(gather_kernel, dim3(n_rows), THREADS, 0, stream, b, dst, src, cols);
}

extern "C" int k_bias(cudaStream_t stream, uint16_t *y, const float *bias, int32_t cols,
                      int64_t stride, int32_t n_rows)
{
    return launch(bias_kernel, dim3((cols + THREADS * 8 - 1) / (THREADS * 8), n_rows), THREADS, 0,
                  stream, y, bias, cols, stride);
}

extern "C" int k_pool(cudaStream_t stream, const struct kbatch *b, const uint16_t *src,
                      double *sums, int32_t cols, int32_t n_poolings)
{
    return launch(pool_kernel, dim3((cols + THREADS - 1) / THREADS, n_poolings), THREADS, 0, stream,
                  b, src, sums, cols);
}
