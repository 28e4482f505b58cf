/* lm-audit: is this checkpoint healthy, and where will it run? */
#include <stdlib.h>

#include "cmd/audit_show.h"

#define AT(field) offsetof(struct audit_opts, field)
static const struct cli_opt opts[] = {
    {"all", 'a', CLI_FLAG, NULL, AT(all), "Every place of a finding, not the first three.", NULL},
    {"tensors", 't', CLI_FLAG, NULL, AT(tensors), "Statistics of every tensor instead of every role.", NULL},
    {"headers", 0, CLI_FLAG, NULL, AT(headers), "Do not read tensor data: structure, tokenizer and memory only.", NULL},
    {"ctx", 'c', CLI_SIZE, "N", AT(ctx), "Positions for the memory table (default: the model's context).", NULL},
    {"batch", 'b', CLI_SIZE, "N", AT(batch), "Sequences at once for the memory table (default 1).", NULL},
    {"kv", 0, CLI_STRING, "TYPE", AT(kv), "Type of the KV cache: f16 (default), q8_0, f32 …", NULL},
    {"vram", 0, CLI_STRING, "SIZE", AT(vram),
     "Memory that there is, as 24GiB or the name of a card (rtx-4090, h100): what fits, and with how much context.", NULL},
    {"html", 0, CLI_STRING, "FILE", AT(html), "Write a page to look at: one file, no network.", NULL},
    {"fix", 0, CLI_STRING, "DST", AT(fix),
     "Write a copy to DST in which what can be undone is mended (metadata, ties, flags, places of tensors).", NULL},
    {"force", 'f', CLI_FLAG, NULL, AT(force), "Let --html and --fix replace existing files.", NULL},
    {"explain", 'e', CLI_STRING, "RULE", AT(explain), "Why a rule matters, where it comes from, how to mend it.", NULL},
    {"rules", 0, CLI_FLAG, NULL, AT(rules), "List all rules.", NULL},
    {"threads", 0, CLI_INT, "N", AT(threads), "Threads (default: all cores).", NULL},
    {"json", 0, CLI_FLAG, NULL, AT(json), "JSON on standard output.", NULL},
    {NULL, 0, CLI_FLAG, NULL, 0, NULL, NULL},
};

static const struct cli_cmd cmd = {
    .name = "lm-audit",
    .brief = "examine a checkpoint for defects, and say where it will run",
    .synopsis = "[MODEL]",
    .about =
        "Reads a checkpoint once and applies rules: values (NaN, infinities, scales of quantized blocks, rows of zeros "
        "or written twice, what F16 would lose), structure (overlapping, short or missing tensors, shapes against the "
        "configuration, ties), positions, tokenizer, chat template, metadata. Every rule is a defect that was once "
        "published; --explain tells which. A file that cannot be opened is audited as far as its bytes go. What a "
        "pickle would import is said without running it.\n"
        "\n"
        "The exit code is 1 when a rule of severity error fires. Statistics are of all values (the histogram of large "
        "tensors of every sixteenth row); bits is an estimate of the information in a value.\n"
        "\n"
        "The table of engines is made from facts of the stated version; unknown means that no fact decides. Memory is "
        "weights, KV cache and an estimate of work buffers.\n"
        "\n"
        "With --json: path, format, architecture, n_layers, n_tensors, n_params, n_active (of a mixture of experts), "
        "n_multiplied (active, without an embedding that is only looked up), "
        "n_bytes, errors, warnings, notes, findings (id severity fixable title why thread mend where found), engines "
        "(engine version loads why), memory (ctx batch vram kv_dtype kv_a_token rows: dtype weights kv buffers total "
        "fits max_ctx), template (sha256 n_bytes), tensors (name role layer dtype shape n_params n_bytes shared stats: "
        "min max mean std rms largest bits n_zero n_subnormal n_nan n_inf n_f16_over n_f16_flush n_zero_rows "
        "n_equal_rows n_outlier_rows n_outlier_cols bins, where bin i counts magnitudes from 2^(i-40) to 2^(i-39)).\n",
    .opts = opts,
    .examples = "  $ lm-audit model.gguf\n"
                "  $ lm-audit --vram rtx-4090 --ctx 32768 bielik-7b/\n"
                "  $ lm-audit --html report.html bielik-7b/\n"
                "  $ lm-audit --explain rows-duplicate\n",
    .min_args = 0,
    .max_args = 1,
};

/* ---- rules */

static void print_rule(const struct lm_rule *r)
{
    printf("%s (%s%s): %s\n\nWhy: %s.\n", r->id, lm_severity_name(r->severity), r->fixable ? ", --fix mends it" : "",
           r->title, r->why);
    if (r->thread)
        printf("Seen in: %s\n", r->thread);
    printf("What to do: %s.\n", r->mend);
}

static int explain(const struct audit_opts *o)
{
    const struct lm_rule *r = lm_rule_find(o->explain), *near = NULL;
    size_t best = SIZE_MAX;

    for (size_t i = 0; !r && lm_rule_at(i); i++)
        if (cli_distance(o->explain, lm_rule_at(i)->id) < best) {
            near = lm_rule_at(i);
            best = cli_distance(o->explain, near->id);
        }
    if (!r) {
        cli_note("lm-audit: no rule is called %s; did you mean %s?", o->explain, near->id);
        return CLI_USAGE;
    }
    if (o->json)
        cli_json_print(audit_rule_json(r));
    else
        print_rule(r);
    return CLI_OK;
}

static int list_rules(const struct audit_opts *o)
{
    static const char *const heads[] = {"rule", "severity", "fix", "title"};
    struct cli_table *t = o->json ? NULL : cli_table_new(heads, "llll");
    json_t *all = json_array();

    for (size_t i = 0; lm_rule_at(i); i++) {
        const struct lm_rule *r = lm_rule_at(i);
        if (o->json)
            json_array_append_new(all, audit_rule_json(r));
        else
            cli_table_row(t, r->id, lm_severity_name(r->severity), r->fixable ? "yes" : "", r->title);
    }
    cli_table_print(t, stdout);
    if (o->json)
        cli_json_print(all);
    else
        json_decref(all);
    return CLI_OK;
}

/* ---- the command */

static int read_options(struct lm_audit_options *to, const struct audit_opts *o, struct lm_err *e)
{
    to->headers_only = o->headers;
    to->ctx = o->ctx;
    to->batch = o->batch;
    to->run.n_threads = o->threads;
    to->run.stop = &cli_stop;
    if (o->vram && !(to->vram = lm_card_bytes(o->vram)) && !cli_parse_size(o->vram, &to->vram))
        return lm_err_set(e, LM_USAGE, "--vram %s is neither a size (24GiB) nor a card that is known (rtx-4090, h100 …)",
                          o->vram);
    if (o->kv) {
        int d = lm_dtype_find(o->kv);
        if (d < 0 || d == LM_F64)
            return lm_err_set(e, LM_USAGE, "--kv %s is no type for a KV cache (f16, q8_0, f32 …)", o->kv);
        to->kv = (enum lm_dtype)d;
    }
    return 0;
}

static int mend(const struct lm_audit *a, const struct audit_opts *o, struct lm_err *e)
{
    size_t n;

    if (lm_audit_fix(a, o->fix, o->force, &n, e))
        return -1;
    cli_note("lm-audit: %s: %zu finding%s mended", o->fix, n, n == 1 ? "" : "s");
    return 0;
}

static int run(const struct audit_opts *o, const char *path, int *code, struct lm_err *e)
{
    struct cli_progress bar;
    struct lm_audit_options options = {0};
    struct lm_audit *a = NULL;
    int rc = read_options(&options, o, e);

    if (rc)
        return -1;
    options.run.progress = cli_progress;
    options.run.user = &bar;
    cli_catch_signals();
    cli_progress_begin(&bar, "auditing");
    rc = lm_audit_path(&a, path, &options, e);
    cli_progress_end(&bar);
    if (rc == 0 && o->html)
        rc = audit_write_html(a, o->html, o->force, e);
    if (rc == 0 && o->fix)
        rc = mend(a, o, e);
    if (rc == 0 && o->json)
        cli_json_print(audit_json(a));
    else if (rc == 0)
        audit_print(a, o);
    if (rc == 0)
        *code = a->n_of[LM_ERROR] ? CLI_DIFFERENT : CLI_OK;
    lm_audit_free(a);
    return rc;
}

int main(int argc, char **argv)
{
    struct audit_opts o = {0};
    struct lm_err e;
    int code = CLI_OK, n = cli_parse(&cmd, argc, argv, &o);

    if (o.explain)
        return cli_finish(explain(&o));
    if (o.rules)
        return cli_finish(list_rules(&o));
    if (n == 0) {
        cli_note("lm-audit: give a model, or --rules, or --explain RULE");
        return cli_finish(CLI_USAGE);
    }
    if (run(&o, argv[1], &code, &e))
        code = cli_fail(&e);
    return cli_finish(code);
}
