/* fuzz_answer.c - any text through the parser of tool calls and thinking: whatever way it is cut,
 * the same comes out; a complete call's arguments are JSON; text without calls and thinking comes
 * out as it is. The first two bytes pick the formats, the third seeds the cuts.
 */
#include "api/answer_formats.h"
#include "api/answer_parse.h"
#include "base/err.h"
#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const parsers[] = {
    "hermes",      "qwen3_coder",  "glm45",        "mistral", "llama3_json",    "pythonic",
    "deepseek_v3", "deepseek_v31", "deepseek_v32", "kimi_k2", "minimax_m2",     "seed_oss",
    "openai",      "lfm2",         "olmo3",        "gemma4",  "command_r",      "granite",
    "jamba",       "internlm",     "functionary",  "xlam",    "phi4_mini_json", "none"};
static const char *const thinkers[] = {"none", "deepseek_r1", "mistral", "openai", "gemma4"};
enum {
    N_PARSERS = sizeof parsers / sizeof *parsers,
    N_THINKERS = sizeof thinkers / sizeof *thinkers
};

static const struct tool_param params[] = {{{"city", 4}, PARAM_STRING}, {{"days", 4}, PARAM_OTHER}};
static const struct tool tool = {{"wx", 2}, params, 2};

static void drain(struct answer *a, struct answer_whole *w, size_t max)
{
    struct answer_event ev;
    while (answer_take(a, max, &ev)) {
        if (ev.kind != ANSWER_CALL && ev.kind != ANSWER_CALL_END)
            ASSERT(ev.text.n > 0 && utf8_valid(ev.text.p, ev.text.n));
        answer_gather(w, &ev);
    }
}

static struct answer_whole parse(const struct answer_setup *s, struct str text, uint32_t seed)
{
    struct answer_whole w = {0};
    struct answer *a = answer_new(s);
    for (size_t at = 0; at < text.n;) {
        seed = seed * 1664525u + 1013904223u;
        size_t n = seed >> 30 ? 1 + (seed >> 20) % 11 : text.n - at;
        if (n > text.n - at) n = text.n - at;
        while (at + n < text.n && ((unsigned char)text.p[at + n] & 0xC0) == 0x80) n++;
        answer_push(a, (struct str){text.p + at, n});
        if (seed & 0x10000) drain(a, &w, 1 + (seed >> 8) % 9);
        at += n;
    }
    answer_end(a);
    drain(a, &w, SIZE_MAX);
    answer_free(a);
    return w;
}

static void check_arguments(const struct answer_whole *w)
{
    static const struct json_limits lax = {512, 1 << 20, 1 << 20, true, true};
    for (size_t i = 0; i < w->n_calls; i++) {
        struct json_doc *doc = NULL;
        if (!w->calls[i].is_complete) continue;
        const struct buf *args = &w->calls[i].arguments;
        /* a lone surrogate's escape is the only text that passes and is no JSON to a strict reader */
        if (args->n && memmem(args->p, args->n, "\\ud", 3)) continue;
        if (args->n && memmem(args->p, args->n, "\\uD", 3)) continue;
        ASSERT(json_parse(&doc, args->p, args->n, &lax, NULL) == 0);
        ASSERT(json_type(json_root(doc)) == JSON_OBJ);
        json_free(doc);
    }
}

static void check_same(const struct answer_whole *x, const struct answer_whole *y)
{
    ASSERT(str_eq(buf_str(&x->content), buf_str(&y->content)));
    ASSERT(str_eq(buf_str(&x->reasoning), buf_str(&y->reasoning)));
    ASSERT(x->n_calls == y->n_calls);
    for (size_t i = 0; i < x->n_calls; i++) {
        ASSERT(str_eq(buf_str(&x->calls[i].name), buf_str(&y->calls[i].name)));
        ASSERT(str_eq(buf_str(&x->calls[i].arguments), buf_str(&y->calls[i].arguments)));
        ASSERT(x->calls[i].is_complete == y->calls[i].is_complete);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) return 0;
    struct str text = {(const char *)data + 3, size - 3};
    if (!utf8_valid(text.p, text.n)) return 0;
    struct tool_set tools = {.v = &tool, .n = 1, .choice = TOOLS_AUTO};
    struct answer_setup s = {.calls = call_format_named(str_of(parsers[data[0] % N_PARSERS])),
                             .reasoning =
                                 reasoning_format_named(str_of(thinkers[data[1] % N_THINKERS])),
                             .tools = &tools};
    bool is_plain = !s.reasoning && !(s.calls && s.calls->is_harmony);
    s.starts_in_reasoning = data[1] & 0x80 && s.reasoning && !s.reasoning->is_harmony;
    struct answer_whole whole = parse(&s, text, 0), cut = parse(&s, text, 77u + data[2] * 7919u);
    check_arguments(&whole);
    check_same(&whole, &cut);
    if (is_plain && whole.n_calls == 0) ASSERT(str_eq(buf_str(&whole.content), text));
    answer_whole_free(&whole);
    answer_whole_free(&cut);
    return 0;
}
