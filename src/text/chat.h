/* chat.h - from a list of messages to the prompt's text: a model's chat template with its quirks
 * probed.
 *
 * At load the template is rendered on small probes once (wire specification 9.6): does it want
 * tool-call arguments as objects or strings, content as text or as a list of parts, does it take a
 * system role, does it mention `developer`. A chat_template is immutable; any thread may render it.
 */
#ifndef TEXT_CHAT_H
#define TEXT_CHAT_H

#include "text/jinja.h"

struct chat_template;

struct chat_specials { /* token texts the template may name; NULL: undefined */
    const char *bos, *eos, *pad, *unk;
};

int chat_template_open(struct chat_template **out, struct str source,
                       const struct chat_specials *sp, struct sl_error *e);
void chat_template_free(struct chat_template *t);

struct chat_request {
    const json_node *messages;  /* array, already validated by api/ */
    const json_node *tools;     /* array or NULL */
    const json_node *documents; /* array or NULL */
    const json_node *
        kwargs; /* chat_template_kwargs: object of scalars or NULL; cannot shadow the names above */
    bool add_generation_prompt;
    bool continue_final_message; /* the last message is left open: the render is cut after its
                                    content */
    int64_t now;                 /* unix seconds for strftime_now; 0: the clock */
};

/* Append the prompt's text. SL_EINVAL carries the template's own message. */
int chat_render(const struct chat_template *t, const struct chat_request *r, struct buf *out,
                struct sl_error *e);

#endif
