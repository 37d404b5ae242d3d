/* pace.c - least squares with forgetting. See pace.h.
 *
 * While all steps are alike the slope cannot be told from the fixed part; then the line goes
 * through the origin, which overstates a row's cost: the first larger step shows the true one.
 */
#include "engine/pace.h"

#define KEEP 0.98 /* of the past a step: the last 50 count */
#define SPREAD_MIN                                                                                 \
    0.01 /* variance of the rows over their mean squared, below which they are alike */
enum { ROWS_AHEAD = 16 }; /* rows beyond twice the mean that are still trusted to the line */

void pace_note(struct pace *p, int32_t n_rows, uint64_t us)
{
    double n = n_rows, t = (double)us;
    p->weight = p->weight * KEEP + 1;
    p->rows = p->rows * KEEP + n;
    p->us = p->us * KEEP + t;
    p->rows2 = p->rows2 * KEEP + n * n;
    p->rows_us = p->rows_us * KEEP + n * t;
}

struct pace_line pace_fit(const struct pace *p)
{
    if (p->weight == 0) return (struct pace_line){0, 0};
    double n = p->rows / p->weight, t = p->us / p->weight;
    double spread = p->rows2 / p->weight - n * n;
    double slope = spread > SPREAD_MIN * n * n ? (p->rows_us / p->weight - n * t) / spread : t / n;
    if (!(slope > 0)) slope = 0;
    double fixed = t - slope * n;
    return fixed > 0 ? (struct pace_line){fixed, slope} : (struct pace_line){0, t / n};
}

double pace_us(const struct pace *p, int32_t n_rows)
{
    struct pace_line l = pace_fit(p);
    return l.fixed_us + l.row_us * n_rows;
}

int32_t pace_rows(const struct pace *p, double us)
{
    if (p->weight == 0) return ROWS_AHEAD;
    struct pace_line l = pace_fit(p);
    double most = 2 * p->rows / p->weight + ROWS_AHEAD;
    double n = l.row_us > 0 ? (us - l.fixed_us) / l.row_us : us >= l.fixed_us ? most : 0;
    n = n < most ? n : most;
    return n >= INT32_MAX ? INT32_MAX : n > 0 ? (int32_t)n : 0;
}
