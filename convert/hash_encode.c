/* Canonical bytes of values: rule 3 of convert/hash.h. */
#include "convert/hash_canon.h"

static bool any_nan(const uint32_t *x, size_t n)
{
    uint32_t any = 0;

    for (size_t i = 0; i < n; i++)
        any |= (x[i] & 0x7fffffff) > 0x7f800000;
    return any;
}

static bool low_bits(const uint32_t *x, size_t n)
{
    uint32_t any = 0;

    for (size_t i = 0; i < n; i++)
        any |= x[i];
    return any & 0xffff;
}

/* n values as the narrowest type that holds them; out: room for 4 bytes each,
 * not overlapping x. NaNs become canonical in x. */
static size_t narrowest(uint32_t *x, size_t n, uint8_t *out, enum lm_dtype *encoding)
{
    enum { PROBE = 4096 };
    uint32_t back[PROBE];

    if (any_nan(x, n))
        for (size_t i = 0; i < n; i++)
            x[i] = (x[i] & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : x[i];
    if (!low_bits(x, n)) {
        *encoding = LM_BF16;
        for (size_t i = 0; i < n; i++)
            lm_store_u16le(out + 2 * i, (uint16_t)(x[i] >> 16));
        return 2 * n;
    }
    *encoding = LM_F16;
    for (size_t i = 0; i < n; i += PROBE) {
        size_t k = n - i < PROBE ? n - i : PROBE;
        lm_dtype_info(LM_F16)->from_f32(out + 2 * i, (const float *)(x + i), k);
        lm_dtype_info(LM_F16)->to_f32((float *)back, out + 2 * i, k);
        if (memcmp(back, x + i, k * 4) != 0) {
            *encoding = LM_F32;
            break;
        }
    }
    if (*encoding == LM_F16)
        return 2 * n;
    for (size_t i = 0; i < n; i++)
        lm_store_u32le(out + 4 * i, x[i]);
    return 4 * n;
}

static double load_f64(const uint8_t *p)
{
    uint64_t u = lm_load_u64le(p);
    double v;

    memcpy(&v, &u, 8);
    return v;
}

/* Do the values fit f32? Fills x if so. */
static bool f64_as_f32(const uint8_t *raw, size_t n, uint32_t *x)
{
    for (size_t i = 0; i < n; i++) {
        double v = load_f64(raw + 8 * i);
        float f = (float)v;
        if (v == v && (double)f != v)
            return false;
        if (v != v)
            x[i] = 0x7fc00000;
        else
            memcpy(&x[i], &f, 4);
    }
    return true;
}

static size_t encode_f64(const uint8_t *raw, size_t n, uint32_t *x, uint8_t *out, enum lm_dtype *encoding)
{
    if (f64_as_f32(raw, n, x))
        return narrowest(x, n, out, encoding);
    *encoding = LM_F64;
    for (size_t i = 0; i < n; i++) {
        uint64_t u = lm_load_u64le(raw + 8 * i);
        lm_store_u64le(out + 8 * i, (u << 1) > UINT64_C(0xffe0000000000000) ? UINT64_C(0x7ff8000000000000) : u);
    }
    return 8 * n;
}

/* BF16 is canonical as it lies, unless there is a NaN in it. */
static bool bf16_has_nan(const uint8_t *raw, size_t n)
{
    uint16_t any = 0;

    for (size_t i = 0; i < n; i++)
        any |= (uint16_t)((lm_load_u16le(raw + 2 * i) & 0x7fff) > 0x7f80);
    return any;
}

size_t lmc_canon_encode(enum lm_dtype d, const uint8_t *raw, size_t n, uint8_t *scratch, const uint8_t **bytes,
                        enum lm_dtype *encoding)
{
    const struct lm_dtype_info *info = lm_dtype_info(d);
    uint32_t *x = (uint32_t *)(void *)scratch;
    uint8_t *out = scratch + 4 * n;

    *bytes = raw;
    *encoding = d;
    if (info->kind != LM_KIND_FLOAT || !info->to_f32 || info->block_elems > 1 || (d == LM_BF16 && !bf16_has_nan(raw, n)))
        return lm_dtype_bytes(d, n);
    *bytes = out;
    if (d == LM_F64)
        return encode_f64(raw, n, x, out, encoding);
    info->to_f32((float *)x, raw, n);
    return narrowest(x, n, out, encoding);
}
