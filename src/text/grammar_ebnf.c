/* grammar_ebnf.c - grammars as people write them, in two dialects told apart by "::=".
 *
 * GBNF (llama.cpp, XGrammar): rules `name ::= ...` from `root`; "text", [class], `.`, ( ), |, * + ?
 * {m} {m,} {m,n}; comments from #. Line ends are blank: a rule ends where the next begins.
 * Lark: rules `name: ...` from `start`; "text" with i, "a".."z", /expression/ with i and s, ( ), [ ]
 * for optional, |, * + ?, ~n, ~n..m, `-> alias`; comments from //; %import common.X for the common
 * terminals below. %ignore is refused: what may stand between tokens must be written.
 *
 * Rules that do not contain themselves become expressions (one lexeme), the others rules of parts.
 * A rule that begins with itself is turned into a repetition; longer ways round are refused.
 */
#include <stdlib.h>

#include "base/utf8.h"
#include "text/grammar_ebnf.h"

int ebnf_fail(struct ebnf *s, const char *problem, struct str what)
{
    int line = 1, n = (int)(what.n < 60 ? what.n : 60);
    for (const char *p = s->begin; p < s->p && p < s->end; p++) line += *p == '\n';
    if (!s->code)
        s->code = sl_fail(s->e, SL_ESCHEMA, "grammar, line %d: %s%s%.*s", line, problem,
                          n ? ": " : "", n, n ? what.p : "");
    s->p = s->end;
    return 0;
}

static const struct str nothing;

int ebnf_node(struct ebnf *s, enum node_op op)
{
    if (s->n == NODES_MAX) return ebnf_fail(s, "it is too long", nothing);
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 128;
        s->v = xrealloc(s->v, (size_t)s->cap * sizeof *s->v);
    }
    if (s->n == 0) s->v[s->n++] = (struct node){0};
    s->v[s->n] = (struct node){.op = op};
    return s->n++;
}

static int lex_node(struct ebnf *s, re_id r)
{
    int n = ebnf_node(s, NODE_LEX);
    if (n) s->v[n].re = r;
    return n;
}

static int find_rule(struct ebnf *s, struct str name)
{
    for (int i = 0; i < s->n_rules; i++)
        if (str_eq(s->rules[i].name, name)) return i;
    if (s->n_rules == RULES_MAX) return ebnf_fail(s, "too many rules", nothing);
    if (s->n_rules == s->rules_cap) {
        s->rules_cap = s->rules_cap ? s->rules_cap * 2 : 32;
        s->rules = xrealloc(s->rules, (size_t)s->rules_cap * sizeof *s->rules);
    }
    s->rules[s->n_rules] = (struct rule){.name = name};
    return s->n_rules++;
}

/* ------------------------------------------------------------------ reading */

static bool take(struct ebnf *s, const char *z)
{
    size_t n = strlen(z);
    if ((size_t)(s->end - s->p) < n || memcmp(s->p, z, n) != 0) return false;
    s->p += n;
    return true;
}

static void skip_blank(struct ebnf *s)
{
    while (s->p < s->end) {
        bool is_comment =
            *s->p == '#' || (s->is_lark && *s->p == '/' && s->end - s->p > 1 && s->p[1] == '/');
        if (is_comment)
            while (s->p < s->end && *s->p != '\n') s->p++;
        else if (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r')
            s->p++;
        else
            return;
    }
}

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
}

static struct str read_name(struct ebnf *s)
{
    const char *from = s->p;
    while (s->p < s->end && is_name_char(*s->p) && !(s->is_lark && *s->p == '-')) s->p++;
    return (struct str){from, (size_t)(s->p - from)};
}

/* At the beginning of a rule: a name and its mark? Leaves s where it was. */
static bool at_rule(struct ebnf *s)
{
    const char *from = s->p;
    if (s->is_lark && s->p < s->end && *s->p == '%') return true;
    if (s->is_lark && !take(s, "?")) take(s, "!");
    bool found = read_name(s).n > 0;
    if (s->is_lark && found && take(s, ".")) read_name(s); /* a priority */
    if (found) {
        while (s->p < s->end && (*s->p == ' ' || *s->p == '\t')) s->p++;
        found = s->is_lark ? take(s, ":") : take(s, "::=");
    }
    s->p = from;
    return found;
}

/* A pattern's text through the expression compiler: classes and /expressions/. */
static int pattern_node(struct ebnf *s, struct str text)
{
    struct sl_error e;
    re_id r;
    if (pattern_compile(s->g, text, PATTERN_WHOLE, &r, &e) < 0) {
        if (!s->code) s->code = sl_fail(s->e, e.code, "grammar: %s", e.text);
        return ebnf_fail(s, "a bad expression", text);
    }
    return lex_node(s, r);
}

static int class_node(struct ebnf *s)
{
    const char *from = s->p++;
    while (s->p < s->end && *s->p != ']') s->p += *s->p == '\\' && s->end - s->p > 1 ? 2 : 1;
    if (!take(s, "]")) return ebnf_fail(s, "[ without ]", nothing);
    return pattern_node(s, (struct str){from, (size_t)(s->p - from)});
}

static uint32_t hex_digits(struct ebnf *s, int n)
{
    uint32_t v = 0;
    for (; n > 0 && s->p < s->end; n--, s->p++) {
        char c = *s->p;
        int d = c >= '0' && c <= '9'                 ? c - '0'
                : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                     : -1;
        if (d < 0) return ebnf_fail(s, "a bad escape", nothing), 0;
        v = v << 4 | (uint32_t)d;
    }
    return v;
}

/* The text between quotes, escapes undone, in out; s stands after the first quote. */
static void read_text(struct ebnf *s, struct buf *out)
{
    static const char from[] = "nrtfvb0", to[] = "\n\r\t\f\v\b";
    while (s->p < s->end && *s->p != '"') {
        if (*s->p != '\\' || s->end - s->p < 2) {
            buf_putc(out, *s->p++);
            continue;
        }
        char c = s->p[1], utf8[4];
        s->p += 2;
        const char *at = c ? strchr(from, c) : NULL;
        if (at) {
            buf_putc(out, to[at - from]);
        } else if (c == 'x' || c == 'u' || c == 'U') {
            uint32_t cp = hex_digits(s, c == 'x' ? 2 : c == 'u' ? 4 : 8);
            if (cp > CHAR_MAX_CP || (cp >= 0xD800 && cp < 0xE000)) cp = 0xFFFD;
            buf_put(out, utf8, (size_t)utf8_put(utf8, cp));
        } else {
            buf_putc(out, c);
        }
    }
    if (!take(s, "\"")) ebnf_fail(s, "\" without its second", nothing);
}

static int text_node(struct ebnf *s)
{
    struct buf text = buf_make(1u << 20), last = buf_make(16);
    re_id r = RE_EMPTY;
    s->p++;
    read_text(s, &text);
    if (s->is_lark && take(s, "..\"")) {
        struct char_set range = {0};
        int len;
        read_text(s, &last);
        int32_t lo = text.n ? utf8_next(text.p, text.n, &len) : -1;
        int32_t hi = last.n ? utf8_next(last.p, last.n, &len) : -1;
        if (lo < 0 || hi < lo)
            ebnf_fail(s, "a range out of order", nothing);
        else
            charset_add(&range, (uint32_t)lo, (uint32_t)hi);
        r = charset_re(s->g, &range, false);
        free(range.v);
    } else {
        bool folds = s->is_lark && take(s, "i");
        for (size_t i = text.n; i-- > 0;) {
            char c = text.p[i];
            bool is_letter = (c | 32) >= 'a' && (c | 32) <= 'z';
            re_id one = re_byte(s->g, (uint8_t)c);
            if (folds && is_letter) one = re_or2(s->g, one, re_byte(s->g, (uint8_t)(c ^ 32)));
            r = re_cat(s->g, one, r);
        }
    }
    buf_free(&text);
    buf_free(&last);
    return lex_node(s, r);
}

/* /expression/flags of Lark. */
static int regex_node(struct ebnf *s)
{
    struct buf b = buf_make(1u << 16);
    const char *from = ++s->p;
    while (s->p < s->end && *s->p != '/') s->p += *s->p == '\\' && s->end - s->p > 1 ? 2 : 1;
    struct str body = {from, (size_t)(s->p - from)};
    if (!take(s, "/")) return ebnf_fail(s, "/ without its second", nothing);
    for (bool more = true; more;) {
        more = true;
        if (take(s, "i"))
            buf_puts(&b, "(?i)");
        else if (take(s, "s"))
            buf_puts(&b, "(?s)");
        else if (!take(s, "m") && !take(s, "u") && !take(s, "x"))
            more = false;
    }
    buf_put_str(&b, body);
    int n = pattern_node(s, buf_str(&b));
    buf_free(&b);
    return n;
}

static int read_alt(struct ebnf *s);

static int group_node(struct ebnf *s, const char *close)
{
    s->p++;
    if (++s->depth > EBNF_DEPTH) return ebnf_fail(s, "groups nest too deeply", nothing);
    int n = read_alt(s);
    s->depth--;
    skip_blank(s);
    if (!take(s, close)) return ebnf_fail(s, "a bracket that does not close", nothing);
    if (*close == ')' || !n) return n;
    int rep = ebnf_node(s, NODE_REP); /* Lark's [ ] */
    if (rep) s->v[rep].first = n, s->v[rep].hi = 1;
    return rep;
}

static int read_atom(struct ebnf *s)
{
    char c = *s->p;
    if (c == '"') return text_node(s);
    if (c == '(') return group_node(s, ")");
    if (c == '[') return s->is_lark ? group_node(s, "]") : class_node(s);
    if (c == '/' && s->is_lark) return regex_node(s);
    if (c == '.' && !s->is_lark) {
        s->p++;
        return pattern_node(s, STR("(?s)."));
    }
    struct str name = read_name(s);
    if (!name.n) return ebnf_fail(s, "an unexpected character", (struct str){s->p, 1});
    int n = ebnf_node(s, NODE_REF), rule = find_rule(s, name);
    if (n) s->v[n].rule = rule;
    return n;
}

static bool read_count(struct ebnf *s, uint32_t *out)
{
    const char *from = s->p;
    for (*out = 0; s->p < s->end && *s->p >= '0' && *s->p <= '9'; s->p++)
        if (*out <= EBNF_REPEAT_MAX) *out = *out * 10 + (uint32_t)(*s->p - '0');
    return s->p > from;
}

static bool read_repeat(struct ebnf *s, uint32_t *lo, uint32_t *hi)
{
    if (take(s, "*")) return *lo = 0, *hi = RE_INF, true;
    if (take(s, "+")) return *lo = 1, *hi = RE_INF, true;
    if (take(s, "?")) return *lo = 0, *hi = 1, true;
    const char *from = s->p;
    while (s->is_lark && s->p < s->end && *s->p == ' ') s->p++;
    bool braces = !s->is_lark && take(s, "{");
    if (!braces && !(s->is_lark && take(s, "~"))) return s->p = from, false;
    skip_blank(s);
    bool ok = read_count(s, lo) || (braces && s->p < s->end && *s->p == ',');
    *hi = *lo;
    skip_blank(s);
    if (take(s, braces ? "," : "..")) {
        skip_blank(s);
        if (!read_count(s, hi)) *hi = RE_INF;
        skip_blank(s);
    }
    if (!ok || (braces && !take(s, "}")) || *lo > EBNF_REPEAT_MAX || *hi < *lo ||
        (*hi != RE_INF && *hi > EBNF_REPEAT_MAX))
        ebnf_fail(s, "a bad repeat count", nothing);
    return true;
}

static int read_repeats(struct ebnf *s, int atom)
{
    uint32_t lo, hi;
    while (atom && read_repeat(s, &lo, &hi)) {
        int rep = ebnf_node(s, NODE_REP);
        if (!rep) return 0;
        s->v[rep].first = atom;
        s->v[rep].lo = lo;
        s->v[rep].hi = hi;
        atom = rep;
    }
    return atom;
}

static int read_seq(struct ebnf *s)
{
    int seq = ebnf_node(s, NODE_SEQ), last = 0;
    for (;;) {
        skip_blank(s);
        if (s->is_lark && take(s, "->")) {
            skip_blank(s);
            read_name(s);
            skip_blank(s);
        }
        if (!seq || s->p >= s->end || *s->p == '|' || *s->p == ')' || (s->is_lark && *s->p == ']'))
            return seq;
        if (s->depth == 0 && at_rule(s)) return seq;
        int atom = read_repeats(s, read_atom(s));
        if (!atom) return 0;
        if (last)
            s->v[last].next = atom;
        else
            s->v[seq].first = atom;
        last = atom;
    }
}

static int read_alt(struct ebnf *s)
{
    int alt = ebnf_node(s, NODE_ALT), last = 0;
    do {
        int seq = read_seq(s);
        if (!seq || !alt) return 0;
        if (last)
            s->v[last].next = seq;
        else
            s->v[alt].first = seq;
        last = seq;
        skip_blank(s);
    } while (take(s, "|"));
    return alt;
}

/* ------------------------------------------------------------------ rules */

static const struct {
    const char *name, *pattern;
} common[] = {
    {"DIGIT", "[0-9]"},
    {"HEXDIGIT", "[a-fA-F0-9]"},
    {"INT", "[0-9]+"},
    {"SIGNED_INT", "[+-]?[0-9]+"},
    {"DECIMAL", "[0-9]+\\.[0-9]*|\\.[0-9]+"},
    {"FLOAT", "[0-9]+[eE][+-]?[0-9]+|(?:[0-9]+\\.[0-9]*|\\.[0-9]+)(?:[eE][+-]?[0-9]+)?"},
    {"NUMBER", "(?:[0-9]+\\.[0-9]*|\\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?"},
    {"SIGNED_NUMBER", "[+-]?(?:[0-9]+\\.[0-9]*|\\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?"},
    {"LCASE_LETTER", "[a-z]"},
    {"UCASE_LETTER", "[A-Z]"},
    {"LETTER", "[a-zA-Z]"},
    {"WORD", "[a-zA-Z]+"},
    {"CNAME", "[a-zA-Z_][a-zA-Z0-9_]*"},
    {"ESCAPED_STRING", "\"(?:[^\"\\\\\\n]|\\\\.)*\""},
    {"WS_INLINE", "[ \\t]+"},
    {"WS", "[ \\t\\f\\r\\n]+"},
    {"CR", "\\r"},
    {"LF", "\\n"},
    {"NEWLINE", "(?:\\r?\\n)+"},
};

static void import(struct ebnf *s)
{
    skip_blank(s);
    bool is_common = take(s, "common.");
    struct str name = read_name(s);
    for (size_t i = 0; is_common && i < sizeof common / sizeof *common; i++) {
        if (!str_is(name, common[i].name)) continue;
        skip_blank(s);
        if (take(s, "->")) {
            skip_blank(s);
            name = read_name(s);
        }
        int rule = find_rule(s, name), body = pattern_node(s, str_of(common[i].pattern));
        if (!s->code) s->rules[rule].body = body;
        return;
    }
    ebnf_fail(s, "%import of something other than a common terminal", name);
}

static void read_rule(struct ebnf *s)
{
    if (s->is_lark && take(s, "%import")) {
        import(s);
        return;
    }
    if (s->is_lark && *s->p == '%') {
        ebnf_fail(s, "%ignore, %declare and %override are not supported", nothing);
        return;
    }
    if (!at_rule(s)) {
        ebnf_fail(s, "expected a rule at", (struct str){s->p, (size_t)(s->end - s->p)});
        return;
    }
    if (s->is_lark && !take(s, "?")) take(s, "!");
    struct str name = read_name(s);
    int rule = find_rule(s, name);
    if (s->is_lark && take(s, ".")) read_name(s);
    while (*s->p == ' ' || *s->p == '\t') s->p++;
    s->p += s->is_lark ? 1 : 3;
    if (!s->code && s->rules[rule].body) ebnf_fail(s, "a rule is defined twice", name);
    int body = read_alt(s);
    if (!s->code) s->rules[rule].body = body;
    skip_blank(s);
}

int ebnf_compile(struct grammar *g, struct str source, part_id *out, struct sl_error *e)
{
    struct ebnf s = {.g = g, .e = e, .begin = source.p, .p = source.p, .end = source.p + source.n};
    s.is_lark = !source.n || !memmem(source.p, source.n, "::=", 3);
    skip_blank(&s);
    while (s.p < s.end && !s.code) {
        read_rule(&s);
        skip_blank(&s);
    }
    *out = s.code ? P_NEVER : ebnf_make(&s);
    free(s.v);
    free(s.rules);
    if (s.code) return s.code;
    return g->failed ? grammar_failure(g, e) : 0;
}
