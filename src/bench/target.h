/* target.h - the server under test: its address, and single calls to it outside the measurement. */
#ifndef BENCH_TARGET_H
#define BENCH_TARGET_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "bench/serve_args.h"

struct target {
    struct sockaddr_storage addr;
    socklen_t addr_len;
    char host[256], prefix[256]; /* prefix: of --base-url's path, without a slash at the end */
    int port;
    struct buf headers; /* owned: lines that every request carries */
};

/* Resolves the name. */
int target_open(struct target *t, const struct serve_args *a, struct sl_error *e);
void target_close(struct target *t);

/* A socket that is being connected, non-blocking; or SL_EIO with errno set. */
int target_connect(const struct target *t);

/* The head of a request with a body of n bytes. */
void target_put_head(const struct target *t, struct buf *out, const char *method, const char *path,
                     size_t n);

/* One whole exchange on a connection of its own, blocking for at most `seconds`. Returns the status
 * with the body in out (owned by the caller), or a code with the reason. body: NULL for GET. */
int target_call(const struct target *t, const char *path, const struct buf *body, double seconds,
                struct buf *out, struct sl_error *e);

/* What /v1/models says; zeros where it does not. */
struct target_facts {
    char model[256];
    int64_t max_model_len, n_vocab;
};
int target_ask(const struct target *t, double seconds, struct target_facts *f, struct sl_error *e);

#endif
