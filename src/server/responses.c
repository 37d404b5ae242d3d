/* responses.c - kept Responses: the turn before a new one, keeping a finished one, and the routes
 * that read, list and delete.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "server/handlers.h"
#include "server/http_request.h"
#include "server/response_store.h"

enum { ITEMS_DEFAULT = 20, ITEMS_MAX = 100 }; /* of one page of input items */

/* ------------------------------------------------------------------ around a generation */

int responses_join(struct request *r, struct sl_error *e)
{
    struct str id = api_previous_response(r->api);
    struct response_store *store = r->s->responses;
    if (!id.p) return 0;
    struct buf items = buf_make(r->arena.max);
    int code = 0;
    if (!store || !response_store_history(store, r->key, id, &items))
        code = sl_fail_param(e, SL_ENOPREVIOUS, "previous_response_id",
                             "Previous response with id '%.80s' not found.", id.p);
    if (code == 0 && items.overflow)
        code = sl_fail(e, SL_ETOOLARGE, "the history is larger than a request may be");
    if (code == 0) code = api_join_history(r->api, buf_str(&items), e);
    buf_free(&items);
    return code;
}

void responses_keep(struct request *r)
{
    struct api_kept kept;
    struct buf object = buf_make(r->out.max);
    if (r->s->responses && api_response_kept(r->resp, &kept, &object) && !object.overflow) {
        const struct str part[STORED_PARTS] = {
            [STORED_OBJECT] = buf_str(&object),
            [STORED_INPUT] = kept.input,
            [STORED_OUTPUT] = kept.output,
        };
        response_store_put(r->s->responses, r->key, kept.id, part, (int64_t)time(NULL));
    }
    buf_free(&object);
}

/* ------------------------------------------------------------------ routes */

/* "ID" or "ID/what" of the path; *what is "" where there is none. */
static struct str split_id(const struct request *r, const char **what)
{
    struct str id = str_of(r->match.param);
    const char *slash = strchr(r->match.param, '/');
    *what = slash ? slash + 1 : "";
    if (slash) id.n = (size_t)(slash - r->match.param);
    return id;
}

static enum MHD_Result not_found(struct request *r, struct str id)
{
    sl_fail(&r->err, SL_ENOTFOUND, "Response with id '%.*s' not found.",
            (int)(id.n < 80 ? id.n : 80), id.p);
    return answer_error(r);
}

static enum MHD_Result unknown_url(struct request *r)
{
    sl_fail(&r->err, SL_ENOTFOUND, "Invalid URL (%s /v1/responses/%.120s)", r->route->method,
            r->match.param);
    return answer_error(r);
}

static const char *argument(const struct request *r, const char *name)
{
    return MHD_lookup_connection_value(r->conn->mhd, MHD_GET_ARGUMENT_KIND, name);
}

/* ------------------------------------------------------------------ a page of input items */

struct page {
    int limit;
    bool is_ascending;
    const char *after; /* id of the item before the page, or NULL */
};

static int read_page(const struct request *r, struct page *p, struct sl_error *e)
{
    const char *limit = argument(r, "limit"), *order = argument(r, "order");
    *p = (struct page){.limit = ITEMS_DEFAULT, .after = argument(r, "after")};
    if (limit) {
        char *end;
        long n = strtol(limit, &end, 10);
        if (end == limit || *end || n < 1 || n > ITEMS_MAX)
            return sl_fail_param(e, SL_EVALUE, "limit", "Invalid 'limit': 1 to %d.", ITEMS_MAX);
        p->limit = (int)n;
    }
    if (order && strcmp(order, "asc") != 0 && strcmp(order, "desc") != 0)
        return sl_fail_param(e, SL_EVALUE, "order", "Invalid 'order': 'asc' or 'desc'.");
    p->is_ascending = order && strcmp(order, "asc") == 0;
    return 0;
}

struct item_id {
    char z[64];
};

/* An item's own id, or one made of its place: the same at each call. */
static struct item_id id_of(struct str response, const json_node *item, size_t place)
{
    struct item_id id;
    const json_node *own = json_opt(item, "id");
    struct str hex = response.n > 5 ? (struct str){response.p + 5, response.n - 5} : STR("");
    if (json_type(own) == JSON_STR && json_str(own).n > 0 && json_str(own).n < sizeof id.z)
        snprintf(id.z, sizeof id.z, "%s", json_str(own).p);
    else
        snprintf(id.z, sizeof id.z, "item_%.24s%06zx", hex.p, place);
    return id;
}

/* The item with what lists promise: id, type, and a message's content as parts. */
static void put_item(struct buf *out, const json_node *item, const struct item_id *id)
{
    buf_puts(out, "{\"id\":");
    json_put_str(out, str_of(id->z));
    if (!json_opt(item, "type")) buf_puts(out, ",\"type\":\"message\"");
    for (const json_node *c = json_child(item); c; c = json_next(c)) {
        struct str key = json_key(c);
        if (str_is(key, "id") || (str_is(key, "type") && json_type(c) == JSON_NULL)) continue;
        buf_putc(out, ',');
        json_put_str(out, key);
        buf_putc(out, ':');
        if (!str_is(key, "content") || json_type(c) != JSON_STR) {
            json_put_node(out, c);
            continue;
        }
        bool is_assistant = json_type(json_opt(item, "role")) == JSON_STR &&
                            str_is(json_str(json_opt(item, "role")), "assistant");
        buf_puts(out, is_assistant ? "[{\"type\":\"output_text\",\"annotations\":[],\"text\":"
                                   : "[{\"type\":\"input_text\",\"text\":");
        json_put_node(out, c);
        buf_puts(out, "}]");
    }
    buf_putc(out, '}');
}

static void put_page(struct buf *out, const json_node *items, struct str response,
                     const struct page *p)
{
    size_t n = json_len(items), n_out = 0;
    const json_node **all = xcalloc(n ? n : 1, sizeof *all);
    struct item_id first = {""}, last = {""};
    size_t i = 0;
    bool has_begun = !p->after, has_more = false;
    for (const json_node *c = json_child(items); c; c = json_next(c)) all[i++] = c;
    buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (i = 0; i < n; i++) {
        size_t place = p->is_ascending ? i : n - 1 - i;
        struct item_id id = id_of(response, all[place], place);
        if (!has_begun) {
            has_begun = strcmp(id.z, p->after) == 0;
            continue;
        }
        has_more = n_out == (size_t)p->limit;
        if (has_more) break;
        if (n_out++)
            buf_putc(out, ',');
        else
            first = id;
        last = id;
        put_item(out, all[place], &id);
    }
    free(all);
    buf_puts(out, "],\"first_id\":");
    if (n_out)
        json_put_str(out, str_of(first.z));
    else
        buf_puts(out, "null");
    buf_puts(out, ",\"last_id\":");
    if (n_out)
        json_put_str(out, str_of(last.z));
    else
        buf_puts(out, "null");
    buf_printf(out, ",\"has_more\":%s}", has_more ? "true" : "false");
}

static enum MHD_Result list_input(struct request *r, struct str id)
{
    struct page page;
    struct json_doc *doc;
    struct buf list = buf_make(r->out.max);
    if (read_page(r, &page, &r->err) < 0) return answer_error(r);
    buf_putc(&list, '[');
    bool is_known = response_store_read(r->s->responses, r->key, id, STORED_INPUT, &list);
    buf_putc(&list, ']');
    if (is_known && json_parse(&doc, list.p, list.n, &json_limits_file, &r->err) == 0) {
        put_page(&r->out, json_root(doc), id, &page);
        json_free(doc);
    }
    buf_free(&list);
    if (!is_known) return not_found(r, id);
    return r->err.code ? answer_error(r) : answer_body(r, 200, "application/json");
}

enum MHD_Result finish_response_get(struct request *r)
{
    const char *what;
    struct str id = split_id(r, &what);
    if (!r->s->responses) return not_found(r, id);
    if (strcmp(what, "input_items") == 0) return list_input(r, id);
    if (*what) return unknown_url(r);
    const char *stream = argument(r, "stream");
    if (stream && strcmp(stream, "true") == 0) {
        sl_fail_param(&r->err, SL_EPARAM, "stream", "A kept response is not streamed again.");
        return answer_error(r);
    }
    if (!response_store_read(r->s->responses, r->key, id, STORED_OBJECT, &r->out))
        return not_found(r, id);
    return answer_body(r, 200, "application/json");
}

enum MHD_Result finish_response_delete(struct request *r)
{
    const char *what;
    struct str id = split_id(r, &what);
    if (*what) return unknown_url(r);
    if (!r->s->responses || !response_store_delete(r->s->responses, r->key, id))
        return not_found(r, id);
    buf_puts(&r->out, "{\"id\":");
    json_put_str(&r->out, id);
    buf_puts(&r->out, ",\"object\":\"response\",\"deleted\":true}");
    return answer_body(r, 200, "application/json");
}

/* Only a background response can be cancelled, and there are none: a client that hangs up cancels
 * its own. */
enum MHD_Result finish_response_post(struct request *r)
{
    const char *what;
    struct str id = split_id(r, &what);
    if (strcmp(what, "cancel") != 0) return unknown_url(r);
    if (!r->s->responses ||
        !response_store_read(r->s->responses, r->key, id, STORED_OBJECT, &r->out))
        return not_found(r, id);
    r->out.n = 0;
    sl_fail(&r->err, SL_EINVAL, "Cannot cancel a synchronous response.");
    return answer_error(r);
}
