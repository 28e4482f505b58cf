/* A release by Meta, or Mistral's own form of its models:
 *
 *   params.json                 {dim, n_layers, n_heads, n_kv_heads, norm_eps, rope_theta, …}
 *   consolidated.00.pth, .01 …  PyTorch; with several, every matrix is cut into
 *                               equal parts (tensor parallelism), norms are in each
 *   consolidated.safetensors    Mistral: whole matrices; of a mixture one for each expert
 *   tokenizer.model
 *
 * https://github.com/meta-llama/llama/blob/main/llama/model.py
 * Q and K have their rows in adjacent rotary pairs, as in GGUF: the tensors get
 * GGUF's names here, and nothing is permuted on the way to a GGUF. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "libmodel/arch.h"
#include "libmodel/fmt/llama_keys.h"
#include "libmodel/fmt/meta_names.h"
#include "libmodel/fmt/pytorch.h"
#include "libmodel/fmt/safetensors.h"
#include "libmodel/fmt/shards.h"
#include "libmodel/parse/json.h"

enum { MAX_SHARDS = 64 };

/* ---- params.json */

struct params {
    struct lmi_llama_keys keys;
    bool scaled;
    double factor;
    char assumed[120];
};

static int get_u32(const json_t *root, const char *key, uint32_t *out, struct lm_err *e)
{
    const json_t *v = json_object_get(root, key);

    if (!v || json_is_null(v))
        return 0;
    if (!json_is_integer(v) || json_integer_value(v) > INT32_MAX || json_integer_value(v) < -1)
        return lm_err_set(e, LM_MALFORMED, "%s is no whole number below 2^31", key);
    /* -1: ask the tokenizer; the tensors know too. */
    *out = json_integer_value(v) < 0 ? 0 : (uint32_t)json_integer_value(v);
    return 0;
}

static double get_real(const json_t *root, const char *key, double otherwise)
{
    const json_t *v = json_object_get(root, key);
    return json_is_number(v) ? json_number_value(v) : otherwise;
}

/* Older files do not say how long the context is; those who released them did. */
static uint32_t usual_context(const json_t *root, const struct params *p, const char **whose)
{
    if (p->scaled)
        return *whose = "Llama 3.1 and later", 131072;
    if (json_object_get(root, "hidden_dim"))
        return *whose = "Mistral", 32768;
    if (p->keys.rope_theta >= 500000)
        return *whose = "Llama 3", 8192;
    if (p->keys.norm_eps < 5e-6)
        return *whose = "Llama 1", 2048;
    return *whose = "Llama 2", 4096;
}

static int take_context(struct params *p, const json_t *root, struct lm_err *e)
{
    const char *whose;

    if (get_u32(root, "max_seq_len", &p->keys.ctx, e) < 0 ||
        (!p->keys.ctx && get_u32(root, "max_position_embeddings", &p->keys.ctx, e) < 0))
        return -1;
    if (p->keys.ctx)
        return 0;
    p->keys.ctx = usual_context(root, p, &whose);
    snprintf(p->assumed, sizeof p->assumed, "context_length %u (params.json does not say; that of %s)", p->keys.ctx, whose);
    p->keys.assumed = p->assumed;
    return 0;
}

static int take_experts(struct lmi_llama_keys *k, const json_t *moe, struct lm_err *e)
{
    if (get_u32(moe, "num_experts", &k->experts, e) < 0 || get_u32(moe, "num_experts_per_tok", &k->experts_used, e) < 0)
        return -1;
    if (!k->experts || !k->experts_used || k->experts_used > k->experts)
        return lm_err_set(e, LM_MALFORMED, "moe: num_experts and num_experts_per_tok must be there and fit together");
    return 0;
}

static int take_params(struct params *p, const json_t *root, struct lm_err *e)
{
    struct lmi_llama_keys *k = &p->keys;

    if (get_u32(root, "dim", &k->dim, e) < 0 || get_u32(root, "n_layers", &k->layers, e) < 0 ||
        get_u32(root, "n_heads", &k->heads, e) < 0 || get_u32(root, "n_kv_heads", &k->kv_heads, e) < 0 ||
        get_u32(root, "head_dim", &k->d_head, e) < 0 || get_u32(root, "hidden_dim", &k->hidden, e) < 0 ||
        get_u32(root, "vocab_size", &k->vocab, e) < 0)
        return -1;
    if (!k->dim || !k->layers || !k->heads || (!k->d_head && k->dim % k->heads))
        return lm_err_set(e, LM_MALFORMED, "dim, n_layers and n_heads must be there and fit together");
    if (json_object_get(root, "moe") && take_experts(k, json_object_get(root, "moe"), e) < 0)
        return -1;
    k->kv_heads = k->kv_heads ? k->kv_heads : k->heads;
    k->d_head = k->d_head ? k->d_head : k->dim / k->heads;
    k->norm_eps = get_real(root, "norm_eps", 1e-5);
    k->rope_theta = get_real(root, "rope_theta", 10000);
    p->scaled = json_is_true(json_object_get(root, "use_scaled_rope"));
    p->factor = get_real(root, "rope_scaling_factor", 8);
    return take_context(p, root, e);
}

static int read_params(struct params *p, const char *path, struct lm_err *e)
{
    struct lm_model_file f;

    if (lmi_file_open(&f, path, e) < 0)
        return -1;
    json_t *root = lm_json_parse(f.map, "params.json", e);
    int rc = root ? take_params(p, root, e) : -1;
    json_decref(root);
    lmi_file_close(&f);
    return rc < 0 ? lm_err_prefix(e, "%s", path) : 0;
}

/* ---- joining shards */

struct shards {
    struct lm_model *m;
    const struct params *p;
    struct lmi_view_list list[MAX_SHARDS];
    struct lm_map *by_name[MAX_SHARDS];
    size_t n;
    struct lmi_view_list whole;
};

static const struct lmi_view *in_shard(const struct shards *s, size_t i, struct lm_span name)
{
    size_t at = lm_map_get(s->by_name[i], name);
    return at == SIZE_MAX ? NULL : &s->list[i].v[at];
}

static bool same_shape(const struct lmi_view *a, const struct lmi_view *b)
{
    return a->n_dims == b->n_dims && a->dtype == b->dtype &&
           memcmp(a->shape, b->shape, a->n_dims * sizeof a->shape[0]) == 0;
}

/* Which dimension is cut, and of how many shards in a row the parts are copies. */
static int cut_of(const struct shards *s, const struct lmi_meta_name *k, const struct lmi_view *first, unsigned *dim,
                  size_t *copies)
{
    const struct lmi_llama_keys *keys = &s->p->keys;
    uint64_t kv = (uint64_t)keys->kv_heads * keys->d_head, rows = first->n_dims ? first->shape[0] : 0;

    *copies = 1;
    *dim = k->cut == LMI_CUT_COLUMNS;
    /* Llama 1 and 2 cut the embedding's columns, Llama 3 its rows. */
    if (k->cut == LMI_CUT_EMBEDDING)
        *dim = first->n_dims == 2 && first->shape[1] != keys->dim;
    if (k->cut == LMI_CUT_KV && rows && rows < kv && kv % rows == 0 && kv / rows < s->n && s->n % (kv / rows) == 0)
        *copies = s->n / (size_t)(kv / rows);
    if (k->cut == LMI_CUT_KV && rows == kv)
        *copies = s->n;
    return first->n_dims == 2 ? 0 : -1;
}

static int join(struct shards *s, const struct lmi_meta_name *k, const struct lmi_view *first, struct lm_err *e)
{
    size_t copies;
    unsigned dim;
    struct lmi_view *whole = lmi_view_new(&s->whole);

    if (cut_of(s, k, first, &dim, &copies) < 0)
        return lm_err_set(e, LM_MALFORMED, "tensor '%.*s' has %u dimensions, expected 2", LMI_SHOW(first->name),
                          first->n_dims);
    size_t n = s->n / copies;
    struct lmi_view *parts = lm_arena_array(&s->m->arena, n, sizeof *parts);
    if (!whole || !parts)
        return lmi_nomem(e);
    *whole = *first;
    for (size_t i = 0; i < n; i++) {
        const struct lmi_view *part = in_shard(s, i * copies, first->name);
        if (!part || !same_shape(part, first))
            return lm_err_set(e, LM_MALFORMED, "tensor '%.*s' is missing in shard %zu or has another shape there",
                              LMI_SHOW(first->name), i * copies);
        parts[i] = *part;
    }
    if (n == 1)
        return 0;
    if (!lm_mul_u64(first->shape[dim], n, &whole->shape[dim]))
        return lm_err_set(e, LM_MALFORMED, "tensor '%.*s' is too large", LMI_SHOW(first->name));
    lmi_view_row_major(whole);
    whole->parts = parts;
    whole->n_parts = n;
    whole->join_dim = dim;
    return 0;
}

/* Norms are in every shard, and must be the same. */
static int take_one(struct shards *s, const struct lmi_view *first, struct lm_err *e)
{
    struct lmi_view *whole = lmi_view_new(&s->whole);

    if (!whole)
        return lmi_nomem(e);
    *whole = *first;
    for (size_t i = 1; i < s->n; i++) {
        const struct lmi_view *other = in_shard(s, i, first->name);
        if (!other || !same_shape(other, first))
            return lm_err_set(e, LM_MALFORMED, "tensor '%.*s' is missing in shard %zu or has another shape there",
                              LMI_SHOW(first->name), i);
        const struct lmi_blob *a = first->blob, *b = other->blob;
        if (a->n_bytes != b->n_bytes || first->offset != other->offset || a->deflated || b->deflated)
            continue; /* other places: not comparable byte by byte, and no release is so */
        if (memcmp(s->m->files[a->file].map.data + a->offset, s->m->files[b->file].map.data + b->offset,
                   (size_t)a->n_bytes) != 0)
            return lm_err_set(e, LM_MISMATCH, "tensor '%.*s' differs between shards 0 and %zu, expected copies",
                              LMI_SHOW(first->name), i);
    }
    return 0;
}

static int join_all(struct shards *s, struct lm_err *e)
{
    for (size_t i = 0; i < s->list[0].n; i++) {
        const struct lmi_view *v = &s->list[0].v[i];
        const char *name = (const char *)v->name.data; /* NUL-terminated: lmi_torch_collect */
        const struct lmi_meta_name *k = lmi_meta_find(name);
        if (lmi_meta_is_rotary(name))
            continue;
        if (!k && s->n > 1)
            return lm_err_set(e, LM_UNSUPPORTED, "tensor '%.200s' is not one of Meta's: how it is cut into %zu shards is not "
                              "known", name, s->n);
        if (k && k->cut != LMI_CUT_NONE ? join(s, k, v, e) < 0 : take_one(s, v, e) < 0)
            return -1;
    }
    return 0;
}

static int add_shard(struct shards *s, const char *path, struct lm_err *e)
{
    size_t i = s->n++;

    if (lmi_torch_views(s->m, path, &s->list[i], e) < 0)
        return -1;
    s->by_name[i] = lm_map_new(s->list[i].n);
    if (!s->by_name[i])
        return lmi_nomem(e);
    for (size_t k = 0; k < s->list[i].n; k++) {
        int put = lm_map_put(s->by_name[i], s->list[i].v[k].name, k);
        if (put <= 0)
            return put < 0 ? lmi_nomem(e) : lm_err_set(e, LM_MALFORMED, "%s: tensor '%.*s' appears twice", path,
                                                       LMI_SHOW(s->list[i].v[k].name));
    }
    return 0;
}

static bool is_there(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

static char *shard_path(struct lm_model *m, const char *params, size_t i)
{
    char name[40];

    snprintf(name, sizeof name, "consolidated.%02zu.pth", i);
    return lmi_beside(&m->arena, params, name);
}

/* consolidated.00.pth on, without gaps; the last is found by trying. */
static int read_shards(struct shards *s, const char *params, struct lm_err *e)
{
    size_t last = 0;

    for (size_t i = 0; i < MAX_SHARDS; i++) {
        char *path = shard_path(s->m, params, i);
        if (!path)
            return lmi_nomem(e);
        if (is_there(path))
            last = i;
    }
    for (size_t i = 0; i <= last; i++) {
        char *path = shard_path(s->m, params, i);
        if (!path)
            return lmi_nomem(e);
        if (!is_there(path))
            return lm_err_set(e, LM_MISSING, "%s: no such file; the shards are 00 to %02zu", path, last);
        if (add_shard(s, path, e) < 0)
            return -1;
    }
    return join_all(s, e);
}

/* ---- the whole */

/* Scaled rotary frequencies are a tensor in GGUF. */
static int add_divisors(struct shards *s, struct lm_err *e)
{
    const struct lmi_llama_keys *k = &s->p->keys;
    struct lm_config c = {.d_rope = k->d_head, .rope_theta = k->rope_theta, .scaling = LM_SCALING_LLAMA3,
                          .rope_factor = s->p->factor, .rope_low_freq = 1, .rope_high_freq = 4, .rope_orig_ctx = 8192};
    size_t n = k->d_head / 2;

    if (!s->p->scaled || k->d_head > 65536)
        return 0;
    float *divisors = lm_arena_array(&s->m->arena, n + 1, sizeof *divisors);
    uint8_t *bytes = lm_arena_array(&s->m->arena, n + 1, sizeof *divisors);
    struct lmi_view *v = lmi_view_new(&s->whole);
    if (!divisors || !bytes || !v)
        return lmi_nomem(e);
    lm_rope_llama3_divisors(&c, divisors);
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &divisors[i], sizeof u);
        lm_store_u32le(bytes + 4 * i, u);
    }
    *v = (struct lmi_view){.name = lm_span_str("rope_freqs.weight"), .dtype = LM_F32, .n_dims = 1, .shape = {n},
                           .bytes = bytes};
    return 0;
}

static int read_torch(struct lm_model *m, const char *params, const struct params *p, struct lm_err *e)
{
    struct shards s = {.m = m, .p = p};
    int rc = read_shards(&s, params, e);

    if (rc == 0)
        rc = add_divisors(&s, e);
    if (rc == 0)
        rc = lmi_views_add(m, s.whole.v, s.whole.n, m->files[0].path, e);
    for (size_t i = 0; i < s.n; i++) {
        free(s.list[i].v);
        lm_map_free(s.by_name[i]);
    }
    free(s.whole.v);
    return rc;
}

static int read_tensors(struct lm_model *m, const char *params, const struct params *p, struct lm_err *e)
{
    char *one = lmi_beside(&m->arena, params, "consolidated.safetensors"),
         *index = lmi_beside(&m->arena, params, "consolidated.safetensors.index.json");

    if (!one || !index)
        return lmi_nomem(e);
    if (is_there(one))
        return lmi_st_read_file(m, one, e);
    if (is_there(index))
        return lmi_read_index(m, index, &lm_format_safetensors, lmi_st_read_file, e);
    return read_torch(m, params, p, e);
}

static int rename_tensors(struct lm_model *m, const struct params *p, struct lm_err *e)
{
    return p->keys.experts ? lmi_meta_stack_experts(m, p->keys.layers, p->keys.experts, e) : lmi_meta_rename(m, e);
}

/* What params.json leaves open, from the tensors. */
static void complete(struct lmi_llama_keys *k, const struct lm_model *m)
{
    const struct lm_tensor *up = lm_model_find(m, "blk.0.ffn_up.weight"), *embd = lm_model_find(m, "token_embd.weight");

    if (up && up->n_dims == 2 && up->shape[0] <= INT32_MAX)
        k->hidden = (uint32_t)up->shape[0];
    if (embd && embd->n_dims == 2 && embd->shape[0] <= INT32_MAX)
        k->vocab = (uint32_t)embd->shape[0];
}

static int read_path(struct lm_model *m, const char *path, struct lm_err *e)
{
    struct params p = {.scaled = false};

    if (read_params(&p, path, e) < 0 || read_tensors(m, path, &p, e) < 0 || rename_tensors(m, &p, e) < 0)
        return -1;
    complete(&p.keys, m);
    return lmi_put_llama_keys(m, &p.keys, e);
}

static int probe(struct lm_span f, const char *path)
{
    if (strcmp(lmi_base_name(path), "params.json") != 0 || f.size == 0)
        return 0;
    return memmem(f.data, f.size, "\"dim\"", 5) && memmem(f.data, f.size, "\"n_layers\"", 10) ? 80 : 0;
}

const struct lm_format lm_format_meta_release = {
    .name = "meta",
    .title = "Meta / Mistral release",
    .probe = probe,
    .read = read_path,
};
