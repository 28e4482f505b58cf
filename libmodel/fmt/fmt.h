/* What opening a model and the format drivers share.  Private to libmodel. */
#ifndef LIBMODEL_FMT_FMT_H
#define LIBMODEL_FMT_FMT_H

#include "libmodel/format.h"

struct lm_model {
    struct lm_arena arena;
    const char *path;
    const struct lm_format *format;
    struct lm_model_file *files;
    size_t n_files, files_capacity;
    struct lm_tensor *tensors;
    size_t n_tensors, tensors_capacity;
    struct lm_map *by_name;
    struct lm_meta *meta;
    /* Sidecars lie in this folder; NULL when the container carries them in its
     * metadata (GGUF), because then a folder may hold many models. */
    const char *sidecar_dir;
    struct lmi_sidecar *sidecars; /* those read so far */
    struct lmi_fill *fills;       /* of temporary files, not computed yet: views.h */
    char **left_out;              /* sentences: what is there and is no tensor */
    size_t n_left_out;
    const char *refused;          /* why its data are not for use, only its list; or NULL */
    struct lm_tensor *stored;     /* where some are packed: all as the files have them; else NULL */
    size_t n_stored;
};

/* Maps a regular file read-only. path is borrowed. An empty file maps to a
 * span of size 0. */
int lmi_file_open(struct lm_model_file *f, const char *path, struct lm_err *e);
void lmi_file_close(struct lm_model_file *f);

/* An empty model; NULL when out of memory. */
struct lm_model *lmi_model_new(const char *path);

/* Takes over an open file (with its mapping) that is not a path's; closed also on failure. */
int lmi_model_adopt_file(struct lm_model *m, struct lm_model_file *f, struct lm_err *e);

/* As lm_model_open for something that is already known not to be a folder. */
int lmi_model_read_file(struct lm_model *m, const char *path, struct lm_err *e);
/* As lm_model_open for a folder. */
int lmi_model_read_dir(struct lm_model *m, const char *dir, struct lm_err *e);
void lmi_sidecars_free(struct lm_model *m);

/* Says what a file of no format of ours looks like ("this is …"); false, with
 * nothing said, when it looks like nothing known. */
bool lmi_refuse_foreign(struct lm_span file, struct lm_err *e);

/* name is "<base>-00002-of-00003.gguf": true, with the length of base, 2 and 3. */
bool lmi_gguf_split_name(const char *name, size_t *base_length, unsigned *no, unsigned *count);

/* "dir/name" for the folder that path lies in (or "name" when it names none). */
char *lmi_beside(struct lm_arena *a, const char *path, const char *name);
/* The part of path after its last slash. */
const char *lmi_base_name(const char *path);
bool lmi_has_suffix(const char *s, const char *suffix);

/* Text of a span for a message, at most 200 bytes of it: printf("%.*s", LMI_SHOW(s)). */
#define LMI_SHOW(s) (int)((s).size < 200 ? (s).size : 200), (s).size ? (const char *)(s).data : ""

/* Elements and bytes of a shape, with every check that needs no file: number of
 * dimensions, overflow, whole blocks. name is for the message. */
int lmi_tensor_measure(struct lm_span name, enum lm_dtype dtype, const uint64_t *shape, unsigned n_dims,
                       uint64_t *n_elems, uint64_t *n_bytes, struct lm_err *e);

/* Metadata pairs that are read. Real files have a hundred; millions of short
 * ones would take many times the file's size in memory. */
enum { LMI_MAX_META = 65536 };

int lmi_nomem(struct lm_err *e);

/* Adds "'/path': text" to lm_model_left_out, fit to be shown. refused: whoever
 * wants the model's data is told so instead. */
int lmi_model_leave_out(struct lm_model *m, struct lm_span path, struct lm_span text, bool refused, struct lm_err *e);

/* A growing buffer for heads of files. After a failed append `failed` is set
 * and later appends do nothing. */
struct lmi_buffer {
    uint8_t *data;
    size_t n, capacity;
    bool failed;
};
void lmi_put(struct lmi_buffer *b, const void *data, size_t n);
void lmi_put_str(struct lmi_buffer *b, const char *s);
void lmi_put_u16(struct lmi_buffer *b, uint16_t v);
void lmi_put_u32(struct lmi_buffer *b, uint32_t v);
void lmi_put_u64(struct lmi_buffer *b, uint64_t v);
void lmi_put_fill(struct lmi_buffer *b, uint8_t byte, size_t n);

/* A JSON string with its quotes, escaped where it must be; a decimal number. */
void lmi_put_json_string(struct lmi_buffer *b, struct lm_span s);
void lmi_put_number(struct lmi_buffer *b, uint64_t v);

/* Puts the tensors of a spec into files of at most spec->max_file_bytes bytes
 * of data each (a larger tensor gets a file of its own), in order.  Allocates
 * out->files (zeroed) and out->places; sets places[].file. sizes[i] is the room
 * tensor i takes. */
int lmi_layout_split(struct lm_layout *out, const struct lm_write_spec *spec, const uint64_t *sizes, struct lm_err *e);
/* Makes the last of out's files the index.json (its commit record) that says in
 * which of the named others every tensor is; total: bytes of tensor data. */
int lmi_layout_index(struct lm_layout *out, const struct lm_write_spec *spec, uint64_t total, struct lm_err *e);
/* Bytes of every tensor of the spec (malloc'd), with the checks all writers
 * need: storable type, whole blocks in a row, no overflow, distinct names. */
uint64_t *lmi_layout_sizes(const struct lm_write_spec *spec, const struct lm_format *f, struct lm_err *e);

#endif
