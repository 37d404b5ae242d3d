/* test_engine.c - the sl_* calls with all threads, on the sim device: submit, cancel and poll from
 * one thread, thousands of requests; every stream has its shape and every page comes back. Run
 * under TSan. */
#include <time.h>

#include "base/test.h"
#include "fake_model.h"
#include "sluice/sluice.h"
#include "text/grammar.h"

enum { VOCAB = 261, EOS = 257, N_REQUESTS = 3000, PROMPT_MAX = 64, SLOTS_MAX = 512 };

static uint64_t rng_state;
static uint32_t rnd(uint32_t n)
{
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng_state >> 33) % n;
}

static void nap(void)
{
    nanosleep(&(struct timespec){0, 100000}, NULL);
}

static struct str byte_text(void *arg, int32_t id)
{
    static char text[1];
    (void)arg;
    text[0] = (char)id;
    return (struct str){text, id < 256};
}

static struct sl_request plain_request(const int32_t *prompt, uint32_t n, uint32_t max_tokens)
{
    static const int32_t stops[] = {EOS};
    return (struct sl_request){.prompt = prompt,
                               .n_prompt = n,
                               .sampling = {.top_p = 1,
                                            .typical_p = 1,
                                            .repetition_penalty = 1,
                                            .max_tokens = max_tokens,
                                            .n_logprobs = -1,
                                            .n_prompt_logprobs = -1,
                                            .stop_ids = stops,
                                            .n_eos = 1,
                                            .n_stop_ids = 1}};
}

/* Letters and blanks, up to 40, then an end. */
static struct grammar *words_grammar(void)
{
    static struct grammar *g;
    static const int32_t eos[] = {EOS};
    const struct grammar_opts o = {0};
    struct grammar_vocab_desc d = {.n_vocab = VOCAB, .bytes = byte_text, .eos = eos, .n_eos = 1};
    struct grammar_vocab *v;
    struct sl_error e;
    if (g || grammar_vocab_new(&v, &d, &e) < 0) return g;
    CHECK(grammar_regex(&g, STR("[a-z ]{0,40}"), v, &o, &e) == 0);
    grammar_vocab_unref(v);
    return g;
}

struct life { /* what one slot of the client has seen */
    uint32_t gen;
    uint32_t max_tokens, n_tokens, n_tops_due;
    bool is_live;
};
static struct life life[SLOTS_MAX];

struct tally {
    int n_done, n_stop, n_length, n_cancel, n_error, n_tokens;
};

static void see(const struct sl_event *ev, struct tally *t)
{
    struct life *l = &life[ev->req.slot];
    CHECK(ev->req.slot < SLOTS_MAX && l->is_live && l->gen == ev->req.gen);
    CHECK((ev->kind == SL_EV_TOP) == (l->n_tops_due > 0));
    if (ev->kind == SL_EV_TOP) l->n_tops_due--;
    if (ev->kind == SL_EV_TOKEN || ev->kind == SL_EV_PROMPT) l->n_tops_due = ev->n_top;
    if (ev->kind == SL_EV_TOKEN) {
        l->n_tokens++;
        t->n_tokens++;
        CHECK(ev->token >= 0 && ev->token < VOCAB && l->n_tokens <= l->max_tokens);
    }
    if (ev->kind != SL_EV_DONE) return;
    t->n_done++;
    t->n_stop += ev->reason == SL_FINISH_STOP;
    t->n_length += ev->reason == SL_FINISH_LENGTH;
    t->n_cancel += ev->reason == SL_FINISH_CANCEL;
    t->n_error += ev->reason == SL_FINISH_ERROR;
    CHECK(ev->reason != SL_FINISH_LENGTH || l->n_tokens == l->max_tokens);
    l->is_live = false;
}

static int take(sl_engine *g, struct tally *t)
{
    struct sl_event ev[64];
    int n = sl_poll(g, ev, 64);
    for (int i = 0; i < n; i++) see(&ev[i], t);
    return n;
}

static void live(sl_req r, const struct sl_request *q)
{
    CHECK(r.slot < SLOTS_MAX && !life[r.slot].is_live);
    life[r.slot] = (struct life){r.gen, q->sampling.max_tokens, 0, 0, true};
}

static sl_engine *open_sim(struct sl_options o)
{
    struct sl_error e = {0};
    sl_engine *g = NULL;
    o.device = "sim";
    int rc = sl_open(&g, &o, &e);
    CHECK_MSG(rc == 0, "%s", e.text);
    return g;
}

static void storm(struct sl_options o, uint32_t seed)
{
    struct sl_error e;
    struct tally t = {0};
    int32_t prompt[PROMPT_MAX];
    int n_sent = 0, n_busy = 0;
    sl_req last = {0};
    rng_state = seed;
    memset(life, 0, sizeof life);
    sl_engine *g = open_sim(o);
    while (n_sent < N_REQUESTS || t.n_done < n_sent) {
        if (n_sent < N_REQUESTS) {
            uint32_t n = 1 + rnd(PROMPT_MAX), family = rnd(3);
            for (uint32_t i = 0; i < n; i++) prompt[i] = (int32_t)(i < 40 ? family : rnd(VOCAB));
            struct sl_request r = plain_request(prompt, n, rnd(30));
            r.sampling.n_logprobs = (int8_t)((int)rnd(4) - 1);
            r.sampling.n_prompt_logprobs = (int8_t)(rnd(8) ? -1 : 2);
            r.priority = (int32_t)rnd(2);
            if (rnd(3) == 0) r.grammar = words_grammar();
            sl_req q;
            int rc = sl_submit(g, &r, &q, &e);
            CHECK(rc == 0 || rc == SL_EBUSY);
            if (rc == 0)
                live(q, &r), last = q, n_sent++;
            else
                n_busy++;
        }
        if (rnd(6) == 0) sl_cancel(g, last);
        if (rnd(4) == 0 || n_sent == N_REQUESTS)
            if (take(g, &t) == 0) nap();
    }
    CHECK(t.n_error == 0 && t.n_cancel > 0 && t.n_length > 0 && t.n_stop > 0);
    CHECK(t.n_stop + t.n_length + t.n_cancel == N_REQUESTS);
    struct sl_stats s;
    for (int i = 0; i < 2000; i++) { /* the last steps in flight */
        sl_get_stats(g, &s);
        take(g, &t);
        if (s.pages_used == 0 && s.n_running == 0) break;
        nap();
    }
    CHECK(s.pages_used == 0 && s.n_running == 0 && s.n_waiting == 0);
    CHECK(s.generation_tokens == (uint64_t)t.n_tokens);
    CHECK(!sl_failed(g));
    sl_close(g);
}

TEST(storm_async)
{
    storm((struct sl_options){.max_num_seqs = 16,
                              .max_queue_size = 64,
                              .num_gpu_blocks_override = 48,
                              .block_size = 4,
                              .max_num_batched_tokens = 64,
                              .max_model_len = 128,
                              .enable_prefix_caching = 1,
                              .async_scheduling = 1},
          1);
}

TEST(storm_sync_without_cache)
{
    storm(
        (struct sl_options){
            .max_num_seqs = 32, .max_queue_size = 16, .max_model_len = 128, .async_scheduling = 0},
        2);
}

TEST(same_tokens_in_any_company)
{
    int32_t prompt[20] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    int32_t first[24] = {0};
    sl_engine *g =
        open_sim((struct sl_options){.async_scheduling = -1, .enable_prefix_caching = 1});
    for (int round = 0; round < 3; round++) {
        struct sl_request r = plain_request(prompt, 20, 24);
        struct sl_event ev;
        struct sl_error e;
        sl_req q;
        r.sampling.ignore_eos = 1;
        CHECK(sl_submit(g, &r, &q, &e) == 0);
        for (int n = 0;;) {
            if (sl_poll(g, &ev, 1) == 0) continue;
            if (ev.kind == SL_EV_DONE) {
                CHECK(n == 24 && ev.reason == SL_FINISH_LENGTH);
                CHECK(ev.n_cached == (round ? 16u : 0u));
                break;
            }
            CHECK(round == 0 || first[n] == ev.token);
            first[n++] = ev.token;
        }
    }
    sl_close(g);
}

static uint64_t count_of(const struct sl_step_times *t)
{
    uint64_t n = 0;
    for (int i = 0; i < SL_STEP_BUCKETS; i++) n += t->counts[i];
    return n;
}

/* Every step has its CPU time; the device's wait counts from one decode step to the next, not over
 * a prefill or the time without work. */
TEST(step_times)
{
    enum { TOKENS = 20, REQUESTS = 3 };
    struct sl_error e;
    struct sl_stats s;
    struct tally t = {0};
    int32_t prompt[PROMPT_MAX] = {0};
    memset(life, 0, sizeof life);
    for (int i = 1; i < SL_STEP_BUCKETS - 1; i++)
        CHECK(sl_step_bounds_us[i] > sl_step_bounds_us[i - 1]);
    sl_engine *g = open_sim((struct sl_options){.n_vocab = VOCAB, .sim_step_us = 300});
    for (int i = 1; i <= REQUESTS; i++) {
        struct sl_request r = plain_request(prompt, 10, TOKENS);
        sl_req q;
        r.sampling.ignore_eos = 1;
        CHECK(sl_submit(g, &r, &q, &e) == 0);
        live(q, &r);
        while (t.n_done < i)
            if (take(g, &t) == 0) nap();
        for (int k = 0; k < 50; k++) nap(); /* without work */
    }
    sl_get_stats(g, &s);
    /* of TOKENS steps the first is the prefill, the second follows it; one may run ahead of the end
     */
    CHECK(count_of(&s.cpu) == s.n_steps && s.cpu.sum_ns > 0);
    CHECK_MSG(count_of(&s.idle) == REQUESTS * (TOKENS - 2), "%d", (int)count_of(&s.idle));
    CHECK(sl_flops(g, 0, 5, 1) > sl_flops(g, 0, 4, 1));
    sl_close(g);
}

TEST(refusals)
{
    int32_t prompt[8] = {1, 2, 3}, wrong[1] = {VOCAB};
    struct sl_error e;
    sl_req q;
    sl_engine *g = open_sim((struct sl_options){
        .max_model_len = 64, .num_gpu_blocks_override = 2, .max_num_seqs = 2, .max_queue_size = 2});
    struct sl_request r = plain_request(prompt, 8, 60);
    CHECK(sl_submit(g, &r, &q, &e) == SL_ECONTEXT && q.gen == 0); /* beyond the model's length */
    r = plain_request(prompt, 8, 26);
    CHECK(sl_submit(g, &r, &q, &e) == SL_ECONTEXT); /* 33 positions, 2 pages of 16 */
    r = plain_request(wrong, 1, 1);
    CHECK(sl_submit(g, &r, &q, &e) == SL_EVALUE);
    r = plain_request(prompt, 0, 1);
    CHECK(sl_submit(g, &r, &q, &e) == SL_EINVAL);
    r = plain_request(prompt, 3, 1);
    r.sampling.temperature = __builtin_nanf("");
    CHECK(sl_submit(g, &r, &q, &e) == SL_EVALUE);
    r = plain_request(prompt, 3, 1);
    for (int i = 0; i < 4; i++) CHECK(sl_submit(g, &r, &q, &e) == 0);
    CHECK(sl_submit(g, &r, &q, &e) == SL_EBUSY); /* nothing was polled: every slot is taken */
    sl_cancel(g, (sl_req){99, 1});
    sl_cancel(g, (sl_req){0, 0});
    sl_close(g);
}

TEST(slow_client_stops_the_steps)
{
    int32_t prompt[4] = {1, 2, 3, 4};
    struct sl_stats before, after;
    struct sl_error e;
    struct tally t = {0};
    sl_req q;
    sl_engine *g = open_sim((struct sl_options){.max_num_seqs = 4, .max_queue_size = 60});
    memset(life, 0, sizeof life);
    for (int i = 0; i < 64; i++) {
        struct sl_request r = plain_request(prompt, 4, 100);
        r.sampling.n_logprobs = SL_TOP_MAX;
        CHECK(sl_submit(g, &r, &q, &e) == 0);
        live(q, &r);
    }
    for (int i = 0, n_same = 0; i < 20000 && n_same < 50;
         i++) { /* nobody polls: it comes to rest */
        sl_get_stats(g, &before);
        nap();
        sl_get_stats(g, &after);
        n_same = before.n_steps == after.n_steps && after.n_steps > 0 ? n_same + 1 : 0;
    }
    CHECK(after.generation_tokens < 64 * 50 && after.n_steps > 0);
    for (int i = 0; i < 100000 && t.n_done < 64; i++)
        if (take(g, &t) == 0) nap();
    CHECK(t.n_done == 64 && t.n_error == 0);
    sl_close(g);
}

TEST(fault_ends_everyone)
{
    int32_t prompt[4] = {1, 2, 3, 4};
    for (int way = 0; way < 4; way++) {
        int is_async = way & 1;
        struct sl_error e;
        struct tally t = {0};
        int n_sent = 0;
        sl_req q;
        memset(life, 0, sizeof life);
        fake_fault_at = 20;
        fake_fault_late = way & 2;
        sl_engine *g = open_sim((struct sl_options){
            .max_num_seqs = 4, .max_queue_size = 60, .async_scheduling = (int8_t)is_async});
        struct sl_request r = plain_request(prompt, 4, 200);
        r.sampling.ignore_eos = 1;
        for (; n_sent < 32; n_sent++) {
            r.grammar = n_sent % 2 ? words_grammar() : NULL;
            int rc = sl_submit(g, &r, &q, &e);
            if (rc == SL_EDEVICE) break; /* it was quick */
            CHECK(rc == 0);
            live(q, &r);
        }
        for (int i = 0; i < 100000 && t.n_done < n_sent; i++)
            if (take(g, &t) == 0) nap();
        CHECK(n_sent > 0 && t.n_done == n_sent && t.n_error == n_sent);
        while (!sl_failed(g)) nap();
        CHECK(sl_submit(g, &r, &q, &e) == SL_EDEVICE);
        sl_close(g);
    }
    fake_fault_at = -1;
}

TEST(open_refuses_nonsense)
{
    struct sl_error e;
    sl_engine *g = NULL;
    struct sl_options o = {.device = "sim", .max_num_seqs = 8, .max_num_batched_tokens = 4};
    CHECK(sl_open(&g, &o, &e) == SL_EINVAL && g == NULL);
    o = (struct sl_options){.device = "sim", .block_size = 1000};
    CHECK(sl_open(&g, &o, &e) == SL_EINVAL && g == NULL);
    sl_close(NULL);
}
