/* For tests: zip archives put together by hand, and comparing a model with the
 * values it should hold. */
#ifndef TESTS_ZIPS_H
#define TESTS_ZIPS_H

#include "tests/files.h"

#include <zlib.h>

struct member {
    const char *name;
    struct bytes data;
};

/* Stored members, one after the other. offsets (or NULL) gets where each local header begins. */
static inline void put_zip(struct bytes *b, const struct member *m, size_t n, size_t *offsets)
{
    struct bytes central = {0};

    for (size_t i = 0; i < n; i++) {
        uint32_t crc = (uint32_t)crc32(0, m[i].data.data, (unsigned)m[i].data.n), size = (uint32_t)m[i].data.n;
        uint16_t n_name = (uint16_t)strlen(m[i].name);
        size_t at = b->n;
        put_u32(b, 0x04034b50);
        put_u16(b, 20), put_u16(b, 0), put_u16(b, 0), put_u32(b, 0);
        put_u32(b, crc), put_u32(b, size), put_u32(b, size), put_u16(b, n_name), put_u16(b, 0);
        put_text(b, m[i].name);
        put(b, m[i].data.data, m[i].data.n);
        put_u32(&central, 0x02014b50);
        put_u16(&central, 20), put_u16(&central, 20), put_u16(&central, 0), put_u16(&central, 0), put_u32(&central, 0);
        put_u32(&central, crc), put_u32(&central, size), put_u32(&central, size), put_u16(&central, n_name);
        put_zeros(&central, 12);
        put_u32(&central, (uint32_t)at);
        put_text(&central, m[i].name);
        if (offsets)
            offsets[i] = at;
    }
    size_t at = b->n;
    put(b, central.data, central.n);
    put_u32(b, 0x06054b50);
    put_u32(b, 0), put_u16(b, (uint16_t)n), put_u16(b, (uint16_t)n), put_u32(b, (uint32_t)central.n);
    put_u32(b, (uint32_t)at), put_u16(b, 0);
    bytes_free(&central);
}

/* The pickle of an OrderedDict of tensors, as torch.save writes it (protocol 2);
 * tensor i is the whole of storage "i". */
struct torch_tensor { const char *name, *storage; unsigned n_dims; uint64_t shape[8], n_elems; };

static inline void pickle_text(struct bytes *b, const char *s)
{
    put_u8(b, 'X');
    put_u32(b, (uint32_t)strlen(s));
    put_text(b, s);
}
static inline void pickle_int(struct bytes *b, uint64_t v)
{
    put_u8(b, 'J');
    put_u32(b, (uint32_t)v);
}
static inline void pickle_tensors(struct bytes *b, const struct torch_tensor *t, size_t n)
{
    put_text(b, "\x80\x02" "ccollections\nOrderedDict\n)R(");
    for (size_t i = 0; i < n; i++) {
        char key[24];
        uint64_t stride = t[i].n_elems;
        snprintf(key, sizeof key, "%zu", i);
        pickle_text(b, t[i].name);
        put_text(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle_text(b, "storage");
        put_text(b, "ctorch\n");
        put_text(b, t[i].storage);
        put_text(b, "\n");
        pickle_text(b, key);
        pickle_text(b, "cpu");
        pickle_int(b, t[i].n_elems);
        put_text(b, "tQ");
        pickle_int(b, 0);
        put_text(b, "(");
        for (unsigned d = 0; d < t[i].n_dims; d++)
            pickle_int(b, t[i].shape[d]);
        put_text(b, "t(");
        for (unsigned d = 0; d < t[i].n_dims; d++)
            pickle_int(b, stride /= t[i].shape[d]);
        put_text(b, "t\x89" "ccollections\nOrderedDict\n)RtR");
    }
    put_text(b, "u.");
}

static inline void members_free(struct member *m, size_t n)
{
    for (size_t i = 0; i < n; i++)
        bytes_free(&m[i].data);
}

/* Every tensor of the model at `path` has the type, shape and bytes of the one
 * in the safetensors file `expected`, and there are no others. Returns how many. */
static inline size_t assert_same_tensors(const char *path, const char *expected)
{
    struct lm_model *m = open_ok(path), *x = open_ok(expected);
    size_t n = lm_model_n_tensors(x);

    assert_int_equal(lm_model_n_tensors(m), n);
    for (size_t i = 0; i < n; i++) {
        const struct lm_tensor *want = lm_model_tensor(x, i), *got = lm_model_find(m, want->name);
        if (!got)
            fail_msg("%s: no tensor %s", path, want->name);
        if (got->dtype != want->dtype || got->n_dims != want->n_dims ||
            memcmp(got->shape, want->shape, want->n_dims * sizeof want->shape[0]) != 0)
            fail_msg("%s: tensor %s has another type or shape", path, want->name);
        uint8_t *bytes = malloc(want->n_bytes + 1);
        lm_tensor_read(got, 0, got->n_bytes, bytes);
        if (memcmp(bytes, want->data, want->n_bytes) != 0)
            fail_msg("%s: tensor %s has other values", path, want->name);
        free(bytes);
    }
    lm_model_close(x);
    lm_model_close(m);
    return n;
}
#endif
