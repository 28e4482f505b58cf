#include "convert/reproduce.h"

#include <stdlib.h>

#include "convert/plan.h"
#include "convert/stream.h"
#include "libmodel/libmodel.h"

#define KEY "libmodel.recipe."

/* ---- writing it down */

/* Decides anything but the type's mix? */
static bool is_ruled(const struct lm_plan *p)
{
    const struct lm_mix_options *m = p->req.mix;

    return p->req.pure || (m && (m->output >= 0 || m->embedding >= 0 || lmc_recipe_has_rules(m->recipe)));
}

static int put_rules(struct lm_plan *p, struct lm_err *e)
{
    char *text = is_ruled(p) ? lm_recipe_of(p) : NULL;
    int rc = !is_ruled(p) || (text && lm_meta_set_str(p->meta, KEY "rules", lm_span_str(text)) == 0) ? 0 : lmc_nomem(e);

    free(text);
    return rc;
}

static int put_source(struct lm_plan *p, struct lm_err *e)
{
    size_t n = lm_model_n_files(p->src);
    struct lm_span *names = lm_arena_array(&p->arena, n + 1, sizeof *names);
    uint64_t *sizes = lm_arena_array(&p->arena, n + 1, sizeof *sizes);

    for (size_t i = 0; names && sizes && i < n; i++) {
        names[i] = lm_span_str(lmc_base_name(lm_model_file(p->src, i)->path));
        sizes[i] = lm_model_file(p->src, i)->map.size;
    }
    if (!names || !sizes || lm_meta_set_strs(p->meta, KEY "source.files", names, n) ||
        lm_meta_set_array(p->meta, KEY "source.bytes", LM_META_U64, sizes, n))
        return lmc_nomem(e);
    return 0;
}

int lmc_recipe_sums(struct lm_plan *p, struct lm_err *e)
{
    uint64_t *sums = p->sums_source ? lm_arena_array(&p->arena, p->n_items + 1, sizeof *sums) : NULL;

    if (!p->sums_source)
        return 0;
    for (size_t i = 0; sums && i < p->n_items; i++)
        sums[i] = p->items[i].source_sum;
    return !sums || lm_meta_set_array(p->meta, KEY "source.sums", LM_META_U64, sums, p->n_items) ? lmc_nomem(e) : 0;
}

/* What a source that was quantized itself says of its own making. */
static void remove_old(struct lm_meta *m)
{
    const char *key;

    for (size_t i = lm_meta_count(m); i-- > 0;) {
        lm_meta_at(m, i, &key);
        if (strncmp(key, KEY, sizeof KEY - 1) == 0)
            lm_meta_remove(m, key);
    }
}

int lmc_recipe_meta(struct lm_plan *p, struct lm_err *e)
{
    const struct lm_mix_options *m = p->req.mix;

    if (!p->req.quantize || !lmc_to_gguf(p))
        return 0;
    remove_old(p->meta);
    if (lm_meta_set_str(p->meta, KEY "version", lm_span_str(LM_VERSION)) ||
        lm_meta_set_str(p->meta, KEY "type", lm_span_str(p->req.ftype->name)) ||
        (m && m->leave_output && lm_meta_set_bool(p->meta, KEY "leave_output", true)) ||
        (p->req.allow_nan && lm_meta_set_bool(p->meta, KEY "allow_nan", true)) ||
        (p->req.allow_unknown && lm_meta_set_bool(p->meta, KEY "allow_unknown", true)))
        return lmc_nomem(e);
    p->sums_source = !p->req.no_source_sums && p->n_items > 0;
    return put_rules(p, e) || put_source(p, e) || lmc_recipe_sums(p, e) ? -1 : 0;
}

/* ---- reading it */

static int read_rules(struct lm_recorded *r, struct lm_span text, struct lm_err *e)
{
    const char *s = (const char *)text.data, *end = s + text.size;

    if (lm_recipe_new(&r->rules, e))
        return -1;
    while (s < end) {
        const char *stop = memchr(s, '\n', (size_t)(end - s)), *gap;
        stop = stop ? stop : end;
        gap = memrchr(s, ' ', (size_t)(stop - s));
        if (*s != '#' && gap && lm_recipe_add(r->rules, lm_span_of(s, (size_t)(gap - s)),
                                              lm_span_of(gap + 1, (size_t)(stop - gap - 1)), e))
            return lm_err_prefix(e, KEY "rules");
        s = stop + (stop < end);
    }
    r->mix.recipe = r->rules;
    return 0;
}

static char *copy_str(const struct lm_meta *m, const char *key, struct lm_span *s)
{
    *s = (struct lm_span){0};
    return lm_meta_get_str(m, key, s, NULL) == 1 ? strndup((const char *)s->data, s->size) : NULL;
}

static int read_recorded(struct lm_recorded *r, const struct lm_model *made, struct lm_err *e)
{
    const struct lm_meta *m = lm_model_meta(made);
    struct lm_span text = {0};

    r->type = copy_str(m, KEY "type", &text);
    r->name = copy_str(m, "general.name", &text);
    if (!r->type)
        return lm_err_set(e, LM_MISSING, "%s does not say how it was made (no " KEY "type)", lm_model_path(made));
    r->mix.output = r->mix.embedding = -1;
    r->req = (struct lm_request){.to = lm_format_find("gguf"), .quantize = true, .dtype = -1, .name = r->name,
                                 .ftype = lm_ftype_find(r->type), .mix = &r->mix};
    if (!r->req.ftype)
        return lm_err_set(e, LM_UNSUPPORTED, "%s was made with --type %.100s, which this version does not know",
                          lm_model_path(made), r->type);
    if (lm_meta_get_bool(m, KEY "leave_output", &r->mix.leave_output, e) < 0 ||
        lm_meta_get_bool(m, KEY "allow_nan", &r->req.allow_nan, e) < 0 ||
        lm_meta_get_bool(m, KEY "allow_unknown", &r->req.allow_unknown, e) < 0)
        return -1;
    r->req.no_source_sums = !lm_meta_get(m, KEY "source.sums");
    return lm_meta_get_str(m, KEY "rules", &text, NULL) == 1 ? read_rules(r, text, e) : 0;
}

int lm_recorded_read(struct lm_recorded **out, const struct lm_model *made, struct lm_err *e)
{
    *out = calloc(1, sizeof **out);
    return *out ? read_recorded(*out, made, e) : lmc_nomem(e);
}

void lm_recorded_free(struct lm_recorded *r)
{
    if (!r)
        return;
    lm_recipe_free(r->rules);
    free(r->name);
    free(r->type);
    free(r);
}

/* ---- comparing */

static int differs(struct lm_err *e, const struct lm_model *made, const char *what)
{
    lm_err_set(e, LM_MISMATCH, "%s: %s", lm_model_path(made), what);
    return 1;
}

static int compare_head(const struct lm_layout *l, const struct lm_model *made, struct lm_err *e)
{
    const struct lm_model_file *f = lm_model_file(made, 0);

    if (f->map.size != l->files[0].n_bytes)
        return differs(e, made, "another size: the metadata or tensors are not those that come out now");
    if (memcmp(f->map.data, l->files[0].head, l->files[0].n_head) != 0)
        return differs(e, made, "another head: metadata or the table of tensors are not those that come out now");
    return 0;
}

static uint64_t sum_at(const struct lm_meta_value *v, size_t i)
{
    uint64_t sum; /* the array may lie anywhere in a mapping */

    memcpy(&sum, (const uint8_t *)v->data + 8 * i, sizeof sum);
    return sum;
}

/* The first tensor of the source that is another one. */
static int compare_sums(const struct lm_plan *p, const struct lm_model *made, struct lm_err *e)
{
    const struct lm_meta_value *v = lm_meta_get(lm_model_meta(made), KEY "source.sums");

    if (!v || v->type != LM_META_ARRAY || v->elem != LM_META_U64 || v->n != p->n_items)
        return differs(e, made, "other tensors: it was made of another model");
    for (size_t i = 0; i < p->n_items; i++) {
        const struct lm_plan_item *it = &p->items[i];
        if (sum_at(v, i) == it->source_sum)
            continue;
        lm_err_set(e, LM_MISMATCH, "%s: tensor '%s' was made of other values than %s has in '%s'", lm_model_path(made), it->name,
                   lm_model_path(p->src), it->src ? it->src->name : "");
        return 1;
    }
    return 0;
}

/* Everything is read once before anything is made: another source is named, not found byte by byte. */
static int compare_source(struct lm_plan *p, const struct lm_model *made, const struct lm_run_options *o, struct lm_err *e)
{
    struct lmc_place *nowhere = calloc(p->n_items + 1, sizeof *nowhere);
    struct lmc_output out = {.p = p, .places = nowhere, .sums_only = true};
    int rc = nowhere ? 0 : lmc_nomem(e);

    if (rc == 0 && p->sums_source)
        rc = lmc_stream(&out, 1, o, e);
    free(nowhere);
    if (rc == 0 && p->sums_source)
        rc = compare_sums(p, made, e);
    for (size_t i = 0; rc == 0 && i < p->n_items; i++) /* the comparison counts anew */
        p->items[i].n_nan = p->items[i].n_overflow = p->items[i].n_flushed = 0;
    return rc ? rc : lmc_recipe_sums(p, e);
}

static int compare_data(struct lm_plan *p, const struct lm_layout *l, const struct lm_model *made,
                        const struct lm_run_options *o, struct lm_err *e)
{
    struct lmc_place *places = calloc(p->n_items + 1, sizeof *places);
    struct lmc_output out = {.p = p, .places = places, .compare = true};

    if (!places)
        return lmc_nomem(e);
    for (size_t i = 0; i < p->n_items; i++)
        places[i] = (struct lmc_place){lm_model_file(made, 0)->fd, l->places[i].offset};
    int rc = lmc_stream(&out, 1, o, e);
    free(places);
    return rc && e->code == LM_MISMATCH ? 1 : rc;
}

int lm_plan_compare(struct lm_plan *p, const struct lm_model *made, const struct lm_run_options *o, struct lm_err *e)
{
    struct lm_layout l = {0};
    int rc;

    if (lm_model_n_files(made) != 1 || p->n_parts != 1)
        return lm_err_set(e, LM_UNSUPPORTED, "%s: a split set cannot be compared; lm-convert makes one file of it",
                          lm_model_path(made));
    if ((rc = compare_source(p, made, o, e)))
        return rc;
    if (lmc_layout(&l, p, 0, "model.gguf", e))
        return -1;
    rc = compare_head(&l, made, e);
    if (rc == 0)
        rc = compare_data(p, &l, made, o, e);
    lm_layout_free(&l);
    return rc;
}
