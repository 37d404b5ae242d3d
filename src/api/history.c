/* history.c - a Responses request's messages with what came before them: kept turns in front, and
 * the oldest dropped where truncation is "auto" and the context is too short.
 *
 * Both write a new list of messages and parse it into r->more, which lives until api_prepare ends.
 */
#include "api/kin.h"

/* Takes the text of a list of messages. */
static int use_messages(struct api_request *r, const struct buf *list, struct sl_error *e)
{
    struct json_doc *doc;
    if (list->overflow) return arena_full(e);
    TRY(json_parse(&doc, list->p, list->n, &json_limits_request, e));
    json_free(r->more);
    r->more = doc;
    r->messages = json_root(doc);
    return 0;
}

static void put_element(struct buf *out, const json_node *v)
{
    if (out->n > 1) buf_putc(out, ',');
    json_put_node(out, v);
}

/* ------------------------------------------------------------------ kept turns */

struct str api_previous_response(const struct api_request *r)
{
    return r->response ? r->response->previous_id : (struct str){0};
}

/* The instructions, the history, the new messages. */
static int put_joined(const struct api_request *r, const json_node *items, struct buf *out,
                      struct sl_error *e)
{
    struct chat_build b;
    const json_node *m = json_child(r->messages);
    buf_putc(out, '[');
    if (r->response->has_instructions) {
        put_element(out, m);
        m = json_next(m);
    }
    build_begin(&b, out->max);
    size_t start = b.start;
    int code = responses_put_history(&b, items, e);
    build_end_messages(&b);
    out->overflow |= b.out.overflow;
    if (code == 0 && b.out.n > start + 1) {
        if (out->n > 1) buf_putc(out, ',');
        buf_put(out, b.out.p + start, b.out.n - 1 - start); /* without the closing bracket */
    }
    build_free(&b);
    for (; m && r->response->has_input; m = json_next(m)) put_element(out, m);
    buf_putc(out, ']');
    return code;
}

static int join_input(struct api_request *r, struct str items, struct sl_error *e)
{
    struct response_form *f = r->response;
    if (!f->is_stored) return 0;
    struct buf all = buf_make(r->arena->max);
    buf_put_str(&all, items);
    if (items.n && f->input.n) buf_putc(&all, ',');
    buf_put_str(&all, f->input);
    f->input = all.overflow ? (struct str){0} : arena_copy(r->arena, buf_str(&all));
    buf_free(&all);
    return f->input.p ? 0 : arena_full(e);
}

int api_join_history(struct api_request *r, struct str items, struct sl_error *e)
{
    struct json_doc *doc;
    struct buf list = buf_make(r->arena->max);
    ASSERT(r->response && r->doc);
    buf_putc(&list, '[');
    buf_put_str(&list, items);
    buf_putc(&list, ']');
    int code =
        list.overflow ? arena_full(e) : json_parse(&doc, list.p, list.n, &json_limits_request, e);
    buf_free(&list);
    TRY(code);
    struct buf messages = buf_make(r->arena->max);
    code = put_joined(r, json_root(doc), &messages, e);
    json_free(doc);
    if (code == 0) code = use_messages(r, &messages, e);
    buf_free(&messages);
    if (code == 0) code = join_input(r, items, e);
    r->response->is_joined = code == 0;
    return code;
}

/* ------------------------------------------------------------------ truncation */

static bool is_role(const json_node *m, const char *role)
{
    return str_is(json_str(json_opt(m, "role")), role);
}

/* The list from the first kept user message on: what sets the tone (system, developer) stays. */
static void put_kept(const json_node *messages, int n_dropped_users, struct buf *out)
{
    int n_users = 0;
    buf_putc(out, '[');
    for (const json_node *m = json_child(messages); m; m = json_next(m)) {
        n_users += is_role(m, "user");
        if (n_users > n_dropped_users || is_role(m, "system") || is_role(m, "developer"))
            put_element(out, m);
    }
    buf_putc(out, ']');
}

static int try_dropping(struct api_request *r, const json_node *all, int n_users,
                        struct sl_error *e)
{
    struct buf list = buf_make(r->arena->max);
    put_kept(all, n_users, &list);
    int code = use_messages(r, &list, e);
    buf_free(&list);
    return code < 0 ? code : prepare_messages(r, e);
}

int history_fit(struct api_request *r, struct sl_error *e)
{
    int64_t len = r->ctx->info->max_model_len, want = r->f.max_tokens;
    int64_t room = want != API_ABSENT && want < len ? len - want : len - 1;
    const json_node *all = r->messages;
    int n_users = 0, low = 0, code = 0; /* dropping `low` is too little, `high` is the most */
    if (r->prompts->n <= room) return 0;
    for (const json_node *m = json_child(all); m; m = json_next(m)) n_users += is_role(m, "user");
    int high = n_users - 1, tried = 0;
    struct json_doc *kept = r->more; /* `all` may lie in it */
    r->more = NULL;
    while (low + 1 < high && code == 0) {
        tried = low + (high - low) / 2;
        code = try_dropping(r, all, tried, e);
        if (code == 0 && r->prompts->n <= room)
            high = tried;
        else
            low = tried;
    }
    if (code == 0 && high > 0 && tried != high) code = try_dropping(r, all, high, e);
    json_free(kept);
    return code;
}
