/* request.h - a request as the engine holds it: one block of memory, everything copied into it.
 *
 * Owned by the io thread, which makes it in sl_submit and frees it when the engine has let go of it
 * (EV_RELEASE). In between the engine thread writes only tokens[n_prompt ..], and a worker reads
 * tokens and sampling while a step that names the request is in flight.
 */
#ifndef ENGINE_REQUEST_H
#define ENGINE_REQUEST_H

#include "base/err.h"
#include "sluice/sluice.h"

struct request {
    struct sl_sampling sampling; /* its arrays lie in this block */
    uint64_t salt[2];
    uint64_t due_us;
    int32_t priority;
    uint32_t tpot_us;
    bool is_background;
    int32_t n_prompt, max_tokens;
    struct grammar *grammar;     /* referenced, or NULL */
    struct sl_thinking thinking; /* its ids in this block */
    int32_t *tokens;             /* [n_prompt + max_tokens], in this block */
    enum sl_pool pool;
    float *pooled;        /* [n_pooled], in this block: written before its DONE; NULL: not pooled */
    struct request *next; /* io thread: of those kept for one more sl_poll */
};

struct request_limits {
    int32_t n_vocab, max_model_len, page_size, n_pages;
    int32_t n_pooled; /* 0: the device does not pool */
};

/* Can it run here, alone, to its end? 0 or a code with the reason; the only gate into the engine.
 */
int request_check(const struct sl_request *r, const struct request_limits *l, struct sl_error *e);
/* A checked request, copied; NULL when memory is out. */
struct request *request_new(const struct sl_request *r, int32_t n_pooled);
void request_free(struct request *q); /* NULL is fine */

#endif
