/* cpu_kern_avx2.c - the kernels of cpu_kern.h and cpu_tile.h, compiled for AVX2. */
#ifdef __x86_64__
#include "backend/cpu_tile.h"

const struct cpu_kernels cpu_kernels_avx2 = KERN_TABLE("avx2", true, tile_linear);
#endif
