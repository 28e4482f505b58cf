/* Open addressing with linear probing. The hash is SipHash-1-3 (Aumasson and
 * Bernstein, https://131002.net/siphash/) under a random key, so that a file
 * cannot choose names that collide. */
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "libmodel/bytes.h"

struct slot {
    struct lm_span key; /* data NULL: free */
    uint64_t hash;
    size_t value;
};

struct lm_map {
    uint64_t k0, k1;
    size_t n, mask; /* mask + 1 slots, a power of two */
    struct slot *slots;
};

static inline uint64_t rotl(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

struct sip {
    uint64_t a, b, c, d;
};

static inline void sip_round(struct sip *s)
{
    s->a += s->b;
    s->b = rotl(s->b, 13) ^ s->a;
    s->a = rotl(s->a, 32);
    s->c += s->d;
    s->d = rotl(s->d, 16) ^ s->c;
    s->a += s->d;
    s->d = rotl(s->d, 21) ^ s->a;
    s->c += s->b;
    s->b = rotl(s->b, 17) ^ s->c;
    s->c = rotl(s->c, 32);
}

static uint64_t hash_of(const struct lm_map *m, struct lm_span key)
{
    struct sip s = {m->k0 ^ 0x736f6d6570736575u, m->k1 ^ 0x646f72616e646f6du, m->k0 ^ 0x6c7967656e657261u,
                    m->k1 ^ 0x7465646279746573u};
    uint64_t last = (uint64_t)key.size << 56;
    size_t i = 0;

    for (; key.size - i >= 8; i += 8) {
        uint64_t w = lm_load_u64le(key.data + i);
        s.d ^= w;
        sip_round(&s);
        s.a ^= w;
    }
    for (size_t j = i; j < key.size; j++)
        last |= (uint64_t)key.data[j] << (8 * (j - i));
    s.d ^= last;
    sip_round(&s);
    s.a ^= last;
    s.c ^= 0xff;
    sip_round(&s);
    sip_round(&s);
    sip_round(&s);
    return s.a ^ s.b ^ s.c ^ s.d;
}

static void random_key(struct lm_map *m)
{
    uint64_t k[2];

    if (getrandom(k, sizeof k, GRND_NONBLOCK) != (ssize_t)sizeof k) {
        /* Early boot: weaker, still not known to whoever made the file. */
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        k[0] = (uint64_t)now.tv_nsec ^ (uint64_t)(uintptr_t)m;
        k[1] = (uint64_t)now.tv_sec ^ (uint64_t)(uintptr_t)&now;
    }
    m->k0 = k[0];
    m->k1 = k[1];
}

struct lm_map *lm_map_new(size_t n_expected)
{
    size_t n_slots = 16;

    if (n_expected > SIZE_MAX / 256)
        return NULL;
    while (n_slots / 4 * 3 < n_expected)
        n_slots *= 2;
    struct lm_map *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->slots = calloc(n_slots, sizeof *m->slots);
    if (!m->slots) {
        free(m);
        return NULL;
    }
    m->mask = n_slots - 1;
    random_key(m);
    return m;
}

void lm_map_free(struct lm_map *m)
{
    if (m)
        free(m->slots);
    free(m);
}

/* The slot that holds the key, or the free one where it belongs. */
static struct slot *find(const struct lm_map *m, struct lm_span key, uint64_t hash)
{
    for (size_t i = (size_t)hash & m->mask;; i = (i + 1) & m->mask) {
        struct slot *s = &m->slots[i];
        if (!s->key.data || (s->hash == hash && lm_span_eq(s->key, key)))
            return s;
    }
}

static bool grow(struct lm_map *m)
{
    struct lm_map bigger = *m;
    size_t n_slots = (m->mask + 1) * 2;

    bigger.slots = calloc(n_slots, sizeof *bigger.slots);
    if (!bigger.slots)
        return false;
    bigger.mask = n_slots - 1;
    for (size_t i = 0; i <= m->mask; i++)
        if (m->slots[i].key.data)
            *find(&bigger, m->slots[i].key, m->slots[i].hash) = m->slots[i];
    free(m->slots);
    *m = bigger;
    return true;
}

int lm_map_put(struct lm_map *m, struct lm_span key, size_t value)
{
    if (!key.data)
        key = lm_span_str("");
    uint64_t hash = hash_of(m, key);
    struct slot *s = find(m, key, hash);

    if (s->key.data)
        return 0;
    if (m->n >= (m->mask + 1) / 4 * 3) {
        if (!grow(m))
            return -1;
        s = find(m, key, hash);
    }
    *s = (struct slot){key, hash, value};
    m->n++;
    return 1;
}

size_t lm_map_get(const struct lm_map *m, struct lm_span key)
{
    if (!m)
        return SIZE_MAX;
    if (!key.data)
        key = lm_span_str("");
    const struct slot *s = find(m, key, hash_of(m, key));
    return s->key.data ? s->value : SIZE_MAX;
}
