/* test.h - the unit-test harness: TEST(name) { ... CHECK(...); } and one test.c-style main.
 *
 * Each tests/unit/test_X.c is one executable. Tests run in order of definition; a failed CHECK
 * prints file, line and expression and fails that test only. The last line is "N passed, N failed",
 * the exit status is 1 if any failed. `test_X --only NAME` runs one, `--list` names them.
 */
#ifndef BASE_TEST_H
#define BASE_TEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test_case {
    const char *name;
    void (*fn)(void);
    struct test_case *next;
};
static struct test_case *test_first, **test_tail = &test_first;
static int test_bad; /* failed checks of the running test */

#define TEST(id)                                                                                   \
    static void test_##id(void);                                                                   \
    static struct test_case test_case_##id = {#id, test_##id, NULL};                               \
    __attribute__((constructor)) static void test_register_##id(void)                              \
    {                                                                                              \
        *test_tail = &test_case_##id;                                                              \
        test_tail = &test_case_##id.next;                                                          \
    }                                                                                              \
    static void test_##id(void)

#define CHECK(expr)                                                                                \
    do {                                                                                           \
        if (!(expr)) {                                                                             \
            printf("%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #expr);                        \
            test_bad++;                                                                            \
        }                                                                                          \
    } while (0)

/* As CHECK, with a printf-formatted note about the case at hand. */
#define CHECK_MSG(expr, ...)                                                                       \
    do {                                                                                           \
        if (!(expr)) {                                                                             \
            printf("%s:%d: CHECK(%s) failed: ", __FILE__, __LINE__, #expr);                        \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
            test_bad++;                                                                            \
        }                                                                                          \
    } while (0)

int main(int argc, char **argv)
{
    const char *only = argc == 3 && strcmp(argv[1], "--only") == 0 ? argv[2] : NULL;
    int passed = 0, failed = 0;
    for (struct test_case *t = test_first; t; t = t->next) {
        if (argc == 2 && strcmp(argv[1], "--list") == 0) {
            printf("%s\n", t->name);
            continue;
        }
        if (only && strcmp(only, t->name) != 0) continue;
        test_bad = 0;
        t->fn();
        if (test_bad) printf("FAIL %s\n", t->name);
        test_bad ? failed++ : passed++;
        fflush(stdout);
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed || (only && !passed) ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
