/* lm-list: what is in a checkpoint, from its headers alone. */
#include "cmd/cli.h"

#include <ctype.h>
#include <fnmatch.h>
#include <stdlib.h>

#include "libmodel/parse/json.h"

enum { SORT_ORDER, SORT_NAME, SORT_SIZE, SORT_PARAMS, SORT_DTYPE };
enum { BY_NOTHING, BY_LAYER, BY_ROLE, BY_DTYPE };

struct options {
    const char *filter;
    int sort, by;
    bool reverse, fold, meta, json;
};

/* A line of the listing: a tensor, or tensors that differ only in numbers. */
struct row {
    const struct lm_tensor *t;
    const char *folded; /* name with # for every number between dots */
    const char *role;
    int layer;          /* -1 outside layers */
    size_t count;
    uint64_t n_params, n_bytes;
    bool shared;        /* its bytes belong to a tensor before it too */
};

struct listing {
    struct lm_model *m;
    struct options o;
    struct lm_config config;
    bool has_config;
    const char *arch;   /* as the checkpoint calls it, or NULL */
    const char *why;    /* why there is no config */
    struct row *all, *rows; /* rows: what is to be shown */
    size_t n_rows, n_shared;
    uint64_t n_params, n_bytes;
    int n_layers;
    struct lm_arena arena;
};

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

static void find_role(struct listing *l, struct row *r)
{
    bool gguf = strcmp(lm_model_format(l->m)->name, "gguf") == 0;
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
        struct row *r = &l->all[i];
        *r = (struct row){.t = t, .count = 1, .n_params = t->n_elems, .n_bytes = t->n_bytes};
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

static bool same_kind(const struct row *a, const struct row *b)
{
    return a->t->dtype == b->t->dtype && a->t->n_dims == b->t->n_dims && a->shared == b->shared &&
           memcmp(a->t->shape, b->t->shape, a->t->n_dims * sizeof a->t->shape[0]) == 0 &&
           strcmp(a->folded, b->folded) == 0;
}

static const char *fold_key(struct listing *l, const struct row *r)
{
    char shape[200], text[1200];

    snprintf(text, sizeof text, "%s %d %d %s", r->folded, (int)r->t->dtype, r->shared,
             lm_tensor_shape_str(r->t, shape, sizeof shape));
    return lm_arena_str(&l->arena, lm_span_str(text));
}

/* Copies the rows that the filter lets through to l->rows, folded if asked. */
static void choose(struct listing *l)
{
    size_t n = lm_model_n_tensors(l->m);
    struct lm_map *at = lm_map_new(n);

    for (size_t i = 0; i < n; i++) {
        struct row *r = &l->all[i];
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

static const char *row_name(const struct listing *l, const struct row *r)
{
    return l->o.fold && r->count > 1 ? r->folded : r->t->name;
}

/* Rows lie in container order, so pointers break ties and the sort is stable. */
static int compare_rows(const void *pa, const void *pb, void *user)
{
    const struct row *a = pa, *b = pb;
    const struct listing *l = user;
    int d = 0;

    switch (l->o.sort) {
    case SORT_NAME: d = strverscmp(row_name(l, a), row_name(l, b)); break;
    case SORT_SIZE: d = compare_u64(b->n_bytes, a->n_bytes); break;
    case SORT_PARAMS: d = compare_u64(b->n_params, a->n_params); break;
    case SORT_DTYPE: d = strcmp(lm_dtype_name(a->t->dtype), lm_dtype_name(b->t->dtype)); break;
    }
    if (d == 0)
        d = (a->t > b->t) - (a->t < b->t);
    return l->o.reverse ? -d : d;
}

/* ---- groups */

struct group { const char *key; int layer; size_t n_tensors; uint64_t n_params, n_bytes; };

static const char *group_key(struct listing *l, const struct row *r)
{
    char text[16];

    if (l->o.by == BY_ROLE)
        return r->role;
    if (l->o.by == BY_DTYPE)
        return lm_dtype_name(r->t->dtype);
    if (r->layer < 0)
        return "outside";
    snprintf(text, sizeof text, "%d", r->layer);
    return lm_arena_str(&l->arena, lm_span_str(text));
}

static int compare_groups(const void *pa, const void *pb)
{
    const struct group *a = pa, *b = pb;

    return a->layer != b->layer ? a->layer - b->layer : compare_u64(b->n_params, a->n_params);
}

/* Groups of the rows, in order of layer or of size; malloc'd. */
static struct group *make_groups(struct listing *l, const struct row *rows, size_t n_rows, size_t *n)
{
    struct group *g = calloc(n_rows + 1, sizeof *g);
    struct lm_map *at = lm_map_new(64);

    *n = 0;
    for (size_t i = 0; g && at && i < n_rows; i++) {
        const struct row *r = &rows[i];
        struct lm_span key = lm_span_str(group_key(l, r));
        size_t k = lm_map_get(at, key);
        if (k == SIZE_MAX) {
            k = (*n)++;
            g[k] = (struct group){.key = (const char *)key.data, .layer = l->o.by == BY_LAYER ? r->layer : 0};
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

/* ---- text */

static double share_of(const struct listing *l, uint64_t n)
{
    return l->n_params ? (double)n / (double)l->n_params : 0;
}

static void print_config(const struct lm_config *c)
{
    printf("layers        %u\n", c->n_layers);
    printf("width         %u, %u heads of %u", c->d_model, c->n_heads, c->d_head);
    if (c->n_kv_heads != c->n_heads)
        printf(" (%u for keys and values)", c->n_kv_heads);
    printf(", feed-forward %u\n", c->d_ff);
    printf("context       %u positions%s\n", c->ctx_len, c->arch->learned_positions ? ", learned" : "");
    printf("vocabulary    %u%s\n", c->vocab_size, c->tied ? ", output tied to the embedding" : "");
}

static void print_tokenizer(const struct lm_meta *meta)
{
    const struct lm_meta_value *model = lm_meta_get(meta, "tokenizer.ggml.model");
    const struct lm_meta_value *tokens = lm_meta_get(meta, "tokenizer.ggml.tokens");

    if (model && model->type == LM_META_STR && tokens && tokens->type == LM_META_ARRAY)
        printf("tokenizer     %s, %zu pieces\n", cli_safe(model->str), tokens->n);
}

static void print_dtypes(struct listing *l)
{
    size_t n;
    int by = l->o.by;

    l->o.by = BY_DTYPE;
    struct group *g = make_groups(l, l->all, lm_model_n_tensors(l->m), &n);
    l->o.by = by;
    printf("dtypes       ");
    for (size_t i = 0; i < n; i++)
        printf("%s %s (%zu tensors, %.2f %%)", i ? "," : "", g[i].key, g[i].n_tensors, 100 * share_of(l, g[i].n_params));
    putchar('\n');
    free(g);
}

static void print_summary(struct listing *l)
{
    char buf[64], exact[64];
    size_t n_files = lm_model_n_files(l->m), n = lm_model_n_tensors(l->m);

    printf("format        %s", lm_model_format(l->m)->title);
    printf(n_files > 1 ? ", %zu files\n" : "\n", n_files);
    if (l->has_config)
        printf("architecture  %s (%s)\n", l->config.arch->name, l->config.arch->title);
    else
        printf("architecture  %s\n", l->arch ? cli_safe(lm_span_str(l->arch)) : "not said");
    if (l->has_config)
        print_config(&l->config);
    else if (l->n_layers > 0)
        printf("layers        %d, by the names\n", l->n_layers);
    printf("tensors       %zu\n", n);
    printf("parameters    %s\n", cli_count(buf, sizeof buf, l->n_params));
    printf("bytes         %s (%s)\n", cli_count(exact, sizeof exact, l->n_bytes), cli_bytes(buf, sizeof buf, l->n_bytes));
    if (n > 0)
        print_dtypes(l);
    if (l->n_shared)
        printf("shared        %zu tensors lie in the bytes of others and are counted once\n", l->n_shared);
    print_tokenizer(lm_model_meta(l->m));
}

static void print_tensors(struct listing *l)
{
    static const char *const heads[] = {"tensor", "dtype", "shape", "parameters", "share", "bytes"};
    struct cli_table *t = cli_table_new(heads, "lllrrr");

    for (size_t i = 0; i < l->n_rows; i++) {
        const struct row *r = &l->rows[i];
        char shape[200], params[40], share[40], bytes[40], times[32] = "";
        if (r->count > 1)
            snprintf(times, sizeof times, "%zu × ", r->count);
        lm_tensor_shape_str(r->t, shape, sizeof shape);
        char full[240];
        snprintf(full, sizeof full, "%s%s", times, shape);
        snprintf(share, sizeof share, "%.2f %%", 100 * share_of(l, r->n_params));
        cli_table_row(t, cli_safe(lm_span_str(row_name(l, r))), lm_dtype_name(r->t->dtype), full,
                      cli_count(params, sizeof params, r->n_params), share, cli_count(bytes, sizeof bytes, r->n_bytes));
    }
    cli_table_print(t, stdout);
}

static void print_groups(struct listing *l)
{
    static const char *const names[] = {"", "layer", "role", "dtype"};
    const char *heads[] = {names[l->o.by], "tensors", "parameters", "share", "bytes"};
    struct cli_table *t = cli_table_new(heads, "lrrrr");
    size_t n;
    struct group *g = make_groups(l, l->rows, l->n_rows, &n);

    for (size_t i = 0; i < n; i++) {
        char count[40], params[40], share[40], bytes[40];
        snprintf(share, sizeof share, "%.2f %%", 100 * share_of(l, g[i].n_params));
        cli_table_row(t, cli_safe(lm_span_str(g[i].key)), cli_count(count, sizeof count, g[i].n_tensors),
                      cli_count(params, sizeof params, g[i].n_params), share,
                      cli_count(bytes, sizeof bytes, g[i].n_bytes));
    }
    free(g);
    cli_table_print(t, stdout);
}

/* ---- metadata */

enum { SHOWN_ELEMS = 4, SHOWN_TEXT = 200 };

static json_t *number_json(enum lm_meta_type type, const void *p)
{
    union { uint8_t u8; int8_t i8; uint16_t u16; int16_t i16; uint32_t u32; int32_t i32; uint64_t u64; int64_t i64;
            float f; double d; } v;

    memcpy(&v, p, lm_meta_width(type));
    switch (type) {
    case LM_META_U8: return json_integer(v.u8);
    case LM_META_I8: return json_integer(v.i8);
    case LM_META_U16: return json_integer(v.u16);
    case LM_META_I16: return json_integer(v.i16);
    case LM_META_U32: return json_integer(v.u32);
    case LM_META_I32: return json_integer(v.i32);
    case LM_META_U64: return v.u64 > INT64_MAX ? json_real((double)v.u64) : json_integer((json_int_t)v.u64);
    case LM_META_I64: return json_integer(v.i64);
    case LM_META_F32: return cli_json_real(v.f);
    case LM_META_F64: return cli_json_real(v.d);
    default: return json_boolean(v.u8);
    }
}

static json_t *array_json(const struct lm_meta_value *v)
{
    json_t *o = json_object(), *first = json_array();
    size_t width = lm_meta_width(v->elem);

    for (size_t i = 0; i < v->n && i < SHOWN_ELEMS; i++)
        json_array_append_new(first, v->elem == LM_META_STR ? cli_json_str(v->strs[i])
                                                            : number_json(v->elem, (const char *)v->data + i * width));
    json_object_set_new(o, "type", json_string(lm_meta_type_name(v->elem)));
    json_object_set_new(o, "n", json_integer((json_int_t)v->n));
    json_object_set_new(o, "first", first);
    return o;
}

static json_t *value_json(const struct lm_meta_value *v)
{
    switch (v->type) {
    case LM_META_STR: return cli_json_str(v->str);
    case LM_META_ARRAY: return array_json(v);
    case LM_META_F32:
    case LM_META_F64: return cli_json_real(v->f);
    case LM_META_BOOL: return json_boolean(v->u != 0);
    case LM_META_I8:
    case LM_META_I16:
    case LM_META_I32:
    case LM_META_I64: return json_integer(v->i);
    default: return v->u > INT64_MAX ? json_real((double)v->u) : json_integer((json_int_t)v->u);
    }
}

/* One line of a value: strings bare and cut, arrays by their first elements. */
static const char *value_text(const struct lm_meta_value *v, char *buf, size_t size)
{
    if (v->type == LM_META_STR) {
        bool cut = v->str.size > SHOWN_TEXT;
        snprintf(buf, size, "%s%s", cli_safe(lm_span_of(v->str.data, cut ? SHOWN_TEXT : v->str.size)), cut ? "…" : "");
        return buf;
    }
    json_t *j = value_json(v);
    json_t *shown = v->type == LM_META_ARRAY ? json_object_get(j, "first") : j;
    char *text = json_dumps(shown, JSON_ENCODE_ANY | JSON_REAL_PRECISION(7));
    bool more = v->type == LM_META_ARRAY && v->n > SHOWN_ELEMS;
    snprintf(buf, size, "%.*s%s", text ? (int)strlen(text) - more : 0, text ? text : "", more ? ", …]" : "");
    free(text);
    json_decref(j);
    return buf;
}

static const char *type_text(const struct lm_meta_value *v, char *buf, size_t size)
{
    if (v->type == LM_META_ARRAY)
        snprintf(buf, size, "%zu × %s", v->n, lm_meta_type_name(v->elem));
    else
        snprintf(buf, size, "%s", lm_meta_type_name(v->type));
    return buf;
}

static void config_rows(struct cli_table *t, json_t *config)
{
    const char *key;
    json_t *value;

    json_object_foreach(config, key, value)
    {
        char name[300];
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(7));
        size_t n = text ? strlen(text) : 0;
        snprintf(name, sizeof name, "config.json %s", key);
        cli_table_row(t, cli_safe(lm_span_str(name)), "json",
                      cli_safe(lm_span_of(text, n < SHOWN_TEXT ? n : SHOWN_TEXT)));
        free(text);
    }
}

static void print_meta(struct listing *l, json_t *config)
{
    static const char *const heads[] = {"key", "type", "value"};
    const struct lm_meta *meta = lm_model_meta(l->m);
    struct cli_table *t = cli_table_new(heads, "lll");

    for (size_t i = 0; i < lm_meta_count(meta); i++) {
        const char *key;
        const struct lm_meta_value *v = lm_meta_at(meta, i, &key);
        char type[64], value[4 * SHOWN_TEXT + 16];
        cli_table_row(t, cli_safe(lm_span_str(key)), type_text(v, type, sizeof type),
                      cli_safe(lm_span_str(value_text(v, value, sizeof value))));
    }
    config_rows(t, config);
    cli_table_print(t, stdout);
}

/* ---- JSON */

static json_t *tensor_json(const struct listing *l, const struct row *r)
{
    json_t *o = json_object(), *shape = json_array();

    for (unsigned i = 0; i < r->t->n_dims; i++)
        json_array_append_new(shape, json_integer((json_int_t)r->t->shape[i]));
    json_object_set_new(o, "name", cli_json_str(lm_span_str(row_name(l, r))));
    json_object_set_new(o, "dtype", json_string(lm_dtype_name(r->t->dtype)));
    json_object_set_new(o, "shape", shape);
    json_object_set_new(o, "n_params", json_integer((json_int_t)r->n_params));
    json_object_set_new(o, "n_bytes", json_integer((json_int_t)r->n_bytes));
    json_object_set_new(o, "share", json_real(share_of(l, r->n_params)));
    if (r->count > 1)
        json_object_set_new(o, "count", json_integer((json_int_t)r->count));
    if (r->shared)
        json_object_set_new(o, "shared", json_true());
    return o;
}

static json_t *groups_json(struct listing *l)
{
    json_t *a = json_array();
    size_t n;
    struct group *g = make_groups(l, l->rows, l->n_rows, &n);

    for (size_t i = 0; i < n; i++)
        json_array_append_new(a, json_pack("{so sI sI sI sf}", "key", cli_json_str(lm_span_str(g[i].key)), "n_tensors",
                                           (json_int_t)g[i].n_tensors, "n_params", (json_int_t)g[i].n_params,
                                           "n_bytes", (json_int_t)g[i].n_bytes, "share",
                                           share_of(l, g[i].n_params)));
    free(g);
    return a;
}

static json_t *meta_json(struct listing *l, json_t *config)
{
    const struct lm_meta *meta = lm_model_meta(l->m);
    json_t *o = json_object();

    for (size_t i = 0; i < lm_meta_count(meta); i++) {
        const char *key;
        const struct lm_meta_value *v = lm_meta_at(meta, i, &key);
        json_object_set_new(o, cli_safe(lm_span_str(key)), value_json(v));
    }
    if (config)
        json_object_set(o, "config.json", config);
    return o;
}

static json_t *listing_json(struct listing *l, json_t *config)
{
    json_t *o = json_object(), *tensors = json_array();

    json_object_set_new(o, "format", json_string(lm_model_format(l->m)->name));
    json_object_set_new(o, "architecture", l->arch ? cli_json_str(lm_span_str(l->arch)) : json_null());
    json_object_set_new(o, "n_layers", json_integer(l->n_layers));
    json_object_set_new(o, "n_tensors", json_integer((json_int_t)lm_model_n_tensors(l->m)));
    json_object_set_new(o, "n_params", json_integer((json_int_t)l->n_params));
    json_object_set_new(o, "n_bytes", json_integer((json_int_t)l->n_bytes));
    if (l->o.by)
        json_object_set_new(o, "groups", groups_json(l));
    if (l->o.meta)
        json_object_set_new(o, "metadata", meta_json(l, config));
    for (size_t i = 0; i < l->n_rows; i++)
        json_array_append_new(tensors, tensor_json(l, &l->rows[i]));
    json_object_set_new(o, "tensors", tensors);
    return o;
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

static void show(struct listing *l, json_t *config)
{
    if (l->o.json) {
        cli_json_print(listing_json(l, config));
        return;
    }
    print_summary(l);
    if (!l->o.meta && l->n_rows == 0)
        return;
    putchar('\n');
    if (l->o.meta)
        print_meta(l, config);
    else if (l->o.by)
        print_groups(l);
    else
        print_tensors(l);
}

static int run(struct listing *l, const char *path, struct lm_err *e)
{
    struct lm_span text;
    json_t *config = NULL;

    if (lm_model_open(&l->m, path, e) != 0)
        return -1;
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
        if (l->o.sort != SORT_ORDER || l->o.reverse)
            qsort_r(l->rows, l->n_rows, sizeof *l->rows, compare_rows, l);
        if (l->o.filter && l->n_rows == 0)
            cli_note("%s: no tensor is called like %s", cli_name(), l->o.filter);
        show(l, config);
        fflush(stdout);
        mention_problems(l);
    }
    json_decref(config);
    return r;
}

static const char *const sorts[] = {"order", "name", "size", "params", "dtype", NULL};
static const char *const bys[] = {"none", "layer", "role", "dtype", NULL};

#define AT(field) offsetof(struct options, field)
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
        "Tensors that lie in the same bytes of a file are counted once.\n"
        "\n"
        "With --json: an object with format, architecture (null when the checkpoint does not say), n_layers, "
        "n_tensors, n_params, n_bytes (of tensor data) and tensors, a list of objects with name, dtype, shape (list), "
        "n_params, n_bytes and share (of all parameters, 0 to 1); with --fold also count; shared is true where the "
        "bytes were counted before. --by adds groups (key n_tensors n_params n_bytes share), --meta adds metadata "
        "(key to value; an array as type, n and first).\n",
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
