/* tensor_map.h - maps for bulk tensor copies (TMA), made on the host at a launch (under a
 * microsecond). The driver's encoder is found at run time: the driver is not linked. */
#ifndef KERNELS_TENSOR_MAP_H
#define KERNELS_TENSOR_MAP_H

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>
#include <stdint.h>

/* Of a row-major bf16 matrix, in boxes of 64 columns and `box_rows` rows (at most 256), with the
 * 128-byte swizzle. What lies outside reads as zero. cols a multiple of 8, p 16-byte aligned.
 * Returns 0, or 1 where the driver refuses. Thread: any. */
static inline int tensor_map_rows(CUtensorMap *map, const void *p, int64_t rows, int64_t cols,
                                  int box_rows)
{
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
    cuuint64_t dims[2] = {(cuuint64_t)cols, (cuuint64_t)rows}, strides[1] = {(cuuint64_t)cols * 2};
    cuuint32_t box[2] = {64, (cuuint32_t)box_rows}, steps[2] = {1, 1};
    return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)(uintptr_t)p, dims, strides,
                  box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS;
}

#endif
