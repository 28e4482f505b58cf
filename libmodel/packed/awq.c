/* AWQ, the GEMM layout (AutoAWQ): w[o][i] = scales[g][o] * (q - zero[g][o]), g = i / group_size.
 *
 *   X.qweight  I32 [in, out / 8]      eight outputs a word, nibbles 0..7 are outputs 0 2 4 6 1 3 5 7
 *   X.qzeros   I32 [groups, out / 8]  the same
 *   X.scales   F16 [groups, out]
 *
 * GEMV (in packed along the words, scales [out, groups]) and the kernels' own
 * orders (GEMV-fast, Marlin) have the same names and other shapes: refused.
 * https://github.com/casper-hansen/AutoAWQ (awq/utils/packing_utils.py) */
#include "libmodel/packed/packed.h"

#include <string.h>
#include <strings.h>

static const unsigned place[8] = {0, 4, 1, 5, 2, 6, 3, 7}; /* nibble of output o */

static int settings(const struct lmi_finder *f, int *group, struct lm_err *e)
{
    const json_t *v = json_object_get(f->config, "version");
    const char *version = json_string_value(v ? v : json_object_get(f->config, "format"));
    const char *bits_key = json_object_get(f->config, "bits") ? "bits" : "w_bit";
    const char *group_key = json_object_get(f->config, "group_size") ? "group_size" : "q_group_size";
    int bits;

    if (lmi_setting(f->config, bits_key, 4, &bits, e) < 0 || lmi_setting(f->config, group_key, 128, group, e) < 0)
        return -1;
    if (version && strcasecmp(version, "gemm") != 0)
        return lm_err_set(e, LM_UNSUPPORTED, "config.json: AWQ version \"%s\" is not read, only \"gemm\" is (gemv packs "
                          "along the inputs, marlin and gemv_fast in the order of one kernel)", version);
    if (bits != 4)
        return lm_err_set(e, LM_UNSUPPORTED, "config.json: AWQ of %d bits is not read (4 are)", bits);
    return 0;
}

static int claim(struct lmi_finder *f, const struct lm_tensor *t, struct lm_packed *p, struct lm_tensor *whole,
                 struct lm_err *e)
{
    int size;

    if (!lmi_ends(t->name, ".qweight"))
        return 0;
    if (settings(f, &size, e) < 0 || lmi_expect(t, LMI_D(I32), 2, NULL, e) < 0 ||
        lmi_claim(f, p, "qweight", "scales", true, &p->scales, e) < 0 ||
        lmi_claim(f, p, "qweight", "qzeros", true, &p->zeros, e) < 0)
        return -1;
    p->bits = 4;
    p->cols = t->shape[0];
    p->block_rows = 1;
    p->block_cols = size > 0 && (uint64_t)size < p->cols ? (uint64_t)size : p->cols;
    p->grid_cols = p->cols ? lmi_ceil(p->cols, p->block_cols) : 0;
    if (!lm_mul_u64(t->shape[1], 8, &p->rows))
        return lm_err_set(e, LM_MALFORMED, "tensor '%s': too large", t->name);
    uint64_t scales[2] = {p->grid_cols, p->rows}, zeros[2] = {p->grid_cols, t->shape[1]};
    if (lmi_expect(p->scales, LMI_REAL, 2, scales, e) < 0 || lmi_expect(p->zeros, LMI_D(I32), 2, zeros, e) < 0)
        return -1;
    whole->n_dims = 2;
    whole->shape[0] = p->rows;
    whole->shape[1] = p->cols;
    if (lmi_name(f, whole, t, "qweight", "weight", e) < 0)
        return -1;
    return lmi_scheme(f, p, e, "AWQ 4-bit, groups of %llu", (unsigned long long)p->block_cols) < 0 ? -1 : 1;
}

static uint32_t word_at(const struct lm_tensor *t, uint64_t row, uint64_t at)
{
    uint8_t raw[4];

    lm_tensor_read(t, (row * t->shape[1] + at) * 4, 4, raw);
    return lm_load_u32le(raw);
}

static void load_group(const struct lm_packed *p, uint64_t g, uint64_t word, float zero[8], float scale[8])
{
    uint32_t z = word_at(p->zeros, g, word);

    lm_tensor_to_f32(p->scales, g * p->rows + 8 * word, 8, scale, NULL);
    for (unsigned o = 0; o < 8; o++)
        zero[o] = (float)(z >> 4 * place[o] & 15);
}

/* Outputs [8 word + from, + n) of all the columns. */
static void read_word(const struct lm_packed *p, uint64_t word, uint64_t from, uint64_t n, uint64_t col, uint64_t n_cols,
                      float *dst)
{
    const struct lmi_unpack *k = lmi_unpack();
    uint64_t known = UINT64_MAX, end = col + n_cols;
    float zero[8], scale[8], eight[8 * 8];
    uint32_t w[8];

    for (uint64_t at = col, step; at < end; at += step) {
        uint64_t g = at / p->block_cols, stop = (g + 1) * p->block_cols;
        step = stop < end ? stop - at : end - at;
        step = step < 8 ? step : 8;
        if (g != known)
            load_group(p, known = g, word, zero, scale);
        for (uint64_t j = 0; j < step; j++)
            w[j] = word_at(p->of[0], at + j, word);
        if (n == 8) {
            k->nibbles(dst + (at - col), n_cols, w, step, 8, zero, scale);
            continue;
        }
        k->nibbles(eight, 8, w, step, 8, zero, scale);
        for (uint64_t o = 0; o < n; o++)
            memcpy(dst + o * n_cols + (at - col), eight + 8 * (from + o), step * sizeof *dst);
    }
}

static void read(const struct lm_packed *p, uint64_t row, uint64_t n_rows, uint64_t col, uint64_t n_cols, float *dst)
{
    for (uint64_t n; n_rows > 0; row += n, n_rows -= n, dst += n * n_cols) {
        uint64_t from = row % 8;
        n = 8 - from < n_rows ? 8 - from : n_rows;
        read_word(p, row / 8, from, n, col, n_cols, dst);
    }
}

static void group(const struct lm_packed *p, uint64_t row, uint64_t g, float *scale, int *zero)
{
    lm_tensor_to_f32(p->scales, g * p->rows + row, 1, scale, NULL);
    *zero = (int)(word_at(p->zeros, g, row / 8) >> 4 * place[row % 8] & 15);
}

const struct lmi_packing lmi_packing_awq = {.methods = {"awq"}, .claim = claim, .read = read, .group = group};
