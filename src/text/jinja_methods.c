/* jinja_methods.c - the methods of strings, lists and dicts. Nothing else of Python's objects is
 * reachable. */
#include <utf8proc.h>

#include "base/utf8.h"
#include "text/jinja_impl.h"

/* ------------------------------------------------------------------ shared with the filters */

static void put_cp(struct jrender *r, int32_t cp)
{
    char text[4];
    buf_put(r->out, text, (size_t)utf8_put(text, (uint32_t)cp));
}

static bool is_letter(int32_t cp)
{
    utf8proc_category_t c = cp < 0 ? UTF8PROC_CATEGORY_CN : utf8proc_category(cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

static void put_upper(struct jrender *r, int32_t cp)
{
    if (cp == 0xDF)
        buf_puts(r->out, "SS"); /* the one common letter whose upper case is two */
    else
        put_cp(r, utf8proc_toupper(cp));
}

/* Is the next letter the first of a word, after `cp`? */
static bool starts_word(enum jcase how, int32_t cp, bool starts)
{
    switch (how) {
    case CASE_TITLE: return !is_letter(cp);
    case CASE_TITLE_FILTER: return jv_is_space(cp) || (cp > 0 && cp < 0x80 && strchr("-({[<", cp));
    default: return starts && false;
    }
}

struct jval jv_case(struct jrender *r, struct str s, enum jcase how)
{
    size_t mark = r->out->n;
    bool first = true;
    jr_tick(r, s.n / 8);
    for (size_t i = 0; i < s.n;) {
        int len;
        int32_t cp = utf8_next(s.p + i, s.n - i, &len);
        i += (size_t)len;
        bool upper =
            how == CASE_UPPER || (how >= CASE_CAPITALIZE && how <= CASE_TITLE_FILTER && first);
        if (how == CASE_SWAP) upper = utf8proc_tolower(cp) != cp ? false : true;
        if (upper)
            put_upper(r, cp);
        else
            put_cp(r, utf8proc_tolower(cp));
        first = starts_word(how, cp, first);
    }
    return jr_capture(r, mark);
}

struct jval jv_replace(struct jrender *r, struct str s, struct str from, struct str to, int64_t max)
{
    size_t mark = r->out->n, i = 0;
    if (max < 0) max = INT64_MAX;
    jr_tick(r, s.n / 16);
    for (; max > 0; max--) {
        const char *at = from.n == 0 ? s.p + i
                         : s.n       ? memmem(s.p + i, s.n - i, from.p, from.n)
                                     : NULL;
        if (!at) break;
        jr_tick(r, 1 + to.n / 64);
        buf_put(r->out, s.p + i, (size_t)(at - s.p) - i);
        buf_put_str(r->out, to);
        i = (size_t)(at - s.p) + from.n;
        if (from.n) continue;
        if (i >= s.n) break; /* an empty pattern stands before each character and at the end */
        size_t len = jv_offset((struct str){s.p + i, s.n - i < 4 ? s.n - i : 4}, 1);
        buf_put(r->out, s.p + i, len);
        i += len;
    }
    if (i < s.n) buf_put(r->out, s.p + i, s.n - i);
    return jr_capture(r, mark);
}

/* align: -1 text left, 0 centred, 1 right. */
struct jval jv_pad(struct jrender *r, struct str s, int64_t width, struct str fill, int align)
{
    int64_t room = width - (int64_t)jv_codepoints(s);
    if (room <= 0) return jv_text(s);
    if ((size_t)room > r->memory_max) jr_spent(r, SL_EINVAL, "memory");
    jr_tick(r, (size_t)room);
    /* Python's centring: the odd blank goes left when the width is odd too. */
    int64_t left = align < 0 ? 0 : align > 0 ? room : room / 2 + (room & width & 1);
    size_t mark = r->out->n;
    for (int64_t i = 0; i < left; i++) buf_put_str(r->out, fill);
    buf_put_str(r->out, s);
    for (int64_t i = left; i < room; i++) buf_put_str(r->out, fill);
    return jr_capture(r, mark);
}

static bool is_line_end(int32_t cp)
{
    return (cp >= 10 && cp <= 13) || (cp >= 28 && cp <= 30) || cp == 0x85 || cp == 0x2028 ||
           cp == 0x2029;
}

struct jlist *jv_lines(struct jrender *r, struct str s, bool keep_ends)
{
    struct jval l = jv_list(r, 4);
    size_t from = 0;
    jr_tick(r, s.n / 16);
    for (size_t i = 0; i < s.n;) {
        int len;
        int32_t cp = utf8_next(s.p + i, s.n - i, &len);
        size_t end = i;
        i += (size_t)len;
        if (!is_line_end(cp)) continue;
        if (cp == '\r' && i < s.n && s.p[i] == '\n') i++;
        jv_append(r, l, jv_text((struct str){s.p + from, (keep_ends ? i : end) - from}));
        from = i;
    }
    if (from < s.n) jv_append(r, l, jv_text((struct str){s.p + from, s.n - from}));
    return l.list;
}

/* ------------------------------------------------------------------ strings */

#define METHOD(name)                                                                               \
    static struct jval name(struct jrender *r, struct jval self, const struct jargs *a)

static struct jval strip(struct jrender *r, struct jval self, const struct jargs *a, bool left,
                         bool right)
{
    struct jval set = jr_arg(a, 0, NULL, jv_none());
    jr_tick(r, self.n / 16);
    if (set.kind == K_NONE) return jv_text(jv_strip(jv_str(self), NULL, left, right));
    struct str chars = jr_arg_str(r, a, 0, "chars", NULL);
    return jv_text(jv_strip(jv_str(self), &chars, left, right));
}
METHOD(str_strip) { return strip(r, self, a, true, true); }
METHOD(str_lstrip) { return strip(r, self, a, true, false); }
METHOD(str_rstrip) { return strip(r, self, a, false, true); }
METHOD(str_lower) { return (void)a, jv_case(r, jv_str(self), CASE_LOWER); }
METHOD(str_upper) { return (void)a, jv_case(r, jv_str(self), CASE_UPPER); }
METHOD(str_title) { return (void)a, jv_case(r, jv_str(self), CASE_TITLE); }
METHOD(str_capitalize) { return (void)a, jv_case(r, jv_str(self), CASE_CAPITALIZE); }
METHOD(str_swapcase) { return (void)a, jv_case(r, jv_str(self), CASE_SWAP); }

/* Runs of white space separate; from the right the list is built backwards by the caller's turn. */
static struct jval split_space(struct jrender *r, struct str s, int64_t max, bool right)
{
    struct jval l = jv_list(r, 4);
    for (;;) {
        s = jv_strip(s, NULL, !right, right);
        if (s.n == 0) return l;
        if (max-- == 0) {
            jv_append(r, l, jv_text(s)); /* what is left keeps its other end */
            return l;
        }
        jr_tick(r, 1);
        size_t i = right ? s.n : 0;
        while (right ? i > 0 : i < s.n) {
            size_t back = 1;
            int len = 1;
            if (right)
                while (back < i && ((unsigned char)s.p[i - back] & 0xC0) == 0x80) back++;
            size_t at = right ? i - back : i;
            if (jv_is_space(utf8_next(s.p + at, s.n - at, &len))) break;
            i = right ? at : i + (size_t)len;
        }
        jv_append(r, l, jv_text(right ? (struct str){s.p + i, s.n - i} : (struct str){s.p, i}));
        s = right ? (struct str){s.p, i} : (struct str){s.p + i, s.n - i};
    }
}

/* The last occurrence, or NULL. */
static const char *find_last(struct jrender *r, struct str s, struct str sub)
{
    if (sub.n > s.n) return NULL;
    for (size_t i = s.n - sub.n + 1; i-- > 0;) {
        jr_tick(r, (i & 63) == 0);
        if (sub.n == 0 || memcmp(s.p + i, sub.p, sub.n) == 0) return s.p + i;
    }
    return NULL;
}

static const char *find_first(struct str s, struct str sub)
{
    return sub.n == 0 ? s.p : s.n ? memmem(s.p, s.n, sub.p, sub.n) : NULL;
}

static struct jval split_by(struct jrender *r, struct str s, struct str sep, int64_t max,
                            bool right)
{
    struct jval l = jv_list(r, 4);
    for (; max != 0; max--) {
        const char *at = right ? find_last(r, s, sep) : find_first(s, sep);
        if (!at) break;
        jr_tick(r, 1);
        const char *after = at + sep.n, *end = s.p + s.n;
        struct str head = {s.p, (size_t)(at - s.p)}, tail = {after, (size_t)(end - after)};
        jv_append(r, l, jv_text(right ? tail : head));
        s = right ? head : tail;
    }
    jv_append(r, l, jv_text(s));
    return l;
}

static struct jval split(struct jrender *r, struct jval self, const struct jargs *a, bool right)
{
    struct jval sep = jr_arg(a, 0, "sep", jv_none()), l;
    int64_t max = jr_arg_int(r, a, 1, "maxsplit", -1);
    jr_tick(r, self.n / 16);
    if (sep.kind == K_NONE) {
        l = split_space(r, jv_str(self), max, right);
    } else {
        struct str by = jr_arg_str(r, a, 0, "sep", NULL);
        if (by.n == 0) jr_fail(r, "empty separator");
        l = split_by(r, jv_str(self), by, max, right);
    }
    for (uint32_t i = 0, n = l.list->n; right && i < n / 2; i++) {
        struct jval t = l.list->v[i];
        l.list->v[i] = l.list->v[n - 1 - i];
        l.list->v[n - 1 - i] = t;
    }
    return l;
}
METHOD(str_split) { return split(r, self, a, false); }
METHOD(str_rsplit) { return split(r, self, a, true); }

static struct jval partition(struct jrender *r, struct jval self, const struct jargs *a, bool right)
{
    struct str s = jv_str(self), sep = jr_arg_str(r, a, 0, "sep", NULL), none = {s.p, 0};
    if (sep.n == 0) jr_fail(r, "empty separator");
    jr_tick(r, s.n / 16);
    const char *at = right ? find_last(r, s, sep) : find_first(s, sep);
    struct jval t = jv_seq(r, K_TUPLE, 0, 3);
    struct str head = at ? (struct str){s.p, (size_t)(at - s.p)} : right ? none : s;
    struct str tail = at ? (struct str){at + sep.n, s.n - head.n - sep.n} : right ? s : none;
    jv_append(r, t, jv_text(head));
    jv_append(r, t, jv_text(at ? sep : none));
    jv_append(r, t, jv_text(tail));
    return t;
}
METHOD(str_partition) { return partition(r, self, a, false); }
METHOD(str_rpartition) { return partition(r, self, a, true); }

METHOD(str_splitlines)
{
    struct jlist *l = jv_lines(r, jv_str(self), jr_arg_bool(a, 0, "keepends", false));
    return (struct jval){.kind = K_LIST, .list = l};
}

/* startswith and endswith take one string or a tuple of them, and optional start and end. */
static struct str window(struct jrender *r, struct jval self, const struct jargs *a)
{
    struct jval bounds[3] = {jr_arg(a, 1, NULL, jv_none()), jr_arg(a, 2, NULL, jv_none()),
                             jv_none()};
    if (bounds[0].kind == K_NONE && bounds[1].kind == K_NONE) return jv_str(self);
    return jv_str(jv_slice(r, self, bounds));
}
static bool affix(struct str s, struct str x, bool end)
{
    return x.n == 0 || (x.n <= s.n && memcmp(end ? s.p + s.n - x.n : s.p, x.p, x.n) == 0);
}
static struct jval has_affix(struct jrender *r, struct jval self, const struct jargs *a, bool end)
{
    struct jval x = jr_arg(a, 0, NULL, jv_none());
    struct str s = window(r, self, a);
    if (x.kind != K_TUPLE) return jv_bool(affix(s, jr_arg_str(r, a, 0, "prefix", NULL), end));
    for (uint32_t i = 0; i < x.list->n; i++)
        if (x.list->v[i].kind == K_STR && affix(s, jv_str(x.list->v[i]), end)) return jv_bool(true);
    return jv_bool(false);
}
METHOD(str_startswith) { return has_affix(r, self, a, false); }
METHOD(str_endswith) { return has_affix(r, self, a, true); }

METHOD(str_removeprefix)
{
    struct str s = jv_str(self), x = jr_arg_str(r, a, 0, "prefix", NULL);
    return jv_text(affix(s, x, false) ? (struct str){s.p + x.n, s.n - x.n} : s);
}
METHOD(str_removesuffix)
{
    struct str s = jv_str(self), x = jr_arg_str(r, a, 0, "suffix", NULL);
    return jv_text(affix(s, x, true) ? (struct str){s.p, s.n - x.n} : s);
}

METHOD(str_replace)
{
    int64_t max = jr_arg_int(r, a, 2, "count", -1);
    struct str old = jr_arg_str(r, a, 0, "old", NULL), new = jr_arg_str(r, a, 1, "new", NULL);
    if (self.sub == STR_MARKUP) new = jv_str(jv_escape(r, jr_arg(a, 1, "new", jv_none())));
    return jv_replace(r, jv_str(self), old, new, max);
}

static int64_t find(struct jrender *r, struct jval self, const struct jargs *a, bool right)
{
    struct str sub = jr_arg_str(r, a, 0, "sub", NULL), s = window(r, self, a);
    jr_tick(r, self.n / 16);
    const char *at = right ? find_last(r, s, sub) : find_first(s, sub);
    return at ? (int64_t)jv_codepoints((struct str){self.s, (size_t)(at - self.s)}) : -1;
}
METHOD(str_find) { return jv_int(find(r, self, a, false)); }
METHOD(str_rfind) { return jv_int(find(r, self, a, true)); }
static struct jval index_of(struct jrender *r, int64_t i)
{
    if (i < 0) jr_fail(r, "substring not found");
    return jv_int(i);
}
METHOD(str_index) { return index_of(r, find(r, self, a, false)); }
METHOD(str_rindex) { return index_of(r, find(r, self, a, true)); }

METHOD(str_count)
{
    struct str sub = jr_arg_str(r, a, 0, "sub", NULL), s = window(r, self, a);
    if (sub.n == 0) return jv_int((int64_t)jv_codepoints(s) + 1);
    int64_t n = 0;
    jr_tick(r, s.n / 16);
    for (const char *at; (at = find_first(s, sub)); n++) {
        jr_tick(r, 1);
        s.n -= (size_t)(at - s.p) + sub.n;
        s.p = at + sub.n;
    }
    return jv_int(n);
}

METHOD(str_join)
{
    const struct jlist *l = jv_items(r, jr_arg(a, 0, "iterable", jv_none()));
    size_t mark = r->out->n;
    for (uint32_t i = 0; i < l->n; i++) {
        if (self.sub == STR_MARKUP) {
            if (i) buf_put(r->out, self.s, self.n);
            jr_put(r, jv_escape(r, l->v[i]));
            continue;
        }
        if (l->v[i].kind != K_STR)
            jr_fail(r, "sequence item %u: expected str instance, %s found", i,
                    jv_type_name(l->v[i]));
        if (i) buf_put(r->out, self.s, self.n);
        jr_put(r, l->v[i]);
    }
    return jr_capture(r, mark);
}

METHOD(str_format) { return jv_brace_format(r, jv_str(self), a); }

static struct jval pad(struct jrender *r, struct jval self, const struct jargs *a, int align)
{
    return jv_pad(r, jv_str(self), jr_arg_int(r, a, 0, "width", 0),
                  jr_arg_str(r, a, 1, "fillchar", " "), align);
}
METHOD(str_ljust) { return pad(r, self, a, -1); }
METHOD(str_center) { return pad(r, self, a, 0); }
METHOD(str_rjust) { return pad(r, self, a, 1); }

METHOD(str_zfill)
{
    struct str s = jv_str(self);
    bool sign = s.n && (s.p[0] == '-' || s.p[0] == '+');
    struct str digits = {s.p + sign, s.n - sign};
    struct jval v = jv_pad(r, digits, jr_arg_int(r, a, 0, "width", 0) - sign, STR("0"), 1);
    return sign ? jr_concat(r, (struct str){s.p, 1}, jv_str(v)) : v;
}

enum char_class { IS_ALNUM, IS_ALPHA, IS_DIGIT, IS_LOWER, IS_UPPER, IS_SPACE };

static bool in_class(int32_t cp, enum char_class what)
{
    utf8proc_category_t c = utf8proc_category(cp);
    bool digit = c == UTF8PROC_CATEGORY_ND || cp == 0xB2 || cp == 0xB3 || cp == 0xB9;
    switch (what) {
    case IS_ALPHA: return is_letter(cp);
    case IS_DIGIT: return digit;
    case IS_ALNUM:
        return is_letter(cp) || digit || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
    case IS_SPACE: return jv_is_space(cp);
    case IS_LOWER: return c == UTF8PROC_CATEGORY_LL;
    case IS_UPPER: return c == UTF8PROC_CATEGORY_LU;
    }
    return false;
}

/* All characters of the class and at least one; for cases only the letters that have one count. */
static struct jval all_of(struct jrender *r, struct jval self, enum char_class what)
{
    bool any = false;
    jr_tick(r, self.n / 16);
    for (uint32_t i = 0; i < self.n;) {
        int len;
        int32_t cp = utf8_next(self.s + i, self.n - i, &len);
        i += (uint32_t)len;
        if (in_class(cp, what))
            any = true;
        else if ((what != IS_LOWER && what != IS_UPPER) || in_class(cp, IS_LOWER) ||
                 in_class(cp, IS_UPPER))
            return jv_bool(false);
    }
    return jv_bool(any);
}
METHOD(str_isalnum) { return (void)a, all_of(r, self, IS_ALNUM); }
METHOD(str_isalpha) { return (void)a, all_of(r, self, IS_ALPHA); }
METHOD(str_isdigit) { return (void)a, all_of(r, self, IS_DIGIT); }
METHOD(str_islower) { return (void)a, all_of(r, self, IS_LOWER); }
METHOD(str_isupper) { return (void)a, all_of(r, self, IS_UPPER); }
METHOD(str_isspace) { return (void)a, all_of(r, self, IS_SPACE); }

METHOD(refuse)
{
    (void)self;
    (void)a;
    jr_fail(r, "this method is not available in a chat template");
}

static const struct jnative str_methods[] = {{"strip", str_strip},
                                             {"lstrip", str_lstrip},
                                             {"rstrip", str_rstrip},
                                             {"split", str_split},
                                             {"rsplit", str_rsplit},
                                             {"splitlines", str_splitlines},
                                             {"startswith", str_startswith},
                                             {"endswith", str_endswith},
                                             {"replace", str_replace},
                                             {"lower", str_lower},
                                             {"upper", str_upper},
                                             {"title", str_title},
                                             {"capitalize", str_capitalize},
                                             {"swapcase", str_swapcase},
                                             {"casefold", str_lower},
                                             {"find", str_find},
                                             {"rfind", str_rfind},
                                             {"index", str_index},
                                             {"rindex", str_rindex},
                                             {"count", str_count},
                                             {"join", str_join},
                                             {"format", str_format},
                                             {"partition", str_partition},
                                             {"rpartition", str_rpartition},
                                             {"removeprefix", str_removeprefix},
                                             {"removesuffix", str_removesuffix},
                                             {"ljust", str_ljust},
                                             {"center", str_center},
                                             {"rjust", str_rjust},
                                             {"zfill", str_zfill},
                                             {"isalnum", str_isalnum},
                                             {"isalpha", str_isalpha},
                                             {"isdigit", str_isdigit},
                                             {"isdecimal", str_isdigit},
                                             {"isnumeric", str_isdigit},
                                             {"islower", str_islower},
                                             {"isupper", str_isupper},
                                             {"isspace", str_isspace},
                                             {"encode", refuse},
                                             {"format_map", refuse},
                                             {"translate", refuse},
                                             {"maketrans", refuse},
                                             {"expandtabs", refuse},
                                             {NULL, NULL}};

const struct jnative *jinja_str_method(struct str name) { return jnative_find(str_methods, name); }
