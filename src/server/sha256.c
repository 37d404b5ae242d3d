/* sha256.c - SHA-256 by GnuTLS, which libmicrohttpd brings along anyway; its only direct use. */
#include "server/sha256.h"

#include <gnutls/crypto.h>

#include "base/err.h"

void sha256(uint8_t out[SHA256_BYTES], const struct str *parts, int n_parts)
{
    gnutls_hash_hd_t h;
    ASSERT(gnutls_hash_init(&h, GNUTLS_DIG_SHA256) == 0); /* fails only without memory */
    for (int i = 0; i < n_parts; i++)
        if (parts[i].n) ASSERT(gnutls_hash(h, parts[i].p, parts[i].n) == 0);
    gnutls_hash_deinit(h, out);
}
