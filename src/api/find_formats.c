/* find_formats.c - which formats of calls and thinking a model uses: by name, or by its template. Runs
 * once, while the model is loaded.
 */
#include "api/answer_formats.h"
#include "api/api.h"

enum { NAMES_MAX = 1024 };

static bool is_auto(const char *name)
{
    return !name || strcmp(name, "auto") == 0;
}

static bool is_none(const char *name)
{
    return name && strcmp(name, "none") == 0;
}

static int unknown(const char *option, const char *given, void (*names)(struct buf *out),
                   struct sl_error *e)
{
    struct buf list = buf_make(NAMES_MAX);
    names(&list);
    int code = sl_fail(e, SL_EINVAL, "--%s is auto, none, or one of %s; not \"%.40s\"", option,
                       buf_cstr(&list), given);
    buf_free(&list);
    return code;
}

static void add(int32_t *ids, size_t *n, int32_t id)
{
    if (*n < API_MARKERS_MAX) ids[(*n)++] = id;
}

static void find_markers(struct api_formats *f, const struct tokenizer *t)
{
    for (int32_t id = 0; id < (int32_t)tokenizer_n_vocab(t); id++) {
        if (!tokenizer_is_special(t, id)) continue;
        struct str text = tokenizer_special_text(t, id);
        bool thinks = reasoning_format_uses(f->reasoning, text);
        if (thinks) add(f->reasoning_ids, &f->n_reasoning_ids, id);
        if (thinks || call_format_uses(f->calls, text)) add(f->call_ids, &f->n_call_ids, id);
    }
}

/* What opens and closes thinking, as tokens; an opener of several is not looked for. */
static void find_thinking(struct api_formats *f, const struct tokenizer *t)
{
    struct ids open = {0}, close = {0};
    f->thinking = (struct sl_thinking){.open = -1};
    if (!f->reasoning || f->reasoning->is_harmony) return;
    bool good =
        tokenizer_encode(t, str_of(f->reasoning->open), TOK_PARSE_SPECIAL, &open, NULL) == 0 &&
        tokenizer_encode(t, str_of(f->reasoning->close), TOK_PARSE_SPECIAL, &close, NULL) == 0;
    if (good && close.n <= SL_THINK_CLOSE_MAX) {
        memcpy(f->close_ids, close.v, close.n * sizeof *close.v);
        f->thinking.n_close = (uint32_t)close.n;
        if (open.n == 1) f->thinking.open = open.v[0];
    }
    ids_free(&open);
    ids_free(&close);
}

int api_find_formats(struct api_formats *out, const struct model_text *text,
                     const char *tool_call_parser, const char *reasoning_parser, struct sl_error *e)
{
    struct str source = str_of(text->chat_source), calls = str_of(tool_call_parser),
               thinks = str_of(reasoning_parser);
    struct api_formats f = {0};
    if (is_auto(tool_call_parser))
        f.calls = call_format_of(source);
    else if (!is_none(tool_call_parser) && !(f.calls = call_format_named(calls)))
        return unknown("tool-call-parser", tool_call_parser, call_format_names, e);
    if (is_auto(reasoning_parser))
        f.reasoning = reasoning_format_of(source);
    else if (!is_none(reasoning_parser) && !(f.reasoning = reasoning_format_named(thinks)))
        return unknown("reasoning-parser", reasoning_parser, reasoning_format_names, e);
    find_markers(&f, text->tok);
    find_thinking(&f, text->tok);
    *out = f;
    return 0;
}
