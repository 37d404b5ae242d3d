/* yaml_json.c - one pass over libyaml's events; the only state is what is open. */
#include "base/yaml_json.h"

#include <stdlib.h>
#include <yaml.h>

#include "base/json.h"

enum { DEPTH_MAX = 16 };

struct level {
    bool is_mapping, is_value; /* a key was written: its value comes next */
    int n;                     /* items or keys so far */
};

struct writer {
    struct buf *out;
    struct level level[DEPTH_MAX];
    int depth;
};

static int refuse(const yaml_event_t *ev, const char *what, struct sl_error *e)
{
    return sl_fail(e, SL_EINVAL, "line %zu: %s", ev->start_mark.line + 1, what);
}

/* The comma or colon before a value, and whether the value is a key. */
static bool begin(struct writer *w)
{
    struct level *l = &w->level[w->depth];
    if (w->depth == 0) return false;
    bool is_key = l->is_mapping && !l->is_value;
    if (l->is_value)
        buf_putc(w->out, ':');
    else if (l->n++)
        buf_putc(w->out, ',');
    l->is_value = is_key;
    return is_key;
}

/* A plain scalar that is a JSON number, true, false or null; "~" and "" are null too. */
static bool put_plain(struct buf *out, const char *text)
{
    static const char *const words[] = {"true", "false", "null"};
    char *end;
    if (!text[0] || strcmp(text, "~") == 0) return buf_puts(out, "null"), true;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(text, words[i]) == 0) return buf_puts(out, text), true;
    if (strspn(text, "+-.0123456789eE") != strlen(text)) return false;
    double v = strtod(text, &end);
    if (*end || end == text) return false;
    if (strspn(text, "-0123456789") == strlen(text))
        buf_put_i64(out, strtoll(text, NULL, 10));
    else
        json_put_num(out, v);
    return true;
}

static int scalar(struct writer *w, const yaml_event_t *ev, struct sl_error *e)
{
    const char *text = (const char *)ev->data.scalar.value;
    if (ev->data.scalar.anchor || ev->data.scalar.tag)
        return refuse(ev, "anchors and tags are not supported", e);
    bool is_key = begin(w), is_plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (is_key || !is_plain || !put_plain(w->out, text))
        json_put_str(w->out, (struct str){text, ev->data.scalar.length});
    return 0;
}

static int open_level(struct writer *w, const yaml_event_t *ev, bool is_mapping, struct sl_error *e)
{
    if (begin(w)) return refuse(ev, "a key must be plain text", e);
    if (w->depth + 1 == DEPTH_MAX) return refuse(ev, "nested too deeply", e);
    w->level[++w->depth] = (struct level){.is_mapping = is_mapping};
    buf_putc(w->out, is_mapping ? '{' : '[');
    return 0;
}

static int on_event(struct writer *w, const yaml_event_t *ev, struct sl_error *e)
{
    switch (ev->type) {
    case YAML_SCALAR_EVENT:
        return scalar(w, ev, e);
    case YAML_MAPPING_START_EVENT:
        return open_level(w, ev, true, e);
    case YAML_SEQUENCE_START_EVENT:
        return open_level(w, ev, false, e);
    case YAML_MAPPING_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
        buf_putc(w->out, w->level[w->depth--].is_mapping ? '}' : ']');
        return 0;
    case YAML_ALIAS_EVENT:
        return refuse(ev, "aliases are not supported", e);
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_START_EVENT:
    case YAML_DOCUMENT_END_EVENT:
        break;
    }
    return 0;
}

int yaml_to_json(struct str text, struct buf *out, struct sl_error *e)
{
    yaml_parser_t parser;
    struct writer w = {.out = out};
    int code = 0, n_documents = 0;
    bool is_over = false;
    if (!yaml_parser_initialize(&parser)) return sl_fail(e, SL_ENOMEM, "out of memory");
    yaml_parser_set_input_string(&parser, (const unsigned char *)text.p, text.n);
    while (code == 0 && !is_over) {
        yaml_event_t ev;
        if (!yaml_parser_parse(&parser, &ev)) {
            code = sl_fail(e, SL_EINVAL, "line %zu: %s", parser.problem_mark.line + 1,
                           parser.problem ? parser.problem : "not YAML");
            break;
        }
        n_documents += ev.type == YAML_DOCUMENT_START_EVENT;
        is_over = ev.type == YAML_STREAM_END_EVENT;
        code = n_documents > 1 ? refuse(&ev, "more than one document", e) : on_event(&w, &ev, e);
        yaml_event_delete(&ev);
    }
    yaml_parser_delete(&parser);
    if (code == 0 && n_documents == 0) buf_puts(out, "null");
    if (code == 0 && out->overflow) code = sl_fail(e, SL_EINVAL, "the file is too large");
    return code;
}
