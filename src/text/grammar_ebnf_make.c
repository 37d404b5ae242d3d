/* grammar_ebnf_make.c - the rules of an EBNF grammar to expressions and parts. Rules that do not
 * contain themselves become expressions, so that a run of them is one lexeme.
 */
#include "text/grammar_ebnf.h"

static bool is_regular(const struct ebnf *s, int n)
{
    const struct node *v = &s->v[n];
    if (v->op == NODE_LEX) return true;
    if (v->op == NODE_REF) return s->rules[v->rule].is_regular;
    for (int c = v->first; c; c = s->v[c].next)
        if (!is_regular(s, c)) return false;
    return true;
}

static bool is_nullable(const struct ebnf *s, int n)
{
    const struct node *v = &s->v[n];
    switch (v->op) {
    case NODE_LEX:
        return re_at(s->g, v->re)->is_nullable;
    case NODE_REF:
        return s->rules[v->rule].is_nullable;
    case NODE_REP:
        return v->lo == 0 || is_nullable(s, v->first);
    case NODE_SEQ:
        for (int c = v->first; c; c = s->v[c].next)
            if (!is_nullable(s, c)) return false;
        return true;
    case NODE_ALT:
        break;
    }
    for (int c = v->first; c; c = s->v[c].next)
        if (is_nullable(s, c)) return true;
    return false;
}

static re_id make_re(struct ebnf *s, int n)
{
    const struct node *v = &s->v[n];
    re_id r = v->op == NODE_ALT ? RE_NONE : RE_EMPTY;
    if (!grammar_steps(s->g, 1)) return RE_NONE;
    switch (v->op) {
    case NODE_LEX:
        return v->re;
    case NODE_REF:
        return s->rules[v->rule].re;
    case NODE_REP:
        return re_rep(s->g, make_re(s, v->first), v->lo, v->hi);
    case NODE_SEQ:
        for (int c = v->first; c; c = s->v[c].next) r = re_cat(s->g, r, make_re(s, c));
        return r;
    case NODE_ALT:
        for (int c = v->first; c; c = s->v[c].next) r = re_or2(s->g, r, make_re(s, c));
        return r;
    }
    return RE_NONE;
}

static part_id make_part(struct ebnf *s, int n)
{
    const struct node *v = &s->v[n];
    part_id p = v->op == NODE_ALT ? P_NEVER : P_EMPTY;
    if (!grammar_steps(s->g, 1)) return P_NEVER;
    if (is_regular(s, n)) return part_lex(s->g, make_re(s, n));
    switch (v->op) {
    case NODE_LEX:
        break;
    case NODE_REF:
        return part_rule(s->g, s->rules[v->rule].part);
    case NODE_REP:
        return part_rep(s->g, make_part(s, v->first), v->lo, v->hi);
    case NODE_SEQ: {
        re_id run = RE_EMPTY; /* regular pieces side by side are one lexeme */
        for (int c = v->first; c; c = s->v[c].next) {
            if (is_regular(s, c)) {
                run = re_cat(s->g, run, make_re(s, c));
                continue;
            }
            p = part_seq3(s->g, p, part_lex(s->g, run), make_part(s, c));
            run = RE_EMPTY;
        }
        return part_seq2(s->g, p, part_lex(s->g, run));
    }
    case NODE_ALT:
        for (int c = v->first; c; c = s->v[c].next) p = part_alt2(s->g, p, make_part(s, c));
        return p;
    }
    return P_NEVER;
}

/* A ::= A x | y turns into A ::= y x*. */
static void unroll_left(struct ebnf *s, int rule)
{
    int body = s->rules[rule].body, tails = 0, last_tail = 0, last_base = 0;
    if (s->v[body].op != NODE_ALT) return;
    int c = s->v[body].first;
    s->v[body].first = 0;
    for (int next; c; c = next) {
        next = s->v[c].next;
        s->v[c].next = 0;
        int head = s->v[c].op == NODE_SEQ ? s->v[c].first : 0;
        bool is_left = head && s->v[head].op == NODE_REF && s->v[head].rule == rule;
        if (is_left) s->v[c].first = s->v[head].next;
        int *list = is_left ? &tails : &s->v[body].first, *last = is_left ? &last_tail : &last_base;
        if (*last)
            s->v[*last].next = c;
        else
            *list = c;
        *last = c;
    }
    if (!tails) return;
    int alt = ebnf_node(s, NODE_ALT), rep = ebnf_node(s, NODE_REP), seq = ebnf_node(s, NODE_SEQ);
    if (!alt || !rep || !seq) return;
    s->v[alt].first = tails;
    s->v[rep].first = alt;
    s->v[rep].hi = RE_INF;
    s->v[body].next = rep;
    s->v[seq].first = body;
    s->rules[rule].body = seq;
}

/* Can node n begin with `rule`? Rules seen on the way are marked. */
static bool begins_with(struct ebnf *s, int n, int rule, int depth)
{
    const struct node *v = &s->v[n];
    if (depth > 500 || !grammar_steps(s->g, 1)) return true;
    if (v->op == NODE_LEX) return false;
    if (v->op == NODE_REF) {
        if (v->rule == rule) return true;
        if (s->rules[v->rule].is_seen || s->rules[v->rule].is_regular) return false;
        s->rules[v->rule].is_seen = true;
        return begins_with(s, s->rules[v->rule].body, rule, depth + 1);
    }
    for (int c = v->first; c; c = s->v[c].next) {
        if (begins_with(s, c, rule, depth + 1)) return true;
        if (v->op == NODE_SEQ && !is_nullable(s, c)) return false;
    }
    return false;
}

static void check_rules(struct ebnf *s)
{
    for (int i = 0; i < s->n_rules && !s->code; i++)
        if (!s->rules[i].body) ebnf_fail(s, "a rule is not defined", s->rules[i].name);
    for (int i = 0; i < s->n_rules && !s->code; i++) unroll_left(s, i);
    for (bool changed = true; changed && !s->code && !s->g->failed;) {
        changed = false;
        grammar_steps(s->g, (uint32_t)s->n);
        for (int i = 0; i < s->n_rules; i++) {
            struct rule *r = &s->rules[i];
            if (!r->is_nullable && is_nullable(s, r->body)) r->is_nullable = changed = true;
            if (r->is_regular || !is_regular(s, r->body)) continue;
            r->re = make_re(s, r->body);
            r->is_regular = changed = true;
        }
    }
    for (int i = 0; i < s->n_rules && !s->code && !s->g->failed; i++) {
        for (int k = 0; k < s->n_rules; k++) s->rules[k].is_seen = false;
        if (!s->rules[i].is_regular && begins_with(s, s->rules[i].body, i, 0) && !s->g->failed)
            ebnf_fail(s, "a rule begins with itself by way of others (left recursion)",
                      s->rules[i].name);
    }
}

part_id ebnf_make(struct ebnf *s)
{
    struct str start = s->is_lark ? STR("start") : STR("root");
    int root = -1;
    for (int i = 0; i < s->n_rules; i++)
        if (str_eq(s->rules[i].name, start)) root = i;
    if (root < 0) return ebnf_fail(s, "there is no rule", start), P_NEVER;
    check_rules(s);
    if (s->code || s->g->failed) return P_NEVER;
    for (int i = 0; i < s->n_rules; i++)
        if (!s->rules[i].is_regular) s->rules[i].part = rule_new(s->g);
    for (int i = 0; i < s->n_rules; i++)
        if (!s->rules[i].is_regular)
            rule_set(s->g, s->rules[i].part, make_part(s, s->rules[i].body));
    return s->rules[root].is_regular ? part_lex(s->g, s->rules[root].re)
                                     : part_rule(s->g, s->rules[root].part);
}
