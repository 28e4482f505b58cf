/* lm-hash: is it the same model? Digests that do not depend on the file. */
#include <stdlib.h>

#include "cmd/cli.h"
#include "cmd/hash_show.h"
#include "convert/hash.h"

struct options {
    const char *write, *check;
    bool quiet, force, json, names;
    int threads;
};

static const struct cli_opt opts[] = {
    {"write", 'w', CLI_STRING, "FILE", offsetof(struct options, write), "Write the digests to FILE as well.", NULL},
    {"check", 'c', CLI_STRING, "FILE", offsetof(struct options, check),
     "Compare with the digests in FILE instead of printing them; exit code 1 when they differ.", NULL},
    {"quiet", 'q', CLI_FLAG, NULL, offsetof(struct options, quiet),
     "Only the model's digest; with --check nothing but the exit code.", NULL},
    {"force", 'f', CLI_FLAG, NULL, offsetof(struct options, force), "Let --write replace an existing file.", NULL},
    {"threads", 0, CLI_INT, "N", offsetof(struct options, threads), "Threads (default: all cores).", NULL},
    {"names", 0, CLI_FLAG, NULL, offsetof(struct options, names),
     "The table of canonical names: what every tensor of Hugging Face is called and how its elements get there.", NULL},
    {"json", 0, CLI_FLAG, NULL, offsetof(struct options, json), "JSON on standard output.", NULL},
    {NULL, 0, CLI_FLAG, NULL, 0, NULL, NULL},
};

static const struct cli_cmd cmd = {
    .name = "lm-hash",
    .brief = "digests of a checkpoint that do not depend on its container",
    .synopsis = "[MODEL]",
    .about =
        "Prints a SHA-256 digest of every tensor and, on the last line, of the model, in the manner of sha256sum. The "
        "digests are of values in a canonical order under canonical names: they are the same in every container, in "
        "one file or many shards, under Hugging Face's or GGUF's names and order of rows, with experts apart or "
        "stacked, Q, K and V or gate and up fused or not as the family's GGUF has them, and in BF16, F16 or F8 and its "
        "F32 or F64 widening. Any changed bit of a value gives another digest, and so does quantization. The exact rules "
        "are in the README (The canonical form of lm-hash).\n"
        "\n"
        "Tensors that follow from the configuration (rope_freqs) and an output matrix equal to the embedding are not "
        "counted, so that a tie written out does not make another model. Canonical names need a known architecture "
        "(config.json or GGUF keys); otherwise tensors keep their own, and a note says so.\n"
        "\n"
        "With --json: model (the digest), architecture (or null), version (of the rules), tensors (name digest source "
        "n_sources dtype shape) and not_counted (name digest why). With --check: also different, missing and extra, lists of "
        "names, and equal.\n",
    .opts = opts,
    .examples = "  $ lm-hash bielik-7b.gguf\n"
                "  $ lm-hash --quiet bielik-7b/\n"
                "  $ lm-hash --write bielik.sums bielik-7b/ && lm-hash --check bielik.sums bielik-7b.gguf\n",
    .min_args = 0,
    .max_args = 1,
};

#define MODEL_LINE "model"

/* ---- printing */

static void print_line(FILE *f, const struct lm_digest *d, const char *name)
{
    char hex[65];

    fprintf(f, "%s  %s\n", lm_digest_hex(d, hex), cli_safe(lm_span_str(name)));
}

static void print_sums(FILE *f, const struct lm_hash *h, bool quiet)
{
    for (size_t i = 0; !quiet && i < h->n_tensors; i++)
        if (!h->tensors[i].why)
            print_line(f, &h->tensors[i].digest, h->tensors[i].name);
    print_line(f, &h->model, MODEL_LINE);
}

static void print_notes(const struct lm_hash *h)
{
    if (!h->arch)
        cli_note("lm-hash: architecture not known (%s): names and order of rows are the file's own",
                 h->why ? h->why : "no config.json and no GGUF keys");
    for (size_t i = 0; i < h->n_tensors; i++)
        if (h->tensors[i].why)
            cli_note("lm-hash: not counted: %s (%s)", h->tensors[i].src->name, h->tensors[i].why);
}

static json_t *tensor_json(const struct lm_hash_tensor *t)
{
    json_t *o = json_object(), *shape = json_array();
    char hex[65];

    json_object_set_new(o, "name", cli_json_str(lm_span_str(t->name)));
    json_object_set_new(o, "digest", json_string(lm_digest_hex(&t->digest, hex)));
    if (t->why) {
        json_object_set_new(o, "why", json_string(t->why));
        json_decref(shape);
        return o;
    }
    json_object_set_new(o, "source", cli_json_str(lm_span_str(t->src->name)));
    json_object_set_new(o, "n_sources", json_integer((json_int_t)t->n_src));
    json_object_set_new(o, "dtype", json_string(lm_dtype_name(t->src->dtype)));
    for (unsigned i = 0; i < t->n_dims; i++)
        json_array_append_new(shape, json_integer((json_int_t)t->shape[i]));
    json_object_set_new(o, "shape", shape);
    return o;
}

static json_t *hash_json(const struct lm_hash *h)
{
    json_t *o = json_object(), *tensors = json_array(), *not_counted = json_array();
    char hex[65];

    json_object_set_new(o, "model", json_string(lm_digest_hex(&h->model, hex)));
    json_object_set_new(o, "version", json_integer(1));
    json_object_set_new(o, "architecture", h->arch ? json_string(h->arch) : json_null());
    for (size_t i = 0; i < h->n_tensors; i++)
        json_array_append_new(h->tensors[i].why ? not_counted : tensors, tensor_json(&h->tensors[i]));
    json_object_set_new(o, "tensors", tensors);
    json_object_set_new(o, "not_counted", not_counted);
    return o;
}

/* ---- --write */

static int write_sums(const struct lm_hash *h, const struct options *o, struct lm_err *e)
{
    const char *slash = strrchr(o->write, '/');
    char *text = NULL, *dir = slash ? strndup(o->write, (size_t)(slash - o->write) + 1) : strdup(".");
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    struct lm_commit *c = NULL;
    int fd, rc = -1;

    if (!f || !dir) {
        lm_err_set(e, LM_NOMEM, "out of memory");
        goto out;
    }
    print_sums(f, h, false);
    if (fclose(f) != 0) {
        f = NULL;
        lm_err_set(e, LM_NOMEM, "out of memory");
        goto out;
    }
    f = NULL;
    if (lm_commit_begin(&c, dir, o->force, e) || lm_commit_add(c, slash ? slash + 1 : o->write, n, &fd, e) ||
        lm_pwrite_all(fd, text, n, 0, e))
        lm_commit_abort(c);
    else
        rc = lm_commit_finish(c, e);
out:
    if (f)
        fclose(f);
    free(text);
    free(dir);
    return rc;
}

/* ---- --check */

struct expected { char *text; size_t n; struct sum { struct lm_digest digest; const char *name; bool seen; } *sums; size_t n_sums; };

static int malformed(const char *file, size_t line, struct lm_err *e)
{
    return lm_err_set(e, LM_MALFORMED, "%s: line %zu is not a digest of 64 hexadecimal digits, two spaces and a name",
                      file, line);
}

/* Lines of a file that --write made; text is cut up. */
static int parse_sums(struct expected *x, const char *file, struct lm_err *e)
{
    size_t lines = 1;

    for (size_t i = 0; i < x->n; i++)
        lines += x->text[i] == '\n';
    x->sums = calloc(lines, sizeof *x->sums);
    if (!x->sums)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    for (char *p = x->text; *p;) {
        struct sum *s = &x->sums[x->n_sums++];
        char *end = strchr(p, '\n');
        if (end)
            *end = 0;
        if (!lm_digest_parse(&s->digest, p) || strncmp(p + 64, "  ", 2) != 0 || !p[66])
            return malformed(file, x->n_sums, e);
        s->name = p + 66;
        p = end ? end + 1 : p + strlen(p);
    }
    if (x->n_sums == 0 || strcmp(x->sums[x->n_sums - 1].name, MODEL_LINE) != 0)
        return lm_err_set(e, LM_MALFORMED, "%s: the last line is not the digest of a model: the file is not of lm-hash, "
                          "or cut short", file);
    x->n_sums--;
    return 0;
}

struct verdict { json_t *different, *missing, *extra; bool equal; };

static void compare(struct verdict *v, struct expected *x, const struct lm_hash *h)
{
    struct lm_map *at = lm_map_new(x->n_sums);

    v->equal = lm_digest_eq(&x->sums[x->n_sums].digest, &h->model);
    for (size_t i = 0; at && i < x->n_sums; i++)
        lm_map_put(at, lm_span_str(x->sums[i].name), i);
    for (size_t i = 0; i < h->n_tensors; i++) {
        const struct lm_hash_tensor *t = &h->tensors[i];
        const char *name = cli_safe(lm_span_str(t->name));
        size_t k = lm_map_get(at, lm_span_str(name));
        if (k != SIZE_MAX)
            x->sums[k].seen = true;
        if (k == SIZE_MAX && !t->why)
            json_array_append_new(v->extra, json_string(name));
        else if (k != SIZE_MAX && !lm_digest_eq(&t->digest, &x->sums[k].digest))
            json_array_append_new(v->different, json_string(name));
    }
    for (size_t i = 0; i < x->n_sums; i++)
        if (!x->sums[i].seen)
            json_array_append_new(v->missing, cli_json_str(lm_span_str(x->sums[i].name)));
    lm_map_free(at);
}

static void print_names(const char *what, const json_t *names)
{
    size_t i;
    json_t *name;

    json_array_foreach(names, i, name)
        printf("%-9s  %s\n", what, json_string_value(name));
}

static void print_verdict(const struct verdict *v, const struct expected *x, const struct options *o)
{
    if (o->quiet)
        return;
    print_names("different", v->different);
    print_names("missing", v->missing);
    print_names("extra", v->extra);
    if (v->equal)
        printf("equal: all %zu tensors\n", x->n_sums);
    else
        printf("not equal: of %zu tensors %zu are different, %zu missing, %zu extra\n", x->n_sums,
               json_array_size(v->different), json_array_size(v->missing), json_array_size(v->extra));
}

static int check(const struct lm_hash *h, const struct options *o, bool *equal, struct lm_err *e)
{
    struct verdict v = {json_array(), json_array(), json_array(), false};
    struct expected x = {0};
    int rc = cli_read_text(&x.text, &x.n, NULL, o->check, e);

    if (rc == 0)
        rc = parse_sums(&x, o->check, e);
    if (rc == 0) {
        compare(&v, &x, h);
        *equal = v.equal;
        if (o->json) {
            json_t *root = hash_json(h);
            json_object_set_new(root, "equal", json_boolean(v.equal));
            json_object_set(root, "different", v.different);
            json_object_set(root, "missing", v.missing);
            json_object_set(root, "extra", v.extra);
            cli_json_print(root);
        } else {
            print_verdict(&v, &x, o);
        }
    }
    json_decref(v.different);
    json_decref(v.missing);
    json_decref(v.extra);
    free(x.sums);
    free(x.text);
    return rc;
}

/* ---- the command */

static int compute(struct lm_hash **h, struct lm_model *m, const struct options *o, struct lm_err *e)
{
    struct cli_progress bar;
    struct lm_run_options run = {.n_threads = o->threads, .stop = &cli_stop, .progress = cli_progress, .user = &bar};

    cli_catch_signals();
    cli_progress_begin(&bar, "hashing");
    int rc = lm_hash_model(h, m, &run, e);
    cli_progress_end(&bar);
    return rc;
}

static int run(const struct options *o, const char *path, int *code, struct lm_err *e)
{
    struct lm_model *m = NULL;
    struct lm_hash *h = NULL;
    bool equal = true;
    int rc = lm_model_open(&m, path, e);

    if (rc == 0)
        rc = compute(&h, m, o, e);
    if (rc == 0 && !o->quiet && !o->json)
        print_notes(h);
    if (rc == 0 && o->write)
        rc = write_sums(h, o, e);
    if (rc == 0 && o->check)
        rc = check(h, o, &equal, e);
    else if (rc == 0 && o->json)
        cli_json_print(hash_json(h));
    else if (rc == 0)
        print_sums(stdout, h, o->quiet);
    *code = equal ? CLI_OK : CLI_DIFFERENT;
    lm_hash_free(h);
    lm_model_close(m);
    return rc;
}

int main(int argc, char **argv)
{
    struct options o = {0};
    struct lm_err e;
    int code = CLI_OK;

    int n = cli_parse(&cmd, argc, argv, &o);
    if (o.names) {
        hash_print_names();
        return cli_finish(CLI_OK);
    }
    if (n == 0) {
        cli_note("lm-hash: give a model, or --names");
        return cli_finish(CLI_USAGE);
    }
    if (run(&o, argv[1], &code, &e))
        code = cli_fail(&e);
    return cli_finish(code);
}
