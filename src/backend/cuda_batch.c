/* cuda_batch.c - a step's arrays to the device in one copy, and its masks in another, later.
 *
 * The header lies at a fixed place and holds the addresses of the arrays behind it, so that a
 * captured graph finds any batch there. Block tables are sent as long as the step's longest, not as
 * the engine holds them. Attention's work is laid out here: sequences with one row become pieces of
 * their context, the others tiles of rows.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda_dev.h"

enum { ALIGN = 16 };

static size_t padded(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* Items: the budget of pieces, and one for each sequence besides. Tiles: at worst one a token. */
static size_t items_max(const struct dev *d)
{
    return ATTN_ITEMS_MAX + (size_t)d->config.max_seqs;
}

static size_t table_pages(const struct dev *d)
{
    return (size_t)(d->config.max_model_len / d->config.page_size) + 2;
}

static size_t mask_words(const struct dev *d)
{
    return ((size_t)d->config.n_vocab + 31) / 32;
}

int cuda_batch_open(struct dev *d, struct sl_error *e)
{
    const struct dev_config *c = &d->config;
    size_t tokens = (size_t)c->max_tokens, seqs = (size_t)c->max_seqs, n;
    n = padded(sizeof(struct kbatch)) + 4 * padded(tokens * 4) + 3 * padded((seqs + 1) * 4);
    n += padded(seqs * table_pages(d) * 4) + padded((size_t)c->max_wants * sizeof(struct want));
    n +=
        padded(items_max(d) * sizeof(struct attn_item)) + padded(tokens * sizeof(struct attn_tile));
    n += padded(seqs * mask_words(d) * 4);
    n += padded(seqs * sizeof(struct pooling)) + padded(seqs * 4);
    d->batch_max = n;
    for (int i = 0; i < CUDA_BATCHES; i++)
        TRY(cuda_check(cudaHostAlloc((void **)&d->batch_pinned[i], n, cudaHostAllocDefault),
                       "pinned memory"));
    d->batch_d = cuda_alloc(d, n, "batches", e);
    return d->batch_d ? 0 : SL_ENOMEM;
}

/* Where the next array goes: in pinned memory and, at the same offset, on the device. */
struct packer {
    struct dev *d;
    char *host;
    size_t at;
};

static void *take(struct packer *p, size_t bytes, const void **device)
{
    void *host = p->host + p->at;
    *device = (const char *)p->d->batch_d + p->at;
    p->at += padded(bytes);
    ASSERT(p->at <= p->d->batch_max);
    return host;
}

static const int32_t *put(struct packer *p, const int32_t *src, size_t n)
{
    const void *device;
    void *host = take(p, n * sizeof *src, &device);
    if (n) memcpy(host, src, n * sizeof *src);
    return device;
}

static int put_pages(struct packer *p, const struct batch *b, struct kbatch *k)
{
    const void *device;
    int32_t stride = 1;
    for (int32_t i = 0; i < b->n_seqs; i++) {
        int32_t n = (b->kv_len[i] + b->page_size - 1) / b->page_size;
        if (n > stride) stride = n;
    }
    if ((size_t)stride > table_pages(p->d) || stride > b->pages_stride) return SL_EINTERNAL;
    int32_t *to = take(p, (size_t)b->n_seqs * (size_t)stride * 4, &device);
    for (int32_t i = 0; i < b->n_seqs; i++)
        memcpy(to + (size_t)i * (size_t)stride, b->pages + (size_t)i * (size_t)b->pages_stride,
               (size_t)stride * 4);
    k->pages = device;
    k->pages_stride = stride;
    return 0;
}

static void put_seq_of(struct packer *p, const struct batch *b, struct kbatch *k)
{
    const void *device;
    int32_t *to = take(p, (size_t)b->n_tokens * 4, &device);
    for (int32_t i = 0; i < b->n_seqs; i++)
        for (int32_t t = b->q_start[i]; t < b->q_start[i + 1]; t++) to[t] = i;
    k->seq_of = device;
}

static int32_t n_chunks(const struct batch *b, int32_t i)
{
    return (b->kv_len[i] + ATTN_CHUNK - 1) / ATTN_CHUNK;
}

/* Items of all contexts, where one has at most `share` chunks. */
static int64_t n_items(const struct batch *b, int32_t share)
{
    int64_t n = 0;
    for (int32_t i = 0; i < b->n_seqs; i++)
        if (b->q_start[i + 1] - b->q_start[i] == 1) n += (n_chunks(b, i) + share - 1) / share;
    return n;
}

/* Chunks that each cluster gets when all are shared out evenly, and a few more if that saves a second
 * round. A context of at most so many is one item, which needs no merging through memory; longer
 * ones are runs of about as many. It does not show in the bits. */
static int32_t fair_share(const struct dev *d, const struct batch *b)
{
    const struct layer_params *lp = d->attn_widest;
    if (!lp) return 1;
    int64_t heads = lp->n_kv_heads, n = k_attn_clusters(k_attn_cluster(
                                        lp->n_heads, lp->n_kv_heads, lp->head_dim, d->decode_seqs));
    int32_t share = (int32_t)((n_items(b, 1) * heads + n - 1) / n);
    if (share < 1) share = 1;
    if (n_items(b, INT32_MAX / 2) * heads <= n)
        while (n_items(b, share) * heads > n) share++;
    return share;
}

static int longest_first(const void *a, const void *b)
{
    const struct attn_item *x = a, *y = b;
    return x->n != y->n ? y->n - x->n : x->seq != y->seq ? x->seq - y->seq : x->chunk - y->chunk;
}

/* Slots for chunks of split contexts last for ATTN_ITEMS_MAX; where they end, a sequence is one
 * item. */
static void put_items(struct packer *p, const struct batch *b, struct kbatch *k)
{
    const void *device;
    struct attn_item *item = take(p, 0, &device);
    int32_t n = 0, n_slots = 0, share = fair_share(p->d, b);
    for (int32_t i = 0; i < b->n_seqs; i++) {
        if (b->q_start[i + 1] - b->q_start[i] != 1) continue;
        int32_t chunks = n_chunks(b, i), parts = (chunks + share - 1) / share;
        if (n_slots + chunks > ATTN_ITEMS_MAX) parts = 1;
        for (int32_t c = 0; c < parts; c++) {
            int32_t from = (int32_t)((int64_t)chunks * c / parts),
                    to = (int32_t)((int64_t)chunks * (c + 1) / parts);
            item[n++] = (struct attn_item){.seq = i,
                                           .row = b->q_start[i],
                                           .chunk = from,
                                           .n = to - from,
                                           .n_chunks = chunks,
                                           .n_parts = parts,
                                           .first = n_slots};
        }
        if (parts > 1) n_slots += chunks;
    }
    qsort(item, (size_t)n, sizeof *item, longest_first);
    take(p, (size_t)n * sizeof *item, &device);
    k->items = device;
    k->n_items = p->d->n_items = n;
}

static int longest_tile_first(const void *a, const void *b)
{
    const struct attn_tile *x = a, *y = b;
    return x->end != y->end ? y->end - x->end : x->row - y->row;
}

static void put_tiles(struct packer *p, const struct batch *b, struct kbatch *k)
{
    const void *device;
    struct attn_tile *tile = take(p, 0, &device);
    int32_t n = 0, size = p->d->tile_rows;
    for (int32_t i = 0; i < b->n_seqs; i++) {
        int32_t first = b->q_start[i], rows = b->q_start[i + 1] - first;
        for (int32_t at = 0; rows > 1 && at < rows; at += size) {
            int32_t n_rows = rows - at < size ? rows - at : size;
            tile[n++] = (struct attn_tile){.seq = i,
                                           .row = first + at,
                                           .n_rows = n_rows,
                                           .end = b->kv_len[i] - rows + at + n_rows};
        }
    }
    qsort(tile, (size_t)n, sizeof *tile, longest_tile_first);
    take(p, (size_t)n * sizeof *tile, &device);
    k->tiles = device;
    k->n_tiles = p->d->n_tiles = n;
}

/* Rows that each pooling's sequence has in all are counted here, for they are needed at the end. */
static int put_poolings(struct packer *p, const struct batch *b, struct kbatch *k)
{
    struct dev *d = p->d;
    const void *device;
    size_t n = (size_t)b->n_poolings;
    if (b->n_poolings < 0 || b->n_poolings > d->config.max_seqs) return SL_EINTERNAL;
    struct pooling *to = take(p, n * sizeof *to, &device);
    k->pooling = device;
    if (n) memcpy(to, b->pooling, n * sizeof *to);
    int32_t *rows = take(p, n * sizeof *rows, &device);
    k->pooled_rows = device;
    for (size_t i = 0; i < n; i++) rows[i] = d->pool_rows[b->slot[to[i].seq]] += to[i].n_rows;
    k->pooled = d->launch[d->n_launched % CUDA_RESULTS].result.pooled;
    return 0;
}

/* Sequences with one row: in a graph as many as rows are padded to, so that what follows from it is
 * the same in every run. */
static void count_decodes(struct dev *d, const struct batch *b)
{
    d->decode_seqs = b->n_tokens == b->n_seqs ? d->rows : 0;
    for (int32_t i = 0; i < b->n_seqs && b->n_tokens != b->n_seqs; i++)
        d->decode_seqs += b->q_start[i + 1] - b->q_start[i] == 1;
}

int cuda_batch_send(struct dev *d, const struct batch *b, const struct kresult *result)
{
    struct packer p = {.d = d, .host = d->batch_pinned[d->n_launched % CUDA_BATCHES]};
    const void *device;
    struct kbatch *k = take(&p, sizeof *k, &device);
    size_t tokens = (size_t)b->n_tokens, seqs = (size_t)b->n_seqs;
    *k = (struct kbatch){.n_tokens = b->n_tokens,
                         .n_seqs = b->n_seqs,
                         .n_wants = b->n_wants,
                         .page_size = b->page_size,
                         .result = *result,
                         .met = d->met};
    k->token = put(&p, b->token, tokens);
    k->pos = put(&p, b->pos, tokens);
    k->kv_slot = put(&p, b->kv_slot, tokens);
    k->q_start = put(&p, b->q_start, seqs + 1);
    k->kv_len = put(&p, b->kv_len, seqs);
    k->slot = put(&p, b->slot, seqs);
    struct want *want = take(&p, (size_t)b->n_wants * sizeof *want, &device);
    if (b->n_wants) memcpy(want, b->want, (size_t)b->n_wants * sizeof *want);
    k->want = device;
    if ((size_t)b->n_masks > (size_t)d->config.max_seqs || (size_t)b->mask_words > mask_words(d))
        return SL_EINTERNAL;
    put_seq_of(&p, b, k);
    count_decodes(d, b);
    TRY(put_pages(&p, b, k));
    TRY(put_poolings(&p, b, k));
    put_items(&p, b, k);
    put_tiles(&p, b, k);
    size_t n = d->masks_at = p.at;
    take(&p, (size_t)b->n_masks * (size_t)b->mask_words * 4, &device);
    k->masks = device;
    k->mask_words = b->mask_words;
    return cuda_check(cudaMemcpyAsync(d->batch_d, p.host, n, cudaMemcpyHostToDevice, d->stream),
                      "batch copy");
}

int cuda_masks_send(struct dev *d, const struct batch *b)
{
    size_t n = (size_t)b->n_masks * (size_t)b->mask_words * 4;
    char *host = d->batch_pinned[d->n_launched % CUDA_BATCHES] + d->masks_at;
    memcpy(host, b->masks, n);
    return cuda_check(cudaMemcpyAsync((char *)d->batch_d + d->masks_at, host, n,
                                      cudaMemcpyHostToDevice, d->stream),
                      "masks copy");
}
