/* test_loading.c - weights on their way to the GPU: every type of file expanded there, dummy weights
 * made there, several threads at once; the bits must be those of the host's decoders. Where there is
 * no GPU it says so and passes.
 */
#include <pthread.h>

#include "backend/dummy.h"
#include "rig.h"

static struct rig gpu;

static bool has_gpu(void)
{
    struct sl_error e = {0};
    static bool is_open;
    if (is_open) return true;
    if (device_cuda.probe(&e) < 0) {
        printf("skipped: %s\n", e.text);
        return false;
    }
    gpu = rig_open(&device_cuda);
    return is_open = true;
}

static struct weight_part make_part(enum dtype type, int64_t rows, int64_t cols)
{
    struct weight_part part = {.type = type, .rows = rows};
    size_t bytes = device_cuda.weight_bytes(type, rows, cols);
    part.data = device_cuda.alloc(gpu.d, bytes, "a test's weight", NULL);
    ASSERT(bytes && part.data);
    return part;
}

/* Random bytes: every scale of a block, infinite and NaN ones too. */
static uint8_t *random_file(enum dtype type, int64_t rows, int64_t cols)
{
    size_t n = (size_t)rows * dtype_row_bytes(type, cols);
    uint8_t *p = xmalloc(n);
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)rig_u32();
    return p;
}

static void check_bits(const struct weight_part *part, int64_t cols, const uint8_t *file,
                       const char *what)
{
    int64_t n = part->rows * cols, bad = 0;
    uint16_t *got = xmalloc((size_t)n * sizeof *got);
    float *row = xmalloc((size_t)cols * sizeof *row);
    ASSERT(cudaMemcpy(got, part->data, (size_t)n * sizeof *got, cudaMemcpyDeviceToHost) == 0);
    for (int64_t i = 0; i < n; i++) {
        if (i % cols == 0)
            dtype_expand(part->type, file + (size_t)(i / cols) * dtype_row_bytes(part->type, cols),
                         cols, row);
        float want = row[i % cols];
        bad += isnan(want) ? !isnan(bf16_to_f32(got[i])) : got[i] != f32_to_bf16(want);
    }
    CHECK_MSG(bad == 0, "%s, %lld x %lld: %lld of %lld elements differ", what,
              (long long)part->rows, (long long)cols, (long long)bad, (long long)n);
    free(row);
    free(got);
}

TEST(every_type_expands_to_the_hosts_bits)
{
    if (!has_gpu()) return;
    static const struct {
        int64_t rows, blocks;
    } shapes[] = {{2, 1}, {3, 5}, {65, 7}, {1030, 12}, {5000, 9}};
    for (int t = 0; t < DT_COUNT; t++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            int block = dtype_info[t].block;
            int64_t rows = shapes[i].rows, cols = shapes[i].blocks * (block > 1 ? block : 8);
            struct weight_part part = make_part((enum dtype)t, rows, cols);
            uint8_t *file = random_file((enum dtype)t, rows, cols);
            int64_t cut = rows / 3; /* in two pieces, the second one first */
            size_t row = dtype_row_bytes((enum dtype)t, cols);
            struct weight_rows two[] = {{&part, cols, cut, rows - cut, file + (size_t)cut * row},
                                        {&part, cols, 0, cut, file}};
            for (int k = 0; k < 2; k++) CHECK(device_cuda.upload(gpu.d, k, &two[k]) == 0);
            CHECK(device_cuda.ready(gpu.d, NULL, 0) == 0);
            check_bits(&part, cols, file, dtype_info[t].name);
            free(file);
        }
}

TEST(vectors_are_f32)
{
    if (!has_gpu()) return;
    for (int t = DT_F32; t <= DT_BF16; t++) {
        enum { N = 3001 };
        static float want[N], got[N];
        struct weight_part part = make_part((enum dtype)t, 1, N);
        uint8_t *file = random_file((enum dtype)t, 1, N);
        struct weight_rows piece = {&part, N, 0, 1, file};
        CHECK(device_cuda.upload(gpu.d, 0, &piece) == 0 && device_cuda.ready(gpu.d, NULL, 0) == 0);
        ASSERT(cudaMemcpy(got, part.data, sizeof got, cudaMemcpyDeviceToHost) == 0);
        dtype_expand((enum dtype)t, file, N, want);
        CHECK_MSG(memcmp(got, want, sizeof got) == 0, "%s", dtype_info[t].name);
        free(file);
    }
}

/* ------------------------------------------------------------------ threads */

enum { LANES = 8, LANE_ROWS = 3000, LANE_COLS = 1024 };
struct lane_job {
    struct weight_part part;
    const uint8_t *file;
    int32_t lane;
    int code;
};

/* Every eighth stretch of rows, through staging, as the loader does it. */
static void *run_lane(void *arg)
{
    struct lane_job *j = arg;
    size_t row = dtype_row_bytes(j->part.type, LANE_COLS);
    enum { STEP = 100 };
    for (int64_t r = j->lane * STEP; r < LANE_ROWS && j->code == 0; r += LANES * STEP) {
        char *stage = device_cuda.stage(gpu.d, j->lane);
        if (!stage) j->code = SL_EDEVICE;
        if (!stage) break;
        memcpy(stage, j->file + (size_t)r * row, STEP * row);
        struct weight_rows piece = {&j->part, LANE_COLS, r, STEP, stage};
        j->code = device_cuda.upload(gpu.d, j->lane, &piece);
    }
    return NULL;
}

TEST(lanes_at_once)
{
    if (!has_gpu()) return;
    static const enum dtype types[] = {DT_BF16, DT_F32, DT_Q4_K};
    for (int t = 0; t < 3; t++) {
        struct lane_job job[LANES];
        pthread_t thread[LANES];
        struct weight_part part = make_part(types[t], LANE_ROWS, LANE_COLS);
        uint8_t *file = random_file(types[t], LANE_ROWS, LANE_COLS);
        for (int i = 0; i < LANES; i++) {
            job[i] = (struct lane_job){part, file, i, 0};
            ASSERT(pthread_create(&thread[i], NULL, run_lane, &job[i]) == 0);
        }
        for (int i = 0; i < LANES; i++) {
            pthread_join(thread[i], NULL);
            CHECK(job[i].code == 0);
        }
        CHECK(device_cuda.ready(gpu.d, NULL, 0) == 0);
        check_bits(&part, LANE_COLS, file, "lanes");
        free(file);
    }
}

/* ------------------------------------------------------------------ dummy weights */

TEST(dummy_weights_are_the_hosts)
{
    if (!has_gpu()) return;
    const struct dummy x = {.seed = 0x123456789abcdefu, .weight = 77, .scale = 3.7e-7f};
    enum { ROWS = 1001, COLS = 488 };
    static uint16_t got[ROWS * COLS];
    for (int t = DT_F32; t <= DT_BF16; t++) {
        struct weight_part part = make_part((enum dtype)t, ROWS, COLS);
        struct weight_rows two[] = {{&part, COLS, 300, ROWS - 300, NULL},
                                    {&part, COLS, 0, 300, NULL}};
        for (int k = 0; k < 2; k++) CHECK(device_cuda.fill(gpu.d, k, &two[k], &x) == 0);
        CHECK(device_cuda.ready(gpu.d, NULL, 0) == 0);
        ASSERT(cudaMemcpy(got, part.data, sizeof got, cudaMemcpyDeviceToHost) == 0);
        int bad = 0;
        for (int r = 0; r < ROWS; r++)
            for (int c = 0; c < COLS; c++) {
                float v[DUMMY_BLOCK], want;
                dummy_values(&x, (uint32_t)r, (uint32_t)(c / DUMMY_BLOCK), v);
                want = v[c % DUMMY_BLOCK];
                if (t == DT_F16) want = f16_to_f32(f32_to_f16(want));
                bad += got[r * COLS + c] != f32_to_bf16(want);
            }
        CHECK_MSG(bad == 0, "%s: %d elements differ", dtype_info[t].name, bad);
    }
}
