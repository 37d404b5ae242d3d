/* render_tool.c - renders a template on JSON lines: the conformance check's way in, no
 * normalisation. */
#include "text/render_tool.h"

#include <stdlib.h>
#include <time.h>

#include "base/json.h"
#include "text/jinja.h"

enum { GLOBALS_MAX = 256, OUTPUT_MAX = 64 << 20 };

/* ISO 8601 without a zone, as the broken-down time itself. */
static bool parse_clock(const json_node *v, struct tm *out)
{
    struct tm t = {.tm_isdst = -1};
    if (json_type(v) != JSON_STR) return false;
    char text[40];
    struct str s = json_str(v);
    if (s.n >= sizeof text) return false;
    memcpy(text, s.p, s.n);
    text[s.n] = '\0';
    if (!strptime(text, "%Y-%m-%dT%H:%M:%S", &t)) return false;
    mktime(&t); /* fills the day of the week and of the year */
    *out = t;
    return true;
}

static int render_line(const struct jinja *t, const char *line, size_t n, struct buf *text,
                       struct sl_error *e)
{
    struct json_doc *doc;
    struct jinja_global globals[GLOBALS_MAX];
    size_t n_globals = 0;
    struct tm now;
    TRY(json_parse(&doc, line, n, &json_limits_request, e));
    const json_node *root = json_root(doc);
    if (!parse_clock(json_get(root, "now"), &now)) {
        time_t clock = time(NULL);
        localtime_r(&clock, &now);
    }
    for (const json_node *c = json_child(root); c && n_globals < GLOBALS_MAX; c = json_next(c))
        if (json_type(root) == JSON_OBJ && !str_is(json_key(c), "now"))
            globals[n_globals++] = (struct jinja_global){json_key(c).p, c};
    int code = jinja_render(t, globals, n_globals, &now, &jinja_budget_default, text, e);
    json_free(doc);
    return code;
}

int render_jsonl(struct str template_source, FILE *in, FILE *out)
{
    struct jinja *t;
    struct sl_error e = {0};
    char *line = NULL;
    size_t cap = 0;
    if (jinja_compile(&t, template_source, &e) < 0) {
        fprintf(stderr, "sluice: %s\n", e.text);
        return 1;
    }
    for (ssize_t n; (n = getline(&line, &cap, in)) > 0;) {
        struct buf text = buf_make(OUTPUT_MAX), answer = buf_make((size_t)OUTPUT_MAX * 7);
        int code = render_line(t, line, (size_t)n, &text, &e);
        buf_puts(&answer, code < 0 ? "{\"error\": " : "{\"output\": ");
        json_put_str(&answer, code < 0 ? str_of(e.text) : buf_str(&text));
        buf_puts(&answer, "}\n");
        fwrite(answer.p, 1, answer.n, out);
        buf_free(&answer);
        buf_free(&text);
    }
    fflush(out);
    free(line);
    jinja_free(t);
    return 0;
}
