/* test_api_in.c - bodies against the error code and the field they are refused for, or what they
 * become. */
#include "base/test.h"

#include "api_run.h"

#define HI   "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define TOOL "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"

struct row {
    const char *body;
    int code;
    const char *param;
};

static const struct row chat_rows[] = {
    {"", SL_EINVAL, ""},
    {"{", SL_EINVAL, ""},
    {"[]", SL_ETYPE, ""},
    {"{}", SL_EMISSING, "messages"},
    {"{\"messages\":null}", SL_EMISSING, "messages"},
    {"{\"messages\":[]}", SL_EEMPTY, "messages"},
    {"{\"messages\":\"x\"}", SL_ETYPE, "messages"},
    {"{\"messages\":[1]}", SL_ETYPE, "messages[0]"},
    {"{\"messages\":[{\"content\":\"x\"}]}", SL_EMISSING, "messages[0].role"},
    {"{\"messages\":[{\"role\":5}]}", SL_ETYPE, "messages[0].role"},
    {"{\"messages\":[{\"role\":\"wizard\",\"content\":\"x\"}]}", SL_EVALUE, "messages[0].role"},
    {"{\"messages\":[{\"role\":\"user\"}]}", SL_EMISSING, "messages[0].content"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":123}]}", SL_ETYPE, "messages[0].content"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"text\":\"x\"}]}]}", SL_EMISSING,
     "messages[0].content[0].type"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", SL_EMISSING,
     "messages[0].content[0].text"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]}",
     SL_EUNSUPPORTED, "messages[0].content[0].type"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"smell\"}]}]}", SL_EVALUE,
     "messages[0].content[0].type"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"refusal\",\"refusal\":\"x\"}]}]}",
     SL_EVALUE, "messages[0].content[0].type"},
    {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":{}}]}", SL_ETYPE,
     "messages[0].tool_calls"},
    {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{}}]}]}", SL_EMISSING,
     "messages[0].tool_calls[0].function.name"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"RAISE\"}]}", SL_EINVAL, ""},
    {"{" HI ",\"model\":\"nope\"}", SL_ENOMODEL, "model"},
    {"{" HI ",\"model\":3}", SL_ETYPE, "model"},
    {"{" HI ",\"temperature\":3}", SL_EABOVE_DEC, "temperature"},
    {"{" HI ",\"temperature\":-1e-9}", SL_EBELOW_DEC, "temperature"},
    {"{" HI ",\"temperature\":\"1\"}", SL_ETYPE, "temperature"},
    {"{" HI ",\"temperature\":NaN}", SL_EINVAL, ""},
    {"{" HI ",\"temperature\":1e999}", SL_EINVAL, ""},
    {"{" HI ",\"top_p\":1.5}", SL_EABOVE_DEC, "top_p"},
    {"{" HI ",\"min_p\":-0.1}", SL_EBELOW_DEC, "min_p"},
    {"{" HI ",\"typical_p\":0}", SL_EBELOW_DEC, "typical_p"},
    {"{" HI ",\"repetition_penalty\":0}", SL_EBELOW_DEC, "repetition_penalty"},
    {"{" HI ",\"presence_penalty\":5}", SL_EABOVE_DEC, "presence_penalty"},
    {"{" HI ",\"frequency_penalty\":-2.5}", SL_EBELOW_DEC, "frequency_penalty"},
    {"{" HI ",\"top_k\":-2}", SL_EBELOW_INT, "top_k"},
    {"{" HI ",\"n\":0}", SL_EBELOW_INT, "n"},
    {"{" HI ",\"n\":17}", SL_EABOVE_INT, "n"},
    {"{" HI ",\"n\":1.5}", SL_ETYPE, "n"},
    {"{" HI ",\"n\":true}", SL_ETYPE, "n"},
    {"{" HI ",\"n\":2,\"best_of\":3}", SL_EUNSUPPORTED, "best_of"},
    {"{" HI ",\"max_tokens\":0}", SL_EBELOW_INT, "max_tokens"},
    {"{" HI ",\"max_completion_tokens\":0}", SL_EBELOW_INT, "max_completion_tokens"},
    {"{" HI ",\"max_tokens\":4,\"min_tokens\":5}", SL_EVALUE, "min_tokens"},
    {"{" HI ",\"seed\":\"7\"}", SL_ETYPE, "seed"},
    {"{" HI ",\"seed\":9223372036854775808}", SL_EABOVE_INT, "seed"},
    {"{" HI ",\"top_logprobs\":5}", SL_EVALUE, "top_logprobs"},
    {"{" HI ",\"logprobs\":true,\"top_logprobs\":21}", SL_EABOVE_INT, "top_logprobs"},
    {"{" HI ",\"logprobs\":1}", SL_ETYPE, "logprobs"},
    {"{" HI ",\"stream\":1}", SL_ETYPE, "stream"},
    {"{" HI ",\"stream_options\":{}}", SL_EVALUE, "stream_options"},
    {"{" HI ",\"stream\":true,\"stream_options\":5}", SL_ETYPE, "stream_options"},
    {"{" HI ",\"stream\":true,\"stream_options\":{\"include_usage\":1}}", SL_ETYPE,
     "stream_options.include_usage"},
    {"{" HI ",\"stream\":true,\"prompt_logprobs\":1}", SL_EVALUE, "prompt_logprobs"},
    {"{" HI ",\"stop\":[\"\"]}", SL_EVALUE, "stop[0]"},
    {"{" HI ",\"stop\":\"\"}", SL_EVALUE, "stop"},
    {"{" HI ",\"stop\":[1]}", SL_ETYPE, "stop[0]"},
    {"{" HI ",\"stop\":{}}", SL_ETYPE, "stop"},
    {"{" HI ",\"logit_bias\":{\"abc\":1}}", SL_EVALUE, "logit_bias"},
    {"{" HI ",\"logit_bias\":{\"1\":101}}", SL_EABOVE_DEC, "logit_bias.1"},
    {"{" HI ",\"logit_bias\":{\"261\":1}}", SL_EVALUE, "logit_bias"},
    {"{" HI ",\"logit_bias\":[]}", SL_ETYPE, "logit_bias"},
    {"{" HI ",\"stop_token_ids\":[261]}", SL_EABOVE_INT, "stop_token_ids[0]"},
    {"{" HI ",\"allowed_token_ids\":[1,-1]}", SL_EBELOW_INT, "allowed_token_ids[1]"},
    {"{" HI ",\"allowed_token_ids\":[]}", SL_EEMPTY, "allowed_token_ids"},
    {"{" HI ",\"bad_words\":[\"\"]}", SL_EVALUE, "bad_words[0]"},
    {"{" HI ",\"cache_salt\":\"a/b\"}", SL_EVALUE, "cache_salt"},
    {"{" HI ",\"cache_salt\":\"\"}", SL_EVALUE, "cache_salt"},
    {"{" HI ",\"tool_choice\":\"required\"}", SL_EVALUE, "tool_choice"},
    {"{" HI ",\"tool_choice\":\"never\"}", SL_EVALUE, "tool_choice"},
    {"{" HI ",\"tool_choice\":7}", SL_ETYPE, "tool_choice"},
    {"{" HI "," TOOL ",\"tool_choice\":\"required\"}", SL_EUNSUPPORTED, "tool_choice"},
    {"{" HI "," TOOL ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}}",
     SL_EVALUE, "tool_choice"},
    {"{" HI "," TOOL ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}}",
     SL_EUNSUPPORTED, "tool_choice"},
    {"{" HI ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a b\"}}]}", SL_EVALUE,
     "tools[0].function.name"},
    {"{" HI ",\"tools\":[{\"type\":\"custom\"}]}", SL_EUNSUPPORTED, "tools[0].type"},
    {"{" HI ",\"response_format\":{\"type\":\"xml\"}}", SL_EVALUE, "response_format.type"},
    {"{" HI ",\"response_format\":{}}", SL_EMISSING, "response_format.type"},
    {"{" HI ",\"response_format\":{\"type\":\"json_object\"}}", SL_EUNSUPPORTED, "response_format"},
    {"{" HI ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\","
     "\"schema\":{\"type\":\"hiccup\"}}}}",
     SL_ESCHEMA, "response_format"},
    {"{" HI ",\"modalities\":[\"audio\"]}", SL_EUNSUPPORTED, "modalities"},
    {"{" HI ",\"reasoning_effort\":\"huge\"}", SL_EVALUE, "reasoning_effort"},
    {"{" HI ",\"chat_template\":\"x\"}", SL_EPARAM, "chat_template"},
    {"{" HI ",\"structured_outputs\":{}}", SL_EVALUE, "structured_outputs"},
    {"{" HI ",\"structured_outputs\":{\"regex\":7}}", SL_ETYPE, "structured_outputs"},
    {"{" HI ",\"structured_outputs\":{\"regex\":\"(\"}}", SL_ESCHEMA, "structured_outputs"},
    {"{" HI ",\"structured_outputs\":{\"regex\":\"a\",\"choice\":[\"a\"]}}", SL_EVALUE,
     "structured_outputs"},
    {"{" HI ",\"guided_choice\":[1]}", SL_ETYPE, "guided_choice"},
    {"{" HI ",\"guided_grammar\":\"root ::= x\"}", SL_ESCHEMA, "guided_grammar"},
    {"{" HI ",\"guided_json\":\"{\"}", SL_ESCHEMA, "guided_json"},
    {"{" HI ",\"guided_regex\":\"a\",\"response_format\":{\"type\":\"json_object\"}}", SL_EVALUE,
     "guided_regex"},
    {"{" HI ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a b\","
     "\"schema\":{}}}}",
     SL_EVALUE, "response_format.json_schema.name"},
    {"{" HI ",\"functions\":[]}", SL_EPARAM, "functions"},
    {"{" HI ",\"continue_final_message\":true,\"add_generation_prompt\":true}", SL_EVALUE,
     "continue_final_message"},
    {"{" HI ",\"chat_template_kwargs\":[]}", SL_ETYPE, "chat_template_kwargs"},
    {"{" HI ",\"n\":1,\"n\":2}", SL_EINVAL, ""},
    {"{" HI "}", 0, ""},
    {"{" HI ",\"model\":\"org/alias\",\"foo\":1,\"tools\":[],\"tool_choice\":\"auto\",\"n\":2.0}",
     0, ""},
    {"{" HI "," TOOL ",\"tool_choice\":\"none\",\"parallel_tool_calls\":false}", 0, ""},
    {"{" HI ",\"temperature\":null,\"top_p\":null,\"max_tokens\":null,\"n\":null,\"stream\":null,"
     "\"stop\":null,"
     "\"logit_bias\":null,\"seed\":null,\"response_format\":null,\"tools\":null,\"tool_choice\":"
     "null,\"audio\":null,"
     "\"stream_options\":null,\"cache_salt\":null,\"logprobs\":null,\"top_logprobs\":null}",
     0, ""},
    {"{" HI ",\"seed\":-5,\"temperature\":0,\"top_p\":0,\"stop\":[],\"bad_words\":[\"ab\"],\"cache_"
     "salt\":\"a-1\"}",
     0, ""},
};

static const struct row completion_rows[] = {
    {"{}", SL_EMISSING, "prompt"},
    {"{\"prompt\":5}", SL_ETYPE, "prompt"},
    {"{\"prompt\":[]}", SL_EEMPTY, "prompt"},
    {"{\"prompt\":[[]]}", SL_EEMPTY, "prompt[0]"},
    {"{\"prompt\":\"\"}", SL_EINVAL, "prompt"},
    {"{\"prompt\":[1,\"a\"]}", SL_ETYPE, "prompt[1]"},
    {"{\"prompt\":[\"a\",1]}", SL_ETYPE, "prompt[1]"},
    {"{\"prompt\":[[1],\"a\"]}", SL_ETYPE, "prompt[1]"},
    {"{\"prompt\":[-1]}", SL_EBELOW_INT, "prompt[0]"},
    {"{\"prompt\":[[1],[1,261]]}", SL_EABOVE_INT, "prompt[1][1]"},
    {"{\"prompt\":\"a\",\"logprobs\":true}", SL_ETYPE, "logprobs"},
    {"{\"prompt\":\"a\",\"logprobs\":21}", SL_EABOVE_INT, "logprobs"},
    {"{\"prompt\":\"a\",\"suffix\":\"b\"}", SL_EPARAM, "suffix"},
    {"{\"prompt\":\"a\",\"best_of\":2}", SL_EUNSUPPORTED, "best_of"},
    {"{\"prompt\":\"a\",\"max_tokens\":-1}", SL_EBELOW_INT, "max_tokens"},
    {"{\"prompt\":[\"a\",\"b\",\"c\",\"d\",\"e\"],\"n\":16}", SL_EABOVE_INT, "n"},
    {"{\"prompt\":\"a\",\"max_tokens\":0,\"echo\":true}", 0, ""},
    {"{\"prompt\":[\"a\",\"b\"],\"n\":2,\"best_of\":2}", 0, ""},
    {"{\"prompt\":[[1,2.0],[3]]}", 0, ""},
};

static void check_rows(enum api_kind kind, const struct row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct run x = run_body(kind, rows[i].body, NULL);
        CHECK_MSG(x.code == rows[i].code, "%s: %s %s", rows[i].body, sl_err_name(x.code), x.e.text);
        CHECK_MSG(strcmp(x.e.param, rows[i].param) == 0, "%s: param %s", rows[i].body, x.e.param);
        CHECK_MSG(x.code == 0 || x.e.text[0], "%s: no text", rows[i].body);
        run_done(&x);
    }
}

TEST(chat_bodies)
{
    check_rows(API_CHAT, chat_rows, sizeof chat_rows / sizeof *chat_rows);
}
TEST(completion_bodies)
{
    check_rows(API_COMPLETION, completion_rows, sizeof completion_rows / sizeof *completion_rows);
}

TEST(engine_request)
{
    struct sl_request q;
    struct run x = run_body(
        API_CHAT,
        "{" HI ",\"seed\":-5,\"n\":2,\"max_tokens\":9,\"max_completion_tokens\":3,\"top_k\":-1,"
        "\"stop_token_ids\":[7],\"logit_bias\":{\"1\":-100},\"min_p\":0.5,\"priority\":-3,"
        "\"logprobs\":true,\"top_logprobs\":4,\"bad_words\":[\"x\"],\"cache_salt\":\"s\"}",
        NULL);
    CHECK(x.code == 0);
    api_engine_request(x.r, 1, 99, &q);
    CHECK(q.n_prompt == strlen("user:hi;assistant:") && q.prompt[0] == 'u' && q.priority == -3);
    CHECK(q.sampling.seed == (uint64_t)-4 && q.sampling.max_tokens == 3 &&
          q.sampling.temperature == 1);
    CHECK(q.sampling.n_eos == 1 && q.sampling.n_stop_ids == 2 && q.sampling.stop_ids[0] == T_EOS &&
          q.sampling.stop_ids[1] == 7);
    CHECK(q.sampling.n_bias == 1 && q.sampling.bias[0].token == 1 &&
          q.sampling.bias[0].value == -100);
    CHECK(q.sampling.n_logprobs == 4 && q.sampling.n_prompt_logprobs == -1 &&
          q.sampling.min_p == 0.5f);
    CHECK(q.sampling.n_bad_words == 1 && q.sampling.bad_word_len[0] == 1 &&
          q.sampling.bad_words[0] == 'x');
    CHECK(str_is(api_cache_salt(x.r), "s") && api_n_choices(x.r) == 2 && !api_is_stream(x.r));
    CHECK(api_cost_tokens(x.r) == 2 * (q.n_prompt + 3));
    run_done(&x);
    x = run_body(API_COMPLETION, "{\"prompt\":[[5,6],[7]],\"n\":2}", NULL);
    api_engine_request(x.r, 3, 99, &q);
    CHECK(q.n_prompt == 1 && q.prompt[0] == 7 && q.sampling.seed == 102 &&
          q.sampling.max_tokens == 16);
    run_done(&x);
}

TEST(model_defaults)
{
    struct sl_request q;
    fixture();
    struct generation_defaults before = fixture_text.defaults;
    fixture_text.defaults = (struct generation_defaults){0.6, 0.9, NAN, 1e9, 1.1, 20, 50};
    for (int use = 0; use < 2; use++) {
        fixture_context.model_defaults = use;
        struct run x = run_body(API_CHAT, "{" HI ",\"top_p\":1}", NULL);
        api_engine_request(x.r, 0, 0, &q);
        CHECK(q.sampling.temperature == (use ? 0.6f : 1) && q.sampling.top_p == 1 &&
              q.sampling.typical_p == 1);
        CHECK(q.sampling.top_k == (use ? 20 : 0) &&
              q.sampling.max_tokens == (use ? 50u : 1000 - q.n_prompt));
        run_done(&x);
    }
    fixture_text.defaults = before;
}

TEST(context_length)
{
    struct buf b = buf_make(1 << 20);
    buf_puts(&b, "{\"prompt\":[");
    for (int i = 0; i < 1000; i++) buf_puts(&b, i ? ",1" : "1");
    buf_puts(&b, "]}");
    struct run x = run_body(API_COMPLETION, buf_cstr(&b), NULL);
    CHECK(x.code == SL_ECONTEXT && strcmp(x.e.param, "prompt") == 0);
    CHECK(strcmp(x.e.text, "This model's maximum context length is 1000 tokens. However, your "
                           "messages resulted in 1000 "
                           "tokens. Please reduce the length of the messages or completion.") == 0);
    run_done(&x);
    b.n -= 1;
    buf_puts(&b, ",\"max_tokens\":0,\"echo\":true,\"logprobs\":0}");
    x = run_body(API_COMPLETION, buf_cstr(&b), NULL);
    CHECK(x.code == 0);
    run_done(&x);
    buf_free(&b);
    x = run_body(API_COMPLETION, "{\"prompt\":\"0123456789\",\"max_tokens\":5000}", NULL);
    CHECK(x.code == 0 && api_cost_tokens(x.r) == 1000);
    run_done(&x);
    x = run_body(API_COMPLETION, "{\"prompt\":\"0123456789\",\"truncate_prompt_tokens\":3}", NULL);
    CHECK(x.code == 0 && api_cost_tokens(x.r) == 3 + 16);
    run_done(&x);
    fixture_context.strict_length = true;
    x = run_body(API_COMPLETION, "{\"prompt\":\"0123456789\",\"max_tokens\":5000}", NULL);
    CHECK(
        x.code == SL_ECONTEXT &&
        strstr(x.e.text,
               "However, you requested 5010 tokens (10 in the messages, 5000 in the completion)."));
    run_done(&x);
    fixture_context.strict_length = false;
}

/* A megabyte of ids costs one walk. */
TEST(long_id_arrays)
{
    struct buf b = buf_make(4 << 20);
    buf_puts(&b, "{\"prompt\":[");
    for (int i = 0; i < 500000; i++) buf_puts(&b, i ? ",7" : "7");
    buf_puts(&b, "]}");
    struct run x = run_body(API_COMPLETION, buf_cstr(&b), NULL);
    CHECK(x.code == SL_ECONTEXT);
    run_done(&x);
    buf_free(&b);
}

static void check_small(int (*call)(const struct api_context *, struct str, struct buf *,
                                    struct sl_error *),
                        const char *body, const char *want)
{
    struct buf out = buf_make(1 << 20);
    struct sl_error e = {0};
    int code = call(fixture(), str_of(body), &out, &e);
    CHECK_MSG(code == 0 && strcmp(buf_cstr(&out), want) == 0, "%s: %d %s %s", body, code, e.text,
              buf_cstr(&out));
    buf_free(&out);
}

TEST(small_endpoints)
{
    check_small(api_tokenize, "{\"prompt\":\"aab\"}",
                "{\"count\":2,\"max_model_len\":1000,\"tokens\":[97,256],\"token_strs\":null}");
    check_small(api_tokenize, "{\"prompt\":\"ab\",\"return_token_strs\":true}",
                "{\"count\":1,\"max_model_len\":1000,\"tokens\":[256],\"token_strs\":[\"ab\"]}");
    check_small(api_tokenize, "{\"content\":\"a\",\"with_pieces\":true}",
                "{\"count\":1,\"max_model_len\":1000,\"tokens\":[{\"id\":97,\"piece\":\"a\"}],"
                "\"token_strs\":null}");
    check_small(api_detokenize, "{\"tokens\":[97,256]}",
                "{\"prompt\":\"aab\",\"content\":\"aab\"}");
    check_small(api_apply_template,
                "{" HI ",\"reasoning_effort\":\"none\",\"chat_template_kwargs\":{\"a\":[1]}}",
                "{\"prompt\":\"user:hi;{\\\"a\\\":[1],\\\"reasoning_effort\\\":\\\"none\\\","
                "\\\"enable_thinking\\\":false}"
                "assistant:\"}");
    check_small(api_apply_template, "{" HI ",\"continue_final_message\":true}",
                "{\"prompt\":\"user:hi\"}");
    struct buf out = buf_make(1 << 20);
    struct sl_error e = {0};
    CHECK(api_tokenize(fixture(), STR("{}"), &out, &e) == SL_EMISSING);
    CHECK(api_detokenize(fixture(), STR("{\"tokens\":[\"a\"]}"), &out, &e) == SL_ETYPE);
    CHECK(api_model(fixture(), STR("x"), &out, &e) == SL_ENOMODEL && strstr(e.text, "`x`"));
    CHECK(api_model(fixture(), STR("org/alias"), &out, &e) == 0 &&
          strstr(buf_cstr(&out), "\"id\":\"org/alias\""));
    out.n = 0;
    api_models(fixture(), &out);
    CHECK(strncmp(buf_cstr(&out), "{\"object\":\"list\",\"data\":[{\"id\":\"m\"", 33) == 0);
    buf_free(&out);
}

TEST(error_bodies)
{
    struct buf out = buf_make(1000);
    struct sl_error e;
    sl_fail_param(&e, SL_EABOVE_DEC, "top_p", "too \"much\"");
    api_error_body(&e, &out);
    CHECK(strcmp(buf_cstr(&out),
                 "{\"error\":{\"message\":\"too \\\"much\\\"\",\"type\":\"invalid_request_error\","
                 "\"param\":\"top_p\",\"code\":\"decimal_above_max_value\"}}") == 0);
    out.n = 0;
    sl_fail(&e, SL_EINVAL, "no");
    api_error_body(&e, &out);
    CHECK(strcmp(buf_cstr(&out),
                 "{\"error\":{\"message\":\"no\",\"type\":\"invalid_request_error\",\"param\":null,"
                 "\"code\":null}}") == 0);
    buf_free(&out);
}
