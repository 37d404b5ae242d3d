/* bench.h - `sluice bench serve` and `sluice bench engine`, and what both need.
 *
 * serve is a client: it loads any OpenAI-compatible server over HTTP and knows nothing of the
 * engine. engine drives the engine in this process through include/sluice/sluice.h alone. This
 * layer includes base and nothing else of ours.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include "base/buf.h"
#include "base/err.h"

/* `sluice bench ...`, arguments after the word. Returns the exit status: 0; 1 when it could not
 * run, or some requests failed; 2 for wrong arguments; 3 when the figures are refused because the
 * generator was the limit. */
enum { BENCH_FAILED = 1, BENCH_USAGE = 2, BENCH_REFUSED = 3 };
int bench_main(int argc, char **argv);

int bench_serve(int argc, char **argv, const char *command);
int bench_engine(int argc, char **argv, const char *command);

/* "1,8,64": positive integers up to max, at most n_max of them. Returns how many, or SL_EINVAL. */
int bench_read_list(const char *text, int64_t max, int64_t *out, int n_max, struct sl_error *e);

/* JSON members that say when, where and with which command a result was made, without braces. */
void bench_put_origin(struct buf *out, const char *command);
/* Write a finished JSON text to a file; "-" is standard output. */
int bench_write_json(const struct buf *json, const char *path, struct sl_error *e);

double bench_now(void);        /* monotonic, seconds */
double bench_thread_cpu(void); /* of this thread, seconds */

#endif
