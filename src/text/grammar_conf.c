/* grammar_conf.c - places in a grammar: continuations, and configurations as sets of threads.
 *
 * A thread is what is left of a lexeme and the continuation after it. A byte moves every thread; a
 * thread whose lexeme may end here also becomes the threads with which its continuation begins (its
 * closure, computed once a continuation). No choice is made between them: all ways to read the
 * bytes stay open, so a token may end one lexeme and begin the next anywhere.
 */
#include <stdlib.h>

#include "text/grammar_impl.h"

/* Nesting of rules in the text that is written: [[[[... ends here. */
enum { KONT_DEPTH = 1500, CONF_THREADS = 4096 };

static struct kont *kont_at(const struct grammar *g, kont_id k)
{
    return (struct kont *)g->konts.p + k;
}

static uint32_t kont_hash(const struct grammar *g, uint32_t id)
{
    return kont_at(g, id)->hash;
}

static uint32_t conf_hash(const struct grammar *g, uint32_t id)
{
    return conf_at(g, id)->hash;
}

void confs_begin(struct grammar *g)
{
    g->konts.size = sizeof(struct kont);
    g->closures.size = g->threads.size = sizeof(struct thread);
    g->seen.size = sizeof(kont_id);
    g->confs.size = sizeof(struct conf);
    g->rows.size = sizeof(conf_id);
    pool_push(g, &g->konts, 1); /* the end of the text */
    pool_push(g, &g->closures, 1);
    pool_push(g, &g->threads, 1);
    struct conf *two = pool_push(g, &g->confs, 2); /* UNKNOWN and DEAD */
    if (two) two[0].in_string = two[1].in_string = -1;
    conf_id *rows = pool_push(g, &g->rows, 2 * g->n_class);
    for (uint32_t i = 0; rows && i < 2 * g->n_class; i++) rows[i] = CONF_DEAD;
}

void confs_free(struct grammar *g)
{
    struct pool *pools[] = {&g->konts, &g->closures, &g->confs, &g->threads, &g->rows, &g->seen};
    for (size_t i = 0; i < sizeof pools / sizeof *pools; i++) pool_free(g, pools[i]);
    table_free(g, &g->kont_table);
    table_free(g, &g->conf_table);
}

kont_id kont_make(struct grammar *g, part_id part, uint32_t lo, uint32_t hi, kont_id next)
{
    if (part == P_EMPTY) return next;
    uint32_t h = hash_mix(hash_mix(hash_mix(part, lo), hi), next);
    if (g->failed || !table_reserve(g, &g->kont_table, kont_hash)) return 0;
    struct table *t = &g->kont_table;
    uint32_t at = h & (t->cap - 1);
    for (; t->slots[at]; at = (at + 1) & (t->cap - 1)) {
        const struct kont *k = kont_at(g, t->slots[at]);
        if (k->hash == h && k->part == part && k->lo == lo && k->hi == hi && k->next == next)
            return t->slots[at];
    }
    struct kont *made = pool_push(g, &g->konts, 1);
    if (!made) return 0;
    *made = (struct kont){.part = part, .lo = lo, .hi = hi, .next = next, .hash = h};
    made->depth = kont_at(g, next)->depth + 1;
    t->slots[at] = g->konts.n - 1;
    t->n++;
    return g->konts.n - 1;
}

/* A part before a continuation. */
static kont_id before(struct grammar *g, part_id part, kont_id next)
{
    const struct part *p = part_at(g, part);
    return kont_make(g, part, p->op == PART_REP ? p->lo : 0, p->op == PART_REP ? p->hi : 0, next);
}

/* A continuation still to be opened while a closure is made: on g->seen. */
static void visit(struct grammar *g, kont_id k)
{
    if (kont_at(g, k)->stamp == g->stamp) return;
    kont_at(g, k)->stamp = g->stamp;
    kont_id *to = pool_push(g, &g->seen, 1);
    if (to) *to = k;
}

static void visit_part(struct grammar *g, part_id part, kont_id next)
{
    if (part_at(g, part)->is_productive) visit(g, before(g, part, next));
}

/* Open continuation k one step: threads go to `out`, further continuations to g->seen. */
static void open_kont(struct grammar *g, kont_id id, struct pool *out)
{
    struct kont k = *kont_at(g, id);
    struct part p = *part_at(g, k.part);
    const part_id *list = (const part_id *)g->part_lists.p + p.a;
    switch ((enum part_op)p.op) {
    case PART_NEVER:
        return;
    case PART_EMPTY:
        visit(g, k.next);
        return;
    case PART_LEX: {
        struct thread *t = pool_push(g, out, 1);
        if (t) *t = (struct thread){p.a, k.next};
        if (re_at(g, p.a)->is_nullable) visit(g, k.next);
        return;
    }
    case PART_SEQ: {
        kont_id next = k.next;
        for (uint32_t i = p.b; i-- > 0;) next = before(g, list[i], next);
        visit(g, next);
        return;
    }
    case PART_ALT:
        for (uint32_t i = 0; i < p.b; i++) visit_part(g, list[i], k.next);
        return;
    case PART_REP: {
        if (k.lo == 0) visit(g, k.next);
        if (k.hi == 0) return;
        uint32_t hi = k.hi == RE_INF ? RE_INF : k.hi - 1;
        kont_id again = hi ? kont_make(g, k.part, k.lo ? k.lo - 1 : 0, hi, k.next) : k.next;
        visit_part(g, p.a, again);
        return;
    }
    case PART_RULE:
        if (k.depth < KONT_DEPTH) visit_part(g, ((part_id *)g->rules.p)[p.a], k.next);
        return;
    }
}

/* Make k's closure, if it is not there yet. */
static void close_kont(struct grammar *g, kont_id k)
{
    if (kont_at(g, k)->threads || g->failed) return;
    struct pool out = {.size = sizeof(struct thread)};
    bool closes = false;
    g->stamp++;
    visit(g, k);
    for (uint32_t i = 0; i < g->seen.n && grammar_steps(g, 1); i++) {
        kont_id at = ((kont_id *)g->seen.p)[i];
        if (at == 0)
            closes = true;
        else
            open_kont(g, at, &out);
    }
    g->seen.n = 0;
    struct thread *to = pool_push(g, &g->closures, out.n ? out.n : 1);
    if (to && !g->failed) {
        if (out.n) memcpy(to, out.p, out.n * sizeof *to);
        struct kont *made = kont_at(g, k);
        made->threads = g->closures.n - (out.n ? out.n : 1);
        made->n_threads = out.n;
        made->closes = closes;
    }
    pool_free(g, &out);
}

static int by_thread(const void *x, const void *y)
{
    const struct thread *a = x, *b = y;
    if (a->re != b->re) return a->re < b->re ? -1 : 1;
    return a->k < b->k ? -1 : a->k > b->k;
}

/* Is the thread inside a JSON string whose end is only bounded from above? Then which state of the
 * string it is in, and how many more whole characters may come. */
static void find_string(struct grammar *g, struct conf *c, const struct thread *t)
{
    c->in_string = -1;
    if (!g->json_string || c->n != 1 || c->may_end) return;
    const struct re_node *n = re_at(g, t->re);
    if (n->op != RE_OP_CAT) return;
    int state = 0;
    re_id head = n->a;
    if (n->b != g->json_quote) { /* inside a character: tail, characters, quote */
        for (state = 1; state < STRING_STATES && g->string_tail[state] != head;) state++;
        if (state == STRING_STATES) return;
        n = re_at(g, n->b);
        if (n->op != RE_OP_CAT || n->b != g->json_quote) return;
        head = n->a;
    }
    const struct re_node *rep = re_at(g, head);
    if (rep->op != RE_OP_REP || rep->a != g->json_char || rep->lo != 0) return;
    c->in_string = (int8_t)state;
    c->room = rep->hi;
}

conf_id conf_intern(struct grammar *g, struct thread *t, uint32_t n, bool may_end)
{
    if (n > CONF_THREADS) g->failed = FAIL_STEPS;
    if (g->failed) return CONF_DEAD;
    if (n == 0 && !may_end) return CONF_DEAD;
    if (n > 1) qsort(t, n, sizeof *t, by_thread);
    uint32_t kept = 0, h = may_end;
    for (uint32_t i = 0; i < n; i++) {
        if (i && by_thread(&t[i], &t[i - 1]) == 0) continue;
        t[kept++] = t[i];
        h = hash_mix(hash_mix(h, t[i].re), t[i].k);
    }
    if (!table_reserve(g, &g->conf_table, conf_hash)) return CONF_DEAD;
    struct table *tab = &g->conf_table;
    uint32_t at = h & (tab->cap - 1);
    for (; tab->slots[at]; at = (at + 1) & (tab->cap - 1)) {
        const struct conf *c = conf_at(g, tab->slots[at]);
        if (c->hash == h && c->n == kept && c->may_end == may_end &&
            (!kept || memcmp(conf_threads(g, tab->slots[at]), t, kept * sizeof *t) == 0))
            return tab->slots[at];
    }
    struct thread *copy = pool_push(g, &g->threads, kept ? kept : 1);
    struct conf *made = pool_push(g, &g->confs, 1);
    if (!copy || !made || !pool_push(g, &g->rows, g->n_class)) return CONF_DEAD;
    if (kept) memcpy(copy, t, kept * sizeof *copy);
    *made = (struct conf){
        .threads = g->threads.n - (kept ? kept : 1), .n = kept, .hash = h, .may_end = may_end};
    find_string(g, made, copy);
    tab->slots[at] = g->confs.n - 1;
    tab->n++;
    return g->confs.n - 1;
}

static bool append_closure(struct grammar *g, struct pool *out, kont_id k)
{
    close_kont(g, k);
    if (g->failed) return false;
    struct kont *made = kont_at(g, k);
    struct thread *to = made->n_threads ? pool_push(g, out, made->n_threads) : NULL;
    if (to)
        memcpy(to, (struct thread *)g->closures.p + made->threads, made->n_threads * sizeof *to);
    return made->closes;
}

conf_id conf_of_kont(struct grammar *g, kont_id k)
{
    struct pool out = {.size = sizeof(struct thread)};
    bool may_end = append_closure(g, &out, k);
    conf_id c = conf_intern(g, out.p, out.n, may_end);
    pool_free(g, &out);
    return c;
}

conf_id conf_step_new(struct grammar *g, conf_id c, uint8_t class)
{
    struct pool out = {.size = sizeof(struct thread)};
    bool may_end = false;
    for (uint32_t i = 0; i < conf_at(g, c)->n && grammar_steps(g, 1); i++) {
        struct thread t = conf_threads(g, c)[i];
        re_id left = re_step(g, t.re, g->class_byte[class]);
        if (left == RE_NONE || !re_is_live(g, left)) continue;
        if (left != RE_EMPTY) {
            struct thread *to = pool_push(g, &out, 1);
            if (to) *to = (struct thread){left, t.k};
        }
        if (re_at(g, left)->is_nullable) may_end |= append_closure(g, &out, t.k);
    }
    conf_id next = conf_intern(g, out.p, out.n, may_end);
    pool_free(g, &out);
    if (!g->failed) ((conf_id *)g->rows.p)[(size_t)c * g->n_class + class] = next;
    return next;
}

/* Do the bytes lo..hi, and then those of UTF-8 that must follow, always lead from c to `home`? */
static bool leads_home(struct grammar *g, conf_id c, conf_id home, unsigned lo, unsigned hi,
                       int more)
{
    conf_id same = CONF_UNKNOWN;
    uint8_t done[256] = {0};
    for (unsigned b = lo; b <= hi; b++) {
        if (done[g->class_of[b]]++) continue;
        conf_id next = conf_step(g, c, (uint8_t)b);
        if (next == CONF_DEAD || (more == 0 && next != home)) return false;
        if (same != CONF_UNKNOWN && next != same && more) return false;
        same = next;
    }
    return more == 0 || leads_home(g, same, home, 0x80, 0xBF, more - 1);
}

/* As leads_home, where the byte after the first is limited. */
static bool limited(struct grammar *g, conf_id c, unsigned first, unsigned lo, unsigned hi,
                    int more)
{
    conf_id next = conf_step(g, c, (uint8_t)first);
    return next != CONF_DEAD && leads_home(g, next, c, lo, hi, more);
}

uint64_t conf_loops(struct grammar *g, conf_id c)
{
    uint64_t loops = ~(1ull << GROUP_BAD);
    if (conf_at(g, c)->has_loops) return conf_at(g, c)->loops;
    for (unsigned b = 0; b < 0x80; b++)
        if (conf_step(g, c, (uint8_t)b) != c) loops &= ~(1ull << byte_group((uint8_t)b));
    if (!leads_home(g, c, c, 0xC2, 0xDF, 1)) loops &= ~(1ull << GROUP_2);
    if (!limited(g, c, 0xE0, 0xA0, 0xBF, 1) || !leads_home(g, c, c, 0xE1, 0xEC, 2) ||
        !limited(g, c, 0xED, 0x80, 0x9F, 1) || !leads_home(g, c, c, 0xEE, 0xEF, 2))
        loops &= ~(1ull << GROUP_3);
    if (!limited(g, c, 0xF0, 0x90, 0xBF, 2) || !leads_home(g, c, c, 0xF1, 0xF3, 3) ||
        !limited(g, c, 0xF4, 0x80, 0x8F, 2))
        loops &= ~(1ull << GROUP_4);
    struct conf *made = conf_at(g, c);
    made->loops = loops;
    made->has_loops = true;
    return loops;
}
