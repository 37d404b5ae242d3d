/* embed_out.c - bodies made of vectors: embeddings as numbers or base64, reranked documents, scores.
 *
 * A vector comes raw from the engine. It is cut to the dimensions asked for, then brought to length
 * 1 where the model is used so; similarity is the cosine, whatever the length.
 */
#include <math.h>
#include <stdlib.h>

#include "api/embed.h"
#include "api/out.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "base64 vectors are little-endian");

static double norm_of(const float *v, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += (double)v[i] * (double)v[i];
    return sqrt(sum);
}

void embed_take(struct api_response *p, int choice, const float *pooled)
{
    const struct api_request *r = p->r;
    int32_t n = r->embed->dimensions;
    ASSERT(!p->choices[choice].vector);
    float *v = xmalloc((size_t)n * sizeof *v);
    memcpy(v, pooled, (size_t)n * sizeof *v);
    double norm = norm_of(v, n);
    for (int32_t i = 0; i < n && r->ctx->pooling.is_normalized && norm > 0; i++)
        v[i] = (float)((double)v[i] / norm);
    p->choices[choice].vector = v;
}

static double cosine(const float *a, const float *b, int32_t n)
{
    double dot = 0, norm = norm_of(a, n) * norm_of(b, n);
    for (int32_t i = 0; i < n; i++) dot += (double)a[i] * (double)b[i];
    return norm > 0 ? dot / norm : 0;
}

/* ------------------------------------------------------------------ pieces */

static void put_base64(const void *bytes, size_t n, struct buf *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *b = bytes;
    char *to = buf_reserve(out, (n + 2) / 3 * 4);
    if (!to) return;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t x = (uint32_t)b[i] << 16 | (i + 1 < n ? (uint32_t)b[i + 1] << 8 : 0) |
                     (i + 2 < n ? b[i + 2] : 0);
        *to++ = digits[x >> 18];
        *to++ = digits[x >> 12 & 63];
        *to++ = i + 1 < n ? digits[x >> 6 & 63] : '=';
        *to++ = i + 2 < n ? digits[x & 63] : '=';
    }
    out->n += (n + 2) / 3 * 4;
}

static void put_vector(const struct api_response *p, const float *v, struct buf *out)
{
    int32_t n = p->r->embed->dimensions;
    if (p->r->embed->is_base64) {
        buf_putc(out, '"');
        put_base64(v, (size_t)n * sizeof *v, out);
        buf_putc(out, '"');
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        buf_putc(out, i ? ',' : '[');
        json_put_float(out, v[i]);
    }
    buf_putc(out, ']');
}

static void put_model(const struct api_response *p, struct buf *out)
{
    buf_puts(out, "\"model\":");
    json_put_str(out, str_of(p->r->ctx->served_names[0]));
}

static void put_embed_usage(const struct api_response *p, struct buf *out)
{
    struct api_usage u = api_response_usage(p);
    buf_printf(out, "\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu}",
               (unsigned long long)u.prompt_tokens, (unsigned long long)u.prompt_tokens);
}

static void put_list_opening(const struct api_response *p, struct buf *out)
{
    buf_printf(out, "{\"id\":\"%s\",\"object\":\"list\",\"created\":%lld,", p->id,
               (long long)p->created);
    put_model(p, out);
    buf_puts(out, ",\"data\":[");
}

/* ------------------------------------------------------------------ bodies */

void embedding_body(struct api_response *p, struct buf *out)
{
    put_list_opening(p, out);
    for (int i = 0; i < p->n; i++) {
        buf_printf(out, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":", i ? "," : "", i);
        put_vector(p, p->choices[i].vector, out);
        buf_putc(out, '}');
    }
    buf_puts(out, "],");
    put_embed_usage(p, out);
    buf_putc(out, '}');
}

struct ranked {
    int index;
    double score;
};

/* Best first; equal ones as they came. */
static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    return x->index - y->index;
}

void rerank_body(struct api_response *p, struct buf *out)
{
    const struct embed_form *f = p->r->embed;
    int n = p->n - 1;
    struct ranked *rank = xmalloc((size_t)n * sizeof *rank);
    for (int i = 0; i < n; i++)
        rank[i] = (struct ranked){
            i, cosine(p->choices[0].vector, p->choices[i + 1].vector, f->dimensions)};
    qsort(rank, (size_t)n, sizeof *rank, by_score);
    buf_printf(out, "{\"id\":\"%s\",", p->id);
    put_model(p, out);
    buf_putc(out, ',');
    put_embed_usage(p, out);
    buf_puts(out, ",\"results\":[");
    for (int i = 0; i < f->n_top; i++) {
        buf_printf(out, "%s{\"index\":%d,", i ? "," : "", rank[i].index);
        if (f->with_documents) {
            buf_puts(out, "\"document\":{\"text\":");
            json_put_str(out, f->documents[rank[i].index]);
            buf_puts(out, "},");
        }
        buf_puts(out, "\"relevance_score\":");
        json_put_num(out, rank[i].score);
        buf_putc(out, '}');
    }
    buf_puts(out, "]}");
    free(rank);
}

void score_body(struct api_response *p, struct buf *out)
{
    const struct embed_form *f = p->r->embed;
    int n = p->n - f->n_first;
    put_list_opening(p, out);
    for (int i = 0; i < n; i++) {
        const float *first = p->choices[f->n_first == 1 ? 0 : i].vector;
        const float *second = p->choices[f->n_first + i].vector;
        buf_printf(out, "%s{\"index\":%d,\"object\":\"score\",\"score\":", i ? "," : "", i);
        json_put_num(out, cosine(first, second, f->dimensions));
        buf_putc(out, '}');
    }
    buf_puts(out, "],");
    put_embed_usage(p, out);
    buf_putc(out, '}');
}
