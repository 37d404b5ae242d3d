/* grammar.h - output that must have a form: compile it once, then say which tokens may come next.
 *
 * A grammar is compiled from a JSON Schema, from "any JSON object", a regular expression, a list of
 * choices, an EBNF grammar, or schemas between fixed texts (tool calls, structural tags). A state is
 * a place in it: it writes the bitmap of the tokens that may come next, and moves on by the token
 * that came. All works on bytes: a token is any run of bytes, so a character or a string may be split
 * over tokens anywhere.
 *
 * How it works (grammar_impl.h has the types). Text is described in two levels. Lexemes are regular
 * expressions over bytes, with intersection and complement, stepped by derivatives; each distinct
 * remainder is a state with a row of successors, filled in when first needed. Above them stands a
 * pushdown part: sequences, alternatives, repetitions and rules; a place in it is a continuation, an
 * immutable list that is shared, so that a state is one number and copies cost nothing. The set of
 * places reachable by the same bytes is a configuration; configurations too are numbered and have
 * rows. A mask is one walk over the vocabulary's trie with these rows; inside JSON strings, where
 * most of the vocabulary is allowed, the walk starts from an answer computed with the vocabulary.
 *
 * Limits: source bytes, nodes, nesting, bytes of memory and steps (a step is one elementary piece of
 * work, some 10 to 100 ns; there is no clock here). What goes past them while compiling is an error
 * that says so. Later, while states move, tables that grow past their budget are emptied and
 * refilled; a configuration that cannot be built within it makes grammar_accept fail.
 *
 * Threads: compiling is pure; any thread may do it. A compiled grammar and all its states belong to
 * one thread at a time (its tables fill as states move): in the server, the engine's. Only
 * grammar_ref and grammar_unref may be called from any thread. A vocabulary is immutable.
 */
#ifndef TEXT_GRAMMAR_H
#define TEXT_GRAMMAR_H

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"

/* ---- the vocabulary: a trie over the bytes of all tokens, built once per tokenizer ---- */

struct grammar_vocab; /* opaque, immutable, reference-counted by its grammars */

struct grammar_vocab_desc {
    size_t n_vocab; /* ids run from 0; the width of every bitmap */
    /* The bytes of token id, borrowed until the next call; n 0: the token never matches (special,
     * unused). Called once an id. */
    struct str (*bytes)(void *arg, int32_t id);
    /* Is it a special token, to be matched only where a grammar names it? Its bytes are its name. */
    bool (*is_special)(void *arg, int32_t id);
    void *arg;
    const int32_t *eos; /* ids that end the output: allowed where the text may end. Copied. */
    size_t n_eos;
};
/* Some 100 ms and 10 MB for 128,000 tokens. SL_EINVAL: more than 2^24 tokens or bytes past 2^28. */
int grammar_vocab_new(struct grammar_vocab **out, const struct grammar_vocab_desc *d,
                      struct sl_error *e);
void grammar_vocab_unref(struct grammar_vocab *v);         /* NULL is fine */
size_t grammar_vocab_words(const struct grammar_vocab *v); /* uint32_t words of a bitmap */
size_t grammar_vocab_bytes(const struct grammar_vocab *v); /* memory held */

/* ---- compiling ---- */

struct grammar; /* opaque, reference-counted */

struct grammar_opts {
    size_t max_source;  /* bytes of a source text; 0: 262,144 */
    size_t max_bytes;   /* memory of one grammar with its tables; 0: 32 MiB */
    uint64_t max_steps; /* while compiling; 0: 4,000,000 (some 0.2 s) */
    bool is_compact;    /* JSON without any whitespace; else at most one space, or a newline and
                             up to 64 spaces or tabs, where JSON allows whitespace */
    bool is_strict;     /* OpenAI's strict subset is checked first; objects are closed */
    bool is_lenient;    /* what cannot be decided byte by byte (uniqueItems, contains with a
                             maximum, unevaluated*) is left unchecked instead of refused */
    uint8_t draft;      /* of a schema without $schema: 4, 6, 7; 0: 2020-12 */
};

/* Each sets *out (owned: grammar_unref) or returns a code with the reason in e:
 *   SL_ESCHEMA       not a schema, regular expression or grammar; or a keyword is not supported, or
 *                    can never be met: text names the keyword, param is its JSON pointer ("#/...")
 *   SL_ETOOLARGE     a limit was passed (the text names it)
 * v may be NULL: then only the byte functions work. It is referenced, not copied. */

/* JSON Schema, drafts 4 to 2020-12. Members come in the order of `properties`, then names that only
 * `required` lists, then others; each name of the schema at most once. Strings are written with the
 * shortest escapes (characters past ASCII also as \uXXXX), integers without fraction or exponent,
 * numbers that have a bound without exponent. Keywords: see GRAMMAR.md beside this file. */
int grammar_json_schema(struct grammar **out, const json_node *schema, struct grammar_vocab *v,
                        const struct grammar_opts *o, struct sl_error *e);
/* Any JSON object. */
int grammar_json_object(struct grammar **out, struct grammar_vocab *v, const struct grammar_opts *o,
                        struct sl_error *e);
/* The whole output matches the pattern (as if between ^ and $). */
int grammar_regex(struct grammar **out, struct str pattern, struct grammar_vocab *v,
                  const struct grammar_opts *o, struct sl_error *e);
/* One of n texts. */
int grammar_choice(struct grammar **out, const struct str *texts, size_t n, struct grammar_vocab *v,
                   const struct grammar_opts *o, struct sl_error *e);
/* EBNF: the GBNF dialect of llama.cpp and XGrammar (`root ::= ...`), or Lark's (`start: ...`). */
int grammar_ebnf(struct grammar **out, struct str source, struct grammar_vocab *v,
                 const struct grammar_opts *o, struct sl_error *e);

/* A schema between fixed texts: one tool, in the way one model family writes a call. */
struct grammar_tag {
    struct str before;         /* e.g. "<tool_call>\n{\"name\": \"wx\", \"arguments\": " */
    const struct str *middles; /* [n_middles] one of these comes then; none where there are none */
    size_t n_middles;
    const json_node *schema; /* NULL: any JSON object */
    struct str after;        /* e.g. "}\n</tool_call>" */
    bool is_exact;           /* the schema is never read leniently */
};
/* Free text around tags: they stand in it, any number of times, where a trigger does. */
struct grammar_free {
    const struct str *triggers; /* in front of the prefix, each time one of them */
    size_t n_triggers;
    /* If not both "": the output may also begin with `start` in the place of a trigger. It must if
     * (behind blanks) it begins with start and then `anchor`, which is how all that follows begins;
     * a blank in the place of anchor's last character is not allowed there. */
    struct str start, anchor;
    struct str ahead; /* not "": text up to the first of this is not looked at */
    bool is_once;     /* after one time comes the end */
};
/* prefix, then tags (one of them each time, any order) with separator between, then suffix. Where a
 * fixed text contains the name of a special token of v, that token is what the model must write; a
 * trigger may also be written with ordinary tokens. */
struct grammar_tags {
    const struct grammar_tag *tags;
    size_t n_tags;                        /* at least 1 */
    struct str prefix, separator, suffix; /* "" where there is none */
    uint32_t min, max;                    /* how many; max 0: no limit. {1, 1}: exactly one */
    const struct grammar_free *free;      /* NULL: this is the whole output */
};
int grammar_tagged(struct grammar **out, const struct grammar_tags *t, struct grammar_vocab *v,
                   const struct grammar_opts *o, struct sl_error *e);

/* Structural tags: a format in XGrammar's form ({"format": {"type": ...}} or what stands there), or
 * vLLM's older {"structures": [...], "triggers": [...]}. GRAMMAR.md lists the types. */
int grammar_structural(struct grammar **out, const json_node *source, struct grammar_vocab *v,
                       const struct grammar_opts *o, struct sl_error *e);

void grammar_ref(struct grammar *g);           /* any thread */
void grammar_unref(struct grammar *g);         /* any thread; the last one frees. NULL is fine */
size_t grammar_bytes(const struct grammar *g); /* memory held now */
size_t grammar_bytes_max(const struct grammar *g); /* the most it will hold: max_bytes */

size_t grammar_words(const struct grammar *g); /* of its masks; 0: without a vocabulary */

/* ---- a place in a grammar ---- */

struct grammar_state {
    struct grammar *g;                 /* referenced; NULL: not in use */
    struct grammar_state *prev, *next; /* of g's list of states (what its tables must keep) */
    uint32_t config;
    bool is_ended; /* an EOS token came */
};
void grammar_begin(struct grammar_state *s, struct grammar *g); /* s must not be in use */
void grammar_copy(struct grammar_state *s, const struct grammar_state *from);
void grammar_end(struct grammar_state *s); /* gives the reference back; unused is fine */

/* The tokens that may come next: words of 32 ids, least bit first, all grammar_vocab_words written.
 * EOS ids are set where the text may end. false, and none set: the text is over (an EOS came), or the
 * grammar's budget is spent. */
bool grammar_mask(struct grammar_state *s, uint32_t *words);
/* Move on by a token. false: it is not allowed here, and s stays as it was. */
bool grammar_accept(struct grammar_state *s, int32_t token);
/* As grammar_accept, by bytes: what tests and fixed prefixes use. */
bool grammar_accept_bytes(struct grammar_state *s, struct str bytes);
bool grammar_may_end(struct grammar_state *s);  /* is the text so far complete? */
bool grammar_must_end(struct grammar_state *s); /* complete, and nothing may follow but the end */
/* Append the bytes that must come next whatever is chosen (at most max); nothing where the text may
 * end. */
void grammar_forced(struct grammar_state *s, size_t max, struct buf *out);

#endif
