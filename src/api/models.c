/* models.c - GET /v1/models and /v1/models/ID. Every served name is an entry; the first is the one
 * answers carry. */
#include "api/api_impl.h"

static void put_model(const struct api_context *ctx, const char *name, struct buf *out)
{
    buf_puts(out, "{\"id\":");
    json_put_str(out, str_of(name));
    buf_puts(out, ",\"object\":\"model\",\"created\":");
    buf_put_i64(out, ctx->created);
    buf_puts(out, ",\"owned_by\":\"sluice\",\"root\":");
    json_put_str(out, str_of(ctx->served_names[0]));
    buf_puts(out, ",\"parent\":null,\"permission\":[],\"max_model_len\":");
    buf_put_i64(out, ctx->info->max_model_len);
    buf_puts(out, ",\"meta\":{\"n_vocab\":"); /* as llama.cpp's server says it */
    buf_put_i64(out, ctx->info->n_vocab);
    buf_puts(out, "}}");
}

void api_models(const struct api_context *ctx, struct buf *out)
{
    buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < ctx->n_served; i++) {
        if (i) buf_putc(out, ',');
        put_model(ctx, ctx->served_names[i], out);
    }
    buf_puts(out, "]}");
}

int api_model(const struct api_context *ctx, struct str id, struct buf *out, struct sl_error *e)
{
    if (!id.p) id = STR("");
    TRY(check_model(ctx, id, e));
    for (int i = 0; i < ctx->n_served; i++)
        if (str_is(id, ctx->served_names[i])) put_model(ctx, ctx->served_names[i], out);
    return 0;
}
