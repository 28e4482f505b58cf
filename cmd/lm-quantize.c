/* lm-quantize: any readable checkpoint to a quantized GGUF, with llama.cpp's
 * mixes of types. */
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/quantize.h"
#include "convert/reproduce.h"
#include "gpu/engine.h"

struct options {
    const char *to, *type, *name, *output_type, *embedding_type, *report, *device;
    struct cli_list imatrix, tensor_types, recipes;
    int threads;
    bool pure, force, dry_run, json, account, allow_unknown, leave_output, print_recipe, strict, errors, allow_nan;
    bool resume, commit, no_source_sums;
    const char *part, *reproduce;
    uint64_t split, max_ram;
    int group_size;
};

#define AT(field) offsetof(struct options, field)

static const struct cli_opt opts[] = {
    {"type", 't', CLI_STRING, "TYPE", AT(type),
     "What to make: Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 Q3_K_L Q3_K_M Q3_K_S Q2_K Q2_K_S, IQ4_XS "
     "IQ4_NL IQ3_M IQ3_S IQ3_XS IQ3_XXS IQ2_M IQ2_S IQ2_XS IQ2_XXS IQ1_M IQ1_S, TQ2_0 TQ1_0, MXFP4_MOE NVFP4, Q2_0 Q1_0, "
     "or F16 BF16 F32 (required). Several, with commas, in one reading: DST is then a folder.", NULL},
    {"to", 0, CLI_STRING, "FORMAT", AT(to),
     "gguf (default) or safetensors: a folder for vLLM and transformers. Its types are FP8 (E4M3, a scale a row), "
     "FP8_TENSOR (one scale), FP8_BLOCK (a scale for 128 x 128, as DeepSeek), INT8 (a scale a row), INT4 (a scale for "
     "--group-size elements), all rounded to nearest.", NULL},
    {"group-size", 0, CLI_INT, "N", AT(group_size), "Elements of a group of INT4 (default: 128).", NULL},
    {"reproduce", 0, CLI_STRING, "FILE", AT(reproduce),
     "Make FILE again from SRC by what it says of its making, write nothing, and compare: exit code 1 when a byte differs.",
     NULL},
    {"imatrix", 'i', CLI_LIST, "FILE", AT(imatrix),
     "Importance of the columns, GGUF or the older .dat; several are added up.", NULL},
    {"pure", 0, CLI_FLAG, NULL, AT(pure),
     "The base type everywhere instead of the mix that gives sensitive tensors more bits.", NULL},
    {"tensor-type", 0, CLI_LIST, "REGEX=TYPE", AT(tensor_types),
     "Tensors whose name matches get TYPE (Q6_K, F16 …); of several the first that matches counts.", NULL},
    {"recipe", 0, CLI_LIST, "FILE", AT(recipes), "The same from a file, a line each: NAME-REGEX TYPE; # comments.", NULL},
    {"print-recipe", 0, CLI_FLAG, NULL, AT(print_recipe), "Print what was decided as a recipe, and stop.", NULL},
    {"output-type", 0, CLI_STRING, "TYPE", AT(output_type), "Type of the output matrix.", NULL},
    {"embedding-type", 0, CLI_STRING, "TYPE", AT(embedding_type), "Type of the token embedding.", NULL},
    {"leave-output", 0, CLI_FLAG, NULL, AT(leave_output), "The output matrix keeps its type.", NULL},
    {"strict", 0, CLI_FLAG, NULL, AT(strict), "Refuse when a tensor cannot have the type meant for it.", NULL},
    {"allow-nan", 0, CLI_FLAG, NULL, AT(allow_nan), "Values that are not finite become 0 instead of an error.", NULL},
    {"errors", 'e', CLI_FLAG, NULL, AT(errors), "After it, a table of what the tensors lost.", NULL},
    {"report", 0, CLI_STRING, "FILE", AT(report), "The errors of every tensor as JSON into FILE.", NULL},
    {"split", 0, CLI_SIZE, "SIZE", AT(split), "Several files of at most about SIZE of tensor data each (2G, 500M).", NULL},
    {"name", 0, CLI_STRING, "NAME", AT(name), "general.name (default: the source's, or its folder's name).", NULL},
    {"allow-unknown", 0, CLI_FLAG, NULL, AT(allow_unknown),
     "Carry tensors that the architecture does not know under their own names instead of refusing.", NULL},
    {"no-source-sums", 0, CLI_FLAG, NULL, AT(no_source_sums), "Do not write down what the source's tensors were.", NULL},
    {"account", 'a', CLI_FLAG, NULL, AT(account), "One line a tensor, layers not folded.", NULL},
    {"dry-run", 'n', CLI_FLAG, NULL, AT(dry_run), "Announce types, sizes and what it takes; write nothing.", NULL},
    {"force", 'f', CLI_FLAG, NULL, AT(force), "Replace an existing destination.", NULL},
    {"threads", 0, CLI_INT, "N", AT(threads), "Threads (default: all cores).", NULL},
    {"device", 0, CLI_STRING, "DEVICE", AT(device),
     "Where to encode: cpu (default), cuda, cuda:1 …, or auto; the bytes are the same.", NULL},
    ACCOUNT_DURABLE(struct options, resume, part, commit, max_ram),
    {"json", 0, CLI_FLAG, NULL, AT(json), "The account as JSON.", NULL},
    {NULL, 0, CLI_FLAG, NULL, 0, NULL, NULL},
};

static const struct cli_cmd cmd = {
    .name = "lm-quantize",
    .brief = "quantize a checkpoint into a GGUF file",
    .synopsis = "SRC DST",
    .about =
        "Reads SRC (safetensors or GGUF of any type; no file in between) and writes DST, a GGUF (with --to safetensors a "
        "folder) whose weights have the "
        "types of --type. Types, tensors and bytes are those of llama.cpp's llama-quantize, with and without "
        "importance. Before a byte is written it says how many tensors and parameters get which type, the real bits a "
        "weight, the size, which tensors cannot have the type asked for because of their shape, and what it takes: "
        "disk, memory, time. With --dry-run or --print-recipe it stops there, and DST may be left out.\n"
        "\n"
        "Below about three bits a weight quantizing is useless without importance (--imatrix) and refused. Types above "
        "the mix's: --output-type and --embedding-type first, then --tensor-type, then --recipe, each in the order "
        "given. A recipe has one line a rule, NAME-REGEX TYPE, the expression (PCRE2, any case) matching anywhere in "
        "the name a tensor has in DST; # begins a comment.\n"
        "\n"
        "A source that holds values that are not finite is refused: they would spread over whole blocks.\n"
        "\n"
        "Errors (--errors, --report) compare what was written with the source's values: root mean square relative to "
        "the values', the largest single one, cosine.\n"
        "\n"
        "The file says how it was made (libmodel.recipe.* in its metadata: version, type, rules, source files, a sum of "
        "every source tensor), and --reproduce makes it again from SRC (with the same --imatrix, if there was one) and "
        "compares every byte; a tensor of SRC that is not the one it was made of is named first.\n"
        "\n"
        "With --json: the object of lm-convert (see there) with type.\n",
    .opts = opts,
    .examples = "  $ lm-quantize --type Q4_K_M bielik-7b/ bielik-7b-Q4_K_M.gguf\n"
                "  $ lm-quantize --type IQ3_XXS --imatrix polish.gguf --errors bielik-7b/ bielik-7b-IQ3_XXS.gguf\n"
                "  $ lm-quantize --type Q4_K_M --tensor-type 'blk\\.[0-3]\\.ffn_down=Q6_K' bielik-7b/ out.gguf\n"
                "  $ lm-quantize --type Q6_K --dry-run bielik-7b.gguf\n"
                "  $ lm-quantize --type Q4_K_M,Q6_K,Q8_0 bielik-7b/ quantized/\n"
                "  $ lm-quantize --to safetensors --type FP8 bielik-7b/ bielik-7b-FP8/\n"
                "  $ lm-quantize --reproduce bielik-7b-Q4_K_M.gguf bielik-7b/\n",
    .min_args = 1,
    .max_args = 2,
};

/* ---- the request */

static int find_dtype(int *out, const char *option, const char *name, struct lm_err *e)
{
    *out = name ? lm_dtype_find(name) : -1;
    if (name && (*out < 0 || !lm_format_find("gguf")->can_store((enum lm_dtype)*out)))
        return lm_err_set(e, LM_USAGE, "--%s: no storage type is called %s", option, name);
    return 0;
}

static int add_rule(struct lm_recipe *r, const char *rule, struct lm_err *e)
{
    const char *eq = strrchr(rule, '='); /* an expression may hold one */

    if (!eq)
        return lm_err_set(e, LM_USAGE, "--tensor-type is REGEX=TYPE, not '%s'", rule);
    if (lm_recipe_add(r, lm_span_of(rule, (size_t)(eq - rule)), lm_span_str(eq + 1), e))
        return lm_err_prefix(e, "--tensor-type %s", rule);
    return 0;
}

static int make_recipe(struct lm_recipe **out, const struct options *o, struct lm_err *e)
{
    if (lm_recipe_new(out, e))
        return -1;
    for (size_t i = 0; i < o->tensor_types.n; i++)
        if (add_rule(*out, o->tensor_types.items[i], e))
            return -1;
    for (size_t i = 0; i < o->recipes.n; i++)
        if (lm_recipe_read(*out, o->recipes.items[i], e))
            return -1;
    return 0;
}

/* What the request borrows. */
struct parts { struct lm_recipe *recipe; struct lm_importance *importance; struct lm_mix_options mix; };

static int make_mix(struct parts *x, const struct options *o, struct lm_err *e)
{
    if (find_dtype(&x->mix.output, "output-type", o->output_type, e) ||
        find_dtype(&x->mix.embedding, "embedding-type", o->embedding_type, e) || make_recipe(&x->recipe, o, e))
        return -1;
    if (o->imatrix.n > 0 && lm_importance_read(&x->importance, o->imatrix.items, o->imatrix.n, e))
        return -1;
    x->mix.leave_output = o->leave_output;
    x->mix.recipe = x->recipe;
    x->mix.importance = x->importance;
    return 0;
}

/* Safetensors: the matrices in another form, all else as it is. */
static int make_pack_request(struct lm_request *r, const struct options *o, const char *dst, struct lm_err *e)
{
    r->to = lm_format_find(o->to);
    r->quantize = false;
    r->pack = lm_pack_find(o->type);
    if (!r->to || strcmp(o->to, "safetensors") != 0)
        return lm_err_set(e, LM_USAGE, "--to is gguf or safetensors, not %s", o->to);
    if (!r->pack)
        return lm_err_set(e, LM_USAGE, "safetensors have no type %s; there are FP8, FP8_TENSOR, FP8_BLOCK, INT8 and INT4",
                          o->type);
    if (o->group_size < 0 || (o->group_size && r->pack->scales != LM_PACK_GROUP))
        return lm_err_set(e, LM_USAGE, "--group-size is for INT4, and at least 1");
    r->pack_group = (uint32_t)o->group_size;
    if (o->imatrix.n || o->tensor_types.n || o->recipes.n || o->output_type || o->embedding_type || o->pure || o->errors || o->report)
        return lm_err_set(e, LM_USAGE, "--imatrix, --tensor-type, --recipe, --output-type, --embedding-type, --pure, --errors "
                          "and --report are for GGUF");
    const char *dot = dst ? strrchr(dst, '.') : NULL;
    if (dot && strcmp(dot, ".safetensors") == 0)
        return lm_err_set(e, LM_USAGE, "%s: the result is a folder, for config.json belongs to it; end it with /", dst);
    return !dst && !o->dry_run ? lm_err_set(e, LM_USAGE, "the destination is missing") : 0;
}

static int make_request(struct lm_request *r, struct parts *x, const struct options *o, const char *dst,
                        struct lm_err *e)
{
    const char *dot = dst ? strrchr(dst, '.') : NULL;

    *r = (struct lm_request){.to = lm_format_find("gguf"), .quantize = true, .dtype = -1, .pure = o->pure,
                             .max_file_bytes = o->split, .name = o->name, .allow_unknown = o->allow_unknown,
                             .allow_nan = o->allow_nan, .no_source_sums = o->no_source_sums, .mix = &x->mix};
    if (!o->type)
        return lm_err_set(e, LM_USAGE, "--type is needed, for instance --type Q4_K_M");
    if (o->to && strcmp(o->to, "gguf") != 0)
        return make_pack_request(r, o, dst, e);
    r->ftype = lm_ftype_find(o->type);
    if (!r->ftype)
        return lm_err_set(e, LM_USAGE, "no type is called %s; see --help for those there are", o->type);
    if (dot && strcmp(dot, ".safetensors") == 0)
        return lm_err_set(e, LM_USAGE, "%s: quantized files are GGUF; name it .gguf", dst);
    if (!dst && !o->dry_run && !o->print_recipe)
        return lm_err_set(e, LM_USAGE, "the destination is missing");
    return make_mix(x, o, e);
}

/* ---- running */

static int print_recipe(const struct lm_plan *p, struct lm_err *e)
{
    char *text = lm_recipe_of(p);

    if (!text)
        return lm_err_set(e, LM_NOMEM, "out of memory");
    fputs(text, stdout);
    free(text);
    return 0;
}

static void say_importance(const struct lm_importance *i)
{
    for (size_t k = 0; i && k < i->n_files; k++)
        printf("importance    %s, SHA-256 %.16s...\n", cli_safe(lm_span_str(i->files[k].path)), i->files[k].sha256);
    if (i)
        printf("              %zu matrices, %u chunks\n", lm_imatrix_count(i->matrix), lm_imatrix_chunks(i->matrix));
}

static int execute(struct lm_plan *p, struct account_run *r, const struct options *o, const char *src, struct lm_err *e)
{
    if (o->print_recipe)
        return print_recipe(p, e);
    if (!o->json) {
        account_print_notes(p);
        say_importance(p->req.mix->importance);
        account_print_types(p);
        if (quantize_flight(p, r, e))
            return -1;
    }
    if ((o->strict && quantize_strict(p, e)) || account_run(p, r, e))
        return -1;
    account_report(p, r, src, o->account, o->json);
    if (o->errors && !r->dry && !o->json && !p->unfinished)
        quantize_errors_print(p);
    return o->report && !r->dry && !p->unfinished ? quantize_errors_write(p, src, o->report, e) : 0;
}

static int run(const struct options *o, const char *src, const char *dst, struct lm_err *e)
{
    struct account_run r = {.label = "quantizing", .dst = dst, .force = o->force, .dry = o->dry_run,
                            .n_threads = o->threads, .max_ram = o->max_ram, .measure = o->errors || o->report};
    struct parts x = {0};
    struct lm_model *m = NULL;
    struct lm_plan *p = NULL;
    struct lm_request req;
    int rc = -1;

    if (account_durable(&r, o->resume, o->part, o->commit, e) == 0 &&
        lm_engine_quantizer(&r.quantizer, &r.quantizer_ordinal, o->device, e) == 0 && make_request(&req, &x, o, dst, e) == 0 &&
        lm_model_open(&m, src, e) == 0 && lm_plan_make(&p, m, &req, e) == 0)
        rc = execute(p, &r, o, src, e);
    lm_plan_free(p);
    lm_model_close(m);
    lm_importance_free(x.importance);
    lm_recipe_free(x.recipe);
    return rc;
}

/* ---- several types at once */

enum { MAX_TYPES = 16 };
struct several { struct options o[MAX_TYPES]; struct parts x[MAX_TYPES]; struct lm_plan *p[MAX_TYPES]; char *types, *dst[MAX_TYPES]; size_t n; };

/* DIR/NAME-TYPE.gguf, NAME being the source's last part. */
static char *name_output(const char *dir, const char *src, const struct lm_ftype *type)
{
    size_t n = strlen(src), k;
    const char *dot;
    char *path = NULL;

    while (n > 1 && src[n - 1] == '/')
        n--;
    for (k = n; k > 0 && src[k - 1] != '/'; k--)
        ;
    dot = memrchr(src + k, '.', n - k);
    if (dot && (strcmp(dot, ".gguf") == 0 || strcmp(dot, ".safetensors") == 0))
        n = (size_t)(dot - src);
    return asprintf(&path, "%s%s%.*s-%s.gguf", dir, dir[strlen(dir) - 1] == '/' ? "" : "/", (int)(n - k), src + k, type->name) < 0
               ? NULL : path;
}

static int plan_one(struct several *s, const struct options *o, struct lm_model *m, const char *type, const char *src,
                    const char *dir, struct lm_err *e)
{
    struct lm_request req;
    size_t k = s->n;

    if (k == MAX_TYPES)
        return lm_err_set(e, LM_USAGE, "--type: at most %d types at once", MAX_TYPES);
    s->n++;
    s->o[k] = *o;
    s->o[k].type = type;
    if (make_request(&req, &s->x[k], &s->o[k], dir, e) || lm_plan_make(&s->p[k], m, &req, e))
        return -1;
    s->dst[k] = name_output(dir, src, req.ftype);
    return s->dst[k] ? 0 : lm_err_set(e, LM_NOMEM, "out of memory");
}

static int execute_all(struct several *s, struct account_run *r, const struct options *o, const char *src, struct lm_err *e)
{
    const char *dsts[MAX_TYPES];

    for (size_t i = 0; i < s->n; i++) {
        dsts[i] = r->dst = s->dst[i];
        if (!o->json)
            printf("%s%s\n", i ? "\n" : "", cli_safe(lm_span_str(dsts[i])));
        if (!o->json)
            account_print_types(s->p[i]);
        if (o->strict && quantize_strict(s->p[i], e))
            return -1;
    }
    if (account_run_all(s->p, dsts, s->n, r, e))
        return -1;
    for (size_t i = 0; i < s->n; i++) {
        r->dst = dsts[i];
        if (!o->json)
            printf("\n");
        account_report(s->p[i], r, src, o->account, o->json);
        if (o->errors && !r->dry && !o->json && !s->p[i]->unfinished)
            quantize_errors_print(s->p[i]);
    }
    return 0;
}

static int run_several(const struct options *o, const char *src, const char *dir, struct lm_err *e)
{
    struct account_run r = {.label = "quantizing", .force = o->force, .dry = o->dry_run, .n_threads = o->threads,
                            .max_ram = o->max_ram, .measure = o->errors};
    struct several *s = calloc(1, sizeof *s);
    struct lm_model *m = NULL;
    int rc = s && (s->types = strdup(o->type)) ? 0 : lm_err_set(e, LM_NOMEM, "out of memory");

    if (rc == 0 && (!dir || !*dir || o->report || o->print_recipe))
        rc = lm_err_set(e, LM_USAGE, "several types need a folder for DST, and are not for --report and --print-recipe");
    if (rc == 0)
        rc = account_durable(&r, o->resume, o->part, o->commit, e) ||
             lm_engine_quantizer(&r.quantizer, &r.quantizer_ordinal, o->device, e) || lm_model_open(&m, src, e) ? -1 : 0;
    bool made = rc == 0 && !o->dry_run && mkdir(dir, 0777) == 0;
    char *rest = NULL, *type = rc == 0 ? strtok_r(s->types, ",", &rest) : NULL;
    for (; rc == 0 && type; type = strtok_r(NULL, ",", &rest))
        rc = plan_one(s, o, m, type, src, dir, e);
    if (rc == 0)
        rc = execute_all(s, &r, o, src, e);
    for (size_t i = 0; s && i < s->n; i++) {
        lm_plan_free(s->p[i]);
        lm_importance_free(s->x[i].importance);
        lm_recipe_free(s->x[i].recipe);
        free(s->dst[i]);
    }
    lm_model_close(m);
    if (rc && made)
        rmdir(dir); /* unless something is kept in it */
    if (s)
        free(s->types);
    free(s);
    return rc;
}

/* ---- the same again? */

static int compare_again(const struct options *o, const char *src, const struct lm_model *made, struct lm_recorded *rec,
                         struct lm_err *e)
{
    struct cli_progress bar;
    struct lm_run_options how = {.n_threads = o->threads, .max_ram = o->max_ram, .stop = &cli_stop,
                                 .progress = cli_progress, .user = &bar};
    struct lm_importance *importance = NULL;
    struct lm_model *m = NULL;
    struct lm_plan *p = NULL;
    int rc = lm_engine_quantizer(&how.quantizer, &how.quantizer_ordinal, o->device, e);

    if (rc == 0 && o->imatrix.n > 0)
        rc = lm_importance_read(&importance, o->imatrix.items, o->imatrix.n, e);
    rec->mix.importance = importance;
    if (rc == 0)
        rc = lm_model_open(&m, src, e) || lm_plan_make(&p, m, &rec->req, e) ? -1 : 0;
    if (rc == 0) {
        cli_catch_signals();
        cli_progress_begin(&bar, "comparing");
        rc = lm_plan_compare(p, made, &how, e);
        cli_progress_end(&bar);
    }
    lm_plan_free(p);
    lm_model_close(m);
    lm_importance_free(importance);
    return rc;
}

/* 0 the same, 1 not, -1 it could not be done. */
static int reproduce(const struct options *o, const char *src, struct lm_err *e)
{
    struct lm_recorded *rec = NULL;
    struct lm_model *made = NULL;
    int rc = lm_model_open(&made, o->reproduce, e) || lm_recorded_read(&rec, made, e) ? -1 : 0;

    if (rc == 0)
        rc = compare_again(o, src, made, rec, e);
    if (rc == 0)
        printf("%s: the same bytes come out of %s with --type %s\n", cli_safe(lm_span_str(o->reproduce)),
               cli_safe(lm_span_str(src)), rec->type);
    lm_recorded_free(rec);
    lm_model_close(made);
    return rc;
}

static int choose(const struct options *o, const char *src, const char *dst, struct lm_err *e)
{
    if (o->reproduce)
        return reproduce(o, src, e);
    return o->type && strchr(o->type, ',') ? run_several(o, src, dst, e) : run(o, src, dst, e);
}

int main(int argc, char **argv)
{
    struct options o = {.device = "cpu"};
    struct lm_err e = {0};
    int n = cli_parse(&cmd, argc, argv, &o);

    signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error like a full disk */
    int rc = choose(&o, argv[1], n > 1 ? argv[2] : NULL, &e), code = rc ? cli_fail(&e) : CLI_OK;
    code = rc == 1 ? CLI_DIFFERENT : code;
    free(o.imatrix.items);
    free(o.tensor_types.items);
    free(o.recipes.items);
    return cli_finish(code);
}
