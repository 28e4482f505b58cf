/* lm-list: what is in a checkpoint, from its headers alone. */
#include <ctype.h>
#include <fnmatch.h>
#include <stdlib.h>

#include "cmd/list.h"
#include "libmodel/parse/json.h"

/* ---- names */

static bool is_number(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isdigit((unsigned char)s[i]))
            return false;
    return n > 0;
}

/* The name with # for its numbers; the first of them is the layer. */
static const char *fold_name(struct lm_arena *a, const char *name, int *layer)
{
    char *out = lm_arena_alloc(a, strlen(name) + 1), *p = out;

    *layer = -1;
    while (out && *name) {
        size_t n = strcspn(name, ".");
        if (is_number(name, n)) {
            if (*layer < 0 && n < 9)
                *layer = atoi(name);
            *p++ = '#';
        } else {
            memcpy(p, name, n);
            p += n;
        }
        name += n;
        if (*name == '.')
            *p++ = *name++;
    }
    return out;
}

static void find_role(struct listing *l, struct list_row *r)
{
    bool gguf = lm_meta_get(lm_model_meta(l->m), "general.architecture") != NULL;
    int layer;

    r->folded = fold_name(&l->arena, r->t->name, &r->layer);
    r->role = r->folded;
    if (!l->has_config)
        return;
    const struct lm_arch_row *row =
        lm_arch_match(l->config.arch, gguf ? LM_NAMES_GGUF : LM_NAMES_HF, r->t->name, &layer);
    if (row) {
        r->role = lm_role_name(row->role);
        r->layer = layer;
    }
}

/* ---- gathering */

/* Is this the first tensor with these bytes of this file? */
static bool first_with_bytes(struct lm_map *seen, struct listing *l, const struct lm_tensor *t)
{
    uint64_t *key = lm_arena_array(&l->arena, 3, sizeof *key);

    if (!key || t->n_bytes == 0)
        return true;
    key[0] = t->file;
    key[1] = t->offset;
    key[2] = t->n_bytes;
    return lm_map_put(seen, lm_span_of(key, 3 * sizeof *key), 0) != 0;
}

static int gather(struct listing *l, struct lm_err *e)
{
    size_t n = lm_model_n_tensors(l->m);
    struct lm_map *seen = lm_map_new(n);

    l->all = calloc(n + 1, sizeof *l->all);
    l->rows = calloc(n + 1, sizeof *l->rows);
    if (!seen || !l->all || !l->rows) {
        lm_map_free(seen);
        return lm_err_set(e, LM_NOMEM, "no memory for a list of %zu tensors", n);
    }
    for (size_t i = 0; i < n; i++) {
        const struct lm_tensor *t = lm_model_tensor(l->m, i);
        struct list_row *r = &l->all[i];
        *r = (struct list_row){.t = t, .count = 1, .n_params = t->n_elems, .n_bytes = lm_tensor_stored_bytes(t)};
        find_role(l, r);
        r->shared = !first_with_bytes(seen, l, t);
        l->n_params += r->shared ? 0 : r->n_params;
        l->n_bytes += r->shared ? 0 : r->n_bytes;
        l->n_shared += r->shared;
        l->n_layers = r->layer >= l->n_layers ? r->layer + 1 : l->n_layers;
    }
    if (l->has_config)
        l->n_layers = (int)l->config.n_layers;
    lm_map_free(seen);
    return 0;
}

static bool same_kind(const struct list_row *a, const struct list_row *b)
{
    return a->t->dtype == b->t->dtype && a->t->n_dims == b->t->n_dims && a->shared == b->shared &&
           memcmp(a->t->shape, b->t->shape, a->t->n_dims * sizeof a->t->shape[0]) == 0 &&
           strcmp(a->folded, b->folded) == 0 && strcmp(list_type(a->t), list_type(b->t)) == 0;
}

static const char *fold_key(struct listing *l, const struct list_row *r)
{
    char shape[200], text[1200];

    snprintf(text, sizeof text, "%s %s %d %s", r->folded, list_type(r->t), r->shared,
             lm_tensor_shape_str(r->t, shape, sizeof shape));
    return lm_arena_str(&l->arena, lm_span_str(text));
}

/* Copies the rows that the filter lets through to l->rows, folded if asked. */
static void choose(struct listing *l)
{
    size_t n = lm_model_n_tensors(l->m);
    struct lm_map *at = lm_map_new(n);

    for (size_t i = 0; i < n; i++) {
        struct list_row *r = &l->all[i];
        if (l->o.filter && fnmatch(l->o.filter, r->t->name, 0) != 0)
            continue;
        const char *key = l->o.fold ? fold_key(l, r) : NULL;
        size_t k = key ? lm_map_get(at, lm_span_str(key)) : SIZE_MAX;
        if (k != SIZE_MAX && same_kind(&l->rows[k], r)) {
            l->rows[k].count++;
            l->rows[k].n_params += r->n_params;
            l->rows[k].n_bytes += r->n_bytes;
            continue;
        }
        if (key && at)
            lm_map_put(at, lm_span_str(key), l->n_rows);
        l->rows[l->n_rows++] = *r;
    }
    lm_map_free(at);
}

static int compare_u64(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

const char *list_type(const struct lm_tensor *t)
{
    return t->packed ? lm_tensor_scheme(t) : lm_dtype_name(t->dtype);
}

const char *list_row_name(const struct listing *l, const struct list_row *r)
{
    return l->o.fold && r->count > 1 ? r->folded : r->t->name;
}

/* Rows lie in container order, so pointers break ties and the sort is stable. */
static int compare_rows(const void *pa, const void *pb, void *user)
{
    const struct list_row *a = pa, *b = pb;
    const struct listing *l = user;
    int d = 0;

    switch (l->o.sort) {
    case LIST_SORT_NAME: d = strverscmp(list_row_name(l, a), list_row_name(l, b)); break;
    case LIST_SORT_SIZE: d = compare_u64(b->n_bytes, a->n_bytes); break;
    case LIST_SORT_PARAMS: d = compare_u64(b->n_params, a->n_params); break;
    case LIST_SORT_DTYPE: d = strcmp(list_type(a->t), list_type(b->t)); break;
    }
    if (d == 0)
        d = (a->t > b->t) - (a->t < b->t);
    return l->o.reverse ? -d : d;
}

/* ---- groups */

static const char *group_key(struct listing *l, const struct list_row *r)
{
    char text[16];

    if (l->o.by == LIST_BY_ROLE)
        return r->role;
    if (l->o.by == LIST_BY_DTYPE)
        return list_type(r->t);
    if (r->layer < 0)
        return "outside";
    snprintf(text, sizeof text, "%d", r->layer);
    return lm_arena_str(&l->arena, lm_span_str(text));
}

static int compare_groups(const void *pa, const void *pb)
{
    const struct list_group *a = pa, *b = pb;

    return a->layer != b->layer ? a->layer - b->layer : compare_u64(b->n_params, a->n_params);
}

struct list_group *list_groups(struct listing *l, const struct list_row *rows, size_t n_rows, size_t *n)
{
    struct list_group *g = calloc(n_rows + 1, sizeof *g);
    struct lm_map *at = lm_map_new(64);

    *n = 0;
    for (size_t i = 0; g && at && i < n_rows; i++) {
        const struct list_row *r = &rows[i];
        struct lm_span key = lm_span_str(group_key(l, r));
        size_t k = lm_map_get(at, key);
        if (k == SIZE_MAX) {
            k = (*n)++;
            g[k] = (struct list_group){.key = (const char *)key.data, .layer = l->o.by == LIST_BY_LAYER ? r->layer : 0};
            lm_map_put(at, key, k);
        }
        g[k].n_tensors += r->count;
        g[k].n_params += r->shared ? 0 : r->n_params;
        g[k].n_bytes += r->shared ? 0 : r->n_bytes;
    }
    lm_map_free(at);
    if (g)
        qsort(g, *n, sizeof *g, compare_groups);
    return g;
}

double list_share(const struct listing *l, uint64_t n)
{
    return l->n_params ? (double)n / (double)l->n_params : 0;
}

/* ---- the command */

/* The name that the checkpoint itself gives its architecture. */
static const char *arch_name(struct listing *l, json_t *config)
{
    const struct lm_meta_value *v = lm_meta_get(lm_model_meta(l->m), "general.architecture");

    if (l->has_config)
        return l->config.arch->name;
    if (v && v->type == LM_META_STR)
        return lm_arena_str(&l->arena, v->str);
    return json_string_value(json_object_get(config, "model_type"));
}

/* The checks that a run would make; a listing only mentions what they find. */
static void mention_problems(struct listing *l)
{
    struct lm_binding *b;
    struct lm_err e;

    if (!l->has_config)
        return;
    if (lm_bind(&b, l->m, &e) != 0)
        cli_note("%s: note: %s", cli_name(), e.text);
    else
        lm_binding_free(b);
}

static void print_names(struct listing *l)
{
    for (size_t i = 0; i < l->n_rows; i++)
        puts(cli_safe(lm_span_str(list_row_name(l, &l->rows[i]))));
}

static int run(struct listing *l, const char *path, struct lm_err *e)
{
    struct lm_span text;
    json_t *config = NULL;

    if ((l->o.stored ? lm_model_open_stored : lm_model_open_headers)(&l->m, path, e) != 0)
        return -1;
    if (!l->o.stored && lm_model_refused(l->m) && lm_model_n_left_out(l->m) == 0)
        cli_note("%s: note: %s", cli_name(), lm_model_refused(l->m));
    int found = lm_config_read(&l->config, l->m, &l->why, e);
    if (found < 0)
        cli_note("%s: note: %s", cli_name(), e->text);
    l->has_config = found == 1;
    if ((l->o.meta || !l->has_config) && lm_model_sidecar(l->m, "config.json", &text, e) == 1)
        config = lm_json_parse(text, "config.json", e);
    l->arch = arch_name(l, config);
    int r = gather(l, e);
    if (r == 0) {
        choose(l);
        if (l->o.sort != LIST_SORT_ORDER || l->o.reverse)
            qsort_r(l->rows, l->n_rows, sizeof *l->rows, compare_rows, l);
        if (l->o.filter && l->n_rows == 0)
            cli_note("%s: no tensor is called like %s", cli_name(), l->o.filter);
        if (l->o.json)
            cli_json_print(list_json(l, config));
        else if (l->o.names)
            print_names(l);
        else
            list_print(l, config);
        fflush(stdout);
        if (!l->o.names && !l->o.stored)
            mention_problems(l);
    }
    json_decref(config);
    return r;
}

static const char *const sorts[] = {"order", "name", "size", "params", "dtype", NULL};
static const char *const bys[] = {"none", "layer", "role", "dtype", NULL};

#define AT(field) offsetof(struct list_opts, field)
static const struct cli_opt opts[] = {
    {"by", 'b', CLI_CHOICE, NULL, AT(by), "Sums instead of tensors: by layer, by role or by dtype.", bys},
    {"fold", 'F', CLI_FLAG, NULL, AT(fold),
     "One line for tensors that differ only in numbers of their names (layers.#) and agree in dtype and shape.", NULL},
    {"filter", 'f', CLI_STRING, "GLOB", AT(filter),
     "Only tensors whose name matches, as in '*.attn_*' (shares stay those of the whole model).", NULL},
    {"sort", 's', CLI_CHOICE, NULL, AT(sort),
     "Order of the tensors: as in the file (default), by name, by bytes or parameters (largest first), by dtype.",
     sorts},
    {"reverse", 'r', CLI_FLAG, NULL, AT(reverse), "The other way round.", NULL},
    {"meta", 'm', CLI_FLAG, NULL, AT(meta), "Metadata instead of tensors; of an array the first elements.", NULL},
    {"names", 'n', CLI_FLAG, NULL, AT(names), "Only the names, one a line.", NULL},
    {"stored", 'S', CLI_FLAG, NULL, AT(stored),
     "The tensors one by one as the files hold them, also those that make up a quantized weight.", NULL},
    {"json", 0, CLI_FLAG, NULL, AT(json), "JSON on standard output.", NULL},
    {NULL, 0, 0, NULL, 0, NULL, NULL}};

static const struct cli_cmd cmd = {
    .name = "lm-list",
    .brief = "list the tensors of a checkpoint with types, shapes and shares",
    .synopsis = "MODEL",
    .about =
        "Prints what a checkpoint is made of: a summary, then each tensor with its storage type, shape (outermost "
        "dimension first), number of parameters, share of all parameters and bytes. MODEL is a .safetensors or .gguf "
        "file (or any part of a split set), an index.json or a folder with a checkpoint. Only headers are read, so "
        "the size of the model does not matter.\n"
        "\n"
        "Tensors that lie in the same bytes of a file are counted once. The tensors that make up a quantized weight "
        "(codes, scales, zero points of GPTQ, AWQ, FP8, bitsandbytes, compressed-tensors, MXFP4) are one line, with what "
        "it is stored as in place of a type; --stored lists them.\n"
        "\n"
        "With --json: an object with format, architecture (null when the checkpoint does not say), n_layers, "
        "n_tensors, n_params, n_bytes (of tensor data) and tensors, a list of objects with name, dtype, shape (list), "
        "n_params, n_bytes and share (of all parameters, 0 to 1); with --fold also count; stored_as and members (names) "
        "of a quantized weight; shared is true where the "
        "bytes were counted before. --by adds groups (key n_tensors n_params n_bytes share), --meta adds metadata "
        "(key to value; an array as type, n and first); left_out names what is there and is no tensor (text, records, "
        "links of an HDF5 file).\n",
    .opts = opts,
    .examples = "  $ lm-list bielik-7b/\n"
                "  $ lm-list --fold --sort size model.gguf\n"
                "  $ lm-list --json model.gguf | jq .n_params\n",
    .min_args = 1,
    .max_args = 1};

int main(int argc, char **argv)
{
    struct listing l = {0};
    struct lm_err e;

    cli_parse(&cmd, argc, argv, &l.o);
    int r = run(&l, argv[1], &e);
    free(l.all);
    free(l.rows);
    lm_arena_free(&l.arena);
    lm_model_close(l.m);
    return cli_finish(r == 0 ? CLI_OK : cli_fail(&e));
}
