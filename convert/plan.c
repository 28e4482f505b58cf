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
    return lmc_to_gguf(p) ? "model.gguf" : lmc_is_safetensors(p->req.to) ? "model.safetensors" : "model.npz";
}

bool lmc_renames(const struct lm_plan *p)
{
    return p->bind && p->bind->naming != (lmc_to_gguf(p) ? LM_NAMES_GGUF : LM_NAMES_HF);
}

enum lm_action lm_plan_action(const struct lm_plan_item *it)
{
    if (!it->src)
        return LM_ACTION_MAKE;
    if (it->src->dtype == it->dtype)
        return LM_ACTION_COPY;
    return lm_dtype_info(it->dtype)->kind == LM_KIND_QUANT ? LM_ACTION_QUANTIZE : LM_ACTION_CAST;
}

uint64_t lm_plan_elems(const struct lm_plan_item *it)
{
    uint64_t n = 1;

    for (unsigned i = 0; i < it->n_dims; i++)
        n *= it->shape[i]; /* the source's product was checked, and made ones are small */
    return it->src ? it->src->n_elems : n;
}

/* ---- one tensor */

static void drop(struct lm_plan *p, const struct lm_tensor *t, const char *why)
{
    p->drops[p->n_drops++] = (struct lm_plan_drop){t, why};
}

static struct lm_plan_item *add_item(struct lm_plan *p, const struct lm_tensor *t)
{
    struct lm_plan_item *it = &p->items[p->n_items++];

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

static int plan_tensor(struct lm_plan *p, size_t i, struct lm_err *e)
{
    const struct lm_tensor *t = lm_model_tensor(p->src, i);
    const struct lm_bound *b = p->bind ? &p->bind->of[i] : NULL;
    char name[512];
    struct lm_plan_item *it;

    if (!b || !b->row)
        return plan_unknown(p, t, e);
    if (lmc_renames(p) && (b->row->flags & LM_ROW_DROPPED))
        return drop(p, t, b->row->why), 0;
    if (lmc_renames(p) && (b->row->flags & LM_ROW_GGUF_ONLY) && !lmc_to_gguf(p) && b->row->role == LM_ROLE_ROPE_FREQS &&
        fold_rope_freqs(p, t, e))
        return -1;
    if (lmc_renames(p) && (b->row->flags & LM_ROW_GGUF_ONLY) && !lmc_to_gguf(p))
        return drop(p, t, b->row->why ? b->row->why : "folded into rope_scaling of config.json"), 0;
    it = add_item(p, t);
    it->role = b->row->role;
    it->layer = b->layer;
    if (lmc_renames(p)) {
        if (!lm_arch_row_name(b->row, lmc_to_gguf(p) ? LM_NAMES_GGUF : LM_NAMES_HF, b->layer, name, sizeof name))
            return lm_err_set(e, LM_UNSUPPORTED, "tensor '%s' has no name in %s", t->name, p->req.to->title);
        if (set_transform(p, it, b->row, e))
            return -1;
    }
    it->name = lm_arena_str(&p->arena, lm_span_str(lmc_renames(p) ? name : t->name));
    return it->name ? 0 : lmc_nomem(e);
}

/* llama3 scaling has no metadata keys in GGUF: its divisors are a tensor. */
static int plan_rope_freqs(struct lm_plan *p, struct lm_err *e)
{
    const struct lm_config *c = p->bind ? &p->bind->config : NULL;
    struct lm_plan_item *it;
    float *made;

    if (!c || !lmc_renames(p) || !lmc_to_gguf(p) || c->scaling != LM_SCALING_LLAMA3)
        return 0;
    made = lm_arena_array(&p->arena, c->d_rope / 2, sizeof *made);
    if (!made)
        return lmc_nomem(e);
    lm_rope_llama3_divisors(c, made);
    it = &p->items[p->n_items++];
    *it = (struct lm_plan_item){.made = made, .dtype = LM_F32, .n_dims = 1, .layer = -1, .role = LM_ROLE_ROPE_FREQS,
                                .name = lm_arena_str(&p->arena, lm_span_str("rope_freqs.weight")),
                                .why = "divisors of llama3 rope_scaling"};
    it->shape[0] = c->d_rope / 2;
    return it->name ? 0 : lmc_nomem(e);
}

/* ---- the whole */

static int bind_source(struct lm_plan *p, struct lm_err *e)
{
    struct lm_config c;
    const char *why = NULL;
    int rc = lm_config_read(&c, p->src, &why, e);

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

    p->items = calloc(n + 1, sizeof *p->items);
    p->drops = calloc(n + 1, sizeof *p->drops);
    if (!p->items || !p->drops)
        return lmc_nomem(e);
    if (plan_rope_freqs(p, e))
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (plan_tensor(p, i, e))
            return -1;
        p->n_src_bytes += lm_model_tensor(p->src, i)->n_bytes;
    }
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

static int fill(struct lm_plan *p, struct lm_err *e)
{
    if (check_request(&p->req, e) || bind_source(p, e) || plan_items(p, e) || lmc_plan_types(p, e))
        return -1;
    if (lmc_plan_meta(p, e) || lmc_plan_back(p, e) || lmc_plan_sides(p, e))
        return -1;
    return one_part(p, e) || measure(p, e) ? -1 : 0;
}

int lm_plan_make(struct lm_plan **out, struct lm_model *src, const struct lm_request *req, struct lm_err *e)
{
    struct lm_plan *p = calloc(1, sizeof *p);

    *out = NULL;
    if (!p)
        return lmc_nomem(e);
    p->src = src;
    p->req = *req;
    if (fill(p, e)) {
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
    lm_meta_free(p->meta);
    lm_binding_free(p->bind);
    lm_arena_free(&p->arena);
    free(p);
}
