/* Reading packed weights, and what is said about them. */
#include "libmodel/packed/packed.h"

#include <assert.h>
#include <string.h>

const struct lmi_unpack *lmi_unpack(void)
{
#if defined(__x86_64__)
    const char *isa = lm_dtype_isa();

    if (strcmp(isa, "avx512") == 0)
        return &lmi_unpack_avx512;
    if (strcmp(isa, "avx2") == 0)
        return &lmi_unpack_avx2;
#endif
    return &lmi_unpack_portable;
}

/* ---- values: part of a row, whole rows, part of a row */

void lmi_packed_values(const struct lm_packed *p, uint64_t first, uint64_t n, float *dst)
{
    while (n > 0) {
        uint64_t row = first / p->cols, col = first % p->cols, n_rows = 1, n_cols = p->cols - col;

        if (n_cols > n)
            n_cols = n;
        if (col == 0 && n >= p->cols)
            n_rows = n / p->cols;
        p->how->read(p, row, n_rows, col, n_cols, dst);
        first += n_rows * n_cols;
        dst += n_rows * n_cols;
        n -= n_rows * n_cols;
    }
}

void lmi_packed_to_f32(const struct lm_tensor *t, uint64_t first, uint64_t n, float *dst)
{
    enum { CHUNK = 8192 };
    const struct lm_dtype_info *d = lm_dtype_info(t->dtype);
    uint8_t blocks[CHUNK];

    if (t->dtype == LM_F32) {
        lmi_packed_values(t->packed, first, n, dst);
        return;
    }
    for (uint64_t most = CHUNK / d->block_bytes * d->block_elems; n > 0;) {
        uint64_t k = n < most ? n : most;
        t->packed->how->blocks(t->packed, first / d->block_elems, k / d->block_elems, blocks);
        d->to_f32(dst, blocks, k);
        first += k;
        dst += k;
        n -= k;
    }
}

void lmi_packed_read(const struct lm_tensor *t, uint64_t offset, uint64_t n_bytes, void *dst)
{
    const struct lm_dtype_info *d = lm_dtype_info(t->dtype);
    uint64_t first = offset / d->block_bytes, n = n_bytes / d->block_bytes;

    assert(offset % d->block_bytes == 0 && n_bytes % d->block_bytes == 0);
    if (t->dtype != LM_F32) {
        t->packed->how->blocks(t->packed, first, n, dst);
        return;
    }
    float span[LMI_SPAN];
    uint8_t *to = dst;

    if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && (uintptr_t)dst % sizeof(float) == 0) {
        lmi_packed_values(t->packed, first, n, dst);
        return;
    }
    while (n > 0) {
        uint64_t k = n < LMI_SPAN ? n : LMI_SPAN;
        lmi_packed_values(t->packed, first, k, span);
        for (uint64_t i = 0; i < k; i++, to += 4) {
            uint32_t u;
            memcpy(&u, &span[i], sizeof u);
            lm_store_u32le(to, u);
        }
        first += k;
        n -= k;
    }
}

/* ---- about them */

/* ---- columns in another order */

uint32_t lmi_group_of(const struct lm_packed *p, uint64_t col)
{
    uint32_t g = (uint32_t)(col / p->block_cols);
    uint8_t raw[4];

    if (p->order) {
        lm_tensor_read(p->order, col * 4, 4, raw);
        g = lm_load_u32le(raw);
    }
    return g < p->grid_cols ? g : 0; /* lmi_order_ready has checked it */
}

int lmi_order_ready(const struct lm_packed *p, const char *name, struct lm_err *e)
{
    int32_t piece[LMI_SPAN];

    for (uint64_t at = 0; p->order && at < p->cols; at += LMI_SPAN) {
        uint64_t n = p->cols - at < LMI_SPAN ? p->cols - at : LMI_SPAN;
        lm_tensor_read(p->order, at * 4, n * 4, piece);
        for (uint64_t i = 0; i < n; i++) {
            int32_t g = (int32_t)lm_load_u32le((const uint8_t *)&piece[i]);
            if (g < 0 || (uint64_t)g >= p->grid_cols)
                return lm_err_set(e, LM_MALFORMED, "tensor '%s': element %llu of '%s' is %d, expected a group from 0 to "
                                  "%llu", name, (unsigned long long)(at + i), p->order->name, g,
                                  (unsigned long long)(p->grid_cols - 1));
        }
    }
    return 0;
}

/* ---- what a packed weight is */

bool lm_tensor_coarseness(const struct lm_tensor *t, unsigned *bits, uint64_t *span)
{
    const struct lm_packed *p = t->packed;

    if (!p)
        return false;
    enum lm_dtype d = p->of[0]->dtype;
    bool is_float = d == LM_F8_E4M3 || d == LM_F8_E5M2;
    *bits = is_float ? 0 : d == LM_I8 ? 8 : p->bits ? p->bits : 4;
    *span = p->block_cols ? p->block_cols * (p->block_rows ? p->block_rows : 1) : 16;
    return true;
}

const char *lm_tensor_scheme(const struct lm_tensor *t)
{
    return t->packed ? t->packed->scheme : NULL;
}

size_t lm_tensor_n_members(const struct lm_tensor *t)
{
    return t->packed ? t->packed->n_of : 1;
}

const struct lm_tensor *lm_tensor_member(const struct lm_tensor *t, size_t i)
{
    return t->packed ? t->packed->of[i] : t;
}

uint64_t lm_tensor_stored_bytes(const struct lm_tensor *t)
{
    uint64_t n = 0;

    for (size_t i = 0; i < lm_tensor_n_members(t); i++)
        n += lm_tensor_member(t, i)->n_bytes; /* inside files: no overflow */
    return n;
}

enum lm_dtype lm_tensor_meant_dtype(const struct lm_tensor *t)
{
    return t->packed && t->dtype == LM_F32 ? t->packed->meant : t->dtype;
}
