/* From a source model and a request to a new file: plan (what each tensor
 * becomes), policy (which type it gets), stream (compute it through reused
 * buffers), commit (durably, under the final name only when whole). */
#ifndef CONVERT_CONVERT_H
#define CONVERT_CONVERT_H

#include "libmodel/arch.h"
#include "libmodel/format.h"
#include "libmodel/vocab.h"

/* ---- policy.c: llama.cpp's file types as a table of rules (formats.md 2.4-2.6) */
struct lm_ftype {
    const char *name;      /* "Q4_K_M" */
    enum lm_dtype base;
    uint32_t id;           /* general.file_type */
    double bpw;            /* nominal, of a 7B llama; for the help */
};
const struct lm_ftype *lm_ftype_find(const char *name); /* any case; also F32 F16 BF16; NULL unknown */
const struct lm_ftype *lm_ftype_at(size_t i);

/* ---- request */
struct lm_request {
    const struct lm_format *to;
    bool quantize;               /* use ftype's rules; else dtype below */
    const struct lm_ftype *ftype;
    int dtype;                   /* lm-convert: enum lm_dtype, or -1 keep */
    bool pure;                   /* ftype's base type everywhere it may go */
    uint64_t max_file_bytes;     /* --split */
    const char *name;            /* general.name; NULL: from the source */
    bool bare;                   /* tensors only, no small files beside them (a single .safetensors) */
    bool allow_unknown;          /* tensors that the architecture does not know keep their own names */
};

enum lm_action { LM_ACTION_COPY, LM_ACTION_CAST, LM_ACTION_QUANTIZE, LM_ACTION_MAKE };

/* One tensor of the output. */
struct lm_plan_item {
    const struct lm_tensor *src; /* NULL: made from `made` (rope_freqs, a mask that GGUF has no place for) */
    const float *made;
    char *name;
    enum lm_dtype dtype;
    unsigned n_dims;
    uint64_t shape[LM_MAX_DIMS];
    enum lm_transform transform; /* to apply, in the direction needed */
    bool inverse;                /* the transform's inverse (GGUF -> HF) */
    uint32_t n_heads;            /* of a permutation */
    enum lm_role role;
    int layer;
    const char *why;             /* why this dtype, when it is not the one asked for ("rows of 1600 are not whole Q4_K blocks: Q5_0"); NULL */
    /* filled while running */
    uint64_t n_overflow, n_flushed, n_nan; /* finite to infinite; non-zero to zero; NaN or Inf in the source */
};
struct lm_plan_drop { const struct lm_tensor *src; const char *why; };

struct lm_plan {
    struct lm_model *src;
    struct lm_binding *bind;     /* NULL: architecture unknown, names kept */
    struct lm_request req;
    struct lm_plan_item *items;
    size_t n_items;
    struct lm_plan_drop *drops;
    size_t n_drops;
    struct lm_meta *meta;        /* of the output */
    /* Small files written beside the tensors (directory outputs), malloc'd. */
    struct lm_plan_side { char *name; uint8_t *data; size_t n; } *sides;
    size_t n_sides;
    /* Items [first, first + n) go together into one file or one split set;
     * base NULL: named after the destination. More than one only when the
     * original shards are given back; exact_header then and for one file. */
    struct lm_plan_part { char *base; struct lm_span exact_header; size_t first, n; } *parts;
    size_t n_parts;
    bool exact;                  /* the original files are given back byte for byte */
    char **notes;                /* sentences that the user should see */
    size_t n_notes;
    uint64_t n_src_bytes, n_dst_bytes;
    struct { uint64_t side; const float *values; } masks[4]; /* made once, shared by layers */
    size_t n_masks;
    struct lm_arena arena;
};

/* Decides everything and touches nothing. Fails when a tensor would be lost
 * without a reason, a transform does not fit, the target cannot store a dtype … */
int lm_plan_make(struct lm_plan **out, struct lm_model *src, const struct lm_request *req, struct lm_err *e);
void lm_plan_free(struct lm_plan *p);
enum lm_action lm_plan_action(const struct lm_plan_item *it);
uint64_t lm_plan_elems(const struct lm_plan_item *it);

struct lm_run_options {
    bool force;               /* replace an existing destination */
    int n_threads;            /* 0 = all cores */
    uint64_t max_ram;         /* private buffers; 0 = 64 MB */
    const volatile int *stop; /* set by a signal handler: leave nothing, LM_INTERRUPTED */
    void (*progress)(void *user, uint64_t done, uint64_t total); /* bytes of source read; any thread, serialised */
    void *user;
};
/* dst is a file, or a directory (made if needed) when the name ends in / or is
 * an existing directory or sides exist. The source is checked to be unchanged
 * at the end and the result is read back. On any failure the destination is
 * absent or as it was. Values that are not finite stop a quantization. */
int lm_plan_run(struct lm_plan *p, const char *dst, const struct lm_run_options *o, struct lm_err *e);

/* ---- commit.c: durable files */
struct lm_commit; /* a set of files that appear together or not at all */
int lm_commit_begin(struct lm_commit **out, const char *dir, bool force, struct lm_err *e);
/* A file of exactly n_bytes, reserved on disk, invisible under its name yet; the fd is the commit's. */
int lm_commit_add(struct lm_commit *c, const char *name, uint64_t n_bytes, int *fd, struct lm_err *e);
int lm_commit_finish(struct lm_commit *c, struct lm_err *e); /* fsync, rename in order of adding, fsync folder; frees c */
void lm_commit_abort(struct lm_commit *c); /* NULL is fine */
int lm_pwrite_all(int fd, const void *data, size_t n, uint64_t offset, struct lm_err *e);

#endif
