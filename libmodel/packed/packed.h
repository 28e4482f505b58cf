/* Quantized weights that a checkpoint stores as several tensors, shown as one.
 *
 * quantization_config of config.json names the method.  Every stored tensor is
 * offered to the schemes of that method (schemes.def); one that recognises the
 * codes of a weight claims them and the tensors that belong to them, checks
 * names, types and shapes, and says what the whole is: name, shape, and how its
 * values are computed.  Nothing is computed before somebody reads.
 *
 * Values are those of the library that wrote the file, computed in f32.
 * Private to libmodel. */
#ifndef LIBMODEL_PACKED_PACKED_H
#define LIBMODEL_PACKED_PACKED_H

#include <jansson.h>

#include "libmodel/fmt/fmt.h"

enum { LMI_MAX_MEMBERS = 8, LMI_SPAN = 1024 /* columns decoded at a time */ };

struct lmi_packing;

struct lm_packed {
    const struct lmi_packing *how;
    const char *scheme;              /* "GPTQ 4-bit, groups of 128" */
    const struct lm_tensor *of[LMI_MAX_MEMBERS]; /* of[0]: the codes */
    size_t n_of;
    enum lm_dtype meant;             /* lm_tensor_meant_dtype */
    uint64_t outer, rows, cols;      /* outer matrices of rows x cols */

    /* How the schemes here differ; each uses what it needs. */
    const struct lm_tensor *scales, *zeros, *global, *order;
    unsigned bits;
    int bias;                        /* the code that stands for zero, where zeros do not say */
    int zero_shift;                  /* added to a stored zero point */
    uint64_t block_rows, block_cols; /* of one scale */
    uint64_t grid_rows, grid_cols;   /* scales of a matrix */
    float factor;                    /* of the product, where not 1 */
    bool divides;                    /* by the global scale */
    /* bnb4 */
    float map[16];
    const struct lm_tensor *nested_map, *nested_scales;
    float nested_offset;
    uint64_t nested_block;
    /* blocks.c: this is another's values as blocks of a ggml type */
    const struct lm_packed *values;
    enum lm_dtype as;
    struct lmi_pack *pack; /* pack.c: part of a weight that is quantized as it is read */
};

struct lmi_finder {
    struct lm_model *m;
    const json_t *config;  /* quantization_config, or NULL */
    const char *method;    /* its quant_method; "" without one */
    bool values;           /* data may be looked at, not only headers */
    enum lm_dtype meant;   /* config.json's dtype; LM_N_DTYPES when silent */
    bool *taken;           /* one a stored tensor: part of a weight */
    struct lm_tensor *whole; /* one a stored tensor: the weight it is the codes of (packed not NULL) */
    struct lmi_groups *groups;
};

struct lmi_packing {
    const char *methods[4]; /* quant_method; "" : also without a configuration */
    /* 1: t is the codes of a weight, described by *p, name and shape of *whole;
     * its members are claimed. 0: it is not. -1: it is, and something is wrong. */
    int (*claim)(struct lmi_finder *f, const struct lm_tensor *t, struct lm_packed *p, struct lm_tensor *whole,
                 struct lm_err *e);
    /* Checks what only the data say. NULL: nothing. */
    int (*ready)(const struct lm_packed *p, const char *name, struct lm_err *e);
    /* Values of rows [row, row + n_rows), columns [col, col + n_cols) to dst
     * [n_rows, n_cols]; rows are counted through all matrices. */
    void (*read)(const struct lm_packed *p, uint64_t row, uint64_t n_rows, uint64_t col, uint64_t n_cols, float *dst);
    /* Blocks of the whole's type instead, where it is one: from block `first` on, in row-major order. */
    void (*blocks)(const struct lm_packed *p, uint64_t first, uint64_t n, uint8_t *dst);
    /* value = (code - zero) * scale for block_cols columns at a time: those of column group g. NULL: of
     * no such form. */
    void (*group)(const struct lm_packed *p, uint64_t row, uint64_t g, float *scale, int *zero);
};

/* find.c: replaces the model's tensors by what they are parts of. 0 also where
 * something is wrong: then m->refused says what, and the tensors stay. */
int lmi_packed_find(struct lm_model *m, bool values, struct lm_err *e);
/* The checks that need data. */
int lmi_packed_ready(struct lm_model *m, struct lm_err *e);

/* read.c: for lm_tensor_read and lm_tensor_to_f32. */
void lmi_packed_read(const struct lm_tensor *t, uint64_t offset, uint64_t n_bytes, void *dst);
void lmi_packed_to_f32(const struct lm_tensor *t, uint64_t first, uint64_t n, float *dst);
/* The column group of a column: by `order` (a group a column) where the weight has one. */
uint32_t lmi_group_of(const struct lm_packed *p, uint64_t col);
/* lmi_packing.ready: every group that `order` names is there. */
int lmi_order_ready(const struct lm_packed *p, const char *name, struct lm_err *e);
/* Elements [first, first + n) by how->read. */
void lmi_packed_values(const struct lm_packed *p, uint64_t first, uint64_t n, float *dst);

/* ---- for schemes (find.c) */

bool lmi_ends(const char *name, const char *suffix);
/* The stored tensor called like `of` with the last strlen(old) letters replaced by `suffix`; NULL: none. */
const struct lm_tensor *lmi_beside_tensor(const struct lmi_finder *f, const struct lm_tensor *of, const char *old,
                                          const char *suffix);
/* The same, claimed for p: 1, or 0 / -1 when it is absent (needed: -1). */
int lmi_claim(struct lmi_finder *f, struct lm_packed *p, const char *old, const char *suffix, bool needed,
              const struct lm_tensor **out, struct lm_err *e);
/* dtypes: several in one, LMI_D(F16) | LMI_D(BF16). shape: NULL any. */
#define LMI_D(d) (UINT64_C(1) << LM_##d)
#define LMI_REAL (LMI_D(F16) | LMI_D(BF16) | LMI_D(F32))
int lmi_expect(const struct lm_tensor *t, uint64_t dtypes, unsigned n_dims, const uint64_t *shape, struct lm_err *e);
/* The whole's name: of the codes with `old` replaced. */
int lmi_name(struct lmi_finder *f, struct lm_tensor *whole, const struct lm_tensor *of, const char *old,
             const char *suffix, struct lm_err *e);
int lmi_scheme(struct lmi_finder *f, struct lm_packed *p, struct lm_err *e, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* A whole number of the configuration; fallback when absent, -1 not a number within 32 bits. */
int lmi_setting(const json_t *o, const char *key, int fallback, int *out, struct lm_err *e);
static inline uint64_t lmi_ceil(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }

/* ---- groups.c: config_groups of compressed-tensors */
struct lmi_weights_args {
    const char *format;          /* of the group, else of all */
    int bits;
    bool is_float, symmetric;
    const char *strategy;        /* tensor, channel, group, tensor_group, block */
    int group_size;              /* 0 none */
    int block[2];
};
int lmi_groups_read(struct lmi_finder *f, struct lm_err *e);
void lmi_groups_free(struct lmi_groups *g);
/* Of the group whose targets name this module (name without ".weight…"); 1, 0 no group does, -1 wrong. */
int lmi_groups_find(const struct lmi_finder *f, const char *module, struct lmi_weights_args *out, struct lm_err *e);

/* ---- kernels (kernels.h): one set an instruction set */
struct lmi_unpack {
    /* n codes of `bits` bits, densely packed from bit 0 of src on, lowest first. */
    void (*codes)(float *dst, const uint8_t *src, unsigned bits, size_t n);
    void (*bytes)(float *dst, const int8_t *src, size_t n);
    void (*affine)(float *x, size_t n, float zero, float scale); /* x = (x - zero) * scale */
    /* GPTQ: eight codes of each of n columns: code j of column o is bits [bits j, + bits) of the words
     * w[o], next[o] from bit `shift` on; dst[o * ld + j] = (code - zero[o * 8 + j]) * scale[o * 8 + j]. */
    void (*columns)(float *dst, size_t ld, const uint32_t *w, const uint32_t *next, unsigned shift, unsigned bits,
                    size_t n, const float *zero, const float *scale);
    /* AWQ: n (at most 8) words below each other; nibble order[o] of word j goes to dst[o * ld + j]. */
    void (*nibbles)(float *dst, size_t ld, const uint32_t *w, size_t n, size_t n_out, const float *zero,
                    const float *scale);
    void (*e4m3)(float *dst, const uint8_t *src, size_t n, float scale);
};
const struct lmi_unpack *lmi_unpack(void);
extern const struct lmi_unpack lmi_unpack_portable, lmi_unpack_avx2, lmi_unpack_avx512;

#endif
