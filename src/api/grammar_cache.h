/* grammar_cache.h - compiled grammars, shared by requests that ask for the same form. Any thread:
 * a mutex guards the list, compiling happens outside it.
 */
#ifndef API_GRAMMAR_CACHE_H
#define API_GRAMMAR_CACHE_H

#include "text/grammar.h"

struct grammar_cache;

/* bytes_max: sources and grammars together; the least recently used go first. */
struct grammar_cache *grammar_cache_new(size_t bytes_max);
void grammar_cache_free(struct grammar_cache *c); /* NULL is fine */

/* Is `key` there? A reference of the caller's own, or NULL. */
struct grammar *grammar_cache_get(struct grammar_cache *c, struct str key);
/* Add g (which gains a reference) under a copy of key; nothing if key is there or too large. */
void grammar_cache_put(struct grammar_cache *c, struct str key, struct grammar *g);
size_t grammar_cache_bytes(struct grammar_cache *c); /* held now */

#endif
