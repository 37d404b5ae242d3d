/* http_request.h - one HTTP request on its way through the twelve stages; io thread.
 *
 * Made by the first handler call, freed by MHD's completion callback, or, when a pool thread still
 * works on it then, by that work's end. `stage` says where it is. While `in_work` is set the pool
 * thread owns body, arena, api, out and err; everything else is the io thread's always.
 */
#ifndef SERVER_HTTP_REQUEST_H
#define SERVER_HTTP_REQUEST_H

#include "server/lane.h"
#include "server/limits.h"
#include "server/routes.h"
#include "server/serve.h"
#include "server/store.h"

enum stage {
    STAGE_HEADERS, /* gate, route, authenticate */
    STAGE_BODY,    /* bytes arrive, or are thrown away when err is set */
    STAGE_WORK,    /* parse, render, tokenize */
    STAGE_ENGINE,  /* submitted; not streaming: suspended until complete */
    STAGE_ANSWER,  /* a whole answer is queued */
    STAGE_STREAM,  /* the streaming answer is queued */
    STAGE_STORE,   /* suspended until the store's job is done */
};

struct choice {
    sl_req handle;
    uint64_t last_us;           /* of its last token, 0: none yet */
    bool is_cancelled, is_done; /* asked for; the engine said so */
};

struct held_event { /* of a stream whose buffer is full */
    struct sl_event event;
    int choice;
};

struct request {
    TAILQ_ENTRY(request) link;         /* server.live */
    TAILQ_ENTRY(request) waiting_link; /* server.waiting */
    struct server *s;
    struct conn *conn;      /* NULL once the connection is gone, and for a line */
    struct lane_line *line; /* borrowed: a batch's line instead of a connection, or NULL */
    enum stage stage;
    bool is_suspended, in_work, is_gone, is_ended, is_stream, is_preflight;
    bool is_live, is_waiting, is_dirty, is_slow;
    bool must_close; /* Connection: close on the answer */
    unsigned status; /* answered; 0: not yet */

    char id[REQUEST_ID_BYTES];
    char client_id[132];
    struct str allow_origin; /* "" none, "*", or points into origin */
    char origin[256];
    int key;                   /* index of the API key, 0 without keys */
    const char *allow;         /* 405: the methods there are */
    struct gate_facts facts;   /* borrowed from MHD's pool, which lives as long as the request */
    const struct route *route; /* NULL: none matched */
    struct route_match match;
    struct sl_error err; /* code 0: none */
    uint64_t start_us, admit_us, run_us, first_us, last_us;

    struct buf body;
    size_t swallowed; /* body bytes thrown away */
    struct arena arena;
    struct api_request *api;   /* lives in arena; freed by api_request_free */
    struct api_response *resp; /* owned */
    struct choice *choices;    /* in arena [n_wanted] */
    int n_wanted, n_choices;   /* choices of the answer; of them, submitted so far */
    int n_done, n_waiting;     /* ended; counted as waiting until the first of them runs */
    uint64_t entropy, tenant[2];

    struct buf out; /* answer, or the stream's bytes from `sent` on */
    size_t sent;
    uint64_t read_ms;        /* when MHD last asked for bytes of the stream */
    uint64_t said_ms;        /* when the last bytes were put into the stream */
    struct held_event *held; /* owned: [n_held] from held_at on */
    size_t held_at, n_held, held_max;
    uv_work_t work;

    struct api_usage used; /* counted when it ended */
    uint64_t charged;      /* of the key's tokens a minute, until it ended */
    uint64_t n_prompt_tokens;
    struct api_wishes wishes;
    uint64_t ttft_due_us, end_due_us; /* 0: no wish */
    int retry_s;                      /* Retry-After of a refusal; 0: the code's own */
    bool is_accounted, no_retry;
    struct recording rec; /* owned; while is_recording, for the answer cache */
    uint8_t cache_key[SHA256_BYTES];
    bool is_recording, is_replayed;
    struct file_io *io;   /* owned: a file that comes or goes (files.c), or NULL */
    struct db_page page;  /* of a list; borrowed from MHD's pool */
    struct store_job job; /* while in_work, if the store has it */
    void (*store_run)(struct request *r, struct db *db); /* store thread: fills out or err */
    enum MHD_Result (*then)(struct request *r);          /* io thread, when that went well */
};

enum MHD_Result request_handler(void *cls, struct MHD_Connection *mhd, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_size, void **con_cls);
void request_completed(void *cls, struct MHD_Connection *mhd, void **con_cls,
                       enum MHD_RequestTerminationCode code);

/* Hands the request to the store: run on its thread, then `then` inside the handler, or the error's
 * answer. To be returned by a route's finish. */
enum MHD_Result request_store(struct request *r, void (*run)(struct request *r, struct db *db),
                              enum MHD_Result (*then)(struct request *r));
/* The query of a list, into r->page; 0 or a code with r->err set. */
int request_page(struct request *r, int64_t fallback, int64_t max);
/* The same from anywhere on the io thread, without suspending: done is called first. */
void request_store_job(struct request *r, void (*run)(struct store_job *j, struct db *db),
                       void (*done)(struct store_job *j));
/* A job or work is done: frees a request whose client has gone, else lets it go on. */
void request_after_job(struct request *r);
static inline struct request *request_of_job(struct store_job *j)
{
    return (struct request *)((char *)j - offsetof(struct request, job));
}

/* A batch's line as a request; io thread. After start, request_advance_line is called whenever
 * lane_resumed was: true when it has its answer (status, out, err), or never will (is_gone). */
struct request *request_new_line(struct server *s, const struct route *route, int key,
                                 struct lane_line *line, struct str body);
void request_start_line(struct request *r);
bool request_advance_line(struct request *r);
void request_end_line(struct request *r);

/* Suspending is only done inside MHD's callbacks for this connection, resuming only while
 * suspended. */
void request_suspend(struct request *r);
void request_resume(struct request *r);

/* answer.c: each queues one answer and returns what the handler returns. */
enum MHD_Result answer_body(struct request *r, unsigned status,
                            const char *type);   /* takes r->out */
enum MHD_Result answer_error(struct request *r); /* r->err */
struct answer_header {
    const char *name, *value;
};
enum MHD_Result answer_constant(struct request *r, const void *bytes, size_t n, /* [n], for ever */
                                const struct answer_header *headers, int n_headers);
enum MHD_Result answer_preflight(struct request *r);
enum MHD_Result answer_content(struct request *r, uint64_t bytes, MHD_ContentReaderCallback reader);
enum MHD_Result answer_stream(struct request *r, MHD_ContentReaderCallback reader);

/* files.c: an upload, from its headers on; see there. */
bool upload_is_route(const struct route *route);
int upload_begin(struct request *r); /* 0 or a code, with r->err */
void upload_take(struct request *r, const char *bytes, size_t n);
enum MHD_Result upload_finish(struct request *r); /* the body is whole */
void file_io_release(struct request *r);

/* generate.c: the life of a generation from admission on. */
void generate_on_wake(struct server *s); /* take the engine's events */
void generate_leave(struct request *r);  /* the client is gone: cancel at once */
void generate_fail(struct request *r, const struct sl_error *e); /* answer e, cancel */
void generate_release(struct request *r);                        /* before the request is freed */
void generate_tick(struct server *s); /* pings, queue, request and write timeouts */
void generate_fail_all(struct server *s, const struct sl_error *e);
/* Hand one engine event to the answer under way, and see whether it is complete. */
void generate_apply(struct request *r, int choice, const struct sl_event *ev);
void generate_settle(struct request *r);

/* responses.c: the history that a request names, into its api request (any thread); and a finished
 * answer into the store. */
int responses_join(struct request *r, struct sl_error *e);
void responses_keep(struct request *r);
/* replay.c: answers from the cache. True: r has its whole answer in out and has ended; else its
 * events are recorded from now on, if it may be repeated. */
bool replay_try(struct request *r);

/* stream.c: the bounded buffer of a streaming answer. */
enum MHD_Result stream_begin(struct request *r);
bool stream_is_full(const struct request *r);
bool stream_hold(struct request *r, int choice,
                 const struct sl_event *ev); /* false: beyond the bound */
void stream_wake(struct request *r);         /* bytes were added */

#endif
