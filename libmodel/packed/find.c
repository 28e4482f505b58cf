/* Which stored tensors make up weights. */
#include "libmodel/packed/packed.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libmodel/parse/json.h"

#define PACKING(s) extern const struct lmi_packing lmi_packing_##s;
#include "libmodel/packed/schemes.def"
#undef PACKING

static const struct lmi_packing *const schemes[] = {
#define PACKING(s) &lmi_packing_##s,
#include "libmodel/packed/schemes.def"
#undef PACKING
};
enum { N_SCHEMES = sizeof schemes / sizeof *schemes };

/* ---- for schemes */

bool lmi_ends(const char *name, const char *suffix)
{
    return lmi_has_suffix(name, suffix);
}

/* of's name with its last strlen(old) letters replaced; NULL: too long. */
static char *renamed(const struct lm_tensor *of, const char *old, const char *suffix, char buf[1024])
{
    size_t n = strlen(of->name) - strlen(old);

    if (n + strlen(suffix) >= 1024)
        return NULL;
    memcpy(buf, of->name, n);
    memcpy(buf + n, suffix, strlen(suffix) + 1);
    return buf;
}

const struct lm_tensor *lmi_beside_tensor(const struct lmi_finder *f, const struct lm_tensor *of, const char *old,
                                          const char *suffix)
{
    char buf[1024];
    const char *name = renamed(of, old, suffix, buf);

    return name ? lm_model_find(f->m, name) : NULL;
}

static size_t place_of(const struct lmi_finder *f, const struct lm_tensor *t)
{
    return (size_t)(t - f->m->tensors);
}

int lmi_claim(struct lmi_finder *f, struct lm_packed *p, const char *old, const char *suffix, bool needed,
              const struct lm_tensor **out, struct lm_err *e)
{
    const struct lm_tensor *t = lmi_beside_tensor(f, p->of[0], old, suffix);

    if (out)
        *out = t;
    if (!t && needed)
        return lm_err_set(e, LM_MISSING, "tensor '%s': quantized, but no '%.*s%s' lies beside it", p->of[0]->name,
                          (int)(strlen(p->of[0]->name) - strlen(old)), p->of[0]->name, suffix);
    if (!t || t == p->of[0])
        return t != NULL;
    if (f->taken[place_of(f, t)] || p->n_of == LMI_MAX_MEMBERS)
        return lm_err_set(e, LM_MALFORMED, "tensor '%s' belongs to two weights, of which '%s' is one", t->name,
                          p->of[0]->name);
    f->taken[place_of(f, t)] = true;
    p->of[p->n_of++] = t;
    return 1;
}

static void append(char *buf, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void append(char *buf, size_t size, const char *format, ...)
{
    size_t n = strlen(buf);
    va_list ap;

    va_start(ap, format);
    vsnprintf(buf + n, size - n, format, ap);
    va_end(ap);
}

/* "F16, BF16 or F32 [32, 128]" */
static void describe(uint64_t dtypes, unsigned n_dims, const uint64_t *shape, char *buf, size_t size)
{
    size_t left = (size_t)__builtin_popcountll(dtypes);

    buf[0] = 0;
    for (int d = 0; d < LM_N_DTYPES && d < 64; d++)
        if (dtypes >> d & 1)
            append(buf, size, "%s%s", lm_dtype_name((enum lm_dtype)d), --left == 1 ? " or " : left ? ", " : " ");
    append(buf, size, "[");
    for (unsigned i = 0; shape && i < n_dims; i++)
        append(buf, size, i ? ", %llu" : "%llu", (unsigned long long)shape[i]);
    append(buf, size, shape ? "]" : "any %u dimensions]", n_dims);
}

int lmi_expect(const struct lm_tensor *t, uint64_t dtypes, unsigned n_dims, const uint64_t *shape, struct lm_err *e)
{
    bool ok = t->dtype < 64 && (dtypes >> t->dtype & 1) && t->n_dims == n_dims;
    char found[192], expected[256];

    for (unsigned i = 0; ok && shape && i < n_dims; i++)
        ok = t->shape[i] == shape[i];
    if (ok)
        return 0;
    describe(dtypes, n_dims, shape, expected, sizeof expected);
    return lm_err_set(e, LM_MISMATCH, "tensor '%s' is %s %s, expected %s", t->name, lm_dtype_name(t->dtype),
                      lm_tensor_shape_str(t, found, sizeof found), expected);
}

int lmi_name(struct lmi_finder *f, struct lm_tensor *whole, const struct lm_tensor *of, const char *old,
             const char *suffix, struct lm_err *e)
{
    char buf[1024], *name = renamed(of, old, suffix, buf);

    if (!name)
        return lm_err_set(e, LM_LIMIT, "tensor '%.200s…': the name is too long", of->name);
    if (strcmp(old, suffix) != 0 && lm_model_find(f->m, name))
        return lm_err_set(e, LM_MALFORMED, "tensor '%s' is there twice: plain, and quantized as '%s'", name, of->name);
    whole->name = lm_arena_str(&f->m->arena, lm_span_str(name));
    return whole->name ? 0 : lmi_nomem(e);
}

int lmi_scheme(struct lmi_finder *f, struct lm_packed *p, struct lm_err *e, const char *format, ...)
{
    char buf[128];
    va_list ap;

    va_start(ap, format);
    vsnprintf(buf, sizeof buf, format, ap);
    va_end(ap);
    p->scheme = lm_arena_str(&f->m->arena, lm_span_str(buf));
    return p->scheme ? 0 : lmi_nomem(e);
}

int lmi_setting(const json_t *o, const char *key, int fallback, int *out, struct lm_err *e)
{
    const json_t *v = json_object_get(o, key);

    *out = fallback;
    if (!v || json_is_null(v))
        return 0;
    if (!json_is_integer(v) || json_integer_value(v) < INT32_MIN || json_integer_value(v) > INT32_MAX)
        return lm_err_set(e, LM_MALFORMED, "config.json: %s of quantization_config is not a whole number", key);
    *out = (int)json_integer_value(v);
    return 0;
}

/* ---- asking */

static bool has_method(const struct lmi_packing *s, const char *method)
{
    for (int i = 0; i < 4 && s->methods[i]; i++)
        if (strcmp(s->methods[i], method) == 0 || (!*s->methods[i] && strcmp(method, "gguf") != 0))
            return true;
    return false;
}

/* Size, place and the rest of what a scheme has described. */
static int complete(const struct lm_tensor *t, struct lm_packed *p, struct lm_tensor *whole, struct lm_err *e)
{
    if (lmi_tensor_measure(lm_span_str(whole->name), whole->dtype, whole->shape, whole->n_dims, &whole->n_elems,
                           &whole->n_bytes, e) < 0)
        return -1;
    whole->file = t->file;
    whole->offset = t->offset;
    whole->packed = p;
    p->cols = whole->n_dims ? whole->shape[whole->n_dims - 1] : 1;
    if (p->meant == LM_N_DTYPES)
        p->meant = p->scales && (p->scales->dtype == LM_F16 || p->scales->dtype == LM_BF16) ? p->scales->dtype : LM_F32;
    return 0;
}

static int ask(struct lmi_finder *f, const struct lm_tensor *t, const struct lmi_packing *how, struct lm_err *e)
{
    struct lm_packed p = {.how = how, .of = {t}, .n_of = 1, .outer = 1, .meant = f->meant, .factor = 1}, *own;
    struct lm_tensor whole = {.dtype = LM_F32};
    int rc = how->claim(f, t, &p, &whole, e);

    if (rc <= 0)
        return rc;
    if (!(own = lm_arena_alloc(&f->m->arena, sizeof *own)))
        return lmi_nomem(e);
    *own = p;
    if (complete(t, own, &whole, e) < 0)
        return -1;
    f->taken[place_of(f, t)] = true;
    f->whole[place_of(f, t)] = whole;
    return 1;
}

static int ask_all(struct lmi_finder *f, struct lm_err *e)
{
    for (size_t i = 0; i < f->m->n_tensors; i++)
        for (size_t k = 0; k < N_SCHEMES && !f->taken[i]; k++)
            if (has_method(schemes[k], f->method) && ask(f, &f->m->tensors[i], schemes[k], e) < 0)
                return -1;
    return 0;
}

/* ---- what is left over */

/* Scales of activations and of the cache are no part of a weight; a checkpoint of
 * weights can do without them. */
static bool is_activation(const char *name)
{
    static const char *const ends[] = {".input_scale", ".activation_scale", ".output_scale", ".k_scale", ".v_scale",
                                       ".q_scale", ".kv_scale", ".input_global_scale", ".input_zero_point",
                                       ".output_zero_point", ".k_zero_point", ".v_zero_point", ".k_proj.output_scale",
                                       "_input_scale", "_activation_scale", ".weight_format", ".prob_output_scale"};

    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (lmi_ends(name, ends[i]))
            return true;
    return false;
}

static bool is_part(const char *name)
{
    static const char *const ends[] = {".qweight", ".qzeros", ".scales", ".g_idx", ".weight_packed", ".weight_scale",
                                       ".weight_scale_inv", ".weight_zero_point", ".weight_shape", ".weight_g_idx",
                                       ".weight_global_scale", ".weight_scale_2", ".absmax", ".quant_map",
                                       ".nested_absmax", ".nested_quant_map", ".SCB", "_blocks", "_scale_inv"};

    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (lmi_ends(name, ends[i]))
            return true;
    return false;
}

static int check_rest(struct lmi_finder *f, struct lm_err *e)
{
    static const char why[] = "a scale of activations or of the cache, no part of a weight";

    for (size_t i = 0; strcmp(f->method, "gguf") != 0 && i < f->m->n_tensors; i++) {
        struct lm_tensor *t = &f->m->tensors[i];
        if (f->taken[i])
            continue;
        if (*f->method && is_activation(t->name)) {
            f->taken[i] = true;
            if (lmi_model_leave_out(f->m, lm_span_str(t->name), lm_span_str(why), false, e) < 0)
                return -1;
        } else if (*f->method && is_part(t->name)) {
            return lm_err_set(e, LM_MISSING, "tensor '%s' is part of a quantized weight whose other parts are missing or "
                              "not of the method \"%s\" that config.json names", t->name, f->method);
        }
    }
    return 0;
}

static bool any_taken(const struct lmi_finder *f)
{
    for (size_t i = 0; i < f->m->n_tensors; i++)
        if (f->taken[i])
            return true;
    return false;
}

/* The list of wholes and of what belongs to none. */
static int replace(struct lmi_finder *f, struct lm_err *e)
{
    struct lm_model *m = f->m;
    struct lm_tensor *shown = calloc(m->n_tensors + 1, sizeof *shown);
    struct lm_map *by_name = lm_map_new(m->n_tensors);
    size_t n = 0;
    int put = 1;

    for (size_t i = 0; shown && by_name && put == 1 && i < m->n_tensors; i++) {
        if (f->taken[i] && !f->whole[i].packed)
            continue;
        shown[n] = f->taken[i] ? f->whole[i] : m->tensors[i];
        put = lm_map_put(by_name, lm_span_str(shown[n].name), n);
        n++;
    }
    if (!shown || !by_name || put != 1) {
        lm_map_free(by_name);
        if (put == 0)
            lm_err_set(e, LM_MALFORMED, "tensor '%s' is there twice", shown[n - 1].name);
        free(shown);
        return put == 0 ? -1 : lmi_nomem(e);
    }
    lm_map_free(m->by_name);
    m->by_name = by_name;
    m->stored = m->tensors;
    m->n_stored = m->n_tensors;
    m->tensors = shown;
    m->n_tensors = n;
    m->tensors_capacity = m->n_stored + 1;
    return 0;
}

/* ---- the configuration */

static bool is_known(const char *method)
{
    for (size_t k = 0; k < N_SCHEMES; k++)
        for (int i = 0; i < 4 && schemes[k]->methods[i]; i++)
            if (strcmp(schemes[k]->methods[i], method) == 0)
                return true;
    return false;
}

/* What older versions of the libraries called it. */
static const char *method_of(const json_t *q)
{
    const char *s = json_string_value(json_object_get(q, "quant_method"));

    if (!json_is_object(q))
        return "";
    if (s && strcmp(s, "modelopt_fp4") == 0)
        return "modelopt";
    if (!s && (json_is_true(json_object_get(q, "load_in_4bit")) || json_is_true(json_object_get(q, "load_in_8bit"))))
        return "bitsandbytes";
    return s ? s : "";
}

static enum lm_dtype dtype_of(const json_t *root)
{
    static const struct { const char *name; enum lm_dtype d; } names[] = {
        {"float32", LM_F32}, {"float16", LM_F16}, {"bfloat16", LM_BF16}};
    const char *s = json_string_value(json_object_get(root, json_object_get(root, "dtype") ? "dtype" : "torch_dtype"));

    for (size_t i = 0; s && i < sizeof names / sizeof *names; i++)
        if (strcmp(s, names[i].name) == 0)
            return names[i].d;
    return LM_N_DTYPES;
}

static int find(struct lmi_finder *f, struct lm_err *e)
{
    f->method = f->method ? f->method : method_of(f->config);
    if (f->config && !is_known(f->method))
        return lm_err_set(e, LM_UNSUPPORTED, "config.json: weights quantized by \"%s\" are not read (awq, bitsandbytes, "
                          "compressed-tensors, fbgemm_fp8, fp8, gptq, modelopt and mxfp4 are)", f->method);
    if (strcmp(f->method, "compressed-tensors") == 0 && lmi_groups_read(f, e) < 0)
        return -1;
    if (ask_all(f, e) < 0 || check_rest(f, e) < 0)
        return -1;
    return any_taken(f) ? replace(f, e) : 0;
}

static int find_in(struct lmi_finder *f, struct lm_err *e)
{
    struct lm_err why = {0};
    size_t n = f->m->n_tensors;
    int rc = 0;

    f->taken = calloc(n + 1, sizeof *f->taken);
    f->whole = calloc(n + 1, sizeof *f->whole);
    if (!f->taken || !f->whole)
        rc = lmi_nomem(e);
    else if (find(f, &why) < 0) {
        rc = why.code == LM_NOMEM ? lmi_nomem(e) : 0;
        f->m->refused = lm_arena_str(&f->m->arena, lm_span_str(why.text));
        if (!f->m->refused)
            rc = lmi_nomem(e);
    }
    free(f->taken);
    free(f->whole);
    lmi_groups_free(f->groups);
    return rc;
}

/* GGUF has types of its own, of which one has a scale outside. */
int lmi_packed_find(struct lm_model *m, bool values, struct lm_err *e)
{
    struct lmi_finder f = {.m = m, .values = values};
    struct lm_span text;
    struct lm_err bad;
    json_t *root = NULL;
    int rc;

    if (m->n_tensors == 0)
        return 0;
    if (lm_meta_get(m->meta, "general.architecture")) {
        f.method = "gguf";
        f.meant = LM_N_DTYPES;
        return find_in(&f, e);
    }
    /* A config.json that cannot be read is for whoever needs it to say. */
    if (lm_model_sidecar(m, "config.json", &text, &bad) == 1)
        root = lm_json_parse(text, "config.json", &bad);
    f.config = json_object_get(root, "quantization_config");
    if (!json_is_object(f.config))
        f.config = NULL;
    f.meant = dtype_of(root);
    rc = find_in(&f, e);
    json_decref(root);
    return rc;
}

int lmi_packed_ready(struct lm_model *m, struct lm_err *e)
{
    for (size_t i = 0; m->stored && i < m->n_tensors; i++) {
        const struct lm_packed *p = m->tensors[i].packed;
        if (p && p->how->ready && p->how->ready(p, m->tensors[i].name, e) < 0)
            return -1;
    }
    return 0;
}
