/* test_kin.c - Responses and Messages: bodies against the prompt they become or the field they are
 * refused for, and scripted answers against the exact bytes of streams and bodies.
 */
#include "api/parts.h"
#include "api_run.h"
#include "base/test.h"

/* The prompt as text; "ab" is one token. */
static const char *prompt_of(struct run *x)
{
    x->out.n = 0;
    tokenizer_decode(fixture()->text->tok, x->r->prompts->ids, x->r->prompts->n, false, &x->out);
    return buf_cstr(&x->out);
}

/* ------------------------------------------------------------------ prompts */

#define CALL "{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\",\"arguments\":\"{}\"}"

static const struct {
    enum api_kind kind;
    const char *body, *history, *prompt;
} prompts[] = {
    {API_RESPONSE, "{\"input\":\"hi\"}", NULL, "user:hi;assistant:"},
    {API_RESPONSE, "{\"input\":\"hi\",\"instructions\":\"be\"}", NULL,
     "system:be;user:hi;assistant:"},
    {API_RESPONSE,
     "{\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"a\"},"
     "{\"type\":\"input_text\",\"text\":\"b\"}]},{\"type\":\"message\",\"role\":\"assistant\","
     "\"content\":[{\"type\":\"output_text\",\"text\":\"c\"}]},{\"role\":\"developer\","
     "\"content\":\"d\"}]}",
     NULL, "user:ab;assistant:c;developer:d;assistant:"},
    /* text and calls that stand together are one turn; a result is a message of its own */
    {API_RESPONSE,
     "{\"input\":[{\"role\":\"assistant\",\"content\":\"x\"}," CALL "," CALL
     ",{\"type\":\"function_call_output\",\"call_id\":\"c\",\"output\":\"o\"}]}",
     NULL, "assistant:x;tool:o;assistant:"},
    {API_RESPONSE, "{\"input\":[" CALL ",{\"role\":\"assistant\",\"content\":\"x\"}]}", NULL,
     "assistant:;assistant:x;assistant:"},
    /* reasoning belongs to what follows, and alone to nothing */
    {API_RESPONSE,
     "{\"input\":[{\"type\":\"reasoning\",\"summary\":[],\"content\":[{\"type\":"
     "\"reasoning_text\",\"text\":\"t\"}]},{\"role\":\"user\",\"content\":\"u\"}]}",
     NULL, "user:u;assistant:"},
    {API_RESPONSE, "{\"input\":\"on\",\"previous_response_id\":\"r\",\"instructions\":\"new\"}",
     "{\"role\":\"user\",\"content\":\"before\"},{\"type\":\"message\",\"role\":\"assistant\","
     "\"content\":[{\"type\":\"output_text\",\"text\":\"said\"}]}",
     "system:new;user:before;assistant:said;user:on;assistant:"},
    {API_RESPONSE, "{\"input\":\"on\",\"previous_response_id\":\"r\"}", "", "user:on;assistant:"},
    {API_RESPONSE, "{\"previous_response_id\":\"r\",\"instructions\":\"i\"}",
     "{\"role\":\"user\",\"content\":\"before\"}", "system:i;user:before;assistant:"},
    {API_RESPONSE,
     "{\"input\":\"hi\",\"tools\":[{\"type\":\"function\",\"name\":\"f\"}],\"reasoning\":"
     "{\"effort\":\"low\"}}",
     NULL, "user:hi;TOOLS{\"reasoning_effort\":\"low\"}assistant:"},
    {API_MESSAGE,
     "{\"max_tokens\":1,\"system\":[{\"type\":\"text\",\"text\":\"s\"},{\"type\":\"text\","
     "\"text\":\"y\"}],\"messages\":[{\"role\":\"user\",\"content\":\"u\"}]}",
     NULL, "system:sy;user:u;assistant:"},
    {API_MESSAGE,
     "{\"max_tokens\":1,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
     "\"text\":\"first\"},{\"type\":\"tool_result\",\"tool_use_id\":\"t\",\"content\":\"r\"},"
     "{\"type\":\"tool_result\",\"tool_use_id\":\"u\"},{\"type\":\"text\",\"text\":\"last\"}]}]}",
     NULL, "user:first;tool:r;tool:;user:last;assistant:"},
    {API_MESSAGE,
     "{\"max_tokens\":1,\"messages\":[{\"role\":\"user\",\"content\":\"u\"},{\"role\":"
     "\"assistant\",\"content\":\"I am\"}]}",
     NULL, "user:u;assistant:I am"},
    {API_MESSAGE,
     "{\"max_tokens\":1,\"messages\":[{\"role\":\"user\",\"content\":\"u\"}],\"thinking\":"
     "{\"type\":\"disabled\"}}",
     NULL, "user:u;{\"enable_thinking\":false}assistant:"},
};

TEST(prompts_of_bodies)
{
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++) {
        struct run x = run_body(prompts[i].kind, prompts[i].body, prompts[i].history);
        CHECK_MSG(x.code == 0, "row %zu: %s", i, x.e.text);
        if (x.code == 0)
            CHECK_MSG(strcmp(prompt_of(&x), prompts[i].prompt) == 0, "row %zu: %s", i,
                      prompt_of(&x));
        run_done(&x);
    }
}

/* ------------------------------------------------------------------ refusals */

static const struct {
    enum api_kind kind;
    const char *body;
    int code;
    const char *param;
} refused[] = {
    {API_RESPONSE, "[]", SL_ETYPE, ""},
    {API_RESPONSE, "{\"input\":\"x\",\"model\":\"nope\"}", SL_ENOMODEL, "model"},
    {API_RESPONSE, "{\"input\":\"x\",\"top_logprobs\":21}", SL_EABOVE_INT, "top_logprobs"},
    {API_RESPONSE, "{\"input\":\"x\",\"stream\":1}", SL_ETYPE, "stream"},
    {API_RESPONSE, "{\"input\":\"RAISE\"}", SL_EINVAL, ""},
    {API_RESPONSE, "{\"input\":[{\"type\":7}]}", SL_ETYPE, "input[0].type"},
    {API_RESPONSE, "{\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\"}]}]}",
     SL_EMISSING, "input[0].content[0].text"},
    {API_RESPONSE,
     "{\"input\":[{\"type\":\"function_call_output\",\"call_id\":\"c\",\"output\":7}]}", SL_ETYPE,
     "input[0].output"},
    {API_RESPONSE, "{\"input\":[{\"type\":\"reasoning\",\"content\":[7]}]}", SL_ETYPE,
     "input[0].content[0]"},
    {API_RESPONSE, "{\"input\":\"x\",\"tools\":7}", SL_ETYPE, "tools"},
    {API_RESPONSE, "{\"input\":\"x\",\"tools\":[{\"type\":\"function\"}]}", SL_EMISSING,
     "tools[0].name"},
    {API_RESPONSE, "{\"input\":\"x\",\"tool_choice\":7}", SL_ETYPE, "tool_choice"},
    {API_RESPONSE, "{\"input\":\"x\",\"tool_choice\":{\"type\":\"allowed_tools\"}}", SL_EMISSING,
     "tool_choice.mode"},
    {API_RESPONSE, "{\"input\":\"x\",\"text\":7}", SL_ETYPE, "text"},
    {API_RESPONSE, "{\"input\":\"x\",\"text\":{\"verbosity\":\"loud\"}}", SL_EVALUE,
     "text.verbosity"},
    {API_RESPONSE, "{\"input\":\"x\",\"include\":[7]}", SL_ETYPE, "include[0]"},
    {API_RESPONSE, "{\"input\":\"x\",\"previous_response_id\":\"r\"}", SL_EPARAM,
     "previous_response_id"}, /* nobody joined the history */
    {API_MESSAGE, "{\"max_tokens\":1.5,\"messages\":[{\"role\":\"user\",\"content\":\"u\"}]}",
     SL_ETYPE, "max_tokens"},
    {API_MESSAGE, "{\"max_tokens\":1,\"messages\":[7]}", SL_ETYPE, "messages[0]"},
    {API_MESSAGE,
     "{\"max_tokens\":1,\"stop_sequences\":[\"\"],\"messages\":[{\"role\":\"user\",\"content\":"
     "\"u\"}]}",
     SL_EVALUE, "stop_sequences"},
    {API_MESSAGE,
     "{\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"u\"}],\"thinking\":"
     "{\"type\":\"enabled\",\"budget_tokens\":9}}",
     SL_EVALUE, "thinking.budget_tokens"},
    {API_MESSAGE,
     "{\"max_tokens\":1,\"messages\":[{\"role\":\"assistant\",\"content\":[{\"type\":\"tool_use\","
     "\"id\":\"a\",\"name\":\"f\",\"input\":7}]}]}",
     SL_ETYPE, "messages[0].content[0].input"},
    {API_EMBEDDING, "{\"input\":\"x\",\"dimensions\":5}", SL_EABOVE_INT, "dimensions"},
    {API_EMBEDDING, "{\"input\":[[1,261]]}", SL_EABOVE_INT, "input[0]"},
    {API_RERANK, "{\"documents\":[\"a\"]}", SL_EMISSING, "query"},
    {API_RERANK, "{\"query\":\"q\",\"documents\":[{\"title\":\"a\"}]}", SL_ETYPE, "documents[0]"},
    {API_SCORE, "{\"text_1\":[],\"text_2\":\"a\"}", SL_EEMPTY, "text_1"},
};

TEST(refusals)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct run x = run_body(refused[i].kind, refused[i].body, NULL);
        CHECK_MSG(x.code == refused[i].code && strcmp(x.e.param, refused[i].param) == 0,
                  "%s: %s, param '%s', %s", refused[i].body, sl_err_name(x.code), x.e.param,
                  x.e.text);
        run_done(&x);
    }
}

/* ------------------------------------------------------------------ answers */

static void start(struct run *x)
{
    x->p = api_response_new(x->r, "0123456789abcdef0123456789abcdef", 1700000000);
    x->out.n = 0;
    api_response_start(x->p, &x->out);
}

static void token(struct run *x, int32_t id)
{
    api_response_event(x->p, 0, &(struct sl_event){.kind = SL_EV_TOKEN, .token = id}, &x->out);
}

static void end(struct run *x, enum sl_finish reason)
{
    struct sl_event ev = {.kind = SL_EV_DONE, .reason = (uint8_t)reason, .token = T_EOS};
    api_response_event(x->p, 0, &ev, &x->out);
    CHECK(api_response_complete(x->p));
    api_response_finish(x->p, &x->out);
}

static void check_out(struct run *x, const char *want)
{
    const char *got = buf_cstr(&x->out);
    CHECK_MSG(strcmp(got, want) == 0, "\n  got  %s\n  want %s", got, want);
    x->out.n = 0;
}

/* The members that differ from run to run: the time of the end. */
static void blank_time(struct buf *b)
{
    static const char key[] = "\"completed_at\":17";
    const char *p = strstr(buf_cstr(b), key);
    if (!p) return;
    size_t at = (size_t)(p - b->p) + sizeof key - 3;
    size_t n = strspn(b->p + at, "0123456789");
    memmove(b->p + at + 1, b->p + at + n, b->n - at - n);
    b->p[at] = '0';
    b->n -= n - 1;
}

#define ID  "0123456789abcdef0123456789abcdef"
#define MSG "msg_0123456789abcdef0123456789ab0000"
#define EVENT(name, n, rest)                                                                       \
    "event: " name "\ndata: {\"type\":\"" name "\",\"sequence_number\":" n rest "}\n\n"
#define AT(rest) ",\"item_id\":\"" MSG "\",\"output_index\":0,\"content_index\":0" rest
#define PART(text)                                                                                 \
    "{\"type\":\"output_text\",\"text\":\"" text "\",\"annotations\":[],\"logprobs\":[]}"
#define ITEM(status, parts)                                                                        \
    "{\"id\":\"" MSG "\",\"status\":\"" status                                                     \
    "\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[" parts "]}"
#define OBJECT(done, status, output, usage)                                                        \
    "{\"id\":\"resp_" ID                                                                           \
    "\",\"object\":\"response\",\"created_at\":1700000000,\"completed_at\":" done                  \
    ",\"status\":\"" status "\",\"error\":null,\"incomplete_details\":null,\"model\":\"m\","       \
    "\"output\":[" output "],\"instructions\":null,\"max_output_tokens\":null,"                    \
    "\"max_tool_calls\":null,\"background\":false,\"parallel_tool_calls\":true,"                   \
    "\"previous_response_id\":null,\"prompt_cache_key\":null,\"reasoning\":{\"effort\":null,"      \
    "\"summary\":null},\"safety_identifier\":null,\"service_tier\":\"default\",\"store\":true,"    \
    "\"temperature\":1,\"text\":{\"format\":{\"type\":\"text\"}},\"tool_choice\":\"auto\","        \
    "\"tools\":[],\"top_logprobs\":0,\"top_p\":1,\"truncation\":\"disabled\",\"user\":null,"       \
    "\"metadata\":{},\"usage\":" usage "}"
#define USAGE                                                                                      \
    "{\"input_tokens\":18,\"input_tokens_details\":{\"cached_tokens\":0,\"cache_write_tokens\":0}" \
    ","                                                                                            \
    "\"output_tokens\":2,\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":20}"

TEST(response_stream)
{
    struct run x = run_body(API_RESPONSE, "{\"input\":\"hi\",\"stream\":true}", NULL);
    CHECK(x.code == 0);
    start(&x);
    check_out(&x, EVENT("response.created", "0",
                        ",\"response\":" OBJECT("null", "in_progress", "", "null"))
                      EVENT("response.in_progress", "1",
                            ",\"response\":" OBJECT("null", "in_progress", "", "null")));
    token(&x, 'O');
    check_out(&x, EVENT("response.output_item.added", "2",
                        ",\"output_index\":0,\"item\":" ITEM("in_progress", ""))
                      EVENT("response.content_part.added", "3", AT(",\"part\":" PART("")))
                          EVENT("response.output_text.delta", "4",
                                AT(",\"delta\":\"O\",\"logprobs\":[]")));
    token(&x, T_EOS);
    check_out(&x, "");
    end(&x, SL_FINISH_STOP);
    blank_time(&x.out);
    check_out(&x, EVENT("response.output_text.done", "5", AT(",\"text\":\"O\",\"logprobs\":[]"))
                      EVENT("response.content_part.done", "6", AT(",\"part\":" PART("O")))
                          EVENT("response.output_item.done", "7",
                                ",\"output_index\":0,\"item\":" ITEM("completed", PART("O")))
                              EVENT("response.completed", "8",
                                    ",\"response\":" OBJECT("0", "completed",
                                                            ITEM("completed", PART("O")), USAGE)));
    run_done(&x);
}

TEST(response_body)
{
    struct run x = run_body(API_RESPONSE, "{\"input\":\"hi\"}", NULL);
    struct api_kept kept;
    struct buf object = buf_make(1 << 20);
    CHECK(x.code == 0);
    start(&x);
    check_out(&x, "");
    token(&x, 'O');
    token(&x, T_EOS);
    check_out(&x, "");
    end(&x, SL_FINISH_STOP);
    blank_time(&x.out);
    check_out(&x, OBJECT("0", "completed", ITEM("completed", PART("O")), USAGE));
    CHECK(api_response_kept(x.p, &kept, &object) && str_is(kept.id, "resp_" ID));
    CHECK(str_is(kept.output, ITEM("completed", PART("O"))));
    CHECK(str_is(kept.input, "{\"type\":\"message\",\"role\":\"user\",\"content\":[{\"type\":"
                             "\"input_text\",\"text\":\"hi\"}]}"));
    buf_free(&object);
    run_done(&x);
}

#define BLOCK(name, rest) "event: " name "\ndata: {\"type\":\"" name "\"" rest "}\n\n"

TEST(message_stream)
{
    struct run x = run_body(API_MESSAGE,
                            "{\"max_tokens\":9,\"stream\":true,\"messages\":[{\"role\":\"user\","
                            "\"content\":\"hi\"}]}",
                            NULL);
    CHECK(x.code == 0);
    start(&x);
    check_out(&x, BLOCK("message_start",
                        ",\"message\":{\"id\":\"msg_" ID
                        "\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\","
                        "\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{"
                        "\"input_tokens\":18,\"cache_creation_input_tokens\":0,"
                        "\"cache_read_input_tokens\":0,\"output_tokens\":0}}"));
    token(&x, 'O');
    check_out(&x, BLOCK("content_block_start",
                        ",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}")
                      BLOCK("content_block_delta",
                            ",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"O\"}"));
    end(&x, SL_FINISH_LENGTH);
    check_out(&x, BLOCK("content_block_stop", ",\"index\":0")
                      BLOCK("message_delta",
                            ",\"delta\":{\"stop_reason\":\"max_tokens\",\"stop_sequence\":null},"
                            "\"usage\":{\"input_tokens\":18,\"cache_creation_input_tokens\":0,"
                            "\"cache_read_input_tokens\":0,\"output_tokens\":1}")
                          BLOCK("message_stop", ""));
    run_done(&x);
}

/* An answer of nothing is an empty text, in both. */
TEST(empty_answers)
{
    static const struct {
        enum api_kind kind;
        const char *body, *part;
    } rows[] = {
        {API_RESPONSE, "{\"input\":\"hi\"}", PART("")},
        {API_MESSAGE, "{\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}",
         "\"content\":[{\"type\":\"text\",\"text\":\"\"}]"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct run x = run_body(rows[i].kind, rows[i].body, NULL);
        CHECK(x.code == 0);
        start(&x);
        token(&x, T_EOS);
        end(&x, SL_FINISH_STOP);
        CHECK_MSG(strstr(buf_cstr(&x.out), rows[i].part), "%s", buf_cstr(&x.out));
        run_done(&x);
    }
}

TEST(failed_streams)
{
    struct sl_error e;
    struct run x = run_body(API_RESPONSE, "{\"input\":\"hi\",\"stream\":true}", NULL);
    sl_fail(&e, SL_EINTERNAL, "it broke");
    start(&x);
    x.out.n = 0;
    api_response_error(x.p, &e, &x.out);
    const char *got = buf_cstr(&x.out);
    CHECK(strstr(got, "event: response.failed\n") && strstr(got, "\"sequence_number\":2"));
    CHECK(strstr(got, "\"error\":{\"code\":\"server_error\",\"message\":\"it broke\"}"));
    run_done(&x);
    x = run_body(API_MESSAGE,
                 "{\"max_tokens\":9,\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":"
                 "\"hi\"}]}",
                 NULL);
    start(&x);
    x.out.n = 0;
    api_response_error(x.p, &e, &x.out);
    check_out(&x, BLOCK("error", ",\"error\":{\"type\":\"api_error\",\"message\":\"it broke\"}"));
    run_done(&x);
}

static const struct {
    int code, status;
    const char *type;
} anthropic_errors[] = {
    {SL_EINVAL, 400, "invalid_request_error"},  {SL_ENOKEY, 401, "authentication_error"},
    {SL_EPERM, 403, "permission_error"},        {SL_ENOMODEL, 404, "not_found_error"},
    {SL_EMETHOD, 405, "invalid_request_error"}, {SL_ETOOLARGE, 413, "request_too_large"},
    {SL_EBUSY, 429, "rate_limit_error"},        {SL_EINTERNAL, 500, "api_error"},
    {SL_EOVERLOAD, 529, "overloaded_error"},    {SL_ELOADING, 503, "overloaded_error"},
    {SL_EDEADLINE, 504, "timeout_error"},
};

TEST(errors_of_messages)
{
    for (size_t i = 0; i < sizeof anthropic_errors / sizeof *anthropic_errors; i++) {
        struct sl_error e;
        struct buf out = buf_make(4096);
        char want[128];
        sl_fail(&e, anthropic_errors[i].code, "why");
        snprintf(want, sizeof want,
                 "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":\"why\"}}",
                 anthropic_errors[i].type);
        api_error_body_as(API_MESSAGE, &e, &out);
        CHECK_MSG(strcmp(buf_cstr(&out), want) == 0, "%s", buf_cstr(&out));
        CHECK(api_error_status_as(API_MESSAGE, &e) == anthropic_errors[i].status);
        buf_free(&out);
    }
}
