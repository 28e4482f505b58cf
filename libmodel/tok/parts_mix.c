/* A vocabulary with parts of another, for experiments. */
#include <stdlib.h>

#include "libmodel/tok/parts.h"
#include "libmodel/tok/pipeline.h"

/* ---- a copy that owns its lists and borrows the rest */

static void *copy_array(const void *from, size_t n, size_t size)
{
    void *p = malloc(n * size + 1);

    if (p && n > 0)
        memcpy(p, from, n * size);
    return p;
}

static struct lmi_vocab *copy_of(const struct lmi_vocab *from)
{
    struct lmi_vocab *v = lmi_vocab_new();

    if (!v)
        return NULL;
    *v = *from;
    v->arena = (struct lm_arena){0};
    v->texts = (struct lmi_texts){0};
    v->pipeline = NULL;
    v->staged = v->chained = false;
    v->pieces = copy_array(from->v.pieces, from->v.n_pieces, sizeof *v->pieces);
    v->capacity = from->v.n_pieces;
    v->merges = copy_array(from->v.merges, from->v.n_merges, sizeof *v->merges);
    v->scores = from->scores ? copy_array(from->scores, from->n_scores, sizeof *v->scores) : NULL;
    v->v.pieces = v->pieces;
    v->v.merges = v->merges;
    if (v->pieces && v->merges && (v->scores || !from->scores))
        return v;
    lm_vocab_free(&v->v);
    return NULL;
}

/* ---- stages of a tokenizer.json */

static json_t *load(struct lm_span s)
{
    return s.size ? json_loadb((const char *)s.data, s.size, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
}

/* Back to what it was before the stages were read: their meaning in settings is
 * found anew. */
static void forget_stages(struct lmi_vocab *v)
{
    if (v->v.algo == LM_VOCAB_BYTE_BPE || v->v.algo == LM_VOCAB_SPM_BPE)
        v->v.algo = LM_VOCAB_BPE;
    v->v.pre = "";
    v->v.pre_pattern = lm_span_of(NULL, 0);
    v->v.nfc = v->v.add_prefix_space = v->v.add_dummy_prefix = v->v.prefix_every_part = v->v.escape_whitespaces = false;
    v->metaspace = v->ranked = false;
    for (size_t i = 0; i < v->v.n_pieces; i++)
        if (v->pieces[i].kind == LM_PIECE_BYTE)
            v->pieces[i].kind = LM_PIECE_NORMAL;
}

static int read_stages(struct lmi_vocab *v, struct lm_err *e)
{
    json_t *normalizer = load(v->v.normalizer), *pre = load(v->v.pre_tokenizer), *decoder = load(v->v.decoder);
    struct lmi_stages s = {normalizer, pre, NULL, decoder};

    forget_stages(v);
    int rc = lmi_hf_stages(v, &s, e);
    json_decref(normalizer);
    json_decref(pre);
    json_decref(decoder);
    return rc;
}

/* The fast engines go by settings alone; only what they cannot do is run stage
 * by stage. */
static bool needs_stages(const struct lmi_vocab *v)
{
    return v->pipeline && (v->staged || v->chained);
}

/* ---- mixing */

/* Pieces first: what follows carries ids over by their text. */
static int take_all(struct lmi_vocab *v, const struct lmi_vocab *from, uint64_t set, struct lm_err *e)
{
    for (size_t i = lm_vocab_n_parts(); i-- > 0;)
        if (set >> i & 1 && lmi_part_at(i)->take(v, from, e) < 0)
            return -1;
    return 0;
}

static bool takes_algorithm(uint64_t set)
{
    for (size_t i = 0; i < lm_vocab_n_parts(); i++)
        if (set >> i & 1 && strcmp(lm_vocab_part_name(i), "algorithm") == 0)
            return true;
    return false;
}

int lm_vocab_mix(struct lm_vocab **out, const struct lm_vocab *base, const struct lm_vocab *from, uint64_t set,
                 struct lm_err *e)
{
    const struct lmi_vocab *b = lmi_vocab_of(base), *f = lmi_vocab_of(from);
    struct lmi_vocab *v = copy_of(b);
    bool stages = takes_algorithm(set) ? needs_stages(f) : b->pipeline && (needs_stages(b) || needs_stages(f));

    *out = NULL;
    if (!v)
        return lmi_nomem_vocab(e);
    if (lmi_vocab_index(v, e) < 0 || take_all(v, f, set, e) < 0 || lmi_vocab_index(v, e) < 0 ||
        (stages && read_stages(v, e) < 0) || lmi_vocab_finish(v, e) < 0) {
        lm_vocab_free(&v->v);
        return -1;
    }
    *out = &v->v;
    return 0;
}

/* ---- is it only the prefix? */

/* The stage without what puts a space or U+2581 in front of a text. */
static json_t *without_prefix(const json_t *v, int depth)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    json_t *copy, *item;
    const char *key;
    size_t i;

    if (depth > 16 || (type && strcmp(type, "Prepend") == 0))
        return NULL;
    if (json_is_array(v)) {
        copy = json_array();
        json_array_foreach((json_t *)(uintptr_t)v, i, item) {
            json_t *kept = without_prefix(item, depth + 1);
            if (kept)
                json_array_append_new(copy, kept);
        }
        return copy;
    }
    if (!json_is_object(v))
        return json_deep_copy(v);
    copy = json_object();
    json_object_foreach((json_t *)(uintptr_t)v, key, item) {
        json_t *kept = without_prefix(item, depth + 1);
        bool prefix = strcmp(key, "prepend_scheme") == 0 || strcmp(key, "add_prefix_space") == 0;
        if (kept && !prefix)
            json_object_set_new(copy, key, kept);
        else
            json_decref(kept);
    }
    return copy;
}

static bool only_prefix_differs(struct lm_span a, struct lm_span b)
{
    json_t *x = load(a), *y = load(b), *p = without_prefix(x, 0), *q = without_prefix(y, 0);
    bool same = p && q ? json_equal(p, q) : p == q;

    json_decref(x);
    json_decref(y);
    json_decref(p);
    json_decref(q);
    return same && !lm_span_eq(a, b);
}

enum lm_tok_stage lm_vocab_difference_stage(const struct lm_vocab *a, const struct lm_vocab *b, size_t part)
{
    enum lm_tok_stage stage = lm_vocab_part_stage(part);
    const char *name = lm_vocab_part_name(part);

    if (strcmp(name, "normalizer") == 0 && only_prefix_differs(a->normalizer, b->normalizer))
        return LM_STAGE_PREFIX;
    if (strcmp(name, "pre_tokenizer") == 0 && only_prefix_differs(a->pre_tokenizer, b->pre_tokenizer))
        return LM_STAGE_PREFIX;
    return stage;
}
