/* lm-convert: a checkpoint in another container, with an account of every tensor. */
#include <signal.h>
#include <sys/stat.h>

#include "cmd/account.h"

struct options {
    int to, dtype;
    uint64_t split;
    int threads;
    const char *name;
    bool force, dry_run, json, account, allow_unknown, compress, resume, commit, merge;
    const char *part;
    uint64_t max_ram;
};

static const char *const formats[] = {"auto", "gguf", "safetensors", "npz", "h5", "keras", NULL};
static const char *const dtypes[] = {"keep", "f32", "f16", "bf16", "q8_0", NULL};

static const struct cli_opt opts[] = {
    {"to", 't', CLI_CHOICE, "FORMAT", offsetof(struct options, to),
     "Format of the result; by default from DST's extension, a folder being safetensors.", formats},
    {"dtype", 'd', CLI_CHOICE, "TYPE", offsetof(struct options, dtype),
     "Type of the weights (default keep: as they are).", dtypes},
    {"split", 0, CLI_SIZE, "SIZE", offsetof(struct options, split),
     "Several files of at most about SIZE of tensor data each (2G, 500M).", NULL},
    {"merge", 'm', CLI_FLAG, NULL, offsetof(struct options, merge),
     "One file of a set: all of its files may be named before DST (model-0*.gguf), or the first alone.", NULL},
    {"name", 0, CLI_STRING, "NAME", offsetof(struct options, name),
     "general.name of a GGUF (default: the source's, or its folder's name).", NULL},
    {"allow-unknown", 0, CLI_FLAG, NULL, offsetof(struct options, allow_unknown),
     "Carry tensors that the architecture does not know under their own names instead of refusing.", NULL},
    {"compress", 0, CLI_FLAG, NULL, offsetof(struct options, compress),
     "Compress the tensors (HDF5: shuffle and deflate, in chunks of about 1 MB).", NULL},
    {"account", 'a', CLI_FLAG, NULL, offsetof(struct options, account), "One line a tensor, layers not folded.", NULL},
    {"dry-run", 'n', CLI_FLAG, NULL, offsetof(struct options, dry_run), "Say what would be done; write nothing.", NULL},
    {"force", 'f', CLI_FLAG, NULL, offsetof(struct options, force), "Replace an existing destination.", NULL},
    {"threads", 0, CLI_INT, "N", offsetof(struct options, threads), "Threads (default: all cores).", NULL},
    ACCOUNT_DURABLE(struct options, resume, part, commit, max_ram),
    {"json", 0, CLI_FLAG, NULL, offsetof(struct options, json), "The account as JSON.", NULL},
    {NULL, 0, CLI_FLAG, NULL, 0, NULL, NULL},
};

static const struct cli_cmd cmd = {
    .name = "lm-convert",
    .brief = "convert a checkpoint to safetensors, GGUF, NumPy, HDF5 or Keras",
    .synopsis = "SRC… DST",
    .about =
        "Writes the checkpoint SRC (a file of any format that is read, an index.json or a folder) as DST and accounts for "
        "every tensor: copied, cast (with the numbers of values that overflowed or became zero), permuted, transposed, "
        "renamed, made or dropped with the reason. Types are kept unless --dtype says otherwise; in a GGUF made from "
        "Hugging Face files vectors, norms and learned positions become F32, which loses nothing.\n"
        "\n"
        "DST is a .gguf file; or a folder in the manner of Hugging Face (model.safetensors, config.json, tokenizer); "
        "or a single .safetensors file, then without config and tokenizer; or a .npz or .h5 file; or, with --to keras, a "
        "folder as keras-hub has it (model.weights.h5 and config.json of Llama, Mistral or GPT-2). GGUF, .npz and .h5 keep "
        "the small files and headers of what they were made from inside, and converting them back gives the same files "
        "byte for byte.\n"
        "\n"
        "A set of files (model-00001-of-00004.gguf …, or what an index.json names) is one checkpoint: SRC is its first "
        "file, its index or its folder, and DST is one file unless --split says otherwise, whatever the source was. "
        "Split and merged again, a GGUF is the same file, byte for byte. No file of the source is ever written to, "
        "under whatever name or link DST reaches it.\n"
        "\n"
        "The result appears under its name only when it is complete and on the disk; an existing one is replaced only "
        "with --force. A killed run leaves nothing; with --resume it leaves its work in a hidden folder beside DST "
        "(.DST.unfinished), and the same command goes on from there, after checking that neither the source nor the "
        "request changed and that what is there is sound. With --part several processes, also on several machines "
        "that see the same folders, share the work.\n"
        "\n"
        "With --json: source, destination, format, n_tensors, n_params, n_bytes_source, n_bytes (tensor data), "
        "n_bytes_files, exact (the original files are given back), seconds, totals (source copied cast quantized "
        "dropped renamed permuted transposed made n_overflow n_flushed n_nan), tensors (source name action transform "
        "from dtype shape n_bytes n_overflow n_flushed n_nan why), dropped (source why), notes, finished (false after --part), n_reused (ranges that an earlier run had done).\n",
    .opts = opts,
    .examples = "  $ lm-convert bielik-7b/ bielik-7b.gguf\n"
                "  $ lm-convert --dtype f16 --split 4G bielik-7b/ bielik-7b-f16.gguf\n"
                "  $ lm-convert bielik-7b.gguf back/\n"
                "  $ lm-convert --merge bielik-00001-of-00004.gguf bielik.gguf\n"
                "  $ lm-convert --resume bielik-7b/ bielik-7b.gguf\n",
    .min_args = 2,
    .max_args = -1,
};

static bool ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), k = strlen(suffix);

    return n >= k && strcmp(s + n - k, suffix) == 0;
}

static bool is_folder(const char *path)
{
    struct stat s;

    return path[strlen(path) - 1] == '/' || (stat(path, &s) == 0 && S_ISDIR(s.st_mode));
}

static int make_request(struct lm_request *r, const struct options *o, const char *dst, struct lm_err *e)
{
    const char *to = formats[o->to];

    if (!*dst)
        return lm_err_set(e, LM_USAGE, "the destination has no name");
    if (o->to == 0)
        to = ends_with(dst, ".gguf") ? "gguf" : ends_with(dst, ".npz") ? "npz"
             : ends_with(dst, ".weights.h5") ? "keras" : ends_with(dst, ".h5") ? "h5"
             : ends_with(dst, ".safetensors") || is_folder(dst) ? "safetensors" : NULL;
    if (!to)
        return lm_err_set(e, LM_USAGE, "%s does not say which format is wanted: name it .gguf, .safetensors, .npz or .h5, or a folder with / at the end, or add "
                          "--to", dst);
    *r = (struct lm_request){.to = lm_format_find(to), .dtype = o->dtype ? lm_dtype_find(dtypes[o->dtype]) : -1,
                             .max_file_bytes = o->split, .name = o->name, .allow_unknown = o->allow_unknown,
                             .compress = o->compress,
                             .bare = strcmp(to, "safetensors") == 0 && ends_with(dst, ".safetensors")};
    if (!r->to)
        return lm_err_set(e, LM_USAGE, "no format is called %s", to);
    for (int i = 1; formats[i]; i++) {
        const char *dot = strrchr(dst, '.');
        if (dot && strcmp(dot + 1, formats[i]) == 0 && strcmp(formats[i], to) != 0 && !ends_with(dst, ".weights.h5"))
            return lm_err_set(e, LM_USAGE, "%s: the name says one format, --to another (%s)", dst, to);
    }
    return 0;
}

static bool is_file(const struct lm_model_file *f, const struct stat *s)
{
    return f->dev == (uint64_t)s->st_dev && f->ino == (uint64_t)s->st_ino;
}

/* Every further file that was named must belong to the set that the first one opened. */
static int check_set(const struct lm_model *m, char **more, int n, struct lm_err *e)
{
    for (int i = 0; i < n; i++) {
        struct stat s;
        size_t k = 0;
        if (stat(more[i], &s) < 0)
            return lm_err_errno(e, "%s", more[i]);
        while (k < lm_model_n_files(m) && !is_file(lm_model_file(m, k), &s))
            k++;
        if (k == lm_model_n_files(m))
            return lm_err_set(e, LM_USAGE, "%s does not belong to the set of %s", more[i], lm_model_path(m));
    }
    return 0;
}

static int check_use(const struct options *o, int n, struct lm_err *e)
{
    if (n > 2 && !o->merge)
        return lm_err_set(e, LM_USAGE, "%d files were given: SRC and DST are needed (--merge takes the files of a set before "
                          "DST)", n);
    if (o->merge && o->split)
        return lm_err_set(e, LM_USAGE, "--merge makes one file, --split several: give one of them");
    return 0;
}

/* args: SRC, perhaps more files of its set, DST. */
static int run(const struct options *o, char **args, int n, struct lm_err *e)
{
    const char *src = args[0], *dst = args[n - 1];
    struct account_run r = {.label = "converting", .dst = dst, .force = o->force, .dry = o->dry_run,
                            .n_threads = o->threads, .max_ram = o->max_ram};
    struct lm_model *m = NULL;
    struct lm_plan *p = NULL;
    struct lm_request req;
    int rc = -1;

    if (check_use(o, n, e) == 0 && account_durable(&r, o->resume, o->part, o->commit, e) == 0 &&
        make_request(&req, o, dst, e) == 0 && lm_model_open(&m, src, e) == 0 && check_set(m, args + 1, n - 2, e) == 0 &&
        lm_plan_make(&p, m, &req, e) == 0) {
        if (!o->json)
            account_print_notes(p);
        rc = account_run(p, &r, e);
    }
    if (rc == 0)
        account_report(p, &r, src, o->account, o->json);
    lm_plan_free(p);
    lm_model_close(m);
    return rc;
}

int main(int argc, char **argv)
{
    struct options o = {0};
    struct lm_err e = {0};

    int n = cli_parse(&cmd, argc, argv, &o);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error like a full disk */
    return cli_finish(run(&o, argv + 1, n, &e) ? cli_fail(&e) : CLI_OK);
}
