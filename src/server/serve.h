/* serve.h - the state of a running server, and the calls between the files of this layer.
 *
 * One struct server a process, alive for all of server_run. Everything in it belongs to the io
 * thread, except where a comment names another: the loader thread fills struct load_result before
 * it wakes the loop, the watchdog reads the engine's heartbeat and sets one atomic flag. All
 * libmicrohttpd calls are made on the io thread.
 */
#ifndef SERVER_SERVE_H
#define SERVER_SERVE_H

#include <microhttpd.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <uv.h>

#include "api/api.h"
#include "server/answer_cache.h"
#include "server/auth.h"
#include "server/cors.h"
#include "server/metrics.h"
#include "server/response_store.h"

struct lane;
struct limits;
struct request;
struct store;

enum server_phase { SERVER_LOADING, SERVER_READY, SERVER_DRAINING, SERVER_FAILED };

/* Where a connection is, and with that which absolute deadline runs (deadlines.c). */
enum conn_phase {
    CONN_NEW,   /* accepted; nothing complete yet: header_timeout */
    CONN_HEAD,  /* request line seen: header_timeout */
    CONN_BODY,  /* headers passed: body_timeout */
    CONN_BUSY,  /* being handled: request_timeout and queue_timeout of the request */
    CONN_WRITE, /* a whole answer is queued: write_timeout and a floor of bytes a second */
    CONN_IDLE,  /* kept alive: idle_timeout */
};

struct conn { /* one a socket; owned by the list, made and freed by MHD's connection callbacks */
    TAILQ_ENTRY(conn) link;
    TAILQ_ENTRY(conn) leaving_link; /* while has_left */
    struct MHD_Connection *mhd;
    int fd; /* MHD's */
    enum conn_phase phase;
    bool has_left;       /* the peer closed or half-closed */
    uint64_t expires_ms; /* of uv_now's clock; 0: no deadline of its own */
    struct request *req; /* borrowed: the one being handled, or NULL */
};
TAILQ_HEAD(conn_list, conn);
TAILQ_HEAD(request_list, request);

/* Engine slot -> who waits for its events. */
struct owner {
    uint32_t gen; /* 0: nobody */
    int choice;
    struct request *req;
};

struct load_result { /* written by the loader thread, read after `is_done` */
    struct model_text *text;
    struct grammar_vocab *vocab;
    sl_engine *engine;
    struct api_formats formats;
    struct sl_error err;
    int code;
    atomic_bool is_done; /* release by the loader, acquire by the io thread */
};

struct server {
    const struct options *o; /* borrowed */
    enum server_phase phase;
    int exit_status;

    uv_loop_t loop;
    uv_poll_t mhd_poll, watch_poll;
    uv_timer_t mhd_timer, tick, grace;
    uv_async_t wake; /* engine events, end of loading, the watchdog: whoever has news */
    uv_signal_t on_term, on_int;
    struct MHD_Daemon *mhd;
    int listen_fd, watch_fd, port;
    bool is_local; /* bound to loopback or a unix socket */

    struct store *store; /* owned; NULL without --data-dir */
    struct lane *lane;   /* owned; NULL without --data-dir */
    struct auth *auth;
    struct limits *limits;      /* owned */
    struct answer_cache *cache; /* owned; NULL: off */
    uv_timer_t due_timer;       /* the next deadline of a request (slo.c), at due_us */
    uint64_t due_us;
    struct cors cors;
    struct metrics metrics;

    struct load_result load;
    pthread_t loader;
    uint64_t start_us;
    sl_engine *engine;       /* owned; NULL while loading */
    struct model_text *text; /* owned */
    struct api_context ctx;
    struct response_store *responses; /* owned; NULL: none are kept */
    const char *names[OPTS_LIST_MAX];
    char model_name[256]; /* when --served-model-name is not given */

    struct conn_list conns, leaving; /* all; those whose peer has left */
    struct request_list live;        /* generations, in order of admission */
    struct request_list waiting;     /* the part of them that has not begun to run */
    int n_waiting_choices;
    uint64_t n_submitted; /* to the engine */
    int n_conns, n_requests;
    size_t body_bytes;    /* held by all requests together */
    struct owner *owners; /* owned, [n_owners], by engine slot */
    uint32_t n_owners;

    uint8_t random[4096]; /* unread bytes of getrandom, from random_at on */
    size_t random_at;

    pthread_t watchdog;
    bool has_watchdog;
    atomic_int watchdog_state; /* enum in watchdog.c */
};

static inline uint64_t server_now_us(void)
{
    return uv_hrtime() / 1000;
}
enum { REQUEST_ID_BYTES = 37 }; /* req_, 32 hex digits, NUL */
void server_random(struct server *s, void *out, size_t n);
void server_make_id(struct server *s, char out[REQUEST_ID_BYTES]);

/* listen.c: the listening socket, or a code with one clear line. */
int listen_open(struct server *s, struct sl_error *e);
void listen_close(struct server *s);
void listen_url(const struct server *s, char *out, size_t max);

/* loop.c: libmicrohttpd on the uv loop. */
int loop_open(struct server *s, struct sl_error *e);
void loop_drive(struct server *s); /* let MHD work; after every event that may concern it */
void loop_close(struct server *s);

/* watch.c: who has gone away. */
int watch_open(struct server *s, struct sl_error *e);
void watch_add(struct server *s, struct conn *c);
void watch_remove(struct server *s, struct conn *c);
void watch_close(struct server *s);

/* deadlines.c: connections and their deadlines. */
void conn_notify(void *cls, struct MHD_Connection *mhd, void **context,
                 enum MHD_ConnectionNotificationCode code);
void *conn_request_line(void *cls, const char *uri, struct MHD_Connection *mhd);
void conn_set_phase(struct server *s, struct conn *c, enum conn_phase phase, uint64_t bytes);
void deadlines_tick(struct server *s);
/* Answer err without MHD, where MHD cannot be made to, and shut the socket. */
void conn_reject(struct server *s, struct conn *c, const struct sl_error *err);

/* loader.c: the model on a thread of its own, progress, the banner. */
int loader_start(struct server *s, struct sl_error *e);
bool loader_finish(struct server *s); /* on the loop after a wake: true when loading just ended */

/* watchdog.c: a step that never ends. */
void watchdog_start(struct server *s);
void watchdog_stop(struct server *s);
bool watchdog_has_fired(struct server *s);

/* server.c */
struct server *server_new(const struct options *o); /* state and handles; nothing is open yet */
void server_drain(struct server *s, bool now);
void server_check_idle(struct server *s); /* a request ended: is the drain over? */

#endif
