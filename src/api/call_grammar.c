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

/* From behind the section's opening to the arguments, and from there to the section's close. */
static void put_before(struct buf *b, const struct call_format *f, struct str name)
{
    if (f->is_harmony) {
        buf_puts(b, "<|channel|>commentary to=functions.");
        buf_put_str(b, name);
        buf_puts(b, " <|constrain|>json<|message|>");
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

static void put_open(struct buf *b, const struct call_format *f)
{
    if (f->opens[0] && !f->is_bare) buf_puts(b, f->opens[0]);
    put_pattern(b, f, f->first);
}

static int keep(struct buf *b, struct arena *arena, struct str *out)
{
    char *copy = b->overflow ? NULL : arena_strdup(arena, buf_str(b));
    *out = (struct str){copy, b->n};
    buf_free(b);
    return copy ? 0 : SL_ETOOLARGE;
}

static int make_tag(struct grammar_tag *tag, const struct call_format *f, const json_node *function,
                    struct arena *arena)
{
    bool is_whole = f->is_call_a_section;
    struct buf before = buf_make(PIECE_BYTES_MAX), after = buf_make(PIECE_BYTES_MAX);
    if (is_whole) put_open(&before, f);
    put_before(&before, f, json_str(json_get(function, "name")));
    put_after(&after, f);
    if (is_whole) put_pattern(&after, f, f->close);
    tag->schema = json_opt(function, "parameters");
    TRY(keep(&after, arena, &tag->after));
    return keep(&before, arena, &tag->before);
}

int call_grammar_make(struct call_grammar *out, const struct call_format *format,
                      const json_node *tools, const struct tool_set *set, struct str ahead,
                      struct arena *arena)
{
    const struct call_format *f = has_json(format) ? format : call_format_named(STR("xlam"));
    struct buf prefix = buf_make(PIECE_BYTES_MAX), suffix = buf_make(PIECE_BYTES_MAX),
               between = buf_make(PIECE_BYTES_MAX);
    struct grammar_tag *tags = arena_array(arena, json_len(tools), sizeof *tags);
    size_t n = 0;
    if (!tags) return SL_ETOOLARGE;
    for (const json_node *t = json_child(tools); t; t = json_next(t)) {
        const json_node *fn = json_get(t, "function");
        bool may = set->choice != TOOLS_NAMED || str_eq(json_str(json_get(fn, "name")), set->named);
        if (may) TRY(make_tag(&tags[n++], f, fn, arena));
    }
    bool is_one = set->choice == TOOLS_NAMED || set->no_parallel || f->has_own_ids || f->is_harmony;
    *out = (struct call_grammar){
        .format = f, .tags = {.tags = tags, .n_tags = n, .min = 1, .max = is_one ? 1 : 0}};
    buf_put_str(&prefix, ahead);
    if (!f->is_call_a_section) put_open(&prefix, f);
    if (!f->is_call_a_section) put_pattern(&suffix, f, f->close);
    put_pattern(&between, f, f->next && *f->next ? f->next : "~");
    int code = keep(&prefix, arena, &out->tags.prefix);
    if (code == 0) code = keep(&suffix, arena, &out->tags.suffix);
    return code == 0 ? keep(&between, arena, &out->tags.separator) : code;
}
