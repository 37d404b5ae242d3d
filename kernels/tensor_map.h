/* tensor_map.h - maps for bulk tensor copies (TMA), made on the host at a launch (under a
 * microsecond). The driver's encoder is found at run time: the driver is not linked. */
#ifndef KERNELS_TENSOR_MAP_H
#define KERNELS_TENSOR_MAP_H

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>
#include <stdint.h>

/* Row-major bf16 matrices [rows, cols], one, or two of which the second begins `apart` elements
 * behind the first (0: one). */
struct tensor_rows {
    const void *p;             /* 16-byte aligned */
    int64_t rows, cols, apart; /* cols and apart multiples of 8 */
};

/* A map with boxes of `box_rows` rows of each (at most 256) and `blocks` of 64 columns: in shared
 * memory, block after block, the rows of the one, then of the other, in the 128-byte swizzle. What
 * lies outside reads as zero. Coordinates: (column in its block, row, 0, block); where cols is no
 * multiple of 64, which allows one block only, (column, row, 0, 0). Returns 0, or 1 where the driver
 * refuses. Thread: any. */
static inline int tensor_map_blocks(CUtensorMap *map, const struct tensor_rows *t, int box_rows,
                                    int blocks)
{
    bool is_whole = t->cols % 64 == 0;
    static void *known; /* several ranks' threads may find it at once, the same */
    PFN_cuTensorMapEncodeTiled_v12000 encode;
    enum cudaDriverEntryPointQueryResult found;
    void *fn = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (!fn) {
        if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000,
                                             cudaEnableDefault, &found) != cudaSuccess ||
            found != cudaDriverEntryPointSuccess)
            return 1;
        __atomic_store_n(&known, fn, __ATOMIC_RELAXED);
    }
    *(void **)(void *)&encode = fn;
    cuuint64_t n = t->apart ? 2 : 1;
    cuuint64_t dims[4] = {(cuuint64_t)t->cols, (cuuint64_t)t->rows, n,
                          is_whole ? (cuuint64_t)t->cols / 64 : 1},
               strides[3] = {(cuuint64_t)t->cols * 2, n == 2 ? (cuuint64_t)t->apart * 2 : 16, 128};
    cuuint32_t box[4] = {64, (cuuint32_t)box_rows, (cuuint32_t)n, (cuuint32_t)blocks},
               steps[4] = {1, 1, 1, 1};
    return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, (void *)(uintptr_t)t->p, dims, strides,
                  box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS;
}

#endif
