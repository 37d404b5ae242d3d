/* call_grammar.c - a row's patterns, written out: `~` as the row's blank, what may be absent in full. */
#include "api/call_grammar.h"

#include "base/err.h"

enum { PIECE_BYTES_MAX = 1 << 16 };

static void put_pattern(struct buf *b, const struct call_format *f, const char *pattern)
{
    for (const char *p = pattern; p && *p; p++) {
        if (*p == '~' && f->blank) buf_puts(b, f->blank);
        if (*p != '~' && *p != '?') buf_putc(b, *p);
        if (*p == ',' || *p == ';') buf_putc(b, ' '); /* between two calls, as models write it */
    }
}

static bool has_json(const struct call_format *f)
{
    return f && (f->is_harmony || f->body == CALL_OBJECT || f->args == ARGS_JSON);
}

bool call_grammar_may_be_free(const struct call_format *f)
{
    return has_json(f);
}

static int keep(struct buf *b, struct arena *arena, struct str *out)
{
    char *copy = b->overflow ? NULL : arena_strdup(arena, buf_str(b));
    *out = (struct str){copy, b->n};
    buf_free(b);
    return copy ? 0 : SL_ETOOLARGE;
}

/* What may stand between a function's name and its arguments where the model begins a call by itself:
 * a channel's header in the ways that gpt-oss writes it, or a call's number. */
static const char *const headers[] = {" <|constrain|>json<|message|>",
                                      "<|constrain|>json<|message|>",
                                      " json<|message|>",
                                      "<|message|>",
                                      "<|channel|>commentary <|constrain|>json<|message|>",
                                      "<|channel|>commentary json<|message|>",
                                      "<|channel|>commentary<|message|>"};

static int make_middles(struct call_grammar *out, const struct call_format *f, size_t *n,
                        struct arena *arena)
{
    *n = 0;
    for (size_t i = 0; f->is_harmony && i < sizeof headers / sizeof *headers; i++)
        out->middles[(*n)++] = str_of(headers[i]);
    for (int i = 0; f->has_own_ids && i < CALL_MIDDLES; i++) {
        struct buf b = buf_make(PIECE_BYTES_MAX);
        buf_printf(&b, ":%d%s", i, f->name_end);
        TRY(keep(&b, arena, &out->middles[(*n)++]));
    }
    return 0;
}

/* From behind the section's opening to the arguments, and from there to the section's close. */
static void put_before(struct buf *b, const struct call_format *f, struct str name, bool is_free)
{
    if (f->is_harmony) {
        if (!is_free) buf_puts(b, "<|channel|>commentary to=functions.");
        buf_put_str(b, name);
        if (!is_free) buf_puts(b, " <|constrain|>json<|message|>");
        return;
    }
    put_pattern(b, f, f->before);
    if (f->body == CALL_OBJECT) {
        buf_printf(b, "{\"%s\": ", f->name_key ? f->name_key : "name");
        json_put_str(b, name);
        buf_printf(b, ", \"%s\": ", f->args_key ? f->args_key : "arguments");
        return;
    }
    if (f->has_own_ids) buf_puts(b, "functions.");
    buf_put_str(b, name);
    if (f->has_own_ids && is_free) return;
    if (f->has_own_ids) buf_puts(b, ":0");
    buf_puts(b, f->name_end);
}

static void put_after(struct buf *b, const struct call_format *f)
{
    if (f->is_harmony)
        buf_puts(b, "<|call|>");
    else if (f->body == CALL_OBJECT)
        buf_putc(b, '}');
    put_pattern(b, f, f->after);
}

/* An opener that is a plain word opens a section only with what follows it. */
static bool is_word(const char *z)
{
    return z && ((*z | 32) >= 'a' && (*z | 32) <= 'z');
}

static void put_trigger(struct buf *b, const struct call_format *f)
{
    if (f->opens[0]) buf_puts(b, f->opens[0]);
    if (is_word(f->opens[0])) put_pattern(b, f, f->first);
}

static void put_open(struct buf *b, const struct call_format *f, bool is_free)
{
    if (!is_free && f->opens[0] && !f->is_bare) buf_puts(b, f->opens[0]);
    if (!is_free || !is_word(f->opens[0])) put_pattern(b, f, f->first);
}

static int make_tag(struct grammar_tag *tag, const struct call_format *f, const json_node *function,
                    bool is_free, struct arena *arena)
{
    bool is_whole = f->is_call_a_section;
    bool is_strict = json_type(json_opt(function, "strict")) == JSON_TRUE;
    struct buf before = buf_make(PIECE_BYTES_MAX), after = buf_make(PIECE_BYTES_MAX);
    if (is_whole) put_open(&before, f, is_free);
    put_before(&before, f, json_str(json_get(function, "name")), is_free);
    put_after(&after, f);
    if (is_whole) put_pattern(&after, f, f->close);
    tag->is_exact = is_strict;
    tag->schema = !is_free || is_strict ? json_opt(function, "parameters") : NULL;
    TRY(keep(&after, arena, &tag->after));
    return keep(&before, arena, &tag->before);
}

/* Where calls begin among free text. */
static int make_free(struct call_grammar *out, const struct call_format *f,
                     const struct tool_set *set, struct str ahead, struct arena *arena)
{
    struct buf trigger = buf_make(PIECE_BYTES_MAX), anchor = buf_make(PIECE_BYTES_MAX);
    struct grammar_free *around = &out->free;
    *around = (struct grammar_free){
        .triggers = out->triggers, .ahead = ahead, .is_once = set->no_parallel};
    out->tags.free = around;
    if (f->is_harmony) { /* the prompt ends with <|start|>assistant: the header may go on at once */
        out->triggers[around->n_triggers++] = STR("<|channel|>commentary to=functions.");
        out->triggers[around->n_triggers++] = STR("<|channel|>analysis to=functions.");
        out->triggers[around->n_triggers++] = STR("<|start|>assistant to=functions.");
        around->start = STR("to=functions.");
        return 0;
    }
    if (f->is_bare) {
        put_pattern(&anchor, f, f->first);
        buf_puts(&anchor, "{\"");
    }
    put_trigger(&trigger, f);
    int code = keep(&anchor, arena, &around->anchor);
    if (code == 0)
        code = keep(&trigger, arena, &out->triggers[0]);
    else
        buf_free(&trigger);
    around->n_triggers = out->triggers[0].n ? 1 : 0;
    return code;
}

int call_grammar_make(struct call_grammar *out, const struct call_format *format,
                      const json_node *tools, const struct tool_set *set, struct str ahead,
                      struct arena *arena)
{
    const struct call_format *f = has_json(format) ? format : call_format_named(STR("xlam"));
    bool is_free = set->choice == TOOLS_AUTO;
    struct buf prefix = buf_make(PIECE_BYTES_MAX), suffix = buf_make(PIECE_BYTES_MAX),
               between = buf_make(PIECE_BYTES_MAX);
    struct grammar_tag *tags = arena_array(arena, json_len(tools), sizeof *tags);
    size_t n = 0, n_middles = 0;
    if (!tags) return SL_ETOOLARGE;
    if (is_free) TRY(make_middles(out, f, &n_middles, arena));
    for (const json_node *t = json_child(tools); t; t = json_next(t)) {
        const json_node *fn = json_get(t, "function");
        bool may = set->choice != TOOLS_NAMED || str_eq(json_str(json_get(fn, "name")), set->named);
        if (!may) continue;
        tags[n] = (struct grammar_tag){.middles = out->middles, .n_middles = n_middles};
        TRY(make_tag(&tags[n++], f, fn, is_free, arena));
    }
    bool is_one = set->choice == TOOLS_NAMED || set->no_parallel || f->is_harmony ||
                  (is_free ? f->is_call_a_section : f->has_own_ids);
    out->format = f;
    out->tags = (struct grammar_tags){.tags = tags, .n_tags = n, .min = 1, .max = is_one ? 1 : 0};
    if (is_free)
        TRY(make_free(out, f, set, ahead, arena));
    else
        buf_put_str(&prefix, ahead);
    if (!f->is_call_a_section) put_open(&prefix, f, is_free);
    if (!f->is_call_a_section) put_pattern(&suffix, f, f->close);
    put_pattern(&between, f, f->next && *f->next ? f->next : "~");
    int code = keep(&prefix, arena, &out->tags.prefix);
    if (code == 0) code = keep(&suffix, arena, &out->tags.suffix);
    return code == 0 ? keep(&between, arena, &out->tags.separator) : code;
}
