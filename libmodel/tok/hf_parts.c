/* Added tokens and post-processor of tokenizer.json: data of the vocabulary. */
#include <stdlib.h>

#include "libmodel/tok/build.h"
#include "libmodel/tok/pipeline.h"

static const char *type_of(const json_t *v)
{
    const char *s = json_string_value(json_object_get(v, "type"));

    return s ? s : "without a type";
}

static bool is(const json_t *v, const char *type)
{
    return strcmp(type_of(v), type) == 0;
}

/* Tokenizers' booleans are often absent and then true. */
static bool flag(const json_t *v, const char *key, bool absent)
{
    const json_t *f = json_object_get(v, key);

    return json_is_boolean(f) ? json_is_true(f) : absent;
}

/* ---- added tokens */

int lmi_hf_added_token(struct lmi_vocab *b, size_t id, const json_t *object, struct lm_err *e)
{
    struct lm_span content = lm_json_span(json_object_get(object, "content"));

    if (content.size == 0)
        return lm_err_set(e, LM_MALFORMED, "added token %zu has no content", id);
    struct lm_piece *p = lmi_vocab_piece(b, id);
    struct lm_span text = p ? lmi_vocab_copy(b, content) : (struct lm_span){NULL, 0};
    if (!text.data)
        return lmi_nomem_vocab(e);
    bool special = flag(object, "special", false), same = lm_span_eq(p->text, content);
    p->in_model = same && p->in_model;
    p->text = text;
    /* <unk> and <0x41> stay what the model says they are. */
    if (!same || (p->kind != LM_PIECE_UNKNOWN && p->kind != LM_PIECE_BYTE))
        p->kind = special ? LM_PIECE_CONTROL : LM_PIECE_USER_DEFINED;
    p->added = true;
    p->special = special;
    p->lstrip = flag(object, "lstrip", false);
    p->rstrip = flag(object, "rstrip", false);
    p->single_word = flag(object, "single_word", false);
    p->normalized = flag(object, "normalized", !special);
    return 0;
}

int lmi_hf_added_tokens(struct lmi_vocab *b, const json_t *list, struct lm_err *e)
{
    json_int_t limit = 2 * (json_int_t)(b->v.n_pieces + json_array_size(list)) + 4096;

    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *t = json_array_get(list, i), *value = json_object_get(t, "id");
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= limit)
            return lm_err_set(e, LM_MALFORMED, "the id of added token %zu is no number from 0 to %lld", i,
                              (long long)limit - 1);
        bool taken = (size_t)id < b->v.n_pieces && b->pieces[id].text.data &&
                     !lm_span_eq(b->pieces[id].text, lm_json_span(json_object_get(t, "content")));
        if (taken)
            return lm_err_set(e, LM_MALFORMED, "added token %zu has the id %lld, which another piece has", i, (long long)id);
        if (lmi_hf_added_token(b, (size_t)id, t, e) < 0)
            return -1;
    }
    return 0;
}

/* ---- post-processor */

enum { MAX_FRAME = 64 };

/* The ids in front of and behind a text. */
struct frame {
    int32_t before[MAX_FRAME], after[MAX_FRAME];
    size_t n_before, n_after;
    bool taken;
    struct lmi_vocab *b;
    struct lm_err *e;
};

/* Of two that add tokens the library gives the second each token of the first as
 * a text of its own: nobody means that. */
static int only_once(struct frame *f, const json_t *post)
{
    if (f->taken)
        return lm_err_set(f->e, LM_UNSUPPORTED, "the post-processor %s adds tokens to those of another one, which is "
                                                "not handled", type_of(post));
    f->taken = true;
    return 0;
}

static int put_id(struct frame *f, bool after, const json_t *value)
{
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    size_t *n = after ? &f->n_after : &f->n_before;

    if (id < 0 || (uint64_t)id >= f->b->v.n_pieces)
        return lm_err_set(f->e, LM_MALFORMED, "the post-processor adds id %lld, but the vocabulary has %zu pieces",
                          (long long)id, f->b->v.n_pieces);
    if (*n == MAX_FRAME)
        return lm_err_set(f->e, LM_LIMIT, "the post-processor adds more than %d tokens", MAX_FRAME);
    (after ? f->after : f->before)[(*n)++] = (int32_t)id;
    return 0;
}

static int put_special(struct frame *f, const json_t *post, const json_t *item, bool after)
{
    const char *name = json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
    const json_t *ids = json_object_get(name ? json_object_get(json_object_get(post, "special_tokens"), name) : NULL, "ids");

    if (json_array_size(ids) == 0)
        return lm_err_set(f->e, LM_UNSUPPORTED, "the post-processor's special token '%s' has no ids", name ? name : "?");
    for (size_t i = 0; i < json_array_size(ids); i++)
        if (put_id(f, after, json_array_get(ids, i)) < 0)
            return -1;
    return 0;
}

static int template_processing(struct frame *f, const json_t *post)
{
    const json_t *single = json_object_get(post, "single");
    size_t n_texts = 0;

    if (only_once(f, post) < 0)
        return -1;

    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        if (json_object_get(item, "Sequence"))
            n_texts++;
        else if (put_special(f, post, item, n_texts > 0) < 0)
            return -1;
    }
    if (n_texts != 1)
        return lm_err_set(f->e, LM_UNSUPPORTED, "the post-processor's template holds the text %zu times, expected once", n_texts);
    return 0;
}

/* RoBERTa's and BERT's: cls text sep, as pairs [text, id]. */
static int pair_processing(struct frame *f, const json_t *post)
{
    const json_t *cls = json_array_get(json_object_get(post, "cls"), 1);
    const json_t *sep = json_array_get(json_object_get(post, "sep"), 1);

    if (only_once(f, post) < 0)
        return -1;
    if (!json_is_integer(cls) || !json_is_integer(sep))
        return lm_err_set(f->e, LM_MALFORMED, "the post-processor %s has no ids", type_of(post));
    return put_id(f, false, cls) < 0 ? -1 : put_id(f, true, sep);
}

static void note_trim(struct lmi_vocab *b, const json_t *post)
{
    b->trim_offsets = flag(post, "trim_offsets", true);
    b->trim_keeps_prefix = flag(post, "add_prefix_space", true);
}

static int one_post(struct frame *f, const json_t *post)
{
    if (is(post, "ByteLevel")) {
        note_trim(f->b, post);
        return 0;
    }
    if (is(post, "TemplateProcessing"))
        return template_processing(f, post);
    if (is(post, "RobertaProcessing"))
        note_trim(f->b, post);
    if (is(post, "RobertaProcessing") || is(post, "BertProcessing"))
        return pair_processing(f, post);
    return lm_err_set(f->e, LM_UNSUPPORTED, "the post-processor %s is not handled", type_of(post));
}

static const int32_t *keep_ids(struct lmi_vocab *b, const int32_t *ids, size_t n)
{
    int32_t *copy = lm_arena_array(&b->arena, n + 1, sizeof *copy);

    if (copy)
        memcpy(copy, ids, n * sizeof *ids);
    return copy;
}

/* One id on each side is BOS and EOS; more are a list beside them. */
static int use_frame(const struct frame *f)
{
    struct lm_vocab *v = &f->b->v;

    v->add_bos = f->n_before > 0;
    v->add_eos = f->n_after > 0;
    if (f->n_before)
        v->bos_id = f->before[0];
    if (f->n_after)
        v->eos_id = f->after[f->n_after - 1];
    if (f->n_before <= 1 && f->n_after <= 1)
        return 0;
    v->prefix_ids = keep_ids(f->b, f->before, f->n_before);
    v->suffix_ids = keep_ids(f->b, f->after, f->n_after);
    v->n_prefix_ids = f->n_before;
    v->n_suffix_ids = f->n_after;
    return v->prefix_ids && v->suffix_ids ? 0 : lmi_nomem_vocab(f->e);
}

int lmi_hf_post_processor(struct lmi_vocab *b, const json_t *post, struct lm_err *e)
{
    struct frame f = {.b = b, .e = e};
    const json_t *list = json_object_get(post, "processors");

    if (!post || json_is_null(post))
        return 0;
    if (!is(post, "Sequence"))
        return one_post(&f, post) < 0 ? -1 : use_frame(&f);
    for (size_t i = 0; i < json_array_size(list); i++)
        if (one_post(&f, json_array_get(list, i)) < 0)
            return -1;
    return use_frame(&f);
}
