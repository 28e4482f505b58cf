/* HDF5 through libhdf5, which never runs in our own process on a file's bytes:
 * h5_box.c starts a process that can only compute and write to a pipe,
 * h5_walk.c and h5_decode.c are what runs there, h5_list.c checks what they
 * report.  Private to libmodel. */
#ifndef LIBMODEL_FMT_H5_H
#define LIBMODEL_FMT_H5_H

#include "libmodel/fmt/views.h"

/* ---- what a file holds */

struct lmi_h5_dataset {
    struct lm_span path; /* "group/name": no slash at the start */
    enum lm_dtype dtype;
    bool big_endian;
    bool decode;         /* chunked, compact or never written: libhdf5 must produce the bytes */
    unsigned n_dims;
    uint64_t shape[LM_MAX_DIMS];
    uint64_t offset;     /* in the file, unless decode */
    uint64_t n_bytes;
};

struct lmi_h5_attr {
    struct lm_span path; /* of the object; empty: the root group */
    struct lm_span name;
    struct lm_meta_value value;
};

/* Something that is not a tensor for us: "text, 3 elements". */
struct lmi_h5_note {
    struct lm_span path, text;
    bool refused; /* would lead out of the file, or cannot be decoded: listed, never converted */
};

struct lmi_h5 {
    struct lm_arena arena;
    struct lm_map *paths; /* of datasets */
    struct lmi_h5_dataset *datasets;
    size_t n_datasets;
    struct lmi_h5_attr *attrs;
    size_t n_attrs;
    struct lmi_h5_note *notes;
    size_t n_notes;
    struct lm_map *by_key; /* of attributes: as the report spells path and name */
    struct lmi_buffer report;
};

/* Opens the mapped file in a contained process and lists everything in it.
 * The spans live until lmi_h5_free (also after a failure). */
int lmi_h5_list(struct lmi_h5 *out, struct lm_span file, struct lm_err *e);
void lmi_h5_free(struct lmi_h5 *h);
const struct lmi_h5_dataset *lmi_h5_find(const struct lmi_h5 *h, struct lm_span path); /* or NULL */
const struct lmi_h5_attr *lmi_h5_attr(const struct lmi_h5 *h, struct lm_span path, const char *name); /* or NULL */
/* The strings of an array attribute, also when it is split into NAME0, NAME1, …
 * as Keras does with long ones. *out is in the arena; 1 found, 0 none, -1 out of memory. */
int lmi_h5_strings(struct lmi_h5 *h, struct lm_span path, const char *name, struct lm_span **out, size_t *n,
                   struct lm_err *e);

/* ---- from listings to a model: forms choose names and orders */

/* A mapped HDF5 file, or one that lies inside another file (a .keras). */
struct lmi_h5_source {
    size_t file;     /* of the model */
    uint64_t offset; /* of its bytes there */
    struct lm_span span;
    struct lmi_h5 list;
    struct lmi_h5_decoder *decoder; /* in the model's arena; NULL: nothing needs one yet */
};
/* The files of one model, one after the other. */
struct lmi_h5_set {
    struct lm_model *m;
    struct lmi_h5_source *sources;
    size_t n, capacity;
    bool tf_shards;        /* of Hugging Face's TensorFlow model: names lack its class */
    struct lm_span config; /* of a .keras: its config.json; empty: the one beside the file */
};
/* Lists the bytes [offset, offset + n) of a file of the model. */
int lmi_h5_set_add(struct lmi_h5_set *set, size_t file, uint64_t offset, uint64_t n, struct lm_err *e);
void lmi_h5_set_free(struct lmi_h5_set *set);
/* The dataset of a path, in whichever file; *source says which. */
const struct lmi_h5_dataset *lmi_h5_set_find(const struct lmi_h5_set *set, struct lm_span path,
                                             struct lmi_h5_source **source);
/* A whole, row-major view of a dataset, under its path: what differs is the caller's. */
int lmi_h5_view(struct lmi_view *v, struct lmi_h5_set *set, struct lmi_h5_source *s, const struct lmi_h5_dataset *d,
                struct lm_err *e);
/* Its bytes at once, in the file or in the model's arena. For small ones. */
int lmi_h5_bytes(struct lm_span *out, struct lmi_h5_set *set, struct lmi_h5_source *s, const struct lmi_h5_dataset *d,
                 struct lm_err *e);

/* Forms (each in its own file). 1 it is one and the views are there, 0 it is
 * none, -1 it is one and broken. */
int lmi_keras2_views(struct lmi_h5_set *set, struct lmi_view_list *out, struct lm_err *e);
int lmi_keras_hub_views(struct lmi_h5_set *set, struct lmi_view_list *out, struct lm_err *e);

/* ---- the contained process */

/* What it reports: records of u8 kind, u32 length, payload. Strings are u32
 * length and bytes, numbers little-endian. */
enum lmi_h5_record {
    LMI_H5_DATASET = 'D', /* path, u8 dtype, u8 big endian, u8 decode, u8 n_dims, u64 shape.., u64 offset, u64 n_bytes */
    LMI_H5_ATTR = 'A',    /* path, name, value */
    LMI_H5_NOTE = 'N',    /* path, text, u8 refused */
    LMI_H5_FAILED = 'E',  /* u8 enum lm_code, text */
    LMI_H5_END = 'Z'
};
/* A value: u8 type; scalars 8 bytes (integers, or the double's bits) or a
 * string; arrays u8 element type, u64 n, then packed elements or n strings. */

struct lmi_h5_out {
    struct lmi_buffer b;
    int fd;             /* -1: everything stays in b */
    size_t record;      /* where the open one begins in b */
    uint64_t n_sent, max;
    bool full;
};
void lmi_h5_begin(struct lmi_h5_out *o, enum lmi_h5_record kind); /* then lmi_put… to &o->b, then: */
void lmi_h5_send(struct lmi_h5_out *o);
void lmi_h5_put_span(struct lmi_h5_out *o, const void *data, size_t n);
void lmi_h5_fail(struct lmi_h5_out *o, enum lm_code code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* One thing to decode: the dataset at path must still have these bytes. */
struct lmi_h5_job {
    struct lm_span path;
    enum lm_dtype dtype;
    uint64_t n_bytes;
    uint8_t *dst;
    bool shared; /* dst is in a mapped file */
};
/* These run libhdf5 on untrusted bytes: only in the box, or in a fuzz target. */
void lmi_h5_walk(struct lmi_h5_out *o, struct lm_span file);
void lmi_h5_decode(struct lmi_h5_out *o, struct lm_span file, const struct lmi_h5_job *jobs, size_t n);

/* Runs work(out, arg) in a process of its own, without files, network or
 * programs, with limits on time and memory, and collects what it reports.
 * A crash, a limit or a missing end is an error. */
struct lmi_h5_limits {
    uint64_t memory;  /* bytes beyond what this process has */
    uint64_t ms;     /* of computing */
    uint64_t report;  /* bytes */
};
int lmi_h5_box(struct lmi_buffer *report, void (*work)(struct lmi_h5_out *o, void *arg), void *arg,
               const struct lmi_h5_limits *limits, struct lm_err *e);
/* Checks the report of lmi_h5_walk and fills the listing from it. */
int lmi_h5_parse(struct lmi_h5 *out, struct lm_err *e);
/* The error in the payload of LMI_H5_FAILED; always -1. */
int lmi_h5_failure(struct lm_cursor *c, struct lm_err *e);

/* libhdf5 has global state and no locks of its own: whoever calls it in this
 * process, or forks, holds this. */
void lmi_h5_lock(void);
void lmi_h5_unlock(void);
#endif
