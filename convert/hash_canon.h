/* Every tensor of a model under its canonical name, shape and order of
 * elements (convert/hash.h), and reading it so.  Private to convert/. */
#ifndef CONVERT_HASH_CANON_H
#define CONVERT_HASH_CANON_H

#include "convert/convert.h"

struct lmc_canon {
    struct lm_plan_item it; /* src (of several the first), dtype as it is read, shape, transform, pieces, role, layer */
    const char *name;
    const char *derived;    /* computed from the configuration, because; NULL: part of the model */
    bool known;             /* a row of the architecture */
    bool mixed;             /* its pieces are of several floating-point types: read as F64 */
};
struct lmc_canons {
    struct lmc_canon *of;   /* tensors as they are stored, model order; parts of canonical ones keep their own names */
    size_t n;
    struct lmc_canon *whole; /* canonical tensors, put together and taken apart */
    size_t n_whole;
    struct lm_model *m;
    struct lm_config config;
    bool has_config;
    bool plus_one;          /* norms that GGUF stores plus 1 are read so */
    enum lm_naming naming;
    const char *why;        /* why there is no config */
    struct lm_arena arena;
};

/* Succeeds for any open model: what the architecture does not know, or knows
 * with another shape, keeps its own name and order. */
int lmc_canon_make(struct lmc_canons **out, struct lm_model *m, struct lm_err *e);
void lmc_canon_free(struct lmc_canons *c);
int lmc_canon_by_name(const void *a, const void *b); /* for qsort of struct lmc_canon */
/* The first row that a tensor name is of, and its layer; NULL: none, or a layer beyond the configuration's. */
const struct lm_arch_row *lmc_canon_row(const struct lmc_canons *c, const char *name, int *layer);
/* hash_whole.c: fills whole from of. plus_one: see above. */
int lmc_canon_join(struct lmc_canons *c, bool plus_one, struct lm_err *e);
uint64_t lmc_canon_elems(const struct lmc_canon *c);

/* A buffer that grows. Zero-initialise; free(data). */
struct lmc_room { uint8_t *data; size_t size; };
int lmc_room_fit(struct lmc_room *r, size_t n, struct lm_err *e);

/* Elements [first, first + n) in canonical order, as it.dtype, little-endian;
 * *raw points into room. first is a multiple of 256, n one too or to the end. */
int lmc_canon_read(const struct lm_model *m, const struct lmc_canon *c, uint64_t first, uint64_t n,
                   struct lmc_room *room, const uint8_t **raw, struct lm_err *e);
/* The same as f32. *raw (may be NULL) gets the bytes of lmc_canon_read. */
int lmc_canon_read_f32(const struct lm_model *m, const struct lmc_canon *c, uint64_t first, uint64_t n,
                       struct lmc_room *room, float *out, const uint8_t **raw, struct lm_err *e);
/* hash_whole.c: lmc_canon_read of what is mixed or plus 1, into room. */
int lmc_canon_read_mixed(const struct lm_model *m, const struct lmc_canon *c, uint64_t first, uint64_t n,
                         struct lmc_room *room, const uint8_t **raw, struct lm_err *e);
int lmc_canon_read_plus_one(const struct lm_model *m, const struct lmc_canon *c, uint64_t first, uint64_t n,
                            struct lmc_room *room, const uint8_t **raw, struct lm_err *e);

/* hash_encode.c: canonical bytes of n elements at raw (rule 3). scratch: room
 * for n f32 and n * 8 bytes more. *bytes points to raw or into scratch; returns
 * their number and which type they are. */
size_t lmc_canon_encode(enum lm_dtype d, const uint8_t *raw, size_t n, uint8_t *scratch, const uint8_t **bytes,
                        enum lm_dtype *encoding);
#define LMC_ENCODE_ROOM(n) ((size_t)(n) * 12)

#endif
