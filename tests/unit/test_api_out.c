/* test_api_out.c - scripted engine events against the exact bytes of streams and bodies; and
 * streams against bodies for random texts, cut into tokens at random.
 */
#include <time.h>

#include "api_run.h"
#include "base/test.h"

static struct run start(enum api_kind kind, const char *body)
{
    struct run x = run_body(kind, body, NULL);
    if (x.code < 0) printf("%s: %s\n", body, x.e.text);
    ASSERT(x.code == 0);
    x.p = api_response_new(x.r, "0123456789abcdef01234567", 1700000000);
    api_response_start(x.p, &x.out);
    return x;
}

static bool token(struct run *x, int choice, int32_t id)
{
    struct sl_event ev = {.kind = SL_EV_TOKEN, .token = id};
    return api_response_event(x->p, choice, &ev, &x->out);
}

/* A token with log probability lp and n alternatives: 'A', 'B', ... at -1, -2, ... */
static bool token_lp(struct run *x, enum sl_event_kind kind, int32_t id, float lp, int n)
{
    struct sl_event ev = {
        .kind = (uint8_t)kind, .token = id, .logprob = lp, .rank = 3, .n_top = (uint16_t)n};
    bool stopped = api_response_event(x->p, 0, &ev, &x->out);
    for (int i = 0; i < n; i++) {
        struct sl_event top = {.kind = SL_EV_TOP, .token = 'A' + i, .logprob = -1.0f - (float)i};
        stopped |= api_response_event(x->p, 0, &top, &x->out);
    }
    return stopped;
}

static void end(struct run *x, int choice, enum sl_finish reason, int32_t id)
{
    struct sl_event ev = {.kind = SL_EV_DONE, .reason = (uint8_t)reason, .token = id};
    CHECK(!api_response_event(x->p, choice, &ev, &x->out));
}

static void finish(struct run *x)
{
    CHECK(api_response_complete(x->p));
    api_response_finish(x->p, &x->out);
}

static void check_out(struct run *x, const char *want)
{
    const char *got = buf_cstr(&x->out);
    CHECK_MSG(strcmp(got, want) == 0, "\n  got  %s\n  want %s", got, want);
    x->out.n = 0;
}

#define HI     "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define OPEN   "{\"id\":\"chatcmpl-0123456789abcdef01234567\",\"object\":\"chat.completion"
#define REST   "\",\"created\":1700000000,\"model\":\"m\",\"system_fingerprint\":\"fp_0123456789\","
#define CHUNK  "data: " OPEN ".chunk" REST "\"choices\":[{\"index\":0,"
#define LEGACY "{\"id\":\"cmpl-0123456789abcdef01234567\",\"object\":\"text_completion" REST
#define NO_DETAILS                                                                                 \
    "\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},\"completion_tokens_"      \
    "details\":{"                                                                                  \
    "\"reasoning_tokens\":0,\"audio_tokens\":0,\"accepted_prediction_tokens\":0,"                  \
    "\"rejected_prediction_tokens\":0}}"
#define ROLE                                                                                       \
    CHUNK "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_"        \
          "reason\":null}]}\n\n"

TEST(chat_stream)
{
    struct run x = start(API_CHAT, "{" HI ",\"stream\":true}");
    check_out(&x, ROLE);
    token(&x, 0, 'O');
    check_out(&x, CHUNK
              "\"delta\":{\"content\":\"O\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    token(&x, 0, T_END); /* special: no text */
    check_out(&x, "");
    token(&x, 0, 0xC3); /* half of a character */
    check_out(&x, "");
    token(&x, 0, 0xA9);
    check_out(&x, CHUNK
              "\"delta\":{\"content\":\"é\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    token(&x, 0, 0); /* U+0000 */
    check_out(
        &x, CHUNK
        "\"delta\":{\"content\":\"\xEF\xBF\xBD\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    token(&x, 0, T_EOS);
    check_out(&x, "");
    end(&x, 0, SL_FINISH_STOP, T_EOS);
    check_out(
        &x, CHUNK
        "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}]}\n\n");
    finish(&x);
    check_out(&x, "data: [DONE]\n\n");
    CHECK(api_response_usage(x.p).completion_tokens == 6 &&
          api_response_reason(x.p, 0) == SL_FINISH_STOP);
    run_done(&x);
}

TEST(chat_body)
{
    struct run x = start(API_CHAT, "{" HI ",\"service_tier\":\"auto\",\"stop_token_ids\":[90]}");
    token(&x, 0, 'O');
    token(&x, 0, '"');
    token(&x, 0, 'Z');
    end(&x, 0, SL_FINISH_STOP, 'Z');
    finish(&x);
    check_out(
        &x, OPEN REST
        "\"service_tier\":\"default\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
        "\"assistant\",\"content\":"
        "\"O\\\"\",\"refusal\":null,\"annotations\":[]},\"logprobs\":null,\"finish_reason\":"
        "\"stop\",\"stop_reason\":90}],"
        "\"usage\":{\"prompt_tokens\":18,\"completion_tokens\":3,\"total_tokens\":21," NO_DETAILS
        "}");
    run_done(&x);
}

TEST(usage_chunks)
{
    struct run x = start(
        API_CHAT, "{" HI ",\"stream\":true,\"n\":2,\"stream_options\":{\"include_usage\":true}}");
    CHECK(strstr(buf_cstr(&x.out), "\"index\":0") < strstr(buf_cstr(&x.out), "\"index\":1"));
    CHECK(strstr(buf_cstr(&x.out), "\"finish_reason\":null}],\"usage\":null}\n\n"));
    token(&x, 1, 'O');
    end(&x, 1, SL_FINISH_LENGTH, -1);
    CHECK(!api_response_complete(x.p));
    end(&x, 0, SL_FINISH_LENGTH, -1);
    x.out.n = 0;
    finish(&x);
    check_out(&x, "data: " OPEN ".chunk" REST
                  "\"choices\":[],\"usage\":{\"prompt_tokens\":18,\"completion_tokens\":1,\"total_"
                  "tokens\":19," NO_DETAILS "}\n\ndata: [DONE]\n\n");
    run_done(&x);
}

TEST(stop_strings_cross_tokens)
{
    struct run x = start(API_CHAT, "{" HI ",\"stream\":true,\"stop\":[\"END\",\"xyz\"]}");
    x.out.n = 0;
    token(&x, 0, 'E');
    CHECK(x.out.n == 0);
    token(&x, 0, 'N');
    CHECK(x.out.n == 0);
    token(&x, 0, 'y'); /* not a stop after all */
    check_out(&x, CHUNK
              "\"delta\":{\"content\":\"ENy\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    token(&x, 0, 'E');
    token(&x, 0, 'N');
    CHECK(x.out.n == 0);
    CHECK(token(&x, 0, 'D'));
    check_out(
        &x, CHUNK
        "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":\"END\"}]}\n\n");
    CHECK(!token(&x, 0, 'Q')); /* the engine's last step */
    end(&x, 0, SL_FINISH_CANCEL, -1);
    finish(&x);
    check_out(&x, "data: [DONE]\n\n");
    CHECK(api_response_usage(x.p).completion_tokens == 6);
    run_done(&x);
    x = start(
        API_CHAT,
        "{" HI
        ",\"stream\":true,\"stop\":\"b\",\"include_stop_str_in_output\":true,\"min_tokens\":2}");
    x.out.n = 0;
    CHECK(!token(&x, 0, 'b'));
    CHECK(token(&x, 0, T_AB));
    CHECK(strstr(buf_cstr(&x.out), "{\"content\":\"bab\"}") &&
          strstr(buf_cstr(&x.out), "\"stop_reason\":\"b\""));
    run_done(&x);
}

#define LP(text, lp, byte) "\"token\":\"" text "\",\"logprob\":" lp ",\"bytes\":[" byte "]"
TEST(chat_logprobs)
{
    struct run x = start(
        API_CHAT, "{" HI ",\"stream\":true,\"logprobs\":true,\"top_logprobs\":1,\"stop\":\"cd\"}");
    check_out(&x, ROLE);
    token_lp(&x, SL_EV_TOKEN, 'a', -0.5f, 1);
    check_out(&x,
              CHUNK "\"delta\":{\"content\":\"a\"},\"logprobs\":{\"content\":[{" LP(
                  "a", "-0.5",
                  "97") ",\"top_logprobs\":[{" LP("A", "-1", "65") "}]}],\"refusal\":null},"
                                                                   "\"finish_reason\":null}]}\n\n");
    token_lp(&x, SL_EV_TOKEN, 'c', -0.25f, 0);
    check_out(&x, "");
    CHECK(token_lp(&x, SL_EV_TOKEN, 'd', -0.25f, 0)); /* both entries go with the text */
    check_out(
        &x, CHUNK
        "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":\"cd\"}]}\n\n");
    run_done(&x);
}

TEST(legacy_echo_scoring)
{
    struct run x = start(API_COMPLETION,
                         "{\"prompt\":[97,98,99],\"echo\":true,\"logprobs\":1,\"max_tokens\":1}");
    token_lp(&x, SL_EV_PROMPT, 'b', -2.0f, 1);
    token_lp(&x, SL_EV_PROMPT, 'c', -3.0f, 1);
    token_lp(&x, SL_EV_TOKEN, 'A', -1.0f, 1);
    end(&x, 0, SL_FINISH_LENGTH, -1);
    finish(&x);
    check_out(
        &x, LEGACY
        "\"choices\":[{\"index\":0,\"text\":\"abcA\",\"logprobs\":{\"tokens\":[\"a\",\"b\",\"c\","
        "\"A\"],"
        "\"token_logprobs\":[null,-2,-3,-1],\"top_logprobs\":[null,{\"A\":-1,\"b\":-2},{\"A\":-1,"
        "\"c\":-3},{\"A\":-1}],"
        "\"text_offset\":[0,1,2,3]},\"finish_reason\":\"length\",\"stop_reason\":null}],"
        "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1,\"total_tokens\":4," NO_DETAILS
        "}");
    run_done(&x);
}

TEST(legacy_extensions)
{
    struct run x =
        start(API_COMPLETION,
              "{\"prompt\":[97,98],\"logprobs\":0,\"max_tokens\":2,\"prompt_logprobs\":1,"
              "\"return_tokens_as_token_ids\":true,\"return_token_ids\":true,\"ignore_eos\":true}");
    token_lp(&x, SL_EV_PROMPT, 'b', -2.0f, 1);
    token_lp(&x, SL_EV_TOKEN, T_EOS, -1.5f, 0);
    token_lp(&x, SL_EV_TOKEN, 'A', -1.0f, 0);
    end(&x, 0, SL_FINISH_LENGTH, -1);
    finish(&x);
    check_out(
        &x, LEGACY
        "\"choices\":[{\"index\":0,\"text\":\"A\",\"logprobs\":{\"tokens\":[\"token_id:258\","
        "\"token_id:65\"],"
        "\"token_logprobs\":[-1.5,-1],\"top_logprobs\":[{\"token_id:258\":-1.5},{\"token_id:65\":-"
        "1}],"
        "\"text_offset\":[0,0]},\"finish_reason\":\"length\",\"stop_reason\":null,\"prompt_"
        "logprobs\":[null,"
        "{\"98\":{\"logprob\":-2,\"rank\":3,\"decoded_token\":\"b\"},\"65\":{\"logprob\":-1,"
        "\"rank\":1,\"decoded_token\":\"A\"}}],"
        "\"prompt_token_ids\":[97,98],\"token_ids\":[258,65]}],"
        "\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":2,\"total_tokens\":4," NO_DETAILS
        "}");
    run_done(&x);
}

/* Each token's text stands at its offset, broken characters between them or not. */
TEST(text_offsets)
{
    struct run x = start(API_COMPLETION, "{\"prompt\":[195,97],\"logprobs\":0,\"echo\":true}");
    token_lp(&x, SL_EV_PROMPT, 'a', -1.0f, 0);
    token_lp(&x, SL_EV_TOKEN, 0xF0, -1.0f, 0);
    token_lp(&x, SL_EV_TOKEN, T_AB, -1.0f, 0);
    token_lp(&x, SL_EV_TOKEN, 0xC3, -1.0f, 0);
    token_lp(&x, SL_EV_TOKEN, 0xA9, -1.0f, 0);
    token_lp(&x, SL_EV_TOKEN, 'c', -1.0f, 0);
    end(&x, 0, SL_FINISH_LENGTH, -1);
    finish(&x);
    CHECK_MSG(strstr(buf_cstr(&x.out), "\"text\":\"\xEF\xBF\xBD"
                                       "a\xEF\xBF\xBD"
                                       "abéc\"") &&
                  strstr(buf_cstr(&x.out), "\"text_offset\":[0,1,2,3,5,5,6]"),
              "%s", buf_cstr(&x.out));
    run_done(&x);
}

TEST(legacy_stream_echo)
{
    struct run x =
        start(API_COMPLETION,
              "{\"prompt\":[\"é\",\"b\"],\"echo\":true,\"stream\":true,\"return_token_ids\":true}");
#define TEXT(i, s, rest)                                                                           \
    "data: " LEGACY "\"choices\":[{\"index\":" #i ",\"text\":\"" s                                 \
    "\",\"logprobs\":null,\"finish_reason\":" rest "}]}\n\n"
    check_out(&x, TEXT(0, "é", "null,\"prompt_token_ids\":[195,169],\"token_ids\":[]")
                      TEXT(1, "b", "null,\"prompt_token_ids\":[98],\"token_ids\":[]"));
    token(&x, 1, 'c');
    check_out(&x, TEXT(1, "c", "null,\"token_ids\":[99]"));
    end(&x, 1, SL_FINISH_LENGTH, -1);
    check_out(&x, TEXT(1, "", "\"length\",\"stop_reason\":null,\"token_ids\":[]"));
    end(&x, 0, SL_FINISH_LENGTH, -1);
    x.out.n = 0;
    finish(&x);
    CHECK(api_response_usage(x.p).prompt_tokens == 3);
    run_done(&x);
}

TEST(failures)
{
    struct run x = start(API_CHAT, "{" HI ",\"stream\":true}");
    x.out.n = 0;
    end(&x, 0, SL_FINISH_ERROR, SL_ENUMERIC);
    CHECK(x.out.n == 0 && api_response_failed(x.p) == SL_ENUMERIC && api_response_complete(x.p));
    struct sl_error e;
    sl_fail(&e, SL_EINTERNAL, "internal error during generation");
    api_response_error(x.p, &e, &x.out);
    check_out(&x, "data: {\"error\":{\"message\":\"internal error during "
                  "generation\",\"type\":\"server_error\",\"param\":null,"
                  "\"code\":\"internal_error\"}}\n\ndata: [DONE]\n\n");
    run_done(&x);
}

/* ------------------------------------------------------------------ streams against bodies */

static uint32_t rng;
static uint32_t pick(uint32_t n)
{
    rng = rng * 1664525u + 1013904223u;
    return (rng >> 8) % n;
}

static void random_ids(int32_t *ids, int n)
{
    static const char *const bits[] = {"a", "b", "ab", "é", "😀", "你", "\xF0\x9F", "x", "E", "EN"};
    for (int i = 0; i < n;) {
        const char *s = bits[pick(10)];
        if (pick(12) == 0) ids[i++] = pick(2) ? T_END : T_AB;
        for (; *s && i < n; s++) ids[i++] = (unsigned char)*s;
    }
}

/* All of ids, until a stop string ends the choice. */
static void feed(struct run *x, const int32_t *ids, int n)
{
    for (int i = 0; i < n; i++)
        if (token_lp(x, SL_EV_TOKEN, ids[i], -(float)(i + 1), 1)) return;
    end(x, 0, SL_FINISH_LENGTH, -1);
}

/* The text and the entries' log probabilities, in order, of a body or of a stream's events. */
static void collect(const char *p, const char *key, struct buf *text, struct buf *lps)
{
    struct json_doc *doc;
    struct sl_error e = {0};
    bool is_stream = strncmp(p, "data: ", 6) == 0;
    for (const char *line = p; *line;) {
        const char *stop_at = strstr(line, "\n\n");
        size_t n = stop_at ? (size_t)(stop_at - line) : strlen(line);
        struct str s = {line + (is_stream ? 6 : 0), n - (is_stream ? 6 : 0)};
        line += stop_at ? n + 2 : n;
        if (str_is(s, "[DONE]")) continue;
        CHECK_MSG(n < 65536, "a line of %zu bytes", n);
        int code = json_parse(&doc, s.p, s.n, &json_limits_file, &e);
        CHECK_MSG(code == 0, "%s in %.*s", e.text, (int)s.n, s.p);
        if (code < 0) return;
        const json_node *c = json_child(json_get(json_root(doc), "choices"));
        const json_node *m = json_get(c, strcmp(key, "text") == 0 ? ""
                                         : is_stream              ? "delta"
                                                                  : "message");
        const json_node *t = json_opt(m ? m : c, key), *lp = json_opt(c, "logprobs");
        if (t) buf_put_str(text, json_str(t));
        if (json_opt(lp, "content")) json_put_node(lps, json_opt(lp, "content"));
        if (json_opt(lp, "token_logprobs")) json_put_node(lps, json_opt(lp, "token_logprobs"));
        if (json_opt(lp, "text_offset")) json_put_node(lps, json_opt(lp, "text_offset"));
        json_free(doc);
    }
}

/* "[1,2][3]" and "[1,2,3]" are the same list. */
static void join_lists(struct buf *b)
{
    size_t n = 0;
    for (size_t i = 0; i < b->n; i++)
        if (b->p[i] == ']' && i + 1 < b->n && b->p[i + 1] == '[') {
            if (n && b->p[n - 1] != '[' && b->p[i + 2] != ']') b->p[n++] = ',';
            i++;
        } else {
            b->p[n++] = b->p[i];
        }
    b->n = n;
    if (b->n == 2) b->n = 0; /* an empty list, which a stream may leave out */
}

static void compare(enum api_kind kind, const char *fields, const int32_t *ids, int n)
{
    struct buf text[2] = {buf_make(1 << 20), buf_make(1 << 20)},
               lps[2] = {buf_make(16 << 20), buf_make(16 << 20)};
    const char *key = kind == API_CHAT ? "content" : "text";
    for (int stream = 0; stream < 2; stream++) {
        char body[400];
        snprintf(body, sizeof body, "{%s,%s,\"stream\":%s}",
                 kind == API_CHAT ? HI : "\"prompt\":\"pr\"", fields, stream ? "true" : "false");
        struct run x = start(kind, body);
        feed(&x, ids, n);
        finish(&x);
        collect(buf_cstr(&x.out), key, &text[stream], &lps[stream]);
        CHECK(utf8_valid(x.out.p, x.out.n));
        run_done(&x);
    }
    if (kind == API_CHAT) {
        join_lists(&lps[0]);
        join_lists(&lps[1]);
        CHECK_MSG(str_eq(buf_str(&lps[0]), buf_str(&lps[1])), "%s\n  %s\n  %s", fields,
                  buf_cstr(&lps[0]), buf_cstr(&lps[1]));
    }
    CHECK_MSG(str_eq(buf_str(&text[0]), buf_str(&text[1])), "%s\n  %s\n  %s", fields,
              buf_cstr(&text[0]), buf_cstr(&text[1]));
    for (int i = 0; i < 2; i++) {
        buf_free(&text[i]);
        buf_free(&lps[i]);
    }
}

TEST(stream_equals_body)
{
    static const char *const fields[] = {
        "\"seed\":1",
        "\"stop\":[\"EN\",\"ba\"]",
        "\"stop\":[\"é😀\",\"aaaa\"],\"include_stop_str_in_output\":true",
        "\"skip_special_tokens\":false,\"stop\":\"<end>\"",
        "\"stop\":[\"a\"],\"min_tokens\":9",
        "\"echo\":true,\"stop\":\"xE\""};
    for (rng = 0; rng < 400; rng++) {
        uint32_t seed = rng;
        int32_t ids[40];
        int n = 1 + (int)pick(40);
        char more[300];
        random_ids(ids, n);
        const char *f = fields[pick(6)];
        snprintf(more, sizeof more, "%s,\"logprobs\":true,\"top_logprobs\":1", f);
        compare(API_CHAT, more, ids, n);
        snprintf(more, sizeof more, "%s,\"logprobs\":1", f);
        compare(API_COMPLETION, more, ids, n);
        compare(API_COMPLETION, f, ids, n);
        rng = seed;
    }
}

/* A long echo comes in lines that every client can read. */
TEST(long_echo_is_split)
{
    struct buf body = buf_make(1 << 20);
    buf_puts(&body, "{\"echo\":true,\"stream\":true,\"max_tokens\":1,\"logprobs\":1,\"prompt\":\"");
    for (int i = 0; i < 900; i++) buf_puts(&body, i % 9 ? "ab" : "x");
    buf_puts(&body, "\"}");
    struct run x = start(API_COMPLETION, buf_cstr(&body));
    for (int i = 1; i < 900; i++) token_lp(&x, SL_EV_PROMPT, i % 9 ? T_AB : 'x', -1.0f, 1);
    feed(&x, (int32_t[]){'!'}, 1);
    finish(&x);
    struct buf text = buf_make(1 << 20), lps = buf_make(1 << 20);
    collect(buf_cstr(&x.out), "text", &text, &lps);
    CHECK(text.n == 1701 && strncmp(buf_cstr(&text), "xabab", 5) == 0 && text.p[1700] == '!');
    size_t commas = 0;
    join_lists(&lps);
    for (size_t i = 0; i < lps.n; i++) commas += lps.p[i] == ',';
    CHECK_MSG(commas == 2 * 901 - 1, "%zu", commas);
    run_done(&x);
    buf_free(&body);
    buf_free(&text);
    buf_free(&lps);
}

/* Not a limit, a figure: what one plain token costs on its way to bytes. */
TEST(plain_token_cost)
{
    enum { N = 200000 };
    struct timespec a, b;
    struct run x = start(API_CHAT, "{" HI ",\"stream\":true}");
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < N; i++) {
        x.out.n = 0;
        token(&x, 0, 'a' + i % 26);
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    double ns = ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / N;
    printf("a streamed token: %.0f ns\n", ns);
    CHECK(x.out.n > 200);
    run_done(&x);
}

/* ------------------------------------------------------------------ calls and thinking */

#define TOOL        "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"wx\",\"parameters\":{}}}],"
#define DELTA(json) CHUNK "\"delta\":" json ",\"logprobs\":null,\"finish_reason\":null}]}\n\n"

static void text(struct run *x, const char *z)
{
    for (; *z; z++) token(x, 0, (unsigned char)*z);
}

static struct run start_tools(const char *body)
{
    struct sl_error e;
    fixture();
    CHECK(api_find_formats(&fixture_context.formats, &fixture_text, "mistral", "mistral", &e) == 0);
    return start(API_CHAT, body);
}

/* [TOOL_CALLS] is a special token: shown to the parser, as text it is gone. <end> is not shown. */
TEST(a_call_opened_by_a_special_token)
{
    struct run x = start_tools("{" TOOL HI ",\"stream\":true}");
    x.out.n = 0;
    token(&x, 0, 'H');
    token(&x, 0, T_END);
    token(&x, 0, T_TOOL);
    text(&x, "wx[ARGS]{\"a\": 1");
    token(&x, 0, '}');
    token(&x, 0, T_EOS);
    end(&x, 0, SL_FINISH_STOP, T_EOS);
    finish(&x);
    const char *id = strstr(buf_cstr(&x.out), "\"id\":\"call_")
                         ? NULL
                         : strstr(x.out.p, "\"index\":0,\"id\":\"");
    char want[4000];
    snprintf(want, sizeof want,
             DELTA("{\"content\":\"H\"}") CHUNK
             "\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"%.9s\",\"type\":\"function\","
             "\"function\":{\"name\":\"wx\",\"arguments\":\"\"}}]},\"logprobs\":null,"
             "\"finish_reason\":null}]}\n\n" DELTA(
                 "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"a\\\"\"}}]}")
                 DELTA("{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\": \"}}]}")
                     DELTA("{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"1}\"}}]}")
                         CHUNK "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"tool_calls\","
                               "\"stop_reason\":null}]}\n\n"
                               "data: [DONE]\n\n",
             id ? id + strlen("\"index\":0,\"id\":\"") : "");
    check_out(&x, want);
    run_done(&x);
    fixture_context.formats = (struct api_formats){0};
}

TEST(thinking_in_a_body)
{
    struct run x = start_tools("{" TOOL HI "}");
    text(&x, "[THINK]Hm.[/THINK]Hi");
    token(&x, 0, T_EOS);
    end(&x, 0, SL_FINISH_STOP, T_EOS);
    finish(&x);
    const char *got = buf_cstr(&x.out);
    CHECK_MSG(strstr(got, "\"message\":{\"role\":\"assistant\",\"content\":\"Hi\",\"refusal\":null,"
                          "\"annotations\":[],\"reasoning_content\":\"Hm.\"}"),
              "%s", got);
    CHECK_MSG(strstr(got, "\"reasoning_tokens\":18,"), "%s", got);
    run_done(&x);
    fixture_context.formats = (struct api_formats){0};
}
