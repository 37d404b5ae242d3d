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

#include "base/json.h"
#include "base/yaml_json.h"
#include "server/sha256.h"

enum { KEYS_MAX = 4096, KEY_BYTES_MAX = 1024, FILE_BYTES_MAX = 1 << 22 };

struct key {
    uint8_t digest[SHA256_BYTES];
    char name[KEY_NAME_MAX], owner[OWNER_MAX];
    char scopes[KEY_SCOPES_MAX][24]; /* [n_scopes] */
    int n_scopes;                    /* 0: all */
    struct key_limits limits;
};

struct auth {
    uint8_t secret[32];
    struct key *keys; /* owned, [n_keys] */
    int n_keys;
};

/* The next key, empty; NULL when there are too many. */
static struct key *new_key(struct auth *a, struct sl_error *e)
{
    if (a->n_keys == KEYS_MAX) {
        sl_fail(e, SL_EINVAL, "more than %d API keys", KEYS_MAX);
        return NULL;
    }
    a->keys = xrealloc(a->keys, (size_t)(a->n_keys + 1) * sizeof *a->keys);
    struct key *k = &a->keys[a->n_keys++];
    *k = (struct key){.n_scopes = 0};
    return k;
}

/* Digest or name are there: who it is. A digest of the digest, so that the database holds nothing
 * that a key could be checked against. */
static void name_key(struct auth *a, struct key *k)
{
    uint8_t digest[SHA256_BYTES];
    struct str text = {(const char *)k->digest, SHA256_BYTES};
    if (k->name[0]) {
        snprintf(k->owner, sizeof k->owner, "name:%s", k->name);
        return;
    }
    sha256(digest, &text, 1);
    int n = snprintf(k->owner, sizeof k->owner, "key:");
    for (int i = 0; i < 16; i++)
        n += snprintf(k->owner + n, sizeof k->owner - (size_t)n, "%02x", digest[i]);
    snprintf(k->name, sizeof k->name, "key-%d", a->n_keys);
}

static int set_key(struct key *k, struct str text, struct sl_error *e)
{
    if (text.n == 0 || text.n > KEY_BYTES_MAX)
        return sl_fail(e, SL_EINVAL, "an API key has 1 to %d characters", KEY_BYTES_MAX);
    sha256(k->digest, &text, 1);
    return 0;
}

static int add_key(struct auth *a, struct str text, struct sl_error *e)
{
    struct key *k = new_key(a, e);
    if (!k) return SL_EINVAL;
    TRY(set_key(k, text, e));
    name_key(a, k);
    return 0;
}

/* ------------------------------------------------------------------ the key file */

static int read_lines(struct auth *a, struct str text, struct sl_error *e)
{
    while (text.n) {
        const char *eol = memchr(text.p, '\n', text.n);
        struct str line = {text.p, eol ? (size_t)(eol - text.p) : text.n};
        text.p += line.n + (eol != NULL);
        text.n -= line.n + (eol != NULL);
        if (line.n && line.p[line.n - 1] == '\r') line.n--;
        if (line.n && line.p[0] != '#') TRY(add_key(a, line, e));
    }
    return 0;
}

static int hex_value(char c)
{
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c | 0x20) : NULL;
    return at ? (int)(at - digits) : -1;
}

static int set_digest(struct key *k, struct str hex, struct sl_error *e)
{
    bool is_good = hex.n == 2 * SHA256_BYTES;
    for (size_t i = 0; is_good && i < SHA256_BYTES; i++) {
        int high = hex_value(hex.p[2 * i]), low = hex_value(hex.p[2 * i + 1]);
        is_good = high >= 0 && low >= 0;
        k->digest[i] = (uint8_t)(high * 16 + low);
    }
    return is_good ? 0 : sl_fail(e, SL_EINVAL, "sha256 has 64 hex digits");
}

static int set_name(struct auth *a, struct key *k, struct str name, struct sl_error *e)
{
    bool is_good = name.n > 0 && name.n < KEY_NAME_MAX;
    for (size_t i = 0; is_good && i < name.n; i++)
        is_good = (unsigned char)name.p[i] > ' ' && name.p[i] != '"' && name.p[i] != '\\';
    if (!is_good)
        return sl_fail(e, SL_EINVAL, "a name has 1 to %d characters without blanks",
                       KEY_NAME_MAX - 1);
    memcpy(k->name, name.p, name.n);
    for (const struct key *other = a->keys; other < k; other++)
        if (strcmp(other->name, k->name) == 0)
            return sl_fail(e, SL_EINVAL, "two keys are named %s", k->name);
    return 0;
}

static int set_scopes(struct key *k, const json_node *list, struct sl_error *e)
{
    if (json_type(list) != JSON_ARR || json_len(list) == 0 || json_len(list) > KEY_SCOPES_MAX)
        return sl_fail(e, SL_EINVAL, "scopes is a list of 1 to %d words", KEY_SCOPES_MAX);
    for (const json_node *c = json_child(list); c; c = json_next(c)) {
        struct str s = json_type(c) == JSON_STR ? json_str(c) : STR("");
        if (s.n == 0 || s.n >= sizeof k->scopes[0])
            return sl_fail(e, SL_EINVAL, "a scope is a word such as chat");
        memcpy(k->scopes[k->n_scopes++], s.p, s.n);
    }
    return 0;
}

static int set_limits(struct key *k, const json_node *limits, struct sl_error *e)
{
    const struct {
        const char *name;
        int64_t *at;
    } rows[] = {{"requests_per_minute", &k->limits.requests_per_minute},
                {"tokens_per_minute", &k->limits.tokens_per_minute},
                {"tokens_per_day", &k->limits.tokens_per_day},
                {"tokens_total", &k->limits.tokens_total}};
    if (json_type(limits) != JSON_OBJ) return sl_fail(e, SL_EINVAL, "limits is a mapping");
    for (const json_node *c = json_child(limits); c; c = json_next(c)) {
        size_t i = 0, n = sizeof rows / sizeof *rows;
        while (i < n && !str_is(json_key(c), rows[i].name)) i++;
        if (i == n)
            return sl_fail(e, SL_EINVAL, "unknown limit %.*s", (int)json_key(c).n, json_key(c).p);
        if (json_type(c) != JSON_INT || json_int(c) < 1)
            return sl_fail(e, SL_EINVAL, "%s is a number above 0", rows[i].name);
        *rows[i].at = json_int(c);
    }
    return 0;
}

static int read_entry(struct auth *a, const json_node *entry, struct sl_error *e)
{
    struct key *k = new_key(a, e);
    bool has_key = false;
    if (!k) return SL_EINVAL;
    if (json_type(entry) != JSON_OBJ) return sl_fail(e, SL_EINVAL, "each key is a mapping");
    for (const json_node *c = json_child(entry); c; c = json_next(c)) {
        struct str field = json_key(c), text = json_type(c) == JSON_STR ? json_str(c) : STR("");
        int code = str_is(field, "name")     ? set_name(a, k, text, e)
                   : str_is(field, "key")    ? set_key(k, text, e)
                   : str_is(field, "sha256") ? set_digest(k, text, e)
                   : str_is(field, "scopes") ? set_scopes(k, c, e)
                   : str_is(field, "limits")
                       ? set_limits(k, c, e)
                       : sl_fail(e, SL_EINVAL, "unknown field %.*s", (int)field.n, field.p);
        TRY(code);
        has_key |= str_is(field, "key") || str_is(field, "sha256");
    }
    if (!has_key) return sl_fail(e, SL_EINVAL, "each key needs key or sha256");
    name_key(a, k);
    return 0;
}

static int read_yaml(struct auth *a, struct str text, struct sl_error *e)
{
    struct buf json = buf_make(2 * FILE_BYTES_MAX);
    struct json_doc *doc = NULL;
    int code = yaml_to_json(text, &json, e);
    if (code == 0) code = json_parse(&doc, json.p, json.n, &json_limits_request, e);
    const json_node *keys = code == 0 ? json_get(json_root(doc), "keys") : NULL;
    if (code == 0 && (json_type(keys) != JSON_ARR || json_len(json_root(doc)) != 1))
        code = sl_fail(e, SL_EINVAL, "the file is a mapping with the list keys alone");
    for (const json_node *c = json_child(keys); c && code == 0; c = json_next(c))
        code = read_entry(a, c, e);
    json_free(doc);
    if (json.p) explicit_bzero(json.p, json.n);
    buf_free(&json);
    return code;
}

/* YAML if its first line that says something begins with "keys:". */
static bool is_yaml(struct str text)
{
    static const struct str head = {"keys:", 5};
    while (text.n) {
        size_t n = text.n;
        const char *eol = memchr(text.p, '\n', n);
        if (n >= head.n && memcmp(text.p, head.p, head.n) == 0) return true;
        if (text.p[0] != '#' && text.p[0] != '\n' && text.p[0] != '\r' &&
            memcmp(text.p, "---", n < 3 ? n : 3))
            return false;
        if (!eol) return false;
        text = (struct str){eol + 1, n - (size_t)(eol + 1 - text.p)};
    }
    return false;
}

static int read_keys(struct auth *a, const char *path, struct sl_error *e)
{
    struct sl_error why = {0};
    int before = a->n_keys;
    FILE *f = fopen(path, "re");
    if (!f) return sl_fail(e, SL_EIO, "cannot read the API key file %.150s", path);
    char *text = xmalloc(FILE_BYTES_MAX);
    struct str all = {text, fread(text, 1, FILE_BYTES_MAX, f)};
    fclose(f);
    int code = all.n == FILE_BYTES_MAX ? sl_fail(&why, SL_EINVAL, "it is too large")
               : is_yaml(all)          ? read_yaml(a, all, &why)
                                       : read_lines(a, all, &why);
    explicit_bzero(text, all.n);
    free(text);
    if (code == 0 && a->n_keys == before) code = sl_fail(&why, SL_EINVAL, "it holds no key");
    return code < 0 ? sl_fail(e, code, "the API key file %.100s: %.120s", path, why.text) : 0;
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
    free(a->keys);
    explicit_bzero(a, sizeof *a);
    free(a);
}

int auth_n_keys(const struct auth *a)
{
    return a->n_keys;
}

int auth_scope(const struct auth *a, int key, const char *path, struct sl_error *e)
{
    const struct key *k = a->n_keys ? &a->keys[key] : NULL;
    struct str scope = {path + 1, strcspn(path + 1, "/")};
    if (!k || k->n_scopes == 0) return 0;
    for (int i = 0; i < k->n_scopes; i++)
        if (str_is(scope, k->scopes[i])) return 0;
    return sl_fail(e, SL_EPERM, "This API key may not use %.60s.", path);
}

const struct key_limits *auth_limits(const struct auth *a, int key)
{
    static const struct key_limits none = {0};
    return a->n_keys ? &a->keys[key].limits : &none;
}

const char *auth_name(const struct auth *a, int key)
{
    return a->n_keys ? a->keys[key].name : "";
}

const char *auth_owner(const struct auth *a, int key)
{
    return a->n_keys ? a->keys[key].owner : "";
}

int auth_find_owner(const struct auth *a, const char *owner)
{
    if (a->n_keys == 0) return owner[0] ? -1 : 0;
    for (int i = 0; i < a->n_keys; i++)
        if (strcmp(a->keys[i].owner, owner) == 0) return i;
    return -1;
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
        for (int j = 0; j < SHA256_BYTES; j++) differs |= digest[j] ^ a->keys[i].digest[j];
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
    if (a->n_keys) parts[1] = (struct str){(const char *)a->keys[key].digest, SHA256_BYTES};
    sha256(digest, parts, 3);
    memcpy(out, digest, 2 * sizeof *out);
}
