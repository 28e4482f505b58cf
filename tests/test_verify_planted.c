/* Usual accidents planted in every tiny model, as Hugging Face stores it and as
 * GGUF: lm_diagnose names them, and putting them right is proof. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <glob.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "gpu/compare.h"

#define MODELS "tests/fixtures/models/"
enum { N_IDS = 24, ANY = -3 };

/* ---- a model being damaged: its file in memory, its config.json */

struct copy {
    struct lm_model *m;
    struct lm_binding *b;
    uint8_t *bytes;
    size_t size;
    json_t *config; /* NULL: GGUF */
    int layer;      /* the one to be damaged; -1: outside layers, ANY: of the configuration */
    enum lm_code load_may_fail; /* with this code; LM_OK: it may not */
};

static float *values_of(const struct lm_tensor *t)
{
    struct lm_err e;
    float *x = malloc(t->n_elems * sizeof *x);

    assert_int_equal(lm_tensor_to_f32(t, 0, t->n_elems, x, &e), 0);
    return x;
}

static void put_values(struct copy *c, const struct lm_tensor *t, float *x)
{
    lm_dtype_info(t->dtype)->from_f32(c->bytes + t->offset, x, t->n_elems);
    free(x);
}

static const struct lm_tensor *tensor(const struct copy *c, enum lm_role r)
{
    return lm_bound_tensor(c->b, r, c->layer);
}

/* Rows of each head [2, d/2] -> [d/2, 2], or back. */
static void permute(float *x, size_t rows, size_t cols, size_t heads, bool back)
{
    float *old = malloc(rows * cols * sizeof *old);
    size_t d = rows / heads;

    memcpy(old, x, rows * cols * sizeof *old);
    for (size_t h = 0; h < heads; h++)
        for (size_t half = 0; half < 2; half++)
            for (size_t j = 0; j < d / 2; j++) {
                size_t split = h * d + half * (d / 2) + j, pair = h * d + 2 * j + half;
                memcpy(x + (back ? split : pair) * cols, old + (back ? pair : split) * cols, cols * sizeof *x);
            }
    free(old);
}

static size_t heads_of(const struct copy *c, enum lm_role r)
{
    return r == LM_ROLE_ATTN_Q ? c->b->config.n_heads : c->b->config.n_kv_heads;
}

static bool permute_tensor(struct copy *c, enum lm_role r, size_t heads, bool back)
{
    const struct lm_tensor *t = tensor(c, r);

    if (!t || c->b->config.d_head <= 4 || !c->b->config.d_rope || t->shape[0] % (2 * heads))
        return false;
    float *x = values_of(t);
    permute(x, t->shape[0], t->shape[1], heads, back);
    put_values(c, t, x);
    return true;
}

/* Does GGUF hold these rows in another order? */
static bool is_permuted_arch(const struct copy *c)
{
    const struct lm_arch *a = c->b->config.arch;

    for (size_t i = 0; i < a->n_rows; i++)
        if (a->rows[i].transform == LM_T_PERMUTE_Q)
            return true;
    return false;
}

static bool unpermuted_k(struct copy *c)
{
    return is_permuted_arch(c) && permute_tensor(c, LM_ROLE_ATTN_K, heads_of(c, LM_ROLE_ATTN_K), !c->config);
}

static bool unpermuted_q(struct copy *c)
{
    return is_permuted_arch(c) && permute_tensor(c, LM_ROLE_ATTN_Q, heads_of(c, LM_ROLE_ATTN_Q), !c->config);
}

static bool permuted_twice(struct copy *c)
{
    return permute_tensor(c, LM_ROLE_ATTN_Q, heads_of(c, LM_ROLE_ATTN_Q), c->config && is_permuted_arch(c));
}

static bool wrong_heads(struct copy *c)
{
    size_t right = c->b->config.n_kv_heads, wrong = c->b->config.n_heads;

    if (!is_permuted_arch(c) || right == wrong || c->b->config.d_head < 8)
        return false;
    const struct lm_tensor *t = tensor(c, LM_ROLE_ATTN_K);
    float *x = values_of(t);
    /* Into the other container's order with one count, back with the other. */
    permute(x, t->shape[0], t->shape[1], right, !c->config);
    permute(x, t->shape[0], t->shape[1], wrong, c->config != NULL);
    put_values(c, t, x);
    return true;
}

static bool rope_kind(struct copy *c)
{
    bool done = is_permuted_arch(c);

    for (c->layer = 0; done && c->layer < (int)c->b->config.n_layers; c->layer++)
        done = unpermuted_q(c) && unpermuted_k(c);
    c->layer = 0;
    return done;
}

/* ---- values */

static const enum lm_role norms[] = {LM_ROLE_ATTN_NORM, LM_ROLE_FFN_NORM, LM_ROLE_POST_ATTN_NORM};

static bool norm_plus_one(struct copy *c)
{
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++) {
        const struct lm_tensor *t = tensor(c, norms[i]);
        if (!t)
            continue;
        float *x = values_of(t);
        for (size_t k = 0; k < t->n_elems; k++)
            x[k] += 1;
        put_values(c, t, x);
        return true;
    }
    return false;
}

static bool transposed(struct copy *c)
{
    static const enum lm_role roles[] = {LM_ROLE_ATTN_OUT, LM_ROLE_ATTN_V, LM_ROLE_ATTN_Q};

    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        const struct lm_tensor *t = tensor(c, roles[i]);
        if (!t || t->n_dims != 2 || t->shape[0] != t->shape[1])
            continue;
        size_t n = t->shape[0];
        float *x = values_of(t), *y = malloc(n * n * sizeof *y);
        for (size_t r = 0; r < n; r++)
            for (size_t k = 0; k < n; k++)
                y[k * n + r] = x[r * n + k];
        free(x);
        put_values(c, t, y);
        return true;
    }
    return false;
}

/* Exchanges two matrices, whichever tensors they are part of. */
static bool exchange(struct copy *c, enum lm_role ra, uint32_t ia, enum lm_role rb, uint32_t ib)
{
    struct lm_part a, b;

    if (!lm_bound_part(c->b, ra, c->layer, ia, &a) || !lm_bound_part(c->b, rb, c->layer, ib, &b))
        return false;
    size_t size = lm_dtype_info(a.t->dtype)->block_bytes;
    for (uint64_t r = 0; r < a.n[0]; r++)
        for (uint64_t k = 0; k < a.n[1]; k++) {
            uint8_t *x = c->bytes + a.t->offset + (a.at + r * a.step[0] + k * a.step[1]) * size, old[8];
            uint8_t *y = c->bytes + b.t->offset + (b.at + r * b.step[0] + k * b.step[1]) * size;
            memcpy(old, x, size);
            memcpy(x, y, size);
            memcpy(y, old, size);
        }
    return true;
}

static bool gate_up(struct copy *c)
{
    const struct lm_tensor *t = tensor(c, LM_ROLE_FFN_GATE_UP);

    if (t) {
        float *x = values_of(t), *y = malloc(t->n_elems * sizeof *y);
        size_t half = t->n_elems / 2;
        memcpy(y, x + half, half * sizeof *y);
        memcpy(y + half, x, half * sizeof *y);
        free(x);
        put_values(c, t, y);
        return true;
    }
    if (exchange(c, LM_ROLE_FFN_GATE, 0, LM_ROLE_FFN_UP, 0))
        return true;
    for (uint32_t i = 0; i < c->b->config.n_experts; i++) /* of all: the text may not ask for every one */
        if (!exchange(c, LM_ROLE_GATE_EXPS, i, LM_ROLE_UP_EXPS, i))
            return false;
    return c->b->config.n_experts > 0;
}

static bool expert_order(struct copy *c)
{
    return c->b->config.n_experts > 2 && exchange(c, LM_ROLE_DOWN_EXPS, 0, LM_ROLE_DOWN_EXPS, 2);
}

static const struct lm_tensor *any_matrix(const struct copy *c)
{
    static const enum lm_role roles[] = {LM_ROLE_ATTN_V, LM_ROLE_ATTN_QKV, LM_ROLE_ATTN_OUT};
    const struct lm_tensor *t = NULL;

    for (size_t i = 0; !t && i < sizeof roles / sizeof *roles; i++)
        t = tensor(c, roles[i]);
    return t;
}

static bool zeroed(struct copy *c)
{
    const struct lm_tensor *t = any_matrix(c);

    memset(c->bytes + t->offset, 0, t->n_bytes);
    return true;
}

static bool truncated(struct copy *c)
{
    const struct lm_tensor *t = tensor(c, LM_ROLE_ATTN_OUT);

    memset(c->bytes + t->offset + t->n_bytes / 4 * 3, 0, t->n_bytes / 4);
    return true;
}

static bool misplaced(struct copy *c)
{
    const struct lm_tensor *t = tensor(c, LM_ROLE_ATTN_OUT), *u = lm_bound_tensor(c->b, LM_ROLE_ATTN_OUT, c->layer - 1);

    memcpy(c->bytes + t->offset, c->bytes + u->offset, t->n_bytes);
    return true;
}

/* ---- outside layers */

static bool embedding_scaled(struct copy *c)
{
    c->layer = -1;
    const struct lm_tensor *t = tensor(c, LM_ROLE_TOKEN_EMBD);
    float *x = values_of(t);
    for (size_t i = 0; i < t->n_elems; i++)
        x[i] *= sqrtf((float)c->b->config.d_model);
    put_values(c, t, x);
    return true;
}

static bool wrong_head(struct copy *c)
{
    c->layer = -1;
    const struct lm_tensor *t = tensor(c, LM_ROLE_OUTPUT), *u = tensor(c, LM_ROLE_TOKEN_EMBD);
    if (!t)
        return false;
    memcpy(c->bytes + t->offset, c->bytes + u->offset, t->n_bytes);
    return true;
}

static bool head_tied(struct copy *c)
{
    if (!c->config || c->b->config.tied)
        return false;
    c->layer = -1;
    json_object_set_new(c->config, "tie_word_embeddings", json_true());
    return true;
}

/* ---- the configuration */

static uint8_t *gguf_value(struct copy *c, const char *key)
{
    char name[100];

    snprintf(name, sizeof name, "%s.%s", c->b->config.arch->name, key);
    uint8_t *at = memmem(c->bytes, c->size, name, strlen(name));
    return at ? at + strlen(name) + 4 : NULL;
}

static bool rope_base(struct copy *c)
{
    c->layer = ANY;
    if (c->b->config.d_rope <= 2) /* a single pair turns by 1 whatever the base */
        return false;
    if (!c->config) {
        uint8_t *at = gguf_value(c, "rope.freq_base");
        float theta = 1234567;
        if (at)
            memcpy(at, &theta, sizeof theta);
        return at != NULL;
    }
    json_t *p = json_object_get(c->config, "rope_parameters");
    json_t *where = json_object_get(p, "full_attention") ? json_object_get(p, "full_attention") : p ? p : c->config;
    json_object_set_new(where, "rope_theta", json_real(1234567));
    return true;
}

/* Where a config.json says how positions rotate; NULL: not at all, or by a single pair. */
static json_t *rotation(struct copy *c)
{
    json_t *p = c->config ? json_object_get(c->config, "rope_parameters") : NULL;
    json_t *full = json_object_get(p, "full_attention");

    c->layer = ANY;
    return c->b->config.d_rope > 2 ? full ? full : p : NULL;
}

/* Scaled in a way that it is not; what the way it is scaled had said stays. */
static bool scaled_as(struct copy *c, const char *kind, enum lm_rope_scaling is)
{
    json_t *p = rotation(c), *factors = json_array();
    uint32_t ctx = c->b->config.rope_orig_ctx ? c->b->config.rope_orig_ctx : 32;

    for (uint32_t i = 0; i < c->b->config.d_rope / 2; i++)
        json_array_append_new(factors, json_real(1.5 + i));
    if (p && c->b->config.scaling != is) {
        json_object_set_new(p, "rope_type", json_string(kind));
        json_object_set_new(p, "factor", json_real(3));
        json_object_set_new(p, "low_freq_factor", json_real(1));
        json_object_set_new(p, "high_freq_factor", json_real(4));
        json_object_set_new(p, "original_max_position_embeddings", json_integer(ctx));
        json_object_set(p, "short_factor", factors);
        json_object_set(p, "long_factor", factors);
    }
    json_decref(factors);
    return p && c->b->config.scaling != is;
}
static bool scaled_linear(struct copy *c) { return scaled_as(c, "linear", LM_SCALING_LINEAR); }
static bool scaled_llama3(struct copy *c) { return scaled_as(c, "llama3", LM_SCALING_LLAMA3); }
static bool scaled_yarn(struct copy *c) { return scaled_as(c, "yarn", LM_SCALING_YARN); }
static bool scaled_longrope(struct copy *c) { return scaled_as(c, "longrope", LM_SCALING_LONGROPE); }

/* Nobody's reading of it is the same: said at once. */
static bool scaled_dynamic(struct copy *c)
{
    c->load_may_fail = LM_UNSUPPORTED;
    return scaled_as(c, "dynamic", LM_SCALING_LONGROPE + 1);
}

/* GGUF says Llama 3's and LongRoPE's scaling by tensors of divisors. */
static bool no_divisors(struct copy *c)
{
    static const enum lm_role roles[] = {LM_ROLE_ROPE_FREQS, LM_ROLE_ROPE_SHORT};

    c->layer = -1;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        const struct lm_tensor *t = tensor(c, roles[i]);
        if (!t)
            continue;
        float *x = values_of(t);
        for (size_t k = 0; k < t->n_elems; k++)
            x[k] = 1;
        put_values(c, t, x);
        c->layer = ANY;
        return true;
    }
    return false;
}

static bool not_scaled(struct copy *c)
{
    json_t *p = rotation(c);

    if (!c->config)
        return no_divisors(c);
    if (!p || c->b->config.scaling == LM_SCALING_NONE)
        return false;
    json_object_set_new(p, "rope_type", json_string("default"));
    return true;
}

static bool other_factor(struct copy *c)
{
    json_t *p = rotation(c);
    uint8_t *at = c->config ? NULL : gguf_value(c, "rope.scaling.factor");
    float x;

    if (at && c->b->config.d_rope > 2) {
        memcpy(&x, at, sizeof x);
        x *= 2;
        memcpy(at, &x, sizeof x);
        return true;
    }
    json_t *factor = json_object_get(p, "factor"), *factors = json_object_get(p, "short_factor");
    if (c->b->config.scaling == LM_SCALING_NONE || (!factor && !factors))
        return false;
    if (factor)
        json_object_set_new(p, "factor", json_real(2 * json_number_value(factor)));
    if (factors)
        json_array_set_new(factors, 1, json_real(2 * json_number_value(json_array_get(factors, 1))));
    return true;
}

static bool embedding_field(struct copy *c)
{
    c->layer = -1;
    if (!c->config || !json_object_get(c->config, "embedding_multiplier"))
        return false;
    json_object_set_new(c->config, "embedding_multiplier", json_real(3));
    return true;
}

/* ---- names */

/* The tensor is called something else, as if it were not there. */
static bool missing_bias(struct copy *c)
{
    static const enum lm_role roles[] = {LM_ROLE_ATTN_V_B, LM_ROLE_ATTN_QKV_B, LM_ROLE_ATTN_OUT_B};
    const struct lm_tensor *t = NULL;

    for (size_t i = 0; !t && i < sizeof roles / sizeof *roles; i++)
        t = tensor(c, roles[i]);
    if (!t)
        return false;
    uint8_t *at = memmem(c->bytes, c->size, t->name, strlen(t->name));
    assert_non_null(at);
    at[strlen(t->name) - 1] = 'z';
    if (c->config && strcmp(c->b->config.arch->name, "llama") == 0) /* the others know by their name */
        json_object_set_new(c->config, "attention_bias", json_false());
    c->load_may_fail = LM_MISSING; /* where the architecture says that it must be there */
    return true;
}

/* ---- the table */

struct plant {
    const char *name;
    bool (*damage)(struct copy *c); /* false: makes no sense in this model */
    enum lm_cause cause;
    bool gguf;                      /* in GGUF, too: it lies there otherwise */
    enum lm_stage stage;            /* where it shows first; LM_STAGE_INPUT: not asked */
    unsigned planted, found, refused;
};
static struct plant plants[] = {
    {"Q not permuted", unpermuted_q, LM_CAUSE_NOT_PERMUTED, true, LM_STAGE_Q, 0, 0, 0},
    {"K not permuted", unpermuted_k, LM_CAUSE_NOT_PERMUTED, true, LM_STAGE_K, 0, 0, 0},
    {"permuted once too often", permuted_twice, LM_CAUSE_PERMUTED_TWICE, true, LM_STAGE_Q, 0, 0, 0},
    {"permuted, wrong heads", wrong_heads, LM_CAUSE_WRONG_HEADS, true, LM_STAGE_K, 0, 0, 0},
    {"wrong RoPE kind", rope_kind, LM_CAUSE_ROPE_KIND, true, LM_STAGE_INPUT, 0, 0, 0},
    {"wrong RoPE base", rope_base, LM_CAUSE_ROPE_BASE, true, LM_STAGE_INPUT, 0, 0, 0},
    {"RoPE scaling missing", not_scaled, LM_CAUSE_ROPE_SCALING, true, LM_STAGE_INPUT, 0, 0, 0},
    {"RoPE scaled otherwise", other_factor, LM_CAUSE_ROPE_SCALING, true, LM_STAGE_INPUT, 0, 0, 0},
    {"RoPE scaling is linear", scaled_linear, LM_CAUSE_ROPE_SCALING, false, LM_STAGE_INPUT, 0, 0, 0},
    {"RoPE scaling is Llama 3's", scaled_llama3, LM_CAUSE_ROPE_SCALING, false, LM_STAGE_INPUT, 0, 0, 0},
    {"RoPE scaling is YaRN", scaled_yarn, LM_CAUSE_ROPE_SCALING, false, LM_STAGE_INPUT, 0, 0, 0},
    {"RoPE scaling is LongRoPE", scaled_longrope, LM_CAUSE_ROPE_SCALING, false, LM_STAGE_INPUT, 0, 0, 0},
    {"RoPE scaling is dynamic", scaled_dynamic, LM_CAUSE_ROPE_SCALING, false, LM_STAGE_INPUT, 0, 0, 0},
    {"norm off by one", norm_plus_one, LM_CAUSE_OFF_BY_ONE, true, LM_STAGE_INPUT, 0, 0, 0},
    {"transposed", transposed, LM_CAUSE_TRANSPOSED, true, LM_STAGE_INPUT, 0, 0, 0},
    {"gate and up swapped", gate_up, LM_CAUSE_GATE_UP_SWAPPED, true, LM_STAGE_INPUT, 0, 0, 0},
    {"missing bias", missing_bias, LM_CAUSE_MISSING, true, LM_STAGE_INPUT, 0, 0, 0},
    {"wrong expert order", expert_order, LM_CAUSE_EXPERT_ORDER, true, LM_STAGE_INPUT, 0, 0, 0},
    {"head is the embedding", wrong_head, LM_CAUSE_TIED_HEAD, true, LM_STAGE_INPUT, 0, 0, 0},
    {"head tied by config", head_tied, LM_CAUSE_TIED_HEAD, false, LM_STAGE_INPUT, 0, 0, 0},
    {"embedding scaled", embedding_scaled, LM_CAUSE_EMBED_SCALE, true, LM_STAGE_INPUT, 0, 0, 0},
    {"embedding's multiplier", embedding_field, LM_CAUSE_EMBED_SCALE, false, LM_STAGE_INPUT, 0, 0, 0},
    {"zeroed", zeroed, LM_CAUSE_ZEROED, true, LM_STAGE_INPUT, 0, 0, 0},
    {"truncated", truncated, LM_CAUSE_TRUNCATED, true, LM_STAGE_INPUT, 0, 0, 0},
    {"another layer's", misplaced, LM_CAUSE_MISPLACED, true, LM_STAGE_INPUT, 0, 0, 0},
};
enum { N_PLANTS = sizeof plants / sizeof plants[0] };

/* The same by architecture. */
static struct tally { const char *arch; unsigned planted, found, refused; } tallies[64];

static struct tally *tally_of(const char *arch)
{
    struct tally *t = tallies;

    while (t->arch && strcmp(t->arch, arch) != 0)
        t++;
    assert_true(t < tallies + sizeof tallies / sizeof *tallies - 1);
    t->arch = arch;
    return t;
}

/* ---- running */

static int open_side(struct lm_side *s, const char *path, struct lm_err *e)
{
    struct lm_engine_options o = {.device = "cpu", .n_threads = 1, .ctx_len = N_IDS};

    *s = (struct lm_side){0};
    if (lm_model_open(&s->model, path, e) || lm_engine_open(&s->engine, s->model, &o, e))
        return -1;
    return lm_session_open(&s->session, s->engine, e);
}

static void close_side(struct lm_side *s)
{
    lm_session_close(s->session);
    lm_engine_close(s->engine);
    lm_model_close(s->model);
}

struct seen { int first; struct lm_departure where; struct lm_diagnosis why; double kld; };

static void examine(const struct lm_side *a, const struct lm_side *b, struct seen *s)
{
    const struct lm_config *c = lm_engine_config(a->engine);
    struct lm_layer_error *l = calloc(c->n_layers + 1, sizeof *l);
    float *hidden = malloc((c->n_layers + 1) * (size_t)N_IDS * c->d_model * sizeof *hidden);
    float *logits = malloc(2 * (size_t)c->vocab_size * sizeof *logits);
    struct lm_position p;
    struct lm_err e;
    int32_t ids[N_IDS];

    for (int i = 0; i < N_IDS; i++)
        ids[i] = (int32_t)((uint32_t)(i + 1) * 2654435761u % c->vocab_size);
    for (uint32_t i = 0; i <= c->n_layers; i++)
        l[i].bound = lm_layer_bound(lm_explained_error(a, b, (int)i - 1));
    assert_int_equal(lm_hidden_keep(a, ids, N_IDS, hidden, &e), 0);
    assert_int_equal(lm_layers_compare(b, ids, N_IDS, hidden, l, &e), 0);
    s->first = lm_layers_first(l, c->n_layers);
    if (s->first != LM_NOWHERE)
        assert_int_equal(lm_stages_compare(a, b, ids, N_IDS, hidden, s->first, &s->where, &e), 0);
    assert_int_equal(lm_session_eval(a->session, ids, N_IDS, LM_LOGITS_LAST, logits, &e), 0);
    assert_int_equal(lm_session_eval(b->session, ids, N_IDS, LM_LOGITS_LAST, logits + c->vocab_size, &e), 0);
    lm_position_compare(&p, logits, logits + c->vocab_size, c->vocab_size, -1);
    s->kld = p.kld;
    if (lm_diagnose(a, b, ids, N_IDS, hidden, l, &s->why, &e) != 0)
        fail_msg("%s", e.text);
    free(l);
    free(hidden);
    free(logits);
}

static void write_copy(const struct copy *c, const char *folder, char *path, size_t size)
{
    snprintf(path, size, "%s/%s", folder, c->config ? "model.safetensors" : "model.gguf");
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(c->bytes, 1, c->size, f), c->size);
    assert_int_equal(fclose(f), 0);
    if (!c->config)
        return;
    snprintf(path, size, "%s/config.json", folder);
    assert_int_equal(json_dump_file(c->config, path, 0), 0);
    snprintf(path, size, "%s", folder);
}

static bool names(const struct lm_diagnosis *w, enum lm_cause cause)
{
    for (size_t i = 0; i < w->n; i++)
        if (w->found[i].cause == cause)
            return true;
    return false;
}

static void judge(const struct copy *c, const char *model, struct plant *p, const struct lm_side *a, const char *path)
{
    struct lm_side b;
    struct lm_err e;
    struct seen s = {0};
    struct tally *t = tally_of(c->b->config.arch->name);

    p->planted++;
    t->planted++;
    if (open_side(&b, path, &e) != 0) {
        if (!c->load_may_fail || e.code != c->load_may_fail)
            fail_msg("%s, %s: %s", model, p->name, e.text);
        p->refused++;
        t->refused++;
    } else {
        examine(a, &b, &s);
        bool where = c->layer == ANY || s.first == c->layer || (c->layer < 0 && s.first == LM_NOWHERE);
        where = where && (p->stage == LM_STAGE_INPUT || (p->stage == s.where.stage && s.where.head >= 0));
        bool found = names(&s.why, p->cause) && s.why.cured && where && s.why.n_more == 0;
        p->found += found;
        t->found += found;
        if (!found)
            print_message("%s, %s: first layer %d of %d, KLD %.2g, cured %d, %zu found: %s %s\n", model, p->name, s.first,
                          c->layer, s.kld, s.why.cured, s.why.n, s.why.n ? lm_cause_name(s.why.found[0].cause) : "nothing",
                          s.why.n ? s.why.found[0].text : "");
    }
    close_side(&b);
}

static void plant_in(const char *model, const char *folder, const struct lm_side *a)
{
    const struct lm_model_file *f = lm_model_file(a->model, 0);

    for (int i = 0; i < N_PLANTS; i++) {
        struct copy c = {.m = a->model, .size = f->map.size, .layer = (int)lm_engine_config(a->engine)->n_layers - 1};
        struct lm_span config;
        struct lm_err e;
        char path[PATH_MAX];
        bool hf = lm_engine_binding(a->engine)->naming == LM_NAMES_HF;
        if (hf) {
            assert_int_equal(lm_model_sidecar(a->model, "config.json", &config, &e), 1);
            c.config = json_loadb((const char *)config.data, config.size, 0, NULL);
            assert_non_null(c.config);
        }
        assert_int_equal(lm_bind(&c.b, a->model, &e), 0);
        c.bytes = malloc(c.size);
        memcpy(c.bytes, f->map.data, c.size);
        if ((hf || plants[i].gguf) && plants[i].damage(&c)) {
            write_copy(&c, folder, path, sizeof path);
            judge(&c, model, &plants[i], a, path);
        }
        json_decref(c.config);
        lm_binding_free(c.b);
        free(c.bytes);
    }
}

static void remove_folder(const char *folder)
{
    glob_t g;
    char pattern[PATH_MAX];

    snprintf(pattern, sizeof pattern, "%s/*", folder);
    if (glob(pattern, 0, NULL, &g) == 0)
        for (size_t i = 0; i < g.gl_pathc; i++)
            unlink(g.gl_pathv[i]);
    globfree(&g);
    assert_int_equal(rmdir(folder), 0);
}

static void convert(const char *model, const char *gguf)
{
    char self[PATH_MAX], line[4 * PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    assert_true(n > 0);
    self[n] = '\0';
    for (int up = 0; up < 2; up++)
        *strrchr(self, '/') = '\0';
    snprintf(line, sizeof line, "'%s/lm-convert' '%s' '%s' >/dev/null 2>&1", self, model, gguf);
    assert_int_equal(system(line), 0);
}

static void try_model(const char *model, bool gguf)
{
    char folder[] = "/tmp/test_planted.XXXXXX", path[PATH_MAX];
    struct lm_side a;
    struct lm_err e;

    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s", model);
    if (gguf) {
        snprintf(path, sizeof path, "%s/original.gguf", folder);
        convert(model, path);
    }
    if (open_side(&a, path, &e) != 0)
        fail_msg("%s", e.text);
    if (lm_model_n_files(a.model) == 1 && lm_model_file(a.model, 0)->made == false)
        plant_in(path, folder, &a);
    close_side(&a);
    remove_folder(folder);
}

static void test_planted(void **state)
{
    glob_t g;
    unsigned planted = 0, found = 0, refused = 0;

    (void)state;
    assert_int_equal(glob(MODELS "*/config.json", 0, NULL, &g), 0);
    for (size_t i = 0; i < g.gl_pathc; i++) {
        *strrchr(g.gl_pathv[i], '/') = '\0';
        try_model(g.gl_pathv[i], false);
        try_model(g.gl_pathv[i], true);
    }
    globfree(&g);
    for (int i = 0; i < N_PLANTS; i++) {
        const struct plant *p = &plants[i];
        print_message("%-26s planted %3u, named %3u, refused %3u\n", p->name, p->planted, p->found, p->refused);
        assert_true(p->planted > 0);
        planted += p->planted;
        found += p->found;
        refused += p->refused;
    }
    print_message("%-26s planted %3u, named %3u, refused %3u\n\n", "all", planted, found, refused);
    for (const struct tally *t = tallies; t->arch; t++)
        print_message("%-26s planted %3u, named %3u, refused %3u\n", t->arch, t->planted, t->found, t->refused);
    for (size_t i = 0; lm_arch_at(i); i++)
        assert_true(tally_of(lm_arch_at(i)->name)->planted > 0);
    assert_int_equal(found + refused, planted);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_planted)};

    /* Models this small are run faster by one thread; OpenMP reads this once. */
    if (!getenv("OMP_THREAD_LIMIT") && setenv("OMP_THREAD_LIMIT", "1", 1) == 0)
        execv("/proc/self/exe", argv);
    (void)argc;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
