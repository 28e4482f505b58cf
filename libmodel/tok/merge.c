#include "libmodel/tok/merge.h"

#include <stdlib.h>

/* Words up to this many symbols are merged in plain arrays: searching them is
 * faster than keeping a heap. */
enum { SHORT = 64 };

static bool make_slots(struct lmi_pairs *p, unsigned bits)
{
    p->slots = malloc(sizeof *p->slots << bits);
    p->seen = calloc((size_t)1 << bits, 1);
    if (!p->slots || !p->seen)
        return false;
    memset(p->slots, 0xff, sizeof *p->slots << bits);
    p->mask = ((size_t)1 << bits) - 1;
    p->shift = 64 - bits;
    return true;
}

bool lmi_pairs_init(struct lmi_pairs *p, size_t n)
{
    unsigned bits = 4;

    while (((size_t)1 << bits) / 2 < n)
        bits++;
    *p = (struct lmi_pairs){.multiplier = lmi_random_seed() | 1, .capacity = n + 1};
    p->pairs = malloc(p->capacity * sizeof *p->pairs);
    return p->pairs && make_slots(p, bits);
}

void lmi_pairs_free(struct lmi_pairs *p)
{
    free(p->slots);
    free(p->seen);
    free(p->pairs);
    p->seen = NULL;
    p->slots = NULL;
    p->pairs = NULL;
}

static void note_seen(struct lmi_pairs *p, uint64_t key)
{
    size_t bit = lmi_pairs_bit(p, key);

    p->seen[bit / 64] |= (uint64_t)1 << bit % 64;
}

static size_t free_slot(const struct lmi_pairs *p, uint64_t key)
{
    size_t i = lmi_pairs_hash(p, key);

    while (p->slots[i] != UINT64_MAX)
        i = (i + 1) & p->mask;
    return i;
}

static bool grow_slots(struct lmi_pairs *p)
{
    struct lmi_pairs bigger = *p;

    bigger.slots = bigger.seen = NULL;
    if (!make_slots(&bigger, 64 - p->shift + 1)) {
        free(bigger.slots);
        free(bigger.seen);
        return false;
    }
    for (size_t i = 0; i <= p->mask; i++)
        if (p->slots[i] != UINT64_MAX) {
            bigger.slots[free_slot(&bigger, p->slots[i] >> LMI_PAIR_BITS)] = p->slots[i];
            note_seen(&bigger, p->slots[i] >> LMI_PAIR_BITS);
        }
    free(p->slots);
    free(p->seen);
    *p = bigger;
    return true;
}

static bool grow_pairs(struct lmi_pairs *p)
{
    size_t capacity = 2 * p->capacity;
    struct lmi_pair *pairs = realloc(p->pairs, capacity * sizeof *pairs);

    if (!pairs)
        return false;
    p->pairs = pairs;
    p->capacity = capacity;
    return true;
}

bool lmi_pairs_put(struct lmi_pairs *p, uint32_t left, uint32_t right, uint32_t order, uint32_t result)
{
    uint64_t key = (uint64_t)left << LMI_ID_BITS | right;
    struct lmi_pair *old = (struct lmi_pair *)lmi_pairs_get(p, left, right);

    if (old) {
        if (order < old->order)
            *old = (struct lmi_pair){order, result};
        return true;
    }
    if ((left | right) >> LMI_ID_BITS || p->n + 1 >= 1u << LMI_PAIR_BITS || (p->n == p->capacity && !grow_pairs(p)) ||
        (p->n > (p->mask + 1) / 2 && !grow_slots(p)))
        return false;
    p->slots[free_slot(p, key)] = key << LMI_PAIR_BITS | p->n;
    note_seen(p, key);
    p->pairs[p->n++] = (struct lmi_pair){order, result};
    return true;
}

/* ---- short words
 *
 * A key is order << 6 | place, so that the smallest key is the pair to merge,
 * leftmost among equals, and the search for it is a minimum without branches
 * (a compiler makes it a vector loop). Orders are below 2^25. */

enum { NO_PAIR = INT32_MAX, PLACE_BITS = 6, LANES = 8 };

struct short_word {
    int32_t key[SHORT];      /* of the pair (i, next[i]) */
    uint32_t result[SHORT];
    uint8_t next[SHORT + 1], prev[SHORT + 1]; /* next of the last: n; prev of the first: SHORT */
};

static inline void set_pair(struct short_word *w, size_t i, const struct lmi_pair *pair)
{
    w->key[i] = pair ? (int32_t)(pair->order << PLACE_BITS | (uint32_t)i) : NO_PAIR;
    w->result[i] = pair ? pair->result : LMI_NONE;
}

static void look_up(struct short_word *w, const struct lmi_pairs *p, const uint32_t *ids, size_t i, size_t n)
{
    set_pair(w, i, w->next[i] < n ? lmi_pairs_get(p, ids[i], ids[w->next[i]]) : NULL);
}

static size_t begin_word(struct short_word *w, const struct lmi_pairs *p, const uint32_t *ids, size_t n)
{
    size_t padded = (n + LANES - 1) / LANES * LANES;

    for (size_t i = 0; i < n; i++) {
        w->next[i] = (uint8_t)(i + 1);
        w->prev[i] = (uint8_t)(i ? i - 1 : SHORT);
    }
    for (size_t i = 0; i + 1 < n; i++)
        set_pair(w, i, lmi_pairs_get(p, ids[i], ids[i + 1]));
    for (size_t i = n - 1; i < padded; i++)
        w->key[i] = NO_PAIR;
    return padded;
}

static int32_t smallest(const int32_t *key, size_t padded)
{
    int32_t m[LANES];

    memcpy(m, key, sizeof m);
    for (size_t i = LANES; i < padded; i += LANES)
        for (size_t k = 0; k < LANES; k++)
            m[k] = key[i + k] < m[k] ? key[i + k] : m[k];
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t k = 0; k < half; k++)
            m[k] = m[k + half] < m[k] ? m[k + half] : m[k];
    return m[0];
}

/* Symbol `kept` of the result is the one that began at i and reaches to next. */
static void add_sizes(uint32_t *sizes, size_t kept, size_t i, size_t next)
{
    uint32_t sum = 0;

    for (; i < next; i++)
        sum += sizes[i];
    sizes[kept] = sum;
}

static size_t merge_short(struct lmi_merge_scratch *s, const struct lmi_pairs *p, uint32_t *ids, size_t n)
{
    struct short_word w;
    size_t padded = begin_word(&w, p, ids, n), kept = 0;

    for (int32_t best; (best = smallest(w.key, padded)) != NO_PAIR;) {
        size_t i = (size_t)best % SHORT, j = w.next[i];
        ids[i] = w.result[i];
        w.next[i] = w.next[j];
        w.prev[w.next[j]] = (uint8_t)i;
        w.key[j] = NO_PAIR;
        look_up(&w, p, ids, i, n);
        if (w.prev[i] < SHORT)
            look_up(&w, p, ids, w.prev[i], n);
    }
    for (size_t i = 0; i < n; i = w.next[i]) {
        if (s->sizes)
            add_sizes(s->sizes, kept, i, w.next[i]);
        ids[kept++] = ids[i];
    }
    return kept;
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

static void queue(struct lmi_merge_scratch *s, const struct lmi_pair *pair, const uint32_t *ids, uint32_t left, uint32_t right)
{
    if (!pair)
        return;
    heap_push(s, (struct lmi_entry){(uint64_t)pair->order << 32 | left, ids[left], ids[right]});
    if (s->unused && s->unused[pair->result]) {
        s->halves[pair->result][0] = ids[left];
        s->halves[pair->result][1] = ids[right];
    }
}

static void queue_pair(struct lmi_merge_scratch *s, const struct lmi_pairs *p, const uint32_t *ids, uint32_t left,
                       uint32_t right)
{
    if (left != END && right != END)
        queue(s, lmi_pairs_get(p, ids[left], ids[right]), ids, left, right);
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
    for (uint32_t i = 0; i != END; i = s->nodes[i].next) {
        if (s->sizes)
            add_sizes(s->sizes, kept, i, s->nodes[i].next == END ? n : s->nodes[i].next);
        ids[kept++] = ids[i];
    }
    return kept;
}

size_t lmi_merge(struct lmi_merge_scratch *s, const struct lmi_pairs *p, uint32_t *ids, size_t n)
{
    if (n < 2)
        return n;
    return n <= SHORT && !s->unused ? merge_short(s, p, ids, n) : merge_long(s, p, ids, n);
}
