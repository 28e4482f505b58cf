/* The weight maps of Keras' and TensorFlow's shards:
 *
 *   model.weights.json    {"weight_map": {"/layers/…/vars": FILE or [FILE, …]}}
 *   tf_model.h5.index.json  {"weight_map": {"CLASS/layer/kernel:0": FILE}}
 *
 * Unlike those of lmi_read_index their keys are no names of tensors, and the
 * shards make sense only together. FILE is a plain name of the same folder. */
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/fmt/hdf5.h"
#include "libmodel/fmt/shards.h"
#include "libmodel/parse/pull.h"

struct pair { struct lm_span key; size_t shard; };

struct weight_map {
    struct lm_arena arena;
    struct lm_map *by_shard;
    struct lm_span *shards;
    size_t n_shards, shards_capacity;
    struct pair *pairs;
    size_t n_pairs, pairs_capacity;
};

static void *grow(void *list, size_t n, size_t *capacity, size_t size)
{
    size_t more = *capacity ? 2 * *capacity : 64;

    if (n < *capacity)
        return list;
    void *bigger = reallocarray(list, more, size);
    if (bigger)
        *capacity = more;
    return bigger;
}

static int add_pair(struct weight_map *w, struct lm_span key, struct lm_span file, struct lm_err *e)
{
    if (!lmi_is_plain_name(file))
        return lm_err_set(e, LM_MALFORMED, "'%.*s' is said to be in '%.*s', which is not a plain file name; only files of the "
                          "same folder are read", LMI_SHOW(key), LMI_SHOW(file));
    size_t i = lm_map_get(w->by_shard, file);
    if (i == SIZE_MAX) {
        struct lm_span *shards = grow(w->shards, w->n_shards, &w->shards_capacity, sizeof *shards);
        if (!shards)
            return lmi_nomem(e);
        w->shards = shards;
        i = w->n_shards++;
        shards[i] = file;
        if (lm_map_put(w->by_shard, file, i) < 0)
            return lmi_nomem(e);
    }
    struct pair *pairs = grow(w->pairs, w->n_pairs, &w->pairs_capacity, sizeof *pairs);
    if (!pairs)
        return lmi_nomem(e);
    w->pairs = pairs;
    pairs[w->n_pairs++] = (struct pair){key, i};
    return 0;
}

/* A string or a list of strings. */
static int read_files(struct weight_map *w, struct lmi_pull *p, struct lm_span key)
{
    struct lm_span file;
    size_t n = 0;
    int rc;

    if (p->pos < p->text.size && p->text.data[p->pos] == '"')
        return lmi_pull_string(p, &file) < 0 ? -1 : add_pair(w, key, file, p->e);
    while ((rc = lmi_pull_element(p, &n)) == 1)
        if (lmi_pull_string(p, &file) < 0 || add_pair(w, key, file, p->e) < 0)
            return -1;
    return rc;
}

static void skip_space(struct lmi_pull *p)
{
    while (p->pos < p->text.size && strchr(" \t\r\n", p->text.data[p->pos]) && p->text.data[p->pos])
        p->pos++;
}

static int read_map(struct weight_map *w, struct lmi_pull *p)
{
    struct lm_span key;
    size_t n = 0;
    int rc;

    while ((rc = lmi_pull_member(p, &n, &key)) == 1) {
        skip_space(p);
        if (read_files(w, p, key) < 0)
            return -1;
    }
    return rc;
}

static int parse(struct weight_map *w, struct lm_span text, struct lm_err *e)
{
    struct lmi_pull p;
    struct lm_span key;
    bool seen = false;
    size_t n = 0;
    int rc = lmi_pull_begin(&p, text, &w->arena, e);

    while (rc == 0 && (rc = lmi_pull_member(&p, &n, &key)) == 1) {
        bool map = lm_span_eq(key, lm_span_str("weight_map"));
        if (map && seen)
            return lmi_pull_fail(&p, "a second weight_map");
        seen |= map;
        rc = map ? read_map(w, &p) : lmi_pull_skip(&p);
    }
    if (rc < 0 || lmi_pull_end(&p) < 0)
        return -1;
    return w->n_pairs ? 0 : lm_err_set(e, LM_MALFORMED, "weight_map is missing or empty");
}

static int by_name(const void *a, const void *b)
{
    const struct lm_span *x = a, *y = b;
    size_t n = x->size < y->size ? x->size : y->size;
    int c = memcmp(x->data, y->data, n);
    return c ? c : x->size < y->size ? -1 : x->size > y->size;
}

static int add_shard(struct lmi_h5_set *set, const char *path, struct lm_span shard, struct lm_err *e)
{
    char name[256];
    size_t file;

    snprintf(name, sizeof name, "%.*s", (int)shard.size, (const char *)shard.data); /* plain names are short */
    char *full = lmi_beside(&set->m->arena, path, name);
    if (!full)
        return lmi_nomem(e);
    if (lm_model_add_file(set->m, full, &file, e) < 0)
        return lm_err_prefix(e, "shard %s", name);
    if (lmi_h5_check_length(set->m->files[file].map, e) < 0 ||
        lmi_h5_set_add(set, file, 0, set->m->files[file].map.size, e) < 0)
        return lm_err_prefix(e, "%s", full);
    return 0;
}

static struct lm_span parent_of(struct lm_span path)
{
    while (path.size && path.data[path.size - 1] != '/')
        path.size--;
    return lm_span_of(path.data, path.size ? path.size - 1 : 0);
}

/* Keras: every line names a group with something of it in that shard. */
static int check_groups(const struct lmi_h5_source *s, const struct weight_map *w, struct lm_span shard, struct lm_err *e)
{
    struct lm_map *groups = lm_map_new(s->list.n_datasets);
    int rc = groups ? 0 : lmi_nomem(e);

    for (size_t i = 0; rc == 0 && i < s->list.n_datasets; i++)
        if (lm_map_put(groups, parent_of(s->list.datasets[i].path), 0) < 0)
            rc = lmi_nomem(e);
    for (size_t i = 0; rc == 0 && i < w->n_pairs; i++) {
        struct lm_span key = w->pairs[i].key;
        if (!lm_span_eq(w->shards[w->pairs[i].shard], shard))
            continue;
        while (key.size && key.data[0] == '/')
            key = lm_span_of(key.data + 1, key.size - 1);
        if (lm_map_get(groups, key) == SIZE_MAX)
            rc = lm_err_set(e, LM_MISSING, "'%.*s' is missing: %.*s does not hold it", LMI_SHOW(key), LMI_SHOW(shard));
    }
    lm_map_free(groups);
    return rc;
}

static int read_shards(struct lmi_h5_set *set, const char *path, const struct weight_map *w, struct lm_err *e)
{
    struct lm_span *names = lm_arena_array(&set->m->arena, w->n_shards, sizeof *names);

    if (!names)
        return lmi_nomem(e);
    memcpy(names, w->shards, w->n_shards * sizeof *names);
    qsort(names, w->n_shards, sizeof *names, by_name);
    for (size_t i = 0; i < w->n_shards; i++)
        if (add_shard(set, path, names[i], e) < 0 ||
            (!set->tf_shards && check_groups(&set->sources[i], w, names[i], e) < 0))
            return -1;
    return 0;
}

int lmi_h5_read_map(struct lm_model *m, const char *path, bool tf, struct lm_err *e)
{
    struct weight_map w = {.by_shard = lm_map_new(0)};
    struct lmi_h5_set set = {.m = m, .tf_shards = tf};
    struct lm_model_file f = {.fd = -1};
    int rc = w.by_shard ? lmi_file_open(&f, path, e) : lmi_nomem(e);
    bool opened = w.by_shard && rc == 0;

    if (rc == 0)
        rc = parse(&w, f.map, e);
    if (rc == 0)
        rc = read_shards(&set, path, &w, e);
    if (rc == 0)
        rc = lmi_h5_set_finish(&set, e);
    if (rc < 0 && opened)
        lm_err_prefix(e, "%s", path);
    lmi_h5_set_free(&set);
    if (opened)
        lmi_file_close(&f);
    lm_map_free(w.by_shard);
    free(w.shards);
    free(w.pairs);
    lm_arena_free(&w.arena);
    return rc;
}
