/* stop.h - finding stop strings in text that arrives in pieces.
 *
 * An Aho-Corasick automaton over bytes: the state's depth is the longest suffix of the text seen
 * that is a prefix of a stop string, which is exactly what a stream must hold back. Each byte costs
 * amortised constant time (times the number of stop strings at most), whatever the strings. The set
 * is immutable and lives in an arena. Source: Aho and Corasick, "Efficient string matching", 1975.
 */
#ifndef API_STOP_H
#define API_STOP_H

#include "base/arena.h"

enum { STOP_STRINGS_MAX = 32, STOP_BYTES_MAX = 1024 };

struct stop_set; /* immutable, shared by a request's choices */

struct stop_scan { /* one text's position in the automaton; zero at its start */
    int32_t state;
};

/* n in 1..STOP_STRINGS_MAX non-empty strings; NULL when the arena is full. The strings are not
 * kept. */
struct stop_set *stop_build(const struct str *stops, int n, struct arena *arena);

/* Read text until a stop string is complete: its index, with *used = the bytes read, the match's
 * last byte being the last of them; of several that end there the longest. -1: no match in all of
 * text. */
int stop_feed(const struct stop_set *set, struct stop_scan *scan, struct str text, size_t *used);
/* How many bytes at the end of the text read so far could still become a stop string. */
size_t stop_held(const struct stop_set *set, const struct stop_scan *scan);

#endif
