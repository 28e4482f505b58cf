/* A model's weights rounded to other types, for --truth: quantized as lm-quantize
 * would, into a file that is gone as soon as it is open. */
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "cmd/verify.h"
#include "convert/convert.h"

static const char default_types[] = "Q8_0,Q4_K_M";

static int quantize(struct lm_model *m, const struct lm_ftype *type, const char *path, struct lm_err *e)
{
    struct lm_request req = {.to = lm_format_find("gguf"), .quantize = true, .ftype = type, .dtype = -1,
                             .allow_unknown = true};
    struct lm_run_options o = {.stop = &cli_stop};
    struct lm_plan *p = NULL;
    int r = lm_plan_make(&p, m, &req, e) != 0 || lm_plan_run(p, path, &o, e) != 0 ? -1 : 0;

    lm_plan_free(p);
    return r;
}

static int open_rounded(struct lm_model **out, struct lm_model *m, const struct lm_ftype *type, struct lm_err *e)
{
    const char *tmp = getenv("TMPDIR");
    char folder[PATH_MAX - 32], path[PATH_MAX];

    snprintf(folder, sizeof folder, "%s/lm-verify.XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(folder))
        return lm_err_errno(e, "cannot make %s", folder);
    snprintf(path, sizeof path, "%s/rounded.gguf", folder);
    int r = quantize(m, type, path, e) != 0 || lm_model_open(out, path, e) != 0 ? -1 : 0;
    unlink(path);
    rmdir(folder);
    return r != 0 ? lm_err_prefix(e, "weights as %s", type->name) : 0;
}

/* Is most of it quantized already? Then it is a row of that kind itself. */
static bool is_quantized(const struct lm_model *m)
{
    uint64_t all = 0, quantized = 0;

    for (size_t i = 0; i < lm_model_n_tensors(m); i++) {
        const struct lm_tensor *t = lm_model_tensor(m, i);
        all += t->n_elems;
        quantized += lm_dtype_info(t->dtype)->kind == LM_KIND_QUANT ? t->n_elems : 0;
    }
    return quantized > all / 2;
}

int verify_round(struct verify *v, struct lm_model **out, const char **names, size_t *n, struct lm_err *e)
{
    const char *p = v->o.as ? v->o.as : v->b.model || is_quantized(v->a.model) ? "" : default_types;

    while (*p && strcmp(p, "none") != 0) {
        char name[32];
        size_t len = strcspn(p, ",");
        snprintf(name, sizeof name, "%.*s", (int)(len < 31 ? len : 31), p);
        const struct lm_ftype *type = lm_ftype_find(name);
        if (!type)
            return lm_err_set(e, LM_USAGE, "no type is called %s; lm-quantize --help lists them", name);
        if (*n == VERIFY_MOST_TYPES)
            return lm_err_set(e, LM_USAGE, "--as takes %d types at most", VERIFY_MOST_TYPES);
        if (open_rounded(&out[*n], v->a.model, type, e) == 0)
            names[(*n)++] = type->name;
        else if (v->o.as || e->code == LM_INTERRUPTED)
            return -1;
        else
            cli_note("%s: note: %s; left out", cli_name(), e->text);
        p += len + (p[len] == ',');
    }
    return 0;
}
