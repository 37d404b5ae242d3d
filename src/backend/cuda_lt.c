/* cuda_lt.c - cuBLASLt for products of many rows: found at run time, never needed.
 *
 * The algorithm is chosen once a weight shape and band of rows. None splits k: each walks it in
 * ascending order with one f32 sum an element, as kernels/linear.cu does, and the bits of a row are
 * the same whichever ran (tests/kernels/test_kernels.c holds them to it).
 */
#include <cublasLt.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

#include "backend/cuda_dev.h"
#include "base/log.h"

enum { SHAPES_MAX = 128, CANDIDATES = 16 };
/* Bands: up to `rows`, with the algorithm that suits `typical` rows. */
static const struct {
    int64_t rows, typical;
} bands[] = {{128, 128}, {256, 256}, {512, 512}, {2048, 1024}, {INT64_MAX, 8192}};

static const size_t workspace_bytes = (size_t)32 << 20;

#define LT_FUNCTIONS(X)                                                                            \
    X(cublasLtCreate)                                                                              \
    X(cublasLtDestroy)                                                                             \
    X(cublasLtMatmulDescCreate)                                                                    \
    X(cublasLtMatmulDescSetAttribute) X(cublasLtMatmulDescDestroy) X(cublasLtMatrixLayoutCreate)   \
        X(cublasLtMatrixLayoutDestroy) X(cublasLtMatmulPreferenceCreate)                           \
            X(cublasLtMatmulPreferenceSetAttribute) X(cublasLtMatmulPreferenceDestroy)             \
                X(cublasLtMatmulAlgoGetHeuristic) X(cublasLtMatmulAlgoCheck) X(cublasLtMatmul)

struct shape {
    int64_t n, k, stride;
    int32_t is_f32, band;
    cublasLtMatmulAlgo_t algo;
};

struct lt {
    void *library;
#define MEMBER(name) __typeof__(name) *name;
    LT_FUNCTIONS(MEMBER)
#undef MEMBER
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    void *workspace_d;
    struct shape shape[SHAPES_MAX];
    int n_shapes;
};

static bool find_functions(struct lt *lt)
{
#define FIND(name)                                                                                 \
    {                                                                                              \
        void *p = dlsym(lt->library, #name);                                                       \
        if (!p) return false;                                                                      \
        *(void **)(void *)&lt->name = p;                                                           \
    }
    LT_FUNCTIONS(FIND)
#undef FIND
    return true;
}

static bool open_desc(struct lt *lt)
{
    cublasOperation_t transposed = CUBLAS_OP_T;
    if (lt->cublasLtCreate(&lt->handle) != CUBLAS_STATUS_SUCCESS) return false;
    if (lt->cublasLtMatmulDescCreate(&lt->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) !=
        CUBLAS_STATUS_SUCCESS)
        return false;
    return lt->cublasLtMatmulDescSetAttribute(lt->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                              sizeof transposed) == CUBLAS_STATUS_SUCCESS;
}

static void *open_library(void)
{
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
    void *library = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !library; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return library;
}

static void *map_library(void *arg)
{
    open_library(); /* stays for the life of the process */
    return arg;
}

static void start_mapping(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, map_library, NULL) == 0) pthread_detach(thread);
}

void lt_preload(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_mapping);
}

struct lt *lt_open(struct dev *d)
{
    struct lt *lt = xcalloc(1, sizeof *lt);
    lt->library = open_library();
    if (lt->library && find_functions(lt) && open_desc(lt) &&
        (lt->workspace_d = cuda_alloc(d, workspace_bytes, "cuBLASLt", NULL)))
        return lt;
    log_write(LOG_WARN, "cuda", "no cuBLASLt: large products run on our own kernel, more slowly");
    lt_close(lt);
    return NULL;
}

void lt_close(struct lt *lt)
{
    if (!lt) return;
    if (lt->desc) lt->cublasLtMatmulDescDestroy(lt->desc);
    if (lt->handle) lt->cublasLtDestroy(lt->handle);
    if (lt->library) dlclose(lt->library);
    free(lt);
}

/* Column-major, as the library sees it: y^T [n, m] = w^T^T [n, k] . x^T [k, m]. */
struct layouts {
    cublasLtMatrixLayout_t w, x, y;
};

static void close_layouts(struct lt *lt, struct layouts *o)
{
    if (o->w) lt->cublasLtMatrixLayoutDestroy(o->w);
    if (o->x) lt->cublasLtMatrixLayoutDestroy(o->x);
    if (o->y) lt->cublasLtMatrixLayoutDestroy(o->y);
}

static bool open_layouts(struct lt *lt, struct layouts *o, const struct klinear *l, int64_t m)
{
    *o = (struct layouts){0};
    uint64_t n = (uint64_t)l->n, k = (uint64_t)l->k;
    return lt->cublasLtMatrixLayoutCreate(&o->w, CUDA_R_16BF, k, n, l->k) ==
               CUBLAS_STATUS_SUCCESS &&
           lt->cublasLtMatrixLayoutCreate(&o->x, CUDA_R_16BF, k, (uint64_t)m, l->k) ==
               CUBLAS_STATUS_SUCCESS &&
           lt->cublasLtMatrixLayoutCreate(&o->y, l->is_f32 ? CUDA_R_32F : CUDA_R_16BF, n,
                                          (uint64_t)m, l->y_stride) == CUBLAS_STATUS_SUCCESS;
}

static bool best_algo(struct lt *lt, const struct layouts *o, cublasLtMatmulAlgo_t *algo)
{
    cublasLtMatmulPreference_t p = NULL;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE; /* k is not split */
    int n = 0;
    bool is_set =
        lt->cublasLtMatmulPreferenceCreate(&p) == CUBLAS_STATUS_SUCCESS &&
        lt->cublasLtMatmulPreferenceSetAttribute(p, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &workspace_bytes,
                                                 sizeof workspace_bytes) == CUBLAS_STATUS_SUCCESS &&
        lt->cublasLtMatmulPreferenceSetAttribute(p, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                 &reductions,
                                                 sizeof reductions) == CUBLAS_STATUS_SUCCESS &&
        lt->cublasLtMatmulAlgoGetHeuristic(lt->handle, lt->desc, o->w, o->x, o->y, o->y, p,
                                           CANDIDATES, found, &n) == CUBLAS_STATUS_SUCCESS;
    if (p) lt->cublasLtMatmulPreferenceDestroy(p);
    if (!is_set || n < 1) return false;
    *algo = found[0].algo;
    return true;
}

/* The shape's algorithm; NULL: none. */
static const cublasLtMatmulAlgo_t *shape_algo(struct lt *lt, const struct klinear *l)
{
    struct layouts o;
    int band = 0;
    while (l->m > bands[band].rows) band++;
    for (int i = 0; i < lt->n_shapes; i++) {
        const struct shape *s = &lt->shape[i];
        if (s->n == l->n && s->k == l->k && s->stride == l->y_stride && s->is_f32 == l->is_f32 &&
            s->band == band)
            return &s->algo;
    }
    if (lt->n_shapes == SHAPES_MAX) return NULL;
    struct shape *s = &lt->shape[lt->n_shapes];
    *s = (struct shape){
        .n = l->n, .k = l->k, .stride = l->y_stride, .is_f32 = l->is_f32, .band = band};
    bool ok = open_layouts(lt, &o, l, bands[band].typical) && best_algo(lt, &o, &s->algo);
    close_layouts(lt, &o);
    if (!ok) return NULL;
    lt->n_shapes++;
    return &s->algo;
}

int lt_linear(struct lt *lt, cudaStream_t stream, const struct klinear *l)
{
    struct layouts o;
    float one = 1.0f, zero = 0.0f;
    cublasLtMatmulAlgo_t own;
    cublasLtMatmulHeuristicResult_t check;
    const cublasLtMatmulAlgo_t *algo = shape_algo(lt, l);
    cublasStatus_t code = CUBLAS_STATUS_NOT_SUPPORTED;
    bool ok = open_layouts(lt, &o, l, l->m);
    if (ok && (!algo || lt->cublasLtMatmulAlgoCheck(lt->handle, lt->desc, o.w, o.x, o.y, o.y, algo,
                                                    &check) != CUBLAS_STATUS_SUCCESS))
        algo = best_algo(lt, &o, &own) ? &own : NULL;
    if (ok && algo)
        code = lt->cublasLtMatmul(lt->handle, lt->desc, &one, l->w, o.w, l->x, o.x, &zero, l->y,
                                  o.y, l->y, o.y, algo, lt->workspace_d, workspace_bytes, stream);
    close_layouts(lt, &o);
    if (code == CUBLAS_STATUS_SUCCESS) return 0;
    log_write(LOG_ERROR, "cuda", "cuBLASLt: status %d for %lld x %lld", (int)code, (long long)l->n,
              (long long)l->k);
    return SL_EDEVICE;
}
