/* GPTQ (AutoGPTQ, GPTQModel): w[o][i] = scales[g][o] * (q - zero[g][o]), g = g_idx[i].
 *
 *   X.qweight  I32 [ceil(in * bits / 32), out]  codes of a column packed densely along in, lowest first
 *   X.qzeros   I32 [groups, ceil(out * bits / 32)] zero points, packed along out in the same way
 *   X.scales   F16 [groups, out]
 *   X.g_idx    I32 [in]                          group of every input; may be absent
 *
 * Format 1 ("gptq", what a configuration without checkpoint_format means)
 * stores the zero point less one, format 2 ("gptq_v2") as it is. 2, 3, 4 and 8
 * bits; "dynamic" settings of a layer are read off its shapes. https://github.com/ModelCloud/GPTQModel, https://github.com/AutoGPTQ/AutoGPTQ */
#include "libmodel/packed/packed.h"

#include <string.h>

enum { TILE = 32 };

/* ---- recognising */

static int settings(struct lmi_finder *f, struct lm_packed *p, int *group, struct lm_err *e)
{
    const json_t *v = json_object_get(f->config, "checkpoint_format");
    const char *format = json_string_value(v ? v : json_object_get(f->config, "format"));
    int bits;

    if (lmi_setting(f->config, "bits", 4, &bits, e) < 0 || lmi_setting(f->config, "group_size", 128, group, e) < 0)
        return -1;
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
        return lm_err_set(e, LM_UNSUPPORTED, "config.json: GPTQ of %d bits is not read (2, 3, 4 and 8 are)", bits);
    if (format && strcmp(format, "gptq") != 0 && strcmp(format, "gptq_v2") != 0)
        return lm_err_set(e, LM_UNSUPPORTED, "config.json: checkpoint_format \"%s\" of GPTQ is not read (gptq and gptq_v2 "
                          "are; others hold codes in the order of one kernel)", format);
    p->bits = (unsigned)bits;
    p->zero_shift = !format || strcmp(format, "gptq") == 0;
    return 0;
}

static unsigned bits_of(const struct lm_packed *p, const struct lm_tensor *t, uint64_t in)
{
    static const unsigned known[] = {2, 3, 4, 8};

    for (size_t i = 0; in <= UINT32_MAX && i < sizeof known / sizeof *known; i++)
        if (lmi_ceil(in * known[i], 32) == t->shape[0])
            return known[i];
    return p->bits;
}

/* The number of inputs: of g_idx, else what the words hold. */
static int shape_of(struct lm_packed *p, const struct lm_tensor *t, int group, struct lm_err *e)
{
    uint64_t in = p->order ? p->order->n_elems : 0;

    if (t->n_dims != 2 || t->dtype != LM_I32)
        return lmi_expect(t, LMI_D(I32), 2, NULL, e);
    if (!p->order && !lm_mul_u64(t->shape[0], 32, &in))
        return lm_err_set(e, LM_MALFORMED, "tensor '%s': too large", t->name);
    if (p->order) /* settings may differ from layer to layer ("dynamic"): the shapes know */
        p->bits = bits_of(p, t, in);
    in = p->order ? in : in / p->bits;
    if (in == 0 || in > UINT32_MAX || lmi_ceil(in * p->bits, 32) != t->shape[0] || in % 8)
        return lm_err_set(e, LM_MISMATCH, "tensor '%s' has %llu rows of words, expected those of %llu inputs of %u bits",
                          t->name, (unsigned long long)t->shape[0], (unsigned long long)in, p->bits);
    p->cols = in;
    p->rows = t->shape[1];
    p->block_rows = 1;
    p->block_cols = group > 0 && (uint64_t)group < in ? (uint64_t)group : in;
    p->grid_cols = lmi_ceil(in, p->block_cols);
    if (p->order && p->scales->n_dims == 2 && p->scales->shape[0] && p->scales->shape[0] != p->grid_cols) {
        p->grid_cols = p->scales->shape[0];
        p->block_cols = lmi_ceil(in, p->grid_cols);
    }
    return 0;
}

static int claim(struct lmi_finder *f, const struct lm_tensor *t, struct lm_packed *p, struct lm_tensor *whole,
                 struct lm_err *e)
{
    int group;

    if (!lmi_ends(t->name, ".qweight"))
        return 0;
    if (settings(f, p, &group, e) < 0 || lmi_claim(f, p, "qweight", "scales", true, &p->scales, e) < 0 ||
        lmi_claim(f, p, "qweight", "qzeros", true, &p->zeros, e) < 0 ||
        lmi_claim(f, p, "qweight", "g_idx", false, &p->order, e) < 0 || shape_of(p, t, group, e) < 0)
        return -1;
    uint64_t scales[2] = {p->grid_cols, p->rows}, zeros[2] = {p->grid_cols, lmi_ceil(p->rows * p->bits, 32)};
    if (lmi_expect(p->scales, LMI_REAL, 2, scales, e) < 0 || lmi_expect(p->zeros, LMI_D(I32), 2, zeros, e) < 0 ||
        (p->order && lmi_expect(p->order, LMI_D(I32), 1, &p->cols, e) < 0))
        return -1;
    whole->n_dims = 2;
    whole->shape[0] = p->rows;
    whole->shape[1] = p->cols;
    if (lmi_name(f, whole, t, "qweight", "weight", e) < 0)
        return -1;
    return lmi_scheme(f, p, e, p->block_cols == p->cols ? "GPTQ %u-bit, a scale a row" : "GPTQ %u-bit, groups of %llu%s",
                      p->bits, (unsigned long long)p->block_cols,
                      json_is_true(json_object_get(f->config, "desc_act")) ? ", by activation order" : "") < 0 ? -1 : 1;
}

/* ---- reading */

/* The word that holds bit `bit` of a row of words and the one behind it. */
static uint64_t two_words(const struct lm_tensor *t, uint64_t row, uint64_t bit)
{
    uint64_t n = t->shape[1], at = bit / 32;
    uint8_t raw[8] = {0};

    lm_tensor_read(t, (row * n + at) * 4, at + 1 < n ? 8 : 4, raw);
    return lm_load_u64le(raw);
}

static int zero_at(const struct lm_packed *p, uint32_t g, uint64_t out)
{
    uint64_t bit = out * p->bits;

    return (int)(two_words(p->zeros, g, bit) >> bit % 32 & ((1u << p->bits) - 1)) + p->zero_shift;
}

/* Scales and zero points of one group for n outputs, each eight apart. */
static void load_group(const struct lm_packed *p, uint32_t g, uint64_t out, uint64_t n, float *zero, float *scale)
{
    float s[TILE];

    lm_tensor_to_f32(p->scales, g * p->rows + out, n, s, NULL);
    for (uint64_t o = 0; o < n; o++) {
        scale[8 * o] = s[o];
        zero[8 * o] = (float)zero_at(p, g, out + o);
    }
}

struct tile { uint32_t group[8]; bool known; float zero[TILE * 8], scale[TILE * 8]; };

/* The groups of eight inputs: one, unless they are in the order of activations. */
static void load_groups(const struct lm_packed *p, struct tile *t, uint64_t col, uint64_t out, uint64_t n)
{
    for (unsigned j = 0; j < 8; j++) {
        uint32_t g = col + j < p->cols ? lmi_group_of(p, col + j) : 0;
        if (t->known && t->group[j] == g)
            continue;
        t->group[j] = g;
        if (j == 0 || g != t->group[j - 1]) {
            load_group(p, g, out, n, t->zero + j, t->scale + j);
            continue;
        }
        for (uint64_t o = 0; o < n; o++) {
            t->zero[8 * o + j] = t->zero[8 * o + j - 1];
            t->scale[8 * o + j] = t->scale[8 * o + j - 1];
        }
    }
    t->known = true;
}

/* Words of row `row` of qweight for n columns, in the machine's order; beyond the last row zeros. */
static void load_words(const struct lm_packed *p, uint64_t row, uint64_t out, uint64_t n, uint32_t *w)
{
    if (row >= p->of[0]->shape[0]) {
        memset(w, 0, n * sizeof *w);
        return;
    }
    lm_tensor_read(p->of[0], (row * p->rows + out) * 4, n * 4, w);
    for (uint64_t i = 0; __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ && i < n; i++)
        w[i] = __builtin_bswap32(w[i]);
}

/* Eight inputs of n outputs; dst of column `col`. */
static void read_eight(const struct lm_packed *p, const struct lmi_unpack *k, const struct tile *t, uint64_t col,
                       uint64_t out, uint64_t n, float *dst, uint64_t ld)
{
    uint64_t bit = col * p->bits;
    uint32_t w[TILE], next[TILE];

    load_words(p, bit / 32, out, n, w);
    if (p->bits != 4)
        load_words(p, bit / 32 + 1, out, n, next);
    k->columns(dst, ld, w, next, (unsigned)(bit % 32), p->bits, n, t->zero, t->scale);
}

static void read_tile(const struct lm_packed *p, uint64_t out, uint64_t n, uint64_t col, uint64_t n_cols, float *dst)
{
    const struct lmi_unpack *k = lmi_unpack();
    struct tile t = {.known = false};
    float edge[TILE * 8];

    for (uint64_t at = col / 8 * 8; at < col + n_cols; at += 8) {
        load_groups(p, &t, at, out, n);
        if (at >= col && at + 8 <= col + n_cols) {
            read_eight(p, k, &t, at, out, n, dst + (at - col), n_cols);
            continue;
        }
        read_eight(p, k, &t, at, out, n, edge, 8);
        for (uint64_t c = at > col ? at : col; c < at + 8 && c < col + n_cols; c++)
            for (uint64_t o = 0; o < n; o++)
                dst[o * n_cols + (c - col)] = edge[8 * o + (c - at)];
    }
}

static void read(const struct lm_packed *p, uint64_t row, uint64_t n_rows, uint64_t col, uint64_t n_cols, float *dst)
{
    for (uint64_t n; n_rows > 0; row += n, n_rows -= n, dst += n * n_cols) {
        n = n_rows < TILE ? n_rows : TILE;
        read_tile(p, row, n, col, n_cols, dst);
    }
}

static void group(const struct lm_packed *p, uint64_t row, uint64_t g, float *scale, int *zero)
{
    uint32_t at = lmi_group_of(p, g * p->block_cols);

    lm_tensor_to_f32(p->scales, at * p->rows + row, 1, scale, NULL);
    *zero = zero_at(p, at, row);
}

const struct lmi_packing lmi_packing_gptq = {
    .methods = {"gptq"}, .claim = claim, .ready = lmi_order_ready, .read = read, .group = group,
};
