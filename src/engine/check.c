/* check.c - the invariants that can be seen from inside, in one place. Read-only but for its
 * scratch.
 *
 * The simulator calls core_check after every step; the engine when it falls idle. The numbers in
 * brackets are those of the list in tests/sim/README.md.
 */
#include <string.h>

#include "engine/sched.h"

#define RULE(expr, text)                                                                           \
    do {                                                                                           \
        if (!(expr)) return text;                                                                  \
    } while (0)

/* References are exactly the block tables' entries [1]; no table names a page twice. */
static const char *check_refs(struct core *c)
{
    memset(c->check_counts, 0, (size_t)c->kv.n_pages * sizeof *c->check_counts);
    for (int32_t i = 0; i < c->cfg.n_reqs; i++) {
        const struct seq *s = &c->seq[i];
        const int32_t *table = s->dev_slot >= 0 ? core_table(c, s) : NULL;
        RULE(table || s->n_pages == 0, "pages without a slot");
        for (int32_t k = 0; k < s->n_pages; k++) {
            RULE(table[k] >= 0 && table[k] < c->kv.n_pages, "[1] a page that does not exist");
            c->check_counts[table[k]]++;
        }
    }
    for (int32_t p = 0; p < c->kv.n_pages; p++)
        RULE(c->kv.page[p].n_refs == c->check_counts[p],
             "[1] references differ from the block tables");
    return NULL;
}

/* Free is unreferenced, once each [2]; the index finds exactly the sealed pages [3]. */
static const char *check_pages(const struct core *c)
{
    const struct kv *kv = &c->kv;
    int32_t n_free = 0, n_cached = 0, n_indexed = 0, n_sealed = 0;
    for (int32_t p = kv->page[kv->n_pages].next; p != kv->n_pages; p = kv->page[p].next) {
        RULE(kv->page[p].n_refs == 0, "[2] a referenced page is in the free list");
        RULE(kv->page[kv->page[p].next].prev == p, "[2] the free list is torn");
        n_cached += kv->page[p].serial != 0;
        RULE(++n_free <= kv->n_free, "[2] more free pages than counted");
    }
    RULE(n_free == kv->n_free && n_cached == kv->n_cached, "[2] free pages miscounted");
    for (int32_t p = 0; p < kv->n_pages; p++) {
        n_free -= kv->page[p].n_refs == 0;
        n_sealed += kv->page[p].serial != 0;
        if (kv->page[p].serial == 0) continue;
        int32_t at = kv->bucket[kv->page[p].hash_low & kv->bucket_mask];
        while (at >= 0 && at != p && ++n_indexed < 64 * kv->n_pages) at = kv->page[at].chain;
        RULE(at == p, "[3] a sealed page is not in the index");
        const struct kv_key key = {kv->page[p].salt, kv->page[p].parent,
                                   kv->tokens + (size_t)p * (size_t)kv->page_size};
        RULE(kv_find(kv, &key) == p, "[3] two pages are sealed for one prefix, or a key changed");
    }
    RULE(n_free == 0, "[2] an unreferenced page is not in the free list");
    RULE(n_sealed <= kv->n_pages, "[3] sealed pages miscounted");
    return NULL;
}

static const char *check_running(const struct core *c, const struct seq *s)
{
    int32_t ps = c->cfg.page_size, len = seq_len(s);
    RULE(s->dev_slot >= 0 && s->dev_slot < c->cfg.max_seqs, "[2] running without a slot");
    RULE(s->n_computed <= s->n_planned && s->n_planned <= len + s->n_pending,
         "[5] counts out of order");
    RULE(s->n_planned <= s->n_pages * ps, "[5] planned beyond its pages");
    RULE((s->n_pages - 1) * ps < len + s->n_pending, "[5] more pages than tokens");
    RULE(s->n_pending <= s->n_flight && s->n_flight <= core_n_flight(c),
         "[7] in flight miscounted");
    RULE(!s->must_yield || s->n_flight > 0, "[8] must yield, but nobody waits for it");
    RULE(s->n_sealed * ps <= s->n_computed, "[4] sealed before it was computed");
    RULE(s->n_output <= s->rq->max_tokens, "[5] more output than asked for");
    RULE(s->n_planned > s->n_computed || s->n_flight == 0 || s->n_pending == 0,
         "[7] pending without rows");
    RULE(seq_rows_left(s) > 0 || s->n_flight > 0, "[8] running with nothing to do");
    return NULL;
}

/* Each state holds what it may hold, and the counters agree [2] [5] [14]. */
static const char *check_seqs(const struct core *c)
{
    int32_t n_live = 0, n_waiting = 0, n_slots = 0, n_leaving = 0, n_yielding = 0, n_running = 0;
    int32_t n_background_heap = 0, n_background_slots = 0;
    const char *bad = NULL;
    for (int32_t i = 0; i < c->cfg.n_reqs; i++) {
        const struct seq *s = &c->seq[i];
        RULE(s->place.g == (s->state == SEQ_FREE ? NULL : s->rq->grammar),
             "[2] a place in a grammar is kept, or lost");
        if (s->state == SEQ_FREE) continue;
        n_live++;
        n_slots += s->dev_slot >= 0;
        n_background_slots += s->rq->is_background && s->dev_slot >= 0;
        n_background_heap += s->rq->is_background && s->state == SEQ_WAITING;
        n_waiting += s->state == SEQ_WAITING;
        n_running += s->state == SEQ_RUNNING;
        n_yielding += s->must_yield;
        n_leaving += s->state == SEQ_ENDED || s->must_yield;
        if (s->state == SEQ_RUNNING && (bad = check_running(c, s))) return bad;
        RULE(s->state != SEQ_ENDED || s->n_flight > 0, "[13] ended, in no step, but not released");
        if (s->state != SEQ_WAITING) continue;
        RULE(s->dev_slot < 0 && s->n_pages == 0 && s->n_computed == 0 && s->n_planned == 0 &&
                 s->n_pending == 0 && s->n_flight == 0 && s->chain == 0 && s->n_sealed == 0,
             "[5] waiting, but holds something");
        RULE(s->heap_pos < c->n_heap && c->heap[s->heap_pos] == i, "[2] lost in the queue");
        RULE(s->heap_pos == 0 || !seq_before(s, &c->seq[c->heap[(s->heap_pos - 1) / 2]]),
             "[8] the queue is out of order");
    }
    RULE(n_background_heap == c->n_background_heap && n_background_slots == c->n_background_slots,
         "[14] background requests miscounted");
    RULE(c->n_background_slots <= c->cfg.max_seqs - sched_reserve(c),
         "[20] background work holds the slots kept for others");
    RULE(n_live == c->n_live, "[14] live requests miscounted");
    RULE(n_waiting == c->n_heap, "[14] waiting requests miscounted");
    RULE(n_slots + c->n_free_slots == c->cfg.max_seqs, "[2] a device slot is lost");
    RULE(n_leaving == c->n_leaving && n_yielding == c->n_yielding,
         "[10] leaving sequences miscounted");
    int32_t n_listed = 0;
    const struct seq *before = NULL;
    for (int32_t i = 0; i < c->n_running; i++) {
        const struct seq *s = &c->seq[c->running[i]];
        if (s->state != SEQ_RUNNING) continue;
        RULE(!before || seq_before(before, s), "[8] running out of order");
        before = s;
        n_listed++;
    }
    RULE(n_listed == n_running, "[7] the running list differs");
    return NULL;
}

/* What a step in flight reads is held, what it writes is held by one and not sealed [4] [10]; each
 * sequence knows how many steps name it [7]. */
static const char *check_flight(struct core *c)
{
    memset(c->check_counts, 0, (size_t)c->cfg.n_reqs * sizeof *c->check_counts);
    for (uint64_t n = c->n_reaped; n < c->n_launched; n++) {
        const struct job *j = &c->job[n % ((uint64_t)c->cfg.depth + 1)];
        const struct batch *b = &j->b;
        RULE(b->n_tokens <= c->cfg.max_tokens && b->n_seqs <= c->cfg.max_seqs, "[7] over budget");
        RULE(b->n_wants <= c->cfg.max_wants, "[7] over the wants budget");
        for (int32_t i = 0; i < b->n_seqs; i++) {
            const struct seq *s = &c->seq[j->req[i]];
            RULE(s->state == SEQ_RUNNING || s->state == SEQ_ENDED, "[10] in flight, but let go");
            RULE(b->q_start[i] < b->q_start[i + 1], "[7] a sequence without rows");
            c->check_counts[j->req[i]]++;
            for (int32_t k = 0; k <= (b->kv_len[i] - 1) / b->page_size; k++)
                RULE(c->kv.page[b->pages[i * b->pages_stride + k]].n_refs > 0,
                     "[10] reads a free page");
            for (int32_t row = b->q_start[i]; row < b->q_start[i + 1]; row++) {
                const struct kv_page *p = &c->kv.page[b->kv_slot[row] / b->page_size];
                RULE(p->n_refs == 1 && p->serial == 0, "[4] writes a shared or sealed page");
            }
        }
    }
    for (int32_t i = 0; i < c->cfg.n_reqs; i++)
        RULE(c->seq[i].n_flight == c->check_counts[i], "[7] steps that name a sequence miscounted");
    return NULL;
}

/* Masks that can be written are, so what is missing waits for another step [22]. */
static const char *check_masks(const struct core *c)
{
    if (!c->unmasked) return NULL;
    RULE(c->unmasked == &c->job[(c->n_launched - 1) % ((uint64_t)c->cfg.depth + 1)],
         "[22] a step in the middle has no masks");
    RULE(core_n_flight(c) > 1, "[22] the oldest step in flight has no masks");
    return NULL;
}

const char *core_check(struct core *c)
{
    const char *bad = check_seqs(c);
    if (!bad) bad = check_masks(c);
    if (!bad) bad = check_refs(c);
    if (!bad) bad = check_pages(c);
    if (!bad) bad = check_flight(c);
    return bad;
}
