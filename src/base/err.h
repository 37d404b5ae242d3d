/* err.h - errors, assertions, checked sizes and the allocator that dies: included by every layer.
 *
 * Operational errors (bad input, bad file, no room) are negative codes from sl_err.h. Programmer
 * errors hit ASSERT, which stays on in release builds. Small host allocations abort when memory is
 * out; sizes that come from a user or a file are first checked with ckd_* and refused.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sluice/sl_err.h"

/* Forward a negative code to the caller. The expression is evaluated once. */
#define TRY(expr)                                                                                  \
    do {                                                                                           \
        int try_code_ = (expr);                                                                    \
        if (try_code_ < 0) return try_code_;                                                       \
    } while (0)

/* Always on. For what only a bug of ours can break; never for input. */
#define ASSERT(expr) ((expr) ? (void)0 : assert_failed(#expr, __FILE__, __LINE__))

/* O(n) checks: on in debug builds only. */
#ifdef NDEBUG
#define DASSERT(expr) ((void)sizeof(expr))
#else
#define DASSERT(expr) ASSERT(expr)
#endif

_Noreturn void assert_failed(const char *expr, const char *file, int line);

/* malloc, calloc, realloc that never return NULL: they abort. Freed with free(). */
void *xmalloc(size_t n);
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t n);

/* Arithmetic on sizes read from a file or a client: true when the result did not fit. */
static inline bool ckd_mul(size_t *out, size_t a, size_t b)
{
    return __builtin_mul_overflow(a, b, out);
}
static inline bool ckd_add(size_t *out, size_t a, size_t b)
{
    return __builtin_add_overflow(a, b, out);
}
/* Round up to `align`, a power of two. */
static inline bool ckd_align(size_t *out, size_t a, size_t align)
{
    if (__builtin_add_overflow(a, align - 1, out)) return true;
    *out &= ~(align - 1);
    return false;
}

#endif
