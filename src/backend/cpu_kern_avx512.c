/* cpu_kern_avx512.c - the kernels of cpu_kern.h and cpu_tile.h, compiled for AVX-512 with VNNI. */
#ifdef __x86_64__
#include "backend/cpu_tile.h"

const struct cpu_kernels cpu_kernels_avx512 = KERN_TABLE("avx512", true, tile_linear);
#endif
