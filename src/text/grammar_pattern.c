/* grammar_pattern.c - regular expressions as people write them (ECMA-262 with `u`, and what Python
 * and Rust share with it) to the expressions of grammar_re.c.
 *
 * A pattern is parsed into a small tree, then made from right to left: each piece is given what
 * follows it ("tail"), so that `$` can ask whether the tail may be empty and a look-ahead can be
 * intersected with it. `^` holds where nothing was read yet; a search is made twice, once with its
 * start at the start of the text and once later. Not to be had: back references, look-behind, \b,
 * anchors under * or +.
 */
#include <stdlib.h>

#include "base/utf8.h"
#include "text/grammar_impl.h"

enum pat_op {
    PAT_EMPTY,
    PAT_SET,
    PAT_CAT,
    PAT_ALT,
    PAT_REP,
    PAT_BEGIN,
    PAT_END,
    PAT_LOOK,
    PAT_NOT_LOOK
};

struct pat {
    enum pat_op op;
    int first, next;   /* children as a list; 0: none */
    uint32_t lo, hi;   /* REP */
    re_id re;          /* SET */
    bool has_position; /* an anchor or a look-ahead inside */
};

enum { PATTERN_DEPTH = 64, PATTERN_NODES = 20000, REPEAT_MAX = 100000 };

struct parser {
    struct grammar *g;
    const char *p, *end;
    bool in_json, folds, dot_all;
    struct pat *v; /* owned; 0 unused */
    int n, cap, depth;
    const char *problem;
    re_id any; /* any text */
    bool has_begin;
};

static int fail(struct parser *s, const char *problem)
{
    if (!s->problem) s->problem = problem;
    s->p = s->end;
    return 0;
}

static int new_pat(struct parser *s, enum pat_op op)
{
    if (s->n == PATTERN_NODES) return fail(s, "it is too long");
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 64;
        s->v = xrealloc(s->v, (size_t)s->cap * sizeof *s->v);
    }
    if (s->n == 0) s->v[s->n++] = (struct pat){0};
    s->v[s->n] = (struct pat){.op = op};
    return s->n++;
}

static int set_pat(struct parser *s, struct char_set *c, bool is_negated)
{
    if (s->folds) charset_fold(c);
    charset_normal(c);
    if (is_negated) charset_invert(c);
    int p = new_pat(s, PAT_SET);
    if (p) s->v[p].re = charset_re(s->g, c, s->in_json);
    free(c->v);
    *c = (struct char_set){0};
    return p;
}

static bool take(struct parser *s, const char *z)
{
    size_t n = strlen(z);
    if ((size_t)(s->end - s->p) < n || memcmp(s->p, z, n) != 0) return false;
    s->p += n;
    return true;
}

/* ------------------------------------------------------------------ characters */

static bool hex(struct parser *s, int digits, uint32_t *out)
{
    *out = 0;
    if (s->end - s->p < digits) return false;
    for (int i = 0; i < digits; i++) {
        char c = s->p[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0) return false;
        *out = *out << 4 | (uint32_t)d;
    }
    s->p += digits;
    return true;
}

static bool hex_braced(struct parser *s, uint32_t *out)
{
    const char *from = s->p;
    uint32_t digit;
    *out = 0;
    if (!take(s, "{")) return false;
    for (int i = 0; i < 6 && hex(s, 1, &digit); i++) *out = *out << 4 | digit;
    if (take(s, "}") && *out <= CHAR_MAX_CP) return true;
    s->p = from;
    return false;
}

/* \uXXXX, where two surrogates make one character; after the u. */
static bool unicode_escape(struct parser *s, uint32_t *out)
{
    uint32_t low;
    if (hex_braced(s, out)) return true;
    if (!hex(s, 4, out)) return false;
    if (*out >= 0xD800 && *out < 0xDC00 && take(s, "\\u") && hex(s, 4, &low))
        *out = 0x10000 + ((*out - 0xD800) << 10) + (low & 0x3FF);
    return true;
}

/* An escape for one character, after the backslash. false: it is something else. */
static bool char_escape(struct parser *s, bool in_class, uint32_t *out)
{
    static const char from[] = "tnrfv0ae", to[] = "\t\n\r\f\v\0\a\033";
    if (s->p == s->end) return fail(s, "it ends in a backslash");
    char c = *s->p;
    const char *at = c ? strchr(from, c) : NULL;
    if (at) {
        s->p++;
        *out = (uint8_t)to[at - from];
    } else if (c == 'b' && in_class) {
        s->p++;
        *out = 8;
    } else if (c == 'x' || c == 'u' || c == 'U') {
        s->p++;
        bool ok = c == 'x'   ? hex_braced(s, out) || hex(s, 2, out)
                  : c == 'u' ? unicode_escape(s, out)
                             : hex(s, 8, out);
        if (!ok || *out > CHAR_MAX_CP) return fail(s, "a bad \\x or \\u escape");
    } else if (c == 'c' && s->end - s->p > 1) {
        *out = s->p[1] & 31;
        s->p += 2;
    } else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '1' && c <= '9')) {
        return false;
    } else {
        int len;
        int32_t cp = utf8_next(s->p, (size_t)(s->end - s->p), &len);
        s->p += len;
        *out = cp < 0 ? 0xFFFD : (uint32_t)cp;
    }
    return true;
}

/* \d \w \s \p{..}, after the backslash: added to c. */
static bool class_escape(struct parser *s, struct char_set *c)
{
    if (s->p == s->end) return false;
    char name = *s->p;
    if (name && strchr("dwsDWS", name)) {
        s->p++;
        return charset_class(c, name);
    }
    if (name != 'p' && name != 'P') return false;
    const char *open = s->p + 1, *close = open;
    if (open == s->end || *open != '{') return false;
    while (close < s->end && *close != '}') close++;
    if (close == s->end) return false;
    struct char_set of = {0};
    if (!charset_property(&of, (struct str){open + 1, (size_t)(close - open - 1)}))
        return fail(s, "a \\p{...} other than L, N, M or White_Space is not supported");
    if (name == 'P') charset_invert(&of);
    for (uint32_t i = 0; i < of.n; i++) charset_add(c, of.v[i].lo, of.v[i].hi);
    free(of.v);
    s->p = close + 1;
    return true;
}

/* One member of [...]: a character in *out, or false and a class was added (or failed). */
static bool class_char(struct parser *s, struct char_set *c, uint32_t *out)
{
    if (*s->p == '\\') {
        s->p++;
        if (class_escape(s, c)) return false;
        if (s->problem) return false;
        if (char_escape(s, true, out)) return true;
        fail(s, "an unknown escape in [...]");
        return false;
    }
    int len;
    int32_t cp = utf8_next(s->p, (size_t)(s->end - s->p), &len);
    s->p += len;
    *out = cp < 0 ? 0xFFFD : (uint32_t)cp;
    return true;
}

static int parse_class(struct parser *s)
{
    struct char_set c = {0};
    bool is_negated = take(s, "^");
    while (s->p < s->end && *s->p != ']') {
        uint32_t lo, hi;
        if (!class_char(s, &c, &lo)) continue;
        if (s->end - s->p >= 2 && s->p[0] == '-' && s->p[1] != ']') {
            const char *dash = s->p++;
            if (class_char(s, &c, &hi)) {
                if (hi < lo) fail(s, "a range in [...] is out of order");
                charset_add(&c, lo, hi);
                continue;
            }
            if (s->problem) break;
            (void)dash; /* [a-\d]: the dash is itself */
            charset_add(&c, '-', '-');
        }
        charset_add(&c, lo, lo);
    }
    if (!take(s, "]")) fail(s, "[ without ]");
    if (s->problem) {
        free(c.v);
        return 0;
    }
    return set_pat(s, &c, is_negated);
}

/* ------------------------------------------------------------------ structure */

static int parse_alt(struct parser *s);

static int parse_group(struct parser *s)
{
    enum pat_op look = PAT_EMPTY;
    if (take(s, "?=")) {
        look = PAT_LOOK;
    } else if (take(s, "?!")) {
        look = PAT_NOT_LOOK;
    } else if (take(s, "?<=") || take(s, "?<!")) {
        return fail(s, "look-behind is not supported");
    } else if (take(s, "?P<") || take(s, "?<")) {
        while (s->p < s->end && *s->p != '>') s->p++;
        if (!take(s, ">")) return fail(s, "a group's name does not end");
    } else if (take(s, "?i:")) {
        s->folds = true;
    } else if (!take(s, "?:") && s->p < s->end && *s->p == '?') {
        return fail(s, "an unknown kind of group");
    }
    if (++s->depth > PATTERN_DEPTH) return fail(s, "its groups nest too deeply");
    int inner = parse_alt(s);
    s->depth--;
    if (!take(s, ")")) return fail(s, "( without )");
    if (look == PAT_EMPTY) return inner;
    int p = new_pat(s, look);
    if (!p) return 0;
    s->v[p].first = inner;
    s->v[p].has_position = true;
    return p;
}

static int anchor(struct parser *s, enum pat_op op)
{
    int p = new_pat(s, op);
    if (p) s->v[p].has_position = true;
    if (op == PAT_BEGIN) s->has_begin = true;
    return p;
}

static int parse_escape(struct parser *s)
{
    struct char_set c = {0};
    uint32_t cp;
    if (take(s, "A")) return anchor(s, PAT_BEGIN);
    if (take(s, "z") || take(s, "Z")) return anchor(s, PAT_END);
    if (class_escape(s, &c)) return set_pat(s, &c, false);
    free(c.v);
    if (s->problem) return 0;
    if (s->p < s->end && (*s->p == 'b' || *s->p == 'B'))
        return fail(s, "word boundaries (\\b) are not supported");
    if (s->p < s->end && ((*s->p >= '1' && *s->p <= '9') || *s->p == 'k'))
        return fail(s, "back references are not supported");
    c = (struct char_set){0};
    if (!char_escape(s, false, &cp)) return fail(s, "an unknown escape");
    charset_add(&c, cp, cp);
    return set_pat(s, &c, false);
}

static int parse_atom(struct parser *s)
{
    struct char_set c = {0};
    if (take(s, "(")) return parse_group(s);
    if (take(s, "[")) return parse_class(s);
    if (take(s, "^")) return anchor(s, PAT_BEGIN);
    if (take(s, "$")) return anchor(s, PAT_END);
    if (take(s, "\\")) return parse_escape(s);
    if (take(s, ".")) {
        if (!s->dot_all) {
            charset_add(&c, '\n', '\n');
            charset_add(&c, '\r', '\r');
            charset_add(&c, 0x2028, 0x2029);
        }
        return set_pat(s, &c, true);
    }
    if (*s->p == '*' || *s->p == '+' || *s->p == '?') return fail(s, "nothing to repeat");
    int len;
    int32_t cp = utf8_next(s->p, (size_t)(s->end - s->p), &len);
    s->p += len;
    charset_add(&c, cp < 0 ? 0xFFFD : (uint32_t)cp, cp < 0 ? 0xFFFD : (uint32_t)cp);
    return set_pat(s, &c, false);
}

static bool number(struct parser *s, uint32_t *out)
{
    const char *from = s->p;
    for (*out = 0; s->p < s->end && *s->p >= '0' && *s->p <= '9'; s->p++)
        if (*out <= REPEAT_MAX) *out = *out * 10 + (uint32_t)(*s->p - '0');
    return s->p > from;
}

/* A quantifier at hand, in lo and hi; a brace that is none stands for itself. */
static bool quantifier(struct parser *s, uint32_t *lo, uint32_t *hi)
{
    if (take(s, "*")) return *lo = 0, *hi = RE_INF, true;
    if (take(s, "+")) return *lo = 1, *hi = RE_INF, true;
    if (take(s, "?")) return *lo = 0, *hi = 1, true;
    const char *from = s->p;
    if (take(s, "{") && (number(s, lo) || (*lo = 0, s->p < s->end && *s->p == ','))) {
        *hi = *lo;
        if (take(s, ",") && !number(s, hi)) *hi = RE_INF;
        if (take(s, "}")) {
            if (*lo > REPEAT_MAX || (*hi != RE_INF && (*hi > REPEAT_MAX || *hi < *lo)))
                fail(s, "a repeat count is too large or out of order");
            return true;
        }
    }
    s->p = from;
    return false;
}

static int parse_repeats(struct parser *s, int atom)
{
    uint32_t lo, hi;
    while (s->p < s->end && quantifier(s, &lo, &hi)) {
        if (take(s, "+")) return fail(s, "possessive repeats are not supported");
        take(s, "?"); /* lazy: the same set of texts */
        int p = new_pat(s, PAT_REP);
        if (!p) return 0;
        s->v[p].first = atom;
        s->v[p].lo = lo;
        s->v[p].hi = hi;
        s->v[p].has_position = s->v[atom].has_position;
        atom = p;
    }
    return atom;
}

static int parse_cat(struct parser *s)
{
    int cat = new_pat(s, PAT_CAT), last = 0;
    while (cat && s->p < s->end && *s->p != '|' && *s->p != ')') {
        int atom = parse_atom(s);
        if (atom) atom = parse_repeats(s, atom);
        if (!atom) return 0;
        if (s->v[atom].next || atom == last) return fail(s, "an internal error");
        if (last)
            s->v[last].next = atom;
        else
            s->v[cat].first = atom;
        last = atom;
        s->v[cat].has_position |= s->v[atom].has_position;
    }
    return cat;
}

static int parse_alt(struct parser *s)
{
    int alt = new_pat(s, PAT_ALT), last = 0;
    bool folds = s->folds;
    do {
        int cat = parse_cat(s);
        if (!cat || !alt) return 0;
        if (last)
            s->v[last].next = cat;
        else
            s->v[alt].first = cat;
        last = cat;
        s->v[alt].has_position |= s->v[cat].has_position;
    } while (take(s, "|"));
    s->folds = folds;
    return alt;
}

/* ------------------------------------------------------------------ making */

static re_id make(struct parser *s, int p, re_id tail, bool at_start);

/* May the piece be passed without reading anything? Asked of what stands before a `^`. */
static bool may_be_empty(const struct parser *s, int p)
{
    const struct pat *n = &s->v[p];
    switch (n->op) {
    case PAT_EMPTY:
    case PAT_BEGIN:
    case PAT_END:
    case PAT_LOOK:
    case PAT_NOT_LOOK:
        return true;
    case PAT_SET:
        return false;
    case PAT_REP:
        return n->lo == 0 || may_be_empty(s, n->first);
    case PAT_CAT:
        for (int c = n->first; c; c = s->v[c].next)
            if (!may_be_empty(s, c)) return false;
        return true;
    case PAT_ALT:
        for (int c = n->first; c; c = s->v[c].next)
            if (may_be_empty(s, c)) return true;
        return false;
    }
    return false;
}

static bool reads_nothing(const struct parser *s, int p)
{
    enum pat_op op = s->v[p].op;
    return op == PAT_BEGIN || op == PAT_LOOK || op == PAT_NOT_LOOK || op == PAT_EMPTY;
}

static re_id make_cat(struct parser *s, int p, re_id tail, bool at_start)
{
    int n = 0, k = 0;
    for (int c = s->v[p].first; c; c = s->v[c].next) n++;
    struct piece {
        int p;
        bool at_start;
    } *v = xmalloc(((size_t)n + 1) * sizeof *v);
    bool could_be_start = at_start;
    for (int c = s->v[p].first; c; c = s->v[c].next) {
        v[k++] = (struct piece){c, at_start};
        if (could_be_start && !at_start && s->has_begin && s->v[c].has_position &&
            (s->v[c].op == PAT_BEGIN || s->v[c].op == PAT_ALT))
            fail(s, "^ after something that may be empty is not supported");
        at_start = at_start && reads_nothing(s, c);
        could_be_start = could_be_start && may_be_empty(s, c);
    }
    while (n-- > 0) tail = make(s, v[n].p, tail, v[n].at_start);
    free(v);
    return tail;
}

static re_id make_rep(struct parser *s, const struct pat *n, re_id tail, bool at_start)
{
    if (!n->has_position)
        return re_cat(s->g, re_rep(s->g, make(s, n->first, RE_EMPTY, false), n->lo, n->hi), tail);
    if (n->hi > 1) return fail(s, "an anchor or look-ahead that is repeated is not supported"), 0;
    re_id once = make(s, n->first, tail, at_start);
    return n->lo ? once : re_or2(s->g, once, tail);
}

static re_id make(struct parser *s, int p, re_id tail, bool at_start)
{
    struct pat n = s->v[p];
    if (s->problem || !grammar_steps(s->g, 1)) return RE_NONE;
    switch (n.op) {
    case PAT_EMPTY:
        return tail;
    case PAT_SET:
        return re_cat(s->g, n.re, tail);
    case PAT_CAT:
        return make_cat(s, p, tail, at_start);
    case PAT_ALT: {
        re_id out = RE_NONE;
        for (int c = n.first; c; c = s->v[c].next)
            out = re_or2(s->g, out, make(s, c, tail, at_start));
        return out;
    }
    case PAT_REP:
        return make_rep(s, &n, tail, at_start);
    case PAT_BEGIN:
        return at_start ? tail : RE_NONE;
    case PAT_END:
        return re_at(s->g, tail)->is_nullable ? RE_EMPTY : RE_NONE;
    case PAT_LOOK:
        return re_and2(s->g, tail, make(s, n.first, s->any, at_start));
    case PAT_NOT_LOOK:
        return re_and2(s->g, tail, re_not(s->g, make(s, n.first, s->any, at_start)));
    }
    return RE_NONE;
}

int pattern_compile(struct grammar *g, struct str pattern, enum pattern_kind kind, re_id *out,
                    struct sl_error *e)
{
    bool in_json = kind == PATTERN_JSON_SEARCH;
    struct parser s = {.g = g, .p = pattern.p, .end = pattern.p + pattern.n, .in_json = in_json};
    struct char_set all = {0};
    charset_add(&all, 0, CHAR_MAX_CP);
    re_id one = in_json ? json_char(g) : charset_re(g, &all, false);
    free(all.v);
    s.any = re_rep(g, one, 0, RE_INF);
    if (take(&s, "(?i)")) s.folds = true;
    if (take(&s, "(?s)")) s.dot_all = true;
    int root = parse_alt(&s);
    if (!s.problem && s.p < s.end) fail(&s, ") without (");
    *out = RE_NONE;
    if (!s.problem) {
        re_id tail = in_json ? s.any : RE_EMPTY;
        re_id r = make(&s, root, tail, true);
        if (in_json) {
            re_id later = s.has_begin ? make(&s, root, tail, false) : r;
            /* later in the text; without a ^ the same anywhere, which also covers the start */
            r = s.has_begin ? re_or2(g, r, re_cat3(g, one, s.any, later)) : re_cat(g, s.any, r);
            r = re_cat3(g, g->json_quote, r, g->json_quote);
        }
        *out = r;
    }
    free(s.v);
    if (s.problem) return sl_fail(e, SL_ESCHEMA, "the pattern cannot be used: %s", s.problem);
    return g->failed ? grammar_failure(g, e) : 0;
}
