/* Packed integers as blocks of a ggml type, without quantizing again.
 *
 * Where a scale serves whole blocks of 32 and fits F16, w = (code - zero) *
 * scale is exactly what a block says: Q4_0, Q5_0 or Q8_0, whichever holds the
 * differences, or Q4_1 where scale * zero fits F16 too.  All scales and zero
 * points are looked at first: one that does not fit and there are no blocks. */
#include "libmodel/packed/packed.h"

#include <math.h>
#include <string.h>

#include "libmodel/dtype/blocks.h"

enum { CHUNK = 1 << 16 /* values at a time: several rows, which GPTQ wants */ };

/* ---- which type */

/* What the scales and zero points of a tensor allow. */
struct fit { int low, high; bool minimum; };

static bool is_f16(float x)
{
    return lm_f16_to_f32(lm_f32_to_f16(x)) == x && isfinite(x);
}

/* Are the groups of the columns in order? */
static bool in_order(const struct lm_packed *p)
{
    int32_t piece[LMI_SPAN];

    for (uint64_t at = 0; p->order && at < p->cols; at += LMI_SPAN) {
        uint64_t n = p->cols - at < LMI_SPAN ? p->cols - at : LMI_SPAN;
        lm_tensor_read(p->order, at * 4, n * 4, piece);
        for (uint64_t i = 0; i < n; i++)
            if (lm_load_u32le((const uint8_t *)&piece[i]) != (at + i) / p->block_cols)
                return false;
    }
    return true;
}

static bool look(const struct lm_packed *p, struct fit *f)
{
    int low = p->bits ? 0 : -128, high = p->bits ? (1 << p->bits) - 1 : 127;
    float scale;
    int zero;

    *f = (struct fit){.minimum = p->bits == 4};
    for (uint64_t row = 0; row < p->outer * p->rows; row++)
        for (uint64_t g = 0; g * p->block_cols < p->cols; g++) {
            p->how->group(p, row, g, &scale, &zero);
            if (!is_f16(scale))
                return false;
            f->minimum = f->minimum && is_f16(-scale * (float)zero);
            f->low = low - zero < f->low ? low - zero : f->low;
            f->high = high - zero > f->high ? high - zero : f->high;
        }
    return true;
}

static int type_of(const struct lm_packed *p)
{
    struct fit f;

    if (!p->how->group || p->factor != 1 || p->cols % LMI_QK || p->block_cols % LMI_QK || !in_order(p))
        return -1;
    if (p->of[0]->dtype == LM_F8_E4M3 || p->of[0]->dtype == LM_F8_E5M2 || !look(p, &f))
        return -1;
    if (f.low >= -8 && f.high <= 7)
        return LM_Q4_0;
    if (f.minimum)
        return LM_Q4_1;
    if (f.low >= -16 && f.high <= 15)
        return LM_Q5_0;
    return f.low >= -128 && f.high <= 127 ? LM_Q8_0 : -1;
}

/* ---- a block */

static void put_nibbles(uint8_t qs[16], const int q[LMI_QK])
{
    for (int j = 0; j < 16; j++)
        qs[j] = (uint8_t)((q[j] & 15) | (q[j + 16] & 15) << 4);
}

static void put_q4_0(uint8_t *dst, const int q[LMI_QK], float scale)
{
    struct lmi_q4_0 *b = (void *)dst;
    int u[LMI_QK];

    for (int j = 0; j < LMI_QK; j++)
        u[j] = q[j] + 8;
    lm_store_u16le(b->d, lm_f32_to_f16(scale));
    put_nibbles(b->qs, u);
}

static void put_q4_1(uint8_t *dst, const int q[LMI_QK], float scale, int zero)
{
    struct lmi_q4_1 *b = (void *)dst;
    int u[LMI_QK];

    for (int j = 0; j < LMI_QK; j++)
        u[j] = q[j] + zero;
    lm_store_u16le(b->d, lm_f32_to_f16(scale));
    lm_store_u16le(b->m, lm_f32_to_f16(-scale * (float)zero));
    put_nibbles(b->qs, u);
}

static void put_q5_0(uint8_t *dst, const int q[LMI_QK], float scale)
{
    struct lmi_q5_0 *b = (void *)dst;
    uint32_t high = 0;
    int u[LMI_QK];

    for (int j = 0; j < LMI_QK; j++) {
        u[j] = q[j] + 16;
        high |= (uint32_t)(u[j] >> 4 & 1) << j;
    }
    lm_store_u16le(b->d, lm_f32_to_f16(scale));
    lm_store_u32le(b->qh, high);
    put_nibbles(b->qs, u);
}

static void put_q8_0(uint8_t *dst, const int q[LMI_QK], float scale)
{
    struct lmi_q8_0 *b = (void *)dst;

    lm_store_u16le(b->d, lm_f32_to_f16(scale));
    for (int j = 0; j < LMI_QK; j++)
        b->qs[j] = (int8_t)q[j];
}

/* x = (code - zero) * scale was exact, and so is the way back. Under a scale of 0 the codes do not matter. */
static void put_block(const struct lm_packed *p, uint64_t row, uint64_t col, const float *x, uint8_t *dst)
{
    int q[LMI_QK], zero;
    float scale;

    p->values->how->group(p->values, row, col / p->values->block_cols, &scale, &zero);
    for (int j = 0; j < LMI_QK; j++)
        q[j] = scale != 0 ? (int)lrintf(x[j] / scale) : 0;
    switch (p->as) {
    case LM_Q4_0: put_q4_0(dst, q, scale); break;
    case LM_Q4_1: put_q4_1(dst, q, scale, zero); break;
    case LM_Q5_0: put_q5_0(dst, q, scale); break;
    default: put_q8_0(dst, q, scale); break;
    }
}

static void blocks(const struct lm_packed *p, uint64_t first, uint64_t n, uint8_t *dst)
{
    size_t width = lm_dtype_info(p->as)->block_bytes;
    float x[CHUNK];

    while (n > 0) {
        uint64_t k = n < CHUNK / LMI_QK ? n : CHUNK / LMI_QK;
        lmi_packed_values(p->values, first * LMI_QK, k * LMI_QK, x);
        for (uint64_t i = 0; i < k; i++, dst += width) {
            uint64_t at = (first + i) * LMI_QK;
            put_block(p, at / p->values->cols, at % p->values->cols, x + i * LMI_QK, dst);
        }
        first += k;
        n -= k;
    }
}

static const struct lmi_packing as_blocks = {.blocks = blocks};

int lm_tensor_as_blocks(struct lm_model *m, const struct lm_tensor *t, struct lm_tensor *out, struct lm_err *e)
{
    int type = t->packed && t->dtype == LM_F32 ? type_of(t->packed) : -1;
    struct lm_packed *p;

    if (type < 0)
        return 0;
    if (!(p = lm_arena_alloc(&m->arena, sizeof *p)))
        return lmi_nomem(e);
    *p = *t->packed;
    p->how = &as_blocks;
    p->values = t->packed;
    p->as = (enum lm_dtype)type;
    *out = *t;
    out->dtype = p->as;
    out->packed = p;
    out->n_bytes = lm_dtype_bytes(out->dtype, out->n_elems);
    return 1;
}
