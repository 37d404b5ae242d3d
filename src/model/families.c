/* families.c - the list of model families, and the sim device's stand-in. */
#include <stdio.h>

#include "model/spec.h"

static const struct family *const families[] = {&family_llama, &family_mistral, &family_qwen2,
                                                &family_qwen3};
enum { N_FAMILIES = sizeof families / sizeof *families };

const struct family *family_find(struct str model_type)
{
    for (int i = 0; i < N_FAMILIES; i++)
        if (str_is(model_type, families[i]->model_type)) return families[i];
    return NULL;
}

void family_names(char *text, size_t n)
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < N_FAMILIES && used < n; i++)
        used +=
            (size_t)snprintf(text + used, n - used, "%s%s", i ? ", " : "", families[i]->model_type);
}

/* Hash chains through pages and block tables, and a token out of them: no weights, one layer. */
static const struct key no_keys[] = {{0}};
static const struct weight_spec no_weights[] = {{0}};
static const struct op_spec sim_first[] = {{OP_EMBED, S_X, 0, 0, 0}, {.op = OP_COUNT}};
static const struct op_spec sim_layer[] = {{OP_ROPE_KV, S_X, 0, 0, 0}, {.op = OP_COUNT}};
static const struct op_spec sim_last[] = {
    {OP_POOL, 0, S_X, 0, 0}, {OP_SAMPLE, 0, S_X, 0, 0}, {.op = OP_COUNT}};

const struct family family_sim = {"sim", 0, no_keys, no_weights, sim_first, sim_layer, sim_last};
