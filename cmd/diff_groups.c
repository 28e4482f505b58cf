/* Tensors that differ only in the layer, folded. */
#include <math.h>
#include <stdlib.h>

#include "cmd/diff_show.h"

/* The name with # for the layer's number. */
static const char *fold_name(struct lm_arena *a, const struct lm_diff_tensor *t)
{
    char number[16], *out = lm_arena_str(a, lm_span_str(t->name));

    if (!out || t->layer < 0)
        return out;
    snprintf(number, sizeof number, ".%d.", t->layer);
    char *at = strstr(out, number);
    if (at) {
        at[1] = '#';
        memmove(at + 2, at + strlen(number) - 1, strlen(at + strlen(number) - 1) + 1);
    }
    return out;
}

static const char *or_empty(const char *s)
{
    return s ? s : "";
}

static struct diff_group *group_of(struct diff_view *v, const struct lm_diff_tensor *t)
{
    const char *name = v->o->full ? t->name : fold_name(&v->arena, t);

    for (size_t i = 0; i < v->n_groups && !v->o->full; i++) {
        struct diff_group *g = &v->groups[i];
        if (g->first->kind == t->kind && strcmp(g->name, name) == 0 && strcmp(or_empty(g->what), or_empty(t->what)) == 0)
            return g;
    }
    struct diff_group *g = &v->groups[v->n_groups++];
    *g = (struct diff_group){.name = name, .first = t, .what = t->what, .low = INFINITY, .rank_low = UINT32_MAX, .cosine = 1,
                        .layers = lm_arena_array(&v->arena, (size_t)v->n_layers + 1, sizeof(bool))};
    return g;
}

static void add_to_group(struct diff_group *g, const struct lm_diff_tensor *t)
{
    g->n++;
    if (g->layers && t->layer >= 0)
        g->layers[t->layer] = true;
    g->low = fmin(g->low, t->relative);
    g->high = fmax(g->high, t->relative);
    g->largest = fmax(g->largest, t->largest);
    g->cosine = fmin(g->cosine, t->cosine);
    g->n_differ += t->n_differ;
    g->n_compared += t->n_compared;
    if (!t->has_rank)
        return;
    g->has_rank = true;
    g->rank_low = t->rank < g->rank_low ? t->rank : g->rank_low;
    g->rank_high = t->rank > g->rank_high ? t->rank : g->rank_high;
    g->rank_limit = t->rank_limit;
}

int diff_make_groups(struct diff_view *v)
{
    v->groups = calloc(v->d->n_tensors + 1, sizeof *v->groups);
    if (!v->groups)
        return -1;
    for (size_t i = 0; i < v->d->n_tensors; i++)
        if (v->d->tensors[i].layer >= v->n_layers)
            v->n_layers = v->d->tensors[i].layer + 1;
    for (size_t i = 0; i < v->d->n_tensors; i++)
        add_to_group(group_of(v, &v->d->tensors[i]), &v->d->tensors[i]);
    return 0;
}

/* "0-3, 7" */
const char *diff_layer_list(const struct diff_view *v, const bool *in, char *buf, size_t size)
{
    size_t n = 0;

    buf[0] = 0;
    for (int i = 0; in && i < v->n_layers && n + 32 < size; i++) {
        int end = i;
        if (!in[i])
            continue;
        while (end + 1 < v->n_layers && in[end + 1])
            end++;
        n += (size_t)snprintf(buf + n, size - n, end > i ? "%s%d-%d" : "%s%d", n ? ", " : "", i, end);
        i = end;
    }
    return buf;
}

const char *diff_rank_text(const struct diff_group *g, char *buf, size_t size)
{
    if (!g->has_rank)
        return "";
    if (4 * g->rank_low > 3 * g->rank_limit)
        snprintf(buf, size, "full");
    else if (g->rank_low == g->rank_high)
        snprintf(buf, size, "%u", g->rank_high);
    else
        snprintf(buf, size, "%u-%u", g->rank_low, g->rank_high);
    return buf;
}
