/* stop.c - the automaton of stop.h: a trie with failure links, children in sibling lists (at most
 * 32 long). */
#include "api/stop.h"

struct node {
    int32_t child, sibling; /* 0: none; the root is nobody's child */
    int32_t fail;           /* the longest proper suffix that is in the trie */
    int16_t match;          /* the longest stop string that ends here, or -1 */
    uint16_t depth;
    unsigned char byte;
};

struct stop_set {
    struct node *nodes;
    int32_t n;
    int32_t root[256]; /* the root's children: most text never leaves it */
};

static int32_t child_of(const struct stop_set *s, int32_t at, unsigned char byte)
{
    if (at == 0) return s->root[byte];
    int32_t c = s->nodes[at].child;
    while (c && s->nodes[c].byte != byte) c = s->nodes[c].sibling;
    return c;
}

static int32_t step(const struct stop_set *s, int32_t at, unsigned char byte)
{
    int32_t c;
    while (!(c = child_of(s, at, byte)) && at) at = s->nodes[at].fail;
    return c;
}

static void insert(struct stop_set *s, struct str word, int index)
{
    int32_t at = 0;
    for (size_t i = 0; i < word.n; i++) {
        unsigned char byte = (unsigned char)word.p[i];
        int32_t c = child_of(s, at, byte);
        if (!c) {
            c = s->n++;
            s->nodes[c] = (struct node){.sibling = s->nodes[at].child,
                                        .match = -1,
                                        .depth = (uint16_t)(i + 1),
                                        .byte = byte};
            s->nodes[at].child = c;
            if (at == 0) s->root[byte] = c;
        }
        at = c;
    }
    if (s->nodes[at].match < 0) s->nodes[at].match = (int16_t)index;
}

/* Breadth first, so that a node's failure link is ready before its children ask for it. */
static void link_failures(struct stop_set *s, int32_t *queue)
{
    int32_t n = 0;
    for (int32_t c = s->nodes[0].child; c; c = s->nodes[c].sibling) queue[n++] = c;
    for (int32_t i = 0; i < n; i++) {
        const struct node *at = &s->nodes[queue[i]];
        for (int32_t c = at->child; c; c = s->nodes[c].sibling) {
            s->nodes[c].fail = step(s, at->fail, s->nodes[c].byte);
            if (s->nodes[c].match < 0) s->nodes[c].match = s->nodes[s->nodes[c].fail].match;
            queue[n++] = c;
        }
    }
}

struct stop_set *stop_build(const struct str *stops, int n, struct arena *arena)
{
    size_t n_nodes = 1;
    for (int i = 0; i < n; i++) n_nodes += stops[i].n;
    struct stop_set *s = arena_alloc(arena, sizeof *s);
    struct node *nodes = arena_array(arena, n_nodes, sizeof *nodes);
    int32_t *queue = arena_array(arena, n_nodes, sizeof *queue);
    if (!s || !nodes || !queue) return NULL;
    *s = (struct stop_set){.nodes = nodes, .n = 1};
    nodes[0] = (struct node){.match = -1};
    for (int i = 0; i < n; i++) insert(s, stops[i], i);
    link_failures(s, queue);
    return s;
}

int stop_feed(const struct stop_set *set, struct stop_scan *scan, struct str text, size_t *used)
{
    int32_t at = scan->state;
    for (size_t i = 0; i < text.n; i++) {
        at = step(set, at, (unsigned char)text.p[i]);
        if (set->nodes[at].match < 0) continue;
        scan->state = at;
        *used = i + 1;
        return set->nodes[at].match;
    }
    scan->state = at;
    *used = text.n;
    return -1;
}

size_t stop_held(const struct stop_set *set, const struct stop_scan *scan)
{
    return set->nodes[scan->state].depth;
}
