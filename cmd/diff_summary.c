/* What the differences amount to: low-rank updates, frozen layers, added rows. */
#include "cmd/diff_show.h"

static bool is_low_rank(const struct diff_group *g)
{
    return g->first->kind == LM_DIFF_CHANGED && g->has_rank && 2 * g->rank_high <= g->rank_limit && g->rank_high > 0;
}

/* "blk.#.attn_q.weight" is attn_q. */
static const char *short_name(const struct diff_group *g, char *buf, size_t size)
{
    const char *name = g->name, *dot;

    if (strncmp(name, "blk.#.", 6) == 0)
        name += 6;
    dot = strrchr(name, '.');
    snprintf(buf, size, "%.*s", (int)(dot && strcmp(dot, ".weight") == 0 ? dot - name : (long)strlen(name)), name);
    return cli_safe(lm_span_str(buf));
}

static bool same_layers(const struct diff_view *v, const struct diff_group *a, const struct diff_group *b)
{
    if ((a->first->layer < 0) != (b->first->layer < 0))
        return false;
    return a->first->layer < 0 || memcmp(a->layers, b->layers, (size_t)v->n_layers * sizeof *a->layers) == 0;
}

/* "a, b and c" of the groups from `first` on that go with it, which are then told. */
static void print_names(struct diff_view *v, size_t first, bool (*goes)(const struct diff_view *, const struct diff_group *,
                                                                        const struct diff_group *))
{
    size_t n = 0, left = 0;
    char name[300];

    for (size_t i = first; i < v->n_groups; i++)
        left += goes(v, &v->groups[first], &v->groups[i]);
    for (size_t i = first; i < v->n_groups; i++) {
        struct diff_group *g = &v->groups[i];
        if (!goes(v, &v->groups[first], g))
            continue;
        printf("%s%s", n == 0 ? "" : n + 1 == left ? " and " : ", ", short_name(g, name, sizeof name));
        n++;
    }
    for (size_t i = v->n_groups; i-- > first;)
        v->groups[i].told |= goes(v, &v->groups[first], &v->groups[i]);
}

static bool same_update(const struct diff_view *v, const struct diff_group *a, const struct diff_group *b)
{
    char x[40], y[40];

    return !b->told && is_low_rank(b) && same_layers(v, a, b) &&
           strcmp(diff_rank_text(a, x, sizeof x), diff_rank_text(b, y, sizeof y)) == 0;
}

static void print_low_rank(struct diff_view *v)
{
    for (size_t i = 0; i < v->n_groups; i++) {
        const struct diff_group *g = &v->groups[i];
        char rank[40], layers[200];
        if (g->told || !is_low_rank(g))
            continue;
        printf("update    rank %s of ", diff_rank_text(g, rank, sizeof rank));
        print_names(v, i, same_update);
        if (g->first->layer >= 0)
            printf(" in layers %s", diff_layer_list(v, g->layers, layers, sizeof layers));
        putchar('\n');
    }
}

static bool same_rows(const struct diff_view *v, const struct diff_group *a, const struct diff_group *b)
{
    (void)v;
    return !b->told && b->first->rows_added == a->first->rows_added;
}

static void print_added(struct diff_view *v)
{
    for (size_t i = 0; i < v->n_groups; i++) {
        long long n = (long long)v->groups[i].first->rows_added;
        if (v->groups[i].told || n == 0)
            continue;
        printf("%s %lld row%s of ", n > 0 ? "added    " : "removed  ", n > 0 ? n : -n, n == 1 || n == -1 ? "" : "s");
        print_names(v, i, same_rows);
        putchar('\n');
    }
}

static void print_frozen(struct diff_view *v)
{
    bool *same = lm_arena_array(&v->arena, (size_t)v->n_layers + 1, sizeof *same);
    char text[400];
    bool any = false, all = true;

    for (int i = 0; same && i < v->n_layers; i++)
        same[i] = true;
    for (size_t i = 0; same && i < v->d->n_tensors; i++)
        if (v->d->tensors[i].layer >= 0 && v->d->tensors[i].kind != LM_DIFF_SAME)
            same[v->d->tensors[i].layer] = false;
    for (int i = 0; same && i < v->n_layers; i++) {
        any |= same[i];
        all &= same[i];
    }
    if (any && !all)
        printf("frozen    layers %s\n", diff_layer_list(v, same, text, sizeof text));
}

void diff_print_summary(struct diff_view *v)
{
    if (!v->o->full)
        print_low_rank(v);
    print_added(v);
    print_frozen(v);
}
