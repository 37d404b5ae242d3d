/* fuzz_safetensors.c - a safetensors file of arbitrary bytes: refused with one line, or every
 * tensor lies inside the file, apart from all others, and is as long as its shape says. */
#include <sys/mman.h>
#include <unistd.h>

#include "load/tensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sl_error e = {0};
    struct checkpoint *c;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    ASSERT(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    if (checkpoint_open_fd(&c, fd, false, &e) < 0) {
        ASSERT(e.code < 0 && e.text[0]);
        return 0;
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < checkpoint_n_tensors(c); i++) {
        const struct tensor *t = checkpoint_tensor(c, i);
        size_t bytes;
        ASSERT(!tensors_bytes(t->type, t->n_dims, t->dims, &bytes) && bytes == t->bytes);
        ASSERT(t->offset <= size && t->bytes <= size - t->offset &&
               checkpoint_find(c, t->name.p) == t);
        sum += t->bytes;
    }
    ASSERT(sum <= size);
    checkpoint_close(c);
    return 0;
}
