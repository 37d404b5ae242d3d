/* rope_kv.cu - the end of the qkv product: per-head norms, rotation, and the write of k and v
 * to their page.
 *
 * what:     for q and k heads: optional RMS norm over head_dim, then (a, b) -> (a cos - b sin, b
 *           cos + a sin) with b = half a rotary_dim after a, angle = pos * freq[i], cos and sin
 *           times mscale; k and v go to pages
 * shapes:   qkv rows [n_heads | n_kv | n_kv] x head_dim bf16, rotated in place; pages as attn.cuh
 *           has them
 * launch:   blocks of 8 warps, one to a few a token; a warp takes every so many heads
 * assumes:  head_dim <= 256 and a multiple of 8
 * numerics: f32; the angle is rounded to f32, its sine and cosine are to 2 ulp; results rounded
 *           to bf16 once
 * source:   Su 2021 (RoFormer), rotate-half form; yarn and the others arrive as a table of
 *           frequencies
 * measured: see kernels/README.md
 */
#include "common.cuh"

enum { WARPS = 8, LANE_VALUES = 8 };

/* at: the token's place in pages of `size`. */
static __device__ __forceinline__ void write_kv(const struct krope &r, int at, int size, int head,
                                                const float *v, int lane)
{
    int kv = head - r.n_heads;
    bool is_k = kv < r.n_kv_heads;
    int64_t page = at / size, off = at % size;
    uint16_t *base = (is_k ? r.k : r.v) +
                     (page * r.n_kv_heads + (is_k ? kv : kv - r.n_kv_heads)) * size * r.head_dim;
#pragma unroll
    for (int j = 0; j < LANE_VALUES; j++) {
        int i = lane + 32 * j;
        if (i < r.head_dim)
            base[is_k ? off / 8 * 8 * r.head_dim + i / 8 * 64 + off % 8 * 8 + i % 8
                      : off / 16 * 16 * r.head_dim + i / 8 * 128 + off / 8 % 2 * 64 + i % 8 * 8 +
                            off % 8] = f_bf16(v[j]);
    }
}

/* cs: cos[half], sin[half] of the token; x: room for a head. One warp. */
static __device__ __forceinline__ void turn_head(const struct krope &r, int t, int head, int at,
                                                 int size, const float *cs, float *x)
{
    int lane = threadIdx.x % 32, half = r.freq ? r.rotary_dim / 2 : 0;
    uint16_t *row = r.qkv + (int64_t)t * r.stride + head * r.head_dim;
    bool is_v = head >= r.n_heads + r.n_kv_heads;
    const float *w = is_v ? nullptr : head < r.n_heads ? r.q_norm : r.k_norm;
    float v[LANE_VALUES], sum = 0.0f;
#pragma unroll
    for (int j = 0; j < LANE_VALUES; j++) {
        int i = lane + 32 * j;
        v[j] = i < r.head_dim ? bf16_f(row[i]) : 0.0f;
        sum = fmaf(v[j], v[j], sum);
    }
    if (w) {
        float scale = rsqrtf(warp_sum(sum) / (float)r.head_dim + r.eps);
#pragma unroll
        for (int j = 0; j < LANE_VALUES; j++)
            if (lane + 32 * j < r.head_dim) v[j] *= scale * w[lane + 32 * j];
    }
    if (half && !is_v) {
#pragma unroll
        for (int j = 0; j < LANE_VALUES; j++) x[lane + 32 * j] = v[j];
        __syncwarp();
#pragma unroll
        for (int j = 0; j < LANE_VALUES; j++) {
            int i = lane + 32 * j;
            if (i < half)
                v[j] = v[j] * cs[i] - x[i + half] * cs[half + i];
            else if (i < 2 * half)
                v[j] = v[j] * cs[i - half] + x[i - half] * cs[i];
        }
        __syncwarp();
    }
    if (head >= r.n_heads) {
        write_kv(r, at, size, head, v, lane);
        return;
    }
#pragma unroll
    for (int j = 0; j < LANE_VALUES; j++)
        if (lane + 32 * j < r.head_dim) row[lane + 32 * j] = f_bf16(v[j]);
}

static __global__ void __launch_bounds__(WARPS * 32) rope_kernel(struct krope r)
{
    __shared__ float cs[256];
    __shared__ float x[WARPS][256];
    int t = blockIdx.x, warp = threadIdx.x / 32, half = r.freq ? r.rotary_dim / 2 : 0;
    pdl_next();
    if (t >= r.b->n_tokens) return; /* the batch was there before the step began */
    int at = r.b->kv_slot[t], size = r.b->page_size;
    if ((int)threadIdx.x < half) {
        float s, c;
        sincosf((float)r.b->pos[t] * r.freq[threadIdx.x], &s, &c);
        cs[threadIdx.x] = c * r.mscale;
        cs[half + threadIdx.x] = s * r.mscale;
    }
    pdl_wait();
    __syncthreads();
    for (int head = blockIdx.y * WARPS + warp; head < r.n_heads + 2 * r.n_kv_heads;
         head += gridDim.y * WARPS)
        turn_head(r, t, head, at, size, cs, x[warp]);
}

/* About a block an SM: beside a product's ring two find room, and a second wave would be waited for. */
extern "C" int k_rope_kv(cudaStream_t stream, const struct krope *r, int32_t n_rows)
{
    int heads = r->n_heads + 2 * r->n_kv_heads, most = (heads + WARPS - 1) / WARPS,
        n = SMS / n_rows < 1 ? 1 : SMS / n_rows;
    return launch(rope_kernel, dim3(n_rows, n < most ? n : most), WARPS * 32, 0, stream, *r);
}
