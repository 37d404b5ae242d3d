/* trap.cu - a kernel that faults, for tests of what becomes of clients then.
 *
 * what:     an illegal instruction, which ends the context: every later call fails.
 * launch:   one thread.
 */
#include "common.cuh"

static __global__ void trap_kernel()
{
    asm volatile("trap;");
}

int k_trap(cudaStream_t stream)
{
    trap_kernel<<<1, 1, 0, stream>>>();
    return (int)cudaGetLastError();
}
