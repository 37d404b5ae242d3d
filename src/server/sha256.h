/* sha256.h - SHA-256 (FIPS 180-4) of short texts: API keys and tenant salts. Any thread; no state.
 */
#ifndef SERVER_SHA256_H
#define SERVER_SHA256_H

#include <stdint.h>

#include "base/buf.h"

enum { SHA256_BYTES = 32 };

/* The digest of the parts, one after another. */
void sha256(uint8_t out[SHA256_BYTES], const struct str *parts, int n_parts);

#endif
