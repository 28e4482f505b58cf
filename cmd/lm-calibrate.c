/* lm-calibrate: how much each column of a model's matrices matters on a text. */
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "cmd/calibrate.h"
#include "convert/convert.h"
#include "gpu/calibrate.h"

enum { DEFAULT_CTX = 512 };

static const char *const formats[] = {"auto", "gguf", "dat", NULL};
static const char *const maths[] = {"auto", "exact", "fast", NULL};

#define AT(field) offsetof(struct calibrate_opts, field)
static const struct cli_opt opts[] = {
    {"text", 'f', CLI_LIST, "FILE", AT(texts), "Run over this text (- for standard input); several are run one after the "
     "other.", NULL},
    {"output", 'o', CLI_STRING, "FILE", AT(out), "Write the importance to FILE.", NULL},
    {"merge", 'm', CLI_LIST, "FILE", AT(merge), "Add what this importance file holds; several are added up.", NULL},
    {"show", 's', CLI_FLAG, NULL, AT(show), "Show what importance files hold, added up, and write nothing.", NULL},
    {"format", 0, CLI_CHOICE, NULL, AT(format), "gguf, or dat for older programs (default: dat when FILE ends in .dat).",
     formats},
    {"ctx", 'c', CLI_SIZE, "N", AT(ctx), "Tokens of a chunk; each begins anew (default 512, or what the model provides for).",
     NULL},
    {"chunks", 'n', CLI_UINT64, "N", AT(chunks), "At most N chunks (default: all of the text).", NULL},
    {"skip", 0, CLI_UINT64, "N", AT(skip), "Leave out the first N chunks.", NULL},
    {"save-every", 0, CLI_UINT64, "N", AT(save_every), "Write FILE after every N chunks, so that an early end loses little.",
     NULL},
    {"output-matrix", 0, CLI_FLAG, NULL, AT(output), "Also of output.weight, unless it is the embedding.", NULL},
    {"special", 0, CLI_FLAG, NULL, AT(special), "Read control tokens such as </s> in the text as tokens.", NULL},
    {"ids", 0, CLI_FLAG, NULL, AT(ids), "The texts are token ids: decimal numbers with blanks or commas between.", NULL},
    {"math", 0, CLI_CHOICE, NULL, AT(math), "exact, or fast, which rounds activations (default: fast for quantized models).",
     maths},
    {"device", 0, CLI_STRING, "DEVICE", AT(engine.device), "Where to compute: cpu (default), cuda, cuda:1 …", NULL},
    {"threads", 0, CLI_INT, "N", AT(engine.threads), "Threads of the CPU (default: one a core).", NULL},
    {"full", 0, CLI_FLAG, NULL, AT(full), "One line a matrix, layers not folded.", NULL},
    {"force", 0, CLI_FLAG, NULL, AT(force), "Replace FILE when it exists.", NULL},
    {"json", 0, CLI_FLAG, NULL, AT(json), "JSON on standard output.", NULL},
    {NULL, 0, 0, NULL, 0, NULL, NULL}};

static const struct cli_cmd cmd = {
    .name = "lm-calibrate",
    .brief = "collect how much each column of a model's matrices matters",
    .synopsis = "(MODEL --text FILE | --merge FILE… | --show FILE…) [-o FILE]",
    .about =
        "Runs MODEL (safetensors, GGUF, anything that can be run) over a text and adds up, for every matrix, the squares "
        "of what each of its columns is multiplied with; for a mixture of experts, for every expert. lm-quantize and "
        "llama-quantize weigh rounding errors by it (--imatrix).\n"
        "\n"
        "The text is cut into chunks of --ctx tokens; what is left over at its end is not run. Each chunk begins with an "
        "empty context, and with BOS in its first place if the model wants one, as llama-imatrix does it. The output "
        "matrix is left out unless --output-matrix is given. Values equal llama-imatrix's on the same tokens, but for "
        "its rounding: sums are added in double here, in f32 there.\n"
        "\n"
        "Says what the text did not reach: experts that no token chose, that got less than a tenth of an even share, and "
        "columns that were 0 for every token. Such an expert is quantized as if all its columns mattered alike.\n"
        "\n"
        "FILE appears whole or not at all. With --save-every it appears early and is replaced now and then; after an "
        "early end the message says how to go on (--skip and --merge). Without MODEL the files given with --merge, or "
        "as arguments, are added up, whatever their formats; with --show they are only shown.\n"
        "\n"
        "With --json: an object with model, device, destination (null: none), texts, n_chunks, chunk_size (0: unknown), "
        "n_tokens, seconds and matrices (name columns tokens mean max n_zero n_unseen n_rare); tokens is a list, one "
        "number an expert.\n",
    .opts = opts,
    .examples = "  $ lm-calibrate bielik-7b/ -f polish.txt -o polish.gguf\n"
                "  $ lm-quantize --type IQ3_XXS --imatrix polish.gguf bielik-7b/ bielik-7b-IQ3_XXS.gguf\n"
                "  $ lm-calibrate mixtral/ -f a.txt -f b.txt --chunks 200 --save-every 20 -o both.gguf\n"
                "  $ lm-calibrate --merge polish.gguf --merge english.dat -o all.gguf\n"
                "  $ lm-calibrate --show all.gguf\n",
    .min_args = 0,
    .max_args = -1};

/* ---- the file */

static int write_bytes(const char *path, bool force, const uint8_t *data, size_t n, struct lm_err *e)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, slash > path ? (size_t)(slash - path) : 1) : strdup(".");
    struct lm_commit *c = NULL;
    struct stat s;
    int fd, rc = -1;

    if (!dir)
        lm_err_set(e, LM_NOMEM, "out of memory");
    else if (stat(dir, &s) < 0)
        lm_err_set(e, LM_MISSING, "%s: no such folder", dir);
    else if (lm_commit_begin(&c, dir, force, e) || lm_commit_add(c, slash ? slash + 1 : path, n, &fd, e) ||
             lm_pwrite_all(fd, data, n, 0, e))
        lm_commit_abort(c);
    else
        rc = lm_commit_finish(c, e);
    free(dir);
    return rc;
}

static int write_out(const struct lm_imatrix *m, const struct calibrate_opts *o, bool force, struct calibrate_done *d,
                     struct lm_err *e)
{
    const char *dot = strrchr(o->out, '.');
    bool dat = o->format == 2 || (o->format == 0 && dot && strcmp(dot, ".dat") == 0);
    uint8_t *data;
    size_t n;

    if (lm_imatrix_encode(m, dat, &data, &n, e))
        return -1;
    int rc = write_bytes(o->out, force, data, n, e);
    d->out = o->out;
    d->n_bytes = n;
    free(data);
    return rc;
}

/* Before any work: what would fail at the end. */
static int check_out(const struct calibrate_opts *o, struct lm_err *e)
{
    struct stat out, in;

    if (stat(o->out, &out) < 0) {
        const char *slash = strrchr(o->out, '/');
        char *dir = slash ? strndup(o->out, (size_t)(slash - o->out) + 1) : NULL;
        bool missing = dir && stat(dir, &in) < 0;
        free(dir);
        return missing ? lm_err_set(e, LM_MISSING, "%s: no such folder", o->out) : 0;
    }
    for (size_t i = 0; i < o->texts.n; i++)
        if (stat(o->texts.items[i], &in) == 0 && in.st_dev == out.st_dev && in.st_ino == out.st_ino)
            return lm_err_set(e, LM_USAGE, "%s is the text itself: choose another --output", o->out);
    if (!o->force)
        return lm_err_set(e, LM_IO, "%s: exists already; --force replaces it", o->out);
    return 0;
}

/* ---- adding up */

static int merge_files(struct lm_imatrix **m, const struct cli_list *files, struct lm_err *e)
{
    for (size_t i = 0; i < files->n; i++) {
        struct lm_imatrix *one;
        if (lm_imatrix_read(&one, files->items[i], e))
            return -1;
        if (!*m) {
            *m = one;
            continue;
        }
        int rc = lm_imatrix_merge(*m, one, e) ? lm_err_prefix(e, "%s", files->items[i]) : 0;
        lm_imatrix_free(one);
        if (rc)
            return -1;
    }
    return 0;
}

/* ---- running */

struct collect {
    const struct calibrate_opts *o;
    struct calibrate_done *d;
    struct cli_loaded l;
    struct calibrate_texts texts;
    struct lm_calibration *c;
    struct lm_imatrix *m;    /* of the last save, or the end */
    uint64_t n_saved;        /* chunks in FILE */
};

static int choose_ctx(const struct collect *x, uint32_t *ctx, struct lm_err *e)
{
    uint64_t want = x->o->ctx ? x->o->ctx : DEFAULT_CTX;
    const char *why = "it has no config";
    struct lm_config c;
    int found = lm_config_read(&c, x->l.model, &why, e);

    if (found < 0)
        return -1;
    if (found == 0)
        return lm_err_set(e, LM_UNSUPPORTED, "%s cannot be run: %s", x->d->model, why);
    if (want > c.ctx_len && x->o->ctx)
        cli_note("%s: note: the model provides for %u positions: chunks are that long", cli_name(), c.ctx_len);
    *ctx = want < c.ctx_len ? (uint32_t)want : c.ctx_len;
    return 0;
}

static int start(struct collect *x, const char *model, struct lm_err *e)
{
    struct cli_engine_opts eo = x->o->engine;
    uint32_t ctx = 0;

    x->d->model = model;
    if (cli_load(&x->l, model, !x->o->ids, e) || choose_ctx(x, &ctx, e) ||
        calibrate_texts_read(&x->texts, &x->l, x->o, ctx, e))
        return -1;
    eo.device = eo.device ? eo.device : "cpu";
    eo.math = x->o->math;
    eo.ctx = 0;
    if (cli_start(&x->l, &eo, ctx, e) || lm_calibration_new(&x->c, x->l.engine, x->o->output, e))
        return -1;
    lm_engine_describe(x->l.engine, x->d->device, sizeof x->d->device);
    return 0;
}

/* Everything so far, with what --merge brings, as an importance of its own. */
static int sum_up(struct collect *x, uint64_t chunks, struct lm_err *e)
{
    lm_imatrix_free(x->m);
    x->m = NULL;
    if (lm_imatrix_new(&x->m, x->texts.ctx, e) || lm_calibration_add_to(x->c, x->m, e))
        return -1;
    lm_imatrix_set_chunks(x->m, (uint32_t)chunks);
    for (size_t i = 0; i < x->texts.n; i++)
        if (lm_imatrix_add_dataset(x->m, x->texts.of[i].name, e))
            return -1;
    return merge_files(&x->m, &x->o->merge, e);
}

static int save(struct collect *x, uint64_t chunks, struct lm_err *e)
{
    if (sum_up(x, chunks, e))
        return -1;
    if (x->o->out && write_out(x->m, x->o, x->o->force || x->n_saved > 0, x->d, e))
        return -1;
    x->n_saved = chunks;
    return 0;
}

/* What an early end leaves. */
static int interrupted(const struct collect *x, struct lm_err *e)
{
    if (x->n_saved == 0)
        return lm_err_set(e, LM_INTERRUPTED, "interrupted; nothing was left behind");
    return lm_err_set(e, LM_INTERRUPTED, "interrupted; %s holds the first %llu chunks: go on with --skip %llu --merge %s and "
                      "another --output", x->o->out, (unsigned long long)x->n_saved,
                      (unsigned long long)(x->o->skip + x->n_saved), x->o->out);
}

static int run_chunks(struct collect *x, struct lm_err *e)
{
    int32_t *ids = calloc(x->texts.ctx, sizeof *ids);
    struct cli_progress bar;
    uint64_t every = x->o->out ? x->o->save_every : 0;
    int rc = ids ? 0 : lm_err_set(e, LM_NOMEM, "out of memory");

    cli_progress_begin(&bar, "calibrating");
    bar.unit = "tokens";
    for (uint64_t i = 0; rc == 0 && i < x->texts.n_chunks; i++) {
        calibrate_chunk(&x->texts, &x->l, i, ids);
        rc = lm_calibration_run(x->c, x->l.session, ids, x->texts.ctx, &cli_stop, e);
        x->d->tokens += rc == 0 ? x->texts.ctx : 0;
        cli_progress(&bar, (i + 1) * x->texts.ctx, x->texts.n_chunks * x->texts.ctx);
        if (rc == 0 && every && (i + 1) % every == 0 && i + 1 < x->texts.n_chunks)
            rc = save(x, i + 1, e);
    }
    cli_progress_end(&bar);
    free(ids);
    return rc && e->code == LM_INTERRUPTED ? interrupted(x, e) : rc;
}

static int collect(struct lm_imatrix **m, const struct calibrate_opts *o, const char *model, struct calibrate_done *d,
                   struct lm_err *e)
{
    struct collect x = {.o = o, .d = d};
    double began;
    int rc = o->out ? check_out(o, e) : 0;

    if (rc == 0)
        rc = start(&x, model, e);
    cli_catch_signals();
    began = cli_now();
    if (rc == 0)
        rc = run_chunks(&x, e);
    d->seconds = cli_now() - began;
    d->chunks = x.texts.n_chunks;
    if (rc == 0)
        rc = save(&x, x.texts.n_chunks, e);
    *m = x.m;
    lm_calibration_free(x.c);
    calibrate_texts_free(&x.texts);
    cli_unload(&x.l);
    return rc;
}

/* ---- the command */

static int add_arguments(struct cli_list *l, char **argv, int n, struct lm_err *e)
{
    const char **bigger = reallocarray(l->items, l->n + (size_t)n + 1, sizeof *bigger);

    if (!bigger)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    l->items = bigger;
    for (int i = 0; i < n; i++)
        l->items[l->n++] = argv[i];
    return 0;
}

static const char *find_misuse(const struct calibrate_opts *o, int n)
{
    bool runs = o->texts.n > 0;

    if (runs && n != 1)
        return "one MODEL is needed to run over a text";
    if (!runs && !o->show && o->merge.n == 0)
        return n == 1 ? "a text is needed: --text FILE (or --show to look at an importance file)"
                      : "give MODEL and --text FILE, or --merge FILE, or --show FILE";
    if (o->show && (o->out || runs))
        return "--show writes nothing and runs nothing";
    if (!runs && !o->show && !o->out)
        return "where to? --output FILE";
    if (!runs && o->merge.n + (size_t)n == 0)
        return "--show needs a file";
    return NULL;
}

static int run(struct calibrate_opts *o, char **argv, int n, struct lm_err *e)
{
    struct calibrate_done d = {0};
    struct lm_imatrix *m = NULL;
    const char *misuse = find_misuse(o, n);
    int rc = misuse ? lm_err_set(e, LM_USAGE, "%s", misuse) : 0;

    if (rc == 0 && o->texts.n > 0)
        rc = collect(&m, o, argv[0], &d, e);
    else if (rc == 0)
        rc = add_arguments(&o->merge, argv, n, e) || merge_files(&m, &o->merge, e) ||
             (o->out && write_out(m, o, o->force, &d, e)) ? -1 : 0;
    if (rc == 0 && o->json)
        cli_json_print(calibrate_json(m, &d));
    else if (rc == 0)
        calibrate_print(m, &d, o->full);
    if (rc == 0)
        calibrate_warn(m);
    lm_imatrix_free(m);
    return rc;
}

int main(int argc, char **argv)
{
    struct calibrate_opts o = {0};
    struct lm_err e = {0};
    int n = cli_parse(&cmd, argc, argv, &o);

    signal(SIGXFSZ, SIG_IGN);
    int code = run(&o, argv + 1, n, &e) ? cli_fail(&e) : CLI_OK;
    free(o.texts.items);
    free(o.merge.items);
    return cli_finish(code);
}
