/* chat.c - the chat template with its quirks: probes at load, normalised messages at each render.
 *
 * Model templates disagree about the shape of a conversation (arguments as object or JSON text,
 * content as text or parts, null or "" beside tool calls, no system role). Guessing from names
 * fails; rendering small probes does not. A render then builds the template's values straight from
 * the request's JSON, changed where this template needs it. Immutable after open; any thread
 * renders.
 */
#include "text/chat.h"

#include <stdlib.h>
#include <time.h>

#include "text/jinja_impl.h"

enum { PROBE_BYTES_MAX = 1 << 20 };

struct chat_template {
    struct jinja *t;              /* owned */
    char *bos, *eos, *pad, *unk;  /* owned; NULL: undefined */
    bool wants_object;            /* tool-call arguments as an object, not as JSON text */
    bool wants_string;            /* ... as JSON text; neither: as they come */
    bool takes_text, takes_parts; /* content as a string, as a list of parts */
    bool takes_null;              /* content null beside tool calls */
    bool takes_system;
    bool knows_developer;
};

/* ------------------------------------------------------------------ probes */

#define PROBE_WORD "Zqprobe"
#define PROBE_TOOLS                                                                                \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"look\",\"description\":\"Look.\"," \
    "\"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\","           \
    "\"description\":\"Where.\"}},\"required\":[\"city\"]}}}],\"add_generation_prompt\":true"
#define PROBE_CALL(content, arguments)                                                             \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\"," content       \
    "\"tool_calls\":[{\"id\":\"abcdefg12\",\"type\":\"function\",\"function\":{\"name\":\"look\"," \
    "\"arguments\":" arguments "}}]},{\"role\":\"tool\",\"tool_call_id\":\"abcdefg12\","           \
    "\"name\":\"look\",\"content\":\"dry\"}]," PROBE_TOOLS "}"
#define PROBE_OBJECT "{\"city\":\"" PROBE_WORD "\"}"
#define PROBE_TEXT "\"{\\\"city\\\": \\\"" PROBE_WORD "\\\"}\""
#define PROBE_SIMPLE(messages) "{\"messages\":[" messages "]," PROBE_TOOLS "}"

static void build_probe(struct jrender *r, void *arg);

struct probe {
    const struct chat_template *c;
    const json_node *root;
    bool with_tools;
};

static bool probe_once(const struct probe *p, const char *const *spoiled)
{
    struct buf out = buf_make(PROBE_BYTES_MAX);
    struct tm now = {.tm_year = 125, .tm_mday = 1, .tm_wday = 3};
    struct probe arg = *p;
    bool good =
        jinja_render_with(p->c->t, build_probe, &arg, &now, &jinja_budget_default, &out, NULL) == 0;
    const char *text = buf_cstr(&out);
    good = good && strstr(text, PROBE_WORD);
    for (; good && spoiled && *spoiled; spoiled++) good = !strstr(text, *spoiled);
    buf_free(&out);
    return good;
}

/* Render the globals of `json`, with its tools and without: some templates fail on the one, some on
 * the other. True when either works, the probe's word is in the output and nothing of `spoiled`
 * (signs of a value printed in the wrong form) stands in it. */
static bool probe(const struct chat_template *c, const char *json, const char *const *spoiled)
{
    struct json_doc *doc;
    if (json_parse(&doc, json, strlen(json), &json_limits_request, NULL) < 0)
        ASSERT(!"a probe is JSON");
    struct probe with = {c, json_root(doc), true}, without = {c, json_root(doc), false};
    bool good = probe_once(&with, spoiled) || probe_once(&without, spoiled);
    json_free(doc);
    return good;
}

static void define_text(struct jrender *r, const char *name, const char *text)
{
    if (text) jr_define(r, str_of(name), jv_text(str_of(text)));
}

static void define_specials(struct jrender *r, const struct chat_template *c)
{
    define_text(r, "bos_token", c->bos);
    define_text(r, "eos_token", c->eos);
    define_text(r, "pad_token", c->pad);
    define_text(r, "unk_token", c->unk);
}

static void build_probe(struct jrender *r, void *arg)
{
    const struct probe *p = arg;
    define_specials(r, p->c);
    jr_define(r, STR("tools"), jv_none());
    jr_define(r, STR("documents"), jv_none());
    for (const json_node *v = json_child(p->root); v; v = json_next(v))
        if (p->with_tools || !str_is(json_key(v), "tools"))
            jr_define(r, json_key(v), jv_from_json(r, v));
}

static void run_probes(struct chat_template *c)
{
    /* An object printed by str() shows 'city'; a string put through tojson shows \"city. */
    static const char *const bad_arguments[] = {"'city'", "\\\"city", NULL};
    static const char *const bad_parts[] = {"'text'", "\"text\"", NULL};
    bool null_object = probe(c, PROBE_CALL("\"content\":null,", PROBE_OBJECT), bad_arguments);
    bool null_text = probe(c, PROBE_CALL("\"content\":null,", PROBE_TEXT), bad_arguments);
    bool empty_object = probe(c, PROBE_CALL("\"content\":\"\",", PROBE_OBJECT), bad_arguments);
    bool empty_text = probe(c, PROBE_CALL("\"content\":\"\",", PROBE_TEXT), bad_arguments);
    c->takes_null = null_object || null_text;
    c->wants_object = c->takes_null ? null_object : empty_object;
    c->wants_string = !c->wants_object && (c->takes_null ? null_text : empty_text);
    c->takes_text =
        probe(c, PROBE_SIMPLE("{\"role\":\"user\",\"content\":\"" PROBE_WORD "\"}"), NULL);
    c->takes_parts = probe(
        c,
        PROBE_SIMPLE("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"" PROBE_WORD
                     "\"}]}"),
        bad_parts);
    c->takes_system = probe(c,
                            PROBE_SIMPLE("{\"role\":\"system\",\"content\":\"" PROBE_WORD
                                         "\"},{\"role\":\"user\",\"content\":\"Hi\"}"),
                            NULL);
    if (!c->takes_system && c->takes_parts && !c->takes_text)
        c->takes_system =
            probe(c,
                  PROBE_SIMPLE(
                      "{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"" PROBE_WORD
                      "\"}]},{\"role\":\"user\",\"content\":"
                      "[{\"type\":\"text\",\"text\":\"Hi\"}]}"),
                  NULL);
    if (!c->takes_text &&
        !c->takes_parts) /* needs globals no probe has: leave what comes as it is */
        c->takes_text = c->takes_system = true;
    c->knows_developer = jinja_mentions(c->t, "developer");
}

static char *copy(const char *z)
{
    size_t n = z ? strlen(z) + 1 : 0;
    return z ? memcpy(xmalloc(n), z, n) : NULL;
}

int chat_template_open(struct chat_template **out, struct str source,
                       const struct chat_specials *sp, struct sl_error *e)
{
    struct chat_template *c = xcalloc(1, sizeof *c);
    int code = jinja_compile(&c->t, source, e);
    *out = NULL;
    if (code < 0) {
        chat_template_free(c);
        return code;
    }
    if (sp) {
        c->bos = copy(sp->bos);
        c->eos = copy(sp->eos);
        c->pad = copy(sp->pad);
        c->unk = copy(sp->unk);
    }
    run_probes(c);
    *out = c;
    return 0;
}

void chat_template_free(struct chat_template *c)
{
    if (!c) return;
    jinja_free(c->t);
    free(c->bos);
    free(c->eos);
    free(c->pad);
    free(c->unk);
    free(c);
}

/* ------------------------------------------------------------------ messages */

struct build {
    const struct chat_template *c;
    const struct chat_request *req;
    struct json_doc **docs; /* owned: arguments that were parsed; the values borrow from them */
    size_t n_docs, cap_docs;
};

static void set(struct jrender *r, struct jval dict, const char *key, struct jval v)
{
    jv_dict_set(r, dict.dict, jv_text(str_of(key)), v);
}

static bool role_is(const json_node *message, const char *role)
{
    const json_node *v = json_get(message, "role");
    return json_type(v) == JSON_STR && str_is(json_str(v), role);
}

/* The text of a content part, or NULL. */
static const json_node *part_text(const json_node *part)
{
    const json_node *v = json_get(part, "text");
    if (!v) v = json_get(part, "refusal");
    return json_type(v) == JSON_STR ? v : NULL;
}

static struct jval text_part(struct jrender *r, struct jval text)
{
    struct jval d = jv_dict(r, 2);
    set(r, d, "type", jv_text(STR("text")));
    set(r, d, "text", text);
    return d;
}

static struct jval part_value(struct jrender *r, const json_node *part)
{
    const json_node *text = part_text(part), *type = json_get(part, "type");
    if (text) return text_part(r, jv_text(json_str(text)));
    if (json_type(type) == JSON_STR && str_is(json_str(type), "image_url")) {
        struct jval d = jv_dict(r, 1); /* what templates of vision models look for */
        set(r, d, "type", jv_text(STR("image")));
        return d;
    }
    return jv_from_json(r, part);
}

/* Content in the form this template takes; text parts join with a newline where it takes only text.
 */
static struct jval content_value(struct jrender *r, const struct chat_template *c,
                                 const json_node *v)
{
    bool only_parts = c->takes_parts && !c->takes_text;
    struct jval out = jv_list(r, 1);
    if (json_type(v) == JSON_STR) {
        if (!only_parts) return jv_text(json_str(v));
        jv_append(r, out, text_part(r, jv_text(json_str(v))));
        return out;
    }
    if (json_type(v) != JSON_ARR) return jv_text(STR(""));
    if (c->takes_parts) {
        for (const json_node *p = json_child(v); p; p = json_next(p))
            jv_append(r, out, part_value(r, p));
        return out;
    }
    struct jval text = jv_text(STR(""));
    bool first = true;
    for (const json_node *p = json_child(v); p; p = json_next(p)) {
        const json_node *t = part_text(p);
        if (!t) continue;
        if (!first) text = jr_concat(r, jv_str(text), STR("\n"));
        text = jr_concat(r, jv_str(text), json_str(t));
        first = false;
    }
    return text;
}

static struct jval arguments_value(struct jrender *r, struct build *b, const json_node *v)
{
    if (json_type(v) != JSON_STR) {
        struct jval object = jv_from_json(r, v);
        if (!b->c->wants_string) return object;
        struct jjson how = {.comma = STR(", "), .colon = STR(": ")};
        size_t mark = r->out->n;
        jr_put_json(r, object, &how, 0);
        return jr_capture(r, mark);
    }
    struct str s = json_str(v);
    struct json_doc *doc;
    if (!b->c->wants_object) return jv_text(s);
    if (s.n == 0) return jv_dict(r, 0); /* a call without arguments */
    if (json_parse(&doc, s.p, s.n, &json_limits_request, NULL) < 0) return jv_text(s);
    if (b->n_docs == b->cap_docs) {
        b->cap_docs = b->cap_docs ? b->cap_docs * 2 : 8;
        b->docs = xrealloc(b->docs, b->cap_docs * sizeof *b->docs);
    }
    b->docs[b->n_docs++] = doc;
    return json_type(json_root(doc)) == JSON_OBJ ? jv_from_json(r, json_root(doc)) : jv_text(s);
}

static struct jval call_value(struct jrender *r, struct build *b, const json_node *call)
{
    struct jval d = jv_dict(r, 3);
    for (const json_node *m = json_child(call); m; m = json_next(m)) {
        bool function = str_is(json_key(m), "function") && json_type(m) == JSON_OBJ;
        struct jval v = function ? jv_dict(r, 2) : jv_from_json(r, m);
        for (const json_node *f = function ? json_child(m) : NULL; f; f = json_next(f)) {
            bool arguments = str_is(json_key(f), "arguments");
            jv_dict_set(r, v.dict, jv_text(json_key(f)),
                        arguments ? arguments_value(r, b, f) : jv_from_json(r, f));
        }
        jv_dict_set(r, d.dict, jv_text(json_key(m)), v);
    }
    return d;
}

/* Members that are null count as absent, as does an empty tool_calls: templates test `is defined`.
 */
static struct jval message_value(struct jrender *r, struct build *b, const json_node *m)
{
    const json_node *calls = json_opt(m, "tool_calls"), *content = json_opt(m, "content");
    bool has_calls = json_type(calls) == JSON_ARR && json_child(calls);
    struct jval d = jv_dict(r, 4);
    bool developer = role_is(m, "developer") && !b->c->knows_developer;
    for (const json_node *v = json_child(m); v; v = json_next(v)) {
        struct str key = json_key(v);
        if (str_is(key, "role") && developer) {
            set(r, d, "role", jv_text(STR("system")));
        } else if (str_is(key, "content")) {
            bool keep_null = !content && has_calls && b->c->takes_null;
            set(r, d, "content", keep_null ? jv_none() : content_value(r, b->c, content));
        } else if (str_is(key, "tool_calls")) {
            if (!has_calls) continue;
            struct jval list = jv_list(r, json_len(calls));
            for (const json_node *call = json_child(calls); call; call = json_next(call))
                jv_append(r, list, call_value(r, b, call));
            set(r, d, "tool_calls", list);
        } else if (json_type(v) != JSON_NULL) {
            jv_dict_set(r, d.dict, jv_text(key), jv_from_json(r, v));
        }
    }
    if (!json_get(m, "content"))
        set(r, d, "content",
            has_calls && b->c->takes_null ? jv_none() : content_value(r, b->c, NULL));
    return d;
}

/* Put system text in front of a user's content: text before text, a part before parts. */
static void prepend(struct jrender *r, struct jval message, struct jval text)
{
    struct jval *content = jv_dict_find(r, message.dict, jv_text(STR("content")));
    if (content->kind == K_STR) {
        struct jval head = jr_concat(r, jv_str(text), STR("\n\n"));
        *content = jr_concat(r, jv_str(head), jv_str(*content));
    } else {
        struct jval all = jv_list(r, 2);
        jv_append(r, all, text_part(r, jr_concat(r, jv_str(text), STR("\n\n"))));
        const struct jlist *parts = jv_items(r, *content);
        for (uint32_t i = 0; i < parts->n; i++) jv_append(r, all, parts->v[i]);
        *content = all;
    }
}

/* Plain text of a content value, whatever form it has. */
static struct jval plain_text(struct jrender *r, const json_node *content)
{
    static const struct chat_template text_only = {.takes_text = true};
    return content_value(r, &text_only, content);
}

/* Where the template knows no system role, its text moves into the next user turn. */
static struct jval messages_value(struct jrender *r, struct build *b)
{
    struct jval out = jv_list(r, json_len(b->req->messages)), pending = jv_text(STR(""));
    for (const json_node *m = json_child(b->req->messages); m; m = json_next(m)) {
        bool developer = role_is(m, "developer") && !b->c->knows_developer;
        if (!b->c->takes_system && (role_is(m, "system") || developer)) {
            if (pending.n) pending = jr_concat(r, jv_str(pending), STR("\n\n"));
            pending = jr_concat(r, jv_str(pending), jv_str(plain_text(r, json_get(m, "content"))));
            continue;
        }
        struct jval v = message_value(r, b, m);
        if (pending.n && role_is(m, "user")) {
            prepend(r, v, pending);
            pending = jv_text(STR(""));
        }
        jv_append(r, out, v);
    }
    if (pending.n) { /* no user turn follows: it becomes one */
        struct jval d = jv_dict(r, 2), part = jv_list(r, 1);
        bool only_parts = b->c->takes_parts && !b->c->takes_text;
        jv_append(r, part, text_part(r, pending));
        set(r, d, "role", jv_text(STR("user")));
        set(r, d, "content", only_parts ? part : pending);
        jv_append(r, out, d);
    }
    return out;
}

/* ------------------------------------------------------------------ a render */

static void build(struct jrender *r, void *arg)
{
    struct build *b = arg;
    const struct chat_request *q = b->req;
    bool prompt = q->add_generation_prompt && !q->continue_final_message;
    define_specials(r, b->c);
    for (const json_node *v = json_child(q->kwargs); v; v = json_next(v))
        jr_define(r, json_key(v), jv_from_json(r, v));
    if (jr_wants(r, STR("messages"))) jr_define(r, STR("messages"), messages_value(r, b));
    if (jr_wants(r, STR("tools"))) jr_define(r, STR("tools"), jv_from_json(r, q->tools));
    if (jr_wants(r, STR("documents")))
        jr_define(r, STR("documents"), jv_from_json(r, q->documents));
    jr_define(r, STR("add_generation_prompt"), jv_bool(prompt));
    jr_define(r, STR("continue_final_message"), jv_bool(q->continue_final_message));
}

/* Only scalars, and no name that the template or this layer gives a meaning. */
static int check_kwargs(const json_node *kwargs, struct sl_error *e)
{
    static const char *const taken[] = {"messages",
                                        "tools",
                                        "documents",
                                        "add_generation_prompt",
                                        "continue_final_message",
                                        "bos_token",
                                        "eos_token",
                                        "pad_token",
                                        "unk_token",
                                        "loop",
                                        "caller",
                                        "varargs",
                                        "kwargs"};
    if (kwargs && json_type(kwargs) != JSON_OBJ && json_type(kwargs) != JSON_NULL)
        return sl_fail_param(e, SL_ETYPE, "chat_template_kwargs",
                             "chat_template_kwargs must be an object");
    for (const json_node *v = json_child(kwargs); v; v = json_next(v)) {
        struct str key = json_key(v);
        int n = (int)(key.n < 60 ? key.n : 60);
        bool reserved = jinja_function(key) != NULL;
        for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
            reserved = reserved || str_is(key, taken[i]);
        if (reserved)
            return sl_fail_param(e, SL_EINVAL, "chat_template_kwargs",
                                 "chat_template_kwargs cannot set '%.*s'", n, key.p);
        if (json_type(v) == JSON_ARR || json_type(v) == JSON_OBJ)
            return sl_fail_param(
                e, SL_ETYPE, "chat_template_kwargs",
                "chat_template_kwargs.%.*s must be a string, number, boolean or null", n, key.p);
    }
    return 0;
}

static const char *find_last(struct str s, struct str sub)
{
    if (sub.n > s.n) return NULL;
    for (size_t i = s.n - sub.n + 1; i-- > 0;)
        if (memcmp(s.p + i, sub.p, sub.n) == 0) return s.p + i;
    return NULL;
}

/* Cut right after the last message's content, as transformers does: find its stripped text, and
 * keep its trailing space where the template kept it. */
static int cut_final(const struct chat_request *q, size_t start, struct buf *out,
                     struct sl_error *e)
{
    const json_node *last = NULL, *content;
    for (const json_node *m = json_child(q->messages); m; m = json_next(m)) last = m;
    content = json_opt(last, "content");
    if (json_type(content) == JSON_ARR) {
        const json_node *text = NULL;
        for (const json_node *p = json_child(content); p; p = json_next(p))
            if (part_text(p)) text = part_text(p);
        content = text;
    }
    struct str full = json_type(content) == JSON_STR ? json_str(content) : STR("");
    struct str core = jv_strip(full, NULL, true, true), tail = jv_strip(full, NULL, true, false);
    if (core.n == 0)
        return sl_fail_param(e, SL_EINVAL, "continue_final_message",
                             "continue_final_message needs a last message with content");
    struct str text = {out->p + start, out->n - start};
    const char *at = find_last(text, core);
    if (!at)
        return sl_fail_param(e, SL_EINVAL, "continue_final_message",
                             "the chat template does not show the last message's content");
    size_t from = (size_t)(at - text.p);
    bool whole = text.n - from >= tail.n && memcmp(at, tail.p, tail.n) == 0;
    out->n = start + from + (whole ? tail.n : core.n);
    return 0;
}

int chat_render(const struct chat_template *t, const struct chat_request *q, struct buf *out,
                struct sl_error *e)
{
    TRY(check_kwargs(q->kwargs, e));
    time_t clock = q->now ? (time_t)q->now : time(NULL);
    struct tm now;
    localtime_r(&clock, &now);
    struct build b = {.c = t, .req = q};
    size_t start = out->n;
    int code = jinja_render_with(t->t, build, &b, &now, &jinja_budget_default, out, e);
    for (size_t i = 0; i < b.n_docs; i++) json_free(b.docs[i]);
    free(b.docs);
    if (code == 0 && q->continue_final_message) {
        code = cut_final(q, start, out, e);
        if (code < 0) out->n = start;
    }
    return code;
}
