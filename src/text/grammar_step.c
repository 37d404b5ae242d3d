/* grammar_step.c - what is left of an expression after a byte (Brzozowski's derivative), and
 * whether anything can still complete it. Derivatives handle intersection and complement as easily
 * as union; the price is that an expression with those may be empty without looking so, which
 * re_is_live finds out by search.
 */
#include <stdlib.h>

#include "text/grammar_impl.h"

/* Nesting of expressions inside expressions; sources nest less (GRAMMAR_DEPTH in the parsers), long
 * chains of optional pieces may come here. */
enum { STEP_DEPTH = 1000 };

static re_id step(struct grammar *g, re_id r, uint8_t byte, int depth);

static bool has_byte(const struct grammar *g, uint32_t set, uint8_t byte)
{
    return ((const struct byte_set *)g->sets.p)[set].w[byte / 64] >> (byte % 64) & 1;
}

static re_id step_list(struct grammar *g, const struct re_node *n, uint8_t byte, int depth)
{
    uint32_t first = g->scratch.n;
    for (uint32_t i = 0; i < n->b; i++) {
        re_id left = step(g, ((re_id *)g->lists.p)[n->a + i], byte, depth);
        if (n->op == RE_OP_OR && left == RE_NONE) continue;
        if (n->op == RE_OP_AND && left == RE_NONE) {
            g->scratch.n = first;
            return RE_NONE;
        }
        re_id *to = pool_push(g, &g->scratch, 1);
        if (!to) return RE_NONE;
        *to = left;
    }
    uint32_t count = g->scratch.n - first;
    re_id few[16], *v = count <= 16 ? few : xmalloc(count * sizeof *v);
    if (count) memcpy(v, (re_id *)g->scratch.p + first, count * sizeof *v);
    g->scratch.n = first;
    re_id out = RE_NONE;
    if (n->op == RE_OP_OR) {
        out = re_or(g, v, count);
    } else {
        out = RE_ALL;
        for (uint32_t i = 0; i < count; i++) out = re_and2(g, out, v[i]);
    }
    if (v != few) free(v);
    return out;
}

static re_id step_rem(struct grammar *g, const struct re_node *n, uint8_t byte)
{
    const struct re_mod *m = (const struct re_mod *)g->mods.p + n->a;
    if (byte == '.' && n->hi == 0) return re_rem(g, n->a, n->b, n->lo, 2);
    if (byte < '0' || byte > '9') return RE_NONE;
    uint32_t digit = byte - '0', phase = n->hi ? 1 : 0;
    if (phase && n->lo == 0) return digit ? RE_NONE : re_rem(g, n->a, n->b, 0, 1);
    uint32_t rest = (uint32_t)(((uint64_t)n->b * 10 + digit) % m->m);
    return re_rem(g, n->a, rest, phase ? n->lo - 1 : n->lo, phase);
}

static re_id step_by_op(struct grammar *g, struct re_node n, uint8_t byte, int depth)
{
    switch ((enum re_op)n.op) {
    case RE_OP_NONE:
    case RE_OP_EMPTY:
        return RE_NONE;
    case RE_OP_BYTES:
        return has_byte(g, n.a, byte) ? RE_EMPTY : RE_NONE;
    case RE_OP_CAT: {
        bool goes_on = re_at(g, n.a)->is_nullable;
        re_id first = re_cat(g, step(g, n.a, byte, depth), n.b);
        return goes_on ? re_or2(g, first, step(g, n.b, byte, depth)) : first;
    }
    case RE_OP_OR:
    case RE_OP_AND:
        return step_list(g, &n, byte, depth);
    case RE_OP_NOT:
        return re_not(g, step(g, n.a, byte, depth));
    case RE_OP_REP: {
        uint32_t hi = n.hi == RE_INF ? RE_INF : n.hi - 1;
        re_id first = step(g, n.a, byte, depth);
        if (first == RE_NONE) return RE_NONE;
        return re_cat(g, first, re_rep(g, n.a, n.lo ? n.lo - 1 : 0, hi));
    }
    case RE_OP_REM:
        return step_rem(g, &n, byte);
    }
    return RE_NONE;
}

static re_id step(struct grammar *g, re_id r, uint8_t byte, int depth)
{
    struct re_node n = *re_at(g, r);
    if (n.op <= RE_OP_BYTES) return step_by_op(g, n, byte, 0);
    if (n.op == RE_OP_CAT && re_at(g, n.a)->op == RE_OP_BYTES) /* a literal: most of all */
        return has_byte(g, re_at(g, n.a)->a, byte) ? n.b : RE_NONE;
    if (depth > STEP_DEPTH) return g->failed = FAIL_DEPTH, RE_NONE;
    uint64_t key = ((uint64_t)r << 8 | byte) + 1;
    struct memo *m = g->memo + (hash_mix(hash_mix(7, r), byte) & (MEMO_SLOTS - 1));
    if (m->key == key) return m->result;
    if (!grammar_steps(g, 1)) return RE_NONE;
    re_id out = step_by_op(g, n, byte, depth + 1);
    if (g->failed) return RE_NONE;
    *m = (struct memo){key, out};
    return out;
}

re_id re_step(struct grammar *g, re_id r, uint8_t byte)
{
    return step(g, r, byte, 0);
}

void re_classes(struct grammar *g)
{
    if (g->n_class == 0) g->n_class = 1;
    for (; g->n_classed_sets < g->sets.n; g->n_classed_sets++) {
        uint16_t renamed[256][2] = {{0}}; /* new number + 1 of (old class, is in the set) */
        uint32_t n = 0;
        for (int i = 0; i < 256; i++) {
            uint16_t *to = &renamed[g->class_of[i]][has_byte(g, g->n_classed_sets, (uint8_t)i)];
            if (!*to) {
                g->class_byte[n++] = (uint8_t)i;
                *to = (uint16_t)n;
            }
            g->class_of[i] = (uint8_t)(*to - 1);
        }
        g->n_class = n;
    }
}

/* Depth-first search for a text that completes r. All seen along the way is dead if there is none;
 * what lies on the way found is live. */
static bool search(struct grammar *g, re_id r)
{
    struct frame {
        re_id r;
        uint32_t class;
    };
    struct pool stack = {.size = sizeof(struct frame)}, seen = {.size = sizeof(re_id)};
    bool found = false;
    re_classes(g);
    re_id next = r;
    for (;;) {
        struct re_node *n = re_at(g, next);
        if (n->is_nullable || n->life == RE_LIVE || (!n->has_logic && next != RE_NONE)) {
            found = true;
            break;
        }
        if (next != RE_NONE && n->life == RE_UNKNOWN) {
            n->life = RE_SEEN;
            re_id *s = pool_push(g, &seen, 1);
            struct frame *f = pool_push(g, &stack, 1);
            if (!s || !f) break;
            *s = next;
            *f = (struct frame){.r = next};
        }
        struct frame *top = (struct frame *)stack.p + stack.n - 1;
        while (stack.n && top->class == g->n_class) {
            stack.n--;
            top--;
        }
        if (!stack.n || g->failed) break;
        next = re_step(g, top->r, g->class_byte[top->class ++]);
    }
    for (uint32_t i = 0; i < seen.n; i++)
        re_at(g, ((re_id *)seen.p)[i])->life = found || g->failed ? RE_UNKNOWN : RE_DEAD;
    for (uint32_t i = 0; found && i < stack.n; i++)
        re_at(g, ((struct frame *)stack.p)[i].r)->life = RE_LIVE;
    pool_free(g, &stack);
    pool_free(g, &seen);
    return found;
}

bool re_is_live(struct grammar *g, re_id r)
{
    for (;;) { /* a sequence is live if all its pieces are */
        const struct re_node *n = re_at(g, r);
        if (!n->has_logic) return r != RE_NONE;
        if (n->is_nullable || n->life == RE_LIVE) return true;
        if (n->life == RE_DEAD) return false;
        if (n->op != RE_OP_CAT) return search(g, r);
        re_id rest = n->b;
        if (re_at(g, n->a)->has_logic && !search(g, n->a)) return false;
        r = rest;
    }
}

bool re_matches(struct grammar *g, re_id r, struct str text)
{
    for (size_t i = 0; i < text.n && r != RE_NONE; i++) r = re_step(g, r, (uint8_t)text.p[i]);
    return re_at(g, r)->is_nullable;
}
