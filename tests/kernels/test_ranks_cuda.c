/* test_ranks_cuda.c - ops of several ranks on GPUs, a thread a rank: sums against the host's, with the norm
 * against the ops it is made of, dealing and sharing against one rank, in graphs and with steps in flight,
 * NCCL, and a rank that does not come. Where there is no GPU, it says so and passes.
 *
 * With two or more GPUs the ranks are these, at most 4. With one, two ranks share it: kernels that wait for
 * each other then run beside each other (a quarter of the SMs each), so single ops only; all kernels are
 * loaded at the start, for that waits for the GPU.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "backend/cuda_dev.h"
#include "backend/cuda_group.h"
#include "rig.h"

enum { TEST_RANKS = 4, COLS_MAX = 8200, ELEMENTS_MAX = 4 << 20, REPEATS = 4 };

struct place { /* a rank and its memory */
    struct dev *d;
    struct act x, dst, sum, sum2, wide; /* the first two bf16, the others f32 */
    float w_host[COLS_MAX];
};

static struct crew {
    int32_t n;
    struct group *group;
    struct place at[TEST_RANKS];
} crew;

static struct rig_batch batch_store;

/* ------------------------------------------------------------------ ranks as threads */

struct call {
    void (*fn)(int32_t rank, void *arg);
    void *arg;
    int32_t rank;
    pthread_t thread;
};

static void *call_main(void *p)
{
    struct call *c = p;
    c->fn(c->rank, c->arg);
    return NULL;
}

static void on_all(void (*fn)(int32_t rank, void *arg), void *arg)
{
    struct call c[TEST_RANKS];
    for (int32_t r = 0; r < crew.n; r++) {
        c[r] = (struct call){.fn = fn, .arg = arg, .rank = r};
        ASSERT(pthread_create(&c[r].thread, NULL, call_main, &c[r]) == 0);
    }
    for (int32_t r = 0; r < crew.n; r++) pthread_join(c[r].thread, NULL);
}

/* How many ranks a test has here, and on which GPUs; 0: none. */
static int32_t find_gpus(int devices[TEST_RANKS])
{
    struct sl_error e = {0};
    int count = 0;
    static bool has_said;
    setenv("CUDA_MODULE_LOADING", "EAGER", 1);
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 1);
    setvbuf(stdout, NULL, _IONBF, 0);
    if (device_cuda.probe(&e) < 0 || cudaGetDeviceCount(&count) != cudaSuccess) {
        if (!has_said) printf("skipped: %s\n", e.text);
        has_said = true;
        return 0;
    }
    int32_t n = count < 2 ? 2 : count > TEST_RANKS ? TEST_RANKS : count;
    for (int r = 0; r < n; r++) devices[r] = count < 2 ? 0 : r;
    if (!has_said) printf("%d ranks on %d GPU%s\n", n, count, count > 1 ? "s" : "");
    has_said = true;
    return n;
}

static struct act new_act(struct place *p, enum dtype type)
{
    struct act a = {.type = type};
    a.data = device_cuda.alloc(p->d, (size_t)ELEMENTS_MAX * (type == DT_F32 ? 4 : 2), "test", NULL);
    ASSERT(a.data);
    return a;
}

static void open_place(struct place *p)
{
    p->x = new_act(p, DT_BF16);
    p->dst = new_act(p, DT_BF16);
    p->sum = new_act(p, DT_F32);
    p->sum2 = new_act(p, DT_F32);
    p->wide = new_act(p, DT_F32);
    rig_state = 99;
    for (int i = 0; i < COLS_MAX; i++) p->w_host[i] = rig_float();
}

/* False: there is no GPU, or no NCCL. */
static bool open_crew(struct dev_config c)
{
    int devices[TEST_RANKS];
    struct sl_error e = {0};
    crew.n = find_gpus(devices);
    if (!crew.n) return false;
    if (cuda_group_open_on(&crew.group, crew.n, devices, &e) < 0) {
        printf("group: %s\n", e.text);
        abort();
    }
    c.n_ranks = crew.n;
    c.group = crew.group;
    c.max_tokens = c.max_wants = RIG_TOKENS;
    c.max_seqs = 256;
    c.max_model_len = RIG_LEN;
    c.n_vocab = RIG_VOCAB;
    c.page_size = RIG_PAGE;
    for (int32_t r = 0; r < crew.n; r++) {
        c.rank = r;
        int code = device_cuda.open(&crew.at[r].d, &c, &e);
        if (code < 0 && c.disable_custom_all_reduce && r == 0) {
            printf("skipped: %s\n", e.text);
            cuda_group_close(crew.group);
            return false;
        }
        CHECK_MSG(code == 0, "%s", e.text);
        if (code < 0) abort();
        open_place(&crew.at[r]);
    }
    return true;
}

static void close_crew(void)
{
    for (int32_t r = 0; r < crew.n; r++) device_cuda.close(crew.at[r].d);
    cuda_group_close(crew.group);
    crew = (struct crew){0};
}

/* n rows: of one sequence, or of as many, which may run as a graph. */
static const struct batch *rows(int32_t n, bool is_decode)
{
    static int32_t q_start[257], kv_len[256], slot[256], pages[256], pos[RIG_TOKENS];
    struct rig_batch *x = &batch_store;
    memset(x, 0, sizeof *x);
    rig_batch_init(x);
    x->b.n_tokens = n;
    x->b.n_seqs = is_decode ? n : 1;
    x->b.pages_stride = is_decode ? 1 : RIG_LEN / RIG_PAGE;
    x->b.q_start = q_start, x->b.kv_len = kv_len, x->b.slot = slot;
    x->b.pages = is_decode ? pages : x->pages;
    x->b.pos = pos;
    q_start[0] = 0;
    for (int32_t i = 0; i < x->b.n_seqs; i++) {
        q_start[i + 1] = is_decode ? i + 1 : n;
        kv_len[i] = is_decode ? 1 : n;
        slot[i] = i;
    }
    return &x->b;
}

static int run(int32_t rank, const struct step *steps, int32_t n, const struct batch *b,
               const struct result **out)
{
    int code = device_cuda.launch(crew.at[rank].d, steps, n, b);
    return code < 0 ? code : device_cuda.collect(crew.at[rank].d, out);
}

/* In the rank's own stream, and waiting for that alone: two ranks may share a GPU, and one be ahead. */
static void copy(struct dev *d, void *to, const void *from, size_t bytes)
{
    ASSERT(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, d->stream) == 0 &&
           cudaStreamSynchronize(d->stream) == 0);
}

static void put(struct dev *d, void *to, enum dtype type, const float *v, int64_t n)
{
    uint16_t *half = xmalloc((size_t)n * 2);
    for (int64_t i = 0; i < n; i++) half[i] = f32_to_bf16(v[i]);
    copy(d, to, type == DT_F32 ? (const void *)v : half, (size_t)n * (type == DT_F32 ? 4 : 2));
    free(half);
}

static void get(struct dev *d, void *to, const struct act *a, int64_t n)
{
    copy(d, to, a->data, (size_t)n * (a->type == DT_F32 ? 4 : 2));
}

/* ------------------------------------------------------------------ sums */

struct sum_case {
    int32_t rows, cols;
    bool is_decode;
    float *x[TEST_RANKS], *sum, *expected; /* values, bf16; expected: f32 */
    uint16_t *half;                        /* expected, rounded */
    atomic_int n_bad;
    bool is_exact;
};

static struct sum_case open_case(int32_t n_rows, int32_t cols, bool is_decode)
{
    struct sum_case c = {.rows = n_rows, .cols = cols, .is_decode = is_decode, .is_exact = true};
    int64_t n = (int64_t)n_rows * cols;
    ASSERT(n <= ELEMENTS_MAX);
    rig_state = (uint64_t)(n_rows * 7 + cols);
    for (int32_t r = 0; r < crew.n; r++) c.x[r] = rig_floats(n);
    c.sum = rig_floats(n);
    c.expected = xcalloc((size_t)n, sizeof(float));
    c.half = xcalloc((size_t)n, sizeof(uint16_t));
    for (int64_t i = 0; i < n; i++) {
        float s = c.x[0][i];
        for (int32_t r = 1; r < crew.n; r++) s += c.x[r][i];
        c.expected[i] = s;
        c.half[i] = f32_to_bf16(s);
    }
    return c;
}

static void close_case(struct sum_case *c)
{
    for (int32_t r = 0; r < crew.n; r++) free(c->x[r]);
    free(c->sum), free(c->expected), free(c->half);
}

static struct step *held_step(int32_t rank, struct step s)
{
    static struct step held[TEST_RANKS][4096]; /* the device knows plans by their address */
    static int n[TEST_RANKS];
    struct step *at = &held[rank][n[rank]++ % 4096];
    *at = s;
    at->fn = device_cuda.ops[s.op];
    return at;
}

static bool is_alike(const struct sum_case *c, const void *a, const void *b, size_t i, size_t size)
{
    if (c->is_exact)
        return memcmp((const char *)a + i * size, (const char *)b + i * size, size) == 0;
    float x = size == 4 ? ((const float *)a)[i] : bf16_to_f32(((const uint16_t *)a)[i]),
          y = size == 4 ? ((const float *)b)[i] : bf16_to_f32(((const uint16_t *)b)[i]);
    return fabsf(x - y) <= 0.02f * (fabsf(y) + 1);
}

/* REDUCE of f32 and bf16, as often as it takes to be a graph. */
static void reduce_rank(int32_t rank, void *arg)
{
    struct sum_case *c = arg;
    struct place *p = &crew.at[rank];
    int64_t n = (int64_t)c->rows * c->cols;
    void *got = xmalloc((size_t)n * 4);
    ASSERT(cuda_enter(p->d) == 0);
    for (int type = 0; type < 2; type++) {
        struct act *a = type ? &p->x : &p->wide;
        a->cols = c->cols;
        const struct step *s = held_step(rank, (struct step){.op = OP_REDUCE, .dst = *a});
        for (int k = 0; k < REPEATS; k++) {
            const struct result *r;
            put(p->d, a->data, a->type, c->x[rank], n);
            if (run(rank, s, 1, &batch_store.b, &r) < 0) {
                c->n_bad += 1000000;
                break;
            }
            get(p->d, got, a, n);
            for (int64_t i = 0; i < n; i++)
                c->n_bad += !is_alike(c, got, type ? (const void *)c->half : c->expected, (size_t)i,
                                      type ? 2 : 4);
        }
    }
    free(got);
}

/* REDUCE_NORM against REDUCE and ADD_NORM, in one slot as in a plan. What is left of the residual in two
 * shots is with its owner. */
static void norm_rank(int32_t rank, void *arg)
{
    struct sum_case *c = arg;
    struct place *p = &crew.at[rank];
    int64_t n = (int64_t)c->rows * c->cols;
    struct layer_params lp = {.norm_eps = 1e-5f};
    uint16_t *a = xmalloc((size_t)n * 2), *b = xmalloc((size_t)n * 2);
    float *sa = xmalloc((size_t)n * 4), *sb = xmalloc((size_t)n * 4);
    ASSERT(cuda_enter(p->d) == 0);
    struct weight w = {.rows = 1, .cols = c->cols, .n_parts = 1};
    w.part[0] = (struct weight_part){.type = DT_F32, .rows = 1, .data = p->wide.data};
    put(p->d, w.part[0].data, DT_F32, p->w_host, c->cols);
    p->x.cols = p->dst.cols = p->sum.cols = p->sum2.cols = c->cols;
    put(p->d, p->sum2.data, DT_F32, c->sum, n);
    put(p->d, p->x.data, DT_BF16, c->x[rank], n);
    const struct result *r;
    struct step apart[2] = {
        {.op = OP_REDUCE, .dst = p->x},
        {.op = OP_ADD_NORM, .dst = p->dst, .src = p->x, .src2 = p->sum2, .w = &w, .lp = &lp}};
    for (int i = 0; i < 2; i++)
        c->n_bad += 1000000 * (run(rank, held_step(rank, apart[i]), 1, &batch_store.b, &r) < 0);
    get(p->d, a, &p->dst, n);
    get(p->d, sa, &p->sum2, n);
    const struct step *fused = held_step(
        rank,
        (struct step){
            .op = OP_REDUCE_NORM, .dst = p->x, .src = p->x, .src2 = p->sum, .w = &w, .lp = &lp});
    for (int k = 0; k < REPEATS; k++) {
        put(p->d, p->sum.data, DT_F32, c->sum, n);
        put(p->d, p->x.data, DT_BF16, c->x[rank], n);
        if (run(rank, fused, 1, &batch_store.b, &r) < 0) {
            c->n_bad += 1000000;
            break;
        }
        bool is_two_shot = cuda_ranks_way_of(p->d, n * 2) == 1;
        get(p->d, b, &p->x, n);
        get(p->d, sb, &p->sum, n);
        for (int64_t i = 0; i < n; i++) {
            bool has_sum = !is_two_shot || i / c->cols % crew.n == rank;
            c->n_bad +=
                !is_alike(c, b, a, (size_t)i, 2) || (has_sum && !is_alike(c, sb, sa, (size_t)i, 4));
        }
    }
    free(a), free(b), free(sa), free(sb);
}

static const struct {
    int32_t rows, cols;
    bool is_decode;
} shapes[] = {{1, 4096, true},    {3, 64, true},      {7, 896, true},
              {64, 4096, true},   {200, 4096, true},  {128, 8200, false},
              {130, 4096, false}, {600, 4096, false}, {2300, 1024, false}};

static void check_sums(bool is_exact)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct sum_case c = open_case(shapes[i].rows, shapes[i].cols, shapes[i].is_decode);
        c.is_exact = is_exact;
        rows(c.rows, c.is_decode);
        on_all(reduce_rank, &c);
        CHECK_MSG(c.n_bad == 0, "sum, %d rows of %d: %d wrong", c.rows, c.cols, c.n_bad);
        c.n_bad = 0;
        on_all(norm_rank, &c);
        CHECK_MSG(c.n_bad == 0, "sum and norm, %d rows of %d: %d wrong", c.rows, c.cols, c.n_bad);
        close_case(&c);
    }
}

TEST(sums)
{
    if (!open_crew((struct dev_config){0})) return;
    check_sums(true);
    close_crew();
}

/* Of two ranks the same bits as ours: one addition, rounded once. */
TEST(nccl)
{
    int devices[TEST_RANKS];
    if (!find_gpus(devices) || devices[1] == 0) return;
    if (!open_crew((struct dev_config){.disable_custom_all_reduce = 1})) return;
    check_sums(crew.n == 2);
    close_crew();
}

/* Steps in flight: each doubles (n times) what all ranks have. */
static void flight_rank(int32_t rank, void *arg)
{
    enum { ROUNDS = 40, STEPS = 10, ROWS = 5, COLS = 1024 };
    atomic_int *bad = arg;
    struct place *p = &crew.at[rank];
    static const float first[TEST_RANKS] = {1, 2, 3, 4};
    float *v = xmalloc(ROWS * COLS * sizeof *v), total = 0;
    ASSERT(cuda_enter(p->d) == 0);
    p->wide.cols = COLS;
    const struct step *s = held_step(rank, (struct step){.op = OP_REDUCE, .dst = p->wide});
    for (int32_t r = 0; r < crew.n; r++) total += first[r];
    for (int k = 1; k < STEPS; k++) total *= (float)crew.n;
    for (int round = 0; round < ROUNDS; round++) {
        const struct result *r;
        for (int i = 0; i < ROWS * COLS; i++) v[i] = first[rank];
        put(p->d, p->wide.data, DT_F32, v, ROWS * COLS);
        for (int k = 0; k < STEPS + 1; k++) {
            if (k < STEPS) *bad += device_cuda.launch(p->d, s, 1, &batch_store.b) < 0;
            if (k > 0) *bad += device_cuda.collect(p->d, &r) < 0;
        }
        get(p->d, v, &p->wide, ROWS * COLS);
        for (int i = 0; i < ROWS * COLS; i++) *bad += v[i] != total;
    }
    free(v);
}

TEST(steps_in_flight)
{
    if (!open_crew((struct dev_config){0})) return;
    for (int decode = 0; decode < 2; decode++) {
        atomic_int bad = 0;
        rows(5, decode);
        on_all(flight_rank, &bad);
        CHECK_MSG(bad == 0, "%d wrong", bad);
    }
    close_crew();
}

/* ------------------------------------------------------------------ sampling */

enum { SEQS = 13, SAMPLE_STEPS = 6 };

struct sampling_case {
    float *logits; /* [SAMPLE_STEPS, SEQS, RIG_VOCAB] */
    struct answers {
        int32_t token[SEQS], rank[SEQS], n_top[SEQS], top_id[SEQS * SL_TOP_MAX];
        float logprob[SEQS], top_logprob[SEQS * SL_TOP_MAX];
    } one[SAMPLE_STEPS];
    atomic_int n_bad;
};

static void assign_all(struct dev *d)
{
    static const int32_t tokens[] = {5, 9, 5, 100, 33000, 12};
    for (int32_t i = 0; i < SEQS; i++) {
        struct sl_sampling s = {.temperature = i % 3 ? 0.9f : 0.0f,
                                .top_p = 1.0f,
                                .typical_p = 1.0f,
                                .repetition_penalty = i % 2 ? 1.6f : 1.0f,
                                .frequency_penalty = i % 4 == 1 ? 0.7f : 0.0f,
                                .seed = (uint64_t)i + 1,
                                .max_tokens = 64};
        struct slot_init init = {.sampling = &s, .tokens = tokens, .n_prompt = 6};
        ASSERT(device_cuda.assign(d, i, &init) == 0);
    }
}

/* A few tokens stand out, so that penalties decide. */
static float *make_logits(void)
{
    size_t n = (size_t)SAMPLE_STEPS * SEQS * RIG_VOCAB;
    float *x = xmalloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = 3 * rig_float() + (i % RIG_VOCAB % 8251 == 17 ? 6.0f : 0.0f);
    return x;
}

static void set_wants(uint32_t step)
{
    struct rig_batch *x = &batch_store;
    x->b.n_wants = SEQS;
    for (int32_t i = 0; i < SEQS; i++)
        x->want[i] = (struct want){.row = i,
                                   .seq = i,
                                   .target = i == 4 ? 77 : -1,
                                   .n_top = i % 3 == 2 ? -1 : i,
                                   .position = step};
}

static void keep(struct answers *a, const struct result *r)
{
    memcpy(a->token, r->token, sizeof a->token);
    memcpy(a->rank, r->rank, sizeof a->rank);
    memcpy(a->n_top, r->n_top, sizeof a->n_top);
    memcpy(a->logprob, r->logprob, sizeof a->logprob);
    for (int i = 0; i < SEQS; i++) {
        size_t n = (size_t)r->n_top[i] * 4, at = (size_t)i * SL_TOP_MAX;
        memcpy(a->top_id + at, r->top_id + at, n);
        memcpy(a->top_logprob + at, r->top_logprob + at, n);
    }
}

/* What one rank alone makes of the logits. */
static void sample_alone(struct sampling_case *c)
{
    struct sl_error e = {0};
    struct dev *d;
    struct dev_config config = {.n_ranks = 1,
                                .max_tokens = RIG_TOKENS,
                                .max_seqs = 256,
                                .max_wants = RIG_TOKENS,
                                .max_model_len = RIG_LEN,
                                .n_vocab = RIG_VOCAB,
                                .page_size = RIG_PAGE};
    ASSERT(device_cuda.open(&d, &config, &e) == 0);
    struct act logits = {.cols = RIG_VOCAB, .type = DT_F32};
    logits.data = device_cuda.alloc(d, (size_t)RIG_VOCAB * 16 * 4, "test", &e);
    struct step s = {.op = OP_SAMPLE, .fn = device_cuda.ops[OP_SAMPLE], .src = logits};
    assign_all(d);
    for (uint32_t k = 0; k < SAMPLE_STEPS; k++) {
        const struct result *r;
        put(d, logits.data, DT_F32, c->logits + (size_t)k * SEQS * RIG_VOCAB,
            (int64_t)SEQS * RIG_VOCAB);
        rows(SEQS, true);
        set_wants(k);
        ASSERT(device_cuda.launch(d, &s, 1, &batch_store.b) == 0 &&
               device_cuda.collect(d, &r) == 0);
        keep(&c->one[k], r);
    }
    device_cuda.close(d);
}

static pthread_barrier_t barrier;

static void sample_rank(int32_t rank, void *arg)
{
    struct sampling_case *c = arg;
    struct place *p = &crew.at[rank];
    int32_t words = (RIG_VOCAB + crew.n - 1) / crew.n, first = rank * words,
            mine = RIG_VOCAB - first < words ? RIG_VOCAB - first : words;
    float *share = xmalloc((size_t)SEQS * (size_t)mine * 4);
    struct act logits = {.data = p->wide.data, .cols = mine, .type = DT_F32},
               dealt = {.data = p->sum.data, .cols = RIG_VOCAB, .type = DT_F32};
    static struct step plan[TEST_RANKS][3];
    plan[rank][0] = (struct step){.op = OP_DEAL, .dst = dealt, .src = logits};
    plan[rank][1] = (struct step){.op = OP_SAMPLE, .src = dealt};
    plan[rank][2] = (struct step){.op = OP_SHARE};
    for (int i = 0; i < 3; i++) plan[rank][i].fn = device_cuda.ops[plan[rank][i].op];
    ASSERT(cuda_enter(p->d) == 0);
    assign_all(p->d);
    for (uint32_t k = 0; k < SAMPLE_STEPS; k++) {
        const struct result *r;
        struct answers a = {0}, *one = &c->one[k];
        for (int32_t i = 0; i < SEQS; i++)
            memcpy(share + (size_t)i * (size_t)mine,
                   c->logits + ((size_t)k * SEQS + (size_t)i) * RIG_VOCAB + first,
                   (size_t)mine * 4);
        put(p->d, logits.data, DT_F32, share, (int64_t)SEQS * mine);
        if (rank == 0) rows(SEQS, true), set_wants(k);
        pthread_barrier_wait(&barrier);
        int code = run(rank, plan[rank], 3, &batch_store.b, &r);
        if (code == 0) keep(&a, r);
        c->n_bad += code < 0 || memcmp(&a, one, sizeof a) != 0;
        pthread_barrier_wait(&barrier);
    }
    free(share);
}

TEST(sampling)
{
    struct sampling_case *c = xcalloc(1, sizeof *c);
    if (!open_crew((struct dev_config){0})) {
        free(c);
        return;
    }
    c->logits = make_logits();
    sample_alone(c);
    ASSERT(pthread_barrier_init(&barrier, NULL, (unsigned)crew.n) == 0);
    on_all(sample_rank, c);
    CHECK_MSG(c->n_bad == 0, "%d of %d steps are not those of one rank", c->n_bad,
              crew.n * SAMPLE_STEPS);
    pthread_barrier_destroy(&barrier);
    close_crew();
    free(c->logits);
    free(c);
}

/* ------------------------------------------------------------------ a rank that does not come */

struct fault_case {
    atomic_int n_ended, n_faults;
};

/* Two sums a step; the last rank leaves out the first one of step 2. */
static void fault_rank(int32_t rank, void *arg)
{
    struct fault_case *c = arg;
    struct place *p = &crew.at[rank];
    static struct step plan[TEST_RANKS][2];
    p->wide.cols = 256;
    for (int i = 0; i < 2; i++)
        plan[rank][i] =
            (struct step){.op = OP_REDUCE, .fn = device_cuda.ops[OP_REDUCE], .dst = p->wide};
    for (int k = 0; k < 3; k++) {
        const struct result *r;
        int code = run(rank, plan[rank], 2, &batch_store.b, &r);
        if (code == 0) continue;
        c->n_faults += code == SL_EDEVICE;
        break;
    }
    c->n_ended++;
}

static void *let_go(void *arg)
{
    struct fault_case *c = arg;
    usleep(700000);
    CHECK_MSG(c->n_ended == 0, "%d ranks went on without one", c->n_ended);
    device_cuda.group_abort(crew.group);
    return NULL;
}

TEST(a_rank_that_does_not_come)
{
    for (int k = 0; k < 4; k++) {
        struct fault_case c = {0};
        pthread_t thread;
        struct dev_config config = {.fail_skips = 1, .enforce_eager = k % 2 == 0};
        if (!open_crew(config)) return;
        crew.at[crew.n - 1].d->config.fail_step = 2;
        rows(8, true);
        ASSERT(pthread_create(&thread, NULL, let_go, &c) == 0);
        on_all(fault_rank, &c);
        pthread_join(thread, NULL);
        CHECK_MSG(c.n_faults == crew.n, "%d of %d ranks heard of it", c.n_faults, crew.n);
        close_crew();
    }
}
