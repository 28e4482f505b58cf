#include <math.h>
#include <stdlib.h>

#include "cmd/quantize.h"

static double relative_rms(const struct lm_errors *r)
{
    return r->x2 > 0 ? sqrt(r->e2 / r->x2) : r->e2 > 0 ? INFINITY : 0;
}

static double cosine(const struct lm_errors *r)
{
    return r->x2 > 0 && r->y2 > 0 ? r->xy / sqrt(r->x2 * r->y2) : r->x2 == r->y2 ? 1 : 0;
}

static void add(struct lm_errors *sum, const struct lm_errors *r)
{
    sum->n += r->n;
    sum->x2 += r->x2;
    sum->y2 += r->y2;
    sum->xy += r->xy;
    sum->e2 += r->e2;
    sum->max = r->max > sum->max ? r->max : sum->max;
}

/* ---- on the screen */

/* Tensors of one folded name and type. */
struct line { char *name; enum lm_dtype dtype; size_t n; struct lm_errors sum; double worst; };
struct lines { struct line *of; size_t n; };

static struct line *line_of(struct lines *l, const struct lm_plan_item *it)
{
    char *name = strdup(it->name);

    if (!name)
        return NULL;
    account_fold(name);
    for (size_t i = l->n; i > 0; i--)
        if (l->of[i - 1].dtype == it->dtype && strcmp(l->of[i - 1].name, name) == 0) {
            free(name);
            return &l->of[i - 1];
        }
    l->of[l->n] = (struct line){.name = name, .dtype = it->dtype};
    return &l->of[l->n++];
}

static void print_line(struct cli_table *t, const char *name, const char *type, size_t n, const struct lm_errors *sum,
                       double worst)
{
    char c[5][32];

    snprintf(c[0], sizeof c[0], "%zu", n);
    snprintf(c[1], sizeof c[1], "%.3f %%", 100 * relative_rms(sum));
    snprintf(c[2], sizeof c[2], "%.3f %%", 100 * worst);
    snprintf(c[3], sizeof c[3], "%.3g", sum->max);
    snprintf(c[4], sizeof c[4], "%.6f", cosine(sum));
    cli_table_row(t, name, type, c[0], c[1], c[2], c[3], c[4]);
}

void quantize_errors_print(const struct lm_plan *p)
{
    static const char *const heads[] = {"TENSORS", "TYPE", "N", "RMS ERROR", "WORST", "LARGEST", "COSINE", NULL};
    struct cli_table *t = cli_table_new(heads, "llrrrrr");
    struct lines l = {.of = calloc(p->n_items + 1, sizeof *l.of)};
    struct lm_errors all = {0};
    size_t n = 0;
    double worst = 0;

    for (size_t i = 0; l.of && i < p->n_items; i++) {
        const struct lm_errors *r = &p->items[i].errors;
        struct line *x = r->e2 > 0 ? line_of(&l, &p->items[i]) : NULL;
        add(&all, r);
        n += r->n > 0;
        if (!x) /* exact */
            continue;
        x->n++;
        add(&x->sum, r);
        x->worst = fmax(x->worst, relative_rms(r));
        worst = fmax(worst, relative_rms(r));
    }
    for (size_t i = 0; i < l.n; i++) {
        print_line(t, cli_safe(lm_span_str(l.of[i].name)), lm_dtype_name(l.of[i].dtype), l.of[i].n, &l.of[i].sum,
                   l.of[i].worst);
        free(l.of[i].name);
    }
    print_line(t, "all", "", n, &all, worst);
    cli_table_print(t, stdout);
    free(l.of);
}

/* ---- as JSON */

static json_t *errors_json(const struct lm_errors *r)
{
    json_t *o = json_object();

    json_object_set_new(o, "n", json_integer((json_int_t)r->n));
    json_object_set_new(o, "relative_rms", cli_json_real(relative_rms(r)));
    json_object_set_new(o, "rms", cli_json_real(r->n ? sqrt(r->e2 / (double)r->n) : 0));
    json_object_set_new(o, "max_abs", cli_json_real(r->max));
    json_object_set_new(o, "max_at", json_integer((json_int_t)r->max_at));
    json_object_set_new(o, "cosine", cli_json_real(cosine(r)));
    return o;
}

static json_t *item_json(const struct lm_plan_item *it)
{
    json_t *o = errors_json(&it->errors);

    json_object_set_new(o, "name", cli_json_str(lm_span_str(it->name)));
    json_object_set_new(o, "source", it->src ? cli_json_str(lm_span_str(it->src->name)) : json_null());
    json_object_set_new(o, "from", it->src ? json_string(lm_dtype_name(it->src->dtype)) : json_null());
    json_object_set_new(o, "dtype", json_string(lm_dtype_name(it->dtype)));
    json_object_set_new(o, "importance", json_boolean(it->importance != NULL));
    json_object_set_new(o, "why", it->why ? cli_json_str(lm_span_str(it->why)) : json_null());
    return o;
}

static json_t *importance_json(const struct lm_importance *i)
{
    json_t *files = json_array();

    for (size_t k = 0; i && k < i->n_files; k++)
        json_array_append_new(files, json_pack("{s:o, s:s}", "file", cli_json_str(lm_span_str(i->files[k].path)),
                                               "sha256", i->files[k].sha256));
    return files;
}

static char *report_text(const struct lm_plan *p, const char *src)
{
    json_t *o = json_object(), *tensors = json_array();
    struct lm_errors all = {0};

    for (size_t i = 0; i < p->n_items; i++)
        if (p->items[i].errors.n > 0) {
            add(&all, &p->items[i].errors);
            json_array_append_new(tensors, item_json(&p->items[i]));
        }
    json_t *total = errors_json(&all);
    json_object_del(total, "max_at"); /* in which tensor? */
    json_object_set_new(o, "source", cli_json_str(lm_span_str(src)));
    json_object_set_new(o, "type", json_string(p->req.ftype->name));
    json_object_set_new(o, "importance", importance_json(p->req.mix ? p->req.mix->importance : NULL));
    json_object_set_new(o, "total", total);
    json_object_set_new(o, "tensors", tensors);
    char *text = cli_json_text(o, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(o);
    return text;
}

int quantize_errors_write(const struct lm_plan *p, const char *src, const char *path, struct lm_err *e)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup("."), *text = report_text(p, src);
    size_t n = text ? strlen(text) : 0;
    struct lm_commit *c = NULL;
    int fd, rc = -1;

    if (!dir || !text)
        lm_err_set(e, LM_NOMEM, "out of memory");
    else if (lm_commit_begin(&c, dir, true, e) == 0 && lm_commit_add(c, slash ? slash + 1 : path, n + 1, &fd, e) == 0 &&
             lm_pwrite_all(fd, text, n, 0, e) == 0 && lm_pwrite_all(fd, "\n", 1, n, e) == 0) {
        rc = lm_commit_finish(c, e);
        c = NULL;
    }
    lm_commit_abort(c);
    free(dir);
    free(text);
    return rc;
}
