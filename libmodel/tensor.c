/* Tensors of a model: what is proven about them when they are added, and
 * reading their values. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/packed/packed.h"

static int check_name(struct lm_span name, struct lm_err *e)
{
    if (name.size == 0)
        return lm_err_set(e, LM_MALFORMED, "a tensor has an empty name");
    if (memchr(name.data, 0, name.size))
        return lm_err_set(e, LM_MALFORMED, "tensor '%.*s…': the name holds a NUL byte", LMI_SHOW(name));
    if (!lm_utf8_valid(name))
        return lm_err_set(e, LM_MALFORMED, "tensor '%.*s': the name is not UTF-8", LMI_SHOW(name));
    return 0;
}

/* Elements of the shape. The product of the sizes that are not zero must fit
 * too: a zero must not hide an overflow from whoever multiplies a part of the
 * shape. */
static int count_elems(struct lm_span name, const uint64_t *shape, unsigned n_dims, uint64_t *n_elems, struct lm_err *e)
{
    uint64_t product = 1;
    bool empty = false;

    if (n_dims > LM_MAX_DIMS)
        return lm_err_set(e, LM_LIMIT, "tensor '%.*s' has %u dimensions, at most %d are handled", LMI_SHOW(name), n_dims,
                          LM_MAX_DIMS);
    for (unsigned i = 0; i < n_dims; i++) {
        if (shape[i] > INT64_MAX)
            return lm_err_set(e, LM_MALFORMED, "tensor '%.*s': dimension %u is %llu, beyond 2^63", LMI_SHOW(name), i,
                              (unsigned long long)shape[i]);
        if (shape[i] == 0)
            empty = true;
        else if (!lm_mul_u64(product, shape[i], &product))
            return lm_err_set(e, LM_MALFORMED, "tensor '%.*s': the product of its shape overflows 64 bits",
                              LMI_SHOW(name));
    }
    *n_elems = empty ? 0 : product;
    return 0;
}

int lmi_tensor_measure(struct lm_span name, enum lm_dtype dtype, const uint64_t *shape, unsigned n_dims,
                       uint64_t *n_elems, uint64_t *n_bytes, struct lm_err *e)
{
    const struct lm_dtype_info *d = lm_dtype_info(dtype);
    uint64_t row = n_dims > 0 && n_dims <= LM_MAX_DIMS ? shape[n_dims - 1] : 1;

    if (count_elems(name, shape, n_dims, n_elems, e) < 0)
        return -1;
    if (d->kind == LM_KIND_QUANT && row % d->block_elems != 0)
        return lm_err_set(e, LM_MALFORMED, "tensor '%.*s': rows of %llu are not whole %s blocks of %u", LMI_SHOW(name),
                          (unsigned long long)row, d->name, d->block_elems);
    if (*n_elems % d->block_elems != 0)
        return lm_err_set(e, LM_MALFORMED, "tensor '%.*s': %llu elements of %s are not a whole number of bytes",
                          LMI_SHOW(name), (unsigned long long)*n_elems, d->name);
    *n_bytes = lm_dtype_bytes(dtype, *n_elems);
    if (*n_bytes == 0 && *n_elems != 0)
        return lm_err_set(e, LM_MALFORMED, "tensor '%.*s': the size of %llu elements of %s overflows 64 bits",
                          LMI_SHOW(name), (unsigned long long)*n_elems, d->name);
    return 0;
}

static int check_size(struct lm_tensor *t, struct lm_err *e)
{
    uint64_t bytes;
    char shape[192];

    if (lmi_tensor_measure(lm_span_str(t->name), t->dtype, t->shape, t->n_dims, &t->n_elems, &bytes, e) < 0)
        return -1;
    if (bytes != t->n_bytes)
        return lm_err_set(e, LM_MALFORMED, "tensor '%.200s' %s %s takes %llu bytes, the file gives it %llu", t->name,
                          lm_dtype_name(t->dtype), lm_tensor_shape_str(t, shape, sizeof shape),
                          (unsigned long long)bytes, (unsigned long long)t->n_bytes);
    return 0;
}

static int check_range(const struct lm_tensor *t, uint64_t file_size, struct lm_err *e)
{
    uint64_t end;

    if (!lm_add_u64(t->offset, t->n_bytes, &end) || end > file_size)
        return lm_err_set(e, LM_MALFORMED,
                          "tensor '%.200s': its data (%llu bytes at %llu) end beyond the file of %llu bytes; the file is "
                          "cut short or not completely downloaded",
                          t->name, (unsigned long long)t->n_bytes, (unsigned long long)t->offset,
                          (unsigned long long)file_size);
    return 0;
}

static int make_room(struct lm_model *m, struct lm_err *e)
{
    if (m->n_tensors < m->tensors_capacity)
        return 0;
    size_t capacity = m->tensors_capacity ? m->tensors_capacity * 2 : 128;
    struct lm_tensor *bigger = reallocarray(m->tensors, capacity, sizeof *bigger);
    if (!bigger)
        return lmi_nomem(e);
    m->tensors = bigger;
    m->tensors_capacity = capacity;
    return 0;
}

int lm_model_add_tensor(struct lm_model *m, struct lm_span name, const struct lm_tensor *tensor, struct lm_err *e)
{
    struct lm_tensor t = *tensor;
    struct lm_span map = m->files[t.file].map;

    if (check_name(name, e) < 0 || make_room(m, e) < 0)
        return -1;
    t.name = lm_arena_str(&m->arena, name);
    if (!t.name)
        return lmi_nomem(e);
    if (check_size(&t, e) < 0 || check_range(&t, map.size, e) < 0)
        return -1;
    t.data = map.data + t.offset;
    int put = lm_map_put(m->by_name, lm_span_of(t.name, name.size), m->n_tensors);
    if (put < 0)
        return lmi_nomem(e);
    if (put == 0)
        return lm_err_set(e, LM_MALFORMED, "tensor '%.*s' appears twice", LMI_SHOW(name));
    m->tensors[m->n_tensors++] = t;
    return 0;
}

char *lm_tensor_shape_str(const struct lm_tensor *t, char *buf, size_t size)
{
    size_t n = (size_t)snprintf(buf, size, "[");

    for (unsigned i = 0; i < t->n_dims && n < size; i++)
        n += (size_t)snprintf(buf + n, size - n, i ? ", %llu" : "%llu", (unsigned long long)t->shape[i]);
    if (n < size)
        snprintf(buf + n, size - n, "]");
    return buf;
}

/* ---- values */

void lm_tensor_read(const struct lm_tensor *t, uint64_t offset, uint64_t n_bytes, void *dst)
{
    const struct lm_dtype_info *d = lm_dtype_info(t->dtype);

    assert(offset <= t->n_bytes && n_bytes <= t->n_bytes - offset);
    if (n_bytes == 0)
        return;
    if (t->packed) {
        lmi_packed_read(t, offset, n_bytes, dst);
        return;
    }
    memcpy(dst, t->data + offset, n_bytes);
    if (!t->big_endian)
        return;
    assert(offset % d->block_bytes == 0 && n_bytes % d->block_bytes == 0);
    lm_dtype_swap(t->dtype, dst, n_bytes / d->block_bytes * d->block_elems);
}

enum { SWAP_CHUNK = 16384 };

static void swapped_to_f32(const struct lm_tensor *t, uint64_t first, uint64_t n, float *dst)
{
    const struct lm_dtype_info *d = lm_dtype_info(t->dtype);
    uint64_t block = first / d->block_elems, left = n / d->block_elems;
    uint8_t chunk[SWAP_CHUNK];

    while (left > 0) {
        uint64_t take = SWAP_CHUNK / d->block_bytes;
        if (take > left)
            take = left;
        lm_tensor_read(t, block * d->block_bytes, take * d->block_bytes, chunk);
        d->to_f32(dst, chunk, take * d->block_elems);
        dst += take * d->block_elems;
        block += take;
        left -= take;
    }
}

int lm_tensor_to_f32(const struct lm_tensor *t, uint64_t first, uint64_t n, float *dst, struct lm_err *e)
{
    const struct lm_dtype_info *d = lm_dtype_info(t->dtype);

    if (!d->to_f32)
        return lm_err_set(e, LM_UNSUPPORTED,
                          "tensor '%s' is %s: it can be listed and copied, its values cannot be computed yet", t->name,
                          d->name);
    assert(first <= t->n_elems && n <= t->n_elems - first);
    assert(first % d->block_elems == 0 && n % d->block_elems == 0);
    if (n == 0)
        return 0;
    if (t->packed)
        lmi_packed_to_f32(t, first, n, dst);
    else if (t->big_endian)
        swapped_to_f32(t, first, n, dst);
    else
        d->to_f32(dst, t->data + first / d->block_elems * d->block_bytes, n);
    return 0;
}
