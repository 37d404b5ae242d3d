/* bench_serve.c - placeholder */
#include "bench/bench.h"
int bench_serve(int argc, char **argv, const char *command)
{
    (void)argc, (void)argv, (void)command;
    return BENCH_USAGE;
}
