/* jinja.h - chat templates: our own interpreter of the Jinja that model repositories use.
 *
 * Semantics: jinja2 3.1 with trim_blocks, lstrip_blocks, loop controls, and transformers' additions
 * (tojson as json.dumps(ensure_ascii=False), raise_exception, strftime_now, {% generation %}).
 * A template is untrusted input: no attribute reflection, no include or import, and every render
 * runs under budgets. A compiled template is immutable; any thread may render it.
 */
#ifndef TEXT_JINJA_H
#define TEXT_JINJA_H

#include <time.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"

struct jinja; /* opaque, immutable */

/* Compile. SL_EFORMAT with line number and reason on a syntax error or a limit (1 MiB of source,
 * nesting 100). */
int jinja_compile(struct jinja **out, struct str source, struct sl_error *e);
void jinja_free(struct jinja *t);

struct jinja_budget {
    uint64_t steps;      /* evaluation steps; default 2,000,000 */
    size_t output_bytes; /* default 16 MiB */
    size_t memory_bytes; /* values made while rendering; default 64 MiB */
    int depth;           /* calls and macro recursion; default 64 */
    int time_ms;         /* wall clock; default 1,000 */
};
extern const struct jinja_budget jinja_budget_default;

/* One global variable: a JSON value, borrowed. Absent keys are undefined; an explicit null is none.
 */
struct jinja_global {
    const char *name;
    const json_node *value;
};

/* Render into out. globals in any order. now: what strftime_now formats (local broken-down time).
 * Errors: SL_EINVAL with the template's own raise_exception text or the runtime error ("'x' is
 * undefined"), SL_EDEADLINE / SL_EINVAL when a budget ran out. */
int jinja_render(const struct jinja *t, const struct jinja_global *globals, size_t n_globals,
                 const struct tm *now, const struct jinja_budget *budget, struct buf *out,
                 struct sl_error *e);

/* Does the source mention this variable or string literal? (e.g. "developer", "tools") */
bool jinja_mentions(const struct jinja *t, const char *word);

#endif
