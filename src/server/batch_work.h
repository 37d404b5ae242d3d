/* batch_work.h - what the store thread does for a batch that runs: validate, read lines, commit
 * answers, end.
 *
 * One step is one job. All of struct batch_work belongs to the store thread while its job is under
 * way and to the io thread (lane.c) otherwise.
 */
#ifndef SERVER_BATCH_WORK_H
#define SERVER_BATCH_WORK_H

#include <sys/queue.h>

#include "server/batch_input.h"
#include "server/db.h"

enum { WORK_LINES = 256 }; /* read by one step at most, and about as many bytes as one block */

enum work_step {
    WORK_VALIDATE,  /* the next slice of the input */
    WORK_READ,      /* lines that are not answered, into fresh */
    WORK_COMMIT,    /* the answers */
    WORK_END_LINES, /* lines that will not be run get their line in the error file */
    WORK_FINISH,    /* the output becomes files, the status final */
};
enum batch_ending { GOES_ON, IS_CANCELLED, IS_EXPIRED };

struct lane_batch;
struct request;

struct lane_line { /* read, and not answered yet */
    TAILQ_ENTRY(lane_line) link;
    int64_t number;
    struct batch_line in; /* owned */
    /* lane.c */
    TAILQ_ENTRY(lane_line) running_link, resumed_link;
    struct lane_batch *batch;
    struct request *req;          /* while it runs */
    bool is_resumed, is_prepared; /* in the list of the resumed; stages 2 and 3 are behind it */
};
TAILQ_HEAD(line_list, lane_line);
void line_free(struct lane_line *line);
void drop_lines(struct line_list *list);

struct answer_list {
    struct db_answer *v; /* owned [n]; texts owned */
    int n, max;
};
void add_answer(struct answer_list *l, struct db_answer a); /* the text becomes the list's */
void drop_answers(struct answer_list *l);

struct batch_work {
    struct batch_facts facts; /* owned texts */
    enum work_step step;
    enum batch_ending ending;
    size_t line_max; /* bytes */
    struct line_reader reader;
    struct validation *validation; /* owned, while it validates */
    bool is_read;                  /* to the end of the input */
    struct line_list fresh;
    struct answer_list answers; /* to commit */
    int code;                   /* of the step */
    struct sl_error err;
};
void batch_work_open(struct batch_work *w, const struct batch_facts *facts, size_t line_max);
void batch_work_close(struct batch_work *w);
void batch_work_run(struct batch_work *w, struct db *db);
/* The input will be read from its start again. */
void batch_work_rewind(struct batch_work *w);

/* 32 random hex digits. */
void make_hex(char hex[33]);

#endif
