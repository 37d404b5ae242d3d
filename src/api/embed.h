/* embed.h - requests whose answer is made of vectors (embeddings, rerank, score): what is asked for.
 * Not for other layers.
 */
#ifndef API_EMBED_H
#define API_EMBED_H

#include "api/api_impl.h"

enum { EMBED_INPUTS_MAX = 2048 };

/* Of API_EMBEDDING, API_RERANK and API_SCORE; in the request's arena. The prompts are, in order, the
 * inputs; the query, then the documents; the first texts, then the second ones. */
struct embed_form {
    bool is_base64;
    int32_t dimensions;          /* of a vector that goes out */
    int n_first;                 /* prompts of the first kind: queries, first texts */
    int n_top;                   /* RERANK: results that go out */
    bool with_documents;         /* RERANK */
    const struct str *documents; /* RERANK, in the arena */
};

static inline bool is_pooled(enum api_kind form)
{
    return form == API_EMBEDDING || form == API_RERANK || form == API_SCORE;
}

/* After read_fields: prompts and form. */
int read_embed(struct api_request *r, const json_node *root, struct sl_error *e);

#endif
