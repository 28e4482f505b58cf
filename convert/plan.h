/* Between the files that make a plan.  Private to convert/. */
#ifndef CONVERT_PLAN_H
#define CONVERT_PLAN_H

#include "convert/convert.h"

#define LMC_SOURCE "libmodel.source." /* keys of GGUF metadata that carry the original's small files */

bool lmc_to_gguf(const struct lm_plan *p);
bool lmc_is_gguf(const struct lm_model *m);
bool lmc_is_safetensors(const struct lm_format *f);
/* To a container that carries all inside (npz, HDF5): the tensors keep names and order, whoever they are from. */
bool lmc_keeps(const struct lm_plan *p);
const char *lmc_default_base(const struct lm_plan *p); /* "model.gguf": the file of a folder */
bool lmc_renames(const struct lm_plan *p); /* between Hugging Face's and GGUF's names */
bool lmc_has_suffix(const char *s, const char *suffix);
const char *lmc_base_name(const char *path);
int lmc_nomem(struct lm_err *e);
int lmc_note(struct lm_plan *p, struct lm_err *e, const char *format, ...) __attribute__((format(printf, 3, 4)));
int lmc_side(struct lm_plan *p, const char *name, struct lm_span data, struct lm_err *e);
char *lmc_print(struct lm_arena *a, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* plan.c: one more item, zeroed; NULL: out of memory. Earlier ones may move. */
struct lm_plan_item *lmc_new_item(struct lm_plan *p);
/* plan_pieces.c: is a row's tensor taken apart or put together? */
bool lmc_is_boxed(const struct lm_arch_row *row);
/* A box of t in the output's order; inverse: from GGUF to Hugging Face. Do its runs consist of whole blocks? */
struct lm_plan_piece lmc_piece_of(const struct lm_tensor *t, const struct lm_box *b, bool inverse);
bool lmc_is_whole_blocks(const struct lm_plan_piece *x);
/* Adds what t gives to the items of a boxed row. */
int lmc_plan_pieces(struct lm_plan *p, const struct lm_tensor *t, const struct lm_arch_row *row, int layer, int expert,
                    struct lm_err *e);
/* All items complete? */
int lmc_check_pieces(const struct lm_plan *p, struct lm_err *e);
/* The row whose Hugging Face spelling the way back should use: `row`'s own, or an alias that the original had. */
const struct lm_arch_row *lmc_spelling(const struct lm_plan *p, const struct lm_arch_row *row, int layer);

/* plan_meta.c: the output's metadata, original files included. */
int lmc_plan_meta(struct lm_plan *p, struct lm_err *e);
/* Are some of its weights computed from several stored tensors? */
bool lmc_has_packed(const struct lm_model *m);
/* plan_packed.c: the type of an item made of such, when none is asked for; and
 * its blocks as they are where they are what is asked for. */
int lmc_keep_packed(struct lm_plan *p, struct lm_plan_item *it, struct lm_err *e);
int lmc_match_packed(struct lm_plan *p, struct lm_plan_item *it, struct lm_err *e);
int lmc_note_packed(struct lm_plan *p, struct lm_err *e); /* which were repacked, which decoded */
/* plan_pack.c: the other way, into safetensors (lm_request.pack), and its
 * quantization_config (new reference; NULL: out of memory). */
int lmc_plan_pack(struct lm_plan *p, struct lm_err *e);
struct json_t;
struct json_t *lmc_pack_config(const struct lm_plan *p);
/* plan_type.c: the output's dtypes. */
int lmc_plan_types(struct lm_plan *p, struct lm_err *e);
/* importance.c: gives each item its columns' importance; -1 when it does not fit
 * or a type needs what is not there. Then what the output says about it. */
int lmc_plan_importance(struct lm_plan *p, struct lm_err *e);
int lmc_importance_meta(struct lm_plan *p, struct lm_err *e);
/* recipe.c: r may be NULL. */
bool lmc_recipe_has_rules(const struct lm_recipe *r);
/* reproduce.c: how a quantized output was made, for itself to tell. */
/* The key whose text of spaces leaves room for later edits of a GGUF's head. */
#define LMC_PADDING_KEY "libmodel.padding"
enum { LMC_PADDING = 4096 }; /* bytes in what is written new: room for another chat template */
/* edit_gguf.c: as the last pair, n bytes with its key; nothing when n is too small for that. */
int lmc_set_padding(struct lm_meta *meta, uint64_t n, struct lm_err *e);
int lmc_recipe_meta(struct lm_plan *p, struct lm_err *e);
/* The sums of the source as they are now, zeros before the run: they take the same room. */
int lmc_recipe_sums(struct lm_plan *p, struct lm_err *e);
/* plan_back.c: gives back the original safetensors files of a GGUF that we
 * made, when nothing but names and order differ (p->exact). */
int lmc_plan_back(struct lm_plan *p, struct lm_err *e);
/* Do all values that 1 is added to come back when it is taken away? */
bool lmc_sums_come_back(const struct lm_plan *p);
/* plan_dropped.c: buffers that GGUF has no place for (causal masks, rotary
 * frequencies), remembered in metadata. *all: each of them can be made again. */
int lmc_embed_dropped(struct lm_plan *p, bool *all, struct lm_err *e);
/* The values of one [n_elems], in the plan's arena; NULL: it was not remembered or memory is out. */
const float *lmc_make_dropped(struct lm_plan *p, const char *name, const uint64_t *shape, unsigned n_dims);
/* plan_side.c: config.json, tokenizer files. */
int lmc_plan_sides(struct lm_plan *p, struct lm_err *e);
/* config.json that names the dtype the weights now have, malloc'd; NULL: the text is right as it is. */
char *lmc_cast_config(const struct lm_plan *p, struct lm_span text);
/* Where the items of a part go; base names the files unless the part does. Free with lm_layout_free. */
int lmc_layout(struct lm_layout *out, const struct lm_plan *p, size_t part, const char *base, struct lm_err *e);

#endif
