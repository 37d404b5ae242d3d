/* choice.h - one choice's text machine: engine events in, released text and log probabilities out.
 *
 * tokens -> detokenizer -> stop strings -> text that may go out -> a chat's: thinking, content and
 * calls. Text is held back while it may
 * still become a stop string; a token's log probability goes out with the first byte of its text,
 * so that a stream and a whole answer list the same entries in the same order. Positions are bytes
 * from the start of the choice's text (echo included). One owner (the io thread).
 */
#ifndef API_CHOICE_H
#define API_CHOICE_H

#include "api/api_impl.h"

struct lp_top {
    int32_t token;
    float logprob;
};

struct lp_entry {
    int32_t token, rank;
    float logprob;
    bool is_first;         /* the prompt's first token: no probability, written as null */
    uint32_t n_top, chars; /* alternatives; code points of text before this token */
    size_t top;            /* index into the list's tops */
    uint64_t start;        /* where its text begins */
};

struct lp_list {
    struct lp_entry *v;  /* owned */
    size_t n, cap, head; /* [head, n) have not gone out */
    struct lp_top *top;  /* owned */
    size_t n_top, cap_top;
};

struct choice {
    const struct api_request *r; /* borrowed */
    const struct api_prompt *prompt;
    struct detok detok;
    struct buf text; /* decoded, from position `base` on */
    uint64_t base;
    uint64_t limit; /* text before this position may go out */
    uint32_t chars; /* code points decoded */
    struct stop_scan scan;
    struct answer *answer;    /* owned; what the text means. NULL: it is all content */
    uint32_t n_reasoning;     /* tokens of thinking */
    struct lp_list lp;        /* of the tokens whose text the choice shows */
    struct lp_list prompt_lp; /* as the engine tells them */
    struct ids out_ids;       /* generated ids, when asked for */
    size_t ids_sent;
    struct sl_event pending; /* a PROMPT or TOKEN event whose TOP events are still to come */
    struct lp_list *pending_list;
    int tops_left;
    uint32_t n_tokens, n_cached;
    bool is_waiting; /* echo with log probabilities: the prompt's are not all in */
    bool is_finished;
    enum sl_finish reason;
    int error;       /* code when reason is SL_FINISH_ERROR */
    int stop_string; /* index of the stop string that ended it, or -1 */
    int32_t stop_id; /* the stop_token_ids entry that ended it, or -1 */
};

void choice_init(struct choice *c, const struct api_request *r, const struct api_prompt *prompt);
/* Before the first event of a chat: read calls and thinking out of the text. id: the response's. */
void choice_parse(struct choice *c, struct str id, int index);
void choice_free(struct choice *c);
/* One event. True when text may have become ready or the choice is finished: take its slices now.
 * Events after the end are ignored. */
bool choice_event(struct choice *c, const struct sl_event *ev);

struct slice {
    struct str text; /* the event's */
    struct answer_event ev;
    const struct lp_entry *lp;
    size_t n_lp;
    const struct lp_top *top; /* what the entries' `top` counts from */
};
/* The next piece to go out, cut to what fits one SSE line; false when nothing is ready. Give its
 * text back with choice_drop (the number of bytes) before the next call of any kind; its entries
 * count as gone. */
bool choice_take(struct choice *c, struct slice *out);
void choice_drop(struct choice *c, size_t n);
/* Of a finished choice that was never taken from: everything at once. A chat's parts are gathered in
 * w, which must be empty (NULL for a completion); the slice's text and entries are the content's. */
struct slice choice_all(struct choice *c, struct answer_whole *w);

/* "stop", "length" or "tool_calls". */
const char *choice_finish_reason(const struct choice *c);

#endif
