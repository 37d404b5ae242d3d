/* answer_formats.c - the tables of answer_formats.h and their look-up. The order of the rows is
 * that of the search by marks: the more special marks come first.
 */
#include "api/answer_formats.h"

/* DeepSeek's markers are written with U+FF5C and U+2581. */
#define BAR       "\xEF\xBD\x9C"
#define LOW       "\xE2\x96\x81"
#define DS(word)  "<" BAR word BAR ">"
#define DSML(tag) "<" BAR "DSML" BAR tag

// clang-format off
static const struct call_format calls[] = {
    {.name = "openai", .aliases = "harmony gpt-oss gptoss", .marks = "<|channel|> <|message|>",
     .is_harmony = true},
    {.name = "deepseek_v32", .aliases = "deepseek_v4", .marks = BAR "DSML" BAR,
     .opens = {DSML("function_calls>")}, .body = CALL_NAMED, .args = ARGS_TAGS,
     .before = "~" DSML("invoke name=\""), .name_end = "\">",
     .key_open = "~" DSML("parameter name=\""), .key_end = "\" string=\"", .type_end = "\">",
     .value_end = "</" BAR "DSML" BAR "parameter>", .after = "~</" BAR "DSML" BAR "invoke>",
     .next = "", .close = "~</" BAR "DSML" BAR "function_calls>",
     .other = "deepseek_v4_tool_calls"},
    {.name = "deepseek_v4_tool_calls", .opens = {DSML("tool_calls>")}, .body = CALL_NAMED,
     .args = ARGS_TAGS, .before = "~" DSML("invoke name=\""), .name_end = "\">",
     .key_open = "~" DSML("parameter name=\""), .key_end = "\" string=\"", .type_end = "\">",
     .value_end = "</" BAR "DSML" BAR "parameter>", .after = "~</" BAR "DSML" BAR "invoke>",
     .next = "", .close = "~</" BAR "DSML" BAR "tool_calls>"},
    {.name = "deepseek_v3", .aliases = "deepseek_r1 deepseek",
     .marks = DS("tool" LOW "calls" LOW "begin") " ```json",
     .opens = {DS("tool" LOW "calls" LOW "begin")}, .blank = "\n", .body = CALL_NAMED,
     .before = "~" DS("tool" LOW "call" LOW "begin") "function" DS("tool" LOW "sep"),
     .name_end = "\n```json\n", .after = "~```~" DS("tool" LOW "call" LOW "end"), .next = "",
     .close = "~" DS("tool" LOW "calls" LOW "end"), .other = "deepseek_v31"},
    {.name = "deepseek_v31", .marks = DS("tool" LOW "calls" LOW "begin"),
     .opens = {DS("tool" LOW "calls" LOW "begin")}, .body = CALL_NAMED,
     .before = "~" DS("tool" LOW "call" LOW "begin"), .name_end = DS("tool" LOW "sep"),
     .after = "~" DS("tool" LOW "call" LOW "end"), .next = "",
     .close = "~" DS("tool" LOW "calls" LOW "end"), .other = "deepseek_v3"},
    {.name = "kimi_k2", .marks = "<|tool_calls_section_begin|>",
     .opens = {"<|tool_calls_section_begin|>"}, .body = CALL_NAMED, .has_own_ids = true,
     .before = "~<|tool_call_begin|>~", .name_end = "<|tool_call_argument_begin|>",
     .after = "~<|tool_call_end|>", .next = "", .close = "~<|tool_calls_section_end|>"},
    {.name = "minimax_m2", .aliases = "minimax", .marks = "<minimax:tool_call>",
     .opens = {"<minimax:tool_call>"}, .body = CALL_NAMED, .args = ARGS_TAGS,
     .before = "~<invoke name=\"", .name_end = "\">", .key_open = "~<parameter name=\"",
     .key_end = "\">", .value_end = "</parameter>", .after = "~</invoke>", .next = "",
     .close = "~</minimax:tool_call>"},
    {.name = "glm45", .aliases = "glm47 glm4_moe glm4", .marks = "<arg_key>",
     .opens = {"<tool_call>"}, .body = CALL_NAMED, .args = ARGS_TAGS, .before = "~",
     .name_end = "\n", .key_open = "~<arg_key>", .key_end = "</arg_key>",
     .value_open = "~<arg_value>", .value_end = "</arg_value>", .after = "~</tool_call>"},
    {.name = "seed_oss", .marks = "<seed:tool_call>", .opens = {"<seed:tool_call>"},
     .body = CALL_NAMED, .args = ARGS_TAGS, .before = "~<function=", .name_end = ">",
     .key_open = "~<parameter=", .key_end = ">", .value_end = "</parameter>",
     .after = "~</function>", .next = "", .close = "~</seed:tool_call>"},
    {.name = "qwen3_coder", .aliases = "qwen3_xml", .marks = "<tool_call> <function= <parameter=",
     .opens = {"<tool_call>", "<function="}, .body = CALL_NAMED, .args = ARGS_TAGS,
     .before = "~<function=", .name_end = ">", .key_open = "~<parameter=", .key_end = ">",
     .value_end = "</parameter>", .after = "~</function>", .next = "", .close = "~</tool_call>"},
    {.name = "mistral_v11", .marks = "[TOOL_CALLS] [ARGS]", .opens = {"[TOOL_CALLS]"},
     .has_short_ids = true, .is_call_a_section = true, .body = CALL_NAMED, .before = "~",
     .name_end = "[ARGS]", .name_cut = "[CALL_ID]", .other = "mistral"},
    {.name = "mistral", .marks = "[TOOL_CALLS]", .opens = {"[TOOL_CALLS]"},
     .has_short_ids = true, .body = CALL_OBJECT, .first = "~[~", .next = "~,~", .close = "~]",
     .other = "mistral_v11"},
    {.name = "longcat", .marks = "<longcat_tool_call>", .opens = {"<longcat_tool_call>"},
     .blank = "\n", .is_call_a_section = true, .body = CALL_OBJECT, .before = "~",
     .close = "~</longcat_tool_call>"},
    {.name = "hermes", .aliases = "qwen qwen25 qwen3 granite4 exaone", .marks = "<tool_call>",
     .opens = {"<tool_call>"}, .blank = "\n", .is_call_a_section = true, .body = CALL_OBJECT,
     .before = "~", .next = "", .close = "~</tool_call>"},
    {.name = "pythonic", .aliases = "llama4_pythonic", .marks = "<|python_start|>",
     .opens = {"<|python_start|>"}, .is_bare = true, .has_known_names = true,
     .body = CALL_NAMED, .args = ARGS_PYTHON, .first = "~[~", .name_end = "(", .next = "~,~",
     .close = "~]?~<|python_end|>", .other = "llama4_json"},
    {.name = "llama4_json", .opens = {"<|python_start|>"}, .is_bare = true,
     .args_key = "parameters", .body = CALL_OBJECT, .first = "~", .next = "~;~",
     .close = "~<|python_end|>"},
    {.name = "lfm2", .marks = "<|tool_call_start|>", .opens = {"<|tool_call_start|>"},
     .body = CALL_NAMED, .args = ARGS_PYTHON, .first = "~[~", .name_end = "(", .next = "~,~",
     .close = "~]?~<|tool_call_end|>"},
    {.name = "olmo3", .marks = "<function_calls>", .opens = {"<function_calls>"},
     .body = CALL_NAMED, .args = ARGS_PYTHON, .before = "~", .name_end = "(", .next = "",
     .close = "~</function_calls>"},
    {.name = "gemma4", .marks = "<|tool_call>", .opens = {"<|tool_call>"}, .body = CALL_NAMED,
     .args = ARGS_GEMMA, .before = "~call:", .name_end = "{", .close = "~<tool_call|>"},
    {.name = "command_r", .aliases = "cohere command_a", .marks = "<|START_ACTION|>",
     .opens = {"<|START_ACTION|>"}, .name_key = "tool_name", .args_key = "parameters",
     .body = CALL_OBJECT, .first = "~[~", .next = "~,~", .close = "~]?~<|END_ACTION|>"},
    {.name = "phi4_mini_json", .aliases = "firefunction functools",
     .marks = "<|/tool|>\nfunctools[", .opens = {"functools"}, .body = CALL_OBJECT,
     .first = "~[~", .next = "~,~", .close = "~]", .other = "granite"},
    {.name = "granite", .marks = "<|tool_call|>", .opens = {"<|tool_call|>"},
     .body = CALL_OBJECT, .first = "~[~", .next = "~,~", .close = "~]?~<|/tool_call|>"},
    {.name = "jamba", .aliases = "hunyuan_a13b", .marks = "<tool_calls>",
     .opens = {"<tool_calls>"}, .body = CALL_OBJECT, .first = "~[~", .next = "~,~",
     .close = "~]?~</tool_calls>"},
    {.name = "internlm", .marks = "<|action_start|>", .opens = {"<|action_start|>"},
     .is_call_a_section = true, .args_key = "parameters", .body = CALL_OBJECT,
     .first = "~<|plugin|>~", .close = "~<|action_end|>"},
    {.name = "functionary", .marks = "<function=", .opens = {"<function="},
     .is_call_a_section = true, .body = CALL_NAMED, .name_end = ">", .after = "~</function>"},
    {.name = "llama3_json", .aliases = "llama3 llama",
     .marks = "<|python_tag|>\n<|eot_id|> ipython", .opens = {"<|python_tag|>"},
     .is_bare = true, .args_key = "parameters", .body = CALL_OBJECT, .first = "~", .next = "~;~",
     .other = "llama3_builtin"},
    {.name = "llama3_builtin", .opens = {"<|python_tag|>"}, .body = CALL_NAMED,
     .args = ARGS_PYTHON, .before = "~", .name_end = ".call("},
    {.name = "xlam", .is_bare = true, .body = CALL_OBJECT, .first = "~[~", .next = "~,~",
     .close = "~]"},
};

static const struct reasoning_format reasonings[] = {
    {.name = "openai_gptoss", .aliases = "openai harmony gpt-oss gptoss",
     .marks = "<|channel|> <|message|>", .is_harmony = true},
    {.name = "mistral", .aliases = "magistral", .marks = "[/THINK]", .open = "[THINK]",
     .close = "[/THINK]"},
    {.name = "seed_oss", .marks = "</seed:think>", .open = "<seed:think>",
     .close = "</seed:think>"},
    {.name = "cohere", .aliases = "command_a", .marks = "<|END_THINKING|>",
     .open = "<|START_THINKING|>", .close = "<|END_THINKING|>"},
    {.name = "gemma4", .marks = "<channel|>", .open = "<|channel>thought", .close = "<channel|>"},
    {.name = "deepseek_r1",
     .aliases = "qwen3 glm45 deepseek_v3 minimax_m2 kimi_k2 nemotron_v3 hunyuan_a13b ernie45 step3 holo2 olmo3 smollm3 think",
     .marks = "</think>", .open = "<think>", .close = "</think>"},
    {.name = "granite", .open = "Here is my thought process:", .close = "Here is my response:"},
};
// clang-format on

enum {
    N_CALLS = sizeof calls / sizeof *calls,
    N_REASONINGS = sizeof reasonings / sizeof *reasonings
};

/* ------------------------------------------------------------------ look-up */

static bool holds(struct str text, struct str part)
{
    return part.n && text.n && memmem(text.p, text.n, part.p, part.n) != NULL;
}

/* Is text one of the words of a list apart by blanks? */
static bool is_listed(const char *list, struct str text)
{
    for (const char *p = list; p && *p;) {
        size_t n = strcspn(p, " ");
        if (str_eq((struct str){p, n}, text)) return true;
        p += n + (p[n] == ' ');
    }
    return false;
}

static bool has_marks(const char *marks, struct str source)
{
    bool all = marks != NULL;
    for (const char *p = marks; p && *p;) {
        size_t n = strcspn(p, " \n");
        all = all && holds(source, (struct str){p, n});
        if (p[n] == '\n' && all) return true;
        if (p[n] == '\n') all = true;
        p += n + (p[n] != '\0');
    }
    return all;
}

const struct call_format *call_format_named(struct str name)
{
    for (int i = 0; i < N_CALLS; i++)
        if (str_is(name, calls[i].name) || is_listed(calls[i].aliases, name)) return &calls[i];
    return NULL;
}

const struct reasoning_format *reasoning_format_named(struct str name)
{
    for (int i = 0; i < N_REASONINGS; i++)
        if (str_is(name, reasonings[i].name) || is_listed(reasonings[i].aliases, name))
            return &reasonings[i];
    return NULL;
}

const struct call_format *call_format_of(struct str source)
{
    for (int i = 0; i < N_CALLS; i++)
        if (has_marks(calls[i].marks, source)) return &calls[i];
    return NULL;
}

const struct reasoning_format *reasoning_format_of(struct str source)
{
    for (int i = 0; i < N_REASONINGS; i++)
        if (has_marks(reasonings[i].marks, source)) return &reasonings[i];
    return NULL;
}

static void put_name(struct buf *out, const char *name)
{
    if (out->n) buf_puts(out, ", ");
    buf_puts(out, name);
}

void call_format_names(struct buf *out)
{
    for (int i = 0; i < N_CALLS; i++) put_name(out, calls[i].name);
}

void reasoning_format_names(struct buf *out)
{
    for (int i = 0; i < N_REASONINGS; i++) put_name(out, reasonings[i].name);
}

/* ------------------------------------------------------------------ markers */

static const char harmony_markers[] =
    "<|start|> <|end|> <|message|> <|channel|> <|constrain|> <|return|> <|call|>";

bool call_format_uses(const struct call_format *f, struct str special)
{
    if (f && f->is_harmony) return is_listed(harmony_markers, special);
    for (int turn = 0; f && turn < 2; turn++) { /* rows lead to one other at most, and back */
        const char *const texts[] = {f->opens[0], f->opens[1], f->first,   f->next,
                                     f->close,    f->before,   f->after,   f->name_end,
                                     f->name_cut, f->key_open, f->key_end, f->value_open,
                                     f->type_end, f->value_end};
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
            if (texts[i] && holds(str_of(texts[i]), special)) return true;
        if (f->args == ARGS_GEMMA && str_is(special, "<|\"|>")) return true;
        f = f->other ? call_format_named(str_of(f->other)) : NULL;
    }
    return false;
}

bool reasoning_format_uses(const struct reasoning_format *f, struct str special)
{
    if (!f) return false;
    if (f->is_harmony) return is_listed(harmony_markers, special);
    return holds(str_of(f->open), special) || holds(str_of(f->close), special);
}

static bool ends_with(struct str text, const char *z)
{
    size_t n = strlen(z);
    return text.n >= n && memcmp(text.p + text.n - n, z, n) == 0;
}

enum reasoning_state reasoning_at_end(const struct reasoning_format *f, struct str text)
{
    if (!f || f->is_harmony) return REASONING_NONE;
    while (text.n && strchr(" \n\r\t", text.p[text.n - 1]) && text.p[text.n - 1]) text.n--;
    if (ends_with(text, f->open)) return REASONING_OPEN;
    return ends_with(text, f->close) ? REASONING_CLOSED : REASONING_NONE;
}
