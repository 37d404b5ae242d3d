/* grammar_impl.h - the types behind grammar.h, for the grammar_*.c files alone.
 *
 * Two levels of description, both hash-consed (equal means same number) and both append-only:
 *   re    regular expressions over bytes: lexemes and what is left of them
 *   part  the pushdown level: lexemes, sequences, alternatives, repetitions, rules
 * and two of places, made as text comes in:
 *   kont  a continuation: a part to do and the continuation after it; 0 is the end of the text
 *   conf  a configuration: the set of (rest of a lexeme, continuation) that the bytes so far allow
 * A child's number is always below its parent's (rules apart), so a pass over a level is a loop.
 *
 * All memory is in pools counted in grammar.bytes. Running out of bytes, steps or nesting sets
 * grammar.failed and the makers go on with number 0; callers look at the flag at the end.
 */
#ifndef TEXT_GRAMMAR_IMPL_H
#define TEXT_GRAMMAR_IMPL_H

#include <stdatomic.h>

#include "text/grammar.h"

typedef uint32_t re_id;
typedef uint32_t part_id;
typedef uint32_t kont_id;
typedef uint32_t conf_id;

static const uint32_t RE_INF = UINT32_MAX;

/* A growable array of one kind. */
struct pool {
    void *p; /* owned */
    uint32_t n, cap, size;
};

/* A hash table of numbers; who keeps it knows what they mean. 0: free. */
struct table {
    uint32_t *slots; /* owned; cap is a power of two */
    uint32_t n, cap;
};

enum re_op {
    RE_OP_NONE,  /* no text */
    RE_OP_EMPTY, /* the empty text */
    RE_OP_BYTES, /* a: number of a byte set */
    RE_OP_CAT,   /* a then b; a is no CAT */
    RE_OP_OR,    /* lists[a .. a+b), sorted, at least two */
    RE_OP_AND,   /* as OR */
    RE_OP_NOT,   /* any text but a's */
    RE_OP_REP,   /* a, lo to hi times */
    RE_OP_REM,   /* digits of a number whose rest by mods[a] is b so far; lo: fraction digits left,
                  hi: 0 before the point, 2 just after it, 1 later */
};
struct re_node {
    uint32_t a, b, lo, hi, hash;
    uint8_t op;
    bool is_nullable;
    bool has_logic; /* AND, NOT or REM inside: may be without any text though it is not NONE */
    uint8_t life;   /* enum re_life, of nodes with logic */
};
enum re_life { RE_UNKNOWN, RE_LIVE, RE_DEAD, RE_SEEN };
enum { RE_NONE = 0, RE_EMPTY = 1, RE_ALL = 2 };

struct byte_set {
    uint64_t w[4];
};
/* multipleOf: the number times 10^scale must be divisible by m. */
struct re_mod {
    uint32_t m, scale;
};

enum part_op {
    PART_NEVER, /* nothing fits */
    PART_EMPTY,
    PART_LEX,  /* a: re */
    PART_SEQ,  /* part_lists[a .. a+b) */
    PART_ALT,  /* part_lists[a .. a+b), sorted */
    PART_REP,  /* a, lo to hi times */
    PART_RULE, /* a: number of a rule */
};
struct part {
    uint32_t a, b, lo, hi, hash;
    uint8_t op;
    bool is_productive; /* some text fits; set by parts_finish */
};
enum { P_NEVER = 0, P_EMPTY = 1 };

struct kont {
    part_id part;
    uint32_t lo, hi; /* of a REP: how many more */
    kont_id next;
    uint32_t depth, hash;
    uint32_t stamp;              /* of the closure that saw it last */
    uint32_t threads, n_threads; /* its closure in grammar.closures; threads 0: not made yet */
    bool closes;                 /* the closure reaches the end of the text */
};
struct thread {
    re_id re;
    kont_id k;
};
struct conf {
    uint32_t threads, n; /* grammar.threads */
    uint32_t hash;
    uint32_t room;    /* in_string: how many more characters fit, RE_INF: any */
    uint64_t loops;   /* byte groups that lead back here; set by conf_loops */
    bool has_loops;   /* they were looked at */
    uint16_t kept;    /* where its mask is kept, if kept[] there agrees */
    int8_t in_string; /* index of the JSON string state that its only thread is in, or -1 */
    bool may_end;
};
enum { CONF_UNKNOWN = 0, CONF_DEAD = 1 };

struct memo {
    uint64_t key; /* (node << 8 | byte) + 1 */
    re_id result;
};
enum { MEMO_SLOTS = 4096 };

/* Why a maker gave up. */
enum grammar_fail { FAIL_NO, FAIL_BYTES, FAIL_STEPS, FAIL_DEPTH };

/* The states inside one character of a JSON string: 0 is between characters. */
enum { STRING_STATES = 40 };

/* A mask worth keeping: its walk was long. */
struct kept_mask {
    conf_id conf;                   /* 0: free */
    uint8_t n_rounds, n_rounds_max; /* that it stays without being used */
    uint32_t *words;                /* owned */
};
enum { KEPT_MASKS = 256 }; /* and an eighth of the grammar's memory */

struct grammar {
    atomic_int refs;
    _Atomic size_t bytes; /* the cache asks while the engine works */
    size_t max_bytes;
    uint64_t steps, max_steps;
    uint8_t failed;              /* enum grammar_fail */
    struct grammar_vocab *vocab; /* referenced, or NULL */

    struct pool nodes, lists, sets, mods; /* re level */
    struct table node_table, set_table;
    struct memo *memo; /* owned, MEMO_SLOTS; a derivative may be forgotten */

    uint8_t class_of[256], class_byte[256]; /* bytes that no set tells apart, and one of each */
    uint32_t n_class, n_classed_sets;

    struct pool parts, part_lists, rules; /* rules: part_id of each */
    struct table part_table;
    part_id root;

    struct pool konts, closures, confs, threads, rows; /* places */
    struct table kont_table, conf_table;
    uint32_t stamp;                      /* of the closure being made */
    struct pool scratch, seen;           /* of the closure and of configurations being built */
    uint32_t frozen_nodes, frozen_lists; /* what compiling made; the rest can be made again */
    conf_id start;

    re_id json_char, json_quote, json_string; /* set when first used, else 0 */
    re_id string_tail[STRING_STATES];         /* re inside a character, by string state */
    struct kept_mask kept[KEPT_MASKS];
    uint32_t n_kept, next_kept;
    struct grammar_state *states;
};

/* ---- grammar_pool.c ---- */

/* n more elements, zeroed, as a pointer to the first; NULL (and failed) past the budget. */
void *pool_push(struct grammar *g, struct pool *p, uint32_t n);
void pool_free(struct grammar *g, struct pool *p);
/* Room for one more entry, rehashed by the hashes that hash_of gives. false past the budget. */
bool table_reserve(struct grammar *g, struct table *t,
                   uint32_t (*hash_of)(const struct grammar *g, uint32_t id));
void table_free(struct grammar *g, struct table *t);
/* Count n steps; false when the budget is spent. */
bool grammar_steps(struct grammar *g, uint32_t n);
static inline uint32_t hash_mix(uint32_t h, uint32_t v)
{
    h = (h ^ v) * 0x9E3779B1u;
    return h ^ (h >> 15);
}

/* ---- grammar_re.c: makers simplify, so that equal languages often get equal numbers ---- */

static inline struct re_node *re_at(const struct grammar *g, re_id r)
{
    return (struct re_node *)g->nodes.p + r;
}
void re_begin(struct grammar *g);
re_id re_bytes(struct grammar *g, const struct byte_set *s);
re_id re_byte(struct grammar *g, uint8_t byte);
re_id re_range(struct grammar *g, uint8_t lo, uint8_t hi);
re_id re_literal(struct grammar *g, struct str text);
re_id re_cat(struct grammar *g, re_id a, re_id b);
re_id re_cat3(struct grammar *g, re_id a, re_id b, re_id c);
re_id re_or(struct grammar *g, const re_id *v, uint32_t n);
re_id re_or2(struct grammar *g, re_id a, re_id b);
re_id re_and2(struct grammar *g, re_id a, re_id b);
re_id re_not(struct grammar *g, re_id a);
re_id re_rep(struct grammar *g, re_id a, uint32_t lo, uint32_t hi);
re_id re_opt(struct grammar *g, re_id a);
re_id re_rem(struct grammar *g, uint32_t mod, uint32_t rest, uint32_t left, uint32_t phase);
/* The number again with other children: how tables are copied (grammar_compact). */
re_id re_again(struct grammar *g, const struct re_node *n, const re_id *list);

/* The node table again, of the nodes there are now. */
void re_reset(struct grammar *g);

/* ---- grammar_step.c ---- */

/* Bytes that no set tells apart fall into one class; to be called when sets were added. */
void re_classes(struct grammar *g);
re_id re_step(struct grammar *g, re_id r, uint8_t byte);
bool re_is_live(struct grammar *g, re_id r);
bool re_matches(struct grammar *g, re_id r, struct str text);

/* ---- grammar_part.c ---- */

static inline struct part *part_at(const struct grammar *g, part_id p)
{
    return (struct part *)g->parts.p + p;
}
void parts_begin(struct grammar *g);
part_id part_lex(struct grammar *g, re_id r);
part_id part_text(struct grammar *g, const char *z);
part_id part_seq(struct grammar *g, const part_id *v, uint32_t n);
part_id part_seq2(struct grammar *g, part_id a, part_id b);
part_id part_seq3(struct grammar *g, part_id a, part_id b, part_id c);
part_id part_alt(struct grammar *g, const part_id *v, uint32_t n);
part_id part_alt2(struct grammar *g, part_id a, part_id b);
part_id part_rep(struct grammar *g, part_id a, uint32_t lo, uint32_t hi);
/* A rule to be set later (rule_set), by number; and the part that means it. */
uint32_t rule_new(struct grammar *g);
void rule_set(struct grammar *g, uint32_t rule, part_id body);
part_id part_rule(struct grammar *g, uint32_t rule);
/* What can be met at all: by iteration over the rules. */
void parts_finish(struct grammar *g);

/* ---- grammar_conf.c ---- */

static inline struct conf *conf_at(const struct grammar *g, conf_id c)
{
    return (struct conf *)g->confs.p + c;
}
static inline struct thread *conf_threads(const struct grammar *g, conf_id c)
{
    return (struct thread *)g->threads.p + conf_at(g, c)->threads;
}
void confs_begin(struct grammar *g);
void confs_free(struct grammar *g);
/* The configuration where continuation k begins. */
conf_id conf_of_kont(struct grammar *g, kont_id k);
kont_id kont_make(struct grammar *g, part_id part, uint32_t lo, uint32_t hi, kont_id next);
conf_id conf_intern(struct grammar *g, struct thread *t, uint32_t n, bool may_end);
/* The byte groups (byte_group) whose characters, from first to last byte, lead from c back to c. */
uint64_t conf_loops(struct grammar *g, conf_id c);
conf_id conf_step_new(struct grammar *g, conf_id c, uint8_t class);
static inline conf_id conf_step(struct grammar *g, conf_id c, uint8_t byte)
{
    uint8_t class = g->class_of[byte];
    conf_id next = ((uint32_t *)g->rows.p)[(size_t)c * g->n_class + class];
    return next ? next : conf_step_new(g, c, class);
}

/* ---- grammar_vocab.c ---- */

enum { TRIE_DEPTH = 255, SPECIAL_BEGIN = 0xFF, SPECIAL_END = 0xFE };

/* The trie as arrays in depth-first order; node 0 is the root. A subtree is a range. */
struct grammar_vocab {
    atomic_int refs;
    size_t n_vocab, n_words, bytes;
    uint32_t n_nodes;
    uint8_t *byte;     /* [n_nodes] on the edge into it */
    uint64_t *below;   /* [n_nodes] groups of the bytes below; GROUP_BAD: not all is UTF-8 there */
    uint8_t *depth;    /* [n_nodes] bytes from the root, at most TRIE_DEPTH */
    uint8_t *height;   /* [n_nodes] longest way down */
    uint32_t *after;   /* [n_nodes] first node past its subtree */
    uint32_t *parent;  /* [n_nodes] */
    int32_t *token;    /* [n_nodes] id, or -1 */
    uint32_t *ordinal; /* [n_nodes + 1] tokens (with those of same bytes) at nodes before it */
    int32_t *in_order; /* [ordinal[n_nodes]] ids by node */
    int32_t *same;     /* [n_vocab] next id with the same bytes, or -1 */
    uint32_t *node_of; /* [n_vocab] 0: never matches */
    int32_t *eos;      /* [n_eos] */
    size_t n_eos;
    struct str *names; /* [n_names] texts of special tokens, sorted; bytes in name_bytes */
    size_t n_names;
    char *name_bytes;
    /* The answer inside a JSON string, between characters. */
    uint32_t *string_words; /* [n_words] tokens allowed whatever follows the string */
    int8_t *string_state;   /* [n_nodes] string state at the node, -1: none */
    uint32_t *exits;        /* [n_exits] nodes where the string has ended and that have children */
    uint32_t n_exits;
    uint8_t tail_path[STRING_STATES][8]; /* bytes from between characters to each string state */
    uint8_t tail_length[STRING_STATES];
    int n_tails;
};
/* The bytes of a token, special ones between their marks; how many, 0: it never matches. */
size_t vocab_path(const struct grammar_vocab *v, int32_t token, uint8_t path[TRIE_DEPTH]);
/* The longest name of a special token that stands at s.p[at], or NULL. */
const struct str *vocab_name_at(const struct grammar_vocab *v, struct str s, size_t at);
/* The group of a byte: bytes that expressions seldom tell apart share one. */
unsigned byte_group(uint8_t byte);
enum { GROUP_2 = 60, GROUP_3, GROUP_4, GROUP_BAD }; /* first bytes of 2, 3, 4; none of these */

/* ---- grammar_mask.c ---- */

/* Is any token set? */
bool mask_write(struct grammar *g, conf_id c, uint32_t *words);
void mask_forget(struct grammar *g); /* all kept masks */

/* ---- grammar_char.c: sets of characters as byte expressions ---- */

struct char_range {
    uint32_t lo, hi; /* code points, inclusive */
};
struct char_set {         /* sorted, disjoint after charset_normal */
    struct char_range *v; /* owned */
    uint32_t n, cap;
};
enum { CHAR_MAX_CP = 0x10FFFF };
void charset_add(struct char_set *s, uint32_t lo, uint32_t hi);
void charset_normal(struct char_set *s);
void charset_invert(struct char_set *s);
void charset_fold(struct char_set *s); /* add the other case of ASCII letters */
/* \d \w \s and \p{...}; false: no such name. */
bool charset_class(struct char_set *s, char name);
bool charset_property(struct char_set *s, struct str name);
/* One character of the set, written raw (UTF-8) or as in a JSON string. Surrogates match nothing. */
re_id charset_re(struct grammar *g, const struct char_set *s, bool in_json);
/* A JSON string, between the quotes and with them. */
re_id json_char(struct grammar *g);
re_id json_string(struct grammar *g, uint32_t lo, uint32_t hi);
/* Exactly this text as JSON string with its quotes; one of n; UTF-8 in. */
re_id json_literal(struct grammar *g, struct str text);
re_id json_literals(struct grammar *g, const struct str *texts, uint32_t n);

/* ---- grammar_pattern.c ---- */

enum pattern_kind {
    PATTERN_WHOLE,       /* the text matches from end to end */
    PATTERN_JSON_SEARCH, /* a JSON string (quotes included) holds a match, as `pattern` says */
};
/* ECMA-262 and Python syntax without back references and look-behind; e->text says what fails. */
int pattern_compile(struct grammar *g, struct str pattern, enum pattern_kind kind, re_id *out,
                    struct sl_error *e);

/* ---- grammar_number.c ---- */

/* A decimal, exact: sign, digits, and how many of them are behind the point. */
struct decimal {
    bool is_negative;
    uint32_t n, n_fraction; /* digits, without leading or trailing zeros but one before the point */
    char digits[240];
};
bool decimal_read(struct decimal *d, const json_node *v);
int decimal_compare(const struct decimal *a, const struct decimal *b);
struct number_range {
    bool has_min, has_max, is_min_open, is_max_open;
    struct decimal min, max;
};
enum { NUMBER_INT = 1, NUMBER_FRACTION = 2 };
re_id number_any(struct grammar *g, unsigned kinds);
/* Numbers without exponent inside the range. */
re_id number_in(struct grammar *g, unsigned kinds, const struct number_range *r);
/* Multiples of d; RE_NONE and no failure where d is too fine or too large for an automaton. */
re_id number_multiple(struct grammar *g, const struct decimal *d);
/* Every way to write exactly d without exponent. */
re_id number_value(struct grammar *g, const struct decimal *d, unsigned kinds);

/* ---- grammar_schema.c, grammar_ebnf.c: source to root part ---- */

int schema_compile(struct grammar *g, const json_node *schema, const struct grammar_opts *o,
                   part_id *out, struct sl_error *e);
/* Any JSON object. */
int any_object_compile(struct grammar *g, const struct grammar_opts *o, part_id *out,
                       struct sl_error *e);
int ebnf_compile(struct grammar *g, struct str source, part_id *out, struct sl_error *e);

/* ---- grammar_free.c: text that is free up to some marks ---- */

/* A fixed text: the names of special tokens in it stand for those tokens. */
re_id free_fixed(struct grammar *g, struct str s);
/* The same, or written with ordinary tokens. */
re_id free_written(struct grammar *g, struct str s);
/* Any text, but no stop in it and no token that ends the output. */
re_id free_without(struct grammar *g, re_id stops);
/* Up to and with `stop` (one of `stops`), before which no stop has ended. */
re_id free_until(struct grammar *g, re_id stop, re_id stops);

struct free_trigger {
    re_id text; /* not nullable */
    part_id then;
};
/* Free text in which, behind each trigger, comes what belongs to it. */
struct free_text {
    const struct free_trigger *triggers;
    uint32_t n;
    re_id end;       /* RE_NONE, or what ends it all, and belongs to it */
    re_id not_first; /* RE_NONE, or how it must not begin */
    bool at_least_one, stop_after_first;
};
part_id free_part(struct grammar *g, const struct free_text *f);

/* ---- grammar_tag.c: schemas between fixed texts ---- */

int tagged_compile(struct grammar *g, const struct grammar_tags *t, const struct grammar_opts *o,
                   part_id *out, struct sl_error *e);
int structural_compile(struct grammar *g, const json_node *source, const struct grammar_opts *o,
                       part_id *out, struct sl_error *e);

/* ---- grammar_compact.c: empty the tables but for what states need; clears g->failed ---- */

void grammar_compact(struct grammar *g);

/* The error for g->failed, with what was being compiled. */
int grammar_failure(const struct grammar *g, struct sl_error *e);

#endif
