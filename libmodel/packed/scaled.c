/* Codes that are a type of their own (F8_E4M3, F8_E5M2, I8) under scales of a
 * grid: w = code * scale, integers with a zero point (code - zero) * scale.
 *
 *   "fp8" (DeepSeek, transformers)  X.weight, X.weight_scale_inv [ceil(out / 128), ceil(in / 128)] by
 *                                   weight_block_size, one scale without it. In spite of its name it multiplies
 *   "compressed-tensors" int-, float-, naive-quantized
 *                                   X.weight, X.weight_scale [1], [out, 1], [out, groups] or blocks by
 *                                   config_groups, X.weight_zero_point I8 of the same shape
 *   "fbgemm_fp8", "modelopt" FP8    X.weight, X.weight_scale [out, 1] or of one element
 *
 * Leading dimensions (stacked experts) lead the grid too.
 * https://github.com/huggingface/transformers (integrations/finegrained_fp8.py),
 * https://github.com/vllm-project/compressed-tensors (compressors/naive_quantized) */
#include "libmodel/packed/packed.h"

#include <string.h>

/* ---- recognising */

enum kind { TENSOR, ROW, BLOCK };

struct grid { enum kind kind; uint64_t block[2]; };

static int block_of_config(const struct lmi_finder *f, struct grid *g, struct lm_err *e)
{
    const json_t *list = json_object_get(f->config, "weight_block_size");

    if (!list || json_is_null(list))
        return 0;
    for (size_t i = 0; i < 2; i++) {
        json_int_t n = json_integer_value(json_array_get(list, i));
        if (json_array_size(list) != 2 || n < 1 || n > INT32_MAX)
            return lm_err_set(e, LM_MALFORMED, "config.json: weight_block_size is not two positive numbers");
        g->block[i] = (uint64_t)n;
    }
    g->kind = BLOCK;
    return 0;
}

static int grid_of_groups(const struct lm_packed *p, const struct lmi_weights_args *a, struct grid *g, struct lm_err *e)
{
    *g = (struct grid){.kind = BLOCK, .block = {1, p->cols}};
    if (strcmp(a->strategy, "tensor") == 0)
        g->kind = TENSOR;
    else if (strcmp(a->strategy, "channel") == 0)
        g->kind = ROW;
    else if (strcmp(a->strategy, "group") == 0 && a->group_size > 0)
        g->block[1] = (uint64_t)a->group_size;
    else if (strcmp(a->strategy, "block") == 0 && a->block[0] > 0 && a->block[1] > 0)
        *g = (struct grid){BLOCK, {(uint64_t)a->block[0], (uint64_t)a->block[1]}};
    else
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s': weights scaled by \"%s\" are not read (tensor, channel, group and "
                          "block are)", p->of[0]->name, a->strategy);
    return 0;
}

static void set_grid(struct lm_packed *p, const struct grid *g)
{
    p->block_rows = g->kind == TENSOR ? p->rows : g->kind == ROW ? 1 : g->block[0];
    p->block_cols = g->kind == BLOCK && g->block[1] < p->cols ? g->block[1] : p->cols;
    p->grid_rows = lmi_ceil(p->rows, p->block_rows);
    p->grid_cols = lmi_ceil(p->cols, p->block_cols);
}

/* [1] and [out] stand for [1, 1] and [out, 1]. */
static int expect_grid(const struct lm_packed *p, const struct lm_tensor *t, uint64_t dtypes, struct lm_err *e)
{
    const struct lm_tensor *w = p->of[0];
    uint64_t shape[LM_MAX_DIMS];
    bool flat = p->grid_cols == 1 && w->n_dims == 2 && t->n_elems == p->grid_rows &&
                (t->n_dims == 0 || t->shape[0] == p->grid_rows);

    memcpy(shape, w->shape, sizeof shape);
    shape[w->n_dims - 2] = p->grid_rows;
    shape[w->n_dims - 1] = p->grid_cols;
    if (flat && t->n_dims < 2)
        return lmi_expect(t, dtypes, t->n_dims, t->shape, e);
    return lmi_expect(t, dtypes, w->n_dims, shape, e);
}

static int find_scales(struct lmi_finder *f, struct lm_packed *p, struct lm_err *e)
{
    int rc = lmi_claim(f, p, "", "_scale_inv", false, &p->scales, e);

    return rc ? rc : lmi_claim(f, p, "", "_scale", true, &p->scales, e);
}

static int find_grid(const struct lmi_finder *f, struct lm_packed *p, struct grid *g, bool *symmetric, struct lm_err *e)
{
    struct lmi_weights_args a;
    char module[1024];
    int rc;

    *symmetric = true;
    *g = (struct grid){.kind = p->scales->n_elems == 1 ? TENSOR : ROW};
    if (strcmp(f->method, "fp8") == 0)
        return block_of_config(f, g, e);
    if (strcmp(f->method, "compressed-tensors") != 0)
        return 0;
    snprintf(module, sizeof module, "%.*s", (int)(strlen(p->of[0]->name) - strlen(".weight")), p->of[0]->name);
    if ((rc = lmi_groups_find(f, module, &a, e)) < 0)
        return -1;
    if (rc == 0)
        return lm_err_set(e, LM_MISMATCH, "tensor '%s': no group of config_groups in config.json names this module",
                          p->of[0]->name);
    *symmetric = a.symmetric;
    return grid_of_groups(p, &a, g, e);
}

static int name_scheme(struct lmi_finder *f, struct lm_packed *p, const struct grid *g, struct lm_err *e)
{
    enum lm_dtype d = p->of[0]->dtype;
    const char *what = d == LM_I8 ? "int8" : d == LM_F8_E5M2 ? "FP8 E5M2" : "FP8 E4M3";

    if (g->kind != BLOCK)
        return lmi_scheme(f, p, e, "%s, a scale a %s", what, g->kind == TENSOR ? "tensor" : "row");
    if (p->block_rows == 1)
        return lmi_scheme(f, p, e, "%s, groups of %llu", what, (unsigned long long)p->block_cols);
    return lmi_scheme(f, p, e, "%s, blocks of %llux%llu", what, (unsigned long long)g->block[0],
                      (unsigned long long)g->block[1]);
}

static bool is_code(const struct lmi_finder *f, const struct lm_tensor *t)
{
    bool f8 = t->dtype == LM_F8_E4M3 || t->dtype == LM_F8_E5M2;

    if (strcmp(f->method, "compressed-tensors") == 0)
        return (f8 || t->dtype == LM_I8) && lmi_ends(t->name, ".weight");
    return f8 && !lmi_ends(t->name, "_scale") && !lmi_ends(t->name, "_scale_inv");
}

static int claim(struct lmi_finder *f, const struct lm_tensor *t, struct lm_packed *p, struct lm_tensor *whole,
                 struct lm_err *e)
{
    struct grid g;
    bool symmetric;

    if (!is_code(f, t))
        return 0;
    if (t->n_dims < 2 || t->n_elems == 0)
        return lmi_expect(t, LMI_D(F8_E4M3) | LMI_D(F8_E5M2) | LMI_D(I8), 2, NULL, e);
    p->rows = t->shape[t->n_dims - 2];
    p->cols = t->shape[t->n_dims - 1];
    p->outer = t->n_elems / p->rows / p->cols;
    if (find_scales(f, p, e) < 0 || find_grid(f, p, &g, &symmetric, e) < 0)
        return -1;
    set_grid(p, &g);
    if (expect_grid(p, p->scales, LMI_REAL | LMI_D(F8_E8M0), e) < 0)
        return -1;
    if (lmi_claim(f, p, "", "_zero_point", !symmetric, &p->zeros, e) < 0 ||
        (p->zeros && expect_grid(p, p->zeros, LMI_D(I8) | LMI_REAL, e) < 0))
        return -1;
    whole->n_dims = t->n_dims;
    memcpy(whole->shape, t->shape, sizeof whole->shape);
    return lmi_name(f, whole, t, "", "", e) < 0 || name_scheme(f, p, &g, e) < 0 ? -1 : 1;
}

/* ---- reading */

static void read_row(const struct lm_packed *p, const struct lmi_unpack *k, uint64_t row, uint64_t col, uint64_t n,
                     float *dst)
{
    const struct lm_tensor *t = p->of[0];
    uint64_t matrix = row / p->rows, at = (matrix * p->grid_rows + row % p->rows / p->block_rows) * p->grid_cols;
    float scale, zero = 0;

    for (uint64_t end = col + n, step; col < end; col += step, dst += step) {
        uint64_t g = col / p->block_cols, stop = (g + 1) * p->block_cols;
        step = (stop < end ? stop : end) - col;
        lm_tensor_to_f32(p->scales, at + g, 1, &scale, NULL);
        if (p->zeros)
            lm_tensor_to_f32(p->zeros, at + g, 1, &zero, NULL);
        if (t->dtype == LM_F8_E4M3 && zero == 0) {
            k->e4m3(dst, t->data + row * p->cols + col, step, scale);
            continue;
        }
        if (t->dtype == LM_I8)
            k->bytes(dst, (const int8_t *)t->data + row * p->cols + col, step);
        else
            lm_tensor_to_f32(t, row * p->cols + col, step, dst, NULL);
        k->affine(dst, step, zero, scale);
        if (p->factor != 1)
            k->affine(dst, step, 0, p->factor);
    }
}

static void read(const struct lm_packed *p, uint64_t row, uint64_t n_rows, uint64_t col, uint64_t n_cols, float *dst)
{
    const struct lmi_unpack *k = lmi_unpack();

    for (; n_rows > 0; row++, n_rows--, dst += n_cols)
        read_row(p, k, row, col, n_cols, dst);
}

static void group(const struct lm_packed *p, uint64_t row, uint64_t g, float *scale, int *zero)
{
    uint64_t at = (row / p->rows * p->grid_rows + row % p->rows / p->block_rows) * p->grid_cols + g;
    float z = 0;

    lm_tensor_to_f32(p->scales, at, 1, scale, NULL);
    if (p->zeros)
        lm_tensor_to_f32(p->zeros, at, 1, &z, NULL);
    *zero = (int)z;
}

const struct lmi_packing lmi_packing_scaled = {
    .methods = {"fp8", "fbgemm_fp8", "modelopt", "compressed-tensors"}, .claim = claim, .read = read, .group = group,
};

/* ---- bitsandbytes, 8 bits: w = code * SCB / 127, computed as the library does */

static int claim_bnb8(struct lmi_finder *f, const struct lm_tensor *t, struct lm_packed *p, struct lm_tensor *whole,
                      struct lm_err *e)
{
    if (t->dtype != LM_I8 || !lmi_ends(t->name, ".weight") || !lmi_beside_tensor(f, t, "weight", "SCB"))
        return 0;
    if (lmi_expect(t, LMI_D(I8), 2, NULL, e) < 0 || lmi_claim(f, p, "weight", "SCB", true, &p->scales, e) < 0 ||
        lmi_claim(f, p, "weight", "weight_format", false, NULL, e) < 0 ||
        lmi_expect(p->scales, LMI_D(F32), 1, &t->shape[0], e) < 0)
        return -1;
    p->rows = t->shape[0];
    p->cols = t->shape[1];
    p->factor = (float)7.874015718698502e-3;
    set_grid(p, &(struct grid){.kind = ROW});
    *whole = (struct lm_tensor){.dtype = LM_F32, .n_dims = 2, .shape = {p->rows, p->cols}};
    return lmi_name(f, whole, t, "", "", e) < 0 || lmi_scheme(f, p, e, "bitsandbytes int8, a scale a row") < 0 ? -1 : 1;
}

const struct lmi_packing lmi_packing_bnb8 = {.methods = {"bitsandbytes", ""}, .claim = claim_bnb8, .read = read};
