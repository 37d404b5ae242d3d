/* auth.c - API keys as digests, compared all and in constant time; tenant salts.
 *
 * The comparison looks at every configured key for every request, so that its time says nothing
 * about which key was close. The salt's secret is drawn once a process.
 */
#include "server/auth.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/random.h>

#include "server/sha256.h"

enum { KEYS_MAX = 4096, KEY_BYTES_MAX = 1024 };

struct auth {
    uint8_t secret[32];
    uint8_t (*digests)[SHA256_BYTES]; /* owned, [n_keys] */
    int n_keys;
};

static int add_key(struct auth *a, struct str key, struct sl_error *e)
{
    if (key.n == 0 || key.n > KEY_BYTES_MAX)
        return sl_fail(e, SL_EINVAL, "an API key has 1 to %d characters", KEY_BYTES_MAX);
    if (a->n_keys == KEYS_MAX) return sl_fail(e, SL_EINVAL, "more than %d API keys", KEYS_MAX);
    a->digests = xrealloc(a->digests, (size_t)(a->n_keys + 1) * SHA256_BYTES);
    sha256(a->digests[a->n_keys++], &key, 1);
    return 0;
}

static int read_keys(struct auth *a, const char *path, struct sl_error *e)
{
    char line[KEY_BYTES_MAX + 8];
    int code = 0, before = a->n_keys;
    FILE *f = fopen(path, "re");
    if (!f) return sl_fail(e, SL_EIO, "cannot read the API key file %.150s", path);
    while (code == 0 && fgets(line, sizeof line, f)) {
        struct str key = {line, strcspn(line, "\r\n")};
        if (key.n == sizeof line - 1)
            code = sl_fail(e, SL_EINVAL, "an API key has 1 to %d characters", KEY_BYTES_MAX);
        else if (key.n && line[0] != '#')
            code = add_key(a, key, e);
    }
    fclose(f);
    explicit_bzero(line, sizeof line);
    if (code == 0 && a->n_keys == before)
        code = sl_fail(e, SL_EINVAL, "the API key file %.150s holds no key", path);
    return code;
}

int auth_open(struct auth **out, const struct options *o, struct sl_error *e)
{
    struct auth *a = xcalloc(1, sizeof *a);
    int code = 0;
    if (getrandom(a->secret, sizeof a->secret, 0) != (ssize_t)sizeof a->secret)
        code = sl_fail(e, SL_EINTERNAL, "no random bytes from the system");
    for (int i = 0; code == 0 && i < o->api_key.n; i++)
        code = add_key(a, str_of(o->api_key.v[i]), e);
    if (code == 0 && o->api_key_file) code = read_keys(a, o->api_key_file, e);
    if (code < 0) {
        auth_close(a);
        return code;
    }
    *out = a;
    return 0;
}

void auth_close(struct auth *a)
{
    if (!a) return;
    free(a->digests);
    explicit_bzero(a, sizeof *a);
    free(a);
}

bool auth_has_keys(const struct auth *a)
{
    return a->n_keys > 0;
}

/* Index of the key whose digest this is, or -1; every key is looked at. */
static int find_key(const struct auth *a, struct str key)
{
    uint8_t digest[SHA256_BYTES];
    int found = -1;
    sha256(digest, &key, 1);
    for (int i = 0; i < a->n_keys; i++) {
        unsigned differs = 0;
        for (int j = 0; j < SHA256_BYTES; j++) differs |= digest[j] ^ a->digests[i][j];
        int equal = -(int)(((differs - 1) >> 8) & 1); /* all ones when no bit differs */
        found = (found & ~equal) | (i & equal);
    }
    return found;
}

/* The token of "Bearer TOKEN"; the scheme's case does not matter. */
static struct str bearer(struct str v)
{
    static const struct str scheme = {"Bearer ", 7};
    if (v.n <= scheme.n || strncasecmp(v.p, scheme.p, scheme.n) != 0) return (struct str){0};
    struct str token = {v.p + scheme.n, v.n - scheme.n};
    while (token.n && token.p[0] == ' ') token.p++, token.n--;
    while (token.n && token.p[token.n - 1] == ' ') token.n--;
    return token;
}

int auth_check(const struct auth *a, const struct gate_facts *f, struct sl_error *e)
{
    if (a->n_keys == 0) return 0;
    const struct str given[] = {bearer(f->authorization), f->x_api_key, f->api_key};
    bool any = false;
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        if (given[i].n == 0 || given[i].n > KEY_BYTES_MAX) continue;
        int key = find_key(a, given[i]);
        if (key >= 0) return key;
        any = true;
    }
    if (any || f->authorization.n) return sl_fail(e, SL_EBADKEY, "Incorrect API key provided.");
    return sl_fail(e, SL_ENOKEY,
                   "You didn't provide an API key. Send it as Authorization: Bearer KEY.");
}

void auth_salt(const struct auth *a, int key, struct str cache_salt, uint64_t out[2])
{
    out[0] = out[1] = 0;
    if (a->n_keys == 0 && cache_salt.n == 0) return;
    uint8_t digest[SHA256_BYTES];
    struct str parts[3] = {{(const char *)a->secret, sizeof a->secret}, {0}, cache_salt};
    if (a->n_keys) parts[1] = (struct str){(const char *)a->digests[key], SHA256_BYTES};
    sha256(digest, parts, 3);
    memcpy(out, digest, 2 * sizeof *out);
}
