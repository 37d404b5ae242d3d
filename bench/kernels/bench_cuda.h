/* bench_cuda.h - what the files of bench_cuda share. */
#ifndef BENCH_CUDA_H
#define BENCH_CUDA_H

/* Not 0: says what failed, and ends the process. */
void must(int code, const char *what);
/* For qsort: doubles, least first. */
int by_value(const void *a, const void *b);

/* Sums over ranks on two or more GPUs: our kernels beside NCCL. Prints the table that
 * src/backend/cuda_ranks.c is to hold. Returns the exit status. */
int bench_collectives(void);

#endif
