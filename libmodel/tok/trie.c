#include "libmodel/tok/trie.h"

#include <stdlib.h>

enum { BLOCK = 256, LAST_BLOCKS = 16, MAX_BASE = 1 << 30 };

/* Keys [low, high) share their first `depth` bytes and stand at `unit`. */
struct range {
    uint32_t low, high, unit, depth;
};

struct builder {
    struct lmi_trie *t;
    const struct lmi_trie_key *keys;
    struct range *queue; /* in order of depth: what every text begins with lies together */
    size_t head, tail, queue_size;
    uint8_t *used_base;
    /* The free units of the last blocks, in order: a ring through unit 0. */
    uint32_t *next, *before;
    size_t capacity;
    struct lm_err *e;
};

static int nomem(struct lm_err *e)
{
    return lm_err_set(e, LM_NOMEM, "out of memory for a tokenizer");
}

static int compare_keys(const void *a, const void *b)
{
    const struct lmi_trie_key *x = a, *y = b;
    size_t n = x->text.size < y->text.size ? x->text.size : y->text.size;
    int c = memcmp(x->text.data, y->text.data, n);

    if (c == 0)
        c = (x->text.size > y->text.size) - (x->text.size < y->text.size);
    return c != 0 ? c : (x->id > y->id) - (x->id < y->id);
}

static int sort_keys(struct lmi_trie_key *keys, size_t *n, struct lm_err *e)
{
    size_t kept = 0;

    for (size_t i = 0; i < *n; i++) {
        if (keys[i].text.size > LMI_LONGEST_PIECE)
            return lm_err_set(e, LM_LIMIT, "piece %u has %zu bytes, at most %d are handled", keys[i].id,
                              keys[i].text.size, LMI_LONGEST_PIECE);
        if (keys[i].id >= 0x1fffffe)
            return lm_err_set(e, LM_LIMIT, "piece %u, at most %d are handled", keys[i].id, 0x1fffffe);
    }
    if (*n > 0)
        qsort(keys, *n, sizeof *keys, compare_keys);
    for (size_t i = 0; i < *n; i++)
        if (kept == 0 || !lm_span_eq(keys[kept - 1].text, keys[i].text))
            keys[kept++] = keys[i];
    *n = kept;
    return 0;
}

/* ---- places */

static bool more_units(struct builder *b, size_t n)
{
    size_t capacity = b->capacity ? b->capacity : 64 * BLOCK;

    while (capacity < n)
        capacity *= 2;
    if (capacity > MAX_BASE)
        return false;
    uint64_t *units = realloc(b->t->units, capacity * sizeof *units);
    if (units)
        b->t->units = units;
    uint8_t *used = units ? realloc(b->used_base, capacity) : NULL;
    if (used)
        b->used_base = used;
    uint32_t *next = used ? realloc(b->next, capacity * sizeof *next) : NULL;
    if (next)
        b->next = next;
    uint32_t *before = next ? realloc(b->before, capacity * sizeof *before) : NULL;
    if (!before)
        return false;
    b->before = before;
    memset(b->t->units + b->capacity, 0, (capacity - b->capacity) * sizeof *units);
    memset(used + b->capacity, 0, capacity - b->capacity);
    b->capacity = capacity;
    return true;
}

static void unlink_unit(struct builder *b, size_t u)
{
    b->next[b->before[u]] = b->next[u];
    b->before[b->next[u]] = b->before[u];
    b->next[u] = (uint32_t)u; /* so that it may be taken out again */
    b->before[u] = (uint32_t)u;
}

/* A block more; the oldest of the last ones is given up. */
static bool add_block(struct builder *b)
{
    size_t base = b->t->n_units;

    if (base + BLOCK > b->capacity && !more_units(b, base + BLOCK))
        return false;
    b->t->n_units += BLOCK;
    for (size_t u = base; u < base + BLOCK; u++) {
        b->before[u] = b->before[0];
        b->next[u] = 0;
        b->next[b->before[0]] = (uint32_t)u;
        b->before[0] = (uint32_t)u;
    }
    size_t old = base > LAST_BLOCKS * BLOCK ? base - LAST_BLOCKS * BLOCK : 0;
    for (size_t u = old; old > 0 && u < old + BLOCK; u++)
        unlink_unit(b, u);
    return true;
}

static bool fits(const struct builder *b, size_t base, const uint8_t *labels, size_t n)
{
    if (b->used_base[base])
        return false;
    for (size_t i = 0; i < n; i++)
        if (b->t->units[base ^ labels[i]])
            return false;
    return true;
}

/* A base whose children are free: in the last blocks, or a block of its own. */
static size_t find_base(struct builder *b, const uint8_t *labels, size_t n)
{
    for (size_t u = b->next[0]; u != 0; u = b->next[u])
        if (fits(b, u ^ labels[0], labels, n))
            return u ^ labels[0];
    size_t base = b->t->n_units;
    return add_block(b) ? base : SIZE_MAX;
}

/* ---- nodes */

static bool enqueue(struct builder *b, struct range r)
{
    if (b->tail == b->queue_size) {
        size_t n = b->queue_size ? 2 * b->queue_size : 4096;
        struct range *p = realloc(b->queue, n * sizeof *p);
        if (!p)
            return false;
        b->queue = p;
        b->queue_size = n;
    }
    b->queue[b->tail++] = r;
    return true;
}

static size_t collect_labels(const struct builder *b, struct range r, uint8_t labels[256])
{
    size_t n = 0;

    for (uint32_t i = r.low; i < r.high; i++) {
        uint8_t byte = b->keys[i].text.data[r.depth];
        if (n == 0 || labels[n - 1] != byte)
            labels[n++] = byte;
    }
    return n;
}

static int place_children(struct builder *b, struct range r)
{
    uint8_t labels[256];

    if (b->keys[r.low].text.size == r.depth) { /* the shortest is the node's own */
        b->t->units[r.unit] |= ((uint64_t)b->keys[r.low].id + 1) << 9;
        r.low++;
    }
    size_t n = r.low < r.high ? collect_labels(b, r, labels) : 0;
    if (n == 0)
        return 0;
    size_t base = find_base(b, labels, n);
    if (base == SIZE_MAX)
        return nomem(b->e);
    b->used_base[base] = 1;
    b->t->units[r.unit] |= (uint64_t)base << 34;
    for (uint32_t i = r.low, end; i < r.high; i = end) {
        uint8_t byte = b->keys[i].text.data[r.depth];
        for (end = i; end < r.high && b->keys[end].text.data[r.depth] == byte;)
            end++;
        b->t->units[base ^ byte] = 0x100u | byte;
        unlink_unit(b, base ^ byte);
        if (!enqueue(b, (struct range){i, end, (uint32_t)(base ^ byte), r.depth + 1}))
            return nomem(b->e);
    }
    return 0;
}

int lmi_trie_build(struct lmi_trie *t, struct lmi_trie_key *keys, size_t n, struct lm_err *e)
{
    struct builder b = {.t = t, .keys = keys, .e = e};
    int rc = sort_keys(keys, &n, e);

    *t = (struct lmi_trie){0};
    if (rc == 0 && !more_units(&b, BLOCK))
        rc = nomem(e);
    if (rc == 0) {
        /* The first block is the root's and nobody's children: a node without
         * children has base 0 and finds no label there. */
        t->n_units = BLOCK;
        b.next[0] = b.before[0] = 0;
        for (uint32_t i = 1; i < BLOCK; i++)
            b.next[i] = b.before[i] = i;
        if (n > 0 && !enqueue(&b, (struct range){0, (uint32_t)n, 0, 0}))
            rc = nomem(e);
    }
    while (rc == 0 && b.head < b.tail)
        rc = place_children(&b, b.queue[b.head++]);
    free(b.queue);
    free(b.used_base);
    free(b.next);
    free(b.before);
    return rc;
}

void lmi_trie_free(struct lmi_trie *t)
{
    free(t->units);
    t->units = NULL;
}

uint32_t lmi_trie_longest(const struct lmi_trie *t, uint64_t unit, struct lm_span text, size_t *n)
{
    uint32_t best = LMI_NONE;

    for (size_t i = 0; i < text.size && lmi_trie_step(t, &unit, text.data[i]); i++)
        if (lmi_trie_id(unit) != LMI_NONE) {
            best = lmi_trie_id(unit);
            *n = i + 1;
        }
    return best;
}
