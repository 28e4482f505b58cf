/* lm-diff as text. */
#include "cmd/diff_show.h"

static const char *or_empty(const char *s)
{
    return s ? s : "";
}

static void print_side(char letter, struct lm_model *m, const char *arch)
{
    printf("%c         %s (%s, %s)\n", letter, cli_safe(lm_span_str(lm_model_path(m))), lm_model_format(m)->title,
           arch ? arch : "architecture not known");
}

static void print_counts(const struct lm_diff *d)
{
    const char *between = "";

    printf("tensors   ");
    for (int k = LM_N_DIFF_KINDS - 1; k >= 0; k--)
        if (d->n_of[k]) {
            printf("%s%zu %s", between, d->n_of[k], lm_diff_kind_name((enum lm_diff_kind)k));
            between = ", ";
        }
    printf("%s\n", *between ? "" : "none");
}

static void add_row(struct cli_table *t, const struct diff_view *v, const struct diff_group *g)
{
    char layers[120], relative[64] = "", cosine[32] = "", rank[40], share[32] = "", what[700];
    enum lm_diff_kind k = g->first->kind;

    if (k == LM_DIFF_CHANGED || k == LM_DIFF_QUANTIZED || k == LM_DIFF_CAST || k == LM_DIFF_TRANSFORM) {
        if (g->high > 1.05 * g->low)
            snprintf(relative, sizeof relative, "%.3g-%.3g", g->low, g->high);
        else
            snprintf(relative, sizeof relative, "%.3g", g->high);
        snprintf(cosine, sizeof cosine, "%.6f", g->cosine);
        snprintf(share, sizeof share, "%.2f %%", g->n_compared ? 100.0 * (double)g->n_differ / (double)g->n_compared : 0);
    }
    if (k == LM_DIFF_SHAPE) {
        char a[120], b[120];
        snprintf(what, sizeof what, "%s and %s", lm_tensor_shape_str(g->first->a, a, sizeof a),
                 lm_tensor_shape_str(g->first->b, b, sizeof b));
    } else {
        snprintf(what, sizeof what, "%s", or_empty(g->what));
    }
    cli_table_row(t, cli_safe(lm_span_str(g->name)), diff_layer_list(v, g->layers, layers, sizeof layers),
                  lm_diff_kind_name(k), relative, cosine, share, diff_rank_text(g, rank, sizeof rank), what);
}

static void print_tensors(const struct diff_view *v)
{
    static const char *const heads[] = {"tensor", "layers", "verdict", "relative", "cosine", "differing", "rank", ""};
    struct cli_table *t;
    size_t n = v->o->all ? v->d->n_tensors : v->d->n_tensors - v->d->n_of[LM_DIFF_SAME];

    if (n == 0)
        return;
    t = cli_table_new(heads, "lllrrrrl");
    putchar('\n');
    for (size_t i = 0; i < v->n_groups; i++)
        if (v->groups[i].first->kind != LM_DIFF_SAME || v->o->all)
            add_row(t, v, &v->groups[i]);
    cli_table_print(t, stdout);
}

static const char *side_text(const char *s)
{
    return s ? cli_safe(lm_span_str(s)) : "-";
}

static void print_notes(const struct lm_diff *d)
{
    static const char *const heads[] = {"where", "key", "A", "B"};
    struct cli_table *t;

    if (d->n_notes == 0)
        return;
    t = cli_table_new(heads, "llll");
    putchar('\n');
    for (size_t i = 0; i < d->n_notes; i++)
        cli_table_row(t, d->notes[i].where, cli_safe(lm_span_str(d->notes[i].key)), side_text(d->notes[i].a),
                      side_text(d->notes[i].b));
    cli_table_print(t, stdout);
}

void diff_print(struct diff_view *v, struct lm_model *a, struct lm_model *b)
{
    print_side('A', a, v->d->arch_a);
    print_side('B', b, v->d->arch_b);
    print_counts(v->d);
    diff_print_summary(v);
    print_tensors(v);
    if (!v->o->no_text)
        print_notes(v->d);
}
