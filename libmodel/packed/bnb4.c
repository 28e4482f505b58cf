/* bitsandbytes, 4 bits (nf4, fp4): w = quant_map[code] * absmax of its block.
 *
 *   X.weight                  U8 [n / 2, 1]  the whole matrix in a row, high nibble first
 *   X.weight.absmax           F32 [blocks], or U8 [blocks] when nested:
 *     absmax = nested_quant_map[u8] * nested_absmax[block / nested_blocksize] + nested_offset
 *   X.weight.quant_map        F32 [16]
 *   X.weight.nested_absmax    F32, X.weight.nested_quant_map F32 [256]
 *   X.weight.quant_state.bitsandbytes__nf4 (or fp4)  U8: JSON text with quant_type, blocksize, dtype, shape,
 *                             nested_blocksize, nested_offset
 *
 * https://github.com/bitsandbytes-foundation/bitsandbytes (functional.py, QuantState.as_dict) */
#include "libmodel/packed/packed.h"

#include <string.h>

#include "libmodel/parse/json.h"

/* ---- recognising */

static bool get_number(const json_t *o, const char *key, uint64_t *out)
{
    const json_t *v = json_object_get(o, key);

    *out = json_is_integer(v) && json_integer_value(v) > 0 ? (uint64_t)json_integer_value(v) : 0;
    return *out > 0 && *out <= UINT32_MAX;
}

static int bad_state(const struct lm_tensor *t, const char *what, struct lm_err *e)
{
    return lm_err_set(e, LM_MALFORMED, "tensor '%s': %s of its quant_state is missing or out of range", t->name, what);
}

static int read_state(const json_t *o, struct lm_packed *p, struct lm_tensor *whole, struct lm_err *e)
{
    const json_t *shape = json_object_get(o, "shape");
    const char *dtype = json_string_value(json_object_get(o, "dtype"));
    struct lm_tensor *w = whole;

    if (!get_number(o, "blocksize", &p->block_cols))
        return bad_state(p->of[0], "blocksize", e);
    w->n_dims = (unsigned)json_array_size(shape);
    if (json_array_size(shape) < 1 || json_array_size(shape) > LM_MAX_DIMS)
        return bad_state(p->of[0], "shape", e);
    for (unsigned i = 0; i < w->n_dims; i++) {
        json_int_t n = json_integer_value(json_array_get(shape, i));
        if (n < 1 || n > INT32_MAX)
            return bad_state(p->of[0], "shape", e);
        w->shape[i] = (uint64_t)n;
    }
    if (dtype)
        p->meant = strcmp(dtype, "float16") == 0 ? LM_F16 : strcmp(dtype, "bfloat16") == 0 ? LM_BF16 : LM_F32;
    if (!p->nested_scales)
        return 0;
    p->nested_offset = (float)json_number_value(json_object_get(o, "nested_offset"));
    return get_number(o, "nested_blocksize", &p->nested_block) ? 0 : bad_state(p->of[0], "nested_blocksize", e);
}

static int parse_state(const struct lm_tensor *state, struct lm_packed *p, struct lm_tensor *whole, struct lm_err *e)
{
    json_t *o;
    int rc;

    if (state->dtype != LM_U8 || state->n_elems > 65536)
        return lmi_expect(state, LMI_D(U8), 1, NULL, e) < 0 ? -1 : bad_state(p->of[0], "text", e);
    o = lm_json_parse(lm_span_of(state->data, (size_t)state->n_bytes), state->name, e);
    if (!o)
        return -1;
    rc = read_state(o, p, whole, e);
    json_decref(o);
    return rc;
}

static int check(struct lm_packed *p, const struct lm_tensor *whole, const struct lm_tensor *map, struct lm_err *e)
{
    const struct lm_tensor *t = p->of[0];
    uint64_t n, bytes, blocks, sixteen = 16, all = 256;

    if (lmi_tensor_measure(lm_span_str(t->name), LM_F32, whole->shape, whole->n_dims, &n, &bytes, e) < 0)
        return -1;
    if (t->dtype != LM_U8 || t->n_elems != (n + 1) / 2)
        return lm_err_set(e, LM_MISMATCH, "tensor '%s' is %s of %llu bytes, expected U8 of %llu (4 bits for each of %llu "
                          "weights)", t->name, lm_dtype_name(t->dtype), (unsigned long long)t->n_bytes,
                          (unsigned long long)((n + 1) / 2), (unsigned long long)n);
    blocks = lmi_ceil(n, p->block_cols);
    if (lmi_expect(map, LMI_D(F32), 1, &sixteen, e) < 0 ||
        lmi_expect(p->scales, p->nested_scales ? LMI_D(U8) : LMI_D(F32), 1, &blocks, e) < 0)
        return -1;
    if (!p->nested_scales)
        return 0;
    blocks = lmi_ceil(blocks, p->nested_block);
    return lmi_expect(p->nested_map, LMI_D(F32), 1, &all, e) < 0 ? -1
                                                                 : lmi_expect(p->nested_scales, LMI_D(F32), 1, &blocks, e);
}

static int claim(struct lmi_finder *f, const struct lm_tensor *t, struct lm_packed *p, struct lm_tensor *whole,
                 struct lm_err *e)
{
    static const char *const states[] = {".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"};
    const struct lm_tensor *state = NULL, *map;
    size_t k = 0;

    if (t->dtype != LM_U8 || !lmi_ends(t->name, ".weight"))
        return 0;
    for (; k < 2 && !(state = lmi_beside_tensor(f, t, "", states[k])); k++);
    if (!state)
        return strcmp(f->method, "bitsandbytes") ? 0 : lmi_claim(f, p, "", states[0], true, NULL, e);
    if (!f->values && f->m->files[state->file].made)
        return 0;
    if (lmi_claim(f, p, "", states[k], true, &state, e) < 0 || lmi_claim(f, p, "", ".absmax", true, &p->scales, e) < 0 ||
        lmi_claim(f, p, "", ".quant_map", true, &map, e) < 0 ||
        lmi_claim(f, p, "", ".nested_absmax", false, &p->nested_scales, e) < 0 ||
        lmi_claim(f, p, "", ".nested_quant_map", p->nested_scales != NULL, &p->nested_map, e) < 0)
        return -1;
    if (parse_state(state, p, whole, e) < 0 || check(p, whole, map, e) < 0)
        return -1;
    if (f->values)
        lm_tensor_to_f32(map, 0, 16, p->map, NULL);
    p->rows = 1;
    return lmi_name(f, whole, t, "", "", e) < 0 ||
           lmi_scheme(f, p, e, "bitsandbytes %s, blocks of %llu%s", states[k] + 27, (unsigned long long)p->block_cols,
                      p->nested_scales ? ", nested" : "") < 0 ? -1 : 1;
}

/* ---- reading: blocks do not care for rows */

static float absmax(const struct lm_packed *p, uint64_t block)
{
    float s, nested;

    if (!p->nested_scales) {
        lm_tensor_to_f32(p->scales, block, 1, &s, NULL);
        return s;
    }
    lm_tensor_to_f32(p->nested_map, p->scales->data[block], 1, &s, NULL);
    lm_tensor_to_f32(p->nested_scales, block / p->nested_block, 1, &nested, NULL);
    float product = s * nested;
    return product + p->nested_offset;
}

static void read_flat(const struct lm_packed *p, uint64_t first, uint64_t n, float *dst)
{
    const uint8_t *codes = p->of[0]->data;
    float value[16];

    for (uint64_t end = first + n, stop; first < end;) {
        uint64_t block = first / p->block_cols;
        float scale = absmax(p, block);
        stop = (block + 1) * p->block_cols;
        stop = stop < end ? stop : end;
        for (int i = 0; i < 16; i++)
            value[i] = p->map[i] * scale;
        if (first < stop && first % 2)
            *dst++ = value[codes[first++ / 2] & 15];
        for (; first + 2 <= stop; first += 2, dst += 2) {
            uint8_t c = codes[first / 2];
            dst[0] = value[c >> 4];
            dst[1] = value[c & 15];
        }
        if (first < stop)
            *dst++ = value[codes[first++ / 2] >> 4];
    }
}

static void read(const struct lm_packed *p, uint64_t row, uint64_t n_rows, uint64_t col, uint64_t n_cols, float *dst)
{
    for (uint64_t i = 0; i < n_rows; i++)
        read_flat(p, (row + i) * p->cols + col, n_cols, dst + i * n_cols);
}

const struct lmi_packing lmi_packing_bnb4 = {.methods = {"bitsandbytes", ""}, .claim = claim, .read = read};
