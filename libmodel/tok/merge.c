#include "libmodel/tok/merge.h"

#include <stdlib.h>

/* Words up to this many symbols are merged in plain arrays: the quadratic
 * search over them is faster than a heap. */
enum { SHORT = 48 };

bool lmi_pairs_init(struct lmi_pairs *p, size_t n)
{
    unsigned bits = 4;

    while (((size_t)1 << bits) / 2 < n)
        bits++;
    p->slots = malloc(sizeof *p->slots << bits);
    if (!p->slots)
        return false;
    memset(p->slots, 0xff, sizeof *p->slots << bits);
    p->mask = ((size_t)1 << bits) - 1;
    p->shift = 64 - bits;
    p->n = 0;
    p->multiplier = lmi_random_seed() | 1;
    return true;
}

void lmi_pairs_free(struct lmi_pairs *p)
{
    free(p->slots);
    p->slots = NULL;
}

static bool grow(struct lmi_pairs *p)
{
    struct lmi_pairs bigger;

    if (!lmi_pairs_init(&bigger, p->mask + 1))
        return false;
    for (size_t i = 0; i <= p->mask; i++) {
        const struct lmi_pair *s = &p->slots[i];
        if (s->key != UINT64_MAX)
            lmi_pairs_put(&bigger, (uint32_t)(s->key >> 32), (uint32_t)s->key, s->order, s->result);
    }
    lmi_pairs_free(p);
    *p = bigger;
    return true;
}

bool lmi_pairs_put(struct lmi_pairs *p, uint32_t left, uint32_t right, uint32_t order, uint32_t result)
{
    uint64_t key = (uint64_t)left << 32 | right;

    if (p->n > (p->mask + 1) / 2 && !grow(p))
        return false;
    size_t i = lmi_pairs_hash(p, key);
    while (p->slots[i].key != UINT64_MAX && p->slots[i].key != key)
        i = (i + 1) & p->mask;
    if (p->slots[i].key == key && p->slots[i].order <= order)
        return true;
    p->n += p->slots[i].key != key;
    p->slots[i] = (struct lmi_pair){key, order, result};
    return true;
}

/* ---- short words */

struct short_word {
    uint32_t order[SHORT], result[SHORT]; /* of the pair (i, i + 1) */
};

static void look_up(struct short_word *w, const struct lmi_pairs *p, const uint32_t *ids, size_t i)
{
    const struct lmi_pair *pair = lmi_pairs_get(p, ids[i], ids[i + 1]);

    w->order[i] = pair ? pair->order : UINT32_MAX;
    w->result[i] = pair ? pair->result : LMI_NONE;
}

static size_t merge_short(const struct lmi_pairs *p, uint32_t *ids, size_t n)
{
    struct short_word w;

    for (size_t i = 0; i + 1 < n; i++)
        look_up(&w, p, ids, i);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            best = w.order[i] < w.order[best] ? i : best;
        if (w.order[best] == UINT32_MAX)
            break;
        ids[best] = w.result[best];
        n--;
        memmove(ids + best + 1, ids + best + 2, (n - best - 1) * sizeof *ids);
        if (n - best > 1) {
            memmove(w.order + best + 1, w.order + best + 2, (n - best - 2) * sizeof *w.order);
            memmove(w.result + best + 1, w.result + best + 2, (n - best - 2) * sizeof *w.result);
            look_up(&w, p, ids, best);
        }
        if (best > 0)
            look_up(&w, p, ids, best - 1);
    }
    return n;
}

/* ---- long words: a linked list of symbols and a heap of candidate pairs */

enum { END = UINT32_MAX };

struct lmi_node {
    uint32_t prev, next;
};
struct lmi_entry {
    uint64_t key;         /* order << 32 | left index */
    uint32_t left, right; /* ids when queued: the entry is stale once they differ */
};

void lmi_merge_scratch_free(struct lmi_merge_scratch *s)
{
    free(s->nodes);
    free(s->heap);
}

static bool reserve(struct lmi_merge_scratch *s, size_t n)
{
    if (n > s->n_nodes) {
        struct lmi_node *nodes = realloc(s->nodes, n * sizeof *nodes);
        if (!nodes)
            return false;
        s->nodes = nodes;
        s->n_nodes = n;
    }
    /* Every merge removes an entry and adds two at most. */
    if (2 * n > s->heap_size) {
        struct lmi_entry *heap = realloc(s->heap, 2 * n * sizeof *heap);
        if (!heap)
            return false;
        s->heap = heap;
        s->heap_size = 2 * n;
    }
    return true;
}

static void heap_push(struct lmi_merge_scratch *s, struct lmi_entry x)
{
    size_t i = s->n_heap++;

    while (i > 0 && s->heap[(i - 1) / 2].key > x.key) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = x;
}

static struct lmi_entry heap_pop(struct lmi_merge_scratch *s)
{
    struct lmi_entry top = s->heap[0], x = s->heap[--s->n_heap];
    size_t i = 0;

    for (size_t child; (child = 2 * i + 1) < s->n_heap; i = child) {
        if (child + 1 < s->n_heap && s->heap[child + 1].key < s->heap[child].key)
            child++;
        if (s->heap[child].key >= x.key)
            break;
        s->heap[i] = s->heap[child];
    }
    s->heap[i] = x;
    return top;
}

static void queue_pair(struct lmi_merge_scratch *s, const struct lmi_pairs *p, const uint32_t *ids, uint32_t left,
                       uint32_t right)
{
    if (left == END || right == END)
        return;
    const struct lmi_pair *pair = lmi_pairs_get(p, ids[left], ids[right]);
    if (!pair)
        return;
    heap_push(s, (struct lmi_entry){(uint64_t)pair->order << 32 | left, ids[left], ids[right]});
    if (s->unused && s->unused[pair->result]) {
        s->halves[pair->result][0] = ids[left];
        s->halves[pair->result][1] = ids[right];
    }
}

static void merge_at(struct lmi_merge_scratch *s, const struct lmi_pairs *p, uint32_t *ids, uint32_t left)
{
    struct lmi_node *nodes = s->nodes;
    uint32_t right = nodes[left].next;

    ids[left] = lmi_pairs_get(p, ids[left], ids[right])->result;
    nodes[left].next = nodes[right].next;
    if (nodes[right].next != END)
        nodes[nodes[right].next].prev = left;
    nodes[right].prev = right; /* gone: no other symbol is its own predecessor */
    queue_pair(s, p, ids, nodes[left].prev, left);
    queue_pair(s, p, ids, left, nodes[left].next);
}

static size_t merge_long(struct lmi_merge_scratch *s, const struct lmi_pairs *p, uint32_t *ids, size_t n)
{
    if (!reserve(s, n))
        return SIZE_MAX;
    s->n_heap = 0;
    for (uint32_t i = 0; i < n; i++)
        s->nodes[i] = (struct lmi_node){i == 0 ? END : i - 1, i + 1 == n ? END : i + 1};
    for (uint32_t i = 1; i < n; i++)
        queue_pair(s, p, ids, i - 1, i);
    while (s->n_heap > 0) {
        struct lmi_entry top = heap_pop(s);
        uint32_t left = (uint32_t)top.key, right = s->nodes[left].next;
        if (s->nodes[left].prev != left && right != END && ids[left] == top.left && ids[right] == top.right)
            merge_at(s, p, ids, left);
    }
    size_t kept = 0;
    for (uint32_t i = 0; i != END; i = s->nodes[i].next)
        ids[kept++] = ids[i];
    return kept;
}

size_t lmi_merge(struct lmi_merge_scratch *s, const struct lmi_pairs *p, uint32_t *ids, size_t n)
{
    if (n < 2)
        return n;
    return n <= SHORT && !s->unused ? merge_short(p, ids, n) : merge_long(s, p, ids, n);
}
