/* Where tensors lie, what they are called, and what lies beside them. */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "convert/audit_parts.h"

/* ---- GGUF */

static uint64_t alignment_of(const struct lm_audit *a)
{
    const struct lm_meta_value *v = lm_meta_get(lm_model_meta(a->m), "general.alignment");

    return v && v->type == LM_META_U32 && v->u ? v->u : 32;
}

/* In the order of the header, each begins where the one before ends. */
static void check_gaps(struct lm_audit *a, size_t file)
{
    uint64_t expected = 0, alignment = alignment_of(a), end = 0, size = lm_model_file(a->m, file)->map.size;
    bool first = true, gap = false;

    for (size_t i = 0; i < a->n_tensors; i++) {
        const struct lm_tensor *t = a->tensors[i].t;
        if (t->file != file)
            continue;
        if (!first && t->offset != expected && !gap) {
            lmc_found(a, LM_RULE_gguf_gap, t->name, "it begins at byte %llu, expected at %llu",
                      (unsigned long long)t->offset, (unsigned long long)expected);
            gap = true;
        }
        first = false;
        end = t->offset + t->n_bytes > end ? t->offset + t->n_bytes : end;
        if (!lm_align_up_u64(t->offset + t->n_bytes, alignment, &expected))
            return;
    }
    if (!first && lm_align_up_u64(end, alignment, &end) && size > end)
        lmc_found(a, LM_RULE_gguf_trailing, lm_model_file(a->m, file)->path, "%llu bytes follow the last tensor",
                  (unsigned long long)(size - end));
}

static void check_version(struct lm_audit *a, size_t file)
{
    const struct lm_model_file *f = lm_model_file(a->m, file);
    uint32_t v = f->map.size >= 8 ? lm_load_u32le(f->map.data + 4) : 3;

    if (v != 0 && (v & 0xffff) == 0) {
        v = __builtin_bswap32(v);
        lmc_found(a, LM_RULE_gguf_big_endian, f->path, "its numbers are big-endian");
    }
    if (v < 3)
        lmc_found(a, LM_RULE_gguf_old, f->path, "it is version %u, the current one is 3", v);
}

/* ---- names and types */

static bool has_control(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return true;
    return false;
}

static void check_name(struct lm_audit *a, const struct lm_audit_tensor *t)
{
    if (has_control(t->t->name))
        lmc_found(a, LM_RULE_name_control, t->t->name, "the tensor's name holds a control character");
    if (strlen(t->name) >= 64)
        lmc_found(a, LM_RULE_name_long, t->t->name, "%zu bytes", strlen(t->name));
    if (t->t->n_dims > 4)
        lmc_found(a, LM_RULE_tensor_many_dims, t->t->name, "%u dimensions", t->t->n_dims);
    if (t->t->n_elems == 0)
        lmc_found(a, LM_RULE_tensor_no_elements, t->t->name, "one of its dimensions is 0");
    if (t->t->dtype == LM_F64)
        lmc_found(a, LM_RULE_type_f64, t->t->name, "%llu bytes", (unsigned long long)t->t->n_bytes);
}

static void check_keys(struct lm_audit *a)
{
    const struct lm_meta *m = lm_model_meta(a->m);
    const char *key;

    for (size_t i = 0; i < lm_meta_count(m); i++) {
        lm_meta_at(m, i, &key);
        if (has_control(key))
            lmc_found(a, LM_RULE_name_control, key, "the metadata key holds a control character");
    }
}

/* ---- beside the files */

static bool is_pickle_name(const char *name)
{
    static const char *const suffixes[] = {".pt", ".pth", ".ckpt", ".pkl", ".pickle", NULL};

    for (size_t i = 0; suffixes[i]; i++)
        if (lmc_has_suffix(name, suffixes[i]))
            return true;
    return strncmp(name, "pytorch_model", 13) == 0 && lmc_has_suffix(name, ".bin");
}

static char *folder_of(const struct lm_audit *a)
{
    const char *path = lm_model_file(a->m, 0)->path, *base = lmc_base_name(path);

    return base == path ? strdup(".") : strndup(path, (size_t)(base - path));
}

static bool is_own_file(const struct lm_audit *a, const char *name)
{
    for (size_t i = 0; i < lm_model_n_files(a->m); i++)
        if (strcmp(lmc_base_name(lm_model_file(a->m, i)->path), name) == 0)
            return true;
    return false;
}

static int ordinary(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

static void check_folder(struct lm_audit *a)
{
    char *dir = folder_of(a);
    struct dirent **list = NULL;
    int n = dir ? scandir(dir, &list, ordinary, alphasort) : 0;

    for (int i = 0; i < n; i++) {
        const char *name = list[i]->d_name;
        if (is_own_file(a, name))
            ;
        else if (strncmp(name, "consolidated", 12) == 0 && !lmc_has_suffix(name, ".json"))
            lmc_found(a, LM_RULE_consolidated_beside, name, "beside %s", lmc_base_name(lm_model_file(a->m, 0)->path));
        else if (is_pickle_name(name))
            lmc_found(a, LM_RULE_pickle_beside, name, "beside %s", lmc_base_name(lm_model_file(a->m, 0)->path));
        free(list[i]);
    }
    free(list);
    free(dir);
}

/* Elements of a type begin at multiples of their size, seen from the file's beginning. */
static void check_alignment(struct lm_audit *a)
{
    for (size_t i = 0; i < a->n_tensors; i++) {
        const struct lm_tensor *t = a->tensors[i].t;
        size_t width = lm_dtype_info(t->dtype)->block_elems == 1 ? lm_dtype_info(t->dtype)->block_bytes : 1;
        if (t->n_bytes == 0 || t->offset % width == 0)
            continue;
        lmc_found(a, LM_RULE_safetensors_unaligned, t->name, "it begins at byte %llu of %s, its elements have %zu",
                  (unsigned long long)t->offset, lmc_base_name(lm_model_file(a->m, t->file)->path), width);
        return;
    }
}

static void check_index(struct lm_audit *a)
{
    json_t *root = lmc_audit_json(a, "model.safetensors.index.json");
    const json_t *total = json_object_get(json_object_get(root, "metadata"), "total_size");

    if (json_is_integer(total) && (uint64_t)json_integer_value(total) != a->n_bytes && lm_model_n_files(a->m) > 1)
        lmc_found(a, LM_RULE_index_size, "model.safetensors.index.json", "total_size is %lld, the tensors have %llu bytes",
                  (long long)json_integer_value(total), (unsigned long long)a->n_bytes);
    json_decref(root);
}

void lmc_audit_places(struct lm_audit *a)
{
    bool gguf = lmc_audit_is_gguf(a);

    for (size_t i = 0; i < a->n_tensors; i++)
        check_name(a, &a->tensors[i]);
    check_keys(a);
    for (size_t f = 0; gguf && f < lm_model_n_files(a->m); f++) {
        check_version(a, f);
        check_gaps(a, f);
    }
    if (strcmp(lm_model_format(a->m)->name, "safetensors") != 0)
        return;
    if (!lm_meta_get(lm_model_meta(a->m), "format"))
        lmc_found(a, LM_RULE_format_key, lmc_base_name(lm_model_file(a->m, 0)->path), "__metadata__ has no \"format\"");
    check_alignment(a);
    check_folder(a);
    check_index(a);
}
