/* Row conversions that exist once per instruction set.  A storage type's own
 * file goes through lmi_rows(), which picks the best set of this machine. */
#ifndef LIBMODEL_DTYPE_ROWS_H
#define LIBMODEL_DTYPE_ROWS_H

#include <stddef.h>

#define LMI_ROWS(X) \
    X(f16) X(bf16) \
    X(q4_0) X(q4_1) X(q5_0) X(q5_1) X(q8_0) \
    X(q2_k) X(q3_k) X(q4_k) X(q5_k) X(q6_k)

struct lmi_row_pair {
    void (*to_f32)(float *dst, const void *src, size_t n);
    void (*from_f32)(void *dst, const float *src, size_t n);
};

struct lmi_rows {
    const char *isa;
#define X(t) struct lmi_row_pair t;
    LMI_ROWS(X)
#undef X
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

#endif
