/* answer_harmony.c - gpt-oss: an answer is a chain of messages, each with a channel and perhaps a
 * recipient: `<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>commentary
 * to=functions.wx <|constrain|>json<|message|>{...}<|call|>`. analysis is thinking, a message to a
 * function is a call, all else is content. The generation prompt ends with `<|start|>assistant`.
 */
#include "api/answer_impl.h"

enum { HEADER_BYTES_MAX = 512 };

static const char message[] = "<|message|>";
static const struct call_format harmony_row = {.name = "openai", .is_harmony = true};
static const char *const ends[] = {"<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>"};
enum { N_ENDS = sizeof ends / sizeof *ends, END_STAYS = 3 }; /* from there on it opens a header */

static struct str find_word(struct str header, const char *behind)
{
    size_t n = strlen(behind);
    const char *p = header.n ? memmem(header.p, header.n, behind, n) : NULL;
    if (!p) return STR("");
    struct str s = {p + n, header.n - (size_t)(p + n - header.p)};
    size_t k = 0;
    while (k < s.n && !is_blank(s.p[k]) && s.p[k] != '<') k++;
    return (struct str){s.p, k};
}

/* No header stands here: the text is content, its first letter whatever it is. */
static enum go plain(struct answer *a, size_t first)
{
    a->body = BODY_CONTENT;
    a->is_closed = false;
    a->phase = P_BODY;
    a->scan = first < a->in.n ? first + 1 : first;
    return GO;
}

/* Two messages of one kind: a line's end between them. */
static void separate(struct answer *a)
{
    if (a->body == BODY_REASONING && a->has_reasoning) emit_reasoning(a, STR("\n"));
    if (a->body == BODY_CONTENT && a->has_content) {
        if (a->gap.n == 0) buf_putc(&a->gap, '\n'); /* shown if text follows */
    }
}

static void open_body(struct answer *a, struct str header)
{
    struct str to = find_word(header, "to="), channel = find_word(header, "<|channel|>");
    bool is_function = to.n > 10 && memcmp(to.p, "functions.", 10) == 0;
    bool is_analysis = str_is(channel, "analysis") && a->s.reasoning && a->s.reasoning->is_harmony;
    call_reset(a);
    a->row = &harmony_row;
    a->is_section_begun = false;
    a->body = is_analysis ? BODY_REASONING : BODY_CONTENT;
    if (is_function && a->s.calls && a->s.calls->is_harmony) {
        a->body = BODY_CALL;
        buf_put(&a->name, to.p + 10, to.n - 10);
        a->has_name = true;
        literal_begin(&a->lit, LITERAL_JSON);
    }
}

/* Where <|message|> stands. MISFIT: no header is here, at most blanks up to *i. */
static enum fit find_header(const struct answer *a, size_t *i, size_t *end)
{
    size_t left = a->in.n - a->at, n_mark = sizeof message - 1;
    size_t window = left < HEADER_BYTES_MAX ? left : HEADER_BYTES_MAX;
    *i = a->at;
    while (*i < a->in.n && is_blank(a->in.p[*i]) && *i - a->at < HEADER_BYTES_MAX) ++*i;
    bool may_open =
        *i == a->in.n || match_text(a, *i, "<|") != MISFIT || match_text(a, *i, "to=") != MISFIT;
    const char *hit = window ? memmem(a->in.p + a->at, window, message, n_mark) : NULL;
    if (!may_open) return MISFIT;
    if (hit) return *end = (size_t)(hit - a->in.p), FIT;
    return window == HEADER_BYTES_MAX || a->is_ended ? MISFIT : UNSURE;
}

enum go run_header(struct answer *a)
{
    size_t i = 0, end = 0;
    enum fit fit = find_header(a, &i, &end);
    bool is_cut = a->is_ended && (a->has_content || a->has_reasoning || a->n_calls) &&
                  (i == a->in.n || a->in.p[i] == '<');
    if (fit == UNSURE || (fit == MISFIT && is_cut)) return MORE;
    if (fit == MISFIT) return plain(a, i);
    open_body(a, (struct str){a->in.p + a->at, end - a->at});
    a->at = a->scan = a->section_at = end + sizeof message - 1;
    if (a->body != BODY_CALL) a->lo = a->at; /* a call's header is kept until it has begun */
    separate(a);
    a->phase = P_BODY;
    return GO;
}

/* The first end of a message from `scan` on. UNSURE: one may begin at *at. */
static enum fit find_end(const struct answer *a, size_t *at, int *which)
{
    for (size_t i = a->scan; i < a->in.n; i++) {
        if (a->in.p[i] != '<') continue;
        for (int k = 0; k < N_ENDS; k++) {
            enum fit fit = match_text(a, i, ends[k]);
            *which = k;
            if (fit == FIT) return *at = i, FIT;
            if (fit == UNSURE && !a->is_ended) return *at = i, UNSURE;
        }
    }
    return *at = a->in.n, MISFIT;
}

/* A call's arguments. Behind them, or if they are none, the rest of the message is content. */
static enum go run_call_body(struct answer *a)
{
    enum go go = read_arguments(a, P_BODY);
    if (go == MORE || a->phase == P_OVER) return go;
    if (a->phase == P_CONTENT && a->lo < a->section_at) a->lo = a->section_at; /* it was refused */
    a->at = a->scan = a->lo;
    a->body = BODY_CONTENT;
    a->phase = P_BODY;
    return GO;
}

enum go run_body(struct answer *a)
{
    size_t end;
    int which;
    if (a->body == BODY_CALL) return run_call_body(a);
    enum fit fit = find_end(a, &end, &which);
    while (a->is_closed && a->lo < end && is_blank(a->in.p[a->lo])) a->lo++;
    if (a->lo < end) a->is_closed = false;
    if (a->body == BODY_REASONING)
        emit_reasoning(a, (struct str){a->in.p + a->lo, end - a->lo});
    else
        emit_content(a, a->lo, end);
    a->lo = a->at = a->scan = end;
    if (fit != FIT) return MORE;
    if (which < END_STAYS) a->lo = a->at = a->scan = end + strlen(ends[which]);
    a->phase = P_HEADER;
    return GO;
}
