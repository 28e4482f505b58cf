/* A checkpoint: tensors, metadata and the small files beside it, opened from
 * any container without reading tensor data.  A shard set is one model. */
#ifndef LIBMODEL_MODEL_H
#define LIBMODEL_MODEL_H

#include "libmodel/bytes.h"
#include "libmodel/dtype.h"
#include "libmodel/err.h"
#include "libmodel/meta.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LM_MAX_DIMS 8

/* A copyable view; valid until its model is closed. */
struct lm_tensor {
    const char *name;  /* UTF-8 bytes without NUL inside, NUL-terminated */
    enum lm_dtype dtype;
    unsigned n_dims;   /* 0 for a scalar */
    uint64_t shape[LM_MAX_DIMS]; /* outermost first, as PyTorch prints it; row = shape[n_dims-1] */
    uint64_t n_elems;  /* product of shape */
    uint64_t n_bytes;
    const uint8_t *data; /* n_bytes inside the file's mapping (proven when opened) */
    size_t file;       /* which of the model's files */
    uint64_t offset;   /* of data in that file */
    bool big_endian;   /* fields of data must be swapped: use lm_tensor_read / lm_tensor_to_f32 */
    /* Not NULL: a quantized weight that the file holds as several tensors (codes,
     * scales, zero points …); its values are computed when they are read, by
     * lm_tensor_read / lm_tensor_to_f32 only. data is then NULL, n_bytes is what
     * dtype takes, and file and offset are those of the codes. */
    const struct lm_packed *packed;
};

struct lm_model;  /* opaque: owns mappings and an arena */
struct lm_format; /* format.h */

/* Opens a file in any format of formats.def, any part of a GGUF split set, an
 * index.json, a params.json, or a directory (a Hugging Face repository, a Meta
 * or Mistral release).  Read-only; the source is never modified.  Tensor data
 * is mapped, not read. */
int lm_model_open(struct lm_model **out, const char *path, struct lm_err *e);
/* The same for whoever never looks at tensor data: where a container holds
 * tensors in another form (deflated, strided, joined over shards), lm_model_open
 * computes them into a temporary file first; here their bytes read as zeros. */
int lm_model_open_headers(struct lm_model **out, const char *path, struct lm_err *e);
/* As open_headers, with the tensors of quantized weights one by one as the files
 * hold them: for whoever moves them without looking at values. */
int lm_model_open_stored(struct lm_model **out, const char *path, struct lm_err *e);
void lm_model_close(struct lm_model *m); /* NULL is fine */

const char *lm_model_path(const struct lm_model *m);          /* as given to open */
const struct lm_format *lm_model_format(const struct lm_model *m);
size_t lm_model_n_tensors(const struct lm_model *m);
const struct lm_tensor *lm_model_tensor(const struct lm_model *m, size_t i); /* container order */
const struct lm_tensor *lm_model_find(const struct lm_model *m, const char *name); /* or NULL, O(1) */
const struct lm_meta *lm_model_meta(const struct lm_model *m); /* container metadata, never NULL */

/* The tensors one by one as the files hold them: the same ones, unless some are packed. */
size_t lm_model_n_stored(const struct lm_model *m);
const struct lm_tensor *lm_model_stored(const struct lm_model *m, size_t i);

/* Why lm_model_open would refuse what can be listed (a sentence); NULL: it would not. */
const char *lm_model_refused(const struct lm_model *m);

/* What the container holds besides tensors and metadata, a sentence each: text,
 * records, links ("'/names': text, shape [3]"). Not converted. */
size_t lm_model_n_left_out(const struct lm_model *m);
const char *lm_model_left_out(const struct lm_model *m, size_t i);

/* The files that hold tensors (an index.json is not one). */
struct lm_model_file {
    const char *path;
    struct lm_span map; /* the whole file */
    uint64_t dev, ino, mtime_ns, ctime_ns;
    int fd;             /* open, read-only; for copy_file_range */
    bool made;          /* a temporary file of tensors that the file at path holds in another form */
};
size_t lm_model_n_files(const struct lm_model *m);
const struct lm_model_file *lm_model_file(const struct lm_model *m, size_t i);
/* -1 (LM_IO) when a source file was changed, truncated or replaced since open. */
int lm_model_check_unchanged(const struct lm_model *m, struct lm_err *e);

/* A small file of the checkpoint that travels with it ("config.json",
 * "tokenizer.model", "tokenizer.json", "tokenizer_config.json", …): from the
 * directory of the tensor files, or embedded in a GGUF that we wrote.
 * 1 found (borrowed until close), 0 none, -1 unreadable. Plain base names only. */
int lm_model_sidecar(struct lm_model *m, const char *name, struct lm_span *out, struct lm_err *e);
/* NULL-terminated list of every sidecar name we carry from container to container. */
extern const char *const lm_sidecar_names[];

/* n_bytes bytes from byte `offset` of the tensor into dst, little-endian
 * whatever the file was. offset and n_bytes must be whole blocks for
 * big-endian tensors. */
void lm_tensor_read(const struct lm_tensor *t, uint64_t offset, uint64_t n_bytes, void *dst);
/* Values [first, first+n) as f32; first and n multiples of block_elems.
 * -1 (LM_UNSUPPORTED) when the dtype has no to_f32. */
int lm_tensor_to_f32(const struct lm_tensor *t, uint64_t first, uint64_t n, float *dst, struct lm_err *e);
/* How a weight is stored: "GPTQ 4-bit, groups of 128"; NULL: as it is. */
const char *lm_tensor_scheme(const struct lm_tensor *t);
/* How coarse a packed weight is: codes of *bits bits with a scale for *span of them; *bits 0: codes
 * of a float type, that of its first member. False: it is not packed. */
bool lm_tensor_coarseness(const struct lm_tensor *t, unsigned *bits, uint64_t *span);
/* The stored tensors it is made of, codes first; t itself where it is not packed. */
size_t lm_tensor_n_members(const struct lm_tensor *t);
const struct lm_tensor *lm_tensor_member(const struct lm_tensor *t, size_t i);
uint64_t lm_tensor_stored_bytes(const struct lm_tensor *t); /* of all of them */
/* The type that the checkpoint computes a packed weight in (config.json's dtype,
 * else that of its scales, F32 when neither says); t->dtype otherwise. Values are
 * exact in t->dtype, rounded in this one. */
enum lm_dtype lm_tensor_meant_dtype(const struct lm_tensor *t);
/* Blocks of a ggml type that hold a packed weight's values exactly, made of its
 * codes without quantizing again (*out, in the model's arena, of the same name
 * and shape): 1; 0 when there are none. Reads the scales and zero points. */
int lm_tensor_as_blocks(struct lm_model *m, const struct lm_tensor *t, struct lm_tensor *out, struct lm_err *e);
/* The same for NVFP4, whose F32 scale of the whole stays outside of the blocks: GGUF's X.scale. The codes and
 * scales are the same ones; the products of a block's scale and the whole's are rounded elsewhere. scale: room for
 * one a matrix of t. */
int lm_tensor_as_scaled_blocks(struct lm_model *m, const struct lm_tensor *t, struct lm_tensor *out, float *scale,
                               struct lm_err *e);
/* "[32000, 4096]" into buf; returns buf. */
char *lm_tensor_shape_str(const struct lm_tensor *t, char *buf, size_t size);

/* ---- for format drivers (fmt/): fill a model while reading */

/* Maps path read-only and registers it; *index is its place. Regular files
 * only. The mapping lives until close. */
int lm_model_add_file(struct lm_model *m, const char *path, size_t *index, struct lm_err *e);
/* Checks (name not empty / no NUL / not there yet, shape product, bytes of
 * dtype == t->n_bytes, data range inside file t->file) and adds a copy; fills
 * n_elems and data from shape, file and offset. */
int lm_model_add_tensor(struct lm_model *m, struct lm_span name, const struct lm_tensor *t, struct lm_err *e);
struct lm_meta *lm_model_meta_mut(struct lm_model *m);
struct lm_arena *lm_model_arena(struct lm_model *m);

#ifdef __cplusplus
}
#endif
#endif
