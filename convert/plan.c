/* What every tensor of the source becomes: name, shape, transform.  Nothing is
 * lost without a reason. */
#include "convert/plan.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "convert/policy.h"

/* ---- small helpers */

int lmc_nomem(struct lm_err *e)
{
    return lm_err_set(e, LM_NOMEM, "out of memory");
}

bool lmc_has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s), k = strlen(suffix);

    return n >= k && memcmp(s + n - k, suffix, k) == 0;
}

const char *lmc_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

static char *print_va(struct lm_arena *a, const char *format, va_list ap)
{
    char *tmp = NULL, *s = NULL;

    if (vasprintf(&tmp, format, ap) < 0)
        return NULL;
    s = lm_arena_str(a, lm_span_str(tmp));
    free(tmp);
    return s;
}

char *lmc_print(struct lm_arena *a, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    char *s = print_va(a, format, ap);
    va_end(ap);
    return s;
}

int lmc_note(struct lm_plan *p, struct lm_err *e, const char *format, ...)
{
    char **bigger = reallocarray(p->notes, p->n_notes + 1, sizeof *bigger);
    va_list ap;

    if (!bigger)
        return lmc_nomem(e);
    p->notes = bigger;
    va_start(ap, format);
    p->notes[p->n_notes] = print_va(&p->arena, format, ap);
    va_end(ap);
    return p->notes[p->n_notes++] ? 0 : lmc_nomem(e);
}

int lmc_side(struct lm_plan *p, const char *name, struct lm_span data, struct lm_err *e)
{
    struct lm_plan_side *bigger = reallocarray(p->sides, p->n_sides + 1, sizeof *bigger), *s;

    if (!bigger)
        return lmc_nomem(e);
    p->sides = bigger;
    s = &p->sides[p->n_sides++];
    s->name = strdup(name);
    s->data = malloc(data.size + 1);
    s->n = data.size;
    if (!s->name || !s->data)
        return lmc_nomem(e);
    if (data.size)
        memcpy(s->data, data.data, data.size);
    return 0;
}

bool lmc_is_gguf(const struct lm_model *m)
{
    return strcmp(lm_model_format(m)->name, "gguf") == 0;
}

bool lmc_to_gguf(const struct lm_plan *p)
{
    return strcmp(p->req.to->name, "gguf") == 0;
}

bool lmc_is_safetensors(const struct lm_format *f)
{
    return strcmp(f->name, "safetensors") == 0;
}

const char *lmc_default_base(const struct lm_plan *p)
{
    return lmc_to_gguf(p) ? "model.gguf" : lmc_is_safetensors(p->req.to) ? "model.safetensors"
                                                          : strcmp(p->req.to->name, "h5") == 0 ? "model.h5"
           : strcmp(p->req.to->name, "keras") == 0 ? "model.weights.h5" : "model.npz";
}

bool lmc_keeps(const struct lm_plan *p)
{
    return p->req.to->carries && !lmc_to_gguf(p);
}

bool lmc_renames(const struct lm_plan *p)
{
    return p->bind && !lmc_keeps(p) && p->bind->naming != (lmc_to_gguf(p) ? LM_NAMES_GGUF : LM_NAMES_HF);
}

enum lm_action lm_plan_action(const struct lm_plan_item *it)
{
    if (!it->src)
        return LM_ACTION_MAKE;
    if (it->packs)
        return it->packs == 1 ? LM_ACTION_QUANTIZE : LM_ACTION_MAKE;
    if (it->src->dtype == it->dtype && it->transform != LM_T_PLUS_ONE)
        return LM_ACTION_COPY;
    return lm_dtype_info(it->dtype)->kind == LM_KIND_QUANT ? LM_ACTION_QUANTIZE : LM_ACTION_CAST;
}

uint64_t lm_plan_elems(const struct lm_plan_item *it)
{
    uint64_t n = 1;

    for (unsigned i = 0; i < it->n_dims; i++)
        n *= it->shape[i]; /* the source's product was checked, and made ones are small */
    return it->src && !it->n_pieces ? it->src->n_elems : n;
}

/* ---- one tensor */

static void drop(struct lm_plan *p, const struct lm_tensor *t, const char *why)
{
    p->drops[p->n_drops++] = (struct lm_plan_drop){t, why};
}

struct lm_plan_item *lmc_new_item(struct lm_plan *p)
{
    if (p->n_items == p->items_room) {
        size_t room = p->items_room + p->items_room / 2 + 16;
        struct lm_plan_item *bigger = reallocarray(p->items, room, sizeof *bigger);
        if (!bigger)
            return NULL;
        p->items = bigger;
        p->items_room = room;
    }
    p->items[p->n_items] = (struct lm_plan_item){.layer = -1};
    return &p->items[p->n_items++];
}

static struct lm_plan_item *add_item(struct lm_plan *p, const struct lm_tensor *t)
{
    struct lm_plan_item *it = lmc_new_item(p);

    if (!it)
        return NULL;
    *it = (struct lm_plan_item){.src = t, .dtype = t->dtype, .n_dims = t->n_dims, .layer = -1, .role = LM_ROLE_IGNORED};
    memcpy(it->shape, t->shape, sizeof it->shape);
    /* GGUF has no scalars. */
    if (t->n_dims == 0 && lmc_to_gguf(p)) {
        it->n_dims = 1;
        it->shape[0] = 1;
    }
    return it;
}

static int set_transform(struct lm_plan *p, struct lm_plan_item *it, const struct lm_arch_row *row, struct lm_err *e)
{
    const struct lm_config *c = &p->bind->config;
    uint64_t outer = it->shape[0];

    it->transform = row->transform;
    it->inverse = !lmc_to_gguf(p);
    switch (row->transform) {
    case LM_T_NONE:
        return 0;
    case LM_T_TRANSPOSE:
        if (it->n_dims != 2)
            break;
        it->shape[0] = it->shape[1];
        it->shape[1] = outer;
        return 0;
    case LM_T_PERMUTE_Q:
    case LM_T_PERMUTE_K:
        it->n_heads = row->transform == LM_T_PERMUTE_Q ? c->n_heads : c->n_kv_heads;
        if (it->n_dims == 0 || it->n_heads == 0 || outer % (2 * (uint64_t)it->n_heads) != 0)
            break;
        return 0;
    default: /* no change of order, or pieces */
        return 0;
    }
    return lm_err_set(e, LM_MISMATCH, "tensor '%s': \"%s\" does not fit its shape", it->src->name,
                      lm_transform_name(row->transform));
}

static int plan_unknown(struct lm_plan *p, const struct lm_tensor *t, struct lm_err *e)
{
    struct lm_plan_item *it;

    if (lmc_renames(p) && !p->req.allow_unknown)
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s' is not part of the architecture %s (%zu such in all); it would "
                          "be lost: --allow-unknown carries it under its own name", t->name,
                          p->bind->config.arch->name, p->bind->n_unknown);
    it = add_item(p, t);
    if (!it)
        return lmc_nomem(e);
    it->name = lm_arena_str(&p->arena, lm_span_str(t->name));
    return it->name ? 0 : lmc_nomem(e);
}

/* rope_freqs.weight has no place in Hugging Face's files: config.json must be able to say the same. */
static int fold_rope_freqs(struct lm_plan *p, const struct lm_tensor *t, struct lm_err *e)
{
    float *divisors = lm_arena_array(&p->arena, t->n_elems + 1, sizeof *divisors);
    struct lm_span config;
    int rc = lm_model_sidecar(p->src, "config.json", &config, e);

    if (!divisors)
        return lmc_nomem(e);
    if (rc != 0) /* the original config.json is carried inside */
        return rc < 0 ? -1 : 0;
    if (lm_tensor_to_f32(t, 0, t->n_elems, divisors, e) < 0)
        return -1;
    if (!lm_rope_llama3_recover(&p->bind->config, divisors, t->n_elems))
        return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s' holds divisors that are not those of llama3 rope scaling: "
                          "config.json cannot express them", t->name);
    return 0;
}

/* The divisors of longrope come back as lists of config.json. */
static int fold_long_factors(struct lm_plan *p, const struct lm_tensor *t, enum lm_role role, struct lm_err *e)
{
    double *x = lm_arena_array(&p->arena, t->n_elems + 1, sizeof *x);
    float v;

    if (!x)
        return lmc_nomem(e);
    for (uint64_t i = 0; i < t->n_elems; i++) {
        if (lm_tensor_to_f32(t, i, 1, &v, e) < 0)
            return -1;
        x[i] = (double)v;
    }
    *(role == LM_ROLE_ROPE_LONG ? &p->bind->config.rope_long : &p->bind->config.rope_short) = x;
    return 0;
}

static int fold(struct lm_plan *p, const struct lm_tensor *t, enum lm_role role, struct lm_err *e)
{
    if (role == LM_ROLE_ROPE_FREQS)
        return fold_rope_freqs(p, t, e);
    return role == LM_ROLE_ROPE_LONG || role == LM_ROLE_ROPE_SHORT ? fold_long_factors(p, t, role, e) : 0;
}

static int plan_whole(struct lm_plan *p, const struct lm_tensor *t, const struct lm_arch_row *row, int layer,
                      struct lm_err *e)
{
    struct lm_plan_item *it = add_item(p, t);
    char name[512];

    if (!it)
        return lmc_nomem(e);
    it->role = row->role;
    it->layer = layer;
    if (lmc_renames(p)) {
        if (!lm_arch_row_name(row, lmc_to_gguf(p) ? LM_NAMES_GGUF : LM_NAMES_HF, layer, name, sizeof name))
            return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s' has no name in %s", t->name, p->req.to->title);
        if (set_transform(p, it, row, e))
            return -1;
    }
    it->name = lm_arena_str(&p->arena, lm_span_str(lmc_renames(p) ? name : t->name));
    return it->name ? 0 : lmc_nomem(e);
}

/* A tensor may be several rows': gate and up in one, keys and values in one. */
static int plan_rows(struct lm_plan *p, const struct lm_tensor *t, struct lm_err *e)
{
    const struct lm_binding *b = p->bind;
    const struct lm_arch_row *row = NULL;
    int layer, expert;

    while ((row = lm_arch_match_next(b->config.arch, &b->config, b->naming, t->name, row, &layer, &expert))) {
        const struct lm_arch_row *as = lmc_to_gguf(p) ? row : lmc_spelling(p, row, layer);
        if (lmc_is_boxed(as) ? lmc_plan_pieces(p, t, as, layer, expert, e) : plan_whole(p, t, as, layer, e))
            return -1;
    }
    return 0;
}

static int plan_tensor(struct lm_plan *p, size_t i, struct lm_err *e)
{
    const struct lm_tensor *t = lm_model_tensor(p->src, i);
    const struct lm_bound *b = p->bind ? &p->bind->of[i] : NULL;

    if (!b || !b->row)
        return plan_unknown(p, t, e);
    if (lmc_renames(p) && (b->row->flags & LM_ROW_DROPPED))
        return drop(p, t, b->row->why), 0;
    if (lmc_renames(p) && (b->row->flags & LM_ROW_GGUF_ONLY) && !lmc_to_gguf(p) && fold(p, t, b->row->role, e))
        return -1;
    if (lmc_renames(p) && (b->row->flags & LM_ROW_GGUF_ONLY) && !lmc_to_gguf(p))
        return drop(p, t, b->row->why ? b->row->why : "folded into rope_scaling of config.json"), 0;
    return lmc_renames(p) ? plan_rows(p, t, e) : plan_whole(p, t, b->row, b->layer, e);
}

static int make_divisors(struct lm_plan *p, enum lm_role role, const char *name, const char *why, float **out,
                         struct lm_err *e)
{
    size_t n = p->bind->config.d_rope / 2;
    float *made = lm_arena_array(&p->arena, n, sizeof *made);
    struct lm_plan_item *it = made ? lmc_new_item(p) : NULL;

    if (!it)
        return lmc_nomem(e);
    *it = (struct lm_plan_item){.made = made, .dtype = LM_F32, .n_dims = 1, .layer = -1, .role = role, .why = why,
                                .name = lm_arena_str(&p->arena, lm_span_str(name))};
    it->shape[0] = n;
    *out = made;
    return it->name ? 0 : lmc_nomem(e);
}

static int plan_long_factors(struct lm_plan *p, struct lm_err *e)
{
    const struct lm_config *c = &p->bind->config;
    const struct { enum lm_role role; const char *name; const double *x; } sets[] = {
        {LM_ROLE_ROPE_LONG, "rope_factors_long.weight", c->rope_long},
        {LM_ROLE_ROPE_SHORT, "rope_factors_short.weight", c->rope_short},
    };
    float *made;

    for (size_t i = 0; i < 2; i++) {
        if (make_divisors(p, sets[i].role, sets[i].name, "divisors of longrope", &made, e))
            return -1;
        for (uint32_t j = 0; j < c->d_rope / 2; j++)
            made[j] = (float)sets[i].x[j];
    }
    return 0;
}

/* llama3 and longrope scaling have no metadata keys in GGUF: their divisors are tensors. */
static int plan_rope_freqs(struct lm_plan *p, struct lm_err *e)
{
    const struct lm_config *c = p->bind ? &p->bind->config : NULL;
    float *made;

    if (!c || !lmc_renames(p) || !lmc_to_gguf(p))
        return 0;
    if (c->scaling == LM_SCALING_LONGROPE)
        return plan_long_factors(p, e);
    if (c->scaling != LM_SCALING_LLAMA3)
        return 0;
    if (make_divisors(p, LM_ROLE_ROPE_FREQS, "rope_freqs.weight", "divisors of llama3 rope_scaling", &made, e))
        return -1;
    lm_rope_llama3_divisors(c, made);
    return 0;
}

/* ---- the whole */

static int bind_source(struct lm_plan *p, struct lm_err *e)
{
    struct lm_config c;
    const char *why = NULL;
    int rc = p->recast ? 2 : lm_config_read(&c, p->src, &why, e);

    if (rc == 2) /* names and orders are the target's already */
        return 0;

    if (rc < 0)
        return -1;
    if (rc == 1)
        return lm_bind(&p->bind, p->src, e);
    return lmc_note(p, e, "architecture not known (%s): tensors keep their names and order of rows",
                    why ? why : "no config.json and no GGUF keys");
}

static int by_mix_order(const void *a, const void *b)
{
    return lmc_mix_order(((const struct lm_plan_item *)a)->name, ((const struct lm_plan_item *)b)->name);
}

static int plan_items(struct lm_plan *p, struct lm_err *e)
{
    size_t n = lm_model_n_tensors(p->src);

    p->items_room = n + 3;
    p->items = calloc(p->items_room, sizeof *p->items);
    p->drops = calloc(n + 1, sizeof *p->drops);
    p->joined = lm_map_new(n);
    if (!p->items || !p->drops || !p->joined)
        return lmc_nomem(e);
    if (plan_rope_freqs(p, e))
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (plan_tensor(p, i, e))
            return -1;
        p->n_src_bytes += lm_model_tensor(p->src, i)->n_bytes;
    }
    if (lmc_check_pieces(p, e))
        return -1;
    /* The mixing rules count in this order, and llama-quantize writes in it. */
    if (p->req.quantize && lmc_to_gguf(p))
        qsort(p->items, p->n_items, sizeof *p->items, by_mix_order);
    return 0;
}

static int one_part(struct lm_plan *p, struct lm_err *e)
{
    if (p->n_parts > 0)
        return 0;
    p->parts = calloc(1, sizeof *p->parts);
    if (!p->parts)
        return lmc_nomem(e);
    p->parts[0] = (struct lm_plan_part){.n = p->n_items};
    p->n_parts = 1;
    return 0;
}

static int check_request(const struct lm_request *r, struct lm_err *e)
{
    if (!r->to->layout)
        return lm_err_set(e, LM_USAGE, "%s can be read, not written", r->to->title);
    if (r->quantize && strcmp(r->to->name, "gguf") != 0)
        return lm_err_set(e, LM_USAGE, "quantized files are written as GGUF, not as %s", r->to->title);
    if (r->compress && !r->to->compresses)
        return lm_err_set(e, LM_USAGE, "%s files are not compressed; HDF5 is (--to h5)", r->to->title);
    if (!r->quantize && r->dtype >= 0 && !r->to->can_store((enum lm_dtype)r->dtype))
        return lm_err_set(e, LM_USAGE, "%s cannot store %s", r->to->title, lm_dtype_name((enum lm_dtype)r->dtype));
    return 0;
}

/* Layouts are made here for their errors and sizes only: the names of the
 * files are not known before lm_plan_run. */
static int measure(struct lm_plan *p, struct lm_err *e)
{
    for (size_t i = 0; i < p->n_parts; i++) {
        struct lm_layout l;
        if (lmc_layout(&l, p, i, lmc_default_base(p), e))
            return -1;
        for (size_t f = 0; f < l.n_files; f++)
            p->n_dst_bytes += l.files[f].n_bytes;
        struct lm_span h = p->parts[i].exact_header;
        p->exact = p->exact && l.files[0].n_head == 8 + h.size && memcmp(l.files[0].head + 8, h.data, h.size) == 0;
        lm_layout_free(&l);
    }
    return 0;
}

static int note_assumed(struct lm_plan *p, struct lm_err *e)
{
    struct lm_span s;

    if (lm_meta_get_str(lm_model_meta(p->src), LM_META_ASSUMED, &s, NULL) != 1)
        return 0;
    return lmc_note(p, e, "assumed: %.*s", (int)(s.size < 500 ? s.size : 500), (const char *)s.data);
}

/* Text, records, an optimizer's state: what is no tensor does not get lost in silence. */
static int note_left_out(struct lm_plan *p, struct lm_err *e)
{
    enum { SHOWN = 5 };
    size_t n = lm_model_n_left_out(p->src);

    for (size_t i = 0; i < n && i < SHOWN; i++)
        if (lmc_note(p, e, "left out: %s", lm_model_left_out(p->src, i)))
            return -1;
    return n > SHOWN ? lmc_note(p, e, "left out: %zu more that are no tensors (lm-list names them)", n - SHOWN) : 0;
}

/* A GGUF that is split, merged or copied stays what it is; any other gets room for later edits. */
static int leave_room(struct lm_plan *p, struct lm_err *e)
{
    if (!lmc_to_gguf(p) || (lmc_is_gguf(p->src) && !p->req.quantize))
        return 0;
    lm_meta_remove(p->meta, LMC_PADDING_KEY);
    return lmc_set_padding(p->meta, LMC_PADDING, e);
}

static int fill(struct lm_plan *p, struct lm_err *e)
{
    if (note_left_out(p, e))
        return -1;
    if (p->req.compress && lmc_note(p, e, "compressed (shuffle, deflate): sizes are given as they are before"))
        return -1;
    if (check_request(&p->req, e) || note_assumed(p, e) || bind_source(p, e) || plan_items(p, e) || lmc_plan_types(p, e) ||
        lmc_plan_pack(p, e))
        return -1;
    if (lmc_plan_importance(p, e) || lmc_plan_meta(p, e) || lmc_importance_meta(p, e) || lmc_recipe_meta(p, e) ||
        leave_room(p, e))
        return -1;
    if (lmc_plan_back(p, e) || lmc_plan_sides(p, e))
        return -1;
    return one_part(p, e) || measure(p, e) ? -1 : 0;
}

static int recast(struct lm_plan *p, struct lm_err *e)
{
    if (!p->req.to->recast)
        return 0;
    if (lmc_has_packed(p->src))
        return lm_err_set(e, LM_UNSUPPORTED, "a quantized checkpoint is not written as %s: convert it to safetensors first",
                          p->req.to->title);
    if (p->req.to->recast(&p->recast, p->src, p->req.dtype, e))
        return -1;
    p->src = p->recast;
    return 0;
}

int lm_plan_make(struct lm_plan **out, struct lm_model *src, const struct lm_request *req, struct lm_err *e)
{
    struct lm_plan *p = calloc(1, sizeof *p);

    *out = NULL;
    if (!p)
        return lmc_nomem(e);
    p->src = src;
    p->req = *req;
    if (recast(p, e) || fill(p, e)) {
        lm_plan_free(p);
        return -1;
    }
    *out = p;
    return 0;
}

void lm_plan_free(struct lm_plan *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n_sides; i++) {
        free(p->sides[i].name);
        free(p->sides[i].data);
    }
    free(p->sides);
    free(p->items);
    free(p->drops);
    free(p->parts);
    free(p->notes);
    lm_map_free(p->joined);
    lm_meta_free(p->meta);
    lm_binding_free(p->bind);
    lm_model_close(p->recast);
    lm_arena_free(&p->arena);
    free(p);
}
