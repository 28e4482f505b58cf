/* lm-diff: what differs between two checkpoints, whatever files they lie in. */
#include <stdlib.h>

#include "cmd/diff_show.h"

enum { ACCEPT_EXACT, ACCEPT_CAST, ACCEPT_QUANTIZED };

static const char *const accepts[] = {"exact", "cast", "quantized", NULL};

static const struct cli_opt opts[] = {
    {"accept", 0, CLI_CHOICE, NULL, offsetof(struct diff_opts, accept),
     "What still counts as equal for the exit code: equal values (exact, the default), also their exact rounding to "
     "another type (cast), also what quantization explains (quantized).", accepts},
    {"full", 0, CLI_FLAG, NULL, offsetof(struct diff_opts, full), "One line a tensor, layers not folded.", NULL},
    {"all", 'a', CLI_FLAG, NULL, offsetof(struct diff_opts, all), "Also tensors that are the same.", NULL},
    {"tensors", 't', CLI_FLAG, NULL, offsetof(struct diff_opts, no_text),
     "Tensors only: configuration, metadata and tokenizer are neither shown nor counted.", NULL},
    {"threads", 0, CLI_INT, "N", offsetof(struct diff_opts, threads), "Threads (default: all cores).", NULL},
    {"json", 0, CLI_FLAG, NULL, offsetof(struct diff_opts, json), "JSON on standard output.", NULL},
    {NULL, 0, CLI_FLAG, NULL, 0, NULL, NULL},
};

static const struct cli_cmd cmd = {
    .name = "lm-diff",
    .brief = "compare two checkpoints across containers, names, types and shards",
    .synopsis = "A B",
    .about =
        "Matches the tensors of two checkpoints by what they are for and compares their values in one order, so that "
        "a GGUF can be compared with the Hugging Face folder it was made from. Each pair is one of: same (equal "
        "values, whatever the type), cast (exactly the rounding to the other type), quantized (as near as the type "
        "allows, measured against the reference quantizer on the values at hand), transformed (equal after the named "
        "accident: heads permuted twice or not at all, transposed, 1 added, multiplied), changed, shape, or only in A "
        "or B.\n"
        "\n"
        "relative is |B - A| / |A|; rank is the numerical rank of B - A from a random sketch, as far as it stands out "
        "of rounding: a small one says that a low-rank update was merged. Tensors that differ only in the layer are "
        "one line. The exit code is 1 when anything differs that --accept does not allow; metadata of the container "
        "are shown and not counted.\n"
        "\n"
        "With --json: a and b (path format architecture), equal, counts (a number for each kind), tensors (name role "
        "layer kind what a b n_compared n_differ rows_added relative cosine largest largest_at expected rank "
        "rank_limit; a and b with name dtype shape) and notes (where key a b).\n",
    .opts = opts,
    .examples = "  $ lm-diff bielik-7b/ bielik-7b.gguf\n"
                "  $ lm-diff --accept quantized bielik-7b/ bielik-7b-q4_k_m.gguf\n"
                "  $ lm-diff base/ fine-tuned/\n",
    .min_args = 2,
    .max_args = 2,
};

/* ---- the command */

static bool is_equal(const struct lm_diff *d, const struct diff_opts *o)
{
    enum lm_diff_kind first = o->accept == ACCEPT_QUANTIZED ? LM_DIFF_QUANTIZED
                              : o->accept == ACCEPT_CAST    ? LM_DIFF_CAST
                                                            : LM_DIFF_SAME;

    for (int k = 0; k < (int)first; k++)
        if (d->n_of[k])
            return false;
    for (size_t i = 0; i < d->n_notes && !o->no_text; i++)
        if (strcmp(d->notes[i].where, "metadata") != 0)
            return false;
    return true;
}

static int run(const struct diff_opts *o, char **argv, bool *equal, struct lm_err *e)
{
    struct cli_progress bar;
    struct lm_run_options run = {.n_threads = o->threads, .stop = &cli_stop, .progress = cli_progress, .user = &bar};
    struct lm_model *a = NULL, *b = NULL;
    struct lm_diff *d = NULL;
    int rc = lm_model_open(&a, argv[1], e) || lm_model_open(&b, argv[2], e) ? -1 : 0;

    cli_catch_signals();
    cli_progress_begin(&bar, "comparing");
    if (rc == 0)
        rc = lm_diff_models(&d, a, b, &run, e);
    cli_progress_end(&bar);
    struct diff_view v = {.d = d, .o = o};
    if (rc == 0 && diff_make_groups(&v))
        rc = lm_err_set(e, LM_NOMEM, "out of memory");
    if (rc == 0) {
        *equal = is_equal(d, o);
        if (o->json)
            diff_print_json(&v, a, b, *equal);
        else
            diff_print(&v, a, b);
    }
    free(v.groups);
    lm_arena_free(&v.arena);
    lm_diff_free(d);
    lm_model_close(a);
    lm_model_close(b);
    return rc;
}

int main(int argc, char **argv)
{
    struct diff_opts o = {0};
    struct lm_err e;
    bool equal = false;

    cli_parse(&cmd, argc, argv, &o);
    if (run(&o, argv, &equal, &e))
        return cli_finish(cli_fail(&e));
    return cli_finish(equal ? CLI_OK : CLI_DIFFERENT);
}
