/* test_scrape.c - counters and histograms out of Prometheus text, with and without labels. */
#include "bench/scrape.h"

#include <math.h>

#include "base/test.h"

TEST(values)
{
    struct str t =
        STR("# HELP a x\n# TYPE a counter\na 3\na_b 9\na{k=\"v\"} 4\na{k=\"}\"} 0.5\nab 1\n"
            "b{x=\"1\"} NaN\nbroken{x 1\n");
    CHECK(scrape_value(t, "a") == 7.5 && scrape_value(t, "none") == 0);
    CHECK(scrape_value(t, "broken") == 0 && isnan(scrape_value(t, "b")));
    CHECK(scrape_value(STR(""), "a") == 0);
}

TEST(between)
{
    struct scrape_times d;
    struct str before =
        STR("h_bucket{e=\"0\",le=\"1\"} 5\nh_bucket{e=\"0\",le=\"2\"} 5\n"
            "h_bucket{e=\"0\",le=\"+Inf\"} 5\nh_sum{e=\"0\"} 1\nh_count{e=\"0\"} 5\n");
    struct str after =
        STR("h_bucket{e=\"0\",le=\"1\"} 5\nh_bucket{e=\"0\",le=\"2\"} 13\n"
            "h_bucket{e=\"0\",le=\"+Inf\"} 15\nh_sum{e=\"0\"} 21\nh_count{e=\"0\"} 15\n");
    scrape_between(before, after, "h", &d);
    CHECK(d.n == 10 && d.mean == 2 && fabs(d.p50 - 1.625) < 1e-12 && d.p99 == 2);
    scrape_between(after, after, "h", &d);
    CHECK(d.n == 0 && d.p50 == 0);
    scrape_between(STR(""), STR("garbage"), "h", &d);
    CHECK(d.n == 0);
}
