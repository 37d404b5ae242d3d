/* fuzz_config.c - any config.json ends in a plan or in one clear line. */
#include "base/json.h"
#include "model/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct json_doc *doc;
    struct model_config c;
    struct plan p = {0};
    struct sl_error e = {0};
    size_t bytes[SLOT_BUFS];
    const struct plan_target t = {.device = &device_cpu, .n_ranks = 1, .fuse = true};
    if (n > 65536 || json_parse(&doc, (const char *)data, n, &json_limits_file, &e) < 0) return 0;
    int code = config_read(&c, json_root(doc), &e);
    if (code == 0) {
        code = plan_open(&p, &c, &t, &e);
        if (code == 0) code = plan_slot_bytes(&p, 1 << 20, 65536, bytes, &e);
        if (code == 0) code = weights_find(&p, NULL, true, -1, &e);
        if (code == 0) ASSERT(weights_bytes(&p) > 0 && plan_page_bytes(&p, 256) > 0);
        if (code == 0) code = plan_lower(&p, &t, NULL, &e);
        plan_close(&p);
    }
    ASSERT(code == 0 || (e.code == code && e.text[0]));
    json_free(doc);
    return 0;
}
