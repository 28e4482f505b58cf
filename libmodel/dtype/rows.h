/* Row conversions that exist once per instruction set.  A storage type's own
 * file goes through lmi_rows(), which picks the best set of this machine. */
#ifndef LIBMODEL_DTYPE_ROWS_H
#define LIBMODEL_DTYPE_ROWS_H

#include <stddef.h>

#define LMI_ROWS(X) \
    X(f16) X(bf16) \
    X(q4_0) X(q4_1) X(q5_0) X(q5_1) X(q8_0) \
    X(q2_k) X(q3_k) X(q4_k) X(q5_k) X(q6_k)

/* Types whose kernels only encode. */
#define LMI_ENCODERS(X) \
    X(iq4_nl) X(iq4_xs) X(tq1_0) X(tq2_0) X(mxfp4) X(nvfp4) X(q1_0) X(q2_0)

/* Types that importance makes a difference to. */
#define LMI_WEIGHTED(X) \
    X(q4_0) X(q4_1) X(q5_0) X(q5_1) X(q2_k) X(q3_k) X(q4_k) X(q5_k) X(q6_k) X(iq4_nl) X(iq4_xs)

typedef void lmi_encode(void *dst, const float *src, size_t n);
typedef void lmi_encode_weighted(void *dst, const float *src, const float *weights, size_t n_per_row, size_t n_rows);

struct lmi_row_pair {
    void (*to_f32)(float *dst, const void *src, size_t n);
    lmi_encode *from_f32;
};

struct lmi_iq_rows; /* iq.h: the codebook types, in files of their own */

struct lmi_rows {
    const char *isa;
    const struct lmi_iq_rows *iq;
#define X(t) struct lmi_row_pair t;
    LMI_ROWS(X)
#undef X
    struct {
#define X(t) lmi_encode *t;
        LMI_ENCODERS(X)
#undef X
    } encode;
    struct {
#define X(t) lmi_encode_weighted *t;
        LMI_WEIGHTED(X)
#undef X
    } weighted;
};

extern const struct lmi_rows lmi_rows_portable;
#if defined(__x86_64__)
extern const struct lmi_rows lmi_rows_avx2, lmi_rows_avx512;
#endif

const struct lmi_rows *lmi_rows(void);

/* The two functions a type's lm_dtype_info points at. */
#define LMI_DISPATCH(t) \
    static void to_f32(float *dst, const void *src, size_t n) \
    { \
        lmi_rows()->t.to_f32(dst, src, n); \
    } \
    static void from_f32(void *dst, const float *src, size_t n) \
    { \
        lmi_rows()->t.from_f32(dst, src, n); \
    }

#define LMI_DISPATCH_ENCODER(t) \
    static void from_f32(void *dst, const float *src, size_t n) \
    { \
        lmi_rows()->encode.t(dst, src, n); \
    }

#define LMI_DISPATCH_WEIGHTED(t) \
    static void from_f32_weighted(void *dst, const float *src, const float *weights, size_t n_per_row, size_t n_rows) \
    { \
        lmi_rows()->weighted.t(dst, src, weights, n_per_row, n_rows); \
    }

#endif
