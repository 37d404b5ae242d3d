/* fuzz_detok.c - random ids: streamed deltas are valid UTF-8 and make up the whole decode. The
 * first byte picks the tokenizer (bytes, or sentencepiece-like with byte fallback), each other byte
 * is an id. */
#include <stdio.h>

#include "base/utf8.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tokenizer *sentencepiece(void)
{
    static struct str tokens[256 + 8] = {{"<unk>", 5},
                                         {"<s>", 3},
                                         {"\xE2\x96\x81", 3},
                                         {"a", 1},
                                         {"\xE2\x96\x81"
                                          "a",
                                          4},
                                         {"\xC3\xA9", 2},
                                         {"  ", 2},
                                         {"b", 1}};
    static float scores[256 + 8];
    static int32_t types[256 + 8] = {2, 3, 1, 1, 1, 1, 4, 1};
    static char names[256][7];
    for (int b = 0; b < 256; b++) {
        tokens[8 + b] =
            (struct str){names[b], (size_t)snprintf(names[b], 7, "<0x%02X>", (unsigned)b)};
        types[8 + b] = 6;
    }
    struct vocab_desc d = {.model = "llama",
                           .n_tokens = 256 + 8,
                           .tokens = tokens,
                           .scores = scores,
                           .types = types,
                           .bos = 1,
                           .eos = -1,
                           .pad = -1,
                           .unk = 0,
                           .add_space_prefix = 1};
    struct tokenizer *t;
    ASSERT(tokenizer_from_gguf(&t, &d, NULL) == 0);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    static struct tokenizer *made[2]; /* kept for the process: building is most of a run */
    if (!made[0]) made[0] = tokenizer_bytes(0);
    if (!made[1]) made[1] = sentencepiece();
    const struct tokenizer *t = made[data[0] & 1];
    bool skip = data[0] & 2;
    struct buf whole = buf_make(1 << 24), all = buf_make(1 << 24), delta = buf_make(1 << 24);
    struct ids ids = {0};
    struct detok d;
    detok_init(&d, t, skip);
    for (size_t i = 1; i < size; i++) {
        ids_push(&ids, data[i] + (data[0] & 4 ? 9 : 0));
        delta.n = 0;
        detok_push(&d, ids.v[i - 1], &delta);
        ASSERT(utf8_valid(delta.p, delta.n));
        buf_put_str(&all, buf_str(&delta));
    }
    detok_finish(&d, &all);
    ASSERT(tokenizer_decode(t, ids.v, ids.n, skip, &whole) == 0);
    ASSERT(str_eq(buf_str(&whole), buf_str(&all)));
    buf_free(&whole);
    buf_free(&all);
    buf_free(&delta);
    ids_free(&ids);
    return 0;
}
