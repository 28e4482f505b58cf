/* Layouts of the ggml block types that have kernels.  All fields are bytes, so
 * a block has no padding and any alignment; f16 fields are little-endian.
 * Source: ggml-common.h of ggml (github.com/ggml-org/ggml). */
#ifndef LIBMODEL_DTYPE_BLOCKS_H
#define LIBMODEL_DTYPE_BLOCKS_H

#include <assert.h>
#include <stdint.h>

enum {
    LMI_QK = 32,    /* elements of a block of the first generation */
    LMI_QK_K = 256, /* elements of a K-quant (super) block */
    LMI_QK1_0 = 128,
    LMI_QK2_0 = 64,
    LMI_QK_NVFP4 = 64,
};

/* w = (q - 8) d; byte j holds elements j (low nibble) and j + 16. */
struct lmi_q4_0 {
    uint8_t d[2];
    uint8_t qs[16];
};
static_assert(sizeof(struct lmi_q4_0) == 18, "Q4_0 block");

/* w = q d + m */
struct lmi_q4_1 {
    uint8_t d[2];
    uint8_t m[2];
    uint8_t qs[16];
};
static_assert(sizeof(struct lmi_q4_1) == 20, "Q4_1 block");

/* w = (q - 16) d; bit j of qh is the fifth bit of element j. */
struct lmi_q5_0 {
    uint8_t d[2];
    uint8_t qh[4];
    uint8_t qs[16];
};
static_assert(sizeof(struct lmi_q5_0) == 22, "Q5_0 block");

/* w = q d + m */
struct lmi_q5_1 {
    uint8_t d[2];
    uint8_t m[2];
    uint8_t qh[4];
    uint8_t qs[16];
};
static_assert(sizeof(struct lmi_q5_1) == 24, "Q5_1 block");

/* w = q d */
struct lmi_q8_0 {
    uint8_t d[2];
    int8_t qs[32];
};
static_assert(sizeof(struct lmi_q8_0) == 34, "Q8_0 block");

/* Groups of 16: w = d (s & 15) q - dmin (s >> 4).  32 bytes of qs hold 128
 * elements in four 2-bit planes: l, l + 32, l + 64, l + 96. */
struct lmi_q2_k {
    uint8_t scales[16];
    uint8_t qs[64];
    uint8_t d[2];
    uint8_t dmin[2];
};
static_assert(sizeof(struct lmi_q2_k) == 84, "Q2_K block");

/* Groups of 16: w = d (s - 32) (q - 4); q's low two bits as in Q2_K, its third
 * in bit (element / 32) of hmask[element % 32]; s is 6 bits: low nibbles in
 * scales[0..7], high pairs in scales[8..11]. */
struct lmi_q3_k {
    uint8_t hmask[32];
    uint8_t qs[64];
    uint8_t scales[12];
    uint8_t d[2];
};
static_assert(sizeof(struct lmi_q3_k) == 110, "Q3_K block");

/* Groups of 32: w = d s q - dmin m, s and m 6 bits packed into 12 bytes.
 * 32 bytes of qs hold 64 elements: l (low nibble) and l + 32. */
struct lmi_q4_k {
    uint8_t d[2];
    uint8_t dmin[2];
    uint8_t scales[12];
    uint8_t qs[128];
};
static_assert(sizeof(struct lmi_q4_k) == 144, "Q4_K block");

/* As Q4_K; bit (element / 32) of qh[element % 32] is the fifth bit. */
struct lmi_q5_k {
    uint8_t d[2];
    uint8_t dmin[2];
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t qs[128];
};
static_assert(sizeof(struct lmi_q5_k) == 176, "Q5_K block");

/* Groups of 16: w = d s (q - 32).  128 elements take 64 bytes of ql (nibbles
 * l and l + 64) and 32 of qh (four 2-bit planes as in Q2_K). */
struct lmi_q6_k {
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scales[16];
    uint8_t d[2];
};
static_assert(sizeof(struct lmi_q6_k) == 210, "Q6_K block");

/* w = d level[q]: sixteen uneven levels (iq4.h); nibbles as in Q4_0. */
struct lmi_iq4_nl {
    uint8_t d[2];
    uint8_t qs[16];
};
static_assert(sizeof(struct lmi_iq4_nl) == 18, "IQ4_NL block");

/* Groups of 32, each packed as in IQ4_NL: w = d (s - 32) level[q]; s is 6 bits:
 * nibbles in scales_low, pairs in the u16 scales_high. */
struct lmi_iq4_xs {
    uint8_t d[2];
    uint8_t scales_high[2];
    uint8_t scales_low[4];
    uint8_t qs[128];
};
static_assert(sizeof(struct lmi_iq4_xs) == 136, "IQ4_XS block");

/* Ternary, w = (digit - 1) d, five digits a byte: elements 0-159 in bytes 0-31
 * (32 apart), 160-239 in bytes 32-47 (16 apart), 240-255 in qh (4 apart). */
struct lmi_tq1_0 {
    uint8_t qs[48];
    uint8_t qh[4];
    uint8_t d[2];
};
static_assert(sizeof(struct lmi_tq1_0) == 54, "TQ1_0 block");

/* Ternary, w = (q - 1) d, four 2-bit planes as in Q2_K. */
struct lmi_tq2_0 {
    uint8_t qs[64];
    uint8_t d[2];
};
static_assert(sizeof(struct lmi_tq2_0) == 66, "TQ2_0 block");

/* w = d where the bit is set, else -d. */
struct lmi_q1_0 {
    uint8_t d[2];
    uint8_t qs[16];
};
static_assert(sizeof(struct lmi_q1_0) == 18, "Q1_0 block");

/* w = (q - 1) d, two bits an element in order. */
struct lmi_q2_0 {
    uint8_t d[2];
    uint8_t qs[16];
};
static_assert(sizeof(struct lmi_q2_0) == 18, "Q2_0 block");

/* E2M1 nibbles as in Q4_0 under the scale 2^(e - 127). */
struct lmi_mxfp4 {
    uint8_t e;
    uint8_t qs[16];
};
static_assert(sizeof(struct lmi_mxfp4) == 17, "MXFP4 block");

/* Groups of 16 E2M1 nibbles under unsigned E4M3 scales; low nibbles of a group
 * are elements 0-7, high ones 8-15. */
struct lmi_nvfp4 {
    uint8_t scale[4];
    uint8_t qs[32];
};
static_assert(sizeof(struct lmi_nvfp4) == 36, "NVFP4 block");

#endif
