/* grammar_free.c - text that is free until one of some marks stands in it. A text without a mark, and
 * one that ends with its first mark, are regular: with complement and intersection they are one
 * lexeme each, whose derivatives are the places of an automaton that looks for the marks. So nothing
 * but what would break inside a mark is ruled out, and nothing in the walks or masks is special.
 *
 * Bytes that are no UTF-8 and special tokens are free too, as without a grammar; but not the tokens
 * that end the output: they come where it may end, and nowhere else.
 */
#include "text/grammar_impl.h"

re_id free_fixed(struct grammar *g, struct str s)
{
    const struct grammar_vocab *v = g->vocab;
    re_id r = RE_EMPTY;
    for (size_t i = 0; i < s.n && grammar_steps(g, 1);) {
        const struct str *name = v ? vocab_name_at(v, s, i) : NULL;
        struct str piece = name ? *name : (struct str){s.p + i, 1};
        re_id one = re_literal(g, piece);
        if (name) one = re_cat3(g, re_byte(g, SPECIAL_BEGIN), one, re_byte(g, SPECIAL_END));
        r = re_cat(g, r, one);
        i += piece.n;
    }
    return r;
}

re_id free_written(struct grammar *g, struct str s)
{
    return re_or2(g, free_fixed(g, s), re_literal(g, s));
}

/* Any text of whole tokens: a mark written with ordinary tokens is not looked for inside the name of
 * a special one. */
static re_id any(struct grammar *g)
{
    re_id ordinary = re_range(g, 0, SPECIAL_END - 1), name = re_rep(g, ordinary, 0, RE_INF);
    re_id special = re_cat3(g, re_byte(g, SPECIAL_BEGIN), name, re_byte(g, SPECIAL_END));
    return re_rep(g, re_or2(g, ordinary, special), 0, RE_INF);
}

/* The names of the tokens that end the output. */
static re_id end_tokens(struct grammar *g)
{
    const struct grammar_vocab *v = g->vocab;
    re_id r = RE_NONE;
    for (size_t i = 0; v && i < v->n_eos; i++) {
        uint8_t path[TRIE_DEPTH];
        size_t n = vocab_path(v, v->eos[i], path);
        if (n && path[0] == SPECIAL_BEGIN)
            r = re_or2(g, r, re_literal(g, (struct str){(const char *)path, n}));
    }
    return r;
}

re_id free_without(struct grammar *g, re_id stops)
{
    re_id bad = re_or2(g, stops, end_tokens(g));
    return re_not(g, re_cat3(g, any(g), bad, RE_ALL));
}

re_id free_until(struct grammar *g, re_id stop, re_id stops)
{
    re_id more = re_cat(g, re_range(g, 0, 255), RE_ALL);
    re_id is_first = re_not(g, re_cat3(g, any(g), stops, more));
    re_id no_end = re_not(g, re_cat3(g, any(g), end_tokens(g), RE_ALL));
    return re_and2(g, re_cat(g, any(g), stop), re_and2(g, is_first, no_end));
}

/* One trigger with what follows it, the free text before it as `first` allows. Triggers with the same
 * to follow are one lexeme. */
static part_id triggered(struct grammar *g, const struct free_text *f, re_id stops, re_id first)
{
    part_id out = P_NEVER;
    for (uint32_t i = 0; i < f->n && !g->failed; i++) {
        const struct free_trigger *t = &f->triggers[i];
        re_id any_of = RE_NONE;
        uint32_t seen = 0;
        while (seen < i && f->triggers[seen].then != t->then) seen++;
        if (seen < i) continue;
        for (uint32_t k = i; k < f->n; k++)
            if (f->triggers[k].then == t->then) any_of = re_or2(g, any_of, f->triggers[k].text);
        re_id text = re_and2(g, first, free_until(g, any_of, stops));
        out = part_alt2(g, out, part_seq2(g, part_lex(g, text), t->then));
    }
    return out;
}

static part_id tail(struct grammar *g, const struct free_text *f, re_id stops, re_id first)
{
    re_id r = f->end == RE_NONE ? free_without(g, stops) : free_until(g, f->end, stops);
    return part_lex(g, re_and2(g, first, r));
}

part_id free_part(struct grammar *g, const struct free_text *f)
{
    re_id stops = f->end, first = re_not(g, re_cat(g, f->not_first, RE_ALL));
    for (uint32_t i = 0; i < f->n; i++) stops = re_or2(g, stops, f->triggers[i].text);
    part_id one = triggered(g, f, stops, first), none = tail(g, f, stops, first), rest;
    if (f->stop_after_first)
        rest = f->end == RE_NONE ? P_EMPTY : part_lex(g, f->end);
    else
        rest = part_seq2(g, part_rep(g, triggered(g, f, stops, RE_ALL), 0, RE_INF),
                         tail(g, f, stops, RE_ALL));
    one = part_seq2(g, one, rest);
    return f->at_least_one ? one : part_alt2(g, one, none);
}
