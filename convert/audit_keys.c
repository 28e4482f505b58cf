/* GGUF metadata: names, types, provenance. */
#include <ctype.h>

#include "convert/audit_parts.h"

static bool is_hex(struct lm_span s)
{
    for (size_t i = 0; i < s.size; i++)
        if (!isxdigit(s.data[i]))
            return false;
    return s.size >= 32;
}

bool lmc_audit_is_junk(struct lm_span name)
{
    static const char *const junk[] = {"", ".", "model", "models", "snapshots", "output", "tmp", NULL};

    for (size_t i = 0; junk[i]; i++)
        if (lm_span_eq(name, lm_span_str(junk[i])))
            return true;
    return is_hex(name);
}

static void check_name(struct lm_audit *a)
{
    const struct lm_meta_value *v = lm_meta_get(lm_model_meta(a->m), "general.name");

    if (!v || v->type != LM_META_STR || lmc_audit_is_junk(v->str))
        lmc_found(a, LM_RULE_name_junk, "general.name", "it is '%.*s'", v && v->type == LM_META_STR ? (int)v->str.size : 0,
                  v && v->type == LM_META_STR ? (const char *)v->str.data : "");
}

/* The type of most parameters in matrices. */
static enum lm_dtype most_type(const struct lm_audit *a)
{
    uint64_t n[LM_N_DTYPES] = {0};
    int best = LM_F32;

    for (size_t i = 0; i < a->n_tensors; i++)
        n[a->tensors[i].t->dtype] += a->tensors[i].t->n_dims > 1 ? a->tensors[i].t->n_elems : 0;
    for (int d = 0; d < LM_N_DTYPES; d++)
        best = n[d] > n[best] ? d : best;
    return (enum lm_dtype)best;
}

/* The first file type whose base this is; mixes have several. */
int lmc_audit_file_type(const struct lm_audit *a)
{
    enum lm_dtype d = most_type(a);

    for (size_t i = 0; lm_ftype_at(i); i++)
        if (lm_ftype_at(i)->base == d)
            return (int)lm_ftype_at(i)->id;
    return -1;
}

static const struct lm_ftype *ftype_of_id(uint64_t id)
{
    for (size_t i = 0; lm_ftype_at(i); i++)
        if (lm_ftype_at(i)->id == id)
            return lm_ftype_at(i);
    return NULL;
}

static void check_file_type(struct lm_audit *a)
{
    const struct lm_meta_value *v = lm_meta_get(lm_model_meta(a->m), "general.file_type");
    enum lm_dtype d = most_type(a);
    const struct lm_ftype *f = v && v->type == LM_META_U32 ? ftype_of_id(v->u & 1023) : NULL;

    if (f && f->base != d && lmc_audit_file_type(a) >= 0)
        lmc_found(a, LM_RULE_file_type_wrong, "general.file_type", "it says %s, most weights are %s", f->name,
                  lm_dtype_name(d));
}

static bool is_quantized(const struct lm_audit *a)
{
    return lm_dtype_info(most_type(a))->kind == LM_KIND_QUANT;
}

static bool has_prefix_key(const struct lm_audit *a, const char *prefix)
{
    const struct lm_meta *m = lm_model_meta(a->m);
    const char *key;

    for (size_t i = 0; i < lm_meta_count(m); i++) {
        lm_meta_at(m, i, &key);
        if (strncmp(key, prefix, strlen(prefix)) == 0)
            return true;
    }
    return false;
}

static void check_quantized(struct lm_audit *a)
{
    static const char *const sources[] = {"general.source.", "general.base_model.", "quantize.imatrix.",
                                          "libmodel.source.", "libmodel.recipe.source.", NULL};

    if (!lm_meta_get(lm_model_meta(a->m), "general.quantization_version"))
        lmc_found(a, LM_RULE_quantization_version, "general.quantization_version", "the key is missing");
    for (size_t i = 0; sources[i]; i++)
        if (has_prefix_key(a, sources[i]))
            return;
    lmc_found(a, LM_RULE_provenance_missing, "metadata", "no key names a source, a base model or an importance matrix");
}

/* Parameters in rows that are not whole blocks of 256. */
static void check_rows(struct lm_audit *a)
{
    uint64_t n = 0;
    size_t tensors = 0;

    for (size_t i = 0; i < a->n_tensors; i++) {
        const struct lm_tensor *t = a->tensors[i].t;
        if (t->n_dims < 2 || t->shape[t->n_dims - 1] % 256 == 0 || a->tensors[i].shared || a->canons->of[i].derived)
            continue;
        n += t->n_elems;
        tensors++;
    }
    if (n > 0 && !is_quantized(a))
        lmc_found(a, LM_RULE_rows_not_whole, a->path, "%zu matrices with %.1f %% of the parameters", tensors,
                  100.0 * (double)n / (double)(a->n_params ? a->n_params : 1));
}

void lmc_audit_keys(struct lm_audit *a)
{
    check_rows(a);
    if (!lmc_audit_is_gguf(a))
        return;
    check_name(a);
    check_file_type(a);
    if (is_quantized(a))
        check_quantized(a);
}
