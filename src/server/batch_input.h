/* batch_input.h - reading a batch's input file, a slice at a time, so that no job of the store
 * thread takes long. Store thread only.
 */
#ifndef SERVER_BATCH_INPUT_H
#define SERVER_BATCH_INPUT_H

#include "api/batch_wire.h"

struct line_reader {
    int fd;           /* owned; -1: not open */
    struct buf block; /* owned: bytes read and not yet given */
    size_t at;        /* of the next line in it */
    int64_t offset;   /* of the next byte to read */
    int64_t n_lines;  /* given so far: the number of the last one */
    size_t line_max;  /* a longer line is an error */
    bool is_at_end;
};

int line_reader_open(struct line_reader *r, const char *path, size_t line_max, struct sl_error *e);
void line_reader_close(struct line_reader *r);
/* 1 and *line, borrowed until the next call; 0 at the end; SL_ETOOLARGE, SL_EIO. */
int line_reader_next(struct line_reader *r, struct str *line, struct sl_error *e);

struct validation;
struct validation *validation_new(void);
void validation_free(struct validation *v); /* NULL is fine */
/* Checks the next slice of lines: 1 when there are more, 0 when all was seen or enough is wrong. At
 * the end b has n_total and model, and errors if anything is wrong; or a code (SL_EIO). */
int validation_slice(struct validation *v, struct line_reader *r, struct batch_facts *b,
                     struct sl_error *e);

#endif
