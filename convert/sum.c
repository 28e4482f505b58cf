#include "convert/sum.h"

static const uint64_t P1 = 0x9E3779B185EBCA87, P2 = 0xC2B2AE3D27D4EB4F, P3 = 0x165667B19E3779F9,
                      P4 = 0x85EBCA77C2B2AE63, P5 = 0x27D4EB2F165667C5;

static inline uint64_t turn(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static inline uint64_t mix(uint64_t lane, uint64_t input)
{
    return turn(lane + input * P2, 31) * P1;
}

void lmc_sum_begin(struct lmc_sum *s)
{
    *s = (struct lmc_sum){.lane = {P1 + P2, P2, 0, 0 - P1}};
}

/* n: whole stripes. */
static void add_stripes(struct lmc_sum *s, const uint8_t *p, size_t n)
{
    uint64_t a = s->lane[0], b = s->lane[1], c = s->lane[2], d = s->lane[3];

    for (; n > 0; n -= 32, p += 32) {
        a = mix(a, lm_load_u64le(p));
        b = mix(b, lm_load_u64le(p + 8));
        c = mix(c, lm_load_u64le(p + 16));
        d = mix(d, lm_load_u64le(p + 24));
    }
    s->lane[0] = a;
    s->lane[1] = b;
    s->lane[2] = c;
    s->lane[3] = d;
}

void lmc_sum_add(struct lmc_sum *s, const void *data, size_t n)
{
    const uint8_t *p = data;
    size_t held = s->n % 32;

    s->n += n;
    if (held > 0) {
        size_t k = 32 - held < n ? 32 - held : n;
        memcpy(s->rest + held, p, k);
        if (held + k < 32)
            return;
        add_stripes(s, s->rest, 32);
        p += k;
        n -= k;
    }
    add_stripes(s, p, n / 32 * 32);
    if (n % 32)
        memcpy(s->rest, p + n / 32 * 32, n % 32);
}

static uint64_t join_lanes(const struct lmc_sum *s)
{
    uint64_t h = turn(s->lane[0], 1) + turn(s->lane[1], 7) + turn(s->lane[2], 12) + turn(s->lane[3], 18);

    for (int i = 0; i < 4; i++)
        h = (h ^ mix(0, s->lane[i])) * P1 + P4;
    return h;
}

uint64_t lmc_sum_end(const struct lmc_sum *s)
{
    uint64_t h = (s->n >= 32 ? join_lanes(s) : P5) + s->n;
    const uint8_t *p = s->rest;
    size_t n = s->n % 32;

    for (; n >= 8; n -= 8, p += 8)
        h = turn(h ^ mix(0, lm_load_u64le(p)), 27) * P1 + P4;
    if (n >= 4) {
        h = turn(h ^ lm_load_u32le(p) * P1, 23) * P2 + P3;
        p += 4;
        n -= 4;
    }
    for (; n > 0; n--, p++)
        h = turn(h ^ *p * P5, 11) * P1;
    h = (h ^ h >> 33) * P2;
    h = (h ^ h >> 29) * P3;
    return h ^ h >> 32;
}

uint64_t lmc_sum_of(const void *data, size_t n)
{
    struct lmc_sum s;

    lmc_sum_begin(&s);
    lmc_sum_add(&s, data, n);
    return lmc_sum_end(&s);
}
