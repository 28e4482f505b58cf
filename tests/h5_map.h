/* For tests: where the lengths, counts, addresses and versions of a sound HDF5
 * file lie, and the checksums that cover them, so that a defect can be made in
 * one number alone.  Files are of 8-byte offsets and lengths, as libhdf5 makes
 * them.  https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html */
#ifndef TESTS_H5_MAP_H
#define TESTS_H5_MAP_H

#include "tests/files.h"

struct h5_block {
    size_t at, n;   /* n: with the checksum */
    size_t sum;     /* where the checksum lies; 0: it has none */
    bool sum_inside; /* it counts as zero in its own sum */
    char kind[5];
};
struct h5_field {
    char name[80]; /* "dataspace: size" */
    size_t at;
    unsigned width;
    const struct h5_block *block;
};
struct h5_map {
    const struct bytes *b;
    struct h5_block blocks[160];
    size_t n_blocks;
    struct h5_field fields[2000];
    size_t n_fields;
};

/* ---- the checksum: lookup3 of Bob Jenkins (public domain), starting from 0 */

static inline uint32_t h5_turn(uint32_t x, unsigned k)
{
    return x << k | x >> (32 - k);
}

static inline uint32_t h5_sum(const uint8_t *p, size_t n)
{
    static const unsigned mix[6] = {4, 6, 8, 16, 19, 4}, last[7] = {14, 11, 25, 16, 4, 14, 24};
    uint32_t v[3];

    v[0] = v[1] = v[2] = 0xdeadbeef + (uint32_t)n;
    for (; n > 12; n -= 12, p += 12) {
        for (unsigned i = 0; i < 12; i++)
            v[i / 4] += (uint32_t)p[i] << 8 * (i % 4);
        for (unsigned i = 0; i < 6; i++) {
            uint32_t *a = &v[i % 3], *c = &v[(i + 2) % 3], *b = &v[(i + 1) % 3];
            *a = (*a - *c) ^ h5_turn(*c, mix[i]);
            *c += *b;
        }
    }
    for (unsigned i = 0; i < n; i++)
        v[i / 4] += (uint32_t)p[i] << 8 * (i % 4);
    for (unsigned i = 0; n > 0 && i < 7; i++) {
        uint32_t *c = &v[(i + 2) % 3], *b = &v[(i + 1) % 3];
        *c = (*c ^ *b) - h5_turn(*b, last[i]);
    }
    return v[2];
}

static inline uint32_t h5_block_sum(const uint8_t *file, const struct h5_block *k)
{
    uint8_t copy[70000];
    size_t n = k->sum_inside ? k->n : k->sum - k->at;

    assert_true(n <= sizeof copy);
    memcpy(copy, file + k->at, n);
    if (k->sum_inside)
        memset(copy + (k->sum - k->at), 0, 4);
    return h5_sum(copy, n);
}

/* Makes the checksum right again after a change in the block. */
static inline void h5_repair(uint8_t *file, const struct h5_block *k)
{
    if (k && k->sum)
        lm_store_u32le(file + k->sum, h5_block_sum(file, k));
}

/* ---- marking */

static inline uint64_t h5_get(const struct h5_map *m, size_t at, unsigned width)
{
    uint64_t v = 0;

    assert_true(at + width <= m->b->n);
    for (unsigned i = 0; i < width; i++)
        v |= (uint64_t)m->b->data[at + i] << 8 * i;
    return v;
}

/* Marks a field and returns its value; *at moves behind it. */
static inline uint64_t h5_field(struct h5_map *m, const struct h5_block *k, size_t *at, unsigned width, const char *where,
                                const char *name)
{
    uint64_t v = h5_get(m, *at, width);

    assert_true(m->n_fields < sizeof m->fields / sizeof m->fields[0]);
    struct h5_field *f = &m->fields[m->n_fields++];
    snprintf(f->name, sizeof f->name, "%s: %s", where, name);
    f->at = *at, f->width = width, f->block = k;
    *at += width;
    return v;
}

/* A row of fields: "name/width name/width …"; '-' as the name: not marked. */
static inline size_t h5_fields(struct h5_map *m, const struct h5_block *k, size_t at, const char *where, const char *row)
{
    char name[40];
    unsigned width;
    int used;

    for (; sscanf(row, " %39[^/]/%u%n", name, &width, &used) == 2; row += used) {
        if (strcmp(name, "-") == 0)
            at += width;
        else
            h5_field(m, k, &at, width, where, name);
    }
    return at;
}

/* A block of n bytes with its checksum in the last four (sum), or none. */
static inline struct h5_block *h5_block(struct h5_map *m, const char *kind, size_t at, size_t n, bool sum)
{
    assert_true(m->n_blocks < sizeof m->blocks / sizeof m->blocks[0] && at + n <= m->b->n);
    struct h5_block *k = &m->blocks[m->n_blocks++];
    *k = (struct h5_block){.at = at, .n = n, .sum = sum ? at + n - 4 : 0};
    snprintf(k->kind, sizeof k->kind, "%s", kind);
    if (sum && h5_block_sum(m->b->data, k) != lm_load_u32le(m->b->data + k->sum))
        fail_msg("%s at %zu: the test looks for its checksum at the wrong place", kind, at);
    return k;
}

/* How long the block at `at` is, by trying where its checksum is right. */
static inline size_t h5_find_end(const struct h5_map *m, size_t at, size_t from)
{
    for (size_t n = from; at + n + 4 <= m->b->n; n++)
        if (h5_sum(m->b->data + at, n) == lm_load_u32le(m->b->data + at + n))
            return n + 4;
    fail_msg("no checksum fits the block at %zu", at);
    return 0;
}

/* ---- messages of object headers */

static inline size_t h5_datatype(struct h5_map *m, const struct h5_block *k, size_t at)
{
    uint64_t bits = h5_get(m, at + 1, 3);
    unsigned class = (unsigned)h5_field(m, k, &at, 1, "datatype", "class and version"), version = class >> 4;

    class &= 15;
    at = h5_fields(m, k, at, "datatype", "bits/1 bits/2 size/4");
    if (class == 0)
        return h5_fields(m, k, at, "integer", "bit offset/2 precision/2");
    if (class == 1)
        return h5_fields(m, k, at, "float", "bit offset/2 precision/2 exponent at/1 exponent bits/1 mantissa at/1 mantissa bits/1 bias/4");
    if (class == 9)
        return h5_datatype(m, k, at);
    if (class == 6 && version == 1)
        for (uint64_t i = 0; i < (bits & 0xffff); i++) {
            at += (strlen((const char *)m->b->data + at) + 8) & ~(size_t)7;
            at = h5_fields(m, k, at, "member", "offset/4 rank/1 -/3 -/4 -/4 dim/4 dim/4 dim/4 dim/4");
            at = h5_datatype(m, k, at);
        }
    return at; /* names of the others: to be flipped, not counted */
}

static inline size_t h5_dataspace(struct h5_map *m, const struct h5_block *k, size_t at)
{
    unsigned version = (unsigned)h5_field(m, k, &at, 1, "dataspace", "version"),
             rank = (unsigned)h5_field(m, k, &at, 1, "dataspace", "rank"),
             flags = (unsigned)h5_field(m, k, &at, 1, "dataspace", "flags");

    if (version == 1)
        at += 5;
    else
        h5_field(m, k, &at, 1, "dataspace", "type");
    for (unsigned i = 0; i < rank * (1 + (flags & 1)); i++)
        h5_field(m, k, &at, 8, "dataspace", i < rank ? "size" : "maximum");
    return at;
}

static inline void h5_chunks_4(struct h5_map *m, const struct h5_block *k, size_t at)
{
    static const char *const indexes[6] = {"", "", "", "page bits/1", "maximum bits/1 elements/1 pointers/1 minimum/1 page bits/1",
                                           "node size/4 split/1 merge/1"};
    unsigned flags = (unsigned)h5_field(m, k, &at, 1, "layout", "flags"),
             rank = (unsigned)h5_field(m, k, &at, 1, "layout", "rank"),
             width = (unsigned)h5_field(m, k, &at, 1, "layout", "width of sizes");

    for (unsigned i = 0; i < rank; i++)
        h5_field(m, k, &at, width, "layout", "chunk size");
    unsigned index = (unsigned)h5_field(m, k, &at, 1, "layout", "chunk index type");
    assert_in_range(index, 1, 5);
    if (index == 1 && flags & 2)
        at = h5_fields(m, k, at, "layout", "filtered size/8 filter mask/4");
    at = h5_fields(m, k, at, "layout", indexes[index]);
    h5_field(m, k, &at, 8, "layout", "address");
}

static inline void h5_layout(struct h5_map *m, const struct h5_block *k, size_t at)
{
    unsigned version = (unsigned)h5_field(m, k, &at, 1, "layout", "version"),
             class = (unsigned)h5_field(m, k, &at, 1, "layout", "class");

    if (class == 0)
        h5_fields(m, k, at, "layout", "compact size/2");
    else if (class == 1)
        h5_fields(m, k, at, "layout", "address/8 size/8");
    else if (class == 3)
        h5_fields(m, k, at, "layout", "address/8 index/4");
    else if (version == 4)
        h5_chunks_4(m, k, at);
    else {
        unsigned rank = (unsigned)h5_field(m, k, &at, 1, "layout", "rank");
        h5_field(m, k, &at, 8, "layout", "address");
        for (unsigned i = 0; i < rank; i++)
            h5_field(m, k, &at, 4, "layout", "chunk size");
    }
}

static inline void h5_filters(struct h5_map *m, const struct h5_block *k, size_t at)
{
    unsigned version = (unsigned)h5_field(m, k, &at, 1, "filters", "version"),
             n = (unsigned)h5_field(m, k, &at, 1, "filters", "count");

    at += version == 1 ? 6 : 0;
    for (unsigned i = 0; i < n; i++) {
        uint64_t id = h5_field(m, k, &at, 2, "filters", "id");
        uint64_t n_name = version == 1 || id >= 256 ? h5_field(m, k, &at, 2, "filters", "name length") : 0;
        h5_field(m, k, &at, 2, "filters", "flags");
        uint64_t n_values = h5_field(m, k, &at, 2, "filters", "value count");
        at += version == 1 ? (n_name + 7) & ~(uint64_t)7 : n_name;
        for (uint64_t v = 0; v < n_values; v++)
            h5_field(m, k, &at, 4, "filters", "value");
        at += version == 1 && n_values % 2 ? 4 : 0;
    }
}

static inline void h5_attribute(struct h5_map *m, const struct h5_block *k, size_t at)
{
    unsigned version = (unsigned)h5_field(m, k, &at, 1, "attribute", "version"), pad = version == 1 ? 7 : 0;

    h5_field(m, k, &at, 1, "attribute", "flags");
    uint64_t n_name = h5_field(m, k, &at, 2, "attribute", "name length"),
             n_type = h5_field(m, k, &at, 2, "attribute", "datatype length");
    h5_field(m, k, &at, 2, "attribute", "dataspace length");
    at += version == 3 ? 1 : 0;
    at += (n_name + pad) & ~(uint64_t)pad;
    h5_datatype(m, k, at);
    h5_dataspace(m, k, at + ((n_type + pad) & ~(uint64_t)pad));
}

static inline void h5_link(struct h5_map *m, const struct h5_block *k, size_t at)
{
    h5_field(m, k, &at, 1, "link", "version");
    unsigned flags = (unsigned)h5_field(m, k, &at, 1, "link", "flags"), type = 0;

    if (flags & 8)
        type = (unsigned)h5_field(m, k, &at, 1, "link", "type");
    at += flags & 4 ? 8 : 0;
    at += flags & 16 ? 1 : 0;
    at += h5_field(m, k, &at, 1u << (flags & 3), "link", "name length");
    h5_field(m, k, &at, type ? 2 : 8, "link", type ? "value length" : "address");
}

static inline void h5_external(struct h5_map *m, const struct h5_block *k, size_t at)
{
    h5_fields(m, k, at, "external files", "version/1 -/3 allocated/2 used/2 heap/8 name offset/8 offset/8 size/8");
}

static inline void h5_message(struct h5_map *m, const struct h5_block *k, unsigned type, size_t at)
{
    unsigned flags = (unsigned)h5_get(m, at + 1, 1);

    switch (type) {
    case 0x01: h5_dataspace(m, k, at); break;
    case 0x02:
        at = h5_fields(m, k, at, "link info", "version/1 flags/1");
        at = h5_fields(m, k, at, "link info", flags & 1 ? "maximum/8 heap/8 names/8" : "heap/8 names/8");
        if (flags & 2)
            h5_fields(m, k, at, "link info", "order/8");
        break;
    case 0x03: h5_datatype(m, k, at); break;
    case 0x05:
        if (h5_get(m, at, 1) < 3)
            h5_fields(m, k, at, "fill value", "version/1 allocation/1 writing/1 defined/1 size/4");
        else
            h5_fields(m, k, at, "fill value", flags & 0x20 ? "version/1 flags/1 size/4" : "version/1 flags/1");
        break;
    case 0x06: h5_link(m, k, at); break;
    case 0x07: h5_external(m, k, at); break;
    case 0x08: h5_layout(m, k, at); break;
    case 0x0a: h5_fields(m, k, at, "group info", "version/1 flags/1"); break;
    case 0x0b: h5_filters(m, k, at); break;
    case 0x0c: h5_attribute(m, k, at); break;
    case 0x10: h5_fields(m, k, at, "continuation", "address/8 length/8"); break;
    case 0x11: h5_fields(m, k, at, "symbol table", "tree/8 heap/8"); break;
    case 0x15:
        at = h5_fields(m, k, at, "attribute info", "version/1 flags/1");
        h5_fields(m, k, at, "attribute info", flags & 1 ? "maximum/2 heap/8 names/8" : "heap/8 names/8");
        break;
    default: break;
    }
}

/* ---- object headers */

static inline void h5_header(struct h5_map *m, size_t at);

/* Messages of one piece of a header; version 2 ones with `order` bytes more. */
static inline void h5_messages(struct h5_map *m, const struct h5_block *k, size_t at, size_t end, unsigned version, unsigned order)
{
    size_t head = version == 1 ? 8 : 4 + order;

    while (at + head <= end) {
        unsigned type = (unsigned)h5_field(m, k, &at, version == 1 ? 2 : 1, "message", "type");
        size_t n = (size_t)h5_field(m, k, &at, 2, "message", "size");
        unsigned flags = (unsigned)h5_field(m, k, &at, 1, "message", "flags");
        at += head - (version == 1 ? 5 : 4);
        assert_true(at + n <= end);
        if (!(flags & 2))
            h5_message(m, k, type, at);
        if (type == 0x10) {
            size_t more = (size_t)h5_get(m, at, 8), n_more = (size_t)h5_get(m, at + 8, 8);
            struct h5_block *c = h5_block(m, version == 1 ? "more" : "OCHK", more, n_more, version == 2);
            h5_messages(m, c, more + (version == 1 ? 0 : 4), more + n_more - (version == 1 ? 0 : 4), version, order);
        }
        at += n;
    }
}

static inline void h5_header(struct h5_map *m, size_t at)
{
    bool new = memcmp(m->b->data + at, "OHDR", 4) == 0;
    size_t first = at;

    for (size_t i = 0; i < m->n_blocks; i++)
        if (m->blocks[i].at == at)
            return; /* a second link to it */
    if (!new) {
        struct h5_block *k = h5_block(m, "head", at, 16 + (size_t)h5_get(m, at + 8, 4), false);
        h5_fields(m, k, at, "object header", "version/1 -/1 messages/2 references/4 size/4");
        h5_messages(m, k, at + 16, at + k->n, 1, 0);
        return;
    }
    unsigned flags = (unsigned)h5_get(m, at + 5, 1), width = 1u << (flags & 3);
    size_t body = 6 + (flags & 0x20 ? 16 : 0) + (flags & 0x10 ? 4 : 0);
    size_t n = (size_t)h5_get(m, at + body, width);
    struct h5_block *k = h5_block(m, "OHDR", at, body + width + n + 4, true);
    at += 4;
    h5_field(m, k, &at, 1, "object header", "version");
    h5_field(m, k, &at, 1, "object header", "flags");
    at = first + body;
    h5_field(m, k, &at, width, "object header", "size");
    h5_messages(m, k, at, at + n, 2, flags & 4 ? 2 : 0);
}

/* ---- blocks that begin with their name */

static inline void h5_tree(struct h5_map *m, size_t at)
{
    unsigned type = (unsigned)h5_get(m, at + 4, 1), used = (unsigned)h5_get(m, at + 6, 2);
    struct h5_block *k = h5_block(m, "TREE", at, type == 0 ? 24 + 33 * 8 + 32 * 8 : 24 + used * 40, false);

    at = h5_fields(m, k, at + 4, "group tree", "type/1 level/1 entries/2 left/8 right/8");
    for (unsigned i = 0; i < used; i++)
        at = type == 0 ? h5_fields(m, k, at, "group tree", "key/8 child/8")
                       : h5_fields(m, k, at, "chunk tree", "stored size/4 filter mask/4 offset/8 offset/8 -/8 child/8");
}

static inline void h5_symbols(struct h5_map *m, size_t at)
{
    unsigned n = (unsigned)h5_get(m, at + 6, 2);
    struct h5_block *k = h5_block(m, "SNOD", at, 8 + 40 * n, false);

    at = h5_fields(m, k, at + 4, "symbol node", "version/1 -/1 entries/2");
    for (unsigned i = 0; i < n; i++) {
        size_t header = (size_t)h5_get(m, at + 8, 8);
        at = h5_fields(m, k, at, "symbol", "name/8 address/8 cache/4 -/4 scratch/8 scratch/8");
        if (header != UINT64_MAX)
            h5_header(m, header);
    }
}

static inline void h5_heap(struct h5_map *m, size_t at)
{
    h5_fields(m, h5_block(m, "HEAP", at, 32, false), at + 4, "name heap", "version/1 -/3 size/8 free/8 address/8");
    size_t free_at = (size_t)h5_get(m, at + 16, 8), data = (size_t)h5_get(m, at + 24, 8), n = (size_t)h5_get(m, at + 8, 8);
    struct h5_block *k = h5_block(m, "name", data, n, false);
    if (free_at + 16 <= n)
        h5_fields(m, k, data + free_at, "name heap", "next free/8 free size/8");
}

static inline void h5_collection(struct h5_map *m, size_t at)
{
    size_t n = (size_t)h5_get(m, at + 8, 8), end = at + n;
    struct h5_block *k = h5_block(m, "GCOL", at, n, false);

    at = h5_fields(m, k, at + 4, "value heap", "version/1 -/3 size/8");
    while (at + 16 <= end) {
        uint64_t index = h5_get(m, at, 2), size = h5_get(m, at + 8, 8);
        at = h5_fields(m, k, at, "value heap", "index/2 references/2 -/4 object size/8");
        at = index ? at + ((size + 7) & ~(uint64_t)7) : end;
    }
}

static inline void h5_direct(struct h5_map *m, size_t at)
{
    size_t sum = 13 + ((size_t)h5_get(m, (size_t)h5_get(m, at + 5, 8) + 128, 2) + 7) / 8; /* its header says how wide an offset is */

    for (size_t n = 512; at + n <= m->b->n; n *= 2) {
        struct h5_block k = {at, n, at + sum, true, "FHDB"};
        if (h5_block_sum(m->b->data, &k) != lm_load_u32le(m->b->data + k.sum))
            continue;
        struct h5_block *kept = h5_block(m, "FHDB", at, n, false);
        *kept = k;
        h5_fields(m, kept, at + 4, "heap block", "version/1 header/8 offset/4");
        return;
    }
    fail_msg("no checksum fits the heap block at %zu", at);
}

/* Blocks whose checksum ends them; fields after the name. */
static const struct { const char *kind, *where, *row; size_t n_min; } h5_ends[] = {
    {"FRHP", "heap", "version/1 id length/2 filter length/2 flags/1 largest/4 next huge/8 huge tree/8 free/8 free manager/8 managed/8 "
     "allocated/8 iterator/8 objects/8 huge size/8 huge count/8 tiny size/8 tiny count/8 width/2 first block/8 largest block/8 "
     "bits/2 rows/2 root/8 current rows/2", 142},
    {"BTHD", "tree 2", "version/1 type/1 node size/4 record size/2 depth/2 split/1 merge/1 root/8 root records/2 records/8", 34},
    {"BTLF", "tree 2 leaf", "version/1 type/1", 6},
    {"FAHD", "fixed array", "version/1 client/1 entry size/1 page bits/1 entries/8 address/8", 24},
    {"FADB", "fixed array block", "version/1 client/1 header/8", 14},
    {"EAHD", "growing array", "version/1 client/1 entry size/1 bits/1 elements/1 pointers/1 minimum/1 page bits/1 super blocks/8 "
     "super size/8 blocks/8 block size/8 highest/8 realized/8 address/8", 68},
    {"EAIB", "growing array index", "version/1 client/1 header/8", 14},
    {"EADB", "growing array block", "version/1 client/1 header/8", 14},
    {"EASB", "growing array super block", "version/1 client/1 header/8", 14},
};

static inline void h5_named(struct h5_map *m, size_t at)
{
    const uint8_t *p = m->b->data + at;

    for (size_t i = 0; i < sizeof h5_ends / sizeof h5_ends[0]; i++)
        if (memcmp(p, h5_ends[i].kind, 4) == 0) {
            struct h5_block *k = h5_block(m, h5_ends[i].kind, at, h5_find_end(m, at, h5_ends[i].n_min), true);
            h5_fields(m, k, at + 4, h5_ends[i].where, h5_ends[i].row);
        }
    if (memcmp(p, "OHDR", 4) == 0)
        h5_header(m, at);
    else if (memcmp(p, "TREE", 4) == 0)
        h5_tree(m, at);
    else if (memcmp(p, "SNOD", 4) == 0)
        h5_symbols(m, at);
    else if (memcmp(p, "HEAP", 4) == 0)
        h5_heap(m, at);
    else if (memcmp(p, "GCOL", 4) == 0)
        h5_collection(m, at);
    else if (memcmp(p, "FHDB", 4) == 0)
        h5_direct(m, at);
}

/* Everything of a file without a user block. */
static inline void h5_map_file(struct h5_map *m, const struct bytes *b)
{
    memset(m, 0, sizeof *m);
    m->b = b;
    unsigned version = (unsigned)h5_get(m, 8, 1);
    struct h5_block *k = h5_block(m, "HDF", 0, version < 2 ? 96 + 4 * (size_t)version : 48, version >= 2);
    if (version >= 2)
        h5_fields(m, k, 8, "superblock", "version/1 offset width/1 length width/1 flags/1 base/8 extension/8 end/8 root/8");
    else {
        size_t at = h5_fields(m, k, 8, "superblock", "version/1 free version/1 root version/1 -/1 shared version/1 offset width/1 "
                              "length width/1 -/1 leaf rank/2 tree rank/2 flags/4");
        at = h5_fields(m, k, at + 4 * version, "superblock", "base/8 free/8 end/8 driver/8 root name/8 root/8 cache/4 -/4 scratch/8 scratch/8");
        h5_header(m, (size_t)h5_get(m, at - 32, 8));
    }
    for (size_t at = 0; at + 16 <= b->n; at += 1)
        h5_named(m, at);
}
#endif
