/* pace.h - what a step costs: a straight line through the steps seen lately, time over rows.
 *
 * Decayed sums, so it follows a context that grows or a machine that slows. Values only; the
 * engine thread's.
 */
#ifndef ENGINE_PACE_H
#define ENGINE_PACE_H

#include <stdint.h>

struct pace {
    double weight, rows, us, rows2, rows_us; /* decayed sums over steps */
};

/* A step of n_rows took us microseconds of device time. */
void pace_note(struct pace *p, int32_t n_rows, uint64_t us);
struct pace_line {
    double fixed_us, row_us;
};
struct pace_line pace_fit(const struct pace *p); /* zeros when nothing is known */
/* How long a step of n_rows takes, in microseconds; 0 when nothing is known. */
double pace_us(const struct pace *p, int32_t n_rows);
/* The most rows of a step that takes no longer than us, and not far more than were seen so far. */
int32_t pace_rows(const struct pace *p, double us);

#endif
