/* The index of a sharded model, safetensors or PyTorch:
 *
 *   {"metadata": {"total_size": n, …}, "weight_map": {TENSOR: FILE, …}}
 *
 * FILE is a plain name in the index's own folder: anything with a slash could
 * read other files and copy them into what we publish. (The file itself may be
 * a symbolic link: the Hugging Face cache is made of those.) The map must name
 * exactly the tensors that the files hold. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "libmodel/fmt/shards.h"
#include "libmodel/parse/pull.h"

enum lmi_index_kind lmi_index_kind(struct lm_span f, const char *path)
{
    if (!lmi_has_suffix(path, ".index.json") || f.size == 0 || f.data[0] != '{' ||
        !memmem(f.data, f.size, "\"weight_map\"", 12))
        return LMI_INDEX_NONE;
    if (memmem(f.data, f.size, ".h5\"", 4) && !memmem(f.data, f.size, ".safetensors\"", 13))
        return LMI_INDEX_HDF5;
    bool torch = memmem(f.data, f.size, ".bin\"", 5) || memmem(f.data, f.size, ".pth\"", 5) ||
                 memmem(f.data, f.size, ".pt\"", 4);
    return torch && !memmem(f.data, f.size, ".safetensors\"", 13) ? LMI_INDEX_TORCH : LMI_INDEX_SAFETENSORS;
}

struct weight {
    struct lm_span tensor;
    size_t shard;
};

struct index {
    struct lm_arena arena;
    struct weight *weights;
    size_t n_weights, weights_capacity;
    char **shards; /* their names */
    size_t n_shards, shards_capacity;
    struct lm_map *by_shard;
};

static void index_free(struct index *x)
{
    lm_map_free(x->by_shard);
    free(x->weights);
    free(x->shards);
    lm_arena_free(&x->arena);
}

bool lmi_is_plain_name(struct lm_span s)
{
    if (s.size == 0 || s.size > 255 || s.data[0] == '.')
        return false;
    for (size_t i = 0; i < s.size; i++)
        if (s.data[i] == '/' || s.data[i] == '\\' || s.data[i] == ':' || s.data[i] < 0x20)
            return false;
    return true;
}

/* The shard's place in the list, SIZE_MAX when out of memory. */
static size_t shard_of(struct index *x, struct lm_span name)
{
    size_t i = lm_map_get(x->by_shard, name);

    if (i != SIZE_MAX)
        return i;
    if (x->n_shards == x->shards_capacity) {
        size_t capacity = x->shards_capacity ? x->shards_capacity * 2 : 16;
        char **bigger = reallocarray(x->shards, capacity, sizeof *bigger);
        if (!bigger)
            return SIZE_MAX;
        x->shards = bigger;
        x->shards_capacity = capacity;
    }
    char *own = lm_arena_str(&x->arena, name);
    if (!own || lm_map_put(x->by_shard, lm_span_str(own), x->n_shards) < 0)
        return SIZE_MAX;
    x->shards[x->n_shards] = own;
    return x->n_shards++;
}

static int add_weight(struct index *x, struct lm_span tensor, struct lm_span file, struct lm_err *e)
{
    if (!lmi_is_plain_name(file))
        return lm_err_set(e, LM_MALFORMED, "tensor '%.*s' is said to be in '%.*s', which is not a plain file name; "
                          "only files of the same folder are read", LMI_SHOW(tensor), LMI_SHOW(file));
    if (x->n_weights == x->weights_capacity) {
        size_t capacity = x->weights_capacity ? x->weights_capacity * 2 : 256;
        struct weight *bigger = reallocarray(x->weights, capacity, sizeof *bigger);
        if (!bigger)
            return lmi_nomem(e);
        x->weights = bigger;
        x->weights_capacity = capacity;
    }
    size_t shard = shard_of(x, file);
    if (shard == SIZE_MAX)
        return lmi_nomem(e);
    x->weights[x->n_weights++] = (struct weight){tensor, shard};
    return 0;
}

static int read_weight_map(struct index *x, struct lmi_pull *p)
{
    struct lm_span tensor, file;
    size_t n = 0;
    int rc;

    while ((rc = lmi_pull_member(p, &n, &tensor)) == 1)
        if (lmi_pull_string(p, &file) < 0 || add_weight(x, tensor, file, p->e) < 0)
            return -1;
    return rc;
}

static int parse(struct index *x, struct lm_span text, struct lm_err *e)
{
    struct lmi_pull p;
    struct lm_span key;
    bool seen = false;
    size_t n = 0;
    int rc = lmi_pull_begin(&p, text, &x->arena, e);

    while (rc == 0 && (rc = lmi_pull_member(&p, &n, &key)) == 1) {
        bool map = lm_span_eq(key, lm_span_str("weight_map"));
        if (map && seen)
            return lmi_pull_fail(&p, "a second weight_map");
        seen |= map;
        rc = map ? read_weight_map(x, &p) : lmi_pull_skip(&p);
    }
    if (rc < 0 || lmi_pull_end(&p) < 0)
        return -1;
    return x->n_weights ? 0 : lm_err_set(e, LM_MALFORMED, "weight_map is missing or empty");
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* One line of the map: the tensor is there, in this shard, and no line before
 * has named it. */
static int check_weight(const struct lm_model *m, const struct index *x, const struct weight *w, bool *seen,
                        struct lm_err *e)
{
    size_t i = lm_map_get(m->by_name, w->tensor);
    const char *said = x->shards[w->shard];

    if (i == SIZE_MAX)
        return lm_err_set(e, LM_MISSING, "tensor '%.*s' is missing: %s does not hold it", LMI_SHOW(w->tensor), said);
    if (seen[i])
        return lm_err_set(e, LM_MALFORMED, "weight_map names tensor '%.*s' twice", LMI_SHOW(w->tensor));
    seen[i] = true;
    const char *found = lmi_base_name(m->files[m->tensors[i].file].path);
    return strcmp(found, said) == 0 ? 0 : lm_err_set(e, LM_MISMATCH, "tensor '%.*s' is in %s, the weight_map says %s",
                                                     LMI_SHOW(w->tensor), found, said);
}

static int check_all(const struct lm_model *m, const struct index *x, struct lm_err *e)
{
    bool *seen = calloc(m->n_tensors + 1, sizeof *seen);
    int rc = seen ? 0 : lmi_nomem(e);

    for (size_t i = 0; rc == 0 && i < x->n_weights; i++)
        rc = check_weight(m, x, &x->weights[i], seen, e);
    for (size_t i = 0; rc == 0 && i < m->n_tensors; i++)
        if (!seen[i])
            rc = lm_err_set(e, LM_MISMATCH, "tensor '%.200s' of %s is not in the weight_map", m->tensors[i].name,
                            lmi_base_name(m->files[m->tensors[i].file].path));
    free(seen);
    return rc;
}

/* A shard may be a Git LFS pointer or a web page: say so instead of "bad header". */
static int check_kind(const char *path, const char *shard, const struct lm_format *wanted, struct lm_err *e)
{
    struct lm_model_file f;

    if (lmi_file_open(&f, path, e) < 0)
        return lm_err_prefix(e, "shard %s", shard);
    const struct lm_format *format = lm_format_probe(f.map, shard, e);
    lmi_file_close(&f);
    if (!format)
        return lm_err_prefix(e, "shard %s", shard);
    if (format != wanted || lmi_has_suffix(shard, ".json"))
        return lm_err_set(e, LM_MALFORMED, "shard %s: not a %s file", shard, wanted->title);
    return 0;
}

int lmi_check_present(char *const *paths, size_t n, const char *of, struct lm_err *e)
{
    enum { SHOWN = 8 };
    struct lmi_buffer names = {0};
    size_t n_missing = 0;

    for (size_t i = 0; i < n; i++) {
        if (access(paths[i], F_OK) == 0 || errno != ENOENT)
            continue;
        if (n_missing++ < SHOWN) {
            lmi_put_str(&names, n_missing > 1 ? ", " : "");
            lmi_put_str(&names, lmi_base_name(paths[i]));
        }
    }
    if (n_missing > SHOWN)
        lmi_put_str(&names, " …");
    int rc = n_missing ? lm_err_set(e, LM_MISSING, "%zu of %zu %s are missing: %.*s", n_missing, n, of,
                                    (int)(names.n < 700 ? names.n : 700), names.n ? (const char *)names.data : "")
                       : 0;
    free(names.data);
    return rc;
}

static int read_shards(struct lm_model *m, const struct index *x, const char *path, const struct lm_format *format,
                       int (*read)(struct lm_model *m, const char *path, struct lm_err *e), struct lm_err *e)
{
    char **names = lm_arena_array(&m->arena, x->n_shards, sizeof *names);

    if (!names)
        return lmi_nomem(e);
    for (size_t i = 0; i < x->n_shards; i++) {
        names[i] = lmi_beside(&m->arena, path, x->shards[i]);
        if (!names[i])
            return lmi_nomem(e);
    }
    qsort(names, x->n_shards, sizeof *names, by_name); /* the folder is the same */
    if (lmi_check_present(names, x->n_shards, "shards", e) < 0)
        return -1;
    for (size_t i = 0; i < x->n_shards; i++)
        if (check_kind(names[i], lmi_base_name(names[i]), format, e) < 0 || read(m, names[i], e) < 0)
            return -1;
    return check_all(m, x, e);
}

int lmi_read_index(struct lm_model *m, const char *path, const struct lm_format *format,
                   int (*read)(struct lm_model *m, const char *path, struct lm_err *e), struct lm_err *e)
{
    struct index x = {.by_shard = lm_map_new(0)};
    struct lm_model_file f;

    if (lmi_file_open(&f, path, e) < 0) {
        index_free(&x);
        return -1;
    }
    int rc = x.by_shard ? parse(&x, f.map, e) : lmi_nomem(e);
    if (rc == 0)
        rc = read_shards(m, &x, path, format, read, e);
    /* A wrong shard names itself; the rest is about the index. */
    if (rc < 0)
        lm_err_prefix(e, "%s", path);
    index_free(&x);
    lmi_file_close(&f);
    return rc;
}
