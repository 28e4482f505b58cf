/* lm-verify: two models over the same tokens, or one against saved logits. */
#include <math.h>
#include <stdlib.h>

#include "cmd/verify.h"

enum { WINDOW = 4096, PROBED = 64 };

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
    if (v->o.reference || !v->path_b)
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
    return 0;
}

static void find_limits(struct verify *v)
{
    struct lm_side a = verify_side(&v->a), b = verify_side(&v->b);

    v->weight_error = v->reference ? 0 : lm_explained_error(&a, &b, (int)v->n_layers);
    v->max_kld = v->o.max_kld >= 0 ? v->o.max_kld : v->reference ? INFINITY : lm_kld_bound(v->weight_error);
    v->max_diff = v->o.max_diff >= 0 ? v->o.max_diff : v->reference ? 1e-3 : INFINITY;
}

static void finish(struct verify *v)
{
    find_limits(v);
    /* Small damage may hide in a mean; who names a limit says what is small enough. */
    v->layers_judged = v->o.max_kld < 0 && v->o.max_diff < 0;
    /* Written so that NaN fails. */
    v->failed = !(v->all.kld / (double)v->all.n <= v->max_kld) || !(v->all.max_abs <= v->max_diff) ||
                (v->layers_judged && v->first_divergent != LM_NOWHERE);
}

static int verify(struct verify *v, struct lm_err *e)
{
    if (load_both(v, e) != 0 || (v->o.reference ? verify_reference_open(v, e) : verify_find_ids(v, e)) != 0)
        return -1;
    cli_catch_signals();
    if (v->o.truth)
        return verify_truth(v, e);
    if (start(v, e) != 0 || verify_probe_layers(v, PROBED, e) != 0 || verify_run(v, e) != 0)
        return -1;
    finish(v);
    if (verify_explain(v, e) != 0 || (v->o.report && verify_write_html(v, e) != 0))
        return -1;
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
    {"per-position", 0, CLI_CHOICE, NULL, AT(per_position), "Positions folded into 0-63, -511, -4095 and the rest "
     "(default), a line each, or none.", per_position},
    {"report", 0, CLI_STRING, "FILE.html", AT(report), "Also draw it: one page, the error of each layer, the divergence "
     "along the text.", NULL},
    {"force", 0, CLI_FLAG, NULL, AT(force), "Replace the report that is there.", NULL},
    {"truth", 0, CLI_FLAG, NULL, AT(truth), "What each way of computing (exact, fast; on a GPU exact, tf32, bf16) and "
     "rounded weights cost, against A's whole pass in double; 512 tokens at most. Rows for A, for B when it is given, "
     "and for A's weights as other types.", NULL},
    {"as", 0, CLI_STRING, "TYPES", AT(as), "With --truth: the types to which A's weights are rounded, lm-quantize's, with "
     "commas, or none (default Q8_0,Q4_K_M, unless there is a B or A is quantized). Each takes its size in TMPDIR for as "
     "long as it runs.", NULL},
    {"ctx", 'c', CLI_SIZE, "N", AT(engine.ctx), "Start the context anew after N positions (default 4096, or what the "
     "models provide for).", NULL},
    CLI_ENGINE_ROWS(AT(engine)),
    {"json", 0, CLI_FLAG, NULL, AT(json), "JSON on standard output.", NULL},
    {NULL, 0, 0, NULL, 0, NULL, NULL}};

static const struct cli_cmd cmd = {
    .name = "lm-verify",
    .brief = "compare two models, or a model and saved logits, token by token",
    .synopsis = "A (B | --reference FILE | [B] --truth)",
    .about =
        "Runs both models over the same tokens, in lock step, and reports by position and in all: the KL divergence of "
        "B's prediction from A's (in nats; mean, median, 99 % and largest), the largest difference of logits, how often "
        "their likeliest tokens agree and how many of the five likeliest are the same, both perplexities and their ratio "
        "with 95 % intervals. A is the original. Products are computed exactly (f32), so what is seen comes from the "
        "weights. Logits are compared as they come and never kept.\n"
        "\n"
        "It looks for the first layer that departs. Each layer of B is fed what the same layer of A was fed, and "
        "the difference of what the two give is divided by what A's layer adds. Weights that are rounded to other "
        "types explain some of it: for each type the relative error e of normally distributed weights is measured, "
        "and a layer may differ by 0.0001 + 3 e, where e is the root mean square over its matrices, of both models "
        "together; matrices of the same type in both explain nothing. In the same way the mean KL divergence may be "
        "0.000001 + 20 e^2, with e over the whole model. Past one of the two the exit code is 1: a layer that departs "
        "fails even where the divergence is small. With --max-kld or --max-diff those decide alone, and a layer that "
        "departs is only reported.\n"
        "\n"
        "When something departs, that layer's operations are compared (queries, keys, values, attention weights, the "
        "residual after attention and after the feed-forward network), the head and the position named; then the "
        "configuration and the tensors of the layers that depart are searched for what usually goes wrong: rows of Q or "
        "K not permuted, permuted twice or with other heads; 1 added to a norm or not; transposed; gate and up swapped; "
        "base, kind or scaling of RoPE; a bias that is missing; experts in another order; the wrong output matrix; a "
        "scaled embedding; zeroed, cut off, misplaced. What is found is put right and B run again: only if it then is "
        "A is that called proof.\n"
        "\n"
        "A reference is a safetensors file with input_ids (I32 or I64, [n]), logits ([n, vocabulary]) and perhaps "
        "hidden_states.0 (what enters the first layer) to hidden_states.L (what leaves the last), [n, width].\n"
        "\n"
        "With --json: an object with max_abs_logit_diff, mean_abs_logit_diff, kld_mean, kld_median, kld_p99, kld_max, kld_max_at, "
        "top1_agreement, top5_agreement (0 to 1), ppl_a, ppl_b, ppl_ratio (null for a single token) and half their "
        "intervals (ppl_a_half, ppl_b_half, ppl_ratio_half), n_tokens, first_divergent_layer (null: none; -1: the embedding), max_kld and max_diff "
        "(the limits; null: none), layers_judged (whether a layer that departs fails), passed, buckets (the same by position), layers (layer error bound; null when not "
        "compared), departure (layer operation head position operations), causes (found: cause role layer n_layers "
        "error says; cured); with --per-position full also positions (id max_abs_logit_diff mean_abs_logit_diff kld "
        "top1_a top1_b).\n",
    .opts = opts,
    .examples = "  $ lm-verify model/ model-q4_k_m.gguf\n"
                "  $ lm-verify model/ converted.gguf --text book.txt --max-kld 1e-6\n"
                "  $ lm-verify model/ converted.gguf --report report.html\n"
                "  $ lm-verify model/ --truth\n"
                "  $ lm-verify model/ model-q4_k_m.gguf --truth\n"
                "  $ lm-verify model/ --reference reference.safetensors --max-diff 1e-4\n",
    .min_args = 1,
    .max_args = 2};

static const char *find_misuse(const struct verify_opts *o, int n_models)
{
    if (o->truth)
        return o->reference || o->report ? "--truth has a reference of its own and draws no report" : NULL;
    if (o->as)
        return "--as goes with --truth";
    if ((n_models == 2) == (o->reference != NULL))
        return n_models == 2 ? "give a model to compare with or --reference, not both"
                             : "give a second model, or --reference FILE";
    return o->reference && o->text ? "a reference has its own tokens: leave out --text" : NULL;
}

int main(int argc, char **argv)
{
    struct verify v = {.o = {.max_kld = -1, .max_diff = -1}, .first_divergent = LM_NOWHERE};
    struct lm_err e;
    int code;

    int n = cli_parse(&cmd, argc, argv, &v.o);
    v.path_a = argv[1];
    v.path_b = n == 2 ? argv[2] : v.o.reference;
    const char *misuse = find_misuse(&v.o, n);
    if (misuse) {
        lm_err_set(&e, LM_USAGE, "%s", misuse);
        code = cli_fail(&e);
    } else if (verify(&v, &e) != 0) {
        code = cli_fail(&e);
    } else {
        code = v.failed ? CLI_DIFFERENT : CLI_OK;
    }
    free(v.positions);
    free(v.kld);
    free(v.layers);
    free(v.hidden);
    free(v.why);
    lm_ids_free(&v.ids);
    cli_unload(&v.a);
    cli_unload(&v.b);
    lm_model_close(v.reference);
    return cli_finish(code);
}
