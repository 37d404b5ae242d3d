/* prepare.c - api_prepare: messages through the template, text through the tokenizer, lengths
 * against the context.
 *
 * May run on a work-pool thread. When it returns the JSON tree is gone and the request is plain
 * data in its arena.
 */
#include "api/answer_formats.h"
#include "api/kin.h"

enum { PROMPT_TEXT_MAX = 64 << 20 }; /* a rendered prompt's bytes: no less than a body may have */

/* ------------------------------------------------------------------ the template */

static void put_member(struct buf *b, const char *name, const char *value)
{
    buf_puts(b, b->n > 1 ? "," : "");
    json_put_str(b, str_of(name));
    buf_putc(b, ':');
    buf_puts(b, value);
}

static void put_choice(struct buf *b, const json_node *kwargs, const char *name, struct str value)
{
    if (!value.p || json_get(kwargs, name)) return;
    put_member(b, name, "");
    json_put_str(b, value);
}

/* chat_template_kwargs and the fields that are template variables, as one object; the former win.
 */
static int merge_kwargs(const struct api_request *r, struct json_doc **out, struct sl_error *e)
{
    const struct api_fields *f = &r->f;
    struct buf b = buf_make(PROMPT_TEXT_MAX);
    *out = NULL;
    if (!f->reasoning_effort.p && !f->verbosity.p) return 0;
    buf_putc(&b, '{');
    for (const json_node *c = json_child(r->kwargs); c; c = json_next(c)) {
        buf_puts(&b, b.n > 1 ? "," : "");
        json_put_str(&b, json_key(c));
        buf_putc(&b, ':');
        json_put_node(&b, c);
    }
    put_choice(&b, r->kwargs, "reasoning_effort", f->reasoning_effort);
    put_choice(&b, r->kwargs, "verbosity", f->verbosity);
    bool off = f->reasoning_effort.p && str_is(f->reasoning_effort, "none");
    if (off && !json_get(r->kwargs, "enable_thinking")) put_member(&b, "enable_thinking", "false");
    buf_putc(&b, '}');
    int code = b.overflow ? arena_full(e) : json_parse(out, b.p, b.n, &json_limits_request, e);
    buf_free(&b);
    return code;
}

int render_chat(const struct api_request *r, struct buf *out, struct sl_error *e)
{
    if (!r->ctx->text->chat)
        return sl_fail_param(
            e, SL_EINVAL, "messages",
            "This model has no chat template; start the server with --chat-template, or use "
            "/v1/completions.");
    struct json_doc *kwargs;
    TRY(merge_kwargs(r, &kwargs, e));
    struct chat_request q = {.messages = r->messages,
                             .tools = r->tools,
                             .documents = r->documents,
                             .kwargs = kwargs ? json_root(kwargs) : r->kwargs,
                             .add_generation_prompt = r->f.add_generation_prompt,
                             .continue_final_message = r->f.continue_final};
    int code = chat_render(r->ctx->text->chat, &q, out, e);
    json_free(kwargs);
    if (code == 0 && out->overflow) return arena_full(e);
    return code;
}

/* echo in a chat (vLLM): the answer starts with the last message's text if that message is the
 * assistant's. */
static int set_chat_echo(struct api_request *r, struct sl_error *e)
{
    const json_node *last = NULL;
    for (const json_node *m = json_child(r->messages); m; m = json_next(m)) last = m;
    const json_node *content = json_opt(last, "content");
    if (!r->f.echo || !str_is(json_str(json_opt(last, "role")), "assistant")) return 0;
    if (json_type(content) != JSON_STR) return 0;
    r->prompts->text = arena_copy(r->arena, json_str(content));
    return r->prompts->text.p ? 0 : arena_full(e);
}

/* ------------------------------------------------------------------ tokens */

static int keep_ids(struct api_request *r, struct api_prompt *p, const struct ids *ids,
                    struct sl_error *e)
{
    int32_t *copy = arena_array(r->arena, ids->n, sizeof *copy);
    if (!copy || ids->n > UINT32_MAX) return arena_full(e);
    if (ids->n) memcpy(copy, ids->v, ids->n * sizeof *copy);
    p->ids = copy;
    p->n = (uint32_t)ids->n;
    return 0;
}

static int tokenize(struct api_request *r, struct api_prompt *p, struct str text,
                    struct sl_error *e)
{
    const struct tokenizer *t = r->ctx->text->tok;
    struct ids ids = {0};
    unsigned flags = TOK_PARSE_SPECIAL | (r->f.add_special ? TOK_ADD_SPECIAL : 0u);
    int code = tokenizer_encode(t, text, flags, &ids, e);
    if (code == 0) code = keep_ids(r, p, &ids, e);
    ids_free(&ids);
    if (code < 0) return code;
    for (uint32_t i = 0; i < p->n; i++)
        if (p->ids[i] < 0 || p->ids[i] >= r->ctx->info->n_vocab)
            return sl_fail(e, SL_EINVAL, "the prompt has token %d, beyond the model's %d",
                           p->ids[i], r->ctx->info->n_vocab);
    struct str bos = p->n ? tokenizer_special_text(t, p->ids[0]) : STR("");
    p->has_bos = r->f.add_special && p->n && p->ids[0] == tokenizer_bos(t) &&
                 !(text.n >= bos.n && bos.n && memcmp(text.p, bos.p, bos.n) == 0);
    return 0;
}

int prepare_messages(struct api_request *r, struct sl_error *e)
{
    struct buf text = buf_make(PROMPT_TEXT_MAX);
    int code = render_chat(r, &text, e);
    r->prompt_thinks = reasoning_at_end(r->ctx->formats.reasoning, buf_str(&text));
    if (code == 0) code = tokenize(r, r->prompts, buf_str(&text), e);
    buf_free(&text);
    return code;
}

static int prepare_chat(struct api_request *r, struct sl_error *e)
{
    const struct response_form *form = r->response;
    if (form && form->previous_id.p && !form->is_joined)
        return sl_fail_param(e, SL_EPARAM, "previous_response_id",
                             "'previous_response_id' is not available here.");
    TRY(prepare_messages(r, e));
    if (form && form->drops_oldest) TRY(history_fit(r, e));
    return set_chat_echo(r, e);
}

static int decode_echo(struct api_request *r, struct api_prompt *p, struct sl_error *e)
{
    struct buf text = buf_make(PROMPT_TEXT_MAX);
    int code = tokenizer_decode(r->ctx->text->tok, p->ids, p->n, r->f.skip_special, &text);
    if (code == 0 && !text.overflow) p->text = arena_copy(r->arena, buf_str(&text));
    buf_free(&text);
    return code < 0 ? code : p->text.p ? 0 : arena_full(e);
}

/* ------------------------------------------------------------------ lengths */

static void truncate_prompt(const struct api_request *r, struct api_prompt *p)
{
    int64_t keep = r->f.truncate_prompt_tokens, room = r->ctx->info->max_model_len;
    if (keep == API_ABSENT) return;
    if (keep < 0) {
        int64_t want = r->f.max_tokens == API_ABSENT ? 1 : r->f.max_tokens;
        keep = want < room ? room - want : 1;
    }
    if (keep >= p->n) return;
    p->ids += p->n - (uint32_t)keep;
    p->n = (uint32_t)keep;
    p->has_bos = false;
}

/* The field that the prompt comes from. */
static const char *prompt_param(const struct api_request *r)
{
    switch (r->surface) {
    case API_CHAT:
    case API_MESSAGE:
        return "messages";
    case API_COMPLETION:
        return "prompt";
    case API_RERANK:
        return "documents";
    case API_SCORE:
        return "text_2";
    case API_RESPONSE:
    case API_EMBEDDING:
        break;
    }
    return "input";
}

static int check_length(const struct api_request *r, struct api_prompt *p, struct sl_error *e)
{
    bool chat = r->kind == API_CHAT;
    const char *param = prompt_param(r);
    const struct generation_defaults *d = &r->ctx->text->defaults;
    int64_t len = r->ctx->info->max_model_len, n = p->n, want = r->f.max_tokens;
    if (n == 0) return sl_fail_param(e, SL_EINVAL, param, "The prompt has no tokens.");
    if (n > len || (n == len && want != 0))
        return sl_fail_param(
            e, SL_ECONTEXT, param,
            "This model's maximum context length is %lld tokens. However, your messages "
            "resulted in %lld tokens. Please reduce the length of the messages or completion.",
            (long long)len, (long long)n);
    bool given = want != API_ABSENT;
    if (!given)
        want = !chat                                             ? 16
               : r->ctx->model_defaults && d->max_new_tokens > 0 ? d->max_new_tokens
                                                                 : len;
    if (given && want > len - n && r->ctx->strict_length)
        return sl_fail_param(
            e, SL_ECONTEXT, param,
            "This model's maximum context length is %lld tokens. However, you requested %lld "
            "tokens (%lld in the messages, %lld in the completion). Please reduce the length of "
            "the messages or completion.",
            (long long)len, (long long)(n + want), (long long)n, (long long)want);
    p->max_tokens = (uint32_t)(want < len - n ? want : len - n);
    return 0;
}

/* ------------------------------------------------------------------ bad words */

/* A word at a line's start and inside a sentence are different tokens: vLLM bans the word without a
 * leading space, and with one where that gives as many tokens with another first one. */
static int add_bad_word(const struct api_request *r, struct str word, struct ids *all,
                        struct ids *lens, struct sl_error *e)
{
    char spaced[BAD_WORD_BYTES_MAX + 2] = " ";
    size_t first = all->n, n_plain = 0;
    while (word.n && (*word.p == ' ' || *word.p == '\t' || *word.p == '\n')) word.p++, word.n--;
    memcpy(spaced + 1, word.p, word.n);
    for (int space = 0; space < 2; space++) {
        struct str text = {spaced + 1 - space, word.n + (size_t)space};
        size_t at = all->n;
        TRY(tokenizer_encode(r->ctx->text->tok, text, 0, all, e));
        size_t n = all->n - at;
        bool take = n > 0 && (!space || (n == n_plain && all->v[at] != all->v[first]));
        if (!space) n_plain = n;
        if (take && lens->n < SL_BAD_WORDS_MAX)
            ids_push(lens, (int32_t)n);
        else if (take)
            return sl_fail_param(e, SL_ELONG, "bad_words",
                                 "Invalid 'bad_words': more than %d token sequences.",
                                 SL_BAD_WORDS_MAX);
        else
            all->n = at;
    }
    return 0;
}

static int prepare_bad_words(struct api_request *r, struct sl_error *e)
{
    struct ids all = {0}, lens = {0};
    int code = 0;
    for (int i = 0; i < r->n_bad_words && code == 0; i++)
        code = add_bad_word(r, r->bad_words[i], &all, &lens, e);
    for (size_t i = 0; i < all.n && code == 0; i++)
        if (all.v[i] < 0 || all.v[i] >= r->ctx->info->n_vocab)
            code = sl_fail_param(e, SL_EVALUE, "bad_words",
                                 "Invalid 'bad_words': beyond the model's vocabulary.");
    int32_t *ids = code == 0 ? arena_array(r->arena, all.n, sizeof *ids) : NULL;
    uint32_t *len = code == 0 ? arena_array(r->arena, lens.n, sizeof *len) : NULL;
    if (code == 0 && ids && len) {
        if (all.n) memcpy(ids, all.v, all.n * sizeof *ids);
        for (size_t i = 0; i < lens.n; i++) len[i] = (uint32_t)lens.v[i];
        r->sampling.bad_words = ids;
        r->sampling.bad_word_len = len;
        r->sampling.n_bad_words = (uint32_t)lens.n;
    } else if (code == 0) {
        code = arena_full(e);
    }
    ids_free(&all);
    ids_free(&lens);
    return code;
}

static int prepare_prompt(struct api_request *r, struct api_prompt *p, struct sl_error *e)
{
    if (p->is_text) TRY(tokenize(r, p, p->text, e));
    truncate_prompt(r, p);
    if (!r->is_counted) TRY(check_length(r, p, e));
    if (r->kind == API_CHAT || !r->f.echo) return 0;
    bool verbatim = p->is_text && r->f.truncate_prompt_tokens == API_ABSENT;
    return verbatim ? 0 : decode_echo(r, p, e);
}

static int prepare(struct api_request *r, struct sl_error *e)
{
    if (r->kind == API_CHAT) TRY(prepare_chat(r, e));
    for (int i = 0; i < r->n_prompts; i++) TRY(prepare_prompt(r, &r->prompts[i], e));
    return r->n_bad_words ? prepare_bad_words(r, e) : 0;
}

int api_prepare(struct api_request *r, struct sl_error *e)
{
    int code = prepare(r, e);
    if (code == 0 && !r->is_counted) code = form_compile(r, e);
    if (code < 0) kin_rename_param(r->surface, e);
    json_free(r->doc);
    json_free(r->more);
    json_free(r->some_tools);
    r->doc = r->more = r->some_tools = NULL;
    return code;
}
