/* replay.c - answers from the cache: the engine's events of an earlier, equal request, fed once more
 * through this request's own answer.
 */
#include <time.h>

#include "server/http_request.h"

static bool make_key(struct request *r)
{
    uint64_t tenant[2];
    struct str canonical = api_canonical(r->api);
    if (!r->s->cache || canonical.n == 0) return false;
    auth_salt(r->s->auth, r->key, api_cache_salt(r->api), tenant);
    const struct str parts[] = {{(const char *)tenant, sizeof tenant}, canonical};
    sha256(r->cache_key, parts, 2);
    return true;
}

bool replay_try(struct request *r)
{
    size_t n;
    if (!make_key(r)) return false;
    const struct cached_event *v = answer_cache_get(r->s->cache, r->cache_key, &n);
    r->is_recording = !v;
    if (!v) return false;
    r->is_replayed = true;
    r->resp = api_response_new(r->api, r->id + 4, (int64_t)time(NULL));
    api_response_start(r->resp, &r->out);
    for (size_t i = 0; i < n; i++) api_response_event(r->resp, v[i].choice, &v[i].event, &r->out);
    generate_settle(r);
    ASSERT(r->is_ended); /* only whole answers are kept */
    return true;
}
