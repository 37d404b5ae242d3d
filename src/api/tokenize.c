/* tokenize.c - /tokenize, /detokenize, /apply-template: the forms of vLLM and of llama.cpp, told
 * apart by the key present. */
#include "api/api_impl.h"

enum { BODY_ARENA_MAX = 256 << 20, TEXT_MAX = 256 << 20 };

struct tokenize_fields {
    struct str model, prompt, content;
    bool add_special_tokens, return_token_strs;   /* vLLM */
    bool add_special, parse_special, with_pieces; /* llama.cpp */
};

#define AT(member) offsetof(struct tokenize_fields, member)
static const struct field rows[] = {
    {"model", FIELD_STR, AT(model), 0, 0},
    {"prompt", FIELD_STR, AT(prompt), 0, 0},
    {"content", FIELD_STR, AT(content), 0, 0},
    {"add_special_tokens", FIELD_BOOL, AT(add_special_tokens), 0, 0},
    {"return_token_strs", FIELD_BOOL, AT(return_token_strs), 0, 0},
    {"add_special", FIELD_BOOL, AT(add_special), 0, 0},
    {"parse_special", FIELD_BOOL, AT(parse_special), 0, 0},
    {"with_pieces", FIELD_BOOL, AT(with_pieces), 0, 0},
};
#undef AT

static int render_body(const struct api_context *ctx, struct str body, struct buf *text,
                       struct sl_error *e)
{
    struct arena arena = arena_make(BODY_ARENA_MAX);
    struct api_request *r;
    int code = api_parse(&r, API_CHAT, ctx, body, &arena, e);
    if (code == 0) {
        code = render_chat(r, text, e);
        api_request_free(r);
    }
    arena_free(&arena);
    return code;
}

int api_apply_template(const struct api_context *ctx, struct str body, struct buf *out,
                       struct sl_error *e)
{
    struct buf text = buf_make(TEXT_MAX);
    int code = render_body(ctx, body, &text, e);
    if (code == 0) {
        buf_puts(out, "{\"prompt\":");
        json_put_str(out, buf_str(&text));
        buf_putc(out, '}');
    }
    buf_free(&text);
    return code;
}

static void put_piece(const struct api_context *ctx, int32_t id, struct buf *out)
{
    struct buf bytes = buf_make(1 << 20);
    tokenizer_token_bytes(ctx->text->tok, id, &bytes);
    json_put_str(out, buf_str(&bytes));
    buf_free(&bytes);
}

static void put_tokens(const struct api_context *ctx, const struct tokenize_fields *f,
                       const struct ids *ids, struct buf *out)
{
    buf_puts(out, "{\"count\":");
    buf_put_i64(out, (int64_t)ids->n);
    buf_puts(out, ",\"max_model_len\":");
    buf_put_i64(out, ctx->info->max_model_len);
    buf_puts(out, ",\"tokens\":[");
    for (size_t i = 0; i < ids->n; i++) {
        if (i) buf_putc(out, ',');
        if (f->with_pieces) buf_puts(out, "{\"id\":");
        buf_put_i64(out, ids->v[i]);
        if (!f->with_pieces) continue;
        buf_puts(out, ",\"piece\":");
        put_piece(ctx, ids->v[i], out);
        buf_putc(out, '}');
    }
    buf_puts(out, "],\"token_strs\":");
    if (!f->return_token_strs) {
        buf_puts(out, "null}");
        return;
    }
    for (size_t i = 0; i < ids->n; i++) {
        buf_putc(out, i ? ',' : '[');
        put_piece(ctx, ids->v[i], out);
    }
    buf_puts(out, ids->n ? "]}" : "[]}");
}

static int tokenize_body(const struct api_context *ctx, const json_node *root, struct str body,
                         struct buf *out, struct sl_error *e)
{
    struct tokenize_fields f = {.add_special_tokens = true, .parse_special = true};
    bool chat = json_opt(root, "messages") != NULL;
    if (chat) f.add_special_tokens = false;
    TRY(fields_read(root, "", rows, sizeof rows / sizeof *rows, &f, e));
    TRY(check_model(ctx, f.model, e));
    if (!chat && !f.prompt.p && !f.content.p)
        return sl_fail_param(e, SL_EMISSING, "prompt", "Missing required parameter: 'prompt'.");
    bool llama = !chat && !f.prompt.p;
    unsigned flags =
        llama ? (f.add_special ? TOK_ADD_SPECIAL : 0u) | (f.parse_special ? TOK_PARSE_SPECIAL : 0u)
              : TOK_PARSE_SPECIAL | (f.add_special_tokens ? TOK_ADD_SPECIAL : 0u);
    struct buf text = buf_make(TEXT_MAX);
    struct ids ids = {0};
    int code = 0;
    if (chat)
        code = render_body(ctx, body, &text, e);
    else
        buf_put_str(&text, llama ? f.content : f.prompt);
    if (code == 0) code = tokenizer_encode(ctx->text->tok, buf_str(&text), flags, &ids, e);
    if (code == 0) put_tokens(ctx, &f, &ids, out);
    buf_free(&text);
    ids_free(&ids);
    return code;
}

int api_tokenize(const struct api_context *ctx, struct str body, struct buf *out,
                 struct sl_error *e)
{
    struct json_doc *doc;
    TRY(json_parse(&doc, body.p, body.n, &json_limits_request, e));
    const json_node *root = json_root(doc);
    int code = field_is(root, JSON_OBJ, "body", "an object", e);
    if (code == 0) code = tokenize_body(ctx, root, body, out, e);
    json_free(doc);
    return code;
}

static int detokenize_body(const struct api_context *ctx, const json_node *root,
                           struct arena *arena, struct buf *out, struct sl_error *e)
{
    const json_node *list = json_opt(root, "tokens");
    const int32_t *ids;
    uint32_t n;
    if (!list)
        return sl_fail_param(e, SL_EMISSING, "tokens", "Missing required parameter: 'tokens'.");
    TRY(read_ids(list, "tokens", ctx, arena, &ids, &n, e));
    struct buf text = buf_make(TEXT_MAX);
    int code = tokenizer_decode(ctx->text->tok, ids, n, false, &text);
    if (code < 0) sl_fail(e, code, "the tokens cannot be decoded");
    if (code == 0) {
        buf_puts(out, "{\"prompt\":");
        json_put_str(out, buf_str(&text));
        buf_puts(out, ",\"content\":");
        json_put_str(out, buf_str(&text));
        buf_putc(out, '}');
    }
    buf_free(&text);
    return code;
}

int api_detokenize(const struct api_context *ctx, struct str body, struct buf *out,
                   struct sl_error *e)
{
    struct json_doc *doc;
    struct arena arena = arena_make(BODY_ARENA_MAX);
    TRY(json_parse(&doc, body.p, body.n, &json_limits_request, e));
    int code = field_is(json_root(doc), JSON_OBJ, "body", "an object", e);
    if (code == 0) code = detokenize_body(ctx, json_root(doc), &arena, out, e);
    arena_free(&arena);
    json_free(doc);
    return code;
}
