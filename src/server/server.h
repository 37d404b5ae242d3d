/* server.h - the HTTP server: one uv loop, libmicrohttpd on it, the engine behind sluice.h.
 *
 * server_run opens the listening socket first (so that /health can say "loading"), loads the model
 * on a work thread, serves until SIGTERM or SIGINT and a drain, and returns the process's exit
 * status.
 */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "base/opts.h"

int server_run(const struct options *o);

#endif
