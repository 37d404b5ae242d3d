/* grammar_tag.c - schemas between fixed texts: the whole output (calls that are asked for), or where a
 * trigger stands in free text (calls that may come, structural tags).
 *
 * Structural tags are read in XGrammar's form, a tree of formats, and in vLLM's older one:
 * {"structures": [{"begin", "schema", "end"}], "triggers": []}. Source: XGrammar's documentation.
 */
#include <stdlib.h>

#include "text/grammar_impl.h"

/* Each trigger is one more place to be followed in free text; one that ends inside a special token of
 * several tags is as many. */
enum { TAG_DEPTH = 16, TAGS_MAX = 256, TRIGGERS_MAX = 16, PLACES_MAX = 64 };

/* ------------------------------------------------------------------ tags of a caller */

static int one_tag(struct grammar *g, const struct grammar_tag *t, const struct grammar_opts *o,
                   part_id *out, struct sl_error *e)
{
    part_id value = P_NEVER;
    struct grammar_opts opts = *o;
    if (t->is_exact) opts.is_lenient = false;
    TRY(t->schema ? schema_compile(g, t->schema, &opts, &value, e)
                  : any_object_compile(g, &opts, &value, e));
    re_id before = free_fixed(g, t->before), middle = t->n_middles ? RE_NONE : RE_EMPTY;
    for (size_t i = 0; i < t->n_middles; i++)
        middle = re_or2(g, middle, free_fixed(g, t->middles[i]));
    before = re_cat(g, before, middle);
    *out = part_seq3(g, part_lex(g, before), value, part_lex(g, free_fixed(g, t->after)));
    return 0;
}

/* Prefix, tags, suffix. */
static int group(struct grammar *g, const struct grammar_tags *t, const struct grammar_opts *o,
                 part_id *out, struct sl_error *e)
{
    part_id *parts = xmalloc(t->n_tags * sizeof *parts);
    int code = 0;
    for (size_t i = 0; i < t->n_tags && code == 0; i++)
        code = one_tag(g, &t->tags[i], o, &parts[i], e);
    if (code == 0) {
        part_id one = part_alt(g, parts, (uint32_t)t->n_tags);
        part_id more = part_seq2(g, part_lex(g, free_fixed(g, t->separator)), one);
        uint32_t lo = t->min ? t->min - 1 : 0, hi = t->max ? t->max - 1 : RE_INF;
        part_id all = part_seq2(g, one, part_rep(g, more, lo, hi));
        if (t->min == 0) all = part_alt2(g, all, P_EMPTY);
        *out = part_seq3(g, part_lex(g, free_fixed(g, t->prefix)), all,
                         part_lex(g, free_fixed(g, t->suffix)));
    }
    free(parts);
    return code;
}

static re_id blank(struct grammar *g)
{
    struct byte_set s = {{1ull << ' ' | 1ull << '\n' | 1ull << '\r' | 1ull << '\t'}};
    return re_bytes(g, &s);
}

static re_id blanks(struct grammar *g)
{
    return re_rep(g, blank(g), 0, RE_INF);
}

/* How the output begins if a group stands there without a trigger. */
static re_id beginning(struct grammar *g, const struct grammar_free *f)
{
    re_id r = free_written(g, f->start);
    if (!f->anchor.n) return r;
    re_id last = re_byte(g, (uint8_t)f->anchor.p[f->anchor.n - 1]);
    re_id head = re_literal(g, (struct str){f->anchor.p, f->anchor.n - 1});
    return re_cat3(g, r, head, re_or2(g, last, blank(g)));
}

static part_id lazily(struct grammar *g, const struct grammar_free *f, part_id then)
{
    struct free_trigger *v = xmalloc((f->n_triggers + 1) * sizeof *v);
    struct free_text text = {
        .triggers = v, .n = (uint32_t)f->n_triggers, .stop_after_first = f->is_once};
    bool has_start = f->start.n || f->anchor.n;
    for (size_t i = 0; i < f->n_triggers; i++)
        v[i] = (struct free_trigger){free_written(g, f->triggers[i]), then};
    if (has_start) text.not_first = re_or2(g, blank(g), beginning(g, f));
    part_id out = free_part(g, &text);
    if (has_start) {
        part_id at_start =
            part_seq3(g, part_lex(g, free_written(g, f->start)), then, part_lex(g, blanks(g)));
        out = part_seq2(g, part_lex(g, blanks(g)), part_alt2(g, at_start, out));
    }
    free(v);
    if (!f->ahead.n) return out;
    re_id ahead = free_written(g, f->ahead);
    return part_seq2(g, part_lex(g, free_until(g, ahead, ahead)), out);
}

int tagged_compile(struct grammar *g, const struct grammar_tags *t, const struct grammar_opts *o,
                   part_id *out, struct sl_error *e)
{
    if (t->n_tags == 0 || (t->max && t->max < t->min))
        return sl_fail(e, SL_EINVAL, "tags need at least one tag, and min not above max");
    TRY(group(g, t, o, out, e));
    if (t->free) *out = lazily(g, t->free, *out);
    return 0;
}

/* ------------------------------------------------------------------ structural tags */

struct tagger {
    struct grammar *g;
    const struct grammar_opts *o;
    struct sl_error *e;
    int depth;
};

static int wrong(const struct tagger *t, const char *type, const char *what)
{
    return sl_fail(t->e, SL_ESCHEMA, "structural tag, %.40s: %s", type, what);
}

static int text_of(const struct tagger *t, const json_node *f, const char *type, const char *key,
                   struct str *out)
{
    const json_node *v = json_opt(f, key);
    if (json_type(v) != JSON_STR)
        return sl_fail(t->e, SL_ESCHEMA, "structural tag, %.40s: '%s' must be a string", type, key);
    *out = json_str(v);
    return 0;
}

static int flag_of(const struct tagger *t, const json_node *f, const char *key, bool *out)
{
    const json_node *v = json_opt(f, key);
    *out = json_type(v) == JSON_TRUE;
    if (!v || *out || json_type(v) == JSON_FALSE) return 0;
    return sl_fail(t->e, SL_ESCHEMA, "structural tag: '%s' must be a boolean", key);
}

/* A non-empty array under a key. */
static int list_of(const struct tagger *t, const json_node *f, const char *key, int max,
                   const json_node **out)
{
    *out = json_opt(f, key);
    if (json_type(*out) != JSON_ARR || !json_child(*out) || json_len(*out) > (size_t)max)
        return sl_fail(t->e, SL_ESCHEMA, "structural tag: '%s' must be an array of 1 to %d", key,
                       max);
    return 0;
}

static int format(struct tagger *t, const json_node *f, re_id end, part_id *out);

static int const_string(struct tagger *t, const json_node *f, re_id end, part_id *out)
{
    struct str s;
    (void)end;
    TRY(text_of(t, f, "const_string", "value", &s));
    return *out = part_lex(t->g, free_written(t->g, s)), 0;
}

static int json_schema(struct tagger *t, const json_node *f, re_id end, part_id *out)
{
    const json_node *schema = json_opt(f, "json_schema"), *style = json_opt(f, "style");
    (void)end;
    if (!schema) return wrong(t, "json_schema", "'json_schema' is missing");
    if (style && (json_type(style) != JSON_STR || !str_is(json_str(style), "json")))
        return wrong(t, "json_schema", "only the style 'json' is supported");
    return schema_compile(t->g, schema, t->o, out, t->e);
}

static int regex(struct tagger *t, const json_node *f, re_id end, part_id *out)
{
    struct str s;
    re_id r = RE_NONE;
    (void)end;
    TRY(text_of(t, f, "regex", "pattern", &s));
    TRY(pattern_compile(t->g, s, PATTERN_WHOLE, &r, t->e));
    return *out = part_lex(t->g, r), 0;
}

static int ebnf(struct tagger *t, const json_node *f, re_id end, part_id *out)
{
    struct str s;
    (void)end;
    TRY(text_of(t, f, "grammar", "grammar", &s));
    return ebnf_compile(t->g, s, out, t->e);
}

/* With an end: up to and with it. */
static int any_text(struct tagger *t, const json_node *f, re_id end, part_id *out)
{
    (void)f;
    re_id r = end == RE_NONE ? free_without(t->g, RE_NONE) : free_until(t->g, end, end);
    return *out = part_lex(t->g, r), 0;
}

/* Its elements, joined one by one to what stands for none of them. */
static int elements(struct tagger *t, const json_node *f,
                    part_id (*join)(struct grammar *, part_id, part_id), part_id *out)
{
    const json_node *list;
    TRY(list_of(t, f, "elements", TAGS_MAX, &list));
    for (const json_node *m = json_child(list); m; m = json_next(m)) {
        part_id one;
        TRY(format(t, m, RE_NONE, &one));
        *out = join(t->g, *out, one);
    }
    return 0;
}

static int sequence(struct tagger *t, const json_node *f, re_id end, part_id *out)
{
    (void)end;
    *out = P_EMPTY;
    return elements(t, f, part_seq2, out);
}

static int one_of(struct tagger *t, const json_node *f, re_id end, part_id *out)
{
    (void)end;
    *out = P_NEVER;
    return elements(t, f, part_alt2, out);
}

/* The end of a tag: a text, or one of several. */
static int end_of(struct tagger *t, const json_node *tag, re_id *out)
{
    const json_node *v = json_opt(tag, "end");
    const json_node *m = json_type(v) == JSON_ARR ? json_child(v) : v;
    *out = RE_NONE;
    if (!m) return wrong(t, "tag", "'end' must be a string, or an array of some");
    for (; m; m = m == v ? NULL : json_next(m)) {
        if (json_type(m) != JSON_STR) return wrong(t, "tag", "'end' must be a string");
        *out = re_or2(t->g, *out, free_written(t->g, json_str(m)));
    }
    return 0;
}

/* A tag's content and end. Free text ends with the first end that stands in it; an empty end is
 * none. */
static int tag_rest(struct tagger *t, const json_node *tag, part_id *out)
{
    re_id end;
    const json_node *content = json_opt(tag, "content");
    struct str type = STR("");
    TRY(end_of(t, tag, &end));
    if (json_type(json_opt(content, "type")) == JSON_STR)
        type = json_str(json_opt(content, "type"));
    bool is_free = str_is(type, "any_text") || str_is(type, "triggered_tags");
    if (is_free && !re_at(t->g, end)->is_nullable) return format(t, content, end, out);
    TRY(format(t, content, RE_NONE, out));
    *out = part_seq2(t->g, *out, part_lex(t->g, end));
    return 0;
}

static int tag(struct tagger *t, const json_node *f, re_id end, part_id *out)
{
    struct str begin;
    (void)end;
    TRY(text_of(t, f, "tag", "begin", &begin));
    TRY(tag_rest(t, f, out));
    *out = part_seq2(t->g, part_lex(t->g, free_written(t->g, begin)), *out);
    return 0;
}

static int tags_with_separator(struct tagger *t, const json_node *f, re_id end, part_id *out)
{
    static const char me[] = "tags_with_separator";
    const json_node *list;
    struct str separator;
    bool some, once;
    part_id any = P_NEVER, one;
    (void)end;
    TRY(list_of(t, f, "tags", TAGS_MAX, &list));
    TRY(text_of(t, f, me, "separator", &separator));
    TRY(flag_of(t, f, "at_least_one", &some));
    TRY(flag_of(t, f, "stop_after_first", &once));
    for (const json_node *m = json_child(list); m; m = json_next(m)) {
        TRY(tag(t, m, RE_NONE, &one));
        any = part_alt2(t->g, any, one);
    }
    part_id more = part_seq2(t->g, part_lex(t->g, free_written(t->g, separator)), any);
    *out = part_seq2(t->g, any, once ? P_EMPTY : part_rep(t->g, more, 0, RE_INF));
    if (!some) *out = part_alt2(t->g, *out, P_EMPTY);
    return 0;
}

/* ------------------------------------------------------------------ triggers */

struct made_tag {
    struct str begin;
    part_id rest;
};
struct trigger_set {
    struct made_tag *tags; /* owned */
    struct free_trigger *v;
    struct str *texts; /* of v; both owned, room for n_tags + all triggers given */
    size_t n_tags, n;
};

static bool starts_with(struct str s, struct str head)
{
    return s.n >= head.n && memcmp(s.p, head.p, head.n) == 0;
}

/* Where a trigger of n bytes ends in a text: not inside the name of a special token. */
static size_t cut_of(const struct grammar_vocab *v, struct str begin, size_t n)
{
    size_t i = 0;
    while (i < n) {
        const struct str *name = v ? vocab_name_at(v, begin, i) : NULL;
        i += name ? name->n : 1;
    }
    return i;
}

/* A trigger, with the rest of each tag that begins so. */
static void add_trigger(struct grammar *g, struct trigger_set *s, struct str text)
{
    part_id then = P_NEVER;
    for (size_t i = 0; i < s->n; i++)
        if (str_eq(s->texts[i], text) || g->failed) return;
    for (size_t i = 0; i < s->n_tags; i++) {
        struct str begin = s->tags[i].begin;
        if (!starts_with(begin, text)) continue;
        struct str left = {begin.p + text.n, begin.n - text.n};
        part_id head = part_lex(g, free_written(g, left));
        then = part_alt2(g, then, part_seq2(g, head, s->tags[i].rest));
    }
    s->texts[s->n] = text;
    s->v[s->n++] = (struct free_trigger){free_written(g, text), then};
}

static int fill_triggers(struct tagger *t, struct trigger_set *s, const json_node *tags,
                         const json_node *triggers, const char *type)
{
    for (const json_node *m = json_child(tags); m; m = json_next(m)) {
        struct made_tag *to = &s->tags[s->n_tags++];
        bool has_trigger = false;
        TRY(text_of(t, m, "tag", "begin", &to->begin));
        for (const json_node *x = json_child(triggers); x; x = json_next(x)) {
            if (json_type(x) != JSON_STR || !json_str(x).n)
                return wrong(t, type, "'triggers' must be strings that are not empty");
            has_trigger = has_trigger || starts_with(to->begin, json_str(x));
        }
        if (!has_trigger) return wrong(t, type, "a tag begins with none of the triggers");
        if (json_opt(m, "schema")) { /* vLLM's older form */
            re_id end;
            TRY(end_of(t, m, &end));
            TRY(schema_compile(t->g, json_opt(m, "schema"), t->o, &to->rest, t->e));
            to->rest = part_seq2(t->g, to->rest, part_lex(t->g, end));
        } else {
            TRY(tag_rest(t, m, &to->rest));
        }
    }
    for (const json_node *x = json_child(triggers); x; x = json_next(x)) {
        add_trigger(t->g, s, json_str(x));
        for (size_t i = 0; i < s->n_tags; i++) {
            struct str b = s->tags[i].begin;
            if (!starts_with(b, json_str(x))) continue;
            add_trigger(t->g, s, (struct str){b.p, cut_of(t->g->vocab, b, json_str(x).n)});
        }
    }
    return s->n > PLACES_MAX ? wrong(t, type, "too many special tokens in triggers") : 0;
}

static int triggered(struct tagger *t, const json_node *f, const json_node *tags, re_id end,
                     part_id *out)
{
    static const char me[] = "triggered_tags";
    const json_node *triggers;
    struct free_text text = {.end = end};
    TRY(list_of(t, f, "triggers", TRIGGERS_MAX, &triggers));
    TRY(flag_of(t, f, "at_least_one", &text.at_least_one));
    TRY(flag_of(t, f, "stop_after_first", &text.stop_after_first));
    size_t n_tags = json_len(tags), room = n_tags * json_len(triggers) + json_len(triggers);
    struct trigger_set s = {.tags = xcalloc(n_tags, sizeof *s.tags),
                            .v = xcalloc(room, sizeof *s.v),
                            .texts = xcalloc(room, sizeof *s.texts)};
    int code = fill_triggers(t, &s, tags, triggers, me);
    text.triggers = s.v;
    text.n = (uint32_t)s.n;
    if (code == 0) *out = free_part(t->g, &text);
    free(s.tags);
    free(s.v);
    free(s.texts);
    return code;
}

static int triggered_tags(struct tagger *t, const json_node *f, re_id end, part_id *out)
{
    const json_node *tags;
    TRY(list_of(t, f, "tags", TAGS_MAX, &tags));
    return triggered(t, f, tags, end, out);
}

/* ------------------------------------------------------------------ the tree */

static int repeated(struct tagger *t, const json_node *f, re_id end, part_id *out)
{
    struct str type = json_str(json_opt(f, "type"));
    bool is_optional = str_is(type, "optional");
    (void)end;
    TRY(format(t, json_opt(f, "content"), RE_NONE, out));
    *out = part_rep(t->g, *out, str_is(type, "plus") ? 1 : 0, is_optional ? 1 : RE_INF);
    return 0;
}

static const struct {
    const char *type;
    int (*read)(struct tagger *t, const json_node *f, re_id end, part_id *out);
} formats[] = {
    {"const_string", const_string},
    {"json_schema", json_schema},
    {"regex", regex},
    {"grammar", ebnf},
    {"any_text", any_text},
    {"sequence", sequence},
    {"or", one_of},
    {"tag", tag},
    {"optional", repeated},
    {"plus", repeated},
    {"star", repeated},
    {"triggered_tags", triggered_tags},
    {"tags_with_separator", tags_with_separator},
};

/* One node; free text ends with `end` (RE_NONE: wherever). */
static int format(struct tagger *t, const json_node *f, re_id end, part_id *out)
{
    const json_node *type = json_opt(f, "type");
    *out = P_NEVER;
    if (json_type(type) != JSON_STR)
        return wrong(t, "format", "an object with a 'type' is expected");
    if (t->depth >= TAG_DEPTH)
        return sl_fail(t->e, SL_ETOOLARGE, "structural tags nest too deeply");
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (!str_is(json_str(type), formats[i].type)) continue;
        t->depth++;
        int code = formats[i].read(t, f, end, out);
        t->depth--;
        return code;
    }
    return wrong(t, json_str(type).p, "this type of format is not supported");
}

int structural_compile(struct grammar *g, const json_node *source, const struct grammar_opts *o,
                       part_id *out, struct sl_error *e)
{
    struct tagger t = {.g = g, .o = o, .e = e};
    const json_node *tags;
    const json_node *root = json_opt(source, "format"), *type = json_opt(source, "type");
    if (root) return format(&t, root, RE_NONE, out);
    if (!json_opt(source, "structures")) {
        bool is_wrapper = json_type(type) == JSON_STR && str_is(json_str(type), "structural_tag");
        if (is_wrapper) return wrong(&t, "format", "'format' or 'structures' is missing");
        return format(&t, source, RE_NONE, out);
    }
    TRY(list_of(&t, source, "structures", TAGS_MAX, &tags));
    return triggered(&t, source, tags, RE_NONE, out);
}
