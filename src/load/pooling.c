/* pooling.c - see pooling.h. Source: sentence-transformers' module files; vLLM reads the same. */
#include "load/pooling.h"

#include <stdio.h>

#include "load/gguf.h"

enum { FILE_BYTES_MAX = 1 << 20 };

/* A file that may be absent: then *out is NULL. */
static int optional_list(struct json_doc **out, int dir, const char *name, struct sl_error *e)
{
    struct buf text;
    struct sl_error why = {0};
    *out = NULL;
    int code = source_slurp_at(dir, name, FILE_BYTES_MAX, &text, e);
    if (code == 0 && json_parse(out, text.p, text.n, &json_limits_file, &why) < 0)
        code = sl_fail(e, SL_EFORMAT, "%s: %.200s", name, why.text);
    buf_free(&text);
    return code == SL_ENOTFOUND ? 0 : code;
}

static bool is_true(const json_node *config, const char *key)
{
    return json_type(json_get(config, key)) == JSON_TRUE;
}

/* Which rows: the one mode that is on. */
static void read_mode(struct pooling_config *p, const json_node *config)
{
    static const struct {
        const char *key;
        enum sl_pool kind;
    } modes[] = {
        {"pooling_mode_cls_token", SL_POOL_CLS},
        {"pooling_mode_mean_tokens", SL_POOL_MEAN},
        {"pooling_mode_lasttoken", SL_POOL_LAST},
        {"pooling_mode_max_tokens", SL_POOL_NONE},
        {"pooling_mode_mean_sqrt_len_tokens", SL_POOL_NONE},
        {"pooling_mode_weightedmean_tokens", SL_POOL_NONE},
    };
    int n = 0;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        if (!is_true(config, modes[i].key)) continue;
        n++;
        p->kind = modes[i].kind;
        if (p->kind == SL_POOL_NONE) snprintf(p->refused, sizeof p->refused, "%s", modes[i].key);
    }
    if (n > 1) snprintf(p->refused, sizeof p->refused, "several pooling modes side by side");
}

static int read_pooling_file(struct pooling_config *p, int dir, const char *folder,
                             struct sl_error *e)
{
    struct json_doc *doc;
    int code = source_json_in(&doc, dir, folder, "config.json", FILE_BYTES_MAX, e);
    if (code == SL_ENOTFOUND) return 0;
    TRY(code);
    read_mode(p, json_root(doc));
    json_free(doc);
    return 0;
}

static struct str member(const json_node *object, const char *key)
{
    const json_node *v = json_get(object, key);
    return json_type(v) == JSON_STR ? json_str(v) : STR("");
}

/* The last part of "sentence_transformers.models.Pooling". */
static struct str class_of(const json_node *module)
{
    struct str type = member(module, "type");
    const char *dot = type.n ? memrchr(type.p, '.', type.n) : NULL;
    return dot ? (struct str){dot + 1, type.n - (size_t)(dot + 1 - type.p)} : type;
}

static int read_modules(struct pooling_config *p, int dir, const json_node *list,
                        struct sl_error *e)
{
    p->is_normalized = false;
    for (const json_node *m = json_child(list); m; m = json_next(m)) {
        struct str type = class_of(m), path = member(m, "path");
        char folder[64];
        snprintf(folder, sizeof folder, "%s", path.n ? path.p : "");
        if (str_is(type, "Transformer")) continue;
        if (str_is(type, "Normalize"))
            p->is_normalized = true;
        else if (str_is(type, "Pooling"))
            TRY(read_pooling_file(p, dir, folder, e));
        else
            snprintf(p->refused, sizeof p->refused, "module %.*s", (int)(type.n < 40 ? type.n : 40),
                     type.p);
    }
    return 0;
}

/* is_matryoshka: any length; matryoshka_dimensions: those listed. */
static int read_dimensions(struct pooling_config *p, int dir, struct sl_error *e)
{
    struct json_doc *doc;
    int code = source_json(&doc, dir, "config.json", FILE_BYTES_MAX, &json_limits_file, e);
    if (code == SL_ENOTFOUND) return 0;
    TRY(code);
    const json_node *root = json_root(doc), *list = json_get(root, "matryoshka_dimensions");
    p->has_any_dimension = is_true(root, "is_matryoshka");
    for (const json_node *v = json_child(list); v; v = json_next(v))
        if (json_type(v) == JSON_INT && json_int(v) > 0 && json_int(v) <= INT32_MAX &&
            p->n_dimensions < POOLING_DIMENSIONS_MAX)
            p->dimensions[p->n_dimensions++] = (int32_t)json_int(v);
    if (p->n_dimensions) p->has_any_dimension = false;
    json_free(doc);
    return 0;
}

int pooling_read_folder(struct pooling_config *p, int dir, struct sl_error *e)
{
    struct json_doc *modules;
    *p = pooling_default();
    TRY(optional_list(&modules, dir, "modules.json", e));
    int code = modules ? read_modules(p, dir, json_root(modules), e)
                       : read_pooling_file(p, dir, "1_Pooling", e);
    json_free(modules);
    return code < 0 ? code : read_dimensions(p, dir, e);
}

void pooling_read_gguf(struct pooling_config *p, const struct gguf *g)
{
    static const enum sl_pool kinds[] = {SL_POOL_NONE, SL_POOL_MEAN, SL_POOL_CLS, SL_POOL_LAST};
    struct str arch = gguf_str(g, "general.architecture");
    char key[96];
    *p = pooling_default();
    snprintf(key, sizeof key, "%.*s.pooling_type", (int)(arch.n < 64 ? arch.n : 64),
             arch.n ? arch.p : "");
    int64_t type = gguf_int(g, key);
    if (type >= 0 && type < (int64_t)(sizeof kinds / sizeof *kinds)) p->kind = kinds[type];
}
