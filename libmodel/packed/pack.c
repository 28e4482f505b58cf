/* Quantizing to nearest into the tensors of FP8 and of compressed-tensors.
 *
 * Scales and codes are those of compressed-tensors' calculate_qparams and
 * quantize in f32: scale = max |w| / half the number of steps (448 for FP8,
 * 127.5 and 7.5 for integers; 2^-23 where all are 0), rounded to its type
 * first; code = w / scale, clamped, to nearest even. */
#include "libmodel/pack.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "libmodel/packed/packed.h"

enum { BLOCK = 128, SPAN = 8192 };

static const struct lm_pack_type types[] = {
    {"FP8", "compressed-tensors", "float-quantized", LM_PACK_FP8, LM_PACK_ROW},
    {"FP8_TENSOR", "compressed-tensors", "float-quantized", LM_PACK_FP8, LM_PACK_TENSOR},
    {"FP8_BLOCK", "fp8", NULL, LM_PACK_FP8, LM_PACK_BLOCK},
    {"INT8", "compressed-tensors", "int-quantized", LM_PACK_INT8, LM_PACK_ROW},
    {"INT4", "compressed-tensors", "pack-quantized", LM_PACK_INT4, LM_PACK_GROUP},
};

const struct lm_pack_type *lm_pack_at(size_t i)
{
    return i < sizeof types / sizeof *types ? &types[i] : NULL;
}

const struct lm_pack_type *lm_pack_find(const char *name)
{
    for (size_t i = 0; lm_pack_at(i); i++)
        if (strcasecmp(types[i].name, name) == 0)
            return &types[i];
    return NULL;
}

/* ---- state, shared by the parts of a weight */

struct lmi_pack {
    const struct lm_tensor *w;
    const struct lm_pack_type *type;
    enum lm_dtype scale;
    uint64_t cols, group;
    float *grid;           /* scales known beforehand */
    uint64_t grid_cols;
    atomic_bool failed;
};

static float half_steps(enum lm_pack_codes c)
{
    return c == LM_PACK_FP8 ? 448 : c == LM_PACK_INT8 ? 127.5f : 7.5f;
}

static float max_abs(const float *x, uint64_t n)
{
    uint32_t max = 0;

    for (uint64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        u &= 0x7fffffff;
        max = u > max ? u : max;
    }
    float f;
    memcpy(&f, &max, sizeof f);
    return f;
}

/* Of a maximum, as it will be stored. */
static float scale_of(struct lmi_pack *k, float max)
{
    float s = max / half_steps(k->type->codes);

    if (!isfinite(max))
        atomic_store_explicit(&k->failed, true, memory_order_relaxed);
    if (k->scale == LM_BF16)
        s = lm_bf16_to_f32(lm_f32_to_bf16(s));
    if (k->scale == LM_F16)
        s = lm_f16_to_f32(lm_f32_to_f16(s));
    return s == 0 ? k->scale == LM_BF16 ? 0x1p-7f : k->scale == LM_F16 ? 0x1p-10f : 0x1p-23f : s;
}

static float row_scale(struct lmi_pack *k, uint64_t row, uint64_t col, uint64_t n)
{
    float x[SPAN], max = 0;

    for (uint64_t at = 0, step; at < n; at += step) {
        step = n - at < SPAN ? n - at : SPAN;
        lm_tensor_to_f32(k->w, row * k->cols + col + at, step, x, NULL);
        float m = max_abs(x, step);
        max = m > max || m != m ? m : max;
    }
    return scale_of(k, max);
}

/* The scale of the group that a column lies in, and where the group ends. */
static float scale_at(struct lmi_pack *k, uint64_t row, uint64_t col, uint64_t *end)
{
    uint64_t g = col / k->group;

    *end = (g + 1) * k->group < k->cols ? (g + 1) * k->group : k->cols;
    if (k->grid)
        return k->grid[(k->type->scales == LM_PACK_BLOCK ? row / BLOCK : 0) * k->grid_cols + g];
    return row_scale(k, row, g * k->group, *end - g * k->group);
}

/* ---- codes */

static void encode_fp8(uint8_t *dst, float *x, uint64_t n, float scale)
{
    for (uint64_t i = 0; i < n; i++) {
        float v = x[i] / scale;
        v = v > 448 ? 448 : v;
        x[i] = v < -448 ? -448 : v;
    }
    lm_dtype_info(LM_F8_E4M3)->from_f32(dst, x, n);
}

static void encode_int(int8_t *dst, const float *x, uint64_t n, float scale, float most)
{
    for (uint64_t i = 0; i < n; i++) {
        float v = x[i] / scale, low = -most - 1;
        v = v > most ? most : v;
        v = v < low ? low : v;
        dst[i] = (int8_t)rintf(v == v ? v : 0);
    }
}

/* Codes [col, col + n) of a row, one a byte; integers of 4 bits too. */
static void encode_run(struct lmi_pack *k, uint64_t row, uint64_t col, uint64_t n, uint8_t *dst)
{
    float x[SPAN];

    for (uint64_t stop = col + n, end, step; col < stop; col += step, dst += step) {
        float scale = scale_at(k, row, col, &end);
        step = (end < stop ? end : stop) - col;
        for (uint64_t at = 0, part; at < step; at += part) {
            part = step - at < SPAN ? step - at : SPAN;
            lm_tensor_to_f32(k->w, row * k->cols + col + at, part, x, NULL);
            if (k->type->codes == LM_PACK_FP8)
                encode_fp8(dst + at, x, part, scale);
            else
                encode_int((int8_t *)dst + at, x, part, scale, k->type->codes == LM_PACK_INT8 ? 127 : 7);
        }
    }
}

static void codes(const struct lm_packed *p, uint64_t first, uint64_t n, uint8_t *dst)
{
    for (uint64_t step; n > 0; first += step, n -= step, dst += step) {
        uint64_t row = first / p->pack->cols, col = first % p->pack->cols;
        step = p->pack->cols - col < n ? p->pack->cols - col : n;
        encode_run(p->pack, row, col, step, dst);
    }
}

/* Words [at, at + n) of a row of 4-bit codes stored plus 8, the rest of the last word 0. */
static void pack_words(struct lmi_pack *k, uint64_t row, uint64_t at, uint64_t n, uint8_t *dst)
{
    uint8_t q[SPAN];

    for (uint64_t step; n > 0; at += step, n -= step, dst += 4 * step) {
        step = n < SPAN / 8 ? n : SPAN / 8;
        uint64_t col = 8 * at, elems = k->cols - col < 8 * step ? k->cols - col : 8 * step;
        encode_run(k, row, col, elems, q);
        for (uint64_t i = 0; i < elems; i++)
            q[i] = (uint8_t)(q[i] + 8) & 15;
        memset(q + elems, 0, 8 * step - elems);
        for (uint64_t i = 0; i < 4 * step; i++)
            dst[i] = (uint8_t)(q[2 * i] | q[2 * i + 1] << 4);
    }
}

static void words(const struct lm_packed *p, uint64_t first, uint64_t n, uint8_t *dst)
{
    uint64_t width = lmi_ceil(p->pack->cols, 8);

    for (uint64_t step; n > 0; first += step, n -= step, dst += 4 * step) {
        uint64_t at = first % width;
        step = width - at < n ? width - at : n;
        pack_words(p->pack, first / width, at, step, dst);
    }
}

/* ---- scales and shape */

static float scale_number(const struct lm_packed *p, uint64_t i)
{
    struct lmi_pack *k = p->pack;
    uint64_t end;

    return k->grid ? k->grid[i] : scale_at(k, i / k->grid_cols, i % k->grid_cols * k->group, &end);
}

static void scales_f32(const struct lm_packed *p, uint64_t row, uint64_t n_rows, uint64_t col, uint64_t n_cols, float *dst)
{
    for (uint64_t i = 0; i < n_rows; i++)
        for (uint64_t j = 0; j < n_cols; j++)
            *dst++ = scale_number(p, (row + i) * p->cols + col + j);
}

static void scales_16(const struct lm_packed *p, uint64_t first, uint64_t n, uint8_t *dst)
{
    for (uint64_t i = 0; i < n; i++) {
        float s = scale_number(p, first + i);
        lm_store_u16le(dst + 2 * i, p->pack->scale == LM_BF16 ? lm_f32_to_bf16(s) : lm_f32_to_f16(s));
    }
}

static void shape(const struct lm_packed *p, uint64_t first, uint64_t n, uint8_t *dst)
{
    for (uint64_t i = 0; i < n; i++)
        lm_store_u64le(dst + 8 * i, p->pack->w->shape[first + i]);
}

static const struct lmi_packing as_codes = {.blocks = codes}, as_words = {.blocks = words},
                                as_f32 = {.read = scales_f32}, as_16 = {.blocks = scales_16}, as_shape = {.blocks = shape};

/* ---- making */

/* A pass over the weight, tile rows at a time. */
static int make_grid(struct lm_arena *a, struct lmi_pack *k, struct lm_err *e)
{
    bool one = k->type->scales == LM_PACK_TENSOR;
    uint64_t rows = k->w->shape[0], grid_rows = one ? 1 : lmi_ceil(rows, BLOCK), n = grid_rows * k->grid_cols;
    float x[SPAN];

    if (!(k->grid = lm_arena_array(a, (size_t)n, sizeof *k->grid)))
        return lmi_nomem(e);
    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t c = 0, step; c < k->cols; c += step) {
            step = k->cols - c < SPAN ? k->cols - c : SPAN; /* whole blocks */
            lm_tensor_to_f32(k->w, r * k->cols + c, step, x, NULL);
            for (uint64_t at = 0, part; at < step; at += part) {
                float *s = &k->grid[(one ? 0 : r / BLOCK) * k->grid_cols + (c + at) / k->group];
                part = k->group < step - at ? k->group : step - at;
                float m = max_abs(x + at, part);
                *s = m > *s || m != m ? m : *s;
            }
        }
    for (uint64_t i = 0; i < n; i++)
        k->grid[i] = scale_of(k, k->grid[i]);
    return 0;
}

struct part { const char *suffix; const struct lmi_packing *how; enum lm_dtype dtype; unsigned n_dims; uint64_t shape[2]; };

static int add_part(struct lm_arena *a, struct lmi_pack *k, const struct part *x, struct lm_tensor *out, struct lm_err *e)
{
    struct lm_packed *p = lm_arena_alloc(a, sizeof *p);
    size_t n = strlen(k->w->name) + strlen(x->suffix) + 1;
    char *name = lm_arena_alloc(a, n);

    if (!p || !name)
        return lmi_nomem(e);
    snprintf(name, n, "%s%s", k->w->name, x->suffix);
    *p = (struct lm_packed){.how = x->how, .scheme = k->type->name, .of = {k->w}, .n_of = 1, .meant = x->dtype,
                            .cols = x->n_dims ? x->shape[x->n_dims - 1] : 1, .pack = k};
    *out = (struct lm_tensor){.name = name, .dtype = x->dtype, .n_dims = x->n_dims, .shape = {x->shape[0], x->shape[1]},
                              .file = k->w->file, .offset = k->w->offset, .packed = p};
    return lmi_tensor_measure(lm_span_str(name), out->dtype, out->shape, out->n_dims, &out->n_elems, &out->n_bytes, e);
}

static int check(const struct lm_tensor *w, const struct lm_pack_type *type, uint32_t group, struct lm_err *e)
{
    if (w->n_dims != 2 || w->n_elems == 0 || !lm_dtype_info(w->dtype)->to_f32 || !lmi_ends(w->name, ".weight"))
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s' is not a matrix called .weight: it cannot be stored as %s", w->name,
                          type->name);
    if (lm_dtype_info(w->dtype)->block_elems > 1)
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s' is %s, which is not quantized again as %s", w->name,
                          lm_dtype_name(w->dtype), type->name);
    if (type->scales == LM_PACK_GROUP && (group == 0 || group > SPAN || w->shape[1] % group))
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s': rows of %llu are not whole groups of %u", w->name,
                          (unsigned long long)w->shape[1], group);
    return 0;
}

int lm_tensor_pack(struct lm_arena *a, const struct lm_tensor *w, const struct lm_pack_type *type, uint32_t group,
                   enum lm_dtype scale, struct lm_tensor out[LM_PACK_PARTS], size_t *n, struct lm_err *e)
{
    struct lmi_pack *k = check(w, type, group, e) < 0 ? NULL : lm_arena_alloc(a, sizeof *k);
    uint64_t rows = w->shape[0], cols = w->shape[1], width;

    *n = 0;
    if (!k)
        return e && e->code == LM_UNSUPPORTED ? -1 : lmi_nomem(e);
    *k = (struct lmi_pack){.w = w, .type = type, .scale = scale, .cols = cols};
    k->group = type->scales == LM_PACK_GROUP ? group : type->scales == LM_PACK_BLOCK ? BLOCK : cols;
    k->grid_cols = width = lmi_ceil(cols, k->group);
    if ((type->scales == LM_PACK_TENSOR || type->scales == LM_PACK_BLOCK) && make_grid(a, k, e) < 0)
        return -1;
    bool int4 = type->codes == LM_PACK_INT4, one = type->scales == LM_PACK_TENSOR, block = type->scales == LM_PACK_BLOCK;
    struct part parts[LM_PACK_PARTS] = {
        {int4 ? "_packed" : "", int4 ? &as_words : &as_codes, int4 ? LM_I32 : type->codes == LM_PACK_INT8 ? LM_I8 : LM_F8_E4M3,
         2, {rows, int4 ? lmi_ceil(cols, 8) : cols}},
        {block ? "_scale_inv" : "_scale", scale == LM_F32 ? &as_f32 : &as_16, scale, one ? 1 : 2,
         {one ? 1 : block ? lmi_ceil(rows, BLOCK) : rows, width}},
        {"_shape", &as_shape, LM_I64, 1, {2, 0}},
    };
    for (; *n < (int4 ? 3u : 2u); ++*n)
        if (add_part(a, k, &parts[*n], &out[*n], e) < 0)
            return -1;
    return 0;
}

bool lm_tensor_pack_failed(const struct lm_tensor *part)
{
    return part->packed && part->packed->pack && atomic_load_explicit(&part->packed->pack->failed, memory_order_relaxed);
}
