/* api_impl.h - what the files of api/ share: the parsed request. Not for other layers. */
#ifndef API_API_IMPL_H
#define API_API_IMPL_H

#include "api/answer_formats.h"
#include "api/answer_parse.h"
#include "api/api.h"
#include "api/fields.h"
#include "api/stop.h"

#define API_ABSENT INT64_MIN /* an integer field that was not given */
enum { BAD_WORD_BYTES_MAX = 1024, CACHE_SALT_BYTES_MAX = 128, TOOLS_MAX = 128 };

/* The scalar fields of a body, as given; the table of sampling_in.c fills it. */
struct api_fields {
    struct str model, reasoning_effort, reasoning_format, verbosity, cache_salt;
    double temperature, top_p, min_p, typical_p; /* NAN: absent */
    double repetition_penalty, presence_penalty, frequency_penalty;
    int64_t top_k, n, best_of, max_tokens, max_completion_tokens, max_new_tokens, n_predict;
    int64_t min_tokens, seed, logprobs, top_logprobs, prompt_logprobs;
    int64_t priority, truncate_prompt_tokens, thinking_budget, ttft_ms, timeout_ms;
    double tpot_ms;
    bool stream, include_usage, continuous_usage, echo, want_logprobs, ignore_eos;
    bool include_stop, skip_special, spaces_between, add_special, add_generation_prompt;
    bool timings, timings_per_token;
    bool continue_final, return_token_ids, tokens_as_ids, parallel_tool_calls, beam_search;
    bool include_reasoning;
};

struct api_prompt {
    struct str text;    /* given as text (completion), or what echo shows */
    const int32_t *ids; /* in the arena */
    uint32_t n, max_tokens;
    bool is_text; /* given as text: to be tokenized */
    bool has_bos; /* the tokenizer put its BOS in front, which the text does not show */
};

struct response_form; /* kin.h */
struct embed_form;    /* embed.h */

/* The form that the output must have (structured_in.c). */
enum form_kind {
    FORM_NONE,
    FORM_OBJECT,   /* any JSON object */
    FORM_ANY_JSON, /* any JSON value */
    FORM_SCHEMA,
    FORM_REGEX,
    FORM_CHOICE,
    FORM_EBNF,
    FORM_TAGS, /* structural tags */
    FORM_CALLS /* tool_choice required or a name; strict tools that may be called */
};
struct form {
    enum form_kind kind;
    const char *param;       /* the field that asked for it */
    const json_node *source; /* in the tree until api_prepare; NULL: nothing but the kind */
    bool is_strict, is_compact;
    const struct grammar_tags *tags; /* CALLS: in the arena, set by form_compile */
};

struct api_request {
    enum api_kind kind;             /* how the prompt is made: API_CHAT or API_COMPLETION */
    enum api_kind surface;          /* how it was asked and is to be answered */
    const struct api_context *ctx;  /* borrowed */
    struct arena *arena;            /* borrowed */
    struct json_doc *doc;           /* owned until api_prepare */
    struct json_doc *more;          /* the same: messages that take the place of doc's, or NULL */
    struct response_form *response; /* in the arena; NULL: no Responses request */
    struct embed_form *embed;       /* in the arena; NULL: not about vectors (embed.h) */
    bool is_counted;                /* only its tokens are asked for */
    struct api_fields f;
    struct sl_sampling sampling;     /* but for seed and max_tokens, which a choice sets */
    const struct stop_set *stop_set; /* NULL: no stop strings */
    const struct str *stops;         /* [n_stops], in the arena */
    int n_stops;
    const struct str *bad_words; /* [n_bad_words], in the tree until api_prepare */
    int n_bad_words;
    const json_node *messages, *tools, *documents, *kwargs; /* in the tree until api_prepare */
    struct api_prompt *prompts;                             /* [n_prompts]; one for a chat */
    int n_prompts;
    struct form form;
    struct grammar *grammar; /* owned reference, from api_prepare on; NULL: any output */
    bool has_service_tier;
    struct json_doc
        *some_tools; /* owned until api_prepare: the tools of an allowed_tools, or NULL */
    struct tool_set tool_set;
    bool has_strict_tools;                 /* among those that may be called */
    const struct call_format *call_format; /* what reads the answer's calls; NULL: none are read */
    bool keeps_thinking;                   /* reasoning_format none: thinking stays text */
    enum reasoning_state prompt_thinks;    /* at the prompt's end; set by api_prepare */
    struct str canonical;                  /* in the arena */
};

/* The parts of api_parse; all leave the tree alone. */
int read_body(struct api_request *r, const json_node *root, struct sl_error *e);
int read_fields(struct api_request *r, const json_node *root, struct sl_error *e);
int read_sampling(struct api_request *r, const json_node *root, struct sl_error *e);
int read_chat(struct api_request *r, const json_node *root, struct sl_error *e);
int read_completion(struct api_request *r, const json_node *root, struct sl_error *e);
int read_tools(struct api_request *r, const json_node *root, struct sl_error *e);
int check_messages(const json_node *messages, struct sl_error *e);
int read_form(struct api_request *r, const json_node *root, struct sl_error *e);
/* Compile what read_form found, or take it from the cache. */
int form_compile(struct api_request *r, struct sl_error *e);

bool is_tool_name(struct str s);

/* api_canonical of a tree, into the arena. */
int keep_canonical(struct api_request *r, const json_node *root, struct sl_error *e);

/* The model named in a body is one of ours; an empty name is the default model. */
int check_model(const struct api_context *ctx, struct str model, struct sl_error *e);
/* An array of token ids into the arena; each in [0, n_vocab). */
int read_ids(const json_node *array, const char *param, const struct api_context *ctx,
             struct arena *arena, const int32_t **out, uint32_t *n, struct sl_error *e);
/* The prompt's text of a chat request, appended. */
int render_chat(const struct api_request *r, struct buf *out, struct sl_error *e);
/* SL_ETOOLARGE: the request's arena is full. */
int arena_full(struct sl_error *e);
struct str arena_copy(struct arena *a, struct str s); /* p NULL when full */

#endif
