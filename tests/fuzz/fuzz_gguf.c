/* A GGUF file: the header from memory of exactly its size, where a sanitizer
 * sees every step too far, then the whole as a model, written and read back. */
#include "tests/fuzz/fuzz.h"

#include "libmodel/fmt/gguf.h"
#include "tests/fuzz/mutate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lmi_gguf_header h = {0};
    struct lm_arena arena = {0};
    struct lm_meta *meta = lm_meta_new();

    require(meta != NULL, "memory");
    lmi_gguf_header_read(&h, lm_span_of(data, size), meta, &arena, NULL);
    require(h.n_tensors <= size / 20 && lm_meta_count(meta) <= size / 9, "no more than the bytes could hold");
    require(arena.used <= 16 + 5 * size, "memory in proportion to the bytes");
    lmi_gguf_header_free(&h);
    lm_meta_free(meta);
    lm_arena_free(&arena);

    struct lm_model *m = size >= 4 && memcmp(data, "GGUF", 4) == 0 ? open_bytes(data, size) : NULL;
    if (m) {
        touch(m);
        round_trip(m);
    }
    lm_model_close(m);
    return 0;
}

/* ---- a mutator that knows where the numbers are */

struct places { size_t at[512]; unsigned width[512]; size_t n, pair[64], n_pairs, n_kv_at; };

static void place(struct places *p, const struct lm_cursor *c, unsigned width)
{
    if (p->n < 512 && !c->failed) {
        p->at[p->n] = c->pos;
        p->width[p->n++] = width;
    }
}
static uint64_t number(struct places *p, struct lm_cursor *c, unsigned width)
{
    place(p, c, width);
    return width == 4 ? lm_cur_u32(c) : lm_cur_u64(c);
}
static void text(struct places *p, struct lm_cursor *c)
{
    lm_cur_bytes(c, number(p, c, 8));
}

static void find_value(struct places *p, struct lm_cursor *c, uint32_t type)
{
    size_t width = type < LM_META_N_TYPES ? lm_meta_width((enum lm_meta_type)type) : 0;

    if (type == LM_META_STR) {
        text(p, c);
    } else if (width) {
        place(p, c, (unsigned)width);
        lm_cur_bytes(c, width);
    } else {
        c->failed = true; /* no telling how long it is */
    }
}

static void find_places(struct places *p, const uint8_t *data, size_t size)
{
    struct lm_cursor c = lm_cursor_of(lm_span_of(data, size));

    lm_cur_u32(&c);
    number(p, &c, 4);
    uint64_t n_tensors = number(p, &c, 8), n_kv = number(p, &c, 8);
    for (uint64_t i = 0; i < n_kv && !c.failed; i++) {
        if (p->n_pairs < 64)
            p->pair[p->n_pairs++] = c.pos;
        text(p, &c);
        uint32_t type = (uint32_t)number(p, &c, 4), elem;
        if (type != LM_META_ARRAY) {
            find_value(p, &c, type);
            continue;
        }
        elem = (uint32_t)number(p, &c, 4);
        for (uint64_t k = number(p, &c, 8); k > 0 && !c.failed; k--)
            find_value(p, &c, elem);
    }
    if (p->n_pairs < 64)
        p->pair[p->n_pairs++] = c.pos;
    for (uint64_t i = 0; i < n_tensors && !c.failed; i++) {
        text(p, &c);
        for (uint64_t d = number(p, &c, 4); d > 0 && !c.failed; d--)
            number(p, &c, 8);
        number(p, &c, 4);
        number(p, &c, 8);
    }
}

/* A pair twice, or not at all, with the count that fits. */
static size_t change_pairs(struct places *p, uint8_t *data, size_t size, size_t max_size, uint64_t *r)
{
    size_t i = next(r) % (p->n_pairs - 1), at = p->pair[i], n = p->pair[i + 1] - at;
    uint64_t count = lm_load_u64le(data + 16);
    size_t before = size;

    if (next(r) & 1) {
        size = insert(data, size, max_size, at, data + at, n);
        if (size != before && n)
            data[at + 8 + next(r) % n % 8] ^= 1; /* another key */
        count += size != before;
    } else {
        size = cut(data, size, at, n);
        count -= size != before;
    }
    lm_store_u64le(data + 16, count);
    return size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    static struct places p;
    uint64_t r = seed;

    memset(&p, 0, sizeof p);
    if (size >= 24 && memcmp(data, "GGUF", 4) == 0 && data[4] && next(&r) % 4)
        find_places(&p, data, size);
    if (p.n == 0)
        return mutate_plainly(data, size, max_size);
    if (p.n_pairs > 1 && next(&r) % 4 == 0)
        return change_pairs(&p, data, size, max_size, &r);
    size_t i = next(&r) % p.n;
    if (p.at[i] + p.width[i] <= size)
        set_number(data + p.at[i], p.width[i], &r);
    return size;
}
