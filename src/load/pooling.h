/* pooling.h - does a model make embeddings, and how: what sentence-transformers writes beside it.
 *
 * From a folder: modules.json (which steps follow the model), 1_Pooling/config.json (which rows),
 * config.json (may a vector be cut short: Matryoshka training); from a GGUF file its pooling_type.
 * Plain values, filled once while loading.
 */
#ifndef LOAD_POOLING_H
#define LOAD_POOLING_H

#include <stdbool.h>

#include "sluice/sluice.h"

struct gguf; /* gguf.h */

enum { POOLING_DIMENSIONS_MAX = 64 };

struct pooling_config {
    enum sl_pool kind; /* NONE: this is no embedding model */
    bool is_normalized;
    /* Lengths a vector may be cut to: any, or those listed. */
    bool has_any_dimension;
    int32_t dimensions[POOLING_DIMENSIONS_MAX];
    int n_dimensions;
    char refused[96]; /* a step of its own that is not done here, or "" */
};

/* What a model says that says nothing: no pooling, normalized where the operator asks for it. */
static inline struct pooling_config pooling_default(void)
{
    return (struct pooling_config){.is_normalized = true};
}
int pooling_read_folder(struct pooling_config *p, int dir, struct sl_error *e);
void pooling_read_gguf(struct pooling_config *p, const struct gguf *g);

#endif
