/* lm-verify: two models over the same tokens, or one against saved logits. */
#include <math.h>
#include <stdlib.h>

#include "cmd/verify.h"

enum { WINDOW = 512 };

/* ---- preparing */

static int config_of(struct lm_config *c, struct cli_loaded *l, const char *path, struct lm_err *e)
{
    const char *why = "it has no config";
    int found = lm_config_read(c, l->model, &why, e);

    if (found < 0)
        return lm_err_prefix(e, "%s", path);
    if (found == 0)
        return lm_err_set(e, LM_UNSUPPORTED, "%s cannot be run: %s", path, why);
    return 0;
}

static int load_both(struct verify *v, struct lm_err *e)
{
    struct lm_config a, b;

    if (cli_load(&v->a, v->path_a, false, e) != 0 || config_of(&a, &v->a, v->path_a, e) != 0)
        return -1;
    v->vocab = a.vocab_size;
    v->n_layers = a.n_layers;
    v->d_model = a.d_model;
    v->window = v->o.engine.ctx ? (uint32_t)(v->o.engine.ctx < a.ctx_len ? v->o.engine.ctx : a.ctx_len) : WINDOW;
    v->window = v->window < a.ctx_len ? v->window : a.ctx_len;
    if (v->o.reference)
        return 0;
    if (cli_load(&v->b, v->path_b, false, e) != 0 || config_of(&b, &v->b, v->path_b, e) != 0)
        return -1;
    v->window = v->window < b.ctx_len ? v->window : b.ctx_len;
    if (a.vocab_size != b.vocab_size)
        return lm_err_set(e, LM_MISMATCH, "the vocabularies differ: %u ids in %s, %u in %s; their logits cannot be "
                          "compared", a.vocab_size, v->path_a, b.vocab_size, v->path_b);
    return 0;
}

static int start(struct verify *v, struct lm_err *e)
{
    if (v->o.reference)
        v->window = (uint32_t)v->ids.n; /* it is one sequence */
    else if (v->ids.n < v->window)
        v->window = (uint32_t)v->ids.n;
    v->o.engine.math = CLI_MATH_EXACT;
    v->o.engine.ctx = 0;
    if (cli_start(&v->a, &v->o.engine, v->window, e) != 0)
        return lm_err_prefix(e, "%s", v->path_a);
    if (!v->reference && cli_start(&v->b, &v->o.engine, v->window, e) != 0)
        return lm_err_prefix(e, "%s", v->path_b);
    v->positions = calloc(v->ids.n, sizeof *v->positions);
    return v->positions ? 0 : lm_err_set(e, LM_NOMEM, "no memory for %zu positions", v->ids.n);
}

static void find_limits(struct verify *v)
{
    v->max_kld = v->o.max_kld >= 0 ? v->o.max_kld : v->reference ? INFINITY : verify_default_max_kld(v->weight_error);
    v->max_diff = v->o.max_diff >= 0 ? v->o.max_diff : v->reference ? 1e-3 : INFINITY;
}

/* ---- running */

static int32_t top(const float *x, size_t n)
{
    size_t best = 0;

    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return (int32_t)best;
}

/* Adds a position that is a mean over one to sums. */
static void add_position(struct lm_divergence *all, const struct lm_divergence *d, size_t at)
{
    all->n++;
    all->max_abs = d->max_abs > all->max_abs || isnan(d->max_abs) ? d->max_abs : all->max_abs;
    all->mean_abs += d->mean_abs;
    all->kld_mean += d->kld_mean;
    if (d->kld_max > all->kld_max || isnan(d->kld_max)) {
        all->kld_max = d->kld_max;
        all->kld_max_at = at;
    }
    all->top1_agreement += d->top1_agreement;
    all->nll_a += d->nll_a;
    all->nll_b += d->nll_b;
    all->n_nll += d->n_nll;
}

static void compare(struct verify *v, size_t at, const float *a, const float *b, int32_t next)
{
    struct verify_position *p = &v->positions[at];
    const float *truth = v->reference ? b : a, *other = v->reference ? a : b;

    p->id = v->ids.ids[at];
    p->top_a = top(a, v->vocab);
    p->top_b = top(b, v->vocab);
    lm_divergence_add(&p->d, truth, other, v->vocab, next);
    lm_divergence_finish(&p->d);
    if (v->reference) {
        double swap = p->d.nll_a;
        p->d.nll_a = p->d.nll_b;
        p->d.nll_b = swap;
    }
    add_position(&v->all, &p->d, at);
}

/* Logits of B, or of the reference, for positions at..at+n. */
static int other_logits(struct verify *v, size_t at, size_t n, float *b, struct lm_err *e)
{
    if (v->reference)
        return lm_tensor_to_f32(v->ref_logits, (uint64_t)at * v->vocab, (uint64_t)n * v->vocab, b, e);
    return lm_session_eval(v->b.session, v->ids.ids + at, n, LM_LOGITS_ALL, b, e);
}

static int run_chunk(struct verify *v, size_t at, size_t n, float *a, float *b, struct lm_err *e)
{
    if (cli_stop)
        return lm_err_set(e, LM_INTERRUPTED, "interrupted");
    if (at % v->window == 0) {
        lm_session_rewind(v->a.session, 0);
        if (!v->reference)
            lm_session_rewind(v->b.session, 0);
    }
    if (lm_session_eval(v->a.session, v->ids.ids + at, n, LM_LOGITS_ALL, a, e) != 0 ||
        other_logits(v, at, n, b, e) != 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        size_t pos = at + i;
        bool follows = pos + 1 < v->ids.n && (pos + 1) % v->window != 0;
        compare(v, pos, a + i * v->vocab, b + i * v->vocab, follows ? v->ids.ids[pos + 1] : -1);
    }
    return 0;
}

static int run_all(struct verify *v, struct lm_err *e)
{
    size_t row = v->vocab * sizeof(float), room = VERIFY_ROOM / row > 0 ? VERIFY_ROOM / row : 1;
    float *a = malloc(room * row), *b = malloc(room * row);
    struct cli_progress progress;
    int r = a && b ? 0 : lm_err_set(e, LM_NOMEM, "no memory for the logits");

    cli_progress_begin(&progress, "comparing");
    progress.unit = "tokens";
    for (size_t at = 0, n; r == 0 && at < v->ids.n; at += n) {
        size_t in_window = v->window - at % v->window;
        n = v->ids.n - at;
        n = n < in_window ? n : in_window;
        n = n < room ? n : room;
        r = run_chunk(v, at, n, a, b, e);
        cli_progress(&progress, at + n, v->ids.n);
    }
    cli_progress_end(&progress);
    free(a);
    free(b);
    return r;
}

static void finish(struct verify *v)
{
    struct lm_divergence *d = &v->all;

    d->mean_abs /= (double)d->n;
    d->kld_mean /= (double)d->n;
    d->top1_agreement /= (double)d->n;
    find_limits(v);
    /* Written so that NaN fails. */
    v->failed = !(d->kld_mean <= v->max_kld) || !(d->max_abs <= v->max_diff);
}

static int verify(struct verify *v, struct lm_err *e)
{
    if (load_both(v, e) != 0 || (v->o.reference ? verify_reference_open(v, e) : verify_find_ids(v, e)) != 0)
        return -1;
    cli_catch_signals();
    if (start(v, e) != 0 || verify_probe_layers(v, e) != 0 || run_all(v, e) != 0)
        return -1;
    finish(v);
    if (v->o.json)
        cli_json_print(verify_json(v));
    else
        verify_print(v);
    return 0;
}

/* ---- the command */

static const char *const per_position[] = {"folded", "full", "none", NULL};

#define AT(field) offsetof(struct verify_opts, field)
static const struct cli_opt opts[] = {
    {"text", 'f', CLI_STRING, "FILE", AT(text), "Compare over this text (- for standard input; default: a short one "
     "in Polish, English and code, or ids spread over the vocabulary when there is no tokenizer).", NULL},
    {"tokens", 'n', CLI_UINT64, "N", AT(tokens), "Only the first N tokens.", NULL},
    {"reference", 'r', CLI_STRING, "FILE", AT(reference), "Compare A with the logits in FILE instead of a model.", NULL},
    {"max-kld", 'k', CLI_REAL, "X", AT(max_kld), "Fail (exit 1) when the mean KL divergence is above X nats (default: "
     "what the dtypes of A and B explain; none with --reference).", NULL},
    {"max-diff", 'd', CLI_REAL, "X", AT(max_diff), "Fail (exit 1) when any logit differs by more than X (default with "
     "--reference 0.001; none between models).", NULL},
    {"per-position", 0, CLI_CHOICE, NULL, AT(per_position), "Positions folded into 16 lines (default), a line each, or "
     "none.", per_position},
    {"ctx", 'c', CLI_SIZE, "N", AT(engine.ctx), "Start the context anew after N positions (default 512).", NULL},
    CLI_ENGINE_ROWS(AT(engine)),
    {"json", 0, CLI_FLAG, NULL, AT(json), "JSON on standard output.", NULL},
    {NULL, 0, 0, NULL, 0, NULL, NULL}};

static const struct cli_cmd cmd = {
    .name = "lm-verify",
    .brief = "compare two models, or a model and saved logits, token by token",
    .synopsis = "A (B | --reference FILE)",
    .about =
        "Runs both models over the same tokens and reports, by position and in all: the largest and the mean "
        "difference of logits, the KL divergence of B's prediction from A's (in nats), how often their likeliest "
        "tokens agree, and both perplexities. A is the original. Products are computed exactly (f32), so what is seen "
        "comes from the weights.\n"
        "\n"
        "Then it looks for the first layer that departs. Each layer of B is fed what the same layer of A was fed, and "
        "the difference of what the two give is divided by what A's layer adds. Weights that are rounded to other "
        "types explain some of it: for each type the relative error e of normally distributed weights is measured, "
        "and a layer may differ by 0.0001 + 3 e, where e is the root mean square over its matrices, of both models "
        "together; matrices of the same type in both explain nothing. In the same way the mean KL divergence may be "
        "0.000001 + 20 e^2, with e over the whole model, unless --max-kld says otherwise. Past the limit the exit "
        "code is 1.\n"
        "\n"
        "A reference is a safetensors file with input_ids (I32 or I64, [n]), logits ([n, vocabulary]) and perhaps "
        "hidden_states.0 (what enters the first layer) to hidden_states.L (what leaves the last), [n, width].\n"
        "\n"
        "With --json: an object with max_abs_logit_diff, mean_abs_logit_diff, kld_mean, kld_max, top1_agreement (0 to "
        "1), ppl_a, ppl_b (null for a single token), n_tokens, first_divergent_layer (null: none; -1: the embedding), "
        "max_kld and max_diff (the limits; null: none), passed, layers (layer error bound; null when not compared); "
        "with --per-position full also positions (id max_abs_logit_diff mean_abs_logit_diff kld top1_a top1_b).\n",
    .opts = opts,
    .examples = "  $ lm-verify model/ model-q4_k_m.gguf\n"
                "  $ lm-verify model/ converted.gguf --text book.txt --max-kld 1e-6\n"
                "  $ lm-verify model/ --reference reference.safetensors --max-diff 1e-4\n",
    .min_args = 1,
    .max_args = 2};

int main(int argc, char **argv)
{
    struct verify v = {.o = {.max_kld = -1, .max_diff = -1}, .first_divergent = VERIFY_NONE};
    struct lm_err e;
    int code;

    int n = cli_parse(&cmd, argc, argv, &v.o);
    v.path_a = argv[1];
    v.path_b = n == 2 ? argv[2] : v.o.reference;
    if ((n == 2) == (v.o.reference != NULL)) {
        lm_err_set(&e, LM_USAGE, n == 2 ? "give a model to compare with or --reference, not both"
                                        : "give a second model, or --reference FILE");
        code = cli_fail(&e);
    } else if (v.o.reference && v.o.text) {
        lm_err_set(&e, LM_USAGE, "a reference has its own tokens: leave out --text");
        code = cli_fail(&e);
    } else if (verify(&v, &e) != 0) {
        code = cli_fail(&e);
    } else {
        code = v.failed ? CLI_DIFFERENT : CLI_OK;
    }
    free(v.positions);
    free(v.layers);
    lm_ids_free(&v.ids);
    cli_unload(&v.a);
    cli_unload(&v.b);
    lm_model_close(v.reference);
    return cli_finish(code);
}
