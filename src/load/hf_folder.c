/* hf_folder.c - a Hugging Face folder: its JSON documents, and the shards that its index names.
 *
 * File names come from model.safetensors.index.json, which is untrusted: source_open holds them to
 * plain names below the folder. Every tensor of the index must be in the shard that the index says.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "load/tensors.h"

/* config.json of real models is below 100 KiB, an index of 100,000 tensors about 10 MiB. */
enum { CONFIG_BYTES_MAX = 4 << 20, INDEX_BYTES_MAX = 128 << 20 };

static const struct json_limits index_limits = {
    .max_depth = 16, .max_nodes = 4u << 20, .max_keys = TENSORS_MAX};

static int add_shard(struct checkpoint *c, int dir, const char *name, struct sl_error *e)
{
    struct source s;
    TRY(source_open(&s, dir, name, e));
    return safetensors_read(c, tensors_add_file(c, s), e);
}

static int by_text(const void *a, const void *b)
{
    const struct str *x = a, *y = b;
    int order = memcmp(x->p, y->p, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

/* The distinct file names of a weight_map, sorted, each opened and read. */
static int add_shards(struct checkpoint *c, int dir, const json_node *map, struct sl_error *e)
{
    size_t n = 0;
    int code = 0;
    struct str *names = xmalloc(json_len(map) * sizeof *names);
    for (const json_node *v = json_child(map); v && code == 0; v = json_next(v)) {
        if (json_type(v) != JSON_STR)
            code = sl_fail(e, SL_EFORMAT, "index: a file name is no string");
        else
            names[n++] = json_str(v);
    }
    if (n && code == 0) qsort(names, n, sizeof *names, by_text);
    for (size_t i = 0; i < n && code == 0; i++) {
        char name[256];
        if (i && str_eq(names[i], names[i - 1])) continue;
        if (c->n_files == SHARDS_MAX)
            code = sl_fail(e, SL_EFORMAT, "more than %d shards", SHARDS_MAX);
        else if (names[i].n >= sizeof name)
            code = sl_fail(e, SL_EFORMAT, "index: a file name too long");
        if (code < 0) break;
        memcpy(name, names[i].p, names[i].n);
        name[names[i].n] = '\0';
        code = add_shard(c, dir, name, e);
    }
    free(names);
    return code;
}

/* After tensors_index: is each tensor where the index says? */
static int check_map(const struct checkpoint *c, const json_node *map, struct sl_error *e)
{
    for (const json_node *v = json_child(map); v; v = json_next(v)) {
        struct str key = json_key(v);
        const struct tensor *t = checkpoint_find(c, key.p);
        bool here =
            t ? str_is(json_str(v), c->files[t->file].name) : checkpoint_foreign(c, key.p) != NULL;
        if (!here)
            return sl_fail(e, SL_EFORMAT, "index: tensor \"%.*s\" is not in %.80s",
                           (int)(key.n < 100 ? key.n : 100), key.p, json_str(v).p);
    }
    return 0;
}

static int read_index(struct checkpoint *c, int dir, const struct json_doc *index,
                      struct sl_error *e)
{
    const json_node *map = json_get(json_root(index), "weight_map");
    if (json_type(map) != JSON_OBJ) return sl_fail(e, SL_EFORMAT, "index: no weight_map");
    TRY(add_shards(c, dir, map, e));
    TRY(tensors_index(c, e));
    return check_map(c, map, e);
}

int hf_folder_read(struct checkpoint *c, int dir, struct sl_error *e)
{
    struct sl_error why = {0};
    struct json_doc *index;
    TRY(source_json(&c->config, dir, "config.json", CONFIG_BYTES_MAX, &json_limits_file, e));
    int code = source_json(&c->generation, dir, "generation_config.json", CONFIG_BYTES_MAX,
                           &json_limits_file, &why);
    if (code < 0 && code != SL_ENOTFOUND) return sl_fail(e, code, "%s", why.text);
    code = source_json(&index, dir, "model.safetensors.index.json", INDEX_BYTES_MAX, &index_limits,
                       &why);
    if (code == 0) {
        code = read_index(c, dir, index, e);
        json_free(index);
        return code;
    }
    if (code != SL_ENOTFOUND) return sl_fail(e, code, "%s", why.text);
    code = add_shard(c, dir, "model.safetensors", &why);
    if (code == SL_ENOTFOUND) return 0;
    return code < 0 ? sl_fail(e, code, "%s", why.text) : 0;
}
