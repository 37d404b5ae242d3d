/* cpu_isa.c - which kernels this machine runs. The force is a test's, set before open, from one
 * thread. */
#include "backend/cpu.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif

static int forced = -1;

#ifdef __x86_64__
static bool has_f16c(void) /* clang 14's __builtin_cpu_supports does not know the name */
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

bool cpu_isa_usable(enum cpu_isa isa)
{
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                has_f16c();
    switch (isa) {
    case CPU_ISA_PLAIN:
        return true;
    case CPU_ISA_AVX2:
        return avx2;
    case CPU_ISA_AVX512:
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512vnni");
    case CPU_ISA_COUNT:
        break;
    }
    return false;
}
#else
bool cpu_isa_usable(enum cpu_isa isa)
{
    return isa == CPU_ISA_PLAIN;
}
#endif

void cpu_isa_force(int isa)
{
    forced = isa;
}

const struct cpu_kernels *cpu_isa_kernels(void)
{
    static const struct cpu_kernels *const table[CPU_ISA_COUNT] = {
        [CPU_ISA_PLAIN] = &cpu_kernels_plain,
#ifdef __x86_64__
        [CPU_ISA_AVX2] = &cpu_kernels_avx2,
        [CPU_ISA_AVX512] = &cpu_kernels_avx512,
#endif
    };
    for (int isa = forced >= 0 ? forced : CPU_ISA_COUNT - 1; isa > CPU_ISA_PLAIN; isa--)
        if (table[isa] && cpu_isa_usable((enum cpu_isa)isa)) return table[isa];
    return &cpu_kernels_plain;
}
