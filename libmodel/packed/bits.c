/* Integers of 1 to 8 bits packed into words along the rows (compressed-tensors
 * "pack-quantized"): w = scale * (q - 2^(bits-1) - zero).
 *
 *   X.weight_packed      I32 [out, ceil(in * bits / 32)]  dense, lowest first, stored + 2^(bits-1)
 *   X.weight_scale       [out, groups], [out, 1] or [1]
 *   X.weight_zero_point  I32 [ceil(out * bits / 32), groups] packed along out in the same way; absent: 0
 *   X.weight_g_idx       I32 [in] group of every input; absent: i / group_size
 *   X.weight_shape       I64 [2] out, in
 *
 * https://github.com/vllm-project/compressed-tensors (compressors/pack_quantized) */
#include "libmodel/packed/packed.h"

#include <string.h>

/* in is told by weight_shape, whose numbers the width of the words must fit. */
static int read_shape(const struct lmi_finder *f, struct lm_packed *p, const struct lm_tensor *shape, struct lm_err *e)
{
    const struct lm_tensor *t = p->of[0];
    uint64_t two = 2, in = p->cols;
    uint8_t raw[16];

    if (lmi_expect(shape, LMI_D(I64) | LMI_D(I32), 1, &two, e) < 0)
        return -1;
    if (f->values || !f->m->files[shape->file].made) {
        size_t w = shape->dtype == LM_I64 ? 8 : 4;
        lm_tensor_read(shape, 0, 2 * w, raw);
        p->rows = w == 8 ? lm_load_u64le(raw) : lm_load_u32le(raw);
        in = w == 8 ? lm_load_u64le(raw + 8) : lm_load_u32le(raw + 4);
    }
    if (in == 0 || in > UINT32_MAX || p->rows != t->shape[0] || lmi_ceil(in * p->bits, 32) != t->shape[1])
        return lm_err_set(e, LM_MISMATCH, "tensor '%s' is [%llu, %llu] words of %u-bit codes, which is not what '%s' says: "
                          "%llu x %llu", t->name, (unsigned long long)t->shape[0], (unsigned long long)t->shape[1], p->bits,
                          shape->name, (unsigned long long)p->rows, (unsigned long long)in);
    p->cols = in;
    return 0;
}

static int scale_grid(struct lm_packed *p, const struct lmi_weights_args *a, struct lm_err *e)
{
    bool grouped = strcmp(a->strategy, "group") == 0 || strcmp(a->strategy, "tensor_group") == 0;
    uint64_t one = 1;

    p->block_rows = 1;
    p->block_cols = grouped && a->group_size > 0 && (uint64_t)a->group_size < p->cols ? (uint64_t)a->group_size : p->cols;
    p->grid_rows = p->rows;
    p->grid_cols = lmi_ceil(p->cols, p->block_cols);
    if (strcmp(a->strategy, "tensor") == 0) {
        p->block_rows = p->rows;
        p->grid_rows = 1;
        return lmi_expect(p->scales, LMI_REAL, 1, &one, e);
    }
    if (!grouped && strcmp(a->strategy, "channel") != 0)
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s': packed integers scaled by \"%s\" are not read (tensor, channel "
                          "and group are)", p->of[0]->name, a->strategy);
    if (p->order && p->scales->n_dims == 2)
        p->grid_cols = p->scales->shape[1];
    return lmi_expect(p->scales, LMI_REAL, 2, (uint64_t[]){p->rows, p->grid_cols}, e);
}

static int parts(struct lmi_finder *f, struct lm_packed *p, const struct lmi_weights_args *a, struct lm_err *e)
{
    const struct lm_tensor *shape;

    if (lmi_claim(f, p, "packed", "scale", true, &p->scales, e) < 0 ||
        lmi_claim(f, p, "packed", "shape", true, &shape, e) < 0 ||
        lmi_claim(f, p, "packed", "zero_point", !a->symmetric, &p->zeros, e) < 0 ||
        lmi_claim(f, p, "packed", "g_idx", false, &p->order, e) < 0)
        return -1;
    p->rows = p->of[0]->shape[0];
    p->cols = p->of[0]->shape[1] * 32 / p->bits;
    if (read_shape(f, p, shape, e) < 0 || scale_grid(p, a, e) < 0)
        return -1;
    if (p->order && lmi_expect(p->order, LMI_D(I32), 1, &p->cols, e) < 0)
        return -1;
    if (!p->zeros)
        return 0;
    uint64_t zeros[2] = {lmi_ceil(p->rows * p->bits, 32), p->grid_cols};
    return lmi_expect(p->zeros, LMI_D(I32), 2, zeros, e);
}

static int claim(struct lmi_finder *f, const struct lm_tensor *t, struct lm_packed *p, struct lm_tensor *whole,
                 struct lm_err *e)
{
    struct lmi_weights_args a;
    char module[1024];
    int rc;

    if (!lmi_ends(t->name, ".weight_packed") || t->dtype != LM_I32)
        return 0;
    snprintf(module, sizeof module, "%.*s", (int)(strlen(t->name) - strlen(".weight_packed")), t->name);
    if ((rc = lmi_groups_find(f, module, &a, e)) < 0)
        return -1;
    if (rc == 0)
        return lm_err_set(e, LM_MISMATCH, "tensor '%s': no group of config_groups in config.json names this module", t->name);
    if (a.is_float || lmi_expect(t, LMI_D(I32), 2, NULL, e) < 0)
        return a.is_float ? lm_err_set(e, LM_MISMATCH, "tensor '%s' holds packed integers, config.json says floats of %d "
                                       "bits", t->name, a.bits) : -1;
    p->bits = (unsigned)a.bits;
    p->bias = 1 << (a.bits - 1);
    if (t->shape[1] > UINT32_MAX)
        return lm_err_set(e, LM_LIMIT, "tensor '%s': too large", t->name);
    if (parts(f, p, &a, e) < 0 || lmi_name(f, whole, t, "_packed", "", e) < 0)
        return -1;
    whole->n_dims = 2;
    whole->shape[0] = p->rows;
    whole->shape[1] = p->cols;
    return lmi_scheme(f, p, e, p->block_cols < p->cols ? "compressed-tensors %d-bit, groups of %llu%s"
                                                       : "compressed-tensors %d-bit, a scale a row", a.bits,
                      (unsigned long long)p->block_cols, p->order ? ", by activation order" : "") < 0 ? -1 : 1;
}

/* ---- reading */

static void group_at(const struct lm_packed *p, uint64_t row, uint32_t g, float *scale, int *zero)
{
    uint64_t bit = row * p->bits, word = bit / 32;
    uint8_t raw[8] = {0};

    lm_tensor_to_f32(p->scales, (p->block_rows == 1 ? row : 0) * p->grid_cols + g, 1, scale, NULL);
    *zero = p->bias;
    if (!p->zeros)
        return;
    lm_tensor_read(p->zeros, (word * p->grid_cols + g) * 4, 4, raw);
    if (word + 1 < p->zeros->shape[0])
        lm_tensor_read(p->zeros, ((word + 1) * p->grid_cols + g) * 4, 4, raw + 4);
    *zero = (int)(lm_load_u64le(raw) >> bit % 32 & ((1u << p->bits) - 1));
}

/* The codes less bias and zero point: both are in `zero`, as 2^(bits-1) + stored - 2^(bits-1). */
static void finish(const struct lm_packed *p, uint64_t row, uint64_t col, uint64_t n, float *x)
{
    const struct lmi_unpack *k = lmi_unpack();

    for (uint64_t at = 0; at < n;) {
        uint32_t g = lmi_group_of(p, col + at);
        uint64_t end = p->order ? at + 1 : ((uint64_t)g + 1) * p->block_cols - col;
        float scale;
        int zero;
        while (p->order && end < n && lmi_group_of(p, col + end) == g)
            end++;
        end = end < n ? end : n;
        group_at(p, row, g, &scale, &zero);
        k->affine(x + at, end - at, (float)zero, scale);
        at = end;
    }
}

/* From a column that is a multiple of eight on. */
static void read_span(const struct lm_packed *p, uint64_t row, uint64_t col, uint64_t n, float *dst)
{
    uint8_t raw[LMI_SPAN + 8];
    uint64_t from = (row * p->of[0]->shape[1]) * 4 + col / 8 * p->bits, n_bytes = (n * p->bits + 7) / 8;
    uint64_t first = from / 4 * 4, end = (from + n_bytes + 3) / 4 * 4;

    lm_tensor_read(p->of[0], first, end - first, raw);
    lmi_unpack()->codes(dst, raw + (from - first), p->bits, n);
    finish(p, row, col, n, dst);
}

static void read(const struct lm_packed *p, uint64_t row, uint64_t n_rows, uint64_t col, uint64_t n_cols, float *dst)
{
    for (; n_rows > 0; row++, n_rows--)
        for (uint64_t at = col, end = col + n_cols, n; at < end; at += n, dst += n) {
            float edge[8];
            uint64_t skip = at % 8, left = end - at;
            if (skip) { /* up to the next eight */
                uint64_t whole = at - skip + 8 <= p->cols ? 8 : p->cols - (at - skip);
                read_span(p, row, at - skip, whole, edge);
                n = 8 - skip < left ? 8 - skip : left;
                memcpy(dst, edge + skip, n * sizeof *dst);
                continue;
            }
            n = left < LMI_SPAN ? left : LMI_SPAN;
            read_span(p, row, at, n, dst);
        }
}

static void group(const struct lm_packed *p, uint64_t row, uint64_t g, float *scale, int *zero)
{
    group_at(p, row, lmi_group_of(p, g * p->block_cols), scale, zero);
}

const struct lmi_packing lmi_packing_bits = {
    .methods = {"compressed-tensors"}, .claim = claim, .ready = lmi_order_ready, .read = read, .group = group,
};
