/* lm-quantize: any readable checkpoint to a quantized GGUF, with llama.cpp's
 * mixes of types. */
#include <signal.h>

#include "cmd/account.h"

struct options {
    const char *type, *name;
    int threads;
    bool pure, force, dry_run, json, account, allow_unknown;
    uint64_t split;
};

static const struct cli_opt opts[] = {
    {"type", 't', CLI_STRING, "TYPE", offsetof(struct options, type),
     "What to make: Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 Q3_K_L Q3_K_M Q3_K_S Q2_K, or F16 BF16 "
     "F32 (required).", NULL},
    {"pure", 0, CLI_FLAG, NULL, offsetof(struct options, pure),
     "The base type everywhere instead of the mix that gives sensitive tensors more bits.", NULL},
    {"split", 0, CLI_SIZE, "SIZE", offsetof(struct options, split),
     "Several files of at most about SIZE of tensor data each (2G, 500M).", NULL},
    {"name", 0, CLI_STRING, "NAME", offsetof(struct options, name),
     "general.name (default: the source's, or its folder's name).", NULL},
    {"allow-unknown", 0, CLI_FLAG, NULL, offsetof(struct options, allow_unknown),
     "Carry tensors that the architecture does not know under their own names instead of refusing.", NULL},
    {"account", 'a', CLI_FLAG, NULL, offsetof(struct options, account), "One line a tensor, layers not folded.", NULL},
    {"dry-run", 'n', CLI_FLAG, NULL, offsetof(struct options, dry_run), "Announce types and sizes; write nothing.", NULL},
    {"force", 'f', CLI_FLAG, NULL, offsetof(struct options, force), "Replace an existing destination.", NULL},
    {"threads", 0, CLI_INT, "N", offsetof(struct options, threads), "Threads (default: all cores).", NULL},
    {"json", 0, CLI_FLAG, NULL, offsetof(struct options, json), "The account as JSON.", NULL},
    {NULL, 0, CLI_FLAG, NULL, 0, NULL, NULL},
};

static const struct cli_cmd cmd = {
    .name = "lm-quantize",
    .brief = "quantize a checkpoint into a GGUF file",
    .synopsis = "SRC DST",
    .about =
        "Reads SRC (safetensors or GGUF of any type; no file in between) and writes DST, a GGUF whose weights have the "
        "types of --type. Types, tensors and bytes are those of llama.cpp's llama-quantize. Before a byte is written "
        "it says how many tensors and parameters get which type, the real bits a weight, the size, and which tensors "
        "cannot have the type asked for because of their shape.\n"
        "\n"
        "A source that holds values that are not finite is refused: they would spread over whole blocks.\n"
        "\n"
        "With --json: the object of lm-convert (see there) with type.\n",
    .opts = opts,
    .examples = "  $ lm-quantize --type Q4_K_M bielik-7b/ bielik-7b-Q4_K_M.gguf\n"
                "  $ lm-quantize --type Q6_K --dry-run bielik-7b.gguf out.gguf\n",
    .min_args = 2,
    .max_args = 2,
};

static int make_request(struct lm_request *r, const struct options *o, const char *dst, struct lm_err *e)
{
    const char *dot = strrchr(dst, '.');

    *r = (struct lm_request){.to = lm_format_find("gguf"), .quantize = true, .dtype = -1, .pure = o->pure,
                             .max_file_bytes = o->split, .name = o->name, .allow_unknown = o->allow_unknown};
    if (!o->type)
        return lm_err_set(e, LM_USAGE, "--type is needed, for instance --type Q4_K_M");
    r->ftype = lm_ftype_find(o->type);
    if (!r->ftype)
        return lm_err_set(e, LM_USAGE, "no type is called %s; see --help for those there are", o->type);
    if (dot && strcmp(dot, ".safetensors") == 0)
        return lm_err_set(e, LM_USAGE, "%s: quantized files are GGUF; name it .gguf", dst);
    return 0;
}

static int run(const struct options *o, const char *src, const char *dst, struct lm_err *e)
{
    struct account_run r = {.label = "quantizing", .dst = dst, .force = o->force, .dry = o->dry_run,
                            .n_threads = o->threads};
    struct lm_model *m = NULL;
    struct lm_plan *p = NULL;
    struct lm_request req;
    int rc = -1;

    if (make_request(&req, o, dst, e) == 0 && lm_model_open(&m, src, e) == 0 && lm_plan_make(&p, m, &req, e) == 0) {
        if (!o->json) {
            account_print_notes(p);
            account_print_types(p);
        }
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

    cli_parse(&cmd, argc, argv, &o);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error like a full disk */
    return cli_finish(run(&o, argv[1], argv[2], &e) ? cli_fail(&e) : CLI_OK);
}
