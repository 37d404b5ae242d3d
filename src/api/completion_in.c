/* completion_in.c - the forms of `prompt` of the legacy route: string, [string], [int], [[int]]. */
#include "api/api_impl.h"

static int set_text(struct api_request *r, struct api_prompt *p, const json_node *v,
                    struct sl_error *e)
{
    *p = (struct api_prompt){.text = json_str(v), .is_text = true};
    if (!r->f.echo) return 0;
    p->text = arena_copy(r->arena, p->text); /* echo outlives the tree */
    return p->text.p ? 0 : arena_full(e);
}

static int set_ids(struct api_request *r, struct api_prompt *p, const json_node *v,
                   const char *param, struct sl_error *e)
{
    if (!json_child(v))
        return sl_fail_param(e, SL_EEMPTY, param, "Invalid '%s': empty array.", param);
    return read_ids(v, param, r->ctx, r->arena, &p->ids, &p->n, e);
}

static int read_list(struct api_request *r, const json_node *list, enum json_type type,
                     struct sl_error *e)
{
    size_t n = json_len(list), i = 0;
    if (n > API_CHOICES_MAX)
        return sl_fail_param(e, SL_ELONG, "prompt", "Invalid 'prompt': at most %d prompts.",
                             API_CHOICES_MAX);
    r->n_prompts = (int)n;
    r->prompts = arena_array(r->arena, n, sizeof *r->prompts);
    if (!r->prompts) return arena_full(e);
    for (const json_node *c = json_child(list); c; c = json_next(c), i++) {
        struct path at = path_of("prompt[%zu]", i);
        TRY(field_is(c, type, at.z, type == JSON_STR ? "a string" : "an array of token ids", e));
        TRY(type == JSON_STR ? set_text(r, &r->prompts[i], c, e)
                             : set_ids(r, &r->prompts[i], c, at.z, e));
    }
    return 0;
}

static int read_prompt(struct api_request *r, const json_node *v, struct sl_error *e)
{
    if (!v) return sl_fail_param(e, SL_EMISSING, "prompt", "Missing required parameter: 'prompt'.");
    enum json_type type = json_type(v), first = json_type(json_child(v));
    if (type == JSON_ARR && !json_child(v))
        return sl_fail_param(e, SL_EEMPTY, "prompt", "Invalid 'prompt': empty array.");
    if (type == JSON_ARR && (first == JSON_STR || first == JSON_ARR))
        return read_list(r, v, first, e);
    r->n_prompts = 1;
    r->prompts = arena_alloc(r->arena, sizeof *r->prompts);
    if (!r->prompts) return arena_full(e);
    if (type == JSON_STR) return set_text(r, r->prompts, v, e);
    if (type == JSON_ARR) return set_ids(r, r->prompts, v, "prompt", e);
    return field_type_error(v, "prompt", "a string, an array of strings, or an array of token ids",
                            e);
}

int read_completion(struct api_request *r, const json_node *root, struct sl_error *e)
{
    const json_node *suffix = json_opt(root, "suffix");
    TRY(read_prompt(r, json_opt(root, "prompt"), e));
    if (suffix) TRY(field_is(suffix, JSON_STR, "suffix", "a string", e));
    if (suffix && json_str(suffix).n > 0)
        return sl_fail_param(e, SL_EPARAM, "suffix", "This model does not support 'suffix'.");
    if (r->f.n * r->n_prompts > API_CHOICES_MAX)
        return sl_fail_param(e, SL_EABOVE_INT, "n",
                             "Invalid 'n': prompts times 'n' may be at most %d.", API_CHOICES_MAX);
    return 0;
}
