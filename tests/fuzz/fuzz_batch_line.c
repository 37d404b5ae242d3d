/* fuzz_batch_line.c - lines of a batch's input file, and bodies that create one. What is accepted is
 * JSON again, and is accepted again as the same.
 */
#include <stdlib.h>

#include "api/batch_wire.h"
#include "base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_json(struct str text)
{
    struct json_doc *doc = NULL;
    struct sl_error e;
    ASSERT(json_parse(&doc, text.p, text.n, &json_limits_file, &e) == 0);
    json_free(doc);
}

static void try_line(struct str text)
{
    static const char *const urls[] = {"/v1/chat/completions", "/v1/embeddings"};
    struct batch_line l;
    struct sl_error e;
    for (int i = 0; i < 2; i++) {
        if (batch_line_parse(text, urls[i], &l, &e)) continue;
        struct buf out = buf_make(1 << 24);
        ASSERT(l.custom_id[0] && l.body.n && l.body.p[0] == '{');
        check_json(buf_str(&l.body));
        put_batch_answer("00", l.custom_id, 200, "req_0", buf_str(&l.body), &out);
        put_batch_unrun("00", l.custom_id, true, &out);
        ASSERT(out.n > 2 && memchr(out.p, '\n', out.n - 1)); /* two lines, no more */
        const char *first = memchr(out.p, '\n', out.n);
        check_json((struct str){out.p, (size_t)(first - out.p)});
        check_json((struct str){first + 1, out.n - (size_t)(first - out.p) - 2});
        buf_free(&out);
        batch_line_free(&l);
    }
}

static void try_create(struct str text)
{
    struct batch_facts b;
    struct sl_error e;
    if (batch_create_parse(text, &b, &e) < 0) return;
    struct buf out = buf_make(1 << 24);
    put_batch_object(&b, &out);
    check_json(buf_str(&out));
    buf_free(&out);
    batch_facts_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str text = {(const char *)data, size};
    if (memchr(data, '\n', size)) return 0; /* a line has none */
    try_line(text);
    try_create(text);
    (void)batch_line_is_blank(text);
    return 0;
}
