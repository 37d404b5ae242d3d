/* tensors.h - the inside of a checkpoint, which the two formats fill. Inside load/ only. */
#ifndef LOAD_TENSORS_H
#define LOAD_TENSORS_H

#include "base/arena.h"
#include "load/checkpoint.h"
#include "load/source.h"

enum {
    TENSORS_MAX = 1 << 20,  /* of a whole checkpoint; DeepSeek V3 has 92 thousand */
    TENSOR_NAME_MAX = 1024, /* bytes */
    SHARDS_MAX = 4096,
};

/* A tensor of the file that we do not load, and why ("dtype I64"); both borrowed from the arena. */
struct foreign {
    struct str name;
    const char *why;
};

struct checkpoint {
    char *path;           /* owned */
    struct source *files; /* owned [n_files] */
    int n_files;
    struct tensor *tensors; /* owned, in order of file and offset */
    size_t n_tensors, cap_tensors;
    uint32_t *by_name;       /* owned [n_tensors], sorted */
    struct foreign *foreign; /* owned */
    size_t n_foreign, cap_foreign;
    struct arena names;
    struct json_doc *config, *generation; /* owned; generation may be NULL */
    bool is_gguf;
};

/* Append a tensor, its name copied. SL_EFORMAT past a limit. */
int tensors_add(struct checkpoint *c, const struct tensor *t, struct sl_error *e);
int tensors_add_foreign(struct checkpoint *c, struct str name, const char *why, struct sl_error *e);
/* Build by_name; SL_EFORMAT when a name occurs twice. Once, after the last tensor. */
int tensors_index(struct checkpoint *c, struct sl_error *e);
/* dims' product and bytes of the type, checked; the row must be a multiple of the block. True: bad.
 */
bool tensors_bytes(enum dtype type, int n_dims, const int64_t *dims, size_t *bytes);
/* Take a file over into the table; its index. */
int tensors_add_file(struct checkpoint *c, struct source s);

/* Readers: append all tensors of file `file`. */
int safetensors_read(struct checkpoint *c, int file, struct sl_error *e);
/* Also sets config and generation. */
int gguf_read(struct checkpoint *c, int file, struct sl_error *e);
/* Fill from a folder: config.json, generation_config.json, the shards. */
int hf_folder_read(struct checkpoint *c, int dir, struct sl_error *e);

/* One file by descriptor (taken over), for fuzzing: a safetensors file then has no config. */
int checkpoint_open_fd(struct checkpoint **out, int fd, bool is_gguf, struct sl_error *e);

#endif
