/* test_chat.c - the probes and what they change, on small templates of each kind. */
#include "base/test.h"

#include "text/chat.h"

static const char plain[] = /* text only; arguments through tojson; system welcome */
    "{% for m in messages %}<{{ m.role }}>{{ m.content + '' if m.content is string else '' }}"
    "{% if m.content is not string and m.content is not none %}{{ raise_exception('text only') "
    "}}{% endif %}"
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }}:{{ c.function.arguments | tojson "
    "}}]{% endfor %}"
    "</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
static const char strings[] = /* arguments are text; content must not be null */
    "{% for m in messages %}<{{ m.role }}>{{ m.content + '' }}{% for c in m.tool_calls or [] %}"
    "[{{ c.function.name + ':' + c.function.arguments }}]{% endfor %}</>{% endfor %}";
static const char parts[] = /* content is a list */
    "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{% if p.type == 'text' %}{{ "
    "p.text }}"
    "{% else %}({{ p.type }}){% endif %}{% endfor %}</>{% endfor %}";
static const char no_system[] =
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% "
    "endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}{{ mode }}";
static const char developer[] =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{# #}"
    "{% if messages[0].role == 'developer' %}!{% endif %}";

#define CALL                                                                                       \
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"type\":"             \
    "\"function\","                                                                                \
    "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\": 1.0}\"}}]}"

/* The request is one JSON object: messages, kwargs, prompt, open. */
static int render(const char *source, const char *request, struct buf *out, struct sl_error *e)
{
    struct chat_specials sp = {.bos = "<s>"};
    struct chat_template *t;
    struct json_doc *doc;
    TRY(chat_template_open(&t, str_of(source), &sp, e));
    TRY(json_parse(&doc, request, strlen(request), &json_limits_request, e));
    const json_node *root = json_root(doc);
    struct chat_request q = {
        .messages = json_get(root, "messages"),
        .kwargs = json_get(root, "kwargs"),
        .tools = json_get(root, "tools"),
        .add_generation_prompt = json_type(json_get(root, "prompt")) == JSON_TRUE,
        .continue_final_message = json_type(json_get(root, "open")) == JSON_TRUE,
        .now = 1};
    int code = chat_render(t, &q, out, e);
    json_free(doc);
    chat_template_free(t);
    return code;
}

TEST(normalisation)
{
    static const struct {
        const char *source, *request, *want; /* want NULL: refused */
    } cases[] = {
        {plain, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"prompt\":true}",
         "<user>a</><assistant>"},
        {plain, "{\"messages\":[" CALL "]}", "<assistant>[f:{\"x\": 1.0}]</>"},
        {strings, "{\"messages\":[" CALL "]}", "<assistant>[f:{\"x\": 1.0}]</>"},
        {plain,
         "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
         "{\"type\":\"text\",\"text\":\"b\"}]}]}",
         "<user>a\nb</>"},
        {parts, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}", "<user>a</>"},
        {parts,
         "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}},"
         "{\"type\":\"text\",\"text\":\"b\"}]}]}",
         "<user>(image)b</>"},
        {no_system,
         "{\"messages\":[{\"role\":\"system\",\"content\":\"S\"},"
         "{\"role\":\"user\",\"content\":\"U\"}]}",
         "<s><user>S\n\nU</>"},
        {no_system,
         "{\"messages\":[{\"role\":\"user\",\"content\":\"U\"}],\"kwargs\":{\"mode\":\"m\"}}",
         "<s><user>U</>m"},
        {plain, "{\"messages\":[{\"role\":\"developer\",\"content\":\"D\"}]}", "<system>D</>"},
        {developer, "{\"messages\":[{\"role\":\"developer\",\"content\":\"D\"}]}", "<developer>D!"},
        {plain, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"tool_calls\":[]}]}",
         "<user>a</>"},
        {plain,
         "{\"messages\":[{\"role\":\"assistant\",\"content\":\"ab "
         "\"}],\"open\":true,\"prompt\":true}",
         "<assistant>ab "},
        {no_system, "{\"messages\":[{\"role\":\"user\",\"content\":\" ab \"}],\"open\":true}",
         "<s><user>ab"},
        {plain, "{\"messages\":[{\"role\":\"assistant\",\"content\":\"\"}],\"open\":true}", NULL},
        {plain, "{\"messages\":[],\"kwargs\":{\"messages\":1}}", NULL},
        {plain, "{\"messages\":[],\"kwargs\":{\"range\":1}}", NULL},
        {plain, "{\"messages\":[],\"kwargs\":{\"x\":[1]}}", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf out = buf_make(1 << 20);
        struct sl_error e = {0};
        int code = render(cases[i].source, cases[i].request, &out, &e);
        bool good = cases[i].want ? code == 0 && str_is(buf_str(&out), cases[i].want) : code < 0;
        CHECK_MSG(good, "%s\n  got %s %s", cases[i].request, buf_cstr(&out), e.text);
        buf_free(&out);
    }
}

TEST(errors_keep_the_templates_text)
{
    struct buf out = buf_make(1 << 20);
    struct sl_error e = {0};
    CHECK(render("{{ raise_exception('Roles must alternate') }}", "{\"messages\":[]}", &out, &e) ==
          SL_EINVAL);
    CHECK(strcmp(e.text, "Roles must alternate") == 0 && out.n == 0);
    CHECK(render("{% if %}", "{\"messages\":[]}", &out, &e) == SL_EFORMAT);
    buf_free(&out);
}
