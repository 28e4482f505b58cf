/* Configuration, metadata and tokenizer, compared. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "convert/diff_values.h"
#include "convert/plan.h"
#include "libmodel/vocab_parts.h"

enum { SHOWN = 200, MAX_PIECES_SHOWN = 8 };

static int add_note(struct lm_diff *d, const char *where, const char *key, const char *a, const char *b)
{
    struct lm_diff_note *bigger = reallocarray(d->notes, d->n_notes + 1, sizeof *bigger);

    if (!bigger)
        return -1;
    d->notes = bigger;
    d->notes[d->n_notes++] = (struct lm_diff_note){where, lm_arena_str(&d->arena, lm_span_str(key)), a, b};
    return 0;
}

static const char *cut(struct lm_diff *d, struct lm_span s)
{
    if (s.size > SHOWN)
        return lmc_print(&d->arena, "%.*s… (%zu bytes)", SHOWN, (const char *)s.data, s.size);
    return lm_arena_str(&d->arena, s);
}

/* ---- hyper-parameters, through struct lm_config: containers do not matter */

#define U32(f) {#f, offsetof(struct lm_config, f), 'u'}
#define REAL(f) {#f, offsetof(struct lm_config, f), 'd'}
#define BOOL(f) {#f, offsetof(struct lm_config, f), 'b'}
#define ID(f) {#f, offsetof(struct lm_config, f), 'i'}
static const struct field { const char *name; size_t offset; char type; } fields[] = {
    U32(n_layers), U32(d_model), U32(d_ff), U32(n_heads), U32(n_kv_heads), U32(d_head), U32(d_rope), U32(vocab_size),
    U32(ctx_len), U32(sliding_window), REAL(norm_eps), U32(act), BOOL(tied), BOOL(attn_bias), BOOL(mlp_bias),
    REAL(rope_theta), REAL(rope_factor), ID(bos_id), ID(eos_id), ID(pad_id),
};

static double field_value(const struct lm_config *c, const struct field *f)
{
    const char *p = (const char *)c + f->offset;

    switch (f->type) {
    case 'u': return *(const uint32_t *)(const void *)p;
    case 'd': return *(const double *)(const void *)p;
    case 'b': return *(const bool *)(const void *)p;
    default: return (double)*(const int64_t *)(const void *)p;
    }
}

/* GGUF stores f32. */
static bool equal_value(double a, double b)
{
    return a == b || (float)a == (float)b;
}

static int config_notes(struct lm_diff *d, struct lm_model *ma, struct lm_model *mb)
{
    struct lm_config a, b;
    struct lm_err ignored;

    if (lm_config_read(&a, ma, NULL, &ignored) != 1 || lm_config_read(&b, mb, NULL, &ignored) != 1)
        return 0;
    if (a.arch != b.arch)
        return add_note(d, "config", "architecture", a.arch->name, b.arch->name);
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        double x = field_value(&a, &fields[i]), y = field_value(&b, &fields[i]);
        /* -1: the container does not say; attention biases are seen in the tensors. */
        if (equal_value(x, y) || (fields[i].type == 'i' && (x < 0 || y < 0)) || fields[i].type == 'b')
            continue;
        if (add_note(d, "config", fields[i].name, lmc_print(&d->arena, "%.9g", x), lmc_print(&d->arena, "%.9g", y)))
            return -1;
    }
    return 0;
}

/* ---- config.json, key by key, where both have one */

static const char *json_text(struct lm_diff *d, const json_t *v)
{
    char *text = v ? json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(9)) : NULL;
    const char *kept = text ? cut(d, lm_span_str(text)) : NULL;

    free(text);
    return kept;
}

/* lone: where keys go of which one side says nothing. */
static int json_notes(struct lm_diff *d, json_t *a, json_t *b, const char *lone)
{
    const char *key;
    json_t *v;

    json_object_foreach(a, key, v) {
        const json_t *other = json_object_get(b, key);
        bool said = other && !json_is_null(v) && !json_is_null(other);
        if (!json_equal(v, other) && add_note(d, said ? "config" : lone, key, json_text(d, v), json_text(d, other)))
            return -1;
    }
    json_object_foreach(b, key, v)
        if (!json_object_get(a, key) && add_note(d, lone, key, NULL, json_text(d, v)))
            return -1;
    return 0;
}

static json_t *load_config(struct lm_model *m)
{
    struct lm_span text;
    struct lm_err ignored;

    if (lm_model_sidecar(m, "config.json", &text, &ignored) != 1)
        return NULL;
    return json_loadb((const char *)text.data, text.size, JSON_REJECT_DUPLICATES, NULL);
}

/* ---- container metadata, where both have the same container */

static bool same_value(const struct lm_meta_value *a, const struct lm_meta_value *b)
{
    if (a->type != b->type)
        return false;
    if (a->type == LM_META_STR)
        return lm_span_eq(a->str, b->str);
    if (a->type != LM_META_ARRAY)
        return a->type == LM_META_F32 || a->type == LM_META_F64 ? a->f == b->f : a->u == b->u;
    if (a->elem != b->elem || a->n != b->n)
        return false;
    if (a->elem != LM_META_STR)
        return a->n == 0 || memcmp(a->data, b->data, a->n * lm_meta_width(a->elem)) == 0;
    for (size_t i = 0; i < a->n; i++)
        if (!lm_span_eq(a->strs[i], b->strs[i]))
            return false;
    return true;
}

static const char *value_text(struct lm_diff *d, const struct lm_meta_value *v)
{
    if (!v)
        return NULL;
    switch (v->type) {
    case LM_META_STR: return cut(d, v->str);
    case LM_META_ARRAY: return lmc_print(&d->arena, "%zu of %s", v->n, lm_meta_type_name(v->elem));
    case LM_META_F32:
    case LM_META_F64: return lmc_print(&d->arena, "%.9g", v->f);
    case LM_META_BOOL: return v->u ? "true" : "false";
    case LM_META_I8:
    case LM_META_I16:
    case LM_META_I32:
    case LM_META_I64: return lmc_print(&d->arena, "%lld", (long long)v->i);
    default: return lmc_print(&d->arena, "%llu", (unsigned long long)v->u);
    }
}

static int meta_notes(struct lm_diff *d, const struct lm_meta *a, const struct lm_meta *b)
{
    const char *key;

    for (size_t i = 0; i < lm_meta_count(a); i++) {
        const struct lm_meta_value *v = lm_meta_at(a, i, &key), *other = lm_meta_get(b, key);
        if (!(other && same_value(v, other)) && add_note(d, "metadata", key, value_text(d, v), value_text(d, other)))
            return -1;
    }
    for (size_t i = 0; i < lm_meta_count(b); i++) {
        const struct lm_meta_value *v = lm_meta_at(b, i, &key);
        if (!lm_meta_get(a, key) && add_note(d, "metadata", key, NULL, value_text(d, v)))
            return -1;
    }
    return 0;
}

/* ---- tokenizers */

static const char *number(struct lm_diff *d, int64_t v)
{
    return lmc_print(&d->arena, "%lld", (long long)v);
}

static int count_note(struct lm_diff *d, const char *key, int64_t a, int64_t b)
{
    return a == b ? 0 : add_note(d, "tokenizer", key, number(d, a), number(d, b));
}

static bool padding(const struct lm_piece *p)
{
    return p->kind == LM_PIECE_UNUSED;
}

static int piece_notes(struct lm_diff *d, const struct lm_vocab *a, const struct lm_vocab *b)
{
    size_t n = a->n_pieces > b->n_pieces ? a->n_pieces : b->n_pieces, shown = 0, texts = 0, kinds = 0;

    for (size_t i = 0; i < n; i++) {
        const struct lm_piece *x = i < a->n_pieces ? &a->pieces[i] : NULL, *y = i < b->n_pieces ? &b->pieces[i] : NULL;
        if ((!x && padding(y)) || (!y && padding(x)))
            continue; /* rows without a piece, which converters fill up */
        if (x && y && lm_span_eq(x->text, y->text)) {
            kinds += x->kind != y->kind;
            continue;
        }
        texts++;
        if (shown++ < MAX_PIECES_SHOWN &&
            add_note(d, "tokenizer", lmc_print(&d->arena, "piece %zu", i), x ? cut(d, x->text) : NULL, y ? cut(d, y->text) : NULL))
            return -1;
    }
    if (texts > MAX_PIECES_SHOWN && add_note(d, "tokenizer", "pieces that differ, in all", "", number(d, (int64_t)texts)))
        return -1;
    return kinds ? add_note(d, "tokenizer", "pieces of another kind", "", number(d, (int64_t)kinds)) : 0;
}

static int vocab_notes(struct lm_diff *d, const struct lm_vocab *a, const struct lm_vocab *b)
{
    if (a->algo != b->algo)
        return add_note(d, "tokenizer", "algorithm", lm_vocab_algo_name(a->algo), lm_vocab_algo_name(b->algo));
    if (count_note(d, "bos_id", a->bos_id, b->bos_id) || count_note(d, "eos_id", a->eos_id, b->eos_id) ||
        count_note(d, "add_bos", a->add_bos, b->add_bos) || count_note(d, "add_eos", a->add_eos, b->add_eos) ||
        (a->algo == LM_VOCAB_BYTE_BPE && count_note(d, "merges", (int64_t)a->n_merges, (int64_t)b->n_merges)))
        return -1;
    if (!lm_span_eq(a->pre_pattern, b->pre_pattern) &&
        add_note(d, "tokenizer", "pre-tokenizer", cut(d, a->pre_pattern), cut(d, b->pre_pattern)))
        return -1;
    if (!lm_span_eq(a->chat_template, b->chat_template) &&
        add_note(d, "tokenizer", "chat_template", a->chat_template.size ? cut(d, a->chat_template) : NULL,
                 b->chat_template.size ? cut(d, b->chat_template) : NULL))
        return -1;
    return piece_notes(d, a, b);
}

static int tokenizer_notes(struct lm_diff *d, struct lm_model *ma, struct lm_model *mb)
{
    struct lm_vocab *a = NULL, *b = NULL;
    struct lm_err ea = {0}, eb = {0};
    int ra = lm_vocab_of_model(&a, ma, &ea), rb = lm_vocab_of_model(&b, mb, &eb), rc = 0;
    const char *sa = ra > 0 ? a->source : ra < 0 ? ea.text : NULL, *sb = rb > 0 ? b->source : rb < 0 ? eb.text : NULL;

    if (ra > 0 && rb > 0)
        rc = vocab_notes(d, a, b);
    else if (sa || sb)
        rc = add_note(d, "tokenizer", "source", sa ? cut(d, lm_span_str(sa)) : NULL, sb ? cut(d, lm_span_str(sb)) : NULL);
    lm_vocab_free(a);
    lm_vocab_free(b);
    return rc;
}

int lmc_diff_notes(struct lm_diff *d, struct lm_model *a, struct lm_model *b, struct lm_err *e)
{
    json_t *ja = load_config(a), *jb = load_config(b);
    size_t before = d->n_notes;
    int rc = config_notes(d, a, b);

    if (rc == 0 && json_is_object(ja) && json_is_object(jb)) {
        /* What a converter leaves out or writes besides is no other model where all that counts is equal. */
        bool equal = d->arch_a && d->arch_b && d->n_notes == before;
        d->n_notes = before;
        rc = json_notes(d, ja, jb, equal ? "metadata" : "config");
    }

    json_decref(ja);
    json_decref(jb);
    if (rc == 0 && lm_model_format(a) == lm_model_format(b))
        rc = meta_notes(d, lm_model_meta(a), lm_model_meta(b));
    if (rc == 0)
        rc = tokenizer_notes(d, a, b);
    return rc ? lmc_nomem(e) : 0;
}
