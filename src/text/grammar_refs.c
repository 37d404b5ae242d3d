/* grammar_refs.c - $ref, $id, $anchor inside one document. Nothing is ever fetched: a reference to
 * another document is an error, unless that document is embedded with its $id.
 */
#include <stdlib.h>

#include "text/grammar_schema.h"

enum { WALK_DEPTH = 512, RESOURCES_MAX = 4096 };

static bool has_scheme(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == ':') return i > 0;
        if (s.p[i] == '/' || s.p[i] == '?' || s.p[i] == '#') return false;
    }
    return false;
}

static struct str without_fragment(struct str s)
{
    const char *hash = s.n ? memchr(s.p, '#', s.n) : NULL;
    return hash ? (struct str){s.p, (size_t)(hash - s.p)} : s;
}

/* RFC 3986 in short: absolute, host-relative, or relative to the last slash of the base. */
static struct str uri_join(struct compiler *c, struct str base, struct str ref)
{
    if (has_scheme(ref)) return ref;
    size_t keep = 0;
    if (ref.n && ref.p[0] == '/') { /* up to the path: after "scheme://host" */
        int slashes = 0;
        for (keep = 0; keep < base.n; keep++)
            if (base.p[keep] == '/' && ++slashes == 3) break;
    } else if (ref.n) {
        for (keep = base.n; keep > 0 && base.p[keep - 1] != '/'; keep--) continue;
    } else {
        keep = base.n;
    }
    char *p = schema_alloc(c, keep + ref.n + 1);
    if (keep) memcpy(p, base.p, keep);
    if (ref.n) memcpy(p + keep, ref.p, ref.n);
    return (struct str){p, keep + ref.n};
}

static void *grow(void *p, uint32_t n, size_t size)
{
    return n & (n - 1) ? p : xrealloc(p, (n ? n * 2 : 1) * size); /* at each power of two */
}

static struct str text_of(const json_node *s, const char *key)
{
    const json_node *v = json_get(s, key);
    return v && json_type(v) == JSON_STR ? json_str(v) : (struct str){0};
}

static void add_anchor(struct compiler *c, struct str name, uint32_t resource, const json_node *s)
{
    if (!name.n) return;
    c->anchors = grow(c->anchors, c->n_anchors, sizeof *c->anchors);
    c->anchors[c->n_anchors++] = (struct anchor){name, resource, s};
}

/* One object of the document: a new resource, an anchor, a reference. Returns its resource. */
static uint32_t visit(struct compiler *c, const json_node *s, uint32_t resource)
{
    struct str id = text_of(s, "$id"), ref = text_of(s, "$ref");
    if (!id.p) id = text_of(s, "id");
    if (ref.p && c->old_ref) id = (struct str){0};
    struct str base = without_fragment(id);
    if (base.n && c->n_resources < RESOURCES_MAX) {
        struct str uri = uri_join(c, c->resources[resource].uri, base);
        c->resources = grow(c->resources, c->n_resources, sizeof *c->resources);
        c->resources[c->n_resources] = (struct resource){uri, s};
        resource = c->n_resources++;
    }
    if (id.n > base.n + 1) /* "#name", as drafts to 7 wrote anchors */
        add_anchor(c, (struct str){id.p + base.n + 1, id.n - base.n - 1}, resource, s);
    add_anchor(c, text_of(s, "$anchor"), resource, s);
    add_anchor(c, text_of(s, "$dynamicAnchor"), resource, s);
    if (ref.p || text_of(s, "$dynamicRef").p || text_of(s, "$recursiveRef").p) {
        c->refs = grow(c->refs, c->n_refs, sizeof *c->refs);
        c->refs[c->n_refs++] = (struct ref){s, resource};
    }
    return resource;
}

static int by_schema(const void *x, const void *y)
{
    const struct ref *a = x, *b = y;
    return a->schema < b->schema ? -1 : a->schema > b->schema;
}

/* Values of these hold data, not schemas. */
static bool is_data(const json_node *v)
{
    struct str key = json_key(v);
    return str_is(key, "enum") || str_is(key, "const") || str_is(key, "default") ||
           str_is(key, "examples");
}

/* v and all below. In a map of names (properties, $defs) keys are names, not keywords. */
static void walk(struct compiler *c, const json_node *v, uint32_t resource, bool is_names,
                 int depth)
{
    static const char *const maps[] = {"properties",  "patternProperties", "$defs",
                                       "definitions", "dependentSchemas",  "dependencies"};
    if (depth > WALK_DEPTH) return;
    if (json_type(v) == JSON_OBJ && !is_names) resource = visit(c, v, resource);
    for (const json_node *m = json_child(v); m; m = json_next(m)) {
        bool is_keyword = json_type(v) == JSON_OBJ && !is_names, names = false;
        if (is_keyword && is_data(m)) continue;
        for (size_t i = 0; is_keyword && i < sizeof maps / sizeof *maps; i++)
            names |= str_is(json_key(m), maps[i]) && json_type(m) == JSON_OBJ;
        if (is_keyword && !names && keyword_of(json_key(m)) == KW_OTHER) continue; /* no schemas */
        if (json_child(m)) walk(c, m, resource, names, depth + 1);
    }
}

void refs_collect(struct compiler *c)
{
    c->resources = grow(NULL, 0, sizeof *c->resources);
    c->resources[c->n_resources++] = (struct resource){{"", 0}, c->root};
    walk(c, c->root, 0, false, 0);
    if (c->n_refs) qsort(c->refs, c->n_refs, sizeof *c->refs, by_schema);
}

/* ------------------------------------------------------------------ resolving */

/* One token of a JSON pointer: percent and tilde escapes taken out, into a buffer of its size. */
static struct str pointer_token(const char *p, size_t n, char *out)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        char ch = p[i];
        if (ch == '%' && n - i > 2) {
            char digits[3] = {p[i + 1], p[i + 2], 0}, *end;
            long byte = strtol(digits, &end, 16);
            if (*end == 0) {
                ch = (char)byte;
                i += 2;
            }
        }
        out[k++] = ch;
    }
    size_t m = 0;
    for (size_t i = 0; i < k; i++) {
        char ch = out[i];
        if (ch == '~' && i + 1 < k && (out[i + 1] == '0' || out[i + 1] == '1'))
            ch = out[++i] == '0' ? '~' : '/';
        out[m++] = ch;
    }
    return (struct str){out, m};
}

static const json_node *child_named(const json_node *v, struct str name)
{
    if (json_type(v) == JSON_OBJ) {
        for (const json_node *m = json_child(v); m; m = json_next(m))
            if (str_eq(json_key(m), name)) return m;
        return NULL;
    }
    if (json_type(v) != JSON_ARR || name.n == 0 || name.n > 9) return NULL;
    size_t index = 0;
    for (size_t i = 0; i < name.n; i++) {
        if (name.p[i] < '0' || name.p[i] > '9') return NULL;
        index = index * 10 + (size_t)(name.p[i] - '0');
    }
    const json_node *m = json_child(v);
    for (; m && index; index--) m = json_next(m);
    return m;
}

static const json_node *by_pointer(struct compiler *c, const json_node *from, struct str pointer)
{
    char *buffer = schema_alloc(c, pointer.n + 1);
    for (size_t i = 0; from && i < pointer.n;) { /* at a slash */
        size_t begin = ++i;
        while (i < pointer.n && pointer.p[i] != '/') i++;
        from = child_named(from, pointer_token(pointer.p + begin, i - begin, buffer));
    }
    return from;
}

static const json_node *by_uri(struct compiler *c, uint32_t resource, struct str ref)
{
    struct str uri = without_fragment(ref);
    struct str fragment = {ref.p + uri.n, ref.n - uri.n};
    if (fragment.n) fragment = (struct str){fragment.p + 1, fragment.n - 1};
    if (uri.n) {
        struct str whole = uri_join(c, c->resources[resource].uri, uri);
        uint32_t i = 0;
        while (i < c->n_resources && !str_eq(c->resources[i].uri, whole)) i++;
        if (i == c->n_resources) return NULL;
        resource = i;
    }
    if (!fragment.n) return c->resources[resource].node;
    if (fragment.p[0] == '/') return by_pointer(c, c->resources[resource].node, fragment);
    for (uint32_t i = 0; i < c->n_anchors; i++)
        if (c->anchors[i].resource == resource && str_eq(c->anchors[i].name, fragment))
            return c->anchors[i].node;
    return NULL;
}

const json_node *refs_resolve(struct compiler *c, const json_node *schema, const json_node *ref)
{
    if (json_type(ref) != JSON_STR) {
        schema_fail(c, SL_ESCHEMA, ref, "$ref must be a string");
        return NULL;
    }
    struct ref key = {.schema = schema};
    const struct ref *r =
        c->n_refs ? bsearch(&key, c->refs, c->n_refs, sizeof key, by_schema) : NULL;
    const json_node *to = by_uri(c, r ? r->resource : 0, json_str(ref));
    if (!to) {
        struct str s = json_str(ref);
        schema_fail(c, SL_ESCHEMA, ref, "$ref \"%.*s\" leads to nothing in this schema",
                    (int)(s.n < 100 ? s.n : 100), s.p);
    }
    return to;
}
