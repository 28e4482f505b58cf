/* Back to the original safetensors files, byte for byte.
 *
 * A GGUF, npz or HDF5 file that lm-convert made carries the headers of the files it came from.
 * When they describe exactly the tensors at hand, and every dtype comes back
 * without loss, the same headers are written over the same bytes. A vector that
 * GGUF widened to F32 is narrowed only after every value was seen to survive. */
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "convert/plan.h"

struct back {
    struct lm_plan *p;
    struct lm_map *by_name;       /* of the output's tensors -> item */
    bool *taken;                  /* one an item */
    struct lm_plan_item *wanted;  /* file by file, as headers say */
    size_t n_wanted, capacity, n_made;
};

/* ---- values survive? */

static bool survives(const float *x, uint64_t n, enum lm_dtype to)
{
    for (uint64_t i = 0; i < n; i++) {
        float back = to == LM_BF16 ? lm_bf16_to_f32(lm_f32_to_bf16(x[i])) : lm_f16_to_f32(lm_f32_to_f16(x[i]));
        if (memcmp(&back, &x[i], sizeof back) != 0)
            return false;
    }
    return true;
}

/* shift: added before (the 1 that GGUF adds to Gemma's norms goes away again). */
static bool narrows_exactly(const struct lm_tensor *t, float shift, enum lm_dtype to)
{
    float buf[4096];

    for (uint64_t i = 0; i < t->n_elems; i += 4096) {
        uint64_t n = t->n_elems - i < 4096 ? t->n_elems - i : 4096;
        if (lm_tensor_to_f32(t, i, n, buf, NULL) < 0)
            return false;
        for (uint64_t j = 0; j < n; j++)
            buf[j] += shift;
        if (!survives(buf, n, to))
            return false;
    }
    return true;
}

static bool comes_back(const struct lm_tensor *t)
{
    float buf[4096];

    for (uint64_t i = 0; i < t->n_elems; i += 4096) {
        uint64_t n = t->n_elems - i < 4096 ? t->n_elems - i : 4096;
        if (lm_tensor_to_f32(t, i, n, buf, NULL) < 0)
            return false;
        for (uint64_t j = 0; j < n; j++) {
            volatile float sum = buf[j] + 1.0f;
            if (sum - 1.0f != buf[j])
                return false;
        }
    }
    return true;
}

bool lmc_sums_come_back(const struct lm_plan *p)
{
    for (size_t i = 0; i < p->n_items; i++)
        if (p->items[i].transform == LM_T_PLUS_ONE && !p->items[i].inverse && !comes_back(p->items[i].src))
            return false;
    return true;
}

static bool all_narrow(const struct lm_plan_item *it, enum lm_dtype to)
{
    for (size_t i = 0; i < it->n_pieces; i++)
        if (!narrows_exactly(it->pieces[i].src, 0, to))
            return false;
    return it->n_pieces > 0 || narrows_exactly(it->src, it->transform == LM_T_PLUS_ONE ? -1.0f : 0, to);
}

/* The tensors that conversion to GGUF widens whatever was asked: small ones. */
static bool was_widened(const struct lm_plan_item *it)
{
    return it->n_dims < 2 || it->role == LM_ROLE_POS_EMBD || it->role == LM_ROLE_ROUTER ||
           it->role == LM_ROLE_SHEXP_GATE || !lmc_has_suffix(it->src->name, ".weight") ||
           strstr(it->src->name, "_norm.weight");
}

static bool restores(const struct lm_plan_item *it, enum lm_dtype to)
{
    if (it->src->dtype == to)
        return true;
    return it->src->dtype == LM_F32 && (to == LM_BF16 || to == LM_F16) && was_widened(it) && all_narrow(it, to);
}

/* ---- header against items */

static struct lm_plan_item *find_item(struct back *b, const char *name)
{
    const struct lm_binding *bind = b->p->bind;
    char buf[512];
    int layer, expert;
    const struct lm_arch_row *row = NULL;

    /* The original may leave out a prefix that items have. */
    if (bind && bind->naming == LM_NAMES_GGUF)
        row = lm_arch_match_next(bind->config.arch, &bind->config, LM_NAMES_HF, name, NULL, &layer, &expert);
    if (row)
        lm_arch_expert_name(row, LM_NAMES_HF, layer, expert, buf, sizeof buf);
    size_t i = lm_map_get(b->by_name, lm_span_str(row ? buf : name));
    if (i == SIZE_MAX || b->taken[i])
        return NULL;
    b->taken[i] = true;
    return &b->p->items[i];
}

/* Reads the shape of a header's entry. */
static bool read_shape(struct lm_plan_item *it, const json_t *shape)
{
    it->n_dims = (unsigned)json_array_size(shape);
    if (!json_is_array(shape) || json_array_size(shape) > LM_MAX_DIMS)
        return false;
    for (unsigned i = 0; i < it->n_dims; i++) {
        const json_t *d = json_array_get(shape, i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return false;
        it->shape[i] = (uint64_t)json_integer_value(d);
    }
    return true;
}

static bool same_shape(const struct lm_plan_item *it, const struct lm_plan_item *w)
{
    if (w->n_dims == 0) /* GGUF has no scalars */
        return it->n_dims <= 1 && it->src->n_elems == 1;
    return it->n_dims == w->n_dims && memcmp(it->shape, w->shape, w->n_dims * sizeof w->shape[0]) == 0;
}

/* The item of a header's entry: of the source's tensor, or made. */
static bool fill_wanted(struct back *b, const char *name, struct lm_plan_item *w)
{
    const struct lm_plan_item *it = find_item(b, name), said = *w;

    if (!it) {
        w->made = lmc_make_dropped(b->p, name, w->shape, w->n_dims);
        w->why = "a buffer that GGUF has no place for";
        b->n_made++; /* a header cannot ask for more of them than there are tensors */
        return w->made && b->n_made <= b->p->n_items && (w->dtype == LM_F32 || w->dtype == LM_F16 || w->dtype == LM_BF16);
    }
    if (!same_shape(it, w) || !restores(it, w->dtype))
        return false;
    *w = *it;
    w->dtype = said.dtype;
    w->n_dims = said.n_dims;
    return true;
}

static struct lm_plan_item *new_wanted(struct back *b)
{
    if (b->n_wanted == b->capacity) {
        size_t n = b->capacity ? 2 * b->capacity : 64;
        struct lm_plan_item *bigger = reallocarray(b->wanted, n, sizeof *bigger);
        if (!bigger)
            return NULL;
        b->wanted = bigger;
        b->capacity = n;
    }
    b->wanted[b->n_wanted] = (struct lm_plan_item){.layer = -1, .role = LM_ROLE_IGNORED};
    return &b->wanted[b->n_wanted++];
}

/* 1 it fits, 0 it does not, -1 out of memory. */
static int want(struct back *b, const char *name, const json_t *entry)
{
    struct lm_plan_item *w = new_wanted(b);
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    int d = dtype ? lm_dtype_find(dtype) : -1;

    if (!w)
        return -1;
    if (d < 0 || !read_shape(w, json_object_get(entry, "shape")))
        return 0;
    w->dtype = (enum lm_dtype)d;
    if (!fill_wanted(b, name, w))
        return 0;
    w->name = lm_arena_str(&b->p->arena, lm_span_str(name));
    return w->name ? 1 : -1;
}

static int want_all_of(struct back *b, struct lm_span header)
{
    json_t *root = json_loadb((const char *)header.data, header.size, JSON_REJECT_DUPLICATES, NULL);
    const char *name;
    json_t *entry;
    int rc = json_is_object(root) ? 1 : 0;

    json_object_foreach(root, name, entry) {
        if (rc == 1 && strcmp(name, "__metadata__") != 0)
            rc = want(b, name, entry);
    }
    json_decref(root);
    return rc;
}

/* ---- all files */

/* The name comes from a file: nothing but a safetensors file beside the others. */
static bool is_plain_name(struct lm_span s)
{
    static const char end[] = ".safetensors";
    size_t k = sizeof end - 1;

    return s.size > k && s.size < 200 && s.data[0] != '.' && !memchr(s.data, '/', s.size) &&
           !memchr(s.data, 0, s.size) && memcmp(s.data + s.size - k, end, k) == 0;
}

static struct lm_span header_at(const struct lm_meta *m, size_t n_files, size_t i)
{
    struct lm_span s = {0};
    char key[64];

    snprintf(key, sizeof key, n_files == 1 ? LMC_SOURCE "header" : LMC_SOURCE "header.%zu", i);
    lm_meta_get_str(m, key, &s, NULL);
    return s;
}

/* 1 all fits and the parts are set up, 0 not, -1 out of memory. */
static int match_files(struct back *b, const struct lm_meta *m, const struct lm_meta_value *files)
{
    struct lm_plan *p = b->p;

    for (size_t i = 0; i < files->n; i++) {
        struct lm_plan_part *part = &p->parts[i];
        size_t first = b->n_wanted;
        if (!is_plain_name(files->strs[i]))
            return 0;
        part->exact_header = header_at(m, files->n, i);
        int rc = part->exact_header.size ? want_all_of(b, part->exact_header) : 0;
        if (rc <= 0)
            return rc;
        part->base = lm_arena_str(&p->arena, files->strs[i]);
        part->first = first;
        part->n = b->n_wanted - first;
        if (!part->base)
            return -1;
    }
    return b->n_wanted - b->n_made == p->n_items;
}

static void apply(struct back *b)
{
    struct lm_plan *p = b->p;

    free(p->items);
    p->items = b->wanted;
    p->n_items = b->n_wanted;
    p->exact = true;
    b->wanted = NULL;
}

static int index_items(struct back *b)
{
    struct lm_plan *p = b->p;

    b->by_name = lm_map_new(p->n_items);
    b->taken = calloc(p->n_items + 1, sizeof *b->taken);
    if (!b->by_name || !b->taken)
        return -1;
    for (size_t i = 0; i < p->n_items; i++)
        if (lm_map_put(b->by_name, lm_span_str(p->items[i].name), i) < 0)
            return -1;
    return 0;
}

static int try_back(struct back *b, const struct lm_meta *m, const struct lm_meta_value *files)
{
    struct lm_plan *p = b->p;
    int rc;

    p->parts = calloc(files->n, sizeof *p->parts);
    if (!p->parts || index_items(b))
        return -1;
    p->n_parts = files->n;
    rc = match_files(b, m, files);
    if (rc == 1) {
        apply(b);
        return 0;
    }
    free(p->parts);
    p->parts = NULL;
    p->n_parts = 0;
    return rc;
}

int lmc_plan_back(struct lm_plan *p, struct lm_err *e)
{
    const struct lm_meta *m = lm_model_meta(p->src);
    const struct lm_meta_value *files = lm_meta_get(m, LMC_SOURCE "files");
    struct back b = {.p = p};
    int rc;

    if (!lmc_is_safetensors(p->req.to) || !lm_model_format(p->src)->carries || p->req.dtype >= 0 || p->req.max_file_bytes ||
        lmc_has_packed(p->src))
        return 0;
    if (!files || files->type != LM_META_ARRAY || files->elem != LM_META_STR || files->n == 0)
        return 0;
    if (files->n > p->n_items || (p->req.bare && files->n > 1))
        return 0;
    rc = try_back(&b, m, files);
    lm_map_free(b.by_name);
    free(b.wanted);
    free(b.taken);
    return rc < 0 ? lmc_nomem(e) : 0;
}
