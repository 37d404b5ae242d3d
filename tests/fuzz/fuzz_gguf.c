/* fuzz_gguf.c - a GGUF file of arbitrary bytes: refused with one line, or every tensor lies inside
 * the file, apart from all others, and is as long as its shape says. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "load/gguf.h"
#include "load/tensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const keys[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.scores",
                                       "tokenizer.ggml.token_type", "general.architecture"};
    struct sl_error e = {0};
    struct checkpoint *c;
    struct gguf *g;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    ASSERT(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    struct source s = {.fd = fd, .size = size, .name = (char[]){"fuzz"}};
    if (gguf_open(&g, &s, &e) == 0) {
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
            struct str *strings = NULL, one = gguf_str(g, keys[i]);
            float *floats = NULL;
            int32_t *ints = NULL;
            size_t n = 0, sum = one.n ? (unsigned char)one.p[one.n - 1] : 0;
            if (gguf_strings(g, keys[i], 1 << 20, &strings, &n))
                for (size_t k = 0; k < n; k++)
                    sum += strings[k].n ? (unsigned char)strings[k].p[0] : 0;
            gguf_floats(g, keys[i], 1 << 20, &floats, &n);
            gguf_ints(g, keys[i], 1 << 20, &ints, &n);
            ASSERT(sum + 1 > 0 && gguf_int(g, keys[i]) >= -1);
            free(strings);
            free(floats);
            free(ints);
        }
        gguf_close(g);
    } else {
        ASSERT(e.code < 0 && e.text[0]);
    }
    uint64_t sum = 0;
    if (checkpoint_open_fd(&c, fd, true, &e) < 0) return 0;
    for (size_t i = 0; i < checkpoint_n_tensors(c); i++) {
        const struct tensor *t = checkpoint_tensor(c, i);
        size_t bytes;
        ASSERT(!tensors_bytes(t->type, t->n_dims, t->dims, &bytes) && bytes == t->bytes);
        ASSERT(t->offset <= size && t->bytes <= size - t->offset &&
               checkpoint_find(c, t->name.p) == t);
        ASSERT(checkpoint_row(t, t->dims[0] - 1) < t->dims[0]);
        sum += t->bytes;
    }
    ASSERT(sum <= size);
    checkpoint_close(c);
    return 0;
}
