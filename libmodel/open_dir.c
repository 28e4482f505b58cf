/* A folder as a model: which of its files is meant. What is not certain is an
 * error that names the candidates. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/fmt/fmt.h"

struct listing {
    struct lm_arena arena;
    char **names; /* sorted, without dot files */
    size_t n, capacity;
};

static void listing_free(struct listing *l)
{
    lm_arena_free(&l->arena);
    free(l->names);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int listing_add(struct listing *l, const char *name, struct lm_err *e)
{
    if (l->n == l->capacity) {
        size_t capacity = l->capacity ? l->capacity * 2 : 32;
        char **bigger = reallocarray(l->names, capacity, sizeof *bigger);
        if (!bigger)
            return lmi_nomem(e);
        l->names = bigger;
        l->capacity = capacity;
    }
    l->names[l->n] = lm_arena_str(&l->arena, lm_span_str(name));
    return l->names[l->n++] ? 0 : lmi_nomem(e);
}

static int listing_read(struct listing *l, const char *dir, struct lm_err *e)
{
    DIR *d = opendir(dir);
    int rc = 0;

    if (!d)
        return lm_err_errno(e, "%s: cannot read the folder", dir);
    for (struct dirent *entry; rc == 0 && (entry = readdir(d));)
        if (entry->d_name[0] != '.')
            rc = listing_add(l, entry->d_name, e);
    closedir(d);
    if (l->n)
        qsort(l->names, l->n, sizeof *l->names, by_name);
    return rc;
}

/* ---- kinds of names */

/* Mistral repositories hold the same weights twice, once under this name with
 * other tensor names and another order of rows: never part of a HF model. */
static bool is_consolidated(const char *name)
{
    return strncmp(name, "consolidated", 12) == 0;
}

/* PyTorch's own names; others (training_args.bin, optimizer.pt) are not weights. */
static bool is_torch(const char *name)
{
    if (strncmp(name, "pytorch_model", 13) == 0)
        return lmi_has_suffix(name, ".bin") || lmi_has_suffix(name, ".bin.index.json");
    return strcmp(name, "model.pt") == 0 || strcmp(name, "model.pth") == 0;
}

static bool is_index(const char *name)
{
    return lmi_has_suffix(name, ".safetensors.index.json") && !is_consolidated(name);
}

static bool is_safetensors(const char *name)
{
    return lmi_has_suffix(name, ".safetensors") && !is_consolidated(name);
}

/* Stands for a GGUF model: a single file, or the first present part of a set. */
static bool is_gguf(const char *name)
{
    return lmi_has_suffix(name, ".gguf");
}

static bool is_npz(const char *name)
{
    return lmi_has_suffix(name, ".npz");
}

/* HDF5 in its forms, an archive of Keras or what names the shards. */
static bool is_h5(const char *name)
{
    return lmi_has_suffix(name, ".h5") || lmi_has_suffix(name, ".hdf5") || lmi_has_suffix(name, ".keras") ||
           lmi_has_suffix(name, ".h5.index.json") || strcmp(name, "model.weights.json") == 0;
}

static bool same_split_set(const char *a, const char *b)
{
    size_t n_a, n_b;
    unsigned no, count_a, count_b;

    return lmi_gguf_split_name(a, &n_a, &no, &count_a) && lmi_gguf_split_name(b, &n_b, &no, &count_b) && n_a == n_b &&
           count_a == count_b && memcmp(a, b, n_a) == 0;
}

/* The names that a test accepts, parts of one GGUF set once. */
static int matching(struct listing *out, const struct listing *all, bool (*test)(const char *), struct lm_err *e)
{
    for (size_t i = 0; i < all->n; i++) {
        if (!test(all->names[i]) || (out->n && same_split_set(out->names[out->n - 1], all->names[i])))
            continue;
        if (listing_add(out, all->names[i], e) < 0)
            return -1;
    }
    return 0;
}

static bool holds(const struct listing *l, const char *name)
{
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->names[i], name) == 0)
            return true;
    return false;
}

static bool any_consolidated(const struct listing *l)
{
    for (size_t i = 0; i < l->n; i++)
        if (is_consolidated(l->names[i]))
            return true;
    return false;
}

/* Of PyTorch's files: the index, or the only one. */
static const char *torch_file(const struct listing *l)
{
    static const char index[] = "pytorch_model.bin.index.json", one[] = "pytorch_model.bin";

    if (holds(l, index) || holds(l, one))
        return holds(l, index) ? index : one;
    return l->n == 1 ? l->names[0] : NULL;
}

/* Of those: what names all shards, a usual name, or the only one. A preset of
 * Keras has a head's weights beside the model's. */
static const char *h5_file(const struct listing *l)
{
    static const char *const usual[] = {"tf_model.h5.index.json", "tf_model.h5", "model.h5.index.json", "model.weights.json",
                                        "model.weights.h5", "model.h5"};

    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++)
        if (holds(l, usual[i]))
            return usual[i];
    return l->n == 1 ? l->names[0] : NULL;
}

/* "a, b, c and 4 more" */
static const char *enumerate(const struct listing *l, char *buf, size_t size)
{
    enum { SHOWN = 8 };
    size_t n = 0;

    buf[0] = 0;
    for (size_t i = 0; i < l->n && i < SHOWN && n < size; i++)
        n += (size_t)snprintf(buf + n, size - n, "%s%.80s", i ? ", " : "", l->names[i]);
    if (l->n > SHOWN && n < size)
        snprintf(buf + n, size - n, " and %zu more", l->n - SHOWN);
    return buf;
}

/* ---- the choice */

static int read_one(struct lm_model *m, const char *name, struct lm_err *e)
{
    char *path = lmi_beside(&m->arena, m->sidecar_dir, name);

    return path ? lmi_model_read_file(m, path, e) : lmi_nomem(e);
}

static bool has_file(const struct lm_model *m, const char *name)
{
    for (size_t i = 0; i < m->n_files; i++)
        if (strcmp(lmi_base_name(m->files[i].path), name) == 0)
            return true;
    return false;
}

static int read_index(struct lm_model *m, const char *name, const struct listing *all, struct lm_err *e)
{
    if (read_one(m, name, e) < 0)
        return -1;
    /* A leftover of another download or of a merge: which of them is the model? */
    if (holds(all, "model.safetensors") && !has_file(m, "model.safetensors"))
        return lm_err_set(e, LM_USAGE, "%s: the folder holds two models, %s (a sharded one) and model.safetensors; "
                          "give the path of the one you mean", m->path, name);
    return 0;
}

static int ambiguous(const struct lm_model *m, const char *what, const struct listing *l, struct lm_err *e)
{
    char names[800];

    return lm_err_set(e, LM_USAGE, "%.300s: the folder holds several %s (%s); give the path of the one you mean",
                      m->path, what, enumerate(l, names, sizeof names));
}

static int no_index(const struct lm_model *m, const struct listing *l, struct lm_err *e)
{
    char names[800];

    return lm_err_set(e, LM_USAGE, "%.300s: several safetensors files (%s) and no *.safetensors.index.json that says "
                      "they are one model; add the index or give the path of one file", m->path,
                      enumerate(l, names, sizeof names));
}

static int no_torch_index(const struct lm_model *m, const struct listing *l, struct lm_err *e)
{
    char names[800];

    return lm_err_set(e, LM_USAGE, "%.300s: several PyTorch files (%s) and no pytorch_model.bin.index.json that says they "
                      "are one model; add the index or give the path of one file", m->path,
                      enumerate(l, names, sizeof names));
}

static int nothing(const struct lm_model *m, const struct listing *all, struct lm_err *e)
{
    char names[800];

    if (all->n == 0)
        return lm_err_set(e, LM_MISSING, "%s: the folder is empty", m->path);
    return lm_err_set(e, LM_MISSING, "%.300s: no model here (looked for model.safetensors, an index.json, one "
                      "*.safetensors, pytorch_model.bin, one *.gguf, *.npz or *.h5); found %s", m->path, enumerate(all, names, sizeof names));
}

/* Kinds of files that may be the model. */
enum { N_KINDS = 6 };

static int choose(struct lm_model *m, const struct listing *all, struct listing found[N_KINDS], struct lm_err *e)
{
    struct listing *indexes = &found[0], *tensors = &found[1], *ggufs = &found[2], *torches = &found[3],
                   *npzs = &found[4], *h5s = &found[5];

    if (matching(indexes, all, is_index, e) < 0 || matching(tensors, all, is_safetensors, e) < 0 ||
        matching(ggufs, all, is_gguf, e) < 0 || matching(torches, all, is_torch, e) < 0 ||
        matching(npzs, all, is_npz, e) < 0 || matching(h5s, all, is_h5, e) < 0)
        return -1;
    if (holds(indexes, "model.safetensors.index.json"))
        return read_index(m, "model.safetensors.index.json", all, e);
    if (holds(tensors, "model.safetensors"))
        return read_one(m, "model.safetensors", e);
    if (indexes->n == 1)
        return read_index(m, indexes->names[0], all, e);
    if (indexes->n > 1)
        return ambiguous(m, "index files", indexes, e);
    if (tensors->n == 1)
        return read_one(m, tensors->names[0], e);
    if (tensors->n > 1)
        return no_index(m, tensors, e);
    if (holds(all, "params.json") && any_consolidated(all))
        return read_one(m, "params.json", e);
    if (torches->n)
        return torch_file(torches) ? read_one(m, torch_file(torches), e) : no_torch_index(m, torches, e);
    if (ggufs->n == 1)
        return read_one(m, ggufs->names[0], e);
    if (ggufs->n > 1)
        return ambiguous(m, "GGUF models", ggufs, e);
    if (h5s->n && h5_file(h5s)) /* arrays beside a model are rarely the model */
        return read_one(m, h5_file(h5s), e);
    if (npzs->n == 1)
        return read_one(m, npzs->names[0], e);
    if (npzs->n > 1)
        return ambiguous(m, ".npz files", npzs, e);
    if (h5s->n)
        return ambiguous(m, "HDF5 files", h5s, e);
    return nothing(m, all, e);
}

int lmi_model_read_dir(struct lm_model *m, const char *dir, struct lm_err *e)
{
    struct listing all = {0}, found[N_KINDS];
    size_t n = strlen(dir);
    char *prefix = lm_arena_alloc(&m->arena, n + 2);

    if (!prefix)
        return lmi_nomem(e);
    memset(found, 0, sizeof found);
    memcpy(prefix, dir, n);
    prefix[n] = '/';
    m->sidecar_dir = prefix;
    int rc = listing_read(&all, dir, e);
    if (rc == 0)
        rc = choose(m, &all, found, e);
    for (int i = 0; i < N_KINDS; i++)
        listing_free(&found[i]);
    listing_free(&all);
    return rc;
}
