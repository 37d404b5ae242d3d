/* bench_collectives.h - sums over ranks on two or more GPUs: our kernels beside NCCL. Prints the table that
 * src/backend/cuda_ranks.c is to hold. Returns the exit status. */
#ifndef BENCH_COLLECTIVES_H
#define BENCH_COLLECTIVES_H

int bench_collectives(void);

#endif
