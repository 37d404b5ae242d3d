/* grammar_ebnf.h - what reading an EBNF grammar (grammar_ebnf.c) leaves for making it
 * (grammar_ebnf_make.c): a tree of nodes and a list of rules.
 */
#ifndef TEXT_GRAMMAR_EBNF_H
#define TEXT_GRAMMAR_EBNF_H

#include "text/grammar_impl.h"

enum node_op { NODE_LEX, NODE_REF, NODE_SEQ, NODE_ALT, NODE_REP };
struct node {
    enum node_op op;
    int first, next; /* children as a list; 0: none */
    uint32_t lo, hi;
    re_id re; /* LEX */
    int rule; /* REF */
};
struct rule {
    struct str name;
    int body; /* 0: not defined yet */
    bool is_regular, is_nullable, is_seen;
    re_id re;      /* of a regular one */
    uint32_t part; /* rule number of another */
};

enum { NODES_MAX = 50000, RULES_MAX = 5000, EBNF_DEPTH = 64, EBNF_REPEAT_MAX = 10000 };

struct ebnf {
    struct grammar *g;
    struct sl_error *e;
    const char *begin, *p, *end;
    bool is_lark;
    int code, depth;
    struct node *v;     /* owned; 0 unused */
    struct rule *rules; /* owned */
    int n, cap, n_rules, rules_cap;
};

/* Record the first error, with the line at hand; what (may be empty) is named after it. Returns 0. */
int ebnf_fail(struct ebnf *s, const char *problem, struct str what);
/* A node, or 0 past the limit. */
int ebnf_node(struct ebnf *s, enum node_op op);
/* All rules to parts; the root's, or NEVER and s->code. */
part_id ebnf_make(struct ebnf *s);

#endif
