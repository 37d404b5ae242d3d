/* rows.cu - operations on rows: embedding, RMS norm with the residual sum, gated activation,
 * gather, bias.
 *
 * what:     embed x[t] = w[token[t]]; norm y = x / sqrt(mean(x^2) + eps) * w; add_norm sum += a,
 *           y = norm(sum); glu y = act(x[:n]) * x[n:]; gather y[i] = x[want[i].row]; bias y += b
 * shapes:   rows of `cols` elements, dense; the residual stream f32, all else bf16
 * launch:   a block of 512 threads a row (embed, gather: 256; glu, bias: 256 over 8 elements each)
 * assumes:  cols a multiple of 8, 16-byte aligned rows
 * numerics: f32; sums in a fixed order over threads, independent of the number of rows
 * source:   Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019
 * measured: see kernels/README.md
 */
#include "common.cuh"

enum { THREADS = 256 };

static __global__ void __launch_bounds__(THREADS)
    embed_kernel(const struct kbatch *b, const struct kslot *slots, const uint16_t *w, float *x,
                 int cols, int n_vocab)
{
    pdl_next();
    pdl_wait();
    int t = blockIdx.x;
    if (t >= b->n_tokens) return;
    int64_t id = b->token[t];
    if (id < 0) id = slots[b->slot[b->seq_of[t]]].last;
    if (id < 0 || id >= n_vocab) id = 0; /* the sequence has failed already: its ids are not read */
    const uint16_t *from = w + id * cols;
    float *to = x + (int64_t)t * cols;
    for (int i = threadIdx.x * 8; i < cols; i += THREADS * 8) {
        uint4 v = *(const uint4 *)(from + i);
        ((float4 *)(to + i))[0] =
            make_float4(bf16_lo(v.x), bf16_hi(v.x), bf16_lo(v.y), bf16_hi(v.y));
        ((float4 *)(to + i))[1] =
            make_float4(bf16_lo(v.z), bf16_hi(v.z), bf16_lo(v.w), bf16_hi(v.w));
    }
}

static __device__ __forceinline__ void load8(const float *p, float v[8])
{
    float4 a = ((const float4 *)p)[0], b = ((const float4 *)p)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
static __device__ __forceinline__ void unpack8(uint4 a, float v[8])
{
    v[0] = bf16_lo(a.x), v[1] = bf16_hi(a.x), v[2] = bf16_lo(a.y), v[3] = bf16_hi(a.y);
    v[4] = bf16_lo(a.z), v[5] = bf16_hi(a.z), v[6] = bf16_lo(a.w), v[7] = bf16_hi(a.w);
}
static __device__ __forceinline__ void load8(const uint16_t *p, float v[8])
{
    unpack8(*(const uint4 *)p, v);
}
static __device__ __forceinline__ void store8(float *p, const float v[8])
{
    ((float4 *)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4 *)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
static __device__ __forceinline__ void store8(uint16_t *p, const float v[8])
{
    *(uint4 *)p = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                             pack_bf16(v[6], v[7]));
}

enum { NORM_THREADS = 512, HELD = 2 }; /* groups of 8 a thread keeps: rows up to 8192 */

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

extern "C" int k_embed(cudaStream_t stream, const struct kbatch *b, const struct kslot *slots,
                       const uint16_t *w, float *x, int32_t cols, int32_t n_vocab, int32_t n_rows)
{
    return launch(embed_kernel, dim3(n_rows), THREADS, 0, stream, b, slots, w, x, cols, n_vocab);
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
