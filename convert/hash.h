/* Digests of what a model is, whatever file it lies in.
 *
 * THE CANONICAL FORM, version 1. Two checkpoints have the same digest exactly
 * when their tensors have the same names, shapes and values by these rules:
 *
 *  1. Name. Where the architecture is known (config.json or GGUF keys), the
 *     GGUF name of the tensor's role ("blk.0.attn_q.weight"); else its own.
 *  2. Order of elements. Row-major, outermost dimension first, as GGUF has it:
 *     from Hugging Face's order the rows of every head of Q and K go from
 *     [2, d_head/2] to [d_head/2, 2], and a Conv1D matrix [in, out] is
 *     transposed. The shape is written after that, without dimensions of 1.
 *  3. Leaves. The elements are cut into leaves of 2^18 = 262 144 (the last may
 *     be shorter). Floating-point elements (F64 F32 F16 BF16 F8_*) are exact
 *     numbers, and a leaf is encoded in the first of BF16, F16, F32, F64
 *     (IEEE 754 / bfloat16, little-endian) that holds every one of them
 *     exactly, the sign of zero included; every NaN is the quiet positive one
 *     (7FC0, 7E00, 7FC00000, 7FF8000000000000) and fits anywhere. Elements of
 *     any other type (integers, booleans, quantized blocks, F4, F6) are their
 *     stored bytes with every multi-byte field little-endian.
 *  4. leaf   = SHA-256("lm-hash 1 leaf" 00 ENCODING 00 bytes), ENCODING being
 *     the name of the type used ("BF16", "I32", "Q4_K").
 *  5. tensor = SHA-256("lm-hash 1 tensor" 00 u64 n_dims, u64 per dimension,
 *     the leaves' digests in order), integers little-endian.
 *  6. model  = SHA-256("lm-hash 1 model" 00, then for every tensor in
 *     ascending order of the name's bytes: u64 length of the name, the name,
 *     the tensor's digest).
 *  7. Not counted in 6: tensors computed from the configuration (rope_freqs,
 *     rotary inv_freq, attention masks), and an output matrix whose digest
 *     equals the token embedding's (a tie written out).
 *
 * So BF16 and its F32 widening hash alike, any changed bit of a value gives
 * another digest, and shards, order in the file, padding and container do not
 * matter. A quantized tensor differs from the one it was made from. */
#ifndef CONVERT_HASH_H
#define CONVERT_HASH_H

#include "convert/convert.h"

#define LM_HASH_LEAF (UINT64_C(1) << 18) /* elements */

struct lm_digest { uint8_t byte[32]; };

struct lm_hash_tensor {
    const struct lm_tensor *src;
    const char *name;  /* canonical */
    const char *why;   /* not counted in the model's digest, because; NULL: counted */
    struct lm_digest digest;
};
struct lm_hash {
    struct lm_hash_tensor *tensors; /* in the order of 6 */
    size_t n_tensors, n_counted;
    struct lm_digest model;
    const char *arch;               /* NULL: not known, names and order are the file's own */
    const char *why;                /* why not */
    struct lm_arena arena;
};

/* One pass over all data; o: threads, stop, progress. m must outlive *out. */
int lm_hash_model(struct lm_hash **out, struct lm_model *m, const struct lm_run_options *o, struct lm_err *e);
void lm_hash_free(struct lm_hash *h);
/* 64 lower-case hexadecimal digits and a NUL; returns buf. */
char *lm_digest_hex(const struct lm_digest *d, char buf[65]);
bool lm_digest_parse(struct lm_digest *d, const char *hex); /* exactly 64 digits, then anything else */
bool lm_digest_eq(const struct lm_digest *a, const struct lm_digest *b);

#endif
