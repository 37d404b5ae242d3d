/* tokenizer_steps.c - the normalizer, pre-tokenizer and decoder of a tokenizer.json, as lists of
 * steps.
 *
 * What cannot be run exactly as tokenizers does is refused by name, never left out.
 */
#include "base/utf8.h"
#include "text/splitter.h"
#include "text/tokenizer_json.h"

enum { NESTING_MAX = 8 };

/* \w of Rust's regex crate, which the Whitespace pre-tokenizer uses; Oniguruma's differs (regex.c).
 */
#define RUST_WORD                                                                                  \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200C}\\x{200D}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}"  \
    "\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}"

/* ------------------------------------------------------------------ members */

struct str member_str(const json_node *v, const char *key, const char *missing)
{
    const json_node *m = json_get(v, key);
    return json_type(m) == JSON_STR ? json_str(m) : str_of(missing);
}

bool member_bool(const json_node *v, const char *key, bool missing)
{
    enum json_type type = json_type(json_get(v, key));
    return type == JSON_TRUE || (type != JSON_FALSE && missing);
}

static int member_count(const json_node *v, const char *key)
{
    const json_node *m = json_get(v, key);
    if (json_type(m) != JSON_INT || json_int(m) < 0) return 0;
    return json_int(m) < 1000 ? (int)json_int(m) : 1000;
}

static int keep(struct tokenizer *t, struct str s, struct str *out, struct sl_error *e)
{
    char *copy = arena_strdup(&t->arena, s);
    if (!copy) return sl_fail(e, SL_EFORMAT, "tokenizer.json: the steps' strings are too long");
    *out = (struct str){copy, s.n};
    return 0;
}

static int refuse(const char *what, const json_node *v, struct sl_error *e)
{
    struct str type = step_type(v);
    return sl_fail(e, SL_EFORMAT, "tokenizer.json: %s \"%.*s\" is not supported", what,
                   (int)(type.n < 60 ? type.n : 60), type.p);
}

static int parse_pattern(struct tokenizer *t, const json_node *v, struct pattern *out,
                         struct sl_error *e)
{
    const json_node *re = json_get(v, "Regex"), *literal = json_get(v, "String");
    if (json_type(re) == JSON_STR) return regex_compile(&out->re, json_str(re), e);
    if (json_type(literal) == JSON_STR) return keep(t, json_str(literal), &out->literal, e);
    return sl_fail(e, SL_EFORMAT, "tokenizer.json: a pattern is neither String nor Regex");
}

int steps_flatten(const json_node *root, const char *key, struct step_list *out, struct sl_error *e)
{
    const json_node *stack[NESTING_MAX], *v = root;
    int depth = 0;
    out->n = 0;
    if (json_type(root) == JSON_NULL) return 0;
    for (;;) {
        const json_node *child =
            str_is(step_type(v), "Sequence") ? json_child(json_get(v, key)) : NULL;
        if (child) {
            if (depth == NESTING_MAX)
                return sl_fail(e, SL_EFORMAT, "tokenizer.json: %s are nested too deep", key);
            stack[depth++] = v;
            v = child;
            continue;
        }
        if (!str_is(step_type(v), "Sequence")) {
            if (out->n == STEPS_MAX)
                return sl_fail(e, SL_EFORMAT, "tokenizer.json: more than %d %s", STEPS_MAX, key);
            out->v[out->n++] = v;
        }
        while (depth > 0 && !json_next(v)) v = stack[--depth];
        if (depth == 0) return 0;
        v = json_next(v);
    }
}

static int full(struct sl_error *e)
{
    return sl_fail(e, SL_EFORMAT, "tokenizer.json: more than %d steps", STEPS_MAX);
}

/* ------------------------------------------------------------------ normalizer */

static int normalizer_step(struct tokenizer *t, const json_node *v, struct norm_step *s,
                           struct sl_error *e)
{
    static const struct {
        const char *name;
        enum norm_kind kind;
        enum normal_form form;
    } plain[] = {{"NFC", NORM_FORM, FORM_NFC},
                 {"NFD", NORM_FORM, FORM_NFD},
                 {"NFKC", NORM_FORM, FORM_NFKC},
                 {"NFKD", NORM_FORM, FORM_NFKD},
                 {"Lowercase", NORM_LOWER, FORM_NFC},
                 {"StripAccents", NORM_STRIP_ACCENTS, FORM_NFC},
                 {"ByteLevel", NORM_BYTE_CHARS, FORM_NFC}};
    struct str type = step_type(v);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (!str_is(type, plain[i].name)) continue;
        s->kind = plain[i].kind;
        s->form = plain[i].form;
        if (s->kind == NORM_BYTE_CHARS) t->byte_chars = true;
        return 0;
    }
    if (str_is(type, "Prepend")) {
        s->kind = NORM_PREPEND;
        return keep(t, member_str(v, "prepend", ""), &s->content, e);
    }
    if (str_is(type, "Replace")) {
        s->kind = NORM_REPLACE;
        TRY(keep(t, member_str(v, "content", ""), &s->content, e));
        return parse_pattern(t, json_get(v, "pattern"), &s->pattern, e);
    }
    if (str_is(type, "Strip")) {
        s->kind = NORM_STRIP;
        s->left = member_bool(v, "strip_left", true);
        s->right = member_bool(v, "strip_right", true);
        return 0;
    }
    return refuse("normalizer", v, e);
}

int steps_normalizer(struct tokenizer *t, const json_node *v, struct sl_error *e)
{
    struct step_list list;
    TRY(steps_flatten(v, "normalizers", &list, e));
    for (int i = 0; i < list.n; i++) {
        t->n_norm++; /* counted first: what a failing step owns is freed with the rest */
        TRY(normalizer_step(t, list.v[i], &t->norm[t->n_norm - 1], e));
    }
    return 0;
}

/* ------------------------------------------------------------------ pre-tokenizer */

static struct pre_step *new_pre(struct tokenizer *t, enum pre_kind kind)
{
    if (t->n_pre == STEPS_MAX) return NULL;
    struct pre_step *s = &t->pre[t->n_pre++];
    *s = (struct pre_step){.kind = kind, .behavior = SPLIT_ISOLATED};
    return s;
}

static int add_regex(struct tokenizer *t, const char *regex, enum split_behavior behavior,
                     bool invert, struct sl_error *e)
{
    struct pre_step *s = new_pre(t, PRE_SPLIT);
    if (!s) return full(e);
    s->behavior = behavior;
    s->invert = invert;
    return regex_compile(&s->pattern.re, str_of(regex), e);
}

int steps_add_split(struct tokenizer *t, struct str regex, struct sl_error *e)
{
    enum splitter known = splitter_of(regex);
    struct pre_step *s = new_pre(t, known ? PRE_SPLIT_KNOWN : PRE_SPLIT);
    if (!s) return full(e);
    s->known = (int)known;
    return known ? 0 : regex_compile(&s->pattern.re, regex, e);
}

static int parse_behavior(const json_node *v, enum split_behavior *out, struct sl_error *e)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    struct str name = member_str(v, "behavior", "Isolated");
    for (int i = 0; i < 5; i++) {
        if (!str_is(name, names[i])) continue;
        *out = (enum split_behavior)i;
        return 0;
    }
    return sl_fail(e, SL_EFORMAT, "tokenizer.json: unknown split behavior");
}

static int add_split(struct tokenizer *t, const json_node *v, struct sl_error *e)
{
    enum split_behavior behavior;
    const json_node *pattern = json_get(v, "pattern");
    bool invert = member_bool(v, "invert", false);
    TRY(parse_behavior(v, &behavior, e));
    struct str regex = member_str(pattern, "Regex", "");
    if (behavior == SPLIT_ISOLATED && !invert && splitter_of(regex))
        return steps_add_split(t, regex, e);
    struct pre_step *s = new_pre(t, PRE_SPLIT);
    if (!s) return full(e);
    s->behavior = behavior;
    s->invert = invert;
    return parse_pattern(t, pattern, &s->pattern, e);
}

static int add_byte_level(struct tokenizer *t, const json_node *v, bool last, struct sl_error *e)
{
    if (t->byte_chars) return sl_fail(e, SL_EFORMAT, "tokenizer.json: ByteLevel is applied twice");
    if (member_bool(v, "add_prefix_space", true) && !new_pre(t, PRE_PREFIX_SPACE)) return full(e);
    if (member_bool(v, "use_regex", true))
        TRY(steps_add_split(t, str_of(splitter_gpt2_pattern), e));
    if (last) return 0; /* the vocabulary is read as bytes, so the letters need not be made */
    t->byte_chars = true;
    return new_pre(t, PRE_BYTE_CHARS) ? 0 : full(e);
}

static int add_metaspace(struct tokenizer *t, const json_node *v, struct sl_error *e)
{
    struct str scheme = member_str(v, "prepend_scheme", "always");
    struct pre_step *s = new_pre(t, PRE_METASPACE);
    if (!s) return full(e);
    TRY(keep(t, member_str(v, "replacement", "\xE2\x96\x81"), &s->content, e));
    if (s->content.n == 0)
        return sl_fail(e, SL_EFORMAT, "tokenizer.json: Metaspace without replacement");
    s->scheme = str_is(scheme, "always")  ? PREPEND_ALWAYS
                : str_is(scheme, "first") ? PREPEND_FIRST
                                          : PREPEND_NEVER;
    if (!member_bool(v, "add_prefix_space", true)) s->scheme = PREPEND_NEVER;
    if (!member_bool(v, "split", true)) return 0;
    struct pre_step *split = new_pre(t, PRE_SPLIT);
    if (!split) return full(e);
    split->pattern.literal = s->content;
    split->behavior = SPLIT_MERGED_WITH_NEXT;
    return 0;
}

static int pre_tokenizer_step(struct tokenizer *t, const json_node *v, bool last,
                              struct sl_error *e)
{
    static const char punctuation[] = "[!-/:-@\\[-`{-~\\p{P}]";
    enum split_behavior behavior;
    struct str type = step_type(v);
    if (str_is(type, "ByteLevel")) return add_byte_level(t, v, last, e);
    if (str_is(type, "Split")) return add_split(t, v, e);
    if (str_is(type, "Metaspace")) return add_metaspace(t, v, e);
    if (str_is(type, "Whitespace"))
        return add_regex(t, "[" RUST_WORD "]+|[^" RUST_WORD "\\s]+", SPLIT_REMOVED, true, e);
    if (str_is(type, "WhitespaceSplit")) return add_regex(t, "\\s", SPLIT_REMOVED, false, e);
    if (str_is(type, "Digits")) {
        behavior = member_bool(v, "individual_digits", false) ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
        return add_regex(t, "\\p{N}", behavior, false, e);
    }
    if (str_is(type, "Punctuation")) {
        TRY(parse_behavior(v, &behavior, e));
        return add_regex(t, punctuation, behavior, false, e);
    }
    if (str_is(type, "BertPreTokenizer")) {
        TRY(add_regex(t, "\\s", SPLIT_REMOVED, false, e));
        return add_regex(t, punctuation, SPLIT_ISOLATED, false, e);
    }
    if (str_is(type, "CharDelimiterSplit")) {
        struct pre_step *s = new_pre(t, PRE_SPLIT);
        if (!s) return full(e);
        s->behavior = SPLIT_REMOVED;
        return keep(t, member_str(v, "delimiter", ""), &s->pattern.literal, e);
    }
    return refuse("pre-tokenizer", v, e);
}

int steps_pre_tokenizer(struct tokenizer *t, const json_node *v, struct sl_error *e)
{
    struct step_list list;
    TRY(steps_flatten(v, "pretokenizers", &list, e));
    for (int i = 0; i < list.n; i++) TRY(pre_tokenizer_step(t, list.v[i], i == list.n - 1, e));
    return 0;
}

/* ------------------------------------------------------------------ decoder */

static int count_chars(struct str s)
{
    int n = 0;
    for (size_t i = 0; i < s.n; i++) n += ((unsigned char)s.p[i] & 0xC0) != 0x80;
    return n;
}

/* What follows a step that joins tokens must read the same in pieces as on the whole text. */
static int check_joined(const struct tokenizer *t, const struct dec_step *s, bool joined,
                        bool fused, struct sl_error *e)
{
    bool one_char =
        s->kind == DEC_REPLACE && !s->pattern.re && count_chars(s->pattern.literal) == 1;
    bool strips = s->kind == DEC_STRIP && fused;
    if (joined && !one_char && !strips && s->kind != DEC_FUSE)
        return sl_fail(e, SL_EFORMAT, "tokenizer.json: this order of decoders is not supported");
    for (int i = 0; i < t->n_dec - 1; i++)
        if (t->dec[i].fused && t->dec[i].kind == DEC_STRIP && s->kind != DEC_FUSE)
            return sl_fail(e, SL_EFORMAT,
                           "tokenizer.json: a decoder behind Strip is not supported");
    return 0;
}

static int decoder_step(struct tokenizer *t, const json_node *v, struct dec_step *s,
                        struct sl_error *e)
{
    struct str type = step_type(v);
    if (str_is(type, "ByteLevel")) {
        s->kind = DEC_BYTE_LEVEL;
    } else if (str_is(type, "Fuse")) {
        s->kind = DEC_FUSE;
    } else if (str_is(type, "ByteFallback")) {
        s->kind = DEC_BYTE_FALLBACK;
    } else if (str_is(type, "Replace")) {
        s->kind = DEC_REPLACE;
        TRY(keep(t, member_str(v, "content", ""), &s->content, e));
        return parse_pattern(t, json_get(v, "pattern"), &s->pattern, e);
    } else if (str_is(type, "Strip")) {
        s->kind = DEC_STRIP;
        s->start = member_count(v, "start");
        s->stop = member_count(v, "stop");
        TRY(keep(t, member_str(v, "content", " "), &s->content, e));
        if (s->content.n == 0)
            return sl_fail(e, SL_EFORMAT, "tokenizer.json: Strip without content");
    } else if (str_is(type, "Metaspace")) {
        s->kind = DEC_METASPACE;
        TRY(keep(t, member_str(v, "replacement", "\xE2\x96\x81"), &s->pattern.literal, e));
        bool never = str_is(member_str(v, "prepend_scheme", "always"), "never") ||
                     !member_bool(v, "add_prefix_space", true);
        s->scheme = never ? PREPEND_NEVER : PREPEND_ALWAYS;
    } else {
        return refuse("decoder", v, e);
    }
    return 0;
}

int steps_decoder(struct tokenizer *t, const json_node *v, struct sl_error *e)
{
    struct step_list list;
    TRY(steps_flatten(v, "decoders", &list, e));
    bool joined = false, fused = false;
    for (int i = 0; i < list.n; i++) {
        struct dec_step *s = &t->dec[t->n_dec++];
        TRY(decoder_step(t, list.v[i], s, e));
        s->fused = fused;
        TRY(check_joined(t, s, joined, fused, e));
        fused = fused || s->kind == DEC_FUSE || s->kind == DEC_BYTE_LEVEL;
        joined = joined || fused || s->kind == DEC_BYTE_FALLBACK;
    }
    if (list.n == 0) t->dec[t->n_dec++] = (struct dec_step){.kind = DEC_SPACES};
    return 0;
}
