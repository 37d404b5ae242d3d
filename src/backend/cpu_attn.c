/* cpu_attn.c - attention: cuts queries into tiles and contexts into chunks, and puts the chunks
 * together.
 *
 * A tile is up to 16 (token, head) pairs of one sequence and one kv head; a chunk is 512 positions
 * at an absolute multiple of 512. Chunks of a row are always computed apart and merged in order,
 * whether one thread walks them (prefill: many tiles) or several share them (decode: few tiles,
 * long contexts).
 */
#include <math.h>
#include <string.h>

#include "backend/cpu.h"

enum { SPLIT_ITEMS = 4 }; /* a thread: with fewer tiles than that, chunks are shared out too */

struct tile {
    int32_t seq, token, n_tokens; /* tokens: rows of the batch */
    int32_t head, n_heads;        /* query heads, all of one kv head */
    int32_t lo, hi;               /* positions that some row sees */
};

struct attn_run {
    struct dev *d;
    const struct batch *b;
    const struct step *s;
    int32_t tile_tokens, tile_heads, head_tiles; /* of a full tile; head tiles of a token */
    int32_t n_tiles, n_chunks; /* chunks: of the longest context; 1 when not split */
    float *partial;            /* split: [n_tiles, n_chunks, one answer] */
};

/* A tile's answer: m[16], l[16], acc[16][stride]. */
static size_t answer_floats(int32_t head_dim)
{
    return (size_t)ATTN_ROWS * (2 + (size_t)attn_stride(head_dim));
}

static int32_t seq_tiles(const struct attn_run *a, int32_t seq)
{
    int32_t n = a->b->q_start[seq + 1] - a->b->q_start[seq];
    return (n + a->tile_tokens - 1) / a->tile_tokens * a->head_tiles;
}

static int32_t row_first(const struct attn_run *a, int32_t pos)
{
    int32_t window = a->s->lp->window;
    return window > 0 && pos >= window ? pos - window + 1 : 0;
}

static struct tile tile_at(const struct attn_run *a, int32_t i)
{
    const struct layer_params *lp = a->s->lp;
    struct tile t = {0};
    for (; i >= seq_tiles(a, t.seq); t.seq++) i -= seq_tiles(a, t.seq);
    int32_t group = lp->n_heads / lp->n_kv_heads, per_kv = a->head_tiles / lp->n_kv_heads;
    int32_t which = i % a->head_tiles, end = a->b->q_start[t.seq + 1];
    t.token = a->b->q_start[t.seq] + i / a->head_tiles * a->tile_tokens;
    t.n_tokens = end - t.token < a->tile_tokens ? end - t.token : a->tile_tokens;
    int32_t in = which % per_kv * a->tile_heads;
    t.head = which / per_kv * group + in;
    t.n_heads = group - in < a->tile_heads ? group - in : a->tile_heads;
    t.lo = row_first(a, a->b->pos[t.token]);
    t.hi = a->b->pos[t.token + t.n_tokens - 1] + 1;
    return t;
}

/* One chunk of a tile into an answer. */
static void tile_chunk(const struct attn_run *a, const struct tile *t, int32_t chunk, float *answer)
{
    const struct layer_params *lp = a->s->lp;
    float q[ATTN_ROWS * HEAD_DIM_MAX];
    int32_t first[ATTN_ROWS], last[ATTN_ROWS], n = 0, dim = lp->head_dim;
    for (int32_t i = 0; i < t->n_tokens; i++) {
        const float *row = (const float *)a->s->src.data + (int64_t)(t->token + i) * a->s->src.cols;
        int32_t pos = a->b->pos[t->token + i];
        for (int32_t h = 0; h < t->n_heads; h++, n++) {
            for (int32_t c = 0; c < dim; c++)
                q[n * dim + c] = row[(t->head + h) * dim + c] * lp->attn_scale;
            first[n] = row_first(a, pos);
            last[n] = pos;
        }
    }
    int32_t lo = chunk * ATTN_CHUNK, hi = lo + ATTN_CHUNK;
    struct attn_job j = {
        .n_rows = n,
        .q = q,
        .first = first,
        .last = last,
        .pages = a->b->pages + (int64_t)t->seq * a->b->pages_stride,
        .k = lp->k_pages,
        .v = lp->v_pages,
        .page_size = a->b->page_size,
        .head_dim = dim,
        .n_kv_heads = lp->n_kv_heads,
        .kv_head = t->head / (lp->n_heads / lp->n_kv_heads),
        .lo = lo > t->lo ? lo : t->lo,
        .hi = hi < t->hi ? hi : t->hi,
        .m = answer,
        .l = answer + ATTN_ROWS,
        .acc = answer + 2 * ATTN_ROWS,
    };
    a->d->k->attn(&j);
}

static void merge(const struct attn_run *a, const struct tile *t, float *sum, const float *answer)
{
    int32_t stride = attn_stride(a->s->lp->head_dim);
    for (int32_t r = 0; r < t->n_tokens * t->n_heads; r++)
        a->d->k->attn_merge(sum + r, sum + ATTN_ROWS + r, sum + 2 * ATTN_ROWS + r * stride,
                            answer[r], answer[ATTN_ROWS + r], answer + 2 * ATTN_ROWS + r * stride,
                            stride);
}

static void store(const struct attn_run *a, const struct tile *t, const float *sum)
{
    int32_t dim = a->s->lp->head_dim, stride = attn_stride(dim), r = 0;
    for (int32_t i = 0; i < t->n_tokens; i++) {
        float *row = (float *)a->s->dst.data + (int64_t)(t->token + i) * a->s->dst.cols;
        for (int32_t h = 0; h < t->n_heads; h++, r++) {
            const float *acc = sum + 2 * ATTN_ROWS + r * stride;
            float scale = 1.0f / sum[ATTN_ROWS + r];
            for (int32_t c = 0; c < dim; c++) row[(t->head + h) * dim + c] = acc[c] * scale;
        }
    }
}

static void sum_clear(float *sum, int32_t head_dim)
{
    memset(sum, 0, answer_floats(head_dim) * sizeof *sum);
    for (int r = 0; r < ATTN_ROWS; r++) sum[r] = -INFINITY;
}

static void whole_item(void *arg, int item, int thread)
{
    (void)thread;
    const struct attn_run *a = arg;
    float sum[ATTN_ROWS * (2 + HEAD_DIM_MAX)], answer[ATTN_ROWS * (2 + HEAD_DIM_MAX)];
    struct tile t =
        tile_at(a, a->n_tiles - 1 - item); /* the longest contexts come last: start with them */
    sum_clear(sum, a->s->lp->head_dim);
    for (int32_t c = t.lo / ATTN_CHUNK; c * ATTN_CHUNK < t.hi; c++) {
        tile_chunk(a, &t, c, answer);
        merge(a, &t, sum, answer);
    }
    store(a, &t, sum);
}

static void chunk_item(void *arg, int item, int thread)
{
    (void)thread;
    const struct attn_run *a = arg;
    struct tile t = tile_at(a, item / a->n_chunks);
    int32_t c = item % a->n_chunks;
    if ((c + 1) * ATTN_CHUNK <= t.lo || c * ATTN_CHUNK >= t.hi) return;
    tile_chunk(a, &t, c, a->partial + (size_t)item * answer_floats(a->s->lp->head_dim));
}

static void merge_tile(const struct attn_run *a, int32_t i)
{
    float sum[ATTN_ROWS * (2 + HEAD_DIM_MAX)];
    struct tile t = tile_at(a, i);
    size_t n = answer_floats(a->s->lp->head_dim);
    sum_clear(sum, a->s->lp->head_dim);
    for (int32_t c = t.lo / ATTN_CHUNK; c * ATTN_CHUNK < t.hi; c++)
        merge(a, &t, sum, a->partial + ((size_t)i * (size_t)a->n_chunks + (size_t)c) * n);
    store(a, &t, sum);
}

static int run_split(struct attn_run *a)
{
    size_t n = (size_t)a->n_tiles * (size_t)a->n_chunks;
    a->partial =
        scratch_get(a->d, &a->d->attn, n * answer_floats(a->s->lp->head_dim) * sizeof(float));
    if (!a->partial) return SL_ENOMEM;
    pool_run(a->d->pool, chunk_item, a, (int)n);
    for (int32_t i = 0; i < a->n_tiles; i++) merge_tile(a, i);
    return 0;
}

int cpu_attn(struct dev *d, const struct batch *b, const struct step *s)
{
    const struct layer_params *lp = s->lp;
    int32_t group = lp->n_heads / lp->n_kv_heads, longest = 0;
    if (lp->head_dim > HEAD_DIM_MAX) return SL_ENOSYS;
    struct attn_run a = {.d = d, .b = b, .s = s};
    a.tile_heads = group < ATTN_ROWS ? group : ATTN_ROWS;
    a.tile_tokens = ATTN_ROWS / a.tile_heads;
    a.head_tiles = lp->n_kv_heads * ((group + a.tile_heads - 1) / a.tile_heads);
    double values = 0; /* positions times heads, for the decision to share */
    for (int32_t i = 0; i < b->n_seqs; i++) {
        a.n_tiles += seq_tiles(&a, i);
        if (b->kv_len[i] > longest) longest = b->kv_len[i];
        values += (double)(b->q_start[i + 1] - b->q_start[i]) * b->kv_len[i] * lp->n_heads;
    }
    a.n_chunks = (longest + ATTN_CHUNK - 1) / ATTN_CHUNK;
    if (a.n_chunks > 1 && a.n_tiles < SPLIT_ITEMS * pool_threads(d->pool)) return run_split(&a);
    cpu_spread(d, whole_item, &a, a.n_tiles, values * lp->head_dim * 1e-4);
    return 0;
}
