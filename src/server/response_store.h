/* response_store.h - Responses that clients may come back to: bounded in count, bytes and age.
 *
 * An entry belongs to the API key that made it and is nothing to any other. Entries hold their whole
 * history, so that losing one never breaks another; the least recently used go first, and nothing
 * outlives the process. Reading a history happens on pool threads, the rest on the io thread: a
 * mutex guards each call, which copies what it hands out.
 */
#ifndef SERVER_RESPONSE_STORE_H
#define SERVER_RESPONSE_STORE_H

#include "base/buf.h"
#include "base/err.h"

struct response_store; /* opaque */

struct response_limits {
    int64_t n_max, bytes_max; /* entries, and bytes of all of them with their overhead */
    int64_t ttl_s;
};

/* What an entry holds, as JSON text; items are comma-separated. */
enum stored_part { STORED_OBJECT, STORED_INPUT, STORED_OUTPUT, STORED_PARTS };

struct response_store *response_store_new(const struct response_limits *l);
void response_store_free(struct response_store *s); /* NULL is fine */

/* Copies the texts. One that alone is past bytes_max is not kept. now_s: Unix time. */
void response_store_put(struct response_store *s, int key, struct str id,
                        const struct str part[STORED_PARTS], int64_t now_s);
/* Appends a part; false: this key has no such entry. */
bool response_store_read(struct response_store *s, int key, struct str id, enum stored_part part,
                         struct buf *out);
/* Input and output items, comma-separated: what came before the next turn. */
bool response_store_history(struct response_store *s, int key, struct str id, struct buf *out);
bool response_store_delete(struct response_store *s, int key, struct str id);
/* Drops what is too old. */
void response_store_expire(struct response_store *s, int64_t now_s);
/* Entries and bytes held, for /metrics and tests. */
void response_store_size(struct response_store *s, int64_t *n, int64_t *bytes);

#endif
