/* checkpoint.h - a model on disk, whatever its format: tensors, a config, and reads by range.
 *
 * Hugging Face folder: config.json, generation_config.json, model.safetensors or its shards with
 * model.safetensors.index.json. GGUF v3: one file; its metadata is rewritten as a config.json
 * document with Hugging Face's key names, and its tensor names are mapped to Hugging Face's, so
 * that a family table knows one vocabulary of names. Nothing is mapped into memory: tensors are
 * read by checked ranges with pread, since a file that another user truncates under a mapping would
 * kill the process. A broken file ends in SL_EFORMAT or SL_EIO with one clear line that names file,
 * tensor and number. Immutable after open; checkpoint_read may be called from any thread.
 */
#ifndef LOAD_CHECKPOINT_H
#define LOAD_CHECKPOINT_H

#include "base/buf.h"
#include "base/dtype.h"
#include "base/err.h"
#include "base/json.h"

struct checkpoint; /* opaque */

struct tensor {
    struct str name; /* Hugging Face name; borrowed from the checkpoint */
    enum dtype type;
    int n_dims;      /* 1 or 2 (up to 4 parsed) */
    int64_t dims[4]; /* outermost first: [rows, cols] for a matrix, as PyTorch prints it */
    size_t bytes;    /* of the whole tensor */
    int file;        /* which shard */
    uint64_t offset; /* absolute, in that file */
    /* > 0: rows are permuted as llama.cpp does for interleaved RoPE, with this many heads; row r of
     * the Hugging Face tensor is row checkpoint_row(t, r) of the file. */
    int rope_heads;
};

/* path: a folder or a .gguf file. A folder without any safetensors file opens with no tensors
 * (dummy weights need only config.json). Only F32, F16 and BF16 are loaded from safetensors:
 * tensors of other types are checked like all, but left out of the table (see checkpoint_foreign).
 */
int checkpoint_open(struct checkpoint **out, const char *path, struct sl_error *e);
void checkpoint_close(struct checkpoint *c); /* NULL is fine */

/* The config with Hugging Face keys (model_type, hidden_size, rope_parameters/rope_scaling, ...). A
 * GGUF file's rope_type may also be "freq_factors": tensor "model.rope_freqs" (F32, [head_dim / 2])
 * then has what each inverse frequency is divided by. */
const json_node *checkpoint_config(const struct checkpoint *c);
/* generation_config.json's root; for GGUF one with eos_token_id; NULL when there is none. */
const json_node *checkpoint_generation(const struct checkpoint *c);
bool checkpoint_is_gguf(const struct checkpoint *c);
const char *checkpoint_path(const struct checkpoint *c);
uint64_t checkpoint_bytes(const struct checkpoint *c); /* all tensors */

size_t checkpoint_n_tensors(const struct checkpoint *c);
const struct tensor *checkpoint_tensor(const struct checkpoint *c, size_t i);
const struct tensor *checkpoint_find(const struct checkpoint *c, const char *name); /* or NULL */
/* Why checkpoint_find has no tensor of this name although the file has one: "dtype F8_E4M3", "rank
 * 5", "no elements"; NULL when the file has none either. For the message about a missing weight. */
const char *checkpoint_foreign(const struct checkpoint *c, const char *name);

/* File row that holds row r of the Hugging Face layout. */
int64_t checkpoint_row(const struct tensor *t, int64_t r);
/* Read n bytes from `offset` within the tensor's data. Loops on short reads. */
int checkpoint_read(const struct checkpoint *c, const struct tensor *t, size_t offset, size_t n,
                    void *dst, struct sl_error *e);

#endif
