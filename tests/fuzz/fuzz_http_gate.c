/* fuzz_http_gate.c - bytes on a connection of the real front end: MHD, gate, routes, answers; no
 * model.
 *
 * Every answer must be a whole HTTP/1.1 head, and whatever the bytes say, no request may stay
 * behind.
 */
#include <sys/socket.h>
#include <unistd.h>

#include "server/limits.h"
#include "server/serve.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct server *fuzz_server(void)
{
    static struct options o = {.host = "127.0.0.1",
                               .max_body_bytes = 4096,
                               .max_connections = 8,
                               .header_timeout = 10,
                               .body_timeout = 10,
                               .idle_timeout = 10,
                               .write_timeout = 10,
                               .api_key = {.v = {"key"}, .n = 1}};
    struct sl_error e;
    struct server *s = server_new(&o);
    ASSERT(auth_open(&s->auth, &o, &e) == 0 && watch_open(s, &e) == 0 && loop_open(s, &e) == 0);
    s->limits = limits_new(s->auth, NULL);
    s->cors = (struct cors){&o.allowed_origins, true};
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct server *s;
    struct sockaddr any = {.sa_family = AF_UNIX};
    char answer[4096];
    int ends[2];
    if (!s) s = fuzz_server();
    if (size > 65536 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) < 0) return 0;
    ssize_t n = send(ends[0], data, size, MSG_NOSIGNAL);
    shutdown(ends[0], SHUT_WR);
    ASSERT(n == (ssize_t)size && MHD_add_connection(s->mhd, ends[1], &any, sizeof any) == MHD_YES);
    for (int turn = 0; turn < 100 && s->n_conns; turn++) {
        loop_drive(s);
        n = recv(ends[0], answer, sizeof answer, 0);
        if (n > 9 && turn == 0) ASSERT(memcmp(answer, "HTTP/1.1 ", 9) == 0);
    }
    close(ends[0]);
    loop_drive(s);
    ASSERT(s->n_conns == 0 && s->n_requests == 0 && s->body_bytes == 0);
    return 0;
}
