/* test_meetings.cc - the kernels in which ranks meet, run on the CPU (host_cuda.h): several ranks as threads,
 * many meetings in a row over two halves of inboxes, sizes and kinds mixed, against plain sums. No GPU.
 *
 * It holds the layout of inboxes, the reuse of halves, owners of rows, tags, and that an abort ends every
 * wait. What it cannot show is how GPUs order memory.
 */
#include "../../kernels/reduce.cu"

#include "deal_host.h"

#include "base/test.h"

namespace
{

uint64_t state = 1;
uint32_t random_u32()
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}
float random_bf16()
{
    return bf16_lo(host_bf16((float)random_u32() / 1073741824.0f - 1.0f));
}

struct sum {
    int rows, cols, is_f32, is_two_shot, has_norm, row0;
};

/* What all ranks of a run share. */
struct world {
    int n;
    int64_t half_bytes;
    std::vector<std::vector<char>> inbox;
    struct kbatch batch = {};
    uint32_t abort = 0;

    world(int n_ranks, int64_t bytes) : n(n_ranks), half_bytes(bytes), inbox(n_ranks)
    {
        for (auto &i : inbox) i.assign((size_t)(2 * bytes) + 16, 0);
    }
    struct kpeers peers(int rank, int index)
    {
        struct kpeers p = {};
        p.b = &batch, p.rank = rank, p.n = n, p.index = index, p.max_blocks = 3;
        p.half_bytes = half_bytes, p.abort = &abort;
        for (int r = 0; r < n; r++)
            p.inbox[r] = (char *)(((uintptr_t)inbox[(size_t)r].data() + 15) / 16 * 16);
        return p;
    }
};

struct rank_data {
    std::vector<uint16_t> half, dst;
    std::vector<float> full, sum;
};

struct expected {
    std::vector<float> reduced, sum, normed;
};

rank_data make_data(const sum &o)
{
    rank_data d;
    size_t n = (size_t)(o.rows * o.cols);
    d.half.resize(n), d.full.resize(n), d.sum.resize(n), d.dst.assign(n, 0xffff);
    for (size_t i = 0; i < n; i++) {
        d.full[i] = random_bf16();
        d.half[i] = (uint16_t)host_bf16(d.full[i]);
    }
    return d;
}

expected expect(const sum &o, const std::vector<rank_data> &ranks, const std::vector<float> &w)
{
    expected e;
    e.sum = ranks[0].sum;
    for (size_t i = 0; i < ranks[0].full.size(); i++) {
        float s = ranks[0].full[i];
        for (size_t r = 1; r < ranks.size(); r++) s += ranks[r].full[i];
        e.reduced.push_back(o.is_f32 ? s : bf16_lo(host_bf16(s)));
        e.sum[i] += e.reduced[i];
    }
    for (int t = 0; t < o.rows; t++) {
        double squares = 0;
        const float *x = &e.sum[(size_t)(t * o.cols)];
        for (int i = 0; i < o.cols; i++) squares += (double)x[i] * (double)x[i];
        double scale = 1 / sqrt(squares / o.cols + 1e-5);
        for (int i = 0; i < o.cols; i++)
            e.normed.push_back((float)((double)x[i] * scale * (double)w[(size_t)i]));
    }
    return e;
}

struct kreduce call_of(const sum &o, rank_data &d, const std::vector<float> &w, struct kpeers p)
{
    struct kreduce k = {};
    k.peers = p;
    k.x = o.is_f32 ? (void *)d.full.data() : (void *)d.half.data();
    k.x_is_f32 = o.is_f32, k.is_two_shot = o.is_two_shot;
    k.rows = o.rows, k.cols = o.cols, k.row0 = o.row0, k.eps = 1e-5f;
    if (o.has_norm) k.w = w.data(), k.sum = d.sum.data(), k.dst = d.dst.data();
    return k;
}

bool is_close(float a, float b)
{
    return fabsf(a - b) <= 0.01f * fabsf(b) + 1e-6f;
}

/* Every rank has the same, and it is right. */
void check(const sum &o, const std::vector<rank_data> &ranks, const expected &e)
{
    int bad = 0, n = (int)ranks.size();
    for (int r = 0; r < n; r++)
        for (int i = 0; i < o.rows * o.cols; i++) {
            const rank_data &d = ranks[(size_t)r];
            size_t k = (size_t)i;
            bool has_sum = !o.is_two_shot || (o.row0 + i / o.cols) % n == r;
            if (!o.has_norm)
                bad += (o.is_f32 ? d.full[k] : bf16_lo(d.half[k])) != e.reduced[k];
            else
                bad += !is_close(bf16_lo(d.dst[k]), e.normed[k]) || d.dst[k] != ranks[0].dst[k] ||
                       (has_sum && d.sum[k] != e.sum[k]);
        }
    CHECK_MSG(bad == 0, "%d ranks, %d rows of %d, f32 %d, two-shot %d, norm %d: %d wrong", n,
              o.rows, o.cols, o.is_f32, o.is_two_shot, o.has_norm, bad);
}

/* All ops in a row, with no pause between ranks; in place, as plans have it, where there is a norm. */
void run(int n, const std::vector<sum> &ops, bool is_in_place)
{
    int64_t bytes = 0;
    std::vector<std::vector<rank_data>> data;
    std::vector<std::vector<float>> w;
    std::vector<expected> e;
    for (const sum &o : ops) {
        bytes = std::max(bytes, k_reduce_bytes(o.rows, o.cols, o.is_f32, o.is_two_shot, n));
        w.emplace_back();
        for (int i = 0; i < o.cols; i++) w.back().push_back(random_bf16());
        data.emplace_back();
        for (int r = 0; r < n; r++) data.back().push_back(make_data(o));
        for (float &x : data.back()[0].sum) x = random_bf16();
        for (int r = 1; r < n; r++) data.back()[(size_t)r].sum = data.back()[0].sum;
        e.push_back(expect(o, data.back(), w.back()));
    }
    struct world all(n, bytes);
    all.batch.met = 0x7ffffff7u; /* odd, and the tags' sign changes */
    std::vector<std::thread> threads;
    for (int r = 0; r < n; r++)
        threads.emplace_back([&, r] {
            for (size_t i = 0; i < ops.size(); i++) {
                struct kreduce k =
                    call_of(ops[i], data[i][(size_t)r], w[i], all.peers(r, (int)i + 1));
                if (is_in_place && k.w) k.dst = (uint16_t *)k.x;
                CHECK(k_reduce(nullptr, &k) == 0);
                if (is_in_place && k.w) data[i][(size_t)r].dst = data[i][(size_t)r].half;
            }
        });
    for (std::thread &t : threads) t.join();
    for (size_t i = 0; i < ops.size(); i++) check(ops[i], data[i], e[i]);
}

} // namespace

TEST(sums)
{
    for (int n = 2; n <= 4; n++) {
        std::vector<sum> ops;
        for (int i = 0; i < 20; i++) {
            static const int cols[] = {8, 64, 200, 4104, 8200}; /* 8200: in two stretches */
            struct sum o = {};
            o.rows = 1 + (int)(random_u32() % 7);
            o.cols = cols[random_u32() % 5];
            o.is_two_shot = i % 2;
            o.has_norm = i / 2 % 2;
            o.is_f32 = !o.has_norm && i / 4 % 2;
            o.row0 = o.is_two_shot ? (int)(random_u32() % 3) * n : 0;
            ops.push_back(o);
        }
        run(n, ops, n % 2);
    }
}

/* A rank that does not come: the others wait until they are let go. */
TEST(abort_ends_waits)
{
    struct sum o = {3, 64, 0, 0, 1, 0};
    for (o.is_two_shot = 0; o.is_two_shot < 2; o.is_two_shot++) {
        struct world all(3, k_reduce_bytes(3, 64, 0, 1, 3) * 2);
        std::vector<float> w(64, 1.0f);
        std::vector<rank_data> data;
        for (int r = 0; r < 3; r++) data.push_back(make_data(o));
        std::atomic<int> n_left{0};
        std::vector<std::thread> threads;
        for (int r = 0; r < 2; r++)
            threads.emplace_back([&, r] {
                struct kreduce k = call_of(o, data[(size_t)r], w, all.peers(r, 1));
                CHECK(k_reduce(nullptr, &k) == 0);
                n_left++;
            });
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        CHECK(n_left == 0);
        __atomic_store_n(&all.abort, 1u, __ATOMIC_RELEASE);
        for (std::thread &t : threads) t.join();
        CHECK(n_left == 2);
    }
}

/* ------------------------------------------------------------------ deal and share */

/* Steps of a deal, answers made from what was dealt, a share: every rank ends with every row's answer, and
 * with slots as if it had sampled all itself. */
static void deal_and_share(int n, int n_vocab, int padded, int n_wants)
{
    enum { STEPS = 5, LEN = 8 };
    int rows = (padded + n - 1) / n, words = (n_vocab + n - 1) / n;
    struct world all(n, std::max(k_share_bytes(padded, n), (int64_t)n * 16));
    std::vector<struct want> wants((size_t)padded);
    std::vector<int32_t> slot_of((size_t)padded);
    for (int i = 0; i < padded; i++) {
        slot_of[(size_t)i] = padded - 1 - i;
        wants[(size_t)i].seq = i, wants[(size_t)i].target = i % 4 == 3 ? 5 : -1;
    }
    std::vector<std::thread> threads;
    for (int r = 0; r < n; r++)
        threads.emplace_back([&, r] {
            std::vector<struct kslot> slots((size_t)padded);
            std::vector<int32_t> history((size_t)(padded * LEN)),
                result((size_t)(padded * ANSWER_WORDS)), mine((size_t)(rows * ANSWER_WORDS));
            std::vector<uint32_t> counts((size_t)(padded * n_vocab));
            for (int i = 0; i < padded; i++) {
                slots[(size_t)i].has_history = slots[(size_t)i].has_penalty = 1;
                slots[(size_t)i].history = &history[(size_t)(i * LEN)];
                slots[(size_t)i].count = &counts[(size_t)(i * n_vocab)];
            }
            struct kbatch b = {};
            b.n_wants = n_wants, b.want = wants.data(), b.slot = slot_of.data();
            b.result.token = result.data(), b.result.rows = padded;
            int cols = std::min(words, n_vocab - r * words);
            std::vector<float> logits((size_t)(padded * cols)), dealt((size_t)(rows * n_vocab));
            for (int step = 0; step < STEPS; step++) {
                b.met = (uint32_t)(2 * step);
                for (int i = 0; i < padded; i++)
                    for (int c = 0; c < cols; c++)
                        logits[(size_t)(i * cols + c)] =
                            (float)((step * 31 + i * 7 + r * words + c) % 1000);
                struct kdeal d = {};
                d.peers = all.peers(r, 1), d.peers.b = &b;
                d.logits = logits.data(), d.dst = dealt.data(), d.n_vocab = n_vocab;
                d.first = want_first(padded, r, n), d.all_rows = padded;
                d.n_rows = want_first(padded, r + 1, n) - d.first;
                CHECK(k_deal(nullptr, &d) == 0);
                int bad = 0;
                for (int i = 0; i < d.n_rows; i++)
                    for (int c = 0; c < n_vocab; c++)
                        bad += dealt[(size_t)(i * n_vocab + c)] !=
                               (float)((step * 31 + (d.first + i) * 7 + c) % 1000);
                CHECK_MSG(bad == 0, "%d ranks, rank %d: %d of %d rows' logits are wrong", n, r, bad,
                          d.n_rows);
                for (int i = 0; i < d.n_rows; i++)
                    for (int j = 0; j < ANSWER_WORDS; j++)
                        mine[(size_t)answer_at(rows, i, j)] = (d.first + i) * 100 + j + step;
                for (int i = 0; i < d.n_rows; i++) { /* as k_sample does, small ids */
                    int row = d.first + i, token = (row + step) % n_vocab;
                    mine[(size_t)answer_at(rows, i, 0)] = token;
                    if (row < n_wants && wants[(size_t)row].target < 0)
                        slot_append(slots[(size_t)slot_of[(size_t)row]], token, LEN);
                }
                struct kshare s = {};
                s.peers = all.peers(r, 2), s.peers.b = &b;
                s.slots = slots.data(), s.all_rows = padded, s.max_len = LEN;
                s.answers.token = mine.data(), s.answers.rows = rows;
                CHECK(k_share(nullptr, &s) == 0);
                for (int i = 0; i < n_wants; i++) {
                    const struct kslot &p = slots[(size_t)slot_of[(size_t)i]];
                    int token = (i + step) % n_vocab;
                    bad += result[(size_t)i] != token;
                    for (int j = 1; j < ANSWER_WORDS; j++)
                        bad += result[(size_t)answer_at(padded, i, j)] != i * 100 + j + step;
                    if (wants[(size_t)i].target >= 0)
                        bad += p.n_tokens != 0;
                    else
                        bad += p.last != token || p.n_tokens != step + 1 ||
                               p.history[step] != token || p.count[token] == 0;
                }
                CHECK_MSG(bad == 0, "%d ranks, rank %d: %d answers are wrong", n, r, bad);
            }
        });
    for (std::thread &t : threads) t.join();
}

TEST(deal_share)
{
    deal_and_share(2, 100, 1, 1);
    deal_and_share(2, 9001, 8, 5);
    deal_and_share(3, 10, 7, 7);
    deal_and_share(4, 4099, 2, 2);
}
