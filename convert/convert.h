/* From a source model and a request to a new file: plan (what each tensor
 * becomes), policy (which type it gets), stream (compute it through reused
 * buffers), commit (durably, under the final name only when whole). */
#ifndef CONVERT_CONVERT_H
#define CONVERT_CONVERT_H

#include "libmodel/arch.h"
#include "libmodel/format.h"
#include "libmodel/imatrix.h"
#include "libmodel/pack.h"
#include "libmodel/quantizer.h"
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

/* ---- recipe.c: types by name.  A recipe is text, a line each:
 *
 *   # comment
 *   NAME-REGEX TYPE      blk\.[0-3]\.ffn_down Q6_K
 *
 * The expression (PCRE2, any case) may match anywhere in the output's name; the
 * first line that does decides.  What comes out is still subject to the shape
 * of the rows. */
struct lm_recipe;
int lm_recipe_new(struct lm_recipe **out, struct lm_err *e);
/* pattern[0 .. n): the expression; type: any case, a storage type that can be written. */
int lm_recipe_add(struct lm_recipe *r, struct lm_span pattern, struct lm_span type, struct lm_err *e);
int lm_recipe_read(struct lm_recipe *r, const char *path, struct lm_err *e); /* adds the lines of a file */
void lm_recipe_free(struct lm_recipe *r);
/* The type for a name: enum lm_dtype, -1 when nothing matches. r may be NULL. */
int lmc_recipe_find(const struct lm_recipe *r, const char *name);
/* What was decided for every tensor that was free to change, as a recipe that decides the same; malloc'd. */
struct lm_plan;
char *lm_recipe_of(const struct lm_plan *p);

/* ---- importance.c: the importance files of a quantization, added up */
struct lm_importance {
    struct lm_imatrix *matrix;
    struct lm_importance_file { char *path; char sha256[65]; } *files;
    size_t n_files;
};
int lm_importance_read(struct lm_importance **out, const char *const *paths, size_t n, struct lm_err *e);
void lm_importance_free(struct lm_importance *i);

/* What a user may put above the mix's rules. */
struct lm_mix_options {
    int output, embedding;           /* enum lm_dtype of output.weight and token_embd.weight, or -1 */
    bool leave_output;               /* output.weight keeps its type */
    const struct lm_recipe *recipe;  /* or NULL */
    const struct lm_importance *importance; /* of columns, or NULL */
};

/* ---- request */
struct lm_request {
    const struct lm_format *to;
    bool quantize;               /* use ftype's rules; else dtype below */
    const struct lm_ftype *ftype;
    int dtype;                   /* lm-convert: enum lm_dtype, or -1 keep */
    bool pure;                   /* ftype's base type everywhere it may go */
    const struct lm_mix_options *mix; /* NULL: none */
    bool allow_nan;              /* values that are not finite are quantized as 0 and counted */
    uint64_t max_file_bytes;     /* --split */
    const char *name;            /* general.name; NULL: from the source */
    bool compress;               /* formats that can */
    bool bare;                   /* tensors only, no small files beside them (a single .safetensors) */
    bool no_source_sums;         /* of a quantization: the output does not say what its source's tensors were */
    bool allow_unknown;          /* tensors that the architecture does not know keep their own names */
    const struct lm_pack_type *pack; /* safetensors: how the matrices are stored; NULL: plain */
    uint32_t pack_group;         /* of LM_PACK_GROUP; 0 = 128 */
};

enum lm_action { LM_ACTION_COPY, LM_ACTION_CAST, LM_ACTION_QUANTIZE, LM_ACTION_MAKE };

/* What a changed tensor lost: x its values in the source, y those in the output. */
struct lm_errors {
    uint64_t n;
    double x2, y2, xy, e2; /* sums of x^2, y^2, x y, (y - x)^2 */
    double max;            /* largest |y - x|, */
    uint64_t max_at;       /* the first place of it */
};

/* n[0] x n[1] x ... elements of src go to the output at these steps (in elements), dst_step descending. */
struct lm_plan_piece {
    const struct lm_tensor *src;
    unsigned n_axes;
    uint64_t n[LM_BOX_AXES], src_step[LM_BOX_AXES], dst_step[LM_BOX_AXES], src_at, dst_at;
};

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
    /* Where the transform takes tensors apart or puts them together: the boxes of which the output is made, of src
     * and other tensors of its dtype. None: src as a whole. */
    struct lm_plan_piece *pieces;
    size_t n_pieces;
    uint32_t n_heads;            /* of a permutation */
    enum lm_role role;
    int layer;
    const char *why;             /* why this dtype, when it is not the one asked for ("rows of 1600 are not whole Q4_K blocks: Q5_0"); NULL */
    const struct lm_imatrix_entry *importance; /* of its columns; NULL: made without */
    int packs;                   /* 1: src is the codes that a matrix is quantized to, 2: what goes with them */
    /* filled while running */
    uint64_t n_overflow, n_flushed, n_nan; /* finite to infinite; non-zero to zero; NaN or Inf in the source */
    struct lm_errors errors;     /* with lm_run_options.measure */
    uint64_t source_sum;         /* of what it was made of (convert/source.h); 0: not summed */
};
struct lm_plan_drop { const struct lm_tensor *src; const char *why; };

struct lm_plan {
    struct lm_model *src;
    struct lm_model *recast;     /* owned; src is it, when the target needs another form of what was given */
    struct lm_binding *bind;     /* NULL: architecture unknown, names kept */
    struct lm_request req;
    struct lm_plan_item *items;
    size_t n_items, items_room;
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
    bool sums_source;            /* items' source_sum are wanted: the output's metadata hold them */
    char **notes;                /* sentences that the user should see */
    size_t n_notes;
    uint64_t n_src_bytes, n_dst_bytes;
    struct { uint64_t side; const float *values; } masks[4]; /* made once, shared by layers */
    size_t n_masks;
    /* filled while running */
    uint64_t n_ranges, n_reused; /* ranges of the output; those that an earlier run had done */
    bool unfinished;             /* a share was done, the output has no name yet */
    struct lm_map *joined;       /* while planning: names of items with pieces -> item */
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
    uint64_t max_ram;         /* private memory, of the whole process; 0 = 512 MB */
    bool keep;                /* what is done survives any end, and the same call goes on from there (journal.h) */
    unsigned part, n_parts;   /* with keep: share `part`, from 1, of n_parts; the plan is `unfinished` after it. n_parts 0: all */
    bool commit_only;         /* with keep: everything must be there already; it is checked and named */
    bool measure;             /* fill each changed item's errors */
    const struct lm_quantizer *quantizer; /* of a device; NULL: the CPU encodes */
    int quantizer_ordinal;
    const volatile int *stop; /* set by a signal handler: leave nothing, LM_INTERRUPTED */
    void (*progress)(void *user, uint64_t done, uint64_t total); /* bytes of source read; any thread, serialised */
    void *user;
};
/* dst is a file, or a directory (made if needed) when the name ends in / or is
 * an existing directory or sides exist. The source is checked to be unchanged
 * at the end and the result is read back. On any failure the destination is
 * absent or as it was. Values that are not finite stop a quantization. */
int lm_plan_run(struct lm_plan *p, const char *dst, const struct lm_run_options *o, struct lm_err *e);
/* Several outputs of one model in one pass: each range of the source is read and
 * decoded once. The plans must make the same tensors in the same order (they
 * differ in types). Outputs are named one after the other, at the end. */
int lm_plans_run(struct lm_plan *const *plans, const char *const *dsts, size_t n, const struct lm_run_options *o,
                 struct lm_err *e);

/* ---- commit.c: durable files */
struct lm_commit; /* a set of files that appear together or not at all */
int lm_commit_begin(struct lm_commit **out, const char *dir, bool force, struct lm_err *e);
/* A file of exactly n_bytes, reserved on disk, invisible under its name yet; the fd is the commit's. */
int lm_commit_add(struct lm_commit *c, const char *name, uint64_t n_bytes, int *fd, struct lm_err *e);
int lm_commit_finish(struct lm_commit *c, struct lm_err *e); /* fsync, rename in order of adding, fsync folder; frees c */
void lm_commit_abort(struct lm_commit *c); /* NULL is fine */
int lm_pwrite_all(int fd, const void *data, size_t n, uint64_t offset, struct lm_err *e);

#endif
