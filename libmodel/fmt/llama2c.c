/* llama2.c: https://github.com/karpathy/llama2.c/blob/master/export.py
 *
 *   version 0: 7 x i32: dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size
 *              (negative: the classifier is not the embedding), seq_len; F32 weights;
 *              two tables of rotary frequencies that nothing needs
 *   version 1: "24ka", i32 1, the 7 numbers, u8 shared classifier, zeros up to 256;
 *              F32 weights, norms first
 *   version 2: "24ka", i32 2, the 7 numbers, u8 shared classifier, i32 group size,
 *              zeros up to 256; F32 norms, then each matrix as signed bytes and an
 *              F32 scale for every group
 *
 * All little-endian. The tensors have no names: they get GGUF's, for which the
 * rows of Q and K are in the right order (adjacent rotary pairs). The
 * tokenizer is a file beside it, see tok/llama2c.c. */
#include <stdio.h>
#include <stdlib.h>

#include "libmodel/fmt/llama_keys.h"
#include "libmodel/fmt/views.h"
#include "libmodel/tok/llama2c.h"

enum { V1_HEAD = 256, V0_HEAD = 28 };

struct head {
    uint32_t version, group;
    uint64_t dim, hidden, layers, heads, kv_heads, vocab, ctx; /* below 2^31 */
    bool shared;
    size_t n_bytes;
};

static bool has_magic(struct lm_span f)
{
    return f.size >= 4 && memcmp(f.data, "24ka", 4) == 0;
}

static int bad(struct lm_err *e, const char *what)
{
    return lm_err_set(e, LM_MALFORMED, "llama2.c header: %s", what);
}

static int read_numbers(struct head *h, struct lm_cursor *c, struct lm_err *e)
{
    uint64_t *const fields[] = {&h->dim, &h->hidden, &h->layers, &h->heads, &h->kv_heads, &h->vocab, &h->ctx};

    for (int i = 0; i < 7; i++) {
        int32_t v = (int32_t)lm_cur_u32(c);
        if (i == 5 && h->version == 0) {
            h->shared = v > 0;
            v = v < 0 && v > INT32_MIN ? -v : v;
        }
        if (v <= 0)
            return bad(e, "a size is zero or negative");
        *fields[i] = (uint64_t)v;
    }
    if (c->failed)
        return bad(e, "cut short");
    if (h->dim % h->heads || h->heads % h->kv_heads || h->dim / h->heads % 2)
        return bad(e, "the numbers of heads do not divide the width into even heads");
    return 0;
}

static int read_head(struct head *h, struct lm_span f, struct lm_err *e)
{
    struct lm_cursor c = lm_cursor_of(f);

    *h = (struct head){.n_bytes = V0_HEAD};
    if (!has_magic(f))
        return read_numbers(h, &c, e);
    h->n_bytes = V1_HEAD;
    if (f.size < V1_HEAD)
        return bad(e, "cut short");
    lm_cur_u32(&c);
    h->version = lm_cur_u32(&c);
    if (h->version != 1 && h->version != 2)
        return lm_err_set(e, LM_UNSUPPORTED, "llama2.c version %u; 0, 1 and 2 are known", h->version);
    if (read_numbers(h, &c, e) < 0)
        return -1;
    uint8_t shared = lm_cur_u8(&c);
    h->group = h->version == 2 ? lm_cur_u32(&c) : 0;
    if (shared > 1)
        return bad(e, "the flag of the shared classifier is neither 0 nor 1");
    if (h->version == 2 && (h->group == 0 || h->group > INT32_MAX))
        return bad(e, "the group size is zero or negative");
    h->shared = shared;
    while (c.pos < V1_HEAD)
        if (lm_cur_u8(&c))
            return bad(e, "bytes between the numbers and byte 256 are not zero");
    return 0;
}

/* ---- weights */

enum dim { NONE, DIM, HIDDEN, KV, VOCAB };

static const struct weight {
    const char *name; /* NULL: rotary tables of version 0 */
    enum dim shape[2];
    bool norm; /* F32 in every version */
} embd = {"token_embd.weight", {VOCAB, DIM}, false},
  attn_norm = {"blk.%u.attn_norm.weight", {DIM, NONE}, true}, q = {"blk.%u.attn_q.weight", {DIM, DIM}, false},
  k = {"blk.%u.attn_k.weight", {KV, DIM}, false}, v = {"blk.%u.attn_v.weight", {KV, DIM}, false},
  o = {"blk.%u.attn_output.weight", {DIM, DIM}, false}, ffn_norm = {"blk.%u.ffn_norm.weight", {DIM, NONE}, true},
  gate = {"blk.%u.ffn_gate.weight", {HIDDEN, DIM}, false}, down = {"blk.%u.ffn_down.weight", {DIM, HIDDEN}, false},
  up = {"blk.%u.ffn_up.weight", {HIDDEN, DIM}, false}, norm = {"output_norm.weight", {DIM, NONE}, true},
  rotary = {NULL, {NONE, NONE}, true}, output = {"output.weight", {VOCAB, DIM}, false};

static const struct weight *const order0[] = {&embd, &attn_norm, &q, &k, &v, &o, &ffn_norm, &gate, &down, &up, &norm,
                                              &rotary, &output},
                    *const order1[] = {&attn_norm, &ffn_norm, &norm, &embd, &q, &k, &v, &o, &gate, &down, &up, &output};

static uint64_t size_of(const struct head *h, enum dim d)
{
    switch (d) {
    case DIM: return h->dim;
    case HIDDEN: return h->hidden;
    case KV: return h->dim / h->heads * h->kv_heads;
    case VOCAB: return h->vocab;
    case NONE: break;
    }
    return 1;
}

/* The rest of the file from *at on; 0 or -1 when a size does not fit in 63 bits. */
struct walk {
    const struct head *h;
    uint64_t at;
    struct lm_model *m; /* NULL: only measure */
    size_t file;
    struct lmi_view_list list;
};

static int add_view(struct walk *w, const struct weight *x, uint32_t layer, uint64_t n_bytes, bool quantized,
                    struct lm_err *e)
{
    struct lmi_view *view = lmi_view_new(&w->list);
    struct lmi_blob *b = lm_arena_alloc(&w->m->arena, sizeof *b);
    const char *rest = strchr(x->name, '%');
    char name[64];

    if (rest)
        snprintf(name, sizeof name, "blk.%u%s", layer, rest + 2);
    else
        snprintf(name, sizeof name, "%s", x->name);
    char *own = lm_arena_str(&w->m->arena, lm_span_str(name));
    if (!view || !b || !own)
        return lmi_nomem(e);
    *b = (struct lmi_blob){.file = w->file, .offset = w->at, .n_stored = n_bytes, .n_bytes = n_bytes};
    *view = (struct lmi_view){.name = lm_span_str(own), .dtype = quantized ? LM_I8 : LM_F32, .blob = b,
                              .n_dims = x->shape[1] == NONE ? 1 : 2,
                              .quant = quantized ? LMI_QUANT_GROUP : LMI_QUANT_NONE, .group = w->h->group};
    for (unsigned i = 0; i < view->n_dims; i++)
        view->shape[i] = size_of(w->h, x->shape[i]);
    lmi_view_row_major(view);
    return 0;
}

static int visit(struct walk *w, const struct weight *x, uint32_t layer, struct lm_err *e)
{
    const struct head *h = w->h;
    bool quantized = h->version == 2 && !x->norm;
    uint64_t n, n_bytes, scales = 0, end;

    if (x->name ? !lm_mul_u64(size_of(h, x->shape[0]), size_of(h, x->shape[1]), &n)
                : !lm_mul_u64(h->ctx, h->dim / h->heads, &n)) /* two tables of half a head */
        return bad(e, "the sizes overflow");
    if (quantized && n % h->group)
        return bad(e, "a matrix is not whole groups");
    if (!lm_mul_u64(n, quantized ? 1 : 4, &n_bytes) || (quantized && !lm_mul_u64(n / h->group, 4, &scales)) ||
        !lm_add_u64(n_bytes, scales, &n_bytes) || !lm_add_u64(w->at, n_bytes, &end) || end > INT64_MAX)
        return bad(e, "the sizes overflow");
    if (w->m && x->name && add_view(w, x, layer, n_bytes, quantized, e) < 0)
        return -1;
    w->at = end;
    return 0;
}

static int walk(struct walk *w, struct lm_err *e)
{
    const struct weight *const *order = w->h->version ? order1 : order0;
    size_t n = w->h->version ? sizeof order1 / sizeof order1[0] : sizeof order0 / sizeof order0[0];

    w->at = w->h->n_bytes;
    for (size_t i = 0; i < n; i++) {
        if (order[i] == &output && w->h->shared)
            continue;
        bool layered = order[i]->name && strchr(order[i]->name, '%');
        uint64_t times = layered ? w->h->layers : 1;
        for (uint64_t l = 0; l < times; l++)
            if (visit(w, order[i], (uint32_t)l, e) < 0)
                return -1;
    }
    return 0;
}

/* A layer takes at least its norms: more of them than bytes is no model. */
static int measure(const struct head *h, uint64_t file_size, uint64_t *size, struct lm_err *e)
{
    struct walk w = {.h = h};

    if (h->layers > file_size / 8)
        return bad(e, "more layers than the file has room for");
    if (walk(&w, e) < 0)
        return -1;
    *size = w.at;
    return 0;
}

/* ---- metadata */

/* The last two are constants of the program. */
static int set_meta(struct lm_model *m, const struct head *h, struct lm_err *e)
{
    struct lmi_llama_keys keys = {.layers = (uint32_t)h->layers, .dim = (uint32_t)h->dim, .hidden = (uint32_t)h->hidden,
                                  .heads = (uint32_t)h->heads, .kv_heads = (uint32_t)h->kv_heads,
                                  .d_head = (uint32_t)(h->dim / h->heads), .vocab = (uint32_t)h->vocab,
                                  .ctx = (uint32_t)h->ctx, .norm_eps = 1e-5, .rope_theta = 10000};

    if (lmi_put_llama_keys(m, &keys, e) < 0)
        return -1;
    return lm_meta_set_u32(m->meta, "llama2c.version", h->version) < 0 ? lmi_nomem(e) : 0;
}

/* ---- the format */

static int read_weights(struct lm_model *m, size_t file, const struct head *h, struct lm_err *e)
{
    struct walk w = {.h = h, .m = m, .file = file};
    struct lm_span map = m->files[file].map;
    uint64_t size = 0;

    if (measure(h, map.size, &size, e) < 0)
        return -1;
    if (size != map.size)
        return lm_err_set(e, LM_MALFORMED, "the header describes a file of %llu bytes, it has %zu: %llu bytes %s",
                          (unsigned long long)size, map.size,
                          (unsigned long long)(size > map.size ? size - map.size : map.size - size),
                          size > map.size ? "are missing, it is cut short or not completely downloaded"
                                          : "follow the last tensor");
    int rc = walk(&w, e);
    if (rc == 0)
        rc = lmi_views_add(m, w.list.v, w.list.n, m->files[file].path, e);
    free(w.list.v);
    return rc;
}

static int read_path(struct lm_model *m, const char *path, struct lm_err *e)
{
    struct head h;
    size_t file;

    if (lm_model_add_file(m, path, &file, e) < 0)
        return -1;
    if (read_head(&h, m->files[file].map, e) < 0 || read_weights(m, file, &h, e) < 0 || set_meta(m, &h, e) < 0)
        return lm_err_prefix(e, "%s", path);
    if (lmi_llama2c_tokenizer(m, (size_t)h.vocab, e) < 0)
        return -1;
    /* A folder of such files belongs to none of them. */
    m->sidecar_dir = NULL;
    return 0;
}

static bool are_usual(const struct head *h)
{
    return h->dim <= 1 << 16 && h->hidden <= 1 << 18 && h->layers <= 512 && h->heads <= 512 && h->vocab <= 1 << 22 &&
           h->ctx <= 1 << 20 && h->hidden > h->dim;
}

/* Version 0 has no magic; but its numbers give the size of the file exactly. If
 * they do not, but could be a model's, and the name fits, it may be cut short. */
static int probe(struct lm_span f, const char *path)
{
    struct head h;
    uint64_t size = 0;

    if (has_magic(f))
        return 100;
    if (f.size < V0_HEAD || read_head(&h, f, NULL) < 0)
        return 0;
    if (measure(&h, f.size, &size, NULL) == 0 && size == f.size)
        return 70;
    return are_usual(&h) && lmi_has_suffix(path, ".bin") ? 20 : 0;
}

const struct lm_format lm_format_llama2c = {
    .name = "llama2c",
    .title = "llama2.c",
    .probe = probe,
    .read = read_path,
};
