/* api.h - the OpenAI wire format, both ways, without sockets: bytes of JSON in, bytes of JSON or
 * SSE out.
 *
 * The server calls these in the order of the twelve stages:
 *   api_parse     (2)      body -> struct api_request, checked whole; nothing below sees JSON
 *   api_prepare   (3)      chat template, tokenizer -> prompts as ids; context length checked,
 * max_tokens clamped (submit one sl_request a choice with api_engine_request) api_response_*  (10,
 * 11) engine events -> text deltas, stop strings, log probabilities -> bytes Everything of one
 * request lives in its arena or in its api_response. Not thread-safe per request; the context is
 * immutable and shared. api_parse and api_prepare may run on a work-pool thread. Source: OpenAI API
 * reference (chat, completions, models), vLLM's extensions; tests/e2e numbers each rule.
 */
#ifndef API_API_H
#define API_API_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"
#include "load/model_text.h"
#include "sluice/sluice.h"

enum { API_CHOICES_MAX = 64 }; /* prompts times n of one request that generates */

struct grammar_vocab; /* text/grammar.h */
struct grammar_cache; /* api/grammar_cache.h */

enum { API_MARKERS_MAX = 32 };

/* How the model writes calls and thinking (answer_formats.h), and which special tokens it uses for
 * that: they are shown to the parser. NULL: not known, or turned off. */
struct api_formats {
    const struct call_format *calls;
    const struct reasoning_format *reasoning;
    int32_t call_ids[API_MARKERS_MAX], reasoning_ids[API_MARKERS_MAX];
    size_t n_call_ids, n_reasoning_ids;
    struct sl_thinking thinking; /* the ids around it; n_close 0: none are known */
    int32_t close_ids[SL_THINK_CLOSE_MAX];
};

/* Process-wide and immutable; borrowed by every request. */
struct api_context {
    const struct model_text *text;
    const struct sl_info *info;
    struct grammar_vocab *vocab;     /* NULL: outputs cannot be held to a form */
    struct grammar_cache *grammars;  /* NULL: nothing is kept */
    const char *const *served_names; /* [n_served]; the first is the canonical id in answers */
    int n_served;
    int64_t created;      /* for /v1/models */
    char fingerprint[24]; /* "fp_" + 10 hex of build, model and config */
    int n_max;            /* cap of `n` (16) */
    bool strict_length;   /* prompt + max_tokens beyond the context: error instead of clamp */
    struct api_formats formats;
    const char *reasoning_field;   /* "reasoning_content", "reasoning" or "both"; NULL: the first */
    bool model_defaults;           /* generation_config.json's sampling defaults apply */
    bool has_store;                /* the server keeps responses */
    struct pooling_config pooling; /* how embeddings are made; kind NONE: not at all */
    bool keep_canonical;           /* api_canonical is asked for */
};

/* The formats by name: "auto" (or NULL): as the chat template shows; "none"; or a row of
 * answer_formats.h. SL_EINVAL names the rows there are. */
int api_find_formats(struct api_formats *out, const struct model_text *text,
                     const char *tool_call_parser, const char *reasoning_parser,
                     struct sl_error *e);

enum api_kind {
    API_CHAT,
    API_COMPLETION,
    API_RESPONSE,
    API_MESSAGE,
    API_EMBEDDING, /* these three answer with vectors, or what is made of them */
    API_RERANK,
    API_SCORE,
};

struct api_request; /* opaque; in the arena given to api_parse */

int api_parse(struct api_request **out, enum api_kind kind, const struct api_context *ctx,
              struct str body, struct arena *arena, struct sl_error *e);
/* Between the two: the response whose turn comes before this one (p NULL: none). The caller finds it
 * and hands its items in, comma-separated JSON; without that api_prepare refuses the request. */
struct str api_previous_response(const struct api_request *r);
int api_join_history(struct api_request *r, struct str items, struct sl_error *e);
int api_prepare(struct api_request *r, struct sl_error *e);
/* The JSON tree (gone after api_prepare) and the grammar: call this when a request is dropped or
 * over. NULL is fine; the arena itself stays the caller's. */
void api_request_free(struct api_request *r);
/* Might the body ask for a form (response_format and its kin)? Then api_prepare compiles a grammar,
 * which is no work for the io thread. */
bool api_wants_form(struct str body);

bool api_is_stream(const struct api_request *r);
bool api_is_pooled(const struct api_request *r); /* its choices are vectors */
/* Engine requests to submit: 1..API_CHOICES_MAX, or up to some thousands for vectors. */
int api_n_choices(const struct api_request *r);
uint64_t
api_cost_tokens(const struct api_request *r); /* prompt + max_tokens over all choices, for quotas */
struct str api_cache_salt(const struct api_request *r); /* "" if none */
/* What the client wishes of time, in milliseconds; 0: no wish. */
struct api_wishes {
    int64_t ttft_ms, timeout_ms; /* until the first token; until the end */
    double tpot_ms;              /* from token to token */
};
struct api_wishes api_wishes(const struct api_request *r);
/* With keep_canonical: the body as one text that is equal for requests that must get equal tokens:
 * members sorted, without those that change only how or when the answer comes. "" for a request
 * whose tokens are not determined by it (a temperature without a seed). */
struct str api_canonical(const struct api_request *r);
/* The engine request of choice i; borrowed from r. The caller adds the tenant to salt. `entropy`
 * seeds a choice when the client gave no seed (choice i uses seed + i). */
void api_engine_request(const struct api_request *r, int choice, uint64_t entropy,
                        struct sl_request *out);

struct api_response; /* owns its state; one a request */

/* id_hex: at least 24 url-safe characters that make "chatcmpl-..." / "cmpl-..." unique. r must
 * outlive it. */
struct api_response *api_response_new(const struct api_request *r, const char *id_hex,
                                      int64_t created);
void api_response_free(struct api_response *p);

/* Streaming: append the first chunks (a role chunk for each choice in order; echo text). */
void api_response_start(struct api_response *p, struct buf *out);
/* One engine event of choice i. Streaming: appends whole SSE events to out (or nothing while text
 * is held back). Not streaming: gathers. Returns true when this choice needs no more tokens
 * although the engine still runs it (a stop string matched): the caller cancels that engine request
 * and goes on feeding its events, which are then ignored. */
bool api_response_event(struct api_response *p, int choice, const struct sl_event *ev,
                        struct buf *out);
/* All choices have their finish reason (and, streaming, their finish chunk was written). */
bool api_response_complete(const struct api_response *p);
/* Did a choice end in SL_FINISH_ERROR? Its code, else 0. The caller then answers an error. */
int api_response_failed(const struct api_response *p);
/* Streaming: the usage chunk if asked for, then [DONE]. Not streaming: the whole body. Once, when
 * complete. */
void api_response_finish(struct api_response *p, struct buf *out);
/* Where the time went; before api_response_finish, which writes it if the client asked for it. */
struct api_timings {
    double queue_ms, prompt_ms, predicted_ms;
};
void api_response_timings(struct api_response *p, const struct api_timings *t);
/* Streaming: one error event and [DONE], instead of finish. */
void api_response_error(struct api_response *p, const struct sl_error *e, struct buf *out);

struct api_usage {
    uint64_t prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens;
};
struct api_usage api_response_usage(const struct api_response *p);
enum sl_finish api_response_reason(const struct api_response *p, int choice);

/* A finished Responses answer that is to be kept: its id, the response object as JSON (appended to
 * object), its input's and output's items, comma-separated. False: it is not to be kept. */
struct api_kept {
    struct str id, input, output; /* borrowed from the response */
};
bool api_response_kept(const struct api_response *p, struct api_kept *out, struct buf *object);

/* {"error":{...}} of section 2, all four keys. */
void api_error_body(const struct sl_error *e, struct buf *out);
/* The same as a route of this kind answers it: Messages have a body and a status of their own. */
void api_error_body_as(enum api_kind kind, const struct sl_error *e, struct buf *out);
int api_error_status_as(enum api_kind kind, const struct sl_error *e);

/* The small endpoints: a body in, a body out. */
void api_models(const struct api_context *ctx, struct buf *out);
int api_model(const struct api_context *ctx, struct str id, struct buf *out, struct sl_error *e);
int api_tokenize(const struct api_context *ctx, struct str body, struct buf *out,
                 struct sl_error *e);
int api_detokenize(const struct api_context *ctx, struct str body, struct buf *out,
                   struct sl_error *e);
/* How many tokens the prompt of a Responses or Messages body has; it need not fit the context. */
int api_count(enum api_kind kind, const struct api_context *ctx, struct str body, struct buf *out,
              struct sl_error *e);
/* {"prompt": text} of a chat request's messages: POST /apply-template, for tests and debugging. */
int api_apply_template(const struct api_context *ctx, struct str body, struct buf *out,
                       struct sl_error *e);

#endif
