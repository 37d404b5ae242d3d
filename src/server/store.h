/* store.h - what outlives the process: SQLite and files under --data-dir, on a thread of its own.
 *
 * The io thread never waits for a disk. It hands over jobs; the store thread runs them one after
 * another, with the only connection there is, and hands each back through the loop. So a job sees
 * what all jobs before it did, and needs no locks. db.h has what a job may do.
 *
 *   DIR/sluice.db          state, in WAL mode; PRAGMA user_version is the schema's version
 *   DIR/files/ID           the bytes of a file
 *   DIR/files/ID.part      bytes not yet counted: an upload, or the output of a batch that runs
 *   DIR/lock               held while a server uses DIR
 */
#ifndef SERVER_STORE_H
#define SERVER_STORE_H

#include <sys/queue.h>
#include <uv.h>

#include "base/err.h"

struct db;
struct store; /* opaque; io thread */

struct store_job { /* embedded in what it works for; untouched by others until done */
    STAILQ_ENTRY(store_job) link;
    void (*run)(struct store_job *j, struct db *db); /* store thread */
    void (*done)(struct store_job *j);               /* io thread, afterwards */
};

/* Opens or makes DIR and its database, brings an older schema up to date, removes what a crash left
 * behind. SL_EIO with one clear line, also when another server holds DIR. */
int store_open(struct store **out, const char *dir, uv_loop_t *loop, struct sl_error *e);
void store_submit(struct store *s, struct store_job *j);
/* Runs what is queued, with the done calls, then closes. NULL is fine. */
void store_close(struct store *s);

#endif
