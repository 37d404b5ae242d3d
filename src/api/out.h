/* out.h - what the writing files of api/ share: the response's state and the pieces of its JSON. */
#ifndef API_OUT_H
#define API_OUT_H

#include "api/choice.h"

struct response_choice {
    struct choice c;
    struct buf prefix;   /* streaming: an event up to the value of its text */
    bool is_closed;      /* its finish chunk is written, or the choice failed */
    bool has_prompt_ids; /* return_token_ids: the prompt's were sent */
    float *vector;       /* owned [dimensions]; of requests for vectors, once it is there */
};

struct api_response {
    const struct api_request *r; /* borrowed */
    char id[80];
    int64_t created;
    int n;
    struct response_choice *choices; /* owned, [n] */
    struct buf head;                 /* streaming: an event up to and with "choices":[ */
    struct buf suffix;   /* streaming: an event from behind the text of a plain token to its end */
    struct buf scratch;  /* one token's bytes */
    struct parts *parts; /* owned; Responses and Messages only, else NULL */
    struct api_timings timings;
};

/* sse.c */
void sse_prepare(struct api_response *p);
void sse_start(struct api_response *p, struct buf *out);
void sse_drain(struct api_response *p, int choice,
               struct buf *out); /* what choice_take gives, then the finish chunk */
void sse_end(struct api_response *p, struct buf *out);
void sse_error(struct api_response *p, const struct sl_error *e, struct buf *out);

/* openai_out.c, legacy_out.c: whole bodies */
void chat_body(struct api_response *p, struct buf *out);
void completion_body(struct api_response *p, struct buf *out);

/* responses_out.c, anthropic_out.c: as their namesakes above; drain gathers what is not streamed */
void responses_start(struct api_response *p, struct buf *out);
void responses_drain(struct api_response *p, int choice, struct buf *out);
void responses_end(struct api_response *p, struct buf *out);
void responses_body(struct api_response *p, struct buf *out);
void responses_error(struct api_response *p, const struct sl_error *e, struct buf *out);
void anthropic_start(struct api_response *p, struct buf *out);
void anthropic_drain(struct api_response *p, int choice, struct buf *out);
void anthropic_end(struct api_response *p, struct buf *out);
void anthropic_body(struct api_response *p, struct buf *out);
void anthropic_error(struct api_response *p, const struct sl_error *e, struct buf *out);
void anthropic_error_body(const struct sl_error *e, struct buf *out);
int anthropic_error_status(const struct sl_error *e);

/* embed_out.c: take over what the engine pooled; whole bodies */
void embed_take(struct api_response *p, int choice, const float *pooled);
void embedding_body(struct api_response *p, struct buf *out);
void rerank_body(struct api_response *p, struct buf *out);
void score_body(struct api_response *p, struct buf *out);

/* logprobs_out.c */
/* The entries of a chat's list, comma-separated. */
void put_logprob_list(struct api_response *p, const struct slice *s, struct buf *out);
void put_chat_logprobs(struct api_response *p, const struct slice *s, struct buf *out);
void put_legacy_logprobs(struct api_response *p, const struct slice *s, struct buf *out);
void put_prompt_logprobs(struct api_response *p, const struct choice *c, struct buf *out);

/* timings_out.c: ,"timings":{...} if the client asked for it; are they? */
bool has_timings(const struct api_response *p);
void put_timings(const struct api_response *p, struct buf *out);

/* openai_out.c: pieces */
void put_usage(const struct api_usage *u, struct buf *out);
/* "reasoning_content":..., or whatever --reasoning-field says */
void put_reasoning(const struct api_response *p, struct str text, struct buf *out);
/* A call up to the value of its arguments, which "}}" follows; index -1: without one. */
void put_call_opening(int index, const struct answer_event *call, struct buf *out);
void put_id_list(const int32_t *ids, size_t n, struct buf *out);
/* ,"finish_reason":...,"stop_reason":... of a choice that has ended */
void put_finish(const struct choice *c, struct buf *out);
/* {"id":...,"object":...,"created":...,"model":..., - the opening of a body or an event */
void put_opening(const struct api_response *p, const char *object, struct buf *out);

#endif
