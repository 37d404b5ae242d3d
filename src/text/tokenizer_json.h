/* tokenizer_json.h - the parts of reading a tokenizer.json, between tokenizer_json.c and
 * tokenizer_steps.c. */
#ifndef TEXT_TOKENIZER_JSON_H
#define TEXT_TOKENIZER_JSON_H

#include "base/json.h"
#include "text/tokenizer_impl.h"

/* A step's description, nested sequences unrolled. */
struct step_list {
    const json_node *v[STEPS_MAX];
    int n;
};
/* root: one step or a Sequence, whose children lie under `key`; null: none. */
int steps_flatten(const json_node *root, const char *key, struct step_list *out,
                  struct sl_error *e);

/* Typed members; a missing or mistyped one gives the default. */
struct str member_str(const json_node *v, const char *key, const char *missing);
bool member_bool(const json_node *v, const char *key, bool missing);
static inline struct str step_type(const json_node *v)
{
    return member_str(v, "type", "");
}

/* Fill t's lists from the file's members "normalizer", "pre_tokenizer", "decoder". */
int steps_normalizer(struct tokenizer *t, const json_node *v, struct sl_error *e);
int steps_pre_tokenizer(struct tokenizer *t, const json_node *v, struct sl_error *e);
int steps_decoder(struct tokenizer *t, const json_node *v, struct sl_error *e);

/* Append one split by a regex, isolated: a known one by hand, others by PCRE2. */
int steps_add_split(struct tokenizer *t, struct str regex, struct sl_error *e);

#endif
