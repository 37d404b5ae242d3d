/* test_checkpoint.c - both formats end to end on tiny models, and files that must be refused. */
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/test.h"
#include "load/tensors.h"

static char *scratch; /* a fresh folder of the running test */

static void make_scratch(void)
{
    static char name[64];
    snprintf(name, sizeof name, "%s", "/tmp/sluice_test_XXXXXX");
    scratch = mkdtemp(name);
    CHECK(scratch != NULL);
}

static const char *in_scratch(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", scratch, name);
    return path;
}

static void remove_scratch(void)
{
    DIR *d = opendir(scratch);
    for (struct dirent *ent; d && (ent = readdir(d));) unlink(in_scratch(ent->d_name));
    if (d) closedir(d);
    rmdir(scratch);
}

static void put_file(const char *name, const void *bytes, size_t n)
{
    FILE *f = fopen(in_scratch(name), "wb");
    CHECK(f && fwrite(bytes, 1, n, f) == n);
    if (f) fclose(f);
}

/* A safetensors file: the header's text, then n_data zero bytes. */
static size_t make_safetensors(uint8_t *out, const char *header, size_t n_data)
{
    uint64_t n = strlen(header);
    memcpy(out, &n, 8);
    memcpy(out + 8, header, n);
    memset(out + 8 + n, 0, n_data);
    return 8 + n + n_data;
}

static int open_bytes(const void *bytes, size_t n, bool is_gguf, struct checkpoint **c,
                      struct sl_error *e)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, bytes, n) == (ssize_t)n);
    return checkpoint_open_fd(c, fd, is_gguf, e);
}

TEST(folder)
{
    struct checkpoint *c;
    struct sl_error e = {0};
    CHECK(checkpoint_open(&c, TEST_DATA "/models/llama", &e) == 0);
    CHECK(checkpoint_n_tensors(c) == 30 && !checkpoint_is_gguf(c) && checkpoint_bytes(c) == 525184);
    const struct tensor *t = checkpoint_find(c, "model.layers.1.self_attn.o_proj.weight");
    CHECK(t && t->type == DT_BF16 && t->n_dims == 2 && t->dims[0] == 64 && t->dims[1] == 256);
    CHECK(t && checkpoint_row(t, 5) == 5 && t->bytes == 32768);
    CHECK(!checkpoint_find(c, "model.layers.1.self_attn.o_proj.weigh") && !checkpoint_find(c, ""));
    uint16_t norm[64];
    t = checkpoint_find(c, "model.norm.weight");
    CHECK(t && checkpoint_read(c, t, 0, sizeof norm, norm, &e) == 0 &&
          bf16_to_f32(norm[0]) != 0.0f);
    CHECK(str_is(json_str(json_get(checkpoint_config(c), "model_type")), "llama"));
    CHECK(json_int(json_get(checkpoint_generation(c), "eos_token_id")) == 2);
    checkpoint_close(c);
}

TEST(shared_folders_open)
{
    DIR *d = opendir(SHARED_DATA "/models");
    for (struct dirent *ent; d && (ent = readdir(d));) {
        char path[1024];
        struct checkpoint *c;
        struct sl_error e = {0};
        snprintf(path, sizeof path, "%s/models/%s/config.json", SHARED_DATA, ent->d_name);
        if (ent->d_name[0] == '.' || access(path, R_OK) != 0) continue;
        path[strlen(path) - strlen("/config.json")] = '\0';
        CHECK_MSG(checkpoint_open(&c, path, &e) == 0, "%s: %s", path, e.text);
        checkpoint_close(c);
    }
    if (d) closedir(d);
}

/* ------------------------------------------------------------------ GGUF against its source */

/* Largest error of one element as a part of its run's largest value, by type: half a step of the
 * grid and what rounding the scales adds. */
static double tolerance(enum dtype t)
{
    static const double part[DT_COUNT] = {
        [DT_F32] = 0,     [DT_F16] = 1e-3,  [DT_BF16] = 0,    [DT_Q4_0] = 0.08, [DT_Q4_1] = 0.08,
        [DT_Q5_0] = 0.04, [DT_Q5_1] = 0.04, [DT_Q8_0] = 0.01, [DT_Q2_K] = 0.4,  [DT_Q3_K] = 0.25,
        [DT_Q4_K] = 0.1,  [DT_Q5_K] = 0.05, [DT_Q6_K] = 0.03};
    return part[t];
}

static void row_of(const struct checkpoint *c, const struct tensor *t, int64_t r, float *out)
{
    uint8_t raw[4096];
    int64_t cols = t->n_dims == 2 ? t->dims[1] : t->dims[0];
    size_t bytes = dtype_row_bytes(t->type, cols);
    ASSERT(bytes <= sizeof raw);
    struct sl_error e;
    size_t row = t->n_dims == 2 ? (size_t)checkpoint_row(t, r) : 0;
    CHECK(checkpoint_read(c, t, row * bytes, bytes, raw, &e) == 0);
    dtype_expand(t->type, raw, cols, out);
}

static void compare(const char *gguf, const char *folder, unsigned *types)
{
    struct checkpoint *a, *b;
    struct sl_error e = {0};
    int code = checkpoint_open(&a, gguf, &e);
    CHECK_MSG(code == 0, "%s", e.text);
    if (code < 0 || checkpoint_open(&b, folder, &e) < 0) return;
    CHECK(checkpoint_n_tensors(a) == checkpoint_n_tensors(b) && checkpoint_is_gguf(a));
    for (size_t i = 0; i < checkpoint_n_tensors(b); i++) {
        const struct tensor *want = checkpoint_tensor(b, i),
                            *got = checkpoint_find(a, want->name.p);
        CHECK_MSG(got && got->n_dims == want->n_dims, "%s", want->name.p);
        if (!got) continue;
        *types |= 1u << got->type;
        CHECK_MSG(memcmp(got->dims, want->dims, sizeof got->dims) == 0, "%s", want->name.p);
        double worst = 0, most = 0;
        for (int64_t r = 0; r < (want->n_dims == 2 ? want->dims[0] : 1); r++) {
            float x[512], y[512];
            row_of(a, got, r, x);
            row_of(b, want, r, y);
            int64_t cols = want->dims[want->n_dims - 1];
            for (int64_t k = 0; k < cols; k++) {
                worst = fmax(worst, fabs((double)x[k] - (double)y[k]));
                most = fmax(most, fabs((double)y[k]));
            }
        }
        CHECK_MSG(worst <= tolerance(got->type) * most, "%s %s: %g of %g", want->name.p,
                  dtype_info[got->type].name, worst, most);
    }
    static const char *const keys[] = {
        "hidden_size", "intermediate_size",       "num_hidden_layers",
        "vocab_size",  "num_attention_heads",     "num_key_value_heads",
        "head_dim",    "max_position_embeddings", "bos_token_id",
        "eos_token_id"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        CHECK_MSG(json_int(json_get(checkpoint_config(a), keys[i])) ==
                      json_int(json_get(checkpoint_config(b), keys[i])),
                  "%s", keys[i]);
    static const char *const same[] = {"model_type", "tie_word_embeddings", "rms_norm_eps",
                                       "rope_parameters"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        const json_node *x = json_get(checkpoint_config(a), same[i]),
                        *y = json_get(checkpoint_config(b), same[i]);
        CHECK_MSG(json_type(x) == json_type(y), "%s", same[i]);
        if (json_type(x) == JSON_STR) CHECK(str_eq(json_str(x), json_str(y)));
        if (json_type(x) == JSON_REAL) CHECK(json_num(x) == json_num(y));
    }
    CHECK(json_int(json_child(json_get(checkpoint_generation(a), "eos_token_id"))) == 2);
    checkpoint_close(a);
    checkpoint_close(b);
}

TEST(gguf_of_every_type)
{
    unsigned types = 0;
    compare(TEST_DATA "/gguf/llama_a.gguf", TEST_DATA "/models/llama", &types);
    compare(TEST_DATA "/gguf/llama_b.gguf", TEST_DATA "/models/llama", &types);
    CHECK_MSG(types == (1u << DT_COUNT) - 1, "%x", types);
    compare(TEST_DATA "/gguf/qwen3.gguf", TEST_DATA "/models/qwen3", &types);
}

/* The fuzz corpus' seeds are whole tiny models: what their metadata becomes. */
TEST(gguf_configs)
{
    static const struct {
        const char *file, *config; /* part of the config's text */
        const char *tensor;        /* one that must be there */
        int rope_heads;
    } rows[] = {
        {"llama", "\"rope_type\":\"freq_factors\",\"rope_theta\":10000}", "model.rope_freqs", 0},
        {"llama", "\"head_dim\":16,", "model.layers.0.self_attn.k_proj.weight", 1},
        {"llama", "\"tie_word_embeddings\":true,\"attention_bias\":false", "model.norm.weight", 0},
        {"mistral", "{\"model_type\":\"mistral\",\"architectures\":[\"MistralForCausalLM\"]",
         "model.layers.0.self_attn.q_proj.weight", 2},
        {"mistral", "\"sliding_window\":8,", "lm_head.weight", 0},
        {"mistral",
         "{\"rope_type\":\"linear\",\"rope_theta\":10000,\"factor\":2,"
         "\"partial_rotary_factor\":0.5}",
         "model.norm.weight", 0},
        {"qwen2", "\"attention_bias\":true", "model.layers.0.self_attn.q_proj.bias", 0},
        {"qwen2",
         "\"rope_type\":\"yarn\",\"rope_theta\":10000,\"factor\":4,"
         "\"original_max_position_embeddings\":16,\"beta_fast\":32}",
         "model.norm.weight", 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char path[512];
        struct checkpoint *c;
        struct sl_error e = {0};
        struct buf text = buf_make(1 << 16);
        snprintf(path, sizeof path, "%s/../fuzz/corpus/gguf/%s", TEST_DATA, rows[i].file);
        int code = checkpoint_open(&c, path, &e);
        CHECK_MSG(code == 0, "%s: %s", path, e.text);
        if (code < 0) continue;
        json_put_node(&text, checkpoint_config(c));
        CHECK_MSG(strstr(buf_cstr(&text), rows[i].config), "row %zu: %s", i, buf_cstr(&text));
        const struct tensor *t = checkpoint_find(c, rows[i].tensor);
        CHECK_MSG(t && t->rope_heads == rows[i].rope_heads, "row %zu", i);
        buf_free(&text);
        checkpoint_close(c);
    }
}

TEST(permuted_rows)
{
    struct tensor t = {.n_dims = 2, .dims = {16, 4}, .rope_heads = 2};
    static const int want[16] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
    for (int r = 0; r < 16; r++) CHECK(checkpoint_row(&t, r) == want[r]);
}

/* ------------------------------------------------------------------ safetensors that lie */

TEST(safetensors_headers)
{
    static const struct {
        const char *header;
        size_t n_data;
        const char *error; /* part of the message, or NULL: opens */
    } rows[] = {
        {"{}", 0, NULL},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, NULL},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}   ", 4, NULL},
        {"{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"I64\",\"shape\":[1],\"data_"
         "offsets\":[0,8]}}",
         8, NULL},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, NULL},
        {"[]", 0, "no object"},
        {"{\"a\":1}", 0, "no dtype"},
        {"{\"a\":{\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "unknown dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8, "no shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "bad dimension"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, "bad dimension"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, "bad data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "outside"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,16]}}", 8, "outside"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, "do not fit"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", 0,
         "overflows"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0,
         "do not fit"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "a gap"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8, "after the last"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         8, "overlaps"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         8, "duplicate"},
        {"{\"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "name"},
        {"{\"a\":", 0, "invalid JSON"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t raw[1024];
        struct checkpoint *c;
        struct sl_error e = {0};
        size_t n = make_safetensors(raw, rows[i].header, rows[i].n_data);
        int code = open_bytes(raw, n, false, &c, &e);
        if (rows[i].error)
            CHECK_MSG(code == SL_EFORMAT && strstr(e.text, rows[i].error), "%s: %s", rows[i].header,
                      e.text);
        else
            CHECK_MSG(code == 0, "%s: %s", rows[i].header, e.text);
        checkpoint_close(c);
    }
}

TEST(safetensors_lengths)
{
    struct checkpoint *c;
    uint8_t raw[64] = {0};
    for (size_t n = 0; n < 10; n++) CHECK(open_bytes(raw, n, false, &c, NULL) == SL_EFORMAT);
    memset(raw, 0xFF, 8);
    CHECK(open_bytes(raw, 64, false, &c, NULL) == SL_EFORMAT);
}

TEST(foreign_types_are_named)
{
    uint8_t raw[1024];
    struct checkpoint *c;
    size_t n = make_safetensors(
        raw,
        "{\"w\":{\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[0,4]},"
        "\"conv\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1],\"data_offsets\":[4,8]}}",
        8);
    CHECK(open_bytes(raw, n, false, &c, NULL) == 0 && checkpoint_n_tensors(c) == 0);
    CHECK(!checkpoint_find(c, "w") && strcmp(checkpoint_foreign(c, "w"), "dtype F8_E4M3") == 0);
    CHECK(strcmp(checkpoint_foreign(c, "conv"), "rank 5") == 0 && !checkpoint_foreign(c, "x"));
    checkpoint_close(c);
}

/* ------------------------------------------------------------------ shards and links */

static const char one[] = "{\"one\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
static const char two[] = "{\"two\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";

static int open_with_index(const char *index, struct sl_error *e, size_t *n_tensors)
{
    uint8_t raw[256];
    struct checkpoint *c;
    put_file("config.json", "{}", 2);
    put_file("a.safetensors", raw, make_safetensors(raw, one, 4));
    put_file("b.safetensors", raw, make_safetensors(raw, two, 4));
    put_file("model.safetensors.index.json", index, strlen(index));
    int code = checkpoint_open(&c, scratch, e);
    *n_tensors = code == 0 ? checkpoint_n_tensors(c) : 0;
    checkpoint_close(c);
    return code;
}

TEST(shards)
{
    static const struct {
        const char *index;
        int code;
        const char *error;
    } rows[] = {
        {"{\"weight_map\":{\"one\":\"a.safetensors\",\"two\":\"b.safetensors\"}}", 0, ""},
        {"{\"weight_map\":{\"two\":\"a.safetensors\",\"one\":\"b.safetensors\"}}", SL_EFORMAT,
         "is not in"},
        {"{\"weight_map\":{\"one\":\"a.safetensors\",\"three\":\"b.safetensors\"}}", SL_EFORMAT,
         "is not in"},
        {"{\"weight_map\":{\"one\":\"../a.safetensors\"}}", SL_EFORMAT, "plain file name"},
        {"{\"weight_map\":{\"one\":\"/etc/passwd\"}}", SL_EFORMAT, "plain file name"},
        {"{\"weight_map\":{\"one\":\"..\"}}", SL_EFORMAT, "plain file name"},
        {"{\"weight_map\":{\"one\":\"\"}}", SL_EFORMAT, "plain file name"},
        {"{\"weight_map\":{\"one\":7}}", SL_EFORMAT, "no string"},
        {"{\"weight_map\":{\"one\":\"none.safetensors\"}}", SL_ENOTFOUND, "no such file"},
        {"{}", SL_EFORMAT, "no weight_map"},
    };
    make_scratch();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sl_error e = {0};
        size_t n;
        int code = open_with_index(rows[i].index, &e, &n);
        CHECK_MSG(code == rows[i].code && strstr(e.text, rows[i].error), "%s: %s", rows[i].index,
                  e.text);
        CHECK(code < 0 || n == 2);
    }
    remove_scratch();
}

TEST(links)
{
    uint8_t raw[256];
    struct checkpoint *c;
    struct sl_error e = {0};
    make_scratch();
    put_file("config.json", "{}", 2);
    CHECK(checkpoint_open(&c, scratch, &e) == 0 &&
          checkpoint_n_tensors(c) == 0); /* dummy weights */
    checkpoint_close(c);
    put_file("blob", raw, make_safetensors(raw, one, 4));
    CHECK(symlink("blob", in_scratch("model.safetensors")) == 0);
    CHECK(checkpoint_open(&c, scratch, &e) == 0 && checkpoint_n_tensors(c) == 1);
    checkpoint_close(c);
    static const char *const bad[] = {"/etc/passwd", "../x", "../../blobs/../x", "../../../blobs/x",
                                      "link2"};
    CHECK(symlink("blob", in_scratch("link2")) == 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        unlink(in_scratch("model.safetensors"));
        CHECK(symlink(bad[i], in_scratch("model.safetensors")) == 0);
        CHECK_MSG(checkpoint_open(&c, scratch, &e) == SL_EIO && strstr(e.text, "symbolic link"),
                  "%s: %s", bad[i], e.text);
    }
    unlink(in_scratch("model.safetensors"));
    CHECK(mkfifo(in_scratch("model.safetensors"), 0600) == 0);
    CHECK(checkpoint_open(&c, scratch, &e) == SL_EIO && strstr(e.text, "regular"));
    remove_scratch();
    CHECK(checkpoint_open(&c, scratch, &e) == SL_ENOTFOUND);
}

/* snapshots/REVISION/FILE -> ../../blobs/HASH, as the Hugging Face cache has it. */
TEST(cache_layout)
{
    static const char *const folders[] = {"blobs", "snapshots", "snapshots/r"};
    uint8_t raw[256];
    struct checkpoint *c;
    struct sl_error e = {0};
    make_scratch();
    for (int i = 0; i < 3; i++) CHECK(mkdir(in_scratch(folders[i]), 0700) == 0);
    put_file("blobs/00c0ffee", raw, make_safetensors(raw, one, 4));
    put_file("blobs/00decaf0", "{}", 2);
    CHECK(symlink("../../blobs/00c0ffee", in_scratch("snapshots/r/model.safetensors")) == 0);
    CHECK(symlink("../../blobs/00decaf0", in_scratch("snapshots/r/config.json")) == 0);
    int code = checkpoint_open(&c, in_scratch("snapshots/r"), &e);
    CHECK_MSG(code == 0 && checkpoint_find(c, "one"), "%s", e.text);
    checkpoint_close(c);
    static const char *const files[] = {"snapshots/r/model.safetensors", "snapshots/r/config.json",
                                        "blobs/00c0ffee", "blobs/00decaf0"};
    for (int i = 0; i < 4; i++) unlink(in_scratch(files[i]));
    for (int i = 2; i >= 0; i--) rmdir(in_scratch(folders[i]));
    remove_scratch();
}

/* ------------------------------------------------------------------ GGUF that lies */

static uint8_t *slurp(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    ASSERT(f);
    uint8_t *p = xmalloc(1 << 20);
    *n = fread(p, 1, 1 << 20, f);
    fclose(f);
    return p;
}

TEST(gguf_cut_anywhere)
{
    size_t n;
    uint8_t *p = slurp(TEST_DATA "/gguf/qwen3.gguf", &n);
    struct checkpoint *c;
    for (size_t cut = 0; cut < n; cut += cut < 400 ? 1 : 997)
        CHECK_MSG(open_bytes(p, cut, true, &c, NULL) < 0, "%zu", cut);
    free(p);
}

/* Overwrite `n` bytes `skip` after the end of `text` in the file, and open. */
static int open_patched(const char *text, size_t skip, const void *bytes, size_t n,
                        struct sl_error *e)
{
    size_t size;
    uint8_t *p = slurp(TEST_DATA "/gguf/qwen3.gguf", &size);
    uint8_t *at = memmem(p, size, text, strlen(text));
    ASSERT(at);
    memcpy(at + strlen(text) + skip, bytes, n);
    struct checkpoint *c;
    int code = open_bytes(p, size, true, &c, e);
    checkpoint_close(c);
    free(p);
    return code;
}

TEST(gguf_fields)
{
    /* A tensor description after its name: u32 n_dims, u64 dims[n_dims], u32 type, u64 offset. */
    static const struct {
        const char *text;
        size_t skip;
        uint64_t value;
        size_t n;
        const char *error; /* or NULL: opens */
    } rows[] = {
        {"GGUF", 0, 3, 4, NULL},
        {"GGUF", 0, 2, 4, NULL},
        {"GGUF", 0, 1, 4, "version"},
        {"GGUF", 0, 0x03000000, 4, "version"},
        {"GGUF", 4, 65537, 8, "too many"},
        {"GGUF", 4, UINT64_MAX, 8, "too many"},
        {"GGUF", 12, UINT64_MAX, 8, "too many"},
        {"GGUF", 12, 65536, 8, "room for"},
        {"qwen3.block_count", 0, 9, 4, "byte"},
        {"qwen3.block_count", 0, 6, 4, "block_count"},
        {"qwen3.block_count", 0, 13, 4, "unknown value type"},
        {"qwen3.block_count", 4, 0, 4, "block_count"},
        {"qwen3.attention.head_count", 4, 0, 4, "head_count"},
        {"tokenizer.ggml.token_type", 8, UINT64_MAX, 8, "too long"},
        {"tokenizer.ggml.token_type", 8, 1u << 30, 8, "ends here"},
        {"tokenizer.ggml.token_type", 4, 9, 4, "array of arrays"},
        {"token_embd.weight", 0, 0, 4, "dimensions"},
        {"token_embd.weight", 0, 5, 4, "dimensions"},
        {"token_embd.weight", 4, 0, 8, "dimension out of range"},
        {"token_embd.weight", 4, 63, 8, "whole blocks"},
        {"token_embd.weight", 4, 1ull << 62, 8, "overflow"},
        {"token_embd.weight", 12, 1ull << 50, 8, "after the file"},
        {"token_embd.weight", 12, UINT64_MAX, 8, "out of range"},
        {"token_embd.weight", 20, 16, 4, "ggml type 16"},
        {"token_embd.weight", 24, 1, 8, "aligned"},
        {"token_embd.weight", 24, 64, 8, "overlap"},
        {"token_embd.weight", 24, UINT64_MAX - 31, 8, "after the file"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sl_error e = {0};
        int code = open_patched(rows[i].text, rows[i].skip, &rows[i].value, rows[i].n, &e);
        if (rows[i].error)
            CHECK_MSG(code == SL_EFORMAT && strstr(e.text, rows[i].error), "row %zu: %s", i,
                      e.text);
        else
            CHECK_MSG(code == 0, "row %zu: %s", i, e.text);
    }
    struct sl_error e = {0};
    CHECK(open_patched("general.architecture", 12, "gwen3", 5, &e) == SL_EUNSUPPORTED);
    CHECK_MSG(strstr(e.text, "gwen3"), "%s", e.text);
}
