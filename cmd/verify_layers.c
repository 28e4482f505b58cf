/* Which layer departs first, and why: gpu/localise.c and gpu/causes.c over a few positions. */
#include <math.h>
#include <stdlib.h>

#include "cmd/verify.h"

enum { MOST_PROBED = 512 };

static void find_bounds(struct verify *v)
{
    struct lm_side a = verify_side(&v->a), b = verify_side(&v->b);

    for (int i = -1; i < (int)v->n_layers; i++)
        v->layers[i + 1].bound = lm_layer_bound(v->reference ? 0 : lm_explained_error(&a, &b, i));
}

static const struct lm_tensor *reference_state(const struct verify *v, uint32_t i)
{
    char name[40];

    snprintf(name, sizeof name, "hidden_states.%u", i);
    const struct lm_tensor *t = lm_model_find(v->reference, name);
    bool fits = t && t->n_dims >= 2 && t->shape[t->n_dims - 1] == v->d_model && t->n_elems >= v->ids.n * v->d_model;
    return fits ? t : NULL;
}

static int read_reference(struct verify *v, struct lm_err *e)
{
    size_t n = v->n_probed * v->d_model;

    for (uint32_t i = 0; i <= v->n_layers; i++)
        if (lm_tensor_to_f32(reference_state(v, i), 0, n, v->hidden + i * n, e) != 0)
            return -1;
    return 0;
}

/* Layers can be compared when both sides have the same stack of them. */
static bool comparable(struct verify *v)
{
    for (uint32_t i = 0; v->reference && i <= v->n_layers; i++)
        if (!reference_state(v, i)) {
            v->why_no_layers = "the reference holds no hidden states of every layer";
            return false;
        }
    if (v->reference)
        return true;
    const struct lm_config *b = lm_engine_config(v->b.engine);
    if (b->n_layers == v->n_layers && b->d_model == v->d_model)
        return true;
    v->why_no_layers = "the models have different layers";
    return false;
}

int verify_probe_layers(struct verify *v, size_t n, struct lm_err *e)
{
    struct lm_side a = verify_side(&v->a), b = verify_side(v->reference ? &v->a : &v->b);
    size_t n_states = v->n_layers + 1, most = VERIFY_HIDDEN / (n_states * v->d_model * sizeof(float));
    int r;

    if (!comparable(v))
        return 0;
    n = n < v->ids.n ? n : v->ids.n;
    n = n < v->window ? n : v->window;
    n = n < MOST_PROBED ? n : MOST_PROBED;
    v->n_probed = n < most ? n : most ? most : 1;
    free(v->layers);
    free(v->hidden);
    v->layers = calloc(n_states, sizeof *v->layers);
    v->hidden = calloc(n_states * v->n_probed, v->d_model * sizeof *v->hidden);
    if (!v->layers || !v->hidden)
        return lm_err_set(e, LM_NOMEM, "no memory for the hidden states");
    find_bounds(v);
    r = v->reference ? read_reference(v, e) : lm_hidden_keep(&a, v->ids.ids, v->n_probed, v->hidden, e);
    if (r == 0)
        r = lm_layers_compare(&b, v->ids.ids, v->n_probed, v->hidden, v->layers, e);
    if (r == 0)
        v->first_divergent = lm_layers_first(v->layers, v->n_layers);
    return r;
}

int verify_explain(struct verify *v, struct lm_err *e)
{
    struct lm_side a = verify_side(&v->a), b = verify_side(&v->b);

    /* What goes wrong later than the first positions: windows, scaled rotation. */
    if (v->layers && v->failed && v->first_divergent == LM_NOWHERE && v->n_probed < v->window &&
        verify_probe_layers(v, MOST_PROBED, e) != 0)
        return -1;
    if (v->reference || !v->layers || (!v->failed && v->first_divergent == LM_NOWHERE))
        return 0;
    if (v->first_divergent != LM_NOWHERE) {
        if (lm_stages_compare(&a, &b, v->ids.ids, v->n_probed, v->hidden, v->first_divergent, &v->where, e) != 0)
            return -1;
        v->has_where = true;
    }
    if (!(v->why = calloc(1, sizeof *v->why)))
        return lm_err_set(e, LM_NOMEM, "out of memory");
    return lm_diagnose(&a, &b, v->ids.ids, v->n_probed, v->hidden, v->layers, v->why, e);
}
