/* The page of --html: cmd/audit_page.html with the audit's data put in. */
#include "cmd/audit_show.h"
#include "cmd/cli_page.h"

CLI_PAGE(audit_page, "cmd/audit_page.html");

enum { MAX_PIECES = 40000 };

/* Text of pieces, and what each is; large vocabularies are cut, and say so. */
static json_t *vocab_json(const struct lm_audit *a)
{
    json_t *list = json_array();

    for (size_t i = 0; a->vocab && i < a->vocab->n_pieces && i < MAX_PIECES; i++) {
        const struct lm_piece *p = &a->vocab->pieces[i];
        json_array_append_new(list, json_pack("[o, i]", cli_json_str(p->text), (int)p->kind));
    }
    return json_pack("{s:I, s:o}", "n", (json_int_t)(a->vocab ? a->vocab->n_pieces : 0), "pieces", list);
}

/* Numbers of a page with thousands of tensors: lists without names, the empty ends of the histogram left out. The
 * order is that of `unpack` in the page. */
static json_t *stats_list(const struct lm_stats *s, enum lm_dtype d)
{
    int from = 0, to = LM_AUDIT_BINS;
    json_t *bins = json_array();

    while (from < to && s->bins[from] == 0)
        from++;
    while (to > from && s->bins[to - 1] == 0)
        to--;
    for (int i = from; i < to; i++)
        json_array_append_new(bins, json_integer((json_int_t)s->bins[i]));
    return json_pack("[o, o, o, o, o, o, o, I, I, I, I, i, o]", cli_json_real((double)s->min), cli_json_real((double)s->max),
                     cli_json_real(lm_stats_mean(s)), cli_json_real(lm_stats_std(s)), cli_json_real(lm_stats_rms(s)),
                     cli_json_real((double)s->largest), cli_json_real(lm_stats_bits(s, d)), (json_int_t)s->n_zero,
                     (json_int_t)(s->n_nan + s->n_inf), (json_int_t)s->n_outlier_rows, (json_int_t)s->n_outlier_cols, from,
                     bins);
}

static json_t *tensor_list(const struct lm_audit_tensor *t)
{
    json_t *shape = json_array();

    for (unsigned i = 0; i < t->t->n_dims; i++)
        json_array_append_new(shape, json_integer((json_int_t)t->t->shape[i]));
    return json_pack("[o, s, i, s, o, I, I, i, o]", cli_json_str(lm_span_str(t->t->name)),
                     t->known ? lm_role_name(t->role) : "unknown", t->layer, lm_dtype_name(t->t->dtype), shape,
                     (json_int_t)t->t->n_elems, (json_int_t)t->t->n_bytes, t->shared,
                     t->has_stats ? stats_list(&t->stats, t->t->dtype) : json_null());
}

static json_t *tensors_json(const struct lm_audit *a)
{
    json_t *list = json_array();

    for (size_t i = 0; i < a->n_tensors; i++)
        json_array_append_new(list, tensor_list(&a->tensors[i]));
    return list;
}

int audit_write_html(const struct lm_audit *a, const char *path, bool force, struct lm_err *e)
{
    json_t *data = audit_summary_json(a);

    json_object_set_new(data, "tensors", tensors_json(a));
    json_object_set_new(data, "vocab", vocab_json(a));
    return cli_page_write(path, force, audit_page, audit_page_end, data, e);
}
