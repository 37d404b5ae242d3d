/* multipart.c - a state machine over bytes. The delimiter begins with CR, which no boundary holds,
 * so a mismatch inside it can only start a new match at the byte that mismatched.
 */
#include "server/multipart.h"

#include <strings.h>

/* ------------------------------------------------------------------ header values with parameters */

static struct str trim(struct str s)
{
    while (s.n && (s.p[0] == ' ' || s.p[0] == '\t')) s.p++, s.n--;
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t')) s.n--;
    return s;
}

static bool same(struct str s, const char *z)
{
    return s.n == strlen(z) && strncasecmp(s.p, z, s.n) == 0;
}

/* The next `; name=value` of *rest; quotes stay around the value. False when none is left. */
static bool next_param(struct str *rest, struct str *name, struct str *value)
{
    const char *p = rest->p, *end = p + rest->n;
    while (p < end && *p != ';') p++;
    if (p == end) return false;
    const char *start = ++p;
    while (p < end && *p != '=' && *p != ';') p++;
    *name = trim((struct str){start, (size_t)(p - start)});
    *value = (struct str){p, 0};
    if (p < end && *p == '=') {
        start = ++p;
        bool is_quoted = false;
        for (; p < end && (is_quoted || *p != ';'); p++) {
            if (*p == '"') is_quoted = !is_quoted;
            if (*p == '\\' && is_quoted && p + 1 < end) p++;
        }
        *value = trim((struct str){start, (size_t)(p - start)});
    }
    *rest = (struct str){p, (size_t)(end - p)};
    return true;
}

/* Without its quotes, escapes undone; false when it does not fit or holds a control character. */
static bool unquote(struct str v, char *out, size_t max)
{
    size_t n = 0, i = 0;
    bool is_quoted = v.n >= 2 && v.p[0] == '"' && v.p[v.n - 1] == '"';
    if (is_quoted) v.p++, v.n -= 2;
    for (; i < v.n; i++) {
        char c = v.p[i];
        if (is_quoted && c == '\\' && i + 1 < v.n && (v.p[i + 1] == '"' || v.p[i + 1] == '\\'))
            c = v.p[++i];
        if ((unsigned char)c < ' ' || c == 0x7f || n + 1 == max) return false;
        out[n++] = c;
    }
    out[n] = '\0';
    return true;
}

/* ------------------------------------------------------------------ open, end */

static bool is_boundary_char(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c && strchr("'()+_,-./:=? ", c));
}

int multipart_open(struct multipart *m, struct str content_type, struct multipart_sink sink,
                   struct sl_error *e)
{
    struct str rest = content_type, name, value;
    char boundary[MULTIPART_BOUNDARY_MAX + 1] = "";
    *m = (struct multipart){.sink = sink, .head = buf_make(MULTIPART_HEAD_BYTES_MAX)};
    const char *semicolon = content_type.n ? memchr(content_type.p, ';', content_type.n) : NULL;
    struct str type = {content_type.p,
                       semicolon ? (size_t)(semicolon - content_type.p) : content_type.n};
    if (!same(trim(type), "multipart/form-data"))
        return sl_fail(e, SL_EMEDIA, "Send the file as multipart/form-data.");
    while (next_param(&rest, &name, &value))
        if (same(name, "boundary") && !unquote(value, boundary, sizeof boundary))
            return sl_fail(e, SL_EINVAL, "The boundary of the multipart body is malformed.");
    size_t n = strlen(boundary);
    bool is_good = n > 0 && boundary[n - 1] != ' ';
    for (size_t i = 0; i < n; i++) is_good = is_good && is_boundary_char(boundary[i]);
    if (!is_good) return sl_fail(e, SL_EINVAL, "The multipart body has no valid boundary.");
    memcpy(m->delimiter, "\r\n--", 4);
    memcpy(m->delimiter + 4, boundary, n);
    m->n_delimiter = n + 4;
    m->n_matched = 2; /* the first delimiter may open the body, without CR LF before it */
    return 0;
}

int multipart_end(const struct multipart *m, struct sl_error *e)
{
    if (m->state == MULTIPART_END) return 0;
    return sl_fail(e, SL_EINVAL, "The multipart body ends before its closing delimiter.");
}

void multipart_free(struct multipart *m)
{
    buf_free(&m->head);
}

/* ------------------------------------------------------------------ feeding */

static int give(struct multipart *m, const char *bytes, size_t n, struct sl_error *e)
{
    if (n == 0 || m->state != MULTIPART_DATA) return 0;
    return m->sink.on_data(m->sink.arg, bytes, n, e);
}

/* Content up to the next delimiter. Sets *used. */
static int feed_content(struct multipart *m, const char *p, size_t n, size_t *used,
                        struct sl_error *e)
{
    size_t i = 0;
    while (i < n) {
        if (m->n_matched == 0) {
            const char *cr = memchr(p + i, '\r', n - i);
            size_t len = cr ? (size_t)(cr - p) - i : n - i;
            TRY(give(m, p + i, len, e));
            i += len;
            if (!cr) break;
        }
        while (i < n && m->n_matched < m->n_delimiter && p[i] == m->delimiter[m->n_matched])
            m->n_matched++, i++;
        if (m->n_matched == m->n_delimiter) {
            m->state = MULTIPART_AFTER;
            m->n_tail = 0;
            m->n_matched = 0;
            break;
        }
        if (i == n) break;
        TRY(give(m, m->delimiter, m->n_matched, e));
        m->n_matched = 0;
    }
    *used = i;
    return 0;
}

/* The two bytes that tell a part from the end; white space before a part's line end is allowed. */
static int feed_after(struct multipart *m, char c, struct sl_error *e)
{
    if (m->n_tail == 0 && (c == ' ' || c == '\t')) return 0;
    m->tail[m->n_tail++] = c;
    if (m->n_tail < 2) return 0;
    if (m->tail[0] == '-' && m->tail[1] == '-') {
        m->state = MULTIPART_END;
    } else if (m->tail[0] == '\r' && m->tail[1] == '\n') {
        if (m->n_parts++ == MULTIPART_PARTS_MAX)
            return sl_fail(e, SL_EINVAL, "The form has more than %d parts.", MULTIPART_PARTS_MAX);
        m->state = MULTIPART_HEAD;
        m->head.n = 0;
    } else {
        return sl_fail(e, SL_EINVAL, "A delimiter of the multipart body is malformed.");
    }
    return 0;
}

static int read_disposition(struct multipart_part *part, struct str value, struct sl_error *e)
{
    struct str rest = value, name, text;
    while (next_param(&rest, &name, &text)) {
        if (same(name, "name") && !unquote(text, part->name, sizeof part->name))
            return sl_fail(e, SL_EINVAL, "A form field's name is malformed or too long.");
        if (!same(name, "filename")) continue;
        part->is_file = true;
        if (!unquote(text, part->filename, sizeof part->filename))
            return sl_fail(e, SL_EINVAL, "A file's name is malformed or longer than %d bytes.",
                           MULTIPART_FILENAME_MAX - 1);
    }
    return 0;
}

/* All headers of a part are here. */
static int begin_part(struct multipart *m, struct sl_error *e)
{
    static const struct str wanted = {"content-disposition:", 20};
    struct multipart_part part = {0};
    struct str rest = buf_str(&m->head);
    while (rest.n) {
        const char *eol = memchr(rest.p, '\n', rest.n);
        struct str line = {rest.p, eol ? (size_t)(eol - rest.p) : rest.n};
        rest.p += line.n + (eol != NULL);
        rest.n -= line.n + (eol != NULL);
        if (line.n && line.p[line.n - 1] == '\r') line.n--;
        if (line.n > wanted.n && strncasecmp(line.p, wanted.p, wanted.n) == 0)
            TRY(read_disposition(&part, line, e));
    }
    if (!part.name[0]) return sl_fail(e, SL_EINVAL, "A part of the form has no name.");
    m->state = MULTIPART_DATA;
    m->n_matched = 0;
    return m->sink.on_part(m->sink.arg, &part, e);
}

static int feed_head(struct multipart *m, char c, struct sl_error *e)
{
    const struct buf *b = &m->head;
    buf_putc(&m->head, c);
    if (b->overflow)
        return sl_fail(e, SL_EINVAL, "A part's headers are longer than %d bytes.",
                       MULTIPART_HEAD_BYTES_MAX);
    bool is_over = (b->n == 2 && memcmp(b->p, "\r\n", 2) == 0) ||
                   (b->n >= 4 && memcmp(b->p + b->n - 4, "\r\n\r\n", 4) == 0);
    return is_over ? begin_part(m, e) : 0;
}

int multipart_feed(struct multipart *m, const char *bytes, size_t n, struct sl_error *e)
{
    for (size_t i = 0; i < n;) {
        size_t used = 1;
        switch (m->state) {
        case MULTIPART_SKIP:
        case MULTIPART_DATA:
            TRY(feed_content(m, bytes + i, n - i, &used, e));
            break;
        case MULTIPART_AFTER:
            TRY(feed_after(m, bytes[i], e));
            break;
        case MULTIPART_HEAD:
            TRY(feed_head(m, bytes[i], e));
            break;
        case MULTIPART_END:
            return 0;
        }
        i += used;
    }
    return 0;
}
