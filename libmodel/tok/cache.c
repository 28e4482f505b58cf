#include "libmodel/tok/cache.h"

#include <pthread.h>
#include <stdlib.h>

/* 64 slots for a line, 4 MB for a book; idle ones beyond the number of a
 * machine's busy threads are not kept. */
enum { FEWEST = 64, MOST = 1 << 17, MOST_IDLE = 64, CACHE_LINE = 64 };
_Static_assert(2 * sizeof(struct lmi_slot) == CACHE_LINE, "two slots are a cache line");

struct lmi_caches {
    pthread_mutex_t lock;
    struct lmi_cache *idle;
    size_t n_idle;
};

struct lmi_caches *lmi_caches_new(void)
{
    struct lmi_caches *c = calloc(1, sizeof *c);

    if (c && pthread_mutex_init(&c->lock, NULL) != 0) {
        free(c);
        return NULL;
    }
    return c;
}

static void free_cache(struct lmi_cache *x)
{
    if (!x)
        return;
    free(x->block);
    free(x->ids);
    free(x);
}

void lmi_caches_free(struct lmi_caches *c)
{
    if (!c)
        return;
    for (struct lmi_cache *x = c->idle, *next; x; x = next) {
        next = x->next;
        free_cache(x);
    }
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* The largest, so that work that comes one by one stays with one. */
static struct lmi_cache *take_idle(struct lmi_caches *c, unsigned flags)
{
    struct lmi_cache **best = NULL;

    pthread_mutex_lock(&c->lock);
    for (struct lmi_cache **x = &c->idle; *x; x = &(*x)->next)
        if ((*x)->flags == flags && (!best || (*x)->mask > (*best)->mask))
            best = x;
    struct lmi_cache *taken = best ? *best : NULL;
    if (taken) {
        *best = taken->next;
        c->n_idle--;
    }
    pthread_mutex_unlock(&c->lock);
    return taken;
}

static struct lmi_cache *new_cache(unsigned flags)
{
    struct lmi_cache *x = calloc(1, sizeof *x);

    if (!x)
        return NULL;
    x->flags = flags;
    x->ids = malloc(LMI_RING * sizeof *x->ids);
    if (x->ids)
        return x;
    free_cache(x);
    return NULL;
}

/* What was remembered moves along. */
static bool grow(struct lmi_cache *x, size_t n_slots)
{
    struct lmi_cache old = *x;

    x->block = calloc(n_slots + 2, sizeof *x->slots); /* untouched memory costs nothing yet */
    if (!x->block) {
        x->block = old.block;
        return false;
    }
    x->slots = (struct lmi_slot *)(((uintptr_t)x->block + CACHE_LINE - 1) & ~(uintptr_t)(CACHE_LINE - 1));
    x->mask = n_slots - 1;
    for (size_t i = 0; old.slots && i <= old.mask; i++)
        if (old.slots[i].n_bytes > 0) {
            struct lmi_slot *s = lmi_cache_slot(x, old.slots[i].key);
            s[s->n_bytes > 0] = old.slots[i];
        }
    free(old.block);
    return true;
}

struct lmi_cache *lmi_cache_take(struct lmi_caches *c, size_t n_bytes, unsigned flags)
{
    struct lmi_cache *x = take_idle(c, flags);
    size_t n_slots = FEWEST;

    if (!x)
        x = new_cache(flags);
    if (!x)
        return NULL;
    x->n_bytes += n_bytes;
    while (n_slots < x->n_bytes / 8 && n_slots < MOST)
        n_slots *= 2;
    if ((x->slots && n_slots <= x->mask + 1) || grow(x, n_slots))
        return x;
    free_cache(x);
    return NULL;
}

void lmi_cache_give(struct lmi_caches *c, struct lmi_cache *x)
{
    if (!x)
        return;
    pthread_mutex_lock(&c->lock);
    bool keep = c->n_idle < MOST_IDLE;
    if (keep) {
        x->next = c->idle;
        c->idle = x;
        c->n_idle++;
    }
    pthread_mutex_unlock(&c->lock);
    if (!keep)
        free_cache(x);
}

/* Places are numbers without end; before they would come again all is forgotten. */
uint32_t lmi_cache_place(struct lmi_cache *x, size_t n)
{
    uint32_t left = LMI_RING - x->n_ids % LMI_RING, place;

    if (x->n_ids > UINT32_MAX - 2 * (uint32_t)LMI_RING) {
        memset(x->slots, 0, (x->mask + 1) * sizeof *x->slots);
        x->n_ids = 0;
        left = LMI_RING;
    }
    if (left < n)
        x->n_ids += left;
    place = x->n_ids;
    x->n_ids += (uint32_t)n;
    return place;
}
