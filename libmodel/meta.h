/* Metadata: an ordered list of typed key/value pairs (the superset of what
 * GGUF stores; safetensors' __metadata__ is strings only).  Values are borrowed
 * from the model's mapping or copied into the list's own arena. */
#ifndef LIBMODEL_META_H
#define LIBMODEL_META_H

#include "libmodel/bytes.h"
#include "libmodel/err.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The numbers are GGUF's. */
enum lm_meta_type {
    LM_META_U8 = 0, LM_META_I8, LM_META_U16, LM_META_I16, LM_META_U32, LM_META_I32, LM_META_F32,
    LM_META_BOOL, LM_META_STR, LM_META_ARRAY, LM_META_U64, LM_META_I64, LM_META_F64,
    LM_META_N_TYPES
};

/* A text that a reader leaves when it had to assume what its container does not say. */
#define LM_META_ASSUMED "libmodel.assumed"

struct lm_meta_value {
    enum lm_meta_type type;
    enum lm_meta_type elem; /* of an array; arrays do not nest */
    union {
        uint64_t u; /* unsigned and bool */
        int64_t i;
        double f; /* F32 and F64 */
        struct lm_span str;
    };
    /* Arrays: n elements. Numbers: packed host-order elements at `data`
     * (element width by lm_meta_width). Strings: n spans at `strs`. */
    size_t n;
    const void *data;
    const struct lm_span *strs;
};

struct lm_meta; /* opaque */

struct lm_meta *lm_meta_new(void); /* NULL when out of memory */
void lm_meta_free(struct lm_meta *m);

size_t lm_meta_count(const struct lm_meta *m);
/* i-th pair in file order; key is borrowed and NUL-terminated. */
const struct lm_meta_value *lm_meta_at(const struct lm_meta *m, size_t i, const char **key);
const struct lm_meta_value *lm_meta_get(const struct lm_meta *m, const char *key); /* or NULL */

/* Typed getters. Missing key: *out keeps its value, returns 0 (1 when found).
 * Wrong type or out of range: -1 with the key, found and expected type. */
int lm_meta_get_u64(const struct lm_meta *m, const char *key, uint64_t *out, struct lm_err *e);
int lm_meta_get_f64(const struct lm_meta *m, const char *key, double *out, struct lm_err *e);
int lm_meta_get_bool(const struct lm_meta *m, const char *key, bool *out, struct lm_err *e);
int lm_meta_get_str(const struct lm_meta *m, const char *key, struct lm_span *out, struct lm_err *e);
/* Array whose elements have exactly the type `elem`. */
int lm_meta_get_array(const struct lm_meta *m, const char *key, enum lm_meta_type elem,
                      const struct lm_meta_value **out, struct lm_err *e);

size_t lm_meta_width(enum lm_meta_type t); /* bytes of a scalar; 0 for strings and arrays */
const char *lm_meta_type_name(enum lm_meta_type t); /* "u32", "str", … */

/* Setters replace an existing key in place or append. Keys, strings and array
 * elements are copied. -1 only when out of memory (or key empty). */
int lm_meta_set_u32(struct lm_meta *m, const char *key, uint32_t v);
int lm_meta_set_u64(struct lm_meta *m, const char *key, uint64_t v);
int lm_meta_set_i32(struct lm_meta *m, const char *key, int32_t v);
int lm_meta_set_f32(struct lm_meta *m, const char *key, float v);
int lm_meta_set_bool(struct lm_meta *m, const char *key, bool v);
int lm_meta_set_str(struct lm_meta *m, const char *key, struct lm_span v);
int lm_meta_set_array(struct lm_meta *m, const char *key, enum lm_meta_type elem, const void *data, size_t n);
int lm_meta_set_strs(struct lm_meta *m, const char *key, const struct lm_span *strs, size_t n);
int lm_meta_set_value(struct lm_meta *m, const char *key, const struct lm_meta_value *v);
/* Readers only: as lm_meta_set_value, but string and array contents stay
 * borrowed (they point into a mapping), and a duplicate key is refused with 0
 * (1 appended, -1 out of memory). */
int lm_meta_add_borrowed(struct lm_meta *m, struct lm_span key, const struct lm_meta_value *v);
void lm_meta_remove(struct lm_meta *m, const char *key);

#ifdef __cplusplus
}
#endif
#endif
