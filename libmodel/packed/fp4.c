/* Four-bit floats (E2M1, the even element in the low nibble) under a scale for
 * every 32 or 16 of a row.
 *
 * MXFP4, scale 2^(u8 - 127) for 32; shown as the ggml type MXFP4, which holds
 * the same bits in another order, so nothing is rounded (its minus zero reads as
 * zero, as in ggml):
 *   gpt-oss             X_blocks U8 [experts, rows, in / 32, 16], X_scales U8 [experts, rows, in / 32]
 *   compressed-tensors  X.weight_packed U8 [out, in / 2], X.weight_scale U8 [out, in / 32]
 *
 * NVFP4, an E4M3 scale for 16 and an F32 one for all:
 *   compressed-tensors  X.weight_packed U8 [out, in / 2], X.weight_scale F8_E4M3 [out, in / 16],
 *                       X.weight_global_scale F32 [1]: w = e2m1 * (scale / global)
 *   ModelOpt            X.weight U8, X.weight_scale, X.weight_scale_2: w = e2m1 * (scale * scale_2)
 *
 *   GGUF (llama.cpp)    X.weight NVFP4, X.scale F32 [1] or one an expert: w = block's value * scale
 *
 * https://github.com/openai/gpt-oss, https://github.com/vllm-project/compressed-tensors */
#include "libmodel/packed/packed.h"

#include <string.h>

#include "libmodel/dtype/blocks.h"
#include "libmodel/dtype/minifloat.h"

/* ---- MXFP4 */

static int blocks_shape(const struct lm_tensor *t, struct lm_tensor *whole, struct lm_err *e)
{
    if (t->n_dims < 3 || t->dtype != LM_U8 || t->shape[t->n_dims - 1] != 16)
        return lm_err_set(e, LM_MISMATCH, "tensor '%s' is not U8 [experts, rows, blocks, 16]", t->name);
    whole->n_dims = t->n_dims - 1;
    memcpy(whole->shape, t->shape, sizeof whole->shape);
    whole->shape[whole->n_dims] = 0;
    if (!lm_mul_u64(t->shape[whole->n_dims - 1], 32, &whole->shape[whole->n_dims - 1]))
        return lm_err_set(e, LM_MALFORMED, "tensor '%s': too large", t->name);
    whole->dtype = LM_MXFP4;
    return 0;
}

static int claim_experts(struct lmi_finder *f, const struct lm_tensor *t, struct lm_packed *p, struct lm_tensor *whole,
                         struct lm_err *e)
{
    if (!lmi_ends(t->name, "_blocks"))
        return 0;
    if (lmi_claim(f, p, "blocks", "scales", true, &p->scales, e) < 0 || blocks_shape(t, whole, e) < 0 ||
        lmi_expect(p->scales, LMI_D(U8), t->n_dims - 1, t->shape, e) < 0)
        return -1;
    return lmi_name(f, whole, t, "_blocks", "", e) < 0 || lmi_scheme(f, p, e, "MXFP4") < 0 ? -1 : 1;
}

static int claim_mxfp4(struct lmi_finder *f, const struct lm_tensor *t, struct lm_packed *p, struct lm_tensor *whole,
                       struct lm_err *e)
{
    const struct lm_tensor *s = lmi_ends(t->name, ".weight_packed") ? lmi_beside_tensor(f, t, "packed", "scale") : NULL;

    if (t->dtype != LM_U8 || !s || (s->dtype != LM_U8 && s->dtype != LM_F8_E8M0))
        return 0;
    if (lmi_expect(t, LMI_D(U8), 2, NULL, e) < 0 || lmi_claim(f, p, "packed", "scale", true, &p->scales, e) < 0)
        return -1;
    uint64_t shape[2] = {t->shape[0], t->shape[1] / 16};
    if (t->shape[1] % 16)
        return lm_err_set(e, LM_MISMATCH, "tensor '%s' has rows of %llu bytes, which are not whole MXFP4 blocks of 16",
                          t->name, (unsigned long long)t->shape[1]);
    if (lmi_expect(p->scales, LMI_D(U8) | LMI_D(F8_E8M0), 2, shape, e) < 0)
        return -1;
    *whole = (struct lm_tensor){.dtype = LM_MXFP4, .n_dims = 2, .shape = {t->shape[0], t->shape[1] * 2}};
    return lmi_name(f, whole, t, "_packed", "", e) < 0 || lmi_scheme(f, p, e, "MXFP4") < 0 ? -1 : 1;
}

/* Nibbles of neighbours to nibbles of halves: 16 bytes of 32 elements. */
static void repack(uint8_t *to, const uint8_t *from)
{
    for (int j = 0; j < 8; j++) {
        uint8_t low = from[j], high = from[j + 8];
        to[2 * j] = (uint8_t)((low & 15) | (high & 15) << 4);
        to[2 * j + 1] = (uint8_t)(low >> 4 | (high & 0xf0));
    }
}

static void mxfp4_blocks(const struct lm_packed *p, uint64_t first, uint64_t n, uint8_t *dst)
{
    const uint8_t *codes = p->of[0]->data + 16 * first, *scales = p->scales->data + first;

    for (uint64_t i = 0; i < n; i++, codes += 16, dst += sizeof(struct lmi_mxfp4)) {
        dst[0] = scales[i];
        repack(dst + 1, codes);
    }
}

const struct lmi_packing lmi_packing_mxfp4_experts = {
    .methods = {"mxfp4"}, .claim = claim_experts, .blocks = mxfp4_blocks};
const struct lmi_packing lmi_packing_mxfp4 = {
    .methods = {"compressed-tensors"}, .claim = claim_mxfp4, .blocks = mxfp4_blocks};

/* ---- NVFP4 */

static int nvfp4_parts(struct lmi_finder *f, struct lm_packed *p, const char *old, bool modelopt, struct lm_err *e)
{
    const struct lm_tensor *t = p->of[0];
    uint64_t shape[2] = {t->shape[0], t->shape[1] / 8}, one = 1;

    if (lmi_claim(f, p, old, modelopt ? "_scale" : "scale", true, &p->scales, e) < 0 ||
        lmi_claim(f, p, old, modelopt ? "_scale_2" : "global_scale", true, &p->global, e) < 0)
        return -1;
    if (t->shape[1] % 8)
        return lm_err_set(e, LM_MISMATCH, "tensor '%s' has rows of %llu bytes, which are not whole NVFP4 groups of 8", t->name,
                          (unsigned long long)t->shape[1]);
    if (lmi_expect(p->scales, LMI_D(F8_E4M3), 2, shape, e) < 0)
        return -1;
    return lmi_expect(p->global, LMI_D(F32), p->global->n_dims == 0 ? 0 : 1, &one, e);
}

static int claim_nvfp4(struct lmi_finder *f, const struct lm_tensor *t, struct lm_packed *p, struct lm_tensor *whole,
                       struct lm_err *e)
{
    bool modelopt = strcmp(f->method, "modelopt") == 0;
    const char *end = modelopt ? ".weight" : ".weight_packed", *old = modelopt ? "" : "packed";
    const struct lm_tensor *s;

    if (t->dtype != LM_U8 || !lmi_ends(t->name, end))
        return 0;
    s = lmi_beside_tensor(f, t, old, modelopt ? "_scale" : "scale");
    if (s && s->dtype != LM_F8_E4M3)
        return 0;
    if (lmi_expect(t, LMI_D(U8), 2, NULL, e) < 0 || nvfp4_parts(f, p, old, modelopt, e) < 0)
        return -1;
    p->divides = !modelopt;
    p->rows = t->shape[0];
    p->cols = 2 * t->shape[1];
    *whole = (struct lm_tensor){.dtype = LM_F32, .n_dims = 2, .shape = {p->rows, p->cols}};
    return lmi_name(f, whole, t, modelopt ? "" : "_packed", "", e) < 0 || lmi_scheme(f, p, e, "NVFP4") < 0 ? -1 : 1;
}

static float group_scale(const struct lm_packed *p, uint64_t at, float global)
{
    float s;

    lm_tensor_to_f32(p->scales, at, 1, &s, NULL);
    return p->divides ? s / global : s * global;
}

static void read(const struct lm_packed *p, uint64_t row, uint64_t n_rows, uint64_t col, uint64_t n_cols, float *dst)
{
    float global, value[16];

    lm_tensor_to_f32(p->global, 0, 1, &global, NULL);
    for (; n_rows > 0; row++, n_rows--)
        for (uint64_t c = col, end = col + n_cols; c < end;) {
            uint64_t at = row * p->cols + c, stop = c / 16 * 16 + 16;
            float scale = group_scale(p, at / 16, global);
            for (int i = 0; i < 16; i++)
                value[i] = (i == 8 ? -0.0f : (float)lmi_e2m1_twice(i) * 0.5f) * scale;
            for (; c < stop && c < end; c++, at++)
                *dst++ = value[p->of[0]->data[at / 2] >> at % 2 * 4 & 15];
        }
}

const struct lmi_packing lmi_packing_nvfp4 = {
    .methods = {"compressed-tensors", "modelopt"}, .claim = claim_nvfp4, .read = read};

/* ---- NVFP4 in GGUF */

static int claim_gguf(struct lmi_finder *f, const struct lm_tensor *t, struct lm_packed *p, struct lm_tensor *whole,
                      struct lm_err *e)
{
    if (t->dtype != LM_NVFP4 || t->n_dims < 2 || !lmi_ends(t->name, ".weight") || !lmi_beside_tensor(f, t, "weight", "scale"))
        return 0;
    p->cols = t->shape[t->n_dims - 1];
    p->rows = t->shape[t->n_dims - 2];
    p->outer = p->rows && p->cols ? t->n_elems / p->rows / p->cols : 0;
    if (lmi_claim(f, p, "weight", "scale", true, &p->scales, e) < 0 || lmi_claim(f, p, "weight", "input_scale", false, NULL, e) < 0 ||
        lmi_expect(p->scales, LMI_D(F32), 1, &p->outer, e) < 0)
        return -1;
    *whole = *t;
    whole->dtype = LM_F32;
    return lmi_name(f, whole, t, "", "", e) < 0 || lmi_scheme(f, p, e, "NVFP4 and a scale") < 0 ? -1 : 1;
}

static void read_scaled(const struct lm_packed *p, uint64_t row, uint64_t n_rows, uint64_t col, uint64_t n_cols, float *dst)
{
    float scale, block[LMI_QK_NVFP4];

    for (; n_rows > 0; row++, n_rows--) {
        lm_tensor_to_f32(p->scales, row / p->rows, 1, &scale, NULL);
        for (uint64_t c = col, end = col + n_cols; c < end;) {
            uint64_t first = c / LMI_QK_NVFP4 * LMI_QK_NVFP4;
            lm_tensor_to_f32(p->of[0], row * p->cols + first, LMI_QK_NVFP4, block, NULL);
            for (; c < end && c < first + LMI_QK_NVFP4; c++)
                *dst++ = block[c - first] * scale;
        }
    }
}

const struct lmi_packing lmi_packing_nvfp4_gguf = {.methods = {"gguf"}, .claim = claim_gguf, .read = read_scaled};

/* ---- as blocks and a scale */

/* ggml reads neither the sign of a block's scale nor its NaN. */
static bool scales_fit(const struct lm_packed *p)
{
    for (uint64_t i = 0; i < p->scales->n_elems; i++)
        if (p->scales->data[i] >= 0x7f)
            return false;
    return true;
}

static void nvfp4_blocks(const struct lm_packed *p, uint64_t first, uint64_t n, uint8_t *dst)
{
    const uint8_t *codes = p->of[0]->data + 32 * first, *scales = p->scales->data + 4 * first;

    for (; n > 0; n--, codes += 32, scales += 4, dst += sizeof(struct lmi_nvfp4)) {
        struct lmi_nvfp4 *b = (void *)dst;
        memcpy(b->scale, scales, sizeof b->scale);
        for (int g = 0; g < 4; g++)
            for (int j = 0; j < 8; j++) { /* elements j and j + 8 of 16 */
                const uint8_t *c = codes + 8 * g + j / 2;
                int shift = j % 2 * 4;
                b->qs[8 * g + j] = (uint8_t)((c[0] >> shift & 15) | (c[4] >> shift & 15) << 4);
            }
    }
}

static const struct lmi_packing as_nvfp4 = {.blocks = nvfp4_blocks};

int lm_tensor_as_scaled_blocks(struct lm_model *m, const struct lm_tensor *t, struct lm_tensor *out, float *scale,
                               struct lm_err *e)
{
    const struct lm_packed *p = t->packed;
    struct lm_packed *own;
    float global;

    if (p && p->how == &lmi_packing_nvfp4_gguf) { /* they are there */
        *out = *p->of[0];
        lm_tensor_to_f32(p->scales, 0, p->outer, scale, NULL);
        return 1;
    }
    if (!p || p->how != &lmi_packing_nvfp4 || p->cols % LMI_QK_NVFP4 || !scales_fit(p))
        return 0;
    if (!(own = lm_arena_alloc(&m->arena, sizeof *own)))
        return lmi_nomem(e);
    *own = *p;
    own->how = &as_nvfp4;
    lm_tensor_to_f32(p->global, 0, 1, &global, NULL);
    *scale = p->divides ? 1 / global : global;
    *out = *t;
    out->dtype = LM_NVFP4;
    out->n_bytes = lm_dtype_bytes(LM_NVFP4, t->n_elems);
    out->packed = own;
    return 1;
}
