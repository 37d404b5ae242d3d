/* model_text.h - what the io side needs of a model: tokenizer, chat template, stop ids, defaults.
 *
 * From a Hugging Face folder (tokenizer.json, tokenizer_config.json, chat_template.jinja or its
 * key, generation_config.json) or from a GGUF file's metadata. Immutable after open, read by any
 * thread.
 */
#ifndef LOAD_MODEL_TEXT_H
#define LOAD_MODEL_TEXT_H

#include "text/chat.h"
#include "text/tokenizer.h"

enum { MODEL_EOS_MAX = 16 };

/* generation_config.json; NAN / -1: not given. */
struct generation_defaults {
    double temperature, top_p, min_p, typical_p, repetition_penalty;
    int64_t top_k, max_new_tokens;
};

struct model_text {
    struct tokenizer *tok;      /* owned */
    struct chat_template *chat; /* owned; NULL: the model has none */
    const char *chat_source;    /* owned text of the template, or NULL */
    /* Ids that end a turn: generation_config.json's, config.json's and the tokenizer's, then
     * special tokens of known end-of-turn names (model_text.c lists them). */
    int32_t eos[MODEL_EOS_MAX];
    int n_eos;
    struct generation_defaults defaults;
};

/* path: folder, .gguf, or NULL for the byte-level stand-in of the sim device.
 * chat_template: a file's name or the text itself, NULL: the model's own. */
int model_text_open(struct model_text **out, const char *path, const char *chat_template,
                    struct sl_error *e);
/* As model_text_open, for a model of random weights: a folder without tokenizer.json gets the
 * stand-in, of config.json's vocab_size ids. */
int model_text_open_dummy(struct model_text **out, const char *path, const char *chat_template,
                          struct sl_error *e);
void model_text_close(struct model_text *t);

#endif
