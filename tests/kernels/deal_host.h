/* deal_host.h - kernels/deal.cu beside kernels/reduce.cu in one file: names that both have differ. */
#define THREADS DEAL_THREADS
#include "../../kernels/deal.cu"
#undef THREADS
