#include "libmodel/tok/texts.h"

#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

uint64_t lmi_random_seed(void)
{
    uint64_t seed;

    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        seed = (uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15u ^ (uint64_t)(uintptr_t)&now;
    }
    return seed;
}

bool lmi_texts_init(struct lmi_texts *t, size_t n)
{
    size_t n_slots = 16;

    while (n_slots / 2 < n)
        n_slots *= 2;
    t->slots = calloc(n_slots, sizeof *t->slots);
    t->mask = n_slots - 1;
    t->seed = lmi_random_seed();
    return t->slots != NULL;
}

void lmi_texts_free(struct lmi_texts *t)
{
    free(t->slots);
    t->slots = NULL;
}

static inline uint64_t fold(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 wide;
    wide p = (wide)a * b;

    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

static uint64_t hash_of(uint64_t seed, struct lm_span s)
{
    uint64_t h = seed ^ s.size;
    size_t i = 0;

    for (; s.size - i >= 8; i += 8)
        h = fold(h ^ lm_load_u64le(s.data + i), 0x9e3779b97f4a7c15u ^ seed);
    uint64_t last = 0;
    for (size_t j = i; j < s.size; j++)
        last |= (uint64_t)s.data[j] << (8 * (j - i));
    return fold(h ^ last, 0xd1b54a32d192ed03u ^ seed);
}

static struct lmi_text_slot *find(const struct lmi_texts *t, struct lm_span s, uint64_t hash)
{
    for (size_t i = (size_t)hash & t->mask;; i = (i + 1) & t->mask) {
        struct lmi_text_slot *slot = &t->slots[i];
        if (!slot->data || (slot->size == s.size && memcmp(slot->data, s.data, s.size) == 0))
            return slot;
    }
}

bool lmi_texts_put(struct lmi_texts *t, struct lm_span text, uint32_t id)
{
    return lmi_texts_put_hashed(t, text, id, hash_of(t->seed, text));
}

bool lmi_texts_put_hashed(struct lmi_texts *t, struct lm_span text, uint32_t id, uint64_t hash)
{
    if (text.size == 0)
        text = lm_span_of("", 0);
    struct lmi_text_slot *s = find(t, text, hash);
    if (s->data)
        return false;
    *s = (struct lmi_text_slot){text.data, (uint32_t)text.size, id};
    return true;
}

uint32_t lmi_texts_get(const struct lmi_texts *t, struct lm_span text)
{
    if (text.size == 0)
        text = lm_span_of("", 0);
    return lmi_texts_get_hashed(t, text, hash_of(t->seed, text));
}

uint64_t lmi_texts_hash(const struct lmi_texts *t, struct lm_span text)
{
    return hash_of(t->seed, text);
}

uint32_t lmi_texts_get_hashed(const struct lmi_texts *t, struct lm_span text, uint64_t hash)
{
    const struct lmi_text_slot *s = find(t, text, hash);

    return s->data ? s->id : LMI_NONE;
}
