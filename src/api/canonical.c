/* canonical.c - a request's body as the key of exact repeats. */
#include <stdlib.h>

#include "api/api_impl.h"

enum { CANONICAL_BYTES_MAX = 1 << 20 }; /* longer requests are not worth keeping */

/* Members that change how, when or for whom an answer comes, but no token of it. A field that is
 * not here counts, also one that this server does not know. */
static const char *const neutral[] = {
    "model", /* checked: there is one */
    "stream",       "stream_options",    "user",
    "metadata",     "safety_identifier", "prompt_cache_key",
    "store",        "service_tier",      "prompt_cache_retention",
    "priority",     "ttft_ms",           "tpot_ms",
    "timeout_ms",   "timings",           "timings_per_token",
    "cache_prompt", "id_slot",
};

static bool is_neutral(const json_node *member)
{
    if (json_type(member) == JSON_NULL) return true; /* as if it were absent */
    for (size_t i = 0; i < sizeof neutral / sizeof *neutral; i++)
        if (str_is(json_key(member), neutral[i])) return true;
    return false;
}

static int by_name(const void *a, const void *b)
{
    struct str x = json_key(*(const json_node *const *)a),
               y = json_key(*(const json_node *const *)b);
    int order = memcmp(x.p, y.p, x.n < y.n ? x.n : y.n);
    return order ? order : (x.n > y.n) - (x.n < y.n);
}

int keep_canonical(struct api_request *r, const json_node *root, struct sl_error *e)
{
    bool is_determined = r->sampling.temperature == 0 || r->f.seed != API_ABSENT;
    size_t n = 0, n_max = json_len(root);
    r->canonical = STR("");
    if (!r->ctx->keep_canonical || !is_determined || r->surface > API_COMPLETION) return 0;
    const json_node **members = arena_array(r->arena, n_max, sizeof *members);
    if (!members) return arena_full(e);
    for (const json_node *c = json_child(root); c; c = json_next(c))
        if (!is_neutral(c)) members[n++] = c;
    qsort(members, n, sizeof *members, by_name);
    struct buf b = buf_make(CANONICAL_BYTES_MAX);
    buf_puts(&b, r->kind == API_CHAT ? "chat" : "completion");
    for (size_t i = 0; i < n; i++) {
        json_put_str(&b, json_key(members[i]));
        json_put_node(&b, members[i]);
    }
    if (!b.overflow) r->canonical = arena_copy(r->arena, buf_str(&b));
    buf_free(&b);
    return r->canonical.p ? 0 : arena_full(e);
}
