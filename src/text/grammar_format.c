/* grammar_format.c - the formats that are enforced, as patterns; all others are annotations, as the
 * JSON Schema specification has it. Sources: RFC 3339 (dates; leap years are exact, and there is no
 * year 0), ISO 8601 durations, RFC 5321 mailboxes without quoted parts, RFC 1123 host names, RFC
 * 2673 and 4291 addresses, RFC 4122, RFC 3986, RFC 6570, RFC 6901.
 */
#include "text/grammar_schema.h"

#define YEAR_MONTH_DAY                                                                             \
    "(?!0000)(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]" \
    "|[12][0-"                                                                                     \
    "9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][" \
    "048]|[13579][26])00)-02-29)"
#define HOUR_MINUTE_SECOND "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?"
#define OFFSET             "(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
#define BYTE               "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define IPV4               BYTE "(?:\\." BYTE "){3}"
#define GROUP              "[0-9a-fA-F]{1,4}"
#define LABEL              "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
#define HOST               LABEL "(?:\\." LABEL ")*"
#define PCHAR              "(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9a-fA-F]{2})"
#define AFTER              "(?:[a-zA-Z0-9._~!$&'()*+,;=:@/?-]|%[0-9a-fA-F]{2})*"
#define AUTHORITY                                                                                  \
    "(?:(?:[a-zA-Z0-9._~!$&'()*+,;=:-]|%[0-9a-fA-F]{2})*@)?(?:\\[[0-9a-fA-F:.]+\\]|(?:[a-zA-Z0-9"  \
    "._~!$&'()*+,;=-]|%[0-9a-fA-F]{2})*)(?::[0-9]*)?"
#define PATH "(?:/" PCHAR "*)*"
#define URI                                                                                        \
    "[a-zA-Z][a-zA-Z0-9+.-]*:(?://" AUTHORITY PATH "|/?(?:" PCHAR "+" PATH ")?)(?:\\?" AFTER       \
    ")?(?:#" AFTER ")?"
#define RELATIVE                                                                                   \
    "(?://" AUTHORITY PATH "|/(?:" PCHAR "+" PATH                                                  \
    ")?|(?:[a-zA-Z0-9._~!$&'()*+,;=@-]|%[0-9a-fA-F]{2})+" PATH ")?(?:\\?" AFTER ")?(?:#" AFTER     \
    ")?"

#define VARCHAR "(?:[a-zA-Z0-9_]|%[0-9a-fA-F]{2})"
#define VARSPEC VARCHAR "(?:\\.?" VARCHAR ")*(?::[1-9][0-9]{0,3}|\\*)?"
#define TEMPLATE                                                                                   \
    "(?:[^\\x00-\\x20\"'%<>\\\\^`{|}]|%[0-9a-fA-F]{2}|\\{[+#./;?&=,!@|]?" VARSPEC "(?:," VARSPEC   \
    ")*\\})*"

/* Expressions that ECMA-262 accepts: a part of them, with groups three deep; not every valid one,
 * but none that is not. */
#define ESCAPE        "\\\\[dDwWsStnrfv.*+?^$(){}|\\[\\]\\\\/-]"
#define CLASS         "\\[\\^?(?:a-z|A-Z|0-9|[^\\]\\\\\\[-]|" ESCAPE ")+-?\\]"
#define SIMPLE        "[^\\\\^$.|?*+(){}\\[\\]]|\\.|" ESCAPE "|" CLASS
#define REPEAT        "(?:[*+?]|\\{[0-9]{1,3}\\}|\\{[0-9]{1,3},\\})?\\??"
#define GROUPS(inner) "(?:(?:" SIMPLE "|\\((?:\\?:)?" inner "\\))(?:" REPEAT ")|[\\^$|])*"
#define REGEX_0       "(?:(?:" SIMPLE ")(?:" REPEAT ")|[\\^$|])*"

static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date", "^" YEAR_MONTH_DAY "$"},
    {"time", "^" HOUR_MINUTE_SECOND OFFSET "$"},
    {"date-time", "^" YEAR_MONTH_DAY "[Tt]" HOUR_MINUTE_SECOND OFFSET "$"},
    {"duration", "^P(?:[0-9]+W|(?=[0-9T])(?:[0-9]+Y)?(?:[0-9]+M)?(?:[0-9]+D)?(?:T(?=[0-9])(?:[0-9]+"
                 "H)?(?:[0-9]+M)?(?:[0-9]+S)?)?)$"},
    {"email", "^[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+(?:\\.[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+)*@" HOST "$"},
    {"hostname", "^" HOST "$"},
    {"ipv4", "^" IPV4 "$"},
    {"ipv6", "^(?:(?:" GROUP ":){7}" GROUP "|(?:" GROUP ":){1,7}:|(?:" GROUP ":){1,6}:" GROUP
             "|(?:" GROUP ":){1,5}(?::" GROUP "){1,2}|(?:" GROUP ":){1,4}(?::" GROUP
             "){1,3}|(?:" GROUP ":){1,3}(?::" GROUP "){1,4}|(?:" GROUP ":){1,2}(?::" GROUP
             "){1,5}|" GROUP ":(?::" GROUP "){1,6}|:(?:(?::" GROUP "){1,7}|:)|(?:" GROUP
             ":){6}" IPV4 "|::(?:" GROUP ":){0,5}" IPV4 "|(?:" GROUP ":){1,5}:" IPV4 ")$"},
    {"uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"},
    {"uri", "^" URI "$"},
    {"uri-reference", "^(?:" URI "|" RELATIVE ")$"},
    {"uri-template", "^" TEMPLATE "$"},
    {"regex", "^" GROUPS(GROUPS(GROUPS(REGEX_0))) "$"},
    {"json-pointer", "^(?:/(?:[^~/]|~[01])*)*$"},
    {"relative-json-pointer", "^(?:0|[1-9][0-9]*)(?:#|(?:/(?:[^~/]|~[01])*)*)$"},
};

bool format_pattern(struct str name, const char **pattern)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (!str_is(name, formats[i].name)) continue;
        *pattern = formats[i].pattern;
        return true;
    }
    return false;
}
