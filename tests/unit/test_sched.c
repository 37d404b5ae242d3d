/* test_sched.c - what one step holds: decodes first, chunks in budgets, order, preemption. The
 * device says 7 to everything, one step at a time or late, as the test asks. */
#include "base/test.h"
#include "engine/core.h"

enum { SAYS = 7, EOS = 20, VOCAB = 32, REQS = 8, WANTS_MAX = 64, PROMPT_MAX = 64 };

struct bench {
    struct core core;
    struct request *rq[REQS];
    const struct job *flight[CORE_DEPTH_MAX];
    const struct job *last; /* launched */
    int n_flight, n_done, n_tokens, n_prompts, n_sampled;
    bool is_late; /* results wait, */
    int n_due;    /* but for so many */
    int32_t token[WANTS_MAX], zero[WANTS_MAX];
    float lp[WANTS_MAX];
    struct result result;
};

static uint32_t env_room(void *arg)
{
    (void)arg;
    return UINT32_MAX;
}

static int env_launch(void *arg, const struct job *j)
{
    struct bench *b = arg;
    b->flight[b->n_flight++] = b->last = j;
    return 0;
}

static void env_sample(void *arg, const struct job *j)
{
    struct bench *b = arg;
    CHECK(j == b->last && b->n_flight > 0);
    b->n_sampled++;
}

static int env_poll(void *arg, const struct result **out)
{
    struct bench *b = arg;
    const struct job *j = b->flight[0];
    if (b->n_flight == 0 || (b->is_late && b->n_due == 0)) return 0;
    b->n_due -= b->n_due > 0;
    b->flight[0] = b->flight[1];
    b->flight[1] = b->flight[2];
    b->n_flight--;
    for (int i = 0; i < j->b.n_wants; i++)
        b->token[i] = j->b.want[i].target >= 0 ? j->b.want[i].target : SAYS;
    b->result = (struct result){.step_id = j->b.step_id,
                                .n_wants = j->b.n_wants,
                                .token = b->token,
                                .logprob = b->lp,
                                .rank = b->zero,
                                .n_top = b->zero};
    *out = &b->result;
    return 1;
}

static void env_emit(void *arg, const struct sl_event *ev)
{
    struct bench *b = arg;
    b->n_done += ev->kind == SL_EV_DONE;
    b->n_tokens += ev->kind == SL_EV_TOKEN;
    b->n_prompts += ev->kind == SL_EV_PROMPT;
}

static struct bench *open_bench(struct core_config cfg)
{
    struct bench *b = calloc(1, sizeof *b);
    const struct core_env env = {b, env_room, env_launch, env_sample, env_poll, env_emit, NULL};
    cfg.max_model_len = 64;
    cfg.page_size = 4;
    cfg.n_reqs = REQS;
    cfg.depth = cfg.depth ? cfg.depth : 1;
    cfg.max_wants = cfg.max_wants ? cfg.max_wants : cfg.max_seqs;
    core_open(&b->core, &cfg, &env);
    return b;
}

static void close_bench(struct bench *b)
{
    const char *bad = core_check(&b->core);
    CHECK_MSG(bad == NULL, "%s", bad);
    core_close(&b->core);
    for (int i = 0; i < REQS; i++) request_free(b->rq[i]);
    free(b);
}

/* Request `slot`: n_prompt tokens of 1, max_tokens to say. */
static void submit_request(struct bench *b, uint32_t slot, struct sl_request r)
{
    int32_t prompt[PROMPT_MAX];
    for (uint32_t i = 0; i < r.n_prompt; i++) prompt[i] = 1;
    r.prompt = prompt;
    r.sampling.n_logprobs = -1;
    b->rq[slot] = request_new(&r, 0);
    core_cmd(&b->core, &(struct command){CMD_SUBMIT, {slot, 1}, b->rq[slot]});
}

static void submit_scored(struct bench *b, uint32_t slot, uint32_t n_prompt, uint32_t max_tokens,
                          int32_t priority, int8_t n_prompt_logprobs)
{
    submit_request(b, slot,
                   (struct sl_request){.n_prompt = n_prompt,
                                       .priority = priority,
                                       .sampling = {.max_tokens = max_tokens,
                                                    .n_logprobs = -1,
                                                    .n_prompt_logprobs = n_prompt_logprobs}});
}

static void submit_background(struct bench *b, uint32_t slot, uint32_t n_prompt,
                              uint32_t max_tokens)
{
    submit_request(
        b, slot,
        (struct sl_request){.n_prompt = n_prompt,
                            .is_background = 1,
                            .sampling = {.max_tokens = max_tokens, .n_prompt_logprobs = -1}});
}

static void submit(struct bench *b, uint32_t slot, uint32_t n_prompt, uint32_t max_tokens,
                   int32_t priority)
{
    submit_scored(b, slot, n_prompt, max_tokens, priority, -1);
}

/* Rows of a request in the last launch; 0: not in it. */
static int32_t rows_of(const struct bench *b, int32_t slot)
{
    const struct batch *k = &b->last->b;
    for (int32_t i = 0; i < k->n_seqs; i++)
        if (b->last->req[i] == slot) return k->q_start[i + 1] - k->q_start[i];
    return 0;
}

TEST(decodes_first_then_chunks)
{
    struct bench *b =
        open_bench((struct core_config){.max_seqs = 4, .max_tokens = 10, .n_pages = 64});
    submit(b, 0, 3, 9, 0);
    core_step(&b->core);
    CHECK(rows_of(b, 0) == 3);
    submit(b, 1, 25, 9, 0);
    submit(b, 2, 4, 9, 0);
    core_step(&b->core);
    CHECK(b->last->b.n_tokens == 10 && rows_of(b, 0) == 1 && rows_of(b, 1) == 9 &&
          rows_of(b, 2) == 0);
    core_step(&b->core);
    CHECK(rows_of(b, 0) == 1 && rows_of(b, 1) == 9);
    core_step(&b->core); /* the rest of 1, and 2 with what is left */
    CHECK(rows_of(b, 0) == 1 && rows_of(b, 1) == 7 && rows_of(b, 2) == 2);
    close_bench(b);
}

TEST(priority_then_arrival)
{
    struct bench *b =
        open_bench((struct core_config){.max_seqs = 1, .max_tokens = 8, .n_pages = 64});
    submit(b, 0, 2, 1, 5);
    submit(b, 1, 2, 1, 0);
    submit(b, 2, 2, 1, 0);
    submit(b, 3, 2, 1, -1);
    const int32_t order[] = {3, 1, 2, 0};
    for (int i = 0; i < 4; i++) {
        core_step(&b->core);
        CHECK_MSG(rows_of(b, order[i]) == 2, "step %d", i);
    }
    close_bench(b);
}

TEST(the_youngest_is_preempted_and_finishes)
{
    struct bench *b =
        open_bench((struct core_config){.max_seqs = 2, .max_tokens = 8, .n_pages = 6});
    submit(b, 0, 4, 20, 0);
    submit(b, 1, 4, 20, 0);
    int n_steps = 0;
    for (; b->n_done < 2 && n_steps < 100; n_steps++) {
        core_step(&b->core);
        CHECK(core_check(&b->core) == NULL);
        CHECK(b->core.seq[0].state != SEQ_WAITING); /* the older never leaves */
    }
    CHECK(b->n_done == 2 && b->n_tokens == 40 && b->core.stats.n_preemptions > 0);
    CHECK(b->core.kv.n_free == 6);
    close_bench(b);
}

TEST(scored_prompts_keep_to_the_wants)
{
    struct bench *b = open_bench(
        (struct core_config){.max_seqs = 2, .max_tokens = 32, .max_wants = 5, .n_pages = 64});
    submit(b, 0, 2, 9, 0);
    core_step(&b->core);
    submit_scored(b, 1, 14, 1, 0, 0);
    core_step(&b->core);
    CHECK(rows_of(b, 0) == 1 && rows_of(b, 1) == 4 && b->last->b.n_wants == 5);
    for (int i = 0; i < 20 && b->n_done < 2; i++) core_step(&b->core);
    CHECK(b->n_prompts == 13 && b->n_tokens == 10);
    close_bench(b);
}

TEST(scoring_alone_ends_with_the_prompt)
{
    struct bench *b =
        open_bench((struct core_config){.max_seqs = 2, .max_tokens = 4, .n_pages = 64});
    submit_scored(b, 0, 6, 0, 0, 0);
    submit(b, 1, 3, 0, 0);
    for (int i = 0; i < 20 && b->n_done < 2; i++) core_step(&b->core);
    CHECK(b->n_done == 2 && b->n_tokens == 0 && b->n_prompts == 5);
    close_bench(b);
}

TEST(a_hit_leaves_one_token)
{
    struct bench *b = open_bench((struct core_config){
        .max_seqs = 2, .max_tokens = 32, .n_pages = 64, .has_prefix_cache = true});
    submit(b, 0, 12, 1, 0);
    core_step(&b->core);
    core_step(&b->core);
    submit(b, 1, 12, 1, 0);
    core_step(&b->core);
    CHECK(rows_of(b, 1) == 4); /* two of three pages */
    submit(b, 2, 13, 1, 0);
    core_step(&b->core);
    CHECK(rows_of(b, 2) == 1); /* all three */
    close_bench(b);
}

TEST(one_step_runs_ahead)
{
    struct bench *b =
        open_bench((struct core_config){.max_seqs = 2, .max_tokens = 8, .n_pages = 64, .depth = 2});
    b->is_late = true;
    submit(b, 0, 3, 3, 0);
    core_step(&b->core);
    CHECK(b->n_flight == 2 && b->last->b.token[0] == -1 && b->last->b.pos[0] == 3);
    core_step(&b->core);
    CHECK(b->n_flight == 2); /* not a third */
    core_cmd(&b->core, &(struct command){.kind = CMD_CANCEL, .req = {0, 1}});
    CHECK(b->n_done == 1 &&
          b->core.kv.n_free < 64); /* told at once; pages stay while steps name them */
    b->is_late = false;
    core_step(&b->core);
    CHECK(b->core.kv.n_free == 64 && b->n_tokens == 0 && b->core.n_live == 0);
    close_bench(b);
}

TEST(background_gives_way)
{
    struct bench *b =
        open_bench((struct core_config){.max_seqs = 3, .max_tokens = 32, .n_pages = 64});
    submit_background(b, 0, 4, 20);
    submit_background(b, 1, 4, 20);
    submit_background(b, 2, 4, 20);
    core_step(&b->core);
    CHECK(rows_of(b, 0) == 4 && rows_of(b, 1) == 4 && rows_of(b, 2) == 0); /* a slot stays free */
    submit(b, 3, 5, 3, 0);
    core_step(&b->core);
    CHECK(rows_of(b, 3) == 5 && b->last->b.n_seqs == 1); /* alone until its first token */
    submit(b, 4, 5, 3, 0);
    core_step(&b->core); /* the younger one makes room for it */
    CHECK(rows_of(b, 3) == 1 && rows_of(b, 4) == 5 && b->last->b.n_seqs == 2);
    CHECK(b->core.seq[1].state == SEQ_WAITING && b->core.seq[0].state == SEQ_RUNNING);
    core_step(&b->core);
    CHECK(rows_of(b, 0) == 1); /* both have begun: it rides along */
    for (int i = 0; i < 100 && b->n_done < 5; i++) core_step(&b->core);
    CHECK(b->n_done == 5 && b->n_tokens == 66);
    close_bench(b);
}

TEST(background_waits_for_pages)
{
    struct bench *b =
        open_bench((struct core_config){.max_seqs = 4, .max_tokens = 32, .n_pages = 6});
    submit_background(b, 0, 16, 4);
    core_step(&b->core);
    submit(b, 1, 16, 4, 0); /* four of six pages are taken */
    core_step(&b->core);
    CHECK(rows_of(b, 1) == 16 && b->core.seq[0].state == SEQ_WAITING);
    for (int i = 0; i < 100 && b->n_done < 2; i++) core_step(&b->core);
    CHECK(b->n_done == 2 && b->n_tokens == 8);
    close_bench(b);
}

TEST(due_times_order_equals)
{
    struct bench *b =
        open_bench((struct core_config){.max_seqs = 1, .max_tokens = 8, .n_pages = 64});
    const uint64_t due[] = {900, 500, 700, 500};
    const int32_t order[] = {1, 3, 2, 0};
    for (uint32_t i = 0; i < 4; i++)
        submit_request(b, i,
                       (struct sl_request){.n_prompt = 2,
                                           .due_us = due[i],
                                           .sampling = {.max_tokens = 1, .n_prompt_logprobs = -1}});
    for (int i = 0; i < 4; i++) {
        core_step(&b->core);
        CHECK_MSG(rows_of(b, order[i]) == 2, "step %d", i);
    }
    close_bench(b);
}

TEST(a_wish_for_short_steps)
{
    struct bench *b =
        open_bench((struct core_config){.max_seqs = 2, .max_tokens = 64, .n_pages = 64});
    for (int i = 0; i < 60; i++)
        pace_note(&b->core.pace, 1 + i % 50, (uint64_t)(1000 + 100 * (1 + i % 50)));
    submit_request(b, 0,
                   (struct sl_request){.n_prompt = 2,
                                       .tpot_us = 3100,
                                       .sampling = {.max_tokens = 9, .n_prompt_logprobs = -1}});
    core_step(&b->core);
    core_step(&b->core); /* its first token is there: it decodes */
    submit(b, 1, 50, 2, 0);
    core_step(&b->core);
    CHECK_MSG(rows_of(b, 0) == 1 && rows_of(b, 1) >= 18 && rows_of(b, 1) <= 20, "%d",
              rows_of(b, 1));
    close_bench(b);
}

static struct str one_letter(void *arg, int32_t id)
{
    static char text[1];
    (void)arg;
    text[0] = (char)('a' + id);
    return (struct str){text, id < EOS};
}

/* The device's word 7 one to nine times. */
static struct grammar *sevens(void)
{
    static const int32_t eos[] = {EOS};
    const struct grammar_opts o = {0};
    struct grammar_vocab_desc d = {.n_vocab = VOCAB, .bytes = one_letter, .eos = eos, .n_eos = 1};
    struct grammar_vocab *v = NULL;
    struct grammar *g = NULL;
    struct sl_error e;
    CHECK(grammar_vocab_new(&v, &d, &e) == 0);
    CHECK(grammar_regex(&g, STR("h{1,9}"), v, &o, &e) == 0);
    grammar_vocab_unref(v);
    return g;
}

/* A step with a grammar runs ahead like any other; its masks come when the token in front of them is
 * known, and nothing is launched before. */
TEST(masks_come_late)
{
    struct bench *b = open_bench((struct core_config){
        .n_pages = 16, .max_seqs = 4, .max_tokens = 16, .depth = 3, .n_vocab = VOCAB});
    struct grammar *g = sevens();
    struct sl_request r = {
        .n_prompt = 3, .grammar = g, .sampling = {.max_tokens = 20, .n_prompt_logprobs = -1}};
    submit_request(b, 0, r);
    submit(b, 1, 3, 20, 0);
    b->is_late = true;
    core_step(
        &b->core); /* the first mask follows the prompt; the second waits, and so do launches */
    CHECK(b->n_flight == 2 && b->n_sampled == 1);
    CHECK(b->flight[0]->b.n_masks == 1 && b->flight[0]->b.masks[0] == 1u << SAYS);
    CHECK(b->flight[1]->b.n_masks == 1 && b->flight[1]->b.n_seqs == 2);
    core_step(&b->core);
    CHECK(b->n_flight == 2 && b->n_sampled == 1);
    b->n_due = 1;
    core_step(&b->core);
    CHECK(b->n_flight == 2 && b->n_sampled == 2 && b->n_tokens == 2);
    CHECK(b->flight[0]->b.masks[0] == (1u << SAYS | 1u << EOS));
    /* cancelled, it owes no token: its mask is not waited for */
    core_cmd(&b->core, &(struct command){CMD_CANCEL, {0, 1}, NULL});
    core_step(&b->core);
    CHECK(b->n_sampled == 3 && b->flight[1]->b.masks[0] == UINT32_MAX && b->n_flight == 3);
    b->is_late = false;
    for (int i = 0; i < 40; i++) core_step(&b->core);
    CHECK(b->n_done == 2);
    close_bench(b);
    grammar_unref(g);
}
