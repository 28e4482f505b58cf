/* The new head of a GGUF file, also of one of a set.  The writer makes whole
 * files of their own; what a part of a set has besides is put in here. */
#include <stdlib.h>

#include "convert/edit_parts.h"
#include "libmodel/bytes.h"

enum { FIXED = 24, N_TENSORS_AT = 8, N_PAIRS_AT = 16 };

struct part { const struct lm_model *m; size_t file; const char *const *names; };

/* ---- the writer's head of some tensors */

static int lay_out(struct lm_layout *l, const struct part *p, const struct lm_meta *meta, bool tensors, struct lm_err *e)
{
    size_t n = lm_model_n_tensors(p->m), k = 0;
    struct lm_write_tensor *w = calloc(n + 1, sizeof *w);

    if (!w)
        return lmc_nomem(e);
    for (size_t i = 0; tensors && i < n; i++) {
        const struct lm_tensor *t = lm_model_tensor(p->m, i);
        if (t->file != p->file)
            continue;
        w[k] = (struct lm_write_tensor){.name = p->names ? p->names[i] : t->name, .dtype = t->dtype, .n_dims = t->n_dims};
        memcpy(w[k++].shape, t->shape, sizeof w[0].shape);
    }
    struct lm_write_spec spec = {.tensors = w, .n_tensors = k, .meta = meta};
    int rc = lm_format_find("gguf")->layout(l, &spec, "model.gguf", e);
    free(w);
    return rc;
}

/* ---- what makes it one of a set */

static uint8_t *put_number(uint8_t *p, const char *key, enum lm_meta_type type, uint64_t v)
{
    size_t n = strlen(key);

    lm_store_u64le(p, n);
    memcpy(p + 8, key, n);
    lm_store_u32le(p + 8 + n, type == LM_META_U16 ? 2 : 5); /* GGUF's numbers of U16 and I32 */
    if (type == LM_META_U16)
        lm_store_u16le(p + 12 + n, (uint16_t)v);
    else
        lm_store_u32le(p + 12 + n, (uint32_t)v);
    return p + 12 + n + (type == LM_META_U16 ? 2 : 4);
}

/* The pairs into out, room for 128 bytes; their size. */
static size_t put_set(uint8_t *out, const struct part *p)
{
    uint8_t *at = out;

    if (lm_model_n_files(p->m) == 1)
        return 0;
    at = put_number(at, "split.no", LM_META_U16, p->file);
    at = put_number(at, "split.count", LM_META_U16, lm_model_n_files(p->m));
    at = put_number(at, "split.tensors.count", LM_META_I32, lm_model_n_tensors(p->m));
    return (size_t)(at - out);
}

/* Fixed part and pairs of `pairs`, the set's pairs, then the tensors of `all`. */
static int join_head(struct lmc_image *x, const struct part *p, const struct lm_layout_file *pairs,
                     const struct lm_layout_file *all, uint64_t start, struct lm_err *e)
{
    uint8_t set[128];
    size_t n_set = put_set(set, p), n_infos = all->n_head - pairs->n_head;

    x->n_text = all->n_head + n_set;
    x->n_head = x->n_text > start ? x->n_text : (size_t)start;
    if (!(x->head = calloc(1, x->n_head + 1)))
        return lmc_nomem(e);
    memcpy(x->head, pairs->head, pairs->n_head);
    memcpy(x->head + N_TENSORS_AT, all->head + N_TENSORS_AT, 8);
    lm_store_u64le(x->head + N_PAIRS_AT, lm_load_u64le(pairs->head + N_PAIRS_AT) + (n_set ? 3 : 0));
    memcpy(x->head + pairs->n_head, set, n_set);
    memcpy(x->head + pairs->n_head + n_set, all->head + pairs->n_head, n_infos);
    return 0;
}

static uint64_t alignment_of(const struct lm_model *m)
{
    uint64_t a = 32;

    lm_meta_get_u64(lm_model_meta(m), "general.alignment", &a, NULL);
    return a;
}

/* Tensors keep their distances; start: where the data begin. */
static int place_runs(struct lmc_image *x, const struct part *p, const struct lm_layout *all, uint64_t start, struct lm_err *e)
{
    uint64_t theirs = all->files[0].n_head, end = start;

    lm_align_up_u64(theirs, alignment_of(p->m), &theirs);
    x->runs = calloc(lm_model_n_tensors(p->m) + 1, sizeof *x->runs);
    if (!x->runs)
        return lmc_nomem(e);
    for (size_t i = 0; i < lm_model_n_tensors(p->m); i++) {
        const struct lm_tensor *t = lm_model_tensor(p->m, i);
        if (t->file != p->file)
            continue;
        uint64_t to = all->places[x->n_runs].offset - theirs + start;
        x->runs[x->n_runs++] = (struct lmc_run){t->offset, to, t->n_bytes};
        end = to + t->n_bytes > end ? to + t->n_bytes : end;
    }
    x->n_bytes = x->n_runs ? end : x->n_text;
    if (x->n_runs)
        lm_align_up_u64(end, alignment_of(p->m), &x->n_bytes); /* the writer fills the last tensor up too */
    return 0;
}

static int make_image(struct lmc_image *x, const struct part *p, const struct lm_meta *meta, struct lm_err *e)
{
    struct lm_layout pairs = {0}, all = {0};
    uint8_t set[128];
    uint64_t start = 0;

    *x = (struct lmc_image){.file = p->file};
    int rc = lay_out(&pairs, p, meta, false, e) || lay_out(&all, p, meta, true, e) ? -1 : 0;
    if (rc == 0) {
        lm_align_up_u64(all.files[0].n_head + put_set(set, p), alignment_of(p->m), &start);
        rc = place_runs(x, p, &all, start, e);
    }
    if (rc == 0)
        rc = join_head(x, p, &pairs.files[0], &all.files[0], x->n_runs ? start : 0, e);
    lm_layout_free(&pairs);
    lm_layout_free(&all);
    return rc;
}

/* ---- room */

int lmc_set_padding(struct lm_meta *meta, uint64_t n, struct lm_err *e)
{
    const uint64_t key = 8 + sizeof LMC_PADDING_KEY - 1 + 4 + 8;
    char *spaces = n >= key ? malloc(n - key + 1) : NULL;

    if (!spaces)
        return n >= key ? lmc_nomem(e) : 0;
    memset(spaces, ' ', n - key);
    int rc = lm_meta_set_str(meta, LMC_PADDING_KEY, lm_span_of(spaces, n - key)) < 0 ? lmc_nomem(e) : 0;
    free(spaces);
    return rc;
}

static uint64_t data_start(const struct part *p)
{
    uint64_t start = lm_model_file(p->m, p->file)->map.size;

    for (size_t i = 0; i < lm_model_n_tensors(p->m); i++) {
        const struct lm_tensor *t = lm_model_tensor(p->m, i);
        if (t->file == p->file && t->offset < start)
            start = t->offset;
    }
    return start;
}

static int again(struct lmc_image *x, const struct part *p, struct lm_meta *meta, uint64_t room, struct lm_err *e)
{
    lmc_image_free(x);
    return lmc_set_padding(meta, room, e) ? -1 : make_image(x, p, meta, e);
}

static int first_file(struct lmc_image *x, const struct part *p, struct lm_meta *meta, bool copy, struct lm_err *e)
{
    const struct lm_model_file *f = lm_model_file(p->m, p->file);
    uint64_t start = data_start(p), room;

    lm_meta_remove(meta, LMC_PADDING_KEY);
    if (make_image(x, p, meta, e))
        return -1;
    if (!copy && lmc_image_stays(x, f))
        return 0;
    room = start > x->n_text && !copy ? start - x->n_text : LMC_PADDING;
    if (again(x, p, meta, room, e))
        return -1;
    return !copy && !lmc_image_stays(x, f) && room != LMC_PADDING ? again(x, p, meta, LMC_PADDING, e) : 0;
}

/* A part of a set whose head is not what the writer would make holds something that is not known here. */
static int later_file(struct lmc_image *x, const struct part *p, struct lm_err *e)
{
    const struct lm_model_file *f = lm_model_file(p->m, p->file);
    struct lm_meta *meta = lm_meta_new();
    struct part as_is = {p->m, p->file, NULL};
    int rc = meta ? 0 : lmc_nomem(e);

    if (rc == 0 && lm_meta_get(lm_model_meta(p->m), "general.alignment"))
        rc = lm_meta_set_u32(meta, "general.alignment", (uint32_t)alignment_of(p->m)) < 0 ? lmc_nomem(e) : 0;
    if (rc == 0)
        rc = make_image(x, &as_is, meta, e);
    if (rc == 0 && (x->n_text > f->map.size || memcmp(x->head, f->map.data, x->n_text) != 0))
        rc = lm_err_set(e, LM_UNSUPPORTED, "%s: this part of the set has metadata of its own; lm-convert --merge makes one file, "
                        "which can be edited", f->path);
    lmc_image_free(x);
    if (rc == 0)
        rc = make_image(x, p, meta, e);
    lm_meta_free(meta);
    return rc;
}

int lmc_image_gguf(struct lmc_image *x, const struct lm_model *m, size_t file, struct lm_meta *meta, const char *const *names,
                   bool copy, struct lm_err *e)
{
    struct part p = {m, file, names};

    return file == 0 ? first_file(x, &p, meta, copy, e) : later_file(x, &p, e);
}
