/* test_pace.c - the line through recent steps: what it learns, and how far it is trusted. */
#include "engine/pace.h"

#include "base/test.h"

TEST(nothing_known)
{
    struct pace p = {0};
    CHECK(pace_us(&p, 100) == 0 && pace_rows(&p, 10000) == 16);
}

TEST(a_line_is_found)
{
    struct pace p = {0};
    for (int i = 0; i < 200; i++) pace_note(&p, 1 + i % 30, (uint64_t)(5000 + 100 * (1 + i % 30)));
    CHECK(pace_us(&p, 1) > 5050 && pace_us(&p, 1) < 5150);
    CHECK(pace_us(&p, 50) > 9900 && pace_us(&p, 50) < 10100);
    CHECK(pace_rows(&p, 7000) >= 19 && pace_rows(&p, 7000) <= 20);
    CHECK(pace_rows(&p, 4000) == 0);
    CHECK(pace_rows(&p, 1e9) < 64); /* no further than twice the mean, and a few */
}

TEST(equal_steps_overstate_a_row)
{
    struct pace p = {0};
    for (int i = 0; i < 50; i++) pace_note(&p, 4, 8000);
    CHECK(pace_rows(&p, 11000) == 5); /* through the origin: 2000 us a row */
    pace_note(&p, 5, 8100);
    for (int i = 0; i < 20; i++) pace_note(&p, 12, 8800);
    CHECK(pace_rows(&p, 10000) > 20);
}

TEST(free_steps)
{
    struct pace p = {0};
    for (int i = 0; i < 50; i++) pace_note(&p, i % 7 + 1, 0);
    CHECK(pace_rows(&p, 0) > 16 && pace_us(&p, 1000) == 0);
}

TEST(it_forgets)
{
    struct pace p = {0};
    for (int i = 0; i < 500; i++) pace_note(&p, 1 + i % 10, 1000);
    for (int i = 0; i < 500; i++) pace_note(&p, 1 + i % 10, (uint64_t)(9000 + 10 * (i % 10)));
    CHECK(pace_us(&p, 1) > 8900);
}
