/* Containers: each is one const struct in its own file in fmt/, named in
 * formats.def.  Reading fills an lm_model; writing is laid out completely
 * before the first byte, so that data may be copied in any order, by many
 * threads or by the kernel, and a full disk is known beforehand. */
#ifndef LIBMODEL_FORMAT_H
#define LIBMODEL_FORMAT_H

#include "libmodel/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is to be written. Everything is borrowed. */
struct lm_write_tensor {
    const char *name;
    enum lm_dtype dtype;
    unsigned n_dims;
    uint64_t shape[LM_MAX_DIMS];
};
struct lm_write_spec {
    const struct lm_write_tensor *tensors;
    size_t n_tensors;
    const struct lm_meta *meta;
    bool compress;           /* formats that can (lm_format.compresses): finish makes the files smaller */
    uint64_t max_file_bytes; /* split after this many bytes of tensor data; 0 = one file */
    /* safetensors: a header (its JSON text with the padding, without the 8
     * bytes of length) to reproduce literally when it describes exactly these
     * tensors (GGUF back to the original file); may be empty. meta is then not
     * written: the header has its own. Of meta only strings are written. */
    struct lm_span exact_header;
};

/* Where everything goes. Free with lm_layout_free. */
struct lm_layout {
    struct lm_layout_file {
        char *name;        /* base name, made from the `base` given */
        uint8_t *head;     /* bytes from offset 0 on */
        size_t n_head;
        uint64_t n_bytes;  /* exact final size; what is neither head, chunk nor tensor is zero */
        /* More bytes of ours, between the tensors and after them. */
        struct lm_layout_chunk { uint64_t offset; uint8_t *data; size_t n; } *chunks;
        size_t n_chunks;
        bool last;         /* a commit record (index.json): written after the others are durable */
    } *files;
    size_t n_files;
    bool compress; /* for finish: the sizes here are those before */
    struct lm_layout_place { size_t file; uint64_t offset; } *places; /* one a tensor of the spec */
};
void lm_layout_free(struct lm_layout *l);

struct lm_format {
    const char *name;  /* "gguf": the word of --to */
    const char *title; /* "GGUF" */
    /* How sure, 0..100, seeing the whole file. */
    int (*probe)(struct lm_span file, const char *path);
    /* path is a file of this format; the driver maps it with lm_model_add_file
     * and finds its other parts. */
    int (*read)(struct lm_model *m, const char *path, struct lm_err *e);
    /* NULL: read-only format. base is "model.gguf", "model.safetensors": the
     * base name the caller wants (split sets derive theirs from it). */
    int (*layout)(struct lm_layout *out, const struct lm_write_spec *spec, const char *base, struct lm_err *e);
    /* Called when head, chunks and all tensors are in the file (open for reading
     * and writing): puts in what depends on the data (checksums). NULL: nothing does. */
    int (*finish)(int fd, const struct lm_layout *l, size_t file, struct lm_err *e);
    bool (*can_store)(enum lm_dtype d);
    bool compresses; /* takes lm_write_spec.compress */
    /* A file of this format holds a whole checkpoint: metadata of every type and
     * the small files travel inside, under the names below, and nothing is
     * written beside it. Tensors keep the names and the order they had. */
    bool carries;
    /* Another form of the model, which this container needs (other names, other
     * orders of dimensions): the result is what is written, its metadata
     * libmodel.source.NAME are the small files beside it. dtype: enum lm_dtype of
     * the weights to be, or -1 as they are. NULL: models go in as they are. */
    int (*recast)(struct lm_model **out, struct lm_model *src, int dtype, struct lm_err *e);
};

/* What a container carries beside its tensors.
 *
 * In memory it is always metadata (lm_model_meta), under the keys that a GGUF of
 * ours has:
 *   libmodel.source.NAME          the small file NAME (config.json, tokenizer.model …)
 *   libmodel.source.header, .header.N, .files, .masks, .dropped.TENSOR,
 *   libmodel.source.model.safetensors.index.json
 *                                 what gives back the original safetensors byte for byte
 *   anything else                 the container's own pairs; with general.architecture
 *                                 among them the hyper-parameters are GGUF's keys
 * A GGUF stores pairs as pairs. A container that has arrays only (npz, HDF5)
 * stores one-dimensional arrays of uint8, which are no tensors of the model:
 *   libmodel.source.NAME          the bytes of the pair of that key, where it is a
 *                                 text or bytes (NAME: letters, digits, . _ -)
 *   libmodel.meta                 all pairs with their types and order, as a GGUF 3
 *                                 header without tensors; those stored by
 *                                 themselves are an empty text there
 * Either may be missing: a file written by hand may carry just a
 * libmodel.source.config.json. lmi_carry and lmi_carried_read (fmt/carried.h)
 * are both directions. */

const struct lm_format *lm_format_find(const char *name); /* or NULL */
const struct lm_format *lm_format_at(size_t i);           /* NULL past the end */
/* The format that claims the file most; NULL with a sentence that names what
 * it looks like (a pickle, a zip, HTML, a Git LFS pointer, …) when none does. */
const struct lm_format *lm_format_probe(struct lm_span file, const char *path, struct lm_err *e);

#ifdef __cplusplus
}
#endif
#endif
